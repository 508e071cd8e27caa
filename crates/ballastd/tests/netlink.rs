//! VIPs as real addresses: three nodes on a bridge in namespaces, a client that counts, faults, and an operator.
//!
//! How long things take is measured by `ballast-failover`; here is only what must hold whatever the machine does.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ballast_core::mac::Mac;
use ballast_testkit::{
    client::Client,
    cluster::Cluster,
    lab::{Direction, Host, Lab, Responder},
    wait,
};
use ballast_vip::net::{Hearing, Interface, Listener, Sender, request_frame};

const VIP: &str = "10.77.0.100";
const VIP6: &str = "fd77::100";
const PORT: u16 = 8080;
/// Long enough that no owner loses it because a busy machine stands still for some tenths of a second.
const LEASE: &str = "2s";
const NETLINK: &str = "[vip]\ndriver = \"netlink\"\ninterface = \"eth0\"\n";

struct Site {
    cluster: Cluster,
    lab: Arc<Lab>,
    _shop: Responder,
}

impl Site {
    /// Three nodes that carry one VIP; `None` where the kernel refuses namespaces, which was said.
    fn start(extra: &str) -> Result<Option<Self>> {
        let Some(lab) = Lab::or_skip(3) else { return Ok(None) };
        let lab = Arc::new(lab);
        let shop = Responder::start(&lab, Host::Backends, 8000)?;
        let cluster = Cluster::start_in_lab(&lab, extra)?;
        cluster.apply(0, &document(VIP, &shop.address().to_string()))?;
        cluster.wait_owner("web")?;
        let site = Self { cluster, lab, _shop: shop };
        site.wait_served()?;
        Ok(Some(site))
    }

    /// Who answers a request to the VIP: the backend says which node it came from.
    fn served_by(&self) -> Result<Option<usize>> {
        let answer = self.lab.within(Host::Client, || client().get("/"))?;
        Ok(answer.ok().and_then(|answer| answer.text().trim().parse::<usize>().ok()).map(|number| number - 1))
    }

    fn wait_served(&self) -> Result<usize> {
        wait::until("an answer through the VIP", || self.served_by())
    }

    fn wait_served_by(&self, node: usize) -> Result<()> {
        wait::until(&format!("answers through node {node}"), || Ok((self.served_by()? == Some(node)).then_some(())))
    }

    /// MACs that answer ARP requests for the VIP, asked of everybody for a while.
    fn answerers(&self) -> Result<BTreeSet<Mac>> {
        let ask = || -> Result<BTreeSet<Mac>> {
            let interface = Interface::read("eth0")?;
            let own = interface.mac.context("the lab is Ethernet")?;
            let vip: IpAddr = VIP.parse()?;
            let question = request_frame(vip, Host::Observer.ip().into(), own).context("both are IPv4")?;
            let (sender, mut listener) = (Sender::open()?, Listener::open(interface.index, Hearing::BehindFence)?);
            let mut claims = Vec::new();
            for _ in 0..20 {
                sender.send(interface.index, &question)?;
                let mut fds: Vec<libc::pollfd> =
                    listener.fds().map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
                // SAFETY: the pointer is valid for the call and the count is that of the vector.
                unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 20) };
                listener.read(&mut claims)?;
            }
            Ok(claims.iter().filter(|claim| claim.address == vip && claim.answer).map(|claim| claim.mac).collect())
        };
        self.lab.within(Host::Observer, ask)?
    }

    /// Waits until each node says of itself what is so: that it owns the VIP, or does not.
    fn owner_holds_alone(&self, owner: usize) -> Result<()> {
        wait::until(&format!("node {owner} to hold the VIP alone"), || {
            for node in 0..3 {
                let metrics = self.cluster.metrics(node)?;
                let owns = metrics.get("ballast_vip_owner{vip=\"web\"}").copied().unwrap_or_default();
                ensure!((owns > 0.5) == (node == owner), "node {node} says {owns}, and node {owner} owns the VIP");
            }
            Ok(Some(()))
        })
    }
}

fn client() -> Client {
    Client::new(SocketAddr::new(VIP.parse().expect("an address"), PORT)).host("shop").timeout(Duration::from_secs(2))
}

