//! Placement: single cases by name, and what must hold for all.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    config::Failback,
    lease::{Epoch, Fitness, LeaseWish},
};

fn vip(id: u32) -> LeaseVip {
    LeaseVip {
        name: String::new(),
        id: VipId::new(id),
        addresses: Vec::new(),
        prefer: Vec::new(),
        failback: Failback::Never,
        failback_delay: 10,
        group: None,
        apart_from: Vec::new(),
        only: None,
        wish: None,
        fitness: Fitness::Fit,
        macs: Vec::new(),
        finish: 0,
        recorded_owner: None,
        recorded_epoch: Epoch::default(),
    }
}

/// One that was not fulfilled yet.
fn wish(node: u64) -> LeaseWish {
    LeaseWish { node: NodeId::new(node), fulfilled: false }
}

fn vips(ids: std::ops::RangeInclusive<u32>) -> Vec<LeaseVip> {
    ids.map(vip).collect()
}

fn weighted(nodes: &[(u64, u32)]) -> Vec<LeaseMember> {
    let address = "127.0.0.1:1".parse().expect("a literal");
    let member =
        |(id, weight): &(u64, u32)| LeaseMember { id: NodeId::new(*id), address, candidate: true, weight: *weight };
    nodes.iter().map(member).collect()
}

fn nodes(ids: &[u64]) -> Vec<LeaseMember> {
    weighted(&ids.iter().map(|id| (*id, 100)).collect::<Vec<_>>())
}

type Owners = BTreeMap<VipId, NodeId>;

fn owned(owners: &[(u32, u64)]) -> Owners {
    owners.iter().map(|(vip, node)| (VipId::new(*vip), NodeId::new(*node))).collect()
}

/// With all nodes steady.
fn rank(vips: &[LeaseVip], nodes: &[LeaseMember], owners: &Owners) -> BTreeMap<VipId, Ranking> {
    let steady = nodes.iter().map(|node| (node.id, 10)).collect();
    place(vips, nodes, &Situation { owners: owners.clone(), steady })
}

fn firsts(rankings: &BTreeMap<VipId, Ranking>) -> Owners {
    rankings.iter().filter_map(|(vip, ranking)| Some((*vip, *ranking.order.first()?))).collect()
}

fn homes(vips: &[LeaseVip], nodes: &[LeaseMember], owners: &Owners) -> Owners {
    firsts(&rank(vips, nodes, owners))
}

fn count(owners: &Owners, node: u64) -> usize {
    owners.values().filter(|owner| owner.get() == node).count()
}

fn counts(owners: &Owners) -> Vec<usize> {
    let nodes: BTreeSet<NodeId> = owners.values().copied().collect();
    nodes.iter().map(|node| count(owners, node.get())).collect()
}

#[test]
fn spreads_evenly_and_moves_only_what_must_move() {
    let vips = vips(1..=6);
    let owners = homes(&vips, &nodes(&[1, 2, 3]), &Owners::new());
    assert_eq!(counts(&owners), [2, 2, 2]);
    // Node 3 dies: its two go to different nodes, nothing else moves.
    let after = homes(&vips, &nodes(&[1, 2]), &owners);
    assert_eq!(counts(&after), [3, 3]);
    for (vip, owner) in &owners {
        assert!(owner.get() == 3 || after[vip] == *owner);
    }
    // It returns: nothing moves.
    assert_eq!(homes(&vips, &nodes(&[1, 2, 3]), &after), after);
}

#[test]
fn only_a_vip_that_nobody_was_ever_known_to_hold_is_new() {
    let given_up = LeaseVip { recorded_epoch: Epoch::new(7), ..vip(2) };
    for known in [&[1, 2][..], &[]] {
        let rankings = rank(&[vip(1), given_up.clone(), vip(3)], &nodes(known), &owned(&[(3, 1)]));
        assert_eq!(rankings.values().map(|ranking| ranking.new).collect::<Vec<_>>(), [true, false, false]);
    }
}

