//! The few scripts that clients of session stores send, by the SHA-1 of their text.
//!
//! There is no Lua here. The scripts below are fixed parts of their libraries' interfaces: lock releases and the like,
//! which do in one step what takes two commands. Each is known by its hash and done natively; any other script is
//! refused as one that Redis does not have in its cache.

use super::{Call, Reply, number, spec::Op};

/// A script that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Something that whoever holds a lock does to it: nothing is done and the answer is 0 unless the value of `KEYS[1]`
    /// is `ARGV[1]`, otherwise it is 1.
    Lock(Lock),
    /// Sets the fields `absexp`, `sldexp` and `data` of `KEYS[1]` to `ARGV[1]`, `ARGV[2]` and `ARGV[4]`, and its life to
    /// `ARGV[3]` seconds unless that is -1.
    Cache,
}

/// What is done to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// It is deleted.
    Release,
    /// `ARGV[2]` milliseconds are added to its life, or are its life from now on unless `ARGV[3]` is `0`. Nothing, if its
    /// life has no end.
    Extend,
    /// `ARGV[2]` milliseconds are its life from now on.
    Reacquire,
}

/// `redis.lock.Lock` of redis-py: release, extend, reacquire; the lock of phpredis' session handler: release; the
/// distributed cache of ASP.NET, where its sessions lie: with `HSET` and with `HMSET`, and with either kind of line
/// ends, since the text is as its source was when it was built.
const KNOWN: [(&str, Script); 8] = [
    ("c3f8721cbb97f72bc19e972846bd7aaf91901658", Script::Lock(Lock::Release)),
    ("a4e8783852e6b949f9ef3a97212805108459a890", Script::Lock(Lock::Extend)),
    ("1cac51482acf5858da00f6d685d68f886cd6b6b2", Script::Lock(Lock::Reacquire)),
    ("b70c2384248f88e6b75b9f89241a180f856ad852", Script::Lock(Lock::Release)),
    ("241ff9be272d2cc7ea3ff7a9c556b75e143d4c26", Script::Cache),
    ("19d6145c6bb04ad20392ffe92c1a0d333ed7564e", Script::Cache),
    ("3915ee22fda531a1d5661f2523d0443fd35ff0a4", Script::Cache),
    ("2cf3a5ca51adf9b3b3500002e73e176dc3c54e26", Script::Cache),
];

/// No script that is known is longer, so longer ones need no hashing.
const TEXT_BYTES_MAX: usize = 1024;

/// The script of this hash, in any case.
pub(super) fn by_sha(sha: &[u8]) -> Option<Script> {
    KNOWN.iter().find(|(known, _)| sha.eq_ignore_ascii_case(known.as_bytes())).map(|(_, script)| *script)
}

/// The script that an `EVAL` or `EVALSHA` names.
pub(super) fn find(call: &Call) -> Option<Script> {
    let named = call.args.first()?;
    match call.spec().op {
        Op::Evalsha => by_sha(named),
        _ if named.len() > TEXT_BYTES_MAX => None,
        _ => by_sha(sha1(named).as_bytes()),
    }
}

/// Whether a call is of a script that may need memory.
pub(super) fn needs_memory(call: &Call) -> bool {
    matches!(call.spec().op, Op::Eval | Op::Evalsha) && find(call) == Some(Script::Cache)
}

/// The hash of a script's text, in lower case.
pub(super) fn sha1(text: &[u8]) -> String {
    sha1_smol::Sha1::from(text).digest().to_string()
}

/// How many keys an `EVAL` or `EVALSHA` announces.
///
/// # Errors
/// Redis' answer to a number that cannot be one.
pub(super) fn key_count(call: &Call) -> Result<i64, Reply> {
    let count = call.args.get(1).and_then(|count| number::parse(count));
    let count = count.ok_or(Reply::error("ERR value is not an integer or out of range"))?;
    if count > call.args.len() as i64 - 2 {
        return Err(Reply::error("ERR Number of keys can't be greater than number of args"));
    }
    if count < 0 {
        return Err(Reply::error("ERR Number of keys can't be negative"));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_texts_that_libraries_send() {
        // phpredis, library.c's interface to the server; the texts of redis-py are checked with the real client.
        let phpredis =
            r#"if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end"#;
        assert_eq!(by_sha(sha1(phpredis.as_bytes()).as_bytes()), Some(Script::Lock(Lock::Release)));
        assert_eq!(by_sha(b"C3F8721CBB97F72BC19E972846BD7AAF91901658"), Some(Script::Lock(Lock::Release)));
        assert_eq!(by_sha(b"c3f8"), None);
        assert_eq!(by_sha(sha1(b"return 1").as_bytes()), None);
    }
}