fn document(vip: &str, backend: &str) -> String {
    format!(
        "version: 1\ncluster: {{ lease: {LEASE} }}\nvips:\n  - {{ name: web, addresses: [\"{vip}\", \"{VIP6}\"] }}\nfarms:\n  - name: shop\n    listeners:\n      \
         - {{ name: http, vip: web, port: {PORT} }}\n    services:\n      - name: shop\n        backends:\n          \
         - {{ name: one, address: \"{backend}\" }}\n"
    )
}

#[test]
fn a_vip_outlives_its_owner_and_moves_without_a_failed_request() -> Result<()> {
    let Some(mut site) = Site::start(NETLINK)? else { return Ok(()) };
    let owner = site.wait_served()?;
    // The addresses are everywhere as soon as a node has learnt of the VIP, and one node answers.
    for node in 0..3 {
        wait::until(&format!("node {node} with both addresses"), || {
            let addresses = site.lab.run(Host::Node(node), &["ip", "address", "show", "dev", "eth0"])?;
            Ok((addresses.contains(VIP) && addresses.contains(VIP6)).then_some(()))
        })?;
    }
    site.owner_holds_alone(owner)?;

    // Planned moves under requests, on fresh connections and on one that is kept.
    let stop = Arc::new(AtomicBool::new(false));
    let load = |keep: bool| {
        let (door, stop) = (site.lab.door(Host::Client)?, Arc::clone(&stop));
        let run = move || -> Result<(usize, usize)> {
            door.enter()?;
            let (mut answered, mut failed) = (0, 0);
            // Who is answered late on a busy machine is answered.
            let patient = || client().timeout(Duration::from_secs(20));
            let mut kept = patient();
            while !stop.load(Ordering::Relaxed) {
                let answer = if keep { kept.get("/") } else { patient().get("/") };
                match answer {
                    Ok(answer) if answer.status == 200 => answered += 1,
                    _ => failed += 1,
                }
            }
            Ok((answered, failed))
        };
        anyhow::Ok(thread::spawn(run))
    };
    let clients = [load(false)?, load(true)?];
    let mut at = owner;
    for _ in 0..3 {
        let to = (at + 1) % 3;
        let name = site.cluster.node(to).name().to_owned();
        // A node that is busy may not say in time that it takes the VIP.
        wait::until(&format!("the VIP to go to {name}"), || {
            site.cluster.ctl_ok(at, &["vip", "move", "web", "--to", &name, "--wait"]).map(Some)
        })?;
        site.wait_served_by(to)?;
        at = to;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (answered, failed) = client.join().expect("a client does not panic")?;
        ensure!(answered > 0 && failed == 0, "{failed} of {} requests failed", answered + failed);
    }
    site.owner_holds_alone(at)?;

    // A crash: the fence of the dead closes by itself, and another node answers alone.
    site.cluster.kill(at);
    let next = wait::until("another owner", || Ok(site.served_by()?.filter(|node| *node != at)))?;
    let macs = site.answerers()?;
    ensure!(macs.len() <= 1, "two nodes answer ARP: {macs:?}");
    // Whoever returns disturbs nobody, and nobody has two owners of it.
    site.cluster.spawn(at)?;
    site.cluster.wait_ready(at)?;
    ensure!(site.served_by()?.is_some());
    let _ = next;
    Ok(())
}

#[test]
fn a_frozen_owner_is_replaced_and_serves_nothing_when_it_wakes() -> Result<()> {
    let Some(site) = Site::start(NETLINK)? else { return Ok(()) };
    let owner = site.wait_served()?;
    site.cluster.pause(owner);
    let next = wait::until("another owner", || Ok(site.served_by()?.filter(|node| *node != owner)))?;
    let macs = site.answerers()?;
    ensure!(macs.len() <= 1, "two nodes answer ARP: {macs:?}");
    site.cluster.resume(owner);
    site.cluster.wait_ready(owner)?;
    ensure!(site.wait_served()? == next, "a node that wakes takes nothing");
    site.owner_holds_alone(next)
}

