//! What subscribers of a whole server hear.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, SaltString},
};
use support::{Ballast, Client, Mood, encode};

#[test]
fn what_is_published_and_what_becomes_of_keys_is_told_to_subscribers_of_any_worker() {
    let ballast = Ballast::start(r#"{"notify":"KEg$x"}"#);
    let mut writer = ballast.client();
    let mut listeners: Vec<_> = (0..4).map(|_| ballast.client()).collect();
    for client in &mut listeners {
        assert_eq!(
            client.say("SUBSCRIBE __keyevent@0__:del"),
            "*3\r\n$9\r\nsubscribe\r\n$20\r\n__keyevent@0__:del\r\n:1\r\n".replace("$20", "$18")
        );
        assert_eq!(
            client.say("PSUBSCRIBE __keyspace@0__:s:* news"),
            "*3\r\n$10\r\npsubscribe\r\n$18\r\n__keyspace@0__:s:*\r\n:2\r\n"
        );
        client.answer().unwrap();
    }
    assert_eq!(writer.say("SET s:1 x"), "+OK\r\n");
    assert_eq!(writer.say("DEL s:1"), ":1\r\n");
    assert_eq!(writer.say("PUBLISH news hello"), ":4\r\n");
    for client in &mut listeners {
        let mut heard = Vec::new();
        for _ in 0..4 {
            heard.push(String::from_utf8(client.answer().unwrap()).unwrap());
        }
        assert_eq!(
            heard[0],
            "*4\r\n$8\r\npmessage\r\n$18\r\n__keyspace@0__:s:*\r\n$18\r\n__keyspace@0__:s:1\r\n$3\r\nset\r\n"
        );
        assert_eq!(
            heard[1],
            "*4\r\n$8\r\npmessage\r\n$18\r\n__keyspace@0__:s:*\r\n$18\r\n__keyspace@0__:s:1\r\n$3\r\ndel\r\n"
        );
        assert_eq!(heard[2], "*3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@0__:del\r\n$3\r\ns:1\r\n");
        assert_eq!(heard[3], "*4\r\n$8\r\npmessage\r\n$4\r\nnews\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    }
    let settings = writer.say("CONFIG GET notify-keyspace-events");
    assert!(settings.contains("KEg$x"), "{settings}");
    assert_eq!(writer.say("CONFIG SET notify-keyspace-events gxE"), "+OK\r\n");
    let refused = writer.say("CONFIG SET notify-keyspace-events AKE");
    assert!(refused.contains("sessions.notify"), "{refused}");
}

#[test]
fn a_pattern_fits_what_it_fits_in_redis() {
    let ballast = Ballast::start("{}");
    let (mut listener, mut writer) = (ballast.client(), ballast.client());
    listener.say("PSUBSCRIBE * h[^a-z]* a\\?");
    listener.answer().unwrap();
    listener.answer().unwrap();
    // Only the empty pattern fits the empty name.
    assert_eq!(writer.call(&[b"PUBLISH", b"", b"x"]), b":0\r\n");
    let mut told = 0;
    for (channel, reached) in [("h", 1), ("hA", 2), ("ha", 1), ("a?", 2), ("ab", 1)] {
        assert_eq!(writer.say(&format!("PUBLISH {channel} x")), format!(":{reached}\r\n"), "{channel}");
        told += reached;
    }
    listener.send(b"PUNSUBSCRIBE *\r\n");
    for _ in 0..told {
        assert!(heard(&mut listener).starts_with("*4\r\n"), "what was told comes first");
    }
    assert!(heard(&mut listener).starts_with("*3\r\n$12\r\npunsubscribe"));
    assert_eq!(writer.say("PUBLISH h x"), ":0\r\n");
}

fn login(ballast: &Ballast, user: &str) -> Client {
    let mut client = ballast.client();
    assert_eq!(client.say(&format!("AUTH {user} pw")), "+OK\r\n");
    client
}

fn heard(client: &mut Client) -> String {
    String::from_utf8(client.answer().expect("something is told")).unwrap()
}

#[test]
fn events_are_told_to_those_who_may_use_the_database_and_the_key() {
    let users = r#"{"notify":"KEA","users":[
        {"name":"all","password_hash":"HASH"},
        {"name":"one","password_hash":"HASH","databases":[1]},
        {"name":"pre","password_hash":"HASH","key_prefixes":["p:"]}]}"#;
    let ballast = Ballast::start(&users.replace("HASH", &support::hash("pw")));
    let (mut writer, mut one, mut pre) = (login(&ballast, "all"), login(&ballast, "one"), login(&ballast, "pre"));
    for client in [&mut one, &mut pre] {
        assert!(client.say("PSUBSCRIBE __keyevent@*__:set").starts_with("*3"));
    }
    for command in ["SET a 1", "SET p:0 1", "SELECT 1", "SET b 1", "SET p:1 1"] {
        assert_eq!(writer.say(command), "+OK\r\n");
    }
    let told = |database: u16, key: &str| {
        let length = key.len();
        format!(
            "*4\r\n$8\r\npmessage\r\n$18\r\n__keyevent@*__:set\r\n$18\r\n__keyevent@{database}__:set\r\n${length}\r\n{key}\r\n"
        )
    };
    assert_eq!((heard(&mut one), heard(&mut one)), (told(1, "b"), told(1, "p:1")));
    assert_eq!((heard(&mut pre), heard(&mut pre)), (told(0, "p:0"), told(1, "p:1")));
}

#[test]
fn nobody_forges_events_and_prefixes_hold_for_channels_as_well() {
    let users = r#"{"notify":"KEA","users":[
        {"name":"all","password_hash":"HASH"},
        {"name":"p","password_hash":"HASH","key_prefixes":["p:"]},
        {"name":"q","password_hash":"HASH","key_prefixes":["q:","r:"]}]}"#;
    let ballast = Ballast::start(&users.replace("HASH", &support::hash("pw")));
    let (mut all, mut p, mut q) = (login(&ballast, "all"), login(&ballast, "p"), login(&ballast, "q"));
    for client in [&mut all, &mut p] {
        let refused = client.say("PUBLISH __keyevent@0__:expired q:1");
        assert!(refused.starts_with("-NOPERM channels that begin with '__key'"), "{refused}");
    }
    let not_his = "-NOPERM this user has no permissions to access one of the channels used as arguments\r\n";
    assert_eq!(p.say("PUBLISH q:news x"), not_his);
    assert_eq!(p.say("SUBSCRIBE p:news q:news"), not_his);
    let mut listener = login(&ballast, "q");
    assert!(listener.say("PSUBSCRIBE *").starts_with("*3"));
    assert!(login(&ballast, "q").say("SUBSCRIBE q:news").starts_with("*3"));
    let mut other = login(&ballast, "q");
    assert!(other.say("SUBSCRIBE q:other __keyevent@0__:del").starts_with("*3"));
    assert_eq!(p.say("PUBSUB CHANNELS *"), "*1\r\n$18\r\n__keyevent@0__:del\r\n");
    assert_eq!(p.say("PUBSUB NUMSUB q:other"), "*2\r\n$7\r\nq:other\r\n:0\r\n");
    assert_eq!(p.say("PUBLISH p:news x"), ":0\r\n", "who listens to everything of another tenant does not hear it");
    assert_eq!(all.say("PUBLISH news x"), ":0\r\n");
    assert_eq!(q.say("PUBLISH r:news x"), ":1\r\n");
    assert_eq!(heard(&mut listener), "*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$6\r\nr:news\r\n$1\r\nx\r\n");
}

