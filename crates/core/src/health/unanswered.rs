//! Whether a check that nothing answered speaks of the backend.
//!
//! A node whose own network is down finds every backend down. If it is the network of all nodes (a switch that starts again,
//! a site whose machines have power before its network is there) they even agree about it, and clients would be moved from
//! backends that nothing is wrong with. So silence counts for the cluster only if this node was heard in between: since the check before
//! it failed, a majority of the voters has answered something that was asked after that. Then there was a network between
//! the two, and it takes another cause for both to fail.
//!
//! An answer that is no good one (refused, reset, `503`) came over the network, and always counts.
//!
//! Not here: what counts for the node alone, which goes by everything while nobody answers it ([`super::Machine`]).

use crate::time::BootNanos;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What should.
    Good,
    /// Something else.
    Bad,
    /// Nothing, not even that the connection is refused.
    Silence,
}

/// When a majority of the voters was last asked something that it has answered, as this node knew it at some moment; `None`
/// for never.
pub type Heard = Option<BootNanos>;

/// One check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// When it began.
    pub began: BootNanos,
    /// When it ended.
    pub ended: BootNanos,
    /// What came back.
    pub answer: Answer,
    /// As known when it began.
    pub heard_before: Heard,
    /// As known when it ended.
    pub heard: Heard,
}

/// The checks of one backend by one node.
#[derive(Clone, Debug, Default)]
pub struct Unanswered {
    /// When the last check ended, if it failed.
    failed_at: Option<BootNanos>,
}

impl Unanswered {
    /// Whether this check counts for the cluster. Every check must be told, one after the other.
    ///
    /// The first that fails in a row has no other before it; it counts if something that was asked while it ran was
    /// answered while it ran.
    pub fn counts(&mut self, check: &Check) -> bool {
        let before = self.failed_at;
        self.failed_at = (check.answer != Answer::Good).then_some(check.ended);
        match (check.answer, before) {
            (Answer::Good | Answer::Bad, _) => true,
            (Answer::Silence, None) => check.heard >= Some(check.began),
            (Answer::Silence, Some(failed_at)) => check.heard_before > Some(failed_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks of a backend, each a second after the one before and 200 ms long unless it is answered at once, and which of them
    /// count. Voters answer at once, every 10 ms, except while the network is `down`.
    fn counted(answers: &str, down: std::ops::Range<u64>) -> String {
        let heard = |now: u64| {
            let asked = (0..=now / 10).rev().map(|n| n * 10).find(|asked| !down.contains(asked));
            asked.map(|asked| BootNanos::new(asked + 1))
        };
        let mut unanswered = Unanswered::default();
        let counts = answers.chars().zip(1..).map(|(answer, number)| {
            let (answer, length) = match answer {
                '+' => (Answer::Good, 1),
                '-' => (Answer::Bad, 1),
                _ => (Answer::Silence, 200),
            };
            let (began, ended) = (1000 * number, 1000 * number + length);
            let (heard_before, heard) = (heard(began), heard(ended));
            let check =
                Check { began: BootNanos::new(began), ended: BootNanos::new(ended), answer, heard_before, heard };
            if unanswered.counts(&check) { 'c' } else { '.' }
        });
        counts.collect()
    }

    #[test]
    fn silence_beside_a_network_that_works_counts() {
        assert_eq!(counted("+???+", 0..0), "ccccc");
        assert_eq!(counted("?-??", 0..0), "cccc");
    }

    #[test]
    fn silence_of_a_node_that_nobody_answers_does_not() {
        assert_eq!(counted("+???+", 1500..4900), "c...c");
        // The network is back while a check runs that had asked before.
        assert_eq!(counted("+??+", 1500..3100), "c..c");
        assert_eq!(counted("??+", 0..2100), "..c", "from its start");
    }

    #[test]
    fn what_is_silent_when_the_network_is_back_counts_from_its_second_silence_on() {
        assert_eq!(counted("+?????", 1500..3900), "c..ccc");
        assert_eq!(counted("????", 0..1900), ".ccc");
    }

    #[test]
    fn what_is_answered_counts_whoever_else_answers() {
        assert_eq!(counted("+--+-", 500..9000), "ccccc");
        assert_eq!(counted("-?-", 500..9000), "c.c");
    }
}
