//! Heads as they are passed on.
//!
//! Written from scratch around verbatim copies of the fields that are the application's own:
//! framing, host, connection handling and everything that a backend believes about the client is
//! ours, whatever came in (RFC 9110 section 7.6).
//!
//! Not here: parsing.

use smallvec::SmallVec;

use super::{
    field::{self, CONNECTION_NAMES_MAX, Field, Known},
    forwarded::{self, Hop},
    request::{Framing, RequestHead},
    response::ResponseHead,
};

/// This proxy's name in `Via`.
const VIA: &[u8] = b"Via: 1.1 ballast\r\n";

/// What a forwarded request needs beyond its own head.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// The way it came.
    pub hop: Hop<'a>,
    /// `Host` of a request that has none (HTTP/1.0).
    pub default_host: &'a [u8],
    /// Its id: the client's if that is trusted, else ours.
    pub request_id: &'a [u8],
    /// The protocol to offer the backend, if switching to it is allowed.
    pub upgrade: Option<&'a [u8]>,
}

/// Appends the head of a request for the backend.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &[u8],
    request: &RequestHead,
    fields: &[Field],
    context: &RequestContext<'_>,
) {
    out.extend_from_slice(request.method_text.of(head));
    out.push(b' ');
    out.extend_from_slice(request.target(head));
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    let authority = request.authority.of(head);
    out.extend_from_slice(if authority.is_empty() { context.default_host } else { authority });
    out.extend_from_slice(b"\r\n");
    let named = named_by_connection(head, fields, request.connection_names_fields);
    for field in fields {
        match field.known {
            Known::Other
            | Known::Cookie
            | Known::SetCookie
            | Known::Date
            | Known::Authorization
            | Known::WwwAuthenticate => copy_unless_named(out, head, field, &named),
            Known::Trailer if request.framing == Framing::Chunked => copy(out, head, field),
            // An HTTP/1.0 client expects nothing, and ours would be the only expectation sent.
            Known::Expect if request.expects_continue => out.extend_from_slice(b"Expect: 100-continue\r\n"),
            Known::MaxForwards => {
                out.extend_from_slice(b"Max-Forwards: ");
                match request.max_forwards {
                    Some(left) => forwarded::write_number(out, left.saturating_sub(1)),
                    None => out.extend_from_slice(field.value.of(head)),
                }
                out.extend_from_slice(b"\r\n");
            }
            Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Connection
            | Known::Upgrade
            | Known::Expect
            | Known::Trailer
            | Known::XForwardedFor
            | Known::XForwardedProto
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::Forwarded
            | Known::XRealIp
            | Known::XRequestId
            | Known::HopByHop
            | Known::Spoof
            | Known::FramingLookalike => {}
        }
    }
    forwarded::write(out, head, fields, &context.hop);
    out.extend_from_slice(b"X-Request-Id: ");
    out.extend_from_slice(context.request_id);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(VIA);
    write_framing(out, request.framing);
    if let Some(protocol) = context.upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What a forwarded response needs beyond its own head.
#[derive(Clone, Copy, Debug)]
pub struct ResponseContext<'a> {
    /// The framing towards the client, which need not be the backend's.
    pub framing: Framing,
    /// What becomes of the client's connection.
    pub connection: Connection,
    /// The time, for a response that has no `Date`.
    pub date: &'a [u8],
    /// A whole `Set-Cookie` line of the proxy's own, or nothing.
    pub set_cookie: &'a [u8],
}

/// What a response says about the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Nothing: HTTP/1.1 keeps it.
    Keep,
    /// Said, because HTTP/1.0 would close it.
    KeepTold,
    /// It is closed afterwards.
    Close,
    /// It becomes a tunnel.
    Upgrade,
}

