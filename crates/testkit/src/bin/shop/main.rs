//! The shop of the compose cluster: its backends, and a client that says who served it.
//!
//! `backend` is one application server. `visit` is the client: some visitors who ask through the VIP all the time, a line
//! a second about who answered, and figures for whoever asks at its control address. `report` asks.
//!
//! Not here: what is done to the cluster meanwhile (`deploy/compose-demo.sh`, `deploy/compose-faults.sh`).

mod tally;
mod visit;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use ballast_testkit::{backend::Backend, client::Client};
use clap::{Parser, Subcommand};

/// A shop for trying Ballast: backends with a visible session, and a client that says who served it.
#[derive(Parser)]
#[command(name = "ballast-shop", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one application server of the shop.
    Backend {
        /// Its name, which its answers tell.
        #[arg(long)]
        name: String,
        /// Where it listens.
        #[arg(long, default_value = "0.0.0.0:9000")]
        listen: SocketAddr,
        /// A session store (the Redis protocol) that baskets are kept in, so that they outlive this process.
        #[arg(long)]
        store: Option<SocketAddr>,
    },
    /// Visit the shop without pause and say who served whom.
    Visit(visit::Options),
    /// Exit with 0 when a backend is healthy.
    Check {
        /// Where it listens.
        backend: SocketAddr,
    },
    /// Ask a running `visit` what it saw since it was asked last.
    Report {
        /// Its control address.
        #[arg(long, default_value = visit::CONTROL)]
        control: SocketAddr,
    },
}

extern "C" fn end(_signal: libc::c_int) {
    // SAFETY: `_exit` is async-signal-safe.
    unsafe { libc::_exit(0) }
}

fn main() -> ExitCode {
    // The first process of a container ignores signals that it does not handle.
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only ends the process.
        unsafe { libc::signal(signal, end as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ballast-shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Backend { name, listen, store } => {
            let _backend =
                Backend::start_with(&name, listen, store).with_context(|| format!("cannot listen on {listen}"))?;
            println!("{name} serves on {listen}");
            loop {
                thread::park();
            }
        }
        Verb::Check { backend } => {
            let answer = Client::new(backend).timeout(Duration::from_secs(2)).get("/healthz")?;
            anyhow::ensure!(answer.status == 200, "{backend} answered {}", answer.status);
            Ok(())
        }
        Verb::Visit(options) => visit::run(&options),
        Verb::Report { control } => {
            let mut stream = TcpStream::connect(control).with_context(|| format!("nobody visits at {control}"))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut text = String::new();
            stream.read_to_string(&mut text).context("no report")?;
            std::io::stdout().write_all(text.as_bytes()).context("cannot print")
        }
    }
}
