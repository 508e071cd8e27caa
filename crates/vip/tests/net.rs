//! What a node does on its link, in network namespaces that the tests make.

mod netns;

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{ids::VipId, time::BootNanos};
use ballast_vip::net::{
    Addresses, Announcer, Change, Claim, Conflict, Conflicts, GatewayCheck, GatewayState, GatewayTiming, Gateways,
    Hearing, Interface, LinkEvent, Listener, Mac, Outcome, Problem, Sender, VipAddress, Watch, Way, announcement,
    probe, question,
};
use ballast_vip::netlink;
use netns::{Lan, Netns, eventually};

const VIPS: [&str; 2] = ["10.0.0.100", "2001:db8::100"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mac(host: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 0, host])
}

fn vips() -> Vec<VipAddress> {
    VIPS.map(|address| VipAddress::host("eth0", ip(address))).to_vec()
}

/// Reconciles as a process would that has just started, with the data folder of the one before.
fn reconcile(host: &Netns, folder: &tempfile::TempDir, wanted: Vec<VipAddress>) -> Outcome {
    let folder = folder.path().to_owned();
    host.run(move || Addresses::open(&folder).expect("opens").reconcile(&wanted).expect("reconciles"))
}

fn added(addresses: Vec<VipAddress>) -> Outcome {
    Outcome { changes: addresses.into_iter().map(Change::Added).collect(), problems: Vec::new() }
}

fn removed(addresses: Vec<VipAddress>) -> Outcome {
    Outcome { changes: addresses.into_iter().map(Change::Removed).collect(), problems: Vec::new() }
}

fn has(host: &Netns, address: &str) -> bool {
    let address = ip(address);
    host.run(move || Interface::read("eth0").expect("there").has(address))
}

#[test]
fn addresses_are_added_once_found_again_after_a_crash_and_taken_away() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(reconcile(host, &folder, vips()), added(vips()));
    assert_eq!(reconcile(host, &folder, vips()), Outcome::default());
    assert!(VIPS.iter().all(|vip| has(host, vip)));
    assert_eq!(reconcile(host, &folder, Vec::new()), removed(vips()));
    assert!(!VIPS.iter().any(|vip| has(host, vip)));
    assert!(has(host, "10.0.0.1") && has(host, "2001:db8::1"));
}

#[test]
fn addresses_are_known_for_ours_by_the_kernels_word_alone() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    if !host.run(|| Interface::origins_known(&Interface::all().expect("reads"))) {
        println!("skipped: this kernel does not say who put an address there");
        return;
    }
    let folder = || tempfile::tempdir().expect("a folder");
    host.ip("address add 10.0.0.101/32 dev eth0");
    assert_eq!(reconcile(host, &folder(), vips()), added(vips()));
    // Neither fence nor record is there.
    assert_eq!(reconcile(host, &folder(), vips()), Outcome::default());
    host.ip("link set eth0 down");
    host.ip("link set eth0 name lan0");
    let moved = [VipAddress::host("lan0", ip(VIPS[0]))];
    // IPv6 went with the link.
    assert_eq!(reconcile(host, &folder(), Vec::new()), removed(moved.to_vec()));
    assert!(host.ip("address show dev lan0").contains("10.0.0.101/32"));
}

#[test]
fn a_node_that_leaves_says_in_sentences_what_it_removed() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(reconcile(host, &folder, vips()), added(vips()));
    let path = folder.path().to_owned();
    let said = host.run(move || netlink::leave(&path).expect("leaves"));
    let mut expected: Vec<String> = vips().iter().map(|at| format!("{at} was removed")).collect();
    expected.push("there is no fence any more".to_owned());
    assert_eq!(said, expected);
    assert!(!VIPS.iter().any(|vip| has(host, vip)));
}

