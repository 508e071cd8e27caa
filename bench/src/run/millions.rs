//! One cluster with millions of bindings: what is done to it, and what is seen.
//!
//! The bindings are made as clients make them, by a first request each, through all nodes. Then, in
//! this order: a node is killed and comes back from its old snapshot and a long log; all nodes write
//! snapshots under traffic; memory is read at rest; each node is killed and comes back from its
//! snapshot; a node joins empty, and once more in its place.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use ballast_testkit::client::Client;

use super::{
    ballast::{self, Ballast, KEY_HEADER},
    load, rounds,
    stage::Stage,
};
use crate::generate::{Options, Report};

const NODES: usize = 3;
/// In flight while the table is filled.
const IN_FLIGHT: usize = 1024;
/// First requests a second while stalls are looked for: far below any limit, so that a wait is not a queue's.
const CALM_RATE: f64 = 500.0;
/// Length of a window in which stalls are looked for. Several snapshots of millions of bindings fit in.
const CALM_SECS: f64 = 8.0;
/// Times that a node joins empty.
const JOINS: usize = 3;
/// Longest wait for a node to have all bindings.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at another process. The figures are in seconds.
const LOOK: Duration = Duration::from_millis(20);
/// Longest that one snapshot may take.
const SNAPSHOT_TIMEOUT: &str = "50s";

/// What was seen at one size. Each list has a value for each node, or for each time.
#[derive(Debug, Default)]
pub struct Seen {
    /// First requests a second while the table was filled.
    pub fill_rate: f64,
    /// Entries of the log when it was full.
    pub fill_entries: f64,
    /// How many of them were behind the last node's snapshot.
    pub behind_snapshot: f64,
    /// Seconds from the start of that node, killed then, until it serves.
    pub restart_after_fill: Vec<f64>,
    /// The same with a fresh snapshot.
    pub restart: Vec<f64>,
    /// Resident bytes at rest after a snapshot; the most since the start.
    pub resident: Vec<f64>,
    pub resident_peak: Vec<f64>,
    /// Resident bytes after [`Self::restart`].
    pub resident_restarted: Vec<f64>,
    /// Seconds that a node took for a snapshot while the others wrote theirs.
    pub snapshot: Vec<f64>,
    /// The longest first request meanwhile, and when there was no snapshot, in milliseconds.
    pub stall: Vec<f64>,
    pub stall_at_rest: Vec<f64>,
    /// Seconds from the start of an empty node until it has what the others have; resident bytes then.
    pub filled: Vec<f64>,
    pub resident_filled: Vec<f64>,
}

/// Fills a fresh cluster with `size` bindings and looks.
///
/// # Errors
/// When requests fail, or a node does not have all bindings in time.
pub fn look(stage: &mut Stage, size: u64) -> Result<Seen> {
    let backends = stage.backends()?;
    let mut cluster = Filled { ballast: Ballast::start(NODES, &backends, None)?, size };
    let mut seen = Seen::default();

    let tables = cluster.ballast.addresses(|site| site.table);
    let report = fill(stage, &tables, size)?;
    seen.fill_rate = report.rate();
    for node in 0..NODES {
        cluster.wait_all(node)?;
    }
    seen.fill_entries = cluster.ballast.metric(0, "ballast_raft_applied_index")?;

    // Snapshots that nodes wrote by themselves are as old as they may be; the rest is in the log.
    seen.behind_snapshot = seen.fill_entries - cluster.ballast.metric(NODES - 1, "ballast_raft_snapshot_index")?;
    seen.restart_after_fill.push(cluster.restart(NODES - 1)?);
    for _ in 0..stage.options.rounds.min(3) {
        let (snapshots, stall) = cluster.write_snapshots(stage)?;
        seen.snapshot.extend(snapshots);
        seen.stall.push(stall);
        seen.stall_at_rest.push(calm(stage, &tables)?.max_us / 1000.0);
    }
    for node in 0..NODES {
        let memory = cluster.ballast.memory(node)?;
        seen.resident.push(memory.resident as f64);
        seen.resident_peak.push(memory.peak as f64);
    }
    for node in 0..NODES {
        seen.restart.push(cluster.restart(node)?);
        seen.resident_restarted.push(cluster.ballast.memory(node)?.resident as f64);
    }
    let newcomer = ballast::prepare_node(cluster.ballast.cluster())?;
    for time in 0..JOINS {
        if time > 0 {
            cluster.ballast.cluster().remove(newcomer)?;
            cluster.ballast.cluster().join(newcomer)?;
        }
        seen.filled.push(cluster.fill_node(newcomer)?);
        seen.resident_filled.push(cluster.ballast.memory(newcomer)?.resident as f64);
    }
    Ok(seen)
}

/// Sends `size` first requests.
///
/// # Errors
/// When they fail or take too long.
pub fn fill(stage: &mut Stage, tables: &[SocketAddr], size: u64) -> Result<Report> {
    let options = Options {
        connections: IN_FLIGHT,
        requests: Some(size),
        secs: stage.options.fill_limit,
        ..first_requests(stage, tables)
    };
    let report = load::generate(&options)?;
    println!("{} bindings made in {:.0} s", report.done, report.seconds);
    Ok(report)
}

/// First requests through all nodes at a rate that nothing has to wait for.
fn calm(stage: &mut Stage, tables: &[SocketAddr]) -> Result<Report> {
    load::generate(&Options { rate: Some(CALM_RATE), secs: CALM_SECS, ..first_requests(stage, tables) })
}

