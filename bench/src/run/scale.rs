//! Millions of bindings: memory, restart, what a snapshot stalls, how long a new node takes to have them.
//!
//! The table is filled by as many first requests as it gets entries, through the proxies, so this
//! sees what an operator would see: resident memory of a daemon, the time from its start until it
//! serves with all of them, and the same for a node that joins.

use anyhow::{Context, Result};

use super::{
    haproxy::Tuning,
    millions::{self, Seen},
    report::Row,
    stage::{BALLAST, Stage, Subject},
};
use crate::process;

pub fn at_scale(stage: &mut Stage) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for size in stage.options.sizes.clone() {
        stage.clear();
        let mut resident = peers_at(stage, size)?;
        if stage.options.without_ballast {
            rows.push(Row::of(&format!("bindings_{}_resident_bytes", short(size)), "bytes", &resident));
            continue;
        }
        let seen = millions::look(stage, size).with_context(|| format!("with {size} bindings"))?;
        resident.push((BALLAST, seen.resident.clone()));
        rows.extend(rows_of(size, &seen, &resident));
    }
    Ok(rows)
}

fn rows_of(size: u64, seen: &Seen, resident: &[(&str, Vec<f64>)]) -> Vec<Row> {
    let name = |what: &str| format!("bindings_{}_{what}", short(size));
    let row = |what: &str, unit: &str, values: &[f64], note: &str| {
        Row::of(&name(what), unit, &[(BALLAST, values.to_vec())]).note(note)
    };
    let filled = format!(
        "each of three daemons at rest after a snapshot, {size} bindings made by first requests at {:.0} a second in {:.0} \
         entries; a peer: its one process",
        seen.fill_rate, seen.fill_entries
    );
    let all = vec![
        Row::of(&name("resident_bytes"), "bytes", resident).without_ratio().note(filled),
        row("resident_peak_bytes", "bytes", &seen.resident_peak, "the most that each of them ever had until then"),
        row(
            "restart_seconds",
            "s",
            &seen.restart,
            "each node in turn, SIGKILL with a fresh snapshot; from the start until ready with all bindings and a bound \
             client is served",
        ),
        row(
            "restart_long_log_seconds",
            "s",
            &seen.restart_after_fill,
            &format!(
                "the same on one node right after the fill, with {} entries behind its snapshot",
                seen.behind_snapshot
            ),
        ),
        row("restarted_resident_bytes", "bytes", &seen.resident_restarted, "right after each restart"),
        row(
            "new_node_filled_seconds",
            "s",
            &seen.filled,
            "an empty fourth node, from its start until it has applied what the others had; then its state's hash is theirs",
        ),
        row("new_node_resident_bytes", "bytes", &seen.resident_filled, "right after it was filled"),
        row("snapshot_seconds", "s", &seen.snapshot, "all three nodes write theirs at once, under traffic"),
        row(
            "snapshot_stall_ms",
            "ms",
            &seen.stall,
            "longest first request of each window in which all nodes keep writing snapshots; open loop, 500/s",
        ),
        row("no_snapshot_stall_ms", "ms", &seen.stall_at_rest, "the same while none is written"),
    ];
    all.into_iter().filter(|row| row.samples > 0).collect()
}

/// Memory of the peers that have a table, filled in the same way.
fn peers_at(stage: &mut Stage, size: u64) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let peers: Vec<Subject> = stage.peers(Tuning::Defaults)?.into_iter().filter(|p| p.table.is_some()).collect();
    let mut seen = Vec::new();
    for peer in peers {
        let table = peer.table.context("has a table")?;
        millions::fill(stage, &[table], size).with_context(|| peer.name.to_owned())?;
        seen.push((peer.name, vec![process::resident_bytes(&peer.pids())? as f64]));
    }
    Ok(seen)
}

/// `7m` for seven million.
fn short(size: u64) -> String {
    match size {
        s if s > 0 && s % 1_000_000 == 0 => format!("{}m", s / 1_000_000),
        s if s > 0 && s % 1000 == 0 => format!("{}k", s / 1000),
        s => s.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_short_names() {
        assert_eq!([7_000_000, 20_000, 1_234, 0].map(short), ["7m", "20k", "1234", "0"]);
    }
}
