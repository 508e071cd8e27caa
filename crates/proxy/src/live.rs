//! The plan as a worker uses it: joined with what the worker keeps across plans (connections,
//! counts, turns), so that a request reads pointers and looks nothing up by name.
//!
//! Not here: where plans come from (`ClusterView`), how one of many is picked (`ballast_core::balance`), sockets.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use ballast_core::{
    balance::{self, Ask, Balancer, HashKey, Load, NoPick, Pick},
    cluster::PassiveHealth,
    config::{ByteSize, Health, VerdictPolicy},
    ids::{BackendId, FarmId, ServiceId},
    plan::{self, BackendPlan, Eligibility, FarmPlan, Plan, ServicePlan, Verdict},
    state::RehomeCause,
    time::LogTime,
};
use smallvec::SmallVec;

use crate::{
    backend::Backend,
    http::request::HeadLimits,
    stats::{DurationCounters, ServiceCounters},
};

/// The plan in force, as one worker uses it.
pub struct Live {
    /// The plan.
    pub plan: Arc<Plan>,
    farms: HashMap<FarmId, Rc<Farm>>,
}

/// A farm of the plan.
pub struct Farm {
    /// What the plan says.
    pub plan: Arc<FarmPlan>,
    /// That plan's generation.
    pub generation: u64,
    /// Its services, in order.
    pub services: Vec<Rc<Service>>,
    /// Bounds on heads, in the form that parsing wants.
    pub head_limits: HeadLimits,
    /// Bytes of a head.
    pub head_bytes_max: usize,
}

/// A service of the plan.
pub struct Service {
    /// What the plan says.
    pub plan: Arc<ServicePlan>,
    /// Its backends, at the positions they have in the plan.
    pub backends: Vec<Rc<Backend>>,
    /// What outlives the plan.
    pub state: Rc<ServiceState>,
}

/// What a worker keeps of a service across plans.
pub struct ServiceState {
    /// Counts of this worker.
    pub counters: Arc<ServiceCounters>,
    /// How long requests took on this worker.
    pub durations: Arc<DurationCounters>,
    /// The log refused the newest binding that it was asked for, because the table is full.
    pub table_full: Cell<bool>,
    balancer: RefCell<Balancer>,
    /// How often a backend may be asked again that there was no connection to, in hundredths.
    budget: Cell<u32>,
}

/// A fifth of a retry is earned by each request: those that ask again stay below 20 % of the load.
const BUDGET_EARNED: u32 = 20;
const BUDGET_SPENT: u32 = 100;
/// Ten may be made at once, also by a service that has just begun.
const BUDGET_MAX: u32 = 1000;

impl ServiceState {
    /// Full budget. Workers take different seeds, so that they do not all begin with the same backend.
    pub fn new(counters: Arc<ServiceCounters>, durations: Arc<DurationCounters>, seed: u64) -> Self {
        let (balancer, budget) = (RefCell::new(Balancer::new(seed)), Cell::new(BUDGET_MAX));
        Self { counters, durations, table_full: Cell::new(false), balancer, budget }
    }

    /// A request came: earns a part of a retry.
    pub fn earn(&self) {
        self.budget.set((self.budget.get() + BUDGET_EARNED).min(BUDGET_MAX));
    }

    /// Whether a backend may be asked once more that was asked in vain.
    pub fn spend(&self) -> bool {
        match self.budget.get().checked_sub(BUDGET_SPENT) {
            Some(left) => {
                self.budget.set(left);
                true
            }
            None => false,
        }
    }
}

impl Live {
    /// Joins `plan` with what the worker keeps.
    pub fn new(
        plan: Arc<Plan>,
        mut backend: impl FnMut(BackendId) -> Rc<Backend>,
        mut state: impl FnMut(ServiceId) -> Rc<ServiceState>,
    ) -> Self {
        let mut farms = HashMap::new();
        for farm in &plan.farms {
            let idle_ms = farm.timeouts.upstream_idle.as_millis();
            let service = |plan: &Arc<ServicePlan>| {
                let backends = plan.backends.iter().map(|b| {
                    let backend = backend(b.id);
                    backend.configure(b.address, b.connections_max, idle_ms);
                    backend.set_serves(b.eligibility().must_leave(false).is_none());
                    backend
                });
                Rc::new(Service { plan: plan.clone(), backends: backends.collect(), state: state(plan.id) })
            };
            let bytes = |size: ByteSize| usize::try_from(size.as_bytes()).unwrap_or(usize::MAX);
            farms.insert(
                farm.id,
                Rc::new(Farm {
                    services: farm.services.iter().map(service).collect(),
                    head_limits: HeadLimits {
                        fields_max: usize::from(farm.limits.header_fields_max),
                        target_bytes_max: bytes(farm.limits.uri_bytes_max),
                    },
                    head_bytes_max: bytes(farm.limits.header_bytes_max).clamp(1024, 1 << 20),
                    plan: farm.clone(),
                    generation: plan.generation,
                }),
            );
        }
        Self { plan, farms }
    }

    /// The farm with this id, if the plan has it.
    pub fn farm(&self, id: FarmId) -> Option<&Rc<Farm>> {
        self.farms.get(&id)
    }

    /// A farm of another plan and a service of it as this one has them, if it has them.
    pub fn renewed(&self, farm: &Farm, service: &Service) -> Option<(Rc<Farm>, Rc<Service>)> {
        if farm.generation == self.plan.generation {
            return None;
        }
        let farm = self.farm(farm.plan.id)?;
        let service = farm.services.iter().find(|s| s.plan.id == service.plan.id)?;
        Some((farm.clone(), service.clone()))
    }

