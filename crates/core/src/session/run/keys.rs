//! What is done to keys whatever they hold: `DEL`, `EXPIRE`, `TTL` and the like.

use super::{Answer, NOT_AN_INTEGER, SYNTAX, View, count, integer, is};
use crate::session::{
    Call, Reply,
    call::{as_text, one_line},
    database::Entry,
    keyspace::Keyspace,
    number::parse_database,
};

/// In what lifetimes are told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

impl Unit {
    pub(super) const fn millis(self) -> i64 {
        match self {
            Self::Seconds => 1000,
            Self::Millis => 1,
        }
    }

    /// Milliseconds in this unit, rounded as Redis does.
    const fn of(self, millis: u64) -> i64 {
        match self {
            Self::Seconds => ((millis + 500) / 1000) as i64,
            Self::Millis => millis as i64,
        }
    }
}

/// From when lifetimes are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Now,
    Epoch,
}

pub(super) fn del(keyspace: &mut Keyspace, call: &Call) -> Reply {
    let removed = call.args.iter().filter(|key| remove(keyspace, call.database, key));
    count(removed.count())
}

/// Removes a key and says so.
pub(super) fn remove(keyspace: &mut Keyspace, database: u16, key: &[u8]) -> bool {
    if keyspace.look(database, key).is_none() {
        return false;
    }
    keyspace.discard(database, key);
    keyspace.tell(database, key, 'g', "del");
    true
}

/// When `EXPIRE` and the like may change an end.
#[derive(Clone, Copy, Default)]
struct Conditions {
    none: bool,
    some: bool,
    greater: bool,
    less: bool,
}

