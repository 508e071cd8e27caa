use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use ballast_core::{
    ids::{NodeId, VipId},
    lease::{Epoch, Fitness, PlacementReason, Unfitness, VipStatus},
    state::{self, Author, Command, UserIdentity},
    time::{BootNanos, LogTime},
};
use ballast_proto::admin::v1::{
    self as proto, CreateJoinTokenRequest, DemoteNodeRequest, DrainNodeRequest, EnableNodeRequest, EnrolRequest,
    IssueUserRequest, ListNodesRequest, ListUsersRequest, NodeAdmin, NodeInfo, NodeRole, PromoteNodeRequest,
    ReadConsistency, RemoveNodeRequest, RenewNodeRequest, RevokeUserRequest, SnapshotRequest, StatusRequest,
    TransferLeaderRequest, certificate_service_server::CertificateService as _,
    cluster_service_server::ClusterService as _, enrol_service_server::EnrolService as _, status_response::Health,
};
use tonic::Code;

use super::{Fake, SHOP, apply, fake, from, refused};
use crate::{
    access::Caller,
    pki::{Credentials, Identity, JoinToken, Key, TokenSecret, UserRole},
    services::Shared,
    view,
};

async fn token(shared: &Shared, request_id: &str) -> JoinToken {
    let request = CreateJoinTokenRequest {
        ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        request_id: request_id.to_owned(),
        ..CreateJoinTokenRequest::default()
    };
    let answer = shared.create_join_token(from("anna", request)).await.expect("a token").into_inner();
    answer.token.parse().expect("our own token")
}

fn enrolment(token: &JoinToken, key: &Key, name: &str) -> EnrolRequest {
    EnrolRequest {
        token_secret: token.secret.as_bytes().to_vec(),
        csr_pem: key.request().expect("a request"),
        node: Some(NodeInfo {
            name: name.to_owned(),
            cluster_address: "127.0.0.1:2".to_owned(),
            admin_address: "127.0.0.1:3".to_owned(),
            ..NodeInfo::default()
        }),
    }
}

#[tokio::test]
async fn a_machine_with_a_token_becomes_a_node_once() {
    let fake = Fake::new();
    let shared = fake.shared();
    let token = token(&shared, "").await;
    assert_eq!((token.pin, token.addresses.as_slice()), (fake.authority.pin(), &["127.0.0.1:1".to_owned()][..]));
    let key = Key::generate().expect("a key");
    let answer = shared.enrol(from("nobody", enrolment(&token, &key, "node-2"))).await.expect("enrolled").into_inner();
    assert_eq!(answer.cluster_key, fake.cluster_key.as_bytes());
    assert_eq!(answer.members.len(), 2);
    let credentials =
        Credentials::new(&answer.certificate_pem, &answer.ca_certificate_pem, &key.to_pem()).expect("credentials");
    assert_eq!(*credentials.identity(), Identity::Node(NodeId::new(answer.node_id)));
    assert_eq!(
        (credentials.cluster_id(), answer.cluster_id.as_str()),
        (fake.authority.cluster_id(), fake.authority.cluster_id())
    );

    let again = shared.enrol(from("nobody", enrolment(&token, &key, "node-2"))).await.expect("a retry").into_inner();
    assert_eq!(again.node_id, answer.node_id);
    let other = Key::generate().expect("a key");
    let used = shared.enrol(from("nobody", enrolment(&token, &other, "node-3"))).await;
    refused(used, Code::PermissionDenied, "BALLAST-A016");
}

#[tokio::test]
async fn a_node_tells_what_it_is_as_a_place_for_vips() {
    let fake = Fake::new();
    let shared = fake.shared();
    let token = token(&shared, "").await;
    let key = Key::generate().expect("a key");
    let with = |weight, mac: &str| {
        let mut request = enrolment(&token, &key, "node-2");
        let node = request.node.as_mut().expect("it is there");
        (node.vip_weight, node.mac) = (weight, mac.to_owned());
        node.vip_macs.insert("dmz".to_owned(), "02:00:00:00:00:02".to_owned());
        request
    };
    for wrong in [with(Some(1001), ""), with(None, "02:00")] {
        refused(shared.enrol(from("nobody", wrong)).await, Code::InvalidArgument, "BALLAST-A002");
    }
    let right = with(Some(0), "02:00:00:00:00:01");
    let answer = shared.enrol(from("nobody", right)).await.expect("enrolled").into_inner();
    let [first, second] = answer.members.as_slice() else { panic!("two members") };
    assert_eq!((first.vip_weight, first.mac.as_str()), (Some(100), ""));
    assert_eq!((second.vip_weight, second.mac.as_str()), (Some(0), "02:00:00:00:00:01"));
    assert_eq!(second.vip_macs["dmz"], "02:00:00:00:00:02");
    let etag = |weight| {
        let mut info = fake::info("node-2", "127.0.0.1:0");
        info.vip.weight = weight;
        fake.apply(Command::UpdateNode { node: NodeId::new(second.id), info });
        fake.read(|state| view::node(state, state.node(NodeId::new(second.id)).expect("it is there")).etag)
    };
    assert_ne!(etag(1), etag(2));
}

