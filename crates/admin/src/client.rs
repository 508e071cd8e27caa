//! Reaching a node's admin API: over TLS as a person, a peer or a machine that joins, or over the
//! unix socket.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};

use ballast_core::ids::NodeId;
use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::pki::server_name;

/// How long a connection may take to be made. A node on the same network answers in a few
/// milliseconds; this leaves room for three lost SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that is idle is asked for a sign of life this often, so that a watch on a node
/// that lost its power ends instead of waiting for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where an admin API answers and how it is spoken to.
#[derive(Clone)]
pub enum Target {
    /// On this machine.
    Unix(PathBuf),
    /// Over TLS.
    Tls {
        /// `host:port`.
        address: String,
        /// See [`crate::pki`] for the ones there are.
        config: Arc<ClientConfig>,
        /// What the node's certificate must say, see [`server_name`].
        name: ServerName<'static>,
    },
}

impl Target {
    /// A channel that connects when it is first used, and again when it must.
    pub fn channel(&self) -> Channel {
        endpoint().connect_with_connector_lazy(service_fn(self.dial()))
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// When the connection cannot be made; the chain of causes says which part failed.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        endpoint().connect_with_connector(service_fn(self.dial())).await
    }

    fn dial(
        &self,
    ) -> impl FnMut(Uri) -> futures_util::future::BoxFuture<'static, io::Result<TokioIo<Io>>> + Send + 'static {
        let target = self.clone();
        move |_| {
            let target = target.clone();
            Box::pin(async move { target.open().await.map(TokioIo::new) })
        }
    }

    async fn open(self) -> io::Result<Io> {
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tls { address, config, name } => open_tls(&address, config, name).await,
        }
    }
}

async fn open_tls(address: &str, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Io> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// Any byte stream.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}
type Io = Box<dyn Stream>;

fn endpoint() -> Endpoint {
    // The address is the connector's; this one only fills the `:authority` of requests.
    Endpoint::from_static("http://ballast")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

/// Channels to the other nodes, kept open between calls.
pub struct Peers {
    cluster_id: String,
    tls: Arc<ClientConfig>,
    channels: Mutex<HashMap<NodeId, (String, Channel)>>,
}

impl Peers {
    /// Speaks to the nodes of a cluster with the node's own credentials.
    pub fn new(cluster_id: impl Into<String>, tls: Arc<ClientConfig>) -> Self {
        Self { cluster_id: cluster_id.into(), tls, channels: Mutex::new(HashMap::new()) }
    }

    /// The channel to a node. It connects when it is used.
    pub fn channel(&self, node: NodeId, address: &str) -> Channel {
        let mut channels = self.channels.lock();
        if let Some((known, channel)) = channels.get(&node)
            && known == address
        {
            return channel.clone();
        }
        let (tls, name, dialled) = (self.tls.clone(), server_name(&self.cluster_id, Some(node)), address.to_owned());
        let channel = endpoint().connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (config, name, address) = (tls.clone(), name.clone(), dialled.clone());
            async move { open_tls(&address, config, name).await.map(TokioIo::new) }
        }));
        channels.insert(node, (address.to_owned(), channel.clone()));
        channel
    }

    /// Forgets nodes that are no longer members.
    pub fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.channels.lock().retain(|node, _| is_member(*node));
    }
}
