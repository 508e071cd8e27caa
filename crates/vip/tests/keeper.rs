//! What the keeper makes of what happens to a machine with VIPs on its interfaces, in network namespaces: what it finds
//! when it starts, what somebody takes from it, and what it says of that.

mod netns;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    net::IpAddr,
    os::fd::AsRawFd as _,
    process::Command,
    sync::Arc,
    time::Duration,
};

use aya::programs::{Xdp, XdpFlags};
use ballast_clock::boot_now;
use ballast_core::{
    config::Failback,
    ids::{EntryId, NodeId, VipId},
    lease::{Epoch, Fitness, LeaseKeys, LeaseView, LeaseVip, Timing, Unfitness, VoterSets},
};
use ballast_vip::{
    Closing, Driver as _, FenceWish, Finishing,
    net::{
        Addresses, Hearing, Interface, Listener, Mac, NetError, Sender, VipAddress, announcement, probe, request_frame,
    },
    netlink::{self, KeeperHandle, NetlinkDriver, NetlinkError, NetlinkOptions, Sole, VipFitness},
};
use netns::{Lan, Netns, eventually};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const VIPS: [&str; 2] = ["10.0.0.100", "2001:db8::100"];
/// Ten minutes.
const LONG_NANOS: u64 = 600_000_000_000;
const LEVELS: [FenceWish; 2] = [FenceWish::Ebpf, FenceWish::Nftables];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn has(host: &Netns, interface: &'static str, address: &str) -> bool {
    let address = ip(address);
    host.run(move || Interface::read(interface).expect("there").has(address))
}

/// Whether a neighbour is told where the address is.
fn answered(neighbour: &Netns, address: &str) -> bool {
    let address = ip(address);
    neighbour.run(move || {
        let interface = Interface::read("eth0").expect("there");
        !probe(&interface, &[address], Duration::from_millis(150)).expect("probes").is_empty()
    })
}

/// Whether a command succeeds.
fn sh(host: &Netns, command: &'static str) -> bool {
    let done = host.run(move || Command::new("sh").arg("-c").arg(command).output().expect("sh runs"));
    done.status.success()
}

/// Gives the first host a second interface on the same link: `eth1` with 10.0.1.1/24.
fn second_interface(lan: &Lan) {
    let host = &lan.hosts[0];
    lan.switch.ip(&format!("link add q1 type veth peer name eth1 netns {}", host.path()));
    lan.switch.ip("link set q1 master br0");
    lan.switch.ip("link set q1 up");
    host.ip("address add 10.0.1.1/24 dev eth1");
    host.ip("link set eth1 up");
    eventually("the link is up", || host.run(|| Interface::read("eth1").expect("there").up));
    lan.wait_port("q1");
}

/// Who answers a neighbour that asks for the first VIP, by the MACs that the host's own addresses are at: each interface
/// works on frames in their order, so it has spoken about the VIP when it has spoken about its own.
fn interfaces_that_answer(neighbour: &Netns, own: &'static [&'static str]) -> BTreeSet<Mac> {
    neighbour.run(move || {
        let interface = Interface::read("eth0").expect("there");
        let mac = interface.mac.expect("a veth has one");
        let sender = Sender::open().expect("opens");
        let mut listener = Listener::open(interface.index, Hearing::BeforeFence).expect("opens");
        for address in std::iter::once(&VIPS[0]).chain(own) {
            let question = request_frame(ip(address), ip("10.0.0.2"), mac).expect("one family");
            sender.send(interface.index, &question).expect("sends");
        }
        let mut claims = Vec::new();
        eventually("the host speaks about its own addresses", || {
            listener.read(&mut claims).expect("reads");
            own.iter().all(|own| claims.iter().any(|claim| claim.answer && claim.address == ip(own)))
        });
        let answers = claims.iter().filter(|claim| claim.answer && claim.address == ip(VIPS[0]));
        answers.map(|claim| claim.mac).collect()
    })
}

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The agreed state of one node with one VIP.
fn view() -> LeaseView {
    let timing = Timing::takeover_within(200_000_000);
    let vip = LeaseVip {
        id: VipId::new(1),
        name: "web".to_owned(),
        addresses: VIPS.map(|address| address.parse().expect("an address")).to_vec(),
        prefer: Vec::new(),
        failback: Failback::Never,
        failback_delay: 0,
        group: None,
        apart_from: Vec::new(),
        only: None,
        wish: None,
        fitness: Fitness::Fit,
        macs: vec![(NodeId::new(1), Mac::new([2, 0, 0, 0, 0, 1]))],
        finish: 0,
        recorded_owner: None,
        recorded_epoch: Epoch::default(),
    };
    LeaseView {
        cluster: String::new(),
        keys: LeaseKeys::only([0; 32]),
        membership: EntryId::default(),
        voters: VoterSets::new([[NodeId::new(1)]]),
        nodes: Vec::new(),
        vips: vec![vip],
        timing,
        longest: timing,
        catching_up: false,
        granted: timing,
        fitness: Fitness::Fit,
    }
}

/// The agreed state of one node with one VIP that has these addresses.
fn with(addresses: &[&str]) -> LeaseView {
    let mut view = view();
    view.vips[0].addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
    view
}

/// The node gains VIP 1, for long.
fn gain(driver: &mut NetlinkDriver) {
    let now = boot_now();
    driver.acquired(VipId::new(1), Epoch::new(1), now.plus(LONG_NANOS), None);
    driver.turn(now);
}

/// VIPs 1 on `eth0` and 2 on `eth1`.
fn two() -> LeaseView {
    let mut view = view();
    let other = LeaseVip {
        id: VipId::new(2),
        name: "db".to_owned(),
        addresses: vec!["10.0.1.100".parse().expect("an address")],
        ..view.vips[0].clone()
    };
    view.vips.push(other);
    view
}

fn options(folder: &tempfile::TempDir, interface: &str, fence: FenceWish) -> NetlinkOptions {
    NetlinkOptions {
        node: NodeId::new(1),
        interface: interface.to_owned(),
        interfaces: BTreeMap::new(),
        fence,
        data_dir: folder.path().to_owned(),
    }
}

fn start_with(host: &Netns, options: NetlinkOptions) -> (NetlinkDriver, KeeperHandle) {
    host.run(move || netlink::start(options, Sole::take().expect("no other"), || {}).expect("starts"))
}

/// A keeper on the host that knows of no agreed state yet.
fn start(host: &Netns, folder: &tempfile::TempDir, interface: &str, fence: FenceWish) -> (NetlinkDriver, KeeperHandle) {
    start_with(host, options(folder, interface, fence))
}

/// A keeper on the host that was told of the agreed state.
fn keep(host: &Netns, folder: &tempfile::TempDir, fence: FenceWish) -> KeeperHandle {
    let (mut driver, keeper) = start(host, folder, "eth0", fence);
    driver.view(&Arc::new(view()));
    keeper
}

/// Whether a keeper says this of VIP 1, in words that contain these.
fn says(keeper: &KeeperHandle, fitness: Fitness, words: &str) -> bool {
    says_of(1, keeper, fitness, words)
}

fn says_of(vip: u32, keeper: &KeeperHandle, fitness: Fitness, words: &str) -> bool {
    let known = keeper.report().vips.get(&VipId::new(vip)).cloned();
    known.is_some_and(|known| known.fitness == fitness && known.problem.contains(words))
}

