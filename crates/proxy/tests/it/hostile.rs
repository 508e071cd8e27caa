//! Hostile and unusual messages, both ways: what the client is told, and what the other side received.

use ballast_core::health::Answer;

use crate::support::*;

/// Fields that the proxy adds to every forwarded request, for a client on 127.0.0.1 with `Host: a`.
fn added(site: &Site) -> String {
    let port = site.address().port();
    format!(
        "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: {port}\r\n\
         X-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1;host=a;proto=http\r\nX-Request-Id: ID\r\nVia: 1.1 ballast\r\n"
    )
}

/// The request as the backend got it, with the random id replaced.
fn received(backend: &Backend) -> Vec<String> {
    let mask = |request: String| {
        let Some(at) = request.find("X-Request-Id: ") else { return request };
        let end = at + request[at..].find("\r\n").unwrap();
        format!("{}X-Request-Id: ID{}", &request[..at], &request[end..])
    };
    backend.requests().into_iter().map(mask).collect()
}

#[test]
fn refused_requests_never_reach_a_backend() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let long = |n| "x".repeat(n);
    let cases: Vec<(&str, String, u16, &str)> = vec![
        (
            "cl and te",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
            "conflicting_framing",
        ),
        (
            "te and cl",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".into(),
            400,
            "conflicting_framing",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".into(),
            400,
            "content_length",
        ),
        (
            "same length twice",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n".into(),
            400,
            "content_length",
        ),
        (
            "length with an underscore",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent_Length: 50\r\n\r\nhello".into(),
            400,
            "ambiguous_field_name",
        ),
        (
            "coding with an underscore",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
            "ambiguous_field_name",
        ),
        ("length list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n".into(), 400, "content_length"),
        ("length plus", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n".into(), 400, "content_length"),
        ("length minus", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n".into(), 400, "content_length"),
        (
            "length inner space",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n".into(),
            400,
            "content_length",
        ),
        ("length hex", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n".into(), 400, "content_length"),
        (
            "length overflow",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n".into(),
            400,
            "content_length",
        ),
        (
            "te twice",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
            "transfer_encoding",
        ),
        (
            "te chunked twice",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n".into(),
            400,
            "transfer_encoding",
        ),
        (
            "te xchunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n".into(),
            501,
            "coding_unknown",
        ),
        (
            "te gzip chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(),
            501,
            "coding_unknown",
        ),
        (
            "te identity",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n".into(),
            400,
            "transfer_encoding",
        ),
        (
            "te vertical tab",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n".into(),
            400,
            "control_character",
        ),
        (
            "te quoted",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n".into(),
            400,
            "transfer_encoding",
        ),
        (
            "te in 1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
            "transfer_encoding",
        ),
        (
            "te space colon",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n".into(),
            400,
            "space_before_colon",
        ),
        ("obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n".into(), 400, "obs_fold"),
        ("folded first", "GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n".into(), 400, "obs_fold"),
        ("bare lf in head", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".into(), 400, "bare_lf"),
        ("bare lf ends head", "GET / HTTP/1.1\r\nHost: a\r\n\n".into(), 400, "bare_lf"),
        ("bare lf request line", "GET / HTTP/1.1\nHost: a\r\n\r\n".into(), 400, "bare_lf"),
        ("bare cr in value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz: w\r\n\r\n".into(), 400, "bare_cr"),
        ("bare cr in line", "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "bare_cr"),
        ("nul in value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n".into(), 400, "control_character"),
        ("nul in name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n".into(), 400, "control_character"),
        ("nul in target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "control_character"),
        ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n".into(), 400, "field_name"),
        ("empty name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n".into(), 400, "field_name"),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), 400, "host"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400, "host"),
        ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), 400, "host"),
        ("host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400, "host"),
        ("host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into(), 400, "host"),
        ("host bad port", "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n".into(), 400, "host"),
        ("host contradicts target", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "host"),
        ("target without slash", "GET x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "target"),
        ("fragment", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "target"),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "start_line"),
        ("leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "method"),
        ("bad method", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "method"),
        ("tls", "\x16\x03\x01\x02\0\x01\0".into(), 400, "method"),
        ("two empty lines", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "method"),
        ("empty line of lf", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "bare_lf"),
        ("http/0.9", "GET /\r\n".into(), 400, "start_line"),
        ("http/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), 505, "version"),
        ("http/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505, "version"),
        ("lower-case version", "GET / http/1.1\r\nHost: a\r\n\r\n".into(), 400, "start_line"),
        ("connect", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into(), 501, "method_refused"),
        (
            "expectation",
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 0\r\n\r\n".into(),
            417,
            "expectation",
        ),
        (
            "trace with body",
            "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".into(),
            400,
            "conflicting_framing",
        ),
        ("long target", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(9000)), 414, "target_too_long"),
        ("endless target", format!("GET /{}", long(40_000)), 414, "target_too_long"),
        ("long head", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(33_000)), 431, "head_too_large"),
        ("endless head", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", long(40_000)), 431, "head_too_large"),
        ("many fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100)), 431, "fields_too_many"),
        (
            "many connection names",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "Connection: x, close, y, z\r\n".repeat(11)),
            400,
            "connection_names_too_many",
        ),
        (
            "chunk size sign",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n".into(),
            400,
            "chunk_size",
        ),
        (
            "chunk size hex prefix",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n".into(),
            400,
            "chunk_size",
        ),
        (
            "chunk size space",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n".into(),
            400,
            "chunk_size",
        ),
        (
            "chunk bare lf",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n".into(),
            400,
            "bare_lf",
        ),
        (
            "chunk too long",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloo\r\n0\r\n\r\n".into(),
            400,
            "chunk_end",
        ),
        (
            "chunk overflow",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".into(),
            400,
            "chunk_size",
        ),
        (
            "chunk extension",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;{}\r\nhello\r\n0\r\n\r\n",
                long(600)
            ),
            400,
            "chunk_size",
        ),
        (
            "bad trailer",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n".into(),
            400,
            "trailer",
        ),
    ];
    for (name, request, status, reason) in cases {
        let mut client = site.client();
        client.send(&request);
        let response = client.response();
        assert_eq!(
            (response.status, response.header("x-ballast-reason")),
            (status, Some(&*format!("request:{reason}"))),
            "{name}"
        );
        assert_eq!(response.header("connection"), Some("close"), "{name}");
        assert!(response.header("date").is_some() && response.text().contains(reason), "{name}");
        client.closed();
    }
    assert_eq!(backend.requests(), Vec::<String>::new());
    assert_eq!(backend.connections(), 0);
}

#[test]
fn forwarded_requests_have_one_reading() {
    let cases: &[(&str, &str, &str)] = &[
        ("plain", "GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y HTTP/1.1\r\nHost: a\r\n+\r\n"),
        ("one empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n+\r\n"),
        ("absolute form", "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x HTTP/1.1\r\nHost: a\r\n+\r\n"),
        (
            "length",
            "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nHost: a\r\n+Content-Length: 5\r\n\r\nhello",
        ),
        (
            "chunked, with extension and trailer",
            "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\nHost: evil\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\n+Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        ),
        (
            "hop-by-hop",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 3\r\nTE: trailers\r\nProxy-Authorization: x\r\nX-Kept: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 1\r\n+\r\n",
        ),
        (
            "spoofed",
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nProxy: http://evil\r\nX-Request-Id: mine\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Prefix: /x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n+\r\n",
        ),
        (
            "underscores elsewhere are the application's own",
            "GET / HTTP/1.1\r\nHost: a\r\nX_Csrf_Token: t\r\nX_Real_IP: 6.6.6.6\r\nKeep_Alive: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX_Csrf_Token: t\r\n+\r\n",
        ),
        (
            "stripping what we add does not work",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For, Host, Via\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n+\r\n",
        ),
        (
            "upgrade to something else",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n+\r\n",
        ),
        (
            "max-forwards",
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 7\r\n\r\n",
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 6\r\n+\r\n",
        ),
        ("http/1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n+\r\n"),
        (
            "obs-text and tab",
            "GET / HTTP/1.1\r\nHost: a\r\nX:\ty\tz \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\tz\r\n+\r\n",
        ),
    ];
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let added = added(&site);
    for (name, request, expected) in cases {
        let response = site.get(request);
        assert_eq!((response.status, response.text()), (200, "b1"), "{name}");
        assert_eq!(received(&backend).last().unwrap(), &expected.replacen('+', &added, 1), "{name}");
    }
}

#[test]
fn a_smuggled_request_is_the_body_it_was_sent_as() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let inner = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = site.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()));
    assert_eq!(client.response().status, 200);
    let requests = received(&backend);
    assert_eq!(requests.len(), 1);
    assert!(requests[0].ends_with(inner));
}

#[test]
fn a_trusted_proxy_is_believed_and_extended() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |farm, _| {
        farm.trusted_proxies.0.push("127.0.0.0/8".to_owned().try_into().unwrap());
    });
    site.get("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Request-Id: abc\r\nForwarded: for=192.0.2.9\r\n\r\n");
    let request = &backend.requests()[0];
    for line in [
        "X-Forwarded-For: 192.0.2.9, 127.0.0.1\r\n",
        "X-Real-IP: 192.0.2.9\r\n",
        "X-Forwarded-Proto: https\r\n",
        "X-Request-Id: abc\r\n",
        "Forwarded: for=192.0.2.9, for=127.0.0.1;host=a;proto=http\r\n",
    ] {
        assert!(request.contains(line), "{line} in {request}");
    }
    let line = site.line(0);
    assert_eq!((line["real_client"].as_str(), line["request_id"].as_str()), (Some("192.0.2.9"), Some("abc")));
}

