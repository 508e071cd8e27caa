//! The document's types. Field documentation is the reference: the reference page and the JSON
//! Schema are generated from it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::units::{ByteSize, Span};

/// The whole desired state of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Version of this format. Always 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Policy of the cluster itself.
    #[serde(default)]
    pub cluster: Cluster,
    /// Virtual addresses.
    #[serde(default)]
    pub vips: Vec<Vip>,
    /// What is balanced.
    #[serde(default)]
    pub farms: Vec<Farm>,
}

/// Policy of the cluster itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// How many nodes vote: 3, 5 or 7. Every other node is a learner and serves all the same.
    #[schemars(range(min = 3, max = 7))]
    pub voters: u8,
    /// How long a node owns a VIP without renewing: 50ms to 10s.
    pub lease: Span,
    /// How recently a node must have confirmed its state with a quorum to serve bindings from its own table: 10ms to 1s.
    pub freshness: Span,
    /// After how long a voter that is gone is replaced by a learner: 1s to 30d.
    pub replace_voter_after: Span,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            voters: 3,
            lease: Span::from_millis(200),
            freshness: Span::from_millis(100),
            replace_voter_after: Span::from_secs(600),
        }
    }
}

/// A virtual address: at most one node answers for it at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// Its name, unique in the document.
    pub name: String,
    /// IPv4 and IPv6 addresses; they move together.
    #[schemars(length(min = 1))]
    pub addresses: Vec<IpAddr>,
    /// Nodes that should hold it, best first. Spread over all nodes otherwise.
    #[serde(default)]
    pub prefer: Vec<String>,
    /// Whether it returns to a better node by itself.
    #[serde(default)]
    pub failback: Failback,
}

/// Whether a VIP returns to a better node by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failback {
    /// It stays where it is until the holder fails or an operator moves it.
    #[default]
    Never,
    /// It returns as soon as the better node is ready to take it. A node that comes and goes takes it each time.
    Automatic,
}

/// What an operator creates: listeners, services and policy together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Farm {
    /// Its name, unique in the document.
    pub name: String,
    /// Where clients arrive.
    #[schemars(length(min = 1))]
    pub listeners: Vec<Listener>,
    /// First match wins; a service without `match` takes the rest.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Answer when no service matches or no backend is left.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// Bounds; a full one answers 429 or 503, it never grows memory.
    #[serde(default)]
    pub limits: Limits,
    /// Time limits of each phase of a request.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Networks whose `X-Forwarded-*` and `Forwarded` are believed and extended. All others are overwritten.
    #[serde(default)]
    pub trusted_proxies: TrustedProxies,
    /// What to do with replicated bindings while this node has no quorum.
    #[serde(default)]
    pub isolated: Isolated,
}

/// Bound address, port and protocol where clients arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its name, unique in the farm.
    pub name: String,
    /// The VIP it is on. Give either `vip` or `address`.
    #[serde(default)]
    pub vip: Option<String>,
    /// An address of every node (`0.0.0.0`, `::`, or one that all have). Give either `vip` or `address`.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Only on nodes that carry all these labels; on all nodes when empty.
    #[serde(default)]
    pub nodes: BTreeMap<String, String>,
    /// TCP port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/1.0 in the clear.
    #[default]
    Http,
}

/// A match rule inside a farm and the backends it routes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name, unique in the farm.
    pub name: String,
    /// Which requests it takes; all when absent.
    #[serde(default, rename = "match")]
    pub matches: Option<RequestMatch>,
    /// How a backend is picked for a client that is not bound.
    #[serde(default)]
    pub balance: Balance,
    /// How a client stays with its backend; it does not when absent.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// How backends are checked; they count as up when absent.
    #[serde(default)]
    pub health: Option<Health>,
    /// Where requests go.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// Answer when no backend is left; the farm's when absent.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// Attempts after the first, where that is safe (connect failures; idempotent and unsent).
    #[serde(default = "default_retries_max")]
    #[schemars(range(max = 10))]
    pub retries_max: u32,
    /// How long a request may wait for a backend at its `connections_max`. Zero refuses at once.
    #[serde(default = "default_queue_timeout")]
    pub queue_timeout: Span,
    /// How long a backend that came back takes to reach its full weight. Zero means at once.
    #[serde(default = "default_slow_start")]
    pub slow_start: Span,
    /// Below this percentage of primaries up, health is ignored and all of them are used; with none up, backups that are
    /// up come first. Only backends that are ready and have weight count. Zero switches it off.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub panic_threshold_percent: u8,
    /// A bound backend that refuses connections loses the client at once, by a log entry, instead of when its checks fail.
    #[serde(default = "yes")]
    pub redispatch: bool,
}

