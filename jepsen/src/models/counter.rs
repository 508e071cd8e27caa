//! A counter that is added to.

use serde::{Deserialize, Serialize};

use crate::linear::{Model, Step};

/// What is asked of a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CounterInput {
    /// What is its value?
    Read,
    /// Adds so much.
    Add(i64),
}

/// What a counter answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CounterOutput {
    /// The value, after adding.
    Value(i64),
    /// It was added, to what is not said.
    Done,
}

/// A counter that begins at zero and, going over, wraps.
#[derive(Clone, Copy, Debug, Default)]
pub struct CounterModel;

impl Model for CounterModel {
    type State = i64;
    type Input = CounterInput;
    type Output = CounterOutput;

    fn initial(&self, _key: &str) -> i64 {
        0
    }

    fn step(&self, state: &i64, step: Step<'_, CounterInput, CounterOutput>, next: &mut Vec<i64>) {
        let (after, may_be_silent) = match step.input {
            CounterInput::Read => (*state, false),
            CounterInput::Add(more) => (state.wrapping_add(*more), true),
        };
        let fits = match step.output {
            None => true,
            Some(CounterOutput::Value(value)) => *value == after,
            Some(CounterOutput::Done) => may_be_silent,
        };
        next.extend(fits.then_some(after));
    }

    fn only_reads(&self, input: &CounterInput, _output: Option<&CounterOutput>) -> bool {
        matches!(input, CounterInput::Read | CounterInput::Add(0))
    }
}
