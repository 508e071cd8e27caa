//! Single keys of the session store, each judged as an atomic register with a life.
//!
//! Most are in use for a second or so, by clients that meet on them. One client follows a key of its own until its life is over,
//! which shows lives that do not end in time. What nobody knows the outcome of is looked at again later.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{
    history::{ClientLog, History, Recorder},
    models::{SessionInput, SessionOutput},
};
use ballast_testkit::{lab::Guests, resp::Answer};

use super::{
    Clients, Outcome, Visitor,
    looks::{self, Looks},
};
use crate::{clock::Clock, plan::Random};

const CLIENTS: usize = 8;
/// Keys that are in use at a time: few enough for clients to meet on them.
const KEYS: u64 = 5;
/// After so many commands a key is left for a new one. Short histories are judged fast, and a new key tells a stale read
/// as well as an old one.
const COMMANDS_PER_KEY: u64 = 160;
/// Between values that are set: more than `INCR` adds to one in that time, so that a number tells which write it comes of.
const STEP: u64 = 1000;
/// How often it is looked whether a life is over.
const LOOK: Duration = Duration::from_millis(30);
/// For how long after it ought to be: longer than what clocks may differ over the longest of these lives.
const LOOK_ON: Duration = Duration::from_secs(2);

/// Commands on keys.
pub type Commands = Recorder<SessionInput, SessionOutput>;

/// Lets clients read and write.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(
    guests: &Guests,
    stores: &[SocketAddr],
    clock: Clock,
    seed: u64,
    recorder: &Arc<Commands>,
) -> Result<Clients> {
    let (stores, recorder) = (stores.to_vec(), Arc::clone(recorder));
    let used: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let looks = Arc::new(Looks::new(stores.len()));
    Clients::start(guests, CLIENTS + 1 + stores.len(), move |number, stop| {
        let mut log = recorder.client();
        if let Some(store) = number.checked_sub(CLIENTS + 1) {
            let mut visitor = Visitor::new(&stores[store..=store], 0);
            return looks.make(store, clock, stop, |key| {
                if visitor.arrive().is_ok() {
                    ask(&mut visitor, &mut log, &looks, clock, key, SessionInput::Get);
                }
            });
        }
        if number == CLIENTS {
            return follow_lives(&stores, clock, seed, &mut log, &looks, stop);
        }
        let (mut visitor, mut random) = (Visitor::new(&stores, number), Random(seed ^ number as u64 ^ 0x4e65));
        let mut value = STEP * number as u64;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(2 + random.below(6)));
            visitor.wander(&mut random);
            if visitor.arrive().is_err() {
                continue;
            }
            let slot = random.below(KEYS);
            let generation = used[slot as usize].fetch_add(1, Ordering::Relaxed) / COMMANDS_PER_KEY;
            let key = format!("register:{slot}:{generation}");
            // Values are written once, so that a read tells which write it saw.
            value += STEP * CLIENTS as u64;
            let input = choose(&mut random, value);
            ask(&mut visitor, &mut log, &looks, clock, &key, input);
        }
    })
}

/// Looks once more at all keys that were asked for.
///
/// # Errors
/// When the client network cannot be entered.
pub fn look_at_all(
    guests: &Guests,
    stores: &[SocketAddr],
    clock: Clock,
    asked: &History<SessionInput, SessionOutput>,
    recorder: &Arc<Commands>,
) -> Result<()> {
    let recorder = Arc::clone(recorder);
    looks::at_all(guests, stores, clock, asked.keys(), move || {
        let (mut log, none) = (recorder.client(), Looks::default());
        move |visitor: &mut Visitor, key: &str| {
            ask(visitor, &mut log, &none, clock, key, SessionInput::Get);
        }
    })
}

/// Gives one key after the other a life, and looks at random stores until it is over.
fn follow_lives(stores: &[SocketAddr], clock: Clock, seed: u64, log: &mut Log, looks: &Looks, stop: &AtomicBool) {
    let mut random = Random(seed ^ 0x11fe);
    // One at each store, so that no look waits for a connection.
    let mut visitors: Vec<Visitor> = stores.iter().map(|store| Visitor::new(&[*store], 0)).collect();
    let mut turn = 0u64;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let (key, px) = (format!("life:{turn}"), 300 + random.below(2700));
        let mut input = SessionInput::Set { value: turn.to_string(), px: Some(px) };
        let mut until = clock.now().after(LOOK_ON);
        let mut seen = None;
        while !stop.load(Ordering::Relaxed) && clock.now() < until && seen != Some(SessionOutput::Value(None)) {
            let visitor = &mut visitors[random.below(stores.len() as u64) as usize];
            thread::sleep(LOOK);
            if visitor.arrive().is_err() {
                continue;
            }
            seen = ask(visitor, log, looks, clock, &key, input.clone());
            // It may be there also if nobody knows.
            if matches!(input, SessionInput::Set { .. }) {
                input = SessionInput::Get;
                until = clock.now().after(Duration::from_millis(px) + LOOK_ON);
            }
        }
    }
}