#[test]
fn bad_responses_become_502_with_their_reason() {
    let long = "x".repeat(40_000);
    let cases: Vec<(&str, String, &str)> = vec![
        ("garbage", "garbage\r\n\r\n".into(), "response:start_line"),
        ("binary", "\0\u{1}\u{2}\r\n\r\n".into(), "response:control_character"),
        ("bare lf", "HTTP/1.1 200 OK\nContent-Length: 0\n\n".into(), "response:bare_lf"),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".into(),
            "response:content_length",
        ),
        ("length list", "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx".into(), "response:content_length"),
        (
            "both framings",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "response:conflicting_framing",
        ),
        ("unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".into(), "response:coding_unknown"),
        ("fold", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n".into(), "response:obs_fold"),
        ("name", "HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 0\r\n\r\n".into(), "response:space_before_colon"),
        ("status", "HTTP/1.1 9999 OK\r\nContent-Length: 0\r\n\r\n".into(), "response:status"),
        ("version", "HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n".into(), "response:start_line"),
        ("large head", format!("HTTP/1.1 200 OK\r\nA: {long}\r\n\r\n"), "response:head_too_large"),
        ("many fields", format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101)), "response:fields_too_many"),
        (
            "many connection names",
            format!("HTTP/1.1 200 OK\r\nConnection: {}\r\n\r\n", "x,".repeat(33)),
            "response:connection_names_too_many",
        ),
        ("chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".into(), "response:chunk_size"),
        ("closed at once", String::new(), "backend_closed"),
        ("closed in head", "HTTP/1.1 200 OK\r\nA: ".into(), "backend_closed"),
        (
            "101 unasked",
            "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".into(),
            "upgrade_unasked",
        ),
        ("interim flood", "HTTP/1.1 103 Hints\r\n\r\n".repeat(40), "interim_flood"),
    ];
    for (name, bytes, reason) in cases {
        let backend = Backend::answering(bytes);
        let site = Site::of(&[&backend], |_, service| service.retries_max = 0);
        let mut client = site.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut response = client.response();
        while response.status == 103 {
            response = client.response();
        }
        assert_eq!((response.status, response.header("x-ballast-reason")), (502, Some(reason)), "{name}");
        assert_eq!(site.line(0)["ended"], reason, "{name}");
        assert!(site.world.observed.lock().unwrap().iter().any(|(_, answer)| *answer == Answer::Bad), "{name}");
    }
}

