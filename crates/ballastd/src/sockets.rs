//! The node's own sockets, bound before anything else starts, so that a port in use is an error at
//! the start and not a surprise later; and the node-to-node listener.
//!
//! An address that the machine does not have yet is no error but waited for: after a power failure a machine is up before its
//! switch, and has its addresses only when there is a carrier.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ballast_admin::{
    pki::{Identity as PeerIdentity, identity_of},
    refusals::Refusals,
    serve::{Place, Places, Turn, Turns},
};
use ballast_core::ids::NodeId;
use ballast_raft::PeerNode;
use ballast_telemetry::trace::TraceLayer;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tracing::{debug, info, warn};

use crate::{bootstrap::Bootstrap, supervisor::Supervisor};

/// How often it is tried to bind an address that the machine does not have yet: soon enough for whoever waits, and next to no
/// work.
const LOOK: Duration = Duration::from_millis(250);

/// A handshake takes two round trips; this leaves room for lost packets.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Fresh connections that wait to be served; more wait as well, in their places.
const BACKLOG: usize = 64;
/// Handshakes at once: as many as thirty nodes begin that all come at once, with a connection for each of four kinds of
/// traffic, and far fewer than a process has descriptors.
const HANDSHAKES_MAX: usize = 128;

/// Connections of nodes at once: each costs a descriptor.
const CONNECTIONS_MAX: usize = 512;
/// Connections at once of one node, which may have been removed long ago. It has one for each of four kinds of traffic;
/// on a bad line it makes them anew every second, while the old ones last for up to twice [`KEEP_ALIVE`].
const CONNECTIONS_EACH_MAX: usize = 64;

/// Calls that a node took back before this one looked at them, at most, on one connection.
const PENDING_RESETS: usize = 1024;

/// A node is asked for a sign of life this often, and has as long to give it, so that the connections of one that lost its
/// power end. Longer than the second within which the callers themselves find that out: who is only busy should be given
/// up by the one side that can call again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Every socket of the node itself (not of its farms).
pub struct Sockets {
    /// Node-to-node gRPC.
    pub cluster: TcpListener,
    /// Lease datagrams; the same address.
    pub leases: UdpSocket,
    /// Admin API over TLS.
    pub admin: TcpListener,
    /// Admin API for root.
    pub unix: UnixListener,
    /// Probes and metrics.
    pub metrics: Option<TcpListener>,
}

impl Sockets {
    /// Binds all of them, each once the machine has its address. The log and `supervisor` are told which one is waited for.
    ///
    /// # Errors
    /// Names the key in `ballastd.toml`, the address and the cause.
    ///
    /// # Cancel safety
    /// What was bound is closed.
    pub async fn bind(bootstrap: &Bootstrap, supervisor: &Supervisor) -> Result<Self> {
        let metrics = match bootstrap.listen.metrics {
            Some(address) => Some(listen("metrics", address, supervisor).await?),
            None => None,
        };
        let cluster = bootstrap.listen.cluster;
        let leases = async || UdpSocket::bind(cluster);
        Ok(Self {
            cluster: listen("cluster", cluster, supervisor).await?,
            leases: once_there("cluster", cluster, supervisor, LOOK, leases)
                .await
                .map_err(|error| explain("cluster", "UDP", cluster, error))?,
            admin: listen("admin", bootstrap.listen.admin, supervisor).await?,
            unix: listen_unix(&bootstrap.socket())?,
            metrics,
        })
    }
}

async fn listen(key: &str, address: SocketAddr, supervisor: &Supervisor) -> Result<TcpListener> {
    let bind = async || TcpListener::bind(address).await;
    let bound = once_there(key, address, supervisor, LOOK, bind).await;
    bound.map_err(|error| explain(key, "TCP", address, error))
}

