use std::{net::UdpSocket, process::Command, thread, time::Duration};

use super::*;
use crate::wait;

/// A socket on a host, bound to its address.
fn socket(lab: &Lab, host: Host) -> UdpSocket {
    let socket = lab.within(host, || UdpSocket::bind((host.ip(), 7000))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Whether a datagram arrives; several are sent, since the first waits for ARP.
fn reaches(from: &UdpSocket, to: &UdpSocket) -> bool {
    let mut bytes = [0; 8];
    while to.set_nonblocking(true).is_ok() && to.recv(&mut bytes).is_ok() {}
    to.set_nonblocking(false).unwrap();
    (0..5).any(|_| from.send_to(b"x", to.local_addr().unwrap()).is_ok() && to.recv(&mut bytes).is_ok())
}

#[test]
fn a_cut_works_one_way_and_heals() {
    let Some(lab) = Lab::or_skip(3) else { return };
    let (one, two) = (socket(&lab, Host::Node(0)), socket(&lab, Host::Node(1)));
    assert!(reaches(&one, &two) && reaches(&two, &one), "a fresh lab is whole");

    lab.cut(Host::Node(0), Host::Node(1), Direction::OneWay).unwrap();
    assert!(!reaches(&one, &two), "the cut way is cut");
    assert!(reaches(&two, &one), "the other way is not");

    lab.heal().unwrap();
    lab.isolate(Host::Node(1)).unwrap();
    assert!(!reaches(&one, &two) && !reaches(&two, &one));

    lab.heal().unwrap();
    assert!(reaches(&one, &two) && reaches(&two, &one));
}

/// How long a datagram takes there and back, of the second time, so that ARP is done.
fn round_trip(one: &UdpSocket, two: &UdpSocket) -> Duration {
    let mut bytes = [0; 8];
    let mut took = Duration::MAX;
    for _ in 0..2 {
        let began = std::time::Instant::now();
        wait::until("an echo", || {
            one.send_to(b"x", two.local_addr()?)?;
            let (_, from) = two.recv_from(&mut bytes)?;
            two.send_to(b"x", from)?;
            Ok(one.recv(&mut bytes).ok())
        })
        .unwrap();
        took = began.elapsed();
    }
    took
}

#[test]
fn a_line_delays_carries_streams_whole_and_is_cut_as_any_other() {
    let Some(lab) = Lab::or_skip(3) else { return };
    let (one, two) = (socket(&lab, Host::Node(0)), socket(&lab, Host::Node(1)));
    one.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    two.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    round_trip(&one, &two);
    let delay = Duration::from_millis(40);
    let late = Rules { delay, ..Rules::default() };
    lab.impair(&[(Host::Node(0), Line { inbound: late, outbound: Rules::default() })], 1).unwrap();
    assert!(round_trip(&one, &two) >= delay);
    lab.mend().unwrap();

    // What is damaged is not delivered, and what is delivered is right: a megabyte over TCP, which resends.
    let bad = Rules { damaged_percent: 3, doubled_percent: 5, between: Between::Everybody, ..Rules::default() };
    lab.impair(&[(Host::Backends, Line { inbound: bad, outbound: bad })], 2).unwrap();
    let listener =
        lab.within(Host::Backends, || std::net::TcpListener::bind((Host::Backends.ip(), 7001))).unwrap().unwrap();
    let sent: Vec<u8> = (0..1 << 20).map(|place: u32| (place % 251) as u8).collect();
    let received = thread::scope(|scope| {
        let sender = scope.spawn(|| std::io::Write::write_all(&mut listener.accept().unwrap().0, &sent).unwrap());
        let mut got = Vec::new();
        let connect = || std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        std::io::Read::read_to_end(&mut lab.within(Host::Client, connect).unwrap(), &mut got).unwrap();
        sender.join().unwrap();
        got
    });
    assert!(received == sent, "{} bytes", received.len());
    lab.mend().unwrap();

    lab.impair(&[(Host::Node(0), Line::default())], 3).unwrap();
    assert!(reaches(&one, &two) && reaches(&two, &one));
    lab.cut(Host::Node(0), Host::Node(1), Direction::OneWay).unwrap();
    one.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    two.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(!reaches(&one, &two) && reaches(&two, &one), "a cut is one where a line is, too");
    lab.heal().unwrap();
    lab.mend().unwrap();
    assert!(reaches(&one, &two) && reaches(&two, &one));
}

#[test]
fn a_node_without_a_link_has_no_carrier() {
    let Some(lab) = Lab::or_skip(1) else { return };
    let state = || lab.run(Host::Node(0), &["ip", "-br", "link", "show", "dev", "eth0"]).unwrap();
    lab.link_down(Host::Node(0)).unwrap();
    wait::until("the carrier to go", || Ok(state().contains("NO-CARRIER").then_some(()))).unwrap();
    lab.link_up(Host::Node(0)).unwrap();
    wait::until("the carrier to return", || Ok(state().contains("LOWER_UP").then_some(()))).unwrap();
}

#[test]
fn a_frozen_node_does_nothing_until_it_is_thawed() {
    let Some(lab) = Lab::or_skip(1) else { return };
    let mut counting = Command::new("sh");
    counting.args(["-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done"]);
    let process = lab.spawn(Host::Node(0), "counting", counting).unwrap();
    let lines = || process.log().lines().count();
    let goes_on = |since: usize| wait::until("the count to go on", || Ok((lines() > since).then_some(())));
    goes_on(3).unwrap();

    lab.freeze(0).unwrap();
    let frozen_at = lines();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(lines(), frozen_at);

    lab.thaw(0);
    goes_on(frozen_at).unwrap();
}

#[test]
fn a_node_with_power_again_has_its_own_addresses_only() {
    let Some(lab) = Lab::or_skip(1) else { return };
    let node = Host::Node(0);
    lab.run(node, &["ip", "addr", "add", &format!("{VIP}/24"), "dev", "eth0"]).unwrap();
    lab.run(node, &["ip", "addr", "add", &format!("{VIP6}/64"), "dev", "eth0", "nodad"]).unwrap();
    lab.run(
        node,
        &["ip", "neigh", "add", "10.77.0.11", "lladdr", "02:00:00:00:01:0b", "nud", "permanent", "dev", "eth0"],
    )
    .unwrap();
    lab.power_off(0).unwrap();
    lab.power_on(0).unwrap();
    let shown = lab.run(node, &["ip", "-o", "addr", "show", "dev", "eth0", "scope", "global"]).unwrap();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(shown.contains("10.77.0.1/24") && shown.contains("fd77::1/64"), "{shown}");
    assert!(lab.run(node, &["ip", "neigh", "show"]).unwrap().contains("10.77.0.11"));
}

#[test]
fn what_is_not_there_is_not_taken_away() {
    let Some(lab) = Lab::or_skip(1) else { return };
    let node = Host::Node(0);
    let tamper = || {
        let all = [Tampering::Programs, Tampering::Tables, Tampering::Address(VIP.into())];
        all.map(|how| lab.tamper(0, how))
    };
    assert_eq!(tamper(), [false; 3]);
    lab.run(node, &["nft", "add", "table", "inet", "somebodys"]).unwrap();
    lab.run(node, &["ip", "addr", "add", &format!("{VIP}/32"), "dev", "eth0"]).unwrap();
    assert_eq!(tamper(), [false, true, true]);
    assert_eq!(tamper(), [false; 3]);
}

#[test]
fn a_responder_tells_the_node_that_asks() {
    let Some(lab) = Lab::or_skip(2) else { return };
    let responder = Responder::start(&lab, Host::Backends, 8000).unwrap();
    let answer =
        lab.within(Host::Node(1), || crate::client::Client::new(responder.address()).get("/")).unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "2"));
}

