//! What a node need not ask for, because its own vote or a summary tells it, and what becomes of VIPs whose owner it is wrong about.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Kills a node and returns within how much time each of these VIPs found another owner, and whom.
fn lose(world: &mut World, node: NodeId, vips: &[u32]) -> Vec<(u64, NodeId)> {
    let died = world.t;
    world.kill(node);
    pass(world, 2 * LEASE);
    let regained = |vip: &u32| {
        let found = world.reports.iter().find(|(t, _, report)| {
            *t > died && report.vip == VipId::new(*vip) && matches!(report.change, Change::Gained(_))
        });
        let (t, successor, _) = found.expect("somebody took over");
        (t - died, *successor)
    };
    vips.iter().map(regained).collect()
}

/// About how many VIPs each node asks in one round at most, in four leases.
fn asked_at_rest(world: &mut World) -> BTreeMap<NodeId, usize> {
    world.asked = Some(BTreeMap::new());
    pass(world, 4 * LEASE);
    let mut most = BTreeMap::new();
    for ((node, ..), vips) in world.asked.take().expect("noted") {
        let known = most.entry(node).or_insert(0);
        *known = vips.max(*known);
    }
    most
}

#[test]
fn a_node_at_rest_asks_for_little_more_than_it_holds() {
    const NODES: u64 = 9;
    const VIPS: u32 = 200;
    for voters in [3, 5] {
        let profile = Profile { nodes: NODES, voters, vips: VIPS, joint: false, moving: false, lengths: false };
        let mut world = World::calm(profile, Failback::Never);
        // Views say nothing new, and there is much in them.
        world.view_lag = LEASE;
        pass(&mut world, 8 * LEASE);
        let held = |world: &World, node: u64| -> Vec<u32> {
            (1..=VIPS).filter(|vip| world.owner(*vip) == Some(NodeId::new(node))).collect()
        };
        assert!((1..=NODES).all(|node| (20..=25).contains(&held(&world, node).len())), "spread evenly");
        let asked = asked_at_rest(&mut world);
        assert_eq!(asked.len() as u64, NODES);
        assert!(asked.values().all(|vips| *vips <= 30), "{asked:?}");
        // One that is a voter, and one that is none.
        for dead in [voters, NODES] {
            let lost = held(&world, dead);
            for (vip, (after, _)) in lost.iter().zip(lose(&mut world, NodeId::new(dead), &lost)) {
                assert!(after <= LEASE, "VIP {vip} of {dead}: {} ms", after / MS);
            }
            // Others hold its VIPs, as all know soon, and one voter of the three does not answer.
            pass(&mut world, 4 * LEASE);
            let asked = asked_at_rest(&mut world);
            assert!(asked.values().all(|vips| *vips <= 45), "{dead} is dead: {asked:?}");
        }
    }
}

/// Of each node, how many voters it asks in a round, by all rounds of four leases; and whom.
fn asked_by_turn(world: &mut World) -> BTreeMap<NodeId, (BTreeSet<usize>, BTreeSet<NodeId>)> {
    world.asked = Some(BTreeMap::new());
    pass(world, 4 * LEASE);
    let mut rounds: BTreeMap<(NodeId, u64), BTreeSet<NodeId>> = BTreeMap::new();
    for (node, voter, round) in world.asked.take().expect("noted").into_keys() {
        rounds.entry((node, round)).or_default().insert(voter);
    }
    let mut all: BTreeMap<NodeId, (BTreeSet<usize>, BTreeSet<NodeId>)> = BTreeMap::new();
    for ((node, _), voters) in rounds {
        let known = all.entry(node).or_default();
        known.0.insert(voters.len());
        known.1.extend(voters);
    }
    all
}

