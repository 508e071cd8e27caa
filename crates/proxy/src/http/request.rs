//! A request's head: parsed once, held to the letter.
//!
//! Why so strict: a proxy and a backend that read one message differently can be made to disagree
//! on where it ends. So anything ambiguous is refused, with the fault by name, and what passes has
//! exactly one reading (RFC 9112; every refusal cites its rule in [`Fault`]).
//!
//! Not here: where it goes ([`super::route`]), how it is passed on ([`super::forward`]).

use super::{
    fault::Fault,
    field::{self, Field, Known, Piece},
    host,
};

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// That many bytes; may be zero.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Until the connection closes. Responses only.
    Close,
}

/// Methods that are treated in their own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: its response has no body.
    Head,
    /// `OPTIONS`: honours `Max-Forwards`.
    Options,
    /// `TRACE`: honours `Max-Forwards`.
    Trace,
    /// `PUT`, `DELETE`: may be repeated.
    Idempotent,
    /// Anything else: never repeated once it may have been seen.
    Other,
}

impl Method {
    /// Whether a request may be sent again when nobody knows whether it was carried out
    /// (RFC 9110 section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        self != Self::Other
    }
}

/// Bounds on a request's head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Field lines.
    pub fields_max: usize,
    /// Bytes of the target.
    pub target_bytes_max: usize,
}

/// A request's head. Pieces are positions in the head it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead {
    /// Its method.
    pub method: Method,
    /// The method as it came.
    pub method_text: Piece,
    /// Path and query, or `*`. Empty when the target was an authority alone.
    pub target: Piece,
    /// Host and port: from an absolute target, else from `Host`. Empty in HTTP/1.0 without either.
    pub authority: Piece,
    /// HTTP/1.0.
    pub http10: bool,
    /// The client keeps the connection.
    pub keep_alive: bool,
    /// The body.
    pub framing: Framing,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// Protocol that the client wants to switch to.
    pub upgrade: Option<Piece>,
    /// `Connection` names fields that must be dropped.
    pub connection_names_fields: bool,
    /// `Max-Forwards`, of `TRACE` and `OPTIONS`.
    pub max_forwards: Option<u64>,
    /// Its credentials are for the connection that it is sent on ([`field::is_about_connection`]).
    pub logs_in_connection: bool,
}

impl RequestHead {
    /// The host without port, empty if there is none.
    pub fn host<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        host::split(self.authority.of(head)).map_or(&[], |(host, _)| host)
    }

    /// The path without the query.
    pub fn path<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        let target = self.target(head);
        &target[..memchr::memchr(b'?', target).unwrap_or(target.len())]
    }

    /// The query without its question mark.
    pub fn query<'a>(&self, head: &'a [u8]) -> Option<&'a [u8]> {
        let target = self.target(head);
        memchr::memchr(b'?', target).map(|at| &target[at + 1..])
    }

    /// Path and query in the form that is passed on.
    pub fn target<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        match (self.target.of(head), self.method) {
            ([], Method::Options) => b"*",
            ([], _) => b"/",
            (target, _) => target,
        }
    }
}

/// Longest method; the longest registered one has 17 letters.
const METHOD_BYTES_MAX: usize = 32;

/// Checks the first line of a head that is not complete yet, so that what is no HTTP is refused
/// before it has had the time that a head may take.
///
/// # Errors
/// As [`parse`].
pub fn check_request_line(buffer: &[u8], limits: &HeadLimits) -> Result<(), Fault> {
    let lf = memchr::memchr(b'\n', buffer).ok_or(Fault::StartLine)?;
    request_line(buffer, lf - 1, limits).map(drop)
}

