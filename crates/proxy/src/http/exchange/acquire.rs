//! A connection to a backend: an idle one, or a new one after a wait in line.
//!
//! Not here: the line itself and what idles ([`crate::backend`]).

use std::{future::poll_fn, io::ErrorKind, rc::Rc, task::Poll};

use ballast_core::health::Answer;
use tokio::net::TcpStream;

use crate::{
    backend::{Available, Backend, Link, Look},
    http::{client::Client, ending::Ending},
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
    /// While a request waited in line its backend left, or may serve it no more: another is to be chosen.
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

/// A connection to `backend`: an idle one (unless `fresh`), or a new one, after a wait in line if it is at its limit.
/// `look` is taken at an idle one. `queue_until` is when that wait ends, once it has begun.
pub(super) async fn acquire(
    client: &Client,
    farm: &Farm,
    service: &Service,
    backend: &Rc<Backend>,
    fresh: bool,
    look: Look,
    queue_until: &mut Option<u64>,
) -> Result<Link, NoLink> {
    let mut available = if fresh { backend.take_new(look) } else { backend.take(look) };
    let queue_ms = service.plan.queue_timeout_ms;
    loop {
        let permit = match available {
            Available::Link(link) => return Ok(link),
            Available::Permit(permit) => permit,
            Available::Full if queue_ms == 0 && !backend.has_spare_elsewhere() => return Err(Ending::QueueFull.into()),
            Available::Full => {
                service.state.counters.queued.up();
                let mut place = backend.queue(&poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
                if backend.has_idle_elsewhere() {
                    client.worker().ask_for_idle(backend.id);
                }
                let wait_ms = if queue_ms == 0 { YIELD_MS } else { queue_ms };
                let until = *queue_until.get_or_insert_with(|| client.timer.after(wait_ms));
                client.timer.arm_at(if queue_ms == 0 { client.timer.after(0) } else { until });
                // Whoever gave up must not hold a place: dropping `place` leaves the line.
                let granted = client
                    .unless_gone(poll_fn(|_| {
                        if let Poll::Ready(available) = place.poll(look) {
                            return Poll::Ready(Ok(available));
                        }
                        if client.timer.is_over() {
                            if queue_ms > 0 {
                                return Poll::Ready(Err(NoLink::from(Ending::QueueTimeout)));
                            }
                            if !backend.has_idle_elsewhere() || client.timer.now_ms() >= until {
                                return Poll::Ready(Err(NoLink::from(Ending::QueueFull)));
                            }
                            client.timer.arm(0);
                        }
                        let is_left = is_left(client, farm, service, backend);
                        if is_left { Poll::Ready(Err(NoLink::Left)) } else { Poll::Pending }
                    }))
                    .await;
                client.timer.disarm();
                service.state.counters.queued.down();
                available = granted??;
                continue;
            }
        };
        let address = backend.address();
        let connecting = client.timer.limit(farm.plan.timeouts.connect.as_millis(), TcpStream::connect(address));
        return match client.unless_gone(connecting).await? {
            Ok(Ok(stream)) => {
                backend.counters.connects_total.up();
                // Without it small requests would wait for acknowledgements; failing costs only that.
                let _ = stream.set_nodelay(true);
                Ok(Link::new(stream, address, permit, backend))
            }
            Ok(Err(error)) => Err(match unconnected(&error) {
                Answer::Unasked => NoLink::Unasked,
                _ if error.kind() == ErrorKind::ConnectionRefused => NoLink::Refused,
                _ => NoLink::Unreached,
            }),
            Err(Elapsed) => Err(NoLink::Unreached),
        };
    }
}

/// Whether a newer plan than the one that `backend` was chosen by has no use for it.
fn is_left(client: &Client, farm: &Farm, service: &Service, backend: &Backend) -> bool {
    let worker = client.worker();
    worker.live().renewed(farm, service).is_some_and(|(_, service)| {
        let at = service.position(backend.id);
        at.is_none_or(|at| service.must_leave(at, &*worker.shared.ports.passive).is_some())
    })
}
