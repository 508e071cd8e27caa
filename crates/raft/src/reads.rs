//! Confirms that this node's state is current (ReadIndex, section 6.4 of Ongaro's thesis).
//!
//! Whoever asks while a round is on its way waits for the next one, which begins after they
//! asked; all of them share it. So a thousand readers cost two rounds, not a thousand. The leader does the same for
//! what all nodes ask.
//!
//! A leader asks a quorum itself whether they have voted for nobody else since (`Follows`). What openraft counts as an answer to
//! a heartbeat is not enough: it takes the answer to a request for an entry for one to any later request that ends with the
//! same entry (`InflightAppendQueue::drain_acked` in alpha.37). A leader that was frozen or cut off, and hears when it is
//! back what followers had answered long before, commits by that, tells the others so, and takes the next late answer for
//! one to that: it would confirm reads from before, while another leads.
//!
//! Whoever leads a later term has the saved votes of a majority. So when a majority says that the last vote each of them saved
//! is for this leader, nobody had been elected after it when the first of them was asked. They answer from that vote alone:
//! nothing waits for consensus, and no answer holds an election up.
//!
//! The leader tells log time with the index. What a reader has applied says what time it was then: a node that was started a
//! moment ago or stood still, or all nodes before a new leader's first entry, would take for young what has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{
    cluster::NotConfirmed,
    ids::{LogIndex, NodeId},
    time::{BootNanos, LogTime},
};
use ballast_planted::Bug;
use ballast_proto::cluster::v1::{
    FollowsReply, FollowsRequest, ReadIndexReply, ReadIndexRequest, consensus_client::ConsensusClient,
    leader_client::LeaderClient,
};
use futures_util::{StreamExt, future::try_join, stream::FuturesUnordered};
use openraft::{
    async_runtime::watch::WatchReceiver,
    errors::{LinearizableReadError, RaftError},
    raft::ReadPolicy,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{sleep, timeout},
};
use tonic::Streaming;

use crate::{
    line::Line,
    log_store::SavedVote,
    machine::Replica,
    peers::{Peers, Traffic},
    proposer::{log_time_now, slowest},
    status::Status,
    types::Raft,
    words,
};

/// One attempt to ask the leader. Several fit into any sensible deadline.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Lines of a leader to the other voters.
type Followers = BTreeMap<u64, Line<FollowsRequest, Streaming<FollowsReply>>>;

/// The line of a node to whoever leads.
#[derive(Default)]
struct LeaderLine {
    leader: Option<NodeId>,
    line: Line<ReadIndexRequest, Streaming<ReadIndexReply>>,
}

/// What a leader tells readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    /// The index that they must have seen.
    pub(crate) index: u64,
    /// Log time while it was asked for; zero before there was any.
    pub(crate) log_time: LogTime,
}

/// Log time as a leader told it, and the time since at the slowest that log time runs: who is told no more goes by what it
/// applies.
#[derive(Debug, Default)]
struct ToldLogTime(Mutex<Option<(LogTime, BootNanos)>>);

impl ToldLogTime {
    fn told(&self, log_time: LogTime) {
        *self.0.lock() = Some((log_time, boot_now()));
    }

    fn now(&self) -> Option<LogTime> {
        let told = *self.0.lock();
        let now = told.map(|(log_time, at)| slowest(log_time.into(), boot_now().since(at)));
        now.map(|now| LogTime::from_millis(now.as_micros() / 1000))
    }
}

/// Those who wait for a confirmation.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Vec<oneshot::Sender<u64>>>,
    log_time: ToldLogTime,
    problem: Mutex<String>,
    wake: Notify,
}

