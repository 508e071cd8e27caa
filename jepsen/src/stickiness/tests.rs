use super::*;
use crate::time::RunTime;

fn seen(client: &str, from: u64, until: u64, backend: &str) -> Observation {
    let span = Span::new(RunTime::from_millis(from), RunTime::from_millis(until));
    let (farm, client, backend) = (String::from("shop"), client.to_owned(), backend.to_owned());
    Observation { farm, client, backend, via: String::from("node 1"), bound: true, span }
}

fn unbound(from: u64, until: u64, backend: &str) -> Observation {
    Observation { bound: false, ..seen("c", from, until, backend) }
}

fn down(backend: &str, from: u64, until: u64) -> Cause {
    let span = Span::new(RunTime::from_millis(from), RunTime::from_millis(until));
    Cause { reason: Reason::Down, farm: String::from("shop"), client: None, backend: Some(backend.to_owned()), span }
}

fn judge(observations: &[Observation], causes: &[Cause]) -> Vec<Stray> {
    let found = check_stickiness(observations, causes);
    assert_eq!(found.undecided, Vec::<String>::new());
    found.strays
}

#[test]
fn who_stays_is_no_stray() {
    let stays: Vec<_> = (0..50).map(|n| seen("c", n * 2, n * 2 + 3, "a")).collect();
    assert_eq!(judge(&stays, &[]), []);
    let other = [seen("c", 0, 1, "a"), seen("d", 2, 3, "b")];
    assert_eq!(judge(&other, &[]), []);
}

#[test]
fn a_change_without_a_cause_is_told_with_both_answers() {
    let strays = judge(&[seen("c", 0, 1, "a"), seen("c", 2, 3, "a"), seen("c", 4, 5, "b"), seen("c", 6, 7, "b")], &[]);
    assert_eq!(strays.len(), 1);
    assert_eq!((&strays[0].before, &strays[0].after), (&seen("c", 2, 3, "a"), &seen("c", 4, 5, "b")));
}

#[test]
fn a_cause_excuses_one_change_from_its_backend_in_its_time() {
    let moves = [seen("c", 0, 1, "a"), seen("c", 10, 11, "b")];
    assert_eq!(judge(&moves, &[down("a", 4, 5)]), []);
    assert_eq!(judge(&moves, &[down("a", 11, 15)]), []);
    for (cause, why) in [
        (down("a", 12, 15), "came later"),
        (down("b", 4, 5), "is of another backend"),
        (Cause { client: Some(String::from("d")), ..down("a", 4, 5) }, ""),
        (Cause { farm: String::from("mail"), ..down("a", 4, 5) }, ""),
    ] {
        let strays = judge(&moves, &[cause]);
        assert!(strays[0].text.contains(why), "{}", strays[0].text);
    }
    let back = [seen("c", 0, 1, "a"), seen("c", 10, 11, "b"), seen("c", 20, 21, "a")];
    assert_eq!(judge(&back, &[down("a", 4, 25)]).len(), 1);
    assert_eq!(judge(&back, &[down("a", 4, 25), down("b", 12, 13)]), []);
    assert_eq!(judge(&back, &[down("a", 4, 25), down("b", 30, 31)]).len(), 1);
}

#[test]
fn an_answer_without_a_binding_begins_no_promise_and_breaks_one_as_any_other() {
    assert_eq!(judge(&[unbound(0, 1, "a"), seen("c", 2, 3, "b"), seen("c", 4, 5, "b")], &[]), []);
    assert_eq!(judge(&[unbound(0, 1, "a"), unbound(2, 3, "b"), unbound(4, 5, "a")], &[]), []);
    assert_eq!(judge(&[unbound(0, 1, "a"), seen("c", 2, 3, "b"), seen("c", 4, 5, "a")], &[]).len(), 1);
    assert_eq!(judge(&[seen("c", 0, 1, "a"), unbound(2, 3, "b")], &[]).len(), 1);
    // It may have been bound after all; but not to both.
    assert_eq!(judge(&[unbound(0, 1, "a"), seen("c", 2, 3, "a"), seen("c", 4, 5, "a")], &[]), []);
}

#[test]
fn of_requests_under_way_together_either_may_come_first() {
    // Sent to the old backend before the move, answered after another was already answered by the new one.
    let late = [seen("c", 0, 1, "a"), seen("c", 2, 20, "a"), seen("c", 10, 11, "b")];
    assert_eq!(judge(&late, &[down("a", 4, 9)]), []);
    assert_eq!(judge(&late, &[]).len(), 1);
    // But not both ways.
    let both = [seen("c", 0, 1, "a"), seen("c", 10, 11, "b"), seen("c", 12, 13, "a")];
    assert_eq!(judge(&both, &[down("a", 4, 9)]).len(), 1);
}

#[test]
fn what_was_not_observed_is_not_held() {
    use crate::verdict::Ruling;
    let ruling = |observations: &[Observation]| check_stickiness(observations, &[]).judgement().ruling;
    assert_eq!(ruling(&[]), Ruling::Undecided);
    assert_eq!(ruling(&[seen("c", 0, 1, "a")]), Ruling::Held);
    assert_eq!(ruling(&[seen("c", 0, 1, "a"), seen("c", 2, 3, "b")]), Ruling::Violated);
}
