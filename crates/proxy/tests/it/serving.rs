//! Ordinary service: connections kept, bodies streamed, upgrades, retries, queues, limits, fallbacks.

use std::{
    io::Write,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use ballast_core::{
    config::{Balance, ByteSize, Fallback, RequestMatch, Span},
    health::Answer,
    ids::{BackendId, ServiceId},
    plan::{AdminState, BackendPlan, Verdict},
};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn connections_are_kept_on_both_sides() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    for _ in 0..5 {
        client.send(GET);
        assert_eq!(client.response().text(), "b1");
    }
    assert_eq!((backend.connections(), backend.requests().len()), (1, 5));
    // The last bytes arrive just before the worker has counted them.
    eventually("all to be counted", || {
        let stats = site.proxy.stats();
        let backend = stats.backends[&BackendId::new(1)];
        let counted = (backend.requests_total, backend.connects_total, backend.in_flight, backend.idle) == (5, 1, 0, 1);
        (counted && stats.services[&SERVICE].responses_2xx_total == 5).then_some(())
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start(|conn| {
        while let Some(request) = conn.request() {
            let path = request.split(' ').nth(1).unwrap().to_owned();
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    let mut all = String::new();
    for i in 0..50 {
        all += &format!("POST /{i} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    }
    client.send(all + "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for i in 0..50 {
        assert_eq!(client.response().text(), format!("/{i}"));
    }
    let last = client.response();
    assert_eq!((last.text(), last.header("connection")), ("/last", Some("close")));
    client.closed();
}

#[test]
fn http_1_0_is_closed_unless_it_asks() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let kept = client.response();
    assert_eq!((kept.text(), kept.header("connection")), ("b1", Some("keep-alive")));
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().header("connection"), Some("close"));
    client.closed();
    assert!(backend.requests()[0].contains(&format!("Host: {}\r\n", site.address())), "{:?}", backend.requests());
}

#[test]
fn a_client_that_has_said_all_is_still_answered() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send(GET);
    client.finish();
    assert_eq!(client.response().text(), "b1");
    client.closed();
}

const LOG_IN: &str = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n\
    Content-Length: 0\r\n\r\n";

/// Logs clients in as NTLM does: whatever comes over a connection is from the user who logged in on it.
fn ntlm() -> Backend {
    Backend::start(|conn| {
        let (mut greeted, mut user) = (false, None);
        while let Some(request) = conn.request() {
            match request.lines().find_map(|line| line.strip_prefix("Authorization: NTLM ")) {
                Some("hello") => greeted = true,
                Some(name) if greeted => user = Some(name.to_owned()),
                Some(_) | None => {}
            }
            match &user {
                Some(user) => conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}", user.len())),
                None => conn.send(LOG_IN),
            }
        }
    })
}

/// Sends a request, with a message of the login if there is one. Returns the status, and as whom it was answered.
fn as_whom(client: &mut Client, message: Option<&str>) -> (u16, String) {
    let authorization = message.map(|message| format!("Authorization: NTLM {message}\r\n")).unwrap_or_default();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{authorization}\r\n"));
    let response = client.response();
    (response.status, response.text().to_owned())
}

fn log_in(client: &mut Client, name: &str) {
    assert_eq!(as_whom(client, Some("hello")).0, 401);
    assert_eq!(as_whom(client, Some(name)), (200, name.to_owned()));
}

#[test]
fn a_connection_that_a_client_logged_in_on_is_used_for_nobody_else() {
    let backend = ntlm();
    let site = Site::of(&[&backend], |_, _| {});
    let (mut alice, mut other) = (site.client(), site.client());
    log_in(&mut alice, "alice");
    assert_eq!(as_whom(&mut other, None).0, 401);
    log_in(&mut other, "bob");
    for _ in 0..2 {
        assert_eq!(as_whom(&mut alice, None), (200, "alice".to_owned()));
        assert_eq!(as_whom(&mut other, None), (200, "bob".to_owned()));
    }
    assert_eq!(backend.connections(), 2);
    drop((alice, other));
    eventually("them to be closed with their clients", || {
        let stats = site.proxy.stats().backends[&BackendId::new(1)];
        (stats.connections == 0 && stats.idle == 0).then_some(())
    });
}

#[test]
fn who_logs_in_on_a_connection_stays_with_its_backend() {
    let (b1, b2) = (ntlm(), ntlm());
    let site = Site::of(&[&b1, &b2], |_, service| service.balance = Balance::RoundRobin);
    for name in ["alice", "bob", "carol"] {
        let mut client = site.client();
        log_in(&mut client, name);
        assert_eq!(as_whom(&mut client, None), (200, name.to_owned()));
    }
    assert_eq!(b1.connections() + b2.connections(), 3);
    assert!(b1.connections() > 0 && b2.connections() > 0);
}

/// Reads requests and never answers; ends when the proxy closes.
fn silent() -> Backend {
    Backend::start(|conn| {
        let _ = conn.request();
        let _ = conn.client.rest();
    })
}

#[test]
fn a_request_is_given_up_when_its_client_resets() {
    for pipelined in ["", GET] {
        let b1 = silent();
        let site = Site::of(&[&b1], |_, _| {});
        let mut client = site.client();
        client.send(format!("{GET}{pipelined}"));
        eventually("the request", || (b1.requests().len() == 1).then_some(()));
        client.reset();
        eventually("the end of the backend's connection", || {
            let stats = site.proxy.stats();
            let backend = stats.backends[&BackendId::new(1)];
            (backend.connections == 0 && backend.in_flight == 0).then_some(())
        });
        let line = site.line(0);
        assert_eq!((line["ended"].as_str(), line["status"].as_u64()), (Some("client_closed"), Some(0)), "{line}");
        assert_eq!(site.proxy.stats().services[&SERVICE].aborted_total, 1);
        // It was nobody's fault but the client's.
        assert!(site.world.observed.lock().unwrap().is_empty());
    }
}

#[test]
fn a_place_in_the_line_is_given_up_when_its_client_resets() {
    let (open, gate) = gate();
    let b1 = Backend::start(move |conn| {
        while conn.request().is_some() {
            wait_at(&gate);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nb1");
        }
    });
    let site = Site::of(&[&b1], |_, service| {
        service.backends[0].connections_max = 1;
        service.queue_timeout_ms = 3_600_000;
    });
    let queued = |n| eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == n).then_some(()));
    let mut first = site.client();
    first.send(GET);
    eventually("the first request", || (b1.requests().len() == 1).then_some(()));
    let mut second = site.client();
    second.send(GET);
    queued(1);
    // Whoever has only said all there is to say waits on.
    let mut third = site.client();
    third.send(GET);
    third.finish();
    queued(2);
    second.reset();
    queued(1);
    assert_eq!(site.line(0)["ended"], "client_closed");
    open.send(()).unwrap();
    assert_eq!(first.response().text(), "b1");
    open.send(()).unwrap();
    assert_eq!(third.response().text(), "b1");
    assert_eq!(b1.requests().len(), 2, "the one that was given up never got there");
}

#[test]
fn no_connection_idles_from_before_its_backend_was_left_to_after() {
    for (verdict, admin) in [(Verdict::Down, AdminState::Ready), (Verdict::Up, AdminState::Maintenance)] {
        let b1 = Backend::named("b1");
        let site = Site::of(&[&b1], |_, _| {});
        let publish = |verdict, admin| {
            let b1 = BackendPlan { verdict, admin, ..backend(1, b1.address) };
            site.world.publish(plan(vec![farm(vec![service(vec![b1])])]));
        };
        assert_eq!(site.get(GET).text(), "b1");
        publish(verdict, admin);
        assert_eq!(site.get(GET).status, 503);
        let stats = site.proxy.stats().backends[&BackendId::new(1)];
        assert_eq!((stats.idle, stats.connections), (0, 0), "{verdict:?} {admin:?}");
        publish(Verdict::Up, AdminState::Ready);
        let mut client = site.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(client.response().text(), "b1");
        assert_eq!(b1.connections(), 2, "{verdict:?} {admin:?}");
    }
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_served() {
    let backend = Backend::named("b1");
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    for byte in b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.response().text(), "b1");
}

/// A body of `size` bytes that is not the same everywhere.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i / 251) as u8 ^ (i % 251) as u8).collect()
}

