//! openraft's types, filled in for Ballast. Nothing outside this crate names them.

use std::fmt;

use bytes::Bytes;
use openraft::type_config::alias;

use crate::machine::Machine;

openraft::declare_raft_types!(
    /// What consensus is about here: opaque entries, node ids that are numbers, no data per node
    /// (addresses are in the replicated state, where they can change without a vote).
    pub(crate) Types:
        D = Commands,
        R = (),
        NodeId = u64,
        Node = (),
        // One leader a term, as in Raft's paper; openraft's own choice is several. Terms name leaders everywhere outside of
        // this crate, and leases compare entries by term and index (`ids::EntryId`).
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

/// An entry of the state machine in its own encoding. Encoded once, on the leader.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Commands(pub(crate) Bytes);

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

pub(crate) type Raft = openraft::Raft<Types, Machine>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type LeaderId = alias::LeaderIdOf<Types>;
pub(crate) type CommittedLeaderId = alias::CommittedLeaderIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type LogEntry = alias::EntryOf<Types>;
pub(crate) type Payload = alias::PayloadOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, ()>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Metrics = openraft::RaftMetrics<Types>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_nodes_can_lead_in_one_term() {
        let vote = |node| Vote { leader_id: LeaderId { term: 7, voted_for: node }, committed: false };
        assert_eq!(vote(4).partial_cmp(&vote(5)), None, "whoever voted for one does not vote for the other");
    }
}
