//! The resource over HTTP: a whole server on a cluster of one in memory, spoken to in bytes.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::Ordering,
    time::Duration,
};

use ballast_core::{
    config::SessionProtocol,
    ids::VipId,
    session::{Call, Write},
    state::Command,
    time::BootNanos,
};
use ballast_sessions::{Place, Wanted};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use support::{Ballast, Client, LOCAL, Mood};

const STORE: &str = r#""memory_max":"64MiB","keyspaces":[{"name":"shop","database":0},{"name":"wiki","database":3}]"#;

struct Site {
    ballast: Ballast,
    http: SocketAddr,
}

impl Site {
    /// With this beside the keyspaces.
    fn new(extra: &str) -> Self {
        let places = [SessionProtocol::Resp, SessionProtocol::Http];
        Self::at(extra, places.map(|protocol| Wanted { place: Place::Address(LOCAL), tls: false, protocol }).to_vec())
    }

    fn at(extra: &str, wanted: Vec<Wanted>) -> Self {
        let ballast = Ballast::start_at(&store(extra), wanted, None);
        let listeners = ballast.server.listeners();
        let over_http = listeners.into_iter().find(|listener| listener.wanted.protocol == SessionProtocol::Http);
        let http = over_http.and_then(|listener| listener.bound.ok()).expect("bound").parse().expect("an address");
        Self { ballast, http }
    }

    fn open(&self) -> Line {
        let stream = TcpStream::connect(self.http).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        Line { stream, buf: Vec::new() }
    }

    /// One request on a connection of its own.
    fn ask(&self, line: &str, fields: &[(&str, &str)], body: &str) -> Said {
        let mut connection = self.open();
        connection.ask(line, fields, body)
    }

    /// The same as a user whose password is its name.
    fn ask_as(&self, user: &str, line: &str, body: &str) -> Said {
        self.ask(line, &[("Authorization", &basic(user, user))], body)
    }

    /// A command of a client of the other protocol.
    fn redis(&self, line: &str) -> String {
        self.ballast.client().say(line)
    }

    fn mood(&self, mood: Mood) {
        *self.ballast.cluster.mood.lock().unwrap() = mood;
    }

    /// Waits until so many connections are open.
    fn holds(&self, connections: usize) {
        while self.ballast.server.held() != connections {
            std::thread::yield_now();
        }
    }

    /// Has this command come before the next one.
    fn overtake(&self, words: &str) {
        let argv = words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let write = Write::one(Call::parse(0, argv).expect("a command"));
        *self.ballast.cluster.overtaken_by.lock().unwrap() = Some(Command::Session(Box::new(write)));
    }
}

fn store(extra: &str) -> String {
    format!("{{{STORE}{extra}}}")
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

struct Line {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Line {
    fn ask(&mut self, line: &str, fields: &[(&str, &str)], body: &str) -> Said {
        let mut request = format!("{line} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in fields {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("content-length: {}\r\n\r\n{body}", body.len());
        self.send(&request);
        self.answer(line.starts_with("HEAD"))
    }

    fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).expect("the server takes it");
    }

    fn answer(&mut self, bodiless: bool) -> Said {
        let head = loop {
            if let Some(end) = self.buf.windows(4).position(|four| four == b"\r\n\r\n") {
                break String::from_utf8(self.buf.drain(..end + 4).collect()).expect("text");
            }
            assert!(self.more() > 0, "ended after {:?}", String::from_utf8_lossy(&self.buf));
        };
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let fields = lines.filter_map(|line| line.split_once(": "));
        let fields: Vec<_> = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let mut said = Said { status, fields, body: Vec::new() };
        let length = said.field("content-length").map_or(0, |length| length.parse().expect("a number"));
        if !bodiless {
            while self.buf.len() < length {
                assert!(self.more() > 0, "ended amid a body");
            }
            said.body = self.buf.drain(..length).collect();
        }
        said
    }

    fn more(&mut self) -> usize {
        let mut piece = [0; 65536];
        let read = self.stream.read(&mut piece).expect("the server answers");
        self.buf.extend_from_slice(&piece[..read]);
        read
    }

    /// Whether the server closes the connection without another word.
    fn ends(&mut self) -> bool {
        self.buf.is_empty() && self.stream.read(&mut [0]).is_ok_and(|read| read == 0)
    }
}

#[derive(Debug)]
struct Said {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Said {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn tag(&self) -> String {
        self.field("etag").expect("a tag").to_owned()
    }

    #[track_caller]
    fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status, &self.body[..]), (status, body.as_bytes()), "{self:?}");
        assert_eq!(self.field("cache-control"), Some("no-store"));
    }

    #[track_caller]
    fn refuses(&self, status: u16, code: &str, word: &str) {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        let text = |key: &str| body[key].as_str().expect("a text");
        let said = format!("{}; {}", text("detail"), text("remedy"));
        assert_eq!((self.status, text("code")), (status, code), "{said}");
        assert!(said.contains(word), "{said}");
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
    }
}

