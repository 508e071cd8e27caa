//! openraft's values in Ballast's own encodings, for the log, for snapshots and between nodes.
//!
//! openraft promises no stable form of its types from one version to the next; these messages
//! are ours and outlive it.

use std::collections::{BTreeMap, BTreeSet};

use ballast_proto::cluster::v1 as pb;
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;

use crate::types::{
    Commands, CommittedLeaderId, LeaderId, LogEntry, LogId, Membership, Payload, SnapshotMeta, StoredMembership, Types,
    Vote,
};

/// Bytes that are not what they should be: damaged, or from a version that is not understood.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot decode {what}: {why}")]
pub(crate) struct WireError {
    what: &'static str,
    why: String,
}

impl WireError {
    pub(crate) fn new(what: &'static str, why: impl ToString) -> Self {
        Self { what, why: why.to_string() }
    }

    fn missing(what: &'static str) -> Self {
        Self::new(what, "a field that must be there is missing")
    }
}

impl From<WireError> for std::io::Error {
    fn from(error: WireError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

// ---- The parts

pub(crate) fn log_id(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, leader: 0, index: id.index }
}

pub(crate) fn from_log_id(id: &pb::LogId) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(id.term), index: id.index }
}

fn opt(id: Option<&LogId>) -> Option<pb::LogId> {
    id.map(log_id)
}

fn from_opt(id: Option<&pb::LogId>) -> Option<LogId> {
    id.map(from_log_id)
}

pub(crate) fn vote(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn from_vote(vote: Option<&pb::Vote>) -> Result<Vote, WireError> {
    let vote = vote.ok_or_else(|| WireError::missing("a vote"))?;
    Ok(Vote { leader_id: LeaderId { term: vote.term, voted_for: vote.node }, committed: vote.committed })
}

fn membership(membership: &Membership) -> pb::Membership {
    let configs = membership
        .get_joint_config()
        .iter()
        .map(|voters| pb::VoterSet { voters: voters.iter().copied().collect() })
        .collect();
    pb::Membership { configs, members: membership.nodes().map(|(id, ())| *id).collect() }
}

fn from_membership(membership: pb::Membership) -> Result<Membership, WireError> {
    let configs = membership.configs.into_iter().map(|set| set.voters.into_iter().collect::<BTreeSet<u64>>()).collect();
    let members: BTreeMap<u64, ()> = membership.members.into_iter().map(|id| (id, ())).collect();
    Membership::new(configs, members).map_err(|error| WireError::new("a membership", error))
}

fn stored_membership(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership { log_id: opt(stored.log_id().as_ref()), membership: Some(membership(stored.membership())) }
}

fn from_stored_membership(stored: Option<pb::StoredMembership>) -> Result<StoredMembership, WireError> {
    let Some(stored) = stored else { return Ok(StoredMembership::default()) };
    let membership = stored.membership.ok_or_else(|| WireError::missing("a membership"))?;
    Ok(StoredMembership::new(from_opt(stored.log_id.as_ref()), from_membership(membership)?))
}

// ---- Stored forms

pub(crate) fn entry(entry: &LogEntry) -> pb::LogEntry {
    let payload = match &entry.payload {
        Payload::Blank => None,
        Payload::Normal(commands) => Some(pb::log_entry::Payload::Commands(commands.0.clone())),
        Payload::Membership(change) => Some(pb::log_entry::Payload::Membership(membership(change))),
    };
    pb::LogEntry { log_id: Some(log_id(&entry.log_id)), payload }
}

pub(crate) fn from_entry(entry: pb::LogEntry) -> Result<LogEntry, WireError> {
    let id = entry.log_id.as_ref().ok_or_else(|| WireError::missing("a log entry"))?;
    let payload = match entry.payload {
        None => Payload::Blank,
        Some(pb::log_entry::Payload::Commands(bytes)) => Payload::Normal(Commands(bytes)),
        Some(pb::log_entry::Payload::Membership(change)) => Payload::Membership(from_membership(change)?),
    };
    Ok(LogEntry { log_id: from_log_id(id), payload })
}

pub(crate) fn entry_from_bytes(bytes: Bytes) -> Result<LogEntry, WireError> {
    from_entry(pb::LogEntry::decode(bytes).map_err(|error| WireError::new("a log entry", error))?)
}

pub(crate) fn vote_from_bytes(bytes: Bytes) -> Result<Vote, WireError> {
    let vote = pb::Vote::decode(bytes).map_err(|error| WireError::new("a vote", error))?;
    from_vote(Some(&vote))
}

pub(crate) fn log_id_from_bytes(bytes: Bytes) -> Result<LogId, WireError> {
    Ok(from_log_id(&pb::LogId::decode(bytes).map_err(|error| WireError::new("a log id", error))?))
}

pub(crate) fn snapshot_meta(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last_log_id: opt(meta.last_log_id.as_ref()),
        membership: Some(stored_membership(&meta.last_membership)),
    }
}

