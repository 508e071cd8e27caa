//! Whether the session store can be served: places that are free, databases that exist, users that can log in.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    At, Checks, HOUR,
    listeners::{Places, named, usable},
};
use crate::{
    config::{SessionLimits, SessionUser, Sessions, Span, Vip, structure::shorten},
    session::NotifyFlags,
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
    let mut taken: HashMap<SocketAddr, String> = HashMap::new();
    let mut take = |place: SocketAddr, what: &str, checks: &mut Checks<'_, '_>, at: &At<'_>| {
        let farm = places.get(&place).and_then(|there| there.first());
        let other = farm.map(|taken| format!("listener `{}` of farm `{}`", taken.listener.name, taken.farm));
        if let Some(other) = other.or_else(|| taken.insert(place, what.to_owned())) {
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
    if user.password_hash.as_deref().is_some_and(|hash| !is_argon2id(hash)) {
        let fix =
            "write what `ballastctl sessions hash-password` prints: \"$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>\"";
        checks.wrong(&at.key("password_hash"), "this is no Argon2id hash in PHC form", fix);
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

/// `$argon2id$v=..$m=..,t=..,p=..$salt$hash`, of the characters that the form allows.
fn is_argon2id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("$argon2id$v=19$") else { return false };
    let parts: Vec<&str> = rest.split('$').collect();
    let base64 = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b));
    let number = |text: &str| text.parse::<u32>().is_ok_and(|n| n > 0);
    let costs = |text: &str| {
        let costs: Vec<&str> = text.split(',').collect();
        let [m, t, p] = costs[..] else { return false };
        [(m, "m="), (t, "t="), (p, "p=")].into_iter().all(|(cost, key)| cost.strip_prefix(key).is_some_and(number))
    };
    text.len() <= 512
        && matches!(parts[..], [parameters, salt, hash] if costs(parameters) && base64(salt) && base64(hash))
}

fn limits(limits: &SessionLimits, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    checks.size(&at.key("value_max"), limits.value_max, 1 << 10, 64 << 20);
    checks.size(&at.key("key_max"), limits.key_max, 64, 1 << 20);
    checks.size(
        &at.key("request_max"),
        limits.request_max,
        limits.value_max.as_bytes().clamp(1 << 10, 64 << 20),
        256 << 20,
    );
    checks.size(
        &at.key("output_max"),
        limits.output_max,
        limits.value_max.as_bytes().clamp(1 << 10, 64 << 20),
        1 << 32,
    );
    checks.span(&at.key("idle_timeout"), limits.idle_timeout, Span::from_millis(0), Span::from_secs(365 * 86_400));
    checks.span(&at.key("write_timeout"), limits.write_timeout, Span::from_millis(100), HOUR);
    checks.span(&at.key("deadline"), limits.deadline, Span::from_millis(100), Span::from_secs(60));
}
