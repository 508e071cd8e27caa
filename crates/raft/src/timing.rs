//! How fast the cluster notices that its leader is gone.

use std::time::Duration;

/// Raft's clocks.
///
/// After the last sign of a leader a follower waits `election_max` (the lease that the leader may
/// count on) and then a random time between `election_min` and `election_max`, the first of two
/// followers about a third into that range. With the defaults: 250 ms + about 165 ms, less half a
/// heartbeat, then a round of pre-votes, one of votes with a sync, and the first entry with
/// another: about 430 ms to a new leader, at a goal of 600 ms.
///
/// Shorter would be possible on idle machines. But a node that shares two busy cores is late by a
/// hundred milliseconds now and then, and so is a sync on a shared disk; an election that nobody
/// needed stops all writes for as long as one that somebody did. 375 ms without any sign of the
/// leader is rare even there, and six heartbeats must be lost for it. A slow disk loses none: heartbeats
/// are answered without waiting for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Least random part of the wait for an election.
    pub election_min: Duration,
    /// Most, and the lease.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(40),
            election_min: Duration::from_millis(125),
            election_max: Duration::from_millis(250),
        }
    }
}

impl Timing {
    /// How long a restarted member stays silent: it has forgotten which leader it owed a lease to
    /// (openraft loads its vote without one), so it waits until any such lease has run out, plus a
    /// quarter for clocks that differ.
    pub(crate) fn quiet_after_start(&self) -> Duration {
        self.election_max * 5 / 4
    }

    /// How long a candidate waits for a vote; openraft asks no longer. What a voter needs for it is a sync, and the next
    /// attempt begins between this and twice this after the last. So elections bear no slower disks than that.
    pub(crate) fn vote_patience(&self) -> Duration {
        self.election_min
    }

    pub(crate) fn config(&self, cluster: &str) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut config = openraft::Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            // Entries that were answered are as good as a heartbeat.
            heartbeat_min_interval: Some(millis(self.heartbeat) / 2),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // Otherwise a node that was away comes back with a higher term and unseats the leader.
            enable_pre_vote: Some(true),
            // Otherwise a leader without a quorum can keep a reachable majority from electing another.
            quorum_loss_probe_interval: Some(millis(self.election_max) * 5 / 2),
            // A leader that was restarted has to be elected: its lease may have been given to another.
            enable_leader_restore: Some(false),
            // An entry leaves for the followers while it is being synced here.
            broadcast_submitted_on_append: Some(true),
            // Entries are batches already; bytes are bounded by the log store.
            max_payload_entries: 64,
            max_append_entries: Some(64),
            backoff: "20ms 50ms 100ms 200ms ...500ms".to_owned(),
            ..openraft::Config::default()
        };
        crate::upkeep::disable_own_policies(&mut config);
        config.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted_and_leave_room_below_the_goal() {
        let timing = Timing::default();
        let config = timing.config("test").expect("valid");
        assert_eq!(config.enable_pre_vote, Some(true));
        let latest = timing.election_max * 2 + timing.heartbeat;
        assert!(latest < Duration::from_millis(600), "{latest:?} before the first vote is asked for");
    }
}
