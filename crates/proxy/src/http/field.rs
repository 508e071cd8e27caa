//! Lines and fields of a message head, strictly.
//!
//! A head is found first (one search for line feeds, resumable, so that a head that arrives byte
//! by byte costs no more than one that arrives whole) and parsed once when it is complete. Fields
//! are kept as positions in the head: no map, no copy, no allocation once the list has grown.
//!
//! The few names that matter are recognised here by length and content; everything else is
//! copied verbatim by the rewriters.
//!
//! Not here: what a request or response means ([`super::request`], [`super::response`]).

use std::ops::Range;

use super::fault::Fault;

/// A piece of a head, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Piece {
    start: u32,
    end: u32,
}

impl Piece {
    /// A piece of a head; heads are far below 4 GiB.
    pub fn new(range: Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32 }
    }

    /// The bytes of the piece.
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.start as usize..self.end as usize]
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Where it begins.
    pub fn start(self) -> usize {
        self.start as usize
    }
}

/// A field line of a head.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name, as it came.
    pub name: Piece,
    /// Its value, without the white space around it.
    pub value: Piece,
    /// What it is, if it is one of those that matter.
    pub known: Known,
}

/// Field names that the proxy acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Any other name: copied.
    Other,
    /// `Host`
    Host,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Connection`
    Connection,
    /// `Upgrade`
    Upgrade,
    /// `Expect`
    Expect,
    /// `Cookie`
    Cookie,
    /// `Set-Cookie`
    SetCookie,
    /// `Date`
    Date,
    /// `Trailer`
    Trailer,
    /// `Max-Forwards`
    MaxForwards,
    /// `Authorization`
    Authorization,
    /// `WWW-Authenticate`
    WwwAuthenticate,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Forwarded-Proto`
    XForwardedProto,
    /// `X-Forwarded-Host`
    XForwardedHost,
    /// `X-Forwarded-Port`
    XForwardedPort,
    /// `Forwarded`
    Forwarded,
    /// `X-Real-IP`
    XRealIp,
    /// `X-Request-Id`
    XRequestId,
    /// Meant for the next hop only: `Keep-Alive`, `Proxy-Connection`, `TE`, `HTTP2-Settings`,
    /// `Proxy-Authenticate`, `Proxy-Authorization`.
    HopByHop,
    /// Trusted by some backends and meant by no client: `Proxy`, other `X-Forwarded-*`, and any of
    /// the trusted names spelt with underscores, which many backends take for hyphens.
    Spoof,
    /// `Content-Length` or `Transfer-Encoding` spelt with another mark than the hyphen: who reads it as
    /// the real one finds another end of the message than we do.
    FramingLookalike,
}

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let c = byte as u8;
        // RFC 9110 section 5.6.2.
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(c, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.')
            || matches!(c, b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
}

static TOKEN: [bool; 256] = token_table();

/// Whether `byte` may stand in a token.
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `bytes` are a token.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| TOKEN[*b as usize])
}

/// `bytes` without spaces and tabs around them.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a comma-separated list, without white space and empty elements.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim).filter(|element| !element.is_empty())
}

/// Most fields that `Connection` may name: each field of a head is compared with all of them. Arbitrary; browsers and
/// proxies name two or three.
pub const CONNECTION_NAMES_MAX: usize = 32;

/// Whether an element of `Connection` is about the connection itself and names no field.
pub fn is_connection_option(token: &[u8]) -> bool {
    [&b"close"[..], b"keep-alive", b"upgrade"].iter().any(|option| token.eq_ignore_ascii_case(option))
}

/// Whether a challenge, or credentials, are of a scheme by which a backend knows whoever uses a connection, and not whoever
/// sends a request: `NTLM`, `Negotiate` and `Nego2`, told by how they begin, as HAProxy does.
pub fn is_about_connection(challenge: &[u8]) -> bool {
    let begins = |scheme: &[u8]| challenge.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    begins(b"ntlm") || begins(b"nego")
}