pub(crate) fn from_snapshot_meta(meta: Option<pb::SnapshotMeta>) -> Result<SnapshotMeta, WireError> {
    let meta = meta.ok_or_else(|| WireError::missing("the description of a snapshot"))?;
    Ok(SnapshotMeta {
        last_log_id: from_opt(meta.last_log_id.as_ref()),
        last_membership: from_stored_membership(meta.membership)?,
    })
}

pub(crate) fn snapshot_meta_from_bytes(bytes: Bytes) -> Result<SnapshotMeta, WireError> {
    let meta =
        pb::SnapshotMeta::decode(bytes).map_err(|error| WireError::new("the description of a snapshot", error))?;
    from_snapshot_meta(Some(meta))
}

// ---- Between nodes

pub(crate) fn append_request(request: &AppendEntriesRequest<Types>) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote(&request.vote)),
        prev_log_id: opt(request.prev_log_id.as_ref()),
        entries: request.entries.iter().map(entry).collect(),
        leader_commit: opt(request.leader_commit.as_ref()),
    }
}

pub(crate) fn from_append_request(request: pb::AppendRequest) -> Result<AppendEntriesRequest<Types>, WireError> {
    Ok(AppendEntriesRequest {
        vote: from_vote(request.vote.as_ref())?,
        prev_log_id: from_opt(request.prev_log_id.as_ref()),
        entries: request.entries.into_iter().map(from_entry).collect::<Result<_, _>>()?,
        leader_commit: from_opt(request.leader_commit.as_ref()),
    })
}

pub(crate) fn append_reply(result: &StreamAppendResult<Types>) -> pb::AppendReply {
    use pb::append_reply::{Result as Reply, Success};
    let result = match result {
        Ok(matching) => Reply::Success(Success { matching: opt(matching.as_ref()) }),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict(log_id(id)),
        Err(StreamAppendError::HigherVote(higher)) => Reply::HigherVote(vote(higher)),
    };
    pb::AppendReply { result: Some(result) }
}

pub(crate) fn from_append_reply(reply: &pb::AppendReply) -> Result<StreamAppendResult<Types>, WireError> {
    use pb::append_reply::Result as Reply;
    Ok(match reply.result.as_ref().ok_or_else(|| WireError::missing("an answer to an append"))? {
        Reply::Success(done) | Reply::Partial(done) => Ok(from_opt(done.matching.as_ref())),
        Reply::Conflict(id) => Err(StreamAppendError::Conflict(from_log_id(id))),
        Reply::HigherVote(higher) => Err(StreamAppendError::HigherVote(from_vote(Some(higher))?)),
    })
}

/// The answer to a single append, which does not repeat what the asker knows.
pub(crate) fn append_once_reply(
    response: AppendEntriesResponse<Types>,
    matching: Option<LogId>,
    prev: Option<&LogId>,
) -> pb::AppendReply {
    use pb::append_reply::{Result as Reply, Success};
    let result = match response {
        AppendEntriesResponse::Success => Some(Reply::Success(Success { matching: opt(matching.as_ref()) })),
        AppendEntriesResponse::PartialSuccess(id) => Some(Reply::Partial(Success { matching: opt(id.as_ref()) })),
        AppendEntriesResponse::Conflict => prev.map(|id| Reply::Conflict(log_id(id))),
        AppendEntriesResponse::HigherVote(higher) => Some(Reply::HigherVote(vote(&higher))),
    };
    pb::AppendReply { result }
}

pub(crate) fn from_append_once_reply(reply: &pb::AppendReply) -> Result<AppendEntriesResponse<Types>, WireError> {
    use pb::append_reply::Result as Reply;
    Ok(match reply.result.as_ref().ok_or_else(|| WireError::missing("an answer to an append"))? {
        Reply::Success(_) => AppendEntriesResponse::Success,
        Reply::Partial(done) => AppendEntriesResponse::PartialSuccess(from_opt(done.matching.as_ref())),
        Reply::Conflict(_) => AppendEntriesResponse::Conflict,
        Reply::HigherVote(higher) => AppendEntriesResponse::HigherVote(from_vote(Some(higher))?),
    })
}

pub(crate) fn vote_request(request: &VoteRequest<Types>, pre_vote: bool) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote(&request.vote)),
        last_log_id: opt(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
        pre_vote,
    }
}

