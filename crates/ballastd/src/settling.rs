//! Bindings that moved a moment ago and that no node may forward on yet.
//!
//! After a binding moves, another node may serve the old one from its own table for as long as its
//! last confirmation counts. That confirmation was asked for before the move was committed, so
//! whoever waits `freshness * 1.1 / 0.9` (clock rates may differ by a tenth each way) after
//! *applying* the move has outwaited every such node.
//!
//! A binding carries the index of the entry that moved it, so one number tells which have settled:
//! the highest index that was applied here so long ago. Nothing is kept for each key, and a reader
//! that sees a binding before anybody noted the entry still sees that it is too new.
//!
//! Not here: how long a confirmation counts ([`crate::freshness`]).

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use ballast_core::{
    ids::LogIndex,
    persistence::{BindingView, Provenance},
    time::{BootNanos, LogTime},
};
use parking_lot::Mutex;

/// Samples of the applied index are taken at most so often, in nanoseconds; moves take one at once.
const SAMPLE_NANOS: u64 = 5_000_000;
/// A binding that came to its backend longer ago than this has settled, whatever its index says: the index is
/// kept in 32 bits, and settling takes 1.3 s at most.
const RECENT_MILLIS: u64 = 60_000;

/// Which bindings have settled.
#[derive(Debug, Default)]
pub struct Settling {
    /// Highest index that was applied long enough ago.
    settled: AtomicU64,
    /// Highest index of an entry that moved a binding.
    moved: AtomicU64,
    /// Everything settles until then, in nanoseconds of `CLOCK_BOOTTIME`.
    all_until: AtomicU64,
    /// Applied indexes with the time at which they were, oldest first.
    samples: Mutex<VecDeque<(u64, BootNanos)>>,
}

/// How long a moved binding settles when a confirmation counts for `span` nanoseconds.
pub const fn settle_nanos(span: u64) -> u64 {
    (span / 9 + 1) * 11
}

impl Settling {
    /// Notes that an entry moved a binding.
    pub fn moved(&self, index: LogIndex) {
        self.moved.fetch_max(index.get(), Ordering::AcqRel);
    }

    /// Notes that any binding may have moved or gone, and that all settle until `until`.
    pub fn all_moved(&self, until: BootNanos) {
        self.all_until.fetch_max(until.get(), Ordering::AcqRel);
    }

    /// Notes how far this node has applied at `now`, and what has settled by then. Call it after each batch and
    /// now and then.
    pub fn applied(&self, index: LogIndex, now: BootNanos, settle: u64) {
        let mut samples = self.samples.lock();
        let due = match samples.back() {
            None => true,
            Some((last, at)) => {
                let a_move = self.moved.load(Ordering::Acquire) > *last;
                index.get() > *last && (a_move || now.since(*at) >= SAMPLE_NANOS)
            }
        };
        if due && index.get() > self.settled.load(Ordering::Acquire) {
            samples.push_back((index.get(), now));
        }
        while let Some((index, at)) = samples.front().copied()
            && now >= at.plus(settle)
        {
            self.settled.fetch_max(index, Ordering::AcqRel);
            samples.pop_front();
        }
    }

