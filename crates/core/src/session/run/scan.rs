//! Walking through keys, fields and members.
//!
//! A cursor is a position in the order of hashes, which are the same on every node: a walk that begins on one node can
//! go on at another, and what is there from its beginning to its end is met.

use bytes::Bytes;

use super::{Answer, SYNTAX, View, WRONG_TYPE, count, hashes::mix, integer, is};
use crate::session::{
    Call, Reply,
    database::{Database, Entry},
    glob, number,
    shelf::Placed,
    value::Value,
};

/// What a walk is told besides its cursor.
struct Options<'a> {
    count: usize,
    pattern: Option<&'a [u8]>,
    type_name: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(words: &'a [Bytes], takes_type: bool) -> Result<Self, Reply> {
        let mut options = Self { count: 10, pattern: None, type_name: None };
        for pair in words.chunks(2) {
            let [option, value] = pair else { return Err(SYNTAX) };
            if is(option, "count") {
                let count = integer(value)?;
                options.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
            } else if is(option, "match") {
                options.pattern = Some(value);
            } else if takes_type && is(option, "type") {
                options.type_name = Some(value);
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}

fn cursor(text: &[u8]) -> Result<u64, Reply> {
    number::parse_cursor(text).ok_or(Reply::error("ERR invalid cursor"))
}

fn page(next: u64, found: Vec<Reply>) -> Reply {
    Reply::Array(vec![Reply::Bulk(next.to_string().into()), Reply::Array(found)])
}

pub(super) fn scan(view: &View<'_>, call: &Call) -> Answer {
    let cursor = cursor(&call.args[0])?;
    let options = Options::parse(&call.args[1..], true)?;
    let Some(database) = view.keyspace.databases.get(&call.database) else { return Ok(page(0, Vec::new())) };
    let (next, entries) = database.page(cursor, options.count);
    let of_type = |entry: &Entry| options.type_name.is_none_or(|name| is(name, entry.value.type_name()));
    let wanted = entries.into_iter().filter(|entry| !entry.has_ended(view.now));
    let wanted = wanted.filter(|entry| options.wants(entry.key()) && of_type(entry));
    Ok(page(next, wanted.map(|entry| Reply::copy(entry.key())).collect()))
}

pub(super) fn hscan(view: &View<'_>, call: &Call) -> Answer {
    let cursor = cursor(&call.args[1])?;
    let hash = match view.get(call, &call.args[0]).map(|entry| &entry.value) {
        None => return Ok(page(0, Vec::new())),
        Some(Value::Hash(hash)) => hash,
        Some(_) => return Err(WRONG_TYPE),
    };
    let options = Options::parse(&call.args[2..], false)?;
    let (next, fields) = hash.scan(cursor, options.count);
    let wanted = fields.into_iter().filter(|(name, _)| options.wants(name));
    Ok(page(next, wanted.flat_map(|(name, value)| [Reply::copy(name), Reply::copy(value)]).collect()))
}

pub(super) fn sscan(view: &View<'_>, call: &Call) -> Answer {
    let cursor = cursor(&call.args[1])?;
    let set = match view.get(call, &call.args[0]).map(|entry| &entry.value) {
        None => return Ok(page(0, Vec::new())),
        Some(Value::Set(set)) => set,
        Some(_) => return Err(WRONG_TYPE),
    };
    let options = Options::parse(&call.args[2..], false)?;
    let mut found = Vec::new();
    let next = set.scan(cursor, options.count, |member| {
        if options.wants(member) {
            found.push(Reply::copy(member));
        }
    });
    Ok(page(next, found))
}

pub(super) fn keys(view: &View<'_>, call: &Call) -> Reply {
    let all = view.keyspace.databases.get(&call.database).into_iter().flat_map(Database::iter);
    let live = all.filter(|entry| !entry.has_ended(view.now));
    let wanted = live.filter(|entry| glob::matches(&call.args[0], entry.key()));
    Reply::Array(wanted.map(|entry| Reply::copy(entry.key())).collect())
}

pub(super) fn randomkey(view: &View<'_>, call: &Call) -> Reply {
    let database = view.keyspace.databases.get(&call.database);
    let key = database.and_then(|database| database.around(mix(view.turn)).find(|entry| !entry.has_ended(view.now)));
    key.map_or(Reply::Null, |entry| Reply::copy(entry.key()))
}

pub(super) fn dbsize(view: &View<'_>, call: &Call) -> Reply {
    let live = |database: &Database| database.len() - database.ended(view.now);
    count(view.keyspace.databases.get(&call.database).map_or(0, live))
}
