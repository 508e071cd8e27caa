//! The fence by kernel programs: the strict level.
//!
//! Each process loads its own programs with maps of their own, in which every deadline is zero. Putting them in the
//! place of an earlier process's programs therefore closes the fence in the same step.
//!
//! The order of changes: addresses are in the map before a program that reads it is attached, and are taken out of
//! it last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
};

use aya::{
    EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{Program, SchedClassifier},
};
use ballast_core::ids::VipId;

use super::{
    Breach, Earlier, FenceError, Guarded, Unfenced,
    slots::{SLOT_BYTES, Slots},
    tc::{Hook, Link, Tc},
    tcx,
};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fence.bpf.o"));

/// A classifier that the kernel has taken.
struct Loaded {
    hook: Hook,
    program: RawFd,
    id: u32,
}

pub(super) struct EbpfFence {
    /// Owns the programs' descriptors.
    _object: aya::Ebpf,
    programs: Vec<Loaded>,
    vips: HashMap<MapData, [u8; 16], u32>,
    slots: Arc<Slots>,
    tc: Tc,
    addresses: BTreeMap<[u8; 16], VipId>,
    interfaces: BTreeSet<u32>,
    /// Found by the last look.
    earlier: Vec<Earlier>,
    /// It found each address to obey its VIP's deadline, and the map was not written to since.
    all_obey: bool,
}

/// Why this level is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The kernel refused the programs or maps.
    #[error("loading the fence's programs (Linux 5.8 or newer, CAP_BPF and CAP_NET_ADMIN are needed)")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The object lacks a part.
    #[error("the embedded object has no usable {0}: this build is broken")]
    Object(&'static str),
    /// The array of deadlines cannot be mapped.
    #[error("mapping the deadlines")]
    Map(#[source] io::Error),
    /// The kernel's programs read another clock than this process.
    #[error(
        "this process is in a time namespace with a boottime offset of {0}, which the kernel's programs do not have: deadlines \
         would be off by it; run ballastd without one (`cat /proc/self/timens_offsets`)"
    )]
    TimeNamespace(String),
    /// No netlink.
    #[error("opening a netlink socket")]
    Netlink(#[source] io::Error),
}

impl EbpfFence {
    pub(super) fn open() -> Result<Self, EbpfError> {
        if let Some(offset) = fs::read_to_string("/proc/self/timens_offsets").ok().as_deref().and_then(boottime_offset)
        {
            return Err(EbpfError::TimeNamespace(offset));
        }
        let load = |error: aya::EbpfError| EbpfError::Load(error.into());
        let mut object = EbpfLoader::new().load(OBJECT).map_err(load)?;
        let mut programs = Vec::new();
        for (name, hook) in [("fence_in", Hook::Ingress), ("fence_out", Hook::Egress)] {
            let program: &mut SchedClassifier = object
                .program_mut(name)
                .and_then(|program: &mut Program| program.try_into().ok())
                .ok_or(EbpfError::Object(name))?;
            program.load().map_err(|error| EbpfError::Load(error.into()))?;
            let fd = program.fd().map_err(|error| EbpfError::Load(error.into()))?.as_fd().as_raw_fd();
            let id = program.info().map_err(|error| EbpfError::Load(error.into()))?.id();
            programs.push(Loaded { hook, program: fd, id });
        }
        let Some(Map::Array(array)) = object.take_map("slots") else { return Err(EbpfError::Object("slots")) };
        let info = array.info().map_err(|error| EbpfError::Load(error.into()))?;
        if info.value_size() as usize != SLOT_BYTES {
            return Err(EbpfError::Object("slots"));
        }
        let slots = Slots::map(array.fd().as_fd(), info.max_entries() as usize).map_err(EbpfError::Map)?;
        let vips = object.take_map("vips").ok_or(EbpfError::Object("vips"))?;
        Ok(Self {
            _object: object,
            programs,
            vips: HashMap::try_from(vips).map_err(|_| EbpfError::Object("vips"))?,
            slots: Arc::new(slots),
            tc: Tc::open().map_err(EbpfError::Netlink)?,
            addresses: BTreeMap::new(),
            interfaces: BTreeSet::new(),
            earlier: Vec::new(),
            all_obey: false,
        })
    }

