//! The driver of VIPs on this machine, and the facts of its interfaces that the cluster is told.
//!
//! Not here: addresses, announcements and the fence (`ballast-vip`), what follows from a node's fitness
//! (`ballast_core::lease`).

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result};
use ballast_core::{
    ids::{NodeId, VipId},
    lease::{Fitness, Unfitness},
    mac::Mac,
    state::NodeRole,
};
use ballast_proxy::{BindVips, Proxy};
use ballast_vip::{
    Driver, FenceWish, ListenerChange, LoopbackDriver,
    netlink::{self, KeeperHandle, NetlinkOptions, Sole},
};
use tokio::sync::Notify;

use crate::bootstrap::{FenceLevel, Vip, VipDriver};

/// The hardware address of an interface; nothing if there is no such interface, or it has none.
pub fn mac(interface: &str) -> Option<Mac> {
    netlink::mac_of(interface).ok().flatten()
}

/// When the data plane binds the listeners of VIPs.
pub const fn bind_vips(vip: &Vip) -> BindVips {
    match vip.driver {
        VipDriver::Loopback => BindVips::WhileHeld,
        VipDriver::Netlink => BindVips::Always,
    }
}

/// Makes sure that no other process carries out VIPs on this machine, where this node does: before it takes part in anything,
/// because their listeners would share what arrives. A node without a data plane holds no VIP.
///
/// # Errors
/// Who does, and what to do.
pub fn claim(vip: &Vip, role: NodeRole) -> Result<Option<Sole>> {
    match (vip.driver, role) {
        (VipDriver::Netlink, NodeRole::Full) => Ok(Some(Sole::take()?)),
        (VipDriver::Netlink, NodeRole::Witness) | (VipDriver::Loopback, _) => Ok(None),
    }
}

/// How VIPs are carried out here.
pub struct Drivers {
    /// For the lease thread.
    pub driver: Box<dyn Driver>,
    /// With the netlink driver: keeps addresses and fence in place.
    pub keeper: Option<KeeperHandle>,
    /// Told when what this node is fit for changed.
    pub changed: Arc<Notify>,
}

impl Drivers {
    /// Starts the driver that `ballastd.toml` names: with the claim that [`claim`] made for it.
    ///
    /// # Errors
    /// What this machine lacks, and what to do.
    pub fn start(
        vip: &Vip,
        node: NodeId,
        data_dir: &Path,
        sole: Option<Sole>,
        proxy: Option<Arc<Proxy>>,
    ) -> Result<Self> {
        let changed = Arc::new(Notify::new());
        match (&vip.interface, sole) {
            (Some(interface), Some(sole)) => {
                let options = NetlinkOptions {
                    node,
                    interface: interface.clone(),
                    interfaces: vip.interfaces.clone(),
                    fence: wish(vip.fence),
                    data_dir: data_dir.to_owned(),
                };
                let told = Arc::clone(&changed);
                let (driver, keeper) = netlink::start(options, sole, move || told.notify_one())
                    .context("cannot carry out VIPs with the netlink driver")?;
                Ok(Self { driver: Box::new(driver), keeper: Some(keeper), changed })
            }
            (Some(_), None) | (None, _) => {
                let driver = LoopbackDriver::new(move |change| match (&proxy, change) {
                    (Some(proxy), ListenerChange::Bind { vip, .. }) => proxy.vip_acquired(vip),
                    (Some(proxy), ListenerChange::Unbind { vip }) => proxy.vip_released(vip),
                    (None, _) => {}
                });
                Ok(Self { driver: Box::new(driver), keeper: None, changed })
            }
        }
    }
}

/// What this node can do about each of `vips`, beside what holds for all: where the keeper has it, and whether its
/// listeners are bound.
pub fn fitness(
    vips: impl Iterator<Item = VipId>,
    keeper: Option<&KeeperHandle>,
    listeners_failed: impl Fn(VipId) -> bool,
) -> BTreeMap<VipId, Fitness> {
    let report = keeper.map(KeeperHandle::report);
    let of = |vip: VipId| {
        let placed = report.as_ref().map_or(Fitness::Fit, |report| {
            report.vips.get(&vip).map_or(Fitness::Unfit(Unfitness::AddressMissing), |known| known.fitness)
        });
        let bound = if listeners_failed(vip) { Fitness::Reluctant(Unfitness::ListenerFailed) } else { Fitness::Fit };
        placed.worse(bound)
    };
    vips.map(|vip| (vip, of(vip))).filter(|(_, fitness)| *fitness != Fitness::Fit).collect()
}

/// Takes what the netlink driver put on this machine's interfaces away. Returns what was done, in words.
///
/// # Errors
/// What could not be removed, and what to do.
pub fn leave(data_dir: &Path) -> Result<Vec<String>> {
    netlink::leave(data_dir).context("cannot take the VIPs off this machine's interfaces")
}

const fn wish(fence: FenceLevel) -> FenceWish {
    match fence {
        FenceLevel::Auto => FenceWish::Auto,
        FenceLevel::Ebpf => FenceWish::Ebpf,
        FenceLevel::Nftables => FenceWish::Nftables,
        FenceLevel::None => FenceWish::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_vip_can_be_there_is_no_mac() {
        assert_eq!(mac("lo"), None);
        assert_eq!(mac("no-such-one"), None);
    }

    #[test]
    fn a_vip_whose_listener_cannot_be_bound_is_held_with_reluctance() {
        let [good, bad] = [1, 2].map(VipId::new);
        let found = fitness([good, bad].into_iter(), None, |vip| vip == bad);
        assert_eq!(found, BTreeMap::from([(bad, Fitness::Reluctant(Unfitness::ListenerFailed))]));
    }
}
