//! What the kernel knows about an interface: index, MAC, carrier, addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    Mac, NetError,
    route::RouteSocket,
    wire::{Message, attributes, read_u32},
};

/// `struct ifinfomsg`.
const LINK_FIXED_BYTES: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_FIXED_BYTES: usize = 8;
/// Who put an address there; since Linux 5.18 (linux/if_addr.h). An older kernel takes no notice of it.
pub(crate) const IFA_PROTO: u16 = 11;
/// What Ballast's addresses carry there, so that they are known for ours without any file. Not used by the kernel (1 to
/// 3), nor by a routing daemon under its number for routes; `ip address show` prints it as `proto 0xb1`.
pub(crate) const OUR_MARK: u8 = 0xb1;

/// `IFLA_INFO_KIND`, `IFLA_INFO_DATA` and `IFLA_INFO_SLAVE_KIND` of linux/if_link.h.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;

/// `IFLA_VLAN_ID` of linux/if_link.h.
const VLAN_ID: u16 = 1;

/// `IFLA_XDP_PROG_ID` and those of the three modes behind it, of linux/if_link.h.
const XDP_PROG_ID: u16 = 4;
const XDP_HW_PROG_ID: u16 = 7;

/// What an interface is to packets that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The machine talks to itself there.
    Loopback,
    /// Belongs to a bridge or bond and hands everything on to it or past this machine.
    Port,
    /// A device, by what the kernel says.
    Physical,
    /// Made by software, and a network of its own: a bridge, a VLAN, one end of a pair.
    Virtual,
}

/// An interface of any kind that has a MAC address: physical, VLAN, bridge, macvlan, veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it. An interface that goes and comes back has another.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; nothing for tunnels, which have none.
    pub mac: Option<Mac>,
    /// Switched on, with a carrier, and operational.
    pub up: bool,
    /// What it is to packets that arrive.
    pub standing: Standing,
    /// Nobody is asked for neighbours there, and nobody answers (`NOARP`).
    pub no_arp: bool,
    /// What it belongs to, by its index: a bridge, a bond, a VRF.
    pub master: Option<u32>,
    /// What it gets its frames from: of VLANs and macvlans.
    pub over: Option<Over>,
    /// An end of a pair or a tap, which lead to containers and guests of this machine.
    pub inward: bool,
    /// Ids of the XDP programs on it, which see packets before anything else does.
    pub xdp: Vec<u32>,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<InterfaceAddress>,
}

/// What another interface of this namespace stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Its index.
    pub interface: u32,
    /// The VLAN that the other's frames belong to there; zero when they have no tag.
    pub vlan: u16,
}

/// Where frames for an interface come past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The index of the interface there.
    pub interface: u32,
    /// Its MAC.
    pub mac: Option<Mac>,
    /// The VLAN that the frames belong to there; zero when they have no tag.
    pub vlan: u16,
}

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// An IPv4 address that has an older one of the same subnet before it, and goes when that goes.
    pub secondary: bool,
    /// Who put it there, by the kernel's word: zero when it does not say (before Linux 5.18 it never does).
    pub origin: u8,
}

impl InterfaceAddress {
    /// Whether `address` is in the subnet of this one.
    pub fn covers(&self, address: IpAddr) -> bool {
        same_prefix(self.address, address, self.prefix)
    }

