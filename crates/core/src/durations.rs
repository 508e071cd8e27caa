//! Counting durations by their length, with the same bounds everywhere, so that histograms of
//! different nodes and parts can be added up.

/// Upper bounds of the buckets in microseconds, inclusive. Longer ones go into one more bucket.
/// From what a request on one host takes to what a person no longer waits for.
pub const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// The bucket of a duration in microseconds; `BOUNDS_US.len()` for one longer than all bounds.
#[must_use]
pub fn bucket(us: u64) -> usize {
    // The first bounds are the common case; a search would cost more than it saves.
    BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len())
}

/// How many durations fell into each bucket, and how long they were together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// By [`bucket`]; not cumulative.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// Sum in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// Counts one of `us` microseconds.
    pub fn record(&mut self, us: u64) {
        self.counts[bucket(us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Durations counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket_and_nothing_is_lost_above_the_last() {
        assert!(BOUNDS_US.is_sorted());
        for (index, bound) in BOUNDS_US.into_iter().enumerate() {
            assert_eq!(bucket(bound), index);
            assert_eq!(bucket(bound + 1), index + 1);
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BOUNDS_US.len());
    }

    #[test]
    fn what_was_recorded_is_counted_once_and_summed() {
        let mut durations = Durations::default();
        for us in [0, 100, 101, u64::from(u32::MAX)] {
            durations.record(us);
        }
        assert_eq!(durations.count(), 4);
        assert_eq!(durations.sum_us, 201 + u64::from(u32::MAX));
        assert_eq!((durations.counts[0], durations.counts[1], durations.counts[BOUNDS_US.len()]), (2, 1, 1));
    }
}
