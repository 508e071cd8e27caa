//! The node's own sockets, bound before anything else starts, so that a port in use is an error at
//! the start and not a surprise later; and the node-to-node listener.

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
    serve::{Place, Places},
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
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tracing::{debug, info};

use crate::{bootstrap::Bootstrap, refusals::Refusals};

/// A handshake takes two round trips; this leaves room for lost packets.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes and fresh connections that wait for their turn; more wait in the kernel.
const BACKLOG: usize = 64;
/// Handshakes at once: more than any cluster has nodes, and far fewer than a process has descriptors.
const HANDSHAKES_MAX: usize = 64;

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
    /// Binds all of them.
    ///
    /// # Errors
    /// Names the key in `ballastd.toml`, the address and the cause.
    pub async fn bind(bootstrap: &Bootstrap) -> Result<Self> {
        let metrics = match bootstrap.listen.metrics {
            Some(address) => Some(listen("metrics", address).await?),
            None => None,
        };
        Ok(Self {
            cluster: listen("cluster", bootstrap.listen.cluster).await?,
            leases: UdpSocket::bind(bootstrap.listen.cluster)
                .map_err(|error| explain("cluster", "UDP", bootstrap.listen.cluster, error))?,
            admin: listen("admin", bootstrap.listen.admin).await?,
            unix: listen_unix(&bootstrap.socket())?,
            metrics,
        })
    }
}

async fn listen(key: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| explain(key, "TCP", address, error))
}

fn explain(key: &str, protocol: &str, address: SocketAddr, error: io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "the address is already in use; stop whoever has it, or change",
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address; change",
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
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let places = Arc::new(Places::new(CONNECTIONS_MAX));
    let refusals = Arc::new(Mutex::new(Refusals::default()));
    loop {
        // Never closed, so a turn is always had in the end.
        let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else { return };
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
        let (acceptor, cluster_id, ready, stop) = (acceptor.clone(), cluster_id.clone(), ready.clone(), stop.clone());
        let (places, refusals) = (Arc::clone(&places), Arc::clone(&refusals));
        tokio::spawn(async move {
            let _turn = turn;
            let handshake = async {
                match timeout(HANDSHAKE_TIMEOUT, handshake(stream, &acceptor, &cluster_id, &places)).await {
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
    acceptor: &TlsAcceptor,
    cluster_id: &str,
    places: &Places<NodeId>,
) -> Result<NodeConnection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
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
