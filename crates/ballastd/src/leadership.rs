//! Keeps the leadership of the Raft group away from VIPs, so that one crash seldom takes the leader and a VIP both.
//!
//! The loss of a VIP's owner alone costs a lease. If it led as well, what it had proposed last may be on other nodes and not
//! be committed, and the next owner cannot serve bindings before an election has decided about it.
//!
//! The leader looks now and then and hands over to a voter that holds fewer than half of the VIPs that it holds itself: moving
//! for one of many would gain little. It waits first, because VIPs move too.
//!
//! Not here: what an operator asks for (`ballast-admin`), handing over before the end (`ballast-raft`).

use std::{collections::BTreeMap, time::Duration};

use ballast_core::{
    ids::NodeId,
    state::{NodeAdmin, State},
};
use ballast_raft::{Handle, Role, Status};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How often the leader looks.
const LOOK: Duration = Duration::from_secs(1);
/// The same voter must be the better one for so many looks in a row: failovers and planned moves are over by then.
const LOOKS: u32 = 5;
/// A voter that is this many entries behind, or was not heard for so long, is not asked to lead.
const LAG_MAX: u64 = 64;
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Looks for as long as the node runs.
pub async fn keep_away(raft: Handle, ending: CancellationToken) {
    let mut last: Option<(NodeId, u32)> = None;
    loop {
        // Both arms are cancel-safe.
        tokio::select! { () = sleep(LOOK) => {}, () = ending.cancelled() => return }
        let held = raft.with_state(held);
        let Some(better) = better(&raft.status(), &held) else {
            last = None;
            continue;
        };
        let looks = last.filter(|(node, _)| *node == better).map_or(1, |(_, looks)| looks + 1);
        if looks < LOOKS {
            last = Some((better, looks));
            continue;
        }
        info!(to = %better, "handing the leadership to a voter that holds fewer VIPs");
        // If it does not come to lead, this node does, and asks again later.
        let _ = raft.transfer_leader(better).await;
        last = None;
    }
}

/// How many VIPs each node holds by the log, without those that should not lead.
fn held(state: &State) -> BTreeMap<NodeId, usize> {
    let ready = state.nodes().filter(|node| !matches!(node.admin, NodeAdmin::Drain | NodeAdmin::Demoted));
    let mut held: BTreeMap<NodeId, usize> = ready.map(|node| (node.id, 0)).collect();
    for owner in state.vips().filter_map(|(vip, _)| state.tenures(vip).next()?.owner) {
        held.entry(owner).and_modify(|count| *count += 1);
    }
    held
}

/// The voter that should lead instead of this node, if this node leads.
fn better(status: &Status, held: &BTreeMap<NodeId, usize>) -> Option<NodeId> {
    // While the voters change, the leader stays.
    if status.role != Role::Leader || status.voter_sets.len() != 1 {
        return None;
    }
    let own = held.get(&status.node).copied()?;
    let candidates = status.voters.iter().filter(|node| **node != status.node).filter_map(|node| {
        let (count, peer) = (*held.get(node)?, status.peers.get(node)?);
        let here = peer.lag <= LAG_MAX && peer.silent_for.is_some_and(|silent| silent <= SILENT_MAX);
        (here && 2 * count < own).then_some((count, peer.lag, *node))
    });
    candidates.min().map(|(_, _, node)| node)
}

#[cfg(test)]
mod tests {
    use ballast_raft::PeerStatus;

    use super::*;

    /// Node 1 leads voters 1, 2 and 3; `peers` are lag and silence of 2 and 3 in ms.
    fn status(peers: [(u64, u64); 2]) -> Status {
        let voters: Vec<_> = (1..=3).map(NodeId::new).collect();
        let peer = |(lag, silent): (u64, u64)| PeerStatus {
            lag,
            silent_for: Some(Duration::from_millis(silent)),
            ..PeerStatus::default()
        };
        Status {
            node: NodeId::new(1),
            role: Role::Leader,
            voters: voters.clone(),
            voter_sets: vec![voters],
            peers: [2, 3].map(NodeId::new).into_iter().zip(peers.map(peer)).collect(),
            ..Status::default()
        }
    }

    fn check(status: &Status, held: [usize; 3], expected: Option<u64>) {
        let held = (1..=3).map(NodeId::new).zip(held).collect();
        assert_eq!(better(status, &held), expected.map(NodeId::new), "{held:?}");
    }

    #[test]
    fn the_leadership_goes_to_a_voter_that_holds_far_fewer_vips() {
        let fine = status([(0, 10), (3, 10)]);
        check(&fine, [1, 0, 0], Some(2));
        check(&fine, [1, 1, 0], Some(3));
        check(&fine, [67, 67, 66], None);
        check(&fine, [10, 4, 5], Some(2));
        check(&fine, [0, 0, 1], None);
        check(&fine, [1, 1, 1], None);
    }

    #[test]
    fn nobody_is_asked_who_is_behind_or_not_heard_or_while_voters_change() {
        check(&status([(1000, 10), (0, 10)]), [1, 0, 0], Some(3));
        check(&status([(0, 5000), (0, 10)]), [1, 0, 0], Some(3));
        check(&status([(0, 5000), (1000, 10)]), [1, 0, 0], None);
        let mut joint = status([(0, 10), (0, 10)]);
        joint.voter_sets.push(joint.voters.clone());
        check(&joint, [1, 0, 0], None);
        let follower = Status { role: Role::Follower, ..status([(0, 10), (0, 10)]) };
        check(&follower, [1, 0, 0], None);
    }

    #[test]
    fn who_drains_or_was_demoted_is_not_asked() {
        // Such a node is not among those that `held` names.
        let held = [(NodeId::new(1), 1), (NodeId::new(3), 0)].into();
        assert_eq!(better(&status([(0, 10), (0, 10)]), &held), Some(NodeId::new(3)));
    }
}
