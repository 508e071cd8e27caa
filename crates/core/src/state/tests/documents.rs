//! Documents as a faulty or older node could have proposed them: of the right form, and senseless in every other way.

use proptest::prelude::*;
use serde_json::Value;

use super::scenario::*;
use crate::{
    balance::{Ask, Balancer, HashKey, Load},
    config,
    health::{Machine, Schedule},
    ids::{LogIndex, NodeId, Revision},
    persistence::KeyHash,
    plan::{self, Verdict},
    state::*,
    time::BootNanos,
};

const NODE: NodeId = NodeId::new(1);

/// One change somewhere in a document.
#[derive(Clone, Debug)]
enum Twist {
    Number(u64),
    Text(&'static str),
    Remove,
    Repeat,
    Swap(usize),
}

fn twist() -> impl Strategy<Value = Twist> {
    let texts = [
        "",
        "0ms",
        "1ms",
        "3650d",
        "18446744073709551615ms",
        "0B",
        "1GiB",
        "a",
        "a/b",
        "__x",
        "web",
        "/",
        "//",
        "*",
        "\r\n",
        "0.0.0.0",
        "::",
        "127.0.0.1:0",
        "[::]:65535",
        "100-599",
        "\u{1f600}",
    ];
    prop_oneof![
        4 => prop_oneof![Just(0), Just(1), Just(2), Just(100), Just(1000), any::<u64>()].prop_map(Twist::Number),
        4 => prop::sample::select(texts.to_vec()).prop_map(Twist::Text),
        1 => Just(Twist::Remove),
        2 => Just(Twist::Repeat),
        2 => any::<usize>().prop_map(Twist::Swap),
    ]
}

/// The places of a document, in their order.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                out.push(format!("{at}/{key}"));
                places(value, &format!("{at}/{key}"), out);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                out.push(format!("{at}/{n}"));
                places(item, &format!("{at}/{n}"), out);
            }
        }
        _ => {}
    }
}

fn apply_twist(document: &mut Value, at: prop::sample::Index, twist: &Twist) {
    let mut all = Vec::new();
    places(document, "", &mut all);
    let path = at.get(&all).clone();
    let place = document.pointer_mut(&path).expect("it was listed");
    match twist {
        Twist::Number(number) if place.is_number() => *place = (*number).into(),
        Twist::Text(text) if place.is_string() => *place = (*text).into(),
        Twist::Number(_) | Twist::Text(_) => {}
        Twist::Swap(other) => {
            let other = document.pointer(&all[other % all.len()]).expect("it was listed").clone();
            *document.pointer_mut(&path).expect("it was listed") = other;
        }
        Twist::Remove | Twist::Repeat => {
            let (parent, last) = path.rsplit_once('/').expect("it has a parent");
            match document.pointer_mut(parent).expect("a parent of what was listed") {
                Value::Array(items) => {
                    let n: usize = last.parse().expect("a position");
                    if matches!(twist, Twist::Remove) { drop(items.remove(n)) } else { items.push(items[n].clone()) }
                }
                Value::Object(fields) if matches!(twist, Twist::Remove) => drop(fields.remove(last)),
                _ => {}
            }
        }
    }
}

/// Much to do on every backend.
struct Busy;

impl Load for Busy {
    fn in_flight(&self, index: usize) -> u32 {
        u32::MAX - u32::try_from(index).unwrap_or(0)
    }
}

/// Asks everything that goes by the document in force.
fn use_it(s: &mut Scenario) {
    let plan = plan::compile(&s.state, NODE, 1);
    for farm in &plan.farms {
        for service in &farm.services {
            for (n, backend) in service.backends.iter().enumerate() {
                let verdict = [Verdict::Up, Verdict::Down][n % 2];
                s.run(Command::ReportHealth { node: NODE, backend: backend.id, verdict, detail: String::new() });
                let key = KeyHash::from_u128(n as u128);
                s.run(Command::Bind { service: service.id, key, choice: backend.id, replaces: None });
                let _ = s.state.tables().lookup(service.id, key, s.now);
            }
            if let Some(health) = &service.health {
                let mut schedule = Schedule::new(health, 7, BootNanos::new(1));
                assert!(schedule.begun(BootNanos::new(1)) > BootNanos::new(1), "checks have a pause between them");
                let _ = Machine::new(health).rise_needed();
            }
        }
    }
    let plan = plan::compile(&s.state, NODE, 2);
    for farm in &plan.farms {
        for service in &farm.services {
            let mut balancer = Balancer::new(1);
            let ask = Ask { key: HashKey::from_u64(3), exclude: &[], now_ms: s.now.as_millis() };
            let _ = balancer.pick(service, &Busy, &ask);
        }
    }
    s.wait(60_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_apply_takes_can_be_used_and_replicas_agree(
        twists in proptest::collection::vec((any::<prop::sample::Index>(), twist()), 1..6),
        sample in any::<prop::sample::Index>(),
    ) {
        let examples = config::examples();
        let (_, text) = sample.get(&examples);
        let before = config::parse(text).expect("an example is right");
        let mut json: Value = serde_json::from_str(&before.to_canonical_json()).expect("canonical JSON");
        let mut s = Scenario::founded();
        s.apply(before.to_canonical_json());
        let mut other = s.reread();
        for (at, twist) in &twists {
            apply_twist(&mut json, *at, twist);
        }
        let entry = s.entry(vec![apply_config(json.to_string(), "", None)]);
        let index = LogIndex::new(s.state.applied().get() + 1);
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        s.state.apply(index, &entry, &mut mine);
        other.apply(index, &entry, &mut theirs);
        prop_assert_eq!(&mine, &theirs);
        prop_assert_eq!(s.state.hash(), other.hash());
        if let Outcome::Applied { .. } = mine[0].outcomes[0] {
            let document = s.state.document().expect("in force").clone();
            let _ = config::diff(&before, &document);
            let _ = config::to_yaml(&document);
            use_it(&mut s);
            prop_assert_eq!(s.reread().hash(), s.state.hash());
        } else {
            prop_assert_eq!(s.state.revision(), Revision::new(1));
        }
    }
}

/// What the validator of a release thinks of a document does not decide whether it is applied.
#[test]
fn a_document_that_only_the_validator_refuses_is_applied() {
    let senseless = r#"{"version":1,"farms":[{"name":"shop","listeners":[{"name":"a","vip":"nobody","port":80}]}]}"#;
    assert!(config::parse(senseless).is_err());
    let mut s = Scenario::founded();
    s.apply(senseless.to_owned());
    let plan = plan::compile(&s.state, NODE, 1);
    assert!(plan.farms[0].listeners.is_empty(), "a listener on no VIP is nowhere");
}

#[test]
fn an_entry_under_later_rules_cannot_be_read() {
    let Command::ApplyConfig(mut apply) = apply_config("{}".to_owned(), "", None) else { unreachable!("it is one") };
    let read = |apply: &ApplyConfig| {
        let command = Command::ApplyConfig(Box::new(apply.clone()));
        codec::decode_commands(&codec::encode_commands(&[command]))
    };
    assert!(read(&apply).is_ok());
    apply.rules += 1;
    let error = read(&apply).expect_err("nobody knows them").to_string();
    assert!(error.contains("upgrade this node"), "{error}");
    let first = r#"{"document":"{}","source":"","expect":null,"request_id":"","author":{"name":"","message":""}}"#;
    let first: ApplyConfig = serde_json::from_str(first).expect("an entry from before there were numbers");
    assert_eq!(first.rules, 1);
}
