//! One worker: a thread with its own single-threaded runtime, listeners, pools and counters.
//!
//! Nothing of a worker is shared on the path of a request but atomics that are read. Orders come
//! through a channel; a new plan is noticed by comparing generations at the next request.
//!
//! Not here: which sockets there are ([`crate::control`]), what happens on a connection ([`crate::http`]).

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{
    config::TrustedProxies,
    ids::{BackendId, FarmId, ServiceId},
    lease::{LAST_WORDS, VipGate},
    persistence::KeyHash,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::{AbortHandle, LocalSet},
};

use crate::{
    Ports,
    accesslog::LogPort,
    backend::{Backend, Permits},
    buf::BufPool,
    clock::Wall,
    control::BACKLOG,
    http::{self, ending::Ending, field::Field, record::TimeText},
    live::{Farm, Kept, Live, ServiceState},
    stats::{ListenerCounters, WorkerCounters},
    ticks::{TICK, Ticks},
};

/// Work that a worker is told to do.
#[derive(Debug)]
pub enum Order {
    /// Accept on a socket.
    Listen(Box<Listen>),
    /// Stop accepting on a listener and close its connections after what they are doing; during a drain, when that does.
    Unlisten(u64, Arc<Closing>),
    /// Take the plan in without waiting for a request.
    TakePlan,
    /// Somebody elsewhere waits for a permit of this backend.
    YieldIdle(BackendId),
    /// Close connections after what they are doing, idle ones after a moment, and cut off what is not done within its farm's
    /// `timeouts.drain`, or within this.
    Drain(Duration),
    /// Nothing: dropping it tells that what was ordered before is done.
    Mark(#[expect(dead_code, reason = "it is held until then")] Arc<()>),
    /// End now.
    Stop,
}

/// The sockets of a listener that comes to its end. Listening ends with this, in all duplicates.
#[derive(Debug)]
pub struct Closing(pub Vec<std::net::TcpListener>);

impl Closing {
    /// Ends the listening at once. What the kernel has taken and nobody has accepted is reset.
    pub fn now(&self) {
        for listener in &self.0 {
            let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.now();
    }
}

/// A listener, as control describes it to a worker.
#[derive(Debug)]
pub struct Listen {
    /// Names it in [`Order::Unlisten`].
    pub id: u64,
    /// This worker's socket.
    pub socket: std::net::TcpListener,
    /// What it is.
    pub identity: Identity,
    /// Connections open on it, of all workers and on all its addresses.
    pub open: Arc<AtomicU32>,
}

/// What a listener is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Whose it is.
    pub farm: FarmId,
    /// Its name.
    pub name: Arc<str>,
    /// The VIP it is on.
    pub vip: Option<VipIdentity>,
    /// Its address with the real port.
    pub address: SocketAddr,
}

/// The VIP that a listener is on.
#[derive(Clone, Debug)]
pub struct VipIdentity {
    /// Its name.
    pub name: Arc<str>,
    /// Its gate.
    pub gate: Arc<VipGate>,
}

/// What the connections of one source are counted by: its limit is that of a listener, over all its addresses and whatever
/// becomes of its sockets.
type Source = (FarmId, Arc<str>, IpAddr);

/// What all workers share.
pub struct Shared {
    /// The ways out of the data plane.
    pub ports: Ports,
    /// Each worker's counters.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Each worker's orders.
    pub orders: Vec<mpsc::UnboundedSender<Order>>,
    /// Told when a worker holds no connection any more.
    pub released: Notify,
    /// Client connections open.
    pub held: AtomicUsize,
    /// No new work is taken.
    pub draining: AtomicBool,
    /// How long a connection without a request stays open during a drain.
    pub idle_grace_ms: u64,
    permits: Mutex<HashMap<BackendId, Arc<Permits>>>,
    sources: Mutex<HashMap<Source, u32>>,
    /// Bindings of `commit: after-forward` that are on their way to the log.
    pub on_their_way: Mutex<HashMap<(ServiceId, KeyHash), BackendId>>,
}

impl Shared {
    /// Nothing held yet.
    pub fn new(
        ports: Ports,
        counters: Vec<Arc<WorkerCounters>>,
        orders: Vec<mpsc::UnboundedSender<Order>>,
        idle_grace: Duration,
    ) -> Self {
        Self {
            idle_grace_ms: u64::try_from(idle_grace.as_millis()).unwrap_or(u64::MAX),
            ports,
            counters,
            orders,
            released: Notify::new(),
            held: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            permits: Mutex::default(),
            sources: Mutex::default(),
            on_their_way: Mutex::default(),
        }
    }

