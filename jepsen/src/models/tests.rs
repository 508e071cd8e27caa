//! Each model by what it must allow and refuse, told as one client's or several clients' short histories.

use std::fmt::Debug;
use std::time::Duration;

use super::*;
use crate::history::{Client, History, Operation, Outcome, RunTime};
use crate::linear::{Limits, Model, Verdict, check};
use crate::time::Span;

/// One operation: when it began and ended in milliseconds, what was asked and, if it is known, answered.
type Line<I, O> = (u64, u64, I, Option<O>);

fn explained<M: Model>(model: &M, lines: Vec<Line<M::Input, M::Output>>) -> bool
where
    M::Input: Clone + Debug,
    M::Output: Clone + Debug,
{
    let operation = |(from, to, input, output): Line<M::Input, M::Output>| Operation {
        client: Client::new(0),
        invoked: RunTime::from_millis(from),
        completed: RunTime::from_millis(to),
        key: String::from("k"),
        input,
        outcome: output.map_or(Outcome::Unknown, Outcome::Ok),
        note: String::new(),
    };
    match check(model, &History::new(lines.into_iter().map(operation).collect()), Limits::default()) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::Undecided(undecided) => panic!("{undecided}"),
    }
}

mod session {
    use super::*;

    fn allows(slack: u64, lines: Vec<Line<SessionInput, SessionOutput>>) -> bool {
        explained(&SessionModel { clock_slack: ClockSlack::fixed(Duration::from_millis(slack)) }, lines)
    }

    fn get(from: u64, to: u64, value: &str) -> Line<SessionInput, SessionOutput> {
        let value = (value != "nil").then(|| value.to_owned());
        (from, to, SessionInput::Get, Some(SessionOutput::Value(value)))
    }

    fn set(from: u64, to: u64, value: &str, px: Option<u64>) -> Line<SessionInput, SessionOutput> {
        (from, to, SessionInput::Set { value: value.to_owned(), px }, Some(SessionOutput::Done))
    }

    fn unknown(line: Line<SessionInput, SessionOutput>) -> Line<SessionInput, SessionOutput> {
        (line.0, line.1, line.2, None)
    }

    #[test]
    fn a_life_may_end_between_its_earliest_and_its_latest_end() {
        // Set between 10 and 20 for 100, with a slack of 5: it ends between 105 and 125.
        let then = |line| allows(5, vec![set(10, 20, "a", Some(100)), line]);
        assert!(then(get(103, 104, "a")) && !then(get(103, 104, "nil")));
        assert!(then(get(104, 105, "a")) && then(get(104, 105, "nil")));
        assert!(then(get(124, 130, "a")) && then(get(124, 130, "nil")));
        assert!(!then(get(125, 130, "a")) && then(get(125, 130, "nil")));
    }

    #[test]
    fn gone_is_gone() {
        let life = set(10, 20, "a", Some(100));
        assert!(allows(5, vec![life.clone(), get(106, 108, "a"), get(110, 111, "nil")]));
        assert!(!allows(5, vec![life, get(106, 108, "nil"), get(110, 111, "a")]));
    }

    #[test]
    fn a_life_of_unknown_beginning_is_dated_by_what_saw_it() {
        // It was there by 20, so that it began by then and is over at 120.
        let lines = |seen| vec![unknown(set(0, 5, "a", Some(100))), get(19, 20, "a"), seen];
        assert!(allows(0, lines(get(119, 125, "a"))));
        assert!(!allows(0, lines(get(120, 125, "a"))));
        // Nobody saw it: it may begin later.
        assert!(allows(0, vec![unknown(set(0, 5, "a", Some(100))), get(300, 301, "a")]));
        // What it was certainly written after dates it too.
        let late = |seen| vec![unknown(set(0, 5, "a", Some(100))), set(300, 301, "b", None), get(302, 303, "a"), seen];
        assert!(!allows(0, late(get(390, 399, "nil"))));
        assert!(allows(0, late(get(390, 400, "nil"))));
    }

    #[test]
    fn rates_count_over_long_lives() {
        let model = |rate_per_mille| SessionModel { clock_slack: ClockSlack { rate_per_mille, ..ClockSlack::NONE } };
        let lines = || vec![set(0, 0, "a", Some(60_000)), get(55_000, 55_001, "nil")];
        assert!(!explained(&model(0), lines()));
        assert!(explained(&model(100), lines()));
    }