fn default_retries_max() -> u32 {
    2
}

fn default_queue_timeout() -> Span {
    Span::from_secs(5)
}

fn default_slow_start() -> Span {
    Span::from_millis(0)
}

fn yes() -> bool {
    true
}

/// Which requests a service takes. All conditions given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequestMatch {
    /// Host names without port, compared without case; `*.example.org` matches one label or more.
    pub hosts: Vec<String>,
    /// The path begins with this, at a `/` boundary: `/v1` matches `/v1` and `/v1/x`, not `/v10`.
    pub path_prefix: Option<String>,
    /// The path is exactly this.
    pub path: Option<String>,
}

/// How a backend is picked for a client that is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn, weights ignored.
    RoundRobin,
    /// Each in turn by weight, evenly interleaved.
    WeightedRoundRobin,
    /// The fewest requests in flight, weights ignored.
    LeastConnections,
    /// The fewest requests in flight for its weight.
    #[default]
    WeightedLeastConnections,
    /// By the client's address; a backend's loss moves only its own clients.
    SourceHash,
    /// By path and query; a backend's loss moves only its own keys.
    UriHash,
    /// The less loaded of two drawn at random.
    RandomOfTwo,
}

/// How a client stays with its backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    /// A signed cookie of Ballast's own names the backend; no table.
    Cookie(CookiePersistence),
    /// A replicated binding from a key of the request to a backend.
    Table(TablePersistence),
}

/// Persistence by a signed cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CookiePersistence {
    /// The cookie's name.
    pub name: String,
    /// `Path` attribute.
    pub path: String,
    /// `Max-Age`; a session cookie when absent. The signature expires with it.
    pub ttl: Option<Span>,
    /// `Secure` attribute.
    pub secure: bool,
    /// `HttpOnly` attribute.
    pub http_only: bool,
    /// `SameSite` attribute.
    pub same_site: SameSite,
}

impl Default for CookiePersistence {
    fn default() -> Self {
        Self {
            name: "BALLAST".to_owned(),
            path: "/".to_owned(),
            ttl: None,
            secure: false,
            http_only: true,
            same_site: SameSite::Lax,
        }
    }
}

/// `SameSite` attribute of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Never sent across sites.
    Strict,
    /// Sent with top-level navigation.
    Lax,
    /// Always sent; needs `secure`.
    None,
}

/// Persistence by a replicated binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TablePersistence {
    /// What identifies a client.
    pub key: TableKey,
    /// A binding not used for this long is forgotten.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Span,
    /// A binding older than this is forgotten even if used; never when absent.
    #[serde(default)]
    pub absolute_timeout: Option<Span>,
    /// Most bindings of this service.
    #[serde(default = "default_entries_max")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub entries_max: u64,
    /// What happens to a new key when there are that many.
    #[serde(default)]
    pub when_full: WhenFull,
    /// Whether the first request waits for the log.
    #[serde(default)]
    pub commit: Commit,
}

fn default_idle_timeout() -> Span {
    Span::from_secs(1800)
}

fn default_entries_max() -> u64 {
    1_000_000
}

/// What identifies a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableKey {
    /// The client's address, cut to a prefix.
    Source(SourcePrefix),
    /// A request header's value.
    Header(String),
    /// A query parameter's value.
    Query(String),
    /// The nth segment of the path, counted from 1.
    PathSegment(#[schemars(range(min = 1, max = 32))] u8),
    /// A cookie that the backend sets, learned from its response and read from requests.
    LearnedCookie(String),
}

/// How much of a client's address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SourcePrefix {
    /// Leading bits of an IPv4 address, 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub ipv4_prefix: u8,
    /// Leading bits of an IPv6 address, 1 to 128.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { ipv4_prefix: 32, ipv6_prefix: 64 }
    }
}

