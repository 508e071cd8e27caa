//! Which addresses to add and take away, from what is wanted, what is ours and what is there. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{super::interface::names, Interface, Problem, VipAddress};

/// One thing to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take ours from its interface.
    Remove { index: u32, address: VipAddress },
    /// It is gone already, with its interface perhaps.
    Forget { address: VipAddress },
    /// Put it there; it is ours from before when somebody else took it away.
    Add { index: u32, address: VipAddress, again: bool },
}

impl Step {
    /// What it puts on an interface.
    pub fn added(&self) -> Option<&VipAddress> {
        match self {
            Self::Add { address, .. } => Some(address),
            Self::Remove { .. } | Self::Forget { .. } => None,
        }
    }

    /// What is not where it was after it.
    pub fn taken(&self) -> Option<&VipAddress> {
        match self {
            Self::Remove { address, .. } | Self::Forget { address } => Some(address),
            Self::Add { .. } => None,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub problems: Vec<Problem>,
}

/// `ipv6_disabled` says for an interface's name whether the kernel takes no IPv6 address on it.
pub(super) fn plan(
    there: &[Interface],
    ours: &BTreeSet<VipAddress>,
    wanted: &BTreeSet<VipAddress>,
    ipv6_disabled: impl Fn(&str) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    for address in ours.difference(wanted) {
        leave(there, address, &mut plan);
    }
    let seen = Seen::of(there, ours);
    for address in wanted {
        let Some(interface) = there.iter().find(|interface| interface.name == address.interface) else {
            plan.problems.push(Problem::NoInterface { address: address.clone(), present: names(there) });
            continue;
        };
        if address.address.is_ipv6() && ipv6_disabled(&interface.name) {
            plan.problems.push(Problem::Ipv6Disabled { address: address.clone() });
            continue;
        }
        want(&seen, ours, interface, address, &mut plan);
    }
    plan
}

/// What is there, sorted once: hundreds of addresses are looked for among hundreds.
struct Seen<'a> {
    held: BTreeSet<(u32, IpAddr, u8)>,
    /// Addresses that are not ours, with an interface that has them.
    strange: BTreeMap<IpAddr, &'a Interface>,
    /// By interface: addresses that are not ours and that subnets are known by.
    own: BTreeMap<u32, Vec<&'a super::InterfaceAddress>>,
}

impl<'a> Seen<'a> {
    fn of(there: &'a [Interface], ours: &BTreeSet<VipAddress>) -> Self {
        let ours: BTreeSet<_> = ours.iter().map(|own| (own.interface.as_str(), own.address, own.prefix)).collect();
        let mut seen = Self { held: BTreeSet::new(), strange: BTreeMap::new(), own: BTreeMap::new() };
        for on in there {
            for held in &on.addresses {
                seen.held.insert((on.index, held.address, held.prefix));
                if ours.contains(&(on.name.as_str(), held.address, held.prefix)) {
                    continue;
                }
                seen.strange.entry(held.address).or_insert(on);
                if !held.address.is_loopback() && !is_link_local(held.address) {
                    seen.own.entry(on.index).or_default().push(held);
                }
            }
        }
        seen
    }
}

fn leave(there: &[Interface], address: &VipAddress, plan: &mut Plan) {
    let found = there.iter().find_map(|interface| {
        let held = interface.addresses.iter().find(|held| is(interface, held.address, held.prefix, address))?;
        Some((interface, held))
    });
    let Some((interface, held)) = found else {
        plan.steps.push(Step::Forget { address: address.clone() });
        return;
    };
    // The kernel takes the secondary addresses of a subnet away together with its primary one.
    let dependent = |other: &&super::InterfaceAddress| {
        other.secondary && other.prefix == held.prefix && other.covers(held.address) && other.address != held.address
    };
    if !held.secondary
        && held.address.is_ipv4()
        && let Some(other) = interface.addresses.iter().find(dependent)
    {
        plan.problems.push(Problem::TakesOthersAway { address: address.clone(), other: other.address });
        return;
    }
    plan.steps.push(Step::Remove { index: interface.index, address: address.clone() });
}

fn want(seen: &Seen<'_>, ours: &BTreeSet<VipAddress>, interface: &Interface, address: &VipAddress, plan: &mut Plan) {
    if let Some(on) = seen.strange.get(&address.address) {
        plan.problems.push(Problem::NotOurs { address: address.clone(), on: on.name.clone() });
        return;
    }
    let own = seen.own.get(&interface.index).map(Vec::as_slice).unwrap_or_default();
    let own: Vec<_> = own.iter().filter(|held| held.address.is_ipv4() == address.address.is_ipv4()).copied().collect();
    if !own.iter().any(|held| held.covers(address.address)) {
        let subnets = own.iter().map(|held| format!("{}/{}", held.address, held.prefix)).collect();
        plan.problems.push(Problem::OutsideSubnets { address: address.clone(), subnets });
    }
    if seen.held.contains(&(interface.index, address.address, address.prefix)) {
        return;
    }
    // With the prefix of a subnet that the interface has no address of its own in, the VIP would be
    // the subnet's primary address, and the kernel's choice when it talks to a neighbour.
    let shares = |held: &&&super::InterfaceAddress| held.prefix == address.prefix && held.covers(address.address);
    if address.address.is_ipv4() && address.prefix < 32 && own.iter().find(shares).is_none() {
        plan.problems.push(Problem::WouldBePrimary { address: address.clone() });
        return;
    }
    plan.steps.push(Step::Add { index: interface.index, address: address.clone(), again: ours.contains(address) });
}

fn is(on: &Interface, address: IpAddr, prefix: u8, vip: &VipAddress) -> bool {
    on.name == vip.interface && address == vip.address && prefix == vip.prefix
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::Standing, InterfaceAddress},
        *,
    };

    fn vip(text: &str) -> VipAddress {
        let (interface, rest) = text.split_once(' ').expect("interface address/prefix");
        let (address, prefix) = rest.split_once('/').expect("a prefix");
        VipAddress {
            interface: interface.to_owned(),
            address: address.parse().expect("an address"),
            prefix: prefix.parse().expect("a number"),
        }
    }

    fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| {
            let secondary = text.ends_with(" secondary");
            let VipAddress { address, prefix, .. } = vip(&format!("x {}", text.trim_end_matches(" secondary")));
            InterfaceAddress { address, prefix, secondary, origin: 0 }
        });
        Interface {
            index,
            name: name.to_owned(),
            mac: None,
            up: true,
            standing: Standing::Physical,
            no_arp: false,
            master: None,
            over: None,
            inward: false,
            xdp: Vec::new(),
            addresses: addresses.collect(),
        }
    }

    /// What a plan says, one line each: steps, then problems.
    fn check(there: &[Interface], ours: &[&str], wanted: &[&str], expected: &[&str]) {
        let set = |texts: &[&str]| texts.iter().map(|text| vip(text)).collect();
        let Plan { steps, problems } = plan(there, &set(ours), &set(wanted), |name| name == "no6");
        let steps = steps.into_iter().map(|step| match step {
            Step::Remove { index, address } => format!("remove {address} at {index}"),
            Step::Forget { address } => format!("forget {address}"),
            Step::Add { index, address, again } => {
                format!("add {address} at {index}{}", if again { " again" } else { "" })
            }
        });
        let problems = problems
            .into_iter()
            .map(|problem| format!("{}: {problem}", if problem.is_warning() { "warning" } else { "error" }));
        let said: Vec<String> = steps.chain(problems).collect();
        assert!(
            said.len() == expected.len() && said.iter().zip(expected).all(|(said, wanted)| said.starts_with(wanted)),
            "{said:#?} is not {expected:#?}"
        );
    }

    #[test]
    fn adds_what_is_missing_and_takes_away_what_is_not_wanted() {
        let there = [interface(1, "lo", &["127.0.0.1/8"]), interface(2, "eth0", &["10.0.0.1/24", "10.0.0.6/32"])];
        check(&there, &[], &["eth0 10.0.0.5/32"], &["add 10.0.0.5/32 on eth0 at 2"]);
        check(&there, &["eth0 10.0.0.6/32"], &["eth0 10.0.0.6/32"], &[]);
        check(&there, &["eth0 10.0.0.5/32"], &["eth0 10.0.0.5/32"], &["add 10.0.0.5/32 on eth0 at 2 again"]);
        check(&there, &["eth0 10.0.0.6/32"], &[], &["remove 10.0.0.6/32 on eth0 at 2"]);
        check(&there, &["eth0 10.0.0.7/32", "eth9 10.0.0.8/32"], &[], &["forget 10.0.0.7/32", "forget 10.0.0.8/32"]);
    }

    #[test]
    fn an_address_of_somebody_else_is_neither_adopted_nor_removed() {
        let there = [interface(1, "lo", &["10.0.0.7/32"]), interface(2, "eth0", &["10.0.0.1/24", "10.0.0.6/32"])];
        check(&there, &[], &["eth0 10.0.0.6/32"], &["error: 10.0.0.6/32 on eth0: is on eth0 already"]);
        check(&there, &[], &["eth0 10.0.0.7/32"], &["error: 10.0.0.7/32 on eth0: is on lo already"]);
        check(
            &there,
            &["eth0 10.0.0.6/24"],
            &["eth0 10.0.0.6/24"],
            &["error: 10.0.0.6/24 on eth0: is on eth0 already"],
        );
        check(&there, &[], &[], &[]);
    }

    #[test]
    fn an_address_moves_between_our_interfaces_and_prefixes() {
        let there = [interface(2, "eth0", &["10.0.0.1/24", "10.0.0.6/32"]), interface(3, "eth1", &["10.0.0.2/24"])];
        let steps = ["remove 10.0.0.6/32 on eth0 at 2", "add 10.0.0.6/32 on eth1 at 3"];
        check(&there, &["eth0 10.0.0.6/32"], &["eth1 10.0.0.6/32"], &steps);
        let steps = ["remove 10.0.0.6/32 on eth0 at 2", "add 10.0.0.6/24 on eth0 at 2"];
        check(&there, &["eth0 10.0.0.6/32"], &["eth0 10.0.0.6/24"], &steps);
    }

    #[test]
    fn what_cannot_work_is_said_and_the_rest_is_done() {
        let there = [interface(2, "eth0", &["10.0.0.1/24", "fe80::1/64"]), interface(3, "no6", &[])];
        let said = ["add 10.0.0.5/32", "error: 10.0.0.6/32 on eth7: no such interface; there are: eth0, no6"];
        check(&there, &[], &["eth0 10.0.0.5/32", "eth7 10.0.0.6/32"], &said);
        check(&there, &[], &["no6 2001:db8::5/128"], &["error: 2001:db8::5/128 on no6: IPv6 is switched off"]);
        let said =
            ["add 192.168.0.5/32", "warning: 192.168.0.5/32 on eth0: is in no subnet of the interface (10.0.0.1/24)"];
        check(&there, &[], &["eth0 192.168.0.5/32"], &said);
        let said =
            ["add 2001:db8::5/128", "warning: 2001:db8::5/128 on eth0: is in no subnet of the interface (it has"];
        check(&there, &[], &["eth0 2001:db8::5/128"], &said);
    }

    #[test]
    fn a_vip_never_becomes_the_primary_address_of_its_subnet() {
        let there = [interface(2, "eth0", &["10.0.0.1/24"])];
        check(&there, &[], &["eth0 10.0.0.5/24"], &["add 10.0.0.5/24"]);
        check(&there, &[], &["eth0 10.0.0.5/25"], &["error: 10.0.0.5/25 on eth0: would be the primary address"]);
        let there = [interface(2, "eth0", &["10.0.0.5/24", "10.0.0.1/24 secondary"])];
        let said = ["error: 10.0.0.5/24 on eth0: removing it would take 10.0.0.1 away"];
        check(&there, &["eth0 10.0.0.5/24"], &[], &said);
    }
}
