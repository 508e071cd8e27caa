//! Cookies: reading them from a request, and the signed one that names a backend.
//!
//! The signed cookie needs no table: its value is the backend's stable id, the service it belongs
//! to is part of what is signed, and the signature is a BLAKE3 keyed hash under a key of the
//! replicated state. A cookie that does not verify is ignored and replaced, never an error: it may
//! come from before a key was retired.
//!
//! Not here: what to do when the backend cannot serve ([`super::stick`]).

use ballast_core::{
    config::{CookiePersistence, SameSite},
    ids::{BackendId, ServiceId},
    plan::{CookieKey, signing_key},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    field::{self, Field, Known},
    forwarded,
};

/// Format, key id, backend, end of life.
const BODY_BYTES: usize = 1 + 1 + 4 + 8;
/// Half a BLAKE3 hash; 128 bits cannot be guessed.
const MAC_BYTES: usize = 16;
const COOKIE_BYTES: usize = BODY_BYTES + MAC_BYTES;
const FORMAT: u8 = 1;

/// What a valid cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The backend it names.
    pub backend: BackendId,
    /// It should be sent again: signed by an old key, or more than half of its life is over.
    pub renew: bool,
}

/// The values of the cookies named `name` in a request, in order.
pub fn values<'a>(head: &'a [u8], fields: &'a [Field], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let cookies = fields.iter().filter(|f| f.known == Known::Cookie);
    cookies.flat_map(|f| f.value.of(head).split(|b| *b == b';').map(field::trim)).filter_map(move |pair| {
        let value = pair.strip_prefix(name)?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
    })
}

/// The value that a `Set-Cookie` gives to the cookie `name`; `None` for another cookie, an empty
/// value or one that deletes the cookie.
pub fn set_value<'a>(set_cookie: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut parts = set_cookie.split(|b| *b == b';').map(field::trim);
    let value = parts.next()?.strip_prefix(name)?.strip_prefix(b"=")?;
    let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    let deletes = parts.any(|attribute| attribute.eq_ignore_ascii_case(b"max-age=0"));
    (!value.is_empty() && !deletes).then_some(value)
}

/// Checks a cookie's value. `now` is in seconds since the Unix epoch.
pub fn verify(value: &[u8], keys: &[CookieKey], service: ServiceId, ttl_secs: Option<u64>, now: u64) -> Option<Named> {
    let mut bytes = [0u8; COOKIE_BYTES];
    // Room for one more byte than a cookie has, because the decoder estimates upwards.
    let mut decoded = [0u8; COOKIE_BYTES + 3];
    if value.len() != COOKIE_BYTES.div_ceil(3) * 4 - (3 - COOKIE_BYTES % 3) % 3 {
        return None;
    }
    let length = URL_SAFE_NO_PAD.decode_slice(value, &mut decoded).ok()?;
    bytes.copy_from_slice(decoded.get(..length).filter(|d| d.len() == COOKIE_BYTES)?);
    let (body, mac) = bytes.split_at(BODY_BYTES);
    if body[0] != FORMAT {
        return None;
    }
    let (at, key) = keys.iter().enumerate().find(|(_, key)| key.id == body[1])?;
    let expected = mac_of(key, service, body);
    let difference = mac.iter().zip(&expected).fold(0u8, |d, (a, b)| d | (a ^ b));
    if std::hint::black_box(difference) != 0 {
        return None;
    }
    let backend = BackendId::new(u32::from_be_bytes(body[2..6].try_into().ok()?));
    let expires = u64::from_be_bytes(body[6..14].try_into().ok()?);
    if expires != 0 && expires <= now {
        return None;
    }
    let late = match ttl_secs {
        Some(ttl) => expires == 0 || expires - now < ttl / 2,
        None => expires != 0,
    };
    let old = signing_key(keys, now).is_some_and(|signing| at > signing);
    Some(Named { backend, renew: old || late })
}

/// Appends the whole `Set-Cookie` line that names `backend`. Writes nothing when there is no key.
pub fn write_set_cookie(
    out: &mut Vec<u8>,
    config: &CookiePersistence,
    keys: &[CookieKey],
    service: ServiceId,
    backend: BackendId,
    now: u64,
) {
    let Some(key) = signing_key(keys, now).and_then(|at| keys.get(at)) else { return };
    let ttl = config.ttl.map(|ttl| ttl.as_millis().div_ceil(1000));
    let mut bytes = [0u8; COOKIE_BYTES];
    bytes[0] = FORMAT;
    bytes[1] = key.id;
    bytes[2..6].copy_from_slice(&backend.get().to_be_bytes());
    bytes[6..14].copy_from_slice(&ttl.map_or(0, |ttl| now.saturating_add(ttl)).to_be_bytes());
    let mac = mac_of(key, service, &bytes[..BODY_BYTES]);
    bytes[BODY_BYTES..].copy_from_slice(&mac);
    let mut text = [0u8; COOKIE_BYTES * 2];
    // Base64 takes four thirds, so twice the size always has room.
    let length = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).unwrap_or(0);
    out.extend_from_slice(b"Set-Cookie: ");
    out.extend_from_slice(config.name.as_bytes());
    out.push(b'=');
    out.extend_from_slice(&text[..length]);
    out.extend_from_slice(b"; Path=");
    out.extend_from_slice(config.path.as_bytes());
    if let Some(ttl) = ttl {
        out.extend_from_slice(b"; Max-Age=");
        forwarded::write_number(out, ttl);
    }
    if config.http_only {
        out.extend_from_slice(b"; HttpOnly");
    }
    if config.secure {
        out.extend_from_slice(b"; Secure");
    }
    out.extend_from_slice(match config.same_site {
        SameSite::Strict => b"; SameSite=Strict\r\n",
        SameSite::Lax => b"; SameSite=Lax\r\n",
        SameSite::None => b"; SameSite=None\r\n",
    });
}

