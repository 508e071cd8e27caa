//! Two accounts a pair in the session store: what one loses the other gains, in one transaction, and both are read in one.
//!
//! One client in three moves as applications do that have to look first: it watches both, reads them and writes what it made of
//! that. Each pair is judged as one object, so that half of a move is found, and a move that came between such a look and its write.
//! Where nobody knows what became of a move, the pair is looked at again later.

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
    history::{ClientLog, History, Recorder},
    models::{PairInput, PairOutput, PairState},
};
use ballast_testkit::{lab::Guests, resp::Answer};

use super::{
    Clients, Outcome, Visitor,
    looks::{self, Looks},
};
use crate::{clock::Clock, plan::Random};

const CLIENTS: usize = 3;
/// Which of them watches before it moves.
const WATCHES: usize = 2;
/// Pairs that are in use at a time: few enough for clients to meet on them.
const PAIRS: u64 = 2;
/// After so many transactions a pair is left for a new one, as keys of registers are.
const TRANSACTIONS_PER_PAIR: u64 = 200;
/// Few, so that many moves of unknown outcome are alike, and such that sums tell which ones were made.
const AMOUNTS: [i64; 3] = [1, 10, 100];
/// What is noted of a move that was not made, because a watched account had changed.
pub const CHANGED: &str = "a watched account was changed";

/// Transactions on pairs.
pub type Transactions = Recorder<PairInput, PairOutput>;

/// Lets clients move and look.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(
    guests: &Guests,
    stores: &[SocketAddr],
    clock: Clock,
    seed: u64,
    recorder: &Arc<Transactions>,
) -> Result<Clients> {
    let (stores, recorder) = (stores.to_vec(), Arc::clone(recorder));
    let used: Arc<Vec<AtomicU64>> = Arc::new((0..PAIRS).map(|_| AtomicU64::new(0)).collect());
    let looks = Arc::new(Looks::new(stores.len()));
    Clients::start(guests, CLIENTS + stores.len(), move |number, stop| {
        let mut log = recorder.client();
        if let Some(store) = number.checked_sub(CLIENTS) {
            let mut visitor = Visitor::new(&stores[store..=store], 0);
            return looks.make(store, clock, stop, |pair| {
                if visitor.arrive().is_ok() {
                    transact(&mut visitor, &mut log, &looks, clock, pair, PairInput::Read);
                }
            });
        }
        let (mut visitor, mut random) = (Visitor::new(&stores, number), Random(seed ^ number as u64 ^ 0x7a17));
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10 + random.below(20)));
            visitor.wander(&mut random);
            if visitor.arrive().is_err() {
                continue;
            }
            let slot = random.below(PAIRS);
            let generation = used[slot as usize].fetch_add(1, Ordering::Relaxed) / TRANSACTIONS_PER_PAIR;
            let pair = format!("pair:{slot}:{generation}");
            let by = amount(&mut random);
            let input = match random.below(2) == 0 {
                true => PairInput::Read,
                false if number == WATCHES => match look(&mut visitor, &pair) {
                    Some(seen) => PairInput::MoveIf { seen, by },
                    None => continue,
                },
                false => PairInput::Move { by },
            };
            transact(&mut visitor, &mut log, &looks, clock, &pair, input);
        }
    })
}

/// Looks once more at all pairs that were asked for.
///
/// # Errors
/// When the client network cannot be entered.
pub fn look_at_all(
    guests: &Guests,
    stores: &[SocketAddr],
    clock: Clock,
    asked: &History<PairInput, PairOutput>,
    recorder: &Arc<Transactions>,
) -> Result<()> {
    let recorder = Arc::clone(recorder);
    looks::at_all(guests, stores, clock, asked.keys(), move || {
        let (mut log, none) = (recorder.client(), Looks::default());
        move |visitor: &mut Visitor, pair: &str| {
            transact(visitor, &mut log, &none, clock, pair, PairInput::Read);
        }
    })
}

fn amount(random: &mut Random) -> i64 {
    let amount = AMOUNTS[random.below(AMOUNTS.len() as u64) as usize];
    if random.below(2) == 0 { amount } else { -amount }
}

/// The keys of a pair's accounts.
fn accounts(pair: &str) -> [String; 2] {
    ["one", "other"].map(|account| format!("{pair}:{account}"))
}

