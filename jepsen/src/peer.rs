//! The same lock on two stores under the same cut: Ballast, and Redis with a replica that is promoted.
//!
//! Each round the node that writes go to is cut off from the others while clients reach all of them, as happens when a
//! switch between two racks fails. For Redis somebody then promotes the replica, as Sentinel or an operator would; Ballast does
//! what it does by itself. After that the cut is healed, and for Redis the old primary is made the new one's replica.

use std::{net::SocketAddr, process::Command, sync::PoisonError, time::Duration};

use anyhow::{Result, ensure};
use ballast_testkit::{
    interrupt,
    lab::{Host, Lab, Process},
    resp::{Answer, Connection},
    wait,
};

use crate::{
    clock::Clock,
    run::LIFE_MARGIN,
    site::{STORE_PORT, Site},
    watch::Watch,
    workload::locks::{self, Held, LIFE},
};

/// Before the cut, and after it was healed.
const QUIET: Duration = Duration::from_millis(1500);
/// From the cut to the promotion. Sentinel waits 30 s if it is not told otherwise.
const NOTICED: Duration = Duration::from_millis(500);

/// Who held locks in so many rounds on Ballast.
///
/// # Errors
/// When there is no lab, or the cluster does not come up.
pub fn ballast(seed: u64, rounds: u32) -> Result<Vec<Held>> {
    let site = Site::in_namespaces(3)?;
    let clock = Clock::start();
    let watch = Watch::start(&site, clock)?;
    let record = locks::Record::default();
    let clients = locks::start(&site.guests, &site.stores(), clock, seed, LIFE_MARGIN, &record)?;
    println!("Cuts begin");
    for _ in (0..rounds).take_while(|_| !interrupt::came()) {
        interrupt::pause(QUIET);
        let leader = wait::until("a leader", || Ok(watch.leader()))?;
        cut(site.lab()?, leader)?;
        interrupt::pause(NOTICED + LIFE);
        site.lab()?.heal()?;
    }
    interrupt::pause(QUIET);
    clients.finish()?;
    watch.finish();
    Ok(std::mem::take(&mut *record.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// The same on Redis with one replica.
///
/// # Errors
/// When there is no lab, or no `redis-server`.
pub fn redis(seed: u64, rounds: u32) -> Result<Vec<Held>> {
    let lab = Lab::new(2)?;
    let stores: Vec<SocketAddr> = (0..2).map(|node| (Host::Node(node).ip(), STORE_PORT).into()).collect();
    let servers = (0..2).map(|node| server(&lab, node)).collect::<Result<Vec<_>>>()?;
    let clock = Clock::start();
    let record = locks::Record::default();
    let mut primary = 0;
    follow(&lab, stores[1], Some(stores[0]))?;
    let clients = locks::start(lab.guests(), &stores, clock, seed, LIFE_MARGIN, &record)?;
    for _ in (0..rounds).take_while(|_| !interrupt::came()) {
        let replica = 1 - primary;
        wait::until("a replica that is in step", || {
            let said = ask(&lab, stores[replica], &["INFO", "replication"])?;
            let Answer::Bulk(text) = said else { anyhow::bail!("{said:?}") };
            Ok(String::from_utf8_lossy(&text).contains("master_link_status:up").then_some(()))
        })?;
        interrupt::pause(QUIET);
        cut(&lab, primary)?;
        interrupt::pause(NOTICED);
        follow(&lab, stores[replica], None)?;
        interrupt::pause(LIFE);
        lab.heal()?;
        follow(&lab, stores[primary], Some(stores[replica]))?;
        primary = replica;
    }
    interrupt::pause(QUIET);
    clients.finish()?;
    drop(servers);
    Ok(std::mem::take(&mut *record.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Cuts a node off from the others. Clients reach all.
fn cut(lab: &Lab, node: usize) -> Result<()> {
    let others: Vec<Host> = (0..lab.nodes()).filter(|other| *other != node).map(Host::Node).collect();
    lab.partition(&[Host::Node(node)], &others)
}

fn server(lab: &Lab, node: usize) -> Result<Process> {
    let folder = lab.folder().join(format!("redis-{node}"));
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &STORE_PORT.to_string(), "--protected-mode", "no", "--save", "", "--appendonly", "no"])
        .args(["--repl-timeout", "2", "--dir"])
        .arg(&folder);
    lab.spawn(Host::Node(node), &format!("redis-{node}"), command)
}

/// Makes a server the replica of another, or a primary.
fn follow(lab: &Lab, server: SocketAddr, primary: Option<SocketAddr>) -> Result<()> {
    let (ip, port) = primary.map_or_else(
        || ("NO".to_owned(), "ONE".to_owned()),
        |primary| (primary.ip().to_string(), primary.port().to_string()),
    );
    wait::until("a change of roles", || {
        let said = ask(lab, server, &["REPLICAOF", &ip, &port])?;
        ensure!(said.is_ok(), "{said:?}");
        Ok(Some(()))
    })
}

fn ask(lab: &Lab, server: SocketAddr, words: &[&str]) -> Result<Answer> {
    lab.within(Host::Client, || Ok(Connection::open(server, Duration::from_secs(2))?.call(words)?))?
}
