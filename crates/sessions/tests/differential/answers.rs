//! Answers, and what of them has to be the same.

use std::fmt;

/// What may differ, and why. Everything else is compared byte for byte.
pub const ALLOWED: &[(&[&str], Rule, &str)] = &[
    (
        &["keys", "smembers", "hkeys", "hvals"],
        Rule::AnyOrder,
        "Redis' order is that of its hash table under a seed of the process; ours is that of a hash under the cluster's secret",
    ),
    (&["hgetall"], Rule::PairsInAnyOrder, "the same"),
    (
        &["scan", "sscan", "hscan"],
        Rule::Walk,
        "cursors are places in that order, so pages differ; walks as a whole are compared by `walk`",
    ),
    (&["randomkey", "hrandfield"], Rule::Chance, "which one is chance"),
    (&["memory usage"], Rule::Memory, "the same, and Redis does not look whether the key is over"),
    (
        &["object encoding", "object refcount"],
        Rule::Kind,
        "tells how Redis keeps things in memory; Ballast keeps them otherwise",
    ),
    (
        &["eval", "evalsha"],
        Rule::Script,
        "there is no Lua: Redis' errors name the place in the script's text, and a script that is not known is not run",
    ),
    (&["dbsize"], Rule::NoMore, "Redis counts keys that are over until it comes across them"),
    (&["object help", "memory help", "script help"], Rule::Untold, "tells what Ballast has"),
    (&["object idletime"], Rule::Untold, "Ballast does not note reads, and says so where Redis tells a time"),
];

// Commands without a key (`SCAN`, `KEYS`, `RANDOMKEY`, `DBSIZE`) see keys until log time has passed their end, not this node's
// guess of it: the clock of the log is moved before them.
//
// `EXEC` is refused by Redis and carried out by Ballast if a key was absent at `WATCH`, came, and is gone again: it is as it was.
// The states part with that, so a program ends there; it is counted and must stay rare.
//
// Never drawn, and different: a key is over for Redis one millisecond after its time, for us at its time (lifetimes are multiples
// of half a second and the clock never is one later); numbers in hexadecimal, which C's `strtold` reads in `INCRBYFLOAT`; values
// beyond `sessions.limits.value_max`; a NUL in a number, which ends it for C; `EVALSHA` of a script that only Ballast knows, because
// nobody loaded it into Redis or `SCRIPT FLUSH` forgot it.

/// How answers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The same items.
    AnyOrder,
    /// The same pairs.
    PairsInAnyOrder,
    /// The same items if both sides answered all in one page, else only the shape.
    Walk,
    /// Null or not, and as many.
    Chance,
    /// The same kind of answer.
    Kind,
    /// The same, or nothing where Redis has a number.
    Memory,
    /// If Redis answers without an error, anything will do.
    Untold,
    /// Redis' errors may go on, and ours may be that the script is not known.
    Script,
    /// At most what Redis says.
    NoMore,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null(String),
    /// Array, set, map or push, by its mark.
    Many(char, Vec<Value>),
    /// Not compared.
    Whatever,
}

impl Value {
    pub fn parse(bytes: &[u8]) -> Self {
        let (value, length) = parse(bytes);
        assert_eq!(length, bytes.len(), "one answer");
        value
    }

    fn items(self) -> Option<(char, Vec<Value>)> {
        match self {
            Self::Many(mark, items) => Some((mark, items)),
            _ => None,
        }
    }
}

fn parse(bytes: &[u8]) -> (Value, usize) {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line");
    let text = String::from_utf8_lossy(&bytes[1..line]).into_owned();
    let (mark, mut at) = (bytes[0] as char, line + 2);
    let number = || text.parse::<i64>().expect("a number");
    let items = match mark {
        '+' => return (Value::Simple(text), at),
        '-' => return (Value::Error(text), at),
        ':' => return (Value::Integer(number()), at),
        '_' => return (Value::Null("_".into()), at),
        '$' | '=' if number() >= 0 => {
            let length = number() as usize;
            return (Value::Bulk(bytes[at..at + length].to_vec()), at + length + 2);
        }
        '*' | '~' | '>' if number() >= 0 => number(),
        '%' => number() * 2,
        '$' | '*' => return (Value::Null(mark.into()), at),
        _ => panic!("what is {mark}?"),
    };
    let mut values = Vec::new();
    for _ in 0..items {
        let (value, length) = parse(&bytes[at..]);
        values.push(value);
        at += length;
    }
    (Value::Many(mark, values), at)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Integer(value) => write!(f, ":{value}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Null(mark) => write!(f, "{mark}null"),
            Self::Many(mark, items) => {
                write!(f, "{mark}[")?;
                for item in items {
                    write!(f, "{item}, ")?;
                }
                write!(f, "]")
            }
            Self::Whatever => write!(f, "?"),
        }
    }
}

