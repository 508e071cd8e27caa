use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ballast_core::{
    config::Failback,
    ids::{EntryId, NodeId, VipId},
    lease::{
        Epoch, Fitness, LeaseKeys, LeaseMember, LeaseView, LeaseVip, PlacementReason, Timing, Unfitness, VipStatus,
        VoterSets,
    },
    state::{Author, Command, NodeAdmin, NodeRole},
    time::{BootNanos, LogTime},
};
use ballast_proto::admin::v1::{
    ApplyRequest, ListVipsRequest, MoveVipRequest, PlanFailoverRequest, ReadConsistency, RollbackRequest,
    StatusRequest, ValidateRequest, cluster_service_server::ClusterService as _,
    config_service_server::ConfigService as _, mistake::Severity, status_response::Health,
    vip_service_server::VipService,
};
use tonic::Code;

use super::{Fake, SHOP, apply, fake, from, refused};
use crate::node::LeasePicture;

/// What the lease thread of a cluster of one works from, when that one holds a VIP.
fn picture(vip: VipId, nodes: u64) -> LeasePicture {
    let address = "127.0.0.1:1".parse().expect("a literal");
    let member = |id| LeaseMember { id: NodeId::new(id), address, candidate: true, weight: 100 };
    let timing = Timing::takeover_within(200_000_000);
    let vip = LeaseVip {
        name: String::new(),
        macs: Vec::new(),
        finish: 0,
        id: vip,
        addresses: Vec::new(),
        prefer: Vec::new(),
        failback: Failback::Never,
        failback_delay: 0,
        group: None,
        apart_from: Vec::new(),
        only: None,
        wish: None,
        fitness: Fitness::Fit,
        recorded_owner: None,
        recorded_epoch: Epoch::default(),
    };
    let owners = BTreeMap::from([(vip.id, NodeId::new(1))]);
    let view = LeaseView {
        cluster: String::new(),
        keys: LeaseKeys::only([0; 32]),
        membership: EntryId::default(),
        voters: VoterSets::new([[NodeId::new(1)]]),
        nodes: (1..=nodes).map(member).collect(),
        vips: vec![vip],
        timing,
        longest: timing,
        catching_up: false,
        granted: timing,
        fitness: Fitness::Fit,
    };
    LeasePicture { view: Arc::new(view), owners }
}

#[tokio::test]
async fn a_plan_says_that_a_lone_voter_takes_every_vip_with_it() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let request = || from("anna", PlanFailoverRequest::default());
    refused(VipService::plan_failover(&shared, request()).await, Code::FailedPrecondition, "BALLAST-A007");
    let vip = fake.read(|state| state.vips().next().expect("a VIP").0);
    *fake.leases.lock() = Some(picture(vip, 1));
    let plans = VipService::plan_failover(&shared, request()).await.expect("planned").into_inner().plans;
    let [plan] = plans.as_slice() else { panic!("one node: {plans:?}") };
    assert_eq!(plan.node_name, "node-1");
    assert!(plan.warnings.iter().any(|warning| warning.contains("no majority")), "{:?}", plan.warnings);
    let [step] = plan.moves.as_slice() else { panic!("one VIP: {plan:?}") };
    assert_eq!((step.vip.as_str(), step.to_id, step.order.len()), ("public", 0, 0));
    // One that the log names and nobody hears of is named as one that does not answer.
    *fake.leases.lock() = Some(picture(vip, 2));
    let plans = VipService::plan_failover(&shared, request()).await.expect("planned").into_inner().plans;
    let step = &plans[0].moves[0];
    assert_eq!(step.warnings, ["node-2 comes first and does not answer"]);
    let unknown = PlanFailoverRequest { node: "nobody".to_owned(), ..PlanFailoverRequest::default() };
    refused(VipService::plan_failover(&shared, from("anna", unknown)).await, Code::NotFound, "BALLAST-A005");
}

