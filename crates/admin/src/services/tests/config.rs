use std::{sync::atomic::Ordering, time::SystemTime};

use ballast_core::{
    config,
    ids::NodeId,
    state::{ApplyConfig, Author, Command, REVISIONS_MAX},
};
use ballast_proto::admin::v1::{
    ApplyRequest, DiffRequest, ExportRequest, GetConfigRequest, ListRevisionsRequest, Mistake, ReadConsistency,
    RollbackRequest, ValidateRequest, WatchConfigRequest, config_change::Kind,
    config_service_server::ConfigService as _, diff_request::To, export_request::Format, mistake::Severity,
};
use futures_util::{FutureExt as _, StreamExt as _};
use tonic::Code;

use super::{Fake, SHOP, apply, from, refused};
use crate::{
    access::{Caller, Certificate},
    node::ListenerProblem,
};

fn with_expect(source: &str, expect: u64) -> ApplyRequest {
    ApplyRequest { source: source.to_owned(), expect_revision: Some(expect), ..ApplyRequest::default() }
}

#[tokio::test]
async fn what_is_applied_is_read_with_its_author() {
    let fake = Fake::new();
    let shared = fake.shared();
    let answer = apply(&shared, "anna", SHOP).await;
    assert_eq!((answer.revision, answer.changed, answer.etag.as_str()), (1, true, "r1"));
    assert!(answer.diff.expect("a difference").changes.iter().any(|change| change.path.contains("farms[shop]")));
    let got = shared.get(from("eve", GetConfigRequest::default())).await.expect("got").into_inner();
    let revision = got.revision.expect("a revision");
    assert_eq!(revision.source, SHOP);
    let change = revision.change.expect("a change");
    assert_eq!((change.author.as_str(), change.message.as_str()), ("anna", "test"));
    let header = got.header.expect("a header");
    assert_eq!((header.applied_index, header.revision, header.leader_id), (change.log_index, 1, 1));
    assert_eq!(header.consistency(), ReadConsistency::Linearizable);
    let again = apply(&shared, "anna", SHOP).await;
    assert_eq!((again.revision, again.changed), (1, false));
}

#[tokio::test]
async fn a_document_that_is_not_right_is_refused_with_every_mistake() {
    let fake = Fake::new();
    let shared = fake.shared();
    let source =
        "version: 1\nfarmz: []\nfarms:\n  - name: a\n    listeners:\n      - { name: web, vip: nope, port: 99999 }\n";
    let request = ApplyRequest { source: source.to_owned(), ..ApplyRequest::default() };
    let detail = refused(shared.apply(from("anna", request)).await, Code::InvalidArgument, "BALLAST-A001");
    assert!(detail.mistakes.len() >= 2, "{:?}", detail.mistakes);
    assert!(detail.mistakes.iter().any(|mistake| mistake.line == 2));
    assert!(detail.mistakes.iter().any(|mistake| mistake.line == 6));
    let validated =
        shared.validate(from("anna", ValidateRequest { source: source.to_owned() })).await.expect("an answer");
    let validated = validated.into_inner();
    assert!(!validated.valid);
    assert_eq!(validated.mistakes, detail.mistakes);
    assert_eq!(fake.read(|state| state.revision().get()), 0);
    let fine = shared.validate(from("anna", ValidateRequest { source: SHOP.to_owned() })).await.expect("an answer");
    assert!(fine.into_inner().valid);
}

#[tokio::test]
async fn of_two_racing_applies_one_wins_and_the_other_sees_what_changed() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let (first, second) = (SHOP.replace("9001", "9011"), SHOP.replace("9002", "9012"));
    let results = tokio::join!(
        shared.apply(from("anna", with_expect(&first, 1))),
        shared.apply(from("bert", with_expect(&second, 1))),
    );
    // Documents are checked elsewhere meanwhile, so either may be the first.
    let (won, lost, author, backend, port) = match results {
        (Ok(won), Err(lost)) => (won.into_inner(), lost, "anna", "web1", "9011"),
        (Err(lost), Ok(won)) => (won.into_inner(), lost, "bert", "web2", "9012"),
        other => panic!("one must win: {other:?}"),
    };
    assert_eq!(won.revision, 2);
    let detail = refused::<()>(Err(lost), Code::Aborted, "BALLAST-A003");
    let conflict = detail.conflict.expect("what changed");
    assert_eq!((conflict.from_revision, conflict.to_revision), (1, 2));
    assert_eq!(conflict.changes.len(), 1);
    assert_eq!(conflict.changes[0].kind(), Kind::Changed);
    assert_eq!(conflict.changes[0].path, format!("farms[shop].services[site].backends[{backend}].address"));
    assert!(conflict.unified.contains(port), "{}", conflict.unified);
    assert_eq!(conflict.made_by.expect("who").author, author);
    assert!(!detail.outcome_unknown && !detail.remedies.is_empty());
}