#[test]
fn a_round_at_rest_asks_a_majority_in_turns_and_counts_on_nobody_who_is_gone() {
    let profile = Profile { nodes: 5, voters: 5, vips: 10, joint: false, moving: false, lengths: false };
    let mut world = World::calm(profile, Failback::Never);
    pass(&mut world, 8 * LEASE);
    // This node's own vote is one of the three.
    let asked = asked_by_turn(&mut world);
    assert_eq!(asked.len(), 5);
    for (node, (per_round, voters)) in asked {
        assert_eq!((per_round, voters.len()), (BTreeSet::from([2]), 4), "{node:?}");
    }
    let dead = NodeId::new(5);
    world.kill(dead);
    // It was heard two leases ago at the most, and rounds that were not answered are some time ago.
    pass(&mut world, 8 * LEASE);
    let asked = asked_by_turn(&mut world);
    assert_eq!(asked.len(), 4);
    for (node, (per_round, voters)) in asked {
        assert_eq!((per_round, voters.len(), voters.contains(&dead)), (BTreeSet::from([2]), 3, false), "{node:?}");
    }
    world.restart(dead);
    pass(&mut world, 8 * LEASE);
    assert!(asked_by_turn(&mut world).values().all(|(_, voters)| voters.len() == 4), "it is asked again");
}

#[test]
fn a_node_without_a_vote_notices_in_time_that_an_owner_is_gone() {
    // The fourth has no vote, and it alone may take VIPs over from their owner.
    let profile = Profile { nodes: 4, voters: 3, vips: 8, joint: false, moving: false, lengths: false };
    for phase in 0..16 {
        let mut world = World::calm(profile, Failback::Never);
        world.witnesses.extend([2, 3].map(NodeId::new));
        world.adapt = |vip| vip.prefer = vec![NodeId::new(1)];
        pass(&mut world, 5 * LEASE);
        assert!((1..=8).all(|vip| world.owner(vip) == Some(NodeId::new(1))));
        assert_eq!(asked_at_rest(&mut world)[&NodeId::new(4)], 0, "it is told of all");
        pass(&mut world, 4 * phase * MS);
        for (after, successor) in lose(&mut world, NodeId::new(1), &[1, 2, 3, 4, 5, 6, 7, 8]) {
            assert_eq!(successor, NodeId::new(4));
            assert!(after <= LEASE, "{} ms", after / MS);
        }
    }
}

/// The last of `nodes`, which holds the VIP, reaches none of the voters but the first, which is the only other one that may
/// hold it; `both_ways` if they do not reach it either.
fn reaches_one_voter_only(nodes: u64, voters: u64, both_ways: bool) {
    let owner = NodeId::new(nodes);
    let others: Vec<u64> = (2..nodes).collect();
    for phase in 0..16 {
        let profile = Profile { nodes, voters, vips: 1, joint: false, moving: false, lengths: false };
        let mut world = World::calm(profile, Failback::Never);
        world.witnesses.extend(others.iter().copied().map(NodeId::new));
        // Whichever is the last: those before it are no candidates.
        world.adapt = |vip| vip.prefer = [7, 5, 4].map(NodeId::new).to_vec();
        pass(&mut world, 5 * LEASE + 4 * phase * MS);
        assert_eq!(world.owner(1), Some(owner));
        let cut = world.t;
        world.block(&[nodes], &others);
        if both_ways {
            world.block(&others, &[nodes]);
        }
        pass(&mut world, 3 * LEASE);
        let (t, successor, cause) = gained(&world, cut);
        assert_eq!((successor, cause), (NodeId::new(1), GainCause::Expired { from: owner }));
        assert!(t - cut <= LEASE, "{nodes} nodes, {voters} voters: {} ms", (t - cut) / MS);
    }
}

#[test]
fn an_owner_that_reaches_one_voter_only_is_replaced_by_it_within_one_lease() {
    for both_ways in [false, true] {
        reaches_one_voter_only(5, 5, both_ways);
        reaches_one_voter_only(7, 7, both_ways);
        // The owner is no voter.
        reaches_one_voter_only(4, 3, both_ways);
    }
}

#[test]
fn an_owner_that_dies_before_it_renews_is_known_by_the_votes_for_it() {
    let mut world = World::calm(Profile { vips: 1, ..THREE }, Failback::Never);
    while world.owner(1).is_none() {
        pass(&mut world, MS);
    }
    let (owner, died) = (world.owner(1).expect("it has one"), world.t);
    world.kill(owner);
    pass(&mut world, 4 * LEASE);
    let (_, successor, cause) = gained(&world, died);
    assert_ne!(successor, owner);
    assert_eq!(cause, GainCause::Expired { from: owner });
}