#[tokio::test]
async fn a_node_tells_how_fit_it_is_and_why_not() {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", SHOP).await;
    let (vip, name) = fake.read(|state| state.vips().map(|(id, vip)| (id, vip.name.clone())).next().expect("a VIP"));
    let standing = VipStatus {
        vip,
        holder: None,
        epoch: Epoch::default(),
        until: BootNanos::default(),
        rank: Some(1),
        best: Some(NodeId::new(7)),
        reason: PlacementReason::Spread,
        fitness: Fitness::Unfit(Unfitness::LinkDown),
        why: "nobody is known to hold it, and this node may not",
        fresh_as_of: None,
    };
    let gone = VipStatus { vip: VipId::new(999), ..standing.clone() };
    *fake.fitness.lock() = (Fitness::Reluctant(Unfitness::GatewayUnreachable), vec![standing, gone]);
    let status = shared.status(from("anna", StatusRequest::default())).await.expect("a status").into_inner();
    let node = &status.nodes[0];
    assert_eq!((node.fitness(), node.fitness_reason.as_str()), (proto::Fitness::Reluctant, "gateway_unreachable"));
    let [standing] = node.standings.as_slice() else { panic!("one VIP is configured") };
    assert_eq!((standing.vip.as_str(), standing.fitness()), (name.as_str(), proto::Fitness::Unfit));
    assert_eq!((standing.fitness_reason.as_str(), standing.rank, standing.best_id), ("link_down", 2, 7));
    assert_eq!(standing.fitness_detail, "its link is down");
    assert_eq!(standing.warning, "");
    // Somebody else claims the VIP: told whatever the node is fit for, and not by whom it is told.
    fake.warnings.lock().insert(vip, "02:00:00:00:09:09 claims it".to_owned());
    let status = shared.status(from("anna", StatusRequest::default())).await.expect("a status").into_inner();
    let standing = &status.nodes[0].standings[0];
    assert_eq!(
        (standing.fitness_detail.as_str(), standing.warning.as_str()),
        ("its link is down", "02:00:00:00:09:09 claims it")
    );
    assert!(status.problems.contains(&format!("VIP {name}: 02:00:00:00:09:09 claims it")), "{:?}", status.problems);
    let cannot = format!("node node-1 cannot take VIP {name}: its link is down");
    assert!(status.problems.contains(&cannot), "{:?}", status.problems);
    // What it holds for want of a fit one is a problem of the cluster.
    let mut held = VipStatus::clone(&fake.fitness.lock().1[0]);
    (held.holder, held.fitness) = (Some(NodeId::new(1)), Fitness::Reluctant(Unfitness::GatewayUnreachable));
    fake.fitness.lock().1 = vec![held];
    let status = shared.status(from("anna", StatusRequest::default())).await.expect("a status").into_inner();
    let wanted = format!("VIP {name} is at node node-1 for want of a fit one: its gateway does not answer");
    assert!(status.problems.contains(&wanted), "{:?}", status.problems);
    let remedy = "mend the way to the gateway".to_owned();
    let severity = proto::trouble::Severity::Warning.into();
    let trouble = proto::Trouble { object: format!("VIP {name}"), problem: wanted, remedy, severity };
    assert!(status.troubles.contains(&trouble), "{:?}", status.troubles);
}

/// A node's public key is no secret: everybody who connects to it sees it.
#[tokio::test]
async fn the_cluster_key_is_only_for_who_has_the_nodes_own_token() {
    let fake = Fake::new();
    let shared = fake.shared();
    let token = token(&shared, "").await;
    let key = Key::generate().expect("a key");
    shared.enrol(from("nobody", enrolment(&token, &key, "node-2"))).await.expect("enrolled");
    let guess = EnrolRequest { token_secret: vec![0; 32], ..enrolment(&token, &key, "node-2") };
    refused(shared.enrol(from("nobody", guess)).await, Code::PermissionDenied, "BALLAST-A016");
}

#[tokio::test]
async fn enrolment_refuses_what_is_not_right_and_uses_no_token_up() {
    let fake = Fake::new();
    let shared = fake.shared();
    let token = token(&shared, "").await;
    let key = Key::generate().expect("a key");
    let good = || enrolment(&token, &key, "node-2");
    let bad = [
        (EnrolRequest { token_secret: vec![1; 31], ..good() }, Code::InvalidArgument, "BALLAST-A002"),
        (EnrolRequest { token_secret: vec![1; 32], ..good() }, Code::PermissionDenied, "BALLAST-A016"),
        (EnrolRequest { csr_pem: "nonsense".to_owned(), ..good() }, Code::InvalidArgument, "BALLAST-A002"),
        (EnrolRequest { node: None, ..good() }, Code::InvalidArgument, "BALLAST-A002"),
        (enrolment(&token, &key, ""), Code::InvalidArgument, "BALLAST-A002"),
        (enrolment(&token, &key, "node-1"), Code::AlreadyExists, "BALLAST-A006"),
    ];
    for (request, code, own) in bad {
        refused(shared.enrol(from("nobody", request)).await, code, own);
    }
    shared.enrol(from("nobody", good())).await.expect("the token is still good");
}

#[tokio::test]
async fn a_token_is_for_a_node_of_its_role() {
    let fake = Fake::new();
    let shared = fake.shared();
    for (token_for, says, remedy, name) in [
        (NodeRole::Witness, NodeRole::Full, "write role = \"witness\" there", "node-2"),
        (NodeRole::Full, NodeRole::Witness, "ballastctl node join-token --witness", "node-3"),
    ] {
        let request = CreateJoinTokenRequest { role: token_for.into(), ..CreateJoinTokenRequest::default() };
        let answer = shared.create_join_token(from("anna", request)).await.expect("a token").into_inner();
        let token: JoinToken = answer.token.parse().expect("our own token");
        let key = Key::generate().expect("a key");
        let with = |role: NodeRole| {
            let mut request = enrolment(&token, &key, name);
            request.node.as_mut().expect("it is there").role = role.into();
            request
        };
        let problem = refused(shared.enrol(from("nobody", with(says))).await, Code::InvalidArgument, "BALLAST-A002");
        assert_eq!(problem.subject, "role");
        assert!(problem.remedies[0].contains(remedy), "{problem:?}");
        // The token is still good.
        let answer = shared.enrol(from("nobody", with(token_for))).await.expect("enrolled").into_inner();
        let member = answer.members.iter().find(|member| member.id == answer.node_id).expect("it is a member");
        assert_eq!(member.role(), token_for);
    }
}

