//! Which requests a service takes.

use crate::config::RequestMatch;

impl RequestMatch {
    /// Whether a request for `host` (without port) and `path` (without query) is one of those that
    /// this names. Hosts are compared without case and without a trailing dot.
    pub fn matches(&self, host: &[u8], path: &[u8]) -> bool {
        let host = host.strip_suffix(b".").unwrap_or(host);
        (self.hosts.is_empty() || self.hosts.iter().any(|pattern| host_matches(pattern.as_bytes(), host)))
            && self.path.as_ref().is_none_or(|exact| exact.as_bytes() == path)
            && self.path_prefix.as_ref().is_none_or(|prefix| is_under(path, prefix.as_bytes()))
    }
}

fn host_matches(pattern: &[u8], host: &[u8]) -> bool {
    match pattern.strip_prefix(b"*") {
        // `*.example.org`: one label or more before the dot.
        Some(suffix) => host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix),
        None => host.eq_ignore_ascii_case(pattern),
    }
}

fn is_under(path: &[u8], prefix: &[u8]) -> bool {
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &[&str], prefix: Option<&str>, path: Option<&str>, request: (&str, &str), expected: bool) {
        let rule = RequestMatch {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            path_prefix: prefix.map(ToOwned::to_owned),
            path: path.map(ToOwned::to_owned),
        };
        assert_eq!(rule.matches(request.0.as_bytes(), request.1.as_bytes()), expected, "{rule:?} {request:?}");
    }

    #[test]
    fn hosts_are_whole_names_or_wildcards_for_what_is_below() {
        check(&[], None, None, ("any", "/"), true);
        check(&["a.org"], None, None, ("A.ORG", "/"), true);
        check(&["a.org"], None, None, ("a.org.", "/"), true);
        check(&["a.org"], None, None, ("b.a.org", "/"), false);
        check(&["*.a.org"], None, None, ("b.a.org", "/"), true);
        check(&["*.a.org"], None, None, ("c.b.A.org", "/"), true);
        check(&["*.a.org"], None, None, ("a.org", "/"), false);
        check(&["*.a.org"], None, None, ("ba.org", "/"), false);
        check(&["x", "a.org"], None, None, ("a.org", "/"), true);
    }

    #[test]
    fn prefixes_end_at_slashes() {
        check(&[], Some("/v1"), None, ("h", "/v1"), true);
        check(&[], Some("/v1"), None, ("h", "/v1/x"), true);
        check(&[], Some("/v1"), None, ("h", "/v10"), false);
        check(&[], Some("/v1/"), None, ("h", "/v1/x"), true);
        check(&[], Some("/v1/"), None, ("h", "/v1"), true);
        check(&[], Some("/"), None, ("h", "/x"), true);
        check(&[], Some("/"), None, ("h", "*"), false);
        check(&[], None, Some("/x"), ("h", "/x"), true);
        check(&[], None, Some("/x"), ("h", "/x/"), false);
    }

    #[test]
    fn all_conditions_must_hold() {
        check(&["a.org"], Some("/v1"), None, ("b.org", "/v1"), false);
        check(&["a.org"], Some("/v1"), Some("/v1/x"), ("a.org", "/v1/x"), true);
        check(&["a.org"], Some("/v1"), Some("/v1/x"), ("a.org", "/v1/y"), false);
    }
}
