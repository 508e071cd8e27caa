//! Which sockets there are: what is wanted against what is bound.
//!
//! One thread owns the sockets and gives each worker its own: `SO_REUSEPORT` sockets for TCP, so that the kernel spreads
//! connections, duplicates of one for a Unix socket. Reconciled by difference: a listener that did not change is not
//! touched. One that cannot be bound is tried again, and said to be failing meanwhile.
//!
//! Not here: accepting ([`crate::worker`]).

use std::{
    collections::BTreeMap,
    fmt,
    fs::Permissions,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use ballast_core::{config::SessionProtocol, ids::VipId, session::Settings};
use socket2::{Domain, Protocol, SockRef, Type};

use crate::{
    node::Node,
    worker::{BACKLOG, Closing, Identity, Listen, Order, Socket},
};

/// How soon a bind that failed is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// A listener that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Where.
    pub place: Place,
    /// Speaks TLS. Not on a Unix socket.
    pub tls: bool,
    /// What is spoken there, within TLS or without.
    pub protocol: SessionProtocol,
}

impl Wanted {
    /// What is spoken there, in a word.
    pub const fn kind(&self) -> &'static str {
        match (self.protocol, self.tls) {
            (SessionProtocol::Resp, false) => "redis",
            (SessionProtocol::Resp, true) => "redis-tls",
            (SessionProtocol::Http, false) => "http",
            (SessionProtocol::Http, true) => "http-tls",
        }
    }

    /// What the document wants of every node; nothing if it has no session store. `vip` knows the ids and addresses of VIPs; one
    /// that it does not know is left out.
    pub fn of(settings: &Settings, vip: impl Fn(&str) -> Option<(VipId, Vec<IpAddr>)>) -> Vec<Self> {
        if !settings.enabled {
            return Vec::new();
        }
        let addresses = [
            (&settings.listen, false, SessionProtocol::Resp),
            (&settings.tls_listen, true, SessionProtocol::Resp),
            (&settings.http_listen, false, SessionProtocol::Http),
            (&settings.http_tls_listen, true, SessionProtocol::Http),
        ];
        let own = addresses.into_iter().flat_map(|(addresses, tls, protocol)| {
            addresses.iter().map(move |address| Self { place: Place::Address(*address), tls, protocol })
        });
        let vips = settings.vips.iter().flat_map(|wanted| {
            let (id, addresses) = vip(&wanted.vip).unwrap_or((VipId::new(0), Vec::new()));
            let at = move |address| Place::Vip(id, SocketAddr::new(address, wanted.port));
            let (tls, protocol) = (wanted.tls, wanted.protocol);
            addresses.into_iter().map(move |address| Self { place: at(address), tls, protocol })
        });
        own.chain(vips).collect()
    }
}

/// Where clients arrive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An address of this node.
    Address(SocketAddr),
    /// An address of a VIP. Bound whether the VIP is held or not; what is accepted while it is not is closed.
    Vip(VipId, SocketAddr),
    /// A Unix socket. A socket of that name that nobody listens on is replaced.
    Unix {
        /// Its name.
        path: PathBuf,
        /// Its permissions, if they are not to be what the umask leaves.
        mode: Option<u32>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) | Self::Vip(_, address) => address.fmt(f),
            Self::Unix { path, .. } => path.display().fmt(f),
        }
    }
}

/// What control is told.
#[derive(Debug)]
pub enum Notice {
    /// These listeners are wanted from now on.
    Listen(Vec<Wanted>),
    /// Answer when everything before has been carried out.
    Settle(SyncSender<()>),
    /// Close all listeners and let connections end. What is given is dropped once all workers have begun.
    Drain(Arc<()>),
    /// End.
    Stop,
}

/// The state of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerState {
    /// What is wanted.
    pub wanted: Wanted,
    /// The address with the real port, or the path, once it is bound.
    pub bound: Result<Arc<str>, String>,
}

/// Where the states of listeners are published.
pub type Published = Arc<Mutex<Vec<ListenerState>>>;

/// Owns the sockets.
pub struct Control {
    node: Arc<Node>,
    published: Published,
    wanted: Vec<Wanted>,
    sockets: BTreeMap<Wanted, Result<Bound, String>>,
    next_id: u64,
    draining: bool,
    stopped: bool,
}