#[tokio::test]
async fn etags_and_expected_revisions_are_one_thing() {
    let fake = Fake::new();
    let shared = fake.shared();
    let etag = apply(&shared, "anna", SHOP).await.etag;
    let changed = SHOP.replace("9001", "9011");
    let request = |etag: &str, expect_revision| ApplyRequest {
        source: changed.clone(),
        etag: etag.to_owned(),
        expect_revision,
        ..ApplyRequest::default()
    };
    refused(shared.apply(from("a", request("nonsense", None))).await, Code::InvalidArgument, "BALLAST-A002");
    refused(shared.apply(from("a", request(&etag, Some(7)))).await, Code::InvalidArgument, "BALLAST-A002");
    refused(shared.apply(from("a", request("r7", None))).await, Code::Aborted, "BALLAST-A003");
    let dry = ApplyRequest { validate_only: true, ..request("r7", None) };
    refused(shared.apply(from("a", dry)).await, Code::Aborted, "BALLAST-A003");
    assert_eq!(shared.apply(from("a", request(&etag, Some(1)))).await.expect("applied").into_inner().revision, 2);
}

#[tokio::test]
async fn validate_only_says_what_would_change_and_changes_nothing() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let before = fake.read(|state| state.applied());
    let request = ApplyRequest { source: SHOP.replace("9001", "9011"), validate_only: true, ..ApplyRequest::default() };
    let answer = shared.apply(from("anna", request)).await.expect("an answer").into_inner();
    assert_eq!((answer.revision, answer.changed, answer.log_index), (1, true, 0));
    assert_eq!(answer.diff.expect("a difference").changes.len(), 1);
    assert_eq!(fake.read(|state| state.applied()), before);
}

#[tokio::test]
async fn a_preferred_node_that_nobody_knows_is_a_warning_and_no_mistake() {
    let fake = Fake::new();
    let shared = fake.shared();
    let source =
        SHOP.replace("addresses: [127.0.100.1]\n", "addresses: [127.0.100.1]\n    prefer: [node-1, nodde-2]\n");
    let request = |validate_only| ApplyRequest { source: source.clone(), validate_only, ..ApplyRequest::default() };
    let told = |warnings: &[Mistake]| {
        let [warning] = warnings else { panic!("one warning: {warnings:?}") };
        assert_eq!((warning.severity(), warning.path.as_str()), (Severity::Warning, "vips[public].prefer[1]"));
        assert!(warning.problem.contains("`nodde-2`") && warning.remedy.ends_with("there are node-1"), "{warning:?}");
    };
    for validate_only in [true, false] {
        told(&shared.apply(from("anna", request(validate_only))).await.expect("accepted").into_inner().warnings);
    }
    let to = Some(To::Source(source.clone()));
    told(
        &shared
            .diff(from("anna", DiffRequest { to, ..DiffRequest::default() }))
            .await
            .expect("told")
            .into_inner()
            .warnings,
    );
    let validated = shared.validate(from("anna", ValidateRequest { source })).await.expect("told").into_inner();
    assert!(validated.valid);
    told(&validated.mistakes);
}

#[tokio::test]
async fn leaving_out_an_address_that_is_held_is_a_warning_before_and_with_the_change() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let vip = fake.read(|state| state.vip_id("public")).expect("an id");
    fake.apply(Command::RecordVip { vip, owner: Some(NodeId::new(1)), epoch: 5, cause: "first".to_owned() });
    let source = SHOP.replace("127.0.100.1", "127.0.100.2");
    let request = |validate_only| ApplyRequest { source: source.clone(), validate_only, ..ApplyRequest::default() };
    for validate_only in [true, false] {
        let answer = shared.apply(from("anna", request(validate_only))).await.expect("accepted").into_inner();
        let [warning] = &answer.warnings[..] else { panic!("one warning: {:?}", answer.warnings) };
        assert!(warning.problem.starts_with("node-1 holds 127.0.100.1 for VIP public"), "{warning:?}");
    }
    let again = shared.apply(from("anna", request(false))).await.expect("accepted").into_inner();
    assert_eq!(again.warnings, [], "it is gone");
}

