//! Clients stay where they belong.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use ballast_core::{
    cluster::{BindError, ProposeError},
    config::{
        Commit, CookiePersistence, Health, Isolated, Persistence, SourcePrefix, Span, TableKey, TablePersistence,
        VerdictPolicy, WhenFull,
    },
    ids::BackendId,
    plan::{AdminState, CookieKey, Plan, ServicePlan, Verdict},
    state::RehomeCause,
};

use crate::support::*;

fn table(key: TableKey) -> TablePersistence {
    TablePersistence {
        key,
        idle_timeout: Span::from_secs(60),
        absolute_timeout: None,
        entries_max: 1000,
        when_full: WhenFull::ServeUnbound,
        commit: Commit::BeforeForward,
    }
}

fn by_user() -> TablePersistence {
    table(TableKey::Header("X-User".into()))
}

fn user(name: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {name}\r\n\r\n")
}

/// Two backends, persistence by `table`.
fn two(table: TablePersistence) -> (Backend, Backend, Site) {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1, &b2], |_, service| service.persistence = Some(Persistence::Table(table)));
    (b1, b2, site)
}

/// Publishes the two backends again, changed.
fn change(site: &Site, b1: &Backend, b2: &Backend, change: impl FnOnce(&mut ballast_core::plan::ServicePlan)) {
    let mut app = service(vec![backend(1, b1.address), backend(2, b2.address)]);
    app.persistence = Some(Persistence::Table(by_user()));
    change(&mut app);
    site.world.publish(plan(vec![farm(vec![app])]));
}

#[test]
fn a_key_is_bound_before_its_first_request_is_forwarded() {
    let (b1, b2, site) = two(by_user());
    let first = site.get(&user("u1")).text().to_owned();
    assert_eq!(site.world.binds.lock().unwrap().len(), 1);
    for _ in 0..6 {
        assert_eq!(site.get(&user("u1")).text(), first);
    }
    assert_eq!(site.world.binds.lock().unwrap().len(), 1);
    assert_eq!(b1.requests().len() + b2.requests().len(), 7);
    let (new, hit) = (site.line(0), site.line(1));
    assert_eq!((new["binding"].as_str(), new["reason"].as_str()), (Some("new"), Some("table")));
    assert_eq!(hit["binding"], "hit");
    let stats = site.proxy.stats().services[&SERVICE];
    assert_eq!((stats.binding_hits_total, stats.binding_misses_total, stats.bindings_created_total), (6, 1, 1));
}

#[test]
fn the_first_writer_wins() {
    let (_b1, _b2, site) = two(by_user());
    let first = site.get(&user("u1")).text().to_owned();
    // This node does not see the binding yet, as if another node had just made it.
    site.world.behind.store(true, Ordering::SeqCst);
    for at in 1..4 {
        assert_eq!(site.get(&user("u1")).text(), first);
        assert_eq!(site.line(at)["binding"], "existing");
    }
    assert_eq!(site.proxy.stats().services[&SERVICE].bindings_existing_total, 3);
}