#[test]
fn a_keeper_says_what_keeps_its_node_from_holding_a_vip() {
    let Some(lan) = Lan::new(2) else { return };
    let [host, other] = [&lan.hosts[0], &lan.hosts[1]];
    let folder = empty();
    let keeper = keep(host, &folder, FenceWish::None);
    eventually("nothing is in the way", || says(&keeper, Fitness::Fit, ""));
    host.ip("link set eth0 down");
    eventually("the link is down", || {
        says(&keeper, Fitness::Unfit(Unfitness::LinkDown), "eth0 is down or has no carrier")
    });
    host.ip("link set eth0 up");
    // IPv6 goes with the link.
    host.ip("address add 2001:db8::1/64 dev eth0 nodad");
    eventually("it is fit again", || says(&keeper, Fitness::Fit, ""));
    drop(keeper);

    // The next process finds the machine's own and a stranger's address where it wants VIPs.
    other.ip("address add 10.0.0.100/24 dev eth0");
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::None);
    driver.view(&Arc::new(view()));
    let taken = "02:00:00:00:00:02 answers for 10.0.0.100 on eth0 and is no node";
    let one_short = Fitness::Reluctant(Unfitness::AddressTaken);
    eventually("a stranger has one of the two", || says(&keeper, one_short, taken));
    gain(&mut driver);
    eventually("the other one is put there", || has(host, "eth0", "2001:db8::100"));
    assert!(!has(host, "eth0", "10.0.0.100"));
    drop((driver, keeper));

    // And with no other address.
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::None);
    driver.view(&Arc::new(with(&VIPS[..1])));
    eventually("a stranger has the only one", || says(&keeper, Fitness::Unfit(Unfitness::AddressTaken), taken));
    drop((driver, keeper));

    host.ip("address add 10.0.0.100/32 dev eth0");
    let folder = empty();
    let keeper = keep(host, &folder, FenceWish::None);
    let ours = "10.0.0.100/32 on eth0: is on eth0 already and was not put there by Ballast";
    eventually("the machine has it itself", || says(&keeper, Fitness::Reluctant(Unfitness::AddressMissing), ours));
}

#[test]
fn without_a_fence_an_address_is_there_only_while_its_vip_is_held() {
    let Some(lan) = Lan::new(2) else { return };
    let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
    let folder = empty();
    // What an earlier process left behind its fence is off before the fence is.
    let keeper = keep(host, &folder, FenceWish::Ebpf);
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, "") && has_any(host));
    drop(keeper);
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::None);
    assert!(!has_any(host));
    driver.view(&Arc::new(view()));
    eventually("it is fit for what it does not hold", || says(&keeper, Fitness::Fit, ""));
    assert!(!has_any(host) && !VIPS.iter().any(|vip| answered(neighbour, vip)));
    for _ in 0..2 {
        let announced = keeper.counters().announced;
        gain(&mut driver);
        eventually("it is announced", || {
            driver.turn(boot_now());
            keeper.counters().announced > announced
        });
        eventually("each address is there and answers", || {
            driver.turn(boot_now());
            VIPS.iter().all(|vip| has(host, "eth0", vip) && answered(neighbour, vip))
        });
        assert_eq!(driver.released(VipId::new(1), None), Closing::ByItself, "nobody is told before it is gone");
        eventually("it is gone", || {
            let known = keeper.report().vips.get(&VipId::new(1)).cloned().unwrap_or_default();
            assert_eq!(known.fitness, Fitness::Fit, "{}", known.problem);
            !has_any(host)
        });
    }
    // What would be in its way is told before.
    host.sysctl("ipv6/conf/eth0/disable_ipv6", "1");
    let one_short = Fitness::Reluctant(Unfitness::AddressMissing);
    eventually("one cannot be put there", || says(&keeper, one_short, "IPv6 is switched off"));
    // Nor is it left there by a process that ends.
    gain(&mut driver);
    eventually("the other one is there", || has_any(host));
    drop((driver, keeper));
    assert!(!has_any(host));
}

#[test]
fn an_address_that_cannot_be_put_in_place_takes_none_away_that_is() {
    for level in LEVELS {
        let Some(lan) = Lan::new(2) else { return };
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        let folder = empty();
        let (mut driver, keeper) = start(host, &folder, "eth0", level);
        driver.view(&Arc::new(with(&VIPS[..1])));
        eventually("the address is in place", || says(&keeper, Fitness::Fit, ""));
        gain(&mut driver);
        assert!(answered(neighbour, VIPS[0]));
        host.sysctl("ipv6/conf/eth0/disable_ipv6", "1");
        driver.view(&Arc::new(view()));
        eventually("one is missing", || {
            driver.turn(boot_now());
            let known = keeper.report().vips.get(&VipId::new(1)).cloned().unwrap_or_default();
            assert!(!matches!(known.fitness, Fitness::Unfit(_)), "{level:?}: {}", known.problem);
            assert!(answered(neighbour, VIPS[0]), "{level:?}: {}", known.problem);
            says(&keeper, Fitness::Reluctant(Unfitness::AddressMissing), "IPv6 is switched off")
        });
        let announced = keeper.counters().announced;
        driver.announce_again(boot_now());
        eventually("what is in place is announced", || {
            driver.turn(boot_now());
            keeper.counters().announced > announced
        });
        // The other one is placed as any when it can be.
        host.sysctl("ipv6/conf/eth0/disable_ipv6", "0");
        host.ip("address add 2001:db8::1/64 dev eth0 nodad");
        eventually("it is fit", || {
            driver.turn(boot_now());
            says(&keeper, Fitness::Fit, "")
        });
        let until = boot_now().plus(LONG_NANOS);
        driver.renewed(VipId::new(1), Epoch::new(1), until);
        driver.turn(boot_now());
        assert!(VIPS.iter().all(|vip| answered(neighbour, vip)), "{level:?}");
    }
}

/// The agreed state has a VIP 2 on `eth0`, which the keeper has seen to when this returns.
fn seen_with(host: &Netns, driver: &mut NetlinkDriver, mut view: LeaseView, address: &'static str) {
    let other = LeaseVip {
        id: VipId::new(2),
        name: "db".to_owned(),
        addresses: vec![address.parse().expect("an address")],
        only: None,
        ..view.vips[0].clone()
    };
    view.vips.push(other);
    driver.view(&Arc::new(view));
    eventually("the keeper has seen the change", || {
        driver.turn(boot_now());
        has(host, "eth0", address)
    });
}

#[test]
fn a_vip_stays_where_it_is_held_until_it_was_handed_over_and_finished() {
    let Some(lan) = Lan::new(2) else { return };
    let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
    let mut view = view();
    driver.view(&Arc::new(view.clone()));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    gain(&mut driver);
    // It belongs to another node from now on.
    let successor = NodeId::new(2);
    view.vips[0].only = Some([successor].into());
    view.vips[0].macs.push((successor, Mac::new([2, 0, 0, 0, 0, 2])));
    view.vips[0].finish = LONG_NANOS;
    seen_with(host, &mut driver, view.clone(), "10.0.0.101");
    assert!(VIPS.iter().all(|vip| answered(neighbour, vip)), "nobody has taken it yet");
    let handed_over = |until| Finishing { successor: Some(successor), until };
    let finish = driver.finish_until(VipId::new(1), Some(successor), boot_now()).expect("connections can be kept");
    assert_eq!(driver.released(VipId::new(1), Some(handed_over(finish))), Closing::Closed);
    seen_with(host, &mut driver, view.clone(), "10.0.0.102");
    assert!(VIPS.iter().all(|vip| has(host, "eth0", vip) && !answered(neighbour, vip)), "connections are kept");
    // Again, and it has finished at once.
    gain(&mut driver);
    assert_eq!(driver.released(VipId::new(1), Some(handed_over(boot_now()))), Closing::Closed);
    eventually("they are gone", || !has_any(host));
    // Nor does it come back.
    seen_with(host, &mut driver, view, "10.0.0.103");
    assert!(!has_any(host));
}

/// A neighbour that asks often.
struct Asker {
    index: u32,
    mac: Mac,
    sender: Sender,
    listener: Listener,
}

impl Asker {
    fn new(neighbour: &Netns) -> Self {
        neighbour.run(|| {
            let Interface { index, mac, .. } = Interface::read("eth0").expect("there");
            let (sender, listener) = (Sender::open().expect("opens"), Listener::open(index, Hearing::BeforeFence));
            Self { index, mac: mac.expect("a veth has one"), sender, listener: listener.expect("opens") }
        })
    }

