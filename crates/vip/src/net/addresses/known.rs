//! Which addresses on the interfaces are ours. Pure.
//!
//! The record alone is not enough: a data folder is emptied when its disk was damaged, and an interface gets another name,
//! while the addresses stay where they are. One that is taken for somebody else's would be guarded no more, and this
//! node's kernel would answer for it beside the owner. So any of three witnesses will do: the kernel's mark, the record
//! (of the address, under whichever name its interface has now), and a fence that an earlier process left, which
//! guards nothing but our addresses.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Interface, InterfaceAddress, OUR_MARK, VipAddress};

/// What is ours of what is there and stands in the record not at all or under another interface.
pub(super) fn unrecorded(
    there: &[Interface],
    recorded: &BTreeSet<VipAddress>,
    fenced: impl Fn(&InterfaceAddress) -> bool,
) -> BTreeSet<VipAddress> {
    let recorded: BTreeSet<Spot<'_>> =
        recorded.iter().map(|at| (at.interface.as_str(), at.address, at.prefix)).collect();
    let all = || there.iter().flat_map(|on| on.addresses.iter().map(move |had| (on, had)));
    let present: BTreeSet<Spot<'_>> = all().map(|(on, had)| (on.name.as_str(), had.address, had.prefix)).collect();
    // Entries that are where they were written down speak for that place only.
    let astray: BTreeSet<(IpAddr, u8)> =
        recorded.difference(&present).map(|(_, address, prefix)| (*address, *prefix)).collect();
    let mut found = BTreeSet::new();
    for (on, had) in all() {
        if recorded.contains(&(on.name.as_str(), had.address, had.prefix)) {
            continue;
        }
        if had.origin == OUR_MARK || astray.contains(&(had.address, had.prefix)) || fenced(had) {
            found.insert(VipAddress { interface: on.name.clone(), address: had.address, prefix: had.prefix });
        }
    }
    found
}

/// The name of an interface, an address on it, and the length of its prefix.
type Spot<'a> = (&'a str, IpAddr, u8);

#[cfg(test)]
mod tests {
    use super::{super::super::Standing, *};

    fn vip(text: &str) -> VipAddress {
        let (interface, address) = text.split_once(' ').expect("interface address");
        VipAddress::host(interface, address.parse().expect("an address"))
    }

    fn check(there: &[&str], recorded: &[&str], fenced: &[&str], expected: &[&str]) {
        let mut interfaces: Vec<Interface> = Vec::new();
        for text in there {
            let marked = text.ends_with(" marked");
            let VipAddress { interface, address, prefix } = vip(text.trim_end_matches(" marked"));
            let held =
                InterfaceAddress { address, prefix, secondary: false, origin: if marked { OUR_MARK } else { 0 } };
            match interfaces.iter_mut().find(|known| known.name == interface) {
                Some(known) => known.addresses.push(held),
                None => interfaces.push(Interface {
                    index: interfaces.len() as u32 + 1,
                    name: interface,
                    mac: None,
                    up: true,
                    standing: Standing::Physical,
                    no_arp: false,
                    master: None,
                    over: None,
                    inward: false,
                    xdp: Vec::new(),
                    addresses: vec![held],
                }),
            }
        }
        let set = |texts: &[&str]| texts.iter().map(|text| vip(text)).collect::<BTreeSet<_>>();
        let fenced: BTreeSet<IpAddr> = fenced.iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(unrecorded(&interfaces, &set(recorded), |had| fenced.contains(&had.address)), set(expected));
    }

    #[test]
    fn an_emptied_record_makes_no_address_a_strangers() {
        check(&["eth0 10.0.0.5 marked", "eth0 10.0.0.6"], &[], &[], &["eth0 10.0.0.5"]);
        check(&["eth0 10.0.0.5", "eth0 10.0.0.6"], &[], &["10.0.0.5"], &["eth0 10.0.0.5"]);
    }

    #[test]
    fn an_address_is_known_under_another_name_of_its_interface() {
        check(&["lan0 10.0.0.5", "lan0 10.0.0.6"], &["eth0 10.0.0.5"], &[], &["lan0 10.0.0.5"]);
        // One that is where it was put says nothing about another of the machine's.
        check(&["eth0 10.0.0.5", "eth1 10.0.0.5"], &["eth0 10.0.0.5"], &[], &[]);
        check(&["eth0 10.0.0.5"], &["eth0 10.0.0.5"], &["10.0.0.5", "10.0.0.9"], &[]);
    }
}
