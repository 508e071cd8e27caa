//! What only grows: terms, epochs, applied indexes; what has one owner each; and what is equal at an index.
//!
//! Epochs of a VIP grow across nodes: who says that it holds an older one than another held before has not noticed that it lost it.
//!
//! Judged from what nodes say of themselves (metrics, admin API), so it shows what is wrong and does not prove what is right.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::RunTime;
use crate::verdict::{Judgement, Promise};

/// A number that must not fall.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Raft's term. It is durable: it must not fall across restarts either.
    Term,
    /// The index that the node has acknowledged to others. Durable too.
    Acknowledged,
    /// The index that was applied. A restart rebuilds state from an earlier one.
    Applied,
    /// The revision of the configuration that the node serves. May be earlier after a restart, as the above.
    Revision,
    /// The epoch under which the node holds this VIP. An epoch once released is never held again.
    Epoch(String),
}

impl Mark {
    fn survives_restarts(&self) -> bool {
        match self {
            Self::Term | Self::Acknowledged | Self::Epoch(_) => true,
            Self::Applied | Self::Revision => false,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Term => f.write_str("term"),
            Self::Acknowledged => f.write_str("acknowledged index"),
            Self::Applied => f.write_str("applied index"),
            Self::Revision => f.write_str("revision"),
            Self::Epoch(vip) => write!(f, "epoch of {vip}"),
        }
    }
}

/// What a node said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Saying {
    /// A mark stands there.
    Mark {
        /// Which.
        mark: Mark,
        /// Where.
        value: u64,
    },
    /// The hash of its state at an index.
    Hash {
        /// The index.
        index: u64,
        /// The hash, as it was told.
        hash: String,
    },
    /// It leads in this term.
    Leads {
        /// The term.
        term: u64,
    },
    /// It holds a VIP under this epoch.
    Holds {
        /// The VIP.
        vip: String,
        /// The epoch.
        epoch: u64,
    },
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was read.
    pub at: RunTime,
    /// The node. A wiped node comes back as another.
    pub node: String,
    /// How often its process had been started.
    pub incarnation: u32,
    /// What it said.
    pub saying: Saying,
}

/// Judges samples of one cluster: [`Promise::OnlyForward`] and [`Promise::ReplicasEqual`].
pub fn judge_epochs(samples: &[Sample]) -> [Judgement; 2] {
    let mut samples: Vec<&Sample> = samples.iter().collect();
    samples.sort_by_key(|sample| sample.at);
    let mut forward = Found::default();
    let mut equal = Found::default();
    for Sample { at, node, incarnation, saying } in samples {
        match saying {
            Saying::Mark { mark, value } => forward.mark(*at, node, *incarnation, mark, *value),
            Saying::Leads { term } => forward.one_owner(*at, node, format!("term {term}"), "lead in"),
            Saying::Holds { vip, epoch } => {
                forward.one_owner(*at, node, format!("epoch {epoch} of {vip}"), "hold");
                forward.newest(*at, node, vip, *epoch);
            }
            Saying::Hash { index, hash } => equal.hash(*at, node, *index, hash),
        }
    }
    let mut only_forward = Judgement::new(Promise::OnlyForward).looked_at("samples", forward.samples);
    let mut replicas = Judgement::new(Promise::ReplicasEqual).count("hashes", equal.samples);
    replicas = replicas.looked_at("pairs of equal index", equal.compared);
    forward.wrong.into_iter().for_each(|wrong| only_forward.violated(wrong));
    equal.wrong.into_iter().for_each(|wrong| replicas.violated(wrong));
    [only_forward, replicas]
}

/// By how much the order in which two nodes were asked may be another than that in which they found their answers: an answer is
/// waited for for 400 ms, and told from what was so 100 ms before at the longest.
const ORDER: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Found<'a> {
    samples: usize,
    compared: usize,
    wrong: Vec<String>,
    marks: BTreeMap<(&'a str, &'a Mark), (u64, u32)>,
    owners: BTreeMap<String, &'a str>,
    /// When each epoch of a VIP that was newer than all before was told first, and by whom.
    newest: BTreeMap<&'a str, Vec<(RunTime, u64, &'a str)>>,
    hashes: BTreeMap<u64, (&'a str, &'a str)>,
}

impl<'a> Found<'a> {
    fn mark(&mut self, at: RunTime, node: &'a str, incarnation: u32, mark: &'a Mark, value: u64) {
        self.samples += 1;
        let before = self.marks.insert((node, mark), (value, incarnation));
        let Some((before, began)) = before.filter(|(before, _)| *before > value) else { return };
        if mark.survives_restarts() || began == incarnation {
            let across = if began == incarnation { "" } else { " across a restart" };
            self.wrong.push(format!("{at}: {mark} of {node} fell from {before} to {value}{across}"));
        }
    }

    fn one_owner(&mut self, at: RunTime, node: &'a str, what: String, verb: &str) {
        self.samples += 1;
        let first = *self.owners.entry(what.clone()).or_insert(node);
        if first != node {
            self.wrong.push(format!("{at}: {node} says to {verb} {what}, as {first} did"));
        }
    }