/// What happens to a new key when its table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It is served without a binding, and counted.
    #[default]
    ServeUnbound,
    /// It is refused with 503.
    Refuse,
}

/// Whether the first request of a key waits for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// The request is forwarded once the binding is in the log.
    #[default]
    BeforeForward,
    /// The request is forwarded at once; the binding follows.
    AfterForward,
}

/// How backends are checked. Without `http` a TCP connection is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Check by an HTTP request; by a TCP connection when absent.
    pub http: Option<HttpCheck>,
    /// Time between checks of one backend by one node, give or take a tenth: 10ms to 1h.
    pub interval: Span,
    /// A check that takes longer has failed. At most the interval.
    pub timeout: Span,
    /// Successes in a row that make a backend up; doubled while it keeps falling.
    #[schemars(range(min = 1, max = 100))]
    pub rise: u32,
    /// Failures in a row that make it down.
    #[schemars(range(min = 1, max = 100))]
    pub fall: u32,
    /// Port to check; the backend's own when absent.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// How the nodes' findings become one verdict.
    pub policy: VerdictPolicy,
    /// Failed requests in a row that count as a failed check; passive checks are off when absent.
    #[schemars(range(min = 1, max = 1000))]
    pub passive_failures: Option<u32>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            http: None,
            interval: Span::from_secs(1),
            timeout: Span::from_millis(500),
            rise: 2,
            fall: 3,
            port: None,
            policy: VerdictPolicy::Majority,
            passive_failures: None,
        }
    }
}

/// A health check by an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpCheck {
    /// Request method.
    pub method: String,
    /// Request path.
    pub path: String,
    /// `Host` header; the backend's address when absent.
    pub host: Option<String>,
    /// Statuses that count as success: `"200"` or ranges `"200-299"`.
    #[schemars(length(min = 1))]
    pub expect: Vec<StatusRange>,
    /// Text that the first 16 KiB of the body must contain.
    pub body_contains: Option<String>,
}

impl Default for HttpCheck {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            expect: vec![StatusRange { first: 200, last: 399 }],
            body_contains: None,
        }
    }
}

/// A range of HTTP statuses, written `"200"` or `"200-299"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusRange {
    /// First status that belongs to it.
    pub first: u16,
    /// Last status that belongs to it.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` belongs to it.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "status-range",
            "description": "A status or a range of statuses, in quotes: \"200\" or \"200-299\".",
            "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$",
            "examples": ["200", "200-299"],
        })
    }
}

impl TryFrom<String> for StatusRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = || format!("{text:?} is not a status or a range of statuses; write \"200\" or \"200-299\"");
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let parse = |s: &str| s.parse::<u16>().ok().filter(|n| (100..=599).contains(n)).ok_or_else(error);
        let range = Self { first: parse(first)?, last: parse(last)? };
        if range.first > range.last {
            return Err(error());
        }
        Ok(range)
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
    }
}

/// How the nodes' findings become one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictPolicy {
    /// Down when most of the nodes that check it say so.
    #[default]
    Majority,
    /// Down when any node says so.
    Any,
    /// Each node goes by its own checks. Bindings still move only by the log.
    Local,
}

/// One address that can be given traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Its name, unique in the service.
    pub name: String,
    /// `address:port`.
    #[schemars(extend("format" = "socket-address", "examples" = ["10.0.0.7:8080", "[2001:db8::7]:8080"]))]
    pub address: SocketAddr,
    /// Share of new clients relative to the others, 0 to 1000. Zero takes none.
    #[serde(default = "default_weight")]
    #[schemars(range(max = 1000))]
    pub weight: u32,
    /// Used only when no other backend is left.
    #[serde(default)]
    pub backup: bool,
    /// Connections one node may have open to it; more wait in a queue. Zero means no limit.
    #[serde(default)]
    pub connections_max: u32,
}

fn default_weight() -> u32 {
    100
}

/// What is answered when no backend is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fallback {
    /// Status of the answer.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Its `Content-Type`.
    pub content_type: String,
    /// Its body.
    pub body: String,
}