#[test]
fn an_address_that_somebody_removed_comes_back_and_so_does_one_whose_interface_went() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = tempfile::tempdir().expect("a folder");
    let back = Outcome { changes: vips().into_iter().map(Change::CameBack).collect(), problems: Vec::new() };
    reconcile(host, &folder, vips());
    host.ip("address del 10.0.0.100/32 dev eth0");
    host.ip("address del 2001:db8::100/128 dev eth0");
    assert_eq!(reconcile(host, &folder, vips()), back);

    // The kernel drops IPv6 addresses of an interface that is switched off.
    host.ip("link set eth0 down");
    host.ip("link set eth0 up");
    reconcile(host, &folder, vips());
    assert!(VIPS.iter().all(|vip| has(host, vip)));

    let before = host.run(|| Interface::read("eth0").expect("there").index);
    host.ip("link del eth0");
    let Outcome { changes, problems } = reconcile(host, &folder, vips());
    assert!(changes.is_empty() && problems.len() == 2, "{problems:?}");
    assert!(problems.iter().all(|problem| matches!(problem, Problem::NoInterface { present, .. } if present == "lo")));
    host.ip("link add eth1 type bridge");
    host.ip("link add eth0 type bridge");
    host.ip("link set eth0 up");
    host.ip("address add 10.0.0.1/24 dev eth0");
    host.ip("address add 2001:db8::1/64 dev eth0 nodad");
    assert_ne!(host.run(|| Interface::read("eth0").expect("there").index), before);
    assert_eq!(reconcile(host, &folder, vips()), back);
}

#[test]
fn an_address_is_not_added_where_it_is_not_fenced() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = tempfile::tempdir().expect("a folder");
    let reconcile_fenced = |wanted: Vec<VipAddress>, fenced: fn(u32, IpAddr) -> bool| {
        let folder = folder.path().to_owned();
        host.run(move || {
            Addresses::open(&folder).expect("opens").reconcile_fenced(&wanted, &[], fenced).expect("reconciles")
        })
    };
    let unfenced = |addresses: &[VipAddress]| {
        addresses.iter().cloned().map(|address| Problem::NotFenced { address }).collect::<Vec<_>>()
    };
    let nowhere = reconcile_fenced(vips(), |_, _| false);
    assert_eq!(nowhere, Outcome { changes: Vec::new(), problems: unfenced(&vips()) });
    assert!(!VIPS.iter().any(|vip| has(host, vip)));
    let one = reconcile_fenced(vips(), |_, address| address.is_ipv4());
    assert_eq!(one, Outcome { problems: unfenced(&vips()[1..]), ..added(vips()[..1].to_vec()) });
    // What is there stays there, and is taken away as ever.
    assert_eq!(reconcile_fenced(vips()[..1].to_vec(), |_, _| false), Outcome::default());
    assert!(has(host, VIPS[0]) && !has(host, VIPS[1]));
    assert_eq!(reconcile_fenced(Vec::new(), |_, _| false), removed(vips()[..1].to_vec()));
    // On the interface that is there now, and not on one of that name before.
    let index = host.run(|| Interface::read("eth0").expect("there").index);
    assert!(index != 1, "that is the loopback interface");
    assert_eq!(reconcile_fenced(vips(), |index, _| index == 1).changes, []);
    assert_eq!(reconcile_fenced(vips(), |index, _| index != 1), added(vips()));
}

#[test]
fn what_was_there_before_is_neither_adopted_nor_removed() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = tempfile::tempdir().expect("a folder");
    host.ip("address add 10.0.0.100/24 dev eth0");
    host.ip("address add 2001:db8::100/128 dev lo");
    let Outcome { changes, problems } = reconcile(host, &folder, vips());
    assert_eq!(changes, []);
    let on = |problem: &Problem| match problem {
        Problem::NotOurs { on, .. } => on.clone(),
        problem => panic!("{problem}"),
    };
    assert_eq!(problems.iter().map(on).collect::<Vec<_>>(), ["eth0", "lo"]);
    assert_eq!(reconcile(host, &folder, Vec::new()), Outcome::default());
    assert!(has(host, "10.0.0.100"));
}