#[test]
fn large_bodies_go_through_both_ways() {
    let size = 3_000_000;
    let body = pattern(size);
    for chunked in [false, true] {
        let backend = Backend::start(move |conn| {
            while let Some(head) = conn.request_head() {
                let body = if head.contains("chunked") {
                    let mut body = Vec::new();
                    loop {
                        let size = usize::from_str_radix(conn.client.line().trim(), 16).unwrap();
                        body.extend(conn.client.exactly(size));
                        conn.client.exactly(2);
                        if size == 0 {
                            break;
                        }
                    }
                    body
                } else {
                    conn.client.exactly(size)
                };
                if chunked {
                    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    for part in body.chunks(70_001) {
                        conn.send(format!("{:x}\r\n", part.len()));
                        conn.send(part);
                        conn.send("\r\n");
                    }
                    conn.send("0\r\n\r\n");
                } else {
                    conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
                    conn.send(body);
                }
            }
        });
        let site = Site::of(&[&backend], |_, _| {});
        let mut client = site.client();
        for _ in 0..2 {
            let mut writer = client.stream.try_clone().unwrap();
            let sent = body.clone();
            let sending = std::thread::spawn(move || {
                if chunked {
                    writer.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
                    for part in sent.chunks(33_333) {
                        write!(writer, "{:x}\r\n", part.len()).unwrap();
                        writer.write_all(part).unwrap();
                        writer.write_all(b"\r\n").unwrap();
                    }
                    writer.write_all(b"0\r\n\r\n").unwrap();
                } else {
                    write!(writer, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").unwrap();
                    writer.write_all(&sent).unwrap();
                }
            });
            let response = client.response();
            sending.join().unwrap();
            assert!(response.body == body, "chunked: {chunked}");
        }
    }
}

#[test]
fn a_slow_reader_holds_the_backend_back() {
    // Far more than socket buffers hold; the backend counts what it could write.
    let written = Arc::new(Mutex::new(0usize));
    let total: usize = 64 << 20;
    let count = written.clone();
    let backend = Backend::start(move |conn| {
        if conn.request().is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"));
            let piece = vec![7u8; 1 << 16];
            for _ in 0..total / piece.len() {
                if conn.client.stream.write_all(&piece).is_err() {
                    return;
                }
                *count.lock().unwrap() += piece.len();
            }
        }
    });
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send(GET);
    client.head();
    // It stalls: two looks with the same count, some time apart.
    let mut before = usize::MAX;
    eventually("a stall", || {
        std::thread::park_timeout(Duration::from_millis(50));
        let now = *written.lock().unwrap();
        let stalled = now == before && now > 0;
        before = now;
        stalled.then_some(())
    });
    assert!(before < total / 2, "{before} bytes were taken from the backend for a client that reads nothing");
    for _ in 0..total >> 20 {
        client.exactly(1 << 20);
    }
    assert_eq!(eventually("all of it", || (*written.lock().unwrap() == total).then_some(total)), total);
}