#[test]
fn a_session_is_kept_read_and_deleted() {
    let site = Site::new("");
    let now_ms = 2_000_000_000_000;
    site.ballast.cluster.now_ms.store(now_ms, Ordering::SeqCst);
    let mut line = site.open();
    line.ask("GET /v1/sessions/shop/a", &[], "").refuses(404, "no_session", "no such session");
    let made = line.ask("PUT /v1/sessions/shop/a", &[("TTL", "60")], "one");
    made.is(201, "");
    let got = line.ask("GET /v1/sessions/shop/a", &[], "");
    got.is(200, "one");
    assert_eq!((got.field("ttl"), got.tag()), (Some("60"), made.tag()));
    assert_eq!(got.field("content-type"), Some("application/octet-stream"));
    let head = line.ask("HEAD /v1/sessions/shop/a", &[], "");
    head.is(200, "");
    assert_eq!((head.field("content-length"), head.tag()), (Some("3"), made.tag()));
    let weak = format!("W/{}", made.tag());
    for verb in ["GET", "HEAD"] {
        let known = line.ask(&format!("{verb} /v1/sessions/shop/a"), &[("If-None-Match", &weak)], "");
        known.is(304, "");
        assert_eq!((known.field("content-length"), known.tag()), (None, made.tag()), "{verb}");
    }
    let replaced = line.ask("PUT /v1/sessions/shop/a", &[], "two");
    replaced.is(204, "");
    assert_ne!(replaced.tag(), made.tag());
    let got = line.ask("GET /v1/sessions/shop/a", &[("If-None-Match", &made.tag())], "");
    got.is(200, "two");
    assert_eq!(got.field("ttl"), None, "a session without a TTL has no end");
    line.ask("DELETE /v1/sessions/shop/a", &[], "").is(204, "");
    line.ask("DELETE /v1/sessions/shop/a", &[], "").refuses(404, "no_session", "no such session");
    line.ask("PUT /v1/sessions/shop/b", &[("TTL", "999999999999999")], "").is(201, "");
    line.ask("PUT /v1/sessions/shop/a", &[("TTL", "1")], "").is(201, "");
    site.ballast.cluster.now_ms.store(now_ms + 1000, Ordering::SeqCst);
    line.ask("GET /v1/sessions/shop/a", &[], "").refuses(404, "no_session", "TTL is over");
    let stats = site.ballast.server.stats();
    let puts = stats.http.iter().find(|of| of.method == "PUT").expect("counted");
    assert_eq!((puts.durations.count(), puts.answers.iter().map(|(_, count)| count).sum::<u64>()), (4, 4));
    assert_eq!((stats.totals.connections, stats.totals.due_total), (1, 1));
}

