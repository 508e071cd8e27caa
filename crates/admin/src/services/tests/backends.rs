use std::time::{Duration, Instant};

use ballast_core::{
    config,
    ids::NodeId,
    persistence::KeyHash,
    plan::{AdminState, Verdict as CoreVerdict},
    state::{ApplyConfig, Author, Command},
};
use ballast_proto::admin::v1::{
    BackendAdmin, BindingKey, DeleteBindingRequest, DrainBackendRequest, EnableBackendRequest, Event,
    GetBindingRequest, GetConfigRequest, ListBackendsRequest, ListBindingsRequest, ListEventsRequest,
    ListVipTransitionsRequest, ListVipsRequest, MaintenanceBackendRequest, MoveBindingRequest, MoveVipRequest,
    PinBindingRequest, SetBackendWeightRequest, Verdict, VipTransition, WatchEventsRequest,
    backend_service_server::BackendService, binding_key::Key, binding_service_server::BindingService,
    config_service_server::ConfigService, event_service_server::EventService, vip_service_server::VipService,
};
use futures_util::StreamExt as _;
use tonic::Code;

use super::{Fake, SHOP, apply, from, refused};
use crate::{access::Caller, view};

fn drain(name: &str) -> DrainBackendRequest {
    DrainBackendRequest { name: name.to_owned(), message: "new disk".to_owned(), ..DrainBackendRequest::default() }
}

#[tokio::test]
async fn a_drain_survives_apply_and_is_shown_beside_the_document() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let answer = shared.drain(from("bert", drain("shop/site/web1"))).await.expect("drained").into_inner();
    let backend = answer.backend.expect("the backend");
    assert_eq!((backend.admin(), backend.takes_new), (BackendAdmin::Drain, false));
    assert!(answer.log_index > 0);
    apply(&shared, "anna", &SHOP.replace("9002", "9012")).await;
    let got = ConfigService::get(&shared, from("a", GetConfigRequest::default())).await.expect("got").into_inner();
    let state = got.operator_state.expect("operator state");
    let [only] = state.backends.as_slice() else { panic!("{state:?}") };
    assert_eq!((only.name.as_str(), only.admin()), ("shop/site/web1", BackendAdmin::Drain));
    let change = only.change.clone().expect("a change");
    assert_eq!((change.author.as_str(), change.message.as_str()), ("bert", "new disk"));
    let enable = EnableBackendRequest { name: "shop/web1".to_owned(), ..EnableBackendRequest::default() };
    let backend =
        shared.enable(from("bert", enable)).await.expect("enabled").into_inner().backend.expect("the backend");
    assert_eq!((backend.admin(), backend.takes_new), (BackendAdmin::Ready, true));
}

#[tokio::test]
async fn changes_can_be_rehearsed_guarded_and_repeated() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let before = fake.read(|state| state.applied());
    let rehearsal = DrainBackendRequest { validate_only: true, ..drain("shop/site/web1") };
    let etag = shared.drain(from("a", rehearsal)).await.expect("fine").into_inner().backend.expect("it").etag;
    assert_eq!(fake.read(|state| state.applied()), before);

    let guarded = DrainBackendRequest { etag: etag.clone(), request_id: "one".to_owned(), ..drain("shop/site/web1") };
    let first = shared.drain(from("a", guarded.clone())).await.expect("drained").into_inner();
    let again = shared.drain(from("a", guarded.clone())).await.expect("the first answer").into_inner();
    assert_eq!((again.log_index, again.backend), (first.log_index, first.backend));
    let rehearsal = DrainBackendRequest { validate_only: true, ..guarded.clone() };
    for other in [rehearsal, DrainBackendRequest { request_id: "two".to_owned(), ..guarded }] {
        refused(shared.drain(from("a", other)).await, Code::Aborted, "BALLAST-A004");
    }
    let retry = DrainBackendRequest { request_id: "one".to_owned(), ..drain("shop/site/web1") };
    let again = shared.drain(from("a", retry)).await.expect("the first answer").into_inner();
    assert_eq!(again.log_index, first.log_index);
    let other = DrainBackendRequest { request_id: "one".to_owned(), ..drain("shop/site/web2") };
    let told = refused(shared.drain(from("a", other)).await, Code::InvalidArgument, "BALLAST-A002");
    assert_eq!(told.subject, "request_id");

    let detail = refused(shared.drain(from("a", drain("shop/site/web9"))).await, Code::NotFound, "BALLAST-A005");
    assert!(detail.remedies.iter().any(|remedy| remedy.contains("shop/site/web1")), "{:?}", detail.remedies);
}

