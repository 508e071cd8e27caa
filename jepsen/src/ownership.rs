//! P1 from the wire: at no instant do two nodes answer for a VIP.
//!
//! A prober asks for a VIP at short intervals and notes who answered, by hardware address. An answer shows that its node
//! answered at some instant between question and answer, no more. So a node's *hold* is taken to last from the first of a row
//! of answers to the last question of that row, where a row is broken by a silence of several intervals; and two nodes that
//! answer the same broadcast question had it at once however short their holds are.
//!
//! Both err to the side of the node: what is called two owners was two owners, while two that overlap for less than a
//! sampling interval may be missed unless both answer one question.
//!
//! Silences are outages as a client sees them. While the prober itself did not run nothing is known, and it must say when.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::recovery::Fault;
use crate::time::{RunTime, Span};
use crate::verdict::{Judgement, Promise};

/// How the question was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Broadcast: everyone hears the same question.
    Arp,
    /// Multicast: everyone hears the same question.
    Ndp,
    /// A connection to one hardware address.
    Tcp,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// How it was asked.
    pub probe: Probe,
    /// Who answered: a hardware address, or the node's name.
    pub node: String,
    /// When it was asked and answered. Answers to one broadcast question are asked at one instant.
    pub span: Span,
}

/// What was seen of one VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The VIP.
    pub vip: String,
    /// Time between questions.
    pub interval: Duration,
    /// When it was watched.
    pub span: Span,
    /// When it was not watched in between, because the prober did not run.
    pub stalls: Vec<Span>,
    /// What was answered, in any order.
    pub answers: Vec<Answer>,
}

/// Two nodes answered at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TwoOwners {
    /// The VIP.
    pub vip: String,
    /// The nodes.
    pub nodes: [String; 2],
    /// When.
    pub span: Span,
    /// Whether they answered the same question; otherwise their holds overlap.
    pub same_question: bool,
}

/// How long a VIP was silent because of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outage {
    /// The VIP.
    pub vip: String,
    /// The fault's kind; absent for a silence that no fault explains.
    pub fault: Option<String>,
    /// From the last answer before to the first after it.
    pub span: Span,
    /// For how much of that nothing is known, because the prober did not run.
    pub stalled: Duration,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ownership {
    /// Answers looked at.
    pub answers: usize,
    /// When which node held which VIP, in the order of time.
    pub holds: BTreeMap<String, Vec<(Span, String)>>,
    /// What contradicts the promise.
    pub two_owners: Vec<TwoOwners>,
    /// Silences longer than a few intervals.
    pub outages: Vec<Outage>,
    /// Stalls of the prober.
    pub stalls: usize,
}

impl Ownership {
    /// What is to be ruled of it.
    pub fn judgement(&self) -> Judgement {
        let mut judgement = Judgement::new(Promise::OneOwner).looked_at("answers", self.answers);
        judgement = judgement.count("silences", self.outages.len()).count("stalls of the prober", self.stalls);
        for TwoOwners { vip, nodes: [first, second], span, same_question } in &self.two_owners {
            let how = if *same_question { "answered one question" } else { "answered in turns" };
            judgement.violated(format!("VIP {vip}: {first} and {second} {how}, {span}"));
        }
        judgement
    }

    /// What is to be ruled of P5: silences by these kinds of faults (`no fault` for others) are within these bounds. Those
    /// in which the prober stalled are as long as what is known of them.
    pub fn failover(&self, bounds: &BTreeMap<String, Duration>) -> Judgement {
        let mut judgement = Judgement::new(Promise::Failover).looked_at("answers", self.answers);
        for Outage { vip, fault, span, stalled } in &self.outages {
            let kind = fault.as_deref().unwrap_or(NO_FAULT);
            if let Some(bound) = bounds.get(kind)
                && span.length().saturating_sub(*stalled) > *bound
            {
                judgement.violated(format!(
                    "VIP {vip}: silent for {:?} at {kind}, {span}, more than {bound:?}",
                    span.length()
                ));
            }
        }
        judgement.count("silences", self.outages.len())
    }

    /// The longest silence for each kind of fault.
    pub fn worst_outages(&self) -> BTreeMap<&str, Duration> {
        let mut worst = BTreeMap::new();
        for outage in &self.outages {
            let longest: &mut Duration = worst.entry(outage.fault.as_deref().unwrap_or(NO_FAULT)).or_default();
            *longest = (*longest).max(outage.span.length());
        }
        worst
    }
}

/// What a silence is put down to that no fault explains.
pub const NO_FAULT: &str = "no fault";

/// Intervals of silence that end a hold and make an outage: one question may be lost, and another late.
const SILENT_INTERVALS: u32 = 3;

