//! What would become of the VIPs if a node failed now.
//!
//! The same ranking that decides a real takeover decides this answer: nobody knows beforehand that a node is dead, so
//! the candidates ask in the order that [`place`] gave while it was still there, and the first of them that can takes
//! over.
//!
//! Not here: whether a majority of voters would be left to grant anything (`ballast-admin` says so beside).

use std::collections::BTreeMap;

use super::{PlacementReason, place, view::LeaseView};
use crate::ids::{NodeId, VipId};

/// Where one VIP would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// The VIP.
    pub vip: VipId,
    /// Who takes it over; `None` when nobody can.
    pub to: Option<NodeId>,
    /// Why that node and not another; of no meaning without one.
    pub reason: PlacementReason,
    /// All that may hold it by the log, best first, without the one that failed.
    pub order: Vec<NodeId>,
}

/// Where the VIPs of `failed` would go, by VIP. `owners` says who holds what now; `able` says of a node whether it
/// would ask: what the log cannot know, such as whether it answers.
pub fn takeovers(
    view: &LeaseView,
    owners: &BTreeMap<VipId, NodeId>,
    failed: NodeId,
    able: impl Fn(NodeId) -> bool,
) -> Vec<Takeover> {
    let rankings = place(&view.vips, &view.nodes, owners);
    let of_failed = view.vips.iter().filter(|vip| owners.get(&vip.id) == Some(&failed));
    let takeover = |vip: &super::LeaseVip| {
        let order: Vec<NodeId> = rankings
            .get(&vip.id)
            .map(|ranking| ranking.order.iter().copied().filter(|node| *node != failed).collect())
            .unwrap_or_default();
        let to = order.iter().copied().find(|node| able(*node));
        let reason = match to {
            Some(to) if vip.wish == Some(to) => PlacementReason::Wish,
            Some(to) if vip.prefer.contains(&to) => PlacementReason::Preferred,
            Some(_) | None => PlacementReason::Spread,
        };
        Takeover { vip: vip.id, to, reason, order }
    };
    let mut takeovers: Vec<Takeover> = of_failed.map(takeover).collect();
    takeovers.sort_unstable_by_key(|takeover| takeover.vip);
    takeovers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Failback,
        ids::LogIndex,
        lease::{Epoch, LeaseMember, LeaseVip, Timing, VoterSets},
    };

    fn view(vips: u32, nodes: u64) -> LeaseView {
        let address = "127.0.0.1:1".parse().expect("a literal");
        let member = |id| LeaseMember { id: NodeId::new(id), address, candidate: true, stable: true };
        let vip = |id| LeaseVip {
            id: VipId::new(id),
            addresses: Vec::new(),
            prefer: Vec::new(),
            failback: Failback::Never,
            wish: None,
            recorded_owner: None,
            recorded_epoch: Epoch::default(),
        };
        let timing = Timing::takeover_within(200_000_000);
        LeaseView {
            cluster: String::new(),
            secret: [0; 32],
            membership: LogIndex::new(1),
            voters: VoterSets::new([(1..=nodes).map(NodeId::new)]),
            nodes: (1..=nodes).map(member).collect(),
            vips: (1..=vips).map(vip).collect(),
            timing,
            longest: timing,
            fit: true,
        }
    }

    fn all_at(node: u64, vips: u32) -> BTreeMap<VipId, NodeId> {
        (1..=vips).map(|vip| (VipId::new(vip), NodeId::new(node))).collect()
    }

    #[test]
    fn the_vips_of_a_failed_node_spread_over_the_others() {
        let takeovers = takeovers(&view(4, 3), &all_at(1, 4), NodeId::new(1), |_| true);
        let to = |node| takeovers.iter().filter(|takeover| takeover.to == Some(NodeId::new(node))).count();
        assert_eq!((takeovers.len(), to(2), to(3)), (4, 2, 2));
        assert!(takeovers.iter().all(|takeover| takeover.reason == PlacementReason::Spread));
    }

    #[test]
    fn only_what_it_holds_moves_and_only_to_who_is_able() {
        let mut view = view(2, 3);
        view.vips[0].prefer = vec![NodeId::new(2), NodeId::new(3)];
        let owners = BTreeMap::from([(VipId::new(1), NodeId::new(1)), (VipId::new(2), NodeId::new(2))]);
        let lost = takeovers(&view, &owners, NodeId::new(1), |_| true);
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].to, lost[0].reason), (Some(NodeId::new(2)), PlacementReason::Preferred));
        assert_eq!(lost[0].order, [2, 3].map(NodeId::new));
        let without = takeovers(&view, &owners, NodeId::new(1), |node| node != NodeId::new(2));
        assert_eq!(without[0].to, Some(NodeId::new(3)));
        let nobody = takeovers(&view, &owners, NodeId::new(1), |_| false);
        assert_eq!(nobody[0].to, None);
        assert_eq!(takeovers(&view, &owners, NodeId::new(3), |_| true), []);
    }
}
