//! Random programs of the session store's commands, sent to a real Redis and to the state machine, reply by reply.
//!
//! `cargo run -p ballast-core --example session_differential -- SOCKET COMMANDS [SEED]`, where SOCKET is the unix socket
//! of a `redis-server` of version 7.0 that may be emptied. Stops at the first difference. Log time is this machine's
//! clock, so what Redis says of lifetimes may differ by what passes between two calls.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ballast_core::{
    ids::{Boot, LogIndex, NodeId},
    session::{Call, Class, Reply, Watched, Write},
    state::{Command, Entry, Frame, InitCluster, NodeInfo, Origin, Outcome, State},
    time::LogTime,
};
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// A reply as RESP2 has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wire {
    Null,
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Wire>),
}

impl From<Reply> for Wire {
    fn from(reply: Reply) -> Self {
        let flat = |pairs: Vec<(Reply, Reply)>| pairs.into_iter().flat_map(|(a, b)| [a.into(), b.into()]).collect();
        match reply {
            Reply::Null | Reply::NullArray => Self::Null,
            Reply::Simple(text) => Self::Simple(text.to_owned()),
            Reply::Integer(n) => Self::Integer(n),
            Reply::Bulk(bytes) => Self::Bulk(bytes.to_vec()),
            Reply::Array(items) | Reply::Set(items) => Self::Array(items.into_iter().map(Into::into).collect()),
            Reply::Map(pairs) | Reply::Pairs(pairs) => Self::Array(flat(pairs)),
            Reply::Error(text) => Self::Error(String::from_utf8_lossy(&text).into_owned()),
        }
    }
}

struct Redis(BufReader<UnixStream>);

impl Redis {
    fn send(&mut self, words: &[Vec<u8>]) -> Wire {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&out).expect("redis takes requests");
        self.receive()
    }

    fn receive(&mut self) -> Wire {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("redis answers");
        let line = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Wire::Simple(rest.to_owned()),
            "-" => Wire::Error(rest.to_owned()),
            ":" => Wire::Integer(rest.parse().expect("a number")),
            _ if rest == "-1" => Wire::Null,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().expect("a length") + 2];
                self.0.read_exact(&mut bytes).expect("redis answers");
                bytes.truncate(bytes.len() - 2);
                Wire::Bulk(bytes)
            }
            "*" => Wire::Array((0..rest.parse().expect("a length")).map(|_| self.receive()).collect()),
            other => panic!("what is {other:?}"),
        }
    }
}

struct Ballast {
    state: State,
    seq: u64,
    database: u16,
}

impl Ballast {
    fn run(&mut self, write: Write) -> Vec<Reply> {
        match self.apply(Command::Session(Box::new(write))) {
            Outcome::Session(replies) => replies,
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.seq += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later than 1970").as_millis() as u64;
        let origin = Origin { node: NodeId::new(1), boot: Boot(1) };
        let frame = Frame { origin, seq: self.seq, commands: vec![command] };
        let entry = Entry { log_time: LogTime::from_millis(now), frames: vec![frame] };
        let mut out = Vec::new();
        self.state.apply(LogIndex::new(self.seq), &entry, &mut out);
        out.remove(0).outcomes.remove(0)
    }

    fn parse(&self, words: &[Vec<u8>]) -> Result<Call, Reply> {
        Call::parse(self.database, words.iter().map(|word| Bytes::copy_from_slice(word)).collect())
    }

    fn send(&mut self, words: &[Vec<u8>]) -> Wire {
        let call = match self.parse(words) {
            Ok(call) => call,
            Err(error) => return error.into(),
        };
        if call.class() == Class::Read && self.seq.is_multiple_of(2) {
            self.apply(Command::Tick);
            let mut replies = Vec::new();
            self.state.sessions().read(None, &[call], &mut replies).expect("nothing is due by log time");
            return replies.remove(0).into();
        }
        self.run(Write::one(call)).remove(0).into()
    }
}

type Words = Vec<Vec<u8>>;

fn words(text: &str) -> Words {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

struct Author {
    rng: StdRng,
}

impl Author {
    fn key(&mut self) -> Vec<u8> {
        format!("k{}", self.rng.random_range(0..12)).into_bytes()
    }

    fn field(&mut self) -> Vec<u8> {
        let n = if self.rng.random_bool(0.02) { 300 } else { 8 };
        format!("f{}", self.rng.random_range(0..n)).into_bytes()
    }

    fn number(&mut self) -> Vec<u8> {
        let n: i64 = match self.rng.random_range(0..10) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => self.rng.random(),
            _ => self.rng.random_range(-20..20),
        };
        n.to_string().into_bytes()
    }

    fn float(&mut self) -> Vec<u8> {
        let text = match self.rng.random_range(0..6) {
            0 => "inf".to_owned(),
            1 => "1e400".to_owned(),
            2 => format!("{}e{}", self.rng.random_range(-999..999), self.rng.random_range(-20..20)),
            3 => "abc".to_owned(),
            _ => format!("{}.{}", self.rng.random_range(-9999..9999), self.rng.random_range(0..10_000)),
        };
        text.into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..20) {
            0..6 => self.number(),
            6..9 => self.float(),
            9 => Vec::new(),
            10 => vec![b'x'; self.rng.random_range(60..70)],
            11 if self.rng.random_bool(0.1) => vec![b'y'; 10_000],
            _ => (0..self.rng.random_range(1..20)).map(|_| self.rng.random()).collect(),
        }
    }

