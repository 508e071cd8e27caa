//! A proxy with fakes around it: what it is told is in the test's hand, what it did is recorded.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ballast_core::{
    cluster::{
        BindError, BindRequest, Bindings, Bound, BoundHow, BoxFuture, ClusterView, Lookup, NotConfirmed, Ownership,
        PassiveHealth, ProposeError,
    },
    config::{Balance, Isolated, Limits, Protocol, Span, Timeouts, TrustedProxies},
    health::Answer,
    ids::{BackendId, FarmId, LogIndex, NodeId, Revision, ServiceId, VipId},
    lease::VipGate,
    persistence::KeyHash,
    plan::{AdminState, BackendPlan, Bind, CookieKey, FarmPlan, ListenerPlan, Plan, ServicePlan, Verdict},
    time::LogTime,
};
use ballast_proxy::{AccessLog, BindVips, Ports, Proxy, ProxyOptions};
use tokio::sync::oneshot;

/// Longer than anything takes on a busy machine; reached only by a bug.
pub const PATIENCE: Duration = Duration::from_secs(20);

// ------------------------------------------------------------------------------------- fakes

/// What a test does while the log is asked.
pub type OnBind = Box<dyn FnOnce(&World, &BindRequest) + Send>;

#[derive(Default)]
pub struct World {
    plan: Mutex<Option<Arc<Plan>>>,
    generation: AtomicU64,
    pub table: Mutex<HashMap<(ServiceId, KeyHash), BackendId>>,
    pub binds: Mutex<Vec<BindRequest>>,
    pub renewals: AtomicU64,
    pub confirms: AtomicU64,
    /// What the next looks into the table say, before it is asked.
    pub stale: AtomicBool,
    /// They say so to whoever has not had the table confirmed, as where the nodes are far from each other.
    pub far: AtomicBool,
    /// They say so to everybody, as while everything moves.
    pub unsettled: AtomicBool,
    /// The table is behind: it shows no bindings, but the log has them.
    pub behind: AtomicBool,
    /// Where free keys are bound to, whatever is asked for.
    pub bound_to: Mutex<Option<BackendId>>,
    pub on_bind: Mutex<Option<OnBind>>,
    /// The log answers the next question only when the test says so.
    pub log_waits: Mutex<Option<oneshot::Receiver<()>>>,
    pub bind_fails: Mutex<Option<BindError>>,
    pub confirm_fails: AtomicBool,
    pub renew: AtomicBool,
    pub gates: Mutex<HashMap<VipId, Arc<VipGate>>>,
    pub observed: Mutex<Vec<(BackendId, Answer)>>,
    pub isolated: AtomicBool,
    /// What this node's own checks find down.
    pub down_here: Mutex<Option<BackendId>>,
    pub log_time_ms: AtomicU64,
}

impl World {
    /// The log answers the next question once what is returned is told so, or dropped.
    pub fn hold_log(&self) -> oneshot::Sender<()> {
        let (answer, waits) = oneshot::channel();
        *self.log_waits.lock().unwrap() = Some(waits);
        answer
    }

    async fn wait_for_log(&self) {
        let waits = self.log_waits.lock().unwrap().take();
        if let Some(waits) = waits {
            // The sender may be dropped.
            let _ = waits.await;
        }
    }

    pub fn publish(&self, mut plan: Plan) {
        plan.generation = self.generation.load(Ordering::SeqCst) + 1;
        *self.plan.lock().unwrap() = Some(Arc::new(plan));
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub fn bindings(&self) -> Vec<BackendId> {
        self.table.lock().unwrap().values().copied().collect()
    }
}

pub struct View(pub Arc<World>);

impl ClusterView for View {
    fn plan(&self) -> Arc<Plan> {
        self.0.plan.lock().unwrap().clone().unwrap()
    }
    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::SeqCst)
    }
    fn node(&self) -> NodeId {
        NodeId::new(1)
    }
    fn log_time(&self) -> LogTime {
        LogTime::from_millis(self.0.log_time_ms.load(Ordering::SeqCst))
    }
}

impl Bindings for View {
    fn lookup(&self, service: ServiceId, key: KeyHash, confirmed: Option<LogIndex>) -> Lookup {
        let far = self.0.far.load(Ordering::SeqCst) && confirmed.is_none();
        if far || self.0.stale.load(Ordering::SeqCst) || self.0.unsettled.load(Ordering::SeqCst) {
            return Lookup::Stale;
        }
        let behind = self.0.behind.load(Ordering::SeqCst);
        match self.0.table.lock().unwrap().get(&(service, key)) {
            Some(_) if behind => Lookup::Miss,
            Some(backend) => Lookup::Hit { backend: *backend, renew: self.0.renew.load(Ordering::SeqCst) },
            None => Lookup::Miss,
        }
    }

