//! A lock in the session store: `SET key token NX PX life`, and scripts that compare the token.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::life::{ClockSlack, End};
use crate::linear::{Model, Step};

/// What is asked of a lock. Each is answered by whether it was done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockInput {
    /// Takes it if nobody has it.
    Acquire {
        /// Who asks; no two holders use the same.
        token: String,
        /// Milliseconds for which it is held, for ever if absent.
        px: Option<u64>,
    },
    /// Gives it back if this token has it.
    Release {
        /// Who asks.
        token: String,
    },
    /// Holds it for so long from now on if this token has it.
    Extend {
        /// Who asks.
        token: String,
        /// Milliseconds.
        px: u64,
    },
}

/// Who has a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LockState {
    /// Nobody.
    Free,
    /// One holder.
    Held {
        /// Its token.
        token: String,
        /// When it loses the lock by itself.
        end: Option<End>,
    },
}

/// A lock that at most one token has at a time.
#[derive(Clone, Copy, Debug)]
pub struct LockModel {
    /// How log time, by which locks end, may differ from the clients' clock.
    pub clock_slack: ClockSlack,
}

impl Model for LockModel {
    type State = LockState;
    type Input = LockInput;
    type Output = bool;

    fn initial(&self, _key: &str) -> LockState {
        LockState::Free
    }

    fn step(&self, state: &LockState, step: Step<'_, LockInput, bool>, next: &mut Vec<LockState>) {
        let life = |px: u64| End::of(step.window, Duration::from_millis(px), self.clock_slack);
        let mut find = |found: LockState| {
            let (done, after) = match (step.input, &found) {
                (LockInput::Acquire { token, px }, LockState::Free) => {
                    (true, LockState::Held { token: token.clone(), end: px.map(life) })
                }
                (LockInput::Release { token }, LockState::Held { token: holder, .. }) if token == holder => {
                    (true, LockState::Free)
                }
                (LockInput::Extend { token, px }, LockState::Held { token: holder, .. }) if token == holder => {
                    (true, LockState::Held { token: token.clone(), end: Some(life(*px)) })
                }
                (LockInput::Acquire { .. } | LockInput::Release { .. } | LockInput::Extend { .. }, _) => (false, found),
            };
            if step.output.is_none_or(|answer| *answer == done) && !next.contains(&after) {
                next.push(after);
            }
        };
        match state {
            LockState::Held { token, end: Some(end) } => {
                if let Some(end) = end.if_alive(step.window) {
                    find(LockState::Held { token: token.clone(), end: Some(end) });
                }
                if end.may_be_gone(step.window) {
                    find(LockState::Free);
                }
            }
            certain => find(certain.clone()),
        }
    }

    fn only_reads(&self, _input: &LockInput, output: Option<&bool>) -> bool {
        output == Some(&false)
    }
}
