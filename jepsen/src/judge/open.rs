//! Who answers the clients of the farm `open`, each of which asks one node and is known there by a header.
//!
//! A node without a quorum serves by what it knew last, so who answers then is judged only where a minority is split off
//! (`minorities`). But what is bound is in the log. So whenever all is well, a client is answered by the backend that answered it
//! when all was well before, whatever befell nodes in between. After a time in which backends were broken or slow, it may be
//! another one.

use ballast_jepsen::{
    stickiness::Observation,
    time::{RunTime, Span},
    without_quorum::{Said, What},
};

use super::{BACK_WITHIN, minorities::SLOW};
use crate::{nemesis, plan::Kind, run::Run};

/// The farm.
const OPEN: &str = "open";

/// What was observed while all was well.
pub(super) fn observed(run: &Run) -> Vec<Observation> {
    let faults = &run.faults.faults;
    // What operators want of the shop's backends does not concern this farm's.
    let away = |kind: Kind| matches!(kind, Kind::BackendFails | Kind::BackendTruncates | Kind::LossEverywhere);
    let away = faults.iter().filter(|fault| away(fault.kind));
    let away = away.map(|fault| Span::new(fault.from, nemesis::reason_until(fault)));
    let slow = run.slow.iter().filter(|slow| slow.length() > SLOW);
    let slow = slow.map(|slow| Span::new(slow.from, slow.until.after(BACK_WITHIN)));
    let reasons: Vec<Span> = away.chain(slow).collect();
    let of_nodes = faults.iter().filter(|fault| !fault.kind.spares_nodes());
    let of_nodes: Vec<Span> = of_nodes.map(|fault| Span::new(fault.from, fault.until.after(BACK_WITHIN))).collect();
    while_well(&run.alone, &reasons, &of_nodes, run.span.1)
}

/// `reasons` may have sent clients elsewhere for good; what befell nodes may have done so only while it lasted.
fn while_well(said: &[Said], reasons: &[Span], of_nodes: &[Span], end: RunTime) -> Vec<Observation> {
    let is_well = |span: Span| span.until <= end && !reasons.iter().chain(of_nodes).any(|other| other.touches(span));
    let seen = said.iter().filter(|one| is_well(one.span)).filter_map(|Said { node, span, what }| {
        let What::Served(backend) = what else { return None };
        let over = reasons.iter().map(|reason| reason.until).filter(|until| *until < span.from);
        let since = over.max().unwrap_or_default();
        Some(Observation {
            farm: OPEN.to_owned(),
            client: format!("the client of {node} since {since}"),
            backend: backend.clone(),
            via: node.clone(),
            bound: true,
            span: *span,
        })
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::stickiness::check_stickiness;

    use super::*;

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    fn said(at: u64, what: What) -> Said {
        Said { node: String::from("node-1"), span: span(at, at + 10), what }
    }

    /// How many answers are looked at, and how many strays there are.
    fn found(backends: &[(u64, &str)], reasons: &[Span], of_nodes: &[Span]) -> (usize, usize) {
        let served = |(at, backend): &(u64, &str)| said(*at, What::Served((*backend).to_owned()));
        let said: Vec<Said> = backends.iter().map(served).collect();
        let seen = while_well(&said, reasons, of_nodes, RunTime::from_millis(60_000));
        (seen.len(), check_stickiness(&seen, &[]).strays.len())
    }

    #[test]
    fn a_client_is_where_it_was_when_all_is_well_again() {
        let stays = [(1_000, "web1"), (5_000, "web1"), (20_000, "web1")];
        assert_eq!(found(&stays, &[], &[]), (3, 0));
        let goes = [(1_000, "web1"), (20_000, "web2")];
        assert_eq!(found(&goes, &[], &[]), (2, 1));
        assert_eq!(found(&goes, &[], &[span(4_000, 12_000)]), (2, 1), "what befell nodes is over");
        assert_eq!(found(&goes, &[span(4_000, 12_000)], &[]), (2, 0), "its backend was away");
        let after = [(1_000, "web1"), (20_000, "web2"), (30_000, "web3")];
        assert_eq!(found(&after, &[span(4_000, 12_000)], &[]), (3, 1), "before that");
    }

    #[test]
    fn what_a_node_answers_that_something_befalls_is_not_looked_at() {
        let there_and_back = [(1_000, "web1"), (5_000, "web2"), (20_000, "web1")];
        assert_eq!(found(&there_and_back, &[], &[span(4_000, 12_000)]), (2, 0));
        assert_eq!(found(&[(61_000, "web1")], &[], &[]), (0, 0), "nobody says what is wrong then");
        let others = [What::InVain(String::from("503 isolated")), What::Stored].map(|what| said(1_000, what));
        assert!(while_well(&others, &[], &[], RunTime::from_millis(60_000)).is_empty());
    }
}
