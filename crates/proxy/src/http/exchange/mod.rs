//! One request and its response.
//!
//! The head is parsed and everything needed of it is taken while it lies in the buffer: where it
//! goes, who the client is, and the head to send, written straight into one buffer. After that the
//! request's bytes are not looked at again. Request body and response are moved by one poll
//! function each way, so a backend may answer before it has read everything, and either side may be slow.
//!
//! Where it may be tried again: when no connection could be made, when nothing was sent, or when a
//! connection that had been idle closed without a byte of response and the method is idempotent
//! (RFC 9110 section 9.2.2), each time only while the whole request is still at hand. A reused
//! connection that closed costs one extra attempt at most, because the next one is new. Unless nothing had left, the
//! service's `retries_max` bounds it too: with zero no backend gets a request twice. Where there was no connection to a
//! backend the request moves on to another, within that bound; to ask one again is also bounded by a budget of a fifth of the
//! requests. When all backends that there are were tried, the request waits for up to a second before it asks one of them again.
//!
//! Not here: which backend ([`super::stick`]), the connection between requests ([`super::client`]).

mod acquire;
mod answer;
mod attempt;
mod attempts;
mod head;
mod job;
mod rate;
mod relay;
mod reply;
mod sending;
mod trail;

use std::rc::Rc;

use ballast_clock::boot_now;

use super::{client::Client, ending::Ending};
use crate::live::Farm;
use answer::{Asked, answer, answer_final};
use attempts::attempts;
use job::{Prepared, prepare};
use trail::Trail;

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The next request.
    Keep,
    /// Closed; all was said and read.
    Close,
    /// Closed once the client has had time to read.
    Linger,
    /// Broken off.
    Reset,
}

/// Serves the request whose head fills the first `head_len` bytes of the buffer.
pub async fn run(client: &mut Client, farm: Rc<Farm>, head_len: usize) -> After {
    client.requests = client.requests.saturating_add(1);
    let mut trail = Trail::new(client, boot_now().get());
    let unread = Asked::unread(client);
    let (service, mut job) = match prepare(client, &farm, head_len, &mut trail) {
        Ok(Prepared::Forward(service, job)) => (service, job),
        Ok(Prepared::Answer { body, keep }) => {
            let after = answer_final(client, &mut trail, &body, keep).await;
            trail.finish(client, &farm, Ending::Answered);
            return after;
        }
        Ok(Prepared::Unrouted(asked)) => {
            let after = answer(client, &farm, None, asked, &mut trail, Ending::NoRoute).await;
            trail.finish(client, &farm, Ending::NoRoute);
            return after;
        }
        Err(ending) => {
            if matches!(ending, Ending::Request(_)) {
                client.listener().counters.rejected_total.up();
            }
            let after = answer(client, &farm, None, unread, &mut trail, ending).await;
            trail.finish(client, &farm, ending);
            return after;
        }
    };
    service.state.earn();
    service.state.counters.in_flight.up();
    let (ending, after) = attempts(client, &farm, &service, &mut job, &mut trail).await;
    service.state.counters.in_flight.down();
    trail.bytes_in = job.flow.received;
    let worker = client.worker().clone();
    worker.pool.discard(&mut job.out);
    worker.pool.discard(&mut job.flow.pending);
    trail.finish(client, &farm, ending);
    after
}

/// Answers a client whose head never became a request.
pub async fn reject(client: &mut Client, farm: &Rc<Farm>, ending: Ending) -> After {
    client.listener().counters.rejected_total.up();
    let mut trail = Trail::new(client, boot_now().get());
    let after = answer(client, farm, None, Asked::unread(client), &mut trail, ending).await;
    trail.finish(client, farm, ending);
    after
}
