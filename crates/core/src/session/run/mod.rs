//! What each command does to the keyspace.
//!
//! Two tables, because a read sees the keyspace and a write changes it; which of them a command is in says its
//! [`super::Class`]. A command that fails changes nothing: arguments are checked before anything is done, in Redis' own
//! order, because that order decides which error a client sees.

mod hashes;
mod inspect;
mod keys;
mod scan;
mod scripting;
mod sets;
mod strings;

use std::cell::Cell;

use bytes::Bytes;

use keys::{Base, Unit};

use super::{
    Call, Pattern, Reply,
    database::Entry,
    keyspace::Keyspace,
    number,
    spec::Op,
    work::{LOOK, TOO_MUCH_WALKED},
};

/// The keyspace as a read sees it.
pub(super) struct View<'k> {
    pub(super) keyspace: &'k Keyspace,
    /// What time it is: keys whose lives are over by it are absent, and the others' are told by it.
    pub(super) now: u64,
    /// Whether keys that are over by then, though not by log time yet, are absent instead of due.
    pub(super) stale: bool,
    /// Something else each time.
    pub(super) turn: u64,
    /// How many bytes the answer may have.
    pub(super) room: u64,
    /// What is left to be looked at of what was not named.
    pub(super) work: &'k Cell<u64>,
    /// Whether a key was met that is over at `now`, but not by log time yet.
    pub(super) due: &'k Cell<bool>,
}

impl View<'_> {
    fn get(&self, call: &Call, key: &[u8]) -> Option<&Entry> {
        let entry = self.keyspace.get(call.database, key)?;
        if entry.has_ended(self.now) {
            if self.stale {
                return None;
            }
            self.due.set(true);
        }
        Some(entry)
    }

    /// By when a key's life must be over for the key to be left out of what names no key.
    fn gone_by(&self) -> u64 {
        if self.stale { self.now } else { self.keyspace.now }
    }

    /// Counts work.
    ///
    /// # Errors
    /// The answer, if there was less left.
    fn walk(&self, units: u64) -> Result<(), Reply> {
        if self.tire(units) { Err(TOO_MUCH_WALKED) } else { Ok(()) }
    }

    /// Counts work; whether there was less left. For whoever can stop anywhere.
    fn tire(&self, units: u64) -> bool {
        let left = self.work.get().checked_sub(units);
        self.work.set(left.unwrap_or(0));
        left.is_none()
    }

    /// Whether a name fits a pattern; `None` if finding out takes more work than there is left.
    fn fits_pattern(&self, pattern: &Pattern, name: &[u8]) -> Option<bool> {
        let mut left = self.work.get();
        let fits = pattern.matches_within(name, &mut left);
        self.work.set(left);
        fits
    }

    /// Refuses an answer that would have more bytes than there is room for. To be asked where a small request can have
    /// a large one.
    fn fits(&self, bytes: u64) -> Result<(), Reply> {
        if bytes > self.room { Err(TOO_LARGE) } else { Ok(()) }
    }

    /// Copies a value, of which there may be room for one and not for another.
    fn copy(&self, value: &[u8]) -> Result<Bytes, Reply> {
        self.fits(value.len() as u64)?;
        self.walk(value.len() as u64 / COPIED)?;
        Ok(Bytes::copy_from_slice(value))
    }
}

/// Bytes that are copied in a unit of work.
const COPIED: u64 = 16;

/// Puts an answer together and stops where it becomes too large.
struct Gathering<'v> {
    view: &'v View<'v>,
    bytes: u64,
}

impl<'v> Gathering<'v> {
    fn new(view: &'v View<'_>) -> Self {
        Self { view, bytes: 0 }
    }

    /// A part of the answer.
    fn take(&mut self, part: &[u8]) -> Result<Reply, Reply> {
        let part = Reply::copy(part);
        self.bytes += part.bytes();
        self.view.fits(self.bytes)?;
        self.view.walk(LOOK + part.bytes() / COPIED)?;
        Ok(part)
    }

    /// All parts.
    fn all<'p>(mut self, parts: impl Iterator<Item = &'p [u8]>) -> Result<Vec<Reply>, Reply> {
        parts.map(|part| self.take(part)).collect()
    }

    /// All pairs of parts.
    fn pairs<'p>(mut self, pairs: impl Iterator<Item = (&'p [u8], &'p [u8])>) -> Result<Vec<(Reply, Reply)>, Reply> {
        pairs.map(|(name, value)| Ok((self.take(name)?, self.take(value)?))).collect()
    }
}

