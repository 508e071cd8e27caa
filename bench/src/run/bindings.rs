//! Cases about new bindings: what a client's first request costs, and how many a second three
//! synced nodes commit.
//!
//! A request with a key that nobody has used before is answered only after its binding is in the
//! log of a majority (`commit: before-forward`), so answers count commits.

use anyhow::{Context, Result, ensure};

use super::{
    ballast::{Ballast, KEY_HEADER},
    etcd::Etcd,
    haproxy::Tuning,
    load::{self, Backends},
    report::Row,
    rounds,
    stage::{BALLAST, Stage},
};
use crate::generate::{Options, Report};

/// Connections of the closed loop in which CPU a first request is counted.
const CONNECTIONS: usize = 256;
/// Rate at which the added latency is taken: far below any limit.
const CALM_RATE: f64 = 500.0;
/// In flight while commits are counted, for Ballast and for etcd.
const IN_FLIGHT: usize = 1024;
const NODES: usize = 3;

/// Requests with keys that are new, on a listener with a table; or the same where there is none.
fn requests(addresses: &[std::net::SocketAddr], key_space: u32, pids: Vec<u32>) -> Options {
    Options {
        path: "/0".to_owned(),
        key_header: Some(KEY_HEADER.to_owned()),
        key_space,
        pids,
        ..Options::to(addresses)
    }
}

/// One subject's round.
struct FirstBinding {
    new: Report,
    calm_new: Report,
    calm_plain: Report,
    alone: Report,
}

/// One subject's round of commits.
struct Commits {
    per_second: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

enum Target {
    Ballast(Ballast),
    Peer(super::stage::Subject),
}

/// What a client's first request costs beside a request without a table.
pub fn first_binding(stage: &mut Stage) -> Result<Vec<Row>> {
    stage.clear();
    let backends = stage.backends()?;
    let mut targets = Vec::new();
    if !stage.options.without_ballast {
        targets.push((BALLAST, Target::Ballast(Ballast::start(NODES, &backends, Some(stage.options.proxy_core))?)));
    }
    let peers = stage.peers(Tuning::Defaults)?.into_iter().filter(|peer| peer.table.is_some());
    targets.extend(peers.map(|peer| (peer.name, Target::Peer(peer))));

    let (core, secs) = (Some(stage.options.load_core), stage.options.secs);
    let measured = rounds::interleave(&targets, stage.options.rounds, |(name, target)| {
        let (plain, table, pids) = match target {
            Target::Ballast(ballast) => {
                (ballast.addresses(|s| s.plain), ballast.addresses(|s| s.table), ballast.pids())
            }
            Target::Peer(peer) => (vec![peer.plain], peer.table.into_iter().collect(), peer.pids()),
        };
        let mut one = |addresses: &[_], shape: &dyn Fn(&mut Options)| {
            let mut load = requests(addresses, stage.fresh_key_space(), pids.clone());
            (load.core, load.secs) = (core, secs);
            shape(&mut load);
            load::generate(&load).with_context(|| (*name).to_owned())
        };
        Ok(FirstBinding {
            new: one(&table, &|load| load.connections = CONNECTIONS)?,
            calm_new: one(&table, &|load| load.rate = Some(CALM_RATE))?,
            calm_plain: one(&plain, &|load| load.rate = Some(CALM_RATE))?,
            alone: one(&table, &|load| load.connections = 1)?,
        })
    })?;
    let values = |of: fn(&FirstBinding) -> f64| -> Vec<(&str, Vec<f64>)> {
        targets.iter().map(|(name, _)| *name).zip(measured.iter().map(|r| r.iter().map(of).collect())).collect()
    };
    Ok(vec![
        Row::of("http1_first_binding", "us CPU/request", &values(|r| r.new.cpu_us_per_request())).note(format!(
            "a new key each, {CONNECTIONS} connections; Ballast: all {NODES} nodes together, committed and synced; \
             HAProxy: one process, in memory, not shared"
        )),
        Row::of("http1_first_binding_added_p50", "us", &values(|r| r.calm_new.p50_us - r.calm_plain.p50_us))
            .without_ratio()
            .note(format!("new keys less no table, {CALM_RATE} requests a second, open loop")),
        Row::of("http1_first_binding_at_rest_p50", "us", &values(|r| r.alone.p50_us))
            .note("one connection, one request at a time, the whole request"),
    ])
}

/// Bindings a second through three nodes that share the machine with everything else.
pub fn committed(stage: &mut Stage) -> Result<Vec<Row>> {
    stage.clear();
    let backends = Backends::start(&["web1", "web2"], None)?;
    let ballast = match stage.options.without_ballast {
        true => None,
        false => Some(Ballast::start(NODES, backends.list(), None)?),
    };
    let etcd = Etcd::start(stage.folder(), NODES)?;
    let secs = stage.options.secs.max(3.0);
    let mut subjects = Vec::new();
    subjects.extend(ballast.is_some().then_some(BALLAST));
    subjects.extend(etcd.is_some().then_some("etcd"));
    if subjects.is_empty() {
        println!("There is nothing to measure.");
        return Ok(Vec::new());
    }

    let mut answered = 0;
    let measured = rounds::interleave(&subjects, stage.options.rounds, |subject| match (&ballast, &etcd) {
        (Some(ballast), _) if *subject == BALLAST => {
            let shape = |addresses: Vec<_>, space| Options {
                connections: IN_FLIGHT,
                secs,
                ..requests(&addresses, space, ballast.pids())
            };
            let new = load::generate(&shape(ballast.addresses(|s| s.table), stage.fresh_key_space()))?;
            let plain = load::generate(&shape(ballast.addresses(|s| s.plain), stage.fresh_key_space()))?;
            answered += new.done;
            let cpu_us = new.cpu_us_per_request() - plain.cpu_us_per_request();
            Ok(Commits { per_second: new.rate(), cpu_us, p50_us: new.p50_us, p99_us: new.p99_us })
        }
        (_, Some(etcd)) => {
            let puts = etcd.puts(IN_FLIGHT, secs)?;
            let cpu_us = puts.cpu_us_per_request();
            Ok(Commits { per_second: puts.rate(), cpu_us, p50_us: puts.p50_us, p99_us: puts.p99_us })
        }
        _ => anyhow::bail!("{subject} does not run"),
    })?;
    if let Some(ballast) = &ballast {
        let bound = ballast.bindings(0)?;
        ensure!(bound >= answered, "{answered} first requests were answered, but node-1 knows {bound} bindings");
    }
    let values = |of: fn(&Commits) -> f64| -> Vec<(&str, Vec<f64>)> {
        subjects.iter().copied().zip(measured.iter().map(|r| r.iter().map(of).collect())).collect()
    };
    let note = format!("{NODES} nodes, {IN_FLIGHT} in flight, every process on the same cores and disk");
    Ok(vec![
        Row::of("bindings_committed_per_second", "1/s", &values(|c| c.per_second)).note(format!(
            "{note}; Ballast: HTTP requests through all nodes, proxied to a backend; etcd: puts of 64 bytes to the leader"
        )),
        Row::of("consensus_cpu_per_binding", "us CPU", &values(|c| c.cpu_us))
            .note("all nodes; Ballast: requests with a new key less requests without a table; etcd: the put"),
        Row::of("binding_loaded_p50", "us", &values(|c| c.p50_us)).note(note.clone()),
        Row::of("binding_loaded_p99", "us", &values(|c| c.p99_us)).note(note),
    ])
}
