//! The session store beside Redis and etcd: acknowledged writes and reads a second, and what they cost.
//!
//! Ballast is three synced nodes on the machine's cores, and clients use all of them; Redis is one process that
//! replicates nothing, once with a sync for each answer and once with one a second; etcd is three members. The load is
//! `redis-benchmark`, one process for each node, and for etcd the client of the other cases.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{cluster::Cluster, ports, programs, store};

use super::{
    etcd::Etcd,
    report::Row,
    rounds,
    stage::{BALLAST, Stage},
};
use crate::process::{self, Guarded};

const NODES: usize = 3;
/// Clients of one store, all nodes together.
const CONNECTIONS: [usize; 3] = [1, 50, 500];
/// Commands that a client sends before it waits.
const PIPELINES: [usize; 2] = [1, 16];
/// Bytes of a value.
const VALUE: usize = 64;
/// Keys that are written and read.
const KEYS: u32 = 100_000;

/// A store that is measured.
enum Store {
    Ballast { cluster: Cluster, addresses: Vec<SocketAddr> },
    Redis { server: Guarded, address: SocketAddr },
    Etcd(Etcd),
}

/// One load on one store.
#[derive(Clone, Copy, Default)]
struct Measured {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

/// Writes and reads with few and many clients, with and without pipelining.
pub fn commands(stage: &mut Stage) -> Result<Vec<Row>> {
    stage.clear();
    let Some(load) = programs::find_or_tell("redis-benchmark", "redis-tools") else { return Ok(Vec::new()) };
    let mut stores: Vec<(&str, Store)> = Vec::new();
    if !stage.options.without_ballast {
        let (cluster, addresses) = store::start("version: 1\nsessions: {}\n")?;
        stores.push((BALLAST, Store::Ballast { cluster, addresses }));
    }
    if let Some(program) = programs::find_or_tell("redis-server", "redis-server") {
        for (name, sync) in [("redis_always", "always"), ("redis_everysec", "everysec")] {
            stores.push((name, redis(&program, &stage.folder().join(name), sync)?));
        }
    }
    stores.extend(Etcd::start(stage.folder(), NODES)?.map(|etcd| ("etcd", Store::Etcd(etcd))));
    for (name, store) in &stores {
        // Reads find something.
        store.measure(&load, "set", 50, 16, 2.0).with_context(|| format!("fill {name}"))?;
    }

    let mut rows = Vec::new();
    for command in ["set", "get"] {
        for pipeline in PIPELINES {
            for connections in CONNECTIONS {
                let subjects: Vec<_> = stores.iter().filter(|(_, store)| store.takes(command, pipeline)).collect();
                let measured = rounds::interleave(&subjects, stage.options.rounds, |(name, store)| {
                    let measured = store.measure(&load, command, connections, pipeline, stage.options.secs);
                    measured.with_context(|| format!("{command}, {connections} connections, on {name}"))
                })?;
                let values = |of: fn(&Measured) -> f64| -> Vec<(&str, Vec<f64>)> {
                    let measured = measured.iter().map(|rounds| rounds.iter().map(of).collect());
                    subjects.iter().map(|(name, _)| *name).zip(measured).collect()
                };
                let deep = if pipeline == 1 { String::new() } else { format!("_pipeline_{pipeline}") };
                let name = |what: &str| format!("session_{command}_{connections}_connections{deep}{what}");
                let note = format!(
                    "{VALUE} bytes, {pipeline} at a time; Ballast: {NODES} nodes, clients on all of them, synced; Redis: one \
                     process, not replicated; etcd: {NODES} members"
                );
                rows.extend([
                    Row::of(&name(""), "1/s", &values(|m| m.per_second)).note(note),
                    Row::of(&name("_p50"), "us", &values(|m| m.p50_us)).without_ratio(),
                    Row::of(&name("_p99"), "us", &values(|m| m.p99_us)).without_ratio(),
                    Row::of(&name("_cpu"), "us CPU/command", &values(|m| m.cpu_us)).note("all processes of the store"),
                ]);
            }
        }
    }
    Ok(rows)
}

fn redis(program: &Path, folder: &Path, sync: &str) -> Result<Store> {
    std::fs::create_dir_all(folder)?;
    let address = ports::free_local()?;
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", sync, "--dir"]).arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Guarded::spawn(&mut command).context("start redis-server")?;
    store::wait_serving(address)?;
    Ok(Store::Redis { server, address })
}

impl Store {
    fn takes(&self, command: &str, pipeline: usize) -> bool {
        match self {
            Self::Ballast { .. } | Self::Redis { .. } => true,
            // Its client puts, one at a time.
            Self::Etcd(_) => command == "set" && pipeline == 1,
        }
    }

    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Ballast { cluster, .. } => (0..cluster.len()).filter_map(|node| cluster.node(node).pid()).collect(),
            Self::Redis { server, .. } => vec![server.id()],
            Self::Etcd(_) => Vec::new(),
        }
    }

    /// Puts a load on it for about `secs`.
    fn measure(&self, load: &Path, command: &str, connections: usize, pipeline: usize, secs: f64) -> Result<Measured> {
        let addresses = match self {
            Self::Ballast { addresses, .. } => addresses.as_slice(),
            Self::Redis { address, .. } => std::slice::from_ref(address),
            Self::Etcd(etcd) => {
                let puts = etcd.puts(connections, secs)?;
                let cpu_us = puts.cpu_us_per_request();
                return Ok(Measured { per_second: puts.rate(), p50_us: puts.p50_us, p99_us: puts.p99_us, cpu_us });
            }
        };
        let used = &addresses[..addresses.len().min(connections)];
        let run = |count: u64| run(load, used, command, connections, pipeline, count);
        // A short one says how long the real one has to be.
        let first = run(200 * (connections * pipeline).min(50) as u64)?;
        let count = (first.iter().map(|one| one.per_second).sum::<f64>() * secs) as u64;
        let cpu = process::cpu_nanos(&self.pids())?;
        let parts = run(count.max(1000))?;
        let cpu_us = (process::cpu_nanos(&self.pids())? - cpu) as f64 / 1000.0;
        let mean = |of: fn(&Measured) -> f64| parts.iter().map(of).sum::<f64>() / parts.len() as f64;
        Ok(Measured {
            per_second: parts.iter().map(|one| one.per_second).sum(),
            p50_us: mean(|one| one.p50_us),
            p99_us: parts.iter().map(|one| one.p99_us).fold(0.0, f64::max),
            cpu_us: cpu_us / count.max(1000) as f64,
        })
    }
}