#[tokio::test]
async fn a_retry_with_the_same_id_is_one_revision() {
    let fake = Fake::new();
    let shared = fake.shared();
    let request = ApplyRequest { source: SHOP.to_owned(), request_id: "one".to_owned(), ..ApplyRequest::default() };
    fake.loses_answers.store(true, Ordering::Relaxed);
    let detail = refused(shared.apply(from("anna", request.clone())).await, Code::DeadlineExceeded, "BALLAST-A009");
    assert!(detail.outcome_unknown);
    fake.loses_answers.store(false, Ordering::Relaxed);
    apply(&shared, "bert", &SHOP.replace("9001", "9011")).await;
    let answer = shared.apply(from("anna", request)).await.expect("the first answer").into_inner();
    assert_eq!((answer.revision, answer.changed), (1, true));
    assert_eq!(fake.read(|state| state.revision().get()), 2, "bert's is still in force");
}

#[tokio::test]
async fn without_quorum_nothing_changes_and_stale_reads_still_answer() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    fake.cut_off.store(true, Ordering::Relaxed);
    let request = ApplyRequest { source: SHOP.replace("9001", "9011"), ..ApplyRequest::default() };
    let detail = refused(shared.apply(from("anna", request)).await, Code::Unavailable, "BALLAST-A008");
    assert!(detail.retryable && !detail.outcome_unknown);
    let get = |consistency: ReadConsistency| GetConfigRequest { consistency: consistency.into() };
    refused(shared.get(from("a", get(ReadConsistency::Linearizable))).await, Code::Unavailable, "BALLAST-A012");
    let stale = shared.get(from("a", get(ReadConsistency::Stale))).await.expect("an answer").into_inner();
    assert_eq!(stale.header.expect("a header").consistency(), ReadConsistency::Stale);
    assert_eq!(stale.revision.expect("a revision").revision, 1);
    let asked = fake.confirms.load(Ordering::Relaxed);
    let fresh = shared.get(from("a", get(ReadConsistency::LeaderLease))).await.expect("fresh enough").into_inner();
    assert_eq!(fresh.header.expect("a header").consistency(), ReadConsistency::LeaderLease);
    assert_eq!(fake.confirms.load(Ordering::Relaxed), asked, "a fresh state is not confirmed again");
}

#[tokio::test]
async fn rollback_brings_an_earlier_text_back_as_a_new_revision() {
    let fake = Fake::new();
    let shared = fake.shared();
    refused(shared.rollback(from("a", RollbackRequest::default())).await, Code::NotFound, "BALLAST-A005");
    apply(&shared, "anna", SHOP).await;
    refused(shared.rollback(from("a", RollbackRequest::default())).await, Code::FailedPrecondition, "BALLAST-A007");
    apply(&shared, "anna", &SHOP.replace("9001", "9011")).await;
    let request = RollbackRequest { message: "it was better".to_owned(), ..RollbackRequest::default() };
    let answer = shared.rollback(from("bert", request)).await.expect("rolled back").into_inner();
    assert_eq!((answer.revision, answer.changed), (3, true));
    let missing = RollbackRequest { revision: 77, ..RollbackRequest::default() };
    let detail = refused(shared.rollback(from("a", missing)).await, Code::NotFound, "BALLAST-A005");
    assert!(detail.remedies.iter().any(|remedy| remedy.contains("1 to 3")), "{:?}", detail.remedies);

    let list = ListRevisionsRequest { page_size: 2, ..ListRevisionsRequest::default() };
    let page = shared.list_revisions(from("a", list.clone())).await.expect("a page").into_inner();
    let numbers: Vec<_> = page.revisions.iter().map(|revision| (revision.revision, revision.in_force)).collect();
    assert_eq!(numbers, [(3, true), (2, false)]);
    assert!(page.revisions.iter().all(|revision| revision.source.is_empty()));
    assert!(page.revisions[0].change.as_ref().expect("a change").message.starts_with("it was better"));
    let next = ListRevisionsRequest { page_token: page.next_page_token, ..list };
    let page = shared.list_revisions(from("a", next)).await.expect("a page").into_inner();
    assert_eq!((page.revisions.len(), page.next_page_token.as_str()), (1, ""));
}

#[tokio::test]
async fn what_is_exported_can_be_applied_and_changes_nothing() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    for format in [Format::Source, Format::Yaml, Format::Json] {
        let request = ExportRequest { format: format.into(), ..ExportRequest::default() };
        let text = shared.export(from("a", request)).await.expect("exported").into_inner().text;
        let answer = apply(&shared, "bert", &text).await;
        assert!(!answer.changed, "{format:?}: {text}");
    }
}

