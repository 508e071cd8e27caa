//! What runs on every node beside consensus, and what only the leader does.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ballast_core::{ids::NodeId, state::Command};
use ballast_proto::cluster::v1::{self as pb, leader_client::LeaderClient};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    clocks::{OffsetAlarm, WallTime, announce},
    member::Shared,
    membership::{Reachability, reconcile},
    peers::Traffic,
    status::Status,
};

/// How often the leader looks whether the membership is as it should be.
const RECONCILE_EVERY: Duration = Duration::from_millis(250);

/// Log time moves at least this often, so that lifetimes end in an idle cluster too.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// How often a node tells its hashes, which are made every 32 entries, and its clock.
const COMPARE_EVERY: Duration = Duration::from_secs(4);

/// How often this node looks whether its wall clock is right.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// Least time between two updates of the status, which every entry changes.
const STATUS_PAUSE: Duration = Duration::from_millis(20);

/// Moves the membership towards what is agreed, while this node leads.
pub(crate) async fn keep_membership(shared: Arc<Shared>) {
    let mut reachability = Reachability::default();
    let mut every = interval(RECONCILE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if shared.leads() {
            reconcile(&shared.raft, &shared.replica, &mut reachability).await;
        } else {
            reachability.forget();
        }
    }
}

/// Proposes a tick when no entry has moved log time for a while, while this node leads.
pub(crate) async fn keep_time(shared: Arc<Shared>) {
    let mut seen = (0, Instant::now());
    loop {
        sleep(TICK_EVERY / 4).await;
        let log_time = shared.replica.log_time.load(std::sync::atomic::Ordering::Acquire);
        if seen.0 != log_time {
            seen = (log_time, Instant::now());
        }
        let initialised = log_time > 0;
        if !shared.leads() || !initialised || seen.1.elapsed() < TICK_EVERY {
            continue;
        }
        // A failed one is followed by the next.
        if let Err(error) = shared.propose(Command::Tick, TICK_EVERY).await {
            tracing::debug!(%error, "log time did not move");
        }
    }
}

/// Tells this node's hashes and clock to the leader, stops this node if it is the one that is wrong, and keeps what
/// the leader says of the time.
pub(crate) async fn compare_state(shared: Arc<Shared>) {
    loop {
        sleep(COMPARE_EVERY).await;
        let me = shared.replica.node();
        let Some(leader) = shared.leader().filter(|leader| *leader != me) else { continue };
        let hashes = shared.replica.hashes.lock().all();
        let hashes = hashes
            .into_iter()
            .map(|(index, hash)| pb::StateHash { index: index.get(), hash: hash.to_vec().into() })
            .collect();
        let mut client = LeaderClient::new(shared.peers.channel(leader, Traffic::Leader));
        let request = shared.peers.request(leader, pb::CompareStateRequest { hashes });
        let (asked, asked_at) = (shared.peers.clocks.own(), Instant::now());
        match timeout(COMPARE_EVERY, client.compare_state(request)).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                if let Some(voters) = reply.voters_micros {
                    // The leader looked about half way between asking and hearing.
                    let own = asked.plus(asked_at.elapsed() / 2);
                    shared.peers.clocks.compared(own, WallTime::from_micros(voters));
                }
                if let Some(index) = reply.diverged_at {
                    shared.diverged(ballast_core::ids::LogIndex::new(index));
                }
            }
            Ok(Err(status)) => tracing::debug!(%leader, %status, "hashes were not compared"),
            Err(_) => tracing::debug!(%leader, "hashes were not compared in time"),
        }
    }
}

/// Says when this node's wall clock is wrong; compares it, while this node leads.
pub(crate) async fn watch_clock(shared: Arc<Shared>) {
    let mut alarm = OffsetAlarm::default();
    loop {
        sleep(CLOCK_EVERY).await;
        let clocks = &shared.peers.clocks;
        if shared.leads()
            && let Some(voters) = shared.voters_time()
        {
            clocks.compared(clocks.own(), voters);
        }
        if let Some(notice) = clocks.offset_micros().and_then(|offset| alarm.look(offset)) {
            announce(notice);
        }
    }
}

/// Publishes the status when it changed, at most every [`STATUS_PAUSE`].
pub(crate) async fn publish_status(shared: Arc<Shared>, status: watch::Sender<Status>) {
    use openraft::async_runtime::watch::WatchReceiver;
    let mut metrics = shared.raft.metrics();
    loop {
        drop(metrics.borrow_and_update());
        status.send_replace(shared.status());
        sleep(STATUS_PAUSE).await;
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Publishes who leads as soon as this node knows.
pub(crate) async fn follow_leader(shared: Arc<Shared>, leader: watch::Sender<Option<NodeId>>) {
    use openraft::async_runtime::watch::WatchReceiver;
    let mut metrics = shared.raft.server_metrics();
    loop {
        let current = metrics.borrow_and_update().current_leader.map(NodeId::new);
        leader.send_if_modified(|known| {
            let changed = *known != current;
            if changed && current.is_some() {
                shared.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            *known = current;
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
