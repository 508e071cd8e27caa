//! Cases about one proxy: CPU a request, latency, memory of idle connections, table hits.
//!
//! All proxies stand at once, each pinned to the proxy's core, and are asked in turn.

use anyhow::{Context, Result};

use super::{
    haproxy::Tuning,
    load::{self, Idle},
    report::Row,
    rounds,
    stage::{Stage, Subject},
};
use crate::{
    generate::{Mode, Options, Report},
    process,
    run::ballast::KEY_HEADER,
    stats::difference_by_round,
};

/// Keys of clients that are bound before counting begins.
const BOUND_KEYS: u32 = 10_000;
/// Answers of one measurement of a proxy's limit.
const LIMIT_SECS: f64 = 0.5;

type Measured = Vec<(&'static str, Vec<Report>)>;

/// Measures all proxies, and `others` beside them, with the same load, round by round.
fn measure(stage: &mut Stage, others: &[Subject], shape: impl Fn(&mut Options)) -> Result<Measured> {
    let (rounds, secs, core) = (stage.options.rounds, stage.options.secs, stage.options.load_core);
    let subjects: Vec<&Subject> = stage.proxies()?.iter().chain(others).collect();
    over(&subjects, rounds, |subject| {
        let mut load = Options { secs, core: Some(core), pids: subject.pids(), ..Options::to(&[subject.plain]) };
        shape(&mut load);
        load::generate(&load)
    })
}

fn over(subjects: &[&Subject], rounds: u32, mut measure: impl FnMut(&Subject) -> Result<Report>) -> Result<Measured> {
    let reports =
        rounds::interleave(subjects, rounds, |subject| measure(subject).with_context(|| subject.name.to_owned()))?;
    Ok(subjects.iter().map(|s| s.name).zip(reports).collect())
}

/// One figure of each report.
fn values(measured: &Measured, of: impl Fn(&Report) -> f64) -> Vec<(&'static str, Vec<f64>)> {
    measured.iter().map(|(name, reports)| (*name, reports.iter().map(&of).collect())).collect()
}

pub fn keep_alive(stage: &mut Stage) -> Result<Vec<Row>> {
    let measured = measure(stage, &[], |_| {})?;
    Ok(vec![Row::of("http1_keepalive", "us CPU/request", &values(&measured, Report::cpu_us_per_request))])
}

pub fn new_connection(stage: &mut Stage) -> Result<Vec<Row>> {
    let measured = measure(stage, &[], |load| {
        load.mode = Mode::NewConnection;
        load.connections = 32;
    })?;
    Ok(vec![Row::of("http1_new_connection", "us CPU/request", &values(&measured, Report::cpu_us_per_request))])
}

pub fn body_100k(stage: &mut Stage) -> Result<Vec<Row>> {
    let tuned = stage.peers(Tuning::LargeBodies)?;
    let measured = measure(stage, &tuned, |load| {
        load.path = "/100k".to_owned();
        load.connections = 16;
    })?;
    Ok(vec![Row::of("http1_body_100k", "us CPU/request", &values(&measured, Report::cpu_us_per_request))])
}

pub fn body_10m(stage: &mut Stage) -> Result<Vec<Row>> {
    let tuned = stage.peers(Tuning::LargeBodies)?;
    let measured = measure(stage, &tuned, |load| {
        load.path = "/10m".to_owned();
        load.connections = 8;
    })?;
    Ok(vec![Row::of("http1_body_10m", "s CPU/GiB", &values(&measured, Report::cpu_seconds_per_gib))])
}

/// Requests whose key is in the table, beside the same requests where there is no table.
pub fn table_hit(stage: &mut Stage) -> Result<Vec<Row>> {
    stage.proxies()?;
    let space = stage.fresh_key_space();
    let (rounds, secs, core) = (stage.options.rounds, stage.options.secs, stage.options.load_core);
    let subjects: Vec<&Subject> = stage.proxies()?.iter().filter(|s| s.table.is_some()).collect();
    let load = |subject: &Subject, address| Options {
        secs,
        core: Some(core),
        pids: subject.pids(),
        key_header: Some(KEY_HEADER.to_owned()),
        keys: BOUND_KEYS,
        key_space: space,
        ..Options::to(&[address])
    };
    for subject in &subjects {
        let address = subject.table.context("has a table")?;
        let once = Options { requests: Some(u64::from(BOUND_KEYS)), secs: 60.0, ..load(subject, address) };
        load::generate(&once).with_context(|| format!("bind keys through {}", subject.name))?;
    }
    let both = rounds::interleave(&subjects, rounds, |subject| {
        let hit = load::generate(&load(subject, subject.table.unwrap_or(subject.plain)))?;
        let plain = load::generate(&load(subject, subject.plain))?;
        Ok((hit.cpu_us_per_request(), plain.cpu_us_per_request()))
    })?;
    let names = || subjects.iter().map(|s| s.name);
    let hits: Vec<_> = names().zip(both.iter().map(|r| r.iter().map(|(hit, _)| *hit).collect())).collect();
    let added: Vec<_> = names()
        .zip(&both)
        .map(|(name, rounds)| {
            let (hit, plain): (Vec<f64>, Vec<f64>) = rounds.iter().copied().unzip();
            (name, difference_by_round(&hit, &plain))
        })
        .collect();
    Ok(vec![
        Row::of("http1_table_hit", "us CPU/request", &hits)
            .note(format!("{BOUND_KEYS} keys in turn, from a header; HAProxy: `stick on req.hdr`")),
        Row::of("http1_table_hit_added", "us CPU/request", &added)
            .without_ratio()
            .note("the same requests to a listener without a table, taken off in each round"),
    ])
}

/// Latency from the scheduled arrival at a rate that every proxy can sustain.
pub fn latency(stage: &mut Stage) -> Result<Vec<Row>> {
    let limits = measure_limits(stage)?;
    // At half of what the slowest can do, queues are short and the proxy's own delay shows.
    let sustainable = limits.iter().copied().fold(f64::INFINITY, f64::min) / 2.0;
    let rate = stage.options.rate.min((sustainable / 500.0).floor() * 500.0).max(500.0);
    let direct = stage.direct()?;
    let measured = measure(stage, &direct, |load| load.rate = Some(rate))?;
    let note =
        format!("{rate:.0} requests a second, Poisson, 64 connections; direct: no proxy between, the backend's CPU");
    Ok(vec![
        Row::of("http1_latency_p50", "us", &values(&measured, |r| r.p50_us)).note(note.clone()),
        Row::of("http1_latency_p99", "us", &values(&measured, |r| r.p99_us)).note(note.clone()),
        Row::of("http1_cpu_at_rate", "us CPU/request", &values(&measured, Report::cpu_us_per_request)).note(note),
    ])
}

fn measure_limits(stage: &mut Stage) -> Result<Vec<f64>> {
    let core = stage.options.load_core;
    let one = |subject: &Subject| {
        load::generate(&Options { secs: LIMIT_SECS, core: Some(core), ..Options::to(&[subject.plain]) })
    };
    stage.proxies()?.iter().map(|subject| Ok(one(subject)?.rate())).collect()
}

/// Memory of the proxy for each connection that is kept open after one request.
pub fn idle_connection(stage: &mut Stage) -> Result<Vec<Row>> {
    let (rounds, core, count) = (stage.options.rounds, stage.options.load_core, stage.options.idle_connections);
    // A freed heap is not given back, so each round has processes of its own.
    stage.clear();
    let mut measured: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for _ in 0..rounds.min(3) {
        for subject in stage.fresh_proxies(Tuning::Defaults)? {
            let bytes = idle_bytes(&subject, count, core).with_context(|| subject.name.to_owned())?;
            match measured.iter_mut().find(|(name, _)| *name == subject.name) {
                Some((_, values)) => values.push(bytes),
                None => measured.push((subject.name, vec![bytes])),
            }
            if rounds::interrupted() {
                anyhow::bail!("interrupted");
            }
        }
    }
    Ok(vec![Row::of("http1_idle_connection_bytes", "bytes", &measured).note(format!(
        "{count} connections after one request each, at most 128 of them at a time; proportional resident memory, \
             the kernel's share not counted"
    ))])
}

fn idle_bytes(subject: &Subject, count: usize, core: usize) -> Result<f64> {
    let few = Options { requests: Some(200), connections: 4, secs: 10.0, ..Options::to(&[subject.plain]) };
    load::generate(&few)?;
    let before = process::resident_bytes(&subject.pids())?;
    let options =
        Options { mode: Mode::Idle, connections: count, secs: 60.0, core: Some(core), ..Options::to(&[subject.plain]) };
    let idle = Idle::open(&options)?;
    let with = process::resident_bytes(&subject.pids())?;
    let open = idle.close()?;
    anyhow::ensure!(open == count, "only {open} of {count} connections were still open");
    Ok((with as f64 - before as f64) / count as f64)
}
