//! The half that may wait for the kernel: keeps addresses and fence in place, listens, and judges fitness.
//!
//! In rounds: one a second, four while something is wrong, and at once when links, addresses, filters or the agreed state
//! change. A round reads what there is, guards before it adds and removes before it unguards, reads the
//! fence back, lets VIPs' deadlines open what has come to its place, and publishes where VIPs are and which of them this
//! node is fit to hold.
//!
//! Without a fence a look puts the addresses of those VIPs alone on the interfaces that this node holds, and takes those that
//! it does not hold off first. It is fit for a VIP whose addresses it could put there.

mod links;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{
    ids::VipId,
    lease::{Fitness, LeaseView, Unfitness},
    time::BootNanos,
};
use tracing::{error, info, warn};

use super::{
    NetlinkError, NetlinkOptions, Report, VipFitness,
    capture::Capture,
    fencing::{Fencing, ToGuard, chain},
    link::Link,
    places::{Opens, Place, Places, Shared, open_only},
    probes::Probes,
    round::{Round, Troubles, Wanted},
    sole::Sole,
};
use crate::{
    fence::{Fence, FenceLevel, Inherited, inherited},
    net::{
        Addresses, Change, Conflicts, GatewayState, Interface, InterfaceAddress, Listener, Mac, NetError,
        Sender as FrameSender, VipAddress, Watch, is_network, names,
    },
};

/// Longest time between two looks. The kernel tells of changes of links, addresses and filters, which bring one about at
/// once; this is for the rest: rules of nftables, which the look asks the kernel's word about, `tcx` programs, sysctls; and
/// for what could not be put right, which is tried again.
const LOOK: Duration = Duration::from_millis(250);
/// Likewise with a fence in eBPF that stands, and nothing wrong about any VIP: what is left then that the kernel does not tell
/// of are warnings, and somebody who writes into the fence's map. As often as a gateway is asked. A look goes through all VIPs.
const LOOK_CALM: Duration = Duration::from_secs(1);
/// A round that takes longer is told of. Far more than many new addresses take.
const SLOW: Duration = Duration::from_secs(2);

pub(super) struct Keeper {
    options: NetlinkOptions,
    shared: Arc<Shared>,
    fence: Fencing,
    sole: Sole,
    /// What an earlier process guarded, until it is known which of it is on an interface.
    inherited: Option<Inherited>,
    addresses: Addresses,
    watch: Watch,
    /// By index of the interface.
    links: BTreeMap<u32, Link>,
    probes: Probes,
    conflicts: Conflicts,
    frames: FrameSender,
    used: Receiver<Capture>,
    changed: Box<dyn Fn() + Send>,
    /// The last problem of each VIP that was logged.
    said: BTreeMap<VipId, String>,
    checked: BTreeSet<String>,
    /// Why the interfaces cannot be looked at, as it was told.
    blind: Option<String>,
    /// Names in `vip.interfaces` that were told of.
    unknown: Vec<String>,
    /// When the last round ended.
    looked_at: BootNanos,
    /// How long the next one waits at most.
    pause: Duration,
}

/// What the fence guards of what should be on the interfaces.
struct GuardedNow {
    wanted: BTreeSet<IpAddr>,
    /// What the fence was asked to guard, and under which VIP.
    asked: ToGuard,
    /// The fence is as it should be.
    stands: bool,
    /// Of what is wanted, while it is not: what it guards all the same. The rest is taken away, for this node's kernel
    /// would answer whoever owns it.
    guarded: BTreeSet<VipAddress>,
}

impl GuardedNow {
    fn has(&self, at: &VipAddress) -> bool {
        self.wanted.contains(&at.address) && (self.stands || self.guarded.contains(at))
    }
}