    /// Asks once, and whether somebody answers within a few milliseconds.
    fn is_answered(&mut self, address: &str) -> bool {
        let question = request_frame(ip(address), ip("10.0.0.2"), self.mac).expect("one family");
        self.sender.send(self.index, &question).expect("sends");
        let until = boot_now().plus(5_000_000);
        let mut claims = Vec::new();
        loop {
            // What came while this thread was held up is read all the same.
            let is_over = boot_now() >= until;
            claims.clear();
            self.listener.read(&mut claims).expect("reads");
            if claims.iter().any(|claim| claim.answer && claim.address == ip(address)) {
                return true;
            }
            if is_over {
                return false;
            }
            std::thread::yield_now();
        }
    }
}

/// The right to VIP 1 is renewed for a moment, much shorter than the link is asked for.
fn renew(driver: &mut NetlinkDriver) {
    driver.renewed(VipId::new(1), Epoch::new(1), boot_now().plus(40_000_000));
    driver.turn(boot_now());
}

/// How many questions in a row about the first address were not answered until the new one is in place. The VIP is renewed
/// before each.
fn lost_in_a_row(host: &Netns, driver: &mut NetlinkDriver, asker: &mut Asker) -> u32 {
    let (mut lost, mut worst) = (0, 0);
    eventually("the new one is in place", || {
        renew(driver);
        lost = if asker.is_answered("10.0.0.100") { 0 } else { lost + 1 };
        worst = worst.max(lost);
        has(host, "eth0", "10.0.0.101")
    });
    worst
}

/// Renewed before each question, a VIP is silent only while the keeper has not come to the change, and not for the hundred
/// milliseconds and more after which the former right is over and the link still asked: twenty questions. A machine that
/// stands still meanwhile may make it longer once, and not each time. Nothing where the kernel makes no namespaces.
fn is_silent_for_a_moment_only(change: impl Fn() -> Option<u32>) {
    let mut all: Vec<u32> = Vec::new();
    while !all.iter().any(|worst| *worst <= 8) {
        assert!(all.len() < 5, "{all:?} questions in a row were not answered");
        let Some(worst) = change() else { return };
        all.push(worst);
    }
}

#[test]
fn a_vip_that_lost_an_address_is_renewed_while_the_link_is_asked_for_new_ones() {
    is_silent_for_a_moment_only(|| {
        let lan = Lan::new(2)?;
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        let folder = empty();
        let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
        driver.view(&Arc::new(with(&["10.0.0.100", "10.0.0.200"])));
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        gain(&mut driver);
        assert!(answered(neighbour, "10.0.0.100"));
        renew(&mut driver);
        let mut view = with(&["10.0.0.100"]);
        let other = LeaseVip {
            id: VipId::new(2),
            addresses: vec!["10.0.0.101".parse().expect("an address")],
            ..view.vips[0].clone()
        };
        view.vips.push(other);
        let mut asker = Asker::new(neighbour);
        driver.view(&Arc::new(view));
        let worst = lost_in_a_row(host, &mut driver, &mut asker);
        assert!(!answered(neighbour, "10.0.0.200"));
        Some(worst)
    });
}

#[test]
fn a_vip_that_loses_an_address_while_the_link_is_asked_for_others_is_renewed() {
    is_silent_for_a_moment_only(|| {
        let lan = Lan::new(2)?;
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        let folder = empty();
        let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
        driver.view(&Arc::new(with(&["10.0.0.100", "10.0.0.200"])));
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        gain(&mut driver);
        let mut view = with(&["10.0.0.100", "10.0.0.200"]);
        let addresses = vec!["10.0.0.101".parse().expect("an address")];
        view.vips.push(LeaseVip { id: VipId::new(2), addresses, ..view.vips[0].clone() });
        let wire = raw(neighbour, libc::ETH_P_ARP);
        let mut asker = Asker::new(neighbour);
        driver.view(&Arc::new(view.clone()));
        let mut frame = [0; 64];
        eventually("the link is asked", || (&wire).read(&mut frame).is_ok() && frame[38..42] == [10, 0, 0, 101]);
        // And for a tenth of a second and more from now on, were it not for this.
        view.vips[0].addresses.pop();
        renew(&mut driver);
        driver.view(&Arc::new(view));
        let worst = lost_in_a_row(host, &mut driver, &mut asker);
        assert!(!answered(neighbour, "10.0.0.200"));
        Some(worst)
    });
}

/// A disk that hangs: while this is there whoever opens the file that the keeper's record is written to waits, for three
/// quarters of a minute at most, which is when the kernel breaks a lease of a file.
struct HungDisk(File);

impl HungDisk {
    fn new(folder: &tempfile::TempDir) -> Self {
        let path = folder.path().join("vip-addresses.new");
        drop(File::create(&path).expect("made"));
        let file = File::open(&path).expect("readable");
        // SAFETY: takes numbers only. Whoever breaks the lease sends a signal, of which this is one that does nothing.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) }, 0);
        // SAFETY: takes numbers only. A program that another test starts may have the file open for a moment.
        eventually("it hangs", || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0 });
        Self(file)
    }

    /// Waits until somebody waits for the disk.
    fn is_waited_for(&self) {
        // SAFETY: takes numbers only.
        let lease = || unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) };
        eventually("the disk is waited for", || lease() == libc::F_UNLCK);
    }
}

const F_SETSIG: libc::c_int = 10; // linux/fcntl.h

/// VIP 1, which is held, has `10.0.0.100` alone from now on, and is renewed for long.
fn keeps_only_the_first(driver: &mut NetlinkDriver) {
    driver.view(&Arc::new(with(&["10.0.0.100"])));
    driver.turn(boot_now());
    driver.renewed(VipId::new(1), Epoch::new(1), boot_now().plus(LONG_NANOS));
    driver.turn(boot_now());
}

#[test]
fn an_address_that_a_vip_gained_and_lost_while_the_disk_hung_stays_closed() {
    for (level, was_held) in LEVELS.into_iter().flat_map(|level| [(level, true), (level, false)]) {
        let Some(lan) = Lan::new(2) else { return };
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        let folder = empty();
        let (mut driver, keeper) = start(host, &folder, "eth0", level);
        driver.view(&Arc::new(with(&["10.0.0.100"])));
        eventually("the address is in place", || says(&keeper, Fitness::Fit, ""));
        if was_held {
            gain(&mut driver);
        }
        let disk = HungDisk::new(&folder);
        driver.view(&Arc::new(with(&["10.0.0.100", "10.0.0.101"])));
        disk.is_waited_for();
        driver.turn(boot_now());
        if was_held {
            keeps_only_the_first(&mut driver);
        } else {
            driver.view(&Arc::new(with(&["10.0.0.100"])));
            gain(&mut driver);
        }
        // As the keeper will when the disk is back.
        host.ip("address add 10.0.0.101/32 dev eth0");
        assert!(answered(neighbour, "10.0.0.100"), "{level:?}, held: {was_held}");
        assert!(!answered(neighbour, "10.0.0.101"), "{level:?}, held: {was_held}");
        host.ip("address del 10.0.0.101/32 dev eth0");
        drop(disk);
        seen_with(host, &mut driver, with(&["10.0.0.100"]), "10.0.0.102");
        assert!(!has(host, "eth0", "10.0.0.101"));
        assert!(answered(neighbour, "10.0.0.100"), "{level:?}, held: {was_held}");
    }
}

