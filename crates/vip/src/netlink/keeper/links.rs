//! The links that VIPs are on: whether they are up, who claims what there, whether a gateway answers, and the taps.
//!
//! Not here: what one link is asked and has heard ([`crate::netlink::link`]), what follows for VIPs ([`super::Keeper`]).

use std::{collections::BTreeSet, net::IpAddr, sync::atomic::Ordering};

use ballast_clock::boot_now;
use ballast_core::{lease::LeaseView, time::BootNanos};
use tracing::{error, info, warn};

use super::Keeper;
use crate::{
    fence::FenceLevel,
    net::{Claim, Conflict, Interface, LinkEvent, Watch, probe_frame, question, system},
    netlink::{
        capture::Tap,
        link::{GATEWAY, Link},
        places::Shared,
        round::Wanted,
    },
};

/// How often the link is asked whether anybody else has the VIPs that this node holds.
const RIVALS_NANOS: u64 = 5_000_000_000;

impl Keeper {
    /// Follows links that came, went, or changed, listens on them and judges their gateways.
    pub(super) fn look_at_links(
        &mut self,
        now: BootNanos,
        view: &LeaseView,
        interfaces: &[Interface],
        wanted: &[Wanted],
    ) {
        let named: BTreeSet<&str> = wanted.iter().map(|want| want.interface.as_str()).collect();
        let here: Vec<&Interface> =
            interfaces.iter().filter(|interface| named.contains(interface.name.as_str())).collect();
        self.links.retain(|index, _| here.iter().any(|interface| interface.index == *index));
        self.drop_taps();
        let vips: BTreeSet<IpAddr> = view.vips.iter().flat_map(|vip| vip.addresses.iter().map(|at| at.ip())).collect();
        let on = |name: &str| here.iter().find(|interface| interface.name == name).map(|interface| interface.index);
        let on_links = wanted.iter().filter_map(|want| Some((on(&want.interface)?, want)));
        // A second interface on the same link answers the owner's own questions.
        self.conflicts.set_ours(interfaces.iter().filter_map(|interface| interface.mac));
        let members = view.vips.iter().flat_map(|vip| vip.macs.iter());
        self.conflicts.set_members(members.filter(|(node, _)| *node != self.options.node).map(|(_, mac)| *mac));
        self.conflicts.set_vips(
            on_links.flat_map(|(on, want)| want.addresses.iter().map(move |at| ((on, at.address), want.vip))),
        );
        let (held, places) = (self.shared.held.load(), self.shared.places.load());
        for vip in view.vips.iter().map(|vip| vip.id) {
            self.conflicts.set_held(vip, held.contains(&vip));
        }
        for interface in here {
            if self.checked.insert(interface.name.clone()) {
                self.check(interface, view);
            }
            let new = !self.links.contains_key(&interface.index);
            let link = self.links.entry(interface.index).or_insert_with(|| Link::new(now, interface.up));
            let came_up = interface.up && !link.up;
            link.up = interface.up;
            if new || came_up {
                // A socket that saw its interface go down stays silent.
                link.listener = None;
                link.look_up_gateway(now, interface.index);
                link.gateway.ask_now(now);
            } else if interface.up && link.gateway.in_doubt(now) {
                link.look_up_gateway(now, interface.index);
            }
            if interface.up && link.listener.is_none() {
                link.listen(interface);
            }
            // Whoever hears nothing cannot know whether it answers.
            if !interface.up || link.listener.is_none() {
                link.gateway.ask_now(now.plus(GATEWAY.interval_nanos));
            } else if let Some(gateway) = link.gateway.turn(now)
                && let Some(frame) = question(gateway, interface, |address| vips.contains(&address))
            {
                // Not answered counts; not sent is as good as not answered.
                let _ = self.frames.send(interface.index, &frame);
            }
            if interface.up
                && now.since(link.asked_at) >= RIVALS_NANOS
                && let Some(mac) = interface.mac
            {
                // Whoever else has a VIP of ours says so when asked; one that came with a joined network has no reason to.
                link.asked_at = now;
                let ours = places.iter().filter(|(vip, at)| at.interface == interface.index && held.contains(*vip));
                for address in ours.flat_map(|(_, at)| &at.addresses) {
                    let _ = self.frames.send(interface.index, &probe_frame(*address, mac));
                }
            }
            if std::mem::replace(&mut link.mac, interface.mac) != interface.mac {
                Self::put_tap(&self.shared, interface, interfaces);
            }
            if came_up {
                // Whoever was cut off from us may have learnt another owner meanwhile.
                self.shared.announce_again();
            }
        }
    }

