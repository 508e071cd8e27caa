//! `jepsen`: breaks a cluster in every way it knows, and judges what clients and the wire saw.
//!
//! The cluster runs on a network of namespaces, or in the containers of docker-compose.yml, and is seen by its public interfaces
//! only: HTTP, RESP, `ballastctl`, ARP and connections on the wire, metrics. Faults come from a seed. What each run saw is kept in
//! a folder with the verdicts.
//!
//! Not here: the checkers (`ballast_jepsen`), the network and its faults (`ballast_testkit::lab`).

mod clock;
mod decided;
mod disk;
mod environment;
mod evidence;
mod judge;
mod nemesis;
mod peer;
mod plan;
mod proxied;
mod run;
mod selftest;
mod site;
mod store;
mod wall;
mod watch;
mod wire;
mod workload;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ballast_jepsen::verdict::Ruling;
use ballast_planted::VARIABLE;
use ballast_testkit::interrupt;
use clap::{Args, Parser, Subcommand};

use crate::{
    environment::Environment,
    nemesis::UPGRADE_DIR,
    plan::{Kind, Round, Whom},
    run::{Options, Run},
};

/// Where the folders of runs are, if nobody says otherwise.
const RUNS: &str = "target/chaos";

#[derive(Parser)]
#[command(name = "jepsen", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Faults on a cluster, from a seed; exits with 1 if a promise is broken, with 3 if something could not be told.
    Run(RunOptions),
    /// The faults of an earlier run again, as its folder has them, on as many nodes. The folder is left as it is.
    Replay {
        /// The folder of the run, say `target/chaos/seed-7`, or 7 for that one.
        run: PathBuf,
    },
    /// Judges an earlier run anew by what its folder says was done and seen, and writes what that comes to over what it came to.
    Analyze {
        /// The folder of the run, say `target/chaos/seed-7`, or 7 for that one.
        run: PathBuf,
    },
    /// Writes a page of what all runs in a folder came to.
    Evidence {
        /// The folder.
        #[arg(long, default_value = RUNS)]
        runs: PathBuf,
        /// The page.
        #[arg(long, default_value = "docs/evidence.md")]
        output: PathBuf,
    },
    /// A lock on Ballast and on Redis with a replica under the same cuts: who finds two holders.
    Locks {
        /// Determines what clients choose.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Cuts.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
    },
    /// Plants each bug in turn and fails unless the checker that is meant to finds it.
    Selftest(selftest::SelftestOptions),
}

#[derive(Args, Clone, Debug)]
struct RunOptions {
    /// Determines the faults; by the clock when none is given.
    #[arg(long, env = "CHAOS_SEED")]
    seed: Option<u64>,
    /// For how many seconds faults are begun.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// So many runs, with the seeds that follow.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// What nodes run in.
    #[arg(long, value_enum, default_value_t)]
    environment: Environment,
    /// Nodes that carry traffic; five in namespaces, and three of docker-compose.yml, when none is given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=7))]
    nodes: Option<u64>,
    /// Kinds of faults, say `kill,pause,one-way`; all that the environment can have when none is given.
    #[arg(long, env = "CHAOS_FAULTS", value_delimiter = ',')]
    faults: Vec<String>,
    /// All faults of nodes befall them; by lot when absent.
    #[arg(long)]
    whom: Option<Target>,
    /// Folder in which each run gets one of its own.
    #[arg(long, default_value = RUNS)]
    output: PathBuf,
    /// Writes a page of what all runs in that folder came to.
    #[arg(long)]
    evidence: Option<PathBuf>,
}

/// Whom faults of nodes befall.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Target {
    /// Whoever leads.
    Leader,
    /// Whoever owns the VIP.
    Owner,
}

