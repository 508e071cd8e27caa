//! `GET`, `SET` and what else is done to strings.

use bytes::Bytes;

use super::{
    Answer, NOT_A_FLOAT, SYNTAX, View, WRONG_TYPE, bulk, count, integer, is,
    keys::{self, Unit},
};
use crate::session::{
    Call, Reply,
    call::wrong_arity,
    database::Entry,
    extended::{Extended, Parsed, Written},
    keyspace::Keyspace,
    value::{BOXED_MAX, Value},
};

pub(super) fn text(entry: Option<&Entry>) -> Result<Option<&[u8]>, Reply> {
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
    keyspace.put(database, key, Value::text(value), expires);
    keyspace.tell(database, key, '$', "set");
}

/// `SETEX` and `PSETEX`.
pub(super) fn setex(keyspace: &mut Keyspace, call: &Call, unit: Unit) -> Answer {
    let [key, life, value] = call.args.as_slice() else { return Err(SYNTAX) };
    let end = end(life, unit, keyspace.now, call.spec().name)?;
    keyspace.look(call.database, key);
    store(keyspace, call.database, key, value, end);
    keyspace.tell(call.database, key, 'g', "expire");
    Ok(Reply::OK)
}

pub(super) fn setnx(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, value] = call.args.as_slice() else { return Err(SYNTAX) };
    let free = keyspace.look(call.database, key).is_none();
    if free {
        store(keyspace, call.database, key, value, 0);
    }
    Ok(Reply::Integer(free.into()))
}

pub(super) fn getset(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, value] = call.args.as_slice() else { return Err(SYNTAX) };
    let old = bytes(keyspace.look(call.database, key))?;
    store(keyspace, call.database, key, value, 0);
    Ok(bulk(old))
}

pub(super) fn getdel(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let old = bytes(keyspace.look(call.database, &call.args[0]))?;
    keys::remove(keyspace, call.database, &call.args[0]);
    Ok(bulk(old))
}

pub(super) fn getex(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, options @ ..] = call.args.as_slice() else { return Err(SYNTAX) };
    let options = Options::parse(options, Takes::Getex)?;
    let Some(entry) = keyspace.look(call.database, key) else { return Ok(Reply::Null) };
    let (value, old_end) = (bytes(Some(entry))?, entry.expires);
    match options.end(keyspace.now, "getex")? {
        Some(end) if end <= keyspace.now => {
            keys::remove(keyspace, call.database, key);
        }
        Some(end) => {
            keyspace.set_end(call.database, key, end);
            keyspace.tell(call.database, key, 'g', "expire");
        }
        None if options.persist && old_end != 0 => {
            keyspace.set_end(call.database, key, 0);
            keyspace.tell(call.database, key, 'g', "persist");
        }
        None => {}
    }
    Ok(bulk(value))
}

/// A key of another type counts as absent here.
pub(super) fn mget(view: &View<'_>, call: &Call) -> Answer {
    let value = |key: &Bytes| view.get(call, key).map(|entry| &entry.value).filter(|value| value.as_text().is_some());
    view.fits(call.args.iter().filter_map(value).map(Value::bytes).sum())?;
    Ok(Reply::Array(call.args.iter().map(|key| bulk(value(key).and_then(Value::to_bytes))).collect()))
}

/// `MSET`, and `MSETNX` if none of the keys may be there.
pub(super) fn mset(keyspace: &mut Keyspace, call: &Call, only_new: bool) -> Answer {
    if !call.args.len().is_multiple_of(2) {
        return Err(wrong_arity(call.spec()));
    }
    if only_new && call.args.iter().step_by(2).any(|key| keyspace.look(call.database, key).is_some()) {
        return Ok(Reply::Integer(0));
    }
    for pair in call.args.chunks_exact(2) {
        keyspace.look(call.database, &pair[0]);
        store(keyspace, call.database, &pair[0], &pair[1], 0);
    }
    Ok(if only_new { Reply::Integer(1) } else { Reply::OK })
}