    pub(super) fn slots(&self) -> Arc<Slots> {
        Arc::clone(&self.slots)
    }

    pub(super) fn guard(&mut self, wanted: &[Guarded], also: &[u32]) -> Result<Vec<Unfenced>, FenceError> {
        let links = self.links()?;
        // What one interface or address meets keeps no other unguarded.
        let mut refused = None;
        let interfaces: BTreeSet<u32> = wanted.iter().map(|guarded| guarded.interface).collect();
        let addresses: BTreeMap<_, _> = wanted.iter().map(|guarded| (mapped(guarded.address), guarded.vip)).collect();
        for (address, vip) in &addresses {
            if self.addresses.get(address) == Some(vip) {
                continue;
            }
            match self.point(*address, *vip) {
                Ok(()) => drop(self.addresses.insert(*address, *vip)),
                Err(error) => {
                    // It obeys no deadline, or that of another VIP.
                    self.addresses.remove(address);
                    refused.get_or_insert(error);
                }
            }
        }
        self.interfaces.clear();
        // One that has gone since it was named lets nothing pass.
        for link in links.iter().filter(|link| interfaces.contains(&link.index)) {
            if !link.ethernet {
                refused.get_or_insert(FenceError::NotEthernet { interface: link.name.clone() });
                continue;
            }
            match self.attach(link.index) {
                Err(error) if error.is_gone() => {}
                attached => {
                    // One that it is not attached to is found by the next look, for it is among those that it should be on.
                    self.interfaces.insert(link.index);
                    attached.err().map(|error| refused.get_or_insert(error));
                }
            }
        }
        let unfenced = self.attach_also(&links, also);
        if let Some(error) = refused {
            return Err(error);
        }
        for link in links.iter().filter(|link| !interfaces.contains(&link.index) && !also.contains(&link.index)) {
            self.tc.detach_both(link)?;
        }
        self.forget_all_but(&addresses)?;
        Ok(unfenced)
    }

    pub(super) fn verify(&mut self) -> Vec<Breach> {
        let mut breaches = Vec::new();
        self.earlier.clear();
        for interface in &self.interfaces {
            for loaded in &self.programs {
                let hook = loaded.hook.as_str();
                let mut before = Vec::new();
                let attached = self.tc.look(*interface, loaded.hook, &mut before);
                // Not being allowed to ask is no trouble of the fence.
                let ids = tcx::programs(*interface, loaded.hook).unwrap_or_default();
                before.extend(ids.into_iter().map(|id| format!("tcx program {id}")));
                let earlier = before.into_iter().map(|what| format!("{what} at {hook}"));
                self.earlier.extend(earlier.map(|what| Earlier { interface: *interface, what }));
                let what = match attached {
                    Ok(Some(id)) if id == loaded.id => continue,
                    Ok(Some(id)) => format!("the {hook} filter runs program {id} and not ours ({})", loaded.id),
                    Ok(None) => format!("the {hook} filter is gone"),
                    Err(error) => format!("the {hook} filter cannot be read: {error}"),
                };
                breaches.push(Breach { interface: *interface, what });
            }
        }
        let stray = self.addresses.iter().filter(|(address, vip)| !self.obeys(address, **vip));
        let stray: Vec<[u8; 16]> = stray.map(|(address, _)| *address).collect();
        self.all_obey = stray.is_empty();
        for address in stray {
            let what = format!("{} is not in the map of guarded addresses", Ipv6Addr::from(address).to_canonical());
            breaches.push(Breach { interface: 0, what });
        }
        breaches
    }

    pub(super) fn earlier(&self) -> &[Earlier] {
        &self.earlier
    }

    pub(super) fn guards(&self, interface: u32, address: IpAddr) -> bool {
        let address = mapped(address);
        let vip = self.addresses.get(&address).filter(|_| self.interfaces.contains(&interface));
        vip.is_some_and(|vip| self.all_obey || self.obeys(&address, *vip))
    }

