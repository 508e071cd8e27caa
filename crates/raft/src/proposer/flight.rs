//! Frames that were numbered and are not known to be applied.

use std::collections::VecDeque;

use ballast_core::{
    cluster::Applied,
    ids::LogIndex,
    state::{Command, FrameOutcomes},
};
use ballast_planted::Bug;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{BYTES_MAX, COMMANDS_MAX, FRAMES_IN_FLIGHT, Proposals, Queued};

/// This node's frames in flight, in order. Filled by the link, emptied by apply.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    frames: Mutex<Frames>,
    /// A frame landed, so that the next may leave.
    pub(super) landed: Notify,
    /// The state jumped: frames may have been applied unseen, and must be sent again to find out.
    pub(super) jumped: Notify,
}

#[derive(Debug, Default)]
struct Frames {
    /// Number of the last frame that was made.
    last_seq: u64,
    flying: VecDeque<Flying>,
}

#[derive(Debug)]
struct Flying {
    seq: u64,
    items: Vec<Queued>,
    /// It reached a leader that did not say that it did not propose it.
    maybe_proposed: bool,
    /// Sent on the present link.
    sent_here: bool,
    /// `maybe_proposed` as it was before the present link.
    maybe_proposed_before: bool,
}

/// A frame as it leaves.
#[derive(Debug, PartialEq)]
pub(crate) struct Departing {
    pub(crate) seq: u64,
    pub(crate) commands: Vec<Command>,
    /// What they take in an entry.
    pub(crate) bytes: usize,
    /// The trace of the first command that is part of one.
    pub(crate) trace: Option<String>,
}

impl Flight {
    /// A new link begins: everything in flight has to be sent on it.
    pub(super) fn begin_link(&self) {
        let mut frames = self.frames.lock();
        let Frames { last_seq, flying } = &mut *frames;
        for frame in flying {
            if ballast_planted::is(Bug::FrameRenumbered) {
                *last_seq += 1;
                frame.seq = *last_seq;
            }
            frame.sent_here = false;
            frame.maybe_proposed_before = frame.maybe_proposed;
        }
    }

    /// The next frame to send on the present link: one that is in flight already, else a new one
    /// from the queue, unless enough are in flight.
    pub(super) fn next(&self, queue: &Proposals) -> Option<Departing> {
        let mut frames = self.frames.lock();
        if let Some(frame) = frames.flying.iter_mut().find(|frame| !frame.sent_here) {
            if !frame.maybe_proposed {
                // Nobody has seen it, so those who gave up meanwhile can still be left out. The
                // number stays even if nothing is left: the next frame's number follows it.
                frame.items.retain(Queued::take_for_sending);
            }
            frame.sent_here = true;
            frame.maybe_proposed = true;
            return Some(frame.departing());
        }
        if frames.flying.len() >= FRAMES_IN_FLIGHT {
            return None;
        }
        let items = queue.take(COMMANDS_MAX, BYTES_MAX);
        if items.is_empty() {
            return None;
        }
        frames.last_seq += 1;
        let frame =
            Flying { seq: frames.last_seq, items, maybe_proposed: true, sent_here: true, maybe_proposed_before: false };
        let departing = frame.departing();
        frames.flying.push_back(frame);
        Some(departing)
    }

    /// The leader says that it did not propose the frames from `from_seq` on.
    pub(super) fn refused(&self, from_seq: u64, certain: bool) {
        if !certain {
            return;
        }
        for frame in self.frames.lock().flying.iter_mut().filter(|frame| frame.seq >= from_seq && frame.sent_here) {
            if !frame.maybe_proposed_before {
                frame.maybe_proposed = false;
                frame.items.iter().for_each(Queued::not_sent_after_all);
            }
        }
    }

    /// Entries with own frames (`seq`, log index) were applied; `outcomes` of those that were
    /// applied for the first time.
    pub(crate) fn applied(&self, own: &[(u64, u64)], mut outcomes: Vec<FrameOutcomes>) {
        let mut landed = Vec::new();
        {
            let mut frames = self.frames.lock();
            for (seq, index) in own {
                let Some(position) = frames.flying.iter().position(|frame| frame.seq == *seq) else { continue };
                let Some(frame) = frames.flying.remove(position) else { continue };
                let outcome = outcomes.iter_mut().find(|outcome| outcome.seq == *seq);
                let outcomes = outcome.map(|outcome| std::mem::take(&mut outcome.outcomes)).unwrap_or_default();
                landed.push((frame, LogIndex::new(*index), outcomes));
            }
        }
        for (frame, index, outcomes) in landed {
            if outcomes.len() == frame.items.len() {
                for (item, outcome) in frame.items.into_iter().zip(outcomes) {
                    item.answer(Ok(Applied { index, outcome }));
                }
            } else {
                // Skipped: it was applied before, in a part of the log that a snapshot replaced here.
                frame.items.into_iter().for_each(Queued::answer_unknown);
            }
        }
        self.landed.notify_one();
    }

    /// The state was replaced by a snapshot.
    pub(crate) fn jumped(&self) {
        self.jumped.notify_one();
    }

