//! Sets that only grow: each member is added once, and at the end every node must have each that was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ballast_jepsen::history::Recorder;
use ballast_testkit::{
    lab::{Guests, Host},
    resp::{Answer, Connection},
    wait,
};

use super::{Clients, Outcome, PATIENCE, Visitor};
use crate::{clock::Clock, plan::Random};

/// Each client has a set of its own, so that none grows too large to be read in one answer.
pub const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(6);

/// What is noted of an addition that was told that its member is there. Nobody else adds it and nobody asks for it again, so its
/// command was carried out twice.
pub const TWICE: &str = "there already";

/// Additions of numbers to the set of a key.
pub type Additions = Recorder<u64, ()>;

/// Lets clients add.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(
    guests: &Guests,
    stores: &[SocketAddr],
    clock: Clock,
    seed: u64,
    recorder: &Arc<Additions>,
) -> Result<Clients> {
    let (stores, recorder) = (stores.to_vec(), Arc::clone(recorder));
    Clients::start(guests, CLIENTS, move |number, stop| {
        let mut log = recorder.client();
        let (mut visitor, mut random) = (Visitor::new(&stores, number), Random(seed ^ number as u64 ^ 0x5e75));
        let (key, mut member) = (key(number), 0u64);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(PAUSE);
            visitor.wander(&mut random);
            if visitor.arrive().is_err() {
                continue;
            }
            member += 1;
            let pending = log.invoke(clock.now(), &key, member);
            match visitor.call(&["SADD", &key, &member.to_string()]) {
                Outcome::Done(Answer::Integer(1)) => pending.ok(clock.now(), ()),
                Outcome::Done(Answer::Integer(0)) => pending.unknown(clock.now(), TWICE),
                Outcome::Done(answer) => pending.unknown(clock.now(), format!("{answer:?}")),
                Outcome::Refused(why) => {
                    pending.fail(clock.now(), why);
                    visitor.leave();
                }
                Outcome::Unknown(why) => pending.unknown(clock.now(), why),
            }
        }
    })
}

/// The set of a client.
pub fn key(client: usize) -> String {
    format!("members:{client}")
}

/// What each node has in each set, by key and node.
///
/// # Errors
/// When a node does not answer, which after a recovery is a finding.
pub fn read(guests: &Guests, nodes: &[SocketAddr]) -> Result<BTreeMap<String, Vec<BTreeSet<u64>>>> {
    let mut sets = BTreeMap::new();
    for client in 0..CLIENTS {
        let key = key(client);
        let of_nodes = nodes
            .iter()
            .map(|address| {
                let ask = || wait::until(&format!("{key} at {address}"), || members(*address, &key).map(Some));
                guests.within(Host::Client, ask)?
            })
            .collect::<Result<Vec<_>>>()?;
        sets.insert(key, of_nodes);
    }
    Ok(sets)
}

fn members(address: SocketAddr, key: &str) -> Result<BTreeSet<u64>> {
    let mut connection = Connection::open(address, PATIENCE)?;
    let answer = connection.call(&["SMEMBERS", key])?;
    let Answer::Array(members) = answer else { anyhow::bail!("{answer:?}") };
    let set: BTreeSet<u64> = members
        .iter()
        .map(|member| match member {
            Answer::Bulk(bytes) => Ok(std::str::from_utf8(bytes)?.parse()?),
            other => anyhow::bail!("{other:?}"),
        })
        .collect::<Result<_>>()
        .with_context(|| format!("members of {key}"))?;
    ensure!(set.len() == members.len(), "{key} has a member twice");
    Ok(set)
}
