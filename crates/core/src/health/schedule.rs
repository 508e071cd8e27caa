//! When a backend is checked next.
//!
//! Checks begin at a random place inside of the interval and each interval is up to a tenth longer
//! or shorter, so that neither the backends of a node nor the nodes of a cluster check in step.

use crate::{config::Health, time::BootNanos};

/// The times at which one node checks one backend.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval_nanos: u64,
    random: u64,
    due: BootNanos,
}

impl Schedule {
    /// Begins at a place within the first interval that the seed chooses.
    pub fn new(health: &Health, seed: u64, now: BootNanos) -> Self {
        let mut schedule = Self { interval_nanos: 0, random: seed, due: now };
        schedule.configure(health);
        schedule.due = now.plus(schedule.draw(schedule.interval_nanos));
        schedule
    }

    /// Takes over a changed interval. What is due already stays due, but no longer than one new interval away.
    pub fn configure(&mut self, health: &Health) {
        self.interval_nanos = health.interval.as_millis().saturating_mul(1_000_000).max(1);
    }

    /// When the next check is due.
    pub fn due(&self) -> BootNanos {
        self.due
    }

    /// A check begins at `now`; returns when the next one is due. A node that was suspended or
    /// starved checks once and not once for each interval that it missed.
    pub fn begun(&mut self, now: BootNanos) -> BootNanos {
        let tenth = self.interval_nanos / 10;
        let pause = self.interval_nanos - tenth + self.draw(2 * tenth + 1);
        let on_time = self.due.plus(pause);
        self.due = if on_time > now { on_time } else { now.plus(pause) };
        self.due
    }

    /// A number below `bound`, by SplitMix64.
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    const SECOND: u64 = 1_000_000_000;

    fn schedule(seed: u64) -> Schedule {
        Schedule::new(&Health { interval: Span::from_secs(1), ..Health::default() }, seed, BootNanos::new(5 * SECOND))
    }

    #[test]
    fn checks_are_an_interval_apart_and_not_in_step() {
        let mut firsts = Vec::new();
        for seed in 0..20 {
            let mut schedule = schedule(seed);
            assert!(schedule.due() >= BootNanos::new(5 * SECOND) && schedule.due() < BootNanos::new(6 * SECOND));
            firsts.push(schedule.due());
            for _ in 0..100 {
                let due = schedule.due();
                let pause = schedule.begun(due).since(due);
                assert!((900_000_000..=1_100_000_000).contains(&pause), "{pause}");
            }
        }
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 20);
    }

    #[test]
    fn missed_checks_are_not_made_up_for() {
        let mut schedule = schedule(1);
        let late = BootNanos::new(500 * SECOND);
        let due = schedule.begun(late);
        assert!(due.since(late) >= 900_000_000);
    }
}