#[test]
fn requests_without_a_key_are_only_balanced() {
    let (b1, b2, site) = two(by_user());
    for _ in 0..4 {
        site.get("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert!(!b1.requests().is_empty() && !b2.requests().is_empty());
    assert!(site.world.binds.lock().unwrap().is_empty());
}

#[test]
fn keys_by_source_query_and_path() {
    for key in [TableKey::Source(SourcePrefix::default()), TableKey::Query("u".into()), TableKey::PathSegment(2)] {
        let (_b1, _b2, site) = two(table(key));
        let request = "GET /room/7?u=9 HTTP/1.1\r\nHost: a\r\n\r\n";
        let first = site.get(request).text().to_owned();
        for _ in 0..4 {
            assert_eq!(site.get(request).text(), first);
        }
        assert_eq!(site.world.binds.lock().unwrap().len(), 1);
    }
}

#[test]
fn a_binding_moves_with_its_cause_when_its_backend_does_not_serve() {
    for (name, cause) in [
        ("down", RehomeCause::BackendDown),
        ("maintenance", RehomeCause::BackendMaintenance),
        ("removed", RehomeCause::BackendRemoved),
    ] {
        let (b1, b2, site) = two(by_user());
        let first = site.get(&user("u1")).text().to_owned();
        let bound = usize::from(first == "b2");
        change(&site, &b1, &b2, |app| match name {
            "down" => app.backends[bound].verdict = Verdict::Down,
            "maintenance" => app.backends[bound].admin = AdminState::Maintenance,
            _ => drop(app.backends.remove(bound)),
        });
        let second = site.get(&user("u1")).text().to_owned();
        assert_ne!(first, second, "{name}");
        let last = site.world.binds.lock().unwrap().last().unwrap().clone();
        assert_eq!(last.replaces, Some((BackendId::new(bound as u32 + 1), cause)), "{name}");
        let line = site.line(1);
        assert_eq!((line["binding"].as_str(), line["binding_cause"].as_str().is_some()), (Some("rehomed"), true));
        assert_eq!(site.get(&user("u1")).text(), second, "{name}");
    }
}

#[test]
fn who_waits_for_a_backend_that_is_left_goes_to_another() {
    for name in ["down", "maintenance", "removed"] {
        let (open, gate) = gate();
        let b1 = Backend::start(move |conn| {
            while conn.request().is_some() {
                wait_at(&gate);
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nb1");
            }
        });
        let b2 = Backend::named("b2");
        let limited = |app: &mut ServicePlan| {
            app.queue_timeout_ms = 3_600_000;
            app.backends[0].connections_max = 1;
        };
        let site = Site::of(&[&b1, &b2], |_, app| {
            app.persistence = Some(Persistence::Table(by_user()));
            limited(app);
        });
        // Whose key it is does not matter: every new one is bound to the first backend.
        *site.world.bound_to.lock().unwrap() = Some(BackendId::new(1));
        let (mut held, mut waits) = (site.client(), site.client());
        held.send(user("u1"));
        eventually("the first request", || (b1.requests().len() == 1).then_some(()));
        waits.send(user("u2"));
        eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 1).then_some(()));
        *site.world.bound_to.lock().unwrap() = None;
        change(&site, &b1, &b2, |app| {
            limited(app);
            match name {
                "down" => app.backends[0].verdict = Verdict::Down,
                "maintenance" => app.backends[0].admin = AdminState::Maintenance,
                _ => drop(app.backends.remove(0)),
            }
        });
        site.proxy.plan_changed();
        assert_eq!(waits.response().text(), "b2", "{name}");
        let line = site.line(0);
        assert_eq!((line["binding"].as_str(), line["retries"].as_u64()), (Some("rehomed"), Some(0)), "{name}");
        open.send(()).unwrap();
        assert_eq!(held.response().text(), "b1", "{name}");
    }
}

#[test]
fn a_drained_backend_keeps_its_own_and_takes_no_new() {
    let (b1, b2, site) = two(by_user());
    let first = site.get(&user("u1")).text().to_owned();
    let bound = usize::from(first == "b2");
    change(&site, &b1, &b2, |app| app.backends[bound].admin = AdminState::Drain);
    assert_eq!(site.get(&user("u1")).text(), first);
    for i in 0..4 {
        assert_ne!(site.get(&user(&format!("new{i}"))).text(), first);
    }
}

#[test]
fn a_bound_backend_that_refuses_connections_is_left_by_redispatch_only() {
    for redispatch in [true, false] {
        let (mut b1, mut b2, site) = two(by_user());
        change(&site, &b1, &b2, |app| app.redispatch = redispatch);
        let first = site.get(&user("u1")).text().to_owned();
        if first == "b1" {
            b1.stop()
        } else {
            b2.stop()
        }
        let second = site.get(&user("u1"));
        if redispatch {
            assert_eq!(second.status, 200);
            assert_ne!(second.text(), first);
            let last = site.world.binds.lock().unwrap().last().unwrap().clone();
            assert_eq!(last.replaces.unwrap().1, RehomeCause::ConnectFailed);
        } else {
            assert_eq!((second.status, second.header("x-ballast-reason")), (503, Some("connect_failed")));
            assert_eq!(site.world.binds.lock().unwrap().len(), 1);
        }
    }
}