#[tokio::test]
async fn an_expired_token_says_so() {
    let fake = Fake::new();
    let shared = fake.shared();
    let token = token(&shared, "").await;
    fake.pass(Duration::from_secs(61));
    let key = Key::generate().expect("a key");
    let status = shared.enrol(from("nobody", enrolment(&token, &key, "node-2"))).await.expect_err("expired");
    assert!(status.message().contains("expired"), "{status:?}");
}

#[tokio::test]
async fn a_retry_gets_the_same_token() {
    let fake = Fake::new();
    let shared = fake.shared();
    let first = token(&shared, "one").await;
    assert_eq!(token(&shared, "one").await, first);
    assert_ne!(token(&shared, "two").await.secret, first.secret);
    assert_eq!(fake.read(|state| state.join_tokens().len()), 2);
    let key = Key::generate().expect("a key");
    shared.enrol(from("nobody", enrolment(&first, &key, "node-2"))).await.expect("enrolled");
    let request = CreateJoinTokenRequest { request_id: "one".to_owned(), ..CreateJoinTokenRequest::default() };
    refused(shared.create_join_token(from("anna", request)).await, Code::FailedPrecondition, "BALLAST-A007");
    let long = CreateJoinTokenRequest {
        ttl: Some(prost_types::Duration { seconds: 8 * 86400, nanos: 0 }),
        ..CreateJoinTokenRequest::default()
    };
    refused(shared.create_join_token(from("anna", long)).await, Code::InvalidArgument, "BALLAST-A002");
}

#[tokio::test]
async fn a_retry_gets_no_token_that_is_for_another_role_or_has_expired() {
    let fake = Fake::new();
    let shared = fake.shared();
    let first = token(&shared, "one").await;
    let again = |role: NodeRole| {
        let request_id = "one".to_owned();
        from("anna", CreateJoinTokenRequest { role: role.into(), request_id, ..CreateJoinTokenRequest::default() })
    };
    let witness = shared.create_join_token(again(NodeRole::Witness)).await;
    assert_eq!(refused(witness, Code::InvalidArgument, "BALLAST-A002").subject, "request_id");
    let same = shared.create_join_token(again(NodeRole::Full)).await.expect("a token").into_inner();
    assert_eq!(same.token.parse(), Ok(first));
    fake.pass(Duration::from_secs(61));
    let expired = shared.create_join_token(again(NodeRole::Full)).await;
    refused(expired, Code::FailedPrecondition, "BALLAST-A007");
    assert_eq!(fake.read(|state| state.join_tokens().len()), 1);
}

#[tokio::test]
async fn a_request_id_that_comes_again_makes_no_old_token_good() {
    let fake = Fake::new();
    let shared = fake.shared();
    let first = token(&shared, "one").await;
    let key = Key::generate().expect("a key");
    shared.enrol(from("nobody", enrolment(&first, &key, "node-2"))).await.expect("enrolled");
    // The state forgets it a day after its end, when another is made.
    fake.pass(Duration::from_secs(61 + 24 * 3600));
    token(&shared, "two").await;
    let again = token(&shared, "one").await;
    assert_ne!(again.secret, first.secret);
    let other = Key::generate().expect("a key");
    let used = shared.enrol(from("nobody", enrolment(&first, &other, "node-3"))).await;
    refused(used, Code::PermissionDenied, "BALLAST-A016");
    shared.enrol(from("nobody", enrolment(&again, &other, "node-3"))).await.expect("enrolled");
}

/// Of one that another node has on its way, this node has not heard when it makes its own.
#[tokio::test]
async fn of_two_tries_at_once_each_gets_the_token_that_came_first() {
    // Made a millisecond of log time before, when the other one is known to nobody, or at the same time.
    for (millis, tokens) in [(59_999, 2), (60_000, 1)] {
        let fake = Fake::new();
        let shared = fake.shared();
        let expires = fake.read(|state| state.log_time()).plus_millis(millis);
        let input = format!("anna\none\n{}", expires.as_millis());
        let first = TokenSecret::from_bytes(fake.cluster_key.derive("ballast join token", input.as_bytes()));
        let (hash, role, author) = (first.hash(), state::NodeRole::Full, Author::default());
        *fake.overtaken_by.lock() = Some(Command::CreateJoinToken { hash, expires, role, author });
        assert_eq!(token(&shared, "one").await.secret, first);
        assert_eq!(fake.read(|state| state.join_tokens().len()), tokens);
        assert_eq!(token(&shared, "one").await.secret, first);
    }
}

/// Adds a node that does not answer.
async fn second(fake: &Fake, shared: &Shared) -> u64 {
    let token = token(shared, "").await;
    let key = Key::generate().expect("a key");
    let request = enrolment(&token, &key, "node-2");
    let node = shared.enrol(from("nobody", request)).await.expect("enrolled").into_inner().node_id;
    // Port 0 refuses connections at once.
    let info = fake::info("node-2", "127.0.0.1:0");
    fake.apply(Command::UpdateNode { node: NodeId::new(node), info });
    node
}

