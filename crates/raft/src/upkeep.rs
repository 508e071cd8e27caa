//! When to write a snapshot, and how much of the log to keep behind it.
//!
//! openraft's own policies are off. Its purge can overtake entries that wait to be applied
//! (its issue 2116), which stops the member for good; here a purge is bounded by what *is* applied,
//! and tens of thousands of entries stay behind it. They also let a follower that was away catch
//! up from the log instead of a snapshot, and then another one.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    log_store::LogStore,
    types::{Metrics, Raft},
};

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bounds of the log. The defaults are for entries that are batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// A snapshot is written when so many entries were applied since the last one.
    pub snapshot_entries: u64,
    /// Or when the log has grown to so many bytes.
    pub snapshot_bytes: u64,
    /// Least time between two snapshots: each writes the whole state.
    pub snapshot_pause: Duration,
    /// Entries kept behind the last applied one.
    pub kept_entries: u64,
    /// Unless they are more than so many bytes.
    pub kept_bytes: u64,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self {
            // A restart replays at most about this many; a batch applies in about a millisecond.
            snapshot_entries: 30_000,
            snapshot_bytes: 512 << 20,
            snapshot_pause: Duration::from_secs(60),
            kept_entries: 20_000,
            kept_bytes: 256 << 20,
        }
    }
}

/// What is decided from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    applied: u64,
    committed: u64,
    snapshot: u64,
    purged: u64,
    bytes: u64,
}

impl Position {
    fn of(metrics: &Metrics, bytes: u64) -> Self {
        let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index);
        Self {
            applied: index(metrics.last_applied),
            committed: index(metrics.local_committed),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            bytes,
        }
    }
}

/// With more entries than this committed and not applied, the node is catching up: writing a
/// snapshot now would slow it down and be old when it is done.
const APPLY_LAG_MAX: u64 = 256;

fn wants_snapshot(bounds: &LogBounds, at: Position) -> bool {
    let grown = at.applied.saturating_sub(at.snapshot);
    let due = grown >= bounds.snapshot_entries || (at.bytes >= bounds.snapshot_bytes && grown > 0);
    due && at.committed.saturating_sub(at.applied) <= APPLY_LAG_MAX
}

/// Up to where to purge. `leaving` is the index after which `kept_bytes` lie, if the log is larger.
fn wants_purge(bounds: &LogBounds, at: Position, leaving: Option<u64>) -> Option<u64> {
    let by_count = at.applied.saturating_sub(bounds.kept_entries);
    let upto = by_count.max(leaving.unwrap_or(0)).min(at.snapshot).min(at.applied.saturating_sub(APPLY_LAG_MAX));
    // In steps, so that a purge is rare beside the entries it removes.
    (upto > at.purged + bounds.kept_entries / 20).then_some(upto)
}

/// Looks after the log until the member stops.
pub(crate) async fn run(raft: Raft, log: LogStore, bounds: LogBounds) {
    use openraft::async_runtime::watch::WatchReceiver;
    let mut next_snapshot = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        let position = Position::of(&raft.metrics().borrow_watched(), log.bytes());
        if Instant::now() >= next_snapshot && wants_snapshot(&bounds, position) {
            tracing::info!(applied = position.applied, bytes = position.bytes, "writing a snapshot");
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            next_snapshot = Instant::now() + bounds.snapshot_pause;
        }
        if let Some(upto) = wants_purge(&bounds, position, log.index_leaving(bounds.kept_bytes)) {
            tracing::debug!(upto, "purging the log");
            if raft.trigger().purge_log(upto).await.is_err() {
                return;
            }
        }
    }
}

/// Openraft's part of the same decision: none.
pub(crate) fn disable_own_policies(config: &mut openraft::Config) {
    config.snapshot_policy = openraft::SnapshotPolicy::Never;
    // A follower further behind than the kept log needs a snapshot anyway; one that is not, none.
    config.replication_lag_threshold = u64::MAX;
    config.max_in_snapshot_log_to_keep = u64::MAX;
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: LogBounds = LogBounds {
        snapshot_entries: 1000,
        snapshot_bytes: 1 << 20,
        snapshot_pause: Duration::ZERO,
        kept_entries: 400,
        kept_bytes: 1 << 18,
    };
    const REST: Position = Position { applied: 5000, committed: 5000, snapshot: 4500, purged: 4100, bytes: 100 };

    #[test]
    fn a_snapshot_is_written_for_entries_or_bytes_but_not_while_catching_up() {
        assert!(!wants_snapshot(&BOUNDS, REST));
        assert!(wants_snapshot(&BOUNDS, Position { snapshot: 4000, ..REST }));
        assert!(wants_snapshot(&BOUNDS, Position { bytes: 2 << 20, ..REST }));
        assert!(!wants_snapshot(&BOUNDS, Position { bytes: 2 << 20, snapshot: 5000, ..REST }));
        assert!(!wants_snapshot(&BOUNDS, Position { snapshot: 4000, committed: 9000, ..REST }));
    }

    #[test]
    fn a_purge_never_passes_the_snapshot_or_what_is_applied() {
        assert_eq!(wants_purge(&BOUNDS, REST, None), Some(4500));
        assert_eq!(wants_purge(&BOUNDS, Position { snapshot: 4900, ..REST }, None), Some(4600));
        assert_eq!(wants_purge(&BOUNDS, Position { snapshot: 5000, ..REST }, Some(4990)), Some(5000 - APPLY_LAG_MAX));
        assert_eq!(wants_purge(&BOUNDS, Position { snapshot: 5000, ..REST }, Some(4650)), Some(4650));
        assert_eq!(wants_purge(&BOUNDS, Position { purged: 4490, ..REST }, None), None);
        assert_eq!(wants_purge(&BOUNDS, Position { snapshot: 0, purged: 0, ..REST }, Some(4990)), None);
    }
}