    /// Whether it is an IPv6 address of the link, which every interface has that speaks IPv6.
    pub fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    /// Whether its subnet is itself alone.
    pub fn is_host(&self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl Interface {
    /// Reads the interface that is meant (see [`Interface::meant`]) in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetError::NoInterface`] names those that there are; [`NetError::Loopback`]; [`NetError::Port`];
    /// [`NetError::NotEthernet`]; [`NetError::Kernel`].
    pub fn read(name: &str) -> Result<Self, NetError> {
        let all = Self::all()?;
        let present = names(&all);
        let interface = Self::meant(&all, name, |_, _| false).cloned();
        let interface = interface.ok_or_else(|| NetError::NoInterface { name: name.to_owned(), present })?;
        interface.check_suits(&all, false)?;
        if interface.mac.is_none() {
            return Err(NetError::NotEthernet { name: name.to_owned() });
        }
        Ok(interface)
    }

    /// Whether neighbours can hear of an address on it at all; `v4` if it is announced by ARP. `all` are those of the machine.
    ///
    /// # Errors
    /// [`NetError::Loopback`]; [`NetError::Port`]; [`NetError::NoArp`].
    pub fn check_suits(&self, all: &[Self], v4: bool) -> Result<(), NetError> {
        let name = || self.name.clone();
        match self.standing {
            Standing::Loopback => Err(NetError::Loopback { name: name() }),
            Standing::Port => {
                let master = all.iter().find(|other| Some(other.index) == self.master);
                Err(NetError::Port {
                    name: name(),
                    master: master.map_or("its bridge or bond", |on| &on.name).to_owned(),
                })
            }
            Standing::Physical | Standing::Virtual if v4 && self.no_arp => Err(NetError::NoArp { name: name() }),
            Standing::Physical | Standing::Virtual => Ok(()),
        }
    }

    /// Where frames for it come past, itself first: a VLAN or macvlan gets them from what it stands on, whose fence is asked
    /// before its own. Ends above whatever has two tags in its frames. `all` are those of the machine.
    pub fn ways(&self, all: &[Self]) -> Vec<Way> {
        let mut ways = vec![Way { interface: self.index, mac: self.mac, vlan: 0 }];
        let (mut over, mut tag) = (self.over, 0);
        while let Some(Over { interface, vlan }) = over
            && (vlan == 0 || tag == 0)
            && ways.len() < all.len()
            && let Some(below) = all.iter().find(|other| other.index == interface)
        {
            tag = tag.max(vlan);
            ways.push(Way { interface, mac: below.mac, vlan: tag });
            over = below.over;
        }
        ways
    }

    /// Every interface in the calling thread's network namespace, by index.
    ///
    /// # Errors
    /// [`NetError::Kernel`].
    pub fn all() -> Result<Vec<Self>, NetError> {
        let mut socket = RouteSocket::open().map_err(NetError::kernel("open a netlink socket"))?;
        read_all(&mut socket)
    }

    /// The one that is meant by a name, or by a network that it has an address in (`10.0.0.0/24`). Names of interfaces
    /// have no slash, so it is always clear which of both a text is. Addresses of VIPs, which bear our mark or are `ours`
    /// otherwise, say nothing about where a network is, and one with a subnet says more than one without.
    pub fn meant<'i>(all: &'i [Self], by: &str, ours: impl Fn(&Self, &InterfaceAddress) -> bool) -> Option<&'i Self> {
        let Some((address, prefix)) = network(by) else {
            return all.iter().find(|interface| interface.name == by);
        };
        let of_machine = |on: &Self, held: &InterfaceAddress| held.origin != OUR_MARK && !ours(on, held);
        let there = |on: &Self, host: bool| {
            let mut held = on.addresses.iter().filter(|held| held.is_host() == host && of_machine(on, held));
            on.mac.is_some() && held.any(|held| same_prefix(held.address, address, prefix))
        };
        [false, true].into_iter().find_map(|host| all.iter().find(|on| there(on, host)))
    }

    /// Whether this kernel says who put an address there: it does so of its own on the loopback interface.
    pub fn origins_known(all: &[Self]) -> bool {
        all.iter().flat_map(|interface| &interface.addresses).any(|held| held.origin != 0)
    }

    /// Whether the address is on it.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|held| held.address == address)
    }
}

/// Whether an interface is meant by a network it has an address in, and not by its name.
pub fn is_network(by: &str) -> bool {
    network(by).is_some()
}

/// A network as `address/length`, where the text is one.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

/// The names, for messages.
pub(crate) fn names(interfaces: &[Interface]) -> String {
    interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ")
}

