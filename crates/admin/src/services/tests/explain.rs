use ballast_core::{ids::NodeId, plan::Verdict, state::Command};
use ballast_proto::admin::v1::{
    BindingKey, DrainBackendRequest, ExplainRequest, ExplainResponse, MaintenanceBackendRequest, MoveBindingRequest,
    backend_service_server::BackendService as _, binding_key::Key, binding_service_server::BindingService as _,
    explain_response::Result as Fate, explain_service_server::ExplainService as _,
};
use tonic::Code;

use super::{Fake, SHOP, apply, backends::bind, from, refused};
use crate::services::Shared;

fn asked(cookie: &str) -> ExplainRequest {
    ExplainRequest {
        farm: "shop".to_owned(),
        host: "shop.test:8080".to_owned(),
        client_address: "192.0.2.7".to_owned(),
        cookies: if cookie.is_empty() { Vec::new() } else { vec![format!("SHOPID={cookie}")] },
        ..ExplainRequest::default()
    }
}

async fn check(shared: &Shared, request: ExplainRequest, fate: Fate, backend: &str) -> ExplainResponse {
    let told = shared.explain(from("a", request)).await.expect("explained").into_inner();
    assert_eq!((told.result(), told.backend.as_str()), (fate, backend), "{told:#?}");
    assert!(!told.conclusion.is_empty());
    told
}

fn step<'a>(told: &'a ExplainResponse, subject: &str, text: &str) -> &'a ballast_proto::admin::v1::ExplainStep {
    told.steps
        .iter()
        .find(|step| step.subject == subject && step.text.contains(text))
        .unwrap_or_else(|| panic!("no step {subject}: {text} in {:#?}", told.steps))
}

#[tokio::test]
async fn a_bound_client_stays_and_the_entry_that_bound_it_is_named() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    bind(&fake, "s1", "shop/site/web2");
    let index = fake.read(|state| state.applied().get());
    let told = check(&shared, asked("s1"), Fate::Bound, "shop/site/web2").await;
    assert_eq!(step(&told, "binding", "bound to web2").log_index, index);
    assert_eq!(step(&told, "configuration", "revision 1").author, "anna");
    assert_eq!(told.service, "shop/site");
    step(&told, "vip", "held by nobody");
}

#[tokio::test]
async fn a_new_client_is_balanced_over_what_takes_new_clients() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let told = check(&shared, asked("s1"), Fate::NewBinding, "").await;
    assert_eq!(told.candidates, ["web1", "web2"]);
    let told = check(&shared, asked(""), Fate::Balanced, "").await;
    step(&told, "persistence", "carries no key");
    let drain = DrainBackendRequest { name: "shop/site/web1".to_owned(), ..DrainBackendRequest::default() };
    shared.drain(from("bert", drain)).await.expect("drained");
    let told = check(&shared, asked("s1"), Fate::NewBinding, "shop/site/web2").await;
    assert_eq!(step(&told, "backend", "draining").author, "bert");
}

#[tokio::test]
async fn a_drained_backend_keeps_its_clients_and_one_in_maintenance_does_not() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    bind(&fake, "s1", "shop/site/web1");
    let name = || "shop/site/web1".to_owned();
    let drain = DrainBackendRequest { name: name(), ..DrainBackendRequest::default() };
    shared.drain(from("bert", drain)).await.expect("drained");
    check(&shared, asked("s1"), Fate::Bound, "shop/site/web1").await;
    let request = MaintenanceBackendRequest { name: name(), message: "swap".to_owned(), ..Default::default() };
    shared.maintenance(from("bert", request)).await.expect("in maintenance");
    let told = check(&shared, asked("s1"), Fate::Rehomed, "shop/site/web2").await;
    let why = step(&told, "backend", "in maintenance");
    assert_eq!((why.author.as_str(), why.cause.as_str()), ("bert", "swap"));
}

