//! Whether a check that nothing answered speaks of the backend.
//!
//! A node whose own network is down finds every backend down. If it is the network of all nodes (a switch that starts again,
//! a site whose machines have power before its network is there) they even agree about it, and clients would be moved from
//! backends that nothing is wrong with. So for the cluster, silence counts only beside a network that works: a majority of the
//! voters has answered this node lately, as known when the check began and when it ended.
//!
//! What a network loses is mostly the first packet of a check, which is sent when it begins and again a second later. So an
//! outage that is over before the check is may still have caused its silence. One may count, as long as the next does not for
//! the same outage: between the middle of the one and the beginning of the other something was asked that was answered. (A
//! backend that takes longer than half of its timeout to answer may be silent twice for one outage.)
//!
//! An answer that is no good one (refused, reset, `503`) came over the network, and always counts. What this node could not
//! even ask does not.
//!
//! Not here: what counts for the node alone, which goes by everything while nobody answers it ([`super::Machine`]).

use crate::time::BootNanos;

/// How old, in nanoseconds, the newest question that a majority has answered may be for a network that works: nodes ask at
/// least four times a second, and once more when there was no answer.
const LATELY: u64 = 550_000_000;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What should.
    Good,
    /// Something else.
    Bad,
    /// Nothing, not even that the connection is refused.
    Nothing,
    /// This node could not ask: it has no descriptor or port left, say.
    Unasked,
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

impl Check {
    fn middle(&self) -> BootNanos {
        self.began.plus(self.ended.since(self.began) / 2)
    }
}

/// The checks of one backend by one node.
#[derive(Clone, Debug, Default)]
pub struct Unanswered {
    /// The middle of the last check that failed and counted, or when requests last did; none since one passed.
    failed: Option<BootNanos>,
}

impl Unanswered {
    /// Whether this check counts for the cluster. Every check must be told, one after the other.
    pub fn counts(&mut self, check: &Check) -> bool {
        match check.answer {
            Answer::Good => self.failed = None,
            Answer::Bad => self.failed = Some(check.middle()),
            Answer::Nothing if !lately(check.heard, check.ended) => return false,
            Answer::Nothing => return self.counts_beside(check.heard_before, check.began, check.middle()),
            Answer::Unasked => return false,
        }
        true
    }

    /// Whether requests of clients that failed in a row count for the cluster as a check does. They may be told at any rate:
    /// those that do not count leave the next check as it was.
    pub fn requests_count(&mut self, answer: Answer, now: BootNanos, heard: Heard) -> bool {
        match answer {
            Answer::Good | Answer::Bad => true,
            Answer::Nothing => self.counts_beside(heard, now, now),
            Answer::Unasked => false,
        }
    }

    /// Whether silence of what was asked at `asked` counts beside what this node had heard by then. The next does not for the
    /// same outage, if there was one at `failed`.
    fn counts_beside(&mut self, heard: Heard, asked: BootNanos, failed: BootNanos) -> bool {
        let counts = lately(heard, asked) && self.failed.is_none_or(|failed| heard > Some(failed));
        if counts {
            self.failed = Some(failed);
        }
        counts
    }
}

