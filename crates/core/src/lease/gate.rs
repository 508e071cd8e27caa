//! What the data plane may know of a lease: until when, and under which epoch.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::BootNanos;

/// One VIP's right to serve on this node. Written by the lease thread, read by every worker
/// before a request touches a backend. Absolute deadlines: a gate that nobody writes closes by itself.
#[derive(Debug, Default)]
pub struct VipGate {
    until: AtomicU64,
    epoch: AtomicU64,
    /// Zero, or until when connections may be finished that began before the VIP was handed over.
    finish_until: AtomicU64,
    /// Until when they may still be taken from the kernel's queue.
    accept_until: AtomicU64,
}

/// How long after a hand-over the kernel's queue may hold connections that it took before: accepting is milliseconds
/// behind, on a busy machine more.
const ACCEPT_NANOS: u64 = 1_000_000_000;

/// How long before the fence closes for what was handed over it is to be ended, in nanoseconds: the end of a connection has
/// to get through, and is noticed with the ticks of workers.
pub const LAST_WORDS: u64 = 500_000_000;

impl VipGate {
    /// A closed gate.
    pub const fn closed() -> Self {
        Self {
            until: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            finish_until: AtomicU64::new(0),
            accept_until: AtomicU64::new(0),
        }
    }

    /// Opens the gate until `until`, or moves the deadline on.
    pub fn hold(&self, epoch: u64, until: BootNanos) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.until.store(until.get(), Ordering::Release);
        self.finish_until.store(0, Ordering::Relaxed);
        self.accept_until.store(0, Ordering::Relaxed);
    }

    /// Closes the gate at once.
    pub fn close(&self) {
        self.finish_until.store(0, Ordering::Relaxed);
        self.accept_until.store(0, Ordering::Relaxed);
        self.until.store(0, Ordering::Release);
    }

    /// Closes the gate to what is new, and lets connections that this node has accepted finish until `finish_until`:
    /// the successor sends their packets here.
    pub fn hand_over(&self, now: BootNanos, finish_until: BootNanos) {
        self.accept_until.store(now.plus(ACCEPT_NANOS).min(finish_until).get(), Ordering::Relaxed);
        self.finish_until.store(finish_until.get(), Ordering::Relaxed);
        self.until.store(0, Ordering::Release);
    }

    /// Whether this node may serve the VIP at `now`.
    pub fn is_open(&self, now: BootNanos) -> bool {
        now.get() < self.until.load(Ordering::Acquire)
    }

    /// Whether connections accepted under the lease may still be served at `now`: it is held, or it was handed over and
    /// they are being finished.
    pub fn may_finish(&self, now: BootNanos) -> bool {
        self.is_open(now) || now.get() < self.finish_until.load(Ordering::Relaxed)
    }

    /// Whether connections accepted under the lease have a future at `now`: it is held, or more than `nanos` are left to
    /// finish them.
    pub fn may_go_on(&self, now: BootNanos, nanos: u64) -> bool {
        self.is_open(now) || now.plus(nanos).get() < self.finish_until.load(Ordering::Relaxed)
    }

    /// Whether a connection may be taken from the kernel's queue at `now`: the VIP is held, or was until a moment ago.
    pub fn may_accept(&self, now: BootNanos) -> bool {
        self.is_open(now) || now.get() < self.accept_until.load(Ordering::Relaxed)
    }

    /// Whether the VIP was handed over and what is left here should come to its end.
    pub fn is_leaving(&self) -> bool {
        self.finish_until.load(Ordering::Relaxed) != 0
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> BootNanos {
        BootNanos::new(nanos)
    }

    #[test]
    fn what_began_before_a_hand_over_may_finish_and_nothing_else_may_begin() {
        let gate = VipGate::closed();
        assert!(!gate.may_finish(at(0)));
        gate.hold(7, at(100));
        assert!(gate.is_open(at(99)) && gate.may_finish(at(99)) && !gate.is_leaving());
        assert!(!gate.may_finish(at(100)), "a lease that ran out finishes nothing");
        gate.hand_over(at(60), at(5_000_000_000));
        assert!(!gate.is_open(at(61)) && gate.may_finish(at(4_999_999_999)) && !gate.may_finish(at(5_000_000_000)));
        assert!(gate.is_leaving() && gate.may_accept(at(1_000_000_059)) && !gate.may_accept(at(1_000_000_060)));
        gate.hold(9, at(900));
        assert!(!gate.is_leaving() && !gate.may_finish(at(900)), "it came back");
        gate.hand_over(at(60), at(2000));
        gate.close();
        assert!(!gate.may_finish(at(50)) && !gate.is_leaving());
    }
}
