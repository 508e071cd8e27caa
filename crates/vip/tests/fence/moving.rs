//! A planned move of a VIP between two nodes on one bridge: connections that are established live on, at the node that
//! has them, and everything new goes to the new owner.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{ids::VipId, time::BootNanos};
use ballast_vip::{Closing, Deadlines, Fence, FenceWish, Guarded};

use crate::{
    frames::{Path, Question, ask},
    net::{Node, PATIENCE, Wire, skip},
};

const VIP: VipId = VipId::new(7);
const NOBODY: [[u8; 6]; 0] = [];

struct Candidate {
    node: Node,
    mac: [u8; 6],
    fence: Fence,
    deadlines: Deadlines,
    listener: TcpListener,
    own: IpAddr,
}

struct Lab {
    _switch: Node,
    client: Node,
    wire: Wire,
    a: Candidate,
    b: Candidate,
    c: Candidate,
    from: IpAddr,
    vip: IpAddr,
}

fn far() -> BootNanos {
    boot_now().plus(600_000_000_000)
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Lab {
    /// In the network that `prefix` begins.
    fn new(prefix: &str, length: u8, vip_length: u8) -> Option<Self> {
        let (switch, client) = (Node::new()?, Node::new()?);
        let (a, b, c) = (Node::new()?, Node::new()?, Node::new()?);
        switch.sh("ip link add br0 type bridge; ip link set br0 up");
        let address = |host: &str| -> IpAddr { format!("{prefix}{host}").parse().expect("an address") };
        let hosts = [(&client, "port-0", "10"), (&a, "port-a", "1"), (&b, "port-b", "2"), (&c, "port-c", "3")];
        for (node, port, host) in hosts {
            switch.cable(port, node, "eth0");
            switch.sh(&format!("ip link set {port} master br0"));
            let flags = if address(host).is_ipv6() { "nodad" } else { "" };
            node.sh(&format!("ip addr add {prefix}{host}/{length} dev eth0 {flags}"));
        }
        let wire = client.wire("eth0");
        let (vip, from) = (address("99"), address("10"));
        let start = |node, own| Candidate::new(node, own, vip, vip_length, from, wire.mac);
        let (a, b, c) = (start(a, address("1"))?, start(b, address("2"))?, start(c, address("3"))?);
        Some(Self { _switch: switch, client, wire, a, b, c, from, vip })
    }

    /// What an announcement of the node brings about at the client.
    fn announce(&self, candidate: &Candidate) {
        self.client.sh(&format!("ip neigh replace {} lladdr {} dev eth0 nud permanent", self.vip, hex(candidate.mac)));
    }

    /// The first node owns the VIP, and a client is connected to it. Both ends.
    fn begin(&mut self) -> (TcpStream, TcpStream) {
        self.a.deadlines.set(VIP, far());
        self.announce(&self.a);
        let client = self.connect();
        (client, self.a.accept())
    }

    fn connect(&self) -> TcpStream {
        let address = SocketAddr::new(self.vip, 80);
        let stream = self.client.inside(|| TcpStream::connect_timeout(&address, PATIENCE)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout set");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout set");
        stream
    }

    /// Who answers a question about the VIP that is sent to the candidate's MAC address.
    fn answerers(&self, candidate: &Candidate, question: Question) -> Vec<[u8; 6]> {
        let path = Path { from_mac: self.wire.mac, to_mac: candidate.mac, from: self.from, to: self.vip };
        let control = Path { to: candidate.own, ..path };
        self.wire.answerers(path, question, &ask(path, question), control)
    }
}

impl Candidate {
    fn new(node: Node, own: IpAddr, vip: IpAddr, length: u8, client: IpAddr, client_mac: [u8; 6]) -> Option<Self> {
        let (mut fence, deadlines) = match node.inside(|| Fence::open(FenceWish::Ebpf)) {
            Ok(halves) => halves,
            Err(error) => {
                skip(&format!("{error}: {:?}", std::error::Error::source(&error)));
                return None;
            }
        };
        let guarded = Guarded { vip: VIP, interface: node.index("eth0"), address: vip };
        node.inside(|| fence.guard(&[guarded])).expect("guards");
        let flags = if vip.is_ipv6() { "nodad" } else { "" };
        node.sh(&format!("ip addr add {vip}/{length} dev eth0 {flags}"));
        node.sh(&format!("ip neigh replace {client} lladdr {} dev eth0 nud permanent", hex(client_mac)));
        let listener = node.inside(|| TcpListener::bind((vip, 80))).expect("listens");
        let mac = node.mac("eth0");
        Some(Self { node, mac, fence, deadlines, listener, own })
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("accepted");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout set");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout set");
        stream
    }
}

