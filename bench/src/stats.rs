//! Medians, ratios by round, and a histogram of latencies.
//!
//! Ratios are taken within a round and only then summarised, because the machine drifts between
//! rounds by more than the proxies differ.

use serde::{Deserialize, Serialize};

/// Median and extremes of a handful of rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Middle value; the mean of the two middle ones when their number is even.
    pub median: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Summary {
    /// Summary of `values`; `None` when there are none or one is not a number.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        if sorted.is_empty() || sorted.iter().any(|v| !v.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }
}

/// Median over the rounds of `ours / theirs` in the same round; `None` without a common round.
pub fn ratio_by_round(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let quotients: Vec<f64> = ours.iter().zip(theirs).filter(|(_, t)| **t > 0.0).map(|(o, t)| o / t).collect();
    Summary::of(&quotients).map(|s| s.median)
}

/// Differences `ours - theirs` in the same round.
pub fn difference_by_round(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(o, t)| o - t).collect()
}

/// Value below which the share `q` (0 to 1) of `values` lies; `None` when there are none.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Sub-buckets of each power of two: about 1.6 % resolution.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
/// Up to 2^48 ns, three days.
const OCTAVES: usize = 48;

/// Log-linear histogram of nanoseconds.
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; SUB * OCTAVES], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, nanos: u64) {
        self.buckets[Self::bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// Upper end of the bucket in which the share `q` (0 to 1) is reached, in microseconds; 0 when empty.
    pub fn quantile_us(&self, q: f64) -> f64 {
        let wanted = ((self.count as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Self::upper(index).min(self.max) as f64 / 1000.0;
            }
        }
        0.0
    }

    /// Largest value in microseconds.
    pub fn max_us(&self) -> f64 {
        self.max as f64 / 1000.0
    }

    fn bucket(nanos: u64) -> usize {
        if nanos < SUB as u64 {
            return nanos as usize;
        }
        let octave = 63 - nanos.leading_zeros();
        let sub = (nanos >> (octave - SUB_BITS)) as usize & (SUB - 1);
        ((octave - SUB_BITS + 1) as usize * SUB + sub).min(SUB * OCTAVES - 1)
    }

    fn upper(index: usize) -> u64 {
        if index < SUB {
            return index as u64;
        }
        let shift = (index / SUB - 1) as u32;
        ((((SUB + index % SUB) as u64) + 1) << shift) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_the_two() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn ratio_is_taken_within_a_round() {
        // The machine was half as fast in round two; the ratio does not see it.
        assert_eq!(ratio_by_round(&[8.0, 16.0, 9.0], &[10.0, 20.0, 10.0]), Some(0.8));
        assert_eq!(ratio_by_round(&[8.0], &[0.0]), None);
        assert_eq!(difference_by_round(&[8.0, 16.0], &[10.0, 10.0]), vec![-2.0, 6.0]);
    }

    #[test]
    fn quantile_is_a_value_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), Some(99.0));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(100.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn histogram_is_right_to_two_percent() {
        let mut histogram = Histogram::default();
        for value in 1..=100_000u64 {
            histogram.record(value * 1000);
        }
        for q in [0.01, 0.5, 0.9, 0.99, 0.999] {
            let exact = 100_000.0 * q;
            let got = histogram.quantile_us(q);
            assert!((got - exact).abs() / exact < 0.02, "{q}: {got} for {exact}");
        }
        assert_eq!(histogram.max_us(), 100_000.0);
        assert_eq!(histogram.quantile_us(1.0), 100_000.0);
        assert_eq!(Histogram::default().quantile_us(0.5), 0.0);
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..4096).chain([1 << 20, (1 << 40) + 12345, (1 << 47) - 1]) {
            let bucket = Histogram::bucket(value);
            assert!(Histogram::upper(bucket) >= value, "{value}");
            assert!(bucket == 0 || Histogram::upper(bucket - 1) < value, "{value}");
        }
    }
}
