//! What this member knows of the cluster's consensus, for people, metrics and decisions.

use std::{collections::BTreeMap, time::Duration};

use ballast_core::ids::{EntryId, LogIndex, NodeId};
use openraft::{Instant as _, ServerState, type_config::alias::SerdeInstantOf};

use crate::{
    log_store::entry_id,
    types::{LogId, Metrics, Types},
    words,
};

/// The role of this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Started, takes no part yet.
    #[default]
    Starting,
    /// Receives the log, does not vote.
    Learner,
    /// Votes.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Does not run any more.
    Stopped,
}

/// What the leader knows of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PeerStatus {
    /// Last entry that it is known to have.
    pub matched: LogIndex,
    /// Entries that it has still to get.
    pub lag: u64,
    /// How long it has not answered; `None` if it never did since this leader was elected.
    pub silent_for: Option<Duration>,
}

/// A look at this member.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// What it does.
    pub role: Role,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Raft's term.
    pub term: u64,
    /// Last entry of the log here.
    pub last_log: LogIndex,
    /// Last entry that this node knows to be committed.
    pub committed: LogIndex,
    /// Last entry applied here.
    pub applied: LogIndex,
    /// Last entry in the newest snapshot.
    pub snapshot: LogIndex,
    /// Last entry that is not in the log here any more.
    pub purged: LogIndex,
    /// The nodes that vote. Of both sets while a change is in progress.
    pub voters: Vec<NodeId>,
    /// Each set of voters: one, or two while a change is in progress. A majority means one of each.
    pub voter_sets: Vec<Vec<NodeId>>,
    /// The entry of the membership.
    pub membership: EntryId,
    /// Members that do not vote.
    pub learners: Vec<NodeId>,
    /// The other members, if this node leads.
    pub peers: BTreeMap<NodeId, PeerStatus>,
    /// If this node leads: since when no quorum has answered.
    pub quorum_silent_for: Option<Duration>,
    /// By how many microseconds this node's wall clock is ahead of the time that the clocks of a majority of the
    /// voters have reached (negative if it is behind), if that is known.
    pub clock_offset_micros: Option<i64>,
    /// Why it does not run any more.
    pub stopped_because: Option<String>,
}

impl Status {
    pub(crate) fn of(metrics: &Metrics) -> Self {
        let node = NodeId::new(metrics.id);
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let leads = metrics.state == ServerState::Leader;
        let age = |at: SerdeInstantOf<Types>| at.elapsed();
        let peers = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id).map(|(id, matched)| {
            let matched = matched.as_ref().map_or(0, |id| id.index);
            let heard = metrics.heartbeat.as_ref().and_then(|all| *all.get(id)?);
            let peer = PeerStatus {
                matched: LogIndex::new(matched),
                lag: last.saturating_sub(matched),
                silent_for: heard.map(age),
            };
            (NodeId::new(*id), peer)
        });
        Self {
            node,
            role: role(metrics),
            leader: metrics.current_leader.map(NodeId::new),
            term: metrics.current_term,
            last_log: LogIndex::new(last),
            committed: index(metrics.local_committed.as_ref()),
            applied: index(metrics.last_applied.as_ref()),
            snapshot: index(metrics.snapshot.as_ref()),
            purged: index(metrics.purged.as_ref()),
            voters: membership.voter_ids().map(NodeId::new).collect(),
            voter_sets: membership
                .get_joint_config()
                .iter()
                .map(|set| set.iter().copied().map(NodeId::new).collect())
                .collect(),
            membership: entry_id(metrics.membership_config.log_id().as_ref()),
            learners: membership.learner_ids().map(NodeId::new).collect(),
            peers: peers.collect(),
            quorum_silent_for: metrics.last_quorum_acked.filter(|_| leads).map(age),
            clock_offset_micros: None,
            stopped_because: metrics.running_state.as_ref().err().map(words::fatal),
        }
    }
}

fn role(metrics: &Metrics) -> Role {
    if metrics.running_state.is_err() {
        return Role::Stopped;
    }
    match metrics.state {
        ServerState::Learner if metrics.membership_config.log_id().is_none() => Role::Starting,
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Stopped,
    }
}

fn index(id: Option<&LogId>) -> LogIndex {
    LogIndex::new(id.map_or(0, |id| id.index))
}
