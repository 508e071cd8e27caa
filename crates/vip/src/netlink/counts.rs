//! What keeper and driver count, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters; see [`KeeperCounters`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub announced: AtomicU64,
    pub announce_errors: AtomicU64,
    pub conflicts: AtomicU64,
    pub breaches: AtomicU64,
    pub addresses_restored: AtomicU64,
    pub addresses_withdrawn: AtomicU64,
}

/// What was counted, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeeperCounters {
    /// Announcements handed to the kernel.
    pub announced: u64,
    /// Announcements it did not take.
    pub announce_errors: u64,
    /// Times that somebody else claimed a VIP.
    pub conflicts: u64,
    /// Times that the fence was not as it had been set.
    pub breaches: u64,
    /// Addresses that somebody had removed.
    pub addresses_restored: u64,
    /// Addresses that were taken off their interface because the fence could not be put up there.
    pub addresses_withdrawn: u64,
}

impl Counts {
    pub fn read(&self) -> KeeperCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        KeeperCounters {
            announced: read(&self.announced),
            announce_errors: read(&self.announce_errors),
            conflicts: read(&self.conflicts),
            breaches: read(&self.breaches),
            addresses_restored: read(&self.addresses_restored),
            addresses_withdrawn: read(&self.addresses_withdrawn),
        }
    }
}
