//! Visitors of the shop, bound by its cookie, who go from node to node and over the VIP, and write down who served them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::time::RunTime;
use ballast_testkit::{client::Client, lab::Lab};
use serde::{Deserialize, Serialize};

use super::Clients;
use crate::{clock::Clock, plan::Random, site::COOKIE};

const CLIENTS: usize = 6;
/// After so many requests a visitor forgets its cookie and comes as a new one.
const VISIT: u64 = 400;

/// One request that a backend answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Served {
    /// The visitor: its cookie.
    pub visitor: String,
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
    /// When a request was not, through which store, and why.
    pub failed: Vec<(RunTime, usize, String)>,
    /// Ends of the requests that went over the VIP and were answered.
    pub over_vip: Vec<RunTime>,
}

/// Shared by the visitors.
pub type Record = Arc<Mutex<Seen>>;

/// Lets visitors in.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(lab: &Lab, shops: &[SocketAddr], clock: Clock, seed: u64, record: &Record) -> Result<Clients> {
    let (shops, record) = (shops.to_vec(), Arc::clone(record));
    Clients::start(lab, CLIENTS, move |number, stop| {
        let mut random = Random(seed ^ number as u64 ^ 0xb14d);
        let vip = shops.len() - 1;
        let fresh = || Client::new(shops[vip]).timeout(Duration::from_secs(3));
        let (mut client, mut asked) = (fresh(), 0);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10 + random.below(10)));
            asked += 1;
            if asked % VISIT == 0 {
                client = fresh();
            }
            // Every second one over the VIP.
            let through = if random.below(2) == 0 { vip } else { random.below(vip as u64) as usize };
            client.go_to(shops[through]);
            let path = if client.cookie(COOKIE).is_some() { "/basket" } else { "/login" };
            let invoked = clock.now();
            let answer = client.get(path);
            let completed = clock.now();
            let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(answer) if answer.status == 200 => {
                    let (Some(backend), Some(visitor)) = (answer.header("x-backend"), client.cookie(COOKIE)) else {
                        continue;
                    };
                    let (backend, visitor) = (backend.to_owned(), visitor.to_owned());
                    seen.served.push(Served { visitor, backend, through, invoked, completed });
                    if through == vip {
                        seen.over_vip.push(completed);
                    }
                }
                Ok(answer) => seen.failed.push((completed, through, format!("status {}", answer.status))),
                Err(error) => seen.failed.push((completed, through, format!("{:?}", error.kind()))),
            }
        }
    })
}

/// How often each reason was seen.
pub fn reasons(failed: &[(RunTime, usize, String)]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, _, reason) in failed {
        *counts.entry(reason.as_str()).or_default() += 1;
    }
    counts
}
