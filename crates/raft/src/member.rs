//! A member of the cluster's Raft group: started, used through handles, stopped.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use ballast_core::{
    cluster::{Applied, BoxFuture, NotConfirmed, Propose, ProposeError, ReadIndex},
    durations::Durations,
    ids::{Boot, LogIndex, NodeId},
    state::{Command, Frame, Origin, State},
};
use ballast_storage::{
    OpenError, SnapshotError,
    log::{LogOptions, SyncStats},
    snapshot::SnapshotFolder,
};
use ballast_telemetry::trace;
use openraft::errors::{Fatal, InitializeError, RaftError};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};
use tracing::{Span, field::Empty};

use crate::{
    clocks::{Clocks, WallTime, boottime},
    duties,
    log_store::LogStore,
    machine::{Machine, Observer, Replica},
    network::Network,
    peers::{AddressBook, Connect, Peers},
    proposer::{self, Flight, LinkOptions, Merger, Proposals},
    reads::Reads,
    service,
    status::{Role, Status},
    tasks::Tasks,
    timing::Timing,
    types::{Raft, Types},
    upkeep::{self, LogBounds},
    words,
};

/// What a member is made of.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// The cluster's id. Data of another cluster is refused.
    pub cluster: String,
    /// This node. Data of another node is refused.
    pub node: NodeId,
    /// This life of the process; random.
    pub boot: Boot,
    /// Where to keep the log and the snapshots.
    pub data_dir: PathBuf,
    /// `host:port` of nodes that are known before there is a state that names them.
    pub seeds: BTreeMap<NodeId, String>,
    /// Raft's clocks. The same on all nodes.
    pub timing: Timing,
    /// When to snapshot and what to keep.
    pub bounds: LogBounds,
    /// Most commands that wait to be proposed; more are refused as overload.
    pub queue_capacity: usize,
    /// Cost of the log.
    pub log: LogOptions,
    /// This machine's wall clock. The system's, but for tests of wrong ones.
    pub wall_clock: fn() -> SystemTime,
}

impl MemberOptions {
    /// The usual options.
    pub fn new(cluster: impl Into<String>, node: NodeId, boot: Boot, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            cluster: cluster.into(),
            node,
            boot,
            data_dir: data_dir.into(),
            seeds: BTreeMap::new(),
            timing: Timing::default(),
            bounds: LogBounds::default(),
            // A few entries' worth: what waits longer than they take is better refused.
            queue_capacity: 32_768,
            log: LogOptions::default(),
            wall_clock: SystemTime::now,
        }
    }
}

/// Why a member could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log could not be opened.
    #[error("cannot open the log")]
    Log(#[from] OpenError),
    /// The newest snapshot could not be read.
    #[error("cannot read the newest snapshot")]
    Snapshot(#[from] SnapshotError),
    /// The data belongs to somebody else.
    #[error(
        "{path} holds the data of {found}, this is {expected}; use another data directory, or empty it to join as a new node"
    )]
    OtherOwner {
        /// The data directory.
        path: PathBuf,
        /// Whose data it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The timing is not consistent.
    #[error("the timing of elections is not possible: {0}")]
    Timing(String),
    /// The log and the snapshot could not be brought together.
    #[error("cannot recover the replicated state: {0}")]
    Recover(String),
}

/// Why a member stopped although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberFailure {
    /// The disk, or data on it. Starting again will find the cause or say it again.
    #[error("the member of the cluster stopped: {0}")]
    Storage(String),
    /// A mistake of ours. Starting again is right: what was acknowledged is on disk.
    #[error("the member of the cluster stopped by an internal error: {0}")]
    Internal(String),
    /// This node's state is not what most nodes have at this index. It must not serve.
    #[error(
        "this node's state differs from the others' at log index {0}; it must not serve. Remove it with \
         `ballastctl node remove`, empty its data directory, join it again, and report this with its logs"
    )]
    Diverged(LogIndex),
    /// The log here ends before entries that this node had acknowledged. Its word must not count.
    #[error(
        "this node's log ends at {last}, but it acknowledged entries up to {acknowledged} before: the data directory is an \
         old copy, or the disk lost what it had synced. Remove the node with `ballastctl node remove`, empty its data \
         directory and join it again"
    )]
    Reverted {
        /// Last entry here.
        last: LogIndex,
        /// Last entry that was acknowledged to the leader.
        acknowledged: LogIndex,
    },
}

