//! Lease threads over real loopback sockets: who owns the VIP, and what happens when that one dies,
//! drains, is told to hand over, or is lied to. Times are printed (`--nocapture`), not asserted.

mod support;

use std::{io::ErrorKind, net::UdpSocket, sync::Arc, time::Duration};

use ballast_clock::boot_now;
use ballast_core::{
    cluster::Ownership,
    ids::{LogIndex, NodeId, VipId},
    lease::{Change, GainCause, LeaseVip, LeaseWish, LossCause, Unfitness},
    time::BootNanos,
};
use ballast_vip::{Closing, Driver as _, ListenerChange, LoopbackDriver};
use support::{Cluster, VIP, entry};

/// Ten times the default, so that a busy machine without real-time scheduling, or one that stands still for a moment,
/// starves no renewal.
const LEASE: Duration = Duration::from_secs(2);

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[test]
fn one_node_owns_and_when_it_dies_another_does() {
    let mut cluster = Cluster::start(LEASE);
    let (mut owner, first) = cluster.wait_owner("a first owner", |_| true);
    assert_eq!(first.change, Change::Gained(GainCause::Vacant));
    let mut epoch = first.epoch;
    for _ in 0..3 {
        let gate = cluster.node(owner).gates.gate(VIP);
        assert_eq!(gate.epoch(), epoch.get());
        let died = boot_now();
        cluster.node(owner).handle.take().expect("runs").crash();
        let address = cluster.node(owner).address;
        let (next, gained) = cluster.wait_owner("a successor", |node| node != owner);
        assert_eq!(gained.change, Change::Gained(GainCause::Expired { from: owner }));
        assert!(gained.epoch > epoch, "epochs only grow");
        assert!(!gate.is_open(gained.at), "the dead owner's gate closed by itself");
        println!(
            "takeover {:.1} ms after the crash, {:.1} ms after the gate closed",
            millis(gained.at.since(died)),
            millis(gained.at.since(gate.until()))
        );
        let socket = UdpSocket::bind(address).expect("the port is free again");
        cluster.boot(owner, socket);
        (owner, epoch) = (next, gained.epoch);
    }
    cluster.finish();
}

#[test]
fn a_planned_move_goes_where_it_was_told_to() {
    let mut cluster = Cluster::start(LEASE);
    let (mut owner, _) = cluster.wait_owner("a first owner", |_| true);
    for round in 0..4 {
        let target = NodeId::new(owner.get() % 3 + 1);
        cluster.publish(|view| view.vips[0].wish = Some(LeaseWish { node: target, fulfilled: false }));
        // Each node tells of its own, so these come in any order.
        let (mut lost, mut gained) = (None, None);
        let (lost, gained) = cluster.wait("the VIP to move", |node, t| {
            match t.change {
                Change::Lost(LossCause::Moved { to }) if node == owner && to == target => lost = Some(t),
                Change::Gained(_) if node == target => gained = Some(t),
                Change::Lost(_) | Change::Gained(_) => {}
            }
            lost.zip(gained)
        });
        assert_eq!(gained.change, Change::Gained(GainCause::HandedOver { from: owner }));
        assert!(gained.epoch > lost.epoch);
        println!("move {round}: nobody owned it for {:.3} ms", millis(gained.at.since(lost.at)));
        owner = target;
    }
    cluster.finish();
}

#[test]
fn a_vip_that_cannot_be_closed_is_nobodys_before_the_right_ends_and_others_are_renewed() {
    let mut cluster = Cluster::start(LEASE);
    let (owner, _) = cluster.wait_owner("a first owner", |_| true);
    // A second VIP that the same node has, and keeps.
    let second = VipId::new(8);
    let other = cluster.view.vips[0].clone();
    let addresses = vec!["127.0.100.2".parse().expect("a literal")];
    cluster.publish(|view| view.vips.push(LeaseVip { id: second, addresses, prefer: vec![owner], ..other }));
    let gained = cluster.wait("an owner of the second", |node, t| {
        (t.vip == second && matches!(t.change, Change::Gained(_))).then_some(node)
    });
    assert_eq!(gained, owner, "where it prefers to be");

    cluster.referee.lock().expect("no panic in the referee").unclosable = Some(VIP);
    let target = NodeId::new(owner.get() % 3 + 1);
    cluster.publish(|view| view.vips[0].wish = Some(LeaseWish { node: target, fulfilled: false }));
    cluster.wait("the owner to let go", |node, t| {
        (node == owner && t.vip == VIP && matches!(t.change, Change::Lost(_))).then_some(())
    });
    let gate = cluster.node(owner).gates.gate(second);
    let end = boot_now().plus(2 * LEASE.as_nanos() as u64);
    let mut gained = Vec::new();
    while boot_now() < end {
        assert!(gate.is_open(boot_now()), "the second goes on being renewed");
        gained.extend(cluster.event(Duration::from_millis(1)));
    }
    // The referee sees whether anybody takes it before the right ends.
    let (next, transition) = gained.first().expect("a successor");
    assert_eq!((transition.vip, transition.change), (VIP, Change::Gained(GainCause::Expired { from: owner })));
    assert_ne!(*next, owner);
    cluster.finish();
}

