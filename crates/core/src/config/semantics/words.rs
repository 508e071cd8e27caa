//! The small grammars: names, tokens, hosts, paths.

/// `[a-z0-9][a-z0-9._-]{0,62}`.
pub(super) fn is_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|b| word(b) || matches!(b, b'.' | b'_' | b'-'))
}

/// A token of RFC 9110, section 5.6.2: header names, methods, and cookie names by RFC 6265, section 4.1.1.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A field value of visible characters and single spaces (RFC 9110, section 5.5, without obs-text).
pub(super) fn is_field_value(text: &str) -> bool {
    !text.is_empty() && text.len() <= 1024 && text.bytes().all(|b| matches!(b, b' '..=b'~')) && text.trim() == text
}

/// A path as it stands in a request's target, without query and fragment.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= 8192
        && text.bytes().all(|b| matches!(b, b'!'..=b'~') && !matches!(b, b'?' | b'#'))
}

/// A host name (RFC 1123, with the underscore that is met in practice) or an address. IPv6 stands in brackets.
pub(in crate::config) fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    (1..=253).contains(&text.len()) && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "web1", "0", "a.b_c-d", &"a".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", ".a", "Web", "a b", "a/b", "\u{e9}", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        for good in ["example.org", "a_b.example", "10.0.0.1", "[2001:db8::1]", "xn--bcher-kva.example", "localhost"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "a..b", "-a.b", "a:80", "2001:db8::1", "[::1", "a b", "\u{fc}.example", "example.org."] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn paths_and_tokens() {
        assert!(is_path("/") && is_path("/a%20b;c=d") && is_token("X-Session.Id"));
        for bad in ["", "a", "/a b", "/a?b", "/a#b", "/\u{e9}", "/\n"] {
            assert!(!is_path(bad), "{bad}");
        }
        for bad in ["", "a b", "a=b", "a;", "\u{e9}"] {
            assert!(!is_token(bad), "{bad}");
        }
    }
}
