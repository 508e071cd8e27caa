//! What a node's kernel lets pass: the fence, as far as leases can see it.
//!
//! Each VIP has a deadline, and each address that is carried out is behind that of its VIP. What is added to a VIP is open
//! at once if the VIP is. What is taken away from one stays open for as long as its deadline lay ahead at that moment: whoever
//! takes it off the interface may come late, but no renewal opens it any further. Closing a VIP closes what it had as well.
//!
//! Not here: when addresses change hands ([`super::documents`]).

use std::{collections::BTreeMap, net::IpAddr};

use crate::{ids::VipId, lease::LeaseVip, time::BootNanos};

/// One node's kernel. Times are on the node's clock.
#[derive(Default)]
pub(super) struct Kernel {
    deadlines: BTreeMap<VipId, u64>,
    behind: BTreeMap<IpAddr, VipId>,
    /// Addresses that were taken away from a VIP, and until when they are open.
    late: Vec<(IpAddr, VipId, u64)>,
}

impl Kernel {
    pub(super) fn carry(&mut self, vips: &[LeaseVip]) {
        let now = vips.iter().flat_map(|vip| vip.addresses.iter().map(|address| (address.ip(), vip.id))).collect();
        let before = std::mem::replace(&mut self.behind, now);
        for (address, vip) in before.into_iter().filter(|(address, vip)| self.behind.get(address) != Some(vip)) {
            self.late.extend(self.deadlines.get(&vip).map(|until| (address, vip, *until)));
        }
    }

    pub(super) fn open(&mut self, vip: VipId, until: u64) {
        self.deadlines.insert(vip, until);
    }

    pub(super) fn close(&mut self, vip: VipId) {
        self.deadlines.remove(&vip);
        self.late.retain(|(_, of, _)| *of != vip);
    }

    /// When a VIP closes by itself.
    pub(super) fn until(&self, vip: VipId) -> Option<BootNanos> {
        self.deadlines.get(&vip).copied().map(BootNanos::new)
    }

    pub(super) fn holds(&self, vip: VipId, now: u64) -> bool {
        self.deadlines.get(&vip).is_some_and(|until| now < *until)
    }

    pub(super) fn passes(&self, address: IpAddr, now: u64) -> bool {
        self.behind.get(&address).is_some_and(|vip| self.holds(*vip, now))
            || self.late.iter().any(|(late, _, until)| *late == address && now < *until)
    }
}