    #[test]
    fn a_dead_time_that_a_key_did_not_see_excuses_none_of_its_lives() {
        let span = |from, until| Span::new(RunTime::from_millis(from), RunTime::from_millis(until));
        let dead = [span(400, 600), span(5000, 9000)];
        let late = |asked| {
            let clock_slack = ClockSlack::fixed(Duration::from_millis(5)).within(asked, &dead);
            explained(&SessionModel { clock_slack }, vec![set(10, 20, "a", Some(100)), get(320, 330, "a")])
        };
        assert!(!late(span(10, 330)), "both came later");
        assert!(!late(span(700, 4000)), "one before, one after");
        assert!(late(span(10, 400)), "a life may have been put off by 200 ms");
    }

    #[test]
    fn set_ends_a_life_and_incr_keeps_it() {
        assert!(!allows(0, vec![set(0, 1, "1", Some(10)), set(2, 3, "2", None), get(50, 51, "nil")]));
        let incr = (2, 3, SessionInput::Incr, Some(SessionOutput::Number(2)));
        assert!(!allows(0, vec![set(0, 1, "1", Some(10)), incr.clone(), get(50, 51, "2")]));
        assert!(allows(0, vec![set(0, 1, "1", Some(10)), incr, get(50, 51, "nil")]));
    }

    #[test]
    fn expire_and_persist_need_something_to_be_there() {
        let expire = |from, px, done| (from, from + 1, SessionInput::Expire { px }, Some(SessionOutput::Flag(done)));
        let persist = |from, done| (from, from + 1, SessionInput::Persist, Some(SessionOutput::Flag(done)));
        assert!(allows(0, vec![expire(0, 5, false), set(2, 3, "a", None), expire(4, 5, true), get(20, 21, "nil")]));
        assert!(!allows(0, vec![set(2, 3, "a", None), expire(4, 5, true), get(20, 21, "a")]));
        assert!(!allows(0, vec![expire(0, 5, true)]));
        assert!(allows(0, vec![set(0, 1, "a", Some(9)), persist(2, true), persist(4, false), get(50, 51, "a")]));
        assert!(allows(0, vec![set(0, 1, "a", None), expire(2, 0, true), get(4, 5, "nil")]));
        assert!(!allows(0, vec![set(0, 1, "a", None), expire(2, 0, true), get(4, 5, "a")]));
    }

    #[test]
    fn conditions_are_told_truly() {
        let set_nx = |from, done| {
            let input = SessionInput::SetNx { value: String::from("n"), px: Some(10) };
            (from, from + 1, input, Some(SessionOutput::Flag(done)))
        };
        let del = |from, done| (from, from + 1, SessionInput::Del, Some(SessionOutput::Flag(done)));
        assert!(allows(0, vec![set_nx(0, true), set_nx(2, false), set_nx(30, true), del(32, true), del(34, false)]));
        assert!(!allows(0, vec![set_nx(0, true), set_nx(2, true)]));
        assert!(!allows(0, vec![set_nx(0, true), set_nx(30, false)]));
        assert!(!allows(0, vec![del(0, true)]));
        let get_del = (2, 3, SessionInput::GetDel, Some(SessionOutput::Value(Some(String::from("a")))));
        assert!(allows(0, vec![set(0, 1, "a", None), get_del.clone(), get(4, 5, "nil")]));
        assert!(!allows(0, vec![set(0, 1, "a", None), get_del, get(4, 5, "a")]));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let incr = (2, 3, SessionInput::Incr, Some(SessionOutput::Refused));
        assert!(allows(0, vec![set(0, 1, "a", None), incr.clone(), get(4, 5, "a")]));
        assert!(!allows(0, vec![set(0, 1, "7", None), incr.clone()]));
        assert!(allows(0, vec![set(0, 1, "9223372036854775807", None), incr.clone()]));
        assert!(allows(0, vec![set(0, 1, "007", None), incr]));
    }
}

mod pair {
    use super::*;

    type PairLine = Line<PairInput, PairOutput>;

    fn allows(lines: Vec<PairLine>) -> bool {
        explained(&PairModel, lines)
    }