#[test]
fn the_kernel_does_not_talk_from_a_vip() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = tempfile::tempdir().expect("a folder");
    host.ip("route add default via 10.0.0.254");
    let talks_from = |address: &str| host.ip(&format!("route get {address}"));
    reconcile(host, &folder, vips());
    let wide = VipAddress { prefix: 24, ..VipAddress::host("eth0", ip("10.0.0.101")) };
    let wanted = [vips(), vec![wide]].concat();
    assert_eq!(reconcile(host, &folder, wanted.clone()).problems, []);
    // An address of the machine that comes back comes behind the VIPs.
    host.sysctl("ipv4/conf/eth0/promote_secondaries", "1");
    host.ip("address add 10.0.0.2/24 dev eth0");
    for (to, from) in
        [("10.0.0.7", "src 10.0.0.1 "), ("192.0.2.1", "src 10.0.0.1 "), ("2001:db8::7", "src 2001:db8::1 ")]
    {
        assert!(talks_from(to).contains(from), "{}", talks_from(to));
    }
    assert_eq!(reconcile(host, &folder, Vec::new()).changes.len(), 3);
}

#[test]
fn a_vip_beside_the_subnets_is_added_with_a_warning_and_ipv6_that_is_off_is_an_error() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = tempfile::tempdir().expect("a folder");
    host.sysctl("ipv6/conf/eth0/disable_ipv6", "1");
    let beside = VipAddress::host("eth0", ip("192.0.2.5"));
    let six = VipAddress::host("eth0", ip(VIPS[1]));
    let outcome = reconcile(host, &folder, vec![beside.clone(), six.clone()]);
    assert_eq!(outcome.changes, [Change::Added(beside.clone())]);
    let subnets = vec!["10.0.0.1/24".to_owned()];
    let warning = Problem::OutsideSubnets { address: beside, subnets };
    assert_eq!(outcome.problems, [warning, Problem::Ipv6Disabled { address: six }]);
}

#[test]
fn changes_of_links_addresses_and_filters_are_seen() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let (index, mut watch) =
        host.run(|| (Interface::read("eth0").expect("there").index, Watch::open().expect("opens")));
    let mut seen = |what: &str, wanted: LinkEvent| {
        let mut events = Vec::new();
        eventually(what, || {
            watch.read(&mut events).expect("reads");
            events.contains(&wanted)
        });
    };
    lan.switch.ip("link set p1 down");
    seen("no carrier", LinkEvent::Link { index, up: false });
    assert!(!host.run(|| Interface::read("eth0").expect("there").up));
    lan.switch.ip("link set p1 up");
    seen("the carrier is back", LinkEvent::Link { index, up: true });
    for (address, prefix) in [("10.0.0.100", 32), ("2001:db8::100", 128)] {
        host.ip(&format!("address add {address}/{prefix} dev eth0"));
        seen("an address came", LinkEvent::Address { index, address: ip(address) });
        host.ip(&format!("address del {address}/{prefix} dev eth0"));
        seen("an address went", LinkEvent::AddressGone { index, address: ip(address) });
    }
    host.run(|| {
        let status = std::process::Command::new("tc").args(["qdisc", "add", "dev", "eth0", "clsact"]).status();
        assert!(status.expect("iproute2 is installed").success());
    });
    seen("a filter's place came", LinkEvent::Filter { index });
    host.ip("link del eth0");
    seen("the interface is gone", LinkEvent::LinkGone { index });
}

#[test]
fn a_reader_that_slept_learns_that_events_were_lost() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let mut watch = host.run(|| Watch::open().expect("opens"));
    let batch: String = (0..8000).map(|n| format!("address add 10.{}.{}.1/32 dev lo\n", n / 250, n % 250)).collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), batch).expect("writable");
    host.ip(&format!("-batch {}", file.path().display()));
    let mut events = Vec::new();
    eventually("told of the loss", || {
        watch.read(&mut events).expect("reads");
        events.contains(&LinkEvent::Lost)
    });
    host.ip("address del 10.0.0.1/24 dev eth0");
    eventually("and hears again", || {
        watch.read(&mut events).expect("reads");
        events.iter().any(|event| matches!(event, LinkEvent::AddressGone { address, .. } if *address == ip("10.0.0.1")))
    });
}

/// Sends what is due from a host until the series is over.
fn announce(host: &Netns, until: BootNanos) {
    host.run(move || {
        let interface = Interface::read("eth0").expect("there");
        let sender = Sender::open().expect("opens");
        let mut announcer = Announcer::new(2);
        let link = (interface.index, interface.mac.expect("a veth has one"));
        announcer.hold(boot_now(), VipId::new(1), link, &VIPS.map(ip), until);
        let mut out = Vec::new();
        announcer.due(boot_now(), &mut out);
        for due in out.iter().filter(|due| boot_now() < due.until) {
            sender.send(due.interface, &due.frame).expect("sends");
        }
    });
}

