//! A backend as one worker sees it: its idle connections, what is in flight, and the permits that
//! keep the node within `connections_max`.
//!
//! An idle connection is a socket and nothing else, kept by the worker that opened it. For a
//! backend with a limit the permits are the node's: a connection holds one from before it is made
//! until it is closed, idle or not. A request that finds none waits in a line of the whole node;
//! a worker with an idle connection it does not need gives it up for whoever waits elsewhere, or
//! promises it to a request of its own that is first in line: then nobody else takes it.
//!
//! Where a backend logs clients in for a connection and not for each request (NTLM, Negotiate), the connection is private: it
//! idles for its client alone and is closed with the client's own, or before that as other idle ones are, and at the limit.
//!
//! Not here: which backend is picked ([`crate::live`]), HTTP.

mod permits;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Poll, Waker},
};

use ballast_core::ids::BackendId;
use socket2::SockRef;
use tokio::net::TcpStream;

use self::permits::{First, GRANTED, LEFT, PROMISED, WAITING, Waiter};
pub use self::permits::{Permit, Permits};
use crate::stats::BackendCounters;

/// A place in the line for a permit.
#[derive(Debug)]
pub struct Queued<'a> {
    backend: &'a Backend,
    waiter: Arc<Waiter>,
    rejoined: bool,
}

impl Queued<'_> {
    /// Waits for the turn, which brings a permit or an idle connection of this worker; `look` is taken at that one. Never
    /// ready with [`Available::Full`].
    pub fn poll(&mut self, look: Look) -> Poll<Available> {
        if self.waiter.state.load(Ordering::Acquire) == PROMISED {
            let available = self.backend.take_promised(look);
            if !matches!(available, Available::Full) {
                self.waiter.state.store(LEFT, Ordering::Release);
                return Poll::Ready(available);
            }
            // What was promised was closed meanwhile, and its permit went to who was next.
            self.backend.permits.join(&self.waiter, VecDeque::push_front);
            self.rejoined = true;
        }
        if self.waiter.state.load(Ordering::Acquire) != GRANTED {
            return Poll::Pending;
        }
        self.waiter.state.store(LEFT, Ordering::Release);
        Poll::Ready(Available::Permit(Permit(self.backend.permits.clone())))
    }

    /// Whether it had to wait anew since this was asked last: other workers may have idle connections that they kept while
    /// nobody seemed to wait.
    pub fn take_rejoined(&mut self) -> bool {
        std::mem::take(&mut self.rejoined)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.waiter.state.load(Ordering::Acquire) == LEFT {
            return;
        }
        let permits = &self.backend.permits;
        let mut line = permits.lock();
        let was = self.waiter.state.swap(LEFT, Ordering::AcqRel);
        if was == WAITING {
            let waiting = permits.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
            line.tidy(waiting as usize);
        }
        drop(line);
        match was {
            GRANTED => permits.release(),
            PROMISED => self.backend.break_promise(),
            _ => {}
        }
    }
}

/// A connection to a backend.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub stream: TcpStream,
    /// It served a request before, so the backend may have closed it meanwhile.
    pub reused: bool,
    /// The backend takes whoever uses it for the client that it was used for: it is for nobody else.
    pub is_private: bool,
    address: SocketAddr,
    counters: Arc<BackendCounters>,
    permit: Option<Permit>,
}

impl Link {
    /// Wraps a new connection.
    pub fn new(stream: TcpStream, address: SocketAddr, permit: Permit, backend: &Backend) -> Self {
        backend.counters.connections.up();
        backend.refused_ms.set(None);
        let (counters, permit) = (backend.counters.clone(), Some(permit));
        Self { stream, reused: false, is_private: false, address, counters, permit }
    }

    /// Closes one that is of no use and keeps the right to have it.
    fn into_permit(mut self) -> Permit {
        self.permit.take().expect("nothing else takes it")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.counters.connections.down();
    }
}

/// A private connection that idles. Closed when this is dropped.
#[derive(Debug)]
pub struct Own {
    backend: Rc<Backend>,
    ticket: u64,
}

