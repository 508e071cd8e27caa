//! The leader's side: frames of all nodes become entries of the log.
//!
//! One entry is being committed at a time; frames that arrive meanwhile make up the next. So an
//! idle cluster proposes at once, and a busy one makes few, large entries: fewer syncs, fewer
//! messages, and far from the load of many small writes that openraft's issue 2116 is about.
//!
//! Frames of one source are proposed in order or not at all: once one was refused, later ones of
//! the same source are dropped, and the source must come again with all of them.
//!
//! A leader that is cut off from its quorum commits nothing, and what waits must stay bounded: the
//! frames of a stream that ended are dropped, since its node sends them again elsewhere, and a
//! stream on which more comes than a node has on its way is refused.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{
    ids::LogIndex,
    state::{Entry, Frame, codec},
    time::LogTime,
};
use ballast_proto::cluster::v1 as pb;
use ballast_telemetry::trace;
use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tracing::{Instrument as _, Span, field::Empty};

use super::{
    BYTES_MAX, COMMANDS_MAX, FRAMES_IN_FLIGHT,
    log_clock::{LogClock, Stamp},
};
use crate::{
    clocks::Clocks,
    machine::Replica,
    types::{Commands, Raft},
    words,
};

/// Frames of one source that may wait. A node keeps to [`FRAMES_IN_FLIGHT`]; twice that only bounds
/// one that does not.
const SOURCE_FRAMES_MAX: usize = 2 * FRAMES_IN_FLIGHT;

/// The leader does not propose frames of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// This one and all later ones.
    pub(crate) from_seq: u64,
    /// False if the frames may have been proposed all the same.
    pub(crate) certain: bool,
    pub(crate) reason: String,
}

impl From<Refused> for pb::FrameRefused {
    fn from(Refused { from_seq, certain, reason }: Refused) -> Self {
        Self { from_seq, certain, reason, unreadable: None }
    }
}

/// Where frames come from: one stream of one node.
#[derive(Debug)]
struct Source {
    refused: AtomicBool,
    sender: mpsc::Sender<Refused>,
}

impl Source {
    /// A source, and where it hears that it was refused (once).
    fn new() -> (Arc<Self>, mpsc::Receiver<Refused>) {
        let (sender, receiver) = mpsc::channel(1);
        (Arc::new(Self { refused: AtomicBool::new(false), sender }), receiver)
    }

    fn refuse(&self, refused: Refused) {
        if !self.refused.swap(true, Ordering::AcqRel) {
            // Room for one, sent once; a closed channel means that the stream is gone.
            drop(self.sender.try_send(refused));
        }
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }
}

/// Where one stream hands its frames in. When it is dropped, frames that still wait are dropped too.
#[derive(Debug)]
pub(crate) struct Inlet {
    merger: Arc<Merger>,
    source: Arc<Source>,
}

impl Inlet {
    /// Hands a frame in. `bytes` is its size in an entry, `trace` what it is part of.
    pub(crate) fn hand_in(&self, frame: Frame, bytes: usize, trace: Option<String>) {
        self.merger.hand_in(Arrived { frame, bytes, trace, source: Arc::clone(&self.source) });
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.source.refused.store(true, Ordering::Release);
        self.merger.forget(&self.source);
    }
}

#[derive(Debug)]
struct Arrived {
    frame: Frame,
    bytes: usize,
    trace: Option<String>,
    source: Arc<Source>,
}

/// Frames waiting to become an entry.
#[derive(Debug, Default)]
pub(crate) struct Merger {
    arrived: Mutex<VecDeque<Arrived>>,
    wake: Notify,
}

impl Merger {
    /// A way in for the frames of one stream, and where that stream hears that it was refused (once).
    pub(crate) fn open(self: &Arc<Self>) -> (Inlet, mpsc::Receiver<Refused>) {
        let (source, refusals) = Source::new();
        (Inlet { merger: Arc::clone(self), source }, refusals)
    }

    fn hand_in(&self, next: Arrived) {
        let source = &next.source;
        let mut arrived = self.arrived.lock();
        if source.is_refused() {
            return;
        }
        let mut waiting = arrived.iter().filter(|arrived| Arc::ptr_eq(&arrived.source, source));
        if let Some(first) = waiting.next()
            && waiting.count() + 1 >= SOURCE_FRAMES_MAX
        {
            // None of what waits will be proposed, so all of it is certain.
            let from_seq = first.frame.seq;
            let reason = format!("more than {SOURCE_FRAMES_MAX} frames wait on this stream");
            source.refuse(Refused { from_seq, certain: true, reason });
            arrived.retain(|arrived| !Arc::ptr_eq(&arrived.source, source));
            return;
        }
        arrived.push_back(next);
        drop(arrived);
        self.wake.notify_one();
    }

