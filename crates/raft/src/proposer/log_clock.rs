//! Log time: the clock by which all lifetimes in the replicated state end.
//!
//! It follows no machine's wall clock. It runs with the leader's `CLOCK_BOOTTIME` from where log
//! time stands when it begins to lead, and is pulled towards the *voters' time*, the latest time that the
//! clocks of a majority of the voters have reached (`clocks::voters_time`):
//!
//! - ahead of the voters' time it runs a tenth slower; it never goes back,
//! - behind, it runs a tenth faster,
//! - behind by more than ten seconds it jumps there: a cluster that was down for a weekend must
//!   find its bindings expired, and a new cluster begins at the wall clock,
//! - without a majority's clocks it is not pulled.
//!
//! So a minority of wrong clocks, the leader's included, can make no lifetime end at once: they
//! change its pace by a tenth at most. A tenth, because a lifetime that is a tenth longer or
//! shorter surprises nobody, and ten seconds are caught up with in less than two minutes.
//!
//! Where log time stands is what was applied, and runs on with `CLOCK_BOOTTIME`. What is applied late
//! (by a process that stood still, from a slow disk) says only what time it *was*: it is passed over.
//! A node that was started again knows no better than what it read from its log, so the others tell
//! what they have reckoned, at the slowest that log time runs, and a node that begins to lead
//! believes the latest, up to the voters' time. Only when nobody is left to tell does log time stand still.
//!
//! Not here: why the state may rely on it (`docs/adr/0011-log-time.md`).

use ballast_core::time::{BootNanos, LogTime};

use crate::clocks::WallTime;

/// Log time is pulled by one part in so many of the time that passes.
const SLEW: u64 = 10;

/// Log time that is behind by more than this jumps. More than the clocks of machines that keep them
/// differ, less than any lifetime that can be configured to matter.
const JUMP_MICROS: u64 = 10_000_000;

/// An entry is applied late if, by it, so long a part of the time since the last one that was not is missing. Log time
/// itself may lack one part in [`SLEW`].
const LATE: u64 = 5;

/// What an entry is stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) log_time: LogTime,
    /// Microseconds by which log time jumped; zero when it ran, or began.
    pub(crate) jumped_micros: u64,
}

/// Keeps log time on one node: follows what is applied, and runs on from there when this node leads.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogClock {
    /// Log time in microseconds, as applied or stamped last, and when that was.
    log_micros: u64,
    at: BootNanos,
    /// The same as applied last: what was stamped may never be agreed.
    agreed: Option<(WallTime, BootNanos)>,
    /// The term that this node led last.
    led: u64,
}

/// Whether an entry is applied late, if log time is `passed` later in it than in the last one that was not, which was
/// applied `elapsed` ago. Both in one unit.
pub const fn is_applied_late(passed: u64, elapsed: u64) -> bool {
    passed < elapsed / LATE * (LATE - 1)
}

/// What log time has reached at the least `nanos` after it had reached `log`.
pub(crate) fn slowest(log: WallTime, nanos: u64) -> WallTime {
    let micros = nanos / 1000;
    WallTime::from_micros(log.as_micros().saturating_add(micros - micros.div_ceil(SLEW)))
}

impl LogClock {
    /// Applied log time is `applied` at `now`.
    ///
    /// What this node stamped itself comes back later than it was stamped, so only a later time
    /// than the last is news.
    pub(crate) fn observe(&mut self, now: BootNanos, applied: LogTime) {
        let applied = WallTime::from(applied).as_micros();
        if applied > self.log_micros {
            let elapsed = now.since(self.at) / 1000;
            if !self.has_begun() || !is_applied_late(applied - self.log_micros, elapsed) {
                (self.log_micros, self.at) = (applied, now);
            }
        }
        let applied = WallTime::from_micros(applied);
        if self.at_least(now).is_none_or(|least| least < applied) {
            self.agreed = Some((applied, now));
        }
    }

