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
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ballast_core::config::TrustedProxies;

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
/// theirs, or the peer. What an untrusted peer says is ignored.
pub fn real_client(peer: IpAddr, trusted: &TrustedProxies, head: &[u8], fields: &[Field]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contains(peer) {
        return client;
    }
    for field in fields.iter().rev().filter(|f| f.known == Known::XForwardedFor) {
        for element in field.value.of(head).rsplit(|b| *b == b',').map(field::trim) {
            match std::str::from_utf8(element).ok().and_then(|text| text.parse::<IpAddr>().ok()) {
                Some(address) => client = address.to_canonical(),
                None => return client,
            }
            if !trusted.contains(client) {
                return client;
            }
        }
    }
    client
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
    }
}
