//! The request on its way to the backend, and the deadlines until its response begins.
//!
//! Not here: reading the response ([`super::head`]).

use std::task::{Context, Poll};

use ballast_core::config::Timeouts;
use tokio::net::TcpStream;

use super::job::Job;
use crate::{
    http::{client::Client, ending::Ending, fault::Fault, flow::FlowError},
    ticks::Timer,
};

/// Where sending the request stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Not all of it has left.
    Going,
    /// All of it has left.
    All,
    /// The backend takes no more; it may have answered all the same.
    Broken,
}

/// Why a request cannot be sent to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The client broke the connection off.
    Gone,
    /// The client ended its direction too early; it may still read.
    Cut,
    /// The body is malformed or too large.
    Fault(Fault),
}

impl Unsent {
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Gone | Self::Cut => Ending::ClientClosed,
            Self::Fault(fault) => Ending::Request(fault),
        }
    }
}

/// Sends the request on as far as it goes.
pub(super) fn poll_send(
    cx: &mut Context<'_>,
    client: &mut Client,
    to: &mut TcpStream,
    job: &mut Job,
    sent: &mut Sent,
) -> Result<(), Unsent> {
    if *sent != Sent::Going {
        return Ok(());
    }
    match job.out.poll_drain(cx, to) {
        Poll::Pending => return Ok(()),
        Poll::Ready(Err(_)) => {
            *sent = Sent::Broken;
            return Ok(());
        }
        Poll::Ready(Ok(())) => {}
    }
    let worker = client.worker().clone();
    let received = job.flow.received;
    let polled = job.flow.poll(cx, &mut client.stream, &mut client.buf, to, &worker.pool);
    client.listener().counters.bytes_in_total.add(job.flow.received - received);
    match polled {
        Poll::Pending => Ok(()),
        Poll::Ready(Ok(())) => {
            *sent = Sent::All;
            Ok(())
        }
        Poll::Ready(Err(FlowError::Target)) => {
            *sent = Sent::Broken;
            Ok(())
        }
        Poll::Ready(Err(FlowError::Source)) => Err(Unsent::Gone),
        Poll::Ready(Err(FlowError::Truncated)) => Err(Unsent::Cut),
        Poll::Ready(Err(FlowError::Fault(fault))) => Err(Unsent::Fault(fault)),
    }
}

/// What is waited for between a request's head and its response's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// That the client sends the rest of the body.
    Body,
    /// That the backend takes what was read of the request.
    Room,
    /// That the backend answers, also by telling a client to go on that waits for `100 Continue`.
    Answer,
}

impl Awaited {
    fn of(job: &Job, sent: Sent) -> Self {
        if sent != Sent::Going {
            Self::Answer
        } else if !job.out.is_empty() || job.flow.waits_for_target() {
            Self::Room
        } else if job.expects_continue && job.flow.received == 0 {
            Self::Answer
        } else {
            Self::Body
        }
    }
}

/// The deadlines between a request's head and its response's.
pub(super) struct Pace {
    received: u64,
    written: u64,
    awaited: Option<Awaited>,
}

impl Pace {
    /// The request's head has just been taken off the client's buffer.
    pub(super) fn new(job: &Job) -> Self {
        Self { received: job.flow.received, written: job.flow.written, awaited: None }
    }

    /// Sets the deadline after progress; says what ran out when it has passed.
    pub(super) fn check(&mut self, timer: &Timer, timeouts: &Timeouts, job: &mut Job, sent: Sent) -> Option<Ending> {
        let moved = job.flow.received != self.received || job.flow.written != self.written;
        let awaited = Awaited::of(job, sent);
        if moved || self.awaited != Some(awaited) {
            (self.received, self.written, self.awaited) = (job.flow.received, job.flow.written, Some(awaited));
            let now_ms = timer.now_ms();
            if awaited == Awaited::Body {
                job.rate.run(now_ms);
            } else {
                job.rate.hold(now_ms);
            }
            let deadline = match awaited {
                Awaited::Answer => timer.after(timeouts.response_header.as_millis()),
                Awaited::Room => timer.after(timeouts.between_bytes.as_millis()),
                Awaited::Body => {
                    let (grace_ms, rate_min) = (timeouts.client_body.as_millis(), u64::from(timeouts.body_rate_min));
                    let enough = job.rate.enough_until(timer, grace_ms, job.flow.received, rate_min);
                    // A byte for every tick must not put off what is over.
                    if enough <= now_ms {
                        return Some(Ending::ClientBodyTimeout);
                    }
                    timer.after(grace_ms).min(enough)
                }
            };
            timer.arm_at(deadline);
        }
        timer.is_over().then_some(match awaited {
            Awaited::Body => Ending::ClientBodyTimeout,
            Awaited::Room | Awaited::Answer => Ending::BackendTimeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use ballast_core::{balance::HashKey, config::Span};

    use super::*;
    use crate::{
        buf::Buf,
        http::{
            exchange::rate::RateClock,
            flow::Flow,
            request::{Framing, Method},
            stick::Affinity,
        },
        ticks::Ticks,
    };

    #[test]
    fn time_in_which_the_backend_takes_nothing_is_not_the_clients() {
        let (between_bytes, client_body) = (Span::from_secs(10), Span::from_secs(20));
        let timeouts = Timeouts { between_bytes, client_body, body_rate_min: 100, ..Timeouts::default() };
        let ticks = Ticks::new(1000);
        let timer = ticks.timer(Waker::noop().clone());
        let mut job = Job {
            method: Method::Other,
            http10: false,
            keep_alive: true,
            expects_continue: false,
            has_body: true,
            upgrade: false,
            logs_in_connection: false,
            affinity: Affinity::None,
            hash: HashKey::default(),
            out: Buf::default(),
            flow: Flow::new(Framing::Length(1 << 40), Framing::Length(1 << 40), 0),
            rate: RateClock::new(timer.now_ms()),
        };
        let mut pace = Pace::new(&job);
        let mut after = |job: &mut Job, secs: u64| {
            ticks.advance(ticks.now_ms() + secs * 1000);
            pace.check(&timer, &timeouts, job, Sent::Going)
        };
        assert_eq!(after(&mut job, 0), None);
        for _ in 0..20 {
            job.flow.received += 1;
            job.flow.pending.vec().push(b'x');
            assert_eq!(after(&mut job, 0), None);
            job.flow.pending.clear();
            job.flow.written += 1;
            assert_eq!(after(&mut job, 9), None, "the backend took nine seconds");
        }
        // The client's own twenty seconds of grace begin to count only now.
        assert_eq!(after(&mut job, 19), None);
        assert_eq!(after(&mut job, 2), Some(Ending::ClientBodyTimeout));
    }
}
