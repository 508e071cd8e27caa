//! Keeps the fence: where it has to stand, whether it does, and what follows while it does not.
//!
//! The keeper says which addresses are to be guarded. This adds over which interfaces they can be reached, reads the
//! fence back, mends it, and knows which addresses it guards while something of it cannot be mended.
//!
//! Not here: the fence itself ([`crate::fence`]); taking addresses away, which is the keeper's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::RawFd,
    sync::atomic::{AtomicU64, Ordering},
};

use ballast_core::{ids::VipId, time::BootNanos};
use tracing::{error, warn};

use crate::{
    fence::{Breach, Earlier, Fence, FenceLevel, Guarded},
    net::{Interface, InterfaceAddress, Standing, VipAddress, system},
};

/// For so long after a breach of the fence was mended this node leaves VIPs to others: whoever tampers may not be done. It
/// keeps what no fit node takes, because whatever loads firewalls may do so on all nodes at once.
const BREACH_NANOS: u64 = 1_000_000_000;

/// What is to be guarded: of which VIP, on which interface.
pub(super) type ToGuard = BTreeSet<(VipId, u32, IpAddr)>;

pub(super) struct Fencing {
    fence: Fence,
    /// What was to be guarded in the last round, and on which further interfaces.
    asked: Option<(ToGuard, Vec<u32>)>,
    /// When the fence was last found broken, and where.
    breached: Option<(BootNanos, String)>,
    /// What could not be mended in the last round.
    broken: Vec<Breach>,
    /// Interfaces beside those of VIPs, over which this machine can be reached too.
    beside: BTreeSet<u32>,
    /// Of these, by name: what keeps the fence off.
    open: BTreeMap<String, String>,
    /// The last warning that was logged.
    warned: String,
}

impl Fencing {
    pub fn new(fence: Fence) -> Self {
        Self {
            fence,
            asked: None,
            breached: None,
            broken: Vec::new(),
            beside: BTreeSet::new(),
            open: BTreeMap::new(),
            warned: String::new(),
        }
    }

    pub fn level(&self) -> FenceLevel {
        self.fence.level()
    }

