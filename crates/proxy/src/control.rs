//! Which sockets there are: the plan's listeners and the VIPs held, against what is bound.
//!
//! One thread owns the sockets and gives each worker its own: `SO_REUSEPORT` sockets for addresses
//! of the node, so that the kernel spreads connections; one exclusive socket, duplicated, for a VIP,
//! so that two processes on one machine can never both have it (where VIPs are fenced by the kernel, their sockets are
//! like any other, bound whether the VIP is held or not). Reconciled by difference: a listener that did not change is
//! not touched.
//!
//! A listener that cannot be bound is tried again, and said to be failing meanwhile.
//!
//! Not here: accepting ([`crate::worker`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU32,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use ballast_core::{
    ids::{FarmId, Revision, VipId},
    plan::{Bind, Plan},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{
    proxy::BindVips,
    worker::{Closing, Identity, Listen, Order, Shared, VipIdentity},
};

/// How soon a bind that failed is tried again: a VIP's former owner lets go within milliseconds.
const RETRY: Duration = Duration::from_millis(20);
/// Connections waiting to be accepted; the kernel cuts it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// What control is told.
#[derive(Debug)]
pub enum Notice {
    /// There is a new plan.
    PlanChanged,
    /// This node owns the VIP now, or does not any more.
    Vip(VipId, bool),
    /// Answer when everything before has been carried out.
    Settle(SyncSender<()>),
    /// Close all listeners and let connections end, within this. Dropping the other tells that all workers have begun.
    Drain(Duration, Arc<()>),
    /// End.
    Stop,
}

/// The state of one address of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerState {
    /// Whose.
    pub farm: FarmId,
    /// Which.
    pub listener: Arc<str>,
    /// The address, with the real port once it is bound.
    pub address: SocketAddr,
    /// Why it is not bound.
    pub error: Option<String>,
}

/// What is published about listeners.
#[derive(Debug, Default)]
pub struct Listening {
    /// Every one that is wanted.
    pub listeners: Vec<ListenerState>,
    /// The revision that they are of. Each was tried at least once.
    pub revision: Revision,
}

/// Where it is published.
pub type Published = Arc<Mutex<Listening>>;

/// Owns the sockets.
pub struct Control {
    shared: Arc<Shared>,
    published: Published,
    bind_vips: BindVips,
    held: BTreeSet<VipId>,
    sockets: BTreeMap<Key, Bound>,
    /// Connections open, by listener: its limit is over all its addresses and whatever becomes of its sockets.
    connections: BTreeMap<(FarmId, Arc<str>), Arc<AtomicU32>>,
    next_id: u64,
    draining: bool,
    /// False once it ends.
    serving: bool,
}

/// What tells listeners apart. The name is part of it, so that two listeners with an ephemeral port differ.
type Key = (FarmId, Arc<str>, SocketAddr);

struct Wanted {
    vip: Option<(VipId, Arc<str>)>,
}

struct Bound {
    vip: Option<VipId>,
    state: Result<Sockets, String>,
}

struct Sockets {
    id: u64,
    address: SocketAddr,
    /// Kept to shut the listeners down at once, whoever else has a duplicate.
    listeners: Vec<TcpListener>,
}

impl Control {
    /// Nothing bound yet.
    pub fn new(shared: Arc<Shared>, published: Published, bind_vips: BindVips) -> Self {
        Self {
            shared,
            published,
            bind_vips,
            held: BTreeSet::new(),
            sockets: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_id: 1,
            draining: false,
            serving: true,
        }
    }

