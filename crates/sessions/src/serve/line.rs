//! Bytes in, bytes out, and how long each may take.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Ending, READ_MIN, Serving};

/// The most room that is made for one read.
const READ_MAX: usize = 256 * 1024;
/// Room for answers that an idle connection may keep.
const WRITE_IDLE: usize = 4096;
/// How long a connection that is over is kept for its last answer.
const PARTING_MAX: Duration = Duration::from_secs(1);
/// When a connection counts as idle for that.
const SOON: Duration = Duration::from_secs(1);
/// Answers leave when there are so many, though commands wait that are not carried out.
const WRITE_SOON: usize = 64 * 1024;

/// A request may take `write_timeout`, and longer if it is large: a client that is slower than a modem is cut.
const SLOWEST_BYTES_PER_MS: usize = 16;

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    /// Sends what is to be sent if it is much.
    pub(super) async fn flush_soon(&mut self) -> Result<(), Ending> {
        if self.out.len() < WRITE_SOON { Ok(()) } else { self.flush().await }
    }

    /// Sends what is to be sent. The client must take some of it every `write_timeout`.
    pub(super) async fn flush(&mut self) -> Result<(), Ending> {
        if self.out.is_empty() { Ok(()) } else { self.send(&[]).await }
    }

    /// Sends what is to be sent and a value after it, with the end of its line.
    pub(super) async fn flush_with(&mut self, value: &[u8]) -> Result<(), Ending> {
        self.send(&[value, b"\r\n"]).await
    }

    async fn send(&mut self, more: &[&[u8]]) -> Result<(), Ending> {
        if self.out.len() >= WRITE_SOON {
            self.weigh();
        }
        let Self { stream, out, deadline, card, policy, held, .. } = self;
        let (mut sent, mut armed) = (0, false);
        let all = out.len() + more.iter().map(|piece| piece.len()).sum::<usize>();
        let timeout = policy.limits.write_timeout;
        let result = poll_fn(|cx| {
            while sent < all {
                match Pin::new(&mut *stream).poll_write(cx, from(sent, out, more)) {
                    Poll::Ready(Ok(written @ 1..)) => {
                        sent += written;
                        armed = false;
                        if sent < all && card.is_ended() {
                            return Poll::Ready(Err(Ending::Told));
                        }
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Ending::Closed)),
                    Poll::Pending if card.is_ended() => return Poll::Ready(Err(Ending::Told)),
                    Poll::Pending if armed && deadline.is_over() => return Poll::Ready(Err(NOT_READING)),
                    Poll::Pending => {
                        if !armed {
                            armed = true;
                            deadline.arm(timeout);
                        }
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await;
        if result.is_ok() {
            // Only TLS may have something left.
            deadline.arm(timeout);
            until(|| deadline.is_over() || card.is_ended(), pin!(stream.flush())).await?;
        }
        held.worker.counters.counters.bytes_out_total.add(sent as u64);
        self.is_half_sent = sent != 0 && sent < all;
        self.out.clear();
        self.out.shrink_to(WRITE_SOON);
        result
    }

    /// Waits for bytes of the client, or mail for it.
    pub(super) async fn wait(&mut self) -> Result<(), Ending> {
        let amid = self.requests.is_amid(&self.buf);
        self.weigh();
        let (left, stranger) = self.time_left(amid);
        // A connection that has grown is looked at once more, to take its room back if it stays idle; one with a
        // certificate again and again, to see whether that is still good.
        let roomy = self.room > READ_MIN || self.out.capacity() > WRITE_IDLE;
        // So is one that should leave and was not served yet.
        let leaves = !amid && self.held.is_ending();
        let looks = (roomy || leaves || self.connection.may_lapse()) && left.is_none_or(|left| left > SOON);
        self.deadline.arm(if looks { SOON } else { left.unwrap_or_default() });
        let mut too_late = false;
        if self.buf.capacity() - self.buf.len() < READ_MIN.min(self.room) {
            self.buf.reserve(self.room.max(self.buf.len().min(READ_MAX)));
        }
        let (is_served, came_ms) = (self.taken > 0, self.card.active_ms.load(Ordering::Relaxed));
        let Self { stream, buf, deadline, card, held, policy, .. } = self;
        let mut read = pin!(stream.read_buf(buf));
        let arrived = poll_fn(|cx| {
            match read.as_mut().poll(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Ending::Closed)),
                Poll::Ready(Ok(arrived)) => return Poll::Ready(Ok(arrived)),
                Poll::Pending => {}
            }
            if card.is_ended() || !amid && held.ends_between(is_served, came_ms) {
                return Poll::Ready(Err(Ending::Told));
            }
            if card.has_mail() || !Rc::ptr_eq(policy, &*held.worker.current_policy()) {
                return Poll::Ready(Ok(0));
            }
            if deadline.is_over() {
                too_late = stranger && !looks;
                let why = match (stranger, amid) {
                    (true, _) => Some("it did not log in in time"),
                    (false, true) => Some("it did not send the rest of a request in time"),
                    // As the document wants it; nobody has to know.
                    (false, false) => None,
                };
                return Poll::Ready(if looks { Ok(0) } else { Err(Ending::Cut(why)) });
            }
            Poll::Pending
        })
        .await;
        if too_late {
            self.say_too_late().await?;
        }
        let arrived = arrived?;
        if arrived == 0 && roomy && self.deadline.is_over() {
            self.room = READ_MIN;
            self.out = Vec::new();
            if !amid {
                self.buf = BytesMut::new();
            }
        }
        if arrived != 0 {
            self.arrived(arrived);
        }
        Ok(())
    }

    /// How much longer the client may send nothing, or take for what it has begun to send; `None` if for ever. Whether that
    /// is because it has not logged in.
    fn time_left(&mut self, amid: bool) -> (Option<Duration>, bool) {
        let now_ms = self.held.worker.deadlines.now_ms();
        if std::mem::take(&mut self.was_busy) {
            self.card.active_ms.store(now_ms, Ordering::Relaxed);
        }
        let limits = self.policy.limits;
        let (since_ms, timeout) = if amid {
            let begun = self.begun.filter(|(number, _)| *number == self.taken).unwrap_or((self.taken, now_ms));
            self.begun = Some(begun);
            let slowest = Duration::from_millis((self.buf.len() / SLOWEST_BYTES_PER_MS) as u64);
            (begun.1, limits.write_timeout + slowest)
        } else if self.connection.listens() {
            // Redis leaves clients alone that listen.
            (now_ms, Duration::ZERO)
        } else {
            (self.card.active_ms.load(Ordering::Relaxed), limits.idle_timeout)
        };
        let passed = Duration::from_millis(now_ms.saturating_sub(since_ms));
        let left = (!timeout.is_zero()).then(|| timeout.saturating_sub(passed));
        let login = self.login_time_left(now_ms);
        let stranger = login.is_some_and(|login| left.is_none_or(|left| login < left));
        let least = left.into_iter().chain(login).min();
        // Zero would be for ever.
        (least.map(|left| left.max(Duration::from_millis(1))), stranger)
    }

    fn arrived(&mut self, bytes: usize) {
        self.began = Instant::now();
        self.waited = Duration::ZERO;
        self.was_busy = true;
        let worker = &self.held.worker;
        worker.counters.counters.bytes_in_total.add(bytes as u64);
        self.card.active_ms.store(worker.deadlines.now_ms(), Ordering::Relaxed);
        // A client that fills its room gets more, up to a bound.
        if bytes >= self.room {
            self.room = (self.room * 2).min(READ_MAX);
        }
    }

    /// Ends so that the last answer arrives: closing with bytes unread would reset the connection. A second is enough for
    /// a client that wants it, and nothing is waited for once the node is leaving or the connection is ended.
    pub(super) async fn part(&mut self) {
        let Self { stream, deadline, buf, card, held, .. } = self;
        deadline.arm(PARTING_MAX);
        let is_ended = || card.is_ended() && !card.is_ended_for_room();
        let is_over = || deadline.is_over() || is_ended() || held.is_ending();
        if until(is_over, pin!(stream.shutdown())).await.is_err() {
            return;
        }
        loop {
            buf.clear();
            buf.reserve(WRITE_SOON);
            match until(is_over, pin!(stream.read_buf(buf))).await {
                Ok(1..) if !is_over() => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// What is left of `out` and the pieces after it when so many bytes are sent: the rest of the piece that comes next.
fn from<'p>(sent: usize, out: &'p [u8], more: &[&'p [u8]]) -> &'p [u8] {
    let mut sent = sent;
    for piece in std::iter::once(out).chain(more.iter().copied()) {
        if sent < piece.len() {
            return &piece[sent..];
        }
        sent -= piece.len();
    }
    &[]
}

/// What is sent to it stays where it is.
const NOT_READING: Ending = Ending::Cut(Some("it read nothing for sessions.limits.write_timeout while answers waited"));

/// Waits for `io`, as long as it is not over.
async fn until<T>(
    is_over: impl Fn() -> bool,
    mut io: Pin<&mut impl Future<Output = std::io::Result<T>>>,
) -> Result<T, Ending> {
    poll_fn(move |cx: &mut Context<'_>| match io.as_mut().poll(cx) {
        Poll::Ready(Ok(done)) => Poll::Ready(Ok(done)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Ending::Closed)),
        Poll::Pending if is_over() => Poll::Ready(Err(NOT_READING)),
        Poll::Pending => Poll::Pending,
    })
    .await
}
