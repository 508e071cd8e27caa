//! Tells whose disks take what they are sent.
//!
//! A node answers heartbeats without its disk, so one whose disk hangs answers for ever and has nothing that is agreed from then
//! on. A change that needs it for a majority could be neither committed nor taken back. So the leader notes where its log
//! ended at each look, and a node takes entries that has on disk by now what there was a while ago. In an idle cluster log time
//! moves every second, which is an entry too.
//!
//! Looks that are far apart, and the first one, know of no such while: whoever takes entries has all that there is.
//!
//! Not here: what follows from it (`plan`).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// What was in the log for so long is on each disk that takes entries. Far above a sync on a disk that is busy.
const TAKEN_AFTER: Duration = Duration::from_secs(2);

/// What the leader knows of its own log, and of the logs of the members, from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Taking {
    /// When the leader looked and where its log ended, oldest first. The first look is [`TAKEN_AFTER`] old, and the only one
    /// that is; or younger, if there is none so old.
    ends: VecDeque<(Instant, u64)>,
    members: BTreeMap<u64, Member>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// Last entry that it has on disk, as far as the leader knows.
    matched: Option<u64>,
    /// Since when it has had no more than that, and lacks what it should have; `None` while it takes entries.
    stuck_since: Option<Instant>,
}

impl Taking {
    /// The log ends at `end`, and these are the members with the last entry that each has on disk.
    pub(super) fn look(&mut self, now: Instant, end: u64, members: impl IntoIterator<Item = (u64, Option<u64>)>) {
        if self.ends.back().is_some_and(|(at, _)| now.duration_since(*at) > TAKEN_AFTER) {
            self.ends.clear();
        }
        self.ends.push_back((now, end));
        while self.ends.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= TAKEN_AFTER) {
            self.ends.pop_front();
        }
        let due = self.ends.front().map_or(end, |(_, end)| *end);
        let before = std::mem::take(&mut self.members);
        let looked_at = members.into_iter().map(|(node, matched)| {
            let no_further = before.get(&node).filter(|before| before.matched == matched);
            let since = no_further.and_then(|before| before.stuck_since).unwrap_or(now);
            (node, Member { matched, stuck_since: (matched < Some(due)).then_some(since) })
        });
        self.members = looked_at.collect();
    }

    /// Whether a node's disk takes what it is sent. One that is no member is sent nothing.
    pub(super) fn takes(&self, node: u64) -> bool {
        self.members.get(&node).is_some_and(|member| member.stuck_since.is_none())
    }

    /// For how long a member has got no further although there was more to have; zero for one that gets further, however slowly.
    pub(super) fn stuck_for(&self, now: Instant, node: u64) -> Duration {
        let since = self.members.get(&node).and_then(|member| member.stuck_since);
        since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks one after another, at milliseconds after the beginning.
    struct Looks {
        taking: Taking,
        begun: Instant,
    }

    impl Looks {
        fn new() -> Self {
            Self { taking: Taking::default(), begun: Instant::now() }
        }

        /// Node 2 has `matched` when the log ends at `end`. Returns whether it takes entries, and for how many milliseconds
        /// it has been stuck.
        fn look(&mut self, millis: u64, end: u64, matched: Option<u64>) -> (bool, u128) {
            let now = self.begun + Duration::from_millis(millis);
            self.taking.look(now, end, [(1, Some(end)), (2, matched)]);
            assert!(self.taking.takes(1) && !self.taking.takes(3));
            (self.taking.takes(2), self.taking.stuck_for(now, 2).as_millis())
        }
    }

    #[test]
    fn a_node_takes_entries_while_it_has_what_there_was_two_seconds_ago() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(0, 100, Some(100)), (true, 0));
        // Writes begin, and it is always a second behind.
        for second in 1..10 {
            assert_eq!(looks.look(second * 1000, 100 + second * 50, Some(50 + second * 50)), (true, 0));
        }
        // Its disk hangs at 550.
        assert_eq!(looks.look(10_000, 600, Some(550)), (true, 0));
        assert_eq!(looks.look(11_000, 650, Some(550)), (true, 0), "two seconds ago there was no more");
        assert_eq!(looks.look(12_000, 700, Some(550)), (false, 0));
        assert_eq!(looks.look(13_000, 701, Some(550)), (false, 1000));
        assert_eq!(looks.look(14_000, 702, Some(702)), (true, 0));
        assert_eq!(looks.look(15_000, 703, Some(702)), (true, 0));
    }

    #[test]
    fn a_disk_that_hangs_in_an_idle_cluster_shows_when_log_time_moves() {
        let mut looks = Looks::new();
        // A look every quarter of a second, an entry every second.
        let takes: Vec<bool> = (0..20).map(|look| looks.look(look * 250, 100 + look / 4, Some(100)).0).collect();
        assert_eq!(takes.iter().position(|takes| !takes), Some(12), "two seconds after the first entry that it lacks");
        assert!(takes[12..].iter().all(|takes| !takes));
    }

    #[test]
    fn a_node_that_catches_up_slowly_does_not_take_entries_and_is_not_stuck() {
        let mut looks = Looks::new();
        for second in 0..100 {
            assert_eq!(looks.look(second * 1000, 10_000 + second * 100, Some(10 + second)), (false, 0));
        }
        for second in 100..160 {
            let (takes, stuck_for) = looks.look(second * 1000, 20_000, Some(109));
            assert_eq!((takes, stuck_for), (false, u128::from(second - 99) * 1000));
        }
        assert_eq!(looks.look(160_000, 20_000, Some(110)), (false, 0));
    }

    #[test]
    fn nothing_is_believed_of_a_time_in_which_nobody_looked() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(0, 100, None), (false, 0), "nobody has answered a new leader yet");
        assert_eq!(looks.look(250, 100, Some(99)), (false, 0));
        assert_eq!(looks.look(500, 101, Some(100)), (true, 0), "all that there was at the first look");
        assert_eq!(looks.look(10_000, 200, Some(199)), (false, 0), "it may have stopped long ago");
        assert_eq!(looks.look(10_250, 210, Some(200)), (true, 0));
    }
}