/// What another node does comes to the log after this node has looked at the etag.
#[tokio::test]
async fn of_two_changes_of_a_backend_with_one_etag_the_second_is_refused() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let backend = fake.read(|state| state.backend_id("shop/site/web1")).expect("an id");
    let admin = || fake.read(|state| state.backend_wish(backend).map(|wish| wish.admin));
    let guarded = || {
        let etag = fake.read(|state| view::backend(state, "shop/site/web1").expect("it is there").1.etag);
        from("a", DrainBackendRequest { etag, ..drain("shop/site/web1") })
    };
    let overtaken_by = |command| *fake.overtaken_by.lock() = Some(command);
    let document = |source: &str| {
        Command::ApplyConfig(Box::new(ApplyConfig {
            document: config::parse(source).expect("a document").to_canonical_json(),
            rules: config::rules::RULES,
            source: source.to_owned(),
            expect: None,
            request_id: String::new(),
            author: Author::default(),
        }))
    };
    let maintenance = Some(AdminState::Maintenance);
    let author = Author::default();
    overtaken_by(Command::SetBackend { backend, admin: maintenance, weight: None, author, expect: None });
    let detail = refused(shared.drain(guarded()).await, Code::Aborted, "BALLAST-A004");
    assert_eq!((detail.subject.as_str(), admin()), ("shop/site/web1", maintenance));
    let elsewhere = SHOP.replace("9001", "9011");
    overtaken_by(document(&elsewhere));
    refused(shared.drain(guarded()).await, Code::Aborted, "BALLAST-A004");
    assert_eq!((fake.read(|state| state.revision().get()), admin()), (2, maintenance));
    // A document that says the same of this backend takes nothing away.
    overtaken_by(document(&elsewhere.replace("9002", "9012")));
    let mut late = guarded();
    late.extensions_mut().get_mut::<Caller>().expect("who calls").deadline = Instant::now();
    let detail = refused(shared.drain(late).await, Code::ResourceExhausted, "BALLAST-A010");
    assert!(detail.retryable && !detail.outcome_unknown, "nobody changed the backend: {detail:?}");
    overtaken_by(document(&elsewhere.replace("9002", "9022")));
    shared.drain(guarded()).await.expect("drained");
    assert_eq!((fake.read(|state| state.revision().get()), admin()), (4, Some(AdminState::Drain)));
}

#[tokio::test]
async fn weights_are_overridden_and_given_back() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let set = |weight| SetBackendWeightRequest {
        name: "shop/site/web2".to_owned(),
        weight,
        ..SetBackendWeightRequest::default()
    };
    let backend = shared.set_weight(from("a", set(Some(0)))).await.expect("set").into_inner().backend.expect("it");
    assert_eq!(
        (backend.weight, backend.document_weight, backend.weight_override, backend.takes_new),
        (0, 100, Some(0), false)
    );
    let backend = shared.set_weight(from("a", set(None))).await.expect("set").into_inner().backend.expect("it");
    assert_eq!((backend.weight, backend.weight_override), (100, None));
    refused(shared.set_weight(from("a", set(Some(1001)))).await, Code::InvalidArgument, "BALLAST-A002");
}

