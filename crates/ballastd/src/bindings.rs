//! The binding tables as the data plane uses them: local looks, changes through the log.
//!
//! A hit counts while this node's state is fresh, or was confirmed for the request, and the binding
//! has settled; anything else is confirmed or proposed. See ADR 4 for why a moved binding waits.

use std::{sync::Arc, time::Duration};

use ballast_clock::boot_now;
use ballast_core::{
    cluster::{
        BindError, BindRequest, Bindings, Bound, BoundHow, BoxFuture, ClusterView as _, Lookup, NotConfirmed, Propose,
        ProposeError, ReadIndex,
    },
    config::{Persistence, TableKey},
    ids::{BackendId, LogIndex, ServiceId},
    persistence::KeyHash,
    state::{BindingChange, Command, Outcome, Refusal},
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::view::View;

/// Longest that a client's request waits for its binding: an election and a retry fit in.
const BIND_DEADLINE: Duration = Duration::from_secs(4);

/// Longest that a hit waits to be confirmed before the farm's `isolated` decides.
const CONFIRM_DEADLINE: Duration = Duration::from_millis(1500);

/// The same for a node that has just started, whose table may be old: a start of all nodes at once fits in.
const FIRST_DEADLINE: Duration = Duration::from_secs(5);

/// How old a confirmation is when this node asks by itself. With a quorum the lease protocol's rounds are far quicker.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Longest that a hit waits until whatever moved has settled, which takes 1.3 s at most unless everything begins to
/// settle anew meanwhile.
const SETTLE_DEADLINE: Duration = Duration::from_secs(2);

/// How often something that settles is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Nobody waits for a renewal; after this it is given up.
const RENEW_DEADLINE: Duration = Duration::from_secs(2);

/// How many hundredths of a table whose keys backends give to clients are kept for these: keys that no backend was seen to give
/// are anybody's to make up, and whoever logs in is to find room all the same. Arbitrary: with the defaults, 120,000 logins.
const KEPT_FOR_TAUGHT: u64 = 12;

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
        self.view.freshness.isolated(boot_now)
    }

    /// Whether a backend gives the service's keys to clients.
    fn is_taught(&self, service: ServiceId) -> bool {
        let plan = self.view.plan();
        let services = plan.farms.iter().flat_map(|farm| &farm.services);
        let mut tables = services.filter(|known| known.id == service).filter_map(|known| known.persistence.as_ref());
        tables
            .any(|known| matches!(known, Persistence::Table(table) if matches!(table.key, TableKey::LearnedCookie(_))))
    }

    /// Whether the table may be served from right now.
    fn fresh(&self) -> bool {
        let now = boot_now();
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
        self.view.freshness.holds(boot_now())
    }
}

impl<C: Propose + ReadIndex + Clone> Bindings for NodeBindings<C> {
    fn lookup(&self, service: ServiceId, key: KeyHash, confirmed: Option<LogIndex>) -> Lookup {
        let Some(tables) = self.view.tables() else { return Lookup::Stale };
        // Freshness is judged before the look: what is read after may only be newer.
        let holds = |index| self.view.freshness.holds_for(index, self.view.applied_index());
        let fresh = confirmed.is_some_and(holds) || self.fresh();
        let log_time = self.view.log_time();
        match tables.lookup(service, key, log_time) {
            None => Lookup::Miss,
            Some(binding) if !fresh || !self.view.settling.has_settled(&binding, log_time, boot_now()) => Lookup::Stale,
            Some(binding) => Lookup::Hit { backend: binding.backend, renew: binding.renew_due },
        }
    }

    fn last_known(&self, service: ServiceId, key: KeyHash) -> Option<BackendId> {
        let binding = self.view.tables()?.lookup(service, key, self.view.log_time())?;
        Some(binding.backend)
    }