#[test]
fn an_address_that_a_vip_took_over_and_lost_while_the_disk_hung_stays_closed() {
    for level in LEVELS {
        let Some(lan) = Lan::new(2) else { return };
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        let folder = empty();
        let (mut driver, keeper) = start(host, &folder, "eth0", level);
        seen_with(host, &mut driver, with(&["10.0.0.100"]), "10.0.0.101");
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        gain(&mut driver);
        let disk = HungDisk::new(&folder);
        driver.view(&Arc::new(with(&["10.0.0.100", "10.0.0.101", "10.0.0.102"])));
        disk.is_waited_for();
        keeps_only_the_first(&mut driver);
        assert!(has(host, "eth0", "10.0.0.101"));
        assert!(answered(neighbour, "10.0.0.100") && !answered(neighbour, "10.0.0.101"), "{level:?}");
        drop(disk);
        eventually("it is gone", || !has(host, "eth0", "10.0.0.101"));
        // One that it keeps is opened when it is in its place.
        driver.view(&Arc::new(with(&["10.0.0.100", "10.0.0.103"])));
        eventually("the new one is answered for", || {
            driver.turn(boot_now());
            answered(neighbour, "10.0.0.103")
        });
        assert!(answered(neighbour, "10.0.0.100") && !answered(neighbour, "10.0.0.101"), "{level:?}");
    }
}

#[test]
fn a_vip_that_lost_an_address_while_the_disk_hung_is_left_to_others() {
    for level in LEVELS {
        let Some(lan) = Lan::new(1) else { return };
        let folder = empty();
        let (mut driver, keeper) = start(&lan.hosts[0], &folder, "eth0", level);
        let document = |first: &[&str]| {
            let mut view = with(first);
            let addresses = vec!["10.0.0.110".parse().expect("an address")];
            view.vips.push(LeaseVip { id: VipId::new(2), addresses, ..view.vips[0].clone() });
            Arc::new(view)
        };
        driver.view(&document(&["10.0.0.100", "10.0.0.101"]));
        eventually("both are in place", || [1, 2].iter().all(|vip| says_of(*vip, &keeper, Fitness::Fit, "")));
        gain(&mut driver);
        let disk = HungDisk::new(&folder);
        driver.view(&document(&["10.0.0.100", "10.0.0.101", "10.0.0.102"]));
        disk.is_waited_for();
        // What it keeps is not renewed before the fence was told of what it does not.
        driver.view(&document(&["10.0.0.100"]));
        let closed = Fitness::Unfit(Unfitness::Unattended);
        eventually("it is left to others", || says(&keeper, closed, "since the VIP lost an address"));
        assert!(!says_of(2, &keeper, closed, ""), "{level:?}");
        drop(disk);
        eventually("both are fit", || [1, 2].iter().all(|vip| says_of(*vip, &keeper, Fitness::Fit, "")));
    }
}

#[test]
fn a_vip_that_was_gained_before_a_lost_address_was_closed_is_announced_when_it_is_opened() {
    let Some(lan) = Lan::new(2) else { return };
    let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
    driver.view(&Arc::new(view()));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    // One of the two goes, and where the other is does not change any more from here on.
    host.sysctl("ipv6/conf/eth0/disable_ipv6", "1");
    let one_short = Fitness::Reluctant(Unfitness::AddressMissing);
    eventually("one is missing", || says(&keeper, one_short, "IPv6 is switched off"));
    driver.turn(boot_now());
    let disk = HungDisk::new(&folder);
    driver.view(&Arc::new(with(&[VIPS[0], VIPS[1], "10.0.0.101"])));
    disk.is_waited_for();
    driver.view(&Arc::new(with(&VIPS[..1])));
    gain(&mut driver);
    assert!(!answered(neighbour, VIPS[0]), "the deadline would open what the VIP has lost");
    assert_eq!(keeper.counters().announced, 0);
    drop(disk);
    eventually("it is announced", || {
        driver.turn(boot_now());
        keeper.counters().announced > 0
    });
    assert!(answered(neighbour, VIPS[0]));
}

#[test]
fn an_address_that_is_wanted_no_more_goes_while_the_disk_hangs() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
    driver.view(&Arc::new(with(&["10.0.0.100", "10.0.0.101", "10.0.0.102"])));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    let disk = HungDisk::new(&folder);
    driver.view(&Arc::new(with(&["10.0.0.100", "10.0.0.102/24", "10.0.0.103"])));
    disk.is_waited_for();
    assert!(!has(host, "eth0", "10.0.0.101"), "it is gone");
    assert!(has(host, "eth0", "10.0.0.102"), "it is only to come back in another way");
    assert!(!has(host, "eth0", "10.0.0.103"), "it is not on record");
    drop(disk);
    eventually("the others are in place", || ["102", "103"].iter().all(|n| has(host, "eth0", &format!("10.0.0.{n}"))));
    assert!(!has(host, "eth0", "10.0.0.101"));
    eventually("the record names what is there", || {
        let record = std::fs::read_to_string(Addresses::path(folder.path())).expect("there");
        let lines: Vec<&str> = record.lines().skip(1).collect();
        lines == ["eth0 10.0.0.100/32", "eth0 10.0.0.102/24", "eth0 10.0.0.103/32"]
    });
}

#[test]
fn an_interface_may_come_after_its_node() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = empty();
    let on_eth1 = [("db".to_owned(), "eth1".to_owned())].into();
    let (mut driver, keeper) =
        start_with(host, NetlinkOptions { interfaces: on_eth1, ..options(&folder, "eth0", FenceWish::Ebpf) });
    driver.view(&Arc::new(two()));
    let missing = "no interface eth1 on this machine; there are: lo, ";
    eventually("it is told", || says_of(2, &keeper, Fitness::Unfit(Unfitness::LinkDown), missing));
    eventually("the other VIP is in place", || says(&keeper, Fitness::Fit, ""));
    second_interface(&lan);
    eventually("it is taken", || says_of(2, &keeper, Fitness::Fit, ""));
    assert!(has(host, "eth1", "10.0.1.100"));
    drop((driver, keeper));
    // What can never be right is refused.
    let options = options(&folder, "lo", FenceWish::None);
    let refused = host.run(move || netlink::start(options, Sole::take().expect("no other"), || {}).map(drop));
    assert!(matches!(refused, Err(NetlinkError::Net(NetError::Loopback { .. }))), "{refused:?}");
}

#[test]
fn an_interface_that_is_meant_by_its_network_keeps_its_vips_while_it_has_no_address_there() {
    let Some(lan) = Lan::new(2) else { return };
    let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "10.0.0.0/24", FenceWish::Ebpf);
    driver.view(&Arc::new(view()));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    gain(&mut driver);
    assert!(VIPS.iter().all(|vip| answered(neighbour, vip)));
    // As when a DHCP lease has ended.
    host.ip("address del 10.0.0.1/24 dev eth0");
    let outside = Fitness::Reluctant(Unfitness::AddressMissing);
    let words = "10.0.0.100/32 on eth0: is in no subnet of the interface";
    eventually("it is left to others", || {
        driver.turn(boot_now());
        let known = keeper.report().vips.get(&VipId::new(1)).cloned().unwrap_or_default();
        assert!(!matches!(known.fitness, Fitness::Unfit(_)), "{}", known.problem);
        says(&keeper, outside, words)
    });
    driver.turn(boot_now());
    assert!(VIPS.iter().all(|vip| answered(neighbour, vip)), "and kept while nobody takes it");
    // The next process finds them there.
    drop((driver, keeper));
    let (mut driver, keeper) = start(host, &folder, "10.0.0.0/24", FenceWish::Ebpf);
    driver.view(&Arc::new(view()));
    eventually("it knows where they are", || says(&keeper, outside, words));
    host.ip("address add 10.0.0.1/24 dev eth0");
    eventually("it is fit", || says(&keeper, Fitness::Fit, ""));
    host.ip("link del eth0");
    eventually("it is gone", || says(&keeper, Fitness::Unfit(Unfitness::LinkDown), "no interface 10.0.0.0/24"));
}