/// A plain decimal number: digits only, at most 19 of them, so that it always fits.
pub fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 19 || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(bytes.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')))
}

/// Finds the end of a head. Resumable: feed it the same buffer again once it has grown.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    searched: u32,
    line: u32,
}

impl HeadScan {
    /// The length of the head including the empty line, `None` while it is incomplete.
    ///
    /// # Errors
    /// [`Fault::BareLf`] at the first line feed without a carriage return.
    pub fn find_end(&mut self, buffer: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(offset) = memchr::memchr(b'\n', &buffer[self.searched as usize..]) {
            let lf = self.searched as usize + offset;
            if lf == 0 || buffer[lf - 1] != b'\r' {
                return Err(Fault::BareLf);
            }
            let line = self.line as usize;
            self.searched = lf as u32 + 1;
            self.line = self.searched;
            if lf - 1 == line {
                return Ok(Some(lf + 1));
            }
        }
        self.searched = buffer.len() as u32;
        Ok(None)
    }

    /// Whether at least one whole line was seen.
    pub fn has_line(&self) -> bool {
        self.line > 0
    }
}

/// Parses the field lines of `head` from `at` on. `head` ends with the empty line and every line
/// feed in it follows a carriage return ([`HeadScan`] saw to that).
///
/// # Errors
/// The first fault, in the order of the lines.
pub fn parse_fields(head: &[u8], mut at: usize, fields_max: usize, out: &mut Vec<Field>) -> Result<(), Fault> {
    out.clear();
    let end = head.len() - 2;
    while at < end {
        let lf = at + memchr::memchr(b'\n', &head[at..]).ok_or(Fault::BareLf)?;
        if out.len() == fields_max {
            return Err(Fault::FieldsTooMany);
        }
        out.push(parse_line(head, at, lf - 1)?);
        at = lf + 1;
    }
    Ok(())
}

fn parse_line(head: &[u8], start: usize, end: usize) -> Result<Field, Fault> {
    let line = &head[start..end];
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::ObsFold);
    }
    let name_len = line.iter().take_while(|b| TOKEN[**b as usize]).count();
    match line.get(name_len) {
        Some(b':') if name_len > 0 => {}
        Some(b' ' | b'\t') if name_len > 0 => return Err(Fault::SpaceBeforeColon),
        Some(b'\r') => return Err(Fault::BareCr),
        Some(c) if *c < 0x20 || *c == 0x7f => return Err(Fault::ControlCharacter),
        Some(_) | None => return Err(Fault::FieldName),
    }
    let raw = &line[name_len + 1..];
    check_text(raw)?;
    let value = trim(raw);
    // `trim` returns a part of `raw`, so the distance of their beginnings is the white space cut.
    let lead = value.as_ptr() as usize - raw.as_ptr() as usize;
    let value_start = start + name_len + 1 + if value.is_empty() { 0 } else { lead };
    let name = start..start + name_len;
    Ok(Field {
        known: classify(&head[name.clone()]),
        name: Piece::new(name),
        value: Piece::new(value_start..value_start + value.len()),
    })
}

/// Refuses control characters in text that may hold anything else (RFC 9110 section 5.5).
///
/// # Errors
/// [`Fault::BareCr`] or [`Fault::ControlCharacter`].
pub fn check_text(text: &[u8]) -> Result<(), Fault> {
    // Without an early exit the compiler checks many bytes at a time.
    let bad = text.iter().fold(false, |bad, b| bad | ((*b < 0x20) & (*b != b'\t')) | (*b == 0x7f));
    if !bad {
        return Ok(());
    }
    Err(if text.contains(&b'\r') { Fault::BareCr } else { Fault::ControlCharacter })
}

