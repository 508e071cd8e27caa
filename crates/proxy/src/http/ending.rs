//! How a request ended: one code each, and what the client was told.
//!
//! This is the table behind the access log's `ended` field and the body of every answer that the
//! proxy gives itself.
//!
//! | `ended` | status | meaning |
//! |---|---|---|
//! | `done` | backend's | the whole response was delivered |
//! | `request:<fault>` | 4xx/5xx by fault | the request was malformed or exceeded a bound |
//! | `client_head_timeout` | 408 | the head did not arrive within `client_header` |
//! | `client_body_timeout` | 408; backend's, then reset | the body stalled for `client_body`, or was slower than `body_rate_min` |
//! | `client_closed` | none | the client went away before the response was complete |
//! | `client_stalled` | none | the client took nothing for `between_bytes` |
//! | `no_route` | 503 | no service of the farm takes the request |
//! | `no_backend` | 503 | no backend of the service may be used |
//! | `queue_full` | 503 | all backends at `connections_max`, and `queue_timeout` is zero |
//! | `queue_timeout` | 503 | no backend became free within `queue_timeout` |
//! | `connect_failed` | 503 | no attempt reached a backend |
//! | `backend_closed` | 502 | the backend closed before its response |
//! | `backend_timeout` | 504 | no response within `response_header`, nor `100 Continue` to a client that waits for it, or the request's body was not taken for `between_bytes` |
//! | `response:<fault>` | 502 | the response was malformed or exceeded a bound |
//! | `interim_flood` | 502 | more interim responses than anyone sends |
//! | `upgrade_unasked` | 502 | 101 to a request that did not ask for it |
//! | `truncated` | backend's, then reset | the backend closed in the middle of the body |
//! | `backend_stalled` | backend's, then reset | the backend sent nothing for `between_bytes` in the middle of the body, or less than `response_rate_min` |
//! | `response_broken:<fault>` | backend's, then reset | the body's coding was malformed |
//! | `vip_not_held` | 503; backend's, then reset; 101 | the node does not own the VIP any more, or handed it over and the time to finish is over |
//! | `isolated` | 503 | no quorum, and the farm's policy is `refuse`; or the log did not say in time what the client is bound to |
//! | `table_full` | 503 | the binding table is full, and its policy is `refuse` |
//! | `limit_connections` | 503 | the listener has `connections_max` connections |
//! | `limit_source` | 429 | the client's address (of IPv6 its /64) has `connections_per_source_max` connections |
//! | `answered` | 200 | `OPTIONS` or `TRACE` that came to the end of its `Max-Forwards` |
//! | `tunnel_closed` | 101 | an upgraded connection was closed by one of its ends |
//! | `tunnel_idle` | 101 | an upgraded connection was idle for `tunnel_idle` |
//!
//! Not here: how an answer gets to the client.

use ballast_core::health;

use super::{fault::Fault, forwarded};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// See the table in the module's documentation; the variants have its order.
    Done,
    /// `request:<fault>`
    Request(Fault),
    /// `client_head_timeout`
    ClientHeadTimeout,
    /// `client_body_timeout`
    ClientBodyTimeout,
    /// `client_closed`
    ClientClosed,
    /// `client_stalled`
    ClientStalled,
    /// `no_route`
    NoRoute,
    /// `no_backend`
    NoBackend,
    /// `queue_full`
    QueueFull,
    /// `queue_timeout`
    QueueTimeout,
    /// `connect_failed`
    ConnectFailed,
    /// `backend_closed`
    BackendClosed,
    /// `backend_timeout`
    BackendTimeout,
    /// `response:<fault>`
    Response(Fault),
    /// `interim_flood`
    InterimFlood,
    /// `upgrade_unasked`
    UpgradeUnasked,
    /// `truncated`
    Truncated,
    /// `backend_stalled`
    BackendStalled,
    /// `response_broken:<fault>`
    ResponseBroken(Fault),
    /// `vip_not_held`
    VipNotHeld,
    /// `drain_timeout`
    DrainTimeout,
    /// `isolated`
    Isolated,
    /// `table_full`
    TableFull,
    /// `limit_connections`
    LimitConnections,
    /// `limit_source`
    LimitSource,
    /// `answered`
    Answered,
    /// `tunnel_closed`
    TunnelClosed,
    /// `tunnel_idle`
    TunnelIdle,
}