#[test]
fn a_draining_node_hands_over_and_asks_no_more() {
    let mut cluster = Cluster::start(LEASE);
    let (owner, _) = cluster.wait_owner("a first owner", |_| true);
    cluster.handle(owner).drain();
    let (next, gained) = cluster.wait_owner("a successor", |node| node != owner);
    assert_eq!(gained.change, Change::Gained(GainCause::HandedOver { from: owner }));
    cluster.until("the drain to end", |cluster| cluster.handle(owner).drained());
    // The successor leaves without a word; only the third may take over, not the draining one.
    cluster.node(next).handle.take().expect("runs").crash();
    let (third, _) = cluster.wait_owner("the third node", |_| true);
    assert!(third != owner && third != next);
    cluster.finish();
}

#[test]
fn an_owner_whose_view_is_not_kept_up_leaves_the_vip_to_another_and_keeps_it_for_want_of_one() {
    let hung = || BootNanos::new(boot_now().get().saturating_sub(6_000_000_000));
    let mut cluster = Cluster::start(LEASE);
    let (owner, _) = cluster.wait_owner("a first owner", |_| true);
    cluster.node(owner).marks.looked(hung());
    cluster.handle(owner).wake();
    let (next, gained) = cluster.wait_owner("a successor", |node| node != owner);
    assert_eq!(gained.change, Change::Gained(GainCause::HandedOver { from: owner }));
    // Now all hang: one cause must not take the VIP from everybody.
    for node in [1, 2, 3].map(NodeId::new) {
        cluster.node(node).marks.looked(hung());
        cluster.handle(node).wake();
    }
    let gate = cluster.node(next).gates.gate(VIP);
    let until = boot_now().plus(2 * LEASE.as_nanos() as u64);
    cluster.until("two leases", |_| boot_now() > until);
    assert!(gate.is_open(boot_now()), "whoever has it keeps it");
    cluster.finish();
}

#[test]
fn stopping_in_order_frees_the_vip_at_once() {
    let mut cluster = Cluster::start(LEASE);
    let (owner, _) = cluster.wait_owner("a first owner", |_| true);
    cluster.node(owner).handle = None;
    let (mut lost, mut gained) = (None, None);
    let (lost, gained) = cluster.wait("the VIP to be given up and taken", |node, t| {
        match t.change {
            Change::Lost(LossCause::Left { to: None, because: Unfitness::Draining }) if node == owner => lost = Some(t),
            Change::Gained(_) if node != owner => gained = Some(t),
            Change::Lost(_) | Change::Gained(_) => {}
        }
        lost.zip(gained)
    });
    assert_eq!(gained.change, Change::Gained(GainCause::Released { from: owner }));
    println!("stopped in order: nobody owned it for {:.1} ms", millis(gained.at.since(lost.at)));
    cluster.finish();
}

