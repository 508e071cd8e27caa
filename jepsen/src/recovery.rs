//! How soon service is back after a fault has ended.
//!
//! A fault is healed when the suite has undone it. Service is back when the first operation completes after that; whether
//! it was ever away does not matter here. A heal that is followed by the next fault before anything succeeded says nothing
//! about either, and only the last of such faults is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{RunTime, Span};
use crate::verdict::{Judgement, Promise};

/// Something that the suite broke and mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its kind: `kill`, `halves`, `slow fsync`.
    pub kind: String,
    /// Whom it hit, for people.
    pub detail: String,
    /// From when it began to take effect until it was undone.
    pub span: Span,
}

/// How soon service was back after faults of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Faults of this kind.
    pub faults: usize,
    /// For each that can be judged, the time from its end to the first success; in order of length.
    pub times: Vec<Duration>,
    /// Those that were followed by another fault before anything succeeded.
    pub masked: usize,
    /// Those after which nothing succeeded, and for how long the run went on then.
    pub never: Vec<Duration>,
}

impl Recovery {
    /// The longest; `None` if none can be judged.
    pub fn worst(&self) -> Option<Duration> {
        self.times.last().copied()
    }

    /// The one in the middle (of an even number the later); `None` if none can be judged.
    pub fn median(&self) -> Option<Duration> {
        self.times.get(self.times.len() / 2).copied()
    }
}

/// Measures it for each kind of fault. `successes` are the completions of operations, in any order; `end` is when clients
/// stopped.
pub fn recoveries(faults: &[Fault], successes: &[RunTime], end: RunTime) -> BTreeMap<String, Recovery> {
    let mut successes = successes.to_vec();
    successes.sort_unstable();
    let mut found: BTreeMap<String, Recovery> = BTreeMap::new();
    for (number, Fault { kind, span, .. }) in faults.iter().enumerate() {
        let recovery = found.entry(kind.clone()).or_default();
        recovery.faults += 1;
        let healed = span.until;
        let first =
            successes.get(successes.partition_point(|success| *success < healed)).filter(|first| **first <= end);
        // Of faults that end at one instant, the last in the list is judged.
        let ends_later = |other: usize, fault: &Fault| (fault.span.until, other) > (healed, number);
        let until = first.copied().unwrap_or(end);
        let masks = |(other, fault): (usize, &Fault)| ends_later(other, fault) && fault.span.from <= until;
        if faults.iter().enumerate().any(masks) {
            recovery.masked += 1;
        } else if let Some(first) = first {
            recovery.times.push(first.since(healed));
        } else {
            recovery.never.push(end.since(healed));
        }
    }
    found.values_mut().for_each(|recovery| recovery.times.sort_unstable());
    found
}

/// The longest time within a span in which nothing completed. `successes` are in any order.
pub fn longest_pause(successes: &[RunTime], span: Span) -> Duration {
    let mut within: Vec<RunTime> =
        successes.iter().copied().filter(|at| (span.from..=span.until).contains(at)).collect();
    within.extend([span.from, span.until]);
    within.sort_unstable();
    within.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
}

/// What is to be ruled of it. A fault after which nothing succeeded is undecided if the run ended within the bound.
pub fn judgement(found: &BTreeMap<String, Recovery>, bound: Duration) -> Judgement {
    let judged = found.values().map(|recovery| recovery.times.len() + recovery.never.len()).sum();
    let masked = found.values().map(|recovery| recovery.masked).sum();
    let mut judgement = Judgement::new(Promise::ComesBack).looked_at("heals", judged).count("heals masked", masked);
    for (kind, recovery) in found {
        for time in recovery.times.iter().filter(|time| **time > bound) {
            judgement.violated(format!("service was back {time:?} after {kind}, not within {bound:?}"));
        }
        for waited in &recovery.never {
            if *waited > bound {
                judgement.violated(format!("service was not back {waited:?} after {kind}, when the run ended"));
            } else {
                judgement.undecided(format!("the run ended {waited:?} after {kind}, before service was back"));
            }
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Ruling;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn fault(kind: &str, from: u64, until: u64) -> Fault {
        Fault { kind: kind.to_owned(), detail: String::new(), span: Span::new(at(from), at(until)) }
    }

    fn judge(faults: &[Fault], successes: &[u64], end: u64) -> (BTreeMap<String, Recovery>, Ruling) {
        let successes: Vec<_> = successes.iter().map(|millis| at(*millis)).collect();
        let found = recoveries(faults, &successes, at(end));
        let ruling = judgement(&found, Duration::from_millis(50)).ruling;
        (found, ruling)
    }

    #[test]
    fn the_first_success_after_the_heal_counts() {
        let faults = [fault("kill", 100, 200), fault("kill", 300, 400), fault("kill", 500, 600)];
        let (found, ruling) = judge(&faults, &[150, 210, 230, 440, 602], 1000);
        let millis: Vec<_> = found["kill"].times.iter().map(Duration::as_millis).collect();
        assert_eq!((millis, ruling), (vec![2, 10, 40], Ruling::Held));
        assert_eq!(found["kill"].median(), Some(Duration::from_millis(10)));
        assert_eq!(found["kill"].worst(), Some(Duration::from_millis(40)));
    }

    #[test]
    fn late_is_violated() {
        assert_eq!(judge(&[fault("kill", 100, 200)], &[250], 1000).1, Ruling::Held);
        assert_eq!(judge(&[fault("kill", 100, 200)], &[251], 1000).1, Ruling::Violated);
    }

    #[test]
    fn never_is_violated_if_there_was_time() {
        assert_eq!(judge(&[fault("kill", 100, 200)], &[150], 1000).1, Ruling::Violated);
        assert_eq!(judge(&[fault("kill", 100, 200)], &[150], 240).1, Ruling::Undecided);
        assert_eq!(judge(&[fault("kill", 100, 200)], &[1100], 1000).1, Ruling::Violated);
    }

    #[test]
    fn of_faults_that_overlap_the_last_is_judged() {
        let (found, ruling) = judge(&[fault("kill", 100, 200), fault("halves", 150, 500)], &[510], 1000);
        assert_eq!((found["kill"].masked, found["halves"].times.len(), ruling), (1, 1, Ruling::Held));
        let (found, _) = judge(&[fault("kill", 100, 200), fault("pause", 120, 200)], &[210], 1000);
        assert_eq!((found["kill"].masked, found["pause"].times.len()), (1, 1));
    }

    #[test]
    fn a_fault_that_comes_after_service_is_back_masks_nothing() {
        let (found, _) = judge(&[fault("kill", 100, 200), fault("kill", 220, 300)], &[210, 310], 1000);
        assert_eq!((found["kill"].times.len(), found["kill"].masked), (2, 0));
    }

    #[test]
    fn a_pause_is_looked_for_within_its_span_only() {
        let successes = [at(900), at(10), at(100), at(250), at(300)];
        let longest = |from, until| longest_pause(&successes, Span::new(at(from), at(until))).as_millis();
        assert_eq!([longest(50, 300), longest(120, 260), longest(350, 800), longest(400, 1000)], [150, 130, 450, 500]);
    }

    #[test]
    fn without_faults_nothing_is_shown() {
        assert_eq!(judge(&[], &[1], 10).1, Ruling::Undecided);
    }
}