    /// Whether the map says that the address obeys the VIP's deadline.
    fn obeys(&self, address: &[u8; 16], vip: VipId) -> bool {
        let slot = self.vips.get(address, 0).ok();
        slot.is_some() && slot == self.slots.index(vip).map(|index| index as u32)
    }

    pub(super) fn repair(&mut self) -> Result<(), FenceError> {
        for (address, vip) in self.addresses.clone() {
            self.point(address, vip)?;
        }
        for interface in self.interfaces.clone() {
            self.attach(interface)?;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Result<(), FenceError> {
        for link in self.links()? {
            self.tc.clear(&link)?;
        }
        self.interfaces.clear();
        self.forget_all_but(&BTreeMap::new())
    }

    fn links(&mut self) -> Result<Vec<Link>, FenceError> {
        self.tc.links().map_err(FenceError::Links)
    }

    fn attach_also(&mut self, links: &[Link], also: &[u32]) -> Vec<Unfenced> {
        let mut unfenced = Vec::new();
        for link in links.iter().filter(|link| link.ethernet && also.contains(&link.index)) {
            match self.attach(link.index) {
                Ok(()) => drop(self.interfaces.insert(link.index)),
                Err(error) if error.is_gone() => {}
                Err(error) => unfenced.push(Unfenced { interface: link.index, why: super::chain(&error) }),
            }
        }
        unfenced
    }

    fn attach(&mut self, interface: u32) -> Result<(), FenceError> {
        let refused = |hook, source| FenceError::Attach { interface, hook, source };
        let mut hooks = false;
        for loaded in &self.programs {
            // Attaching anew what is attached would only make the kernel wait for readers.
            if self.tc.attached(interface, loaded.hook).ok().flatten() == Some(loaded.id) {
                continue;
            }
            if !hooks {
                self.tc.ensure_hooks(interface).map_err(|error| refused("clsact", error))?;
                hooks = true;
            }
            let hook = loaded.hook;
            self.tc.attach(interface, hook, loaded.program).map_err(|error| refused(hook.as_str(), error))?;
        }
        Ok(())
    }

    /// Makes the address obey the VIP's deadline.
    fn point(&mut self, address: [u8; 16], vip: VipId) -> Result<(), FenceError> {
        self.all_obey = false;
        let slot = self.slots.assign(vip, |known| self.addresses.values().any(|of| *of == known));
        let slot = slot.ok_or(FenceError::NoSlots)?;
        self.vips.insert(address, slot as u32, 0).map_err(|error| FenceError::Addresses(error.into()))
    }

    fn forget_all_but(&mut self, wanted: &BTreeMap<[u8; 16], VipId>) -> Result<(), FenceError> {
        let kept: BTreeSet<VipId> = wanted.values().copied().collect();
        let gone: Vec<_> = self.addresses.iter().map(|(address, vip)| (*address, *vip)).collect();
        for (address, vip) in gone.into_iter().filter(|(address, _)| !wanted.contains_key(address)) {
            self.all_obey = false;
            if !kept.contains(&vip) {
                self.slots.clear(vip);
            }
            match self.vips.remove(&address) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(aya::maps::MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(FenceError::Addresses(error.into())),
            }
            self.addresses.remove(&address);
        }
        Ok(())
    }
}

/// How far this process's `CLOCK_BOOTTIME` is from the kernel's own, if it is, by a /proc/*/timens_offsets.
fn boottime_offset(text: &str) -> Option<String> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("boottime"))?.split_whitespace();
    let (seconds, nanos) = (words.next()?, words.next()?);
    (seconds != "0" || nanos != "0").then(|| format!("{seconds} s and {nanos} ns"))
}

/// As the programs look addresses up: IPv4 mapped into IPv6.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_of_the_clock_is_found() {
        let check = |boottime: &str, expected: Option<&str>| {
            let text = format!("monotonic           7         0\nboottime   {boottime}\n");
            assert_eq!(boottime_offset(&text).as_deref(), expected, "{text}");
        };
        check("         0         0", None);
        check("    864000         0", Some("864000 s and 0 ns"));
        check("        -1 500000000", Some("-1 s and 500000000 ns"));
        assert_eq!(boottime_offset(""), None);
    }
}