/// Judges what was seen. A silence is put down to the fault that began last before it ended, if it began within `settle`
/// after the fault had ended.
pub fn check_ownership(watches: &[Watch], faults: &[Fault], settle: Duration) -> Ownership {
    let mut found = Ownership::default();
    for watch in watches {
        let mut answers: Vec<&Answer> = watch.answers.iter().collect();
        answers.sort_by_key(|answer| (answer.span, answer.probe));
        let holds = holds(watch, &answers);
        found.answers += answers.len();
        found.stalls += watch.stalls.len();
        found.two_owners.extend(same_question(watch, &answers));
        found.two_owners.extend(overlaps(watch, &holds));
        found.outages.extend(silences(watch, &answers).map(|(span, stalled)| {
            let fault = cause(span, faults, settle).map(|fault| fault.kind.clone());
            Outage { vip: watch.vip.clone(), fault, span, stalled }
        }));
        found.holds.insert(watch.vip.clone(), holds);
    }
    found
}

/// Two nodes that answered the same broadcast question. Of each pair only the first time in a row is told.
fn same_question(watch: &Watch, answers: &[&Answer]) -> Vec<TwoOwners> {
    let mut found: Vec<TwoOwners> = Vec::new();
    for (index, answer) in answers.iter().enumerate().filter(|(_, answer)| answer.probe != Probe::Tcp) {
        let together = answers[index + 1..].iter().take_while(|other| other.span.from == answer.span.from);
        for other in together.filter(|other| other.probe == answer.probe && other.node != answer.node) {
            let mut nodes = [answer.node.clone(), other.node.clone()];
            nodes.sort();
            let span = Span::new(answer.span.from, answer.span.until.max(other.span.until));
            match found.iter_mut().rfind(|earlier| earlier.nodes == nodes) {
                Some(earlier) if span.from.since(earlier.span.until) <= watch.interval * SILENT_INTERVALS => {
                    earlier.span.until = earlier.span.until.max(span.until);
                }
                _ => found.push(TwoOwners { vip: watch.vip.clone(), nodes, span, same_question: true }),
            }
        }
    }
    found
}

/// From the first answer of a row to its last question, for each node; in the order of time.
fn holds(watch: &Watch, answers: &[&Answer]) -> Vec<(Span, String)> {
    struct Row {
        first_answer: RunTime,
        last_question: RunTime,
        last_answer: RunTime,
    }
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut holds = Vec::new();
    let hold = |row: &Row| Span::new(row.first_answer, row.last_question);
    for answer in answers {
        let Span { from, until } = answer.span;
        match rows.get_mut(answer.node.as_str()) {
            Some(row) if from.since(row.last_answer) <= watch.interval * SILENT_INTERVALS => {
                row.first_answer = row.first_answer.min(until);
                row.last_question = row.last_question.max(from);
                row.last_answer = row.last_answer.max(until);
            }
            _ => {
                let row = Row { first_answer: until, last_question: from, last_answer: until };
                let ended = rows.insert(&answer.node, row);
                holds.extend(ended.map(|row| (hold(&row), answer.node.clone())));
            }
        }
    }
    holds.extend(rows.iter().map(|(node, row)| (hold(row), (*node).to_owned())));
    holds.sort();
    holds
}

/// Holds of different nodes that have more than an instant in common.
fn overlaps(watch: &Watch, holds: &[(Span, String)]) -> Vec<TwoOwners> {
    let mut found = Vec::new();
    for (index, (span, node)) in holds.iter().enumerate() {
        for (other_span, other) in holds[index + 1..].iter().take_while(|(other, _)| other.from < span.until) {
            let common = span.intersection(*other_span).filter(|common| common.from < common.until);
            if let Some(span) = common.filter(|_| node != other) {
                let nodes = [node.clone(), other.clone()];
                found.push(TwoOwners { vip: watch.vip.clone(), nodes, span, same_question: false });
            }
        }
    }
    found
}

/// Where nobody answered for several intervals in which the prober ran, and for how long it did not.
fn silences(watch: &Watch, answers: &[&Answer]) -> impl Iterator<Item = (Span, Duration)> {
    let mut ends: Vec<RunTime> = answers.iter().map(|answer| answer.span.until).collect();
    ends.extend([watch.span.from, watch.span.until]);
    ends.sort_unstable();
    let gaps: Vec<Span> = ends.windows(2).map(|pair| Span::new(pair[0], pair[1])).collect();
    let stalled = |gap: &Span| watch.stalls.iter().filter_map(|stall| stall.intersection(*gap)).map(Span::length).sum();
    let bound = watch.interval * SILENT_INTERVALS;
    gaps.into_iter().map(move |gap| (gap, stalled(&gap))).filter(move |(gap, stalled)| gap.length() > bound + *stalled)
}

