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

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    task::{Poll, Waker},
};

use ballast_core::ids::BackendId;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::stats::BackendCounters;

/// A backend's permits, shared by the workers of a node.
///
/// All are counted, also while there is no limit, so that one that comes finds out what is open. Whoever waits in
/// line waits because the limit is reached.
#[derive(Debug, Default)]
pub struct Permits {
    line: Mutex<Line>,
    /// `connections_max` by the newest plan that a worker took in; zero means no limit.
    limit: AtomicU32,
    /// Permits in use. With a limit they are taken under the lock.
    open: AtomicU32,
    /// How many wait; read without the lock when a connection becomes idle or is closed.
    waiting: AtomicU32,
    /// Idle connections of all workers, counted while there is a limit.
    idle: AtomicU32,
}

#[derive(Debug)]
struct Waiter {
    worker: usize,
    state: AtomicU8,
    waker: Waker,
}

impl Waiter {
    fn waits(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }
}

const WAITING: u8 = 0;
/// A permit was handed over.
const GRANTED: u8 = 1;
/// An idle connection of its worker is promised to it.
const PROMISED: u8 = 2;
/// It waits no more.
const LEFT: u8 = 3;

/// Who is first in line for a connection that idles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Nobody waits.
    Nobody,
    /// A request of the same worker. It is told, and has left the line.
    Here,
    /// One of another worker.
    Elsewhere,
}

/// Who waits, in order. The first is always one that does.
///
/// A request may wait in the lines of many backends and leaves all when it is served. It is not looked for in each, but passed
/// over when its turn comes.
#[derive(Debug, Default)]
struct Line(VecDeque<Arc<Waiter>>);

/// Those who left are swept out of a line once they are more than this and more than those who wait, which takes few steps for
/// each of them. Arbitrary, and harmless.
const LEFT_MAX: usize = 16;

impl Line {
    fn first(&self) -> Option<&Arc<Waiter>> {
        self.0.front()
    }

    fn pop(&mut self) -> Option<Arc<Waiter>> {
        let first = self.0.pop_front();
        self.pass_over();
        first
    }

    /// Somebody left; so many wait.
    fn tidy(&mut self, waiting: usize) {
        self.pass_over();
        if self.0.len() > 2 * waiting.max(LEFT_MAX) {
            self.0.retain(|waiter| waiter.waits());
        }
    }

    fn pass_over(&mut self) {
        while self.first().is_some_and(|waiter| !waiter.waits()) {
            self.0.pop_front();
        }
    }
}

impl Permits {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_limit(&self, limit: u32) {
        if self.limit.swap(limit, Ordering::SeqCst) != limit {
            self.grant(&mut self.lock());
        }
    }

    fn has_room(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        limit == 0 || self.open.load(Ordering::SeqCst) < limit
    }

    /// More are open than a limit that was lowered allows.
    fn is_exceeded(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        limit > 0 && self.open.load(Ordering::SeqCst) > limit
    }

    /// A permit, unless all are in use or somebody waits already.
    fn take(self: &Arc<Self>) -> Option<Permit> {
        if self.limit.load(Ordering::SeqCst) > 0 {
            let line = self.lock();
            if !self.has_room() || line.first().is_some() {
                return None;
            }
            self.open.fetch_add(1, Ordering::SeqCst);
        } else {
            self.open.fetch_add(1, Ordering::SeqCst);
        }
        Some(Permit(self.clone()))
    }

    fn release(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
        // Whoever joins the line tells first that it waits and looks for room then.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant(&mut self.lock());
        }
    }

    /// Gives the permits that are free to the first in line.
    fn grant(&self, line: &mut Line) {
        while self.has_room()
            && let Some(next) = line.pop()
        {
            self.open.fetch_add(1, Ordering::SeqCst);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            next.state.store(GRANTED, Ordering::Release);
            next.waker.wake_by_ref();
        }
    }

    /// Puts a waiter into the line, at the end that `push` is for.
    fn join(&self, waiter: &Arc<Waiter>, push: fn(&mut VecDeque<Arc<Waiter>>, Arc<Waiter>)) {
        let mut line = self.lock();
        waiter.state.store(WAITING, Ordering::Release);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        push(&mut line.0, waiter.clone());
        self.grant(&mut line);
    }

    /// For whom a connection of `worker` idles.
    fn first_for_idle(&self, worker: usize) -> First {
        let mut line = self.lock();
        match line.first() {
            Some(next) if next.worker == worker => {
                next.state.store(PROMISED, Ordering::Release);
                next.waker.wake_by_ref();
                line.pop();
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                First::Here
            }
            Some(_) => First::Elsewhere,
            None => First::Nobody,
        }
    }
}