/// What `bind` comes to once an interface has the address. Whether that is late or never, as with a slip in the file, nobody
/// can tell: the wait has no end, and is told.
async fn once_there<T>(
    key: &str,
    address: SocketAddr,
    supervisor: &Supervisor,
    look: Duration,
    bind: impl AsyncFn() -> io::Result<T>,
) -> io::Result<T> {
    let mut waited = false;
    loop {
        let bound = bind().await;
        if !matches!(&bound, Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable) {
            if waited {
                info!(%address, "listen.{key} is waited for no longer");
            }
            return bound;
        }
        if !waited {
            warn!(
                %address,
                "no interface of this machine has the address of listen.{key}; waiting until one has. If it is another \
                 machine's, correct listen.{key} in ballastd.toml and start the node again"
            );
        }
        waited = true;
        supervisor.waiting(&format!("an interface has {} (listen.{key})", address.ip()));
        sleep(look).await;
    }
}

fn explain(key: &str, protocol: &str, address: SocketAddr, error: io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "the address is already in use; stop whoever has it, or change",
        io::ErrorKind::PermissionDenied => "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, or change",
        _ => "change",
    };
    anyhow::Error::new(error)
        .context(format!("cannot listen on {address} ({protocol}): {remedy} listen.{key} in ballastd.toml"))
}

fn listen_unix(path: &Path) -> Result<UnixListener> {
    // The data directory is locked by this process, so a socket that is left there has no owner.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace the admin socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| {
        format!("cannot listen on {}; a socket's path may have 107 bytes at most, see listen.socket", path.display())
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", path.display()))?;
    Ok(listener)
}