pub(crate) fn from_vote_request(request: &pb::VoteRequest) -> Result<VoteRequest<Types>, WireError> {
    Ok(VoteRequest {
        vote: from_vote(request.vote.as_ref())?,
        last_log_id: from_opt(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn vote_reply(response: &VoteResponse<Types>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote(&response.vote)),
        granted: response.vote_granted,
        last_log_id: opt(response.last_log_id.as_ref()),
    }
}

pub(crate) fn from_vote_reply(reply: &pb::VoteReply) -> Result<VoteResponse<Types>, WireError> {
    Ok(VoteResponse {
        vote: from_vote(reply.vote.as_ref())?,
        vote_granted: reply.granted,
        last_log_id: from_opt(reply.last_log_id.as_ref()),
    })
}

pub(crate) fn transfer_request(request: &TransferLeaderRequest<Types>) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        from_leader: Some(vote(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: opt(request.last_log_id()),
    }
}

pub(crate) fn from_transfer_request(
    request: &pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Types>, WireError> {
    let from = from_vote(request.from_leader.as_ref())?;
    Ok(TransferLeaderRequest::new(from, request.to, from_opt(request.last_log_id.as_ref())))
}

pub(crate) fn transfer_reply(response: &TransferLeaderResponse<Types>) -> pb::TransferLeaderReply {
    use pb::transfer_leader_reply::{LogNotFlushed, Refusal, VoteChanged};
    let refusal = match response {
        Ok(()) => None,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            Some(Refusal::VoteChanged(VoteChanged { expected: Some(vote(expected)), actual: Some(vote(actual)) }))
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Some(Refusal::LogNotFlushed(LogNotFlushed {
            expected: opt(expected.as_ref()),
            actual: opt(actual.as_ref()),
        })),
    };
    pb::TransferLeaderReply { refusal }
}

pub(crate) fn from_transfer_reply(reply: &pb::TransferLeaderReply) -> Result<TransferLeaderResponse<Types>, WireError> {
    use pb::transfer_leader_reply::Refusal;
    Ok(match &reply.refusal {
        None => Ok(()),
        Some(Refusal::VoteChanged(change)) => Err(TransferLeaderError::VoteChanged {
            expected: from_vote(change.expected.as_ref())?,
            actual: from_vote(change.actual.as_ref())?,
        }),
        Some(Refusal::LogNotFlushed(log)) => Err(TransferLeaderError::LogNotFlushed {
            expected: from_opt(log.expected.as_ref()),
            actual: from_opt(log.actual.as_ref()),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: CommittedLeaderId::new(term), index }
    }

    #[test]
    fn entries_of_every_kind_read_back() {
        let joint = Membership::new(
            vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])],
            (1..6).map(|id| (id, ())).collect::<BTreeMap<_, _>>(),
        )
        .expect("valid");
        for payload in
            [Payload::Blank, Payload::Normal(Commands(Bytes::from_static(b"commands"))), Payload::Membership(joint)]
        {
            let before = LogEntry { log_id: id(3, 77), payload };
            let bytes = Bytes::from(entry(&before).encode_to_vec());
            assert_eq!(entry_from_bytes(bytes).expect("decodes"), before);
        }
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        for bytes in [&b"\xff\xff\xff\xff"[..], b"\x0a\x7f", b"\x12"] {
            assert!(entry_from_bytes(Bytes::from_static(bytes)).is_err(), "{bytes:?}");
        }
        assert!(entry_from_bytes(Bytes::new()).is_err(), "an entry has a log id");
        assert!(from_vote(None).is_err());
        let voter_without_member = pb::Membership { configs: vec![pb::VoterSet { voters: vec![9] }], members: vec![1] };
        assert!(from_membership(voter_without_member).is_err());
    }

    #[test]
    fn votes_and_snapshot_descriptions_read_back() {
        let committed = Vote { leader_id: LeaderId { term: 9, voted_for: 4 }, committed: true };
        assert_eq!(vote_from_bytes(vote(&committed).encode_to_vec().into()).expect("decodes"), committed);
        let meta = SnapshotMeta {
            last_log_id: Some(id(1, 3)),
            last_membership: StoredMembership::new(
                Some(id(1, 1)),
                Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, ()), (2, ())])).expect("valid"),
            ),
        };
        let bytes = Bytes::from(snapshot_meta(&meta).encode_to_vec());
        assert_eq!(snapshot_meta_from_bytes(bytes).expect("decodes"), meta);
        let empty = Bytes::from(snapshot_meta(&SnapshotMeta::default()).encode_to_vec());
        assert_eq!(snapshot_meta_from_bytes(empty).expect("decodes"), SnapshotMeta::default());
    }
}
