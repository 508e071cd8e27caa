//! One worker: a thread with its own single-threaded runtime, listeners and connections.
//!
//! Not here: which sockets there are ([`crate::control`]), what happens on a connection ([`crate::serve`],
//! [`crate::http`]).

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{
    config::SessionProtocol,
    lease::{LAST_WORDS, VipGate},
    session::{Reply, Write},
    state::{Command, Outcome},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    task::{AbortHandle, LocalSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    budget::Budget,
    connection::Connection,
    deadline::{Deadlines, TICK},
    http,
    node::{Node, WALKS_MAX},
    policy::{Access, Policy},
    refusal::Unavailable,
    rounds::Rounds,
    serve,
    sparse::Sparse,
    stats::WorkerCounters,
    trust::{self, Trust},
    wire::{Out, Resp},
};

/// How long an idle connection stays open during a drain, or on a VIP that was handed over, so that a command that is on its way
/// is answered.
pub const IDLE_GRACE_MS: u64 = 1000;
/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;
/// How long a TLS handshake may take. Arbitrary: some round trips on a bad line.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Work that a worker is told to do.
#[derive(Debug)]
pub enum Order {
    /// Accept on a socket.
    Listen(Box<Listen>),
    /// Stop accepting on a listener and close its connections after what they are doing; during a drain, when that does.
    Unlisten(u64, Arc<Closing>),
    /// Close connections after what they are doing, idle ones after a moment.
    Drain,
    /// Nothing: dropping it tells that what was ordered before is done.
    Mark(#[expect(dead_code, reason = "it is held until then")] Arc<()>),
    /// End now.
    Stop,
}

/// A listener, as control describes it to a worker.
#[derive(Debug)]
pub struct Listen {
    /// Names it in [`Order::Unlisten`].
    pub id: u64,
    /// This worker's socket.
    pub socket: Socket,
    /// What it is.
    pub identity: Identity,
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

impl Socket {
    /// Another handle of the same socket.
    ///
    /// # Errors
    /// When descriptors are short.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// Ends the listening at once, in all handles. What the kernel has taken and nobody has accepted is reset.
    fn shut_down(&self) {
        let socket = match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
        };
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

/// The sockets of a listener that comes to its end, one of each worker. Listening ends with this, in all handles.
#[derive(Debug)]
pub struct Closing(pub Vec<Socket>);

impl Closing {
    /// Ends the listening at once.
    pub fn now(&self) {
        self.0.iter().for_each(Socket::shut_down);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.now();
    }
}

/// What a listener is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its address with the real port, or its path.
    pub name: Arc<str>,
    /// The gate of the VIP that it is on.
    pub gate: Option<Arc<VipGate>>,
    /// TLS is spoken on it.
    pub tls: bool,
    /// What is spoken on it, within TLS or without.
    pub protocol: SessionProtocol,
}

/// A listener, as a worker knows it.
#[derive(Debug)]
pub struct Listener {
    identity: Identity,
    /// It is gone: connections close after what they are doing.
    closed: Cell<bool>,
    /// Connections were taken on it.
    used: Cell<bool>,
}

impl Listener {
    /// Whether this node may serve its connections right now.
    pub fn may_serve(&self) -> bool {
        self.identity.gate.as_ref().is_none_or(|gate| gate.may_finish(boot_now()))
    }

    /// Whether what goes on over it has a future: there is more time than saying goodbye takes.
    fn may_go_on(&self) -> bool {
        self.identity.gate.as_ref().is_none_or(|gate| gate.may_go_on(boot_now(), LAST_WORDS))
    }

    /// Whether it is spoken to in plain text.
    pub fn is_plain(&self) -> bool {
        !self.identity.tls
    }

    fn may_accept(&self) -> bool {
        self.identity.gate.as_ref().is_none_or(|gate| gate.may_accept(boot_now()))
    }

    fn renewed(&self) -> Self {
        Self { identity: self.identity.clone(), closed: Cell::new(false), used: Cell::new(false) }
    }

    /// Whether connections should end with what they are doing.
    fn is_ending(&self) -> bool {
        self.closed.get() || self.identity.gate.as_ref().is_some_and(|gate| gate.is_leaving())
    }
}

struct Accepting {
    /// What connections get that are accepted from now on. Another one after each loss of its VIP.
    current: Rc<RefCell<Rc<Listener>>>,
    task: AbortHandle,
}

/// One worker.
pub struct Worker {
    index: usize,
    /// What all workers share.
    pub node: Arc<Node>,
    /// Its counts.
    pub counters: Arc<WorkerCounters>,
    /// Its deadlines.
    pub deadlines: Rc<Deadlines>,
    cuts: Sparse,
    refusals: Sparse,
    login_failures: Sparse,
    /// Reads that wait for this node to be known to be current.
    pub confirmations: Rc<Rounds>,
    /// Reads that wait for log time to move on.
    pub ticks: Rc<Rounds>,
    policy: RefCell<Rc<Policy>>,
    listeners: RefCell<HashMap<u64, Accepting>>,
    draining: Cell<bool>,
    closing_idle: Cell<bool>,
    drain_began_ms: Cell<u64>,
}

impl Worker {
    /// A worker that has taken the settings in. To be made on its own thread.
    pub fn new(index: usize, node: Arc<Node>) -> Rc<Self> {
        let counters = node.counters[index].clone();
        let (read_index, propose) = (node.ports.read_index.clone(), node.ports.propose.clone());
        let counted = counters.clone();
        let confirmations = Rounds::new(Box::new(move |deadline| {
            counted.counters.confirmations_total.up();
            let confirmed = read_index.confirm(deadline);
            Box::pin(async move { Ok(confirmed.await.map(|_| ())?) })
        }));
        let ticks = Rounds::new(Box::new(move |deadline| {
            let ticked = propose.propose(Command::Tick, deadline);
            Box::pin(async move { ticked.await.map(|_| ()).map_err(Unavailable::of_tick) })
        }));
        Rc::new(Self {
            index,
            deadlines: Deadlines::new(node.now_ms()),
            cuts: Sparse::default(),
            refusals: Sparse::default(),
            login_failures: Sparse::default(),
            policy: RefCell::new(Rc::new(Policy::new(node.sessions.settings()))),
            listeners: RefCell::default(),
            draining: Cell::new(false),
            closing_idle: Cell::new(false),
            drain_began_ms: Cell::new(0),
            counters,
            confirmations,
            ticks,
            node,
        })
    }

    /// Carries out orders until told to stop.
    pub async fn run(self: Rc<Self>, mut orders: mpsc::UnboundedReceiver<Order>) {
        let ticking = tokio::task::spawn_local(self.clone().tick());
        let telling = (self.index == 0).then(|| tokio::task::spawn_local(self.clone().tell()));
        while let Some(order) = orders.recv().await {
            match order {
                Order::Listen(listen) => self.listen(*listen),
                Order::Unlisten(id, closing) => self.unlisten(id, &closing),
                Order::Mark(_) => {}
                Order::Drain => {
                    self.draining.set(true);
                    self.drain_began_ms.set(self.node.now_ms());
                }
                Order::Stop => break,
            }
        }
        ticking.abort();
        if let Some(telling) = telling {
            telling.abort();
        }
        self.listeners.borrow_mut().drain().for_each(|(_, accepting)| accepting.task.abort());
    }

    async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now_ms = self.node.now_ms();
            self.deadlines.advance(now_ms);
            self.retire();
            let ends = self.draining.get() && now_ms >= self.drain_began_ms.get() + IDLE_GRACE_MS;
            if ends && !self.closing_idle.replace(true) {
                self.deadlines.wake_all();
            }
            self.take_settings();
        }
    }

    /// Tells subscribers what happened, whenever something did.
    async fn tell(self: Rc<Self>) {
        loop {
            self.node.noticed.notified().await;
            self.tell_subscribers();
        }
    }

    /// Tells subscribers what has happened by now.
    pub fn tell_subscribers(&self) {
        self.counters.counters.delivered_total.add(self.node.subscribers.tell() as u64);
        let clients = &self.node.clients;
        clients.budget.keep_to(Budget::max(&self.policy.borrow()), clients);
    }

    /// The settings in force, as last taken in.
    pub fn policy(&self) -> Rc<Policy> {
        self.policy.borrow().clone()
    }

    /// The same, to compare.
    pub fn current_policy(&self) -> Ref<'_, Rc<Policy>> {
        self.policy.borrow()
    }

    /// Proposes a write and returns the replies.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn propose(&self, write: Write, deadline: Duration) -> Result<Vec<Reply>, Unavailable> {
        self.counters.counters.proposals_total.up();
        let applied = self.node.ports.propose.propose(Command::Session(Box::new(write)), deadline).await?;
        match applied.outcome {
            Outcome::Session(replies) => Ok(replies),
            _ => Err(Unavailable::Misfit),
        }
    }

    /// Takes in what the document says by now. Costs next to nothing when that is what it said before.
    pub fn take_settings(&self) {
        if self.node.sessions.settings_generation() != self.policy.borrow().settings.generation {
            *self.policy.borrow_mut() = Rc::new(Policy::new(self.node.sessions.settings()));
            self.deadlines.wake_all();
        }
    }

    fn listen(self: &Rc<Self>, Listen { id, socket, identity }: Listen) {
        let name = identity.name.clone();
        let listener = Rc::new(Listener { identity, closed: Cell::new(false), used: Cell::new(false) });
        let current = Rc::new(RefCell::new(listener));
        let task = match socket {
            Socket::Tcp(socket) => TcpListener::from_std(socket)
                .map(|socket| tokio::task::spawn_local(self.clone().accept_tcp(current.clone(), socket))),
            Socket::Unix(socket) => UnixListener::from_std(socket)
                .map(|socket| tokio::task::spawn_local(self.clone().accept_unix(current.clone(), socket))),
        };
        match task {
            Ok(task) => {
                self.listeners.borrow_mut().insert(id, Accepting { current, task: task.abort_handle() });
            }
            Err(error) => tracing::error!(listener = %name, %error, "cannot accept"),
        }
    }

    fn unlisten(self: &Rc<Self>, id: u64, closing: &Closing) {
        let Some(accepting) = self.listeners.borrow_mut().remove(&id) else { return };
        accepting.task.abort();
        let listener = accepting.current.borrow().clone();
        if !self.draining.get() {
            listener.closed.set(true);
            self.deadlines.wake_all();
            return;
        }
        // Whom the kernel has taken is served.
        let Some(socket) = closing.0.get(self.index) else { return };
        for _ in 0..BACKLOG {
            match self.take(&listener, socket) {
                Ok(()) => {}
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => break,
            }
        }
        // Who came since is told to go elsewhere at once.
        socket.shut_down();
    }

    /// Accepts one connection that the kernel has taken.
    fn take(self: &Rc<Self>, listener: &Rc<Listener>, socket: &Socket) -> std::io::Result<()> {
        match socket {
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                stream.set_nonblocking(true)?;
                self.admit_tcp(listener, TcpStream::from_std(stream)?, peer);
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                self.admit_unix(listener, UnixStream::from_std(stream)?);
            }
        }
        Ok(())
    }

    /// Ends the connections of listeners whose VIP was lost since the last look, or was handed over so long ago that the fence
    /// is about to close for them, too: subscribers and idle clients are told while their end still gets through.
    fn retire(&self) {
        let mut retired = false;
        for accepting in self.listeners.borrow().values() {
            let before = accepting.current.borrow().clone();
            if before.used.get() && !before.may_go_on() {
                before.closed.set(true);
                *accepting.current.borrow_mut() = Rc::new(before.renewed());
                retired = true;
            }
        }
        if retired {
            self.deadlines.wake_all();
        }
    }

    async fn accept_tcp(self: Rc<Self>, current: Rc<RefCell<Rc<Listener>>>, socket: TcpListener) {
        loop {
            let accepted = socket.accept().await;
            let listener = current.borrow().clone();
            match accepted {
                Ok((stream, peer)) => self.admit_tcp(&listener, stream, peer),
                Err(error) => self.cannot_accept(&listener, &error).await,
            }
        }
    }

    async fn accept_unix(self: Rc<Self>, current: Rc<RefCell<Rc<Listener>>>, socket: UnixListener) {
        loop {
            let accepted = socket.accept().await;
            let listener = current.borrow().clone();
            match accepted {
                Ok((stream, _)) => self.admit_unix(&listener, stream),
                Err(error) => self.cannot_accept(&listener, &error).await,
            }
        }
    }

    fn admit_tcp(self: &Rc<Self>, listener: &Rc<Listener>, stream: TcpStream, peer: SocketAddr) {
        let trust = Trust::new(Some(peer.ip()));
        let Some(held) = self.admit(listener) else {
            return refuse(&stream, listener.identity.protocol);
        };
        let arrival = Arrival { held, peer: peer.to_string(), trust };
        if listener.identity.tls {
            tokio::task::spawn_local(serve_tls(stream, arrival));
        } else {
            tokio::task::spawn_local(arrival.serve(stream, None));
        }
    }

    fn admit_unix(self: &Rc<Self>, listener: &Rc<Listener>, stream: UnixStream) {
        let Some(held) = self.admit(listener) else {
            return refuse(&stream, listener.identity.protocol);
        };
        let peer = format!("{}:0", listener.identity.name);
        tokio::task::spawn_local(Arrival { held, peer, trust: Trust::new(None) }.serve(stream, None));
    }

    async fn cannot_accept(&self, listener: &Listener, error: &std::io::Error) {
        if !is_about_one_connection(error) {
            // Out of descriptors or memory: the connection stays in the kernel's queue meanwhile.
            tracing::warn!(
                listener = %listener.identity.name,
                %error,
                "cannot accept; trying again. Descriptors are short where `ulimit -n` or LimitNOFILE is not above what all \
                 connections_max come to"
            );
            tokio::time::sleep(TICK).await;
        }
    }

    fn admit(self: &Rc<Self>, listener: &Rc<Listener>) -> Option<Held> {
        let counters = &self.counters.counters;
        let connections_max = self.policy.borrow().limits.connections_max;
        let room = self.has_room(connections_max);
        if !room || !listener.may_accept() {
            counters.refused_total.up();
            return None;
        }
        listener.used.set(true);
        counters.accepted_total.up();
        counters.connections.up();
        self.node.held.fetch_add(1, Ordering::AcqRel);
        Some(Held { worker: self.clone(), listener: listener.clone() })
    }
}