fn main() -> ExitCode {
    interrupt::listen();
    let result = match Arguments::parse().command {
        Command::Run(options) => run(&options),
        Command::Replay { run } => replay(&folder_of(run)),
        Command::Analyze { run } => analyze(&folder_of(run)),
        Command::Evidence { runs, output } => {
            evidence::page(&runs).and_then(|page| Ok(std::fs::write(&output, page)?)).map(|()| Ruling::Held)
        }
        Command::Locks { seed, rounds } => locks(seed, rounds).map(held),
        Command::Selftest(options) => selftest::run(&options).map(held),
    };
    if let Some(code) = interrupt::exit_code() {
        eprintln!("jepsen: called off; all that was started is gone");
        return code;
    }
    match result {
        Ok(Ruling::Held) => ExitCode::SUCCESS,
        Ok(Ruling::Violated) => ExitCode::FAILURE,
        Ok(Ruling::Undecided) => ExitCode::from(UNDECIDED),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Exit code of a run that neither found a promise broken nor could tell that all were kept.
const UNDECIDED: u8 = 3;

fn held(kept: bool) -> Ruling {
    if kept { Ruling::Held } else { Ruling::Violated }
}

fn kinds(environment: Environment, names: &[String]) -> Result<Vec<Kind>> {
    let named: Vec<&str> = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    let can_upgrade = std::env::var_os(UPGRADE_DIR).is_some();
    if named.is_empty() {
        let all = Kind::all().filter(|kind| environment.can(*kind));
        return Ok(all.filter(|kind| can_upgrade || *kind != Kind::RollingUpgrade).collect());
    }
    let known = || Kind::all().map(|kind| kind.to_string()).collect::<Vec<_>>().join(", ");
    let parse = |name: &&str| {
        let kind = Kind::parse(name).with_context(|| format!("no fault is called {name:?}; there are {}", known()))?;
        environment.ensure_can(kind)?;
        anyhow::ensure!(
            can_upgrade || kind != Kind::RollingUpgrade,
            "{kind} goes to other programs, and {UPGRADE_DIR} names none; {} starts the same ones",
            Kind::RollingRestart
        );
        Ok(kind)
    };
    named.iter().map(parse).collect()
}

/// Whether Ballast never had two holders. That Redis had some shows that the cuts can bring it about.
fn locks(seed: u64, rounds: u32) -> Result<bool> {
    let mut kept = true;
    type Side = fn(u64, u32) -> Result<Vec<workload::locks::Held>>;
    for (name, side) in [("ballast", peer::ballast as Side), ("redis", peer::redis)] {
        if interrupt::came() {
            break;
        }
        let record = side(seed, rounds)?;
        let overlaps = workload::locks::overlaps(&record);
        println!("{name:8} {} times held in {rounds} cuts, {} times by two at once", record.len(), overlaps.len());
        if let Some((one, other)) = overlaps.first() {
            println!("         first {one:?}\n           and {other:?}");
        }
        match name {
            "ballast" => kept &= overlaps.is_empty() && !record.is_empty(),
            _ if interrupt::came() => {}
            _ => anyhow::ensure!(!overlaps.is_empty(), "Redis had no two holders either: the cuts show nothing"),
        }
    }
    Ok(kept)
}

/// The sources that the programs are likely to be of.
fn revision() -> Option<String> {
    let said = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(said.stdout).ok().filter(|_| said.status.success())?;
    Some(text.trim().to_owned())
}

/// The folder of a run that is told by it, or by a seed alone.
fn folder_of(run: PathBuf) -> PathBuf {
    let seed = run.to_str().and_then(|text| text.parse::<u64>().ok());
    seed.map_or(run, |seed| Path::new(RUNS).join(format!("seed-{seed}")))
}

fn replay(folder: &Path) -> Result<Ruling> {
    let options: Options = store::one(&folder.join(store::OPTIONS))?;
    // Not anew from the seed: what a seed determines changes when faults are added.
    let mut rounds: Vec<Round> = store::one(&folder.join(store::SCHEDULE))?;
    if std::env::var_os(UPGRADE_DIR).is_none() {
        // What upgrades came to when there was nothing to go to.
        let upgrades = rounds.iter_mut().flat_map(|round| &mut round.faults);
        let upgrades = upgrades.filter(|fault| fault.kind == Kind::RollingUpgrade);
        upgrades.for_each(|fault| fault.kind = Kind::RollingRestart);
    }
    let planted = planted();
    anyhow::ensure!(
        planted == options.planted,
        "that run had {}, and this one would have {}: set {VARIABLE} and BALLAST_BIN_DIR as they were",
        bug(options.planted.as_deref()),
        bug(planted.as_deref())
    );
    let output = folder.parent().context("the folder is in another one")?;
    run_once(&Options { revision: revision(), judged_by: None, ..options }, rounds, output)
}

/// The bug that daemons of this process are told to have.
fn planted() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|bug| !bug.is_empty())
}