/// That nobody answers may be this node's trouble alone, and the others would still find the backend up.
#[test]
fn a_bound_backend_that_does_not_answer_keeps_its_clients() {
    for cookie in [false, true] {
        let persistence =
            || if cookie { Persistence::Cookie(CookiePersistence::default()) } else { Persistence::Table(by_user()) };
        let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
        let site = Site::of(&[&b1, &b2], |_, service| service.persistence = Some(persistence()));
        let first = site.get(&user("u1"));
        let request = match cookie_of(&first) {
            Some(value) => format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {value}\r\n\r\n"),
            None => user("u1"),
        };
        let publish = |lost: Option<SocketAddr>| {
            let mut backends = vec![backend(1, b1.address), backend(2, b2.address)];
            if let Some(address) = lost {
                backends[usize::from(first.text() == "b2")].address = address;
            }
            let mut shop = farm(vec![ServicePlan { persistence: Some(persistence()), ..service(backends) }]);
            shop.timeouts.connect = Span::from_millis(50);
            site.world.publish(plan(vec![shop]));
        };
        let (hangs, full) = unreachable();
        publish(Some(hangs));
        let meanwhile = site.get(&request);
        assert_eq!((meanwhile.status, meanwhile.text() != first.text()), (200, true), "cookie: {cookie}");
        assert_eq!(cookie_of(&meanwhile), None);
        let line = site.line(1);
        assert_eq!((line["binding"].as_str(), line["reason"].as_str()), (Some("unbound"), Some("local")));
        assert_eq!(site.world.binds.lock().unwrap().len(), usize::from(!cookie), "nothing was moved");
        drop(full);
        publish(None);
        assert_eq!(site.get(&request).text(), first.text(), "cookie: {cookie}");
    }
}

#[test]
fn a_stale_table_is_confirmed_first() {
    let (_b1, _b2, site) = two(by_user());
    let first = site.get(&user("u1")).text().to_owned();
    site.world.stale.store(true, Ordering::SeqCst);
    assert_eq!(site.get(&user("u1")).text(), first);
    assert_eq!(site.world.confirms.load(Ordering::SeqCst), 1);
    assert_eq!(site.world.binds.lock().unwrap().len(), 1);
}

#[test]
fn a_request_that_had_the_table_confirmed_is_served_however_long_that_took() {
    let (_b1, _b2, site) = two(by_user());
    let first = site.get(&user("u1")).text().to_owned();
    site.world.far.store(true, Ordering::SeqCst);
    for at in 1..3 {
        assert_eq!(site.get(&user("u1")).text(), first);
        assert_eq!(site.line(at)["binding"], "hit");
    }
    assert_eq!(site.world.confirms.load(Ordering::SeqCst), 2);
    // There are backends, and what the client is bound to is not known.
    site.world.unsettled.store(true, Ordering::SeqCst);
    let given_up = site.get(&user("u1"));
    assert_eq!((given_up.status, given_up.header("x-ballast-reason")), (503, Some("isolated")));
}

#[test]
fn without_quorum_the_farm_decides() {
    for policy in [Isolated::LastKnown, Isolated::Refuse] {
        let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
        let site = Site::of(&[&b1, &b2], |farm, service| {
            service.persistence = Some(Persistence::Table(by_user()));
            farm.isolated = policy;
        });
        let first = site.get(&user("u1")).text().to_owned();
        site.world.stale.store(true, Ordering::SeqCst);
        site.world.confirm_fails.store(true, Ordering::SeqCst);
        *site.world.bind_fails.lock().unwrap() = Some(no_quorum());
        let (known, new) = (site.get(&user("u1")), site.get(&user("u2")));
        match policy {
            Isolated::LastKnown => {
                assert_eq!(known.text(), first);
                assert_eq!(new.status, 200);
                assert_eq!(
                    (&site.line(1)["reason"], &site.line(2)["binding"]),
                    (&"isolated".into(), &"unbound".into())
                );
            }
            Isolated::Refuse => {
                assert_eq!((known.status, known.header("x-ballast-reason")), (503, Some("isolated")));
                assert_eq!(new.status, 503);
            }
        }
    }
}

#[test]
fn a_full_table_serves_or_refuses() {
    for when_full in [WhenFull::ServeUnbound, WhenFull::Refuse] {
        let (_b1, _b2, site) = two(TablePersistence { when_full, ..by_user() });
        *site.world.bind_fails.lock().unwrap() = Some(BindError::TableFull);
        let response = site.get(&user("u1"));
        match when_full {
            WhenFull::ServeUnbound => {
                assert_eq!((response.status, site.line(0)["reason"].as_str()), (200, Some("table_full")));
                assert_eq!(site.proxy.stats().services[&SERVICE].unbound_total, 1);
            }
            WhenFull::Refuse => {
                assert_eq!((response.status, response.header("x-ballast-reason")), (503, Some("table_full")))
            }
        }
    }
}