impl Worker {
    /// Says in the log why a client is cut.
    pub fn tell_cut(&self, peer: &str, why: &str) {
        if let Some(left_out) = self.cuts.may(self.deadlines.now_ms()) {
            tracing::info!(peer, left_out, "cut: {why}");
        }
    }

    /// Counts a client, or a request over HTTP, that is turned away, and says so in the log.
    pub fn tell_refused(&self, peer: &str, why: &str) {
        self.counters.counters.refused_total.up();
        if let Some(left_out) = self.refusals.may(self.deadlines.now_ms()) {
            // The rest of it is what may be done about it, which clients are told.
            let why = why.split(". ").next().unwrap_or_default();
            tracing::warn!(peer, left_out, "refused: {why}");
        }
    }

    /// Says in the log that somebody did not get in.
    pub fn tell_login_failed(&self, peer: &str, user: &str) {
        self.counters.counters.login_failures_total.up();
        if let Some(left_out) = self.login_failures.may(self.deadlines.now_ms()) {
            let user: String = user.chars().take(USER_SAID_MAX).collect();
            tracing::warn!(peer, ?user, left_out, "there is no such user, or the password is wrong");
        }
    }

    /// Whether one more connection may be open. Told in the log when there is no room, and not again before there was a tenth
    /// of it.
    fn has_room(&self, connections_max: usize) -> bool {
        let (held, full) = (self.node.held.load(Ordering::Relaxed), &self.node.full);
        let room = held < connections_max;
        if !room && !full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                connections_max,
                "no more connections are taken, and clients are told so: raise sessions.limits.connections_max, close those \
                 that are idle with sessions.limits.idle_timeout, or use other nodes as well"
            );
        } else if held < connections_max - connections_max / 10 && full.load(Ordering::Relaxed) {
            full.store(false, Ordering::Relaxed);
        }
        room
    }
}