    fn permits(&self, id: BackendId) -> Arc<Permits> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }

    /// Forgets the permits that no worker's backend and no connection has a part in.
    fn forget_permits(&self) {
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        permits.retain(|_, permits| Arc::strong_count(permits) > 1);
    }
}

/// A listener, as a worker knows it.
pub struct Listener {
    /// What it is.
    pub identity: Identity,
    /// This worker's counts.
    pub counters: Arc<ListenerCounters>,
    /// It is gone: connections close after what they are doing.
    pub closed: Cell<bool>,
    /// Its VIP is lost, or what was begun before it was handed over has had its time: what goes on is cut off, while its end
    /// can still be told.
    pub cut: Cell<bool>,
    /// Connections were taken on it.
    used: Cell<bool>,
    open: Arc<AtomicU32>,
}

impl Listener {
    /// Whether this node may serve its connections right now. Those that the kernel took while the VIP was held may be
    /// finished after it was handed over; nobody but the kernel of the owner takes new ones.
    pub fn may_serve(&self) -> bool {
        self.identity.vip.as_ref().is_none_or(|vip| vip.gate.may_finish(boot_now()))
    }

    /// Whether what goes on over it has a future: there is more time than saying goodbye takes.
    fn may_go_on(&self) -> bool {
        self.identity.vip.as_ref().is_none_or(|vip| vip.gate.may_go_on(boot_now(), LAST_WORDS))
    }

    /// Whether a connection may be taken right now.
    fn may_accept(&self) -> bool {
        self.identity.vip.as_ref().is_none_or(|vip| vip.gate.may_accept(boot_now()))
    }

    /// The same listener for connections that come later.
    fn renewed(&self) -> Self {
        Self {
            identity: self.identity.clone(),
            counters: self.counters.clone(),
            closed: Cell::new(false),
            cut: Cell::new(false),
            used: Cell::new(false),
            open: self.open.clone(),
        }
    }

    /// Whether connections should end with what they are doing.
    pub fn is_ending(&self) -> bool {
        self.closed.get() || self.identity.vip.as_ref().is_some_and(|vip| vip.gate.is_leaving())
    }
}

/// A listener that is accepted on.
struct Accepting {
    /// What connections get that are accepted from now on. Another one after each loss of its VIP, so that those of an
    /// earlier tenure can be told to close.
    current: Rc<RefCell<Rc<Listener>>>,
    task: AbortHandle,
}

/// One worker.
pub struct Worker {
    /// Its number.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Its counts.
    pub counters: Arc<WorkerCounters>,
    /// Its deadlines.
    pub ticks: Rc<Ticks>,
    /// Its spare buffers.
    pub pool: BufPool,
    /// The wall clock.
    pub wall: Wall,
    /// Its end of the access log.
    pub log: Option<LogPort>,
    /// Scratch space for field lines.
    pub fields: RefCell<Vec<Field>>,
    /// The time as log lines have it.
    pub log_time: RefCell<TimeText>,
    /// Spare log lines.
    pub lines: RefCell<Vec<Vec<u8>>>,
    /// Connections close after what they are doing.
    pub draining: Cell<bool>,
    /// Idle connections close too.
    pub closing_idle: Cell<bool>,
    /// When the drain began, in milliseconds.
    drain_began_ms: Cell<u64>,
    /// How long it may take, in milliseconds.
    drain_max_ms: Cell<u64>,
    /// Farms whose time for it was over at the last tick.
    drained_farms: Cell<usize>,
    live: RefCell<Rc<Live>>,
    generation: Cell<u64>,
    kept: Kept,
    listeners: RefCell<HashMap<u64, Accepting>>,
    random: Cell<u64>,
}

