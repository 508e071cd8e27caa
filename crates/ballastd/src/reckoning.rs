//! Log time as this node reckons it: what it applied last, and the time since.
//!
//! What is applied late (by a process that stood still, or was cut off) says only what time it *was*. If no leader has
//! carried log time on since, because there was no quorum, it would set the reckoning back by as much, and whoever reads here would
//! find keys that have ended long ago.
//!
//! Not here: the leader's own clock, which goes by the same rule (`ballast_raft`).

use ballast_core::time::{BootNanos, LogTime};
use ballast_raft::is_applied_late;

/// What this node knows of log time.
#[derive(Debug, Default)]
pub struct Reckoning {
    /// The last log time that was not applied late, in milliseconds, and when that was.
    last: Option<(u64, BootNanos)>,
}

impl Reckoning {
    /// Log time is `log_time` in what is applied at `now`. Returns by how many milliseconds it is ahead of
    /// `CLOCK_BOOTTIME`, if that is news.
    pub fn applied(&mut self, log_time: LogTime, now: BootNanos) -> Option<i64> {
        let log_time = log_time.as_millis();
        if let Some((last, at)) = self.last {
            let passed = log_time.checked_sub(last).filter(|passed| *passed > 0)?;
            if is_applied_late(passed, now.since(at) / 1_000_000) {
                return None;
            }
        }
        self.last = Some((log_time, now));
        Some(log_time.cast_signed() - (now.get() / 1_000_000).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_700_000_000_000;

    /// What a node reckons at `look`, which applied these log times (after noon) at these moments, in milliseconds.
    fn reckoned(applied: &[(u64, u64)], look: u64) -> u64 {
        let mut reckoning = Reckoning::default();
        let mut ahead = 0;
        for (log_time, now) in applied {
            let news = reckoning.applied(LogTime::from_millis(NOON + log_time), BootNanos::new(now * 1_000_000));
            ahead = news.unwrap_or(ahead);
        }
        look.saturating_add_signed(ahead) - NOON
    }

    #[test]
    fn it_runs_on_from_what_was_applied() {
        assert_eq!(reckoned(&[(0, 5_000)], 5_700), 700);
        assert_eq!(reckoned(&[(0, 5_000), (1_000, 6_000)], 6_500), 1_500);
        assert_eq!(reckoned(&[(0, 5_000), (900, 6_000)], 6_500), 1_400, "slewed");
        assert_eq!(reckoned(&[(0, 5_000), (60_000, 5_001)], 5_002), 60_001, "a log that is read");
    }

    #[test]
    fn what_a_process_applies_that_stood_still_does_not_set_it_back() {
        // It stood still for four seconds, of which there was a leader for half a second.
        let entries = [(0, 5_000), (20, 9_000), (500, 9_010), (500, 9_011)];
        assert_eq!(reckoned(&entries, 9_020), 4_020);
        // The next leader says what time it is.
        assert_eq!(reckoned(&[&entries[..], &[(3_990, 9_030)]].concat(), 9_040), 4_000);
    }

    #[test]
    fn log_time_that_nobody_carried_on_is_believed_in_the_end() {
        let behind: Vec<(u64, u64)> = (0..20).map(|second| (1_000 * second, 9_000 + 1_000 * second)).collect();
        assert_eq!(reckoned(&[&[(0, 5_000)], &behind[..]].concat(), 28_000), 19_000);
    }
}
