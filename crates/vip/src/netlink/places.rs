//! What keeper and driver share.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ballast_clock::boot_now;
use ballast_core::{
    ids::{NodeId, VipId},
    lease::{LeaseView, LeaseVip},
    time::BootNanos,
};
use parking_lot::Mutex;

use super::{Published, Report, capture::Tap, counts::Counts, wake::Wake};
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

/// By VIP, the addresses that its deadline may open: the fence guards them under that VIP, or may do so any moment. Each that is
/// in its VIP's place is among them.
pub(super) type Opens = BTreeSet<(VipId, IpAddr)>;

/// VIPs whose deadline may open an address that the agreed state gives them no more: the keeper has not come to it yet.
fn outdated(opens: &Opens, view: &LeaseView) -> BTreeSet<VipId> {
    let has = gives(view);
    opens.iter().filter(|(vip, address)| !has(*vip, *address)).map(|(vip, _)| *vip).collect()
}

/// The places with those addresses alone that their VIPs' deadlines may open.
pub(super) fn open_only(mut places: Places, opens: &Opens) -> Places {
    places.retain(|vip, place| {
        place.addresses.retain(|address| opens.contains(&(*vip, *address)));
        !place.addresses.is_empty()
    });
    places
}

/// Whether the agreed state gives an address to a VIP.
fn gives(view: &LeaseView) -> impl Fn(VipId, IpAddr) -> bool + '_ {
    let of: BTreeMap<VipId, &LeaseVip> = view.vips.iter().map(|vip| (vip.id, vip)).collect();
    move |vip, address| of.get(&vip).is_some_and(|known| known.addresses.iter().any(|known| known.ip() == address))
}

/// What keeper and driver share.
pub(super) struct Shared {
    /// From the driver: the agreed state. Stored by [`Shared::take_view`].
    pub view: ArcSwapOption<LeaseView>,
    /// From the driver: what this node holds.
    pub held: Published<Vec<VipId>>,
    /// From the driver: what this node handed over, and until when it finishes what clients had begun. Told before `held` is.
    pub finishing: Published<BTreeMap<VipId, BootNanos>>,
    /// From the keeper: where VIPs are.
    pub places: Published<Places>,
    /// From the keeper: what their deadlines may open. More is stored by [`Shared::may_open`], less once the fence was told.
    pub opens: Published<Opens>,
    /// From the keeper, for the daemon.
    pub report: Published<Report>,
    /// Counted up by the keeper when everything held should be announced again.
    pub announce: AtomicU64,
    /// From the keeper: addresses that somebody else claims, to be announced once if they are held.
    pub claimed: Published<BTreeSet<IpAddr>>,
    /// From the keeper, by interface: taps that nothing was captured with yet. It closes them, which waits for the kernel, when it
    /// has taken them out, and the driver does without one while the keeper is at it.
    pub taps: Mutex<BTreeMap<u32, Tap>>,
    pub counts: Counts,
    pub pace: Pace,
    /// From the driver: since when there are deadlines that have to stay as they are until the keeper has come to them; zero
    /// while there is none.
    waits_since: AtomicU64,
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
            opens: Published::default(),
            report: Published::default(),
            announce: AtomicU64::new(0),
            claimed: Published::default(),
            taps: Mutex::default(),
            counts: Counts::default(),
            pace: Pace::new(boot_now()),
            waits_since: AtomicU64::new(0),
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

    /// Whether a VIP has lost an address that its deadline may open by a view that came after this one: that deadline is not moved
    /// until the fence was told.
    pub fn is_overtaken(&self, view: &LeaseView) -> bool {
        let newest = self.view.load();
        let newer = newest.as_deref().filter(|newest| !std::ptr::eq(*newest, view));
        newer.is_some_and(|newer| !outdated(&self.opens.load(), newer).is_empty())
    }

    /// For the driver, before it moves any deadline by this view. See [`Shared::may_open`].
    pub fn take_view(&self, view: &Arc<LeaseView>) {
        self.view.store(Some(Arc::clone(view)));
        fence(Ordering::SeqCst);
    }

    /// VIPs whose deadline must stay as it is, by the view that was taken last.
    pub fn outdated(&self) -> BTreeSet<VipId> {
        self.view.load().as_deref().map(|view| outdated(&self.opens.load(), view)).unwrap_or_default()
    }

