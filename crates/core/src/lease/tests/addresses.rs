//! What becomes of VIPs whose addresses change, when nodes learn of it at different times.

use super::*;

/// A calm cluster of three whose VIPs have the addresses of their numbers, settled, and the owners.
fn calm_with<const N: usize>(vips: [u32; N]) -> (World, [NodeId; N]) {
    let mut world = World::calm(Profile { vips: N as u32, ..THREE }, Failback::Never);
    pass(&mut world, 4 * LEASE);
    let owners = vips.map(|vip| world.owner(vip).expect("three healthy nodes have an owner"));
    (world, owners)
}

/// Reports about a VIP since then.
fn reports(world: &World, vip: u32, since: u64) -> usize {
    world.reports.iter().filter(|(t, _, report)| *t > since && report.vip == VipId::new(vip)).count()
}

#[test]
fn the_owner_of_a_vip_that_was_renamed_without_its_knowledge_loses_it_first() {
    let (mut world, [owner]) = calm_with([1]);
    world.hold_documents(owner, true);
    // Removed in one change, added under another name in the next.
    world.commit(&[]);
    pass(&mut world, 20 * MS);
    assert_eq!(world.answers(1), Some(owner), "its right stands");
    world.commit(&[(2, &[1])]);
    let before = world.t;
    // The first node for a VIP that is new may be the one that does not know it.
    pass(&mut world, 3 * LEASE);
    let (t, _, report) = world.reports.iter().find(|(t, ..)| *t > before).expect("it ran out");
    assert_eq!(
        (report.vip, report.change),
        (VipId::new(1), Change::Lost(LossCause::NotRenewed(Unrenewed::Refused(Refusal::OtherAddresses))))
    );
    assert!(t - before <= LEASE, "{} ms", (t - before) / MS);
    let next = world.answers(1).expect("somebody answers for the address again");
    assert!(next != owner && world.owner(2) == Some(next));
    assert!(world.status(owner, 1).why.contains("know it by other addresses"), "{}", world.status(owner, 1).why);
    world.hold_documents(owner, false);
    pass(&mut world, 4 * LEASE);
    assert_eq!(world.answers(1), Some(next), "who catches up disturbs nobody");
}

#[test]
fn an_address_that_goes_to_a_vip_that_is_held_is_opened_when_its_former_owner_has_ended() {
    let (mut world, [web, mail]) = calm_with([1, 2]);
    assert_ne!(web, mail, "spread");
    world.adapt = |vip| vip.failback = Failback::Never;
    world.hold_documents(web, true);
    world.commit(&[(1, &[3]), (2, &[2])]);
    world.commit(&[(1, &[3]), (2, &[2, 1])]);
    let before = world.t;
    for _ in 0..2 * LEASE / MS {
        pass(&mut world, MS);
        assert_eq!(world.answers(2), Some(mail), "what it had it keeps");
    }
    let (t, lost, _) =
        world.reports.iter().find(|(t, _, report)| *t > before && report.vip == VipId::new(1)).expect("lost");
    assert!(*lost == web && t - before <= LEASE);
    assert_eq!(world.answers(1), Some(mail), "it moved");
    assert_eq!(reports(&world, 2, before), 0, "without a gap for the other one");
}

#[test]
fn an_address_that_is_added_opens_without_a_gap_for_the_others() {
    let (mut world, [owner]) = calm_with([1]);
    for (addresses, n) in [(&[1, 2][..], 2), (&[1, 2, 3], 3), (&[2, 3], 2)] {
        let before = world.t;
        world.commit(&[(1, addresses)]);
        for _ in 0..100 {
            pass(&mut world, MS);
            assert_eq!(world.answers(2), world.answers(2).and(Some(owner)));
            assert_eq!(world.owner(1), Some(owner));
        }
        assert_eq!(world.answers(n), Some(owner));
        assert_eq!(reports(&world, 1, before), 0);
    }
    pass(&mut world, LEASE);
    assert_eq!(world.answers(1), None);
}

#[test]
fn an_address_that_is_added_stays_closed_while_no_majority_knows_it() {
    let (mut world, [owner]) = calm_with([1]);
    for node in others(owner) {
        world.hold_documents(NodeId::new(node), true);
    }
    world.commit(&[(1, &[1, 2])]);
    pass(&mut world, 80 * MS);
    assert_eq!((world.answers(1), world.answers(2)), (Some(owner), None));
    assert!(world.status(owner, 1).why.contains("to know its new addresses"), "{}", world.status(owner, 1).why);
    // The others go on with what they know, as its right is renewed by nobody.
    pass(&mut world, 4 * LEASE);
    let next = world.answers(1).expect("two of three agree");
    assert_eq!((next == owner, world.answers(2)), (false, None));
    for node in others(owner) {
        world.hold_documents(NodeId::new(node), false);
    }
    pass(&mut world, LEASE);
    assert_eq!((world.answers(1), world.answers(2)), (Some(next), Some(next)));
}