#[tokio::test]
async fn a_list_shows_verdicts_by_node_and_bindings() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    bind(&fake, "session-1", "shop/site/web1");
    let web1 = fake.read(|state| state.backend_id("shop/site/web1")).expect("an id");
    let detail = "http 503 in 12 ms".to_owned();
    fake.apply(Command::ReportHealth { node: NodeId::new(1), backend: web1, verdict: CoreVerdict::Down, detail });
    let request = ListBackendsRequest { parent: "shop/site".to_owned(), ..ListBackendsRequest::default() };
    let backends = BackendService::list(&shared, from("a", request)).await.expect("a list").into_inner().backends;
    let names: Vec<_> = backends.iter().map(|backend| backend.backend.as_str()).collect();
    assert_eq!(names, ["web1", "web2", "spare"]);
    assert_eq!((backends[0].verdict(), backends[0].bindings, backends[0].takes_new), (Verdict::Down, 1, false));
    let report = &backends[0].reports[0];
    assert_eq!((report.node_name.as_str(), report.detail.as_str()), ("node-1", "http 503 in 12 ms"));
    assert_eq!((backends[1].verdict(), backends[1].takes_new), (Verdict::Unknown, true));
    let nothing = ListBackendsRequest { parent: "shop/nope".to_owned(), ..ListBackendsRequest::default() };
    refused(BackendService::list(&shared, from("a", nothing)).await, Code::NotFound, "BALLAST-A005");
}

/// Binds a key as a request would.
pub(super) fn bind(fake: &Fake, key: &str, backend: &str) {
    let (service, hash, choice) = fake.read(|state| {
        let service = state.service_id("shop/site").expect("a service");
        let secret = state.cluster().expect("a cluster").table_secret;
        (service, KeyHash::of(&secret, service, key.as_bytes()), state.backend_id(backend).expect("a backend"))
    });
    fake.apply(Command::Bind { service, key: hash, choice, replaces: None });
}

fn key(text: &str) -> Option<BindingKey> {
    Some(BindingKey { service: "shop".to_owned(), key: Some(Key::Text(text.to_owned())) })
}

#[tokio::test]
async fn a_binding_is_found_by_its_text_and_by_its_hash() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    bind(&fake, "session-1", "shop/site/web2");
    let by_text = GetBindingRequest { key: key("session-1"), ..GetBindingRequest::default() };
    let found =
        BindingService::get(&shared, from("a", by_text)).await.expect("found").into_inner().binding.expect("it");
    assert_eq!((found.service.as_str(), found.backend.as_str(), found.pinned), ("shop/site", "web2", false));
    assert_eq!(found.created_index, fake.read(|state| state.applied().get()));
    let by_hash = BindingKey { service: "shop/site".to_owned(), key: Some(Key::Hash(found.key_hash.clone())) };
    let by_hash = GetBindingRequest { key: Some(by_hash), ..GetBindingRequest::default() };
    assert_eq!(
        BindingService::get(&shared, from("a", by_hash)).await.expect("found").into_inner().binding.expect("it"),
        found
    );
    let missing = GetBindingRequest { key: key("session-2"), ..GetBindingRequest::default() };
    refused(BindingService::get(&shared, from("a", missing)).await, Code::NotFound, "BALLAST-A005");
    let api = BindingKey { service: "shop/api".to_owned(), key: Some(Key::Text("x".to_owned())) };
    let no_table = GetBindingRequest { key: Some(api), ..GetBindingRequest::default() };
    refused(BindingService::get(&shared, from("a", no_table)).await, Code::FailedPrecondition, "BALLAST-A007");
    fake.pass(Duration::from_secs(3600));
    let ended = GetBindingRequest { key: key("session-1"), ..GetBindingRequest::default() };
    refused(BindingService::get(&shared, from("a", ended)).await, Code::NotFound, "BALLAST-A005");
}

