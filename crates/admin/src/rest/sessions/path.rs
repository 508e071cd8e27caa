//! Which session a path names.

use ballast_core::session::Settings;
use bytes::Bytes;
use http::StatusCode;

use super::{Refused, refused};

/// Where the resource is.
const ROOT: &str = "/v1/sessions/";

/// A session that a request names.
pub(super) struct Named {
    pub(super) database: u16,
    pub(super) key: Bytes,
}

impl Named {
    /// Reads `/v1/sessions/{keyspace}/{id}`. An id is any bytes, those that a path cannot have as `%XX`.
    pub(super) fn parse(settings: &Settings, path: &str) -> Result<Self, Refused> {
        let nothing = || refused(StatusCode::NOT_FOUND, "sessions are at /v1/sessions/{keyspace}/{id}");
        let (keyspace, id) = path.strip_prefix(ROOT).and_then(|rest| rest.split_once('/')).ok_or_else(nothing)?;
        if id.is_empty() || id.contains('/') {
            return Err(nothing());
        }
        if !settings.enabled {
            return Err(refused(StatusCode::NOT_FOUND, "the cluster's document has no session store"));
        }
        let key = decode(id).ok_or_else(|| refused(StatusCode::BAD_REQUEST, "the id has a % without two digits"))?;
        if key.len() as u64 > settings.limits.key_max.as_bytes() {
            let detail = format!("an id has {} at most (limits.key_max)", settings.limits.key_max);
            return Err(refused(StatusCode::URI_TOO_LONG, detail));
        }
        let name = decode(keyspace).and_then(|name| String::from_utf8(name).ok());
        let database = name.and_then(|name| settings.database(&name)).ok_or_else(|| {
            refused(StatusCode::NOT_FOUND, "there is no such keyspace; the document's `sessions.keyspaces` names them")
        })?;
        Ok(Self { database, key: key.into() })
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                bytes.push(u8::try_from(digit(high)? << 4 | digit(low)?).ok()?);
                after
            }
            (b'%', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                after
            }
        };
    }
    Some(bytes)
}
