//! `GET`, `PUT` and `DELETE` of `/v1/sessions/{keyspace}/{id}`: the strings of the session store.
//!
//! The same keys that Redis clients see, under the same rules: writes are acknowledged when a majority has synced them,
//! reads are as fresh as the user's `reads` or the document's says. How long a session lives is told in seconds by the
//! field `TTL` (its form is that of RFC 8030, section 5.2), of which an entity tag says nothing.
//!
//! An entity tag is a hash of the value, so that whoever wrote a value knows its tag without reading again, when others
//! may have written meanwhile. `If-Match` is judged against the value here and held by the version that the key had then,
//! which the log compares (as `WATCH` does): nothing comes between.
//!
//! Not here: who the client is, see [`Resource::handle`]; hashes and sets, which have no form in HTTP.

mod path;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ballast_core::{
    cluster::{Propose, ProposeError, ReadIndex},
    config::{SessionReads, SessionUser, WithoutQuorum},
    session::{Call, Reply, Sessions, Settings, Watched, Write},
    state::{Command, Outcome},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use crate::node::{StateAccess, read_state};
use path::Named;

/// The field with the seconds that a session has left, or shall have.
pub const TTL: &str = "ttl";

/// Longest life in seconds. Its end in milliseconds still is a number for Redis' commands.
const TTL_MAX: u64 = 999_999_999_999_999;

/// How often a conditional write is tried again because others wrote between the look and the log, though not another
/// value. Arbitrary: each try needs another writer to come first.
const TRIES_MAX: usize = 8;

/// The resource, on any node.
#[derive(Clone)]
pub struct Resource {
    propose: Arc<dyn Propose>,
    read_index: Arc<dyn ReadIndex>,
    sessions: Arc<Sessions>,
}

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    /// What is wrong and what would be right. Names no key.
    detail: String,
}

fn refused(status: StatusCode, detail: impl Into<String>) -> Refused {
    Refused { status, detail: detail.into() }
}

type Answer = Result<Response<Bytes>, Refused>;

/// A session as a request found it.
struct Found {
    value: Bytes,
    tag: String,
    ttl_s: Option<u64>,
}

impl Resource {
    /// A resource on the store of this state.
    pub fn new(propose: Arc<dyn Propose>, read_index: Arc<dyn ReadIndex>, state: &dyn StateAccess) -> Self {
        let sessions = read_state(state, |state| Arc::clone(state.sessions()));
        Self { propose, read_index, sessions }
    }

    /// Longest body that is worth reading. A server answers 413 to longer ones without reading them.
    pub fn body_max(&self) -> u64 {
        self.sessions.settings().limits.value_max.as_bytes()
    }

