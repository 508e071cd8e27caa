//! `GET`, `PUT` and `DELETE` of `/v1/sessions/{keyspace}/{id}`: the strings of the session store.
//!
//! The same keys that Redis clients see, under the same rules: writes are acknowledged when a majority has synced them,
//! reads are as fresh as the user's `reads` or the document's says. How long a session lives is told in seconds by the
//! field `TTL` (its form is that of RFC 8030, section 5.2), of which an entity tag says nothing.
//!
//! `If-Match` is judged against the value here and held by the version that the key had then, which the log compares (as
//! `WATCH` does): nothing comes between.
//!
//! Not here: who the client is, and bytes ([`super`]); hashes and sets, which have no form in HTTP.

use std::time::Duration;

use ballast_core::session::{Call, Reply, Watched, Write};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::{
    conditions::{Conditions, tag_of},
    path::Named,
    refused::Refused,
};
use crate::{
    policy::{Access, Policy},
    reads::{Patience, Reader},
    worker::Worker,
};

/// The field with the seconds that a session has left, or shall have.
const TTL: &str = "ttl";

/// Longest life in seconds. Its end in milliseconds still is a number for Redis' commands.
const TTL_MAX: u64 = 999_999_999_999_999;

/// How often a conditional write is tried again because others wrote between the look and the log, though not another
/// value. Arbitrary: each try needs another writer to come first.
const TRIES_MAX: usize = 8;

pub(super) type Answer = Result<Response<Bytes>, Refused>;

/// What is asked of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Put,
    Delete,
}

impl Verb {
    pub(super) fn of(method: &Method) -> Result<Self, Refused> {
        match *method {
            Method::GET | Method::HEAD => Ok(Self::Get),
            Method::PUT => Ok(Self::Put),
            Method::DELETE => Ok(Self::Delete),
            _ => Err(Refused::Method),
        }
    }
}

/// A session that is asked for, by a user who may.
pub(super) struct Asked<'a> {
    worker: &'a Worker,
    policy: &'a Policy,
    access: &'a Access,
    named: Named,
    headers: &'a HeaderMap,
}

/// A session as a request found it.
struct Found {
    value: Bytes,
    tag: String,
    ttl_s: Option<u64>,
}

impl<'a> Asked<'a> {
    /// # Errors
    /// There is no such place, or this user may not do this to what is there.
    pub(super) fn new(
        worker: &'a Worker,
        policy: &'a Policy,
        access: &'a Access,
        path: &str,
        headers: &'a HeaderMap,
        verb: Verb,
    ) -> Result<Self, Refused> {
        let named = Named::parse(&policy.settings, path)?;
        let asked = Self { worker, policy, access, named, headers };
        let call = match verb {
            Verb::Get => asked.call("GET", []),
            Verb::Put => asked.call("SET", [Bytes::new()]),
            Verb::Delete => asked.call("DEL", []),
        };
        access.check(&call?).map_err(|reply| Refused::denied(&access.user, &reply))?;
        Ok(asked)
    }

    pub(super) async fn get(&self) -> Answer {
        let found = self.look(self.access.stale, false).await?;
        let conditions = Conditions::of(self.headers)?;
        if !conditions.let_read(found.as_ref().map(|found| found.tag.as_str())) {
            return Err(Refused::Changed);
        }
        let Some(found) = found else { return Err(Refused::NoSession) };
        let is_known = conditions.know(&found.tag);
        let mut response = tagged(if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK }, &found.tag);
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

    /// What can be said of a `PUT` before its body is there.
    ///
    /// # Errors
    /// It would be refused whatever the body is.
    pub(super) fn check_put(&self) -> Result<(), Refused> {
        // RFC 9110, section 14.5: who does not know ranges of a PUT must not take a part for the whole.
        if self.headers.contains_key(header::CONTENT_RANGE) {
            return Err(Refused::Part);
        }
        let encoded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
        if self.headers.get_all(header::CONTENT_ENCODING).iter().any(encoded) {
            return Err(Refused::Encoded);
        }
        ttl_of(self.headers)?;
        Conditions::of(self.headers).map(drop)
    }

