//! `ballast-bench`: Ballast beside HAProxy, nginx and etcd on one machine, in one interleaved run.
//!
//! Three programs in one, because they run as separate processes pinned to separate cores:
//! `backend` answers requests as cheaply as possible, `generate` sends them and accounts the CPU
//! time of the proxy between, `run` starts everything, alternates the proxies round by round and
//! writes tables and `results/latest.json`. How to read the figures: `docs/benchmarks.md`.
//!
//! Not here: micro-benches of one crate (they live beside it), fault injection (`jepsen/`).

mod backend;
mod generate;
mod netns;
mod poll;
mod process;
mod response;
mod run;
mod stats;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP/1.1 at as little cost as possible; prints one address per name.
    Backend(backend::Options),
    /// Send HTTP/1.1 requests; prints a report as one line of JSON.
    Generate(generate::Options),
    /// Start the proxies and measure them, interleaved.
    Run(run::Options),
    /// Print results as Markdown, as `docs/benchmarks.md` shows them.
    Report {
        /// The results.
        #[arg(default_value = "bench/results/latest.json")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Backend(options) => backend::run(&options),
        Command::Generate(options) => generate::run(&options),
        Command::Run(options) => run::run(options),
        Command::Report { file } => run::report(file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ballast-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
