//! Which of many refusals are told in the log.
//!
//! Who is refused mostly tries again at once: a node whose certificate has ended does so dozens of times a second, and would
//! push everything else out of the log, and a stranger needs no more than a connection. So the same reason is told of the same
//! machine once in a while, with how often it was met since.
//!
//! Not here: whom to refuse, and what became of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Least time between two lines about one machine and one reason.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Machines and reasons that are remembered. Strangers make up both; what finds no room is not told, only counted.
const KNOWN_MAX: usize = 256;

/// What was told lately.
#[derive(Debug, Default)]
pub struct Refusals {
    told: HashMap<(IpAddr, String), Told>,
    /// Refusals that found no room since one did.
    unplaced: u64,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl Refusals {
    /// A machine was refused for a reason. If that is to be told now, returns how many refusals were not told since the last
    /// line.
    pub fn refused(&mut self, now: Instant, machine: IpAddr, reason: &str) -> Option<u64> {
        let is_over = |told: &Told| now.saturating_duration_since(told.at) >= TELL_EVERY;
        // The numbers in a reason are times: by how much a certificate has ended.
        let known = (machine, reason.replace(|letter: char| letter.is_ascii_digit(), ""));
        if let Some(told) = self.told.get_mut(&known) {
            if !is_over(told) {
                told.since += 1;
                return None;
            }
            told.at = now;
            return Some(std::mem::take(&mut told.since));
        }
        if self.told.len() >= KNOWN_MAX {
            self.told.retain(|_, told| !is_over(told));
        }
        if self.told.len() >= KNOWN_MAX {
            self.unplaced += 1;
            return None;
        }
        self.told.insert(known, Told { at: now, since: 0 });
        Some(std::mem::take(&mut self.unplaced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_of_a_machine_once_in_ten_seconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut refusals = Refusals::default();
        assert_eq!(refusals.refused(at(0), one, "expired"), Some(0));
        for millis in [1, 2, 9_999] {
            assert_eq!(refusals.refused(at(millis), one, "expired"), None);
        }
        assert_eq!(refusals.refused(at(5), one, "unknown"), Some(0), "another reason");
        assert_eq!(refusals.refused(at(5), other, "expired"), Some(0), "another machine");
        assert_eq!(refusals.refused(at(10_000), one, "expired"), Some(3));
        assert_eq!(refusals.refused(at(20_000), one, "expired"), Some(0));
        assert_eq!(refusals.refused(at(20_000), one, "ended at 1827717734, 9 seconds ago"), Some(0));
        assert_eq!(refusals.refused(at(21_000), one, "ended at 1827717734, 10 seconds ago"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_makes_room() {
        let start = Instant::now();
        let machine = IpAddr::from([10, 0, 0, 1]);
        let mut refusals = Refusals::default();
        for length in 1..=KNOWN_MAX {
            assert_eq!(refusals.refused(start, machine, &"x".repeat(length)), Some(0));
        }
        assert_eq!(refusals.refused(start, machine, "one more"), None);
        assert_eq!(refusals.told.len(), KNOWN_MAX);
        assert_eq!(refusals.refused(start + TELL_EVERY, machine, "one more"), Some(1), "what found no room is counted");
        assert_eq!(refusals.told.len(), 1);
    }
}