/// Takes a key away as `DEL` does; whether it was there.
pub(super) fn delete(keyspace: &mut Keyspace, database: u16, key: &[u8]) -> bool {
    keys::remove(keyspace, database, key)
}

/// An answer, or the error that is the answer.
type Answer = Result<Reply, Reply>;

/// Answers a command that changes nothing.
pub(super) fn read(view: &View<'_>, call: &Call) -> Reply {
    if view.room == 0 {
        return TOO_LARGE;
    }
    let answer = match call.spec().op {
        Op::Get => strings::get(view, call),
        Op::Mget => strings::mget(view, call),
        Op::Strlen => strings::strlen(view, call),
        Op::Getrange | Op::Substr => strings::getrange(view, call),
        Op::Exists => Ok(keys::exists(view, call)),
        Op::Ttl => Ok(keys::ttl(view, call, Unit::Seconds)),
        Op::Pttl => Ok(keys::ttl(view, call, Unit::Millis)),
        Op::Expiretime => Ok(keys::expiretime(view, call, Unit::Seconds)),
        Op::Pexpiretime => Ok(keys::expiretime(view, call, Unit::Millis)),
        Op::Type => Ok(keys::type_of(view, call)),
        Op::Scan => scan::scan(view, call),
        Op::Keys => scan::keys(view, call),
        Op::Randomkey => scan::randomkey(view, call),
        Op::Dbsize => scan::dbsize(view, call),
        Op::Hget => hashes::hget(view, call),
        Op::Hmget => hashes::hmget(view, call),
        Op::Hlen => hashes::hlen(view, call),
        Op::Hstrlen => hashes::hstrlen(view, call),
        Op::Hexists => hashes::hexists(view, call),
        Op::Hkeys => hashes::hkeys(view, call),
        Op::Hvals => hashes::hvals(view, call),
        Op::Hgetall => hashes::hgetall(view, call),
        Op::Hrandfield => hashes::hrandfield(view, call),
        Op::Hscan => scan::hscan(view, call),
        Op::Smembers => sets::smembers(view, call),
        Op::Sismember => sets::sismember(view, call),
        Op::Smismember => sets::smismember(view, call),
        Op::Scard => sets::scard(view, call),
        Op::Sscan => scan::sscan(view, call),
        Op::ObjectHelp => Ok(inspect::help(inspect::OBJECT_HELP)),
        Op::ObjectEncoding => Ok(inspect::encoding(view, call)),
        Op::ObjectIdletime => inspect::idletime(view, call),
        Op::ObjectFreq => inspect::freq(view, call),
        Op::ObjectRefcount => Ok(inspect::refcount(view, call)),
        Op::MemoryHelp => Ok(inspect::help(inspect::MEMORY_HELP)),
        Op::MemoryUsage => inspect::memory_usage(view, call),
        Op::Eval | Op::Evalsha => scripting::unknown(call),
        Op::ScriptExists => Ok(scripting::exists(call)),
        Op::ScriptLoad => scripting::load(call),
        Op::ScriptFlush => scripting::flush(call),
        Op::ScriptHelp => Ok(inspect::help(inspect::SCRIPT_HELP)),
        Op::None
        | Op::Set
        | Op::Setex
        | Op::Psetex
        | Op::Setnx
        | Op::Getset
        | Op::Getdel
        | Op::Getex
        | Op::Mset
        | Op::Msetnx
        | Op::Append
        | Op::Incr
        | Op::Incrby
        | Op::Decr
        | Op::Decrby
        | Op::Incrbyfloat
        | Op::Setrange
        | Op::Del
        | Op::Unlink
        | Op::Expire
        | Op::Pexpire
        | Op::Expireat
        | Op::Pexpireat
        | Op::Persist
        | Op::Rename
        | Op::Renamenx
        | Op::Touch
        | Op::Flushdb
        | Op::Flushall
        | Op::Copy
        | Op::Hset
        | Op::Hsetnx
        | Op::Hmset
        | Op::Hdel
        | Op::Hincrby
        | Op::Hincrbyfloat
        | Op::Sadd
        | Op::Srem
        | Op::Publish => unreachable!("the class of {} is not that of a read", call.spec().name),
    };
    answer.unwrap_or_else(|error| error)
}