#[test]
fn an_interface_where_no_neighbour_hears_of_a_vip_is_none_for_it() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = empty();
    let keeper = keep(host, &folder, FenceWish::Ebpf);
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    host.ip("link add br9 type bridge");
    host.ip("link set eth0 master br9");
    let unfit = Fitness::Unfit(Unfitness::AddressMissing);
    eventually("it names the bridge", || says(&keeper, unfit, "eth0 is a port of br9") && !has_any(host));
    host.ip("link set eth0 nomaster");
    eventually("they are back", || says(&keeper, Fitness::Fit, "") && VIPS.iter().all(|vip| has(host, "eth0", vip)));
    host.ip("link set eth0 arp off");
    eventually("it speaks no ARP", || says(&keeper, unfit, "eth0 speaks no ARP") && !has_any(host));
    host.ip("link set eth0 arp on");
    eventually("they are back", || says(&keeper, Fitness::Fit, "") && VIPS.iter().all(|vip| has(host, "eth0", vip)));
}

/// Whether the host has an address of a VIP anywhere.
fn has_any(host: &Netns) -> bool {
    let there = host.run(|| Interface::all().expect("reads"));
    VIPS.iter().any(|vip| there.iter().any(|on| on.has(ip(vip))))
}

#[test]
fn a_claim_of_a_stranger_is_a_warning_about_a_vip_that_the_node_stays_fit_for() {
    let Some(lan) = Lan::new(2) else { return };
    let folder = empty();
    let keeper = keep(&lan.hosts[0], &folder, FenceWish::None);
    let known = || keeper.report().vips.get(&VipId::new(1)).cloned().unwrap_or_default();
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    assert_eq!((known().fitness, known().warning.as_str()), (Fitness::Fit, ""));
    lan.hosts[1].run(|| {
        let interface = Interface::read("eth0").expect("there");
        let frame = announcement(ip(VIPS[0]), interface.mac.expect("a veth has one"));
        Sender::open().expect("opens").send(interface.index, &frame).expect("sends");
    });
    eventually("the claim is told", || !known().warning.is_empty());
    let VipFitness { fitness, problem, warning } = known();
    assert_eq!((fitness, problem.as_str()), (Fitness::Fit, ""));
    assert!(
        warning.starts_with("02:00:00:00:00:02 claims ") && warning.contains("no node of this cluster"),
        "{warning}"
    );
}

/// Puts an address back in the place of Ballast's own, as a kernel has it that does not say who put it there.
fn unmark(host: &Netns) {
    for (address, flags) in [("10.0.0.100/32", ""), ("2001:db8::100/128", "nodad")] {
        host.ip(&format!("address del {address} dev eth0"));
        host.ip(&format!("address add {address} dev eth0 {flags}"));
    }
}

#[test]
fn an_emptied_data_folder_unfences_no_address() {
    for (level, marked) in LEVELS.into_iter().flat_map(|level| [(level, true), (level, false)]) {
        let Some(lan) = Lan::new(2) else { return };
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        let earlier = empty();
        let keeper = keep(host, &earlier, level);
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        drop(keeper);
        if !marked {
            unmark(host);
        }
        // Before it learns of the VIP, and when it learns that there is it.
        let folder = empty();
        let (mut driver, keeper) = start(host, &folder, "eth0", level);
        assert!(!VIPS.iter().any(|vip| answered(neighbour, vip)), "{level:?}, marked: {marked}");
        driver.view(&Arc::new(view()));
        eventually("it is fit with what it found", || says(&keeper, Fitness::Fit, ""));
        assert!(!VIPS.iter().any(|vip| answered(neighbour, vip)), "{level:?}, marked: {marked}");
        drop((driver, keeper));
        // Or that there is none any more.
        if !marked {
            unmark(host);
        }
        let folder = empty();
        let (mut driver, _keeper) = start(host, &folder, "eth0", level);
        driver.view(&Arc::new(LeaseView { vips: Vec::new(), ..view() }));
        eventually("the addresses are gone", || !VIPS.iter().any(|vip| has(host, "eth0", vip)));
        assert!(has(host, "eth0", "10.0.0.1"));
    }
}

#[test]
fn an_address_is_ours_under_another_name_of_its_interface() {
    for level in LEVELS {
        let Some(lan) = Lan::new(2) else { return };
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        let folder = empty();
        let keeper = keep(host, &folder, level);
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        drop(keeper);
        unmark(host);
        host.ip("link set eth0 name lan0");
        let (mut driver, keeper) = start(host, &folder, "lan0", level);
        driver.view(&Arc::new(view()));
        eventually("it is fit with what it found", || says(&keeper, Fitness::Fit, ""));
        assert!(VIPS.iter().all(|vip| has(host, "lan0", vip)));
        assert!(!VIPS.iter().any(|vip| answered(neighbour, vip)), "{level:?}");
    }
}

#[test]
fn a_node_leaves_without_a_record() {
    for (level, marked) in LEVELS.into_iter().flat_map(|level| [(level, true), (level, false)]) {
        let Some(lan) = Lan::new(1) else { return };
        let host = &lan.hosts[0];
        let folder = empty();
        let keeper = keep(host, &folder, level);
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        drop(keeper);
        if !marked {
            unmark(host);
        }
        let leave = || {
            let folder = empty();
            host.run(move || netlink::leave(folder.path()).expect("leaves"))
        };
        let said = leave();
        assert!(!VIPS.iter().any(|vip| has(host, "eth0", vip)), "{level:?}, marked: {marked}: {said:?}");
        assert_eq!(said.last().map(String::as_str), Some("the fence was removed"));
        assert_eq!(leave(), Vec::<String>::new());
    }
}

#[test]
fn an_address_that_cannot_be_fenced_is_taken_off_until_it_can() {
    let Some(lan) = Lan::new(2) else { return };
    let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
    let folder = empty();
    let keeper = keep(host, &folder, FenceWish::Ebpf);
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    // A qdisc of the older kind has no place for what leaves. The keeper may be there first.
    eventually("it is in the way", || sh(host, "tc qdisc del dev eth0 clsact; tc qdisc add dev eth0 ingress"));
    eventually("the node says so", || {
        says(&keeper, Fitness::Unfit(Unfitness::FenceBreached), "`ingress`")
            && says(&keeper, Fitness::Unfit(Unfitness::FenceBreached), "off their interface")
    });
    assert!(!VIPS.iter().any(|vip| has(host, "eth0", vip) || answered(neighbour, vip)));
    assert_eq!(keeper.counters().addresses_withdrawn, 2);
    drop(keeper);
    // The next process finds it as it is.
    let (path, vip) = (folder.path().to_owned(), VipAddress::host("eth0", ip(VIPS[0])));
    let put = host.run(move || Addresses::open(&path).expect("opens").reconcile(&[vip]).expect("reconciles"));
    assert_eq!(put.changes.len(), 1);
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
    assert!(!has(host, "eth0", VIPS[0]));
    assert!(sh(host, "tc qdisc del dev eth0 ingress"));
    driver.view(&Arc::new(view()));
    eventually("they are back behind the fence", || says(&keeper, Fitness::Fit, ""));
    assert!(VIPS.iter().all(|vip| has(host, "eth0", vip) && !answered(neighbour, vip)));
}

