//! Notices that this node's disk takes longer for a vote than elections can bear.
//!
//! A vote is told when it is synced, and a candidate waits for it only so long. Where the disks of a majority take longer,
//! no leader is elected, and all that anybody else sees is nodes that do not answer in time, as if the network were
//! at fault. Only the node whose disk it is can tell.
//!
//! Not here: how long a candidate waits (`timing`).

use std::time::Duration;

use tokio::time::Instant;

/// Least time between two warnings: an election fails several times a second.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Counts votes that took long, and says when to tell.
#[derive(Debug)]
pub(crate) struct SlowVotes {
    /// How long a candidate waits for an answer.
    patience: Duration,
    count: u64,
    told: Option<Instant>,
}

impl SlowVotes {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, count: 0, told: None }
    }

    /// A vote took so long to be synced. Returns how long it might take if that is to be told now.
    ///
    /// Half of what a candidate waits is slow: the way there and back, and the candidate's own sync, take time as well.
    pub(crate) fn synced(&mut self, now: Instant, took: Duration) -> Option<Duration> {
        if took < self.patience / 2 {
            return None;
        }
        self.count += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(self.patience)
    }

    /// How many took long so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slow_vote_counts_and_one_in_ten_seconds_is_told() {
        let millis = Duration::from_millis;
        let start = Instant::now();
        let mut votes = SlowVotes::new(millis(120));
        assert_eq!(votes.synced(start, millis(59)), None);
        assert_eq!(votes.synced(start, millis(60)), Some(millis(120)));
        assert_eq!(votes.synced(start + millis(300), millis(400)), None);
        assert_eq!(votes.synced(start + millis(9_999), millis(400)), None);
        assert_eq!(votes.synced(start + millis(10_000), millis(400)), Some(millis(120)));
        assert_eq!(votes.count(), 4);
    }
}
