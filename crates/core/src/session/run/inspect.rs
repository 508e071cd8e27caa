//! `OBJECT` and `MEMORY`: how things are kept.

use super::{Answer, SYNTAX, View, integer, is};
use crate::session::{Call, Reply, database::Entry, number, value::Value};

/// Redis keeps strings up to this beside their header.
const EMBEDDED_MAX: usize = 44;

/// Whole numbers below this are shared in Redis, and have no owner to count.
const SHARED_MAX: i64 = 10_000;

pub(super) fn encoding(view: &View<'_>, call: &Call) -> Reply {
    let Some(entry) = view.get(call, &call.args[1]) else { return Reply::Null };
    let name: &[u8] = match &entry.value {
        Value::Hash(hash) if hash.is_packed() => b"listpack",
        Value::Set(set) if set.is_numbers() => b"intset",
        Value::Hash(_) | Value::Set(_) => b"hashtable",
        text if as_number(text).is_some() => b"int",
        text if text.bytes() <= EMBEDDED_MAX as u64 => b"embstr",
        Value::Small(_) | Value::Large(_) => b"raw",
    };
    Reply::copy(name)
}

fn as_number(value: &Value) -> Option<i64> {
    value.as_text().and_then(number::parse)
}

pub(super) fn refcount(view: &View<'_>, call: &Call) -> Reply {
    let shared = |entry: &Entry| as_number(&entry.value).is_some_and(|n| (0..SHARED_MAX).contains(&n));
    let owners = |entry: &Entry| if shared(entry) { i64::from(i32::MAX) } else { 1 };
    view.get(call, &call.args[1]).map_or(Reply::Null, |entry| Reply::Integer(owners(entry)))
}

pub(super) fn idletime(view: &View<'_>, call: &Call) -> Answer {
    match view.get(call, &call.args[1]) {
        None => Ok(Reply::Null),
        Some(_) => Err(Reply::error("ERR idle time is not tracked: reads leave no trace here")),
    }
}

pub(super) fn freq(view: &View<'_>, call: &Call) -> Answer {
    match view.get(call, &call.args[1]) {
        None => Ok(Reply::Null),
        Some(_) => Err(Reply::error(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
    }
}

pub(super) fn memory_usage(view: &View<'_>, call: &Call) -> Answer {
    for pair in call.args[2..].chunks(2) {
        match pair {
            [option, samples] if is(option, "samples") => {
                if integer(samples)? < 0 {
                    return Err(SYNTAX);
                }
            }
            _ => return Err(SYNTAX),
        }
    }
    Ok(view.get(call, &call.args[1]).map_or(Reply::Null, |entry| Reply::Integer(entry.bytes() as i64)))
}

/// What the subcommands of a container are.
pub(super) fn help(lines: &[&'static str]) -> Reply {
    Reply::Array(lines.iter().copied().map(Reply::Simple).collect())
}

pub(super) const OBJECT_HELP: &[&str] = &[
    "OBJECT <subcommand> <key>. Subcommands are:",
    "ENCODING: the name by which Redis calls how such a value is kept.",
    "FREQ: refused, it is not tracked.",
    "IDLETIME: refused, it is not tracked.",
    "REFCOUNT: owners of the value.",
    "HELP: this.",
];

pub(super) const MEMORY_HELP: &[&str] = &[
    "MEMORY <subcommand>. Subcommands are:",
    "USAGE <key> [SAMPLES <count>]: bytes that the key is counted as against memory_max.",
    "HELP: this.",
];

pub(super) const SCRIPT_HELP: &[&str] = &[
    "SCRIPT <subcommand>. Subcommands are:",
    "LOAD <script>: the hash of one of the few scripts that are known.",
    "EXISTS <sha1> [<sha1> ...]: which of them are known.",
    "FLUSH [ASYNC|SYNC]: nothing, they stay known.",
    "HELP: this.",
];
