//! Which backend a request goes to, and why.
//!
//! A bound client goes where it is bound while that backend serves; when it does not, the binding is
//! moved by a log entry that names the cause, and only then is the request forwarded. A client
//! that is not bound gets a backend by balancing, and its binding before (or after) it is forwarded.
//!
//! Not here: what a key or a cookie is ([`super::key`], [`super::cookie`]).

use std::{
    rc::Rc,
    sync::{Arc, PoisonError},
};

use ballast_core::{
    balance::{HashKey, NoPick, Pick},
    cluster::{BindError, BindRequest, Bound, BoundHow, Lookup, ProposeError},
    config::{Commit, Isolated, Persistence, TablePersistence, WhenFull},
    ids::{BackendId, ServiceId},
    persistence::KeyHash,
    state::RehomeCause,
};
use ballast_planted::Bug;

use super::{cookie::Named, ending::Ending};
use crate::{
    live::{Farm, Service, ServiceState},
    ticks::Timer,
    worker::{Shared, Worker},
};

/// What a request says about where it belongs.
#[derive(Clone, Copy, Debug)]
pub enum Affinity {
    /// Nothing: no persistence, or the request carries no key.
    None,
    /// A signed cookie, if it has a valid one.
    Cookie(Option<Named>),
    /// A key of the binding table.
    Key(KeyHash),
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Position of the backend in its service.
    pub at: usize,
    /// What became of the binding, for the log: `none`, `hit`, `new`, `existing`, `rehomed`, `unbound`.
    pub binding: &'static str,
    /// Why it was re-homed.
    pub cause: &'static str,
    /// Why it goes there: `balanced`, `backup`, `cookie`, `table`, `table_full`, `isolated`, `local`.
    pub reason: &'static str,
    /// The response carries a new cookie.
    pub set_cookie: bool,
    /// Another backend may be tried if this one cannot be reached.
    pub may_move: bool,
    /// The client is not bound, and the log refused no backend: where all are at their limit, the first that has room will do.
    pub any_will_do: bool,
}

/// Everything a choice depends on.
pub struct Chooser<'a> {
    /// Whose connection it is.
    pub worker: &'a Worker,
    /// Ends waits.
    pub timer: &'a Timer,
    /// The farm, by the newest plan that was looked at.
    pub farm: Rc<Farm>,
    /// The service, by the same plan.
    pub service: Rc<Service>,
    /// What the request says.
    pub affinity: Affinity,
    /// What the service balances by, if by a hash.
    pub hash: HashKey,
    /// Backends that this request found no connection to.
    pub tried: &'a [Tried],
    /// The backend that the client has a connection of its own to.
    pub own: Option<BackendId>,
}

/// A backend that a request found no connection to.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// Which.
    pub backend: BackendId,
    /// Its host said so. Clients leave it then; where nobody answered, they wait for what the cluster's checks say.
    pub refused: bool,
}

/// Names a cause in logs, as the API spells it.
pub const fn cause_name(cause: RehomeCause) -> &'static str {
    match cause {
        RehomeCause::BackendDown => "backend_down",
        RehomeCause::BackendMaintenance => "backend_maintenance",
        RehomeCause::BackendRemoved => "backend_removed",
        RehomeCause::ConnectFailed => "connect_failed",
        RehomeCause::Operator => "operator",
    }
}

/// A binding seldom changes while a request looks; a request that sees this many changes gives up.
const ROUNDS_MAX: usize = 5;
/// Longest wait for the log. It has deadlines of its own, the longest of which are some eight seconds together, so that this
/// one is for a fault of ours.
const LOG_MS: u64 = 10_000;
/// Bindings on their way to the log that a node remembers for `commit: after-forward`.
const ON_THEIR_WAY_MAX: usize = 100_000;