/// Carries out a command that may change something.
pub(super) fn write(keyspace: &mut Keyspace, call: &Call) -> Reply {
    let answer = match call.spec().op {
        Op::Set => strings::set(keyspace, call),
        Op::Setex => strings::setex(keyspace, call, Unit::Seconds),
        Op::Psetex => strings::setex(keyspace, call, Unit::Millis),
        Op::Setnx => strings::setnx(keyspace, call),
        Op::Getset => strings::getset(keyspace, call),
        Op::Getdel => strings::getdel(keyspace, call),
        Op::Getex => strings::getex(keyspace, call),
        Op::Mset => strings::mset(keyspace, call, false),
        Op::Msetnx => strings::mset(keyspace, call, true),
        Op::Append => strings::append(keyspace, call),
        Op::Incr => strings::add(keyspace, call, 1),
        Op::Decr => strings::add(keyspace, call, -1),
        Op::Incrby => strings::incrby(keyspace, call),
        Op::Decrby => strings::decrby(keyspace, call),
        Op::Incrbyfloat => strings::incrbyfloat(keyspace, call),
        Op::Setrange => strings::setrange(keyspace, call),
        Op::Del | Op::Unlink => Ok(keys::del(keyspace, call)),
        Op::Expire => keys::expire(keyspace, call, Unit::Seconds, Base::Now),
        Op::Pexpire => keys::expire(keyspace, call, Unit::Millis, Base::Now),
        Op::Expireat => keys::expire(keyspace, call, Unit::Seconds, Base::Epoch),
        Op::Pexpireat => keys::expire(keyspace, call, Unit::Millis, Base::Epoch),
        Op::Persist => Ok(keys::persist(keyspace, call)),
        Op::Rename => keys::rename(keyspace, call, false),
        Op::Renamenx => keys::rename(keyspace, call, true),
        Op::Touch => Ok(keys::touch(keyspace, call)),
        Op::Flushdb => keys::flush(keyspace, call, false),
        Op::Flushall => keys::flush(keyspace, call, true),
        Op::Copy => keys::copy(keyspace, call),
        Op::Hset => hashes::hset(keyspace, call).map(count),
        Op::Hmset => hashes::hset(keyspace, call).map(|_| Reply::OK),
        Op::Hsetnx => hashes::hsetnx(keyspace, call),
        Op::Hdel => hashes::hdel(keyspace, call),
        Op::Hincrby => hashes::hincrby(keyspace, call),
        Op::Hincrbyfloat => hashes::hincrbyfloat(keyspace, call),
        Op::Sadd => sets::sadd(keyspace, call),
        Op::Srem => sets::srem(keyspace, call),
        Op::Publish => {
            keyspace.publish(&call.args[0], &call.args[1]);
            // Who hears it is known to each node only of its own subscribers.
            Ok(Reply::Integer(0))
        }
        Op::Eval | Op::Evalsha => scripting::eval(keyspace, call),
        _ => unreachable!("the class of {} is not that of a write", call.spec().name),
    };
    answer.unwrap_or_else(|error| error)
}

const WRONG_TYPE: Reply = Reply::error("WRONGTYPE Operation against a key holding the wrong kind of value");
const SYNTAX: Reply = Reply::error("ERR syntax error");
const NOT_AN_INTEGER: Reply = Reply::error("ERR value is not an integer or out of range");
const TOO_LARGE: Reply = Reply::TOO_LARGE;
const NOT_A_FLOAT: Reply = Reply::error("ERR value is not a valid float");
const NO_SCRIPT: Reply = Reply::error("NOSCRIPT No matching script. Please use EVAL.");

fn integer(text: &[u8]) -> Result<i64, Reply> {
    number::parse(text).ok_or(NOT_AN_INTEGER)
}

fn count(n: usize) -> Reply {
    Reply::Integer(n as i64)
}

fn bulk(value: Option<Bytes>) -> Reply {
    value.map_or(Reply::Null, Reply::Bulk)
}

/// Whether an option is this word, in any case.
fn is(option: &[u8], word: &str) -> bool {
    option.eq_ignore_ascii_case(word.as_bytes())
}
