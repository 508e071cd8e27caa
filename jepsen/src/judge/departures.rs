//! When clients had to leave a backend, by what the cluster decided.
//!
//! A decision has its place in the log, and its time there is the log's own, which stands still with the nodes. So it is timed by
//! what nodes said four times a second of how far they had applied the log.

use std::{collections::BTreeMap, time::Duration};

use ballast_jepsen::time::{RunTime, Span};

use super::BACK_WITHIN;
use crate::{
    decided::{Decision, Why},
    watch::Sample,
};

/// How much later than it is asked a node may look how far it is: those who ask wait less.
const ANSWERED: Duration = Duration::from_millis(500);
/// How long before an entry is seen to be applied processes are looked at that may have applied it: longer than all nodes are away.
const BEFORE: Duration = Duration::from_secs(10);

/// A time in which clients had to leave a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Departure {
    /// The backend.
    pub(super) backend: String,
    /// Why.
    pub(super) why: Why,
    /// From when nobody had heard of it until all have heard that it is over, and clients' requests of that time, too.
    pub(super) span: Span,
}

/// All of them. Both are in the order in which they came.
pub(super) fn departures(decisions: &[Decision], samples: &[Sample]) -> Vec<Departure> {
    let begin = decisions.iter().enumerate().filter(|(_, decision)| decision.leave);
    let departure = |(at, begin): (usize, &Decision)| {
        let ends = |later: &&Decision| later.backend == begin.backend && later.why == begin.why && !later.leave;
        let end = decisions[at..].iter().find(ends).and_then(|end| shown(samples, end.index));
        let until = end.map_or(RunTime::NEVER, |end| end.after(BACK_WITHIN));
        let span = Span::new(unknown_at(samples, begin.index), until);
        Departure { backend: begin.backend.clone(), why: begin.why, span }
    };
    begin.map(departure).collect()
}

/// When it was first seen that a node has applied an entry.
fn shown(samples: &[Sample], index: u64) -> Option<RunTime> {
    samples.iter().find(|sample| sample.applied >= index).map(|sample| sample.at.after(ANSWERED))
}

/// When no process had applied an entry yet, the last time that this is sure. One that was not asked again may have done so, and died.
fn unknown_at(samples: &[Sample], index: u64) -> RunTime {
    let last = || samples.last().map(|sample| sample.at);
    let shown = shown(samples, index).or_else(last).unwrap_or_default();
    let near = Span::new(shown.before(BEFORE), shown);
    let mut unknown: BTreeMap<(usize, u32), RunTime> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| near.contains(sample.at)) {
        let of_process = unknown.entry((sample.node, sample.pid)).or_insert(near.from);
        if sample.applied < index {
            *of_process = sample.at;
        }
    }
    unknown.into_values().min().unwrap_or(near.from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn sample(millis: u64, node: usize, pid: u32, applied: u64) -> Sample {
        Sample { at: at(millis), node, pid, applied, ..Sample::default() }
    }

    fn decided(index: u64, backend: &str, why: Why, leave: bool) -> Decision {
        Decision { index, backend: backend.to_owned(), why, leave }
    }

    #[test]
    fn a_departure_lasts_from_when_nobody_knew_of_it_until_all_know_that_it_is_over() {
        let samples = [
            sample(20_000, 0, 7, 5),
            sample(20_100, 1, 8, 5),
            sample(20_250, 0, 7, 6),
            sample(20_350, 1, 8, 5),
            sample(20_600, 1, 8, 6),
            sample(24_000, 0, 7, 9),
        ];
        let (down, up) = (decided(6, "web1", Why::Down, true), decided(9, "web1", Why::Down, false));
        let other = decided(7, "web2", Why::Down, false);
        let drained = decided(8, "web1", Why::Maintenance, false);
        let spans = |decisions: &[Decision]| {
            departures(decisions, &samples).into_iter().map(|one| one.span).collect::<Vec<_>>()
        };
        assert_eq!(spans(&[down.clone(), other, drained, up]), [Span::new(at(20_000), at(29_500))]);
        assert_eq!(spans(&[down]), [Span::new(at(20_000), RunTime::NEVER)], "it never came up");
        assert_eq!(spans(&[decided(9, "web1", Why::Down, false)]), [], "it had not been down");
    }

    #[test]
    fn a_process_that_died_may_have_known_of_it() {
        let died = [sample(20_000, 0, 7, 5), sample(20_250, 0, 7, 5), sample(23_000, 0, 9, 4), sample(23_250, 0, 9, 6)];
        assert_eq!(unknown_at(&died, 6), at(20_250));
        // Those of long ago have nothing to do with it.
        let old = [sample(1_000, 0, 7, 5), sample(20_000, 0, 9, 5), sample(20_250, 0, 9, 6)];
        assert_eq!(unknown_at(&old, 6), at(20_000));
    }

    #[test]
    fn an_entry_that_nobody_was_seen_to_apply_came_at_the_end() {
        assert_eq!(unknown_at(&[sample(20_000, 0, 7, 5), sample(20_250, 0, 7, 5)], 6), at(20_250));
        assert_eq!(unknown_at(&[], 6), RunTime::START);
    }
}
