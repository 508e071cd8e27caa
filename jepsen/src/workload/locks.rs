//! A lock as sessions use it: `SET lock token NX PX life`, a script that deletes it if it still is one's own.
//!
//! Who was told that it has the lock has it from the answer on until it releases it or its life is over, counted from
//! before it asked. In that time nobody else may be told the same.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::time::RunTime;
use ballast_testkit::{lab::Guests, resp::Answer};
use serde::{Deserialize, Serialize};

use super::{Clients, Outcome, Visitor};
use crate::{clock::Clock, plan::Random};

const CLIENTS: usize = 4;
const LOCKS: u64 = 2;
/// Longer than most faults, so that it is kept through them, and shorter than some, so that it also ends.
pub const LIFE: Duration = Duration::from_secs(2);
/// redis-py's, which the store knows.
const RELEASE: &str = "
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        redis.call('del', KEYS[1])
        return 1
    ";

/// A time in which a client was sure to have a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which lock.
    pub lock: String,
    /// Who.
    pub client: usize,
    /// From the answer on.
    pub from: RunTime,
    /// Until it began to release it, or until the lock's life was over.
    pub until: RunTime,
}

/// All times in which locks were held.
pub type Record = Arc<Mutex<Vec<Held>>>;

/// Lets clients lock and release. `life_margin` is what a lock's life may be shorter by the store's clock than by the
/// client's.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(
    guests: &Guests,
    stores: &[SocketAddr],
    clock: Clock,
    seed: u64,
    life_margin: Duration,
    record: &Record,
) -> Result<Clients> {
    let (stores, record) = (stores.to_vec(), Arc::clone(record));
    Clients::start(guests, CLIENTS, move |number, stop| {
        let (mut visitor, mut random) = (Visitor::new(&stores, number), Random(seed ^ number as u64 ^ 0x10c4));
        let mut turn = 0u64;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5 + random.below(20)));
            visitor.wander(&mut random);
            if visitor.arrive().is_err() {
                continue;
            }
            turn += 1;
            let (lock, token) = (format!("lock:{}", random.below(LOCKS)), format!("{number}-{turn}"));
            let (asked, life) = (clock.now(), LIFE.as_millis().to_string());
            let answer = visitor.call(&["SET", &lock, &token, "NX", "PX", &life]);
            if !matches!(&answer, Outcome::Done(answer) if answer.is_ok()) {
                continue;
            }
            let from = clock.now();
            let (forgets, long) = (random.below(8) == 0, random.below(4) == 0);
            // One in four keeps it through an election or a fault.
            let kept = if long { 300 + random.below(1000) } else { random.below(60) };
            thread::sleep(Duration::from_millis(kept));
            let until = sure(asked, clock.now(), forgets, life_margin);
            if until > from {
                let held = Held { lock: lock.clone(), client: number, from, until };
                record.lock().unwrap_or_else(PoisonError::into_inner).push(held);
            }
            // One in eight forgets to, and the lock ends by itself.
            if !forgets && visitor.arrive().is_ok() {
                let answer = visitor.call(&["EVAL", RELEASE, "1", &lock, &token]);
                debug_assert!(!matches!(&answer, Outcome::Done(Answer::Error(error)) if error.contains("NOSCRIPT")));
            }
        }
    })
}

/// Until when a lock is its holder's for sure: by its life, and if it is given back, by then.
fn sure(asked: RunTime, releasing: RunTime, forgets: bool, life_margin: Duration) -> RunTime {
    let end = asked.after(LIFE.saturating_sub(life_margin));
    if forgets { end } else { releasing.min(end) }
}

/// Pairs of times that overlap: two holders of one lock.
pub fn overlaps(record: &[Held]) -> Vec<(Held, Held)> {
    let mut sorted: Vec<&Held> = record.iter().collect();
    sorted.sort_by_key(|held| (&held.lock, held.from));
    let mut found = Vec::new();
    let mut last: Option<&Held> = None;
    for held in sorted {
        match last {
            Some(before) if before.lock == held.lock && held.from < before.until => {
                found.push((before.clone(), held.clone()));
                if held.until > before.until {
                    last = Some(held);
                }
            }
            _ => last = Some(held),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(lock: &str, client: usize, from: u64, until: u64) -> Held {
        Held { lock: lock.to_owned(), client, from: RunTime::from_millis(from), until: RunTime::from_millis(until) }
    }

    #[test]
    fn a_lock_that_is_not_given_back_is_its_holders_for_its_life() {
        let at = RunTime::from_millis;
        let until = |releasing, forgets| sure(at(1000), at(releasing), forgets, Duration::from_millis(600));
        assert_eq!([until(1050, false), until(1050, true)], [at(1050), at(2400)]);
        assert_eq!([until(2900, false), until(2900, true)], [at(2400), at(2400)], "it may have ended by itself");
    }

    #[test]
    fn one_after_the_other_is_well() {
        assert!(overlaps(&[held("a", 1, 10, 20), held("a", 0, 0, 10), held("b", 2, 5, 15)]).is_empty());
    }

    #[test]
    fn two_at_once_are_found_also_behind_a_short_one() {
        let record = [held("a", 0, 0, 100), held("a", 1, 10, 20), held("a", 2, 50, 60), held("b", 3, 0, 5)];
        let found = overlaps(&record);
        assert_eq!(found.iter().map(|(_, second)| second.client).collect::<Vec<_>>(), [1, 2]);
    }
}