/// The cluster could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FoundError {
    /// There is one already.
    #[error("this node is already a member of a cluster")]
    AlreadyMember,
    /// The member does not run.
    #[error("the member does not run: {0}")]
    Stopped(String),
}

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

/// What all parts of a member share.
pub(crate) struct Shared {
    pub(crate) raft: Raft,
    pub(crate) replica: Arc<Replica>,
    pub(crate) merger: Arc<Merger>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) tasks: Tasks,
    pub(crate) divergences: AtomicU64,
    /// How often another node came to lead, as this node saw it.
    pub(crate) leader_changes: AtomicU64,
    /// How long proposals of this node took that were applied.
    proposed: Arc<Mutex<Durations>>,
    /// When this node last took entries or a heartbeat from the leader.
    pub(crate) heard: LastHeard,
    quorum_patience: Duration,
    queue: Arc<Proposals>,
    reads: Arc<Reads>,
    leader: watch::Receiver<Option<NodeId>>,
    status: watch::Receiver<Status>,
    /// Why this node must not go on, if others found that.
    condemned: watch::Sender<Option<MemberFailure>>,
    last_index: Arc<AtomicU64>,
    log: Mutex<Option<LogStore>>,
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
        self.peers.clocks.voters_time(metrics.membership_config.membership().get_joint_config(), boottime())
    }

    /// What this member knows now.
    pub(crate) fn status(&self) -> Status {
        use openraft::async_runtime::watch::WatchReceiver;
        let status = Status::of(&self.raft.metrics().borrow_watched());
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

    pub(crate) fn diverged(&self, index: LogIndex) {
        self.condemned.send_replace(Some(MemberFailure::Diverged(index)));
    }

    pub(crate) fn reverted(&self, last: LogIndex, acknowledged: LogIndex) {
        self.condemned.send_replace(Some(MemberFailure::Reverted { last, acknowledged }));
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

/// A running member. It runs until [`Member::shutdown`], whatever becomes of its handles.
pub struct Member {
    shared: Arc<Shared>,
}

impl Member {
    /// Opens the data, rebuilds the state up to what is known to be committed, and starts to take
    /// part. Must be called on a multi-threaded tokio runtime.
    ///
    /// A member that was part of a cluster before stays silent for a moment first, because it has
    /// forgotten which leader it promised not to vote against.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        options: MemberOptions,
        connect: Arc<dyn Connect>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let config = options.timing.config(&options.cluster).map_err(|error| StartError::Timing(error.to_string()))?;
        let log = LogStore::open(&options.data_dir.join("log"), options.log)?;
        claim(&log, &options).await?;
        let folder = SnapshotFolder::open(&options.data_dir.join("snapshots"))?;

        let origin = Origin { node: options.node, boot: options.boot };
        let addresses = Arc::new(AddressBook::new(options.seeds));
        let flight = Arc::new(Flight::default());
        let replica = Arc::new(Replica::new(origin, Arc::clone(&flight), Arc::clone(&addresses), folder, observer));
        let clocks = Arc::new(Clocks::new(options.node, options.wall_clock));
        let peers = Arc::new(Peers::new(options.node, connect, addresses, clocks));
        let machine = Machine::open(Arc::clone(&replica))?;
        let pristine = log.vote().map_err(|error| StartError::Recover(error.to_string()))?.is_none();

        let network = Network { peers: Arc::clone(&peers) };
        let raft = Raft::build(options.node.get(), Arc::new(config), network, log.clone(), machine)
            .await
            .map_err(|error| StartError::Recover(words::fatal(&error)))?;

        let leader = watch::Sender::new(None);
        let status = watch::Sender::new(Status { node: options.node, ..Status::default() });
        let shared = Arc::new(Shared {
            raft: raft.clone(),
            replica: Arc::clone(&replica),
            merger: Arc::default(),
            peers: Arc::clone(&peers),
            tasks: Tasks::new(),
            divergences: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            proposed: Arc::default(),
            heard: LastHeard::default(),
            quorum_patience: options.timing.election_max * 2,
            queue: Arc::new(Proposals::new(options.queue_capacity)),
            reads: Arc::default(),
            leader: leader.subscribe(),
            status: status.subscribe(),
            condemned: watch::Sender::new(None),
            last_index: log.last_index(),
            log: Mutex::new(Some(log.clone())),
        });
        spawn(&shared, flight, leader, status, log, options.bounds);
        let quiet = if pristine { Duration::ZERO } else { options.timing.quiet_after_start() };
        shared.tasks.spawn("start", async move {
            tokio::time::sleep(quiet).await;
            raft.run();
        });
        Ok(Self { shared })
    }

    /// Makes a cluster of this one node. The state of the cluster begins with the first command.
    ///
    /// # Errors
    /// See [`FoundError`].
    pub async fn found(&self) -> Result<(), FoundError> {
        let me = BTreeMap::from([(self.shared.replica.node().get(), ())]);
        self.shared.raft.initialize(me).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => FoundError::AlreadyMember,
            other => FoundError::Stopped(words::fatal_of(&other)),
        })
    }

    /// A handle for everybody else.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// The gRPC services for the node-to-node listener. The listener must authenticate its peers
    /// and put [`crate::PeerNode`] into the extensions of each request.
    pub fn service(&self) -> tonic::service::Routes {
        service::routes(&self.shared)
    }

    /// Resolves when the member stopped and nobody asked it to.
    pub async fn failed(&self) -> MemberFailure {
        use openraft::async_runtime::watch::WatchReceiver;
        let mut metrics = self.shared.raft.server_metrics();
        let mut running = self.shared.raft.metrics();
        let mut panicked = self.shared.tasks.panicked();
        let mut condemned = self.shared.condemned.subscribe();
        loop {
            if let Some(failure) = condemned.borrow_and_update().clone() {
                return failure;
            }
            if let Some(task) = *panicked.borrow_and_update() {
                return MemberFailure::Internal(format!("the task `{task}` panicked"));
            }
            let state = running.borrow_and_update().running_state.clone();
            match state {
                Ok(()) => {}
                Err(error) => return failure(&error),
            }
            tokio::select! {
                changed = condemned.changed() => if changed.is_err() { return gone() },
                changed = panicked.changed() => if changed.is_err() { return gone() },
                // Both kinds of metrics end with the core; these change rarely, the others with every entry.
                changed = metrics.changed() => if changed.is_err() {
                    let state = running.borrow_watched().running_state.clone();
                    return state.as_ref().map_or_else(failure, |()| gone());
                },
            }
        }
    }

    /// Stops: hands leadership over if it has it, refuses what waits, ends consensus, closes the log.
    pub async fn shutdown(self) {
        let shared = &self.shared;
        let handle = self.handle();
        if shared.leads() {
            handle.step_aside(HAND_OVER_TIMEOUT).await;
        }
        shared.queue.stop();
        if let Err(error) = shared.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not end as it should");
        }
        shared.tasks.stop().await;
        shared.replica.flight.abandon();
        shared.reads.stop();
        let log = shared.log.lock().take();
        if let Some(log) = log
            && timeout(CLOSE_TIMEOUT, log.close()).await.is_err()
        {
            tracing::warn!("the log is still in use; a new start in this process may find it locked");
        }
    }
}