    fn read(at: u64, one: i64, other: i64) -> PairLine {
        (at, at + 1, PairInput::Read, Some(PairOutput::Both(one, other)))
    }

    fn moved(at: u64, by: i64, one: i64, other: i64) -> PairLine {
        (at, at + 1, PairInput::Move { by }, Some(PairOutput::Both(one, other)))
    }

    fn watched(at: u64, seen: PairState, by: i64) -> PairLine {
        let output = PairOutput::Both(seen.0 + by, seen.1 - by);
        (at, at + 1, PairInput::MoveIf { seen, by }, Some(output))
    }

    fn unknown(line: PairLine) -> PairLine {
        (line.0, line.1, line.2, None)
    }

    #[test]
    fn what_one_loses_the_other_gains_at_once() {
        assert!(allows(vec![read(0, 0, 0), moved(2, 5, 5, -5), moved(4, -7, -2, 2), read(6, -2, 2)]));
        assert!(!allows(vec![moved(0, 5, 5, 0)]));
        assert!(!allows(vec![moved(0, 5, 5, -5), read(2, 5, 0)]));
        assert!(!allows(vec![(0, 1, PairInput::Read, Some(PairOutput::Other(String::from("QUEUED"))))]));
    }

    #[test]
    fn a_move_that_is_under_way_is_seen_whole_or_not_at_all() {
        let then = |mut reads: Vec<PairLine>| {
            reads.push((0, 9, PairInput::Move { by: 5 }, Some(PairOutput::Both(5, -5))));
            allows(reads)
        };
        assert!(then(vec![read(1, 0, 0), read(3, 5, -5)]));
        assert!(!then(vec![read(1, 5, 0)]) && !then(vec![read(1, 0, -5)]));
        assert!(!then(vec![read(1, 5, -5), read(3, 0, 0)]));
    }

    #[test]
    fn a_move_is_made_once_and_one_of_unknown_outcome_at_most_once() {
        assert!(!allows(vec![moved(0, 5, 5, -5), read(2, 0, 0)]));
        assert!(!allows(vec![moved(0, 5, 5, -5), read(2, 10, -10)]));
        assert!(!allows(vec![moved(0, 5, 5, -5), moved(2, 5, 5, -5)]));
        let maybe = |mut reads: Vec<PairLine>| {
            reads.push(unknown(moved(0, 5, 5, -5)));
            allows(reads)
        };
        assert!(maybe(vec![read(2, 0, 0), read(4, 5, -5)]));
        assert!(maybe(vec![read(2, 5, -5)]));
        assert!(!maybe(vec![read(2, 5, 0)]) && !maybe(vec![read(2, 10, -10)]));
        assert!(!maybe(vec![read(2, 5, -5), read(4, 0, 0)]));
    }

    #[test]
    fn what_was_watched_is_moved_as_it_was_seen_or_not_at_all() {
        assert!(allows(vec![moved(0, 5, 5, -5), watched(2, (5, -5), 1), read(4, 6, -6)]));
        // Another move came between the look and this one, and would be lost.
        assert!(!allows(vec![moved(0, 5, 5, -5), watched(2, (0, 0), 1), read(4, 1, -1)]));
        let maybe = |seen, mut others: Vec<PairLine>| {
            others.push(unknown(watched(0, seen, 1)));
            allows(others)
        };
        assert!(maybe((0, 0), vec![read(2, 1, -1)]));
        assert!(!maybe((5, -5), vec![read(2, 1, -1)]));
        assert!(maybe((5, -5), vec![moved(2, 5, 5, -5), read(4, 6, -6)]));
        assert!(!maybe((0, 0), vec![moved(2, 5, 5, -5), read(4, 6, -6), read(6, 5, -5)]));
    }
}

mod config {
    use super::*;

    fn allows(versions: Versions, lines: Vec<Line<ConfigInput, ConfigOutput>>) -> bool {
        explained(&ConfigModel { versions }, lines)
    }

    fn own(lines: Vec<Line<ConfigInput, ConfigOutput>>) -> bool {
        allows(Versions::Own, lines)
    }

    fn cas(at: u64, expected: u64, value: &str, output: Option<ConfigOutput>) -> Line<ConfigInput, ConfigOutput> {
        (at, at + 1, ConfigInput::Cas { expected, value: value.to_owned() }, output)
    }

