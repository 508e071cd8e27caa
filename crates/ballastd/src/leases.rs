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
    config::Farm,
    ids::{EntryId, NodeId, Revision, VipId},
    lease::{Change, Epoch, Fitness, LeaseMember, LeaseView, LeaseVip, Timing, Transition, VoterSets},
    state::{Command, Node, NodeAdmin, NodeRole, State},
    time::BootNanos,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// A lease that was replaced longer ago than this, in nanoseconds, cannot be in force any more: the longest that a
/// document may ask for is ten seconds, on a clock that runs at 0.9 while ours runs at 1.1.
const REPLACED_COUNTS: u64 = 13_000_000_000;

/// How long a change of hands may wait to get into the history.
const RECORD_DEADLINE: Duration = Duration::from_secs(30);

/// Raft's membership as the lease protocol needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The newest membership entry in this node's log.
    pub entry: EntryId,
    /// Its voter sets: two while it is joint.
    pub voters: Vec<BTreeSet<NodeId>>,
}

/// The leases that nodes may still count on: the configured one, and each that was replaced so recently that a right
/// given under it may not have ended.
///
/// How recently is judged by `CLOCK_BOOTTIME` since this process first saw the replacement, not by log time, which
/// leaps. After a start all revisions that are kept count anew: what was promised in an earlier life is not known.
#[derive(Debug, Default)]
pub struct Leases(BTreeMap<Revision, Lease>);

#[derive(Debug)]
struct Lease {
    millis: u64,
    /// When this process first saw that a later revision is in force.
    replaced: Option<BootNanos>,
}

/// All that is read of an old document: the lease counted whatever this release thinks of the rest.
#[derive(serde::Deserialize)]
struct OnlyCluster {
    #[serde(default)]
    cluster: ballast_core::config::Cluster,
}

impl Leases {
    /// Takes the revisions into account that came since the last time.
    pub fn learn(&mut self, state: &State, now: BootNanos) {
        for record in state.revisions() {
            if self.0.contains_key(&record.revision) {
                break;
            }
            if let Ok(OnlyCluster { cluster }) = serde_json::from_str(&record.document) {
                self.0.insert(record.revision, Lease { millis: cluster.lease.as_millis(), replaced: None });
            }
        }
        for (_, lease) in self.0.range_mut(..state.revision()) {
            lease.replaced.get_or_insert(now);
        }
    }

    /// The longest of them in milliseconds, zero while nothing is configured. Forgets those that count no longer.
    pub fn longest(&mut self, now: BootNanos) -> u64 {
        self.0.retain(|_, lease| lease.replaced.is_none_or(|at| now.since(at) <= REPLACED_COUNTS));
        self.0.values().map(|lease| lease.millis).max().unwrap_or(0)
    }
}

/// What this node knows of its own fitness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnFitness {
    /// For all VIPs.
    pub node: Fitness,
    /// For single VIPs, beside that; a VIP that is missing is fit.
    pub vips: BTreeMap<VipId, Fitness>,
}

/// Makes the view from the state; `longest` is what [`Leases`] says. `None` while there is no cluster yet.
pub fn lease_view(state: &State, membership: &Membership, fitness: &OwnFitness, longest: u64) -> Option<LeaseView> {
    let cluster = state.cluster()?;
    let configured = state.document().map_or(200, |document| document.cluster.lease.as_millis());
    let nodes: Vec<_> = state
        .nodes()
        .filter_map(|node| {
            let address = node.info.cluster_address.parse().ok()?;
            let candidate = node.info.role == NodeRole::Full && node.admin != NodeAdmin::Drain;
            Some(LeaseMember { id: node.id, address, candidate, weight: node.info.vip.weight })
        })
        .collect();
    let by_name = |name: &String| state.node_named(name).map(|node| node.id);
    let ids: BTreeMap<&str, VipId> = state.vips().map(|(id, vip)| (vip.name.as_str(), id)).collect();
    let vips = state
        .vips()
        .map(|(id, vip)| {
            let last = state.tenures(id).next();
            LeaseVip {
                id,
                name: vip.name.clone(),
                addresses: vip.addresses.clone(),
                prefer: vip.prefer.iter().filter_map(by_name).collect(),
                failback: vip.failback,
                failback_delay: vip.failback_delay.as_millis() * 1_000_000,
                group: vip.group.clone(),
                apart_from: vip.apart_from.iter().filter_map(|name| ids.get(name.as_str()).copied()).collect(),
                only: (!vip.nodes.is_empty()).then(|| {
                    let carries = |node: &&Node| node.info.carries(&vip.nodes);
                    state.nodes().filter(carries).map(|node| node.id).collect()
                }),
                fitness: fitness.vips.get(&id).copied().unwrap_or_default(),
                wish: state.vip_wish(id).map(|wish| wish.node),
                macs: state.nodes().filter_map(|node| Some((node.id, node.info.vip.mac_for(&vip.name)?))).collect(),
                finish: finish(state, &vip.name),
                recorded_owner: last.and_then(|tenure| tenure.owner),
                recorded_epoch: last.map_or(Epoch::default(), |tenure| Epoch::new(tenure.epoch)),
            }
        })
        .collect();
    Some(LeaseView {
        cluster: cluster.id.clone(),
        secret: cluster.lease_secret,
        membership: membership.entry,
        voters: VoterSets::new(membership.voters.iter().map(|set| set.iter().copied())),
        nodes,
        vips,
        timing: timing(configured),
        longest: timing(longest.max(configured)),
        fitness: fitness.node,
    })
}

