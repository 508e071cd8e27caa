//! P6: without a quorum nothing changes, VIPs are given up, and traffic goes on.
//!
//! Judged at the nodes of a minority that was split off while nothing else was wrong, from a while after the cut until it began to be
//! mended: until then their leases, and what they had begun before, may last. In that time
//!
//! - no write that was begun there is acknowledged there,
//! - none of them answers for the VIP,
//! - each goes on to answer its client, by the backend that it had sent it to before the cut.
//!
//! The last is what a farm promises whose policy is `last-known`; one that says `isolated: refuse` promises less.
//!
//! Not here: who was split off when, and who answered for the VIP (the suite, its observer).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::time::{RunTime, Span};
use crate::verdict::{Judgement, Promise};

/// What one node said to the client that talks to no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The node.
    pub node: String,
    /// From when it was asked until the client knew.
    pub span: Span,
    /// What it was asked, and what came.
    pub what: What,
}

/// What a node was asked, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// For a page: the backend that gave it.
    Served(String),
    /// For a page, in vain; what came instead.
    InVain(String),
    /// To store something, and said that it is.
    Stored,
    /// To store something, and did not say so.
    NotStored,
}

/// A minority that had no quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minority {
    /// Its nodes.
    pub nodes: BTreeSet<String>,
    /// When it was cut off.
    pub cut: RunTime,
    /// From when on all leases must be over until somebody may hear them again.
    pub window: Span,
}

/// Judges what each of them did. `held` says who answered for a VIP when; in `excused`, backends or ways to them were broken, so
/// that nobody may be served, or by another. `None` if there was no minority to look at.
pub fn judge(minorities: &[Minority], said: &[Said], held: &[(Span, String)], excused: &[Span]) -> Option<Judgement> {
    if minorities.is_empty() {
        return None;
    }
    let mut judgement = Judgement::new(Promise::WithoutQuorum);
    let (mut answers, mut refused, mut passed_over) = (0, 0, 0);
    for Minority { nodes, cut, window } in minorities {
        for (span, node) in held.iter().filter(|(span, node)| nodes.contains(node) && span.touches(*window)) {
            judgement.violated(format!("{node} had no quorum from {} on and answered for a VIP: {span}", window.from));
        }
        for node in nodes {
            let of_node = said.iter().filter(|one| one.node == *node);
            // What it did between the cut and the window may be wrong already.
            let before = of_node.clone().filter(|one| one.span.until < *cut);
            let had = before.filter_map(|one| served(one).map(|backend| (one.span.until, backend))).max();
            for Said { span, what, .. } in of_node.filter(|one| window.contains(one.span.from)) {
                let is_over = span.until <= window.until;
                // Who was sent elsewhere for a reason stays there when that is over.
                let since = had.map_or(*span, |(at, _)| Span::new(at, span.until));
                let is_excused = excused.iter().any(|excused| excused.touches(since));
                match (what, had) {
                    (What::Stored, _) if is_over => {
                        judgement.violated(format!("{node} had no quorum and acknowledged a write: {span}"));
                    }
                    // A store takes its time to refuse, and may have a quorum again by then.
                    (What::Stored | What::NotStored, _) => refused += 1,
                    (What::Served(_) | What::InVain(_), _) if !is_over => {}
                    // It knows nothing of its client, or its client's backend may be away.
                    (What::Served(_) | What::InVain(_), None) => passed_over += 1,
                    (What::Served(_) | What::InVain(_), Some(_)) if is_excused => passed_over += 1,
                    (What::Served(backend), Some((_, had))) if backend == had => answers += 1,
                    (What::Served(backend), Some((_, had))) => {
                        judgement.violated(format!(
                            "{node} had no quorum and sent its client from {had} to {backend}: {span}"
                        ));
                    }
                    (What::InVain(got), Some(_)) => {
                        judgement.violated(format!("{node} had no quorum and did not serve its client: {got}, {span}"));
                    }
                }
            }
        }
    }
    Some(
        judgement
            .looked_at("answers without a quorum", answers)
            .count("writes begun and not acknowledged there", refused)
            .count("answers passed over there", passed_over)
            .count("minorities", minorities.len()),
    )
}

