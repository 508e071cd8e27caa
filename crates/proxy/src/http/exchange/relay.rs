//! The response's body on its way to the client, and what is left of the request on its way to the backend.
//!
//! Not here: moving bytes ([`super::super::flow`]), upgraded connections ([`super::super::tunnel`]).

use std::{future::poll_fn, task::Poll};

use ballast_core::config::Timeouts;

use super::{
    attempt::Attempt,
    job::Job,
    rate::RateClock,
    reply::Reply,
    sending::{Sent, Unsent, poll_send},
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
        let mut unsent = None;
        let ending = poll_fn(|cx| {
            if *sent == Sent::Going
                && let Err(why) = poll_send(cx, client, &mut link.stream, job, sent)
            {
                if why == Unsent::Gone {
                    return Poll::Ready(why.ending());
                }
                // The response matters more now: a request that cannot be sent further ends with it.
                *sent = Sent::Broken;
                unsent = Some(why.ending());
            }
            match flow.poll(cx, &mut link.stream, input, &mut client.stream, &worker.pool) {
                Poll::Ready(Ok(())) => Poll::Ready(Ending::Done),
                Poll::Ready(Err(FlowError::Truncated | FlowError::Source)) => Poll::Ready(Ending::Truncated),
                Poll::Ready(Err(FlowError::Target)) => Poll::Ready(Ending::ClientClosed),
                Poll::Ready(Err(FlowError::Fault(fault))) => Poll::Ready(Ending::ResponseBroken(fault)),
                Poll::Pending => {
                    let upload = Upload::of(job, *sent);
                    let over = client.held.cut().or_else(|| pace.check(&client.timer, flow, upload, &mut job.rate));
                    over.map_or(Poll::Pending, Poll::Ready)
                }
            }
        })
        .await;
        client.timer.disarm();
        match (ending, unsent) {
            // It waited for the rest of the request.
            (Ending::Truncated | Ending::BackendStalled, Some(why)) => why,
            (ending, _) => ending,
        }
    }
}

/// Where the rest of a request stands.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Upload {
    /// Bytes received and sent on.
    moved: (u64, u64),
    /// Who is to move it on; `None` once nothing more is sent.
    awaits: Option<Side>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

impl Upload {
    fn of(job: &Job, sent: Sent) -> Self {
        let waits_for_backend = !job.out.is_empty() || job.flow.waits_for_target();
        let side = if waits_for_backend { Side::Backend } else { Side::Client };
        let sent_on = job.flow.written + (job.out.rewound_len() - job.out.len()) as u64;
        Self { moved: (job.flow.received, sent_on), awaits: (sent == Sent::Going).then_some(side) }
    }
}

/// The deadlines of a response's body.
struct Pace {
    /// Longest silence of the backend, and longest time in which the client takes nothing.
    between_ms: u64,
    /// Longest silence of a client that has not sent all of its request.
    body_ms: u64,
    /// Bytes per second that the client must reach with its request; zero if it need not.
    body_rate_min: u64,
    /// Bytes per second that the backend must reach; zero if it need not.
    rate_min: u64,
    /// The time that the backend had. Stands still while the client is waited for, or the request is still sent.
    rate: RateClock,
    /// Bytes received and written, and the request's, when the deadline was set; `None` before the first one.
    moved: Option<(u64, u64, Upload)>,
}

impl Pace {
    /// The body begins now. `paced` says that it has to reach the lowest rate.
    fn new(timer: &Timer, timeouts: &Timeouts, paced: bool) -> Self {
        Self {
            between_ms: timeouts.between_bytes.as_millis(),
            body_ms: timeouts.client_body.as_millis(),
            body_rate_min: u64::from(timeouts.body_rate_min),
            rate_min: if paced { u64::from(timeouts.response_rate_min) } else { 0 },
            rate: RateClock::new(timer.now_ms()),
            moved: None,
        }
    }