fn bug(planted: Option<&str>) -> &str {
    planted.unwrap_or("no planted bug")
}

/// The worst that was ruled of any run. One that could not be had does not keep the others from being made.
fn run(options: &RunOptions) -> Result<Ruling> {
    let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let first = options.seed.unwrap_or_else(by_clock);
    let environment = options.environment;
    environment.ensure_can_have(planted().as_deref())?;
    let nodes = environment.nodes(options.nodes)? as usize;
    let kinds = kinds(environment, &options.faults)?;
    let (mut ruling, mut lost) = (Ruling::Held, Vec::new());
    for seed in (first..first + options.runs).take_while(|_| !interrupt::came()) {
        let ruled = if options.runs == 1 {
            let whom = options.whom.map(|whom| match whom {
                Target::Leader => Whom::Leader,
                Target::Owner => Whom::Owner,
            });
            let (seconds, kinds, planted, revision) = (options.seconds, kinds.clone(), planted(), revision());
            let one = Options { seed, seconds, environment, nodes, kinds, whom, planted, revision, judged_by: None };
            let rounds = plan::schedule(seed, one.nodes, Duration::from_secs(one.seconds), &one.kinds, one.whom);
            run_once(&one, rounds, &options.output)
        } else {
            run_apart(options, seed)
        };
        match ruled {
            Ok(ruled) => ruling = ruling.max(ruled),
            Err(_) if interrupt::came() => {}
            Err(error) => {
                eprintln!("jepsen: seed {seed}: there was no run: {error:#}");
                lost.push(seed);
            }
        }
    }
    // What was called off is no evidence, and what there was before stays.
    let page = options.evidence.as_ref().filter(|_| !interrupt::came());
    let written: Result<()> = page.map_or(Ok(()), |page| Ok(std::fs::write(page, evidence::page(&options.output)?)?));
    let all = written.and_then(|()| {
        anyhow::ensure!(lost.is_empty(), "no runs of the seeds {lost:?}");
        Ok(())
    });
    come_to(ruling, all)
}

/// One of several runs, in a process of its own. The kernel copies the page tables of a process with each command that it starts
/// in a namespace, and those of one that has made runs before are large: from the third run on the machine was too busy to tell
/// anything.
fn run_apart(options: &RunOptions, seed: u64) -> Result<Ruling> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("run").arg("--seed").arg(seed.to_string()).arg("--seconds").arg(options.seconds.to_string());
    command.arg("--output").arg(&options.output).arg("--environment").arg(name_of(options.environment));
    if let Some(nodes) = options.nodes {
        command.arg("--nodes").arg(nodes.to_string());
    }
    if let Some(whom) = options.whom {
        command.arg("--whom").arg(name_of(whom));
    }
    if !options.faults.is_empty() {
        command.arg("--faults").arg(options.faults.join(","));
    }
    let status = interrupt::run(command)?;
    ruling_by(status.code()).with_context(|| format!("it ended with {status}"))
}

/// What a process that made one run says of it by its exit code.
fn ruling_by(code: Option<i32>) -> Option<Ruling> {
    match code? {
        0 => Some(Ruling::Held),
        1 => Some(Ruling::Violated),
        code if code == i32::from(UNDECIDED) => Some(Ruling::Undecided),
        _ => None,
    }
}

