//! What a request is refused with. One table says with which status, code and remedy; the form is that of RFC 9457, with
//! the code and the remedy as members of their own.
//!
//! No text here names a key.

use ballast_core::{config::ByteSize, session::Reply};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{refusal::Unavailable, trust::NotAdmitted};

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("sessions are at /v1/sessions/{{keyspace}}/{{id}}")]
    Nowhere,
    #[error("the cluster's document has no session store")]
    NoStore,
    #[error("there is no such keyspace")]
    NoKeyspace,
    #[error("there is no such session")]
    NoSession,
    #[error("the id has a % without two hexadecimal digits")]
    BadId,
    #[error("an id has {0} at most")]
    LongId(ByteSize),
    #[error("only GET, HEAD, PUT and DELETE are known here")]
    Method,
    #[error("say who you are: the session store has users")]
    Stranger,
    #[error("there is no such user, or the password is wrong")]
    WrongPassword(String),
    #[error("too many clients log in at once")]
    Crowd,
    #[error(
        "the session store has no users and is in protected mode: it serves only clients that come over loopback, or over \
         TLS with an admin's certificate of the cluster"
    )]
    Protected,
    #[error(
        "the session store has no users, and the certificate of '{name}' has the role {role}: over TLS it serves only \
         admins then"
    )]
    Role { name: String, role: &'static str },
    #[error(
        "the session store has no users and is in protected mode, and the field Host names another site: a page in a browser \
         of this machine may have sent this"
    )]
    OtherSite,
    #[error("user {user}: {what}")]
    Denied { user: String, what: String },
    #[error("the TTL is no whole number of seconds above zero with 15 digits at most")]
    BadTtl,
    #[error("the field {0} cannot be read")]
    BadField(&'static str),
    #[error("a request must have exactly one field Host")]
    Host,
    #[error("a part of a session cannot be written")]
    Part,
    #[error("a session is kept as it is sent, so it cannot be sent encoded")]
    Encoded,
    #[error("a session has {0} at most")]
    TooLarge(ByteSize),
    #[error("a session is what the body says, and there is none")]
    NoBody,
    #[error("the body ended before its end")]
    HalfBody,
    #[error("the body did not come in time")]
    SlowBody,
    #[error("the session is not what If-Match or If-None-Match says")]
    Changed,
    #[error("others write this session all the time")]
    Contended,
    #[error("the connections of this node take more memory than there is for them, and this one takes the most")]
    NoRoom,
    #[error("this key holds a hash or a set, which HTTP has no form for")]
    WrongType,
    #[error("the session store is full")]
    Full,
    #[error("{}", without_code(.0))]
    Command(String),
    #[error("{}", without_code(&.0.to_string()))]
    Unavailable(Unavailable),
}

impl Refused {
    /// What an error of the store is in HTTP.
    pub(super) fn of_reply(reply: &Reply) -> Self {
        let Reply::Error(text) = reply else { return Self::Unavailable(Unavailable::Misfit) };
        let text = String::from_utf8_lossy(text).into_owned();
        match text.split(' ').next() {
            Some("WRONGTYPE") => Self::WrongType,
            Some("OOM" | "EXECABORT") => Self::Full,
            _ => Self::Command(text),
        }
    }

    /// The answer of a user who may not do what was asked for, in the words that clients of the other protocol get.
    pub(super) fn denied(user: &str, reply: &Reply) -> Self {
        let Reply::Error(text) = reply else { return Self::Unavailable(Unavailable::Misfit) };
        Self::Denied { user: user.to_owned(), what: without_code(&String::from_utf8_lossy(text)).to_owned() }
    }

