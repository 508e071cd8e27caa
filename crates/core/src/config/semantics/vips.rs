//! VIPs: addresses that exist, and places that do not contradict each other.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    At, Checks, DAY,
    listeners::{labels, may_meet, sorted, usable},
};
use crate::config::{Span, Vip, VipAddress, structure::shorten, suggest};

/// Most names in one list of a VIP. Arbitrary, and more than a cluster has nodes.
const NAMES_MAX: usize = 64;

/// Checks the VIPs and says which VIP an address belongs to.
pub(super) fn check<'d>(vips: &'d [Vip], checks: &mut Checks<'_, '_>) -> HashMap<IpAddr, &'d str> {
    let list = At::Root.key("vips");
    checks.names(&list, vips.iter().map(|vip| vip.name.as_str()));
    let by_name: HashMap<&str, &Vip> = vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let mut owners: HashMap<IpAddr, &str> = HashMap::new();
    let mut groups: BTreeMap<&str, &Vip> = BTreeMap::new();
    let edges = edges(vips);
    for (index, vip) in vips.iter().enumerate() {
        let item = list.index(index);
        addresses(vip, &edges, &mut owners, checks, &item);
        preferred(vip, checks, &item.key("prefer"));
        checks.span(&item.key("failback_delay"), vip.failback_delay, Span::from_millis(0), DAY);
        labels(&vip.nodes, checks, &item.key("nodes"));
        apart(vip, &by_name, checks, &item.key("apart_from"));
        if let Some(group) = &vip.group {
            checks.name(&item.key("group"), group);
            match groups.get(group.as_str()) {
                Some(first) => agree(first, vip, checks, &item),
                None => {
                    groups.insert(group, vip);
                }
            }
        }
    }
    owners
}

fn addresses<'d>(
    vip: &'d Vip,
    edges: &HashMap<IpAddr, String>,
    owners: &mut HashMap<IpAddr, &'d str>,
    checks: &mut Checks<'_, '_>,
    item: &At<'_>,
) {
    let addresses = item.key("addresses");
    for (position, address) in vip.addresses.iter().enumerate() {
        let at = addresses.index(position);
        let ip = address.ip();
        if usable(ip, "a VIP", checks, &at) {
            of_one_host(*address, vip, edges, checks, &at);
        }
        if address.prefix() == Some(0) {
            let problem = format!("{address} makes every address one of the interface's own network");
            checks.wrong(&at, problem, format!("write the prefix length of the network, like {ip}/24, or {ip} alone"));
        }
        if let Some(other) = owners.insert(ip, &vip.name) {
            let problem = format!("{ip} is an address of the VIP `{other}` already");
            checks.wrong(&at, problem, "an address belongs to one VIP, and stands there once");
        }
    }
}

/// Addresses that stand for a network or for all of its hosts, with which it is. The kernel keeps them for that as soon
/// as any address of the network is on an interface, so another VIP's network counts as much as the VIP's own.
fn edges(vips: &[Vip]) -> HashMap<IpAddr, String> {
    let mut edges = HashMap::new();
    for (vip, address) in vips.iter().flat_map(|vip| vip.addresses.iter().map(move |address| (vip, *address))) {
        let Some(prefix) = address.prefix().filter(|prefix| *prefix > 0) else { continue };
        let mut edge = |ip: IpAddr, what: &str, network: IpAddr| {
            edges
                .entry(ip)
                .or_insert_with(|| format!("{what} of {network}/{prefix}, the network of VIP `{}`", vip.name));
        };
        match address.ip() {
            // RFC 3021: a network of two addresses has neither.
            IpAddr::V4(ip) if prefix < 31 => {
                let hosts = u32::MAX >> prefix;
                let network = Ipv4Addr::from_bits(ip.to_bits() & !hosts);
                edge(network.into(), "the address", network.into());
                edge(Ipv4Addr::from_bits(ip.to_bits() | hosts).into(), "the broadcast address", network.into());
            }
            // RFC 4291 section 2.6.1: all of its routers have the first one. RFC 6164: but not in a network of two.
            IpAddr::V6(ip) if prefix < 127 => {
                let network = Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> prefix));
                edge(network.into(), "the address of all routers", network.into());
            }
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    edges
}

