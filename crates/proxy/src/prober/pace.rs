//! How many checks are under way at once, and whether they begin when they are due.
//!
//! A check that finds no room waits for its turn, in the order in which they came, and its backend's next one is due an
//! interval after it began: checks that the node cannot do in time are late, and do not pile up.

use std::sync::{Arc, Mutex, PoisonError};

use ballast_clock::boot_now;
use ballast_core::{
    config::Health,
    health::{Lateness, is_late},
    time::BootNanos,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use super::Findings;

/// Checks under way at once. A check takes a tenth of a millisecond or two of the thread's time and a descriptor: so many that
/// come at one moment are done within a tenth of a second, or a few where the thread shares its core, which the usual timeout of
/// half a second bears. More would wait for the thread in their own time and fail for it. Fewer would wait for backends that do
/// not answer: so many of them, a few racks, delay nobody.
const UNDER_WAY_MAX: usize = 512;

/// The pace of all checks of this node.
pub(super) struct Pace {
    room: Semaphore,
    lateness: Mutex<Lateness>,
    findings: Arc<Findings>,
}

impl Pace {
    /// A pace that counts late checks in `findings`.
    pub(super) fn new(findings: Arc<Findings>) -> Self {
        Self::with_room(UNDER_WAY_MAX, findings)
    }

    pub(super) fn with_room(room: usize, findings: Arc<Findings>) -> Self {
        Self { room: Semaphore::new(room), lateness: Mutex::new(Lateness::new(boot_now())), findings }
    }

    /// Waits until one more check may begin; it is under way until what comes back is dropped.
    ///
    /// # Cancel safety
    /// Dropping the future loses its place among those that wait.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.room.acquire().await.expect("it is never closed")
    }

    /// A check that was due at `due` begins `now`. Tells the operator, now and then, if this node is behind.
    pub(super) fn begun(&self, health: &Health, due: BootNanos, now: BootNanos) {
        if is_late(health, due, now) {
            self.findings.checked_late();
        }
        let behind = self.lateness.lock().unwrap_or_else(PoisonError::into_inner).begun(health, due, now);
        if let Some(behind) = behind {
            warn!(
                checks = behind.checks,
                late = behind.late,
                most_late_seconds = behind.most_nanos / 1_000_000_000,
                "this node is behind with health checks and finds out later than asked for; raise `interval` of services with \
                 many backends, or lower `timeout` where backends do not answer"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::config::Span;
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn so_many_checks_are_under_way_and_the_others_wait_their_turn() {
        let pace = Pace::with_room(2, Arc::default());
        let (first, _second) = (pace.turn().await, pace.turn().await);
        let mut third = Box::pin(pace.turn());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!(pace.turn().now_or_never().is_none(), "who came first goes first");
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn late_checks_are_counted() {
        let findings = Arc::new(Findings::default());
        let pace = Pace::new(Arc::clone(&findings));
        let health = Health { interval: Span::from_secs(1), ..Health::default() };
        for late_ms in [0, 500, 501, 9000] {
            pace.begun(&health, BootNanos::new(0), BootNanos::new(late_ms * 1_000_000));
        }
        assert_eq!(findings.late_total(), 2);
    }
}