#[tokio::test]
async fn two_sides_of_any_kind_are_compared() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    apply(&shared, "bert", &SHOP.replace("9001", "9011")).await;
    let count = async |from_revision, to| {
        let request = DiffRequest { from_revision, to, ..DiffRequest::default() };
        let diff = shared.diff(from("a", request)).await.expect("compared").into_inner().diff.expect("a difference");
        assert_eq!(diff.changes.is_empty(), diff.unified.is_empty());
        (diff.from_revision, diff.to_revision, diff.changes.len())
    };
    assert_eq!(count(Some(1), Some(To::ToRevision(2))).await, (1, 2, 1));
    assert_eq!(count(Some(1), None).await, (1, 2, 1));
    assert_eq!(count(None, Some(To::Source(SHOP.to_owned()))).await, (2, 0, 1));
    assert_eq!(count(Some(1), Some(To::Source(SHOP.to_owned()))).await, (1, 0, 0));
    let wrong = DiffRequest { to: Some(To::Source("nonsense".to_owned())), ..DiffRequest::default() };
    refused(shared.diff(from("a", wrong)).await, Code::InvalidArgument, "BALLAST-A001");
}

#[tokio::test]
async fn a_watch_sends_what_was_made_since_and_then_what_is_made_until_the_node_stops() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let from_start = WatchConfigRequest { from_index: Some(0), include_source: true };
    let mut watch = shared.watch(from("a", from_start)).await.expect("a stream").into_inner();
    let first = watch.next().await.expect("an answer").expect("a revision");
    assert_eq!(first.revision.expect("a revision").source, SHOP);
    let changed = SHOP.replace("9001", "9011");
    let (next, _) = tokio::join!(watch.next(), apply(&shared, "bert", &changed));
    let next = next.expect("an answer").expect("a revision");
    assert_eq!((next.revision.expect("a revision").revision, next.diff.expect("a difference").changes.len()), (2, 1));
    fake.stop.cancel();
    let last = watch.next().await.expect("an answer").expect_err("told that the node stops");
    assert_eq!(last.code(), Code::Unavailable);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_compares_documents_when_its_turn_comes_and_holds_nothing_up_meanwhile() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let from_start = WatchConfigRequest { from_index: Some(0), include_source: false };
    let mut watch = shared.watch(from("a", from_start)).await.expect("a stream").into_inner();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut another = Box::pin(shared.telling.in_turn(move || wait.recv()));
    assert!((&mut another).now_or_never().is_none(), "it has the only seat, and waits");
    assert!(watch.next().now_or_never().is_none(), "so the watch waits too");
    apply(&shared, "anna", &SHOP.replace("9001", "9011")).await;
    go.send(()).expect("it waits");
    another.await.expect("no panic").expect("told");
    for revision in [1, 2] {
        let next = watch.next().await.expect("an answer").expect("a revision");
        assert_eq!(next.revision.expect("a revision").revision, revision);
    }
}

