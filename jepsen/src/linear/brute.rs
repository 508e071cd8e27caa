//! The definition of linearizability, tried literally: every order of every choice of effects. For small histories.

use super::model::{Model, Step, Window};
use crate::history::{Operation, Outcome, RunTime};

/// Whether some order explains the operations, which are all of one key.
pub(super) fn linearizable<M: Model>(model: &M, operations: &[Operation<M::Input, M::Output>]) -> bool {
    let left: Vec<_> = operations.iter().filter(|operation| !matches!(operation.outcome, Outcome::Fail)).collect();
    extend(model, &model.initial("k"), &left, RunTime::START)
}

fn extend<M: Model>(model: &M, state: &M::State, left: &[&Operation<M::Input, M::Output>], floor: RunTime) -> bool {
    let is_known = |operation: &&&Operation<_, _>| matches!(operation.outcome, Outcome::Ok(_));
    let Some(until) = left.iter().filter(is_known).map(|operation| operation.completed).min() else { return true };
    (0..left.len()).filter(|chosen| left[*chosen].invoked <= until).any(|chosen| {
        let operation = left[chosen];
        let output = match &operation.outcome {
            Outcome::Ok(output) => Some(output),
            Outcome::Fail | Outcome::Unknown => None,
        };
        let from = floor.max(operation.invoked);
        let mut rest = left.to_vec();
        rest.remove(chosen);
        let mut next = Vec::new();
        model.step(state, Step { input: &operation.input, output, window: Window { from, until } }, &mut next);
        next.iter().any(|state| extend(model, state, &rest, from))
    })
}