pub(crate) fn read_all(socket: &mut RouteSocket) -> Result<Vec<Interface>, NetError> {
    let links = socket.dump(libc::RTM_GETLINK, &[0; LINK_FIXED_BYTES], read_link);
    let mut interfaces = links.map_err(NetError::kernel("list the interfaces"))?;
    let addresses = socket.dump(libc::RTM_GETADDR, &[0; ADDRESS_FIXED_BYTES], read_address);
    for (index, address) in addresses.map_err(NetError::kernel("list the addresses"))? {
        if let Some(interface) = interfaces.iter_mut().find(|interface| interface.index == index) {
            interface.addresses.push(address);
        }
    }
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// An interface without its addresses, from an `RTM_NEWLINK`.
pub(crate) fn read_link(message: &Message<'_>) -> Option<Interface> {
    let index = read_u32(message.payload, 4)?;
    let flags = read_u32(message.payload, 8)?;
    let needed = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOWER_UP) as u32;
    let (mut name, mut mac, mut xdp) = (None, None, Vec::new());
    let (mut master, mut made, mut routed, mut inward) = (None, false, false, false);
    let (mut link, mut elsewhere, mut stands, mut vlan) = (None, false, false, 0);
    for (kind, payload) in message.attributes(LINK_FIXED_BYTES) {
        match kind {
            libc::IFLA_IFNAME => name = Some(String::from_utf8_lossy(payload).trim_end_matches('\0').to_owned()),
            libc::IFLA_ADDRESS => mac = Mac::from_slice(payload),
            libc::IFLA_MASTER => master = read_u32(payload, 0),
            libc::IFLA_XDP => xdp = read_xdp(payload),
            libc::IFLA_LINK => link = read_u32(payload, 0),
            libc::IFLA_LINK_NETNSID => elsewhere = true,
            libc::IFLA_LINKINFO => {
                let of_vlan = attributes(payload).any(|(kind, name)| kind == INFO_KIND && name.starts_with(b"vlan"));
                for (kind, payload) in attributes(payload) {
                    made |= kind == INFO_KIND;
                    inward |= kind == INFO_KIND && (payload.starts_with(b"veth") || payload.starts_with(b"tun"));
                    stands |= kind == INFO_KIND && (of_vlan || payload == b"macvlan\0" || payload == b"ipvlan\0");
                    if kind == INFO_DATA && of_vlan {
                        let mut ids = attributes(payload).filter(|(kind, _)| *kind == VLAN_ID);
                        let id = ids.find_map(|(_, id)| id.try_into().ok());
                        vlan = id.map_or(0, u16::from_ne_bytes);
                    }
                    // What belongs to a VRF receives its packets itself.
                    routed |= kind == INFO_SLAVE_KIND && payload.starts_with(b"vrf");
                }
            }
            _ => {}
        }
    }
    let standing = match (flags & libc::IFF_LOOPBACK as u32 != 0, master.is_some() && !routed, made) {
        (true, _, _) => Standing::Loopback,
        (false, true, _) => Standing::Port,
        (false, false, false) => Standing::Physical,
        (false, false, true) => Standing::Virtual,
    };
    let (up, no_arp) = (flags & needed == needed, flags & libc::IFF_NOARP as u32 != 0);
    let over = link.filter(|_| stands && !elsewhere).map(|interface| Over { interface, vlan });
    Some(Interface { index, name: name?, mac, up, standing, no_arp, master, over, inward, xdp, addresses: Vec::new() })
}

/// The ids in an `IFLA_XDP`. With programs of several modes there is one for each, and none for all.
fn read_xdp(payload: &[u8]) -> Vec<u32> {
    let ids = attributes(payload).filter(|(kind, _)| (XDP_PROG_ID..=XDP_HW_PROG_ID).contains(kind));
    let ids: BTreeSet<u32> = ids.filter_map(|(_, id)| read_u32(id, 0)).filter(|id| *id != 0).collect();
    ids.into_iter().collect()
}

/// An interface's index and an address on it, from an `RTM_NEWADDR` or `RTM_DELADDR`.
pub(crate) fn read_address(message: &Message<'_>) -> Option<(u32, InterfaceAddress)> {
    let &[_, prefix, flags, ..] = message.payload else { return None };
    let index = read_u32(message.payload, 4)?;
    let (mut local, mut other, mut origin) = (None, None, 0);
    for (kind, payload) in message.attributes(ADDRESS_FIXED_BYTES) {
        match kind {
            // On a point-to-point link `IFA_ADDRESS` is the other end.
            libc::IFA_LOCAL => local = read_ip(payload),
            libc::IFA_ADDRESS => other = read_ip(payload),
            IFA_PROTO => origin = payload.first().copied().unwrap_or_default(),
            _ => {}
        }
    }
    let address = local.or(other)?;
    let secondary = address.is_ipv4() && u32::from(flags) & libc::IFA_F_SECONDARY != 0;
    Some((index, InterfaceAddress { address, prefix, secondary, origin }))
}

pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// The bytes of an address in network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Whether two addresses agree in their first `prefix` bits.
pub(crate) fn same_prefix(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            let differs = one.to_bits() ^ other.to_bits();
            differs.checked_shr(32_u32.saturating_sub(prefix.into())).unwrap_or(0) == 0
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            let differs = one.to_bits() ^ other.to_bits();
            differs.checked_shr(128_u32.saturating_sub(prefix.into())).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_compared_bit_by_bit() {
        let check = |one: &str, other: &str, prefix, expected| {
            let parse = |text: &str| text.parse().expect("an address");
            assert_eq!(same_prefix(parse(one), parse(other), prefix), expected, "{one} {other}/{prefix}");
        };
        check("10.0.0.1", "10.0.0.2", 24, true);
        check("10.0.0.1", "10.0.1.2", 24, false);
        check("10.0.0.1", "10.0.1.2", 23, true);
        check("10.0.0.1", "10.0.0.1", 32, true);
        check("10.0.0.1", "10.0.0.0", 32, false);
        check("10.0.0.1", "192.168.0.1", 0, true);
        check("fe80::1", "fe80::2", 64, true);
        check("fe80::1", "fe81::1", 64, false);
        check("::1", "ff::", 0, true);
        check("::1", "::2", 128, false);
        check("::1", "0.0.0.1", 0, false);
    }

    #[test]
    fn an_interface_is_meant_by_its_name_or_by_a_network_it_has_an_address_in() {
        let on = |index, name: &str, address: &str| Interface {
            index,
            name: name.to_owned(),
            mac: (name != "lo").then(|| Mac::new([2, 0, 0, 0, 0, 1])),
            up: true,
            standing: Standing::Physical,
            no_arp: false,
            master: None,
            over: None,
            inward: false,
            xdp: Vec::new(),
            addresses: vec![InterfaceAddress {
                address: address.parse().expect("an address"),
                prefix: 24,
                secondary: false,
                origin: 0,
            }],
        };
        let mut all = [
            on(1, "lo", "127.0.0.1"),
            // With addresses of VIPs and a single one of the machine's before those that the networks are known by.
            on(4, "eth4", "192.168.0.1"),
            on(7, "eth2", "10.0.0.5"),
            on(9, "eth3", "fd00::5"),
        ];
        for (address, prefix, origin) in
            [("10.0.0.100", 32, OUR_MARK), ("10.0.0.101", 24, 7), ("10.0.0.102", 32, 0), ("10.0.2.1", 32, 0)]
        {
            let address = address.parse().expect("an address");
            all[1].addresses.push(InterfaceAddress { address, prefix, secondary: false, origin });
        }
        let check = |by: &str, expected: Option<&str>| {
            let meant = Interface::meant(&all, by, |on, held| on.name == "eth4" && held.origin == 7);
            assert_eq!(meant.map(|interface| interface.name.as_str()), expected, "{by}");
        };
        check("eth2", Some("eth2"));
        check("eth0", None);
        check("10.0.0.0/24", Some("eth2"));
        check("10.0.0.9/24", Some("eth2"));
        check("10.0.1.0/24", None);
        check("10.0.2.0/24", Some("eth4"));
        check("fd00::/64", Some("eth3"));
        // VIPs need Ethernet.
        check("127.0.0.0/8", None);
        check("10.0.0.0/33", None);
    }

    #[test]
    fn frames_come_past_what_an_interface_stands_on() {
        let on = |index: u8, over: Option<(u32, u16)>| Interface {
            index: index.into(),
            name: String::new(),
            mac: Some(Mac::new([2, 0, 0, 0, 0, index])),
            up: true,
            standing: Standing::Virtual,
            no_arp: false,
            master: None,
            over: over.map(|(interface, vlan)| Over { interface, vlan }),
            inward: false,
            xdp: Vec::new(),
            addresses: Vec::new(),
        };
        let all = [
            on(1, None),
            on(2, Some((1, 0))),
            on(3, Some((1, 10))),
            on(4, Some((3, 0))),
            on(5, Some((3, 20))),
            on(6, Some((9, 30))),
            // No kernel does that.
            on(7, Some((7, 0))),
        ];
        let check = |index: usize, expected: &[(u32, u16)]| {
            let ways = all[index - 1].ways(&all);
            assert!(ways.iter().all(|way| way.mac == all[way.interface as usize - 1].mac));
            assert_eq!(ways.iter().map(|way| (way.interface, way.vlan)).collect::<Vec<_>>(), expected, "{index}");
        };
        check(1, &[(1, 0)]);
        check(2, &[(2, 0), (1, 0)]);
        check(3, &[(3, 0), (1, 10)]);
        check(4, &[(4, 0), (3, 0), (1, 10)]);
        check(5, &[(5, 0), (3, 20)]);
        check(6, &[(6, 0)]);
        check(7, &[(7, 0); 7]);
    }

    #[test]
    fn loopback_is_there_and_a_missing_interface_is_named_with_those_there_are() {
        let all = Interface::all().expect("reading needs no privilege");
        assert!(all.iter().any(|interface| interface.name == "lo"), "{all:?}");
        let error = Interface::read("nosuch0").expect_err("there is none").to_string();
        assert!(error.starts_with("no interface nosuch0 on this machine; there are: "), "{error}");
        assert!(error.contains("lo") && error.contains("correct vip.interface in ballastd.toml"), "{error}");
        for meant in ["lo", "127.0.0.0/8"] {
            let error = Interface::read(meant).expect_err("no neighbour is there").to_string();
            assert!(error.starts_with("lo is a loopback interface") && error.contains("set vip.interface"), "{error}");
        }
    }
}
