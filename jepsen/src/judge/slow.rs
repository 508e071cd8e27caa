//! In how much of a run checks of backends were slow.
//!
//! What nodes and clients do then is held against nobody. Where that is much of a run, little is left that would have shown a fault.

use std::time::Duration;

use ballast_jepsen::{
    time::{RunTime, Span},
    verdict::Judgement,
};

use super::BACK_WITHIN;
use crate::{nemesis::Happened, plan::Kind, run::Run};

/// More than this leaves too little. Three runs of five nodes on two cores had half of it at most.
const PERCENT_MAX: usize = 25;

/// The share of a run, in percent, in which checks were slow, or had been so shortly before. What is slow because frames of everybody
/// are lost is a fault, and not counted.
pub(super) fn percent(run: &Run) -> usize {
    share(&run.slow, &run.faults.faults, run.span)
}

fn share(slow: &[Span], faults: &[Happened], (from, until): (RunTime, RunTime)) -> usize {
    let whole = Span::new(from, until);
    let lossy = faults.iter().filter(|fault| fault.kind == Kind::LossEverywhere);
    let lossy: Vec<Span> = lossy.map(|fault| Span::new(fault.from, fault.until)).collect();
    let slow = slow.iter().filter(|slow| !lossy.iter().any(|lossy| lossy.touches(**slow)));
    let slow = slow.filter_map(|slow| Span::new(slow.from, slow.until.after(BACK_WITHIN)).intersection(whole));
    let mut slow: Vec<Span> = slow.collect();
    slow.sort_unstable();
    let (mut covered, mut seen) = (Duration::ZERO, whole.from);
    for span in slow {
        covered += span.until.since(span.from.max(seen));
        seen = seen.max(span.until);
    }
    let percent = covered.as_nanos() * 100 / whole.length().as_nanos().max(1);
    usize::try_from(percent).unwrap_or(usize::MAX)
}

/// Says how much it was, of a promise that is judged with such an excuse.
pub(super) fn weigh(judgement: Judgement, percent: usize) -> Judgement {
    let mut judgement = judgement.count("percent of the time with slow checks", percent);
    if percent > PERCENT_MAX {
        judgement.undecided(format!("checks of backends were slow in {percent} % of the time, which excuses too much"));
    }
    judgement
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::verdict::{Promise, Ruling};

    use super::*;

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    /// The share of a minute and a half that begins at ten seconds.
    fn of(slow: &[Span], faults: &[Happened]) -> usize {
        share(slow, faults, (RunTime::from_millis(10_000), RunTime::from_millis(100_000)))
    }

    #[test]
    fn the_share_counts_each_moment_once_and_none_outside() {
        assert_eq!(of(&[], &[]), 0);
        // Each excuses five seconds more.
        assert_eq!(of(&[span(20_000, 24_000)], &[]), 10);
        assert_eq!(of(&[span(22_000, 24_000), span(20_000, 23_000), span(21_000, 21_500)], &[]), 10);
        assert_eq!(of(&[span(50_000, 54_000), span(20_000, 24_000)], &[]), 20);
        assert_eq!(of(&[span(1_000, 14_000), span(99_100, 120_000)], &[]), 11);
        assert_eq!(of(&[span(0, 4_000), span(101_000, 120_000)], &[]), 0);
    }

    #[test]
    fn what_a_fault_makes_slow_is_not_counted() {
        let fault = |kind| Happened {
            kind,
            victims: Vec::new(),
            from: RunTime::from_millis(23_000),
            until: RunTime::from_millis(25_000),
            whole_until: None,
            came_about: true,
            acknowledged: None,
        };
        let slow = [span(20_000, 24_000)];
        assert_eq!(of(&slow, &[fault(Kind::LossEverywhere)]), 0);
        assert_eq!(of(&slow, &[fault(Kind::Loss)]), 10, "which no backend's frames are among");
        assert_eq!(of(&[span(30_000, 34_000)], &[fault(Kind::LossEverywhere)]), 10);
    }

    #[test]
    fn a_run_in_which_checks_were_slow_for_long_decides_nothing() {
        let ruled = |percent| weigh(Judgement::new(Promise::Sticky), percent).ruling;
        assert_eq!([ruled(0), ruled(25), ruled(26)], [Ruling::Held, Ruling::Held, Ruling::Undecided]);
        let mut broken = Judgement::new(Promise::Sticky);
        broken.violated("a stray");
        assert_eq!(weigh(broken, 90).ruling, Ruling::Violated, "what was found stays");
    }
}
