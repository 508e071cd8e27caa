//! Random logs against a naive model, against a second replica, and through snapshots.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::scenario::*;
use crate::{
    ids::{BackendId, Boot, LogIndex, NodeId, ServiceId, VipId},
    persistence::{KeyHash, Record},
    plan::{AdminState, Verdict},
    state::*,
    time::LogTime,
};

const WEB: ServiceId = ServiceId::new(1);
const IDLE_MS: u64 = 60_000;
const ABSOLUTE_MS: u64 = 150_000;
const ENTRIES_MAX: usize = 12;

/// What a test may do.
#[derive(Clone, Debug)]
enum Step {
    Command(Box<Command>),
    Wait(u64),
}

fn boxed(command: Command) -> Step {
    Step::Command(Box::new(command))
}

fn key() -> impl Strategy<Value = KeyHash> {
    // Few keys, spread over the shards and crowded in one.
    (0..16_u128).prop_map(|n| KeyHash::from_u128(if n < 8 { n } else { n << 124 | n }))
}

fn backend() -> impl Strategy<Value = BackendId> {
    (0..5_u32).prop_map(BackendId::new)
}

fn cause() -> impl Strategy<Value = RehomeCause> {
    prop_oneof![
        Just(RehomeCause::BackendDown),
        Just(RehomeCause::BackendMaintenance),
        Just(RehomeCause::BackendRemoved),
        Just(RehomeCause::ConnectFailed),
        Just(RehomeCause::Operator),
    ]
}

fn admin_state() -> impl Strategy<Value = AdminState> {
    prop_oneof![Just(AdminState::Ready), Just(AdminState::Drain), Just(AdminState::Maintenance)]
}

fn step() -> impl Strategy<Value = Step> {
    let replaces = proptest::option::of((backend(), cause()));
    let bind = (key(), backend(), replaces).prop_map(|(key, choice, replaces)| Command::Bind {
        service: WEB,
        key,
        choice,
        replaces,
    });
    let learn = (key(), backend()).prop_map(|(key, teacher)| Command::Learn { service: WEB, key, teacher });
    let renew = key().prop_map(|key| Command::Renew { service: WEB, key });
    let set = (key(), proptest::option::of(backend()), any::<bool>())
        .prop_map(|(key, to, pinned)| Command::SetBinding { service: WEB, key, to, pinned, author: author() });
    let admin = (backend(), admin_state()).prop_map(|(backend, admin)| Command::SetBackend {
        backend,
        admin: Some(admin),
        weight: None,
        author: author(),
        expect: None,
    });
    prop_oneof![
        8 => bind.prop_map(boxed),
        2 => learn.prop_map(boxed),
        3 => renew.prop_map(boxed),
        1 => set.prop_map(boxed),
        1 => admin.prop_map(boxed),
        4 => (0..40_000_u64).prop_map(Step::Wait),
    ]
}

/// The rules of bindings, in the plainest form.
#[derive(Default)]
struct Model {
    bindings: BTreeMap<KeyHash, Bound>,
    admin: BTreeMap<BackendId, AdminState>,
}

#[derive(Clone, Copy)]
struct Bound {
    backend: BackendId,
    pinned: bool,
    created: u64,
    used: u64,
}

impl Model {
    fn admin(&self, id: BackendId) -> AdminState {
        self.admin.get(&id).copied().unwrap_or_default()
    }

    fn live(&self, key: KeyHash, now: u64) -> Option<Bound> {
        let live = |b: &Bound| b.pinned || (now < b.used + IDLE_MS && now < b.created + ABSOLUTE_MS);
        self.bindings.get(&key).copied().filter(live)
    }

    fn put(&mut self, key: KeyHash, bound: Bound) {
        self.bindings.insert(key, bound);
    }

