//! The node-to-node gRPC services of this member.
//!
//! Whoever mounts them authenticates the connection and puts [`PeerNode`] into the request's
//! extensions; a caller that proved nothing, or claims to be another node than it proved to be, is
//! refused.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ballast_core::{
    ids::{LogIndex, NodeId, Term},
    state::{DecodeError, codec},
};
use ballast_proto::cluster::v1::{
    self as pb,
    consensus_server::{Consensus, ConsensusServer},
    leader_server::{Leader, LeaderServer},
    snapshot_part::Part,
};
use ballast_storage::SnapshotError;
use futures_util::{Stream, StreamExt, stream};
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    clocks::WallTime,
    compare::{Finding, Ledger},
    ground::{Blocking, blocking},
    machine::{Image, Received, Replica},
    member::Shared,
    network::SNAPSHOT_STALL,
    peers::{FROM, MESSAGE_BYTES_MAX, TO},
    proposer::{Inlet, Merger},
    reads::Current,
    removal,
    types::{Raft, SnapshotMeta, Vote},
    wire,
};

/// A heartbeat is answered once what came before it is synced, or after this time without waiting for that: a disk that is
/// slow on a majority of the nodes is no reason for another leader, who would have the same disks. It says that this node
/// follows the leader, by the vote that it saved, and nothing of the log. A fraction of the time that its sender waits.
const SYNC_PATIENCE: Duration = Duration::from_millis(10);

/// The node that a connection was proved to come from. Set by the listener, from the client
/// certificate, in the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerNode(pub NodeId);

/// Both services of a member, for a [`tonic::service::Routes`].
pub(crate) fn routes(shared: &Arc<Shared>) -> tonic::service::Routes {
    let service = Service {
        raft: shared.raft.clone(),
        replica: Arc::clone(&shared.replica),
        merger: Arc::clone(&shared.merger),
        shared: Arc::clone(shared),
        ledger: Arc::default(),
    };
    let consensus = ConsensusServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let leader = LeaderServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
    tonic::service::Routes::new(consensus).add_service(leader)
}

#[derive(Clone)]
struct Service {
    raft: Raft,
    replica: Arc<Replica>,
    merger: Arc<Merger>,
    shared: Arc<Shared>,
    ledger: Arc<Mutex<Ledger>>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// An answer that says what time it is here.
    fn reply<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.shared.peers.clocks.tell(response.metadata_mut());
        response
    }

    /// Refuses calls that are not for this node or not from who they say. Returns the caller, whose
    /// clock is noted.
    fn check<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let number = |key: &'static str| {
            let value = request.metadata().get(key).and_then(|value| value.to_str().ok()?.parse().ok());
            value.map(NodeId::new).ok_or_else(|| Status::invalid_argument(format!("the metadata {key} is missing")))
        };
        let (from, to) = (number(FROM)?, number(TO)?);
        if to != self.replica.node() {
            let me = self.replica.node();
            return Err(Status::failed_precondition(format!("this is node {me}, the call was for node {to}")));
        }
        match request.extensions().get::<PeerNode>() {
            Some(PeerNode(proved)) if *proved == from => {}
            Some(PeerNode(proved)) => {
                return Err(Status::permission_denied(format!(
                    "the certificate is of node {proved}, the call claims to be from node {from}"
                )));
            }
            None => return Err(Status::unauthenticated("the connection was not proved to come from any node")),
        }
        if self.shared.is_condemned() {
            return Err(condemned());
        }
        // One that votes still has its say in consensus: it may be the only one that can give its vote to another.
        if self.replica.was_removed(from) && !self.shared.status().voters.contains(&from) {
            return Err(removal::refusal(from));
        }
        if self.shared.peers.acknowledged.is_reverted(from) {
            return Err(Status::failed_precondition(format!(
                "node {from} has lost entries that it acknowledged; it must be removed and join again as a new node"
            )));
        }
        self.shared.peers.clocks.hear(from, request.metadata());
        Ok(from)
    }

    async fn receive(
        &self,
        from: NodeId,
        parts: &mut Streaming<pb::SnapshotPart>,
    ) -> Result<(Vote, SnapshotMeta, Received), Status> {
        let Some(Part::Header(header)) = next_part(parts, SNAPSHOT_STALL).await? else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        if header.format != ballast_storage::snapshot::FORMAT {
            return Err(Status::failed_precondition(format!(
                "the snapshot has format {}, this node knows format {}; upgrade it",
                header.format,
                ballast_storage::snapshot::FORMAT
            )));
        }
        let vote = wire::from_vote(header.vote.as_ref())?;
        let meta = wire::from_snapshot_meta(header.meta)?;
        let mut incoming = self.replica.folder.receive().map_err(|error| broken(&error))?;
        let threads = &*self.replica.blocking;
        let (mut offset, mut chunks) = (0u64, 0u64);
        loop {
            match next_part(parts, SNAPSHOT_STALL).await? {
                Some(Part::Chunk(chunk)) => {
                    if chunk.offset != offset || crc32c::crc32c(&chunk.data) != chunk.crc32c {
                        return Err(Status::data_loss(format!("the chunk of the snapshot at {offset} is damaged")));
                    }
                    offset += chunk.data.len() as u64;
                    chunks += 1;
                    incoming = with_file(threads, move || incoming.write(&chunk.data).map(|()| incoming)).await?;
                }
                Some(Part::Trailer(trailer)) if trailer.chunks == chunks && offset == header.size => break,
                _ => return Err(Status::data_loss("the snapshot ended before its end")),
            }
        }
        let verified = move || incoming.verify().map(|file| Received { unadopted: incoming, file });
        let verified = blocking(threads, verified).await.map_err(|error| Status::internal(error.to_string()))?;
        let received = verified.map_err(|error| unverified(from, &error))?;
        Ok((vote, meta, received))
    }
}