    /// What can be read when [`Fencing::changed`] should be asked.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.fence.descriptor()
    }

    /// Whether the kernel has told of a change of the fence.
    pub fn changed(&mut self) -> bool {
        self.fence.changed()
    }

    /// Where the fence was broken, while that is not long ago.
    pub fn broken_lately(&self, now: BootNanos) -> Option<&str> {
        self.breached.as_ref().filter(|(at, _)| now.since(*at) < BREACH_NANOS).map(|(_, what)| what.as_str())
    }

    /// Whether VIPs are fenced on the interface although none is on it.
    pub fn is_beside(&self, interface: u32) -> bool {
        self.beside.contains(&interface)
    }

    /// Makes the fence guard these, reads it back, and mends what is wrong.
    pub fn keep(
        &mut self,
        now: BootNanos,
        guarded: &ToGuard,
        interfaces: &[Interface],
        breaches_counted: &AtomicU64,
    ) -> Result<(), String> {
        let breaches = self.breaches(interfaces);
        if !breaches.is_empty() {
            let name = |index: u32| {
                let found = interfaces.iter().find(|interface| interface.index == index);
                found.map_or("all interfaces", |interface| &interface.name)
            };
            // What stays broken is told once.
            for breach in breaches.iter().filter(|breach| !self.broken.contains(breach)) {
                let (name, what) = (name(breach.interface), &breach.what);
                error!(interface = name, what, "the fence of VIPs is not as it was set; putting it back");
                breaches_counted.fetch_add(1, Ordering::Relaxed);
            }
            let names: BTreeSet<_> = breaches.iter().map(|breach| name(breach.interface)).collect();
            self.breached = Some((now, names.into_iter().collect::<Vec<_>>().join(", ")));
            // What cannot be mended is found by the next look.
            if let Err(error) = self.fence.repair()
                && self.broken.is_empty()
            {
                warn!(error = chain(&error), "cannot mend all of the fence");
            }
        }
        let wanted = guarded.iter().map(|&(vip, interface, address)| Guarded { vip, interface, address });
        let ours: BTreeSet<IpAddr> = guarded.iter().map(|(_, _, address)| *address).collect();
        let on: BTreeSet<u32> = guarded.iter().map(|(_, interface, _)| *interface).collect();
        self.beside = if ours.is_empty() { BTreeSet::new() } else { beside(interfaces, &ours) };
        self.beside.retain(|interface| !on.contains(interface));
        let also: Vec<u32> = self.beside.iter().copied().collect();
        let outcome = self.fence.guard_also(&wanted.collect::<Vec<_>>(), &also).map_err(|error| chain(&error));
        self.broken.clear();
        // Read back whenever it was worked on: addresses are put behind what stands, not behind what should.
        let asked = Some((guarded.clone(), also));
        if !breaches.is_empty() || outcome.is_err() || self.asked != asked {
            self.broken = self.breaches(interfaces);
        }
        self.asked = asked;
        let unfenced = outcome?.into_iter().filter_map(|left| {
            let interface = interfaces.iter().find(|interface| interface.index == left.interface && interface.up)?;
            Some((interface.name.clone(), left.why))
        });
        self.open = unfenced.collect();
        if let [breach, ..] = &self.broken[..] {
            return Err(format!("the fence cannot be mended: {}", breach.what));
        }
        let v4 = ours.iter().any(IpAddr::is_ipv4);
        match self.open.iter().find(|(name, _)| v4 && answers_for_all(name)) {
            None => Ok(()),
            Some((name, why)) => Err(format!(
                "{name} cannot be fenced ({why}), and as arp_ignore is 0 there, this machine answers ARP on it for VIPs of \
                 other interfaces; set net.ipv4.conf.{name}.arp_ignore to 1, or remove what is in the fence's way"
            )),
        }
    }

    /// What is wrong with the fence where there is anything to fence: an interface that is gone, by now, lets nothing pass.
    fn breaches(&mut self, interfaces: &[Interface]) -> Vec<Breach> {
        let mut breaches = self.fence.verify();
        if !breaches.is_empty() {
            let now = Interface::all();
            let there = |index: u32| now.as_deref().unwrap_or(interfaces).iter().any(|on| on.index == index);
            breaches.retain(|breach| breach.interface == 0 || there(breach.interface));
        }
        breaches
    }

    /// Whether the address is guarded on the interface, if nothing is wrong with the fence there.
    pub fn guards(&self, interface: u32, address: IpAddr) -> bool {
        self.fence.guards(interface, address)
    }

    /// Whether the address is guarded on its interface although the fence is not as it should be everywhere. An IPv4 address
    /// is not while another interface answers ARP for it unfenced.
    pub fn still_guards(&self, at: &VipAddress, interfaces: &[Interface]) -> bool {
        let broken = |index: u32| self.broken.iter().any(|breach| breach.interface == 0 || breach.interface == index);
        let guarded = |index: u32| !broken(index) && self.fence.guards(index, at.address);
        let open = |on: &Interface| on.up && self.is_on(on.index) && !guarded(on.index) && answers_for_all(&on.name);
        let on = interfaces.iter().find(|interface| interface.name == at.interface);
        on.is_some_and(|on| guarded(on.index)) && !(at.address.is_ipv4() && interfaces.iter().any(open))
    }

    /// Whether the fence has to stand on the interface, as was asked for last.
    fn is_on(&self, interface: u32) -> bool {
        self.asked.as_ref().is_some_and(|(guarded, also)| {
            also.contains(&interface) || guarded.iter().any(|(_, guarded, _)| *guarded == interface)
        })
    }

    /// Whether there is anything to fence, and a fence.
    fn fences(&self) -> bool {
        self.level() != FenceLevel::None && self.asked.as_ref().is_some_and(|(guarded, _)| !guarded.is_empty())
    }

    /// Where XDP programs run before the fence. Where there is none, nothing is hidden from it.
    fn xdp<'i>(&self, interfaces: &'i [Interface]) -> Vec<(&'i str, String)> {
        if self.fences() { with_xdp(interfaces, |index| self.is_on(index)) } else { Vec::new() }
    }

    /// What makes the fence less than it looks, and keeps this node from nothing. Told once.
    pub fn warning(&mut self, interfaces: &[Interface]) -> String {
        let mut said = Vec::new();
        for (name, why) in &self.open {
            said.push(format!(
                "{name} cannot be fenced ({why}); VIPs are not asked for there (arp_ignore), but what is sent to it gets in"
            ));
        }
        for Earlier { interface, what } in self.fence.earlier() {
            let name = interfaces.iter().find(|known| known.index == *interface).map_or("?", |known| &known.name);
            said.push(format!("{what} of {name} runs before the fence and can let packets of VIPs pass by it"));
        }
        for (name, programs) in self.xdp(interfaces) {
            said.push(format!(
                "XDP program {programs} of {name} runs before the fence and can answer packets of VIPs or send them elsewhere"
            ));
        }
        let tunnels = if self.fences() { tunnels(interfaces) } else { Vec::new() };
        if !tunnels.is_empty() {
            said.push(format!(
                "VIPs cannot be fenced on {}, which Ethernet is not: whoever reaches this machine there reaches its VIPs too",
                tunnels.join(", ")
            ));
        }
        let warning = said.join("; ");
        if warning != self.warned && !warning.is_empty() {
            warn!("{warning}");
        }
        self.warned.clone_from(&warning);
        warning
    }
}