    /// Carries out notices until told to stop.
    pub fn run(mut self, notices: &Receiver<Notice>) {
        self.reconcile();
        loop {
            let failing = self.sockets.values().any(|bound| bound.state.is_err());
            let notice = if failing {
                notices.recv_timeout(RETRY)
            } else {
                notices.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match notice {
                Ok(Notice::PlanChanged) => {
                    self.reconcile();
                    self.tell_all(|| Order::TakePlan);
                }
                Ok(Notice::Vip(vip, true)) => {
                    self.held.insert(vip);
                    self.reconcile();
                }
                Ok(Notice::Vip(vip, false)) => {
                    self.held.remove(&vip);
                    self.reconcile();
                }
                Ok(Notice::Settle(done)) => {
                    // Whoever asked may have given up.
                    let _ = done.send(());
                }
                Ok(Notice::Drain(max, begun)) => {
                    self.draining = true;
                    // First, so that the listeners' connections have the time that a drain leaves them.
                    self.tell_all(|| Order::Drain(max));
                    self.reconcile();
                    self.tell_all(|| Order::Mark(begun.clone()));
                }
                Err(RecvTimeoutError::Timeout) => self.reconcile(),
                Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.held.clear();
        self.draining = true;
        self.serving = false;
        self.reconcile();
        self.tell_all(|| Order::Stop);
    }

    fn tell_all(&self, order: impl Fn() -> Order) {
        for orders in &self.shared.orders {
            // A worker that has ended needs no orders.
            let _ = orders.send(order());
        }
    }

    /// Brings what is bound in line with what is wanted.
    fn reconcile(&mut self) {
        let plan = self.shared.ports.view.plan();
        let mut wanted = self.wanted(&plan);
        if self.draining {
            // Fenced listeners get nothing new from a VIP that was given up, only what the kernel took before.
            wanted.retain(|_, wanted| self.serving && self.bind_vips == BindVips::Always && wanted.vip.is_some());
        }
        let gone: Vec<Key> = self.sockets.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            if let Some(Bound { state: Ok(sockets), .. }) = self.sockets.remove(&key) {
                self.close(sockets);
            }
        }
        for (key, wanted) in wanted {
            let vip = wanted.vip.as_ref().map(|(id, _)| *id);
            let known = self.sockets.get(&key);
            if known.is_some_and(|bound| bound.vip == vip && bound.state.is_ok()) {
                continue;
            }
            let said_before = known.and_then(|bound| bound.state.as_ref().err().cloned());
            if let Some(Bound { state: Ok(sockets), .. }) = self.sockets.remove(&key) {
                self.close(sockets);
            }
            let state = self.open(&key, &wanted).map_err(|error| error.to_string());
            match (&state, said_before) {
                (Err(error), before) if before.as_ref() != Some(error) => {
                    tracing::warn!(listener = %key.1, address = %key.2, %error, "cannot listen; trying again every 20 ms");
                }
                (Ok(sockets), _) => tracing::info!(listener = %key.1, address = %sockets.address, "listening"),
                (Err(_), _) => {}
            }
            self.sockets.insert(key, Bound { vip, state });
        }
        // Sockets and connections have a part in the count of their listener.
        self.connections.retain(|_, open| Arc::strong_count(open) > 1);
        self.publish(plan.revision);
    }

    fn wanted(&self, plan: &Plan) -> BTreeMap<Key, Wanted> {
        let mut wanted = BTreeMap::new();
        for farm in &plan.farms {
            for listener in &farm.listeners {
                let (vip, addresses) = match &listener.bind {
                    Bind::Vip { id, .. } if self.bind_vips == BindVips::WhileHeld && !self.held.contains(id) => {
                        continue;
                    }
                    Bind::Vip { id, name, addresses } => (Some((*id, name.clone())), addresses.clone()),
                    Bind::Address(address) => (None, vec![*address]),
                };
                for address in addresses {
                    let key = (farm.id, listener.name.clone(), SocketAddr::new(address, listener.port));
                    wanted.insert(key, Wanted { vip: vip.clone() });
                }
            }
        }
        wanted
    }

    fn open(&mut self, (farm, name, address): &Key, wanted: &Wanted) -> io::Result<Sockets> {
        let workers = self.shared.orders.len();
        let spread = match (&wanted.vip, self.bind_vips) {
            (Some(_), BindVips::WhileHeld) => None,
            (Some(_), BindVips::Always) => Some(Sharing::SpreadAhead),
            (None, _) => Some(Sharing::Spread),
        };
        let listeners = if let Some(spread) = spread {
            // The first listens without SO_REUSEPORT, which would share the port with any process of the same user; once it
            // listens, only who shares it from the start could join, and that is the others here.
            let alone = if spread == Sharing::SpreadAhead { Sharing::Ahead } else { Sharing::Exclusive };
            let first = listen(*address, alone)?;
            SockRef::from(&first).set_reuse_port(true)?;
            let real = first.local_addr()?;
            let more = (1..workers).map(|_| listen(real, spread)).collect::<io::Result<Vec<_>>>()?;
            std::iter::once(first).chain(more).collect()
        } else {
            let first = listen(*address, Sharing::Exclusive)?;
            let copies = (1..workers).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
            std::iter::once(first).chain(copies).collect::<Vec<_>>()
        };
        let address = listeners[0].local_addr()?;
        let id = self.next_id;
        self.next_id += 1;
        let vip = wanted
            .vip
            .as_ref()
            .map(|(id, name)| VipIdentity { name: name.clone(), gate: self.shared.ports.ownership.gate(*id) });
        let identity = Identity { farm: *farm, name: name.clone(), vip, address };
        let open = self.connections.entry((*farm, name.clone())).or_default().clone();
        let kept = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
        for (orders, socket) in self.shared.orders.iter().zip(listeners) {
            let listen = Listen { id, socket, identity: identity.clone(), open: open.clone() };
            // A worker that has ended accepts nothing.
            let _ = orders.send(Order::Listen(Box::new(listen)));
        }
        Ok(Sockets { id, address, listeners: kept })
    }

    fn close(&self, sockets: Sockets) {
        let closing = Arc::new(Closing(sockets.listeners));
        self.tell_all(|| Order::Unlisten(sockets.id, closing.clone()));
        if !self.draining {
            // So that the next owner can bind before the workers have let go.
            closing.now();
        }
    }

    fn publish(&self, revision: Revision) {
        let states = self.sockets.iter().map(|((farm, name, address), bound)| ListenerState {
            farm: *farm,
            listener: name.clone(),
            address: bound.state.as_ref().map_or(*address, |sockets| sockets.address),
            error: bound.state.as_ref().err().cloned(),
        });
        let listening = Listening { listeners: states.collect(), revision };
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = listening;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Nobody else may have the address.
    Exclusive,
    /// The same, and the address need not be there yet.
    Ahead,
    /// One socket a worker.
    Spread,
    /// One socket a worker, and the address need not be there yet.
    SpreadAhead,
}

fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if matches!(sharing, Sharing::Spread | Sharing::SpreadAhead) {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `::` is not `0.0.0.0`: each is configured on its own.
        socket.set_only_v6(true)?;
    }
    if matches!(sharing, Sharing::Ahead | Sharing::SpreadAhead) {
        // ip(7), IP_FREEBIND.
        if address.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
    }
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = bind(address, sharing)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
