//! HTTP/1.1 for applications without a Redis client: one connection.
//!
//! Each request is judged on its own by the settings in force: the client says who it is with every one of them, and a
//! request that would be refused whatever its body says is refused before the body is read.
//!
//! A request's head must be there within [`IDLE_MAX`] of the answer before it, which bounds idle connections too; a body must
//! not pause for longer than `limits.write_timeout`, and neither must a client that is sent an answer.
//!
//! Not here: what is done to sessions ([`resource`]), listening and TLS ([`crate::worker`]).

mod conditions;
mod credentials;
mod head;
mod line;
mod path;
mod refused;
mod resource;
mod weight;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    budget::Budget,
    clients::Card,
    passwords::Busy,
    policy::{Access, Policy},
    trust::Trust,
    worker::{Held, IDLE_GRACE_MS},
};
use line::{Line, Stall};
use refused::Refused;
pub use refused::no_place;
use resource::{Asked, Verb};
use weight::{Weight, weighed};

/// How long a client may take from an answer to the end of the next request's head. A minute is what clients that keep
/// connections are used to; `limits.idle_timeout` may shorten it.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a body may take in all, at whatever pace it comes. Arbitrary: 8 MiB at 70 kB/s.
const BODY_MAX: Duration = Duration::from_secs(120);
/// The most that is read ahead. Also bounds heads: an id of 64 KiB whose every byte is written as `%XX` does not fit, and is
/// answered 414 by the framing.
const BUFFER_MAX: usize = 128 << 10;
/// What is read of a body that nobody wants, so that the client sees why: closing with bytes unread would reset the
/// connection.
const UNWANTED_MAX: usize = 1 << 20;
const UNWANTED_TIME: Duration = Duration::from_secs(1);

/// Who is at the other end, as far as the connection tells.
pub struct Guest {
    /// Where it is.
    pub peer: String,
    /// How it came.
    pub trust: RefCell<Trust>,
    /// The user that a certificate names.
    pub certified: Option<Arc<Access>>,
}

/// Why a request is not answered at all: the VIP is another node's, so it is to be asked there.
#[derive(Debug, thiserror::Error)]
#[error("the VIP is another node's")]
struct Elsewhere;

/// Why a request is not carried out.
enum Undone {
    /// The client is told why.
    Refused(Refused),
    /// It is told nothing.
    Elsewhere(Elsewhere),
}

impl From<Refused> for Undone {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Elsewhere> for Undone {
    fn from(elsewhere: Elsewhere) -> Self {
        Self::Elsewhere(elsewhere)
    }
}

/// Serves a connection to its end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, held: Held, guest: Guest) {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let worker = held.worker.clone();
    let limits = worker.policy().limits;
    let card = worker.node.clients.add(guest.peer.clone(), held.local(), worker.node.now_ms());
    card.served_by(waker.clone());
    let idle = worker.deadlines.add(waker.clone());
    let stall = Stall::new(worker.deadlines.add(waker), limits.write_timeout);
    let idle_max = if limits.idle_timeout.is_zero() { IDLE_MAX } else { limits.idle_timeout.min(IDLE_MAX) };
    let line = Line::new(stream, stall.clone(), worker.counters.clone());
    let peer = guest.peer.clone();
    let site = Rc::new(Site { held, guest, card, is_busy: Cell::new(false) });
    let serving = site.clone();
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_max)
        .max_buf_size(BUFFER_MAX)
        .serve_connection(
            TokioIo::new(line),
            service_fn(move |request| {
                let site = serving.clone();
                // Boxed, because the connection is asked without being pinned.
                Box::pin(async move { site.serve(request).await })
            }),
        );
    let (mut leaving, mut watched) = (false, false);
    let ended = poll_fn(|cx| {
        let mut polled = connection.poll_without_shutdown(cx);
        // After what has arrived was taken, so that a request that is here is not idleness.
        let idle_since_ms = site.card.active_ms.load(Ordering::Relaxed);
        if polled.is_pending() && !leaving && site.held.is_ending() && !watched {
            watched = true;
            idle.arm(Duration::from_millis(IDLE_GRACE_MS));
        }
        let ends = site.is_busy.get() && site.held.is_ending() || site.held.ends_between(false, idle_since_ms);
        if polled.is_pending() && !leaving && (ends || site.card.is_ended()) {
            leaving = true;
            Pin::new(&mut connection).graceful_shutdown();
            polled = connection.poll_without_shutdown(cx);
        }
        match polled {
            Poll::Pending if stall.is_over() => Poll::Ready(None),
            // A request that is being carried out is answered first.
            Poll::Pending if site.card.is_ended() && !site.is_busy.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => Poll::Ready(Some(result)),
        }
    })
    .await;
    let counters = &worker.counters.counters;
    let cut = |why| {
        counters.cut_total.up();
        worker.tell_cut(&peer, why);
    };
    match ended {
        _ if site.card.is_ended() => {
            counters.cut_total.up();
            part(connection.into_parts().io.into_inner()).await;
        }
        None => cut("it read nothing for sessions.limits.write_timeout while an answer waited"),
        Some(Ok(())) => part(connection.into_parts().io.into_inner()).await,
        // Idle, or amid a head: hyper does not say which.
        Some(Err(error)) if error.is_timeout() => counters.cut_total.up(),
        Some(Err(error)) if error.is_parse() => {
            counters.malformed_total.up();
            worker.tell_cut(&peer, "what it sent is no HTTP");
            part(connection.into_parts().io.into_inner()).await;
        }
        // The client is gone, or has to go elsewhere.
        Some(Err(_)) => {}
    }
}