#[test]
fn a_backend_that_takes_no_bindings_is_passed_over() {
    let (_b1, _b2, site) = two(by_user());
    *site.world.bind_fails.lock().unwrap() = Some(BindError::NotEligible);
    assert_eq!(site.get(&user("u1")).status, 503);
    let asked: Vec<_> = site.world.binds.lock().unwrap().iter().map(|b| b.choice).collect();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0], asked[1]);
}

#[test]
fn who_waits_does_not_wait_for_a_backend_that_takes_no_bindings() {
    let ((open_b1, b1), (open_b2, b2)) = (gated(), gated());
    let site = Site::of(&[&b1, &b2], |_, app| {
        app.persistence = Some(Persistence::Table(by_user()));
        app.queue_timeout_ms = 3_600_000;
        app.backends.iter_mut().for_each(|backend| backend.connections_max = 1);
    });
    let mut held: Vec<_> = (0..2).map(|_| site.client()).collect();
    held.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually("both to be full", || ((b1.requests().len(), b2.requests().len()) == (1, 1)).then_some(()));
    // The first choice is refused, and after the second one the client is served without a binding.
    *site.world.on_bind.lock().unwrap() = Some(Box::new(|world, _| {
        *world.bind_fails.lock().unwrap() = Some(BindError::NotEligible);
        *world.on_bind.lock().unwrap() = Some(Box::new(|world, _| {
            *world.bind_fails.lock().unwrap() = Some(BindError::TableFull);
        }));
    }));
    let mut waits = site.client();
    waits.send(user("u1"));
    eventually("the line", || (site.proxy.stats().services[&SERVICE].queued == 1).then_some(()));
    let asked: Vec<_> = site.world.binds.lock().unwrap().iter().map(|bind| bind.choice).collect();
    assert_eq!(asked.len(), 2);
    let (refused, open_refused, other, open_other) =
        if asked[0] == BackendId::new(1) { (&b1, open_b1, &b2, open_b2) } else { (&b2, open_b2, &b1, open_b1) };
    open_refused.send(()).unwrap();
    eventually("it to have room", || (site.proxy.stats().backends[&asked[0]].idle == 1).then_some(()));
    (0..2).for_each(|_| open_other.send(()).unwrap());
    held.into_iter().chain([waits]).for_each(|mut client| assert_eq!(client.response().text(), "ok"));
    assert_eq!((refused.requests().len(), other.requests().len()), (1, 2));
}

#[test]
fn bindings_are_renewed_when_asked() {
    let (_b1, _b2, site) = two(by_user());
    site.get(&user("u1"));
    site.get(&user("u1"));
    assert_eq!(site.world.renewals.load(Ordering::SeqCst), 0);
    site.world.renew.store(true, Ordering::SeqCst);
    site.get(&user("u1"));
    assert_eq!(site.world.renewals.load(Ordering::SeqCst), 1);
}

#[test]
fn bindings_may_follow_the_request() {
    let (_b1, _b2, site) = two(TablePersistence { commit: Commit::AfterForward, ..by_user() });
    let first = site.get(&user("u1")).text().to_owned();
    eventually("the binding", || (site.world.bindings().len() == 1).then_some(()));
    for _ in 0..4 {
        assert_eq!(site.get(&user("u1")).text(), first);
    }
    assert_eq!(site.world.binds.lock().unwrap().len(), 1);
}

#[test]
fn bindings_that_follow_are_asked_for_first_where_the_log_is_known_to_refuse_them() {
    let follows = TablePersistence { commit: Commit::AfterForward, when_full: WhenFull::Refuse, ..by_user() };
    let (_b1, _b2, site) = two(follows.clone());
    *site.world.bind_fails.lock().unwrap() = Some(BindError::TableFull);
    assert_eq!(site.get(&user("u1")).status, 200);
    eventually("the refusal", || (site.proxy.stats().services[&SERVICE].unbound_total == 1).then_some(()));
    let refused = site.get(&user("u2"));
    assert_eq!((refused.status, refused.header("x-ballast-reason")), (503, Some("table_full")));
    *site.world.bind_fails.lock().unwrap() = None;
    assert_eq!(site.get(&user("u3")).status, 200);

    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1, &b2], |farm, service| {
        service.persistence = Some(Persistence::Table(follows));
        farm.isolated = Isolated::Refuse;
    });
    site.world.isolated.store(true, Ordering::SeqCst);
    *site.world.bind_fails.lock().unwrap() = Some(no_quorum());
    let refused = site.get(&user("u1"));
    assert_eq!((refused.status, refused.header("x-ballast-reason")), (503, Some("isolated")));
}

