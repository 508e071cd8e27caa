//! The response's body on its way to the client, and what is left of the request on its way to the backend.
//!
//! Not here: moving bytes ([`super::super::flow`]), upgraded connections ([`super::super::tunnel`]).

use std::{future::poll_fn, task::Poll};

use ballast_core::config::Timeouts;

use super::{
    attempt::Attempt,
    reply::Reply,
    sending::{Sent, enough_until, poll_send},
};
use crate::{
    backend::Link,
    buf::Buf,
    http::{
        client::Client,
        ending::Ending,
        flow::{Flow, FlowError},
    },
    ticks::Timer,
};

impl Attempt<'_> {
    /// Moves the response, and what is left of the request, to their ends.
    pub(super) async fn relay(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        input: &mut Buf,
        sent: &mut Sent,
        reply: &mut Reply,
    ) -> Ending {
        let worker = client.worker().clone();
        let timeouts = &self.farm.plan.timeouts;
        let job = &mut *self.job;
        let flow = &mut reply.flow;
        let mut pace = Pace::new(&client.timer, timeouts, reply.paced);
        let ending = poll_fn(|cx| {
            // The response matters more now: a request that cannot be sent further ends with it.
            if *sent == Sent::Going && poll_send(cx, client, &mut link.stream, job, sent).is_err() {
                *sent = Sent::Broken;
            }
            match flow.poll(cx, &mut link.stream, input, &mut client.stream, &worker.pool) {
                Poll::Ready(Ok(())) => Poll::Ready(Ending::Done),
                Poll::Ready(Err(FlowError::Truncated | FlowError::Source)) => Poll::Ready(Ending::Truncated),
                Poll::Ready(Err(FlowError::Target)) => Poll::Ready(Ending::ClientClosed),
                Poll::Ready(Err(FlowError::Fault(fault))) => Poll::Ready(Ending::ResponseBroken(fault)),
                Poll::Pending => {
                    let over = client.held.cut().or_else(|| pace.check(&client.timer, flow));
                    over.map_or(Poll::Pending, Poll::Ready)
                }
            }
        })
        .await;
        client.timer.disarm();
        ending
    }
}

/// The deadlines of a response's body.
struct Pace {
    /// Longest silence of the backend, and longest time in which the client takes nothing.
    between_ms: u64,
    /// Bytes per second that the backend must reach; zero if it need not.
    rate_min: u64,
    /// When the backend began, moved on by the time in which it waited for the client.
    began_ms: u64,
    /// Since when the client is waited for, if it is.
    held_since: Option<u64>,
    /// Bytes received and written when the deadline was set; `None` before the first one.
    moved: Option<(u64, u64)>,
}

impl Pace {
    /// The body begins now. `paced` says that it has to reach the lowest rate.
    fn new(timer: &Timer, timeouts: &Timeouts, paced: bool) -> Self {
        Self {
            between_ms: timeouts.between_bytes.as_millis(),
            rate_min: if paced { u64::from(timeouts.response_rate_min) } else { 0 },
            began_ms: timer.now_ms(),
            held_since: None,
            moved: None,
        }
    }

    /// Sets the deadline after progress; says what ran out when it has passed.
    fn check(&mut self, timer: &Timer, flow: &Flow) -> Option<Ending> {
        let moved = Some((flow.received, flow.written));
        if self.moved != moved {
            self.moved = moved;
            let stall = timer.after(self.between_ms);
            timer.arm_at(if flow.waits_for_target() {
                self.held_since.get_or_insert(timer.now_ms());
                stall
            } else {
                self.began_ms += self.held_since.take().map_or(0, |since| timer.now_ms() - since);
                let enough = enough_until(timer, self.began_ms, self.between_ms, flow.received, self.rate_min);
                // A byte for every tick must not put off what is over.
                if enough <= timer.now_ms() {
                    return Some(Ending::BackendStalled);
                }
                stall.min(enough)
            });
        }
        if !timer.is_over() {
            None
        } else if flow.waits_for_target() {
            Some(Ending::ClientStalled)
        } else {
            Some(Ending::BackendStalled)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, task::Waker};

    use ballast_core::config::Span;

    use super::*;
    use crate::{http::request::Framing, ticks::Ticks};

    fn timeouts(rate_min: u32) -> Timeouts {
        Timeouts { between_bytes: Span::from_secs(10), response_rate_min: rate_min, ..Timeouts::default() }
    }

    struct Bench {
        ticks: Rc<Ticks>,
        timer: Timer,
        pace: Pace,
        flow: Flow,
    }

    impl Bench {
        fn new(rate_min: u32, paced: bool) -> Self {
            let ticks = Ticks::new(1000);
            let timer = ticks.timer(Waker::noop().clone());
            let pace = Pace::new(&timer, &timeouts(rate_min), paced);
            Self { ticks, timer, pace, flow: Flow::new(Framing::Length(1 << 40), Framing::Length(1 << 40), 0) }
        }

        /// `secs` later, after so many more bytes were received and written.
        fn after(&mut self, secs: u64, received: u64, written: u64) -> Option<Ending> {
            self.ticks.advance(self.ticks.now_ms() + secs * 1000);
            self.flow.received += received;
            self.flow.written += written;
            self.pace.check(&self.timer, &self.flow)
        }
    }

    #[test]
    fn silence_is_ended_even_before_the_first_byte() {
        let mut bench = Bench::new(0, true);
        assert_eq!(bench.after(0, 0, 0), None);
        assert_eq!(bench.after(9, 0, 0), None);
        assert_eq!(bench.after(2, 0, 0), Some(Ending::BackendStalled));
        let mut bench = Bench::new(0, true);
        bench.flow.pending.vec().push(b'x');
        assert_eq!(bench.after(0, 0, 0), None);
        assert_eq!(bench.after(11, 0, 0), Some(Ending::ClientStalled));
    }

    #[test]
    fn a_trickle_ends_only_where_a_rate_is_asked_for() {
        for (rate_min, paced, ends) in [(100, true, true), (100, false, false), (0, true, false), (1, true, false)] {
            let mut bench = Bench::new(rate_min, paced);
            assert_eq!(bench.after(0, 0, 0), None);
            // Five bytes a second for a minute.
            let ended = (0..12).find_map(|_| bench.after(5, 25, 25));
            assert_eq!(ended.is_some(), ends, "{rate_min} {paced}");
        }
    }

    #[test]
    fn time_spent_waiting_for_the_client_is_not_the_backends() {
        let mut bench = Bench::new(100, true);
        assert_eq!(bench.after(0, 0, 0), None);
        for _ in 0..20 {
            bench.flow.pending.vec().push(b'x');
            assert_eq!(bench.after(0, 1, 0), None);
            bench.flow.pending.clear();
            assert_eq!(bench.after(9, 0, 1), None, "the client took nine seconds");
        }
        // The backend's own ten seconds of grace begin to count only now.
        assert_eq!(bench.after(9, 1, 1), None);
        assert_eq!(bench.after(2, 0, 0), Some(Ending::BackendStalled));
    }
}
