//! Finding a node whose state is not what the others have.
//!
//! Every node keeps the hash of its state at the same log indexes. The others tell theirs to the
//! leader, which compares. If most nodes agree and one does not, that one is wrong and stops; if there is
//! no majority either way, it is an alarm and people must look.

use std::collections::{BTreeMap, VecDeque};

use ballast_core::ids::{LogIndex, NodeId};

/// A hash of the replicated state.
pub(crate) type Hash = [u8; 32];

/// A hash is kept for each index that is a multiple of this: often enough to find a mistake within
/// a minute at one entry a second, rarely enough to cost nothing at a thousand.
const EVERY: u64 = 32;

/// Hashes kept, so that nodes which lag by some thousand entries can still be compared.
const KEPT: usize = 128;

/// The hashes of one node, oldest first.
#[derive(Debug, Default)]
pub(crate) struct HashRing(VecDeque<(LogIndex, Hash)>);

impl HashRing {
    /// Called for each applied entry; asks for the hash only where one is kept.
    pub(crate) fn note(&mut self, index: LogIndex, hash: impl FnOnce() -> Hash) {
        if !index.get().is_multiple_of(EVERY) {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((index, hash()));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn all(&self) -> Vec<(LogIndex, Hash)> {
        self.0.iter().copied().collect()
    }
}

/// What the comparison at one index came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// All that told agree, or only one told.
    Equal,
    /// These nodes differ from most of all.
    Wrong(Vec<NodeId>),
    /// They differ, and no hash has a majority.
    Unclear,
}

/// Judges what nodes told about one index. `nodes` is how many there are: the first of five that told are no majority.
pub(crate) fn judge(told: &BTreeMap<NodeId, Hash>, nodes: usize) -> Finding {
    let mut counts: BTreeMap<Hash, usize> = BTreeMap::new();
    for hash in told.values() {
        *counts.entry(*hash).or_default() += 1;
    }
    if counts.len() <= 1 {
        return Finding::Equal;
    }
    match counts.iter().find(|(_, count)| **count * 2 > told.len().max(nodes)) {
        Some((right, _)) => {
            Finding::Wrong(told.iter().filter(|(_, hash)| *hash != right).map(|(node, _)| *node).collect())
        }
        None => Finding::Unclear,
    }
}

/// What nodes told the leader, by index.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<LogIndex, BTreeMap<NodeId, Hash>>);

impl Ledger {
    /// Adds what `node` told, forgets the oldest, and says at which index (if any) the comparison
    /// of its hashes found a difference.
    pub(crate) fn add(
        &mut self,
        node: NodeId,
        hashes: &[(LogIndex, Hash)],
        nodes: usize,
    ) -> Option<(LogIndex, Finding)> {
        let mut found = None;
        for (index, hash) in hashes {
            let told = self.0.entry(*index).or_default();
            told.insert(node, *hash);
            let finding = judge(told, nodes);
            if finding != Finding::Equal && found.is_none() {
                found = Some((*index, finding));
            }
        }
        while self.0.len() > KEPT {
            self.0.pop_first();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(hashes: &[u8]) -> BTreeMap<NodeId, Hash> {
        (1..).map(NodeId::new).zip(hashes.iter().map(|byte| [*byte; 32])).collect()
    }

    #[test]
    fn the_minority_is_wrong_and_a_tie_is_unclear() {
        let node = NodeId::new;
        assert_eq!(judge(&told(&[]), 3), Finding::Equal);
        assert_eq!(judge(&told(&[7]), 3), Finding::Equal);
        assert_eq!(judge(&told(&[7, 7, 7]), 3), Finding::Equal);
        assert_eq!(judge(&told(&[7, 8, 7]), 3), Finding::Wrong(vec![node(2)]));
        assert_eq!(judge(&told(&[7, 8]), 3), Finding::Unclear);
        assert_eq!(judge(&told(&[7, 8, 9]), 3), Finding::Unclear);
        assert_eq!(judge(&told(&[7, 8, 8, 8, 9]), 5), Finding::Wrong(vec![node(1), node(5)]));
        // Two that are wrong alike may tell before the others do.
        assert_eq!(judge(&told(&[7, 8, 8]), 5), Finding::Unclear);
    }

    #[test]
    fn hashes_are_kept_at_the_same_indexes_everywhere() {
        let mut ring = HashRing::default();
        for index in 1..=EVERY * 3 {
            ring.note(LogIndex::new(index), || [index as u8; 32]);
        }
        let indexes: Vec<u64> = ring.all().iter().map(|(index, _)| index.get()).collect();
        assert_eq!(indexes, [EVERY, EVERY * 2, EVERY * 3]);
    }

    #[test]
    fn the_ledger_finds_the_first_difference_and_stays_small() {
        let mut ledger = Ledger::default();
        let at = |index: u64, byte: u8| (LogIndex::new(index), [byte; 32]);
        assert_eq!(ledger.add(NodeId::new(1), &[at(32, 1), at(64, 2)], 3), None);
        assert_eq!(ledger.add(NodeId::new(2), &[at(32, 1), at(64, 2)], 3), None);
        let found = ledger.add(NodeId::new(3), &[at(32, 1), at(64, 9)], 3);
        assert_eq!(found, Some((LogIndex::new(64), Finding::Wrong(vec![NodeId::new(3)]))));
        for index in 0..1000 {
            ledger.add(NodeId::new(1), &[at(index, 0)], 3);
        }
        assert!(ledger.0.len() <= KEPT);
    }
}
