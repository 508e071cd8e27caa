//! Every wait has an end, with a name.

use ballast_core::{config::Span, health::Answer, ids::BackendId};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A backend that reads and never answers.
fn silent() -> Backend {
    Backend::start(|conn| {
        let _ = conn.request_head();
        let _ = conn.client.rest();
    })
}

fn check(site: &Site, send: &str, status: u16, reason: &str) {
    let mut client = site.client();
    client.send(send);
    let response = client.response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (status, Some(reason)), "{send:?}");
    assert_eq!(site.line(0)["ended"], reason);
}

#[test]
fn a_head_must_arrive() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.client_header));
    check(&site, "GET / HTTP/1.1\r\nHos", 408, "client_head_timeout");
}

#[test]
fn a_body_must_arrive() {
    let b1 = silent();
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.client_body));
    check(&site, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", 408, "client_body_timeout");
}

/// Sends bytes all the time, but far too few, until the connection ends.
fn trickle(client: &Client) -> std::thread::JoinHandle<()> {
    let mut writer = client.stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while std::io::Write::write_all(&mut writer, b"x").is_ok() {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    })
}

#[test]
fn a_body_must_not_trickle() {
    let b1 = silent();
    let site = Site::of(&[&b1], |farm, _| {
        farm.timeouts.client_body = Span::from_millis(300);
        farm.timeouts.body_rate_min = 1_000_000;
    });
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    let trickle = trickle(&client);
    let response = client.response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (408, Some("client_body_timeout")));
    // The writer has the same socket.
    client.stream.shutdown(std::net::Shutdown::Both).unwrap();
    trickle.join().unwrap();
}

#[test]
fn a_response_must_begin() {
    let b1 = silent();
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.response_header));
    check(&site, GET, 504, "backend_timeout");
}

#[test]
fn a_backend_that_leaves_a_client_waiting_for_continue_is_to_blame() {
    let b1 = silent();
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.response_header));
    let request = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    check(&site, request, 504, "backend_timeout");
    assert_eq!(*site.world.observed.lock().unwrap(), [(BackendId::new(1), Answer::Nothing)]);
    assert_eq!(site.proxy.stats().backends[&BackendId::new(1)].response_failures_total, 1);
}

#[test]
fn a_client_that_was_told_to_continue_must_send_its_body() {
    let b1 = Backend::start(|conn| {
        let _ = conn.request_head();
        conn.send("HTTP/1.1 100 Continue\r\n\r\n");
        let _ = conn.client.rest();
    });
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.client_body));
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    let response = client.response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (408, Some("client_body_timeout")));
    assert!(site.world.observed.lock().unwrap().is_empty());
}

#[test]
fn a_response_must_go_on() {
    let b1 = Backend::start(|conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
            let _ = conn.client.rest();
        }
    });
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.between_bytes));
    let mut client = site.client();
    client.send(GET);
    assert_eq!(client.rest().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(site.line(0)["ended"], "backend_stalled");
}

#[test]
fn a_client_must_read() {
    let b1 = Backend::start(|conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\n\r\n");
            let piece = vec![0u8; 1 << 20];
            while std::io::Write::write_all(&mut conn.client.stream, &piece).is_ok() {}
        }
    });
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.between_bytes));
    let mut client = site.client();
    client.send(GET);
    assert_eq!(site.line(0)["ended"], "client_stalled");
    assert!(client.rest().is_err());
}

/// Answers with a head of this content type and then a byte now and then until the proxy closes.
fn trickling(content_type: &'static str) -> Backend {
    Backend::start(move |conn| {
        if conn.request().is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: 100\r\n\r\n"));
            for _ in 0..100 {
                if std::io::Write::write_all(&mut conn.client.stream, b"x").is_err() {
                    break;
                }
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        }
    })
}

#[test]
fn a_response_must_not_trickle_where_a_rate_is_asked_for() {
    let b1 = trickling("text/plain");
    let site = Site::of(&[&b1], |farm, _| {
        farm.timeouts.between_bytes = Span::from_millis(300);
        farm.timeouts.response_rate_min = 1_000_000;
    });
    let mut client = site.client();
    client.send(GET);
    assert_eq!(client.rest().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(site.line(0)["ended"], "backend_stalled");
}

#[test]
fn events_may_trickle_and_so_may_all_where_no_rate_is_asked_for() {
    for (content_type, rate_min) in [("Text/Event-Stream; charset=utf-8", 1_000_000), ("text/plain", 0)] {
        let b1 = trickling(content_type);
        let site = Site::of(&[&b1], |farm, _| {
            farm.timeouts.between_bytes = Span::from_millis(300);
            farm.timeouts.response_rate_min = rate_min;
        });
        assert_eq!(site.get(GET).text(), "x".repeat(100));
        assert_eq!(site.line(0)["ended"], "done");
    }
}

#[test]
fn a_client_must_read_answers_without_a_body_too() {
    let b1 = Backend::start(|conn| {
        while conn.request().is_some() {
            conn.send("HTTP/1.1 204 No Content\r\n\r\n");
        }
    });
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.between_bytes));
    let mut client = site.client();
    let requests = GET.repeat(1000);
    // Pipelines until nothing fits any more; ends when the proxy gives up.
    while std::io::Write::write_all(&mut client.stream, requests.as_bytes()).is_ok() {}
    eventually("the end of the connection", || site.logged("client_stalled").then_some(()));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |farm, _| {
        short(&mut farm.timeouts.client_idle);
        short(&mut farm.timeouts.client_header);
    });
    let mut used = site.client();
    used.send(GET);
    used.response();
    used.closed();
    site.client().closed();
}

