//! What this node found, shared between the watches and the workers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use ballast_core::{cluster::PassiveHealth, durations::Durations, health::Answer, ids::BackendId, plan::Verdict};
use tokio::sync::Notify;

/// The findings of this node about all backends that it checks.
pub struct Findings {
    /// Sorted by backend.
    cells: ArcSwap<Vec<(BackendId, Arc<Cell>)>>,
    isolated: Box<dyn Fn() -> bool + Send + Sync>,
    late: AtomicU64,
}

/// One backend's finding.
#[derive(Debug)]
pub(super) struct Cell {
    verdict: AtomicU8,
    /// Requests that failed in a row.
    failed: AtomicU32,
    /// So many wake the watch; zero when passive checks are off.
    limit: AtomicU32,
    /// What the newest of them got.
    answer: AtomicU8,
    /// Wakes the watch.
    pub(super) failing: Notify,
    counts: Mutex<CheckStats>,
}

/// What was counted of the checks of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckStats {
    /// How long checks took, passed or not.
    pub durations: Durations,
    /// Changes of this node's finding.
    pub transitions_total: u64,
}

impl Findings {
    /// None yet. `isolated` says whether this node is without a quorum and goes by its own checks. It is asked for each request, and
    /// has to be right at once: who waited until a majority answers is judged by the cluster's verdicts the moment it does.
    pub fn new(isolated: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { cells: ArcSwap::default(), isolated: Box::new(isolated), late: AtomicU64::new(0) }
    }

    /// What was counted of each backend that is checked.
    pub fn stats(&self) -> Vec<(BackendId, CheckStats)> {
        self.cells.load().iter().map(|(backend, cell)| (*backend, *cell.counts())).collect()
    }

    /// Checks that began more than half of their interval after they were due.
    pub fn late_total(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Counts one of them.
    pub(super) fn checked_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cell(&self, backend: BackendId) -> Option<Arc<Cell>> {
        let cells = self.cells.load();
        let at = cells.binary_search_by_key(&backend, |(id, _)| *id).ok()?;
        Some(Arc::clone(&cells[at].1))
    }

    /// Keeps cells for these backends, with their limit of failed requests, and forgets all others.
    pub(super) fn keep(&self, backends: &BTreeMap<BackendId, Option<u32>>) {
        let cells = backends
            .iter()
            .map(|(id, limit)| {
                let cell = self.cell(*id).unwrap_or_else(|| Arc::new(Cell::new()));
                cell.limit.store(limit.unwrap_or(0), Ordering::Relaxed);
                (*id, cell)
            })
            .collect();
        self.cells.store(Arc::new(cells));
    }
}

#[cfg(test)]
impl Default for Findings {
    fn default() -> Self {
        Self::new(|| false)
    }
}

impl Cell {
    fn new() -> Self {
        Self {
            verdict: AtomicU8::new(code(Verdict::Unknown)),
            failed: AtomicU32::new(0),
            limit: AtomicU32::new(0),
            answer: AtomicU8::new(Answer::Bad as u8),
            failing: Notify::new(),
            counts: Mutex::default(),
        }
    }

    /// Counts a check.
    pub(super) fn checked(&self, took: Duration) {
        self.counts().durations.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// What the newest request that failed got.
    pub(super) fn failed_by(&self) -> Answer {
        if self.answer.load(Ordering::Relaxed) == Answer::Nothing as u8 { Answer::Nothing } else { Answer::Bad }
    }

    fn counts(&self) -> MutexGuard<'_, CheckStats> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, verdict: Verdict) {
        self.counts().transitions_total += 1;
        self.verdict.store(code(verdict), Ordering::Relaxed);
    }

    fn get(&self) -> Verdict {
        match self.verdict.load(Ordering::Relaxed) {
            1 => Verdict::Up,
            2 => Verdict::Down,
            _ => Verdict::Unknown,
        }
    }
}

const fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Unknown => 0,
        Verdict::Up => 1,
        Verdict::Down => 2,
    }
}

impl PassiveHealth for Findings {
    fn observed(&self, backend: BackendId, answer: Answer) {
        if answer == Answer::Unasked {
            return;
        }
        let cells = self.cells.load();
        let Ok(at) = cells.binary_search_by_key(&backend, |(id, _)| *id) else { return };
        let cell = &cells[at].1;
        if answer == Answer::Good {
            // The line stays shared between the workers while all is well.
            if cell.failed.load(Ordering::Relaxed) != 0 {
                cell.failed.store(0, Ordering::Relaxed);
            }
            return;
        }
        let limit = cell.limit.load(Ordering::Relaxed);
        cell.answer.store(answer as u8, Ordering::Relaxed);
        if limit != 0 && (cell.failed.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(limit) {
            cell.failing.notify_one();
        }
    }

    fn local_verdict(&self, backend: BackendId) -> Verdict {
        let cells = self.cells.load();
        cells.binary_search_by_key(&backend, |(id, _)| *id).map_or(Verdict::Unknown, |at| cells[at].1.get())
    }

    fn isolated(&self) -> bool {
        (self.isolated)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_in_a_row_wake_the_watch_and_a_success_begins_anew() {
        let findings = Findings::default();
        let backend = BackendId::new(3);
        findings.keep(&BTreeMap::from([(backend, Some(3))]));
        let cell = findings.cell(backend).expect("kept");
        let (good, bad, nothing) = (Answer::Good, Answer::Bad, Answer::Nothing);
        for answer in [bad, nothing, good, bad, bad, Answer::Unasked] {
            findings.observed(backend, answer);
        }
        let woken = |cell: &Cell| futures_util::FutureExt::now_or_never(cell.failing.notified()).is_some();
        assert!(!woken(&cell), "never three in a row");
        findings.observed(backend, nothing);
        assert!(woken(&cell));
        assert_eq!(cell.failed_by(), nothing);
        findings.observed(backend, bad);
        assert_eq!(cell.failed_by(), bad);
        findings.observed(BackendId::new(99), bad);
        assert_eq!(findings.local_verdict(BackendId::new(99)), Verdict::Unknown);
    }

    #[test]
    fn a_kept_backend_keeps_its_finding_and_a_forgotten_one_does_not() {
        let findings = Findings::default();
        let (one, two) = (BackendId::new(1), BackendId::new(2));
        findings.keep(&BTreeMap::from([(one, None), (two, None)]));
        findings.cell(one).expect("kept").set(Verdict::Down);
        findings.keep(&BTreeMap::from([(one, Some(5))]));
        assert_eq!(findings.local_verdict(one), Verdict::Down);
        assert!(findings.cell(two).is_none());
    }
}
