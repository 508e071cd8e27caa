//! What a voter need not ask the others for, and what becomes of VIPs whose owner it is wrong about.

use super::*;

#[test]
fn a_voter_at_rest_asks_for_little_more_than_it_holds() {
    const NODES: u64 = 9;
    const VOTERS: u64 = 5;
    const VIPS: u32 = 200;
    let profile = Profile { nodes: NODES, voters: VOTERS, vips: VIPS, joint: false, moving: false, lengths: false };
    let mut world = World::calm(profile, Failback::Never);
    // Views say nothing new, and there is much in them.
    world.view_lag = LEASE;
    pass(&mut world, 6 * LEASE);
    let held = |world: &World, node: u64| -> Vec<u32> {
        (1..=VIPS).filter(|vip| world.owner(*vip) == Some(NodeId::new(node))).collect()
    };
    assert!((1..=NODES).all(|node| (20..=25).contains(&held(&world, node).len())), "spread evenly");
    world.asked = Some(Default::default());
    pass(&mut world, 4 * LEASE);
    let mut asked = world.asked.take().expect("noted");
    asked.retain(|(node, ..), _| node.get() <= VOTERS);
    assert!(asked.len() as u64 > 15 * VOTERS * (VOTERS - 1), "only {} questions", asked.len());
    for ((node, to, round), vips) in &asked {
        assert!(*vips <= 30, "{node} asks {to} about {vips} VIPs in round {round}");
    }
    // One that is a voter, and one that is none.
    for dead in [VOTERS, NODES] {
        let lost = held(&world, dead);
        let died = world.t;
        world.kill(NodeId::new(dead));
        pass(&mut world, 2 * LEASE);
        for vip in lost {
            let regained = world.reports.iter().find(|(t, _, report)| {
                *t > died && report.vip == VipId::new(vip) && matches!(report.change, Change::Gained(_))
            });
            let (t, ..) = regained.expect("somebody took over");
            assert!(t - died <= LEASE, "VIP {vip} of {dead}: {} ms", (t - died) / MS);
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
