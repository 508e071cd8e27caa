//! A whole server on a cluster of one in memory, spoken to in raw RESP.

mod support;

use std::sync::atomic::Ordering;

use support::{Ballast, Mood, encode};

#[test]
fn a_value_is_set_and_got() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    assert_eq!(client.say("PING"), "+PONG\r\n");
    assert_eq!(client.say("GET a"), "$-1\r\n");
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
    client.send(b"GET a\r\nECHO 'x y'\r\n");
    assert_eq!(client.answer().unwrap(), b"$1\r\n1\r\n");
    assert_eq!(client.answer().unwrap(), b"$3\r\nx y\r\n");
}

#[test]
fn a_pipeline_is_answered_in_order_and_takes_few_entries() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    let (before, confirmed) = counts(&ballast);
    let mut bytes = Vec::new();
    for n in 0..100 {
        bytes.extend(encode(&[b"SET", format!("k{n}").as_bytes(), b"v"]));
        bytes.extend(encode(&[b"GET", format!("k{n}").as_bytes()]));
    }
    client.send(&bytes);
    for _ in 0..100 {
        assert_eq!(client.answer().unwrap(), b"+OK\r\n");
        assert_eq!(client.answer().unwrap(), b"$1\r\nv\r\n");
    }
    let (after, confirmed_after) = counts(&ballast);
    assert!(after - before <= 5, "{} entries", after - before);
    assert!(confirmed_after - confirmed <= 5);
}

fn counts(ballast: &Ballast) -> (u64, u64) {
    (ballast.cluster.proposals.load(Ordering::SeqCst), ballast.cluster.confirmations.load(Ordering::SeqCst))
}

#[test]
fn without_a_quorum_every_command_is_refused_in_words() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    *ballast.cluster.mood.lock().unwrap() = Mood::NoQuorum;
    client.send(b"SET a 2\r\nGET a\r\nPING\r\n");
    for (start, end) in [("-CLUSTERDOWN no quorum: alone; nothing was changed", "\r\n"); 2] {
        let answer = String::from_utf8(client.answer().unwrap()).unwrap();
        assert!(answer.starts_with(start) && answer.ends_with(end), "{answer}");
    }
    assert_eq!(client.answer().unwrap(), b"+PONG\r\n");
    assert_eq!(client.say("READONLY"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "$1\r\n1\r\n", "stale by its own wish");
    assert_eq!(client.say("READWRITE"), "+OK\r\n");
    assert!(client.say("WATCH a").starts_with("-CLUSTERDOWN"));
    *ballast.cluster.mood.lock().unwrap() = Mood::Unknown;
    assert!(client.say("SET a 3").starts_with("-UNKNOWN outcome unknown"));
    *ballast.cluster.mood.lock().unwrap() = Mood::Overloaded;
    assert!(client.say("SET a 4").starts_with("-OVERLOADED"));
    *ballast.cluster.mood.lock().unwrap() = Mood::Healthy;
    assert_eq!(client.say("GET a"), "$1\r\n3\r\n");
}

#[test]
fn stale_reads_are_served_without_a_quorum_if_the_document_says_so() {
    let ballast = Ballast::start(r#"{"without_quorum":"stale"}"#);
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    *ballast.cluster.mood.lock().unwrap() = Mood::NoQuorum;
    assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
    assert!(client.say("SET a 2").starts_with("-CLUSTERDOWN"));
}

#[test]
fn a_key_whose_end_has_come_is_gone_for_every_read() {
    let ballast = Ballast::start("{}");
    ballast.cluster.now_ms.store(2_000_000_000_000, Ordering::SeqCst);
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1 PX 500"), "+OK\r\n");
    assert_eq!(client.say("PTTL a"), ":500\r\n");
    ballast.cluster.now_ms.store(2_000_000_000_499, Ordering::SeqCst);
    assert_eq!(client.say("PTTL a"), ":1\r\n");
    let before = ballast.cluster.proposals.load(Ordering::SeqCst);
    ballast.cluster.now_ms.store(2_000_000_000_500, Ordering::SeqCst);
    assert_eq!(client.say("GET a"), "$-1\r\n");
    assert_eq!(client.say("PTTL a"), ":-2\r\n");
    assert_eq!(ballast.cluster.proposals.load(Ordering::SeqCst), before + 1, "log time was carried forward once");
    assert_eq!(ballast.server.stats().totals.due_total, 1);
}

#[test]
fn answers_that_are_not_wanted_are_not_sent() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    client.send(b"CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\n");
    assert_eq!(client.answer().unwrap(), b"$1\r\n1\r\n");
    client.send(b"CLIENT REPLY OFF\r\nSET a 2\r\nPING\r\nNOPE\r\nCLIENT REPLY SKIP\r\nMULTI\r\nGET a\r\nEXEC\r\nCLIENT REPLY ON\r\nGET a\r\n");
    assert_eq!(client.answer().unwrap(), b"+OK\r\n");
    assert_eq!(client.answer().unwrap(), b"$1\r\n2\r\n");
}