#[test]
fn truncation_stays_visible() {
    for (name, bytes) in [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"),
    ] {
        for version in ["1.1", "1.0"] {
            let backend = Backend::answering(bytes);
            let site = Site::of(&[&backend], |_, _| {});
            let mut client = site.client();
            client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
            let ended = client.rest();
            assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{name} {version}");
            assert_eq!(site.line(0)["ended"], "truncated");
        }
    }
}

#[test]
fn a_request_cut_short_is_not_completed() {
    let backend = Backend::start(|conn| {
        let head = conn.request_head();
        assert!(head.is_some());
        // Never gets its body; sees the connection end instead.
        assert!(conn.client.rest().map_or(true, |rest| rest == b"abc"));
    });
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    eventually("the backend's connection", || (backend.connections() == 1).then_some(()));
    client.finish();
    client.closed();
    assert_eq!(site.line(0)["ended"], "client_closed");
}

#[test]
fn continue_is_passed_to_those_who_wait_for_it() {
    let backend = Backend::start(|conn| {
        let head = conn.request_head().unwrap();
        assert!(head.contains("Expect: 100-continue\r\n"));
        conn.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(conn.client.exactly(5), b"hello");
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("hello");
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn a_final_answer_instead_of_continue_ends_the_connection() {
    let backend = Backend::start(|conn| {
        if conn.request_head().is_some() {
            conn.send("HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig");
            let _ = conn.client.rest();
        }
    });
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.text(), response.header("connection")), (413, "big", Some("close")));
    client.closed();
}

#[test]
fn interim_responses_are_passed_on_except_to_http_1_0() {
    let script = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let backend = Backend::answering(script);
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send(GET);
    assert_eq!(client.head(), "HTTP/1.1 103 Early Hints\r\nLink: x\r\nVia: 1.1 ballast\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(site.get("GET / HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn trailers_reach_the_client() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
    );
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let text = String::from_utf8(client.rest().unwrap()).unwrap();
    assert!(text.contains("Trailer: X-Sum\r\n") && text.ends_with("2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"), "{text}");
}

#[test]
fn a_websocket_becomes_a_tunnel_with_half_close() {
    let backend = Backend::start(|conn| {
        let head = conn.request_head().unwrap();
        assert!(head.contains("Connection: Upgrade\r\nUpgrade: WebSocket\r\n"), "{head}");
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nearly");
        assert_eq!(conn.client.exactly(4), b"ping");
        conn.send("pong");
        // The client half-closes; what is still to say gets through.
        assert_eq!(conn.client.rest().unwrap(), b"bye");
        conn.send("late");
    });
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\nping");
    let head = client.head();
    assert!(
        head.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n") && head.contains("Sec-WebSocket-Accept: x"),
        "{head}"
    );
    assert_eq!(client.exactly(9), b"earlypong");
    client.send("bye");
    client.finish();
    assert_eq!(client.rest().unwrap(), b"late");
    assert_eq!(site.line(0)["ended"], "tunnel_closed");
}

#[test]
fn an_upgrade_may_be_declined() {
    let backend = Backend::named("plain");
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    for _ in 0..2 {
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(client.response().text(), "plain");
    }
}

#[test]
fn a_backend_that_cannot_be_reached_is_passed_over() {
    let (dead, alive) = (Backend::nowhere(), Backend::named("alive"));
    let site = Site::of(&[&dead, &alive], |_, _| {});
    for i in 0..4 {
        assert_eq!(site.get(GET).text(), "alive");
        let _ = i;
    }
    let tried: Vec<_> = (0..4).map(|i| site.line(i)["retries"].as_u64().unwrap()).collect();
    assert!(tried.contains(&1), "{tried:?}");
    assert!(site.world.observed.lock().unwrap().contains(&(BackendId::new(1), Answer::Bad)));
    assert_eq!(site.proxy.stats().services[&SERVICE].retries_total, tried.iter().sum::<u64>());
}

#[test]
fn retries_stop_at_their_bounds() {
    let dead: Vec<_> = (0..4).map(|_| Backend::nowhere()).collect();
    let dead: Vec<_> = dead.iter().collect();
    let site = Site::of(&dead, |_, service| service.retries_max = 1);
    let response = site.get(GET);
    assert_eq!((response.status, response.header("x-ballast-reason")), (503, Some("connect_failed")));
    assert_eq!(site.line(0)["retries"], 1);
    for _ in 0..20 {
        site.get(GET);
    }
    let stats = site.proxy.stats().services[&SERVICE];
    assert_eq!((stats.retries_total, stats.retries_refused_total), (21, 0), "each asked another");

    let site = Site::of(&dead[..1], |farm, service| {
        farm.timeouts.connect = Span::from_millis(1);
        service.retries_max = 1;
    });
    let mut clients: Vec<_> = (0..21).map(|_| site.client()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 503));
    let stats = site.proxy.stats().services[&SERVICE];
    // Ten at once, and a fifth of 21 requests.
    assert!(stats.retries_total <= 14 && stats.retries_refused_total >= 7, "{stats:?}");
}

