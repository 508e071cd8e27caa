//! The history of one key, laid out for the search: one event for each completion.

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
    /// The one before it that asks the same, among the unknown.
    pub(super) twin: Option<u32>,
    pub(super) overwrites: bool,
}

/// One completion.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// What completes.
    pub(super) ends: UnderWay,
    /// What else is under way, the next to complete first.
    pub(super) others: Vec<UnderWay>,
    /// The slots of what is under way and overwrites.
    pub(super) overwriting: Bits,
    /// How many of the unknown have begun.
    pub(super) unknown: usize,
    /// What takes effect from here on does so no earlier: what has completed and changed something began then.
    pub(super) floor: RunTime,
    /// When it completes. What takes effect before it does so no later.
    pub(super) at: RunTime,
    /// Whether nothing was left under way by the completion before this, so that a state is all that the past has left.
    pub(super) quiet_before: bool,
}

pub(super) struct Events<'a, I, O> {
    operations: &'a [Operation<I, O>],
    pub(super) events: Vec<Event>,
    pub(super) unknown: Vec<Unknown>,
}

impl<'a, I: Eq + std::hash::Hash, O> Events<'a, I, O> {
    /// `indices` are the places of the key's operations, in the order of their invocations.
    pub(super) fn new<M: Model<Input = I, Output = O>>(
        model: &M,
        operations: &'a [Operation<I, O>],
        indices: &[usize],
    ) -> Self {
        let mut this = Self { operations, events: Vec::new(), unknown: Vec::new() };
        let mut last_of: HashMap<&I, u32> = HashMap::new();
        let mut under_way: Vec<UnderWay> = Vec::new();
        let mut free: BinaryHeap<Reverse<u32>> = BinaryHeap::new();
        let (mut slots, mut floor, mut quiet_before) = (0, RunTime::START, true);
        for Point { at, ends, operation } in points(operations, indices) {
            let Operation { input, outcome, invoked, completed, .. } = &operations[operation];
            match outcome {
                Outcome::Fail => {}
                Outcome::Unknown if model.only_reads(input, None) => {}
                Outcome::Unknown => {
                    let number = u32::try_from(this.unknown.len()).expect("histories are shorter");
                    let overwrites = model.overwrites(input, None);
                    this.unknown.push(Unknown { operation, twin: last_of.insert(input, number), overwrites });
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
                    let mut overwriting = Bits::default();
                    under_way.iter().filter(|other| other.overwrites).for_each(|other| overwriting.insert(other.slot));
                    let done = under_way.remove(place.expect("what ends has begun"));
                    let (others, unknown) = (under_way.clone(), this.unknown.len());
                    this.events.push(Event { ends: done, others, overwriting, unknown, floor, at, quiet_before });
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

/// A beginning or an end.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    at: RunTime,
    /// What begins at the instant at which another ends may have come before it: beginnings come first.
    ends: bool,
    operation: usize,
}

/// Beginnings of all operations and ends of those whose outcome is known, in the order of time.
fn points<I, O>(operations: &[Operation<I, O>], indices: &[usize]) -> Vec<Point> {
    let mut points: Vec<Point> =
        indices.iter().map(|index| Point { at: operations[*index].invoked, ends: false, operation: *index }).collect();
    let known = indices.iter().filter(|index| matches!(operations[**index].outcome, Outcome::Ok(_)));
    points.extend(known.map(|index| Point { at: operations[*index].completed, ends: true, operation: *index }));
    points.sort_unstable();
    points
}

impl<'a, I, O> Events<'a, I, O> {
    pub(super) fn operation(&self, index: usize) -> &'a Operation<I, O> {
        &self.operations[index]
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
