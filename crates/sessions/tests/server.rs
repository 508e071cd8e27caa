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