/// Parses the head of a request. `head` runs to the end of its empty line, `fields` is scratch space
/// that holds the field lines afterwards.
///
/// # Errors
/// The first fault found; the connection cannot be used further.
pub fn parse(head: &[u8], limits: &HeadLimits, fields: &mut Vec<Field>) -> Result<RequestHead, Fault> {
    let lf = memchr::memchr(b'\n', head).ok_or(Fault::StartLine)?;
    let mut request = request_line(head, lf - 1, limits)?;
    field::parse_fields(head, lf + 1, limits.fields_max, fields)?;
    let mut seen = Seen::default();
    for field in fields.iter() {
        let value = field.value.of(head);
        match field.known {
            Known::Host => seen.host(field.value, value)?,
            Known::ContentLength => seen.content_length(value)?,
            Known::TransferEncoding => seen.transfer_encoding(value)?,
            // To drop it would be a repair; whoever sends it hopes that two programs read it differently.
            Known::FramingLookalike => return Err(Fault::AmbiguousFieldName),
            Known::Connection => seen.connection(value)?,
            Known::Upgrade => seen.upgrade = Some(if seen.upgrade.is_some() { Piece::default() } else { field.value }),
            // RFC 9110 section 10.1.1: an expectation in an HTTP/1.0 request is ignored.
            Known::Expect if !request.http10 => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Fault::Expectation);
                }
                request.expects_continue = true;
            }
            Known::MaxForwards if matches!(request.method, Method::Trace | Method::Options) => {
                request.max_forwards = Some(field::decimal(value).ok_or(Fault::MaxForwards)?);
            }
            Known::Authorization => request.logs_in_connection |= field::is_about_connection(value),
            _ => {}
        }
    }
    seen.settle(head, &mut request)?;
    Ok(request)
}

#[derive(Default)]
struct Seen {
    host: Option<Piece>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    wants_upgrade: bool,
    names: usize,
    upgrade: Option<Piece>,
}

impl Seen {
    fn host(&mut self, piece: Piece, value: &[u8]) -> Result<(), Fault> {
        if self.host.is_some() || host::split(value).is_none() {
            return Err(Fault::Host);
        }
        self.host = Some(piece);
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let length = field::decimal(value).ok_or(Fault::ContentLength)?;
        if self.length.replace(length).is_some() {
            return Err(Fault::ContentLength);
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked {
            return Err(Fault::TransferEncoding);
        }
        transfer_encoding(value)?;
        self.chunked = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Fault> {
        for token in field::list(value) {
            match token.len() {
                5 if token.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if token.eq_ignore_ascii_case(b"upgrade") => self.wants_upgrade = true,
                _ => self.names += 1,
            }
        }
        if self.names > field::CONNECTION_NAMES_MAX { Err(Fault::ConnectionNamesTooMany) } else { Ok(()) }
    }

    fn settle(self, head: &[u8], request: &mut RequestHead) -> Result<(), Fault> {
        request.framing = match (self.length, self.chunked) {
            // RFC 9112 section 6.1: a server may reject it, and one that does not must close. Reject.
            (Some(_), true) => return Err(Fault::ConflictingFraming),
            (None, true) if request.http10 => return Err(Fault::TransferEncoding),
            (None, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::None,
        };
        // RFC 9110 section 9.3.8: a client must not send content in a TRACE request.
        if request.method == Method::Trace && !matches!(request.framing, Framing::None | Framing::Length(0)) {
            return Err(Fault::ConflictingFraming);
        }
        let absolute = !request.authority.is_empty();
        match self.host {
            Some(host) if !absolute => request.authority = host,
            Some(host) if host::same(host.of(head), request.authority.of(head)) => {}
            Some(_) => return Err(Fault::Host),
            // RFC 9112 section 3.2: a 1.1 request without Host must be answered with 400.
            None if request.http10 => {}
            None => return Err(Fault::Host),
        }
        request.keep_alive = !self.close && (!request.http10 || self.keep_alive);
        request.connection_names_fields = self.names > 0;
        request.upgrade = self.upgrade.filter(|u| self.wants_upgrade && !u.is_empty() && !request.http10);
        Ok(())
    }
}

/// Accepts exactly one `chunked`.
pub(super) fn transfer_encoding(value: &[u8]) -> Result<(), Fault> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = 0;
    for coding in value.split(|b| *b == b',').map(field::trim) {
        let name = &coding[..memchr::memchr(b';', coding).unwrap_or(coding.len())];
        if !field::is_token(field::trim(name)) || name.eq_ignore_ascii_case(b"identity") {
            return Err(Fault::TransferEncoding);
        }
        codings += usize::from(name.eq_ignore_ascii_case(b"chunked"));
    }
    // RFC 9112 section 6.1: an unknown coding is answered with 501, `chunked` twice or with parameters is malformed.
    Err(if codings > 1 || value.to_ascii_lowercase().starts_with(b"chunked") {
        Fault::TransferEncoding
    } else {
        Fault::CodingUnknown
    })
}

fn request_line(head: &[u8], end: usize, limits: &HeadLimits) -> Result<RequestHead, Fault> {
    let line = &head[..end];
    field::check_text(line)?;
    let method_len = line.iter().take_while(|b| field::is_token_byte(**b)).count();
    if method_len == 0 || method_len > METHOD_BYTES_MAX || line.get(method_len) != Some(&b' ') {
        return Err(Fault::Method);
    }
    let rest = &line[method_len + 1..];
    let target_len = memchr::memchr(b' ', rest).ok_or(Fault::StartLine)?;
    let http10 = match &rest[target_len + 1..] {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Fault::Version);
        }
        _ => return Err(Fault::StartLine),
    };
    if target_len > limits.target_bytes_max {
        return Err(Fault::TargetTooLong);
    }
    let method = match &line[..method_len] {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"OPTIONS" => Method::Options,
        b"TRACE" => Method::Trace,
        b"PUT" | b"DELETE" => Method::Idempotent,
        b"CONNECT" => return Err(Fault::MethodRefused),
        _ => Method::Other,
    };
    let start = method_len + 1;
    let (target, authority) = target(&rest[..target_len], start, method)?;
    Ok(RequestHead {
        method,
        method_text: Piece::new(0..method_len),
        target,
        authority,
        http10,
        keep_alive: false,
        framing: Framing::None,
        expects_continue: false,
        upgrade: None,
        connection_names_fields: false,
        max_forwards: None,
        logs_in_connection: false,
    })
}