/// The next part of a snapshot, if it arrives within `stall`; `None` at the end of the stream.
async fn next_part(
    parts: &mut (impl Stream<Item = Result<pb::SnapshotPart, Status>> + Unpin),
    stall: Duration,
) -> Result<Option<Part>, Status> {
    match timeout(stall, parts.next()).await {
        Ok(part) => Ok(part.transpose()?.and_then(|part| part.part)),
        Err(_) => Err(Status::deadline_exceeded(format!("the sender sent nothing of the snapshot for {stall:?}"))),
    }
}

async fn with_file<T: Send + 'static>(
    threads: &dyn Blocking,
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, Status> {
    let done = blocking(threads, work).await.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| broken(&error))
}

fn broken(error: &SnapshotError) -> Status {
    tracing::warn!(%error, "cannot receive a snapshot");
    Status::internal(error.to_string())
}

/// Each chunk arrived as it was sent: what is wrong with the whole is so where it comes from.
fn unverified(from: NodeId, error: &SnapshotError) -> Status {
    let SnapshotError::Damaged { detail, .. } = error else { return broken(error) };
    tracing::warn!(%from, detail, "the snapshot that a node sent does not verify; its log says more");
    Status::data_loss(format!("the snapshot that node {from} sent does not verify: {detail}"))
}

/// Answers the questions of a stream one after another, until it ends or breaks.
fn answers<Q: Send + 'static, A: Send + 'static, F: Future<Output = A> + Send + 'static>(
    questions: Streaming<Q>,
    answer: impl Fn(Q) -> F + Send + 'static,
) -> Replies<A> {
    Box::pin(stream::unfold((questions, answer), |(mut questions, answer)| async move {
        let question = questions.message().await.ok()??;
        Some((Ok(answer(question).await), (questions, answer)))
    }))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    tracing::debug!(%error, "a call came after consensus ended here");
    Status::unavailable("consensus does not run on this node any more")
}

fn condemned() -> Status {
    Status::unavailable("this node must not go on, and ends")
}

