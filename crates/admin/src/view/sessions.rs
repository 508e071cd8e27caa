//! The session store.

use ballast_core::{
    session::{DatabaseStats, KeyInfo, Reply, Sessions, key_hash_text},
    state::State,
    time::LogTime,
};
use ballast_proto::admin::v1::{self as proto, session_value::Value};

use super::timestamp;
use crate::error::{self, ApiError, ErrorCode};

/// The keyspaces that the document names, then databases without a name that hold anything.
pub fn keyspaces(sessions: &Sessions) -> Vec<proto::Keyspace> {
    let (settings, stats) = (sessions.settings(), sessions.stats());
    let named = settings.keyspaces.iter().map(|keyspace| (keyspace.name.clone(), keyspace.database));
    let is_named = |database: u16| settings.keyspaces.iter().any(|keyspace| keyspace.database == database);
    let others = stats.databases.iter().map(|stats| stats.database).filter(|database| !is_named(*database));
    let all = named.chain(others.map(|database| (database.to_string(), database)));
    let figures = |database: u16| stats.databases.iter().find(|stats| stats.database == database).copied();
    all.map(|(name, database)| {
        let DatabaseStats { keys, ending, bytes, .. } = figures(database).unwrap_or_default();
        proto::Keyspace { name, database: database.into(), keys, ending, bytes }
    })
    .collect()
}

/// The database that goes by a name, or by its number.
///
/// # Errors
/// `NOT_FOUND` when there is none, with the names that there are.
pub fn keyspace_named(sessions: &Sessions, name: &str) -> Result<u16, ApiError> {
    let settings = sessions.settings();
    if name.is_empty() {
        return Err(error::invalid("keyspace", "it is missing", "name a keyspace, or give a database's number"));
    }
    settings.database(name).ok_or_else(|| {
        let known = settings.keyspaces.iter().map(|keyspace| keyspace.name.as_str());
        let last = settings.databases.saturating_sub(1);
        error::not_found("keyspace", name, known).remedy(format!("or give the number of a database: 0 to {last}"))
    })
}

/// A key in the API's form.
pub fn session_key(now: LogTime, info: KeyInfo) -> proto::SessionKey {
    let left = |end: LogTime| {
        let millis = end.as_millis().saturating_sub(now.as_millis());
        prost_types::Duration {
            seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
        }
    };
    proto::SessionKey {
        key: info.key.into(),
        key_hash: key_hash_text(info.hash),
        r#type: info.kind.to_owned(),
        ttl: info.expires.map(left),
        expire_time: info.expires.map(timestamp),
        bytes: info.bytes,
        length: info.len,
    }
}

/// What a key holds, as the command that reads it answered.
///
/// # Errors
/// `FAILED_PRECONDITION` when the store refused: the answer is too large.
pub fn session_value(reply: Reply) -> Result<proto::SessionValue, ApiError> {
    let bytes = |reply: Reply| match reply {
        Reply::Bulk(bytes) => Vec::from(bytes),
        _ => Vec::new(),
    };
    let value = match reply {
        Reply::Bulk(text) => Some(Value::Text(text.into())),
        Reply::Map(pairs) => {
            let field = |(name, value)| proto::SessionField { name: bytes(name), value: bytes(value) };
            Some(Value::Fields(proto::SessionFields { fields: pairs.into_iter().map(field).collect() }))
        }
        Reply::Set(members) => {
            Some(Value::Members(proto::SessionMembers { members: members.into_iter().map(bytes).collect() }))
        }
        Reply::Error(text) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(error::status(ErrorCode::Precondition, text, "value"));
        }
        // Gone since it was looked at.
        _ => None,
    };
    Ok(proto::SessionValue { value })
}

/// Figures of the whole store.
pub fn session_stats(state: &State) -> proto::SessionStatsResponse {
    let (settings, stats) = (state.sessions().settings(), state.sessions().stats());
    proto::SessionStatsResponse {
        header: None,
        enabled: settings.enabled,
        keyspaces: keyspaces(state.sessions()),
        bytes: stats.bytes,
        memory_max: settings.memory_max.as_bytes(),
        eviction: settings.eviction.as_str().to_owned(),
        expired: stats.totals.expired,
        evicted: stats.totals.evicted,
        changes: stats.changes,
    }
}
