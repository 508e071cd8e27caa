//! The commands there are: what `COMMAND` tells of them, and their numbers in the log.

use std::sync::LazyLock;

/// Who carries a command out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The keyspace, without changing it.
    Read,
    /// The keyspace, through the log.
    Write,
    /// The connection: `AUTH`, `MULTI`, `SUBSCRIBE`, `INFO` ... The keyspace knows nothing of it.
    Connection,
}

/// What is known of a command besides what it does.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// In lower case; a subcommand is written `object|encoding`.
    pub name: &'static str,
    /// Number of words with the name; at least so many if negative. As `COMMAND` shows it.
    pub arity: i32,
    /// Who carries it out.
    pub class: Class,
    /// As `COMMAND` shows them: `write`, `denyoom`, `fast` ...
    pub flags: &'static [&'static str],
    /// Position of the first and last key and the step between keys, as `COMMAND` shows them; zeros if there are none.
    pub keys: (i32, i32, i32),
    /// What family of commands it belongs to, as `COMMAND DOCS` says it: `string`, `generic` ...
    pub group: &'static str,
    /// The version of Redis that had it first.
    pub since: &'static str,
    /// What the keyspace does for it; [`Op::None`] if nothing.
    pub(super) op: Op,
}

impl Spec {
    /// Whether it carries this flag.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// Whether its first argument is the name of a subcommand, as that of `OBJECT` is.
    pub fn has_subcommands(&self) -> bool {
        self.flags.is_empty() || self.name == "command"
    }

    /// Whether a call of so many words, the name included, is well formed.
    pub fn takes(&self, words: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { words >= least } else { words == least }
    }
}

/// The command of this name, in any case: `get`, or `object|encoding` for a subcommand.
pub fn spec(name: &[u8]) -> Option<&'static Spec> {
    let mut buffer = [0; NAME_MAX];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    SPECS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok().map(|at| &SPECS[at])
}

/// The subcommand of a container, in any case.
pub(super) fn subcommand(container: &Spec, name: &[u8]) -> Option<&'static Spec> {
    let mut buffer = [0; NAME_MAX];
    let len = container.name.len() + 1 + name.len();
    let full = buffer.get_mut(..len)?;
    full[..container.name.len()].copy_from_slice(container.name.as_bytes());
    full[container.name.len()] = b'|';
    full[container.name.len() + 1..].copy_from_slice(name);
    spec(full)
}

/// Longest name of a command that is looked for; the longest there is has 16 bytes.
const NAME_MAX: usize = 32;

/// All commands by name, subcommands after their container.
pub fn specs() -> impl Iterator<Item = &'static Spec> {
    SPECS.iter()
}

/// The command that an operation of the log belongs to.
pub(super) fn spec_of(op: u64) -> Option<&'static Spec> {
    BY_OP.get(usize::try_from(op).ok()?).copied().flatten()
}

static BY_OP: LazyLock<Vec<Option<&'static Spec>>> = LazyLock::new(|| {
    let mut list = vec![None; usize::from(Op::NEWEST) + 1];
    for spec in SPECS.iter().filter(|spec| spec.op != Op::None) {
        list[spec.op as usize] = Some(spec);
    }
    list
});

