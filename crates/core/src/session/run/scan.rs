//! Walking through keys, fields and members.
//!
//! A cursor is a position in the order of hashes, which are the same on every node: a walk that begins on one node can
//! go on at another, and what is there from its beginning to its end is met. A walk that comes to the end of its room or
//! its work stops earlier than it was told and goes on from there.

use bytes::Bytes;

use super::{Answer, Gathering, SYNTAX, TOO_LARGE, View, WRONG_TYPE, count, hashes::mix, integer, is};
use crate::session::{
    Call, Pattern, Reply,
    database::{Database, Entry},
    number,
    shelf::{Placed, position},
    value::Value,
    work::LOOK,
};

/// What a walk is told besides its cursor.
struct Options<'a> {
    count: u64,
    pattern: Option<Pattern>,
    type_name: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(words: &'a [Bytes], takes_type: bool) -> Result<Self, Reply> {
        let mut options = Self { count: 10, pattern: None, type_name: None };
        for pair in words.chunks(2) {
            let [option, value] = pair else { return Err(SYNTAX) };
            if is(option, "count") {
                let count = integer(value)?;
                options.count = u64::try_from(count).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
            } else if is(option, "match") {
                options.pattern = pattern(value);
            } else if takes_type && is(option, "type") {
                options.type_name = Some(value);
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(options)
    }
}

/// What names have to fit; `None` if all do.
fn pattern(text: &[u8]) -> Option<Pattern> {
    (text != b"*").then(|| Pattern::new(text))
}

fn cursor(text: &[u8]) -> Result<u64, Reply> {
    number::parse_cursor(text).ok_or(Reply::error("ERR invalid cursor"))
}

/// One step of a walk: goes on until it has met as many as it was told, has as large an answer as there is room for, or
/// has worked long enough, and can stop wherever the position changes.
struct Walk<'v, 'o> {
    view: &'v View<'v>,
    options: Options<'o>,
    met: u64,
    at: Option<u64>,
    tired: bool,
    bytes: u64,
    found: Vec<Reply>,
}

impl<'v, 'o> Walk<'v, 'o> {
    fn new(view: &'v View<'_>, options: Options<'o>) -> Self {
        Self { view, options, met: 0, at: None, tired: false, bytes: 0, found: Vec::new() }
    }

    /// Whether the walk stops before what is at this position. Of one position all is met together.
    fn stops_before(&mut self, position: u64) -> bool {
        let enough = self.met >= self.options.count || self.tired || self.bytes > self.view.room / 2;
        if enough && self.at.is_some_and(|at| at != position) {
            return true;
        }
        self.met += 1;
        self.at = Some(position);
        self.tired |= self.view.tire(LOOK);
        false
    }

    fn wants(&mut self, name: &[u8]) -> bool {
        let Some(pattern) = &self.options.pattern else { return true };
        let mut steps = 0;
        let fits = pattern.matches_counting(name, &mut steps);
        self.tired |= self.view.tire(steps);
        fits
    }

    fn find(&mut self, part: &[u8]) {
        let part = Reply::copy(part);
        self.bytes += part.bytes();
        self.tired |= self.view.tire(part.bytes() / 16);
        self.found.push(part);
    }

    /// The answer, with the position of what follows; zero at the end.
    fn end(self, next: u64) -> Answer {
        if self.bytes > self.view.room {
            return Err(TOO_LARGE);
        }
        Ok(page(next, self.found))
    }
}

fn page(next: u64, found: Vec<Reply>) -> Reply {
    Reply::Array(vec![Reply::Bulk(next.to_string().into()), Reply::Array(found)])
}

pub(super) fn scan(view: &View<'_>, call: &Call) -> Answer {
    let cursor = cursor(&call.args[0])?;
    let options = Options::parse(&call.args[1..], true)?;
    let Some(database) = view.keyspace.databases.get(&call.database) else { return Ok(page(0, Vec::new())) };
    let mut walk = Walk::new(view, options);
    for entry in database.iter_from_cursor(cursor) {
        let here = position(entry.hash());
        if walk.stops_before(here) {
            return walk.end(here);
        }
        let of_type = |entry: &Entry| walk.options.type_name.is_none_or(|name| is(name, entry.value.type_name()));
        if !entry.has_ended(view.gone_by()) && of_type(entry) && walk.wants(entry.key()) {
            walk.find(entry.key());
        }
    }
    walk.end(0)
}

pub(super) fn hscan(view: &View<'_>, call: &Call) -> Answer {
    let cursor = cursor(&call.args[1])?;
    let hash = match view.get(call, &call.args[0]).map(|entry| &entry.value) {
        None => return Ok(page(0, Vec::new())),
        Some(Value::Hash(hash)) => hash,
        Some(_) => return Err(WRONG_TYPE),
    };
    let mut walk = Walk::new(view, Options::parse(&call.args[2..], false)?);
    for (here, (name, value)) in hash.iter_from_cursor(cursor) {
        if walk.stops_before(here) {
            return walk.end(here);
        }
        if walk.wants(name) {
            walk.find(name);
            walk.find(value);
        }
    }
    walk.end(0)
}

pub(super) fn sscan(view: &View<'_>, call: &Call) -> Answer {
    let cursor = cursor(&call.args[1])?;
    let set = match view.get(call, &call.args[0]).map(|entry| &entry.value) {
        None => return Ok(page(0, Vec::new())),
        Some(Value::Set(set)) => set,
        Some(_) => return Err(WRONG_TYPE),
    };
    let mut walk = Walk::new(view, Options::parse(&call.args[2..], false)?);
    for (here, member) in set.iter_from_cursor(cursor) {
        if walk.stops_before(here) {
            return walk.end(here);
        }
        if walk.wants(&member) {
            walk.find(&member);
        }
    }
    walk.end(0)
}

pub(super) fn keys(view: &View<'_>, call: &Call) -> Answer {
    let pattern = pattern(&call.args[0]);
    let mut gathering = Gathering::new(view);
    let mut found = Vec::new();
    for entry in view.keyspace.databases.get(&call.database).into_iter().flat_map(Database::iter) {
        let mut steps = LOOK;
        let fits = pattern.as_ref().is_none_or(|pattern| pattern.matches_counting(entry.key(), &mut steps));
        view.walk(steps)?;
        if fits && !entry.has_ended(view.gone_by()) {
            found.push(gathering.take(entry.key())?);
        }
    }
    Ok(Reply::Array(found))
}

pub(super) fn randomkey(view: &View<'_>, call: &Call) -> Answer {
    let database = view.keyspace.databases.get(&call.database);
    for entry in database.into_iter().flat_map(|database| database.around(mix(view.turn))) {
        view.walk(LOOK)?;
        if !entry.has_ended(view.gone_by()) {
            return Ok(Reply::copy(entry.key()));
        }
    }
    Ok(Reply::Null)
}

pub(super) fn dbsize(view: &View<'_>, call: &Call) -> Answer {
    let database = view.keyspace.databases.get(&call.database);
    let (all, ended) = database.map_or((0, 0), |database| (database.len(), database.ended(view.gone_by())));
    view.walk(ended as u64)?;
    Ok(count(all - ended))
}
