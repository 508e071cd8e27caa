//! The definition of linearizability, tried literally: every order of every choice of effects. For small histories.

use super::model::{Model, Step, Window};
use crate::history::{Operation, Outcome, RunTime};

/// An operation, and until when it takes effect.
type Left<'a, I, O> = (&'a Operation<I, O>, RunTime);

/// Whether some order explains the operations, which are all of one key. `lapse` is until when one of unknown outcome may take
/// effect.
pub(super) fn linearizable<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    lapse: impl Fn(&Operation<M::Input, M::Output>) -> RunTime,
) -> bool {
    let left: Vec<Left<'_, M::Input, M::Output>> = operations
        .iter()
        .filter_map(|operation| match operation.outcome {
            Outcome::Ok(_) => Some((operation, operation.completed)),
            Outcome::Unknown => Some((operation, lapse(operation).max(operation.invoked))),
            Outcome::Fail => None,
        })
        .collect();
    extend(model, &model.initial("k"), &left, RunTime::START)
}

fn extend<M: Model>(model: &M, state: &M::State, left: &[Left<'_, M::Input, M::Output>], floor: RunTime) -> bool {
    let is_known = |(operation, _): &Left<'_, _, _>| matches!(operation.outcome, Outcome::Ok(_));
    let until = left.iter().map(|(_, until)| *until).min();
    let Some(until) = until.filter(|_| left.iter().any(is_known)) else { return true };
    let without = |chosen: usize| {
        let mut rest = left.to_vec();
        rest.remove(chosen);
        rest
    };
    let takes_effect = |chosen: usize| {
        let (operation, _) = left[chosen];
        let output = match &operation.outcome {
            Outcome::Ok(output) => Some(output),
            Outcome::Fail | Outcome::Unknown => None,
        };
        let from = floor.max(operation.invoked);
        let mut next = Vec::new();
        model.step(state, Step { input: &operation.input, output, window: Window { from, until } }, &mut next);
        next.iter().any(|state| extend(model, state, &without(chosen), from))
    };
    // What lapses first may as well never take effect.
    let lapses = |chosen: usize| {
        left[chosen].1 == until && !is_known(&left[chosen]) && extend(model, state, &without(chosen), floor)
    };
    (0..left.len()).any(|chosen| left[chosen].0.invoked <= until && takes_effect(chosen) || lapses(chosen))
}