    /// Answers a request of this user of the document; of whoever comes, when the document has no users (whether such a
    /// client may come at all is `protected`'s to say, and the server's to ask).
    ///
    /// # Cancel safety
    /// A write that was proposed may be carried out although nobody waits for the answer.
    pub async fn handle(&self, user: Option<&SessionUser>, request: Request<Bytes>) -> Response<Bytes> {
        let is_head = request.method() == Method::HEAD;
        let mut response = match self.answer(user, request).await {
            Ok(response) => response,
            Err(refused) => problem(&refused),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if is_head {
            let length = HeaderValue::from(response.body().len());
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
            *response.body_mut() = Bytes::new();
        }
        response
    }

    async fn answer(&self, user: Option<&SessionUser>, request: Request<Bytes>) -> Answer {
        let settings = self.sessions.settings();
        let named = Named::parse(&settings, request.uri().path())?;
        let writes = match *request.method() {
            Method::GET | Method::HEAD => false,
            Method::PUT | Method::DELETE => true,
            _ => return Err(refused(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD, PUT and DELETE are known here")),
        };
        may(&settings, user, &named, writes)?;
        let (parts, body) = request.into_parts();
        match parts.method {
            Method::PUT => self.put(&settings, &named, &parts.headers, body).await,
            Method::DELETE => self.delete(&settings, &named, &parts.headers).await,
            _ => self.get(&settings, user, &named, &parts.headers).await,
        }
    }

    async fn get(&self, settings: &Settings, user: Option<&SessionUser>, named: &Named, headers: &HeaderMap) -> Answer {
        let reads = user.and_then(|user| user.reads).unwrap_or(settings.reads);
        if reads == SessionReads::Linearizable
            && let Err(error) = self.read_index.confirm(settings.limits.deadline.duration()).await
            && settings.without_quorum == WithoutQuorum::Refuse
        {
            return Err(refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()));
        }
        let Some(found) = self.look(named)? else {
            return Err(missing());
        };
        let is_known = tags(headers, header::IF_NONE_MATCH)?.is_some_and(|known| known.take(&found.tag));
        let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let mut response = tagged(status, &found.tag);
        if let Some(ttl_s) = found.ttl_s {
            response.headers_mut().insert(TTL, HeaderValue::from(ttl_s));
        }
        if !is_known {
            let octets = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, octets);
            *response.body_mut() = found.value;
        }
        Ok(response)
    }

    async fn put(&self, settings: &Settings, named: &Named, headers: &HeaderMap, body: Bytes) -> Answer {
        if body.len() as u64 > settings.limits.value_max.as_bytes() {
            let detail = format!("a session has {} at most (limits.value_max)", settings.limits.value_max);
            return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        let tag = tag_of(&body);
        let mut set = vec![Bytes::from_static(b"SET"), named.key.clone(), body];
        if let Some(ttl_s) = ttl_of(headers)? {
            set.extend([Bytes::from_static(b"EX"), Bytes::from(ttl_s.to_string())]);
        }
        let exists = vec![Bytes::from_static(b"EXISTS"), named.key.clone()];
        let replies = self.change(settings, named, headers, [exists, set]).await?;
        let is_new = replies.first() == Some(&Reply::Integer(0));
        Ok(tagged(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }, &tag))
    }

    async fn delete(&self, settings: &Settings, named: &Named, headers: &HeaderMap) -> Answer {
        let del = vec![Bytes::from_static(b"DEL"), named.key.clone()];
        let replies = self.change(settings, named, headers, [del]).await?;
        if replies.first() == Some(&Reply::Integer(0)) {
            return Err(missing());
        }
        Ok(bare(StatusCode::NO_CONTENT))
    }

    /// Carries out commands on a session, all or none, if it is what the request's conditions say.
    async fn change<const N: usize>(
        &self,
        settings: &Settings,
        named: &Named,
        headers: &HeaderMap,
        commands: [Vec<Bytes>; N],
    ) -> Result<Vec<Reply>, Refused> {
        let (wanted, unwanted) = (tags(headers, header::IF_MATCH)?, tags(headers, header::IF_NONE_MATCH)?);
        let calls = commands.map(|words| Call::parse(named.database, words)).into_iter().collect::<Result<Vec<_>, _>>();
        let calls = calls.map_err(|reply| of_reply(&reply))?;
        let deadline = settings.limits.deadline.duration();
        for _ in 0..TRIES_MAX {
            let mut watched = Vec::new();
            if wanted.is_some() || unwanted.is_some() {
                // This node may be behind: what it does not know yet must not fail a condition.
                self.read_index
                    .confirm(deadline)
                    .await
                    .map_err(|error| refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
                // The version first: a write after it is noticed by the log.
                let version = self.sessions.version(None, named.database, &named.key).unwrap_or_default();
                let found = self.look(named)?;
                let takes = |tags: &Tags| found.as_ref().is_some_and(|found| tags.take(&found.tag));
                if wanted.as_ref().is_some_and(|wanted| !takes(wanted)) || unwanted.as_ref().is_some_and(takes) {
                    let detail = "the session is not what If-Match or If-None-Match says: read it again";
                    return Err(refused(StatusCode::PRECONDITION_FAILED, detail));
                }
                watched.push(Watched { database: named.database, key: named.key.clone(), version });
            }
            let write = Write { calls: calls.clone(), atomic: true, watched };
            let proposed = self.propose.propose(Command::Session(Box::new(write)), deadline).await;
            let replies = match proposed.map_err(|error| not_proposed(&error))?.outcome {
                Outcome::Session(replies) => replies,
                Outcome::Refused(refusal) => {
                    return Err(refused(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string()));
                }
                _ => return Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "a write has no answer")),
            };
            match replies.iter().find(|reply| reply.is_error()) {
                Some(error) => return Err(of_reply(error)),
                None if replies.first() == Some(&Reply::NullArray) => {}
                None => return Ok(replies),
            }
        }
        Err(refused(StatusCode::SERVICE_UNAVAILABLE, "others write this session all the time; try again"))
    }

    /// The session as this node has it.
    fn look(&self, named: &Named) -> Result<Option<Found>, Refused> {
        let words = |name: &'static [u8]| vec![Bytes::from_static(name), named.key.clone()];
        let calls: Result<Vec<_>, _> =
            [b"GET", &b"PTTL"[..]].into_iter().map(|name| Call::parse(named.database, words(name))).collect();
        let mut replies = Vec::with_capacity(2);
        // Without an estimate of the time nothing is due.
        let _by_log_time_alone = self.sessions.read(None, &calls.map_err(|reply| of_reply(&reply))?, &mut replies);
        match replies.as_slice() {
            [Reply::Bulk(value), Reply::Integer(ttl_ms)] => Ok(Some(Found {
                value: value.clone(),
                tag: tag_of(value),
                ttl_s: u64::try_from(*ttl_ms).ok().map(|ms| ms.div_ceil(1000)),
            })),
            [error @ Reply::Error(_), _] => Err(of_reply(error)),
            _ => Ok(None),
        }
    }
}

