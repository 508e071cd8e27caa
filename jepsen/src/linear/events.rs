//! The history of one key, laid out for the search: one event for each completion, and for each unknown operation that takes
//! effect no more.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::bits::Bits;
use super::model::{Model, Step, Window};
use crate::history::{Operation, Outcome, RunTime};

/// An operation whose outcome is known, while it is under way. Slots are used again when it has completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderWay {
    pub(super) operation: usize,
    pub(super) slot: u32,
    pub(super) only_reads: bool,
    pub(super) overwrites: bool,
}

/// An operation of unknown outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unknown {
    pub(super) operation: usize,
    /// One before it that asks the same, among the unknown, and lapses no later.
    pub(super) twin: Option<u32>,
    pub(super) overwrites: bool,
    /// Until when it may take effect.
    pub(super) lapse: RunTime,
    /// The event of that, if there is one.
    lapses_at: Option<usize>,
}

impl Unknown {
    /// Whether it takes effect no more before this event.
    pub(super) fn has_lapsed(&self, event: usize) -> bool {
        self.lapses_at.is_some_and(|lapses_at| lapses_at < event)
    }
}

/// What ends with an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    /// An operation whose outcome is known completes.
    Completes(UnderWay),
    /// The unknown operation of this number has taken effect, or never will.
    Lapses(u32),
}

/// One completion, or one lapse.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// What ends.
    pub(super) ends: Ends,
    /// What else is under way, the next to complete first.
    pub(super) others: Vec<UnderWay>,
    /// The slots of what is under way and overwrites.
    pub(super) overwriting: Bits,
    /// How many of the unknown have begun.
    pub(super) unknown: usize,
    /// What takes effect from here on does so no earlier: what has completed and changed something began then.
    pub(super) floor: RunTime,
    /// When it is. What takes effect before it does so no later.
    pub(super) at: RunTime,
    /// Whether nothing was left under way by the event before this, so that a state is all that the past has left.
    pub(super) quiet_before: bool,
}

impl Event {
    /// What completes, if something does.
    pub(super) fn completes(&self) -> Option<&UnderWay> {
        match &self.ends {
            Ends::Completes(done) => Some(done),
            Ends::Lapses(_) => None,
        }
    }
}

pub(super) struct Events<'a, I, O> {
    operations: &'a [Operation<I, O>],
    pub(super) events: Vec<Event>,
    pub(super) unknown: Vec<Unknown>,
}

