//! The client's key for a binding table, read from its request.
//!
//! Not here: what is done with it ([`super::stick`]).

use std::net::IpAddr;

use ballast_core::{config::TableKey, ids::ServiceId, persistence::KeyHash};

use super::{
    cookie,
    field::{self, Field},
    request::RequestHead,
};

/// Hash of the key that `request` carries, `None` if it carries none.
pub fn of_request(
    key: &TableKey,
    secret: &[u8; 16],
    service: ServiceId,
    client: IpAddr,
    head: &[u8],
    request: &RequestHead,
    fields: &[Field],
) -> Option<KeyHash> {
    let hash = |bytes: &[u8]| (!bytes.is_empty()).then(|| KeyHash::of(secret, service, bytes));
    match key {
        TableKey::Source(prefix) => Some(KeyHash::of_source(secret, service, client, *prefix)),
        TableKey::Header(name) => {
            let named = |f: &&Field| f.name.of(head).eq_ignore_ascii_case(name.as_bytes());
            fields.iter().find(named).and_then(|f| hash(f.value.of(head)))
        }
        TableKey::Query(name) => {
            let pairs = request.query(head)?.split(|b| *b == b'&');
            let value = |pair| Some(<[u8]>::strip_prefix(pair, name.as_bytes())?.strip_prefix(b"="))?;
            pairs.filter_map(value).next().and_then(hash)
        }
        TableKey::PathSegment(nth) => {
            let segments = request.path(head).split(|b| *b == b'/');
            segments.filter(|s| !s.is_empty()).nth(usize::from(*nth).saturating_sub(1)).and_then(hash)
        }
        TableKey::LearnedCookie(name) => cookie::values(head, fields, name.as_bytes()).next().and_then(hash),
    }
}

/// Hash of the key that a response teaches by `Set-Cookie`, if `key` is a learned cookie and it does.
pub fn of_response(
    key: &TableKey,
    secret: &[u8; 16],
    service: ServiceId,
    head: &[u8],
    fields: &[Field],
) -> Option<KeyHash> {
    let TableKey::LearnedCookie(name) = key else { return None };
    let set = fields.iter().filter(|f| f.known == field::Known::SetCookie);
    // The last one wins in a browser, so it does here.
    let value = set.rev().find_map(|f| cookie::set_value(f.value.of(head), name.as_bytes()))?;
    Some(KeyHash::of(secret, service, value))
}

#[cfg(test)]
mod tests {
    use ballast_core::config::SourcePrefix;

    use super::*;
    use crate::http::request::{self, HeadLimits};

    const SECRET: [u8; 16] = [3; 16];
    const SERVICE: ServiceId = ServiceId::new(1);

    fn key(key: &TableKey, client: &str, head: &str) -> Option<KeyHash> {
        let limits = HeadLimits { fields_max: 32, target_bytes_max: 1000 };
        let mut fields = Vec::new();
        let request = request::parse(head.as_bytes(), &limits, &mut fields).unwrap();
        of_request(key, &SECRET, SERVICE, client.parse().unwrap(), head.as_bytes(), &request, &fields)
    }

    #[test]
    fn keys_are_read_from_where_they_are() {
        let head = "GET /a/room7/x?user=u1&empty= HTTP/1.1\r\nHost: h\r\nX-User: u1\r\nCookie: SID=u1\r\n\r\n";
        let hash = |text: &str| Some(KeyHash::of(&SECRET, SERVICE, text.as_bytes()));
        for (of, expected) in [
            (TableKey::Header("x-user".into()), hash("u1")),
            (TableKey::Header("x-none".into()), None),
            (TableKey::Query("user".into()), hash("u1")),
            (TableKey::Query("use".into()), None),
            (TableKey::Query("empty".into()), None),
            (TableKey::PathSegment(2), hash("room7")),
            (TableKey::PathSegment(9), None),
            (TableKey::LearnedCookie("SID".into()), hash("u1")),
            (TableKey::LearnedCookie("S".into()), None),
        ] {
            assert_eq!(key(&of, "192.0.2.1", head), expected, "{of:?}");
        }
    }

    #[test]
    fn sources_are_cut_to_their_prefix() {
        let head = "GET / HTTP/1.0\r\n\r\n";
        let source = |v4, v6| TableKey::Source(SourcePrefix { ipv4_prefix: v4, ipv6_prefix: v6 });
        let same = |of: TableKey, a, b| key(&of, a, head) == key(&of, b, head);
        assert!(same(source(24, 64), "192.0.2.1", "192.0.2.200"));
        assert!(!same(source(24, 64), "192.0.2.1", "192.0.3.1"));
        assert!(!same(source(32, 64), "192.0.2.1", "192.0.2.2"));
        assert!(same(source(32, 64), "2001:db8::1", "2001:db8::2"));
        assert!(!same(source(32, 64), "2001:db8::1", "2001:db8:0:1::1"));
        assert!(same(source(32, 64), "192.0.2.1", "::ffff:192.0.2.1"));
    }
}
