//! What answers of the till say of its cookie, which Ballast signs: it names a backend, and no table and no entry of the log does.
//!
//! No fault breaks the till's backends, so whoever has the cookie is answered by the backend that it was answered by first. A
//! node without a quorum goes by its own checks, and one that finds no way to a backend has another serve the request. So a line
//! of the access log that says so excuses one answer by another backend, but only while something befell who answers for the VIP,
//! or backends were slow.

use std::collections::BTreeSet;

use ballast_jepsen::{
    says_why::{Disturbance, Line},
    stickiness::{Cause, Observation, Reason},
    time::Span,
};

use crate::{site::VIP_NAME, workload::till::Answer};

/// What stands for the service of the till in what is observed.
const TILL: &str = "till";
/// Why a node moves a client for good that has the cookie, as the access log has it.
const CAUSES: [&str; 2] = ["backend_down", "connect_failed"];

/// What was observed, and what may have changed it.
pub(super) fn observed(answers: &[Answer], lines: &[Line], excused: &[Span]) -> (Vec<Observation>, Vec<Cause>) {
    let ids = |is: fn(&Line) -> bool| {
        lines.iter().filter(|line| is(line)).map(|line| line.id.as_str()).collect::<BTreeSet<_>>()
    };
    let (logged, unbound) = (ids(|_| true), ids(|line| line.binding == "unbound"));
    let moved = ids(|line| line.binding == "rehomed" && CAUSES.contains(&line.binding_cause.as_str()));
    let mut observations = Vec::new();
    let mut causes = Vec::new();
    for Answer { id, client, backend, span } in answers {
        let id = id.as_str();
        // A line is missing if a node died before it wrote it: nobody knows what it would have said.
        let may_move = moved.contains(id) || unbound.contains(id) || !logged.contains(id);
        if may_move && excused.iter().any(|excused| excused.touches(*span)) {
            causes.push(Cause {
                reason: Reason::Down,
                farm: TILL.to_owned(),
                client: Some(client.clone()),
                backend: None,
                span: *span,
            });
        }
        observations.extend(backend.as_ref().map(|backend| Observation {
            farm: TILL.to_owned(),
            client: client.clone(),
            backend: backend.clone(),
            via: VIP_NAME.to_owned(),
            bound: logged.contains(id) && !unbound.contains(id),
            span: *span,
        }));
    }
    (observations, causes)
}

/// When something befell who answers for the VIP.
pub(super) fn befell_the_vip(disturbed: &[Disturbance]) -> impl Iterator<Item = Span> {
    let concerns = |one: &&Disturbance| one.whom.as_ref().is_none_or(|whom| whom.contains(VIP_NAME));
    disturbed.iter().filter(concerns).map(|one| one.span)
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::{stickiness::check_stickiness, time::RunTime};

    use super::*;

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    fn answer(at: u64, backend: Option<&str>) -> Answer {
        let (id, client, backend) = (at.to_string(), String::from("buyer0/0"), backend.map(str::to_owned));
        Answer { id, client, backend, span: span(at, at + 10) }
    }

    fn line(at: u64, binding: &str, cause: &str) -> Line {
        let [id, node, ended, binding, binding_cause] =
            [&at.to_string(), "node-1", "done", binding, cause].map(str::to_owned);
        Line { id, node, ended, binding, binding_cause, status: 200, took: String::new() }
    }

    fn strays(answers: &[Answer], lines: &[Line], excused: &[Span]) -> usize {
        let (observations, causes) = observed(answers, lines, excused);
        check_stickiness(&observations, &causes).strays.len()
    }

    #[test]
    fn who_was_answered_by_one_backend_is_answered_by_it_again() {
        let lines = [line(0, "new", ""), line(100, "hit", ""), line(200, "hit", "")];
        let stays = [answer(0, Some("till1")), answer(100, None), answer(200, Some("till1"))];
        assert_eq!(strays(&stays, &lines, &[]), 0);
        let goes = [answer(0, Some("till1")), answer(100, Some("till2")), answer(200, Some("till2"))];
        assert_eq!(strays(&goes, &lines, &[]), 1);
        // Whatever befalls nodes, one that says that it went by the cookie did.
        assert_eq!(strays(&goes, &lines, &[span(0, 300)]), 1);
    }

    #[test]
    fn what_the_log_explains_is_excused_while_something_was_wrong() {
        let goes = [answer(0, Some("till1")), answer(100, Some("till2")), answer(200, Some("till2"))];
        let lines = |binding, cause| [line(0, "new", ""), line(100, binding, cause), line(200, "hit", "")];
        let moved = lines("rehomed", "backend_down");
        assert_eq!([strays(&goes, &moved, &[span(90, 105)]), strays(&goes, &moved, &[span(120, 300)])], [0, 1]);
        assert_eq!(strays(&goes, &lines("rehomed", "backend_removed"), &[span(90, 105)]), 1);
        // It was sent elsewhere once, and its cookie is the same.
        let once = [answer(0, Some("till1")), answer(100, Some("till2")), answer(200, Some("till1"))];
        assert_eq!(strays(&once, &lines("unbound", ""), &[span(90, 105)]), 0);
        assert_eq!(strays(&once, &lines("unbound", ""), &[]), 1);
        assert_eq!(strays(&once, &moved, &[span(90, 105)]), 1, "it was moved, and came back");
        assert_eq!(strays(&goes, &[line(0, "new", ""), line(200, "hit", "")], &[span(90, 105)]), 0, "a lost line");
    }

    #[test]
    fn a_move_is_told_by_an_answer_of_no_backend_too() {
        let goes = [answer(0, Some("till1")), answer(100, None), answer(200, Some("till2"))];
        let lines = [line(0, "new", ""), line(100, "rehomed", "connect_failed"), line(200, "hit", "")];
        assert_eq!([strays(&goes, &lines, &[span(90, 105)]), strays(&goes, &lines, &[])], [0, 1]);
    }

    #[test]
    fn what_befalls_another_node_is_no_reason() {
        let whom = |name: &str| Some(BTreeSet::from([name.to_owned()]));
        let all = [
            Disturbance { span: span(0, 1), whom: whom("node-2"), silences: true },
            Disturbance { span: span(2, 3), whom: whom(VIP_NAME), silences: true },
            Disturbance { span: span(4, 5), whom: None, silences: true },
        ];
        assert_eq!(befell_the_vip(&all).collect::<Vec<_>>(), [span(2, 3), span(4, 5)]);
    }
}