/// Characters of a user's name, which a stranger has made up, in a line of the log. That of a user has no more.
const USER_SAID_MAX: usize = 63;

/// In Redis' words, by which clients know it.
const REFUSED_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// Says that a connection is not served. It is closed then, so this is written if the socket takes it at once.
fn refuse(stream: &impl TryWrite, protocol: SessionProtocol) {
    let _best_effort = match protocol {
        SessionProtocol::Resp => stream.try_write(REFUSED_MANY),
        SessionProtocol::Http => stream.try_write(&http::no_place()),
    };
}

trait TryWrite {
    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize>;
}

impl TryWrite for TcpStream {
    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        Self::try_write(self, bytes)
    }
}

impl TryWrite for UnixStream {
    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        Self::try_write(self, bytes)
    }
}

/// A connection that was taken.
struct Arrival {
    held: Held,
    peer: String,
    trust: Trust,
}

impl Arrival {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S, certified: Option<Arc<Access>>) {
        if self.held.listener.identity.protocol == SessionProtocol::Http {
            let guest = http::Guest { peer: self.peer, trust: self.trust.into(), certified };
            return http::serve(stream, self.held, guest).await;
        }
        let worker = self.held.worker.clone();
        // A listener is there as soon as the document names it, which may be before this worker has looked what else it says.
        worker.take_settings();
        let policy = worker.policy();
        if let Err(why) = self.trust.admit(&policy) {
            let why = why.reply();
            worker.tell_refused(&self.peer, &trust::words(&why));
            use tokio::io::AsyncWriteExt as _;
            let mut text = Vec::new();
            Out::new(&mut text, Resp::Two).reply(&why);
            let say = async {
                stream.write_all(&text).await?;
                stream.shutdown().await
            };
            // The client is gone, or is told; a second is enough to take some bytes.
            let _ = tokio::time::timeout(Duration::from_secs(1), say).await;
            return;
        }
        let card = worker.node.clients.add(self.peer, self.held.local(), worker.node.now_ms());
        let connection = Connection::new(card.clone(), certified.or_else(|| policy.anybody()), self.trust);
        serve::serve(stream, self.held, connection, card).await;
    }
}

