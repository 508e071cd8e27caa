//! How long rights and promises last.
//!
//! The number an operator configures is the time in which a dead owner is replaced, for clients as
//! well: a tenth of it is for the next owner's asking, for its fence and for being heard, and the
//! grantors' *promise* lasts the other nine. The holder's *right* is shorter by what two clocks may
//! differ: a holder whose clock runs at 0.9 keeps its right for `right / 0.9`, a grantor whose clock
//! runs at 1.1 keeps its promise for `promise / 1.1`, and the first must not outlast the second.

/// Longest time between two questions to the voters, however long the lease: who knows when this node was last answered
/// (`core::health`, reads of fresh state) is not to wait for seconds.
const ROUND_NANOS_MAX: u64 = 250_000_000;

/// Lengths of one lease, in nanoseconds of the clock of whoever measures them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    right: u64,
}

impl Timing {
    /// Timing under which a dead owner is replaced within `nanos`.
    pub const fn takeover_within(nanos: u64) -> Self {
        Self { right: nanos / 110 * 81 }
    }

    /// Timing that no lease of `nanos` exceeds, whatever part of it a release keeps for taking over: its promise is all of it.
    pub const fn at_most(nanos: u64) -> Self {
        Self { right: nanos / 11 * 9 }
    }

    /// Timing under which a right of `right` is given.
    pub(super) const fn of_right(right: u64) -> Self {
        Self { right }
    }

    /// How long after it asked a holder may serve.
    pub const fn right(self) -> u64 {
        self.right
    }

    /// How long a grantor keeps its word: the right, times 1.1 / 0.9.
    pub const fn promise(self) -> u64 {
        promise_for(self.right)
    }

    /// Time between two renewals that were answered: a third of the right, and a quarter of a second at most.
    pub const fn renew(self) -> u64 {
        round_at_most(self.right / 3)
    }

    /// Time after which a renewal that was not answered is repeated: seven questions follow one that was answered before its
    /// right is over, or more. The protocol's other waits are counted in it.
    pub const fn retry(self) -> u64 {
        round_at_most(self.right / 10)
    }

    /// What each place in the ranking waits longer before it asks for a free VIP. Longer than a
    /// question and a claim take on a local network (about 1 ms), short beside the lease.
    pub const fn stagger(self) -> u64 {
        self.retry() / 3
    }

    /// Age of the newest completed round from which on a holder counts as hearing nobody.
    pub const fn deaf_after(self) -> u64 {
        self.right / 10 * 7
    }
}

const fn round_at_most(nanos: u64) -> u64 {
    if nanos < ROUND_NANOS_MAX { nanos } else { ROUND_NANOS_MAX }
}

/// How long a promise for a right of `right` lasts, rounded up.
pub(super) const fn promise_for(right: u64) -> u64 {
    (right / 9 + 1).saturating_mul(11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_outlasts_right_between_the_slowest_and_the_fastest_clock() {
        for configured in [50_000_000, 200_000_000, 199_999_999, 10_000_000_000] {
            let timing = Timing::takeover_within(configured);
            // right / 0.9 <= promise / 1.1, in whole numbers.
            assert!(timing.right() * 11 <= timing.promise() * 9, "{configured}");
            assert!(timing.promise() <= configured / 10 * 9 + 22, "{configured}");
        }
    }

    #[test]
    fn rounds_are_asked_at_least_four_times_a_second() {
        for (configured, renew, retry) in [(200, 49, 14), (1000, 245, 73), (1100, 250, 81), (10_000, 250, 250)] {
            let timing = Timing::takeover_within(configured * 1_000_000);
            assert_eq!((timing.renew() / 1_000_000, timing.retry() / 1_000_000), (renew, retry), "{configured}");
            assert!(timing.deaf_after() > timing.right() / 2, "{configured}");
        }
    }

    #[test]
    fn no_lease_exceeds_what_is_allowed_under_its_length() {
        for configured in [50_000_000, 200_000_000, 199_999_999, 10_000_000_000] {
            let (timing, most) = (Timing::takeover_within(configured), Timing::at_most(configured));
            assert!(timing.right() < most.right() && most.promise() <= configured + 22, "{configured}");
        }
    }
}
