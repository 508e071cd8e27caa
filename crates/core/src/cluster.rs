//! The small traits through which the rest of Ballast reads agreed state and proposes changes.
//!
//! `proxy`, `vip`, `sessions` and `admin` know these and not Raft, so that each of them runs in a
//! test against a fake, and so that consensus has one home.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::{
    health::{Answer, Heard},
    ids::{BackendId, LogIndex, NodeId, ServiceId, VipId},
    lease::VipGate,
    persistence::KeyHash,
    plan::{Plan, Verdict},
    state::{Command, Outcome, RehomeCause},
    time::LogTime,
};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A command's place in the log and what the state machine made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Index of the entry that carried the command. This node has applied it.
    pub index: LogIndex,
    /// What the state machine answered. A refusal is an outcome too.
    pub outcome: Outcome,
}

/// Why a proposal did not come back with an outcome. Sorted by who must act.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not applied: no leader could be reached before the deadline.
    #[error(
        "no quorum: {detail}; nothing was changed, try again when `ballastctl cluster status` shows no `no quorum`"
    )]
    NoQuorum {
        /// What this node knows (who it cannot reach).
        detail: String,
    },
    /// May or may not be applied: handed to a leader, no answer before the deadline. It is handed to none after that, so
    /// that it is applied soon or never, unless what that leader wrote into its log is agreed on later.
    #[error("outcome unknown: the change was sent but not confirmed within {waited:?}; look before you repeat it")]
    OutcomeUnknown {
        /// How long the caller waited.
        waited: Duration,
    },
    /// Certainly not applied: this node's queue of proposals is full.
    #[error("overloaded: {queued} changes wait to be proposed on this node; try again later")]
    Overloaded {
        /// Length of the queue.
        queued: usize,
    },
    /// Certainly not applied: the command is larger than an entry of the log may be.
    #[error(
        "too large: the change takes {bytes} bytes in the log and {bytes_max} are possible; make it smaller or split it"
    )]
    TooLarge {
        /// What it would take.
        bytes: usize,
        /// What is possible.
        bytes_max: usize,
    },
    /// Certainly not applied: the leader cannot read the command.
    #[error(
        "node {leader} leads and runs an earlier version, which cannot read this change; nothing was changed, finish \
         upgrading all nodes and try again"
    )]
    Unreadable {
        /// Who leads.
        leader: NodeId,
    },
    /// Certainly not applied: this node is going down.
    #[error("this node is stopping")]
    Stopping,
}

/// Proposes commands to the replicated log from any node.
pub trait Propose: Send + Sync + 'static {
    /// Proposes `command` and waits until this node has applied it, at most `deadline`. After that it is not sent any more.
    ///
    /// # Errors
    /// See [`ProposeError`]; only `OutcomeUnknown` leaves open whether the command took effect.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the wait, not the command, which goes on to be sent until `deadline`.
    fn propose(&self, command: Command, deadline: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>>;
}

/// This node could not confirm in time that its state is current.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("state could not be confirmed with a quorum: {detail}")]
pub struct NotConfirmed {
    /// What was missing.
    pub detail: String,
}

/// Linearizable reads from any node (Raft's ReadIndex, section 6.4 of Ongaro's thesis).
pub trait ReadIndex: Send + Sync + 'static {
    /// Waits until this node has applied everything that was committed when the call was made.
    ///
    /// # Errors
    /// [`NotConfirmed`] when no quorum answered before `deadline`.
    fn confirm(&self, deadline: Duration) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>>;
}

/// What a look into the local binding table said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Bound, and this node's table is fresh enough to say so.
    Hit {
        /// The backend the key is bound to.
        backend: BackendId,
        /// Enough of the idle time has passed that the binding wants renewing.
        renew: bool,
    },
    /// Not bound here, or past its lifetime. Always safe: binding again returns what exists.
    Miss,
    /// Bound here, but this node has not confirmed its state lately: confirm, then look again.
    Stale,
}