#[tokio::test]
async fn wishes_for_nodes_are_set_and_ended() {
    let fake = Fake::new();
    let shared = fake.shared();
    let id = second(&fake, &shared).await;
    let node = || "node-2".to_owned();
    let drain = DrainNodeRequest { node: node(), message: "kernel".to_owned(), ..DrainNodeRequest::default() };
    let drained = shared.drain_node(from("bert", drain)).await.expect("drained").into_inner().node.expect("it");
    assert_eq!((drained.id, drained.admin()), (id, NodeAdmin::Drain));
    assert_eq!(drained.change.clone().expect("who").message, "kernel");
    let enable = EnableNodeRequest { node: id.to_string(), ..EnableNodeRequest::default() };
    let ready = shared.enable_node(from("bert", enable)).await.expect("enabled").into_inner().node.expect("it");
    assert_eq!(ready.admin(), NodeAdmin::Ready);
    let guarded = || {
        let (etag, request_id) = (ready.etag.clone(), "one".to_owned());
        from("bert", DemoteNodeRequest { node: node(), etag, request_id, ..DemoteNodeRequest::default() })
    };
    let demoted = shared.demote_node(guarded()).await.expect("demoted").into_inner().log_index;
    let drain = DrainNodeRequest { node: node(), ..DrainNodeRequest::default() };
    shared.drain_node(from("anna", drain)).await.expect("drained");
    let again = shared.demote_node(guarded()).await.expect("what it was answered, although the etag is old");
    assert_eq!(again.into_inner().log_index, demoted);
    let enable = EnableNodeRequest { node: node(), ..EnableNodeRequest::default() };
    shared.enable_node(from("anna", enable)).await.expect("enabled");
    let stale = PromoteNodeRequest { node: node(), etag: drained.etag, ..PromoteNodeRequest::default() };
    refused(shared.promote_node(from("bert", stale)).await, Code::Aborted, "BALLAST-A004");
    let promote = PromoteNodeRequest { node: node(), ..PromoteNodeRequest::default() };
    let promoted = shared.promote_node(from("bert", promote)).await.expect("promoted").into_inner();
    assert_eq!(promoted.node.expect("it").admin(), NodeAdmin::Promoted);
    assert!(!promoted.notes.is_empty());
    let rehearsed = DemoteNodeRequest { node: node(), validate_only: true, ..DemoteNodeRequest::default() };
    let rehearsed = shared.demote_node(from("bert", rehearsed)).await.expect("fine").into_inner();
    assert_eq!((rehearsed.node.expect("it").admin(), rehearsed.log_index), (NodeAdmin::Promoted, 0));
    let unknown = DrainNodeRequest { node: "node-99".to_owned(), ..DrainNodeRequest::default() };
    refused(shared.drain_node(from("bert", unknown)).await, Code::NotFound, "BALLAST-A005");
    let list = shared.list_nodes(from("a", ListNodesRequest::default())).await.expect("a list").into_inner().nodes;
    let names: Vec<_> = list.iter().map(|node| (node.name.as_str(), node.role())).collect();
    assert_eq!(names, [("node-1", NodeRole::Full), ("node-2", NodeRole::Full)]);
}

#[tokio::test]
async fn a_drain_ends_a_demotion_with_a_word_and_is_ended_by_none() {
    let fake = Fake::new();
    let shared = fake.shared();
    let id = NodeId::new(second(&fake, &shared).await);
    let node = || "node-2".to_owned();
    let demote = || from("bert", DemoteNodeRequest { node: node(), ..DemoteNodeRequest::default() });
    let drain = || from("bert", DrainNodeRequest { node: node(), ..DrainNodeRequest::default() });
    let enable = || from("bert", EnableNodeRequest { node: node(), ..EnableNodeRequest::default() });
    shared.demote_node(demote()).await.expect("demoted");
    let drained = shared.drain_node(drain()).await.expect("drained").into_inner();
    assert_eq!(drained.node.expect("it").admin(), NodeAdmin::Drain);
    assert!(drained.notes.iter().any(|note| note.contains("gets no vote while it is drained")), "{:?}", drained.notes);
    let problem = refused(shared.demote_node(demote()).await, Code::FailedPrecondition, "BALLAST-A007");
    assert!(problem.remedies[0].contains("`ballastctl node enable node-2`"), "{problem:?}");
    let promote = from("bert", PromoteNodeRequest { node: node(), ..PromoteNodeRequest::default() });
    refused(shared.promote_node(promote).await, Code::FailedPrecondition, "BALLAST-A007");
    assert_eq!(fake.read(|state| state.node(id).map(|node| node.admin)), Some(ballast_core::state::NodeAdmin::Drain));
    // A vote that was not taken yet stays.
    shared.enable_node(enable()).await.expect("enabled");
    shared.demote_node(demote()).await.expect("demoted");
    fake.voters.lock().insert(id);
    let notes = shared.drain_node(drain()).await.expect("drained").into_inner().notes;
    assert!(notes.iter().any(|note| note.contains("it keeps its vote")), "{notes:?}");
}

#[tokio::test]
async fn a_node_that_answers_is_removed_only_when_drained_or_by_force() {
    let fake = Fake::new();
    let shared = fake.shared();
    second(&fake, &shared).await;
    let remove = |node: &str, force| RemoveNodeRequest { node: node.to_owned(), force, ..RemoveNodeRequest::default() };
    refused(shared.remove_node(from("a", remove("node-1", false))).await, Code::FailedPrecondition, "BALLAST-A007");
    let removed =
        shared.remove_node(from("a", remove("node-2", false))).await.expect("it does not answer").into_inner();
    assert_eq!(removed.node.expect("it").name, "node-2");
    refused(shared.remove_node(from("a", remove("node-2", true))).await, Code::NotFound, "BALLAST-A005");
    let last = shared.remove_node(from("a", remove("node-1", true))).await;
    refused(last, Code::InvalidArgument, "BALLAST-A002");
}