/// What a value is called on the command line.
fn name_of(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// What runs come to: that a promise was broken goes before whatever else went wrong, which is told.
fn come_to(ruling: Ruling, all: Result<()>) -> Result<Ruling> {
    match all {
        Err(error) if ruling == Ruling::Violated => {
            eprintln!("jepsen: {error:#}");
            Ok(ruling)
        }
        all => all.map(|()| ruling),
    }
}

fn run_once(options: &Options, rounds: Vec<Round>, output: &Path) -> Result<Ruling> {
    let folder = store::folder(output, options.seed)?;
    let what = options.environment.describe(options.nodes);
    println!("Seed {}, {} s of faults on {what}; {}", options.seed, options.seconds, folder.display());
    let ruled = run_in(&folder, options, rounds);
    if let Err(error) = &ruled
        && let Err(unwritten) = store::no_run(&folder, options, error)
    {
        eprintln!("jepsen: {unwritten:#}");
    }
    ruled
}

fn run_in(folder: &Path, options: &Options, rounds: Vec<Round>) -> Result<Ruling> {
    store::planned(folder, options, &rounds)?;
    let run = run::run(options, rounds, folder)?;
    store::seen(folder, &run)?;
    conclude(folder, &run)
}

fn analyze(folder: &Path) -> Result<Ruling> {
    let mut run = store::read(folder)?;
    run.options.judged_by = revision();
    let ruling = conclude(folder, &run)?;
    store::planned(folder, &run.options, &run.rounds)?;
    Ok(ruling)
}

fn conclude(folder: &Path, run: &Run) -> Result<Ruling> {
    let report = judge::judge(run);
    store::judged(folder, run, &report)?;
    print!("{report}{}", store::not_judged(&report));
    println!("{} faults in {} rounds", run.faults.faults.len(), run.rounds.len());
    Ok(report.ruling())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_runs_are_refused() {
        let parse = |runs| Arguments::try_parse_from(["jepsen", "run", "--runs", runs]);
        assert!(parse("2").is_ok() && parse("0").is_err());
    }

    #[test]
    fn a_broken_promise_goes_before_a_run_that_could_not_be_had() {
        let ruled = |ruling| come_to(ruling, Err(anyhow::anyhow!("no runs of the seeds [7]"))).ok();
        let all = [Ruling::Held, Ruling::Undecided, Ruling::Violated];
        assert_eq!(all.map(ruled), [None, None, Some(Ruling::Violated)]);
        assert_eq!(all.map(|ruling| come_to(ruling, Ok(())).ok()), all.map(Some));
    }

    #[test]
    fn a_run_apart_says_by_its_exit_code_what_was_ruled() {
        let codes = [Some(0), Some(1), Some(3), Some(2), Some(130), None];
        let rulings = [Some(Ruling::Held), Some(Ruling::Violated), Some(Ruling::Undecided), None, None, None];
        assert_eq!(codes.map(ruling_by), rulings);
    }

    #[test]
    fn a_run_is_told_by_its_folder_or_by_its_seed() {
        let folder = |run: &str| folder_of(PathBuf::from(run)).display().to_string();
        let expected = ["target/chaos/seed-7", "target/chaos/long/seed-7", "./7"];
        assert_eq!(["7", "target/chaos/long/seed-7", "./7"].map(folder), expected);
    }

    #[test]
    fn an_upgrade_goes_to_other_programs_or_is_none() {
        // This process is told of none.
        assert!(!kinds(Environment::Namespaces, &[]).expect("all").contains(&Kind::RollingUpgrade));
        assert!(kinds(Environment::Namespaces, &[String::from("rolling-restart")]).is_ok());
        let refused = kinds(Environment::Namespaces, &[String::from("kill"), String::from("rolling-upgrade")])
            .expect_err("it is refused");
        assert!(refused.to_string().contains(UPGRADE_DIR), "{refused}");
    }

    #[test]
    fn what_an_environment_cannot_do_is_left_out_or_refused() {
        let of = |names: &[&str]| {
            kinds(Environment::Compose, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert!(of(&[]).expect("those that it can").iter().all(|kind| Environment::Compose.can(*kind)));
        assert_eq!(of(&["kill", "isolate"]).expect("both").len(), 2);
        let refused = of(&["kill", "power-off"]).expect_err("it is refused").to_string();
        assert!(refused.contains("power-off") && refused.contains("terminate"), "{refused}");
    }

    #[test]
    fn a_run_is_in_namespaces_unless_it_is_said_otherwise() {
        let environment = |words: &[&str]| {
            let parsed = Arguments::try_parse_from(["jepsen", "run"].iter().chain(words)).expect("it is well formed");
            let Command::Run(options) = parsed.command else { panic!("another command") };
            options.environment
        };
        assert_eq!(environment(&[]), Environment::Namespaces);
        assert_eq!(environment(&["--environment", "compose"]), Environment::Compose);
        assert!(Arguments::try_parse_from(["jepsen", "run", "--environment", "cloud"]).is_err());
    }
}
