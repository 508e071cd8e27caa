//! Visitors of the shop, bound by its cookie, who go from node to node and over the VIP, and write down who served them.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{
    kept::Kept,
    says_why::{Got, Vain},
    time::{RunTime, Span},
};
use ballast_testkit::{
    client::{Client, Response},
    lab::Guests,
};
use serde::{Deserialize, Serialize};

use super::{Clients, note_kept};
use crate::{
    clock::Clock,
    plan::Random,
    proxied,
    site::{COOKIE, VIP_NAME},
};

const CLIENTS: usize = 6;
/// After so many requests a visitor forgets its cookie and comes as a new one. Some stay for long, and see many faults; some do not,
/// so that there are new ones at any time.
const VISITS: [u64; 2] = [400, 60];
/// One in so many requests is another login, by which the application changes the visitor's cookie.
const LOGINS: u64 = 100;

/// One request that a backend answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Served {
    /// By which the access log knows it.
    pub id: String,
    /// The visitor: the cookie that it had afterwards.
    pub visitor: String,
    /// The cookie that it came with, if it was given another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The backend that answered.
    pub backend: String,
    /// The position of the store that it went to; the last one is the VIP.
    pub through: usize,
    /// When it was sent.
    pub invoked: RunTime,
    /// When the answer was there.
    pub completed: RunTime,
}

/// What the visitors saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests that were answered by a backend.
    pub served: Vec<Served>,
    /// Those that were not.
    pub failed: Vec<Vain>,
    /// What became of the connections that visitors kept.
    pub kept: Kept,
    /// Ends of the requests that went over the VIP and were answered.
    pub over_vip: Vec<RunTime>,
}

/// Shared by the visitors.
pub type Record = Arc<Mutex<Seen>>;

/// Lets visitors in.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(guests: &Guests, shops: &[SocketAddr], clock: Clock, seed: u64, record: &Record) -> Result<Clients> {
    let (shops, record) = (shops.to_vec(), Arc::clone(record));
    Clients::start(guests, CLIENTS, move |number, stop| {
        let mut random = Random(seed ^ number as u64 ^ 0xb14d);
        let vip = shops.len() - 1;
        let fresh = || Client::new(shops[vip]).timeout(Duration::from_secs(3));
        let (mut client, mut asked) = (fresh(), 0);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10 + random.below(10)));
            asked += 1;
            if asked % VISITS[number % VISITS.len()] == 0 {
                client = fresh();
            }
            // Every second one over the VIP.
            let through = if random.below(2) == 0 { vip } else { random.below(vip as u64) as usize };
            client.go_to(shops[through]);
            let came_with = client.cookie(COOKIE).map(str::to_owned);
            let logs_in = random.below(LOGINS) == 0 || came_with.is_none();
            // Who logs in is given another one, which is to be bound.
            let (known_as, before) = if logs_in { (None, came_with.clone()) } else { (came_with.clone(), None) };
            let path = if logs_in { "/login" } else { "/basket" };
            let id = format!("{number}-{asked}");
            let path = proxied::path(path, &id);
            let invoked = clock.now();
            let answer = client.get(&path);
            let completed = clock.now();
            let via = if through == vip { VIP_NAME.to_owned() } else { format!("node-{}", through + 1) };
            let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
            note_kept(&mut seen.kept, &client, &id, &via, Span::new(invoked, completed));
            let got = match answer {
                Ok(answer) if answer.status == 200 => {
                    if let (Some(backend), Some(visitor)) = (answer.header("x-backend"), client.cookie(COOKIE)) {
                        let (backend, visitor) = (backend.to_owned(), visitor.to_owned());
                        let before = came_with.filter(|came_with| *came_with != visitor);
                        seen.served.push(Served { id, visitor, before, backend, through, invoked, completed });
                        if through == vip {
                            seen.over_vip.push(completed);
                        }
                        continue;
                    }
                    Got::Answer { status: 200, reason: Some(String::from("no backend's name, or no cookie")) }
                }
                answer => got(&answer),
            };
            seen.failed.push(Vain { id, via, span: Span::new(invoked, completed), got, known_as, before });
        }
    })
}

/// What a client got that was not served.
pub fn got(answer: &io::Result<Response>) -> Got {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    match answer {
        Ok(answer) => {
            let reason = answer.header("x-ballast-reason").map(str::to_owned);
            Got::Answer { status: answer.status, reason }
        }
        // A read that takes too long is `WouldBlock`.
        Err(error) if matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut) => {
            Got::NoConnection { error: format!("{:?}", error.kind()) }
        }
        Err(error) => Got::Nothing { error: format!("{:?}", error.kind()) },
    }
}

/// How often each reason was seen.
pub fn reasons(failed: &[Vain]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for vain in failed {
        let reason = match &vain.got {
            Got::Answer { status, reason } => {
                format!("status {status} {}", reason.as_deref().unwrap_or("of a backend"))
            }
            Got::Nothing { error } | Got::NoConnection { error } => error.clone(),
        };
        *counts.entry(reason).or_default() += 1;
    }
    counts
}
