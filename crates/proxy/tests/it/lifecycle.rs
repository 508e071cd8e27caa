//! VIPs, plans and the end.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::Duration,
};

use ballast_core::{
    config::Span,
    ids::VipId,
    plan::{Bind, FarmPlan, Plan},
    time::BootNanos,
};

use ballast_clock::boot_now;
use ballast_proxy::{BindVips, ProxyOptions};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const VIP: VipId = VipId::new(5);
const FOREVER: BootNanos = BootNanos::new(u64::MAX);

fn vip_farm(backend_at: &Backend, address: Ipv4Addr, port: u16) -> FarmPlan {
    let mut shop = farm(vec![service(vec![backend(1, backend_at.address)])]);
    shop.listeners[0].bind = Bind::Vip { id: VIP, name: "front".into(), addresses: vec![address.into()] };
    shop.listeners[0].port = port;
    shop
}

/// Drains on a thread of its own.
fn begin_drain(site: &Arc<Site>, deadline: Duration) -> std::thread::JoinHandle<usize> {
    let site = site.clone();
    std::thread::spawn(move || drain(&site, deadline))
}

fn drain(site: &Site, deadline: Duration) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(site.proxy.drain(deadline))
}

#[test]
fn a_vip_is_listened_on_only_while_held() {
    let b1 = Backend::named("b1");
    let site = Site::with(plan(vec![vip_farm(&b1, Ipv4Addr::new(127, 31, 0, 1), 0)]), 2);
    assert!(site.proxy.listeners().is_empty());
    let gate = site.world.gates.lock().unwrap().entry(VIP).or_default().clone();
    gate.hold(1, FOREVER);
    site.proxy.vip_acquired(VIP);
    site.proxy.settle();
    let address = site.address();
    let mut kept = site.client();
    kept.send(GET);
    assert_eq!(kept.response().text(), "b1");
    assert_eq!(site.line(0)["vip"], "front");
    site.proxy.vip_released(VIP);
    site.proxy.settle();
    assert!(site.proxy.listeners().is_empty());
    // Free for the next owner at once, and the idle connection is closed.
    drop(TcpListener::bind(address).expect("the address is free"));
    kept.closed();
}

