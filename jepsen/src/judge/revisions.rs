//! Whether the document changed, and which revision of it nodes serve, by what they say.
//!
//! What `history` tells comes from the log. A node whose log is whole and whose plan is an old one for ever would tell the newest
//! revision, and serve another.

use std::time::Duration;

use ballast_jepsen::{
    history::{History, Outcome},
    models::{ConfigInput, ConfigOutput},
    time::{RunTime, Span},
    verdict::Judgement,
};

use super::{BACK_WITHIN, name, seen_until};
use crate::{nemesis::Calm, run::Run, watch::Sample};

/// How long before a calm's tail a change must have been told for each node to serve it there.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// Operators changed the document, to the end: reads of one that stays as it is show nothing. They try to some three times
/// a second, and did so seven times at least in each calm of six seconds that was counted.
pub(super) fn changed(judgement: Judgement, changes: &History<ConfigInput, ConfigOutput>, end: RunTime) -> Judgement {
    let made = changes.operations().iter().filter(|change| {
        // What was there to begin with is written down as well, and no change.
        let is_change = matches!(change.input, ConfigInput::Cas { .. });
        is_change && matches!(change.outcome, Outcome::Ok(ConfigOutput::Written { .. }))
    });
    let made: Vec<RunTime> = made.map(|change| change.completed).collect();
    let judgement = judgement.looked_at("changes made", made.len());
    seen_until(end, judgement, "change", made.into_iter().max())
}

/// Once a calm has lasted for as long as service may take to come back, each node serves the newest revision.
pub(super) fn served(run: &Run, judgement: Judgement) -> Judgement {
    rule(judgement, behind(&run.faults.calms, &run.samples, &written(&run.config)))
}

fn rule(mut judgement: Judgement, (looked, wrong): (usize, Vec<String>)) -> Judgement {
    wrong.into_iter().for_each(|wrong| judgement.violated(wrong));
    judgement.looked_at("revisions that nodes said they serve", looked)
}

/// When which revision was told to be in force.
fn written(changes: &History<ConfigInput, ConfigOutput>) -> Vec<(RunTime, u64)> {
    let written = changes.operations().iter().filter_map(|change| match change.outcome {
        Outcome::Ok(ConfigOutput::Written { version }) => Some((change.completed, version)),
        _ => None,
    });
    written.collect()
}

/// How often nodes said it in the ends of calms, and when one of them served an older revision than was in force before.
fn behind(calms: &[Calm], samples: &[Sample], written: &[(RunTime, u64)]) -> (usize, Vec<String>) {
    let (mut looked, mut wrong) = (0, Vec::new());
    for calm in calms {
        let tail_from = calm.from.after(BACK_WITHIN);
        if tail_from >= calm.until {
            continue;
        }
        let tail = Span::new(tail_from, calm.until);
        let before = written.iter().filter(|(at, _)| at.after(SEEN_WITHIN) <= tail.from);
        let Some(newest) = before.map(|(_, revision)| *revision).max() else { continue };
        let counts = |sample: &&Sample| tail.contains(sample.at) && !calm.without.contains(&sample.node);
        for Sample { at, node, revision, .. } in samples.iter().filter(counts) {
            looked += 1;
            if *revision < newest {
                wrong.push(format!(
                    "{} said at {at} that it serves revision {revision}; {newest} had been in force since before {}",
                    name(*node),
                    tail.from
                ));
            }
        }
    }
    (looked, wrong)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ballast_jepsen::{
        history::{Client, Operation},
        verdict::{Promise, Ruling},
    };

    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    /// Of node-1, in a calm from 10 s to 16 s: what it said when, and what had been told when.
    fn found(said: &[(u64, u64)], written: &[(u64, u64)], without: &[usize]) -> (usize, usize) {
        let calm = Calm { from: at(10_000), until: at(16_000), without: BTreeSet::from_iter(without.iter().copied()) };
        let sample =
            |(millis, revision): &(u64, u64)| Sample { at: at(*millis), revision: *revision, ..Sample::default() };
        let samples: Vec<Sample> = said.iter().map(sample).collect();
        let written: Vec<_> = written.iter().map(|(millis, revision)| (at(*millis), *revision)).collect();
        let (looked, wrong) = behind(&[calm], &samples, &written);
        (looked, wrong.len())
    }

    #[test]
    fn a_node_that_serves_an_old_revision_in_calm_is_found() {
        let written = [(9000, 6), (13_000, 7), (15_500, 8)];
        assert_eq!(found(&[(15_200, 6), (15_900, 6)], &written, &[]), (2, 2));
        assert_eq!(found(&[(15_200, 6), (15_900, 7)], &written, &[]), (2, 1), "not from the beginning on");
        assert_eq!(found(&[(15_200, 7), (15_900, 6)], &written, &[]), (2, 1), "not to the end");
        assert_eq!(found(&[(15_200, 7), (15_900, 8)], &written, &[]), (2, 0));
    }

    #[test]
    fn only_the_tail_of_a_calm_and_those_that_are_to_be_well_count() {
        let written = [(9000, 7)];
        assert_eq!(found(&[(14_000, 6), (17_000, 6)], &written, &[]), (0, 0));
        assert_eq!(found(&[(15_500, 6)], &written, &[0]), (0, 0));
        assert_eq!(found(&[(15_500, 6)], &[(15_400, 7)], &[]), (0, 0));
    }

    #[test]
    fn a_document_that_nobody_changed_is_not_held() {
        let ruled = |ends: &[(u64, ConfigInput, Outcome<ConfigOutput>)]| {
            let operation = |(millis, input, outcome): &(u64, ConfigInput, Outcome<ConfigOutput>)| Operation {
                client: Client::new(0),
                invoked: at(*millis),
                completed: at(*millis + 10),
                key: String::from("document"),
                input: input.clone(),
                outcome: outcome.clone(),
                note: String::new(),
            };
            let history = History::new(ends.iter().map(operation).collect());
            changed(Judgement::new(Promise::Configuration), &history, at(60_000)).ruling
        };
        let first = ConfigInput::Write { value: String::new() };
        let cas = || ConfigInput::Cas { expected: 1, value: String::from("0-1") };
        let written = |version| Outcome::Ok(ConfigOutput::Written { version });
        let found = || Outcome::Ok(ConfigOutput::Found { version: 1, value: String::new() });
        let unchanged = [
            (0, first, written(1)),
            (50_000, ConfigInput::Read, found()),
            (51_000, cas(), Outcome::Unknown),
            (52_000, cas(), Outcome::Ok(ConfigOutput::Conflict)),
            (59_000, ConfigInput::Read, found()),
        ];
        assert_eq!(ruled(&unchanged), Ruling::Undecided);
        assert_eq!(ruled(&[(55_000, cas(), written(2))]), Ruling::Held);
        // Not in the last quarter of a minute.
        assert_eq!(ruled(&[(40_000, cas(), written(2)), (59_000, ConfigInput::Read, found())]), Ruling::Undecided);
    }

    #[test]
    fn where_no_node_was_looked_at_nothing_is_held() {
        let ruled = |found| rule(Judgement::new(Promise::Configuration), found).ruling;
        let wrong = vec![String::from("an old one")];
        let rulings = [ruled((1, vec![])), ruled((0, vec![])), ruled((1, wrong))];
        assert_eq!(rulings, [Ruling::Held, Ruling::Undecided, Ruling::Violated]);
    }
}
