//! VIPs: addresses that exist, and places that do not contradict each other.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    At, Checks, DAY,
    listeners::{labels, may_meet, sorted, usable},
};
use crate::config::{Span, Vip, structure::shorten, suggest};

/// Most names in one list of a VIP. Arbitrary, and more than a cluster has nodes.
const NAMES_MAX: usize = 64;

/// Checks the VIPs and says which VIP an address belongs to.
pub(super) fn check<'d>(vips: &'d [Vip], checks: &mut Checks<'_, '_>) -> HashMap<IpAddr, &'d str> {
    let list = At::Root.key("vips");
    checks.names(&list, vips.iter().map(|vip| vip.name.as_str()));
    let by_name: HashMap<&str, &Vip> = vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let mut owners: HashMap<IpAddr, &str> = HashMap::new();
    let mut groups: BTreeMap<&str, &Vip> = BTreeMap::new();
    for (index, vip) in vips.iter().enumerate() {
        let item = list.index(index);
        addresses(vip, &mut owners, checks, &item);
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

fn addresses<'d>(vip: &'d Vip, owners: &mut HashMap<IpAddr, &'d str>, checks: &mut Checks<'_, '_>, item: &At<'_>) {
    let addresses = item.key("addresses");
    for (position, address) in vip.addresses.iter().enumerate() {
        let at = addresses.index(position);
        let ip = address.ip();
        usable(ip, "a VIP", checks, &at);
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
