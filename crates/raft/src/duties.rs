//! What runs on every node beside consensus, and what only the leader does.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ballast_core::{health::silent, ids::NodeId, state::Command};
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
    status::{Role, Status},
};

/// How often the leader looks whether the membership is as it should be.
const RECONCILE_EVERY: Duration = Duration::from_millis(250);

/// Log time moves at least this often, so that lifetimes end in an idle cluster too.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// How often a node tells its hashes, which are made every 32 entries, and its clock.
const COMPARE_EVERY: Duration = Duration::from_secs(4);

/// A quorum that is lost for this long is worth waking somebody; an election takes a tenth of it.
const QUORUM_LOST_AFTER: Duration = Duration::from_secs(5);

/// How often this node looks whether it has a quorum.
const QUORUM_EVERY: Duration = Duration::from_millis(500);

/// How often this node looks whether its wall clock is right.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// How often the leader looks who is silent.
const SILENCE_EVERY: Duration = Duration::from_secs(1);

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

/// Proposes a tick when no entry has moved log time for a while, while this node leads; and at once when it begins to, as
/// nobody may have moved it for longer.
pub(crate) async fn keep_time(shared: Arc<Shared>) {
    let mut seen = (0, Instant::now());
    let mut leader = shared.leader.clone();
    // The term in which this node moved it last.
    let mut moved = None;
    loop {
        // Both arms are cancel-safe: a change that is not taken now stays marked.
        tokio::select! {
            () = sleep(TICK_EVERY / 4) => {}
            changed = leader.changed() => if changed.is_err() { return },
        }
        let term = shared.saved_vote.of(shared.replica.node()).filter(|_| shared.leads());
        let log_time = shared.replica.log_time.load(std::sync::atomic::Ordering::Acquire);
        if seen.0 != log_time {
            seen = (log_time, Instant::now());
        }
        let initialised = log_time > 0;
        if term.is_none() || !initialised || moved == term && seen.1.elapsed() < TICK_EVERY {
            continue;
        }
        match shared.propose(Command::Tick, TICK_EVERY).await {
            Ok(_) => moved = term,
            // A failed one is followed by the next.
            Err(error) => tracing::debug!(%error, "log time did not move"),
        }
    }
}

/// Has the findings of nodes lapse that are silent for too long, while this node leads.
pub(crate) async fn lapse_findings(shared: Arc<Shared>) {
    let mut leads_since = None;
    loop {
        sleep(SILENCE_EVERY).await;
        if !shared.leads() {
            leads_since = None;
            continue;
        }
        let leading_for = leads_since.get_or_insert_with(Instant::now).elapsed();
        let peers = shared.status().peers.into_iter().map(|(node, peer)| (node, peer.silent_for));
        let silent = silent(leading_for, peers);
        let lapsed: Vec<NodeId> =
            shared.replica.look(|state| silent.filter(|node| state.findings_of(*node).next().is_some()).collect());
        for node in lapsed {
            tracing::info!(%node, "the node is silent; what it found about backends does not count until it is back");
            // A failed one is followed by the next.
            if let Err(error) = shared.propose(Command::LapseFindings { node }, SILENCE_EVERY).await {
                tracing::debug!(%node, %error, "its findings did not lapse");
            }
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

/// Says when this node lost touch with the quorum for longer than an election takes, and when it has it again.
pub(crate) async fn watch_quorum(shared: Arc<Shared>) {
    let mut lost = LostQuorum { since: Instant::now(), told: false };
    loop {
        sleep(QUORUM_EVERY).await;
        let status = shared.status();
        // A node that waits to be added, or that ends, has nothing to lose.
        let idle = matches!(status.role, Role::Starting | Role::Stopped);
        match lost.look(idle || shared.has_quorum(&status), Instant::now()) {
            Some(QuorumNotice::Lost) => tracing::warn!("no quorum: {}", shared.why_no_quorum(&status)),
            Some(QuorumNotice::Back) => tracing::info!("this node is in touch with a quorum again"),
            None => {}
        }
    }
}

#[derive(Debug)]
struct LostQuorum {
    /// When there was a quorum last, or the beginning.
    since: Instant,
    told: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum QuorumNotice {
    Lost,
    Back,
}

impl LostQuorum {
    fn look(&mut self, has_quorum: bool, now: Instant) -> Option<QuorumNotice> {
        if has_quorum {
            self.since = now;
            return std::mem::take(&mut self.told).then_some(QuorumNotice::Back);
        }
        let lost = !self.told && now.duration_since(self.since) >= QUORUM_LOST_AFTER;
        self.told |= lost;
        lost.then_some(QuorumNotice::Lost)
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
            if let Some(leader) = current.filter(|_| changed) {
                shared.leader_changes.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%leader, "the cluster has a leader");
            }
            *known = current;
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_quorum_is_told_once_and_an_election_is_not() {
        let begun = Instant::now();
        let mut lost = LostQuorum { since: begun, told: false };
        let mut look = |has, millis| lost.look(has, begun + Duration::from_millis(millis));
        assert_eq!(look(true, 1000), None);
        assert_eq!(look(false, 1500), None);
        assert_eq!(look(true, 2000), None, "that was an election");
        assert_eq!(look(false, 6500), None);
        assert_eq!(look(false, 7000), Some(QuorumNotice::Lost));
        assert_eq!(look(false, 60_000), None);
        assert_eq!(look(true, 60_500), Some(QuorumNotice::Back));
        assert_eq!(look(true, 61_000), None);
    }
}