    /// What log time has reached at `now` at the least, whoever led meanwhile; `None` before anything was applied.
    pub(crate) fn at_least(&self, now: BootNanos) -> Option<WallTime> {
        self.agreed.map(|(agreed, at)| slowest(agreed, now.since(at)))
    }

    /// This node leads `term`. If it is new to that, log time stands where others have reckoned it to be, `told`, should
    /// that be later; but not beyond the voters' time, so that nobody alone moves it further than a majority's clocks.
    pub(crate) fn lead(&mut self, term: u64, now: BootNanos, told: Option<WallTime>, voters: Option<WallTime>) {
        if term == self.led {
            return;
        }
        self.led = term;
        let told = told.zip(voters).map_or(0, |(told, voters)| told.min(voters).as_micros());
        if self.has_begun() && told > self.log_micros.saturating_add(now.since(self.at) / 1000) {
            (self.log_micros, self.at) = (told, now);
        }
    }

    /// Whether any log time was stamped or observed; there is none before the first entry of a cluster.
    pub(crate) fn has_begun(&self) -> bool {
        self.log_micros > 0
    }

    /// Log time at `now`, for the next entry. Never earlier than any time stamped or observed before.
    pub(crate) fn stamp(&mut self, now: BootNanos, voters: Option<WallTime>) -> Stamp {
        let elapsed = now.since(self.at) / 1000;
        let runs = self.log_micros.saturating_add(elapsed);
        let target = voters.map_or(runs, WallTime::as_micros);
        let jumps = target.saturating_sub(runs) > JUMP_MICROS;
        let jumped_micros = if jumps && self.has_begun() { target - runs } else { 0 };
        let pulled = if jumps {
            target
        } else {
            target.clamp((runs - elapsed / SLEW).max(self.log_micros), runs.saturating_add(elapsed / SLEW))
        };
        (self.log_micros, self.at) = (pulled, self.at.max(now));
        Stamp { log_time: LogTime::from_millis(pulled / 1000), jumped_micros }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::clocks::voters_time;

    const DAY_MS: u64 = 86_400_000;
    const NOON_MS: u64 = 1_700_000_000_000;

    fn boot(millis: u64) -> BootNanos {
        BootNanos::new(millis * 1_000_000)
    }

    fn wall(millis: u64) -> Option<WallTime> {
        Some(WallTime::from_micros(millis * 1000))
    }

    /// A clock that was at noon when the machine had run for a second.
    fn at_noon() -> LogClock {
        let mut clock = LogClock::default();
        clock.observe(boot(1000), LogTime::from_millis(NOON_MS));
        clock
    }

    fn stamp(clock: &mut LogClock, boot_ms: u64, voters: Option<WallTime>) -> u64 {
        clock.stamp(boot(boot_ms), voters).log_time.as_millis()
    }

    #[test]
    fn without_a_majority_it_runs_with_boottime() {
        let mut clock = at_noon();
        assert_eq!(stamp(&mut clock, 1500, None), NOON_MS + 500);
        assert_eq!(stamp(&mut clock, 1000 + DAY_MS, None), NOON_MS + DAY_MS);
    }

    #[test]
    fn it_is_pulled_by_a_tenth_and_stops_at_the_target() {
        let mut clock = at_noon();
        assert_eq!(stamp(&mut clock, 11_000, wall(NOON_MS + 15_000)), NOON_MS + 11_000);
        assert_eq!(stamp(&mut clock, 31_000, wall(NOON_MS + 31_500)), NOON_MS + 31_500);
        assert_eq!(stamp(&mut clock, 41_000, wall(NOON_MS)), NOON_MS + 40_500);
        assert_eq!(stamp(&mut clock, 51_000, wall(NOON_MS + 50_000)), NOON_MS + 50_000);
    }

    #[test]
    fn it_jumps_over_a_weekend_and_to_the_beginning() {
        let mut clock = at_noon();
        let jumped = clock.stamp(boot(2000), wall(NOON_MS + 2 * DAY_MS));
        assert_eq!(jumped.log_time.as_millis(), NOON_MS + 2 * DAY_MS);
        assert_eq!(jumped.jumped_micros, (2 * DAY_MS - 1000) * 1000);
        let began = LogClock::default().stamp(boot(5000), wall(NOON_MS));
        assert_eq!(began, Stamp { log_time: LogTime::from_millis(NOON_MS), jumped_micros: 0 });
    }

    #[test]
    fn its_own_entries_applied_later_do_not_hold_it_back() {
        let mut clock = at_noon();
        // As under load: each entry is applied two milliseconds after it was stamped, and the next follows at once.
        for step in 1..=1000 {
            let now = 1000 + 2 * step;
            let stamped = clock.stamp(boot(now), None).log_time;
            clock.observe(boot(now + 2), stamped);
        }
        assert_eq!(stamp(&mut clock, 3000, None), NOON_MS + 2000);
    }

    #[test]
    fn a_follower_goes_by_what_it_applies() {
        let mut clock = at_noon();
        for step in 1..=100 {
            // The leader's log time runs a tenth slower.
            clock.observe(boot(1000 + step * 1000), LogTime::from_millis(NOON_MS + step * 900));
        }
        assert_eq!(stamp(&mut clock, 101_500, None), NOON_MS + 90_500);
    }

    #[test]
    fn what_is_applied_late_does_not_set_it_back() {
        let mut clock = at_noon();
        // The process stood still for ten seconds, and applies what came in their first.
        for step in 1..=100 {
            clock.observe(boot(11_000), LogTime::from_millis(NOON_MS + 10 * step));
        }
        assert_eq!(stamp(&mut clock, 11_000, None), NOON_MS + 10_000);
        // Something that is late for good is the time after a while.
        clock.observe(boot(31_000), LogTime::from_millis(NOON_MS + 29_000));
        assert_eq!(stamp(&mut clock, 31_000, None), NOON_MS + 29_000);
        // At start there is nothing else to go by.
        let mut started = LogClock::default();
        for step in 0..=100 {
            started.observe(boot(11_000), LogTime::from_millis(NOON_MS + 10 * step));
        }
        assert_eq!(stamp(&mut started, 11_500, None), NOON_MS + 1500);
    }

    #[test]
    fn a_new_leader_believes_what_others_reckoned_and_an_old_one_does_not() {
        let mut clock = at_noon();
        let right = wall(NOON_MS + 9000);
        clock.lead(2, boot(2000), wall(NOON_MS + 5000), right);
        assert_eq!(stamp(&mut clock, 2000, None), NOON_MS + 5000);
        clock.lead(2, boot(2000), wall(NOON_MS + 6000), right);
        assert_eq!(stamp(&mut clock, 2000, None), NOON_MS + 5000);
        clock.lead(3, boot(3000), wall(NOON_MS + 5000), right);
        assert_eq!(stamp(&mut clock, 3000, None), NOON_MS + 6000, "never back");
        clock.lead(4, boot(3000), wall(NOON_MS + DAY_MS), right);
        assert_eq!(stamp(&mut clock, 3000, None), NOON_MS + 9000, "one word against a majority's clocks");
        clock.lead(5, boot(3000), wall(NOON_MS + DAY_MS), None);
        assert_eq!(stamp(&mut clock, 3000, None), NOON_MS + 9000);
        let mut new = LogClock::default();
        new.lead(1, boot(1000), wall(NOON_MS), right);
        assert!(!new.has_begun(), "a new cluster begins at the voters' time");
    }

    #[test]
    fn what_is_told_was_applied_and_runs_at_the_slowest() {
        let mut clock = LogClock::default();
        assert_eq!(clock.at_least(boot(1000)), None);
        clock.observe(boot(1000), LogTime::from_millis(NOON_MS));
        stamp(&mut clock, 2000, wall(NOON_MS + 9000));
        assert_eq!(clock.at_least(boot(3000)), wall(NOON_MS + 1800), "the stamp may never be agreed");
        clock.observe(boot(3000), LogTime::from_millis(NOON_MS + 1900));
        assert_eq!(clock.at_least(boot(3000)), wall(NOON_MS + 1900));
        clock.observe(boot(5000), LogTime::from_millis(NOON_MS + 2000));
        assert_eq!(clock.at_least(boot(5000)), wall(NOON_MS + 3700), "applied late");
    }

    #[test]
    fn the_end_of_time_is_not_a_panic() {
        let mut clock = at_noon();
        clock.stamp(boot(2000), Some(WallTime::from_micros(u64::MAX)));
        let last = clock.stamp(BootNanos::new(u64::MAX), Some(WallTime::from_micros(u64::MAX)));
        assert_eq!(last.log_time.as_millis(), u64::MAX / 1000);
    }

    proptest! {
        #[test]
        fn it_never_goes_back(
            steps in prop::collection::vec((0u64..100_000, prop::option::of(0u64..NOON_MS * 2), any::<bool>()), 1..60)
        ) {
            let mut clock = at_noon();
            let (mut now, mut last) = (1000, LogTime::from_millis(NOON_MS));
            for (passed, told, observes) in steps {
                now += passed;
                if observes {
                    let applied = LogTime::from_millis(told.unwrap_or(0));
                    clock.observe(boot(now), applied);
                    last = last.max(applied);
                }
                let stamped = clock.stamp(boot(now), told.and_then(wall)).log_time;
                prop_assert!(stamped >= last, "{stamped:?} after {last:?}");
                last = stamped;
            }
        }

        /// Right clocks differ by up to 200 ms. Whatever a minority says, and whoever is silent: log time stays
        /// within the slew of what passed, and never runs ahead of the right clocks.
        #[test]
        fn a_minority_of_wrong_clocks_moves_it_by_no_more_than_the_slew(
            voters in 1u64..8,
            wrong in any::<prop::sample::Index>(),
            steps in prop::collection::vec((1u64..5000, prop::collection::vec(prop::option::of(0..NOON_MS * 2), 8)), 1..60),
        ) {
            let set: BTreeSet<u64> = (0..voters).collect();
            let wrong = wrong.index((voters as usize).div_ceil(2)) as u64;
            let mut clock = at_noon();
            let (mut now, mut passed) = (1000, 0);
            for (step, told) in steps {
                now += step;
                passed += step;
                let target = voters_time([&set], |voter| {
                    let lie = told[usize::try_from(voter).ok()?]?;
                    // The right ones tell the truth, unless they are silent too.
                    wall(if voter < wrong { lie } else { NOON_MS + passed + (lie % 200) })
                });
                let stamped = clock.stamp(boot(now), target);
                let log = stamped.log_time.as_millis();
                prop_assert!(log <= NOON_MS + passed + 200, "{} ms ahead", log - NOON_MS - passed);
                prop_assert!(log + 1 >= NOON_MS + passed - passed / SLEW, "{} ms behind", NOON_MS + passed - log);
            }
        }

        /// Once a majority can be heard, log time is what they say, however wrong it began.
        #[test]
        fn it_comes_to_the_truth(began in 0..NOON_MS + 60_000, lie in 0..NOON_MS * 2) {
            let set = BTreeSet::from([1, 2, 3]);
            let mut clock = LogClock::default();
            clock.observe(boot(1000), LogTime::from_millis(began));
            let mut last = 0;
            for second in 1..700 {
                let truth = NOON_MS + second * 1000;
                let target = voters_time([&set], |voter| wall(if voter == 1 { lie } else { truth }));
                last = stamp(&mut clock, 1000 + second * 1000, target);
            }
            prop_assert_eq!(last, NOON_MS + 699_000);
        }
    }
}