#[test]
fn good_responses_are_reframed_for_the_client() {
    let ok = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
    let cases: Vec<(&str, &str, String, &str, &str)> = vec![
        // name, request, response, expected framing line ("" for none), body
        ("length", "GET / HTTP/1.1", ok("Content-Length: 2\r\n", "hi"), "Content-Length: 2", "hi"),
        (
            "chunked",
            "GET / HTTP/1.1",
            ok("Transfer-Encoding: chunked\r\n", "2;x\r\nhi\r\n0\r\n\r\n"),
            "Transfer-Encoding: chunked",
            "hi",
        ),
        (
            "chunked to 1.0",
            "GET / HTTP/1.0",
            ok("Transfer-Encoding: chunked\r\n", "2\r\nhi\r\n0\r\n\r\n"),
            "Connection: close",
            "hi",
        ),
        ("until close", "GET / HTTP/1.1", ok("", "hi"), "Transfer-Encoding: chunked", "hi"),
        ("until close to 1.0", "GET / HTTP/1.0", ok("", "hi"), "Connection: close", "hi"),
        ("head", "HEAD / HTTP/1.1", ok("Content-Length: 2\r\n", ""), "Content-Length: 2", ""),
        ("204", "GET / HTTP/1.1", "HTTP/1.1 204 No Content\r\n\r\n".into(), "", ""),
        (
            "304",
            "GET / HTTP/1.1",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n".into(),
            "Content-Length: 9",
            "",
        ),
    ];
    for (name, line, bytes, framing, body) in cases {
        let backend = Backend::answering(bytes);
        let site = Site::of(&[&backend], |_, _| {});
        let mut client = site.client();
        client.send(format!("{line}\r\nHost: a\r\n\r\n"));
        let response = client.response_to(line.split(' ').next().unwrap());
        assert_eq!(response.text(), body, "{name}");
        assert!(response.head.contains(framing), "{name}: {}", response.head);
        assert!(response.head.contains("Via: 1.1 ballast\r\n") && response.header("date").is_some(), "{name}");
        let framings = response
            .head
            .lines()
            .filter(|l| l.starts_with("Content-Length") || l.starts_with("Transfer-Encoding"))
            .count();
        assert_eq!(framings, usize::from(!framing.is_empty() && framing != "Connection: close"), "{name}");
    }
}