#[test]
fn garbage_and_replayed_datagrams_change_nothing() {
    let mut cluster = Cluster::start(LEASE);
    let (owner, gained) = cluster.wait_owner("a first owner", |_| true);
    // A tap between the owner and one voter: what is sent to it is recorded and passed on.
    let victim = NodeId::new(owner.get() % 3 + 1);
    let tap = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
    tap.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
    let tap_address = tap.local_addr().expect("bound");
    let victim_address = cluster.node(victim).address;
    let mut view = cluster.view.clone();
    view.nodes.iter_mut().find(|node| node.id == victim).expect("a node").address = tap_address;
    cluster.node(owner).view.store(Some(Arc::new(view)));
    cluster.handle(owner).wake();
    let mut recorded = Vec::new();
    let mut buffer = [0; 2048];
    while recorded.len() < 20 {
        let (length, _) = tap.recv_from(&mut buffer).expect("the owner renews");
        tap.send_to(&buffer[..length], victim_address).expect("loopback takes datagrams");
        recorded.push(buffer[..length].to_vec());
    }
    cluster.publish(|_| {});

    for bytes in &recorded {
        tap.send_to(bytes, victim_address).expect("loopback takes datagrams");
        for at in [0, 2, 3, 20, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            tap.send_to(&changed, victim_address).expect("loopback takes datagrams");
        }
        tap.send_to(&bytes[..bytes.len() / 2], victim_address).expect("loopback takes datagrams");
        tap.send_to(&[0; 1500], victim_address).expect("loopback takes datagrams");
    }
    cluster.until("the victim to have dropped them", |cluster| {
        let counters = cluster.handle(victim).counters();
        counters.replayed >= 20 && counters.forged >= 20 && counters.malformed >= 20 && counters.strangers >= 20
    });
    // Some rounds later everything is as before.
    let asked = boot_now();
    cluster.until("the victim to be confirmed anew", |cluster| {
        cluster.handle(victim).confirmed().is_some_and(|confirmed| confirmed.asked_at > asked)
    });
    let status = cluster.handle(owner).status();
    assert_eq!((status[0].holder, status[0].epoch), (Some(owner), gained.epoch), "{status:?}");
    // Another version, and some halves: what does not even begin like a lease datagram did not come so far.
    let malformed = cluster.handle(victim).counters().malformed;
    assert!(malformed <= 40, "{malformed}");
    cluster.finish();
}

#[test]
fn a_node_whose_datagrams_the_kernel_refuses_says_why() {
    let mut cluster = Cluster::start(LEASE);
    let (owner, _) = cluster.wait_owner("a first owner", |_| true);
    assert!(cluster.handle(owner).unsent().is_none());
    // No datagram goes to port 0.
    let mut view = cluster.view.clone();
    view.nodes.iter_mut().for_each(|node| node.address.set_port(0));
    cluster.node(owner).view.store(Some(Arc::new(view)));
    cluster.handle(owner).wake();
    cluster.until("the node to tell why it reaches nobody", |cluster| {
        let handle = cluster.handle(owner);
        handle.unsent().is_some_and(|error| error.kind() == ErrorKind::InvalidInput)
            && handle.counters().send_errors > 0
    });
    cluster.publish(|_| {});
    cluster.until("it to be heard again", |cluster| cluster.handle(owner).unsent().is_none());
    cluster.finish();
}

#[test]
fn every_node_learns_how_fresh_it_is_without_a_leader() {
    let mut cluster = Cluster::start(LEASE);
    cluster.wait_owner("a first owner", |_| true);
    let asked = boot_now();
    for node in &cluster.nodes[..2] {
        node.marks.set_ends(entry(50), entry(5));
    }
    for id in [1, 2, 3].map(NodeId::new) {
        cluster.until("a majority to tell of the new entry", |cluster| {
            let confirmed = cluster.handle(id).confirmed();
            confirmed.is_some_and(|c| c.asked_at > asked && c.index == LogIndex::new(50))
        });
    }
    let owners = cluster.nodes.iter().filter(|node| node.gates.gate(VIP).is_open(boot_now())).count();
    assert_eq!(owners, 1);
    cluster.finish();
}

#[test]
fn the_loopback_driver_passes_gains_and_losses_on() {
    let (sender, changes) = std::sync::mpsc::channel();
    let mut driver = LoopbackDriver::new(move |change| sender.send(change).expect("somebody listens"));
    let cluster = Cluster::start(LEASE);
    let addresses = cluster.view.vips[0].addresses.iter().map(|address| address.ip()).collect();
    let epoch = ballast_core::lease::Epoch::new(5);
    driver.view(&std::sync::Arc::new(cluster.view.clone()));
    driver.acquired(VIP, epoch, boot_now(), None);
    driver.renewed(VIP, epoch, boot_now());
    assert_eq!(driver.released(VIP, None), Closing::Closed);
    cluster.finish();
    let changes: Vec<ListenerChange> = changes.try_iter().collect();
    assert_eq!(changes, [ListenerChange::Bind { vip: VIP, addresses, epoch }, ListenerChange::Unbind { vip: VIP }]);
}
