//! Persistence: keys that can identify a client, cookies that browsers accept.

use super::{At, Checks, matching::host_covers, words};
use crate::config::{
    CookiePersistence, Farm, Listener, Persistence, SameSite, Service, Span, TableKey, TablePersistence,
    structure::shorten,
};

/// Hop-by-hop fields (RFC 9110, section 7.6.1) and framing: they belong to a connection or a
/// message and not to a client.
const NO_KEYS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that the proxy overwrites: a client could choose its own backend by them.
const OVERWRITTEN: &[&str] = &[
    "forwarded",
    "proxy",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

pub(super) fn cookie(cookie: &CookiePersistence, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    cookie_name(&cookie.name, checks, &at.key("name"));
    if !words::is_path(&cookie.path) || cookie.path.contains([';', ',']) {
        checks.wrong(
            &at.key("path"),
            format!("`{}` is not a cookie path", shorten(&cookie.path)),
            "begin with /; no comma or semicolon",
        );
    }
    if let Some(ttl) = cookie.ttl {
        // Browsers cut longer ones down to 400 days (RFC 6265bis, section 5.5).
        checks.span(&at.key("ttl"), ttl, Span::from_secs(1), Span::from_secs(400 * 86_400));
    }
    if cookie.same_site == SameSite::None && !cookie.secure {
        checks.wrong(
            &at.key("same_site"),
            "browsers drop a cookie with SameSite=None that is not secure",
            "add secure: true, or use lax or strict",
        );
    }
    // Name prefixes that browsers enforce (RFC 6265bis, section 4.1.3).
    let host_prefix = cookie.name.starts_with("__Host-");
    if (host_prefix || cookie.name.starts_with("__Secure-")) && !cookie.secure {
        checks.wrong(
            &at.key("secure"),
            format!("browsers drop `{}` unless it is secure", cookie.name),
            "add secure: true",
        );
    }
    if host_prefix && cookie.path != "/" {
        checks.wrong(&at.key("path"), format!("browsers drop `{}` unless its path is /", cookie.name), "write path: /");
    }
}

fn cookie_name(name: &str, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    if !words::is_token(name) {
        checks.wrong(
            at,
            format!("`{}` is not a cookie name", shorten(name)),
            "use letters, digits, dash and underscore",
        );
    }
}

pub(super) fn table(table: &TablePersistence, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    key(&table.key, checks, &at.key("key"));
    let year = Span::from_secs(366 * 86_400);
    checks.span(&at.key("idle_timeout"), table.idle_timeout, Span::from_secs(1), year);
    if let Some(absolute) = table.absolute_timeout {
        checks.span(&at.key("absolute_timeout"), absolute, Span::from_secs(1), Span::from_secs(10 * 366 * 86_400));
        if absolute < table.idle_timeout {
            checks.wrong(
                &at.key("absolute_timeout"),
                format!(
                    "{absolute} is shorter than the idle timeout ({}), which then never counts",
                    table.idle_timeout
                ),
                "make it longer, or the idle timeout shorter",
            );
        }
    }
}

fn key(key: &TableKey, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    match key {
        TableKey::Source(_) | TableKey::PathSegment(_) => {}
        TableKey::LearnedCookie(name) => cookie_name(name, checks, &at.key("learned_cookie")),
        TableKey::Query(name) => {
            let fits = |b: u8| matches!(b, b'!'..=b'~') && !matches!(b, b'&' | b'=' | b'#');
            if name.is_empty() || name.len() > 128 || !name.bytes().all(fits) {
                checks.wrong(
                    &at.key("query"),
                    format!("`{}` is not the name of a query parameter", shorten(name)),
                    "write it as it stands in the URL, without = and &",
                );
            }
        }
        TableKey::Header(name) => {
            let at = at.key("header");
            let lower = name.to_ascii_lowercase();
            if !words::is_token(name) {
                checks.wrong(&at, format!("`{}` is not a header name", shorten(name)), "use letters, digits and dash");
            } else if lower == "cookie" || lower == "set-cookie" {
                checks.wrong(&at, format!("`{name}` changes with every cookie"), "use learned_cookie: <name>");
            } else if NO_KEYS.contains(&lower.as_str()) {
                checks.wrong(
                    &at,
                    format!("`{name}` belongs to a connection or a message, not to a client"),
                    "use a header that the application sets",
                );
            } else if OVERWRITTEN.contains(&lower.as_str()) {
                checks.wrong(
                    &at,
                    format!("`{name}` is written by proxies, not by the client"),
                    "use source: {}, with trusted_proxies where proxies stand in front",
                );
            }
        }
    }
}

/// Two services must not set one cookie for the same site: each would undo the other's.
pub(super) fn cookies_apart(services: &[Service], checks: &mut Checks<'_, '_>, list: &At<'_>) {
    let mut seen = Vec::new();
    for (index, service) in services.iter().enumerate() {
        let Some(cookie) = own_cookie(service) else { continue };
        if let Some((earlier, _)) = seen.iter().find(|earlier| undoes(**earlier, (service, cookie))) {
            taken(cookie, format!("the service `{}`", earlier.name), checks, &list.index(index));
        }
        seen.push((service, cookie));
    }
}

/// Most pairs of services of different farms that are compared. Arbitrary; all pairs of a long document could take too long.
const PAIRS_MAX: usize = 100_000;

/// The same for services of different farms, which browsers do not tell apart by their ports (RFC 6265, section 8.5).
pub(super) fn cookies_of_farms_apart(farms: &[Farm], checks: &mut Checks<'_, '_>, list: &At<'_>) {
    let mut pairs = 0..PAIRS_MAX;
    for (index, farm) in farms.iter().enumerate() {
        for earlier in farms.iter().take(index).filter(|earlier| at_one_address(earlier, farm)) {
            for (position, service) in farm.services.iter().enumerate() {
                let Some(cookie) = own_cookie(service) else { continue };
                let others = earlier.services.iter().filter_map(|other| Some((other, own_cookie(other)?)));
                let clash = others.zip(pairs.by_ref()).find(|(other, _)| undoes(*other, (service, cookie)));
                if let Some(((other, _), _)) = clash {
                    let whose = format!("the service `{}` of the farm `{}`", other.name, earlier.name);
                    taken(cookie, whose, checks, &list.index(index).key("services").index(position));
                }
            }
        }
    }
}

fn own_cookie(service: &Service) -> Option<&CookiePersistence> {
    match &service.persistence {
        Some(Persistence::Cookie(cookie)) => Some(cookie),
        Some(Persistence::Table(_)) | None => None,
    }
}

/// Whether a browser could take one service's cookie for the other's.
fn undoes((a, ours): (&Service, &CookiePersistence), (b, theirs): (&Service, &CookiePersistence)) -> bool {
    ours.name == theirs.name && ours.path == theirs.path && hosts_meet(a, b)
}

fn taken(cookie: &CookiePersistence, whose: String, checks: &mut Checks<'_, '_>, item: &At<'_>) {
    checks.wrong(
        &item.key("persistence").key("cookie").key("name"),
        format!("{whose} sets the cookie `{}` with the same path on the same host", cookie.name),
        "give each service's cookie its own name, or its own path",
    );
}

/// Whether clients of both farms could come by one address, and so by one name.
fn at_one_address(a: &Farm, b: &Farm) -> bool {
    let meet = |a: &Listener, b: &Listener| match ((&a.vip, a.address), (&b.vip, b.address)) {
        ((Some(a), _), (Some(b), _)) => a == b,
        ((None, Some(a)), (None, Some(b))) => a == b || a.is_unspecified() || b.is_unspecified(),
        _ => false,
    };
    a.listeners.iter().any(|a| b.listeners.iter().any(|b| meet(a, b)))
}

/// Whether a browser could send a cookie of one service's host to the other's.
fn hosts_meet(a: &Service, b: &Service) -> bool {
    // Of long lists only the beginning is compared: all pairs could take too long, and whoever
    // writes a long list has told the services apart.
    let (a, b) = (hosts(a), hosts(b));
    a.is_empty() || b.is_empty() || a.iter().any(|x| b.iter().any(|y| host_covers(x, y) || host_covers(y, x)))
}

fn hosts(service: &Service) -> &[String] {
    let all = service.matches.as_ref().map_or(&[][..], |matches| &matches.hosts);
    &all[..all.len().min(20)]
}
