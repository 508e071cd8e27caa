//! A member of the cluster's Raft group: started, used through handles, stopped.

mod failure;
mod handle;
mod options;
mod shared;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use ballast_core::{ids::NodeId, state::Origin};
use ballast_storage::OpenError;
use futures_util::StreamExt;
use openraft::{
    RaftLogReader, StorageHelper,
    errors::{InitializeError, RaftError},
    storage::{RaftLogStorage, RaftStateMachine},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

pub(crate) use self::shared::Shared;
use self::shared::{LastHeard, Opened};
pub use self::{
    failure::{FoundError, MemberFailure, StartError},
    handle::Handle,
    options::MemberOptions,
};
use crate::{
    clocks::Clocks,
    duties,
    ground::{self, Ground},
    log_store::{LogStore, entry_id},
    machine::{Machine, Observer, Replica},
    network::Network,
    peers::{AddressBook, Connect, Peers},
    proposer::{self, Flight, LinkOptions, Proposals},
    removal, service,
    status::Status,
    tasks::Tasks,
    types::{Raft, Types},
    upkeep::{self, LogBounds},
    words,
};

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
        let ground = Ground::open(&options.data_dir, options.log)?;
        Self::start_on(ground, options, connect, observer).await
    }

    /// The same on a ground that is there already.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_on(
        ground: Ground,
        options: MemberOptions,
        connect: Arc<dyn Connect>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let Ground { log, snapshots, blocking } = ground;
        let config = options.timing.config(&options.cluster).map_err(|error| StartError::Timing(error.to_string()))?;
        let log = LogStore::open(log, &ground::log_folder(&options.data_dir))?;
        log.expect_votes_within(options.timing.vote_patience());
        claim(&log, &options, snapshots.newest().is_some()).await?;
        if let Some(why) = log.condemned().map_err(|error| StartError::Recover(error.to_string()))? {
            return Err(StartError::Condemned(why));
        }

        let origin = Origin { node: options.node, boot: options.boot };
        let addresses = Arc::new(AddressBook::new(options.seeds));
        let flight = Arc::new(Flight::default());
        let replica = Arc::new(Replica::new(
            origin,
            Arc::clone(&flight),
            Arc::clone(&addresses),
            snapshots,
            Arc::clone(&blocking),
            observer,
        ));
        let clocks = Arc::new(Clocks::new(options.node, options.wall_clock, Arc::clone(&replica.log_clock)));
        let peers = Arc::new(Peers::new(options.node, connect, addresses, clocks));
        let mut machine = Machine::open(Arc::clone(&replica))?;
        log.mend_start(machine.applied(), &ground::log_folder(&options.data_dir)).await?;
        log.on_disk().snapshot(*replica.applied().borrow());
        catch_up(&log, &mut machine).await.map_err(|error| StartError::Recover(error.to_string()))?;
        let opened = open_memberships(&log, &machine).await?;
        let pristine = log.vote().map_err(|error| StartError::Recover(error.to_string()))?.is_none();

        let tasks = Arc::new(Tasks::new());
        let network = Network::new(Arc::clone(&peers), Arc::clone(&tasks), blocking);
        let raft = Raft::build(options.node.get(), Arc::new(config), network, log.clone(), machine)
            .await
            .map_err(|error| StartError::Recover(words::fatal(&error)))?;

        let leader = watch::Sender::new(None);
        let status = watch::Sender::new(opened.clone().into_status(options.node));
        let shared = Arc::new(Shared {
            raft: raft.clone(),
            replica: Arc::clone(&replica),
            merger: Arc::default(),
            peers: Arc::clone(&peers),
            tasks,
            divergences: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            proposed: Arc::default(),
            heard: LastHeard::default(),
            quorum_patience: options.timing.election_max * 2,
            queue: Arc::new(Proposals::new(options.queue_capacity)),
            reads: Arc::default(),
            leader_rounds: Arc::default(),
            leader: leader.subscribe(),
            status: status.subscribe(),
            is_condemned: AtomicBool::new(false),
            condemned: watch::Sender::new(None),
            last_index: log.last_index(),
            on_disk: log.on_disk(),
            opened,
            saved_vote: log.saved_vote(),
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
                Err(error) => return MemberFailure::of(&error),
            }
            tokio::select! {
                changed = condemned.changed() => if changed.is_err() { return MemberFailure::gone() },
                changed = panicked.changed() => if changed.is_err() { return MemberFailure::gone() },
                // Both kinds of metrics end with the core; these change rarely, the others with every entry.
                changed = metrics.changed() => if changed.is_err() {
                    let state = running.borrow_watched().running_state.clone();
                    return state.as_ref().map_or_else(MemberFailure::of, |()| MemberFailure::gone());
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

/// Applies what the log knows to be committed, a bounded part of it at a time. openraft would hold 64 entries at once for that,
/// and to look for memberships in what is not applied, whatever is in them.
async fn catch_up(log: &LogStore, machine: &mut Machine) -> io::Result<()> {
    let mut log = log.clone();
    let Some(committed) = log.read_committed().await? else { return Ok(()) };
    let mut next = machine.applied().map_or(0, |id| id.index + 1);
    let entries = log.entries_stream(next..=committed.index).await;
    let in_order = entries.map(move |entry| {
        let entry = entry?;
        if entry.log_id.index != next {
            return Err(io::Error::other(format!("entry {next} of the log is missing")));
        }
        next += 1;
        Ok((entry, None))
    });
    machine.apply(Box::pin(in_order)).await
}

/// What the log held when it was opened, for whoever asks before consensus runs. Leaves the memberships with the log, so
/// that they are known when an append is overruled.
async fn open_memberships(log: &LogStore, machine: &Machine) -> Result<Opened, StartError> {
    let (mut reader, mut machine) = (log.clone(), machine.clone());
    let found = StorageHelper::<Types, _, _>::new(&mut reader, &mut machine).get_membership().await;
    let found = found.map_err(|error| StartError::Recover(error.to_string()))?;
    let (committed, effective) = (found.committed(), found.effective());
    let ids = [committed.log_id(), effective.log_id()].map(|id| entry_id(id.as_ref()));
    log.found_memberships(ids[usize::from(ids[0] == ids[1])..].iter().copied());
    let sets = effective.membership().get_joint_config().iter();
    let voter_sets = sets.map(|set| set.iter().copied().map(NodeId::new).collect()).collect();
    Ok(Opened { last_log: log.end().index, membership: ids[1], voter_sets })
}

/// A hand-over is two round trips and a sync; if it takes longer, an election does it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Notes whose log this is, and refuses one that is another's, or that forgot whose it is: with it is gone what this node
/// voted for and acknowledged.
async fn claim(log: &LogStore, options: &MemberOptions, has_snapshot: bool) -> Result<(), StartError> {
    let expected = format!("node {} of cluster {}", options.node, options.cluster);
    let found = log.identity().map_err(|error| StartError::Recover(error.to_string()))?;
    match found.map(|found| String::from_utf8_lossy(&found).into_owned()) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(StartError::OtherOwner { path: options.data_dir.clone(), found, expected }),
        None if has_snapshot => {
            let path = ground::log_folder(&options.data_dir);
            let detail = "it was made anew, but this node took part before and has a snapshot".to_owned();
            Err(StartError::Log(OpenError::Damaged { path, detail }))
        }
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
        let rounds = Arc::clone(&shared.leader_rounds);
        async move { reads.run(replica.node(), raft, rounds, peers, leader).await }
    });
    tasks.spawn("confirmations", {
        let (rounds, leader) = (Arc::clone(&shared.leader_rounds), shared.leader.clone());
        let (raft, peers, replica) = (raft.clone(), Arc::clone(&shared.peers), Arc::clone(&shared.replica));
        let saved = shared.saved_vote.clone();
        async move { rounds.run(replica, raft, saved, peers, leader).await }
    });
    tasks.spawn("leader", duties::follow_leader(Arc::clone(shared), leader));
    tasks.spawn("status", duties::publish_status(Arc::clone(shared), status));
    let (replica, peers) = (Arc::clone(&shared.replica), Arc::clone(&shared.peers));
    tasks.spawn("upkeep of the log", upkeep::run(raft, log, bounds, replica, peers));
    tasks.spawn("membership", duties::keep_membership(Arc::clone(shared)));
    tasks.spawn("log time", duties::keep_time(Arc::clone(shared)));
    tasks.spawn("silent nodes", duties::lapse_findings(Arc::clone(shared)));
    tasks.spawn("comparison of states", duties::compare_state(Arc::clone(shared)));
    tasks.spawn("quorum", duties::watch_quorum(Arc::clone(shared)));
    tasks.spawn("removal of this node", removal::find_out(Arc::clone(shared)));
    tasks.spawn("wall clock", duties::watch_clock(Arc::clone(shared)));
}