#[test]
fn one_dead_backend_costs_no_request_while_another_serves() {
    let dead = Backend::nowhere();
    let slow = Backend::start(|conn| {
        while conn.request().is_some() {
            // So long that there is always something in flight.
            std::thread::park_timeout(Duration::from_millis(2));
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let site = Site::of(&[&dead, &slow], |_, _| {});
    let address = site.address();
    let clients = (0..8).map(|_| {
        std::thread::spawn(move || {
            let mut client = Client::connect(address);
            let mut ask = || {
                client.send(GET);
                client.response().status
            };
            (0..25).map(|_| ask()).collect::<Vec<_>>()
        })
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), [200; 25]);
    }
    assert_eq!(site.proxy.stats().services[&SERVICE].retries_refused_total, 0);
}

#[test]
fn a_backend_that_is_being_reached_is_not_the_least_loaded() {
    let (hangs, _full) = unreachable();
    let b2 = Backend::named("b2");
    let mut shop = farm(vec![service(vec![backend(1, hangs), backend(2, b2.address)])]);
    shop.timeouts.connect = Span::from_secs(3600);
    let site = Site::new(shop);
    let counts = |in_flight: u64, answered: u64| {
        eventually("the requests to be counted", || {
            let stats = site.proxy.stats().services[&SERVICE];
            ((stats.in_flight, stats.responses_2xx_total) == (in_flight, answered)).then_some(())
        });
    };
    let send = || {
        let mut clients: Vec<_> = (0..2).map(|_| site.client()).collect();
        clients.iter_mut().for_each(|client| client.send(GET));
        clients
    };
    // One goes to each, whoever is first.
    let clients = send();
    counts(1, 1);
    for answered in 2..6 {
        assert_eq!(site.get(GET).text(), "b2");
        counts(1, answered);
    }
    // Nor does it stay loaded when its client has gone.
    clients.into_iter().for_each(Client::reset);
    counts(0, 5);
    let _clients = send();
    counts(1, 6);
    assert_eq!(site.get(GET).text(), "b2");
    counts(1, 7);
}

/// Closes each connection after one request although it said that it would keep it; says so when it did.
fn closing_backend() -> (Backend, std::sync::mpsc::Receiver<()>) {
    let (closed, wait) = std::sync::mpsc::channel();
    let closed = Mutex::new(closed);
    let backend = Backend::start(move |conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        // The second request on the connection is read and never answered.
        let _ = conn.request();
        let _ = closed.lock().unwrap().send(());
    });
    (backend, wait)
}

#[test]
fn an_idempotent_request_survives_a_connection_that_closed() {
    let (backend, _closed) = closing_backend();
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!(site.line(1)["retries"], 1);
}

#[test]
fn a_request_that_may_have_been_carried_out_is_not_repeated() {
    let (backend, _closed) = closing_backend();
    let site = Site::of(&[&backend], |_, _| {});
    let mut client = site.client();
    client.send(GET);
    client.response();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    let response = client.response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (502, Some("backend_closed")));
    assert_eq!(backend.requests().iter().filter(|r| r.starts_with("POST")).count(), 1);
    // It may have closed the connection because it was idle.
    assert_eq!(*site.world.observed.lock().unwrap(), [(BackendId::new(1), Answer::Good)]);
}

#[test]
fn a_request_that_had_left_is_not_repeated_where_there_are_no_retries() {
    let (backend, _closed) = closing_backend();
    let site = Site::of(&[&backend], |_, service| service.retries_max = 0);
    let mut client = site.client();
    client.send(GET);
    assert_eq!(client.response().text(), "ok");
    client.send(GET);
    let response = client.response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (502, Some("backend_closed")));
    assert_eq!(backend.requests().len(), 2, "the second was read, and once only");
    assert_eq!(site.line(1)["retries"], 0);
    assert_eq!(site.proxy.stats().services[&SERVICE].retries_total, 0);
}