impl Keeper {
    pub fn new(
        options: NetlinkOptions,
        shared: Arc<Shared>,
        sole: Sole,
        fence: Fence,
        used: Receiver<Capture>,
        changed: Box<dyn Fn() + Send>,
    ) -> Result<Self, NetlinkError> {
        // A name that can never be right is told at the start, not when the first VIP comes. An interface that is not there
        // may come yet, as a VLAN does that is made later.
        for name in std::iter::once(&options.interface).chain(options.interfaces.values()) {
            match Interface::read(name) {
                Err(error @ (NetError::NoInterface { .. } | NetError::Port { .. })) => {
                    warn!(%error, "VIPs wait for their interface")
                }
                other => drop(other?),
            }
        }
        // Before anything takes its place, which the first round does.
        let inherited = inherited()?;
        Ok(Self {
            addresses: Addresses::open(&options.data_dir)?,
            watch: Watch::open()?,
            frames: FrameSender::open()?,
            options,
            shared,
            fence: Fencing::new(fence),
            sole,
            inherited: Some(inherited),
            links: BTreeMap::new(),
            probes: Probes::default(),
            conflicts: Conflicts::new(),
            used,
            changed,
            said: BTreeMap::new(),
            checked: BTreeSet::new(),
            blind: None,
            unknown: Vec::new(),
            looked_at: boot_now(),
            pause: LOOK,
        })
    }

    pub fn run(mut self) {
        while !self.shared.is_stopping() {
            if self.wait() {
                self.round();
            }
        }
        if self.is_unfenced() {
            self.take_off_unheld(&[]);
        }
    }

    /// Whether addresses are on the interfaces only while their VIPs are held, for want of a fence.
    fn is_unfenced(&self) -> bool {
        self.fence.level() == FenceLevel::None
    }

    /// One look at everything, and what follows from it.
    pub fn round(&mut self) {
        let began = boot_now();
        self.pause = LOOK;
        let whole = self.look();
        self.looked_at = boot_now();
        if whole {
            let took = Duration::from_nanos(self.looked_at.since(began));
            if took > SLOW {
                warn!(?took, "looking after addresses and fence of VIPs was held up");
            }
            self.shared.pace.round(began, self.looked_at);
        }
    }

    /// Whether it saw everything.
    fn look(&mut self) -> bool {
        self.sole.answer();
        // Closing them is slow, which is why it happens here.
        while let Ok(capture) = self.used.try_recv() {
            self.renew_tap(capture.index());
        }
        let Some(interfaces) = self.interfaces() else { return false };
        let now = boot_now();
        let view = self.shared.view.load_full();
        self.recognise(&interfaces, view.as_deref());
        let Some(view) = view.as_deref() else {
            self.guard_what_is_left(&interfaces);
            return true;
        };
        self.look_at_names(view);
        let wanted = self.wanted(now, view, &interfaces);
        // As it is on the interfaces by what was read of these.
        let ours = self.addresses.ours().clone();
        if self.is_unfenced() {
            self.take_off_unheld(&wanted);
        }
        self.look_at_links(now, view, &interfaces, &wanted);
        let round = Round::new(now, &interfaces, &wanted, ours);
        let mut troubles = Troubles::default();
        let guarded = self.guard(&round, &mut troubles);
        // While the fence does not stand what must go goes first, and what may come is put there by the next round.
        if guarded.stands {
            self.drop_lost(&guarded);
            self.ask(&round, &guarded, view, &mut troubles);
        }
        // What VIPs have lost since is dropped before anything waits for the link or the disk again.
        if self.shared.is_overtaken(view) {
            return self.look();
        }
        let (put, unheld) = self.put(&round, &guarded, &mut troubles);
        if !guarded.stands {
            self.ask(&round, &guarded, view, &mut troubles);
        }
        let mut places = self.judge(&round, &put, &mut troubles);
        places.retain(|vip, _| !unheld.contains(vip));
        let places = self.open(&round, &guarded, places, &mut troubles);
        let mut vips: BTreeMap<_, _> = wanted.iter().map(|want| (want.vip, troubles.take(want.vip))).collect();
        let warning = self.fence.warning(&interfaces);
        vips.values_mut().for_each(|known| known.warning.clone_from(&warning));
        for conflict in self.conflicts.recent(now) {
            if let Some(known) = vips.get_mut(&conflict.vip()) {
                known.warning = conflict.to_string();
            }
        }
        let calm = guarded.stands && vips.values().all(|known| known.problem.is_empty() && known.warning.is_empty());
        if calm && self.fence.level() == FenceLevel::Ebpf {
            self.pause = LOOK_CALM;
        }
        self.publish(places, vips);
        if !guarded.stands {
            self.drop_taken_off(&wanted);
        }
        true
    }

