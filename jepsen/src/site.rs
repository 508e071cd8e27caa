//! The cluster that is tried: nodes, backends and clients, seen by its public interfaces only.
//!
//! Nodes are processes in a network of namespaces, or the containers of docker-compose.yml. Either way clients, backends and the
//! observer are hosts beside them.
//!
//! Not here: which faults an environment can have (`environment`).

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use ballast_testkit::{
    backend::Backend,
    cluster::Cluster,
    compose::Compose,
    lab::{Door, Guests, Host, Lab, VIP, VIP6},
    observer::{self, Observer, Target, Wire},
    shop::Shop,
};

use crate::{disk, environment::Environment, wall};

/// Port of the shop, on the VIP and on each node.
pub const SHOP_PORT: u16 = 8080;
/// Port of the farm `open`, on each node.
const OPEN_PORT: u16 = 8081;
/// Port of the farm that knows clients by their addresses, on the VIP and on each node.
const ADDRESS_PORT: u16 = 8082;
/// Name of that farm.
pub const ADDRESS_FARM: &str = "addresses";
/// Header by which the farm `open` knows its visitors.
pub const VISITOR: &str = "x-visitor";
/// Port of the session store, on the VIP and on each node.
pub const STORE_PORT: u16 = 6379;
/// Name of the VIP.
pub const VIP_NAME: &str = "public";
/// Cookie by which the shop knows its visitors.
pub const COOKIE: &str = "SHOPID";

/// Name by which buyers ask for the till.
pub const TILL_HOST: &str = "till.test";
/// Backends of the shop; those of the till come after them.
const SHOP_BACKENDS: u16 = 4;

/// What the shipped document says, the witness included.
const COMPOSE_VOTERS: usize = 3;

/// A running cluster. Everything of it ends when it is dropped.
pub struct Site {
    /// The nodes, and after them the members that carry no traffic.
    pub cluster: Cluster,
    /// Where clients are.
    pub guests: Arc<Guests>,
    backends: Backends,
    addresses: Addresses,
    place: Place,
}

/// What nodes run in.
enum Place {
    Namespaces(Arc<Lab>),
    Compose(Compose),
}

/// Who is where.
#[derive(Clone, Debug)]
struct Addresses {
    nodes: Vec<Ipv4Addr>,
    vip: Ipv4Addr,
    vip6: Option<Ipv6Addr>,
    client: Ipv4Addr,
    backends: Ipv4Addr,
}

impl Addresses {
    fn of_lab(nodes: usize) -> Self {
        Self {
            nodes: (0..nodes).map(|node| Host::Node(node).ip()).collect(),
            vip: VIP,
            vip6: Some(VIP6),
            client: Host::Client.ip(),
            backends: Host::Backends.ip(),
        }
    }

    fn of_compose(compose: &Compose) -> Self {
        Self {
            nodes: compose.nodes().iter().map(|node| node.address()).collect(),
            vip: compose.vip(),
            vip6: None,
            client: compose.places().client,
            backends: compose.places().backends,
        }
    }

    /// Has a shop on the VIP, at all addresses that the observer asks for.
    fn on_the_vip(&self, shop: Shop) -> Shop {
        let shop = shop.on_vip((self.vip, SHOP_PORT).into());
        self.vip6.into_iter().fold(shop, |shop, vip6| shop.also_at(vip6.into()))
    }

    /// Whom the observer asks for.
    fn target(&self) -> Target {
        Target { vip: self.vip, vip6: self.vip6.unwrap_or(Ipv6Addr::UNSPECIFIED), port: SHOP_PORT }
    }

    fn everywhere(&self, port: u16) -> Vec<SocketAddr> {
        self.nodes.iter().chain([&self.vip]).map(|ip| SocketAddr::from((*ip, port))).collect()
    }
}

/// Servers of the shop, which are dropped where they live: one that ends knocks at its own door, which is in its network.
struct Backends {
    guests: Arc<Guests>,
    all: Vec<Backend>,
}

