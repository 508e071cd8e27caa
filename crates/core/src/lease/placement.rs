//! Which node should hold which VIP, and who comes next.
//!
//! A pure function of the log and of who holds what, so that all nodes come to the same ranking
//! without talking. A disagreement is harmless: the ranking only decides who asks first and whether
//! an owner offers a VIP to a better node; the majority decides who owns.
//!
//! Movement is what costs clients, so an owner keeps what it holds unless an operator wished
//! otherwise or the VIP has automatic failback.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
};

use siphasher::sip::SipHasher13;

use super::view::{LeaseMember, LeaseVip};
use crate::{
    config::Failback,
    ids::{NodeId, VipId},
};

/// Why a VIP's best node is its best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementReason {
    /// An operator wishes it there.
    Wish,
    /// It is the best of the nodes that the VIP prefers.
    Preferred,
    /// It holds the VIP, and nothing says that it should leave.
    Stays,
    /// It had the fewest VIPs.
    Spread,
}

impl PlacementReason {
    /// In words, for status and history.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wish => "an operator moved it",
            Self::Preferred => "preferred node",
            Self::Stays => "stays where it is",
            Self::Spread => "even spread",
        }
    }
}

/// The nodes that may hold a VIP, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    /// Best first; empty when no node may hold it.
    pub order: Vec<NodeId>,
    /// Why the first is first.
    pub reason: PlacementReason,
}

/// Ranks the nodes for every VIP. `owners` says who holds what now, as far as known.
pub fn place(vips: &[LeaseVip], nodes: &[LeaseMember], owners: &BTreeMap<VipId, NodeId>) -> BTreeMap<VipId, Ranking> {
    let mut vips: Vec<&LeaseVip> = vips.iter().collect();
    vips.sort_unstable_by_key(|vip| vip.id);
    let candidates: BTreeSet<NodeId> = nodes.iter().filter(|n| n.candidate).map(|n| n.id).collect();
    let stable: BTreeSet<NodeId> = nodes.iter().filter(|n| n.candidate && n.stable).map(|n| n.id).collect();
    let mut load: BTreeMap<NodeId, usize> = candidates.iter().map(|n| (*n, 0)).collect();

    // What is settled by a wish, a preference or an owner comes first, so that the rest can be
    // spread around it.
    let mut homes: BTreeMap<VipId, (NodeId, PlacementReason)> = BTreeMap::new();
    for vip in &vips {
        let owner = owners.get(&vip.id).copied().filter(|n| candidates.contains(n));
        if let Some(home) = settled(vip, owner, &candidates, &stable) {
            homes.insert(vip.id, home);
            *load.entry(home.0).or_default() += 1;
        }
    }
    rebalance(&vips, owners, &stable, &mut homes, &mut load);
    for vip in &vips {
        if !homes.contains_key(&vip.id)
            && let Some(node) = least(&load, &BTreeMap::new(), vip.id, &[])
        {
            homes.insert(vip.id, (node, PlacementReason::Spread));
            *load.entry(node).or_default() += 1;
        }
    }

    // The second of each VIP is chosen as if the first had died, so that one node's VIPs go to
    // several others.
    let mut inherited: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut rankings = BTreeMap::new();
    for vip in &vips {
        let Some((home, reason)) = homes.get(&vip.id).copied() else {
            rankings.insert(vip.id, Ranking { order: Vec::new(), reason: PlacementReason::Spread });
            continue;
        };
        let mut order = vec![home];
        order.extend(vip.prefer.iter().copied().filter(|n| *n != home && candidates.contains(n)));
        dedup(&mut order);
        while let Some(next) = least(&load, &inherited, vip.id, &order) {
            order.push(next);
        }
        if let Some(second) = order.get(1) {
            *inherited.entry(*second).or_default() += 1;
        }
        rankings.insert(vip.id, Ranking { order, reason });
    }
    rankings
}

/// Where a VIP belongs for a reason of its own, if there is one.
fn settled(
    vip: &LeaseVip,
    owner: Option<NodeId>,
    candidates: &BTreeSet<NodeId>,
    stable: &BTreeSet<NodeId>,
) -> Option<(NodeId, PlacementReason)> {
    if let Some(wish) = vip.wish.filter(|n| candidates.contains(n)) {
        return Some((wish, PlacementReason::Wish));
    }
    let preferred = |among: &BTreeSet<NodeId>| vip.prefer.iter().copied().find(|n| among.contains(n));
    match (owner, vip.failback) {
        (Some(owner), Failback::Never) => Some((owner, PlacementReason::Stays)),
        (Some(owner), Failback::Automatic) => {
            // An owner that is itself preferred yields only to one that is preferred more.
            let mut among = stable.clone();
            among.insert(owner);
            Some(match preferred(&among) {
                Some(node) => (node, PlacementReason::Preferred),
                None => (owner, PlacementReason::Stays),
            })
        }
        (None, _) => preferred(candidates).map(|node| (node, PlacementReason::Preferred)),
    }
}

/// Moves VIPs with automatic failback and no preference from the fullest node to the emptiest while
/// that evens out, one at a time and only to nodes that have been stable.
fn rebalance(
    vips: &[&LeaseVip],
    owners: &BTreeMap<VipId, NodeId>,
    stable: &BTreeSet<NodeId>,
    homes: &mut BTreeMap<VipId, (NodeId, PlacementReason)>,
    load: &mut BTreeMap<NodeId, usize>,
) {
    for vip in vips {
        let free_to_move = vip.failback == Failback::Automatic && owners.contains_key(&vip.id);
        let Some((home, PlacementReason::Stays)) = homes.get(&vip.id).copied().filter(|_| free_to_move) else {
            continue;
        };
        let Some(emptiest) = stable.iter().copied().min_by_key(|n| (load.get(n).copied().unwrap_or(0), *n)) else {
            continue;
        };
        let of = |n: &NodeId, load: &BTreeMap<NodeId, usize>| load.get(n).copied().unwrap_or(0);
        if of(&home, load) > of(&emptiest, load) + 1 {
            homes.insert(vip.id, (emptiest, PlacementReason::Spread));
            *load.entry(home).or_default() -= 1;
            *load.entry(emptiest).or_default() += 1;
        }
    }
}

