//! What the nodes' access logs say of the requests of this run's clients.
//!
//! A client puts the id of a request at the end of its path, which the log shows.

use std::collections::BTreeSet;

use anyhow::Result;
use ballast_jepsen::says_why::Line;
use ballast_testkit::{cluster::Cluster, wait};
use serde::Deserialize;

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
    let of_clients = lines.filter_map(|Logged { path, ended, binding, binding_cause, status }| {
        let id = path?.split_once(MARK)?.1.to_owned();
        Some(Line { id, node: node.name().to_owned(), ended, binding, binding_cause, status })
    });
    Ok(of_clients.collect())
}