async fn serve_tls(stream: TcpStream, mut arrival: Arrival) {
    let worker = arrival.held.worker.clone();
    let Some(certificates) = worker.node.ports.certificates.clone() else { return };
    let Some(config) = certificates.server_config() else { return };
    let handshake = tokio::time::timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(stream));
    let Ok(Ok(stream)) = handshake.await else {
        worker.counters.counters.malformed_total.up();
        return;
    };
    // The document may have got users since this worker last looked, and it is one of them that shows a certificate.
    worker.take_settings();
    let policy = worker.policy();
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    if let Some(certificate) = certificate {
        arrival.trust.show(certificate, certificates, worker.node.now_ms());
    }
    let certified = arrival.trust.name().filter(|_| policy.has_users()).and_then(|name| policy.access(name));
    arrival.serve(stream, certified).await;
}

/// Errors of `accept` that concern only the connection that was being accepted (accept(2)).
fn is_about_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    ) || matches!(
        error.raw_os_error(),
        Some(libc::ENETDOWN | libc::EPROTO | libc::EHOSTDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH)
    )
}

/// A connection that counts. What it counted is taken back when it is dropped.
pub struct Held {
    /// Who serves it.
    pub worker: Rc<Worker>,
    /// Where it came in.
    pub listener: Rc<Listener>,
}

