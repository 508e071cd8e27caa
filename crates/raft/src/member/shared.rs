//! What all parts of a member share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ballast_clock::boot_now;
use ballast_core::{
    cluster::{Applied, ProposeError},
    durations::Durations,
    ids::{EntryId, LogIndex, NodeId},
    state::Command,
};
use ballast_telemetry::trace;
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};
use tracing::{Span, field::Empty};

use super::MemberFailure;
use crate::{
    clocks::WallTime,
    log_store::{LogStore, OnDisk, SavedVote},
    machine::Replica,
    peers::Peers,
    proposer::{Merger, Proposals},
    reads::{LeaderRounds, Reads},
    status::{Role, Status},
    tasks::Tasks,
    types::Raft,
    words,
};

/// A disk that takes longer is faulty, and a node that must not go on ends all the same.
const CONDEMN_TIMEOUT: Duration = Duration::from_secs(5);

/// When something last happened, without a lock.
#[derive(Debug)]
pub(crate) struct LastHeard {
    start: Instant,
    /// Milliseconds after the start, plus one; zero for never.
    at: AtomicU64,
}

impl Default for LastHeard {
    fn default() -> Self {
        Self { start: Instant::now(), at: AtomicU64::new(0) }
    }
}

impl LastHeard {
    pub(crate) fn now(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.at.store(millis + 1, Ordering::Release);
    }

    fn ago(&self) -> Option<Duration> {
        let at = self.at.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(at)))
    }
}

/// What the log held when it was opened. Consensus tells the same, but only once it runs, and a voter that starts must not
/// believe before that it knows all that it acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened {
    pub(super) last_log: LogIndex,
    pub(super) membership: EntryId,
    pub(super) voter_sets: Vec<Vec<NodeId>>,
}

impl Opened {
    /// The same as a status of `node`, which does not run yet.
    pub(super) fn into_status(self, node: NodeId) -> Status {
        let mut voters: Vec<NodeId> = self.voter_sets.concat();
        voters.sort_unstable();
        voters.dedup();
        let Self { last_log, membership, voter_sets } = self;
        Status { node, last_log, membership, voter_sets, voters, ..Status::default() }
    }
}

/// What all parts of a member share.
pub(crate) struct Shared {
    pub(crate) raft: Raft,
    pub(crate) replica: Arc<Replica>,
    pub(crate) merger: Arc<Merger>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) divergences: AtomicU64,
    /// How often another node came to lead, as this node saw it.
    pub(crate) leader_changes: AtomicU64,
    /// How long proposals of this node took that were applied.
    pub(super) proposed: Arc<Mutex<Durations>>,
    /// When this node last took entries or a heartbeat from the leader.
    pub(crate) heard: LastHeard,
    pub(super) quorum_patience: Duration,
    pub(super) queue: Arc<Proposals>,
    pub(super) reads: Arc<Reads>,
    pub(crate) leader_rounds: Arc<LeaderRounds>,
    pub(crate) leader: watch::Receiver<Option<NodeId>>,
    pub(super) status: watch::Receiver<Status>,
    /// Others found that this node must not go on.
    pub(super) is_condemned: AtomicBool,
    /// Why, once that is on disk.
    pub(super) condemned: watch::Sender<Option<MemberFailure>>,
    pub(super) last_index: Arc<AtomicU64>,
    pub(super) on_disk: Arc<OnDisk>,
    pub(super) opened: Opened,
    pub(crate) saved_vote: SavedVote,
    pub(super) log: Mutex<Option<LogStore>>,
}

impl Shared {
    pub(crate) fn leader(&self) -> Option<NodeId> {
        *self.leader.borrow()
    }

    pub(crate) fn leads(&self) -> bool {
        self.leader() == Some(self.replica.node())
    }

    /// The latest time that the clocks of a majority of the voters have reached, if enough are known.
    pub(crate) fn voters_time(&self) -> Option<WallTime> {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        self.peers.clocks.voters_time(metrics.membership_config.membership().get_joint_config(), boot_now())
    }

