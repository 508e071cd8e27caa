//! What the admin services ask of this node itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use ballast_admin::node::{
    HeldVip, LeasePicture, ListenerProblem, LocalStatus, OperationError, Operations, SnapshotMade, StateAccess,
};
use ballast_clock::boot_now;
use ballast_core::{
    cluster::{BoxFuture, ClusterView},
    config::Vip,
    ids::{LogIndex, NodeId, VipId},
    lease::{Fitness, LeaseView, LeaseVip, Unfitness},
    state::{NodeAdmin, NodeRole, State},
    time::BootNanos,
};
use ballast_proxy::{ListenerState, Proxy, prober::Findings};
use ballast_raft::{Handle, Role};
use ballast_sessions::{Place, Wanted};
use ballast_vip::netlink::KeeperHandle;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    certificate::Certificate,
    interfaces,
    leases::TransitionCounts,
    programs::{Runs, VipCheck},
    sessions::NodeSessions,
    view::View,
    webhooks::Deliveries,
};

/// How often something that gives no signal is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The loop that publishes the state looks twenty times a second, the keeper of VIPs once; one that has not for so long
/// hangs.
const LOOKED_WITHIN: Duration = Duration::from_secs(10);

/// The parts of this node that can be asked.
pub struct Node {
    /// Consensus.
    pub raft: Handle,
    /// The published state.
    pub view: Arc<View>,
    /// The lease thread, once it runs.
    pub leases: OnceLock<Arc<ballast_vip::Handle>>,
    /// Keeps the addresses of VIPs and their fence in place, with the netlink driver.
    pub keeper: OnceLock<KeeperHandle>,
    /// When the loop that publishes the state looked last, in nanoseconds since the machine started.
    pub looked: AtomicU64,
    /// What the lease thread is told of the agreed state.
    pub lease_view: Arc<ArcSwapOption<LeaseView>>,
    /// The data plane; a witness has none.
    pub proxy: Option<Arc<Proxy>>,
    /// The session store's server; a witness has none.
    pub sessions: Option<NodeSessions>,
    /// This node's findings about backends.
    pub findings: Arc<Findings>,
    /// Gains and losses of VIPs.
    pub transitions: Arc<TransitionCounts>,
    /// Runs of the program that is told of them.
    pub hook_runs: Arc<Runs>,
    /// What this node's own check says; `None` when `ballastd.toml` names none.
    pub check: Option<VipCheck>,
    /// Runs of that check.
    pub check_runs: Arc<Runs>,
    /// What became of events that webhooks were told of.
    pub deliveries: Arc<Deliveries>,
    /// The node is going down or was told to drain.
    pub draining: AtomicBool,
    /// When the process started.
    pub started: SystemTime,
    /// Where its data are.
    pub data_dir: PathBuf,
    /// The node's certificate.
    pub certificate: Arc<Certificate>,
}

/// A node that was not confirmed for so long is not ready, and holds no VIP. Longer than an election, because losing the
/// leader must cost no VIP.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

