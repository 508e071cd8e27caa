//! What clients should not do, and what becomes of it.

mod support;

use std::time::Duration;

use ballast_sessions::{Place, ServerOptions, Wanted};
use support::{Ballast, Client, LOCAL, Redis, encode};

#[test]
fn what_is_no_request_is_answered_as_redis_does_and_ends_the_connection() {
    let redis = Redis::start(&[]);
    let ballast = Ballast::start("{}");
    let long = |byte: u8| vec![byte; 70_000];
    let inputs: Vec<Vec<u8>> = vec![
        b"*1\r\n$2147483648\r\n".to_vec(),
        b"*1\r\n$-1\r\n".to_vec(),
        b"*1\r\n$x\r\n".to_vec(),
        b"*2147483648\r\n".to_vec(),
        b"*x\r\n".to_vec(),
        b"*1\r\n:1\r\n".to_vec(),
        b"*1\r\n*1\r\n$4\r\nPING\r\n".to_vec(),
        b"GET 'a\r\n".to_vec(),
        long(b'a'),
        [b"*1\r\n".to_vec(), long(b'$')].concat(),
        b"PING\r\n*1\r\n$x\r\nPING\r\n".to_vec(),
    ];
    for input in inputs {
        let shown = String::from_utf8_lossy(&input[..input.len().min(40)]).into_owned();
        let mut client = ballast.client();
        client.send(&input);
        let ours = client.rest();
        assert!(ours.windows(20).any(|text| text == b"-ERR Protocol error: "[..20].as_ref()), "{shown}: {ours:?}");
        if let Some(redis) = &redis {
            let mut client = redis.client();
            client.send(&input);
            assert_eq!(
                String::from_utf8_lossy(&ours),
                String::from_utf8_lossy(&client.rest()),
                "{shown}: as Redis answers"
            );
        }
    }
    assert_eq!(ballast.client().say("PING"), "+PONG\r\n", "others are served on");
}

#[test]
fn what_a_browser_can_be_made_to_send_is_not_listened_to() {
    let ballast = Ballast::start("{}");
    for head in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\n", "*1\r\n$4\r\npost\r\n"] {
        let mut client = ballast.client();
        client.send(head.as_bytes());
        client.send(b"SET forged 1\r\n");
        let said = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(!said.contains("+OK"), "{head:?}: {said:?}");
    }
    assert_eq!(ballast.client().say("GET forged"), "$-1\r\n");
}

#[test]
fn a_million_words_are_answered_and_more_are_refused() {
    let ballast = Ballast::start(r#"{"limits":{"request_max":"16MiB","arguments_max":1048576}}"#);
    let mut client = ballast.client();
    client.send(b"*1048577\r\n");
    let told = b"-ERR Protocol error: a request may have 1048576 words at most (sessions.limits.arguments_max)\r\n";
    assert_eq!(client.rest(), told);
    let mut client = ballast.client();
    let mut bytes = b"*1000000\r\n$3\r\nDEL\r\n".to_vec();
    bytes.extend(b"$1\r\na\r\n".repeat(999_999));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(ballast.client().say("PING"), "+PONG\r\n");
        });
        client.send(&bytes);
        assert_eq!(client.answer().unwrap(), b":0\r\n");
    });
}