#[test]
fn nothing_is_left_of_a_connection_that_ended_by_a_bug() {
    let mut ballast = Ballast::start("{}");
    ballast.panics_wanted = 1;
    let (mut client, mut other) = (ballast.client(), ballast.client());
    assert!(client.say("HELLO 3").starts_with('%'));
    assert!(client.say("SUBSCRIBE news").starts_with(">3"));
    assert_eq!(other.say("PUBSUB NUMSUB news"), "*2\r\n$4\r\nnews\r\n:1\r\n");
    *ballast.cluster.next_moods.lock().unwrap() = vec![Mood::Bug];
    client.send(b"SET a 1\r\n");
    assert_eq!(client.answer(), None);
    assert_eq!(other.say("PUBSUB NUMSUB news"), "*2\r\n$4\r\nnews\r\n:0\r\n");
    assert_eq!(other.say("CLIENT LIST").matches("id=").count(), 1);
    assert_eq!(other.say("PUBLISH news x"), ":0\r\n");
    assert_eq!(ballast.server.stats().totals.panics_total, 1);
}

/// So many messages are heard while subscriptions begin and end, that some come in the midst of it.
const TOLD_MIN: usize = 2000;

/// Lets those who publish stop, also when the test fails.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `listen` while others, on every worker, publish on `news` without a pause. They log in as `user` if there are users.
fn while_others_publish(sessions: &str, user: Option<&str>, listen: impl FnOnce(&Ballast)) {
    let (ballast, over) = (Ballast::start(sessions), AtomicBool::new(false));
    let open = || user.map_or_else(|| ballast.client(), |user| login(&ballast, user));
    // Telling takes long enough for whatever does not wait for its end.
    let mut other = open();
    let patterns: Vec<String> = (0..1000).map(|n| format!("{n}*")).collect();
    let words = std::iter::once("PSUBSCRIBE").chain(patterns.iter().map(String::as_str));
    other.send(&encode(&words.map(str::as_bytes).collect::<Vec<_>>()));
    assert!((0..1000).all(|_| other.answer().unwrap().starts_with(b"*3")));
    let publish = || {
        let mut client = open();
        while !over.load(Ordering::Relaxed) {
            client.send(&encode(&[b"PUBLISH", b"news", b"x"]).repeat(50));
            assert!((0..50).all(|_| client.answer().unwrap().starts_with(b":")));
        }
    };
    std::thread::scope(|scope| {
        let over = Over(&over);
        for _ in 0..4 {
            scope.spawn(publish);
        }
        listen(&ballast);
        drop(over);
    });
}

