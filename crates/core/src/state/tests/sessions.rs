//! The session store as a part of the state: in the log, in snapshots, in the hash.

use bytes::Bytes;
use proptest::prelude::*;

use super::scenario::*;
use crate::{
    ids::LogIndex,
    session::{Call, Key, Reply, Watched, Write},
    state::*,
};

/// Words of a command that is likely to do something.
fn words() -> impl Strategy<Value = String> {
    let key = || (0..6_u8).prop_map(|n| format!("k{n}"));
    let value = || {
        prop_oneof![Just("1".to_owned()), Just("x".repeat(70)), "[a-z]{1,8}", (0..200_u32).prop_map(|n| n.to_string())]
    };
    let life = || prop_oneof![Just(-1_i64), 1..200_000_i64];
    prop_oneof![
        4 => (key(), value(), life()).prop_map(|(k, v, life)| format!("set {k} {v} px {life}")),
        2 => (key(), value()).prop_map(|(k, v)| format!("set {k} {v}")),
        2 => (key(), value()).prop_map(|(k, v)| format!("append {k} {v}")),
        3 => (key(), value(), value()).prop_map(|(k, f, v)| format!("hset h{k} {f} {v}")),
        1 => (key(), value()).prop_map(|(k, f)| format!("hdel h{k} {f}")),
        3 => (key(), value()).prop_map(|(k, m)| format!("sadd s{k} {m}")),
        1 => (key(), value()).prop_map(|(k, m)| format!("srem s{k} {m}")),
        1 => (key(), life()).prop_map(|(k, life)| format!("pexpire {k} {life}")),
        1 => (key(), key()).prop_map(|(a, b)| format!("rename {a} {b}")),
        1 => (key(), key()).prop_map(|(a, b)| format!("copy {a} {b} replace")),
        1 => (key(), key()).prop_map(|(a, b)| format!("copy {a} {b} db 3")),
        1 => key().prop_map(|k| format!("incrbyfloat {k} 1.5")),
        1 => (key(), key()).prop_map(|(a, b)| format!("mset {a} 1 {b} 2")),
        1 => key().prop_map(|k| format!("del {k}")),
        1 => key().prop_map(|k| format!("touch {k}")),
        1 => key().prop_map(|k| format!("get {k}")),
        1 => Just("randomkey".to_owned()),
        1 => Just("scan 0".to_owned()),
        1 => Just("hrandfield hk0 -3 withvalues".to_owned()),
    ]
}

fn call(words: &str) -> Call {
    let argv = words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    Call::parse(0, argv).expect("a command")
}

fn write() -> impl Strategy<Value = Write> {
    let watched = proptest::option::weighted(0.2, (0..6_u8, 0..40_u64));
    (proptest::collection::vec(words(), 1..5), any::<bool>(), watched).prop_map(|(words, atomic, watched)| Write {
        calls: words.iter().map(|words| call(words)).collect(),
        atomic,
        watched: watched
            .into_iter()
            .map(|(key, version)| Watched { database: 0, key: format!("k{key}").into(), version })
            .collect(),
    })
}