    fn bind(&self, request: BindRequest) -> BoxFuture<'static, Result<Bound, BindError>> {
        let BindRequest { service, key, choice, replaces, learned } = request;
        if self.isolated() {
            let detail = "no majority of the voters answers this node".to_owned();
            return Box::pin(async { Err(BindError::Propose(ProposeError::NoQuorum { detail })) });
        }
        let (view, cluster) = (Arc::clone(&self.view), self.cluster.clone());
        let kept = if learned || !self.is_taught(service) { 0 } else { KEPT_FOR_TAUGHT };
        let is_full = move |view: &View| view.tables().is_some_and(|tables| tables.is_full(service, key, kept));
        Box::pin(async move {
            let give_up = Instant::now() + BIND_DEADLINE;
            if is_full(&view) {
                // A key that cannot be bound is not worth an entry of the log, nor is each of its requests. But it may have been
                // bound elsewhere just now.
                let asked = cluster.confirm(BIND_DEADLINE).await;
                let deadline = |NotConfirmed { detail }| BindError::Propose(ProposeError::NoQuorum { detail });
                asked.map_err(deadline)?;
                if is_full(&view) {
                    return Err(BindError::TableFull);
                }
            }
            let mut applied = cluster.propose(Command::Bind { service, key, choice, replaces }, BIND_DEADLINE).await?;
            let refused = applied.outcome == Outcome::Refused(Refusal::NotEligible);
            if learned && refused && keeps_its_own(&view, service, choice) {
                // It takes nobody new, and this is nobody new. Only now, because a release before this one cannot read it.
                let left = give_up.saturating_duration_since(Instant::now());
                applied = cluster.propose(Command::Learn { service, key, teacher: choice }, left).await?;
            }
            let (backend, how) = match applied.outcome {
                Outcome::Bound { backend, how } => (backend, how),
                Outcome::Refused(Refusal::TableFull) => return Err(BindError::TableFull),
                Outcome::Refused(_) => return Err(BindError::NotEligible),
                // The state machine answers a Bind with nothing else.
                _ => return Err(BindError::Propose(ProposeError::OutcomeUnknown { waited: BIND_DEADLINE })),
            };
            let settled = settle(&view, service, key, give_up).await?;
            let how = match how {
                // A later entry moved it while it settled.
                _ if settled.is_some_and(|settled| settled != backend) => BoundHow::Existing,
                // For the client its key was free either way; that the new binding settles was seen to above.
                BindingChange::Created | BindingChange::Replaced { .. } => BoundHow::Created,
                BindingChange::Existing => BoundHow::Existing,
                BindingChange::Rehomed(cause) => BoundHow::Rehomed(cause),
            };
            Ok(Bound { backend: settled.unwrap_or(backend), index: applied.index, how })
        })
    }

    fn renew(&self, service: ServiceId, key: KeyHash) {
        let renewal = self.cluster.propose(Command::Renew { service, key }, RENEW_DEADLINE);
        // The proposer bounds what waits; a renewal that fails is tried again by a later request.
        self.runtime.spawn(async move { drop(renewal.await) });
    }

    fn confirm(&self) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
        if self.isolated() {
            let detail = "no majority of the voters answers this node".to_owned();
            return Box::pin(async { Err(NotConfirmed { detail }) });
        }
        let (view, cluster) = (Arc::clone(&self.view), self.cluster.clone());
        Box::pin(async move {
            // The caller does not say which key; whatever moved has settled after this.
            let moved = view.settling.last_moved();
            let give_up = Instant::now() + SETTLE_DEADLINE;
            while !view.settling.quiet_up_to(moved, boot_now()) {
                if Instant::now() >= give_up {
                    let detail = format!("bindings that moved have not settled within {SETTLE_DEADLINE:?}");
                    return Err(NotConfirmed { detail });
                }
                sleep(LOOK_AGAIN).await;
                view.settling.applied(view.applied_index(), boot_now(), view.settle());
            }
            ask(&view, &cluster).await
        })
    }
}