/// Interfaces with XDP programs in front of the fence: those that it is on, and ports, whose packets come to it later.
fn with_xdp(interfaces: &[Interface], fenced: impl Fn(u32) -> bool) -> Vec<(&str, String)> {
    let before =
        interfaces.iter().filter(|on| !on.xdp.is_empty() && (fenced(on.index) || on.standing == Standing::Port));
    before.map(|on| (&*on.name, on.xdp.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))).collect()
}

/// Interfaces with an address of the machine and no MAC, which cannot be fenced.
fn tunnels(interfaces: &[Interface]) -> Vec<&str> {
    let reached = |on: &&Interface| on.up && on.mac.is_none() && on.addresses.iter().any(|held| !held.is_link_local());
    interfaces.iter().filter(reached).map(|on| on.name.as_str()).collect()
}

/// Over which interfaces this machine can be reached beside those that VIPs are on: unless told otherwise a kernel answers
/// on each for the addresses of all. Devices, what has an address of its own, and bridges and bonds that lead out of this
/// machine, which need none to answer. Ports hand on what is judged where it arrives, and ends of pairs without an address, or
/// with a link-local one alone, lead to containers of this machine, as do bridges of nothing else. What has no MAC cannot be
/// fenced.
fn beside(interfaces: &[Interface], vips: &BTreeSet<IpAddr>) -> BTreeSet<u32> {
    let own = |held: &InterfaceAddress| !held.is_link_local() && !vips.contains(&held.address);
    let ports = interfaces.iter().filter(|port| port.standing == Standing::Port && !port.inward);
    let lead_out: BTreeSet<u32> = ports.filter_map(|port| port.master).collect();
    let reached = interfaces.iter().filter(|interface| match interface.standing {
        Standing::Loopback | Standing::Port => false,
        Standing::Physical => interface.mac.is_some(),
        Standing::Virtual => {
            interface.mac.is_some() && (interface.addresses.iter().any(own) || lead_out.contains(&interface.index))
        }
    });
    reached.map(|interface| interface.index).collect()
}