    /// A number of seconds or milliseconds that ends long ago or long after the test.
    fn life(&mut self, absolute: bool, millis: bool) -> Vec<u8> {
        let unit = if millis { 1000 } else { 1 };
        let base = if absolute { 4_000_000_000 * unit } else { 0 };
        let n = match self.rng.random_range(0..12) {
            0 => 0,
            1 => -5,
            2 => i64::MAX,
            3 => i64::MIN,
            4 => i64::MAX / 1000,
            5 if absolute => 1,
            _ => base + self.rng.random_range(1000..1_000_000_i64) * unit,
        };
        if self.rng.random_bool(0.02) { b"1x".to_vec() } else { n.to_string().into_bytes() }
    }

    fn ending(&mut self, out: &mut Words) {
        let option = *["EX", "PX", "EXAT", "PXAT", "ex"].choose(&mut self.rng).expect("not empty");
        out.push(option.into());
        let (absolute, millis) = (option.ends_with("AT"), option.starts_with('P'));
        out.push(self.life(absolute, millis));
    }

    fn option(&mut self, out: &mut Words, options: &[&str], chance: f64) {
        if self.rng.random_bool(chance) {
            out.push((*options.choose(&mut self.rng).expect("not empty")).into());
        }
    }

    fn command(&mut self) -> Words {
        let names = [
            "GET",
            "SET",
            "SET",
            "SET",
            "SETEX",
            "PSETEX",
            "SETNX",
            "GETSET",
            "GETDEL",
            "GETEX",
            "MGET",
            "MSET",
            "MSETNX",
            "APPEND",
            "STRLEN",
            "INCR",
            "INCRBY",
            "DECR",
            "DECRBY",
            "INCRBYFLOAT",
            "GETRANGE",
            "SUBSTR",
            "SETRANGE",
            "DEL",
            "UNLINK",
            "EXISTS",
            "EXPIRE",
            "PEXPIRE",
            "EXPIREAT",
            "PEXPIREAT",
            "TTL",
            "PTTL",
            "EXPIRETIME",
            "PEXPIRETIME",
            "PERSIST",
            "TYPE",
            "RENAME",
            "RENAMENX",
            "TOUCH",
            "SCAN",
            "KEYS",
            "RANDOMKEY",
            "DBSIZE",
            "FLUSHDB",
            "FLUSHALL",
            "COPY",
            "HSET",
            "HSET",
            "HSET",
            "HSETNX",
            "HGET",
            "HMSET",
            "HMGET",
            "HDEL",
            "HLEN",
            "HSTRLEN",
            "HEXISTS",
            "HKEYS",
            "HVALS",
            "HGETALL",
            "HINCRBY",
            "HINCRBYFLOAT",
            "HRANDFIELD",
            "HSCAN",
            "SADD",
            "SADD",
            "SREM",
            "SMEMBERS",
            "SISMEMBER",
            "SMISMEMBER",
            "SCARD",
            "SSCAN",
            "OBJECT",
            "MEMORY",
            "EVALSHA",
            "SCRIPT",
            "NOSUCH",
            "SELECT",
        ];
        let name = *names.choose(&mut self.rng).expect("not empty");
        let mut out = vec![if self.rng.random_bool(0.1) { name.to_lowercase().into() } else { name.into() }];
        self.arguments(name, &mut out);
        if self.rng.random_bool(0.01) {
            out.pop();
        } else if self.rng.random_bool(0.01) {
            out.push(self.value());
        }
        if out.is_empty() { words("DBSIZE") } else { out }
    }