    /// What there is; tells once why that cannot be said.
    fn interfaces(&mut self) -> Option<Vec<Interface>> {
        match Interface::all() {
            Ok(interfaces) => {
                if self.blind.take().is_some() {
                    info!("the interfaces can be looked at again");
                }
                Some(interfaces)
            }
            Err(error) => {
                let error = chain(&error);
                if self.blind.as_ref() != Some(&error) {
                    error!(error, "cannot look at the interfaces; VIPs stay as they are");
                    self.blind = Some(error);
                }
                None
            }
        }
    }

    /// Finds what is ours on the interfaces, whatever became of the record, before the fence that is there is replaced.
    fn recognise(&mut self, interfaces: &[Interface], view: Option<&LeaseView>) {
        let Some(left) = &self.inherited else {
            self.addresses.recognise(interfaces, |_| false);
            return;
        };
        // Where neither an earlier process's map can be read nor the kernel says who put an address there, a VIP's that
        // looks like ours counts as guarded by it.
        let blind = left.unreadable.is_some() && !Interface::origins_known(interfaces);
        let vips = view.filter(|_| blind).into_iter().flat_map(|view| &view.vips);
        let vips: BTreeSet<IpAddr> = vips.flat_map(|vip| vip.addresses.iter().map(|at| at.ip())).collect();
        self.addresses.recognise(interfaces, |held| {
            left.addresses.contains(&held.address) || (held.is_host() && vips.contains(&held.address))
        });
        if left.unreadable.is_none() || view.is_some() {
            self.inherited = None;
        }
    }

    /// Guards what should be on the interfaces before it is, and what is there for as long as it is. What its VIP's deadline
    /// may not open yet is nobody's, and closed.
    fn guard(&mut self, round: &Round<'_>, troubles: &mut Troubles) -> GuardedNow {
        let mut in_place = ToGuard::new();
        for want in round.wanted {
            // Only Ethernet can be fenced; elsewhere the VIP is not put, nor where no neighbour would hear of it.
            let Some(interface) = round.interface(&want.interface) else { continue };
            if interface.mac.is_none() || interface.check_suits(round.interfaces, want.is_v4()).is_err() {
                continue;
            }
            let own = want.addresses.iter().filter(|at| !round.foreign(at.address));
            in_place.extend(own.map(|at| (want.vip, interface.index, at.address)));
        }
        let wanted: BTreeSet<IpAddr> = in_place.iter().map(|(_, _, address)| *address).collect();
        let mut guarded: ToGuard = in_place.iter().map(|(_, on, address)| (NOBODY, *on, *address)).collect();
        // Guarded wherever it still is, too: under its VIP, or closed for good when it is nobody's any more.
        for left in &round.ours {
            for interface in round.interfaces.iter().filter(|at| at.name == left.interface || at.has(left.address)) {
                if interface.mac.is_some() {
                    guarded.insert((NOBODY, interface.index, left.address));
                }
            }
        }
        let opens = self.shared.opens.load();
        let open = in_place.iter().filter(|(vip, _, address)| opens.contains(&(*vip, *address)));
        let asked = under(&guarded, &open.map(|(vip, _, address)| (*address, *vip)).collect());
        match self.fence.keep(round.now, &asked, round.interfaces, &self.shared.counts.breaches) {
            // Not on an interface that has gone meanwhile: it may be another one by the time that an address is put there.
            Ok(()) => {
                let stand = in_place.iter().filter(|(_, interface, address)| self.fence.guards(*interface, *address));
                let wanted = stand.map(|(_, _, address)| *address).collect();
                GuardedNow { wanted, asked, stands: true, guarded: BTreeSet::new() }
            }
            Err(problem) => {
                let all = round.wanted.iter().flat_map(|want| &want.addresses);
                let still = all.filter(|at| self.fence.still_guards(at, round.interfaces)).cloned().collect();
                let guarded = GuardedNow { wanted, asked, stands: false, guarded: still };
                for want in round.wanted {
                    // Where it cannot be fenced for want of an interface, that is what is wrong.
                    let suits =
                        |on: &Interface| on.mac.is_some() && on.check_suits(round.interfaces, want.is_v4()).is_ok();
                    if !round.interface(&want.interface).is_some_and(suits) {
                        continue;
                    }
                    let (fitness, follows) =
                        if want.addresses.iter().all(|at| guarded.has(at) || round.foreign(at.address)) {
                            (Fitness::Reluctant(Unfitness::FenceBreached), "this VIP is fenced all the same")
                        } else {
                            let follows = "addresses that are not fenced are off their interface until they are";
                            (Fitness::Unfit(Unfitness::FenceBreached), follows)
                        };
                    troubles.add(want.vip, fitness, format!("{problem}; {follows}"));
                }
                guarded
            }
        }
    }

