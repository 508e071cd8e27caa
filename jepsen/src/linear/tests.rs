use std::time::Duration;

use super::*;
use crate::history::{Client, Outcome, RunTime};
use crate::models::{ClockSlack, SessionInput, SessionModel, SessionOutput, unread_alike};
use crate::testing::{Dice, Program, SessionOperation, lapse, run};

const MODEL: SessionModel = SessionModel { clock_slack: ClockSlack::NONE };

fn judge(history: &History<SessionInput, SessionOutput>) -> Verdict {
    let mut verdicts = verdicts_by(|_| MODEL, history, lapse, Limits::default()).map(|(_, verdict)| verdict);
    verdicts.find(|verdict| *verdict != Verdict::Linearizable).unwrap_or(Verdict::Linearizable)
}

/// Operations as `client from..to command -> answer` with milliseconds; an answer of `?` is unknown, `?50` takes effect until then
/// if it does, `!` failed.
fn written(text: &str) -> History<SessionInput, SessionOutput> {
    let operation = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (from, to) = words[1].split_once("..").unwrap();
        let at = |text: &str| RunTime::from_millis(text.parse().unwrap());
        let input = match words[2] {
            "get" => SessionInput::Get,
            "del" => SessionInput::Del,
            "incr" => SessionInput::Incr,
            set => SessionInput::Set { value: set.strip_prefix("set:").unwrap().to_owned(), px: None },
        };
        let unknown = words[4].strip_prefix('?');
        let outcome = match (words[4], &input) {
            _ if unknown.is_some() => Outcome::Unknown,
            ("!", _) => Outcome::Fail,
            ("nil", _) => Outcome::Ok(SessionOutput::Value(None)),
            (_, SessionInput::Set { .. }) => Outcome::Ok(SessionOutput::Done),
            (number, SessionInput::Incr) => Outcome::Ok(SessionOutput::Number(number.parse().unwrap())),
            (flag, SessionInput::Del) => Outcome::Ok(SessionOutput::Flag(flag == "1")),
            (value, _) => Outcome::Ok(SessionOutput::Value(Some(value.to_owned()))),
        };
        let (client, key) = (Client::new(words[0].parse().unwrap()), String::from("k"));
        let note = unknown.unwrap_or_default().to_owned();
        Operation { client, invoked: at(from), completed: at(to), key, input, outcome, note }
    };
    History::new(text.lines().filter(|line| !line.trim().is_empty()).map(operation).collect())
}

#[track_caller]
fn good(text: &str) {
    assert_eq!(judge(&written(text)), Verdict::Linearizable);
}

