//! Documents that give addresses to VIPs and say how long leases last, and how far nodes have applied them.
//!
//! The documents are what the log committed, one after the other. Each node applies them in this order and whenever it
//! likes, also a majority of them late: more than Raft would ever allow, since leases must bear it without asking how. Only
//! where the voters change meanwhile does a node apply none before its log is as long as the longest was then.
//!
//! Not here: when that happens ([`super::World`]).

use std::{collections::BTreeMap, net::IpAddr};

use rand::{Rng, rngs::StdRng};

use crate::ids::{LogIndex, VipId};

/// The addresses of each VIP that there is.
pub(in super::super) type Document = BTreeMap<VipId, Vec<IpAddr>>;

/// What was committed and who has applied how much of it.
pub(super) struct Documents {
    all: Vec<Document>,
    /// The lease under each of them.
    leases: Vec<u64>,
    /// How long a log must be to have each of them.
    from: Vec<LogIndex>,
    /// Positions of the nodes, in `all`.
    applied: Vec<usize>,
    /// How much of that is on their disks.
    synced: Vec<usize>,
    /// Nodes that apply nothing.
    pub held: Vec<bool>,
    /// How likely a node applies what there is when it looks.
    pub pace: f64,
}

/// The nth address of a run.
pub(in super::super) fn address(n: u32) -> IpAddr {
    IpAddr::from([10, 0, 0, n as u8])
}

impl Documents {
    /// The first document: each VIP with the address of its number.
    pub(super) fn new(nodes: u64, vips: u32, lease: u64) -> Self {
        let first = (1..=vips).map(|vip| (VipId::new(vip), vec![address(vip)])).collect();
        let nodes = nodes as usize;
        let (leases, from) = (vec![lease], vec![LogIndex::default()]);
        let (applied, synced) = (vec![0; nodes], vec![0; nodes]);
        Self { all: vec![first], leases, from, applied, synced, held: vec![false; nodes], pace: 1.0 }
    }

    pub(super) fn last(&self) -> &Document {
        self.all.last().expect("there is a first")
    }

    /// As a node knows it.
    pub(super) fn at(&self, node: usize) -> &Document {
        &self.all[self.applied[node]]
    }

    /// The leases of all documents that a node has applied; the last is in force there.
    pub(super) fn leases(&self, node: usize) -> &[u64] {
        &self.leases[..=self.applied[node]]
    }

    /// The leases of those that are on a node's disk, too.
    pub(super) fn leases_on_disk(&self, node: usize) -> &[u64] {
        &self.leases[..=self.synced[node]]
    }

    /// All that a node has applied is on its disk.
    pub(super) fn sync(&mut self, node: usize) {
        self.synced[node] = self.applied[node];
    }

    /// A node loses what is not.
    pub(super) fn lose_power(&mut self, node: usize) {
        self.applied[node] = self.synced[node];
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// How many a node has applied.
    pub(super) fn applied(&self, node: usize) -> usize {
        self.applied[node] + 1
    }

    pub(super) fn commit(&mut self, document: Document, from: LogIndex) {
        self.all.push(document);
        self.from.push(from);
        self.leases.push(self.leases[self.leases.len() - 1]);
    }

    /// The same, with another lease.
    pub(super) fn commit_lease(&mut self, lease: u64, from: LogIndex) {
        self.all.push(self.last().clone());
        self.from.push(from);
        self.leases.push(lease);
    }

    /// A node whose log ends there looks, and applies nothing, all, or some of it.
    pub(super) fn apply(&mut self, node: usize, end: LogIndex, rng: &mut StdRng) {
        let there = self.from.iter().take_while(|from| **from <= end).count();
        let (applied, last) = (self.applied[node], (there - 1).max(self.applied[node]));
        if self.held[node] || applied == last {
            return;
        }
        if self.pace >= 1.0 {
            self.applied[node] = last;
        } else if rng.random_bool(self.pace) {
            self.applied[node] = rng.random_range(applied + 1..=last);
        }
    }

    /// One in which some addresses are another VIP's than before, or nobody's, and VIPs without addresses are gone.
    pub(super) fn any(&self, vips: u32, rng: &mut StdRng) -> Document {
        let mut next = self.last().clone();
        for _ in 0..rng.random_range(1..=2) {
            let moved = address(rng.random_range(1..=vips));
            for addresses in next.values_mut() {
                addresses.retain(|address| *address != moved);
            }
            if rng.random_bool(0.8) {
                let to = VipId::new(rng.random_range(1..=vips));
                next.entry(to).or_default().push(moved);
            }
        }
        next.retain(|_, addresses| !addresses.is_empty());
        next
    }
}