/// Sends through one end and reads at the other.
fn carries(from: &mut TcpStream, to: &mut TcpStream, what: &[u8]) {
    from.write_all(what).expect("written");
    let mut read = vec![0; what.len()];
    to.read_exact(&mut read).expect("arrives");
    assert_eq!(read, what);
}

fn a_move(prefix: &str, length: u8, vip_length: u8) {
    let Some(mut lab) = Lab::new(prefix, length, vip_length) else { return };
    let (mut client, mut server) = lab.begin();
    carries(&mut client, &mut server, b"before");

    assert_eq!(lab.a.deadlines.close(VIP), Closing::Closed);
    lab.a.deadlines.keep_established(VIP, far());
    lab.b.deadlines.forward_established(VIP, lab.a.mac, far());
    lab.b.deadlines.set(VIP, far());
    lab.announce(&lab.b);

    carries(&mut client, &mut server, b"up after the move");
    carries(&mut server, &mut client, b"down after the move");
    carries(&mut client, &mut server, &vec![7; 300_000]);
    let (kept, forwarded) = (lab.a.fence.counters(VIP), lab.b.fence.counters(VIP));
    println!("at the old owner {kept:?}, at the new one {forwarded:?}");
    assert!(kept.is_some_and(|count| count.kept > 0) && forwarded.is_some_and(|count| count.forwarded > 0));

    let mut second = lab.connect();
    let mut at_b = lab.b.accept();
    carries(&mut second, &mut at_b, b"a new connection");
    lab.a.listener.set_nonblocking(true).expect("set");
    assert_eq!(lab.a.listener.accept().expect_err("nothing came here").kind(), io::ErrorKind::WouldBlock);

    // With SYN cookies a listener holds nothing about a connection before its last segment comes.
    lab.b.node.sh("sysctl -qw net.ipv4.tcp_syncookies=2");
    let mut third = lab.connect();
    let mut at_b = lab.b.accept();
    carries(&mut third, &mut at_b, b"a connection by cookie");

    for asked in [&lab.a, &lab.b] {
        assert_eq!(lab.answerers(asked, Question::WhoHas), [lab.b.mac], "only the new owner says where the VIP is");
    }
    for question in [Question::StillThere, Question::Echo, Question::EchoInFragments, Question::Syn, Question::Stray] {
        assert_eq!(lab.answerers(&lab.a, question), NOBODY, "the old owner is silent: {question:?}");
    }
    for question in [Question::StillThere, Question::Echo, Question::EchoInFragments, Question::Syn] {
        assert_eq!(lab.answerers(&lab.b, question), [lab.b.mac], "the new owner answers: {question:?}");
    }
    // The old owner was not told to whom the VIP goes, so it cannot tell who asks.
    assert_eq!(lab.answerers(&lab.b, Question::Stray), NOBODY, "a stray segment ends at the old owner");

    // The end of a connection that was kept: its RST leaves after its socket is gone.
    let mut reader = client.try_clone().expect("cloned");
    client.write_all(b"never read").expect("written");
    let socket = socket2::SockRef::from(&server);
    socket.set_linger(Some(Duration::ZERO)).expect("set");
    drop(server);
    let end = reader.read(&mut [0; 8]).expect_err("reset");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    assert!(lab.a.node.inside(|| lab.a.fence.verify()).is_empty());
}

#[test]
fn established_connections_survive_a_move_over_ipv4() {
    a_move("10.8.0.", 24, 32);
}

#[test]
fn established_connections_survive_a_move_over_ipv6() {
    a_move("fd08::", 64, 128);
}

/// The VIP goes from one to the other, which had it from `before`.
fn goes(from: &mut Candidate, to: &mut Candidate, before: Option<[u8; 6]>) {
    to.deadlines.forward_nothing(VIP);
    from.deadlines.keep_established(VIP, far());
    assert_eq!(from.deadlines.close(VIP), Closing::Closed);
    from.deadlines.forward_new(VIP, to.mac, far());
    if let Some(before) = before {
        from.deadlines.forward_established(VIP, before, far());
    }
    to.deadlines.forward_established(VIP, from.mac, far());
    to.deadlines.set(VIP, far());
}

