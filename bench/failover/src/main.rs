//! `ballast-failover`: what clients see, and who answers for a VIP, when its owner fails.
//!
//! Ballast beside keepalived and HAProxy, each on three nodes in a network of namespaces, under the same
//! faults, interleaved in one run: each round goes through all faults, each fault through all
//! systems. Clients measure outages; an observer outside the cluster measures who answers, because
//! what nodes believe of themselves is what is in question. How to read the figures:
//! `docs/benchmarks.md`.
//!
//! Not here: the network, its faults and the observer (`ballast_testkit`), throughput (`ballast-bench`).

mod client;
mod faults;
mod many;
mod moves;
mod repetition;
mod report;
mod samples;
mod soak;
mod sources;
mod systems;
mod voters;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    cluster, interrupt, kernel,
    machine::{self, Machine},
    observer,
};
use clap::{Args, Parser, Subcommand};

use crate::{
    faults::Fault,
    repetition::Seen,
    report::{Results, Row},
    samples::{Measured, Samples},
    soak::Plan,
    systems::{Kind, Site},
};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure each system under each fault; prints a table, and fails if Ballast misses what it aims at.
    Run(Options),
    /// Random faults on Ballast; fails if ever two nodes own the VIP, or none for long after a fault.
    Soak(SoakOptions),
    /// Planned moves under load; fails if a request does.
    Moves(MovesOptions),
    /// All voters killed and replaced one by one while a VIP is held; fails if anybody could have noticed.
    Voters(VotersOptions),
    /// Many nodes and VIPs: what leases cost at rest, and that the death of a node moves its VIPs only.
    Many(ManyOptions),
}

#[derive(Args)]
struct Options {
    /// Repetitions of each fault.
    #[arg(long, env = "FAILOVER_REPS", default_value_t = 30)]
    reps: u32,
    /// Systems, say `keepalived-100ms,ballast-ebpf-200ms`; all when none is given.
    #[arg(long, env = "FAILOVER_SYSTEMS", value_delimiter = ',')]
    systems: Vec<String>,
    /// Faults, say `power-off,planned-move`; all when none is given.
    #[arg(long, env = "FAILOVER_FAULTS", value_delimiter = ',')]
    faults: Vec<String>,
    /// Where rows are written, anew after each round.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where each repetition is noted when it is over. Those that are in it already count, so that many can be collected
    /// in several runs, also of several revisions that differ in documents and tests only; those of other sources are refused.
    #[arg(long, env = "FAILOVER_SAMPLES")]
    samples: Option<PathBuf>,
}

#[derive(Args)]
struct MovesOptions {
    /// How many.
    #[arg(long, env = "FAILOVER_MOVES", default_value_t = 50)]
    moves: u32,
    /// Requests a second on new connections, and as many on kept ones.
    #[arg(long, env = "FAILOVER_RATE", default_value_t = 2000)]
    rate: u32,
    /// Systems.
    #[arg(long, env = "FAILOVER_SYSTEMS", value_delimiter = ',', default_value = "ballast-ebpf-200ms")]
    systems: Vec<String>,
}

#[derive(Args)]
struct VotersOptions {
    /// Of the VIP, in milliseconds.
    #[arg(long, default_value_t = 200)]
    lease_ms: u32,
    /// Which fence.
    #[arg(long, default_value = "ebpf")]
    fence: String,
}

#[derive(Args)]
struct ManyOptions {
    /// Nodes.
    #[arg(long, env = "FAILOVER_NODES", default_value_t = 9)]
    nodes: usize,
    /// VIPs, spread over them.
    #[arg(long, env = "FAILOVER_VIPS", default_value_t = 200)]
    vips: u8,
    /// How many nodes are killed, one after the other.
    #[arg(long, env = "FAILOVER_KILLS", default_value_t = 9)]
    kills: u32,
    /// Of the VIPs, in milliseconds.
    #[arg(long, default_value_t = 200)]
    lease_ms: u32,
    /// Which fence.
    #[arg(long, default_value = "ebpf")]
    fence: String,
}

#[derive(Args)]
struct SoakOptions {
    /// How many, on each system.
    #[arg(long, env = "FAILOVER_SOAK_FAULTS", default_value_t = 1000)]
    faults: u32,
    /// Determines kinds, victims and lengths; by the clock when none is given.
    #[arg(long, env = "FAILOVER_SEED")]
    seed: Option<u64>,
    /// Systems; Ballast with each fence when none is given.
    #[arg(long, env = "FAILOVER_SYSTEMS", value_delimiter = ',')]
    systems: Vec<String>,
}

