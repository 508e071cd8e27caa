//! `HSET`, `HGETALL` and what else is done to hashes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Answer, COPIED, Gathering, NOT_A_FLOAT, SYNTAX, View, WRONG_TYPE, bulk, count, integer, is, strings::sum};
use crate::session::{
    Call, Reply,
    call::wrong_arity,
    database::Entry,
    extended::{Parsed, Written},
    hash::{Hash, PairRef},
    keyspace::Keyspace,
    number,
    shelf::Seed,
    value::Value,
};

fn hash(entry: Option<&Entry>) -> Result<Option<&Hash>, Reply> {
    let hash = |entry: &'_ Entry| match &entry.value {
        Value::Hash(_) => Ok(()),
        _ => Err(WRONG_TYPE),
    };
    entry.map(hash).transpose()?;
    Ok(entry.and_then(|entry| match &entry.value {
        Value::Hash(hash) => Some(&**hash),
        _ => None,
    }))
}

fn viewed<'v>(view: &'v View<'_>, call: &Call) -> Result<Option<&'v Hash>, Reply> {
    hash(view.get(call, &call.args[0]))
}

/// Changes the hash of a call's first key; makes one if there is none.
fn change<R>(keyspace: &mut Keyspace, call: &Call, change: impl FnOnce(&mut Hash, Seed) -> R) -> Result<R, Reply> {
    change_of(keyspace, call.database, &call.args[0], change)
}

fn change_of<R>(
    keyspace: &mut Keyspace,
    database: u16,
    key: &[u8],
    change: impl FnOnce(&mut Hash, Seed) -> R,
) -> Result<R, Reply> {
    let seed = keyspace.seed;
    if hash(keyspace.look(database, key))?.is_none() {
        let mut hash = Hash::default();
        let result = change(&mut hash, seed);
        keyspace.put(database, key, Value::Hash(Arc::new(hash)), 0);
        return Ok(result);
    }
    let result = keyspace.edit(database, key, |value| match value {
        Value::Hash(hash) => Some(change(Arc::make_mut(hash), seed)),
        _ => None,
    });
    result.flatten().ok_or(WRONG_TYPE)
}

/// Sets fields of a key and says so.
pub(super) fn set_fields(
    keyspace: &mut Keyspace,
    database: u16,
    key: &[u8],
    fields: &[PairRef<'_>],
) -> Result<(), Reply> {
    change_of(keyspace, database, key, |hash, seed| {
        for (name, value) in fields {
            hash.put(seed, name, value);
        }
    })?;
    keyspace.tell(database, key, 'h', "hset");
    Ok(())
}

/// `HSET` and `HMSET`; how many fields are new.
pub(super) fn hset(keyspace: &mut Keyspace, call: &Call) -> Result<usize, Reply> {
    if call.args.len().is_multiple_of(2) {
        return Err(wrong_arity(call.spec()));
    }
    let new = change(keyspace, call, |hash, seed| {
        call.args[1..].chunks_exact(2).filter(|pair| hash.put(seed, &pair[0], &pair[1])).count()
    })?;
    keyspace.tell(call.database, &call.args[0], 'h', "hset");
    Ok(new)
}

pub(super) fn hsetnx(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, name, value] = call.args.as_slice() else { return Err(SYNTAX) };
    let seed = keyspace.seed;
    if hash(keyspace.look(call.database, key))?.is_some_and(|hash| hash.get(seed, name).is_some()) {
        return Ok(Reply::Integer(0));
    }
    change(keyspace, call, |hash, seed| hash.put(seed, name, value))?;
    keyspace.tell(call.database, key, 'h', "hset");
    Ok(Reply::Integer(1))
}

pub(super) fn hget(view: &View<'_>, call: &Call) -> Answer {
    let value = viewed(view, call)?.and_then(|hash| hash.get(view.keyspace.seed, &call.args[1]));
    Ok(bulk(value.map(|value| view.copy(value)).transpose()?))
}

pub(super) fn hmget(view: &View<'_>, call: &Call) -> Answer {
    let hash = viewed(view, call)?;
    let value = |name: &Bytes| hash.and_then(|hash| hash.get(view.keyspace.seed, name));
    let bytes = call.args[1..].iter().filter_map(value).map(|value| value.len() as u64).sum();
    view.fits(bytes)?;
    view.walk(bytes / COPIED)?;
    Ok(Reply::Array(call.args[1..].iter().map(|name| bulk(value(name).map(Bytes::copy_from_slice))).collect()))
}

pub(super) fn hdel(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let (key, seed) = (&call.args[0], keyspace.seed);
    let Some(found) = hash(keyspace.look(call.database, key))? else { return Ok(Reply::Integer(0)) };
    if !call.args[1..].iter().any(|name| found.get(seed, name).is_some()) {
        return Ok(Reply::Integer(0));
    }
    let (removed, left) = change(keyspace, call, |hash, seed| {
        let removed = call.args[1..].iter().filter(|name| hash.remove(seed, name)).count();
        (removed, hash.len())
    })?;
    keyspace.tell(call.database, key, 'h', "hdel");
    if left == 0 {
        super::keys::remove(keyspace, call.database, key);
    }
    Ok(count(removed))
}

pub(super) fn hlen(view: &View<'_>, call: &Call) -> Answer {
    Ok(count(viewed(view, call)?.map_or(0, Hash::len)))
}

pub(super) fn hstrlen(view: &View<'_>, call: &Call) -> Answer {
    let value = viewed(view, call)?.and_then(|hash| hash.get(view.keyspace.seed, &call.args[1]));
    Ok(count(value.map_or(0, <[u8]>::len)))
}