fn cause(silence: Span, faults: &[Fault], settle: Duration) -> Option<&Fault> {
    let concerned = faults
        .iter()
        .filter(|fault| fault.span.from <= silence.until && silence.from <= fault.span.until.after(settle));
    concerned.max_by_key(|fault| fault.span.from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Ruling;

    const MILLI: Duration = Duration::from_millis(1);

    /// Answers to a question each millisecond, a fifth of one later.
    fn row(node: &str, from: u64, until: u64) -> Vec<Answer> {
        let at = |millis| RunTime::from_millis(millis);
        let span = |millis| Span::new(at(millis), at(millis).after(MILLI / 5));
        (from..until).map(|millis| Answer { probe: Probe::Arp, node: node.to_owned(), span: span(millis) }).collect()
    }

    fn judge(rows: &[Vec<Answer>], stalls: Vec<Span>) -> Ownership {
        let (vip, span) = (String::from("10.0.0.5"), Span::new(RunTime::START, RunTime::from_millis(100)));
        let fault = Fault { kind: String::from("kill"), detail: String::new(), span: millis(40, 42) };
        check_ownership(&[Watch { vip, interval: MILLI, span, stalls, answers: rows.concat() }], &[fault], MILLI * 10)
    }

    fn millis(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    #[test]
    fn one_after_the_other_is_one_owner() {
        let found = judge(&[row("a", 0, 40), row("b", 45, 100)], vec![]);
        assert_eq!(found.two_owners, []);
        assert_eq!(found.outages.len(), 1);
        assert_eq!(found.outages[0].fault.as_deref(), Some("kill"));
        assert_eq!(found.outages[0].span, Span::new(RunTime::from_nanos(39_200_000), RunTime::from_nanos(45_200_000)));
        assert_eq!(found.worst_outages(), BTreeMap::from([("kill", MILLI * 6)]));
        assert_eq!(found.holds["10.0.0.5"].len(), 2);
        assert_eq!(found.judgement().ruling, Ruling::Held);
    }

    #[test]
    fn going_back_and_forth_is_one_owner() {
        assert_eq!(judge(&[row("a", 0, 40), row("b", 40, 60), row("a", 60, 100)], vec![]).two_owners, []);
    }

    #[test]
    fn two_that_answer_one_question_are_two_owners() {
        let found = judge(&[row("a", 0, 41), row("b", 40, 100)], vec![]);
        assert_eq!(found.two_owners.len(), 1, "{:?}", found.two_owners);
        assert!(found.two_owners[0].same_question);
        assert_eq!(found.judgement().ruling, Ruling::Violated);
        let long = judge(&[row("a", 0, 60), row("b", 40, 100)], vec![]);
        let told: Vec<_> = long.two_owners.iter().map(|two| (two.same_question, two.span.from)).collect();
        assert_eq!(told, [(true, RunTime::from_millis(40)), (false, RunTime::from_nanos(40_200_000))]);
    }

    #[test]
    fn two_that_are_asked_apart_are_two_owners_if_they_answer_in_turns() {
        let tcp = |mut row: Vec<Answer>, every| {
            row.retain(|answer| answer.span.from.as_nanos() / 1_000_000 % 2 == every);
            row.iter_mut().for_each(|answer| answer.probe = Probe::Tcp);
            row
        };
        let found = judge(&[tcp(row("a", 0, 60), 0), tcp(row("b", 50, 100), 1)], vec![]);
        assert_eq!(found.two_owners.len(), 1);
        assert_eq!(found.two_owners[0].span, Span::new(RunTime::from_nanos(51_200_000), RunTime::from_millis(58)));
    }

    #[test]
    fn silence_without_a_fault_is_told_apart() {
        let found = judge(&[row("a", 0, 70), row("a", 80, 100)], vec![]);
        assert_eq!(found.outages.iter().map(|outage| outage.fault.clone()).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_stalled_prober_is_no_outage() {
        let stall = Span::new(RunTime::from_nanos(39_500_000), RunTime::from_nanos(44_500_000));
        assert_eq!(judge(&[row("a", 0, 40), row("b", 45, 100)], vec![stall]).outages, []);
        // A silence around one is told whole, with what of it was not watched.
        let found = judge(&[row("a", 0, 40), row("b", 50, 100)], vec![millis(41, 42)]);
        assert_eq!(found.outages.iter().map(|outage| outage.stalled).collect::<Vec<_>>(), [MILLI]);
        let failover = |bound| found.failover(&BTreeMap::from([(String::from("kill"), bound)])).ruling;
        assert_eq!((failover(MILLI * 11), failover(MILLI * 9)), (Ruling::Held, Ruling::Violated));
    }

    #[test]
    fn nobody_ever_is_an_outage_and_undecided() {
        let found = judge(&[], vec![]);
        assert_eq!((found.outages.len(), found.judgement().ruling), (1, Ruling::Undecided));
    }
}