/// Whether the kernel answers ARP on the interface for addresses of others.
fn answers_for_all(interface: &str) -> bool {
    system::InterfaceSysctls::read(interface).arp_ignore.is_none_or(|value| value == 0)
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fence::FenceWish, net::Mac};

    /// Runs an `ip` command in the calling thread's network namespace.
    fn ip(arguments: &str) {
        let status = std::process::Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.expect("iproute2 is installed").success(), "ip {arguments}");
    }

    #[test]
    fn an_interface_that_goes_during_a_look_is_no_trouble_of_the_others() {
        for wish in [FenceWish::Ebpf, FenceWish::Nftables] {
            let looks = std::thread::spawn(move || {
                // SAFETY: takes flags only, and concerns the calling thread alone, which ends here.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    println!("skipped: this user may not make network namespaces");
                    return;
                }
                ip("link add left0 type veth peer name left1");
                ip("link add gone0 type veth peer name gone1");
                let interfaces = Interface::all().expect("reads");
                let at = |vip, name: &str, address: &str| {
                    let on = interfaces.iter().find(|on| on.name == name).expect("there");
                    (VipId::new(vip), on.index, address.parse::<IpAddr>().expect("an address"))
                };
                let both = [at(1, "left0", "10.0.0.100"), at(2, "gone0", "10.0.1.100")];
                let mut fencing = Fencing::new(Fence::open(wish).expect("opens").0);
                let breaches = AtomicU64::new(0);
                let mut keep = || fencing.keep(BootNanos::new(1), &both.into(), &interfaces, &breaches);
                assert_eq!(keep(), Ok(()));
                ip("link del gone0");
                assert_eq!(keep(), Ok(()), "{wish:?}");
                assert_eq!(keep(), Ok(()), "{wish:?}");
                assert_eq!(breaches.into_inner(), 0, "{wish:?}");
                assert_eq!(both.map(|(_, on, address)| fencing.guards(on, address)), [true, false], "{wish:?}");
                assert!(fencing.broken_lately(BootNanos::new(1)).is_none());
            });
            looks.join().expect("as it should be");
        }
    }

    #[test]
    fn what_takes_packets_in_for_itself_is_fenced_beside_the_vips_interfaces() {
        let on = |index, standing, mac: bool, address: &str| Interface {
            index,
            name: format!("if{index}"),
            mac: mac.then(|| Mac::new([2, 0, 0, 0, 0, index as u8])),
            up: true,
            standing,
            no_arp: false,
            master: None,
            over: None,
            inward: false,
            xdp: Vec::new(),
            addresses: (address.parse().into_iter())
                .map(|address| InterfaceAddress { address, prefix: 24, secondary: false, origin: 0 })
                .collect(),
        };
        let port =
            |index, master, inward| Interface { master: Some(master), inward, ..on(index, Standing::Port, true, "") };
        let interfaces = [
            on(1, Standing::Loopback, true, "127.0.0.1"),
            on(2, Standing::Physical, true, ""),
            on(3, Standing::Port, true, "10.0.0.3"),
            on(4, Standing::Virtual, true, "10.0.0.4"),
            on(5, Standing::Virtual, true, "fe80::5"),
            on(6, Standing::Virtual, true, "10.0.0.100"),
            on(7, Standing::Virtual, false, "10.0.0.7"),
            on(8, Standing::Virtual, false, "fe80::8"),
            // Bridges, of containers and one that goes out of the machine as well.
            on(9, Standing::Virtual, true, ""),
            port(10, 9, true),
            on(11, Standing::Virtual, true, "fe80::11"),
            port(12, 11, true),
            port(13, 11, false),
        ];
        assert_eq!(tunnels(&interfaces), ["if7"]);
        assert_eq!(beside(&interfaces, &["10.0.0.100".parse().expect("an address")].into()), [2, 4, 11].into());
    }
}
