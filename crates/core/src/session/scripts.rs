//! The few scripts that clients of session stores send, by the SHA-1 of their text.
//!
//! There is no Lua here. The scripts below are fixed parts of their libraries' interfaces: lock releases and the like,
//! which compare a value and act on it in one step. Each is known by its hash and done natively; any other script is
//! refused as one that Redis does not have in its cache.

use super::{Call, Reply, number, spec::Op};

/// A script that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Deletes `KEYS[1]` if its value is `ARGV[1]`. How many keys were deleted.
    Release,
    /// Adds `ARGV[2]` milliseconds to the life of `KEYS[1]`, or sets its life to so many unless `ARGV[3]` is `0`, if its
    /// value is `ARGV[1]` and its life has an end. 1 if so, otherwise 0.
    Extend,
    /// Sets the life of `KEYS[1]` to `ARGV[2]` milliseconds if its value is `ARGV[1]`. 1 if so, otherwise 0.
    Reacquire,
}

/// `redis.lock.Lock` of redis-py: release, extend, reacquire; the lock of phpredis' session handler: release.
const KNOWN: [(&str, Script); 4] = [
    ("c3f8721cbb97f72bc19e972846bd7aaf91901658", Script::Release),
    ("a4e8783852e6b949f9ef3a97212805108459a890", Script::Extend),
    ("1cac51482acf5858da00f6d685d68f886cd6b6b2", Script::Reacquire),
    ("b70c2384248f88e6b75b9f89241a180f856ad852", Script::Release),
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
        assert_eq!(by_sha(sha1(phpredis.as_bytes()).as_bytes()), Some(Script::Release));
        assert_eq!(by_sha(b"C3F8721CBB97F72BC19E972846BD7AAF91901658"), Some(Script::Release));
        assert_eq!(by_sha(b"c3f8"), None);
        assert_eq!(by_sha(sha1(b"return 1").as_bytes()), None);
    }
}
