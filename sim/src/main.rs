//! Whole clusters in one thread of simulated time, disks and networks. A seed is a run, and always the same one.
//!
//! The nodes are the real `ballast-raft` on the real `ballast-core`: members, proposers, reads, gRPC and openraft. Simulated are
//! the clock, the entropy, the network (turmoil) and the disk of the log; `docs/simulation.md` says what that leaves out.
//!
//! Not here: processes, kernels and real disks (`jepsen`), leases (`core::lease::sim`).

mod clock;
mod disk;
mod faults;
mod many;
mod node;
mod random;
mod run;
mod site;
mod stage;
mod trace;
mod watch;
mod wire;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use ballast_jepsen::verdict::Ruling;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds; ends with the first that finds something wrong, and shows it
    Run(many::RunOptions),
    /// Runs one seed and shows what it came to
    Replay(ReplayOptions),
    /// Plants each bug and looks for it; only in a build with the feature `planted`
    Selftest(many::SelftestOptions),
}

#[derive(Args)]
struct ReplayOptions {
    /// The seed.
    seed: u64,
    /// Print one line, and more only if something is wrong.
    #[arg(long)]
    brief: bool,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Print what the code logs, too: `ballast_raft=debug,openraft=info`.
    #[arg(long)]
    log: Option<String>,
    /// Lines of the trace that are shown when something is wrong.
    #[arg(long, default_value_t = 80)]
    tail: usize,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(options) => many::run(&options),
        Command::Replay(options) => replay(&options),
        Command::Selftest(options) => many::selftest(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn replay(options: &ReplayOptions) -> Result<bool> {
    if let Some(filter) = &options.log {
        // Without the time of day: lines of the trace have the time that counts.
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let run = run::run(options.seed, options.trace, options.tail)?;
    let ruling = run.report.ruling();
    let millis = |after: Option<std::time::Duration>| after.map_or(-1, |after| after.as_millis() as i64);
    println!(
        "seed {} {ruling} digest {} events {} simulated_ms {} faults {} operations {} back_ms {} equal_ms {}",
        options.seed,
        run.digest,
        run.events,
        run.lasted.as_millis(),
        run.faults,
        run.operations,
        millis(run.back_after),
        millis(run.equal_after),
    );
    let wrong = ruling != Ruling::Held;
    if wrong || !options.brief {
        if wrong {
            run.tail.iter().for_each(|line| println!("{line}"));
        }
        println!("{}", run.report);
        println!("again: sim replay {} --trace", options.seed);
    }
    Ok(!wrong)
}