/// Whether a user may do this to a session.
fn may(settings: &Settings, user: Option<&SessionUser>, named: &Named, writes: bool) -> Result<(), Refused> {
    let Some(user) = user else {
        return match settings.users.is_empty() {
            true => Ok(()),
            false => Err(refused(StatusCode::UNAUTHORIZED, "say who you are: the session store has users")),
        };
    };
    let denied = |detail: &str| Err(refused(StatusCode::FORBIDDEN, format!("user {} {detail}", user.name)));
    if writes && user.read_only {
        return denied("may change nothing (read_only)");
    }
    if !user.databases.is_empty() && !user.databases.contains(&named.database) {
        return denied("may not use this keyspace (databases)");
    }
    if !user.key_prefixes.is_empty() && !user.key_prefixes.iter().any(|prefix| named.key.starts_with(prefix.as_bytes()))
    {
        return denied("may not name this session (key_prefixes)");
    }
    Ok(())
}

/// Entity tags that a condition names.
enum Tags {
    /// `*`: whatever is there.
    Any,
    These(Vec<String>),
}

impl Tags {
    fn take(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|known| known == tag),
        }
    }
}

/// Reads a condition (RFC 9110, section 13.1). Tags of ours have no comma in them, so a list is cut at commas.
fn tags(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<Tags>, Refused> {
    let mut these = Vec::new();
    for value in headers.get_all(&name) {
        let text = value.to_str().map_err(|_| refused(StatusCode::BAD_REQUEST, format!("{name} is no text")))?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if tag == "*" {
                return Ok(Some(Tags::Any));
            }
            // A weak tag is of the same value here, and never equal in If-Match (section 8.8.3.2).
            let tag = if name == header::IF_NONE_MATCH { tag.trim_start_matches("W/") } else { tag };
            these.push(tag.to_owned());
        }
    }
    Ok(headers.contains_key(&name).then_some(Tags::These(these)))
}

/// Seconds of a `TTL`; `None` without one.
fn ttl_of(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(value) = headers.get(TTL) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = digits.and_then(|text| text.parse().ok()).filter(|seconds| (1..=TTL_MAX).contains(seconds));
    let wrong =
        || refused(StatusCode::BAD_REQUEST, "TTL is a whole number of seconds above zero, of 15 digits at most");
    seconds.map(Some).ok_or_else(wrong)
}

fn tag_of(value: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(value).to_hex()[..32])
}

fn missing() -> Refused {
    refused(StatusCode::NOT_FOUND, "there is no such session")
}

/// What an error of the store is in HTTP. Its texts name no key.
fn of_reply(reply: &Reply) -> Refused {
    let Reply::Error(text) = reply else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "the store answered with what is no answer");
    };
    let text = String::from_utf8_lossy(text).into_owned();
    match text.split(' ').next() {
        Some("WRONGTYPE") => {
            refused(StatusCode::CONFLICT, "this key holds a hash or a set, which HTTP has no form for")
        }
        Some("OOM" | "EXECABORT") => {
            let detail =
                "the session store is full; raise `memory_max` in the document, or have sessions give way (`eviction`)";
            refused(StatusCode::INSUFFICIENT_STORAGE, detail)
        }
        _ => refused(StatusCode::BAD_REQUEST, text),
    }
}

fn not_proposed(error: &ProposeError) -> Refused {
    let status = match error {
        ProposeError::NoQuorum { .. } | ProposeError::Overloaded { .. } | ProposeError::Stopping => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        // It may have happened.
        ProposeError::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        ProposeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
    };
    refused(status, error.to_string())
}

fn bare(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

fn tagged(status: StatusCode, tag: &str) -> Response<Bytes> {
    let mut response = bare(status);
    let tag = HeaderValue::from_str(tag).expect("hexadecimal in quotes is a header's value");
    response.headers_mut().insert(header::ETAG, tag);
    response
}

/// A refusal in the form of RFC 9457.
fn problem(refused: &Refused) -> Response<Bytes> {
    let Refused { status, detail } = refused;
    let mut response = bare(*status);
    let body = serde_json::json!({
        "status": status.as_u16(),
        "title": status.canonical_reason().unwrap_or_default(),
        "detail": detail,
    });
    *response.body_mut() = body.to_string().into();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match *status {
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
