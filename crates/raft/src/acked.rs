//! Notices that a node has lost entries which it had acknowledged.
//!
//! An old copy of a data directory, or a disk that lost synced writes, takes entries back that may
//! be committed because of this node's word. Raft does not survive that: with the node's vote, a
//! leader without those entries could be elected. The leader knows what each node acknowledged to
//! it; a node that then denies it is told to stop, and nothing it says counts any more.
//!
//! What a leader was told ends with its term: entries that were acknowledged to it and not
//! committed may rightly be replaced under a later one.

use std::collections::HashMap;

use ballast_core::ids::{LogIndex, NodeId};
use parking_lot::Mutex;

/// What the other nodes acknowledged to this one as their leader.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<HashMap<NodeId, Known>>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    term: u64,
    index: u64,
    reverted: bool,
}

/// A question to a node: what it had acknowledged before it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    term: u64,
    acknowledged: u64,
}

impl Acknowledged {
    /// Call before `node` is asked to append in `term`.
    pub(crate) fn asking(&self, node: NodeId, term: u64) -> Asked {
        let known = self.0.lock().get(&node).copied().unwrap_or_default();
        Asked { term, acknowledged: if known.term == term { known.index } else { 0 } }
    }

    /// The node has everything up to `index`.
    pub(crate) fn has(&self, node: NodeId, asked: Asked, index: u64) {
        let mut all = self.0.lock();
        let known = all.entry(node).or_default();
        if asked.term > known.term {
            *known = Known { term: asked.term, index, reverted: false };
        } else if asked.term == known.term && index >= known.index {
            *known = Known { index, reverted: false, ..*known };
        }
    }

    /// The node does not have the entry at `index`. Returns what it had acknowledged if that is a
    /// contradiction.
    pub(crate) fn lacks(&self, node: NodeId, asked: Asked, index: u64) -> Option<LogIndex> {
        if index > asked.acknowledged {
            return None;
        }
        self.0.lock().entry(node).or_default().reverted = true;
        Some(LogIndex::new(asked.acknowledged))
    }

    /// Whether the node was found to have lost what it acknowledged, and has not got it back.
    pub(crate) fn is_reverted(&self, node: NodeId) -> bool {
        self.0.lock().get(&node).is_some_and(|known| known.reverted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(2);

    #[test]
    fn a_node_that_denies_what_it_acknowledged_is_found_out_until_it_has_it_again() {
        let all = Acknowledged::default();
        let first = all.asking(NODE, 3);
        assert_eq!(all.lacks(NODE, first, 10), None, "the leader looks for where the logs meet");
        all.has(NODE, first, 10);
        let next = all.asking(NODE, 3);
        assert_eq!(all.lacks(NODE, next, 11), None, "it never had that one");
        assert_eq!(all.lacks(NODE, next, 10), Some(LogIndex::new(10)));
        assert!(all.is_reverted(NODE) && !all.is_reverted(NodeId::new(3)));
        all.has(NODE, next, 9);
        assert!(all.is_reverted(NODE));
        all.has(NODE, next, 12);
        assert!(!all.is_reverted(NODE));
    }

    #[test]
    fn an_answer_that_was_overtaken_is_no_contradiction() {
        let all = Acknowledged::default();
        let (early, late) = (all.asking(NODE, 3), all.asking(NODE, 3));
        all.has(NODE, late, 10);
        assert_eq!(all.lacks(NODE, early, 10), None, "it was asked before it had the entry");
    }

    #[test]
    fn another_term_begins_without_knowledge_and_an_old_one_changes_nothing() {
        let all = Acknowledged::default();
        let old = all.asking(NODE, 3);
        all.has(NODE, old, 10);
        let new = all.asking(NODE, 5);
        assert_eq!(all.lacks(NODE, new, 7), None);
        all.has(NODE, new, 7);
        all.has(NODE, old, 20);
        assert_eq!(all.asking(NODE, 5), Asked { term: 5, acknowledged: 7 });
    }
}
