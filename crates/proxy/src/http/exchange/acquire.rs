//! A connection to a backend: an idle one, or a new one after a wait in line.
//!
//! A request whose client is bound waits for its backend. Any other waits in the lines of all backends that will do and goes
//! where its turn comes first; it counts as one that waits.
//!
//! Not here: the line itself and what idles ([`crate::backend`]).

use std::{
    future::poll_fn,
    io::ErrorKind,
    task::{Poll, Waker},
};

use ballast_clock::boot_now;
use ballast_core::{health::Answer, ids::BackendId};
use smallvec::{SmallVec, smallvec};
use tokio::net::TcpStream;

use crate::{
    backend::{Available, Backend, Link, Look, Queued},
    http::{client::Client, ending::Ending, stick::Tried},
    live::{Farm, Service},
    prober::unconnected,
    ticks::Elapsed,
};

/// Why there is no connection.
pub(super) enum NoLink {
    /// The backend's host refused it: nobody listens there, whoever asks.
    Refused,
    /// Nobody answered, or there was no way: that may be this node's trouble alone.
    Unreached,
    /// This node had no descriptor or port for it, say.
    Unasked,
    /// While a request waited in line its backend left, or may serve it no more, or one came: another is to be chosen.
    Left,
    /// Nobody tried.
    Ended(Ending),
}

impl NoLink {
    /// What it says of the backend, if anybody tried.
    pub(super) fn answer(&self) -> Answer {
        match self {
            Self::Refused => Answer::Bad,
            Self::Unreached => Answer::Nothing,
            Self::Unasked | Self::Left | Self::Ended(_) => Answer::Unasked,
        }
    }
}

impl From<Ending> for NoLink {
    fn from(ending: Ending) -> Self {
        Self::Ended(ending)
    }
}

/// Longest wait of a request that is not to wait, for other workers to give up idle connections. That takes microseconds
/// where a worker is not held up; whether there are any still is looked at with each tick. Arbitrary.
const YIELD_MS: u64 = 1000;

/// Lines that a request waits in at most. A place takes some hundred bytes, and as many requests may wait as there are
/// clients. Arbitrary: of so many backends one is soon free, and with more of them requests wait for different ones.
const LINES_MAX: usize = 16;

/// Places in line, with the positions of their backends.
type Places<'a> = SmallVec<[(usize, Queued<'a>); 4]>;

/// A request in search of a connection.
pub(super) struct Search<'a> {
    pub(super) client: &'a Client,
    pub(super) farm: &'a Farm,
    pub(super) service: &'a Service,
    /// Position of the backend that was chosen; after a wait, of the one whose turn came.
    pub(super) at: usize,
    /// The client's own connection to it.
    pub(super) own: Option<Link>,
    /// Where any backend will do: those that will not.
    pub(super) any_but: Option<&'a [Tried]>,
    /// Not an idle connection, if that can be had.
    pub(super) fresh: bool,
    /// Taken at an idle one.
    pub(super) look: Look,
    /// When the backend was chosen; after a wait, when that ended.
    pub(super) chosen_ns: u64,
}

impl<'a> Search<'a> {
    /// A connection to the backend at `at`: the client's own, an idle or a new one, after a wait in line if it is at its limit.
    /// `queue_until` is when that wait ends, once it has begun.
    pub(super) async fn acquire(&mut self, queue_until: &mut Option<u64>) -> Result<Link, NoLink> {
        if let Some(link) = self.own.take() {
            return Ok(link);
        }
        let (client, service) = (self.client, self.service);
        let chosen = &service.backends[self.at];
        let mut available = if self.fresh { chosen.take_new(self.look) } else { chosen.take(self.look) };
        let permit = loop {
            match available {
                Available::Link(link) => return Ok(link),
                Available::Permit(permit) => break permit,
                Available::Full => available = self.wait(queue_until).await?,
            }
        };
        let backend = &service.backends[self.at];
        let address = backend.address();
        let connecting = client.timer.limit(self.farm.plan.timeouts.connect.as_millis(), TcpStream::connect(address));
        let connected = {
            // It may take long, and the backend is not the least loaded meanwhile.
            let _counted = backend.connecting();
            client.unless_gone(connecting).await?
        };
        match connected {
            Ok(Ok(stream)) => {
                backend.counters.connects_total.up();
                // Without it small requests would wait for acknowledgements; failing costs only that.
                let _ = stream.set_nodelay(true);
                Ok(Link::new(stream, address, permit, backend))
            }
            Ok(Err(error)) => Err(match unconnected(&error) {
                Answer::Unasked => NoLink::Unasked,
                _ if error.kind() == ErrorKind::ConnectionRefused => {
                    backend.refused(client.timer.now_ms());
                    NoLink::Refused
                }
                _ => NoLink::Unreached,
            }),
            Err(Elapsed) => Err(NoLink::Unreached),
        }
    }