/// A hand-over is two round trips and a sync; if it takes longer, an election does it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

fn why_no_quorum(status: &Status, patience: Duration) -> String {
    words::no_quorum(status, |node| {
        let peer = status.peers.get(&node);
        peer.and_then(|peer| peer.silent_for).is_some_and(|silent| silent < patience)
    })
}

fn gone() -> MemberFailure {
    MemberFailure::Internal("consensus ended".to_owned())
}

fn failure(error: &Fatal<Types>) -> MemberFailure {
    tracing::debug!(%error, "consensus ended");
    match error {
        Fatal::StorageError(_) => MemberFailure::Storage(words::fatal(error)),
        Fatal::Panicked | Fatal::Stopped => MemberFailure::Internal(words::fatal(error)),
    }
}

async fn claim(log: &LogStore, options: &MemberOptions) -> Result<(), StartError> {
    let expected = format!("node {} of cluster {}", options.node, options.cluster);
    let found = log.identity().map_err(|error| StartError::Recover(error.to_string()))?;
    match found.map(|found| String::from_utf8_lossy(&found).into_owned()) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(StartError::OtherOwner { path: options.data_dir.clone(), found, expected }),
        None => log.set_identity(expected.as_bytes()).await.map_err(|error| StartError::Recover(error.to_string())),
    }
}