impl Chooser<'_> {
    /// Decides, waiting for the log where a binding has to be made or moved.
    ///
    /// # Errors
    /// Why the request cannot be served.
    pub async fn choose(&mut self) -> Result<Choice, Ending> {
        self.refresh();
        let service = self.service.clone();
        match (self.affinity, &service.plan.persistence) {
            (Affinity::Cookie(named), _) => self.by_cookie(named),
            (Affinity::Key(key), Some(Persistence::Table(table))) => self.by_table(key, table).await,
            (Affinity::None | Affinity::Key(_), _) => self.balanced("balanced", "none"),
        }
    }

    /// Takes over what a newer plan says: while a request waits a backend may come, go or change.
    fn refresh(&mut self) {
        if let Some((farm, service)) = self.worker.live().renewed(&self.farm, &self.service) {
            (self.farm, self.service) = (farm, service);
        }
    }

    fn balanced(&self, reason: &'static str, binding: &'static str) -> Result<Choice, Ending> {
        self.balanced_without(&[], reason, binding)
    }

    fn balanced_without(
        &self,
        refused: &[BackendId],
        reason: &'static str,
        binding: &'static str,
    ) -> Result<Choice, Ending> {
        let mut avoid: smallvec::SmallVec<[BackendId; 8]> = self.tried.iter().map(|tried| tried.backend).collect();
        avoid.extend_from_slice(refused);
        let ports = &self.worker.shared.ports;
        let now_ms = self.timer.now_ms();
        let log_time = || ports.view.log_time();
        let own = self.own_at(&avoid).map(Pick::Backend);
        match own.unwrap_or_else(|| self.service.pick(self.hash, &avoid, now_ms, log_time, &*ports.passive)) {
            Pick::Backend(at) => {
                let backup = reason == "balanced" && self.service.plan.backends[at].backup;
                let reason = if backup { "backup" } else { reason };
                // Those that the log refused are not to be waited for.
                let any_will_do = refused.is_empty();
                Ok(Choice { at, binding, cause: "", reason, set_cookie: false, may_move: true, any_will_do })
            }
            Pick::No(NoPick::AllExcluded) if !self.tried.is_empty() => Err(Ending::ConnectFailed),
            Pick::No(_) => Err(Ending::NoBackend),
        }
    }

    /// Where the client has a connection of its own: logged in on it, it would be a stranger anywhere else.
    fn own_at(&self, avoid: &[BackendId]) -> Option<usize> {
        let at = self.service.position(self.own?)?;
        let eligible = self.service.eligible(avoid, &*self.worker.shared.ports.passive);
        eligible.contains(&at).then_some(at)
    }

    fn by_cookie(&self, named: Option<Named>) -> Result<Choice, Ending> {
        let Some(named) = named else {
            return Ok(Choice { set_cookie: true, binding: "new", ..self.balanced("balanced", "new")? });
        };
        let cause = match self.service.position(named.backend) {
            // Another node has given it out by a plan that is still on its way here.
            None if named.backend > self.worker.live().plan.newest_backend => return self.unbound(&[], "local"),
            None => RehomeCause::BackendRemoved,
            Some(_) if self.refused(named.backend) => RehomeCause::ConnectFailed,
            Some(at) => match self.service.must_leave(at, &*self.worker.shared.ports.passive) {
                Some(_) => match self.service.all_must_leave(at) {
                    Some(cause) => cause,
                    // The client belongs there still, and the way there may be open again in a moment.
                    None => return self.unbound(&[], "local"),
                },
                None if self.was_tried(named.backend) => return self.unbound(&[], "local"),
                None => {
                    let may_move = self.service.plan.redispatch;
                    return Ok(Choice {
                        at,
                        binding: "hit",
                        cause: "",
                        reason: "cookie",
                        set_cookie: named.renew,
                        may_move,
                        any_will_do: false,
                    });
                }
            },
        };
        let choice = self.balanced("balanced", "rehomed")?;
        Ok(Choice { set_cookie: true, cause: cause_name(cause), ..choice })
    }

    async fn by_table(&mut self, key: KeyHash, table: &TablePersistence) -> Result<Choice, Ending> {
        let worker = self.worker;
        let bindings = &worker.shared.ports.bindings;
        let state = self.service.state.clone();
        let counters = &state.counters;
        let mut refused: smallvec::SmallVec<[BackendId; 4]> = smallvec::SmallVec::new();
        // Counts for this request to its end: whatever was committed before it came is in the table.
        let mut confirmed = None;
        for _ in 0..ROUNDS_MAX {
            self.refresh();
            let replaces = match bindings.lookup(self.service.plan.id, key, confirmed) {
                Lookup::Hit { backend, renew } => match self.must_move(backend) {
                    None => {
                        // Longer than it takes while there is a leader, shorter than an election.
                        if ballast_planted::is(Bug::HitAsksLeader)
                            && !matches!(self.timer.limit(100, bindings.confirm()).await, Ok(Ok(_)))
                        {
                            return self.isolated(key, &refused);
                        }
                        counters.binding_hits_total.up();
                        if renew {
                            bindings.renew(self.service.plan.id, key);
                        }
                        return self.served_by(backend, "hit", "", &refused);
                    }
                    // Without `redispatch` a backend that cannot be reached keeps its clients until its checks fail.
                    Some(RehomeCause::ConnectFailed) if !self.service.plan.redispatch => {
                        return Err(Ending::ConnectFailed);
                    }
                    // The cluster keeps the client there, and would say so to each of its requests.
                    Some(RehomeCause::BackendDown) if self.all_stay(backend) => return self.unbound(&refused, "local"),
                    Some(cause) => Some((backend, cause)),
                },
                Lookup::Miss => {
                    counters.binding_misses_total.up();
                    None
                }
                Lookup::Stale => {
                    counters.binding_stale_total.up();
                    match self.timer.limit(LOG_MS, bindings.confirm()).await {
                        Ok(Ok(index)) => confirmed = Some(index),
                        Ok(Err(_)) => return self.isolated(key, &refused),
                        // The binding may have moved and not settled.
                        Err(_) => return Err(Ending::Isolated),
                    }
                    continue;
                }
            };
            let choice = self.balanced_without(&refused, "table", "new")?;
            let backend = self.service.plan.backends[choice.at].id;
            let request = BindRequest { service: self.service.plan.id, key, choice: backend, replaces, learned: false };
            if self.commits_behind(table)
                && replaces.is_none()
                && let Some(backend) = bind_behind(&worker.shared, &state, request.clone())
                && self.must_move(backend).is_none()
            {
                return self.served_by(backend, "new", "", &refused);
            }
            let bound = self.timer.limit(LOG_MS, bindings.bind(request)).await;
            // The log may name a backend that came meanwhile.
            self.refresh();
            match bound {
                Ok(Ok(bound)) => {
                    state.table_full.set(false);
                    let (binding, cause) = self.count(&bound);
                    if self.must_move(bound.backend).is_none() {
                        return self.served_by(bound.backend, binding, cause, &refused);
                    }
                    if replaces.is_some_and(|(old, _)| old == bound.backend) {
                        if self.is_down_here(bound.backend) {
                            // The cluster keeps the client there.
                            return self.unbound(&refused, "local");
                        }
                        // What this request's plan says of the backend was taken back before the log was asked.
                        return self.bound_to(bound.backend, binding, cause);
                    }
                    // Bound meanwhile to a backend that does not serve: look again and move it.
                }
                Ok(Err(BindError::NotEligible)) => refused.push(backend),
                Ok(Err(BindError::TableFull)) => {
                    return match table.when_full {
                        WhenFull::ServeUnbound => self.unbound(&refused, "table_full"),
                        WhenFull::Refuse => Err(Ending::TableFull),
                    };
                }
                Ok(Err(BindError::Propose(ProposeError::NoQuorum { .. }))) => return self.isolated(key, &refused),
                // The log may hold a binding that this node does not know: to guess could send the client elsewhere.
                Ok(Err(BindError::Propose(_))) | Err(_) => return Err(Ending::Isolated),
            }
        }
        // Either the log refused all that it was asked for, or what the client is bound to went on changing.
        Err(if refused.len() == ROUNDS_MAX { Ending::NoBackend } else { Ending::Isolated })
    }

    /// Why a client bound to `backend` must move, `None` if it stays.
    fn must_move(&self, backend: BackendId) -> Option<RehomeCause> {
        match self.service.position(backend) {
            None => Some(RehomeCause::BackendRemoved),
            Some(_) if self.refused(backend) => Some(RehomeCause::ConnectFailed),
            Some(at) => self.service.must_leave(at, &*self.worker.shared.ports.passive),
        }
    }

    /// Whether the cluster keeps clients at a backend, whatever this node finds.
    fn all_stay(&self, backend: BackendId) -> bool {
        self.service.position(backend).is_some_and(|at| self.service.all_must_leave(at).is_none())
    }

    /// Whether nobody but this node finds that a backend does not serve.
    fn is_down_here(&self, backend: BackendId) -> bool {
        self.service.position(backend).is_none_or(|at| {
            self.was_tried(backend) || self.service.is_down_here(at, &*self.worker.shared.ports.passive)
        })
    }

    fn was_tried(&self, backend: BackendId) -> bool {
        self.tried.iter().any(|tried| tried.backend == backend)
    }

    fn refused(&self, backend: BackendId) -> bool {
        self.tried.iter().any(|tried| tried.backend == backend && tried.refused)
    }

    /// The backend that a client is bound to; another one for this request, if this node found no way to it.
    fn served_by(
        &self,
        backend: BackendId,
        binding: &'static str,
        cause: &'static str,
        refused: &[BackendId],
    ) -> Result<Choice, Ending> {
        if self.was_tried(backend) { self.unbound(refused, "local") } else { self.bound_to(backend, binding, cause) }
    }

    fn bound_to(&self, backend: BackendId, binding: &'static str, cause: &'static str) -> Result<Choice, Ending> {
        let at = self.service.position(backend).ok_or(Ending::NoBackend)?;
        let may_move = self.service.plan.redispatch;
        Ok(Choice { at, binding, cause, reason: "table", set_cookie: false, may_move, any_will_do: false })
    }

    fn unbound(&self, refused: &[BackendId], reason: &'static str) -> Result<Choice, Ending> {
        self.service.state.counters.unbound_total.up();
        self.balanced_without(refused, reason, "unbound")
    }

    /// The log cannot be asked: known bindings as last known and new clients unbound, or nothing.
    fn isolated(&self, key: KeyHash, refused: &[BackendId]) -> Result<Choice, Ending> {
        if self.farm.plan.isolated == Isolated::Refuse || ballast_planted::is(Bug::IsolatedRefuses) {
            return Err(Ending::Isolated);
        }
        let last = self.worker.shared.ports.bindings.last_known(self.service.plan.id, key);
        match last.filter(|backend| self.must_move(*backend).is_none() && !self.was_tried(*backend)) {
            Some(backend) => Ok(Choice { reason: "isolated", ..self.bound_to(backend, "hit", "")? }),
            None => self.unbound(refused, "isolated"),
        }
    }

    fn count(&self, bound: &Bound) -> (&'static str, &'static str) {
        let counters = &self.service.state.counters;
        match bound.how {
            BoundHow::Created => {
                counters.bindings_created_total.up();
                ("new", "")
            }
            BoundHow::Existing => {
                counters.bindings_existing_total.up();
                ("existing", "")
            }
            BoundHow::Rehomed(cause) => {
                counters.bindings_rehomed_total.up();
                ("rehomed", cause_name(cause))
            }
        }
    }

    /// Whether a request may go on before its binding is in the log. Not where the log is known to refuse it and the client
    /// is not to be served then.
    fn commits_behind(&self, table: &TablePersistence) -> bool {
        let refuses = self.worker.shared.ports.passive.isolated()
            || table.when_full == WhenFull::Refuse && self.service.state.table_full.get();
        table.commit == Commit::AfterForward && !refuses || ballast_planted::is(Bug::BindingForwardedBeforeCommit)
    }

    /// Binds a key that the response teaches to the backend that taught it, before the response's head leaves.
    /// Returns what became of it.
    pub async fn learn(&self, key: KeyHash, backend: BackendId, table: &TablePersistence) -> &'static str {
        let bindings = &self.worker.shared.ports.bindings;
        match bindings.lookup(self.service.plan.id, key, None) {
            Lookup::Hit { backend: known, renew } if known == backend => {
                if renew {
                    bindings.renew(self.service.plan.id, key);
                }
                return "hit";
            }
            Lookup::Hit { .. } | Lookup::Miss | Lookup::Stale => {}
        }
        let request =
            BindRequest { service: self.service.plan.id, key, choice: backend, replaces: None, learned: true };
        if self.commits_behind(table)
            && bind_behind(&self.worker.shared, &self.service.state, request.clone()).is_some()
        {
            return "new";
        }
        match self.timer.limit(LOG_MS, bindings.bind(request)).await {
            Ok(Ok(bound)) => self.count(&bound).0,
            Ok(Err(_)) | Err(_) => {
                self.service.state.counters.unbound_total.up();
                "unbound"
            }
        }
    }
}

/// Binds without waiting. Returns the backend to use meanwhile: the one chosen by the first request of this
/// key on this node. `None` when too many are on their way; then the caller waits. One that fails leaves its client unbound.
fn bind_behind(shared: &Arc<Shared>, state: &Rc<ServiceState>, request: BindRequest) -> Option<BackendId> {
    let id: (ServiceId, KeyHash) = (request.service, request.key);
    let mut on_their_way = shared.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(backend) = on_their_way.get(&id) {
        return Some(*backend);
    }
    if on_their_way.len() >= ON_THEIR_WAY_MAX {
        return None;
    }
    on_their_way.insert(id, request.choice);
    drop(on_their_way);
    let (choice, shared, state) = (request.choice, shared.clone(), state.clone());
    tokio::task::spawn_local(async move {
        if let Err(error) = shared.ports.bindings.bind(request).await {
            state.counters.unbound_total.up();
            state.table_full.set(error == BindError::TableFull);
            tracing::debug!(%error, "a binding made after forwarding was lost");
        }
        shared.on_their_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    });
    Some(choice)
}