    /// Tells, once for each interface, what of this machine makes VIPs less safe than they look.
    fn check(&self, interface: &Interface, view: &LeaseView) {
        let ipv6 = view.vips.iter().any(|vip| vip.addresses.iter().any(|at| at.ip().is_ipv6()));
        match system::check(&interface.name, ipv6) {
            Ok(findings) => {
                for finding in findings {
                    match finding.severity {
                        system::Severity::Note => {
                            info!(interface = interface.name, remedy = finding.remedy, "{}", finding.what)
                        }
                        system::Severity::Warning | system::Severity::Error => {
                            warn!(interface = interface.name, remedy = finding.remedy, "{}", finding.what);
                        }
                    }
                }
            }
            Err(error) => warn!(%error, "this machine's settings for VIPs cannot be checked"),
        }
        let what = if self.is_unfenced() { "VIPs that are held" } else { "VIPs" };
        info!(interface = interface.name, fence = self.fence.level().as_str(), "{what} are on this interface");
        if self.fence.level() == FenceLevel::Nftables {
            warn!(
                "the nftables fence is best effort: a renewal that is held up in this process extends the lease by that time"
            );
        }
    }

    /// Makes a new tap after one was used.
    pub(super) fn renew_tap(&self, index: u32) {
        if let Ok(interfaces) = Interface::all()
            && let Some(interface) = interfaces.iter().find(|interface| interface.index == index)
        {
            Self::put_tap(&self.shared, interface, &interfaces);
        }
    }

    /// Takes away what there is for links that are gone.
    fn drop_taps(&self) {
        let gone: Vec<Tap> = {
            let mut taps = self.shared.taps.lock();
            let gone: Vec<u32> = taps.keys().copied().filter(|index| !self.links.contains_key(index)).collect();
            gone.iter().filter_map(|index| taps.remove(index)).collect()
        };
        drop(gone);
    }

    /// Makes a tap for the interface as it is now, in the place of the one before.
    fn put_tap(shared: &Shared, interface: &Interface, all: &[Interface]) {
        let Some(mac) = interface.mac else { return };
        match Tap::open(interface, mac, all) {
            Ok(tap) => {
                let before = shared.taps.lock().insert(interface.index, tap);
                drop(before);
            }
            Err(error) => warn!(%error, "connections that begin during a planned move may have to be tried again"),
        }
    }

    pub(super) fn links_changed(&mut self) -> bool {
        let mut events = Vec::new();
        if let Err(error) = self.watch.read(&mut events) {
            warn!(%error, "cannot follow changes of the links; looking again");
            if let Ok(watch) = Watch::open() {
                self.watch = watch;
            }
            return true;
        }
        let concerns = |index: u32| self.links.contains_key(&index) || self.fence.is_beside(index);
        events.iter().any(|event| match event {
            // One that is not known yet may be one that VIPs wait for.
            LinkEvent::Link { .. } | LinkEvent::LinkGone { .. } | LinkEvent::Lost => true,
            // Likewise, where an interface is meant by its network; and one with an address is fenced.
            LinkEvent::Address { .. } => true,
            LinkEvent::AddressGone { index, .. } | LinkEvent::Filter { index } => concerns(*index),
        })
    }

    /// Takes in who claims which address.
    pub(super) fn listen(&mut self) {
        let mut heard: Vec<(u32, Claim)> = Vec::new();
        for (index, link) in &mut self.links {
            let Some(listener) = &mut link.listener else { continue };
            let mut claims = Vec::new();
            if listener.read(&mut claims).is_err() {
                // It is opened anew when the interface is up.
                link.listener = None;
                link.up = false;
            }
            claims.iter().for_each(|claim| link.gateway.heard(claim));
            heard.extend(claims.into_iter().map(|claim| (*index, claim)));
        }
        let (now, held) = (boot_now(), self.shared.held.load());
        for (on, claim) in heard {
            let Some(conflict) = self.conflicts.heard(now, on, &claim) else { continue };
            self.shared.counts.conflicts.fetch_add(1, Ordering::Relaxed);
            match conflict {
                Conflict::Stranger { vip, address, mac } => {
                    error!(%vip, %address, %mac, "somebody who is no node of this cluster claims a VIP; take the address away from it");
                }
                Conflict::Peer { vip, address, mac } => {
                    error!(%vip, %address, %mac, "another node claims a VIP that this node holds");
                }
            }
            if held.contains(&conflict.vip()) {
                self.shared.defend(conflict.address());
            }
        }
    }
}
