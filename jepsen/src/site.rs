//! The cluster that is tried: nodes, backends and clients in a network of namespaces, seen by its public interfaces only.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use ballast_testkit::{
    backend::Backend,
    cluster::Cluster,
    lab::{Host, Lab, VIP, VIP6},
    observer::{self, Target},
    shop::Shop,
};

use crate::{disk, wall};

/// Port of the shop, on the VIP and on each node.
pub const SHOP_PORT: u16 = 8080;
/// Port of the farm `open`, on each node.
const OPEN_PORT: u16 = 8081;
/// Header by which that farm knows its visitors.
pub const VISITOR: &str = "x-visitor";
/// Port of the session store, on the VIP and on each node.
pub const STORE_PORT: u16 = 6379;
/// Name of the VIP.
pub const VIP_NAME: &str = "public";
/// Cookie by which the shop knows its visitors.
pub const COOKIE: &str = "SHOPID";
/// Port of each node's metrics.
pub const METRICS_PORT: u16 = 7402;

/// Name by which buyers ask for the till.
pub const TILL_HOST: &str = "till.test";
/// Backends of the shop; those of the till come after them.
const SHOP_BACKENDS: u16 = 4;

/// A running cluster. Everything of it ends when it is dropped.
pub struct Site {
    /// The nodes.
    pub cluster: Cluster,
    /// What lies between them.
    pub lab: Arc<Lab>,
    backends: Backends,
}

/// Servers of the shop, which are dropped where they live: one that ends knocks at its own door, which is in its network.
struct Backends {
    lab: Arc<Lab>,
    all: Vec<Backend>,
}

impl Backends {
    fn start(lab: &Arc<Lab>) -> Result<Self> {
        let mut backends = Self { lab: Arc::clone(lab), all: Vec::new() };
        let till = SHOP_BACKENDS..SHOP_BACKENDS + 2;
        for number in 0..till.end {
            let address = SocketAddr::from((Host::Backends.ip(), 8001 + number));
            // The till's keep baskets where they outlive them.
            let (name, store) = match till.contains(&number) {
                false => (format!("web{}", number + 1), None),
                true => (format!("till{}", number + 1 - till.start), Some(SocketAddr::from((VIP, STORE_PORT)))),
            };
            let start = || Backend::start_with(&name, address, store);
            let backend = lab.within(Host::Backends, start)?;
            backends.all.push(backend.with_context(|| format!("start a backend at {address}"))?);
        }
        Ok(backends)
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        let all = std::mem::take(&mut self.all);
        let _ = self.lab.within(Host::Backends, move || drop(all));
    }
}

impl Site {
    /// Starts so many nodes, all of which vote, with the session store, a shop of four backends and one VIP.
    ///
    /// # Errors
    /// When the kernel refuses namespaces, or a node does not come up.
    pub fn start(nodes: usize, settings: &str) -> Result<Self> {
        let lab = Arc::new(Lab::new(nodes)?);
        observer::introduce(&lab)?;
        let backends = Backends::start(&lab)?;
        // A short log, so that nodes which were away are sent snapshots, too.
        let extra = format!(
            "[vip]\ndriver = \"netlink\"\ninterface = \"eth0\"\n[raft]\nsnapshot_entries = 3000\nkept_entries = 500\n{settings}"
        );
        let preload = format!("{} {}", disk::install(lab.folder())?, wall::install(lab.folder())?);
        let cluster = Cluster::start_in_lab_with(&lab, &extra, &[("LD_PRELOAD", &preload)])?;
        let site = Self { cluster, lab, backends };
        site.cluster.apply(0, &site.document("none"))?;
        site.cluster.wait_voters(nodes)?;
        site.cluster.wait_owner(VIP_NAME)?;
        Ok(site)
    }

