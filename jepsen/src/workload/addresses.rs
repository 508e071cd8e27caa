//! Clients that are known by their addresses alone: one where clients are, and one where backends are.
//!
//! They go from node to node and over the VIP, to a farm of their own, and write down who served them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_testkit::{
    client::Client,
    lab::{Guests, Host},
};

use super::{Clients, PATIENCE, bindings::Served};
use crate::{clock::Clock, plan::Random, proxied};

/// Where they are; each has an address.
pub const CLIENTS: [Host; 2] = [Host::Client, Host::Backends];

/// What backends answered.
pub type Record = Arc<Mutex<Vec<Served>>>;

/// Lets them ask at all `doors`, of which the last is the VIP.
///
/// # Errors
/// When the network of one of them cannot be entered.
pub fn start(guests: &Guests, doors: &[SocketAddr], clock: Clock, seed: u64, record: &Record) -> Result<Clients> {
    let (doors, record) = (doors.to_vec(), Arc::clone(record));
    Clients::start_on(guests, &CLIENTS, move |number, stop| {
        let mut random = Random(seed ^ number as u64 ^ 0xadd5);
        let vip = doors.len() - 1;
        let (mut client, mut asked) = (Client::new(doors[vip]).timeout(PATIENCE), 0u64);
        let visitor = CLIENTS[number].to_string();
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(30 + random.below(20)));
            asked += 1;
            // Every second one over the VIP.
            let through = if random.below(2) == 0 { vip } else { random.below(vip as u64) as usize };
            client.go_to(doors[through]);
            let id = format!("{visitor}-{asked}");
            let invoked = clock.now();
            let answer = client.get(&proxied::path("/basket", &id));
            let completed = clock.now();
            // What became of the others is asked of visitors and buyers.
            let Ok(answer) = answer else { continue };
            if let (200, Some(backend)) = (answer.status, answer.header("x-backend")) {
                let (visitor, backend) = (visitor.clone(), backend.to_owned());
                let served = Served { id, visitor, before: None, backend, through, invoked, completed };
                record.lock().unwrap_or_else(PoisonError::into_inner).push(served);
            }
        }
    })
}