impl Backends {
    fn start(guests: &Arc<Guests>, addresses: &Addresses) -> Result<Self> {
        let mut backends = Self { guests: Arc::clone(guests), all: Vec::new() };
        let till = SHOP_BACKENDS..SHOP_BACKENDS + 2;
        for number in 0..till.end {
            let address = SocketAddr::from((addresses.backends, 8001 + number));
            // The till's keep baskets where they outlive them.
            let (name, store) = match till.contains(&number) {
                false => (format!("web{}", number + 1), None),
                true => {
                    (format!("till{}", number + 1 - till.start), Some(SocketAddr::from((addresses.vip, STORE_PORT))))
                }
            };
            let start = || Backend::start_with(&name, address, store);
            let backend = guests.within(Host::Backends, start)?;
            backends.all.push(backend.with_context(|| format!("start a backend at {address}"))?);
        }
        Ok(backends)
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        let all = std::mem::take(&mut self.all);
        let _ = self.guests.within(Host::Backends, move || drop(all));
    }
}

impl Site {
    /// Starts a cluster with the session store, a shop of four backends and one VIP.
    ///
    /// # Errors
    /// When the environment is not to be had here, or a node does not come up.
    pub fn start(environment: Environment, nodes: usize) -> Result<Self> {
        match environment {
            Environment::Namespaces => Self::in_namespaces(nodes),
            Environment::Compose => Self::on_compose(),
        }
    }

    /// Starts so many nodes, all of which vote, in namespaces.
    ///
    /// # Errors
    /// When the kernel refuses namespaces, or a node does not come up.
    pub fn in_namespaces(nodes: usize) -> Result<Self> {
        let lab = Arc::new(Lab::new(nodes)?);
        observer::introduce(&lab)?;
        let (guests, addresses) = (Arc::clone(lab.guests()), Addresses::of_lab(nodes));
        let backends = Backends::start(&guests, &addresses)?;
        // A short log, so that nodes which were away are sent snapshots, too.
        let extra =
            "[vip]\ndriver = \"netlink\"\ninterface = \"eth0\"\n[raft]\nsnapshot_entries = 3000\nkept_entries = 500\n";
        let preload = format!("{} {}", disk::install(lab.folder())?, wall::install(lab.folder())?);
        let cluster = Cluster::start_in_lab_with(&lab, extra, &[("LD_PRELOAD", &preload)])?;
        Self { cluster, guests, backends, addresses, place: Place::Namespaces(lab) }.opened()
    }

    fn on_compose() -> Result<Self> {
        let compose = Compose::up()?;
        let (guests, addresses) = (Arc::clone(compose.guests()), Addresses::of_compose(&compose));
        let backends = Backends::start(&guests, &addresses)?;
        let cluster = Cluster::of_containers(compose.members(), compose.admin())?;
        Self { cluster, guests, backends, addresses, place: Place::Compose(compose) }.opened()
    }

    /// With the suite's document in force.
    fn opened(self) -> Result<Self> {
        self.cluster.apply(0, &self.document("none"))?;
        self.cluster.wait_voters(self.voters())?;
        self.cluster.wait_owner(VIP_NAME)?;
        Ok(self)
    }

    /// Whether a planned move of the VIP ends connections, as it does with the `nftables` fence.
    ///
    /// # Errors
    /// When no node says which fence it has.
    pub fn moves_end_connections(&self) -> Result<bool> {
        let status = self.cluster.ctl_json(0, &["cluster", "status"])?;
        let nodes = status["nodes"].as_array().context("nodes of the cluster")?;
        Ok(nodes.iter().any(|node| node["fence"] == "nftables"))
    }

    /// What lies between nodes, where that can be broken.
    ///
    /// # Errors
    /// Where it cannot, of which no fault is to be planned there.
    pub fn lab(&self) -> Result<&Arc<Lab>> {
        match &self.place {
            Place::Namespaces(lab) => Ok(lab),
            Place::Compose(_) => anyhow::bail!("what lies between containers cannot be broken"),
        }
    }

    /// Sees to it that nobody reaches a node, and that it reaches nobody.
    ///
    /// # Errors
    /// What the environment said.
    pub fn isolate(&self, node: usize) -> Result<()> {
        match &self.place {
            Place::Namespaces(lab) => lab.isolate(Host::Node(node)),
            Place::Compose(compose) => compose.members()[node].disconnect(),
        }
    }

