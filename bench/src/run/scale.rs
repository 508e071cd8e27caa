//! Millions of bindings: memory, restart, and how long a new node takes to have them.
//!
//! The table is filled by as many first requests as it gets entries, through the proxy, so this
//! sees what an operator would see: a daemon's resident memory, the time from its start until it
//! is ready and has all of them, and the same for a node that joins.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    ballast::{self, Ballast, KEY_HEADER},
    haproxy::Tuning,
    load,
    report::Row,
    rounds,
    stage::{BALLAST, Stage, Subject},
};
use crate::{generate::Options, process};

const CONNECTIONS: usize = 512;
/// Longest wait for a node to have all bindings.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was seen at one size.
struct Seen {
    resident: f64,
    restart: f64,
    resident_after_restart: f64,
    install: f64,
    resident_joined: f64,
}

pub fn at_scale(stage: &mut Stage) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for size in stage.options.sizes.clone() {
        stage.clear();
        let peers = peers_at(stage, size)?;
        let mut resident: Vec<(&str, Vec<f64>)> = peers.into_iter().map(|(name, bytes)| (name, vec![bytes])).collect();
        let name = |what: &str| format!("bindings_{}_{what}", short(size));
        if stage.options.without_ballast {
            rows.push(Row::of(&name("resident_bytes"), "bytes", &resident));
            continue;
        }
        let seen = ballast_at(stage, size).with_context(|| format!("with {size} bindings"))?;
        resident.push((BALLAST, vec![seen.resident]));
        let ours = |value: f64| [(BALLAST, vec![value])];
        rows.push(
            Row::of(&name("resident_bytes"), "bytes", &resident).note(format!("{size} bindings; the whole process")),
        );
        rows.push(
            Row::of(&name("restart"), "s", &ours(seen.restart)).note("from the start until ready with all of them"),
        );
        rows.push(Row::of(&name("resident_bytes_after_restart"), "bytes", &ours(seen.resident_after_restart)));
        rows.push(
            Row::of(&name("snapshot_install"), "s", &ours(seen.install)).note("a node that joins, until it has all"),
        );
        rows.push(Row::of(&name("resident_bytes_joined"), "bytes", &ours(seen.resident_joined)));
    }
    Ok(rows)
}

fn ballast_at(stage: &mut Stage, size: u64) -> Result<Seen> {
    let backends = stage.backends()?;
    let mut ballast = Ballast::start(1, &backends, None)?;
    fill(stage, ballast.site(0).table, size)?;
    wait_bindings(&ballast, 0, size)?;
    let resident = process::resident_bytes(&ballast.pids())? as f64;

    ballast.cluster().terminate(0)?;
    let started = Instant::now();
    ballast.cluster().spawn(0)?;
    ballast.cluster().wait_ready(0)?;
    wait_bindings(&ballast, 0, size)?;
    let restart = started.elapsed().as_secs_f64();
    let resident_after_restart = process::resident_bytes(&ballast.pids())? as f64;

    let joined = ballast::prepare_node(ballast.cluster())?;
    let started = Instant::now();
    ballast.cluster().spawn(joined)?;
    wait_bindings(&ballast, joined, size)?;
    let install = started.elapsed().as_secs_f64();
    let pid = ballast.cluster().node(joined).pid().context("the joined node runs")?;
    let resident_joined = process::resident_bytes(&[pid])? as f64;
    Ok(Seen { resident, restart, resident_after_restart, install, resident_joined })
}

/// Memory of the peers that have a table, filled in the same way.
fn peers_at(stage: &mut Stage, size: u64) -> Result<Vec<(&'static str, f64)>> {
    let peers: Vec<Subject> = stage.peers(Tuning::Defaults)?.into_iter().filter(|p| p.table.is_some()).collect();
    let mut seen = Vec::new();
    for peer in peers {
        fill(stage, peer.table.context("has a table")?, size).with_context(|| peer.name.to_owned())?;
        seen.push((peer.name, process::resident_bytes(&peer.pids())? as f64));
    }
    Ok(seen)
}

/// Sends `size` first requests.
fn fill(stage: &mut Stage, table: std::net::SocketAddr, size: u64) -> Result<()> {
    let options = Options {
        path: "/0".to_owned(),
        connections: CONNECTIONS,
        requests: Some(size),
        secs: stage.options.fill_limit,
        key_header: Some(KEY_HEADER.to_owned()),
        key_space: stage.fresh_key_space(),
        ..Options::to(&[table])
    };
    let report = load::generate(&options)?;
    println!("{} bindings made in {:.0} s", report.done, report.seconds);
    Ok(())
}

/// Waits until a node has `size` bindings, less those few whose first request failed.
fn wait_bindings(ballast: &Ballast, node: usize, size: u64) -> Result<()> {
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < PATIENCE {
        match ballast.bindings(node) {
            Ok(count) if count >= size - size / 1000 => return Ok(()),
            Ok(count) => last = format!("{count} bindings"),
            Err(error) => last = format!("{error:#}"),
        }
        if rounds::interrupted() {
            bail!("interrupted");
        }
        // Between two looks at another process; the figures are in seconds.
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(false, "node {} has not {size} bindings after {PATIENCE:?}: {last}", node + 1);
    Ok(())
}

/// `7m` for seven million.
fn short(size: u64) -> String {
    match size {
        s if s > 0 && s % 1_000_000 == 0 => format!("{}m", s / 1_000_000),
        s if s > 0 && s % 1000 == 0 => format!("{}k", s / 1000),
        s => s.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_short_names() {
        assert_eq!([7_000_000, 20_000, 1_234, 0].map(short), ["7m", "20k", "1234", "0"]);
    }
}
