//! Ballast: `ballastd` on three nodes, the VIP on `eth0` behind its fence.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use ballast_testkit::{
    backend::Backend,
    cluster::Cluster,
    lab::{Lab, VIP, VIP6},
};

use super::{PORT, Pace, SHOP_PORT, System};
use crate::faults::Fault;

/// A running cluster.
pub struct Ballast {
    cluster: Cluster,
    lab: Arc<Lab>,
}

impl Ballast {
    /// Forms a cluster on the nodes of a lab and gives it the VIP. Clients of `shops`, on a port of their own, are bound by
    /// the cookie that a shop gives them.
    ///
    /// # Errors
    /// When a node does not become ready or the configuration is refused.
    pub fn start(lab: &Arc<Lab>, fence: &str, lease_ms: u32, backend: SocketAddr, shops: &[Backend]) -> Result<Self> {
        let vip = format!("[vip]\ndriver = \"netlink\"\ninterface = \"eth0\"\nfence = \"{fence}\"\n");
        let cluster = Cluster::start_in_lab(lab, &vip)?;
        cluster.apply(0, &document(lease_ms, backend, shops))?;
        cluster.wait_owner("web")?;
        Ok(Self { cluster, lab: Arc::clone(lab) })
    }

    /// A node that runs and is not `node`.
    fn other(&self, node: usize) -> Result<usize> {
        (0..self.cluster.len()).find(|other| *other != node && self.cluster.is_up(*other)).context("no other node runs")
    }
}

impl System for Ballast {
    fn pace(&self) -> Pace {
        Pace { hold: Duration::from_millis(1500), settle: Duration::from_secs(2) }
    }

    fn suffers(&self, fault: Fault) -> bool {
        // One process decides and carries traffic.
        !matches!(fault, Fault::ProxyKilled | Fault::ProxyFrozen)
    }

    fn daemons(&self, node: usize) -> Vec<u32> {
        self.cluster.node(node).pid().into_iter().collect()
    }

    fn proxies(&self, node: usize) -> Vec<u32> {
        self.daemons(node)
    }

    fn move_away(&mut self, from: usize) -> Result<()> {
        let to = self.other(from)?;
        let name = self.cluster.node(to).name().to_owned();
        self.cluster.ctl_ok(to, &["vip", "move", "web", "--to", &name, "--wait"]).map(drop)
    }

    fn revive(&mut self, node: usize) -> Result<()> {
        let runs = self
            .cluster
            .node(node)
            .pid()
            .is_some_and(|pid| self.lab.pids(ballast_testkit::lab::Host::Node(node)).contains(&pid));
        if !runs {
            self.cluster.kill(node);
            self.cluster.spawn(node)?;
        }
        Ok(())
    }

    fn wait_well(&mut self) -> Result<()> {
        (0..self.cluster.len()).try_for_each(|node| self.cluster.wait_ready(node))
    }

    fn leader(&self) -> Result<Option<usize>> {
        self.cluster.wait_leader().map(Some)
    }

    fn last_words(&self) -> String {
        let words = |node| {
            let node = self.cluster.node(node);
            format!("--- {}:\n{}\n", node.name(), super::tail(&node.log().unwrap_or_default(), 12))
        };
        (0..self.cluster.len()).map(words).collect()
    }
}

fn document(lease_ms: u32, backend: SocketAddr, shops: &[Backend]) -> String {
    let mut text = format!(
        "\
version: 1
cluster: {{ lease: {lease_ms}ms }}
vips:
  - {{ name: web, addresses: [\"{VIP}\", \"{VIP6}\"] }}
farms:
  - name: shop
    listeners:
      - {{ name: http, vip: web, port: {PORT} }}
    services:
      - name: shop
        backends:
          - {{ name: one, address: \"{backend}\" }}
"
    );
    if !shops.is_empty() {
        text += &format!(
            "  - name: sticky
    listeners:
      - {{ name: sticky, vip: web, port: {SHOP_PORT} }}
    services:
      - name: sticky
        persistence: {{ table: {{ key: {{ learned_cookie: SHOPID }} }} }}
        backends:
"
        );
    }
    for shop in shops {
        text += &format!("          - {{ name: {}, address: \"{}\" }}\n", shop.name(), shop.address());
    }
    text
}