    /// Takes the addresses that VIPs have lost out of their places, so that the deadlines of the rest can be moved on while
    /// this round asks the link for new ones: the fence does not guard the lost ones under those VIPs any more.
    fn drop_lost(&self, guarded: &GuardedNow) {
        let mut opens = Opens::clone(&self.shared.opens.load());
        let asked: Opens = guarded.asked.iter().map(|(vip, _, address)| (*vip, *address)).collect();
        opens.retain(|of| asked.contains(of));
        self.publish_places(open_only(Places::clone(&self.shared.places.load()), &opens));
        self.shared.open_no_more(opens);
    }

    /// Likewise where the fence could not be told, of those that are off their interface by now.
    fn drop_taken_off(&self, wanted: &[Wanted]) {
        let is_wanted = |vip, address| {
            wanted.iter().any(|want| want.vip == vip && want.addresses.iter().any(|at| at.address == address))
        };
        let mut opens = Opens::clone(&self.shared.opens.load());
        opens.retain(|(vip, address)| {
            is_wanted(*vip, *address) || self.addresses.ours().iter().any(|at| at.address == *address)
        });
        self.shared.open_no_more(opens);
    }

    /// Lets the VIPs' deadlines open what is in its place, unless a VIP has lost it since the round began. Returns the places
    /// without that.
    fn open(&mut self, round: &Round<'_>, guarded: &GuardedNow, places: Places, troubles: &mut Troubles) -> Places {
        let opens = self.shared.opens.load_full();
        let there = places.iter().flat_map(|(vip, place)| place.addresses.iter().map(|address| (*vip, *address)));
        let fresh: Opens = there.filter(|of| !opens.contains(of)).collect();
        let may = if fresh.is_empty() { fresh } else { self.shared.may_open(fresh) };
        if !may.is_empty() {
            let asked = under(&guarded.asked, &may.iter().map(|(vip, address)| (*address, *vip)).collect());
            // What stands in the way now is told, and mended, by the next look as well.
            if let Err(problem) = self.fence.keep(round.now, &asked, round.interfaces, &self.shared.counts.breaches) {
                for (vip, _) in &may {
                    troubles.add(*vip, Fitness::Reluctant(Unfitness::FenceBreached), problem.clone());
                }
            }
        }
        open_only(places, &self.shared.opens.load())
    }

    /// Asks the link who has the addresses: a stranger's is not put on the interface.
    fn ask(&mut self, round: &Round<'_>, guarded: &GuardedNow, view: &LeaseView, troubles: &mut Troubles) {
        let member = |mac: Mac| view.vips.iter().any(|vip| vip.macs.iter().any(|(_, of)| *of == mac));
        let mut ask = Vec::new();
        for want in round.wanted {
            let Some(interface) = round.interface(&want.interface).filter(|interface| interface.up) else { continue };
            for at in &want.addresses {
                if round.ours.contains(at) || interface.has(at.address) {
                    self.probes.assume_free(&want.interface, at.address);
                }
                if guarded.stands || guarded.has(at) {
                    ask.push((interface, at.address));
                }
            }
        }
        // Who waits for an address of a VIP that was gained, or for one to go that was given up, waits for no answers.
        let held = self.is_unfenced().then(|| self.shared.held.load_full());
        let moved = || held.as_ref().is_some_and(|held| !Arc::ptr_eq(held, &self.shared.held.load_full()));
        let taken = self.probes.taken(round.now, &ask, member, || self.shared.is_overtaken(view) || moved());
        for want in round.wanted {
            for at in &want.addresses {
                if let Some(mac) = taken.get(&at.address) {
                    let problem = format!(
                        "{mac} answers for {} on {} and is no node of this cluster; take the address away from it or choose another VIP",
                        at.address, want.interface
                    );
                    troubles.lacks(want.vip, at.address, Unfitness::AddressTaken, problem);
                }
            }
        }
    }