#[test]
fn a_transaction_of_too_many_words_is_refused_as_a_whole() {
    let ballast = Ballast::start(r#"{"limits":{"arguments_max":16}}"#);
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    assert_eq!(client.say("MULTI"), "+OK\r\n");
    let words: Vec<&[u8]> =
        std::iter::once(b"DEL".as_slice()).chain(std::iter::repeat_n(b"a".as_slice(), 15)).collect();
    for _ in 0..4096 {
        assert_eq!(client.call(&words), b"+QUEUED\r\n");
    }
    let told = String::from_utf8(client.call(&words)).unwrap();
    assert!(told.starts_with("-ERR the transaction is too large") && told.contains("arguments_max"), "{told}");
    assert!(client.say("EXEC").starts_with("-EXECABORT"));
    assert_eq!(client.say("GET a"), "$1\r\n1\r\n");
}

#[test]
fn a_request_of_more_bytes_than_are_allowed_is_refused_when_it_is_announced() {
    let ballast = Ballast::start(r#"{"limits":{"value_max":"1KiB","request_max":"66KiB"}}"#);
    let mut client = ballast.client();
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$67585\r\n");
    assert_eq!(client.rest(), b"-ERR Protocol error: invalid bulk length\r\n");
    let mut client = ballast.client();
    let mut bytes = b"*1000\r\n$3\r\nDEL\r\n".to_vec();
    bytes.extend([b"$1000\r\n", vec![b'a'; 1000].as_slice(), b"\r\n"].concat().repeat(300));
    client.send(&bytes);
    let answer = String::from_utf8(client.rest()).unwrap();
    assert!(answer.contains("a request may have 67584 bytes (sessions.limits.request_max)"), "{answer}");
}

#[test]
fn a_half_sent_command_is_not_waited_for_for_ever() {
    let ballast = Ballast::start(r#"{"limits":{"write_timeout":"100ms"}}"#);
    for half in [b"*2\r\n$3\r\nGET\r\n".as_slice(), b"PIN", b"*2\r\n$3\r\nGET\r\n$1000000\r\nab"] {
        let mut client = ballast.client();
        client.send(half);
        assert_eq!(client.rest(), b"");
    }
    assert_eq!(ballast.server.stats().totals.cut_total, 3);
}

#[test]
fn a_command_that_arrives_byte_by_byte_is_not_waited_for_either() {
    // So long that some bytes are sent meanwhile, however busy the machine is.
    let ballast = Ballast::start(r#"{"limits":{"write_timeout":"2s"}}"#);
    let mut client = ballast.client();
    let (began, mut sent) = (std::time::Instant::now(), 0);
    while ballast.server.stats().totals.cut_total == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "{sent} bytes were waited for");
        sent += usize::from(client.try_send(b"P"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(sent > 3);
}

#[test]
fn strangers_do_not_stay_and_do_not_guess_for_long() {
    let users = r#"{"users":[{"name":"default","password_hash":"HASH"}]}"#.replace("HASH", &support::hash("pw"));
    // So long that whoever logs in at once is not late, however busy the machine is.
    let options = ServerOptions { workers: 1, login_timeout: Duration::from_secs(3) };
    let wanted = vec![Wanted {
        place: Place::Address(LOCAL),
        tls: false,
        protocol: ballast_core::config::SessionProtocol::Resp,
    }];
    let ballast = Ballast::start_by(&users, wanted, None, options);
    let mut known = ballast.client();
    assert_eq!(known.say("AUTH pw"), "+OK\r\n");
    let (mut guest, mut silent) = (ballast.client(), ballast.client());
    assert_eq!(guest.say("PING"), "-NOAUTH Authentication required.\r\n");
    assert_eq!(guest.rest(), b"-NOAUTH nobody logged in within 3s\r\n");
    assert_eq!(known.say("PING"), "+PONG\r\n");
    assert_eq!(silent.rest(), b"-NOAUTH nobody logged in within 3s\r\n", "who says nothing at all");
    let ballast = Ballast::start(&users);
    let mut guesser = ballast.client();
    guesser.send(&encode(&[b"AUTH", b"guess"]).repeat(10));
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    assert_eq!(String::from_utf8(guesser.rest()).unwrap(), wrong.repeat(6));
    assert_eq!(ballast.server.stats().totals.login_failures_total, 6);
}

#[test]
fn a_connection_that_is_over_is_let_go_of_though_the_client_sends_on() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    assert_eq!(client.say("QUIT"), "+OK\r\n");
    let began = std::time::Instant::now();
    while ballast.server.held() > 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "still held");
        client.try_send(b"x");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn idle_connections_are_closed_if_that_is_wanted() {
    let ballast = Ballast::start(r#"{"limits":{"idle_timeout":"3s"}}"#);
    let mut client = ballast.client();
    assert_eq!(client.say("PING"), "+PONG\r\n");
    assert_eq!(client.answer(), None);
}

#[test]
fn a_client_that_does_not_read_is_cut_and_holds_up_nobody() {
    let ballast = Ballast::start(r#"{"limits":{"write_timeout":"1s"}}"#);
    let mut other = ballast.client();
    let value = vec![b'v'; 1 << 20];
    assert_eq!(other.call(&[b"SET", b"big", &value]), b"+OK\r\n");
    let mut slow = ballast.client();
    slow.send(&encode(&[b"GET", b"big"]).repeat(200));
    while ballast.server.stats().totals.cut_total == 0 {
        assert_eq!(other.say("PING"), "+PONG\r\n");
    }
    assert!(slow.rest().len() < 200 << 20);
}

const TOO_LARGE: &[u8] = b"-ERR the answers are larger than output_max; ask for less at once\r\n";

#[test]
fn an_answer_that_exceeds_the_bound_is_an_error_and_takes_no_other_along() {
    let ballast = Ballast::start(r#"{"limits":{"value_max":"512KiB","output_max":"1MiB"}}"#);
    let mut client = ballast.client();
    let value = vec![b'v'; 512 << 10];
    assert_eq!(client.call(&[b"SET", b"big", &value]), b"+OK\r\n");
    let large = encode(&[b"MGET", b"big", b"big", b"big"]);
    client.send(&[encode(&[b"INCR", b"n"]), large, encode(&[b"INCR", b"n"])].concat());
    assert_eq!(client.answer().unwrap(), b":1\r\n");
    assert_eq!(client.answer().unwrap(), TOO_LARGE);
    assert_eq!(client.answer().unwrap(), b":2\r\n");
    assert_eq!(client.say("GET n"), "$1\r\n2\r\n");
    assert_eq!(ballast.server.stats().totals.cut_total, 0);
}

#[test]
fn answers_that_fit_one_by_one_are_given_however_many_are_asked_for_at_once() {
    let ballast = Ballast::start(r#"{"limits":{"value_max":"1MiB","output_max":"2MiB"}}"#);
    let mut client = ballast.client();
    let value = vec![b'v'; 1 << 20];
    assert_eq!(client.call(&[b"SET", b"big", &value]), b"+OK\r\n");
    client.send(&[encode(&[b"GET", b"big"]).repeat(20), encode(&[b"MGET", b"big", b"big", b"big"])].concat());
    for _ in 0..20 {
        assert_eq!(client.answer().unwrap().len(), (1 << 20) + 12);
    }
    assert_eq!(client.answer().unwrap(), TOO_LARGE);
    assert_eq!(client.say("PING"), "+PONG\r\n");
}

#[test]
fn no_more_connections_than_are_allowed() {
    let ballast = Ballast::start(r#"{"limits":{"connections_max":2}}"#);
    let (mut first, mut second) = (ballast.client(), ballast.client());
    assert_eq!((first.say("PING"), second.say("PING")), ("+PONG\r\n".to_owned(), "+PONG\r\n".to_owned()));
    assert_eq!(ballast.client().rest(), b"-ERR max number of clients reached\r\n");
    drop(first);
    // The place is free as soon as the server has noticed.
    while ballast.client().say("PING") != "+PONG\r\n" {}
}

#[test]
fn many_idle_connections_cost_nobody_anything() {
    let ballast = Ballast::start("{}");
    let mut idle: Vec<Client> = (0..400).map(|_| ballast.client()).collect();
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    assert!(idle.iter_mut().all(|client| client.say("GET a") == "$1\r\n1\r\n"));
    let until = std::time::Instant::now() + Duration::from_secs(60);
    drop(idle);
    while ballast.server.held() > 1 {
        assert!(std::time::Instant::now() < until, "{} are held", ballast.server.held());
        std::thread::yield_now();
    }
}

#[test]
fn random_bytes_never_break_the_server() {
    let ballast = Ballast::start("{}");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let words: [&[u8]; 14] = [
        b"*2\r\n",
        b"$3\r\nGET\r\n",
        b"$1\r\na\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\r\n",
        b"*",
        b"$",
        b"MULTI\r\n",
        b"EXEC\r\n",
        b"SUBSCRIBE x\r\n",
        b"HELLO 3\r\n",
        b"\0\xff",
        b"'",
        b"CLIENT REPLY OFF\r\n",
    ];
    for _ in 0..300 {
        let mut client = ballast.client();
        let bytes: Vec<u8> = (0..next() % 20).flat_map(|_| words[(next() % 14) as usize].to_vec()).collect();
        // The last request ends the connection unless an earlier one has.
        client.try_send(&[&bytes, b"\r\n*x\r\n".as_slice()].concat());
        while let Some(answer) = client.answer() {
            assert!(b"+-:$*_%~>=".contains(&answer[0]), "{bytes:?}: {answer:?}");
        }
        // As in Redis, an EXEC that silences the connection ends in the midst of its answer.
        let is_whole = client.rest().is_empty() || bytes.windows(3).any(|word| word == b"OFF");
        assert!(is_whole, "{bytes:?}");
    }
    assert_eq!(ballast.client().say("PING"), "+PONG\r\n");
    assert_eq!(ballast.server.stats().totals.panics_total, 0);
}

#[test]
fn too_many_watched_keys_are_refused_and_take_no_time() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    let keys: Vec<String> = (0..50_000).map(|n| format!("k{n}")).collect();
    let words: Vec<&[u8]> =
        std::iter::once("WATCH").chain(keys.iter().map(String::as_str)).map(str::as_bytes).collect();
    let told = String::from_utf8(client.call(&words)).unwrap();
    assert!(told.starts_with("-ERR a connection may watch 4096 keys that take 1MiB together"), "{told}");
    assert_eq!(client.say("UNWATCH"), "+OK\r\n");
    assert_eq!(client.call(&words[..4097]), b"+OK\r\n");
    assert_eq!(client.say("MULTI"), "+OK\r\n");
    assert_eq!(client.say("SET k1 1"), "+QUEUED\r\n");
    assert_eq!(client.say("EXEC"), "*1\r\n+OK\r\n");
}

#[test]
fn names_of_channels_and_watched_keys_are_as_long_as_keys_at_most() {
    let ballast = Ballast::start(r#"{"limits":{"key_max":"1KiB"}}"#);
    let mut client = ballast.client();
    let (fits, long) = (vec![b'n'; 1024], vec![b'n'; 1025]);
    let (channel, pattern) = (
        b"-ERR channel is longer than the 1KiB that are allowed\r\n",
        b"-ERR pattern is longer than the 1KiB that are allowed\r\n",
    );
    assert_eq!(client.call(&[b"SUBSCRIBE", &long]), channel);
    assert_eq!(client.call(&[b"PUBLISH", &long, b"x"]), channel);
    assert_eq!(client.call(&[b"PUBLISH", &fits, &long]), b":0\r\n");
    for command in [
        &[b"PSUBSCRIBE".as_slice(), &long][..],
        &[b"PUBSUB", b"CHANNELS", &long],
        &[b"CONFIG", b"GET", b"save", &long],
        &[b"COMMAND", b"LIST", b"FILTERBY", b"PATTERN", &long],
    ] {
        assert_eq!(client.call(command), pattern);
    }
    assert_eq!(client.call(&[b"WATCH", b"a", &long]), b"-ERR key is longer than the 1KiB that are allowed\r\n");
    assert_eq!(client.call(&[b"WATCH", b"a", &fits]), b"+OK\r\n");
    assert!(client.call(&[b"SUBSCRIBE", &fits]).starts_with(b"*3\r\n$9\r\nsubscribe"));
}

#[test]
fn names_of_channels_and_watched_keys_are_bounded_together() {
    let ballast = Ballast::start(r#"{"limits":{"key_max":"1MiB"}}"#);
    let name = |n: u8| [vec![b'n'; (1 << 20) - 1], vec![n]].concat();
    let mut client = ballast.client();
    let told = String::from_utf8(client.call(&[b"WATCH", &name(1), &name(2)])).unwrap();
    assert!(told.starts_with("-ERR a connection may watch"), "{told}");
    assert_eq!(client.call(&[b"WATCH", &name(1)]), b"+OK\r\n");
    assert!((0..16).all(|n| client.call(&[b"SUBSCRIBE", &name(n)]).starts_with(b"*3")));
    let told = String::from_utf8(client.call(&[b"PSUBSCRIBE", b"x"])).unwrap();
    assert!(told.starts_with("-ERR the names of the subscriptions"), "{told}");
    assert!(client.call(&[b"UNSUBSCRIBE", &name(3)]).starts_with(b"*3"));
    assert!(client.call(&[b"PSUBSCRIBE", b"x"]).starts_with(b"*3"));
}

#[test]
fn the_answer_of_a_transaction_is_bounded_too() {
    let ballast = Ballast::start(r#"{"limits":{"value_max":"512KiB","output_max":"1MiB"}}"#);
    let mut client = ballast.client();
    assert_eq!(client.say("MULTI"), "+OK\r\n");
    client.send(&encode(&[b"COMMAND"]).repeat(1000));
    client.send(&[encode(&[b"INCR", b"n"]), encode(&[b"SELECT", b"1"])].concat());
    assert!((0..1002).all(|_| client.answer().unwrap() == b"+QUEUED\r\n"));
    let told = client.call(&[b"EXEC"]);
    assert!(told.starts_with(b"*1002\r\n*"));
    assert!((1 << 20..3 << 20).contains(&told.len()), "{}", told.len());
    assert!(told.ends_with(&[TOO_LARGE, b":1\r\n+OK\r\n"].concat()), "what is done is answered");
    let mut client = ballast.client();
    assert_eq!(client.say("MULTI"), "+OK\r\n");
    client.send(&encode(&[b"PING"]).repeat(16_385));
    assert!((0..16_384).all(|_| client.answer().unwrap() == b"+QUEUED\r\n"));
    assert!(String::from_utf8(client.answer().unwrap()).unwrap().contains("16384"));
    assert!(client.say("EXEC").starts_with("-EXECABORT"));
}

#[test]
fn connections_take_no_more_memory_together_than_the_node_has_for_them() {
    // The budget is 256 MiB at least.
    let ballast = Ballast::start(
        r#"{"memory_max":"1MiB","limits":{"value_max":"15MiB","request_max":"16MiB","output_max":"16MiB"}}"#,
    );
    let mut other = ballast.client();
    assert_eq!(other.say("PING"), "+PONG\r\n");
    let value = vec![b'v'; 15 << 20];
    let mut hoarders: Vec<Client> = Vec::new();
    for _ in 0..24 {
        let mut client = ballast.client();
        // Ended for the others' sake already, or soon.
        client.try_send(&[encode(&[b"MULTI"]), encode(&[b"SET", b"a", &value])].concat());
        hoarders.push(client);
    }
    let answers: Vec<_> = hoarders
        .iter_mut()
        .map(|client| {
            client.try_send(&encode(&[b"DISCARD"]));
            String::from_utf8(client.rest_or(3)).unwrap()
        })
        .collect();
    let cut = answers.iter().filter(|answer| answer.contains("-OVERLOADED")).count();
    assert!((1..24).contains(&cut), "{answers:?}");
    assert!(answers.iter().any(|answer| answer == "+OK\r\n+QUEUED\r\n+OK\r\n"), "{answers:?}");
    assert_eq!(other.say("PING"), "+PONG\r\n", "who takes little stays");
}

/// What `CLIENT LIST` and `CLIENT INFO` say that a connection takes.
fn memory_in(line: &str) -> usize {
    let number = line.split_once("tot-mem=").and_then(|(_, rest)| rest.split_once(' ')).expect("told").0;
    number.parse().expect("a number")
}

#[test]
fn answers_that_wait_for_a_client_are_counted() {
    let ballast = Ballast::start("{}");
    let (mut other, mut slow) = (ballast.client(), ballast.client());
    let value = vec![b'v'; 2 << 20];
    assert_eq!(other.call(&[b"HSET", b"h", b"f", &value]), b":1\r\n");
    let id = format!("id={} ", slow.say("CLIENT ID").trim().trim_start_matches(':'));
    let mut wait_until = |is_so: fn(usize) -> bool| {
        let until = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let list = other.say("CLIENT LIST");
            let takes = memory_in(list.lines().find(|line| line.starts_with(&id)).expect("it is connected"));
            if is_so(takes) {
                return;
            }
            assert!(std::time::Instant::now() < until, "it takes {takes}");
        }
    };
    // Sixty megabytes, which read alone, and between changes.
    let (reads, change) = (encode(&[b"HGET", b"h", b"f"]).repeat(30), encode(&[b"INCR", b"n"]));
    for (sent, answers) in [(reads.clone(), 30), ([&change[..], &reads[..], &change[..]].concat(), 32)] {
        slow.send(&sent);
        // All but what is in the kernel's buffers.
        wait_until(|takes| takes > 40 << 20);
        assert!((0..answers).all(|_| slow.answer().is_some_and(|answer| !answer.starts_with(b"-"))));
        assert_eq!(slow.say("PING"), "+PONG\r\n");
        wait_until(|takes| takes < 1 << 20);
    }
}

#[test]
fn names_of_connections_are_bounded() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    let (fits, long) = (vec![b'n'; 1024], vec![b'n'; 1025]);
    let refused = b"-ERR Client names cannot be longer than 1024 bytes.\r\n";
    assert_eq!(client.call(&[b"CLIENT", b"SETNAME", &long]), refused);
    assert_eq!(client.call(&[b"HELLO", b"3", b"SETNAME", &long]), refused);
    assert_eq!(client.call(&[b"CLIENT", b"SETNAME", &fits]), b"+OK\r\n");
    assert_eq!(client.call(&[b"CLIENT", b"GETNAME"]), [b"$1024\r\n", &fits[..], b"\r\n"].concat());
}

#[test]
fn what_is_kept_of_many_small_things_is_counted() {
    let ballast = Ballast::start("{}");
    let mut client = ballast.client();
    let takes = |client: &mut Client| memory_in(&client.say("CLIENT INFO"));
    let before = takes(&mut client);
    assert!(client.say("HELLO 3").starts_with('%'));
    let names: Vec<String> = (0..2000).map(|n| format!("c{n}")).collect();
    let words: Vec<&[u8]> =
        std::iter::once("SUBSCRIBE").chain(names.iter().map(String::as_str)).map(str::as_bytes).collect();
    client.send(&encode(&words));
    assert!((0..2000).all(|_| client.answer().unwrap().starts_with(b">3")));
    // It is weighed when it has nothing to do, and asks after that.
    assert_eq!(client.say("PING"), "+PONG\r\n");
    let with = takes(&mut client);
    assert!(with >= before + 2000 * 200, "{with} after {before}");
}
