//! A connection to the admin API whose handshake went well.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{sleep, timeout},
};
use tonic::transport::server::Connected;

use super::{places::Place, turns::Turn};
use crate::access::Connection;

/// A certificate's fingerprint.
pub(super) type Holder = [u8; 32];

/// A connection that knows who is at its other end.
pub(super) struct Accepted<IO> {
    io: IO,
    connection: Connection,
    /// When it breaks; `None` for never.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: Option<Place<Holder>>,
}

impl<IO> Accepted<IO> {
    /// A connection that lasts as long as both sides like, in the place that it took, if it needed one.
    pub(super) fn new(io: IO, connection: Connection, place: Option<Place<Holder>>) -> Self {
        Self { io, connection, end: None, _place: place }
    }

    /// Breaks it after `life`, whatever happens on it.
    pub(super) fn ending_after(self, life: Duration) -> Self {
        Self { end: Some(Box::pin(sleep(life))), ..self }
    }

    /// Breaks it after `life`, or when another needs its turn.
    pub(super) fn in_turn(self, turn: Turn, life: Duration) -> Self {
        let end = async move { _ = timeout(life, turn.lost()).await };
        Self { end: Some(Box::pin(end)), ..self }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection has lasted as long as it may, or gave way to another",
            ));
        }
        Ok(())
    }
}

impl<IO> Connected for Accepted<IO> {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Accepted<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Accepted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::{super::turns::Turns, *};
    use crate::access::Peer;

    fn connection() -> Connection {
        Connection { peer: Peer::Nobody, certificate: None, remote: None }
    }

    #[tokio::test]
    async fn a_connection_whose_time_is_over_breaks_for_reading_and_for_writing() {
        let (_client, server) = duplex(1);
        let mut accepted = Accepted::new(server, connection(), None).ending_after(Duration::from_millis(1));
        // Nothing ever arrives, and nobody reads: both wait for the end alone.
        let error = accepted.read_u8().await.expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = accepted.write_all(b"two").await.expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (_client, server) = duplex(1);
        let mut accepted = Accepted::new(server, connection(), None).ending_after(Duration::from_millis(1));
        let error = accepted.write_all(b"two").await.expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_breaks_when_another_needs_its_turn() {
        const LONG: Duration = Duration::from_secs(3600);
        let turns = Turns::new(1);
        let in_turn = |io| Accepted::new(io, connection(), None).in_turn(turns.take([192, 0, 2, 1].into()), LONG);
        let (mut client, server) = duplex(8);
        let mut first = in_turn(server);
        client.write_all(b"x").await.expect("written");
        assert_eq!(first.read_u8().await.expect("read"), b'x');
        let (_other, server) = duplex(8);
        let _second = in_turn(server);
        assert_eq!(first.read_u8().await.expect_err("broken").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn without_an_end_a_connection_is_what_it_carries() {
        let (mut client, server) = duplex(8);
        let mut accepted = Accepted::new(server, connection(), None);
        client.write_all(b"x").await.expect("written");
        assert_eq!(accepted.read_u8().await.expect("read"), b'x');
        accepted.write_all(b"y").await.expect("written");
        assert_eq!(client.read_u8().await.expect("read"), b'y');
    }
}
