//! Whether backends answer in time, asked as the nodes ask them and by somebody else.
//!
//! A machine that is too busy for an answer within the time of a check makes nodes call a backend down that nobody has broken.
//! That is no fault of theirs; and nobody has to believe them, because this client has seen it, too.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::time::{RunTime, Span};
use ballast_testkit::{client::Client, lab::Guests};

use super::Clients;
use crate::clock::Clock;

/// Shorter than the time that nodes give a check (150 ms), because these have more to do than this client.
const IN_TIME: Duration = Duration::from_millis(75);
const EVERY: Duration = Duration::from_millis(50);

/// When one of the backends took longer, this client's own delays included.
pub type Slow = Arc<Mutex<Vec<Span>>>;

/// Asks each backend all the time.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(guests: &Guests, backends: &[SocketAddr], clock: Clock, slow: &Slow) -> Result<Clients> {
    let (backends, slow) = (backends.to_vec(), Arc::clone(slow));
    Clients::start(guests, backends.len(), move |number, stop| {
        let mut began: RunTime = clock.now();
        while !stop.load(Ordering::Relaxed) {
            let _ = Client::new(backends[number]).timeout(Duration::from_secs(1)).get("/healthz");
            let until = clock.now();
            if until.since(began) > EVERY + IN_TIME {
                slow.lock().unwrap_or_else(PoisonError::into_inner).push(Span::new(began, until));
            }
            began = until;
            thread::sleep(EVERY);
        }
    })
}
