//! The search held against the definition, every order tried, on small random histories of every model.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Limits, Model, Verdict, brute, check_key};
use crate::history::{Client, History, Operation, Outcome, RunTime};
use crate::models::{
    ClockSlack, ConfigInput, ConfigModel, ConfigOutput, PairInput, PairModel, PairOutput, SessionInput, SessionModel,
    SessionOutput, Versions, unread_alike,
};
use crate::testing::lapse;

const SESSION: SessionModel = SessionModel { clock_slack: ClockSlack::NONE };

fn explained<M: Model>(model: &M, operations: &[Operation<M::Input, M::Output>]) -> bool
where
    M::Input: Clone,
    M::Output: Clone,
{
    let history = History::new(operations.to_vec());
    let all: Vec<usize> = (0..operations.len()).collect();
    let lapse = &lapse::<M::Input, M::Output>;
    match check_key(model, history.operations(), "k", &all, lapse, Limits::default()) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::Undecided(undecided) => panic!("{undecided}"),
    }
}

fn linearizable<M: Model>(model: &M, operations: &[Operation<M::Input, M::Output>]) -> bool {
    brute::linearizable(model, operations, lapse::<M::Input, M::Output>)
}

/// Up to seven operations that overlap in all ways. Most have an answer, right or wrong; of those that have none, some lapse.
fn histories<I, O>(calls: impl Strategy<Value = (I, O)>) -> impl Strategy<Value = Vec<Operation<I, O>>>
where
    I: std::fmt::Debug,
    O: std::fmt::Debug,
{
    let lapses = prop::option::weighted(0.6, 0..8u64);
    let operation = (0..12u64, 0..6u64, calls, 0..10u8, lapses).prop_map(|(from, span, call, fate, lapses)| {
        let (input, output) = call;
        let outcome = match fate {
            0..3 => Outcome::Unknown,
            3 => Outcome::Fail,
            _ => Outcome::Ok(output),
        };
        let (invoked, completed) = (RunTime::from_millis(from), RunTime::from_millis(from + span));
        let note = lapses.map(|after| (from + after).to_string()).unwrap_or_default();
        let key = String::from("k");
        Operation { client: Client::new(0), invoked, completed, key, input, outcome, note }
    });
    prop::collection::vec(operation, 0..8)
}

/// Two that may be read, and two that never are.
const VALUES: [&str; 4] = ["0", "1", "a", "b"];

const CASES: u32 = 4000;

fn sessions() -> impl Strategy<Value = Vec<Operation<SessionInput, SessionOutput>>> {
    let input = prop_oneof![
        3 => Just(SessionInput::Get),
        3 => (0..4usize, prop::option::weighted(0.3, 2..9u64))
            .prop_map(|(value, px)| SessionInput::Set { value: VALUES[value].to_owned(), px }),
        1 => Just(SessionInput::SetNx { value: String::from("1"), px: None }),
        1 => Just(SessionInput::Del),
        1 => Just(SessionInput::GetDel),
        1 => Just(SessionInput::Incr),
        1 => (1..5u64).prop_map(|px| SessionInput::Expire { px }),
    ];
    histories((input, 0..3usize, any::<bool>()).prop_map(|(input, answer, flag)| {
        let output = match input {
            SessionInput::Get | SessionInput::GetDel => {
                SessionOutput::Value((answer < 2).then(|| VALUES[answer].to_owned()))
            }
            SessionInput::Set { .. } => SessionOutput::Done,
            SessionInput::Incr => SessionOutput::Number(answer as i64),
            _ => SessionOutput::Flag(flag),
        };
        (input, output)
    }))
}

fn configs() -> impl Strategy<Value = Vec<Operation<ConfigInput, ConfigOutput>>> {
    let value = |number: u64| VALUES[number as usize % 2].to_owned();
    histories((0..5u8, 0..3u64, 1..4u64, any::<bool>()).prop_map(move |(kind, expected, version, fails)| match kind {
        0 | 1 if fails && version == 1 => (ConfigInput::Read, ConfigOutput::Absent),
        0 | 1 => (ConfigInput::Read, ConfigOutput::Found { version, value: value(expected) }),
        2 if fails => (ConfigInput::Cas { expected, value: value(version) }, ConfigOutput::Conflict),
        2 => (ConfigInput::Cas { expected, value: value(version) }, ConfigOutput::Written { version }),
        3 => (ConfigInput::Write { value: value(expected) }, ConfigOutput::Written { version }),
        _ if fails => (ConfigInput::Remove { expected }, ConfigOutput::Conflict),
        _ => (ConfigInput::Remove { expected }, ConfigOutput::Removed),
    }))
}

fn pairs() -> impl Strategy<Value = Vec<Operation<PairInput, PairOutput>>> {
    let input = prop_oneof![
        2 => Just(PairInput::Read),
        1 => Just(PairInput::Move { by: 1 }),
        1 => Just(PairInput::Move { by: -1 }),
        1 => (-1..2i64).prop_map(|one| PairInput::MoveIf { seen: (one, -one), by: 1 }),
    ];
    histories((input, -1..3i64).prop_map(|(input, one)| (input, PairOutput::Both(one, -one))))
}

fn without_lives(
    mut operations: Vec<Operation<SessionInput, SessionOutput>>,
) -> Vec<Operation<SessionInput, SessionOutput>> {
    operations.retain(|operation| !matches!(operation.input, SessionInput::Expire { .. }));
    for operation in &mut operations {
        if let SessionInput::Set { px, .. } = &mut operation.input {
            *px = None;
        }
    }
    operations
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES, failure_persistence: None, rng_seed: RngSeed::Fixed(1990), ..ProptestConfig::default()
    })]

    #[test]
    fn of_sessions(operations in sessions().prop_map(without_lives)) {
        prop_assert_eq!(explained(&SESSION, &operations), linearizable(&SESSION, &operations));
    }

    /// What reads certainly came before is not used to date what came after, so that now and then a history with lives is
    /// explained that the definition refuses; never the other way around.
    #[test]
    fn of_sessions_with_lives_nothing_is_refused_that_is_allowed(operations in sessions()) {
        prop_assert!(explained(&SESSION, &operations) || !linearizable(&SESSION, &operations));
    }

    #[test]
    fn what_nobody_read_may_as_well_be_alike(operations in sessions()) {
        let alike = unread_alike(&History::new(operations.clone()));
        prop_assert_eq!(explained(&SESSION, alike.operations()), explained(&SESSION, &operations));
    }

    #[test]
    fn of_pairs(operations in pairs()) {
        prop_assert_eq!(explained(&PairModel, &operations), linearizable(&PairModel, &operations));
    }

    #[test]
    fn of_configuration(operations in configs(), shared in any::<bool>()) {
        let model = ConfigModel { versions: if shared { Versions::Shared } else { Versions::Own } };
        prop_assert_eq!(explained(&model, &operations), linearizable(&model, &operations));
    }
}