    /// Whether `binding` may be forwarded on at `now`; `log_time` is the estimate of log time then.
    pub fn has_settled(&self, binding: &BindingView, log_time: LogTime, now: BootNanos) -> bool {
        if now.get() < self.all_until.load(Ordering::Acquire) {
            return false;
        }
        if binding.provenance == Provenance::Created || log_time.millis_since(binding.created) > RECENT_MILLIS {
            return true;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what a binding carries")]
        let settled = self.settled.load(Ordering::Acquire) as u32;
        // A signed difference, because the low halves wrap.
        binding.index_low.wrapping_sub(settled).cast_signed() <= 0
    }

    /// Index of the last entry that moved a binding.
    pub fn last_moved(&self) -> LogIndex {
        LogIndex::new(self.moved.load(Ordering::Acquire))
    }

    /// Whether everything that moved up to `index` has settled.
    pub fn quiet_up_to(&self, index: LogIndex, now: BootNanos) -> bool {
        now.get() >= self.all_until.load(Ordering::Acquire) && self.settled.load(Ordering::Acquire) >= index.get()
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{ids::BackendId, state::RehomeCause};

    use super::*;

    const MS: u64 = 1_000_000;

    fn binding(index: u32, provenance: Provenance) -> BindingView {
        BindingView {
            backend: BackendId::new(1),
            pinned: false,
            provenance,
            index_low: index,
            last_used: LogTime::from_millis(0),
            created: LogTime::from_millis(0),
            renew_due: false,
        }
    }

    fn at(millis: u64) -> BootNanos {
        BootNanos::new(millis * MS)
    }

    #[test]
    fn a_moved_binding_waits_and_a_new_one_does_not() {
        let settling = Settling::default();
        let moved = binding(7, Provenance::Rehomed(RehomeCause::BackendDown));
        let check = |now: u64| settling.has_settled(&moved, LogTime::from_millis(now), at(now));
        settling.applied(LogIndex::new(6), at(0), 100 * MS);
        settling.moved(LogIndex::new(7));
        assert!(!check(1), "also before anybody noted that entry 7 was applied");
        settling.applied(LogIndex::new(7), at(1), 100 * MS);
        settling.applied(LogIndex::new(7), at(100), 100 * MS);
        assert!(!check(100) && !settling.quiet_up_to(settling.last_moved(), at(100)));
        settling.applied(LogIndex::new(9), at(101), 100 * MS);
        assert!(check(101) && settling.quiet_up_to(settling.last_moved(), at(101)));
        assert!(settling.has_settled(&binding(8, Provenance::Created), LogTime::from_millis(101), at(101)));
    }

    #[test]
    fn a_binding_in_place_of_an_ended_one_waits_too() {
        let settling = Settling::default();
        let replaced = binding(7, Provenance::Replaced);
        settling.moved(LogIndex::new(7));
        settling.applied(LogIndex::new(7), at(1), 100 * MS);
        assert!(!settling.has_settled(&replaced, LogTime::from_millis(100), at(100)));
        settling.applied(LogIndex::new(7), at(101), 100 * MS);
        assert!(settling.has_settled(&replaced, LogTime::from_millis(101), at(101)));
    }

    #[test]
    fn low_halves_wrap() {
        let settling = Settling::default();
        settling.applied(LogIndex::new((1 << 32) + 5), at(0), 0);
        let rehomed = |low| binding(low, Provenance::Rehomed(RehomeCause::Operator));
        assert!(settling.has_settled(&rehomed(u32::MAX), LogTime::from_millis(0), at(1)));
        assert!(settling.has_settled(&rehomed(5), LogTime::from_millis(0), at(1)));
        assert!(!settling.has_settled(&rehomed(6), LogTime::from_millis(0), at(1)));
        assert!(settling.has_settled(&rehomed(6), LogTime::from_millis(RECENT_MILLIS + 1), at(1)), "too old to matter");
    }

    #[test]
    fn after_a_snapshot_everything_waits() {
        let settling = Settling::default();
        settling.all_moved(at(100));
        let created = binding(1, Provenance::Created);
        assert!(!settling.has_settled(&created, LogTime::from_millis(0), at(99)));
        assert!(!settling.quiet_up_to(LogIndex::new(0), at(99)));
        assert!(settling.has_settled(&created, LogTime::from_millis(0), at(100)));
        assert!(settling.quiet_up_to(LogIndex::new(0), at(100)));
    }

    #[test]
    fn settling_outlasts_a_confirmation_on_a_clock_a_tenth_slower() {
        let span = 100_000_000;
        // The other node's clock runs at 0.9, ours at 1.1.
        assert!(settle_nanos(span) * 10 / 11 >= span * 10 / 9);
    }
}
