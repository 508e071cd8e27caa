//! What this node shows of the agreed state to everything that runs beside the log.
//!
//! One observer sits where entries are applied. It compiles a new [`Plan`] when something changed
//! that the data plane must know (not for bindings; for verdicts that follow one another closely
//! once for many, as if a slow network had brought them), keeps an estimate of log time, notes bindings
//! that moved, and wakes whoever waits for an index.
//!
//! Not here: how entries get there (`ballast-raft`), what the plan means (`ballast_core::plan`).

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use ballast_clock::boot_now;
use ballast_core::{
    cluster::ClusterView,
    ids::{LogIndex, NodeId},
    persistence::Tables,
    plan::{self, Plan},
    state::{BindingChange, Entry, FrameOutcomes, Outcome, Refusal, State},
    time::{BootNanos, LogTime},
};
use ballast_proxy::prober::Findings;
use ballast_raft::Observer;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    freshness::Freshness,
    leaps::Leaps,
    reckoning::Reckoning,
    settling::{Settling, settle_nanos},
};

/// Verdicts on backends within so many nanoseconds come with one plan. A plan of ten thousand backends takes milliseconds to
/// compile here, and as long for each worker to take in. What takes as long as a round of leases hurts nobody.
const VERDICTS_NANOS: u64 = 50_000_000;

/// This node's published view.
pub struct View {
    node: NodeId,
    plan: ArcSwap<Plan>,
    generation: AtomicU64,
    compiled: Mutex<Compiled>,
    /// The state has verdicts that `plan` has not.
    behind: AtomicBool,
    /// A binding was refused, perhaps because of such a verdict.
    refused: AtomicBool,
    plan_changed: watch::Sender<u64>,
    applied: watch::Sender<LogIndex>,
    applied_index: AtomicU64,
    /// Last log time applied, in milliseconds.
    log_time: AtomicU64,
    /// Log time less `CLOCK_BOOTTIME` at that moment, in milliseconds: one number, so that a reader never
    /// sees half of a change.
    log_time_ahead: AtomicI64,
    reckoning: Mutex<Reckoning>,
    /// The same as reckoned.
    reckoned_ahead: AtomicI64,
    leaps: Mutex<Leaps>,
    tables: OnceLock<Arc<Tables>>,
    /// How recently the state was confirmed.
    pub freshness: Freshness,
    /// Bindings that moved a moment ago.
    pub settling: Settling,
}

/// The state's versions that the plan in force was compiled from.
#[derive(Debug, Default)]
struct Compiled {
    plan_version: u64,
    orders_version: u64,
    /// When one was last compiled for verdicts alone.
    verdicts_at: Option<BootNanos>,
}

impl View {
    /// A view of a state in which nothing was applied yet.
    pub fn new(node: NodeId) -> Self {
        let plan = plan::compile(&State::new(), node, 0);
        Self {
            node,
            plan: ArcSwap::from_pointee(plan),
            generation: AtomicU64::new(0),
            compiled: Mutex::default(),
            behind: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            plan_changed: watch::Sender::new(0),
            applied: watch::Sender::new(LogIndex::default()),
            applied_index: AtomicU64::new(0),
            log_time: AtomicU64::new(0),
            log_time_ahead: AtomicI64::new(0),
            reckoning: Mutex::default(),
            reckoned_ahead: AtomicI64::new(0),
            leaps: Mutex::default(),
            tables: OnceLock::new(),
            freshness: Freshness::new(100_000_000),
            settling: Settling::default(),
        }
    }

    /// What this node finds of backends, for a node that goes by it while no majority answers.
    pub fn findings(self: &Arc<Self>) -> Findings {
        let view = Arc::clone(self);
        Findings::new(move || view.freshness.isolated(boot_now))
    }

    /// Generation of the plan, told at each change.
    pub fn plan_changes(&self) -> watch::Receiver<u64> {
        self.plan_changed.subscribe()
    }

