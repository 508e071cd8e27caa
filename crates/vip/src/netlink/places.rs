//! What keeper and driver share.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ballast_clock::boot_now;
use ballast_core::{
    ids::{NodeId, VipId},
    lease::LeaseView,
    time::BootNanos,
};

use super::{Published, Report, keeper::Counts, wake::Wake};
use crate::net::Mac;

/// Where a VIP is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The interface.
    pub interface: u32,
    /// Its MAC.
    pub mac: Mac,
    /// The VIP's addresses that are in place there.
    pub addresses: Vec<IpAddr>,
}

/// By VIP: those that are guarded and on their interface.
pub(super) type Places = BTreeMap<VipId, Place>;

/// What keeper and driver share.
pub(super) struct Shared {
    /// From the driver: the agreed state.
    pub view: ArcSwapOption<LeaseView>,
    /// From the driver: what this node holds.
    pub held: Published<Vec<VipId>>,
    /// From the keeper: where VIPs are.
    pub places: Published<Places>,
    /// From the keeper, for the daemon.
    pub report: Published<Report>,
    /// Counted up by the keeper when everything held should be announced again.
    pub announce: AtomicU64,
    pub counts: Counts,
    pub pace: Pace,
    pub to_keeper: Wake,
    pub to_driver: Wake,
    stopping: AtomicBool,
}

impl Shared {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            view: ArcSwapOption::empty(),
            held: Published::default(),
            places: Published::default(),
            report: Published::default(),
            announce: AtomicU64::new(0),
            counts: Counts::default(),
            pace: Pace::new(boot_now()),
            to_keeper: Wake::new()?,
            to_driver: Wake::new()?,
            stopping: AtomicBool::new(false),
        })
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.to_keeper.wake();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Lets the driver announce everything it holds once more.
    pub fn announce_again(&self) {
        self.announce.fetch_add(1, Ordering::Release);
        self.to_driver.wake();
    }
}

/// How the keeper gets on with its rounds.
pub(super) struct Pace {
    /// When the last whole one ended.
    ended: AtomicU64,
    /// How long it took.
    took: AtomicU64,
}

impl Pace {
    fn new(now: BootNanos) -> Self {
        Self { ended: AtomicU64::new(now.get()), took: AtomicU64::new(0) }
    }

    /// A whole round is over.
    pub fn round(&self, began: BootNanos, ended: BootNanos) {
        self.took.store(ended.since(began), Ordering::Relaxed);
        self.ended.store(ended.get(), Ordering::Release);
    }

    /// For how long the keeper is held up: since it ended a round, or in that round. So whoever is held up in each stays so
    /// between them.
    pub fn held_up(&self, now: BootNanos) -> Duration {
        let since = now.since(BootNanos::new(self.ended.load(Ordering::Acquire)));
        Duration::from_nanos(since.max(self.took.load(Ordering::Relaxed)))
    }
}

/// The MAC that `node` has on the link of `vip`, as the log says.
pub(super) fn mac_of(view: &LeaseView, vip: VipId, node: NodeId) -> Option<Mac> {
    let known = view.vips.iter().find(|known| known.id == vip)?;
    known.macs.iter().find(|(of, _)| *of == node).map(|(_, mac)| *mac)
}
