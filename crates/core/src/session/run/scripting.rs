//! `EVAL` of the scripts that are known, and `SCRIPT`.

use bytes::Bytes;

use super::{Answer, NO_SCRIPT, NOT_AN_INTEGER, hashes, integer, is, keys, strings};
use crate::session::{
    Call, Reply,
    keyspace::Keyspace,
    scripts::{self, Lock, Script},
    spec::Op,
};

pub(super) fn eval(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let script = scripts::find(call).ok_or(NO_SCRIPT)?;
    let keys = scripts::key_count(call)? as usize;
    let args = Args(&call.args[2 + keys..]);
    let key = call.args[2..2 + keys].first().ok_or(NO_ARGUMENT)?;
    match script {
        Script::Lock(act) => lock(keyspace, call.database, key, act, args),
        Script::Cache => cache(keyspace, call.database, key, args),
    }
}

/// What a script calls `ARGV`.
#[derive(Clone, Copy)]
struct Args<'a>(&'a [Bytes]);

impl<'a> Args<'a> {
    /// Counted from one, as Lua does.
    fn get(self, n: usize) -> Result<&'a Bytes, Reply> {
        self.0.get(n - 1).ok_or(NO_ARGUMENT)
    }
}

const NO_ARGUMENT: Reply = Reply::error("ERR Lua redis lib command arguments must be strings or integers");

fn lock(keyspace: &mut Keyspace, database: u16, key: &[u8], act: Lock, args: Args<'_>) -> Answer {
    let Some(entry) = keyspace.look(database, key) else { return Ok(Reply::Integer(0)) };
    let (held, end) = (strings::text(Some(entry))?, entry.expires);
    if held.zip(args.get(1).ok()).is_none_or(|(held, token)| held != token) {
        return Ok(Reply::Integer(0));
    }
    let left = end.saturating_sub(keyspace.now) as i64;
    let life = match act {
        Lock::Extend if end == 0 => return Ok(Reply::Integer(0)),
        Lock::Extend if args.get(3).is_ok_and(|add| **add == *b"0") => {
            integer(args.get(2)?)?.checked_add(left).ok_or(NOT_AN_INTEGER)?
        }
        Lock::Extend | Lock::Reacquire => integer(args.get(2)?)?,
        Lock::Release => {
            keys::remove(keyspace, database, key);
            return Ok(Reply::Integer(1));
        }
    };
    keys::set_life(keyspace, database, key, life, keys::Unit::Millis)?;
    Ok(Reply::Integer(1))
}

fn cache(keyspace: &mut Keyspace, database: u16, key: &[u8], args: Args<'_>) -> Answer {
    let fields: [(&[u8], &[u8]); 3] = [(b"absexp", args.get(1)?), (b"sldexp", args.get(2)?), (b"data", args.get(4)?)];
    hashes::set_fields(keyspace, database, key, &fields)?;
    let life = args.get(3)?;
    if **life != *b"-1" {
        // As with Lua, what is done stays done if this fails.
        keys::set_life(keyspace, database, key, integer(life)?, keys::Unit::Seconds)?;
    }
    Ok(Reply::Integer(1))
}

/// An `EVAL` or `EVALSHA` of a script that is not known.
pub(super) fn unknown(call: &Call) -> Answer {
    if call.spec().op == Op::Evalsha && call.args[0].len() != SHA_BYTES {
        return Err(NO_SCRIPT);
    }
    scripts::key_count(call)?;
    Err(if call.spec().op == Op::Evalsha { NO_SCRIPT } else { NO_LUA })
}

const SHA_BYTES: usize = 40;

const NO_LUA: Reply = Reply::error(
    "NOSCRIPT This script is none of the few that are known here: Ballast runs no Lua. Use MULTI and WATCH.",
);

pub(super) fn load(call: &Call) -> Answer {
    let sha = scripts::sha1(&call.args[1]);
    if scripts::by_sha(sha.as_bytes()).is_none() {
        return Err(NO_LUA);
    }
    Ok(Reply::Bulk(sha.into()))
}

pub(super) fn exists(call: &Call) -> Reply {
    let known = |sha: &[u8]| Reply::Integer(scripts::by_sha(sha).is_some().into());
    Reply::Array(call.args[1..].iter().map(|sha| known(sha)).collect())
}

pub(super) fn flush(call: &Call) -> Answer {
    match &call.args[1..] {
        [] => Ok(Reply::OK),
        [option] if is(option, "sync") || is(option, "async") => Ok(Reply::OK),
        _ => Err(Reply::error("ERR SCRIPT FLUSH only support SYNC|ASYNC option")),
    }
}
