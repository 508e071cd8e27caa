//! Many nodes, many VIPs: what leases cost at rest, and what one node's death moves.
//!
//! Nine nodes share two hundred addresses. The observer asks for each of them by ARP every
//! [`ROUND`] and takes in announcements; what an owner is follows from who answers. A node is killed
//! with everything in its network: its addresses have to be answered by others within a lease and a bit, spread
//! over all of them, and nobody else's may move.
//!
//! Not here: requests through the VIPs (the fault table and the planned moves have them).

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    cluster::Cluster,
    lab::{Host, Lab, VIP6},
    wait,
};

use crate::{
    kernel,
    observer::{Answer, Asker, Target},
    systems::PORT,
};

/// Time in which each address is asked for once.
const ROUND: Duration = Duration::from_millis(20);
/// How long the cost at rest is measured.
const REST: Duration = Duration::from_secs(10);
/// Watched before a death, and after it.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(1500);
/// Addresses begin here in 10.77.0.0/24, behind those of the hosts.
const FIRST: u8 = 20;

/// The lease thread of a process, and the thread beside it that may wait.
const THREADS: [&str; 2] = ["ballast-lease", "ballast-keeper"];

/// Measures the cost at rest, then kills one node after the other, `kills` times, and starts it again each time.
///
/// # Errors
/// When an address of another node moves, one has two owners, or one is without for longer than a lease and 50 ms.
pub fn run(fence: &str, lease_ms: u32, nodes: usize, vips: u8, kills: u32) -> Result<()> {
    ensure!((1..=200).contains(&vips), "1 to 200 VIPs fit the network of a lab");
    let lab = Arc::new(Lab::new(nodes)?);
    crate::observer::introduce(&lab)?;
    let vip = format!("[vip]\ndriver = \"netlink\"\ninterface = \"eth0\"\nfence = \"{fence}\"\n");
    let mut cluster = Cluster::start_in_lab(&lab, &vip)?;
    cluster.apply(0, &document(lease_ms, vips))?;
    let asker = Asker::new(&lab)?;
    let owners = wait_owners(&lab, &asker, vips)?;

    println!("{nodes} nodes, {vips} VIPs, lease {lease_ms} ms, fence {fence}");
    println!("  VIPs of each: {:?}", counts(owners.values().copied()));
    let before: Vec<_> = (0..nodes).map(|node| costs(&cluster, node)).collect::<Result<_>>()?;
    let began = Instant::now();
    thread::sleep(REST);
    let elapsed = began.elapsed().as_secs_f64();
    for (node, before) in before.iter().enumerate() {
        let share = |name| (costs(&cluster, node).map(|now| now[name] - before[name]).unwrap_or(0.0)) / elapsed * 100.0;
        println!(
            "  node {}: lease thread {:.2} % of a core, keeper {:.2} %",
            node + 1,
            share(THREADS[0]),
            share(THREADS[1])
        );
    }

    let limit = f64::from(lease_ms) + 50.0;
    let mut worst = 0f64;
    for kill in 0..kills {
        crate::go_on()?;
        let victim = kill as usize % nodes;
        let mut killed_at = 0;
        let seen = watch(&lab, &asker, vips, BEFORE + AFTER, || {
            thread::sleep(BEFORE);
            killed_at = kernel::now_nanos();
            lab.kill(&lab.pids(Host::Node(victim)));
            Ok(())
        })?;
        let moved = seen.judge(victim, killed_at)?;
        let outages: Vec<f64> = moved.values().map(|(_, ms)| *ms).collect();
        let longest = outages.iter().copied().fold(0.0, f64::max);
        println!(
            "  node {} killed: {} VIPs moved, to {:?}, longest without an owner {longest:.0} ms",
            victim + 1,
            moved.len(),
            counts(moved.values().map(|(heir, _)| *heir)),
        );
        worst = worst.max(longest);
        cluster.kill(victim);
        cluster.spawn(victim)?;
        cluster.wait_ready(victim)?;
        wait_owners(&lab, &asker, vips)?;
    }
    ensure!(worst <= limit, "a VIP had no owner for {worst:.0} ms, more than {limit:.0} ms");
    Ok(())
}

/// Waits until each VIP has one owner that stays.
fn wait_owners(lab: &Lab, asker: &Asker, vips: u8) -> Result<BTreeMap<u8, usize>> {
    wait::until("an owner of each VIP that stays", || {
        let seen = watch(lab, asker, vips, BEFORE, || Ok(()))?;
        Ok(seen.owners().filter(|owners| owners.len() == usize::from(vips)))
    })
}

/// How often each node is named, by its number from 1.
fn counts(nodes: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    nodes.for_each(|node| *counts.entry(node + 1).or_default() += 1);
    counts
}

fn document(lease_ms: u32, vips: u8) -> String {
    let mut text = format!("version: 1\ncluster: {{ lease: {lease_ms}ms }}\nvips:\n");
    for vip in 0..vips {
        text += &format!("  - {{ name: v{vip}, addresses: [\"{}\"] }}\n", address(vip));
    }
    text + &format!(
        "farms:\n  - name: shop\n    listeners: [{{ name: http, vip: v0, port: {PORT} }}]\n    services: [{{ name: shop, \
         backends: [{{ name: one, address: \"{}:8000\" }}] }}]\n",
        Host::Backends.ip()
    )
}