#[test]
fn an_announcement_moves_a_neighbours_cache() {
    let Some(lan) = Lan::new(3) else { return };
    let client = &lan.hosts[2];
    let entry = |address: &str| client.ip(&format!("neigh show {address} dev eth0"));
    for vip in VIPS {
        client.ip(&format!("neigh replace {vip} lladdr 02:00:00:00:00:09 nud stale dev eth0"));
    }
    for (owner, lladdr) in [(0, "02:00:00:00:00:01"), (1, "02:00:00:00:00:02"), (0, "02:00:00:00:00:01")] {
        announce(&lan.hosts[owner], BootNanos::new(u64::MAX));
        for vip in VIPS {
            eventually(&format!("{vip} is at {lladdr}"), || entry(vip).contains(lladdr));
        }
    }
    announce(&lan.hosts[1], boot_now());
    assert!(VIPS.iter().all(|vip| entry(vip).contains("02:00:00:00:00:01")), "a lease that is over moves nothing");
}

#[test]
fn a_probe_finds_who_has_an_address_and_changes_no_cache() {
    let Some(lan) = Lan::new(2) else { return };
    let [asker, holder] = [&lan.hosts[0], &lan.hosts[1]];
    holder.ip("address add 10.0.0.100/32 dev eth0");
    holder.ip("address add 2001:db8::100/128 dev eth0 nodad");
    let ask = |address: &'static str, timeout| {
        asker.run(move || {
            let answers = probe(&Interface::read("eth0").expect("there"), &[ip(address)], timeout).expect("probes");
            answers.get(&ip(address)).copied()
        })
    };
    for vip in VIPS {
        assert_eq!(ask(vip, Duration::from_secs(10)), Some(mac(2)), "{vip}");
    }
    assert!(!holder.ip("neigh show").contains("lladdr 02:00:00:00:00:01"), "{}", holder.ip("neigh show"));
    for free in ["10.0.0.200", "2001:db8::200"] {
        assert_eq!(ask(free, Duration::from_millis(60)), None, "{free}");
    }
    // One's own address is nobody else's.
    assert_eq!(ask("10.0.0.1", Duration::from_millis(60)), None);
}

#[test]
fn a_conflict_is_seen_on_the_wire_and_traffic_of_others_is_not_heard() {
    let Some(lan) = Lan::new(2) else { return };
    let mut conflicts = Conflicts::new();
    conflicts.set_ours([mac(1)]);
    let on = lan.hosts[0].run(|| Interface::read("eth0").expect("there").index);
    conflicts.set_vips(VIPS.map(|address| ((on, ip(address)), VipId::new(1))));
    let open = || Listener::open(Interface::read("eth0").expect("there").index, Hearing::BehindFence).expect("opens");
    let mut listener = lan.hosts[0].run(open);
    assert_eq!(listener.fds().count(), 2);
    announce(&lan.hosts[1], BootNanos::new(u64::MAX));
    let (mut claims, mut found) = (Vec::new(), Vec::new());
    eventually("both addresses are claimed", || {
        claims.clear();
        listener.read(&mut claims).expect("reads");
        found.extend(claims.iter().filter_map(|claim| conflicts.heard(BootNanos::new(1), on, claim)));
        found.len() == 2
    });
    for vip in VIPS {
        assert!(found.contains(&Conflict::Stranger { vip: VipId::new(1), address: ip(vip), mac: mac(2) }), "{found:?}");
    }
}

/// Sends a frame of any bytes on an interface of the calling thread's namespace.
fn send_bytes(interface: &str, frame: &[u8]) {
    let index = Interface::read(interface).expect("there").index;
    // SAFETY: plain numbers, for which zero is a value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as libc::sa_family_t;
    to.sll_ifindex = index.cast_signed();
    // SAFETY: takes numbers only; the result is checked.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(socket >= 0, "a packet socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: both pointers are valid for the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    assert_eq!(sent, frame.len().cast_signed(), "{}", std::io::Error::last_os_error());
}