impl Default for Fallback {
    fn default() -> Self {
        Self {
            status: 503,
            content_type: "text/plain; charset=utf-8".to_owned(),
            body: "Service unavailable\n".to_owned(),
        }
    }
}

/// Bounds of each listener, per node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections open at once.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_max: u32,
    /// Client connections open at once from one address. Zero means no limit.
    pub connections_per_source_max: u32,
    /// Requests on one client connection before it is closed. Zero means no limit.
    pub requests_per_connection_max: u32,
    /// Size of a request's head, and of a response's.
    pub header_bytes_max: ByteSize,
    /// Header fields in a head.
    #[schemars(range(min = 1, max = 1000))]
    pub header_fields_max: u16,
    /// Length of a request's target.
    pub uri_bytes_max: ByteSize,
    /// Size of a request's body. Zero means no limit.
    pub body_bytes_max: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_source_max: 0,
            requests_per_connection_max: 0,
            header_bytes_max: ByteSize::from_kib(32),
            header_fields_max: 100,
            uri_bytes_max: ByteSize::from_kib(8),
            body_bytes_max: ByteSize::from_bytes(0),
        }
    }
}

/// Time limits of each phase of a request. Every wait has an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From a request's first byte to the end of its head: 408.
    pub client_header: Span,
    /// Between two reads of a request's body: 408.
    pub client_body: Span,
    /// Between two requests on a client connection: closed.
    pub client_idle: Span,
    /// Connecting to a backend: next attempt or 503.
    pub connect: Span,
    /// From the request's last byte to the response's head: 504.
    pub response_header: Span,
    /// Between two reads of a response's body, or two writes to a client: the connection is reset.
    pub between_bytes: Span,
    /// Nothing moved either way on an upgraded connection: closed.
    pub tunnel_idle: Span,
    /// An unused upstream connection is closed.
    pub upstream_idle: Span,
    /// How long a drain waits for what is held.
    pub drain: Span,
    /// Slowest rate at which a request's body may arrive, in bytes per second, after a grace of `client_body`: 408. Zero switches it off.
    pub body_rate_min: u32,
    /// Slowest rate at which a response's body may arrive from a backend, in bytes per second, after a grace of
    /// `between_bytes`: the connection is reset. Time in which the client does not read is not counted.
    /// `text/event-stream` and upgraded connections are exempt. Zero switches it off: then only `between_bytes` ends
    /// a response that trickles, which suits long-lived responses of other types.
    pub response_rate_min: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            client_header: Span::from_secs(10),
            client_body: Span::from_secs(30),
            client_idle: Span::from_secs(60),
            connect: Span::from_secs(2),
            response_header: Span::from_secs(30),
            between_bytes: Span::from_secs(30),
            tunnel_idle: Span::from_secs(3600),
            upstream_idle: Span::from_secs(60),
            drain: Span::from_secs(30),
            body_rate_min: 240,
            response_rate_min: 0,
        }
    }
}

/// Networks whose forwarding headers are believed.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TrustedProxies(pub Vec<Network>);

impl TrustedProxies {
    /// Whether `address` is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// A network, written `10.0.0.0/8` or `2001:db8::/32`; a single address without a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` is in the network. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.prefix);
                a.to_bits().checked_shr(shift).unwrap_or(0) == b.to_bits().checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.prefix);
                a.to_bits().checked_shr(shift).unwrap_or(0) == b.to_bits().checked_shr(shift).unwrap_or(0)
            }
            _ => false,
        }
    }
}

impl JsonSchema for Network {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "network",
            "description": "A network, or a single address without a prefix length.",
            "pattern": "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$",
            "examples": ["10.0.0.0/8", "2001:db8::/32"],
        })
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = || format!("{text:?} is not a network; write 10.0.0.0/8, 2001:db8::/32 or a single address");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|p| *p <= widest).ok_or_else(error)?,
            None => widest,
        };
        Ok(Self { address, prefix })
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        format!("{}/{}", network.address, network.prefix)
    }
}

/// What a node does with replicated bindings while it has no quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolated {
    /// Serves known bindings as last known; new clients are served unbound.
    #[default]
    LastKnown,
    /// Answers 503 to requests that need a binding.
    Refuse,
}