impl Worker {
    /// A worker that has taken the current plan in. To be made on its own thread.
    pub fn new(index: usize, shared: Arc<Shared>, log: Option<LogPort>) -> Rc<Self> {
        let generation = shared.ports.view.generation();
        let plan = shared.ports.view.plan();
        let worker = Rc::new(Self {
            index,
            counters: shared.counters[index].clone(),
            ticks: Ticks::new(boot_now().get() / 1_000_000),
            pool: BufPool::default(),
            wall: Wall::new(),
            log,
            fields: RefCell::default(),
            log_time: RefCell::default(),
            lines: RefCell::default(),
            draining: Cell::new(false),
            closing_idle: Cell::new(false),
            drain_began_ms: Cell::new(0),
            drain_max_ms: Cell::new(0),
            drained_farms: Cell::new(0),
            live: RefCell::new(Rc::new(Live::new(
                plan.clone(),
                |id| Rc::new(Backend::new(id, index, Arc::default(), Arc::default())),
                |_| Rc::new(ServiceState::new(Arc::default(), Arc::default(), 0)),
            ))),
            generation: Cell::new(generation),
            kept: Kept::default(),
            listeners: RefCell::default(),
            random: Cell::new(rand::random()),
            shared,
        });
        worker.take_plan();
        worker
    }

    /// Carries out orders until told to stop.
    pub async fn run(self: Rc<Self>, mut orders: mpsc::UnboundedReceiver<Order>) {
        let ticking = tokio::task::spawn_local(self.clone().tick());
        while let Some(order) = orders.recv().await {
            match order {
                Order::Listen(listen) => self.listen(*listen),
                Order::Unlisten(id, closing) => self.unlisten(id, &closing),
                Order::TakePlan => {
                    self.live();
                }
                Order::YieldIdle(id) => {
                    let backend = self.kept.backends.borrow().get(&id).cloned();
                    if let Some(backend) = backend {
                        backend.yield_idle();
                    }
                }
                Order::Drain(max) => {
                    self.draining.set(true);
                    self.drain_began_ms.set(boot_now().get() / 1_000_000);
                    self.drain_max_ms.set(u64::try_from(max.as_millis()).unwrap_or(u64::MAX));
                }
                Order::Mark(_) => {}
                Order::Stop => break,
            }
        }
        ticking.abort();
        self.listeners.borrow_mut().drain().for_each(|(_, accepting)| accepting.task.abort());
        if let Some(log) = &self.log {
            log.flush();
        }
    }