    pub(super) async fn put(&self, body: Bytes) -> Answer {
        let tag = tag_of(&body);
        let set = match ttl_of(self.headers)? {
            None => self.call("SET", [body]),
            Some(ttl_s) => self.call("SET", [body, Bytes::from_static(b"EX"), ttl_s.to_string().into()]),
        };
        let replies = self.change([self.call("EXISTS", [])?, set?]).await?;
        let is_new = replies.first() == Some(&Reply::Integer(0));
        Ok(tagged(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }, &tag))
    }

    pub(super) async fn delete(&self) -> Answer {
        let replies = self.change([self.call("DEL", [])?]).await?;
        if replies.first() == Some(&Reply::Integer(0)) {
            return Err(Refused::NoSession);
        }
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    /// Carries out commands on the session, all or none, if it is what the request's conditions say.
    async fn change<const N: usize>(&self, calls: [Call; N]) -> Result<Vec<Reply>, Refused> {
        let conditions = Conditions::of(self.headers)?;
        for _ in 0..TRIES_MAX {
            let mut watched = Vec::new();
            if !conditions.is_empty() {
                // This node may be behind: what it does not know yet must not fail a condition. The version comes
                // first: a write after it is noticed by the log.
                let keys = vec![self.named.key.clone()];
                watched = self.versions(keys).await?;
                let found = self.look(false, true).await?;
                if !conditions.let_write(found.as_ref().map(|found| found.tag.as_str())) {
                    return Err(Refused::Changed);
                }
            }
            let write = Write { calls: calls.to_vec(), atomic: true, watched };
            let proposed = self.worker.propose(write, self.policy.limits.deadline).await;
            let replies = proposed.map_err(Refused::Unavailable)?;
            match replies.iter().find(|reply| reply.is_error()) {
                Some(error) => return Err(Refused::of_reply(error)),
                None if replies.first() == Some(&Reply::NullArray) => {}
                None => return Ok(replies),
            }
        }
        Err(Refused::Contended)
    }

    fn reader(&self, stale: bool) -> Reader<'_> {
        let patience = Patience::of(self.policy.limits.deadline, Duration::ZERO);
        Reader { worker: self.worker, policy: self.policy, stale, patience }
    }

    async fn versions(&self, keys: Vec<Bytes>) -> Result<Vec<Watched>, Refused> {
        let reader = self.reader(false);
        reader.versions(self.named.database, keys).await.map_err(Refused::Unavailable)
    }

    /// The session as this node has it. `current`: the node is known to have applied what must be seen.
    async fn look(&self, stale: bool, current: bool) -> Result<Option<Found>, Refused> {
        let reader = self.reader(stale);
        let mut replies = Vec::with_capacity(2);
        let calls = [self.call("GET", [])?, self.call("PTTL", [])?];
        reader.read(&calls, current, &mut replies).await.map_err(Refused::Unavailable)?;
        match replies.as_slice() {
            [Reply::Bulk(value), Reply::Integer(ttl_ms)] => Ok(Some(Found {
                value: value.clone(),
                tag: tag_of(value),
                ttl_s: u64::try_from(*ttl_ms).ok().map(|ms| ms.div_ceil(1000)),
            })),
            [error @ Reply::Error(_), _] => Err(Refused::of_reply(error)),
            _ => Ok(None),
        }
    }

    /// A command on the session.
    fn call<const N: usize>(&self, name: &'static str, more: [Bytes; N]) -> Result<Call, Refused> {
        let words = [Bytes::from_static(name.as_bytes()), self.named.key.clone()].into_iter().chain(more).collect();
        Call::parse(self.named.database, words).map_err(|reply| Refused::of_reply(&reply))
    }
}

/// Seconds of a `TTL`; `None` without one.
fn ttl_of(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let mut values = headers.get_all(TTL).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = digits.and_then(|text| text.parse().ok()).filter(|seconds| (1..=TTL_MAX).contains(seconds));
    seconds.filter(|_| values.next().is_none()).map(Some).ok_or(Refused::BadTtl)
}

fn tagged(status: StatusCode, tag: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    let tag = HeaderValue::from_str(tag).expect("hexadecimal in quotes is a header's value");
    response.headers_mut().insert(header::ETAG, tag);
    response
}
