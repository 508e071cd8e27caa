//! Whole members in one process, over loopback TCP with faults between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use ballast_core::{
    cluster::{Applied, BoxFuture, Propose, ProposeError},
    ids::{Boot, LogIndex, NodeId},
    state::{Author, Command, Entry, FrameOutcomes, InitCluster, NodeInfo, NodeRole, Outcome, State},
    time::LogTime,
};
use ballast_raft::{
    Connect, Connection, Ground, Handle, LogBounds, Member, MemberFailure, MemberOptions, Observer, PeerNode,
    StartError, Status,
};
use ballast_storage::{
    LogError,
    log::{DurableLog, Slot, SyncStats, Synced},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, service::Routes, transport::server::Connected};

/// Longer than anything here should take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Which nodes are cut off. A cut-off node's connections break and none can be made.
#[derive(Clone)]
pub struct Faults {
    cut_off: watch::Sender<BTreeSet<NodeId>>,
    /// Bytes a second that a connection to a node takes, of nodes with a slow link.
    slow: watch::Sender<BTreeMap<NodeId, usize>>,
    /// How much longer the disk of each node takes for a sync, in milliseconds.
    sync_delay: Arc<AtomicU64>,
    /// Nodes whose disks sync nothing.
    hung: watch::Sender<BTreeSet<NodeId>>,
    /// Most bytes of entries that were read from a log at once.
    read: Arc<AtomicUsize>,
    /// How often somebody tried to connect to each node.
    connects: Arc<Mutex<BTreeMap<NodeId, u64>>>,
}

impl Faults {
    fn new() -> Self {
        Self {
            cut_off: watch::Sender::default(),
            slow: watch::Sender::default(),
            sync_delay: Arc::default(),
            hung: watch::Sender::default(),
            read: Arc::default(),
            connects: Arc::default(),
        }
    }

    pub fn cut_off(&self, node: NodeId) {
        self.cut_off.send_modify(|nodes| _ = nodes.insert(node));
    }

    /// How often somebody tried to connect to a node so far.
    pub fn connects(&self, node: NodeId) -> u64 {
        self.connects.lock().expect("nobody panics with it").get(&node).copied().unwrap_or(0)
    }

    /// Each connection to the node takes so many bytes a second from now on.
    pub fn slow_down(&self, node: NodeId, bytes_per_second: usize) {
        self.slow.send_modify(|slow| _ = slow.insert(node, bytes_per_second));
    }

    /// Each sync of each node takes so much longer from now on.
    pub fn delay_syncs(&self, delay: Duration) {
        self.sync_delay.store(u64::try_from(delay.as_millis()).expect("short"), Ordering::Release);
    }

    /// No sync that the node begins from now on ends. What it writes can be read, and its process goes on.
    pub fn hang_syncs(&self, node: NodeId) {
        self.hung.send_modify(|nodes| _ = nodes.insert(node));
    }

    /// Most bytes of entries that were read from a log at once since this was asked last.
    pub fn most_read(&self) -> usize {
        self.read.swap(0, Ordering::AcqRel)
    }

    pub fn heal(&self) {
        self.cut_off.send_modify(BTreeSet::clear);
        self.slow.send_modify(BTreeMap::clear);
        self.delay_syncs(Duration::ZERO);
        self.hung.send_modify(BTreeSet::clear);
    }

    fn separates(&self, a: NodeId, b: NodeId) -> bool {
        let nodes = self.cut_off.borrow();
        nodes.contains(&a) || nodes.contains(&b)
    }
}

struct FaultyConnect {
    from: NodeId,
    faults: Faults,
}

impl Connect for FaultyConnect {
    fn connect(&self, node: NodeId, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let (from, faults) = (self.from, self.faults.clone());
        *faults.connects.lock().expect("nobody panics with it").entry(node).or_default() += 1;
        Box::pin(async move {
            if faults.separates(from, node) {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            }
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut watcher, slow) = (faults.cut_off.subscribe(), faults.slow.subscribe());
            let cut = Box::pin(async move {
                while !faults.separates(from, node) {
                    if watcher.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            });
            let stream = Severable { stream, cut };
            Ok(Box::new(Slow { stream, to: node, slow, pause: None }) as Box<dyn Connection>)
        })
    }
}