#[test]
fn an_empty_line_after_a_body_begins_no_request() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |farm, _| {
        farm.timeouts.client_header = Span::from_millis(300);
        farm.timeouts.client_idle = Span::from_millis(600);
    });
    for (body, later) in [("hi\r\n", ""), ("hi", "\r\n")] {
        let mut client = site.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{body}"));
        assert_eq!(client.response().status, 200);
        client.send(later);
        client.closed();
    }
    assert!(site.proxy.stats().listeners.values().all(|listener| listener.rejected_total == 0));
}

#[test]
fn a_second_empty_line_is_refused_whenever_it_comes() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |_, _| {});
    let mut client = site.client();
    client.send("\r\n");
    let read = || site.proxy.stats().listeners.values().any(|listener| listener.bytes_in_total == 2);
    eventually("the first to be read", || read().then_some(()));
    client.send("\r\n");
    assert_eq!(client.response().header("x-ballast-reason"), Some("request:method"));
}

#[test]
fn a_line_does_not_wait_for_ever() {
    let b1 = silent();
    let site = Site::of(&[&b1], |_, service| {
        service.backends[0].connections_max = 1;
        service.queue_timeout_ms = 150;
    });
    let mut first = site.client();
    first.send(GET);
    eventually("the first request", || (b1.connections() == 1).then_some(()));
    check(&site, GET, 503, "queue_timeout");
}

#[test]
fn a_silent_tunnel_is_closed() {
    let b1 = Backend::start(|conn| {
        let _ = conn.request_head();
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let _ = conn.client.rest();
    });
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.tunnel_idle));
    let mut client = site.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.head();
    client.closed();
    assert_eq!(site.line(0)["ended"], "tunnel_idle");
}

#[test]
fn unused_upstream_connections_are_closed() {
    let b1 = Backend::named("b1");
    let site = Site::of(&[&b1], |farm, _| short(&mut farm.timeouts.upstream_idle));
    site.get(GET);
    eventually("the pool to empty", || {
        let stats = site.proxy.stats().backends[&BackendId::new(1)];
        (stats.idle == 0 && stats.connections == 0).then_some(())
    });
}

#[test]
fn a_connection_must_be_made() {
    let (address, _full) = unreachable();
    let mut app = service(vec![backend(1, address)]);
    app.retries_max = 0;
    let mut shop = farm(vec![app]);
    short(&mut shop.timeouts.connect);
    let site = Site::new(shop);
    check(&site, GET, 503, "connect_failed");
}

/// A backend that begins to answer and then waits for the end of the request.
fn hasty() -> Backend {
    Backend::start(|conn| {
        let _ = conn.request_head();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        let _ = conn.client.rest();
    })
}

#[test]
fn a_body_must_not_trickle_when_the_response_has_begun_either() {
    let b1 = hasty();
    let site = Site::of(&[&b1], |farm, _| {
        farm.timeouts.client_body = Span::from_millis(300);
        farm.timeouts.body_rate_min = 1_000_000;
    });
    let mut client = site.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200"));
    let trickle = trickle(&client);
    assert_eq!(client.rest().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(site.line(0)["ended"], "client_body_timeout");
    trickle.join().unwrap();
}

#[test]
fn who_stops_uploading_is_to_blame_also_when_the_response_has_begun() {
    #[derive(Clone, Copy, Debug)]
    enum Stops {
        Silent,
        Finished,
        Reset,
    }
    for (stops, reason) in
        [(Stops::Silent, "client_body_timeout"), (Stops::Finished, "client_closed"), (Stops::Reset, "client_closed")]
    {
        let b1 = hasty();
        let site = Site::of(&[&b1], |farm, _| {
            // No more than what is waited for runs out.
            match stops {
                Stops::Silent => short(&mut farm.timeouts.client_body),
                Stops::Finished | Stops::Reset => farm.timeouts.between_bytes = Span::from_millis(500),
            }
        });
        let mut client = site.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 200"));
        match stops {
            Stops::Silent => assert!(client.rest().is_err()),
            Stops::Finished => {
                client.finish();
                assert!(client.rest().is_err());
            }
            Stops::Reset => client.reset(),
        }
        assert_eq!(site.line(0)["ended"], reason, "{stops:?}");
        let observed = site.world.observed.lock().unwrap();
        assert!(observed.iter().all(|(_, answer)| *answer == Answer::Good), "{stops:?} {observed:?}");
    }
}
