//! Commands that wait to be sent, and what their callers hear.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ballast_core::{
    cluster::{Applied, ProposeError},
    state::{Command, codec},
};
use ballast_planted::Bug;
use ballast_telemetry::trace;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::COMMAND_BYTES_MAX;

/// In the queue: certainly not applied.
const WAITING: u8 = 0;
/// Handed to a leader: may be applied.
const SENT: u8 = 1;
/// Its time was over before it was sent: must not be sent any more.
const GIVEN_UP: u8 = 2;
/// In a frame that the leader certainly did not propose: not applied, and not in the queue any more.
const RETURNED: u8 = 3;
/// Its time was over after it was sent: what was sent may be applied, and must not be sent again.
const LAPSED: u8 = 4;

/// Bytes of commands that may wait. As many as a hundred of the largest frames or eight of the largest commands, so that
/// a node without a quorum keeps no more than this however large what clients send is.
const WAITING_BYTES_MAX: usize = 128 << 20;

/// A command that its caller, when it gives up, and the queue both can get at.
#[derive(Debug)]
struct Slot {
    state: AtomicU8,
    command: Mutex<Option<Command>>,
    since: Instant,
    /// How long after that it may be sent. Who stops waiting before goes away without a word, and must not find the
    /// change made an hour later either.
    deadline: Duration,
}

impl Slot {
    /// Moves on from one of these states; the one that it was.
    fn leave(&self, from: &[u8], to: u8) -> Option<u8> {
        let swap = |from: &u8| self.state.compare_exchange(*from, to, Ordering::AcqRel, Ordering::Acquire).ok();
        from.iter().find_map(swap)
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.deadline
    }

    /// Its time is over: nobody sends it any more, so nobody needs it. The state that it was in.
    fn end(&self) -> u8 {
        let over = |state: u8| match state {
            WAITING | RETURNED => Some(GIVEN_UP),
            SENT if !ballast_planted::is(Bug::SentAfterDeadline) => Some(LAPSED),
            _ => None,
        };
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, over) {
            Ok(was) => {
                drop(self.command.lock().take());
                was
            }
            Err(is) => is,
        }
    }
}

/// A command and the way back to its caller.
#[derive(Debug)]
pub(crate) struct Queued {
    slot: Arc<Slot>,
    /// What it takes in an entry.
    pub(super) bytes: usize,
    /// The trace that it is a part of, as a `traceparent`.
    pub(super) trace: Option<String>,
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
}

impl Queued {
    /// The command of one that was claimed, and what it takes in an entry. Once its time is over, what changes nothing
    /// stands in its place: outcomes are told apart by their places, whichever copy of a frame is applied.
    pub(super) fn outbound(&self) -> (Command, usize) {
        match &*self.slot.command.lock() {
            Some(command) => (command.clone(), self.bytes),
            None => (Command::Tick, codec::encoded_len(&Command::Tick)),
        }
    }

    /// It was sent, and must not be sent again. Its caller hears that when the frame comes back, if it still waits.
    pub(super) fn lapse(&self) {
        self.slot.end();
    }

    /// It was sent, and is about to be sent again: not if its time is over, of which its caller may not have heard.
    pub(super) fn lapse_if_over(&self, now: Instant) {
        if self.slot.is_over(now) {
            self.lapse();
        }
    }

    /// The leader certainly did not propose it.
    pub(super) fn not_sent_after_all(&self) {
        self.slot.leave(&[SENT], RETURNED);
    }

    /// Answers with what came of its place in a frame.
    pub(super) fn answer_applied(self, applied: Applied) {
        if self.slot.state.load(Ordering::Acquire) == LAPSED {
            // That may be the outcome of what was sent in its place.
            self.answer_unknown();
        } else {
            self.answer(Ok(applied));
        }
    }

    pub(super) fn answer(self, answer: Result<Applied, ProposeError>) {
        // A caller that went away does not want to know.
        drop(self.answer.send(answer));
    }

    /// Answers a caller whose command was applied, or not, where this node could not see it.
    pub(super) fn answer_unknown(self) {
        let waited = self.slot.since.elapsed();
        self.answer(Err(ProposeError::OutcomeUnknown { waited }));
    }

    fn answer_stopping(self) {
        let sent = self.slot.state.swap(GIVEN_UP, Ordering::AcqRel) == SENT;
        if sent {
            self.answer_unknown();
        } else {
            self.answer(Err(ProposeError::Stopping));
        }
    }
}