impl Own {
    /// Lets a connection idle for one client; `None` if it may not, and is closed.
    pub fn keep(backend: &Rc<Backend>, link: Link, now_ms: u64) -> Option<Self> {
        if !backend.may_idle(&link) {
            return None;
        }
        let ticket = backend.tickets.get();
        backend.tickets.set(ticket + 1);
        backend.own.borrow_mut().insert(ticket, (link, now_ms));
        backend.counters.idle.up();
        Some(Self { backend: backend.clone(), ticket })
    }

    /// The backend, while the connection idles still.
    pub fn backend(&self) -> Option<BackendId> {
        self.backend.own.borrow().contains_key(&self.ticket).then_some(self.backend.id)
    }

    /// The connection, if it idles still and is open.
    pub fn take(self, look: Look) -> Option<Link> {
        let mut link = self.backend.take_own(self.ticket).filter(|link| look.finds_open(link))?;
        link.reused = true;
        Some(link)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.backend.take_own(self.ticket));
    }
}

/// A private connection that idles for longer than this is closed while its backend is at its limit. Arbitrary: who logs in
/// on it needs it again within a round trip to the client.
const OWN_MS: u64 = 1000;

/// What can be had of a backend right now.
#[derive(Debug)]
pub enum Available {
    /// An idle connection.
    Link(Link),
    /// The right to make one.
    Permit(Permit),
    /// Nothing; wait in line.
    Full,
}

/// How an idle connection is found to be open still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// By what the runtime was told when it last waited. For a request that may be sent again.
    AtRuntime,
    /// By a system call, for a request that may not.
    AtKernel,
}

impl Look {
    fn finds_open(self, link: &Link) -> bool {
        match self {
            Self::AtRuntime => is_quiet(&link.stream),
            Self::AtKernel => is_silent(&link.stream),
        }
    }
}

/// For so long a backend that refused a connection is left alone where there are others. HAProxy waits as long before it
/// asks the same server again.
const REFUSES_MS: u64 = 1000;

/// A backend as one worker sees it. Outlives plans: connections and counts stay.
#[derive(Debug)]
pub struct Backend {
    /// Stable id.
    pub id: BackendId,
    /// Counts of this worker.
    pub counters: Arc<BackendCounters>,
    /// Requests in flight from this worker.
    pub in_flight: Cell<u32>,
    /// Requests of this worker that a connection is being made for.
    connecting: Cell<u32>,
    /// When its host refused a connection, by the worker's clock, unless one was made since.
    refused_ms: Cell<Option<u64>>,
    worker: usize,
    permits: Arc<Permits>,
    address: Cell<SocketAddr>,
    serves: Cell<bool>,
    limit: Cell<u32>,
    idle_timeout_ms: Cell<u64>,
    idle: RefCell<Vec<(Link, u64)>>,
    /// Private connections that idle, the longest first.
    own: RefCell<BTreeMap<u64, (Link, u64)>>,
    /// The next key of those.
    tickets: Cell<u64>,
    /// Requests of this worker that an idle connection is promised to. It may have been closed since.
    promised: Cell<u32>,
}

impl Backend {
    /// A backend that nothing is known of yet but its id.
    pub fn new(id: BackendId, worker: usize, permits: Arc<Permits>, counters: Arc<BackendCounters>) -> Self {
        Self {
            id,
            counters,
            in_flight: Cell::new(0),
            connecting: Cell::new(0),
            refused_ms: Cell::new(None),
            worker,
            permits,
            address: Cell::new(SocketAddr::from(([0, 0, 0, 0], 0))),
            serves: Cell::new(true),
            limit: Cell::new(0),
            idle_timeout_ms: Cell::new(60_000),
            idle: RefCell::default(),
            own: RefCell::default(),
            tickets: Cell::new(0),
            promised: Cell::new(0),
        }
    }

    /// Takes in what the plan says now. Idle connections to a former address, and beyond the limit, are closed.
    pub fn configure(&self, address: SocketAddr, limit: u32, idle_timeout_ms: u64) {
        let moved = self.address.replace(address) != address;
        let limited = (self.limit.get() == 0) != (limit == 0);
        self.idle_timeout_ms.set(idle_timeout_ms);
        // While they are counted as they were.
        if moved || limited {
            self.close_idle(|_, _| true);
        }
        if moved {
            self.refused_ms.set(None);
        }
        self.limit.set(limit);
        self.permits.set_limit(limit);
        while self.permits.is_exceeded() && self.pop_idle().is_some() {}
    }

