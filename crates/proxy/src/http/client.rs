//! A client's connection: one task, requests one after the other.
//!
//! Between requests it holds a socket and a slot for its deadline, and no buffer. Pipelined requests
//! wait in the buffer and are answered in order, because the next is not looked at before.
//!
//! Not here: a single request ([`super::exchange`]).

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::ids::BackendId;
use socket2::SockRef;
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
};

use super::{
    ending::{self, Answer, Ending},
    exchange::{self, After},
    fault::Fault,
    field::{self, HeadScan},
    request,
};
use crate::{
    backend::{Link, Look, Own},
    buf::Buf,
    live::Farm,
    ticks::{Elapsed, TICK, Timer},
    worker::{Held, Listener, Worker},
};

/// A connection that is closed early is read from, so that the client sees the answer and not a reset caused by
/// bytes nobody read (RFC 9112 section 9.6): for so long after the last byte, as nginx does.
const LINGER_SILENCE_MS: u64 = 5000;
/// For so long in all, as nginx does.
const LINGER_MS: u64 = 30_000;
/// And so much: arbitrary, and more than most uploads that are refused.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How much is read of who is refused before a word was heard. Arbitrary, and harmless: it is read in one go.
const REFUSED_BYTES_MAX: usize = 256 * 1024;
/// A read adds at least this to a head's buffer when it has to grow.
const GROWTH: usize = 4096;

/// A client's connection.
pub struct Client {
    /// Its socket.
    pub stream: TcpStream,
    /// Bytes read and not used.
    pub buf: Buf,
    /// Whoever opened it.
    pub peer: SocketAddr,
    /// Its deadline.
    pub timer: Timer,
    /// Requests so far.
    pub requests: u32,
    /// When the first byte of the current request was read, in nanoseconds.
    pub began_ns: u64,
    /// The connection to a backend on which nobody else's requests may be sent, once there is one.
    pub own: Option<Own>,
    /// Its place among what is served.
    pub held: Held,
}

/// What comes next on a connection.
enum Next {
    /// A whole head of this length is in the buffer.
    Head(usize),
    /// It ended, or was closed for good reason; nothing is to be said.
    Closed,
    /// It cannot go on.
    Bad(Ending),
}

/// Serves a client's connection to its end.
pub async fn serve(held: Held, stream: TcpStream, peer: SocketAddr) {
    let timer = poll_fn(|cx| Poll::Ready(held.worker.ticks.timer(cx.waker().clone()))).await;
    let mut client = Client { stream, buf: Buf::default(), peer, timer, requests: 0, began_ns: 0, own: None, held };
    loop {
        // A listener whose farm is gone is closed soon after; until then nothing new is served.
        let Some(farm) = client.worker().farm(client.listener().identity.farm) else { break };
        let after = match client.next_head(&farm).await {
            Next::Head(length) => {
                // A plan may have come while the connection was idle.
                let Some(farm) = client.worker().farm(client.listener().identity.farm) else { break };
                exchange::run(&mut client, farm, length).await
            }
            Next::Closed => break,
            Next::Bad(ending) => exchange::reject(&mut client, &farm, ending).await,
        };
        match after {
            After::Keep => {}
            After::Close => break,
            After::Linger => {
                client.linger().await;
                break;
            }
            After::Reset => {
                client.reset();
                break;
            }
        }
    }
    let worker = client.held.worker.clone();
    worker.pool.discard(&mut client.buf);
}

/// Tells a client that it is one too many, without a buffer or a word from it.
pub fn refuse(held: Held, stream: TcpStream, why: Ending) {
    let mut out = Vec::with_capacity(256);
    let date = held.worker.wall.date();
    let body: &[u8] = if matches!(why, Ending::LimitSource) {
        b"too many connections from your address\n"
    } else {
        b"too many connections\n"
    };
    ending::write_answer(
        &mut out,
        &Answer {
            status: why.status(),
            content_type: b"text/plain; charset=utf-8",
            body,
            ending: why,
            close: true,
            head_only: false,
            date: &date,
        },
    );
    // A new connection's send buffer has room for it. What the client sends meanwhile is read and
    // dropped for a moment, so that it gets to see the answer.
    if stream.try_write(&out).is_ok() {
        let _ = SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
        drop_what_came(|scrap| stream.try_read(scrap));
    }
}