#[test]
fn nothing_is_told_after_the_answer_that_ends_a_subscription() {
    while_others_publish("{}", None, |ballast| {
        let mut client = ballast.client();
        let mut told = 0;
        let endings = [
            ("UNSUBSCRIBE news\r\n", vec!["*3\r\n$11\r\nunsubscribe"]),
            ("UNSUBSCRIBE\r\nPUNSUBSCRIBE\r\n", vec!["*3\r\n$11\r\nunsubscribe", "*3\r\n$12\r\npunsubscribe"]),
            ("RESET\r\n", vec!["+RESET"]),
        ];
        let mut rounds = 0;
        while rounds < 600 || told < TOLD_MIN {
            let (end, answers) = &endings[rounds % endings.len()];
            rounds += 1;
            assert!(client.say("SUBSCRIBE news").starts_with("*3\r\n$9\r\nsubscribe"));
            client.send(format!("{end}PING\r\n").as_bytes());
            for answer in answers {
                let mut heard = heard(&mut client);
                while heard.starts_with("*3\r\n$7\r\nmessage") {
                    told += 1;
                    heard = self::heard(&mut client);
                }
                assert!(heard.starts_with(answer), "{end:?} {heard:?}");
            }
            assert_eq!(heard(&mut client), "+PONG\r\n", "{end:?}");
        }
    });
}

#[test]
fn a_transaction_that_ends_a_subscription_is_answered_after_all_that_was_told_and_in_one_piece() {
    while_others_publish("{}", None, |ballast| {
        let mut client = ballast.client();
        let (mut rounds, mut told) = (0, 0);
        while rounds < 150 || told < TOLD_MIN {
            rounds += 1;
            client.send(b"MULTI\r\nSUBSCRIBE other\r\nUNSUBSCRIBE news other\r\nSET a 1\r\nEXEC\r\n");
            for start in ["+OK", "+QUEUED", "+QUEUED", "+QUEUED"] {
                assert!(heard(&mut client).starts_with(start));
            }
            // Confirmations are more than one answer each, as in Redis.
            let mut answer = heard(&mut client);
            answer += &heard(&mut client);
            assert!(answer.starts_with("*3\r\n*3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:1\r\n"), "{answer}");
            assert!(answer.ends_with("+OK\r\n"), "{answer}");
            assert_eq!(client.say("HELLO 3")[..1], *"%");
            assert!(client.say("SUBSCRIBE news").starts_with(">3"));
            client.send(b"MULTI\r\nSUBSCRIBE other\r\nUNSUBSCRIBE news\r\nUNSUBSCRIBE other\r\nEXEC\r\nPING\r\n");
            let mut answers = Vec::new();
            while answers.len() < 6 {
                let heard = heard(&mut client);
                if heard.starts_with(">3\r\n$7\r\nmessage") {
                    assert!(answers.len() < 5, "told after {answers:?}");
                    told += 1;
                } else {
                    answers.push(heard);
                }
            }
            assert!(answers[4].starts_with("*3\r\n>3\r\n$9\r\nsubscribe"), "{answers:?}");
            assert!(!answers[4].contains("message"), "{answers:?}");
            assert_eq!(answers[5], "+PONG\r\n");
            assert!(client.say("HELLO 2").starts_with("*14"));
        }
    });
}

