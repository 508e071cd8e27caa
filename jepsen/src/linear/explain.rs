//! What is told of a search that found no explanation.

use std::fmt::{Debug, Write};

use super::events::Events;
use super::model::Model;
use super::search::Search;
use super::{Undecided, Violation};
use crate::history::{Operation, Outcome};

/// Operations shown, so that the text can be read; the window names them all.
const LINES_MAX: usize = 40;

pub(super) fn violation<M: Model>(
    key: &str,
    events: &Events<'_, M::Input, M::Output>,
    search: &Search<'_, M>,
) -> Violation {
    let last = &events.events[search.reached];
    let first = (0..=search.reached).rfind(|at| events.events[*at].quiet_before).unwrap_or(0);
    let since = first.checked_sub(1).map(|before| &events.events[before]);
    let mut window: Vec<usize> =
        events.events[first..=search.reached].iter().map(|event| event.ends.operation).collect();
    window.extend(last.others.iter().map(|other| other.operation));
    let older = since.map_or(0, |before| before.unknown);
    window.extend(events.unknown[older..last.unknown].iter().map(|unknown| unknown.operation));
    window.sort_unstable();
    let before = told(search.states_at(first));
    let possible = told(search.states_before_reached());
    let culprit = last.ends.operation;

    let mut text = String::new();
    let count = search.reached;
    let _ = writeln!(text, "key {key:?} is not linearizable: no order of its operations explains this answer,");
    let _ = writeln!(text, "  {}", line(culprit, events.operation(culprit)));
    let _ =
        writeln!(text, "though one explains the {count} completed before. When it completed, the state can have been");
    possible.iter().for_each(|state| {
        let _ = writeln!(text, "  {state}");
    });
    let _ = writeln!(text, "Since the last moment in which nothing was under way, when the state can have been");
    before.iter().for_each(|state| {
        let _ = writeln!(text, "  {state}");
    });
    let _ = writeln!(text, "there were");
    let left_out = window.len().saturating_sub(LINES_MAX);
    if left_out > 0 {
        let _ = writeln!(text, "  {left_out} more, and");
    }
    for index in &window[left_out..] {
        let _ = writeln!(text, "  {}", line(*index, events.operation(*index)));
    }
    if older > 0 {
        let _ = writeln!(text, "and {older} of unknown outcome from before, which may take effect at any time.");
    }
    Violation { key: key.to_owned(), culprit, window, before, possible, text }
}

pub(super) fn undecided<M: Model>(
    key: &str,
    events: &Events<'_, M::Input, M::Output>,
    search: &Search<'_, M>,
) -> Undecided {
    let of = events.events.len();
    let hardest = &events.events[search.reached.min(of - 1)];
    Undecided {
        key: key.to_owned(),
        explained: search.reached,
        of,
        stuck_at: hardest.ends.operation,
        under_way: hardest.others.len() + 1,
        unknown: hardest.unknown,
    }
}

fn told<'s, S: Debug + 's>(states: impl Iterator<Item = &'s S>) -> Vec<String> {
    states.map(|state| format!("{state:?}")).collect()
}

fn line<I: Debug, O: Debug>(index: usize, operation: &Operation<I, O>) -> String {
    let Operation { client, invoked, completed, input, outcome, .. } = operation;
    let outcome = match outcome {
        Outcome::Ok(output) => format!("{output:?}"),
        Outcome::Fail => String::from("failed"),
        Outcome::Unknown => String::from("unknown"),
    };
    format!("#{index} {invoked} .. {completed} {client}: {input:?} -> {outcome}")
}
