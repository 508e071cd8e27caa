//! The watch over one backend: checks when due, counts, reports.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ballast_core::{
    cluster::Propose,
    config::Health,
    health::{Machine, Schedule, Transition},
    ids::{BackendId, NodeId},
    plan::Verdict,
    state::Command,
};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{check, findings::Cell};
use crate::clock::boot_now;

/// How long one try to report may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(3);
/// Pause after a report that did not get through. Without a quorum the node goes by its own
/// findings meanwhile, so nothing hangs on it.
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// What a watch needs.
pub(super) struct Watch {
    pub(super) node: NodeId,
    pub(super) backend: BackendId,
    pub(super) address: SocketAddr,
    pub(super) health: Health,
    pub(super) cell: Arc<Cell>,
    pub(super) cluster: Arc<dyn Propose>,
}

impl Watch {
    /// Runs until it is aborted.
    pub(super) async fn run(self) {
        let (findings, told) = tokio::sync::watch::channel(None::<(Verdict, String)>);
        // Polled beside the checks, so that a report that waits for a leader delays none of them.
        tokio::join!(self.check_on(findings), self.report(told));
    }

    async fn check_on(&self, findings: tokio::sync::watch::Sender<Option<(Verdict, String)>>) {
        let mut machine = Machine::new(&self.health);
        let mut schedule = Schedule::new(&self.health, rand::random(), boot_now());
        let limit = self.health.passive_failures.unwrap_or(0);
        loop {
            let wait = Duration::from_nanos(schedule.due().since(boot_now()));
            // Both arms are cancel-safe: the due time stays, and a wake-up that is not taken is kept.
            let transition = tokio::select! {
                () = sleep(wait) => {
                    schedule.begun(boot_now());
                    let began = Instant::now();
                    let observation = check::check(self.address, &self.health).await;
                    self.cell.checked(began.elapsed());
                    machine.checked(boot_now(), &observation)
                }
                () = self.cell.failing.notified() => {
                    (0..limit).filter_map(|_| machine.served(boot_now(), false)).next_back()
                }
            };
            if let Some(Transition { from, to, detail }) = transition {
                info!(backend = %self.backend, address = %self.address, ?from, ?to, detail, "this node's finding changed");
                self.cell.set(to);
                findings.send_replace(Some((to, detail)));
            }
        }
    }

    /// Proposes the newest finding until the log has it.
    async fn report(&self, mut told: tokio::sync::watch::Receiver<Option<(Verdict, String)>>) {
        while told.changed().await.is_ok() {
            loop {
                let Some((verdict, detail)) = told.borrow_and_update().clone() else { break };
                let command = Command::ReportHealth { node: self.node, backend: self.backend, verdict, detail };
                match self.cluster.propose(command, REPORT_DEADLINE).await {
                    Ok(_) => break,
                    Err(_) => sleep(REPORT_PAUSE).await,
                }
            }
        }
    }
}
