//! Planned moves under load: an operator moves the VIP while thousands of requests a second go through it.
//!
//! Two generators run in the client's network, one with a new connection for each request and one that keeps its
//! connections, both open loop: what is late is late by the schedule, not by the last answer. Beside them, visitors of
//! three shops, bound by a cookie, note which shop answers. Each move has a
//! twin, the same load on the same owner without a move, so that what the machine adds is not put down to the move.

use std::{net::SocketAddr, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    client,
    cluster::bin_dir,
    lab::Host,
    visitors::{self, Behaviour, Verdict, Visitors},
    wait,
};
use serde::Deserialize;

use crate::{
    faults::Fault,
    repetition,
    systems::{self, Kind, Site},
};

/// Seconds of load around each move.
const LOAD_SECS: f64 = 1.2;
/// When the move begins after the load did.
const MOVE_AFTER: Duration = Duration::from_millis(700);
const SHOPS: u16 = 3;
/// Visitors that keep their connections, and as many that open one for each request.
const VISITORS: usize = 6;
const VISITORS_PAUSE: Duration = Duration::from_millis(20);

/// What a generator reports; it has more to say.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Report {
    done: u64,
    refused: u64,
    failed: u64,
    p50_us: f64,
    max_us: f64,
}

/// Moves the VIP `moves` times under `rate` requests a second of each kind.
///
/// # Errors
/// When a request failed, a visitor was sent to another shop, or a move did not happen.
pub fn run(kind: &Kind, moves: u32, rate: u32) -> Result<()> {
    let mut site = Site::start_with_shops(kind.clone(), SHOPS)?;
    let visitors = let_in(&site)?;
    let modes = ["new-connection", "keep-alive"];
    let mut moved: Vec<[Report; 2]> = Vec::new();
    let mut still: Vec<[Report; 2]> = Vec::new();
    for number in 1..=moves {
        crate::go_on()?;
        site.system.wait_well()?;
        let owner = repetition::wait_owner(&site)?;
        still.push(loaded(&mut site, rate, |_| Ok(()))?);
        let reports = loaded(&mut site, rate, |site| Fault::PlannedMove.begin(site, owner))?;
        for (mode, report) in modes.iter().zip(&reports) {
            let twin = still[still.len() - 1][usize::from(*mode == "keep-alive")];
            println!(
                "{number:>3} {mode:14} {:5} requests, {} failed, {} refused, slowest {:7.2} ms (without a move {:7.2} ms, median {:.2} ms)",
                report.done,
                report.failed,
                report.refused,
                report.max_us / 1e3,
                twin.max_us / 1e3,
                twin.p50_us / 1e3,
            );
        }
        moved.push(reports);
    }
    let mut lost = 0;
    let strayed = judge_visitors(visitors);
    for (at, mode) in modes.iter().enumerate() {
        let worst = |reports: &[[Report; 2]]| reports.iter().map(|pair| pair[at].max_us).fold(0.0, f64::max) / 1e3;
        let mut maxima: Vec<f64> = moved.iter().map(|pair| pair[at].max_us / 1e3).collect();
        maxima.sort_by(f64::total_cmp);
        let failed: u64 = moved.iter().map(|pair| pair[at].failed + pair[at].refused).sum();
        let done: u64 = moved.iter().map(|pair| pair[at].done).sum();
        println!(
            "{kind} {mode}: {moves} moves, {done} requests, {failed} failed; slowest of a move: median {:.2} ms, worst {:.2} ms; without: worst {:.2} ms",
            maxima[maxima.len() / 2],
            worst(&moved),
            worst(&still),
        );
        lost += failed;
    }
    ensure!(lost == 0, "{lost} requests failed");
    strayed
}

/// Visitors of the shops, all of them served once.
fn let_in(site: &Site) -> Result<Vec<Visitors>> {
    let shop = SocketAddr::from((systems::target().vip, systems::SHOP_PORT));
    site.lab.within(Host::Client, || client::wait_served(shop))??;
    let behaviour =
        |new_connections| Behaviour { visitors: VISITORS, pause: VISITORS_PAUSE, servers: vec![shop], new_connections };
    let all = site.lab.within(Host::Client, || [true, false].map(|new| Visitors::start(&behaviour(new))))?;
    wait::until("every visitor to be served", || {
        Ok(all.iter().all(|some| some.logged_in() == VISITORS).then_some(()))
    })?;
    Ok(all.into())
}

/// Sends the visitors home.
fn judge_visitors(all: Vec<Visitors>) -> Result<()> {
    let mut problems = Vec::new();
    for (kind, some) in ["new-connection", "keep-alive"].into_iter().zip(all) {
        let Verdict { served, failed, moved, .. } = visitors::judge(&some.stop());
        println!("{VISITORS} visitors, {kind}: {served} requests, failed: {failed:?}, sent to another shop: {moved:?}");
        if !failed.is_empty() || !moved.is_empty() {
            problems.push(kind);
        }
    }
    ensure!(problems.is_empty(), "visitors failed or were sent to another shop: {}", problems.join(", "));
    Ok(())
}

/// Both loads, with something done in the middle.
fn loaded(site: &mut Site, rate: u32, middle: impl FnOnce(&mut Site) -> Result<()>) -> Result<[Report; 2]> {
    let start = |mode: &str, connections: u32| {
        let mut command = Command::new(bin_dir()?.join("ballast-bench"));
        command.args(["generate", "--mode", mode, "--path", "/", "--warm-up", "0.2"]);
        let target = systems::target();
        let address = SocketAddr::from((target.vip, target.port)).to_string();
        command.args(["--address", &address, "--secs", &LOAD_SECS.to_string()]);
        command.args(["--connections", &connections.to_string(), "--rate", &rate.to_string()]);
        site.lab.spawn(Host::Client, mode, command)
    };
    let mut loads = [start("new-connection", 256)?, start("keep-alive", 64)?];
    thread::sleep(MOVE_AFTER);
    middle(site)?;
    let read = |load: &mut ballast_testkit::lab::Process| {
        load.wait();
        let log = load.log();
        let line = log
            .lines()
            .rev()
            .find(|line| line.starts_with('{'))
            .with_context(|| format!("a generator said:\n{log}"))?;
        serde_json::from_str(line).with_context(|| line.to_owned())
    };
    let [new, kept] = &mut loads;
    Ok([read(new)?, read(kept)?])
}
