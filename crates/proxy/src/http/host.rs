//! `Host` and authority by RFC 3986.
//!
//! Not here: which service a host leads to (`RequestMatch`).

/// Splits a valid `host` or `host:port`; the host keeps its brackets if it is an IP literal.
/// `None` when it is not valid by RFC 3986 section 3.2.2, or has user information or an empty host.
pub fn split(authority: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_len = match authority.first()? {
        b'[' => {
            let close = memchr::memchr(b']', authority)?;
            let literal = std::str::from_utf8(&authority[1..close]).ok()?;
            literal.parse::<std::net::Ipv6Addr>().ok()?;
            close + 1
        }
        _ => {
            let len = memchr::memchr(b':', authority).unwrap_or(authority.len());
            is_reg_name(&authority[..len]).then_some(len)?
        }
    };
    let (host, rest) = authority.split_at(host_len);
    match rest {
        [] => Some((host, None)),
        [b':', digits @ ..] => {
            let digits_only = !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit);
            let port = std::str::from_utf8(digits).ok().filter(|_| digits_only)?;
            Some((host, Some(port.parse().ok()?)))
        }
        _ => None,
    }
}

/// Whether two valid authorities are the same; `:80` says nothing on a clear-text connection.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    match (split(a), split(b)) {
        (Some((host_a, port_a)), Some((host_b, port_b))) => {
            host_a.eq_ignore_ascii_case(host_b) && port_a.unwrap_or(80) == port_b.unwrap_or(80)
        }
        _ => false,
    }
}

fn is_reg_name(name: &[u8]) -> bool {
    let mut at = 0;
    while at < name.len() {
        match name[at] {
            c if c.is_ascii_alphanumeric() => at += 1,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {
                at += 1
            }
            b'%' if name[at + 1..].len() >= 2 && name[at + 1..at + 3].iter().all(u8::is_ascii_hexdigit) => at += 3,
            _ => return false,
        }
    }
    !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_by_rfc_3986() {
        for (text, host, port) in [
            ("example.org", "example.org", None),
            ("example.org:8080", "example.org", Some(8080)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("[::1]", "[::1]", None),
            ("[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
            ("a%20b", "a%20b", None),
        ] {
            assert_eq!(split(text.as_bytes()), Some((host.as_bytes(), port)), "{text}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:b",
            "a:65536",
            "a:+1",
            "user@host",
            "a b",
            "a/b",
            "[::1",
            "[::1]x",
            "[zz]",
            "a%2",
            "a\\b",
            "a:1:2",
            "é",
        ] {
            assert_eq!(split(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn sameness_ignores_case_and_the_default_port() {
        assert!(same(b"Example.org", b"example.ORG:80"));
        assert!(!same(b"example.org:81", b"example.org"));
        assert!(!same(b"example.org", b"example.com"));
    }
}
