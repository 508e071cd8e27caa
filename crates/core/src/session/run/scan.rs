//! Walking through keys, fields and members.
//!
//! A cursor is a position in the order of hashes, which are the same on every node: a walk that begins on one node can
//! go on at another, and what is there from its beginning to its end is met. A walk that comes to the end of its room or
//! its work stops earlier than it was told and goes on from there.

use bytes::Bytes;

use super::{Answer, COPIED, Gathering, SYNTAX, TOO_LARGE, View, WRONG_TYPE, count, hashes::mix, integer, is};
use crate::session::{
    Call, Pattern, Reply,
    database::{Database, Entry},
    number,
    shelf::{Placed, position},
    value::Value,
    work::{LOOK, TOO_MUCH_WALKED},
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
    /// What was found before this position, unless it is the first.
    before: Option<usize>,
    tired: bool,
    bytes: u64,
    found: Vec<Reply>,
}

impl<'v, 'o> Walk<'v, 'o> {
    fn new(view: &'v View<'_>, options: Options<'o>) -> Self {
        Self { view, options, met: 0, at: None, before: None, tired: false, bytes: 0, found: Vec::new() }
    }

    /// Whether the walk stops before what is at this position. Of one position all is met together.
    fn stops_before(&mut self, position: u64) -> bool {
        let enough = self.met >= self.options.count || self.tired || self.bytes > self.view.room / 2;
        if enough && self.at.is_some_and(|at| at != position) {
            return true;
        }
        self.met += 1;
        if let Some(last) = self.at.replace(position)
            && last != position
        {
            self.before = Some(self.found.len());
        }
        self.tired |= self.view.tire(LOOK);
        false
    }

    /// Whether a name is asked for; `None` if that takes more work than there is left.
    fn wants(&self, name: &[u8]) -> Option<bool> {
        self.options.pattern.as_ref().map_or(Some(true), |pattern| self.view.fits_pattern(pattern, name))
    }

    fn find(&mut self, part: &[u8]) {
        let part = Reply::copy(part);
        self.bytes += part.bytes();
        self.tired |= self.view.tire(part.bytes() / COPIED);
        self.found.push(part);
    }

    /// The answer where the work ends within a position: the next step meets all of it, and begins with it. A step that
    /// has met nothing else gets nowhere.
    fn give_up(mut self) -> Answer {
        let (Some(before), Some(at)) = (self.before, self.at) else { return Err(TOO_MUCH_WALKED) };
        self.found.truncate(before);
        Ok(page(at, self.found))
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
        if entry.has_ended(view.gone_by()) || !of_type(entry) {
            continue;
        }
        match walk.wants(entry.key()) {
            Some(true) => walk.find(entry.key()),
            Some(false) => {}
            None => return walk.give_up(),
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
        match walk.wants(name) {
            Some(true) => {
                walk.find(name);
                walk.find(value);
            }
            Some(false) => {}
            None => return walk.give_up(),
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
        match walk.wants(&member) {
            Some(true) => walk.find(&member),
            Some(false) => {}
            None => return walk.give_up(),
        }
    }
    walk.end(0)
}

pub(super) fn keys(view: &View<'_>, call: &Call) -> Answer {
    let pattern = pattern(&call.args[0]);
    let mut gathering = Gathering::new(view);
    let mut found = Vec::new();
    for entry in view.keyspace.databases.get(&call.database).into_iter().flat_map(Database::iter) {
        view.walk(LOOK)?;
        let fits = pattern.as_ref().map_or(Some(true), |pattern| view.fits_pattern(pattern, entry.key()));
        if fits.ok_or(TOO_MUCH_WALKED)? && !entry.has_ended(view.gone_by()) {
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
    let Some(database) = view.keyspace.databases.get(&call.database) else { return Ok(count(0)) };
    let mut live = database.live();
    for has_ended in database.ending_until(view.gone_by()) {
        view.walk(LOOK)?;
        live -= usize::from(has_ended);
    }
    Ok(count(live))
}
