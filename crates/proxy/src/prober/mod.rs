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
    plan::Verdict,
};
use tokio::{
    sync::watch as changes,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub(crate) use check::unconnected;
pub use findings::{CheckStats, Findings};

/// What a watch was started with; another one replaces it when this differs.
#[derive(Clone, PartialEq)]
struct Watched {
    address: SocketAddr,
    health: Health,
}

/// A watch that runs.
struct Running {
    watched: Watched,
    /// Tells it what the log holds of its finding.
    logged: changes::Sender<watch::Logged>,
    task: AbortHandle,
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
    let pace = Arc::new(pace::Pace::new(Arc::clone(&findings)));
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<BackendId, Running> = BTreeMap::new();
    loop {
        let plan = view.plan();
        let mut wanted: BTreeMap<BackendId, Watched> = BTreeMap::new();
        let mut agreed: BTreeMap<BackendId, Verdict> = BTreeMap::new();
        for service in plan.farms.iter().flat_map(|farm| &farm.services) {
            let Some(health) = &service.health else { continue };
            for backend in &service.backends {
                wanted.insert(backend.id, Watched { address: backend.address, health: health.clone() });
                agreed.insert(backend.id, backend.verdict);
            }
        }
        let logged = |id: &BackendId| watch::Logged {
            index: plan.index,
            verdict: plan.findings.get(id).copied(),
            agreed: agreed.get(id).copied().unwrap_or(Verdict::Unknown),
        };
        running.retain(|id, watch| {
            let keep = wanted.get(id) == Some(&watch.watched);
            if keep {
                watch.logged.send_replace(logged(id));
            } else {
                watch.task.abort();
            }
            keep
        });
        findings.keep(&wanted.iter().map(|(id, watched)| (*id, watched.health.passive_failures)).collect());
        for (id, watched) in wanted {
            if running.contains_key(&id) {
                continue;
            }
            let Some(cell) = findings.cell(id) else { continue };
            let watch = watch::Watch {
                node: plan.node,
                backend: id,
                address: watched.address,
                health: watched.health.clone(),
                cell,
                cluster: Arc::clone(&cluster),
                contact: Arc::clone(&contact),
                pace: Arc::clone(&pace),
            };
            let (logged, held) = changes::channel(logged(&id));
            running.insert(id, Running { watched, logged, task: tasks.spawn(watch.run(held)) });
        }
        // Each arm is cancel-safe: a change not taken now is still marked, a task not reaped stays.
        tokio::select! {
            changed = generations.changed() => if changed.is_err() { return },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = stop.cancelled() => return,
        }
    }
}