/// Ends so that the last answer arrives.
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let part = async {
        stream.shutdown().await?;
        let mut piece = BytesMut::with_capacity(16 << 10);
        let mut left = UNWANTED_MAX;
        while left > 0 {
            piece.clear();
            match stream.read_buf(&mut piece).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        std::io::Result::Ok(())
    };
    // The client has its answer, or does not want it.
    let _ = tokio::time::timeout(UNWANTED_TIME, part).await;
}

/// A connection's place.
struct Site {
    held: Held,
    guest: Guest,
    /// What it takes of the memory for connections. It names no user, so clients of the other protocol do not see it.
    card: Arc<Card>,
    /// A request is being carried out.
    is_busy: Cell<bool>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.held.worker.node.clients.remove(self.card.id);
    }
}

impl Site {
    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Elsewhere> {
        let began = Instant::now();
        let worker = &self.held.worker;
        self.check_vip()?;
        // What has just arrived may be of a user that the document has known only for a moment, or no longer knows.
        worker.take_settings();
        let policy = worker.policy();
        let (parts, body) = request.into_parts();
        self.is_busy.set(true);
        let mut response = match self.answer(&policy, &parts, body).await {
            Ok(response) => response,
            Err(Undone::Refused(refused)) => {
                self.count(&refused);
                refused.response()
            }
            Err(Undone::Elsewhere(elsewhere)) => return Err(elsewhere),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.held.is_ending() {
            // So that the client need not find out with its next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if parts.method == Method::HEAD {
            // RFC 9110, section 8.6: with a 304 it would have to be the length of what a 200 has.
            if response.status() != StatusCode::NOT_MODIFIED {
                let length = HeaderValue::from(response.body().len());
                response.headers_mut().insert(header::CONTENT_LENGTH, length);
            }
            *response.body_mut() = Bytes::new();
        }
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        worker.counters.http.answered(&parts.method, response.status(), us);
        self.is_busy.set(false);
        self.card.active_ms.store(worker.deadlines.now_ms(), Ordering::Relaxed);
        Ok(response.map(|body| Full::new(self.weighed(body, &policy))))
    }

    async fn answer(&self, policy: &Policy, parts: &Parts, body: Incoming) -> Result<Response<Bytes>, Undone> {
        head::check(parts)?;
        let access = self.access(policy, parts).await?;
        let verb = Verb::of(&parts.method)?;
        let asked = Asked::new(&self.held.worker, policy, &access, parts.uri.path(), &parts.headers, verb)?;
        let answer = match verb {
            Verb::Get => asked.get().await,
            Verb::Delete => asked.delete().await,
            Verb::Put => {
                if !head::has_body(&parts.headers) {
                    return Err(Refused::NoBody.into());
                }
                asked.check_put()?;
                // What was read is counted until it is in the log.
                let mut weight = Weight::new(&self.card);
                let body = self.read(body, policy, &mut weight).await?;
                // Minutes may have passed.
                self.check_vip()?;
                asked.put(body).await
            }
        };
        answer.map_err(Undone::Refused)
    }

    /// Where the VIP is another node's, what was not begun is begun there: nothing that is said here reaches the client.
    fn check_vip(&self) -> Result<(), Elsewhere> {
        if self.held.listener.may_serve() { Ok(()) } else { Err(Elsewhere) }
    }

    /// What the client may do.
    async fn access(&self, policy: &Policy, parts: &Parts) -> Result<Arc<Access>, Refused> {
        // A certificate that is not accepted any more gives nothing from then on; the client may still log in.
        let now_ms = self.held.worker.deadlines.now_ms();
        if self.guest.trust.borrow_mut().has_lapsed(now_ms) {
            self.guest.trust.borrow_mut().forget();
        }
        if let Some(anybody) = policy.anybody() {
            self.guest.trust.borrow().admit(policy)?;
            // With TLS the name is one of the node's certificate.
            let may_be_a_page = policy.settings.protected && self.held.listener.is_plain();
            if may_be_a_page && !head::is_for_an_address(parts) {
                return Err(Refused::OtherSite);
            }
            return Ok(anybody);
        }
        let Some(credentials) = credentials::of(&parts.headers)? else {
            // As the document has that user now.
            let certified = self.guest.certified.as_ref().filter(|_| self.guest.trust.borrow().may_lapse());
            let certified = certified.and_then(|known| policy.access(&known.user));
            return certified.ok_or(Refused::Stranger);
        };
        let stored = policy.password_hash(&credentials.user);
        let passwords = &self.held.worker.node.passwords;
        let (source, deadline) = (self.guest.trust.borrow().source(), policy.limits.deadline);
        match passwords.check(stored, policy.decoy_hash(), &credentials.password, source, deadline).await {
            Ok(true) => policy.access(&credentials.user).ok_or(Refused::WrongPassword(credentials.user)),
            Ok(false) => Err(Refused::WrongPassword(credentials.user)),
            Err(Busy) => Err(Refused::Crowd),
        }
    }

    fn count(&self, refused: &Refused) {
        let counters = &self.held.worker.counters.counters;
        match refused {
            Refused::Protected | Refused::Role { .. } | Refused::OtherSite => {
                self.held.worker.tell_refused(&self.guest.peer, &refused.to_string());
            }
            Refused::WrongPassword(user) => self.held.worker.tell_login_failed(&self.guest.peer, user),
            Refused::Unavailable(_) | Refused::Crowd => counters.unavailable_total.up(),
            Refused::SlowBody => {
                counters.cut_total.up();
                self.held.worker.tell_cut(&self.guest.peer, &refused.to_string());
            }
            _ => {}
        }
    }

    /// Reads a body that may be a session's.
    async fn read(&self, body: Incoming, policy: &Policy, weight: &mut Weight) -> Result<Bytes, Refused> {
        let value_max = policy.settings.limits.value_max;
        let reading = self.collect(body, policy, weight);
        match tokio::time::timeout(BODY_MAX, reading).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => Err(Refused::TooLarge(value_max)),
            Ok(Err(refused)) => Err(refused),
            Err(_) => Err(Refused::SlowBody),
        }
    }