#[test]
fn redis_clients_see_the_same_bytes() {
    let site = Site::new("");
    site.ask("PUT /v1/sessions/3/a%00%2fb%C3%A4", &[], "x").is(201, "");
    let mut client = site.ballast.client();
    assert_eq!(client.say("SELECT 3"), "+OK\r\n");
    assert_eq!(client.call(&[b"GET", "a\0/bä".as_bytes()]), b"$1\r\nx\r\n");
    site.ask("GET /v1/sessions/wiki/a%00/b", &[], "").refuses(404, "no_resource", "/v1/sessions/{keyspace}/{id}");
    assert_eq!(site.redis("HSET h f v"), ":1\r\n");
    site.ask("GET /v1/sessions/shop/h", &[], "").refuses(409, "wrong_type", "a hash or a set");
    for verb in ["PUT", "DELETE"] {
        let said = site.ask(&format!("{verb} /v1/sessions/shop/h"), &[("If-Match", "*")], "x");
        said.refuses(409, "wrong_type", "a hash or a set");
    }
    // As SET and DEL do, which know no type either.
    site.ask("PUT /v1/sessions/shop/h", &[], "x").is(204, "");
    assert_eq!(site.redis("TYPE h"), "+string\r\n");
    assert_eq!(site.redis("SADD s m"), ":1\r\n");
    site.ask("DELETE /v1/sessions/shop/s", &[], "").is(204, "");
    assert_eq!(site.redis("SET b 1"), "+OK\r\n");
    site.ask("GET /v1/sessions/shop/b", &[], "").is(200, "1");
    let long = "v".repeat(3 << 20);
    site.ask("PUT /v1/sessions/shop/long", &[], &long).is(201, "");
    site.ask("GET /v1/sessions/shop/long", &[], "").is(200, &long);
}

#[test]
fn conditions_hold_until_the_write_is_in_the_log() {
    let site = Site::new("");
    let only_new = [("If-None-Match", "*")];
    let refused = |said: Said| said.refuses(412, "changed", "read it again");
    let tag = site.ask("PUT /v1/sessions/shop/a", &only_new, "one").tag();
    refused(site.ask("PUT /v1/sessions/shop/a", &only_new, "two"));
    refused(site.ask("PUT /v1/sessions/shop/none", &[("If-Match", "*")], "two"));
    refused(site.ask("PUT /v1/sessions/shop/a", &[("If-Match", "\"other\"")], "two"));
    refused(site.ask("DELETE /v1/sessions/shop/a", &[("If-Match", &format!("W/{tag}"))], ""));
    refused(site.ask("GET /v1/sessions/shop/a", &[("If-Match", "\"other\"")], ""));
    // Somebody writes between the look and the log.
    site.overtake("set a three");
    refused(site.ask("PUT /v1/sessions/shop/a", &[("If-Match", &tag)], "two"));
    site.ask("GET /v1/sessions/shop/a", &[], "").is(200, "three");
    assert_eq!(site.redis("SET a one"), "+OK\r\n");
    // The same value again is no reason to refuse.
    site.overtake("set a one");
    let list = format!("\"other\", {tag}");
    site.ask("PUT /v1/sessions/shop/a", &[("If-Match", &list)], "two").is(204, "");
    site.ask("GET /v1/sessions/shop/a", &[], "").is(200, "two");
    site.overtake("set b first");
    refused(site.ask("PUT /v1/sessions/shop/b", &only_new, "second"));
    site.ask("GET /v1/sessions/shop/b", &[], "").is(200, "first");
}