/// What another node does comes to the log after this node has looked at the etag.
#[tokio::test]
async fn of_two_changes_of_a_node_with_one_etag_the_second_is_refused() {
    let fake = Fake::new();
    let shared = fake.shared();
    let id = NodeId::new(second(&fake, &shared).await);
    let node = || "node-2".to_owned();
    let etag = || fake.read(|state| view::node(state, state.node(id).expect("it is there")).etag);
    let admin = || fake.read(|state| state.node(id).map(|node| node.admin));
    let overtaken_by = |admin| {
        let author = Author::default();
        *fake.overtaken_by.lock() = Some(Command::SetNode { node: id, admin, author, expect: None });
    };
    overtaken_by(state::NodeAdmin::Promoted);
    let drain = DrainNodeRequest { node: node(), etag: etag(), ..DrainNodeRequest::default() };
    let detail = refused(shared.drain_node(from("bert", drain)).await, Code::Aborted, "BALLAST-A004");
    assert_eq!((detail.subject.as_str(), admin()), ("node-2", Some(state::NodeAdmin::Promoted)));
    overtaken_by(state::NodeAdmin::Demoted);
    let remove = RemoveNodeRequest { node: node(), etag: etag(), ..RemoveNodeRequest::default() };
    let detail = refused(shared.remove_node(from("bert", remove.clone())).await, Code::Aborted, "BALLAST-A004");
    assert_eq!((detail.subject.as_str(), admin()), ("node-2", Some(state::NodeAdmin::Demoted)));
    // Whoever does not ask is heard, and so is whoever has looked again.
    overtaken_by(state::NodeAdmin::Ready);
    let drain = DrainNodeRequest { node: node(), ..DrainNodeRequest::default() };
    shared.drain_node(from("bert", drain)).await.expect("drained");
    let remove = RemoveNodeRequest { etag: etag(), ..remove };
    shared.remove_node(from("bert", remove)).await.expect("removed");
    assert_eq!(admin(), None);
}

fn removal(request_id: &str) -> RemoveNodeRequest {
    let (node, request_id) = ("node-2".to_owned(), request_id.to_owned());
    RemoveNodeRequest { node, request_id, ..RemoveNodeRequest::default() }
}

#[tokio::test]
async fn a_removal_that_is_sent_again_is_answered_as_before() {
    let fake = Fake::new();
    let shared = fake.shared();
    second(&fake, &shared).await;
    let remove = removal("one");
    let ask = |request: &RemoveNodeRequest| shared.remove_node(from("bert", request.clone()));
    let first = ask(&remove).await.expect("removed").into_inner();
    let applied = fake.read(|state| state.applied());
    let again = ask(&remove).await.expect("the first answer").into_inner();
    assert_eq!((&again.node, again.log_index, &again.notes), (&first.node, first.log_index, &first.notes));
    assert_eq!(again.log_index, applied.get());
    assert_eq!(fake.read(|state| state.applied()), applied, "nothing is proposed again");
    // The node may be named otherwise.
    let id = first.node.as_ref().expect("it").id;
    let by_id = ask(&RemoveNodeRequest { node: id.to_string(), ..remove.clone() }).await;
    assert_eq!(by_id.expect("the first answer").into_inner().log_index, first.log_index);
    let next = RemoveNodeRequest { node: second(&fake, &shared).await.to_string(), ..removal("next") };
    let first = ask(&next).await.expect("removed").into_inner();
    let by_name = ask(&removal("next")).await.expect("the first answer").into_inner();
    assert_eq!((by_name.node, by_name.log_index), (first.node, first.log_index));
    // Of another node, by others, and under another id it is another request.
    let other = RemoveNodeRequest { node: "node-1".to_owned(), ..remove.clone() };
    refused(ask(&other).await, Code::InvalidArgument, "BALLAST-A002");
    refused(shared.remove_node(from("anna", remove.clone())).await, Code::NotFound, "BALLAST-A005");
    refused(ask(&removal("two")).await, Code::NotFound, "BALLAST-A005");
    let rehearsal = RemoveNodeRequest { validate_only: true, ..remove };
    refused(ask(&rehearsal).await, Code::NotFound, "BALLAST-A005");
}

#[tokio::test]
async fn a_removal_that_nobody_heard_of_is_told_to_whoever_sends_it_again() {
    let fake = Fake::new();
    let shared = fake.shared();
    let ask = |request: &RemoveNodeRequest| shared.remove_node(from("bert", request.clone()));
    let remove = removal("one");
    second(&fake, &shared).await;
    fake.loses_answers.store(true, Ordering::Relaxed);
    refused(ask(&remove).await, Code::DeadlineExceeded, "BALLAST-A009");
    let removed = fake.read(|state| state.applied());
    fake.loses_answers.store(false, Ordering::Relaxed);
    assert_eq!(ask(&remove).await.expect("it was removed").into_inner().log_index, removed.get());
    // The first is on its way still when the next has looked.
    let id = NodeId::new(second(&fake, &shared).await);
    let author = Author { name: "bert".to_owned(), ..Author::default() };
    let (admin, by) = (state::NodeAdmin::Demoted, author.clone());
    *fake.overtaken_by.lock() = Some(Command::SetNode { node: id, admin, author: by, expect: None });
    let etag = fake.read(|state| view::node(state, state.node(id).expect("it is there")).etag);
    refused(ask(&RemoveNodeRequest { etag, ..removal("two") }).await, Code::Aborted, "BALLAST-A004");
    *fake.overtaken_by.lock() = Some(Command::RemoveNode { node: id, author, lease_secret: None, expect: None });
    let answer = ask(&removal("two")).await.expect("it was removed").into_inner();
    let told = || fake.read(|state| state.events().next().map(|event| event.index.get()));
    assert_eq!(Some(answer.log_index), told());
    // It is the first, and another try overtakes it.
    let id = NodeId::new(second(&fake, &shared).await);
    let author = Author { name: "bert".to_owned(), ..Author::default() };
    *fake.overtaken_by.lock() = Some(Command::RemoveNode { node: id, author, lease_secret: None, expect: None });
    let answer = ask(&removal("three")).await.expect("it was removed").into_inner();
    assert_eq!(Some(answer.log_index), told());
}

