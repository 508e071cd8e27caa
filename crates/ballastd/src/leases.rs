//! What the lease thread is told of the agreed state, and what the log is told of it.
//!
//! The lease thread reads one immutable view. It is made anew whenever the plan, the voters or
//! this node's fitness change. Gains and losses go to the log afterwards, as history: nothing
//! waits for that.
//!
//! Not here: the protocol (`ballast_core::lease`), the thread (`ballast-vip`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ballast_core::{
    cluster::Propose,
    ids::{LogIndex, NodeId, VipId},
    lease::{Change, Epoch, LeaseMember, LeaseView, LeaseVip, Timing, Transition, VoterSets},
    state::{Command, NodeAdmin, NodeRole, State},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// The longest lease that a document may ask for; what was configured longer ago than its promise
/// lasts cannot be in force any more.
const LONGEST_LEASE_MS: u64 = 13_000;

/// How long a change of hands may wait to get into the history.
const RECORD_DEADLINE: Duration = Duration::from_secs(30);

/// Raft's membership as the lease protocol needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Log index of the newest membership entry in this node's log.
    pub index: LogIndex,
    /// Its voter sets: two while it is joint.
    pub voters: Vec<BTreeSet<NodeId>>,
}

/// Makes the view from the state; `None` while there is no cluster yet.
pub fn lease_view(state: &State, membership: &Membership, fit: bool) -> Option<LeaseView> {
    let cluster = state.cluster()?;
    let configured = state.document().map_or(200, |document| document.cluster.lease.as_millis());
    let nodes: Vec<_> = state
        .nodes()
        .filter_map(|node| {
            let address = node.info.cluster_address.parse().ok()?;
            let candidate = node.info.role == NodeRole::Full && node.admin != NodeAdmin::Drain;
            Some(LeaseMember { id: node.id, address, candidate, stable: candidate })
        })
        .collect();
    let by_name = |name: &String| state.node_named(name).map(|node| node.id);
    let vips = state
        .vips()
        .map(|(id, vip)| {
            let last = state.tenures(id).next();
            LeaseVip {
                id,
                addresses: vip.addresses.clone(),
                prefer: vip.prefer.iter().filter_map(by_name).collect(),
                failback: vip.failback,
                wish: state.vip_wish(id).map(|wish| wish.node),
                recorded_owner: last.and_then(|tenure| tenure.owner),
                recorded_epoch: last.map_or(Epoch::default(), |tenure| Epoch::new(tenure.epoch)),
            }
        })
        .collect();
    Some(LeaseView {
        cluster: cluster.id.clone(),
        secret: cluster.lease_secret,
        membership: membership.index,
        voters: VoterSets::new(membership.voters.iter().map(|set| set.iter().copied())),
        nodes,
        vips,
        timing: timing(configured),
        longest: timing(longest_lease(state, configured)),
        fit,
    })
}

const fn timing(millis: u64) -> Timing {
    Timing::takeover_within(millis * 1_000_000)
}

/// The longest lease that any node may still count on: the configured one, and each that was
/// replaced so recently that a right given under it may not have ended.
fn longest_lease(state: &State, configured: u64) -> u64 {
    let now = state.log_time();
    let mut longest = configured;
    let mut replaced_at = now;
    for record in state.revisions() {
        if now.millis_since(replaced_at) > LONGEST_LEASE_MS {
            break;
        }
        // Only the form: the lease counted whatever this release thinks of the document.
        if let Ok(document) = serde_json::from_str::<ballast_core::config::Document>(&record.document) {
            longest = longest.max(document.cluster.lease.as_millis());
        }
        replaced_at = record.at;
    }
    longest
}

/// How often this node gained or lost each VIP, by cause.
#[derive(Debug, Default)]
pub struct TransitionCounts(Mutex<BTreeMap<(VipId, &'static str), u64>>);

impl TransitionCounts {
    fn count(&self, vip: VipId, cause: &'static str) {
        *self.0.lock().entry((vip, cause)).or_default() += 1;
    }

    /// All that was counted.
    pub fn all(&self) -> Vec<(VipId, &'static str, u64)> {
        self.0.lock().iter().map(|((vip, cause), count)| (*vip, *cause, *count)).collect()
    }
}

/// Counts gains and losses and writes them into the history, one after the other, for as long as the channel is open.
pub async fn record(
    node: NodeId,
    cluster: impl Propose,
    counts: Arc<TransitionCounts>,
    mut transitions: mpsc::UnboundedReceiver<Transition>,
) {
    while let Some(Transition { vip, epoch, change, .. }) = transitions.recv().await {
        let (owner, name, cause) = match change {
            Change::Gained(cause) => (Some(node), cause.name(), cause.to_string()),
            Change::Lost(cause) => (None, cause.name(), cause.to_string()),
        };
        counts.count(vip, name);
        info!(%vip, epoch = epoch.get(), held = owner.is_some(), %cause, "VIP changed hands");
        let command = Command::RecordVip { vip, owner, epoch: epoch.get(), cause };
        if let Err(error) = cluster.propose(command, RECORD_DEADLINE).await {
            // The history has a gap; who owns what does not depend on it.
            warn!(%vip, epoch = epoch.get(), %error, "a change of hands did not get into the history");
        }
    }
}
