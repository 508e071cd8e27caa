//! When to write a snapshot, and how much of the log to keep behind it.
//!
//! openraft's own policies are off. Its purge can overtake entries that wait to be applied
//! (its issue 2116), which stops the member for good; here a purge is bounded by what *is* applied,
//! and tens of thousands of entries stay behind it. They also let a follower that was away catch
//! up from the log instead of a snapshot, and then another one.
//!
//! What a node is being sent stays as well, up to twice as much. A node that is further behind and still takes
//! entries is too slow for them: it gets a snapshot instead, so that no node can fill the leader's disk.
//!
//! What follows a snapshot that is being sent stays up to four times as much: a node that takes longer for one than the log lasts
//! would need another as soon as it has it, and another after that.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    log_store::LogStore,
    machine::Replica,
    peers::Peers,
    streams::GivenUp,
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

/// Up to where nobody needs the log of whom so many entries are kept. `leaving` is the index after which the bytes lie
/// that are kept, if the log is larger.
fn dispensable(kept_entries: u64, at: Position, leaving: Option<u64>) -> u64 {
    let by_count = at.applied.saturating_sub(kept_entries);
    by_count.max(leaving.unwrap_or(0)).min(at.snapshot).min(at.applied.saturating_sub(APPLY_LAG_MAX))
}

/// How many times as much of the log is kept: for nobody in particular, for streams, and for who is being sent a snapshot.
const TIMES_KEPT: [u64; 3] = [1, 2, 4];

/// What to do about the log's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purge {
    No,
    /// Purges up to an index. No stream needs anything before it.
    To(u64),
    /// The same, but gives those streams up first that need entries up to there.
    GivingUp(u64),
}

/// `slowest` is the index after which the entries lie that some stream needs, `filled_to` that after which those lie that some
/// node will need once its snapshot is there. `leaving` is the index after which `kept_bytes` lie, if the log is larger, and then
/// that for each of [`TIMES_KEPT`] as many.
fn wants_purge(
    bounds: &LogBounds,
    at: Position,
    leaving: [Option<u64>; 3],
    slowest: Option<u64>,
    filled_to: Option<u64>,
) -> Purge {
    let [upto, for_streams, for_filling] = [0, 1, 2].map(|which| {
        let kept = bounds.kept_entries.saturating_mul(TIMES_KEPT[which]);
        dispensable(kept, at, leaving[which])
    });
    let slowest = slowest.unwrap_or(u64::MAX);
    let filled_to = filled_to.filter(|index| *index >= for_filling).unwrap_or(u64::MAX);
    let at_most = for_streams.min(filled_to);
    if slowest < at_most {
        return Purge::GivingUp(at_most);
    }
    let upto = upto.min(slowest).min(filled_to);
    // In steps, so that a purge is rare beside the entries it removes.
    if upto > at.purged + bounds.kept_entries / 20 { Purge::To(upto) } else { Purge::No }
}

/// Looks after the log until the member stops.
pub(crate) async fn run(raft: Raft, log: LogStore, bounds: LogBounds, replica: Arc<Replica>, peers: Arc<Peers>) {
    use openraft::async_runtime::watch::WatchReceiver;
    let mut next_snapshot = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        let position = Position::of(&raft.metrics().borrow_watched(), log.bytes());
        // Replaced even if nothing was applied since: it cannot be sent, and this node would not start from it. Until it is,
        // it is asked for again, and openraft does not begin twice.
        let rotten = replica.folder.newest().is_some_and(|file| file.is_rotten());
        if rotten || Instant::now() >= next_snapshot && wants_snapshot(&bounds, position) {
            tracing::info!(applied = position.applied, bytes = position.bytes, "writing a snapshot");
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            next_snapshot = Instant::now() + bounds.snapshot_pause;
        }
        let leaving = TIMES_KEPT.map(|times| log.index_leaving(bounds.kept_bytes.saturating_mul(times)));
        let purge = wants_purge(&bounds, position, leaving, peers.streams.slowest(), peers.streams.filled_to());
        let (Purge::To(upto) | Purge::GivingUp(upto)) = purge else { continue };
        tracing::debug!(upto, "purging the log");
        if raft.trigger().purge_log(upto).await.is_err() {
            return;
        }
        if purge == Purge::GivingUp(upto) {
            // The purge is waiting for the streams once the core has done something after it; it would open a stream that
            // was given up before again.
            if raft.with_raft_state(|_| ()).await.is_err() {
                return;
            }
            for GivenUp { node, acknowledged } in peers.streams.give_up(upto) {
                let (behind, bytes) = (position.applied.saturating_sub(acknowledged), position.bytes);
                tracing::warn!(
                    %node, acknowledged, behind, bytes,
                    "a node takes entries too slowly (its disk, or the link to it) and keeps the log here from being purged; \
                     it gets a snapshot instead"
                );
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
        let check = |at, leaving, purge| assert_eq!(wants_purge(&BOUNDS, at, [leaving, None, None], None, None), purge);
        check(REST, None, Purge::To(4500));
        check(Position { snapshot: 4900, ..REST }, None, Purge::To(4600));
        check(Position { snapshot: 5000, ..REST }, Some(4990), Purge::To(5000 - APPLY_LAG_MAX));
        check(Position { snapshot: 5000, ..REST }, Some(4650), Purge::To(4650));
        check(Position { purged: 4490, ..REST }, None, Purge::No);
        check(Position { snapshot: 0, purged: 0, ..REST }, Some(4990), Purge::No);
    }

    #[test]
    fn a_slow_node_keeps_what_it_needs_up_to_twice_what_is_kept() {
        let at = Position { snapshot: 5000, purged: 1000, ..REST };
        let check = |at, leaving, slowest, purge| {
            let [once, twice] = leaving;
            let purged = wants_purge(&BOUNDS, at, [once, twice, None], Some(slowest), None);
            assert_eq!(purged, purge, "slowest {slowest}");
        };
        check(at, [None; 2], 4990, Purge::To(4600));
        check(at, [None; 2], 4300, Purge::To(4300));
        check(at, [None; 2], 4200, Purge::To(4200));
        check(at, [None; 2], 4199, Purge::GivingUp(4200));
        check(at, [Some(4700), Some(4400)], 4399, Purge::GivingUp(4400));
        check(at, [Some(4700), Some(4400)], 4400, Purge::To(4400));
        check(at, [Some(4700), Some(4400)], 4720, Purge::To(4700));
        // Without a snapshot there is nothing to give it instead.
        check(Position { snapshot: 3000, ..at }, [None; 2], 3000, Purge::To(3000));
        check(Position { snapshot: 3000, ..at }, [None; 2], 2999, Purge::GivingUp(3000));
    }

    #[test]
    fn what_follows_a_snapshot_that_is_sent_is_kept_up_to_four_times_what_is_kept() {
        let at = Position { snapshot: 5000, purged: 1000, ..REST };
        let check = |leaving, slowest, filled_to, purge| {
            let purged = wants_purge(&BOUNDS, at, [None, None, leaving], slowest, Some(filled_to));
            assert_eq!(purged, purge, "filled to {filled_to}");
        };
        check(None, None, 4990, Purge::To(4600));
        check(None, None, 3400, Purge::To(3400));
        check(None, None, 3399, Purge::To(4600));
        check(Some(3500), None, 3499, Purge::To(4600));
        // Who takes entries too slowly is not waited for because of it.
        check(None, Some(3300), 3400, Purge::GivingUp(3400));
        check(None, Some(3500), 3400, Purge::To(3400));
    }
}
