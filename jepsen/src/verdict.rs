//! What is ruled about each promise, and the report of a run.
//!
//! A promise is held only if something was observed that could have shown the contrary: a run in which nothing was asked
//! proves nothing, and says so.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Findings that are kept; more are counted.
const FINDINGS_MAX: usize = 20;

/// What is promised, to users (P1 to P7) and to ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// No two nodes answer for a VIP at once.
    OneOwner,
    /// A client stays with its backend.
    Sticky,
    /// Sessions are linearizable.
    Sessions,
    /// Configuration is a register with compare-and-set.
    Configuration,
    /// A dead owner is replaced within a lease.
    Failover,
    /// Without quorum nothing changes and traffic flows.
    WithoutQuorum,
    /// Whatever was refused is explained.
    SaysWhy,
    /// What was acknowledged is there.
    Durable,
    /// Replicas at one index are equal.
    ReplicasEqual,
    /// Epochs, terms and indexes only grow, and each has one owner.
    OnlyForward,
    /// What arrives is whole, or says that it is not.
    Whole,
    /// Service is back soon after a fault has ended.
    ComesBack,
    /// No descriptor, memory or task is lost.
    NoLeak,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::OneOwner,
        Self::Sticky,
        Self::Sessions,
        Self::Configuration,
        Self::Failover,
        Self::WithoutQuorum,
        Self::SaysWhy,
        Self::Durable,
        Self::ReplicasEqual,
        Self::OnlyForward,
        Self::Whole,
        Self::ComesBack,
        Self::NoLeak,
    ];

    /// Its number in the README, if it is one of those.
    pub fn number(self) -> Option<u8> {
        match self {
            Self::OneOwner => Some(1),
            Self::Sticky => Some(2),
            Self::Sessions => Some(3),
            Self::Configuration => Some(4),
            Self::Failover => Some(5),
            Self::WithoutQuorum => Some(6),
            Self::SaysWhy => Some(7),
            Self::Durable | Self::ReplicasEqual | Self::OnlyForward | Self::Whole | Self::ComesBack | Self::NoLeak => {
                None
            }
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = self.number() {
            write!(f, "P{number} ")?;
        }
        f.write_str(match self {
            Self::OneOwner => "one owner",
            Self::Sticky => "sticky for good",
            Self::Sessions => "sessions are linearizable",
            Self::Configuration => "config is a transaction",
            Self::Failover => "failover you don't notice",
            Self::WithoutQuorum => "no quorum, no changes, still traffic",
            Self::SaysWhy => "says why",
            Self::Durable => "what was acknowledged is there",
            Self::ReplicasEqual => "replicas are equal",
            Self::OnlyForward => "epochs and terms only grow",
            Self::Whole => "what arrives is whole",
            Self::ComesBack => "service comes back",
            Self::NoLeak => "nothing leaks",
        })
    }
}

/// What is ruled, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// Nothing observed contradicts it, and something was observed.
    Held,
    /// It could not be told.
    Undecided,
    /// Something observed contradicts it.
    Violated,
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Held => "held",
            Self::Undecided => "undecided",
            Self::Violated => "VIOLATED",
        })
    }
}

/// What is ruled about one promise, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The promise.
    pub promise: Promise,
    /// The ruling.
    pub ruling: Ruling,
    /// What was looked at and found, by name.
    pub counts: BTreeMap<String, u64>,
    /// What contradicts it or could not be told, for people; the first of each kind.
    pub findings: Vec<String>,
    /// How many there were beyond those.
    pub more: u64,
}

impl Judgement {
    /// Held, until something is found.
    pub fn new(promise: Promise) -> Self {
        Self { promise, ruling: Ruling::Held, counts: BTreeMap::new(), findings: Vec::new(), more: 0 }
    }

    /// Says how many of something there were.
    #[must_use]
    pub fn count(mut self, name: &str, number: usize) -> Self {
        self.counts.insert(name.to_owned(), number as u64);
        self
    }

    /// Says how many of what could have shown a violation there were. With none it is undecided.
    #[must_use]
    pub fn looked_at(mut self, name: &str, number: usize) -> Self {
        if number == 0 {
            self.undecided(format!("no {name} were observed"));
        }
        self.count(name, number)
    }

    /// Finds a contradiction.
    pub fn violated(&mut self, finding: impl Into<String>) {
        self.find(Ruling::Violated, finding.into());
    }

