//! `ballastd.toml`: the few things a node must know before it can ask the cluster.
//!
//! Identity, addresses and paths only. Everything the cluster must agree on goes through the log.
//! Unknown keys are refused; `${NAME}` in a string is replaced from the environment.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ballast_core::{
    mac::Mac,
    state::{NodeInfo, NodeRole, VipHome},
};
use ballast_raft::LogBounds;
use ballast_vip::net::is_network;
use serde::{Deserialize, Deserializer};

use crate::{
    programs::{CheckSettings, HookSettings},
    webhooks::WebhookSecret,
};

/// With fewer entries in the log, a node that restarts would need a snapshot each time.
const ENTRIES_MIN: u64 = 500;

/// The file, read and checked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// This node's name, unique in the cluster.
    pub name: String,
    /// Where log, state, certificates and the admin socket live. One node, one folder.
    pub data_dir: PathBuf,
    /// What it may become: `full` serves traffic, `witness` only votes.
    #[serde(default)]
    pub role: NodeRole,
    /// Addresses to listen on.
    pub listen: Listen,
    /// Addresses that others should use, where they differ from `listen`.
    #[serde(default)]
    pub advertise: Advertise,
    /// Labels that listeners and placement can name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The data plane.
    #[serde(default)]
    pub proxy: Proxy,
    /// The session store, beside what the document says of it.
    #[serde(default)]
    pub sessions: Sessions,
    /// The replicated log on this node's disk.
    #[serde(default)]
    pub raft: Raft,
    /// Logs.
    #[serde(default)]
    pub log: Log,
    /// How VIPs are carried out.
    #[serde(default)]
    pub vip: Vip,
    /// Keys for signatures of webhooks, by the webhook's name.
    #[serde(default)]
    pub webhooks: BTreeMap<String, WebhookSecret>,
}

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Node-to-node traffic: gRPC over mutual TLS (TCP) and lease datagrams (UDP, same port).
    #[serde(deserialize_with = "address")]
    pub cluster: SocketAddr,
    /// The admin API: gRPC over mutual TLS.
    #[serde(deserialize_with = "address")]
    pub admin: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics` in the clear; off when absent. Loopback, unless `metrics_open` is set.
    #[serde(default, deserialize_with = "address_if_any")]
    pub metrics: Option<SocketAddr>,
    /// Whether `metrics` may be an address that others reach, without asking who they are.
    #[serde(default)]
    pub metrics_open: bool,
    /// Unix socket of the admin API, for root on this node; `<data_dir>/admin.sock` when absent.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

/// Addresses that others should use.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// `address:port` for node-to-node traffic. Names are not looked up.
    pub cluster: Option<String>,
    /// `address:port` of the admin API.
    pub admin: Option<String>,
}

/// The data plane.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// Worker threads; 0 takes one for each core.
    pub workers: usize,
}

/// The session store on this node. Nothing is listened on while the document has no `sessions`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// Addresses that this node alone listens on, without TLS.
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<SocketAddr>,
    /// The same for HTTP.
    #[serde(deserialize_with = "addresses")]
    pub http_listen: Vec<SocketAddr>,
    /// A Unix socket, for applications on this node.
    pub socket: Option<PathBuf>,
    /// Permissions of that socket, in octal as for `chmod`: whoever may write to it may connect. When absent, those that the
    /// daemon's umask leaves; with `ballastd.service` its own user only.
    pub socket_mode: Option<SocketMode>,
    /// Worker threads; 0 takes one for each core.
    pub workers: usize,
}

/// Permissions of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SocketMode(pub u32);

impl TryFrom<String> for SocketMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| digits && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| {
            format!(
                "{text:?} are no permissions; write three octal digits, for example \"660\", or \"666\" for everybody"
            )
        })
    }
}

/// What stands where an address and a port should.
struct NotAnAddress<'a>(&'a str);

impl std::fmt::Display for NotAnAddress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} is not an IP address and a port; write one, for example 10.0.0.1:7400 or [fd00::1]:7400 (names are not looked up)",
            self.0
        )
    }
}

fn parse_address<E: serde::de::Error>(text: &str) -> Result<SocketAddr, E> {
    text.parse().map_err(|_| E::custom(NotAnAddress(text)))
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    parse_address(&String::deserialize(from)?)
}

fn address_if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    Option::<String>::deserialize(from)?.as_deref().map(parse_address).transpose()
}

fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|text| parse_address(text)).collect()
}

/// The replicated log on this node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raft {
    /// A snapshot is written when so many entries were applied since the last one; a restart replays at most about as many.
    pub snapshot_entries: u64,
    /// Entries kept behind the last applied one. A node that was away for more is sent a snapshot.
    pub kept_entries: u64,
}

impl Default for Raft {
    fn default() -> Self {
        let LogBounds { snapshot_entries, kept_entries, .. } = LogBounds::default();
        Self { snapshot_entries, kept_entries }
    }
}

impl Raft {
    fn check(self) -> Result<(), String> {
        for (key, value) in [("snapshot_entries", self.snapshot_entries), ("kept_entries", self.kept_entries)] {
            if value < ENTRIES_MIN {
                return Err(format!("raft.{key}: {value} is too few; use {ENTRIES_MIN} or more, for example 20000"));
            }
        }
        Ok(())
    }

    /// The log's bounds.
    pub fn bounds(self) -> LogBounds {
        let Self { snapshot_entries, kept_entries } = self;
        LogBounds { snapshot_entries, kept_entries, ..LogBounds::default() }
    }
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Filter: a level, or `target=level` pairs. `BALLAST_LOG` overrides it.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
    /// Access log: a file, `-` for standard output, or empty for none.
    pub access: String,
}

impl Default for Log {
    fn default() -> Self {
        // openraft warns of each late message and each call that fails, which every start, join and election has;
        // what lasts is told by our own code. Its errors are of storage and of its own end.
        Self { level: "info,openraft=error".to_owned(), format: LogFormat::Text, access: "-".to_owned() }
    }
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How VIPs are carried out, and what this node is as a place for them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vip {
    /// The driver.
    pub driver: VipDriver,
    /// A program that is told of each VIP that this node gains or loses.
    pub hook: Option<HookSettings>,
    /// A program whose exit status says whether this node should hold VIPs.
    pub check: Option<CheckSettings>,
    /// Interface that VIPs are put on: its name, or a network that it has an address in (`10.0.0.0/24`), where names
    /// change, as in a container that is taken off a network and put back. The `netlink` driver needs it.
    pub interface: Option<String>,
    /// Interfaces of VIPs that are on another one, by the VIP's name.
    pub interfaces: BTreeMap<String, String>,
    /// Share of the VIPs relative to the other nodes. Zero is a standby: it takes a VIP only when no node with weight can.
    pub weight: u32,
    /// How it is kept up that nothing passes for a VIP that this node does not own.
    pub fence: FenceLevel,
}

impl Default for Vip {
    fn default() -> Self {
        Self {
            driver: VipDriver::default(),
            interface: None,
            interfaces: BTreeMap::new(),
            weight: VipHome::WEIGHT,
            fence: FenceLevel::default(),
            hook: None,
            check: None,
        }
    }
}

/// How VIPs are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VipDriver {
    /// Only the owner binds listeners on the VIP's addresses, which every node's kernel must
    /// accept (127.x.y.z on one machine). Needs no privileges.
    #[default]
    Loopback,
    /// The VIP's addresses are on an interface, behind a fence in the kernel, and are announced to the network.
    Netlink,
}

/// How it is kept up that nothing passes for a VIP that this node does not own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceLevel {
    /// The best one that this machine's kernel has.
    #[default]
    Auto,
    /// Programs at the interface with an absolute deadline. Holds when the process is frozen or killed.
    Ebpf,
    /// Sets with timeouts. Best effort: a frozen process can extend one when it wakes.
    Nftables,
    /// None. Addresses are on the interface while their VIP is held, and a node that freezes or whose process dies meanwhile goes
    /// on answering for them.
    None,
}

/// Why a `ballastd.toml` was refused.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("cannot read {path}; name the node's file with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not right.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and key, and what would be right.
        message: String,
    },
}

impl Bootstrap {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`BootstrapError`].
    pub fn read(path: &Path) -> Result<Self, BootstrapError> {
        let invalid = |message| BootstrapError::Invalid { path: path.to_owned(), message };
        let bytes = std::fs::read(path).map_err(|source| BootstrapError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            invalid(format!("line {line} is not UTF-8 text; save the file in that encoding"))
        })?;
        Self::parse(&text, |name| std::env::var(name).ok()).map_err(invalid)
    }

    /// Parses a file's text; `environment` resolves `${NAME}`.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    pub fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let text = substitute(text, environment)?;
        let bootstrap: Self = toml::from_str(&text).map_err(|error| error.to_string())?;
        bootstrap.check()?;
        Ok(bootstrap)
    }

    fn check(&self) -> Result<(), String> {
        let named = !self.name.is_empty()
            && self.name.len() <= 63
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
        if !named {
            return Err(format!(
                "name: {:?} is not a node name; use 1 to 63 of a-z, 0-9, '-', '.', '_', for example node-1",
                self.name
            ));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err("data_dir: is empty; name a folder that only this node uses".to_owned());
        }
        if self.listen.cluster == self.listen.admin {
            return Err(format!("listen.admin: {} is listen.cluster too; give each its own port", self.listen.admin));
        }
        if let Some(metrics) = self.listen.metrics
            && !metrics.ip().is_loopback()
            && !self.listen.metrics_open
        {
            return Err(format!(
                "listen.metrics: {metrics} is reached by others, who are not asked who they are; use 127.0.0.1, or set \
                 listen.metrics_open = true"
            ));
        }
        for (key, address, advertised) in [
            ("cluster", self.listen.cluster, &self.advertise.cluster),
            ("admin", self.listen.admin, &self.advertise.admin),
        ] {
            if address.port() == 0 {
                return Err(format!("listen.{key}: port 0 is no address that others could use; name a port"));
            }
            if address.ip().is_unspecified() && advertised.is_none() {
                return Err(format!(
                    "listen.{key}: {address} is no address that others could use; name one, or set advertise.{key}"
                ));
            }
            if let Some(advertised) = advertised
                && advertised.parse::<SocketAddr>().is_err()
            {
                return Err(format!("advertise.{key}: {}", NotAnAddress(advertised)));
            }
        }
        self.raft.check()?;
        self.vip.hook.iter().try_for_each(HookSettings::check)?;
        self.vip.check.iter().try_for_each(CheckSettings::check)?;
        self.vip.check()
    }

    /// The node as it describes itself to the cluster. `mac` says the hardware address of an interface of this machine.
    pub fn node_info(&self, mac: impl Fn(&str) -> Option<Mac>) -> NodeInfo {
        NodeInfo {
            name: self.name.clone(),
            cluster_address: self.advertise.cluster.clone().unwrap_or_else(|| self.listen.cluster.to_string()),
            admin_address: self.advertise.admin.clone().unwrap_or_else(|| self.listen.admin.to_string()),
            labels: self.labels.clone(),
            role: self.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vip: VipHome {
                weight: self.vip.weight,
                mac: self.vip.interface.as_deref().and_then(&mac),
                macs: self.vip.interfaces.iter().filter_map(|(vip, on)| Some((vip.clone(), mac(on)?))).collect(),
            },
        }
    }

    /// The admin API's unix socket.
    pub fn socket(&self) -> PathBuf {
        self.listen.socket.clone().unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }
}

impl Vip {
    fn check(&self) -> Result<(), String> {
        if self.weight > VipHome::WEIGHT_MAX {
            return Err(format!(
                "vip.weight: {} is too much; use 0 (a standby) to {}, for example 100",
                self.weight,
                VipHome::WEIGHT_MAX
            ));
        }
        let named = || self.interfaces.iter().map(|(vip, on)| (format!("vip.interfaces.{vip}"), on));
        let keys = || self.interface.iter().map(|on| ("vip.interface".to_owned(), on)).chain(named());
        for (key, on) in keys() {
            // What Linux takes for a name (dev_valid_name): at most 15 bytes, no slash, colon or space.
            let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
            if is_network(on) {
                continue;
            }
            if on.is_empty() || on.len() > 15 || matches!(on.as_str(), "." | "..") || !on.bytes().all(fits) {
                return Err(format!(
                    "{key}: {on:?} is no name of an interface, and no network; `ip address` lists them, for example eth0 or \
                     10.0.0.0/24"
                ));
            }
        }
        let mut on_loopback = keys().filter(|(_, on)| is_loopback(on));
        if let (VipDriver::Netlink, Some((key, on))) = (self.driver, on_loopback.next()) {
            return Err(format!(
                "{key}: {on} is the machine's loopback, where no neighbour hears of an address; name the interface that clients \
                 are reached over, for example eth0"
            ));
        }
        match (self.driver, &self.interface) {
            (VipDriver::Netlink, None) => {
                Err("vip.interface: the netlink driver puts VIPs on an interface; name it, for example interface = \"eth0\""
                    .to_owned())
            }
            (VipDriver::Loopback, Some(_)) => {
                Err("vip.interface: the loopback driver uses none; leave it out, or set driver = \"netlink\"".to_owned())
            }
            (VipDriver::Loopback, None) if !self.interfaces.is_empty() => {
                Err("vip.interfaces: the loopback driver uses none; leave it out, or set driver = \"netlink\"".to_owned())
            }
            (VipDriver::Loopback, None) if matches!(self.fence, FenceLevel::Ebpf | FenceLevel::Nftables) => {
                Err("vip.fence: the loopback driver has no fence; leave it out, or set driver = \"netlink\"".to_owned())
            }
            (VipDriver::Netlink, Some(_)) | (VipDriver::Loopback, None) => Ok(()),
        }
    }
}

/// Whether it means the loopback interface by the name that it always has, or by a network of its addresses.
fn is_loopback(on: &str) -> bool {
    let network = on.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
    on == "lo" || network.is_some_and(|address| address.is_loopback())
}

/// Replaces `${NAME}`; `$$` is a dollar sign.
fn substitute(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or("`${` without `}`; write $$ for a dollar sign")?;
            let value = environment(name).ok_or_else(|| format!("environment variable {name:?} is not set"))?;
            result.push_str(&value);
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "node-1"
data_dir = "/var/lib/ballast"
[listen]
cluster = "10.0.0.1:7400"
admin = "10.0.0.1:7401"
"#;

    fn check(text: &str, expected: &str) {
        let error = Bootstrap::parse(text, |name| (name == "HOST").then(|| "10.0.0.9".to_owned())).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn accepts_the_smallest_file() {
        let bootstrap = Bootstrap::parse(GOOD, |_| None).unwrap();
        assert_eq!(bootstrap.node_info(|_| None).cluster_address, "10.0.0.1:7400");
        assert_eq!(bootstrap.socket(), PathBuf::from("/var/lib/ballast/admin.sock"));
    }

    #[test]
    fn what_is_no_address_is_named_with_its_key_and_a_remedy() {
        let remedy = "is not an IP address and a port; write one, for example 10.0.0.1:7400";
        check(&GOOD.replace("10.0.0.1:7400", "node-1:7400"), &format!("\"node-1:7400\" {remedy}"));
        check(&GOOD.replace("10.0.0.1:7400", "node-1:7400"), "cluster = ");
        check(&format!("{GOOD}metrics = \"9100\"\n"), &format!("\"9100\" {remedy}"));
        check(&format!("{GOOD}[advertise]\nadmin = \"lb:1\"\n"), &format!("advertise.admin: \"lb:1\" {remedy}"));
        check(&format!("{GOOD}[sessions]\nlisten = [\"6379\"]\n"), &format!("\"6379\" {remedy}"));
    }

    #[test]
    fn permissions_of_a_socket_are_three_octal_digits() {
        let of = |mode: &str| format!("{GOOD}[sessions]\nsocket_mode = {mode}\n");
        let sessions = Bootstrap::parse(&of("\"0660\""), |_| None).unwrap().sessions;
        assert_eq!(sessions.socket_mode, Some(SocketMode(0o660)));
        for bad in ["\"66\"", "\"888\"", "\"1777\"", "\"rw\"", "\"+66\""] {
            check(&of(bad), "are no permissions; write three octal digits");
        }
        check(&of("660"), "socket_mode = 660");
    }

    #[test]
    fn replaces_variables_from_the_environment() {
        let text = GOOD.replace("10.0.0.1", "${HOST}");
        let bootstrap = Bootstrap::parse(&text, |name| (name == "HOST").then(|| "10.0.0.9".to_owned())).unwrap();
        assert_eq!(bootstrap.listen.admin.to_string(), "10.0.0.9:7401");
        check(&GOOD.replace("10.0.0.1", "${NOWHERE}"), "\"NOWHERE\" is not set");
    }

    #[test]
    fn refuses_what_is_not_right_and_names_the_key() {
        check(&GOOD.replace("data_dir", "datadir"), "datadir");
        check(&GOOD.replace("node-1", "Node 1"), "name:");
        check(&GOOD.replace("7401", "7400"), "listen.admin");
        check(&GOOD.replace("10.0.0.1:7400", "0.0.0.0:7400"), "advertise.cluster");
        check(&GOOD.replace("10.0.0.1:7400", "10.0.0.1:0"), "port 0");
        check(&format!("{GOOD}metrics = \"10.0.0.1:7402\"\n"), "metrics_open");
        check(&format!("{GOOD}\n[raft]\nkept_entries = 10\n"), "raft.kept_entries");
        check(&format!("{GOOD}\n[vip]\ndriver = \"magic\"\n"), "magic");
        check(&format!("{GOOD}\n[vip.hook]\ncommand = [\"on-vip\"]\n"), "vip.hook.command");
        check(&format!("{GOOD}\n[vip.check]\ncommand = [\"/bin/sh\"]\nfall = 0\n"), "vip.check.fall");
    }

    #[test]
    fn a_place_for_vips_is_what_the_driver_can_use() {
        let vip = |keys: &str| format!("{GOOD}\n[vip]\n{keys}\n");
        check(&vip("driver = \"netlink\""), "vip.interface: the netlink driver");
        check(&vip("driver = \"netlink\"\ninterface = \"a/b\""), "vip.interface: \"a/b\" is no name");
        check(&vip("driver = \"netlink\"\ninterface = \"lo\""), "vip.interface: lo is the machine's loopback");
        check(&vip("driver = \"netlink\"\ninterface = \"127.0.0.0/8\""), "vip.interface: 127.0.0.0/8 is the machine's");
        let of_one = "driver = \"netlink\"\ninterface = \"eth0\"\n[vip.interfaces]\ndmz = \"lo\"";
        check(&vip(of_one), "vip.interfaces.dmz: lo is the machine's loopback");
        check(&vip("driver = \"netlink\"\ninterface = \"10.0.0.0/33\""), "is no name of an interface, and no network");
        assert!(Bootstrap::parse(&vip("driver = \"netlink\"\ninterface = \"10.0.0.0/24\""), |_| None).is_ok());
        check(&vip("driver = \"netlink\"\ninterface = \"eth0\"\n[vip.interfaces]\ndmz = \"\""), "vip.interfaces.dmz");
        check(&vip("interface = \"eth0\""), "the loopback driver uses none");
        check(&vip("[vip.interfaces]\ndmz = \"eth0\""), "vip.interfaces: the loopback driver");
        check(&vip("weight = 1001"), "0 (a standby) to 1000");
        check(&vip("fence = \"ebpf\""), "the loopback driver has no fence");
        for level in ["auto", "ebpf", "nftables", "none"] {
            check(&vip("fence = \"wall\""), level);
        }
    }

    #[test]
    fn a_node_tells_what_it_is_as_a_place_for_vips() {
        let node = |keys: &str| {
            let bootstrap = Bootstrap::parse(&format!("{GOOD}\n[vip]\n{keys}\n"), |_| None).unwrap();
            let mac = |interface: &str| (interface == "eth1").then(|| Mac::new([2, 0, 0, 0, 0, 1]));
            (bootstrap.vip.fence, bootstrap.node_info(mac).vip)
        };
        assert_eq!(node(""), (FenceLevel::Auto, VipHome::default()));
        let keys = "driver = \"netlink\"\ninterface = \"eth0\"\nweight = 0\nfence = \"nftables\"\n[vip.interfaces]\ndmz = \"eth1\"";
        let macs = BTreeMap::from([("dmz".to_owned(), Mac::new([2, 0, 0, 0, 0, 1]))]);
        assert_eq!(node(keys), (FenceLevel::Nftables, VipHome { weight: 0, mac: None, macs }));
    }
}
