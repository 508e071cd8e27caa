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
    began_ms: u64,
    received: u64,
    written: u64,
    awaited: Option<Awaited>,
}

impl Pace {
    /// The request's head has just been taken off the client's buffer.
    pub(super) fn new(client: &Client, job: &Job) -> Self {
        Self { began_ms: client.timer.now_ms(), received: job.flow.received, written: job.flow.written, awaited: None }
    }

    /// Sets the deadline after progress; says what ran out when it has passed.
    pub(super) fn check(&mut self, client: &Client, timeouts: &Timeouts, job: &Job, sent: Sent) -> Option<Ending> {
        if let Some(cut) = client.held.cut() {
            return Some(cut);
        }
        let moved = job.flow.received != self.received || job.flow.written != self.written;
        let awaited = Awaited::of(job, sent);
        if moved || self.awaited != Some(awaited) {
            (self.received, self.written, self.awaited) = (job.flow.received, job.flow.written, Some(awaited));
            let deadline = match awaited {
                Awaited::Answer => client.timer.after(timeouts.response_header.as_millis()),
                Awaited::Room => client.timer.after(timeouts.between_bytes.as_millis()),
                Awaited::Body => {
                    let stall = client.timer.after(timeouts.client_body.as_millis());
                    let enough = self.rate_deadline(client, timeouts, job);
                    // A byte for every tick must not put off what is over.
                    if enough <= client.timer.now_ms() {
                        return Some(Ending::ClientBodyTimeout);
                    }
                    stall.min(enough)
                }
            };
            client.timer.arm_at(deadline);
        }
        client.timer.is_over().then_some(match awaited {
            Awaited::Body => Ending::ClientBodyTimeout,
            Awaited::Room | Awaited::Answer => Ending::BackendTimeout,
        })
    }

    /// Until when the bytes received so far are fast enough.
    fn rate_deadline(&self, client: &Client, timeouts: &Timeouts, job: &Job) -> u64 {
        let rate_min = u64::from(timeouts.body_rate_min);
        let grace_ms = timeouts.client_body.as_millis();
        enough_until(&client.timer, self.began_ms, grace_ms, job.flow.received, rate_min)
    }
}

/// Until when `received` bytes since `began_ms` are at least `rate_min` bytes per second, after a grace. Zero asks for nothing.
pub(super) fn enough_until(timer: &Timer, began_ms: u64, grace_ms: u64, received: u64, rate_min: u64) -> u64 {
    let Some(earned_ms) = received.saturating_mul(1000).checked_div(rate_min) else { return u64::MAX };
    // The clock may have been a tick behind when it began.
    let slack_ms = timer.after(0) - timer.now_ms();
    began_ms.saturating_add(slack_ms).saturating_add(grace_ms).saturating_add(earned_ms)
}