#[tokio::test]
async fn bindings_are_moved_pinned_and_deleted() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    bind(&fake, "session-1", "shop/site/web1");
    let to =
        |backend: &str| MoveBindingRequest { key: key("session-1"), backend: backend.to_owned(), ..Default::default() };
    let moved = BindingService::r#move(&shared, from("bert", to("web2")))
        .await
        .expect("moved")
        .into_inner()
        .binding
        .expect("it");
    assert_eq!((moved.backend.as_str(), moved.rehome_cause.as_str()), ("web2", "operator"));
    refused(
        BindingService::r#move(&shared, from("bert", to("shop/api/api1"))).await,
        Code::InvalidArgument,
        "BALLAST-A002",
    );
    let pin = PinBindingRequest { key: key("session-1"), ..PinBindingRequest::default() };
    let pinned = shared.pin(from("bert", pin.clone())).await.expect("pinned").into_inner().binding.expect("it");
    assert!(pinned.pinned && pinned.expire_time.is_none());
    assert_eq!(shared.count_pinned().await, 1);
    let list = ListBindingsRequest { pinned_only: true, ..ListBindingsRequest::default() };
    assert_eq!(BindingService::list(&shared, from("a", list)).await.expect("a list").into_inner().bindings, [pinned]);
    let unpin = PinBindingRequest { unpin: true, ..pin };
    assert!(!shared.pin(from("bert", unpin)).await.expect("unpinned").into_inner().binding.expect("it").pinned);
    let delete = DeleteBindingRequest { key: key("session-1"), ..DeleteBindingRequest::default() };
    shared.delete(from("bert", delete.clone())).await.expect("deleted");
    refused(shared.delete(from("bert", delete.clone())).await, Code::NotFound, "BALLAST-A005");
    let lenient = DeleteBindingRequest { allow_missing: true, ..delete };
    assert_eq!(shared.delete(from("bert", lenient)).await.expect("fine").into_inner().log_index, 0);
}

#[tokio::test]
async fn pages_of_bindings_cover_each_once() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    for n in 0..25 {
        bind(&fake, &format!("session-{n}"), if n % 2 == 0 { "shop/site/web1" } else { "shop/site/web2" });
    }
    for (backend, expected) in [("", 25), ("shop/site/web1", 13), ("shop/site/web2", 12)] {
        let mut token = String::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut count = 0;
        loop {
            let request = ListBindingsRequest {
                backend: backend.to_owned(),
                page_size: 4,
                page_token: token,
                ..ListBindingsRequest::default()
            };
            let page = BindingService::list(&shared, from("a", request)).await.expect("a page").into_inner();
            assert!(page.bindings.len() <= 4);
            assert_eq!(page.total_size, 25);
            count += page.bindings.len();
            seen.extend(page.bindings.into_iter().map(|binding| binding.key_hash));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!((seen.len(), count), (expected, expected), "{backend:?}");
    }
    let request = ListBindingsRequest { page_token: "nonsense".to_owned(), ..ListBindingsRequest::default() };
    refused(BindingService::list(&shared, from("a", request)).await, Code::InvalidArgument, "BALLAST-A002");
}

#[tokio::test]
async fn a_vip_is_wanted_elsewhere_and_its_history_is_kept() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let vip = fake.read(|state| state.vip_id("public")).expect("an id");
    for (owner, epoch, cause) in [(Some(1), 5, "first"), (None, 5, "link lost"), (Some(1), 9, "took over")] {
        let owner = owner.map(NodeId::new);
        fake.apply(Command::RecordVip { vip, owner, epoch, cause: cause.to_owned() });
    }
    let vips =
        VipService::list(&shared, from("a", ListVipsRequest::default())).await.expect("a list").into_inner().vips;
    assert_eq!((vips[0].owner_name.as_str(), vips[0].epoch, vips[0].cause.as_str()), ("node-1", 9, "took over"));
    let request = ListVipTransitionsRequest { vip: "public".to_owned(), ..Default::default() };
    let history = shared.list_transitions(from("a", request)).await.expect("a list").into_inner().transitions;
    let causes: Vec<_> = history.iter().map(|transition| transition.cause.as_str()).collect();
    assert_eq!(causes, ["took over", "link lost", "first"]);
    let to = |node: &str| MoveVipRequest {
        vip: "public".to_owned(),
        node: node.to_owned(),
        wait: true,
        ..Default::default()
    };
    let moved = VipService::r#move(&shared, from("bert", to("node-1"))).await.expect("moved").into_inner();
    assert!(moved.arrived, "it is there already");
    assert_eq!(moved.vip.expect("it").moved.expect("a wish").change.expect("who").author, "bert");
    refused(VipService::r#move(&shared, from("bert", to("node-9"))).await, Code::NotFound, "BALLAST-A005");
    let back = VipService::r#move(&shared, from("bert", to(""))).await.expect("moved").into_inner();
    assert!(back.vip.expect("it").moved.is_none());
}

