//! Virtual addresses: which there are, and where they should be.
//!
//! Not here: who holds one ([`crate::lease`]), and on which interface a node has it, which is a matter of that node.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::config::Span;

/// A virtual address: at most one node answers for it at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// Its name, unique in the document.
    pub name: String,
    /// IPv4 and IPv6 addresses; they move together. Each with the prefix length of its network, or without one: then it
    /// is put on the interface as a single address (`/32`, `/128`). Each is one host's: not the network's own nor its
    /// broadcast address, and no IPv6 link-local one.
    #[schemars(length(min = 1))]
    pub addresses: Vec<VipAddress>,
    /// Nodes that should hold it, best first. Spread over all nodes by their weights otherwise.
    #[serde(default)]
    pub prefer: Vec<String>,
    /// Whether it returns to a better node by itself.
    #[serde(default)]
    pub failback: Failback,
    /// For how long a node must have been heard without a gap before the VIP returns to it by itself, or is moved there
    /// to be with its group or away from what it is to be apart from: 0s to 1d.
    #[serde(default = "default_failback_delay")]
    pub failback_delay: Span,
    /// VIPs of one group are always placed on the same node and move together.
    #[serde(default)]
    pub group: Option<String>,
    /// VIPs that should be at other nodes than this one. A preference: with too few nodes they share one, and no VIP is
    /// without a node because of it.
    #[serde(default)]
    pub apart_from: Vec<String>,
    /// Only nodes that carry all these labels may hold it; all nodes may when empty.
    #[serde(default)]
    pub nodes: BTreeMap<String, String>,
}

fn default_failback_delay() -> Span {
    Span::from_secs(30)
}

/// Whether a VIP returns to a better node by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failback {
    /// It stays where it is until the holder fails or an operator moves it.
    #[default]
    Never,
    /// It returns once the better node has been heard for `failback_delay`. A node that comes and goes more slowly than
    /// that takes it each time.
    Automatic,
}

/// An address of a VIP, written `10.0.0.100`, or `10.0.0.100/24` with the prefix length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VipAddress {
    ip: IpAddr,
    prefix: Option<u8>,
}

impl VipAddress {
    /// An address as it is put on an interface; nothing if the prefix is longer than the address.
    pub fn new(ip: IpAddr, prefix: Option<u8>) -> Option<Self> {
        prefix.is_none_or(|prefix| prefix <= width(ip)).then_some(Self { ip, prefix })
    }

    /// The address alone.
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// The prefix length as written.
    pub const fn prefix(self) -> Option<u8> {
        self.prefix
    }

    /// The prefix length with which it is put on an interface: as written, or that of a single address.
    pub const fn prefix_len(self) -> u8 {
        match self.prefix {
            Some(prefix) => prefix,
            None => width(self.ip),
        }
    }
}

const fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl From<IpAddr> for VipAddress {
    fn from(ip: IpAddr) -> Self {
        Self { ip, prefix: None }
    }
}

impl fmt::Display for VipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for VipAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!("{text:?} is not an address; write 10.0.0.100, 10.0.0.100/24, 2001:db8::100 or 2001:db8::100/64")
        };
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => {
                let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
                (ip, Some(prefix.parse().ok().filter(|_| digits).ok_or_else(error)?))
            }
            None => (text, None),
        };
        Self::new(ip.parse().map_err(|_| error())?, prefix).ok_or_else(error)
    }
}

impl TryFrom<String> for VipAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<VipAddress> for String {
    fn from(address: VipAddress) -> Self {
        address.to_string()
    }
}

impl JsonSchema for VipAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VipAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "vip-address",
            "description": "An IP address, with or without the prefix length of its network.",
            "pattern": "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$",
            "examples": ["10.0.0.100", "10.0.0.100/24", "2001:db8::100/64"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for (text, prefix, len) in [
            ("10.0.0.100", None, 32),
            ("10.0.0.100/24", Some(24), 24),
            ("10.0.0.100/32", Some(32), 32),
            ("0.0.0.0/0", Some(0), 0),
            ("2001:db8::100", None, 128),
            ("2001:db8::100/64", Some(64), 64),
        ] {
            let address: VipAddress = text.parse().expect(text);
            assert_eq!((address.prefix(), address.prefix_len(), address.to_string().as_str()), (prefix, len, text));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "/24", "10.0.0.100/", "10.0.0.100/33", "10.0.0.100/+8", "10.0.0.100/0024", "2001:db8::/129", "a/8"]
        {
            assert!(text.parse::<VipAddress>().is_err(), "{text}");
        }
    }
}