    /// Sets the deadline after progress either way; says what ran out when it has passed. `body` is the time that the client
    /// had for its request.
    fn check(&mut self, timer: &Timer, flow: &Flow, upload: Upload, body: &mut RateClock) -> Option<Ending> {
        let moved = Some((flow.received, flow.written, upload));
        if self.moved != moved {
            self.moved = moved;
            let now_ms = timer.now_ms();
            let stall = timer.after(self.between_ms);
            let deadline = if flow.waits_for_target() || upload.awaits.is_some() {
                self.rate.hold(now_ms);
                let waits_for_request = !flow.waits_for_target() && upload.awaits == Some(Side::Client);
                if waits_for_request { timer.after(self.body_ms) } else { stall }
            } else {
                self.rate.run(now_ms);
                let enough = self.rate.enough_until(timer, self.between_ms, flow.received, self.rate_min);
                // A byte for every tick must not put off what is over.
                if enough <= now_ms {
                    return Some(Ending::BackendStalled);
                }
                stall.min(enough)
            };
            let enough = if upload.awaits == Some(Side::Client) {
                body.run(now_ms);
                body.enough_until(timer, self.body_ms, upload.moved.0, self.body_rate_min)
            } else {
                body.hold(now_ms);
                u64::MAX
            };
            if enough <= now_ms {
                return Some(Ending::ClientBodyTimeout);
            }
            timer.arm_at(deadline.min(enough));
        }
        if !timer.is_over() {
            None
        } else if flow.waits_for_target() {
            Some(Ending::ClientStalled)
        } else if upload.awaits == Some(Side::Client) {
            Some(Ending::ClientBodyTimeout)
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
        let (between_bytes, client_body) = (Span::from_secs(10), Span::from_secs(20));
        Timeouts { between_bytes, client_body, response_rate_min: rate_min, body_rate_min: 0, ..Timeouts::default() }
    }

    struct Bench {
        ticks: Rc<Ticks>,
        timer: Timer,
        pace: Pace,
        flow: Flow,
        upload: Upload,
        body: RateClock,
    }

    impl Bench {
        fn new(rate_min: u32, paced: bool) -> Self {
            let ticks = Ticks::new(1000);
            let timer = ticks.timer(Waker::noop().clone());
            let pace = Pace::new(&timer, &timeouts(rate_min), paced);
            let flow = Flow::new(Framing::Length(1 << 40), Framing::Length(1 << 40), 0);
            let (upload, body) = (Upload { moved: (0, 0), awaits: None }, RateClock::new(timer.now_ms()));
            Self { ticks, timer, pace, flow, upload, body }
        }

        /// `secs` later, after so many more bytes were received and written.
        fn after(&mut self, secs: u64, received: u64, written: u64) -> Option<Ending> {
            self.ticks.advance(self.ticks.now_ms() + secs * 1000);
            self.flow.received += received;
            self.flow.written += written;
            self.pace.check(&self.timer, &self.flow, self.upload, &mut self.body)
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

    #[test]
    fn a_request_that_is_still_sent_is_no_silence() {
        for awaits in [Side::Client, Side::Backend] {
            let mut bench = Bench::new(100, true);
            bench.upload.awaits = Some(awaits);
            assert_eq!(bench.after(0, 0, 0), None);
            for _ in 0..20 {
                bench.upload.moved.0 += 1;
                assert_eq!(bench.after(9, 0, 0), None);
                bench.upload.moved.1 += 1;
                assert_eq!(bench.after(9, 0, 0), None);
            }
            // Nor does the backend have had its time to answer.
            bench.upload.awaits = None;
            assert_eq!(bench.after(0, 0, 0), None);
            assert_eq!(bench.after(9, 0, 0), None);
            assert_eq!(bench.after(2, 0, 0), Some(Ending::BackendStalled));
        }
    }

    #[test]
    fn a_request_must_not_trickle_because_its_response_has_begun() {
        for (rate_min, reads, ends) in [(100, true, true), (100, false, true), (1, true, false), (0, true, false)] {
            let mut bench = Bench::new(0, true);
            bench.pace.body_rate_min = rate_min;
            bench.upload.awaits = Some(Side::Client);
            if !reads {
                bench.flow.pending.vec().push(b'x');
            }
            assert_eq!(bench.after(0, 0, 0), None);
            // Five bytes a second for a minute.
            let ended = (0..12).find_map(|_| {
                bench.upload.moved.0 += 25;
                bench.after(5, 0, 0)
            });
            assert_eq!(ended, ends.then_some(Ending::ClientBodyTimeout), "{rate_min} {reads}");
        }
    }

    #[test]
    fn time_spent_waiting_for_the_backend_is_not_the_clients() {
        let mut bench = Bench::new(0, true);
        bench.pace.body_rate_min = 100;
        bench.upload.awaits = Some(Side::Client);
        assert_eq!(bench.after(0, 0, 0), None);
        for n in 1..=20 {
            bench.upload = Upload { moved: (n, n - 1), awaits: Some(Side::Backend) };
            assert_eq!(bench.after(0, 0, 0), None);
            bench.upload = Upload { moved: (n, n), awaits: Some(Side::Client) };
            assert_eq!(bench.after(9, 0, 0), None, "the backend took nine seconds");
        }
        assert_eq!(bench.after(19, 0, 0), None);
        assert_eq!(bench.after(2, 0, 0), Some(Ending::ClientBodyTimeout));
    }

    #[test]
    fn who_holds_a_request_up_is_to_blame() {
        for (awaits, secs, ending) in
            [(Side::Client, 20, Ending::ClientBodyTimeout), (Side::Backend, 10, Ending::BackendStalled)]
        {
            let mut bench = Bench::new(0, true);
            bench.upload.awaits = Some(awaits);
            assert_eq!(bench.after(0, 1, 1), None);
            assert_eq!(bench.after(secs - 1, 0, 0), None);
            assert_eq!(bench.after(2, 0, 0), Some(ending));
        }
        let mut bench = Bench::new(0, true);
        bench.upload.awaits = Some(Side::Client);
        bench.flow.pending.vec().push(b'x');
        assert_eq!(bench.after(0, 1, 0), None);
        assert_eq!(bench.after(11, 0, 0), Some(Ending::ClientStalled), "it does not read either");
    }
}
