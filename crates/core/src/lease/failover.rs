//! What would become of the VIPs if a node failed now.
//!
//! The same ranking that decides a real takeover decides this answer: nobody knows beforehand that a node is dead, so
//! the candidates ask in the order that [`place`] gave while it was still there, and the first of them that can takes
//! over.
//!
//! Not here: whether a majority of voters would be left to grant anything (`ballast-admin` says so beside).

use std::collections::BTreeMap;

use super::{
    PlacementReason, Situation, place,
    view::{LeaseView, LeaseVip},
};
use crate::ids::{NodeId, VipId};

/// Whether a node would take a VIP over: what the log cannot know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// It would.
    Able,
    /// Only if nobody able does.
    Reluctant,
    /// It would not, or does not answer.
    Unable,
}

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
    /// VIPs at the same node that it should be apart from.
    pub clashes: Vec<VipId>,
}

/// Where the VIPs of `failed` would go, by VIP. `owners` says who holds what now.
pub fn takeovers(
    view: &LeaseView,
    owners: &BTreeMap<VipId, NodeId>,
    failed: NodeId,
    ability: impl Fn(NodeId, VipId) -> Ability,
) -> Vec<Takeover> {
    let situation = Situation { owners: owners.clone(), steady: BTreeMap::new() };
    let rankings = place(&view.vips, &view.nodes, &situation);
    let mut after = owners.clone();
    let mut takeovers = Vec::new();
    for vip in view.vips.iter().filter(|vip| owners.get(&vip.id) == Some(&failed)) {
        let order: Vec<NodeId> = rankings
            .get(&vip.id)
            .map(|ranking| ranking.order.iter().copied().filter(|node| *node != failed).collect())
            .unwrap_or_default();
        let first = |wanted: Ability| order.iter().copied().find(|node| ability(*node, vip.id) == wanted);
        let to = first(Ability::Able).or_else(|| first(Ability::Reluctant));
        match to {
            Some(to) => after.insert(vip.id, to),
            None => after.remove(&vip.id),
        };
        let reason = to.map_or(PlacementReason::Spread, |to| reason(vip, to, view, owners, failed));
        takeovers.push(Takeover { vip: vip.id, to, reason, order, clashes: Vec::new() });
    }
    for takeover in &mut takeovers {
        takeover.clashes = clashes(takeover, view, &after);
    }
    takeovers.sort_unstable_by_key(|takeover| takeover.vip);
    takeovers
}

/// Why a VIP goes to `to`, as far as there is more to say than that it has room.
fn reason(
    vip: &LeaseVip,
    to: NodeId,
    view: &LeaseView,
    owners: &BTreeMap<VipId, NodeId>,
    failed: NodeId,
) -> PlacementReason {
    let in_group = |other: &&LeaseVip| vip.group.is_some() && other.group == vip.group && other.id != vip.id;
    if vip.wish.is_some_and(|wish| wish.node == to) {
        PlacementReason::Wish
    } else if vip.prefer.contains(&to) {
        PlacementReason::Preferred
    } else if view
        .vips
        .iter()
        .filter(in_group)
        .any(|other| owners.get(&other.id).is_some_and(|at| *at != failed && *at == to))
    {
        PlacementReason::Together
    } else {
        PlacementReason::Spread
    }
}