    /// Status, code and what to do about it.
    fn table(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as Status;
        match self {
            Self::Nowhere => (Status::NOT_FOUND, "no_resource", "an id is one segment; write a slash in it as %2F"),
            Self::NoStore => (Status::NOT_FOUND, "no_store", "add `sessions` to the document"),
            Self::NoKeyspace => (
                Status::NOT_FOUND,
                "no_keyspace",
                "name one of the document's `sessions.keyspaces`, or the number of a database",
            ),
            Self::NoSession => (Status::NOT_FOUND, "no_session", "it was never made, was deleted, or its TTL is over"),
            Self::BadId => (Status::BAD_REQUEST, "bad_id", "write a % of an id as %25"),
            Self::LongId(_) => {
                (Status::URI_TOO_LONG, "long_id", "use a shorter id, or raise `sessions.limits.key_max`")
            }
            Self::Method => (Status::METHOD_NOT_ALLOWED, "method", "use one of them"),
            Self::Stranger => (
                Status::UNAUTHORIZED,
                "stranger",
                "send a name and a password of `sessions.users` (HTTP Basic), or come with a client certificate of a user",
            ),
            Self::WrongPassword(_) => (
                Status::UNAUTHORIZED,
                "wrong_password",
                "check both; `ballastctl sessions hash-password` makes what `password_hash` wants",
            ),
            Self::Crowd => (Status::SERVICE_UNAVAILABLE, "crowd", "try again later"),
            Self::Protected => (
                Status::FORBIDDEN,
                "protected",
                "add users to the document (`sessions.users`), or set `sessions.protected` to false if everybody who \
                 reaches this address may read and change every session",
            ),
            Self::Role { .. } => (
                Status::FORBIDDEN,
                "role",
                "add a user of the certificate's name to the document (`sessions.users`), or come with an admin's",
            ),
            Self::OtherSite => (
                Status::FORBIDDEN,
                "other_site",
                "ask for the address itself, or for localhost; or add users to the document (`sessions.users`)",
            ),
            Self::Denied { .. } => (
                Status::FORBIDDEN,
                "denied",
                "what a user may do is in `sessions.users`: `key_prefixes`, `databases`, `read_only`",
            ),
            Self::BadTtl => (Status::BAD_REQUEST, "bad_ttl", "leave the field TTL out for a session without an end"),
            Self::BadField(_) => (Status::BAD_REQUEST, "bad_field", "see docs/sessions.md for what it may hold"),
            Self::Host => (Status::BAD_REQUEST, "bad_field", "send one field Host, with the address"),
            Self::Part => (Status::BAD_REQUEST, "part", "leave Content-Range out and send the whole session"),
            Self::Encoded => (Status::UNSUPPORTED_MEDIA_TYPE, "encoded", "leave Content-Encoding out"),
            Self::TooLarge(_) => {
                (Status::PAYLOAD_TOO_LARGE, "too_large", "keep less in a session, or raise `sessions.limits.value_max`")
            }
            Self::NoBody => (
                Status::LENGTH_REQUIRED,
                "no_body",
                "send Content-Length: 0 if the session is to be empty, or DELETE it",
            ),
            Self::HalfBody => {
                (Status::BAD_REQUEST, "half_body", "send as much as Content-Length says, or chunks that are whole")
            }
            Self::SlowBody => (
                Status::REQUEST_TIMEOUT,
                "slow_body",
                "send it in one go; `sessions.limits.write_timeout` is how long a pause may be",
            ),
            Self::Changed => (Status::PRECONDITION_FAILED, "changed", "read it again, and decide anew"),
            Self::Contended => (Status::SERVICE_UNAVAILABLE, "contended", "try again"),
            Self::NoRoom => (
                Status::SERVICE_UNAVAILABLE,
                "overloaded",
                "send the body in one go; try again later, or at another node",
            ),
            Self::WrongType => (Status::CONFLICT, "wrong_type", "use a client of the Redis protocol, or another id"),
            Self::Full => (
                Status::INSUFFICIENT_STORAGE,
                "full",
                "raise `memory_max` in the document, or have sessions give way (`eviction`)",
            ),
            Self::Command(_) => (Status::BAD_REQUEST, "refused", "change the request"),
            Self::Unavailable(unavailable) => match unavailable {
                Unavailable::NoQuorum(_) => (Status::SERVICE_UNAVAILABLE, "no_quorum", "try again, or at another node"),
                Unavailable::Overloaded(_) | Unavailable::LongReads => {
                    (Status::SERVICE_UNAVAILABLE, "overloaded", "try again later")
                }
                Unavailable::Stopping => (Status::SERVICE_UNAVAILABLE, "stopping", "try another node"),
                Unavailable::TooLarge(..) => (Status::PAYLOAD_TOO_LARGE, "too_large", "keep less in a session"),
                Unavailable::Unreadable(_) => (Status::SERVICE_UNAVAILABLE, "unreadable", "finish upgrading all nodes"),
                // It may have happened.
                Unavailable::OutcomeUnknown(_) => {
                    (Status::GATEWAY_TIMEOUT, "outcome_unknown", "read the session before you write it again")
                }
                Unavailable::Misfit => (Status::INTERNAL_SERVER_ERROR, "misfit", "report it, with the node's log"),
            },
        }
    }

    pub(super) fn response(&self) -> Response<Bytes> {
        let (status, code, remedy) = self.table();
        let mut response = Response::new(problem(status, code, &self.to_string(), remedy));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, PUT, DELETE"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                let basic = HeaderValue::from_static("Basic realm=\"ballast sessions\", charset=\"UTF-8\"");
                headers.insert(header::WWW_AUTHENTICATE, basic);
            }
            _ => {}
        }
        response
    }
}

/// The bytes of an answer to a client that comes when there is no place: it is not asked what it wants.
pub fn no_place() -> Vec<u8> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let remedy = "try again later, or at another node; `sessions.limits.connections_max` is how many one node takes";
    let body = problem(status, "no_place", "no more connections are taken here", remedy);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

fn problem(status: StatusCode, code: &str, detail: &str, remedy: &str) -> Bytes {
    let body = serde_json::json!({
        "status": status.as_u16(),
        "title": status.canonical_reason().unwrap_or_default(),
        "code": code,
        "detail": detail,
        "remedy": remedy,
    });
    body.to_string().into()
}

impl From<NotAdmitted> for Refused {
    fn from(why: NotAdmitted) -> Self {
        match why {
            NotAdmitted::Stranger => Self::Protected,
            NotAdmitted::Role { name, role } => Self::Role { name, role },
        }
    }
}

/// An error of the other protocol without the word that stands for a status there.
fn without_code(text: &str) -> &str {
    text.split_once(' ').map_or(text, |(_, rest)| rest)
}