#[test]
fn a_fence_that_is_broken_in_one_place_keeps_a_node_from_the_vips_there_alone() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    second_interface(&lan);
    host.sysctl("ipv4/conf/eth1/arp_ignore", "1");
    let folder = empty();
    let on_eth1 = || NetlinkOptions {
        interfaces: [("db".to_owned(), "eth1".to_owned())].into(),
        ..options(&folder, "eth0", FenceWish::Ebpf)
    };
    let (mut driver, keeper) = start_with(host, on_eth1());
    driver.view(&Arc::new(two()));
    eventually("both are in place", || [1, 2].iter().all(|vip| says_of(*vip, &keeper, Fitness::Fit, "")));
    let broken = |keeper: &KeeperHandle| {
        says_of(2, keeper, Fitness::Unfit(Unfitness::FenceBreached), "off their interface")
            && says_of(1, keeper, Fitness::Reluctant(Unfitness::FenceBreached), "this VIP is fenced all the same")
    };
    eventually("it is in the way", || sh(host, "tc qdisc del dev eth1 clsact; tc qdisc add dev eth1 ingress"));
    eventually("one is off, the other held if nobody is better off", || broken(&keeper));
    assert!(VIPS.iter().all(|vip| has(host, "eth0", vip)) && !has(host, "eth1", "10.0.1.100"));
    // The next process puts in place what it can fence, though nothing was there.
    drop((driver, keeper));
    VIPS.iter().zip([32, 128]).for_each(|(vip, length)| drop(host.ip(&format!("address del {vip}/{length} dev eth0"))));
    let (mut driver, keeper) = start_with(host, on_eth1());
    driver.view(&Arc::new(two()));
    eventually("one is in place behind its fence", || broken(&keeper) && VIPS.iter().all(|vip| has(host, "eth0", vip)));
    assert!(!has(host, "eth1", "10.0.1.100"));
    // A second way to the addresses of the first that is not fenced takes these off too.
    host.sysctl("ipv4/conf/eth1/arp_ignore", "0");
    eventually("the other is off", || says(&keeper, Fitness::Unfit(Unfitness::FenceBreached), "off their interface"));
    assert!(!has(host, "eth0", VIPS[0]) && has(host, "eth0", VIPS[1]));
    assert!(sh(host, "tc qdisc del dev eth1 ingress"));
    eventually("both are fit", || [1, 2].iter().all(|vip| says_of(*vip, &keeper, Fitness::Fit, "")));
}

#[test]
fn a_record_that_cannot_be_written_keeps_a_node_from_no_vip_that_is_in_place() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    second_interface(&lan);
    let folder = empty();
    let on_eth1 = [("db".to_owned(), "eth1".to_owned())].into();
    let (mut driver, keeper) =
        start_with(host, NetlinkOptions { interfaces: on_eth1, ..options(&folder, "eth0", FenceWish::Ebpf) });
    driver.view(&Arc::new(view()));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    // What takes the place of the file that is written before it replaces the record.
    let way = folder.path().join("vip-addresses.new");
    std::fs::create_dir(&way).expect("made");
    driver.view(&Arc::new(two()));
    let missing = "write ";
    eventually("the new one cannot be added", || {
        says_of(2, &keeper, Fitness::Unfit(Unfitness::AddressMissing), missing)
            && says_of(1, &keeper, Fitness::Reluctant(Unfitness::AddressMissing), missing)
    });
    // What somebody takes away is put back: it is on record.
    host.ip("address del 10.0.0.100/32 dev eth0");
    eventually("it is back", || has(host, "eth0", VIPS[0]));
    eventually("the node is as before", || says(&keeper, Fitness::Reluctant(Unfitness::AddressMissing), missing));
    // What is wanted no more goes although something else cannot come.
    let mut one_less = two();
    one_less.vips[0].addresses.pop();
    driver.view(&Arc::new(one_less));
    eventually("it is gone", || !has(host, "eth0", VIPS[1]));
    assert!(has(host, "eth0", VIPS[0]) && !has(host, "eth1", "10.0.1.100"));
    std::fs::remove_dir(&way).expect("removed");
    eventually("both are fit", || [1, 2].iter().all(|vip| says_of(*vip, &keeper, Fitness::Fit, "")));
}

#[test]
fn a_keeper_that_hangs_leaves_vips_to_others() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let folder = empty();
    let options = options(&folder, "eth0", FenceWish::None);
    // The first call that finds a word hangs until another is sent.
    let (hang, hangs) = std::sync::mpsc::channel::<()>();
    let changed = move || {
        if hangs.try_recv().is_ok() {
            let _ = hangs.recv();
        }
    };
    let (mut driver, keeper) =
        host.run(move || netlink::start(options, Sole::take().expect("no other"), changed).expect("starts"));
    // Dropped before the keeper, which would be waited for.
    let hang = hang;
    let show = |driver: &mut NetlinkDriver, mut view: LeaseView| {
        view.vips[0].addresses.truncate(1);
        driver.view(&Arc::new(view));
    };
    show(&mut driver, view());
    eventually("the address is in place", || says(&keeper, Fitness::Fit, ""));
    // A report is seen before it is told, so the call that hangs may be the one about this; the VIP is fit in either.
    hang.send(()).expect("it listens");
    show(&mut driver, two());
    let doubted = Fitness::Reluctant(Unfitness::Unattended);
    eventually("what it found is doubted", || says(&keeper, doubted, "nobody looked after addresses and fence for "));
    hang.send(()).expect("it waits");
    eventually("it looks again", || says(&keeper, Fitness::Fit, ""));
}

#[test]
fn a_fence_that_was_mended_makes_a_node_leave_vips_to_others_and_keep_what_nobody_takes() {
    for (level, harm) in LEVELS.into_iter().zip(["tc filter del dev eth0 egress", "nft flush ruleset"]) {
        let Some(lan) = Lan::new(1) else { return };
        let host = &lan.hosts[0];
        let folder = empty();
        let keeper = keep(host, &folder, level);
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        assert!(sh(host, harm));
        let known = || keeper.report().vips.get(&VipId::new(1)).cloned().unwrap_or_default();
        eventually("the breach is told", || {
            let VipFitness { fitness, problem, .. } = known();
            assert!(!matches!(fitness, Fitness::Unfit(_)), "{level:?}: {problem}");
            fitness == Fitness::Reluctant(Unfitness::FenceBreached) && problem.starts_with("somebody changed the fence")
        });
        eventually("it is over", || says(&keeper, Fitness::Fit, ""));
        assert!(VIPS.iter().all(|vip| has(host, "eth0", vip)));
    }
}

#[test]
fn a_closed_node_is_silent_on_its_other_interfaces_too() {
    for level in LEVELS {
        let Some(lan) = Lan::new(2) else { return };
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        second_interface(&lan);
        host.ip("address add 10.0.0.100/32 dev eth0");
        let own = &["10.0.0.1", "10.0.1.1"];
        eventually("unless told otherwise a kernel answers on both", || {
            interfaces_that_answer(neighbour, own).len() == 2
        });
        host.ip("address del 10.0.0.100/32 dev eth0");
        let folder = empty();
        let keeper = keep(host, &folder, level);
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        assert_eq!(interfaces_that_answer(neighbour, own), BTreeSet::new(), "{level:?}");
        // What goes with its interface is no breach.
        host.ip("link del eth1");
        second_interface(&lan);
        eventually("what came is fenced", || interfaces_that_answer(neighbour, own).is_empty());
        assert_eq!(keeper.counters().breaches, 0, "{level:?}");
        assert!(says(&keeper, Fitness::Fit, ""));
    }
}

/// `vip0` in the place of the first host's `eth0`, which is below it, has its MAC and is fenced: like a VLAN on a device.
fn interface_above(host: &Netns) {
    host.ip("link add vip0 link eth0 type macvlan mode passthru");
    host.sysctl("ipv6/conf/vip0/accept_dad", "0");
    host.ip("address add 10.0.0.11/24 dev vip0");
    host.ip("address add 2001:db8::11/64 dev vip0 nodad");
    host.ip("link set vip0 up");
    eventually("the interface is up", || host.run(|| Interface::read("vip0").expect("there").up));
}

#[test]
fn a_stranger_is_heard_before_the_fence_of_the_interface_below() {
    let Some(lan) = Lan::new(2) else { return };
    let [host, other] = [&lan.hosts[0], &lan.hosts[1]];
    interface_above(host);
    VIPS.iter()
        .zip([32, 128])
        .for_each(|(vip, length)| drop(other.ip(&format!("address add {vip}/{length} dev eth0"))));
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "vip0", FenceWish::Ebpf);
    driver.view(&Arc::new(view()));
    eventually("both are taken", || says(&keeper, Fitness::Unfit(Unfitness::AddressTaken), "answers for "));
    assert!(!has_any(host));
}