/// An address that can be on an interface beside others, and that clients elsewhere reach.
fn of_one_host(
    address: VipAddress,
    vip: &Vip,
    edges: &HashMap<IpAddr, String>,
    checks: &mut Checks<'_, '_>,
    at: &At<'_>,
) {
    let ip = address.ip();
    if let Some(edge) = edges.get(&ip) {
        checks.wrong(at, format!("{ip} is {edge}"), "write the address of one host of that network");
    }
    if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        let problem = format!("{ip} is a link-local address, which means something else on every link");
        checks.wrong(
            at,
            problem,
            "write an address that clients reach: a global one, or a unique local one of fd00::/8",
        );
    }
    // Which driver a node has is its own affair, but these two give away that it is the one with real addresses.
    if ip.is_loopback() {
        let fix = "loopback addresses are for the loopback driver alone: write it without a prefix length, in a VIP of \
                   loopback addresses, or write an address of the network";
        if address.prefix().is_some() {
            checks.wrong(at, format!("{address} is a loopback address, which is of no network"), fix);
        } else if let Some(other) = vip.addresses.iter().find(|other| !other.ip().is_loopback()) {
            let problem = format!("{ip} is a loopback address, and {} of the same VIP is none", other.ip());
            checks.wrong(at, problem, fix);
        }
    }
}

fn preferred(vip: &Vip, checks: &mut Checks<'_, '_>, prefer: &At<'_>) {
    for (position, node) in vip.prefer.iter().enumerate() {
        let at = prefer.index(position);
        checks.name(&at, node);
        if vip.prefer[..position].contains(node) {
            checks.wrong(&at, format!("`{node}` is preferred twice"), "name each node once, best first");
        }
        if position >= NAMES_MAX {
            checks.wrong(prefer, format!("more than {NAMES_MAX} nodes"), "name the best ones");
            break;
        }
    }
}

/// What a VIP is kept apart from: other VIPs, and none that it moves together with.
fn apart(vip: &Vip, by_name: &HashMap<&str, &Vip>, checks: &mut Checks<'_, '_>, list: &At<'_>) {
    for (position, name) in vip.apart_from.iter().enumerate() {
        let at = list.index(position);
        if position >= NAMES_MAX {
            let fix = "name those that back each other up; with more VIPs than nodes some share a node anyway";
            checks.wrong(list, format!("more than {NAMES_MAX} VIPs"), fix);
            break;
        }
        if vip.apart_from[..position].contains(name) {
            checks.wrong(&at, format!("`{}` stands there twice", shorten(name)), "name each VIP once");
            continue;
        }
        if *name == vip.name {
            checks.wrong(&at, format!("`{name}` cannot be apart from itself"), "name other VIPs, or leave it out");
            continue;
        }
        match by_name.get(name.as_str()) {
            Some(other) if vip.group.is_some() && vip.group == other.group => {
                let group = vip.group.as_deref().unwrap_or_default();
                let problem = format!("`{name}` is of the group `{group}` too, whose VIPs are always on one node");
                checks.wrong(&at, problem, "take one of them out of the group, or leave it out here");
            }
            Some(_) => {}
            // A VIP whose name was refused may be the one that is meant.
            None if checks.report.touches_refused(&At::Root.key("vips").steps()) => {}
            None => {
                let fix = match suggest::nearest(name, sorted(by_name.keys().copied())) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are {}", sorted(by_name.keys().copied()).join(", ")),
                };
                checks.wrong(&at, format!("there is no VIP `{}`", shorten(name)), fix);
            }
        }
    }
}

/// What two VIPs of one group say of their place must not contradict. Preferences may stand at one of them alone.
fn agree(first: &Vip, vip: &Vip, checks: &mut Checks<'_, '_>, item: &At<'_>) {
    let group = vip.group.as_deref().unwrap_or_default();
    let fix =
        format!("VIPs of one group move together: write the same as `{}` has, or take it out of the group", first.name);
    let mut differs = |key: &'static str, how: String| {
        checks.wrong(&item.key(key), format!("{how} in the group `{group}`"), fix.clone());
    };
    if !vip.prefer.is_empty() && !first.prefer.is_empty() && vip.prefer != first.prefer {
        differs("prefer", format!("`{}` prefers other nodes", first.name));
    }
    if vip.failback != first.failback {
        differs("failback", format!("`{}` has another failback", first.name));
    }
    if vip.failback_delay != first.failback_delay {
        differs("failback_delay", format!("`{}` waits for {}", first.name, first.failback_delay));
    }
    if !may_meet(&vip.nodes, &first.nodes) {
        differs("nodes", format!("no node can carry these labels and those of `{}`", first.name));
    }
}