    /// Index of the last applied entry, told at each change.
    pub fn applied_changes(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> LogIndex {
        LogIndex::new(self.applied_index.load(Ordering::Acquire))
    }

    /// Log time now, as far as this node can tell: what it last applied, and the time since. It may be behind, after this
    /// node has applied what came while it stood still; nothing seems older by it than it is, but for the tenth by which log time
    /// may run slower than this node's clock since the last entry.
    pub fn log_time(&self) -> LogTime {
        on_boot_time(&self.log_time_ahead)
    }

    /// Log time now, and not set back by what was applied late. A node that was just started may be behind until the next
    /// entry that is stamped.
    pub fn log_time_reckoned(&self) -> LogTime {
        on_boot_time(&self.reckoned_ahead)
    }

    /// The binding tables, once the state exists.
    pub fn tables(&self) -> Option<&Arc<Tables>> {
        self.tables.get()
    }

    fn show(&self, state: &State, index: LogIndex) {
        self.tables.get_or_init(|| Arc::clone(state.tables()));
        self.learn_span(state);
        // Before anybody reads the new log time: what moved long ago by it may have moved just now.
        if self.leaps.lock().leapt(state.log_time(), boot_now()) {
            self.settling.all_moved(boot_now().plus(self.settle()));
        }
        let log_time = state.log_time().as_millis();
        if log_time > self.log_time.load(Ordering::Acquire) {
            let ahead = log_time.cast_signed() - (boot_now().get() / 1_000_000).cast_signed();
            self.log_time_ahead.store(ahead, Ordering::Release);
            self.log_time.store(log_time, Ordering::Release);
        }
        if let Some(ahead) = self.reckoning.lock().applied(state.log_time(), boot_now()) {
            self.reckoned_ahead.store(ahead, Ordering::Release);
        }
        self.keep_plan(state, boot_now());
        self.settling.applied(index, boot_now(), self.settle());
        // Last, so that whoever waits for the index finds everything else in place.
        self.applied_index.store(index.get(), Ordering::Release);
        self.applied.send_replace(index);
    }

    /// How long a moved binding settles now, in nanoseconds.
    pub fn settle(&self) -> u64 {
        settle_nanos(self.freshness.longest_span(boot_now()))
    }

    /// Takes over how long a confirmation counts.
    fn learn_span(&self, state: &State) {
        if let Some(document) = state.document() {
            self.freshness.set_span(document.cluster.freshness.as_millis() * 1_000_000, boot_now());
        }
    }

    /// Whether verdicts wait for others. [`View::keep_plan`] is to be called within [`VERDICTS_NANOS`] then.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    /// Compiles a plan if the one in force is not right any more, and what changed cannot wait: a verdict may if there was
    /// another a moment ago, and if nobody was refused for it. Whoever calls holds the state, which does not change meanwhile.
    pub fn keep_plan(&self, state: &State, now: BootNanos) {
        let mut compiled = self.compiled.lock();
        let refused = self.refused.swap(false, Ordering::AcqRel);
        let outdated = state.plan_version() != compiled.plan_version;
        let verdicts = state.orders_version() == compiled.orders_version;
        let lately = compiled.verdicts_at.is_some_and(|at| now.since(at) < VERDICTS_NANOS);
        let waits = verdicts && lately && !refused;
        self.behind.store(outdated && waits, Ordering::Release);
        if !outdated || waits {
            return;
        }
        let generation = self.generation.load(Ordering::Acquire) + 1;
        self.plan.store(Arc::new(plan::compile(state, self.node, generation)));
        compiled.plan_version = state.plan_version();
        compiled.orders_version = state.orders_version();
        if verdicts {
            compiled.verdicts_at = Some(now);
        }
        self.generation.store(generation, Ordering::Release);
        self.plan_changed.send_replace(generation);
    }
}

fn on_boot_time(ahead: &AtomicI64) -> LogTime {
    LogTime::from_millis((boot_now().get() / 1_000_000).saturating_add_signed(ahead.load(Ordering::Acquire)))
}

impl Observer for View {
    fn entry(&self, index: LogIndex, _: &Entry, outcomes: &[FrameOutcomes]) {
        for done in outcomes {
            // A deleted binding needs nothing here: whatever takes its place while its trace is kept is replaced.
            let moves = |outcome: &Outcome| {
                matches!(
                    outcome,
                    Outcome::Bound { how: BindingChange::Rehomed(_) | BindingChange::Replaced { .. }, .. }
                )
            };
            if done.outcomes.iter().any(moves) {
                self.settling.moved(index);
            }
            // Whoever hears of it chooses anew, and needs the plan that says why.
            if done.outcomes.contains(&Outcome::Refused(Refusal::NotEligible)) {
                self.refused.store(true, Ordering::Release);
            }
        }
    }

    fn applied(&self, state: &State, index: LogIndex) {
        self.show(state, index);
    }

    fn installed(&self, state: &State) {
        // Which bindings moved on the way here is not known, so all of them settle, by the freshness that is in force.
        self.learn_span(state);
        self.settling.all_moved(boot_now().plus(self.settle()));
        self.show(state, state.applied());
    }
}

impl ClusterView for View {
    fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn node(&self) -> NodeId {
        self.node
    }

    fn log_time(&self) -> LogTime {
        Self::log_time(self)
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        ids::BackendId,
        persistence::{BindingView, Provenance},
        plan::Verdict,
        state::{Command, RehomeCause},
    };

