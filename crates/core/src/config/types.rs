//! The document's types. Field documentation is the reference: the reference page and the JSON
//! Schema are generated from it.

mod health;
mod persistence;
mod sessions;
mod trust;
mod vip;
mod webhook;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{ByteSize, Span};

pub use health::*;
pub use persistence::*;
pub use sessions::*;
pub use trust::*;
pub use vip::*;
pub use webhook::*;

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
    /// The session store; there is none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Sessions>,
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
    /// After how long a voter that is gone, or whose disk takes nothing, is replaced by a learner: 1s to 30d.
    pub replace_voter_after: Span,
    /// Machines that are told of what happens.
    pub webhooks: Vec<Webhook>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            voters: 3,
            lease: Span::from_millis(200),
            freshness: Span::from_millis(100),
            replace_voter_after: Span::from_secs(600),
            webhooks: Vec::new(),
        }
    }
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
    /// Networks whose `X-Forwarded-*` and `Forwarded` are believed and extended. All others are overwritten. `X-Real-IP` is
    /// always written anew, with the client that they say.
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
    /// Attempts after the first, where that is safe (connect failures; idempotent and unsent). When all backends were
    /// tried, the next follows after a second, or `timeouts.connect` if that is less. Such attempts, which ask a backend again
    /// that there was no connection to, also need a budget that each worker of a node has for the service: a fifth of its
    /// requests, ten at once. `ballast_retries_refused_total` counts those that it refused.
    #[serde(default = "default_retries_max")]
    #[schemars(range(max = 10))]
    pub retries_max: u32,
    /// How long a request may wait for a backend at its `connections_max`. Zero refuses at once.
    #[serde(default = "default_queue_timeout")]
    pub queue_timeout: Span,
    /// How long a backend takes to reach its full weight once it is up again, or made ready again by an operator; the same for
    /// one with checks that is new or at another address. Zero means at once.
    #[serde(default = "default_slow_start")]
    pub slow_start: Span,
    /// Below this percentage of primaries up, health is ignored and all of them are used; with none up, backups that are
    /// up come first. Only backends that are ready and have weight count. Zero switches it off.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub panic_threshold_percent: u8,
    /// A bound backend that refuses connections loses the client at once, by a log entry, instead of when its checks fail. One
    /// that a node cannot reach keeps it: another serves that request, and what the checks of all nodes find decides.
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
    /// Client connections open at once from one address; of IPv6 from one /64. Those from `trusted_proxies` are not counted,
    /// because they are many clients'. Zero means no limit.
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
    /// Slowest rate at which a request's body may arrive, in bytes per second, after a grace of `client_body`: 408, or a reset
    /// once the response has begun. Time in which the backend takes nothing is not counted. Zero switches it off.
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