#[test]
fn a_full_backend_makes_requests_wait_in_line() {
    let (open, gate) = gate();
    let backend = Backend::start(move |conn| {
        while conn.request().is_some() {
            wait_at(&gate);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let site = Site::of(&[&backend], |_, service| service.backends[0].connections_max = 1);
    let mut clients: Vec<_> = (0..3).map(|_| site.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    eventually("a line", || (site.proxy.stats().services[&SERVICE].queued == 2).then_some(()));
    eventually("the first request", || ((backend.connections(), backend.requests().len()) == (1, 1)).then_some(()));
    for _ in 0..3 {
        open.send(()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!(backend.connections(), 1, "the connection was handed on");
    assert_eq!(site.proxy.stats().services[&SERVICE].queued, 0);
}

#[test]
fn pipelined_requests_do_not_pass_by_who_waits_in_line() {
    let (open, backend) = gated();
    let site = Site::of(&[&backend], |_, service| {
        service.backends[0].connections_max = 1;
        service.queue_timeout_ms = 3_600_000;
    });
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut many, mut one) = (site.client(), site.client());
    many.send(["/1", "/2", "/3"].map(get).concat());
    eventually("the first request", || (backend.requests().len() == 1).then_some(()));
    one.send(get("/one"));
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 1).then_some(()));
    (0..4).for_each(|_| open.send(()).unwrap());
    (0..3).for_each(|_| assert_eq!(many.response().text(), "ok"));
    assert_eq!(one.response().text(), "ok");
    let requests = backend.requests();
    let paths: Vec<_> = requests.iter().filter_map(|request| request.split(' ').nth(1)).collect();
    assert_eq!(paths, ["/1", "/one", "/2", "/3"]);
    assert_eq!(backend.connections(), 1, "the connection was handed on");
}

#[test]
fn who_waits_goes_where_there_is_room_first() {
    let ((open_b1, b1), (open_b2, b2)) = (gated(), gated());
    let site = Site::of(&[&b1, &b2], |_, service| {
        service.backends.iter_mut().for_each(|backend| backend.connections_max = 1);
        service.queue_timeout_ms = 3_600_000;
    });
    let sent = || {
        let mut clients: Vec<_> = (0..2).map(|_| site.client()).collect();
        clients.iter_mut().for_each(|client| client.send(GET));
        clients
    };
    let answered = |clients: Vec<Client>| {
        clients.into_iter().for_each(|mut client| assert_eq!(client.response().text(), "ok"));
    };
    let at_each = || (b1.requests().len(), b2.requests().len());
    let held = sent();
    eventually("both to be full", || (at_each() == (1, 1)).then_some(()));
    // By turns, one of them would be for the second.
    let waiting = sent();
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 2).then_some(()));
    (0..3).for_each(|_| open_b1.send(()).unwrap());
    answered(waiting);
    assert_eq!(at_each(), (3, 1));
    open_b2.send(()).unwrap();
    answered(held);
    assert_eq!(site.proxy.stats().services[&SERVICE].queued, 0);
}

#[test]
fn a_backend_that_comes_serves_who_waits_for_others() {
    let ((open, b1), b2) = (gated(), Backend::named("b2"));
    let queues = |app: &mut ballast_core::plan::ServicePlan| app.queue_timeout_ms = 3_600_000;
    let mut app = service(vec![backend_plan_limited(&b1)]);
    queues(&mut app);
    let site = Site::new(farm(vec![app]));
    let (mut held, mut waits) = (site.client(), site.client());
    held.send(GET);
    eventually("the first request", || (b1.requests().len() == 1).then_some(()));
    waits.send(GET);
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 1).then_some(()));
    let mut app = service(vec![backend_plan_limited(&b1), backend(2, b2.address)]);
    queues(&mut app);
    site.world.publish(plan(vec![farm(vec![app])]));
    site.proxy.plan_changed();
    assert_eq!(waits.response().text(), "b2");
    assert_eq!(site.line(0)["retries"], 0);
    open.send(()).unwrap();
    assert_eq!(held.response().text(), "ok");
}

#[test]
fn who_waits_joins_the_line_of_a_backend_that_comes() {
    let ((open_b1, b1), (open_b2, b2)) = (gated(), gated());
    let with = |backends| {
        let mut app = service(backends);
        app.queue_timeout_ms = 3_600_000;
        plan(vec![farm(vec![app])])
    };
    let site = Site::with(with(vec![backend_plan_limited(&b1)]), 1);
    let mut held = site.client();
    held.send(GET);
    eventually("the first request", || (b1.requests().len() == 1).then_some(()));
    let mut waiting: Vec<_> = (0..3).map(|_| site.client()).collect();
    waiting.iter_mut().for_each(|client| client.send(GET));
    let queued = |n| eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == n).then_some(()));
    queued(3);
    let mut limited = backend(2, b2.address);
    limited.connections_max = 1;
    site.world.publish(with(vec![backend_plan_limited(&b1), limited]));
    site.proxy.plan_changed();
    // One has the room that came, and the others are next there.
    queued(2);
    (0..3).for_each(|_| open_b2.send(()).unwrap());
    waiting.into_iter().for_each(|mut client| assert_eq!(client.response().text(), "ok"));
    assert_eq!((b1.requests().len(), b2.requests().len()), (1, 3));
    open_b1.send(()).unwrap();
    assert_eq!(held.response().text(), "ok");
}

#[test]
fn the_wait_in_line_is_told_apart_from_the_connection() {
    let (open, b1) = gated();
    let site = Site::of(&[&b1], |_, service| {
        service.backends[0].connections_max = 1;
        service.queue_timeout_ms = 3_600_000;
    });
    let (mut held, mut waits, mut leaves) = (site.client(), site.client(), site.client());
    held.send(GET);
    eventually("the first request", || (b1.requests().len() == 1).then_some(()));
    waits.send(GET);
    leaves.send(GET);
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 2).then_some(()));
    let queued = Instant::now();
    eventually("a moment", || (queued.elapsed() > Duration::from_millis(5)).then_some(()));
    // Whether its turn came or not.
    leaves.reset();
    let left = site.line(0);
    assert_eq!(left["ended"], "client_closed");
    assert!(left["tw_ms"].as_f64() >= Some(5.0), "{left}");
    (0..2).for_each(|_| open.send(()).unwrap());
    assert_eq!((held.response().text(), waits.response().text()), ("ok", "ok"));
    let lines = [1, 2].map(|n| site.line(n));
    assert!(lines.iter().any(|line| line["tw_ms"].as_f64() >= Some(5.0)), "{lines:?}");
}

#[test]
fn a_full_backend_without_a_queue_refuses() {
    let (open, gate) = gate();
    let backend = Backend::start(move |conn| {
        while conn.request().is_some() {
            wait_at(&gate);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let site = Site::of(&[&backend], |_, service| {
        service.backends[0].connections_max = 1;
        service.queue_timeout_ms = 0;
    });
    let mut first = site.client();
    first.send(GET);
    eventually("the first request", || (backend.requests().len() == 1).then_some(()));
    let second = site.get(GET);
    assert_eq!((second.status, second.header("x-ballast-reason")), (503, Some("queue_full")));
    open.send(()).unwrap();
    assert_eq!(first.response().text(), "ok");
}

#[test]
fn waiting_lines_reach_across_workers() {
    let backend = Backend::named("b1");
    let mut app = service(vec![backend_plan_limited(&backend)]);
    app.queue_timeout_ms = 10_000;
    let site = Site::with(plan(vec![farm(vec![app])]), 2);
    // Enough connections for both workers to have some; each keeps the only connection idle in turn.
    let mut clients: Vec<_> = (0..16).map(|_| site.client()).collect();
    for _ in 0..4 {
        for client in &mut clients {
            client.send(GET);
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), "b1");
        }
    }
}

#[test]
fn idle_connections_of_other_workers_are_room_without_a_queue_too() {
    let backend = Backend::named("b1");
    let mut app = service(vec![backend_plan_limited(&backend)]);
    app.queue_timeout_ms = 0;
    let site = Site::with(plan(vec![farm(vec![app])]), 2);
    // Enough connections for both workers to have some.
    let mut clients: Vec<_> = (0..16).map(|_| site.client()).collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.response().text(), "b1");
        let idle = || site.proxy.stats().backends[&BackendId::new(1)].idle;
        eventually("the connection to idle", || (idle() == 1).then_some(()));
    }
}

