//! The generator: one epoll loop that sends requests and accounts what they cost the proxy.
//!
//! Closed loop (each connection sends its next request when the last is answered), open loop
//! (`--rate`: arrivals are scheduled ahead as a Poisson process, and latency counts from the
//! scheduled arrival, so that queueing is not hidden), or idle connections. The CPU time of
//! `--pids` is read at the beginning and the end of the same window in which answers are counted.

mod arrivals;
mod engine;
mod request;

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::process;

/// What to send.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Options {
    /// Where to; connections are dealt out in turn over several.
    #[arg(long = "address", required = true)]
    pub addresses: Vec<SocketAddr>,
    /// How connections are used.
    #[arg(long, value_enum, default_value_t = Mode::KeepAlive)]
    pub mode: Mode,
    /// Path asked for.
    #[arg(long, default_value = "/1k")]
    pub path: String,
    /// Connections open at once.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Seconds before counting begins.
    #[arg(long, default_value_t = 0.3)]
    pub warm_up: f64,
    /// Seconds of counting; the longest, when `--requests` is given.
    #[arg(long, default_value_t = 1.5)]
    pub secs: f64,
    /// Stop after so many requests.
    #[arg(long)]
    pub requests: Option<u64>,
    /// Open loop: requests a second.
    #[arg(long)]
    pub rate: Option<f64>,
    /// A header that carries a key, another one for each request.
    #[arg(long)]
    pub key_header: Option<String>,
    /// Number of keys that are used in turn. Zero: each key is used once.
    #[arg(long, default_value_t = 0)]
    pub keys: u32,
    /// Which keys: runs with different numbers share none.
    #[arg(long, default_value_t = 0)]
    pub key_space: u32,
    /// Processes whose CPU time is accounted.
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Core to stay on.
    #[arg(long)]
    pub core: Option<usize>,
}

impl Options {
    /// Keep-alive requests for `/1k` in a closed loop, with the defaults of the command line.
    pub fn to(addresses: &[SocketAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            mode: Mode::KeepAlive,
            path: "/1k".to_owned(),
            connections: 64,
            warm_up: 0.3,
            secs: 1.5,
            requests: None,
            rate: None,
            key_header: None,
            keys: 0,
            key_space: 0,
            pids: Vec::new(),
            core: None,
        }
    }

    /// The command line that says the same.
    pub fn to_arguments(&self) -> Vec<String> {
        let mode = self.mode.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        let mut line = vec!["generate".to_owned(), format!("--mode={mode}"), format!("--path={}", self.path)];
        line.extend(self.addresses.iter().map(|a| format!("--address={a}")));
        line.push(format!("--connections={}", self.connections));
        line.push(format!("--warm-up={}", self.warm_up));
        line.push(format!("--secs={}", self.secs));
        line.push(format!("--keys={}", self.keys));
        line.push(format!("--key-space={}", self.key_space));
        line.extend(self.requests.map(|n| format!("--requests={n}")));
        line.extend(self.rate.map(|r| format!("--rate={r}")));
        line.extend(self.key_header.as_ref().map(|h| format!("--key-header={h}")));
        line.extend(self.pids.iter().map(|p| format!("--pids={p}")));
        line.extend(self.core.map(|c| format!("--core={c}")));
        line
    }
}

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One request after the other on each.
    KeepAlive,
    /// A new one for each request.
    NewConnection,
    /// One request on each, then they are held: prints `ready`, waits for the end of its input.
    Idle,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Answers with status 200.
    pub done: u64,
    /// Answers with another status.
    pub refused: u64,
    /// Requests without an answer, or with one that was not understood.
    pub failed: u64,
    /// Kept connections that the proxy closed.
    pub reconnects: u64,
    /// Connections open at the end.
    pub open: usize,
    /// Length of the window.
    pub seconds: f64,
    /// Bytes received.
    pub bytes: u64,
    /// Latency quantiles and maximum, microseconds.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// On-CPU microseconds of `--pids` in the window.
    pub cpu_us: f64,
    /// On-CPU microseconds of the generator itself.
    pub own_cpu_us: f64,
}

impl Report {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.seconds
    }

    /// On-CPU microseconds of the accounted processes for each answer.
    pub fn cpu_us_per_request(&self) -> f64 {
        self.cpu_us / self.done as f64
    }

    /// On-CPU seconds of the accounted processes for each GiB received.
    pub fn cpu_seconds_per_gib(&self) -> f64 {
        self.cpu_us / 1e6 / (self.bytes as f64 / f64::from(1 << 30))
    }
}

/// Sends requests as `options` say and prints the report.
///
/// # Errors
/// When nothing answers, or an accounted process is gone.
pub fn run(options: &Options) -> Result<()> {
    process::raise_open_files();
    if let Some(core) = options.core {
        process::pin(core).with_context(|| format!("stay on core {core}"))?;
    }
    let mut engine = engine::Engine::new(options)?;
    let mut report = engine.run()?;
    if options.mode == Mode::Idle {
        println!("ready");
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new())?;
        report.open = engine.count_open()?;
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_command_line_says_the_same() {
        let plain = Options::to(&["127.0.0.1:1".parse().unwrap(), "127.0.0.2:2".parse().unwrap()]);
        assert_eq!(Line::parse_from(plain.to_arguments()).options, plain);
        let full = Options {
            mode: Mode::NewConnection,
            requests: Some(7),
            rate: Some(8000.0),
            key_header: Some("X-Client".to_owned()),
            keys: 3,
            key_space: 4,
            pids: vec![5, 6],
            core: Some(1),
            ..plain
        };
        assert_eq!(Line::parse_from(full.to_arguments()).options, full);
    }

    #[test]
    fn rates_and_costs_follow_from_the_counts() {
        let report = Report {
            done: 1000,
            refused: 0,
            failed: 0,
            reconnects: 0,
            open: 1,
            seconds: 2.0,
            bytes: 1 << 30,
            p50_us: 0.0,
            p99_us: 0.0,
            p999_us: 0.0,
            max_us: 0.0,
            cpu_us: 500_000.0,
            own_cpu_us: 0.0,
        };
        assert_eq!(report.rate(), 500.0);
        assert_eq!(report.cpu_us_per_request(), 500.0);
        assert_eq!(report.cpu_seconds_per_gib(), 0.5);
        assert_eq!(serde_json::from_str::<Report>(&serde_json::to_string(&report).unwrap()).unwrap(), report);
    }
}
