//! Raft as far as leases can see it: logs that leaders write, that lag, and that are overruled.
//!
//! Entries are nothing but terms, some of them memberships. A leader is elected by a majority of every voter set of the
//! newest membership in its log, by voters whose logs are no better; it overwrites what differs from its own; it commits
//! what a majority of every set has once that includes an entry of its own term; and it makes a change of the membership
//! only when the one before is committed. Leaders that were deposed and do not know go on writing to whoever does not know
//! either.
//!
//! Not here: when any of that happens ([`super::World`]).

use std::collections::BTreeMap;

use rand::{Rng, rngs::StdRng};

use crate::ids::{EntryId, LogIndex, Term};

/// Index of the first entry.
const FIRST: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    term: u64,
    /// Position in the list of memberships.
    membership: Option<usize>,
}

/// What one node has on its disk.
struct Log {
    /// The newest term it voted in or heard of.
    term: u64,
    entries: Vec<Entry>,
}

/// Who leads in a term, or thinks it does, and how many entries each node has confirmed to it.
struct Leader {
    node: usize,
    matched: Vec<usize>,
}

/// The logs of all nodes.
pub(super) struct Raft {
    logs: Vec<Log>,
    /// By term.
    leaders: BTreeMap<u64, Leader>,
    /// Voter sets by node id, two while joint, and how many documents had been committed before.
    memberships: Vec<(Vec<Vec<u64>>, usize)>,
    /// When how much was committed.
    committed: Vec<(u64, u64)>,
}

impl Log {
    fn end(&self) -> EntryId {
        self.id(self.entries.len() - 1)
    }

    fn id(&self, at: usize) -> EntryId {
        EntryId { term: Term::new(self.entries[at].term), index: LogIndex::new(FIRST + at as u64) }
    }

    /// Where the newest membership is.
    fn membership(&self) -> usize {
        self.entries.iter().rposition(|entry| entry.membership.is_some()).expect("the first entry is one")
    }
}

impl Raft {
    /// `nodes` logs with one entry, these voters; the first of them leads.
    pub(super) fn new(nodes: u64, voters: Vec<u64>) -> Self {
        let log = |_| Log { term: 1, entries: vec![Entry { term: 1, membership: Some(0) }] };
        let leader = Leader { node: voters[0] as usize - 1, matched: vec![1; nodes as usize] };
        let leaders = BTreeMap::from([(1, leader)]);
        Self {
            logs: (0..nodes).map(log).collect(),
            leaders,
            memberships: vec![(vec![voters], 1)],
            committed: vec![(0, FIRST)],
        }
    }

    /// The end of a node's log.
    pub(super) fn end(&self, node: usize) -> EntryId {
        self.logs[node].end()
    }

    /// The newest membership in a node's log.
    pub(super) fn membership(&self, node: usize) -> (EntryId, &[Vec<u64>]) {
        let log = &self.logs[node];
        let at = log.membership();
        (log.id(at), &self.memberships[log.entries[at].membership.expect("one")].0)
    }

    /// How many documents were committed before the membership before the newest in a node's log.
    pub(super) fn documents_before(&self, node: usize) -> usize {
        let before = self.logs[node].entries.iter().rev().filter_map(|entry| entry.membership).nth(1);
        before.map_or(0, |before| self.memberships[before].1)
    }

    /// Where the longest log ends.
    pub(super) fn longest(&self) -> LogIndex {
        self.logs.iter().map(|log| log.end().index).max().unwrap_or_default()
    }

    /// What was committed before `t`.
    pub(super) fn committed_before(&self, t: u64) -> u64 {
        self.committed.iter().rev().find(|(at, _)| *at < t).map_or(0, |(_, index)| *index)
    }

    /// The node that leads in the newest term, if it does not know better.
    pub(super) fn leader(&self) -> Option<usize> {
        self.leaders.last_key_value().map(|(_, leader)| leader.node)
    }

    /// Whether a node leads, or thinks it does.
    pub(super) fn leads(&self, node: usize) -> bool {
        self.led_by(node).is_some()
    }

    /// A process ended. What it led it leads no longer.
    pub(super) fn ended(&mut self, node: usize) {
        self.leaders.retain(|_, leader| leader.node != node);
    }

    /// A node tries to become the leader, with the votes of who runs and `votes`. True if it does.
    pub(super) fn elect(&mut self, node: usize, mut votes: impl FnMut(usize) -> bool) -> bool {
        let term = self.logs.iter().map(|log| log.term).max().expect("not empty") + 1;
        let end = self.end(node);
        let mut voters = Vec::new();
        for id in self.membership(node).1.concat() {
            let voter = id as usize - 1;
            if !voters.contains(&voter) && self.end(voter) <= end && (voter == node || votes(voter)) {
                voters.push(voter);
            }
        }
        let has =
            |set: &Vec<u64>| set.iter().filter(|id| voters.contains(&(**id as usize - 1))).count() > set.len() / 2;
        if !voters.contains(&node) || !self.membership(node).1.iter().all(has) {
            return false;
        }
        for voter in voters {
            self.logs[voter].term = term;
        }
        self.ended(node);
        self.leaders.insert(term, Leader { node, matched: vec![0; self.logs.len()] });
        self.logs[node].entries.push(Entry { term, membership: None });
        true
    }

