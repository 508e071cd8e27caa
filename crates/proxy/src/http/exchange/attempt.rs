//! One attempt at a request: its course on one connection to a backend.
//!
//! The request goes out while the response is awaited; the head of the response is rewritten; what
//! is left of both bodies is moved. Each of these has a file of its own beside this one.
//!
//! Not here: whether to try again ([`super::attempts`]).

use std::rc::Rc;

use ballast_clock::boot_now;
use ballast_core::{balance::HashKey, config::Persistence, health::Answer, ids::BackendId};

use super::{After, job::Job, reply::is_failure, sending::Sent, trail::Trail};
use crate::{
    backend::{Backend, Link, Own},
    buf::Buf,
    http::{
        client::Client,
        ending::Ending,
        flow::Flow,
        stick::{Affinity, Chooser},
        tunnel,
    },
    live::{Farm, Service},
};

/// One attempt on one connection.
pub(super) struct Attempt<'a> {
    pub(super) farm: &'a Rc<Farm>,
    pub(super) service: &'a Rc<Service>,
    pub(super) backend: &'a Rc<Backend>,
    pub(super) job: &'a mut Job,
    pub(super) trail: &'a mut Trail,
}

/// How an attempt on one connection went.
pub(super) enum Attempted {
    /// The request has ended.
    Over(Ending, After),
    /// Nothing was lost: it may be sent again on a new connection.
    Again,
    /// The connection closed as idle ones do, and the request may have been carried out: it is not sent again. Says nothing
    /// of the backend.
    Stale,
}

impl Attempt<'_> {
    pub(super) async fn run(mut self, client: &mut Client, mut link: Link, set_cookie: Option<BackendId>) -> Attempted {
        let worker = client.worker().clone();
        self.job.out.rewind();
        let mut input = Buf::default();
        link.is_private |= self.job.logs_in_connection;
        let attempt = self.converse(client, &mut link, &mut input, set_cookie).await;
        let clean = input.is_empty();
        worker.pool.discard(&mut input);
        match attempt {
            Ok((ending, after, reusable)) => {
                if reusable && clean {
                    self.keep(client, link, after);
                }
                Attempted::Over(ending, after)
            }
            Err(attempt) => attempt,
        }
    }

    /// Lets the connection idle for the next request; a private one for the next of this client.
    fn keep(&self, client: &mut Client, link: Link, after: After) {
        let now_ms = client.timer.now_ms();
        if !link.is_private {
            self.backend.put(link, now_ms);
        } else if after == After::Keep {
            client.own = Own::keep(self.backend, link, now_ms);
        }
    }

    async fn converse(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        input: &mut Buf,
        set_cookie: Option<BackendId>,
    ) -> Result<(Ending, After, bool), Attempted> {
        let mut sent = Sent::Going;
        let head_len = self.await_response(client, link, input, &mut sent).await?;
        self.trail.first_ns = boot_now().get();
        let mut reply = self
            .rewrite(client, input, head_len, sent, set_cookie)
            .map_err(|ending| Attempted::Over(ending, After::Linger))?;
        link.is_private |= reply.logs_in_connection;
        if sent == Sent::All {
            client.worker().pool.discard(&mut self.job.out);
        }
        if let (Some(key), Some(Persistence::Table(table))) = (reply.learns, &self.service.plan.persistence) {
            let chooser = Chooser {
                worker: client.worker(),
                timer: &client.timer,
                farm: self.farm.clone(),
                service: self.service.clone(),
                affinity: Affinity::None,
                hash: HashKey::default(),
                tried: &[],
                own: None,
            };
            self.trail.binding = chooser.learn(key, self.backend.id, table).await;
        }
        self.trail.status = reply.status;
        self.count_status(reply.status);
        if reply.upgrades {
            self.observed(client, Answer::Good);
            return Ok((self.tunnel(client, link, input, reply.flow).await, After::Close, false));
        }
        let ending = self.relay(client, link, input, &mut sent, &mut reply).await;
        self.trail.bytes_out = reply.flow.written;
        client.listener().counters.bytes_out_total.add(reply.flow.written);
        client.worker().pool.discard(&mut reply.flow.pending);
        // Only now: one that breaks off every body would be found good as often as bad. What broke off is told with its ending.
        match ending {
            ending if ending.blames_backend() => {}
            _ if is_failure(reply.status) => self.observed(client, Answer::Bad),
            // A stream of events is ended by its client, if ever.
            ending if ending == Ending::Done || !reply.paced => self.observed(client, Answer::Good),
            _ => {}
        }
        Ok(match ending {
            Ending::Done if sent == Sent::All => {
                // A client that would have kept the connection may be sending its next request already, and some send an
                // empty line after a body. To close with that unread is a reset, which may cost the response's tail.
                let more = !client.buf.is_empty() || self.job.keep_alive || self.job.has_body;
                let rest = if more { After::Linger } else { After::Close };
                (Ending::Done, if reply.keep { After::Keep } else { rest }, reply.reusable)
            }
            Ending::Done => (Ending::Done, After::Linger, false),
            ending => (ending, After::Reset, false),
        })
    }

    /// Carries bytes both ways once the backend has switched protocols.
    async fn tunnel(&mut self, client: &mut Client, link: &mut Link, input: &mut Buf, flow: Flow) -> Ending {
        let idle_ms = self.farm.plan.timeouts.tunnel_idle.as_millis();
        let early = std::mem::take(input);
        let (ending, up, down) = tunnel::run(client, &mut link.stream, early, flow, idle_ms).await;
        self.job.flow.received = up;
        self.trail.bytes_out = down;
        client.listener().counters.bytes_out_total.add(down);
        ending
    }
}