    /// Drops what waits of a source.
    fn forget(&self, source: &Arc<Source>) {
        self.arrived.lock().retain(|arrived| !Arc::ptr_eq(&arrived.source, source));
    }

    /// Proposes what arrives, until the member stops. Runs on every node; on one that does not
    /// lead, frames are refused.
    pub(crate) async fn run(&self, raft: Raft, replica: Arc<Replica>, clocks: Arc<Clocks>) {
        loop {
            let batch = self.take();
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let span = span_of(&batch);
            let (sources, frames): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|arrived| ((arrived.source, arrived.frame.seq), arrived.frame)).unzip();
            let committing = propose_entry(&raft, &replica, &clocks, frames).instrument(span.clone());
            let failed = match committing.await {
                Ok(index) => {
                    span.record("ballast.log_index", index.get());
                    continue;
                }
                Err(failed) => failed,
            };
            for (source, from_seq) in sources {
                source.refuse(Refused { from_seq, certain: failed.certain, reason: failed.reason.clone() });
            }
            if failed.fatal {
                return;
            }
        }
    }

    fn take(&self) -> Vec<Arrived> {
        let mut arrived = self.arrived.lock();
        let mut taken: Vec<Arrived> = Vec::new();
        let (mut commands, mut bytes) = (0, 0);
        while let Some(next) = arrived.front() {
            if !next.source.is_refused() {
                let fits = commands + next.frame.commands.len() <= COMMANDS_MAX && bytes + next.bytes <= BYTES_MAX;
                if !taken.is_empty() && !fits {
                    break;
                }
                commands += next.frame.commands.len();
                bytes += next.bytes;
            }
            let Some(next) = arrived.pop_front() else { break };
            if !next.source.is_refused() {
                taken.push(next);
            }
        }
        taken
    }
}

/// Links in one span; an entry may carry thousands of commands.
const LINKS_MAX: usize = 16;

/// The span of an entry: a child of the first trace that it carries a change of, linked to the others.
fn span_of(batch: &[Arrived]) -> Span {
    let mut traces = batch.iter().filter_map(|arrived| arrived.trace.as_deref());
    let Some(first) = traces.next() else { return Span::none() };
    let span =
        tracing::info_span!("commit", otel.name = "raft.commit", ballast.log_index = Empty, frames = batch.len());
    trace::continue_from(&span, first);
    traces.take(LINKS_MAX).for_each(|other| trace::link(&span, other));
    span
}

/// An entry was not proposed, or is not known to be committed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// It certainly is not and will not be in the log.
    pub(crate) certain: bool,
    /// Consensus ended here.
    pub(crate) fatal: bool,
    /// For people.
    pub(crate) reason: String,
}

/// Proposes frames as one entry, stamped with log time, and waits until it is applied here.
pub(crate) async fn propose_entry(
    raft: &Raft,
    replica: &Replica,
    clocks: &Clocks,
    frames: Vec<Frame>,
) -> Result<LogIndex, Failed> {
    let entry = Entry { log_time: stamp(raft, replica, clocks), frames };
    let bytes = Bytes::from(codec::encode_entry(&entry));
    drop(entry);
    let error = match raft.client_write(Commands(bytes)).await {
        Ok(written) => return Ok(LogIndex::new(written.log_id.index)),
        Err(error) => error,
    };
    tracing::debug!(%error, "an entry was not proposed");
    let certain = matches!(error, RaftError::APIError(ClientWriteError::ForwardToLeader(_)));
    let (fatal, reason) = match error {
        RaftError::APIError(_) => (false, words::not_leader(replica.node())),
        RaftError::Fatal(_) => (true, words::stopped()),
    };
    Err(Failed { certain, fatal, reason })
}

/// The log time of the next entry.
fn stamp(raft: &Raft, replica: &Replica, clocks: &Clocks) -> LogTime {
    let stamp = next(raft, &mut replica.log_clock.lock(), clocks);
    if stamp.jumped_micros > 0 {
        let by = Duration::from_micros(stamp.jumped_micros);
        tracing::info!(?by, "log time was behind the clocks of a majority of the voters and jumps forward");
    }
    stamp.log_time
}

/// The log time that an entry would be stamped with now, if this node leads; `None` before there is any.
pub(crate) fn log_time_now(raft: &Raft, replica: &Replica, clocks: &Clocks) -> Option<LogTime> {
    let mut clock = replica.log_clock.lock().clone();
    clock.has_begun().then(|| next(raft, &mut clock, clocks).log_time)
}

