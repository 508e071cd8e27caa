//! What the fence's nftables rules look like, as text for the `nft` program.
//!
//! One table of the `netdev` family, whose ingress and egress hooks see ARP, IPv4 and IPv6 alike: sets of the
//! addresses that are guarded, sets of those that may pass (their elements time out), two chains that judge, and for
//! each interface two that jump there. IPv6 addresses are matched as stretches of bytes, because a neighbour
//! discovery target can be matched in no other way and both have to fit one set.
//!
//! Not here: the elements that let a VIP pass (`nft_lease`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

/// The table's name.
pub(super) const TABLE: &str = "ballast";

/// What is guarded where: interfaces by index with their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub addresses: BTreeSet<IpAddr>,
    pub interfaces: BTreeMap<u32, String>,
}

impl Rules {
    /// Forgets the interfaces that are not there any more, and returns which these are.
    pub(super) fn without(&mut self, there: impl Fn(u32) -> bool) -> BTreeSet<u32> {
        let gone = self.interfaces.keys().copied().filter(|index| !there(*index)).collect();
        self.interfaces.retain(|index, _| there(*index));
        gone
    }
}

/// Priority -500: before anybody else's chains on the same hook, which could accept nothing on our behalf but could
/// send packets elsewhere.
const JUDGES: &str = "    set vip4 { type ipv4_addr; }
    set lease4 { type ipv4_addr; flags timeout; }
    set vip6 { typeof @nh,192,128; }
    set lease6 { typeof @nh,192,128; flags timeout; }
    chain judge_in {
        meta pkttype other return
        ip daddr @vip4 ip daddr != @lease4 drop
        arp daddr ip @vip4 arp daddr ip != @lease4 drop
        meta protocol ip6 @nh,192,128 @vip6 @nh,192,128 != @lease6 drop
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } @th,64,128 @vip6 @th,64,128 != @lease6 drop
    }
    chain judge_out {
        ip saddr @vip4 ip saddr != @lease4 drop
        arp saddr ip @vip4 arp saddr ip != @lease4 drop
        meta protocol ip6 @nh,64,128 @vip6 @nh,64,128 != @lease6 drop
        icmpv6 type nd-neighbor-advert @th,64,128 @vip6 @th,64,128 != @lease6 drop
    }
";

/// Puts the whole table in the place of any that is there, in one transaction; everything in it is closed.
pub(super) fn replace(rules: &Rules) -> String {
    // Adding first makes the deletion succeed where there is no table.
    let mut text =
        format!("table netdev {TABLE} {{ }}\ndelete table netdev {TABLE}\ntable netdev {TABLE} {{\n{JUDGES}}}\n");
    text.push_str(&change(&Rules::default(), rules));
    text
}

/// Turns the rules for one plan into those for another; what both name is not touched.
pub(super) fn change(old: &Rules, new: &Rules) -> String {
    let mut text = String::new();
    elements(&mut text, "add", new.addresses.difference(&old.addresses));
    for (index, name) in &new.interfaces {
        if old.interfaces.get(index) != Some(name) {
            remove_chains(&mut text, old, *index);
            for (chain, hook) in [("in", "ingress"), ("out", "egress")] {
                let _ = writeln!(
                    text,
                    "add chain netdev {TABLE} {chain}_{index} \
                     {{ type filter hook {hook} device \"{name}\" priority -500; }}\n\
                     add rule netdev {TABLE} {chain}_{index} jump judge_{chain}"
                );
            }
        }
    }
    for index in old.interfaces.keys().filter(|index| !new.interfaces.contains_key(index)) {
        remove_chains(&mut text, old, *index);
    }
    elements(&mut text, "delete", old.addresses.difference(&new.addresses));
    text
}

/// Removes the chains of interfaces that are gone. Kernels before 6.15 have removed them with the interface; adding makes
/// the deletion succeed there too.
pub(super) fn remove_gone(gone: &BTreeSet<u32>) -> String {
    let chains =
        gone.iter().flat_map(|index| ["in", "out"].map(|chain| format!("chain netdev {TABLE} {chain}_{index}")));
    chains.map(|chain| format!("add {chain}\ndelete {chain}\n")).collect()
}

/// What `nft` lists, without the chains of these interfaces.
pub(super) fn without_chains(lines: &[String], interfaces: &BTreeSet<u32>) -> Vec<String> {
    let heads: BTreeSet<String> =
        interfaces.iter().flat_map(|index| [format!("chain in_{index} {{"), format!("chain out_{index} {{")]).collect();
    let mut skips = false;
    let mut kept = Vec::new();
    for line in lines {
        skips |= heads.contains(line.trim());
        if !skips {
            kept.push(line.clone());
        }
        skips &= line.trim() != "}";
    }
    kept
}

fn remove_chains(text: &mut String, old: &Rules, index: u32) {
    if old.interfaces.contains_key(&index) {
        for chain in ["in", "out"] {
            let _ = writeln!(text, "delete chain netdev {TABLE} {chain}_{index}");
        }
    }
}

fn elements<'a>(text: &mut String, verb: &str, addresses: impl Iterator<Item = &'a IpAddr>) {
    for address in addresses {
        let _ = match address {
            IpAddr::V4(address) => writeln!(text, "{verb} element netdev {TABLE} vip4 {{ {address} }}"),
            IpAddr::V6(address) => {
                writeln!(text, "{verb} element netdev {TABLE} vip6 {{ 0x{:032x} }}", address.to_bits())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(addresses: &[&str], interfaces: &[(u32, &str)]) -> Rules {
        Rules {
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            interfaces: interfaces.iter().map(|(index, name)| (*index, (*name).to_owned())).collect(),
        }
    }

    /// Compares with the golden file, or writes it when `UPDATE_GOLDEN` is set.
    fn check(name: &str, text: &str) {
        let path = format!("{}/src/fence/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text).expect("golden file written");
        }
        let golden = std::fs::read_to_string(&path).expect("golden file");
        assert_eq!(text, golden, "{path} differs; set UPDATE_GOLDEN if that is meant");
    }

    #[test]
    fn the_table_is_replaced_as_a_whole() {
        let rules = rules(&["10.0.0.5", "2001:db8::5", "10.0.0.4"], &[(3, "eth1"), (2, "eth0")]);
        check("replace.nft", &replace(&rules));
    }

    #[test]
    fn chains_of_interfaces_that_are_gone_are_left_out() {
        let lines: Vec<String> =
            ["table {", "\tchain in_2 {", "\t\tjump judge_in", "\t}", "\tchain in_22 {", "\t}", "}"]
                .map(str::to_owned)
                .to_vec();
        assert_eq!(without_chains(&lines, &[2].into()), ["table {", "\tchain in_22 {", "\t}", "}"]);
        assert_eq!(without_chains(&lines, &BTreeSet::new()), lines);
    }

    #[test]
    fn a_change_names_only_the_difference() {
        let old = rules(&["10.0.0.4", "10.0.0.5", "2001:db8::5"], &[(2, "eth0"), (3, "eth1"), (5, "old")]);
        let new = rules(&["10.0.0.5", "10.0.0.6", "2001:db8::6"], &[(2, "eth0"), (4, "eth2"), (5, "new")]);
        check("change.nft", &change(&old, &new));
        assert_eq!(change(&new, &new), "");
    }
}