#[tokio::test]
async fn backups_and_the_fallback_come_last() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let down = |name: &str| {
        let backend = fake.read(|state| state.backend_id(name)).expect("an id");
        let detail = "connect: refused".to_owned();
        fake.apply(Command::ReportHealth { node: NodeId::new(1), backend, verdict: Verdict::Down, detail });
    };
    down("shop/site/web1");
    down("shop/site/web2");
    let told = check(&shared, asked("s1"), Fate::NewBinding, "shop/site/spare").await;
    assert!(step(&told, "backend", "web1 is down").cause.contains("connect: refused"));
    down("shop/site/spare");
    let told = check(&shared, asked("s1"), Fate::Fallback, "").await;
    assert!(told.conclusion.contains("503"));
}

#[tokio::test]
async fn an_operators_move_is_told_with_its_author() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    bind(&fake, "s1", "shop/site/web1");
    let key = Some(BindingKey { service: "shop".to_owned(), key: Some(Key::Text("s1".to_owned())) });
    let request =
        MoveBindingRequest { key, backend: "web2".to_owned(), message: "ticket 7".to_owned(), ..Default::default() };
    shared.r#move(from("bert", request)).await.expect("moved");
    let told = check(&shared, asked("s1"), Fate::Bound, "shop/site/web2").await;
    let why = step(&told, "binding", "by an operator");
    assert_eq!((why.author.as_str(), why.cause.as_str()), ("bert", "ticket 7"));
}

#[tokio::test]
async fn services_are_matched_in_order() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let api = ExplainRequest { host: "API.shop.test".to_owned(), path: "/v1/x?y=1".to_owned(), ..asked("") };
    check(&shared, api, Fate::Balanced, "shop/api/api1").await;
    let without_rest = "version: 1\nfarms:\n  - name: a\n    listeners: [{ name: w, address: 0.0.0.0, port: 80 }]\n    services:\n      - { name: s, match: { hosts: [x.test] }, backends: [{ name: b, address: '127.0.0.1:1' }] }\n";
    apply(&shared, "anna", without_rest).await;
    check(&shared, ExplainRequest { farm: "a".to_owned(), ..asked("") }, Fate::Refused, "").await;
}

#[tokio::test]
async fn a_persistence_cookie_names_its_backend_or_nothing() {
    let fake = Fake::new();
    let shared = fake.shared();
    let source =
        SHOP.replace("table: { key: { learned_cookie: SHOPID }, idle_timeout: 30m }", "cookie: { name: SHOPID }");
    apply(&shared, "anna", &source).await;
    let web2 = fake.read(|state| state.backend_id("shop/site/web2")).expect("an id").get();
    check(&shared, asked(&format!("backend-{web2}")), Fate::Bound, "shop/site/web2").await;
    check(&shared, asked("forged"), Fate::NewBinding, "").await;
    check(&shared, asked(""), Fate::NewBinding, "").await;
    let told = check(&shared, asked("backend-99"), Fate::Rehomed, "").await;
    step(&told, "backend", "no longer configured");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let fake = Fake::new();
    let shared = fake.shared();
    refused(shared.explain(from("a", asked(""))).await, Code::NotFound, "BALLAST-A005");
    apply(&shared, "anna", SHOP).await;
    for request in [
        ExplainRequest { client_address: "nobody".to_owned(), ..asked("") },
        ExplainRequest { path: "no-slash".to_owned(), ..asked("") },
        ExplainRequest { path: "/a b".to_owned(), ..asked("") },
        ExplainRequest { host: "a\r\nb".to_owned(), ..asked("") },
        ExplainRequest { cookies: vec!["nonsense".to_owned()], ..asked("") },
    ] {
        refused(shared.explain(from("a", request)).await, Code::InvalidArgument, "BALLAST-A002");
    }
    let other = ExplainRequest { farm: "shopp".to_owned(), ..asked("") };
    let detail = refused(shared.explain(from("a", other)).await, Code::NotFound, "BALLAST-A005");
    assert!(detail.remedies.iter().any(|remedy| remedy.contains("shop")));
}