    /// For the driver: whether there are such.
    pub fn wait(&self, some: bool, now: BootNanos) {
        let since = self.waits_since.load(Ordering::Relaxed);
        if !some {
            self.waits_since.store(0, Ordering::Relaxed);
        } else if since == 0 {
            self.waits_since.store(now.get(), Ordering::Relaxed);
        }
    }

    /// VIPs whose deadline must stay as it is, if there have been such for that long.
    pub fn waiting_for(&self, longest: Duration, now: BootNanos) -> BTreeSet<VipId> {
        let since = self.waits_since.load(Ordering::Relaxed);
        let waited = Duration::from_nanos(now.since(BootNanos::new(since)));
        if since != 0 && waited >= longest { self.outdated() } else { BTreeSet::new() }
    }

    /// For the keeper: which of these addresses, each on its interface and guarded as nobody's by now, the fence may guard under
    /// these VIPs.
    ///
    /// The keeper's view may be old: it asks the link and waits for the disk between reading it and having the address in
    /// place. The VIP may have lost the address meanwhile, another node may own it, and this one goes on renewing the rest of
    /// the VIP, whose deadline opens all that is guarded under it. So the keeper first says what it is about to open and looks
    /// at the newest view then, and the driver stores a view first and looks at what may be opened then. Whichever comes
    /// second sees the other, as both have a fence between the two steps:
    /// - The keeper sees that the VIP has lost the address: it stays nobody's, however the VIP is renewed.
    /// - The driver sees that the address may be opened, and the view gives it to the VIP no more: the deadline stays as
    ///   it is until the address is taken out of [`Shared::opens`], which is after the fence guards it no more. Until when it
    ///   stands was granted while the VIP had the address, so whoever promised it promises it to nobody else before.
    ///   It may be mapped as late as it likes. A VIP that is gained in that state is not opened.
    ///
    /// A view between the two that was neither seen is no harm: the one that the keeper saw came later, and by that one the
    /// driver opens nothing that was not granted. With nftables it is the same, as what a renewal opens is looked up when
    /// it is sent.
    pub fn may_open(&self, fresh: Opens) -> Opens {
        let before = self.opens.load_full();
        self.opens.store(Arc::new(before.union(&fresh).copied().collect()));
        fence(Ordering::SeqCst);
        let newest = self.view.load();
        let has = newest.as_deref().map(gives);
        let given = |(vip, address): &(VipId, IpAddr)| has.as_ref().is_some_and(|has| has(*vip, *address));
        let (may, lost): (Opens, Opens) = fresh.into_iter().partition(given);
        if !lost.is_empty() {
            self.open_no_more(before.union(&may).copied().collect());
        }
        may
    }