#[test]
fn seconds_of_one_node_are_spread() {
    let vips = vips(1..=4);
    let owners = owned(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let rankings = rank(&vips, &nodes(&[1, 2, 3]), &owners);
    let seconds: Owners = rankings.iter().map(|(v, r)| (*v, r.order[1])).collect();
    assert_eq!(counts(&seconds), [2, 2]);
    assert!(rankings.values().all(|r| r.order.len() == 3 && r.reason == PlacementReason::Stays));
}

#[test]
fn wish_beats_preference_beats_owner_only_with_failback() {
    let mut one = vip(1);
    one.prefer = vec![NodeId::new(9), NodeId::new(2), NodeId::new(3)];
    let owners = owned(&[(1, 3)]);
    let order = |vip: &LeaseVip, nodes: &[LeaseMember], steady: &[u64]| {
        let steady = steady.iter().map(|node| (NodeId::new(*node), 10)).collect();
        let situation = Situation { owners: owners.clone(), steady };
        place(std::slice::from_ref(vip), nodes, &situation).remove(&vip.id).expect("ranked")
    };
    let three = nodes(&[1, 2, 3]);
    assert_eq!(order(&one, &three, &[1, 2, 3]).order, [3, 2, 1].map(NodeId::new));
    one.failback = Failback::Automatic;
    assert_eq!(order(&one, &three, &[1, 2, 3]).order[0], NodeId::new(2));
    assert_eq!(order(&one, &three, &[1, 3]).order[0], NodeId::new(3), "2 has to be heard for a while first");
    one.failback_delay = 11;
    assert_eq!(order(&one, &three, &[1, 2, 3]).order[0], NodeId::new(3), "and for as long as the VIP asks");
    one.wish = Some(wish(1));
    assert_eq!(order(&one, &three, &[]).order[0], NodeId::new(1));
    assert_eq!(order(&one, &three, &[]).reason, PlacementReason::Wish);
    let mut witness = three.clone();
    witness[0].candidate = false;
    assert_eq!(order(&one, &witness, &[]).order, [3, 2].map(NodeId::new), "a wish for a node that cannot is no order");
    one.only = Some([NodeId::new(3)].into());
    assert_eq!(order(&one, &three, &[1, 2, 3]).order, [NodeId::new(3)], "nor one for a node without the labels");
}

#[test]
fn a_wish_that_was_fulfilled_waits_for_its_node_to_be_steady() {
    let three = nodes(&[1, 2, 3]);
    let (owners, nobody) = (owned(&[(1, 2)]), BTreeMap::new());
    let first = |fulfilled, owners: &Owners, steady: &BTreeMap<NodeId, u64>| {
        let one = LeaseVip { wish: Some(LeaseWish { fulfilled, ..wish(1) }), ..vip(1) };
        let ranking = place(&[one], &three, &Situation { owners: owners.clone(), steady: steady.clone() });
        let ranking = &ranking[&VipId::new(1)];
        (ranking.order[0].get(), ranking.reason)
    };
    assert_eq!(first(false, &owners, &nobody), (1, PlacementReason::Wish), "an operator is not kept waiting");
    assert_eq!(first(true, &owners, &nobody), (2, PlacementReason::Stays));
    assert_eq!(first(true, &owners, &[(NodeId::new(1), 9)].into()), (2, PlacementReason::Stays));
    assert_eq!(first(true, &owners, &[(NodeId::new(1), 10)].into()), (1, PlacementReason::Wish));
    assert_eq!(first(true, &owned(&[(1, 1)]), &nobody), (1, PlacementReason::Wish));
}

#[test]
fn failback_evens_out_when_a_node_returns() {
    let vips: Vec<LeaseVip> = (1..=4).map(|id| LeaseVip { failback: Failback::Automatic, ..vip(id) }).collect();
    let owners = owned(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let situation = Situation { owners: owners.clone(), steady: BTreeMap::new() };
    assert_eq!(firsts(&place(&vips, &nodes(&[1, 2]), &situation)), owners, "not before it is steady");
    let after = homes(&vips, &nodes(&[1, 2]), &owners);
    assert_eq!(counts(&after), [2, 2]);
    assert_eq!(homes(&vips, &nodes(&[1, 2]), &after), after, "and then rests");
}

#[test]
fn a_standby_holds_what_no_node_with_weight_can() {
    let vips = vips(1..=4);
    let with = weighted(&[(1, 100), (2, 0), (3, 50)]);
    let rankings = rank(&vips, &with, &Owners::new());
    assert!(rankings.values().all(|r| r.order.last() == Some(&NodeId::new(2))));
    let alone = homes(&vips, &weighted(&[(2, 0)]), &Owners::new());
    assert_eq!(count(&alone, 2), 4);
    assert_eq!(homes(&vips, &with, &alone), alone, "what it holds stays there without failback");
    let automatic: Vec<LeaseVip> =
        vips.iter().map(|v| LeaseVip { failback: Failback::Automatic, ..v.clone() }).collect();
    assert_eq!(count(&homes(&automatic, &with, &alone), 2), 0);
    let prefers = LeaseVip { prefer: vec![NodeId::new(2)], ..vip(1) };
    assert_eq!(homes(&[prefers], &with, &Owners::new()), owned(&[(1, 2)]), "unless a VIP names it");
}

#[test]
fn a_group_is_brought_together_and_inherited_together() {
    let grouped = |id| LeaseVip { group: Some("web".to_owned()), ..vip(id) };
    let vips = [grouped(1), vip(2), grouped(3), grouped(4)];
    let three = nodes(&[1, 2, 3]);
    let rankings = rank(&vips, &three, &owned(&[(1, 1), (2, 1), (3, 3), (4, 3)]));
    for id in [1, 3, 4] {
        assert_eq!(rankings[&VipId::new(id)].order, [3, 1, 2].map(NodeId::new), "most of it is at 3, the rest at 1");
    }
    assert_eq!(rankings[&VipId::new(1)].reason, PlacementReason::Together);
    assert_eq!(rankings[&VipId::new(3)].reason, PlacementReason::Stays);
    let only = |id, node: u64| LeaseVip { only: Some([NodeId::new(node)].into()), ..grouped(id) };
    let split = homes(&[only(1, 1), only(2, 2)], &three, &Owners::new());
    assert_eq!(split, owned(&[(1, 1), (2, 2)]), "with no node for all, each for itself");
}

#[test]
fn apart_is_healed_when_a_node_comes_back_and_is_never_a_reason_for_none() {
    let apart = |id, from: u32| LeaseVip { apart_from: vec![VipId::new(from)], ..vip(id) };
    let vips = [apart(1, 2), vip(2)];
    let together = homes(&vips, &nodes(&[1]), &Owners::new());
    assert_eq!(together, owned(&[(1, 1), (2, 1)]));
    let rankings = rank(&vips, &nodes(&[1, 2]), &together);
    assert_eq!(firsts(&rankings), owned(&[(1, 1), (2, 2)]));
    assert_eq!(rankings[&VipId::new(2)].reason, PlacementReason::Apart);
    assert_eq!(rankings[&VipId::new(1)].order, [1, 2].map(NodeId::new), "better with the other than nowhere");
    let fresh = Situation { owners: together.clone(), steady: BTreeMap::new() };
    assert_eq!(firsts(&place(&vips, &nodes(&[1, 2]), &fresh)), together, "once the node is steady");
    // Two prefer the same node and would return there by themselves: the second stays where it is.
    let both =
        [1, 2].map(|id| LeaseVip { prefer: vec![NodeId::new(1)], failback: Failback::Automatic, ..apart(id, 3 - id) });
    let owners = owned(&[(1, 1), (2, 3)]);
    assert_eq!(homes(&both, &nodes(&[1, 2, 3]), &owners), owners);
}

#[test]
fn apart_is_found_where_one_after_the_other_would_miss_it() {
    // 1 and 2 have nothing against each other, 3 has something against both: 1 and 2 must share one of two nodes.
    let three = LeaseVip { apart_from: vec![VipId::new(1), VipId::new(2)], ..vip(3) };
    let homes = homes(&[vip(1), vip(2), three], &nodes(&[1, 2]), &Owners::new());
    assert_eq!(homes[&VipId::new(1)], homes[&VipId::new(2)]);
    assert_ne!(homes[&VipId::new(1)], homes[&VipId::new(3)]);
}

#[test]
fn many_that_cannot_all_be_apart_are_placed_all_the_same() {
    let all: Vec<VipId> = (1..=200).map(VipId::new).collect();
    let vips: Vec<LeaseVip> = (1..=200).map(|id| LeaseVip { apart_from: all.clone(), ..vip(id) }).collect();
    let nine: Vec<u64> = (1..=9).collect();
    let homes = homes(&vips, &nodes(&nine), &Owners::new());
    assert_eq!(homes.len(), 200);
    assert_eq!(counts(&homes).iter().sum::<usize>(), 200);
}

prop_compose! {
    /// Up to six nodes, some of them standbys or no candidates, and any VIPs with groups, labels, wishes and owners.
    fn anything()(
        members in prop::collection::btree_map(1_u64..9, (prop::sample::select(vec![0_u32, 1, 50, 100, 100, 100]), prop::bool::weighted(0.9)), 1..7),
        specs in prop::collection::btree_map(1_u32..20, (
            prop::collection::vec(1_u64..9, 0..3),
            any::<bool>(),
            prop::option::weighted(0.4, 0_u8..3),
            prop::collection::vec(1_u32..20, 0..3),
            prop::option::weighted(0.3, prop::collection::btree_set(1_u64..9, 0..5)),
            prop::option::weighted(0.2, (1_u64..9, any::<bool>())),
        ), 1..12),
        owners in prop::collection::btree_map(1_u32..20, 1_u64..9, 0..12),
        steady in prop::collection::btree_map(1_u64..9, 0_u64..20, 0..9),
    ) -> (Vec<LeaseVip>, Vec<LeaseMember>, Situation) {
        let mut nodes = weighted(&members.iter().map(|(id, (weight, _))| (*id, *weight)).collect::<Vec<_>>());
        for (node, (_, candidate)) in nodes.iter_mut().zip(members.values()) {
            node.candidate = *candidate;
        }
        let vips = specs.into_iter().map(|(id, (prefer, automatic, group, apart, only, wish))| LeaseVip {
            prefer: prefer.into_iter().map(NodeId::new).collect(),
            failback: if automatic { Failback::Automatic } else { Failback::Never },
            group: group.map(|group| format!("g{group}")),
            apart_from: apart.into_iter().map(VipId::new).collect(),
            only: only.map(|only| only.into_iter().map(NodeId::new).collect()),
            wish: wish.map(|(node, fulfilled)| LeaseWish { node: NodeId::new(node), fulfilled }),
            ..vip(id)
        }).collect();
        let owners = owners.into_iter().map(|(vip, node)| (VipId::new(vip), NodeId::new(node))).collect();
        let steady = steady.into_iter().map(|(node, heard)| (NodeId::new(node), heard)).collect();
        (vips, nodes, Situation { owners, steady })
    }
}

fn candidates(vip: &LeaseVip, nodes: &[LeaseMember]) -> BTreeSet<NodeId> {
    let may = |node: &&LeaseMember| node.candidate && vip.only.as_ref().is_none_or(|only| only.contains(&node.id));
    nodes.iter().filter(may).map(|node| node.id).collect()
}

/// Whether all pairs that are to be apart can be, found by trying everything.
fn can_be_apart(vips: &[LeaseVip], nodes: u64, pairs: &[(usize, usize)], at: &mut Vec<u64>) -> bool {
    if at.len() == vips.len() {
        return true;
    }
    (1..=nodes).any(|node| {
        let me = at.len();
        let clash = pairs
            .iter()
            .any(|(a, b)| (*a == me && *b < me && at[*b] == node) || (*b == me && *a < me && at[*a] == node));
        if clash {
            return false;
        }
        at.push(node);
        let found = can_be_apart(vips, nodes, pairs, at);
        at.pop();
        found
    })
}

proptest! {
    #[test]
    fn every_vip_ranks_each_candidate_once_and_nobody_else((vips, nodes, situation) in anything()) {
        let rankings = place(&vips, &nodes, &situation);
        prop_assert_eq!(rankings.len(), vips.len());
        for vip in &vips {
            let order = &rankings[&vip.id].order;
            let ranked: BTreeSet<NodeId> = order.iter().copied().collect();
            prop_assert_eq!(ranked.len(), order.len(), "twice");
            prop_assert_eq!(ranked, candidates(vip, &nodes));
        }
    }

    #[test]
    fn the_order_of_the_inputs_does_not_matter((vips, nodes, situation) in anything(), seed in any::<u64>()) {
        let rankings = place(&vips, &nodes, &situation);
        let (mut other_vips, mut other_nodes) = (vips.clone(), nodes.clone());
        // Any permutation will do, and this one differs with the seed.
        other_vips.sort_by_key(|vip| u64::from(vip.id.get()).wrapping_mul(seed | 1));
        other_nodes.sort_by_key(|node| node.id.get().wrapping_mul(seed | 1));
        for vip in &mut other_vips {
            vip.apart_from.reverse();
        }
        prop_assert_eq!(place(&other_vips, &other_nodes, &situation), rankings);
    }

    #[test]
    fn a_group_has_one_first_node((vips, nodes, situation) in anything()) {
        let rankings = place(&vips, &nodes, &situation);
        for group in ["g0", "g1", "g2"] {
            let members: Vec<&LeaseVip> = vips.iter().filter(|vip| vip.group.as_deref() == Some(group)).collect();
            let common = members.iter().map(|vip| candidates(vip, &nodes)).reduce(|a, b| &a & &b).unwrap_or_default();
            let first: BTreeSet<Option<&NodeId>> = members.iter().map(|vip| rankings[&vip.id].order.first()).collect();
            prop_assert!(common.is_empty() || first.len() == 1, "{:?}", first);
        }
    }

    #[test]
    fn placing_again_from_there_moves_nothing((vips, nodes, situation) in anything()) {
        let settled = firsts(&place(&vips, &nodes, &situation));
        let steady = nodes.iter().map(|node| (node.id, 10)).collect::<BTreeMap<_, _>>();
        // Wherever it began, it comes to rest, with every node steady.
        let mut at = Situation { owners: settled, steady };
        let rest = (0..20).find(|_| {
            let next = firsts(&place(&vips, &nodes, &at));
            let rests = next == at.owners;
            at.owners = next;
            rests
        });
        prop_assert!(rest.is_some());
    }

    #[test]
    fn equal_nodes_differ_by_one_vip_at_most(n in 1_u64..10, v in 1_u32..60) {
        let ids: Vec<u64> = (1..=n).collect();
        let homes = homes(&vips(1..=v), &nodes(&ids), &Owners::new());
        let loads: Vec<usize> = ids.iter().map(|node| count(&homes, *node)).collect();
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
    }

    #[test]
    fn a_death_moves_only_what_was_there_and_a_return_moves_nothing(n in 2_u64..10, v in 1_u32..60, dead in 1_u64..10) {
        let dead = (dead - 1) % n + 1;
        let (all, vips) = (nodes(&(1..=n).collect::<Vec<_>>()), vips(1..=v));
        let before = rank(&vips, &all, &Owners::new());
        let owners = firsts(&before);
        let without: Vec<LeaseMember> = all.iter().filter(|node| node.id.get() != dead).copied().collect();
        let after = homes(&vips, &without, &owners);
        // The log does not know of a death: its VIPs go to whoever is second.
        let inherited: Owners = before.iter().map(|(vip, r)| (*vip, if r.order[0].get() == dead { r.order[1] } else { r.order[0] })).collect();
        for after in [after, inherited] {
            for (vip, owner) in &owners {
                prop_assert!(owner.get() == dead || after[vip] == *owner);
            }
            let loads: Vec<usize> = without.iter().map(|node| count(&after, node.id.get())).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
            prop_assert_eq!(homes(&vips, &all, &after), after);
        }
    }

    #[test]
    fn twice_the_weight_is_twice_the_vips_within_one(v in 1_u32..60) {
        let homes = homes(&vips(1..=v), &weighted(&[(1, 200), (2, 100)]), &Owners::new());
        let (heavy, light) = (count(&homes, 1) as f64, count(&homes, 2) as f64);
        prop_assert!((heavy - 2.0 * f64::from(v) / 3.0).abs() <= 1.0 && (light - f64::from(v) / 3.0).abs() <= 1.0);
    }

    #[test]
    fn shares_follow_weights_within_one(weights in prop::collection::vec(1_u32..1000, 1..4), v in 1_u32..40) {
        let members: Vec<(u64, u32)> = (1..).zip(weights.iter().copied()).collect();
        let homes = homes(&vips(1..=v), &weighted(&members), &Owners::new());
        let total: u32 = weights.iter().sum();
        for (node, weight) in members {
            let share = f64::from(v) * f64::from(weight) / f64::from(total);
            prop_assert!((count(&homes, node) as f64 - share).abs() < 1.0 + 1e-9, "node {} of {:?}", node, weights);
        }
    }

    #[test]
    fn vips_are_apart_whenever_they_can_be(
        n in 1_u64..5,
        v in 1_u32..8,
        pairs in prop::collection::vec((0_usize..7, 0_usize..7), 0..10),
    ) {
        let mut vips = vips(1..=v);
        let pairs: Vec<(usize, usize)> = pairs.into_iter().filter(|(a, b)| a != b && *a < v as usize && *b < v as usize).collect();
        for (a, b) in &pairs {
            let other = vips[*b].id;
            vips[*a].apart_from.push(other);
        }
        let homes = homes(&vips, &nodes(&(1..=n).collect::<Vec<_>>()), &Owners::new());
        prop_assert_eq!(homes.len(), v as usize);
        let apart = pairs.iter().all(|(a, b)| homes[&vips[*a].id] != homes[&vips[*b].id]);
        prop_assert_eq!(apart, can_be_apart(&vips, n, &pairs, &mut Vec::new()));
    }

    #[test]
    fn a_held_vip_shares_a_node_only_if_no_other_is_free_for_it(
        n in 2_u64..6,
        v in 2_u32..8,
        pairs in prop::collection::vec((0_usize..7, 0_usize..7), 0..10),
        owners in prop::collection::vec(1_u64..6, 7),
    ) {
        let mut vips = vips(1..=v);
        let mut apart = vec![BTreeSet::new(); v as usize];
        for (a, b) in pairs.into_iter().filter(|(a, b)| a != b && *a < v as usize && *b < v as usize) {
            let other = vips[b].id;
            vips[a].apart_from.push(other);
            apart[a].insert(b);
            apart[b].insert(a);
        }
        let all = nodes(&(1..=n).collect::<Vec<_>>());
        let owners: Owners = (1..=v).zip(owners).map(|(vip, node)| (VipId::new(vip), NodeId::new((node - 1) % n + 1))).collect();
        // Each that goes away may make room for another.
        let rest = (0..20).fold(owners, |owners, _| homes(&vips, &all, &owners));
        prop_assert_eq!(&homes(&vips, &all, &rest), &rest, "it comes to rest");
        let at = |index: usize| rest[&vips[index].id].get();
        for (index, opponents) in apart.iter().enumerate() {
            let clashes = |node: u64| opponents.iter().any(|other| at(*other) == node);
            // Of two the later one moves.
            let moves = opponents.iter().any(|other| *other < index && at(*other) == at(index));
            prop_assert!(!moves || (1..=n).all(clashes), "{:?}", rest);
        }
    }
}
