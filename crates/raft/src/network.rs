//! openraft's view of the other nodes: entries, heartbeats, votes and snapshots over gRPC.

use std::{
    collections::VecDeque,
    error::Error,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ballast_core::ids::{LogIndex, NodeId};
use ballast_proto::cluster::v1::{self as pb, consensus_client::ConsensusClient, snapshot_part::Part};
use ballast_storage::{SnapshotError, snapshot::SnapshotFile};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    OptionalSend, RaftNetworkFactory,
    base::{BoxFuture, BoxStream},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use tokio::{
    sync::{self, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{CancellationHandle, Request, Response, Status, transport::Channel};

use crate::{
    acked::Asked,
    ground::{Blocking, blocking},
    machine::Image,
    peers::{MESSAGE_BYTES_MAX, Peers, Traffic},
    tasks::Tasks,
    types::{LogId, Types, Vote},
    wire,
};

/// A follower that answers nothing for this long is treated as unreachable. Far above the slowest
/// sync that is not a broken disk; a stream that is cut too early costs sending its entries again.
const APPEND_STALL: Duration = Duration::from_secs(2);
/// After a stream could not be opened, the next attempt waits for so long. openraft's own backoff is in the requests, which
/// nobody asks for before the stream is open: to a node whose process is gone, which refuses at once, it would be opened
/// again and again without a pause. Short beside an election, so that a node that is back hears of it at once.
const OPEN_PAUSE: Duration = Duration::from_millis(50);
/// Least time to open a stream, connecting included; openraft's own limit is made for answers.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;
/// A receiver that takes no chunk for this long is given up, and so is a sender that sends none: between two chunks lies
/// half a megabyte's read or write on a disk that may be busy, far less than this. A leader that lost its power would
/// otherwise leave a task, a connection and a part of a file with the receiver.
pub(crate) const SNAPSHOT_STALL: Duration = Duration::from_secs(30);
/// After the last chunk the receiver checks and loads the whole state.
const SNAPSHOT_INSTALL: Duration = Duration::from_secs(300);

/// Makes clients for openraft.
pub(crate) struct Network {
    peers: Arc<Peers>,
    tasks: Arc<Tasks>,
    blocking: Arc<dyn Blocking>,
    verifying: Verifying,
}

/// Held by the work that verifies a snapshot: a gigabyte is read and hashed, and work on a thread cannot be called back.
type Verifying = Arc<sync::Mutex<()>>;

impl Network {
    pub(crate) fn new(peers: Arc<Peers>, tasks: Arc<Tasks>, blocking: Arc<dyn Blocking>) -> Self {
        Self { peers, tasks, blocking, verifying: Verifying::default() }
    }

    fn client(&self, target: u64, traffic: Traffic) -> PeerClient {
        let (peers, tasks) = (Arc::clone(&self.peers), Arc::clone(&self.tasks));
        let (blocking, verifying) = (Arc::clone(&self.blocking), Arc::clone(&self.verifying));
        PeerClient { peers, tasks, blocking, verifying, target: NodeId::new(target), traffic, open_at: None }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, _node: &()) -> PeerClient {
        self.client(target, Traffic::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &()) -> PeerClient {
        self.client(target, Traffic::Liveness)
    }

    async fn new_snapshot_client(&mut self, target: u64, _node: &()) -> PeerClient {
        self.client(target, Traffic::Snapshots)
    }
}

/// One peer, for one kind of traffic.
#[derive(Clone)]
pub(crate) struct PeerClient {
    peers: Arc<Peers>,
    tasks: Arc<Tasks>,
    blocking: Arc<dyn Blocking>,
    verifying: Verifying,
    target: NodeId,
    traffic: Traffic,
    /// No stream is opened before, because the last one could not be.
    open_at: Option<Instant>,
}

/// What an answer to an append says about the log of who answered.
enum Answered {
    /// It has this entry and all before.
    Has(u64),
    /// It does not have this one.
    Lacks(u64),
    Neither,
}

impl Answered {
    fn has(upto: Option<LogId>) -> Self {
        upto.map_or(Self::Neither, |id| Self::Has(id.index))
    }

    fn of(result: &StreamAppendResult<Types>) -> Self {
        match result {
            Ok(upto) => Self::has(*upto),
            Err(StreamAppendError::Conflict(id)) => Self::Lacks(id.index),
            Err(StreamAppendError::HigherVote(_)) => Self::Neither,
        }
    }
}

/// Ends a request when it is dropped, which dropping the answers alone does not.
struct OnDrop(Option<CancellationHandle>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(request) = self.0.take() {
            request.cancel();
        }
    }
}

type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl PeerClient {
    fn client(&self, traffic: Traffic) -> ConsensusClient<Channel> {
        ConsensusClient::new(self.peers.channel(self.target, traffic))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Notes what the node had acknowledged when it is asked.
    fn asking(&self, request: &AppendEntriesRequest<Types>) -> Asked {
        self.peers.acknowledged.asking(self.target, request.vote.leader_id.term)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        self.peers.request(self.target, message)
    }

    async fn ask<T, F>(&self, limit: Duration, call: F) -> Result<T, RPCError<Types>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        match timeout(limit, call).await {
            Ok(Ok(response)) => {
                self.peers.clocks.hear(self.target, response.metadata());
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(unreachable(&status)),
            Err(_) => {
                let why = format!("no answer within {limit:?}; the link, the node or its disk is too slow");
                Err(RPCError::Unreachable(Unreachable::from_string(why)))
            }
        }
    }

    async fn ask_vote(
        &self,
        request: &VoteRequest<Types>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = self.request(wire::vote_request(request, pre_vote));
        let mut client = self.client(Traffic::Liveness);
        // All the time there is: most of it may be the voter's sync, and nothing comes of what is left.
        let reply = self.ask(option.hard_ttl(), client.vote(request)).await?;
        wire::from_vote_reply(&reply).map_err(|error| garbled(&error))
    }

    /// What an answer to an append says about what the node acknowledged before. Instead of an answer
    /// that openraft cannot deal with (a log that became shorter), it hears that the node is away.
    fn weigh(&self, asked: Asked, answer: Answered) -> Result<(), RPCError<Types>> {
        match answer {
            Answered::Has(index) => {
                self.peers.acknowledged.has(self.target, asked, index);
                Ok(())
            }
            Answered::Lacks(index) => match self.peers.acknowledged.lacks(self.target, asked, index) {
                None => Ok(()),
                Some(acknowledged) => {
                    self.tell_reverted(acknowledged);
                    let why =
                        format!("node {} has lost entries up to {acknowledged} that it acknowledged", self.target);
                    Err(RPCError::Unreachable(Unreachable::from_string(why)))
                }
            },
            Answered::Neither => Ok(()),
        }
    }

    /// Tells the node in the background; it is told again whenever it answers so again.
    fn tell_reverted(&self, acknowledged: LogIndex) {
        tracing::error!(
            node = %self.target, %acknowledged,
            "a node has lost entries that it acknowledged; remove it from the cluster, empty its data directory and \
             join it again"
        );
        let request = self.request(pb::LogRevertedRequest { acknowledged: acknowledged.get() });
        let mut client = self.client(Traffic::Liveness);
        self.tasks.spawn("word of lost entries", async move {
            if let Ok(Err(status)) = timeout(OPEN_TIMEOUT, client.log_reverted(request)).await {
                tracing::debug!(%status, "a node was not told that it lost entries");
            }
        });
    }

    async fn open_append<S>(&self, input: S, option: RPCOption) -> Result<AppendResults<'static>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let asked = Arc::new(Mutex::new(VecDeque::new()));
        let asking = (self.clone(), Arc::clone(&asked));
        let open = self.peers.streams.open(self.target);
        let needs_after = open.needs_after();
        let outbound = input.map(move |request| {
            let (peer, asked) = &asking;
            asked.lock().push_back(peer.asking(&request));
            if !request.entries.is_empty() {
                needs_after.sends(request.prev_log_id.map_or(0, |id| id.index));
            }
            counter.fetch_add(1, Ordering::AcqRel);
            wire::append_request(&request)
        });
        let mut request = self.request(outbound);
        // What is sent after nobody reads the answers would count for nothing, and still be taken from what is to be sent.
        let halves = OnDrop(Some(request.cancellation_handle()));
        let peer = self.clone();
        let mut client = self.client(self.traffic);
        let replies = self.ask(option.soft_ttl().max(OPEN_TIMEOUT), client.append(request)).await?;

        let results = stream::unfold(Some((replies, 0)), move |state| {
            let _both = &halves;
            let (sent, asked, peer) = (Arc::clone(&sent), Arc::clone(&asked), peer.clone());
            let open = Arc::clone(&open);
            async move {
                let (mut replies, answered) = state?;
                loop {
                    let before = sent.load(Ordering::Acquire);
                    let reply = tokio::select! {
                        () = open.given_up() => {
                            let why = "it needs too much of the log; a snapshot is sent instead";
                            return Some((Err(RPCError::Unreachable(Unreachable::from_string(why))), None));
                        }
                        // `message` is cancel-safe: what arrived stays in the decoder's buffer.
                        reply = timeout(APPEND_STALL, replies.message()) => reply,
                    };
                    return match reply {
                        Ok(Ok(Some(reply))) => match wire::from_append_reply(&reply) {
                            Ok(result) => {
                                let asked = asked.lock().pop_front().unwrap_or_default();
                                if let Ok(Some(upto)) = &result {
                                    open.acknowledged(upto.index);
                                }
                                match peer.weigh(asked, Answered::of(&result)) {
                                    Ok(()) => Some((Ok(result), Some((replies, answered + 1)))),
                                    Err(lost) => Some((Err(lost), None)),
                                }
                            }
                            Err(error) => Some((Err(garbled(&error)), None)),
                        },
                        Ok(Ok(None)) => None,
                        Ok(Err(status)) => Some((Err(unreachable(&status)), None)),
                        Err(_) if before > answered => {
                            let why = format!("no answer to entries within {APPEND_STALL:?}");
                            Some((Err(RPCError::Unreachable(Unreachable::from_string(why))), None))
                        }
                        Err(_) => continue,
                    };
                }
            }
        });
        Ok(Box::pin(results))
    }
}

impl RaftNetworkV2<Types> for PeerClient {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let asked = self.asking(&rpc);
        let prev = rpc.prev_log_id;
        // The answer to a heartbeat says nothing of what is synced.
        let last = rpc.entries.last().map(|entry| entry.log_id);
        let request = self.request(wire::append_request(&rpc));
        let mut client = self.client(self.traffic);
        let reply = self.ask(option.soft_ttl(), client.append_once(request)).await?;
        let response = wire::from_append_once_reply(&reply).map_err(|error| garbled(&error))?;
        self.weigh(
            asked,
            match &response {
                AppendEntriesResponse::Success => Answered::has(last),
                AppendEntriesResponse::PartialSuccess(upto) => Answered::has(*upto),
                AppendEntriesResponse::Conflict => prev.map_or(Answered::Neither, |id| Answered::Lacks(id.index)),
                AppendEntriesResponse::HigherVote(_) => Answered::Neither,
            },
        )?;
        Ok(response)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        match self.traffic {
            // One small question at a time: opening a stream for each would only cost more.
            Traffic::Liveness => openraft::network::stream_append_sequential(self, input, option),
            Traffic::Entries | Traffic::Snapshots | Traffic::Leader => Box::pin(async move {
                if let Some(open_at) = self.open_at.take() {
                    sleep_until(open_at).await;
                }
                let opened = self.open_append(input, option).await;
                self.open_at = opened.is_err().then(|| Instant::now() + OPEN_PAUSE);
                opened
            }),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(&rpc, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(&rpc, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<Types, Image>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let filling = self.peers.streams.fill(snapshot.meta.last_log_id.map_or(0, |id| id.index));
        let (parts, outbound) = mpsc::channel(4);
        let sending = send_parts(&*self.blocking, &self.verifying, vote, snapshot, parts);
        let request = self.request(ReceiverStream::new(outbound));
        let mut client = self.client(Traffic::Snapshots);
        let answer = async {
            let call = client.install_snapshot(request);
            tokio::pin!(call);
            // Both at once: the receiver answers only after the last chunk.
            tokio::select! {
                answer = &mut call => return answer,
                // Stalled or broken while sending; the call ends with the stream of parts.
                sent = sending => sent.map_err(Status::aborted)?,
            }
            timeout(SNAPSHOT_INSTALL, call)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the snapshot was sent but not installed in time")))
        };
        let answer = tokio::select! {
            answer = answer => answer,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let reply = answer.map_err(|status| StreamingError::Unreachable(Unreachable::new(&status)))?.into_inner();
        let vote = wire::from_vote(reply.vote.as_ref())
            .map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
        self.tasks.spawn("what follows a snapshot", filling.followed_up());
        Ok(SnapshotResponse { vote })
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = self.request(wire::transfer_request(&req));
        let mut client = self.client(Traffic::Liveness);
        let reply = self.ask(option.soft_ttl(), client.transfer_leader(request)).await?;
        wire::from_transfer_reply(&reply).map_err(|error| garbled(&error))
    }
}

/// Sends a snapshot file, if it is what was written. An error says why it could not be sent to its end.
///
/// The work begins when the receiver takes the header: a node that is off, or refuses, is tried again for ever.
async fn send_parts(
    threads: &dyn Blocking,
    verifying: &Verifying,
    vote: Vote,
    snapshot: openraft::type_config::alias::SnapshotOf<Types, Image>,
    parts: mpsc::Sender<pb::SnapshotPart>,
) -> Result<(), String> {
    let Image::Kept(file) = snapshot.snapshot else {
        return Err("a snapshot that is still being received cannot be sent".to_owned());
    };
    let stalled = || format!("the receiver took nothing for {SNAPSHOT_STALL:?}");
    let send = async |part| {
        let part = pb::SnapshotPart { part: Some(part) };
        match timeout(SNAPSHOT_STALL, parts.send(part)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the receiver closed the stream".to_owned()),
            Err(_) => Err(stalled()),
        }
    };
    send(Part::Header(pb::SnapshotHeader {
        vote: Some(wire::vote(&vote)),
        meta: Some(wire::snapshot_meta(&snapshot.meta)),
        size: file.size(),
        format: ballast_storage::snapshot::FORMAT,
    }))
    .await?;
    // There is room for all when none waits to be taken.
    match timeout(SNAPSHOT_STALL, parts.reserve_many(parts.max_capacity())).await {
        Ok(Ok(_)) => {}
        // The call ends, and says why nobody takes anything.
        Ok(Err(_)) => return std::future::pending().await,
        Err(_) => return Err(stalled()),
    }
    verify(threads, verifying, &file).await?;
    let (mut offset, mut chunks) = (0, 0);
    while offset < file.size() {
        let reader = file.clone();
        let data = blocking(threads, move || reader.read_at(offset, SNAPSHOT_CHUNK_BYTES))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let crc32c = crc32c::crc32c(&data);
        let length = data.len() as u64;
        send(Part::Chunk(pb::SnapshotChunk { offset, data: Bytes::from(data), crc32c })).await?;
        offset += length;
        chunks += 1;
    }
    send(Part::Trailer(pb::SnapshotTrailer { chunks })).await
}

/// The receiver would find out as well, again and again, and take it for its own disk's fault. Whoever looks after the log
/// has a new one written.
///
/// # Cancel safety
/// Once the future is dropped the work ends at the next section of the file.
async fn verify(threads: &dyn Blocking, verifying: &Verifying, file: &SnapshotFile) -> Result<(), String> {
    let alone = Arc::clone(verifying).lock_owned().await;
    let rotten = || format!("the snapshot {} does not verify; a new one is being written", file.path().display());
    if file.is_rotten() {
        return Err(rotten());
    }
    let (checked, waiting) = (file.clone(), Arc::new(()));
    let waited_for = Arc::downgrade(&waiting);
    let work = move || {
        let _alone = alone;
        checked.verify_while(|| waited_for.strong_count() > 0)
    };
    let verified = blocking(threads, work).await.map_err(|error| error.to_string())?;
    drop(waiting);
    verified.map(drop).map_err(|error| {
        let why = match &error {
            SnapshotError::Damaged { detail, .. } => detail.clone(),
            other => other.source().map_or_else(|| other.to_string(), |source| format!("{other}: {source}")),
        };
        tracing::error!(
            path = %file.path().display(), why,
            "the newest snapshot is not what was written, and is not sent; a new one is written in its place. Check this \
             node's disk"
        );
        rotten()
    })
}

fn unreachable(status: &Status) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(format!("{:?}: {}", status.code(), status.message())))
}

fn garbled(error: &wire::WireError) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io, time::SystemTime};

    use ballast_proto::cluster::v1::consensus_server::{Consensus, ConsensusServer};
    use ballast_storage::snapshot::SnapshotFolder;
    use tempfile::TempDir;
    use tokio::{io::DuplexStream, sync::oneshot, task::JoinHandle};
    use tonic::Streaming;

    use super::*;
    use crate::{
        clocks::Clocks,
        ground::BlockingThreads,
        peers::{AddressBook, Connect, Connection},
        types::{LeaderId, SnapshotMeta, StoredMembership},
    };

    /// A node that reads no entries and answers none.
    struct Deaf;

    type Nothing<T> = stream::Pending<Result<T, Status>>;

    #[tonic::async_trait]
    impl Consensus for Deaf {
        type AppendStream = Nothing<pb::AppendReply>;
        type FollowsStream = Nothing<pb::FollowsReply>;

        async fn append(
            &self,
            request: Request<Streaming<pb::AppendRequest>>,
        ) -> Result<Response<Self::AppendStream>, Status> {
            // Kept, so that it is not this side that ends the stream.
            std::mem::forget(request);
            Ok(Response::new(stream::pending()))
        }

        async fn append_once(&self, _: Request<pb::AppendRequest>) -> Result<Response<pb::AppendReply>, Status> {
            Err(Status::unimplemented("deaf"))
        }

        async fn vote(&self, _: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
            Err(Status::unimplemented("deaf"))
        }

        async fn install_snapshot(
            &self,
            _: Request<Streaming<pb::SnapshotPart>>,
        ) -> Result<Response<pb::SnapshotReply>, Status> {
            Err(Status::unimplemented("deaf"))
        }

        async fn transfer_leader(
            &self,
            _: Request<pb::TransferLeaderRequest>,
        ) -> Result<Response<pb::TransferLeaderReply>, Status> {
            Err(Status::unimplemented("deaf"))
        }

        async fn follows(
            &self,
            _: Request<Streaming<pb::FollowsRequest>>,
        ) -> Result<Response<Self::FollowsStream>, Status> {
            Err(Status::unimplemented("deaf"))
        }

        async fn log_reverted(
            &self,
            _: Request<pb::LogRevertedRequest>,
        ) -> Result<Response<pb::LogRevertedReply>, Status> {
            Err(Status::unimplemented("deaf"))
        }
    }

    struct Once(Mutex<Option<DuplexStream>>);

    impl Connect for Once {
        fn connect(&self, _: NodeId, _: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
            let stream = self.0.lock().take().ok_or(io::Error::from(io::ErrorKind::ConnectionRefused));
            Box::pin(async { Ok(Box::new(stream?) as Box<dyn Connection>) })
        }
    }

    /// A stream to a node that is deaf, and what serves that node.
    fn deaf() -> (DuplexStream, JoinHandle<Result<(), tonic::transport::Error>>) {
        let (here, there) = tokio::io::duplex(1 << 16);
        let serving = tonic::transport::Server::builder()
            .add_service(ConsensusServer::new(Deaf))
            .serve_with_incoming(stream::iter([Ok::<_, io::Error>(there)]).chain(stream::pending()));
        (here, tokio::spawn(serving))
    }

    /// The network of node 1, which can connect to node 2 once if there is a stream to it.
    fn network(stream: Option<DuplexStream>, blocking: Arc<dyn Blocking>) -> Network {
        let addresses = Arc::new(AddressBook::new(BTreeMap::from([(NodeId::new(2), "there:1".to_owned())])));
        let clocks = Arc::new(Clocks::new(NodeId::new(1), SystemTime::now, Arc::default()));
        let connect = Arc::new(Once(Mutex::new(stream)));
        let peers = Arc::new(Peers::new(NodeId::new(1), connect, addresses, clocks));
        Network::new(peers, Arc::new(Tasks::new()), blocking)
    }

    /// Begins work that is never done, and counts it.
    #[derive(Default)]
    struct Stuck {
        begun: AtomicU64,
        kept: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    }

    impl Blocking for Stuck {
        fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
            self.begun.fetch_add(1, Ordering::AcqRel);
            self.kept.lock().push(work);
            Box::pin(std::future::pending::<()>())
        }
    }

    /// How much work is begun by five attempts to send a snapshot, of which none comes to anything.
    async fn begun_by_five_attempts(stream: Option<DuplexStream>) -> u64 {
        let temp = TempDir::new().expect("a temporary folder");
        let folder = SnapshotFolder::open(temp.path()).expect("opens");
        let mut writer = folder.write(7, b"meta").expect("begun");
        io::Write::write_all(&mut writer, b"state").expect("written");
        let file = folder.finish(writer).expect("finished");
        let stuck = Arc::new(Stuck::default());
        let mut client = network(stream, stuck.clone()).client(2, Traffic::Snapshots);
        for _ in 0..5 {
            let vote = Vote { leader_id: LeaderId { term: 1, voted_for: 1 }, committed: true };
            let meta = SnapshotMeta { last_log_id: None, last_membership: StoredMembership::default() };
            let snapshot = openraft::Snapshot { meta, snapshot: Image::Kept(file.clone()) };
            let option = RPCOption::new(Duration::from_secs(60));
            let sent = client.full_snapshot(vote, snapshot, std::future::pending(), option).await;
            assert!(matches!(sent, Err(StreamingError::Unreachable(_))), "{sent:?}");
        }
        assert!(!file.is_rotten());
        stuck.begun.load(Ordering::Acquire)
    }

    #[tokio::test]
    async fn a_snapshot_is_not_read_for_a_node_that_is_off() {
        assert_eq!(begun_by_five_attempts(None).await, 0);
    }

    #[tokio::test]
    async fn a_snapshot_is_verified_once_at_a_time_for_a_node_that_refuses_it() {
        let (stream, serving) = deaf();
        let begun = begun_by_five_attempts(Some(stream)).await;
        assert!(begun <= 1, "{begun} at once");
        serving.abort();
    }

    #[tokio::test]
    async fn nobody_takes_entries_whose_answers_nobody_reads() {
        let (stream, serving) = deaf();
        let network = network(Some(stream), Arc::new(BlockingThreads));
        let (taken_from, let_go) = oneshot::channel::<()>();
        let entries = stream::pending().map(move |request| {
            _ = &taken_from;
            request
        });
        let client = network.client(2, Traffic::Entries);
        let answers = client.open_append(entries, RPCOption::new(Duration::from_secs(60))).await.expect("opened");
        drop(answers);
        let let_go = timeout(Duration::from_secs(20), let_go).await;
        assert!(let_go.is_ok(), "the entries are still taken");
        serving.abort();
    }
}