    fn bind(&self, request: BindRequest) -> BoxFuture<'static, Result<Bound, BindError>> {
        let world = self.0.clone();
        Box::pin(async move {
            // At least one turn of the runtime, as through a real log.
            tokio::task::yield_now().await;
            world.binds.lock().unwrap().push(request.clone());
            world.wait_for_log().await;
            let hook = world.on_bind.lock().unwrap().take();
            if let Some(hook) = hook {
                hook(&world, &request);
            }
            if let Some(error) = world.bind_fails.lock().unwrap().clone() {
                return Err(error);
            }
            let mut table = world.table.lock().unwrap();
            let entry = table.get(&(request.service, request.key)).copied();
            let (backend, how) = match (entry, request.replaces) {
                (None, _) => (world.bound_to.lock().unwrap().unwrap_or(request.choice), BoundHow::Created),
                (Some(known), Some((seen, cause))) if known == seen => (request.choice, BoundHow::Rehomed(cause)),
                (Some(known), _) => (known, BoundHow::Existing),
            };
            table.insert((request.service, request.key), backend);
            Ok(Bound { backend, index: LogIndex::new(9), how })
        })
    }

    fn renew(&self, _: ServiceId, _: KeyHash) {
        self.0.renewals.fetch_add(1, Ordering::SeqCst);
    }

    fn confirm(&self) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
        self.0.confirms.fetch_add(1, Ordering::SeqCst);
        let world = self.0.clone();
        Box::pin(async move {
            world.wait_for_log().await;
            if world.confirm_fails.load(Ordering::SeqCst) {
                return Err(NotConfirmed { detail: "test".into() });
            }
            world.stale.store(false, Ordering::SeqCst);
            Ok(LogIndex::new(9))
        })
    }

    fn last_known(&self, service: ServiceId, key: KeyHash) -> Option<BackendId> {
        self.0.table.lock().unwrap().get(&(service, key)).copied()
    }
}

impl Ownership for View {
    fn gate(&self, vip: VipId) -> Arc<VipGate> {
        self.0.gates.lock().unwrap().entry(vip).or_default().clone()
    }
}

impl PassiveHealth for View {
    fn observed(&self, backend: BackendId, answer: Answer) {
        self.0.observed.lock().unwrap().push((backend, answer));
    }
    fn local_verdict(&self, backend: BackendId) -> Verdict {
        if *self.0.down_here.lock().unwrap() == Some(backend) { Verdict::Down } else { Verdict::Up }
    }
    fn isolated(&self) -> bool {
        self.0.isolated.load(Ordering::SeqCst)
    }
}

pub fn no_quorum() -> BindError {
    BindError::Propose(ProposeError::NoQuorum { detail: "test".into() })
}

// -------------------------------------------------------------------------------------- plan

pub const FARM: FarmId = FarmId::new(1);
pub const SERVICE: ServiceId = ServiceId::new(1);

pub fn backend(id: u32, address: SocketAddr) -> BackendPlan {
    BackendPlan {
        id: BackendId::new(id),
        name: format!("b{id}").into(),
        address,
        weight: 100,
        backup: false,
        admin: AdminState::Ready,
        verdict: Verdict::Up,
        serves_since_ms: 0,
        connections_max: 0,
    }
}

/// An address to which connecting hangs, while what comes with it is kept: a listener whose queue is full drops further
/// handshakes.
pub fn unreachable() -> (SocketAddr, impl Sized) {
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    socket2::SockRef::from(&full).listen(0).unwrap();
    let fillers = (0..4).map(|_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address.into());
        socket
    });
    let fillers: Vec<_> = fillers.collect();
    (address, (full, fillers))
}

pub fn service(backends: Vec<BackendPlan>) -> ServicePlan {
    ServicePlan {
        id: SERVICE,
        farm: FARM,
        name: "app".into(),
        matches: None,
        balance: Balance::WeightedLeastConnections,
        persistence: None,
        health: None,
        backends,
        fallback: None,
        retries_max: 2,
        queue_timeout_ms: 5000,
        slow_start_ms: 0,
        panic_threshold_percent: 0,
        redispatch: true,
    }
}

