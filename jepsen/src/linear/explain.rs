//! What is told of a search that found no explanation.

use std::fmt::{Debug, Write};

use super::events::{Event, Events};
use super::model::Model;
use super::search::Search;
use super::{Undecided, Violation};
use crate::history::{Operation, Outcome};

/// Operations shown, so that the text can be read; the window names them all.
const LINES_MAX: usize = 40;

/// `too_late` is whether there would be an explanation if nothing lapsed.
pub(super) fn violation<M: Model>(
    key: &str,
    events: &Events<'_, M::Input, M::Output>,
    search: &Search<'_, M>,
    too_late: bool,
) -> Violation {
    let last = &events.events[search.reached];
    let first = (0..=search.reached).rfind(|at| events.events[*at].quiet_before).unwrap_or(0);
    let since = first.checked_sub(1).map(|before| &events.events[before]);
    let completed = |events: &[Event]| -> Vec<usize> {
        events.iter().filter_map(|event| Some(event.completes()?.operation)).collect()
    };
    let mut window = completed(&events.events[first..=search.reached]);
    window.extend(last.others.iter().map(|other| other.operation));
    let older = since.map_or(0, |before| before.unknown);
    window.extend(events.unknown[older..last.unknown].iter().map(|unknown| unknown.operation));
    window.sort_unstable();
    let before = told(search.states_at(first));
    let possible = told(search.states_before_reached());
    let culprit = last.completes().expect("a lapse is nothing to explain").operation;

    let mut text = String::new();
    let count = completed(&events.events[..search.reached]).len();
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
    let older = events.unknown[..older].iter().filter(|unknown| !unknown.has_lapsed(first)).count();
    if older > 0 {
        let _ = writeln!(text, "and {older} of unknown outcome from before, which may still take effect.");
    }
    if too_late {
        let _ = writeln!(text, "There would be an order if what had lapsed could still take effect:");
        let lapsed = events.unknown[..last.unknown].iter().filter(|unknown| unknown.has_lapsed(search.reached));
        for unknown in lapsed.take(LINES_MAX) {
            let (operation, lapse) = (unknown.operation, unknown.lapse);
            let _ = writeln!(text, "  {}, lapsed at {lapse}", line(operation, events.operation(operation)));
        }
    }
    Violation { key: key.to_owned(), culprit, window, before, possible, text }
}

pub(super) fn undecided<M: Model>(
    key: &str,
    events: &Events<'_, M::Input, M::Output>,
    search: &Search<'_, M>,
) -> Undecided {
    let completions = |events: &[Event]| events.iter().filter(|event| event.completes().is_some()).count();
    let hardest = &events.events[search.reached.min(events.events.len() - 1)];
    Undecided {
        key: key.to_owned(),
        explained: completions(&events.events[..search.reached]),
        of: completions(&events.events),
        stuck_at: events.ends(hardest),
        under_way: hardest.others.len() + usize::from(hardest.completes().is_some()),
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
