//! What the keeper works with for one look, and what it finds wrong about single VIPs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ballast_core::{
    ids::VipId,
    lease::{Fitness, Unfitness},
    time::BootNanos,
};

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
pub(super) struct Troubles {
    vips: BTreeMap<VipId, VipFitness>,
    /// Addresses that cannot be in place, each with what was found first.
    lacking: BTreeMap<(VipId, IpAddr), (Unfitness, String)>,
}

impl Troubles {
    pub fn add(&mut self, vip: VipId, fitness: Fitness, problem: String) {
        let known = self.vips.entry(vip).or_default();
        if known.fitness.worse(fitness) != known.fitness {
            *known = VipFitness { fitness, problem, ..VipFitness::default() };
        }
    }

    /// One address of the VIP cannot be in place. What follows depends on the others: [`Troubles::weigh`].
    pub fn lacks(&mut self, vip: VipId, address: IpAddr, what: Unfitness, problem: String) {
        self.lacking.entry((vip, address)).or_insert((what, problem));
    }

    /// Weighs which addresses of the VIP are in place, of those that were `put` there, and returns them. While one is, the
    /// node had rather not hold the VIP for want of the others: whatever keeps these from all nodes would else take those
    /// away that work.
    pub fn weigh(&mut self, want: &Wanted, put: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let all = want.addresses.iter().map(|at| at.address);
        let (there, missing): (Vec<_>, Vec<_>) =
            all.partition(|address| put(*address) && !self.lacking.contains_key(&(want.vip, *address)));
        for address in missing {
            let (what, problem) = self
                .lacking
                .remove(&(want.vip, address))
                .unwrap_or_else(|| (Unfitness::AddressMissing, format!("{address} is not on {} yet", want.interface)));
            let fitness = if there.is_empty() { Fitness::Unfit(what) } else { Fitness::Reluctant(what) };
            self.add(want.vip, fitness, problem);
        }
        there
    }

    /// What was found about a VIP; it is fit if nothing was.
    pub fn take(&mut self, vip: VipId) -> VipFitness {
        self.vips.remove(&vip).unwrap_or_default()
    }
}