/// Publishes the site's one backend with another limit.
fn limit(site: &Site, of: &Backend, connections_max: u32) {
    let limited = ballast_core::plan::BackendPlan { connections_max, ..backend(1, of.address) };
    site.world.publish(plan(vec![farm(vec![service(vec![limited])])]));
    site.proxy.plan_changed();
}

#[test]
fn a_raised_limit_lets_in_who_waits() {
    let (open, backend) = gated();
    let site = Site::of(&[&backend], |_, service| service.backends[0].connections_max = 1);
    let mut clients: Vec<_> = (0..3).map(|_| site.client()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 2).then_some(()));
    limit(&site, &backend, 3);
    eventually("all three", || (backend.requests().len() == 3).then_some(()));
    (0..3).for_each(|_| open.send(()).unwrap());
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "ok"));
}

#[test]
fn a_limit_counts_connections_from_before_it() {
    let (open, backend) = gated();
    let site = Site::of(&[&backend], |_, _| {});
    let mut clients: Vec<_> = (0..3).map(|_| site.client()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    eventually("all three", || (backend.requests().len() == 3).then_some(()));
    limit(&site, &backend, 1);
    (0..3).for_each(|_| open.send(()).unwrap());
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "ok"));
    let open_now = || site.proxy.stats().backends[&BackendId::new(1)].connections;
    eventually("one connection", || (open_now() == 1).then_some(()));
}

#[test]
fn a_backend_that_leaves_keeps_nothing_idle_and_returns_with_what_is_open() {
    let ((open, b1), b2) = (gated(), Backend::named("b2"));
    let queues = |app: &mut ballast_core::plan::ServicePlan| app.queue_timeout_ms = 3_600_000;
    let site = Site::of(&[&b1], |_, app| {
        app.backends[0].connections_max = 1;
        queues(app);
    });
    let publish = |backends| {
        let mut app = service(backends);
        queues(&mut app);
        site.world.publish(plan(vec![farm(vec![app])]));
    };
    let leaves = || {
        publish(vec![backend(2, b2.address)]);
        assert_eq!(site.get(GET).text(), "b2");
    };
    let returns = || publish(vec![backend_plan_limited(&b1)]);

    // Its client stays, and with it the plan that it was served by.
    let mut kept = site.client();
    kept.send(GET);
    open.send(()).unwrap();
    assert_eq!(kept.response().text(), "ok");
    leaves();
    let open_now = || site.proxy.stats().backends[&BackendId::new(1)].connections;
    eventually("the idle connection to be closed", || (open_now() == 0).then_some(()));
    returns();
    let (mut held, mut waits) = (site.client(), site.client());
    held.send(GET);
    eventually("the request", || (b1.requests().len() == 2).then_some(()));

    // What is in use when it leaves counts when it is back, and is handed on then.
    leaves();
    returns();
    waits.send(GET);
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 1).then_some(()));
    (0..2).for_each(|_| open.send(()).unwrap());
    assert_eq!((held.response().text(), waits.response().text()), ("ok", "ok"));
    assert_eq!(b1.connections(), 2, "the connection was handed on");
}

fn backend_plan_limited(of: &Backend) -> ballast_core::plan::BackendPlan {
    let mut plan = backend(1, of.address);
    plan.connections_max = 1;
    plan
}

#[test]
fn a_backend_is_good_once_its_whole_response_is_there() {
    for (response, said) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Answer::Good),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Answer::Bad),
        ("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", Answer::Bad),
        ("HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nno", Answer::Bad),
        // Clients can have these of any backend.
        ("HTTP/1.1 501 No\r\nContent-Length: 2\r\n\r\nno", Answer::Good),
        ("HTTP/1.1 505 No\r\nContent-Length: 2\r\n\r\nno", Answer::Good),
    ] {
        let backend = Backend::answering(response);
        let site = Site::of(&[&backend], |_, _| {});
        let mut client = site.client();
        client.send(GET);
        client.head();
        site.line(0);
        assert_eq!(*site.world.observed.lock().unwrap(), [(BackendId::new(1), said)], "{response}");
    }
}

#[test]
fn backups_serve_when_nobody_else_can() {
    let (first, backup) = (Backend::named("first"), Backend::named("backup"));
    let site = Site::of(&[&first, &backup], |_, service| service.backends[1].backup = true);
    for _ in 0..4 {
        assert_eq!(site.get(GET).text(), "first");
    }
    let mut app = service(vec![backend(1, first.address), backend(2, backup.address)]);
    app.backends[0].verdict = Verdict::Down;
    app.backends[1].backup = true;
    site.world.publish(plan(vec![farm(vec![app])]));
    site.proxy.plan_changed();
    assert_eq!(site.get(GET).text(), "backup");
    assert_eq!(site.line(4)["reason"], "backup");
}

