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
use ballast_telemetry::trace;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::COMMAND_BYTES_MAX;

/// Still here: certainly not applied.
const WAITING: u8 = 0;
/// Handed to a leader: may be applied.
const SENT: u8 = 1;
/// The caller stopped waiting before it was sent: must not be sent any more.
const GIVEN_UP: u8 = 2;

/// A command and the way back to its caller.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) command: Command,
    /// What it takes in an entry.
    pub(super) bytes: usize,
    /// The trace that it is a part of, as a `traceparent`.
    pub(super) trace: Option<String>,
    state: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
    since: Instant,
}

impl Queued {
    /// Claims the command for sending; false if its caller gave up before.
    pub(super) fn take_for_sending(&self) -> bool {
        self.state.compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The leader certainly did not propose it.
    pub(super) fn not_sent_after_all(&self) {
        self.state.store(WAITING, Ordering::Release);
    }

    pub(super) fn answer(self, answer: Result<Applied, ProposeError>) {
        // A caller that went away does not want to know.
        drop(self.answer.send(answer));
    }

    /// Answers a caller whose command was applied, or not, where this node could not see it.
    pub(super) fn answer_unknown(self) {
        let waited = self.since.elapsed();
        self.answer(Err(ProposeError::OutcomeUnknown { waited }));
    }

    fn answer_stopping(self) {
        let sent = self.state.swap(GIVEN_UP, Ordering::AcqRel) == SENT;
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
    given_up: AtomicUsize,
    stopped: AtomicBool,
    pub(super) wake: Notify,
}

impl Proposals {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            capacity,
            given_up: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Queues a command. It is on its way when this returns; the future only waits for it.
    /// `why_no_quorum` puts into words what this node knows when nothing could be sent.
    pub(crate) fn propose(
        self: &Arc<Self>,
        command: Command,
        deadline: Duration,
        why_no_quorum: impl FnOnce() -> String + Send + 'static,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(WAITING));
        let bytes = codec::encoded_len(&command);
        let queued = Queued {
            command,
            bytes,
            trace: trace::current(),
            state: Arc::clone(&state),
            answer,
            since: Instant::now(),
        };
        let refused = self.push(queued).err();
        let queue = Arc::clone(self);
        async move {
            if let Some(refused) = refused {
                return Err(refused);
            }
            match tokio::time::timeout(deadline, answered).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(ProposeError::Stopping),
                Err(_) => match state.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        queue.given_up.fetch_add(1, Ordering::Relaxed);
                        Err(ProposeError::NoQuorum { detail: why_no_quorum() })
                    }
                    Err(_) => Err(ProposeError::OutcomeUnknown { waited: deadline }),
                },
            }
        }
    }

    /// Commands that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Takes the oldest commands, as many as fit into a frame, and claims them for sending.
    pub(super) fn take(&self, count_max: usize, bytes_max: usize) -> Vec<Queued> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::with_capacity(waiting.len().min(count_max));
        let mut bytes = 0;
        while let Some(next) = waiting.front() {
            if taken.len() == count_max || (!taken.is_empty() && bytes + next.bytes > bytes_max) {
                break;
            }
            let Some(next) = waiting.pop_front() else { break };
            if next.take_for_sending() {
                bytes += next.bytes;
                taken.push(next);
            }
        }
        taken
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
            waiting.retain(|queued| queued.state.load(Ordering::Acquire) != GIVEN_UP);
        }
        if waiting.len() >= self.capacity {
            return Err(ProposeError::Overloaded { queued: waiting.len() });
        }
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

    fn nothing_known() -> String {
        "no leader is known".to_owned()
    }

    #[tokio::test]
    async fn what_was_never_sent_is_no_quorum_and_is_never_sent() {
        let queue = Arc::new(Proposals::new(10));
        let wait = queue.propose(Command::Tick, SOON, nothing_known);
        let outcome = wait.await;
        assert_eq!(outcome, Err(ProposeError::NoQuorum { detail: nothing_known() }));
        assert!(queue.take(10, 1000).is_empty());
    }

    #[tokio::test]
    async fn what_was_sent_is_unknown_at_the_deadline() {
        let queue = Arc::new(Proposals::new(10));
        let deadline = SOON;
        let wait = queue.propose(Command::Tick, deadline, nothing_known);
        let taken = queue.take(10, 1000);
        assert_eq!(taken.len(), 1);
        assert_eq!(wait.await, Err(ProposeError::OutcomeUnknown { waited: deadline }));
    }

    #[tokio::test]
    async fn what_the_leader_certainly_refused_counts_as_not_sent() {
        let queue = Arc::new(Proposals::new(10));
        let wait = queue.propose(Command::Tick, SOON, nothing_known);
        let taken = queue.take(10, 1000);
        taken[0].not_sent_after_all();
        assert!(matches!(wait.await, Err(ProposeError::NoQuorum { .. })));
        assert!(!taken[0].take_for_sending(), "its caller was told that it is not applied");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_but_has_room_once_callers_gave_up() {
        let queue = Arc::new(Proposals::new(2));
        let first = queue.propose(Command::Tick, SOON, nothing_known);
        let second = queue.propose(Command::Tick, SOON, nothing_known);
        let third = queue.propose(Command::Tick, SOON, nothing_known).await;
        assert_eq!(third, Err(ProposeError::Overloaded { queued: 2 }));
        let _gave_up = tokio::join!(first, second);
        let fourth = queue.propose(Command::Tick, SOON, nothing_known);
        assert_eq!(queue.take(10, 1000).len(), 1);
        drop(fourth);
    }

    #[tokio::test]
    async fn a_dropped_wait_does_not_take_the_command_back() {
        let queue = Arc::new(Proposals::new(2));
        drop(queue.propose(Command::Tick, SOON, nothing_known));
        assert_eq!(queue.take(10, 1000).len(), 1);
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
        let queue = Arc::new(Proposals::new(100));
        for _ in 0..50 {
            drop(queue.propose(Command::Tick, SOON, nothing_known));
        }
        assert_eq!(queue.take(10, 1 << 20).len(), 10);
        assert_eq!(queue.take(100, 5).len(), 5, "a tick takes one byte");
        assert_eq!(queue.take(100, 0).len(), 1, "a command larger than a frame travels alone");
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
        let queue = Arc::new(Proposals::new(10));
        let room = COMMAND_BYTES_MAX - codec::encoded_len(&config(0)) - 3;
        let refused = queue.propose(config(COMMAND_BYTES_MAX), SOON, nothing_known).await;
        assert!(matches!(refused, Err(ProposeError::TooLarge { bytes_max: COMMAND_BYTES_MAX, .. })), "{refused:?}");
        assert_eq!(queue.len(), 0);
        drop(queue.propose(config(room), SOON, nothing_known));
        let taken = queue.take(10, 1 << 20);
        assert_eq!(taken.iter().map(|queued| queued.bytes).collect::<Vec<_>>(), [COMMAND_BYTES_MAX]);
    }

    #[tokio::test]
    async fn large_node_descriptions_are_counted_as_they_are() {
        let queue = Arc::new(Proposals::new(100));
        for _ in 0..50 {
            let labels = (0..1000).map(|n| (format!("label-{n}"), "value".repeat(5))).collect();
            let info = NodeInfo { labels, ..NodeInfo::default() };
            drop(queue.propose(Command::UpdateNode { node: NodeId::new(1), info }, SOON, nothing_known));
        }
        let taken = queue.take(100, 1 << 20);
        assert!((20..30).contains(&taken.len()), "{} of about 40 kB each fit into a megabyte", taken.len());
    }
}
