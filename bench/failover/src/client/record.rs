//! What clients saw, and the gaps in it.

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not known yet.
    Open,
    /// Answered through the node with that number (its position and one).
    Answered { node: u16 },
    /// No answer in time.
    TimedOut,
    /// The connection was refused or broken, or no connection could be made.
    Broken,
    /// An answer, but an error.
    Refused { status: u16 },
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub sent_at: u64,
    pub done_at: u64,
    pub outcome: Outcome,
}

/// Requests in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct Record {
    probes: Vec<Probe>,
    interval: u64,
}

impl Record {
    /// Of requests that were sent every `interval` nanoseconds.
    pub fn new(probes: Vec<Probe>, interval: u64) -> Self {
        Self { probes, interval }
    }

    /// Longest time between `from` and `to` in which no request was sent that was answered, less the
    /// interval between requests.
    pub fn outage_ms(&self, from: u64, to: u64) -> f64 {
        let from = from.saturating_sub(self.interval);
        let (mut longest, mut last) = (0, from);
        let answered = self.probes.iter().filter(|probe| matches!(probe.outcome, Outcome::Answered { .. }));
        for at in answered.map(|probe| probe.sent_at).filter(|at| *at >= from).chain([to]) {
            longest = longest.max(at.min(to).saturating_sub(last));
            last = at;
        }
        longest.saturating_sub(self.interval) as f64 / 1e6
    }

    /// Requests sent between `from` and `to` that were not answered.
    pub fn failed(&self, from: u64, to: u64) -> usize {
        self.between(from, to).filter(|probe| !matches!(probe.outcome, Outcome::Answered { .. })).count()
    }

    /// Longest wait for an answer among the requests sent between `from` and `to` that were answered.
    pub fn slowest_ms(&self, from: u64, to: u64) -> f64 {
        let waits = self
            .between(from, to)
            .filter(|probe| matches!(probe.outcome, Outcome::Answered { .. }))
            .map(|probe| probe.done_at.saturating_sub(probe.sent_at));
        waits.max().unwrap_or(0) as f64 / 1e6
    }

    /// How often the answering node changed between `from` and `to`.
    pub fn flips(&self, from: u64, to: u64) -> usize {
        let nodes: Vec<u16> = self
            .between(from, to)
            .filter_map(|probe| match probe.outcome {
                Outcome::Answered { node } => Some(node),
                _ => None,
            })
            .collect();
        nodes.windows(2).filter(|two| two[0] != two[1]).count()
    }

    fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &Probe> {
        self.probes.iter().filter(move |probe| (from..to).contains(&probe.sent_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: u64 = 5_000_000;

    /// A request every 5 ms from 5 ms on: a digit for the node that answered, `-` for none.
    fn record(text: &str) -> Record {
        let probes = text.chars().enumerate().map(|(number, word)| {
            let sent_at = (number as u64 + 1) * INTERVAL;
            let outcome = match word.to_digit(10) {
                Some(node) => Outcome::Answered { node: node as u16 },
                None => Outcome::TimedOut,
            };
            Probe { sent_at, done_at: sent_at + 1_000_000, outcome }
        });
        Record::new(probes.collect(), INTERVAL)
    }

    fn at(ms: u64) -> u64 {
        ms * 1_000_000
    }

    #[test]
    fn no_gap_is_no_outage() {
        assert_eq!(record("11111111").outage_ms(at(5), at(40)), 0.0);
    }

    #[test]
    fn an_outage_is_the_gap_between_answered_requests_less_the_interval() {
        assert_eq!(record("11---111").outage_ms(at(11), at(40)), 15.0);
        assert_eq!(record("1-1--111").outage_ms(at(6), at(40)), 10.0);
    }

    #[test]
    fn an_outage_that_does_not_end_lasts_to_the_end_of_the_window() {
        assert_eq!(record("11------").outage_ms(at(11), at(40)), 25.0);
        assert_eq!(record("--------").outage_ms(at(5), at(40)), 35.0);
        assert_eq!(record("").outage_ms(at(5), at(40)), 35.0);
    }

    #[test]
    fn an_outage_counts_in_each_window_for_what_lies_in_it() {
        let record = record("1------11");
        assert_eq!(record.outage_ms(at(6), at(20)), 10.0);
        assert_eq!(record.outage_ms(at(20), at(45)), 20.0);
        assert_eq!(record.outage_ms(at(40), at(45)), 0.0);
    }

    #[test]
    fn failures_and_changes_of_node_are_counted_within_the_window() {
        let record = record("11--2212");
        assert_eq!(record.failed(at(0), at(100)), 2);
        assert_eq!(record.failed(at(0), at(16)), 1);
        assert_eq!(record.flips(at(0), at(100)), 3);
        assert_eq!(record.slowest_ms(at(0), at(100)), 1.0);
    }
}
