//! Whether the store of each node answers, and over the VIP: one client at each, which never goes elsewhere.

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
use crate::clock::Clock;

/// Often enough for some answers in the last second of a calm.
const EVERY: Duration = Duration::from_millis(100);

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The position of the store; the last one is the VIP.
    pub store: usize,
    /// When it was there.
    pub at: RunTime,
}

/// All answers.
pub type Record = Arc<Mutex<Vec<Answered>>>;

/// Asks each store all the time.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(guests: &Guests, stores: &[SocketAddr], clock: Clock, record: &Record) -> Result<Clients> {
    let (stores, record) = (stores.to_vec(), Arc::clone(record));
    Clients::start(guests, stores.len(), move |store, stop| {
        let mut visitor = Visitor::new(&stores[store..=store], 0);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(EVERY);
            if visitor.arrive().is_err() {
                continue;
            }
            match visitor.call(&["GET", "nobody:writes:this"]) {
                Outcome::Done(Answer::Null) => {
                    record.lock().unwrap_or_else(PoisonError::into_inner).push(Answered { store, at: clock.now() });
                }
                // Whatever else it says is no service.
                Outcome::Done(_) | Outcome::Refused(_) | Outcome::Unknown(_) => visitor.leave(),
            }
        }
    })
}