    /// Puts on the interfaces what is guarded and free, and takes away what should not be there. Returns what should or could,
    /// and the VIPs that are not put there because nothing fences them and this node does not hold them.
    fn put(
        &mut self,
        round: &Round<'_>,
        guarded: &GuardedNow,
        troubles: &mut Troubles,
    ) -> (BTreeSet<IpAddr>, BTreeSet<VipId>) {
        let free = |at: &VipAddress| round.ours.contains(at) || self.probes.is_free(&at.interface, at.address);
        let may = |at: &&VipAddress| (guarded.has(at) && free(at)) || round.foreign(at.address);
        // Not what this look began with: it may have waited for answers.
        let held = self.is_unfenced().then(|| self.shared.held.load_full());
        let is_unheld = |want: &&Wanted| held.as_ref().is_some_and(|held| !held.contains(&want.vip));
        let (later, here): (Vec<&Wanted>, Vec<&Wanted>) = round.wanted.iter().partition(is_unheld);
        let of = |wanted: &[&Wanted]| -> Vec<VipAddress> {
            wanted.iter().flat_map(|want| &want.addresses).filter(may).cloned().collect()
        };
        let unheld: BTreeSet<VipId> = later.iter().map(|want| want.vip).collect();
        let (put, later) = (of(&here), of(&later));
        // Looking at the interfaces, asking the link and adding are moments apart: one of the same name may have come meanwhile.
        let fenced = |interface: u32, address: IpAddr| self.fence.guards(interface, address);
        match self.addresses.reconcile_fenced(&put, &later, fenced) {
            Ok(outcome) => {
                outcome.changes.iter().for_each(|change| self.tell(change, guarded.stands));
                for problem in outcome.problems {
                    let of = round.wanted.iter().find(|want| want.addresses.contains(problem.address()));
                    let Some(want) = of else { continue };
                    // One that is there and may not be reached is kept if no node is better off.
                    if problem.is_warning() {
                        troubles.add(want.vip, Fitness::Reluctant(Unfitness::AddressMissing), problem.to_string());
                    } else {
                        let address = problem.address().address;
                        troubles.lacks(want.vip, address, Unfitness::AddressMissing, problem.to_string());
                    }
                }
            }
            // What is there and was ours before does not suffer from what cannot be added, read or written down.
            Err(error) => {
                for want in round.wanted {
                    troubles.add(want.vip, Fitness::Reluctant(Unfitness::AddressMissing), chain(&error));
                    let on = round.interface(&want.interface);
                    let there = |at: &VipAddress| round.ours.contains(at) && on.is_some_and(|on| on.has(at.address));
                    for at in want.addresses.iter().filter(|at| !there(at)) {
                        troubles.lacks(want.vip, at.address, Unfitness::AddressMissing, chain(&error));
                    }
                }
            }
        }
        (put.iter().chain(&later).map(|at| at.address).collect(), unheld)
    }

    /// Without a fence: takes off the interfaces what this node does not hold, before anything waits for the link.
    fn take_off_unheld(&mut self, wanted: &[Wanted]) {
        let held = self.shared.held.load_full();
        let held = wanted.iter().filter(|want| held.contains(&want.vip));
        let stays: BTreeSet<&VipAddress> = held.flat_map(|want| &want.addresses).collect();
        let ours = self.addresses.ours();
        let left: Vec<VipAddress> = ours.iter().filter(|at| stays.contains(at)).cloned().collect();
        if left.len() == ours.len() {
            return;
        }
        // What is in the way of that is met again, and told, where addresses are put in place.
        if let Ok(outcome) = self.addresses.reconcile(&left) {
            outcome.changes.iter().for_each(|change| self.tell(change, true));
        }
    }

    fn tell(&self, change: &Change, fence_stands: bool) {
        match change {
            Change::Removed(at) if !fence_stands => {
                self.shared.counts.addresses_withdrawn.fetch_add(1, Ordering::Relaxed);
                error!(address = %at, "a VIP's address was taken off: it cannot be fenced, and nobody should answer rather than two");
            }
            Change::Added(at) => info!(address = %at, "VIP address added"),
            Change::Removed(at) => info!(address = %at, "VIP address removed"),
            Change::CameBack(at) => {
                self.shared.counts.addresses_restored.fetch_add(1, Ordering::Relaxed);
                warn!(address = %at, "somebody had removed a VIP's address; it is back");
            }
        }
    }