    /// Takes in whether it serves by the plan. No connection idles from before to after that has changed: a host that was reset
    /// forgets them without a word, and they look open until a request is lost on them.
    pub fn set_serves(&self, serves: bool) {
        if self.serves.replace(serves) != serves {
            self.close_idle(|_, _| true);
        }
    }

    /// It left the plan: no connection idles here, nor any that is in use now, until it is configured again.
    pub fn retire(&self) {
        self.idle_timeout_ms.set(0);
        self.close_idle(|_, _| true);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.get()
    }

    /// Requests of this worker that it has to do with: in flight, or about to be.
    pub fn load(&self) -> u32 {
        self.in_flight.get() + self.connecting.get()
    }

    /// Counts a request while a connection is being made for it.
    pub fn connecting(&self) -> Connecting<'_> {
        self.connecting.set(self.connecting.get() + 1);
        Connecting(self)
    }

    /// Its host refused a connection.
    pub fn refused(&self, now_ms: u64) {
        self.refused_ms.set(Some(now_ms));
    }

    /// Whether its host refused a connection a moment ago, and none was made since.
    pub fn refuses(&self, now_ms: u64) -> bool {
        self.refused_ms.get().is_some_and(|at_ms| now_ms < at_ms.saturating_add(REFUSES_MS))
    }

    /// Whether a request could be sent without waiting for a permit.
    pub fn has_room(&self) -> bool {
        if self.limit.get() == 0 || self.has_spare() {
            return true;
        }
        self.permits.has_room() && self.permits.waiting.load(Ordering::SeqCst) == 0
    }

    /// An idle connection that is still open and promised to nobody, or the right to make one.
    pub fn take(&self, look: Look) -> Available {
        while self.has_spare()
            && let Some(mut link) = self.pop_idle()
        {
            if look.finds_open(&link) {
                link.reused = true;
                return Available::Link(link);
            }
        }
        self.permits.take().map_or(Available::Full, Available::Permit)
    }

    /// The right to make a new connection, past the idle ones.
    pub fn take_new(&self, look: Look) -> Available {
        match self.permits.take() {
            Some(permit) => Available::Permit(permit),
            None => self.take(look),
        }
    }

    /// Joins the line for a permit.
    pub fn queue(&self, waker: &Waker) -> Queued<'_> {
        let waiter = Arc::new(Waiter { worker: self.worker, state: AtomicU8::new(WAITING), waker: waker.clone() });
        self.permits.join(&waiter, VecDeque::push_back);
        Queued { backend: self, waiter, rejoined: false }
    }

    /// Whether another worker has idle connections and can be asked to give one up.
    pub fn has_idle_elsewhere(&self) -> bool {
        self.idle_elsewhere() > 0
    }

    /// Whether it has one that nobody waits for yet.
    pub fn has_spare_elsewhere(&self) -> bool {
        self.idle_elsewhere() > self.permits.waiting.load(Ordering::SeqCst)
    }

    /// Idle connections of other workers. Known only while there is a limit.
    fn idle_elsewhere(&self) -> u32 {
        self.permits.idle.load(Ordering::SeqCst).saturating_sub(self.idle.borrow().len() as u32)
    }

    /// Wakes the requests of this worker that wait in line, so that they look at a new plan.
    pub fn wake_waiting(&self) {
        if self.permits.waiting.load(Ordering::SeqCst) > 0 {
            let line = self.permits.lock();
            let own = line.0.iter().filter(|waiter| waiter.worker == self.worker && waiter.waits());
            own.for_each(|waiter| waiter.waker.wake_by_ref());
        }
    }

    /// Keeps a connection for the next request, whoever's that is. A private one is closed.
    pub fn put(&self, link: Link, now_ms: u64) {
        if link.is_private || !self.may_idle(&link) {
            return;
        }
        self.idle.borrow_mut().push((link, now_ms));
        self.idle_changed(1);
        if self.limit.get() > 0 && self.permits.waiting.load(Ordering::SeqCst) > 0 {
            self.yield_idle();
        }
    }

    /// Whether a connection is of use for a later request.
    fn may_idle(&self, link: &Link) -> bool {
        link.address == self.address.get() && self.idle_timeout_ms.get() > 0 && !self.permits.is_exceeded()
    }

    /// Somebody waits for a permit: an idle connection that is promised to nobody, if there is one, is for the first in line.
    /// It is closed for a waiter elsewhere.
    pub fn yield_idle(&self) {
        if !self.has_spare() {
            return;
        }
        match self.permits.first_for_idle(self.worker) {
            First::Here => self.promised.set(self.promised.get() + 1),
            First::Elsewhere => drop(self.pop_idle()),
            First::Nobody => {}
        }
    }

    /// What a request of this worker was promised: an idle connection, or the right to make one in its stead.
    fn take_promised(&self, look: Look) -> Available {
        self.promised.set(self.promised.get() - 1);
        match self.pop_idle() {
            Some(mut link) if look.finds_open(&link) => {
                link.reused = true;
                Available::Link(link)
            }
            Some(link) => Available::Permit(link.into_permit()),
            None => self.permits.take().map_or(Available::Full, Available::Permit),
        }
    }

    /// A request that an idle connection was promised to does not take it: it is for the next in line.
    fn break_promise(&self) {
        self.promised.set(self.promised.get() - 1);
        self.yield_idle();
    }

    /// Whether an idle connection is promised to nobody.
    fn has_spare(&self) -> bool {
        self.idle.borrow().len() > self.promised.get() as usize
    }

    /// The connection that became idle last.
    fn pop_idle(&self) -> Option<Link> {
        let (link, _) = self.idle.borrow_mut().pop()?;
        self.idle_changed(-1);
        Some(link)
    }

    /// A private connection that idles, which it does no more.
    fn take_own(&self, ticket: u64) -> Option<Link> {
        let (link, _) = self.own.borrow_mut().remove(&ticket)?;
        self.counters.idle.down();
        Some(link)
    }

    /// Closes idle connections that the backend closed or that were not used for too long. At the limit private ones make
    /// room, as nobody else can use them.
    pub fn tend(&self, now_ms: u64) {
        let oldest = now_ms.saturating_sub(self.idle_timeout_ms.get());
        self.close_idle(|link, since| since < oldest || !is_quiet(&link.stream));
        let oldest = now_ms.saturating_sub(OWN_MS);
        self.close_own(|_, since| since < oldest && !self.permits.has_room());
    }

    fn close_idle(&self, close: impl Fn(&Link, u64) -> bool) {
        let mut closed = Vec::new();
        self.idle.borrow_mut().retain_mut(|(link, since)| {
            let goes = close(link, *since);
            if goes {
                closed.push(());
            }
            !goes
        });
        self.idle_changed(-(closed.len() as i32));
        self.close_own(close);
    }

    fn close_own(&self, close: impl Fn(&Link, u64) -> bool) {
        self.own.borrow_mut().retain(|_, (link, since)| {
            let goes = close(link, *since);
            if goes {
                self.counters.idle.down();
            }
            !goes
        });
    }

    fn idle_changed(&self, by: i32) {
        if self.limit.get() > 0 {
            self.permits.idle.fetch_add(by as u32, Ordering::SeqCst);
        }
        self.counters.idle.add(i64::from(by) as u64);
    }
}

/// A request that a connection is being made for. Counted until it is dropped.
#[derive(Debug)]
pub struct Connecting<'a>(&'a Backend);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
    }
}

impl Drop for Backend {
    /// It left the plan, and what it kept is counted no more.
    fn drop(&mut self) {
        self.close_idle(|_, _| true);
    }
}

/// Whether nothing waits to be read: an idle connection with something to read was closed, or is
/// out of step. Costs a system call only when the runtime thinks that there is something. To poll
/// would say that there is nothing once the task has used up its budget.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

/// As [`is_quiet`], and asks the kernel, which may know what the runtime was not told yet.
fn is_silent(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    matches!(peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests;
