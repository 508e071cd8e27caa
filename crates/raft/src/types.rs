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
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type LogEntry = alias::EntryOf<Types>;
pub(crate) type Payload = alias::PayloadOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, ()>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Metrics = openraft::RaftMetrics<Types>;