fn address(vip: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, FIRST + vip)
}

/// Seconds of a core that each of [`THREADS`] of a node has used.
fn costs(cluster: &Cluster, node: usize) -> Result<BTreeMap<&'static str, f64>> {
    let pid = cluster.node(node).pid().context("it runs")?;
    let mut costs = BTreeMap::from(THREADS.map(|name| (name, 0.0)));
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // Other threads come and go.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        let Some(cost) = costs.get_mut(name.trim()) else { continue };
        let used = fs::read_to_string(task.join("schedstat"))?;
        let nanos: f64 = used.split_whitespace().next().context("time on a core")?.parse()?;
        *cost += nanos / 1e9;
    }
    Ok(costs)
}

/// One answer or announcement.
struct Sign {
    vip: u8,
    node: usize,
    at: u64,
    /// The round of the question; none for an announcement.
    round: Option<u32>,
}

/// What was seen of all addresses.
struct Seen {
    signs: Vec<Sign>,
    vips: u8,
}

/// Asks for all addresses for a time, while `meanwhile` runs.
fn watch(lab: &Lab, asker: &Asker, vips: u8, time: Duration, meanwhile: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let signs = thread::scope(|scope| {
        let watching = scope.spawn(|| ask_all(lab, asker, vips, time));
        meanwhile()?;
        Ok::<_, anyhow::Error>(watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(Seen { signs, vips })
}

fn ask_all(lab: &Lab, asker: &Asker, vips: u8, time: Duration) -> Vec<Sign> {
    // Where it may not, answers are stamped a little late.
    let _ = kernel::go_first(20);
    let mut signs = Vec::with_capacity(1 << 16);
    let began = kernel::now_nanos();
    let pause = ROUND.as_nanos() as u64 / u64::from(vips);
    let mut number = 0u64;
    loop {
        let now = kernel::now_nanos();
        if now - began > time.as_nanos() as u64 {
            return signs;
        }
        let due = began + number * pause;
        if now >= due {
            let vip = (number % u64::from(vips)) as u8;
            asker.ask(target(address(vip)), (number / u64::from(vips)) as u32);
            number += 1;
        } else {
            asker.wait(due - now);
        }
        asker.receive(|source, from, answer| {
            let Some(vip) = source.octets()[3].checked_sub(FIRST).filter(|vip| *vip < vips) else { return };
            let Some(node) = (0..lab.nodes()).find(|node| Host::Node(*node).mac() == from) else { return };
            let round = match answer {
                Answer::Arp { tick } => Some(tick),
                Answer::Announcement => None,
                Answer::Ndp { .. } | Answer::Syn { .. } | Answer::Syn6 { .. } => return,
            };
            signs.push(Sign { vip, node, at: kernel::now_nanos(), round });
        });
    }
}

fn target(vip: Ipv4Addr) -> Target {
    Target { vip, vip6: VIP6, port: PORT }
}

impl Seen {
    /// The one node that gave every sign of each address; none if there were two for one.
    fn owners(&self) -> Option<BTreeMap<u8, usize>> {
        let mut owners = BTreeMap::new();
        self.signs.iter().all(|sign| *owners.entry(sign.vip).or_insert(sign.node) == sign.node).then_some(owners)
    }

    /// Who took over each address of a node that was killed, and how long nobody had it, in milliseconds.
    fn judge(&self, victim: usize, killed_at: u64) -> Result<BTreeMap<u8, (usize, f64)>> {
        let mut moved = BTreeMap::new();
        for vip in 0..self.vips {
            let of_vip = || self.signs.iter().filter(|sign| sign.vip == vip);
            let mut rounds = BTreeMap::new();
            for sign in of_vip() {
                if let Some(round) = sign.round {
                    let first = *rounds.entry(round).or_insert(sign.node);
                    ensure!(first == sign.node, "{} had two owners in round {round}", address(vip));
                }
            }
            let owner = of_vip().next().with_context(|| format!("{} had no owner", address(vip)))?.node;
            if owner != victim {
                let other = of_vip().find(|sign| sign.node != owner);
                ensure!(other.is_none(), "{} moved, though its owner lived", address(vip));
                let longest = of_vip().map(|sign| sign.at).collect::<Vec<_>>();
                let gap = longest.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(u64::MAX);
                let gap = Duration::from_nanos(gap);
                ensure!(gap < 5 * ROUND, "{} was silent for {gap:?}, though its owner lived", address(vip));
                continue;
            }
            let heir = of_vip()
                .find(|sign| sign.at > killed_at && sign.node != victim)
                .with_context(|| format!("nobody took {} over", address(vip)))?;
            moved.insert(vip, (heir.node, (heir.at - killed_at) as f64 / 1e6));
        }
        ensure!(!moved.is_empty(), "node {} owned nothing", victim + 1);
        Ok(moved)
    }
}
