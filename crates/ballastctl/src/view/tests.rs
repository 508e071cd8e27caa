//! Golden texts: what an operator sees for known answers, and the names that scripts rely on.

use ballast_proto::admin::v1::{self as proto, config_change::Kind};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use super::*;

const PLAIN: Style = Style { wide: false, color: false };

#[track_caller]
fn check(view: &impl View, wanted: &str) {
    let text = view.text(PLAIN);
    assert_eq!(text.trim_end(), wanted.trim_matches('\n'), "is:\n{text}");
}

/// 2026-01-02T03:04:05.678Z.
fn moment() -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_767_323_045, nanos: 678_000_000 })
}

fn by(author: &str, message: &str) -> Option<proto::Change> {
    Some(proto::Change { log_index: 42, log_time: moment(), author: author.to_owned(), message: message.to_owned() })
}

fn header() -> Option<proto::ResponseHeader> {
    Some(proto::ResponseHeader {
        cluster_id: "c1".to_owned(),
        node_id: 1,
        node_name: "node-1".to_owned(),
        applied_index: 42,
        log_time: moment(),
        leader_id: 2,
        term: 3,
        revision: 5,
        consistency: 0,
    })
}

fn node(id: u64) -> proto::NodeStatus {
    proto::NodeStatus {
        node: Some(proto::Node {
            id,
            name: format!("node-{id}"),
            role: proto::NodeRole::Full.into(),
            admin: proto::NodeAdmin::Ready.into(),
            version: "0.1.0".to_owned(),
            ..proto::Node::default()
        }),
        reachable: true,
        voter: true,
        leader: id == 2,
        term: 3,
        leader_id: 2,
        applied_index: 42,
        serving_revision: 5,
        state_hash: "abcd".to_owned(),
        state_hash_index: 42,
        ready: true,
        ..proto::NodeStatus::default()
    }
}

fn vip() -> proto::Vip {
    proto::Vip {
        name: "public".to_owned(),
        id: 1,
        addresses: vec!["127.0.100.1".to_owned()],
        owner_id: 1,
        owner_name: "node-1".to_owned(),
        epoch: 7,
        cause: "placement".to_owned(),
        since: by("ballastd@node-1", ""),
        ..proto::Vip::default()
    }
}

fn status() -> proto::StatusResponse {
    let mut holder = node(1);
    holder.vips = vec![proto::HeldVip {
        vip: "public".to_owned(),
        epoch: 9,
        remaining: Some(Duration { seconds: 0, nanos: 150_000_000 }),
    }];
    let mut gone = node(3);
    (gone.reachable, gone.ready, gone.error) = (false, false, "connection refused".to_owned());
    proto::StatusResponse {
        header: header(),
        health: proto::status_response::Health::Degraded.into(),
        problems: vec!["node-3 does not answer".to_owned()],
        leader_id: 2,
        term: 3,
        voters: vec![1, 2, 3],
        quorum: 2,
        nodes: vec![holder, node(2), gone],
        vips: vec![vip()],
        voters_wanted: 3,
        ..proto::StatusResponse::default()
    }
}