impl Held {
    /// Where it came in, in words.
    pub fn local(&self) -> String {
        self.listener.identity.name.to_string()
    }

    /// Whether the connection should end with what it is doing.
    pub fn is_ending(&self) -> bool {
        self.listener.is_ending() || self.worker.draining.get()
    }

    /// Whether it should end between two requests: one that was served (`is_served`) at once on a VIP that was handed over, and in
    /// a drain after a moment, however busy it is; one that was not has its moment from `since_ms`, when it came.
    pub fn ends_between(&self, is_served: bool, since_ms: u64) -> bool {
        let long = || self.worker.deadlines.now_ms() >= since_ms.saturating_add(IDLE_GRACE_MS);
        let leaves = self.listener.is_ending() || self.worker.closing_idle.get();
        self.listener.closed.get() || leaves && (is_served || long())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.worker.counters.counters.connections.down();
        if self.worker.node.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.worker.node.released.notify_waiters();
        }
    }
}

/// Runs a worker on this thread until it is told to stop. Says `ready` once it runs, or why it cannot.
pub fn run_on_this_thread(
    index: usize,
    node: Arc<Node>,
    orders: mpsc::UnboundedReceiver<Order>,
    ready: std::sync::mpsc::Sender<std::io::Result<()>>,
) {
    // Its other threads are those of long reads, of which other workers may have as many.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().event_interval(61).thread_name("sessions-walk").max_blocking_threads(WALKS_MAX);
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever starts workers waits for this.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let worker = Worker::new(index, node);
        // As above.
        let _ = ready.send(Ok(()));
        drop(ready);
        worker.run(orders).await;
    });
    // Connections that are left end with their tasks.
    drop(local);
}