    /// Only these may be opened from now on: the fence guards no others under these VIPs.
    pub fn open_no_more(&self, opens: Opens) {
        if **self.opens.load() != opens {
            self.opens.store(Arc::new(opens));
            self.to_driver.wake();
        }
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

    /// The agreed state with these addresses of VIPs.
    fn view(vips: &[(u32, &[&str])]) -> Arc<LeaseView> {
        let vip = |(id, addresses): &(u32, &[&str])| LeaseVip {
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            id: VipId::new(*id),
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
        Arc::new(LeaseView {
            cluster: String::new(),
            keys: LeaseKeys::only([0; 32]),
            membership: EntryId::default(),
            voters: VoterSets::default(),
            nodes: Vec::new(),
            vips: vips.iter().map(vip).collect(),
            timing,
            longest: timing,
            catching_up: false,
            granted: timing,
            fitness: Fitness::Fit,
        })
    }

    fn opens(of: &[(u32, &str)]) -> Opens {
        of.iter().map(|(vip, address)| (VipId::new(*vip), address.parse().expect("an address"))).collect()
    }

    #[test]
    fn a_deadline_that_would_open_an_address_that_its_vip_has_lost_is_outdated() {
        let view = view(&[(1, &["10.0.0.1/24", "10.0.0.2"]), (2, &["10.0.0.4"])]);
        assert!(outdated(&opens(&[(1, "10.0.0.1"), (2, "10.0.0.4")]), &view).is_empty(), "less is no harm");
        let late = [(1, "10.0.0.1"), (1, "10.0.0.2"), (2, "10.0.0.3"), (2, "10.0.0.4"), (3, "10.0.0.5")];
        assert_eq!(outdated(&opens(&late), &view), [2, 3].map(VipId::new).into());
    }

    #[test]
    fn a_place_has_only_what_may_be_opened() {
        let places = |places: &[(u32, &[&str])]| -> Places {
            let place = |addresses: &[&str]| Place {
                interface: 2,
                mac: Mac::new([2, 0, 0, 0, 0, 1]),
                addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            };
            places.iter().map(|(vip, addresses)| (VipId::new(*vip), place(addresses))).collect()
        };
        let all = places(&[(1, &["10.0.0.1", "10.0.0.2"]), (2, &["10.0.0.3"])]);
        let left = open_only(all, &opens(&[(1, "10.0.0.2"), (2, "10.0.0.2")]));
        assert_eq!(left, places(&[(1, &["10.0.0.2"])]));
    }

    #[test]
    fn an_address_that_was_lost_before_it_is_opened_is_not_opened() {
        let shared = Shared::new().expect("descriptors");
        let (one, new) = (opens(&[(1, "10.0.0.1")]), opens(&[(1, "10.0.0.2"), (2, "10.0.0.3")]));
        assert_eq!(shared.may_open(new.clone()), Opens::new(), "nothing is agreed yet");
        shared.take_view(&view(&[(1, &["10.0.0.1", "10.0.0.2"]), (2, &["10.0.0.3"])]));
        assert_eq!(shared.may_open(one.clone()), one);
        assert!(shared.to_driver.woken());
        shared.take_view(&view(&[(1, &["10.0.0.1"]), (2, &["10.0.0.3"])]));
        assert_eq!(shared.may_open(new), opens(&[(2, "10.0.0.3")]));
        assert!(shared.outdated().is_empty(), "what it has left is renewed");
        assert!(shared.to_driver.woken(), "which may have looked meanwhile");
        assert_eq!(**shared.opens.load(), opens(&[(1, "10.0.0.1"), (2, "10.0.0.3")]));
    }

    #[test]
    fn a_vip_is_not_renewed_that_loses_an_address_while_it_is_opened() {
        let shared = Shared::new().expect("descriptors");
        let had = view(&[(1, &["10.0.0.1", "10.0.0.2"]), (2, &["10.0.0.3"])]);
        shared.take_view(&had);
        let new = opens(&[(1, "10.0.0.2"), (2, "10.0.0.3")]);
        assert_eq!(shared.may_open(new.clone()), new);
        assert!(shared.outdated().is_empty() && !shared.is_overtaken(&had));
        shared.take_view(&view(&[(1, &["10.0.0.1"]), (2, &["10.0.0.3"])]));
        assert_eq!(shared.outdated(), [VipId::new(1)].into());
        assert!(shared.is_overtaken(&had), "the keeper comes to it");
        shared.open_no_more(opens(&[(2, "10.0.0.3")]));
        assert!(shared.to_driver.woken() && shared.outdated().is_empty());
    }

    #[test]
    fn a_deadline_waits_from_when_it_began_to_until_the_keeper_came_to_it() {
        let shared = Shared::new().expect("descriptors");
        let at = |millis: u64| BootNanos::new(millis * 1_000_000);
        let waiting = |millis| shared.waiting_for(Duration::from_millis(400), at(millis));
        shared.take_view(&view(&[(1, &["10.0.0.1", "10.0.0.2"])]));
        shared.may_open(opens(&[(1, "10.0.0.1"), (1, "10.0.0.2")]));
        shared.wait(false, at(1000));
        shared.take_view(&view(&[(1, &["10.0.0.1"])]));
        shared.wait(true, at(1000));
        shared.wait(true, at(1300));
        assert!(waiting(1399).is_empty());
        assert_eq!(waiting(1400), [VipId::new(1)].into());
        shared.open_no_more(opens(&[(1, "10.0.0.1")]));
        assert!(waiting(1500).is_empty(), "also before the driver has seen it");
        shared.wait(false, at(1500));
        shared.take_view(&view(&[(1, &[])]));
        shared.wait(true, at(1600));
        assert!(waiting(1999).is_empty());
        assert_eq!(waiting(2000), [VipId::new(1)].into());
    }
}
