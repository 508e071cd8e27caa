//! What visitors' answers say of bindings: each is an observation of the cookie that the visitor has.
//!
//! A login gives a visitor another cookie, which from then on belongs to the backend that gave it. Its answer is one to both: the
//! old cookie led to that backend, and the new one is bound to it. The access log tells what became of the new one only.

use std::collections::BTreeMap;

use ballast_jepsen::{
    says_why::{Got, Line, Vain},
    stickiness::Observation,
    time::Span,
};

use super::{BACK_WITHIN, FARM, via};
use crate::workload::bindings::Served;

/// What was observed, and in which answer. `lines` are those of the access logs, by request.
pub(super) fn observations<'a>(
    served: &'a [Served],
    lines: &BTreeMap<&str, &Line>,
    nodes: usize,
) -> Vec<(&'a Served, Observation)> {
    let observed = |served: &'a Served| {
        let seen = |client: &String, bound| {
            let observation = Observation {
                farm: FARM.to_owned(),
                client: client.clone(),
                backend: served.backend.clone(),
                via: via(served.through, nodes),
                bound,
                span: Span::new(served.invoked, served.completed),
            };
            (served, observation)
        };
        // A line is missing if a node died before it wrote it: nobody knows whether that answer went through a binding.
        let bound = lines.get(served.id.as_str()).is_some_and(|line| line.binding != "unbound");
        let before = served.before.as_ref().map(|before| seen(before, false));
        before.into_iter().chain([seen(&served.visitor, bound)])
    };
    served.iter().flat_map(observed).collect()
}

/// Whether an answer was given by another backend because the visitor's was down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rehomed {
    /// The log says so.
    Yes,
    /// The log says that it was not.
    No,
    /// Of a login the log tells about the new cookie, and not about the one that it came with.
    NotTold,
}

/// What the log's line of a request says of a cookie. `is_of_it` unless the request asked for another one.
pub(super) fn rehomed(is_of_it: bool, line: &Line) -> Rehomed {
    if !is_of_it {
        return Rehomed::NotTold;
    }
    let moved = line.binding == "rehomed" && line.binding_cause == "backend_down";
    if moved { Rehomed::Yes } else { Rehomed::No }
}

/// The clients of requests in vain that a verdict may have moved, and when: a node goes on when its client has left, and what it
/// decides is decided. A line is missing if a node died before it wrote it.
pub(super) fn moved_in_vain<'a>(
    failed: &'a [Vain],
    lines: &BTreeMap<&str, &Line>,
) -> impl Iterator<Item = (&'a str, Span)> {
    failed.iter().filter_map(|vain| {
        let client = vain.known_as.as_ref().or(vain.before.as_ref())?;
        let may_be = match lines.get(vain.id.as_str()) {
            Some(line) => rehomed(vain.known_as.is_some(), line) != Rehomed::No,
            None => !matches!(vain.got, Got::NoConnection { .. }),
        };
        may_be.then(|| (client.as_str(), Span::new(vain.span.from, vain.span.until.after(BACK_WITHIN))))
    })
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::{stickiness::check_stickiness, time::RunTime};

    use super::*;

    fn served(at: u64, before: Option<&str>, visitor: &str, backend: &str) -> Served {
        let [invoked, completed] = [at, at + 1].map(RunTime::from_millis);
        let [id, visitor, backend] = [&at.to_string(), visitor, backend].map(str::to_owned);
        Served { id, visitor, before: before.map(str::to_owned), backend, through: 0, invoked, completed }
    }

    fn line(served: &Served, binding: &str, cause: &str) -> Line {
        let [node, ended, binding, binding_cause] = ["node-1", "done", binding, cause].map(str::to_owned);
        Line { id: served.id.clone(), node, ended, binding, binding_cause, status: 200, took: String::new() }
    }

    /// How many strays there are among answers that all went through bindings.
    fn strays(served: &[Served]) -> usize {
        let lines: Vec<Line> = served.iter().map(|served| line(served, "hit", "")).collect();
        let lines = lines.iter().map(|line| (line.id.as_str(), line)).collect();
        let observations: Vec<Observation> =
            observations(served, &lines, 3).into_iter().map(|(_, seen)| seen).collect();
        check_stickiness(&observations, &[]).strays.len()
    }

    #[test]
    fn a_visitor_stays_with_the_backend_that_changed_its_cookie() {
        let (first, login) = (served(0, None, "a", "web1"), served(2, Some("a"), "b", "web1"));
        assert_eq!(strays(&[first.clone(), login.clone(), served(4, None, "b", "web1")]), 0);
        assert_eq!(strays(&[first, login, served(4, None, "b", "web2")]), 1);
    }

    #[test]
    fn a_login_goes_to_the_backend_of_the_cookie_that_it_comes_with() {
        assert_eq!(strays(&[served(0, None, "a", "web1"), served(2, Some("a"), "b", "web2")]), 1);
    }

    #[test]
    fn the_log_tells_nothing_of_the_cookie_that_a_login_comes_with() {
        let told = |before, binding: &str| {
            let answer = [served(2, before, "b", "web2")];
            let line = line(&answer[0], binding, "backend_down");
            let seen = observations(&answer, &BTreeMap::from([("2", &line)]), 3);
            seen.iter().map(|(served, seen)| rehomed(served.visitor == seen.client, &line)).collect::<Vec<_>>()
        };
        assert_eq!(told(None, "rehomed"), [Rehomed::Yes]);
        assert_eq!(told(None, "hit"), [Rehomed::No]);
        assert_eq!(told(Some("a"), "new"), [Rehomed::NotTold, Rehomed::No]);
    }

    #[test]
    fn who_left_before_the_answer_may_have_been_moved_for_all_that() {
        let left = Got::Nothing { error: "WouldBlock".to_owned() };
        let at = |millis| RunTime::from_millis(millis);
        let vain = |cookie: &str, logs_in: bool, got: &Got| {
            let cookie = Some(cookie.to_owned());
            let (known_as, before) = if logs_in { (None, cookie) } else { (cookie, None) };
            let (id, via, span) = ("7".to_owned(), "node-1".to_owned(), Span::new(at(100), at(3_100)));
            Vain { id, via, span, got: got.clone(), known_as, before }
        };
        let of = |vain: Vain, line: Option<&Line>| {
            let lines = line.map(|line| ("7", line)).into_iter().collect();
            moved_in_vain(&[vain], &lines).map(|(client, span)| (client.to_owned(), span)).collect::<Vec<_>>()
        };
        let line = |binding, cause| Line { id: "7".to_owned(), ..line(&served(7, None, "a", "web1"), binding, cause) };
        let moved = [("a".to_owned(), Span::new(at(100), at(8_100)))];
        assert_eq!(of(vain("a", false, &left), Some(&line("rehomed", "backend_down"))), moved);
        assert_eq!(of(vain("a", false, &left), Some(&line("hit", ""))), []);
        assert_eq!(of(vain("a", false, &left), Some(&line("rehomed", "operator"))), []);
        assert_eq!(of(vain("a", true, &left), Some(&line("new", ""))), moved, "nothing is told of the old one");
        assert_eq!(of(vain("a", false, &left), None), moved, "the line may have died with its node");
        assert_eq!(of(vain("a", false, &Got::NoConnection { error: "TimedOut".to_owned() }), None), []);
        let stranger = Vain { known_as: None, ..vain("a", false, &left) };
        assert_eq!(of(stranger, None), [], "it had no cookie");
    }
}