/// Enrols another node, which nobody answers for.
fn enrol(fake: &Fake, name: &str, role: NodeRole, labels: &[(&str, &str)]) -> NodeId {
    let mut hash = [0; 32];
    hash[..name.len()].copy_from_slice(name.as_bytes());
    let expires = LogTime::from_millis(u64::MAX / 2);
    fake.apply(Command::CreateJoinToken { hash, expires, role, author: Author::default() });
    let mut info = fake::info(name, "127.0.0.1:1");
    info.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    info.role = role;
    fake.apply(Command::EnrolNode { token_hash: hash, info, key_fingerprint: hash });
    fake.read(|state| state.node_named(name).expect("enrolled").id)
}

#[tokio::test]
async fn a_vip_is_not_wanted_where_it_may_not_be() {
    let fake = Fake::new();
    let shared = fake.shared();
    let labelled = "addresses: [127.0.100.1]\n    group: web\n  - name: beside\n    addresses: [127.0.100.2]\n    \
                    group: web\n    nodes: { zone: dmz }\n";
    apply(&shared, "anna", &SHOP.replace("addresses: [127.0.100.1]\n", labelled)).await;
    enrol(&fake, "judge", NodeRole::Witness, &[]);
    let idle = enrol(&fake, "idle", NodeRole::Full, &[("zone", "dmz")]);
    fake.apply(Command::SetNode { node: idle, admin: NodeAdmin::Drain, author: Author::default(), expect: None });
    enrol(&fake, "dead", NodeRole::Full, &[("zone", "dmz")]);
    let to = |vip: &str, node: &str, validate_only| {
        let (vip, node) = (vip.to_owned(), node.to_owned());
        from("anna", MoveVipRequest { vip, node, validate_only, ..MoveVipRequest::default() })
    };
    for (vip, node, why, remedy) in [
        ("public", "judge", "cannot go to judge: it is a witness", "ballastctl node list"),
        ("public", "idle", "cannot go to idle: it is drained", "ballastctl node enable idle"),
        ("beside", "node-1", "cannot go to node-1: it lacks the label zone=dmz", "may hold it: dead"),
        ("public", "node-1", "zone=dmz, which VIP beside of its group asks for", "may hold it: dead"),
        ("public", "dead", "cannot go to dead: it does not answer", "ballastctl cluster status"),
    ] {
        for validate_only in [true, false] {
            let answer = VipService::r#move(&shared, to(vip, node, validate_only)).await;
            let message = answer.as_ref().map_or_else(|status| status.message().to_owned(), |_| String::new());
            assert!(message.contains(why), "{message}");
            let detail = refused(answer, Code::FailedPrecondition, "BALLAST-A007");
            assert_eq!(detail.subject, node);
            assert!(detail.remedies.iter().any(|known| known.contains(remedy)), "{:?}", detail.remedies);
        }
    }
    assert!(fake.read(|state| state.vips().all(|(id, _)| state.vip_wish(id).is_none())), "nothing is wished");
    // Without the group there is nothing against it.
    apply(&shared, "anna", SHOP).await;
    VipService::r#move(&shared, to("public", "node-1", false)).await.expect("it may be there");
}

#[tokio::test]
async fn a_vip_is_not_wanted_where_the_node_says_that_it_cannot_hold_it() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let vip = fake.read(|state| state.vips().next().expect("a VIP").0);
    let standing = |fitness| VipStatus {
        vip,
        holder: None,
        epoch: Epoch::default(),
        until: BootNanos::default(),
        rank: Some(0),
        best: None,
        reason: PlacementReason::Spread,
        fitness,
        why: "",
        fresh_as_of: None,
    };
    let to =
        || from("anna", MoveVipRequest { vip: "public".into(), node: "node-1".into(), ..MoveVipRequest::default() });
    *fake.fitness.lock() = (Fitness::Fit, vec![standing(Fitness::Unfit(Unfitness::LinkDown))]);
    let answer = VipService::r#move(&shared, to()).await;
    let message = answer.as_ref().map_or_else(|status| status.message().to_owned(), |_| String::new());
    assert!(message.contains("VIP public cannot go to node-1: its link is down"), "{message}");
    let detail = refused(answer, Code::FailedPrecondition, "BALLAST-A007");
    assert!(detail.remedies.iter().any(|remedy| remedy.contains("vip list -o wide")), "{:?}", detail.remedies);
    assert!(fake.read(|state| state.vip_wish(vip).is_none()), "nothing is wished");
    // One that would rather not may be told to.
    *fake.fitness.lock() = (Fitness::Fit, vec![standing(Fitness::Reluctant(Unfitness::GatewayUnreachable))]);
    VipService::r#move(&shared, to()).await.expect("it may be there");
}