    fn newest(&mut self, at: RunTime, node: &'a str, vip: &'a str, epoch: u64) {
        let told = self.newest.entry(vip).or_default();
        // A node's own that falls is found as its mark.
        let newer = told.iter().find(|(_, newer, other)| *newer > epoch && *other != node);
        if let Some((before, newer, other)) = newer.filter(|(before, ..)| before.after(ORDER) < at) {
            self.wrong.push(format!(
                "{at}: {node} says to hold epoch {epoch} of {vip}, though {other} held {newer} at {before}"
            ));
        }
        if told.last().is_none_or(|(_, newest, _)| *newest < epoch) {
            told.push((at, epoch, node));
        }
    }

    fn hash(&mut self, at: RunTime, node: &'a str, index: u64, hash: &'a str) {
        self.samples += 1;
        let (first, expected) = *self.hashes.entry(index).or_insert((node, hash));
        // A node that says it twice is compared with itself: its state at an index does not change either.
        self.compared += usize::from(first != node);
        if expected != hash {
            self.wrong
                .push(format!("{at}: at index {index} the state of {node} is {hash}, that of {first} is {expected}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Ruling::{self, Held, Undecided, Violated};

    fn rulings(sayings: Vec<(&str, u32, Saying)>) -> [Ruling; 2] {
        let sample = |(at, (node, incarnation, saying)): (u64, (&str, u32, Saying))| Sample {
            at: RunTime::from_millis(at),
            node: node.to_owned(),
            incarnation,
            saying,
        };
        judge_epochs(&(0..).zip(sayings).map(sample).collect::<Vec<_>>()).map(|judgement| judgement.ruling)
    }

    fn mark(mark: Mark, value: u64) -> Saying {
        Saying::Mark { mark, value }
    }

    fn hash(index: u64, hash: &str) -> Saying {
        Saying::Hash { index, hash: hash.to_owned() }
    }

    #[test]
    fn marks_do_not_fall() {
        let two =
            |which: Mark, restarts| rulings(vec![("a", 0, mark(which.clone(), 5)), ("a", restarts, mark(which, 4))])[0];
        for which in [Mark::Term, Mark::Acknowledged, Mark::Epoch(String::from("v"))] {
            assert_eq!([two(which.clone(), 0), two(which, 1)], [Violated, Violated]);
        }
        for which in [Mark::Applied, Mark::Revision] {
            assert_eq!([two(which.clone(), 0), two(which, 1)], [Violated, Held]);
        }
        assert_eq!(rulings(vec![("a", 0, mark(Mark::Term, 5)), ("b", 0, mark(Mark::Term, 4))])[0], Held);
        assert_eq!(rulings(vec![("a", 0, mark(Mark::Term, 5)), ("a", 0, mark(Mark::Term, 5))])[0], Held);
    }

    #[test]
    fn a_term_has_one_leader_and_an_epoch_one_holder() {
        let leads = |node, term| (node, 0, Saying::Leads { term });
        let holds = |node, epoch| (node, 0, Saying::Holds { vip: String::from("v"), epoch });
        assert_eq!(rulings(vec![leads("a", 1), leads("b", 2), leads("a", 3), holds("a", 1), holds("b", 2)])[0], Held);
        assert_eq!(rulings(vec![leads("a", 1), leads("b", 1)])[0], Violated);
        assert_eq!(rulings(vec![holds("a", 1), holds("b", 1)])[0], Violated);
    }

    #[test]
    fn an_older_epoch_after_a_newer_one_is_found() {
        let holds = |node: &str, at, epoch| Sample {
            at: RunTime::from_millis(at),
            node: node.to_owned(),
            incarnation: 0,
            saying: Saying::Holds { vip: String::from("v"), epoch },
        };
        let ruled = |samples: &[Sample]| judge_epochs(samples)[0].ruling;
        assert_eq!(
            ruled(&[holds("a", 0, 6), holds("b", 1000, 7), holds("a", 1400, 6)]),
            Held,
            "asked at about that time"
        );
        assert_eq!(ruled(&[holds("a", 0, 6), holds("b", 1000, 7), holds("a", 1600, 6)]), Violated);
        assert_eq!(ruled(&[holds("a", 0, 6), holds("b", 1000, 7), holds("c", 1600, 8), holds("b", 1900, 7)]), Held);
        assert_eq!(ruled(&[holds("b", 1000, 7), holds("c", 1600, 9), holds("a", 3000, 8)]), Violated);
    }

    #[test]
    fn states_are_equal_at_equal_index() {
        assert_eq!(rulings(vec![("a", 0, hash(1, "x")), ("b", 0, hash(2, "y")), ("b", 0, hash(1, "x"))])[1], Held);
        assert_eq!(rulings(vec![("a", 0, hash(1, "x")), ("b", 0, hash(1, "y"))])[1], Violated);
        assert_eq!(rulings(vec![("a", 0, hash(1, "x")), ("a", 1, hash(1, "y"))])[1], Violated);
        assert_eq!(rulings(vec![("a", 0, hash(1, "x")), ("b", 0, hash(2, "y"))])[1], Undecided);
    }
}
