//! How recently this node's state was known to be current.
//!
//! A node may serve bindings from its own table only while a confirmation is younger than the
//! cluster's `freshness`. A confirmation says: everything committed before `asked_at` is at or
//! below `index`. It counts once this node has applied up to `index`, and its age is counted
//! from when it was *asked* for, on a clock that counts through suspend.
//!
//! Confirmations come for free from the lease protocol's rounds (each voter tells its last log
//! index; the highest of a majority covers all that was committed) and, when those do not
//! suffice, from a ReadIndex.
//!
//! Not here: what a moved binding waits for ([`crate::settling`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ballast_core::{ids::LogIndex, time::BootNanos};

/// The newest confirmation that counts, and how long one counts.
#[derive(Debug)]
pub struct Freshness {
    /// `asked_at` of the newest confirmation that this node's applied index has reached.
    confirmed: AtomicU64,
    /// Nanoseconds.
    span: AtomicU64,
    /// The span before, which other nodes may still count by.
    span_before: AtomicU64,
    /// The state is not to be trusted any more.
    void: AtomicBool,
}

impl Freshness {
    /// Never confirmed; a confirmation will count for `span` nanoseconds.
    pub const fn new(span: u64) -> Self {
        Self {
            confirmed: AtomicU64::new(0),
            span: AtomicU64::new(span),
            span_before: AtomicU64::new(0),
            void: AtomicBool::new(false),
        }
    }

    /// Changes how long a confirmation counts.
    pub fn set_span(&self, span: u64) {
        let before = self.span.swap(span, Ordering::Relaxed);
        if before != span {
            self.span_before.store(before, Ordering::Relaxed);
        }
    }

    /// The longest that a confirmation may count on any node: the span, or the one before if that was longer.
    pub fn longest_span(&self) -> u64 {
        self.span().max(self.span_before.load(Ordering::Relaxed))
    }

    /// Nothing is confirmed from now on: this node's state is not to be trusted.
    pub fn void(&self) {
        self.void.store(true, Ordering::Release);
    }

    /// How long a confirmation counts, in nanoseconds.
    pub fn span(&self) -> u64 {
        self.span.load(Ordering::Relaxed)
    }

    /// Takes a confirmation into account if this node has applied up to its index.
    pub fn confirm(&self, asked_at: BootNanos, index: LogIndex, applied: LogIndex) {
        if applied >= index {
            self.confirmed.fetch_max(asked_at.get(), Ordering::AcqRel);
        }
    }

    /// Whether this node's table may be served from at `now`.
    pub fn holds(&self, now: BootNanos) -> bool {
        let confirmed = self.confirmed.load(Ordering::Acquire);
        confirmed != 0 && !self.void.load(Ordering::Acquire) && now.since(BootNanos::new(confirmed)) < self.span()
    }

    /// Age of the newest confirmation in nanoseconds; `None` if there never was one.
    pub fn age(&self, now: BootNanos) -> Option<u64> {
        let confirmed = self.confirmed.load(Ordering::Acquire);
        (confirmed != 0).then(|| now.since(BootNanos::new(confirmed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn counts_from_when_it_was_asked_and_only_once_applied() {
        let fresh = Freshness::new(100 * MS);
        assert!(!fresh.holds(BootNanos::new(1)));
        fresh.confirm(BootNanos::new(1000 * MS), LogIndex::new(7), LogIndex::new(6));
        assert!(!fresh.holds(BootNanos::new(1001 * MS)), "index 7 is not applied yet");
        fresh.confirm(BootNanos::new(1000 * MS), LogIndex::new(7), LogIndex::new(7));
        assert!(fresh.holds(BootNanos::new(1099 * MS)));
        assert!(!fresh.holds(BootNanos::new(1100 * MS)));
    }

    #[test]
    fn an_older_confirmation_does_not_shorten_a_newer_one() {
        let fresh = Freshness::new(100 * MS);
        fresh.confirm(BootNanos::new(1000 * MS), LogIndex::new(7), LogIndex::new(9));
        fresh.confirm(BootNanos::new(950 * MS), LogIndex::new(5), LogIndex::new(9));
        assert!(fresh.holds(BootNanos::new(1099 * MS)));
    }
}