impl Ending {
    /// The code, in two parts: the second is the fault's, or empty.
    pub const fn code(self) -> (&'static str, &'static str) {
        match self {
            Self::Done => ("done", ""),
            Self::Request(fault) => ("request", fault.code()),
            Self::ClientHeadTimeout => ("client_head_timeout", ""),
            Self::ClientBodyTimeout => ("client_body_timeout", ""),
            Self::ClientClosed => ("client_closed", ""),
            Self::ClientStalled => ("client_stalled", ""),
            Self::NoRoute => ("no_route", ""),
            Self::NoBackend => ("no_backend", ""),
            Self::QueueFull => ("queue_full", ""),
            Self::QueueTimeout => ("queue_timeout", ""),
            Self::ConnectFailed => ("connect_failed", ""),
            Self::BackendClosed => ("backend_closed", ""),
            Self::BackendTimeout => ("backend_timeout", ""),
            Self::Response(fault) => ("response", fault.code()),
            Self::InterimFlood => ("interim_flood", ""),
            Self::UpgradeUnasked => ("upgrade_unasked", ""),
            Self::Truncated => ("truncated", ""),
            Self::BackendStalled => ("backend_stalled", ""),
            Self::ResponseBroken(fault) => ("response_broken", fault.code()),
            Self::VipNotHeld => ("vip_not_held", ""),
            Self::DrainTimeout => ("drain_timeout", ""),
            Self::Isolated => ("isolated", ""),
            Self::TableFull => ("table_full", ""),
            Self::LimitConnections => ("limit_connections", ""),
            Self::LimitSource => ("limit_source", ""),
            Self::Answered => ("answered", ""),
            Self::TunnelClosed => ("tunnel_closed", ""),
            Self::TunnelIdle => ("tunnel_idle", ""),
        }
    }

    /// The status of the answer if nothing of a response was sent yet; zero if there is none to give.
    pub const fn status(self) -> u16 {
        match self {
            Self::Request(fault) => fault.status(),
            Self::ClientHeadTimeout | Self::ClientBodyTimeout => 408,
            Self::LimitSource => 429,
            Self::BackendClosed
            | Self::Response(_)
            | Self::InterimFlood
            | Self::UpgradeUnasked
            | Self::Truncated
            | Self::ResponseBroken(_) => 502,
            Self::NoRoute
            | Self::NoBackend
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::ConnectFailed
            | Self::VipNotHeld
            | Self::DrainTimeout
            | Self::Isolated
            | Self::TableFull
            | Self::LimitConnections => 503,
            Self::BackendTimeout | Self::BackendStalled => 504,
            Self::Answered => 200,
            Self::Done | Self::ClientClosed | Self::ClientStalled | Self::TunnelClosed | Self::TunnelIdle => 0,
        }
    }

    /// Whether the farm's fallback answers in its place: nobody was left to serve.
    pub const fn falls_back(self) -> bool {
        matches!(self, Self::NoRoute | Self::NoBackend | Self::ConnectFailed)
    }

    /// Whether the backend is to blame.
    pub const fn blames_backend(self) -> bool {
        matches!(
            self,
            Self::BackendClosed
                | Self::BackendTimeout
                | Self::Response(_)
                | Self::InterimFlood
                | Self::UpgradeUnasked
                | Self::Truncated
                | Self::BackendStalled
                | Self::ResponseBroken(_)
        )
    }

    /// What came from the backend, if it is to blame. One that took the connection and says nothing may have no network any
    /// more.
    pub const fn backend_answer(self) -> health::Answer {
        match self {
            Self::BackendTimeout | Self::BackendStalled => health::Answer::Nothing,
            _ => health::Answer::Bad,
        }
    }
}

/// An answer of the proxy's own.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// Its content type.
    pub content_type: &'a [u8],
    /// Its body.
    pub body: &'a [u8],
    /// Why, for `X-Ballast-Reason`.
    pub ending: Ending,
    /// The connection is closed afterwards.
    pub close: bool,
    /// The request was `HEAD`.
    pub head_only: bool,
    /// The time.
    pub date: &'a [u8],
}

/// Appends a whole answer.
pub fn write_answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    forwarded::write_number(out, u64::from(answer.status));
    out.push(b' ');
    out.extend_from_slice(phrase(answer.status).as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(answer.date);
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(answer.content_type);
    out.extend_from_slice(b"\r\nContent-Length: ");
    forwarded::write_number(out, answer.body.len() as u64);
    out.extend_from_slice(b"\r\nX-Ballast-Reason: ");
    write_code(out, answer.ending);
    if matches!(answer.ending, Ending::Answered) {
        out.extend_from_slice(b"\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");
    }
    if answer.close {
        out.extend_from_slice(b"\r\nConnection: close");
    }
    out.extend_from_slice(b"\r\n\r\n");
    if !answer.head_only {
        out.extend_from_slice(answer.body);
    }
}

/// Appends the code of an ending.
pub fn write_code(out: &mut Vec<u8>, ending: Ending) {
    let (code, fault) = ending.code();
    out.extend_from_slice(code.as_bytes());
    if !fault.is_empty() {
        out.push(b':');
        out.extend_from_slice(fault.as_bytes());
    }
}

/// The reason phrase of a status that the proxy may give.
pub const fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_complete_messages() {
        let mut out = Vec::new();
        write_answer(
            &mut out,
            &Answer {
                status: 400,
                content_type: b"text/plain",
                body: b"no\n",
                ending: Ending::Request(Fault::BareLf),
                close: true,
                head_only: false,
                date: b"DATE",
            },
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 400 Bad Request\r\nDate: DATE\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\
             X-Ballast-Reason: request:bare_lf\r\nConnection: close\r\n\r\nno\n"
        );
    }
}