#[test]
fn an_owner_that_answers_on_a_second_interface_too_is_no_stranger() {
    let Some(lan) = Lan::new(2) else { return };
    let [owner, host] = [&lan.hosts[0], &lan.hosts[1]];
    second_interface(&lan);
    owner.ip("address add 10.0.0.100/32 dev eth0");
    let mac =
        |name: &'static str| owner.run(move || Interface::read(name).expect("there").mac.expect("a veth has one"));
    let nobodys = Mac::new([2, 0, 0, 0, 0, 9]);
    // Whichever of the two is heard first, in one of these the cluster knows the other.
    for (known, is_member) in [(mac("eth0"), true), (mac("eth1"), true), (nobodys, false)] {
        let folder = empty();
        let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
        let mut view = with(&VIPS[..1]);
        view.vips[0].macs = vec![(NodeId::new(2), known)];
        driver.view(&Arc::new(view));
        let expected = if is_member { Fitness::Fit } else { Fitness::Unfit(Unfitness::AddressTaken) };
        eventually("it is known who answers", || says(&keeper, expected, ""));
        assert_eq!(has(host, "eth0", VIPS[0]), is_member);
        drop((driver, keeper));
        if is_member {
            host.ip("address del 10.0.0.100/32 dev eth0");
        }
    }
}

/// A segment for the first VIP, sent by the third host. Its header's checksum is right: bridges may look at that.
fn segment(tcp: [u8; 20]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0x26, 0x69, 10, 0, 0, 3, 10, 0, 0, 100]);
    frame.extend(tcp);
    frame
}

/// One that opens a connection.
fn syn() -> Vec<u8> {
    segment([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0])
}

/// One of a connection, with its checksum: a kernel that knows no such connection resets it.
fn ack() -> Vec<u8> {
    segment([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0xfe, 0xdb, 0, 0])
}

/// Sees and sends frames of one kind on `eth0`.
fn raw(host: &Netns, ethertype: i32) -> Socket {
    let index = host.run(|| Interface::read("eth0").expect("there").index);
    let protocol = (ethertype as u16).to_be();
    let socket = host.run(move || Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol)))));
    let socket = socket.expect("root may");
    socket.set_nonblocking(true).expect("set");
    // SAFETY: a `sockaddr_ll` is plain numbers, fits into the storage, and its size is what is reported.
    let address = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as libc::sa_family_t;
            address.sll_protocol = protocol;
            address.sll_ifindex = index.cast_signed();
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    };
    socket.bind(&address.expect("plain numbers").1).expect("bound");
    socket
}

#[test]
fn a_connection_that_begins_during_a_move_is_sent_on_from_above_another_interface() {
    let Some(lan) = Lan::new(3) else { return };
    let host = &lan.hosts[0];
    interface_above(host);
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "vip0", FenceWish::Ebpf);
    let mut view = view();
    let successor = NodeId::new(2);
    view.vips[0].macs.push((successor, Mac::new([2, 0, 0, 0, 0, 2])));
    driver.view(&Arc::new(view));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    let (client, at_successor) = (raw(&lan.hosts[2], libc::ETH_P_IP), raw(&lan.hosts[1], libc::ETH_P_IP));
    // What comes later than some tens of milliseconds after a move is not sent on, so there may have to be another one.
    eventually("it comes to the successor", || sent_on(&mut driver, &client, &at_successor, &syn()).is_some());
}

/// What node 2 gets, in a tenth of a second, of a segment that arrives when VIP 1 was just handed over to it.
fn sent_on(driver: &mut NetlinkDriver, client: &Socket, mut at_successor: &Socket, segment: &[u8]) -> Option<[u8; 64]> {
    gain(driver);
    // The fence itself sends nothing on for a time that is over.
    let over = Finishing { successor: Some(NodeId::new(2)), until: boot_now() };
    assert_eq!(driver.released(VipId::new(1), Some(over)), Closing::Closed);
    client.send(segment).expect("sent");
    let (end, mut frame) = (boot_now().plus(100_000_000), [0; 64]);
    while boot_now() < end {
        driver.turn(boot_now());
        let read = at_successor.read(&mut frame);
        if read.is_ok() && frame[..6] == [2, 0, 0, 0, 0, 2] && frame[30..34] == [10, 0, 0, 100] {
            return Some(frame);
        }
        std::thread::yield_now();
    }
    None
}

#[test]
fn a_connection_that_begins_during_a_move_is_sent_on_from_the_mac_that_the_interface_has_now() {
    let Some(lan) = Lan::new(3) else { return };
    let host = &lan.hosts[0];
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
    let mut view = view();
    view.vips[0].macs.push((NodeId::new(2), Mac::new([2, 0, 0, 0, 0, 2])));
    driver.view(&Arc::new(view.clone()));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    host.ip("link set eth0 address 02:00:00:00:00:11");
    seen_with(host, &mut driver, view, "10.0.0.101");
    let (client, at_successor) = (raw(&lan.hosts[2], libc::ETH_P_IP), raw(&lan.hosts[1], libc::ETH_P_IP));
    let mut syn = syn();
    syn[5] = 0x11;
    eventually("it comes to the successor", || {
        let frame = sent_on(&mut driver, &client, &at_successor, &syn);
        frame.inspect(|frame| assert_eq!(frame[6..12], [2, 0, 0, 0, 0, 0x11])).is_some()
    });
}

#[test]
fn an_interface_that_comes_anew_again_and_again_leaves_no_socket_behind() {
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    second_interface(&lan);
    let folder = empty();
    let on_eth1 = [("db".to_owned(), "eth1".to_owned())].into();
    let (mut driver, keeper) =
        start_with(host, NetlinkOptions { interfaces: on_eth1, ..options(&folder, "eth0", FenceWish::Ebpf) });
    driver.view(&Arc::new(two()));
    let both_fit = || [1, 2].iter().all(|vip| says_of(*vip, &keeper, Fitness::Fit, ""));
    eventually("both are in place", both_fit);
    // Those of the namespace; one is open for a moment where an address is asked for.
    let sockets = || {
        let list = host.run(|| std::fs::read_to_string("/proc/thread-self/net/packet"));
        list.expect("the kernel has a list of packet sockets").lines().count()
    };
    let before = sockets();
    for _ in 0..5 {
        host.ip("link del eth1");
        eventually("it is gone", || says_of(2, &keeper, Fitness::Unfit(Unfitness::LinkDown), "no interface eth1"));
        second_interface(&lan);
        eventually("it is back", both_fit);
    }
    eventually("nothing is left", || sockets() <= before);
}

#[test]
fn connections_that_a_former_owner_finishes_are_reset_when_it_is_gone() {
    let Some(lan) = Lan::new(3) else { return };
    let host = &lan.hosts[0];
    let folder = empty();
    let (mut driver, keeper) = start(host, &folder, "eth0", FenceWish::Ebpf);
    let mut view = view();
    let former = NodeId::new(2);
    view.vips[0].macs.push((former, Mac::new([2, 0, 0, 0, 0, 2])));
    view.vips[0].finish = LONG_NANOS;
    driver.view(&Arc::new(view));
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
    let now = boot_now();
    driver.acquired(VipId::new(1), Epoch::new(1), now.plus(LONG_NANOS), Some(former));
    driver.turn(now);
    let (client, at_former) = (raw(&lan.hosts[2], libc::ETH_P_IP), raw(&lan.hosts[1], libc::ETH_P_IP));
    // Reads all that has come so far.
    let hears = |mut socket: &Socket, is: &dyn Fn(&[u8; 64]) -> bool| {
        let (mut frame, mut heard) = ([0; 64], false);
        while socket.read(&mut frame).is_ok() {
            heard |= is(&frame);
        }
        heard
    };
    let is_sent_on = |frame: &[u8; 64]| frame[..6] == [2, 0, 0, 0, 0, 2] && frame[30..34] == [10, 0, 0, 100];
    let is_reset = |frame: &[u8; 64]| frame[26..30] == [10, 0, 0, 100] && frame[23] == 6 && frame[47] & 0x04 != 0;
    // Another one than that is nothing to it.
    driver.peer_gone(NodeId::new(3));
    eventually("it is sent on", || {
        client.send(&ack()).expect("sent");
        hears(&at_former, &is_sent_on)
    });
    assert!(!hears(&client, &is_reset));
    driver.peer_gone(former);
    eventually("it is reset", || {
        client.send(&ack()).expect("sent");
        hears(&client, &is_reset)
    });
}