fn mac_of(key: &CookieKey, service: ServiceId, body: &[u8]) -> [u8; MAC_BYTES] {
    let mut signed = [0u8; 4 + BODY_BYTES];
    signed[..4].copy_from_slice(&service.get().to_be_bytes());
    signed[4..].copy_from_slice(body);
    let hash = blake3::keyed_hash(&key.secret, &signed);
    let mut mac = [0u8; MAC_BYTES];
    mac.copy_from_slice(&hash.as_bytes()[..MAC_BYTES]);
    mac
}

#[cfg(test)]
mod tests {
    use ballast_core::config::Span;

    use super::*;

    fn keys(ids: &[u8]) -> Vec<CookieKey> {
        ids.iter().map(|id| CookieKey { id: *id, secret: [*id; 32], signs_from_s: 0 }).collect()
    }

    fn signed(config: &CookiePersistence, keys: &[CookieKey], now: u64) -> String {
        let mut out = Vec::new();
        write_set_cookie(&mut out, config, keys, ServiceId::new(7), BackendId::new(42), now);
        String::from_utf8(out).unwrap()
    }

    fn value(line: &str) -> &[u8] {
        line.strip_prefix("Set-Cookie: BALLAST=").unwrap().split(';').next().unwrap().as_bytes()
    }

    #[test]
    fn a_cookie_names_its_backend_until_it_expires() {
        let config = CookiePersistence { ttl: Some(Span::from_secs(100)), secure: true, ..Default::default() };
        let line = signed(&config, &keys(&[1]), 1000);
        assert!(line.ends_with("; Path=/; Max-Age=100; HttpOnly; Secure; SameSite=Lax\r\n"), "{line}");
        let check = |now| verify(value(&line), &keys(&[1]), ServiceId::new(7), Some(100), now);
        assert_eq!(check(1001), Some(Named { backend: BackendId::new(42), renew: false }));
        assert_eq!(check(1060), Some(Named { backend: BackendId::new(42), renew: true }));
        assert_eq!(check(1100), None);
    }

    #[test]
    fn nothing_but_the_real_thing_verifies() {
        let line = signed(&CookiePersistence::default(), &keys(&[1]), 0);
        let good = value(&line).to_vec();
        let check = |value: &[u8], keys: &[CookieKey], service| verify(value, keys, ServiceId::new(service), None, 5);
        assert!(check(&good, &keys(&[1]), 7).is_some_and(|n| !n.renew));
        assert!(check(&good, &keys(&[2, 1]), 7).is_some_and(|n| n.renew), "an old key is still good");
        assert_eq!(check(&good, &keys(&[2]), 7), None, "a retired key is not");
        assert_eq!(check(&good, &keys(&[1]), 8), None, "another service");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(check(&bad, &keys(&[1]), 7), None, "byte {at}");
            assert_eq!(check(&good[..at], &keys(&[1]), 7), None);
        }
        assert_eq!(check(b"", &keys(&[1]), 7), None);
    }

    #[test]
    fn a_new_key_verifies_at_once_and_signs_when_every_node_knows_it() {
        let (config, service) = (CookiePersistence::default(), ServiceId::new(7));
        let mut both = keys(&[2, 1]);
        both[0].signs_from_s = 100;
        let (before, after) = (signed(&config, &both, 99), signed(&config, &both, 100));
        let check = |line, keys: &[CookieKey], now| verify(value(line), keys, service, None, now).map(|n| n.renew);
        assert_eq!(check(&before, &keys(&[1]), 99), Some(false), "a node that does not know the new key can read it");
        assert_eq!(check(&before, &both, 99), Some(false), "it is not renewed before there is something newer");
        assert_eq!(check(&before, &both, 100), Some(true));
        assert_eq!(check(&after, &both, 99), Some(false), "of a node whose clock is ahead");
        assert_eq!(check(&after, &keys(&[1]), 100), None);
    }

    #[test]
    fn cookies_are_found_among_others() {
        let head = b"Cookie: a=1; SID=x; sid=z;SID=\"y\"\r\nCookie: b=2; SID=w\r\n\r\n";
        let mut fields = Vec::new();
        field::parse_fields(head, 0, 8, &mut fields).unwrap();
        let found: Vec<_> = values(head, &fields, b"SID").collect();
        assert_eq!(found, [&b"x"[..], b"y", b"w"]);
        assert_eq!(set_value(b"SID=abc; Path=/", b"SID"), Some(&b"abc"[..]));
        assert_eq!(set_value(b"SID=; Path=/", b"SID"), None);
        assert_eq!(set_value(b"SID=abc; Max-Age=0", b"SID"), None);
        assert_eq!(set_value(b"SIDX=abc", b"SID"), None);
    }
}