    /// What this member knows now.
    pub(crate) fn status(&self) -> Status {
        use openraft::async_runtime::watch::WatchReceiver;
        let status = Status::of(&self.raft.metrics().borrow_watched());
        if status.role == Role::Starting {
            return self.opened.clone().into_status(status.node);
        }
        Status { clock_offset_micros: self.peers.clocks.offset_micros(), ..status }
    }

    /// Whether a node with this status has lately been in touch with a quorum.
    pub(crate) fn has_quorum(&self, status: &Status) -> bool {
        let silent_for = match status.role {
            Role::Leader if status.voters == [status.node] => return true,
            Role::Leader => status.quorum_silent_for,
            Role::Learner | Role::Follower | Role::Candidate => self.heard.ago(),
            Role::Starting | Role::Stopped => None,
        };
        silent_for.is_some_and(|silent| silent < self.quorum_patience)
    }

    /// Why nothing can be agreed on just now, in words.
    pub(crate) fn why_no_quorum(&self, status: &Status) -> String {
        why_no_quorum(status, self.quorum_patience)
    }

    pub(crate) fn diverged(self: &Arc<Self>, index: LogIndex) {
        self.condemn(MemberFailure::Diverged(index));
    }

    pub(crate) fn reverted(self: &Arc<Self>, last: LogIndex, acknowledged: LogIndex) {
        self.condemn(MemberFailure::Reverted { last, acknowledged });
    }

    pub(crate) fn removed(self: &Arc<Self>) {
        self.condemn(MemberFailure::Removed);
    }

    /// Refuses the part in consensus at once, and reports the failure once it is on disk: whoever starts this node again
    /// must hear the same.
    fn condemn(self: &Arc<Self>, failure: MemberFailure) {
        if self.is_condemned.swap(true, Ordering::AcqRel) {
            return;
        }
        // Its own vote would count for it, too.
        self.raft.runtime_config().elect(false);
        let shared = Arc::clone(self);
        self.tasks.spawn("word of this node's end", async move {
            let log = shared.log.lock().clone();
            if let Some(log) = log {
                match timeout(CONDEMN_TIMEOUT, log.condemn(&failure.to_string())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "cannot keep that this node must not go on"),
                    Err(_) => tracing::error!("the disk does not confirm in time that this node must not go on"),
                }
            }
            shared.condemned.send_replace(Some(failure));
        });
    }

    /// Whether others found that this node must not go on.
    pub(crate) fn is_condemned(&self) -> bool {
        self.is_condemned.load(Ordering::Acquire)
    }

    pub(crate) fn last_log(&self) -> LogIndex {
        LogIndex::new(self.last_index.load(Ordering::Acquire))
    }

    pub(crate) fn propose(
        &self,
        command: Command,
        deadline: Duration,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + 'static {
        let (raft, patience) = (self.raft.clone(), self.quorum_patience);
        let (proposed, began) = (Arc::clone(&self.proposed), Instant::now());
        let span = match trace::current() {
            Some(_) => tracing::info_span!("propose", otel.name = "raft.propose", ballast.log_index = Empty),
            None => Span::none(),
        };
        let why = move || {
            use openraft::async_runtime::watch::WatchReceiver;
            why_no_quorum(&Status::of(&raft.metrics().borrow_watched()), patience)
        };
        let outcome = span.in_scope(|| self.queue.propose(command, deadline, why));
        async move {
            let outcome = outcome.await;
            if let Ok(applied) = &outcome {
                span.record("ballast.log_index", applied.index.get());
                proposed.lock().record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
            outcome
        }
    }
}

fn why_no_quorum(status: &Status, patience: Duration) -> String {
    words::no_quorum(status, |node| {
        let peer = status.peers.get(&node);
        peer.and_then(|peer| peer.silent_for).is_some_and(|silent| silent < patience)
    })
}