/// A cluster of one whose store is as small as one can be, and evicts.
fn scenario(eviction: &str) -> Scenario {
    let mut scenario = Scenario::founded();
    scenario.apply(format!(r#"{{"version":1,"sessions":{{"memory_max":"1MiB","eviction":"{eviction}"}}}}"#));
    scenario
}

fn session(words: &str) -> Command {
    Command::Session(Box::new(Write::one(call(words))))
}

fn reply(s: &mut Scenario, words: &str) -> Reply {
    match s.run(session(words)) {
        Outcome::Session(mut replies) => replies.remove(0),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree_on_sessions_by_way_of_snapshots_too(
        steps in proptest::collection::vec((write(), 0..60_000_u64), 1..60),
        cut in 0..60_usize,
        eviction in prop_oneof![Just("noeviction"), Just("volatile-lru"), Just("volatile-ttl")],
    ) {
        let mut s = scenario(eviction);
        let mut other = s.reread();
        let mut taken = None;
        for (n, (write, wait)) in steps.into_iter().enumerate() {
            if n == cut {
                taken = Some((s.state.snapshot(), s.state.hash(), s.state.sessions().stats()));
                other = s.reread();
            }
            s.now = s.now.plus_millis(wait);
            let filler = format!("set fill{n} {} px 100000", "y".repeat(60_000));
            let mut commands = vec![Command::Session(Box::new(write)), session(&filler)];
            match n % 12 {
                3 | 7 => commands.push(removal("0", Some("k1"))),
                11 => commands.push(removal("0", None)),
                _ => {}
            }
            let entry = s.entry(commands);
            let entry = codec::decode_entry(&codec::encode_entry(&entry)).expect("what was encoded is decoded");
            let index = LogIndex::new(s.state.applied().get() + 1);
            let (mut mine, mut theirs) = (Vec::new(), Vec::new());
            s.state.apply(index, &entry, &mut mine);
            other.apply(index, &entry, &mut theirs);
            prop_assert_eq!(mine, theirs);
            prop_assert_eq!(s.state.hash(), other.hash());
            prop_assert_eq!(s.state.sessions().stats(), other.sessions().stats());
        }
        if let Some((snapshot, hash, stats)) = taken {
            prop_assert_eq!(snapshot.hash(), hash);
            let mut bytes = Vec::new();
            snapshot.write(&mut bytes).expect("a vector takes everything");
            let read = State::read(&mut bytes.as_slice()).expect("what was written is read");
            prop_assert_eq!((read.hash(), read.sessions().stats()), (hash, stats));
        }
    }

    #[test]
    fn writes_outlive_their_encoding(write in write(), cut in any::<prop::sample::Index>()) {
        let command = Command::Session(Box::new(write));
        let bytes = codec::encode_commands(std::slice::from_ref(&command));
        prop_assert_eq!(codec::encoded_len(&command), bytes.len() - 1, "the version takes one byte");
        prop_assert_eq!(codec::decode_commands(&bytes).expect("what was encoded is decoded"), vec![command]);
        let cut = 2 + cut.index(bytes.len() - 2);
        prop_assert!(cut == bytes.len() || codec::decode_commands(&bytes[..cut]).is_err());
    }

    #[test]
    fn garbage_is_no_write(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), likely in any::<bool>()) {
        let mut framed = vec![1, 6];
        if likely && bytes.len() > 4 {
            let op = bytes[3] % 90;
            bytes[..4].copy_from_slice(&[1, 0, 1, op]);
        }
        framed.extend_from_slice(&bytes);
        if let Ok(commands) = codec::decode_commands(&framed) {
            let mut s = scenario("volatile-lru");
            commands.into_iter().for_each(|command| drop(s.run(command)));
        }
    }

    #[test]
    fn damaged_sessions_are_refused(at in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<bool>()) {
        let mut s = scenario("noeviction");
        for words in ["set a 1 px 1000", "hset h f v g w", "sadd n 1 2 3", "sadd s a b", "copy h i db 2"] {
            reply(&mut s, words);
        }
        let mut bytes = Vec::new();
        s.state.snapshot().write(&mut bytes).expect("a vector takes everything");
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        prop_assert!(State::read(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn any_words_have_an_answer(
        words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 1..5),
        name in proptest::option::weighted(0.9, 0..130_usize),
    ) {
        let mut s = scenario("volatile-ttl");
        for words in ["set a 1 px 1000", "hset h f v", "sadd s a b"] {
            reply(&mut s, words);
        }
        let mut argv: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
        if let Some(spec) = name.and_then(|n| crate::session::specs().nth(n)) {
            let mut full: Vec<Bytes> = spec.name.split('|').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
            full.append(&mut argv);
            argv = full;
        }
        for key in ["a", "h", "s"] {
            let argv = argv.iter().map(|word| if word.len() == 1 { Bytes::from_static(key.as_bytes()) } else { word.clone() });
            if let Ok(call) = Call::parse(0, argv.collect()) {
                let read = s.state.sessions().read(Some(s.now), std::slice::from_ref(&call), &mut Vec::new());
                prop_assert_eq!(read, Ok(()));
                let write = Write::one(call);
                prop_assert!(matches!(s.run(Command::Session(Box::new(write))), Outcome::Session(replies) if replies.len() == 1));
            }
        }
    }
}

#[test]
fn a_state_that_never_had_sessions_is_written_and_hashed_as_before() {
    let mut s = Scenario::shop();
    let bytes = |s: &Scenario| {
        let mut bytes = Vec::new();
        s.state.snapshot().write(&mut bytes).expect("a vector takes everything");
        bytes
    };
    assert_eq!(bytes(&s)[8], 1);
    reply(&mut s, "get a");
    assert_eq!(bytes(&s)[8], 1, "a read leaves no trace");
    reply(&mut s, "set a 1");
    assert_eq!(bytes(&s)[8], 2);
    let before = s.state.hash();
    reply(&mut s, "set a 2");
    assert_ne!(s.state.hash(), before);
    // Both as the last release before the session store had them.
    let mut s = Scenario::founded();
    s.wait(5);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&s.state.hash()), "422741fcb18ad89651f36b33dcc7500156cd347c3b59aa9ef1072756518736ed");
    let written = blake3::hash(&bytes(&s)).to_hex();
    assert_eq!(written.as_str(), "a8b88687ab168d474d73448f89105c749024a2f955d8f8794255d579a89f2b64");
}

#[test]
fn neither_keys_nor_values_are_shown() {
    let mut s = scenario("noeviction");
    let write = Write {
        watched: vec![Watched { database: 0, key: "sesame".into(), version: 0 }],
        ..Write::one(call("hset sesame secret secret"))
    };
    let command = Command::Session(Box::new(write));
    let shown = format!("{command:?}");
    s.run(command);
    let shown = format!("{shown} {:?} {:?} {:?}", s.state, s.state.snapshot(), s.state.sessions());
    assert!(!shown.contains("secret") && !shown.contains("sesame"), "{shown}");
}

#[test]
fn nothing_is_kept_before_there_is_a_cluster() {
    let mut s = Scenario::empty();
    assert!(matches!(s.run(session("set a 1")), Outcome::Refused(Refusal::Invalid { .. })));
    assert_eq!(s.state.sessions().stats().changes, 0);
}

#[test]
fn readers_keep_their_handle_when_a_snapshot_replaces_the_state() {
    let mut s = scenario("noeviction");
    reply(&mut s, "set a old");
    let handle = std::sync::Arc::clone(s.state.sessions());
    let generation = handle.settings().generation;
    let mut leader = scenario("volatile-lru");
    reply(&mut leader, "set a new");
    s.state.replace(leader.reread());
    let mut replies = Vec::new();
    handle.read(None, &[call("get a")], &mut replies).expect("nothing is due");
    assert_eq!(replies, [Reply::Bulk("new".into())]);
    assert!(handle.settings().generation > generation, "the document is another");
    let generation = handle.settings().generation;
    s.state.replace(leader.reread());
    assert_eq!(handle.settings().generation, generation, "the document is the same");
    assert_eq!(s.state.hash(), leader.state.hash());
}

#[test]
fn a_snapshot_does_not_see_what_comes_after_it() {
    let mut s = scenario("noeviction");
    for n in 0..500 {
        reply(&mut s, &format!("set k{n} v"));
        reply(&mut s, &format!("hset h f{n} v"));
    }
    let (snapshot, hash) = (s.state.snapshot(), s.state.hash());
    for n in 0..500 {
        reply(&mut s, &format!("append k{n} w"));
        reply(&mut s, &format!("hset h f{n} w"));
    }
    reply(&mut s, "flushall");
    let mut bytes = Vec::new();
    snapshot.write(&mut bytes).expect("a vector takes everything");
    let read = State::read(&mut bytes.as_slice()).expect("what was written is read");
    assert_eq!(read.hash(), hash);
    assert_eq!(snapshot.session_keys(), 501);
}

#[test]
fn what_a_later_release_writes_is_refused_in_words() {
    for (bytes, word) in [
        (vec![1, 6, 4, 0, 0, 0], "upgrade"),
        (vec![1, 6, 1, 0, 1, 200, 1, 0, 0, 0], "upgrade"),
        (vec![1, 6, 1, 7, 0, 0], "damaged"),
    ] {
        let error = codec::decode_commands(&bytes).expect_err("not known").to_string();
        assert!(error.contains(word), "{error}");
    }
}

fn removal(keyspace: &str, key: Option<&'static str>) -> Command {
    let key = key.map(|key| Key::from(Bytes::from_static(key.as_bytes())));
    Command::RemoveSessions { keyspace: keyspace.to_owned(), key, author: author() }
}

#[test]
fn what_administrators_remove_is_in_the_history_without_its_key() {
    let mut s = Scenario::founded();
    s.apply(r#"{"version":1,"sessions":{"databases":4,"keyspaces":[{"name":"shop","database":3}]}}"#.to_owned());
    let in_shop = |words: &str| {
        let argv = words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Command::Session(Box::new(Write::one(Call::parse(3, argv).expect("a command"))))
    };
    for words in ["set sesame 1", "set b 2", "set c 3 px 1000"] {
        s.run(in_shop(words));
    }
    reply(&mut s, "set elsewhere 1");
    let before = s.state.events().count();
    let counted = |outcome: Outcome| match outcome {
        Outcome::Session(replies) => match replies.as_slice() {
            [Reply::Integer(count)] => *count,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let sent = removal("shop", Some("sesame"));
    let bytes = codec::encode_commands(std::slice::from_ref(&sent));
    let read = codec::decode_commands(&bytes).expect("what was encoded").remove(0);
    assert_eq!(read, sent);
    assert_eq!(counted(s.run(read)), 1);
    assert_eq!(counted(s.run(removal("shop", Some("sesame")))), 0);
    assert_eq!(s.state.events().count(), before + 1, "what changed nothing is not told");
    s.wait(1000);
    assert_eq!(counted(s.run(removal("3", None))), 1, "the one whose life is over is not counted");
    assert_eq!(s.state.sessions().count(3), 0);
    assert_eq!(s.state.sessions().count(0), 1);
    let events: Vec<_> =
        s.state.events().take(2).map(|event| (event.kind, event.subject, event.what.clone())).collect();
    let hash = crate::session::key_hash_text(s.state.sessions().key_hash(b"sesame"));
    assert_eq!(events[0], (EventKind::SessionsFlushed, Subject::Sessions(3), "the only key is removed".to_owned()));
    assert_eq!(events[1], (EventKind::SessionKeyDeleted, Subject::Sessions(3), format!("key {hash} is deleted")));
    assert!(s.state.events().take(2).all(|event| event.author == author()));
    assert!(!format!("{sent:?} {:?}", s.state.events().next()).contains("sesame"));
    for nowhere in ["4", "+3", "03", "", "site"] {
        let refused = s.run(removal(nowhere, None));
        assert!(matches!(refused, Outcome::Refused(Refusal::NotFound { .. })), "{nowhere}: {refused:?}");
    }
}

#[test]
fn pages_of_keys_meet_each_once() {
    let mut s = scenario("noeviction");
    for n in 0..500 {
        reply(
            &mut s,
            &format!("set {}:{n} v px {}", if n % 5 == 0 { "a" } else { "b" }, if n < 50 { 1 } else { 9000 }),
        );
    }
    s.wait(10);
    for (prefix, expected) in [("", 450), ("a:", 90), ("c", 0)] {
        let (mut cursor, mut seen, mut count) = (0, std::collections::BTreeSet::new(), 0);
        loop {
            let (keys, next) = s.state.sessions().list(0, cursor, 7, |key| key.starts_with(prefix.as_bytes()));
            assert!(keys.iter().all(|info| s.state.sessions().look_up(0, &info.key).as_ref() == Some(info)));
            count += keys.len();
            seen.extend(keys.into_iter().map(|info| info.key));
            if next == 0 {
                break;
            }
            assert!(next > cursor);
            cursor = next;
        }
        assert_eq!((seen.len(), count), (expected, expected), "{prefix:?}");
    }
    reply(&mut s, "hset h f v g w");
    let info = s.state.sessions().look_up(0, b"h").expect("there");
    assert_eq!((info.kind, info.len, info.expires), ("hash", 2, None));
    assert_eq!(Reply::Integer(info.bytes as i64), reply(&mut s, "memory usage h"));
}

#[test]
fn large_values_go_on_in_the_next_block_of_a_snapshot() {
    let mut s = Scenario::founded();
    s.apply(r#"{"version":1,"sessions":{}}"#.to_owned());
    let section_version = |bytes: &[u8]| {
        let at = bytes.windows(4).position(|four| four == 101_u32.to_le_bytes()).expect("a section");
        bytes[at + 4]
    };
    let written = |s: &Scenario| {
        let mut bytes = Vec::new();
        s.state.snapshot().write(&mut bytes).expect("a vector takes everything");
        bytes
    };
    reply(&mut s, "hset small f v");
    assert_eq!(section_version(&written(&s)), 1, "as it always was");
    for n in 0..40 {
        let value = "x".repeat(100_000);
        reply(&mut s, &format!("hset h f{n} {value}"));
        reply(&mut s, &format!("sadd s {n}{value}"));
    }
    reply(&mut s, "hset z f v");
    let bytes = written(&s);
    assert_eq!(section_version(&bytes), 2);
    let read = State::read(&mut bytes.as_slice()).expect("what was written is read");
    assert_eq!((read.hash(), read.sessions().stats()), (s.state.hash(), s.state.sessions().stats()));
    for cut in [bytes.len() / 2, bytes.len() - 40] {
        assert!(State::read(&mut &bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_string_that_was_changed_in_place_is_that_of_its_snapshot() {
    let mut s = Scenario::founded();
    s.apply(r#"{"version":1,"sessions":{}}"#.to_owned());
    for words in [
        "setrange a 10000 x".to_owned(),
        format!("append a {}", "y".repeat(5000)),
        "setrange a 5 z".to_owned(),
        "setrange a 20000 z".to_owned(),
        "copy a b".to_owned(),
        "append a end".to_owned(),
        "rename b c".to_owned(),
        "setrange c 0 begin".to_owned(),
    ] {
        reply(&mut s, &words);
        assert_eq!(s.reread().hash(), s.state.hash(), "{words}");
    }
}
