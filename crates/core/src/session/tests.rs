//! The session store by itself: lifetimes, versions, memory, notices, walks. What commands answer is also held against
//! a real Redis, by the example `session_differential`.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{config::Document, time::LogTime};

struct Store {
    sessions: Sessions,
    now: u64,
}

fn argv(words: &str) -> Vec<Bytes> {
    words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn call(words: &str) -> Call {
    Call::parse(0, argv(words)).unwrap_or_else(|error| panic!("{words}: {error:?}"))
}

impl Store {
    /// A store with these settings beside the defaults.
    fn with(settings: &str) -> Self {
        let sessions = Sessions::default();
        let document: Document =
            serde_json::from_str(&format!(r#"{{"version":1,"sessions":{{{settings}}}}}"#)).expect("a document");
        sessions.configure(Some(&document));
        let mut store = Self { sessions, now: 0 };
        store.at(1_000_000);
        store
    }

    fn new() -> Self {
        Self::with("")
    }

    /// Carries log time to this moment, as an entry without commands does.
    fn at(&mut self, now: u64) {
        self.now = now;
        self.sessions.advance(LogTime::from_millis(now));
        self.sessions.sweep();
    }

    fn write(&mut self, write: Write) -> Vec<Reply> {
        let replies = self.sessions.apply(&write);
        self.sessions.sweep();
        replies
    }

    fn run(&mut self, words: &str) -> Reply {
        self.write(Write::one(call(words))).remove(0)
    }

    fn transaction(&mut self, words: &[&str], watched: Vec<Watched>) -> Vec<Reply> {
        self.write(Write { calls: words.iter().map(|words| call(words)).collect(), atomic: true, watched })
    }

    fn read(&self, estimate: Option<u64>, words: &str) -> Result<Reply, Due> {
        let mut replies = Vec::new();
        self.sessions.read(estimate.map(LogTime::from_millis), &[call(words)], &mut replies)?;
        Ok(replies.remove(0))
    }

    fn version(&self, key: &str) -> u64 {
        self.sessions.version(None, 0, key.as_bytes()).expect("nothing is due by log time")
    }

    fn watch(&self, key: &str) -> Vec<Watched> {
        vec![Watched { database: 0, key: Bytes::copy_from_slice(key.as_bytes()), version: self.version(key) }]
    }

    fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        self.sessions.drain(&mut notices);
        let shown = notices.into_iter().map(|notice| match notice {
            Notice::Event { key, event, .. } => format!("{event} {}", String::from_utf8_lossy(&key)),
            Notice::Message { channel, payload } => format!("message {channel:?} {payload:?}"),
            Notice::Lost => "lost".to_owned(),
        });
        shown.collect()
    }
}

/// The value that a reply is.
fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn a_key_lives_to_the_millisecond_and_not_longer() {
    let mut store = Store::new();
    store.run("set a v px 100");
    store.at(1_000_099);
    assert_eq!(store.run("get a"), text("v"));
    assert_eq!(store.run("pttl a"), Reply::Integer(1));
    store.sessions.advance(LogTime::from_millis(1_000_100));
    // Not swept yet.
    for words in
        ["get a", "ttl a", "type a", "exists a", "dbsize", "keys *", "randomkey", "scan 0", "object encoding a"]
    {
        let absent = [
            Reply::Null,
            Reply::Integer(-2),
            Reply::Integer(0),
            Reply::Simple("none"),
            Reply::Array(Vec::new()),
            Reply::Array(vec![text("0"), Reply::Array(Vec::new())]),
        ];
        let answer = store.read(None, words).expect("nothing is due");
        assert!(absent.contains(&answer), "{words}: {answer:?}");
    }
    assert_eq!(store.run("setnx a w"), Reply::Integer(1));
    assert_eq!(store.run("ttl a"), Reply::Integer(-1));
    assert_eq!(store.sessions.stats().totals.expired, 1);
}

#[test]
fn a_value_that_is_replaced_by_one_with_the_same_end_still_ends() {
    let mut store = Store::new();
    for word in ["v", "w"] {
        store.run(&format!("set a {word} pxat 1000100"));
    }
    store.at(1_000_100);
    let stats = store.sessions.stats();
    assert_eq!((stats.totals.expired, stats.bytes), (1, 0));
    assert_eq!(store.read(None, "dbsize"), Ok(Reply::Integer(0)));
}

#[test]
fn a_reader_ahead_of_log_time_asks_for_it_instead_of_guessing() {
    let mut store = Store::new();
    store.run("set a v px 100");
    store.run("set b v");
    assert_eq!(store.read(Some(1_000_050), "pttl a"), Ok(Reply::Integer(50)), "lifetimes are told by the estimate");
    assert_eq!(store.read(Some(1_000_100), "get a"), Err(Due));
    assert_eq!(store.read(Some(1_000_100), "mget b a"), Err(Due));
    assert_eq!(store.read(Some(1_000_100), "get b"), Ok(text("v")));
    assert_eq!(store.read(Some(1_000_100), "dbsize"), Err(Due), "what is about all keys is about this one");
    assert_eq!(store.read(Some(1_000_099), "dbsize"), Ok(Reply::Integer(2)));
    assert_eq!(store.read(None, "get a"), Ok(text("v")), "log time alone judges");
    assert_eq!(store.sessions.version(Some(LogTime::from_millis(1_000_100)), 0, b"a"), Err(Due));
    let mut replies = Vec::new();
    let both = [call("get b"), call("get a")];
    assert_eq!(store.sessions.read(Some(LogTime::from_millis(2_000_000)), &both, &mut replies), Err(Due));
    assert!(replies.is_empty(), "nothing is answered then");
    store.at(1_000_100);
    assert_eq!(store.read(Some(1_000_100), "get a"), Ok(Reply::Null));
}

#[test]
fn ended_keys_are_removed_at_an_even_pace_and_told_of_once() {
    let mut store = Store::with(r#""notify":"Ex""#);
    store.sessions.listen(true);
    for n in 0..2500 {
        store.run(&format!("set k{n} v px 100"));
    }
    let kept = |store: &Store| store.sessions.snapshot().len();
    store.at(1_000_100);
    assert_eq!(store.run("dbsize"), Reply::Integer(0), "they count for nothing at once");
    assert!(kept(&store) > 0);
    for _ in 0..3 {
        store.at(1_000_101);
    }
    assert_eq!(kept(&store), 0);
    let mut told = store.notices();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 2500);
    assert_eq!(store.sessions.stats().totals.expired, 2500);
}

#[test]
fn keys_are_counted_without_a_look_at_those_that_are_over() {
    let mut store = Store::new();
    fill_with(&mut store, 40_000, " px 100");
    store.run("set stays v");
    store.sessions.advance(LogTime::from_millis(1_000_100));
    // Looking at each of them that often is more than commands that were sent together may.
    let calls = vec![call("dbsize"); 3000];
    let replies = store.write(Write { calls, atomic: true, ..Write::default() });
    assert!(replies.iter().all(|reply| *reply == Reply::Integer(1)), "{:?}", replies.last());
    assert_eq!(store.sessions.stats().databases[0].keys, 1);
}

proptest! {
    #[test]
    fn keys_are_counted_as_they_are_listed(steps in proptest::collection::vec((0..9_u8, 0..8_u8, 0..300_u64), 1..80)) {
        let mut store = Store::new();
        for (kind, key, n) in steps {
            let words = match kind {
                0 => format!("set k{key} v"),
                // Before or after now.
                1 => format!("set k{key} v pxat {}", store.now + n - n.min(100)),
                2 => format!("set k{key} v pxat {}", store.now - n),
                3 => format!("pexpire k{key} {}", n + 1),
                4 => format!("persist k{key}"),
                5 => format!("del k{key}"),
                6 => format!("rename k{key} k{}", n % 8),
                7 => format!("append k{key} v"),
                _ => {
                    // Without a sweep.
                    store.now += n;
                    store.sessions.advance(LogTime::from_millis(store.now));
                    continue;
                }
            };
            store.sessions.apply(&Write::one(call(&words)));
            let Ok(Reply::Array(listed)) = store.read(None, "keys *") else { panic!("{words}") };
            prop_assert_eq!(store.read(None, "dbsize"), Ok(Reply::Integer(listed.len() as i64)), "{}", words);
        }
    }
}

#[test]
fn a_stale_reader_counts_no_key_that_is_over_by_its_clock() {
    let mut store = Store::new();
    // More than are looked at under one lock.
    fill_with(&mut store, 40_000, " px 100");
    store.run("set soon v px 50");
    store.run("set later v px 200");
    store.run("set stays v");
    for (estimate, keys) in [(1_000_000, 40_003), (1_000_050, 40_002), (1_000_100, 2), (1_000_200, 1)] {
        let mut replies = Vec::new();
        store.sessions.read_stale(LogTime::from_millis(estimate), &[call("dbsize")], &mut replies);
        assert_eq!(replies, [Reply::Integer(keys)], "{estimate}");
    }
}

#[test]
fn a_watched_key_that_changed_or_ended_stops_a_transaction() {
    let mut store = Store::new();
    store.run("set a 1");
    for (change, stops) in [
        ("get a", false),
        ("touch a", false),
        ("set b 1", false),
        ("setnx a 2", false),
        ("set a 1", true),
        ("expire a 100", true),
        ("incr a", true),
        ("del a", true),
        ("set a 1", true),
        ("flushall", true),
    ] {
        let watched = store.watch("a");
        store.run(change);
        let replies = store.transaction(&["set done 1", "get done"], watched);
        let expected = if stops { vec![Reply::NullArray] } else { vec![Reply::OK, text("1")] };
        assert_eq!(replies, expected, "{change}");
        store.run("del done");
    }
    store.run("set a 1 px 50");
    let watched = store.watch("a");
    store.at(store.now + 50);
    assert_eq!(store.transaction(&["dbsize"], watched), [Reply::NullArray]);
}

#[test]
fn errors_in_a_transaction_stand_in_their_place() {
    let mut store = Store::new();
    let replies = store.transaction(&["set a x", "incr a", "expire a x", "set a 1 ex", "get a"], Vec::new());
    assert_eq!(
        replies,
        [
            Reply::OK,
            Reply::error("ERR value is not an integer or out of range"),
            Reply::error("ERR value is not an integer or out of range"),
            Reply::error("ERR syntax error"),
            text("x"),
        ]
    );
}

/// What a Redis 7.0 published with `notify-keyspace-events KEAn`.
const EVENTS: &[(&str, &[&str])] = &[
    ("set a 1", &["new a", "set a"]),
    ("set a 2 ex 100", &["set a", "expire a"]),
    ("setex a 100 v", &["set a", "expire a"]),
    ("setnx b 1", &["new b", "set b"]),
    ("getset b 2", &["set b"]),
    ("getdel b", &["del b"]),
    ("getex a persist", &["persist a"]),
    ("getex a ex 5", &["expire a"]),
    ("getex a pxat 1", &["del a"]),
    ("mset a 1 c 2", &["new a", "set a", "new c", "set c"]),
    ("msetnx d 1", &["new d", "set d"]),
    ("append a x", &["append a"]),
    ("append e x", &["new e", "append e"]),
    ("incr n", &["new n", "incrby n"]),
    ("incrbyfloat n 1.5", &["incrbyfloat n"]),
    ("setrange n 1 x", &["setrange n"]),
    ("expire a 100", &["expire a"]),
    ("expire a -1", &["del a"]),
    ("persist c", &[]),
    ("expire c 100", &["expire c"]),
    ("persist c", &["persist c"]),
    ("rename c f", &["new f", "rename_from c", "rename_to f"]),
    ("set g 1", &["new g", "set g"]),
    ("rename f g", &["new g", "rename_from f", "rename_to g"]),
    ("renamenx g h", &["new h", "rename_from g", "rename_to h"]),
    ("copy h i", &["new i", "copy_to i"]),
    ("copy h i replace", &["new i", "copy_to i"]),
    ("touch h", &[]),
    ("hset m f v", &["new m", "hset m"]),
    ("hset m f w", &["hset m"]),
    ("hsetnx m f v", &[]),
    ("hsetnx m g v", &["hset m"]),
    ("hincrby m n 1", &["hincrby m"]),
    ("hincrbyfloat m n 1.5", &["hincrbyfloat m"]),
    ("hdel m f g n", &["hdel m", "del m"]),
    ("sadd s a", &["new s", "sadd s"]),
    ("sadd s a", &[]),
    ("srem s a", &["srem s", "del s"]),
    ("sadd s 1", &["new s", "sadd s"]),
    ("flushdb", &[]),
    // Redis tells of the end when somebody asks for the key, the sweep at once.
    ("set z 1 exat 1", &["new z", "set z", "expire z", "expired z"]),
];

#[test]
fn events_are_those_of_redis() {
    let mut store = Store::with(r#""notify":"KEAn""#);
    store.sessions.listen(true);
    for (words, events) in EVENTS {
        store.run(words);
        assert_eq!(store.notices(), *events, "{words}");
    }
    store.run("publish channel payload");
    assert_eq!(store.notices(), [r#"message b"channel" b"payload""#]);
    store.sessions.listen(false);
    store.run("set a 1");
    assert_eq!(store.notices(), [""; 0], "nobody listens");
    let mut store = Store::with(r#""notify":"Eg""#);
    store.sessions.listen(true);
    store.run("set a 1 ex 5");
    assert_eq!(store.notices(), ["expire a"], "the others are not asked for");
}

#[test]
fn whoever_waits_for_notices_is_woken() {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };
    let mut store = Store::with(r#""notify":"EA""#);
    let woken = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&woken);
    store.sessions.on_notice(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    store.run("set a 1");
    assert_eq!(woken.load(Ordering::Relaxed), 0);
    store.sessions.listen(true);
    store.run("mset a 1 b 2");
    assert_eq!(woken.load(Ordering::Relaxed), 1);
}

const FULL: Reply = Reply::error("OOM command not allowed when used memory > 'maxmemory'.");

/// Fills a store of one mebibyte; how many keys that took.
fn fill(store: &mut Store, life: impl Fn(usize) -> String) -> usize {
    let value = "v".repeat(10_000);
    (0..1000)
        .find(|n| store.run(&format!("set k{n} {value}{}", life(*n))) == FULL || store.evicted() > 0)
        .expect("full")
}

impl Store {
    fn evicted(&self) -> u64 {
        self.sessions.stats().totals.evicted
    }
}

#[test]
fn a_full_store_refuses_what_needs_memory() {
    let mut store = Store::with(r#""memory_max":"1MiB""#);
    let keys = fill(&mut store, |_| " px 100000".to_owned());
    assert!((100..110).contains(&keys), "{keys}");
    assert!(store.sessions.stats().bytes < (1 << 20) + 11_000, "over by one command at most");
    assert_eq!(store.run("hset h f v"), FULL);
    assert_eq!(
        store.transaction(&["get k0", "append k0 x"], Vec::new()),
        [Reply::error(
            "EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'."
        )]
    );
    assert!(matches!(store.run("get k0"), Reply::Bulk(_)));
    assert_eq!(store.run("expire k0 100"), Reply::Integer(1));
    assert_eq!(store.run("del k0 k1"), Reply::Integer(2));
    assert_eq!(store.run("hset h f v"), Reply::Integer(1));
}

#[test]
fn a_transaction_passes_the_bound_by_one_command_too() {
    let mut store = Store::with(r#""memory_max":"16MiB""#);
    let calls: Vec<String> = (0..50).map(|n| format!("setrange k{n} 1048575 x")).collect();
    let replies = store.transaction(&calls.iter().map(String::as_str).collect::<Vec<_>>(), Vec::new());
    let done = replies.iter().filter(|reply| matches!(reply, Reply::Integer(_))).count();
    assert_eq!(replies[done..], vec![FULL; 50 - done]);
    assert!((15..=16).contains(&done), "{done}");
    assert!(store.sessions.stats().bytes < 18 << 20, "{}", store.sessions.stats().bytes);
}

#[test]
fn the_key_whose_life_ends_first_gives_way() {
    let mut store = Store::with(r#""memory_max":"1MiB","eviction":"volatile-ttl","notify":"Ee""#);
    store.sessions.listen(true);
    store.run("set stays v");
    let life = |n: usize| format!(" px {}", 1_000_000 - n * 100);
    let keys = fill(&mut store, life);
    assert_eq!(store.notices(), [format!("evicted k{}", keys - 1)], "the last one before has the shortest life");
    assert_eq!(store.run("exists stays"), Reply::Integer(1));
}

#[test]
fn the_key_that_nobody_changed_for_the_longest_gives_way() {
    let mut store = Store::with(r#""memory_max":"1MiB","eviction":"volatile-lru","notify":"Ee""#);
    store.sessions.listen(true);
    store.run("set stays v");
    store.run("set k0 v px 100000");
    store.run("set k1 v px 100000");
    store.run("set k2 v px 100000");
    store.run("touch k0");
    store.run("get k1");
    store.run("persist k2");
    let value = "v".repeat(10_000);
    let full = (10..1000).find(|n| {
        store.run(&format!("set k{n} {value} px 100000"));
        store.evicted() >= 2
    });
    assert!(full.is_some());
    let told = store.notices();
    assert_eq!(told[0], "evicted k1", "reads do not count, touching does: {told:?}");
    assert_eq!(told[1], "evicted k0");
    assert_eq!(store.run("exists stays k2"), Reply::Integer(2), "without an end they stay");
}

#[test]
fn without_keys_that_may_give_way_a_full_store_refuses() {
    let mut store = Store::with(r#""memory_max":"1MiB","eviction":"volatile-lru""#);
    fill(&mut store, |_| String::new());
    assert_eq!(store.run("append k0 x"), FULL);
    assert_eq!(store.evicted(), 0);
}

#[test]
fn another_policy_finds_the_keys_that_are_there() {
    let mut store = Store::with(r#""memory_max":"1MiB""#);
    let keys = fill(&mut store, |_| " px 100000".to_owned());
    let document = r#"{"version":1,"sessions":{"memory_max":"1MiB","eviction":"volatile-lru"}}"#;
    store.sessions.configure(Some(&serde_json::from_str(document).expect("a document")));
    assert_eq!(store.run("append k5 x"), Reply::Integer(10_001));
    assert_eq!((store.run("exists k0"), store.run("exists k1")), (Reply::Integer(0), Reply::Integer(1)), "{keys}");
}

#[test]
fn keys_and_values_have_bounds() {
    let mut store = Store::with(r#""limits":{"value_max":"1KiB","key_max":"64B"}"#);
    let refused = |reply: Reply, with: &str| match reply {
        Reply::Error(text) => assert!(String::from_utf8_lossy(&text).contains(with), "{text:?}"),
        other => panic!("{other:?}"),
    };
    refused(store.run(&format!("set a {}", "v".repeat(1025))), "ERR value is longer than the 1KiB");
    refused(store.run(&format!("set {} v", "k".repeat(65))), "ERR key is longer than the 64B");
    assert_eq!(store.run(&format!("set a {}", "v".repeat(1024))), Reply::OK);
    refused(store.run("append a x"), "ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    refused(store.run("setrange b 1024 x"), "ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    refused(store.run("setrange b 9223372036854775807 x"), "ERR string exceeds maximum");
    assert_eq!(store.run("setrange b 1023 x"), Reply::Integer(1024));
    let call = Call::parse(16, argv("get a")).expect("a command");
    assert_eq!(store.write(Write::one(call)), [Reply::error("ERR DB index is out of range")]);
}

#[test]
fn a_copy_into_a_database_that_is_none_is_refused_as_redis_does() {
    let mut store = Store::new();
    store.run("set a 1");
    let refused = "ERR value is out of range, value must between -2147483648 and 2147483647";
    assert_eq!(store.run("copy a b db 99999999999"), Reply::error(refused));
    assert_eq!(store.run("copy a b db 16"), Reply::error("ERR DB index is out of range"));
    assert_eq!(store.run("copy a b db 15"), Reply::Integer(1));
}

#[test]
fn answers_that_are_asked_for_again_and_again_have_a_bound() {
    let mut store = Store::with(r#""limits":{"output_max":"1MiB"}"#);
    store.run(&format!("set a {}", "v".repeat(4000)));
    store.run(&format!("hset h f {}", "v".repeat(4000)));
    let too_large =
        |reply: &Reply| matches!(reply, Reply::Error(text) if text.starts_with(b"ERR the answers are larger"));
    for words in [
        format!("mget{}", " a".repeat(300)),
        format!("hmget h{}", " f".repeat(300)),
        "hrandfield h -300 withvalues".into(),
    ] {
        assert!(too_large(&store.run(&words)), "{words}");
    }
    let calls = vec![call(&format!("mget{}", " a".repeat(100))); 4];
    let mut replies = Vec::new();
    store.sessions.read(None, &calls, &mut replies).expect("nothing is due");
    assert_eq!(replies.iter().filter(|reply| too_large(reply)).count(), 2, "together they are too large");
    let written = store.write(Write { calls, ..Write::default() });
    assert_eq!(written, replies);
}

#[test]
fn answers_of_one_entry_have_a_bound_together() {
    let mut store = Store::new();
    store.run(&format!("hset h f {}", "v".repeat(8 << 20)));
    let write = Write { calls: vec![call("hget h f"); 7], ..Write::default() };
    let mut answered = 0;
    store.at(store.now);
    for n in 0..6 {
        let replies = store.sessions.apply(&write);
        let full = replies.iter().filter(|reply| matches!(reply, Reply::Bulk(_))).count();
        assert!(replies[full..].iter().all(|reply| starts_with(reply, "OVERLOADED too much was asked")), "{n}");
        answered += full;
    }
    assert_eq!(answered, 31, "256MiB without what answers take beside their bytes");
    assert_eq!(
        store.sessions.apply(&Write::one(call("hstrlen h f"))),
        [Reply::Integer(8 << 20)],
        "there is room for it"
    );
    store.at(store.now);
    assert!(matches!(store.run("hget h f"), Reply::Bulk(_)), "the next entry has its own");
}

#[test]
fn a_value_that_a_write_takes_out_is_answered_whatever_others_ask_for() {
    let mut store = Store::new();
    // With what an answer takes beside its bytes, 32 of them are all that one entry may answer.
    let large = "v".repeat((8 << 20) - 16);
    store.run(&format!("hset h f {large}"));
    store.run(&format!("set large {large}"));
    let value = "v".repeat(100_000);
    let writes = ["getdel a", "getset b w", "set c w get", "set d w xx get ex 9", "getex e ex 9", "set f w nx get"];
    // What others ask for in the same entry, and how many of the writes are answered after it.
    for (others, answered) in [("hget h f", 6), ("getex large", 4)] {
        for key in ["a", "b", "c", "d", "e", "f"] {
            store.run(&format!("set {key} {value}"));
        }
        store.at(store.now);
        for _ in 0..4 {
            store.sessions.apply(&Write { calls: vec![call(others); 8], ..Write::default() });
        }
        assert!(store.sessions.apply(&Write::one(call(others)))[0].is_error(), "{others}: there is no room for more");
        for (n, words) in writes.into_iter().enumerate() {
            let reply = store.sessions.apply(&Write::one(call(words))).remove(0);
            if n < answered {
                assert_eq!(reply, text(&value), "{words} after {others}");
            } else {
                assert!(starts_with(&reply, "ERR this was carried out, but"), "{words} after {others}: {reply:?}");
            }
        }
        assert_eq!(store.read(None, "strlen f"), Ok(Reply::Integer(100_000)), "who is not answered can ask again");
    }
}

#[test]
fn one_value_is_not_copied_where_there_is_no_room_for_it() {
    let mut store = Store::with(r#""limits":{"output_max":"1MiB","value_max":"700KiB"}"#);
    let wide = "v".repeat(700 << 10);
    store.run(&format!("set a {wide}"));
    store.run(&format!("hset h {wide} {wide}"));
    for words in ["getrange a 0 -1".into(), format!("hget h {wide}"), format!("hmget h {wide}"), "hrandfield h".into()]
    {
        let calls = vec![call(&words); 2];
        let mut replies = Vec::new();
        store.sessions.read(None, &calls, &mut replies).expect("nothing is due");
        assert!(matches!(&replies[0], Reply::Bulk(_) | Reply::Array(_)), "{words:.10}");
        assert_eq!(replies[1], Reply::TOO_LARGE, "{words:.10}");
        assert_eq!(store.write(Write { calls, ..Write::default() }), replies, "{words:.10}");
    }
}

#[test]
fn a_walk_meets_what_is_there_from_its_beginning_to_its_end() {
    for (fill, scan, drop) in [
        ("set k{} v", "scan {} count 7", "del k{}"),
        ("hset h k{} v", "hscan h {} count 7", "hdel h k{}"),
        ("sadd s k{}", "sscan s {} count 7", "srem s k{}"),
    ] {
        let mut store = Store::new();
        for n in 0..1000 {
            store.run(&fill.replace("{}", &n.to_string()));
        }
        let (mut cursor, mut met, mut rounds) = ("0".to_owned(), std::collections::BTreeSet::new(), 0);
        loop {
            let Ok(Reply::Array(reply)) = store.read(None, &scan.replace("{}", &cursor)) else { panic!("{scan}") };
            let [Reply::Bulk(next), Reply::Array(found)] = &reply[..] else { panic!("{reply:?}") };
            met.extend(found.iter().map(shown));
            // Even keys stay; odd ones go and others come meanwhile.
            store.run(&drop.replace("{}", &(rounds * 2 + 1).to_string()));
            store.run(&fill.replace("{}", &(1000 + rounds).to_string()));
            rounds += 1;
            cursor = String::from_utf8_lossy(next).into_owned();
            if cursor == "0" {
                break;
            }
            assert!(cursor.parse::<u64>().expect("a number") < 1 << 53, "fits a double");
        }
        for n in (0..1000).step_by(2) {
            assert!(met.contains(&format!("k{n}")), "{scan}: k{n}");
        }
        assert!((100..400).contains(&rounds), "{rounds}");
    }
}

#[test]
fn scripts_of_locks_are_done_natively() {
    let mut store = Store::new();
    let (release, extend, reacquire) = (
        "evalsha c3f8721cbb97f72bc19e972846bd7aaf91901658 1 lock",
        "evalsha a4e8783852e6b949f9ef3a97212805108459a890 1 lock",
        "evalsha 1cac51482acf5858da00f6d685d68f886cd6b6b2 1 lock",
    );
    let done = |reply: Reply| reply == Reply::Integer(1);
    assert!(!done(store.run(&format!("{release} me"))));
    store.run("set lock me px 1000");
    assert!(!done(store.run(&format!("{release} you"))));
    assert!(done(store.run(&format!("{extend} me 500 0"))));
    assert_eq!(store.run("pttl lock"), Reply::Integer(1500));
    assert!(done(store.run(&format!("{extend} me 500 1"))));
    assert_eq!(store.run("pttl lock"), Reply::Integer(500));
    assert!(done(store.run(&format!("{reacquire} me 700"))));
    assert_eq!(store.run("pttl lock"), Reply::Integer(700));
    assert!(done(store.run(&format!("{release} me"))));
    assert_eq!(store.run("exists lock"), Reply::Integer(0));
    store.run("set lock me");
    assert!(!done(store.run(&format!("{extend} me 500 0"))), "without an end there is nothing to extend");
    assert_eq!(call("evalsha 0000000000000000000000000000000000000000 0").class(), Class::Read);
    assert_eq!(call(release).class(), Class::Write);
    assert_eq!(
        store.run("evalsha 0000000000000000000000000000000000000000 0"),
        Reply::error("NOSCRIPT No matching script. Please use EVAL.")
    );
    assert_eq!(
        store.run("script exists b70c2384248f88e6b75b9f89241a180f856ad852 x"),
        Reply::Array(vec![Reply::Integer(1), Reply::Integer(0)])
    );
    assert!(store.run("script load x").is_error());
}

#[test]
fn the_cache_of_aspnet_is_kept_natively() {
    let mut store = Store::new();
    let sha = scripts_of_aspnet();
    let keep = format!("evalsha {sha} 1 k -1 1200 60 bytes");
    assert_eq!(store.run(&keep), Reply::Integer(1));
    assert_eq!(store.run("hmget k absexp sldexp data"), Reply::Array(vec![text("-1"), text("1200"), text("bytes")]));
    assert_eq!(store.run("ttl k"), Reply::Integer(60));
    assert_eq!(store.run(&format!("evalsha {sha} 1 l -1 -1 -1 bytes")), Reply::Integer(1));
    assert_eq!(store.run("ttl l"), Reply::Integer(-1));
    assert!(store.run(&format!("evalsha {sha} 1 m")).is_error());
    assert_eq!(store.run("exists m"), Reply::Integer(0));
    let mut store = Store::with(r#""memory_max":"1MiB""#);
    fill(&mut store, |_| String::new());
    assert_eq!(store.run(&keep), FULL);
}

fn scripts_of_aspnet() -> String {
    let text = "\n                redis.call('HSET', KEYS[1], 'absexp', ARGV[1], 'sldexp', ARGV[2], 'data', ARGV[4])
                if ARGV[3] ~= '-1' then
                  redis.call('EXPIRE', KEYS[1], ARGV[3])
                end
                return 1";
    scripts::sha1(text.as_bytes())
}

#[test]
fn large_values_and_collections_grow_and_shrink() {
    let mut store = Store::new();
    for n in 0..3000 {
        store.run(&format!("hset h f{n} v{n}"));
        store.run(&format!("sadd s m{n}"));
        store.run(&format!("sadd n {n}"));
    }
    assert_eq!(store.run("object encoding h"), text("hashtable"));
    assert_eq!(store.run("object encoding n"), text("hashtable"));
    assert_eq!(store.run("hget h f2999"), text("v2999"));
    assert_eq!(store.run("scard s"), Reply::Integer(3000));
    let big = "x".repeat(100_000);
    store.run(&format!("set big {big}"));
    assert_eq!(store.run("getrange big 99998 -1"), text("xx"));
    for n in 0..3000 {
        assert_eq!(store.run(&format!("hdel h f{n}")), Reply::Integer(1));
        assert_eq!(store.run(&format!("srem s m{n}")), Reply::Integer(1));
        assert_eq!(store.run(&format!("srem n {n}")), Reply::Integer(1));
    }
    store.run("del big");
    let stats = store.sessions.stats();
    assert_eq!((stats.bytes, stats.databases.len()), (0, 0));
}

/// So many keys `k0`, `k1` ... in a few commands.
fn fill_with(store: &mut Store, count: usize, life: &str) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(1000) {
        let calls = chunk.iter().map(|n| call(&format!("set k{n} v{life}"))).collect();
        store.write(Write { calls, ..Write::default() });
    }
}

fn starts_with(reply: &Reply, text: &str) -> bool {
    matches!(reply, Reply::Error(found) if found.starts_with(text.as_bytes()))
}

const TOO_MUCH: &str = "ERR this looks at more keys";

#[test]
fn a_walk_over_much_is_answered_all_the_same_by_readers() {
    // More than are looked at under one lock.
    const KEYS: usize = 40_000;
    let mut store = Store::new();
    fill_with(&mut store, KEYS, " px 100000");
    store.run("set last v");
    for n in 0..40 {
        let fields: String = (0..1000).map(|m| format!(" f{n}-{m} v")).collect();
        store.run(&format!("hset h{fields}"));
    }
    let len = |reply: &Reply| match reply {
        Reply::Array(items) | Reply::Set(items) => items.len(),
        Reply::Map(items) => items.len(),
        _ => 0,
    };
    let calls = ["get last", "keys k*", "hgetall h", "dbsize", "hrandfield h -50000", "get last"].map(call);
    let mut replies = Vec::new();
    store.sessions.read(None, &calls, &mut replies).expect("nothing is due");
    assert_eq!(replies.iter().map(len).collect::<Vec<_>>(), [0, KEYS, 40_000, 0, 50_000, 0]);
    assert_eq!([&replies[0], &replies[5]], [&text("v"), &text("v")]);
    assert_eq!(replies[3], Reply::Integer(KEYS as i64 + 2));
    let now = Some(LogTime::from_millis(1_100_000));
    for words in ["keys k*", "get k0", "dbsize", "randomkey"] {
        let mut replies = vec![Reply::OK];
        for calls in [&[call("get last"), call(words)][..], &[call(words)]] {
            assert_eq!(store.sessions.read(now, calls, &mut replies), Err(Due), "{words}");
        }
        assert_eq!(replies, [Reply::OK], "nothing is added then");
    }
}

#[test]
fn walks_that_everybody_waits_for_have_a_bound_together() {
    let mut store = Store::new();
    store.run(&format!("set {} v", "a".repeat(60_000)));
    // Compared with each beginning that the key has, nearly to its own end.
    let pattern = "*".to_owned() + &"a".repeat(500) + "?b*";
    let keys = call(&format!("keys {pattern}"));
    let calls = vec![call("set a 1"), keys.clone(), keys.clone(), keys.clone(), keys.clone(), call("set a 2")];
    let replies = store.write(Write { calls, atomic: true, ..Write::default() });
    let none = Reply::Array(Vec::new());
    assert_eq!((&replies[0], &replies[1], &replies[2], &replies[5]), (&Reply::OK, &none, &none, &Reply::OK));
    assert!(starts_with(&replies[4], TOO_MUCH), "{:?}", replies[4]);
    assert_eq!(store.run("get a"), text("2"));
    let long = store.read(None, &format!("keys {}", "a".repeat(64 * 1024 + 1))).expect("nothing is due");
    assert!(starts_with(&long, "ERR pattern is longer than the 64KiB"), "{long:?}");
    assert_eq!(store.read(None, &format!("keys {pattern}")), Ok(none), "whoever reads by itself takes its time");
}

#[test]
fn a_name_is_compared_no_longer_than_there_is_work_left() {
    let mut store = Store::new();
    let wide = "a".repeat(1 << 20);
    store.run(&format!("hset h {wide} v"));
    store.run(&format!("sadd s {wide}"));
    // A thousand times a million comparisons.
    let pattern = "*".to_owned() + &"a".repeat(1000) + "?b*";
    for scan in ["hscan h", "sscan s"] {
        let scan = call(&format!("{scan} 0 match {pattern}"));
        let calls = vec![call("set a 1"), scan.clone(), scan, call("set a 2")];
        let replies = store.write(Write { calls, atomic: true, ..Write::default() });
        assert!(replies[1..3].iter().all(|reply| starts_with(reply, TOO_MUCH)), "{replies:?}");
        assert_eq!(replies[3], Reply::OK);
    }
    let quick = "*".to_owned() + &"a".repeat(60_000) + "b*";
    let none = Reply::Array(vec![text("0"), Reply::Array(Vec::new())]);
    assert_eq!(store.run(&format!("hscan h 0 match {quick}")), none, "bytes are searched in one go");
}

#[test]
fn a_walk_that_cannot_compare_a_name_any_more_goes_on_from_it() {
    let mut store = Store::new();
    let wide = "a".repeat(40_000);
    for n in 0..20 {
        store.run(&format!("sadd s {wide}{n}"));
    }
    // One takes a third of what one step may.
    let scan = |cursor: &str| call(&format!("sscan s {cursor} count 100 match *{}?b*", "a".repeat(600)));
    let (mut cursor, mut rounds) = ("0".to_owned(), 0);
    loop {
        store.at(store.now);
        let calls = vec![call("set a 1"), scan(&cursor)];
        let replies = store.write(Write { calls, atomic: true, ..Write::default() });
        let Reply::Array(reply) = &replies[1] else { panic!("{replies:?}") };
        let [Reply::Bulk(next), Reply::Array(found)] = &reply[..] else { panic!("{reply:?}") };
        assert!(found.is_empty());
        cursor = String::from_utf8_lossy(next).into_owned();
        rounds += 1;
        if cursor == "0" {
            break;
        }
    }
    assert!((7..=10).contains(&rounds), "{rounds}");
}

#[test]
fn a_large_string_grows_where_it_is() {
    let mut store = Store::with(r#""limits":{"value_max":"8MiB"}"#);
    store.run(&format!("setrange a {} x", (8 << 20) - 20_000));
    let calls = vec![call("append a x"); 10_000];
    let begun = std::time::Instant::now();
    let replies = store.write(Write { calls, ..Write::default() });
    assert_eq!(replies.last(), Some(&Reply::Integer((8 << 20) - 20_000 + 10_001)));
    // Copying and hashing eight mebibytes each time takes more than a minute.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    assert_eq!(store.run("getrange a -2 -1"), text("xx"));
}

#[test]
fn what_is_written_again_has_a_bound_which_came_with_the_second_rules() {
    use crate::state::{Command, codec};
    let calls: Vec<Call> = (0..12).map(|n| call(&format!("setrange a {} x", (8 << 20) - 12 + n))).collect();
    let write = Write { calls, ..Write::default() };
    let bytes = codec::encode_commands(&[Command::Session(Box::new(write))]);
    let replies = |rules: u8, store: &mut Store| {
        let mut bytes = bytes.clone();
        assert_eq!(bytes[2], 3, "what is sent is carried out by the newest");
        bytes[2] = rules;
        let decoded = codec::decode_commands(&bytes).expect("both are known");
        assert_eq!(codec::encode_commands(&decoded), bytes, "they stay what they were when passed on");
        let [Command::Session(write)] = &decoded[..] else { panic!("{decoded:?}") };
        store.at(store.now);
        store.write((**write).clone())
    };
    let refused = |replies: &[Reply]| replies.iter().filter(|reply| starts_with(reply, "OVERLOADED")).count();
    let mut store = Store::new();
    // Zeros once, then one byte after the other at the end, which costs nothing.
    assert_eq!(refused(&replies(2, &mut store)), 0);
    // Now each is inside.
    let again = replies(2, &mut store);
    assert_eq!(refused(&again), 4, "eight times eight mebibytes are written again: {again:?}");
    assert_eq!(store.run("strlen a"), Reply::Integer(8 << 20));
    assert_eq!(refused(&replies(1, &mut store)), 0);
    assert!(codec::decode_commands(&[&bytes[..2], &[4], &bytes[3..]].concat()).is_err(), "not known");
    // An entry has a bound too, which the next one has anew.
    let each: Vec<usize> = (0..6).map(|_| refused(&replies(2, &mut store))).collect();
    assert_eq!(each, [4; 6], "each of these is an entry: {each:?}");
    let mut in_one = 0;
    store.at(store.now);
    for _ in 0..6 {
        let decoded = codec::decode_commands(&[&bytes[..2], &[2], &bytes[3..]].concat()).expect("known");
        let [Command::Session(write)] = &decoded[..] else { panic!("{decoded:?}") };
        in_one += refused(&store.sessions.apply(write));
    }
    assert!(in_one > 6 * 4, "{in_one}");
}

#[test]
fn sums_of_long_numbers_have_a_bound_which_came_with_the_third_rules() {
    use crate::state::{Command, codec};
    for (fill, add) in [
        ("set a 1e4932", "incrbyfloat a 1"),
        ("hset h f 1e4932", "hincrbyfloat h f 1"),
        ("set b 1", "incrbyfloat b 1e-4931"),
    ] {
        let write = Write { calls: vec![call(add); 2000], ..Write::default() };
        let bytes = codec::encode_commands(&[Command::Session(Box::new(write))]);
        let mut sums = Vec::new();
        for rules in [2, 3] {
            let mut store = Store::new();
            store.run(fill);
            let decoded = codec::decode_commands(&[&bytes[..2], &[rules], &bytes[3..]].concat()).expect("known");
            let [Command::Session(write)] = &decoded[..] else { panic!("{decoded:?}") };
            let replies = store.write((**write).clone());
            sums.push(replies.iter().filter(|reply| matches!(reply, Reply::Bulk(_))).count());
            assert!(replies[sums[sums.len() - 1]..].iter().all(|reply| starts_with(reply, "OVERLOADED")), "{add}");
        }
        assert!(sums[0] == 2000 && (100..1000).contains(&sums[1]), "{add}: {sums:?}");
    }
    let mut store = Store::new();
    let calls = vec![call("incrbyfloat a 0.1"); 20_000];
    let replies = store.write(Write { calls, ..Write::default() });
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Bulk(_))), "{:?}", replies.last());
}

#[test]
fn writes_are_done_even_if_their_answers_are_left_out() {
    let mut store = Store::with(r#""limits":{"output_max":"1MiB"}"#);
    store.run(&format!("set a {}", "v".repeat(100_000)));
    let calls: Vec<Call> = (0..20).flat_map(|n| [call(&format!("getex a px {}", 1000 + n)), call("set b 1")]).collect();
    let replies = store.write(Write { calls, atomic: true, ..Write::default() });
    let answered = replies.iter().filter(|reply| matches!(reply, Reply::Bulk(_))).count();
    let left_out = replies.iter().filter(|reply| starts_with(reply, "ERR this was carried out, but")).count();
    assert_eq!((answered, left_out), (10, 10));
    assert_eq!(replies.iter().filter(|reply| **reply == Reply::OK).count(), 20, "short answers are always given");
    assert_eq!(store.run("pttl a"), Reply::Integer(1019));
}

#[test]
fn answers_stop_at_their_room_and_walks_go_on_from_there() {
    let mut store = Store::with(r#""limits":{"output_max":"64KiB","value_max":"1KiB"}"#);
    let wide = "w".repeat(500);
    for n in 0..200 {
        store.run(&format!("hset h {wide}{n} {wide}"));
        store.run(&format!("sadd s {wide}{n}"));
        store.run(&format!("set {wide}{n} v"));
    }
    for words in ["hgetall h", "hkeys h", "hvals h", "smembers s", "keys *"] {
        let reply = store.read(None, words).expect("nothing is due");
        assert!(starts_with(&reply, "ERR the answers are larger"), "{words}");
    }
    for (words, all) in [("hscan h", 400), ("sscan s", 200), ("scan", 202)] {
        let (mut cursor, mut met, mut rounds) = ("0".to_owned(), 0, 0);
        while rounds == 0 || cursor != "0" {
            let words = format!("{words} {cursor} count 100000");
            let Ok(Reply::Array(reply)) = store.read(None, &words) else { panic!("{words}") };
            let [Reply::Bulk(next), Reply::Array(found)] = &reply[..] else { panic!("{reply:?}") };
            cursor = String::from_utf8_lossy(next).into_owned();
            (met, rounds) = (met + found.len(), rounds + 1);
        }
        assert_eq!(met, all, "{words}");
        assert!(rounds > 1, "{words}");
    }
}

#[test]
fn keys_that_are_over_go_before_others_under_every_policy() {
    for policy in ["noeviction", "volatile-lru", "volatile-ttl"] {
        let mut store = Store::with(&format!(r#""memory_max":"1MiB","eviction":"{policy}","notify":"Eex""#));
        store.sessions.listen(true);
        fill_with(&mut store, 4000, " px 100");
        store.run(&format!("set kept {} px 100000", "v".repeat(600_000)));
        store.notices();
        store.sessions.advance(LogTime::from_millis(1_000_100));
        assert_eq!(store.run("set more v px 100000"), Reply::OK, "{policy}");
        assert_eq!(store.run("exists kept more"), Reply::Integer(2), "{policy}");
        let told = store.notices();
        assert!(!told.is_empty() && told.iter().all(|told| told.starts_with("expired k")), "{policy}: {told:?}");
        assert_eq!(store.evicted(), 0, "{policy}");
    }
}

#[test]
fn whoever_listens_hears_that_a_snapshot_took_the_place_of_events() {
    let store = Store::with(r#""notify":"EA""#);
    store.sessions.replace(&Store::new().sessions);
    assert_eq!(store.notices(), [""; 0], "nobody listens");
    store.sessions.listen(true);
    store.sessions.replace(&Store::new().sessions);
    assert_eq!(store.notices(), ["lost"]);
}

#[test]
fn what_takes_time_to_free_is_handed_out() {
    let mut store = Store::new();
    let large = |store: &mut Store, key: &str| {
        let fields: String = (0..1000).map(|n| format!(" f{n} v")).collect();
        store.run(&format!("hset {key}{fields}"));
        store.sessions.take_garbage().is_empty()
    };
    let left = |store: &mut Store, words: &str| {
        store.run(words);
        !store.sessions.take_garbage().is_empty()
    };
    for words in ["del h", "flushdb", "flushall", "set h v", "rename g h", "copy g h replace", "expire h -1"] {
        assert!(large(&mut store, "h"), "{words}");
        store.run("hset g f v");
        assert!(left(&mut store, words), "{words}");
        store.run("del h");
        store.sessions.take_garbage();
    }
    large(&mut store, "h");
    store.run("pexpire h 10");
    store.at(1_000_010);
    assert!(!store.sessions.take_garbage().is_empty(), "it is over");
    store.run("hset h f v");
    assert!(!left(&mut store, "del h"), "a small one is freed at once");
    large(&mut store, "h");
    store.sessions.replace(&Store::new().sessions);
    assert!(!store.sessions.take_garbage().is_empty(), "a snapshot took its place");
}

#[test]
fn what_is_flushed_again_and_again_does_not_pile_up() {
    let mut store = Store::new();
    for flush in ["flushdb", "flushall"] {
        let calls = (0..100).flat_map(|_| [call(flush), call("set a 1 ex 100"), call("hset h f v")]).collect();
        store.write(Write { calls, ..Write::default() });
        assert!(store.sessions.take_garbage().is_empty(), "{flush}");
    }
    store.run("flushall");
    store.run(&format!("set a {}", "v".repeat(100_000)));
    store.run("flushdb");
    // And no places of keys that were not there.
    assert_eq!(format!("{:?}", store.sessions.take_garbage()), "1 databases of 1 shards, and 0 values");
}

#[test]
fn different_fields_are_drawn() {
    let mut store = Store::new();
    let fields: String = (0..1000).map(|n| format!(" f{n} v")).collect();
    store.run(&format!("hset h{fields}"));
    for wanted in [1, 10, 999, 1000, 2000] {
        let Ok(Reply::Array(drawn)) = store.read(None, &format!("hrandfield h {wanted}")) else { panic!("{wanted}") };
        let different: std::collections::BTreeSet<String> = drawn.iter().map(shown).collect();
        assert_eq!((drawn.len(), different.len()), (wanted.min(1000), wanted.min(1000)));
    }
}
