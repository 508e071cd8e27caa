//! What visitors' answers say of bindings: each is an observation of the cookie that the visitor has.
//!
//! A login gives a visitor another cookie, which from then on belongs to the backend that gave it. Its answer is one to both: the
//! old cookie led to that backend, and the new one is bound to it. The access log tells what became of the new one only.

use std::collections::BTreeMap;

use ballast_jepsen::{says_why::Line, stickiness::Observation, time::Span};

use super::{FARM, via};
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

/// What the log's line of an answer says of the cookie that it was observed of.
pub(super) fn rehomed(served: &Served, seen: &Observation, line: &Line) -> Rehomed {
    if served.visitor != seen.client {
        return Rehomed::NotTold;
    }
    let moved = line.binding == "rehomed" && line.binding_cause == "backend_down";
    if moved { Rehomed::Yes } else { Rehomed::No }
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
        Line { id: served.id.clone(), node, ended, binding, binding_cause, status: 200 }
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
            seen.iter().map(|(served, seen)| rehomed(served, seen, &line)).collect::<Vec<_>>()
        };
        assert_eq!(told(None, "rehomed"), [Rehomed::Yes]);
        assert_eq!(told(None, "hit"), [Rehomed::No]);
        assert_eq!(told(Some("a"), "new"), [Rehomed::NotTold, Rehomed::No]);
    }
}
