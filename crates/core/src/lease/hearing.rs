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
    /// It was told that it is gone.
    gone: bool,
}

impl Hearing {
    /// Notes an authenticated datagram. After more than `gap` of silence a peer is as new. True when it is heard for the
    /// first time or again.
    pub(super) fn heard(&mut self, now: BootNanos, peer: NodeId, gap: u64) -> bool {
        let known = self.0.get(&peer).is_some_and(|heard| now.since(heard.last) <= gap);
        let heard = self.0.entry(peer).or_insert(Heard { since: now, last: now, gone: false });
        if !known {
            heard.since = now;
        }
        (heard.last, heard.gone) = (now, false);
        !known
    }

    /// Peers that were heard and have been silent for more than `gap` since then and since `listening`: each once in a silence.
    pub(super) fn gone(&mut self, now: BootNanos, listening: BootNanos, gap: u64) -> Vec<NodeId> {
        let is_silent = |heard: &Heard| !heard.gone && now.since(heard.last.max(listening)) > gap;
        let silent = self.0.iter_mut().filter(|(_, heard)| is_silent(heard));
        silent
            .map(|(peer, heard)| {
                heard.gone = true;
                *peer
            })
            .collect()
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

    #[test]
    fn a_silence_is_told_once() {
        let peer = NodeId::new(2);
        let at = BootNanos::new;
        let mut hearing = Hearing::default();
        assert_eq!(hearing.gone(at(100), at(0), 10), [], "who was never heard is not missed");
        hearing.heard(at(100), peer, 5);
        assert_eq!(hearing.gone(at(110), at(0), 10), []);
        assert_eq!(hearing.gone(at(111), at(101), 10), [], "nobody listened for so long");
        assert_eq!(hearing.gone(at(112), at(101), 10), [peer]);
        assert_eq!(hearing.gone(at(200), at(101), 10), []);
        hearing.heard(at(200), peer, 5);
        assert_eq!(hearing.gone(at(211), at(101), 10), [peer]);
    }
}
