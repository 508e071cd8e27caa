//! Random commands by a small grammar.
//!
//! A line is a command: words stand for themselves; `<k>` and its like are drawn; `[..]` is there or not; `{a|b}` is one
//! of them; `+(..)` is one to three times.

/// Draws. SplitMix64: the same numbers for the same seed on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// Every command of the keyspace and those of the connection that belong to programs. `differential.rs` compares the rest of the
/// connection's commands in `as_redis.rs`.
const GRAMMAR: &[&str] = &[
    "GET <k>",
    "GET <k>",
    "SET <k> <v>",
    "SET <k> <v> [{NX|XX}] [GET] [{EX <s>|PX <ms>|EXAT <at>|PXAT <atms>|KEEPTTL}]",
    "SET <k> <v> +({NX|XX|GET|EX <s>|PX <ms>|EXAT <at>|PXAT <atms>|KEEPTTL})",
    "SETEX <k> <s> <v>",
    "PSETEX <k> <ms> <v>",
    "SETNX <k> <v>",
    "GETSET <k> <v>",
    "GETDEL <k>",
    "GETEX <k> [{EX <s>|PX <ms>|EXAT <at>|PXAT <atms>|PERSIST}]",
    "GETEX <k> +({EX <s>|PX <ms>|PERSIST})",
    "MGET +(<k>)",
    "MSET +(<k> <v>)",
    "MSETNX +(<k> <v>)",
    "APPEND <k> <v>",
    "STRLEN <k>",
    "INCR <k>",
    "DECR <k>",
    "INCRBY <k> <i>",
    "DECRBY <k> <i>",
    "INCRBYFLOAT <k> <d>",
    "GETRANGE <k> <i> <i>",
    "SUBSTR <k> <i> <i>",
    "SETRANGE <k> <offset> <v>",
    "DEL +(<k>)",
    "UNLINK +(<k>)",
    "EXISTS +(<k>)",
    "EXPIRE <k> <s> [{NX|XX|GT|LT}]",
    "EXPIRE <k> <s> +({NX|XX|GT|LT})",
    "PEXPIRE <k> <ms> [{NX|XX|GT|LT}]",
    "EXPIREAT <k> <at> [{NX|XX|GT|LT}]",
    "PEXPIREAT <k> <atms> [{NX|XX|GT|LT}]",
    "TTL <k>",
    "PTTL <k>",
    "EXPIRETIME <k>",
    "PEXPIRETIME <k>",
    "PERSIST <k>",
    "TYPE <k>",
    "RENAME <k> <k>",
    "RENAMENX <k> <k>",
    "TOUCH +(<k>)",
    "SCAN 0 [COUNT 1000] [MATCH <pattern>] [TYPE {string|hash|set|list|x}]",
    "SCAN <i> COUNT <i>",
    "KEYS <pattern>",
    "RANDOMKEY",
    "DBSIZE",
    "COPY <k> <k> [DB {0|1|x|99}] [REPLACE]",
    "HSET <k> +(<f> <v>)",
    "HSETNX <k> <f> <v>",
    "HGET <k> <f>",
    "HMSET <k> +(<f> <v>)",
    "HMGET <k> +(<f>)",
    "HDEL <k> +(<f>)",
    "HLEN <k>",
    "HSTRLEN <k> <f>",
    "HEXISTS <k> <f>",
    "HKEYS <k>",
    "HVALS <k>",
    "HGETALL <k>",
    "HINCRBY <k> <f> <i>",
    "HINCRBYFLOAT <k> <f> <d>",
    "HRANDFIELD <k> [{1|-3|0|100|x|<i3>} [WITHVALUES]]",
    "HSCAN <k> 0 [COUNT 1000] [MATCH <pattern>]",
    "HSCAN <k> <i>",
    "SADD <k> +(<v>)",
    "SREM <k> +(<v>)",
    "SMEMBERS <k>",
    "SISMEMBER <k> <v>",
    "SMISMEMBER <k> +(<v>)",
    "SCARD <k>",
    "SSCAN <k> 0 [COUNT 1000] [MATCH <pattern>]",
    "OBJECT {ENCODING|IDLETIME|REFCOUNT|FREQ|FOO|HELP} <k>",
    "MEMORY USAGE <k> [SAMPLES <i>]",
    "MEMORY FOO",
    "PUBLISH <k> <v>",
    "EVAL <script> 1 <k> <v>",
    "EVALSHA {b70c2384248f88e6b75b9f89241a180f856ad852|abc} <i3> <k> <v>",
    "SCRIPT EXISTS abc",
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH +(<k>)",
    "UNWATCH",
    "SELECT {0|0|0|1|99|x}",
    "PING",
    "ECHO <v>",
    "NOPE <k> <v>",
];

/// Rarely: they end what a program has built.
const SELDOM: &[&str] = &["FLUSHDB [{ASYNC|SYNC|X}]", "FLUSHALL [{ASYNC|SYNC|X}]", "RESET"];

