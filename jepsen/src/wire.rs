//! What the observer saw on the wire, as the folder of a run has it: a line whenever it was something else.
//!
//! A picture tells who owned when. Whether two did is told by single answers, so they are all in here: of each question
//! that was asked, who answered it and how.
//!
//! Not here: asking (`ballast_testkit::observer`), and what is ruled of it (`judge::owners`).

use ballast_jepsen::time::RunTime;
use ballast_testkit::observer::{Change, History, Nodes};
use serde::Serialize;

use crate::{clock::Clock, judge};

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When.
    at: RunTime,
    /// What.
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// These answered, until the next line that says so.
    Answered { arp: Vec<String>, ndp: Vec<String>, syn: Vec<String>, syn6: Vec<String>, late: Vec<String> },
    /// Somebody announced the VIP without being asked.
    Announced,
    /// Nothing was asked until then.
    UnaskedUntil(RunTime),
}

/// All lines.
pub fn lines(seen: &History, clock: Clock) -> Vec<Line> {
    let names = |nodes: Nodes| -> Vec<String> { nodes.iter().map(judge::name).collect() };
    let what = |change: Change| match change {
        Change::Answers { arp, ndp, syn, syn6, late } => {
            let [arp, ndp, syn, syn6, late] = [arp, ndp, syn, syn6, late].map(names);
            What::Answered { arp, ndp, syn, syn6, late }
        }
        Change::Announced => What::Announced,
        Change::Unasked { until } => What::UnaskedUntil(clock.of(until)),
    };
    seen.changes().into_iter().map(|(at, change)| Line { at: clock.of(at), what: what(change) }).collect()
}

#[cfg(test)]
mod tests {
    use ballast_testkit::observer::Tick;

    use super::*;

    #[test]
    fn a_line_says_who_answered_and_how_and_when_nobody_was_asked() {
        let clock = Clock::start();
        let at = |millis| clock.kernel(RunTime::from_millis(millis));
        let mut asked = Tick { sent_at: at(1), ..Tick::default() };
        asked.arp.add(0);
        asked.late.add(2);
        let history = History::new(vec![asked, Tick::default(), Tick { sent_at: at(3), ..asked }], vec![at(4)]);
        let lines = lines(&history, clock);
        let lines: Vec<String> =
            lines.iter().map(|line| serde_json::to_string(line).expect("names and numbers are JSON")).collect();
        let expected = [
            r#"{"at":1000000,"what":{"answered":{"arp":["node-1"],"ndp":[],"syn":[],"syn6":[],"late":["node-3"]}}}"#,
            r#"{"at":1000000,"what":{"unasked_until":3000000}}"#,
            r#"{"at":4000000,"what":"announced"}"#,
        ];
        assert_eq!(lines, expected);
    }
}