#[tokio::test]
async fn a_removal_that_is_sent_again_is_not_of_another_node_that_has_the_name_now() {
    let fake = Fake::new();
    let shared = fake.shared();
    let ask = |request: &RemoveNodeRequest| shared.remove_node(from("bert", request.clone()));
    let remove = RemoveNodeRequest { force: true, ..removal("one") };
    let old = second(&fake, &shared).await;
    let (node, author) = (NodeId::new(old), Author { name: "anna".to_owned(), ..Author::default() });
    *fake.overtaken_by.lock() = Some(Command::RemoveNode { node, author, lease_secret: None, expect: None });
    refused(ask(&remove).await, Code::NotFound, "BALLAST-A005");
    refused(ask(&remove).await, Code::NotFound, "BALLAST-A005");
    let new = second(&fake, &shared).await;
    assert_ne!(new, old);
    let detail = refused(ask(&remove).await, Code::InvalidArgument, "BALLAST-A002");
    assert_eq!(detail.subject, "request_id");
    let by_id = RemoveNodeRequest { node: new.to_string(), ..remove.clone() };
    refused(ask(&by_id).await, Code::InvalidArgument, "BALLAST-A002");
    assert!(fake.read(|state| state.node(NodeId::new(new)).is_some()), "it is there still");
    let other = RemoveNodeRequest { request_id: "two".to_owned(), ..remove };
    assert_eq!(ask(&other).await.expect("removed").into_inner().node.expect("it").id, new);
}

#[tokio::test]
async fn a_node_is_removed_by_its_very_name_or_its_bare_id() {
    let fake = Fake::new();
    let shared = fake.shared();
    let id = second(&fake, &shared).await;
    fake.apply(Command::UpdateNode { node: NodeId::new(id), info: fake::info("web", "127.0.0.1:0") });
    let remove = |node: String| from("a", RemoveNodeRequest { node, ..RemoveNodeRequest::default() });
    let written_out = format!("node-{id}");
    let detail = refused(shared.remove_node(remove(written_out.clone())).await, Code::NotFound, "BALLAST-A005");
    assert!(detail.remedies.iter().any(|remedy| remedy.contains("web")), "{detail:?}");
    let drain = from("a", DrainNodeRequest { node: written_out, ..DrainNodeRequest::default() });
    let drained = shared.drain_node(drain).await.expect("what can be undone is found so").into_inner();
    assert_eq!(drained.node.expect("it").name, "web");
    let removed = shared.remove_node(remove(id.to_string())).await.expect("removed").into_inner();
    assert_eq!(removed.node.expect("it").name, "web");
}

#[tokio::test]
async fn a_request_id_that_is_too_long_is_refused() {
    use ballast_proto::admin::v1::{ApplyRequest, RotateCookieKeyRequest, config_service_server::ConfigService as _};
    fn too_long<T: std::fmt::Debug>(result: Result<tonic::Response<T>, tonic::Status>) {
        assert_eq!(refused(result, Code::InvalidArgument, "BALLAST-A002").subject, "request_id");
    }
    let fake = Fake::new();
    let shared = fake.shared();
    second(&fake, &shared).await;
    let before = fake.read(|state| state.applied());
    let id = || "x".repeat(129);
    too_long(shared.remove_node(from("bert", removal(&id()))).await);
    let rehearsal = RemoveNodeRequest { validate_only: true, ..removal(&id()) };
    too_long(shared.remove_node(from("bert", rehearsal)).await);
    let drain = DrainNodeRequest { node: "node-2".to_owned(), request_id: id(), ..DrainNodeRequest::default() };
    too_long(shared.drain_node(from("bert", drain)).await);
    let rotate = RotateCookieKeyRequest { request_id: id(), ..RotateCookieKeyRequest::default() };
    too_long(shared.rotate_cookie_key(from("bert", rotate)).await);
    let token = CreateJoinTokenRequest { request_id: id(), ..CreateJoinTokenRequest::default() };
    too_long(shared.create_join_token(from("bert", token)).await);
    let apply = ApplyRequest { source: SHOP.to_owned(), request_id: id(), ..ApplyRequest::default() };
    too_long(shared.apply(from("bert", apply)).await);
    assert_eq!(fake.read(|state| state.applied()), before);
    shared.remove_node(from("bert", removal(&"x".repeat(128)))).await.expect("removed");
}

#[tokio::test]
async fn a_vote_is_not_taken_away_when_the_rest_could_decide_nothing() {
    let fake = Fake::new();
    let shared = fake.shared();
    let id = NodeId::new(second(&fake, &shared).await);
    fake.voters.lock().insert(id);
    let remove = RemoveNodeRequest { node: "node-1".to_owned(), force: true, ..RemoveNodeRequest::default() };
    let problem = refused(shared.remove_node(from("a", remove)).await, Code::FailedPrecondition, "BALLAST-A007");
    assert!(problem.remedies.iter().any(|remedy| remedy.contains("node remove node-2")), "{problem:?}");
    let demote = DemoteNodeRequest { node: "node-1".to_owned(), ..DemoteNodeRequest::default() };
    refused(shared.demote_node(from("a", demote)).await, Code::FailedPrecondition, "BALLAST-A007");
    let gone = RemoveNodeRequest { node: "node-2".to_owned(), ..RemoveNodeRequest::default() };
    shared.remove_node(from("a", gone)).await.expect("node-1 goes on alone");
}

#[tokio::test]
async fn the_only_voter_keeps_its_vote_while_no_other_node_can_take_it() {
    let fake = Fake::new();
    let shared = fake.shared();
    second(&fake, &shared).await;
    let node = || "node-1".to_owned();
    let remove = |node, force| from("a", RemoveNodeRequest { node, force, ..RemoveNodeRequest::default() });
    let drain = DrainNodeRequest { node: node(), ..DrainNodeRequest::default() };
    shared.drain_node(from("a", drain)).await.expect("drained");
    for force in [false, true] {
        let problem =
            refused(shared.remove_node(remove(node(), force)).await, Code::FailedPrecondition, "BALLAST-A007");
        assert!(problem.remedies.iter().any(|remedy| remedy.contains("has caught up")), "{problem:?}");
    }
    let enable = EnableNodeRequest { node: node(), ..EnableNodeRequest::default() };
    shared.enable_node(from("a", enable)).await.expect("enabled");
    let demote = DemoteNodeRequest { node: node(), ..DemoteNodeRequest::default() };
    refused(shared.demote_node(from("a", demote)).await, Code::FailedPrecondition, "BALLAST-A007");
    assert!(fake.read(|state| state.node(NodeId::new(1)).is_some()), "it is there still");
    // The last node is none that another could follow.
    shared.remove_node(remove("node-2".to_owned(), false)).await.expect("it does not answer");
    let last = shared.remove_node(remove(node(), true)).await.expect_err("refused");
    assert!(last.message().contains("the last node cannot be removed"), "{last:?}");
}

