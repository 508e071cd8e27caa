//! `SADD`, `SMEMBERS` and what else is done to sets.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, Gathering, View, WRONG_TYPE, count};
use crate::session::{Call, Reply, database::Entry, keyspace::Keyspace, set::Set, shelf::Seed, value::Value};

fn set(entry: Option<&Entry>) -> Result<Option<&Set>, Reply> {
    match entry.map(|entry| &entry.value) {
        None => Ok(None),
        Some(Value::Set(set)) => Ok(Some(set)),
        Some(_) => Err(WRONG_TYPE),
    }
}

fn viewed<'v>(view: &'v View<'_>, call: &Call) -> Result<Option<&'v Set>, Reply> {
    set(view.get(call, &call.args[0]))
}

/// Changes the set of a key; makes one if there is none.
fn change<R>(keyspace: &mut Keyspace, call: &Call, change: impl FnOnce(&mut Set, Seed) -> R) -> Result<R, Reply> {
    let (key, seed) = (&call.args[0], keyspace.seed);
    if set(keyspace.look(call.database, key))?.is_none() {
        let mut set = Set::default();
        let result = change(&mut set, seed);
        keyspace.put(call.database, key, Value::Set(Arc::new(set)), 0);
        return Ok(result);
    }
    let result = keyspace.edit(call.database, key, |value| match value {
        Value::Set(set) => Some(change(Arc::make_mut(set), seed)),
        _ => None,
    });
    result.flatten().ok_or(WRONG_TYPE)
}

pub(super) fn sadd(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let (key, seed) = (&call.args[0], keyspace.seed);
    let found = set(keyspace.look(call.database, key))?;
    if found.is_some_and(|set| call.args[1..].iter().all(|member| set.contains(seed, member))) {
        return Ok(Reply::Integer(0));
    }
    let added =
        change(keyspace, call, |set, seed| call.args[1..].iter().filter(|member| set.add(seed, member)).count())?;
    keyspace.tell(call.database, key, 's', "sadd");
    Ok(count(added))
}

pub(super) fn srem(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let (key, seed) = (&call.args[0], keyspace.seed);
    let Some(found) = set(keyspace.look(call.database, key))? else { return Ok(Reply::Integer(0)) };
    if !call.args[1..].iter().any(|member| found.contains(seed, member)) {
        return Ok(Reply::Integer(0));
    }
    let (removed, left) = change(keyspace, call, |set, seed| {
        let removed = call.args[1..].iter().filter(|member| set.remove(seed, member)).count();
        (removed, set.len())
    })?;
    keyspace.tell(call.database, key, 's', "srem");
    if left == 0 {
        super::keys::remove(keyspace, call.database, key);
    }
    Ok(count(removed))
}

pub(super) fn smembers(view: &View<'_>, call: &Call) -> Answer {
    let mut gathering = Gathering::new(view);
    let members = viewed(view, call)?.into_iter().flat_map(Set::iter);
    Ok(Reply::Set(members.map(|member| gathering.take(&member)).collect::<Result<_, _>>()?))
}

fn contains(view: &View<'_>, set: Option<&Set>, member: &Bytes) -> Reply {
    Reply::Integer(set.is_some_and(|set| set.contains(view.keyspace.seed, member)).into())
}

pub(super) fn sismember(view: &View<'_>, call: &Call) -> Answer {
    Ok(contains(view, viewed(view, call)?, &call.args[1]))
}

pub(super) fn smismember(view: &View<'_>, call: &Call) -> Answer {
    let set = viewed(view, call)?;
    Ok(Reply::Array(call.args[1..].iter().map(|member| contains(view, set, member)).collect()))
}

pub(super) fn scard(view: &View<'_>, call: &Call) -> Answer {
    Ok(count(viewed(view, call)?.map_or(0, Set::len)))
}
