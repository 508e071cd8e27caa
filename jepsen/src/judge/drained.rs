//! What an operator was told of a backend: that it is drained, and gets no new visitors.
//!
//! Whoever is bound to it stays, and stays when a login changes its cookie. Who comes without one goes elsewhere, through whatever
//! node, from a second after the order was acknowledged until it begins to be undone. Judged while nothing else was wrong: a node
//! that was cut off knows of no order, and backends that are down leave only drained ones.

use std::{collections::BTreeSet, time::Duration};

use ballast_jepsen::{time::Span, verdict::Judgement};

use super::{BACK_WITHIN, failover, slow};
use crate::{
    nemesis::{self, Happened},
    plan::{Family, Kind},
    workload::bindings::Served,
};

/// How long after an order was acknowledged all nodes go by it: a second, as with a revision of the document.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Answers beside drains among which some are to new visitors: half of the visitors come anew after every 60 requests.
const ANSWERS: usize = 600;

/// Looks at whom new visitors were answered by. `troubled` has when checks may have found backends down that nobody broke, and
/// `slow_percent` in how much of the run they were slow.
pub(super) fn judge(
    mut judgement: Judgement,
    faults: &[Happened],
    served: &[Served],
    troubled: &[Span],
    slow_percent: usize,
) -> Judgement {
    let (mut looked, mut drains, mut answers) = (0, 0, 0);
    let newcomers = newcomers(served);
    for (window, backend) in faults.iter().filter_map(|fault| drained(fault, faults)) {
        drains += 1;
        let counts = |one: &Served| {
            let span = Span::new(one.invoked, one.completed);
            let within = window.contains(span.from) && window.contains(span.until);
            within && !troubled.iter().any(|trouble| trouble.touches(span))
        };
        answers += served.iter().filter(|one| counts(one)).count();
        for new in newcomers.iter().filter(|new| counts(new)) {
            looked += 1;
            if new.backend == backend {
                judgement.violated(format!(
                    "{backend} was drained from before {} on and was given a new visitor: {} at {}",
                    window.from, new.id, new.invoked
                ));
            }
        }
    }
    let judgement = judgement.count("drains of backends alone", drains);
    let what = "new visitors beside drains";
    // A drain that was over soon may have had none.
    let judgement = if answers < ANSWERS { judgement.count(what, looked) } else { judgement.looked_at(what, looked) };
    if drains == 0 { judgement } else { slow::weigh(judgement, slow_percent) }
}

/// When a backend was drained alone, to everybody's knowledge, and which.
fn drained<'a>(fault: &'a Happened, faults: &[Happened]) -> Option<(Span, &'a str)> {
    if fault.kind != Kind::BackendDrain || !fault.came_about {
        return None;
    }
    let (from, until) = (fault.acknowledged?.after(KNOWN_WITHIN), fault.whole_until?);
    let near = Span::new(fault.from.before(BACK_WITHIN), until);
    let of_backends = |other: &&Happened| other.kind.family() == Family::Backend && !std::ptr::eq(*other, fault);
    let mut others = faults.iter().filter(of_backends);
    let beside = others.any(|other| other.from <= near.until && near.from <= nemesis::reason_until(other));
    let alone = !beside && failover::is_alone(fault, near, faults);
    (alone && from < until).then_some((Span::new(from, until), fault.victims.first()?.as_str()))
}