type Log = ClientLog<SessionInput, SessionOutput>;

/// Asks, and writes down what came of it; of a write of which nobody knows that, has its key looked at again. Returns the answer, if
/// there is one.
fn ask(
    visitor: &mut Visitor,
    log: &mut Log,
    looks: &Looks,
    clock: Clock,
    key: &str,
    input: SessionInput,
) -> Option<SessionOutput> {
    let words = words(key, &input);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let pending = log.invoke(clock.now(), key, input.clone());
    match visitor.call(&words) {
        Outcome::Done(answer) => {
            // What is not in the model is judged as an answer that nothing explains.
            let not_in_it = || SessionOutput::Value(Some(format!("{answer:?}")));
            let output = output(&input, &answer).unwrap_or_else(not_in_it);
            pending.ok(clock.now(), output.clone());
            Some(output)
        }
        Outcome::Refused(why) => {
            pending.fail(clock.now(), why);
            visitor.leave();
            None
        }
        Outcome::Unknown(why) => {
            let now = clock.now();
            pending.unknown(now, why);
            if input != SessionInput::Get {
                looks.ask_for(key, now);
            }
            None
        }
    }
}

fn choose(random: &mut Random, value: u64) -> SessionInput {
    let value = value.to_string();
    let px = |random: &mut Random| (random.below(4) == 0).then(|| 300 + random.below(4000));
    match random.below(20) {
        0..=8 => SessionInput::Get,
        9..=12 => SessionInput::Set { value, px: px(random) },
        13 => SessionInput::SetNx { value, px: px(random) },
        14 | 15 => SessionInput::Del,
        16 => SessionInput::GetDel,
        17 | 18 => SessionInput::Incr,
        _ => SessionInput::Expire { px: 200 + random.below(3000) },
    }
}

fn words(key: &str, input: &SessionInput) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut say = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
    match input {
        SessionInput::Get => say(&["GET", key]),
        SessionInput::Set { value, px: None } => say(&["SET", key, value]),
        SessionInput::Set { value, px: Some(px) } => say(&["SET", key, value, "PX", &px.to_string()]),
        SessionInput::SetNx { value, px: None } => say(&["SETNX", key, value]),
        SessionInput::SetNx { value, px: Some(px) } => say(&["SET", key, value, "NX", "PX", &px.to_string()]),
        SessionInput::Del => say(&["DEL", key]),
        SessionInput::GetDel => say(&["GETDEL", key]),
        SessionInput::Incr => say(&["INCR", key]),
        SessionInput::Expire { px } => say(&["PEXPIRE", key, &px.to_string()]),
        SessionInput::Persist => say(&["PERSIST", key]),
    }
    words
}

/// The answer as the model says it; `None` for one that does not belong to the command.
fn output(input: &SessionInput, answer: &Answer) -> Option<SessionOutput> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match (input, answer) {
        (SessionInput::Get | SessionInput::GetDel, Answer::Null) => SessionOutput::Value(None),
        (SessionInput::Get | SessionInput::GetDel, Answer::Bulk(value)) => SessionOutput::Value(Some(text(value))),
        (SessionInput::Set { .. }, answer) if answer.is_ok() => SessionOutput::Done,
        (SessionInput::SetNx { px: Some(_), .. }, Answer::Null) => SessionOutput::Flag(false),
        (SessionInput::SetNx { px: Some(_), .. }, answer) if answer.is_ok() => SessionOutput::Flag(true),
        (SessionInput::Incr, Answer::Integer(number)) => SessionOutput::Number(*number),
        (
            SessionInput::SetNx { px: None, .. }
            | SessionInput::Del
            | SessionInput::Expire { .. }
            | SessionInput::Persist,
            Answer::Integer(number @ (0 | 1)),
        ) => SessionOutput::Flag(*number == 1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_does_not_belong_is_none() {
        assert_eq!(output(&SessionInput::Get, &Answer::Integer(1)), None);
        assert_eq!(output(&SessionInput::Del, &Answer::Integer(2)), None);
        assert_eq!(output(&SessionInput::Incr, &Answer::Integer(2)), Some(SessionOutput::Number(2)));
        assert_eq!(output(&SessionInput::Get, &Answer::text("7")), Some(SessionOutput::Value(Some("7".to_owned()))));
    }
}
