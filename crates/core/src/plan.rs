//! The compiled plan: agreed state as one node's data plane needs it.
//!
//! Everything that can be decided once is decided here (effective weights, who is eligible,
//! resolved ids), so that a request only reads. A plan is immutable and carries a generation;
//! carrying out an old one is harmless because its generation says that it is old.
//!
//! Not here: how a backend is picked ([`crate::balance`]), who owns a VIP right now
//! ([`crate::lease`]; it changes without the log).

mod compile;
mod eligibility;
mod matching;

pub use compile::compile;
pub use eligibility::{Eligibility, panics};

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    config::{
        Balance, Fallback, Health, Isolated, Limits, Persistence, Protocol, RequestMatch, Timeouts, TrustedProxies,
    },
    ids::{BackendId, FarmId, LogIndex, NodeId, Revision, ServiceId, VipId},
    secret::Secret,
};

/// All that a node's data plane serves, at one log index.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Grows with each plan of this process.
    pub generation: u64,
    /// Configuration revision this plan was compiled from.
    pub revision: Revision,
    /// Log index of the state this plan was compiled from.
    pub index: LogIndex,
    /// The node the plan is for.
    pub node: NodeId,
    /// That node's name, as it appears in logs.
    pub node_name: Arc<str>,
    /// Keys that sign persistence cookies, newest first. A cookie is valid under any of them.
    pub cookie_keys: Arc<[CookieKey]>,
    /// Secret of the table key hash, the same on all nodes ([`crate::persistence::KeyHash`]).
    pub table_secret: Secret<16>,
    /// The highest number that any backend was given so far, also one that is gone. A higher one is newer than this plan.
    pub newest_backend: BackendId,
    /// Farms in document order.
    pub farms: Vec<Arc<FarmPlan>>,
    /// This node takes no new work (`ballastctl node drain`, or shutting down).
    pub draining: bool,
    /// What this node found about backends, as the log held it at `index`. A backend is missing if the log holds no
    /// finding of this node: there was none, or it lapsed. A plan is made anew when findings lapse, and not for each
    /// that is reported.
    pub findings: BTreeMap<BackendId, Verdict>,
}

/// A key that signs persistence cookies.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieKey {
    /// Appears in the cookie, so that keys can be rotated.
    pub id: u8,
    /// BLAKE3 key.
    pub secret: [u8; 32],
    /// Seconds since the Unix epoch from when on it signs. Until then it only verifies, so that every
    /// node knows it before a client shows a cookie of it.
    pub signs_from_s: u64,
}

/// Position of the key that signs at `now_s`: the newest whose time has come. `keys` are newest first.
pub fn signing_key(keys: &[CookieKey], now_s: u64) -> Option<usize> {
    keys.iter().position(|key| key.signs_from_s <= now_s).or_else(|| keys.len().checked_sub(1))
}

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CookieKey({})", self.id)
    }
}

/// A farm, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct FarmPlan {
    /// Stable id.
    pub id: FarmId,
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Where clients arrive.
    pub listeners: Vec<ListenerPlan>,
    /// First match wins.
    pub services: Vec<Arc<ServicePlan>>,
    /// Limits of each listener of the farm.
    pub limits: Limits,
    /// Time limits of each phase of a request.
    pub timeouts: Timeouts,
    /// Answer when no service matches or none can serve and the service has no fallback of its own.
    pub fallback: Option<Arc<Fallback>>,
    /// Whose `X-Forwarded-*` to believe.
    pub trusted_proxies: TrustedProxies,
    /// What to do with replicated bindings while there is no quorum.
    pub isolated: Isolated,
}

/// A listener, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPlan {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Where to bind.
    pub bind: Bind,
    /// TCP port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// Where a listener is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// On the addresses of a VIP, while this node owns it.
    Vip {
        /// The VIP.
        id: VipId,
        /// Its name, for logs.
        name: Arc<str>,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// On an address of the node, always.
    Address(IpAddr),
}

/// A service, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePlan {
    /// Stable id, also of its binding table.
    pub id: ServiceId,
    /// The farm it belongs to.
    pub farm: FarmId,
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Which requests it takes; `None` takes all.
    pub matches: Option<RequestMatch>,
    /// How a backend is picked.
    pub balance: Balance,
    /// How a client stays.
    pub persistence: Option<Persistence>,
    /// How backends are checked.
    pub health: Option<Health>,
    /// All backends, eligible or not, in document order.
    pub backends: Vec<BackendPlan>,
    /// Answer when no backend is left.
    pub fallback: Option<Arc<Fallback>>,
    /// Attempts after the first, where safe.
    pub retries_max: u32,
    /// How long a request may wait for a backend that is at its `connections_max`; zero refuses at once.
    pub queue_timeout_ms: u64,
    /// How long a backend that came back takes to reach its full weight; zero means at once.
    pub slow_start_ms: u64,
    /// Percentage of backends up below which health is ignored and all are used; zero switches it off.
    pub panic_threshold_percent: u8,
    /// A bound backend that refuses connections loses the binding at once (cause `connect_failed`); one that a node cannot
    /// reach keeps it, and another serves that request.
    pub redispatch: bool,
}

/// A backend, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendPlan {
    /// Stable id.
    pub id: BackendId,
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Effective weight: the operator's override, else the document's. Zero takes no new clients.
    pub weight: u32,
    /// Used only when no other backend is eligible.
    pub backup: bool,
    /// What the operator wants.
    pub admin: AdminState,
    /// What the cluster's checks say.
    pub verdict: Verdict,
    /// Log time in milliseconds since when it serves, if it does: since it came back, or came at all. The start of a slow
    /// start; zero where there is none.
    pub serves_since_ms: u64,
    /// Connections this node may have open to it; zero means no limit.
    pub connections_max: u32,
}

impl BackendPlan {
    /// What decides whether it serves, by the cluster's verdict.
    pub fn eligibility(&self) -> Eligibility {
        Eligibility { admin: self.admin, verdict: self.verdict, weight: self.weight, backup: self.backup }
    }
}

/// What the operator wants of a backend. Survives `apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// Takes all traffic.
    #[default]
    Ready,
    /// Keeps its bound clients and takes no new ones.
    Drain,
    /// Takes nothing; bound clients are re-homed.
    Maintenance,
}

/// What the checks say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not checked, or not enough checks yet. Served.
    #[default]
    Unknown,
    /// Served.
    Up,
    /// Not served.
    Down,
}
