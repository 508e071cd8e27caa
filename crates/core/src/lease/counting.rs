//! By which memberships a node counts majorities: by its own log's, and by those that voters told it of.
//!
//! When the Raft leader dies in the middle of a change, the news of it may be with a few voters only, which refuse whoever
//! counts without it. They tell it along with the refusal, and the asker counts by what it was told *beside* its own, until
//! its own log has moved on. A wider count is never wrong, whatever becomes of the membership that was told: a majority of
//! more sets is still one of each. What would be wrong is to count by less than was said when the grant was asked for; so
//! when something told is forgotten, what was granted under it goes too ([`super::candidate`]).
//!
//! Not here: what a majority of several sets is ([`super::voters`]); who refuses ([`super::grantor`]).

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    rules::{Rule, Rules},
    voters::VoterSets,
};
use crate::{ids::EntryId, time::BootNanos};

/// Most memberships that are counted beside one's own. There is one that is committed and one that follows it, on each
/// branch of the log that a dead leader left; a voter that knows of a fourth goes on refusing.
pub(super) const TOLD_MAX: usize = 3;

/// What an asker says it counts by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CountsBy {
    /// The newest membership in its own log.
    pub own: EntryId,
    /// Memberships that voters told it of.
    pub told: SmallVec<[EntryId; TOLD_MAX]>,
}

impl CountsBy {
    /// Whether that is enough for a voter whose log's newest membership is `newest` and whose log ends at `last`.
    ///
    /// It is if the asker counts by the voter's sets, or if its own membership is past the end of the voter's log. One that
    /// is newer but not past the end is not on the voter's branch of the log: a leader wrote it that was overruled.
    pub(super) fn is_enough(&self, newest: EntryId, last: EntryId) -> bool {
        self.own == newest || self.told.contains(&newest) || self.own > last
    }
}

/// What one node counts by.
#[derive(Default)]
pub(super) struct Counting {
    rules: Rules,
    own: (EntryId, VoterSets),
    told: Vec<Told>,
    /// All of them.
    sets: Arc<VoterSets>,
}

struct Told {
    id: EntryId,
    sets: VoterSets,
    /// When a voter last said that this is the newest it knows.
    said_at: BootNanos,
}

impl Counting {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// The node's own log has this membership now. What was told and is not newer has been caught up with.
    pub(super) fn set_own(&mut self, id: EntryId, sets: &VoterSets) {
        self.own = (id, sets.clone());
        self.told.retain(|told| told.id > id);
        self.count();
    }

    /// A voter refused because of a membership. True if it is news.
    pub(super) fn learn(&mut self, now: BootNanos, id: EntryId, sets: &VoterSets) -> bool {
        self.affirm(now, id);
        let known = id == self.own.0 || self.told.iter().any(|told| told.id == id);
        if known || self.told.len() == TOLD_MAX {
            return false;
        }
        self.told.push(Told { id, sets: sets.clone(), said_at: now });
        self.count();
        true
    }

    /// A voter's newest membership is `id`.
    pub(super) fn affirm(&mut self, now: BootNanos, id: EntryId) {
        if let Some(told) = self.told.iter_mut().find(|told| told.id == id) {
            told.said_at = now;
        }
    }

    /// Forgets what no voter has said for longer than `after`: it was overruled, or all who have it are gone. True if that
    /// was something.
    pub(super) fn forget(&mut self, now: BootNanos, after: u64) -> bool {
        let before = self.told.len();
        self.told.retain(|told| now.since(told.said_at) <= after);
        if self.told.len() == before {
            return false;
        }
        self.count();
        true
    }

    /// The sets of which a majority is needed.
    pub(super) fn sets(&self) -> &Arc<VoterSets> {
        &self.sets
    }

    /// What to say to voters.
    pub(super) fn by(&self) -> CountsBy {
        CountsBy { own: self.own.0, told: self.told.iter().map(|told| told.id).collect() }
    }

    fn count(&mut self) {
        let sets = match self.told.last() {
            None => self.own.1.clone(),
            Some(_) if !self.rules.keep(Rule::CountTold) => self.own.1.clone(),
            Some(told) if !self.rules.keep(Rule::CountOwnBesideTold) => told.sets.clone(),
            Some(_) => self.told.iter().fold(self.own.1.clone(), |sets, told| sets.and(&told.sets)),
        };
        self.sets = Arc::new(sets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogIndex, NodeId, Term};

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term::new(term), index: LogIndex::new(index) }
    }

    fn set(nodes: &[u64]) -> VoterSets {
        VoterSets::new([nodes.iter().copied().map(NodeId::new)])
    }

    fn at(nanos: u64) -> BootNanos {
        BootNanos::new(nanos)
    }

    #[test]
    fn what_is_told_is_counted_beside_what_is_known_until_the_log_has_it() {
        let mut counting = Counting::new(Rules::default());
        counting.set_own(id(1, 5), &set(&[1, 2, 3]));
        assert!(counting.learn(at(0), id(1, 9), &set(&[3, 4, 5])));
        assert!(!counting.learn(at(1), id(1, 9), &set(&[3, 4, 5])), "known");
        assert_eq!(**counting.sets(), set(&[1, 2, 3]).and(&set(&[3, 4, 5])));
        assert_eq!(counting.by().told.as_slice(), [id(1, 9)]);
        counting.set_own(id(1, 7), &set(&[1, 2, 3]));
        assert_eq!(counting.by().told.as_slice(), [id(1, 9)], "still newer");
        counting.set_own(id(1, 9), &set(&[3, 4, 5]));
        assert_eq!((&**counting.sets(), counting.by().told.len()), (&set(&[3, 4, 5]), 0));
    }

    #[test]
    fn what_nobody_says_any_more_is_forgotten_and_more_than_three_are_not_kept() {
        let mut counting = Counting::new(Rules::default());
        counting.set_own(id(1, 5), &set(&[1]));
        for index in 6..9 {
            assert!(counting.learn(at(index), id(1, index), &set(&[index])));
        }
        assert!(!counting.learn(at(9), id(1, 9), &set(&[9])));
        counting.affirm(at(20), id(1, 7));
        assert!(counting.forget(at(25), 10));
        assert_eq!(**counting.sets(), set(&[1]).and(&set(&[7])));
        assert!(!counting.forget(at(30), 10));
    }

    #[test]
    fn a_newer_membership_is_enough_only_past_the_end_of_the_log() {
        let by = |own, told: &[EntryId]| CountsBy { own, told: told.iter().copied().collect() };
        let enough = |by: CountsBy| by.is_enough(id(2, 9), id(2, 30));
        assert!(enough(by(id(2, 9), &[])) && enough(by(id(1, 3), &[id(2, 9)])));
        assert!(!enough(by(id(1, 3), &[])));
        assert!(enough(by(id(2, 31), &[])) && enough(by(id(3, 12), &[])));
        assert!(!enough(by(id(2, 20), &[])), "it would be in the log here");
        assert!(!enough(by(id(1, 40), &[])), "by a leader that was overruled");
    }
}