/// Serves node-to-node gRPC until `stop`. Only nodes of this cluster get past the handshake, and
/// each request carries which node it is from.
///
/// # Errors
/// When HTTP/2 itself cannot be served; a connection that fails is not an error.
pub async fn serve_cluster(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    cluster_id: String,
    routes: Routes,
    stop: CancellationToken,
) -> Result<()> {
    let (ready, connections) = mpsc::channel::<NodeConnection>(BACKLOG);
    let stopped = stop.clone();
    let accepting = accept(listener, TlsAcceptor::from(tls), cluster_id, ready, stop.clone());
    let incoming = stream::unfold(connections, |mut connections| async {
        connections.recv().await.map(|connection| (connection, connections))
    })
    .map(Ok::<_, io::Error>);
    let serving = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        // A heartbeat that is late is given up by its sender. A node that stood still for a second finds dozens of them, and
        // must not end the connection for it; only nodes get here.
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .layer(TraceLayer::continued())
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
    let both = async {
        let ((), served) = tokio::join!(accepting, serving);
        served.context("node-to-node traffic cannot be served")
    };
    tokio::select! {
        served = both => served,
        // The other nodes' streams never end by themselves; what is on them is sent again to somebody else.
        () = stopped.cancelled() => Ok(()),
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    cluster_id: String,
    ready: mpsc::Sender<NodeConnection>,
    stop: CancellationToken,
) {
    let turns = Turns::new(HANDSHAKES_MAX);
    let places = Arc::new(Places::new(CONNECTIONS_MAX));
    let refusals = Arc::new(Mutex::new(Refusals::default()));
    loop {
        let (stream, remote) = tokio::select! {
            // Cancel-safe: a connection that is not returned yet stays with the kernel.
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    info!(%error, "cannot accept a node's connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        // Only now: in the kernel's queue whoever says nothing would keep those behind it waiting.
        let turn = turns.take(remote.ip());
        let (acceptor, cluster_id, ready, stop) = (acceptor.clone(), cluster_id.clone(), ready.clone(), stop.clone());
        let (places, refusals) = (Arc::clone(&places), Arc::clone(&refusals));
        tokio::spawn(async move {
            let handshake = async {
                match timeout(HANDSHAKE_TIMEOUT, handshake(stream, turn, &acceptor, &cluster_id, &places)).await {
                    Ok(Ok(connection)) => drop(ready.send(connection).await),
                    Ok(Err(error)) => {
                        let error = format!("{error:#}");
                        let now = std::time::Instant::now();
                        if let Some(untold) = refusals.lock().refused(now, remote.ip(), &error) {
                            info!(%remote, error, untold, "refused a node's connection");
                        }
                    }
                    Err(_) => debug!(%remote, "a node's handshake took too long"),
                }
            };
            tokio::select! { () = handshake => {}, () = stop.cancelled() => {} }
        });
    }
}

async fn handshake(
    stream: TcpStream,
    turn: Turn,
    acceptor: &TlsAcceptor,
    cluster_id: &str,
    places: &Places<NodeId>,
) -> Result<NodeConnection> {
    stream.set_nodelay(true)?;
    let stream = turn.during(acceptor.accept(stream)).await??;
    let certificate =
        stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("the other side has no certificate")?;
    match identity_of(certificate, cluster_id)? {
        PeerIdentity::Node(node) => {
            let place = places.take(node, CONNECTIONS_EACH_MAX)?;
            Ok(NodeConnection { stream, peer: PeerNode(node), _place: place })
        }
        PeerIdentity::User { .. } => anyhow::bail!("the other side is no node"),
    }
}

/// A connection that knows which node is at its other end.
struct NodeConnection {
    stream: TlsStream<TcpStream>,
    peer: PeerNode,
    _place: Place<NodeId>,
}

impl Connected for NodeConnection {
    // Goes into the extensions of each request, where the services look for it.
    type ConnectInfo = PeerNode;

    fn connect_info(&self) -> PeerNode {
        self.peer
    }
}

impl AsyncRead for NodeConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for NodeConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::SystemTime};

    use ballast_admin::pki::{self, Authority, Key};
    use tokio::{io::AsyncReadExt as _, net::TcpSocket};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// A connection from 127.0.0.`last`: all of 127.0.0.0/8 is this machine (RFC 1122, section 3.2.1.3).
    async fn connect(last: u8, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("bound");
        socket.connect(to).await.expect("connected")
    }

    /// What comes of binding that meets these faults, one after the other, and how often it was tried.
    async fn bound_after(faults: &[io::ErrorKind]) -> (Result<(), io::ErrorKind>, usize) {
        let (address, supervisor) = (SocketAddr::from(([192, 0, 2, 1], 7400)), Supervisor::default());
        let tries = Cell::new(0);
        let bind = async || {
            let fault = faults.get(tries.replace(tries.get() + 1));
            fault.map_or(Ok(()), |fault| Err(io::Error::from(*fault)))
        };
        let bound = once_there("cluster", address, &supervisor, Duration::ZERO, bind).await;
        (bound.map_err(|error| error.kind()), tries.get())
    }

    #[tokio::test]
    async fn an_address_that_comes_late_is_waited_for_and_no_other_fault_is() {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable};
        assert_eq!(bound_after(&[]).await, (Ok(()), 1));
        assert_eq!(bound_after(&[AddrNotAvailable; 3]).await, (Ok(()), 4));
        assert_eq!(bound_after(&[AddrInUse]).await, (Err(AddrInUse), 1));
        assert_eq!(bound_after(&[AddrNotAvailable, AddrInUse]).await, (Err(AddrInUse), 2));
    }

    #[tokio::test]
    async fn strangers_that_connect_and_say_nothing_keep_no_node_from_elsewhere_out() {
        let (node, now) = (NodeId::new(1), SystemTime::now());
        let authority = Authority::create(&pki::new_cluster_id(), now).expect("a CA");
        let key = Key::generate().expect("a key");
        let credentials = authority.issue_node(node, &key, now).expect("credentials");
        let cluster_id = authority.cluster_id().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let acceptor = TlsAcceptor::from(Arc::new(pki::node_server(&credentials).expect("TLS")));
        let (ready, mut connections) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, acceptor, cluster_id.clone(), ready, stop.clone()));

        let mut silent = Vec::new();
        for _ in 0..HANDSHAKES_MAX {
            silent.push(connect(2, address).await);
        }
        let connector = TlsConnector::from(Arc::new(pki::node_client(&credentials).expect("TLS")));
        let stream = connect(3, address).await;
        let connecting = connector.connect(pki::server_name(&cluster_id, Some(node)), stream);
        let (connected, taken_in) = tokio::join!(connecting, connections.recv());
        connected.expect("a handshake");
        assert_eq!(taken_in.expect("a connection").peer, PeerNode(node));
        assert_eq!(silent[0].read(&mut [0]).await.expect("an end"), 0, "its turn was the oldest");
        let newest = silent.last().expect("one of them").try_read(&mut [0]);
        assert_eq!(newest.expect_err("it says nothing").kind(), io::ErrorKind::WouldBlock, "the others wait on");
        stop.cancel();
        accepting.await.expect("no panic");
    }
}