#[test]
fn users_do_what_the_document_lets_them() {
    let users = r#","users":[
        {"name":"shop","key_prefixes":["shop:"],"databases":[0],"password_hash":"SHOP"},
        {"name":"eye","read_only":true,"password_hash":"EYE"}]"#;
    let users = users.replace("SHOP", &support::hash("shop")).replace("EYE", &support::hash("eye"));
    let site = Site::new(&users);
    let nobody = site.ask("GET /v1/sessions/shop/a", &[], "");
    nobody.refuses(401, "stranger", "who you are");
    assert!(nobody.field("www-authenticate").is_some_and(|how| how.starts_with("Basic ")));
    for (user, password) in [("shop", "eye"), ("nobody", "nobody"), ("shop", "")] {
        let said = site.ask("GET /v1/sessions/shop/shop:a", &[("Authorization", &basic(user, password))], "");
        said.refuses(401, "wrong_password", "password");
    }
    let bearer = site.ask("GET /v1/sessions/shop/a", &[("Authorization", "Bearer x")], "");
    bearer.refuses(401, "stranger", "who you are");
    site.ask("GET /v1/sessions/shop/a", &[("Authorization", "Basic x")], "").refuses(400, "bad_field", "Authorization");
    site.ask_as("shop", "PUT /v1/sessions/shop/shop:a", "1").is(201, "");
    site.ask_as("shop", "PUT /v1/sessions/shop/a", "1").refuses(403, "denied", "key_prefixes");
    site.ask_as("shop", "GET /v1/sessions/wiki/shop:a", "").refuses(403, "denied", "use database 3");
    site.ask_as("eye", "GET /v1/sessions/shop/shop:a", "").is(200, "1");
    site.ask_as("eye", "DELETE /v1/sessions/shop/shop:a", "").refuses(403, "denied", "run the 'del' command");
    assert_eq!(site.ballast.server.stats().totals.login_failures_total, 3);
    // A user that is gone is a stranger on the same connection.
    let mut line = site.open();
    let shop = basic("shop", "shop");
    line.ask("GET /v1/sessions/shop/shop:a", &[("Authorization", &shop)], "").is(200, "1");
    let eye = r#","users":[{"name":"eye","password_hash":"EYE"}]"#.replace("EYE", &support::hash("eye"));
    site.ballast.cluster.configure(&store(&eye));
    line.ask("GET /v1/sessions/shop/shop:a", &[("Authorization", &shop)], "").refuses(401, "wrong_password", "user");
}