/// The queue that callers fill. Shared by all of them.
#[derive(Debug)]
pub(crate) struct Proposals {
    waiting: Mutex<VecDeque<Queued>>,
    capacity: usize,
    /// Of the commands that wait and were not given up.
    bytes: AtomicUsize,
    given_up: AtomicUsize,
    stopped: AtomicBool,
    pub(super) wake: Notify,
}

impl Proposals {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            capacity,
            bytes: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Queues a command. It is on its way when this returns, and is sent until `deadline` is over; the future only waits
    /// for it. `why_no_quorum` puts into words what this node knows when nothing could be sent.
    pub(crate) fn propose(
        self: &Arc<Self>,
        command: Command,
        deadline: Duration,
        why_no_quorum: impl FnOnce() -> String + Send + 'static,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        let bytes = codec::encoded_len(&command);
        let (state, command) = (AtomicU8::new(WAITING), Mutex::new(Some(command)));
        let slot = Arc::new(Slot { state, command, since: Instant::now(), deadline });
        let queued = Queued { slot: Arc::clone(&slot), bytes, trace: trace::current(), answer };
        let refused = self.push(queued).err();
        let queue = Arc::clone(self);
        async move {
            if let Some(refused) = refused {
                return Err(refused);
            }
            let left = deadline.saturating_sub(slot.since.elapsed());
            match tokio::time::timeout(left, answered).await {
                Ok(Ok(outcome)) => return outcome,
                // Nobody will answer any more, and not because its time is over.
                Ok(Err(_)) if matches!(slot.state.load(Ordering::Acquire), WAITING | RETURNED) => {
                    return Err(ProposeError::Stopping);
                }
                Ok(Err(_)) | Err(_) => {}
            }
            match queue.end(&slot, bytes) {
                // What was sent may be applied all the same.
                SENT | LAPSED => Err(ProposeError::OutcomeUnknown { waited: slot.since.elapsed().min(deadline) }),
                _ => Err(ProposeError::NoQuorum { detail: why_no_quorum() }),
            }
        }
    }