    /// Waits in line until the turn comes.
    async fn wait(&mut self, queue_until: &mut Option<u64>) -> Result<Available, NoLink> {
        let (client, service) = (self.client, self.service);
        let queue_ms = service.plan.queue_timeout_ms;
        // Whoever gave up must not hold a place: dropping `places` leaves the lines.
        let mut places = self.join(&poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
        if places.is_empty() {
            return Err(Ending::QueueFull.into());
        }
        service.state.counters.queued.up();
        let wait_ms = if queue_ms == 0 { YIELD_MS } else { queue_ms };
        let until = *queue_until.get_or_insert_with(|| client.timer.after(wait_ms));
        client.timer.arm_at(if queue_ms == 0 { client.timer.after(0) } else { until });
        let turn = client.unless_gone(poll_fn(|_| self.poll_turn(&mut places, until))).await;
        client.timer.disarm();
        service.state.counters.queued.down();
        self.chosen_ns = boot_now().get();
        let (at, available) = turn??;
        self.at = at;
        Ok(available)
    }

    /// Joins the lines of the backends that will do. Where no request is to wait, of those that have idle connections
    /// elsewhere only.
    fn join(&self, waker: &Waker) -> Places<'a> {
        let service = self.service;
        let mut lines: SmallVec<[usize; 8]> = smallvec![self.at];
        if let Some(tried) = self.any_but {
            let others = self.but_refusing(service, self.eligible(service, tried));
            // From the chosen one on, so that different requests leave out different ones.
            let (before, after) = others.split_at(others.partition_point(|at| *at < self.at));
            lines.extend(after.iter().chain(before).copied().filter(|at| *at != self.at));
        }
        let waits = service.plan.queue_timeout_ms > 0;
        let lines = lines.into_iter().filter(|at| waits || service.backends[*at].has_spare_elsewhere());
        let join = |at: usize| {
            let place = service.backends[at].queue(waker);
            self.ask_for_idle(at);
            (at, place)
        };
        lines.take(LINES_MAX).map(join).collect()
    }

    /// Asks the workers that have idle connections to a backend, if any has, to give one up for whoever is first in line.
    fn ask_for_idle(&self, at: usize) {
        let backend = &self.service.backends[at];
        if backend.has_idle_elsewhere() {
            self.client.worker().ask_for_idle(backend.id);
        }
    }

    /// What the turn brought, and where; or why to wait no more.
    fn poll_turn(&self, places: &mut Places<'_>, until: u64) -> Poll<Result<(usize, Available), NoLink>> {
        for (at, place) in places.iter_mut() {
            if let Poll::Ready(available) = place.poll(self.look) {
                return Poll::Ready(Ok((*at, available)));
            }
            if place.take_rejoined() {
                self.ask_for_idle(*at);
            }
        }
        let timer = &self.client.timer;
        if timer.is_over() {
            if self.service.plan.queue_timeout_ms > 0 {
                return Poll::Ready(Err(Ending::QueueTimeout.into()));
            }
            let may_be_yielded = places.iter().any(|(at, _)| self.service.backends[*at].has_idle_elsewhere());
            if !may_be_yielded || timer.now_ms() >= until {
                return Poll::Ready(Err(Ending::QueueFull.into()));
            }
            timer.arm(0);
        }
        if self.is_left(places) { Poll::Ready(Err(NoLink::Left)) } else { Poll::Pending }
    }

    /// Leaves the lines of backends that a newer plan than the one that they were chosen by has no use for. True when there
    /// is none left, or one will do as well that has room or a line to join.
    fn is_left(&self, places: &mut Places<'_>) -> bool {
        let worker = self.client.worker();
        let Some((_, service)) = worker.live().renewed(self.farm, self.service) else { return false };
        let id = |at: usize| self.service.backends[at].id;
        let Some(tried) = self.any_but else {
            places.retain(|(at, _)| {
                let at = service.position(id(*at));
                at.is_some_and(|at| service.must_leave(at, &*worker.shared.ports.passive).is_none())
            });
            return places.is_empty();
        };
        let eligible = self.eligible(&service, tried);
        places.retain(|(at, _)| service.position(id(*at)).is_some_and(|at| eligible.contains(&at)));
        let eligible = self.but_refusing(&service, eligible);
        // Where no request is to wait, only some have a line to join.
        let joins_more = self.service.plan.queue_timeout_ms > 0 && places.len() < LINES_MAX;
        let has_place = |backend: BackendId| places.iter().any(|(at, _)| id(*at) == backend);
        let will_do = |backend: &Backend| backend.has_room() || joins_more && !has_place(backend.id);
        places.is_empty() || eligible.iter().any(|at| will_do(&service.backends[*at]))
    }

    fn eligible(&self, service: &Service, tried: &[Tried]) -> SmallVec<[usize; 8]> {
        let tried: SmallVec<[BackendId; 4]> = tried.iter().map(|tried| tried.backend).collect();
        service.eligible(&tried, &*self.client.worker().shared.ports.passive)
    }

    /// Leaves out those that refused a connection a moment ago, where there are others: there is room at once in their lines.
    fn but_refusing(&self, service: &Service, mut eligible: SmallVec<[usize; 8]>) -> SmallVec<[usize; 8]> {
        let now_ms = self.client.timer.now_ms();
        let refuses = |at: usize| service.backends[at].refuses(now_ms);
        if !eligible.iter().all(|at| refuses(*at)) {
            eligible.retain(|at| !refuses(*at));
        }
        eligible
    }
}