#[test]
fn a_closed_node_is_silent_on_a_bridge_without_an_address_that_leads_out() {
    for level in LEVELS {
        let Some(lan) = Lan::new(2) else { return };
        let [host, neighbour] = [&lan.hosts[0], &lan.hosts[1]];
        second_interface(&lan);
        // A bridge for guests, on what stands for a device: an end of a pair by itself leads to containers.
        host.ip("address del 10.0.1.1/24 dev eth1");
        host.ip("link add out0 link eth1 type macvlan mode passthru");
        host.ip("link add brvm type bridge mcast_snooping 0 forward_delay 0");
        host.ip("link set out0 master brvm");
        host.ip("link set out0 up");
        host.ip("link set brvm address 02:00:00:00:00:99");
        host.ip("link set brvm up");
        eventually("the bridge is up", || host.run(|| Interface::read("brvm").expect("there").up));
        // What the machine has on no link its kernel says on the bridge alone, so that this is heard after what it says there
        // of the VIP.
        host.sysctl("ipv4/conf/eth0/arp_ignore", "1");
        host.ip("address add 10.0.0.98/32 dev lo");
        let silent = || !interfaces_that_answer(neighbour, &["10.0.0.98"]).contains(&Mac::new([2, 0, 0, 0, 0, 0x99]));
        host.ip("address add 10.0.0.100/32 dev eth0");
        eventually("unless told otherwise a kernel answers on it too", || !silent());
        host.ip("address del 10.0.0.100/32 dev eth0");
        let folder = empty();
        let keeper = keep(host, &folder, level);
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        assert!(silent(), "{level:?}");
    }
}

#[test]
fn an_interface_that_answers_for_all_and_cannot_be_fenced_makes_a_node_unfit() {
    let Some(lan) = Lan::new(2) else { return };
    let host = &lan.hosts[0];
    second_interface(&lan);
    assert!(sh(host, "tc qdisc add dev eth1 ingress"));
    let folder = empty();
    let keeper = keep(host, &folder, FenceWish::Ebpf);
    let unfit = Fitness::Unfit(Unfitness::FenceBreached);
    eventually("it says what to do", || says(&keeper, unfit, "set net.ipv4.conf.eth1.arp_ignore to 1"));
    assert!(!has(host, "eth0", VIPS[0]));
    host.sysctl("ipv4/conf/eth1/arp_ignore", "1");
    eventually("it is fit", || says(&keeper, Fitness::Fit, ""));
    assert!(VIPS.iter().all(|vip| has(host, "eth0", vip)));
    let known = keeper.report().vips.get(&VipId::new(1)).cloned().unwrap_or_default();
    assert!(known.warning.starts_with("eth1 cannot be fenced"), "{}", known.warning);
    // The sysctl is looked at in each round.
    host.sysctl("ipv4/conf/eth1/arp_ignore", "0");
    eventually("it says so again", || says(&keeper, unfit, "eth1") && !has(host, "eth0", VIPS[0]));
    assert!(sh(host, "tc qdisc del dev eth1 ingress"));
    eventually("it is fenced there", || says(&keeper, Fitness::Fit, ""));
}

#[test]
fn a_gateway_that_does_not_answer_is_looked_up_anew() {
    let Some(lan) = Lan::new(2) else { return };
    let host = &lan.hosts[0];
    host.ip("route add default via 10.0.0.9");
    let folder = empty();
    let keeper = keep(host, &folder, FenceWish::None);
    let unreachable = Fitness::Reluctant(Unfitness::GatewayUnreachable);
    eventually("it is missed", || says(&keeper, unreachable, "the gateway 10.0.0.9 does not answer on eth0"));
    host.ip("route replace default via 10.0.0.2");
    eventually("the new one answers", || says(&keeper, Fitness::Fit, ""));
}

#[test]
fn a_second_process_is_refused_until_the_first_has_ended() {
    for level in LEVELS {
        let Some(lan) = Lan::new(1) else { return };
        let host = &lan.hosts[0];
        let (folder, other) = (empty(), empty());
        let keeper = keep(host, &folder, level);
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        let path = other.path().to_owned();
        let refused = host.run(move || {
            let error = Sole::take().map(drop).expect_err("it would undo the first one's fence");
            let left = netlink::leave(&path).expect_err("that would unfence the first");
            [error.to_string(), left.to_string()]
        });
        let words = format!("another ballastd, process {}, carries out VIPs", std::process::id());
        assert!(
            refused.iter().all(|said| said.starts_with(&words) && said.contains("stop one of the two")),
            "{refused:?}"
        );
        assert!(VIPS.iter().all(|vip| has(host, "eth0", vip)));
        assert!(says(&keeper, Fitness::Fit, ""));
        assert_eq!(keeper.counters().breaches, 0, "{level:?}");
        drop(keeper);
        let keeper = keep(host, &other, level);
        eventually("the next one takes its place", || says(&keeper, Fitness::Fit, ""));
    }
}

#[test]
fn a_process_of_a_user_who_could_run_no_node_keeps_no_node_from_vips() {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    };
    let Some(lan) = Lan::new(1) else { return };
    let host = &lan.hosts[0];
    let squat = || {
        std::thread::spawn(|| {
            const NOBODY: libc::uid_t = 65_534;
            // SAFETY: takes numbers only, and concerns the calling thread alone, which ends here.
            let became = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            assert_eq!(became, 0, "root may");
            UnixListener::bind_addr(&SocketAddr::from_abstract_name("ballast-vips").expect("a name")).expect("is free")
        })
        .join()
        .expect("binds")
    };
    let _squatter = host.run(squat);
    let folder = empty();
    let keeper = keep(host, &folder, FenceWish::None);
    eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
}

#[test]
fn an_xdp_program_in_front_of_the_fence_is_a_warning() {
    const PASS: &str = "__attribute__((section(\"xdp\"), used)) int pass(void *context) { return 2; }
                        char _license[] __attribute__((section(\"license\"), used)) = \"GPL\";";
    let folder = empty();
    let (source, object) = (folder.path().join("pass.c"), folder.path().join("pass.o"));
    std::fs::write(&source, PASS).expect("written");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let mut compile = Command::new(clang);
    compile.args(["-O2", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object);
    assert!(compile.status().expect("building this crate needs clang").success());
    for level in LEVELS {
        let Some(lan) = Lan::new(1) else { return };
        let host = &lan.hosts[0];
        let folder = empty();
        let keeper = keep(host, &folder, level);
        let warning =
            || keeper.report().vips.get(&VipId::new(1)).map(|known| known.warning.clone()).unwrap_or_default();
        eventually("the addresses are in place", || says(&keeper, Fitness::Fit, ""));
        assert_eq!(warning(), "");
        let bytes = std::fs::read(&object).expect("compiled");
        let (loaded, id) = host.run(move || {
            let mut loaded = aya::Ebpf::load(&bytes).expect("loads");
            let program: &mut Xdp = loaded.program_mut("pass").expect("there").try_into().expect("of the kind");
            program.load().expect("verified");
            program.attach("eth0", XdpFlags::SKB_MODE).expect("attached");
            let id = program.info().expect("loaded").id();
            (loaded, id)
        });
        let words = format!("XDP program {id} of eth0 runs before the fence");
        eventually("it is told", || warning().starts_with(&words));
        assert!(says(&keeper, Fitness::Fit, ""), "it keeps the node from nothing");
        drop(loaded);
        eventually("it is gone", || warning().is_empty());
    }
}
