//! `GET`, `SET` and what else is done to strings.

use bytes::Bytes;

use super::{Answer, SYNTAX, View, WRONG_TYPE, bulk, is, keys::Unit};
use crate::session::{Call, Reply, database::Entry, keyspace::Keyspace, value::Value};

fn text(entry: Option<&Entry>) -> Result<Option<&[u8]>, Reply> {
    entry.map(|entry| entry.value.as_text().ok_or(WRONG_TYPE)).transpose()
}

fn bytes(entry: Option<&Entry>) -> Result<Option<Bytes>, Reply> {
    entry.map(|entry| entry.value.to_bytes().ok_or(WRONG_TYPE)).transpose()
}

pub(super) fn get(view: &View<'_>, call: &Call) -> Answer {
    Ok(bulk(bytes(view.get(call, &call.args[0]))?))
}

/// What `SET` and `GETEX` can be told besides key and value.
#[derive(Default)]
struct Options<'a> {
    not_exists: bool,
    exists: bool,
    get: bool,
    keep_ttl: bool,
    persist: bool,
    end: Option<(&'a [u8], Unit, bool)>,
}

/// Which of the two commands has the options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Set,
    Getex,
}

impl<'a> Options<'a> {
    fn parse(words: &'a [Bytes], takes: Takes) -> Result<Self, Reply> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let set = takes == Takes::Set;
            let free = |options: &Self| !options.keep_ttl && !options.persist;
            let timed = |name: &str| is(word, name);
            if set && is(word, "nx") && !options.exists {
                options.not_exists = true;
            } else if set && is(word, "xx") && !options.not_exists {
                options.exists = true;
            } else if set && is(word, "get") {
                options.get = true;
            } else if set && is(word, "keepttl") && !options.persist && options.end.is_none() {
                options.keep_ttl = true;
            } else if !set && is(word, "persist") && !options.keep_ttl && options.end.is_none() {
                options.persist = true;
            } else if ["ex", "px", "exat", "pxat"].into_iter().any(timed) && free(&options) {
                let unit = if timed("ex") || timed("exat") { Unit::Seconds } else { Unit::Millis };
                let absolute = timed("exat") || timed("pxat");
                let same = options.end.is_none_or(|(_, u, a)| (u, a) == (unit, absolute));
                let (true, Some(end)) = (same, words.next()) else { return Err(SYNTAX) };
                options.end = Some((end, unit, absolute));
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(options)
    }

    /// The end of the key's life in milliseconds of log time.
    fn end(&self, now: u64, command: &str) -> Result<Option<u64>, Reply> {
        let Some((text, unit, absolute)) = self.end else { return Ok(None) };
        end(text, unit, if absolute { 0 } else { now }, command).map(Some)
    }
}

/// The end that a positive number after `EX` and the like means.
fn end(text: &[u8], unit: Unit, base: u64, command: &str) -> Result<u64, Reply> {
    let count = super::integer(text)?;
    let invalid = || Reply::Error(format!("ERR invalid expire time in '{command}' command").into());
    let millis = Some(count).filter(|count| *count > 0).and_then(|count| count.checked_mul(unit.millis()));
    let end = millis.and_then(|millis| millis.checked_add(i64::try_from(base).unwrap_or(i64::MAX)));
    end.and_then(|end| u64::try_from(end).ok()).ok_or_else(invalid)
}

pub(super) fn set(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, value, options @ ..] = call.args.as_slice() else { return Err(SYNTAX) };
    let options = Options::parse(options, Takes::Set)?;
    let end = options.end(keyspace.now, "set")?;
    let old = keyspace.look(call.database, key);
    let (found, old_end) = (old.is_some(), old.map_or(0, |entry| entry.expires));
    let answer = if options.get { bulk(bytes(old)?) } else { Reply::OK };
    if options.not_exists && found || options.exists && !found {
        return Ok(if options.get { answer } else { Reply::Null });
    }
    let expires = end.unwrap_or(if options.keep_ttl { old_end } else { 0 });
    store(keyspace, call.database, key, value, expires);
    if end.is_some() {
        keyspace.tell(call.database, key, 'g', "expire");
    }
    Ok(answer)
}

/// Makes a key a string, whatever it was, and says so.
fn store(keyspace: &mut Keyspace, database: u16, key: &[u8], value: &[u8], expires: u64) {
    // Redis tells of a key that is new only if somebody asks for `n`.
    let new = keyspace.look(database, key).is_none();
    keyspace.put(database, key, Value::text(value), expires);
    if new {
        keyspace.tell(database, key, 'n', "new");
    }
    keyspace.tell(database, key, '$', "set");
}