/// A request to bind a key.
#[derive(Clone, Debug, PartialEq)]
pub struct BindRequest {
    /// Whose table.
    pub service: ServiceId,
    /// Keyed hash of the key.
    pub key: KeyHash,
    /// The backend to bind to if the key is free.
    pub choice: BackendId,
    /// Set when the caller found `choice` because the bound backend cannot serve: the binding the
    /// caller saw and why it must change. Refused (with the binding that stands) if it changed meanwhile.
    pub replaces: Option<(BackendId, RehomeCause)>,
    /// Set when `choice` has given the client its key, so that it has the client's session already and may be one that takes
    /// nobody new. Not together with `replaces`.
    pub learned: bool,
}

/// A binding that is in the log and in this node's table, and that may be forwarded on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The backend that the key is bound to, which need not be the one that was asked for.
    pub backend: BackendId,
    /// Index of the entry that says so.
    pub index: LogIndex,
    /// What happened.
    pub how: BoundHow,
}

/// How a binding came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundHow {
    /// The key was free.
    Created,
    /// The key was bound already; first writer wins.
    Existing,
    /// The key was moved by this request.
    Rehomed(RehomeCause),
}

/// Why a key could not be bound.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BindError {
    /// The change did not get through the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The table is full and its policy refuses new entries.
    #[error("the binding table of this service is full")]
    TableFull,
    /// The chosen backend may not take new bindings (drained, gone, or down) at that index.
    #[error("the chosen backend takes no new bindings")]
    NotEligible,
}

/// The binding tables as the data plane uses them.
pub trait Bindings: Send + Sync + 'static {
    /// Looks a key up in this node's table. With what [`Bindings::confirm`] told the same request the table is fresh for it,
    /// however long that took. Costs no lock that a writer holds for long, no allocation.
    fn lookup(&self, service: ServiceId, key: KeyHash, confirmed: Option<LogIndex>) -> Lookup;

    /// Binds a key through the log. Returns when the binding may be forwarded on: a re-homed key
    /// waits until no other node can still serve the old binding from a fresh table.
    fn bind(&self, request: BindRequest) -> BoxFuture<'static, Result<Bound, BindError>>;

    /// Renews a binding's idle time. Fire and forget; dropped first under pressure.
    fn renew(&self, service: ServiceId, key: KeyHash);

    /// What this node's table says of a key, however old it is. Asked only after [`Bindings::confirm`] or
    /// [`Bindings::bind`] failed and the farm's policy is to serve as last known. `None` serves the client unbound.
    fn last_known(&self, _service: ServiceId, _key: KeyHash) -> Option<BackendId> {
        None
    }

    /// Waits until this node's table is fresh (see [`Lookup::Stale`]). Returns the index that it has come to, up to which
    /// everything is that was committed when the request asked.
    fn confirm(&self) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>>;
}

/// This node's view of agreed state, compiled for the data plane.
pub trait ClusterView: Send + Sync + 'static {
    /// The plan in force. Cheap; the pointer is shared.
    fn plan(&self) -> Arc<Plan>;

    /// Grows with each new plan; compare it to know whether [`ClusterView::plan`] must be read again.
    fn generation(&self) -> u64;

    /// This node.
    fn node(&self) -> NodeId;

    /// Log time now, as far as this node can tell. Costs a look at the clock.
    fn log_time(&self) -> LogTime;
}

/// Which VIPs this node may serve right now.
pub trait Ownership: Send + Sync + 'static {
    /// The VIP's gate. Valid for the life of the process, also before the VIP is first held.
    fn gate(&self, vip: VipId) -> Arc<VipGate>;
}

/// Whether this node is heard.
pub trait Contact: Send + Sync + 'static {
    /// When the newest question was asked that a majority of the voters has answered. Costs a few instructions.
    fn heard(&self) -> Heard;
}

/// What the data plane noticed about a backend while serving.
pub trait PassiveHealth: Send + Sync + 'static {
    /// What a request or connection attempt got from there. Called for each request: must cost next to nothing.
    fn observed(&self, backend: BackendId, answer: Answer);

    /// This node's own verdict, for `policy: local` and while there is no quorum.
    fn local_verdict(&self, backend: BackendId) -> Verdict;

    /// True while this node has no quorum and must go by its own checks.
    fn isolated(&self) -> bool;
}
