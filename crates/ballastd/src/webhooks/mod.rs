//! Tells other machines what happens, by POSTs of JSON.
//!
//! The leader sends. What is told is what the log says, and the leader has it first and in the log's order; the node
//! that recorded a change is no better sender, because a loss is recorded by a node in trouble, and most events are
//! recorded by none. Nothing is written to the log about what was delivered: a node that comes to lead tells the events
//! of the last minute of log time again, so that one that was lost with the leader before it is not lost for good. So
//! each event is told at least once, mostly by one node, and a receiver that counts must know events by their `id`.
//!
//! Each webhook has a queue and a sender of its own, so that one that hangs holds up no other, and order is kept. A
//! leader that leads no more sends what it has queued and takes in nothing new.
//!
//! Not here: which events there are (`ballast_core::state`); what a webhook may be (`ballast_core::config`).

mod notice;
mod post;
mod queue;
mod secrets;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ballast_core::{
    config::{Endpoint, Webhook},
    ids::LogIndex,
    state::State,
};
use ballast_raft::Handle;
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use notice::Notice;
use post::{Poster, Sent};
use queue::Queue;
pub use secrets::{Secrets, WebhookSecret};

/// A new leader tells what happened so recently again, by log time: longer than all tries of one event take.
const AGAIN_MILLIS: u64 = 60_000;
/// Entries come by the thousand; events do not, so they are looked for this often at most.
const LOOK: Duration = Duration::from_millis(20);
/// Pauses before the second try of an event and those after it.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// What became of deliveries, by webhook and result.
#[derive(Debug, Default)]
pub struct Deliveries(Mutex<BTreeMap<(String, &'static str), u64>>);

impl Deliveries {
    fn count(&self, webhook: &str, result: &'static str) {
        *self.0.lock().entry((webhook.to_owned(), result)).or_default() += 1;
    }

    /// How often each result came about for a webhook.
    pub fn of(&self, webhook: &str) -> [(&'static str, u64); 4] {
        let counts = self.0.lock();
        let of = |result| (result, counts.get(&(webhook.to_owned(), result)).copied().unwrap_or(0));
        ["ok", "retried", "failed", "dropped"].map(of)
    }
}

/// A webhook's queue, and the task that empties it.
struct Sender {
    webhook: Webhook,
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends events while this node leads, until `ending`.
pub async fn keep_posting(raft: Handle, secrets: Secrets, deliveries: Arc<Deliveries>, ending: CancellationToken) {
    let mut applied = raft.watch_applied();
    let mut senders: BTreeMap<String, Sender> = BTreeMap::new();
    // Up to where events were taken in; `None` while another node leads.
    let mut seen: Option<LogIndex> = None;
    loop {
        if raft.leader() == Some(raft.node()) {
            let from = seen.unwrap_or_else(|| raft.with_state(before_the_last_minute));
            let (webhooks, notices, upto) = raft.with_state(|state| look(state, from));
            renew(&mut senders, webhooks, &secrets, &deliveries);
            for notice in notices {
                let wanting = senders.values().filter(|sender| sender.webhook.events.contains(&notice.event));
                for sender in wanting {
                    if let Some(dropped) = sender.queue.push(notice.clone()) {
                        deliveries.count(&sender.webhook.name, "dropped");
                        warn!(
                            webhook = sender.webhook.name,
                            event = dropped.id,
                            "too much waits for the webhook; its oldest event is dropped"
                        );
                    }
                }
            }
            seen = Some(upto);
        } else {
            seen = None;
        }
        // Both arms are cancel-safe.
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { break },
            () = ending.cancelled() => return,
        }
        tokio::select! { () = sleep(LOOK) => {}, () = ending.cancelled() => return }
    }
    ending.cancelled().await;
}

/// The last entry with an event that is too old to be told again.
fn before_the_last_minute(state: &State) -> LogIndex {
    let now = state.log_time();
    let old = state.events().find(|event| now.millis_since(event.at) > AGAIN_MILLIS);
    old.map_or(LogIndex::new(0), |event| event.index)
}

/// The webhooks in force, and what happened after an entry, oldest first.
fn look(state: &State, from: LogIndex) -> (Vec<Webhook>, Vec<Notice>, LogIndex) {
    let webhooks = state.document().map(|document| document.cluster.webhooks.clone()).unwrap_or_default();
    let upto = state.events().next().map_or(from, |event| event.index.max(from));
    let notices = if webhooks.is_empty() || upto == from { Vec::new() } else { notice::after(state, from) };
    (webhooks, notices, upto)
}

/// Begins and ends senders so that there is one for each webhook; one that was changed begins anew with what it had.
fn renew(
    senders: &mut BTreeMap<String, Sender>,
    webhooks: Vec<Webhook>,
    secrets: &Secrets,
    deliveries: &Arc<Deliveries>,
) {
    senders.retain(|name, _| webhooks.iter().any(|webhook| webhook.name == *name));
    for webhook in webhooks {
        let known = senders.get(&webhook.name);
        if known.is_some_and(|sender| sender.webhook == webhook) {
            continue;
        }
        let endpoint = match Endpoint::parse(&webhook.url) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                // Another release let it pass.
                warn!(webhook = webhook.name, "its URL {why}; nothing is sent there");
                continue;
            }
        };
        let queue = known.map(|sender| Arc::clone(&sender.queue)).unwrap_or_default();
        let origin = endpoint.origin();
        let poster = Poster::new(endpoint, secrets.of(&webhook.name));
        info!(webhook = webhook.name, origin, signed = poster.signs(), "telling a webhook of events");
        let sending = send(webhook.name.clone(), poster, Arc::clone(&queue), Arc::clone(deliveries));
        let task = tokio::spawn(sending);
        senders.insert(webhook.name.clone(), Sender { webhook, queue, task });
    }
}

/// Sends what is queued, one after the other, for ever.
async fn send(webhook: String, poster: Poster, queue: Arc<Queue>, deliveries: Arc<Deliveries>) {
    loop {
        let notice = queue.first().await;
        let mut pauses = PAUSES.iter();
        let result = loop {
            let (sent, retry) = match poster.post(&notice).await {
                Sent::Taken => break "ok",
                Sent::Refused(why) => (why, None),
                Sent::Failed(why) => (why, pauses.next()),
            };
            let Some(pause) = retry else {
                warn!(webhook, event = notice.id, why = sent, "a webhook was not told of an event");
                break "failed";
            };
            deliveries.count(&webhook, "retried");
            sleep(*pause).await;
        };
        deliveries.count(&webhook, result);
        queue.done(&notice);
    }
}
