//! What keeper and driver share.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ballast_clock::boot_now;
use ballast_core::{
    ids::{NodeId, VipId},
    lease::{LeaseView, LeaseVip},
    time::BootNanos,
};

use super::{Published, Report, counts::Counts, wake::Wake};
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

/// VIPs whose place still has an address that the agreed state gives them no more: the keeper has not come to it yet, and
/// whoever moves their deadline on would open that address, too.
pub(super) fn outdated(places: &Places, view: &LeaseView) -> BTreeSet<VipId> {
    let has = gives(view);
    let more = |(vip, place): &(&VipId, &Place)| place.addresses.iter().any(|address| !has(**vip, *address));
    places.iter().filter(more).map(|(vip, _)| *vip).collect()
}

/// The places with those addresses alone that the agreed state gives to their VIPs; nothing if that is all of them.
pub(super) fn without_lost(places: &Places, view: &LeaseView) -> Option<Places> {
    if outdated(places, view).is_empty() {
        return None;
    }
    let (has, mut places) = (gives(view), places.clone());
    places.retain(|vip, place| {
        place.addresses.retain(|address| has(*vip, *address));
        !place.addresses.is_empty()
    });
    Some(places)
}

/// Whether the agreed state gives an address to a VIP.
fn gives(view: &LeaseView) -> impl Fn(VipId, IpAddr) -> bool + '_ {
    let of: BTreeMap<VipId, &LeaseVip> = view.vips.iter().map(|vip| (vip.id, vip)).collect();
    move |vip, address| of.get(&vip).is_some_and(|known| known.addresses.iter().any(|known| known.ip() == address))
}

/// What keeper and driver share.
pub(super) struct Shared {
    /// From the driver: the agreed state.
    pub view: ArcSwapOption<LeaseView>,
    /// From the driver: what this node holds.
    pub held: Published<Vec<VipId>>,
    /// From the driver: what this node handed over, and until when it finishes what clients had begun. Told before `held` is.
    pub finishing: Published<BTreeMap<VipId, BootNanos>>,
    /// From the keeper: where VIPs are.
    pub places: Published<Places>,
    /// From the keeper, for the daemon.
    pub report: Published<Report>,
    /// Counted up by the keeper when everything held should be announced again.
    pub announce: AtomicU64,
    /// From the keeper: addresses that somebody else claims, to be announced once if they are held.
    pub claimed: Published<BTreeSet<IpAddr>>,
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
            finishing: Published::default(),
            places: Published::default(),
            report: Published::default(),
            announce: AtomicU64::new(0),
            claimed: Published::default(),
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

    /// Whether a VIP has lost an address that is in its place by a view that came after this one: its deadline is not moved until
    /// the fence was told.
    pub fn is_overtaken(&self, view: &LeaseView) -> bool {
        let newest = self.view.load();
        let newer = newest.as_deref().filter(|newest| !std::ptr::eq(*newest, view));
        newer.is_some_and(|newer| !outdated(&self.places.load(), newer).is_empty())
    }

    /// Lets the driver announce everything it holds once more.
    pub fn announce_again(&self) {
        self.announce.fetch_add(1, Ordering::Release);
        self.to_driver.wake();
    }

    /// Lets the driver announce an address once more, which somebody else claims.
    pub fn defend(&self, address: IpAddr) {
        self.claimed.rcu(|claimed| claimed.iter().copied().chain([address]).collect::<BTreeSet<_>>());
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

#[cfg(test)]
mod tests {
    use ballast_core::{
        config::Failback,
        ids::EntryId,
        lease::{Epoch, Fitness, LeaseKeys, Timing, VoterSets},
    };

    use super::*;

    #[test]
    fn a_place_with_an_address_that_the_vip_has_lost_is_outdated() {
        let place = |addresses: &[&str]| Place {
            interface: 2,
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
        };
        let vip = |id, addresses: &[&str]| LeaseVip {
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            id: VipId::new(id),
            name: String::new(),
            prefer: Vec::new(),
            failback: Failback::Never,
            failback_delay: 0,
            group: None,
            apart_from: Vec::new(),
            only: None,
            wish: None,
            fitness: Fitness::Fit,
            macs: Vec::new(),
            finish: 0,
            recorded_owner: None,
            recorded_epoch: Epoch::default(),
        };
        let timing = Timing::takeover_within(200_000_000);
        let view = LeaseView {
            cluster: String::new(),
            keys: LeaseKeys::only([0; 32]),
            membership: EntryId::default(),
            voters: VoterSets::default(),
            nodes: Vec::new(),
            vips: vec![vip(1, &["10.0.0.1/24", "10.0.0.2"]), vip(2, &["10.0.0.4"])],
            timing,
            longest: timing,
            catching_up: false,
            granted: timing,
            fitness: Fitness::Fit,
        };
        let places = |places: &[(u32, &[&str])]| -> Places {
            places.iter().map(|(vip, addresses)| (VipId::new(*vip), place(addresses))).collect()
        };
        assert!(outdated(&places(&[(1, &["10.0.0.1"]), (2, &["10.0.0.4"])]), &view).is_empty(), "less is no harm");
        let late = places(&[(1, &["10.0.0.1", "10.0.0.2"]), (2, &["10.0.0.3", "10.0.0.4"]), (3, &["10.0.0.5"])]);
        assert_eq!(outdated(&late, &view), [2, 3].map(VipId::new).into());
        let left = places(&[(1, &["10.0.0.1", "10.0.0.2"]), (2, &["10.0.0.4"])]);
        assert_eq!(without_lost(&late, &view), Some(left.clone()));
        assert_eq!(without_lost(&left, &view), None);
    }
}
