//! A whole server on a cluster of one in memory, spoken to in raw RESP.

mod support;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use ballast_sessions::{Place, Wanted};
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
    client.send(b"MULTI\r\nSET a 5\r\n");
    assert_eq!((client.answer().unwrap(), client.answer().unwrap()), (b"+OK\r\n".to_vec(), b"+QUEUED\r\n".to_vec()));
    *ballast.cluster.mood.lock().unwrap() = Mood::Healthy;
    assert!(client.say("EXEC").starts_with("-EXECABORT"), "nothing was watched");
    client.send(b"MULTI\r\nGET a\r\n");
    assert_eq!((client.answer().unwrap(), client.answer().unwrap()), (b"+OK\r\n".to_vec(), b"+QUEUED\r\n".to_vec()));
    assert_eq!(client.say("EXEC"), "*1\r\n$1\r\n1\r\n", "what was refused was given up");
    // One that succeeds does not make up for another, and what was watched before it stays so.
    *ballast.cluster.mood.lock().unwrap() = Mood::NoQuorum;
    assert!(client.say("WATCH b").starts_with("-CLUSTERDOWN"));
    *ballast.cluster.mood.lock().unwrap() = Mood::Healthy;
    assert_eq!(client.say("WATCH a"), "+OK\r\n");
    client.send(b"MULTI\r\nGET a\r\n");
    assert_eq!((client.answer().unwrap(), client.answer().unwrap()), (b"+OK\r\n".to_vec(), b"+QUEUED\r\n".to_vec()));
    assert!(client.say("EXEC").starts_with("-EXECABORT"));
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
        let drain = scope.spawn(|| runtime.block_on(ballast.server.drain(std::time::Duration::from_secs(60))));
        // Within the grace a command that is on its way is answered.
        assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
        assert_eq!(client.answer(), None);
        drain.join().unwrap()
    });
    assert_eq!(left, 0);
    // Each worker closes its own socket, the last of them a moment later.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::net::TcpStream::connect(ballast.address).is_ok() {
        assert!(std::time::Instant::now() < until, "connections are still taken");
        std::thread::yield_now();
    }
}

#[test]
fn a_drain_does_not_wait_for_a_client_that_is_never_idle() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| runtime.block_on(ballast.server.drain(std::time::Duration::from_secs(3600))));
        // Each command is answered or not begun; the client asks again at once.
        loop {
            if !client.try_send(b"INCR a\r\n") || client.answer().is_none() {
                break;
            }
        }
        assert_eq!(drain.join().unwrap(), 0);
    });
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
    assert!(client.answer().unwrap().starts_with(b"-NOAUTH"), "the user is gone");
    assert_eq!(client.answer(), None);
    let mut client = ballast.client();
    assert_eq!(client.say("AUTH other pw"), "+OK\r\n");
}