/// A stream that breaks when its nodes are separated, or one of them stops.
struct Severable {
    stream: TcpStream,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Severable {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => {
                self.cut = Box::pin(async {});
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Severable {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Severable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Severable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How often a slow link takes something, and how often that is in a second.
const SLOW_STEP: Duration = Duration::from_millis(20);
const SLOW_STEPS: usize = 50;

/// A stream over a link that may be slow in one direction, as long as that is wanted.
struct Slow {
    stream: Severable,
    to: NodeId,
    slow: watch::Receiver<BTreeMap<NodeId, usize>>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let rate = self.slow.borrow().get(&self.to).copied();
        let Some(rate) = rate else { return Pin::new(&mut self.stream).poll_write(context, bytes) };
        let step = (rate / SLOW_STEPS).max(1).min(bytes.len());
        let written = Pin::new(&mut self.stream).poll_write(context, &bytes[..step]);
        self.pause = Some(Box::pin(tokio::time::sleep(SLOW_STEP)));
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A log on a disk that takes its time for a sync, or hangs, as long as that is wanted.
struct SlowDisk {
    log: Box<dyn DurableLog>,
    node: NodeId,
    faults: Faults,
}

impl SlowDisk {
    fn later(&self, synced: Synced) -> Synced {
        let delay = Duration::from_millis(self.faults.sync_delay.load(Ordering::Acquire));
        let hangs = self.faults.hung.borrow().contains(&self.node);
        if delay.is_zero() && !hangs {
            return synced;
        }
        let (node, mut hung) = (self.node, self.faults.hung.subscribe());
        let runtime = tokio::runtime::Handle::current();
        Box::new(move |done| {
            drop(runtime.spawn(async move {
                tokio::time::sleep(delay).await;
                while hung.borrow_and_update().contains(&node) {
                    if hung.changed().await.is_err() {
                        return;
                    }
                }
                synced(done);
            }));
        })
    }
}

impl DurableLog for SlowDisk {
    fn append(&self, entries: &mut dyn Iterator<Item = (u64, Vec<u8>)>, synced: Synced) -> Result<(), LogError> {
        self.log.append(entries, self.later(synced))
    }

    fn truncate_from(&self, index: u64) -> Result<(), LogError> {
        self.log.truncate_from(index)
    }

    fn purge_to(&self, index: u64, purged: &[u8]) -> Result<(), LogError> {
        self.log.purge_to(index, purged)
    }

    fn put(&self, slot: Slot, bytes: &[u8], synced: Option<Synced>) -> Result<(), LogError> {
        self.log.put(slot, bytes, synced.map(|synced| self.later(synced)))
    }

    fn get(&self, slot: Slot) -> Result<Option<Bytes>, LogError> {
        self.log.get(slot)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        let read = self.log.read(range, bytes_max)?;
        self.faults.read.fetch_max(read.iter().map(|(_, entry)| entry.len()).sum(), Ordering::AcqRel);
        Ok(read)
    }

    fn last(&self) -> Result<Option<(u64, Bytes)>, LogError> {
        self.log.last()
    }

    fn index_leaving(&self, bytes_max: u64) -> Option<u64> {
        self.log.index_leaving(bytes_max)
    }

    fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    fn sync_stats(&self) -> SyncStats {
        self.log.sync_stats()
    }
}

/// Counts what it was told.
#[derive(Default)]
pub struct Recorder {
    pub entries: AtomicU64,
    pub applied: AtomicU64,
    pub installed: AtomicU64,
}

impl Observer for Recorder {
    fn entry(&self, index: LogIndex, entry: &Entry, outcomes: &[FrameOutcomes]) {
        assert!(outcomes.len() <= entry.frames.len() && outcomes.iter().all(|done| done.index == index));
        self.entries.fetch_add(1, Ordering::AcqRel);
    }

    fn applied(&self, state: &State, index: LogIndex) {
        assert_eq!(state.applied(), index);
        self.applied.store(index.get(), Ordering::Release);
    }

    fn installed(&self, _: &State) {
        self.installed.fetch_add(1, Ordering::AcqRel);
    }
}

pub struct Node {
    pub handle: Handle,
    pub recorder: Arc<Recorder>,
    pub address: SocketAddr,
    member: Member,
    server: JoinHandle<()>,
    /// Its connections break when this is dropped, as those of a process that ends do.
    runs: watch::Sender<()>,
}

/// Up to nine members and what is between them.
pub struct Cluster {
    pub faults: Faults,
    pub bounds: LogBounds,
    /// Wall clocks of nodes that do not have the system's, from their next start on.
    pub wall_clocks: BTreeMap<NodeId, fn() -> SystemTime>,
    pub nodes: BTreeMap<NodeId, Node>,
    folder: tempfile::TempDir,
    boots: u64,
}

impl Cluster {
    /// A cluster of one node that leads and has applied its beginning.
    pub async fn of_one() -> Self {
        let mut cluster = Self {
            faults: Faults::new(),
            bounds: LogBounds::default(),
            wall_clocks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            folder: tempfile::TempDir::new().expect("a temporary folder"),
            boots: 0,
        };
        let first = NodeId::new(1);
        cluster.start(first).await;
        let node = &cluster.nodes[&first];
        node.member.found().await.expect("founded");
        let init = Command::InitCluster(Box::new(InitCluster {
            cluster_id: "test".to_owned(),
            ca_certificate: "none".to_owned(),
            ca_key_sealed: vec![1],
            first_node: info(1, node.address),
            first_node_key_fingerprint: [1; 32],
            table_secret: [7; 16].into(),
            cookie_secret: [8; 32].into(),
            lease_secret: [9; 32].into(),
        }));
        let applied = propose(&node.handle, init).await.expect("initialised");
        assert!(!matches!(applied.outcome, Outcome::Refused(_)), "{applied:?}");
        cluster
    }

    /// A cluster of so many nodes, all members, as many voters as the policy wants.
    pub async fn of(nodes: u64) -> Self {
        let mut cluster = Self::of_one().await;
        for number in 2..=nodes {
            cluster.join(number).await;
        }
        let voters = usize::try_from(nodes.min(3)).expect("few");
        cluster.all_see(|status| status.voters.len() == voters && status.voter_sets.len() == 1).await;
        cluster
    }

    /// Enrols a node and starts it. Returns its id.
    pub async fn join(&mut self, number: u64) -> NodeId {
        let listener = listen(None).await;
        let address = listener.local_addr().expect("bound");
        let any = self.nodes.values().next().expect("a node").handle.clone();
        let hash = [u8::try_from(number).expect("small"); 32];
        let token = Command::CreateJoinToken {
            hash,
            expires: LogTime::from_millis(u64::MAX / 2),
            role: NodeRole::Full,
            author: Author::default(),
        };
        let made = propose(&any, token).await.expect("a token");
        assert_eq!(made.outcome, Outcome::Done);
        let enrol = Command::EnrolNode { token_hash: hash, info: info(number, address), key_fingerprint: hash };
        let Applied { outcome: Outcome::Enrolled { node }, .. } = propose(&any, enrol).await.expect("enrolled") else {
            panic!("not enrolled");
        };
        self.start_on(node, listener).await;
        node
    }

    /// Starts (again) a node with its data.
    pub async fn start(&mut self, node: NodeId) {
        let listener = listen(None).await;
        self.start_on(node, listener).await;
    }

    /// Starts a node with its data at an address that it had before.
    pub async fn start_at(&mut self, node: NodeId, address: SocketAddr) {
        let listener = listen(Some(address)).await;
        self.start_on(node, listener).await;
    }

    /// Starts a node with its data, which refuses. Returns why.
    pub async fn refusal(&mut self, node: NodeId) -> StartError {
        let (options, connect) = self.options(node);
        let started = Member::start(options, connect, Arc::new(Recorder::default())).await;
        started.err().expect("it must not start")
    }

    fn options(&mut self, node: NodeId) -> (MemberOptions, Arc<FaultyConnect>) {
        self.boots += 1;
        let mut options = MemberOptions::new("test", node, Boot(self.boots), self.data_dir(node));
        options.bounds = self.bounds;
        options.wall_clock = self.wall_clocks.get(&node).copied().unwrap_or(options.wall_clock);
        options.log.write_buffer_bytes = 4 << 20;
        options.seeds = self.nodes.iter().map(|(id, node)| (*id, node.address.to_string())).collect();
        (options, Arc::new(FaultyConnect { from: node, faults: self.faults.clone() }))
    }

    async fn start_on(&mut self, node: NodeId, listener: TcpListener) {
        let (options, connect) = self.options(node);
        let recorder = Arc::new(Recorder::default());
        let mut ground = Ground::open(&options.data_dir, options.log).expect("opens");
        ground.log = Box::new(SlowDisk { log: ground.log, node, faults: self.faults.clone() });
        let member = Member::start_on(ground, options, connect, recorder.clone()).await.expect("starts");
        let address = listener.local_addr().expect("bound");
        let routes = member.service();
        let runs = watch::Sender::new(());
        let running = runs.subscribe();
        let server = tokio::spawn(async move {
            // As a listener must: an answer that waits for the acknowledgement of the one before it
            // costs the peer's delayed acknowledgement, 40 ms.
            let incoming = TcpListenerStream::new(listener).map(move |stream| {
                let mut running = running.clone();
                let cut = Box::pin(async move { while running.changed().await.is_ok() {} });
                stream.and_then(|stream| stream.set_nodelay(true).map(|()| Severable { stream, cut }))
            });
            let server = tonic::transport::Server::builder()
                .layer(tonic::service::InterceptorLayer::new(believe))
                .add_routes(routes);
            server.serve_with_incoming(incoming).await.expect("serves");
        });
        let handle = member.handle();
        self.nodes.insert(node, Node { handle, recorder, address, member, server, runs });
    }

    /// Stops a node in order. Its data stays.
    pub async fn stop(&mut self, node: NodeId) {
        let Node { handle, member, server, runs, .. } = self.nodes.remove(&node).expect("runs");
        server.abort();
        drop(server.await);
        drop(runs);
        member.shutdown().await;
        assert!(!handle.runs());
    }

    /// Stops all.
    pub async fn end(mut self) {
        for node in self.ids() {
            self.stop(node).await;
        }
    }

    /// Waits until a node finds that it must not go on.
    pub async fn failure(&self, node: NodeId) -> MemberFailure {
        timeout(PATIENCE, self.nodes[&node].member.failed()).await.expect("a failure in time")
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn handle(&self, node: NodeId) -> Handle {
        self.nodes[&node].handle.clone()
    }

    /// The services of a node without a listener before them.
    pub fn service(&self, node: NodeId) -> Routes {
        self.nodes[&node].member.service()
    }

    pub fn data_dir(&self, node: NodeId) -> PathBuf {
        self.folder.path().join(node.to_string())
    }

    /// Waits until every node's status is as wanted.
    pub async fn all_see(&self, wanted: impl Fn(&Status) -> bool) {
        for node in self.nodes.values() {
            see(&node.handle, &wanted).await;
        }
    }

    /// The node that all nodes but `except` say leads, once they agree.
    pub async fn leader(&self, except: &[NodeId]) -> NodeId {
        let wait = async {
            loop {
                let told: BTreeSet<Option<NodeId>> = self
                    .nodes
                    .iter()
                    .filter(|(id, _)| !except.contains(id))
                    .map(|(_, node)| node.handle.leader())
                    .collect();
                if let [Some(leader)] = told.into_iter().collect::<Vec<_>>()[..]
                    && !except.contains(&leader)
                {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("a leader in time")
    }

    /// Waits until all nodes have applied the same, and checks that their states are equal.
    pub async fn converge(&self) {
        let leader = self.handle(self.leader(&[]).await);
        let target = leader.status().last_log.get();
        for node in self.nodes.values() {
            let mut applied = node.handle.watch_applied();
            timeout(PATIENCE, applied.wait_for(|applied| *applied >= target)).await.expect("in time").expect("runs");
        }
        let wait = async {
            loop {
                let told: BTreeSet<(LogIndex, [u8; 32])> = self
                    .nodes
                    .values()
                    .map(|node| node.handle.with_state(|state| (state.applied(), state.hash())))
                    .collect();
                let indexes: BTreeSet<LogIndex> = told.iter().map(|(index, _)| *index).collect();
                if indexes.len() == 1 {
                    assert_eq!(told.len(), 1, "states differ at one index");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("all come to the same index");
    }
}

/// Takes callers for the nodes that they say they are: there are no certificates here that would prove it.
fn believe(mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
    let from = request.metadata().get("ballast-from").and_then(|from| from.to_str().ok()?.parse().ok());
    let from = from.ok_or_else(|| tonic::Status::invalid_argument("the caller does not say which node it is"))?;
    request.extensions_mut().insert(PeerNode(NodeId::new(from)));
    Ok(request)
}

/// Waits until a node's status is as wanted.
pub async fn see(handle: &Handle, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut status = handle.watch_status();
    match timeout(PATIENCE, status.wait_for(|status| wanted(status))).await {
        Ok(seen) => seen.expect("runs").clone(),
        Err(_) => panic!("not seen in time; last: {:?}", handle.status()),
    }
}

pub async fn propose(handle: &Handle, command: Command) -> Result<Applied, ProposeError> {
    handle.propose(command, PATIENCE).await
}

/// A command whose effect can be counted: each one is an event of its own in the state.
pub fn token(number: u32) -> Command {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    hash[31] = 1;
    Command::CreateJoinToken {
        hash,
        expires: LogTime::from_millis(u64::MAX / 2),
        role: NodeRole::Full,
        author: Author::default(),
    }
}

async fn listen(address: Option<SocketAddr>) -> TcpListener {
    let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address"));
    let bind = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                // The connections of the last life may not be gone yet.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("cannot listen on {address}: {error}"),
            }
        }
    };
    timeout(PATIENCE, bind).await.expect("bound in time")
}

fn info(number: u64, address: SocketAddr) -> NodeInfo {
    NodeInfo { name: format!("n{number}"), cluster_address: address.to_string(), ..NodeInfo::default() }
}
