//! What subscribers of a whole server hear.

mod support;

use support::{Ballast, Client, Mood};

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
