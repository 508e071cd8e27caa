//! Frames that were numbered and are not known to be applied.

use std::{collections::VecDeque, time::Instant};

use ballast_core::{
    cluster::{Applied, ProposeError},
    ids::{LogIndex, NodeId},
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
    pub(super) fn next(&self, queue: &Proposals, now: Instant) -> Option<Departing> {
        let mut frames = self.frames.lock();
        if let Some(frame) = frames.flying.iter_mut().find(|frame| !frame.sent_here) {
            if frame.maybe_proposed {
                // A copy may be in some log, and each command keeps its place. But what is sent only now must not be
                // carried out for those who were told that nobody knows, and may have repeated it elsewhere.
                frame.items.iter().for_each(|item| item.lapse_if_over(now));
            } else {
                // Nobody has seen it, so those who gave up meanwhile can still be left out. The
                // number stays even if nothing is left: the next frame's number follows it.
                frame.items.retain(|item| queue.claim(item, now));
            }
            frame.sent_here = true;
            frame.maybe_proposed = true;
            return Some(frame.departing());
        }
        if frames.flying.len() >= FRAMES_IN_FLIGHT {
            return None;
        }
        let items = queue.take(COMMANDS_MAX, BYTES_MAX, now);
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

    /// The leader has refused a frame for the command at this place in it, which it cannot read, or for all if there is
    /// none. They are not sent again, and hold up nobody else.
    pub(super) fn unreadable(&self, seq: u64, place: usize, leader: NodeId) {
        let mut dropped = Vec::new();
        if let Some(frame) = self.frames.lock().flying.iter_mut().find(|frame| frame.seq == seq && frame.sent_here) {
            let all = frame.items.len();
            let which = if place < all { place..place + 1 } else { 0..all };
            if frame.maybe_proposed {
                // By another leader, who could read it. The others keep their places.
                frame.items[which].iter().for_each(Queued::lapse);
            } else {
                dropped.extend(frame.items.drain(which));
            }
        }
        dropped.into_iter().for_each(|item| item.answer(Err(ProposeError::Unreadable { leader })));
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
                    item.answer_applied(Applied { index, outcome });
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
        let mut bytes = 0;
        let outbound = self.items.iter().map(Queued::outbound);
        let commands = outbound.inspect(|(_, takes)| bytes += takes).map(|(command, _)| command).collect();
        let trace = self.items.iter().find_map(|item| item.trace.clone());
        Departing { seq: self.seq, commands, bytes, trace }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use ballast_core::{
        ids::Boot,
        state::{Origin, Outcome, Refusal, codec},
    };

    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    type Wait = std::pin::Pin<Box<dyn Future<Output = Result<Applied, ProposeError>> + Send>>;

    /// A command that changes something.
    fn change() -> Command {
        Command::LapseFindings { node: NodeId::new(7) }
    }

    fn propose(queue: &Arc<Proposals>, deadline: Duration) -> Wait {
        Box::pin(queue.propose(change(), deadline, String::new))
    }

    /// A queue, the frames of a link that has begun, and the time before anything was proposed.
    fn begun() -> (Arc<Proposals>, Flight, Instant) {
        let flight = Flight::default();
        flight.begin_link();
        (Arc::new(Proposals::new(100)), flight, Instant::now())
    }

    /// The number of a frame, and how many commands it has.
    fn size(frame: Option<Departing>) -> Option<(u64, usize)> {
        frame.map(|frame| (frame.seq, frame.commands.len()))
    }

    fn outcomes(seq: u64, outcomes: Vec<Outcome>) -> FrameOutcomes {
        let origin = Origin { node: NodeId::new(1), boot: Boot(1) };
        FrameOutcomes { origin, seq, index: LogIndex::new(9), outcomes }
    }

    fn applied(outcome: Outcome) -> Result<Applied, ProposeError> {
        Ok(Applied { index: LogIndex::new(9), outcome })
    }

    #[tokio::test]
    async fn commands_gather_while_frames_are_in_flight() {
        let (queue, flight, now) = begun();
        let first = propose(&queue, LONG);
        assert_eq!(size(flight.next(&queue, now)), Some((1, 1)));
        let _second = propose(&queue, LONG);
        assert_eq!(size(flight.next(&queue, now)), Some((2, 1)));
        let gathering: Vec<Wait> = (0..5).map(|_| propose(&queue, LONG)).collect();
        assert_eq!(flight.next(&queue, now), None);

        flight.applied(&[(1, 9)], vec![outcomes(1, vec![Outcome::Done])]);
        assert_eq!(first.await, applied(Outcome::Done));
        assert_eq!(size(flight.next(&queue, now)), Some((3, 5)));
        drop(gathering);
    }

    #[tokio::test]
    async fn a_new_link_sends_everything_in_flight_again_in_order_before_anything_new() {
        let (queue, flight, now) = begun();
        let _waits = [propose(&queue, LONG)];
        let one = flight.next(&queue, now).expect("first");
        let _more = [propose(&queue, LONG)];
        let two = flight.next(&queue, now).expect("second");
        let _new = [propose(&queue, LONG)];
        flight.begin_link();
        assert_eq!(flight.next(&queue, now), Some(one));
        assert_eq!(flight.next(&queue, now), Some(two));
        assert_eq!(flight.next(&queue, now), None, "both are in flight");
    }

    #[tokio::test]
    async fn a_frame_that_was_certainly_refused_leaves_out_those_who_gave_up() {
        let (queue, flight, now) = begun();
        let gone = propose(&queue, SOON);
        let _stays = propose(&queue, LONG);
        assert_eq!(size(flight.next(&queue, now)), Some((1, 2)));
        flight.refused(1, true);
        assert!(matches!(gone.await, Err(ProposeError::NoQuorum { .. })));
        flight.begin_link();
        assert_eq!(size(flight.next(&queue, now)), Some((1, 1)));
    }

    #[tokio::test]
    async fn a_certain_refusal_does_not_bring_back_what_was_told_to_be_unknown() {
        let (queue, flight, now) = begun();
        let gone = propose(&queue, SOON);
        assert_eq!(size(flight.next(&queue, now)), Some((1, 1)));
        assert!(matches!(gone.await, Err(ProposeError::OutcomeUnknown { .. })));
        flight.refused(1, true);
        flight.begin_link();
        assert_eq!(size(flight.next(&queue, now)), Some((1, 0)), "only the number is left");
    }

    #[tokio::test]
    async fn a_frame_that_may_have_been_proposed_is_sent_again_unchanged_while_its_callers_wait() {
        let (queue, flight, now) = begun();
        let wait = propose(&queue, LONG);
        let frame = flight.next(&queue, now).expect("sent");
        // The link broke without a word; the next leader refuses.
        flight.begin_link();
        assert_eq!(flight.next(&queue, now).as_ref(), Some(&frame));
        flight.refused(1, true);
        flight.begin_link();
        assert_eq!(flight.next(&queue, now), Some(frame));
        flight.applied(&[(1, 9)], vec![outcomes(1, vec![Outcome::Done])]);
        assert_eq!(wait.await, applied(Outcome::Done));
    }

    #[tokio::test]
    async fn what_was_told_to_be_unknown_is_not_sent_again_and_the_others_keep_their_places() {
        let (queue, flight, now) = begun();
        let gone = propose(&queue, SOON);
        let stays = propose(&queue, LONG);
        let frame = flight.next(&queue, now).expect("sent");
        assert_eq!((frame.seq, frame.commands), (1, vec![change(), change()]));
        assert!(matches!(gone.await, Err(ProposeError::OutcomeUnknown { .. })));
        // The link broke without a word, or the leader lost the frame with its log.
        flight.begin_link();
        let again = flight.next(&queue, now).expect("sent again");
        assert_eq!((again.seq, again.commands), (1, vec![Command::Tick, change()]));
        assert_eq!((again.bytes, frame.bytes), (1 + codec::encoded_len(&change()), 2 * codec::encoded_len(&change())));
        // Of whichever copy.
        let came_to = Outcome::Refused(Refusal::NotEligible);
        flight.applied(&[(1, 9)], vec![outcomes(1, vec![Outcome::Done, came_to.clone()])]);
        assert_eq!(stays.await, applied(came_to));
    }

    #[tokio::test]
    async fn nothing_is_sent_again_after_its_deadline_and_what_took_its_place_is_not_its_outcome() {
        let (queue, flight, now) = begun();
        drop(propose(&queue, LONG));
        let late = propose(&queue, LONG);
        assert_eq!(size(flight.next(&queue, now)), Some((1, 2)));
        flight.begin_link();
        let again = flight.next(&queue, now + 2 * LONG).expect("sent again");
        assert_eq!(again.commands, [Command::Tick, Command::Tick], "whether or not somebody waits");
        flight.applied(&[(1, 9)], vec![outcomes(1, vec![Outcome::Done; 2])]);
        assert!(matches!(late.await, Err(ProposeError::OutcomeUnknown { .. })), "its caller was slow to look");
    }

    #[tokio::test]
    async fn what_the_leader_cannot_read_leaves_its_frame_and_its_caller_is_told() {
        let (queue, flight, now) = begun();
        let leader = NodeId::new(3);
        let _stay = [propose(&queue, LONG)];
        let told = propose(&queue, LONG);
        let _too = [propose(&queue, LONG)];
        assert_eq!(size(flight.next(&queue, now)), Some((1, 3)));
        flight.refused(1, true);
        flight.unreadable(1, 1, leader);
        assert_eq!(told.await, Err(ProposeError::Unreadable { leader }));
        flight.begin_link();
        assert_eq!(size(flight.next(&queue, now)), Some((1, 2)));
        flight.refused(1, true);
        flight.unreadable(1, 2, leader);
        flight.begin_link();
        assert_eq!(size(flight.next(&queue, now)), Some((1, 0)), "there is no such place, so it is all of them");
    }

    #[tokio::test]
    async fn what_the_leader_cannot_read_and_another_may_have_proposed_is_unknown() {
        let (queue, flight, now) = begun();
        let unknown = propose(&queue, LONG);
        let stays = propose(&queue, LONG);
        assert_eq!(size(flight.next(&queue, now)), Some((1, 2)));
        // That leader died, and the next one runs an earlier version.
        flight.begin_link();
        assert_eq!(size(flight.next(&queue, now)), Some((1, 2)));
        flight.refused(1, true);
        flight.unreadable(1, 0, NodeId::new(3));
        flight.begin_link();
        let again = flight.next(&queue, now).expect("sent again");
        assert_eq!(again.commands, [Command::Tick, change()]);
        flight.applied(&[(1, 9)], vec![outcomes(1, vec![Outcome::Done; 2])]);
        assert!(matches!(unknown.await, Err(ProposeError::OutcomeUnknown { .. })));
        assert_eq!(stays.await, applied(Outcome::Done));
    }

    #[tokio::test]
    async fn a_frame_that_is_skipped_has_an_unknown_outcome() {
        let (queue, flight, now) = begun();
        let wait = propose(&queue, LONG);
        flight.next(&queue, now).expect("sent");
        flight.applied(&[(1, 9)], Vec::new());
        assert!(matches!(wait.await, Err(ProposeError::OutcomeUnknown { .. })));
        assert_eq!(flight.len(), 0);
    }
}
