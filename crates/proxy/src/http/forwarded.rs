//! The fields by which a backend learns who the client is.
//!
//! Backends believe them, so a client must not be able to write them: they are overwritten, unless
//! the connection comes from a trusted proxy, whose own values are kept and extended (RFC 7239
//! section 4; the `X-` fields are its predecessors). `X-Real-IP` has room for one address and is
//! always the one that Ballast goes by.
//!
//! Not here: all other fields ([`super::forward`]).

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ballast_core::config::TrustedProxies;
use smallvec::SmallVec;

use super::field::{self, Field, Known, Piece};

/// The way a request came, for the fields that tell it.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// Address of whoever opened the connection.
    pub peer: IpAddr,
    /// Its fields are believed.
    pub trusted: bool,
    /// The client, behind whatever trusted proxies there are.
    pub real_client: IpAddr,
    /// The listener's port.
    pub port: u16,
    /// The request's authority; empty if there is none.
    pub authority: &'a [u8],
}

/// The client behind trusted proxies: the last address in `X-Forwarded-For` that is not one of
/// theirs, or the peer. `Forwarded` is read where there is no `X-Forwarded-For`. What an untrusted peer says is ignored.
pub fn real_client(peer: IpAddr, trusted: &TrustedProxies, head: &[u8], fields: &[Field]) -> IpAddr {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return peer;
    }
    let told = |known| fields.iter().rev().filter(move |f| f.known == known && !f.value.is_empty());
    if told(Known::XForwardedFor).next().is_some() {
        let elements = told(Known::XForwardedFor).flat_map(|f| f.value.of(head).rsplit(|b| *b == b','));
        return last_stranger(peer, trusted, elements.map(|element| address_of(field::trim(element))));
    }
    let elements = told(Known::Forwarded).flat_map(|f| {
        let elements: SmallVec<[&[u8]; 8]> = split_unquoted(f.value.of(head), b',').collect();
        elements.into_iter().rev()
    });
    last_stranger(peer, trusted, elements.map(forwarded_for))
}

/// The first of `hops`, which go from the peer outwards, that is not trusted; the last one before what is no address.
fn last_stranger(peer: IpAddr, trusted: &TrustedProxies, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
    let mut client = peer;
    for hop in hops {
        let Some(address) = hop else { break };
        client = address;
        if !trusted.contains(client) {
            break;
        }
    }
    client
}

/// An address, with or without a port; IPv6 with or without brackets. Several proxies write more than the address.
fn address_of(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let address = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip())).or_else(bracketed);
    address.map(|address| address.to_canonical())
}

/// The address in the `for` of an element of `Forwarded` (RFC 7239 section 4). What is quoted there, an address, needs no
/// escapes, so that one with a backslash is none.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    split_unquoted(element, b';').find_map(|pair| {
        let pair = field::trim(pair);
        let at = memchr::memchr(b'=', pair)?;
        let value = pair[..at].eq_ignore_ascii_case(b"for").then_some(&pair[at + 1..])?;
        address_of(value.strip_prefix(b"\"").map_or(Some(value), |v| v.strip_suffix(b"\""))?)
    })
}

/// The parts of `text` between separators that are not within quotes.
fn split_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |b| {
        let separates = *b == separator && !quoted;
        quoted ^= *b == b'"' && !escaped;
        escaped = quoted && *b == b'\\' && !escaped;
        separates
    })
}

