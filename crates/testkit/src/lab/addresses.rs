//! Who is who in a lab: fixed names, ports, MAC and IP addresses.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Nodes that a lab has at most.
pub(super) const NODES_MAX: usize = 9;

/// Address for a VIP: on the network of all hosts, used by none of them.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The same in IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);

/// A host of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// The switch. It has no address.
    Bridge,
    /// A node, by its position from 0.
    Node(usize),
    /// Where clients are.
    Client,
    /// Who watches the VIPs from outside, with raw frames only; no kernel answers for its addresses.
    Observer,
    /// Where backends are.
    Backends,
}

impl Host {
    /// Its name on the bridge.
    pub(super) fn port(self) -> String {
        format!("p-{self}")
    }

    /// Its name there while a delay line is between its cable and the bridge.
    pub(super) fn lined_port(self) -> String {
        format!("t-{self}")
    }

    /// Both names, as `nft` takes them.
    pub(super) fn ports(self) -> String {
        format!("{{ {}, {} }}", self.port(), self.lined_port())
    }

    /// Last byte of its addresses.
    fn number(self) -> u8 {
        match self {
            Self::Bridge => 250,
            Self::Node(node) => node as u8 + 1,
            Self::Client => 10,
            Self::Observer => 11,
            Self::Backends => 12,
        }
    }

    /// Its MAC address.
    pub fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 1, self.number()]
    }

    /// Its MAC address, as `ip` takes it.
    pub fn mac_text(self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Commands of `ip` that give it its addresses.
    pub(super) fn addresses(self) -> String {
        format!("addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n", self.ip(), self.ip6())
    }

    /// Its IPv4 address, in 10.77.0.0/24.
    pub fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number())
    }

    /// Its IPv6 address, in fd77::/64.
    pub fn ip6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.number()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge => f.write_str("bridge"),
            Self::Node(node) => write!(f, "node{}", node + 1),
            Self::Client => f.write_str("client"),
            Self::Observer => f.write_str("observer"),
            Self::Backends => f.write_str("backends"),
        }
    }
}