/// Reads until nothing is there. Whoever sends as fast as it is read does not keep the worker.
fn drop_what_came(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) {
    let mut scrap = [0u8; 512];
    let mut left = REFUSED_BYTES_MAX;
    while let Ok(count @ 1..) = read(&mut scrap)
        && count < left
    {
        left -= count;
    }
}

impl Client {
    /// Who serves it.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.held.worker
    }

    /// Where it came in.
    pub fn listener(&self) -> &Rc<Listener> {
        &self.held.listener
    }

    /// Whether the connection must end after what it is doing.
    pub fn must_end(&self) -> bool {
        let worker = &self.held.worker;
        self.held.listener.is_ending() || worker.draining.get() || worker.live().plan.draining
    }

    /// Its own connection to a backend, if it has one there that is still open.
    pub fn take_own(&mut self, backend: BackendId, look: Look) -> Option<Link> {
        self.own.take_if(|own| own.backend() == Some(backend))?.take(look)
    }

    async fn next_head(&mut self, farm: &Farm) -> Next {
        let timeouts = &farm.plan.timeouts;
        let mut scan = HeadScan::default();
        let (mut line_checked, mut blank_skipped) = (false, false);
        let mut begun = !self.buf.is_empty();
        if begun {
            self.began_ns = boot_now().get();
        }
        let idle_since_ms = self.timer.now_ms();
        let idle = if self.requests == 0 { timeouts.client_header } else { timeouts.client_idle };
        let grace = if self.worker().draining.get() { self.worker().shared.idle_grace_ms } else { u64::MAX };
        let idle_until_ms = self.timer.after(idle.as_millis().min(grace));
        self.timer.arm_at(if begun { self.timer.after(timeouts.client_header.as_millis()) } else { idle_until_ms });
        loop {
            if !self.buf.is_empty() {
                // RFC 9112 section 2.2: one empty line before a request is ignored; more are not.
                if !blank_skipped && self.buf.bytes().starts_with(b"\r\n") {
                    self.buf.consume(2);
                    blank_skipped = true;
                    if self.buf.is_empty() {
                        // It belongs to the body before, after which some clients send one. No request has begun, and the
                        // connection may be idle for no longer than without it.
                        begun = false;
                        self.timer.arm_at(idle_until_ms);
                    }
                    continue;
                }
                match self.look(&mut scan, &mut line_checked, blank_skipped, farm) {
                    Ok(Some(length)) => {
                        self.timer.disarm();
                        return Next::Head(length);
                    }
                    Ok(None) => {}
                    Err(fault) => return Next::Bad(Ending::Request(fault)),
                }
            }
            match self.read(idle_since_ms).await {
                Ok(Ok(0)) => return Next::Closed,
                Ok(Ok(count)) => {
                    self.listener().counters.bytes_in_total.add(count as u64);
                    if !begun {
                        begun = true;
                        self.began_ns = boot_now().get();
                        self.timer.arm(timeouts.client_header.as_millis());
                    }
                }
                Ok(Err(_)) => return Next::Closed,
                // A client that began and was too slow is told; one that was idle is not.
                Err(Elapsed) if begun && !self.timer_ignored() => return Next::Bad(Ending::ClientHeadTimeout),
                Err(Elapsed) => return Next::Closed,
            }
        }
    }

    /// Looks for a whole head in the buffer; what is no HTTP is found out as early as can be.
    fn look(
        &self,
        scan: &mut HeadScan,
        line_checked: &mut bool,
        blank_skipped: bool,
        farm: &Farm,
    ) -> Result<Option<usize>, Fault> {
        let bytes = self.buf.bytes();
        if !field::is_token_byte(bytes[0]) && (bytes[0] != b'\r' || blank_skipped || bytes.len() > 1) {
            return Err(if bytes[0] == b'\n' { Fault::BareLf } else { Fault::Method });
        }
        if bytes[0] == b'\r' {
            return Ok(None);
        }
        let found = scan.find_end(bytes)?;
        if found.unwrap_or(bytes.len()) > farm.head_bytes_max {
            // The line is too long if it alone fills the room of a head.
            request::check_request_line(bytes, &farm.head_limits).map_err(|fault| match fault {
                Fault::StartLine => Fault::TargetTooLong,
                fault => fault,
            })?;
            return Err(Fault::HeadTooLarge);
        }
        if found.is_none() && scan.has_line() && !*line_checked {
            request::check_request_line(bytes, &farm.head_limits)?;
            *line_checked = true;
        }
        // Method, spaces and version take less than 64 bytes.
        if !scan.has_line() && bytes.len() > farm.head_limits.target_bytes_max + 64 {
            return Err(Fault::TargetTooLong);
        }
        Ok(found)
    }

    /// True when the wait ended because the connection must, not because time is up.
    fn timer_ignored(&self) -> bool {
        !self.timer.is_over()
    }

    /// Reads what is there. Holds no buffer while it waits, unless there are bytes in it.
    async fn read(&mut self, idle_since_ms: u64) -> Result<io::Result<usize>, Elapsed> {
        let Self { stream, buf, timer, held, .. } = self;
        poll_fn(|cx| {
            held.worker.pool.lend_small(buf);
            buf.make_room(1);
            if buf.len() >= crate::buf::SMALL {
                buf.make_room(GROWTH);
            }
            match buf.poll_fill(cx, stream, usize::MAX) {
                Poll::Ready(result) => Poll::Ready(Ok(result)),
                Poll::Pending => {
                    held.worker.pool.reclaim(buf);
                    let ends = buf.is_empty() && held.ends_idle(idle_since_ms);
                    if ends || timer.is_over() { Poll::Ready(Err(Elapsed)) } else { Poll::Pending }
                }
            }
        })
        .await
    }

    /// Waits for `future`, and drops it when the client breaks the connection off first. Polled before the
    /// connection is looked at, so that what is ready at once costs nothing.
    ///
    /// A client that ends its own direction only (FIN) still waits for its answer and is not gone: the same as
    /// HAProxy without `option abortonclose`. Nothing is read, so a pipelined request stays where it is, and
    /// no system call is made: the runtime is told of a reset by the event it waits for anyway.
    ///
    /// # Errors
    /// [`Ending::ClientClosed`], or why everything is to be cut off.
    pub async fn unless_gone<F: Future>(&self, future: F) -> Result<F::Output, Ending> {
        let mut future = pin!(future);
        let mut reset = pin!(self.stream.ready(Interest::ERROR));
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if let Some(cut) = self.held.cut() {
                return Poll::Ready(Err(cut));
            }
            reset.as_mut().poll(cx).map(|_| Err(Ending::ClientClosed))
        })
        .await
    }

    /// Writes all of `out`, within `limit_ms`.
    pub async fn write(&mut self, out: &mut Buf, limit_ms: u64) -> Result<(), Ending> {
        let stream = &mut self.stream;
        let total = out.len();
        let result = self.timer.limit(limit_ms, poll_fn(|cx| out.poll_drain(cx, stream))).await;
        self.listener().counters.bytes_out_total.add((total - out.len()) as u64);
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ending::ClientClosed),
            Err(Elapsed) => Err(Ending::ClientStalled),
        }
    }

    /// Ends our direction and lets the client read what was said.
    async fn linger(&mut self) {
        let worker = self.worker().clone();
        worker.pool.discard(&mut self.buf);
        let stream = &mut self.stream;
        let shut = poll_fn(|cx| Pin::new(&mut *stream).poll_shutdown(cx)).await;
        if shut.is_err() {
            return;
        }
        let Self { stream, buf: scrap, timer, held, .. } = self;
        let mut patience = Patience::new(timer.now_ms());
        // Whether it ends by the client, by a bound or by time makes no difference.
        poll_fn(|cx| {
            loop {
                worker.pool.lend_small(scrap);
                let read = scrap.poll_fill(cx, stream, usize::MAX);
                worker.pool.discard(scrap);
                match read {
                    Poll::Ready(Ok(count @ 1..)) if patience.took(count, timer.now_ms()) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            let ends_ms = patience.ends_ms(worker.draining.get().then_some(worker.shared.idle_grace_ms));
            if held.cut().is_some() || timer.now_ms() >= ends_ms {
                return Poll::Ready(());
            }
            timer.arm_at(ends_ms);
            Poll::Pending
        })
        .await;
        self.timer.disarm();
    }

    /// Breaks the connection off, so that an incomplete response cannot be taken for a complete one.
    fn reset(&mut self) {
        // If it fails the socket is gone already.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// How long, and for how much, a client that is lingered for is read from.
struct Patience {
    began_ms: u64,
    heard_ms: u64,
    left: usize,
}

impl Patience {
    fn new(now_ms: u64) -> Self {
        Self { began_ms: now_ms, heard_ms: now_ms, left: LINGER_BYTES_MAX }
    }

    /// So many bytes came. False when no more are to be taken.
    fn took(&mut self, count: usize, now_ms: u64) -> bool {
        self.heard_ms = now_ms;
        self.left = self.left.saturating_sub(count);
        self.left > 0 && now_ms < self.began_ms.saturating_add(LINGER_MS)
    }

    /// When it ends if nothing more comes. A drain waits only so long, `grace_ms`, for who says nothing. The clock may be a
    /// tick behind.
    fn ends_ms(&self, grace_ms: Option<u64>) -> u64 {
        let silence_ms = LINGER_SILENCE_MS.min(grace_ms.unwrap_or(u64::MAX)) + TICK.as_millis() as u64;
        self.heard_ms.saturating_add(silence_ms).min(self.began_ms.saturating_add(LINGER_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_lingered_for_while_it_sends_and_for_no_longer_than_so_long_and_so_much() {
        let mut patience = Patience::new(1000);
        assert_eq!(patience.ends_ms(None), 6100);
        assert_eq!(patience.ends_ms(Some(1000)), 2100, "a drain");
        assert!(patience.took(5 << 20, 5000));
        assert_eq!((patience.ends_ms(None), patience.ends_ms(Some(1000))), (10_100, 6100));
        assert!(patience.took(1, 29_000));
        assert_eq!(patience.ends_ms(None), 31_000);
        assert!(!patience.took(1, 31_000));
        assert!(!Patience::new(0).took(LINGER_BYTES_MAX, 0));
    }

    fn size_of_future<F: std::future::Future>(_: impl FnOnce(Held, TcpStream, SocketAddr) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn who_is_refused_and_goes_on_sending_is_read_from_only_so_long() {
        let mut taken = 0;
        drop_what_came(|scrap| {
            taken += scrap.len();
            Ok(scrap.len())
        });
        assert_eq!(taken, REFUSED_BYTES_MAX);
        let mut pieces = [10, 20, 0].into_iter();
        drop_what_came(|_| pieces.next().ok_or_else(|| io::ErrorKind::WouldBlock.into()));
        assert_eq!(pieces.next(), None);
    }

    /// What an idle connection takes besides its socket: the whole task is allocated once, at its largest.
    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of_future(serve);
        assert!(size < 6 * 1024, "{size}");
    }
}
