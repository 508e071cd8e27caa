//! Health checks: this node's own findings about every backend, told to the log when they change.
//!
//! One task for each backend that is checked, all on one thread of their own ([`thread`]). It waits for the next check, for requests that
//! failed in a row, or for its end; the arithmetic of rise, fall and damping is
//! [`ballast_core::health`]'s. A finding is proposed until the log has it, and again when a plan shows
//! that the log has it no more; what the cluster makes of the findings of its nodes comes back in the
//! plan too.
//!
//! Not here: the verdict of the cluster (`ballast_core::state`), what a worker does with it.

mod check;
mod findings;
mod pace;
mod thread;
mod watch;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use ballast_core::{
    cluster::{ClusterView, Contact, Propose},
    config::Health,
    ids::BackendId,
    plan::{Plan, Verdict},
};
use tokio::{
    sync::watch as changes,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub(crate) use check::unconnected;
pub use findings::{CheckStats, Findings};
use pace::Pace;

/// A watch that runs. Another one replaces it when its backend is elsewhere or is checked otherwise.
struct Running {
    address: SocketAddr,
    health: Health,
    /// Tells it what the log holds of its finding.
    logged: changes::Sender<watch::Logged>,
    awaited: Arc<watch::Awaited>,
    task: AbortHandle,
}

/// What a plan says of a backend that is checked.
struct Wanted<'a> {
    address: SocketAddr,
    health: &'a Health,
    /// The cluster's verdict.
    agreed: Verdict,
}

/// Checks all backends of the plan until `stop`, following each change of the plan that
/// `generations` tells. Call it once; dropping the future ends all checks.
///
/// # Errors
/// The thread could not be started.
pub async fn run(
    view: Arc<dyn ClusterView>,
    generations: changes::Receiver<u64>,
    cluster: Arc<dyn Propose>,
    findings: Arc<Findings>,
    contact: Arc<dyn Contact>,
    stop: CancellationToken,
) -> io::Result<()> {
    thread::aside(check_all(view, generations, cluster, findings, contact, stop)).await
}

async fn check_all(
    view: Arc<dyn ClusterView>,
    mut generations: changes::Receiver<u64>,
    cluster: Arc<dyn Propose>,
    findings: Arc<Findings>,
    contact: Arc<dyn Contact>,
    stop: CancellationToken,
) {
    let pace = Arc::new(Pace::new(Arc::clone(&findings)));
    let mut prober = Prober { cluster, findings, contact, pace, tasks: JoinSet::new(), running: BTreeMap::new() };
    loop {
        prober.follow(&view.plan());
        // Each arm is cancel-safe: a change not taken now is still marked.
        tokio::select! {
            changed = generations.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// All watches.
struct Prober {
    cluster: Arc<dyn Propose>,
    findings: Arc<Findings>,
    contact: Arc<dyn Contact>,
    pace: Arc<Pace>,
    tasks: JoinSet<()>,
    running: BTreeMap<BackendId, Running>,
}

impl Prober {
    /// Watches what the plan wants checked, and tells the watches that go on what is news to them. Plans come with every
    /// few verdicts and there may be thousands of backends: one that a plan says nothing new of costs a look.
    fn follow(&mut self, plan: &Plan) {
        let mut wanted: BTreeMap<BackendId, Wanted<'_>> = BTreeMap::new();
        for service in plan.farms.iter().flat_map(|farm| &farm.services) {
            let Some(health) = &service.health else { continue };
            for backend in &service.backends {
                let (address, agreed) = (backend.address, backend.verdict);
                wanted.insert(backend.id, Wanted { address, health, agreed });
            }
        }
        let before = self.running.len();
        self.running.retain(|id, watch| {
            let kept = wanted.get(id).filter(|now| now.address == watch.address && *now.health == watch.health);
            match kept {
                Some(now) => watch::tell(&watch.logged, &watch.awaited, logged(plan, *id, now.agreed)),
                None => watch.task.abort(),
            }
            kept.is_some()
        });
        if self.running.len() != before || self.running.len() != wanted.len() {
            self.findings.keep(&wanted.iter().map(|(id, now)| (*id, now.health.passive_failures)).collect());
            for (id, now) in wanted {
                self.start(plan, id, &now);
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn start(&mut self, plan: &Plan, id: BackendId, now: &Wanted<'_>) {
        if self.running.contains_key(&id) {
            return;
        }
        let Some(cell) = self.findings.cell(id) else { return };
        let awaited = Arc::new(watch::Awaited::default());
        let watch = watch::Watch {
            node: plan.node,
            backend: id,
            address: now.address,
            health: now.health.clone(),
            cell,
            cluster: Arc::clone(&self.cluster),
            contact: Arc::clone(&self.contact),
            pace: Arc::clone(&self.pace),
            awaited: Arc::clone(&awaited),
        };
        let (logged, held) = changes::channel(logged(plan, id, now.agreed));
        let task = self.tasks.spawn(watch.run(held));
        self.running.insert(id, Running { address: now.address, health: now.health.clone(), logged, awaited, task });
    }
}

fn logged(plan: &Plan, id: BackendId, agreed: Verdict) -> watch::Logged {
    watch::Logged { index: plan.index, verdict: plan.findings.get(&id).copied(), agreed }
}
