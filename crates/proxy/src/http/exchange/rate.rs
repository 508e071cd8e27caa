//! The time that a body's sender had, for the lowest rate that the body has to arrive at.
//!
//! Only time in which the sender is waited for counts: while the receiver takes nothing, nothing is read of a body.
//!
//! Not here: who is waited for, and silence ([`super::sending`], [`super::relay`]).

use crate::ticks::Timer;

/// Runs while the sender is waited for.
#[derive(Debug)]
pub(super) struct RateClock {
    /// When the sender began to be waited for, moved on by the time in which it was not.
    began_ms: u64,
    /// Since when it is not, if so.
    held_since: Option<u64>,
}

impl RateClock {
    /// Stands still until the sender is waited for.
    pub(super) fn new(now_ms: u64) -> Self {
        Self { began_ms: now_ms, held_since: Some(now_ms) }
    }

    /// The sender is waited for.
    pub(super) fn run(&mut self, now_ms: u64) {
        self.began_ms += self.held_since.take().map_or(0, |since| now_ms - since);
    }

    /// Somebody else is waited for.
    pub(super) fn hold(&mut self, now_ms: u64) {
        self.held_since.get_or_insert(now_ms);
    }

    /// Until when `received` bytes are at least `rate_min` bytes per second, after a grace, if the sender is waited for until
    /// then. Zero asks for nothing.
    pub(super) fn enough_until(&self, timer: &Timer, grace_ms: u64, received: u64, rate_min: u64) -> u64 {
        let Some(earned_ms) = received.saturating_mul(1000).checked_div(rate_min) else { return u64::MAX };
        // The clock may have been a tick behind when it began.
        let slack_ms = timer.after(0) - timer.now_ms();
        self.began_ms.saturating_add(slack_ms).saturating_add(grace_ms).saturating_add(earned_ms)
    }
}