#[tokio::test]
async fn of_two_moves_of_a_vip_with_one_etag_the_second_is_refused() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let vip = fake.read(|state| state.vip_id("public")).expect("an id");
    let guarded = || {
        let etag = fake.read(|state| view::vip(state, "public").expect("it is there").1.etag);
        from("bert", MoveVipRequest { vip: "public".to_owned(), node: "node-1".to_owned(), etag, ..Default::default() })
    };
    let mover = || fake.read(|state| state.vip_wish(vip).map(|wish| wish.author.name.clone()));
    // Another node's comes to the log after this node has looked.
    let (to, author) = (Some(NodeId::new(1)), Author { name: "anna".to_owned(), ..Author::default() });
    *fake.overtaken_by.lock() = Some(Command::MoveVip { vip, to, author, expect: None });
    let detail = refused(VipService::r#move(&shared, guarded()).await, Code::Aborted, "BALLAST-A004");
    assert_eq!((detail.subject.as_str(), mover().as_deref()), ("public", Some("anna")));
    VipService::r#move(&shared, guarded()).await.expect("moved");
    assert_eq!(mover().as_deref(), Some("bert"));
    // One that was answered is answered again, although it has changed the etag itself.
    let mut again = guarded();
    (again.get_mut().node, again.get_mut().request_id) = (String::new(), "one".to_owned());
    let repeat = from("bert", again.get_ref().clone());
    let first = VipService::r#move(&shared, again).await.expect("moved").into_inner().log_index;
    assert_eq!(VipService::r#move(&shared, repeat).await.expect("answered").into_inner().log_index, first);
}

#[tokio::test]
async fn the_history_names_nodes_and_knows_vips_that_are_removed() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let vip = fake.read(|state| state.vip_id("public")).expect("an id");
    let tenures = [
        (Some(1), 5, "the lease of node 77 ran out"),
        (None, 5, "this node gives it up: it is drained; node 1 takes over"),
        (Some(77), 6, "node 1 handed it over, a node"),
    ];
    for (owner, epoch, cause) in tenures {
        fake.apply(Command::RecordVip { vip, owner: owner.map(NodeId::new), epoch, cause: cause.to_owned() });
    }
    let expected = [
        "node-1 handed it over, a node",
        "this node gives it up: it is drained; node-1 takes over",
        "the lease of id 77 (removed) ran out",
    ];
    let vips =
        VipService::list(&shared, from("a", ListVipsRequest::default())).await.expect("a list").into_inner().vips;
    assert_eq!((vips[0].cause.as_str(), vips[0].owner_id, vips[0].owner_name.as_str()), (expected[0], 77, ""));
    let events = EventService::list(&shared, from("a", ListEventsRequest::default())).await.expect("a list");
    let told = &events.into_inner().events[0];
    assert!(told.text.ends_with(&format!("epoch 6: {}", expected[0])), "{}", told.text);
    let history = async |name: &str| {
        let request = ListVipTransitionsRequest { vip: name.to_owned(), ..Default::default() };
        shared.list_transitions(from("a", request)).await.map(|answer| answer.into_inner().transitions)
    };
    let causes = |told: &[VipTransition]| told.iter().map(|one| one.cause.clone()).collect::<Vec<_>>();
    let before = history("public").await.expect("a list");
    assert_eq!((causes(&before), before.iter().any(|told| told.removed)), (expected.map(str::to_owned).into(), false));

    apply(&shared, "anna", "version: 1\n").await;
    for name in ["public", ""] {
        let after = history(name).await.expect("it is found by the name that it had");
        assert!(after.len() == 3 && after.iter().all(|told| told.removed && told.vip == "public"), "{after:?}");
    }
    let never = history("never").await.expect_err("nobody ever called one so");
    assert_eq!(never.code(), Code::NotFound);
    let events = EventService::list(&shared, from("a", ListEventsRequest::default())).await.expect("a list");
    assert!(events.into_inner().events.iter().any(|event| event.subject == "public"));
}

