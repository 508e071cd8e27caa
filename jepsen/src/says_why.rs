//! P7: whatever was refused is explained.
//!
//! A proxy's own answer carries a code, and so does the line of the access log of each request that came to a proxy. A request
//! that was not answered at all must have left a line that says how it ended, unless something happened meanwhile that keeps
//! that node from writing (it was killed, it was cut off with the bytes under way). Nor may one be away that nothing silenced: nodes
//! that do not hear each other keep clients waiting, sometimes for longer than these do, and no more.
//! A request that was answered well has its line, too: a log that keeps silent about those tells nobody what became of a client.
//!
//! Not here: whether it was right to refuse, which other checkers judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::time::{RunTime, Span};
use crate::verdict::{Judgement, Promise};

/// What a client got that asked in vain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Got {
    /// An answer.
    Answer {
        /// Its status.
        status: u16,
        /// The code it carried, as each answer does that a proxy gives itself.
        reason: Option<String>,
    },
    /// A connection, and no whole answer.
    Nothing {
        /// What the system said.
        error: String,
    },
    /// No connection: nobody has seen the request.
    NoConnection {
        /// What the system said.
        error: String,
    },
}

/// What the system says of a read that takes longer than its client waits.
const WAITED: &str = "WouldBlock";

impl Got {
    /// Whether the client had a connection, and left when it had waited for as long as it does.
    pub fn gave_up(&self) -> bool {
        matches!(self, Self::Nothing { error } if error == WAITED)
    }
}

/// A request in vain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vain {
    /// By which the access log knows it.
    pub id: String,
    /// Where it was sent.
    pub via: String,
    /// From when it was sent until the client knew.
    pub span: Span,
    /// What came.
    pub got: Got,
    /// The cookie that it came with, if an answer had given that to its client and it asked for no other. Absent in records of old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<String>,
    /// The cookie that it came with, if it asked for another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// A request that a backend answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// By which the access log knows it.
    pub id: String,
    /// Where it was sent, as [`Vain::via`] has it.
    pub via: String,
    /// From when it was sent until the answer was there.
    pub span: Span,
}

/// A line of an access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The request.
    pub id: String,
    /// The node that wrote it.
    pub node: String,
    /// How it ended.
    pub ended: String,
    /// What became of its binding.
    pub binding: String,
    /// Why it was moved; empty if it was not.
    pub binding_cause: String,
    /// The status that was sent; 0 if none.
    pub status: u16,
    /// What it took, where that is worth telling; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub took: String,
}

/// The codes that there are, in the order of the proxy's own table (`crates/proxy/src/http/ending.rs`).
const CODES: [&str; 24] = [
    "client_head_timeout",
    "client_body_timeout",
    "client_closed",
    "client_stalled",
    "no_route",
    "no_backend",
    "queue_full",
    "queue_timeout",
    "connect_failed",
    "backend_closed",
    "backend_timeout",
    "interim_flood",
    "upgrade_unasked",
    "truncated",
    "backend_stalled",
    "vip_not_held",
    "drain_timeout",
    "isolated",
    "table_full",
    "limit_connections",
    "limit_source",
    "answered",
    "tunnel_closed",
    "tunnel_idle",
];
/// Those that are followed by what exactly was wrong.
const FAMILIES: [&str; 3] = ["request:", "response:", "response_broken:"];

fn is_code(code: &str) -> bool {
    CODES.contains(&code)
        || FAMILIES.iter().any(|family| code.strip_prefix(family).is_some_and(|fault| !fault.is_empty()))
}

/// What the proxy says of a client that ended it. One that says itself that it got nothing has waited in vain before that.
fn blames_the_client(code: &str) -> bool {
    code.starts_with("client_")
}

/// Lines are handed over in blocks, and a process that dies takes with it what it has not handed over: how long after an answer
/// its node may be lost so that its line is.
const UNWRITTEN: Duration = Duration::from_millis(500);

/// A time in which somebody may have had to wait, or may have been kept from answering, and from writing down why.
#[derive(Clone, Debug)]
pub struct Disturbance {
    /// When.
    pub span: Span,
    /// Through whom, as [`Vain::via`] has it; everybody if absent.
    pub whom: Option<BTreeSet<String>>,
    /// Whether they may have been kept from it, and not only have waited for others.
    pub silences: bool,
}

