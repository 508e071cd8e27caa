//! Connections between simulated nodes: turmoil's, with a word to the trace for every byte.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ballast_core::{cluster::BoxFuture, ids::NodeId};
use ballast_raft::{Connect, Connection, PeerNode};
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{Request, transport::server::Connected};
use turmoil::net::{TcpListener, TcpStream};

use crate::{
    clock,
    trace::{self, happened},
    watch::Seen,
};

/// The port of every node.
pub const PORT: u16 = 7000;

/// Connects from one node to others.
pub struct SimConnect {
    /// Number of the node that connects.
    from: usize,
    /// Told when it does so without end.
    seen: Arc<Mutex<Seen>>,
    /// When it connected last, and how often at that instant.
    lately: Mutex<(Duration, u32)>,
}

/// Connects of one node in one instant that nobody needs. Who tries again and again without a pause stops all time here, and
/// burns a core elsewhere.
const CONNECTS_MAX: u32 = 200;

impl SimConnect {
    /// Connects from this node.
    pub fn new(from: usize, seen: Arc<Mutex<Seen>>) -> Self {
        Self { from, seen, lately: Mutex::default() }
    }

    fn is_frantic(&self) -> bool {
        let mut lately = self.lately.lock();
        let now = clock::elapsed();
        *lately = if lately.0 == now { (now, lately.1 + 1) } else { (now, 1) };
        if lately.1 == CONNECTS_MAX {
            self.seen.lock().wrong(format!("n{} connects without a pause", self.from));
        }
        lately.1 >= CONNECTS_MAX
    }
}

impl Connect for SimConnect {
    fn connect(&self, _node: NodeId, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let (from, frantic) = (self.from, self.is_frantic());
        Box::pin(async move {
            if frantic {
                std::future::pending::<()>().await;
            }
            let host = address.split(':').next().unwrap_or_default().to_owned();
            let connected = TcpStream::connect((host.clone(), PORT)).await;
            happened!("n{from} connects to {host}: {:?}", connected.as_ref().err().map(io::Error::kind));
            let stream = connected?;
            Ok(Box::new(Wire { from, stream }) as Box<dyn Connection>)
        })
    }
}

/// The connections that come to a listener.
pub fn incoming(number: usize, listener: TcpListener) -> impl Stream<Item = io::Result<Wire>> {
    stream::unfold(listener, move |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Wire { from: number, stream });
        Some((accepted, listener))
    })
}

/// Takes callers for the nodes that they say they are: there are no certificates here that would prove it.
///
/// # Errors
/// When a caller does not say it.
pub fn believe(mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
    let from = request.metadata().get("ballast-from").and_then(|from| from.to_str().ok()?.parse().ok());
    let from = from.ok_or_else(|| tonic::Status::invalid_argument("the caller does not say which node it is"))?;
    request.extensions_mut().insert(PeerNode(NodeId::new(from)));
    Ok(request)
}

/// One end of a connection.
pub struct Wire {
    from: usize,
    stream: TcpStream,
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            trace::sent(self.from, &bytes[..*count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