    /// What all nodes are told, with a note that concerns no request.
    pub fn document(&self, note: &str) -> String {
        let nodes: Vec<SocketAddr> =
            (0..self.cluster.len()).map(|node| (Host::Node(node).ip(), SHOP_PORT).into()).collect();
        let shop = on_the_vip(Shop::new(self.backends()))
            .listen_on_each(&nodes)
            .cluster(&format!("voters: {}", self.cluster.len()))
            .unused_service(&format!("note-{note}"))
            .other_service(&self.till())
            // By default a node without a leader serves a client that it does not know, and lets it go.
            .farm("isolated: refuse")
            .learned_cookie(COOKIE)
            .checked();
        let open = self.open();
        // The store is on every address of a node, of which the VIP is one.
        format!("{}{open}sessions: {{ listen: [\"0.0.0.0:{STORE_PORT}\"], protected: false }}\n", shop.to_yaml())
    }

    /// A farm of the same backends that goes on to serve without a quorum, as farms do by default. It is on no VIP: who comes to
    /// a node of a minority means that node.
    fn open(&self) -> String {
        let listener = |node: usize| {
            let ip = Host::Node(node).ip();
            format!("{{ name: open{0}, address: {ip}, port: {OPEN_PORT}, nodes: {{ node: node-{0} }} }}", node + 1)
        };
        let listeners: Vec<String> = (0..self.nodes()).map(listener).collect();
        let backend = |backend: &Backend| format!("{{ name: {}, address: \"{}\" }}", backend.name(), backend.address());
        let backends: Vec<String> = self.backends().iter().map(backend).collect();
        format!(
            "  - name: open\n    listeners: [{}]\n    services:\n      - name: site\n        \
             persistence: {{ table: {{ key: {{ header: {VISITOR} }} }} }}\n        \
             health: {{ http: {{ path: /healthz }}, interval: 500ms, timeout: 400ms, rise: 2, fall: 3 }}\n        \
             backends: [{}]\n",
            listeners.join(", "),
            backends.join(", ")
        )
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.cluster.len()
    }

    /// The shop's servers.
    pub fn backends(&self) -> &[Backend] {
        &self.backends.all[..usize::from(SHOP_BACKENDS)]
    }

    fn till(&self) -> String {
        let till = &self.backends.all[usize::from(SHOP_BACKENDS)..];
        let backend = |backend: &Backend| format!("{{ name: {}, address: \"{}\" }}", backend.name(), backend.address());
        format!(
            "{{ name: till, match: {{ hosts: [{TILL_HOST}] }}, persistence: {{ cookie: {{}} }}, \
             health: {{ http: {{ path: /healthz }}, interval: 200ms, timeout: 150ms, rise: 2, fall: 3 }}, backends: [{}] }}",
            till.iter().map(backend).collect::<Vec<_>>().join(", ")
        )
    }

    /// Whom the observer asks for.
    pub fn target() -> Target {
        Target { vip: VIP, vip6: VIP6, port: SHOP_PORT }
    }

    /// Where the store is: on each node, and last on the VIP.
    pub fn stores(&self) -> Vec<SocketAddr> {
        self.everywhere(STORE_PORT)
    }

    /// Where the shop is: on each node, and last on the VIP.
    pub fn shops(&self) -> Vec<SocketAddr> {
        self.everywhere(SHOP_PORT)
    }

    /// Where the farm `open` is: on each node.
    pub fn open_pages(&self) -> Vec<SocketAddr> {
        (0..self.nodes()).map(|node| (Host::Node(node).ip(), OPEN_PORT).into()).collect()
    }

    fn everywhere(&self, port: u16) -> Vec<SocketAddr> {
        let nodes = (0..self.nodes()).map(|node| Host::Node(node).ip());
        nodes.chain([VIP]).map(|ip| SocketAddr::from((ip, port))).collect()
    }
}

/// Has it at all addresses that the observer asks for.
fn on_the_vip(shop: Shop) -> Shop {
    shop.on_vip((VIP, SHOP_PORT).into()).also_at(VIP6.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vip_of_a_run_is_in_both_families() {
        let (text, target) = (on_the_vip(Shop::new([])).to_yaml(), Site::target());
        let addresses = format!("addresses: [\"{}\", \"{}\"]", target.vip, target.vip6);
        assert!(text.contains(&addresses), "{text}");
    }
}