/// The answers to visitors who came without a cookie: the first of each that no other cookie was changed for.
fn newcomers(served: &[Served]) -> Vec<&Served> {
    let mut in_order: Vec<&Served> = served.iter().collect();
    in_order.sort_by_key(|served| served.invoked);
    let mut known = BTreeSet::new();
    in_order.into_iter().filter(|served| known.insert(&served.visitor) && served.before.is_none()).collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use ballast_jepsen::{
        time::RunTime,
        verdict::{Promise, Ruling},
    };

    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn fault(kind: Kind, from: u64, until: u64) -> Happened {
        let victims = vec![String::from("web1")];
        let (whole_until, acknowledged) = (Some(at(until)), Some(at(from + 100)));
        Happened { kind, victims, from: at(from), until: at(until), whole_until, came_about: true, acknowledged }
    }

    fn served(from: u64, before: Option<&str>, visitor: &str, backend: &str) -> Served {
        let [id, visitor, backend] = ["7", visitor, backend].map(str::to_owned);
        let before = before.map(str::to_owned);
        Served { id, visitor, before, backend, through: 0, invoked: at(from), completed: at(from + 10) }
    }

    fn ruled(faults: &[Happened], served: &[Served], troubled: &[Span]) -> Ruling {
        judge(Judgement::new(Promise::Configuration), faults, served, troubled, 0).ruling
    }

    #[test]
    fn a_new_visitor_of_a_drained_backend_is_found() {
        let drain = fault(Kind::BackendDrain, 20_000, 24_000);
        let new = |from, backend: &str| served(from, None, "a", backend);
        assert_eq!(ruled(from_ref(&drain), &[new(21_200, "web1")], &[]), Ruling::Violated);
        assert_eq!(ruled(from_ref(&drain), &[new(21_200, "web2")], &[]), Ruling::Held);
        // Before all nodes know, or when it is over.
        assert_eq!(ruled(from_ref(&drain), &[new(21_000, "web1")], &[]), Ruling::Held);
        assert_eq!(ruled(from_ref(&drain), &[new(23_995, "web1")], &[]), Ruling::Held);
        let refused = Happened { came_about: false, ..drain.clone() };
        assert_eq!(ruled(&[refused], &[new(21_200, "web1")], &[]), Ruling::Held);
        let of_old = Happened { acknowledged: None, ..drain.clone() };
        assert_eq!(ruled(&[of_old], &[new(21_200, "web1")], &[]), Ruling::Held);
        // What else may have been the reason.
        let troubled = [Span::new(at(21_205), at(21_300))];
        assert_eq!(ruled(from_ref(&drain), &[new(21_200, "web1")], &troubled), Ruling::Held);
        for other in [Kind::Kill, Kind::BackendFails] {
            let faults = [drain.clone(), fault(other, 14_500, 15_500)];
            assert_eq!(ruled(&faults, &[new(21_200, "web1")], &[]), Ruling::Held, "{other}");
        }
    }

    #[test]
    fn among_many_answers_beside_a_drain_some_are_to_new_visitors() {
        let drain = fault(Kind::BackendDrain, 20_000, 24_000);
        let answered = |drain: &Happened, number: u64| {
            let known = (0..number).map(|number| served(21_200 + number, None, "a", "web1"));
            let served: Vec<Served> = known.chain([served(19_000, None, "a", "web1")]).collect();
            ruled(from_ref(drain), &served, &[])
        };
        assert_eq!([answered(&drain, 599), answered(&drain, 600)], [Ruling::Held, Ruling::Undecided]);
        let refused = Happened { came_about: false, ..drain };
        assert_eq!(answered(&refused, 600), Ruling::Held);
    }

    #[test]
    fn where_checks_were_slow_for_long_a_drain_shows_nothing() {
        let drain = [fault(Kind::BackendDrain, 20_000, 24_000)];
        let ruled = |faults| judge(Judgement::new(Promise::Configuration), faults, &[], &[], 90).ruling;
        assert_eq!([ruled(&drain[..]), ruled(&[])], [Ruling::Undecided, Ruling::Held]);
    }

    #[test]
    fn who_is_bound_to_a_drained_backend_and_logs_in_there_is_not_new() {
        let drain = [fault(Kind::BackendDrain, 20_000, 24_000)];
        let bound = served(19_000, None, "a", "web1");
        let login = served(21_200, Some("a"), "b", "web1");
        let later = served(21_300, None, "b", "web1");
        assert_eq!(ruled(&drain, &[later, login, bound.clone()], &[]), Ruling::Held);
        assert_eq!(ruled(&drain, &[bound, served(21_200, None, "a", "web1")], &[]), Ruling::Held);
    }
}
