//! Is a history linearizable?
//!
//! Linearizable (Herlihy and Wing 1990) means: each operation can be given one instant between its invocation and its
//! completion such that, done at those instants, all of them together answer as they did. Objects can be judged apart
//! (P-compositionality, Horn and Kroening 2015), so each key is searched alone.
//!
//! The search is that of Wing and Gong (1993) in the form of Lowe (2017): it goes from one completion to the next and puts
//! operations into effect only when one completes that needs them, and it never looks twice at the same configuration (what
//! has taken effect, and the state that came of it). It goes deep first, because histories of a cluster that works are
//! explained by one of the first tries, and keeps its own stack.
//!
//! Operations of unknown outcome are what makes such searches explode: each may take effect now, later or never. Four
//! things keep them in bounds. Unknown reads are dropped. Of unknown operations that ask the same, the earliest goes first.
//! A configuration is skipped when one with the same effects and state has used fewer unknown operations, since whatever
//! follows from the former follows from the latter. And what merely reads, and fits, takes effect at once.
//!
//! Of some of them a judge knows until when they may take effect. One that lapses is an event to the search, as a completion is:
//! before it the operation may take effect, after it nobody remembers whether it did.
//!
//! Not here: what operations do (`models`).

mod bits;
mod events;
mod explain;
mod model;
mod search;

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod brute;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use self::model::{Model, Step, Window};
use crate::history::{History, Operation, Outcome};
use crate::time::{RunTime, Span};
use crate::verdict::{Judgement, Promise};

/// How much a search may take, for each key.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Configurations kept, some hundred bytes each. The default is four million; 20 000 operations of 16 clients on one key
    /// have kept a hundred thousand.
    pub configurations_max: usize,
    /// Steps of the model tried. The default is a hundred million, which took ten seconds.
    pub steps_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { configurations_max: 4_000_000, steps_max: 100_000_000 }
    }
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// There is an explanation.
    Linearizable,
    /// There is none.
    Violation(Box<Violation>),
    /// A limit was reached before one was found or ruled out.
    Undecided(Undecided),
}

/// The smallest beginning of a key's history that cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// Place in the history of the operation with whose completion the last explanation ends.
    pub culprit: usize,
    /// Places of those that can have had to do with it, the culprit among them: what was under way or began since the last
    /// moment before in which nothing was under way.
    pub window: Vec<usize>,
    /// The states in which the key can have been at the beginning of the window, at most a few.
    pub before: Vec<String>,
    /// The states in which it can have been when the culprit completed, were it not for the culprit; at most a few.
    pub possible: Vec<String>,
    /// All of this for people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How far a search came that reached a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Undecided {
    /// The key.
    pub key: String,
    /// Completions that were explained.
    pub explained: usize,
    /// Completions there are.
    pub of: usize,
    /// Place in the history of the operation that was the hardest to explain.
    pub stuck_at: usize,
    /// Operations under way at its completion.
    pub under_way: usize,
    /// Those of unknown outcome that may still have come to effect then.
    pub unknown: usize,
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "key {:?}: gave up after {} of {} completions, at operation {} with {} under way and {} of unknown outcome",
            self.key, self.explained, self.of, self.stuck_at, self.under_way, self.unknown
        )
    }
}

/// When an operation lapses that may take effect at any time.
fn never<I, O>(_: &Operation<I, O>) -> RunTime {
    RunTime::NEVER
}

/// Judges each key alone and gives the first violation in the order of keys; else the first that is undecided.
pub fn check<M: Model>(model: &M, history: &History<M::Input, M::Output>, limits: Limits) -> Verdict {
    let mut undecided = None;
    for (_, verdict) in verdicts(model, history, limits) {
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Violation(_) => return verdict,
            Verdict::Undecided(_) => undecided = undecided.or(Some(verdict)),
        }
    }
    undecided.unwrap_or(Verdict::Linearizable)
}

/// Judges each key alone and says what is to be ruled of the promise that it is about.
pub fn judge<M: Model>(
    promise: Promise,
    model: &M,
    history: &History<M::Input, M::Output>,
    limits: Limits,
) -> Judgement {
    let of = |wanted: fn(&Outcome<M::Output>) -> bool| {
        history.operations().iter().filter(|operation| wanted(&operation.outcome)).count()
    };
    let mut judgement = Judgement::new(promise)
        .looked_at("operations", of(|outcome| matches!(outcome, Outcome::Ok(_))))
        .count("unknown", of(|outcome| matches!(outcome, Outcome::Unknown)))
        .count("failed", of(|outcome| matches!(outcome, Outcome::Fail)));
    let mut keys = 0;
    for (_, verdict) in verdicts(model, history, limits) {
        keys += 1;
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => judgement.violated(violation.text),
            Verdict::Undecided(undecided) => judgement.undecided(undecided.to_string()),
        }
    }
    judgement.count("keys", keys)
}

/// Judges key after key, in their order, each when it is asked for.
pub fn verdicts<'a, M: Model>(
    model: &'a M,
    history: &'a History<M::Input, M::Output>,
    limits: Limits,
) -> impl Iterator<Item = (&'a str, Verdict)> {
    keys(history).map(move |(key, indices)| {
        let lapse = &never::<M::Input, M::Output>;
        (key, check_key(model, history.operations(), key, &indices, lapse, limits))
    })
}

/// The same, each by the model for the time in which it was asked for. `lapse` is until when one of unknown outcome takes effect, if
/// it ever does; [`RunTime::NEVER`] if it may at any time.
pub fn verdicts_by<'a, M: Model>(
    model: impl Fn(Span) -> M + 'a,
    history: &'a History<M::Input, M::Output>,
    lapse: impl Fn(&Operation<M::Input, M::Output>) -> RunTime + 'a,
    limits: Limits,
) -> impl Iterator<Item = (&'a str, Verdict)> {
    let operations = history.operations();
    keys(history).map(move |(key, indices)| {
        let asked = indices.iter().map(|index| operations[*index].invoked).min().unwrap_or_default();
        let until = indices.iter().map(|index| operations[*index].completed).max().unwrap_or_default();
        (key, check_key(&model(Span::new(asked, until)), operations, key, &indices, &lapse, limits))
    })
}

/// Each key and the places of its operations.
fn keys<I, O>(history: &History<I, O>) -> impl Iterator<Item = (&str, Vec<usize>)> {
    let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, operation) in history.operations().iter().enumerate() {
        keys.entry(&operation.key).or_default().push(index);
    }
    keys.into_iter()
}

/// Until when an operation of unknown outcome takes effect, if it ever does.
type Lapse<'a, I, O> = dyn Fn(&Operation<I, O>) -> RunTime + 'a;

fn check_key<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    key: &str,
    indices: &[usize],
    lapse: &Lapse<'_, M::Input, M::Output>,
    limits: Limits,
) -> Verdict {
    let events = events::Events::new(model, operations, indices, lapse);
    let mut search = search::Search::new(model, &events, key, limits);
    match search.run() {
        search::End::Explained => Verdict::Linearizable,
        search::End::Exhausted => {
            let lapse = &never::<M::Input, M::Output>;
            let at_any_time = || check_key(model, operations, key, indices, lapse, limits);
            let too_late = events.lapses() && at_any_time() == Verdict::Linearizable;
            Verdict::Violation(Box::new(explain::violation(key, &events, &search, too_late)))
        }
        search::End::GaveUp => Verdict::Undecided(explain::undecided(key, &events, &search)),
    }
}