/// What the keyspace can be asked for. The numbers are in the log and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    None = 0,
    Get = 1,
    Set = 2,
    Setex = 3,
    Psetex = 4,
    Setnx = 5,
    Getset = 6,
    Getdel = 7,
    Getex = 8,
    Mget = 9,
    Mset = 10,
    Msetnx = 11,
    Append = 12,
    Strlen = 13,
    Incr = 14,
    Incrby = 15,
    Decr = 16,
    Decrby = 17,
    Incrbyfloat = 18,
    Getrange = 19,
    Substr = 20,
    Setrange = 21,
    Del = 22,
    Unlink = 23,
    Exists = 24,
    Expire = 25,
    Pexpire = 26,
    Expireat = 27,
    Pexpireat = 28,
    Ttl = 29,
    Pttl = 30,
    Expiretime = 31,
    Pexpiretime = 32,
    Persist = 33,
    Type = 34,
    Rename = 35,
    Renamenx = 36,
    Touch = 37,
    Scan = 38,
    Keys = 39,
    Randomkey = 40,
    Dbsize = 41,
    Flushdb = 42,
    Flushall = 43,
    Copy = 44,
    Hset = 45,
    Hsetnx = 46,
    Hget = 47,
    Hmset = 48,
    Hmget = 49,
    Hdel = 50,
    Hlen = 51,
    Hstrlen = 52,
    Hexists = 53,
    Hkeys = 54,
    Hvals = 55,
    Hgetall = 56,
    Hincrby = 57,
    Hincrbyfloat = 58,
    Hrandfield = 59,
    Hscan = 60,
    Sadd = 61,
    Srem = 62,
    Smembers = 63,
    Sismember = 64,
    Smismember = 65,
    Scard = 66,
    Sscan = 67,
    ObjectHelp = 68,
    ObjectEncoding = 69,
    ObjectIdletime = 70,
    ObjectFreq = 71,
    ObjectRefcount = 72,
    MemoryHelp = 73,
    MemoryUsage = 74,
    Publish = 75,
    Eval = 76,
    Evalsha = 77,
    ScriptExists = 78,
    ScriptLoad = 79,
    ScriptFlush = 80,
    ScriptHelp = 81,
}

impl Op {
    /// The greatest number that this release knows.
    pub(super) const NEWEST: u16 = Self::ScriptHelp as u16;
}

use Class::{Connection, Read, Write};

#[expect(clippy::too_many_arguments, reason = "makes one line of the table below")]
const fn spec_line(
    name: &'static str,
    arity: i32,
    class: Class,
    flags: &'static [&'static str],
    keys: (i32, i32, i32),
    group: &'static str,
    since: &'static str,
    op: Op,
) -> Spec {
    Spec { name, arity, class, flags, keys, group, since, op }
}

