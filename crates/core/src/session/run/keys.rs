//! What is done to keys whatever they hold: `DEL`, `EXPIRE`, `TTL` and the like.

use super::{Answer, NOT_AN_INTEGER, View, count, integer, is};
use crate::session::{Call, Reply, database::Entry, keyspace::Keyspace};

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
    keyspace.remove(database, key);
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
                let text = [b"ERR Unsupported option ", &**option].concat();
                return Err(Reply::Error(text.into()));
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
    let end = end(integer(when)?, unit, base, keyspace.now).ok_or_else(|| invalid_end(call))?;
    let Some(entry) = keyspace.look(call.database, key) else { return Ok(Reply::Integer(0)) };
    if !conditions.allow(entry.expires, end) {
        return Ok(Reply::Integer(0));
    }
    match u64::try_from(end) {
        Ok(end) if end > keyspace.now => {
            keyspace.set_end(call.database, key, end);
            keyspace.tell(call.database, key, 'g', "expire");
        }
        _ => {
            remove(keyspace, call.database, key);
        }
    }
    Ok(Reply::Integer(1))
}

/// The end that a number means; `None` if there is no such time.
fn end(count: i64, unit: Unit, base: Base, now: u64) -> Option<i64> {
    let millis = count.checked_mul(unit.millis())?;
    match base {
        Base::Epoch => Some(millis),
        Base::Now => millis.checked_add(i64::try_from(now).ok()?),
    }
}

fn invalid_end(call: &Call) -> Reply {
    Reply::Error(format!("ERR invalid expire time in '{}' command", call.spec().name).into())
}

/// How long a key still lives: -1 without an end, -2 without a key.
pub(super) fn ttl(view: &View<'_>, call: &Call, unit: Unit) -> Reply {
    let left = |entry: &Entry| match entry.expires {
        0 => -1,
        end => unit.of(end.saturating_sub(view.now)),
    };
    Reply::Integer(view.get(call, &call.args[0]).map_or(-2, left))
}