/// Appends the head of a response for the client.
pub fn write_response(
    out: &mut Vec<u8>,
    head: &[u8],
    response: &ResponseHead,
    fields: &[Field],
    context: &ResponseContext<'_>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    forwarded::write_number(out, u64::from(response.status));
    out.push(b' ');
    out.extend_from_slice(response.reason.of(head));
    out.extend_from_slice(b"\r\n");
    let named = named_by_connection(head, fields, response.connection_names_fields);
    for field in fields {
        match field.known {
            Known::Trailer if context.framing == Framing::Chunked => copy(out, head, field),
            Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Connection
            | Known::Upgrade
            | Known::Trailer
            | Known::HopByHop
            | Known::FramingLookalike => {}
            Known::Other
            | Known::Expect
            | Known::Cookie
            | Known::SetCookie
            | Known::Date
            | Known::MaxForwards
            | Known::Authorization
            | Known::WwwAuthenticate
            | Known::XForwardedFor
            | Known::XForwardedProto
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::Forwarded
            | Known::XRealIp
            | Known::XRequestId
            | Known::Spoof => copy_unless_named(out, head, field, &named),
        }
    }
    out.extend_from_slice(VIA);
    // RFC 9110 section 6.6.1: a recipient with a clock adds the date it received the response.
    if !response.has_date && response.status >= 200 {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(context.date);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(context.set_cookie);
    match response.length_told {
        Some(length) => write_framing(out, Framing::Length(length)),
        None => write_framing(out, context.framing),
    }
    match context.connection {
        Connection::Keep => {}
        Connection::KeepTold => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Connection::Close => out.extend_from_slice(b"Connection: close\r\n"),
        Connection::Upgrade => {
            out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
            out.extend_from_slice(response.upgrade.map_or(b"", |u| u.of(head)));
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            forwarded::write_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn copy(out: &mut Vec<u8>, head: &[u8], field: &Field) {
    out.extend_from_slice(field.name.of(head));
    out.extend_from_slice(b": ");
    out.extend_from_slice(field.value.of(head));
    out.extend_from_slice(b"\r\n");
}

/// The fields that `Connection` names. Parsing has bounded how many they are.
type Named<'a> = SmallVec<[&'a [u8]; CONNECTION_NAMES_MAX]>;

fn named_by_connection<'a>(head: &'a [u8], fields: &[Field], any_named: bool) -> Named<'a> {
    if !any_named {
        return Named::new();
    }
    let connections = fields.iter().filter(|f| f.known == Known::Connection);
    connections
        .flat_map(|f| field::list(f.value.of(head)))
        .filter(|token| !field::is_connection_option(token))
        .collect()
}

fn copy_unless_named(out: &mut Vec<u8>, head: &[u8], field: &Field, named: &Named<'_>) {
    let name = field.name.of(head);
    if !named.iter().any(|token| token.eq_ignore_ascii_case(name)) {
        copy(out, head, field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{
        request::{self, HeadLimits, Method},
        response,
    };

    fn forward(head: &str) -> String {
        let mut fields = Vec::new();
        let limits = HeadLimits { fields_max: 32, target_bytes_max: 1000 };
        let request = request::parse(head.as_bytes(), &limits, &mut fields).unwrap();
        let hop = Hop {
            peer: [192, 0, 2, 1].into(),
            trusted: false,
            real_client: "192.0.2.1".parse().unwrap(),
            port: 80,
            authority: request.authority.of(head.as_bytes()),
        };
        let context = RequestContext {
            hop,
            default_host: b"default:80",
            request_id: b"id1",
            upgrade: request.upgrade.map(|u| u.of(head.as_bytes())),
        };
        let mut out = Vec::new();
        write_request(&mut out, head.as_bytes(), &request, &fields, &context);
        let text = String::from_utf8(out).unwrap();
        // What every forwarded request carries is checked once, below.
        let at = text.find("X-Forwarded-For").unwrap();
        let end = at + text[at..].find("Via: 1.1 ballast\r\n").unwrap() + 18;
        format!("{}{}", &text[..at], &text[end..])
    }

    #[test]
    fn requests_are_written_anew() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (
                "POST http://A/x HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\nX-A:  b \r\n\r\n",
                "POST /x HTTP/1.1\r\nHost: A\r\nX-A: b\r\nContent-Length: 7\r\n\r\n",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\nTE: trailers\r\nKeep-Alive: 5\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Secret, close, x-forwarded-for\r\nX-Secret: 1\r\nX-Kept: 2\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 2\r\n\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nProxy: x\r\nX-Forwarded-Server: y\r\nProxy-Connection: z\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
            ("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", "GET / HTTP/1.1\r\nHost: default:80\r\n\r\n"),
            (
                "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n",
                "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 2\r\n\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
        ] {
            assert_eq!(forward(head), expected, "{head:?}");
        }
    }

    fn backward(head: &str, framing: Framing, connection: Connection) -> String {
        let mut fields = Vec::new();
        let response = response::parse(head.as_bytes(), Method::Get, 32, &mut fields).unwrap();
        let context = ResponseContext { framing, connection, date: b"DATE", set_cookie: b"" };
        let mut out = Vec::new();
        write_response(&mut out, head.as_bytes(), &response, &fields, &context);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn responses_are_written_anew() {
        assert_eq!(
            backward(
                "HTTP/1.1 200 Fine\r\nContent-Length: 03\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nSet-Cookie: a=b\r\n\r\n",
                Framing::Length(3),
                Connection::Keep
            ),
            "HTTP/1.1 200 Fine\r\nSet-Cookie: a=b\r\nVia: 1.1 ballast\r\nDate: DATE\r\nContent-Length: 3\r\n\r\n"
        );
        assert_eq!(
            backward("HTTP/1.0 404\r\nDate: then\r\n\r\n", Framing::Chunked, Connection::Close),
            "HTTP/1.1 404 \r\nDate: then\r\nVia: 1.1 ballast\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
    }
}