#[test]
fn a_node_that_is_cut_off_gives_the_vip_up_and_clients_follow_after_the_heal() -> Result<()> {
    let Some(site) = Site::start(NETLINK)? else { return Ok(()) };
    let owner = site.wait_served()?;
    for other in (0..3).filter(|node| *node != owner) {
        site.lab.cut(Host::Node(owner), Host::Node(other), Direction::Both)?;
    }
    let next = wait::until("another owner", || Ok(site.served_by()?.filter(|node| *node != owner)))?;
    site.lab.heal()?;
    site.cluster.wait_ready(owner)?;
    ensure!(site.wait_served()? == next);
    site.owner_holds_alone(next)
}

#[test]
fn whoever_tampers_is_told_of_and_mended() -> Result<()> {
    let Some(site) = Site::start(NETLINK)? else { return Ok(()) };
    let owner = site.wait_served()?;
    // An address that somebody removes comes back.
    site.lab.flush_address(owner, VIP.parse::<IpAddr>()?)?;
    wait::until("the address to come back", || {
        let addresses = site.lab.run(Host::Node(owner), &["ip", "address", "show", "dev", "eth0"])?;
        Ok(addresses.contains(VIP).then_some(()))
    })?;
    site.wait_served()?;
    // A fence that somebody detaches is put back, and the VIP is given up meanwhile.
    let owner = site.wait_served()?;
    site.lab.detach_fence(owner)?;
    wait::until("the breach to be counted", || {
        let breaches = site.cluster.metrics(owner)?.get("ballast_vip_fence_breaches_total").copied();
        Ok(breaches.filter(|count| *count >= 1.0))
    })?;
    wait::until("another owner", || Ok(site.served_by()?.filter(|node| *node != owner)))?;
    wait::until("the fence to be back", || {
        let filters = site.lab.run(Host::Node(owner), &["tc", "filter", "show", "dev", "eth0", "ingress"])?;
        ensure!(filters.contains("ballast"), "{filters}");
        Ok(Some(()))
    })?;
    // The level is shown.
    let nodes = site.cluster.ctl_ok(0, &["node", "list", "-o", "wide"])?;
    ensure!(nodes.contains("FENCE") && nodes.contains("ebpf"), "{nodes}");
    Ok(())
}

#[test]
fn an_address_of_a_stranger_is_refused_with_its_mac() -> Result<()> {
    let Some(site) = Site::start(NETLINK)? else { return Ok(()) };
    let taken = Host::Client.ip().to_string();
    let file = site.cluster.write("taken.yaml", &document(&taken, &site._shop.address().to_string()))?;
    site.cluster.ctl_ok(0, &["apply", "-f", &file])?;
    let mac = Host::Client.mac_text();
    wait::until("the stranger to be named", || {
        let said = site.cluster.ctl_ok(0, &["vip", "list", "-o", "json"])?;
        let log = site.cluster.node(0).log()?;
        ensure!(said.to_lowercase().contains(&mac), "{said}\n{log}");
        Ok(Some(()))
    })?;
    // Those that have not heard of it yet may still hold the VIP at the address that it had.
    wait::until("nobody to own a stranger's address", || {
        Ok((site.cluster.owner("web").is_none() || site.served_by()?.is_none()).then_some(()))
    })
}

#[test]
fn an_owner_that_lost_its_disk_and_joins_again_answers_for_nothing_that_its_kernel_still_has() -> Result<()> {
    let Some(mut site) = Site::start(NETLINK)? else { return Ok(()) };
    let owner = site.wait_served()?;
    site.cluster.kill(owner);
    let other = wait::until("another owner", || Ok(site.served_by()?.filter(|node| *node != owner)))?;
    let lab = Arc::clone(&site.lab);
    let addresses = || lab.run(Host::Node(owner), &["ip", "address", "show", "dev", "eth0"]);
    ensure!(addresses()?.contains(VIP), "a process that was killed leaves the address:\n{}", addresses()?);
    // What an operator is told to do when the data are damaged: remove the node, empty its directory, join it again.
    site.cluster.replace(owner)?;
    wait::until("the new node to know the VIP", || {
        let said = site.cluster.ctl_json(owner, &["vip", "list"])?;
        Ok(said.as_array().is_some_and(|vips| !vips.is_empty()).then_some(()))
    })?;
    for _ in 0..3 {
        let answered = wait::until("an answer to ARP", || Ok(Some(site.answerers()?).filter(|macs| !macs.is_empty())))?;
        ensure!(answered.len() == 1, "{answered:?} answer for the VIP\n{}", addresses()?);
    }
    site.wait_served_by(other)?;
    // It is a candidate like any other.
    wait::until("the new node to be fit for the VIP", || {
        site.cluster.ctl_ok(0, &["vip", "move", "web", "--to", &format!("node-{}", owner + 1)]).map(Some)
    })?;
    site.wait_served_by(owner)
}