#[test]
fn a_vip_that_another_process_still_holds_is_bound_as_soon_as_it_lets_go() {
    let b1 = Backend::named("b1");
    let address = Ipv4Addr::new(127, 31, 0, 2);
    let other = TcpListener::bind((address, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let site = Site::with(plan(vec![vip_farm(&b1, address, port)]), 2);
    site.world.gates.lock().unwrap().entry(VIP).or_default().hold(1, FOREVER);
    site.proxy.vip_acquired(VIP);
    site.proxy.settle();
    assert!(site.proxy.listeners()[0].error.is_some());
    drop(other);
    eventually("the bind", || site.proxy.listeners()[0].error.is_none().then_some(()));
    assert_eq!(site.get(GET).text(), "b1");
}

#[test]
fn what_goes_on_over_a_vip_ends_just_before_nobody_could_be_told() {
    let b1 = Backend::start(|conn| {
        let head = conn.request_head().unwrap();
        if head.contains("Upgrade") {
            conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            conn.client.exactly(4);
            conn.send("ping");
        } else if head.contains("/long") {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
        }
        let _ = conn.client.rest();
    });
    let site = Site::with(plan(vec![vip_farm(&b1, Ipv4Addr::new(127, 31, 0, 9), 0)]), 1);
    let gate = site.world.gates.lock().unwrap().entry(VIP).or_default().clone();
    gate.hold(1, FOREVER);
    site.proxy.vip_acquired(VIP);
    site.proxy.settle();
    let begin = |request: &str| {
        let mut client = site.client();
        client.send(request);
        client
    };
    let mut tunnel = begin("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    tunnel.head();
    let mut body = begin("GET /long HTTP/1.1\r\nHost: a\r\n\r\n");
    body.head();
    assert_eq!(body.exactly(5), b"begun");
    let mut head = begin("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("three requests at the backend", || (b1.connections() == 3).then_some(()));
    gate.hand_over(boot_now(), boot_now().plus(3_600_000_000_000));
    tunnel.send("ping");
    assert_eq!(tunnel.exactly(4), b"ping", "there is time to go on");
    // Less time than saying goodbye takes.
    gate.hand_over(boot_now(), boot_now().plus(400_000_000));
    tunnel.closed();
    assert_eq!(head.response().status, 503);
    assert!(body.rest().is_err(), "cut short, and seen to be");
    let endings = [0, 1, 2].map(|line| site.line(line)["ended"].to_string());
    assert!(endings.iter().all(|ended| ended == "\"vip_not_held\""), "{endings:?}");
}

#[test]
fn a_closed_gate_keeps_requests_from_backends() {
    let b1 = Backend::named("b1");
    let site = Site::with(plan(vec![vip_farm(&b1, Ipv4Addr::new(127, 31, 0, 3), 0)]), 1);
    let gate = site.world.gates.lock().unwrap().entry(VIP).or_default().clone();
    gate.hold(1, FOREVER);
    site.proxy.vip_acquired(VIP);
    site.proxy.settle();
    let mut client = site.client();
    client.send(GET);
    assert_eq!(client.response().status, 200);
    gate.close();
    client.send(GET);
    let response = client.response();
    assert_eq!((response.status, response.header("x-ballast-reason")), (503, Some("vip_not_held")));
    assert_eq!(response.header("connection"), Some("close"));
    // And no new connection is served.
    site.client().closed();
    assert_eq!(b1.requests().len(), 1);
}

#[test]
fn a_fenced_vip_is_listened_on_always_and_served_only_while_held() {
    let b1 = Backend::named("b1");
    let world = Arc::new(World::default());
    world.publish(plan(vec![vip_farm(&b1, Ipv4Addr::new(127, 31, 0, 4), 0)]));
    let site = Site::bound(world, 2, BindVips::Always);
    assert_eq!(site.proxy.listeners().len(), 1);
    site.client().closed();
    let gate = site.world.gates.lock().unwrap().entry(VIP).or_default().clone();
    gate.hold(1, FOREVER);
    let mut kept = site.client();
    kept.send(GET);
    assert_eq!(kept.response().text(), "b1");
    // Lost: the idle connection is closed, nothing new is served, the socket stays.
    gate.close();
    kept.closed();
    site.client().closed();
    gate.hold(2, FOREVER);
    assert_eq!(site.get(GET).text(), "b1");
    assert_eq!(b1.requests().len(), 2);
}

#[test]
fn a_handed_over_vip_is_finished_and_its_clients_asked_to_leave() {
    let b1 = Backend::named("b1");
    let world = Arc::new(World::default());
    world.publish(plan(vec![vip_farm(&b1, Ipv4Addr::new(127, 31, 0, 5), 0)]));
    let site = Arc::new(Site::bound(world, 1, BindVips::Always));
    let gate = site.world.gates.lock().unwrap().entry(VIP).or_default().clone();
    gate.hold(1, FOREVER);
    let (mut early, mut idle) = (site.client(), site.client());
    idle.send(GET);
    assert_eq!(idle.response().header("connection"), None);
    gate.hand_over(boot_now(), FOREVER);
    early.send(GET);
    let response = early.response();
    assert_eq!((response.text(), response.header("connection")), ("b1", Some("close")));
    early.closed();
    // The same for what the kernel took before, however late it is accepted, and while the node drains.
    let draining = begin_drain(&site, PATIENCE);
    eventually("the drain", || site.proxy.held().eq(&1).then_some(()));
    let mut late = site.client();
    late.send(GET);
    assert_eq!(late.response().header("connection"), Some("close"));
    // The end of the time for that ends what is idle.
    gate.hand_over(boot_now(), boot_now());
    idle.closed();
    assert_eq!(b1.requests().len(), 3);
    draining.join().unwrap();
}

#[test]
fn a_listener_has_its_limits_over_all_its_addresses_and_after_they_are_bound_anew() {
    for (status, reason) in [(503, "limit_connections"), (429, "limit_source")] {
        let (open, wait) = gate();
        let b1 = Backend::start(move |conn| {
            while conn.request().is_some() {
                wait_at(&wait);
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        let mut shop = vip_farm(&b1, Ipv4Addr::new(127, 31, 0, 6), 0);
        let Bind::Vip { addresses, .. } = &mut shop.listeners[0].bind else { panic!("on a VIP") };
        addresses.push(Ipv4Addr::new(127, 31, 0, 7).into());
        if reason == "limit_source" {
            shop.limits.connections_per_source_max = 1;
        } else {
            shop.limits.connections_max = 1;
        }
        let site = Site::with(plan(vec![shop]), 2);
        site.world.gates.lock().unwrap().entry(VIP).or_default().hold(1, FOREVER);
        site.proxy.vip_acquired(VIP);
        site.proxy.settle();
        let addresses = || site.proxy.listeners().into_iter().map(|listener| listener.address).collect::<Vec<_>>();
        let refuses = |address| {
            let response = Client::connect(address).response();
            assert_eq!((response.status, response.header("x-ballast-reason")), (status, Some(reason)));
        };
        let before = addresses();
        assert_eq!(before.len(), 2);
        let mut held = Client::connect(before[0]);
        held.send(GET);
        eventually("the request", || (b1.requests().len() == 1).then_some(()));
        before.into_iter().for_each(refuses);
        // What is being done outlives the sockets.
        site.proxy.vip_released(VIP);
        site.proxy.vip_acquired(VIP);
        site.proxy.settle();
        addresses().into_iter().for_each(refuses);
        let web = (FARM, Arc::<str>::from("web"));
        let counted = || site.proxy.stats().listeners[&web].connections;
        eventually("the metric to say the same", || (counted() == 1).then_some(()));
        open.send(()).unwrap();
        assert_eq!(held.response().text(), "ok");
        held.closed();
        eventually("room", || (site.proxy.held() == 0).then_some(()));
        open.send(()).unwrap();
        let mut next = Client::connect(addresses()[1]);
        next.send(GET);
        assert_eq!(next.response().text(), "ok");
    }
}

#[test]
fn an_address_in_use_is_reported_and_tried_again() {
    let b1 = Backend::named("b1");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut shop = farm(vec![service(vec![backend(1, b1.address)])]);
    shop.listeners[0].port = other.local_addr().unwrap().port();
    let site = Site::with(plan(vec![shop]), 2);
    let error = site.proxy.listeners()[0].error.clone().unwrap();
    assert!(error.contains("in use"), "{error}");
    drop(other);
    eventually("the bind", || site.proxy.listeners()[0].error.is_none().then_some(()));
    assert_eq!(site.get(GET).text(), "b1");
}

#[test]
fn a_new_plan_touches_only_what_it_changes() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1], |_, _| {});
    let address = site.address();
    let mut kept = site.client();
    kept.send(GET);
    assert_eq!(kept.response().text(), "b1");

    // Another backend and a second listener: the first listener and its connections stay.
    let mut shop = farm(vec![service(vec![backend(2, b2.address)])]);
    let mut second = shop.listeners[0].clone();
    second.name = "second".into();
    shop.listeners.push(second);
    site.world.publish(plan(vec![shop.clone()]));
    kept.send(GET);
    assert_eq!(kept.response().text(), "b2", "the next request sees the new plan without being told");
    site.proxy.plan_changed();
    site.proxy.settle();
    let listeners = site.proxy.listeners();
    assert_eq!(listeners.len(), 2);
    assert!(listeners.iter().any(|l| l.address == address));
    kept.send(GET);
    assert_eq!(kept.response().text(), "b2");

    // The first listener goes: its connection is closed, the other serves on.
    shop.listeners.remove(0);
    site.world.publish(plan(vec![shop]));
    site.proxy.plan_changed();
    site.proxy.settle();
    kept.closed();
    assert_eq!(site.get(GET).text(), "b2");
}

#[test]
fn a_drain_finishes_what_is_held() {
    let (open, gate) = gate();
    let b1 = Backend::start(move |conn| {
        while conn.request().is_some() {
            wait_at(&gate);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let site = Arc::new(Site::of(&[&b1], |_, _| {}));
    let address = site.address();
    let (mut busy, mut idle) = (site.client(), site.client());
    open.send(()).unwrap();
    idle.send(GET);
    assert_eq!(idle.response().header("connection"), None);
    busy.send(GET);
    eventually("the request", || (b1.requests().len() == 2).then_some(()));
    let draining = begin_drain(&site, PATIENCE);
    idle.closed();
    eventually("the listener to close", || std::net::TcpStream::connect(address).is_err().then_some(()));
    eventually("the idle connection to be gone", || (site.proxy.held() == 1).then_some(()));
    open.send(()).unwrap();
    let response = busy.response();
    assert_eq!((response.text(), response.header("connection")), ("ok", Some("close")));
    assert_eq!(draining.join().unwrap(), 0);
}

#[test]
fn what_a_drain_has_no_time_for_is_cut_off_and_seen_to_be() {
    let b1 = Backend::start(move |conn| {
        let Some(head) = conn.request_head() else { return };
        if head.contains("/long") {
            // To a client of HTTP/1.0 this ends with the connection.
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
        }
        let _ = conn.client.rest();
    });
    // A farm that gives less time than the node, and one that gives more.
    for (of_farm, of_node) in [(50, 3_600_000), (3_600_000, 50)] {
        let site = Arc::new(Site::of(&[&b1], |farm, service| {
            farm.timeouts.drain = Span::from_millis(of_farm);
            service.queue_timeout_ms = 3_600_000;
            service.backends[0].connections_max = 2;
        }));
        let (mut waiting, mut amid, mut in_line) = (site.client(), site.client(), site.client());
        amid.send("GET /long HTTP/1.0\r\nHost: a\r\n\r\n");
        amid.head();
        assert_eq!(amid.exactly(5), b"begun");
        let before = b1.connections();
        waiting.send(GET);
        eventually("the request at the backend", || (b1.connections() > before).then_some(()));
        in_line.send(GET);
        eventually("the request in line", || (site.proxy.stats().services[&SERVICE].queued == 1).then_some(()));
        let draining = begin_drain(&site, Duration::from_millis(of_node));
        for mut client in [waiting, in_line] {
            let said = client.response();
            assert_eq!((said.status, said.header("x-ballast-reason")), (503, Some("drain_timeout")));
            assert_eq!(said.header("connection"), Some("close"));
            client.closed();
        }
        assert!(amid.rest().is_err(), "not the end of an answer");
        let left = draining.join().unwrap();
        assert!(left == 0 || of_node == 50, "{left} were left");
        eventually("the last connection to be gone", || (site.proxy.held() == 0).then_some(()));
        for line in 0..3 {
            assert_eq!(site.line(line)["ended"], "drain_timeout");
        }
    }
}

#[test]
fn a_request_that_is_on_its_way_when_a_drain_begins_is_answered() {
    let (open, gate) = gate();
    let b1 = Backend::start(move |conn| {
        while let Some(head) = conn.request_head() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
            if head.contains("/long") {
                wait_at(&gate);
            }
            conn.send("k");
        }
    });
    let world = Arc::new(World::default());
    world.publish(plan(vec![farm(vec![service(vec![backend(1, b1.address)])])]));
    // Longer than this test is ever held up.
    let options = ProxyOptions { workers: 2, idle_grace: Duration::from_secs(5), ..ProxyOptions::default() };
    let site = Arc::new(Site::start(world, options));
    let address = site.address();
    let (mut kept, mut idle, mut long) = (site.client(), site.client(), site.client());
    for client in [&mut kept, &mut idle] {
        client.send(GET);
        assert_eq!(client.response().header("connection"), None);
    }
    long.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n");
    long.head();
    let draining = begin_drain(&site, PATIENCE);
    eventually("the listener to close", || std::net::TcpStream::connect(address).is_err().then_some(()));
    kept.send(GET);
    let answered = kept.response();
    assert_eq!((answered.text(), answered.header("connection")), ("ok", Some("close")));
    kept.closed();
    // Told before the drain that the connection is kept, and free after the idle ones are gone.
    idle.closed();
    open.send(()).unwrap();
    assert_eq!(long.exactly(2), b"ok");
    long.send(GET);
    let answered = long.response();
    assert_eq!((answered.text(), answered.header("connection")), ("ok", Some("close")));
    long.closed();
    assert_eq!(draining.join().unwrap(), 0);
}

#[test]
fn a_draining_node_asks_its_clients_to_leave() {
    let b1 = Backend::named("b1");
    let mut leaving = plan(vec![farm(vec![service(vec![backend(1, b1.address)])])]);
    leaving.draining = true;
    let site = Site::with(leaving.clone(), 1);
    assert_eq!(site.get(GET).header("connection"), Some("close"));
    // With an answer of its own as well.
    site.world.publish(Plan { farms: plan(vec![farm(vec![service(Vec::new())])]).farms, ..leaving });
    let said = site.get(GET);
    assert_eq!((said.status, said.header("connection")), (503, Some("close")));
}
