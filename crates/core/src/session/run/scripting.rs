//! `EVAL` of the scripts that are known, and `SCRIPT`.

use super::{Answer, NO_SCRIPT, NOT_AN_INTEGER, integer, is, keys, strings};
use crate::session::{
    Call, Reply,
    keyspace::Keyspace,
    scripts::{self, Script},
    spec::Op,
};

pub(super) fn eval(keyspace: &mut Keyspace, call: &Call) -> Answer {
    let script = scripts::find(call).ok_or(NO_SCRIPT)?;
    let keys = scripts::key_count(call)? as usize;
    let args = &call.args[2 + keys..];
    let none = || Reply::error("ERR Lua redis lib command arguments must be strings or integers");
    let key = call.args[2..2 + keys].first().ok_or_else(none)?;
    let held = strings::text(keyspace.look(call.database, key))?;
    let (Some(held), Some(token)) = (held, args.first()) else { return Ok(Reply::Integer(0)) };
    if held != token {
        return Ok(Reply::Integer(0));
    }
    let end = keyspace.look(call.database, key).map_or(0, |entry| entry.expires);
    let life = || integer(args.get(1).ok_or_else(none)?);
    let left = end.saturating_sub(keyspace.now) as i64;
    let life = match script {
        Script::Release => {
            keys::remove(keyspace, call.database, key);
            return Ok(Reply::Integer(1));
        }
        Script::Extend if end == 0 => return Ok(Reply::Integer(0)),
        Script::Extend if args.get(2).is_some_and(|add| **add == *b"0") => {
            life()?.checked_add(left).ok_or(NOT_AN_INTEGER)?
        }
        Script::Extend | Script::Reacquire => life()?,
    };
    keys::set_life(keyspace, call.database, key, life)?;
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
