//! What the nodes' access logs say of the requests of this run's clients.
//!
//! A client puts the id of a request at the end of its path, which the log shows.

use std::collections::BTreeSet;

use anyhow::Result;
use ballast_jepsen::says_why::Line;
use ballast_testkit::{cluster::Cluster, wait};
use serde::Deserialize;

/// Of requests that took so long it is kept where the time went.
const LONG_MS: f64 = 500.0;

/// What stands before an id in a path.
const MARK: &str = "/id-";

/// The path of a request with its id.
pub fn path(of: &str, id: &str) -> String {
    format!("{of}{MARK}{id}")
}

#[derive(Deserialize)]
struct Logged {
    path: Option<String>,
    ended: String,
    binding: String,
    #[serde(default)]
    binding_cause: String,
    status: u16,
    #[serde(flatten)]
    took: Took,
}

/// Where the time of a request went.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Took {
    time: String,
    backend: String,
    retries: u32,
    tr_ms: f64,
    tw_ms: f64,
    tc_ms: f64,
    td_ms: f64,
    ta_ms: f64,
}

impl Took {
    /// For people who look for what kept a client waiting; nothing if hardly anything did.
    fn told(&self) -> String {
        let Self { time, backend, retries, tr_ms, tw_ms, tc_ms, td_ms, ta_ms } = self;
        if *ta_ms < LONG_MS {
            return String::new();
        }
        format!(
            " at {time} ({backend} after {ta_ms} ms: tr {tr_ms}, tw {tw_ms}, tc {tc_ms}, td {td_ms}; {retries} retries)"
        )
    }
}

/// All lines of all nodes. Waits until the newest are written: those of `answered`, by whoever answered.
///
/// # Errors
/// When a log cannot be read.
pub fn read(cluster: &Cluster, answered: &[&str]) -> Result<Vec<Line>> {
    let all = || {
        Ok::<_, anyhow::Error>((0..cluster.len()).map(|node| of(cluster, node)).collect::<Result<Vec<_>>>()?.concat())
    };
    let mut lines = all()?;
    // What cannot be had is missing from the lines, and judged so.
    let _ = wait::until("the last lines of the access logs", || {
        lines = all()?;
        let ids: BTreeSet<&str> = lines.iter().map(|line| line.id.as_str()).collect();
        Ok(answered.iter().all(|id| ids.contains(id)).then_some(()))
    });
    Ok(lines)
}

fn of(cluster: &Cluster, node: usize) -> Result<Vec<Line>> {
    let node = cluster.node(node);
    let text = node.access()?;
    // A node that was killed may have left half a line, and begins the next one on it.
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Logged>(line).ok());
    let of_clients = lines.filter_map(|Logged { path, ended, binding, binding_cause, status, took }| {
        let id = path?.split_once(MARK)?.1.to_owned();
        Some(Line { id, node: node.name().to_owned(), ended, binding, binding_cause, status, took: took.told() })
    });
    Ok(of_clients.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_took_long_it_is_told_where_the_time_went() {
        let told = |ta_ms: f64| {
            let line = format!(
                r#"{{"time":"12:00","path":"/basket/id-7","ended":"done","binding":"hit","status":200,"backend":"till1",
                "retries":1,"tr_ms":0.1,"tw_ms":0,"tc_ms":2003.5,"td_ms":1,"ta_ms":{ta_ms},"reason":"table"}}"#
            );
            serde_json::from_str::<Logged>(&line).expect("a line").took.told()
        };
        assert_eq!(told(2005.25), " at 12:00 (till1 after 2005.25 ms: tr 0.1, tw 0, tc 2003.5, td 1; 1 retries)");
        assert_eq!(told(499.9), "");
    }
}