fn next(raft: &Raft, clock: &mut LogClock, clocks: &Clocks) -> Stamp {
    use openraft::async_runtime::watch::WatchReceiver;
    let now = boot_now();
    let metrics = raft.metrics();
    let (led, voters) = {
        let metrics = metrics.borrow_watched();
        let sets = metrics.membership_config.membership().get_joint_config();
        let led = metrics.state.is_leader().then_some(metrics.current_term);
        (led, clocks.voters_time(sets, now))
    };
    // The founder of a cluster may propose before openraft has told that it is the only voter.
    let voters = voters.or_else(|| (!clock.has_begun()).then(|| clocks.own()));
    if let Some(term) = led {
        clock.lead(term, now, clocks.log_time_told(now), voters);
    }
    clock.stamp(now, voters)
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        ids::{Boot, NodeId},
        state::{Command, Origin},
    };

    use super::*;

    fn frame(node: u64, seq: u64, commands: usize) -> Frame {
        let origin = Origin { node: NodeId::new(node), boot: Boot(1) };
        Frame { origin, seq, commands: vec![Command::Tick; commands] }
    }

    fn waiting(merger: &Merger) -> usize {
        merger.arrived.lock().len()
    }

    fn taken(merger: &Merger) -> Vec<(u64, u64)> {
        merger.take().iter().map(|arrived| (arrived.frame.origin.node.get(), arrived.frame.seq)).collect()
    }

    #[test]
    fn frames_of_all_nodes_leave_together_up_to_the_bounds() {
        let merger = Arc::new(Merger::default());
        let (inlet, _refusals) = merger.open();
        for node in 1..4 {
            inlet.hand_in(frame(node, 1, 10), 100, None);
        }
        assert_eq!(taken(&merger), [(1, 1), (2, 1), (3, 1)]);
        inlet.hand_in(frame(1, 2, COMMANDS_MAX - 1), 100, None);
        inlet.hand_in(frame(2, 2, 2), 100, None);
        inlet.hand_in(frame(3, 2, 1), BYTES_MAX, None);
        assert_eq!(taken(&merger), [(1, 2)]);
        assert_eq!(taken(&merger), [(2, 2)]);
        assert_eq!(taken(&merger), [(3, 2)]);
        assert_eq!(taken(&merger), []);
    }

    #[test]
    fn after_a_refusal_nothing_more_of_that_source_is_proposed() {
        let merger = Arc::new(Merger::default());
        let (refused, mut refusals) = merger.open();
        let (other, _refusals) = merger.open();
        refused.hand_in(frame(1, 1, 1), 10, None);
        other.hand_in(frame(2, 1, 1), 10, None);
        refused.hand_in(frame(1, 2, 1), 10, None);
        let refusal = Refused { from_seq: 1, certain: true, reason: "not the leader".to_owned() };
        refused.source.refuse(refusal.clone());
        refused.source.refuse(Refused { from_seq: 2, ..refusal.clone() });
        refused.hand_in(frame(1, 3, 1), 10, None);
        assert_eq!(taken(&merger), [(2, 1)]);
        assert_eq!(refusals.try_recv().ok(), Some(refusal));
        assert!(refusals.try_recv().is_err(), "told once");
    }

    #[test]
    fn what_waits_is_bounded_while_nothing_is_committed() {
        let merger = Arc::new(Merger::default());
        let (other, _refusals) = merger.open();
        other.hand_in(frame(9, 1, 1), 10, None);
        // As of a node that gives each link up after a while and sends everything again on the next.
        for _ in 0..1000 {
            let (link, _refusals) = merger.open();
            link.hand_in(frame(1, 1, 10), 100, None);
            link.hand_in(frame(1, 2, 10), 100, None);
            assert_eq!(waiting(&merger), 3);
        }
        assert_eq!(taken(&merger), [(9, 1)], "the frames of streams that ended are gone");
        let (link, _refusals) = merger.open();
        link.hand_in(frame(1, 1, 10), 100, None);
        link.hand_in(frame(1, 2, 10), 100, None);
        assert_eq!(taken(&merger), [(1, 1), (1, 2)]);
    }

    #[test]
    fn a_stream_with_too_much_on_its_way_is_refused_for_certain() {
        let merger = Arc::new(Merger::default());
        let (greedy, mut refusals) = merger.open();
        let (other, _refusals) = merger.open();
        other.hand_in(frame(2, 1, 1), 10, None);
        for seq in 7..1000 {
            greedy.hand_in(frame(1, seq, 10), 100, None);
            assert!(waiting(&merger) <= SOURCE_FRAMES_MAX + 1);
        }
        let Refused { from_seq, certain, .. } = refusals.try_recv().expect("refused");
        assert_eq!((from_seq, certain), (7, true));
        assert_eq!(taken(&merger), [(2, 1)]);
    }
}