    /// Finds a contradiction of which others may have come: it is read, and kept, before them.
    pub fn violated_first(&mut self, finding: impl Into<String>) {
        self.ruling = Ruling::Violated;
        self.findings.insert(0, finding.into());
        self.more += self.findings.len().saturating_sub(FINDINGS_MAX) as u64;
        self.findings.truncate(FINDINGS_MAX);
    }

    /// Finds something that could not be told.
    pub fn undecided(&mut self, finding: impl Into<String>) {
        self.find(Ruling::Undecided, finding.into());
    }

    fn find(&mut self, ruling: Ruling, finding: String) {
        self.ruling = self.ruling.max(ruling);
        if self.findings.len() < FINDINGS_MAX { self.findings.push(finding) } else { self.more += 1 }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.counts.iter().map(|(name, number)| format!("{number} {name}")).collect();
        write!(f, "{:9}  {}", self.ruling, self.promise)?;
        if !counts.is_empty() {
            write!(f, " ({})", counts.join(", "))?;
        }
        for finding in &self.findings {
            write!(f, "\n    {}", finding.trim_end().replace('\n', "\n    "))?;
        }
        if self.more > 0 {
            write!(f, "\n    and {} more", self.more)?;
        }
        Ok(())
    }
}

/// All that is ruled about a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was run.
    pub title: String,
    /// The seed from which it can be run again.
    pub seed: u64,
    /// Promise by promise.
    pub judgements: Vec<Judgement>,
}

impl Report {
    /// The worst of the rulings; undecided if there are none.
    pub fn ruling(&self) -> Ruling {
        self.judgements.iter().map(|judgement| judgement.ruling).max().unwrap_or(Ruling::Undecided)
    }

    /// The promises that nothing is ruled about: in this run nothing happened that would have shown them broken.
    pub fn not_judged(&self) -> Vec<Promise> {
        let judged = |promise: &Promise| self.judgements.iter().any(|judgement| judgement.promise == *promise);
        Promise::ALL.into_iter().filter(|promise| !judged(promise)).collect()
    }

    /// The report for programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings, numbers and lists of them are JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (seed {}): {}", self.title, self.seed, self.ruling())?;
        self.judgements.iter().try_for_each(|judgement| writeln!(f, "{judgement}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut broken = Judgement::new(Promise::OneOwner).looked_at("answers", 9);
        broken.undecided("a gap");
        broken.violated("two owners\nat once");
        let held = Judgement::new(Promise::Durable).looked_at("writes", 3);
        Report { title: String::from("halves"), seed: 7, judgements: vec![broken, held] }
    }

    #[test]
    fn the_worst_counts() {
        assert_eq!(report().ruling(), Ruling::Violated);
        assert_eq!(Report { judgements: Vec::new(), ..report() }.ruling(), Ruling::Undecided);
    }

    #[test]
    fn a_promise_that_was_not_judged_is_told() {
        let not = report().not_judged();
        assert_eq!(not.len() + 2, Promise::ALL.len());
        assert!(!not.contains(&Promise::OneOwner) && not.contains(&Promise::WithoutQuorum));
    }

    #[test]
    fn where_nothing_was_looked_at_nothing_is_held() {
        assert_eq!(Judgement::new(Promise::Sticky).looked_at("requests", 0).ruling, Ruling::Undecided);
    }

    #[test]
    fn people_read_it_promise_by_promise() {
        let expected = "halves (seed 7): VIOLATED\n\
            VIOLATED   P1 one owner (9 answers)\n    a gap\n    two owners\n    at once\n\
            held       what was acknowledged is there (3 writes)\n";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn programs_read_it_too() {
        assert_eq!(serde_json::from_str::<Report>(&report().to_json()).unwrap(), report());
    }

    #[test]
    fn more_findings_than_anyone_reads_are_counted() {
        let mut judgement = Judgement::new(Promise::NoLeak);
        (0..25).for_each(|number| judgement.violated(format!("leak {number}")));
        assert_eq!((judgement.findings.len(), judgement.more), (20, 5));
    }

    #[test]
    fn what_others_may_have_come_of_is_read_first_and_kept() {
        let mut judgement = Judgement::new(Promise::SaysWhy);
        judgement.violated_first("it ended");
        assert_eq!((judgement.ruling, judgement.more), (Ruling::Violated, 0));
        (0..25).for_each(|number| judgement.violated(format!("request {number} in vain")));
        judgement.violated_first("it panicked");
        assert_eq!(judgement.findings[..3], ["it panicked", "it ended", "request 0 in vain"]);
        assert_eq!((judgement.findings.len(), judgement.more), (20, 7));
    }
}
