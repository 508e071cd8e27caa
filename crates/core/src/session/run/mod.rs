//! What each command does to the keyspace.
//!
//! Two tables, because a read sees the keyspace and a write changes it; which of them a command is in says its
//! [`super::Class`]. A command that fails changes nothing: arguments are checked before anything is done, in Redis' own
//! order, because that order decides which error a client sees.

mod keys;
mod strings;

use bytes::Bytes;

use super::{Call, Reply, database::Entry, keyspace::Keyspace, number, spec::Op};

/// The keyspace as a read sees it.
pub(super) struct View<'k> {
    pub(super) keyspace: &'k Keyspace,
    /// What time it is, for telling how long keys still live.
    pub(super) now: u64,
    /// Something else each time.
    pub(super) turn: u64,
}

impl View<'_> {
    fn get(&self, call: &Call, key: &[u8]) -> Option<&Entry> {
        self.keyspace.get(call.database, key)
    }
}

/// An answer, or the error that is the answer.
type Answer = Result<Reply, Reply>;

/// Answers a command that changes nothing.
pub(super) fn read(view: &View<'_>, call: &Call) -> Reply {
    let answer = match call.spec().op {
        Op::Get => strings::get(view, call),
        Op::Ttl => Ok(keys::ttl(view, call, keys::Unit::Seconds)),
        Op::Pttl => Ok(keys::ttl(view, call, keys::Unit::Millis)),
        Op::Eval | Op::Evalsha => Err(NO_SCRIPT),
        _ => Err(Reply::error("ERR not a read")),
    };
    answer.unwrap_or_else(|error| error)
}

/// Carries out a command that may change something.
pub(super) fn write(keyspace: &mut Keyspace, call: &Call) -> Reply {
    let answer = match call.spec().op {
        Op::Set => strings::set(keyspace, call),
        Op::Del | Op::Unlink => Ok(keys::del(keyspace, call)),
        Op::Expire => keys::expire(keyspace, call, keys::Unit::Seconds, keys::Base::Now),
        Op::Pexpire => keys::expire(keyspace, call, keys::Unit::Millis, keys::Base::Now),
        Op::Expireat => keys::expire(keyspace, call, keys::Unit::Seconds, keys::Base::Epoch),
        Op::Pexpireat => keys::expire(keyspace, call, keys::Unit::Millis, keys::Base::Epoch),
        _ => Err(Reply::error("ERR not a write")),
    };
    answer.unwrap_or_else(|error| error)
}

const WRONG_TYPE: Reply = Reply::error("WRONGTYPE Operation against a key holding the wrong kind of value");
const SYNTAX: Reply = Reply::error("ERR syntax error");
const NOT_AN_INTEGER: Reply = Reply::error("ERR value is not an integer or out of range");
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
