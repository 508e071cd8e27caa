//! Matches: patterns that are well formed, and services that an earlier one leaves something.

use super::{At, Checks, words};
use crate::config::{RequestMatch, Service};

/// Most host names of one match. More belong into a wildcard or into several services.
const HOSTS_MAX: usize = 1000;
/// Comparisons of host names after which the search for unreachable services ends. The same for
/// the same document, so that every node answers the same.
const COMPARISONS_MAX: usize = 2_000_000;

pub(super) fn well_formed(matches: &RequestMatch, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let hosts = at.key("hosts");
    if matches.hosts.len() > HOSTS_MAX {
        checks.wrong(
            &hosts,
            format!("{} host names", matches.hosts.len()),
            format!("use a wildcard; {HOSTS_MAX} are allowed"),
        );
    }
    for (index, host) in matches.hosts.iter().enumerate() {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if !words::is_host(name) {
            let fix = if host == "*" {
                "leave `hosts` out to match every host"
            } else if host.contains(':') && !host.starts_with('[') {
                "leave the port out; hosts are compared without it"
            } else {
                "write a name like shop.example, or *.shop.example"
            };
            checks.wrong(
                &hosts.index(index),
                format!("`{}` is not a host name", super::super::structure::shorten(host)),
                fix,
            );
        }
    }
    for (key, path) in [("path", &matches.path), ("path_prefix", &matches.path_prefix)] {
        if let Some(path) = path
            && !words::is_path(path)
        {
            checks.wrong(
                &at.key(key),
                format!("`{}` is not a path", super::super::structure::shorten(path)),
                "begin with /, without query; write other characters than visible ASCII as %XX",
            );
        }
    }
    if let (Some(path), Some(prefix)) = (&matches.path, &matches.path_prefix)
        && !is_under(path, prefix)
    {
        checks.wrong(
            &at.key("path"),
            format!("`{path}` is not under `{prefix}`: nothing can match"),
            "keep one of path and path_prefix",
        );
    }
}

/// Each service must be the first match of some request.
pub(super) fn reachable(services: &[Service], checks: &mut Checks<'_, '_>, list: &At<'_>) {
    let mut budget = COMPARISONS_MAX;
    for (index, later) in services.iter().enumerate() {
        let covered = services[..index].iter().find(|earlier| covers(earlier, later, &mut budget));
        if let Some(earlier) = covered {
            let item = list.index(index);
            checks.wrong(
                &item,
                format!(
                    "the service `{}` never gets a request: `{}` before it takes all of them",
                    later.name, earlier.name
                ),
                format!("move it before `{}`, or narrow the match of `{}`", earlier.name, earlier.name),
            );
        }
    }
}

/// Whether every request of `later` is taken by `earlier`.
fn covers(earlier: &Service, later: &Service, budget: &mut usize) -> bool {
    let everything = RequestMatch::default();
    let (a, b) = (earlier.matches.as_ref().unwrap_or(&everything), later.matches.as_ref().unwrap_or(&everything));
    covers_paths(a, b) && covers_hosts(a, b, budget)
}

fn covers_paths(a: &RequestMatch, b: &RequestMatch) -> bool {
    let by_path = a.path.as_ref().is_none_or(|path| b.path.as_ref() == Some(path));
    let by_prefix = a
        .path_prefix
        .as_ref()
        .is_none_or(|prefix| [&b.path, &b.path_prefix].into_iter().flatten().any(|path| is_under(path, prefix)));
    by_path && by_prefix
}

fn covers_hosts(a: &RequestMatch, b: &RequestMatch, budget: &mut usize) -> bool {
    if a.hosts.is_empty() {
        return true;
    }
    if b.hosts.is_empty() {
        return false;
    }
    b.hosts.iter().all(|host| {
        *budget = budget.saturating_sub(a.hosts.len());
        *budget > 0 && a.hosts.iter().any(|pattern| host_covers(pattern, host))
    })
}

/// Whether every host that matches `host` (a name or a pattern) matches `pattern`.
pub(super) fn host_covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        // `*.example.org` covers `a.example.org` and `*.a.example.org`, not `example.org`.
        Some(suffix) => {
            let host = host.strip_prefix('*').unwrap_or(host);
            host.len() >= suffix.len()
                && host.is_char_boundary(host.len() - suffix.len())
                && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Whether `path` is `prefix` or under it, at a `/` boundary.
fn is_under(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_what_is_below_them() {
        assert!(host_covers("*.example.org", "a.example.org"));
        assert!(host_covers("*.example.org", "a.b.Example.org"));
        assert!(host_covers("*.example.org", "*.example.org"));
        assert!(host_covers("*.example.org", "*.a.example.org"));
        assert!(!host_covers("*.example.org", "example.org"));
        assert!(!host_covers("*.a.example.org", "*.example.org"));
        assert!(!host_covers("*.example.org", "badexample.org"));
        assert!(!host_covers("a.example.org", "*.example.org"));
    }

    #[test]
    fn prefixes_end_at_slashes() {
        assert!(is_under("/v1", "/v1") && is_under("/v1/x", "/v1") && is_under("/v1/x", "/v1/") && is_under("/a", "/"));
        assert!(!is_under("/v10", "/v1") && !is_under("/v", "/v1"));
    }
}