    use super::*;
    use crate::fixture::{START, configure, founded, pass};

    const NODE: NodeId = NodeId::new(1);
    const CHECKED: &str = r#"{"version":1,"farms":[{"name":"f","listeners":[{"name":"l","address":"127.0.0.1","port":80}],
        "services":[{"name":"s","health":{},"backends":[{"name":"a","address":"127.0.0.1:9001"},
        {"name":"b","address":"127.0.0.1:9002"}]}]}]}"#;
    const SLOW: &str = r#"{"version":1,"cluster":{"freshness":"1s"}}"#;
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_snapshot_settles_by_the_freshness_that_it_brings() {
        let view = View::new(NODE);
        let before = boot_now();
        view.installed(&founded(SLOW));
        let still = before.plus(settle_nanos(SECOND) - 1);
        assert!(!view.settling.quiet_up_to(LogIndex::new(0), still));
    }

    #[test]
    fn a_leap_of_log_time_makes_a_binding_that_just_moved_no_older() {
        let view = View::new(NODE);
        let mut state = founded(SLOW);
        view.applied(&state, state.applied());
        let moved = BindingView {
            backend: BackendId::new(1),
            pinned: false,
            provenance: Provenance::Rehomed(RehomeCause::BackendDown),
            index_low: 1_000_000,
            last_used: START,
            created: START,
            renew_due: false,
        };
        let before = boot_now();
        pass(&mut state, START.plus_millis(61_000), Command::Tick);
        view.applied(&state, state.applied());
        assert!(view.log_time() >= START.plus_millis(61_000));
        let soon = before.plus(settle_nanos(SECOND) - 1);
        assert!(!view.settling.has_settled(&moved, view.log_time(), soon));
    }

    fn finding(backend: BackendId, verdict: Verdict) -> Command {
        Command::ReportHealth { node: NODE, backend, verdict, detail: String::new() }
    }

    #[test]
    fn verdicts_that_follow_one_another_closely_come_with_one_plan() {
        let (view, mut state) = (View::new(NODE), founded(CHECKED));
        let (a, b) = (state.backend_id("f/s/a").expect("configured"), state.backend_id("f/s/b").expect("configured"));
        let shown =
            |view: &View| view.plan().farms[0].services[0].backends.iter().map(|b| b.verdict).collect::<Vec<_>>();
        let (up, down, unknown) = (Verdict::Up, Verdict::Down, Verdict::Unknown);
        let at = |millis: u64| BootNanos::new(SECOND + millis * 1_000_000);
        view.keep_plan(&state, at(0));
        pass(&mut state, START, finding(a, up));
        view.keep_plan(&state, at(1));
        assert_eq!((shown(&view), view.is_behind()), (vec![up, unknown], false), "the first at once");
        pass(&mut state, START, finding(b, up));
        view.keep_plan(&state, at(50));
        assert_eq!((shown(&view), view.is_behind()), (vec![up, unknown], true));
        view.keep_plan(&state, at(51));
        assert_eq!((shown(&view), view.is_behind()), (vec![up, up], false));

        pass(&mut state, START, finding(a, down));
        view.keep_plan(&state, at(52));
        assert!(view.is_behind());
        configure(&mut state, START, &CHECKED.replace("9002", "9003"));
        view.keep_plan(&state, at(53));
        assert_eq!((shown(&view), view.is_behind()), (vec![down, unknown], false), "documents wait for nothing");

        pass(&mut state, START, finding(b, down));
        let refused = Outcome::Refused(Refusal::NotEligible);
        let (entry, mut outcomes) = pass(&mut state, START, Command::Tick);
        outcomes[0].outcomes = vec![refused];
        view.entry(state.applied(), &entry, &outcomes);
        view.keep_plan(&state, at(54));
        assert_eq!(shown(&view), [down, down], "whoever was refused sees why");
    }

    #[test]
    fn five_thousand_verdicts_in_as_many_entries_are_a_hundred_plans() {
        let (view, mut state) = (View::new(NODE), founded(CHECKED));
        let a = state.backend_id("f/s/a").expect("configured");
        view.keep_plan(&state, BootNanos::new(SECOND));
        let before = view.generation();
        for n in 0..5000_u64 {
            // Further apart than flaps are held down for.
            let log_time = START.plus_millis(n * 100_000);
            pass(&mut state, log_time, finding(a, if n % 2 == 0 { Verdict::Up } else { Verdict::Down }));
            view.keep_plan(&state, BootNanos::new(SECOND + n * 1_000_000));
        }
        assert_eq!(view.generation() - before, 100);
    }
}