/// Sets a cookie `SID` on `/login`, else answers with its name.
fn login_backend(name: &'static str) -> Backend {
    Backend::start(move |conn| {
        while let Some(request) = conn.request() {
            let cookie =
                if request.starts_with("GET /login") { "Set-Cookie: SID=s-1; Path=/; HttpOnly\r\n" } else { "" };
            conn.send(format!("HTTP/1.1 200 OK\r\n{cookie}Content-Length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

/// Backends that have to answer soon.
fn hasty(backends: [&Backend; 2], table: TablePersistence) -> Site {
    Site::of(&backends, |farm, service| {
        service.persistence = Some(Persistence::Table(table));
        farm.timeouts.response_header = Span::from_millis(300);
        farm.timeouts.client_header = Span::from_millis(450);
    })
}

/// Sends a request for which the log is asked, and has it answer only when a backend would have been too late: a client that
/// came after that and says no more has waited for longer.
fn ask_a_slow_log(site: &Site, request: &str, asked: impl Fn() -> bool) -> Response {
    let answer = site.world.hold_log();
    let mut client = site.client();
    client.send(request);
    eventually("the log to be asked", || asked().then_some(()));
    let mut later = site.client();
    later.send("GET");
    assert_eq!(later.response().status, 408);
    drop(answer);
    client.response()
}

#[test]
fn the_log_may_take_longer_than_a_backend() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = hasty([&b1, &b2], by_user());
    let first = ask_a_slow_log(&site, &user("u1"), || site.world.binds.lock().unwrap().len() == 1);
    assert_eq!((first.status, site.world.bindings().len()), (200, 1));
    site.world.stale.store(true, Ordering::SeqCst);
    let second = ask_a_slow_log(&site, &user("u1"), || site.world.confirms.load(Ordering::SeqCst) == 1);
    assert_eq!((second.status, second.text()), (200, first.text()));
    // What was known last may have moved and not settled.
    let lines = [0, 1, 2, 3].map(|at| site.line(at));
    assert!(lines.iter().all(|line| line["reason"] != "isolated"), "{lines:?}");

    let (b1, b2) = (login_backend("b1"), login_backend("b2"));
    let site = hasty([&b1, &b2], table(TableKey::LearnedCookie("SID".into())));
    let login = "GET /login HTTP/1.1\r\nHost: a\r\n\r\n";
    let login = ask_a_slow_log(&site, login, || site.world.binds.lock().unwrap().len() == 1);
    assert_eq!((login.status, site.world.bindings().len()), (200, 1));
}

#[test]
fn a_cookie_of_the_application_is_learned_before_the_client_sees_it() {
    let (b1, b2) = (login_backend("b1"), login_backend("b2"));
    let site = Site::of(&[&b1, &b2], |_, service| {
        service.persistence = Some(Persistence::Table(table(TableKey::LearnedCookie("SID".into()))));
    });
    let login = site.get("GET /login HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(login.header("set-cookie"), Some("SID=s-1; Path=/; HttpOnly"));
    // The binding was there when the response's head had arrived, to a backend that need not take anybody new.
    assert_eq!(site.world.binds.lock().unwrap().iter().map(|bind| bind.learned).collect::<Vec<_>>(), [true]);
    assert_eq!(site.line(0)["binding"], "new");
    for _ in 0..6 {
        let response = site.get("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; SID=s-1\r\n\r\n");
        assert_eq!(response.text(), login.text());
    }
    // Setting the same cookie again makes no new entry.
    site.get("GET /login HTTP/1.1\r\nHost: a\r\nCookie: SID=s-1\r\n\r\n");
    assert_eq!(site.world.binds.lock().unwrap().len(), 1);
}

fn cookie_of(response: &Response) -> Option<String> {
    Some(response.header("set-cookie")?.split(';').next().unwrap().to_owned())
}

/// Another node has had the plan for a moment, and bound the client to the new backend.
#[test]
fn a_backend_that_comes_while_the_log_is_asked_serves_its_client() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1], |_, service| service.persistence = Some(Persistence::Table(by_user())));
    let mut app = service(vec![backend(1, b1.address), backend(2, b2.address)]);
    app.persistence = Some(Persistence::Table(by_user()));
    *site.world.on_bind.lock().unwrap() = Some(Box::new(move |world, request| {
        world.table.lock().unwrap().insert((request.service, request.key), BackendId::new(2));
        world.publish(plan(vec![farm(vec![app])]));
    }));
    assert_eq!(site.get(&user("u1")).text(), "b2");
    assert_eq!(site.world.binds.lock().unwrap().len(), 1);
    let line = site.line(0);
    assert_eq!((line["binding"].as_str(), line["backend"].as_str()), (Some("existing"), Some("b2")));
}

#[test]
fn a_cookie_that_is_newer_than_the_plan_is_left_alone() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1], |_, _| {});
    let publish = |backends, newest| {
        let mut app = service(backends);
        app.persistence = Some(Persistence::Cookie(CookiePersistence::default()));
        let plan = plan(vec![farm(vec![app])]);
        site.world.publish(Plan { newest_backend: BackendId::new(newest), ..plan });
    };
    publish(vec![backend(2, b2.address)], 2);
    let cookie = cookie_of(&site.get("GET / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    let again = || site.get(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
    // As on a node that has not heard of the second backend.
    publish(vec![backend(1, b1.address)], 1);
    let meanwhile = again();
    assert_eq!((meanwhile.text(), cookie_of(&meanwhile)), ("b1", None));
    let line = site.line(1);
    assert_eq!((line["binding"].as_str(), line["reason"].as_str()), (Some("unbound"), Some("local")));
    publish(vec![backend(1, b1.address), backend(2, b2.address)], 2);
    assert_eq!(again().text(), "b2");
}

#[test]
fn a_signed_cookie_names_the_backend() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1, &b2], |_, service| {
        service.persistence = Some(Persistence::Cookie(CookiePersistence::default()));
    });
    let with = |cookie: &str| site.get(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: other=1; {cookie}\r\n\r\n"));
    let first = site.get("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let cookie = cookie_of(&first).unwrap();
    assert!(cookie.starts_with("BALLAST="));
    for _ in 0..6 {
        let response = with(&cookie);
        assert_eq!((response.text(), cookie_of(&response)), (first.text(), None));
    }
    assert_eq!((site.line(0)["binding"].as_str(), site.line(1)["reason"].as_str()), (Some("new"), Some("cookie")));
    // A forged one is ignored and replaced.
    let forged = format!("{}A", &cookie[..cookie.len() - 1]);
    assert!(cookie_of(&with(&forged)).is_some() || forged == cookie);
    assert!(cookie_of(&with("BALLAST=nonsense")).is_some());

    // Rotation: the old key is still good, and the cookie is signed anew.
    let mut app = service(vec![backend(1, b1.address), backend(2, b2.address)]);
    app.persistence = Some(Persistence::Cookie(CookiePersistence::default()));
    let mut rotated = plan(vec![farm(vec![app.clone()])]);
    rotated.cookie_keys = [2, 1].map(|id| CookieKey { id, secret: [id; 32], signs_from_s: 0 }).into();
    site.world.publish(rotated);
    let renewed = with(&cookie);
    assert_eq!(renewed.text(), first.text());
    assert!(cookie_of(&renewed).is_some_and(|c| c != cookie));

    // Its backend is gone: another, with a new cookie.
    app.backends.remove(usize::from(first.text() == "b2"));
    site.world.publish(plan(vec![farm(vec![app])]));
    let moved = with(&cookie);
    assert_ne!(moved.text(), first.text());
    assert!(cookie_of(&moved).is_some());
    let line = site.line(10);
    assert_eq!((line["binding"].as_str(), line["binding_cause"].as_str()), (Some("rehomed"), Some("backend_removed")));
}

#[test]
fn a_cookie_stands_while_only_this_node_finds_its_backend_down() {
    for isolated in [false, true] {
        let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
        let policy = if isolated { VerdictPolicy::Majority } else { VerdictPolicy::Local };
        let app = || ServicePlan {
            persistence: Some(Persistence::Cookie(CookiePersistence::default())),
            health: Some(Health { policy, ..Health::default() }),
            ..service(vec![backend(1, b1.address), backend(2, b2.address)])
        };
        let site = Site::new(farm(vec![app()]));
        let first = site.get("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let bound = usize::from(first.text() == "b2");
        let cookie = cookie_of(&first).unwrap();
        let again = || site.get(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
        let find = |down| *site.world.down_here.lock().unwrap() = down;
        let is_down = Some(BackendId::new(bound as u32 + 1));
        site.world.isolated.store(isolated, Ordering::SeqCst);
        find(is_down);
        let meanwhile = again();
        assert_eq!((meanwhile.status, meanwhile.text() != first.text()), (200, true), "isolated: {isolated}");
        assert_eq!(cookie_of(&meanwhile), None);
        let line = site.line(1);
        assert_eq!((line["binding"].as_str(), line["reason"].as_str()), (Some("unbound"), Some("local")));
        find(None);
        assert_eq!(again().text(), first.text(), "isolated: {isolated}");

        // The cluster finds so, too.
        find(is_down);
        let mut down = app();
        down.backends[bound].verdict = Verdict::Down;
        site.world.publish(plan(vec![farm(vec![down])]));
        assert!(cookie_of(&again()).is_some_and(|new| new != cookie));
        let line = site.line(3);
        assert_eq!((line["binding"].as_str(), line["binding_cause"].as_str()), (Some("rehomed"), Some("backend_down")));
    }
}

#[test]
fn the_log_is_not_asked_to_move_who_only_this_node_would_move() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let app = || ServicePlan {
        persistence: Some(Persistence::Table(by_user())),
        health: Some(Health { policy: VerdictPolicy::Local, ..Health::default() }),
        ..service(vec![backend(1, b1.address), backend(2, b2.address)])
    };
    let site = Site::new(farm(vec![app()]));
    let first = site.get(&user("u1")).text().to_owned();
    let bound = usize::from(first == "b2");
    *site.world.down_here.lock().unwrap() = Some(BackendId::new(bound as u32 + 1));
    // As during an election.
    let fails = BindError::Propose(ProposeError::OutcomeUnknown { waited: Duration::from_secs(4) });
    *site.world.bind_fails.lock().unwrap() = Some(fails);
    for at in 1..11 {
        let meanwhile = site.get(&user("u1"));
        assert_eq!((meanwhile.status, meanwhile.text() != first), (200, true));
        let line = site.line(at);
        assert_eq!((line["binding"].as_str(), line["reason"].as_str()), (Some("unbound"), Some("local")));
    }
    assert_eq!(site.world.binds.lock().unwrap().len(), 1);

    // The cluster finds so, too.
    *site.world.bind_fails.lock().unwrap() = None;
    let mut down = app();
    down.backends[bound].verdict = Verdict::Down;
    site.world.publish(plan(vec![farm(vec![down])]));
    assert_ne!(site.get(&user("u1")).text(), first);
    assert_eq!(site.line(11)["binding_cause"], "backend_down");
}

#[test]
fn of_two_cookies_the_one_whose_backend_serves_counts() {
    let (b1, b2) = (Backend::named("b1"), Backend::named("b2"));
    let site = Site::of(&[&b1, &b2], |_, _| {});
    let publish = |ids: &[(u32, SocketAddr)]| {
        let mut app = service(ids.iter().map(|(id, address)| backend(*id, *address)).collect());
        app.persistence = Some(Persistence::Cookie(CookiePersistence::default()));
        site.world.publish(plan(vec![farm(vec![app])]));
    };
    let cookies = [(1, b1.address), (2, b2.address)].map(|one| {
        publish(&[one]);
        cookie_of(&site.get("GET / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap()
    });
    let b3 = Backend::named("b3");
    // Without b1, and with another that balancing would choose half of the time.
    publish(&[(2, b2.address), (3, b3.address)]);
    for both in [[&cookies[0], &cookies[1]], [&cookies[1], &cookies[0]]] {
        for _ in 0..4 {
            let response = site.get(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}; {}\r\n\r\n", both[0], both[1]));
            assert_eq!((response.text(), cookie_of(&response)), ("b2", None));
        }
    }
}
