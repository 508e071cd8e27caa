//! What was acknowledged is there at the end, everywhere and once.
//!
//! Clients add elements that are all different to sets (any object that keeps what it is given: members, keys, log lines), and
//! add to counters. At the end, healed, every node is read. An acknowledged element must be there, a refused one must not, and
//! one of unknown outcome may be, but then on all nodes alike.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::history::Outcome;
use crate::verdict::{Judgement, Promise};

/// An element was added, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addition {
    /// The element; nobody else adds the same.
    pub element: String,
    /// Whether it was.
    pub outcome: Outcome<()>,
}

/// What a node had at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRead {
    /// The node.
    pub node: String,
    /// All elements, as they were told.
    pub elements: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Durability {
    /// Elements that were acknowledged.
    pub acknowledged: usize,
    /// Elements of unknown outcome that are there.
    pub unknown_there: usize,
    /// Elements of unknown outcome that are not.
    pub unknown_absent: usize,
    /// Elements that were refused.
    pub failed: usize,
    /// Nodes that were read.
    pub nodes: usize,
    /// Node and element: acknowledged and not there.
    pub lost: Vec<(String, String)>,
    /// Node and element: refused and there.
    pub resurrected: Vec<(String, String)>,
    /// Node and element: there more than once.
    pub duplicated: Vec<(String, String)>,
    /// Node and element: there, and nobody added it.
    pub foreign: Vec<(String, String)>,
    /// Elements of unknown outcome that are on some nodes only.
    pub divided: Vec<String>,
}

/// Holds what nodes have at the end against what clients added.
pub fn check_durability(additions: &[Addition], reads: &[FinalRead]) -> Durability {
    let outcomes: BTreeMap<&str, &Outcome<()>> =
        additions.iter().map(|addition| (addition.element.as_str(), &addition.outcome)).collect();
    let of = |outcome: &Outcome<()>| outcomes.values().filter(|other| **other == outcome).count();
    let mut found = Durability {
        acknowledged: of(&Outcome::Ok(())),
        failed: of(&Outcome::Fail),
        nodes: reads.len(),
        ..Durability::default()
    };
    let mut had_by: BTreeMap<&str, usize> = BTreeMap::new();
    for FinalRead { node, elements } in reads {
        let here = |element: &str| (node.clone(), element.to_owned());
        let mut there = BTreeSet::new();
        for element in elements.iter().map(String::as_str) {
            if !there.insert(element) {
                found.duplicated.push(here(element));
                continue;
            }
            *had_by.entry(element).or_default() += 1;
            match outcomes.get(element) {
                None => found.foreign.push(here(element)),
                Some(Outcome::Fail) => found.resurrected.push(here(element)),
                Some(Outcome::Ok(()) | Outcome::Unknown) => {}
            }
        }
        let acknowledged = outcomes.iter().filter(|(_, outcome)| ***outcome == Outcome::Ok(()));
        found
            .lost
            .extend(acknowledged.filter(|(element, _)| !there.contains(*element)).map(|(element, _)| here(element)));
    }
    for (element, _) in outcomes.iter().filter(|(_, outcome)| ***outcome == Outcome::Unknown) {
        match had_by.get(element).copied().unwrap_or(0) {
            0 => found.unknown_absent += 1,
            nodes if nodes == reads.len() => found.unknown_there += 1,
            _ => found.divided.push((*element).to_owned()),
        }
    }
    found
}

impl Durability {
    /// What is to be ruled of it.
    pub fn judgement(&self) -> Judgement {
        let mut judgement = Judgement::new(Promise::Durable)
            .looked_at("acknowledged", self.acknowledged)
            .looked_at("nodes read", self.nodes)
            .count("unknown and there", self.unknown_there)
            .count("unknown and absent", self.unknown_absent)
            .count("failed", self.failed);
        let mut tell = |pairs: &[(String, String)], what: &str| {
            pairs.iter().for_each(|(node, element)| judgement.violated(format!("{node}: {element} {what}")));
        };
        tell(&self.lost, "was acknowledged and is lost");
        tell(&self.resurrected, "was refused and is there");
        tell(&self.duplicated, "is there more than once");
        tell(&self.foreign, "is there and nobody added it");
        self.divided.iter().for_each(|element| judgement.violated(format!("{element} is on some nodes only")));
        judgement
    }
}