#[test]
fn responses_lose_what_is_hop_by_hop() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 9\r\nUpgrade: h2c\r\nProxy-Connection: x\r\nX-Kept: 1\r\nDate: then\r\nContent-Length: 0\r\n\r\n",
    );
    let site = Site::of(&[&backend], |_, _| {});
    let response = site.get("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        response.head,
        "HTTP/1.1 200 OK\r\nX-Kept: 1\r\nDate: then\r\nVia: 1.1 ballast\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn max_forwards_zero_is_answered_here() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let trace = site.get("TRACE /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nCookie: secret\r\n\r\n");
    assert_eq!((trace.status, trace.text()), (200, "TRACE /x HTTP/1.1\r\n"));
    let options = site.get("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
    assert!(options.status == 200 && options.header("allow").is_some());
    assert_eq!(backend.connections(), 0);
}

mod garbage {
    //! Whatever is sent, the proxy answers or closes, and goes on serving.

    use std::{io::Write, sync::OnceLock};

    use proptest::prelude::*;

    use super::*;

    fn site() -> &'static (Site, Backend) {
        static SITE: OnceLock<(Site, Backend)> = OnceLock::new();
        SITE.get_or_init(|| {
            let backend = Backend::named("b1");
            (Site::of(&[&backend], |_, _| {}), backend)
        })
    }

    /// Pieces that requests are made of, in any order, whole or cut.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "POST /x HTTP/1.0\r\n",
            "Host: a\r\n",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: upgrade\r\n",
            "Upgrade: websocket\r\n",
            "Expect: 100-continue\r\n",
            "\r\n",
            "3\r\nabc\r\n",
            "0\r\n\r\n",
            "abc",
            "\n",
            "\r",
            ";x=y",
            ": ",
        ]);
        prop_oneof![4 => known.prop_map(|s: &str| s.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..20)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn never_stops_the_proxy(pieces in prop::collection::vec(piece(), 0..12)) {
            let (site, _) = site();
            let mut client = site.client();
            // The proxy may close before all is sent.
            for piece in &pieces {
                if client.stream.write_all(piece).is_err() {
                    break;
                }
            }
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
            if let Ok(answer) = client.rest() {
                prop_assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "));
            }
            prop_assert_eq!(site.get("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
        }
    }
}
