//! P2: a client stays with its backend.
//!
//! What is bound to a client is a register: each answer reads it, and only a cause that the log names may empty it, after
//! which the next answer fills it again. So observations are judged as a history of that register, which does justice to
//! requests that were under way together: of two that overlap, either may have come first.
//!
//! Each cause excuses one change, of the clients and the backend it names, within its span. An answer that was given without a
//! replicated binding (the access log says so) begins no promise.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use crate::history::{Client, History, Operation, Outcome};
use crate::linear::{Limits, Model, Step, Verdict, check};
use crate::time::Span;
use crate::verdict::{Judgement, Promise};

/// A request of a client that a backend answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The farm.
    pub farm: String,
    /// The key by which the client is known: its address, cookie or header.
    pub client: String,
    /// The backend that answered.
    pub backend: String,
    /// The node through which it went, if that is known; for people.
    pub via: String,
    /// Whether it went through a binding that is replicated. One that did not is the beginning of no promise, though it
    /// breaks one as any other.
    pub bound: bool,
    /// When the request was sent and the answer was there.
    pub span: Span,
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: farm {} sent {} to {} via {}{}",
            self.span,
            self.farm,
            self.client,
            self.backend,
            self.via,
            if self.bound { "" } else { ", unbound" }
        )
    }
}

/// Why a binding may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The backend was down.
    Down,
    /// Its drain came to its deadline.
    Drained,
    /// It was taken out of the configuration.
    Removed,
    /// An operator moved the client.
    Moved,
}

/// Something that may have changed bindings once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What happened.
    pub reason: Reason,
    /// The farm.
    pub farm: String,
    /// Whose binding; everybody's if absent.
    pub client: Option<String>,
    /// The backend that was left; any if absent.
    pub backend: Option<String>,
    /// When the change can have taken effect, clocks and settling included.
    pub span: Span,
}

impl Cause {
    /// Why it does not excuse that the client of `before` was found elsewhere at `after`.
    fn no_excuse(&self, before: &Observation, after: &Observation) -> NoExcuse {
        let between = Span::new(before.span.from, after.span.until);
        if self.farm != before.farm || self.client.as_ref().is_some_and(|client| *client != before.client) {
            NoExcuse::AnotherClient
        } else if self.backend.as_ref().is_some_and(|backend| *backend != before.backend) {
            NoExcuse::AnotherBackend
        } else if self.span.until < between.from {
            NoExcuse::OverBefore
        } else if self.span.from > between.until {
            NoExcuse::CameLater
        } else {
            NoExcuse::Used
        }
    }
}

enum NoExcuse {
    AnotherClient,
    AnotherBackend,
    OverBefore,
    CameLater,
    Used,
}

/// A change that nothing excuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stray {
    /// The last answer from elsewhere before it, or under way together with it.
    pub before: Observation,
    /// The answer that cannot be explained.
    pub after: Observation,
    /// What is said of it, with the causes nearby and why they do not excuse it.
    pub text: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stickiness {
    /// Answers looked at.
    pub answers: usize,
    /// Clients of farms.
    pub clients: usize,
    /// Those of them that were found at more than one backend.
    pub moved: usize,
    /// The first stray answer of each client that has one.
    pub strays: Vec<Stray>,
    /// Clients for whom it could not be told, and why.
    pub undecided: Vec<String>,
}

impl Stickiness {
    /// What is to be ruled of it.
    pub fn judgement(&self) -> Judgement {
        let mut judgement = Judgement::new(Promise::Sticky).looked_at("answers", self.answers);
        judgement = judgement.count("clients", self.clients).count("moved", self.moved);
        self.strays.iter().for_each(|stray| judgement.violated(stray.text.as_str()));
        self.undecided.iter().for_each(|why| judgement.undecided(why.as_str()));
        judgement
    }
}