/// The right to have one connection open. Given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

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
mod tests {
    use tokio::io::Interest;

    use super::*;

    #[test]
    fn permits_are_bounded_and_handed_on_in_order() {
        let permits = Arc::new(Permits::default());
        let backend = |worker| {
            let backend = Backend::new(BackendId::new(1), worker, permits.clone(), Arc::default());
            backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 1, 1000);
            backend
        };
        let (a, b) = (backend(0), backend(1));
        let Available::Permit(first) = a.take(Look::AtRuntime) else { panic!("the first is free") };
        assert!(matches!(b.take(Look::AtRuntime), Available::Full));
        let mut second = b.queue(Waker::noop());
        let mut third = a.queue(Waker::noop());
        assert!(second.poll(Look::AtRuntime).is_pending());
        drop(first);
        assert!(third.poll(Look::AtRuntime).is_pending());
        let Poll::Ready(Available::Permit(second)) = second.poll(Look::AtRuntime) else { panic!("its turn") };
        assert!(matches!(a.take(Look::AtRuntime), Available::Full), "nobody jumps the line");
        drop(second);
        // Granted but never picked up: goes back.
        drop(third);
        assert!(matches!(a.take(Look::AtRuntime), Available::Permit(_)));
    }

    #[test]
    fn leaving_the_line_leaves_no_gap() {
        let permits = Arc::new(Permits::default());
        let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
        backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 1, 1000);
        let Available::Permit(first) = backend.take(Look::AtRuntime) else { panic!("the first is free") };
        let second = backend.queue(Waker::noop());
        let mut third = backend.queue(Waker::noop());
        drop(second);
        drop(first);
        assert!(matches!(third.poll(Look::AtRuntime), Poll::Ready(Available::Permit(_))));
        assert_eq!(permits.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn who_left_the_line_is_passed_over_and_does_not_stay_in_it() {
        let permits = Arc::new(Permits::default());
        let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
        backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 1, 1000);
        let Available::Permit(permit) = backend.take(Look::AtRuntime) else { panic!("the first is free") };
        let line = || backend.queue(Waker::noop());
        let (mut first, left, mut last) = (line(), line(), line());
        drop(left);
        drop(permit);
        let Poll::Ready(Available::Permit(permit)) = first.poll(Look::AtRuntime) else { panic!("its turn") };
        drop(permit);
        let Poll::Ready(Available::Permit(permit)) = last.poll(Look::AtRuntime) else { panic!("its turn") };
        let stays = line();
        for _ in 0..1000 {
            drop(line());
            assert!(permits.lock().0.len() <= 2 * LEFT_MAX);
        }
        assert_eq!(permits.waiting.load(Ordering::SeqCst), 1);
        drop((stays, permit));
        assert!(matches!(backend.take(Look::AtRuntime), Available::Permit(_)));
    }

    #[test]
    fn a_new_limit_counts_what_is_open_and_lets_in_who_waits() {
        let permits = Arc::new(Permits::default());
        let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
        let limit = |limit| backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), limit, 1000);
        let take = || match backend.take(Look::AtRuntime) {
            Available::Permit(permit) => permit,
            other => panic!("{other:?}"),
        };
        limit(0);
        let mut held = vec![take(), take(), take()];
        limit(2);
        let mut line: Vec<_> = (0..4).map(|_| backend.queue(Waker::noop())).collect();
        held.pop();
        assert!(line[0].poll(Look::AtRuntime).is_pending(), "two are open");
        held.pop();
        let Poll::Ready(Available::Permit(first)) = line[0].poll(Look::AtRuntime) else { panic!("its turn") };
        limit(3);
        let Poll::Ready(Available::Permit(second)) = line[1].poll(Look::AtRuntime) else { panic!("its turn") };
        assert!(line[2].poll(Look::AtRuntime).is_pending());
        limit(0);
        let is_granted =
            |place: &mut Queued<'_>| matches!(place.poll(Look::AtRuntime), Poll::Ready(Available::Permit(_)));
        assert!(line[2..].iter_mut().all(is_granted));
        drop((first, second, held));
        assert_eq!((permits.open.load(Ordering::SeqCst), permits.waiting.load(Ordering::SeqCst)), (0, 0));
    }

    #[test]
    fn dead_connections_are_told_however_many_they_are() {
        let backend = Backend::new(BackendId::new(1), 0, Arc::default(), Arc::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        backend.configure(address, 0, 60_000);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        // More than a task's budget, which only what is spawned has.
        let taken = local.spawn_local(async move {
            for _ in 0..200 {
                let Available::Permit(permit) = backend.take_new(Look::AtRuntime) else { panic!("no limit") };
                let stream = TcpStream::connect(address).await.expect("it listens");
                drop(listener.accept().expect("connected"));
                stream.ready(Interest::READABLE).await.expect("closed by its peer");
                let link = Link::new(stream, address, permit, &backend);
                backend.idle.borrow_mut().push((link, 0));
            }
            tokio::task::yield_now().await;
            matches!(backend.take(Look::AtRuntime), Available::Permit(_))
        });
        assert!(local.block_on(&runtime, taken).expect("no panic"));
    }

    #[test]
    fn what_the_runtime_was_not_told_is_seen_by_who_asks_the_kernel() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        let backend = Backend::new(BackendId::new(1), 0, Arc::default(), Arc::default());
        backend.configure(address, 0, 60_000);
        let idle = || {
            let stream = std::net::TcpStream::connect(address).expect("it listens");
            let (peer, _) = listener.accept().expect("connected");
            let Available::Permit(permit) = backend.take_new(Look::AtRuntime) else { panic!("no limit") };
            (stream, peer, permit)
        };
        let keep = |stream: std::net::TcpStream, permit| {
            stream.set_nonblocking(true).expect("a socket");
            let stream = TcpStream::from_std(stream).expect("a runtime");
            backend.put(Link::new(stream, address, permit, &backend), 0);
        };
        let (stream, _peer, permit) = idle();
        keep(stream, permit);
        assert!(matches!(backend.take(Look::AtKernel), Available::Link(_)));
        for said in [&b""[..], b"x"] {
            let (stream, mut peer, permit) = idle();
            io::Write::write_all(&mut peer, said).expect("connected");
            drop(peer);
            // Waits until it is there, without the runtime.
            assert_eq!(stream.peek(&mut [0]).expect("connected"), said.len());
            keep(stream, permit);
            assert!(matches!(backend.take(Look::AtKernel), Available::Permit(_)), "{said:?}");
        }
    }

    #[test]
    fn an_idle_connection_is_kept_for_the_first_in_line() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        let permits = Arc::new(Permits::default());
        let backend = Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default());
        backend.configure(address, 1, 60_000);
        let Available::Permit(permit) = backend.take(Look::AtKernel) else { panic!("nothing is open") };
        let link = |stream: std::net::TcpStream, permit| {
            stream.set_nonblocking(true).expect("a socket");
            Link::new(TcpStream::from_std(stream).expect("a runtime"), address, permit, &backend)
        };
        let connect = || {
            let stream = std::net::TcpStream::connect(address).expect("it listens");
            (stream, listener.accept().expect("connected").0)
        };
        let line = || backend.queue(Waker::noop());
        let (stream, _peer) = connect();
        let (first, mut second) = (line(), line());
        backend.put(link(stream, permit), 0);
        let is_full = || !backend.has_room() && matches!(backend.take(Look::AtKernel), Available::Full);
        assert!(is_full(), "nobody jumps the line");
        drop(first);
        assert!(is_full(), "it is the next one's now");
        let Poll::Ready(Available::Link(kept)) = second.poll(Look::AtKernel) else { panic!("its turn") };

        // Closed before it is taken: the permit is the next one's, and after that it is again the turn of who was first.
        let (mut first, mut second, mut third) = (line(), line(), line());
        backend.put(kept, 0);
        backend.tend(u64::MAX);
        assert!(!first.take_rejoined());
        assert!(first.poll(Look::AtKernel).is_pending());
        assert_eq!((first.take_rejoined(), first.take_rejoined()), (true, false), "others are asked once more");
        let Poll::Ready(Available::Permit(permit)) = second.poll(Look::AtKernel) else { panic!("its turn") };
        drop(permit);
        assert!(third.poll(Look::AtKernel).is_pending());
        let Poll::Ready(Available::Permit(permit)) = first.poll(Look::AtKernel) else { panic!("its turn") };

        // Found to be dead: its permit is for another.
        let (stream, peer) = connect();
        drop(peer);
        // Waits until its end is there.
        assert_eq!(stream.peek(&mut [0]).expect("connected"), 0);
        backend.put(link(stream, permit), 0);
        let Poll::Ready(Available::Permit(permit)) = third.poll(Look::AtKernel) else { panic!("its turn") };
        drop(permit);
        assert_eq!((backend.promised.get(), permits.open.load(Ordering::SeqCst)), (0, 0));
        assert_eq!((permits.waiting.load(Ordering::SeqCst), permits.idle.load(Ordering::SeqCst)), (0, 0));
    }

    #[test]
    fn a_private_connection_idles_for_its_client_and_makes_room_at_the_limit() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        let permits = Arc::new(Permits::default());
        let backend = Rc::new(Backend::new(BackendId::new(1), 0, permits.clone(), Arc::default()));
        backend.configure(address, 2, 60_000);
        let mut peers = Vec::new();
        let mut private = || {
            let Available::Permit(permit) = backend.take(Look::AtKernel) else { panic!("there is room") };
            let stream = std::net::TcpStream::connect(address).expect("it listens");
            peers.push(listener.accept().expect("connected"));
            stream.set_nonblocking(true).expect("a socket");
            let stream = TcpStream::from_std(stream).expect("a runtime");
            let mut link = Link::new(stream, address, permit, &backend);
            link.is_private = true;
            link
        };
        let counts = || (permits.open.load(Ordering::SeqCst), backend.counters.idle.get());
        let keep = |link, now_ms| Own::keep(&backend, link, now_ms).expect("it may idle");
        backend.put(private(), 0);
        assert_eq!(counts(), (0, 0), "it is for nobody else");

        let (first, second) = (keep(private(), 0), keep(private(), 10));
        assert!(matches!(backend.take(Look::AtKernel), Available::Full));
        backend.tend(OWN_MS);
        assert_eq!(counts(), (2, 2), "who logs in has a moment for it");
        backend.tend(OWN_MS + 11);
        assert_eq!((first.backend(), second.backend(), counts()), (None, Some(backend.id), (1, 1)), "one is enough");
        assert!(first.take(Look::AtKernel).is_none());
        let link = second.take(Look::AtKernel).expect("it is open");
        assert!(link.reused && link.is_private);
        assert_eq!(counts(), (1, 0));

        let unused = keep(link, 0);
        backend.tend(60_001);
        assert_eq!((unused.backend(), counts()), (None, (0, 0)));
        drop(keep(private(), 60_001));
        assert_eq!(counts(), (0, 0), "its client has gone");
        let left = keep(private(), 60_001);
        backend.retire();
        assert_eq!((left.backend(), counts()), (None, (0, 0)));
    }

    #[test]
    fn a_backend_refuses_for_a_moment_until_it_is_elsewhere_or_takes_a_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let backend = Backend::new(BackendId::new(1), 0, Arc::default(), Arc::default());
        backend.configure(address, 0, 60_000);
        assert!(!backend.refuses(5000));
        backend.refused(5000);
        assert_eq!([5000, 5999, 6000].map(|now_ms| backend.refuses(now_ms)), [true, true, false]);
        backend.refused(5000);
        backend.configure(address, 10, 60_000);
        assert!(backend.refuses(5000));
        backend.configure(SocketAddr::from(([127, 0, 0, 1], 1)), 10, 60_000);
        assert!(!backend.refuses(5000));
        backend.refused(5000);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        stream.set_nonblocking(true).expect("a socket");
        let Available::Permit(permit) = backend.take(Look::AtRuntime) else { panic!("nothing is open") };
        let _link = Link::new(TcpStream::from_std(stream).expect("a runtime"), address, permit, &backend);
        assert!(!backend.refuses(5000));
    }

    #[test]
    fn what_a_backend_kept_is_counted_no_more_when_it_leaves() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        let (permits, counters) = (Arc::new(Permits::default()), Arc::new(BackendCounters::default()));
        let backend = Backend::new(BackendId::new(1), 0, permits.clone(), counters.clone());
        backend.configure(address, 2, 60_000);
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        stream.set_nonblocking(true).expect("a socket");
        let Available::Permit(permit) = backend.take(Look::AtRuntime) else { panic!("nothing is open") };
        backend.put(Link::new(TcpStream::from_std(stream).expect("a runtime"), address, permit, &backend), 0);
        let counts =
            || [u64::from(permits.idle.load(Ordering::SeqCst)), counters.idle.get(), counters.connections.get()];
        assert_eq!(counts(), [1, 1, 1]);
        drop(backend);
        assert_eq!(counts(), [0, 0, 0]);
    }
}