/// The VIPs that would be where this one goes although one of the two is to be apart from the other.
fn clashes(takeover: &Takeover, view: &LeaseView, after: &BTreeMap<VipId, NodeId>) -> Vec<VipId> {
    let Some(own) = view.vips.iter().find(|vip| vip.id == takeover.vip) else { return Vec::new() };
    let beside = view
        .vips
        .iter()
        .filter(|other| other.id != own.id && takeover.to.is_some() && after.get(&other.id).copied() == takeover.to);
    let apart = |other: &&LeaseVip| own.apart_from.contains(&other.id) || other.apart_from.contains(&own.id);
    beside.filter(apart).map(|vip| vip.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Failback,
        ids::EntryId,
        lease::{Epoch, Fitness, LeaseKeys, LeaseMember, Timing, VoterSets},
    };

    fn view(vips: u32, nodes: u64) -> LeaseView {
        let address = "127.0.0.1:1".parse().expect("a literal");
        let member = |id| LeaseMember { id: NodeId::new(id), address, candidate: true, weight: 100 };
        let vip = |id| LeaseVip {
            name: String::new(),
            macs: Vec::new(),
            finish: 0,
            id: VipId::new(id),
            addresses: Vec::new(),
            prefer: Vec::new(),
            failback: Failback::Never,
            failback_delay: 0,
            group: None,
            apart_from: Vec::new(),
            only: None,
            wish: None,
            fitness: Fitness::Fit,
            recorded_owner: None,
            recorded_epoch: Epoch::default(),
        };
        let timing = Timing::takeover_within(200_000_000);
        LeaseView {
            cluster: String::new(),
            keys: LeaseKeys::only([0; 32]),
            membership: EntryId::default(),
            voters: VoterSets::new([(1..=nodes).map(NodeId::new)]),
            nodes: (1..=nodes).map(member).collect(),
            vips: (1..=vips).map(vip).collect(),
            timing,
            longest: timing,
            catching_up: false,
            granted: timing,
            fitness: Fitness::Fit,
        }
    }

    fn all_at(node: u64, vips: u32) -> BTreeMap<VipId, NodeId> {
        (1..=vips).map(|vip| (VipId::new(vip), NodeId::new(node))).collect()
    }

    #[test]
    fn the_vips_of_a_failed_node_spread_over_the_others() {
        let takeovers = takeovers(&view(4, 3), &all_at(1, 4), NodeId::new(1), |_, _| Ability::Able);
        let to = |node| takeovers.iter().filter(|takeover| takeover.to == Some(NodeId::new(node))).count();
        assert_eq!((takeovers.len(), to(2), to(3)), (4, 2, 2));
        assert!(takeovers.iter().all(|takeover| takeover.reason == PlacementReason::Spread));
    }

    #[test]
    fn only_what_it_holds_moves_and_only_to_who_is_able() {
        let mut view = view(2, 3);
        view.vips[0].prefer = vec![NodeId::new(2), NodeId::new(3)];
        let owners = BTreeMap::from([(VipId::new(1), NodeId::new(1)), (VipId::new(2), NodeId::new(2))]);
        let one = |ability: &dyn Fn(u64) -> Ability| {
            let mut found = takeovers(&view, &owners, NodeId::new(1), |node, _| ability(node.get()));
            assert_eq!(found.len(), 1);
            found.remove(0)
        };
        let lost = one(&|_| Ability::Able);
        assert_eq!((lost.to, lost.reason), (Some(NodeId::new(2)), PlacementReason::Preferred));
        assert_eq!(lost.order, [2, 3].map(NodeId::new));
        assert_eq!(one(&|node| if node == 2 { Ability::Reluctant } else { Ability::Able }).to, Some(NodeId::new(3)));
        assert_eq!(one(&|node| if node == 2 { Ability::Unable } else { Ability::Reluctant }).to, Some(NodeId::new(3)));
        assert_eq!(one(&|_| Ability::Unable).to, None);
        assert_eq!(takeovers(&view, &owners, NodeId::new(3), |_, _| Ability::Able), []);
    }

    #[test]
    fn vips_that_are_to_be_apart_and_would_not_be_are_named() {
        let mut view = view(2, 3);
        view.vips[1].apart_from = vec![VipId::new(1)];
        let owners = BTreeMap::from([(VipId::new(1), NodeId::new(1)), (VipId::new(2), NodeId::new(2))]);
        let apart = takeovers(&view, &owners, NodeId::new(1), |_, _| Ability::Able);
        assert_eq!((apart[0].to, &apart[0].clashes), (Some(NodeId::new(3)), &Vec::new()));
        let only_two = |node: NodeId, _| if node.get() == 3 { Ability::Unable } else { Ability::Able };
        let together = takeovers(&view, &owners, NodeId::new(1), only_two);
        assert_eq!((together[0].to, &together[0].clashes), (Some(NodeId::new(2)), &vec![VipId::new(2)]));
    }
}