fn two_moves(prefix: &str, length: u8, vip_length: u8) {
    let Some(mut lab) = Lab::new(prefix, length, vip_length) else { return };
    let (mut first, mut at_a) = lab.begin();
    carries(&mut first, &mut at_a, b"before");
    goes(&mut lab.a, &mut lab.b, None);
    lab.announce(&lab.b);
    let mut second = lab.connect();
    let mut at_b = lab.b.accept();
    carries(&mut second, &mut at_b, b"between");
    assert_eq!(lab.answerers(&lab.b, Question::Stray), [lab.a.mac], "neither has it, and the first was asked last");
    let at_first = lab.a.mac;
    goes(&mut lab.b, &mut lab.c, Some(at_first));
    lab.announce(&lab.c);

    // What either is sent needs the client's acknowledgements, which go to the last owner.
    for (client, server) in [(&mut first, &mut at_a), (&mut second, &mut at_b)] {
        carries(client, server, &vec![7; 300_000]);
        carries(server, client, &vec![8; 300_000]);
    }
    let mut third = lab.connect();
    let mut at_c = lab.c.accept();
    carries(&mut third, &mut at_c, b"a new connection");
    for asked in [&lab.a, &lab.b] {
        assert_eq!(lab.answerers(asked, Question::WhoHas), [lab.c.mac], "only the last owner says where the VIP is");
        assert_eq!(lab.answerers(asked, Question::Stray), NOBODY, "one that comes by itself ends at a former owner");
    }
    assert_eq!(lab.answerers(&lab.c, Question::Stray), [lab.a.mac], "nobody has it, and the first was asked last");

    // It comes round. The first has its own, and what nobody knows goes back once round and ends.
    let at_second = lab.b.mac;
    goes(&mut lab.c, &mut lab.a, Some(at_second));
    lab.announce(&lab.a);
    carries(&mut first, &mut at_a, &vec![7; 300_000]);
    carries(&mut second, &mut at_b, &vec![7; 300_000]);
    carries(&mut third, &mut at_c, &vec![7; 300_000]);
    let forwarded = |candidate: &Candidate| candidate.fence.counters(VIP).map_or(0, |count| count.forwarded);
    let before = [&lab.a, &lab.b, &lab.c].map(forwarded);
    assert_eq!(lab.answerers(&lab.a, Question::Stray), [lab.a.mac]);
    let after = [&lab.a, &lab.b, &lab.c].map(forwarded);
    let hops: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert!(hops.iter().all(|hops| (1..=2).contains(hops)), "it went round: {hops:?}");
}

#[test]
fn established_connections_survive_two_moves_over_ipv4() {
    two_moves("10.8.0.", 24, 32);
}

#[test]
fn established_connections_survive_two_moves_over_ipv6() {
    two_moves("fd08::", 64, 128);
}

#[test]
fn what_the_first_of_three_owners_kept_ends_with_a_reset() {
    let Some(mut lab) = Lab::new("10.8.0.", 24, 32) else { return };
    let (mut client, mut server) = lab.begin();
    goes(&mut lab.a, &mut lab.b, None);
    let at_first = lab.a.mac;
    goes(&mut lab.b, &mut lab.c, Some(at_first));
    lab.announce(&lab.c);
    carries(&mut client, &mut server, b"after both");
    // The time is over at the first and the second. The third goes on asking the second, which got the VIP later.
    lab.a.deadlines.keep_established(VIP, BootNanos::new(1));
    lab.b.deadlines.forward_established(VIP, at_first, BootNanos::new(1));
    client.write_all(b"too late").expect("written");
    let end = client.read(&mut [0; 8]).expect_err("reset");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn what_is_kept_ends_at_its_deadline() {
    let Some(mut lab) = Lab::new("10.8.0.", 24, 32) else { return };
    let (mut client, mut server) = lab.begin();
    carries(&mut client, &mut server, b"before");
    assert_eq!(lab.a.deadlines.close(VIP), Closing::Closed);
    lab.a.deadlines.keep_established(VIP, far());
    lab.b.deadlines.set(VIP, far());
    lab.b.deadlines.forward_established(VIP, lab.a.mac, far());
    lab.announce(&lab.b);
    carries(&mut client, &mut server, b"after");
    // Both ends at once: the new owner does not know the connection and says so.
    lab.a.deadlines.keep_established(VIP, BootNanos::new(1));
    lab.b.deadlines.forward_established(VIP, lab.a.mac, BootNanos::new(1));
    client.write_all(b"too late").expect("written");
    let end = client.read(&mut [0; 8]).expect_err("reset");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}