#[test]
fn panic_ignores_the_checks() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |_, service| {
        service.backends[0].verdict = Verdict::Down;
        service.panic_threshold_percent = 50;
    });
    assert_eq!(site.get(GET).text(), "b1");
}

#[test]
fn the_fallback_answers_when_nobody_is_left() {
    let b1 = Backend::named("b1");
    let fallback = |body: &str| Arc::new(Fallback { status: 503, content_type: "text/html".into(), body: body.into() });
    let site = Site::of(&[&b1], |farm, service| {
        service.backends[0].admin = AdminState::Maintenance;
        farm.fallback = Some(fallback("farm"));
        service.fallback = Some(fallback("service"));
    });
    let mut client = site.client();
    for _ in 0..2 {
        client.send(GET);
        let response = client.response();
        assert_eq!(
            (response.status, response.text(), response.header("content-type")),
            (503, "service", Some("text/html"))
        );
    }
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").header("content-length"), Some("7"));
    assert_eq!(site.line(0)["ended"], "no_backend");
    assert_eq!(site.proxy.stats().services[&SERVICE].fallback_total, 3);
}

#[test]
fn services_are_chosen_by_host_and_path() {
    let (shop, api) = (Backend::named("shop"), Backend::named("api"));
    let mut by_path = service(vec![backend(1, api.address)]);
    by_path.matches =
        Some(RequestMatch { hosts: vec!["*.example.org".into()], path_prefix: Some("/api".into()), path: None });
    let mut rest = service(vec![backend(2, shop.address)]);
    rest.id = ServiceId::new(2);
    rest.matches = Some(RequestMatch { hosts: vec!["www.example.org".into()], path_prefix: None, path: None });
    let site = Site::new(farm(vec![by_path, rest]));
    for (target, host, expected) in [
        ("/api/x", "www.example.org", "api"),
        ("/apix", "www.example.org", "shop"),
        ("/", "WWW.example.org:99", "shop"),
    ] {
        assert_eq!(site.get(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).text(), expected);
    }
    let lost = site.get("GET / HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!((lost.status, lost.header("x-ballast-reason")), (503, Some("no_route")));
}

#[test]
fn limits_refuse_and_say_so() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |farm, _| {
        farm.limits.connections_max = 2;
        farm.limits.requests_per_connection_max = 2;
        farm.limits.body_bytes_max = ByteSize::from_bytes(4);
    });
    let mut held: Vec<_> = (0..2).map(|_| site.client()).collect();
    for client in &mut held {
        client.send(GET);
        client.response();
    }
    let mut refused = site.client();
    let response = refused.response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (503, Some("limit_connections")));
    held[0].send(GET);
    assert_eq!(held[0].response().header("connection"), Some("close"));
    held[0].closed();
    eventually("room", || (site.proxy.held() == 1).then_some(()));
    assert_eq!(site.get("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").status, 413);
    eventually("room", || (site.proxy.held() == 1).then_some(()));
    let chunked = site.get("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(chunked.status, 413);
}

#[test]
fn one_address_may_not_have_all_connections() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |farm, _| farm.limits.connections_per_source_max = 1);
    let mut first = site.client();
    first.send(GET);
    first.response();
    let response = site.client().response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (429, Some("limit_source")));
    drop(first);
    eventually("room", || (site.proxy.held() == 0).then_some(()));
    assert_eq!(site.get(GET).status, 200);
}

#[test]
fn the_access_log_says_what_happened_and_no_secrets() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |_, _| {});
    site.get("POST /p%20a?token=secret HTTP/1.1\r\nHost: A.example:80\r\nCookie: SID=secret\r\nAuthorization: secret\r\nContent-Length: 3\r\n\r\nabc");
    let line = site.line(0);
    for (field, value) in [
        ("method", "POST"),
        ("host", "A.example"),
        ("path", "/p%20a"),
        ("protocol", "HTTP/1.1"),
        ("node", "n1"),
        ("farm", "shop"),
        ("listener", "web"),
        ("service", "app"),
        ("backend", "b1"),
        ("binding", "none"),
        ("reason", "balanced"),
        ("ended", "done"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(
        (line["status"].as_u64(), line["bytes_in"].as_u64(), line["backend_id"].as_u64()),
        (Some(200), Some(3), Some(1))
    );
    assert_eq!(line["backend_address"], b1.address.to_string());
    assert!(!line.to_string().contains("secret"));
    assert!(backend_saw_id(&b1, line["request_id"].as_str().unwrap()));
}

fn backend_saw_id(backend: &Backend, id: &str) -> bool {
    backend.requests()[0].contains(&format!("X-Request-Id: {id}\r\n"))
}

/// More than the kernel takes on both sides of a connection.
const LARGE: usize = 24 << 20;

#[test]
fn an_early_answer_reaches_who_is_still_sending() {
    let refuses = Backend::start(|conn| {
        let _ = conn.request_head();
        conn.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        let _ = conn.client.rest();
    });
    for (body_bytes_max, status) in [(1 << 20, 413), (0, 401)] {
        let site = Site::of(&[&refuses], |farm, _| farm.limits.body_bytes_max = ByteSize::from_bytes(body_bytes_max));
        let mut client = site.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
        // As a client that looks for an answer only when it has said all.
        client.send(vec![b'x'; LARGE]);
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (status, Some("close")));
        client.closed();
    }
}

