//! What the keeper works with for one look, and what it finds wrong about single VIPs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ballast_core::{ids::VipId, lease::Fitness, time::BootNanos};

use super::VipFitness;
use crate::net::{Interface, VipAddress};

/// One VIP of this node, with where it should be.
pub(super) struct Wanted {
    pub vip: VipId,
    pub interface: String,
    pub addresses: Vec<VipAddress>,
}

impl Wanted {
    /// Whether it is announced by ARP.
    pub fn is_v4(&self) -> bool {
        self.addresses.iter().any(|at| at.address.is_ipv4())
    }
}

/// One look: what is there, and what should be.
pub(super) struct Round<'r> {
    pub now: BootNanos,
    pub interfaces: &'r [Interface],
    pub wanted: &'r [Wanted],
    /// Addresses that an earlier round or process put on an interface.
    pub ours: BTreeSet<VipAddress>,
    /// Addresses that this machine has for itself.
    machines: BTreeSet<IpAddr>,
}

impl<'r> Round<'r> {
    pub fn new(now: BootNanos, interfaces: &'r [Interface], wanted: &'r [Wanted], ours: BTreeSet<VipAddress>) -> Self {
        let kept_by_us: BTreeSet<IpAddr> = ours.iter().map(|at| at.address).collect();
        let there = interfaces.iter().flat_map(|on| &on.addresses).map(|held| held.address);
        let machines = there.filter(|address| !kept_by_us.contains(address)).collect();
        Self { now, interfaces, wanted, ours, machines }
    }

    pub fn interface(&self, name: &str) -> Option<&'r Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// Whether this machine has the address for itself. It is not fenced then: that would cut the machine off.
    pub fn foreign(&self, address: IpAddr) -> bool {
        self.machines.contains(&address)
    }
}

/// What is wrong, by VIP: the worst of what was found.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<VipId, VipFitness>);

impl Troubles {
    pub fn add(&mut self, vip: VipId, fitness: Fitness, problem: String) {
        let known = self.0.entry(vip).or_default();
        if known.fitness.worse(fitness) != known.fitness {
            *known = VipFitness { fitness, problem, ..VipFitness::default() };
        }
    }

    /// What was found about a VIP; it is fit if nothing was.
    pub fn take(&mut self, vip: VipId) -> VipFitness {
        self.0.remove(&vip).unwrap_or_default()
    }
}