#[test]
fn connections_see_and_end_each_other() {
    let ballast = Ballast::start("{}");
    let (mut first, mut second) = (ballast.client(), ballast.client());
    assert_eq!(first.say("CLIENT SETNAME one"), "+OK\r\n");
    assert_eq!(second.say("CLIENT SETNAME two"), "+OK\r\n");
    let list = first.say("CLIENT LIST");
    assert!(list.contains("name=one") && list.contains("name=two") && list.contains("cmd=client|list"), "{list}");
    assert!(first.say("CLIENT INFO").contains("name=one"));
    let id = second.say("CLIENT ID").trim().trim_start_matches(':').to_owned();
    assert_eq!(first.say(&format!("CLIENT KILL ID {id}")), ":1\r\n");
    assert_eq!(second.answer(), None);
    assert_eq!(first.say("CLIENT SETINFO LIB-NAME x"), "+OK\r\n");
    assert_eq!(first.say("CLIENT NO-TOUCH on"), "+OK\r\n");
}

#[test]
fn a_drain_answers_what_is_asked_and_closes_what_is_idle() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let left = std::thread::scope(|scope| {
        let drain = scope.spawn(|| runtime.block_on(ballast.server.drain(std::time::Duration::from_secs(10))));
        // Within the grace a command that is on its way is answered.
        assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
        assert_eq!(client.answer(), None);
        drain.join().unwrap()
    });
    assert_eq!(left, 0);
    assert!(std::net::TcpStream::connect(ballast.address).is_err(), "nothing is accepted");
}

