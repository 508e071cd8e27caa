//! The session store.

use std::net::SocketAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{ByteSize, Span};

/// The session store: keys that every node agrees on, spoken to by the Redis protocol and over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// The Redis protocol over plain TCP, on every node.
    #[schemars(with = "Vec<SocketText>")]
    pub listen: Vec<SocketAddr>,
    /// On the node that owns the VIP.
    pub vips: Vec<SessionVip>,
    /// The Redis protocol over TLS, on every node, with the node's own certificate. Clients may present one of the
    /// cluster's CA.
    #[schemars(with = "Vec<SocketText>")]
    pub tls_listen: Vec<SocketAddr>,
    /// HTTP (`/v1/sessions/{keyspace}/{id}`) over plain TCP, on every node.
    #[schemars(with = "Vec<SocketText>")]
    pub http_listen: Vec<SocketAddr>,
    /// The same over TLS, on every node, as `tls_listen`.
    #[schemars(with = "Vec<SocketText>")]
    pub http_tls_listen: Vec<SocketAddr>,
    /// Numbered databases that `SELECT` knows. What lies in one beyond the number stays there, out of reach of everything but `FLUSHALL`.
    #[schemars(range(min = 1, max = 1024))]
    pub databases: u16,
    /// Names of databases for `ballastctl sessions` and the HTTP resource.
    pub keyspaces: Vec<Keyspace>,
    /// Memory of all keys together, counted alike on every node: key, value and a fixed part for each.
    pub memory_max: ByteSize,
    /// What gives way when `memory_max` is reached.
    pub eviction: SessionEviction,
    /// Which events of keys are published, as Redis' `notify-keyspace-events`: `K` and `E` say where, `g$hsxen` or `A`
    /// say what. Empty publishes none.
    pub notify: String,
    /// What reads of connections promise that do not ask otherwise.
    pub reads: SessionReads,
    /// What reads do on a node that has no quorum.
    pub without_quorum: WithoutQuorum,
    /// Who may use it. With none, whoever reaches it may, see `protected`.
    pub users: Vec<SessionUser>,
    /// Without users, serves only clients of the loopback interface or over TLS with an admin's certificate.
    pub protected: bool,
    /// Bounds of connections, requests and values.
    pub limits: SessionLimits,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            vips: Vec::new(),
            tls_listen: Vec::new(),
            http_listen: Vec::new(),
            http_tls_listen: Vec::new(),
            databases: 16,
            keyspaces: Vec::new(),
            memory_max: ByteSize::from_kib(1 << 20),
            eviction: SessionEviction::default(),
            notify: String::new(),
            reads: SessionReads::default(),
            without_quorum: WithoutQuorum::default(),
            users: Vec::new(),
            protected: true,
            limits: SessionLimits::default(),
        }
    }
}

/// The session store on a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionVip {
    /// The VIP's name.
    pub vip: String,
    /// TCP port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Speaks TLS with the node's certificate.
    #[serde(default)]
    pub tls: bool,
    /// What is spoken there.
    #[serde(default)]
    pub protocol: SessionProtocol,
}

/// What clients of the session store speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionProtocol {
    /// Redis' protocol.
    #[default]
    Resp,
    /// HTTP: `/v1/sessions/{keyspace}/{id}`.
    Http,
}

/// A name for a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keyspace {
    /// The name, unique in the document.
    pub name: String,
    /// Number of the database.
    pub database: u16,
}

/// What gives way when memory is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SessionEviction {
    /// Nothing: writes that need memory are refused.
    #[default]
    Noeviction,
    /// The key with a lifetime that was not written or touched for the longest. Reads do not count.
    VolatileLru,
    /// The key whose lifetime ends first.
    VolatileTtl,
}

impl SessionEviction {
    /// Its name, in documents and in Redis.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Noeviction => "noeviction",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileTtl => "volatile-ttl",
        }
    }
}

/// What a read promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionReads {
    /// Sees every write that was acknowledged before it, on any node.
    #[default]
    Linearizable,
    /// Sees what this node has applied.
    Stale,
}

/// What reads do without a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutQuorum {
    /// They are refused.
    #[default]
    Refuse,
    /// They see what this node has applied.
    Stale,
}

/// Someone who may use the session store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionUser {
    /// Its name, unique in the list. `default` is who `AUTH` with a password alone means. A client certificate with
    /// this name in it is this user too.
    pub name: String,
    /// Argon2id hash of the password, in PHC form: `$argon2id$v=19$m=...`, as `ballastctl sessions hash-password` prints
    /// it. Without one, only a certificate will do.
    #[serde(default)]
    pub password_hash: Option<String>,
    /// Keys that it may name begin with one of these; all keys when empty.
    #[serde(default)]
    pub key_prefixes: Vec<String>,
    /// Databases that it may use; all when empty.
    #[serde(default)]
    pub databases: Vec<u16>,
    /// May change nothing.
    #[serde(default)]
    pub read_only: bool,
    /// What its reads promise; the store's `reads` when absent.
    #[serde(default)]
    pub reads: Option<SessionReads>,
}

/// Bounds of the session store, connections per node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionLimits {
    /// Size of a value, of a field or of any other argument: 1KiB to 15MiB, which an entry of the log can carry. A string
    /// cannot grow beyond it either.
    pub value_max: ByteSize,
    /// Size of a key: 64B to 1MiB.
    pub key_max: ByteSize,
    /// Size of a request: at least `value_max` and 64KiB, to 16MiB.
    pub request_max: ByteSize,
    /// Words in a request; in a transaction as many, and at least 65,536. While a node applies them, about a microsecond
    /// each, it does nothing else with its state.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub arguments_max: u32,
    /// Commands of one connection that are read before the first of them is answered.
    #[schemars(range(min = 1, max = 65_536))]
    pub pipeline_max: u32,
    /// Answers of one connection that wait to be read: at least `value_max` and 64KiB. A client that lets more pile up is
    /// cut; what answers together would be larger is answered with an error.
    pub output_max: ByteSize,
    /// A connection without a command for so long is closed. Zero means never.
    pub idle_timeout: Span,
    /// Connections open at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: u32,
    /// A client that reads nothing for so long while answers wait is cut: 100ms to 1h.
    pub write_timeout: Span,
    /// How long a command waits for the cluster before it is answered with an error: 100ms to 60s.
    pub deadline: Span,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            value_max: ByteSize::from_kib(8 << 10),
            key_max: ByteSize::from_kib(64),
            request_max: ByteSize::from_kib(16 << 10),
            arguments_max: 65_536,
            pipeline_max: 1024,
            output_max: ByteSize::from_kib(64 << 10),
            idle_timeout: Span::from_millis(0),
            connections_max: 10_000,
            write_timeout: Span::from_secs(30),
            deadline: Span::from_secs(2),
        }
    }
}

/// How an address with a port is written, for the schema.
struct SocketText;

impl JsonSchema for SocketText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SocketText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "socket-address",
            "examples": ["127.0.0.1:6379", "[::]:6379"],
        })
    }
}