#[tokio::test]
async fn a_certificate_that_ends_within_a_month_is_told_by_the_status() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let fake = Fake::new();
    let shared = fake.shared();
    let now = SystemTime::now();
    for (ends, told) in [(now + 31 * DAY, false), (now + 29 * DAY, true), (now - DAY, false)] {
        *fake.certificate_not_after.lock() = ends;
        let status = shared.status(from("a", StatusRequest::default())).await.expect("a status").into_inner();
        let health = if told { Health::Degraded } else { Health::Ok };
        assert_eq!((status.health(), status.problems.len()), (health, usize::from(told)), "{:?}", status.problems);
        let words = format!("the certificate of node node-1 ends on {} and was not renewed", crate::pki::day_of(ends));
        assert!(!told || status.problems[0].starts_with(&words), "{:?}", status.problems);
    }
}

#[tokio::test]
async fn status_is_not_well_before_a_change_of_the_voters_is_over() {
    let fake = Fake::new();
    let shared = fake.shared();
    let problems = async || {
        let status = shared.status(from("a", StatusRequest::default())).await.expect("a status").into_inner();
        assert_eq!(status.health() == Health::Ok, status.problems.is_empty());
        status.problems
    };
    assert_eq!(problems().await, Vec::<String>::new());
    fake.voters_changing.store(true, Ordering::Relaxed);
    assert!(problems().await.iter().any(|problem| problem.starts_with("the voters are being changed")));
    fake.voters_changing.store(false, Ordering::Relaxed);
    // It joined with entry 9, and the log is past it.
    for _ in 0..9 {
        fake.apply(Command::RotateCookieKey { secret: [7; 32].into(), author: Author::default() });
    }
    fake.voters.lock().insert(NodeId::new(9));
    let said = problems().await;
    assert!(said.iter().any(|problem| problem.starts_with("node 9 was removed and counts as a voter")), "{said:?}");
}

#[tokio::test]
async fn status_shows_who_answers_and_what_wants_attention() {
    let fake = Fake::new();
    let shared = fake.shared();
    let request = || StatusRequest { node_timeout: None, ..StatusRequest::default() };
    let status = shared.status(from("a", request())).await.expect("a status").into_inner();
    assert_eq!((status.health(), status.problems.as_slice()), (Health::Ok, &[][..]));
    assert_eq!((status.leader_id, status.voters.as_slice(), status.quorum), (1, &[1][..], 1));
    assert_eq!(status.nodes[0].state_hash, "abcd");
    second(&fake, &shared).await;
    apply(&shared, "anna", SHOP).await;
    let status = shared.status(from("a", request())).await.expect("a status").into_inner();
    assert_eq!(status.health(), Health::Degraded);
    let silent = &status.nodes[1];
    assert!(!silent.reachable && !silent.error.is_empty());
    assert_eq!(silent.node.as_ref().expect("who").name, "node-2");
    assert!(status.problems.iter().any(|problem| problem.contains("node-2 does not answer")), "{:?}", status.problems);
    assert!(status.problems.iter().any(|problem| problem.contains("VIP public is held by no node")));
    fake.cut_off.store(true, Ordering::Relaxed);
    refused(shared.status(from("a", request())).await, Code::Unavailable, "BALLAST-A012");
    let stale = StatusRequest { consistency: ReadConsistency::Stale.into(), ..StatusRequest::default() };
    let status = shared.status(from("a", stale)).await.expect("a status").into_inner();
    assert_eq!((status.health(), status.leader_id), (Health::NoQuorum, 0));
}

#[tokio::test]
async fn apply_with_wait_names_the_nodes_that_cannot_be_reached() {
    use ballast_proto::admin::v1::{ApplyRequest, config_service_server::ConfigService as _};
    let fake = Fake::new();
    let shared = fake.shared();
    second(&fake, &shared).await;
    let request = ApplyRequest { source: SHOP.to_owned(), wait: true, ..ApplyRequest::default() };
    let answer = shared.apply(from("anna", request)).await.expect("applied").into_inner();
    let [pending] = answer.pending_nodes.as_slice() else { panic!("{:?}", answer.pending_nodes) };
    assert_eq!((pending.name.as_str(), pending.reachable), ("node-2", false));
}

#[tokio::test]
async fn operations_on_the_node_itself_come_back_with_their_failure() {
    let fake = Fake::new();
    let shared = fake.shared();
    let made = shared.snapshot(from("a", SnapshotRequest::default())).await.expect("a snapshot").into_inner();
    assert_eq!((made.node_id, made.snapshot_index), (1, fake.read(|state| state.applied().get())));
    refused(
        shared.transfer_leader(from("a", TransferLeaderRequest::default())).await,
        Code::FailedPrecondition,
        "BALLAST-A007",
    );
    let to_itself = TransferLeaderRequest { node: "node-1".to_owned(), ..TransferLeaderRequest::default() };
    assert_eq!(shared.transfer_leader(from("a", to_itself)).await.expect("nothing to do").into_inner().to_node_id, 1);
    fake.cut_off.store(true, Ordering::Relaxed);
    refused(
        shared.transfer_leader(from("a", TransferLeaderRequest::default())).await,
        Code::Unavailable,
        "BALLAST-A008",
    );
}

