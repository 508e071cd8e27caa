//! What becomes of VIPs that are held when the lease is made longer or shorter.

use super::*;

/// Nobody but `owner` holds VIP 1 for `time`, and it does so at each millisecond.
fn keeps(world: &mut World, owner: NodeId, time: u64) {
    let before = world.t;
    for _ in 0..time / MS {
        pass(world, MS);
        assert_eq!(world.owner(1), Some(owner), "{} ms after", (world.t - before) / MS);
    }
    assert!(world.reports.iter().all(|(t, ..)| *t <= before), "without a gap: {:?}", world.reports);
}

/// How long the owner's right lasts from the newest question that counts.
fn right(world: &World, owner: NodeId) -> u64 {
    let status = world.status(owner, 1);
    status.until.since(status.fresh_as_of.expect("it owns it").0.asked_at)
}

#[test]
fn a_lease_that_is_raised_at_once_everywhere_or_at_the_owner_first_loses_no_vip() {
    for (held_back, late) in [(2 * LEASE, 0), (0, 0), (0, 100 * MS), (0, 15 * LEASE)] {
        for phase in [0, 7, 20, 45] {
            let (mut world, owner) = calm();
            world.held_back = held_back;
            pass(&mut world, phase * MS);
            let voters = others(owner).map(NodeId::new);
            voters.iter().for_each(|voter| world.hold_documents(*voter, true));
            world.lease(25 * LEASE);
            // As soon as it knows, it asks for what the others refuse.
            keeps(&mut world, owner, late);
            voters.iter().for_each(|voter| world.hold_documents(*voter, false));
            keeps(&mut world, owner, held_back + 10 * LEASE);
            assert_eq!(right(&world, owner), Timing::takeover_within(25 * LEASE).right(), "{held_back} {late}");
        }
    }
}

#[test]
fn a_lease_that_is_lowered_counts_at_once() {
    let (mut world, owner) = calm();
    world.lease(50 * LEASE);
    keeps(&mut world, owner, 20 * LEASE);
    world.lease(LEASE);
    let lowered = world.t;
    keeps(&mut world, owner, 20 * MS);
    for node in [1, 2, 3].map(NodeId::new) {
        assert!(world.confirmed(node) > Some(lowered), "{node} asks at the new pace");
    }
    keeps(&mut world, owner, 50 * LEASE);
    assert_eq!(right(&world, owner), Timing::takeover_within(LEASE).right());
    let died = world.t;
    world.kill(owner);
    pass(&mut world, 2 * LEASE);
    assert!(gained(&world, died).0 - died <= PROMISE + ROUND_TRIPS);
}

#[test]
fn who_learns_of_a_longer_lease_while_it_settles_settles_for_as_long_as_that() {
    const WAITS: &str = "this node has just started or the voters changed";
    let (mut world, owner) = calm();
    let [node, _] = others(owner).map(NodeId::new);
    world.kill(node);
    world.hold_documents(node, true);
    world.lease(25 * LEASE);
    world.block(&[node.get()], &others(node));
    world.restart(node);
    pass(&mut world, LEASE / 2);
    assert_eq!(world.status(node, 1).why, WAITS);
    world.hold_documents(node, false);
    pass(&mut world, 20 * LEASE);
    assert_eq!(world.status(node, 1).why, WAITS);
    pass(&mut world, 10 * LEASE);
    assert_eq!(world.status(node, 1).why, "no majority of voters answers this node");
}