/// `count` commands, shared out among the nodes, all at the same time.
fn run(
    load: &Path,
    addresses: &[SocketAddr],
    command: &str,
    connections: usize,
    pipeline: usize,
    count: u64,
) -> Result<Vec<Measured>> {
    thread::scope(|scope| {
        let each =
            |position: usize| connections / addresses.len() + usize::from(position < connections % addresses.len());
        let running: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(position, address)| {
                let mut program = Command::new(load);
                program.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "--csv", "-t", command]);
                program.args(["-c", &each(position).to_string(), "-P", &pipeline.to_string()]);
                program.args(["-n", &(count / addresses.len() as u64).max(1).to_string()]);
                program.args(["-d", &VALUE.to_string(), "-r", &KEYS.to_string()]);
                scope.spawn(move || program.stdin(Stdio::null()).output())
            })
            .collect();
        running
            .into_iter()
            .map(|one| {
                let output = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                let text = String::from_utf8_lossy(&output.stdout);
                ensure!(output.status.success(), "redis-benchmark: {}", String::from_utf8_lossy(&output.stderr).trim());
                parse(&text).with_context(|| format!("redis-benchmark said:\n{text}"))
            })
            .collect()
    })
}

/// Reads the CSV of `redis-benchmark`: test, rps, average, minimum, p50, p95, p99 and maximum in milliseconds.
fn parse(csv: &str) -> Option<Measured> {
    let line = csv.lines().rev().find(|line| line.starts_with('"') && !line.starts_with("\"test\""))?;
    let cells: Vec<f64> =
        line.split(',').skip(1).map(|cell| cell.trim_matches('"').parse().ok()).collect::<Option<_>>()?;
    let &[per_second, _, _, p50, _, p99, _] = cells.as_slice() else { return None };
    Some(Measured { per_second, p50_us: p50 * 1000.0, p99_us: p99 * 1000.0, cpu_us: 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_benchmark_says_is_read() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                   \"p99_latency_ms\",\"max_latency_ms\"\n\
                   \"SET\",\"52083.33\",\"0.493\",\"0.200\",\"0.487\",\"0.631\",\"0.815\",\"1.415\"\n";
        let measured = parse(csv).unwrap();
        assert_eq!((measured.per_second, measured.p50_us, measured.p99_us), (52083.33, 487.0, 815.0));
        assert!(parse("ERR unknown command").is_none());
    }
}