/// Path with query, and authority, of a target that begins at `at` in its head.
fn target(text: &[u8], at: usize, method: Method) -> Result<(Piece, Piece), Fault> {
    // Visible ASCII without `#`: a fragment is never sent (RFC 9112 section 3.2), other bytes must be percent-encoded.
    if text.iter().any(|b| !b.is_ascii_graphic() || *b == b'#') {
        return Err(Fault::Target);
    }
    match text.first() {
        Some(b'/') => return Ok((Piece::new(at..at + text.len()), Piece::default())),
        Some(b'*') if text.len() == 1 && method == Method::Options => {
            return Ok((Piece::new(at..at + 1), Piece::default()));
        }
        _ => {}
    }
    let scheme = if text.get(..7).is_some_and(|s| s.eq_ignore_ascii_case(b"http://")) {
        7
    } else if text.get(..8).is_some_and(|s| s.eq_ignore_ascii_case(b"https://")) {
        8
    } else {
        return Err(Fault::Target);
    };
    let rest = &text[scheme..];
    let authority_len = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    if host::split(&rest[..authority_len]).is_none() {
        return Err(Fault::Host);
    }
    let (authority_at, path_at) = (at + scheme, at + scheme + authority_len);
    // `http://host?query` has no path to pass on; nobody sends it, and writing one would be a repair.
    if rest.get(authority_len) == Some(&b'?') {
        return Err(Fault::Target);
    }
    Ok((Piece::new(path_at..at + text.len()), Piece::new(authority_at..path_at)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { fields_max: 16, target_bytes_max: 64 };

    fn head(text: &str) -> Result<RequestHead, Fault> {
        parse(text.as_bytes(), &LIMITS, &mut Vec::new())
    }

    #[test]
    fn plain_requests() {
        let text = "GET /a/b?c=d HTTP/1.1\r\nHost: Example.org:8080\r\n\r\n";
        let request = head(text).unwrap();
        assert_eq!(request.path(text.as_bytes()), b"/a/b");
        assert_eq!(request.query(text.as_bytes()), Some(&b"c=d"[..]));
        assert_eq!(request.host(text.as_bytes()), b"Example.org");
        assert!(request.keep_alive && request.framing == Framing::None);

        let text = "GET http://a.example/x HTTP/1.1\r\nHost: A.example:80\r\nConnection: close\r\n\r\n";
        let request = head(text).unwrap();
        assert_eq!(request.target(text.as_bytes()), b"/x");
        assert!(!request.keep_alive);

        for (text, target) in [
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "*"),
            ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", "*"),
            ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "/"),
        ] {
            assert_eq!(head(text).unwrap().target(text.as_bytes()), target.as_bytes());
        }
        assert!(!head("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
        assert!(head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().keep_alive);
    }

    #[test]
    fn faults_of_the_request_line() {
        for (line, fault) in [
            ("", Fault::Method),
            ("GET", Fault::Method),
            (" GET / HTTP/1.1", Fault::Method),
            ("G(T / HTTP/1.1", Fault::Method),
            ("GET  / HTTP/1.1", Fault::StartLine),
            ("GET /", Fault::StartLine),
            ("GET / HTTP/1.1 ", Fault::StartLine),
            ("GET / a HTTP/1.1", Fault::StartLine),
            ("GET / http/1.1", Fault::StartLine),
            ("GET / HTTP/1.10", Fault::StartLine),
            ("GET\t/ HTTP/1.1", Fault::Method),
            ("GET / HTTP/2.0", Fault::Version),
            ("PRI * HTTP/2.0", Fault::Version),
            ("GET / HTTP/1.2", Fault::Version),
            ("GET / HTTP/0.9", Fault::Version),
            ("CONNECT a:1 HTTP/1.1", Fault::MethodRefused),
            ("GET * HTTP/1.1", Fault::Target),
            ("GET a HTTP/1.1", Fault::Target),
            ("GET /a#b HTTP/1.1", Fault::Target),
            ("GET /\u{e9} HTTP/1.1", Fault::Target),
            ("GET ftp://a/ HTTP/1.1", Fault::Target),
            ("GET http:/// HTTP/1.1", Fault::Host),
            ("GET http://u@a/ HTTP/1.1", Fault::Host),
            ("GET http://b/ HTTP/1.1", Fault::Host),
            ("GET /\0 HTTP/1.1", Fault::ControlCharacter),
            ("GET /\r HTTP/1.1", Fault::BareCr),
        ] {
            assert_eq!(head(&format!("{line}\r\nHost: a\r\n\r\n")).unwrap_err(), fault, "{line:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(64));
        assert_eq!(head(&long).unwrap_err(), Fault::TargetTooLong);
        let method = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "X".repeat(33));
        assert_eq!(head(&method).unwrap_err(), Fault::Method);
    }

    #[test]
    fn faults_of_fields() {
        for (fields, fault) in [
            ("", Fault::Host),
            ("Host: a\r\nHost: a\r\n", Fault::Host),
            ("Host: a b\r\n", Fault::Host),
            ("Host: a, b\r\n", Fault::Host),
            ("Host:\r\n", Fault::Host),
            ("Host: u@a\r\n", Fault::Host),
            ("Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length: 1, 1\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length: +1\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length: -1\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length: 1 1\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length: 0x1\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length:\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length: 99999999999999999999\r\n", Fault::ContentLength),
            ("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", Fault::ConflictingFraming),
            ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::TransferEncoding),
            ("Host: a\r\nTransfer-Encoding: chunked, chunked\r\n", Fault::TransferEncoding),
            ("Host: a\r\nTransfer-Encoding: chunked;q=1\r\n", Fault::TransferEncoding),
            ("Host: a\r\nTransfer-Encoding: identity\r\n", Fault::TransferEncoding),
            ("Host: a\r\nTransfer-Encoding:\r\n", Fault::TransferEncoding),
            ("Host: a\r\nTransfer-Encoding: \u{b}chunked\r\n", Fault::ControlCharacter),
            ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", Fault::CodingUnknown),
            ("Host: a\r\nTransfer-Encoding: gzip\r\n", Fault::CodingUnknown),
            ("Host: a\r\nTransfer-Encoding : chunked\r\n", Fault::SpaceBeforeColon),
            ("Host: a\r\nTransfer-Encoding:\r\n chunked\r\n", Fault::ObsFold),
            ("Host: a\r\nExpect: 200-ok\r\n", Fault::Expectation),
        ] {
            assert_eq!(head(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).unwrap_err(), fault, "{fields:?}");
        }
        let ten = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(head(ten).unwrap_err(), Fault::TransferEncoding);
        let trace = "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(head(trace).unwrap_err(), Fault::ConflictingFraming);
    }

    #[test]
    fn upgrades_need_both_fields() {
        let with =
            |fields: &str| head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap().upgrade.is_some();
        assert!(with("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"));
        assert!(!with("Upgrade: websocket\r\n"));
        assert!(!with("Connection: upgrade\r\n"));
        assert!(!with("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut text = text;
            text.extend_from_slice(b"\r\n\r\n");
            let mut scan = field::HeadScan::default();
            if let Ok(Some(end)) = scan.find_end(&text) {
                let _ = parse(&text[..end], &LIMITS, &mut Vec::new());
            }
        }

        #[test]
        fn near_misses_never_panic(text in "(GET|POST|OPTIONS) (/|\\*|http://a)[ -~]{0,10} HTTP/1\\.[01]\r\n((Host|Connection|Transfer-Encoding|Content-Length|Upgrade|Expect): ?[ -~]{0,12}\r\n){0,4}\r\n") {
            if let Ok(request) = head(&text) {
                let _ = (request.host(text.as_bytes()), request.path(text.as_bytes()), request.query(text.as_bytes()));
            }
        }
    }
}