/// A counter to which only ones were added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Its key.
    pub key: String,
    /// Additions that were acknowledged.
    pub acknowledged: u64,
    /// Additions of unknown outcome.
    pub unknown: u64,
    /// Node and what it had at the end.
    pub values: Vec<(String, u64)>,
}

/// Rules that nothing acknowledged is missing from counters and that nothing was added twice.
pub fn judge_counts(counts: &[Count]) -> Judgement {
    let acknowledged: u64 = counts.iter().map(|count| count.acknowledged).sum();
    let reads = counts.iter().map(|count| count.values.len()).sum();
    let mut judgement = Judgement::new(Promise::Durable)
        .looked_at("additions", usize::try_from(acknowledged).unwrap_or(usize::MAX))
        .looked_at("counters read", reads);
    for Count { key, acknowledged, unknown, values } in counts {
        let most = acknowledged + unknown;
        for (node, value) in values {
            if value < acknowledged {
                judgement.violated(format!(
                    "{node}: {key} is {value}, {} of what was acknowledged is lost",
                    acknowledged - value
                ));
            } else if *value > most {
                judgement.violated(format!("{node}: {key} is {value}, {} more than was ever added", value - most));
            }
        }
        if let Some((node, value)) = values.iter().find(|(_, value)| *value != values[0].1) {
            judgement.violated(format!("{key} is {} on {} and {value} on {node}", values[0].1, values[0].0));
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Ruling;

    fn judge(nodes: &[&[&str]]) -> Durability {
        let addition = |element: &str, outcome| Addition { element: element.to_owned(), outcome };
        let additions = [
            addition("kept", Outcome::Ok(())),
            addition("maybe", Outcome::Unknown),
            addition("refused", Outcome::Fail),
        ];
        let read = |(number, elements): (usize, &&[&str])| FinalRead {
            node: format!("n{number}"),
            elements: elements.iter().map(|element| (*element).to_owned()).collect(),
        };
        check_durability(&additions, &nodes.iter().enumerate().map(read).collect::<Vec<_>>())
    }

    fn pair(node: &str, element: &str) -> Vec<(String, String)> {
        vec![(node.to_owned(), element.to_owned())]
    }

    #[test]
    fn all_that_was_acknowledged_and_whatever_may_be() {
        for nodes in [[&["kept"][..], &["kept"]], [&["maybe", "kept"], &["kept", "maybe"]]] {
            let found = judge(&nodes);
            assert_eq!(found.judgement().ruling, Ruling::Held, "{found:?}");
            assert_eq!(found.unknown_there + found.unknown_absent, 1);
        }
    }

    #[test]
    fn each_way_of_being_wrong_is_found() {
        assert_eq!(judge(&[&["kept"], &[]]).lost, pair("n1", "kept"));
        assert_eq!(judge(&[&["kept", "refused"]]).resurrected, pair("n0", "refused"));
        assert_eq!(judge(&[&["kept", "kept"]]).duplicated, pair("n0", "kept"));
        assert_eq!(judge(&[&["kept", "new"]]).foreign, pair("n0", "new"));
        let divided = judge(&[&["kept", "maybe"], &["kept"]]);
        assert_eq!(divided.divided, ["maybe"]);
        assert_eq!(divided.judgement().ruling, Ruling::Violated);
    }

    #[test]
    fn without_reads_nothing_is_shown() {
        assert_eq!(judge(&[]).judgement().ruling, Ruling::Undecided);
    }

    #[test]
    fn counters_have_what_was_acknowledged_and_no_more_than_was_asked() {
        let ruling = |values: &[u64]| {
            let values = values.iter().enumerate().map(|(node, value)| (format!("n{node}"), *value)).collect();
            judge_counts(&[Count { key: String::from("c"), acknowledged: 5, unknown: 2, values }]).ruling
        };
        assert_eq!(ruling(&[5, 5]), Ruling::Held);
        assert_eq!(ruling(&[7]), Ruling::Held);
        assert_eq!(ruling(&[4]), Ruling::Violated);
        assert_eq!(ruling(&[8]), Ruling::Violated);
        assert_eq!(ruling(&[5, 6]), Ruling::Violated);
        assert_eq!(ruling(&[]), Ruling::Undecided);
    }
}