#[test]
fn who_never_logged_in_does_not_become_the_default_user() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    let users = r#"{"users":[{"name":"default","password_hash":"HASH"}]}"#.replace("HASH", &support::hash("pw"));
    ballast.cluster.configure(&users);
    let told = String::from_utf8(client.answer().unwrap()).unwrap();
    assert!(told.starts_with("-NOAUTH the users of the session store were changed"), "{told}");
    assert_eq!(client.answer(), None, "it has to come again and log in");
    let mut client = ballast.client();
    assert!(client.say("GET a").starts_with("-NOAUTH"));
    assert_eq!(client.say("AUTH pw"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
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
    assert_eq!(client.say("WATCH a"), "-NOPERM this user has no permissions to use database 0\r\n");
    assert_eq!(client.say("SELECT 2"), "-NOPERM this user has no permissions to use database 2\r\n");
    assert_eq!(client.say("SELECT 1"), "+OK\r\n");
    assert_eq!(client.say("WATCH a"), "+OK\r\n");
    assert_eq!(client.say("UNWATCH"), "+OK\r\n");
    assert_eq!(client.say("GET a"), "$-1\r\n");
    assert_eq!(client.say("COPY a b DB 3"), "-NOPERM this user has no permissions to use database 3\r\n");
    assert_eq!(client.say("AUTH pre pw"), "+OK\r\n");
    assert_eq!(client.say("SELECT 0"), "+OK\r\n");
    assert_eq!(client.say("SET p:1 x"), "+OK\r\n");
    assert!(client.say("SET q:1 x").starts_with("-NOPERM"));
    assert!(client.say("FLUSHDB").starts_with("-NOPERM"));
    let mut everything = ballast.client();
    assert_eq!(everything.say("AUTH all pw"), "+OK\r\n");
    assert_eq!(everything.say("SELECT 1"), "+OK\r\n");
    assert_eq!(everything.say("SET b x"), "+OK\r\n");
    assert_eq!(everything.say("SELECT 0"), "+OK\r\n");
    assert_eq!(everything.say("SET q:1 x"), "+OK\r\n");
    for (user, databases) in
        [("all", ["db0", "db1"].as_slice()), ("reader", &["db0", "db1"]), ("one", &["db1"]), ("pre", &[])]
    {
        let mut client = ballast.client();
        assert_eq!(client.say(&format!("AUTH {user} pw")), "+OK\r\n");
        let info = client.say("INFO keyspace");
        let told: Vec<&str> = info.lines().filter_map(|line| line.split_once(":keys=")).map(|(name, _)| name).collect();
        assert_eq!(told, databases, "{user}: {info}");
    }
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

#[test]
fn a_transaction_that_finds_the_memory_full_is_refused_as_a_whole() {
    let ballast = Ballast::start(r#"{"memory_max":"1MiB"}"#);
    let mut client = ballast.client();
    let value = vec![b'v'; 2 << 20];
    assert_eq!(client.call(&[b"SET", b"big", &value]), b"+OK\r\n");
    assert_eq!(client.say("SET a 1"), "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
    // As redis-server 7.0 answers when its memory has become full since the commands were queued.
    let full =
        "-EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.\r\n";
    for commands in [&["SET a 1"][..], &["GET a", "SET a 1", "PING"]] {
        assert_eq!(client.say("MULTI"), "+OK\r\n");
        commands.iter().for_each(|command| assert_eq!(client.say(command), "+QUEUED\r\n"));
        assert_eq!(client.say("EXEC"), full);
    }
    client.send(b"MULTI\r\nSTRLEN big\r\nDEL big\r\nEXEC\r\n");
    let answers: Vec<_> = (0..4).map(|_| String::from_utf8(client.answer().unwrap()).unwrap()).collect();
    assert_eq!(answers[3], format!("*2\r\n:{}\r\n:1\r\n", 2 << 20));
    assert_eq!(ballast.server.stats().totals.unavailable_total, 0);
}

#[test]
fn stale_reads_do_not_bring_back_keys_that_are_over() {
    let ballast = Ballast::start("{}");
    ballast.cluster.now_ms.store(2_000_000_000_000, Ordering::SeqCst);
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1 PX 500"), "+OK\r\n");
    assert_eq!(client.say("SET b 1"), "+OK\r\n");
    assert_eq!(client.say("READONLY"), "+OK\r\n");
    let (said, after) =
        (["GET a", "EXISTS a b", "KEYS *", "DBSIZE", "TTL a"], ["$-1", ":1", "*1\r\n$1\r\nb", ":1", ":-2"]);
    assert_eq!(client.say("DBSIZE"), ":2\r\n");
    // Nothing is written any more, so log time stands still on this node.
    *ballast.cluster.mood.lock().unwrap() = Mood::NoQuorum;
    ballast.cluster.now_ms.store(2_000_000_000_500, Ordering::SeqCst);
    let before = ballast.cluster.proposals.load(Ordering::SeqCst);
    for (command, answer) in said.into_iter().zip(after) {
        assert_eq!(client.say(command), format!("{answer}\r\n"), "{command}");
    }
    assert_eq!(ballast.cluster.proposals.load(Ordering::SeqCst), before);
}

#[test]
fn keys_that_are_over_are_gone_though_log_time_cannot_be_carried_forward() {
    let limits = r#""limits":{"value_max":"1MiB","output_max":"2MiB"}"#;
    let ballast = Ballast::start(&format!(r#"{{"without_quorum":"stale",{limits}}}"#));
    ballast.cluster.now_ms.store(2_000_000_000_000, Ordering::SeqCst);
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1 PX 500"), "+OK\r\n");
    let value = vec![b'v'; 1 << 20];
    assert_eq!(client.call(&[b"SET", b"big", &value]), b"+OK\r\n");
    let (before, _) = counts(&ballast);
    ballast.cluster.now_ms.store(2_000_000_000_500, Ordering::SeqCst);
    // The quorum is lost between the confirmation and the tick.
    *ballast.cluster.next_moods.lock().unwrap() = vec![Mood::NoQuorum];
    assert_eq!(client.say("GET a"), "$-1\r\n");
    assert_eq!(counts(&ballast).0, before + 1, "a tick was tried");
    *ballast.cluster.mood.lock().unwrap() = Mood::NoQuorum;
    client.send(b"GET big\r\nGET big\r\nGET big\r\nGET a\r\n");
    assert!((0..3).all(|_| client.answer().unwrap().len() == (1 << 20) + 12));
    assert_eq!(client.answer().unwrap(), b"$-1\r\n");
    assert_eq!(counts(&ballast).0, before + 1, "what was read stale at first is read so to its end");
}

#[test]
fn what_is_not_allowed_any_more_at_exec_is_refused_in_its_place() {
    let user = |rest: &str| {
        let text = r#"{"users":[{"name":"default","password_hash":"HASH"REST}]}"#;
        text.replace("HASH", &support::hash("pw")).replace("REST", rest)
    };
    let ballast = Ballast::start(&user(""));
    let mut client = ballast.client();
    let queued = ["SET p:a 1", "GET q:a", "PUBLISH q x", "PING"];
    // As redis-server 7.0 answers after an ACL SETUSER between MULTI and EXEC.
    let changed = "-NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This \
                   command is no longer allowed for the following reason: no permission to";
    let cases = [
        (r#","read_only":true"#, [" execute the command or subcommand", "$-1", " execute the command or subcommand"]),
        (
            r#","key_prefixes":["p:"]"#,
            ["+OK", " touch the specified keys", " access one of the channels used as arguments"],
        ),
        (r#","databases":[1]"#, [" use database 0", " use database 0", " use database 0"]),
    ];
    for (limits, answers) in cases {
        ballast.cluster.configure(&user(""));
        let mut everything = ballast.client();
        assert_eq!(everything.say("AUTH pw"), "+OK\r\n");
        assert_eq!(everything.say("DEL p:a q:a").len(), 4);
        assert_eq!(client.say("AUTH pw"), "+OK\r\n");
        assert_eq!(client.say("MULTI"), "+OK\r\n");
        queued.iter().for_each(|command| assert_eq!(client.say(command), "+QUEUED\r\n"));
        ballast.cluster.configure(&user(limits));
        let answer =
            |text: &str| if text.starts_with(' ') { format!("{changed}{text}\r\n") } else { format!("{text}\r\n") };
        let want: String = answers.iter().map(|text| answer(text)).collect();
        assert_eq!(client.say("EXEC"), format!("*4\r\n{want}+PONG\r\n"), "{limits}");
    }
}

#[test]
fn stale_reads_without_a_quorum_wait_once_and_not_each() {
    let ballast = Ballast::start_with(
        r#"{"without_quorum":"stale","limits":{"deadline":"1s"}}"#,
        vec![Wanted {
            place: Place::Address(support::LOCAL),
            tls: false,
            protocol: ballast_core::config::SessionProtocol::Resp,
        }],
        None,
        1,
    );
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    ballast.cluster.patient.store(true, Ordering::SeqCst);
    *ballast.cluster.mood.lock().unwrap() = Mood::NoQuorum;
    assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
    let began = Instant::now();
    // A hundred seconds if each waits.
    for _ in 0..100 {
        assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}: they wait for nothing", began.elapsed());
    // Once there is a quorum again, reads are current again.
    *ballast.cluster.mood.lock().unwrap() = Mood::Healthy;
    let before = ballast.cluster.confirmations.load(Ordering::SeqCst);
    let confirmed = || ballast.cluster.confirmations.load(Ordering::SeqCst) - before;
    let healed = Instant::now();
    while confirmed() < 5 {
        assert!(healed.elapsed() < Duration::from_secs(60), "reads stay stale");
        assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
    }
}

#[test]
fn what_arrives_together_has_one_deadline() {
    let ballast = Ballast::start(r#"{"limits":{"deadline":"2s"}}"#);
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    ballast.cluster.patient.store(true, Ordering::SeqCst);
    *ballast.cluster.mood.lock().unwrap() = Mood::NoQuorum;
    let began = Instant::now();
    // Twenty runs, and forty seconds if each waits for itself.
    client.send(&b"GET a\r\nSET a 2\r\nGET a\r\nPING\r\nMULTI\r\nSET a 3\r\nEXEC\r\n".repeat(20));
    let answers: Vec<_> = (0..140).map(|_| String::from_utf8(client.answer().unwrap()).unwrap()).collect();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    for (at, start) in
        ["-CLUSTERDOWN", "-CLUSTERDOWN", "-CLUSTERDOWN", "+PONG", "+OK", "+QUEUED", "-CLUSTERDOWN"].iter().enumerate()
    {
        assert!(answers.iter().skip(at).step_by(7).all(|answer| answer.starts_with(start)), "{answers:?}");
    }
    *ballast.cluster.mood.lock().unwrap() = Mood::Healthy;
    assert_eq!(client.say("GET a"), "$1\r\n1\r\n", "the next request has its own");
}

#[test]
fn a_read_is_never_told_that_its_outcome_is_unknown() {
    let ballast = Ballast::start("{}");
    ballast.cluster.now_ms.store(2_000_000_000_000, Ordering::SeqCst);
    let mut client = ballast.client();
    for key in ["a", "b"] {
        assert_eq!(client.say(&format!("SET {key} 1 PX 500")), "+OK\r\n");
        ballast.cluster.now_ms.fetch_add(500, Ordering::SeqCst);
        *ballast.cluster.next_moods.lock().unwrap() = vec![Mood::Unknown];
        let command = if key == "a" { "GET a" } else { "WATCH b" };
        let told = client.say(command);
        assert!(told.starts_with("-CLUSTERDOWN no quorum: log time was not carried forward"), "{told}");
    }
}

#[test]
fn what_is_small_is_not_refused_because_something_large_follows() {
    let ballast = Ballast::start(r#"{"limits":{"value_max":"15MiB","request_max":"16MiB"}}"#);
    let mut client = ballast.client();
    let (small, large) = (vec![b's'; 500 << 10], vec![b'l'; 15 << 20]);
    let smalls = [b"s", b"t", b"u"].map(|key| encode(&[b"SET", key, &small])).concat();
    client.send(&[smalls, encode(&[b"SET", b"l", &large]), encode(&[b"INCR", b"n"])].concat());
    for _ in 0..3 {
        assert_eq!(client.answer().unwrap(), b"+OK\r\n");
    }
    assert_eq!(client.answer().unwrap(), b"+OK\r\n");
    assert_eq!(client.answer().unwrap(), b":1\r\n");
}

#[test]
fn reads_that_may_take_long_do_not_go_through_the_log() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    for (read, entries) in
        [("GET a", 1), ("SCAN 0 COUNT 10", 1), ("KEYS *", 2), ("SCAN 0 COUNT 100000", 2), ("HRANDFIELD h 9", 2)]
    {
        let (before, _) = counts(&ballast);
        client.send(format!("SET a 1\r\n{read}\r\nSET b 1\r\n").as_bytes());
        assert_eq!(client.answer().unwrap(), b"+OK\r\n");
        assert_ne!(client.answer().unwrap()[0], b'-');
        assert_eq!(client.answer().unwrap(), b"+OK\r\n");
        assert_eq!(counts(&ballast).0 - before, entries, "{read}");
    }
    client.send(b"FLUSHALL\r\nSET a 1\r\nKEYS *\r\nSET b 1\r\n");
    let answers: Vec<_> = (0..4).map(|_| String::from_utf8(client.answer().unwrap()).unwrap()).collect();
    assert_eq!(answers[2], "*1\r\n$1\r\na\r\n", "in its place");
}

#[test]
fn a_long_read_holds_up_nobody_else() {
    // One worker serves both.
    let wanted = Wanted {
        place: Place::Address(support::LOCAL),
        tls: false,
        protocol: ballast_core::config::SessionProtocol::Resp,
    };
    let ballast = Ballast::start_with("{}", vec![wanted], None, 1);
    let (mut long, mut other) = (ballast.client(), ballast.client());
    for n in 0..40 {
        let key = [&[b'a'; 60_000][..], format!("{n}").as_bytes()].concat();
        assert_eq!(other.call(&[b"SET", &key, b"1"]), b"+OK\r\n");
    }
    let pattern = [b"*".to_vec(), b"[ab]".repeat(300), b"c*".to_vec()].concat();
    let (is_sent, is_answered) = (AtomicBool::new(false), AtomicBool::new(false));
    let meanwhile = std::thread::scope(|scope| {
        scope.spawn(|| {
            long.send(&encode(&[b"KEYS", &pattern]));
            is_sent.store(true, Ordering::SeqCst);
            let answer = String::from_utf8(long.answer().unwrap()).unwrap();
            assert!(answer.starts_with("*0") || answer.starts_with("-ERR this looks at more keys"), "{answer}");
            is_answered.store(true, Ordering::SeqCst);
        });
        while !is_sent.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut answers = 0;
        while !is_answered.load(Ordering::SeqCst) {
            assert_eq!(other.say("PING"), "+PONG\r\n");
            answers += 1;
        }
        answers
    });
    // A worker that is held up answers what came before it took the other's command, and once after it.
    assert!(meanwhile > 20, "{meanwhile}");
}