#[tokio::test]
async fn certificates_are_revoked_by_user_or_by_fingerprint() {
    let fake = Fake::new();
    let shared = fake.shared();
    let key = Key::generate().expect("a key");
    for name in ["eve", "eve", "bob"] {
        let csr_pem = key.request().expect("a request");
        let (name, role) = (name.to_owned(), "viewer".to_owned());
        let request = IssueUserRequest { name, role, csr_pem, ..IssueUserRequest::default() };
        shared.issue_user(from("anna", request)).await.expect("issued");
    }
    let revoke = |user: &str, fingerprint: &str, validate_only| {
        let (user, fingerprint) = (user.to_owned(), fingerprint.to_owned());
        let request = RevokeUserRequest { user, fingerprint, validate_only, ..RevokeUserRequest::default() };
        shared.revoke_user(from("anna", request))
    };
    let of_eve = revoke("eve", "", true).await.expect("an answer").into_inner();
    assert!(of_eve.certificates.len() == 2 && of_eve.certificates.iter().all(|known| known.revoked.is_none()));
    let of_eve = revoke("eve", "", false).await.expect("revoked").into_inner();
    assert!(of_eve.certificates.iter().all(|known| known.revoked.is_some()) && of_eve.log_index > 0);
    let listed = shared.list_users(from("anna", ListUsersRequest::default())).await.expect("listed").into_inner();
    let bobs = &listed.certificates[0];
    assert_eq!((bobs.name.as_str(), &bobs.revoked), ("bob", &None));
    let one = revoke("", &bobs.fingerprint[..10].to_uppercase(), false).await.expect("revoked").into_inner();
    assert_eq!(one.certificates[0].name, "bob");
    revoke("", &"ab".repeat(32), false).await.expect("one that nobody recorded, in full");
    assert!(fake.read(|state| state.is_revoked(&[0xab; 32])));
    refused(revoke("", &"ac".repeat(16), false).await, Code::NotFound, "BALLAST-A005");
    refused(revoke("carol", "", false).await, Code::NotFound, "BALLAST-A005");
    for (user, fingerprint) in [("", ""), ("bob", "0123456789"), ("", "abc"), ("", "not hexadecimal")] {
        refused(revoke(user, fingerprint, false).await, Code::InvalidArgument, "BALLAST-A002");
    }
}

#[tokio::test]
async fn a_certificate_that_is_issued_while_its_user_is_revoked_is_revoked_too() {
    let fake = Fake::new();
    let shared = fake.shared();
    let issue = |fingerprint| {
        let (name, role) = ("bob".to_owned(), "viewer".to_owned());
        let not_after = LogTime::from_millis(u64::MAX / 2);
        let user = Box::new(UserIdentity { fingerprint, name, role, not_after });
        Command::IssueUser { user, author: Author::default() }
    };
    fake.apply(issue([1; 32]));
    *fake.overtaken_by.lock() = Some(issue([2; 32]));
    let request = RevokeUserRequest { user: "bob".to_owned(), ..RevokeUserRequest::default() };
    let answer = shared.revoke_user(from("anna", request)).await.expect("revoked").into_inner();
    assert!(answer.certificates.len() == 2 && answer.certificates.iter().all(|known| known.revoked.is_some()));
    assert!(fake.read(|state| state.is_revoked(&[1; 32]) && state.is_revoked(&[2; 32])));
}

#[tokio::test]
async fn certificates_are_made_for_people_and_renewed_for_nodes() {
    let fake = Fake::new();
    let shared = fake.shared();
    let key = Key::generate().expect("a key");
    let request = IssueUserRequest {
        name: "eve".to_owned(),
        role: "viewer".to_owned(),
        csr_pem: key.request().expect("a request"),
        ..IssueUserRequest::default()
    };
    let issued = shared.issue_user(from("anna", request.clone())).await.expect("issued").into_inner();
    let credentials =
        Credentials::new(&issued.certificate_pem, &issued.ca_certificate_pem, &key.to_pem()).expect("credentials");
    assert_eq!(
        *credentials.identity(),
        Identity::User { name: "eve".parse().expect("a name"), role: UserRole::Viewer }
    );
    assert_eq!(issued.fingerprint, view::fingerprint_text(&credentials.fingerprint()));
    let listed = shared.list_users(from("anna", ListUsersRequest::default())).await.expect("listed").into_inner();
    let [known] = &listed.certificates[..] else { panic!("one was issued: {listed:?}") };
    assert_eq!((known.name.as_str(), known.role.as_str(), &known.fingerprint), ("eve", "viewer", &issued.fingerprint));
    assert_eq!(known.issued.as_ref().map(|change| change.author.as_str()), Some("anna"));
    fake.cut_off.store(true, Ordering::Relaxed);
    refused(shared.issue_user(from("anna", request.clone())).await, Code::Unavailable, "BALLAST-A008");
    fake.cut_off.store(false, Ordering::Relaxed);
    for bad in [
        IssueUserRequest { name: "root@node-1".to_owned(), ..request.clone() },
        IssueUserRequest { role: "owner".to_owned(), ..request.clone() },
        IssueUserRequest { csr_pem: String::new(), ..request.clone() },
        IssueUserRequest { ttl: Some(prost_types::Duration { seconds: 826 * 86400, nanos: 0 }), ..request },
    ] {
        refused(shared.issue_user(from("anna", bad)).await, Code::InvalidArgument, "BALLAST-A002");
    }

    let renewal = || RenewNodeRequest { csr_pem: key.request().expect("a request") };
    refused(shared.renew_node(from("anna", renewal())).await, Code::PermissionDenied, "BALLAST-A014");
    let mut by_node = from("ballastd@node-1", renewal());
    let caller = Caller { node: Some(NodeId::new(1)), ..Caller::of(&by_node).expect("a caller") };
    by_node.extensions_mut().insert(caller);
    let renewed = shared.renew_node(by_node).await.expect("renewed").into_inner();
    let credentials =
        Credentials::new(&renewed.certificate_pem, &renewed.ca_certificate_pem, &key.to_pem()).expect("credentials");
    assert_eq!(*credentials.identity(), Identity::Node(NodeId::new(1)));
}