#[test]
fn protected_mode_refuses_strangers_from_elsewhere_in_words() {
    // An address of this machine that is not loopback; nothing is sent to find it.
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
    let outside = socket.connect(("192.0.2.1", 9)).and_then(|()| socket.local_addr());
    let Some(outside) = outside.ok().map(|address| address.ip()).filter(|address| !address.is_loopback()) else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let place = Place::Address(SocketAddr::new(outside, 0));
    let site = Site::at("", vec![Wanted { place, tls: false, protocol: SessionProtocol::Http }]);
    let mut line = site.open();
    line.ask("PUT /v1/sessions/shop/a", &[], "1").refuses(403, "protected", "sessions.protected");
    site.ballast.cluster.configure(&store(r#","protected":false"#));
    line.ask("PUT /v1/sessions/shop/a", &[], "1").is(201, "");
}

#[test]
fn pages_of_other_sites_reach_nothing_in_protected_mode() {
    let site = Site::new("");
    let get = |host: &str| {
        let mut line = site.open();
        line.send(&format!("GET /v1/sessions/shop/a HTTP/1.1\r\n{host}\r\n"));
        line.answer(false)
    };
    site.ask("PUT /v1/sessions/shop/a", &[], "1").is(201, "");
    get("host: rebound.example:6380\r\n").refuses(403, "other_site", "localhost");
    get("host: 127.0.0.1:6380\r\n").is(200, "1");
    get("").refuses(400, "bad_field", "Host");
    get("host: localhost\r\nhost: localhost\r\n").refuses(400, "bad_field", "Host");
    site.ask("GET http://rebound.example/v1/sessions/shop/a", &[], "").refuses(403, "other_site", "localhost");
    site.ballast.cluster.configure(&store(r#","protected":false"#));
    get("host: sessions.example\r\n").is(200, "1");
}

#[test]
fn a_session_is_emptied_only_in_words() {
    let site = Site::new("");
    site.ask("PUT /v1/sessions/shop/a", &[], "1").is(201, "");
    let mut line = site.open();
    line.send("PUT /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\n\r\n");
    line.answer(false).refuses(411, "no_body", "Content-Length: 0");
    site.ask("GET /v1/sessions/shop/a", &[], "").is(200, "1");
    site.ask("PUT /v1/sessions/shop/a", &[], "").is(204, "");
    site.ask("GET /v1/sessions/shop/a", &[], "").is(200, "");
}

#[test]
fn what_is_not_right_is_said_without_the_key() {
    let site = Site::new(r#","limits":{"value_max":"1KiB","key_max":"64B"}"#);
    let long = format!("PUT /v1/sessions/shop/{}", "k".repeat(65));
    let mut line = site.open();
    for (request, fields, status, code, word) in [
        ("GET /", &[][..], 404, "no_resource", "/v1/sessions/"),
        ("GET /v1/sessions/shop/", &[], 404, "no_resource", "/v1/sessions/"),
        ("GET /v1/sessions/sesame", &[], 404, "no_resource", "/v1/sessions/"),
        ("GET /v2/sessions/shop/sesame", &[], 404, "no_resource", "/v1/sessions/"),
        ("GET /v1/sessions/shpo/sesame", &[], 404, "no_keyspace", "keyspace"),
        ("GET /v1/sessions/shop/sesame%0", &[], 400, "bad_id", "%"),
        ("GET /v1/sessions/shop/sesame%0g", &[], 400, "bad_id", "%"),
        ("POST /v1/sessions/shop/sesame", &[], 405, "method", "PUT"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "0")], 400, "bad_ttl", "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "-1")], 400, "bad_ttl", "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "+1")], 400, "bad_ttl", "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "1.5")], 400, "bad_ttl", "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "1000000000000000")], 400, "bad_ttl", "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "99999999999999999999")], 400, "bad_ttl", "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "1"), ("TTL", "2")], 400, "bad_ttl", "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("Content-Range", "bytes 0-0/1")], 400, "part", "whole"),
        ("PUT /v1/sessions/shop/sesame", &[("Content-Encoding", "gzip")], 415, "encoded", "Content-Encoding"),
        (&long, &[], 414, "long_id", "64B"),
    ] {
        let said = site.ask(request, fields, "v");
        said.refuses(status, code, word);
        assert!(!format!("{said:?}").contains("sesame"), "{said:?}");
        assert_eq!(said.field("allow").is_some(), status == 405);
    }
    site.ask("PUT /v1/sessions/shop/a", &[], &"v".repeat(1025)).refuses(413, "too_large", "1KiB");
    line.send("PUT /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    line.send(&format!("400\r\n{}\r\n1\r\nv\r\n", "v".repeat(1024)));
    line.answer(false).refuses(413, "too_large", "1KiB");
    let mut line = site.open();
    line.send(
        "PUT /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 2000000000\r\n\r\n",
    );
    line.answer(false).refuses(413, "too_large", "1KiB");
    assert!(line.ends(), "what was announced is not waited for");
    site.ask("PUT /v1/sessions/shop/a", &[("Content-Encoding", "identity")], &"v".repeat(1024)).is(201, "");
    site.ballast.cluster.configure("{}");
    site.ask("GET /v1/sessions/shop/a", &[], "").refuses(404, "no_keyspace", "sessions.keyspaces");
}