#[tokio::test]
async fn without_a_quorum_a_list_says_how_to_see_what_the_node_knows() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    fake.cut_off.store(true, Ordering::Relaxed);
    let list = |consistency: ReadConsistency| {
        VipService::list(&shared, from("anna", ListVipsRequest { consistency: consistency.into() }))
    };
    let detail = refused(list(ReadConsistency::Linearizable).await, Code::Unavailable, "BALLAST-A012");
    assert!(detail.remedies.iter().any(|remedy| remedy.contains("--consistency stale")), "{:?}", detail.remedies);
    assert_eq!(list(ReadConsistency::Stale).await.expect("a list").into_inner().vips.len(), 1);
}

#[tokio::test]
async fn a_plan_for_a_node_that_holds_nothing_says_why() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let vip = fake.read(|state| state.vips().next().expect("a VIP").0);
    *fake.leases.lock() = Some(picture(vip, 1));
    enrol(&fake, "judge", NodeRole::Witness, &[]);
    let request = PlanFailoverRequest { node: "judge".to_owned(), ..PlanFailoverRequest::default() };
    let plans = VipService::plan_failover(&shared, from("anna", request)).await.expect("planned").into_inner().plans;
    let [plan] = plans.as_slice() else { panic!("one node: {plans:?}") };
    assert!(plan.moves.is_empty());
    for part in ["judge is a witness: it holds no VIP", "judge does not answer already"] {
        assert!(plan.warnings.iter().any(|warning| warning.contains(part)), "{:?}", plan.warnings);
    }
}

#[tokio::test]
async fn a_lease_is_shortened_only_as_far_as_the_nodes_can_keep_it() {
    let fake = Fake::new();
    let shared = fake.shared();
    let document = |lease: &str| format!("version: 1\ncluster: {{ lease: {lease} }}\n");
    let request = |lease: &str| ApplyRequest { source: document(lease), ..ApplyRequest::default() };
    *fake.lease_wake_late.lock() = Duration::from_millis(21);
    // The lease that nobody wrote is in force before the first document.
    let detail = refused(shared.apply(from("anna", request("50ms"))).await, Code::InvalidArgument, "BALLAST-A001");
    let [mistake] = detail.mistakes.as_slice() else { panic!("one mistake: {detail:?}") };
    assert_eq!(mistake.path, "cluster.lease");
    assert!(mistake.problem.contains("node-1") && mistake.problem.contains("21.0 ms"), "{}", mistake.problem);
    assert!(mistake.remedy.contains("143ms"), "{}", mistake.remedy);
    assert_eq!(fake.read(|state| state.revision().get()), 0);
    let request_to_check = ValidateRequest { source: document("50ms") };
    let validated = shared.validate(from("anna", request_to_check)).await.expect("an answer").into_inner();
    assert_eq!((validated.valid, validated.mistakes.as_slice()), (false, detail.mistakes.as_slice()));
    for lease in ["150ms", "143ms"] {
        shared.apply(from("anna", request(lease))).await.expect("long enough");
    }
    // The machine gets worse: what is in force stays, and longer is always taken.
    *fake.lease_wake_late.lock() = Duration::from_millis(500);
    for lease in ["143ms", "200ms"] {
        shared.apply(from("anna", request(lease))).await.expect("not shortened");
    }
    *fake.lease_wake_late.lock() = Duration::from_millis(7);
    shared.apply(from("anna", request("50ms"))).await.expect("a quiet machine keeps the shortest lease");
}