    /// Commands that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Takes the oldest commands, as many as fit into a frame, and claims them for sending.
    pub(super) fn take(&self, count_max: usize, bytes_max: usize, now: Instant) -> Vec<Queued> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::with_capacity(waiting.len().min(count_max));
        let mut bytes = 0;
        while let Some(next) = waiting.front() {
            if taken.len() == count_max || (!taken.is_empty() && bytes + next.bytes > bytes_max) {
                break;
            }
            let Some(next) = waiting.pop_front() else { break };
            if self.claim(&next, now) {
                bytes += next.bytes;
                taken.push(next);
            }
        }
        taken
    }

    /// Claims a command for sending; false if its time is over, of which its caller may not have heard.
    pub(super) fn claim(&self, queued: &Queued, now: Instant) -> bool {
        if queued.slot.is_over(now) {
            self.end(&queued.slot, queued.bytes);
            return false;
        }
        let was = queued.slot.leave(&[WAITING, RETURNED], SENT);
        if was == Some(WAITING) {
            self.bytes.fetch_sub(queued.bytes, Ordering::AcqRel);
        }
        was.is_some()
    }

    /// The time of a command is over. The state that it was in.
    fn end(&self, slot: &Slot, bytes: usize) -> u8 {
        let was = slot.end();
        if was == WAITING {
            // Its place in the queue is freed in passing.
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
        was
    }

    /// Refuses what waits and everything that comes.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let waiting = mem::take(&mut *self.waiting.lock());
        for queued in waiting {
            queued.answer_stopping();
        }
    }

    fn push(&self, queued: Queued) -> Result<(), ProposeError> {
        if queued.bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: queued.bytes, bytes_max: COMMAND_BYTES_MAX });
        }
        let mut waiting = self.waiting.lock();
        if self.stopped.load(Ordering::Acquire) {
            return Err(ProposeError::Stopping);
        }
        if waiting.len() >= self.capacity && self.given_up.swap(0, Ordering::Relaxed) > 0 {
            waiting.retain(|queued| queued.slot.state.load(Ordering::Acquire) != GIVEN_UP);
        }
        // An empty queue takes any command. Added to and compared under the lock; others only take away.
        let bytes = self.bytes.load(Ordering::Acquire);
        let is_full = waiting.len() >= self.capacity || bytes > 0 && bytes + queued.bytes > WAITING_BYTES_MAX;
        if is_full {
            return Err(ProposeError::Overloaded { queued: waiting.len() });
        }
        self.bytes.fetch_add(queued.bytes, Ordering::AcqRel);
        waiting.push_back(queued);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        ids::NodeId,
        state::{ApplyConfig, Author, NodeInfo},
    };

    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    fn nothing_known() -> String {
        "no leader is known".to_owned()
    }

    #[tokio::test]
    async fn what_was_never_sent_is_no_quorum_and_is_never_sent() {
        let (queue, now) = (Arc::new(Proposals::new(10)), Instant::now());
        let wait = queue.propose(Command::Tick, SOON, nothing_known);
        let outcome = wait.await;
        assert_eq!(outcome, Err(ProposeError::NoQuorum { detail: nothing_known() }));
        assert!(queue.take(10, 1000, now).is_empty());
    }

    #[tokio::test]
    async fn what_was_sent_is_unknown_at_the_deadline_and_is_not_kept() {
        let (queue, now) = (Arc::new(Proposals::new(10)), Instant::now());
        let deadline = SOON;
        let wait = queue.propose(config(10), deadline, nothing_known);
        let taken = queue.take(10, 1000, now);
        assert_eq!(taken.iter().map(Queued::outbound).collect::<Vec<_>>(), [(config(10), taken[0].bytes)]);
        assert_eq!(wait.await, Err(ProposeError::OutcomeUnknown { waited: deadline }));
        assert_eq!(taken[0].outbound(), (Command::Tick, 1));
    }

    #[tokio::test]
    async fn after_its_deadline_nothing_is_sent_whether_or_not_somebody_waits() {
        let (queue, now) = (Arc::new(Proposals::new(10)), Instant::now());
        drop(queue.propose(Command::Tick, LONG, nothing_known));
        let wait = queue.propose(Command::Tick, LONG, nothing_known);
        let stays = queue.propose(Command::Tick, 3 * LONG, nothing_known);
        assert_eq!(queue.take(10, 1000, now + 2 * LONG).len(), 1);
        assert_eq!(wait.await, Err(ProposeError::NoQuorum { detail: nothing_known() }), "it is told so at once");
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
        drop(stays);
    }

    #[tokio::test]
    async fn what_the_leader_certainly_refused_counts_as_not_sent() {
        let (queue, now) = (Arc::new(Proposals::new(10)), Instant::now());
        let wait = queue.propose(Command::Tick, SOON, nothing_known);
        let taken = queue.take(10, 1000, now);
        taken[0].not_sent_after_all();
        assert!(matches!(wait.await, Err(ProposeError::NoQuorum { .. })));
        assert!(!queue.claim(&taken[0], now), "its caller was told that it is not applied");
    }

    #[tokio::test]
    async fn a_refusal_does_not_bring_back_what_lapsed() {
        let (queue, now) = (Arc::new(Proposals::new(10)), Instant::now());
        let wait = queue.propose(Command::Tick, SOON, nothing_known);
        let taken = queue.take(10, 1000, now);
        assert!(matches!(wait.await, Err(ProposeError::OutcomeUnknown { .. })));
        taken[0].not_sent_after_all();
        assert!(!queue.claim(&taken[0], now), "nobody waits for it");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_but_has_room_once_callers_gave_up() {
        let (queue, now) = (Arc::new(Proposals::new(2)), Instant::now());
        let first = queue.propose(Command::Tick, SOON, nothing_known);
        let second = queue.propose(Command::Tick, SOON, nothing_known);
        let third = queue.propose(Command::Tick, SOON, nothing_known).await;
        assert_eq!(third, Err(ProposeError::Overloaded { queued: 2 }));
        let _gave_up = tokio::join!(first, second);
        let fourth = queue.propose(Command::Tick, SOON, nothing_known);
        assert_eq!(queue.take(10, 1000, now).len(), 1);
        drop(fourth);
    }

    #[tokio::test]
    async fn what_was_sent_and_is_dropped_without_an_answer_is_unknown() {
        let queue = Arc::new(Proposals::new(10));
        let wait = queue.propose(Command::Tick, LONG, nothing_known);
        drop(queue.take(10, 1000, Instant::now()));
        assert!(matches!(wait.await, Err(ProposeError::OutcomeUnknown { .. })));
    }

    #[tokio::test]
    async fn a_dropped_wait_does_not_take_the_command_back() {
        let queue = Arc::new(Proposals::new(2));
        drop(queue.propose(Command::Tick, LONG, nothing_known));
        assert_eq!(queue.take(10, 1000, Instant::now()).len(), 1);
    }

    #[tokio::test]
    async fn stopping_answers_those_who_wait_and_those_who_come() {
        let queue = Arc::new(Proposals::new(2));
        let wait = queue.propose(Command::Tick, SOON, nothing_known);
        queue.stop();
        assert_eq!(wait.await, Err(ProposeError::Stopping));
        let late = queue.propose(Command::Tick, SOON, nothing_known);
        assert_eq!(late.await, Err(ProposeError::Stopping));
    }

    #[test]
    fn frames_are_cut_by_count_and_by_bytes() {
        let (queue, now) = (Arc::new(Proposals::new(100)), Instant::now());
        for _ in 0..50 {
            drop(queue.propose(Command::Tick, SOON, nothing_known));
        }
        assert_eq!(queue.take(10, 1 << 20, now).len(), 10);
        assert_eq!(queue.take(100, 5, now).len(), 5, "a tick takes one byte");
        assert_eq!(queue.take(100, 0, now).len(), 1, "a command larger than a frame travels alone");
        assert_eq!(queue.len(), 34);
    }

    fn config(bytes: usize) -> Command {
        Command::ApplyConfig(Box::new(ApplyConfig {
            document: "x".repeat(bytes),
            source: String::new(),
            rules: ballast_core::config::rules::RULES,
            expect: None,
            request_id: String::new(),
            author: Author::default(),
        }))
    }

    #[tokio::test]
    async fn a_command_that_no_entry_can_carry_is_refused_and_the_largest_one_is_not() {
        let (queue, now) = (Arc::new(Proposals::new(10)), Instant::now());
        let room = COMMAND_BYTES_MAX - codec::encoded_len(&config(0)) - 3;
        let refused = queue.propose(config(COMMAND_BYTES_MAX), SOON, nothing_known).await;
        assert!(matches!(refused, Err(ProposeError::TooLarge { bytes_max: COMMAND_BYTES_MAX, .. })), "{refused:?}");
        assert_eq!(queue.len(), 0);
        drop(queue.propose(config(room), SOON, nothing_known));
        let taken = queue.take(10, 1 << 20, now);
        assert_eq!(taken.iter().map(|queued| queued.bytes).collect::<Vec<_>>(), [COMMAND_BYTES_MAX]);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_its_bytes_and_what_callers_gave_up_takes_none() {
        let (queue, now) = (Arc::new(Proposals::new(1000)), Instant::now());
        let large = || queue.propose(config(10 << 20), SOON, nothing_known);
        let waits: Vec<_> = (0..12).map(|_| large()).collect();
        assert_eq!(large().await, Err(ProposeError::Overloaded { queued: 12 }));
        let held = |queue: &Proposals| queue.waiting.lock().iter().filter(|q| q.slot.command.lock().is_some()).count();
        assert_eq!(held(&queue), 12);
        assert_eq!(queue.take(1, 1, now).len(), 1, "one is on its way");
        let next = large();
        for wait in waits {
            wait.await.expect_err("no leader was ever there");
        }
        next.await.expect_err("no leader was ever there");
        assert_eq!((held(&queue), queue.bytes.load(Ordering::Relaxed)), (0, 0));
        drop(large());
        assert_eq!(queue.take(10, 1 << 30, now).len(), 1, "those who gave up are passed over");
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn large_node_descriptions_are_counted_as_they_are() {
        let (queue, now) = (Arc::new(Proposals::new(100)), Instant::now());
        for _ in 0..50 {
            let labels = (0..1000).map(|n| (format!("label-{n}"), "value".repeat(5))).collect();
            let info = NodeInfo { labels, ..NodeInfo::default() };
            drop(queue.propose(Command::UpdateNode { node: NodeId::new(1), info }, SOON, nothing_known));
        }
        let taken = queue.take(100, 1 << 20, now);
        assert!((20..30).contains(&taken.len()), "{} of about 40 kB each fit into a megabyte", taken.len());
    }
}
