//! One node and a client on a cable: what a closed node answers (nothing), when an open one stops, and what is left when
//! its process is killed, frozen or replaced, or when somebody takes parts of the fence away.

use std::{
    error::Error as _,
    io::Read,
    net::IpAddr,
    os::unix::fs::FileExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use ballast_clock::boot_now;
use ballast_core::{ids::VipId, time::BootNanos};
use ballast_vip::{Closing, Deadlines, Fence, FenceWish, Guarded};

use crate::{
    frames::{Path, Question, ask, priority_tagged},
    net::{Node, PATIENCE, Wire, eventually, skip},
};

const VIP: VipId = VipId::new(7);
/// Another one, or nobody's.
const OTHER: VipId = VipId::new(8);
const VIP4: &str = "10.9.0.100";
const VIP6: &str = "fd09::100";
const LONG: Duration = Duration::from_secs(600);

/// A client and a node with a VIP's addresses, on one cable.
struct Lab {
    _client: Node,
    node: Node,
    wire: Wire,
    mac: [u8; 6],
}

impl Lab {
    fn new() -> Option<Self> {
        let (client, node) = (Node::new()?, Node::new()?);
        client.cable("eth0", &node, "eth0");
        for (side, host) in [(&client, "10"), (&node, "1")] {
            side.sh(&format!(
                "ip addr add 10.9.0.{host}/24 dev eth0; ip addr add fd09::{host}/64 dev eth0 nodad; ip link set eth0 up"
            ));
        }
        let (wire, mac) = (client.wire("eth0"), node.mac("eth0"));
        let hex = wire.mac.map(|byte| format!("{byte:02x}")).join(":");
        for address in ["10.9.0.10", "fd09::10"] {
            node.sh(&format!("ip neigh replace {address} lladdr {hex} dev eth0 nud permanent"));
        }
        let lab = Self { _client: client, node, wire, mac };
        lab.give(VIP4);
        lab.give(VIP6);
        Some(lab)
    }

    fn give(&self, address: &str) {
        let (length, flags) = if address.contains(':') { (128, "nodad") } else { (32, "") };
        self.node.sh(&format!("ip addr add {address}/{length} dev eth0 {flags}"));
    }

    fn guarded(&self, vip: VipId, address: &str) -> Guarded {
        Guarded { vip, interface: self.node.index("eth0"), address: address.parse().expect("an address") }
    }

    fn both(&self) -> Vec<Guarded> {
        vec![self.guarded(VIP, VIP4), self.guarded(VIP, VIP6)]
    }

    fn path(&self, to: &str) -> Path {
        let to: IpAddr = to.parse().expect("an address");
        let from = if to.is_ipv4() { "10.9.0.10" } else { "fd09::10" }.parse().expect("an address");
        Path { from_mac: self.wire.mac, to_mac: self.mac, from, to }
    }

    /// Whether the node answers the question.
    fn answered(&self, to: &str, question: Question) -> bool {
        let path = self.path(to);
        self.answered_frames(path, question, &ask(path, question))
    }

    fn answered_frames(&self, path: Path, question: Question, frames: &[Vec<u8>]) -> bool {
        !self.wire.answerers(path, question, frames, self.path("10.9.0.1")).is_empty()
    }

    fn check(&self, to: &str, open: bool) {
        for question in Question::ALL {
            assert_eq!(self.answered(to, question), open, "{question:?} about {to}, open: {open}");
        }
    }

    fn check_both(&self, open: bool) {
        self.check(VIP4, open);
        self.check(VIP6, open);
    }

    fn open(&self, wish: FenceWish) -> Option<(Fence, Deadlines)> {
        match self.node.inside(|| Fence::open(wish)) {
            Ok(halves) => Some(halves),
            Err(error) => {
                skip(&format!("{error}: {:?}", std::error::Error::source(&error)));
                None
            }
        }
    }

    fn guard(&self, fence: &mut Fence, wanted: &[Guarded]) {
        self.node.inside(|| fence.guard(wanted)).expect("guards");
        self.whole(fence);
    }

    fn whole(&self, fence: &mut Fence) {
        assert_eq!(self.node.inside(|| fence.verify()), []);
    }

    fn breached(&self, fence: &mut Fence, says: &str) {
        let breaches = self.node.inside(|| fence.verify());
        assert!(breaches.iter().any(|breach| breach.what.contains(says)), "{says:?} in {breaches:?}");
        self.node.inside(|| fence.repair()).expect("repairs");
        self.whole(fence);
    }
}

fn open_for(deadlines: &mut Deadlines, vip: VipId, time: Duration) -> BootNanos {
    let until = boot_now().plus(time.as_nanos() as u64);
    deadlines.set(vip, until);
    deadlines.flush();
    until
}

/// Runs a test at each level that this machine has.
fn at_each_level(test: impl Fn(&Lab, Fence, Deadlines)) {
    for wish in [FenceWish::Ebpf, FenceWish::Nftables] {
        let Some(lab) = Lab::new() else { return };
        if let Some((fence, deadlines)) = lab.open(wish) {
            test(&lab, fence, deadlines);
        }
    }
}

#[test]
fn closed_is_silent_and_open_is_not() {
    at_each_level(|lab, mut fence, mut deadlines| {
        lab.check_both(true); // not guarded yet: an address as any other
        lab.guard(&mut fence, &lab.both());
        lab.check_both(false);
        open_for(&mut deadlines, VIP, LONG);
        lab.check_both(true);
        assert_eq!(deadlines.close(VIP), Closing::Closed);
        lab.check_both(false);
        lab.check("10.9.0.1", true);
        lab.check("fd09::1", true);
    });
}

#[test]
fn closing_a_vip_closes_what_was_opened_for_it_and_is_its_own_no_more() {
    at_each_level(|lab, mut fence, mut deadlines| {
        let left = [lab.guarded(VIP, VIP4), lab.guarded(OTHER, VIP6)];
        lab.guard(&mut fence, &lab.both());
        open_for(&mut deadlines, VIP, LONG);
        lab.check_both(true);
        lab.guard(&mut fence, &left);
        // The rest is renewed, which is no word about what it has lost.
        open_for(&mut deadlines, VIP, LONG);
        assert_eq!(deadlines.close(VIP), Closing::Closed);
        lab.check_both(false);
        // What was opened for another VIP since is that one's.
        lab.guard(&mut fence, &lab.both());
        open_for(&mut deadlines, VIP, LONG);
        lab.guard(&mut fence, &left);
        open_for(&mut deadlines, OTHER, LONG);
        assert_eq!(deadlines.close(VIP), Closing::Closed);
        lab.check(VIP4, false);
        lab.check(VIP6, true);
        assert_eq!(deadlines.close(OTHER), Closing::Closed);
        lab.check_both(false);
    });
}

#[test]
fn tagged_frames_are_judged_too() {
    at_each_level(|lab, mut fence, mut deadlines| {
        lab.guard(&mut fence, &lab.both());
        let answered = |question| {
            let path = lab.path(VIP4);
            let frames: Vec<_> = ask(path, question).iter().map(|frame| priority_tagged(frame)).collect();
            lab.answered_frames(path, question, &frames)
        };
        for open in [false, true] {
            if open {
                open_for(&mut deadlines, VIP, LONG);
            }
            for question in [Question::WhoHas, Question::Echo, Question::Syn] {
                assert_eq!(answered(question), open, "{question:?}, open: {open}");
            }
        }
    });
}

#[test]
fn a_closed_node_says_nothing_in_the_vips_name() {
    at_each_level(|lab, mut fence, mut deadlines| {
        lab.guard(&mut fence, &lab.both());
        // To the client, and to somebody who has to be asked for first.
        let leaves = |vip: &str, to: &str| {
            lab.node.inside(|| {
                let socket = std::net::UdpSocket::bind((vip, 0)).expect("bound");
                // A closed fence may show as an error.
                let _ = socket.send_to(b"hello", (to, 9));
                let control = std::net::UdpSocket::bind("10.9.0.1:0").expect("bound");
                control.send_to(b"that was all", "10.9.0.10:9").expect("sent");
            });
            let octets = match vip.parse().expect("an address") {
                IpAddr::V4(vip) => vip.octets().to_vec(),
                IpAddr::V6(vip) => vip.octets().to_vec(),
            };
            let mut seen = false;
            loop {
                let frame = lab.wire.receive(Instant::now() + PATIENCE).expect("the control arrives");
                seen |= frame.windows(octets.len()).any(|window| window == octets);
                if frame.ends_with(b"that was all") {
                    return seen;
                }
            }
        };
        for (vip, to) in [(VIP4, "10.9.0.10"), (VIP6, "fd09::10"), (VIP4, "10.9.0.77"), (VIP6, "fd09::77")] {
            assert_eq!(deadlines.close(VIP), Closing::Closed);
            assert!(!leaves(vip, to), "closed: {vip} to {to}");
            open_for(&mut deadlines, VIP, LONG);
            lab.node.sh("ip neigh flush dev eth0 nud failed; ip neigh flush dev eth0 nud incomplete");
            assert!(leaves(vip, to), "open: {vip} to {to}");
            lab.node.sh("ip neigh flush dev eth0 nud failed; ip neigh flush dev eth0 nud incomplete");
        }
    });
}

/// Not a test by itself: the process that [`renewals_end_with_the_process`] stops.
#[test]
fn renewing_child() {
    let Some(file) = std::env::var_os("FENCE_CHILD_FILE") else { return };
    let interface = std::env::var("FENCE_CHILD_INTERFACE").expect("set").parse().expect("a number");
    let wish = if std::env::var_os("FENCE_CHILD_NFT").is_some() { FenceWish::Nftables } else { FenceWish::Ebpf };
    let file = std::fs::File::options().write(true).open(file).expect("the parent made it");
    let guarded = [VIP4, VIP6].map(|address| Guarded { vip: VIP, interface, address: address.parse().expect("ip") });
    let (mut fence, mut deadlines) = Fence::open(wish).expect("opens");
    fence.guard(&guarded).expect("guards");
    loop {
        let until = boot_now().plus(300_000_000);
        // Told before it is done, so that the parent never knows less.
        file.write_all_at(&until.get().to_ne_bytes(), 0).expect("told");
        deadlines.set(VIP, until);
        deadlines.flush();
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Not a test by itself: the process whose clock [`a_clock_that_the_kernels_programs_do_not_read_is_refused`] shifts.
#[test]
fn shifted_child() {
    if std::env::var_os("FENCE_CHILD_SHIFTED").is_some() {
        let error = Fence::open(FenceWish::Ebpf).err().and_then(|error| error.source().map(ToString::to_string));
        println!("{}", error.unwrap_or_default());
    }
}

#[test]
fn a_clock_that_the_kernels_programs_do_not_read_is_refused() {
    let Some(lab) = Lab::new() else { return };
    if lab.open(FenceWish::Ebpf).is_none() {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--time", "--fork", "--boottime", "1000"]).arg(std::env::current_exe().expect("this test"));
    command.args(["--exact", "one_node::shifted_child", "--nocapture"]).env("FENCE_CHILD_SHIFTED", "1");
    let output = command.output().expect("unshare runs");
    if !output.status.success() {
        println!("skipped: no time namespace can be made here: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("time namespace with a boottime offset of 1000 s and 0 ns"), "{said}");
}

struct Renewing {
    child: Child,
    told: tempfile::NamedTempFile,
}

impl Renewing {
    fn start(lab: &Lab, wish: FenceWish) -> Self {
        let told = tempfile::NamedTempFile::new().expect("a file");
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "one_node::renewing_child", "--nocapture"]).stdout(Stdio::null());
        command.env("FENCE_CHILD_FILE", told.path()).env("FENCE_CHILD_INTERFACE", lab.node.index("eth0").to_string());
        if wish == FenceWish::Nftables {
            command.env("FENCE_CHILD_NFT", "1");
        }
        let child = lab.node.inside(|| command.spawn().expect("starts"));
        Self { child, told }
    }

    /// Sends the signal, waits until it has acted, and returns the last deadline.
    fn signal(&mut self, signal: i32) -> BootNanos {
        let pid = self.child.id() as i32;
        let mut status = 0;
        // SAFETY: a child that was not waited for yet, and a number on this stack.
        unsafe {
            assert_eq!(libc::kill(pid, signal), 0);
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED), pid);
        }
        let mut bytes = [0; 8];
        self.told.reopen().expect("opens").read_exact(&mut bytes).expect("told");
        BootNanos::new(u64::from_ne_bytes(bytes))
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn renewals_end_with_the_process() {
    at_each_level(|lab, fence, _deadlines| {
        let wish = match fence.level().as_str() {
            "ebpf" => FenceWish::Ebpf,
            _ => FenceWish::Nftables,
        };
        for signal in [libc::SIGSTOP, libc::SIGKILL] {
            let mut child = Renewing::start(lab, wish);
            eventually("the child's first renewal", || {
                child.told.as_file().metadata().is_ok_and(|data| data.len() == 8)
            });
            eventually("opening", || lab.answered(VIP4, Question::Echo));
            let deadline = child.signal(signal);
            let mut last = BootNanos::new(0);
            loop {
                let asked_at = boot_now();
                if lab.answered(VIP4, Question::Echo) {
                    last = asked_at;
                } else if asked_at > deadline {
                    break;
                }
            }
            println!(
                "{wish:?}, signal {signal}: last packet served {:.3} ms before the deadline",
                deadline.since(last) as f64 / 1e6
            );
            assert!(last < deadline, "nothing passes after the deadline");
            lab.check_both(false);
        }
        drop(fence);
    });
}

#[test]
fn the_next_process_replaces_the_fence_in_one_step_and_starts_closed() {
    for earlier in [FenceWish::Ebpf, FenceWish::Nftables] {
        at_each_level(|lab, mut fence, mut deadlines| {
            let Some((mut old, mut old_deadlines)) = lab.open(earlier) else { return };
            lab.guard(&mut old, &lab.both());
            open_for(&mut old_deadlines, VIP, LONG);
            lab.check_both(true);
            lab.guard(&mut fence, &lab.both());
            lab.check_both(false);
            open_for(&mut deadlines, VIP, LONG);
            lab.check_both(true);
            let filters = ["ingress", "egress"].map(|hook| lab.node.sh(&format!("tc filter show dev eth0 {hook}")));
            let expected = if fence.level().as_str() == "ebpf" { 1 } else { 0 };
            for listing in filters {
                assert_eq!(listing.matches("direct-action").count(), expected, "{listing}");
            }
            let (table, _) = lab.node.try_sh("nft list table netdev ballast");
            assert_eq!(table, expected == 0, "a table only at the level nftables");
            lab.node.inside(|| fence.remove()).expect("removed");
            assert!(!lab.node.sh("tc filter show dev eth0 ingress").contains("ballast"));
            assert!(!lab.node.try_sh("nft list table netdev ballast").0);
            lab.check_both(true);
        });
    }
}

#[test]
fn a_late_store_of_a_time_that_has_passed_opens_nothing() {
    at_each_level(|lab, mut fence, mut deadlines| {
        lab.guard(&mut fence, &lab.both());
        let past = boot_now();
        open_for(&mut deadlines, VIP, LONG);
        deadlines.set(VIP, past);
        deadlines.flush();
        lab.check_both(false);
        deadlines.set(VipId::new(99), boot_now().plus(LONG.as_nanos() as u64));
        deadlines.flush();
        lab.check_both(false);
        lab.whole(&mut fence);
    });
}

#[test]
fn what_somebody_takes_away_of_the_ebpf_fence_is_noticed_and_put_back() {
    let Some(lab) = Lab::new() else { return };
    let Some((mut fence, mut deadlines)) = lab.open(FenceWish::Ebpf) else { return };
    lab.guard(&mut fence, &lab.both());
    lab.node.sh("tc filter del dev eth0 ingress prio 1");
    lab.breached(&mut fence, "the ingress filter is gone");
    lab.node.sh("tc filter del dev eth0 egress");
    lab.breached(&mut fence, "the egress filter is gone");
    lab.node.sh("tc qdisc del dev eth0 clsact");
    lab.check_both(true);
    lab.breached(&mut fence, "the ingress filter is gone");
    lab.check_both(false);
    let (mut other, _other_deadlines) = lab.open(FenceWish::Ebpf).expect("a second one");
    lab.node.inside(|| other.guard(&lab.both())).expect("guards");
    lab.breached(&mut fence, "and not ours");
    open_for(&mut deadlines, VIP, LONG);
    lab.check_both(true);
    lab.node.sh("ip link del eth0");
    assert_ne!(lab.node.inside(|| fence.verify()), []);
    assert!(lab.node.inside(|| fence.guard(&[])).is_ok());
    lab.whole(&mut fence);
}

#[test]
fn a_change_of_the_nftables_fence_is_told_at_once_and_a_renewal_is_none() {
    let Some(lab) = Lab::new() else { return };
    let Some((mut fence, mut deadlines)) = lab.open(FenceWish::Nftables) else { return };
    let told = |fence: &Fence| {
        let fd = fence.descriptor().expect("the kernel tells of changes at this level");
        let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
        // SAFETY: one descriptor, as is said.
        unsafe { libc::poll(fds.as_mut_ptr(), 1, 0) == 1 }
    };
    lab.guard(&mut fence, &lab.both());
    fence.changed();
    assert!(!told(&fence));
    open_for(&mut deadlines, VIP, LONG);
    assert!(told(&fence) && !fence.changed(), "the kernel tells of renewals too");
    lab.node.sh("nft flush ruleset");
    assert!(told(&fence) && fence.changed());
    assert!(!told(&fence) && !fence.changed(), "told once");
    lab.breached(&mut fence, "No such file or directory");
}

#[test]
fn what_somebody_takes_away_of_the_nftables_fence_is_noticed_and_put_back() {
    let Some(lab) = Lab::new() else { return };
    let Some((mut fence, mut deadlines)) = lab.open(FenceWish::Nftables) else { return };
    lab.guard(&mut fence, &lab.both());
    let index = lab.node.index("eth0");
    for (harm, says) in [
        ("nft flush ruleset".to_owned(), "No such file or directory"),
        ("nft delete table netdev ballast".to_owned(), "No such file or directory"),
        (format!("nft flush chain netdev ballast in_{index}"), "missing: \t\tjump judge_in"),
        ("nft flush chain netdev ballast judge_out".to_owned(), "missing: \t\tarp saddr ip"),
        (format!("nft delete element netdev ballast vip4 '{{ {VIP4} }}'"), VIP4),
        (format!("nft insert rule netdev ballast in_{index} accept"), "added: \t\taccept"),
    ] {
        lab.node.sh(&harm);
        lab.breached(&mut fence, says);
        lab.check_both(false);
        open_for(&mut deadlines, VIP, LONG);
        lab.check_both(true);
    }
    lab.node.sh("nft delete table netdev ballast");
    open_for(&mut deadlines, VIP, LONG);
    lab.breached(&mut fence, "refused 1 renewals");
    assert_eq!(deadlines.close(VIP), Closing::Closed);
    lab.node.sh("nft delete table netdev ballast");
    assert_eq!(deadlines.close(VIP), Closing::ByItself);
}

#[test]
fn nothing_is_left_of_a_fence_that_was_alone() {
    at_each_level(|lab, mut fence, _deadlines| {
        let qdiscs = || lab.node.sh("tc qdisc show");
        // Somebody else's, on an interface that no VIP is on.
        lab.node.sh("tc qdisc add dev lo clsact");
        let before = qdiscs();
        lab.guard(&mut fence, &lab.both());
        lab.node.inside(|| fence.remove()).expect("removed");
        assert_eq!(qdiscs(), before);
        lab.node.inside(|| fence.remove()).expect("and again");
        assert_eq!(qdiscs(), before);
    });
}

#[test]
fn the_filters_of_others_stay() {
    at_each_level(|lab, mut fence, _deadlines| {
        lab.node.sh("tc qdisc add dev eth0 clsact");
        // Classic BPF that matches nothing.
        lab.node.sh("tc filter add dev eth0 ingress prio 1 bpf bytecode '1,6 0 0 0'");
        lab.node.sh("tc filter add dev eth0 ingress prio 9 protocol ip bpf bytecode '1,6 0 0 0'");
        lab.node.sh("nft add table netdev other");
        let others = |listing: String| listing.matches("bytecode").count();
        lab.guard(&mut fence, &lab.both());
        lab.check_both(false);
        assert_eq!(others(lab.node.sh("tc filter show dev eth0 ingress")), 2);
        lab.node.inside(|| fence.remove()).expect("removed");
        assert_eq!(others(lab.node.sh("tc filter show dev eth0 ingress")), 2);
        assert!(lab.node.sh("tc qdisc show dev eth0").contains("clsact"));
        assert!(lab.node.sh("nft list tables").contains("netdev other"));
        lab.check_both(true);
    });
}

#[test]
fn programs_that_run_before_the_fence_are_named() {
    let Some(lab) = Lab::new() else { return };
    let Some((mut fence, _deadlines)) = lab.open(FenceWish::Ebpf) else { return };
    lab.guard(&mut fence, &lab.both());
    let mut earlier = || {
        assert_eq!(lab.node.inside(|| fence.verify()), []);
        fence.earlier().iter().map(|earlier| earlier.what.clone()).collect::<Vec<_>>()
    };
    lab.node.sh("tc filter add dev eth0 ingress prio 9 bpf bytecode '1,6 0 0 0'");
    assert_eq!(earlier(), Vec::<String>::new());
    // The kernel asks a later one of the same priority first.
    lab.node.sh("tc filter add dev eth0 egress prio 1 bpf bytecode '1,6 0 0 0'");
    assert_eq!(earlier(), ["bpf filter of priority 1 at egress"]);
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fence.bpf.o"));
    let mut other = aya::Ebpf::load(object).expect("loads");
    let program: &mut SchedClassifier = other.program_mut("fence_in").expect("there").try_into().expect("a classifier");
    program.load().expect("loads");
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attached = lab.node.inside(|| program.attach_with_options("eth0", TcAttachType::Ingress, options));
    if let Err(error) = attached {
        println!("skipped: no tcx here: {error}");
        return;
    }
    let id = program.info().expect("loaded").id();
    assert_eq!(earlier(), [format!("tcx program {id} at ingress"), "bpf filter of priority 1 at egress".to_owned()]);
}

#[test]
fn two_hundred_addresses_have_deadlines_of_their_own() {
    at_each_level(|lab, mut fence, mut deadlines| {
        let address = |number: u32| {
            if number.is_multiple_of(2) { format!("10.9.1.{number}") } else { format!("fd09::2:{number:x}") }
        };
        let vips: Vec<_> = (1..=200).collect();
        let batch: String = vips
            .iter()
            .map(|number| {
                format!("addr add {}/{} dev eth0\n", address(*number), if number.is_multiple_of(2) { 32 } else { 128 })
            })
            .collect();
        lab.node.sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=0");
        lab.node.sh(&format!("ip -batch - <<'END'\n{batch}END"));
        let wanted: Vec<_> = vips.iter().map(|number| lab.guarded(VipId::new(*number), &address(*number))).collect();
        let started = Instant::now();
        lab.guard(&mut fence, &wanted);
        println!("{}: 200 addresses guarded in {:?}", fence.level().as_str(), started.elapsed());
        for number in vips.iter().filter(|number| number.is_multiple_of(3)) {
            deadlines.set(VipId::new(*number), boot_now().plus(LONG.as_nanos() as u64));
        }
        let started = Instant::now();
        deadlines.flush();
        println!("{}: 66 renewals flushed in {:?}", fence.level().as_str(), started.elapsed());
        for number in &vips {
            assert_eq!(
                lab.answered(&address(*number), Question::Echo),
                number.is_multiple_of(3),
                "{}",
                address(*number)
            );
        }
        // One more, one less: the others are not touched.
        let mut changed = wanted.clone();
        changed.remove(0);
        changed.push(lab.guarded(VIP, VIP4));
        lab.guard(&mut fence, &changed);
        assert!(lab.answered(&address(3), Question::Echo) && !lab.answered(&address(4), Question::Echo));
        assert!(!lab.answered(VIP4, Question::Echo) && lab.answered(&address(1), Question::Echo));
    });
}
