//! What visitors saw in a stretch of time. Pure: time comes in with what was seen.
//!
//! The *silence* of a visitor is the longest time between two answers that reached it. A visitor asks again without waiting
//! for what it asked before, so a silence is how long nobody answered and not how long a client's time-out is.

use std::{collections::BTreeMap, fmt, time::Duration};

/// The end of one attempt of a visitor.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which visitor.
    pub visitor: usize,
    /// When it ended, since the visits began.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// What came of it.
    pub result: Result<Page, String>,
}

/// An answer of the shop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The backend that made it.
    pub backend: String,
    /// The session that it is of.
    pub session: String,
    /// What is in the basket.
    pub basket: u64,
}

#[derive(Clone, Debug, Default)]
struct Visitor {
    /// What it was answered last, with the most that was ever acknowledged to be in the basket.
    page: Option<Page>,
    /// When that was acknowledged.
    filled_at: Duration,
    last: Duration,
    silence: Duration,
}

/// What was seen since it was asked last.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    visitors: Vec<Visitor>,
    seen: Report,
}

/// What is told of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Attempts that were answered.
    pub served: usize,
    /// Attempts that were not, by what went wrong.
    pub failed: BTreeMap<String, usize>,
    /// The longest silence of any visitor.
    pub silence: Duration,
    /// The slowest answer.
    pub slowest: Duration,
    /// Each time that a visitor was answered by another backend than before.
    pub moves: Vec<String>,
    /// Times that a visitor found itself in another session.
    pub sessions_lost: usize,
    /// Answers that told of less in the basket than was acknowledged before they were asked for.
    pub baskets_lost: usize,
    /// Who serves each visitor.
    pub now: Vec<Page>,
}

impl Visitor {
    fn silent_until(&mut self, now: Duration) {
        if self.page.is_some() {
            self.silence = self.silence.max(now.saturating_sub(self.last));
        }
    }
}

impl Tally {
    /// Nothing seen yet by so many visitors.
    pub fn new(visitors: usize) -> Self {
        Self { visitors: vec![Visitor::default(); visitors], seen: Report::default() }
    }

    /// Takes in the end of an attempt. They come in the order of their ends.
    pub fn take(&mut self, attempt: Attempt) {
        let page = match attempt.result {
            Ok(page) => page,
            Err(reason) => {
                *self.seen.failed.entry(reason).or_default() += 1;
                return;
            }
        };
        let visitor = &mut self.visitors[attempt.visitor];
        visitor.silent_until(attempt.at);
        visitor.last = attempt.at;
        self.seen.served += 1;
        self.seen.slowest = self.seen.slowest.max(attempt.took);
        let Some(before) = &mut visitor.page else {
            visitor.page = Some(page);
            return;
        };
        if before.session != page.session {
            self.seen.sessions_lost += 1;
            *before = page;
            return;
        }
        if before.backend != page.backend {
            self.seen.moves.push(format!("visitor {}: {} > {}", attempt.visitor + 1, before.backend, page.backend));
            before.backend = page.backend;
        }
        if page.basket > before.basket {
            before.basket = page.basket;
            visitor.filled_at = attempt.at;
        } else if page.basket < before.basket && attempt.at.saturating_sub(attempt.took) >= visitor.filled_at {
            // One that was on its way while another filled the basket may tell of less.
            self.seen.baskets_lost += 1;
        }
    }

    /// What was seen until now. A new stretch begins.
    pub fn report(&mut self, now: Duration) -> Report {
        let mut report = std::mem::take(&mut self.seen);
        for visitor in &mut self.visitors {
            visitor.silent_until(now);
            report.silence = report.silence.max(std::mem::take(&mut visitor.silence));
            report.now.extend(visitor.page.clone());
        }
        report
    }
}

impl fmt::Display for Report {
    /// One `key=value` a line, for scripts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "served={}", self.served)?;
        writeln!(f, "failed={}", self.failed.values().sum::<usize>())?;
        writeln!(f, "silence_ms={}", self.silence.as_millis())?;
        writeln!(f, "slowest_ms={}", self.slowest.as_millis())?;
        writeln!(f, "moves={}", self.moves.len())?;
        writeln!(f, "sessions_lost={}", self.sessions_lost)?;
        writeln!(f, "baskets_lost={}", self.baskets_lost)?;
        self.failed.iter().try_for_each(|(reason, count)| writeln!(f, "failure={count} {reason}"))?;
        self.moves.iter().try_for_each(|change| writeln!(f, "move={change}"))?;
        for (number, Page { backend, session, basket }) in self.now.iter().enumerate() {
            writeln!(f, "visitor={} backend={backend} session={session} basket={basket}", number + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(visitor: usize, at: u64, took: u64, result: Result<(&str, &str, u64), &str>) -> Attempt {
        let page = |(backend, session, basket): (&str, &str, u64)| Page {
            backend: backend.to_owned(),
            session: session.to_owned(),
            basket,
        };
        Attempt {
            visitor,
            at: Duration::from_millis(at),
            took: Duration::from_millis(took),
            result: result.map(page).map_err(str::to_owned),
        }
    }

    fn seen(attempts: Vec<Attempt>, until: u64) -> (Tally, Report) {
        let mut tally = Tally::new(2);
        attempts.into_iter().for_each(|attempt| tally.take(attempt));
        let report = tally.report(Duration::from_millis(until));
        (tally, report)
    }

    #[test]
    fn silence_is_the_longest_wait_of_any_visitor_for_its_next_answer() {
        let (mut tally, report) = seen(
            vec![
                attempt(0, 100, 1, Ok(("web1", "a", 0))),
                attempt(1, 105, 1, Ok(("web2", "b", 0))),
                attempt(1, 110, 1, Ok(("web2", "b", 0))),
                attempt(0, 200, 90, Err("timed out")),
                attempt(0, 300, 1, Ok(("web1", "a", 0))),
                attempt(1, 305, 1, Ok(("web2", "b", 0))),
            ],
            310,
        );
        assert_eq!(report.silence, Duration::from_millis(200));
        assert_eq!((report.served, report.failed["timed out"]), (5, 1));
        // One that goes on is counted as far as it has come, and again when it ends.
        assert_eq!(tally.report(Duration::from_millis(400)).silence, Duration::from_millis(100));
        tally.take(attempt(0, 500, 1, Ok(("web1", "a", 0))));
        assert_eq!(tally.report(Duration::from_millis(501)).silence, Duration::from_millis(200));
    }

    #[test]
    fn who_changes_backend_session_or_basket_is_told() {
        let (_, report) = seen(
            vec![
                attempt(0, 100, 1, Ok(("web1", "a", 3))),
                attempt(0, 110, 1, Ok(("web1", "a", 4))),
                // Asked for before the basket had four in it.
                attempt(0, 111, 9, Ok(("web1", "a", 3))),
                attempt(0, 120, 1, Ok(("web2", "a", 4))),
                attempt(0, 130, 1, Ok(("web2", "a", 2))),
                attempt(0, 140, 1, Ok(("web2", "c", 0))),
            ],
            150,
        );
        assert_eq!(report.moves, ["visitor 1: web1 > web2"]);
        assert_eq!((report.baskets_lost, report.sessions_lost), (1, 1));
        let text = report.to_string();
        assert!(text.contains("\nmoves=1\n") && text.contains("visitor=1 backend=web2 session=c basket=0"), "{text}");
    }
}
