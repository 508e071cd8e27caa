//! Listening: TLS over TCP, and the unix socket.
//!
//! Handshakes run beside each other, and each has a deadline and a turn ([`Turns`]), so clients that
//! connect and say nothing keep nobody out. Connections of those who show a certificate have places ([`Places`]);
//! the others, which only enrol, take turns as well.
//!
//! Not here: who may call what ([`crate::access`]), what the calls do ([`crate::services`]).

mod accepted;
mod places;
mod turns;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

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
pub use self::{
    places::{NoPlace, Place, Places},
    turns::{Turn, TurnLost, Turns},
};
use crate::{
    access::{AccessLayer, Certificate, Connection, DEADLINE_MAX, Peer},
    pki::{Identity, identity_of, steady_now},
    refusals::Refusals,
};

/// A handshake takes two round trips; this leaves room for lost packets on a bad line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at once over TLS. Arbitrary: several seconds of CPU time.
pub(crate) const HANDSHAKES_MAX: usize = 256;

/// Connections over TLS at once. Each costs a descriptor, of which a process often has 1024, and the farms need theirs.
const CONNECTIONS_MAX: usize = 512;

/// Connections at once that show the same certificate: far more than one person or node needs, and few enough that one
/// certificate, which may have been revoked, does not keep the others out.
const CONNECTIONS_EACH_MAX: usize = 64;

/// Connections at once that show none. They are of machines that enrol, one call each; the rest are strangers, and one more ends
/// the oldest of those from where the most come.
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
    let (listener, turns) = (Arc::new(listener), Arc::new(Turns::new(HANDSHAKES_MAX)));
    let strangers = Arc::new(Turns::new(STRANGERS_MAX));
    let places = Arc::new(Places::new(CONNECTIONS_MAX));
    let accept = move || {
        let (listener, turns, tls) = (listener.clone(), turns.clone(), tls.clone());
        let (cluster_id, places, strangers) = (cluster_id.clone(), places.clone(), strangers.clone());
        async move {
            let (stream, remote) = listener.accept().await?;
            let turn = turns.take(remote.ip());
            let handshake = async move {
                stream.set_nodelay(true)?;
                let accepting = TlsAcceptor::from(tls).accept(stream);
                let stream = turn.during(accepting).await.map_err(io::Error::other)??;
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = match shown {
                    Some(shown) => Peer::Certified(identity_of(shown, &cluster_id).map_err(io::Error::other)?),
                    None => Peer::Nobody,
                };
                let certificate = shown.map(Certificate::of).transpose().map_err(io::Error::other)?;
                let connection = Connection { peer, certificate, remote: Some(remote) };
                let Some(certificate) = certificate else {
                    let turn = strangers.take(remote.ip());
                    return Ok(Accepted::new(stream, connection, None).in_turn(turn, STRANGER_LIFE));
                };
                let place = places.take(certificate.fingerprint, CONNECTIONS_EACH_MAX).map_err(io::Error::other)?;
                let life = life(&connection, steady_now());
                let accepted = Accepted::new(stream, connection, Some(place));
                Ok(match life {
                    Some(life) => accepted.ending_after(life),
                    None => accepted,
                })
            };
            Ok((Some(remote), handshake))
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
            let handshake = async move {
                let user = stream.peer_cred()?.uid();
                let own = own_user()?;
                if user != 0 && user != own {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {user} is not root")));
                }
                // Root is not counted: it could end the process just as well.
                Ok(Accepted::new(stream, Connection { peer: Peer::Root, certificate: None, remote: None }, None))
            };
            Ok((None, handshake))
        }
    };
    serve(routes, access, incoming(accept), stop)
        .await
        .map_err(|source| ServeError { address: "the unix socket".to_owned(), source })
}

/// How long a connection of one who shows a certificate may last. That of a person or program lasts until the calls are over that were begun while the
/// certificate was good, which also ends streams that look at nothing. One of a node lasts as long as both sides like.
fn life(connection: &Connection, now: SystemTime) -> Option<Duration> {
    match (&connection.peer, connection.certificate) {
        (Peer::Certified(Identity::User { .. }), Some(certificate)) => {
            Some(certificate.not_after.duration_since(now).unwrap_or_default() + DEADLINE_MAX)
        }
        (Peer::Certified(_) | Peer::Root | Peer::Nobody, _) => None,
    }
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

/// A handshake's end, and with whom it was; `None` over the unix socket.
type Ended<IO> = (Option<SocketAddr>, io::Result<IO>);

/// The connections whose handshake went well, of those that are accepted, and from where.
fn incoming<A, AF, H, IO>(accept: A) -> impl Stream<Item = io::Result<IO>>
where
    A: Fn() -> AF + Send + 'static,
    AF: Future<Output = io::Result<(Option<SocketAddr>, H)>> + Send,
    H: Future<Output = io::Result<IO>> + Send + 'static,
    IO: Send + 'static,
{
    let handshakes: FuturesUnordered<BoxFuture<'static, Ended<IO>>> = FuturesUnordered::new();
    let state = (accept, handshakes, Refusals::default());
    stream::unfold(state, |(accept, mut handshakes, mut refusals)| async move {
        loop {
            // Accepting is cancel-safe, and a handshake that is not polled on waits in its set.
            tokio::select! {
                // What is over gives its descriptor back before another one is taken.
                biased;
                Some(ended) = handshakes.next(), if !handshakes.is_empty() => match ended {
                    (_, Ok(connection)) => return Some((Ok(connection), (accept, handshakes, refusals))),
                    (remote, Err(error)) => tell(&mut refusals, remote, &error),
                },
                accepted = accept() => match accepted {
                    Ok((remote, handshake)) => {
                        handshakes.push(Box::pin(async move { (remote, bounded(handshake).await) }));
                    }
                    Err(error) => {
                        // Out of file descriptors, mostly: the pause lets others close theirs.
                        tracing::warn!(%error, "cannot accept a connection to the admin API");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    })
}

/// Says that a connection was refused, unless the same was said of that machine a moment ago.
fn tell(refusals: &mut Refusals, remote: Option<SocketAddr>, error: &io::Error) {
    let untold = remote.map_or(Some(0), |remote| refusals.refused(Instant::now(), remote.ip(), &error.to_string()));
    if let Some(untold) = untold {
        let remote = remote.map(tracing::field::display);
        tracing::info!(remote, %error, untold, "a connection to the admin API was refused");
    }
}

async fn bounded<IO>(handshake: impl Future<Output = io::Result<IO>>) -> io::Result<IO> {
    timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use ballast_core::ids::NodeId;

    use super::*;
    use crate::pki::UserRole;

    #[test]
    fn a_persons_connection_ends_after_the_certificate_and_a_nodes_goes_on() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let check = |peer, ends_in: Option<Duration>, wanted: Option<Duration>| {
            let certificate = ends_in.map(|life| Certificate { fingerprint: [7; 32], not_after: now + life });
            assert_eq!(life(&Connection { peer, certificate, remote: None }, now), wanted);
        };
        let eve = Peer::Certified(Identity::User { name: "eve".parse().expect("a name"), role: UserRole::Viewer });
        let day = Duration::from_secs(24 * 3600);
        check(eve.clone(), Some(day), Some(day + DEADLINE_MAX));
        check(eve, Some(Duration::ZERO), Some(DEADLINE_MAX));
        check(Peer::Certified(Identity::Node(NodeId::new(1))), Some(day), None);
        check(Peer::Root, None, None);
    }
}