#[test]
fn everything_is_gone_afterwards_even_after_a_panic() {
    let Some(lab) = Lab::or_skip(2) else { return };
    let prefix = lab.bridge.name().trim_end_matches("bridge").to_owned();
    let folder = lab.folder().to_owned();
    let left = || {
        let spaces = fs::read_dir(namespace::FOLDER).into_iter().flatten().flatten().map(|entry| entry.path());
        let groups = freezer::remains(|name| name.starts_with(&prefix)).into_iter();
        spaces.filter(|path| path.to_string_lossy().contains(&prefix)).chain(groups).collect::<Vec<_>>()
    };
    assert_eq!(left().len(), 6 + if matches!(lab.freezers[0], Freezer::None) { 0 } else { 2 });

    let mut child = 0;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let lab = lab;
        let mut sleeping = Command::new("sh");
        sleeping.args(["-c", "sleep 1000 & wait"]);
        let process = lab.spawn(Host::Node(0), "sleeping", sleeping).unwrap();
        wait::until("a grandchild", || Ok((lab.pids(Host::Node(0)).len() == 2).then_some(()))).unwrap();
        child = process.pid();
        lab.freeze(0).unwrap();
        std::mem::forget(process);
        panic!("a test fails");
    }));
    assert!(panicked.is_err());
    assert_eq!(left(), Vec::<std::path::PathBuf>::new());
    assert!(!folder.exists());
    assert!(
        !Path::new(&format!("/proc/{child}/ns/net")).exists() || fs::metadata(format!("/proc/{child}/ns/net")).is_err()
    );
}