/// Refuses a string that would become longer than values may be.
fn fits(keyspace: &Keyspace, len: u64) -> Result<(), Reply> {
    if len > keyspace.settings.limits.value_max.as_bytes() {
        return Err(Reply::error("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    Ok(())
}

pub(super) fn append(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, more] = call.args.as_slice() else { return Err(SYNTAX) };
    let old = text(keyspace.look(call.database, key))?.map(<[u8]>::len);
    let len = old.unwrap_or(0) + more.len();
    fits(keyspace, len as u64)?;
    match old {
        None => keyspace.put(call.database, key, Value::text(more), 0),
        Some(_) => {
            keyspace.edit(call.database, key, |value| value.append(more));
        }
    }
    keyspace.tell(call.database, key, '$', "append");
    Ok(count(len))
}

/// Gives a key another string; the end of its life stays.
fn replace(keyspace: &mut Keyspace, database: u16, key: &[u8], new: &[u8]) {
    if keyspace.edit(database, key, |value| *value = Value::text(new)).is_none() {
        keyspace.put(database, key, Value::text(new), 0);
    }
}

pub(super) fn strlen(view: &View<'_>, call: &Call) -> Answer {
    Ok(count(text(view.get(call, &call.args[0]))?.map_or(0, <[u8]>::len)))
}

/// `INCR` and its kin.
pub(super) fn add(keyspace: &mut Keyspace, call: &Call, by: i64) -> Answer {
    let key = &call.args[0];
    let old = text(keyspace.look(call.database, key))?.map_or(Ok(0), integer)?;
    let new = old.checked_add(by).ok_or(Reply::error("ERR increment or decrement would overflow"))?;
    replace(keyspace, call.database, key, new.to_string().as_bytes());
    keyspace.tell(call.database, key, '$', "incrby");
    Ok(Reply::Integer(new))
}

pub(super) fn incrby(keyspace: &mut Keyspace, call: &Call) -> Answer {
    add(keyspace, call, integer(&call.args[1])?)
}

pub(super) fn decrby(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let by = integer(&call.args[1])?.checked_neg().ok_or(Reply::error("ERR decrement would overflow"))?;
    add(keyspace, call, by)
}

pub(super) fn incrbyfloat(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, by] = call.args.as_slice() else { return Err(SYNTAX) };
    let old = text(keyspace.look(call.database, key))?.unwrap_or(b"0");
    let (old, by) = (Written::read(old).ok_or(NOT_A_FLOAT)?, Written::read(by).ok_or(NOT_A_FLOAT)?);
    keyspace.reckon(old.work() + by.work())?;
    let new = sum(old.round().ok_or(NOT_A_FLOAT)?, by.round().ok_or(NOT_A_FLOAT)?)?;
    replace(keyspace, call.database, key, new.as_bytes());
    keyspace.tell(call.database, key, '$', "incrbyfloat");
    Ok(Reply::Bulk(new.into()))
}

/// The text of a sum.
pub(super) fn sum(a: Parsed, b: Parsed) -> Result<String, Reply> {
    let sum = match (a, b) {
        (Parsed::Number(a), Parsed::Number(b)) => a.plus(b),
        _ => None,
    };
    sum.map(Extended::to_text).ok_or(Reply::error("ERR increment would produce NaN or Infinity"))
}

pub(super) fn getrange(view: &View<'_>, call: &Call) -> Answer {
    let (start, end) = (integer(&call.args[1])?, integer(&call.args[2])?);
    let text = text(view.get(call, &call.args[0]))?.unwrap_or_default();
    let len = text.len() as i64;
    if start < 0 && end < 0 && start > end {
        return Ok(Reply::copy(b""));
    }
    let absolute = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
    let (start, end) = (absolute(start), absolute(end).min(len - 1));
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).filter(|(start, end)| start <= end);
    let part = range.map_or(&[][..], |(start, end)| &text[start..=end]);
    Ok(Reply::Bulk(view.copy(part)?))
}

pub(super) fn setrange(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, at, patch] = call.args.as_slice() else { return Err(SYNTAX) };
    let at = integer(at)?;
    let at = u64::try_from(at).map_err(|_| Reply::error("ERR offset is out of range"))?;
    let old = text(keyspace.look(call.database, key))?.map(<[u8]>::len);
    let old_len = old.unwrap_or(0);
    if patch.is_empty() {
        return Ok(count(old_len));
    }
    let end = at.saturating_add(patch.len() as u64);
    fits(keyspace, end)?;
    let (at, len) = (at as usize, old_len.max(end as usize));
    if len > BOXED_MAX {
        // Zeros before the patch; inside a string, its digest.
        let again = if at >= old_len { at - old_len } else { len };
        keyspace.rewrite(again as u64)?;
    }
    match old {
        None => {
            let mut new = vec![0; len];
            new[at..].copy_from_slice(patch);
            keyspace.put(call.database, key, Value::text(&new), 0);
        }
        Some(_) => {
            keyspace.edit(call.database, key, |value| value.overwrite(at, patch));
        }
    }
    keyspace.tell(call.database, key, '$', "setrange");
    Ok(count(len))
}
