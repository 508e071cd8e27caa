//! One fault, once: settle, watch, begin, hold, end, settle, judge.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ballast_testkit::lab::Host;
use serde::{Deserialize, Serialize};

use crate::{
    client::Clients,
    faults::Fault,
    kernel,
    observer::{Kind, Observer},
    systems::{self, Site},
};

/// Before the fault, so that gaps have a beginning.
const LEAD: Duration = Duration::from_millis(300);
/// Longest that one repetition is recorded.
const RECORD_MAX: Duration = Duration::from_secs(120);
/// How long one node has to be the only owner before the next fault.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// What was seen of one repetition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Longest time without an answer to clients, from the fault's begin to its end.
    pub outage_ms: f64,
    /// The same after the end.
    pub after_heal_ms: f64,
    /// Time with two or more nodes answering for the VIP, from the fault's begin to the last moment watched.
    pub dual_ms: f64,
    /// Of that, after the fault's end.
    pub dual_after_heal_ms: f64,
    /// Time with two or more nodes that answered connections alone.
    pub dual_connections_ms: f64,
    /// Time that may have had two.
    pub doubtful_ms: f64,
    /// Longest time in which no node accepted connections.
    pub nobody_ms: f64,
    /// Requests on new connections without an answer, all in all.
    pub failed_requests: f64,
    /// Longest time without an answer on the open connection, or on those that replaced it, all in all.
    pub open_connection_stall_ms: f64,
    /// Requests on it that were not answered.
    pub open_connection_failed: f64,
    /// Slowest answer on a new connection.
    pub slowest_ms: f64,
    /// Announcements of the VIP, by anybody.
    pub announcements: f64,
    /// Changes of the node that answers clients.
    pub flips: f64,
    /// Percent of the observer's ticks that the machine did not let it have.
    pub missed_percent: f64,
}

/// Runs one repetition.
///
/// # Errors
/// When the system has no single owner to begin with or does not recover.
pub fn run(site: &mut Site, fault: Fault) -> Result<Seen> {
    let victim = prepare(site, fault)?;
    // What the last repetition taught the client's kernel would decide this one.
    site.lab.run(Host::Client, &["ip", "neigh", "flush", "dev", "eth0"])?;
    let pace = site.system.pace();
    let observer = Observer::start(&site.lab, systems::target(), RECORD_MAX)?;
    let clients = Clients::start(&site.lab, systems::vip(), RECORD_MAX)?;
    thread::sleep(LEAD);

    let began = kernel::now_nanos();
    let outcome = fault.begin(site, victim).and_then(|()| {
        thread::sleep(pace.hold.saturating_sub(Duration::from_nanos(kernel::now_nanos() - began)));
        let ended = kernel::now_nanos();
        fault.end(site, victim)?;
        // A node that takes long to return is watched until it has.
        site.system.wait_well()?;
        thread::sleep(pace.settle.saturating_sub(Duration::from_nanos(kernel::now_nanos() - ended)));
        Ok(ended)
    });
    let over = kernel::now_nanos();
    let (clients, history) = (clients.finish(), observer.finish());
    let ended = outcome?;

    let dual = history.dual(None, began, over);
    Ok(Seen {
        outage_ms: clients.new.outage_ms(began, ended),
        after_heal_ms: clients.new.outage_ms(ended, over),
        dual_ms: dual.ms,
        dual_after_heal_ms: history.dual(None, ended, over).ms,
        dual_connections_ms: history.dual(Some(Kind::Syn), began, over).ms,
        doubtful_ms: dual.doubtful_ms,
        nobody_ms: history.nobody_ms(began, over),
        failed_requests: clients.new.failed(began, over) as f64,
        open_connection_stall_ms: clients.open.outage_ms(began, over),
        open_connection_failed: clients.open.failed(began, over) as f64,
        slowest_ms: clients.new.slowest_ms(began, over),
        announcements: history.announcements(began, over) as f64,
        flips: clients.new.flips(began, over) as f64,
        missed_percent: history.missed(began, over) * 100.0,
    })
}

/// Waits for one owner and brings it where the fault wants it. Returns whom it shall befall.
fn prepare(site: &mut Site, fault: Fault) -> Result<usize> {
    site.system.wait_well()?;
    for _ in 0..5 {
        let owner = wait_owner(site)?;
        match fault.victim(site, owner) {
            Ok(victim) => return Ok(victim),
            Err(error) if !fault.wants_owner_beside_leader() => return Err(error),
            Err(_) => site.system.move_away(owner)?,
        }
    }
    bail!("the owner and the leader do not part")
}

/// Waits until one node alone has owned the VIP for a while.
///
/// # Errors
/// When there is none in time.
pub fn wait_owner(site: &Site) -> Result<usize> {
    let started = Instant::now();
    while started.elapsed() < QUIET_WITHIN {
        let history = Observer::look(&site.lab, systems::target(), QUIET + QUIET / 2)?;
        if let Some(owner) = history.owner(QUIET.as_nanos() as u64) {
            return Ok(owner);
        }
    }
    bail!("{} has no single owner within {QUIET_WITHIN:?}:\n{}", site.kind, site.system.last_words())
}
