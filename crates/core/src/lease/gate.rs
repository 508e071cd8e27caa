//! What the data plane may know of a lease: until when, and under which epoch.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::BootNanos;

/// One VIP's right to serve on this node. Written by the lease thread, read by every worker
/// before a request touches a backend. Absolute deadlines: a gate that nobody writes closes by itself.
#[derive(Debug, Default)]
pub struct VipGate {
    until: AtomicU64,
    epoch: AtomicU64,
}

impl VipGate {
    /// A closed gate.
    pub const fn closed() -> Self {
        Self { until: AtomicU64::new(0), epoch: AtomicU64::new(0) }
    }

    /// Opens the gate until `until`, or moves the deadline on.
    pub fn hold(&self, epoch: u64, until: BootNanos) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.until.store(until.get(), Ordering::Release);
    }

    /// Closes the gate at once.
    pub fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether this node may serve the VIP at `now`.
    pub fn is_open(&self, now: BootNanos) -> bool {
        now.get() < self.until.load(Ordering::Acquire)
    }

    /// End of the right to serve; zero when closed.
    pub fn until(&self) -> BootNanos {
        BootNanos::new(self.until.load(Ordering::Acquire))
    }

    /// Epoch of the lease last held.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }
}
