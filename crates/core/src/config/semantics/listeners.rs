//! Listeners: addresses that exist, and no two in one place.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use super::{
    At, Checks,
    places::{self, elsewhere},
    vips, words,
};
use crate::config::{Document, Farm, Listener, Vip};

/// Checks VIPs and listeners, and says whose the addresses are and what is where.
pub(super) fn check<'d>(document: &'d Document, checks: &mut Checks<'_, '_>) -> (HashMap<IpAddr, &'d str>, Places<'d>) {
    let owners = vips::check(&document.vips, checks);
    let farms = At::Root.key("farms");
    let places = listeners(document, &owners, checks);
    for (index, farm) in document.farms.iter().enumerate() {
        loops(farm, &places, checks, &farms.index(index));
    }
    (owners, places)
}

/// An address that one machine can have. Whether it is one, after saying so if not.
pub(super) fn usable(address: IpAddr, what: &str, checks: &mut Checks<'_, '_>, at: &At<'_>) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let wrong = address.is_unspecified() || address.is_multicast() || broadcast;
    if wrong {
        checks.wrong(at, format!("{address} cannot be the address of {what}"), "write the address of one host");
    }
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        checks.wrong(at, format!("{address} is an IPv4 address in IPv6 clothes"), format!("write {v4}"));
        return false;
    }
    !wrong
}

/// A listener's place: what it was written as, and the labels of the nodes it is on.
pub(super) struct Taken<'d> {
    pub(super) farm: &'d str,
    pub(super) listener: &'d Listener,
}

pub(super) type Places<'d> = places::Places<Taken<'d>>;

fn listeners<'d>(document: &'d Document, owners: &HashMap<IpAddr, &str>, checks: &mut Checks<'_, '_>) -> Places<'d> {
    let vips: HashMap<&str, &Vip> = document.vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let mut places = Places::default();
    let farms = At::Root.key("farms");
    for (index, farm) in document.farms.iter().enumerate() {
        let farm_at = farms.index(index);
        let list = farm_at.key("listeners");
        checks.names(&list, farm.listeners.iter().map(|listener| listener.name.as_str()));
        for (index, listener) in farm.listeners.iter().enumerate() {
            let at = list.index(index);
            labels(&listener.nodes, checks, &at.key("nodes"));
            for address in addresses(listener, &vips, owners, checks, &at) {
                let place = SocketAddr::new(address, listener.port);
                let meets = |other: &Taken<'_>| may_meet(&other.listener.nodes, &listener.nodes);
                if let Some((its, other)) = places.in_the_way(place).find(|(_, other)| meets(other)) {
                    let problem = format!(
                        "{place} is taken by listener `{}` of farm `{}`{}",
                        other.listener.name,
                        other.farm,
                        elsewhere(place, its)
                    );
                    checks.wrong(
                        &at.key("port"),
                        problem,
                        "choose another port or address, or make both services of one farm",
                    );
                } else {
                    places.put(place, Taken { farm: &farm.name, listener });
                }
            }
        }
    }
    places
}

/// Where a listener listens.
fn addresses(
    listener: &Listener,
    vips: &HashMap<&str, &Vip>,
    owners: &HashMap<IpAddr, &str>,
    checks: &mut Checks<'_, '_>,
    at: &At<'_>,
) -> Vec<IpAddr> {
    match (&listener.vip, listener.address) {
        (Some(name), None) => {
            let vip = named(name, vips, checks, &at.key("vip"));
            // An unspecified one was refused where it stands, and would be in everybody's way.
            let of_a_host = |address: &IpAddr| !address.is_unspecified();
            let addresses = vip.into_iter().flat_map(|vip| &vip.addresses).map(|address| address.ip());
            addresses.filter(of_a_host).collect()
        }
        (None, Some(address)) => {
            let key = at.key("address");
            // Unspecified means every address of the node, so it is not one that a VIP could have.
            if !address.is_unspecified() {
                usable(address, "a listener", checks, &key);
            }
            if let Some(vip) = owners.get(&address).filter(|_| !address.is_unspecified()) {
                let problem =
                    format!("{address} belongs to the VIP `{vip}` and is served only by the node that owns it");
                checks.wrong(&key, problem, format!("write vip: {vip}"));
            }
            vec![address]
        }
        (Some(_), Some(_)) => {
            checks.wrong(at, "both `vip` and `address` are given", "keep one of them");
            Vec::new()
        }
        (None, None) => {
            if !checks.report.touches_refused(&at.key("vip").steps())
                && !checks.report.touches_refused(&at.key("address").steps())
            {
                checks.wrong(
                    at,
                    "neither `vip` nor `address` is given",
                    "write vip: <name>, or address: 0.0.0.0 for every node",
                );
            }
            Vec::new()
        }
    }
}

/// The VIP of a name that is mentioned somewhere.
pub(super) fn named<'d>(
    name: &str,
    vips: &HashMap<&str, &'d Vip>,
    checks: &mut Checks<'_, '_>,
    at: &At<'_>,
) -> Option<&'d Vip> {
    let found = vips.get(name).copied();
    // A VIP whose name was refused may be the one that is meant.
    if found.is_none() && !checks.report.touches_refused(&At::Root.key("vips").steps()) {
        let known = || vips.keys().copied();
        let fix = match crate::config::suggest::nearest(name, sorted(known())) {
            Some(near) => format!("did you mean `{near}`?"),
            None if vips.is_empty() => "add it under `vips`".to_owned(),
            None => format!("there are {}", sorted(known()).join(", ")),
        };
        let name = crate::config::structure::shorten(name);
        checks.wrong(at, format!("there is no VIP `{name}`"), fix);
    }
    found
}

pub(super) fn sorted<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
}

/// Whether a node could carry the labels of both.
pub(super) fn may_meet(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> bool {
    !a.iter().any(|(key, value)| b.get(key).is_some_and(|other| other != value))
}

pub(super) fn labels(labels: &BTreeMap<String, String>, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    for (key, value) in labels {
        if !words::is_name(key) || !words::is_name(value) {
            let problem = format!("`{}` is not a label", crate::config::structure::shorten(&format!("{key}: {value}")));
            checks.wrong(at, problem, "key and value are names: 1 to 63 of a-z, 0-9, dot, dash and underscore");
        }
    }
}

/// Backends that are nobody's address, or a listener of this very cluster.
fn loops(farm: &Farm, places: &Places<'_>, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let services = at.key("services");
    for (index, service) in farm.services.iter().enumerate() {
        let service_at = services.index(index);
        let backends = service_at.key("backends");
        for (index, backend) in service.backends.iter().enumerate() {
            let item = backends.index(index);
            let at = item.key("address");
            usable(backend.address.ip(), "a backend", checks, &at);
            if backend.address.port() == 0 {
                checks.wrong(&at, "port 0 is no port", "write the port on which the backend listens, 1 to 65535");
            }
            if let Some(taken) = places.first(backend.address) {
                let problem = format!(
                    "{} is listener `{}` of farm `{}`: requests would come back to Ballast",
                    backend.address, taken.listener.name, taken.farm
                );
                checks.wrong(&at, problem, "write the address on which the backend itself listens");
            }
        }
    }
}