/// A disk that takes longer for one sync is in trouble: this node takes no new bindings and sessions in reasonable time.
const DISK_PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    /// Whether this node is fit to hold VIPs at all.
    pub fn fitness(&self) -> Fitness {
        let member = self.raft.with_state(|state| {
            let node = state.node(self.view.node())?;
            Some((node.info.role, node.admin))
        });
        let within = |age: Option<u64>| age.is_some_and(|age| Duration::from_nanos(age) < CONFIRMED_WITHIN);
        let answered = || {
            let round = self.leases.get().and_then(|leases| leases.confirmed());
            within(round.map(|round| boot_now().since(round.asked_at)))
        };
        match member {
            None | Some((NodeRole::Witness, _)) => Fitness::Unfit(Unfitness::NotCandidate),
            // Nobody would serve here, whatever the cluster takes this node for.
            Some(_) if self.own_role() == NodeRole::Witness => Fitness::Unfit(Unfitness::NotCandidate),
            Some((NodeRole::Full, NodeAdmin::Drain)) => Fitness::Unfit(Unfitness::Draining),
            Some(_) if self.draining.load(Ordering::Relaxed) => Fitness::Unfit(Unfitness::Draining),
            Some(_) if within(self.view.freshness.age(boot_now())) => {
                if Duration::from_nanos(self.raft.sync_stats().nanos_pending) > DISK_PATIENCE {
                    return Fitness::Reluctant(Unfitness::DiskTrouble);
                }
                let failed = self.check.as_ref().and_then(VipCheck::failed);
                failed.map_or(Fitness::Fit, |_| Fitness::Reluctant(Unfitness::CheckFailed))
            }
            // The voters answer, so it is this node that has not applied what they told: itself, or nobody while there is no
            // leader, and then the VIPs stay.
            Some(_) if answered() => Fitness::Reluctant(Unfitness::StateBehind),
            Some(_) => Fitness::Unfit(Unfitness::NoQuorum),
        }
    }

    /// What its file says that it is: a witness has no data plane.
    fn own_role(&self) -> NodeRole {
        if self.proxy.is_some() { NodeRole::Full } else { NodeRole::Witness }
    }

    /// What this node is fit for, VIP by VIP; one that is missing is fit.
    pub fn vip_fitness(&self) -> BTreeMap<VipId, Fitness> {
        let listeners = self.proxy.iter().flat_map(|proxy| proxy.listening().1);
        let mut failed: BTreeSet<IpAddr> = listeners.map(|listener| listener.address.ip()).collect();
        let sessions = self.sessions.iter().flat_map(NodeSessions::failed);
        failed.extend(sessions.filter_map(|(wanted, _)| match wanted.place {
            Place::Vip(_, address) => Some(address.ip()),
            Place::Address(_) | Place::Unix { .. } => None,
        }));
        let vips: BTreeMap<VipId, bool> = self.raft.with_state(|state| {
            let on_failed = |(id, vip): (VipId, &Vip)| (id, vip.addresses.iter().any(|at| failed.contains(&at.ip())));
            state.vips().map(on_failed).collect()
        });
        interfaces::fitness(vips.keys().copied(), self.keeper.get(), |vip| vips.get(&vip) == Some(&true))
    }

    /// What is wrong about single VIPs, in the words of who found it out.
    fn problems(&self) -> BTreeMap<VipId, String> {
        let report = self.keeper.get().map(|keeper| keeper.report());
        report.iter().flat_map(|report| &report.vips).map(|(vip, known)| (*vip, known.problem.clone())).collect()
    }

    /// What deserves a look about single VIPs and keeps this node from nothing, in words.
    fn warnings(&self) -> BTreeMap<VipId, String> {
        let report = self.keeper.get().map(|keeper| keeper.report());
        let found = report.iter().flat_map(|report| &report.vips).filter(|(_, known)| !known.warning.is_empty());
        found.map(|(vip, known)| (*vip, known.warning.clone())).collect()
    }

    /// Why this node should get no traffic; empty when it should.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let status = self.raft.status();
        if let Some(reason) = status.stopped_because {
            reasons.push(format!("the member of the cluster stopped: {reason}"));
        }
        match self.raft.with_state(|state| state.node(status.node).map(|node| (node.info.role, node.admin))) {
            None => {
                reasons.push("the log does not name this node yet; it has not caught up, or was removed".to_owned())
            }
            Some((role, admin)) => {
                if admin == NodeAdmin::Drain {
                    reasons.push("an operator drains the node; `ballastctl node enable` ends that".to_owned());
                }
                reasons.extend(other_role(role, self.own_role()).map(str::to_owned));
            }
        }
        reasons.extend(self.certificate.problem(SystemTime::now()));
        if status.leader.is_none() {
            reasons.push("no leader is known".to_owned());
        }
        match self.view.freshness.age(boot_now()) {
            None => reasons.push("the state was never confirmed with a quorum".to_owned()),
            Some(age) if Duration::from_nanos(age) > CONFIRMED_WITHIN => {
                reasons.push(format!("the state was last confirmed with a quorum {} s ago", age / 1_000_000_000));
            }
            Some(_) => {}
        }
        if let Some(error) = self.leases.get().and_then(|leases| leases.unsent()) {
            reasons.push(format!("lease datagrams to others cannot be sent: {error}"));
        }
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("the node is draining".to_owned());
        }
        if let Some(proxy) = &self.proxy {
            for listener in proxy.listeners() {
                if let Some(error) = listener.error {
                    reasons
                        .push(format!("listener {} cannot listen on {}: {error}", listener.listener, listener.address));
                }
            }
        }
        for (wanted, error) in self.sessions.iter().flat_map(NodeSessions::failed) {
            reasons.push(format!("the session store cannot listen on {}: {error}", wanted.place));
        }
        reasons
    }

    /// Why this process should be started again; nothing if it should not.
    ///
    /// # Errors
    /// What of it does not turn any more.
    pub fn well(&self) -> Result<(), String> {
        if !self.raft.runs() {
            return Err("the member of the cluster stopped".to_owned());
        }
        if !self.leases.get().is_some_and(|leases| leases.alive()) {
            return Err("the lease thread ended".to_owned());
        }
        let looked = BootNanos::new(self.looked.load(Ordering::Relaxed));
        if Duration::from_nanos(boot_now().since(looked)) > LOOKED_WITHIN {
            return Err("the agreed state is not followed any more".to_owned());
        }
        if self.keeper.get().is_some_and(|keeper| keeper.held_up() > LOOKED_WITHIN) {
            return Err("addresses and fence of VIPs are not looked after any more".to_owned());
        }
        Ok(())
    }

    /// What this node does, in a line for the service manager.
    pub fn status_line(&self) -> String {
        let reasons = self.not_ready();
        if !reasons.is_empty() {
            return format!("not ready: {}", reasons.join("; "));
        }
        let role = match self.raft.status().role {
            Role::Starting => "starting",
            Role::Learner => "learner",
            Role::Follower => "voter",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
            Role::Stopped => "stopped",
        };
        match self.held().len() {
            0 => format!("{role}, holds no VIP"),
            1 => format!("{role}, holds 1 VIP"),
            count => format!("{role}, holds {count} VIPs"),
        }
    }

    fn held(&self) -> Vec<HeldVip> {
        let Some(leases) = self.leases.get() else { return Vec::new() };
        let now = boot_now();
        leases
            .status()
            .iter()
            .filter(|vip| vip.holder == Some(self.view.node()) && vip.until > now)
            .map(|vip| HeldVip {
                vip: vip.vip,
                epoch: vip.epoch.get(),
                remaining: Duration::from_nanos(vip.until.since(now)),
            })
            .collect()
    }
}

