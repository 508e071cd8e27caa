//! The search for an explanation.

use std::collections::VecDeque;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Limits;
use super::bits::Bits;
use super::events::{Ends, Event, Events};
use super::model::Model;

/// States that are remembered for explanations, for each event.
const STATES_TOLD: usize = 6;

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Explained,
    Exhausted,
    GaveUp,
}

/// What has taken effect before an event, and what came of it.
///
/// When something overwrites, whatever else overwrites and was under way may have taken effect just before, unseen. Which of
/// them did is left open, so that one configuration stands for all the choices.
#[derive(Clone)]
struct Configuration {
    event: usize,
    state: u32,
    effects: Effects,
    /// Whether what took effect last was for nothing if the next effect hides it: another configuration stands for that.
    vain: bool,
}

#[derive(Clone, Default)]
struct Effects {
    /// The slots of what has taken effect and not completed.
    done: Bits,
    /// Those, and of what may have done so unseen.
    may: Bits,
    /// The unknown operations that have taken effect, without those that have lapsed.
    used: Bits,
}

impl Effects {
    /// Whether whatever follows from `other` with the same state follows from these too.
    fn dominate(&self, other: &Self) -> bool {
        self.done.is_subset(&other.done) && other.may.is_subset(&self.may) && self.used.is_subset(&other.used)
    }

    fn insert(&mut self, slot: u32) {
        self.done.insert(slot);
        self.may.insert(slot);
    }

    /// Whether what ends has taken effect.
    fn have(&self, ends: Ends) -> bool {
        match ends {
            Ends::Completes(done) => self.done.contains(done.slot),
            Ends::Lapses(number) => self.used.contains(number),
        }
    }
}

/// The configurations that can follow one, in the order in which they are tried.
enum Ways {
    /// None was asked for.
    Untried,
    /// One was tried, the others are not worked out yet.
    One,
    /// The others, the next one last.
    Rest(Vec<Configuration>),
}

/// Effects that were seen with each state, none of which dominates another.
type Seen<Key> = HashMap<Key, SmallVec<[Effects; 1]>>;

pub(super) struct Search<'a, M: Model> {
    model: &'a M,
    events: &'a Events<'a, M::Input, M::Output>,
    limits: Limits,
    states: Vec<M::State>,
    numbers: HashMap<M::State, u32>,
    seen: Seen<(usize, u32)>,
    kept: usize,
    steps: u64,
    next: Vec<M::State>,
    /// Some of the states in which the key can be when an event is begun to be looked at.
    at_event: Vec<SmallVec<[u32; STATES_TOLD]>>,
    /// The latest event that could be reached, and some states in which the key can be just before it.
    pub(super) reached: usize,
    before_reached: SmallVec<[u32; STATES_TOLD]>,
}

impl<'a, M: Model> Search<'a, M> {
    pub(super) fn new(model: &'a M, events: &'a Events<'a, M::Input, M::Output>, key: &str, limits: Limits) -> Self {
        let mut this = Self {
            model,
            events,
            limits,
            states: Vec::new(),
            numbers: HashMap::new(),
            seen: HashMap::new(),
            kept: 0,
            steps: 0,
            next: Vec::new(),
            at_event: vec![SmallVec::new(); events.events.len() + 1],
            reached: 0,
            before_reached: SmallVec::new(),
        };
        this.number(model.initial(key));
        this
    }

    pub(super) fn run(&mut self) -> End {
        let mut first = Configuration { event: 0, state: 0, effects: Effects::default(), vain: false };
        self.read_all(&mut first);
        self.deserves_a_look(&first);
        let mut stack = vec![(first, Ways::Untried)];
        while let Some((from, ways)) = stack.last_mut() {
            if from.event == self.events.events.len() {
                return End::Explained;
            }
            if self.is_at_a_limit() {
                return End::GaveUp;
            }
            let way = match ways {
                Ways::Untried => {
                    *ways = Ways::One;
                    self.follow(from, true).into_iter().next()
                }
                Ways::One => {
                    let mut rest = self.follow(from, false);
                    rest.reverse();
                    self.kept += rest.len();
                    let way = rest.pop();
                    *ways = Ways::Rest(rest);
                    way
                }
                Ways::Rest(rest) => {
                    self.kept = self.kept.saturating_sub(1);
                    rest.pop()
                }
            };
            match way {
                Some(way) if self.deserves_a_look(&way) => stack.push((way, Ways::Untried)),
                Some(_) => {}
                None => drop(stack.pop()),
            }
        }
        // What was cut short may have been the last that there was to try.
        if self.is_at_a_limit() { End::GaveUp } else { End::Exhausted }
    }

    fn is_at_a_limit(&self) -> bool {
        self.kept > self.limits.configurations_max || self.steps > self.limits.steps_max
    }

    /// States in which the key can be when this event is begun to be looked at.
    pub(super) fn states_at(&self, event: usize) -> impl Iterator<Item = &M::State> {
        self.at_event[event].iter().map(|state| &self.states[*state as usize])
    }

    /// States in which the key can be just before the latest event that could be reached.
    pub(super) fn states_before_reached(&self) -> impl Iterator<Item = &M::State> {
        self.before_reached.iter().map(|state| &self.states[*state as usize])
    }