/// The candidate with the least to carry that is not in `taken`; a hash of both decides between equals.
fn least(
    load: &BTreeMap<NodeId, usize>,
    inherited: &BTreeMap<NodeId, usize>,
    vip: VipId,
    taken: &[NodeId],
) -> Option<NodeId> {
    load.iter()
        .filter(|(node, _)| !taken.contains(node))
        .min_by_key(|(node, load)| (**load + inherited.get(node).copied().unwrap_or(0), score(vip, **node), **node))
        .map(|(node, _)| *node)
}

fn score(vip: VipId, node: NodeId) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u64(u64::from(vip.get()).to_le());
    hasher.write_u64(node.get().to_le());
    hasher.finish()
}

fn dedup(order: &mut Vec<NodeId>) {
    let mut seen = BTreeSet::new();
    order.retain(|node| seen.insert(*node));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Epoch;

    fn vip(id: u32) -> LeaseVip {
        LeaseVip {
            id: VipId::new(id),
            addresses: Vec::new(),
            prefer: Vec::new(),
            failback: Failback::Never,
            wish: None,
            recorded_owner: None,
            recorded_epoch: Epoch::default(),
        }
    }

    fn nodes(ids: &[u64]) -> Vec<LeaseMember> {
        let address = "127.0.0.1:1".parse().expect("a literal");
        ids.iter().map(|id| LeaseMember { id: NodeId::new(*id), address, candidate: true, stable: true }).collect()
    }

    fn firsts(rankings: &BTreeMap<VipId, Ranking>) -> BTreeMap<VipId, NodeId> {
        rankings.iter().filter_map(|(vip, ranking)| Some((*vip, *ranking.order.first()?))).collect()
    }

    fn counts(owners: &BTreeMap<VipId, NodeId>) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        for owner in owners.values() {
            *counts.entry(*owner).or_insert(0) += 1;
        }
        counts.into_values().collect()
    }

    #[test]
    fn spreads_evenly_and_moves_only_what_must_move() {
        let vips: Vec<LeaseVip> = (1..=6).map(vip).collect();
        let owners = firsts(&place(&vips, &nodes(&[1, 2, 3]), &BTreeMap::new()));
        assert_eq!(counts(&owners), [2, 2, 2]);
        // Node 3 dies: its two go to different nodes, nothing else moves.
        let after = firsts(&place(&vips, &nodes(&[1, 2]), &owners));
        assert_eq!(counts(&after), [3, 3]);
        for (vip, owner) in &owners {
            assert!(owner.get() == 3 || after[vip] == *owner);
        }
        // It returns: nothing moves.
        assert_eq!(firsts(&place(&vips, &nodes(&[1, 2, 3]), &after)), after);
    }

    #[test]
    fn seconds_of_one_node_are_spread() {
        let vips: Vec<LeaseVip> = (1..=4).map(vip).collect();
        let owners: BTreeMap<VipId, NodeId> = vips.iter().map(|v| (v.id, NodeId::new(1))).collect();
        let rankings = place(&vips, &nodes(&[1, 2, 3]), &owners);
        let seconds: BTreeMap<VipId, NodeId> = rankings.iter().map(|(v, r)| (*v, r.order[1])).collect();
        assert_eq!(counts(&seconds), [2, 2]);
        assert!(rankings.values().all(|r| r.order.len() == 3 && r.reason == PlacementReason::Stays));
    }

    #[test]
    fn wish_beats_preference_beats_owner_only_with_failback() {
        let mut one = vip(1);
        one.prefer = vec![NodeId::new(9), NodeId::new(2), NodeId::new(3)];
        let owners = BTreeMap::from([(one.id, NodeId::new(3))]);
        let rank = |vip: &LeaseVip, nodes: &[LeaseMember]| {
            place(std::slice::from_ref(vip), nodes, &owners).remove(&vip.id).expect("ranked")
        };
        let three = nodes(&[1, 2, 3]);
        assert_eq!(rank(&one, &three).order, [3, 2, 1].map(NodeId::new));
        one.failback = Failback::Automatic;
        assert_eq!(rank(&one, &three).order[0], NodeId::new(2));
        let mut unstable = three.clone();
        unstable[1].stable = false;
        assert_eq!(rank(&one, &unstable).order[0], NodeId::new(3), "2 has to be stable first");
        one.wish = Some(NodeId::new(1));
        assert_eq!(rank(&one, &three).order[0], NodeId::new(1));
        assert_eq!(rank(&one, &three).reason, PlacementReason::Wish);
        let mut witness = three;
        witness[0].candidate = false;
        assert_eq!(rank(&one, &witness).order, [2, 3].map(NodeId::new), "a wish for a node that cannot is no order");
    }

    #[test]
    fn failback_evens_out_when_a_node_returns() {
        let vips: Vec<LeaseVip> = (1..=4).map(|id| LeaseVip { failback: Failback::Automatic, ..vip(id) }).collect();
        let owners: BTreeMap<VipId, NodeId> = vips.iter().map(|v| (v.id, NodeId::new(1))).collect();
        let after = firsts(&place(&vips, &nodes(&[1, 2]), &owners));
        assert_eq!(counts(&after), [2, 2]);
        assert_eq!(firsts(&place(&vips, &nodes(&[1, 2]), &after)), after, "and then rests");
    }
}
