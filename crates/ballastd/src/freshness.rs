//! How recently this node's state was known to be current.
//!
//! A node may serve bindings from its own table only while a confirmation is younger than the
//! cluster's `freshness`. A confirmation says: everything committed before `asked_at` is at or
//! below `index`. It counts once this node has applied up to `index`, and its age is counted
//! from when it was *asked* for, on a clock that counts through suspend.
//!
//! For a request that asked itself it counts however long the answer took: what was committed after the request came may as
//! well have come after it (ADR 4).
//!
//! Confirmations come for free from the lease protocol's rounds (each voter tells its last log
//! index; the highest of a majority covers all that was committed) and, when those do not
//! suffice, from a ReadIndex.
//!
//! Not here: what a moved binding waits for ([`crate::settling`]).

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use ballast_core::{ids::LogIndex, time::BootNanos};
use parking_lot::Mutex;

use crate::settling::settle_nanos;

/// The newest confirmation that counts, and how long one counts.
#[derive(Debug)]
pub struct Freshness {
    /// `asked_at` of the newest confirmation that this node's applied index has reached.
    confirmed: AtomicU64,
    /// Nanoseconds.
    span: AtomicU64,
    /// Spans that were replaced, with the time until which other nodes may still count by them.
    replaced: Mutex<Vec<(u64, BootNanos)>>,
    /// When an attempt to confirm the state last failed although this process ran all the while. Zero for never.
    unanswered: AtomicU64,
    /// The state is not to be trusted any more.
    void: AtomicBool,
}

/// Without a confirmation for so long, and asking in vain, this node counts as isolated: it goes by its own checks,
/// and clients do not wait for a log that does not answer.
const ISOLATED_AFTER_NANOS: u64 = 2_000_000_000;

/// An attempt that failed counts for so long. More than the time from one attempt to the end of the next; a process
/// that was frozen for longer asks before it believes that it is alone.
const UNANSWERED_COUNTS_NANOS: u64 = 6_000_000_000;

impl Freshness {
    /// Never confirmed; a confirmation will count for `span` nanoseconds.
    pub const fn new(span: u64) -> Self {
        Self {
            confirmed: AtomicU64::new(0),
            span: AtomicU64::new(span),
            replaced: Mutex::new(Vec::new()),
            unanswered: AtomicU64::new(0),
            void: AtomicBool::new(false),
        }
    }

    /// An attempt to confirm that began at `asked_at` has failed at `now`, after `deadline` of this process' own time.
    /// Returns false, and forgets it, if much more time than that has passed: then this process stood still, and
    /// whether anybody would have answered is not known.
    pub fn failed(&self, asked_at: BootNanos, deadline: Duration, now: BootNanos) -> bool {
        let ran = Duration::from_nanos(now.since(asked_at)) < deadline * 4 / 3;
        if ran {
            self.unanswered.fetch_max(now.get(), Ordering::AcqRel);
        }
        ran
    }

    /// Whether no majority answers this node. An old confirmation alone does not say so: a process that has just
    /// started, or was frozen, has not asked yet, and its table may be older than what others serve by. `now` is asked for only
    /// if the last attempt failed, so that this costs each request next to nothing.
    pub fn isolated(&self, now: impl FnOnce() -> BootNanos) -> bool {
        let unanswered = self.unanswered.load(Ordering::Acquire);
        if unanswered <= self.confirmed.load(Ordering::Acquire) {
            return false;
        }
        let now = now();
        now.since(BootNanos::new(unanswered)) < UNANSWERED_COUNTS_NANOS
            && self.age(now).is_none_or(|age| age > ISOLATED_AFTER_NANOS)
    }

    /// Changes how long a confirmation counts. `now` is when this node applied the change.
    ///
    /// A node that has not heard of it counts by the span before for as long as a confirmation lasts that it asked
    /// for before the change was committed.
    pub fn set_span(&self, span: u64, now: BootNanos) {
        let mut replaced = self.replaced.lock();
        let before = self.span.swap(span, Ordering::Relaxed);
        if before != span {
            replaced.retain(|(_, until)| *until > now);
            replaced.push((before, now.plus(settle_nanos(before))));
        }
    }

    /// The longest that a confirmation may count on any node at `now`: the span, or a replaced one that was longer and
    /// has not run out.
    pub fn longest_span(&self, now: BootNanos) -> u64 {
        let replaced = self.replaced.lock();
        let counting = replaced.iter().filter(|(_, until)| *until > now).map(|(span, _)| *span);
        counting.max().unwrap_or(0).max(self.span())
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

    /// Whether this node's table, which has come to `applied`, may be served from to a request that asked and was told `index`.
    pub fn holds_for(&self, index: LogIndex, applied: LogIndex) -> bool {
        applied >= index && !self.void.load(Ordering::Acquire)
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
    fn a_replaced_span_counts_until_it_has_run_out_everywhere() {
        let at = |millis: u64| BootNanos::new(millis * MS);
        let fresh = Freshness::new(1000 * MS);
        fresh.set_span(500 * MS, at(10_000));
        fresh.set_span(100 * MS, at(10_100));
        fresh.set_span(100 * MS, at(10_900));
        assert_eq!(fresh.span(), 100 * MS);
        assert_eq!(fresh.longest_span(at(11_222)), 1000 * MS, "a node that was cut off before the first change");
        assert_eq!(fresh.longest_span(at(11_223)), 100 * MS);
        fresh.set_span(200 * MS, at(20_000));
        assert_eq!(fresh.longest_span(at(20_000)), 200 * MS);
    }

    #[test]
    fn only_who_asked_in_vain_is_isolated() {
        let at = |millis: u64| BootNanos::new(millis * MS);
        let fresh = Freshness::new(100 * MS);
        assert!(!fresh.isolated(|| at(60_000)), "it has only just started");
        assert!(fresh.failed(at(60_000), Duration::from_secs(5), at(65_000)));
        assert!(fresh.isolated(|| at(65_000)), "it was never confirmed, and nobody answers");

        fresh.confirm(at(66_000), LogIndex::new(1), LogIndex::new(1));
        assert!(!fresh.isolated(|| at(66_100)));
        assert!(!fresh.isolated(|| at(90_000)), "it was frozen, and has not asked since");
        assert!(!fresh.failed(at(66_050), Duration::from_millis(1500), at(90_000)), "it was frozen while it asked");
        assert!(!fresh.isolated(|| at(90_000)));
        assert!(fresh.failed(at(90_000), Duration::from_millis(1500), at(91_510)));
        assert!(fresh.isolated(|| at(91_510)));
        assert!(!fresh.isolated(|| at(98_000)), "it was frozen while it was isolated");
    }

    #[test]
    fn who_asked_is_served_once_what_was_told_is_applied() {
        let fresh = Freshness::new(100 * MS);
        assert!(!fresh.holds_for(LogIndex::new(7), LogIndex::new(6)));
        assert!(fresh.holds_for(LogIndex::new(7), LogIndex::new(7)));
        fresh.void();
        assert!(!fresh.holds_for(LogIndex::new(7), LogIndex::new(7)), "nobody is");
    }

    #[test]
    fn an_older_confirmation_does_not_shorten_a_newer_one() {
        let fresh = Freshness::new(100 * MS);
        fresh.confirm(BootNanos::new(1000 * MS), LogIndex::new(7), LogIndex::new(9));
        fresh.confirm(BootNanos::new(950 * MS), LogIndex::new(5), LogIndex::new(9));
        assert!(fresh.holds(BootNanos::new(1099 * MS)));
    }
}
