//! One behaviour at a time.

use super::scenario::*;
use crate::{
    ids::{BackendId, LogIndex, NodeId, Revision, ServiceId},
    lease::LeaseKeys,
    persistence::{KeyHash, Provenance},
    plan::{self, AdminState, Verdict},
    state::*,
    time::LogTime,
};

const A: BackendId = BackendId::new(1);
const B: BackendId = BackendId::new(2);
const C: BackendId = BackendId::new(3);
const WEB: ServiceId = ServiceId::new(1);
const KEY: KeyHash = KeyHash::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);

fn bind(choice: BackendId) -> Command {
    Command::Bind { service: WEB, key: KEY, choice, replaces: None }
}

fn replacing(choice: BackendId, old: BackendId) -> Command {
    Command::Bind { service: WEB, key: KEY, choice, replaces: Some((old, RehomeCause::ConnectFailed)) }
}

fn admin(backend: BackendId, admin: AdminState) -> Command {
    Command::SetBackend { backend, admin: Some(admin), weight: None, author: author(), expect: None }
}

fn pin(to: Option<BackendId>, pinned: bool) -> Command {
    Command::SetBinding { service: WEB, key: KEY, to, pinned, author: author() }
}

fn report(node: u64, backend: BackendId, verdict: Verdict) -> Command {
    Command::ReportHealth { node: NodeId::new(node), backend, verdict, detail: "connect: refused".to_owned() }
}

fn bound(backend: BackendId, how: BindingChange) -> Outcome {
    Outcome::Bound { backend, how }
}

fn rehomed(backend: BackendId, cause: RehomeCause) -> Outcome {
    bound(backend, BindingChange::Rehomed(cause))
}

#[test]
fn nothing_but_init_is_accepted_first_and_init_only_once() {
    let mut s = Scenario::empty();
    assert!(matches!(s.run(Command::Tick), Outcome::Refused(Refusal::Invalid { .. })));
    assert_eq!(s.run(init()), Outcome::Enrolled { node: NodeId::new(1) });
    assert_eq!(s.run(init()), Outcome::Refused(Refusal::AlreadyInitialised));
}