/// What is wrong where the cluster takes a node for something else than its file says that it is, and what to do.
const fn other_role(taken_for: NodeRole, own: NodeRole) -> Option<&'static str> {
    match (taken_for, own) {
        (NodeRole::Full, NodeRole::Full) | (NodeRole::Witness, NodeRole::Witness) => None,
        (NodeRole::Full, NodeRole::Witness) => Some(
            "its ballastd.toml says that it is a witness, and the cluster takes it for a node that carries traffic: \
             take role = \"witness\" out of the file, or remove the node and join a new one with a witness's token",
        ),
        (NodeRole::Witness, NodeRole::Full) => Some(
            "the cluster takes it for a witness, and its ballastd.toml does not say that it is one: \
             write role = \"witness\" there, or remove the node and join a new one with another token",
        ),
    }
}

fn listener_problem(listener: ListenerState) -> Option<ListenerProblem> {
    Some(ListenerProblem {
        farm: Some(listener.farm),
        listener: listener.listener.to_string(),
        address: listener.address.to_string(),
        error: listener.error?,
    })
}

fn session_problem((wanted, error): (Wanted, String)) -> ListenerProblem {
    ListenerProblem { farm: None, listener: wanted.kind().to_owned(), address: wanted.place.to_string(), error }
}

impl StateAccess for Node {
    fn with_state(&self, read: &mut dyn FnMut(&State)) {
        self.raft.with_state(|state| read(state));
    }

    fn applied(&self) -> watch::Receiver<LogIndex> {
        self.view.applied_changes()
    }
}

