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

/// The owner 1 holds by a longer lease that it was granted by 2 and 3, and is cut off. The voters become 3, 4 and 5, and
/// neither 4 nor 5 has applied the document with that lease.
fn new_voters_do_not_know_of_a_longer_lease(rules: Rules) -> Result<(), String> {
    const DURATION: u64 = 25 * LEASE;
    let profile = Profile { nodes: 5, voters: 3, vips: 1, joint: true, moving: false, lengths: true };
    let mut world = World::calm(profile, Failback::Never);
    let new = [4, 5].map(NodeId::new);
    world.adapt = |vip| vip.prefer = vec![NodeId::new(1)];
    world.rules = rules;
    for node in new {
        world.restart(node);
        world.hold_documents(node, true);
    }
    pass(&mut world, 6 * LEASE);
    world.lease(DURATION);
    pass(&mut world, 6 * LEASE);
    assert_eq!(right(&world, NodeId::new(1)), Timing::takeover_within(DURATION).right());
    world.block(&[1], &[2, 3, 4, 5]);
    world.block(&[2, 3, 4, 5], &[1]);
    world.hold_logs(true);
    world.elect(2);
    world.tell_all(&[3]);
    world.begin_change(&[3, 4, 5], &[3, 4, 5]);
    world.end_change(&[3, 4, 5]);
    let end = world.t + 10 * LEASE;
    world.until(end)?;
    assert_eq!(world.owner(1), Some(NodeId::new(1)), "it holds by its right");
    new.into_iter().for_each(|node| world.hold_documents(node, false));
    let end = world.t + 2 * DURATION;
    world.until(end)?;
    assert!(world.owner(1).is_some_and(|node| node.get() >= 3), "once all have applied it, a new voter's turn comes");
    Ok(())
}

#[test]
fn new_voters_take_nothing_before_they_have_applied_what_was_agreed_before_they_were() {
    assert_eq!(new_voters_do_not_know_of_a_longer_lease(Rules::default()), Ok(()));
    let broken = new_voters_do_not_know_of_a_longer_lease(Rules::without(Rule::CatchUpFirst));
    assert!(broken.is_err_and(|what| what.contains("two owners")));
}

#[test]
fn a_majority_that_needs_a_voter_which_has_not_heard_of_a_longer_lease_finds_an_owner_by_the_shorter_one() {
    let (mut world, owner) = calm();
    let [taker, late] = others(owner).map(NodeId::new);
    world.witnesses.insert(late);
    world.hold_documents(late, true);
    world.lease(25 * LEASE);
    pass(&mut world, 6 * LEASE);
    let died = world.t;
    world.kill(owner);
    pass(&mut world, 25 * LEASE + LEASE);
    assert!(gained(&world, died).0 - died <= 25 * PROMISE + ROUND_TRIPS + LEASE / 2, "{:?}", world.reports);
    assert_eq!(gained(&world, died).1, taker);
    keeps(&mut world, taker, 100 * LEASE);
    world.hold_documents(late, false);
    keeps(&mut world, taker, 10 * LEASE);
    assert_eq!(right(&world, taker), Timing::takeover_within(25 * LEASE).right());
}

/// One of two voters that an owner holds by applies a longer lease and loses its power before that is on its disk.
fn a_voter_forgets_a_longer_lease(rules: Rules) -> Result<(), String> {
    const DURATION: u64 = 25 * LEASE;
    let (mut world, owner) = calm();
    let [voter, other] = others(owner).map(NodeId::new);
    let (o, v, w) = (owner.get(), voter.get(), other.get());
    world.rules = rules;
    world.restart(voter);
    pass(&mut world, 3 * LEASE);
    world.block(&[o], &[w]);
    world.block(&[w], &[o]);
    world.disks_hang.insert(voter);
    world.lease(DURATION);
    world.until(world.t + 6 * LEASE)?;
    assert_eq!(world.owner(1), Some(owner));
    world.lose_power(voter);
    world.block(&[o], &[v]);
    world.block(&[v], &[o]);
    // Nor does it hear of that again soon.
    world.hold_documents(voter, true);
    world.restart(voter);
    world.until(world.t + 6 * LEASE)?;
    assert!(world.owner(1).is_some_and(|node| node != owner), "the two others have a majority");
    Ok(())
}

#[test]
fn a_voter_grants_no_longer_lease_than_it_knows_of_after_a_loss_of_power() {
    assert_eq!(a_voter_forgets_a_longer_lease(Rules::default()), Ok(()));
    let broken = a_voter_forgets_a_longer_lease(Rules::without(Rule::GrantWhatIsOnDisk));
    assert!(broken.is_err_and(|what| what.contains("two owners")));
}

#[test]
fn an_owner_that_needs_a_voter_which_has_not_heard_of_a_longer_lease_goes_on_by_the_shorter_one() {
    let (mut world, owner) = calm();
    let [other, late] = others(owner).map(NodeId::new);
    world.hold_documents(late, true);
    world.lease(25 * LEASE);
    keeps(&mut world, owner, 6 * LEASE);
    assert_eq!(right(&world, owner), Timing::takeover_within(25 * LEASE).right());
    world.kill(other);
    keeps(&mut world, owner, 100 * LEASE);
    world.hold_documents(late, false);
    keeps(&mut world, owner, 10 * LEASE);
    assert_eq!(right(&world, owner), Timing::takeover_within(25 * LEASE).right());
}
