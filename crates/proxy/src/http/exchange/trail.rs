//! What is remembered of a request for the access log, and the last thing done for it.
//!
//! Not here: how a line is written ([`super::super::record`]), where it goes ([`crate::accesslog`]).

use std::{net::IpAddr, rc::Rc};

use ballast_clock::boot_now;
use ballast_planted::Bug;
use smallvec::SmallVec;

use super::job::REQUEST_ID_MAX;
use crate::{
    clock,
    http::{client::Client, ending::Ending, record},
    live::{Farm, Service},
};

/// What the access log will say.
pub(super) struct Trail {
    pub(super) line: Vec<u8>,
    pub(super) request_id: SmallVec<[u8; REQUEST_ID_MAX]>,
    pub(super) real_client: IpAddr,
    pub(super) began_ns: u64,
    pub(super) head_ns: u64,
    pub(super) chosen_ns: u64,
    pub(super) connected_ns: u64,
    pub(super) first_ns: u64,
    pub(super) service: Option<Rc<Service>>,
    pub(super) at: Option<usize>,
    pub(super) status: u16,
    pub(super) binding: &'static str,
    pub(super) cause: &'static str,
    pub(super) reason: &'static str,
    pub(super) retries: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Trail {
    pub(super) fn new(client: &Client, now_ns: u64) -> Self {
        let line = match client.worker().log {
            Some(_) => client.worker().lines.borrow_mut().pop().unwrap_or_default(),
            None => Vec::new(),
        };
        Self {
            line,
            request_id: SmallVec::new(),
            real_client: client.peer.ip(),
            began_ns: if client.began_ns == 0 { now_ns } else { client.began_ns },
            head_ns: now_ns,
            chosen_ns: 0,
            connected_ns: 0,
            first_ns: 0,
            service: None,
            at: None,
            status: 0,
            binding: "none",
            cause: "",
            reason: "none",
            retries: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Whether one more attempt is within the service's `retries_max`.
    pub(super) fn may_repeat(&self, service: &Service) -> bool {
        self.retries < service.plan.retries_max
    }

    /// Counts the request and writes its line.
    pub(super) fn finish(mut self, client: &Client, farm: &Farm, ending: Ending) {
        let worker = client.worker();
        let now_ns = boot_now().get();
        if let Some(service) = &self.service {
            service.state.durations.record(now_ns.saturating_sub(self.began_ns) / 1000);
        }
        let Some(log) = &worker.log else { return };
        if ballast_planted::is(Bug::RefusalUnlogged) && !matches!(ending, Ending::Done) {
            return;
        }
        let us = |from: u64, to: u64| if from == 0 || to == 0 { 0 } else { to.saturating_sub(from) / 1000 };
        let live = worker.live();
        let identity = &client.listener().identity;
        let service = self.service.as_ref();
        let backend = service.zip(self.at).map(|(service, at)| {
            let plan = &service.plan.backends[at];
            (plan.id.get(), &*plan.name, plan.address)
        });
        let outcome = record::Outcome {
            ended_at: clock::wall_now(),
            node: &live.plan.node_name,
            vip: identity.vip.as_ref().map_or("", |vip| &vip.name),
            farm: &farm.plan.name,
            listener: &identity.name,
            service: service.map_or("", |s| &s.plan.name),
            backend,
            client: client.peer,
            real_client: self.real_client,
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            timings_us: [
                us(self.began_ns, self.head_ns),
                us(self.head_ns, self.chosen_ns),
                us(self.chosen_ns, self.connected_ns),
                us(self.connected_ns, self.first_ns),
                us(self.began_ns, now_ns),
            ],
            request_id: &self.request_id,
            binding: self.binding,
            binding_cause: self.cause,
            reason: self.reason,
            retries: self.retries,
            ending,
        };
        record::end(&mut self.line, &mut worker.log_time.borrow_mut(), &outcome);
        log.line(&self.line, &worker.counters);
        self.line.clear();
        worker.lines.borrow_mut().push(self.line);
    }
}