#[test]
fn what_is_told_after_a_change_of_the_version_is_told_in_the_new_one() {
    // A password that is not known yet takes long enough for others to publish meanwhile.
    let slow = |password: String| {
        let salt = SaltString::from_b64("c2FsdHNhbHQ").unwrap();
        Argon2::default().hash_password(password.as_bytes(), &salt).unwrap().to_string()
    };
    let user = |name: &str, hash: String| format!(r#"{{"name":"{name}","password_hash":"{hash}"}}"#);
    let users = (0..5).map(|n| user(&format!("u{n}"), slow(format!("pw{n}"))));
    let users: Vec<_> = users.chain([user("all", support::hash("pw"))]).collect();
    while_others_publish(&format!(r#"{{"users":[{}]}}"#, users.join(",")), Some("all"), |ballast| {
        let mut client = login(ballast, "all");
        for n in 0..5 {
            assert!(client.say("HELLO 3").starts_with('%'));
            assert!(client.say("SUBSCRIBE news").starts_with(">3\r\n$9\r\nsubscribe"));
            client.send(format!("HELLO 2 AUTH u{n} pw{n}\r\nUNSUBSCRIBE\r\nPING\r\n").as_bytes());
            let mut mark = ">3\r\n$7\r\nmessage";
            loop {
                let heard = heard(&mut client);
                match &heard {
                    _ if heard.starts_with("*14") => mark = "*3\r\n$7\r\nmessage",
                    _ if heard == "+PONG\r\n" => break,
                    _ if heard.starts_with("*3\r\n$11\r\nunsubscribe") => mark = "nothing",
                    _ => assert!(heard.starts_with(mark), "{heard:?} instead of {mark:?}"),
                }
            }
        }
    });
}

#[test]
fn a_large_message_to_many_is_kept_once() {
    // The budget is 256 MiB, and copies for all would take 480. The last one reads when all others have.
    let ballast = Ballast::start(
        r#"{"memory_max":"1MiB","limits":{"request_max":"16MiB","output_max":"16MiB","write_timeout":"10m"}}"#,
    );
    let mut listeners: Vec<_> = (0..60).map(|_| ballast.client()).collect();
    for client in &mut listeners {
        assert!(client.say("SUBSCRIBE news").starts_with("*3"));
    }
    let payload = vec![b'p'; 8 << 20];
    let mut writer = ballast.client();
    assert_eq!(writer.call(&[b"PUBLISH", b"news", &payload]), b":60\r\n");
    assert_eq!(writer.say("PUBLISH news short"), ":60\r\n");
    for client in &mut listeners {
        let told = client.answer().expect("nobody is cut");
        assert!(told.starts_with(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$8388608\r\nppp") && told.ends_with(b"p\r\n"));
        assert_eq!(heard(client), "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nshort\r\n");
    }
    assert_eq!(ballast.server.stats().totals.cut_total, 0);
}

#[test]
fn a_pattern_that_takes_too_much_does_not_fit_and_costs_others_nothing() {
    let ballast = Ballast::start("{}");
    let (mut listener, mut writer) = (ballast.client(), ballast.client());
    let greedy = [b"*".to_vec(), b"[ab]".repeat(4000), b"c*".to_vec()].concat();
    for pattern in [&greedy[..], b"a*", b"*c"] {
        assert!(listener.call(&[b"PSUBSCRIBE", pattern]).starts_with(b"*3"));
    }
    assert_eq!(writer.call(&[b"PUBLISH", &[&[b'a'; 4000][..], b"c"].concat(), b"x"]), b":3\r\n", "it would fit");
    let long = [&[b'a'; 50_000][..], b"c"].concat();
    assert_eq!(writer.call(&[b"PUBLISH", &long, b"x"]), b":2\r\n");
    assert!(writer.call(&[b"SUBSCRIBE", &long]).starts_with(b"*3"));
    let mut other = ballast.client();
    let refused = String::from_utf8(other.call(&[b"PUBSUB", b"CHANNELS", &greedy])).unwrap();
    assert!(refused.starts_with("-ERR it takes too much"), "{refused}");
    assert!(other.say("PUBSUB CHANNELS a*c").starts_with("*1\r\n$50001\r\n"));
}