fn lately(heard: Heard, now: BootNanos) -> bool {
    heard.is_some_and(|heard| now.since(heard) <= LATELY)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// How a backend is checked, in milliseconds.
    #[derive(Clone, Copy)]
    struct Pace {
        interval: u64,
        timeout: u64,
        /// Between questions to the voters, which answer at once.
        rounds: u64,
    }

    const USUAL: Pace = Pace { interval: 1000, timeout: 200, rounds: 50 };

    fn at(millis: u64) -> BootNanos {
        BootNanos::new(millis * 1_000_000)
    }

    impl Pace {
        /// The newest question that was answered, asked a moment after the whole round while the network is not `down`.
        fn heard(self, now: u64, down: &Range<u64>) -> Heard {
            let asked = (0..=now / self.rounds).rev().map(|n| n * self.rounds + 1);
            asked.filter(|asked| *asked <= now).find(|asked| !down.contains(asked)).map(at)
        }

        /// Checks of a backend, and which of them count. The first begins after one interval.
        fn counted(self, answers: &str, down: Range<u64>) -> String {
            let mut unanswered = Unanswered::default();
            let counts = answers.chars().zip(1..).map(|(answer, number)| {
                let (answer, length) = match answer {
                    '+' => (Answer::Good, 1),
                    '-' => (Answer::Bad, 1),
                    'x' => (Answer::Unasked, 0),
                    _ => (Answer::Nothing, self.timeout),
                };
                let (began, ended) = (self.interval * number, self.interval * number + length);
                let (heard_before, heard) = (self.heard(began, &down), self.heard(ended, &down));
                let check = Check { began: at(began), ended: at(ended), answer, heard_before, heard };
                if unanswered.counts(&check) { 'c' } else { '.' }
            });
            counts.collect()
        }
    }

    #[test]
    fn silence_beside_a_network_that_works_counts() {
        assert_eq!(USUAL.counted("+???+", 0..0), "ccccc");
        assert_eq!(USUAL.counted("?-??", 0..0), "cccc");
    }

    #[test]
    fn silence_counts_however_little_time_is_between_checks_and_whatever_the_lease() {
        for pace in [
            Pace { interval: 1000, timeout: 1000, rounds: 49 },
            Pace { interval: 1000, timeout: 1000, rounds: 250 },
            Pace { interval: 1000, timeout: 100, rounds: 250 },
            Pace { interval: 100, timeout: 100, rounds: 49 },
            Pace { interval: 10_000, timeout: 50, rounds: 250 },
        ] {
            assert_eq!(pace.counted("+????", 0..0), "ccccc", "{} {}", pace.interval, pace.rounds);
        }
        let often = Pace { interval: 50, timeout: 40, rounds: 250 };
        assert_eq!(often.counted("+??????????", 0..0), "cc...c....c", "once for each question");
    }

    #[test]
    fn silence_of_a_node_that_nobody_answers_does_not() {
        assert_eq!(USUAL.counted("+???+", 1500..4900), "c...c");
        // The network is back while a check runs that had asked before.
        assert_eq!(USUAL.counted("+??+", 1500..3100), "c..c");
        assert_eq!(USUAL.counted("??+", 0..2100), "..c", "from its start");
        let slow = Pace { timeout: 500, ..USUAL };
        assert_eq!(slow.counted("+???+", 1900..4900), "c...c", "nor if it was answered a moment before");
    }

    #[test]
    fn one_outage_counts_once_at_most() {
        for begins in 1400..2100 {
            for length in [50, 300, 900, 1200, 3000] {
                let often = Pace { interval: 250, timeout: 200, rounds: 50 };
                // Silent is what began in the outage or shortly before, as if the backend took its time.
                let down = begins..begins + length;
                let silent = |number: u64| (begins - 100..begins + length).contains(&(250 * number));
                let answers: String = (1..=20).map(|number| if silent(number) { '?' } else { '+' }).collect();
                let counted = often.counted(&answers, down);
                let wrong = counted.chars().zip(answers.chars()).filter(|both| *both == ('c', '?')).count();
                assert!(wrong <= 1, "{begins} {length}: {answers} {counted}");
            }
        }
    }

    #[test]
    fn what_is_silent_when_the_network_is_back_counts_from_its_second_silence_on() {
        assert_eq!(USUAL.counted("+?????", 1500..3900), "c..ccc");
        assert_eq!(USUAL.counted("????", 0..1900), ".ccc");
    }

    #[test]
    fn what_is_answered_counts_whoever_else_answers() {
        assert_eq!(USUAL.counted("+--+-", 500..9000), "ccccc");
        assert_eq!(USUAL.counted("-?-", 500..9000), "c.c");
    }

    #[test]
    fn what_could_not_be_asked_counts_nowhere_and_changes_nothing() {
        assert_eq!(USUAL.counted("+?xx?x+", 0..0), "cc..c.c");
        assert!(!Unanswered::default().requests_count(Answer::Unasked, at(1000), Some(at(990))));
    }

    #[test]
    fn requests_count_once_for_each_question_and_leave_the_next_check_alone() {
        let mut unanswered = Unanswered::default();
        let mut counted = 0;
        for now in 1000..2000 {
            counted += usize::from(unanswered.requests_count(Answer::Nothing, at(now), USUAL.heard(now, &(0..0))));
        }
        assert_eq!(counted, 21);
        let heard = USUAL.heard(2060, &(0..0));
        let check = Check { began: at(2060), ended: at(2260), answer: Answer::Nothing, heard_before: heard, heard };
        assert!(unanswered.counts(&check));
        for now in 3000..4000 {
            assert!(!unanswered.requests_count(Answer::Nothing, at(now), heard), "nobody answers this node");
            assert!(unanswered.requests_count(Answer::Bad, at(now), heard));
        }
    }
}