impl<'a, I: Eq + std::hash::Hash, O> Events<'a, I, O> {
    /// `indices` are the places of the key's operations, in the order of their invocations. `lapse` is until when one of unknown
    /// outcome may take effect.
    pub(super) fn new<M: Model<Input = I, Output = O>>(
        model: &M,
        operations: &'a [Operation<I, O>],
        indices: &[usize],
        lapse: &super::Lapse<'_, I, O>,
    ) -> Self {
        let end = |operation: &Operation<I, O>| match operation.outcome {
            Outcome::Ok(_) => operation.completed,
            Outcome::Unknown if !model.only_reads(&operation.input, None) => lapse(operation).max(operation.invoked),
            Outcome::Unknown | Outcome::Fail => RunTime::NEVER,
        };
        let mut this = Self { operations, events: Vec::new(), unknown: Vec::new() };
        let mut last_of: HashMap<&I, u32> = HashMap::new();
        let mut under_way: Vec<UnderWay> = Vec::new();
        let mut free: BinaryHeap<Reverse<u32>> = BinaryHeap::new();
        let (mut slots, mut floor, mut quiet_before) = (0, RunTime::START, true);
        for Point { at, ends, operation } in points(operations, indices, end) {
            let Operation { input, outcome, invoked, completed, .. } = &operations[operation];
            match outcome {
                Outcome::Fail => {}
                Outcome::Unknown if model.only_reads(input, None) => {}
                Outcome::Unknown if !ends => {
                    let number = u32::try_from(this.unknown.len()).expect("histories are shorter");
                    let (overwrites, lapse) = (model.overwrites(input, None), end(&operations[operation]));
                    // One that lapses sooner cannot stand for the other at any time.
                    let twin = last_of.insert(input, number).filter(|twin| this.unknown[*twin as usize].lapse <= lapse);
                    this.unknown.push(Unknown { operation, twin, overwrites, lapse, lapses_at: None });
                }
                Outcome::Unknown => {
                    let number = this.unknown.iter().position(|unknown| unknown.operation == operation);
                    let number = number.expect("what lapses has begun");
                    this.unknown[number].lapses_at = Some(this.events.len());
                    let ends = Ends::Lapses(u32::try_from(number).expect("histories are shorter"));
                    let (others, overwriting) = (under_way.clone(), overwriting(&under_way));
                    let unknown = this.unknown.len();
                    this.events.push(Event { ends, others, overwriting, unknown, floor, at, quiet_before });
                    quiet_before = under_way.is_empty();
                }
                Outcome::Ok(output) if !ends => {
                    let slot = free.pop().map_or(slots, |Reverse(slot)| slot);
                    slots = slots.max(slot + 1);
                    let place = under_way.partition_point(|other| operations[other.operation].completed <= *completed);
                    let (only_reads, overwrites) =
                        (model.only_reads(input, Some(output)), model.overwrites(input, Some(output)));
                    under_way.insert(place, UnderWay { operation, slot, only_reads, overwrites });
                }
                Outcome::Ok(_) => {
                    let place = under_way.iter().position(|other| other.operation == operation);
                    let overwriting = overwriting(&under_way);
                    let done = under_way.remove(place.expect("what ends has begun"));
                    let (ends, others, unknown) = (Ends::Completes(done), under_way.clone(), this.unknown.len());
                    this.events.push(Event { ends, others, overwriting, unknown, floor, at, quiet_before });
                    free.push(Reverse(done.slot));
                    quiet_before = under_way.is_empty();
                    if !done.only_reads {
                        floor = floor.max(*invoked);
                    }
                }
            }
        }
        this
    }
}

/// The slots of what overwrites.
fn overwriting(under_way: &[UnderWay]) -> Bits {
    let mut slots = Bits::default();
    under_way.iter().filter(|other| other.overwrites).for_each(|other| slots.insert(other.slot));
    slots
}

/// A beginning or an end.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    at: RunTime,
    /// What begins at the instant at which another ends may have come before it: beginnings come first.
    ends: bool,
    operation: usize,
}

/// Beginnings of all operations, and ends of those that have one, in the order of time.
fn points<I, O>(
    operations: &[Operation<I, O>],
    indices: &[usize],
    end: impl Fn(&Operation<I, O>) -> RunTime,
) -> Vec<Point> {
    let mut points: Vec<Point> =
        indices.iter().map(|index| Point { at: operations[*index].invoked, ends: false, operation: *index }).collect();
    let ends = indices.iter().map(|index| Point { at: end(&operations[*index]), ends: true, operation: *index });
    points.extend(ends.filter(|end| end.at != RunTime::NEVER));
    points.sort_unstable();
    points
}

impl<'a, I, O> Events<'a, I, O> {
    pub(super) fn operation(&self, index: usize) -> &'a Operation<I, O> {
        &self.operations[index]
    }

    /// Whether anything lapses.
    pub(super) fn lapses(&self) -> bool {
        self.unknown.iter().any(|unknown| unknown.lapses_at.is_some())
    }

    /// The operation that ends with an event.
    pub(super) fn ends(&self, event: &Event) -> usize {
        match event.ends {
            Ends::Completes(done) => done.operation,
            Ends::Lapses(number) => self.unknown[number as usize].operation,
        }
    }

    /// The step of an operation that takes effect before this event.
    pub(super) fn step(&self, event: &Event, index: usize) -> Step<'a, I, O> {
        let operation = self.operation(index);
        let output = match &operation.outcome {
            Outcome::Ok(output) => Some(output),
            Outcome::Fail | Outcome::Unknown => None,
        };
        let window = Window { from: operation.invoked.max(event.floor), until: event.at };
        Step { input: &operation.input, output, window }
    }
}