fn served(said: &Said) -> Option<&str> {
    match &said.what {
        What::Served(backend) => Some(backend),
        What::InVain(_) | What::Stored | What::NotStored => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Ruling::{self, Held, Undecided, Violated};

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    fn said(from: u64, until: u64, what: What) -> Said {
        Said { node: String::from("node-1"), span: span(from, until), what }
    }

    fn by(backend: &str) -> What {
        What::Served(backend.to_owned())
    }

    /// Of node-1, which is cut off at 8 s, alone from 10 s to 12 s for certain, and had its client at `a` before.
    fn ruled(more: &[Said], held: &[(Span, &str)], excused: &[Span]) -> Ruling {
        let nodes = BTreeSet::from([String::from("node-1")]);
        let minority = Minority { nodes, cut: RunTime::from_millis(8000), window: span(10_000, 12_000) };
        let usual = [said(5000, 5010, by("b")), said(7000, 7010, by("a")), said(10_100, 10_110, by("a"))];
        let all: Vec<Said> =
            usual.into_iter().chain([said(10_200, 10_300, What::NotStored)]).chain(more.iter().cloned()).collect();
        let held: Vec<(Span, String)> = held.iter().map(|(span, node)| (*span, (*node).to_owned())).collect();
        judge(&[minority], &all, &held, excused).expect("a minority").ruling
    }

    #[test]
    fn who_serves_its_client_as_before_and_changes_nothing_keeps_it() {
        assert_eq!(ruled(&[], &[(span(0, 9000), "node-1"), (span(9100, 30_000), "node-2")], &[]), Held);
    }

    #[test]
    fn a_write_that_a_minority_acknowledges_is_found() {
        assert_eq!(ruled(&[said(10_500, 10_600, What::Stored)], &[], &[]), Violated);
        // Begun before nobody could hear it, or told when somebody could again.
        assert_eq!(ruled(&[said(9900, 10_600, What::Stored), said(11_900, 12_100, What::Stored)], &[], &[]), Held);
    }

    #[test]
    fn a_vip_that_a_minority_keeps_is_found() {
        assert_eq!(ruled(&[], &[(span(9000, 10_001), "node-1")], &[]), Violated);
        assert_eq!(ruled(&[], &[(span(11_000, 11_500), "node-1")], &[]), Violated);
        assert_eq!(ruled(&[], &[(span(12_500, 14_000), "node-1")], &[]), Held);
    }

    #[test]
    fn a_client_that_is_not_served_is_found() {
        let vain = [said(11_000, 11_100, What::InVain(String::from("503 isolated")))];
        assert_eq!(ruled(&vain, &[], &[]), Violated);
        assert_eq!(ruled(&vain, &[], &[span(11_050, 11_060)]), Held);
    }

    #[test]
    fn a_client_that_is_sent_elsewhere_is_found() {
        let moved = [said(11_000, 11_100, by("b"))];
        assert_eq!(ruled(&moved, &[], &[]), Violated);
        assert_eq!(ruled(&moved, &[], &[span(11_050, 11_060)]), Held);
        assert_eq!(ruled(&[Said { node: String::from("node-2"), ..moved[0].clone() }], &[], &[]), Held);
    }

    #[test]
    fn a_client_that_was_sent_elsewhere_as_soon_as_the_node_was_cut_off_is_found() {
        let nodes = BTreeSet::from([String::from("node-1")]);
        let minority = [Minority { nodes, cut: RunTime::from_millis(8000), window: span(10_000, 12_000) }];
        let moved = [said(7000, 7010, by("a")), said(8500, 8510, by("b")), said(10_100, 10_110, by("b"))];
        let ruled = |excused: &[Span]| judge(&minority, &moved, &[], excused).expect("a minority").ruling;
        assert_eq!(ruled(&[]), Violated);
        // Its backend was away when it was sent elsewhere, so that nothing can be told.
        assert_eq!(ruled(&[span(8400, 8450)]), Undecided);
        assert_eq!(ruled(&[span(6000, 6900)]), Violated);
    }

    #[test]
    fn where_nobody_was_asked_nothing_is_held_and_where_no_minority_was_nothing_is_judged() {
        let nodes = BTreeSet::from([String::from("node-3")]);
        let minority = Minority { nodes, cut: RunTime::START, window: span(0, 1) };
        assert_eq!(judge(&[minority], &[], &[], &[]).map(|judgement| judgement.ruling), Some(Undecided));
        assert_eq!(judge(&[], &[said(1, 2, What::Stored)], &[], &[]), None);
    }
}