/// The longest that a farm of the VIP drains, in nanoseconds.
fn finish(state: &State, vip: &str) -> u64 {
    let farms = state.document().map(|document| document.farms.as_slice()).unwrap_or_default();
    let on_it = |farm: &&Farm| farm.listeners.iter().any(|listener| listener.vip.as_deref() == Some(vip));
    farms.iter().filter(on_it).map(|farm| farm.timeouts.drain.as_millis() * 1_000_000).max().unwrap_or(0)
}

const fn timing(millis: u64) -> Timing {
    Timing::takeover_within(millis * 1_000_000)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{START, configure, founded, pass};

    fn seconds(boot: u64) -> BootNanos {
        BootNanos::new(boot * 1_000_000_000)
    }

    fn view(state: &State, fitness: &OwnFitness) -> LeaseView {
        let membership = Membership { entry: EntryId::default(), voters: vec![[NodeId::new(1)].into()] };
        lease_view(state, &membership, fitness, 0).expect("there is a cluster")
    }

    #[test]
    fn the_view_has_what_the_document_says_of_places() {
        let mut state = founded(
            r#"{"version":1,"vips":[
            {"name":"a","addresses":["10.0.0.1/24"],"group":"web","failback_delay":"2s","nodes":{"zone":"dmz"}},
            {"name":"b","addresses":["10.0.0.2"],"group":"web","failback_delay":"2s"},
            {"name":"c","addresses":["10.0.0.3"],"apart_from":["b"]}]}"#,
        );
        let [a, b, c] = ["a", "b", "c"].map(|name| state.vip_id(name).expect("configured"));
        let mut info = state.node(NodeId::new(1)).expect("it founded").info.clone();
        info.cluster_address = "127.0.0.1:7400".to_owned();
        pass(&mut state, START.plus_millis(1), Command::UpdateNode { node: NodeId::new(1), info: info.clone() });
        let trouble = Fitness::Reluctant(ballast_core::lease::Unfitness::ListenerFailed);
        let fitness = OwnFitness { vips: [(b, trouble)].into(), ..OwnFitness::default() };
        let seen = view(&state, &fitness);
        assert_eq!(seen.vips[0].only, Some(BTreeSet::new()), "no node has the label");
        assert_eq!((seen.vips[1].only.as_ref(), seen.vips[1].fitness), (None, trouble));
        assert_eq!((seen.vips[0].failback_delay, seen.vips[0].group.as_deref()), (2_000_000_000, Some("web")));
        assert_eq!((seen.vips[2].failback_delay, seen.vips[2].apart_from.as_slice()), (30_000_000_000, &[b][..]));
        assert_eq!(seen.vips[0].addresses[0].prefix_len(), 24);
        let own = seen.fitness_of(NodeId::new(1));
        assert!(matches!(own[&a], Fitness::Unfit(_)) && own[&b] == trouble && own[&c] == Fitness::Fit);
        // The node tells of a label and a weight, and an operator moves one of the group.
        info.labels.insert("zone".to_owned(), "dmz".to_owned());
        info.vip.weight = 7;
        pass(&mut state, START.plus_millis(2), Command::UpdateNode { node: NodeId::new(1), info });
        let author = ballast_core::state::Author::default();
        pass(&mut state, START.plus_millis(3), Command::MoveVip { vip: b, to: Some(NodeId::new(1)), author });
        let seen = view(&state, &fitness);
        assert_eq!(seen.vips[0].only, Some([NodeId::new(1)].into()));
        assert_eq!(seen.nodes[0].weight, 7);
        assert_eq!(seen.vips.iter().map(|vip| vip.wish.is_some()).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn a_replaced_lease_counts_until_it_has_run_out_by_this_nodes_own_clock() {
        let mut leases = Leases::default();
        assert_eq!(leases.longest(seconds(0)), 0);
        let mut state = founded(r#"{"version":1,"cluster":{"lease":"10s"}}"#);
        leases.learn(&state, seconds(1));
        assert_eq!(leases.longest(seconds(100)), 10_000, "it is in force");
        configure(&mut state, START.plus_millis(100_000), r#"{"version":1,"cluster":{"lease":"200ms"}}"#);
        leases.learn(&state, seconds(101));
        // The wall clocks step, and log time with them.
        pass(&mut state, START.plus_millis(4_000_000), Command::Tick);
        leases.learn(&state, seconds(102));
        assert_eq!(leases.longest(seconds(114)), 10_000);
        assert_eq!(leases.longest(seconds(115)), 200);
        leases.learn(&state, seconds(116));
        assert_eq!(leases.longest(seconds(116)), 200, "and is not learnt again");
        // A node that starts again does not know what it promised.
        let mut again = Leases::default();
        again.learn(&state, seconds(500));
        assert_eq!((again.longest(seconds(513)), again.longest(seconds(514))), (10_000, 200));
    }
}
