//! Single keys of the session store, each judged as a register.

use std::sync::Arc;

use ballast_core::session::Reply;
use ballast_jepsen::models::{SessionInput, SessionOutput};
use parking_lot::Mutex;

use super::{Client, Said, text};
use crate::{clock, random::Random, trace::happened};

/// Keys that are in use at a time: few, so that clients meet on them.
pub(super) const KEYS: u64 = 3;
/// After so many commands a key is left for a new one.
const COMMANDS_PER_KEY: u64 = 120;

pub(super) async fn work(mut client: Client, number: usize, used: Arc<Mutex<Vec<u64>>>) {
    let records = Arc::clone(&client.records);
    let mut log = records.sessions.client();
    let mut value = number as u64;
    while let Some(at) = client.go().await {
        let slot = client.random.below(KEYS);
        let generation = {
            let mut used = used.lock();
            used[slot as usize] += 1;
            used[slot as usize] / COMMANDS_PER_KEY
        };
        let key = format!("register:{slot}:{generation}");
        // Values are written once, so that a read tells which write it saw.
        value += 100;
        let input = choose(&mut client.random, value);
        let words = words(&key, &input);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let pending = log.invoke(clock::instant(), &key, input.clone());
        let said = client.call(&at, &words).await;
        let now = clock::instant();
        match said {
            Said::Ok(reply) => {
                happened!("session {number} at n{}: {words:?} = {reply:?}", at.number);
                let output = output(&input, &reply);
                // What is not in the model is judged as an answer that nothing explains.
                pending.ok(now, output.unwrap_or_else(|| SessionOutput::Value(Some(format!("{reply:?}")))));
            }
            Said::Fail(why) => {
                happened!("session {number} at n{}: {words:?} failed: {why}", at.number);
                pending.fail(now, why);
            }
            Said::Unknown(why) => {
                happened!("session {number} at n{}: {words:?} unknown: {why}", at.number);
                pending.unknown(now, why);
            }
        }
    }
}

fn choose(random: &mut Random, value: u64) -> SessionInput {
    let value = value.to_string();
    match random.below(12) {
        0..5 => SessionInput::Get,
        5..8 => SessionInput::Set { value, px: None },
        8 => SessionInput::SetNx { value, px: None },
        9 => SessionInput::Del,
        _ => SessionInput::Incr,
    }
}

fn words(key: &str, input: &SessionInput) -> Vec<String> {
    let mut words = match input {
        SessionInput::Set { value, .. } => vec!["SET", key, value],
        SessionInput::SetNx { value, .. } => vec!["SETNX", key, value],
        SessionInput::Del => vec!["DEL", key],
        SessionInput::Incr => vec!["INCR", key],
        _ => vec!["GET", key],
    };
    words.drain(..).map(str::to_owned).collect()
}

fn output(input: &SessionInput, reply: &Reply) -> Option<SessionOutput> {
    Some(match (input, reply) {
        (SessionInput::Get, Reply::Null) => SessionOutput::Value(None),
        (SessionInput::Get, Reply::Bulk(bytes)) => SessionOutput::Value(Some(text(bytes))),
        (SessionInput::Set { .. }, Reply::Simple("OK")) => SessionOutput::Done,
        (SessionInput::SetNx { .. } | SessionInput::Del, Reply::Integer(done)) => SessionOutput::Flag(*done == 1),
        (SessionInput::Incr, Reply::Integer(number)) => SessionOutput::Number(*number),
        (SessionInput::Incr, Reply::Error(_)) => SessionOutput::Refused,
        _ => return None,
    })
}
