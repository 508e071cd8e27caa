//! Log time goes by the clocks of a majority, whoever leads.

#[expect(dead_code, reason = "shared with the other tests, which use more of it")]
mod support;

use std::time::{Duration, SystemTime};

use ballast_core::{
    cluster::{Propose, ReadIndex},
    ids::NodeId,
    state::Command,
    time::LogTime,
};
use ballast_raft::{Handle, Role};
use support::{Cluster, PATIENCE, propose, see};

type Test = Result<(), Box<dyn std::error::Error>>;

const HOUR_MS: u64 = 3_600_000;
const DAY: Duration = Duration::from_secs(86_400);

fn log_time(handle: &Handle) -> LogTime {
    handle.with_state(|state| state.log_time())
}

async fn tick(handle: &Handle) -> Test {
    handle.propose(Command::Tick, PATIENCE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_whose_clock_is_a_day_ahead_moves_log_time_no_faster_and_is_told() -> Test {
    let mut cluster = Cluster::of(3).await;
    let wrong = cluster.leader(&[]).await;
    let begun = log_time(&cluster.handle(wrong));
    let address = cluster.nodes[&wrong].address;
    cluster.stop(wrong).await;
    cluster.wall_clocks.insert(wrong, || SystemTime::now() + DAY);
    cluster.start_at(wrong, address).await;
    cluster.converge().await;
    let right = cluster.leader(&[]).await;
    let handle = cluster.handle(wrong);
    if right != wrong {
        assert!(cluster.handle(right).transfer_leader(wrong).await);
    }
    see(&handle, |status| status.role == Role::Leader).await;
    for id in cluster.ids() {
        tick(&cluster.handle(id)).await?;
    }
    let told = see(&handle, |status| status.clock_offset_micros.is_some_and(|micros| micros > 80_000_000_000)).await;
    assert_eq!(told.role, Role::Leader);
    let moved = log_time(&handle).millis_since(begun);
    assert!(moved < HOUR_MS, "log time moved by {moved} ms");
    // The others' clocks are right, and they learn that from the leader whose clock is not.
    let other = cluster.ids().into_iter().find(|id| *id != wrong).ok_or("another")?;
    let status = see(&cluster.handle(other), |status| status.clock_offset_micros.is_some()).await;
    assert!(status.clock_offset_micros.is_some_and(|micros| micros.abs() < 10_000_000), "{status:?}");
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_that_was_down_for_days_finds_that_they_passed() -> Test {
    let mut cluster = Cluster::of(3).await;
    let begun = log_time(&cluster.handle(NodeId::new(1)));
    let addresses: Vec<_> = cluster.nodes.iter().map(|(id, node)| (*id, node.address)).collect();
    for (id, _) in &addresses {
        cluster.stop(*id).await;
    }
    for (id, address) in &addresses {
        cluster.wall_clocks.insert(*id, || SystemTime::now() + 2 * DAY);
        cluster.start_at(*id, *address).await;
    }
    // The first entry after the election knows: whoever was elected heard a majority's clocks with their votes.
    let handle = cluster.handle(cluster.leader(&[]).await);
    propose(&handle, Command::Tick).await?;
    let passed = log_time(&handle).millis_since(begun);
    assert!(passed > 47 * HOUR_MS, "{passed} ms passed");
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_single_node_trusts_its_clock_but_never_goes_back() -> Test {
    let mut cluster = Cluster::of_one().await;
    let only = NodeId::new(1);
    let begun = log_time(&cluster.handle(only));
    assert!(begun.as_millis() > 1_700_000_000_000, "a new cluster begins at the wall clock");
    cluster.stop(only).await;
    cluster.wall_clocks.insert(only, || SystemTime::now() - DAY);
    cluster.start(only).await;
    let handle = cluster.handle(only);
    tick(&handle).await?;
    let later = log_time(&handle);
    assert!(later >= begun && later.millis_since(begun) < HOUR_MS, "{begun:?}, {later:?}");
    cluster.stop(only).await;
    cluster.wall_clocks.insert(only, || SystemTime::now() + DAY);
    cluster.start(only).await;
    let handle = cluster.handle(only);
    tick(&handle).await?;
    assert!(log_time(&handle).millis_since(begun) > 23 * HOUR_MS);
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_reads_is_told_what_time_it_is_and_not_only_what_time_it_was() -> Test {
    let cluster = Cluster::of(3).await;
    for id in cluster.ids() {
        assert_eq!(cluster.handle(id).log_time_told(), None, "nothing was read yet");
        // Log time moves each second; most of the time what is applied is older than this.
        tokio::time::timeout(PATIENCE, async {
            loop {
                let handle = cluster.handle(id);
                handle.confirm(PATIENCE).await?;
                let applied = log_time(&handle);
                let told = handle.log_time_told().ok_or("it was told")?;
                if told.millis_since(applied) > 100 {
                    return Test::Ok(());
                }
            }
        })
        .await??;
    }
    cluster.end().await;
    Ok(())
}