pub(super) fn hexists(view: &View<'_>, call: &Call) -> Answer {
    let value = viewed(view, call)?.and_then(|hash| hash.get(view.keyspace.seed, &call.args[1]));
    Ok(Reply::Integer(value.is_some().into()))
}

pub(super) fn hkeys(view: &View<'_>, call: &Call) -> Answer {
    let fields = viewed(view, call)?.into_iter().flat_map(Hash::iter);
    Ok(Reply::Array(Gathering::new(view).all(fields.map(|(name, _)| name))?))
}

pub(super) fn hvals(view: &View<'_>, call: &Call) -> Answer {
    let fields = viewed(view, call)?.into_iter().flat_map(Hash::iter);
    Ok(Reply::Array(Gathering::new(view).all(fields.map(|(_, value)| value))?))
}

pub(super) fn hgetall(view: &View<'_>, call: &Call) -> Answer {
    let fields = viewed(view, call)?.into_iter().flat_map(Hash::iter);
    Ok(Reply::Map(Gathering::new(view).pairs(fields)?))
}

pub(super) fn hincrby(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, name, by] = call.args.as_slice() else { return Err(SYNTAX) };
    let by = integer(by)?;
    let seed = keyspace.seed;
    let old = hash(keyspace.look(call.database, key))?.and_then(|hash| hash.get(seed, name));
    let old = old.map_or(Some(0), number::parse).ok_or(Reply::error("ERR hash value is not an integer"))?;
    let new = old.checked_add(by).ok_or(Reply::error("ERR increment or decrement would overflow"))?;
    change(keyspace, call, |hash, seed| hash.put(seed, name, new.to_string().as_bytes()))?;
    keyspace.tell(call.database, key, 'h', "hincrby");
    Ok(Reply::Integer(new))
}

pub(super) fn hincrbyfloat(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let [key, name, by] = call.args.as_slice() else { return Err(SYNTAX) };
    let by = Written::read(by).ok_or(NOT_A_FLOAT)?;
    keyspace.reckon(by.work())?;
    let by = by.round().ok_or(NOT_A_FLOAT)?;
    if by == Parsed::Infinite {
        return Err(Reply::error("ERR value is NaN or Infinity"));
    }
    let seed = keyspace.seed;
    let old = hash(keyspace.look(call.database, key))?.and_then(|hash| hash.get(seed, name));
    let not_a_float = || Reply::error("ERR hash value is not a float");
    let old = Written::read(old.unwrap_or(b"0")).ok_or_else(not_a_float)?;
    keyspace.reckon(old.work())?;
    let new = sum(old.round().ok_or_else(not_a_float)?, by)?;
    change(keyspace, call, |hash, seed| hash.put(seed, name, new.as_bytes()))?;
    keyspace.tell(call.database, key, 'h', "hincrbyfloat");
    Ok(Reply::Bulk(new.into()))
}

/// Fields that one answer may hold with repetition. Redis has no bound here but its memory.
const REPEATED_MAX: u64 = 1 << 20;

pub(super) fn hrandfield(view: &View<'_>, call: &Call) -> Answer {
    let Some(wanted) = call.args.get(1) else {
        let hash = viewed(view, call)?;
        let field = hash.and_then(|hash| hash.nth((mix(view.turn) % hash.len().max(1) as u64) as usize));
        return Ok(bulk(field.map(|(name, _)| view.copy(name)).transpose()?));
    };
    let wanted = integer(wanted)?;
    if wanted == i64::MIN {
        let text = "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";
        return Err(Reply::error(text));
    }
    let with_values = match &call.args[2..] {
        [] => false,
        [option] if is(option, "withvalues") => true,
        _ => return Err(SYNTAX),
    };
    let out_of_range = Err(Reply::error("ERR value is out of range"));
    if with_values && wanted.unsigned_abs() > i64::MAX as u64 / 2 {
        return out_of_range;
    }
    let Some(hash) = viewed(view, call)? else { return Ok(Reply::Array(Vec::new())) };
    if wanted < 0 && wanted.unsigned_abs() > REPEATED_MAX {
        return out_of_range;
    }
    let gathering = Gathering::new(view);
    let fields = drawn(hash, wanted, view.turn);
    Ok(match with_values {
        false => Reply::Array(gathering.all(fields.map(|(name, _)| name))?),
        true => Reply::Pairs(gathering.pairs(fields)?),
    })
}

/// So many different fields, or, if `wanted` is negative, so many of which some may be the same.
fn drawn(hash: &Hash, wanted: i64, turn: u64) -> Box<dyn Iterator<Item = PairRef<'_>> + '_> {
    let len = hash.len() as u64;
    let draw = move |n: u64, of: u64| mix(turn.wrapping_mul(0x1_0000_0001).wrapping_add(n)) % of;
    if wanted < 0 {
        return Box::new((0..wanted.unsigned_abs()).filter_map(move |n| hash.nth(draw(n, len) as usize)));
    }
    if wanted.unsigned_abs() >= len {
        return Box::new(hash.iter());
    }
    // A shuffle of all indexes as far as it goes; of those that it has not moved, each is at its own place.
    let mut moved = BTreeMap::new();
    Box::new((0..wanted.unsigned_abs()).filter_map(move |at| {
        let with = at + draw(at, len - at);
        let here = moved.get(&at).copied().unwrap_or(at);
        hash.nth(moved.insert(with, here).unwrap_or(with) as usize)
    }))
}

/// Spreads a counter over all numbers (the finaliser of SplitMix64).
pub(super) const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