#[test]
fn a_node_that_leaves_takes_its_addresses_and_fence_away() -> Result<()> {
    let Some(mut site) = Site::start(NETLINK)? else { return Ok(()) };
    let owner = site.wait_served()?;
    // While the daemon runs, nothing is taken from under it.
    let said = site.cluster.daemon_says(owner, &["leave"])?;
    ensure!(said.code != 0 && said.err.contains("another ballastd uses"), "{}{}", said.out, said.err);
    site.cluster.terminate(owner)?;
    let addresses = site.lab.run(Host::Node(owner), &["ip", "address", "show", "dev", "eth0"])?;
    ensure!(addresses.contains(VIP), "a stop leaves the address, fenced:\n{addresses}");
    site.cluster.daemon_once(owner, &["leave"])?;
    let addresses = site.lab.run(Host::Node(owner), &["ip", "address", "show", "dev", "eth0"])?;
    ensure!(!addresses.contains(VIP) && !addresses.contains(VIP6), "{addresses}");
    let filters =
        site.lab.run(Host::Node(owner), &["tc", "filter", "show", "dev", "eth0", "ingress"]).unwrap_or_default();
    ensure!(!filters.contains("ballast"), "{filters}");
    ensure!(site.wait_served()? != owner);
    Ok(())
}

/// A backend that answers `/slow` when it is let.
fn slow_backend(lab: &Lab) -> Result<(SocketAddr, mpsc::Receiver<()>, mpsc::Sender<()>)> {
    let listener = lab.within(Host::Backends, || TcpListener::bind((Host::Backends.ip(), 0)))??;
    let address = listener.local_addr()?;
    let (asked, was_asked) = mpsc::channel();
    let (let_it, may_answer) = mpsc::channel();
    let may_answer = Arc::new(Mutex::new(may_answer));
    thread::spawn(move || {
        // Until the lab's network is gone with the test.
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (asked, may_answer) = (asked.clone(), Arc::clone(&may_answer));
            thread::spawn(move || -> std::io::Result<()> {
                let mut lines = BufReader::new(&stream).lines();
                while let Some(line) = lines.next() {
                    let slow = line?.contains("/slow");
                    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
                    if slow {
                        // Whoever waits for these has failed already.
                        let _ = asked.send(());
                        let _ = may_answer.lock().map(|gate| gate.recv());
                    }
                    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")?;
                }
                Ok(())
            });
        }
    });
    Ok((address, was_asked, let_it))
}

#[test]
fn a_node_that_ends_finishes_what_clients_have_begun_though_nobody_takes_its_vip() -> Result<()> {
    let Some(mut site) = Site::start(NETLINK)? else { return Ok(()) };
    let (backend, was_asked, let_it) = slow_backend(&site.lab)?;
    let owner = site.wait_served()?;
    site.cluster.apply(owner, &document(VIP, &backend.to_string()))?;
    for other in (0..3).filter(|node| *node != owner) {
        let name = site.cluster.node(other).name().to_owned();
        site.cluster.ctl_ok(owner, &["node", "drain", &name])?;
    }
    let door = site.lab.door(Host::Client)?;
    let slow = thread::spawn(move || -> Result<_> {
        door.enter()?;
        Ok(client().timeout(Duration::from_secs(60)).get("/slow")?)
    });
    was_asked.recv_timeout(Duration::from_secs(60)).context("the request reaches the backend")?;
    let door = site.lab.door(Host::Client)?;
    let watch = thread::spawn(move || -> Result<()> {
        door.enter()?;
        wait::until("the VIP to be served by nobody", || Ok(client().get("/").is_err().then_some(())))?;
        Ok(let_it.send(())?)
    });
    site.cluster.terminate(owner)?;
    watch.join().expect("it does not panic")?;
    let answer = slow.join().expect("it does not panic").context("the request that was under way is answered")?;
    ensure!((answer.status, answer.header("connection")) == (200, Some("close")), "{answer:?}");
    Ok(())
}

