//! The Ballast daemon: one node of a cluster.
//!
//! `init` makes a cluster, `join` enters one, `run` runs the node that either of them left in the
//! data directory.

mod access_log;
mod bindings;
mod bootstrap;
mod certificate;
mod descriptors;
mod endpoints;
#[cfg(test)]
mod fixture;
mod freshness;
mod identity;
mod interfaces;
mod join;
mod leadership;
mod leaps;
mod leases;
mod metrics;
mod node;
mod operations;
mod past_leases;
mod programs;
mod reader;
mod reckoning;
mod room;
mod sessions;
mod settling;
mod sockets;
mod supervisor;
mod view;
mod webhooks;

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result};
use ballast_telemetry::log::{self, Format};
use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use access_log::Reopen;
use bootstrap::{Bootstrap, LogFormat};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long the last words of a process that has to end may take.
const LAST_WORDS_MAX: Duration = Duration::from_secs(3);

/// One node of a Ballast cluster.
#[derive(Parser)]
#[command(name = "ballastd", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a cluster of one in an empty data directory.
    Init(Common),
    /// Enter a cluster with a token from `ballastctl node join-token`.
    Join {
        #[command(flatten)]
        common: Common,
        /// The one-time token. `-` reads it from standard input, so that it stays out of the list of processes.
        #[arg(long, env = "BALLAST_JOIN_TOKEN", hide_env_values = true)]
        token: String,
    },
    /// Run the node until SIGTERM or SIGINT, then drain.
    Run(Common),
    /// Take the VIPs' addresses and their fence off this machine's interfaces. For a node that is taken out of service:
    /// stop it before, and `ballastctl node remove` it if it does not come back.
    Leave(Common),
    /// Write the manual pages into a folder. For packages.
    #[command(hide = true)]
    Man {
        /// Where to; made when it does not exist.
        dir: PathBuf,
    },
    /// Print a completion script for a shell. For packages.
    #[command(hide = true)]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args)]
struct Common {
    /// The node's own file.
    #[arg(long, short, env = "BALLAST_CONFIG", default_value = "/etc/ballast/ballastd.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A thread that panicked may have left anything half done; the supervisor starts the process again.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        end_soon();
        log::flush();
        report(info);
        std::process::abort();
    }));
    match execute(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            end_soon();
            eprintln!("ballastd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends the process in a moment, whether its last words are heard or not: whoever reads standard error may have stalled.
fn end_soon() {
    let end = || {
        thread::sleep(LAST_WORDS_MAX);
        std::process::abort();
    };
    // Without room for a thread it ends when they are heard.
    let _ = thread::Builder::new().name("ballast-end".to_owned()).spawn(end);
}

fn execute(verb: Verb) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ballastd")
        .build()
        .context("cannot start threads")?;
    match verb {
        Verb::Init(common) => {
            let bootstrap = Bootstrap::read(&common.config)?;
            let cluster = identity::init(&bootstrap)?;
            println!("cluster {cluster} begins with node {}; start it with:", bootstrap.name);
            println!("  ballastd run --config {}", common.config.display());
            println!(
                "The first administrator's credentials are in {0}; take them elsewhere, for example with\n  \
                 ballastctl context add {1} --server https://{2} --dir {0}",
                bootstrap.data_dir.join("admin").display(),
                bootstrap.name,
                bootstrap.node_info(interfaces::mac).admin_address
            );
            Ok(())
        }
        Verb::Join { common, token } => {
            let bootstrap = Bootstrap::read(&common.config)?;
            let token = if token == "-" { std::io::read_to_string(std::io::stdin())? } else { token };
            let (node, cluster) = runtime.block_on(join::join(&bootstrap, token.trim()))?;
            println!("node {} is node {node} of cluster {cluster}; start it with:", bootstrap.name);
            println!("  ballastd run --config {}", common.config.display());
            Ok(())
        }
        Verb::Leave(common) => {
            let bootstrap = Bootstrap::read(&common.config)?;
            let _lock = identity::lock_if_used(&bootstrap.data_dir)?;
            let done = interfaces::leave(&bootstrap.data_dir)?;
            if done.is_empty() {
                println!("nothing of Ballast is on this machine's interfaces");
            }
            done.iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        Verb::Man { dir } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
            let page = clap_mangen::Man::new(Arguments::command()).section("8");
            let path = dir.join("ballastd.8");
            let mut file = std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            page.render(&mut file).with_context(|| format!("cannot write {}", path.display()))
        }
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "ballastd", &mut std::io::stdout());
            Ok(())
        }
        Verb::Run(common) => {
            let bootstrap = Bootstrap::read(&common.config)?;
            // What is empty is not set.
            let filter = match std::env::var("BALLAST_LOG").ok().filter(|filter| !filter.trim().is_empty()) {
                Some(filter) => log::Filter { said_by: "BALLAST_LOG", text: filter },
                None => log::Filter { said_by: "log.level in ballastd.toml", text: bootstrap.log.level.clone() },
            };
            let format = match bootstrap.log.format {
                LogFormat::Text => Format::Text,
                LogFormat::Json => Format::Json,
            };
            let result = runtime.block_on(async {
                let _logging = log::init(&log::Options { format, filter, node: bootstrap.name.clone() })?;
                match descriptors::raise() {
                    Ok(descriptors) => tracing::info!(descriptors, "sockets and files that may be open at once"),
                    Err(error) => tracing::warn!(%error, "cannot raise how many sockets and files may be open at once"),
                }
                let stop = CancellationToken::new();
                stop_on_signals(&stop)?;
                let reopen = Reopen::default();
                reopen_on_signal(&reopen)?;
                node::run(bootstrap, stop, reopen).await
            });
            // Whatever still runs holds nothing that is not on disk.
            runtime.shutdown_background();
            result
        }
    }
}

/// SIGTERM and SIGINT begin the drain; a second one ends the process at once.
fn stop_on_signals(stop: &CancellationToken) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot listen for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if stop.is_cancelled() {
                    tracing::warn!("told to stop a second time; ending without draining");
                    log::flush();
                    std::process::exit(1);
                }
                stop.cancel();
            }
        });
    }
    Ok(())
}

/// SIGHUP has the access log opened anew, and never ends the process.
fn reopen_on_signal(reopen: &Reopen) -> Result<()> {
    let mut signals = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let reopen = reopen.clone();
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            tracing::info!("told to open the access log anew (SIGHUP); a changed ballastd.toml needs a restart");
            reopen.ask();
        }
    });
    Ok(())
}