#[track_caller]
fn bad(text: &str, culprit: usize) -> Violation {
    match judge(&written(text)) {
        Verdict::Violation(violation) => {
            assert_eq!(violation.culprit, culprit, "{violation}");
            *violation
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_linearizable() {
    good("");
}

#[test]
fn concurrent_reads_see_either_but_not_new_then_old() {
    good("1 0..9 set:a -> ok\n 2 1..2 get -> nil\n 3 3..4 get -> a");
    bad("1 0..9 set:a -> ok\n 2 1..2 get -> a\n 3 3..4 get -> nil", 2);
}

#[test]
fn what_touches_in_time_is_concurrent() {
    good("1 0..5 set:a -> ok\n 2 5..6 get -> nil");
    bad("1 0..5 set:a -> ok\n 2 6..7 get -> nil", 1);
}

#[test]
fn stale_reads_are_found() {
    bad("1 0..1 set:a -> ok\n 1 2..3 set:b -> ok\n 2 4..5 get -> a", 2);
}

#[test]
fn unknown_writes_take_effect_late_once_or_never() {
    good("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?\n 1 4..5 get -> a\n 1 6..7 get -> b\n 1 8..9 get -> b");
    good("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?\n 1 4..5 get -> a");
    bad("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?\n 1 4..5 get -> b\n 1 6..7 get -> a", 3);
    bad("1 0..1 get -> b\n 2 2..3 set:b -> ?", 0);
}

#[test]
fn what_lapses_takes_effect_in_time_or_never() {
    let text =
        |lapse: u64| format!("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?{lapse}\n 1 60..61 get -> a\n 1 70..71 get -> b");
    good(&text(60));
    good(&text(65));
    let violation = bad(&text(59), 3);
    assert_eq!((violation.window, violation.possible.len()), (vec![3], 1));
    assert!(violation.text.contains("if what had lapsed could still take effect"), "{}", violation.text);
    assert!(violation.text.contains("client 2: Set { value: \"b\", px: None } -> unknown, lapsed at 0.059000 s"));
    assert!(!violation.text.contains("may still take effect"), "{}", violation.text);
    // In time, and seen late.
    good("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?50\n 1 70..71 get -> b\n 1 80..81 get -> b");
    bad("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?50\n 1 70..71 get -> b\n 1 80..81 get -> a", 3);
    // What completed in between came after it.
    bad("1 0..1 incr -> ?9\n 2 10..11 set:7 -> ok\n 2 12..13 get -> 8", 2);
    good("1 0..1 incr -> ?10\n 2 10..11 set:7 -> ok\n 2 12..13 get -> 7");
    good("1 0..1 incr -> ?11\n 2 10..11 set:7 -> ok\n 2 12..13 get -> 8");
}

#[test]
fn what_is_wrong_at_any_time_is_not_laid_to_what_lapsed() {
    let violation = bad("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?50\n 1 60..61 get -> c", 2);
    assert!(!violation.text.contains("lapsed"), "{}", violation.text);
}

#[test]
fn what_lapses_is_overtaken_by_what_is_under_way() {
    // Only a read that needs it tells that the deletion came after what it deletes, and both before the read.
    good("1 0..1 set:x -> ?50\n 2 0..200 del -> 1\n 3 100..110 get -> nil");
    bad("1 0..1 set:x -> ?50\n 3 55..58 get -> nil\n 2 60..200 del -> 1", 2);
    // Of two that are under way together, that which lapses first may come last.
    good("1 0..1 incr -> ?50\n 2 0..200 set:5 -> ok\n 3 100..110 get -> 6");
    bad("1 0..1 incr -> ?50\n 2 60..200 set:5 -> ok\n 3 100..110 get -> 6", 2);
}

#[test]
fn of_two_that_ask_the_same_each_lapses_at_its_own_time() {
    let twins = |first: &str, second: &str| {
        format!("1 0..1 incr -> {first}\n 2 2..3 incr -> {second}\n 3 20..21 get -> nil\n 3 40..41 get -> 1")
    };
    good(&twins("?10", "?30"));
    good(&twins("?30", "?10"));
    good(&twins("?10", "?"));
    good(&twins("?", "?10"));
    bad(&twins("?10", "?10"), 3);
    let both =
        |lapse: &str| format!("1 0..1 incr -> ?30\n 2 2..3 incr -> {lapse}\n 3 20..21 get -> nil\n 3 40..41 get -> 2");
    good(&both("?30"));
    good(&both("?"));
    bad(&both("?10"), 3);
}

#[test]
fn many_that_lapse_are_no_trouble() {
    let lapsing: String = (0..60).map(|n| format!("{n} {n}..{n} set:u{n} -> ?{}\n", n + 200)).collect();
    let reads = |value: &str| format!("90 400..401 get -> {value}\n 90 500..501 get -> {value}\n");
    for value in ["u0", "u30", "u59", "nil"] {
        good(&format!("{lapsing}{}", reads(value)));
    }
    bad(&format!("{lapsing}{}90 600..601 get -> u3", reads("u30")), 62);
}

#[test]
fn failed_writes_are_never_seen() {
    bad("1 0..1 set:a -> ok\n 2 2..3 set:b -> !\n 1 4..5 get -> b", 2);
}

#[test]
fn a_lost_update_is_found() {
    good("1 0..9 incr -> 1\n 2 0..9 incr -> 2");
    bad("1 0..9 incr -> 1\n 2 0..9 incr -> 1", 1);
}

#[test]
fn unknown_increments_count_at_most_once_each() {
    good("1 0..1 incr -> ?\n 2 0..1 incr -> ?\n 3 2..3 get -> 2");
    bad("1 0..1 incr -> ?\n 2 0..1 incr -> ?\n 3 2..3 get -> 3", 2);
}

#[test]
fn only_the_last_quiet_window_is_told() {
    let text = "1 0..1 set:a -> ok\n 1 2..3 set:b -> ok\n 2 4..8 set:c -> ok\n 3 5..6 get -> a";
    let violation = bad(text, 3);
    assert_eq!(violation.window, [2, 3]);
    assert_eq!(violation.before, [r#"Present { value: "b", end: None }"#]);
    assert_eq!(violation.possible.len(), 2, "{violation}");
    assert!(violation.text.contains(r#"#3 0.005000 s .. 0.006000 s client 3: Get -> Value(Some("a"))"#), "{violation}");
}

#[test]
fn keys_are_judged_apart() {
    let mut operations = written("1 0..1 set:a -> ok\n 2 2..3 get -> nil").operations().to_vec();
    operations[1].key = String::from("other");
    assert_eq!(judge(&History::new(operations)), Verdict::Linearizable);
}

#[test]
fn what_is_ruled_counts_keys_and_outcomes() {
    use crate::verdict::{Promise, Ruling};
    let rule = |text: &str| super::judge(Promise::Sessions, &MODEL, &written(text), Limits::default());
    let judgement = rule("1 0..1 set:a -> ok\n 2 2..3 set:b -> ?\n 1 4..5 get -> c");
    assert_eq!((judgement.ruling, judgement.findings.len()), (Ruling::Violated, 1));
    let counts: Vec<_> = judgement.counts.iter().map(|(name, number)| (name.as_str(), *number)).collect();
    assert_eq!(counts, [("failed", 0), ("keys", 1), ("operations", 2), ("unknown", 1)]);
    assert_eq!(rule("1 0..1 set:a -> ok").ruling, Ruling::Held);
    assert_eq!(rule("1 0..1 set:a -> ?").ruling, Ruling::Undecided);
}

#[test]
fn limits_leave_it_undecided() {
    let lines: String = (0..12).map(|client| format!("{client} 0..9 set:v{client} -> ok\n")).collect();
    let history = written(&format!("{lines} 20 10..11 get -> no"));
    let limits = Limits { configurations_max: 100, ..Limits::default() };
    let Verdict::Undecided(undecided) = check(&MODEL, &history, limits) else { panic!("decided") };
    assert_eq!((undecided.of, undecided.unknown), (13, 0), "{undecided}");
    assert!(matches!(judge(&history), Verdict::Violation(_)));
}

#[test]
fn a_limit_that_ends_the_last_try_leaves_it_undecided() {
    let lines: String = (0..12).map(|client| format!("{client} 0..9 set:v{client} -> ok\n")).collect();
    let history = written(&format!("{lines} 20 1..5 get -> no"));
    let few = Limits { configurations_max: 5, ..Limits::default() };
    let short = Limits { steps_max: 5, ..Limits::default() };
    for limits in [few, short] {
        let verdict = check(&MODEL, &history, limits);
        assert!(matches!(verdict, Verdict::Undecided(_)), "{limits:?}: {verdict:?}");
    }
    assert!(matches!(judge(&history), Verdict::Violation(_)));
}

#[test]
fn many_unknown_writes_are_no_trouble() {
    let unknown: String = (0..500).map(|n| format!("{n} {n}..{n} set:u{n} -> ?\n")).collect();
    let reads: String = (0..100).map(|n| format!("900 {}..{} get -> u{}\n", 600 + 2 * n, 601 + 2 * n, n * 5)).collect();
    good(&format!("{unknown}{reads}"));
    bad(&format!("{unknown}{reads} 900 900..901 get -> u0"), 600);
}

#[test]
fn what_a_register_did_is_linearizable() {
    for seed in 0..40 {
        let program = Program { keys: 1 + seed % 20, operations: 1500, unknown_percent: seed % 8, ..Program::USUAL };
        assert_eq!(judge(&run(program, 0, seed)), Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn a_hot_key_is_judged_too() {
    let program = Program { keys: 1, operations: 4000, ..Program::USUAL };
    assert_eq!(judge(&unread_alike(&run(program, 0, 1))), Verdict::Linearizable);
}

#[test]
fn a_long_run_is_judged_in_no_time() {
    let program = Program { operations: 100_000, ..Program::USUAL };
    let verdict = check(&MODEL, &run(program, 0, 2017), Limits { steps_max: 1_000_000, ..Limits::default() });
    assert_eq!(verdict, Verdict::Linearizable);
}

#[test]
fn what_a_register_with_lives_did_is_linearizable() {
    let slack = Duration::from_millis(1);
    let model = SessionModel { clock_slack: ClockSlack::fixed(slack) };
    for seed in 0..40 {
        let program = Program { keys: 2 + seed % 20, operations: 1000, lives: true, ..Program::USUAL };
        let history = run(program, slack.as_nanos() as u64, seed);
        assert_eq!(check(&model, &history, Limits::default()), Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn injected_stale_reads_are_found() {
    for seed in 0..40 {
        let program = Program { keys: 1 + seed % 10, operations: 1000, plain: true, ..Program::USUAL };
        let mut operations = run(program, 0, seed).operations().to_vec();
        let Some(read) = make_stale(&mut operations, &mut Dice(seed)) else { panic!("seed {seed}: nothing to spoil") };
        let Verdict::Violation(violation) = judge(&History::new(operations)) else { panic!("seed {seed}: not found") };
        assert_eq!(violation.culprit, read, "seed {seed}: {violation}");
    }
}

/// Lets a read answer what was certainly overwritten before it began, and gives its place.
fn make_stale(operations: &mut [SessionOperation], dice: &mut Dice) -> Option<usize> {
    let is_set = |operation: &SessionOperation| {
        matches!((&operation.input, &operation.outcome), (SessionInput::Set { .. }, Outcome::Ok(_)))
    };
    let from = operations.len() / 2 + dice.below(100) as usize;
    for index in from..operations.len() {
        let read = &operations[index];
        if read.input != SessionInput::Get || !matches!(read.outcome, Outcome::Ok(_)) {
            continue;
        }
        let earlier = |before: RunTime| {
            operations.iter().rfind(|other| is_set(other) && other.key == read.key && other.completed < before)
        };
        let Some(older) = earlier(read.invoked).and_then(|newer| earlier(newer.invoked)) else { continue };
        let SessionInput::Set { value, .. } = older.input.clone() else { unreachable!("only sets are asked for") };
        operations[index].outcome = Outcome::Ok(SessionOutput::Value(Some(value)));
        return Some(index);
    }
    None
}