#[tokio::test]
async fn a_node_that_does_not_say_how_late_it_is_is_named_when_the_lease_is_shortened() {
    let fake = Fake::new();
    let shared = fake.shared();
    enrol(&fake, "judge", NodeRole::Witness, &[]);
    let lease = |lease: &str, validate_only| {
        let source = format!("version: 1\ncluster: {{ lease: {lease} }}\n");
        from("anna", ApplyRequest { source, validate_only, ..ApplyRequest::default() })
    };
    let answer = shared.apply(lease("150ms", false)).await.expect("taken").into_inner();
    assert!(answer.warnings.is_empty(), "a witness holds no VIP");
    enrol(&fake, "starved", NodeRole::Full, &[]);
    for validate_only in [true, false] {
        let answer = shared.apply(lease("100ms", validate_only)).await.expect("taken").into_inner();
        let [warning] = answer.warnings.as_slice() else { panic!("one warning: {:?}", answer.warnings) };
        assert_eq!((warning.severity(), warning.path.as_str()), (Severity::Warning, "cluster.lease"));
        assert!(warning.problem.contains("starved") && !warning.problem.contains("judge"), "{}", warning.problem);
    }
    let request = ValidateRequest { source: "version: 1\ncluster: { lease: 60ms }\n".to_owned() };
    let validated = shared.validate(from("anna", request)).await.expect("an answer").into_inner();
    assert!(validated.valid && validated.mistakes[0].problem.contains("starved"), "{validated:?}");
    let answer = shared.apply(lease("100ms", false)).await.expect("taken").into_inner();
    assert!(answer.warnings.is_empty(), "it is no shorter than what is in force");
}

#[tokio::test]
async fn whoever_goes_back_to_a_lease_that_is_too_short_now_is_warned() {
    let fake = Fake::new();
    let shared = fake.shared();
    for lease in ["50ms", "200ms"] {
        apply(&shared, "anna", &format!("version: 1\ncluster: {{ lease: {lease} }}\n")).await;
    }
    *fake.lease_wake_late.lock() = Duration::from_millis(21);
    for validate_only in [true, false] {
        let request = RollbackRequest { validate_only, ..RollbackRequest::default() };
        let answer = shared.rollback(from("anna", request)).await.expect("it goes back").into_inner();
        let [warning] = answer.warnings.as_slice() else { panic!("one warning: {:?}", answer.warnings) };
        assert_eq!((warning.severity(), warning.path.as_str()), (Severity::Warning, "cluster.lease"));
        assert!(warning.problem.contains("node-1") && warning.problem.contains("21.0 ms"), "{}", warning.problem);
    }
    assert_eq!(fake.read(|state| state.document().map(|document| document.cluster.lease.as_millis())), Some(50));
}

#[tokio::test]
async fn a_lease_that_the_nodes_cannot_keep_any_more_is_a_problem_of_the_cluster() {
    let fake = Fake::new();
    let shared = fake.shared();
    let problems = async |late: u64| {
        *fake.lease_wake_late.lock() = Duration::from_millis(late);
        let status = shared.status(from("anna", StatusRequest::default())).await.expect("a status").into_inner();
        let of_lease = status.problems.iter().filter(|problem| problem.starts_with("cluster.lease: ")).cloned();
        (status.health(), of_lease.collect::<Vec<_>>())
    };
    assert_eq!(problems(500).await, (Health::Ok, Vec::new()), "without VIPs it is nothing to anybody");
    *fake.lease_wake_late.lock() = Duration::ZERO;
    apply(&shared, "anna", &SHOP.replace("version: 1\n", "version: 1\ncluster: { lease: 50ms }\n")).await;
    assert_eq!(problems(7).await.1, Vec::<String>::new());
    let (health, found) = problems(21).await;
    let [problem] = found.as_slice() else { panic!("one problem: {found:?}") };
    assert_eq!(health, Health::Degraded);
    for said in ["50ms", "node node-1", "21.0 ms", "143ms"] {
        assert!(problem.contains(said), "{said}: {problem}");
    }
}