    fn arguments(&mut self, name: &str, out: &mut Words) {
        match name {
            "RANDOMKEY" | "DBSIZE" => {}
            "FLUSHDB" | "FLUSHALL" => {
                // Rarely, or there would never be much.
                if self.rng.random_bool(0.9) {
                    *out = words("DBSIZE");
                } else {
                    self.option(out, &["SYNC", "async", "x"], 0.3);
                }
            }
            "SELECT" => out.push(self.rng.random_range(0..3).to_string().into()),
            "SCAN" => out.push(b"0".to_vec()),
            "KEYS" => {
                out.push((*["*", "k?", "k1*", "[k]*[0-5]", "x*"].choose(&mut self.rng).expect("not empty")).into())
            }
            "NOSUCH" => out.push(self.value()),
            "SCRIPT" => {
                out.push(b"EXISTS".to_vec());
                out.push(b"0000000000000000000000000000000000000000".to_vec());
            }
            "OBJECT" => {
                let sub = *["ENCODING", "REFCOUNT", "FREQ", "NOSUCH"].choose(&mut self.rng).expect("not empty");
                out.push(sub.into());
                out.push(self.key());
            }
            "MEMORY" => {
                out.push(b"USAGE".to_vec());
                out.push(self.key());
            }
            "EVALSHA" => {
                let shas = [
                    "c3f8721cbb97f72bc19e972846bd7aaf91901658",
                    "b70c2384248f88e6b75b9f89241a180f856ad852",
                    "0000000000000000000000000000000000000000",
                ];
                out.push((*shas.choose(&mut self.rng).expect("not empty")).into());
                out.push((*["1", "1", "1", "2", "x"].choose(&mut self.rng).expect("not empty")).into());
                out.push(self.key());
                out.push(self.number());
            }
            "MSET" | "MSETNX" | "HSET" | "HMSET" => {
                if name.starts_with('H') {
                    out.push(self.key());
                }
                for _ in 0..self.rng.random_range(1..4) {
                    out.push(if name.starts_with('H') { self.field() } else { self.key() });
                    out.push(self.value());
                }
            }
            "MGET" | "DEL" | "UNLINK" | "EXISTS" | "TOUCH" => {
                for _ in 0..self.rng.random_range(1..3) {
                    out.push(self.key());
                }
            }
            _ => {
                out.push(self.key());
                self.after_key(name, out);
            }
        }
    }