    /// A leader writes an entry.
    pub(super) fn propose(&mut self, node: usize) {
        self.write(node, None);
    }

    fn write(&mut self, node: usize, membership: Option<usize>) {
        if let Some(term) = self.led_by(node) {
            self.logs[node].entries.push(Entry { term, membership });
        }
    }

    fn led_by(&self, node: usize) -> Option<u64> {
        self.leaders.iter().find(|(_, leader)| leader.node == node).map(|(term, _)| *term)
    }

    /// A leader begins to change the voters to `next` after so many documents, if no change is going on as far as it knows.
    /// True if it did.
    pub(super) fn begin_change(&mut self, leader: usize, next: Vec<u64>, documents: usize) -> bool {
        let at = self.logs[leader].membership();
        let [current] = self.membership(leader).1 else { return false };
        if *current == next || self.committed_by(leader).is_none_or(|committed| committed < at) {
            return false;
        }
        let joint = vec![current.clone(), next];
        self.make(leader, joint, documents);
        true
    }

    /// A leader ends a joint membership after so many documents, if that is committed. True if it did.
    pub(super) fn end_change(&mut self, leader: usize, documents: usize) -> bool {
        let at = self.logs[leader].membership();
        let [_, next] = self.membership(leader).1 else { return false };
        if self.committed_by(leader).is_none_or(|committed| committed < at) {
            return false;
        }
        let single = vec![next.clone()];
        self.make(leader, single, documents);
        true
    }

    fn make(&mut self, leader: usize, sets: Vec<Vec<u64>>, documents: usize) {
        self.memberships.push((sets, documents));
        self.write(leader, Some(self.memberships.len() - 1));
    }

    /// Leaders from which a node takes entries.
    pub(super) fn leaders_for(&self, node: usize) -> Vec<usize> {
        self.leaders
            .range(self.logs[node].term..)
            .map(|(_, leader)| leader.node)
            .filter(|leader| *leader != node)
            .collect()
    }

    /// A node takes the log of a leader, all but the last `without` entries, and drops what differs.
    pub(super) fn replicate(&mut self, leader: usize, to: usize, without: usize) {
        let term = self.led_by(leader).expect("it leads");
        let entries = &self.logs[leader].entries;
        let count = entries.len().saturating_sub(without).max(1);
        let entries = entries[..count].to_vec();
        let log = &mut self.logs[to];
        log.term = term;
        let same = entries.iter().zip(&log.entries).take_while(|(a, b)| a == b).count();
        if same < entries.len() {
            log.entries.truncate(same);
            log.entries.extend_from_slice(&entries[same..]);
        }
        // It has heard that somebody else leads.
        self.ended(to);
        let matched = &mut self.leaders.get_mut(&term).expect("it leads").matched[to];
        *matched = count.max(*matched);
    }

    /// Notes what is committed at `t`.
    pub(super) fn count(&mut self, t: u64) {
        let newest = self.leaders.values().filter_map(|leader| self.committed_by(leader.node)).max();
        if let Some(index) = newest.map(|at| FIRST + at as u64)
            && index > self.committed.last().map_or(0, |(_, index)| *index)
        {
            self.committed.push((t, index));
        }
    }

    /// How far a leader's log is committed, as a position: the last entry of its own term that a majority of every set has.
    fn committed_by(&self, leader: usize) -> Option<usize> {
        let term = self.led_by(leader)?;
        let entries = &self.logs[leader].entries;
        let matched = &self.leaders[&term].matched;
        let has = |node: usize| if node == leader { entries.len() } else { matched[node] };
        let majority = |set: &Vec<u64>| {
            let mut counts: Vec<usize> = set.iter().map(|id| has(*id as usize - 1)).collect();
            counts.sort_unstable_by(|a, b| b.cmp(a));
            counts[set.len() / 2]
        };
        let count = self.membership(leader).1.iter().map(majority).min()?;
        let at = count.checked_sub(1)?;
        (entries[at].term == term).then_some(at)
    }

    /// Any other set of one to three voters.
    pub(super) fn any_voters(&self, rng: &mut StdRng) -> Vec<u64> {
        let mut all: Vec<u64> = (1..=self.logs.len() as u64).collect();
        let size = rng.random_range(1..=3);
        let mut next: Vec<u64> = (0..size).map(|_| all.swap_remove(rng.random_range(0..all.len()))).collect();
        next.sort_unstable();
        next
    }
}