/// Watches a pair and reads it. If that fails, the connection is left, and nothing is watched any more.
fn look(visitor: &mut Visitor, pair: &str) -> Option<PairState> {
    let [one, other] = accounts(pair);
    let answers = visitor.call_together(&[&["WATCH", &one, &other], &["GET", &one], &["GET", &other]]);
    let seen = answers.ok().and_then(|answers| match &answers[..] {
        [watched, one, other] if watched.is_ok() => Some((balance(one)?, balance(other)?)),
        _ => None,
    });
    if seen.is_none() {
        visitor.leave();
    }
    seen
}

type Log = ClientLog<PairInput, PairOutput>;

/// Carries a transaction out, and writes down what came of it; of a move of which nobody knows that, has its pair looked at again.
fn transact(visitor: &mut Visitor, log: &mut Log, looks: &Looks, clock: Clock, pair: &str, input: PairInput) {
    let [one, other] = accounts(pair);
    let pending = log.invoke(clock.now(), pair, input.clone());
    let outcome = match &input {
        PairInput::Read => visitor.exec(&[&["GET", &one], &["GET", &other]]),
        PairInput::Move { by } => {
            let by = by.to_string();
            visitor.exec(&[&["INCRBY", &one, &by], &["DECRBY", &other, &by]])
        }
        PairInput::MoveIf { seen, .. } => {
            let (mine, its) = input.after(*seen).expect("it is for a pair that is so");
            visitor.exec(&[&["SET", &one, &mine.to_string()], &["SET", &other, &its.to_string()]])
        }
    };
    match outcome {
        Outcome::Done(Answer::Null) if matches!(input, PairInput::MoveIf { .. }) => pending.fail(clock.now(), CHANGED),
        Outcome::Done(answer) => {
            // What is not in the model is judged as an answer that nothing explains.
            let output = output(&input, &answer).unwrap_or_else(|| PairOutput::Other(format!("{answer:?}")));
            pending.ok(clock.now(), output);
        }
        Outcome::Refused(why) => {
            pending.fail(clock.now(), why);
            visitor.leave();
        }
        Outcome::Unknown(why) => {
            let now = clock.now();
            pending.unknown(now, why);
            if input != PairInput::Read {
                looks.ask_for(pair, now);
            }
        }
    }
}

/// The answer of `EXEC` as the model says it; `None` for one that does not belong to the commands.
fn output(input: &PairInput, answer: &Answer) -> Option<PairOutput> {
    let Answer::Array(answers) = answer else { return None };
    let [one, other] = &answers[..] else { return None };
    let (one, other) = match (input, one, other) {
        (PairInput::Read, one, other) => (balance(one)?, balance(other)?),
        (PairInput::Move { .. }, Answer::Integer(one), Answer::Integer(other)) => (*one, *other),
        (PairInput::MoveIf { seen, .. }, one, other) if one.is_ok() && other.is_ok() => input.after(*seen)?,
        (PairInput::Move { .. } | PairInput::MoveIf { .. }, ..) => return None,
    };
    Some(PairOutput::Both(one, other))
}

/// What `GET` says is in an account.
fn balance(answer: &Answer) -> Option<i64> {
    match answer {
        Answer::Null => Some(0),
        Answer::Bulk(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        Answer::Simple(_) | Answer::Integer(_) | Answer::Array(_) | Answer::Error(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(answers: [Answer; 2]) -> Answer {
        Answer::Array(answers.to_vec())
    }

    #[test]
    fn an_answer_that_does_not_belong_is_none() {
        let (moves, watched) = (PairInput::Move { by: 5 }, PairInput::MoveIf { seen: (1, -1), by: 5 });
        let ok = || Answer::Simple(String::from("OK"));
        let both = |one, other| Some(PairOutput::Both(one, other));
        assert_eq!(output(&PairInput::Read, &array([Answer::Null, Answer::text("-7")])), both(0, -7));
        assert_eq!(output(&moves, &array([Answer::Integer(6), Answer::Integer(-6)])), both(6, -6));
        assert_eq!(output(&watched, &array([ok(), ok()])), both(6, -6));
        let wrong = Answer::Error(String::from("ERR value is not an integer or out of range"));
        for (input, answer) in [
            (&moves, array([Answer::Integer(6), wrong.clone()])),
            (&moves, array([ok(), ok()])),
            (&watched, array([ok(), wrong.clone()])),
            (&PairInput::Read, array([Answer::Null, wrong.clone()])),
            (&PairInput::Read, Answer::Array(vec![Answer::Null])),
            (&PairInput::Read, ok()),
            (&moves, wrong),
        ] {
            assert_eq!(output(input, &answer), None, "{input:?} {answer:?}");
        }
    }
}