/// What a field name means to the proxy.
pub fn classify(name: &[u8]) -> Known {
    let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
    let exact = match (name.len(), name[0] | 0x20) {
        (2, b't') if is("te") => Known::HopByHop,
        (4, b'h') if is("host") => Known::Host,
        (4, b'd') if is("date") => Known::Date,
        (5, b'p') if is("proxy") => Known::Spoof,
        (6, b'c') if is("cookie") => Known::Cookie,
        (6, b'e') if is("expect") => Known::Expect,
        (7, b'u') if is("upgrade") => Known::Upgrade,
        (7, b't') if is("trailer") => Known::Trailer,
        (9, b'f') if is("forwarded") => Known::Forwarded,
        (9, b'x') if is("x-real-ip") => Known::XRealIp,
        (10, b'c') if is("connection") => Known::Connection,
        (10, b'k') if is("keep-alive") => Known::HopByHop,
        (10, b's') if is("set-cookie") => Known::SetCookie,
        (12, b'm') if is("max-forwards") => Known::MaxForwards,
        (12, b'x') if is("x-request-id") => Known::XRequestId,
        (13, b'a') if is("authorization") => Known::Authorization,
        (14, b'c') if is("content-length") => Known::ContentLength,
        (14, b'h') if is("http2-settings") => Known::HopByHop,
        (15, b'x') if is("x-forwarded-for") => Known::XForwardedFor,
        (16, b'p') if is("proxy-connection") => Known::HopByHop,
        (16, b'w') if is("www-authenticate") => Known::WwwAuthenticate,
        (16, b'x') if is("x-forwarded-host") => Known::XForwardedHost,
        (16, b'x') if is("x-forwarded-port") => Known::XForwardedPort,
        (17, b't') if is("transfer-encoding") => Known::TransferEncoding,
        (17, b'x') if is("x-forwarded-proto") => Known::XForwardedProto,
        (18, b'p') if is("proxy-authenticate") => Known::HopByHop,
        (19, b'p') if is("proxy-authorization") => Known::HopByHop,
        _ => Known::Other,
    };
    if exact == Known::Other { lookalike(name) } else { exact }
}