    /// The whole of a body; `None` if it is longer than a value may be.
    async fn collect(
        &self,
        mut body: Incoming,
        policy: &Policy,
        weight: &mut Weight,
    ) -> Result<Option<Bytes>, Refused> {
        let (bytes_max, pause_max) = (policy.settings.limits.value_max.as_bytes(), policy.limits.write_timeout);
        let told = body.size_hint().lower();
        if told > bytes_max {
            return Ok(None);
        }
        // What is only told takes no memory yet.
        let mut bytes = BytesMut::with_capacity(usize::try_from(told).unwrap_or(usize::MAX).min(BUFFER_MAX));
        loop {
            if weight.becomes(bytes.capacity()) {
                self.keep_to_budget(policy);
            }
            let frame = match tokio::time::timeout(pause_max, self.unless_ended(body.frame())).await {
                Err(_) => return Err(Refused::SlowBody),
                Ok(None) => return Err(Refused::NoRoom),
                Ok(Some(None)) => return Ok(Some(bytes.freeze())),
                Ok(Some(Some(Err(_)))) => return Err(Refused::HalfBody),
                Ok(Some(Some(Ok(frame)))) => frame,
            };
            // Trailers say nothing here.
            let Ok(piece) = frame.into_data() else { continue };
            if (bytes.len() + piece.len()) as u64 > bytes_max {
                return Ok(None);
            }
            bytes.extend_from_slice(&piece);
        }
    }

    /// What comes of `wait`; `None` once the connection is to make room for others.
    async fn unless_ended<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = pin!(wait);
        // Whoever ends the connection wakes its task, which this is a part of.
        poll_fn(|cx| if self.card.is_ended() { Poll::Ready(None) } else { wait.as_mut().poll(cx).map(Some) }).await
    }

    /// An answer that counts as what the connection takes until it is sent.
    fn weighed(&self, body: Bytes, policy: &Policy) -> Bytes {
        let (body, is_counted) = weighed(body, &self.card);
        if is_counted {
            self.keep_to_budget(policy);
        }
        body
    }

    fn keep_to_budget(&self, policy: &Policy) {
        let clients = &self.held.worker.node.clients;
        clients.budget.keep_to(Budget::max(policy), clients);
    }
}