#[tokio::test]
async fn nothing_is_kept_for_a_watch_that_is_not_read() {
    let fake = Fake::new();
    let shared = fake.shared();
    let weigh = |n: usize| SHOP.replace("9001", &(10_000 + n).to_string());
    for n in 0..3 {
        apply(&shared, "anna", &weigh(n)).await;
    }
    let from_start = WatchConfigRequest { from_index: Some(0), include_source: true };
    let mut watch = shared.watch(from("a", from_start)).await.expect("a stream").into_inner();
    let first = watch.next().await.expect("an answer").expect("a revision");
    assert_eq!(first.revision.expect("a revision").revision, 1);
    for n in 3..REVISIONS_MAX + 5 {
        apply(&shared, "anna", &weigh(n)).await;
    }
    let ended = watch.next().await.expect("an answer").expect_err("the second one was forgotten meanwhile");
    assert_eq!(ended.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_watch_ends_with_the_certificate_of_its_caller() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let mut request = from("eve", WatchConfigRequest { from_index: Some(0), include_source: false });
    let certificate = Some(Certificate { fingerprint: [7; 32], not_after: SystemTime::UNIX_EPOCH });
    let caller = Caller { certificate, ..Caller::of(&request).expect("a caller") };
    request.extensions_mut().insert(caller);
    let mut watch = shared.watch(request).await.expect("a stream").into_inner();
    let ended = watch.next().await.expect("an answer").expect_err("it has ended");
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn two_revisions_of_one_entry_are_both_watched() {
    let fake = Fake::new();
    let shared = fake.shared();
    let put = |n: usize| {
        let source = SHOP.replace("9001", &(10_000 + n).to_string());
        let document = config::parse(&source).expect("a document").to_canonical_json();
        Command::ApplyConfig(Box::new(ApplyConfig {
            document,
            rules: config::rules::RULES,
            source,
            expect: None,
            request_id: String::new(),
            author: Author::default(),
        }))
    };
    fake.apply_all(vec![put(0)]);
    fake.apply_all(vec![put(1), put(2)]);
    fake.apply_all(vec![put(3)]);
    let from_start = WatchConfigRequest { from_index: Some(0), include_source: false };
    let watch = shared.watch(from("a", from_start)).await.expect("a stream").into_inner();
    let told: Vec<_> = watch.take(4).map(|told| told.expect("a revision")).collect().await;
    let diffs: Vec<_> = told.iter().map(|told| told.diff.as_ref().expect("a difference")).collect();
    let sides: Vec<_> = diffs.iter().map(|diff| (diff.from_revision, diff.to_revision)).collect();
    assert_eq!(sides, [(0, 1), (1, 2), (2, 3), (3, 4)]);
    let in_force: Vec<_> = told.iter().map(|told| told.revision.as_ref().expect("a revision").in_force).collect();
    assert_eq!(in_force, [false, false, false, true]);
}

#[tokio::test]
async fn a_watch_from_before_what_is_kept_is_told_so() {
    let fake = Fake::new();
    let shared = fake.shared();
    let mut late = shared
        .watch(from("a", WatchConfigRequest { from_index: Some(0), include_source: false }))
        .await
        .expect("a stream")
        .into_inner();
    let weigh = |n: usize| SHOP.replace("9001", &(10_000 + n).to_string());
    for n in 0..REVISIONS_MAX + 5 {
        apply(&shared, "anna", &weigh(n)).await;
    }
    let ended = late.next().await.expect("an answer").expect_err("it did not see the first revisions");
    assert_eq!(ended.code(), Code::OutOfRange);
    assert!(late.next().await.is_none());
    let oldest = fake.read(|state| state.revisions().last().expect("some are kept").index.get());
    assert!(ended.message().ends_with(&format!("the oldest to watch from is {oldest}")), "{ended:?}");
    let watch = |from_index| shared.watch(from("a", WatchConfigRequest { from_index, include_source: false }));
    let mut early = watch(Some(oldest - 1)).await.expect("a stream").into_inner();
    assert_eq!(early.next().await.expect("an answer").expect_err("one may be missing").code(), Code::OutOfRange);
    let mut whole = watch(Some(oldest)).await.expect("a stream").into_inner();
    let next = whole.next().await.expect("an answer").expect("a revision");
    assert_eq!(next.revision.expect("a revision").revision, 7, "the one after the oldest that is kept");
}

#[tokio::test]
async fn wait_tells_which_listeners_could_not_be_bound() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let farm = fake.read(|state| state.farm_id("shop").expect("configured"));
    let problem = |farm, listener: &str, address: &str| ListenerProblem {
        farm,
        listener: listener.to_owned(),
        address: address.to_owned(),
        error: "address in use".to_owned(),
    };
    fake.listener_problems.lock().push(problem(Some(farm), "web", "0.0.0.0:80"));
    fake.listener_problems.lock().push(problem(None, "redis-tls", "0.0.0.0:6379"));
    let source = SHOP.replace("9001", "9011");
    let wait_timeout = prost_types::Duration::try_from(std::time::Duration::from_millis(100)).ok();
    let request = ApplyRequest { source, wait: true, wait_timeout, ..ApplyRequest::default() };
    let answer = shared.apply(from("anna", request)).await.expect("it is committed").into_inner();
    assert_eq!((answer.revision, answer.pending_nodes.len()), (2, 1));
    let node = &answer.pending_nodes[0];
    assert!(node.reachable && node.reason.contains("cannot bind"), "{node:?}");
    let problem = &node.listener_problems[0];
    assert_eq!((problem.farm.as_str(), problem.address.as_str()), ("shop", "0.0.0.0:80"));
    let problem = &node.listener_problems[1];
    assert_eq!((problem.farm.as_str(), problem.listener.as_str()), ("", "redis-tls"));
}