    /// Frames in flight.
    pub(crate) fn len(&self) -> usize {
        self.frames.lock().flying.len()
    }

    /// Answers everybody; nothing of this life will be seen any more.
    pub(crate) fn abandon(&self) {
        for frame in std::mem::take(&mut self.frames.lock().flying) {
            frame.items.into_iter().for_each(Queued::answer_unknown);
        }
    }
}

impl Flying {
    fn departing(&self) -> Departing {
        Departing {
            seq: self.seq,
            commands: self.items.iter().map(Queued::command).collect(),
            bytes: self.items.iter().map(|item| item.bytes).sum(),
            trace: self.items.iter().find_map(|item| item.trace.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use ballast_core::{
        cluster::ProposeError,
        ids::{Boot, NodeId},
        state::{Origin, Outcome},
    };

    use super::*;

    type Wait = std::pin::Pin<Box<dyn Future<Output = Result<Applied, ProposeError>> + Send>>;

    fn propose(queue: &Arc<Proposals>) -> Wait {
        Box::pin(queue.propose(Command::Tick, Duration::from_secs(60), String::new))
    }

    fn outcomes(seq: u64, count: usize) -> FrameOutcomes {
        let origin = Origin { node: NodeId::new(1), boot: Boot(1) };
        FrameOutcomes { origin, seq, index: LogIndex::new(9), outcomes: vec![Outcome::Done; count] }
    }

    #[tokio::test]
    async fn commands_gather_while_frames_are_in_flight() {
        let (queue, flight) = (Arc::new(Proposals::new(100)), Flight::default());
        flight.begin_link();
        let first = propose(&queue);
        assert_eq!(flight.next(&queue).map(|frame| (frame.seq, frame.commands.len())), Some((1, 1)));
        let _second = propose(&queue);
        assert_eq!(flight.next(&queue).map(|frame| (frame.seq, frame.commands.len())), Some((2, 1)));
        let gathering: Vec<Wait> = (0..5).map(|_| propose(&queue)).collect();
        assert_eq!(flight.next(&queue), None);

        flight.applied(&[(1, 9)], vec![outcomes(1, 1)]);
        assert_eq!(first.await, Ok(Applied { index: LogIndex::new(9), outcome: Outcome::Done }));
        assert_eq!(flight.next(&queue).map(|frame| (frame.seq, frame.commands.len())), Some((3, 5)));
        drop(gathering);
    }

    #[tokio::test]
    async fn a_new_link_sends_everything_in_flight_again_in_order_before_anything_new() {
        let (queue, flight) = (Arc::new(Proposals::new(100)), Flight::default());
        flight.begin_link();
        let _waits = [propose(&queue)];
        let one = flight.next(&queue).expect("first");
        let _more = [propose(&queue)];
        let two = flight.next(&queue).expect("second");
        let _new = [propose(&queue)];
        flight.begin_link();
        assert_eq!(flight.next(&queue), Some(one));
        assert_eq!(flight.next(&queue), Some(two));
        assert_eq!(flight.next(&queue), None, "both are in flight");
    }

    #[tokio::test]
    async fn a_frame_that_was_certainly_refused_leaves_out_those_who_gave_up() {
        let (queue, flight) = (Arc::new(Proposals::new(100)), Flight::default());
        flight.begin_link();
        let gone = queue.propose(Command::Tick, Duration::ZERO, String::new);
        let _stays = propose(&queue);
        assert_eq!(flight.next(&queue).map(|frame| frame.commands.len()), Some(2));
        flight.refused(1, true);
        assert!(matches!(gone.await, Err(ProposeError::NoQuorum { .. })));
        flight.begin_link();
        assert_eq!(flight.next(&queue).map(|frame| (frame.seq, frame.commands.len())), Some((1, 1)));
    }

    #[tokio::test]
    async fn a_frame_that_may_have_been_proposed_is_sent_again_unchanged() {
        let (queue, flight) = (Arc::new(Proposals::new(100)), Flight::default());
        flight.begin_link();
        let gone = queue.propose(Command::Tick, Duration::ZERO, String::new);
        assert_eq!(flight.next(&queue).map(|frame| frame.commands.len()), Some(1));
        // The link broke without a word; the next leader refuses.
        flight.begin_link();
        assert_eq!(flight.next(&queue).map(|frame| frame.commands.len()), Some(1));
        flight.refused(1, true);
        assert!(matches!(gone.await, Err(ProposeError::OutcomeUnknown { .. })));
        flight.begin_link();
        assert_eq!(flight.next(&queue).map(|frame| (frame.seq, frame.commands.len())), Some((1, 1)));
    }

    #[tokio::test]
    async fn a_frame_that_is_skipped_has_an_unknown_outcome() {
        let (queue, flight) = (Arc::new(Proposals::new(100)), Flight::default());
        flight.begin_link();
        let wait = propose(&queue);
        flight.next(&queue).expect("sent");
        flight.applied(&[(1, 9)], Vec::new());
        assert!(matches!(wait.await, Err(ProposeError::OutcomeUnknown { .. })));
        assert_eq!(flight.len(), 0);
    }
}
