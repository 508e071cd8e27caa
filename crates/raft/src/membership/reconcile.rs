//! Carries out the next change of the membership, on the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ballast_core::{config::Cluster, ids::NodeId, state::Node};
use openraft::{ChangeMembers, Instant as _, raft::Precondition};
use tokio::time::{Instant, timeout};

use super::{
    plan::{Change, Facts, NodeFacts, next_change, wanting},
    taking::Taking,
};
use crate::{
    machine::Replica,
    types::{Metrics, Raft},
};

/// A learner with less than this many entries to go can vote: it will have them within moments.
const CAUGHT_UP_WITHIN: u64 = 1000;

/// Longest to wait for a change. It stays in the log if it takes longer; the next look finds out.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What hinders a change of the membership is told once it has lasted so long, and every so often while it lasts.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// Since when the leader has not heard from each node, and whose disks take what they are sent. A new leader has heard from
/// nobody, so its own beginning counts as the last word of all: it replaces none of them sooner for that.
#[derive(Debug, Default)]
pub(crate) struct Reachability {
    /// Term, and when this node began to lead it.
    leading: Option<(u64, Instant)>,
    taking: Taking,
    /// Since when something hinders changes that are due, or when that was told last.
    hindered: Option<Instant>,
}

impl Reachability {
    /// Looks at what each member has on disk. In a new term nobody is known to have anything yet.
    fn look(&mut self, metrics: &Metrics) {
        if self.leading.is_none_or(|(term, _)| term != metrics.current_term) {
            self.leading = Some((metrics.current_term, Instant::now()));
            self.taking = Taking::default();
        }
        let members = metrics.replication.iter().flatten();
        let members = members.map(|(node, matched)| (*node, matched.as_ref().map(|id| id.index)));
        self.taking.look(Instant::now(), metrics.last_log_index.unwrap_or(0), members);
    }

    fn silent_for(&self, metrics: &Metrics) -> BTreeMap<u64, Duration> {
        let led_for = self.leading.map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let Some(heard) = metrics.heartbeat.as_ref() else { return BTreeMap::new() };
        let learners: BTreeSet<u64> = metrics.membership_config.membership().learner_ids().collect();
        heard
            .iter()
            .map(|(node, at)| {
                let never = if learners.contains(node) { Duration::MAX } else { led_for };
                (*node, at.map_or(never, |at| at.elapsed().min(led_for)))
            })
            .collect()
    }

    /// Not leading any more.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Tells what hinders a change, if it does for long.
    fn hindered(&mut self, by: Option<&str>) {
        let Some(by) = by else {
            self.hindered = None;
            return;
        };
        if self.hindered.get_or_insert_with(Instant::now).elapsed() >= TELL_AFTER {
            self.hindered = Some(Instant::now());
            tracing::info!("the voters are not yet what the document wants: {by}");
        }
    }
}

/// Makes one change if one is due.
pub(crate) async fn reconcile(raft: &Raft, replica: &Replica, reachability: &mut Reachability) {
    use openraft::async_runtime::watch::WatchReceiver;
    let metrics = raft.metrics().borrow_watched().clone();
    // Until the last change is committed, the next would be refused. Until this leader has applied
    // an entry of its own term, its state may be older than the membership it found in the log.
    let settled = metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
    let current = metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
    if replica.look(|state| state.cluster().is_none()) {
        return;
    }
    if current {
        reachability.look(&metrics);
    }
    if !settled || !current {
        let by =
            if settled { "this leader has applied nothing of its term" } else { "the last change is not committed" };
        reachability.hindered(Some(by));
        return;
    }
    let facts = gather(replica, &metrics, reachability);
    let Some(change) = next_change(&facts) else {
        reachability.hindered(wanting(&facts).as_deref());
        return;
    };
    tracing::info!(?change, "changing the membership");
    let request = match change {
        Change::AddLearner(node) => ChangeMembers::AddNodes(BTreeMap::from([(node.get(), ())])),
        Change::RemoveLearner(node) => ChangeMembers::RemoveNodes(BTreeSet::from([node.get()])),
        Change::FinishVoters(voters) | Change::SetVoters { voters, .. } => {
            ChangeMembers::ReplaceAllVoters(voters.into_iter().map(NodeId::get).collect())
        }
    };
    // Decided from this membership; if it changed meanwhile, the decision is void.
    let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: *metrics.membership_config.log_id() };
    match timeout(CHANGE_TIMEOUT, raft.change_membership_if(request, true, [unchanged])).await {
        Ok(Ok(_)) => reachability.hindered(None),
        // Another leader, or another change came first. The next look is a moment away.
        Ok(Err(error)) => {
            tracing::debug!(%error, "the membership was not changed");
            reachability.hindered(Some(&error.to_string()));
        }
        Err(_) => tracing::warn!("the change of the membership takes long: is a quorum reachable?"),
    }
}

fn gather(replica: &Replica, metrics: &Metrics, reachability: &Reachability) -> Facts {
    let now = Instant::now();
    let silent = reachability.silent_for(metrics);
    let last = metrics.last_log_index.unwrap_or(0);
    let facts = |node: &Node| {
        let id = node.id.get();
        let me = id == metrics.id;
        let heard = metrics.heartbeat.as_ref().and_then(|all| *all.get(&id)?).is_some();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)?.as_ref().map(|id| id.index));
        let facts = NodeFacts {
            role: node.info.role,
            admin: node.admin,
            silent_for: if me { Duration::ZERO } else { silent.get(&id).copied().unwrap_or(Duration::MAX) },
            heard: me || heard,
            caught_up: me || matched.is_some_and(|matched| matched + CAUGHT_UP_WITHIN >= last),
            takes: reachability.taking.takes(id),
            stuck_for: reachability.taking.stuck_for(now, id),
        };
        (node.id, facts)
    };
    let (nodes, policy) = replica.look(|state| {
        let policy = state.document().map_or_else(Cluster::default, |document| document.cluster.clone());
        (state.nodes().map(facts).collect(), policy)
    });

    let membership = metrics.membership_config.membership();
    let configs = membership.get_joint_config();
    let voters: BTreeSet<NodeId> = configs.last().into_iter().flatten().copied().map(NodeId::new).collect();
    Facts {
        nodes,
        learners: membership.learner_ids().map(NodeId::new).collect(),
        voters,
        joint: configs.len() > 1,
        leader: replica.node(),
        voters_wanted: usize::from(policy.voters),
        replace_voter_after: policy.replace_voter_after.duration(),
    }
}