    fn after_key(&mut self, name: &str, out: &mut Words) {
        match name {
            "SET" => {
                out.push(self.value());
                self.option(out, &["NX", "XX", "GET"], 0.3);
                self.option(out, &["KEEPTTL", "nx", "xx", "get", "PERSIST", "FOO"], 0.2);
                if self.rng.random_bool(0.4) {
                    self.ending(out);
                }
                self.option(out, &["GET", "KEEPTTL", "NX"], 0.1);
            }
            "GETEX" => {
                self.option(out, &["PERSIST", "FOO"], 0.3);
                if self.rng.random_bool(0.5) {
                    self.ending(out);
                }
            }
            "SETEX" | "PSETEX" => {
                out.push(self.life(false, name == "PSETEX"));
                out.push(self.value());
            }
            "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" => {
                out.push(self.life(name.ends_with("AT"), name.starts_with('P')));
                self.option(out, &["NX", "XX", "GT", "LT", "foo"], 0.4);
                self.option(out, &["NX", "XX", "GT", "LT"], 0.1);
            }
            "SETNX" | "GETSET" | "APPEND" => out.push(self.value()),
            "INCRBY" | "DECRBY" => out.push(if self.rng.random_bool(0.1) { self.value() } else { self.number() }),
            "INCRBYFLOAT" => out.push(if self.rng.random_bool(0.1) { self.value() } else { self.float() }),
            "GETRANGE" | "SUBSTR" => {
                out.push(self.number());
                out.push(self.number());
            }
            "SETRANGE" => {
                let at = self.rng.random_range(-1..30).to_string();
                out.push(if self.rng.random_bool(0.05) { self.number() } else { at.into() });
                out.push(self.value());
            }
            "RENAME" | "RENAMENX" => out.push(self.key()),
            "COPY" => {
                out.push(self.key());
                self.option(out, &["REPLACE", "foo"], 0.4);
                if self.rng.random_bool(0.3) {
                    out.push(b"DB".to_vec());
                    out.push((*["0", "1", "2", "99", "x", "-1"].choose(&mut self.rng).expect("not empty")).into());
                }
            }
            "HSETNX" => {
                out.push(self.field());
                out.push(self.value());
            }
            "HGET" | "HSTRLEN" | "HEXISTS" => out.push(self.field()),
            "HMGET" | "HDEL" => {
                for _ in 0..self.rng.random_range(1..4) {
                    out.push(self.field());
                }
            }
            "HINCRBY" => {
                out.push(self.field());
                out.push(self.number());
            }
            "HINCRBYFLOAT" => {
                out.push(self.field());
                out.push(self.float());
            }
            // Redis answers as many as are asked for, and Ballast a million at most.
            "HRANDFIELD" if self.rng.random_bool(0.7) => {
                out.push((*["0", "1", "3", "-3", "100", "x"].choose(&mut self.rng).expect("not empty")).into());
                self.option(out, &["WITHVALUES", "foo"], 0.4);
            }
            "HSCAN" | "SSCAN" => out.push(b"0".to_vec()),
            "SADD" | "SREM" | "SMISMEMBER" => {
                let numbers = self.rng.random_bool(0.7);
                for _ in 0..self.rng.random_range(1..4) {
                    out.push(if numbers { self.number() } else { self.field() });
                }
            }
            "SISMEMBER" => out.push(self.number()),
            _ => {}
        }
    }
}

/// Replies as they can be compared: what has no order is sorted, what is drawn or measured is reduced to its form.
fn comparable(name: &str, sub: &[u8], ordered: bool, wire: Wire) -> Wire {
    match (name, wire) {
        ("KEYS" | "SMEMBERS", Wire::Array(mut items)) if !ordered => {
            items.sort();
            Wire::Array(items)
        }
        ("HKEYS" | "HVALS", Wire::Array(mut items)) if !ordered => {
            items.sort();
            Wire::Array(items)
        }
        ("HGETALL", Wire::Array(items)) if !ordered => {
            let mut pairs: Vec<_> = items.chunks(2).map(<[Wire]>::to_vec).collect();
            pairs.sort();
            Wire::Array(pairs.into_iter().flatten().collect())
        }
        ("RANDOMKEY" | "HRANDFIELD", Wire::Bulk(_)) => Wire::Simple("drawn".to_owned()),
        ("HRANDFIELD", Wire::Array(items)) => Wire::Integer(items.len() as i64),
        ("MEMORY", Wire::Integer(_)) => Wire::Simple("some".to_owned()),
        // Redis remembers how a string came about; a number that was appended to is no "int".
        ("OBJECT", Wire::Bulk(text)) if matches!(&*text, b"int" | b"embstr" | b"raw") => {
            Wire::Simple("text".to_owned())
        }
        ("OBJECT", Wire::Integer(_)) if sub.eq_ignore_ascii_case(b"REFCOUNT") => Wire::Simple("some".to_owned()),
        (_, wire) => wire,
    }
}