pub fn farm(services: Vec<ServicePlan>) -> FarmPlan {
    FarmPlan {
        id: FARM,
        name: "shop".into(),
        listeners: vec![ListenerPlan {
            name: "web".into(),
            bind: Bind::Address(Ipv4Addr::LOCALHOST.into()),
            port: 0,
            protocol: Protocol::Http,
        }],
        services: services.into_iter().map(Arc::new).collect(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
        fallback: None,
        trusted_proxies: TrustedProxies::default(),
        isolated: Isolated::LastKnown,
    }
}

pub fn plan(farms: Vec<FarmPlan>) -> Plan {
    Plan {
        generation: 0,
        revision: Revision::new(1),
        index: LogIndex::new(1),
        node: NodeId::new(1),
        node_name: "n1".into(),
        cookie_keys: vec![CookieKey { id: 1, secret: [1; 32], signs_from_s: 0 }].into(),
        table_secret: [7; 16].into(),
        newest_backend: BackendId::new(2),
        farms: farms.into_iter().map(Arc::new).collect(),
        draining: false,
        findings: BTreeMap::new(),
    }
}

pub fn short(timeout: &mut Span) {
    *timeout = Span::from_millis(150);
}

// ------------------------------------------------------------------------------------- proxy

/// A running proxy and everything around it.
pub struct Site {
    pub world: Arc<World>,
    pub proxy: Proxy,
    pub log: Log,
}

impl Site {
    pub fn new(farm: FarmPlan) -> Self {
        Self::with(plan(vec![farm]), 1)
    }

    /// One farm, one service, these backends, changed by `change`.
    pub fn of(backends: &[&Backend], change: impl FnOnce(&mut FarmPlan, &mut ServicePlan)) -> Self {
        let plans = backends.iter().zip(1..).map(|(b, id)| backend(id, b.address)).collect();
        let mut service = service(plans);
        let mut farm = farm(vec![]);
        change(&mut farm, &mut service);
        farm.services.push(Arc::new(service));
        Self::new(farm)
    }

    pub fn with(plan: Plan, workers: usize) -> Self {
        let world = Arc::new(World::default());
        world.publish(plan);
        Self::in_world(world, workers)
    }

    pub fn in_world(world: Arc<World>, workers: usize) -> Self {
        Self::bound(world, workers, BindVips::WhileHeld)
    }

    pub fn bound(world: Arc<World>, workers: usize, bind_vips: BindVips) -> Self {
        Self::start(world, ProxyOptions { workers, bind_vips, ..ProxyOptions::default() })
    }

    pub fn start(world: Arc<World>, options: ProxyOptions) -> Self {
        let view = Arc::new(View(world.clone()));
        let ports = Ports { view: view.clone(), bindings: view.clone(), ownership: view.clone(), passive: view };
        let log = Log::default();
        let options = ProxyOptions { access_log: AccessLog::To(Box::new(log.clone())), ..options };
        let proxy = Proxy::start(options, ports).unwrap();
        Self { world, proxy, log }
    }

    pub fn address(&self) -> SocketAddr {
        let listeners = self.proxy.listeners();
        let first = listeners.first().expect("a listener");
        assert_eq!(first.error, None);
        first.address
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Sends one request on a connection of its own.
    pub fn get(&self, request: &str) -> Response {
        let mut client = self.client();
        client.send(request);
        client.response()
    }

    /// The access log's line number `n`, waiting for it.
    pub fn line(&self, n: usize) -> serde_json::Value {
        eventually("a line of the access log", || {
            let bytes = self.log.0.lock().unwrap().clone();
            let text = String::from_utf8(bytes).expect("the log is text");
            let line = text.lines().nth(n)?.to_owned();
            Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
        })
    }
}

impl Site {
    /// Whether `text` is somewhere in the access log.
    pub fn logged(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.log.0.lock().unwrap()).contains(text)
    }
}

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

// ------------------------------------------------------------------------------------ client

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).unwrap())
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Half-closes.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Breaks the connection off (RST).
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let mut piece = [0; 65536];
        let n = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.fill().unwrap() > 0, "closed before a head; got {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill().unwrap() > 0, "closed early");
        }
        self.buffer.drain(..count).collect()
    }

    /// A response with Content-Length, chunked coding or until the end; none for `HEAD`.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub fn response_to(&mut self, method: &str) -> Response {
        let head = self.head();
        let status = head[9..12].parse().unwrap();
        let mut response = Response { status, head, body: Vec::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return response;
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().unwrap();
            response.body = self.exactly(length);
        } else if response.header("transfer-encoding").is_some() {
            loop {
                let line = self.line();
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                response.body.extend(self.exactly(size));
                assert_eq!(self.exactly(2), b"\r\n");
            }
            while self.line() != "\r\n" {}
        } else {
            response.body = self.rest().unwrap();
        }
        response
    }

    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                return String::from_utf8(self.buffer.drain(..=end).collect()).unwrap();
            }
            assert!(self.fill().unwrap() > 0, "closed early");
        }
    }

    /// Everything until the connection ends; an error if it was reset.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Asserts that the connection was closed with nothing more to read, and closes this end, as clients do.
    pub fn closed(&mut self) {
        match self.rest() {
            Ok(rest) => assert_eq!(String::from_utf8_lossy(&rest), ""),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
        }
        // It may be gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

// ----------------------------------------------------------------------------------- backend

/// A scripted backend: each connection runs `script` in a thread of its own.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<BackendShared>,
    accepting: Option<JoinHandle<()>>,
    /// Bound and not listening: holds the port of [`Backend::nowhere`].
    reserved: Option<socket2::Socket>,
}

