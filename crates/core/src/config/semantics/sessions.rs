//! Whether the session store can be served: places that are free, databases that exist, users that can log in.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    At, Checks, HOUR,
    listeners::{Places, named, usable},
    places::{self, elsewhere},
};
use crate::{
    config::{ByteSize, SessionLimits, SessionUser, Sessions, Span, Vip, structure::shorten},
    session::NotifyFlags,
    state::codec::COMMAND_BYTES_MAX,
};

/// Users in the document. Arbitrary; each log-in looks through them.
const USERS_MAX: usize = 1000;
/// Prefixes of one user, each of which every key of theirs is held against.
const PREFIXES_MAX: usize = 64;

pub(super) fn check(
    sessions: &Sessions,
    vips: &[Vip],
    owners: &HashMap<IpAddr, &str>,
    places: &Places<'_>,
    checks: &mut Checks<'_, '_>,
) {
    let at = &At::Root.key("sessions");
    listening(sessions, vips, owners, places, checks, at);
    let list = at.key("keyspaces");
    checks.names(&list, sessions.keyspaces.iter().map(|keyspace| keyspace.name.as_str()));
    for (index, keyspace) in sessions.keyspaces.iter().enumerate() {
        database(keyspace.database, sessions, checks, &list.index(index).key("database"));
    }
    checks.size(&at.key("memory_max"), sessions.memory_max, 1 << 20, 1 << 44);
    if NotifyFlags::parse(&sessions.notify).is_none() {
        let problem = format!("\"{}\" does not say which events", shorten(&sessions.notify));
        checks.wrong(&at.key("notify"), problem, "write letters of KEg$lshzxetdnA, like \"Ex\"; `m` is not supported");
    }
    users(sessions, checks, &at.key("users"));
    limits(&sessions.limits, checks, &at.key("limits"));
}

fn listening(
    sessions: &Sessions,
    vips: &[Vip],
    owners: &HashMap<IpAddr, &str>,
    places: &Places<'_>,
    checks: &mut Checks<'_, '_>,
    at: &At<'_>,
) {
    let mut taken = places::Places::<String>::default();
    let mut take = |place: SocketAddr, what: &str, checks: &mut Checks<'_, '_>, at: &At<'_>| {
        let farm = places.in_the_way(place).next().map(|(its, taken)| {
            let (listener, farm) = (&taken.listener.name, taken.farm);
            format!("listener `{listener}` of farm `{farm}`{}", elsewhere(place, its))
        });
        let own = || taken.in_the_way(place).next().map(|(its, what)| format!("{what}{}", elsewhere(place, its)));
        let other = farm.or_else(own);
        taken.put(place, what.to_owned());
        if let Some(other) = other {
            checks.wrong(at, format!("{place} is taken by {other}"), "choose another port or address");
        }
    };
    for (key, addresses, usual) in [
        ("listen", &sessions.listen, "; clients expect 6379"),
        ("tls_listen", &sessions.tls_listen, "; clients expect 6379"),
        ("http_listen", &sessions.http_listen, ""),
        ("http_tls_listen", &sessions.http_tls_listen, ""),
    ] {
        let list = at.key(key);
        for (index, address) in addresses.iter().enumerate() {
            let at = list.index(index);
            if address.port() == 0 {
                checks.wrong(&at, "port 0 is no port", format!("write a port, 1 to 65535{usual}"));
            }
            if address.ip().is_unspecified() {
                take(*address, &format!("sessions.{key}"), checks, &at);
                continue;
            }
            usable(address.ip(), "a listener", checks, &at);
            if let Some(vip) = owners.get(&address.ip()) {
                let problem =
                    format!("{} belongs to the VIP `{vip}` and is served only by the node that owns it", address.ip());
                let more = match key {
                    "listen" => "",
                    "tls_listen" => ", tls: true",
                    "http_listen" => ", protocol: http",
                    _ => ", tls: true, protocol: http",
                };
                let port = address.port();
                checks.wrong(&at, problem, format!("write it under `vips`: {{ vip: {vip}, port: {port}{more} }}"));
            }
            take(*address, &format!("sessions.{key}"), checks, &at);
        }
    }
    let by_name: HashMap<&str, &Vip> = vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let list = at.key("vips");
    for (index, session_vip) in sessions.vips.iter().enumerate() {
        let item = list.index(index);
        let vip = named(&session_vip.vip, &by_name, checks, &item.key("vip"));
        for address in vip.into_iter().flat_map(|vip| &vip.addresses) {
            take(SocketAddr::new(address.ip(), session_vip.port), "sessions.vips", checks, &item.key("port"));
        }
    }
}

fn database(number: u16, sessions: &Sessions, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    if number >= sessions.databases {
        let fix = format!("write 0 to {}, or raise `databases`", sessions.databases.saturating_sub(1));
        checks.wrong(at, format!("there is no database {number}"), fix);
    }
}

fn users(sessions: &Sessions, checks: &mut Checks<'_, '_>, list: &At<'_>) {
    checks.names(list, sessions.users.iter().map(|user| user.name.as_str()));
    if sessions.users.len() > USERS_MAX {
        let problem = format!("{} users are too many", sessions.users.len());
        checks.wrong(list, problem, format!("write at most {USERS_MAX}"));
    }
    for (index, user) in sessions.users.iter().enumerate() {
        check_user(user, sessions, checks, &list.index(index));
    }
}