#[test]
fn settings_are_followed_while_connections_are_open() {
    let ballast = Ballast::start(
        r#"{"users":[{"name":"default","password_hash":"HASH"}]}"#.replace("HASH", &support::hash("pw")).as_str(),
    );
    let mut client = ballast.client();
    assert_eq!(client.say("AUTH pw"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "$-1\r\n");
    ballast
        .cluster
        .configure(&r#"{"users":[{"name":"other","password_hash":"HASH"}]}"#.replace("HASH", &support::hash("pw")));
    assert_eq!(client.answer(), None, "the user is gone");
    let mut client = ballast.client();
    assert_eq!(client.say("AUTH other pw"), "+OK\r\n");
}

#[test]
fn users_are_kept_to_what_is_theirs() {
    let users = r#"{"users":[
        {"name":"all","password_hash":"HASH"},
        {"name":"reader","password_hash":"HASH","read_only":true},
        {"name":"one","password_hash":"HASH","databases":[1]},
        {"name":"pre","password_hash":"HASH","key_prefixes":["p:"]}]}"#;
    let ballast = Ballast::start(&users.replace("HASH", &support::hash("pw")));
    let mut client = ballast.client();
    assert_eq!(client.say("AUTH reader pw"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "$-1\r\n");
    assert_eq!(client.say("SET a 1"), "-NOPERM this user has no permissions to run the 'set' command\r\n");
    assert_eq!(client.say("AUTH one pw"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "-NOPERM this user has no permissions to use database 0\r\n");
    assert_eq!(client.say("SELECT 2"), "-NOPERM this user has no permissions to use database 2\r\n");
    assert_eq!(client.say("SELECT 1"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "$-1\r\n");
    assert_eq!(client.say("COPY a b DB 3"), "-NOPERM this user has no permissions to use database 3\r\n");
    assert_eq!(client.say("AUTH pre pw"), "+OK\r\n");
    assert_eq!(client.say("SELECT 0"), "+OK\r\n");
    assert_eq!(client.say("SET p:1 x"), "+OK\r\n");
    assert!(client.say("SET q:1 x").starts_with("-NOPERM"));
    assert!(client.say("FLUSHDB").starts_with("-NOPERM"));
    let mut everything = ballast.client();
    assert_eq!(everything.say("AUTH all pw"), "+OK\r\n");
    assert_eq!(everything.say("SET q:1 x"), "+OK\r\n");
    assert_eq!(client.say("KEYS *"), "*1\r\n$3\r\np:1\r\n");
    assert_eq!(client.say("SCAN 0"), "*2\r\n$1\r\n0\r\n*1\r\n$3\r\np:1\r\n");
    client.send(b"MULTI\r\nSET p:2 x\r\nKEYS *\r\nEXEC\r\n");
    let answers: Vec<_> = (0..4).map(|_| String::from_utf8(client.answer().unwrap()).unwrap()).collect();
    assert!(answers[3].starts_with("*2\r\n+OK\r\n*2\r\n") && !answers[3].contains("q:1"), "{answers:?}");
}

#[test]
fn each_command_of_a_pipeline_is_answered_whatever_becomes_of_the_leader() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    assert_eq!(client.say("SET n 0"), "+OK\r\n");
    // Taken from the end.
    *ballast.cluster.next_moods.lock().unwrap() =
        vec![Mood::Healthy, Mood::Overloaded, Mood::NoQuorum, Mood::Unknown, Mood::Healthy];
    client.send(&b"INCR n\r\nPING\r\n".repeat(4));
    client.send(b"MULTI\r\nINCR n\r\nGET n\r\nEXEC\r\nGET n\r\n");
    let starts = [
        ":1\r\n",
        "+PONG",
        "-UNKNOWN outcome unknown",
        "+PONG",
        "-CLUSTERDOWN",
        "+PONG",
        "-OVERLOADED",
        "+PONG",
        "+OK",
        "+QUEUED",
        "+QUEUED",
        "*2\r\n:3\r\n$1\r\n3",
        "$1\r\n3",
    ];
    for start in starts {
        let answer = String::from_utf8(client.answer().unwrap()).unwrap();
        assert!(answer.starts_with(start), "{start}: {answer}");
    }
    assert_eq!(ballast.server.stats().totals.unavailable_total, 3);
}

#[test]
fn the_document_says_where_to_listen() {
    use ballast_core::{config::SessionProtocol, ids::VipId};
    use ballast_sessions::{Place, Wanted};
    let cluster = support::Cluster::new(
        r#"{"listen":["127.0.0.1:6379"],"tls_listen":["0.0.0.0:6380"],
            "http_listen":["127.0.0.1:80"],"http_tls_listen":["0.0.0.0:443"]}"#,
    );
    let wanted = Wanted::of(&cluster.sessions.settings(), |_| None);
    let (resp, http) = (SessionProtocol::Resp, SessionProtocol::Http);
    let at = |address: &str, tls, protocol| Wanted { place: Place::Address(address.parse().unwrap()), tls, protocol };
    let expected = [
        at("127.0.0.1:6379", false, resp),
        at("0.0.0.0:6380", true, resp),
        at("127.0.0.1:80", false, http),
        at("0.0.0.0:443", true, http),
    ];
    assert_eq!(wanted, expected);
    let mut settings = (*cluster.sessions.settings()).clone();
    let vips = r#"[{"vip":"v","port":6379},{"vip":"w","port":1},{"vip":"v","port":80,"tls":true,"protocol":"http"}]"#;
    settings.config.vips = serde_json::from_str(vips).unwrap();
    let known = |name: &str| (name == "v").then(|| (VipId::new(7), vec!["192.0.2.1".parse().unwrap()]));
    let vip = |address: &str| Place::Vip(VipId::new(7), address.parse().unwrap());
    let expected = [
        Wanted { place: vip("192.0.2.1:6379"), tls: false, protocol: resp },
        Wanted { place: vip("192.0.2.1:80"), tls: true, protocol: http },
    ];
    assert_eq!(Wanted::of(&settings, known)[4..], expected);
    settings.enabled = false;
    assert!(Wanted::of(&settings, known).is_empty());
}