#[tokio::test]
async fn events_tell_who_did_what_and_are_watched() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let after = fake.read(|state| state.applied().get());
    let request = WatchEventsRequest { from_index: Some(after), ..WatchEventsRequest::default() };
    let mut watch = EventService::watch(&shared, from("a", request)).await.expect("a stream").into_inner();
    let maintenance = MaintenanceBackendRequest {
        name: "shop/site/web1".to_owned(),
        message: "swap".to_owned(),
        ..MaintenanceBackendRequest::default()
    };
    let (event, answer) = tokio::join!(watch.next(), shared.maintenance(from("bert", maintenance)));
    let event = event.expect("an answer").expect("an event").event.expect("it");
    assert_eq!((event.kind.as_str(), event.subject.as_str()), ("BackendSet", "shop/site/web1"));
    let change = event.change.clone().expect("a change");
    assert_eq!((change.author.as_str(), change.message.as_str()), ("bert", "swap"));
    assert_eq!(change.log_index, answer.expect("set").into_inner().log_index);
    let list =
        |request| async { EventService::list(&shared, from("a", request)).await.expect("a list").into_inner().events };
    let by = ListEventsRequest { author: "bert".to_owned(), ..ListEventsRequest::default() };
    assert_eq!(list(by).await, [event]);
    let applied = ListEventsRequest { kinds: vec!["configapplied".to_owned()], ..ListEventsRequest::default() };
    assert_eq!(list(applied).await.len(), 1);
    let all = list(ListEventsRequest::default()).await;
    assert!(all.len() >= 3);
    let place = |event: &Event| (event.change.as_ref().expect("a change").log_index, event.ordinal);
    assert!(all.windows(2).all(|pair| place(&pair[0]) > place(&pair[1])));
}

#[tokio::test]
async fn events_are_found_by_what_they_are_about_and_listed_page_by_page() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    for name in ["shop/site/web1", "shop/site/web2", "shop/site/web1"] {
        shared.drain(from("bert", drain(name))).await.expect("drained");
        let enable = EnableBackendRequest { name: name.to_owned(), ..EnableBackendRequest::default() };
        shared.enable(from("bert", enable)).await.expect("enabled");
    }
    // What is configured away keeps its name.
    apply(&shared, "anna", "version: 1\n").await;
    let list = async |request| EventService::list(&shared, from("a", request)).await.expect("a list").into_inner();
    let about = |subject: &str, page_size, page_token| ListEventsRequest {
        subject: subject.to_owned(),
        kinds: ["BACKENDSET", "backendset", "vipmoved"].map(str::to_owned).into(),
        page_size,
        page_token,
        ..ListEventsRequest::default()
    };
    let whole = list(about("shop/site/web1", 0, String::new())).await;
    assert_eq!((whole.events.len(), whole.next_page_token.as_str()), (4, ""));
    assert!(whole.events.iter().all(|event| event.kind == "BackendSet" && event.subject == "shop/site/web1"));
    let first = list(about("shop/site/web1", 3, String::new())).await;
    let second = list(about("shop/site/web1", 3, first.next_page_token)).await;
    assert_eq!([first.events, second.events].concat(), whole.events);
    assert_eq!(list(about("shop/site/web3", 0, String::new())).await.events, []);
}

#[tokio::test]
async fn a_watch_takes_many_events_in_parts_and_leaves_none_out() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let (vip, author) = (fake.read(|state| state.vip_id("public")).expect("an id"), Author::default());
    for _ in 0..700 {
        fake.apply(Command::MoveVip { vip, to: Some(NodeId::new(1)), author: author.clone(), expect: None });
    }
    let all = fake.read(|state| state.events().count());
    assert!(all > 700, "{all}");
    let request = WatchEventsRequest { from_index: Some(0), ..WatchEventsRequest::default() };
    let watch = EventService::watch(&shared, from("a", request)).await.expect("a stream").into_inner();
    let told: Vec<_> = watch.take(all).map(|event| event.expect("an event").event.expect("it")).collect().await;
    let places: Vec<_> = told.iter().map(|event| event.change.as_ref().expect("a change").log_index).collect();
    let wanted: Vec<_> = fake.read(|state| state.events().rev().map(|event| event.index.get()).collect());
    assert_eq!(places, wanted);
}