impl Operations for Node {
    fn status(&self) -> LocalStatus {
        let raft = self.raft.status();
        let (serving, failed) = match &self.proxy {
            Some(proxy) => proxy.listening(),
            None => (self.view.plan().revision, Vec::new()),
        };
        let draining = self.draining.load(Ordering::Relaxed);
        // A store that is draining listens on nothing any more, whatever is wanted.
        let settled = self.sessions.as_ref().filter(|_| !draining).map_or(serving, NodeSessions::settled);
        let failed = failed.into_iter().filter_map(listener_problem);
        let sessions = self.sessions.iter().flat_map(NodeSessions::failed).map(session_problem);
        let jitter = self.leases.get().map(|leases| leases.jitter()).unwrap_or_default();
        LocalStatus {
            node: raft.node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            term: raft.term,
            leader: raft.leader,
            voters: raft.voters.into_iter().collect(),
            voters_changing: raft.voter_sets.len() > 1,
            learners: raft.learners.into_iter().collect(),
            last_log: raft.last_log,
            synced: self.raft.synced_index(),
            committed: raft.committed,
            applied: self.view.applied_index(),
            snapshot: raft.snapshot,
            purged: raft.purged,
            confirmed_age: self.view.freshness.age(boot_now()).map(Duration::from_nanos),
            serving: serving.min(settled),
            listener_problems: failed.chain(sessions).collect(),
            held: self.held(),
            fitness: self.fitness(),
            standings: self.leases.get().map(|leases| leases.status()).unwrap_or_default(),
            problems: self.problems(),
            warnings: self.warnings(),
            fence: self.keeper.get().map(|keeper| keeper.level().as_str()),
            not_ready: self.not_ready(),
            draining,
            started: self.started,
            certificate_not_after: self.certificate.not_after(),
            connections: self.proxy.as_ref().map_or(0, |proxy| proxy.held() as u64),
            lease_wake_late: jitter.wake_late.usual_max,
            lease_renew: jitter.renew.usual_max,
        }
    }

    fn leases(&self) -> Option<LeasePicture> {
        let view = self.lease_view.load_full()?;
        let statuses = self.leases.get()?.status();
        let owner = |vip: &LeaseVip| {
            let status = statuses.iter().find(|status| status.vip == vip.id);
            Some((vip.id, status.and_then(|status| status.holder).or(vip.recorded_owner)?))
        };
        let owners = view.vips.iter().filter_map(owner).collect();
        Some(LeasePicture { view, owners })
    }

    fn state_hash(&self, at: Option<LogIndex>) -> Option<(LogIndex, String)> {
        self.raft.with_state(|state| {
            let index = state.applied();
            let hash = || state.hash().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            at.is_none_or(|at| at == index).then(|| (index, hash()))
        })
    }

    fn transfer_leader(&self, to: NodeId, deadline: Duration) -> BoxFuture<'static, Result<(), OperationError>> {
        let raft = self.raft.clone();
        Box::pin(async move {
            let leader = raft.status().leader;
            if leader != Some(raft.node()) {
                return Err(OperationError::NotLeader { leader });
            }
            if !raft.transfer_leader(to).await {
                return Err(OperationError::Failed { detail: "the member of the cluster does not run".to_owned() });
            }
            let mut leader = raft.watch_leader();
            let arrived = tokio::time::timeout(deadline, leader.wait_for(|leader| *leader == Some(to))).await;
            match arrived {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(OperationError::Failed { detail: "the member of the cluster stopped".to_owned() }),
                Err(_) => Err(OperationError::Deadline { what: "the hand-over of the leadership", waited: deadline }),
            }
        })
    }

    fn snapshot(&self, deadline: Duration) -> BoxFuture<'static, Result<SnapshotMade, OperationError>> {
        let raft = self.raft.clone();
        Box::pin(async move {
            let from = raft.status().applied;
            if !raft.trigger_snapshot().await {
                return Err(OperationError::Failed { detail: "the member of the cluster does not run".to_owned() });
            }
            let until = Instant::now() + deadline;
            loop {
                let status = raft.status();
                if status.snapshot >= from {
                    return Ok(SnapshotMade { index: status.snapshot, bytes: None });
                }
                if Instant::now() >= until {
                    return Err(OperationError::Deadline { what: "the snapshot", waited: deadline });
                }
                sleep(LOOK_AGAIN).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_the_cluster_does_not_know_of_is_told_with_what_to_do() {
        let [full, witness] = [NodeRole::Full, NodeRole::Witness];
        assert_eq!((other_role(full, full), other_role(witness, witness)), (None, None));
        let told = other_role(full, witness).expect("they differ");
        assert!(told.contains("take role = \"witness\" out of the file"), "{told}");
        let told = other_role(witness, full).expect("they differ");
        assert!(told.contains("write role = \"witness\" there"), "{told}");
    }
}
