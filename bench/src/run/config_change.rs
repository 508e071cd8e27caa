//! How soon every node serves a configuration change.
//!
//! Each change gives a farm's fallback another body, which is asked for on every node until it is
//! the new one. The time counts from the start of `ballastctl apply`, process start included, to the
//! first new answer of the slowest node.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ballast_testkit::client::Client;

use super::{
    ballast::{Ballast, mark_at},
    report::Row,
    rounds,
    stage::{BALLAST, Stage},
};
use crate::stats;

const NODES: usize = 3;
/// Between two looks at the nodes; the time is known to that much.
const LOOK: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(10);

pub fn visible(stage: &mut Stage) -> Result<Vec<Row>> {
    if stage.options.without_ballast {
        println!("No peer has this row.");
        return Ok(Vec::new());
    }
    stage.clear();
    let backends = stage.backends()?;
    let mut ballast = Ballast::start(NODES, &backends, None)?;
    let mut clients: Vec<_> = ballast.addresses(|site| site.mark).into_iter().map(Client::new).collect();
    let mut millis = Vec::new();
    for change in 0..stage.options.changes {
        let node = change as usize % NODES;
        millis.push(change_once(&mut ballast, &mut clients, node, &format!("mark-{change}"))?.as_secs_f64() * 1000.0);
        if rounds::interrupted() {
            bail!("interrupted");
        }
    }
    let p99 = stats::quantile(&millis, 0.99).context("no change was made")?;
    let note = format!("{NODES} nodes on the same cores, {} changes applied at the nodes in turn", millis.len());
    Ok(vec![
        Row::of("config_visible_everywhere_ms", "ms", &[(BALLAST, millis)]).note(note.clone()),
        Row::of("config_visible_everywhere_p99_ms", "ms", &[(BALLAST, vec![p99])]).note(note),
    ])
}

fn change_once(ballast: &mut Ballast, clients: &mut [Client], node: usize, mark: &str) -> Result<Duration> {
    let file = ballast.write_document(mark)?.display().to_string();
    let cluster = &*ballast.cluster();
    thread::scope(|scope| {
        let started = Instant::now();
        let apply = scope.spawn(|| cluster.ctl_ok(node, &["apply", "-f", &file]));
        let mut waiting: Vec<usize> = (0..clients.len()).collect();
        let mut seen = started.elapsed();
        while !waiting.is_empty() && started.elapsed() < PATIENCE && !(apply.is_finished() && seen > PATIENCE) {
            waiting.retain(|&node| {
                let new = mark_at(&mut clients[node]).is_ok_and(|found| found == mark);
                if new {
                    seen = started.elapsed();
                }
                !new
            });
            thread::sleep(LOOK);
        }
        apply.join().map_err(|_| anyhow::anyhow!("the thread that applied panicked"))??;
        ensure!(waiting.is_empty(), "node {} did not serve {mark} within {PATIENCE:?}", waiting[0] + 1);
        Ok(seen)
    })
}
