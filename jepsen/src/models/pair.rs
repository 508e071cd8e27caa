//! Two accounts of the session store: what one loses the other gains.

use serde::{Deserialize, Serialize};

use crate::linear::{Model, Step};

/// What is in the one account and in the other.
pub type PairState = (i64, i64);

/// Transactions on both accounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairInput {
    /// `MULTI`, `GET` of each, `EXEC`.
    Read,
    /// `MULTI`, `INCRBY` of the one, `DECRBY` of the other, `EXEC`.
    Move {
        /// What the one gains.
        by: i64,
    },
    /// The same by `WATCH` of both, `GET` of each, and `MULTI`, `SET` of each, `EXEC`: done only if nobody changed them meanwhile.
    MoveIf {
        /// What was read.
        seen: PairState,
        /// What the one gains.
        by: i64,
    },
}

impl PairInput {
    /// What it leaves of a pair that is so; `None` if it is not done then.
    pub fn after(&self, (one, other): PairState) -> Option<PairState> {
        match self {
            Self::Read => Some((one, other)),
            Self::MoveIf { seen, .. } if *seen != (one, other) => None,
            Self::Move { by } | Self::MoveIf { by, .. } => Some((one.saturating_add(*by), other.saturating_sub(*by))),
        }
    }
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairOutput {
    /// What is in both accounts then.
    Both(i64, i64),
    /// Something that is no answer to it.
    Other(String),
}

/// Two accounts with nothing in them to begin with.
#[derive(Clone, Copy, Debug)]
pub struct PairModel;

impl Model for PairModel {
    type State = PairState;
    type Input = PairInput;
    type Output = PairOutput;

    fn initial(&self, _key: &str) -> PairState {
        (0, 0)
    }

    fn step(&self, state: &PairState, step: Step<'_, PairInput, PairOutput>, next: &mut Vec<PairState>) {
        let fits = |after: &PairState| step.output.is_none_or(|answer| *answer == PairOutput::Both(after.0, after.1));
        next.extend(step.input.after(*state).filter(fits));
    }

    fn only_reads(&self, input: &PairInput, _output: Option<&PairOutput>) -> bool {
        *input == PairInput::Read
    }
}