/// Appends `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `X-Real-IP` and `Forwarded`.
pub fn write(out: &mut Vec<u8>, head: &[u8], fields: &[Field], hop: &Hop<'_>) {
    let mut told = Told::default();
    if hop.trusted {
        told = Told::of(fields);
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    for piece in fields.iter().filter(|f| hop.trusted && f.known == Known::XForwardedFor && !f.value.is_empty()) {
        out.extend_from_slice(piece.value.of(head));
        out.extend_from_slice(b", ");
    }
    write_address(out, hop.peer);
    out.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
    out.extend_from_slice(told.proto.map_or(b"http", |p| p.of(head)));
    if !hop.authority.is_empty() || told.host.is_some() {
        out.extend_from_slice(b"\r\nX-Forwarded-Host: ");
        out.extend_from_slice(told.host.map_or(hop.authority, |p| p.of(head)));
    }
    out.extend_from_slice(b"\r\nX-Forwarded-Port: ");
    match told.port {
        Some(port) => out.extend_from_slice(port.of(head)),
        None => write_number(out, u64::from(hop.port)),
    }
    // Most proxies pass it on as it came, so that what a trusted one says here may be a stranger's word.
    out.extend_from_slice(b"\r\nX-Real-IP: ");
    write_address(out, hop.real_client);
    out.extend_from_slice(b"\r\nForwarded: ");
    for piece in fields.iter().filter(|f| hop.trusted && f.known == Known::Forwarded && !f.value.is_empty()) {
        out.extend_from_slice(piece.value.of(head));
        out.extend_from_slice(b", ");
    }
    write_forwarded(out, hop);
    out.extend_from_slice(b"\r\n");
}

#[derive(Default)]
struct Told {
    proto: Option<Piece>,
    host: Option<Piece>,
    port: Option<Piece>,
}

impl Told {
    fn of(fields: &[Field]) -> Self {
        let mut told = Self::default();
        for field in fields.iter().filter(|f| !f.value.is_empty()) {
            match field.known {
                Known::XForwardedProto => told.proto = told.proto.or(Some(field.value)),
                Known::XForwardedHost => told.host = told.host.or(Some(field.value)),
                Known::XForwardedPort => told.port = told.port.or(Some(field.value)),
                _ => {}
            }
        }
        told
    }
}

/// One element of `Forwarded`. An IPv6 address is bracketed and quoted, and so is a host with
/// a port: neither is a token (RFC 7239 sections 4 and 6).
fn write_forwarded(out: &mut Vec<u8>, hop: &Hop<'_>) {
    match hop.peer.to_canonical() {
        IpAddr::V4(_) => {
            out.extend_from_slice(b"for=");
            write_address(out, hop.peer);
        }
        IpAddr::V6(_) => {
            out.extend_from_slice(b"for=\"[");
            write_address(out, hop.peer);
            out.extend_from_slice(b"]\"");
        }
    }
    if !hop.authority.is_empty() {
        let quoted = !field::is_token(hop.authority);
        out.extend_from_slice(if quoted { b";host=\"" } else { b";host=" });
        out.extend_from_slice(hop.authority);
        if quoted {
            out.push(b'"');
        }
    }
    out.extend_from_slice(b";proto=http");
}

/// Appends an address; an IPv4 address mapped into IPv6 as IPv4.
pub fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => write_v4(out, v4),
        IpAddr::V6(v6) => write_v6(out, v6),
    }
}

fn write_v4(out: &mut Vec<u8>, address: Ipv4Addr) {
    for (i, octet) in address.octets().into_iter().enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        write_number(out, u64::from(octet));
    }
}

fn write_v6(out: &mut Vec<u8>, address: Ipv6Addr) {
    // A vector takes everything that is written to it.
    let _ = write!(out, "{address}");
}

