//! One request, one or more attempts: which backend, on which connection, and whether to try again.
//!
//! Not here: what happens on a connection ([`super::attempt`]).

use std::{future::pending, rc::Rc};

use ballast_clock::boot_now;
use smallvec::SmallVec;

use super::{
    After,
    acquire::{NoLink, Search},
    answer::fail,
    attempt::{Attempt, Attempted},
    job::Job,
    trail::Trail,
};
use crate::{
    backend::{Look, Own},
    http::{
        client::Client,
        ending::Ending,
        stick::{Chooser, Tried},
    },
    live::{Farm, Service},
};

/// Sends the request until it has a response or may not be sent again. Returns how it ended.
pub(super) async fn attempts(
    client: &mut Client,
    farm: &Rc<Farm>,
    service: &Rc<Service>,
    job: &mut Job,
    trail: &mut Trail,
) -> (Ending, After) {
    let (mut farm, mut service) = (farm.clone(), service.clone());
    let mut tried: SmallVec<[Tried; 4]> = SmallVec::new();
    let mut fresh = false;
    let mut retrying = false;
    // Whoever is asked from now on was asked before.
    let mut asked_all = false;
    let mut queue_until = None;
    loop {
        let mut chooser = Chooser {
            worker: client.worker(),
            timer: &client.timer,
            farm,
            service,
            affinity: job.affinity,
            hash: job.hash,
            tried: &tried,
            own: client.own.as_ref().and_then(Own::backend),
        };
        let choice = chooser.choose().await;
        Chooser { farm, service, .. } = chooser;
        let choice = match choice {
            Ok(choice) => choice,
            // All were tried, and one more attempt is allowed: one of them may be back in a moment.
            Err(Ending::ConnectFailed) if !tried.is_empty() && trail.may_repeat(&service) => {
                let may = asked_all || may_ask_again(&service);
                let paused = if may { pause(client, &farm).await } else { Err(Ending::ConnectFailed) };
                if let Err(ending) = paused {
                    return fail(client, &farm, &service, job, trail, ending).await;
                }
                asked_all = true;
                tried.clear();
                continue;
            }
            Err(ending) => return fail(client, &farm, &service, job, trail, ending).await,
        };
        let retried = std::mem::take(&mut retrying);
        trail.retries += u32::from(retried);
        (trail.service, trail.at) = (Some(service.clone()), Some(choice.at));
        (trail.reason, trail.cause) = (choice.reason, choice.cause);
        // A second attempt finds what the first one bound.
        if trail.binding == "none" || choice.binding != "hit" {
            trail.binding = choice.binding;
        }
        let may_repeat = job.is_repeatable() && trail.may_repeat(&service);
        let look = if may_repeat { Look::AtRuntime } else { Look::AtKernel };
        let own = if fresh { None } else { client.take_own(service.backends[choice.at].id, look) };
        let (at, found) = {
            let any_but = choice.any_will_do.then_some(&tried[..]);
            let (at, chosen_ns) = (choice.at, boot_now().get());
            let (farm, service) = (&*farm, &*service);
            let mut search = Search { client, farm, service, at, own, any_but, fresh, look, chosen_ns };
            let found = search.acquire(&mut queue_until).await;
            trail.chosen_ns = search.chosen_ns;
            (search.at, found)
        };
        if retried && !matches!(found, Err(NoLink::Left)) {
            service.state.counters.retries_total.up();
        }
        let backend = service.backends[at].clone();
        trail.at = Some(at);
        let link = match found {
            Ok(link) => link,
            Err(missed @ (NoLink::Refused | NoLink::Unreached | NoLink::Unasked)) => {
                client.worker().shared.ports.passive.observed(backend.id, missed.answer());
                backend.counters.connect_failures_total.up();
                // To move on to a backend that was not asked costs nobody anything: nothing was sent.
                let again = asked_all || !choice.may_move;
                if trail.retries >= service.plan.retries_max || again && !may_ask_again(&service) {
                    return fail(client, &farm, &service, job, trail, Ending::ConnectFailed).await;
                }
                (retrying, queue_until) = (true, None);
                if choice.may_move {
                    tried.push(Tried { backend: backend.id, refused: matches!(missed, NoLink::Refused) });
                } else if let Err(ending) = pause(client, &farm).await {
                    return fail(client, &farm, &service, job, trail, ending).await;
                }
                continue;
            }
            Err(NoLink::Left) => {
                // Nobody was asked there: the attempt is still to be made.
                trail.retries -= u32::from(retried);
                retrying = retried;
                continue;
            }
            Err(NoLink::Ended(ending)) => return fail(client, &farm, &service, job, trail, ending).await,
        };
        trail.connected_ns = boot_now().get();
        // The last look before a backend is touched: the VIP may have been lost while waiting.
        if !client.listener().may_serve() {
            backend.put(link, client.timer.now_ms());
            return fail(client, &farm, &service, job, trail, Ending::VipNotHeld).await;
        }
        backend.in_flight.set(backend.in_flight.get() + 1);
        backend.counters.in_flight.up();
        backend.counters.requests_total.up();
        let set_cookie = choice.set_cookie.then_some(backend.id);
        let attempt = Attempt { farm: &farm, service: &service, backend: &backend, job, trail }
            .run(client, link, set_cookie)
            .await;
        backend.counters.in_flight.down();
        backend.in_flight.set(backend.in_flight.get() - 1);
        match attempt {
            Attempted::Over(ending, after) => {
                if ending.blames_backend() {
                    backend.counters.response_failures_total.up();
                    client.worker().shared.ports.passive.observed(backend.id, ending.backend_answer());
                }
                if trail.status == 0 {
                    return fail(client, &farm, &service, job, trail, ending).await;
                }
                return (ending, after);
            }
            Attempted::Stale => {
                backend.counters.response_failures_total.up();
                return fail(client, &farm, &service, job, trail, Ending::BackendClosed).await;
            }
            Attempted::Again => {
                queue_until = None;
                fresh = true;
                trail.retries += 1;
                service.state.counters.retries_total.up();
            }
        }
    }
}

/// Longest wait before the same backend is asked again. HAProxy waits as long.
const PAUSE_MS: u64 = 1000;

/// Lets some time pass before a backend that was not reached is asked again.
async fn pause(client: &Client, farm: &Farm) -> Result<(), Ending> {
    let pause_ms = farm.plan.timeouts.connect.as_millis().min(PAUSE_MS);
    // Over when time is up, which is what is waited for.
    let _ = client.unless_gone(client.timer.limit(pause_ms, pending::<()>())).await?;
    Ok(())
}

/// Whether the budget allows to ask a backend again that was asked in vain. Spends it.
fn may_ask_again(service: &Service) -> bool {
    let may = service.state.spend();
    if !may {
        service.state.counters.retries_refused_total.up();
    }
    may
}
