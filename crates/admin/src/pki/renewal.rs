//! When a node renews its certificate.
//!
//! Fed what time it is and when the certificate ends; says whether to renew now. How long a certificate was good for is not
//! asked of its beginning, which is the CA's (see [`Authority::sign_node`](super::Authority::sign_node)).
//!
//! Two clocks, for two questions. Whether it is time is asked of the wall clock, because that is what certificates are
//! judged by. When to try again after a failure is asked of one that nobody sets.
//!
//! Not here: signing, files, sockets (`ballastd`).

use std::time::{Duration, Instant, SystemTime};

use ballast_core::ids::NodeId;

use super::{CERTIFICATE_LIFE_NODE, Validity};

/// What is left of a certificate when it is renewed: four months in which whatever keeps a node from it can be mended.
const LEFT: Duration = Duration::from_secs(CERTIFICATE_LIFE_NODE.as_secs() / 3);

/// Nodes that were enrolled on one day renew within so many days of each other, so that what goes wrong does so at one node
/// first.
const SPREAD: Duration = Duration::from_secs(14 * 24 * 3600);

/// The first pause after a failure; each further failure doubles it.
const PAUSE: Duration = Duration::from_secs(10);

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Decides when one node renews.
#[derive(Debug)]
pub struct Renewal {
    early: Duration,
    failures: u32,
    again: Option<Instant>,
}

impl Renewal {
    /// For that node.
    pub fn new(node: NodeId) -> Self {
        // Fractions of the golden ratio: few nodes are far apart, and one more falls between them.
        let fraction = node.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        Self { early: SPREAD / 65_536 * u32::try_from(fraction).unwrap_or(0), failures: 0, again: None }
    }

    /// When a certificate that ends then is renewed.
    pub fn at(&self, not_after: SystemTime) -> SystemTime {
        not_after.checked_sub(LEFT + self.early).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether to renew now a certificate of a CA that ends at `ca_not_after`.
    ///
    /// A clock that is set back renews nothing, and one that is ahead renews too early, which does no harm.
    pub fn is_due(&self, own: Validity, ca_not_after: SystemTime, wall: SystemTime, steady: Instant) -> bool {
        let gains = own.not_after < ca_not_after;
        gains && wall >= self.at(own.not_after) && self.again.is_none_or(|again| steady >= again)
    }

    /// It was renewed.
    pub fn succeeded(&mut self) {
        (self.failures, self.again) = (0, None);
    }

    /// It could not be renewed. Returns the pause until the next try.
    pub fn failed(&mut self, steady: Instant) -> Duration {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.again = steady.checked_add(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const YEAR: Duration = CERTIFICATE_LIFE_NODE;

    /// A certificate that was made in the third year of its cluster.
    fn own() -> (SystemTime, Validity) {
        let began = SystemTime::UNIX_EPOCH + 56 * YEAR;
        let made = began + 2 * YEAR;
        (made, Validity { not_before: began, not_after: made + YEAR })
    }

    fn ca_not_after() -> SystemTime {
        own().1.not_before + 20 * YEAR
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life_and_not_by_all_nodes_at_once() {
        let (made, own) = own();
        let steady = Instant::now();
        let mut at = Vec::new();
        for node in 1..=5 {
            let renewal = Renewal::new(NodeId::new(node));
            let due = |wall| renewal.is_due(own, ca_not_after(), wall, steady);
            let when = renewal.at(own.not_after);
            assert!(when > made + YEAR / 3 * 2 - SPREAD && when <= made + YEAR / 3 * 2, "node {node}");
            assert!(!due(made) && !due(when - Duration::from_secs(1)));
            assert!(due(when) && due(own.not_after) && due(own.not_after + 10 * YEAR));
            at.push(when);
        }
        at.sort();
        assert!(at.windows(2).all(|pair| pair[0] + DAY <= pair[1]), "{at:?}");
    }

    #[test]
    fn what_would_end_no_later_is_not_renewed() {
        let (_, mut own) = own();
        own.not_after = ca_not_after();
        let renewal = Renewal::new(NodeId::new(1));
        assert!(!renewal.is_due(own, ca_not_after(), own.not_after + DAY, Instant::now()));
    }

    #[test]
    fn a_failure_is_tried_again_after_a_pause_that_grows_up_to_an_hour_whatever_the_wall_clock_does() {
        let (_, own) = own();
        let mut renewal = Renewal::new(NodeId::new(2));
        let mut steady = Instant::now();
        let due = |renewal: &Renewal, steady| renewal.is_due(own, ca_not_after(), own.not_after, steady);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            assert!(due(&renewal, steady));
            let pause = renewal.failed(steady);
            assert!(!due(&renewal, steady + pause - Duration::from_millis(1)));
            steady += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses[..11], [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!(pauses[39], 3600);
        renewal.succeeded();
        assert!(due(&renewal, steady));
        assert_eq!(renewal.failed(steady).as_secs(), 10);
    }
}