    /// The outcome. `full` and `kept`, the key's record, ended or not, are what only the state can know: what is not
    /// swept yet.
    fn carry_out(&mut self, now: u64, command: &Command, full: bool, kept: Option<Record>) -> Outcome {
        let created = |to: BackendId| match kept.filter(|old| old.backend != to || old.is_deleted()) {
            Some(old) => BindingChange::Replaced { old: old.backend },
            None => BindingChange::Created,
        };
        let seconds = now.div_ceil(1000) * 1000;
        let exists = |id: BackendId| (1..=3).contains(&id.get());
        // What is learned may be at a backend that takes nobody new.
        let (bind, drained_too) = match command {
            Command::Learn { service, key, teacher } => {
                (Command::Bind { service: *service, key: *key, choice: *teacher, replaces: None }, true)
            }
            other => (other.clone(), false),
        };
        match &bind {
            Command::Bind { key, choice, replaces, .. } => {
                let current = self.live(*key, now);
                let cause = current.and_then(|b| match self.admin(b.backend) {
                    AdminState::Maintenance => Some(RehomeCause::BackendMaintenance),
                    _ if *replaces == Some((b.backend, RehomeCause::ConnectFailed))
                        && !b.pinned
                        && *choice != b.backend =>
                    {
                        Some(RehomeCause::ConnectFailed)
                    }
                    _ => None,
                });
                if let (Some(b), None) = (current, cause) {
                    self.put(*key, Bound { used: seconds.max(b.used), ..b });
                    return Outcome::Bound { backend: b.backend, how: BindingChange::Existing };
                }
                let takes_it = match self.admin(*choice) {
                    AdminState::Ready => true,
                    AdminState::Drain => drained_too,
                    AdminState::Maintenance => false,
                };
                if !exists(*choice) || !takes_it {
                    return Outcome::Refused(Refusal::NotEligible);
                }
                if full {
                    return Outcome::Refused(Refusal::TableFull);
                }
                self.put(*key, Bound { backend: *choice, pinned: false, created: seconds, used: seconds });
                let how = cause.map_or_else(|| created(*choice), BindingChange::Rehomed);
                Outcome::Bound { backend: *choice, how }
            }
            Command::Renew { key, .. } => match self.live(*key, now) {
                None => Outcome::Refused(Refusal::NotFound { what: "binding".to_owned() }),
                Some(b) => {
                    self.put(*key, Bound { used: seconds.max(b.used), ..b });
                    Outcome::Done
                }
            },
            Command::SetBinding { key, to: None, .. } => match self.live(*key, now) {
                None => Outcome::Refused(Refusal::NotFound { what: "binding".to_owned() }),
                Some(_) => {
                    self.bindings.remove(key);
                    Outcome::Done
                }
            },
            Command::SetBinding { key, to: Some(to), pinned, .. } => {
                if !exists(*to) {
                    return Outcome::Refused(Refusal::NotFound { what: format!("backend {to} of service {WEB}") });
                }
                if full {
                    return Outcome::Refused(Refusal::TableFull);
                }
                let (how, created) = match self.live(*key, now) {
                    None => (created(*to), seconds),
                    Some(b) if b.backend == *to => (BindingChange::Existing, b.created),
                    Some(_) => (BindingChange::Rehomed(RehomeCause::Operator), seconds),
                };
                self.put(*key, Bound { backend: *to, pinned: *pinned, created, used: seconds });
                Outcome::Bound { backend: *to, how }
            }
            Command::SetBackend { backend, admin: Some(admin), .. } => {
                if !exists(*backend) {
                    return Outcome::Refused(Refusal::NotFound { what: format!("backend {backend}") });
                }
                self.admin.insert(*backend, *admin);
                Outcome::Done
            }
            _ => Outcome::Done,
        }
    }
}