/// Both answers to a command, with what may differ taken out.
pub fn comparable(words: &[Vec<u8>], ours: Value, theirs: Value) -> (Value, Value) {
    let name = |count: usize| {
        let words: Vec<_> = words.iter().take(count).map(|w| String::from_utf8_lossy(w).to_ascii_lowercase()).collect();
        words.join(" ")
    };
    let (one, two) = (name(1), name(2));
    let rule = ALLOWED.iter().find(|(names, _, _)| names.contains(&one.as_str()) || names.contains(&two.as_str()));
    let Some((_, rule, _)) = rule else { return (ours, theirs) };
    match (rule, &ours, &theirs) {
        (Rule::Untold, _, Value::Integer(_) | Value::Many(..)) => return (Value::Whatever, Value::Whatever),
        (Rule::Script, Value::Error(ours), _) if ours.starts_with("NOSCRIPT This") => {
            return (Value::Whatever, Value::Whatever);
        }
        (Rule::Script, Value::Error(ours), Value::Error(theirs)) if theirs.starts_with(ours) => {
            return (Value::Whatever, Value::Whatever);
        }
        (Rule::Memory, Value::Null(_) | Value::Integer(_), Value::Integer(_)) => {
            return (Value::Whatever, Value::Whatever);
        }
        (Rule::NoMore, Value::Integer(ours), Value::Integer(theirs)) if ours <= theirs => {
            return (Value::Whatever, Value::Whatever);
        }
        _ => {}
    }
    if matches!(ours, Value::Error(_) | Value::Null(_)) || matches!(theirs, Value::Error(_) | Value::Null(_)) {
        return (ours, theirs);
    }
    match rule {
        Rule::AnyOrder => (sorted(ours, 1), sorted(theirs, 1)),
        Rule::PairsInAnyOrder => (sorted(ours, 2), sorted(theirs, 2)),
        Rule::Walk => walk(&one, words, ours, theirs),
        Rule::Chance => (chance(ours), chance(theirs)),
        Rule::Kind => (kind(ours), kind(theirs)),
        Rule::Untold | Rule::Script | Rule::NoMore | Rule::Memory => (ours, theirs),
    }
}

/// Both answers to an `EXEC` of these commands.
pub fn comparable_exec(queued: &[Vec<Vec<u8>>], ours: Value, theirs: Value) -> (Value, Value) {
    match (ours, theirs) {
        (Value::Many(a, ours), Value::Many(b, theirs)) if ours.len() == theirs.len() && ours.len() == queued.len() => {
            let pairs = queued.iter().zip(ours.into_iter().zip(theirs));
            let (ours, theirs) = pairs.map(|(words, (ours, theirs))| comparable(words, ours, theirs)).unzip();
            (Value::Many(a, ours), Value::Many(b, theirs))
        }
        others => others,
    }
}

fn sorted(value: Value, group: usize) -> Value {
    let Some((mark, items)) = value.items() else { return Value::Whatever };
    let mut groups: Vec<Vec<Value>> = items.chunks(group).map(<[Value]>::to_vec).collect();
    groups.sort();
    Value::Many(mark, groups.concat())
}

fn walk(name: &str, words: &[Vec<u8>], ours: Value, theirs: Value) -> (Value, Value) {
    let begins = words.get(if name == "scan" { 1 } else { 2 }).is_some_and(|cursor| cursor == b"0");
    let group = if name == "hscan" { 2 } else { 1 };
    let page = |value: Value| match value.items() {
        Some((_, parts)) if parts.len() == 2 => {
            let whole = parts[0] == Value::Bulk(b"0".to_vec());
            Some((whole, sorted(parts[1].clone(), group)))
        }
        _ => None,
    };
    match (page(ours), page(theirs)) {
        (Some((true, ours)), Some((true, theirs))) if begins => (ours, theirs),
        (Some(_), Some(_)) => (Value::Whatever, Value::Whatever),
        (ours, theirs) => (kind_of(ours.is_some()), kind_of(theirs.is_some())),
    }
}

fn kind_of(known: bool) -> Value {
    Value::Simple(known.to_string())
}

fn chance(value: Value) -> Value {
    match value {
        Value::Many(mark, items) => Value::Many(mark, items.into_iter().map(chance).collect()),
        Value::Null(mark) => Value::Null(mark),
        _ => Value::Whatever,
    }
}

fn kind(value: Value) -> Value {
    match value {
        Value::Integer(_) => Value::Integer(0),
        Value::Bulk(_) => Value::Bulk(Vec::new()),
        other => other,
    }
}
