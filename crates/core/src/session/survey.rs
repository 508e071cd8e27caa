//! The session store as its administrators look at it: which keys there are, what they are and what they take.
//!
//! Judged by log time alone: what is shown is what all nodes have.
//!
//! Not here: values, which are read as a client reads them ([`Sessions::read`]).

use std::fmt;

use bytes::Bytes;

use super::{Sessions, database::Entry, shelf::Placed as _};
use crate::time::LogTime;

/// Keys that are looked through under one lock: a few milliseconds.
const LOOK_MAX: usize = 10_000;

/// What is known of a key without its value.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key.
    pub key: Bytes,
    /// Its hash under the cluster's secret: names the key where the key itself must not be seen.
    pub hash: u64,
    /// As `TYPE` says it: `string`, `hash` or `set`.
    pub kind: &'static str,
    /// The end of its life, if it has one.
    pub expires: Option<LogTime>,
    /// What it is counted as against `memory_max`.
    pub bytes: u64,
    /// Bytes of a string, fields of a hash, members of a set.
    pub len: u64,
}

/// Without the key, which may be as good as a password.
impl fmt::Debug for KeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {} bytes", self.kind, key_hash_text(self.hash), self.bytes)
    }
}

/// A key's hash as it is shown.
pub fn key_hash_text(hash: u64) -> String {
    format!("{hash:016x}")
}

impl KeyInfo {
    fn of(entry: &Entry) -> Self {
        Self {
            key: Bytes::copy_from_slice(entry.key()),
            hash: entry.hash(),
            kind: entry.value.type_name(),
            expires: (entry.expires != 0).then(|| LogTime::from_millis(entry.expires)),
            bytes: entry.bytes(),
            len: entry.value.len(),
        }
    }
}

impl Sessions {
    /// Up to `count` keys of a database and a few more that `wanted` takes, in the order of their hashes from a cursor of
    /// `SCAN` on, and the cursor of what follows; zero at the end. Fewer, or none, where few of many are wanted.
    pub fn list(
        &self,
        database: u16,
        mut cursor: u64,
        count: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> (Vec<KeyInfo>, u64) {
        let keyspace = self.keyspace.read();
        let mut found = Vec::new();
        let Some(database) = keyspace.databases.get(&database) else { return (found, 0) };
        let mut looked = 0;
        while found.len() < count && looked < LOOK_MAX {
            let (next, entries) = database.page(cursor, (count - found.len()).min(LOOK_MAX - looked));
            looked += entries.len();
            let live = entries.into_iter().filter(|entry| !entry.has_ended(keyspace.now));
            found.extend(live.filter(|entry| wanted(entry.key())).map(KeyInfo::of));
            cursor = next;
            if next == 0 {
                break;
            }
        }
        (found, cursor)
    }

    /// One key, if it is there.
    pub fn look_up(&self, database: u16, key: &[u8]) -> Option<KeyInfo> {
        self.keyspace.read().get(database, key).map(KeyInfo::of)
    }

    /// Hash of a key under the cluster's secret, whether it is there or not.
    pub fn key_hash(&self, key: &[u8]) -> u64 {
        self.keyspace.read().seed.hash(key)
    }

    /// Keys of a database whose lives are not over.
    pub fn count(&self, database: u16) -> u64 {
        self.keyspace.read().count(database)
    }

    /// Takes a key away as `DEL` does, or all keys of the database as `FLUSHDB` does; how many there were.
    pub(crate) fn remove(&self, database: u16, key: Option<&[u8]>) -> u64 {
        self.writing(|keyspace| match key {
            Some(key) => u64::from(super::run::delete(keyspace, database, key)),
            None => {
                let count = keyspace.count(database);
                keyspace.flush(Some(database));
                count
            }
        })
    }
}