    /// Judges which VIPs this node is fit to hold by their interfaces and addresses, and says where those are that have an
    /// address in place.
    fn judge(&self, round: &Round<'_>, put: &BTreeSet<IpAddr>, troubles: &mut Troubles) -> Places {
        let mut places = Places::new();
        for want in round.wanted {
            let Some(interface) = round.interface(&want.interface) else {
                let missing = NetError::NoInterface { name: want.interface.clone(), present: names(round.interfaces) };
                troubles.add(want.vip, Fitness::Unfit(Unfitness::LinkDown), missing.to_string());
                continue;
            };
            if let Err(error) = interface.check_suits(round.interfaces, want.is_v4()) {
                troubles.add(want.vip, Fitness::Unfit(Unfitness::AddressMissing), error.to_string());
                continue;
            }
            if !interface.up {
                let problem = format!("{} is down or has no carrier", want.interface);
                troubles.add(want.vip, Fitness::Unfit(Unfitness::LinkDown), problem);
            }
            let Some(mac) = interface.mac else {
                let problem = format!("{} has no MAC, and VIPs need Ethernet", want.interface);
                troubles.add(want.vip, Fitness::Unfit(Unfitness::LinkDown), problem);
                continue;
            };
            let addresses = troubles.weigh(want, |address| put.contains(&address) && !round.foreign(address));
            if !addresses.is_empty() {
                places.insert(want.vip, Place { interface: interface.index, mac, addresses });
            }
            if let Some(what) = self.fence.broken_lately(round.now) {
                let problem = format!("somebody changed the fence on {what}; it stands again");
                troubles.add(want.vip, Fitness::Reluctant(Unfitness::FenceBreached), problem);
            }
            if let Some(link) = self.links.get(&interface.index)
                && link.gateway.state() == GatewayState::Unreachable
                && let Some(gateway) = link.gateway.gateway()
            {
                let problem = format!("the gateway {gateway} does not answer on {}", want.interface);
                troubles.add(want.vip, Fitness::Reluctant(Unfitness::GatewayUnreachable), problem);
            }
        }
        places
    }

    fn publish(&mut self, places: Places, vips: BTreeMap<VipId, VipFitness>) {
        for (vip, VipFitness { problem, fitness, .. }) in &vips {
            let before = self.said.get(vip).map(String::as_str).unwrap_or_default();
            if before != problem {
                if problem.is_empty() {
                    info!(%vip, "this node is fit to hold the VIP again");
                } else if matches!(fitness, Fitness::Reluctant(_)) {
                    warn!(%vip, %problem, "this node leaves the VIP to others, and keeps it if nobody is better off");
                } else {
                    warn!(%vip, %problem, "this node is not fit to hold the VIP");
                }
                self.said.insert(*vip, problem.clone());
            }
        }
        self.publish_places(places);
        let report = Report { vips };
        if **self.shared.report.load() != report {
            self.shared.report.store(Arc::new(report));
            (self.changed)();
        }
    }

    fn publish_places(&self, places: Places) {
        if **self.shared.places.load() != places {
            self.shared.places.store(Arc::new(places));
            self.shared.to_driver.wake();
        }
    }

    /// Before the state is known: what an earlier process left on the interfaces is fenced, closed, or taken off where
    /// nothing fences it.
    fn guard_what_is_left(&mut self, interfaces: &[Interface]) {
        if self.is_unfenced() {
            self.take_off_unheld(&[]);
            return;
        }
        let left = self.addresses.ours().iter().filter_map(|at| {
            let interface = interfaces.iter().find(|interface| interface.name == at.interface)?;
            Some((NOBODY, interface.index, at.address))
        });
        let left: BTreeSet<_> = left.collect();
        if left.is_empty() {
            // What an earlier process fenced without leaving word of it stays fenced, closed, until the state is known.
            return;
        }
        if let Err(problem) = self.fence.keep(boot_now(), &left, interfaces, &self.shared.counts.breaches) {
            error!(problem, "addresses of VIPs are on an interface and cannot be fenced; they are taken off it");
            let there = |at: &&VipAddress| interfaces.iter().any(|on| on.name == at.interface && on.has(at.address));
            let ours = self.addresses.ours().iter().filter(there);
            let guarded: Vec<_> = ours.filter(|at| self.fence.still_guards(at, interfaces)).cloned().collect();
            match self.addresses.reconcile_fenced(&guarded, &[], |index, address| self.fence.guards(index, address)) {
                Ok(outcome) => outcome.changes.iter().for_each(|change| self.tell(change, false)),
                Err(error) => error!(%error, "and cannot be taken off it"),
            }
        }
    }

