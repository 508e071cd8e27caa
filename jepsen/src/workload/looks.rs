//! Looks at what may have been changed late.
//!
//! Keys are in use for a second or so. One whose client was told that nobody knows what became of a write is looked at again, some
//! seconds later and for some seconds, at each store by a client of its own: who comes to a node without a quorum waits there. When
//! all is over, all keys are looked at once more.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::time::RunTime;
use ballast_testkit::{interrupt, lab::Guests};

use super::{Clients, Visitor};
use crate::clock::Clock;

/// How long after the answer, in milliseconds: from when such a write has lapsed, if others were acknowledged (`judge::lapses`), until
/// after the end of most faults.
const AFTER: [u64; 7] = [3200, 3700, 4200, 5000, 6000, 8000, 13_000];
/// A look that is later by more than this is left out. Other stores were looked at.
const LATE: Duration = Duration::from_secs(1);
/// How often it is asked whether there is one to make.
const EVERY: Duration = Duration::from_millis(40);
/// Looks that may wait at a store; for more nobody is asked.
const WAITING_MAX: usize = 10_000;
/// Clients that look at all keys.
const AT_ONCE: usize = 4;
/// How long they may take. Ten minutes leave some three thousand keys.
const ALL_WITHIN: Duration = Duration::from_secs(30);

type Waiting = BinaryHeap<Reverse<(RunTime, String)>>;

/// The looks to make at each store.
#[derive(Default)]
pub struct Looks {
    stores: Vec<Mutex<Waiting>>,
}

impl Looks {
    /// None yet.
    pub fn new(stores: usize) -> Self {
        Self { stores: (0..stores).map(|_| Mutex::default()).collect() }
    }

    /// Has a key looked at by and by of whose last write nobody knows, as was said now.
    pub fn ask_for(&self, key: &str, now: RunTime) {
        for waiting in &self.stores {
            let mut waiting = lock(waiting);
            if waiting.len() < WAITING_MAX {
                let due = AFTER.map(|after| now.after(Duration::from_millis(after)));
                waiting.extend(due.map(|at| Reverse((at, key.to_owned()))));
            }
        }
    }

    /// Lets a client `look` at keys at one store, each when it is time, until it is told to stop.
    pub fn make(&self, store: usize, clock: Clock, stop: &AtomicBool, mut look: impl FnMut(&str)) {
        while !stop.load(Ordering::Relaxed) {
            match self.next(store, clock.now()) {
                Some(key) => look(&key),
                None => thread::sleep(EVERY),
            }
        }
    }

    /// The key that is to be looked at now.
    fn next(&self, store: usize, now: RunTime) -> Option<String> {
        let mut waiting = lock(&self.stores[store]);
        while waiting.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((at, key)) = waiting.pop()?;
            if now.since(at) <= LATE {
                return Some(key);
            }
        }
        None
    }
}

/// Looks at all keys once, or at as many as there is time for. Each client that does gets its way to `look` from `looker`.
///
/// # Errors
/// When the client network cannot be entered.
pub fn at_all<L: FnMut(&mut Visitor, &str)>(
    guests: &Guests,
    stores: &[SocketAddr],
    clock: Clock,
    keys: Vec<String>,
    looker: impl Fn() -> L + Clone + Send + 'static,
) -> Result<()> {
    let (stores, keys, until) = (stores.to_vec(), Arc::new(Mutex::new(keys)), clock.now().after(ALL_WITHIN));
    let clients = Clients::start(guests, AT_ONCE, move |number, _| {
        let (mut visitor, mut look) = (Visitor::new(&stores, number), looker());
        while clock.now() < until && !interrupt::came() {
            let Some(key) = lock(&keys).pop() else { break };
            if visitor.arrive().is_ok() {
                look(&mut visitor, &key);
            }
        }
    })?;
    clients.finish()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    #[test]
    fn each_store_is_looked_at_when_it_is_time() {
        let looks = Looks::new(2);
        looks.ask_for("later", at(500));
        looks.ask_for("first", at(0));
        assert_eq!(looks.next(0, at(3199)), None);
        for store in 0..2 {
            let next = |millis| looks.next(store, at(millis));
            assert_eq!([next(3200), next(3200)].map(Option::unwrap_or_default), ["first", ""], "store {store}");
            // The one that is due first, whoever asked for it.
            assert_eq!([next(3700), next(3700)].map(Option::unwrap_or_default), ["first", "later"], "store {store}");
        }
    }

    #[test]
    fn who_comes_too_late_for_a_look_does_not_make_it() {
        let looks = Looks::new(1);
        looks.ask_for("key", at(0));
        // Of those after 3.2, 3.7, 4.2, 5 and 6 seconds.
        let made = std::iter::from_fn(|| looks.next(0, at(6000))).count();
        assert_eq!(made, 2);
        assert_eq!((looks.next(0, at(8000)), looks.next(0, at(60_000))), (Some("key".to_owned()), None));
    }

    #[test]
    fn what_waits_is_bounded() {
        let looks = Looks::new(1);
        (0..100_000).for_each(|_| looks.ask_for("key", at(0)));
        assert!(lock(&looks.stores[0]).len() < WAITING_MAX + AFTER.len());
    }
}
