//! Searches a setup in all its states and says what was seen.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::{
    model::LeaseModel,
    rule::Rule,
    setup::Setup,
    state::{Node, State},
    step::Step,
};

/// What a search found.
pub struct Outcome {
    /// States made, the same ones as often as they were reached.
    pub states: usize,
    /// Different states.
    pub unique: usize,
    /// Most steps on the way to a state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Each property and what was seen of it.
    pub sightings: Vec<Sighting>,
    /// Whether every reachable state was looked at.
    pub complete: bool,
}

/// What was seen of a property.
pub struct Sighting {
    /// The property.
    pub property: &'static str,
    /// It is one that must hold in every state, and a path is to where it does not.
    pub must_hold: bool,
    /// How to get to where it fails (or is true, if it need not always hold).
    pub path: Option<Vec<(State, Option<Step>)>>,
}

impl Outcome {
    /// How to get to where `property`, which should always hold, does not.
    pub fn violation(&self, property: &str) -> Option<&[(State, Option<Step>)]> {
        self.sightings.iter().find(|s| s.must_hold && s.property == property)?.path.as_deref()
    }

    /// Whether everything holds that must, and everything was seen that should be.
    pub fn good(&self) -> bool {
        self.complete && self.sightings.iter().all(|sighting| sighting.path.is_some() != sighting.must_hold)
    }
}

/// Looks at every state of `setup`; with a rule broken, until its danger is found.
pub fn search(setup: &Setup, broken: Option<Rule>, threads: usize) -> Outcome {
    let model = LeaseModel::new(setup.clone(), broken);
    let properties = model.properties();
    let musts = properties.iter().filter(|p| p.expectation == Expectation::Always).map(|p| p.name);
    let stop_at: BTreeSet<&'static str> = match broken.and_then(|rule| rule.danger().property()) {
        Some(property) => [property].into(),
        None => musts.collect(),
    };
    let began = Instant::now();
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::AnyOf(stop_at)).spawn_bfs().join();
    let took = began.elapsed();
    let mut found = checker.discoveries();
    let sightings: Vec<Sighting> = properties
        .iter()
        .map(|property| Sighting {
            property: property.name,
            must_hold: property.expectation == Expectation::Always,
            path: found.remove(property.name).map(Path::into_vec),
        })
        .collect();
    Outcome {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        took,
        // No bound on states, depth or time was set, so that it ends early only with a violation.
        complete: checker.is_done() && sightings.iter().all(|sighting| !sighting.must_hold || sighting.path.is_none()),
        sightings,
    }
}

/// Tells a path in plain words, one step a line.
pub fn tell(path: &[(State, Option<Step>)]) -> String {
    let mut time = 0;
    let mut story = String::new();
    for pair in path.windows(2) {
        let [(before, Some(step)), (after, _)] = pair else { continue };
        time += usize::from(*step == Step::Tick);
        let open =
            |(at, node): (usize, &Node)| (node.gate > 0).then(|| format!("node {} for {} ticks", at + 1, node.gate));
        let open: Vec<String> = after.nodes.iter().enumerate().filter_map(open).collect();
        let open = if open.is_empty() { "nobody".to_owned() } else { open.join(", ") };
        story.push_str(&format!("{time:>3}  {:<60} open at: {open}\n", step.say(before)));
    }
    story
}