    fn read(at: u64, version: u64, value: &str) -> Line<ConfigInput, ConfigOutput> {
        (at, at + 1, ConfigInput::Read, Some(ConfigOutput::Found { version, value: value.to_owned() }))
    }

    fn written(version: u64) -> Option<ConfigOutput> {
        Some(ConfigOutput::Written { version })
    }

    #[test]
    fn only_who_expects_what_is_in_force_may_write() {
        assert!(own(vec![cas(0, 0, "a", written(4)), cas(2, 4, "b", written(9)), read(4, 9, "b")]));
        assert!(!own(vec![cas(0, 0, "a", written(4)), cas(2, 0, "b", written(9))]));
        assert!(!own(vec![cas(0, 0, "a", written(4)), cas(2, 4, "b", written(3))]));
        assert!(!own(vec![cas(0, 0, "a", written(4)), cas(2, 4, "b", Some(ConfigOutput::Conflict))]));
        assert!(own(vec![cas(0, 0, "a", written(4)), cas(2, 3, "b", Some(ConfigOutput::Conflict)), read(4, 4, "a")]));
        assert!(!own(vec![cas(0, 0, "a", written(4)), read(2, 4, "b")]));
        assert!(!own(vec![cas(0, 0, "a", written(4)), read(2, 5, "a")]));
    }

    #[test]
    fn two_cannot_win() {
        let race = |first, second| {
            vec![
                cas(0, 0, "a", written(1)),
                (2, 9, cas(0, 1, "b", None).2, first),
                (2, 9, cas(0, 1, "c", None).2, second),
            ]
        };
        assert!(own(race(written(2), Some(ConfigOutput::Conflict))));
        assert!(!own(race(written(2), written(3))));
    }

    #[test]
    fn the_version_of_an_unknown_write_is_found_out_once() {
        let lines = |then| vec![cas(0, 0, "a", written(4)), cas(2, 4, "b", None), read(4, 7, "b"), then];
        assert!(own(lines(cas(6, 7, "c", written(8)))));
        assert!(!own(lines(read(6, 8, "b"))));
        assert!(!own(lines(read(6, 4, "a"))));
        assert!(!own(vec![cas(0, 0, "a", written(4)), cas(2, 4, "b", None), read(4, 4, "b")]));
    }

    #[test]
    fn writing_the_same_may_make_no_version() {
        assert!(own(vec![cas(0, 0, "a", written(4)), cas(2, 4, "a", written(4)), read(4, 4, "a")]));
        assert!(own(vec![cas(0, 0, "a", written(4)), cas(2, 4, "a", None), read(4, 4, "a")]));
        assert!(!own(vec![cas(0, 0, "a", written(4)), cas(2, 4, "b", written(4))]));
    }

    #[test]
    fn what_was_removed_is_gone_and_its_versions_used() {
        let remove = |at, expected| (at, at + 1, ConfigInput::Remove { expected }, Some(ConfigOutput::Removed));
        let absent = |at| (at, at + 1, ConfigInput::Read, Some(ConfigOutput::Absent));
        assert!(own(vec![absent(0), cas(2, 0, "a", written(4)), remove(4, 4), absent(6), cas(8, 0, "b", written(5))]));
        assert!(!own(vec![cas(2, 0, "a", written(4)), remove(4, 4), read(6, 4, "a")]));
        assert!(!own(vec![cas(2, 0, "a", written(4)), remove(4, 3)]));
        assert!(!own(vec![cas(2, 0, "a", written(4)), remove(4, 4), cas(8, 0, "b", written(4))]));
    }

    #[test]
    fn others_may_make_versions_where_they_are_shared() {
        let lines = || vec![cas(0, 0, "a", written(4)), read(2, 6, "a"), cas(4, 7, "b", written(8))];
        assert!(allows(Versions::Shared, lines()) && !own(lines()));
        assert!(!allows(Versions::Shared, vec![cas(0, 0, "a", written(4)), read(2, 6, "a"), read(4, 5, "a")]));
        assert!(!allows(
            Versions::Shared,
            vec![cas(0, 0, "a", written(4)), cas(2, 4, "b", written(8)), read(4, 9, "a")]
        ));
    }
}