impl Reads {
    /// Waits until this node has applied what was committed when this was called.
    pub(crate) fn confirm(
        self: &Arc<Self>,
        deadline: Duration,
        mut applied: watch::Receiver<u64>,
    ) -> impl Future<Output = Result<LogIndex, NotConfirmed>> + Send + 'static {
        let (sender, index) = oneshot::channel();
        if ballast_planted::is(Bug::ReadsWithoutReadIndex) {
            _ = sender.send(*applied.borrow());
        } else {
            self.waiting.lock().push(sender);
            self.wake.notify_one();
        }
        let reads = Arc::clone(self);
        async move {
            let current = async {
                let index = index.await.ok()?;
                applied.wait_for(|applied| *applied >= index).await.ok()?;
                Some(LogIndex::new(index))
            };
            match timeout(deadline, current).await {
                Ok(Some(index)) => Ok(index),
                Ok(None) => Err(NotConfirmed { detail: "this node is stopping".to_owned() }),
                Err(_) => Err(NotConfirmed { detail: reads.problem() }),
            }
        }
    }

    /// Asks the leader as long as somebody waits. Ends when the leader watch closes.
    pub(crate) async fn run(
        &self,
        me: NodeId,
        raft: Raft,
        rounds: Arc<LeaderRounds>,
        peers: Arc<Peers>,
        mut leader: watch::Receiver<Option<NodeId>>,
    ) {
        let mut line = LeaderLine::default();
        loop {
            let round = mem::take(&mut *self.waiting.lock());
            if round.is_empty() {
                // Both arms are cancel-safe: a permit that is stored and a change that is not taken now are kept.
                tokio::select! {
                    () = self.wake.notified() => {}
                    changed = leader.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let known = *leader.borrow();
            // Both arms are cancel-safe: the line gives the answer up and goes on, and the leader is looked at again.
            let asked = tokio::select! {
                asked = ask(me, known, &raft, &rounds, &peers, &mut line) => asked,
                // Whoever led before may not answer any more.
                changed = leader.wait_for(|now| *now != known) => match changed {
                    Ok(_) => {
                        self.waiting.lock().extend(round);
                        continue;
                    }
                    Err(_) => return,
                },
            };
            match asked {
                // Some may have stopped waiting.
                Ok(Current { index, log_time }) => {
                    self.problem.lock().clear();
                    // Before the index, so that whoever has that goes by this.
                    self.log_time.told(log_time);
                    round.into_iter().for_each(|waiting| _ = waiting.send(index));
                }
                Err(problem) => {
                    *self.problem.lock() = problem;
                    self.waiting.lock().extend(round.into_iter().filter(|waiting| !waiting.is_closed()));
                    if leader.has_changed().is_err() {
                        return;
                    }
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Log time by what a leader told this node last; `None` before that.
    pub(crate) fn log_time(&self) -> Option<LogTime> {
        self.log_time.now()
    }

    /// Lets go of everybody.
    pub(crate) fn stop(&self) {
        self.waiting.lock().clear();
    }

    fn problem(&self) -> String {
        let problem = self.problem.lock();
        if problem.is_empty() { "the leader did not answer in time; try again".to_owned() } else { problem.clone() }
    }
}

/// Rounds of a leader: one heartbeat to a quorum serves the readers of all nodes that asked before it began.
#[derive(Debug, Default)]
pub(crate) struct LeaderRounds {
    waiting: Mutex<Vec<oneshot::Sender<Result<Current, String>>>>,
    wake: Notify,
}

impl LeaderRounds {
    /// The index that a read must have seen, confirmed by a quorum, and log time. The error is for people; a node that does not
    /// lead has nothing else.
    pub(crate) async fn current(&self) -> Result<Current, String> {
        let (sender, index) = oneshot::channel();
        self.waiting.lock().push(sender);
        self.wake.notify_one();
        index.await.unwrap_or_else(|_| Err(words::stopped()))
    }

    /// Confirms as long as somebody waits. Ends when the leader watch closes.
    pub(crate) async fn run(
        &self,
        replica: Arc<Replica>,
        raft: Raft,
        saved: SavedVote,
        peers: Arc<Peers>,
        mut leader: watch::Receiver<Option<NodeId>>,
    ) {
        let me = replica.node();
        let mut lines = Followers::new();
        loop {
            let round = mem::take(&mut *self.waiting.lock());
            if round.is_empty() {
                // Both arms are cancel-safe: a permit that is stored and a change that is not taken now are kept.
                tokio::select! {
                    () = self.wake.notified() => {}
                    changed = leader.changed() => if changed.is_err() { break },
                }
                continue;
            }
            // The index is taken after the round began, and whoever is asked is asked after it began; about a term that is
            // no later than the one that the index is of.
            let confirmed = async {
                let term = saved.of(me).ok_or_else(|| words::not_leader(me))?;
                let leads = still_leads(me, term.get(), &raft, &peers, &mut lines);
                let (index, ()) = try_join(read_index(&raft), leads).await?;
                Ok(Current { index, log_time: log_time_now(&raft, &replica, &peers.clocks).unwrap_or_default() })
            };
            let answer = timeout(ASK_TIMEOUT, confirmed).await.unwrap_or_else(|_| Err(no_quorum(&raft)));
            // Some may have stopped waiting.
            round.into_iter().for_each(|waiting| _ = waiting.send(answer.clone()));
            if leader.has_changed().is_err() {
                break;
            }
        }
        self.waiting.lock().clear();
    }
}

async fn ask(
    me: NodeId,
    leader: Option<NodeId>,
    raft: &Raft,
    rounds: &LeaderRounds,
    peers: &Peers,
    line: &mut LeaderLine,
) -> Result<Current, String> {
    let Some(leader) = leader else { return Err(no_quorum(raft)) };
    let asked = async {
        if leader == me {
            return rounds.current().await;
        }
        if line.leader != Some(leader) {
            *line = LeaderLine { leader: Some(leader), line: Line::default() };
        }
        let answer = line.line.ask(
            |question| ReadIndexRequest { question },
            |questions| {
                let mut client = LeaderClient::new(peers.channel(leader, Traffic::Leader));
                let request = peers.request(leader, questions);
                Box::pin(async move { Ok(client.read_index(request).await?.into_inner()) })
            },
        );
        let reply = answer.await.map_err(|status| {
            tracing::debug!(%leader, %status, "the leader could not be asked");
            words::unreachable_leader(me, leader)
        })?;
        let log_time = LogTime::from_millis(reply.log_time_ms);
        if reply.problem.is_empty() { Ok(Current { index: reply.index, log_time }) } else { Err(reply.problem) }
    };
    timeout(ASK_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(if leader == me { no_quorum(raft) } else { words::unreachable_leader(me, leader) }))
}

fn no_quorum(raft: &Raft) -> String {
    let status = status(raft);
    words::no_quorum(&status, |node| {
        let peer = status.peers.get(&node);
        peer.and_then(|peer| peer.silent_for).is_some_and(|silent| silent < ASK_TIMEOUT)
    })
}

fn status(raft: &Raft) -> Status {
    Status::of(&raft.metrics().borrow_watched())
}

/// Waits until a majority of every voter set has said, to questions asked now, that it follows this leader.
async fn still_leads(
    me: NodeId,
    term: u64,
    raft: &Raft,
    peers: &Arc<Peers>,
    lines: &mut Followers,
) -> Result<(), String> {
    if ballast_planted::is(Bug::ReadsConfirmedByLateAnswers) {
        return Ok(());
    }
    let sets = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if !metrics.state.is_leader() {
            return Err(words::not_leader(me));
        }
        metrics.membership_config.membership().get_joint_config().clone()
    };
    let others: BTreeSet<u64> = sets.iter().flatten().copied().filter(|voter| *voter != me.get()).collect();
    lines.retain(|node, _| others.contains(node));
    others.iter().for_each(|node| _ = lines.entry(*node).or_default());
    let mut answers: FuturesUnordered<_> = lines
        .iter_mut()
        .map(|(voter, line)| async move {
            let node = NodeId::new(*voter);
            let answer = line.ask(
                |question| FollowsRequest { question, term },
                |questions| {
                    let mut client = ConsensusClient::new(peers.channel(node, Traffic::Liveness));
                    let request = peers.request(node, questions);
                    Box::pin(async move { Ok(client.follows(request).await?.into_inner()) })
                },
            );
            answer.await.is_ok_and(|answer| answer.follows).then_some(*voter)
        })
        .collect();
    let mut following = BTreeSet::from([me.get()]);
    while !sets.iter().all(|set| set.intersection(&following).count() * 2 > set.len()) {
        match answers.next().await {
            Some(voter) => following.extend(voter),
            None => return Err(words::no_quorum(&status(raft), |node| following.contains(&node.get()))),
        }
    }
    Ok(())
}

async fn read_index(raft: &Raft) -> Result<u64, String> {
    // Only where the log must have come to is asked for. While openraft has heard from a quorum lately it says so without a
    // round of its own; whether this node leads is asked of the others.
    let late_answers_count = ballast_planted::is(Bug::ReadsConfirmedByLateAnswers);
    if !late_answers_count && let Ok((read, _applied)) = raft.get_read_log_id(ReadPolicy::LeaseRead).await {
        return Ok(read.index());
    }
    let error = match raft.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read, _applied)) => return Ok(read.index()),
        Err(error) => error,
    };
    tracing::debug!(%error, "a read was not confirmed");
    Err(match error {
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(few)) => {
            words::no_quorum(&status(raft), |node| few.got.contains(&node.get()))
        }
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => words::not_leader(status(raft).node),
        RaftError::Fatal(_) => words::stopped(),
    })
}