impl Disturbance {
    /// Whether it came upon a request through `via` by then.
    fn befell(&self, via: &str, span: Span) -> bool {
        self.span.touches(span) && self.whom.as_ref().is_none_or(|whom| whom.contains(via))
    }
}

/// Holds what was in vain against the access logs. Only who was silenced may leave it unexplained, or be away.
pub fn judge(vain: &[Vain], lines: &[Line], disturbed: &[Disturbance]) -> Judgement {
    let mut of: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        of.entry(&line.id).or_default().push(line);
    }
    let (mut by_code, mut backends, mut unreached, mut lost, mut late) = (0, 0, 0, 0, 0);
    let mut judgement = Judgement::new(Promise::SaysWhy).looked_at("lines of access logs", lines.len());
    for Vain { id, via, span, got, .. } in vain {
        let lines = of.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let has = |ended: &str| lines.iter().any(|line| line.ended == ended);
        let silenced =
            |until: RunTime| disturbed.iter().any(|one| one.silences && one.befell(via, Span::new(span.from, until)));
        let befallen = disturbed.iter().any(|one| one.befell(via, *span));
        let excused = silenced(span.until);
        let unwritten = lines.is_empty() && silenced(span.until.after(UNWRITTEN));
        let told: Vec<String> =
            lines.iter().map(|line| format!("{} by {}{}", line.ended, line.node, line.took)).collect();
        let mut unexplained = |why: &str| {
            judgement
                .violated(format!("{span}: {id} via {via} got {got:?}; {why}; the logs say [{}]", told.join(", ")));
        };
        match got {
            Got::NoConnection { .. } if excused => unreached += 1,
            Got::NoConnection { .. } => unexplained("nothing had befallen it that keeps anybody away"),
            Got::Answer { reason: Some(code), .. } if !is_code(code) => unexplained("nobody knows that code"),
            Got::Answer { reason: Some(code), .. } if has(code) || unwritten => by_code += 1,
            Got::Answer { reason: Some(_), .. } => unexplained("no line has that code"),
            Got::Answer { status, .. } if lines.iter().any(|l| l.ended == "done" && l.status == *status) => {
                backends += 1
            }
            Got::Answer { .. } if unwritten => lost += 1,
            Got::Answer { .. } => unexplained("no code was in the answer, and no line says that a backend gave it"),
            Got::Nothing { .. }
                if lines.iter().any(|l| is_code(&l.ended) && (befallen || !blames_the_client(&l.ended))) =>
            {
                by_code += 1;
            }
            Got::Nothing { .. } if excused || unwritten => lost += 1,
            // Its node had to wait for others, and answered when the client had left.
            Got::Nothing { .. } if befallen && got.gave_up() && !lines.is_empty() => late += 1,
            Got::Nothing { .. } => unexplained("no line says why"),
        }
    }
    judgement
        .count("in vain", vain.len())
        .count("explained by a code", by_code)
        .count("refused by a backend", backends)
        .count("lost with what befell a node", lost)
        .count("answered when the client had left", late)
        .count("never connected", unreached)
}