fn first_requests(stage: &mut Stage, tables: &[SocketAddr]) -> Options {
    Options {
        path: "/0".to_owned(),
        key_header: Some(KEY_HEADER.to_owned()),
        key_space: stage.fresh_key_space(),
        ..Options::to(tables)
    }
}

/// A cluster that has all its bindings.
struct Filled {
    ballast: Ballast,
    size: u64,
}

impl Filled {
    /// Has all nodes write snapshots under traffic, one after the other each. Returns how many seconds each took, and
    /// the longest request in milliseconds.
    fn write_snapshots(&mut self, stage: &mut Stage) -> Result<(Vec<f64>, f64)> {
        let tables = self.ballast.addresses(|site| site.table);
        let cluster = &*self.ballast.cluster();
        let over = AtomicBool::new(false);
        let write = |node| {
            let mut took = Vec::new();
            while took.is_empty() || !over.load(Ordering::Relaxed) {
                let started = Instant::now();
                cluster.ctl_ok(node, &["--timeout", SNAPSHOT_TIMEOUT, "cluster", "snapshot"])?;
                took.push(started.elapsed().as_secs_f64());
            }
            anyhow::Ok(took)
        };
        thread::scope(|scope| {
            let writers: Vec<_> = (0..NODES).map(|node| scope.spawn(move || write(node))).collect();
            let report = calm(stage, &tables);
            over.store(true, Ordering::Relaxed);
            let mut all = Vec::new();
            for writer in writers {
                all.extend(writer.join().map_err(|_| anyhow!("a thread that asked for snapshots panicked"))??);
            }
            Ok((all, report?.max_us / 1000.0))
        })
    }

    /// Kills a node that knows a client and starts it again. Returns the seconds until it is ready, has all bindings and
    /// sends that client where it belongs.
    fn restart(&mut self, node: usize) -> Result<f64> {
        let table = self.ballast.site(node).table;
        let home = ask(&mut Client::new(table), node)?;
        self.ballast.cluster().kill(node);
        let started = Instant::now();
        self.ballast.cluster().spawn(node)?;
        wait(&format!("node {} to serve again", node + 1), || {
            self.ballast.is_ready(node)?;
            self.has(node, self.size - self.size / 1000)?;
            let now = ask(&mut Client::new(table), node)?;
            // No later look can make that right.
            Ok(if now == home { Ok(()) } else { Err(anyhow!("the client of {home} was sent to {now}")) })
        })??;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Starts a node that has joined and has nothing. Returns the seconds until it has all that the others had.
    fn fill_node(&mut self, node: usize) -> Result<f64> {
        let bindings = self.ballast.bindings(0)?;
        let applied = self.ballast.metric(0, "ballast_raft_applied_index")?;
        let started = Instant::now();
        self.ballast.cluster().spawn(node)?;
        wait(&format!("node {} to be filled", node + 1), || {
            let reached = self.ballast.metric(node, "ballast_raft_applied_index")?;
            ensure!(reached >= applied, "it has applied {reached} of {applied} entries");
            self.has(node, bindings)
        })?;
        let took = started.elapsed().as_secs_f64();
        let name = self.ballast.cluster().node(node).name().to_owned();
        wait("the states to be compared", || self.is_equal(&name))??;
        Ok(took)
    }

    /// Whether the state of the named node has the hash that the first node's has at the same index, if both told one.
    fn is_equal(&mut self, name: &str) -> Result<Result<()>> {
        let status = self.ballast.cluster().ctl_json(0, &["cluster", "status"])?;
        let told = |name: Option<&str>| {
            let node = status["nodes"].as_array()?.iter().find(|node| node["name"].as_str() == name)?;
            Some((node["state_hash_index"].as_u64()?, node["state_hash"].as_str().filter(|hash| !hash.is_empty())?))
        };
        let first = told(status["node_name"].as_str()).context("the first node told no hash")?;
        let (index, hash) = told(Some(name)).with_context(|| format!("{name} told no hash"))?;
        ensure!(index == first.0, "{name} told the hash of another index");
        Ok(if hash == first.1 { Ok(()) } else { Err(anyhow!("{name} has another state than the first node")) })
    }

    /// Waits until a node has all bindings, less those few whose first request failed.
    fn wait_all(&self, node: usize) -> Result<()> {
        wait(&format!("all bindings on node {}", node + 1), || self.has(node, self.size - self.size / 1000))
    }

    fn has(&self, node: usize, wanted: u64) -> Result<()> {
        let count = self.ballast.bindings(node)?;
        ensure!(count >= wanted, "node {} has {count} bindings of {wanted}", node + 1);
        Ok(())
    }
}

/// Sends the request of a client that stays with its backend; returns which that is.
fn ask(client: &mut Client, node: usize) -> Result<String> {
    let key = format!("probe of node {}", node + 1);
    let answer = client.request("GET", "/0", &[(KEY_HEADER, &key)], b"")?;
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(answer.header("x-backend").context("the backend does not say its name")?.to_owned())
}

/// Looks until `probe` succeeds.
fn wait<T>(what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        let error = match probe() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        ensure!(started.elapsed() < PATIENCE, "gave up waiting for {what} after {PATIENCE:?}: {error:#}");
        ensure!(!rounds::interrupted(), "interrupted");
        thread::sleep(LOOK);
    }
}
