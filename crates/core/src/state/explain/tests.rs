//! What is said about a request, and from which entry.

use super::*;
use crate::{
    config::CookiePersistence,
    plan::{AdminState, Verdict},
    state::{
        Command,
        tests::{Scenario, author},
    },
};

fn ask(s: &Scenario, user: Option<&str>) -> Explanation {
    let headers: Vec<_> = user.into_iter().map(|user| ("X-User".to_owned(), user.to_owned())).collect();
    let question = Question {
        farm: "shop",
        listener: None,
        host: "shop.example:8080",
        target: "/cart?x=1",
        client: None,
        headers: &headers,
        cookies: &[],
        signed: &|_, _: &CookiePersistence, _| None,
    };
    explain(&s.state, NodeId::new(1), &question)
}

fn outline(told: &Explanation) -> Vec<String> {
    let line = |step: &Step| match &step.decision {
        None => format!("{:?}: {}", step.topic, step.text),
        Some(d) => format!("{:?}: {} [{} {}: {}]", step.topic, step.text, d.index, d.author, d.cause),
    };
    told.steps.iter().map(line).collect()
}

fn bind(s: &mut Scenario, told: &Explanation, choice: &str) {
    let (service, key) = (told.service.expect("matched"), told.key.expect("has a key"));
    let choice = s.state.backend_id(choice).expect("configured");
    s.run(Command::Bind { service, key, choice, replaces: None });
}

#[test]
fn a_free_key_is_balanced_over_whoever_takes_new() {
    let mut s = Scenario::shop();
    let a = s.state.backend_id("shop/web/a").expect("configured");
    s.run(Command::SetBackend { backend: a, admin: Some(AdminState::Drain), weight: None, author: author() });
    let told = ask(&s, Some("u1"));
    assert_eq!((told.fate, told.candidates.len(), told.backend), (Fate::NewBinding, 2, None));
    assert_eq!(told.conclusion, "is bound to one of b, c");
    assert_eq!(ask(&s, None).fate, Fate::Balanced);
}

#[test]
fn a_binding_and_what_becomes_of_it_are_told_with_their_entries() {
    let mut s = Scenario::shop();
    let free = ask(&s, Some("u1"));
    bind(&mut s, &free, "shop/web/a");
    let told = ask(&s, Some("u1"));
    assert_eq!((told.fate, told.backend), (Fate::Bound, s.state.backend_id("shop/web/a")));
    assert_eq!(
        outline(&told),
        [
            "Listener: listener http on port 8080 [2 ann: configuration revision 1: because]",
            "Service: service web is the first that matches (0 before it do not) [2 ann: configuration revision 1: because]",
            "Persistence: by replicated table, key header x-user [2 ann: configuration revision 1: because]",
            "Binding: bound to shop/web/a (b1) [3 : its key was free]",
        ]
    );
    let a = s.state.backend_id("shop/web/a").expect("configured");
    let down = Verdict::Down;
    let detail = "http 503 in 12 ms".to_owned();
    s.run(Command::ReportHealth { node: NodeId::new(1), backend: a, verdict: down, detail });
    let told = ask(&s, Some("u1"));
    assert_eq!(told.fate, Fate::Rehomed(RehomeCause::BackendDown));
    assert_eq!(outline(&told)[4], "Backend: backend shop/web/a is down [4 ballastd@n1: http 503 in 12 ms]");
    bind(&mut s, &told, "shop/web/c");
    let told = ask(&s, Some("u1"));
    assert_eq!(told.fate, Fate::Bound);
    assert_eq!(outline(&told)[3], "Binding: bound to shop/web/c (b3) [5 : moved there: its backend was down]");
}

#[test]
fn an_operators_move_names_the_operator() {
    let mut s = Scenario::shop();
    let free = ask(&s, Some("u1"));
    let (service, key) = (free.service.expect("matched"), free.key.expect("has a key"));
    let to = s.state.backend_id("shop/web/b");
    s.run(Command::SetBinding { service, key, to, pinned: true, author: author() });
    let told = ask(&s, Some("u1"));
    assert_eq!(outline(&told)[3], "Binding: pinned to shop/web/b (b2) [3 ann: because]");
    s.wait(1_000_000_000);
    assert_eq!(ask(&s, Some("u1")).fate, Fate::Bound);
}

#[test]
fn what_nobody_takes_is_told_too() {
    let mut s = Scenario::founded();
    assert_eq!(ask(&s, None).fate, Fate::Refused);
    s.apply(r#"{"version":1,"farms":[{"name":"shop","listeners":[{"name":"l","address":"0.0.0.0","port":80}],
        "services":[{"name":"web","match":{"hosts":["other.example"]},"backends":[{"name":"a","address":"127.0.0.1:1"}]}]}]}"#.to_owned());
    assert_eq!(ask(&s, None).fate, Fate::Fallback);
    let signed = |_: ServiceId, _: &CookiePersistence, _: &str| None;
    let question = Question {
        farm: "nope",
        listener: None,
        host: "",
        target: "/",
        client: None,
        headers: &[],
        cookies: &[],
        signed: &signed,
    };
    assert_eq!(explain(&s.state, NodeId::new(1), &question).fate, Fate::Refused);
}

#[test]
fn cookies_lead_to_the_backend_they_name_while_it_serves() {
    let mut s = Scenario::founded();
    s.apply(
        r#"{"version":1,"farms":[{"name":"shop","listeners":[{"name":"l","address":"0.0.0.0","port":80}],
        "services":[{"name":"web","persistence":{"cookie":{"name":"SRV"}},
        "backends":[{"name":"a","address":"127.0.0.1:1"},{"name":"b","address":"127.0.0.1:2"}]}]}]}"#
            .to_owned(),
    );
    let headers = [("Cookie".to_owned(), "x=1; SRV=b2".to_owned())];
    let signed = |_: ServiceId, _: &CookiePersistence, value: &str| (value == "b2").then_some(BackendId::new(2));
    let question = Question {
        farm: "shop",
        listener: Some("l"),
        host: "[::1]:80",
        target: "/",
        client: None,
        headers: &headers,
        cookies: &[],
        signed: &signed,
    };
    let told = explain(&s.state, NodeId::new(1), &question);
    assert_eq!((told.fate, told.backend), (Fate::Bound, Some(BackendId::new(2))));
    let to = Some(AdminState::Maintenance);
    s.run(Command::SetBackend { backend: BackendId::new(2), admin: to, weight: None, author: author() });
    let told = explain(&s.state, NodeId::new(1), &question);
    assert_eq!(told.fate, Fate::Rehomed(RehomeCause::BackendMaintenance));
    assert_eq!(told.backend, Some(BackendId::new(1)));
}