fn main() -> ExitCode {
    interrupt::listen();
    let result = match Arguments::parse().command {
        Command::Run(options) => run(&options),
        Command::Soak(options) => soak(&options),
        Command::Voters(VotersOptions { lease_ms, fence }) => voters::run(&fence, lease_ms),
        Command::Many(ManyOptions { nodes, vips, kills, lease_ms, fence }) => {
            many::run(&fence, lease_ms, nodes, vips, kills)
        }
        Command::Moves(options) => kinds(&options.systems)
            .and_then(|kinds| kinds.iter().try_for_each(|kind| moves::run(kind, options.moves, options.rate))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ballast-failover: {error:#}");
            interrupt::exit_code().unwrap_or(ExitCode::FAILURE)
        }
    }
}

/// Asked before each repetition, so that whoever calls a run off waits for one at most, and nothing is left behind.
///
/// # Errors
/// When this process was called off.
fn go_on() -> Result<()> {
    ensure!(!interrupt::came(), "interrupted");
    Ok(())
}

/// What is not empty; a variable that is set to nothing selects nothing in particular.
fn given(words: &[String]) -> impl Iterator<Item = &str> {
    words.iter().map(|word| word.trim()).filter(|word| !word.is_empty())
}

fn kinds(names: &[String]) -> Result<Vec<Kind>> {
    let kinds: Vec<Kind> = given(names).map(Kind::parse).collect::<Result<_>>()?;
    Ok(if kinds.is_empty() { Kind::all() } else { kinds })
}

fn run(options: &Options) -> Result<()> {
    let kinds = kinds(&options.systems)?;
    let mut faults: Vec<Fault> = given(&options.faults).map(Fault::parse).collect::<Result<_>>()?;
    if faults.is_empty() {
        faults = Fault::ALL.to_vec();
    }
    let machine = Machine::look();
    let measured = Measured {
        versions: machine::program_versions(&[("keepalived", "--version"), ("haproxy", "-v")]),
        sources: sources::digest()?,
        revision: machine::revision().unwrap_or_else(|| "unknown".to_owned()),
    };
    println!(
        "Failover on {machine}, load average {}; revision {}, sources {}.",
        machine::load_average(),
        measured.revision,
        measured.sources
    );
    let mut samples = match &options.samples {
        Some(file) => Samples::open(file, &measured)?,
        None => Samples::remembered(&measured.revision),
    };
    let programs = programs()?;
    let mut sites: Vec<Option<Site>> = kinds.iter().map(|_| None).collect();
    let mut rows = samples.rows(&faults, &kinds);
    let mut unmeasured = 0;
    for round in 1..=options.reps {
        for fault in &faults {
            for (kind, site) in kinds.iter().zip(&mut sites) {
                go_on()?;
                ensure!(
                    self::programs()? == programs,
                    "the programs were built anew while this ran; begin again, with another file of samples if their sources have changed"
                );
                let seen = match repeat(site, kind, *fault) {
                    Ok(None) => continue,
                    Ok(Some(one)) => {
                        println!(
                            "{round:>3} {fault:16} {kind:20} outage {:6.1}  after heal {:6.1}  two owners {:6.1}  doubtful {:4.1}  nobody {:6.1}",
                            one.outage_ms, one.after_heal_ms, one.dual_ms, one.doubtful_ms, one.nobody_ms
                        );
                        Some(one)
                    }
                    // What was called off is not what a system did.
                    Err(error) if interrupt::came() => return Err(error),
                    Err(error) => {
                        println!("{round:>3} {fault:16} {kind:20} NOT MEASURED: {error:#}");
                        unmeasured += 1;
                        // What is left may be broken; the next repetition starts its own.
                        *site = None;
                        None
                    }
                };
                samples.add(kind, *fault, seen)?;
            }
        }
        rows = samples.rows(&faults, &kinds);
        if let Some(file) = &options.output {
            Results::new(&machine, &measured, &rows).write(file)?;
        }
    }
    println!("\n{}", report::table(&rows));
    ensure!(unmeasured == 0, "{unmeasured} repetitions could not be measured; what was said about them is above");
    let missed: Vec<String> = rows.iter().filter(|row| row.met == Some(false)).map(Row::name).collect();
    ensure!(missed.is_empty(), "what is aimed at was missed by {}; the table says by how much", missed.join(", "));
    Ok(())
}

/// What would change if Ballast's programs were built anew: when they were, and how large they are. They are started again and again.
fn programs() -> Result<Vec<(SystemTime, u64)>> {
    let folder = cluster::bin_dir()?;
    let of = |name: &str| {
        let file = folder.join(name);
        let about = file.metadata().with_context(|| format!("look at {}", file.display()))?;
        Ok((about.modified()?, about.len()))
    };
    ["ballastd", "ballastctl"].into_iter().map(of).collect()
}

/// One repetition in the system's lab, which is built if there is none.
fn repeat(site: &mut Option<Site>, kind: &Kind, fault: Fault) -> Result<Option<Seen>> {
    let site = match site {
        Some(site) => site,
        None => site.insert(Site::start(kind.clone()).with_context(|| format!("start {kind}"))?),
    };
    if !site.system.suffers(fault) {
        return Ok(None);
    }
    repetition::run(site, fault).map(Some)
}

fn soak(options: &SoakOptions) -> Result<()> {
    let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seed = options.seed.unwrap_or_else(by_clock);
    let mut kinds = kinds(&options.systems)?;
    if given(&options.systems).next().is_none() {
        kinds.retain(|kind| kind.lease_ms() == Some(200));
    }
    let load = machine::load_average();
    println!(
        "Soak on {}, load average {load}: {} faults on each system, seed {seed}.",
        Machine::look(),
        options.faults
    );
    kinds.iter().try_for_each(|kind| soak::run(kind, Plan { faults: options.faults, seed }))
}
