//! The binding tables as the data plane uses them: local looks, changes through the log.
//!
//! A hit counts while this node's state is fresh and the binding has settled; anything else is
//! confirmed or proposed. See ADR 4 for why a moved binding waits.

use std::{sync::Arc, time::Duration};

use ballast_core::{
    cluster::{
        BindError, BindRequest, Bindings, Bound, BoundHow, BoxFuture, Lookup, NotConfirmed, Propose, ProposeError,
        ReadIndex,
    },
    ids::{BackendId, ServiceId},
    persistence::KeyHash,
    state::{BindingChange, Command, Outcome, Refusal},
};
use tokio::time::sleep;

use crate::{clock::boottime, view::View};

/// Without a confirmation for so long this node counts as isolated: it goes by its own checks, and clients do not
/// wait for a log that does not answer.
pub const ISOLATED_AFTER: Duration = Duration::from_secs(2);

/// Longest that a client's request waits for its binding: an election and a retry fit in.
const BIND_DEADLINE: Duration = Duration::from_secs(4);

/// Longest that a hit waits to be confirmed before the farm's `isolated` decides.
const CONFIRM_DEADLINE: Duration = Duration::from_millis(1500);

/// How often something that settles is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Nobody waits for a renewal; after this it is given up.
const RENEW_DEADLINE: Duration = Duration::from_secs(2);

/// The tables of this node.
pub struct NodeBindings<C> {
    view: Arc<View>,
    cluster: C,
    /// Tells the newest round that a majority of voters answered.
    confirmed: Box<dyn Fn() -> Option<ballast_core::lease::Confirmed> + Send + Sync>,
    runtime: tokio::runtime::Handle,
}

impl<C: Propose + ReadIndex + Clone> NodeBindings<C> {
    /// Bindings that look into `view`, propose to `cluster`, and learn from `confirmed` how current the view is.
    pub fn new(
        view: Arc<View>,
        cluster: C,
        confirmed: impl Fn() -> Option<ballast_core::lease::Confirmed> + Send + Sync + 'static,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { view, cluster, confirmed: Box::new(confirmed), runtime }
    }

    /// Whether no majority has answered this node for so long that asking again only costs time.
    fn isolated(&self) -> bool {
        let age = self.view.freshness.age(boottime()).map(Duration::from_nanos);
        age.is_none_or(|age| age > ISOLATED_AFTER)
    }

    /// Whether the table may be served from right now.
    fn fresh(&self) -> bool {
        let now = boottime();
        if self.view.freshness.holds(now) {
            // Cheap path first; rounds are taken into account before the last one runs out, below.
            let half = self.view.freshness.span() / 2;
            if self.view.freshness.age(now).is_some_and(|age| age < half) {
                return true;
            }
        }
        if let Some(round) = (self.confirmed)() {
            self.view.freshness.confirm(round.asked_at, round.index, self.view.applied_index());
        }
        self.view.freshness.holds(boottime())
    }
}

impl<C: Propose + ReadIndex + Clone> Bindings for NodeBindings<C> {
    fn lookup(&self, service: ServiceId, key: KeyHash) -> Lookup {
        let Some(tables) = self.view.tables() else { return Lookup::Stale };
        // Freshness is judged before the look: what is read after may only be newer.
        let fresh = self.fresh();
        let log_time = self.view.log_time();
        match tables.lookup(service, key, log_time) {
            None => Lookup::Miss,
            Some(binding) if !fresh || !self.view.settling.has_settled(&binding, log_time, boottime()) => Lookup::Stale,
            Some(binding) => Lookup::Hit { backend: binding.backend, renew: binding.renew_due },
        }
    }

    fn last_known(&self, service: ServiceId, key: KeyHash) -> Option<BackendId> {
        let binding = self.view.tables()?.lookup(service, key, self.view.log_time())?;
        Some(binding.backend)
    }

    fn bind(&self, request: BindRequest) -> BoxFuture<'static, Result<Bound, BindError>> {
        let BindRequest { service, key, choice, replaces } = request;
        if self.isolated() {
            let detail = "no majority of the voters answers this node".to_owned();
            return Box::pin(async { Err(BindError::Propose(ProposeError::NoQuorum { detail })) });
        }
        let proposal = self.cluster.propose(Command::Bind { service, key, choice, replaces }, BIND_DEADLINE);
        let view = Arc::clone(&self.view);
        Box::pin(async move {
            let applied = proposal.await?;
            let (backend, how) = match applied.outcome {
                Outcome::Bound { backend, how } => (backend, how),
                Outcome::Refused(Refusal::TableFull) => return Err(BindError::TableFull),
                Outcome::Refused(_) => return Err(BindError::NotEligible),
                // The state machine answers a Bind with nothing else.
                _ => return Err(BindError::Propose(ProposeError::OutcomeUnknown { waited: BIND_DEADLINE })),
            };
            settle(&view, service, key).await;
            let how = match how {
                // For the client its key was free either way; that the new binding settles was seen to above.
                BindingChange::Created | BindingChange::Replaced { .. } => BoundHow::Created,
                BindingChange::Existing => BoundHow::Existing,
                BindingChange::Rehomed(cause) => BoundHow::Rehomed(cause),
            };
            Ok(Bound { backend, index: applied.index, how })
        })
    }

    fn renew(&self, service: ServiceId, key: KeyHash) {
        let renewal = self.cluster.propose(Command::Renew { service, key }, RENEW_DEADLINE);
        // The proposer bounds what waits; a renewal that fails is tried again by a later request.
        self.runtime.spawn(async move { drop(renewal.await) });
    }

    fn confirm(&self) -> BoxFuture<'static, Result<(), NotConfirmed>> {
        if self.isolated() {
            let detail = "no majority of the voters answers this node".to_owned();
            return Box::pin(async { Err(NotConfirmed { detail }) });
        }
        let (view, cluster) = (Arc::clone(&self.view), self.cluster.clone());
        Box::pin(async move {
            // The caller does not say which key; whatever moved has settled after this.
            let moved = view.settling.last_moved();
            while !view.settling.quiet_up_to(moved, boottime()) {
                sleep(LOOK_AGAIN).await;
                view.settling.applied(view.applied_index(), boottime(), view.settle());
            }
            let asked_at = boottime();
            let index = cluster.confirm(CONFIRM_DEADLINE).await?;
            view.freshness.confirm(asked_at, index, view.applied_index());
            Ok(())
        })
    }
}

/// Waits until the binding of `key` may be forwarded on.
async fn settle(view: &View, service: ServiceId, key: KeyHash) {
    loop {
        let log_time = view.log_time();
        let binding = view.tables().and_then(|tables| tables.lookup(service, key, log_time));
        if binding.is_none_or(|binding| view.settling.has_settled(&binding, log_time, boottime())) {
            return;
        }
        sleep(LOOK_AGAIN).await;
        view.settling.applied(view.applied_index(), boottime(), view.settle());
    }
}