/// Holds answers against what may have changed bindings, which do not expire by themselves.
pub fn check_stickiness(observations: &[Observation], causes: &[Cause]) -> Stickiness {
    let mut clients: BTreeMap<(&str, &str), Vec<&Observation>> = BTreeMap::new();
    for observation in observations {
        clients.entry((&observation.farm, &observation.client)).or_default().push(observation);
    }
    let mut found = Stickiness { answers: observations.len(), clients: clients.len(), ..Stickiness::default() };
    for ((farm, client), seen) in clients {
        if seen.iter().all(|observation| observation.backend == seen[0].backend) {
            continue;
        }
        found.moved += 1;
        let concerns =
            |cause: &&Cause| cause.farm == farm && cause.client.as_deref().is_none_or(|whose| whose == client);
        let excuses: Vec<Cause> = causes.iter().filter(concerns).cloned().collect();
        let history = as_history(&seen, &excuses);
        match check(&Binding, &history, Limits::default()) {
            Verdict::Linearizable => {}
            Verdict::Undecided(why) => found.undecided.push(format!("farm {farm}, client {client}: {why}")),
            Verdict::Violation(violation) => {
                let after = history.operations()[violation.culprit].client.number() as usize;
                found.strays.push(stray(&seen, seen[after], causes));
            }
        }
    }
    found
}

/// The history of the register. An answer's client is its place among the answers.
fn as_history(seen: &[&Observation], causes: &[Cause]) -> History<Touch, ()> {
    let operation = |number: usize, span: Span, input| Operation {
        client: Client::new(u32::try_from(number).expect("observations fit into memory")),
        invoked: span.from,
        completed: span.until,
        key: String::new(),
        input,
        outcome: Outcome::Ok(()),
        note: String::new(),
    };
    let answers = seen
        .iter()
        .enumerate()
        .map(|(number, seen)| (number, seen.span, Touch::Answer(seen.backend.clone(), seen.bound)));
    let causes =
        (seen.len()..).zip(causes).map(|(number, cause)| (number, cause.span, Touch::Cause(cause.backend.clone())));
    History::new(answers.chain(causes).map(|(number, span, input)| operation(number, span, input)).collect())
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Touch {
    /// This backend answered, and whether that was through a binding.
    Answer(String, bool),
    /// The binding may have been undone, if it was to this backend.
    Cause(Option<String>),
}

/// The backend that is bound, if one is.
struct Binding;

impl Model for Binding {
    type State = Option<String>;
    type Input = Touch;
    type Output = ();

    fn initial(&self, _key: &str) -> Option<String> {
        None
    }

    fn step(&self, bound: &Option<String>, step: Step<'_, Touch, ()>, next: &mut Vec<Option<String>>) {
        match (step.input, bound) {
            (Touch::Answer(backend, true), None) => next.push(Some(backend.clone())),
            // What became of the attempt to bind it is unknown.
            (Touch::Answer(backend, false), None) => next.extend([None, Some(backend.clone())]),
            (Touch::Answer(backend, _), Some(bound)) => next.extend((backend == bound).then(|| Some(bound.clone()))),
            (Touch::Cause(left), Some(old)) if left.as_ref().is_none_or(|left| left == old) => {
                next.extend([bound.clone(), None]);
            }
            (Touch::Cause(_), _) => next.push(bound.clone()),
        }
    }

    /// An answer through a binding tells what is bound; where nothing is known to be, that narrows it.
    fn only_reads(&self, input: &Touch, _output: Option<&()>) -> bool {
        matches!(input, Touch::Answer(_, true))
    }
}

fn stray(seen: &[&Observation], after: &Observation, causes: &[Cause]) -> Stray {
    let elsewhere = seen.iter().filter(|other| other.backend != after.backend && other.span.from <= after.span.until);
    let before = elsewhere.max_by_key(|other| other.span.until).expect("what contradicts it came before it ended");
    let mut text = format!("{after},\nthough {before}");
    for cause in causes {
        let why = match cause.no_excuse(before, after) {
            NoExcuse::AnotherClient => continue,
            NoExcuse::AnotherBackend => "is of another backend",
            NoExcuse::OverBefore => "was over before",
            NoExcuse::CameLater => "came later",
            NoExcuse::Used => "excuses one change only",
        };
        let _ = write!(text, "\nand {:?} at {} {why}", cause.reason, cause.span);
    }
    Stray { before: (*before).clone(), after: after.clone(), text }
}

#[cfg(test)]
mod tests;