/// A random command, sometimes with a mistake in it.
pub fn command(random: &mut Random, now_ms: u64) -> Vec<Vec<u8>> {
    let line = if random.one_in(300) { random.of(SELDOM) } else { random.of(GRAMMAR) };
    let mut words = Vec::new();
    sequence(line, random, now_ms, &mut words);
    if random.one_in(25) {
        match random.below(3) {
            0 if words.len() > 1 => {
                let at = 1 + random.below(words.len() - 1);
                words.remove(at);
            }
            1 => words.push(drawn("v", random, now_ms)),
            _ if words.len() > 1 => {
                let at = 1 + random.below(words.len() - 1);
                words[at] = drawn(random.of(&["v", "i"]), random, now_ms);
            }
            _ => {}
        }
    }
    if random.one_in(10) {
        words[0].make_ascii_lowercase();
    }
    words
}

fn sequence(text: &str, random: &mut Random, now_ms: u64, words: &mut Vec<Vec<u8>>) {
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let after = match first {
            '[' | '{' => closing(rest),
            '+' => 1 + closing(&rest[1..]),
            _ => rest.find(' ').unwrap_or(rest.len()),
        };
        let (item, left) = rest.split_at(after);
        rest = left.trim_start();
        match first {
            '[' if random.one_in(2) => sequence(&item[1..item.len() - 1], random, now_ms, words),
            '[' => {}
            '{' => {
                let choices = split(&item[1..item.len() - 1]);
                let choice = choices[random.below(choices.len())];
                sequence(choice, random, now_ms, words);
            }
            '+' => {
                for _ in 0..=random.below(3) {
                    sequence(&item[2..item.len() - 1], random, now_ms, words);
                }
            }
            '<' => words.push(drawn(&item[1..item.len() - 1], random, now_ms)),
            _ => words.push(item.as_bytes().to_vec()),
        }
    }
}

/// Where the bracket that `text` begins with is closed.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    panic!("not closed: {text}")
}

/// The choices of `a|b [c|d]`.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut choices) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth -= 1,
            '|' if depth == 0 => {
                choices.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    choices.push(&text[start..]);
    choices
}

/// The lock release of phpredis.
pub const RELEASE: &str =
    r#"if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end"#;

fn drawn(what: &str, random: &mut Random, now_ms: u64) -> Vec<u8> {
    let now_s = now_ms / 1000;
    match what {
        "k" => {
            random.of::<[u8]>(&[b"k1", b"k2", b"k3", b"k4", b"k5", b"h1", b"h2", b"s1", b"", b"\0\xff\r\n"]).to_vec()
        }
        "f" => random.of::<[u8]>(&[b"f1", b"f2", b"f3", b"f4", b"", b"\xfe"]).to_vec(),
        "v" => match random.below(18) {
            0 => vec![b'x'; 70],
            1 => vec![b'y'; 5000],
            2 => random.below(1000).to_string().into_bytes(),
            n => [
                "",
                "a",
                "b",
                "10",
                "-5",
                "3.14",
                "abc",
                "9223372036854775807",
                " 1",
                "1e3",
                "nan",
                "0y",
                "007",
                "1.50",
                "\u{1}\u{7f}",
            ][n - 3]
                .as_bytes()
                .to_vec(),
        },
        "i" => match random.below(16) {
            0 => random.below(100).to_string().into_bytes(),
            n => random
                .of::<str>(
                    &[
                        "0",
                        "1",
                        "-1",
                        "2",
                        "10",
                        "-3",
                        "100",
                        "-100",
                        "9223372036854775807",
                        "-9223372036854775808",
                        "abc",
                        "",
                        "1.5",
                        "007",
                        "9223372036854775808",
                    ][n - 1..n],
                )
                .as_bytes()
                .to_vec(),
        },
        "i3" => random.below(4).to_string().into_bytes(),
        "d" => random
            .of::<str>(&[
                "1",
                "-1",
                "0.1",
                "1.5",
                "-0.25",
                "3.0",
                "1e2",
                "1e-3",
                "abc",
                "",
                "nan",
                "inf",
                "-inf",
                " 1",
                "0y",
                "100",
                "12345.678",
                "99999999999999999",
            ])
            .as_bytes()
            .to_vec(),
        "offset" => random.of::<str>(&["0", "1", "5", "100", "-1", "abc", "3000"]).as_bytes().to_vec(),
        "s" => random
            .of::<str>(&["1", "2", "10", "100", "100000", "0", "-1", "abc", "9223372036854775807", "9223372036854775"])
            .as_bytes()
            .to_vec(),
        "ms" => random
            .of::<str>(&["500", "1000", "1500", "10000", "100000000", "0", "-1", "abc", "9223372036854775807"])
            .as_bytes()
            .to_vec(),
        "at" => match random.below(6) {
            0 => b"1".to_vec(),
            1 => b"-1".to_vec(),
            2 => b"9223372036854775807".to_vec(),
            _ => (now_s - 2 + random.below(200) as u64).to_string().into_bytes(),
        },
        "atms" => match random.below(6) {
            0 => b"1".to_vec(),
            1 => b"0".to_vec(),
            2 => b"9223372036854775807".to_vec(),
            _ => ((now_ms / 500 - 2 + random.below(200) as u64) * 500).to_string().into_bytes(),
        },
        "pattern" => {
            random.of::<str>(&["*", "k*", "?1", "[hs]*", "f[1-2]", "", "k\\1", "*1*", "nope"]).as_bytes().to_vec()
        }
        "script" => RELEASE.as_bytes().to_vec(),
        other => panic!("nothing is called <{other}>"),
    }
}
