//! Watches what every node applies, as it applies it.
//!
//! Two nodes must have the same entry at an index and, having applied up to an index, the same state; a node must not
//! apply backwards. Held against all nodes and all their lives, at every step.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ballast_core::{
    ids::LogIndex,
    state::{Entry, FrameOutcomes, State, codec},
};
use ballast_jepsen::{
    epochs::{Mark, Sample, Saying},
    verdict::{Judgement, Promise},
};
use ballast_raft::Observer;
use parking_lot::Mutex;

use crate::{clock, trace::happened};

/// What was seen of all nodes together.
#[derive(Debug, Default)]
pub struct Seen {
    entries: BTreeMap<u64, blake3::Hash>,
    states: BTreeMap<u64, [u8; 32]>,
    compared: usize,
    wrong: Vec<String>,
    samples: Vec<Sample>,
    last: BTreeMap<(usize, &'static str), (u32, u64)>,
}

impl Seen {
    /// Something that must never be.
    pub fn wrong(&mut self, what: String) {
        happened!("WRONG: {what}");
        self.wrong.push(what);
    }

    /// Something that must never be was seen.
    pub fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// What nodes said of themselves.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// A node says where a mark stands, or in which term it leads. Said again only when it is news.
    pub fn said(&mut self, node: usize, life: u32, what: &'static str, value: u64) {
        if self.last.insert((node, what), (life, value)) == Some((life, value)) {
            return;
        }
        let saying = match what {
            "leads" => Saying::Leads { term: value },
            "term" => Saying::Mark { mark: Mark::Term, value },
            _ => Saying::Mark { mark: Mark::Applied, value },
        };
        if what != "applied" {
            happened!("n{node} says {what} {value}");
        }
        self.samples.push(Sample { at: clock::instant(), node: format!("n{node}"), incarnation: life, saying });
    }

    /// Whether all replicas were equal.
    pub fn judgement(&self) -> Judgement {
        let mut judgement = Judgement::new(Promise::ReplicasEqual).looked_at("comparisons", self.compared);
        self.wrong.iter().for_each(|wrong| judgement.violated(wrong.as_str()));
        judgement
    }

    fn state(&mut self, node: usize, index: u64, hash: [u8; 32]) {
        match self.states.insert(index, hash) {
            Some(other) if other != hash => self.wrong(format!("n{node} has another state at {index} than others had")),
            Some(_) => self.compared += 1,
            None => {}
        }
    }
}

/// Watches one life of a node.
pub struct Watcher {
    node: usize,
    life: u32,
    applied: AtomicU64,
    seen: Arc<Mutex<Seen>>,
}

impl Watcher {
    /// Of this life of a node.
    pub fn new(node: usize, life: u32, seen: Arc<Mutex<Seen>>) -> Self {
        Self { node, life, applied: AtomicU64::new(0), seen }
    }
}

impl Observer for Watcher {
    fn entry(&self, index: LogIndex, entry: &Entry, _: &[FrameOutcomes]) {
        let hash = blake3::hash(&codec::encode_entry(entry));
        let mut seen = self.seen.lock();
        match seen.entries.insert(index.get(), hash) {
            Some(other) if other != hash => {
                seen.wrong(format!("n{} applied another entry at {index} than others did", self.node));
            }
            Some(_) => seen.compared += 1,
            None => {}
        }
    }

    fn applied(&self, state: &State, index: LogIndex) {
        let before = self.applied.swap(index.get(), Ordering::Relaxed);
        let mut seen = self.seen.lock();
        if before > index.get() {
            seen.wrong(format!("n{} applied {index} after {before}", self.node));
        }
        happened!("n{} applied {index}", self.node);
        seen.said(self.node, self.life, "applied", index.get());
        seen.state(self.node, index.get(), state.hash());
    }

    fn installed(&self, state: &State) {
        let index = state.applied().get();
        self.applied.store(index, Ordering::Relaxed);
        happened!("n{} installed a snapshot at {index}", self.node);
        self.seen.lock().state(self.node, index, state.hash());
    }
}
