//! Services: backends, health, and that each can be reached.

use super::{At, Checks, HOUR, check_fallback, matching, persistence, words};
use crate::config::{Farm, Health, HttpCheck, Persistence, Service, Span};

/// Most services of a farm: each request is held against them in order.
const SERVICES_MAX: usize = 1000;

pub(super) fn check(farm: &Farm, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let list = at.key("services");
    if farm.services.len() > SERVICES_MAX {
        checks.wrong(
            &list,
            format!("{} services in one farm", farm.services.len()),
            format!("split the farm; {SERVICES_MAX} are allowed"),
        );
        return;
    }
    checks.names(&list, farm.services.iter().map(|service| service.name.as_str()));
    for (index, service) in farm.services.iter().enumerate() {
        check_service(farm, service, checks, &list.index(index));
    }
    matching::reachable(&farm.services, checks, &list);
    persistence::cookies_apart(&farm.services, checks, &list);
}

fn check_service(farm: &Farm, service: &Service, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let backends = at.key("backends");
    checks.names(&backends, service.backends.iter().map(|backend| backend.name.as_str()));
    if service.backends.is_empty() && service.fallback.is_none() && farm.fallback.is_none() {
        checks.wrong(
            &backends,
            "this service has neither backends nor a fallback",
            "add a backend: - { name: web1, address: \"10.0.0.7:8080\" }",
        );
    }
    if let Some(matches) = &service.matches {
        matching::well_formed(matches, checks, &at.key("match"));
    }
    match &service.persistence {
        Some(Persistence::Cookie(cookie)) => persistence::cookie(cookie, checks, &at.key("persistence").key("cookie")),
        Some(Persistence::Table(table)) => persistence::table(table, checks, &at.key("persistence").key("table")),
        None => {}
    }
    if let Some(health) = &service.health {
        check_health(health, checks, &at.key("health"));
    }
    if let Some(fallback) = &service.fallback {
        check_fallback(fallback, checks, &at.key("fallback"));
    }
    checks.span(&at.key("queue_timeout"), service.queue_timeout, Span::from_millis(0), HOUR);
    checks.span(&at.key("slow_start"), service.slow_start, Span::from_millis(0), HOUR);
}

fn check_health(health: &Health, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    checks.span(&at.key("interval"), health.interval, Span::from_millis(10), HOUR);
    if health.timeout.as_millis() == 0 {
        checks.wrong(&at.key("timeout"), "a check without time cannot succeed", "write a length of time like 500ms");
    } else if health.timeout > health.interval {
        checks.wrong(
            &at.key("timeout"),
            format!("{} is longer than the interval ({}): checks would overlap", health.timeout, health.interval),
            "make the timeout shorter or the interval longer",
        );
    }
    if let Some(http) = &health.http {
        check_http(http, checks, &at.key("http"));
    }
}

fn check_http(http: &HttpCheck, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let asks = !matches!(http.method.as_str(), "CONNECT" | "TRACE");
    if !words::is_token(&http.method) || http.method != http.method.to_ascii_uppercase() || !asks {
        checks.wrong(
            &at.key("method"),
            format!("`{}` cannot be a check's method", super::super::structure::shorten(&http.method)),
            "write GET, HEAD or OPTIONS",
        );
    }
    // A check may carry a query, so only the part before it has to be a path.
    let (path, query) = http.path.split_once('?').unwrap_or((&http.path, ""));
    if !words::is_path(path) || !query.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b'#') {
        checks.wrong(
            &at.key("path"),
            format!("`{}` is not a path", super::super::structure::shorten(&http.path)),
            "begin with /; write other characters than visible ASCII as %XX",
        );
    }
    if let Some(host) = &http.host {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().is_ok()),
            _ => (host.as_str(), true),
        };
        if !words::is_host(name) || !port {
            checks.wrong(
                &at.key("host"),
                format!("`{}` is not a host", super::super::structure::shorten(host)),
                "write a name like shop.example, with :port where needed",
            );
        }
    }
    if let Some(text) = &http.body_contains {
        if text.is_empty() || text.len() > 1024 {
            checks.wrong(
                &at.key("body_contains"),
                format!("{} bytes to look for", text.len()),
                "write 1 to 1024 bytes of text",
            );
        }
        if http.method == "HEAD" {
            checks.wrong(
                &at.key("body_contains"),
                "the answer to HEAD has no body",
                "use GET, or leave body_contains out",
            );
        }
    }
}
