//! Histories that are right by construction, for the checkers' own tests.

use std::collections::BTreeMap;

use crate::history::{Client, History, Operation, Outcome, RunTime};
use crate::models::{SessionInput, SessionOutput};

pub(crate) type SessionOperation = Operation<SessionInput, SessionOutput>;

/// Until when an operation of unknown outcome may take effect: at any time, unless a test noted so many milliseconds.
pub(crate) fn lapse<I, O>(operation: &Operation<I, O>) -> RunTime {
    operation.note.parse().map_or(RunTime::NEVER, RunTime::from_millis)
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same numbers for the same seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What a simulated run is made of.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    pub(crate) clients: u32,
    pub(crate) keys: u64,
    pub(crate) operations: usize,
    pub(crate) unknown_percent: u64,
    /// Whether values have lives.
    pub(crate) lives: bool,
    /// Whether only unique values are set and read, so that a stale read is certainly one.
    pub(crate) plain: bool,
}

impl Program {
    pub(crate) const USUAL: Self =
        Self { clients: 16, keys: 300, operations: 10_000, unknown_percent: 2, lives: false, plain: false };
}

struct Draft {
    effect: Option<u64>,
    operation: SessionOperation,
}

/// Lets clients run against one atomic register a key with delays before and after each effect. `skew` is by how many
/// nanoseconds at most log time wanders.
pub(crate) fn run(program: Program, skew: u64, seed: u64) -> History<SessionInput, SessionOutput> {
    let mut dice = Dice(seed);
    let mut drafts: Vec<Draft> = Vec::new();
    let mut free_at = vec![0u64; program.clients as usize];
    for number in 0..program.operations {
        let client = number % free_at.len();
        let invoked = free_at[client] + dice.below(200_000);
        let mut effect = invoked + dice.below(1_000_000);
        let completed = effect + dice.below(1_000_000);
        free_at[client] = completed + 1;
        let (mut outcome, mut happens) = (Outcome::Ok(SessionOutput::Done), true);
        if dice.percent(program.unknown_percent) {
            outcome = Outcome::Unknown;
            happens = dice.percent(60);
            effect += if dice.percent(50) { dice.below(30_000_000) } else { 0 };
        } else if dice.percent(1) {
            (outcome, happens) = (Outcome::Fail, false);
        }
        let operation = Operation {
            client: Client::new(client as u32),
            invoked: RunTime::from_nanos(invoked),
            completed: RunTime::from_nanos(completed),
            key: format!("k{}", dice.below(program.keys)),
            input: input(&mut dice, program, number),
            outcome,
            note: String::new(),
        };
        drafts.push(Draft { effect: happens.then_some(effect), operation });
    }
    drafts.sort_by_key(|draft| draft.effect);
    let (mut store, mut log_time) = (BTreeMap::new(), 0);
    for Draft { effect, operation } in &mut drafts {
        let Some(effect) = *effect else { continue };
        log_time = log_time.max((effect + dice.below(skew + 1)).saturating_sub(skew / 2));
        let output = apply(&mut store, &operation.key, &operation.input, log_time);
        if let Outcome::Ok(answer) = &mut operation.outcome {
            *answer = output;
        }
    }
    History::new(drafts.into_iter().map(|draft| draft.operation).collect())
}

fn input(dice: &mut Dice, program: Program, number: usize) -> SessionInput {
    let px = (program.lives && dice.percent(60)).then(|| 1 + dice.below(12));
    let value = if !program.plain && dice.percent(30) { dice.below(4).to_string() } else { format!("v{number}") };
    if program.plain {
        return if dice.percent(60) { SessionInput::Get } else { SessionInput::Set { value, px } };
    }
    match dice.below(20) {
        0..9 => SessionInput::Get,
        9..13 => SessionInput::Set { value, px },
        13 => SessionInput::SetNx { value, px },
        14 => SessionInput::Del,
        15 => SessionInput::GetDel,
        16 | 17 => SessionInput::Incr,
        18 if program.lives => SessionInput::Expire { px: dice.below(10) },
        18 => SessionInput::Get,
        _ => SessionInput::Persist,
    }
}

/// A register written apart from the model: a value and the instant at which it ends.
fn apply(
    store: &mut BTreeMap<String, (String, Option<u64>)>,
    key: &str,
    input: &SessionInput,
    now: u64,
) -> SessionOutput {
    if store.get(key).is_some_and(|(_, end)| end.is_some_and(|end| end <= now)) {
        store.remove(key);
    }
    let end = |px: &Option<u64>| px.map(|px| now + px * 1_000_000);
    let there = store.get(key).cloned();
    match input {
        SessionInput::Get => SessionOutput::Value(there.map(|(value, _)| value)),
        SessionInput::Set { value, px } => {
            store.insert(key.to_owned(), (value.clone(), end(px)));
            SessionOutput::Done
        }
        SessionInput::SetNx { value, px } => {
            store.entry(key.to_owned()).or_insert_with(|| (value.clone(), end(px)));
            SessionOutput::Flag(there.is_none())
        }
        SessionInput::Del => SessionOutput::Flag(store.remove(key).is_some()),
        SessionInput::GetDel => SessionOutput::Value(store.remove(key).map(|(value, _)| value)),
        SessionInput::Incr => {
            let (value, end) = there.unwrap_or_else(|| (String::from("0"), None));
            let Ok(old) = value.parse::<i64>() else { return SessionOutput::Refused };
            store.insert(key.to_owned(), ((old + 1).to_string(), end));
            SessionOutput::Number(old + 1)
        }
        SessionInput::Expire { px } => {
            if let Some((_, end)) = store.get_mut(key) {
                *end = Some(now + px * 1_000_000);
            }
            SessionOutput::Flag(there.is_some())
        }
        SessionInput::Persist => {
            if let Some((_, end)) = store.get_mut(key) {
                *end = None;
            }
            SessionOutput::Flag(there.is_some_and(|(_, end)| end.is_some()))
        }
    }
}