    /// All services of all farms.
    pub fn services(&self) -> impl Iterator<Item = &Rc<Service>> {
        self.farms.values().flat_map(|farm| &farm.services)
    }
}

impl Farm {
    /// The first service that takes a request for `host` (without port) and `path` (without query).
    pub fn route(&self, host: &[u8], path: &[u8]) -> Option<&Rc<Service>> {
        self.services.iter().find(|s| s.plan.matches.as_ref().is_none_or(|rule| rule.matches(host, path)))
    }
}

impl Service {
    /// The position of a backend of this service.
    pub fn position(&self, id: BackendId) -> Option<usize> {
        self.plan.backends.iter().position(|b| b.id == id)
    }

    /// What the checks say of a backend: the cluster's verdict, or this node's own where the policy
    /// says so or there is no quorum to ask.
    fn verdict(&self, id: BackendId, agreed: Verdict, passive: &dyn PassiveHealth) -> Verdict {
        let local = self.plan.health.as_ref().is_some_and(|h: &Health| h.policy == VerdictPolicy::Local);
        if local || passive.isolated() { passive.local_verdict(id) } else { agreed }
    }

    /// Whether it is this node's own finding, and not the plan, that keeps clients from a backend.
    pub fn is_down_here(&self, at: usize, passive: &dyn PassiveHealth) -> bool {
        self.verdict(self.plan.backends[at].id, Verdict::Up, passive) == Verdict::Down
    }

    /// Why a bound backend must be left, `None` while it serves.
    pub fn must_leave(&self, at: usize, passive: &dyn PassiveHealth) -> Option<RehomeCause> {
        let eligibility = self.eligibility(&self.plan.backends[at], passive);
        eligibility.must_leave(!eligibility.is_up() && self.panics(passive))
    }

    /// Why the cluster has everybody leave a bound backend, whatever this node's own checks say of it; `None` if it does not.
    pub fn all_must_leave(&self, at: usize) -> Option<RehomeCause> {
        let eligibility = self.plan.backends[at].eligibility();
        let eligibilities = self.plan.backends.iter().map(BackendPlan::eligibility);
        eligibility.must_leave(!eligibility.is_up() && plan::panics(self.plan.panic_threshold_percent, eligibilities))
    }

    /// What decides about a backend, with the verdict that this node goes by.
    fn eligibility(&self, backend: &BackendPlan, passive: &dyn PassiveHealth) -> Eligibility {
        Eligibility { verdict: self.verdict(backend.id, backend.verdict, passive), ..backend.eligibility() }
    }

    /// So few primaries are up that the checks are believed no more; then no client is moved by them either.
    fn panics(&self, passive: &dyn PassiveHealth) -> bool {
        let eligibilities = self.plan.backends.iter().map(|backend| self.eligibility(backend, passive));
        plan::panics(self.plan.panic_threshold_percent, eligibilities)
    }

    /// Picks a backend for a client that is not bound, none of `tried`. `key` is what the service balances by,
    /// if it balances by a hash. `now_ms` is by the worker's clock; log time is asked for slow start only. When all are at
    /// their limit, the one to wait for.
    pub fn pick(
        &self,
        key: HashKey,
        tried: &[BackendId],
        now_ms: u64,
        log_time: impl FnOnce() -> LogTime,
        passive: &dyn PassiveHealth,
    ) -> Pick {
        let log_ms = if self.plan.slow_start_ms > 0 { log_time().as_millis() } else { 0 };
        let ask = Ask { key, exclude: tried, now_ms: log_ms };
        let mut balancer = self.state.balancer.borrow_mut();
        let seen = Seen { service: self, passive, limits: true, now_ms };
        match balancer.pick(&self.plan, &seen, &ask) {
            Pick::No(NoPick::AllAtLimit) => balancer.pick(&self.plan, &Seen { limits: false, ..seen }, &ask),
            picked => picked,
        }
    }

    /// Positions of the backends that a client which is not bound may go to, none of `tried`, whether they are at their limit
    /// or not.
    pub fn eligible(&self, tried: &[BackendId], passive: &dyn PassiveHealth) -> SmallVec<[usize; 8]> {
        let ask = Ask { key: HashKey::default(), exclude: tried, now_ms: 0 };
        let seen = Seen { service: self, passive, limits: false, now_ms: 0 };
        balance::eligible(&self.plan, &seen, &ask).collect()
    }
}

/// A service's backends as this worker sees them.
struct Seen<'a> {
    service: &'a Service,
    passive: &'a dyn PassiveHealth,
    /// Whether a backend at its limit counts as such.
    limits: bool,
    now_ms: u64,
}

impl Load for Seen<'_> {
    fn in_flight(&self, index: usize) -> u32 {
        self.service.backends[index].load()
    }

    fn refuses(&self, index: usize) -> bool {
        self.service.backends[index].refuses(self.now_ms)
    }

    /// The limit is the node's and idle connections can be used, so only having room or not is known.
    fn connections(&self, index: usize) -> u32 {
        if self.limits && !self.service.backends[index].has_room() { u32::MAX } else { 0 }
    }

    fn verdict(&self, index: usize, agreed: Verdict) -> Verdict {
        self.service.verdict(self.service.plan.backends[index].id, agreed, self.passive)
    }
}

/// The backends and service states a worker keeps across plans.
#[derive(Default)]
pub struct Kept {
    /// By id. Those that left the plan too, while requests or clients go on by an earlier one.
    pub backends: RefCell<HashMap<BackendId, Rc<Backend>>>,
    /// By id.
    pub services: RefCell<HashMap<ServiceId, Rc<ServiceState>>>,
}
