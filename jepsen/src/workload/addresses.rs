//! Clients that are known by their addresses alone: one where clients are, and one where backends are.
//!
//! They go from node to node and over the VIP, to a farm of their own, and write down who served them, and what was in vain: it may
//! have moved them.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{says_why::Vain, time::Span};
use ballast_testkit::{
    client::Client,
    lab::{Guests, Host},
};

use super::{
    Clients, PATIENCE,
    bindings::{Record, Served, got},
};
use crate::{clock::Clock, judge, plan::Random, proxied};

/// Where they are; each has an address.
pub const CLIENTS: [Host; 2] = [Host::Client, Host::Backends];

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
            let by = answer.as_ref().ok().filter(|answer| answer.status == 200);
            let by = by.and_then(|answer| answer.header("x-backend")).map(str::to_owned);
            let (visitor, mut seen) = (visitor.clone(), record.lock().unwrap_or_else(PoisonError::into_inner));
            match by {
                Some(backend) => {
                    seen.served.push(Served { id, visitor, before: None, backend, through, invoked, completed });
                }
                None => seen.failed.push(Vain {
                    id,
                    via: judge::via(through, vip),
                    span: Span::new(invoked, completed),
                    got: got(&answer),
                    known_as: Some(visitor),
                    before: None,
                }),
            }
        }
    })
}
