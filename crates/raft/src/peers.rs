//! Where the other nodes are, and connections to them.
//!
//! Addresses come from the replicated state, so that a node that moved is found without a change
//! of membership; a node that has no state yet starts from the addresses it was told when it
//! joined. One connection for each kind of traffic: a snapshot on its way, or a burst of entries,
//! must not delay a heartbeat.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use ballast_core::{cluster::BoxFuture, ids::NodeId};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

use crate::{acked::Acknowledged, clocks::Clocks, streams::Streams};

/// A byte stream to another node.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Opens connections to other nodes.
pub trait Connect: Send + Sync + 'static {
    /// Connects to `node`, which is said to be at `address` (`host:port`).
    ///
    /// The connection must prove to be to that node: whoever answers takes part in consensus.
    fn connect(&self, node: NodeId, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// Mutual TLS over TCP.
#[derive(Clone)]
pub struct TlsConnect {
    connector: TlsConnector,
    server_name: Arc<dyn Fn(NodeId) -> ServerName<'static> + Send + Sync>,
}

impl TlsConnect {
    /// Uses this client configuration (roots and own certificate); `server_name` tells the name
    /// that a node's certificate must be for.
    pub fn new(
        config: &rustls::ClientConfig,
        server_name: Arc<dyn Fn(NodeId) -> ServerName<'static> + Send + Sync>,
    ) -> Self {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)), server_name }
    }
}

impl Connect for TlsConnect {
    fn connect(&self, node: NodeId, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let (connector, name) = (self.connector.clone(), (self.server_name)(node));
        Box::pin(async move {
            let stream = connector.connect(name, dial(&address).await?).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

/// Connects. What has not reached the other side when the connection is dropped never does: the kernel would go on for a
/// minute and a half, and deliver a frame after a partition whose callers were told long before that nobody knows.
async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    Ok(stream)
}

/// Addresses by node.
#[derive(Debug, Default)]
pub(crate) struct AddressBook(RwLock<Book>);

#[derive(Debug, Default)]
struct Book {
    /// What the replicated state says.
    agreed: BTreeMap<NodeId, String>,
    /// What was told at the start, and what the state said last; used for nodes that it does not name. One that was removed
    /// may vote still, or lead while another takes its vote.
    told: BTreeMap<NodeId, String>,
}

impl AddressBook {
    pub(crate) fn new(told: BTreeMap<NodeId, String>) -> Self {
        Self(RwLock::new(Book { agreed: BTreeMap::new(), told }))
    }

    pub(crate) fn replace(&self, agreed: impl Iterator<Item = (NodeId, String)>) {
        let mut book = self.0.write();
        let before = std::mem::replace(&mut book.agreed, agreed.collect());
        let Book { agreed, told } = &mut *book;
        told.extend(before.into_iter().filter(|(node, _)| !agreed.contains_key(node)));
    }

    /// Whether there is a state and it does not name `node`.
    pub(crate) fn lacks(&self, node: NodeId) -> bool {
        let book = self.0.read();
        !book.agreed.is_empty() && !book.agreed.contains_key(&node)
    }

    fn find(&self, node: NodeId) -> Option<String> {
        let book = self.0.read();
        book.agreed.get(&node).or_else(|| book.told.get(&node)).cloned()
    }
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Traffic {
    /// Entries of the log.
    Entries,
    /// Heartbeats and votes: small, and late means an election.
    Liveness,
    /// Snapshots.
    Snapshots,
    /// Proposals and confirmations of reads.
    Leader,
}

/// Longest a node may take to accept a connection. On one network this is ages.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection that answers no ping for this long is dead, even if the system has not noticed.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Larger than the largest append: one entry of up to 1 MiB plus what fits beside it, and headers.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Connections to the other nodes, made when first used and again when they break.
pub(crate) struct Peers {
    me: NodeId,
    connect: Arc<dyn Connect>,
    addresses: Arc<AddressBook>,
    pub(crate) clocks: Arc<Clocks>,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) streams: Streams,
    channels: Mutex<HashMap<(NodeId, Traffic), Channel>>,
}

impl Peers {
    pub(crate) fn new(me: NodeId, connect: Arc<dyn Connect>, addresses: Arc<AddressBook>, clocks: Arc<Clocks>) -> Self {
        let (acknowledged, streams) = (Acknowledged::default(), Streams::default());
        Self { me, connect, addresses, clocks, acknowledged, streams, channels: Mutex::default() }
    }

    /// The channel to a node. Must be called on the runtime.
    pub(crate) fn channel(&self, node: NodeId, traffic: Traffic) -> Channel {
        self.channels.lock().entry((node, traffic)).or_insert_with(|| self.open(node)).clone()
    }

    /// A request that says who asks whom, and what time it is here.
    pub(crate) fn request<T>(&self, to: NodeId, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(FROM, number(self.me));
        request.metadata_mut().insert(TO, number(to));
        self.clocks.tell(request.metadata_mut());
        request
    }

    fn open(&self, node: NodeId) -> Channel {
        let (connect, addresses) = (Arc::clone(&self.connect), Arc::clone(&self.addresses));
        let connector = tower::service_fn(move |_: Uri| {
            let (connect, address) = (Arc::clone(&connect), addresses.find(node));
            async move {
                let Some(address) = address else {
                    return Err(io::Error::new(io::ErrorKind::NotFound, format!("no address of node {node} is known")));
                };
                connect.connect(node, address).await.map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://ballast.node")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_with_connector_lazy(connector)
    }
}

pub(crate) const FROM: &str = "ballast-from";
pub(crate) const TO: &str = "ballast-to";

pub(crate) fn number(node: NodeId) -> MetadataValue<Ascii> {
    MetadataValue::from(node.get())
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn what_has_not_left_when_a_connection_is_dropped_never_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = listener.local_addr().expect("bound").to_string();
        let (dialled, accepted) = tokio::join!(dial(&address), listener.accept());
        let (stream, (mut accepted, _)) = (dialled.expect("connected"), accepted.expect("accepted"));
        // More than the other side takes while it does not read.
        stream.writable().await.expect("connected");
        let (block, mut written) = (vec![7; 1 << 16], 0);
        while let Ok(bytes) = stream.try_write(&block) {
            written += bytes;
        }
        drop(stream);
        let mut read = Vec::new();
        let ended = accepted.read_to_end(&mut read).await;
        assert!(ended.is_err() && read.len() < written, "{ended:?} after {} of {written} bytes", read.len());
    }
}