/// What a name would be to a backend that takes other marks for hyphens, as CGI, WSGI and their kin do with `_`.
/// `Content_Length` frames the message for one of those and for nobody else; `X_Real_IP` overrides what we write.
fn lookalike(name: &[u8]) -> Known {
    const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];
    const OURS: [&str; 7] = [
        "x-real-ip",
        "x-request-id",
        "max-forwards",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "http2-settings",
    ];
    const FORWARDED: &str = "x-forwarded-";
    // Compares as far as the shorter of the two goes.
    let agrees = |pattern: &str| {
        let same = |(n, p): (&u8, u8)| n.eq_ignore_ascii_case(&p) || (p == b'-' && !n.is_ascii_alphanumeric());
        name.iter().zip(pattern.bytes()).all(same)
    };
    let reads_as = |pattern: &str| name.len() == pattern.len() && agrees(pattern);
    if name.len() > FORWARDED.len() && agrees(FORWARDED) {
        return Known::Spoof;
    }
    // With hyphens alone it would have been recognised as what it is.
    if name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
        return Known::Other;
    }
    if FRAMING.into_iter().any(reads_as) {
        Known::FramingLookalike
    } else if OURS.into_iter().any(reads_as) {
        Known::Spoof
    } else {
        Known::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Vec<(String, String, Known)>, Fault> {
        let mut fields = Vec::new();
        parse_fields(head.as_bytes(), 0, 8, &mut fields)?;
        let text = |piece: Piece| String::from_utf8_lossy(piece.of(head.as_bytes())).into_owned();
        Ok(fields.iter().map(|f| (text(f.name), text(f.value), f.known)).collect())
    }

    #[test]
    fn fields_are_found_where_they_are() {
        let fields = parse("Host: a\r\nX-A:\t b c \t\r\nEmpty:\r\nBlank:  \r\n\r\n").unwrap();
        let plain: Vec<_> = fields.iter().map(|(n, v, _)| (n.as_str(), v.as_str())).collect();
        assert_eq!(plain, [("Host", "a"), ("X-A", "b c"), ("Empty", ""), ("Blank", "")]);
        assert_eq!(fields[0].2, Known::Host);
    }

    #[test]
    fn faults_of_lines() {
        for (line, fault) in [
            (" a: b", Fault::ObsFold),
            ("\ta: b", Fault::ObsFold),
            ("a : b", Fault::SpaceBeforeColon),
            ("a\t: b", Fault::SpaceBeforeColon),
            ("nocolon", Fault::FieldName),
            (": b", Fault::FieldName),
            ("a(: b", Fault::FieldName),
            ("a\u{e9}: b", Fault::FieldName),
            ("a: b\0", Fault::ControlCharacter),
            ("a\0: b", Fault::ControlCharacter),
            ("a: b\u{7f}", Fault::ControlCharacter),
            ("a: b\rc", Fault::BareCr),
            ("a\r: c", Fault::BareCr),
        ] {
            assert_eq!(parse(&format!("X: y\r\n{line}\r\n\r\n")).unwrap_err(), fault, "{line:?}");
        }
        let many: String = (0..9).map(|i| format!("a{i}: b\r\n")).collect();
        assert_eq!(parse(&(many + "\r\n")).unwrap_err(), Fault::FieldsTooMany);
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_arrives() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut scan = HeadScan::default();
        for cut in 0..text.len() {
            let found = scan.find_end(&text[..cut]).unwrap();
            if cut >= 27 {
                assert_eq!(found, Some(27));
                break;
            }
            assert_eq!(found, None);
        }
        assert_eq!(HeadScan::default().find_end(b"GET / HTTP/1.1\nHost: a\r\n\r\n"), Err(Fault::BareLf));
        assert_eq!(HeadScan::default().find_end(b"a\r\n\n"), Err(Fault::BareLf));
    }

    #[test]
    fn spoofed_names_are_recognised_in_every_spelling() {
        for name in [
            "Proxy",
            "X_Forwarded_For",
            "x-forwarded_for",
            "X_Real_IP",
            "X-Forwarded-Server",
            "x_request-id",
            "Keep_Alive",
        ] {
            assert_eq!(classify(name.as_bytes()), Known::Spoof, "{name}");
        }
        for name in ["X-Forward", "Content_Type", "Proxies", "X-Forwarded", "X", "X_Csrf_Token", "Content_Lengths"] {
            assert_eq!(classify(name.as_bytes()), Known::Other, "{name}");
        }
        assert_eq!(classify(b"X-FORWARDED-FOR"), Known::XForwardedFor);
        for name in ["Content_Length", "content.length", "Transfer_Encoding", "TRANSFER~ENCODING"] {
            assert_eq!(classify(name.as_bytes()), Known::FramingLookalike, "{name}");
        }
    }

    #[test]
    fn schemes_that_are_about_the_connection_are_told_by_how_they_begin() {
        for challenge in ["NTLM", "ntlm TlRMTVNTUAAB", "Negotiate", "NEGOTIATE oYG2", "Nego2"] {
            assert!(is_about_connection(challenge.as_bytes()), "{challenge}");
        }
        for challenge in ["", "NTL", "Basic realm=\"NTLM\"", "Bearer ntlm", "Digest nonce=\"1\""] {
            assert!(!is_about_connection(challenge.as_bytes()), "{challenge}");
        }
        assert_eq!(classify(b"authorization"), Known::Authorization);
        assert_eq!(classify(b"WWW-Authenticate"), Known::WwwAuthenticate);
    }

    #[test]
    fn decimals_are_plain() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"9999999999999999999"), Some(9_999_999_999_999_999_999));
        for bad in ["", "+1", "-1", " 1", "1 ", "1,1", "0x1", "12345678901234567890"] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