fn spawn(
    shared: &Arc<Shared>,
    flight: Arc<Flight>,
    leader: watch::Sender<Option<NodeId>>,
    status: watch::Sender<Status>,
    log: LogStore,
    bounds: LogBounds,
) {
    let tasks = &shared.tasks;
    let (raft, replica) = (shared.raft.clone(), Arc::clone(&shared.replica));
    tasks.spawn("merger", {
        let (merger, raft, replica) = (Arc::clone(&shared.merger), raft.clone(), Arc::clone(&replica));
        let clocks = Arc::clone(&shared.peers.clocks);
        async move { merger.run(raft, replica, clocks).await }
    });
    tasks.spawn(
        "link to the leader",
        proposer::run(LinkOptions {
            origin: replica.origin,
            queue: Arc::clone(&shared.queue),
            flight,
            merger: Arc::clone(&shared.merger),
            peers: Arc::clone(&shared.peers),
            leader: shared.leader.clone(),
        }),
    );
    tasks.spawn("reads", {
        let (reads, peers, leader) = (Arc::clone(&shared.reads), Arc::clone(&shared.peers), shared.leader.clone());
        let raft = raft.clone();
        async move { reads.run(replica.node(), raft, peers, leader).await }
    });
    tasks.spawn("leader", duties::follow_leader(Arc::clone(shared), leader));
    tasks.spawn("status", duties::publish_status(Arc::clone(shared), status));
    tasks.spawn("upkeep of the log", upkeep::run(raft, log, bounds));
    tasks.spawn("membership", duties::keep_membership(Arc::clone(shared)));
    tasks.spawn("log time", duties::keep_time(Arc::clone(shared)));
    tasks.spawn("silent nodes", duties::lapse_findings(Arc::clone(shared)));
    tasks.spawn("comparison of states", duties::compare_state(Arc::clone(shared)));
    tasks.spawn("quorum", duties::watch_quorum(Arc::clone(shared)));
    tasks.spawn("wall clock", duties::watch_clock(Arc::clone(shared)));
}

/// Uses a member. Cheap to clone; outlives the member, and then says that it is stopping.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
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
    pub fn keep_marks(&self, marks: Arc<dyn Fn(LogIndex, LogIndex) + Send + Sync>) {
        if let Some(log) = self.shared.log.lock().as_ref() {
            log.keep_marks(self.status().membership.get(), marks);
        }
    }

    /// Looks at the replicated state. Apply waits meanwhile: take what is needed and return.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        // Recursive, so that a look within a look does not wait for a writer that waits for the first.
        look(&self.shared.replica.state.read_recursive())
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

    /// How often and how long the log's disk was waited for.
    pub fn sync_stats(&self) -> SyncStats {
        self.shared.log.lock().as_ref().map(LogStore::sync_stats).unwrap_or_default()
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
    async fn step_aside(&self, patience: Duration) {
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

    /// Whether this member takes part in consensus.
    pub fn runs(&self) -> bool {
        !matches!(self.status().role, Role::Stopped)
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