#[test]
fn the_nftables_fence_carries_a_vip_too() -> Result<()> {
    let Some(mut site) = Site::start(&format!("{NETLINK}fence = \"nftables\"\n"))? else { return Ok(()) };
    let owner = site.wait_served()?;
    site.owner_holds_alone(owner)?;
    site.cluster.kill(owner);
    wait::until("another owner", || Ok(site.served_by()?.filter(|node| *node != owner)))?;
    ensure!(site.answerers()?.len() <= 1);
    Ok(())
}

#[test]
fn an_interface_that_is_not_there_is_told_at_the_start_and_costs_no_voter() -> Result<()> {
    let Some(lab) = Lab::or_skip(1) else { return Ok(()) };
    let lab = Arc::new(lab);
    let mut cluster = Cluster::start_in_lab(&lab, NETLINK)?;
    cluster.terminate(0)?;
    cluster.edit(0, |text| text.replace("\"eth0\"", "\"eth7\""))?;
    cluster.spawn(0)?;
    cluster.wait_ready(0)?;
    let told = wait::until("the log to tell", || {
        let log = cluster.node(0).log()?;
        Ok(log.lines().find(|line| line.contains("no interface eth7")).map(str::to_owned))
    })?;
    ensure!(told.contains("eth0") && told.contains("vip.interface"), "{told}");
    Ok(())
}

#[test]
fn a_node_whose_address_comes_late_waits_for_it_and_can_be_stopped_meanwhile() -> Result<()> {
    let Some(lab) = Lab::or_skip(1) else { return Ok(()) };
    let lab = Arc::new(lab);
    let mut cluster = Cluster::start_in_lab(&lab, "")?;
    cluster.terminate(0)?;
    let (host, own) = (Host::Node(0), Host::Node(0).ip());
    lab.flush_address(0, own.into())?;
    let told = |cluster: &Cluster, times: usize| {
        wait::until("the log to tell what is waited for", || {
            let log = cluster.node(0).log()?;
            let told = log.lines().filter(|line| line.contains("no interface of this machine has the address of"));
            let told: Vec<_> = told.map(str::to_owned).collect();
            Ok((told.len() == times).then_some(told))
        })
    };
    cluster.spawn(0)?;
    let said = told(&cluster, 1)?;
    ensure!(said[0].contains("listen.cluster") && said[0].contains(&own.to_string()), "{said:?}");
    ensure!(cluster.terminate(0)? == Some(0), "a node that waits ends when it is told to");

    cluster.spawn(0)?;
    told(&cluster, 2)?;
    lab.run(host, &["ip", "address", "add", &format!("{own}/24"), "dev", "eth0"])?;
    cluster.wait_ready(0)
}

#[test]
fn without_the_right_to_fence_the_start_says_what_is_missing() -> Result<()> {
    let Some(lab) = Lab::or_skip(1) else { return Ok(()) };
    let lab = Arc::new(lab);
    let mut cluster = Cluster::start_in_lab(&lab, NETLINK)?;
    cluster.terminate(0)?;
    let daemon = ballast_testkit::cluster::bin_dir()?.join("ballastd");
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-net_admin,-net_raw,-bpf,-sys_admin", "--inh-caps", "-all"])
        .arg(daemon)
        .args(["run", "--config"])
        .arg(cluster.node(0).config());
    let mut process = lab.spawn(Host::Node(0), "unprivileged", command).context("setpriv is part of util-linux")?;
    process.wait();
    let log = process.log();
    ensure!(log.contains("ebpf") && log.contains("nftables"), "{log}");
    Ok(())
}