#[tonic::async_trait]
impl Consensus for Service {
    type AppendStream = Replies<pb::AppendReply>;
    type FollowsStream = Replies<pb::FollowsReply>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let from = self.check(&request)?;
        let shared = Arc::clone(&self.shared);
        let until = move |_: &_| std::future::ready(!shared.is_condemned());
        let requests = stream::unfold(request.into_inner(), move |mut inbound| async move {
            let message = match inbound.message().await {
                Ok(message) => message?,
                Err(status) => {
                    tracing::debug!(%from, %status, "the stream of entries broke");
                    return None;
                }
            };
            match wire::from_append_request(message) {
                Ok(request) => Some((request, inbound)),
                Err(error) => {
                    tracing::error!(%from, %error, "the leader sends what this node cannot read");
                    None
                }
            }
        });
        let results = self.raft.stream_append(requests.take_while(until));
        let shared = Arc::clone(&self.shared);
        let replies = results.map(move |result| match result {
            Ok(result) => {
                if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                    shared.heard.now();
                }
                Ok(wire::append_reply(&result))
            }
            Err(fatal) => Err(stopped(fatal)),
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn append_once(&self, request: Request<pb::AppendRequest>) -> Result<Response<pb::AppendReply>, Status> {
        let from = self.check(&request)?;
        let request = wire::from_append_request(request.into_inner())?;
        let prev = request.prev_log_id;
        let matching = request.entries.last().map(|entry| entry.log_id).or(prev);
        let heartbeat_of = request.entries.is_empty().then_some(request.vote.leader_id.term);
        let mut appended = pin!(self.raft.append_entries(request));
        let at_once = match heartbeat_of {
            Some(_) => timeout(SYNC_PATIENCE, &mut appended).await.ok(),
            None => None,
        };
        let response = match at_once {
            Some(response) => response,
            None if heartbeat_of.is_some_and(|term| self.shared.saved_vote.of(from) == Some(Term::new(term))) => {
                self.shared.heard.now();
                return Ok(self.reply(wire::append_once_reply(AppendEntriesResponse::Success, None, None)));
            }
            None => appended.await,
        };
        let response = response.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.shared.heard.now();
        }
        Ok(self.reply(wire::append_once_reply(response, matching, prev.as_ref())))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        let wanted = wire::from_vote_request(&request)?;
        let response = if request.pre_vote { self.raft.pre_vote(wanted).await } else { self.raft.vote(wanted).await };
        Ok(self.reply(wire::vote_reply(&response.map_err(stopped)?)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let from = self.check(&request)?;
        let (vote, meta, received) = self.receive(from, &mut request.into_inner()).await?;
        tracing::info!(%from, bytes = received.file.size(), "received a snapshot of the replicated state");
        let snapshot = openraft::Snapshot { meta, snapshot: Image::Received(received) };
        let response = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(Response::new(pb::SnapshotReply { vote: Some(wire::vote(&response.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        self.check(&request)?;
        let request = wire::from_transfer_request(&request.into_inner())?;
        let response = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(Response::new(wire::transfer_reply(&response)))
    }

    async fn follows(
        &self,
        request: Request<Streaming<pb::FollowsRequest>>,
    ) -> Result<Response<Self::FollowsStream>, Status> {
        let from = self.check(&request)?;
        let replica = Arc::clone(&self.replica);
        let saved = self.shared.saved_vote.clone();
        Ok(Response::new(answers(request.into_inner(), move |asked: pb::FollowsRequest| {
            // The stream may be older than the removal of its node.
            let follows = saved.of(from) == Some(Term::new(asked.term)) && !replica.was_removed(from);
            std::future::ready(pb::FollowsReply { question: asked.question, follows })
        })))
    }

    async fn log_reverted(
        &self,
        request: Request<pb::LogRevertedRequest>,
    ) -> Result<Response<pb::LogRevertedReply>, Status> {
        let from = self.check(&request)?;
        let acknowledged = LogIndex::new(request.into_inner().acknowledged);
        let last = self.shared.last_log();
        if last < acknowledged {
            tracing::error!(%from, %acknowledged, %last, "this node's log ends before entries that it acknowledged");
            self.shared.reverted(last, acknowledged);
        }
        Ok(self.reply(pb::LogRevertedReply {}))
    }
}

#[tonic::async_trait]
impl Leader for Service {
    type ProposeStream = Replies<pb::FrameRefused>;
    type ReadIndexStream = Replies<pb::ReadIndexReply>;

    async fn propose(&self, request: Request<Streaming<pb::Frame>>) -> Result<Response<Self::ProposeStream>, Status> {
        let from = self.check(&request)?;
        let (inlet, mut refusals) = self.merger.open();
        let (sender, replies) = tokio::sync::mpsc::channel(1);
        let mut inbound = request.into_inner();
        let replica = Arc::clone(&self.replica);
        self.shared.tasks.spawn("frames of a peer", async move {
            let end = loop {
                tokio::select! {
                    // Cancel-safe: a part of a message stays in the decoder.
                    frame = inbound.message() => match frame {
                        Ok(Some(frame)) => {
                            let end = hand_in(&replica, from, frame, &inlet);
                            if end.is_some() {
                                break end;
                            }
                        }
                        Ok(None) | Err(_) => break None,
                    },
                    refused = refusals.recv() => break refused.map(|refused| Ok(pb::FrameRefused::from(refused))),
                }
            };
            if let Some(end) = end {
                // The node may have hung up.
                drop(sender.send(end).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }

    async fn read_index(
        &self,
        request: Request<Streaming<pb::ReadIndexRequest>>,
    ) -> Result<Response<Self::ReadIndexStream>, Status> {
        let from = self.check(&request)?;
        let (shared, replica) = (Arc::clone(&self.shared), Arc::clone(&self.replica));
        Ok(Response::new(answers(request.into_inner(), move |asked: pb::ReadIndexRequest| {
            let (shared, removed) = (Arc::clone(&shared), replica.was_removed(from));
            async move {
                let answer = if removed {
                    Err(removal::refusal(from).message().to_owned())
                } else {
                    shared.leader_rounds.current().await
                };
                let question = asked.question;
                match answer {
                    Ok(Current { index, log_time }) => {
                        let log_time_ms = log_time.as_millis();
                        pb::ReadIndexReply { index, question, problem: String::new(), log_time_ms }
                    }
                    Err(problem) => pb::ReadIndexReply { index: 0, question, problem, log_time_ms: 0 },
                }
            }
        })))
    }

    async fn compare_state(
        &self,
        request: Request<pb::CompareStateRequest>,
    ) -> Result<Response<pb::CompareStateReply>, Status> {
        let from = self.check(&request)?;
        let told: Vec<_> = request
            .into_inner()
            .hashes
            .into_iter()
            .filter_map(|told| Some((LogIndex::new(told.index), <[u8; 32]>::try_from(&told.hash[..]).ok()?)))
            .collect();
        let nodes = self.replica.look(|state| state.nodes().count());
        let mut ledger = self.ledger.lock();
        let me = self.replica.node();
        let own: BTreeMap<_, _> = self.replica.hashes.lock().all().into_iter().collect();
        let own: Vec<_> = told.iter().filter_map(|(index, _)| Some((*index, *own.get(index)?))).collect();
        let first = ledger.add(me, &own, nodes);
        let found = ledger.add(from, &told, nodes).or(first);
        drop(ledger);
        let voters_micros = self.shared.voters_time().map(WallTime::as_micros);
        let equal = pb::CompareStateReply { diverged_at: None, voters_micros };
        let Some((index, finding)) = found else { return Ok(Response::new(equal)) };
        self.shared.divergences.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%index, ?finding, %from, "nodes have different states at the same log index");
        let Finding::Wrong(wrong) = finding else { return Ok(Response::new(equal)) };
        if wrong.contains(&me) {
            self.shared.diverged(index);
        }
        let diverged_at = wrong.contains(&from).then_some(index.get());
        Ok(Response::new(pb::CompareStateReply { diverged_at, voters_micros }))
    }
}

/// Hands one frame of an open stream in. The stream may be older than the removal of its node, so each frame asks.
/// Returns what the stream ends with, if it has to.
fn hand_in(
    replica: &Replica,
    from: NodeId,
    frame: pb::Frame,
    inlet: &Inlet,
) -> Option<Result<pb::FrameRefused, Status>> {
    if replica.was_removed(from) {
        return Some(Err(removal::refusal(from)));
    }
    let pb::Frame { seq, entry: bytes, traceparent } = frame;
    let trace = Some(traceparent).filter(|trace| !trace.is_empty());
    let entry = match codec::decode_entry(&bytes) {
        Ok(entry) => entry,
        Err(error) => return Some(Ok(unreadable(seq, &bytes, &error))),
    };
    for one in entry.frames {
        if one.origin.node != from || one.seq != seq {
            let why = "a node hands in its own frames only, each under its number";
            return Some(Err(Status::permission_denied(why)));
        }
        inlet.hand_in(one, bytes.len(), trace.clone());
    }
    None
}

/// The refusal of a frame of a later version, which names what is to be left out. Without that the frame would come
/// again and again, and nothing behind it would get through until this node is upgraded.
fn unreadable(seq: u64, entry: &[u8], error: &DecodeError) -> pb::FrameRefused {
    let place = codec::unreadable_command(entry).and_then(|place| u32::try_from(place).ok());
    pb::FrameRefused {
        from_seq: seq,
        certain: true,
        reason: error.to_string(),
        unreadable: Some(place.unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailer() -> pb::SnapshotPart {
        pb::SnapshotPart { part: Some(Part::Trailer(pb::SnapshotTrailer { chunks: 1 })) }
    }

    #[tokio::test]
    async fn a_sender_that_falls_silent_within_a_snapshot_is_given_up() {
        let mut parts = stream::iter([Ok(trailer())]).chain(stream::pending());
        let part = next_part(&mut parts, SNAPSHOT_STALL).await.expect("it is there");
        assert!(matches!(part, Some(Part::Trailer(_))));
        let status = next_part(&mut parts, Duration::from_millis(1)).await.expect_err("given up");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[test]
    fn a_snapshot_that_was_rotten_when_it_was_sent_is_its_senders_fault() {
        let detail = "the section at byte 12 has a wrong checksum".to_owned();
        let error = SnapshotError::Damaged { path: "/var/received-0.unfinished".into(), detail };
        let status = unverified(NodeId::new(7), &error);
        assert_eq!(status.code(), tonic::Code::DataLoss);
        let words = "the snapshot that node 7 sent does not verify: the section at byte 12 has a wrong checksum";
        assert_eq!(status.message(), words);
    }

    #[tokio::test]
    async fn the_end_of_a_snapshot_and_what_broke_it_are_passed_on() {
        let mut parts = stream::iter([Err(Status::aborted("broken"))]);
        let status = next_part(&mut parts, SNAPSHOT_STALL).await.expect_err("broken");
        assert_eq!(status.code(), tonic::Code::Aborted);
        assert!(next_part(&mut parts, SNAPSHOT_STALL).await.expect("the end").is_none());
    }
}
