//! What an object does, for the search.

use std::fmt::Debug;
use std::hash::Hash;

use crate::history::RunTime;

/// A sequential object. It may be nondeterministic: one step may lead to several states.
pub trait Model {
    /// What it remembers. Equal states must behave alike ever after.
    type State: Clone + Eq + Hash + Debug;
    /// What can be asked.
    type Input: Eq + Hash + Debug;
    /// What can be answered.
    type Output: Debug;

    /// The state of this key before the first operation.
    fn initial(&self, key: &str) -> Self::State;

    /// Adds to `next` each state that the step can lead to; none if it cannot have happened in this state.
    fn step(&self, state: &Self::State, step: Step<'_, Self::Input, Self::Output>, next: &mut Vec<Self::State>);

    /// Whether an operation changes nothing in any state in which it is possible, so that it only tells what the state is.
    /// Without an output: whatever its output. A state may become *narrower* by it, to what fits the answer.
    fn only_reads(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool;

    /// Whether an operation is possible in every state and leaves nothing of it, so that it hides what came just before.
    /// To say no is always right and may be slow.
    fn overwrites(&self, _input: &Self::Input, _output: Option<&Self::Output>) -> bool {
        false
    }
}

/// One operation takes effect.
#[derive(Debug)]
pub struct Step<'a, I, O> {
    /// What was asked.
    pub input: &'a I,
    /// What was answered; `None` if nobody knows.
    pub output: Option<&'a O>,
    /// When it took effect.
    pub window: Window,
}

impl<I, O> Clone for Step<'_, I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, O> Copy for Step<'_, I, O> {}

/// The instants at which an operation can have taken effect: those between its own invocation and completion that are
/// neither before what certainly came earlier began, nor after what certainly came later had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The earliest.
    pub from: RunTime,
    /// The latest.
    pub until: RunTime,
}