fn close(name: &str, a: &Wire, b: &Wire) -> bool {
    let within = match name {
        "TTL" | "EXPIRETIME" => 1,
        "PTTL" | "PEXPIRETIME" => 2000,
        _ => 0,
    };
    match (a, b) {
        (Wire::Integer(a), Wire::Integer(b)) if *a > 0 && *b > 0 => a.abs_diff(*b) <= within,
        (Wire::Array(a), Wire::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(name, a, b)),
        (Wire::Error(a), Wire::Error(b)) if a.starts_with("WRONGTYPE") && b.contains(" script: ") => b.starts_with(a),
        (a, b) => a == b,
    }
}

/// All that a walk meets.
fn walk(mut send: impl FnMut(&Words) -> Wire, command: &Words) -> Result<BTreeSet<Vec<Wire>>, Wire> {
    let mut command = command.clone();
    let at = usize::from(!command[0].eq_ignore_ascii_case(b"SCAN")) + 1;
    let pairs = command[0].eq_ignore_ascii_case(b"HSCAN");
    let mut found = BTreeSet::new();
    loop {
        let Wire::Array(mut reply) = send(&command) else { return Err(send(&command)) };
        let Some(Wire::Array(items)) = reply.pop() else { return Err(Wire::Null) };
        found.extend(items.chunks(if pairs { 2 } else { 1 }).map(<[Wire]>::to_vec));
        match reply.pop() {
            Some(Wire::Bulk(cursor)) if cursor != b"0" => command[at] = cursor,
            _ => return Ok(found),
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (socket, commands) = (&args[1], args[2].parse::<u64>().expect("a number of commands"));
    let seed = args.get(3).map_or(1, |seed| seed.parse().expect("a seed"));
    let mut redis = Redis(BufReader::new(UnixStream::connect(socket).expect("a redis-server listens there")));
    let mut ballast = Ballast { state: State::new(), seq: 0, database: 0 };
    ballast.apply(Command::InitCluster(Box::new(InitCluster {
        cluster_id: "c".to_owned(),
        ca_certificate: String::new(),
        ca_key_sealed: Vec::new(),
        first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
        first_node_key_fingerprint: [1; 32],
        table_secret: [9; 16].into(),
        cookie_secret: [8; 32].into(),
        lease_secret: [7; 32].into(),
    })));
    redis.send(&words("FLUSHALL"));
    let phpredis =
        "if redis.call(\"get\",KEYS[1]) == ARGV[1] then return redis.call(\"del\",KEYS[1]) else return 0 end";
    redis.send(&[b"SCRIPT".to_vec(), b"LOAD".to_vec(), phpredis.into()]);
    let redis_py = "\n        local token = redis.call('get', KEYS[1])\n        if not token or token ~= ARGV[1] then\n            \
                    return 0\n        end\n        redis.call('del', KEYS[1])\n        return 1\n    ";
    redis.send(&[b"SCRIPT".to_vec(), b"LOAD".to_vec(), redis_py.into()]);
    let mut author = Author { rng: StdRng::seed_from_u64(seed) };
    let mut history: Vec<Words> = Vec::new();
    let mut done = 0;
    while done < commands {
        let command = author.command();
        history.push(command.clone());
        done += 1;
        let shown =
            |words: &Words| words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
        let differ = |ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug, history: &[Words]| {
            for words in &history[history.len().saturating_sub(40)..] {
                println!("  {}", shown(words));
            }
            panic!("after {done} commands of seed {seed}:\n ballast {ours:?}\n   redis {theirs:?}");
        };
        let name = String::from_utf8_lossy(&command[0]).to_uppercase();
        if name == "SELECT" {
            let reply = redis.send(&command);
            if reply == Wire::Simple("OK".to_owned()) {
                ballast.database = String::from_utf8_lossy(&command[1]).parse().expect("one of three");
            }
            continue;
        }
        if matches!(&*name, "SCAN" | "HSCAN" | "SSCAN") {
            let (ours, theirs) = (walk(|c| ballast.send(c), &command), walk(|c| redis.send(c), &command));
            if ours != theirs {
                differ(&ours, &theirs, &history);
            }
            continue;
        }
        if author.rng.random_bool(0.0005) {
            // A life that ends before the next command.
            let key = author.key();
            let short = vec![b"PEXPIRE".to_vec(), key, b"20".to_vec()];
            let (ours, theirs) = (ballast.send(&short), redis.send(&short));
            history.push(short.to_vec());
            assert_eq!(ours, theirs);
            thread::sleep(Duration::from_millis(40));
        }
        if author.rng.random_bool(0.02) {
            transaction(&mut author, &mut redis, &mut ballast, &mut history);
            continue;
        }
        if matches!(&*name, "DBSIZE" | "MEMORY") {
            // Redis counts and measures keys that are over until it meets them.
            redis.send(&words("EXISTS k0 k1 k2 k3 k4 k5 k6 k7 k8 k9 k10 k11"));
        }
        let sub = command.get(1).cloned().unwrap_or_default();
        // Small hashes and sets of numbers have an order, others have none.
        let encoding = ballast.send(&[b"OBJECT".to_vec(), b"ENCODING".to_vec(), sub.clone()]);
        let ordered =
            matches!(&encoding, Wire::Bulk(name) if matches!(&**name, b"listpack" | b"intset")) && name != "KEYS";
        let ours = comparable(&name, &sub, ordered, ballast.send(&command));
        let theirs = comparable(&name, &sub, ordered, redis.send(&command));
        if !close(&name, &ours, &theirs) {
            differ(&ours, &theirs, &history);
        }
    }
    println!("{done} commands, no difference; {:?}", ballast.state.sessions().stats());
}

/// A transaction, with a watched key that may change before it.
fn transaction(author: &mut Author, redis: &mut Redis, ballast: &mut Ballast, history: &mut Vec<Words>) {
    let key = author.key();
    let version = ballast.state.sessions().version(None, ballast.database, &key).expect("nothing is due by log time");
    // Redis takes a key that was absent, made and deleted again for changed; there is nothing to see of that here.
    let watches = version != 0 && author.rng.random_bool(0.5);
    if watches {
        redis.send(&[b"WATCH".to_vec(), key.clone()]);
    }
    if author.rng.random_bool(0.5) {
        let change = vec![b"APPEND".to_vec(), key.clone(), b"x".to_vec()];
        assert_eq!(ballast.send(&change), redis.send(&change));
    }
    redis.send(&words("MULTI"));
    let (mut calls, mut names) = (Vec::new(), Vec::new());
    for _ in 0..author.rng.random_range(1..5) {
        let command = author.command();
        let name = String::from_utf8_lossy(&command[0]).to_uppercase();
        let skipped =
            ["SELECT", "DBSIZE", "MEMORY", "SCAN", "HSCAN", "SSCAN", "KEYS", "SMEMBERS", "HKEYS", "HVALS", "HGETALL"];
        let Ok(call) = ballast.parse(&command) else { continue };
        if skipped.contains(&&*name) {
            continue;
        }
        assert_eq!(redis.send(&command), Wire::Simple("QUEUED".to_owned()));
        history.push(words("EXEC").into_iter().chain(command.clone()).collect());
        names.push((name, command.get(1).cloned().unwrap_or_default()));
        calls.push(call);
    }
    let watched = Watched { database: ballast.database, key: key.into(), version };
    let ours = ballast.run(Write { calls, atomic: true, watched: if watches { vec![watched] } else { Vec::new() } });
    match redis.send(&words("EXEC")) {
        Wire::Null => assert_eq!(ours, [Reply::NullArray]),
        Wire::Array(theirs) => {
            assert_eq!(ours.len(), theirs.len());
            for (((name, sub), ours), theirs) in names.iter().zip(ours).zip(theirs) {
                let (ours, theirs) = (comparable(name, sub, false, ours.into()), comparable(name, sub, false, theirs));
                assert!(close(name, &ours, &theirs), "{name} in a transaction: {ours:?} {theirs:?}");
            }
        }
        other => panic!("{other:?}"),
    }
}