/// Whether a backend serves the clients that it has and takes no others, as far as this node knows.
fn keeps_its_own(view: &View, service: ServiceId, backend: BackendId) -> bool {
    let plan = view.plan();
    let services = plan.farms.iter().flat_map(|farm| &farm.services).filter(|known| known.id == service);
    let mut backends = services.flat_map(|known| &known.backends).filter(|known| known.id == backend);
    backends.any(|known| {
        let eligibility = known.eligibility();
        eligibility.must_leave(false).is_none() && !eligibility.is_meant_to_serve()
    })
}

/// Asks a majority whether the state here is current, until it answers or an attempt fails in which this process ran
/// all the while. Returns the index that the state has come to, at least.
///
/// # Errors
/// When nobody answered in time.
async fn ask(view: &View, cluster: &impl ReadIndex) -> Result<LogIndex, NotConfirmed> {
    loop {
        let asked_at = boot_now();
        let deadline = if view.freshness.age(asked_at).is_some() { CONFIRM_DEADLINE } else { FIRST_DEADLINE };
        match cluster.confirm(deadline).await {
            Ok(index) => {
                view.freshness.confirm(asked_at, index, view.applied_index());
                return Ok(index);
            }
            Err(error) if view.freshness.failed(asked_at, deadline, boot_now()) => return Err(error),
            // It stood still while it asked.
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

/// Keeps asking while the lease protocol's rounds confirm nothing, so that a node without a quorum knows that, and one
/// that has it again, too. Ends with `until`.
pub async fn keep_asking(view: Arc<View>, cluster: impl ReadIndex, until: CancellationToken) {
    loop {
        tokio::select! {
            () = sleep(ASK_EVERY) => {}
            () = until.cancelled() => return,
        }
        let silent = view.freshness.age(boot_now()).is_none_or(|age| Duration::from_nanos(age) > ASK_EVERY);
        if silent && let Err(error) = ask(&view, &cluster).await {
            tracing::debug!(%error, "the state is not confirmed");
        }
    }
}

/// Waits until the binding of `key` may be forwarded on, and returns the backend of just that binding: it need not be
/// the one that the caller's own entry made. `None` if the key is not bound any more, or is about to end.
///
/// # Errors
/// When it has not settled at `give_up`.
async fn settle(
    view: &View,
    service: ServiceId,
    key: KeyHash,
    give_up: Instant,
) -> Result<Option<BackendId>, ProposeError> {
    loop {
        let log_time = view.log_time();
        let binding = view.tables().and_then(|tables| tables.lookup(service, key, log_time));
        match binding {
            None => return Ok(None),
            Some(binding) if view.settling.has_settled(&binding, log_time, boot_now()) => {
                return Ok(Some(binding.backend));
            }
            Some(_) if Instant::now() >= give_up => {
                return Err(ProposeError::OutcomeUnknown { waited: BIND_DEADLINE });
            }
            Some(_) => {}
        }
        sleep(LOOK_AGAIN).await;
        view.settling.applied(view.applied_index(), boot_now(), view.settle());
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        cluster::{Applied, PassiveHealth as _},
        ids::NodeId,
        state::{Author, State},
    };
    use ballast_raft::Observer as _;

    use super::*;
    use crate::fixture::{START, founded, pass};

    const A: BackendId = BackendId::new(1);
    const B: BackendId = BackendId::new(2);
    const WEB: ServiceId = ServiceId::new(1);
    const KEY: KeyHash = KeyHash::from_u128(7);
    const OTHER: KeyHash = KeyHash::from_u128(8);
    const SHOP: &str = r#"{"version":1,"cluster":{"freshness":"10ms"},"vips":[{"name":"v","addresses":["127.0.0.10"]}],
        "farms":[{"name":"shop","listeners":[{"name":"http","vip":"v","port":8080}],"services":[{"name":"web",
        "backends":[{"name":"a","address":"127.0.0.1:9000"},{"name":"b","address":"127.0.0.1:9001"}],"health":{},
        "persistence":{"table":{"key":{"header":"x-user"}}}}]}]}"#;

    /// Answers each proposal as it is told to, and confirms everything.
    #[derive(Clone)]
    struct Answers(Outcome);

    impl Propose for Answers {
        fn propose(&self, _: Command, _: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
            let outcome = self.0.clone();
            Box::pin(async { Ok(Applied { index: LogIndex::new(1), outcome }) })
        }
    }

    impl ReadIndex for Answers {
        fn confirm(&self, _: Duration) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
            Box::pin(async { Ok(LogIndex::new(0)) })
        }
    }

    /// Confirms up to this index, which takes twice as long as a confirmation counts.
    #[derive(Clone)]
    struct Far(LogIndex);

    impl Propose for Far {
        fn propose(&self, _: Command, _: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
            Box::pin(async { Err(ProposeError::Stopping) })
        }
    }

    impl ReadIndex for Far {
        fn confirm(&self, _: Duration) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
            let index = self.0;
            Box::pin(async move {
                sleep(Duration::from_millis(20)).await;
                Ok(index)
            })
        }
    }

    /// Applies an entry, and shows it.
    fn show(view: &View, state: &mut State, command: Command) {
        let (entry, outcomes) = pass(state, START, command);
        view.entry(state.applied(), &entry, &outcomes);
        view.applied(state, state.applied());
    }

    fn bind(key: KeyHash, choice: BackendId) -> Command {
        Command::Bind { service: WEB, key, choice, replaces: None }
    }

    fn set(to: Option<BackendId>) -> Command {
        Command::SetBinding { service: WEB, key: KEY, to, pinned: false, author: Author::default() }
    }

    /// A node in touch with the others, its state, and its tables.
    fn node() -> (Arc<View>, State, NodeBindings<Answers>) {
        node_of(SHOP)
    }

    fn node_of(document: &str) -> (Arc<View>, State, NodeBindings<Answers>) {
        let view = Arc::new(View::new(NodeId::new(1)));
        let state = founded(document);
        view.applied(&state, state.applied());
        view.freshness.confirm(boot_now(), LogIndex::new(0), LogIndex::new(0));
        let outcome = Outcome::Bound { backend: A, how: BindingChange::Existing };
        let runtime = tokio::runtime::Handle::current();
        let bindings = NodeBindings::new(Arc::clone(&view), Answers(outcome), || None, runtime);
        (view, state, bindings)
    }

    #[tokio::test]
    async fn bind_returns_the_binding_that_settled_and_not_one_that_a_later_entry_moved() {
        let (view, mut state, bindings) = node();
        show(&view, &mut state, bind(KEY, A));
        show(&view, &mut state, set(Some(B)));
        let bound =
            bindings.bind(BindRequest { service: WEB, key: KEY, choice: A, replaces: None, learned: false }).await;
        assert_eq!(bound.map(|bound| (bound.backend, bound.how)), Ok((B, BoundHow::Existing)));
    }

    #[tokio::test]
    async fn keys_that_nobody_was_given_leave_room_for_those_that_are() {
        let table = r#"{"key":{"learned_cookie":"SID"},"entries_max":100}"#;
        let (view, mut state, bindings) = node_of(&SHOP.replace(r#"{"key":{"header":"x-user"}}"#, table));
        let bind_to_a = async |key, learned| {
            let key = KeyHash::from_u128(key);
            let request = BindRequest { service: WEB, key, choice: A, replaces: None, learned };
            bindings.bind(request).await.map(|bound| bound.backend)
        };
        // Whoever they are of.
        for key in 0..88 {
            assert_eq!(bind_to_a(key, false).await, Ok(A), "{key}");
            show(&view, &mut state, bind(KeyHash::from_u128(key), A));
        }
        // The log would still take it, and is not asked.
        assert_eq!(bind_to_a(88, false).await, Err(BindError::TableFull));
        for key in 88..100 {
            assert_eq!(bind_to_a(key, true).await, Ok(A), "{key}");
            show(&view, &mut state, bind(KeyHash::from_u128(key), A));
        }
        assert_eq!(bind_to_a(100, true).await, Err(BindError::TableFull));
        assert_eq!((bind_to_a(0, false).await, bind_to_a(99, false).await), (Ok(A), Ok(A)), "they have their room");
    }

    #[tokio::test]
    async fn a_request_that_asked_is_served_however_long_that_took() {
        let (view, mut state, _) = node();
        show(&view, &mut state, bind(KEY, A));
        let runtime = tokio::runtime::Handle::current();
        let bindings = NodeBindings::new(Arc::clone(&view), Far(state.applied()), || None, runtime);
        let index = bindings.confirm().await.expect("a majority answers");
        let look = |index: LogIndex| bindings.lookup(WEB, KEY, Some(index));
        assert_eq!(bindings.lookup(WEB, KEY, None), Lookup::Stale, "for another request");
        assert_eq!(look(index), Lookup::Hit { backend: A, renew: false });
        assert_eq!(look(LogIndex::new(index.get() + 1)), Lookup::Stale, "this node is not there yet");
        show(&view, &mut state, set(Some(B)));
        assert_eq!(look(index), Lookup::Stale, "what moved settles all the same");
    }

    #[tokio::test]
    async fn who_waited_for_a_majority_is_judged_by_the_clusters_verdicts_once_it_answers() {
        let view = Arc::new(View::new(NodeId::new(1)));
        let state = founded(SHOP);
        view.applied(&state, state.applied());
        let findings = view.findings();
        assert!(!findings.isolated(), "it has not asked yet");
        assert!(view.freshness.failed(boot_now(), FIRST_DEADLINE, boot_now()));
        assert!(findings.isolated(), "it goes by what it finds itself");
        let bindings =
            NodeBindings::new(Arc::clone(&view), Far(state.applied()), || None, tokio::runtime::Handle::current());
        assert!(bindings.confirm().await.is_err(), "and asks nobody for its clients");
        ask(&view, &Far(state.applied())).await.expect("a majority answers");
        assert!(!findings.isolated());
    }

    #[tokio::test]
    async fn deleting_a_binding_makes_only_its_own_key_wait() {
        let (view, mut state, _) = node();
        show(&view, &mut state, bind(KEY, A));
        show(&view, &mut state, bind(OTHER, A));
        show(&view, &mut state, set(None));
        let settled = |key| {
            let binding = state.tables().lookup(WEB, key, START).expect("bound");
            view.settling.has_settled(&binding, START, boot_now())
        };
        assert!(state.tables().lookup(WEB, KEY, START).is_none());
        assert!(settled(OTHER));
        view.settling.all_moved(boot_now().plus(3_600_000_000_000));
        assert!(!settled(OTHER), "what is asked is whether everything settles");
    }

    #[tokio::test]
    async fn a_key_that_is_bound_again_after_its_deletion_settles() {
        let (view, mut state, _) = node();
        show(&view, &mut state, bind(KEY, A));
        show(&view, &mut state, set(None));
        show(&view, &mut state, bind(KEY, B));
        let binding = state.tables().lookup(WEB, KEY, START).expect("bound");
        let before_anything_settled = ballast_core::time::BootNanos::new(0);
        assert!(!view.settling.has_settled(&binding, START, before_anything_settled));
        assert_eq!(view.settling.last_moved(), state.applied());
    }

    #[tokio::test]
    async fn a_hit_does_not_wait_for_ever_until_things_have_settled() {
        let (view, _, bindings) = node();
        view.settling.all_moved(boot_now().plus(3_600_000_000_000));
        assert!(bindings.confirm().await.is_err());
    }
}
