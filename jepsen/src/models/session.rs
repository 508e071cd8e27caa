//! One key of the session store that holds a string.

use std::time::Duration;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::life::{ClockSlack, End};
use crate::history::{History, Outcome};
use crate::linear::{Model, Step, Window};

/// Commands on one key, with the options that the workloads use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionInput {
    /// `GET`, answered by [`SessionOutput::Value`].
    Get,
    /// `SET`, with `PX` if it has a life; answered by [`SessionOutput::Done`]. A life there was ends with it.
    Set {
        /// The value.
        value: String,
        /// Milliseconds.
        px: Option<u64>,
    },
    /// `SETNX`, or `SET NX PX`; answered by [`SessionOutput::Flag`].
    SetNx {
        /// The value.
        value: String,
        /// Milliseconds.
        px: Option<u64>,
    },
    /// `DEL`; the flag says whether there was one.
    Del,
    /// `GETDEL`, answered by the value there was.
    GetDel,
    /// `INCR`, answered by [`SessionOutput::Number`] or, where the value is none, by [`SessionOutput::Refused`].
    Incr,
    /// `PEXPIRE`, and `EXPIRE` with its seconds as milliseconds; the flag says whether there was one. Zero ends it at once.
    Expire {
        /// Milliseconds.
        px: u64,
    },
    /// `PERSIST`; the flag says whether it had a life.
    Persist,
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionOutput {
    /// `OK`.
    Done,
    /// A string or nil.
    Value(Option<String>),
    /// One or zero.
    Flag(bool),
    /// A number.
    Number(i64),
    /// An error that says that the value is not such a number; nothing changed.
    Refused,
}

/// What is known of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// It is not there.
    Absent,
    /// It is there.
    Present {
        /// Its value.
        value: String,
        /// When it will vanish, if it has a life.
        end: Option<End>,
    },
}

/// A string register with lives.
#[derive(Clone, Copy, Debug)]
pub struct SessionModel {
    /// How log time, by which lives end, may differ from the clients' clock.
    pub clock_slack: ClockSlack,
}

use SessionState::{Absent, Present};

impl SessionModel {
    fn end(&self, window: Window, px: u64) -> End {
        End::of(window, Duration::from_millis(px), self.clock_slack)
    }

    fn new_value(&self, window: Window, value: &str, px: Option<u64>) -> SessionState {
        Present { value: value.to_owned(), end: px.map(|px| self.end(window, px)) }
    }

    /// What an operation does to a key that is there, or is not there, for certain: the answer and the state after it.
    fn act(&self, seen: SessionState, input: &SessionInput, window: Window) -> (SessionOutput, SessionState) {
        use SessionOutput::{Done, Flag, Number, Refused, Value};
        match (input, seen) {
            (SessionInput::Get, Absent) => (Value(None), Absent),
            (SessionInput::Get, Present { value, end }) => (Value(Some(value.clone())), Present { value, end }),
            (SessionInput::Set { value, px }, _) => (Done, self.new_value(window, value, *px)),
            (SessionInput::SetNx { value, px }, Absent) => (Flag(true), self.new_value(window, value, *px)),
            (SessionInput::SetNx { .. }, seen @ Present { .. }) => (Flag(false), seen),
            (SessionInput::Del, seen) => (Flag(seen != Absent), Absent),
            (SessionInput::GetDel, Absent) => (Value(None), Absent),
            (SessionInput::GetDel, Present { value, .. }) => (Value(Some(value)), Absent),
            (SessionInput::Incr, Absent) => (Number(1), Present { value: String::from("1"), end: None }),
            (SessionInput::Incr, Present { value, end }) => match number(&value).and_then(|old| old.checked_add(1)) {
                Some(new) => (Number(new), Present { value: new.to_string(), end }),
                None => (Refused, Present { value, end }),
            },
            (SessionInput::Expire { .. } | SessionInput::Persist, Absent) => (Flag(false), Absent),
            (SessionInput::Expire { px: 0 }, Present { .. }) => (Flag(true), Absent),
            (SessionInput::Expire { px }, Present { value, .. }) => {
                (Flag(true), Present { value, end: Some(self.end(window, *px)) })
            }
            (SessionInput::Persist, Present { value, end }) => (Flag(end.is_some()), Present { value, end: None }),
        }
    }
}

impl Model for SessionModel {
    type State = SessionState;
    type Input = SessionInput;
    type Output = SessionOutput;

    fn initial(&self, _key: &str) -> SessionState {
        Absent
    }

    fn step(&self, state: &SessionState, step: Step<'_, SessionInput, SessionOutput>, next: &mut Vec<SessionState>) {
        for seen in sights(state, step.window).into_iter().flatten() {
            let (output, after) = self.act(seen, step.input, step.window);
            if step.output.is_none_or(|answer| *answer == output) && !next.contains(&after) {
                next.push(after);
            }
        }
    }

    fn only_reads(&self, input: &SessionInput, output: Option<&SessionOutput>) -> bool {
        use SessionOutput::{Flag, Refused, Value};
        *input == SessionInput::Get || matches!(output, Some(Flag(false) | Refused | Value(None)))
    }

    fn overwrites(&self, input: &SessionInput, output: Option<&SessionOutput>) -> bool {
        match input {
            SessionInput::Set { .. } => output.is_none_or(|output| *output == SessionOutput::Done),
            SessionInput::Del | SessionInput::GetDel => output.is_none(),
            _ => false,
        }
    }
}

/// The same history with one word for all values of a key that nobody has read, which nothing can tell apart. It is judged
/// as the original is, sooner where many writes are of unknown outcome or under way together.
pub fn unread_alike(history: &History<SessionInput, SessionOutput>) -> History<SessionInput, SessionOutput> {
    const UNREAD: &str = "(never read)";
    let mut read: HashSet<(&str, &str)> = HashSet::new();
    for operation in history.operations() {
        if let Outcome::Ok(SessionOutput::Value(Some(value))) = &operation.outcome {
            read.insert((&operation.key, value));
        }
    }
    let mut operations = history.operations().to_vec();
    for operation in &mut operations {
        if let SessionInput::Set { value, .. } | SessionInput::SetNx { value, .. } = &mut operation.input
            && number(value).is_none()
            && !read.contains(&(operation.key.as_str(), value.as_str()))
        {
            UNREAD.clone_into(value);
        }
    }
    History::new(operations)
}

/// What an operation can find: the key as it is, or, near the end of its life, either that or nothing.
fn sights(state: &SessionState, window: Window) -> [Option<SessionState>; 2] {
    match state {
        Present { value, end: Some(end) } => {
            let alive = end.if_alive(window).map(|end| Present { value: value.clone(), end: Some(end) });
            [alive, end.may_be_gone(window).then_some(Absent)]
        }
        certain => [Some(certain.clone()), None],
    }
}

/// As Redis reads numbers: no sign but minus, no zeros in front.
fn number(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}
