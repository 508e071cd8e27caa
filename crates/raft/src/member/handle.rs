//! What everybody else does with a member.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ballast_core::{
    cluster::{Applied, BoxFuture, NotConfirmed, Propose, ProposeError, ReadIndex},
    durations::Durations,
    ids::{EntryId, LogIndex, NodeId},
    state::{Command, Frame, State},
    time::LogTime,
};
use ballast_storage::log::SyncStats;
use tokio::{sync::watch, time::timeout};

use super::Shared;
use crate::{
    log_store::LogStore,
    proposer,
    status::{Role, Status},
};

/// Uses a member. Cheap to clone; outlives the member, and then says that it is stopping.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// This node.
    pub fn node(&self) -> NodeId {
        self.shared.replica.node()
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.leader()
    }

    /// Who leads, as it changes.
    pub fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.shared.leader.clone()
    }

    /// What this member knows now.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Whether this node has lately been in touch with a quorum: as the leader, a majority
    /// answered it; otherwise, it heard from a leader that has one. Tells operators and health
    /// checks whether this node is cut off; reads and writes find out for themselves.
    pub fn has_quorum(&self) -> bool {
        self.shared.has_quorum(&self.status())
    }

    /// What this member knows, as it changes (not each change, but the last one always).
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// Index of the last entry applied here, as it grows.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.replica.applied()
    }

    /// Index of the last entry in this node's log, kept up to date, for those who cannot wait.
    pub fn last_log_index(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.last_index)
    }

    /// Tells `marks` where this node's log and the newest membership entry in it end: at once, and
    /// from now on before an append is acknowledged. It runs where the log is written, so it must be quick.
    pub fn keep_marks(&self, marks: Arc<dyn Fn(EntryId, EntryId) + Send + Sync>) {
        if let Some(log) = self.shared.log.lock().as_ref() {
            log.keep_marks(marks);
        }
    }

    /// Looks at the replicated state. Apply waits meanwhile: take what is needed and return.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.shared.replica.look(look)
    }

    /// Commands that wait on this node to be proposed.
    pub fn queued(&self) -> usize {
        self.shared.queue.len()
    }

    /// How often the states of two nodes were found to differ, as far as this node judged as leader.
    pub fn divergences(&self) -> u64 {
        self.shared.divergences.load(Ordering::Relaxed)
    }

    /// How often another node came to lead, as this node saw it.
    pub fn leader_changes(&self) -> u64 {
        self.shared.leader_changes.load(Ordering::Relaxed)
    }

    /// How long proposals of this node took, from queueing to applied here.
    pub fn proposal_durations(&self) -> Durations {
        *self.shared.proposed.lock()
    }

    /// Up to which entry the log is on this node's disk. The state may be ahead of it.
    pub fn synced_index(&self) -> LogIndex {
        self.shared.on_disk.index()
    }

    /// Up to where a node must have applied to know all that was agreed before its voters were: up to the membership entry
    /// before the newest in its log, which was committed before anybody proposed that one, or up to `effective` if that came with
    /// a snapshot. Zero if the log does not reach back so far.
    pub fn membership_before(&self, effective: EntryId) -> LogIndex {
        self.shared.log.lock().as_ref().map_or(LogIndex::default(), |log| log.membership_before(effective))
    }

    /// How often and how long the log's disk was waited for.
    pub fn sync_stats(&self) -> SyncStats {
        self.shared.log.lock().as_ref().map(LogStore::sync_stats).unwrap_or_default()
    }

    /// How many votes this node's disk synced so slowly that an election may have failed for it.
    pub fn slow_votes(&self) -> u64 {
        self.shared.log.lock().as_ref().map_or(0, LogStore::slow_votes)
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> u64 {
        self.shared.log.lock().as_ref().map_or(0, LogStore::bytes)
    }

    /// Writes a snapshot soon. False if the member does not run.
    pub async fn trigger_snapshot(&self) -> bool {
        self.shared.raft.trigger().snapshot().await.is_ok()
    }

    /// Asks the leader, which must be this node, to hand over to `to`. False if the member does
    /// not run. Whether it happened is seen in [`Handle::watch_leader`].
    pub async fn transfer_leader(&self, to: NodeId) -> bool {
        self.shared.raft.trigger().transfer_leader(to.get()).await.is_ok()
    }

    /// Hands leadership to the voter that is furthest along, and waits until another node leads.
    pub(super) async fn step_aside(&self, patience: Duration) {
        let status = self.status();
        let heir = status
            .peers
            .iter()
            .filter(|(node, peer)| {
                status.voters.contains(node) && peer.silent_for.is_some_and(|silent| silent < patience)
            })
            .min_by_key(|(_, peer)| peer.lag)
            .map(|(node, _)| *node);
        let Some(heir) = heir else { return };
        let me = self.node();
        let mut leader = self.watch_leader();
        if self.transfer_leader(heir).await {
            let handed_over = leader.wait_for(|leader| leader.is_some_and(|leader| leader != me));
            if timeout(patience, handed_over).await.is_err() {
                tracing::info!(%heir, "leadership was not handed over in time; an election will do it");
            }
        }
    }

    /// Proposes a frame as an entry of its own, past the queue, the link and the merger, and waits until this node,
    /// which must lead, has applied it. For `examples/churn`, which asks what consensus bears: an entry costs a sync
    /// and a message to each follower, so nothing else should want this.
    ///
    /// # Errors
    /// As for [`Propose::propose`].
    #[doc(hidden)]
    pub async fn propose_alone(&self, frame: Frame) -> Result<LogIndex, ProposeError> {
        let asked = Instant::now();
        let shared = &self.shared;
        match proposer::propose_entry(&shared.raft, &shared.replica, &shared.peers.clocks, vec![frame]).await {
            Ok(index) => Ok(index),
            Err(refused) if refused.certain => Err(ProposeError::NoQuorum { detail: refused.reason }),
            Err(_) => Err(ProposeError::OutcomeUnknown { waited: asked.elapsed() }),
        }
    }

    /// Log time as the leader reckoned it when this node's state was last confirmed ([`ReadIndex`]), and the time since: what is
    /// applied may be from long ago. `None` before that.
    pub fn log_time_told(&self) -> Option<LogTime> {
        self.shared.reads.log_time()
    }

    /// Whether this member takes part in consensus.
    pub fn runs(&self) -> bool {
        !matches!(self.status().role, Role::Stopped)
    }
}

impl Handle {
    /// The cluster removed this node, as its own state says. The member keeps that, and fails
    /// ([`Member::failed`](super::Member::failed)).
    pub fn removed(&self) {
        self.shared.removed();
    }
}

impl Propose for Handle {
    fn propose(&self, command: Command, deadline: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        Box::pin(self.shared.propose(command, deadline))
    }
}

impl ReadIndex for Handle {
    fn confirm(&self, deadline: Duration) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
        Box::pin(self.shared.reads.confirm(deadline, self.shared.replica.applied()))
    }
}
