//! Single keys of the session store, each judged as an atomic register with a life.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{
    history::Recorder,
    models::{SessionInput, SessionOutput},
};
use ballast_testkit::{lab::Lab, resp::Answer};

use super::{Clients, Outcome, Visitor};
use crate::{clock::Clock, plan::Random};

const CLIENTS: usize = 8;
/// Keys that are in use at a time: few enough for clients to meet on them.
const KEYS: u64 = 5;
/// After so many commands a key is left for a new one. Short histories are judged fast, and a new key tells a stale read
/// as well as an old one.
const COMMANDS_PER_KEY: u64 = 160;

/// Commands on keys.
pub type Commands = Recorder<SessionInput, SessionOutput>;

/// Lets clients read and write.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(lab: &Lab, stores: &[SocketAddr], clock: Clock, seed: u64, recorder: &Arc<Commands>) -> Result<Clients> {
    let (stores, recorder) = (stores.to_vec(), Arc::clone(recorder));
    let used: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    Clients::start(lab, CLIENTS, move |number, stop| {
        let mut log = recorder.client();
        let (mut visitor, mut random) = (Visitor::new(&stores, number), Random(seed ^ number as u64 ^ 0x4e65));
        let mut value = number as u64;
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
            value += CLIENTS as u64;
            let input = choose(&mut random, value);
            let words = words(&key, &input);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let pending = log.invoke(clock.now(), &key, input.clone());
            match visitor.call(&words) {
                Outcome::Done(answer) => match output(&input, &answer) {
                    Some(output) => pending.ok(clock.now(), output),
                    // Not in the model, so it is judged as an answer that nothing explains.
                    None => pending.ok(clock.now(), SessionOutput::Value(Some(format!("{answer:?}")))),
                },
                Outcome::Refused(why) => {
                    pending.fail(clock.now(), why);
                    visitor.leave();
                }
                Outcome::Unknown(why) => pending.unknown(clock.now(), why),
            }
        }
    })
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
