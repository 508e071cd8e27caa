//! Starts the proxies and measures them, round by round in alternating order.
//!
//! The proxy has one core to itself, generator and backends share the other; all CPU time of all
//! the proxy's threads is charged to it. Where a row is about the cluster and not about one proxy,
//! nothing is pinned. Each case stands alone: one that fails is told and the others go on.

mod ballast;
mod bindings;
mod config_change;
mod etcd;
mod haproxy;
mod http;
mod load;
mod millions;
mod nginx;
mod report;
mod rounds;
mod scale;
mod sessions;
mod stage;

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;

use self::{report::Results, stage::Stage};
use crate::{netns, process};

/// What to measure, and how often.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Cases to run, by a part of their name; all of them when none is given.
    pub cases: Vec<String>,
    /// Rounds of each case.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.5)]
    pub secs: f64,
    /// Only the peers: is the harness alive?
    #[arg(long)]
    pub without_ballast: bool,
    /// Core of the proxy.
    #[arg(long, default_value_t = 0)]
    pub proxy_core: usize,
    /// Core of generator and backends.
    #[arg(long, default_value_t = 1)]
    pub load_core: usize,
    /// Requests a second of the latency rows; less if a proxy cannot.
    #[arg(long, default_value_t = 8000.0)]
    pub rate: f64,
    /// Idle connections of the memory row.
    #[arg(long, default_value_t = 5000)]
    pub idle_connections: usize,
    /// Sizes of the binding table.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 7_000_000])]
    pub sizes: Vec<u64>,
    /// Longest time to fill a table, in seconds.
    #[arg(long, default_value_t = 1200.0)]
    pub fill_limit: f64,
    /// Configuration changes of the row about them.
    #[arg(long, default_value_t = 100)]
    pub changes: u32,
    /// Stay in the host's network namespace.
    #[arg(long)]
    pub host_network: bool,
    /// Where rows are written; those of other cases that are there already stay.
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// Name the cases and end.
    #[arg(long)]
    pub list: bool,
}

/// One thing that is measured; it may give several rows.
struct Case {
    name: &'static str,
    question: &'static str,
    run: fn(&mut Stage) -> Result<Vec<report::Row>>,
}

const CASES: &[Case] = &[
    Case { name: "http1_keepalive", question: "CPU a request, 1 KiB, kept connections", run: http::keep_alive },
    Case {
        name: "http1_new_connection",
        question: "CPU a request, a client connection each",
        run: http::new_connection,
    },
    Case { name: "http1_body_100k", question: "CPU a request with an answer of 100 KiB", run: http::body_100k },
    Case { name: "http1_body_10m", question: "CPU a GiB in answers of 10 MiB", run: http::body_10m },
    Case { name: "http1_table_hit", question: "CPU a request of a client that is bound", run: http::table_hit },
    Case { name: "http1_latency", question: "latency at a fixed rate, open loop", run: http::latency },
    Case { name: "http1_idle_connection_bytes", question: "memory of an idle connection", run: http::idle_connection },
    Case { name: "http1_first_binding", question: "what a client's first request costs", run: bindings::first_binding },
    Case { name: "bindings_committed", question: "bindings that three synced nodes commit", run: bindings::committed },
    Case {
        name: "config_visible_everywhere",
        question: "how soon all nodes serve a change",
        run: config_change::visible,
    },
    Case {
        name: "session_commands",
        question: "writes and reads of the session store, beside Redis and etcd",
        run: sessions::commands,
    },
    Case { name: "bindings_at_scale", question: "memory, restart, new node with millions", run: scale::at_scale },
];

/// Runs the cases that `options` select, prints tables, writes the results.
///
/// # Errors
/// When a case could not be measured, after all others were.
pub fn run(options: Options) -> Result<()> {
    if options.list {
        for case in CASES {
            println!("{:28} {}", case.name, case.question);
        }
        return Ok(());
    }
    let selected = select(&options.cases)?;
    process::raise_open_files();
    if !options.host_network
        && let Err(error) = netns::enter()
    {
        println!("No network namespace of its own ({error}): the host's conntrack is charged to the proxies.");
    }
    let results = Results::begin(options.output.clone())?;
    println!("{}", results.heading());

    let mut stage = Stage::new(options)?;
    let failed = run_cases(&selected, &mut stage, results)?;
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

/// Prints what is in a results file.
///
/// # Errors
/// When there is none.
pub fn report(file: PathBuf) -> Result<()> {
    print!("{}", report::read(&file)?);
    Ok(())
}

fn run_cases(selected: &[&Case], stage: &mut Stage, mut results: Results) -> Result<Vec<&'static str>> {
    let mut failed = Vec::new();
    for case in selected {
        println!("\n## {}: {}\n", case.name, case.question);
        let started = Instant::now();
        match (case.run)(stage) {
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => {
                results.add(rows)?;
                println!("\n({:.0} s)", started.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!("NOT MEASURED: {error:#}");
                failed.push(case.name);
                // What is left may be broken; the next case starts its own.
                stage.clear();
            }
        }
        if rounds::interrupted() {
            bail!("interrupted");
        }
    }
    Ok(failed)
}

/// Cases whose name contains one of `parts`.
fn select(parts: &[String]) -> Result<Vec<&'static Case>> {
    for part in parts {
        ensure!(
            CASES.iter().any(|case| case.name.contains(part.as_str())),
            "no case is called {part:?}; there are {}",
            CASES.iter().map(|c| c.name).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(CASES.iter().filter(|c| parts.is_empty() || parts.iter().any(|p| c.name.contains(p.as_str()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&str]) -> Vec<&'static str> {
        let parts: Vec<String> = parts.iter().map(|p| (*p).to_owned()).collect();
        select(&parts).map(|cases| cases.iter().map(|c| c.name).collect()).unwrap_or_default()
    }

    #[test]
    fn cases_are_selected_by_parts_of_their_names() {
        assert_eq!(check(&[]).len(), CASES.len());
        assert_eq!(check(&["table", "keepalive"]), ["http1_keepalive", "http1_table_hit"]);
        assert!(check(&["table", "no-such"]).is_empty());
    }
}