fn scenario() -> Scenario {
    let mut scenario = Scenario::founded();
    let table = format!(r#","idle_timeout":"60s","absolute_timeout":"150s","entries_max":{ENTRIES_MAX}"#);
    scenario.apply(document(&["a", "b", "c"], &table));
    scenario
}

fn known(state: &State, key: KeyHash) -> bool {
    state.binding_or_ended(WEB, key).is_some()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn bindings_follow_the_model(steps in proptest::collection::vec(step(), 1..150)) {
        let mut s = scenario();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Wait(millis) => s.wait(millis),
                Step::Command(command) => {
                    let command = *command;
                    let now = s.now.as_millis();
                    // Ended bindings count until they are swept; how many that are is the state's own matter.
                    let full = match &command {
                        Command::Bind { key, .. } | Command::Learn { key, .. } | Command::SetBinding { key, .. } => {
                            let info = s.state.table_info(WEB).expect("configured");
                            !known(&s.state, *key) && info.bindings >= ENTRIES_MAX as u64
                        }
                        _ => false,
                    };
                    let kept = match &command {
                        Command::Bind { key, .. } | Command::Learn { key, .. } | Command::SetBinding { key, .. } => {
                            s.state.binding_or_ended(WEB, *key)
                        }
                        _ => None,
                    };
                    prop_assert_eq!(model.carry_out(now, &command, full, kept), s.run(command));
                }
            }
            let now = s.now.as_millis();
            let mut counts = BTreeMap::new();
            for key in model.bindings.keys() {
                let expected = model.live(*key, now);
                let found = s.state.binding(WEB, *key);
                prop_assert_eq!(found.map(|r| (r.backend, r.pinned)), expected.map(|b| (b.backend, b.pinned)));
                if let Some(view) = s.state.tables().lookup(WEB, *key, s.now) {
                    prop_assert_eq!(Some(view.backend), expected.map(|b| b.backend), "a reader is never ahead");
                }
                if let Some(record) = s.state.binding_or_ended(WEB, *key).filter(|record| !record.is_deleted()) {
                    *counts.entry(record.backend).or_insert(0) += 1;
                }
            }
            let info = s.state.table_info(WEB).expect("configured");
            prop_assert!(info.bindings <= ENTRIES_MAX as u64);
            for n in 1..=3 {
                let id = BackendId::new(n);
                prop_assert_eq!(s.state.bindings_of(id), counts.get(&id).copied().unwrap_or(0));
            }
        }
    }

    #[test]
    fn replicas_agree_and_a_snapshot_is_the_state_at_its_index(
        steps in proptest::collection::vec(step(), 1..80),
        cut in 0..80_usize,
    ) {
        let mut s = scenario();
        let mut other = s.reread();
        let mut taken = None;
        for (n, step) in steps.into_iter().enumerate() {
            if n == cut {
                taken = Some((s.state.snapshot(), s.state.hash(), s.state.applied()));
                other = s.reread();
            }
            let commands = match step {
                Step::Wait(millis) => { s.now = s.now.plus_millis(millis); vec![Command::Tick] }
                Step::Command(command) => vec![Command::clone(&command), *command],
            };
            let entry = s.entry(commands);
            let entry = codec::decode_entry(&codec::encode_entry(&entry)).expect("what was encoded is decoded");
            let index = LogIndex::new(s.state.applied().get() + 1);
            let (mut mine, mut theirs) = (Vec::new(), Vec::new());
            s.state.apply(index, &entry, &mut mine);
            other.apply(index, &entry, &mut theirs);
            prop_assert_eq!(mine, theirs);
            prop_assert_eq!(s.state.hash(), other.hash());
        }
        if let Some((snapshot, hash, applied)) = taken {
            prop_assert_eq!(snapshot.hash(), hash);
            let mut bytes = Vec::new();
            snapshot.write(&mut bytes).expect("a vector takes everything");
            let read = State::read(&mut bytes.as_slice()).expect("what was written is read");
            prop_assert_eq!((read.hash(), read.applied()), (hash, applied));
        }
    }

    #[test]
    fn damaged_snapshots_are_refused(at in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<bool>()) {
        let mut s = scenario();
        for n in 0..8 {
            let key = KeyHash::from_u128(n << 124);
            s.run(Command::Bind { service: WEB, key, choice: BackendId::new(1), replaces: None });
        }
        let mut bytes = Vec::new();
        s.state.snapshot().write(&mut bytes).expect("a vector takes everything");
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        prop_assert!(State::read(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let read = codec::decode_entry(&bytes);
        prop_assert!(read.is_err() || codec::unreadable_command(&bytes).is_none());
        let _ = codec::decode_commands(&bytes);
        let mut framed = b"BALLAST\x01\x01\0\0\0".to_vec();
        framed.extend_from_slice(&bytes);
        prop_assert!(State::read(&mut framed.as_slice()).is_err());
        prop_assert!(State::read(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn entries_outlive_their_encoding(entry in entry()) {
        let bytes = codec::encode_entry(&entry);
        prop_assert_eq!(codec::decode_entry(&bytes).expect("what was encoded is decoded"), entry.clone());
        prop_assert!(codec::decode_entry(&bytes[..bytes.len() - 1]).is_err());
        let commands: Vec<_> = entry.frames.into_iter().flat_map(|frame| frame.commands).collect();
        let bytes = codec::encode_commands(&commands);
        let told: usize = commands.iter().map(codec::encoded_len).sum();
        prop_assert_eq!(told, bytes.len() - 1, "the version takes one byte");
        prop_assert_eq!(codec::decode_commands(&bytes).expect("what was encoded is decoded"), commands);
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let frame = (any::<u64>(), any::<u64>(), any::<u64>(), proptest::collection::vec(command(), 0..6));
    let frame = frame.prop_map(|(node, boot, seq, commands)| Frame {
        origin: Origin { node: NodeId::new(node), boot: Boot(boot) },
        seq,
        commands,
    });
    (any::<u64>(), proptest::collection::vec(frame, 0..4))
        .prop_map(|(time, frames)| Entry { log_time: LogTime::from_millis(time), frames })
}

/// Every kind of command.
fn command() -> impl Strategy<Value = Command> {
    let id = any::<u32>().prop_map(BackendId::new);
    let keyed = (any::<u32>(), any::<u128>(), any::<u32>(), proptest::option::of((id.clone(), cause())));
    let bind = keyed.prop_map(|(service, key, choice, replaces)| Command::Bind {
        service: ServiceId::new(service),
        key: KeyHash::from_u128(key),
        choice: BackendId::new(choice),
        replaces,
    });
    let weight = proptest::option::of(proptest::option::of(any::<u32>()));
    let expect = proptest::option::of(any::<u64>().prop_map(LogIndex::new));
    let set = (id, proptest::option::of(admin_state()), weight, expect).prop_map(|(backend, admin, weight, expect)| {
        let author = author();
        Command::SetBackend { backend, admin, weight, author, expect }
    });
    let config = (".*", ".*", proptest::option::of(any::<u64>()))
        .prop_map(|(document, id, expect)| apply_config(document, &id, expect));
    let node = (any::<u64>(), ".*", any::<[u8; 32]>()).prop_flat_map(|(node, name, hash)| {
        let id = NodeId::new(node);
        let info = Scenario::labelled(&name, &[("zone", "a"), (&name, "b")]);
        let seen = node.is_multiple_of(2).then(|| Box::new(SeenNode { admin: NodeAdmin::Drain, info: info.clone() }));
        let vip = VipId::new(node as u32);
        let key = KeyHash::from_u128(u128::from(node) << 70);
        prop_oneof![
            Just(init()),
            Just(Command::EnrolNode { token_hash: hash, info: info.clone(), key_fingerprint: hash }),
            Just(Command::UpdateNode { node: id, info }),
            Just(Command::SetNode { node: id, admin: NodeAdmin::Demoted, author: author(), expect: seen.clone() }),
            Just(Command::RemoveNode { node: id, author: author(), lease_secret: Some(hash.into()), expect: seen }),
            Just(Command::IssueUser {
                user: Box::new(UserIdentity {
                    fingerprint: hash,
                    name: name.clone(),
                    role: String::new(),
                    not_after: LogTime::from_millis(node)
                }),
                author: author()
            }),
            Just(Command::RevokeUsers {
                fingerprints: vec![hash; 2],
                names: vec![String::new(), name.clone()],
                author: author()
            }),
            Just(Command::LapseFindings { node: id }),
            Just(Command::RecordVip { vip, owner: Some(id), epoch: node, cause: name }),
            Just(Command::MoveVip { vip, to: None, author: author(), expect: Some(LogIndex::new(node)) }),
            Just(Command::RotateCookieKey { secret: hash.into(), author: author() }),
            Just(Command::CreateJoinToken {
                hash,
                expires: LogTime::from_millis(node),
                role: NodeRole::Witness,
                author: author()
            }),
            Just(Command::SetBinding { service: WEB, key, to: None, pinned: true, author: author() }),
            Just(Command::ReportHealth {
                node: id,
                backend: BackendId::new(node as u32),
                verdict: Verdict::Down,
                detail: "connect: refused".to_owned()
            }),
            Just(Command::Learn { service: WEB, key, teacher: BackendId::new(node as u32) }),
            Just(Command::Renew { service: WEB, key }),
            Just(Command::Tick),
        ]
    });
    prop_oneof![3 => bind, 1 => set, 1 => config, 3 => node]
}

#[test]
fn a_binding_takes_few_bytes_in_the_log() {
    let command = Command::Bind {
        service: ServiceId::new(300),
        key: KeyHash::from_u128(u128::MAX),
        choice: BackendId::new(70_000),
        replaces: None,
    };
    let bytes = codec::encode_commands(&vec![command; 1000]);
    assert!(bytes.len() <= 25 * 1000, "{} bytes", bytes.len());
}

#[test]
fn the_command_that_cannot_be_read_is_known_by_its_place() {
    let frame = |seq, count| Frame { origin: origin(), seq, commands: vec![Command::Tick; count] };
    let entry = Entry { log_time: LogTime::from_millis(1), frames: vec![frame(1, 2), frame(2, 3)] };
    let mut bytes = codec::encode_entry(&entry);
    assert_eq!(codec::unreadable_command(&bytes), None);
    *bytes.last_mut().expect("the last command") = 200;
    assert_eq!(codec::unreadable_command(&bytes), Some(4));
    bytes[0] = 9;
    assert_eq!(codec::unreadable_command(&bytes), None, "it is none of them");
    assert!(codec::decode_entry(&bytes).is_err());
}

#[test]
fn newer_versions_are_refused_in_words() {
    let error = codec::decode_entry(&[9]).expect_err("version 9 is not known");
    assert!(error.to_string().contains("version 9") && error.to_string().contains("upgrade"), "{error}");
    let mut bytes = Vec::new();
    scenario().state.snapshot().write(&mut bytes).expect("a vector takes everything");
    bytes[8] = 7;
    let error = State::read(&mut bytes.as_slice()).expect_err("version 7 is not known");
    assert!(error.to_string().contains("version 7"), "{error}");
    let unknown = br#"{"tick_tock":{"node":1}}"#;
    let mut bytes = vec![1, 5, unknown.len() as u8];
    bytes.extend_from_slice(unknown);
    assert!(codec::decode_commands(&bytes).is_err());
    let extra = br#"{"remove_node":{"node":1,"author":{"name":"","message":""},"force":true}}"#;
    let mut bytes = vec![1, 5, extra.len() as u8];
    bytes.extend_from_slice(extra);
    let error = codec::decode_commands(&bytes).expect_err("a field that is not known");
    assert!(error.to_string().contains("force"), "{error}");
}