#[test]
fn a_backend_that_came_back_warms_up_by_log_time() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1, &b2], |_, service| {
        service.balance = Balance::WeightedRoundRobin;
        service.slow_start_ms = 60_000;
        service.backends[1].serves_since_ms = 1_000_000;
    });
    let share = || (0..20).filter(|_| site.get(GET).text() == "b2").count();
    // Log time is years behind this machine's clock.
    site.world.log_time_ms.store(1_000_000, Ordering::SeqCst);
    assert!(share() <= 1);
    site.world.log_time_ms.store(1_060_000, Ordering::SeqCst);
    assert!(share() >= 9);
}

#[test]
fn those_behind_a_trusted_proxy_are_not_one_address() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |farm, _| {
        farm.limits.connections_per_source_max = 1;
        farm.trusted_proxies.0.push("127.0.0.0/8".to_owned().try_into().unwrap());
    });
    let mut clients: Vec<_> = (0..3).map(|_| site.client()).collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn head_gets_no_body_and_who_is_told_that_there_is_no_route_may_go_on() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |_, service| {
        service.matches = Some(RequestMatch { hosts: vec!["a".into()], path_prefix: None, path: None });
    });
    let mut client = site.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: other\r\n\r\n");
        let head = client.response_to("HEAD");
        assert_eq!((head.status, head.header("content-length")), (503, Some("30")));
        client.send("GET / HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!(client.response().text(), "Service Unavailable: no_route\n");
    }
    client.send("POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.response().header("connection"), Some("close"));
    client.closed();
    let mut wrong = site.client();
    wrong.send("HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(wrong.response_to("HEAD").status, 400);
    wrong.closed();
}

/// A client that takes in so little that most of a response waits in the proxy's kernel.
fn slow_reader(site: &Site) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&site.address().into()).unwrap();
    Client::of(socket.into())
}

#[test]
fn a_response_that_ends_a_connection_is_not_lost_to_the_next_request() {
    let body = pattern(100_000);
    let bytes =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body.clone()].concat();
    let b1 = Backend::answering(bytes);
    let site = Site::of(&[&b1], |farm, _| farm.limits.requests_per_connection_max = 1);
    let mut client = slow_reader(&site);
    client.send(GET);
    site.line(0);
    client.send(GET);
    assert!(client.response().body == body);
    client.closed();
}

#[test]
fn a_response_is_not_lost_to_an_empty_line_after_the_body() {
    let body = pattern(100_000);
    let bytes =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body.clone()].concat();
    for head in ["POST / HTTP/1.1\r\nConnection: close", "POST / HTTP/1.0"] {
        let b1 = Backend::answering(bytes.clone());
        let site = Site::of(&[&b1], |_, _| {});
        let mut client = slow_reader(&site);
        client.send(format!("{head}\r\nHost: a\r\nContent-Length: 2\r\n\r\n"));
        // Of what comes after the head only the body is read.
        eventually("the head at the backend", || (b1.connections() == 1).then_some(()));
        client.send("hi\r\n");
        site.line(0);
        assert!(client.response().body == body, "{head}");
        client.closed();
    }
}

#[test]
fn the_last_backend_is_asked_again_after_a_moment() {
    let back = Backend::nowhere();
    let site = Site::of(&[&back], |_, service| service.retries_max = 8);
    let mut client = site.client();
    client.send(GET);
    eventually("a first attempt", || (!site.world.observed.lock().unwrap().is_empty()).then_some(()));
    let _back = back.appears("back");
    assert_eq!(client.response().text(), "back");
    assert!(site.line(0)["retries"].as_u64() > Some(0));
}

#[test]
fn a_retry_that_waited_in_line_is_still_to_be_made_when_the_line_is_left() {
    let ((open, b2), dead) = (gated(), Backend::nowhere());
    let with = |backends| {
        let mut app = service(backends);
        (app.retries_max, app.queue_timeout_ms) = (1, 3_600_000);
        let mut shop = farm(vec![app]);
        short(&mut shop.timeouts.connect);
        plan(vec![shop])
    };
    let mut limited = backend(2, b2.address);
    limited.connections_max = 1;
    let site = Site::with(with(vec![limited.clone()]), 1);
    let (mut held, mut waits) = (site.client(), site.client());
    held.send(GET);
    eventually("the first request", || (b2.requests().len() == 1).then_some(()));
    site.world.publish(with(vec![backend(1, dead.address), limited.clone()]));
    waits.send(GET);
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 1).then_some(()));
    let back = dead.appears("back");
    limited.verdict = Verdict::Down;
    site.world.publish(with(vec![backend(1, back.address), limited]));
    site.proxy.plan_changed();
    assert_eq!(waits.response().text(), "back");
    assert_eq!(site.line(0)["retries"], 1);
    let stats = site.proxy.stats();
    assert_eq!(stats.backends[&BackendId::new(1)].connect_failures_total, 1);
    assert_eq!(stats.services[&SERVICE].retries_total, 1);
    open.send(()).unwrap();
    assert_eq!(held.response().text(), "ok");
}

#[test]
fn a_retry_is_counted_when_an_attempt_follows() {
    let dead = Backend::nowhere();
    let site = Site::of(&[&dead], |farm, service| {
        short(&mut farm.timeouts.connect);
        service.retries_max = 1;
    });
    assert_eq!(site.get(GET).status, 503);
    assert_eq!(site.line(0)["retries"], 1);
    let stats = site.proxy.stats();
    assert_eq!(stats.backends[&BackendId::new(1)].connect_failures_total, 2);
    assert_eq!(stats.services[&SERVICE].retries_total, 1);
}