/// Sorted by name. Arities, flags and keys are those that `COMMAND INFO` of Redis 7.0 tells.
#[rustfmt::skip]
static SPECS: [Spec; 133] = [
    spec_line("append", 3, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "2.0.0", Op::Append),
    spec_line("auth", -2, Connection, &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"], (0, 0, 0), "connection", "1.0.0", Op::None),
    spec_line("client", -2, Connection, &[], (0, 0, 0), "connection", "2.4.0", Op::None),
    spec_line("client|getname", 2, Connection, &["noscript", "loading", "stale"], (0, 0, 0), "connection", "2.6.9", Op::None),
    spec_line("client|help", 2, Connection, &["loading", "stale"], (0, 0, 0), "connection", "5.0.0", Op::None),
    spec_line("client|id", 2, Connection, &["noscript", "loading", "stale"], (0, 0, 0), "connection", "5.0.0", Op::None),
    spec_line("client|info", 2, Connection, &["noscript", "loading", "stale"], (0, 0, 0), "connection", "6.2.0", Op::None),
    spec_line("client|kill", -3, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "connection", "2.4.0", Op::None),
    spec_line("client|list", -2, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "connection", "2.4.0", Op::None),
    spec_line("client|no-evict", 3, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "connection", "7.0.0", Op::None),
    spec_line("client|pause", -3, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "connection", "2.9.50", Op::None),
    spec_line("client|reply", 3, Connection, &["noscript", "loading", "stale"], (0, 0, 0), "connection", "3.2.0", Op::None),
    spec_line("client|setname", 3, Connection, &["noscript", "loading", "stale"], (0, 0, 0), "connection", "2.6.9", Op::None),
    spec_line("client|unpause", 2, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "connection", "6.2.0", Op::None),
    spec_line("command", -1, Connection, &["loading", "stale"], (0, 0, 0), "server", "2.8.13", Op::None),
    spec_line("command|count", 2, Connection, &["loading", "stale"], (0, 0, 0), "server", "2.8.13", Op::None),
    spec_line("command|docs", -2, Connection, &["loading", "stale"], (0, 0, 0), "server", "7.0.0", Op::None),
    spec_line("command|getkeys", -4, Connection, &["loading", "stale"], (0, 0, 0), "server", "2.8.13", Op::None),
    spec_line("command|help", 2, Connection, &["loading", "stale"], (0, 0, 0), "server", "5.0.0", Op::None),
    spec_line("command|info", -2, Connection, &["loading", "stale"], (0, 0, 0), "server", "2.8.13", Op::None),
    spec_line("command|list", -2, Connection, &["loading", "stale"], (0, 0, 0), "server", "7.0.0", Op::None),
    spec_line("config", -2, Connection, &[], (0, 0, 0), "server", "2.0.0", Op::None),
    spec_line("config|get", -3, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "server", "2.0.0", Op::None),
    spec_line("config|help", 2, Connection, &["loading", "stale"], (0, 0, 0), "server", "5.0.0", Op::None),
    spec_line("config|resetstat", 2, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "server", "2.0.0", Op::None),
    spec_line("config|rewrite", 2, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "server", "2.8.0", Op::None),
    spec_line("config|set", -4, Connection, &["admin", "noscript", "loading", "stale"], (0, 0, 0), "server", "2.0.0", Op::None),
    spec_line("copy", -3, Write, &["write", "denyoom"], (1, 2, 1), "generic", "6.2.0", Op::Copy),
    spec_line("dbsize", 1, Read, &["readonly", "fast"], (0, 0, 0), "server", "1.0.0", Op::Dbsize),
    spec_line("decr", 2, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "1.0.0", Op::Decr),
    spec_line("decrby", 3, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "1.0.0", Op::Decrby),
    spec_line("del", -2, Write, &["write"], (1, -1, 1), "generic", "1.0.0", Op::Del),
    spec_line("discard", 1, Connection, &["noscript", "loading", "stale", "fast", "allow_busy"], (0, 0, 0), "transactions", "2.0.0", Op::None),
    spec_line("echo", 2, Connection, &["loading", "stale", "fast"], (0, 0, 0), "connection", "1.0.0", Op::None),
    spec_line("eval", -3, Write, &["noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"], (0, 0, 0), "scripting", "2.6.0", Op::Eval),
    spec_line("evalsha", -3, Write, &["noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"], (0, 0, 0), "scripting", "2.6.0", Op::Evalsha),
    spec_line("exec", 1, Connection, &["noscript", "loading", "stale", "skip_slowlog"], (0, 0, 0), "transactions", "1.2.0", Op::None),
    spec_line("exists", -2, Read, &["readonly", "fast"], (1, -1, 1), "generic", "1.0.0", Op::Exists),
    spec_line("expire", -3, Write, &["write", "fast"], (1, 1, 1), "generic", "1.0.0", Op::Expire),
    spec_line("expireat", -3, Write, &["write", "fast"], (1, 1, 1), "generic", "1.2.0", Op::Expireat),
    spec_line("expiretime", 2, Read, &["readonly", "fast"], (1, 1, 1), "generic", "7.0.0", Op::Expiretime),
    spec_line("flushall", -1, Write, &["write"], (0, 0, 0), "server", "1.0.0", Op::Flushall),
    spec_line("flushdb", -1, Write, &["write"], (0, 0, 0), "server", "1.0.0", Op::Flushdb),
    spec_line("get", 2, Read, &["readonly", "fast"], (1, 1, 1), "string", "1.0.0", Op::Get),
    spec_line("getdel", 2, Write, &["write", "fast"], (1, 1, 1), "string", "6.2.0", Op::Getdel),
    spec_line("getex", -2, Write, &["write", "fast"], (1, 1, 1), "string", "6.2.0", Op::Getex),
    spec_line("getrange", 4, Read, &["readonly"], (1, 1, 1), "string", "2.4.0", Op::Getrange),
    spec_line("getset", 3, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "1.0.0", Op::Getset),
    spec_line("hdel", -3, Write, &["write", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hdel),
    spec_line("hello", -1, Connection, &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"], (0, 0, 0), "connection", "6.0.0", Op::None),
    spec_line("hexists", 3, Read, &["readonly", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hexists),
    spec_line("hget", 3, Read, &["readonly", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hget),
    spec_line("hgetall", 2, Read, &["readonly"], (1, 1, 1), "hash", "2.0.0", Op::Hgetall),
    spec_line("hincrby", 4, Write, &["write", "denyoom", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hincrby),
    spec_line("hincrbyfloat", 4, Write, &["write", "denyoom", "fast"], (1, 1, 1), "hash", "2.6.0", Op::Hincrbyfloat),
    spec_line("hkeys", 2, Read, &["readonly"], (1, 1, 1), "hash", "2.0.0", Op::Hkeys),
    spec_line("hlen", 2, Read, &["readonly", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hlen),
    spec_line("hmget", -3, Read, &["readonly", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hmget),
    spec_line("hmset", -4, Write, &["write", "denyoom", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hmset),
    spec_line("hrandfield", -2, Read, &["readonly"], (1, 1, 1), "hash", "6.2.0", Op::Hrandfield),
    spec_line("hscan", -3, Read, &["readonly"], (1, 1, 1), "hash", "2.8.0", Op::Hscan),
    spec_line("hset", -4, Write, &["write", "denyoom", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hset),
    spec_line("hsetnx", 4, Write, &["write", "denyoom", "fast"], (1, 1, 1), "hash", "2.0.0", Op::Hsetnx),
    spec_line("hstrlen", 3, Read, &["readonly", "fast"], (1, 1, 1), "hash", "3.2.0", Op::Hstrlen),
    spec_line("hvals", 2, Read, &["readonly"], (1, 1, 1), "hash", "2.0.0", Op::Hvals),
    spec_line("incr", 2, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "1.0.0", Op::Incr),
    spec_line("incrby", 3, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "1.0.0", Op::Incrby),
    spec_line("incrbyfloat", 3, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "2.6.0", Op::Incrbyfloat),
    spec_line("info", -1, Connection, &["loading", "stale"], (0, 0, 0), "server", "1.0.0", Op::None),
    spec_line("keys", 2, Read, &["readonly"], (0, 0, 0), "generic", "1.0.0", Op::Keys),
    spec_line("memory", -2, Read, &[], (0, 0, 0), "server", "4.0.0", Op::None),
    spec_line("memory|help", 2, Read, &["loading", "stale"], (0, 0, 0), "server", "4.0.0", Op::MemoryHelp),
    spec_line("memory|usage", -3, Read, &["readonly"], (2, 2, 1), "server", "4.0.0", Op::MemoryUsage),
    spec_line("mget", -2, Read, &["readonly", "fast"], (1, -1, 1), "string", "1.0.0", Op::Mget),
    spec_line("mset", -3, Write, &["write", "denyoom"], (1, -1, 2), "string", "1.0.1", Op::Mset),
    spec_line("msetnx", -3, Write, &["write", "denyoom"], (1, -1, 2), "string", "1.0.1", Op::Msetnx),
    spec_line("multi", 1, Connection, &["noscript", "loading", "stale", "fast", "allow_busy"], (0, 0, 0), "transactions", "1.2.0", Op::None),
    spec_line("object", -2, Read, &[], (0, 0, 0), "generic", "2.2.3", Op::None),
    spec_line("object|encoding", 3, Read, &["readonly"], (2, 2, 1), "generic", "2.2.3", Op::ObjectEncoding),
    spec_line("object|freq", 3, Read, &["readonly"], (2, 2, 1), "generic", "4.0.0", Op::ObjectFreq),
    spec_line("object|help", 2, Read, &["loading", "stale"], (0, 0, 0), "generic", "6.2.0", Op::ObjectHelp),
    spec_line("object|idletime", 3, Read, &["readonly"], (2, 2, 1), "generic", "2.2.3", Op::ObjectIdletime),
    spec_line("object|refcount", 3, Read, &["readonly"], (2, 2, 1), "generic", "2.2.3", Op::ObjectRefcount),
    spec_line("persist", 2, Write, &["write", "fast"], (1, 1, 1), "generic", "2.2.0", Op::Persist),
    spec_line("pexpire", -3, Write, &["write", "fast"], (1, 1, 1), "generic", "2.6.0", Op::Pexpire),
    spec_line("pexpireat", -3, Write, &["write", "fast"], (1, 1, 1), "generic", "2.6.0", Op::Pexpireat),
    spec_line("pexpiretime", 2, Read, &["readonly", "fast"], (1, 1, 1), "generic", "7.0.0", Op::Pexpiretime),
    spec_line("ping", -1, Connection, &["fast"], (0, 0, 0), "connection", "1.0.0", Op::None),
    spec_line("psetex", 4, Write, &["write", "denyoom"], (1, 1, 1), "string", "2.6.0", Op::Psetex),
    spec_line("psubscribe", -2, Connection, &["pubsub", "noscript", "loading", "stale"], (0, 0, 0), "pubsub", "2.0.0", Op::None),
    spec_line("pttl", 2, Read, &["readonly", "fast"], (1, 1, 1), "generic", "2.6.0", Op::Pttl),
    spec_line("publish", 3, Write, &["pubsub", "loading", "stale", "fast"], (0, 0, 0), "pubsub", "2.0.0", Op::Publish),
    spec_line("pubsub", -2, Connection, &[], (0, 0, 0), "pubsub", "2.8.0", Op::None),
    spec_line("pubsub|channels", -2, Connection, &["pubsub", "loading", "stale"], (0, 0, 0), "pubsub", "2.8.0", Op::None),
    spec_line("pubsub|help", 2, Connection, &["loading", "stale"], (0, 0, 0), "pubsub", "6.2.0", Op::None),
    spec_line("pubsub|numpat", 2, Connection, &["pubsub", "loading", "stale"], (0, 0, 0), "pubsub", "2.8.0", Op::None),
    spec_line("pubsub|numsub", -2, Connection, &["pubsub", "loading", "stale"], (0, 0, 0), "pubsub", "2.8.0", Op::None),
    spec_line("punsubscribe", -1, Connection, &["pubsub", "noscript", "loading", "stale"], (0, 0, 0), "pubsub", "2.0.0", Op::None),
    spec_line("quit", -1, Connection, &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"], (0, 0, 0), "connection", "1.0.0", Op::None),
    spec_line("randomkey", 1, Read, &["readonly"], (0, 0, 0), "generic", "1.0.0", Op::Randomkey),
    spec_line("readonly", 1, Connection, &["loading", "stale", "fast"], (0, 0, 0), "cluster", "3.0.0", Op::None),
    spec_line("readwrite", 1, Connection, &["loading", "stale", "fast"], (0, 0, 0), "cluster", "3.0.0", Op::None),
    spec_line("rename", 3, Write, &["write"], (1, 2, 1), "generic", "1.0.0", Op::Rename),
    spec_line("renamenx", 3, Write, &["write", "fast"], (1, 2, 1), "generic", "1.0.0", Op::Renamenx),
    spec_line("reset", 1, Connection, &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"], (0, 0, 0), "connection", "6.2.0", Op::None),
    spec_line("sadd", -3, Write, &["write", "denyoom", "fast"], (1, 1, 1), "set", "1.0.0", Op::Sadd),
    spec_line("scan", -2, Read, &["readonly"], (0, 0, 0), "generic", "2.8.0", Op::Scan),
    spec_line("scard", 2, Read, &["readonly", "fast"], (1, 1, 1), "set", "1.0.0", Op::Scard),
    spec_line("script", -2, Read, &[], (0, 0, 0), "scripting", "2.6.0", Op::None),
    spec_line("script|exists", -3, Read, &["noscript"], (0, 0, 0), "scripting", "2.6.0", Op::ScriptExists),
    spec_line("script|flush", -2, Read, &["noscript"], (0, 0, 0), "scripting", "2.6.0", Op::ScriptFlush),
    spec_line("script|help", 2, Read, &["loading", "stale"], (0, 0, 0), "scripting", "5.0.0", Op::ScriptHelp),
    spec_line("script|load", 3, Read, &["noscript", "stale"], (0, 0, 0), "scripting", "2.6.0", Op::ScriptLoad),
    spec_line("select", 2, Connection, &["loading", "stale", "fast"], (0, 0, 0), "connection", "1.0.0", Op::None),
    spec_line("set", -3, Write, &["write", "denyoom"], (1, 1, 1), "string", "1.0.0", Op::Set),
    spec_line("setex", 4, Write, &["write", "denyoom"], (1, 1, 1), "string", "2.0.0", Op::Setex),
    spec_line("setnx", 3, Write, &["write", "denyoom", "fast"], (1, 1, 1), "string", "1.0.0", Op::Setnx),
    spec_line("setrange", 4, Write, &["write", "denyoom"], (1, 1, 1), "string", "2.2.0", Op::Setrange),
    spec_line("sismember", 3, Read, &["readonly", "fast"], (1, 1, 1), "set", "1.0.0", Op::Sismember),
    spec_line("smembers", 2, Read, &["readonly"], (1, 1, 1), "set", "1.0.0", Op::Smembers),
    spec_line("smismember", -3, Read, &["readonly", "fast"], (1, 1, 1), "set", "6.2.0", Op::Smismember),
    spec_line("srem", -3, Write, &["write", "fast"], (1, 1, 1), "set", "1.0.0", Op::Srem),
    spec_line("sscan", -3, Read, &["readonly"], (1, 1, 1), "set", "2.8.0", Op::Sscan),
    spec_line("strlen", 2, Read, &["readonly", "fast"], (1, 1, 1), "string", "2.2.0", Op::Strlen),
    spec_line("subscribe", -2, Connection, &["pubsub", "noscript", "loading", "stale"], (0, 0, 0), "pubsub", "2.0.0", Op::None),
    spec_line("substr", 4, Read, &["readonly"], (1, 1, 1), "string", "1.0.0", Op::Substr),
    spec_line("touch", -2, Write, &["readonly", "fast"], (1, -1, 1), "generic", "3.2.1", Op::Touch),
    spec_line("ttl", 2, Read, &["readonly", "fast"], (1, 1, 1), "generic", "1.0.0", Op::Ttl),
    spec_line("type", 2, Read, &["readonly", "fast"], (1, 1, 1), "generic", "1.0.0", Op::Type),
    spec_line("unlink", -2, Write, &["write", "fast"], (1, -1, 1), "generic", "4.0.0", Op::Unlink),
    spec_line("unsubscribe", -1, Connection, &["pubsub", "noscript", "loading", "stale"], (0, 0, 0), "pubsub", "2.0.0", Op::None),
    spec_line("unwatch", 1, Connection, &["noscript", "loading", "stale", "fast", "allow_busy"], (0, 0, 0), "transactions", "2.2.0", Op::None),
    spec_line("watch", -2, Connection, &["noscript", "loading", "stale", "fast", "allow_busy"], (1, -1, 1), "transactions", "2.2.0", Op::None),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_operation_has_one_command() {
        assert!(SPECS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for op in 1..=u64::from(Op::NEWEST) {
            assert_eq!(spec_of(op).map(|spec| spec.op as u64), Some(op));
        }
        assert_eq!(SPECS.iter().filter(|spec| spec.op != Op::None).count(), usize::from(Op::NEWEST));
        assert!(SPECS.iter().all(|spec| (spec.class == Connection || spec.has_subcommands()) == (spec.op == Op::None)));
        assert!(spec_of(0).is_none() && spec_of(u64::MAX).is_none());
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(spec(b"GeT").map(|spec| spec.name), Some("get"));
        assert_eq!(
            subcommand(spec(b"object").expect("there"), b"ENCODING").map(|spec| spec.name),
            Some("object|encoding")
        );
        assert!(spec(b"").is_none() && spec(&[b'x'; 100]).is_none());
    }
}