    /// The configurations after the next event that can come of this one, fewest effects first; or only the first.
    fn follow(&mut self, from: &Configuration, only_first: bool) -> Vec<Configuration> {
        let events = self.events;
        let event = &events.events[from.event];
        let mut found = Vec::new();
        let passes = match event.ends {
            Ends::Completes(done) => from.effects.may.contains(done.slot),
            // It has taken effect, or never does.
            Ends::Lapses(_) => true,
        };
        if passes {
            found.push(self.pass(from, event));
            if only_first || from.effects.have(event.ends) {
                return found;
            }
        }
        let mut seen = Seen::new();
        let mut queue = VecDeque::from([from.clone()]);
        while let Some(at) = queue.pop_front() {
            self.note(&at);
            if let Ends::Completes(done) = event.ends {
                for state in self.step(event, at.state, done.operation) {
                    let child = Self::effect(event, &at, state, done.slot, done.overwrites);
                    found.push(self.pass(&child, event));
                }
            }
            if (only_first && !found.is_empty()) || self.steps > self.limits.steps_max {
                break;
            }
            for child in self.effects(event, &at) {
                if child.effects.have(event.ends) {
                    found.push(self.pass(&child, event));
                } else if self.is_new(&mut seen, child.state, &child.effects) {
                    queue.push_back(child);
                }
            }
            if self.kept + queue.len() + found.len() > self.limits.configurations_max {
                self.kept += queue.len() + found.len();
                break;
            }
        }
        found
    }

    /// What can come of one more operation that takes effect before this event without being one that completes with it.
    fn effects(&mut self, event: &Event, at: &Configuration) -> SmallVec<[Configuration; 8]> {
        let mut children = SmallVec::new();
        for other in event.others.iter().filter(|other| !at.effects.done.contains(other.slot)) {
            if at.vain && other.overwrites {
                continue;
            }
            for state in self.step(event, at.state, other.operation) {
                children.push(Self::effect(event, at, state, other.slot, other.overwrites));
            }
        }
        let events = self.events;
        for (number, unknown) in (0..).zip(&events.unknown[..event.unknown]) {
            let used = &at.effects.used;
            let is_gone = |one: u32| used.contains(one) || events.unknown[one as usize].has_lapsed(at.event);
            let in_turn = !is_gone(number) && unknown.twin.is_none_or(is_gone);
            if !in_turn || (at.vain && unknown.overwrites) {
                continue;
            }
            for state in self.step(event, at.state, unknown.operation) {
                if state != at.state || unknown.overwrites {
                    let mut child = Configuration { state, vain: true, ..at.clone() };
                    child.effects.used.insert(number);
                    if unknown.overwrites {
                        child.effects.may.insert_all(&event.overwriting);
                    }
                    children.push(child);
                }
            }
        }
        children.iter_mut().for_each(|child| self.read_all(child));
        children
    }

    fn effect(event: &Event, at: &Configuration, state: u32, slot: u32, overwrites: bool) -> Configuration {
        let mut child = Configuration { state, vain: overwrites, ..at.clone() };
        child.effects.insert(slot);
        if overwrites {
            child.effects.may.insert_all(&event.overwriting);
        }
        child
    }

    /// The event passes.
    fn pass(&mut self, at: &Configuration, event: &Event) -> Configuration {
        let mut after = Configuration { event: at.event + 1, vain: false, ..at.clone() };
        match event.ends {
            Ends::Completes(done) => {
                after.effects.done.remove(done.slot);
                after.effects.may.remove(done.slot);
            }
            // From here on it is the same whether it did.
            Ends::Lapses(number) => after.effects.used.remove(number),
        }
        self.read_all(&mut after);
        after
    }

    /// Lets everything take effect that only reads and fits: nothing that can follow becomes impossible by it.
    fn read_all(&mut self, at: &mut Configuration) {
        let events = self.events;
        let Some(event) = events.events.get(at.event) else { return };
        for read in event.completes().into_iter().chain(&event.others).filter(|other| other.only_reads) {
            if !at.effects.done.contains(read.slot) && *self.step(event, at.state, read.operation) == [at.state] {
                at.effects.insert(read.slot);
                at.vain = false;
            }
        }
    }

    /// The states to which an operation leads that takes effect before this event.
    fn step(&mut self, event: &Event, state: u32, operation: usize) -> SmallVec<[u32; 2]> {
        self.steps += 1;
        let mut next = std::mem::take(&mut self.next);
        self.model.step(&self.states[state as usize], self.events.step(event, operation), &mut next);
        let numbers = next.drain(..).map(|state| self.number(state)).collect();
        self.next = next;
        numbers
    }

    fn number(&mut self, state: M::State) -> u32 {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let number = u32::try_from(self.states.len()).expect("the limit is lower");
        self.states.push(state.clone());
        self.numbers.insert(state, number);
        number
    }

    /// Whether a configuration deserves a look: nothing that was looked at dominates it.
    fn deserves_a_look(&mut self, at: &Configuration) -> bool {
        let mut seen = std::mem::take(&mut self.seen);
        let new = self.is_new(&mut seen, (at.event, at.state), &at.effects);
        self.seen = seen;
        if new {
            self.kept += 1;
            tell(&mut self.at_event[at.event], at.state);
            if at.event > self.reached {
                self.reached = at.event;
                self.before_reached.clear();
            }
        }
        new
    }

    fn is_new<Key: Eq + std::hash::Hash>(&mut self, seen: &mut Seen<Key>, key: Key, effects: &Effects) -> bool {
        let known = seen.entry(key).or_default();
        // Comparing is work too, when much of it is done.
        self.steps += known.len() as u64 / 4;
        if known.iter().any(|known| known.dominate(effects)) {
            return false;
        }
        known.retain(|known| !effects.dominate(known));
        known.push(effects.clone());
        true
    }

    /// Remembers for explanations what was tried in vain.
    fn note(&mut self, at: &Configuration) {
        if at.event == self.reached {
            tell(&mut self.before_reached, at.state);
        }
    }
}

fn tell(states: &mut SmallVec<[u32; STATES_TOLD]>, state: u32) {
    if states.len() < STATES_TOLD && !states.contains(&state) {
        states.push(state);
    }
}
