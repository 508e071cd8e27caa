//! Listening: TLS over TCP, and the unix socket.
//!
//! Handshakes run beside each other and each has a deadline, so one client that connects and says
//! nothing keeps nobody out. Connections have places ([`Places`]), few of them for those who have no
//! certificate, because they only enrol.
//!
//! Not here: who may call what ([`crate::access`]), what the calls do ([`crate::services`]).

mod accepted;
mod places;

use std::{future::Future, io, sync::Arc, time::Duration};

use ballast_telemetry::trace::TraceLayer;
use futures_util::{
    Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

use self::accepted::Accepted;
pub use self::places::{NoPlace, Place, Places};
use crate::{
    access::{AccessLayer, Connection, Peer},
    pki::{fingerprint_of, identity_of},
};

/// A handshake takes two round trips; this leaves room for lost packets on a bad line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at once. More wait in the listen queue. Arbitrary: several seconds of CPU time.
const HANDSHAKES_MAX: usize = 256;

/// Connections over TLS at once. Each costs a descriptor, of which a process often has 1024, and the farms need theirs.
const CONNECTIONS_MAX: usize = 512;

/// Connections at once that show the same certificate: far more than one person or node needs, and few enough that one
/// certificate, which may have been revoked, does not keep the others out.
const CONNECTIONS_EACH_MAX: usize = 64;

/// Connections at once that show none. They are of machines that enrol, one call each; the rest are strangers.
pub(crate) const STRANGERS_MAX: usize = 32;

/// How long a connection without a certificate lasts. Twice of what a machine that enrols waits for its answer.
const STRANGER_LIFE: Duration = Duration::from_secs(30);

/// How long calls that are under way may take to finish once the server stops. Watches end at once.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A connection is asked for a sign of life this often.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
#[error("the admin API on {address} failed")]
pub struct ServeError {
    address: String,
    #[source]
    source: tonic::transport::Error,
}

/// Serves the admin API over TLS until `stop`, then lets calls that are under way finish.
///
/// `tls` comes from [`crate::pki::admin_server`].
///
/// # Errors
/// [`ServeError`] when HTTP/2 itself cannot be served; a connection that fails is not an error.
pub async fn serve_tls(
    routes: Routes,
    access: AccessLayer,
    listener: TcpListener,
    cluster_id: String,
    tls: Arc<ServerConfig>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_or_else(|_| "TCP".to_owned(), |address| address.to_string());
    let (listener, places) = (Arc::new(listener), Arc::new(Places::new(CONNECTIONS_MAX)));
    let accept = move || {
        let (listener, tls, cluster_id, places) = (listener.clone(), tls.clone(), cluster_id.clone(), places.clone());
        async move {
            let (stream, remote) = listener.accept().await?;
            Ok(async move {
                stream.set_nodelay(true)?;
                let acceptor = TlsAcceptor::from(tls);
                let stream = acceptor.accept(stream).await?;
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = match certificate {
                    Some(certificate) => {
                        Peer::Certified(identity_of(certificate, &cluster_id).map_err(io::Error::other)?)
                    }
                    None => Peer::Nobody,
                };
                let certificate = certificate.map(fingerprint_of).transpose().map_err(io::Error::other)?;
                let max = if certificate.is_some() { CONNECTIONS_EACH_MAX } else { STRANGERS_MAX };
                let place = places.take(certificate, max).map_err(io::Error::other)?;
                let connection = Connection { peer, certificate, remote: Some(remote) };
                let accepted = Accepted::new(stream, connection, Some(place));
                Ok(if certificate.is_some() { accepted } else { accepted.ending_after(STRANGER_LIFE) })
            })
        }
    };
    serve(routes, access, incoming(accept), stop).await.map_err(|source| ServeError { address, source })
}

/// Serves the admin API over the unix socket until `stop`. Only root, and the user that the daemon
/// runs as, come in; they may do everything.
///
/// # Errors
/// As [`serve_tls`].
pub async fn serve_unix(
    routes: Routes,
    access: AccessLayer,
    listener: UnixListener,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let listener = Arc::new(listener);
    let accept = move || {
        let listener = listener.clone();
        async move {
            let (stream, _) = listener.accept().await?;
            Ok(async move {
                let user = stream.peer_cred()?.uid();
                let own = own_user()?;
                if user != 0 && user != own {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {user} is not root")));
                }
                // Root is not counted: it could end the process just as well.
                Ok(Accepted::new(stream, Connection { peer: Peer::Root, certificate: None, remote: None }, None))
            })
        }
    };
    serve(routes, access, incoming(accept), stop)
        .await
        .map_err(|source| ServeError { address: "the unix socket".to_owned(), source })
}

/// The user of this process: the owner of a socket pair that it makes itself, so that no unsafe
/// call is needed.
fn own_user() -> io::Result<u32> {
    Ok(tokio::net::UnixStream::pair()?.0.peer_cred()?.uid())
}

async fn serve<I, IO>(
    routes: Routes,
    access: AccessLayer,
    incoming: I,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(256)
        .layer(TraceLayer::all())
        .layer(access)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::select! {
        ended = server => ended,
        () = async { stop.cancelled().await; sleep(STOP_GRACE).await } => {
            tracing::warn!("calls to the admin API were still under way {STOP_GRACE:?} after it stopped; they are cut off");
            Ok(())
        }
    }
}

/// The connections that were accepted and whose handshake went well.
fn incoming<A, AF, H, IO>(accept: A) -> impl Stream<Item = io::Result<IO>>
where
    A: Fn() -> AF + Send + 'static,
    AF: Future<Output = io::Result<H>> + Send,
    H: Future<Output = io::Result<IO>> + Send + 'static,
    IO: Send + 'static,
{
    let handshakes: FuturesUnordered<BoxFuture<'static, io::Result<IO>>> = FuturesUnordered::new();
    stream::unfold((accept, handshakes), |(accept, mut handshakes)| async move {
        loop {
            // Accepting is cancel-safe, and a handshake that is not polled on waits in its set.
            tokio::select! {
                accepted = accept(), if handshakes.len() < HANDSHAKES_MAX => match accepted {
                    Ok(handshake) => handshakes.push(Box::pin(bounded(handshake))),
                    Err(error) => {
                        // Out of file descriptors, mostly: the pause lets others close theirs.
                        tracing::warn!(%error, "cannot accept a connection to the admin API");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(done) = handshakes.next(), if !handshakes.is_empty() => match done {
                    Ok(connection) => return Some((Ok(connection), (accept, handshakes))),
                    Err(error) => tracing::info!(%error, "a connection to the admin API was refused"),
                },
            }
        }
    })
}

async fn bounded<IO>(handshake: impl Future<Output = io::Result<IO>>) -> io::Result<IO> {
    timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