/// Appends a number in decimal.
pub fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use ballast_core::config::Network;

    use super::*;

    fn written(head: &str, peer: &str, trusted: bool, authority: &str) -> String {
        let head = format!("{head}\r\n");
        let mut fields = Vec::new();
        field::parse_fields(head.as_bytes(), 0, 32, &mut fields).unwrap();
        let peer = peer.parse().unwrap();
        let real_client = if trusted { "5.5.5.5".parse().unwrap() } else { peer };
        let hop = Hop { peer, trusted, real_client, port: 8080, authority: authority.as_bytes() };
        let mut out = Vec::new();
        write(&mut out, head.as_bytes(), &fields, &hop);
        String::from_utf8(out).unwrap()
    }

    const CLAIMS: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
        X-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";

    #[test]
    fn a_stranger_is_overwritten() {
        assert_eq!(
            written(CLAIMS, "192.0.2.1", false, "example.org"),
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: example.org\r\nX-Forwarded-Port: 8080\r\n\
             X-Real-IP: 192.0.2.1\r\nForwarded: for=192.0.2.1;host=example.org;proto=http\r\n"
        );
    }

    #[test]
    fn a_trusted_proxy_is_extended() {
        assert_eq!(
            written(CLAIMS, "10.0.0.1", true, "inner"),
            "X-Forwarded-For: 6.6.6.6, 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n\
             X-Real-IP: 5.5.5.5\r\nForwarded: for=6.6.6.6, for=10.0.0.1;host=inner;proto=http\r\n"
        );
    }

    #[test]
    fn ipv6_and_ports_are_quoted() {
        let text = written("", "2001:db8::1", false, "example.org:8080");
        assert!(text.ends_with("Forwarded: for=\"[2001:db8::1]\";host=\"example.org:8080\";proto=http\r\n"), "{text}");
        assert!(text.starts_with("X-Forwarded-For: 2001:db8::1\r\n"));
        assert!(written("", "::ffff:192.0.2.7", false, "a").contains("for=192.0.2.7;"));
    }

    #[test]
    fn the_real_client_is_the_last_one_not_trusted() {
        let trusted = TrustedProxies(vec![Network::try_from("10.0.0.0/8".to_owned()).unwrap()]);
        let client = |head: &str, peer: &str| {
            let head = format!("{head}\r\n\r\n");
            let mut fields = Vec::new();
            field::parse_fields(head.as_bytes(), 0, 32, &mut fields).unwrap();
            real_client(peer.parse().unwrap(), &trusted, head.as_bytes(), &fields).to_string()
        };
        assert_eq!(client("X-Forwarded-For: 1.1.1.1", "9.9.9.9"), "9.9.9.9");
        assert_eq!(client("X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.2", "10.0.0.1"), "2.2.2.2");
        assert_eq!(client("X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 10.0.0.3", "10.0.0.1"), "1.1.1.1");
        assert_eq!(client("X-Forwarded-For: nonsense", "10.0.0.1"), "10.0.0.1");
        assert_eq!(client("A: b", "10.0.0.1"), "10.0.0.1");
        for (element, address) in [
            ("1.2.3.4:5678", "1.2.3.4"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("[1.2.3.4]", "10.0.0.1"),
            ("1.2.3.4:", "10.0.0.1"),
        ] {
            assert_eq!(client(&format!("X-Forwarded-For: {element}"), "10.0.0.1"), address, "{element}");
            assert_eq!(client(&format!("Forwarded: for=\"{element}\""), "10.0.0.1"), address, "{element}");
        }
        assert_eq!(client("X-Forwarded-For: 1.1.1.1:1, 10.0.0.2:80", "10.0.0.1"), "1.1.1.1");
    }

    #[test]
    fn forwarded_tells_the_client_where_there_is_no_x_forwarded_for() {
        let trusted = TrustedProxies(vec![Network::try_from("10.0.0.0/8".to_owned()).unwrap()]);
        let client = |head: &str| {
            let head = format!("{head}\r\n\r\n");
            let mut fields = Vec::new();
            field::parse_fields(head.as_bytes(), 0, 32, &mut fields).unwrap();
            real_client("10.0.0.1".parse().unwrap(), &trusted, head.as_bytes(), &fields).to_string()
        };
        assert_eq!(client("Forwarded: for=1.1.1.1;proto=https"), "1.1.1.1");
        assert_eq!(client("Forwarded: for=1.1.1.1, proto=http; For=2.2.2.2, for=10.0.0.2;by=10.0.0.1"), "2.2.2.2");
        assert_eq!(client("Forwarded: for=1.1.1.1\r\nForwarded: for=10.0.0.3"), "1.1.1.1");
        assert_eq!(client("Forwarded: host=\"a,for=6.6.6.6\";for=\"[2001:db8::1]:80\""), "2001:db8::1");
        assert_eq!(client("Forwarded: host=\"\\\",for=6.6.6.6\";for=1.1.1.1"), "1.1.1.1");
        assert_eq!(client("X-Forwarded-For: 1.1.1.1\r\nForwarded: for=6.6.6.6"), "1.1.1.1");
        for unknown in ["for=unknown", "for=_hidden", "proto=https", "for=\"1.1.1.1", "for=1.1.1.1, for=unknown", ""] {
            assert_eq!(client(&format!("Forwarded: {unknown}")), "10.0.0.1", "{unknown}");
        }
    }
}
