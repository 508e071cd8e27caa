//! What a request's head must say, whatever it asks for (RFC 9112, section 3.2), and which site it is meant for.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderValue, Version, header, request::Parts};

use super::refused::Refused;

/// # Errors
/// There is not the one field that says it.
pub(super) fn check(parts: &Parts) -> Result<(), Refused> {
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && parts.version >= Version::HTTP_11 {
        return Err(Refused::Host);
    }
    Ok(())
}

/// Whether a body was announced, be it an empty one.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// Whether the request is for an address, or for `localhost`. A page of any site can have its own name stand for this
/// machine's address, and a browser then sends its requests here (DNS rebinding); they still say that name.
///
/// Where the request line names a site, that counts (RFC 9112, section 3.2.2).
pub(super) fn is_for_an_address(parts: &Parts) -> bool {
    let named = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let Some(host) = named.or_else(|| parts.headers.get(header::HOST).map(HeaderValue::as_bytes)) else { return true };
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_v6 = || {
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.is_empty() || host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok() || is_v6()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(version: Version, fields: &[(&'static str, &str)]) -> Parts {
        let mut parts = Request::builder().version(version).body(()).unwrap().into_parts().0;
        for (name, value) in fields {
            parts.headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        parts
    }

    #[test]
    fn there_is_one_host() {
        let check = |version, fields: &[_]| check(&head(version, fields)).is_ok();
        assert!(check(Version::HTTP_11, &[("host", "a")]));
        assert!(check(Version::HTTP_11, &[("host", "")]));
        assert!(check(Version::HTTP_10, &[]));
        assert!(!check(Version::HTTP_11, &[]));
        assert!(!check(Version::HTTP_10, &[("host", "a"), ("host", "a")]));
    }

    #[test]
    fn names_of_other_sites_are_no_addresses() {
        let is = |host| is_for_an_address(&head(Version::HTTP_11, &[("host", host)]));
        for address in [
            "127.0.0.1",
            "127.0.0.1:6380",
            "[::1]:6380",
            "[::1]",
            "localhost",
            "LocalHost:1",
            "localhost.",
            "10.0.0.1",
            "",
        ] {
            assert!(is(address), "{address}");
        }
        for name in
            ["evil.example", "evil.example:6380", "127.0.0.1.evil.example", "localhost.evil.example", "::1", "[a]"]
        {
            assert!(!is(name), "{name}");
        }
        assert!(is_for_an_address(&head(Version::HTTP_10, &[])));
        let mut absolute = head(Version::HTTP_11, &[("host", "localhost")]);
        absolute.uri = "http://evil.example/v1/sessions/0/a".parse().unwrap();
        assert!(!is_for_an_address(&absolute));
    }
}