#[test]
fn no_command_and_no_plan_shows_a_secret() {
    let mut s = Scenario::empty();
    let rotate = Command::RotateCookieKey { secret: [201; 32].into(), author: author() };
    let Command::InitCluster(mut init) = init() else { unreachable!("it is one") };
    (init.table_secret, init.cookie_secret, init.lease_secret) = ([202; 16].into(), [203; 32].into(), [204; 32].into());
    let entry = s.entry(vec![Command::InitCluster(init), rotate]);
    s.state.apply(LogIndex::new(1), &entry, &mut Vec::new());
    let shown = format!("{entry:?} {:?} {:?}", plan::compile(&s.state, NodeId::new(1), 1), s.state.snapshot());
    for secret in ["201", "202", "203", "204"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn first_writer_wins() {
    let mut s = Scenario::shop();
    assert_eq!(s.run(bind(A)), bound(A, BindingChange::Created));
    assert_eq!(s.run(bind(B)), bound(A, BindingChange::Existing));
    let view = s.state.tables().lookup(WEB, KEY, s.now).expect("bound");
    assert_eq!((view.backend, view.renew_due), (A, false));
    assert_eq!((s.state.bindings_of(A), s.state.bindings_of(B)), (1, 0));
}

#[test]
fn a_binding_moves_only_for_a_cause_the_state_sees() {
    let mut s = Scenario::shop();
    s.run(bind(A));
    assert_eq!(s.run(admin(A, AdminState::Drain)), Outcome::Done);
    assert_eq!(s.run(bind(B)), bound(A, BindingChange::Existing));
    s.run(admin(A, AdminState::Maintenance));
    assert_eq!(s.run(bind(B)), rehomed(B, RehomeCause::BackendMaintenance));
    s.run(report(1, B, Verdict::Down));
    assert_eq!(s.run(bind(A)), Outcome::Refused(Refusal::NotEligible));
    assert_eq!(s.run(bind(C)), rehomed(C, RehomeCause::BackendDown));
    s.run(apply_config(document(&["a", "b"], ""), "", None));
    s.run(admin(A, AdminState::Ready));
    assert_eq!(s.run(bind(A)), rehomed(A, RehomeCause::BackendRemoved));
    assert_eq!(s.state.table_info(WEB).expect("configured").totals.rehomed(RehomeCause::BackendDown), 1);
}

#[test]
fn connect_failure_moves_exactly_the_binding_that_was_seen() {
    let mut s = Scenario::shop();
    s.run(bind(A));
    assert_eq!(s.run(replacing(C, B)), bound(A, BindingChange::Existing));
    assert_eq!(s.run(replacing(B, A)), rehomed(B, RehomeCause::ConnectFailed));
    assert_eq!(s.run(replacing(C, A)), bound(B, BindingChange::Existing));
    s.run(pin(Some(B), true));
    assert_eq!(s.run(replacing(C, B)), bound(B, BindingChange::Existing));
}

#[test]
fn drained_down_weightless_and_foreign_backends_take_nothing_new() {
    let mut s = Scenario::shop();
    let refused = Outcome::Refused(Refusal::NotEligible);
    s.run(admin(A, AdminState::Drain));
    s.run(report(1, B, Verdict::Down));
    s.run(Command::SetBackend { backend: C, admin: None, weight: Some(Some(0)), author: author(), expect: None });
    for backend in [A, B, C, BackendId::new(99), BackendId::new(0), BackendId::new(u32::MAX)] {
        assert_eq!(s.run(bind(backend)), refused, "{backend}");
    }
    // Nobody new is who was given a key there.
    let learn = |key: u128, teacher| Command::Learn { service: WEB, key: KeyHash::from_u128(key), teacher };
    for (key, teacher) in [(1, A), (2, C)] {
        assert_eq!(s.run(learn(key, teacher)), bound(teacher, BindingChange::Created));
    }
    assert_eq!(s.run(learn(1, C)), bound(A, BindingChange::Existing), "a key is not taken over");
    for teacher in [B, BackendId::new(99), BackendId::new(0)] {
        assert_eq!(s.run(learn(3, teacher)), refused, "{teacher}");
    }
    s.run(admin(A, AdminState::Maintenance));
    assert_eq!(s.run(learn(3, A)), refused);
    s.run(Command::SetBackend { backend: C, admin: None, weight: Some(None), author: author(), expect: None });
    assert_eq!(s.run(bind(C)), bound(C, BindingChange::Created));
}

#[test]
fn idle_bindings_end_and_used_ones_do_not() {
    let mut s = Scenario::shop();
    s.run(bind(A));
    s.wait(1_799_000);
    assert!(s.state.tables().lookup(WEB, KEY, s.now).is_none(), "readers stop a second early");
    assert_eq!(s.run(Command::Renew { service: WEB, key: KEY }), Outcome::Done);
    s.wait(1_000_000);
    assert!(s.state.tables().lookup(WEB, KEY, s.now).expect("renewed").renew_due);
    s.wait(800_000);
    assert_eq!(s.run(bind(B)), bound(B, BindingChange::Replaced { old: A }));
    s.wait(1_800_000);
    for _ in 0..20 {
        s.wait(1_000);
    }
    let info = s.state.table_info(WEB).expect("configured");
    assert_eq!((info.bindings, info.totals.expired, info.totals.created), (0, 2, 2));
}

#[test]
fn absolute_lifetime_ends_a_binding_in_use() {
    let mut s = Scenario::shop();
    s.run(apply_config(document(&["a", "b"], r#","absolute_timeout":"1h""#), "", None));
    s.run(bind(A));
    for _ in 0..3 {
        s.wait(1_100_000);
        s.run(bind(B));
    }
    assert_eq!(s.state.binding(WEB, KEY).expect("in use").backend, A);
    s.wait(300_000);
    assert_eq!(s.run(bind(B)), bound(B, BindingChange::Replaced { old: A }));
}

#[test]
fn a_key_whose_record_ended_is_replaced_only_at_another_backend() {
    let provenance = |s: &Scenario| s.state.binding(WEB, KEY).expect("bound").provenance;
    let mut s = Scenario::shop();
    s.run(bind(A));
    s.wait(1_802_000);
    assert_eq!(s.run(bind(A)), bound(A, BindingChange::Created));
    assert_eq!(provenance(&s), Provenance::Created);
    s.wait(1_802_000);
    assert_eq!(s.run(pin(Some(B), false)), bound(B, BindingChange::Replaced { old: A }));
    s.wait(1_802_000);
    assert_eq!(s.run(bind(A)), bound(A, BindingChange::Replaced { old: B }));
    assert_eq!(provenance(&s), Provenance::Replaced);
    let reread = s.reread();
    assert_eq!(reread.binding(WEB, KEY).expect("bound").provenance, Provenance::Replaced);
    assert_eq!(reread.hash(), s.state.hash());
}

#[test]
fn a_key_whose_binding_was_deleted_is_replaced_at_any_backend_until_the_trace_is_swept() {
    let mut s = Scenario::shop();
    let figures = |s: &Scenario| {
        let info = s.state.table_info(WEB).expect("configured");
        (info.bindings, info.totals.deleted, info.totals.expired)
    };
    s.run(bind(A));
    assert_eq!(s.run(pin(None, false)), Outcome::Done);
    assert_eq!(s.state.binding(WEB, KEY), None);
    assert!(s.state.bindings_page(WEB, None, 10).is_empty());
    assert!(s.state.tables().lookup(WEB, KEY, LogTime::from_millis(0)).is_none(), "also by a clock far behind");
    assert_eq!((s.state.bindings_of(A), figures(&s)), (0, (1, 1, 0)));
    assert_eq!(s.run(bind(B)), bound(B, BindingChange::Replaced { old: A }), "nodes may still forward to a");
    s.run(pin(None, false));
    let reread = s.reread();
    assert_eq!(reread.hash(), s.state.hash());
    assert!(reread.binding_or_ended(WEB, KEY).expect("a trace is left").is_deleted());
    assert_eq!(s.run(bind(B)), bound(B, BindingChange::Replaced { old: B }), "b itself may not have settled");
    assert_eq!(s.state.binding(WEB, KEY).expect("bound").provenance, Provenance::Replaced);
    s.run(pin(None, false));
    // Longer than the grace and a round of the sweep.
    for _ in 0..200 {
        s.wait(100);
    }
    assert_eq!(figures(&s), (0, 3, 0));
    assert_eq!(s.run(bind(A)), bound(A, BindingChange::Created));
}

#[test]
fn bindings_that_shorter_lifetimes_end_are_not_swept_at_once() {
    let mut s = Scenario::shop();
    s.run(bind(A));
    s.wait(600_000);
    s.run(apply_config(document(&["a", "b"], r#","idle_timeout":"1m""#), "", None));
    // Enough entries for a whole round of the sweep, within the grace that ended records have.
    for _ in 0..100 {
        s.wait(40);
    }
    assert_eq!(s.run(bind(B)), bound(B, BindingChange::Replaced { old: A }));
}

#[test]
fn a_pinned_binding_never_ends_until_its_backend_goes() {
    let mut s = Scenario::shop();
    assert_eq!(s.run(pin(Some(A), true)), bound(A, BindingChange::Created));
    s.wait(100_000_000);
    assert_eq!(s.run(bind(B)), bound(A, BindingChange::Existing));
    s.run(admin(A, AdminState::Drain));
    assert_eq!(s.run(bind(B)), bound(A, BindingChange::Existing));
    s.run(admin(A, AdminState::Maintenance));
    assert_eq!(s.run(bind(B)), rehomed(B, RehomeCause::BackendMaintenance));
    assert!(!s.state.binding(WEB, KEY).expect("bound").pinned, "the pin was to the other backend");
    assert_eq!(s.run(pin(None, false)), Outcome::Done);
    assert!(matches!(s.run(pin(None, false)), Outcome::Refused(Refusal::NotFound { .. })));
}

#[test]
fn a_full_table_refuses_new_keys_only() {
    let mut s = Scenario::shop();
    s.run(apply_config(document(&["a", "b"], r#","entries_max":1"#), "", None));
    s.run(bind(A));
    let other = KeyHash::from_u128(5);
    let second = Command::Bind { service: WEB, key: other, choice: A, replaces: None };
    assert_eq!(s.run(second), Outcome::Refused(Refusal::TableFull));
    assert_eq!(s.run(bind(B)), bound(A, BindingChange::Existing));
    assert_eq!(s.state.table_info(WEB).expect("configured").totals.refused_full, 1);
}

#[test]
fn a_frame_is_applied_once_and_each_life_counts_for_itself() {
    let mut s = Scenario::shop();
    let entry = s.entry(vec![bind(A), bind(B)]);
    let mut out = Vec::new();
    let next = |s: &Scenario| LogIndex::new(s.state.applied().get() + 1);
    s.state.apply(next(&s), &entry, &mut out);
    assert_eq!(out[0].outcomes.len(), 2);
    out.clear();
    s.state.apply(next(&s), &entry, &mut out);
    assert!(out.is_empty(), "the frame came twice");
    let mut reborn = entry.clone();
    reborn.frames[0].origin.boot = crate::ids::Boot(8);
    s.state.apply(next(&s), &reborn, &mut out);
    assert_eq!(out[0].outcomes[0], bound(A, BindingChange::Existing));
    out.clear();
    s.state.apply(next(&s), &entry, &mut out);
    s.state.apply(next(&s), &reborn, &mut out);
    assert!(out.is_empty(), "a late frame of an earlier life does not make the later one forgotten");
    let at = s.state.applied();
    s.state.apply(at, &reborn, &mut out);
    assert_eq!((out.len(), s.state.applied()), (0, at));
}

#[test]
fn a_removed_node_changes_nothing_any_more() {
    let mut s = Scenario::shop();
    let Outcome::Enrolled { node } = join(&mut s, "n2", 2) else { panic!("not enrolled") };
    let origin = Origin { node, boot: crate::ids::Boot(9) };
    let frame = |seq, commands| Frame { origin, seq, commands };
    let apply = |s: &mut Scenario, frames| {
        let entry = Entry { log_time: s.now, frames };
        let mut out = Vec::new();
        s.state.apply(LogIndex::new(s.state.applied().get() + 1), &entry, &mut out);
        out.len()
    };
    let seventh = frame(7, vec![pin(Some(A), false)]);
    assert_eq!(apply(&mut s, vec![seventh.clone()]), 1);
    s.run(pin(Some(B), false));
    // The node sent its frame again, and its removal overtakes it: in the entries before, or in the same.
    let remove = Command::RemoveNode { node, author: author(), lease_secret: None, expect: None };
    let remove = s.entry(vec![remove]).frames.remove(0);
    assert_eq!(apply(&mut s, vec![remove, seventh.clone(), frame(8, vec![pin(Some(C), false)])]), 1);
    assert_eq!(apply(&mut s, vec![seventh, frame(9, vec![pin(None, false)])]), 0);
    assert_eq!(s.state.binding(WEB, KEY).map(|record| record.backend), Some(B), "the newer change stands");
    assert_eq!(s.reread().hash(), s.state.hash());
    let stranger =
        Frame { origin: Origin { node: NodeId::new(99), ..origin }, seq: 1, commands: vec![pin(None, false)] };
    assert_eq!(apply(&mut s, vec![stranger]), 0, "a node that never was a member neither");
}

#[test]
fn apply_is_compare_and_set_with_one_answer_for_each_request() {
    let mut s = Scenario::shop();
    let two = apply_config(document(&["a"], ""), "r2", Some(1));
    let applied = Outcome::Applied { revision: Revision::new(2), changed: true };
    assert_eq!(s.run(two.clone()), applied);
    assert_eq!(s.run(two), applied);
    let conflict = Refusal::RevisionConflict { expected: Revision::new(1), found: Revision::new(2) };
    assert_eq!(s.run(apply_config(document(&["b"], ""), "r3", Some(1))), Outcome::Refused(conflict));
    let same = Outcome::Applied { revision: Revision::new(2), changed: false };
    assert_eq!(s.run(apply_config(document(&["a"], ""), "r4", None)), same);
    assert!(matches!(s.run(apply_config("{".to_owned(), "", None)), Outcome::Refused(Refusal::Invalid { .. })));
    assert_eq!(s.state.revisions().map(|r| r.revision.get()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(s.state.revision_record(Revision::new(1)).expect("kept").author, author());
}

#[test]
fn numbers_and_wishes_outlive_the_configuration_that_named_them() {
    let mut s = Scenario::shop();
    s.run(admin(B, AdminState::Drain));
    s.run(apply_config(document(&["c", "a"], ""), "", None));
    s.run(apply_config(document(&["d", "b", "c"], ""), "", None));
    assert_eq!(s.state.backend_id("shop/web/b"), Some(B));
    assert_eq!(s.state.backend_id("shop/web/d"), Some(BackendId::new(4)));
    assert_eq!(s.state.backend_wish(B).map(|wish| wish.admin), Some(AdminState::Drain));
    assert_eq!(s.run(bind(B)), Outcome::Refused(Refusal::NotEligible));
}

#[test]
fn only_so_many_revisions_are_kept() {
    let mut s = Scenario::shop();
    for n in 0..REVISIONS_MAX {
        s.run(apply_config(document(&[&format!("n{n}")], ""), "", None));
    }
    let kept: Vec<_> = s.state.revisions().map(|r| r.revision.get()).collect();
    assert_eq!((kept.len(), kept[0], kept[REVISIONS_MAX - 1]), (REVISIONS_MAX, 101, 2));
}

fn join(s: &mut Scenario, name: &str, key: u8) -> Outcome {
    let token = Command::CreateJoinToken {
        hash: [key; 32],
        expires: s.now.plus_millis(1000),
        role: NodeRole::Full,
        author: author(),
    };
    assert_eq!(s.run(token), Outcome::Done);
    s.run(enrol(name, key, key))
}

fn enrol(name: &str, token: u8, key: u8) -> Command {
    Command::EnrolNode { token_hash: [token; 32], info: node_info(name), key_fingerprint: [key; 32] }
}

#[test]
fn a_token_lets_one_node_in_and_its_retries() {
    let mut s = Scenario::shop();
    let Outcome::Enrolled { node } = join(&mut s, "n2", 2) else { panic!("not enrolled") };
    assert_eq!(node.get(), s.state.applied().get());
    assert_eq!(s.run(enrol("n2", 2, 2)), Outcome::Enrolled { node });
    assert_eq!(s.run(enrol("n3", 2, 3)), Outcome::Refused(Refusal::TokenUnknown));
    assert_eq!(s.run(enrol("n3", 9, 3)), Outcome::Refused(Refusal::TokenUnknown));
    assert_eq!(join(&mut s, "n2", 4), Outcome::Refused(Refusal::NameTaken { name: "n2".to_owned(), id: node }));
    s.wait(1000);
    assert_eq!(s.run(enrol("n4", 4, 4)), Outcome::Refused(Refusal::TokenExpired));
    assert_eq!(s.run(Command::RemoveNode { node, author: author(), lease_secret: None, expect: None }), Outcome::Done);
    let Outcome::Enrolled { node: again } = join(&mut s, "n2", 5) else { panic!("not enrolled") };
    assert!(again > node);
    s.run(Command::RemoveNode { node: again, author: author(), lease_secret: None, expect: None });
    let last = s.run(Command::RemoveNode { node: NodeId::new(1), author: author(), lease_secret: None, expect: None });
    assert!(matches!(last, Outcome::Refused(Refusal::Invalid { .. })));
}

#[test]
fn who_leaves_takes_no_key_of_leases_along_that_counts_for_long() {
    let mut s = Scenario::shop();
    let keys = |s: &Scenario| s.state.cluster().expect("founded").lease_keys(s.now);
    let only = |secret: u8| LeaseKeys::only([secret; 32]);
    let leave = |s: &mut Scenario, secret: u8| {
        let Outcome::Enrolled { node } = join(s, "leaves", secret) else { panic!("not enrolled") };
        let lease_secret = Some([secret; 32].into());
        assert_eq!(s.run(Command::RemoveNode { node, author: author(), lease_secret, expect: None }), Outcome::Done);
    };
    assert_eq!(keys(&s), only(7));
    leave(&mut s, 21);
    assert_eq!(keys(&s), LeaseKeys { seals: [7; 32], opens: [Some([21; 32]), None] });
    s.wait(5000);
    leave(&mut s, 22);
    assert_eq!(keys(&s), LeaseKeys { seals: [7; 32], opens: [Some([22; 32]), None] }, "21 was never used");
    s.wait(9999);
    assert_eq!(keys(&s).seals, [7; 32]);
    s.wait(1);
    assert_eq!(keys(&s), LeaseKeys { seals: [22; 32], opens: [Some([7; 32]), None] });
    leave(&mut s, 23);
    assert_eq!(keys(&s), LeaseKeys { seals: [22; 32], opens: [Some([23; 32]), Some([7; 32])] });
    s.state = s.reread();
    s.wait(10_000);
    assert_eq!(keys(&s), LeaseKeys { seals: [23; 32], opens: [Some([22; 32]), None] }, "nobody seals with 7 any more");
    s.wait(10_000);
    assert_eq!(keys(&s), only(23));
    leave(&mut s, 24);
    assert_eq!(keys(&s), LeaseKeys { seals: [23; 32], opens: [Some([24; 32]), None] });
}

#[test]
fn the_verdict_is_the_majoritys_and_follows_membership() {
    let mut s = Scenario::shop();
    let Outcome::Enrolled { node: two } = join(&mut s, "n2", 2) else { panic!("not enrolled") };
    let Outcome::Enrolled { node: three } = join(&mut s, "n3", 3) else { panic!("not enrolled") };
    s.run(report(1, A, Verdict::Up));
    s.run(report(two.get(), A, Verdict::Down));
    assert_eq!(s.state.verdict(A), Verdict::Up);
    let version = s.state.plan_version();
    s.run(report(three.get(), A, Verdict::Down));
    assert_eq!(s.state.verdict(A), Verdict::Down);
    assert!(s.state.plan_version() > version);
    s.run(Command::RemoveNode { node: two, author: author(), lease_secret: None, expect: None });
    assert_eq!(s.state.verdict(A), Verdict::Up);
    assert!(matches!(s.run(report(two.get(), A, Verdict::Down)), Outcome::Refused(Refusal::NotFound { .. })));
}

/// The outcomes of an entry of these commands.
fn together(s: &mut Scenario, commands: Vec<Command>) -> Vec<Outcome> {
    let entry = s.entry(commands);
    let mut out = Vec::new();
    s.state.apply(LogIndex::new(s.state.applied().get() + 1), &entry, &mut out);
    out.remove(0).outcomes
}

#[test]
fn bindings_between_findings_go_by_those_before_them() {
    let mut s = Scenario::shop();
    let (up, down, refused) = (Verdict::Up, Verdict::Down, Outcome::Refused(Refusal::NotEligible));
    let commands = vec![report(1, A, down), bind(A), bind(B), report(1, B, down), report(1, A, up), bind(A)];
    let came_to = together(&mut s, commands);
    let (created, moved) = (bound(B, BindingChange::Created), rehomed(A, RehomeCause::BackendDown));
    assert_eq!(came_to, [Outcome::Done, refused, created, Outcome::Done, Outcome::Done, moved]);
    // The last of an entry counts as well, for whoever asks next.
    together(&mut s, vec![report(1, B, up), report(1, A, down)]);
    assert_eq!(s.run(bind(B)), rehomed(B, RehomeCause::BackendDown));
}

#[test]
fn findings_of_one_entry_cost_one_look_at_all_backends() {
    let names: Vec<_> = (0..1000).map(|n| format!("b{n}")).collect();
    let mut s = Scenario::founded();
    s.apply(document(&names.iter().map(String::as_str).collect::<Vec<_>>(), ""));
    let versions = |s: &Scenario| (s.state.plan_version(), s.state.orders_version(), s.state.lease_version());
    let (seatings, (plan, orders, lease)) = (s.state.roster.seatings, versions(&s));
    let reports = (1..=1000).map(|id| report(1, BackendId::new(id), Verdict::Down));
    together(&mut s, reports.collect());
    assert_eq!(s.state.verdict(BackendId::new(1000)), Verdict::Down);
    assert_eq!(s.state.roster.seatings - seatings, 1);
    assert_eq!(versions(&s), (plan + 1000, orders, lease));
    s.run(admin(A, AdminState::Drain));
    assert_eq!(s.state.orders_version(), orders + 1);
}

#[test]
fn the_findings_of_a_silent_node_lapse() {
    let mut s = Scenario::shop();
    let Outcome::Enrolled { node: two } = join(&mut s, "n2", 2) else { panic!("not enrolled") };
    s.run(report(two.get(), A, Verdict::Up));
    s.run(report(two.get(), B, Verdict::Up));
    s.run(report(1, A, Verdict::Down));
    assert_eq!(s.state.verdict(A), Verdict::Up, "one of two is no majority");
    assert_eq!(plan::compile(&s.state, two, 1).findings, [(A, Verdict::Up), (B, Verdict::Up)].into());
    let version = s.state.plan_version();
    let lapse = |node| Command::LapseFindings { node };
    assert_eq!(s.run(lapse(two)), Outcome::Done);
    assert_eq!((s.state.verdict(A), s.state.verdict(B)), (Verdict::Down, Verdict::Unknown));
    assert_eq!(plan::compile(&s.state, two, 1).findings, [].into());
    assert_eq!(plan::compile(&s.state, NodeId::new(1), 1).findings, [(A, Verdict::Down)].into());
    assert!(s.state.plan_version() > version);
    let told: Vec<_> = s.state.events().take(2).map(|event| (event.what.as_str(), event.cause.as_str())).collect();
    let cause = "node n2 is silent and its findings lapsed";
    assert_eq!(told, [("backend shop/web/b: up to unknown", cause), ("backend shop/web/a: up to down", cause)]);

    let (version, events) = (s.state.plan_version(), s.state.events().count());
    assert_eq!(s.run(lapse(two)), Outcome::Done, "there is nothing left");
    assert_eq!((s.state.plan_version(), s.state.events().count()), (version, events));
    s.run(report(two.get(), A, Verdict::Down));
    assert_eq!(s.run(lapse(two)), Outcome::Done);
    assert_eq!(s.state.events().count(), events, "no verdict changed");
    assert!(s.state.plan_version() > version, "its node must see it all the same");
    assert!(matches!(s.run(lapse(NodeId::new(99))), Outcome::Refused(Refusal::NotFound { .. })));
    assert_eq!(s.reread().hash(), s.state.hash());
}

#[test]
fn a_flapping_backend_is_kept_down_for_a_while() {
    let mut s = Scenario::shop();
    for _ in 0..3 {
        assert_eq!(s.state.standing(A).and_then(|standing| standing.held_until), None);
        s.run(report(1, A, Verdict::Up));
        assert_eq!(s.state.verdict(A), Verdict::Up);
        s.wait(1000);
        s.run(report(1, A, Verdict::Down));
        assert_eq!(s.state.verdict(A), Verdict::Down);
    }
    s.run(report(1, A, Verdict::Up));
    assert_eq!(s.state.verdict(A), Verdict::Down);
    s.wait(29_000);
    assert_eq!(s.state.verdict(A), Verdict::Down);
    s.wait(1_000);
    assert_eq!(s.state.verdict(A), Verdict::Up);
}

#[test]
fn a_new_address_is_not_judged_by_findings_about_the_old() {
    let mut s = Scenario::shop();
    s.run(report(1, A, Verdict::Down));
    s.run(report(1, B, Verdict::Down));
    s.run(apply_config(document(&["a", "x", "b"], ""), "", None));
    assert_eq!((s.state.verdict(A), s.state.verdict(B)), (Verdict::Down, Verdict::Unknown));
}

#[test]
fn a_document_is_applied_without_a_search_for_each_backend_that_was_reported() {
    let searches = || crate::state::registry::SEARCHES.get();
    let names: Vec<_> = (0..1000).map(|n| format!("b{n}")).collect();
    let mut names: Vec<_> = names.iter().map(String::as_str).collect();
    let last = BackendId::new(1000);
    let mut s = Scenario::founded();
    s.apply(document(&names, ""));
    together(&mut s, (1..=1000).map(|id| report(1, BackendId::new(id), Verdict::Up)).collect());
    let before = searches();
    names[0] = "b0:7";
    s.apply(document(&names, ""));
    assert_eq!(s.state.verdict(last), Verdict::Up);
    // Findings are about the backend that has the name, wherever the document has it.
    let first = r#""farms":[{"name":"first","listeners":[],"services":[{"name":"web","health":{},
        "backends":[{"name":"b999","address":"127.0.0.1:1"}]}]},"#;
    s.apply(document(&names, "").replace(r#""farms":["#, first));
    assert_eq!((s.state.verdict(last), s.state.verdict(BackendId::new(1001))), (Verdict::Up, Verdict::Unknown));
    names.swap(1, 999);
    s.apply(document(&names, ""));
    assert_eq!((s.state.verdict(last), s.state.verdict(C)), (Verdict::Unknown, Verdict::Up));
    s.apply(document(&names, "").replace(r#""health":{},"#, ""));
    assert_eq!((s.state.verdict(C), s.state.reports(C).count()), (Verdict::Unknown, 0));
    assert_eq!(searches(), before);
}

#[test]
fn vip_records_are_taken_in_the_order_of_epochs() {
    let mut s = Scenario::shop();
    let vip = s.state.vip_id("v").expect("configured");
    let record = |owner: Option<u64>, epoch| Command::RecordVip {
        vip,
        owner: owner.map(NodeId::new),
        epoch,
        cause: "start".to_owned(),
    };
    s.run(record(Some(1), 5));
    let versions = |s: &Scenario| (s.state.plan_version(), s.state.lease_version());
    let (plan, lease) = versions(&s);
    s.run(record(Some(1), 4));
    assert_eq!(versions(&s), (plan, lease), "no news");
    s.run(record(None, 5));
    assert_eq!(versions(&s), (plan, lease + 1), "news for leases, and none for plans");
    let tenures: Vec<_> = s.state.tenures(vip).map(|tenure| (tenure.owner.is_some(), tenure.epoch)).collect();
    assert_eq!(tenures, [(false, 5), (true, 5)]);
    let to = Command::MoveVip { vip, to: Some(NodeId::new(1)), author: author(), expect: None };
    assert_eq!(s.run(to), Outcome::Done);
    assert_eq!(versions(&s), (plan + 1, lease + 2));
    assert_eq!(s.state.vip_wish(vip).map(|wish| wish.node), Some(NodeId::new(1)));
}

#[test]
fn a_wish_for_one_of_a_group_is_a_wish_for_all() {
    let mut s = Scenario::founded();
    join(&mut s, "n2", 2);
    let second = s.state.node_named("n2").expect("joined").id;
    let vip = |name: &str, last: u8, group: &str| {
        format!(r#"{{"name":"{name}","addresses":["127.0.0.{last}"],"group":{group}}}"#)
    };
    let vips = |group| [vip("a", 9, group), vip("b", 10, group), vip("c", 11, "null")].join(",");
    s.apply(format!(r#"{{"version":1,"vips":[{}],"farms":[]}}"#, vips(r#""web""#)));
    let [a, b, c] = ["a", "b", "c"].map(|name| s.state.vip_id(name).expect("configured"));
    let wanted = |s: &Scenario| [a, b, c].map(|vip| s.state.vip_wish(vip).map(|wish| wish.node));
    let to = |s: &mut Scenario, vip, to| s.run(Command::MoveVip { vip, to, author: author(), expect: None });
    to(&mut s, a, Some(NodeId::new(1)));
    assert_eq!(wanted(&s), [Some(NodeId::new(1)), Some(NodeId::new(1)), None]);
    to(&mut s, b, Some(second));
    assert_eq!(wanted(&s), [Some(second), Some(second), None]);
    to(&mut s, a, None);
    assert_eq!(wanted(&s), [None; 3], "no older wish comes back");
    // Wishes from before they were a group: the newest counts.
    s.apply(format!(r#"{{"version":1,"vips":[{}],"farms":[]}}"#, vips("null")));
    to(&mut s, b, Some(second));
    to(&mut s, a, Some(NodeId::new(1)));
    assert_eq!(wanted(&s), [Some(NodeId::new(1)), Some(second), None]);
    s.apply(format!(r#"{{"version":1,"vips":[{}],"farms":[]}}"#, vips(r#""web""#)));
    assert_eq!(wanted(&s), [Some(NodeId::new(1)), Some(NodeId::new(1)), None]);
}

/// What the next entry comes to, here and on a replica that read a snapshot before it.
fn agreed(s: &mut Scenario, commands: Vec<Command>) -> Vec<Outcome> {
    let mut other = s.reread();
    let entry = codec::encode_entry(&s.entry(commands));
    let entry = codec::decode_entry(&entry).expect("what was encoded is decoded");
    let index = LogIndex::new(s.state.applied().get() + 1);
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    s.state.apply(index, &entry, &mut mine);
    other.apply(index, &entry, &mut theirs);
    assert_eq!(mine, theirs);
    assert_eq!(other.hash(), s.state.hash());
    mine.remove(0).outcomes
}

#[test]
fn of_two_changes_that_expect_the_same_the_second_is_refused() {
    let mut s = Scenario::shop();
    let Outcome::Enrolled { node } = join(&mut s, "n2", 2) else { panic!("not enrolled") };
    let vip = s.state.vip_id("v").expect("configured");
    let set_backend = |s: &Scenario, admin: AdminState| {
        let expect = Some(s.state.backend_changed(A));
        Command::SetBackend { backend: A, admin: Some(admin), weight: None, author: author(), expect }
    };
    let seen = |s: &Scenario| s.state.node(node).map(|node| Box::new(node.seen()));
    let set_node = |s: &Scenario, admin| Command::SetNode { node, admin, author: author(), expect: seen(s) };
    let remove = |s: &Scenario| Command::RemoveNode { node, author: author(), lease_secret: None, expect: seen(s) };
    let move_vip = |s: &Scenario, to| {
        let expect = Some(s.state.vip_moved(vip));
        Command::MoveVip { vip, to, author: author(), expect }
    };
    let refused = |what: &str| Outcome::Refused(Refusal::Changed { what: what.to_owned() });
    let pairs = [
        ("backend shop/web/a", [set_backend(&s, AdminState::Drain), set_backend(&s, AdminState::Maintenance)]),
        ("node n2", [set_node(&s, NodeAdmin::Drain), set_node(&s, NodeAdmin::Demoted)]),
        ("VIP v", [move_vip(&s, Some(node)), move_vip(&s, Some(NodeId::new(1)))]),
    ];
    for (what, [first, second]) in pairs {
        assert_eq!(agreed(&mut s, vec![first, second.clone()]), [Outcome::Done, refused(what)], "in one entry");
        assert_eq!(agreed(&mut s, vec![second]), [refused(what)], "in a later one");
    }
    let wished = |s: &Scenario| {
        let (backend, vip) = (s.state.backend_wish(A).map(|wish| wish.admin), s.state.vip_wish(vip));
        (backend, s.state.node(node).map(|node| node.admin), vip.map(|wish| wish.node))
    };
    assert_eq!(wished(&s), (Some(AdminState::Drain), Some(NodeAdmin::Drain), Some(node)), "the first of each");
    let removal = remove(&s);
    // Whoever has looked again is heard.
    let again = vec![set_backend(&s, AdminState::Ready), set_node(&s, NodeAdmin::Ready), move_vip(&s, None)];
    assert_eq!(agreed(&mut s, again), [Outcome::Done, Outcome::Done, Outcome::Done]);
    assert_eq!(wished(&s), (Some(AdminState::Ready), Some(NodeAdmin::Ready), None));
    assert_eq!(agreed(&mut s, vec![removal]), [refused("node n2")]);
    let removal = remove(&s);
    let gone = Outcome::Refused(Refusal::NotFound { what: format!("node {node}") });
    assert_eq!(agreed(&mut s, vec![removal.clone(), removal]), [Outcome::Done, gone]);
}

#[test]
fn what_is_expected_of_a_backend_is_the_document_too_and_nothing_else() {
    let mut s = Scenario::shop();
    let seen = s.state.backend_changed(A);
    s.run(report(1, A, Verdict::Down));
    s.run(admin(B, AdminState::Drain));
    assert_eq!(s.run(admin(A, AdminState::Ready)), Outcome::Done, "as it is already");
    assert_eq!(s.state.backend_changed(A), seen);
    s.apply(document(&["a:50", "b", "c"], ""));
    let drain = |expect| {
        let (admin, author) = (Some(AdminState::Drain), author());
        Command::SetBackend { backend: A, admin, weight: None, author, expect: Some(expect) }
    };
    let refused = Refusal::Changed { what: "backend shop/web/a".to_owned() };
    assert_eq!(s.run(drain(seen)), Outcome::Refused(refused));
    assert_eq!(s.state.backend_wish(A), None);
    let now = s.state.backend_changed(A);
    assert_eq!(s.run(drain(now)), Outcome::Done);
    assert_eq!(s.state.backend_changed(A), s.state.applied());
}

/// Entries from before changes could expect something are read, and those that expect nothing are as they were then.
#[test]
fn who_expects_nothing_says_nothing_of_it() {
    let author = r#""author":{"name":"ann","message":"because"}"#;
    for change in [
        r#""set_backend":{"backend":1,"admin":"drain","weight":[],AUTHOR}"#,
        r#""set_node":{"node":2,"admin":"drain",AUTHOR}"#,
        r#""remove_node":{"node":2,AUTHOR}"#,
        r#""move_vip":{"vip":1,"to":2,AUTHOR}"#,
    ] {
        let stored = format!("{{{}}}", change.replace("AUTHOR", author));
        let command: Command = serde_json::from_str(&stored).expect("an entry of before");
        assert_eq!(serde_json::to_string(&command).expect("it has a form"), stored);
    }
}

#[test]
fn everything_outlives_a_snapshot() {
    let mut s = Scenario::shop();
    join(&mut s, "n2", 2);
    s.run(bind(A));
    s.run(admin(B, AdminState::Drain));
    s.run(report(1, C, Verdict::Down));
    s.run(Command::RotateCookieKey { secret: [3; 32].into(), author: author() });
    let mut other = s.reread();
    assert_eq!(other.hash(), s.state.hash());
    assert_eq!(s.state.snapshot().hash(), s.state.hash());
    let entry = s.entry(vec![replacing(B, A), bind(C), apply_config(document(&["c"], ""), "x", None), bind(C)]);
    let index = LogIndex::new(s.state.applied().get() + 1);
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    s.state.apply(index, &entry, &mut mine);
    other.apply(index, &entry, &mut theirs);
    assert_eq!(mine, theirs);
    assert_eq!(other.hash(), s.state.hash());
}

#[test]
fn readers_follow_a_replaced_state() {
    let mut s = Scenario::shop();
    let tables = std::sync::Arc::clone(s.state.tables());
    let other = {
        let mut other = Scenario::shop();
        other.run(bind(B));
        other.state
    };
    assert!(tables.lookup(WEB, KEY, s.now).is_none());
    let version = s.state.plan_version();
    s.state.replace(other);
    assert_eq!(tables.lookup(WEB, KEY, s.now).map(|view| view.backend), Some(B));
    assert!(s.state.plan_version() > version);
}

#[test]
fn events_name_author_index_and_cause() {
    let mut s = Scenario::shop();
    s.run(report(1, A, Verdict::Down));
    let event = s.state.events().next().expect("there are events");
    assert_eq!(event.index, s.state.applied());
    assert_eq!(event.author.name, "ballastd@n1");
    assert_eq!(
        (event.what.as_str(), event.cause.as_str()),
        ("backend shop/web/a: unknown to down", "connect: refused")
    );
}