#[derive(Default)]
struct BackendShared {
    requests: Mutex<Vec<String>>,
    connections: AtomicU64,
    stopping: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A connection that a backend serves.
pub struct Conn {
    pub client: Client,
    shared: Arc<BackendShared>,
}

impl Conn {
    /// Reads a whole request, with its body as it is on the wire; `None` when the proxy closed.
    pub fn request(&mut self) -> Option<String> {
        let head = self.request_head()?;
        let mut text = head.clone();
        let value = |name: &str| {
            head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix(name).map(|v| v.trim().to_owned()))
        };
        if let Some(length) = value("content-length:") {
            text.push_str(&String::from_utf8_lossy(&self.client.exactly(length.parse().unwrap())));
        } else if value("transfer-encoding:").is_some() {
            loop {
                let line = self.client.line();
                text.push_str(&line);
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                text.push_str(&String::from_utf8_lossy(&self.client.exactly(size + 2)));
            }
            loop {
                let line = self.client.line();
                text.push_str(&line);
                if line == "\r\n" {
                    break;
                }
            }
        }
        self.shared.requests.lock().unwrap().push(text.clone());
        Some(text)
    }

    pub fn request_head(&mut self) -> Option<String> {
        while !self.client.buffer.windows(4).any(|w| w == b"\r\n\r\n") {
            if !matches!(self.client.fill(), Ok(1..)) {
                return None;
            }
        }
        Some(self.client.head())
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The proxy may have given up on a misbehaving script.
        let _ = self.client.stream.write_all(bytes.as_ref());
    }
}

impl Backend {
    pub fn start(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), script)
    }

    pub fn start_on(address: SocketAddr, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::listening(TcpListener::bind(address).unwrap(), script)
    }

    fn listening(listener: TcpListener, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(BackendShared::default());
        let (held, script) = (shared.clone(), Arc::new(script));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if held.stopping.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                held.open.lock().unwrap().push(stream.try_clone().unwrap());
                held.connections.fetch_add(1, Ordering::SeqCst);
                let mut conn = Conn { client: Client { stream, buffer: Vec::new() }, shared: held.clone() };
                let script = script.clone();
                let thread = std::thread::spawn(move || {
                    script(&mut conn);
                    let _ = conn.client.stream.shutdown(Shutdown::Both);
                });
                held.threads.lock().unwrap().push(thread);
            }
        });
        Self { address, shared, accepting: Some(accepting), reserved: None }
    }

    /// Answers every request with 200 and its name.
    pub fn named(name: &'static str) -> Self {
        Self::start(answering_with(name))
    }

    /// Answers the first request of each connection with `bytes` and closes.
    pub fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |conn| {
            if conn.request().is_some() {
                conn.send(&bytes);
            }
        })
    }

    /// An address that nobody listens on, and that nobody gets while this lives: a port that was given back would be
    /// some other test's soon.
    pub fn nowhere() -> Self {
        let reserved = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        reserved.bind(&any.into()).unwrap();
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        Self { address, shared: Arc::default(), accepting: None, reserved: Some(reserved) }
    }

    /// One that was nowhere begins to listen, and answers as [`Backend::named`].
    pub fn appears(mut self, name: &'static str) -> Self {
        let socket = self.reserved.take().expect("it was nowhere");
        socket.listen(16).unwrap();
        Self::listening(socket.into(), answering_with(name))
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        accepting.join().unwrap();
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in std::mem::take(&mut *self.shared.threads.lock().unwrap()) {
            // A script's failed assertion is the test's.
            assert!(thread.join().is_ok() || std::thread::panicking(), "a backend's script failed");
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answering_with(name: &'static str) -> impl Fn(&mut Conn) {
    move |conn| {
        while conn.request().is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    }
}

/// A gate that a script waits at until the test opens it.
pub fn gate() -> (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>) {
    let (open, wait) = mpsc::channel();
    (open, Arc::new(Mutex::new(wait)))
}

pub fn wait_at(gate: &Mutex<mpsc::Receiver<()>>) {
    // Opened by a message or by the test's end.
    let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
}

/// Answers when the test opens the gate, once for each request.
pub fn gated() -> (mpsc::Sender<()>, Backend) {
    let (open, gate) = gate();
    let backend = Backend::start(move |conn| {
        while conn.request().is_some() {
            wait_at(&gate);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    (open, backend)
}
