//! Since when each peer has been heard without a gap.
//!
//! A VIP returns by itself only to a node that stays: one that crashes every minute would take it each time. The log
//! does not know that, so each node notes it for itself from authenticated datagrams, of which voters and whoever asks
//! them exchange several in each lease, and learners greet each other.
//!
//! Not here: what follows from it ([`super::placement`]).

use std::collections::BTreeMap;

use crate::{ids::NodeId, time::BootNanos};

/// What one node has heard of the others.
#[derive(Default)]
pub(super) struct Hearing(BTreeMap<NodeId, Heard>);

struct Heard {
    since: BootNanos,
    last: BootNanos,
}

impl Hearing {
    /// Notes an authenticated datagram. After more than `gap` of silence a peer is as new. True when it is heard for the
    /// first time or again.
    pub(super) fn heard(&mut self, now: BootNanos, peer: NodeId, gap: u64) -> bool {
        let known = self.0.get(&peer).is_some_and(|heard| now.since(heard.last) <= gap);
        let heard = self.0.entry(peer).or_insert(Heard { since: now, last: now });
        if !known {
            heard.since = now;
        }
        heard.last = now;
        !known
    }

    /// Forgets who is no member.
    pub(super) fn retain(&mut self, member: impl Fn(NodeId) -> bool) {
        self.0.retain(|peer, _| member(*peer));
    }

    /// For how long each peer has been heard, those left out that have been silent for more than `gap`.
    pub(super) fn ages(&self, now: BootNanos, gap: u64) -> impl Iterator<Item = (NodeId, u64)> {
        let heard = self.0.iter().filter(move |(_, heard)| now.since(heard.last) <= gap);
        heard.map(move |(peer, heard)| (*peer, now.since(heard.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_begins_anew() {
        let peer = NodeId::new(2);
        let mut hearing = Hearing::default();
        let age = |hearing: &Hearing, now| hearing.ages(BootNanos::new(now), 10).next().map(|(_, age)| age);
        assert_eq!(age(&hearing, 100), None);
        for now in [100, 105, 115, 125] {
            assert_eq!(hearing.heard(BootNanos::new(now), peer, 10), now == 100);
        }
        assert_eq!((age(&hearing, 125), age(&hearing, 135)), (Some(25), Some(35)));
        assert_eq!(age(&hearing, 136), None, "silent for too long");
        assert!(hearing.heard(BootNanos::new(136), peer, 10), "it is back");
        assert_eq!(age(&hearing, 140), Some(4));
        hearing.retain(|node| node != peer);
        assert_eq!(age(&hearing, 140), None);
    }
}
