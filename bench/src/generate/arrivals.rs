//! When requests arrive in an open loop: a Poisson process.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Scheduled arrivals, in nanoseconds of the monotonic clock.
pub struct Arrivals {
    random: StdRng,
    per_nano: f64,
    next: f64,
}

impl Arrivals {
    /// Arrivals from `start` on, `rate` a second in the mean; the same `seed` gives the same gaps.
    pub fn new(start: u64, rate: f64, seed: u64) -> Self {
        let mut arrivals = Self { random: StdRng::seed_from_u64(seed), per_nano: rate / 1e9, next: start as f64 };
        arrivals.advance();
        arrivals
    }

    /// The next arrival.
    pub fn next(&self) -> u64 {
        self.next as u64
    }

    /// Takes the next arrival if it is not later than `now`.
    pub fn due(&mut self, now: u64) -> Option<u64> {
        let at = self.next();
        (at <= now).then(|| {
            self.advance();
            at
        })
    }

    fn advance(&mut self) {
        // Of (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - self.random.random::<f64>();
        self.next += -uniform.ln() / self.per_nano;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_a_poisson_process() {
        let mut arrivals = Arrivals::new(0, 10_000.0, 7);
        let mut last = 0;
        let gaps: Vec<f64> = std::iter::from_fn(|| arrivals.due(u64::MAX))
            .take(100_000)
            .map(|at| {
                let gap = (at - last) as f64;
                last = at;
                gap
            })
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1e5).abs() < 1e3, "{mean}");
        // Exponential gaps: the standard deviation is the mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{variance}");
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut arrivals = Arrivals::new(1000, 1e6, 1);
        assert!(arrivals.next() >= 1000);
        assert_eq!(arrivals.due(999), None);
        let next = arrivals.next();
        assert_eq!(arrivals.due(next), Some(next));
    }
}