#[test]
fn frames_of_a_vlan_are_not_heard_on_the_interface_below() {
    let Some(lan) = Lan::new(2) else { return };
    let [listens, sends] = [&lan.hosts[0], &lan.hosts[1]];
    // The same addresses may mean other machines on a VLAN.
    let untagged = announcement(ip("10.0.0.100"), mac(2)).as_bytes().to_vec();
    let (head, rest) = untagged.split_at(12);
    let tagged = [head, &[0x81, 0, 0, 5], rest].concat();
    let frames = [tagged, announcement(ip("10.0.0.101"), mac(2)).as_bytes().to_vec()];
    for hearing in [Hearing::BehindFence, Hearing::BeforeFence] {
        let open = move || Listener::open(Interface::read("eth0").expect("there").index, hearing).expect("opens");
        let mut listener = listens.run(open);
        // Frames arrive in the order they were sent, so the second is the first that is heard.
        for frame in frames.clone() {
            sends.run(move || send_bytes("eth0", &frame));
        }
        let mut claims = Vec::new();
        eventually("the one without a tag is heard", || {
            listener.read(&mut claims).expect("reads");
            !claims.is_empty()
        });
        assert_eq!(claims, [Claim { address: ip("10.0.0.101"), mac: mac(2), answer: false }], "{hearing:?}");
    }
    // Below a VLAN's interface only its own are meant.
    for (vlan, expected) in [(5, "10.0.0.100"), (0, "10.0.0.101")] {
        let mut listener = listens.run(move || {
            let way = Way { interface: Interface::read("eth0").expect("there").index, mac: None, vlan };
            Listener::open_on(&[way], Hearing::BeforeFence).expect("opens")
        });
        for frame in [frames.clone(), frames.clone()].concat() {
            sends.run(move || send_bytes("eth0", &frame));
        }
        let mut claims = Vec::new();
        eventually("both are heard", || {
            listener.read(&mut claims).expect("reads");
            claims.len() >= 2
        });
        assert!(claims.iter().all(|claim| claim.address == ip(expected)), "{vlan}: {claims:?}");
    }
}

#[test]
fn the_gateway_is_found_and_judged_by_its_answers() {
    let Some(lan) = Lan::new(2) else { return };
    let host = &lan.hosts[0];
    let index = host.run(|| Interface::read("eth0").expect("there").index);
    let read = || host.run(move || Gateways::read(index).expect("reads"));
    assert_eq!(read(), Gateways::default());
    host.ip("route add default via 10.0.0.9 metric 50");
    host.ip("route add default via 10.0.0.2 metric 10");
    host.ip("route add 192.0.2.0/24 via 10.0.0.7");
    host.ip("-6 route add default via 2001:db8::2 dev eth0");
    let gateways = Gateways { v4: Some(ip("10.0.0.2")), v6: Some(ip("2001:db8::2")) };
    assert_eq!(read(), gateways);
    for gateway in [gateways.v4, gateways.v6] {
        host.run(move || {
            let interface = Interface::read("eth0").expect("there");
            let timing = GatewayTiming { interval_nanos: 20_000_000, rise: 2, fall: 3 };
            let mut check = GatewayCheck::new(boot_now(), gateway, timing);
            let sender = Sender::open().expect("opens");
            let mut listener = Listener::open(interface.index, Hearing::BehindFence).expect("opens");
            let mut claims = Vec::new();
            eventually("the gateway answers", || {
                if let Some(gateway) = check.turn(boot_now()) {
                    let frame = question(gateway, &interface, |_| false).expect("a veth has a MAC");
                    sender.send(interface.index, &frame).expect("sends");
                }
                claims.clear();
                listener.read(&mut claims).expect("reads");
                claims.iter().for_each(|claim| check.heard(claim));
                check.state() == GatewayState::Reachable
            });
        });
    }
}

#[test]
fn the_machine_is_checked_as_it_is() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let errors = || {
        let findings = host.run(|| ballast_vip::net::system::check("eth0", true).expect("checks"));
        findings.iter().filter(|finding| finding.what.contains("IPv6 is switched off")).count()
    };
    assert_eq!(errors(), 0);
    host.sysctl("ipv6/conf/eth0/disable_ipv6", "1");
    assert_eq!(errors(), 1);
}
