//! Nodes that were removed while they were down, and are started again from what they had.

use anyhow::{Result, ensure};
use ballast_testkit::{cluster::Cluster, wait};

#[test]
fn a_node_that_was_removed_while_it_was_down_ends_and_says_what_to_do() -> Result<()> {
    let mut cluster = Cluster::start(4)?;
    // First the one that does not vote, then a voter.
    for gone in [3, 2] {
        let name = cluster.node(gone).name().to_owned();
        cluster.kill(gone);
        wait::until(&format!("{name} to be removed"), || {
            let said = cluster.ctl(0, &["node", "remove", &name])?;
            ensure!(said.code == 0, "exit {}: {}", said.code, said.err);
            Ok(Some(()))
        })?;
        let before = cluster.node(gone).log()?.len();
        cluster.spawn(gone)?;
        let code = cluster.wait_exit(gone)?;
        let said = cluster.node(gone).log()?.split_off(before);
        ensure!(code == Some(1), "{name} ended with {code:?}: {said}");
        for part in ["was removed from the cluster", "empty its data directory"] {
            ensure!(said.contains(part), "{part:?} is not in:\n{said}");
        }
    }
    // Those that stayed were not disturbed.
    for stayed in [0, 1] {
        cluster.wait_ready(stayed)?;
    }
    Ok(())
}

#[test]
fn a_node_that_nobody_removed_waits_for_the_others() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    cluster.kill_all();
    cluster.spawn(0)?;
    wait::until("it to miss its quorum", || Ok(cluster.node(0).log()?.contains("no quorum").then_some(())))?;
    // They know it, each from its first moment on.
    for position in [1, 2] {
        cluster.spawn(position)?;
    }
    for position in 0..3 {
        cluster.wait_ready(position)?;
    }
    Ok(())
}
