//! Whether checks begin when they are due.
//!
//! A node that cannot do as many checks as the document asks for does them later, and says so: what it finds is older than
//! its operator believes.
//!
//! Not here: when checks are due ([`super::Schedule`]), who waits for whom (`ballast-proxy`'s prober).

use crate::{config::Health, time::BootNanos};

/// Checks are looked at together over so many nanoseconds. Arbitrary; longer than a stall.
const PERIOD: u64 = 10_000_000_000;

/// An operator is told at most so often.
const PAUSE: u64 = 60_000_000_000;

/// Whoever waits for a busy core is late by less, in nanoseconds; with an interval that is shorter than a fifth of a second,
/// nobody needs to know.
const TOLERANCE: u64 = 100_000_000;

/// How late the checks of one node are.
#[derive(Clone, Debug)]
pub struct Lateness {
    since: BootNanos,
    seen: Behind,
    told: Option<BootNanos>,
}

/// A node that is behind with its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Checks that began.
    pub checks: u64,
    /// Those of them that began more than half of their interval after they were due.
    pub late: u64,
    /// The most that one of them was late, in nanoseconds.
    pub most_nanos: u64,
}

impl Lateness {
    /// No check has begun yet.
    pub fn new(now: BootNanos) -> Self {
        Self { since: now, seen: Behind::default(), told: None }
    }

    /// Counts a check that was due at `due` and begins `now`. Says what is to be told, if more than one in ten was late for
    /// some seconds.
    pub fn begun(&mut self, health: &Health, due: BootNanos, now: BootNanos) -> Option<Behind> {
        self.seen.checks += 1;
        if is_late(health, due, now) {
            self.seen.late += 1;
            self.seen.most_nanos = self.seen.most_nanos.max(now.since(due));
        }
        if now.since(self.since) < PERIOD {
            return None;
        }
        self.since = now;
        let seen = std::mem::take(&mut self.seen);
        let tells = seen.late * 10 > seen.checks && self.told.is_none_or(|told| now.since(told) >= PAUSE);
        tells.then(|| {
            self.told = Some(now);
            seen
        })
    }
}

/// Whether a check that was due at `due` is late when it begins `now`.
pub fn is_late(health: &Health, due: BootNanos, now: BootNanos) -> bool {
    let half = health.interval.as_millis().saturating_mul(1_000_000 / 2);
    now.since(due) > half.max(TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    /// What is told while a check begins each 100 ms, so many milliseconds late, and at which of them.
    fn told(late: impl Fn(u64) -> u64) -> Vec<(u64, Behind)> {
        let health = Health::default();
        let mut lateness = Lateness::new(BootNanos::new(10_000 * MILLI));
        let mut begun = |n: u64| {
            let now = BootNanos::new((10_000 + n * 100) * MILLI);
            lateness.begun(&health, BootNanos::new(now.get() - late(n) * MILLI), now)
        };
        (0..1000).filter_map(|n| Some((n, begun(n)?))).collect()
    }

    #[test]
    fn a_node_that_is_behind_says_so_once_a_minute() {
        assert_eq!(told(|_| 500), [], "half of an interval");
        assert_eq!(told(|n| if n % 10 == 1 { 2000 } else { 0 }), [], "one in ten, as after a stall");
        let behind = Behind { checks: 100, late: 100, most_nanos: 700 * MILLI };
        let all = told(|_| 700);
        assert_eq!(all.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [100, 700], "ten seconds, then a minute");
        assert_eq!(all[1].1, behind);
    }

    #[test]
    fn short_intervals_bear_what_a_busy_machine_does() {
        let health = Health { interval: crate::config::Span::from_millis(10), ..Health::default() };
        let late = |millis: u64| is_late(&health, BootNanos::new(0), BootNanos::new(millis * MILLI));
        assert!(!late(100) && late(101));
    }
}
