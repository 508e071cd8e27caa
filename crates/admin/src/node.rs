//! What the services need of the node they run on, and cannot get from `ballast-core`'s traits.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ballast_core::{
    cluster::BoxFuture,
    config::{RequestMatch, TableKey},
    ids::{BackendId, FarmId, LogIndex, NodeId, Revision, ServiceId, VipId},
    lease::{Fitness, LeaseView, VipStatus},
    persistence::KeyHash,
    plan::CookieKey,
    state::State,
};
use tokio::sync::watch;

/// The state that this node has applied.
pub trait StateAccess: Send + Sync + 'static {
    /// Runs `read` on the state. Nothing is applied meanwhile, so `read` copies what it wants and
    /// leaves; it is called exactly once, and calls neither this nor [`Operations`] again.
    fn with_state(&self, read: &mut dyn FnMut(&State));

    /// Index of the last entry applied, told after each. Watches wait on it.
    fn applied(&self) -> watch::Receiver<LogIndex>;
}

/// Runs `read` on the state and returns what it returns.
pub fn read_state<R>(access: &dyn StateAccess, read: impl FnOnce(&State) -> R) -> R {
    let mut read = Some(read);
    let mut result = None;
    access.with_state(&mut |state| {
        if let Some(read) = read.take() {
            result = Some(read(state));
        }
    });
    result.expect("with_state calls its argument")
}

/// How this node is, by its own account.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalStatus {
    /// This node.
    pub node: NodeId,
    /// Version of its `ballastd`.
    pub version: String,
    /// Raft term.
    pub term: u64,
    /// The leader it follows, itself included.
    pub leader: Option<NodeId>,
    /// The voters in force; both sets while Raft's configuration is joint.
    pub voters: BTreeSet<NodeId>,
    /// That is so: a majority means one of the old and one of the new ones.
    pub voters_changing: bool,
    /// The learners in force.
    pub learners: BTreeSet<NodeId>,
    /// Last entry in its log.
    pub last_log: LogIndex,
    /// Last entry that is on its disk.
    pub synced: LogIndex,
    /// Last entry that it knows to be committed.
    pub committed: LogIndex,
    /// Last entry that it applied.
    pub applied: LogIndex,
    /// Last entry in its newest snapshot; zero when it has none.
    pub snapshot: LogIndex,
    /// Last entry that is no longer in its log; zero when none is gone.
    pub purged: LogIndex,
    /// Time since its state was last confirmed with a quorum; `None` when it never was.
    pub confirmed_age: Option<Duration>,
    /// Revision that its data plane and its session store serve: their listeners were bound, or are among the problems.
    pub serving: Revision,
    /// Listeners of that revision that could not be bound.
    pub listener_problems: Vec<ListenerProblem>,
    /// VIPs that it holds right now.
    pub held: Vec<HeldVip>,
    /// Whether it may hold VIPs, beside what is wrong for single ones.
    pub fitness: Fitness,
    /// How it stands to each VIP.
    pub standings: Vec<VipStatus>,
    /// What is wrong about single VIPs, in words that name who and what.
    pub problems: BTreeMap<VipId, String>,
    /// What deserves a look about single VIPs and keeps it from holding none: who else claims them.
    pub warnings: BTreeMap<VipId, String>,
    /// The fence of its VIPs; `None` with a driver that has none.
    pub fence: Option<&'static str>,
    /// Why it is not ready, one sentence each; ready when empty.
    pub not_ready: Vec<String>,
    /// It takes no new work.
    pub draining: bool,
    /// When its process started.
    pub started: SystemTime,
    /// When its certificate ends.
    pub certificate_not_after: SystemTime,
    /// Client connections that are open.
    pub connections: u64,
    /// How late its lease thread usually is at most; zero when too little was measured.
    pub lease_wake_late: Duration,
    /// How long a majority usually takes at most to answer its lease thread; zero when too little was measured.
    pub lease_renew: Duration,
}

/// A listener that this node cannot bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerProblem {
    /// The farm that it is of; `None` for one of the session store.
    pub farm: Option<FarmId>,
    /// Its name; what is spoken on it if it is of the session store.
    pub listener: String,
    /// Address and port, or the path of a Unix socket.
    pub address: String,
    /// What the operating system said.
    pub error: String,
}

/// A VIP that this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldVip {
    /// Which.
    pub vip: VipId,
    /// The lease's epoch.
    pub epoch: u64,
    /// What is left of the lease.
    pub remaining: Duration,
}

/// What this node's lease thread works from.
#[derive(Clone)]
pub struct LeasePicture {
    /// The agreed state as the lease protocol sees it.
    pub view: Arc<LeaseView>,
    /// Who holds what, as far as this node knows.
    pub owners: BTreeMap<VipId, NodeId>,
}

/// A snapshot that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMade {
    /// Last entry in it.
    pub index: LogIndex,
    /// Its size; `None` when not known.
    pub bytes: Option<u64>,
}

/// Why an operation on this node did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// This node does not lead.
    #[error("this node does not lead; {}", .leader.map_or_else(|| "no leader is known".to_owned(), |id| format!("node {id} does")))]
    NotLeader {
        /// Who does.
        leader: Option<NodeId>,
    },
    /// It took too long.
    #[error("{what} took longer than {waited:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// It failed.
    #[error("{detail}")]
    Failed {
        /// Why, in words.
        detail: String,
    },
}

/// What only this node's own parts can do. `ballastd` implements it.
pub trait Operations: Send + Sync + 'static {
    /// How this node is. Cheap; called for each answer's header.
    fn status(&self) -> LocalStatus;

    /// What this node's lease thread works from; `None` before there is a cluster.
    fn leases(&self) -> Option<LeasePicture>;

    /// Hash of the state in hexadecimal, with its index: at `at`, or the newest one known when
    /// `at` is `None`. `None` when that one is no longer, or not yet, known.
    fn state_hash(&self, at: Option<LogIndex>) -> Option<(LogIndex, String)>;

    /// Hands the leadership to a voter and returns when it leads. Only the leader can.
    fn transfer_leader(&self, to: NodeId, deadline: Duration) -> BoxFuture<'static, Result<(), OperationError>>;

    /// Makes a snapshot now.
    fn snapshot(&self, deadline: Duration) -> BoxFuture<'static, Result<SnapshotMade, OperationError>>;
}

/// Reads a request as the data plane does, so that an explanation is what would happen. The data
/// plane is not a dependency of this crate; `ballastd` knows both.
pub trait RequestReader: Send + Sync + 'static {
    /// Whether a service takes a request for `host` (without port) and `path` (without query).
    fn takes(&self, rule: &RequestMatch, host: &str, path: &str) -> bool;

    /// Hash of the key that a request carries. `head` is the request's head in HTTP/1.1 with its
    /// empty line; `None` when it carries no key.
    fn table_key(
        &self,
        key: &TableKey,
        secret: &[u8; 16],
        service: ServiceId,
        client: IpAddr,
        head: &[u8],
    ) -> Option<KeyHash>;

    /// The backend that a persistence cookie names. `ttl_s` is the configured life, `now_s` seconds
    /// since the Unix epoch; `None` when the cookie does not verify.
    fn cookie_backend(
        &self,
        value: &[u8],
        keys: &[CookieKey],
        service: ServiceId,
        ttl_s: Option<u64>,
        now_s: u64,
    ) -> Option<BackendId>;
}