fn diff() -> proto::ConfigDiff {
    let change = |kind: Kind, path: &str, before: &str, after: &str| proto::ConfigChange {
        kind: kind.into(),
        path: path.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
    };
    proto::ConfigDiff {
        from_revision: 4,
        to_revision: 5,
        changes: vec![
            change(Kind::Changed, "farms/shop/services/site/backends/web1/weight", "100", "50"),
            change(
                Kind::Added,
                "farms/shop/services/site/backends/web3",
                "",
                r#"{"name":"web3","address":"127.0.0.1:9003","weight":100}"#,
            ),
            change(Kind::Removed, "vips/old", r#"{"name":"old"}"#, ""),
        ],
        unified: "@@ -1 +1 @@\n-weight: 100\n+weight: 50\n".to_owned(),
        made_by: by("alice", "less for web1"),
    }
}

fn backend() -> proto::Backend {
    proto::Backend {
        name: "shop/site/web1".to_owned(),
        id: 4,
        farm: "shop".to_owned(),
        service: "site".to_owned(),
        backend: "web1".to_owned(),
        address: "127.0.0.1:9001".to_owned(),
        admin: proto::BackendAdmin::Drain.into(),
        verdict: proto::Verdict::Up.into(),
        verdict_time: moment(),
        weight: 50,
        document_weight: 100,
        weight_override: Some(50),
        bindings: 12,
        change: by("alice", "maintenance window"),
        reports: vec![proto::HealthReport {
            node_id: 1,
            node_name: "node-1".to_owned(),
            verdict: proto::Verdict::Up.into(),
            detail: "http 200 in 2 ms".to_owned(),
            log_time: moment(),
        }],
        ..proto::Backend::default()
    }
}

#[test]
fn status_shows_leader_nodes_and_vips() {
    check(
        &StatusView::from(&status()),
        "
cluster   c1
health    degraded
leader    node-2, term 3
voters    3 of 3 wanted, majority is 2
revision  5
answered  by node-1 at log index 42
  ! node-3 does not answer

NODE    ID  ROLE  STATE        ADMIN  READY  APPLIED  LAG  SERVES  VIPS    REMARK
node-1   1  full  voter        ready  yes         42    0       5  public  -
node-2   2  full  leader       ready  yes         42    0       5  -       -
node-3   3  full  unreachable  ready  -            -    -       -  -       connection refused

VIP     ADDRESSES    OWNER   LEASE MS
public  127.0.100.1  node-1       150
",
    );
}

fn check_of(response: &proto::StatusResponse, exit: u8, wanted: &str) {
    let view = CheckView::from(response);
    assert_eq!((view.status.exit().code(), view.well), (exit, exit == 0));
    check(&view, wanted);
}

#[test]
fn a_check_says_what_is_wrong_a_line_each() {
    let trouble = |object: &str, problem: &str, remedy: &str| proto::Trouble {
        object: object.to_owned(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
        severity: proto::trouble::Severity::Warning.into(),
    };
    let troubles = vec![
        trouble("node node-3", "node node-3 does not answer", "start ballastd there"),
        trouble("cluster", "the nodes' states differ: report it", ""),
    ];
    let sick = proto::StatusResponse { troubles, ..status() };
    let lines = "node node-3 does not answer (try: start ballastd there)\nthe nodes' states differ: report it";
    check_of(&sick, 1, &format!("WARNING - 2 troubles\n{lines}"));
    let json = serde_json::to_value(CheckView::from(&sick)).expect("JSON");
    contains(&json, &json!({ "status": "warning", "well": false, "leader_name": "node-2", "voters": 3, "vips": 1 }));
    contains(&json["troubles"][0], &json!({ "object": "node node-3", "remedy": "start ballastd there" }));
    // The worst comes first.
    let mut worse = sick;
    let severity = proto::trouble::Severity::Critical.into();
    worse.troubles.push(proto::Trouble { severity, ..trouble("VIP public", "VIP public is held by nobody", "") });
    check_of(&worse, 2, &format!("CRITICAL - 3 troubles\nVIP public is held by nobody\n{lines}"));
    let json = serde_json::to_value(CheckView::from(&worse)).expect("JSON");
    contains(&json["troubles"][0], &json!({ "object": "VIP public", "critical": true }));
    // A node of an earlier version has no troubles, but its word for the whole.
    check_of(&status(), 1, "WARNING - node-3 does not answer");
    let health = proto::status_response::Health::NoQuorum.into();
    check_of(&proto::StatusResponse { health, ..status() }, 2, "CRITICAL - node-3 does not answer");
    let well = proto::StatusResponse { problems: Vec::new(), ..status() };
    check_of(&well, 0, "OK - node-2 leads, voters: 3, VIPs: 1");
}

#[test]
fn status_without_a_leader_says_what_that_means() {
    let text = StatusView::from(&proto::StatusResponse { leader_id: 0, ..status() }).text(PLAIN);
    assert!(text.contains("leader    none: nothing can be changed"), "{text}");
}

#[test]
fn status_of_a_leader_without_a_majority_says_what_that_means() {
    let health = proto::status_response::Health::NoQuorum.into();
    let text = StatusView::from(&proto::StatusResponse { health, ..status() }).text(PLAIN);
    assert!(text.contains("leader    node-2 has lost its majority: nothing can be changed"), "{text}");
}

#[test]
fn status_keeps_its_promises_to_scripts() {
    let json = serde_json::to_value(StatusView::from(&status())).expect("JSON");
    let wanted = json!({
        "cluster_id": "c1", "node": 1, "leader": 2, "leader_name": "node-2", "term": 3, "revision": 5, "applied_index": 42,
        "state_hash": "abcd", "health": "degraded", "log_time": "2026-01-02T03:04:05.678Z"
    });
    contains(&json, &wanted);
    contains(
        &json["nodes"][0],
        &json!({
            "id": 1, "name": "node-1", "role": "full", "state": "voter", "voter": true, "reachable": true, "applied_index": 42, "lag": 0,
            "vips": ["public"], "serving_revision": 5
        }),
    );
    contains(&json["nodes"][2], &json!({ "state": "unreachable", "reachable": false, "error": "connection refused" }));
}

#[track_caller]
fn contains(json: &Value, wanted: &Value) {
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(&json[key], value, "{key} in {json}");
    }
}

#[test]
fn a_holders_own_word_counts_when_its_epoch_is_newer() {
    let mut nodes = status().nodes;
    let view = VipView::new(&proto::Vip { owner_id: 3, owner_name: "node-3".to_owned(), ..vip() }, &nodes);
    let wanted = json!({
        "name": "public", "addresses": ["127.0.100.1"], "owner": 1, "owner_name": "node-1", "epoch": 9, "lease_remaining_ms": 150,
        "wish": null, "why": "placement"
    });
    contains(&serde_json::to_value(&view).expect("JSON"), &wanted);
    nodes[0].vips[0].epoch = 6;
    let view = VipView::new(&vip(), &nodes);
    assert_eq!((view.epoch, view.lease_remaining_ms), (7, None), "an older claim is not believed");
}

#[test]
fn a_history_names_owners_and_says_what_is_removed() {
    let told = |owner_id: u64, owner_name: &str, removed| {
        TransitionView::from(&proto::VipTransition {
            vip: "public".to_owned(),
            owner_id,
            owner_name: owner_name.to_owned(),
            epoch: 9,
            cause: "node-1 handed it over".to_owned(),
            change: by("ballastd@node-1", ""),
            removed,
        })
    };
    check(
        &List(vec![told(2, "node-2", false), told(5, "", true), told(0, "", true)]),
        "
TIME                  VIP               OWNER           EPOCH  WHY
2026-01-02T03:04:05Z  public            node-2              9  node-1 handed it over
2026-01-02T03:04:05Z  public (removed)  id 5 (removed)      9  node-1 handed it over
2026-01-02T03:04:05Z  public (removed)  nobody              9  node-1 handed it over
",
    );
    let line = told(5, "", true).text(PLAIN);
    assert!(line.contains("public (removed) -> id 5 (removed), epoch 9: node-1 handed it over"), "{line}");
}

#[test]
fn a_vip_that_nobody_holds_is_told_so() {
    let nobody = proto::Vip { owner_id: 0, owner_name: String::new(), cause: "released: draining".to_owned(), ..vip() };
    check(
        &List(vec![VipView::new(&nobody, &[])]),
        "
VIP     ADDRESSES    OWNER   SINCE                 WISH  WHY
public  127.0.100.1  nobody  2026-01-02T03:04:05Z  -     released: draining
",
    );
}

#[test]
fn an_owner_that_nobody_vouches_for_is_only_the_last_one() {
    let mut nodes = status().nodes;
    nodes.iter_mut().for_each(|status| status.vips.clear());
    let view = VipView::new(&proto::Vip { owner_id: 2, owner_name: "node-2".to_owned(), ..vip() }, &nodes);
    let wanted = json!({ "owner": 0, "owner_name": null, "last_owner": "node-2", "lease_remaining_ms": null });
    contains(&serde_json::to_value(&view).expect("JSON"), &wanted);
    check(
        &List(vec![view]),
        "
VIP     ADDRESSES    OWNER            SINCE                 WISH  WHY
public  127.0.100.1  - (last node-2)  2026-01-02T03:04:05Z  -     placement
",
    );
    let removed = proto::Vip { owner_id: 2, owner_name: String::new(), ..vip() };
    assert_eq!(VipView::new(&removed, &nodes).last_owner.as_deref(), Some("id 2 (removed)"));
    // Nobody was asked, or nobody answered: the log is all there is.
    nodes.iter_mut().for_each(|status| status.reachable = false);
    for nodes in [&nodes[..], &[]] {
        let view = VipView::new(&vip(), nodes);
        assert_eq!((view.owner_name.as_deref(), view.last_owner), (Some("node-1"), None));
    }
}

const WIDE: Style = Style { wide: true, color: false };

/// A holder whose gateway is silent, on an interface of its own for `public`.
fn troubled() -> proto::NodeStatus {
    let mut status = status().nodes[0].clone();
    let node = status.node.as_mut().expect("it has one");
    (node.vip_weight, node.mac) = (Some(50), "02:00:00:00:00:01".to_owned());
    node.vip_macs.insert("public".to_owned(), "02:00:00:00:00:02".to_owned());
    status.fitness = proto::Fitness::Fit.into();
    status.standings = vec![proto::VipStanding {
        vip: "public".to_owned(),
        fitness: proto::Fitness::Reluctant.into(),
        fitness_reason: "gateway_unreachable".to_owned(),
        fitness_detail: "its gateway does not answer".to_owned(),
        rank: 1,
        best_id: 1,
        placement: "stays where it is".to_owned(),
        stage: "this node holds it for want of a fit one".to_owned(),
        warning: String::new(),
    }];
    status
}

#[test]
fn a_vips_place_is_told_in_full_when_asked() {
    let vip = proto::Vip {
        group: "web".to_owned(),
        apart_from: vec!["spare".to_owned()],
        nodes: [("zone".to_owned(), "dmz".to_owned())].into(),
        failback_delay: Some(Duration { seconds: 30, nanos: 0 }),
        ..vip()
    };
    let view = VipView::new(&vip, &[troubled()]);
    let wanted = json!({
        "group": "web", "apart_from": ["spare"], "nodes": { "zone": "dmz" }, "failback_delay_ms": 30_000, "owner_mac": "02:00:00:00:00:02",
        "standings": [{
            "node": "node-1", "fitness": "reluctant", "reason": "gateway_unreachable", "detail": "its gateway does not answer", "rank": 1,
            "placement": "stays where it is", "stage": "this node holds it for want of a fit one", "warning": null
        }]
    });
    contains(&serde_json::to_value(&view).expect("JSON"), &wanted);
    let text = List(vec![view]).text(WIDE);
    for part in ["web", "spare", "zone=dmz", "02:00:00:00:00:02", "node-1 reluctant: its gateway does not answer"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}

#[test]
fn nodes_that_say_the_same_of_a_vip_stand_together() {
    let said = |id: u64, fitness: proto::Fitness, detail: &str, warning: &str| {
        let mut status = proto::NodeStatus { node: node(id).node, ..troubled() };
        let standing = &mut status.standings[0];
        (standing.fitness, standing.fitness_detail) = (fitness.into(), detail.to_owned());
        standing.warning = warning.to_owned();
        status
    };
    let down = "eth0 is down or has no carrier";
    let claimed = "02:00:00:00:09:09 claims 127.0.100.1 and is no node of this cluster";
    let nodes = [
        said(1, proto::Fitness::Unfit, down, ""),
        said(2, proto::Fitness::Fit, "", claimed),
        said(3, proto::Fitness::Unfit, down, claimed),
    ];
    let view = VipView::new(&vip(), &nodes);
    assert_eq!(view.trouble(), format!("node-1, node-3 unfit: {down}; node-2, node-3: {claimed}"));
}

#[test]
fn a_node_tells_what_it_is_as_a_place_for_vips() {
    let mut status = troubled();
    let view = |status: &proto::NodeStatus| NodeView::from(status);
    let wanted = json!({
        "vip_weight": 50, "fitness": "fit", "fitness_reason": null, "mac": "02:00:00:00:00:01", "vip_macs": { "public": "02:00:00:00:00:02" }
    });
    contains(&serde_json::to_value(view(&status)).expect("JSON"), &wanted);
    status.fitness = proto::Fitness::Unfit.into();
    (status.fitness_reason, status.fitness_detail) = ("link_down".to_owned(), "its link is down".to_owned());
    let text = List(vec![view(&status)]).text(WIDE);
    for part in ["WEIGHT", "unfit: its link is down", "02:00:00:00:00:01,public=02:00:00:00:00:02"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}

#[test]
fn backends_are_listed_with_what_is_wanted_of_them() {
    check(
        &List(vec![BackendView::from(&backend())]),
        "
BACKEND         ADDRESS         ADMIN  HEALTH  WEIGHT  BINDINGS  BACKUP
shop/site/web1  127.0.0.1:9001  drain  up         50*        12  -
",
    );
    let json = serde_json::to_value(BackendView::from(&backend())).expect("JSON");
    contains(
        &json,
        &json!({
            "farm": "shop", "service": "site", "name": "web1", "address": "127.0.0.1:9001", "admin": "drain", "verdict": "up", "weight": 50,
            "bindings": 12
        }),
    );
}

#[test]
fn one_backend_is_told_at_length() {
    check(
        &BackendDetail(BackendView::from(&backend())),
        "
backend     shop/site/web1
address     127.0.0.1:9001
admin       drain
health      up since 2026-01-02T03:04:05Z
weight      50 (the document says 100)
bindings    12, takes no new clients
changed by  alice at 2026-01-02T03:04:05Z: maintenance window

NODE    FINDS  LAST CHECK        TIME
node-1  up     http 200 in 2 ms  2026-01-02T03:04:05Z
",
    );
}

#[test]
fn a_diff_is_one_line_for_each_change() {
    check(
        &DiffView::from(&diff()),
        "
~ farms/shop/services/site/backends/web1/weight: 100 -> 50
+ farms/shop/services/site/backends/web3: 127.0.0.1:9003
- vips/old
",
    );
    check(&DiffView::from(&proto::ConfigDiff::default()), "no differences");
    let wide = DiffView::from(&diff()).text(Style { wide: true, color: false });
    assert!(wide.ends_with("@@ -1 +1 @@\n-weight: 100\n+weight: 50\n"), "{wide}");
}

#[test]
fn colours_say_what_happens() {
    let text = DiffView::from(&diff()).text(Style { wide: false, color: true });
    assert!(text.contains("\x1b[31m- vips/old\x1b[0m"), "{text:?}");
}

#[test]
fn an_apply_says_what_it_changed() {
    let response =
        proto::ApplyResponse { revision: 5, changed: true, diff: Some(diff()), ..proto::ApplyResponse::default() };
    check(
        &ApplyView::new(&response, false),
        "
revision 5 is in force
  ~ farms/shop/services/site/backends/web1/weight: 100 -> 50
  + farms/shop/services/site/backends/web3: 127.0.0.1:9003
  - vips/old
",
    );
    let same = proto::ApplyResponse { revision: 5, ..proto::ApplyResponse::default() };
    check(&ApplyView::new(&same, false), "nothing to change: revision 5 says the same");
    assert!(ApplyView::new(&response, true).text(PLAIN).starts_with("would change revision 5:"));
}

#[test]
fn the_document_is_shown_with_what_operators_set_beside_it() {
    let response = proto::GetConfigResponse {
        header: header(),
        revision: Some(proto::Revision {
            revision: 5,
            change: by("alice", "less for web1"),
            source: "version: 1 # ours".to_owned(),
            document_json: r#"{"version":1}"#.to_owned(),
            ..proto::Revision::default()
        }),
        operator_state: Some(proto::OperatorState {
            backends: vec![proto::BackendOverride {
                name: "shop/site/web1".to_owned(),
                admin: proto::BackendAdmin::Drain.into(),
                weight: Some(50),
                change: by("bob", ""),
            }],
            pinned_bindings: 2,
            ..proto::OperatorState::default()
        }),
    };
    check(
        &ConfigView::from(&response),
        "
# revision 5, by alice at 2026-01-02T03:04:05Z: less for web1
version: 1 # ours
# set by operators beside the document; apply does not undo it:
#   backend shop/site/web1: drain, weight 50, by bob at 2026-01-02T03:04:05Z
#   2 bindings are pinned
",
    );
    let json = serde_json::to_value(ConfigView::from(&response)).expect("JSON");
    contains(&json, &json!({ "revision": 5, "author": "alice", "document": { "version": 1 } }));
}

#[test]
fn history_is_listed_newest_first() {
    let revision = |revision: u64, in_force: bool| {
        let change = by("alice", "less for web1");
        RevisionView::from(&proto::Revision { revision, in_force, change, ..proto::Revision::default() })
    };
    let list = List(vec![revision(5, true), revision(4, false)]);
    check(
        &list,
        "
REVISION      TIME                  AUTHOR  MESSAGE
5 (in force)  2026-01-02T03:04:05Z  alice   less for web1
4             2026-01-02T03:04:05Z  alice   less for web1
",
    );
    let json = serde_json::to_value(&list).expect("JSON");
    contains(
        &json[1],
        &json!({ "revision": 4, "author": "alice", "message": "less for web1", "time": "2026-01-02T03:04:05.678Z", "in_force": false }),
    );
}

#[test]
fn bindings_and_events_are_lists() {
    let binding = proto::Binding {
        service: "shop/site".to_owned(),
        key_hash: "0f".repeat(16),
        backend: "web1".to_owned(),
        expire_time: moment(),
        rehome_cause: "backend_down".to_owned(),
        ..proto::Binding::default()
    };
    check(
        &List(vec![BindingView::from(&binding)]),
        "
SERVICE    KEY HASH                          BACKEND  PINNED  ENDS                  MOVED BECAUSE
shop/site  0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f  web1     -       2026-01-02T03:04:05Z  backend_down
",
    );
    let event = proto::Event {
        kind: "BackendChanged".to_owned(),
        subject: "shop/site/web1".to_owned(),
        text: "drained".to_owned(),
        change: by("alice", "window"),
        ordinal: 0,
    };
    check(
        &List(vec![EventView::from(&event)]),
        "
TIME                  KIND            SUBJECT         AUTHOR  WHAT
2026-01-02T03:04:05Z  BackendChanged  shop/site/web1  alice   drained (window)
",
    );
    check(&List::<EventView>(Vec::new()), "no events");
}

#[test]
fn explain_says_what_follows_from_what() {
    let step = |subject: &str, text: &str, log_index: u64, author: &str, cause: &str| proto::ExplainStep {
        subject: subject.to_owned(),
        text: text.to_owned(),
        log_index,
        log_time: moment().filter(|_| log_index > 0),
        author: author.to_owned(),
        cause: cause.to_owned(),
    };
    let response = proto::ExplainResponse {
        header: header(),
        steps: vec![
            step("service", "site takes it: no other matches", 0, "", ""),
            step("binding", "bound to web2", 40, "alice", "moved by an operator"),
        ],
        conclusion: "goes to shop/site/web2".to_owned(),
        result: proto::explain_response::Result::Bound.into(),
        backend: "shop/site/web2".to_owned(),
        ..proto::ExplainResponse::default()
    };
    check(
        &ExplainView::from(&response),
        "
goes to shop/site/web2

  service  site takes it: no other matches
  binding  bound to web2
           (log index 40, 2026-01-02T03:04:05Z, by alice, moved by an operator)

by node-1 at log index 42
",
    );
    contains(
        &serde_json::to_value(ExplainView::from(&response)).expect("JSON"),
        &json!({ "result": "bound", "backend": "shop/site/web2" }),
    );
}

#[test]
fn a_mistake_is_one_line_with_its_place() {
    let mistake = MistakeView {
        severity: "error",
        file: Some("shop.yaml".to_owned()),
        line: 3,
        column: 5,
        path: "farms[0].listeners[0].vip".to_owned(),
        problem: "there is no VIP named publik".to_owned(),
        remedy: "did you mean public?".to_owned(),
        code: String::new(),
    };
    assert_eq!(
        mistake.line(PLAIN),
        "shop.yaml:3:5: farms[0].listeners[0].vip: there is no VIP named publik (did you mean public?)"
    );
}

#[test]
fn an_unknown_number_of_a_newer_node_is_shown_as_it_is() {
    let view = BackendView::from(&proto::Backend { admin: 99, ..backend() });
    assert_eq!(view.admin, "unknown_99");
}

#[test]
fn session_keys_are_told_with_what_is_left_of_them() {
    let key = |name: &[u8], ttl: Option<i64>| proto::SessionKey {
        key: name.to_vec(),
        key_hash: "00000000000000ab".to_owned(),
        r#type: "hash".to_owned(),
        ttl: ttl.map(|seconds| Duration { seconds, nanos: 0 }),
        expire_time: ttl.and_then(|_| moment()),
        bytes: 300,
        length: 2,
    };
    let keys = [key(b"a", None), key(b"b\n", Some(59)), key(b"c", Some(3599)), key(b"d", Some(90_000))];
    check(
        &keys.iter().collect::<List<SessionKeyView>>(),
        r"
KEY    TYPE     TTL  MEMORY  LENGTH
a      hash       -     300       2
b\x0a  hash     59s     300       2
c      hash  59m59s     300       2
d      hash    1d1h     300       2
",
    );
    let fields = vec![proto::SessionField { name: b"f".to_vec(), value: b"\xffv".to_vec() }];
    let value = proto::session_value::Value::Fields(proto::SessionFields { fields });
    let detail = SessionKeyDetail::new(&proto::GetSessionKeyResponse {
        header: header(),
        key: Some(key(b"b", Some(60))),
        value: Some(proto::SessionValue { value: Some(value) }),
    });
    check(
        &detail,
        r"
b: hash, 2 fields, 300 B of memory
  hash 00000000000000ab
  ends in 1m0s, at 2026-01-02T03:04:05Z
  f = \xffv
",
    );
    let wanted = json!({
        "key": "b", "key_hash": "00000000000000ab", "type": "hash", "ttl_ms": 60_000,
        "expire_time": "2026-01-02T03:04:05.678Z", "bytes": 300, "length": 2, "value": { "f": r"\xffv" },
    });
    assert_eq!(serde_json::to_value(&detail).expect("JSON"), wanted);
}

#[test]
fn session_stats_show_how_full_the_store_is() {
    let keyspace = proto::Keyspace { name: "shop".to_owned(), database: 0, keys: 7, ending: 5, bytes: 2048 };
    let stats = proto::SessionStatsResponse {
        header: header(),
        enabled: true,
        keyspaces: vec![keyspace],
        bytes: 2048,
        memory_max: 4096,
        eviction: "noeviction".to_owned(),
        expired: 3,
        evicted: 0,
        changes: 12,
    };
    check(
        &SessionStatsView::from(&stats),
        "
memory   2048 B of 4KiB, 50 %; noeviction
expired  3
evicted  0
changes  12

KEYSPACE  DATABASE  KEYS  WITH AN END  MEMORY
shop             0     7            5    2048
",
    );
    let none = SessionStatsView::from(&proto::SessionStatsResponse { enabled: false, memory_max: 0, ..stats });
    assert!(none.text(PLAIN).starts_with("the document has no session store\n"));
}
