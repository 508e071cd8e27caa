//! Until the response's head is here: the request is sent, interim responses are passed on, and
//! every wait has its deadline.
//!
//! Not here: the final head ([`super::reply`]).

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use tokio::net::TcpStream;

use super::{
    After,
    attempt::{Attempt, Attempted},
    sending::{Pace, Sent, poll_send},
};
use crate::{
    backend::Link,
    buf::{Buf, BufPool},
    http::{
        client::Client,
        ending::Ending,
        fault::Fault,
        field::HeadScan,
        forward::{self, Connection, ResponseContext},
        request::Framing,
        response,
    },
};

/// Interim responses to one request; real ones are one or two.
const INTERIM_MAX: u32 = 16;

/// What stands between the request and its response's head.
enum Waited {
    /// A head of this length.
    Head(usize),
    /// The backend closed, after this many bytes.
    Closed(usize),
    /// It cannot be had.
    Failed(Ending),
}

impl Attempt<'_> {
    /// Sends the request and waits for the head of the final response, which is not looked into yet. Returns its length.
    pub(super) async fn await_response(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        input: &mut Buf,
        sent: &mut Sent,
    ) -> Result<usize, Attempted> {
        // The body may be sent again only while none of it has left our hands.
        let replayable = self.job.flow.is_read();
        let mut interim = 0;
        loop {
            let head_len = match self.await_head(client, link, input, sent).await {
                Waited::Head(length) => length,
                Waited::Closed(received) => {
                    let unsent = self.job.out.rewound_len() == self.job.out.len();
                    if link.reused && received == 0 && interim == 0 {
                        // Where not a byte could be written the connection had ended before, and no application has seen the
                        // request. What had left may have been carried out: that is repeated as often as the service allows.
                        let may_repeat = self.job.method.is_idempotent() && self.trail.may_repeat(self.service);
                        let safe = replayable && (unsent || may_repeat);
                        return Err(if safe { Attempted::Again } else { Attempted::Stale });
                    }
                    return Err(Attempted::Over(Ending::BackendClosed, After::Linger));
                }
                Waited::Failed(ending) => return Err(Attempted::Over(ending, After::Linger)),
            };
            if !is_interim(&input.bytes()[..head_len]) {
                return Ok(head_len);
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Err(Attempted::Over(Ending::InterimFlood, After::Linger));
            }
            self.pass_interim(client, input, head_len).await.map_err(|ending| Attempted::Over(ending, After::Reset))?;
        }
    }

    /// Sends the request and waits for the head of a response.
    async fn await_head(&mut self, client: &mut Client, link: &mut Link, input: &mut Buf, sent: &mut Sent) -> Waited {
        let worker = client.worker().clone();
        let timeouts = &self.farm.plan.timeouts;
        let job = &mut *self.job;
        let mut pace = Pace::new(job);
        let mut reading = Reading { scan: HeadScan::default(), head_max: self.farm.head_bytes_max, pool: &worker.pool };
        // Ready with nothing once there is no more to send: most requests get there in the first poll.
        let sending = poll_fn(|cx| {
            if let Err(unsent) = poll_send(cx, client, &mut link.stream, job, sent) {
                return Poll::Ready(Some(Waited::Failed(unsent.ending())));
            }
            if *sent != Sent::Going {
                return Poll::Ready(None);
            }
            match reading.poll(cx, &mut link.stream, input) {
                Poll::Ready(waited) => Poll::Ready(Some(waited)),
                Poll::Pending => {
                    let over = client.held.cut().or_else(|| pace.check(&client.timer, timeouts, job, *sent));
                    over.map_or(Poll::Pending, |ending| Poll::Ready(Some(Waited::Failed(ending))))
                }
            }
        });
        let waited = match sending.await {
            Some(waited) => waited,
            None => {
                let waiting = poll_fn(|cx| match reading.poll(cx, &mut link.stream, input) {
                    Poll::Pending => {
                        let over = client.held.cut().or_else(|| pace.check(&client.timer, timeouts, job, *sent));
                        over.map_or(Poll::Pending, |ending| Poll::Ready(Waited::Failed(ending)))
                    }
                    ready => ready,
                });
                client.unless_gone(waiting).await.unwrap_or_else(Waited::Failed)
            }
        };
        client.timer.disarm();
        job.rate.hold(client.timer.now_ms());
        waited
    }

    /// Passes an interim response on to a client that knows what it is.
    async fn pass_interim(&mut self, client: &mut Client, input: &mut Buf, head_len: usize) -> Result<(), Ending> {
        let worker = client.worker().clone();
        let mut fields = worker.fields.take();
        let head = &input.bytes()[..head_len];
        let parsed = response::parse(head, self.job.method, self.farm.head_limits.fields_max, &mut fields);
        let mut out = Buf::default();
        if let Ok(response) = &parsed {
            // RFC 9110 section 15.2: never to an HTTP/1.0 client; 100 only to one that waits for it.
            let wanted = !self.job.http10 && (response.status != 100 || std::mem::take(&mut self.job.expects_continue));
            if wanted {
                worker.pool.lend_small(&mut out);
                let context = ResponseContext {
                    framing: Framing::None,
                    connection: Connection::Keep,
                    date: b"",
                    set_cookie: b"",
                };
                forward::write_response(out.vec(), head, response, &fields, &context);
            }
        }
        *worker.fields.borrow_mut() = fields;
        parsed.map_err(Ending::Response)?;
        input.consume(head_len);
        worker.pool.reclaim(input);
        let result = client.write(&mut out, self.farm.plan.timeouts.between_bytes.as_millis()).await;
        worker.pool.discard(&mut out);
        result
    }
}

/// Reading a response's head.
struct Reading<'a> {
    scan: HeadScan,
    head_max: usize,
    pool: &'a BufPool,
}

impl Reading<'_> {
    /// Reads on. Ready once there is a whole head, or there can be none.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut TcpStream, input: &mut Buf) -> Poll<Waited> {
        loop {
            if !input.is_empty() {
                match self.scan.find_end(input.bytes()) {
                    Ok(Some(length)) if length <= self.head_max => return Poll::Ready(Waited::Head(length)),
                    Ok(None) if input.len() <= self.head_max => {}
                    Ok(_) => return Poll::Ready(Waited::Failed(Ending::Response(Fault::HeadTooLarge))),
                    Err(fault) => return Poll::Ready(Waited::Failed(Ending::Response(fault))),
                }
            }
            self.pool.lend_small(input);
            input.make_room(1);
            match input.poll_fill(cx, from, usize::MAX) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Waited::Closed(input.len())),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    self.pool.reclaim(input);
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Whether a head is one of 1xx, but not 101, which is final.
fn is_interim(head: &[u8]) -> bool {
    matches!(head.get(8..12), Some([b' ', b'1', rest @ ..]) if rest != b"01")
}