    async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now_ms = boot_now().get() / 1_000_000;
            self.ticks.advance(now_ms);
            self.wall.refresh();
            self.retire();
            if self.draining.get() {
                self.go_on_draining(now_ms);
            }
            if let Some(log) = &self.log {
                log.flush();
            }
            let backends: Vec<_> = self.kept.backends.borrow().values().cloned().collect();
            backends.iter().for_each(|backend| backend.tend(now_ms));
        }
    }

    /// Wakes connections whose time to end has come.
    fn go_on_draining(&self, now_ms: u64) {
        let closes_idle = now_ms >= self.drain_began_ms.get() + self.shared.idle_grace_ms;
        let live = self.live();
        let farms = live.plan.farms.iter().map(|farm| Some(farm.timeouts.drain.as_millis()));
        let over = farms.chain([None]).filter(|max_ms| self.is_drain_over(*max_ms)).count();
        if closes_idle && !self.closing_idle.replace(true) || over > self.drained_farms.replace(over) {
            self.ticks.wake_all();
        }
    }

    /// Whether what goes on is cut off because its farm's time for a drain is over, as of the last tick.
    fn is_drain_over(&self, farm_max_ms: Option<u64>) -> bool {
        let max_ms = farm_max_ms.unwrap_or(u64::MAX).min(self.drain_max_ms.get());
        self.draining.get() && self.ticks.now_ms() >= self.drain_began_ms.get().saturating_add(max_ms)
    }

    /// The plan in force.
    pub fn live(&self) -> Rc<Live> {
        if self.shared.ports.view.generation() != self.generation.get() {
            self.take_plan();
        }
        self.live.borrow().clone()
    }

    /// The farm that a listener belongs to, as the plan in force has it.
    pub fn farm(&self, id: FarmId) -> Option<Rc<Farm>> {
        self.live().farm(id).cloned()
    }

    fn take_plan(&self) {
        // Read before the plan, so that a plan published in between is taken in at the next look.
        self.generation.set(self.shared.ports.view.generation());
        let plan = self.shared.ports.view.plan();
        let (mut backends, mut services) = (self.kept.backends.borrow_mut(), self.kept.services.borrow_mut());
        let live = Live::new(
            plan,
            |id| {
                let make = || Rc::new(Backend::new(id, self.index, self.shared.permits(id), self.counters.backend(id)));
                backends.entry(id).or_insert_with(make).clone()
            },
            |id| {
                let make = || {
                    let (counters, durations) = (self.counters.service(id), self.counters.durations(id));
                    Rc::new(ServiceState::new(counters, durations, self.random()))
                };
                services.entry(id).or_insert_with(make).clone()
            },
        );
        let services_named: Vec<_> =
            live.services().map(|s| (s.plan.id, s.backends.iter().map(|b| b.id).collect::<Vec<_>>())).collect();
        backends.values().for_each(|backend| backend.wake_waiting());
        services.retain(|id, _| services_named.iter().any(|(named, _)| named == id));
        // First, so that only who goes on by an earlier plan holds backends of it.
        *self.live.borrow_mut() = Rc::new(live);
        backends.retain(|id, backend| {
            let is_named = services_named.iter().any(|(_, ids)| ids.contains(id));
            if !is_named {
                backend.retire();
            }
            // If it returns it is to be the same one, with the permits in use and the line.
            is_named || Rc::strong_count(backend) > 1
        });
        drop((backends, services));
        self.shared.forget_permits();
    }

    fn listen(self: &Rc<Self>, listen: Listen) {
        let listener = Rc::new(Listener {
            counters: self.counters.listener(listen.identity.farm, &listen.identity.name),
            identity: listen.identity,
            closed: Cell::new(false),
            cut: Cell::new(false),
            used: Cell::new(false),
            open: listen.open,
        });
        let socket = match TcpListener::from_std(listen.socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(listener = %listener.identity.name, address = %listener.identity.address, %error, "cannot accept");
                return;
            }
        };
        let current = Rc::new(RefCell::new(listener));
        let task = tokio::task::spawn_local(self.clone().accept(current.clone(), socket)).abort_handle();
        self.listeners.borrow_mut().insert(listen.id, Accepting { current, task });
    }

    /// Closes the connections of listeners whose VIP was lost since the last look, or was handed over so long ago that
    /// the fence is about to close for what clients had begun, their connections' ends included.
    fn retire(&self) {
        let mut retired = false;
        for accepting in self.listeners.borrow().values() {
            let before = accepting.current.borrow().clone();
            if before.used.get() && !before.may_go_on() {
                before.closed.set(true);
                before.cut.set(true);
                *accepting.current.borrow_mut() = Rc::new(before.renewed());
                retired = true;
            }
        }
        if retired {
            self.ticks.wake_all();
        }
    }

    fn unlisten(self: &Rc<Self>, id: u64, closing: &Closing) {
        let Some(accepting) = self.listeners.borrow_mut().remove(&id) else { return };
        accepting.task.abort();
        let listener = accepting.current.borrow().clone();
        if !self.draining.get() {
            listener.closed.set(true);
            self.ticks.wake_all();
            return;
        }
        // Whom the kernel has taken is served.
        let Some(socket) = closing.0.get(self.index) else { return };
        for _ in 0..BACKLOG {
            match socket.accept() {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    // One that failed meanwhile.
                    let Ok(stream) = stream else { continue };
                    self.admit(&listener, stream, peer);
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => break,
            }
        }
        // Who came since is told to go elsewhere at once.
        let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Both);
    }

    async fn accept(self: Rc<Self>, current: Rc<RefCell<Rc<Listener>>>, socket: TcpListener) {
        loop {
            let accepted = socket.accept().await;
            let listener = current.borrow().clone();
            match accepted {
                Ok((stream, peer)) => self.admit(&listener, stream, peer),
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: the connection stays in the kernel's queue meanwhile.
                    tracing::warn!(listener = %listener.identity.name, %error, "cannot accept; trying again");
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, listener: &Rc<Listener>, stream: TcpStream, peer: SocketAddr) {
        let Some(farm) = self.farm(listener.identity.farm) else { return };
        // What the kernel took before a VIP was handed over is not lost because the accepting was late.
        if !listener.may_accept() {
            return;
        }
        listener.used.set(true);
        let limits = &farm.plan.limits;
        let held = Held::new(self.clone(), listener.clone());
        if listener.open.load(Ordering::Relaxed) > limits.connections_max {
            listener.counters.refused_total.up();
            http::refuse(held, stream, http::ending::Ending::LimitConnections);
            return;
        }
        let source = source_of(peer.ip(), &farm.plan.trusted_proxies);
        let Some(held) = held.count_source(source, limits.connections_per_source_max) else {
            listener.counters.refused_total.up();
            http::refuse(Held::new(self.clone(), listener.clone()), stream, http::ending::Ending::LimitSource);
            return;
        };
        listener.counters.accepted_total.up();
        tokio::task::spawn_local(http::serve(held, stream, peer));
    }

    /// Asks the other workers to give up an idle connection to a backend.
    pub fn ask_for_idle(&self, id: BackendId) {
        for (index, orders) in self.shared.orders.iter().enumerate() {
            if index != self.index {
                // A worker that has ended has no idle connections.
                let _ = orders.send(Order::YieldIdle(id));
            }
        }
    }

    /// The next pseudo-random number (SplitMix64; nothing secret hangs on it).
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
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

/// Whose connection it is, for the limit on one source: of an IPv6 address the network that one client has (RFC 6177 section 2).
/// Those behind a trusted proxy are many.
fn source_of(peer: IpAddr, trusted: &TrustedProxies) -> Option<IpAddr> {
    match peer.to_canonical() {
        peer if trusted.contains(peer) => None,
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
        v4 => Some(v4),
    }
}

/// A client connection that counts. What it counted is taken back when it is dropped.
pub struct Held {
    /// Who serves it.
    pub worker: Rc<Worker>,
    /// Where it came in.
    pub listener: Rc<Listener>,
    source: Option<Source>,
}

impl Held {
    fn new(worker: Rc<Worker>, listener: Rc<Listener>) -> Self {
        worker.counters.held.up();
        worker.shared.held.fetch_add(1, Ordering::Relaxed);
        listener.counters.connections.up();
        listener.open.fetch_add(1, Ordering::Relaxed);
        Self { worker, listener, source: None }
    }

    /// Counts the connection for its source, if it has one; `None` if that has `max` already. Zero means no limit.
    fn count_source(mut self, source: Option<IpAddr>, max: u32) -> Option<Self> {
        let Some(source) = source.filter(|_| max > 0) else { return Some(self) };
        let identity = &self.listener.identity;
        let source = (identity.farm, identity.name.clone(), source);
        let mut sources = self.worker.shared.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source.clone()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(sources);
        self.source = Some(source);
        Some(self)
    }
}

impl Held {
    /// Why what goes on is to be cut off, if it is.
    pub fn cut(&self) -> Option<Ending> {
        if self.listener.cut.get() {
            return Some(Ending::VipNotHeld);
        }
        if !self.worker.draining.get() {
            return None;
        }
        let farm = self.worker.farm(self.listener.identity.farm);
        self.worker.is_drain_over(farm.map(|farm| farm.plan.timeouts.drain.as_millis())).then_some(Ending::DrainTimeout)
    }

    /// Whether a connection without a request, and since when it is, in milliseconds, is to end.
    pub fn ends_idle(&self, since_ms: u64) -> bool {
        let long = || self.worker.ticks.now_ms() >= since_ms.saturating_add(self.worker.shared.idle_grace_ms);
        self.listener.closed.get() || self.worker.closing_idle.get() && long()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.worker.counters.held.down();
        self.listener.counters.connections.down();
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(source) = self.source.take() {
            let mut sources = self.worker.shared.sources.lock().unwrap_or_else(PoisonError::into_inner);
            if let std::collections::hash_map::Entry::Occupied(mut count) = sources.entry(source) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        if self.worker.shared.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.worker.shared.released.notify_waiters();
        }
    }
}

/// Runs a worker on this thread until it is told to stop. Says `ready` once it has taken the plan in, or
/// why it cannot run.
pub fn run_on_this_thread(
    index: usize,
    shared: Arc<Shared>,
    log: Option<LogPort>,
    orders: mpsc::UnboundedReceiver<Order>,
    ready: std::sync::mpsc::Sender<std::io::Result<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().event_interval(61).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever starts workers waits for this.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let worker = Worker::new(index, shared, log);
        // As above.
        let _ = ready.send(Ok(()));
        drop(ready);
        worker.run(orders).await;
    });
    // Connections that are left end with their tasks.
    drop(local);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_the_network_of_one_client_and_no_trusted_proxy() {
        let trusted = TrustedProxies(vec!["10.0.0.0/8".to_owned().try_into().expect("a network")]);
        for (peer, source) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::")),
            ("2001:db8:1:2::7", Some("2001:db8:1:2::")),
            ("2001:db8:1:3::7", Some("2001:db8:1:3::")),
            ("10.1.2.3", None),
            ("::ffff:10.1.2.3", None),
        ] {
            let peer = peer.parse().expect("an address");
            assert_eq!(source_of(peer, &trusted).map(|s| s.to_string()).as_deref(), source, "{peer}");
        }
    }
}