    /// Tells of names of VIPs in `vip.interfaces` that there are not: whatever they are meant for is on `vip.interface`.
    fn look_at_names(&mut self, view: &LeaseView) {
        // Before the first document there is nothing to compare them with.
        let known = |name: &String| view.vips.is_empty() || view.vips.iter().any(|vip| vip.name == *name);
        let unknown: Vec<String> = self.options.interfaces.keys().filter(|name| !known(name)).cloned().collect();
        if unknown != self.unknown && !unknown.is_empty() {
            warn!(
                names = unknown.join(", "),
                "vip.interfaces in ballastd.toml names VIPs that there are not; a VIP that it does not name is on vip.interface"
            );
        }
        self.unknown = unknown;
    }

    /// Where every VIP should be on this node: those that it may hold, and those that it holds although it should not any more,
    /// until another node has them and clients have finished here. An interface that is meant by its network is looked for anew each time: a
    /// container that is taken off a network and put back gets another one. While no interface is in the network, as when a DHCP
    /// lease has ended, a VIP stays where it is.
    fn wanted(&self, now: BootNanos, view: &LeaseView, interfaces: &[Interface]) -> Vec<Wanted> {
        let ours = |on: &Interface, held: &InterfaceAddress| {
            let at = VipAddress { interface: on.name.clone(), address: held.address, prefix: held.prefix };
            self.addresses.ours().contains(&at)
        };
        // Read in this order: what is held no more is among those that are being finished by then.
        let (held, finishing) = (self.shared.held.load(), self.shared.finishing.load());
        let is_here = |vip: VipId| held.contains(&vip) || finishing.get(&vip).is_some_and(|until| now < *until);
        let may = |only: &Option<BTreeSet<_>>| only.as_ref().is_none_or(|only| only.contains(&self.options.node));
        let want = |vip: &ballast_core::lease::LeaseVip| {
            let by = self.options.interfaces.get(&vip.name).unwrap_or(&self.options.interface);
            let is_on = |&on: &&Interface| {
                let mut left = on.addresses.iter().filter(|held| ours(on, held));
                left.any(|held| vip.addresses.iter().any(|at| at.ip() == held.address))
            };
            let meant = Interface::meant(interfaces, by, ours)
                .or_else(|| interfaces.iter().find(is_on).filter(|_| is_network(by)));
            let interface = meant.map_or(by, |interface| &interface.name).clone();
            let addresses: Vec<_> = vip
                .addresses
                .iter()
                .map(|address| {
                    let host = VipAddress::host(&interface, address.ip());
                    VipAddress { prefix: address.prefix().unwrap_or(host.prefix), ..host }
                })
                .collect();
            Wanted { vip: vip.id, interface, addresses }
        };
        view.vips.iter().filter(|vip| may(&vip.only) || is_here(vip.id)).map(want).collect()
    }

    /// Waits for something to look at. True when it is worth a round.
    fn wait(&mut self) -> bool {
        let poll = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = vec![poll(self.watch.as_raw_fd()), poll(self.shared.to_keeper.as_raw_fd())];
        for link in self.links.values() {
            fds.extend(link.listener.iter().flat_map(Listener::fds).map(poll));
        }
        let fence = fds.len();
        fds.extend(self.fence.descriptor().map(poll));
        // However much is heard meanwhile, a look is due.
        let since = |now: BootNanos| Duration::from_nanos(now.since(self.looked_at));
        let left = self.pause.saturating_sub(since(boot_now())).as_millis() as i32;
        // SAFETY: the pointer is valid for the call and the count is that of the vector.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, left) };
        let due = ready <= 0 || since(boot_now()) >= self.pause;
        let changed = fds[0].revents != 0 && self.links_changed();
        let fence_changed = fds.get(fence).is_some_and(|fd| fd.revents != 0) && self.fence.changed();
        let woken = self.shared.to_keeper.woken();
        self.listen();
        due || changed || fence_changed || woken
    }
}

/// The same to guard, with these addresses under these VIPs.
fn under(guarded: &ToGuard, vips: &BTreeMap<IpAddr, VipId>) -> ToGuard {
    guarded.iter().map(|(vip, on, address)| (*vips.get(address).unwrap_or(vip), *on, *address)).collect()
}

/// Stands for addresses that are no VIP's any more, or not yet: its deadline is never moved.
const NOBODY: VipId = VipId::new(u32::MAX);