struct Bound {
    id: u64,
    name: Arc<str>,
    /// Another handle of each worker's socket, for the end.
    kept: Vec<Socket>,
    path: Option<PathBuf>,
}

impl Control {
    /// Nothing bound yet.
    pub fn new(node: Arc<Node>, published: Published) -> Self {
        Self {
            node,
            published,
            wanted: Vec::new(),
            sockets: BTreeMap::new(),
            next_id: 1,
            draining: false,
            stopped: false,
        }
    }

    /// Carries out notices until told to stop.
    pub fn run(mut self, notices: &Receiver<Notice>) {
        loop {
            let failing = self.sockets.values().any(Result::is_err);
            let notice = if failing {
                notices.recv_timeout(RETRY)
            } else {
                notices.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match notice {
                Ok(Notice::Listen(wanted)) => {
                    self.wanted = wanted;
                    self.reconcile();
                }
                Ok(Notice::Settle(done)) => {
                    // Whoever asked may have given up.
                    let _ = done.send(());
                }
                Ok(Notice::Drain(begun)) => {
                    self.draining = true;
                    // First, so that the listeners' connections have the time that a drain leaves them.
                    self.tell_all(|| Order::Drain);
                    self.reconcile();
                    self.tell_all(|| Order::Mark(begun.clone()));
                }
                Err(RecvTimeoutError::Timeout) => self.reconcile(),
                Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.stopped = true;
        self.reconcile();
        self.tell_all(|| Order::Stop);
    }

    fn tell_all(&self, order: impl Fn() -> Order) {
        for orders in &self.node.orders {
            // A worker that has ended needs no orders.
            let _ = orders.send(order());
        }
    }

    /// Brings what is bound in line with what is wanted.
    fn reconcile(&mut self) {
        let mut wanted = self.wanted.clone();
        if self.stopped {
            wanted.clear();
        }
        if self.draining {
            // What the kernel took on a VIP before it was handed over is served, and its gate lets nobody else in.
            wanted.retain(|wanted| matches!(wanted.place, Place::Vip(..)));
        }
        let gone: Vec<Wanted> = self.sockets.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        for key in gone {
            if let Some(Ok(bound)) = self.sockets.remove(&key) {
                self.close(bound);
            }
        }
        for key in wanted {
            let known = self.sockets.get(&key);
            if matches!(known, Some(Ok(_))) {
                continue;
            }
            let said_before = known.and_then(|known| known.as_ref().err().cloned());
            let state = self.open(&key).map_err(|error| error.to_string());
            match &state {
                Ok(bound) => tracing::info!(listener = %bound.name, "the session store is listening"),
                Err(error) if said_before.as_ref() != Some(error) => {
                    tracing::warn!(listener = ?key.place, %error, "cannot listen; trying again every 20 ms");
                }
                Err(_) => {}
            }
            self.sockets.insert(key, state);
        }
        let states = self.sockets.iter().map(|(wanted, state)| ListenerState {
            wanted: wanted.clone(),
            bound: state.as_ref().map(|bound| bound.name.clone()).map_err(Clone::clone),
        });
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = states.collect();
    }

    fn open(&mut self, wanted: &Wanted) -> io::Result<Bound> {
        let workers = self.node.orders.len();
        let (gate, name, sockets, path) = match &wanted.place {
            Place::Unix { path, mode } => {
                let first = listen_unix(path, *mode)?;
                let more = (1..workers).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
                let name: Arc<str> = path.to_string_lossy().into();
                let sockets = std::iter::once(first).chain(more).map(Socket::Unix).collect::<Vec<_>>();
                (None, name, sockets, Some(path.clone()))
            }
            Place::Address(address) | Place::Vip(_, address) => {
                let ahead = matches!(wanted.place, Place::Vip(..));
                let first = listen_first(*address, ahead)?;
                let real = first.local_addr()?;
                let more = (1..workers).map(|_| listen_tcp(real, ahead, true)).collect::<io::Result<Vec<_>>>()?;
                let sockets = std::iter::once(first).chain(more).map(Socket::Tcp).collect::<Vec<_>>();
                let gate = match &wanted.place {
                    Place::Vip(vip, _) => Some(self.node.ports.ownership.gate(*vip)),
                    _ => None,
                };
                (gate, real.to_string().into(), sockets, None)
            }
        };
        let kept = sockets.iter().map(Socket::try_clone).collect::<io::Result<Vec<_>>>()?;
        let id = self.next_id;
        self.next_id += 1;
        let identity = Identity { name: name.clone(), gate, tls: wanted.tls, protocol: wanted.protocol };
        for (orders, socket) in self.node.orders.iter().zip(sockets) {
            // A worker that has ended accepts nothing.
            let _ = orders.send(Order::Listen(Box::new(Listen { id, socket, identity: identity.clone() })));
        }
        Ok(Bound { id, name, kept, path })
    }

    fn close(&self, bound: Bound) {
        if let Some(path) = &bound.path {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
        let closing = Arc::new(Closing(bound.kept));
        self.tell_all(|| Order::Unlisten(bound.id, closing.clone()));
        if !self.draining {
            // So that somebody else can bind before the workers have let go.
            closing.now();
        }
    }
}

/// A client that died without a word, or behind a way that forgot it, does not keep its place for ever: the kernel asks after
/// five minutes in silence, as `tcp-keepalive` of Redis has it, and lets go after three questions without an answer.
const KEEPALIVE: socket2::TcpKeepalive = socket2::TcpKeepalive::new()
    .with_time(Duration::from_secs(300))
    .with_interval(Duration::from_secs(100))
    .with_retries(3);

fn bind(address: SocketAddr, ahead: bool, spread: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if spread {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `::` is not `0.0.0.0`: each is configured on its own.
        socket.set_only_v6(true)?;
    }
    if ahead {
        // ip(7), IP_FREEBIND: the address need not be there yet.
        if address.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
    }
    // Accepted sockets inherit both.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Listens where nobody else does. SO_REUSEPORT alone would share the port with any process of the same user: so the first
/// socket listens without, and once it does, only sockets that share can join. Others try without first, as here.
fn listen_first(address: SocketAddr, ahead: bool) -> io::Result<TcpListener> {
    let first = listen_tcp(address, ahead, false)?;
    SockRef::from(&first).set_reuse_port(true)?;
    Ok(first)
}

fn listen_tcp(address: SocketAddr, ahead: bool, spread: bool) -> io::Result<TcpListener> {
    let socket = bind(address, ahead, spread)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn listen_unix(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() => {
            // Left by a process that was killed.
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    if let Some(mode) = mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_client_is_asked_for_a_sign_of_life() {
        let listener = listen_tcp(SocketAddr::from(([127, 0, 0, 1], 0)), false, false).expect("loopback has ports");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        listener.set_nonblocking(false).expect("a socket");
        let (accepted, _) = listener.accept().expect("one waits");
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().expect("a socket"));
        assert_eq!(accepted.tcp_keepalive_time().expect("a socket"), Duration::from_secs(300));
        assert_eq!(accepted.tcp_keepalive_retries().expect("a socket"), 3);
        drop(client);
    }

    #[test]
    fn of_many_that_want_a_port_at_once_one_gets_it_and_all_its_sockets() {
        const MANY: usize = 4;
        for _ in 0..50 {
            // At an address where nobody else takes it meanwhile.
            let free = TcpListener::bind("127.83.7.1:0").expect("loopback has ports");
            let address = free.local_addr().expect("bound");
            drop(free);
            let together = Barrier::new(MANY);
            let try_it = || {
                together.wait();
                let first = listen_first(address, false)?;
                let more = (0..2).map(|_| listen_tcp(address, false, true)).collect::<io::Result<Vec<_>>>()?;
                // Kept until all have tried.
                together.wait();
                Ok::<_, io::Error>((first, more))
            };
            let won = std::thread::scope(|scope| {
                let tries: Vec<_> = (0..MANY)
                    .map(|_| {
                        scope.spawn(|| {
                            let tried = try_it();
                            if tried.is_err() {
                                together.wait();
                            }
                            tried.is_ok()
                        })
                    })
                    .collect();
                tries.into_iter().filter_map(|one| one.join().ok()).filter(|won| *won).count()
            });
            assert_eq!(won, 1);
        }
    }
}