impl Conditions {
    fn parse(options: &[bytes::Bytes]) -> Result<Self, Reply> {
        let mut conditions = Self::default();
        for option in options {
            if is(option, "nx") {
                conditions.none = true;
            } else if is(option, "xx") {
                conditions.some = true;
            } else if is(option, "gt") {
                conditions.greater = true;
            } else if is(option, "lt") {
                conditions.less = true;
            } else {
                return Err(one_line([b"ERR Unsupported option ", as_text(option, option.len())].concat()));
            }
        }
        if conditions.none && (conditions.some || conditions.greater || conditions.less) {
            let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(Reply::error(text));
        }
        if conditions.greater && conditions.less {
            return Err(Reply::error("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether a key that has this end, zero for none, may have that one.
    fn allow(self, current: u64, new: i64) -> bool {
        let current = (current != 0).then(|| i64::try_from(current).unwrap_or(i64::MAX));
        !(self.none && current.is_some()
            || self.some && current.is_none()
            || self.greater && current.is_none_or(|current| new <= current)
            || self.less && current.is_some_and(|current| new >= current))
    }
}

pub(super) fn expire(keyspace: &mut Keyspace, call: &Call, unit: Unit, base: Base) -> Answer {
    let [key, when, options @ ..] = call.args.as_slice() else { return Err(NOT_AN_INTEGER) };
    let conditions = Conditions::parse(options)?;
    let end = end(integer(when)?, unit, base, keyspace.now).ok_or_else(|| invalid_end(call.spec().name))?;
    let Some(entry) = keyspace.look(call.database, key) else { return Ok(Reply::Integer(0)) };
    if !conditions.allow(entry.expires, end) {
        return Ok(Reply::Integer(0));
    }
    set_end(keyspace, call.database, key, end);
    Ok(Reply::Integer(1))
}

/// Gives a key that is there another end and says so; one that is over removes it.
fn set_end(keyspace: &mut Keyspace, database: u16, key: &[u8], end: i64) {
    match u64::try_from(end) {
        Ok(end) if end > keyspace.now => {
            keyspace.set_end(database, key, end);
            keyspace.tell(database, key, 'g', "expire");
        }
        _ => {
            remove(keyspace, database, key);
        }
    }
}

/// What `EXPIRE` and `PEXPIRE` do to a key that is there.
pub(super) fn set_life(keyspace: &mut Keyspace, database: u16, key: &[u8], life: i64, unit: Unit) -> Result<(), Reply> {
    let command = if unit == Unit::Seconds { "expire" } else { "pexpire" };
    let end = end(life, unit, Base::Now, keyspace.now).ok_or_else(|| invalid_end(command))?;
    set_end(keyspace, database, key, end);
    Ok(())
}

/// The end that a number means; `None` if there is no such time.
fn end(count: i64, unit: Unit, base: Base, now: u64) -> Option<i64> {
    let millis = count.checked_mul(unit.millis())?;
    match base {
        Base::Epoch => Some(millis),
        Base::Now => millis.checked_add(i64::try_from(now).ok()?),
    }
}

fn invalid_end(command: &str) -> Reply {
    Reply::Error(format!("ERR invalid expire time in '{command}' command").into())
}

/// How long a key still lives: -1 without an end, -2 without a key.
pub(super) fn ttl(view: &View<'_>, call: &Call, unit: Unit) -> Reply {
    let left = |entry: &Entry| match entry.expires {
        0 => -1,
        end => unit.of(end.saturating_sub(view.now)),
    };
    Reply::Integer(view.get(call, &call.args[0]).map_or(-2, left))
}

/// `EXPIRETIME` and `PEXPIRETIME`.
pub(super) fn expiretime(view: &View<'_>, call: &Call, unit: Unit) -> Reply {
    let end = |entry: &Entry| if entry.expires == 0 { -1 } else { unit.of(entry.expires) };
    Reply::Integer(view.get(call, &call.args[0]).map_or(-2, end))
}

pub(super) fn persist(keyspace: &mut Keyspace, call: &Call) -> Reply {
    let key = &call.args[0];
    let ends = keyspace.look(call.database, key).is_some_and(|entry| entry.expires != 0);
    if ends {
        keyspace.set_end(call.database, key, 0);
        keyspace.tell(call.database, key, 'g', "persist");
    }
    Reply::Integer(ends.into())
}

pub(super) fn exists(view: &View<'_>, call: &Call) -> Reply {
    count(call.args.iter().filter(|key| view.get(call, key).is_some()).count())
}

pub(super) fn touch(keyspace: &mut Keyspace, call: &Call) -> Reply {
    let there = call.args.iter().filter(|key| {
        let there = keyspace.look(call.database, key).is_some();
        if there {
            keyspace.touch(call.database, key);
        }
        there
    });
    count(there.count())
}

pub(super) fn type_of(view: &View<'_>, call: &Call) -> Reply {
    Reply::Simple(view.get(call, &call.args[0]).map_or("none", |entry| entry.value.type_name()))
}

/// `RENAME`, and `RENAMENX` if the new name has to be free.
pub(super) fn rename(keyspace: &mut Keyspace, call: &Call, only_new: bool) -> Answer {
    let [from, to] = call.args.as_slice() else { return Err(SYNTAX) };
    let done = |renamed: bool| if only_new { Reply::Integer(renamed.into()) } else { Reply::OK };
    if keyspace.look(call.database, from).is_none() {
        return Err(Reply::error("ERR no such key"));
    }
    if from == to {
        return Ok(done(false));
    }
    if keyspace.look(call.database, to).is_some() {
        if only_new {
            return Ok(done(false));
        }
        keyspace.discard(call.database, to);
    }
    let Some(entry) = keyspace.remove(call.database, from) else { return Err(Reply::error("ERR no such key")) };
    keyspace.put(call.database, to, entry.value, entry.expires);
    keyspace.tell(call.database, from, 'g', "rename_from");
    keyspace.tell(call.database, to, 'g', "rename_to");
    Ok(done(true))
}

pub(super) fn copy(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [from, to, options @ ..] = call.args.as_slice() else { return Err(SYNTAX) };
    let (mut database, mut replace) = (call.database, false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if is(option, "replace") {
            replace = true;
        } else if is(option, "db") {
            database = parse_database(options.next().ok_or(SYNTAX)?, keyspace.settings.databases)?;
        } else {
            return Err(SYNTAX);
        }
    }
    if database == call.database && from == to {
        return Err(Reply::error("ERR source and destination objects are the same"));
    }
    let Some(entry) = keyspace.look(call.database, from) else { return Ok(Reply::Integer(0)) };
    let (value, expires) = (entry.value.clone(), entry.expires);
    let taken = keyspace.look(database, to).is_some();
    if taken && !replace {
        return Ok(Reply::Integer(0));
    }
    // Both share the value; it is copied when one of them is changed.
    keyspace.rewrite(value.bytes())?;
    if taken {
        keyspace.discard(database, to);
    }
    keyspace.put(database, to, value, expires);
    keyspace.tell(database, to, 'g', "copy_to");
    Ok(Reply::Integer(1))
}

/// `FLUSHDB`, and `FLUSHALL` for all databases. Whether memory is given back at once or later is not the keyspace's.
pub(super) fn flush(keyspace: &mut Keyspace, call: &Call, all: bool) -> Answer {
    match call.args.as_slice() {
        [] => {}
        [option] if is(option, "sync") || is(option, "async") => {}
        _ => return Err(SYNTAX),
    }
    keyspace.flush((!all).then_some(call.database));
    Ok(Reply::OK)
}
