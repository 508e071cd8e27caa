//! All voters replaced, one by one, while a VIP is held: nobody who watches it notices.
//!
//! Six nodes, three of them voters; the VIP is at one that is none. Each voter of the beginning is killed and removed in
//! turn, the cluster promotes another, and when `cluster status` says that all is well it is the next one's turn. In the end none of
//! those by whose promises the VIP was taken is left.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    cluster::Cluster,
    lab::{Host, Lab, Responder, VIP, VIP6},
};

use crate::{
    kernel,
    observer::{self, Observer},
    systems::{self, PORT},
};

const NODES: usize = 6;
/// Longest that it is watched.
const RECORD_MAX: Duration = Duration::from_secs(180);
/// Nobody may be without the VIP for longer: a few questions a millisecond apart, on a machine that is busy.
const NOBODY_MAX_MS: f64 = 20.0;

/// Replaces all voters and judges what the observer saw.
///
/// # Errors
/// When two nodes ever had the VIP, or nobody did for a moment.
pub fn run(fence: &str, lease_ms: u32) -> Result<()> {
    let lab = Arc::new(Lab::new(NODES)?);
    observer::introduce(&lab)?;
    let backend = Responder::start(&lab, Host::Backends, 8000)?;
    let vip = format!("[vip]\ndriver = \"netlink\"\ninterface = \"eth0\"\nfence = \"{fence}\"\n");
    let mut cluster = Cluster::start_in_lab(&lab, &vip)?;
    let owner = NODES - 1;
    let name = cluster.node(owner).name().to_owned();
    cluster.apply(0, &document(lease_ms, &name, &backend.address().to_string()))?;
    let first = cluster.wait_owner("web")?;
    if first != owner {
        cluster.ctl_ok(0, &["vip", "move", "web", "--to", &name, "--wait"])?;
    }

    let observer = Observer::start(&lab, systems::target(), RECORD_MAX)?;
    thread::sleep(Duration::from_millis(500));
    let began = kernel::now_nanos();
    let mut gone = Vec::new();
    let outcome = (0..3).try_for_each(|_| {
        let voter = voter(&cluster, &gone).context("a voter of the beginning")?;
        ensure!(voter != owner, "the owner of the VIP became a voter and is the next in turn");
        cluster.remove(voter)?;
        gone.push(voter);
        cluster.wait_voters(3)?;
        cluster.wait_well()
    });
    let ended = kernel::now_nanos();
    thread::sleep(Duration::from_millis(500));
    let history = observer.finish();
    outcome?;

    let (dual, nobody) = (history.dual(None, began, u64::MAX), history.nobody_ms(began, u64::MAX));
    let seconds = (ended - began) as f64 / 1e9;
    println!(
        "{fence}, lease {lease_ms} ms: three voters killed and replaced in {seconds:.1} s; two owners {:.1} ms (doubtful {:.1}), \
         longest without an owner {nobody:.1} ms",
        dual.ms, dual.doubtful_ms
    );
    ensure!(dual.ms == 0.0, "two nodes had the VIP for {:.1} ms", dual.ms);
    ensure!(nobody <= NOBODY_MAX_MS, "nobody had the VIP for {nobody:.1} ms");
    ensure!(cluster.owner("web") == Some(owner), "the VIP has moved");
    Ok(())
}

/// The next of the first three nodes, which were the first voters, that was not removed yet.
fn voter(cluster: &Cluster, gone: &[usize]) -> Option<usize> {
    (0..3).find(|node| cluster.is_up(*node) && !gone.contains(node))
}

fn document(lease_ms: u32, owner: &str, backend: &str) -> String {
    format!(
        "version: 1\ncluster: {{ lease: {lease_ms}ms }}\nvips:\n  - {{ name: web, addresses: [\"{VIP}\", \"{VIP6}\"], prefer: \
         [{owner}] }}\nfarms:\n  - name: shop\n    listeners: [{{ name: http, vip: web, port: {PORT} }}]\n    services: [{{ name: \
         shop, backends: [{{ name: one, address: \"{backend}\" }}] }}]\n"
    )
}
