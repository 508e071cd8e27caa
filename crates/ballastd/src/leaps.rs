//! Leaps of log time.
//!
//! Log time runs with `CLOCK_BOOTTIME`, at most a tenth faster, except that it leaps by more than ten seconds when a
//! majority's wall clocks say so (ADR 11). Log time that passed in a leap did not pass for anybody, so nothing that
//! keeps clients safe may be taken for old because of it.
//!
//! Not here: what has to wait after one ([`crate::settling`]).

use ballast_core::time::{BootNanos, LogTime};

/// Log time may run ahead by this much between two looks without having leapt, in milliseconds: below the ten seconds
/// that a leap has at least, above what entries that come in one go are apart on a cluster in use.
const LEAP_MILLIS: u64 = 2_000;

/// Compares log time with the time that passed on this node.
#[derive(Debug, Default)]
pub struct Leaps {
    /// At the last look.
    last: Option<(LogTime, BootNanos)>,
}

impl Leaps {
    /// Whether log time has leapt since the last look. Never at the first.
    ///
    /// Log time may run half as fast again as this node's clock: a tenth by which it is slewed, and rates that differ.
    /// So a leap goes unseen only if sixteen seconds passed here since the last look, and whatever moved by then has
    /// settled. Entries that this node makes up for may look like a leap, which costs a wait.
    pub fn leapt(&mut self, log_time: LogTime, now: BootNanos) -> bool {
        let Some((log_before, before)) = self.last.replace((log_time, now)) else { return false };
        let passed = now.since(before) / 1_000_000;
        log_time.millis_since(log_before) > LEAP_MILLIS + passed + passed / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_log_time_that_did_not_pass_here_is_a_leap() {
        let mut leaps = Leaps::default();
        let mut look = |log: u64, boot: u64| leaps.leapt(LogTime::from_millis(log), BootNanos::new(boot * 1_000_000));
        assert!(!look(1_000_000_000_000, 5_000), "there is nothing to compare with");
        assert!(!look(1_000_000_060_000, 60_000), "a minute passed here too, slewed");
        assert!(!look(1_000_000_062_000, 60_000), "two seconds made up for");
        assert!(look(1_000_000_072_001, 60_010), "the least leap there is");
        assert!(!look(1_000_000_072_001, 60_020));
        assert!(!look(1_000_000_072_000, 60_030));
    }
}