/// Adds to a judgement what was answered by a backend, and is in no access log. Only with who was silenced may a line be lost.
/// Where there are no lines at all nothing was read, which the judgement says already.
pub fn unlogged(
    mut judgement: Judgement,
    answered: &[Answered],
    lines: &[Line],
    disturbed: &[Disturbance],
) -> Judgement {
    let logged: BTreeSet<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    let mut lost = 0;
    let missing = answered.iter().filter(|one| !logged.is_empty() && !logged.contains(one.id.as_str()));
    for Answered { id, via, span } in missing {
        let until = span.until.after(UNWRITTEN);
        if disturbed.iter().any(|one| one.silences && one.befell(via, Span::new(span.from, until))) {
            lost += 1;
        } else {
            judgement.violated(format!("{span}: {id} via {via} was answered, and no log has a line of it"));
        }
    }
    judgement.count("answers looked for in logs", answered.len()).count("lines lost with what befell a node", lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Ruling;

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    fn everybody(span: Span) -> Disturbance {
        Disturbance { span, whom: None, silences: true }
    }

    fn line(id: &str, ended: &str) -> Line {
        let [id, node, ended] = [id, "node-1", ended].map(str::to_owned);
        Line {
            id,
            node,
            ended,
            binding: String::from("hit"),
            binding_cause: String::new(),
            status: 503,
            took: String::new(),
        }
    }

    fn vain(via: &str, (from, until): (u64, u64), got: Got) -> Vain {
        Vain { id: String::from("7"), via: via.to_owned(), span: span(from, until), got, known_as: None, before: None }
    }

    fn ruled(got: Got, lines: &[Line]) -> Ruling {
        let mut all = vec![line("other", "done")];
        all.extend_from_slice(lines);
        judge(&[vain("node-1", (100, 200), got)], &all, &[everybody(span(1000, 2000))]).ruling
    }

    fn proxys(reason: &str) -> Got {
        Got::Answer { status: 503, reason: Some(reason.to_owned()) }
    }

    fn away() -> Got {
        Got::NoConnection { error: String::from("ConnectionRefused") }
    }

    fn nothing() -> Got {
        Got::Nothing { error: String::from("ConnectionReset") }
    }

    #[test]
    fn a_code_in_the_answer_and_in_the_log_explains() {
        assert_eq!(ruled(proxys("isolated"), &[line("7", "isolated")]), Ruling::Held);
        assert_eq!(ruled(proxys("request:host"), &[line("7", "request:host")]), Ruling::Held);
        assert_eq!(ruled(Got::Answer { status: 503, reason: None }, &[line("7", "done")]), Ruling::Held);
    }

    #[test]
    fn an_answer_without_a_code_that_is_known_and_logged_does_not() {
        assert_eq!(ruled(Got::Answer { status: 503, reason: None }, &[line("7", "isolated")]), Ruling::Violated);
        assert_eq!(ruled(Got::Answer { status: 500, reason: None }, &[line("7", "done")]), Ruling::Violated);
        assert_eq!(ruled(proxys("because"), &[line("7", "because")]), Ruling::Violated);
        assert_eq!(ruled(proxys("request:"), &[line("7", "request:")]), Ruling::Violated);
        assert_eq!(ruled(proxys("isolated"), &[line("7", "no_backend")]), Ruling::Violated);
        assert_eq!(ruled(proxys("isolated"), &[]), Ruling::Violated);
        assert_eq!(ruled(Got::Answer { status: 503, reason: None }, &[]), Ruling::Violated);
    }

    #[test]
    fn what_got_no_answer_needs_a_line_that_says_why() {
        assert_eq!(ruled(nothing(), &[line("7", "vip_not_held")]), Ruling::Held);
        assert_eq!(ruled(nothing(), &[]), Ruling::Violated);
        assert_eq!(ruled(nothing(), &[line("7", "done")]), Ruling::Violated);
        assert_eq!(ruled(away(), &[]), Ruling::Violated, "nothing befell it");
    }

    #[test]
    fn that_a_client_gave_up_explains_nothing_in_calm() {
        let lines = [line("7", "client_closed")];
        assert_eq!(ruled(nothing(), &lines), Ruling::Violated);
        assert_eq!(ruled(nothing(), &[line("7", "client_closed"), line("7", "backend_timeout")]), Ruling::Held);
        let vain = vain("", (100, 200), nothing());
        assert_eq!(judge(&[vain], &lines, &[everybody(span(150, 300))]).ruling, Ruling::Held);
    }

    #[test]
    fn what_befalls_a_node_at_that_time_excuses_that_it_wrote_nothing() {
        let vain = |from, until, got| vain("", (from, until), got);
        let fault = [everybody(span(150, 300))];
        let ruled = |vain| judge(&[vain], &[line("other", "done")], &fault).ruling;
        assert_eq!(ruled(vain(100, 200, nothing())), Ruling::Held);
        assert_eq!(ruled(vain(100, 200, away())), Ruling::Held);
        assert_eq!(ruled(vain(100, 200, proxys("isolated"))), Ruling::Held);
        assert_eq!(ruled(vain(301, 400, nothing())), Ruling::Violated);
        assert_eq!(ruled(vain(100, 200, proxys("because"))), Ruling::Violated);
        // How it ended just before may not have been written yet.
        for answered in [proxys("isolated"), Got::Answer { status: 503, reason: None }, nothing()] {
            assert_eq!(ruled(vain(100, 200, answered.clone())), Ruling::Held);
            assert_eq!(ruled(vain(20, 100, answered.clone())), Ruling::Held);
            assert_eq!(ruled(vain(301, 400, answered)), Ruling::Violated);
        }
        assert_eq!(ruled(vain(20, 100, away())), Ruling::Violated);
    }

    #[test]
    fn what_befalls_a_node_excuses_no_other() {
        let ruled = |via: &str, got| {
            let whom = Some(["node-1", "public"].map(str::to_owned).into());
            let disturbed = [Disturbance { whom, ..everybody(span(150, 300)) }];
            judge(&[vain(via, (100, 200), got)], &[line("other", "done")], &disturbed).ruling
        };
        for got in [nothing(), away()] {
            assert_eq!(
                ["node-1", "public", "node-2"].map(|via| ruled(via, got.clone())),
                [Ruling::Held, Ruling::Held, Ruling::Violated]
            );
        }
    }

    #[test]
    fn who_has_to_wait_for_others_is_there_and_writes_down_what_it_did() {
        let ruled = |got, lines: &[Line]| {
            let mut all = vec![line("other", "done")];
            all.extend_from_slice(lines);
            let disturbed = [Disturbance { silences: false, ..everybody(span(150, 300)) }];
            judge(&[vain("node-1", (100, 200), got)], &all, &disturbed).ruling
        };
        assert_eq!(ruled(away(), &[]), Ruling::Violated);
        assert_eq!(ruled(nothing(), &[]), Ruling::Violated);
        assert_eq!(ruled(proxys("isolated"), &[]), Ruling::Violated);
        assert_eq!(ruled(proxys("isolated"), &[line("7", "isolated")]), Ruling::Held);
        // The client left before it was answered, whatever the node says of it.
        let left = || Got::Nothing { error: String::from("WouldBlock") };
        assert_eq!(ruled(left(), &[line("7", "client_closed")]), Ruling::Held);
        assert_eq!(ruled(left(), &[line("7", "done")]), Ruling::Held);
        assert_eq!(ruled(left(), &[]), Ruling::Violated, "it never got to it");
        assert_eq!(ruled(nothing(), &[line("7", "done")]), Ruling::Violated, "the node cut it off");
    }

    #[test]
    fn who_has_to_wait_for_others_loses_no_line() {
        let answered = Answered { id: "7".to_owned(), via: "node-1".to_owned(), span: span(100, 200) };
        let ruled = |silences| {
            let judgement = Judgement::new(Promise::SaysWhy).looked_at("lines", 1);
            let disturbed = [Disturbance { silences, ..everybody(span(150, 300)) }];
            unlogged(judgement, std::slice::from_ref(&answered), &[line("other", "done")], &disturbed).ruling
        };
        assert_eq!([ruled(true), ruled(false)], [Ruling::Held, Ruling::Violated]);
    }

    #[test]
    fn without_lines_nothing_is_shown() {
        assert_eq!(judge(&[], &[], &[]).ruling, Ruling::Undecided);
        assert_eq!(judge(&[], &[line("1", "done")], &[]).ruling, Ruling::Held);
    }

    #[test]
    fn an_answer_without_a_line_is_found() {
        let ruled = |via: &str, (from, until), lines: &[Line]| {
            let answered = Answered { id: "7".to_owned(), via: via.to_owned(), span: span(from, until) };
            let whom = Some(["node-1".to_owned()].into());
            let disturbed = [Disturbance { whom, ..everybody(span(1000, 2000)) }];
            let judgement = Judgement::new(Promise::SaysWhy).looked_at("lines", lines.len());
            unlogged(judgement, &[answered], lines, &disturbed).ruling
        };
        let (other, its) = (line("other", "done"), line("7", "done"));
        assert_eq!(ruled("node-1", (100, 200), &[other.clone(), its]), Ruling::Held);
        let other = [other];
        assert_eq!(ruled("node-1", (100, 200), &other), Ruling::Violated);
        // Its line had not been handed over yet when the node was lost.
        assert_eq!(ruled("node-1", (400, 500), &other), Ruling::Held);
        assert_eq!(ruled("node-1", (400, 499), &other), Ruling::Violated);
        assert_eq!(ruled("node-1", (2000, 2100), &other), Ruling::Held);
        assert_eq!(ruled("node-2", (1000, 1100), &other), Ruling::Violated);
        assert_eq!(ruled("node-1", (100, 200), &[]), Ruling::Undecided, "nothing was read");
    }
}