fn check_user(user: &SessionUser, sessions: &Sessions, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    if let Some(hash) = &user.password_hash {
        check_hash(hash, checks, &at.key("password_hash"));
    }
    let prefixes = at.key("key_prefixes");
    if user.key_prefixes.len() > PREFIXES_MAX {
        let problem = format!("{} prefixes are too many", user.key_prefixes.len());
        checks.wrong(&prefixes, problem, format!("write at most {PREFIXES_MAX}"));
    }
    for (index, prefix) in user.key_prefixes.iter().enumerate() {
        if prefix.is_empty() {
            let fix = "leave the list out for a user who may name all keys";
            checks.wrong(&prefixes.index(index), "every key begins with nothing", fix);
        }
        if prefix.len() as u64 > sessions.limits.key_max.as_bytes() {
            let problem = "no key is as long as this prefix";
            checks.wrong(&prefixes.index(index), problem, format!("keys have at most {}", sessions.limits.key_max));
        }
    }
    let databases = at.key("databases");
    for (index, number) in user.databases.iter().enumerate() {
        database(*number, sessions, checks, &databases.index(index));
    }
}

/// What checking a password may cost: memory in KiB, passes over it, lanes. Far more than anybody asks for, and little
/// enough that a login neither takes a node's memory nor a processor for minutes.
const COSTS_MAX: [(&str, u32); 3] = [("m", 1 << 20), ("t", 100), ("p", 16)];

fn check_hash(hash: &str, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let Some(costs) = argon2id_costs(hash) else {
        let fix =
            "write what `ballastctl sessions hash-password` prints: \"$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>\"";
        checks.wrong(at, "this is no Argon2id hash in PHC form", fix);
        return;
    };
    for (cost, (name, max)) in costs.into_iter().zip(COSTS_MAX) {
        if cost > max {
            let problem = format!("{name}={cost} makes each login too dear for a node");
            checks.wrong(at, problem, format!("hash the password again with {name} at most {max}"));
        }
    }
}

/// The costs m, t and p of `$argon2id$v=..$m=..,t=..,p=..$salt$hash`, of the characters that the form allows.
fn argon2id_costs(text: &str) -> Option<[u32; 3]> {
    let parts: Vec<&str> = text.strip_prefix("$argon2id$v=19$")?.split('$').collect();
    let base64 = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b));
    let [parameters, salt, hash] = parts[..] else { return None };
    let costs: Vec<&str> = parameters.split(',').collect();
    let [m, t, p] = costs[..] else { return None };
    let cost = |text: &str, key: &str| text.strip_prefix(key)?.parse::<u32>().ok().filter(|n| *n > 0);
    let costs = [cost(m, "m=")?, cost(t, "t=")?, cost(p, "p=")?];
    (text.len() <= 512 && base64(salt) && base64(hash)).then_some(costs)
}

/// What a command takes in the log besides a value: a key, and a few bytes for each of its parts.
const COMMAND_ROOM: u64 = 1 << 20;
const REQUEST_MAX: u64 = COMMAND_BYTES_MAX as u64;
const VALUE_MAX: u64 = REQUEST_MAX - COMMAND_ROOM;

/// What an answer or a request takes besides a value: some words, and a key of the default bound.
const WORDS_ROOM: u64 = 64 << 10;

fn limits(limits: &SessionLimits, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    checks.size(&at.key("value_max"), limits.value_max, 1 << 10, VALUE_MAX);
    checks.size(&at.key("key_max"), limits.key_max, 64, 1 << 20);
    let request_max = limits.request_max.as_bytes();
    if request_max > REQUEST_MAX {
        let problem = format!("a request of {} does not fit into an entry of the log", limits.request_max);
        checks.wrong(&at.key("request_max"), problem, format!("write at most {}", ByteSize::from_bytes(REQUEST_MAX)));
    }
    holds_a_value(limits, limits.request_max, checks, &at.key("request_max"));
    checks.size(&at.key("output_max"), limits.output_max, 1 << 10, 1 << 32);
    holds_a_value(limits, limits.output_max, checks, &at.key("output_max"));
    checks.span(&at.key("idle_timeout"), limits.idle_timeout, Span::from_millis(0), Span::from_secs(365 * 86_400));
    checks.span(&at.key("write_timeout"), limits.write_timeout, Span::from_millis(100), HOUR);
    checks.span(&at.key("deadline"), limits.deadline, Span::from_millis(100), Span::from_secs(60));
}

/// A value that may be kept has to come in and to go out.
fn holds_a_value(limits: &SessionLimits, size: ByteSize, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let value_max = limits.value_max.as_bytes().clamp(1 << 10, VALUE_MAX);
    let least = value_max + WORDS_ROOM;
    if size.as_bytes() < least {
        let problem = format!("{size} cannot hold a value of {}", ByteSize::from_bytes(value_max));
        let fix = format!("write at least {}, or lower `value_max`", ByteSize::from_bytes(least));
        checks.wrong(at, problem, fix);
    }
}