    /// Undoes that, and in a lab all that was cut.
    ///
    /// # Errors
    /// What the environment said.
    pub fn connect(&self, node: usize) -> Result<()> {
        match &self.place {
            Place::Namespaces(lab) => lab.heal(),
            Place::Compose(compose) => compose.members()[node].connect(),
        }
    }

    /// How many vote when all is well.
    pub fn voters(&self) -> usize {
        match self.place {
            Place::Namespaces(_) => self.nodes(),
            Place::Compose(_) => COMPOSE_VOTERS,
        }
    }

    /// Watches from outside who answers for the VIP, for at most so long.
    ///
    /// # Errors
    /// When a raw socket cannot be opened.
    pub fn observe(&self, longest: Duration) -> Result<Observer> {
        let wire = match &self.place {
            Place::Namespaces(lab) => Wire::of_lab(lab)?,
            Place::Compose(compose) => compose.wire()?,
        };
        Observer::start_on(wire, self.addresses.target(), longest)
    }

    /// From where, and at which address, a member's metrics are read.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn metrics(&self, node: usize) -> Result<(Door, SocketAddr)> {
        match &self.place {
            Place::Namespaces(lab) => Ok((lab.door(Host::Node(node))?, self.cluster.node(node).metrics_address())),
            Place::Compose(_) => Ok((self.guests.door(Host::Client)?, self.cluster.node(node).metrics_address())),
        }
    }

    /// A way to learn the ids of a node's processes at any time.
    pub fn processes(&self, node: usize) -> Box<dyn Fn() -> Vec<u32> + Send> {
        match &self.place {
            Place::Namespaces(lab) => {
                let lab = Arc::clone(lab);
                Box::new(move || lab.pids(Host::Node(node)))
            }
            Place::Compose(compose) => {
                let container = Arc::clone(&compose.members()[node]);
                Box::new(move || container.pid().into_iter().collect())
            }
        }
    }

    /// Nodes that ended by themselves and were started again by somebody else than the suite.
    ///
    /// # Errors
    /// When the engine does not say.
    pub fn restarted(&self) -> Result<Vec<String>> {
        let Place::Compose(compose) = &self.place else { return Ok(Vec::new()) };
        let told = compose.members().iter().map(|member| Ok((member.service(), member.restarts()?)));
        let told = told.collect::<Result<Vec<_>>>()?;
        let restarted = told.into_iter().filter(|(_, times)| *times > 0);
        Ok(restarted
            .map(|(service, times)| format!("{service} ended by itself {times} times, and the engine started it again"))
            .collect())
    }

    /// What the environment did not do as told.
    pub fn take_failed(&self) -> Vec<String> {
        match &self.place {
            Place::Namespaces(_) => Vec::new(),
            Place::Compose(compose) => compose.take_failed(),
        }
    }

    /// What all nodes are told, with a note that concerns no request.
    pub fn document(&self, note: &str) -> String {
        let shops = self.shops();
        let shop = (self.addresses)
            .on_the_vip(Shop::new(self.backends()))
            .listen_on_each(&shops[..self.nodes()])
            .cluster(&format!("voters: {}", self.voters()))
            .unused_service(&format!("note-{note}"))
            .other_service(&self.till())
            // By default a node without a leader serves a client that it does not know, and lets it go.
            .farm("isolated: refuse")
            .learned_cookie(COOKIE)
            .checked();
        let others = self.open() + &self.by_address();
        // The store is on every address of a node, of which the VIP is one.
        format!("{}{others}sessions: {{ listen: [\"0.0.0.0:{STORE_PORT}\"], protected: false }}\n", shop.to_yaml())
    }

    /// A farm of the same backends that goes on to serve without a quorum, as farms do by default. It is on no VIP: who comes to
    /// a node of a minority means that node.
    fn open(&self) -> String {
        self.farm("open", &self.on_each("open", OPEN_PORT), "", &format!("header: {VISITOR}"))
    }

    /// A farm of the same backends that knows clients by their addresses.
    fn by_address(&self) -> String {
        let mut listeners = self.on_each("address", ADDRESS_PORT);
        listeners.push(format!("{{ name: address, vip: {VIP_NAME}, port: {ADDRESS_PORT} }}"));
        self.farm(ADDRESS_FARM, &listeners, "    isolated: refuse\n", "source: {}")
    }

    /// A listener on each node, at its own address.
    fn on_each(&self, name: &str, port: u16) -> Vec<String> {
        let listener = |node: usize| {
            let ip = self.addresses.nodes[node];
            format!("{{ name: {name}{0}, address: {ip}, port: {port}, nodes: {{ node: node-{0} }} }}", node + 1)
        };
        (0..self.nodes()).map(listener).collect()
    }

    /// A farm of the shop's backends with a table for such a key, and lines of settings.
    fn farm(&self, name: &str, listeners: &[String], settings: &str, key: &str) -> String {
        let backend = |backend: &Backend| format!("{{ name: {}, address: \"{}\" }}", backend.name(), backend.address());
        let backends: Vec<String> = self.backends().iter().map(backend).collect();
        format!(
            "  - name: {name}\n    listeners: [{}]\n{settings}    services:\n      - name: site\n        \
             persistence: {{ table: {{ key: {{ {key} }} }} }}\n        \
             health: {{ http: {{ path: /healthz }}, interval: 500ms, timeout: 400ms, rise: 2, fall: 3 }}\n        \
             backends: [{}]\n",
            listeners.join(", "),
            backends.join(", ")
        )
    }

    /// Number of nodes that carry traffic.
    pub fn nodes(&self) -> usize {
        self.addresses.nodes.len()
    }

    /// Number of all members: the nodes, and a witness where there is one.
    pub fn members(&self) -> usize {
        self.cluster.len()
    }

    /// Names of all members.
    pub fn names(&self) -> Vec<String> {
        (0..self.members()).map(|member| self.cluster.node(member).name().to_owned()).collect()
    }

    /// The shop's servers.
    pub fn backends(&self) -> &[Backend] {
        &self.backends.all[..usize::from(SHOP_BACKENDS)]
    }

    /// All servers: the shop's, and behind them the till's, which no fault breaks.
    pub fn all_backends(&self) -> &[Backend] {
        &self.backends.all
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

    /// Where the store is: on each node, and last on the VIP.
    pub fn stores(&self) -> Vec<SocketAddr> {
        self.addresses.everywhere(STORE_PORT)
    }

    /// Where the shop is: on each node, and last on the VIP.
    pub fn shops(&self) -> Vec<SocketAddr> {
        self.addresses.everywhere(SHOP_PORT)
    }

    /// The address of a host of clients or backends.
    pub fn address(&self, host: Host) -> Option<Ipv4Addr> {
        match host {
            Host::Client => Some(self.addresses.client),
            Host::Backends => Some(self.addresses.backends),
            Host::Bridge | Host::Node(_) | Host::Observer => None,
        }
    }

    /// Where the farm is that knows clients by their addresses: on each node, and last on the VIP.
    pub fn by_addresses(&self) -> Vec<SocketAddr> {
        self.addresses.everywhere(ADDRESS_PORT)
    }

    /// Where the farm `open` is: on each node.
    pub fn open_pages(&self) -> Vec<SocketAddr> {
        self.addresses.nodes.iter().map(|ip| (*ip, OPEN_PORT).into()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip_of(addresses: &Addresses) -> String {
        let text = addresses.on_the_vip(Shop::new([])).to_yaml();
        let line = text.lines().find(|line| line.contains("addresses:")).expect("a VIP has addresses");
        line.trim().to_owned()
    }

    #[test]
    fn the_vip_of_a_lab_is_in_both_families() {
        let (addresses, target) = (Addresses::of_lab(3), Addresses::of_lab(3).target());
        assert!(vip_of(&addresses).contains(&format!("addresses: [\"{}\", \"{}\"]", target.vip, target.vip6)));
        assert!(Environment::Namespaces.has_ipv6());
    }

    #[test]
    fn where_there_is_no_ipv6_nobody_is_asked_in_it() {
        let addresses = Addresses { vip6: None, ..Addresses::of_lab(3) };
        assert!(addresses.target().vip6.is_unspecified() && !vip_of(&addresses).contains("::"));
        assert!(!Environment::Compose.has_ipv6());
    }
}
