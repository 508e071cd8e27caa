//! Which session a path names.

use ballast_core::session::Settings;
use bytes::Bytes;

use super::refused::Refused;

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
        let (keyspace, id) = path.strip_prefix(ROOT).and_then(|rest| rest.split_once('/')).ok_or(Refused::Nowhere)?;
        if id.is_empty() || id.contains('/') {
            return Err(Refused::Nowhere);
        }
        if !settings.enabled {
            return Err(Refused::NoStore);
        }
        let key = decode(id).ok_or(Refused::BadId)?;
        if key.len() as u64 > settings.limits.key_max.as_bytes() {
            return Err(Refused::LongId(settings.limits.key_max));
        }
        let name = decode(keyspace).and_then(|name| String::from_utf8(name).ok());
        let database = name.and_then(|name| settings.database(&name)).ok_or(Refused::NoKeyspace)?;
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
