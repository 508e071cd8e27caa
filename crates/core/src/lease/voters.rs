//! The voter sets in force, and what a majority of each of them says.

use smallvec::SmallVec;

use crate::{ids::NodeId, time::BootNanos};

/// One voter set, or two while Raft's configuration is joint. A lease, like a log entry, needs a
/// majority of every one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoterSets {
    sets: Vec<Vec<NodeId>>,
}

impl VoterSets {
    /// Sets as Raft's configuration has them, the newest last. Empty sets are left out.
    pub fn new<S: IntoIterator<Item = NodeId>>(sets: impl IntoIterator<Item = S>) -> Self {
        let mut all = Self::default();
        for set in sets {
            let mut set: Vec<NodeId> = set.into_iter().collect();
            set.sort_unstable();
            set.dedup();
            if !set.is_empty() && !all.sets.contains(&set) {
                all.sets.push(set);
            }
        }
        all
    }

    /// Each set, ascending.
    pub(super) fn each(&self) -> impl ExactSizeIterator<Item = &[NodeId]> {
        self.sets.iter().map(Vec::as_slice)
    }

    /// Every voter of any set, ascending.
    pub fn members(&self) -> Vec<NodeId> {
        let mut members: Vec<NodeId> = self.sets.iter().flatten().copied().collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Whether the node is a voter of any set.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.sets.iter().any(|set| set.binary_search(&node).is_ok())
    }

    /// Whether the nodes for which `has` holds are a majority of every set.
    pub fn quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        !self.sets.is_empty() && self.sets.iter().all(|set| set.iter().filter(|n| has(**n)).count() > set.len() / 2)
    }

    /// The latest time that a majority of every set reaches, where `times` says how far voters go.
    /// A voter that is named twice would count twice: the caller sees to distinctness.
    pub(super) fn reached(&self, times: &[(NodeId, BootNanos)]) -> Option<BootNanos> {
        self.nth(times, |a, b| b.cmp(a), BootNanos::min)
    }

    /// The earliest time by which a majority of every set is free.
    pub(super) fn free_by(&self, times: &[(NodeId, BootNanos)]) -> Option<BootNanos> {
        self.nth(times, BootNanos::cmp, BootNanos::max)
    }

    fn nth(
        &self,
        times: &[(NodeId, BootNanos)],
        order: impl Fn(&BootNanos, &BootNanos) -> std::cmp::Ordering,
        combine: impl Fn(BootNanos, BootNanos) -> BootNanos,
    ) -> Option<BootNanos> {
        let mut result: Option<BootNanos> = None;
        for set in &self.sets {
            let mut told: SmallVec<[BootNanos; 8]> =
                times.iter().filter(|(n, _)| set.binary_search(n).is_ok()).map(|(_, t)| *t).collect();
            told.sort_unstable_by(&order);
            let majority = *told.get(set.len() / 2)?;
            result = Some(result.map_or(majority, |r| combine(r, majority)));
        }
        result
    }

    /// These sets and those of `other`.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self::new(self.sets.iter().chain(&other.sets).map(|set| set.iter().copied()))
    }

    /// The newest set alone, which is not enough while there are two.
    pub(super) fn newest(&self) -> Self {
        Self { sets: self.sets.last().cloned().into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(sets: &[&[u64]]) -> VoterSets {
        VoterSets::new(sets.iter().map(|s| s.iter().copied().map(NodeId::new)))
    }

    fn times(times: &[(u64, u64)]) -> Vec<(NodeId, BootNanos)> {
        times.iter().map(|(n, t)| (NodeId::new(*n), BootNanos::new(*t))).collect()
    }

    #[test]
    fn joint_needs_a_majority_of_both() {
        let joint = sets(&[&[1, 2, 3], &[3, 4, 5]]);
        assert!(!joint.quorum(|n| n.get() <= 3));
        assert!(joint.quorum(|n| [2, 3, 4].contains(&n.get())));
        assert_eq!([1, 3, 5, 6].map(|n| joint.has(NodeId::new(n))), [true, true, true, false]);
        assert!(!sets(&[]).quorum(|_| true), "no voters, no quorum");
        assert!(!sets(&[&[1, 2]]).quorum(|n| n.get() == 1), "half is not a majority");
    }

    #[test]
    fn reached_is_the_majority_that_lasts_longest() {
        let three = sets(&[&[1, 2, 3]]);
        assert_eq!(three.reached(&times(&[(1, 10)])), None);
        assert_eq!(three.reached(&times(&[(1, 10), (2, 30), (3, 20)])), Some(BootNanos::new(20)));
        assert_eq!(three.reached(&times(&[(1, 10), (9, 30)])), None, "9 is no voter");
        assert_eq!(three.free_by(&times(&[(1, 10), (2, 30), (3, 20)])), Some(BootNanos::new(20)));
        let joint = sets(&[&[1, 2, 3], &[4]]);
        assert_eq!(joint.reached(&times(&[(1, 10), (2, 30), (3, 20), (4, 5)])), Some(BootNanos::new(5)));
    }
}
