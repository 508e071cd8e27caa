//! How late the lease thread is: what a lease must be long enough for.
//!
//! Two things are measured over the last minute: by how much the thread wakes later than it asked to, and how long a
//! round of questions takes until a majority answered. Beside the maximum stands the value that all but one in a
//! thousand stay below, and at least one does not count: an owner that gets no answer asks seven times before its right is over,
//! so one outlier says nothing about whether a lease fits a machine, and a figure that it decides would come and go with
//! it.
//!
//! The thread alone writes; readers may see a minute that is just being moved on, which is off by one sample.

use std::{
    array,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use ballast_core::time::BootNanos;

/// A slot is this long; slots are forgotten one by one.
const SLOT_NANOS: u64 = 10_000_000_000;
/// A minute, and the slot that is being filled.
const SLOTS: usize = 7;
/// Samples below are all alike: 2^10 ns is about a microsecond.
const SMALLEST_LOG2: u32 = 10;
/// Four steps to each power of two: figures are at most a quarter too high.
const STEPS_LOG2: u32 = 2;
/// Up to 2^35 ns, half a minute.
const BUCKETS: usize = ((35 - SMALLEST_LOG2) << STEPS_LOG2) as usize;

/// What was measured over the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The longest; zero when nothing was measured.
    pub max: Duration,
    /// What all but one in a thousand, and at least one, stay below, rounded up by at most a quarter; zero when fewer
    /// than two were measured.
    pub usual_max: Duration,
}

/// Figures of a lease thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jitter {
    /// By how much the thread woke late.
    pub wake_late: Figures,
    /// From asking to a majority's answer.
    pub renew: Figures,
}

/// Samples of the last minute.
pub(crate) struct Window {
    slots: [Slot; SLOTS],
    /// The slot that is written, counted from the clock's beginning.
    current: AtomicU64,
}

struct Slot {
    counts: [AtomicU32; BUCKETS],
    max: AtomicU64,
}

impl Default for Window {
    fn default() -> Self {
        let slot = |_| Slot { counts: array::from_fn(|_| AtomicU32::new(0)), max: AtomicU64::new(0) };
        Self { slots: array::from_fn(slot), current: AtomicU64::new(0) }
    }
}

impl Window {
    /// Counts a sample. Only one thread may call it.
    pub(crate) fn add(&self, now: BootNanos, nanos: u64) {
        let slot = self.move_on(now);
        slot.counts[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        slot.max.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The slot of `now`, with those between the last sample and it emptied.
    fn move_on(&self, now: BootNanos) -> &Slot {
        let number = now.get() / SLOT_NANOS;
        let before = self.current.swap(number, Ordering::Relaxed);
        for passed in (before + 1..=number).rev().take(SLOTS) {
            let slot = &self.slots[index(passed)];
            slot.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
            slot.max.store(0, Ordering::Relaxed);
        }
        &self.slots[index(number)]
    }

    pub(crate) fn figures(&self, now: BootNanos) -> Figures {
        let number = now.get() / SLOT_NANOS;
        let current = self.current.load(Ordering::Relaxed);
        // Slots that nothing was written to since they were last used are older than a minute.
        let oldest = (number + 1).saturating_sub(SLOTS as u64);
        let counted = (oldest..=number).filter(|slot| *slot <= current && *slot + SLOTS as u64 > current);
        let mut counts = [0_u64; BUCKETS];
        let mut max = 0;
        for slot in counted.map(|slot| &self.slots[index(slot)]) {
            for (sum, count) in counts.iter_mut().zip(&slot.counts) {
                *sum += u64::from(count.load(Ordering::Relaxed));
            }
            max = max.max(slot.max.load(Ordering::Relaxed));
        }
        let all: u64 = counts.iter().sum();
        let beyond = all / 1000 + 1;
        let mut above = 0;
        let usual = (0..BUCKETS).rev().find(|bucket| {
            above += counts[*bucket];
            above > beyond
        });
        let usual_max = usual.map_or(0, |bucket| upper(bucket).min(max));
        Figures { max: Duration::from_nanos(max), usual_max: Duration::from_nanos(usual_max) }
    }
}

fn index(slot: u64) -> usize {
    (slot % SLOTS as u64) as usize
}

fn bucket(nanos: u64) -> usize {
    let log2 = nanos.checked_ilog2().unwrap_or(0);
    if log2 < SMALLEST_LOG2 {
        return 0;
    }
    let step = (nanos >> (log2 - STEPS_LOG2)) as usize & ((1 << STEPS_LOG2) - 1);
    ((((log2 - SMALLEST_LOG2) << STEPS_LOG2) as usize) + step).min(BUCKETS - 1)
}

/// The smallest number of nanoseconds that is beyond a bucket.
fn upper(bucket: usize) -> u64 {
    let log2 = SMALLEST_LOG2 + (bucket >> STEPS_LOG2) as u32;
    let step = bucket as u64 & ((1 << STEPS_LOG2) - 1);
    ((1 << STEPS_LOG2) + step + 1) << (log2 - STEPS_LOG2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> BootNanos {
        BootNanos::new(seconds * SECOND)
    }

    fn millis(figure: Duration) -> u128 {
        figure.as_millis()
    }

    #[test]
    fn one_outlier_is_the_maximum_and_not_the_usual() {
        let window = Window::default();
        assert_eq!(window.figures(at(1000)), Figures::default());
        for second in 1000..1030 {
            for _ in 0..30 {
                window.add(at(second), 2 * MILLISECOND);
            }
        }
        window.add(at(1030), 90 * MILLISECOND);
        let figures = window.figures(at(1030));
        assert_eq!(millis(figures.max), 90);
        assert!((2..=3).contains(&millis(figures.usual_max)), "{figures:?}");
        // A second one is no outlier any more: nine hundred samples can spare one.
        window.add(at(1031), 80 * MILLISECOND);
        assert!((80..=90).contains(&millis(window.figures(at(1031)).usual_max)));
    }

    #[test]
    fn a_minute_later_nothing_is_left() {
        let window = Window::default();
        for _ in 0..10 {
            window.add(at(1000), 50 * MILLISECOND);
        }
        assert_eq!(millis(window.figures(at(1050)).max), 50);
        for _ in 0..10 {
            window.add(at(1071), MILLISECOND);
        }
        assert_eq!(millis(window.figures(at(1071)).max), 1);
        assert_eq!(window.figures(at(1200)), Figures::default(), "a thread that measured nothing since says nothing");
        window.add(at(1200), MILLISECOND);
        assert_eq!(millis(window.figures(at(1200)).max), 1);
    }

    #[test]
    fn a_figure_is_at_most_a_quarter_too_high() {
        for nanos in (1024..20_000_000_000).step_by(7_777_777) {
            let upper = upper(bucket(nanos));
            assert!(upper > nanos && upper <= nanos + nanos / 4 + 1, "{nanos} {upper}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
