//! What follows a 101: bytes both ways until both directions have ended or nothing moves any more.
//!
//! Not here: whether a tunnel may be ([`super::exchange`]).

use std::{future::poll_fn, pin::Pin, task::Poll};

use tokio::{io::AsyncWrite, net::TcpStream};

use super::{client::Client, ending::Ending, flow::Flow, request::Framing};
use crate::buf::Buf;

/// Carries bytes between `client` and `backend`, as long as this node may. `down` begins with what is to be written to the client.
/// Returns how it ended and the bytes moved towards backend and client.
pub async fn run(
    client: &mut Client,
    backend: &mut TcpStream,
    mut early: Buf,
    mut down: Flow,
    idle_ms: u64,
) -> (Ending, u64, u64) {
    let mut up = Flow::new(Framing::Close, Framing::Close, 0);
    let worker = client.worker().clone();
    let (mut up_shut, mut down_shut) = (false, false);
    let mut seen = 0;
    client.timer.arm(idle_ms);
    let ending = poll_fn(|cx| {
        let Client { stream, buf, timer, held, .. } = &mut *client;
        // A failed connection ends both directions: there is nobody left to tell.
        if !up_shut {
            match up.poll(cx, stream, buf, backend, &worker.pool) {
                Poll::Ready(Ok(())) => match Pin::new(&mut *backend).poll_shutdown(cx) {
                    Poll::Ready(_) => up_shut = true,
                    Poll::Pending => {}
                },
                Poll::Ready(Err(_)) => return Poll::Ready(Ending::TunnelClosed),
                Poll::Pending => {}
            }
        }
        if !down_shut {
            match down.poll(cx, backend, &mut early, stream, &worker.pool) {
                Poll::Ready(Ok(())) => match Pin::new(&mut *stream).poll_shutdown(cx) {
                    Poll::Ready(_) => down_shut = true,
                    Poll::Pending => {}
                },
                Poll::Ready(Err(_)) => return Poll::Ready(Ending::TunnelClosed),
                Poll::Pending => {}
            }
        }
        if up_shut && down_shut {
            return Poll::Ready(Ending::TunnelClosed);
        }
        if let Some(cut) = held.cut() {
            return Poll::Ready(cut);
        }
        let moved = up.received + up.written + down.received + down.written;
        if moved != seen {
            seen = moved;
            timer.arm(idle_ms);
        }
        if timer.is_over() { Poll::Ready(Ending::TunnelIdle) } else { Poll::Pending }
    })
    .await;
    client.timer.disarm();
    worker.pool.discard(&mut early);
    worker.pool.discard(&mut up.pending);
    worker.pool.discard(&mut down.pending);
    (ending, up.received, down.written)
}
