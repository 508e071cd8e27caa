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
mod machine;
mod many;
mod moves;
mod repetition;
mod report;
mod soak;
mod systems;
mod voters;

use std::{
    collections::HashMap,
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{kernel, observer};
use clap::{Args, Parser, Subcommand};

use crate::{
    faults::Fault,
    machine::Machine,
    repetition::Seen,
    report::{Results, Row},
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
    /// Measure each system under each fault; prints a table.
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
            ExitCode::FAILURE
        }
    }
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
    println!("Failover on {machine}.");
    let mut sites: Vec<Option<Site>> = kinds.iter().map(|_| None).collect();
    let mut seen: HashMap<(usize, usize), (Vec<Seen>, usize)> = HashMap::new();
    let mut rows = Vec::new();
    for round in 1..=options.reps {
        for (f, fault) in faults.iter().enumerate() {
            for (k, kind) in kinds.iter().enumerate() {
                let (good, bad) = seen.entry((f, k)).or_default();
                match repeat(&mut sites[k], kind, *fault) {
                    Ok(None) => {}
                    Ok(Some(one)) => {
                        println!(
                            "{round:>3} {fault:16} {kind:20} outage {:6.1}  after heal {:6.1}  two owners {:6.1}  doubtful {:4.1}  nobody {:6.1}",
                            one.outage_ms, one.after_heal_ms, one.dual_ms, one.doubtful_ms, one.nobody_ms
                        );
                        good.push(one);
                    }
                    Err(error) => {
                        println!("{round:>3} {fault:16} {kind:20} NOT MEASURED: {error:#}");
                        *bad += 1;
                        // What is left may be broken; the next repetition starts its own.
                        sites[k] = None;
                    }
                }
            }
        }
        let all = faults.iter().enumerate().flat_map(|(f, fault)| {
            let seen = &seen;
            kinds.iter().enumerate().filter_map(move |(k, kind)| {
                let (good, bad) = seen.get(&(f, k))?;
                Row::of(kind, *fault, good, *bad)
            })
        });
        rows = all.collect();
        if let Some(file) = &options.output {
            Results::new(&machine, &rows).write(file)?;
        }
    }
    println!("\n{}", report::table(&rows));
    let bad: usize = seen.values().map(|(_, bad)| bad).sum();
    ensure!(bad == 0, "{bad} repetitions could not be measured; what was said about them is above");
    Ok(())
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
        kinds.retain(|kind| kind.lease_ms().is_some());
    }
    println!("Soak on {}: {} faults on each system, seed {seed}.", Machine::look(), options.faults);
    kinds.iter().try_for_each(|kind| soak::run(kind, Plan { faults: options.faults, seed }))
}