#[test]
fn what_is_no_http_is_refused_and_what_stops_halfway_is_cut() {
    let site = Site::new(r#","limits":{"write_timeout":"100ms","idle_timeout":"3s"}"#);
    for wrong in
        ["*1\r\n$4\r\nPING\r\n", "GET  /\r\n\r\n", "PUT /v1/sessions/shop/a HTTP/1.1\r\ncontent-length: -1\r\n\r\n"]
    {
        let mut line = site.open();
        line.send(wrong);
        assert_eq!(line.answer(false).status, 400, "{wrong}");
        assert!(line.ends());
    }
    let mut line = site.open();
    line.send(&format!("GET /v1/sessions/shop/{} HTTP/1.1\r\n\r\n", "k".repeat(70_000)));
    assert_eq!(line.answer(false).status, 414);
    let mut line = site.open();
    line.send("PUT /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nab");
    line.answer(false).refuses(408, "slow_body", "write_timeout");
    assert!(line.ends());
    let mut halves = ["", "GET /v1/sess"].map(|half| (half, site.open()));
    halves.iter_mut().for_each(|(half, line)| line.send(half));
    let mut line = site.open();
    line.ask("GET /v1/sessions/shop/a", &[], "").refuses(404, "no_session", "no such");
    for (half, line) in &mut halves {
        assert!(line.ends(), "{half:?}");
    }
    assert!(line.ends(), "idle");
    assert!(site.ballast.server.stats().totals.malformed_total >= 3);
}

#[test]
fn a_client_that_takes_no_answer_is_cut() {
    // So long that the body does not pause for it, however busy the machine is.
    let site = Site::new(r#","limits":{"write_timeout":"2s"}"#);
    let value = "v".repeat(8 << 20);
    site.ask("PUT /v1/sessions/shop/a", &[], &value).is(201, "");
    let mut line = site.open();
    line.send(&"GET /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(8));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while site.ballast.server.stats().totals.cut_total == 0 {
        assert!(std::time::Instant::now() < deadline, "still served");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_store_and_a_lost_quorum_have_codes_of_their_own() {
    let site = Site::new("");
    site.ballast.cluster.configure(&store("").replace("64MiB", "1MiB"));
    site.ask("PUT /v1/sessions/shop/big", &[], &"v".repeat(1 << 20)).is(201, "");
    site.ask("PUT /v1/sessions/shop/more", &[], "v").refuses(507, "full", "memory_max");
    site.ask("DELETE /v1/sessions/shop/big", &[], "").is(204, "");
    site.ask("PUT /v1/sessions/shop/a", &[], "v").is(201, "");

    site.mood(Mood::Unknown);
    site.ask("PUT /v1/sessions/shop/a", &[], "w").refuses(504, "outcome_unknown", "read the session before");
    site.mood(Mood::Overloaded);
    site.ask("PUT /v1/sessions/shop/a", &[], "x").refuses(503, "overloaded", "later");
    site.mood(Mood::NoQuorum);
    for line in ["PUT /v1/sessions/shop/a", "GET /v1/sessions/shop/a", "DELETE /v1/sessions/shop/a"] {
        let said = site.ask(line, &[], "x");
        said.refuses(503, "no_quorum", "nothing was changed");
        assert_eq!(said.field("retry-after"), Some("1"));
    }
    site.mood(Mood::Healthy);
    site.ballast.cluster.configure(&store(r#","without_quorum":"stale""#));
    site.mood(Mood::NoQuorum);
    site.ask("GET /v1/sessions/shop/a", &[], "").is(200, "w");
    site.ask("PUT /v1/sessions/shop/a", &[("If-Match", "*")], "x").refuses(503, "no_quorum", "no quorum");
}

#[test]
fn there_is_room_for_so_many_and_the_next_is_told() {
    let site = Site::new(r#","limits":{"connections_max":1}"#);
    let mut line = site.open();
    line.ask("PUT /v1/sessions/shop/a", &[], "v").is(201, "");
    let mut next = site.open();
    let said = next.answer(false);
    said.refuses(503, "no_place", "connections_max");
    assert_eq!((said.field("retry-after"), said.field("connection")), (Some("1"), Some("close")));
    assert!(next.ends());
    line.ask("GET /v1/sessions/shop/a", &[], "").is(200, "v");
}

#[test]
fn connections_end_with_what_they_are_doing() {
    let site = Site::new("");
    let mut idle = site.open();
    idle.ask("PUT /v1/sessions/shop/a", &[], "v").is(201, "");
    let mut fresh = site.open();
    let mut amid = site.open();
    site.holds(3);
    assert_eq!(drained(&site, Duration::ZERO), 3);
    // On its way when the drain began.
    amid.send("PUT /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nv");
    assert!(idle.ends() && fresh.ends());
    drop((idle, fresh));
    site.holds(1);
    assert_eq!(drained(&site, Duration::ZERO), 1, "one is amid a request");
    amid.send("w");
    let said = amid.answer(false);
    said.is(204, "");
    assert_eq!(said.field("connection"), Some("close"));
    assert!(amid.ends());
    assert_eq!(drained(&site, Duration::from_secs(60)), 0);
    assert!(TcpStream::connect(site.http).is_err());
}

fn drained(site: &Site, deadline: Duration) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(site.ballast.server.drain(deadline))
}

#[test]
fn a_vip_is_served_while_it_is_held_and_a_listener_while_it_is_wanted() {
    let place = Place::Vip(VipId::new(1), LOCAL);
    let site = Site::at("", vec![Wanted { place, tls: false, protocol: SessionProtocol::Http }]);
    let gate = &site.ballast.cluster.gate;
    gate.hold(1, BootNanos::new(u64::MAX));
    let mut line = site.open();
    line.ask("PUT /v1/sessions/shop/a", &[], "1").is(201, "");
    gate.close();
    line.send("PUT /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n2");
    assert!(line.ends(), "what is not begun is not begun here");
    gate.hold(2, BootNanos::new(u64::MAX));
    let mut line = site.open();
    line.ask("GET /v1/sessions/shop/a", &[], "").is(200, "1");
    site.ballast.server.listen(Vec::new());
    assert!(line.ends());
}

#[test]
fn what_came_whole_only_after_its_vip_was_lost_is_not_kept() {
    let place = Place::Vip(VipId::new(1), LOCAL);
    let site = Site::at("", vec![Wanted { place, tls: false, protocol: SessionProtocol::Http }]);
    let gate = &site.ballast.cluster.gate;
    gate.hold(1, BootNanos::new(u64::MAX));
    let mut line = site.open();
    line.ask("PUT /v1/sessions/shop/a", &[], "1").is(201, "");
    line.send(
        "PUT /v1/sessions/shop/a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n",
    );
    assert_eq!(line.answer(false).status, 100, "its body is waited for");
    let proposals = || site.ballast.cluster.proposals.load(Ordering::SeqCst);
    let before = proposals();
    gate.close();
    line.send("2");
    assert!(line.ends());
    assert_eq!(proposals(), before, "nobody is there to hear the answer");
    gate.hold(2, BootNanos::new(u64::MAX));
    site.ask("GET /v1/sessions/shop/a", &[], "").is(200, "1");
}

#[test]
fn each_protocol_is_known_by_its_port() {
    let site = Site::new("");
    assert_eq!(site.redis("PING"), "+PONG\r\n");
    let mut client = Client::tcp(site.http);
    client.send(b"PING\r\n\r\n");
    assert!(String::from_utf8_lossy(&client.rest()).starts_with("HTTP/1.1 400 "));
}

#[test]
fn bodies_take_no_more_memory_together_than_the_node_has_for_connections() {
    // The budget is 256 MiB at least. A body pauses until all others were sent.
    let limits = r#""value_max":"15MiB","request_max":"16MiB","output_max":"16MiB","write_timeout":"10m""#;
    let site = Site::new(&format!(r#","limits":{{{limits}}}"#));
    let length = 15 << 20;
    let body = "v".repeat(length - 1);
    let mut lines: Vec<Line> = (0..24).map(|_| site.open()).collect();
    for (n, line) in lines.iter_mut().enumerate() {
        line.send(&format!(
            "PUT /v1/sessions/shop/{n} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        ));
        // Who is cut meanwhile may not take the rest.
        let _ = line.stream.write_all(body.as_bytes());
    }
    let (mut kept, mut cut) = (0, 0);
    for line in &mut lines {
        let _ = line.stream.write_all(b"v");
        let mut piece = [0; 65536];
        while let Ok(read @ 1..) = line.stream.read(&mut piece) {
            line.buf.extend_from_slice(&piece[..read]);
            if line.buf.windows(4).any(|four| four == b"\r\n\r\n") {
                break;
            }
        }
        let said = String::from_utf8_lossy(&line.buf);
        kept += usize::from(said.starts_with("HTTP/1.1 201") || said.starts_with("HTTP/1.1 507"));
        cut += usize::from(said.starts_with("HTTP/1.1 503") && said.contains("overloaded"));
    }
    assert!(kept >= 8 && cut >= 1, "{kept} {cut}");
    assert_eq!(site.redis("PING"), "+PONG\r\n");
    site.ask("GET /v1/sessions/shop/none", &[], "").refuses(404, "no_session", "no such");
}
