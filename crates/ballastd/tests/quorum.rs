//! Changes while there is no quorum: refused in time, in plain words, and true afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ballast_testkit::{
    backend::Backend,
    cluster::{Cluster, Said},
    ports,
    shop::Shop,
    wait,
};

/// Nothing was changed, for certain.
const UNAVAILABLE: i32 = 6;
/// It may have happened.
const UNKNOWN: i32 = 7;

/// What the change is known by, to make it twice and have it once.
const REQUEST: &str = "the-change-without-a-quorum";

/// Applies at a node that reaches no majority. Checks that it says so, and returns what it said.
fn apply_in_vain(cluster: &Cluster, position: usize, file: &str) -> Result<Said> {
    let began = Instant::now();
    let said = cluster.ctl(position, &["apply", "-f", file, "--timeout", "2s", "--request-id", REQUEST])?;
    // The deadline is the operator's; the rest is patience with a busy machine.
    ensure!(began.elapsed() < Duration::from_secs(20), "an apply of 2 s took {:?}", began.elapsed());
    match said.code {
        UNAVAILABLE => said.refused(&["no quorum", "nothing was changed", "ballastctl cluster status"])?,
        UNKNOWN => said.refused(&["outcome unknown", "ballastctl history", REQUEST])?,
        _ => bail!("exit {}: {}{}", said.code, said.out, said.err),
    }
    Ok(said)
}

/// Once there is a quorum again, the history has what was said, and the same request makes it once.
fn what_was_said_is_true(cluster: &Cluster, position: usize, file: &str, said: &Said) -> Result<()> {
    let revisions = || -> Result<usize> {
        let history = wait::until("the history", || cluster.ctl_json(position, &["history"]).map(Some))?;
        Ok(history.as_array().map_or(0, Vec::len))
    };
    let before = revisions()?;
    ensure!(said.code == UNKNOWN || before == 1, "an apply that changed nothing made a revision");
    wait::until("the same request to be answered", || {
        let again = cluster.ctl(position, &["apply", "-f", file, "--request-id", REQUEST])?;
        ensure!(again.code == 0, "exit {}: {}", again.code, again.err);
        Ok(Some(()))
    })?;
    ensure!(revisions()? == 2, "one request made {} revisions", revisions()? - 1);
    ensure!(cluster.ctl_ok(position, &["export"])?.contains("later"), "the document is not in force");
    Ok(())
}

fn shop(backend: &Backend) -> Result<(Shop, Shop)> {
    let shop = Shop::new([backend]).listen_on_each(&[ports::free_local()?]);
    let later = shop.clone().unused_service("later");
    Ok((shop, later))
}

#[test]
fn a_leader_whose_followers_are_frozen_says_so() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let backend = Backend::start("web1")?;
    let (shop, later) = shop(&backend)?;
    cluster.apply(0, &shop.to_yaml())?;
    let file = cluster.write("later.yaml", &later.to_yaml())?;

    let leader = cluster.wait_leader()?;
    let others: Vec<_> = (0..3).filter(|position| *position != leader).collect();
    others.iter().for_each(|position| cluster.pause(*position));
    let said = apply_in_vain(&cluster, leader, &file)?;
    // Alerts go by this: it was elected, and leads nobody.
    wait::until("the leader to tell monitoring that it leads nobody", || {
        let metrics = cluster.metrics(leader)?;
        let value = |name| metrics.get(name).copied().with_context(|| format!("no {name}"));
        Ok((value("ballast_raft_is_leader")? == 0.0 && value("ballast_raft_has_leader")? == 0.0).then_some(()))
    })?;
    wait::until("the leader to tell operators", || {
        let status = cluster.ctl_ok(leader, &["cluster", "status"])?;
        let told = status.contains("has lost its majority") || status.contains("leader    none");
        ensure!(status.contains("health    no quorum") && told, "{status}");
        Ok(Some(()))
    })?;
    others.iter().for_each(|position| cluster.resume(*position));
    what_was_said_is_true(&cluster, leader, &file, &said)
}

#[test]
fn the_last_of_three_nodes_says_so() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let backend = Backend::start("web1")?;
    let (shop, later) = shop(&backend)?;
    cluster.apply(0, &shop.to_yaml())?;
    let file = cluster.write("later.yaml", &later.to_yaml())?;

    let leader = cluster.wait_leader()?;
    let last = (leader + 1) % 3;
    let others: Vec<_> = (0..3).filter(|position| *position != last).collect();
    others.iter().for_each(|position| cluster.kill(*position));
    // Once it has noticed, it says it at once and not after the deadline.
    wait::until("the last node to know that it is alone", || {
        let status = cluster.ctl_json(last, &["cluster", "status", "--consistency", "stale"])?;
        Ok((status["health"] == "no_quorum").then_some(()))
    })?;
    // Monitoring is told of each of them, and what to do.
    let checked = cluster.ctl(last, &["cluster", "status", "--check"])?;
    let silent = |node: &usize| format!("node {} does not answer: ", cluster.node(*node).name());
    ensure!(others.iter().all(|node| checked.out.contains(&silent(node))), "{}{}", checked.out, checked.err);
    ensure!(checked.out.contains("(try: start ballastd there"), "{}", checked.out);
    ensure!(checked.code == 2 && checked.out.starts_with("CRITICAL - "), "{}: {}", checked.code, checked.out);
    let said = apply_in_vain(&cluster, last, &file)?;
    ensure!(said.code == UNAVAILABLE, "nothing could be sent, but it said: {}", said.err);
    // What it knows is still to be had.
    ensure!(!cluster.ctl_ok(last, &["export", "--consistency", "stale"])?.contains("later"), "it kept the change");
    for position in others {
        cluster.spawn(position)?;
    }
    what_was_said_is_true(&cluster, last, &file, &said)
}
