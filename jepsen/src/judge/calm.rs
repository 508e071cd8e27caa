//! Whether each node served when a calm had lasted for as long as service may take to come back, and refused nobody then.

use ballast_jepsen::{
    kept::Ended,
    says_why::{Got, Vain},
    time::{RunTime, Span},
    verdict::Judgement,
};

use super::{
    BACK_WITHIN, TAIL,
    failover::{is_within, says_of_backends},
    name,
};
use crate::{nemesis::Calm, site::VIP_NAME};

/// Who answered when: the position of a node, and of the VIP behind the last one.
pub(super) type Answer = (usize, RunTime);

/// Looks for an answer of each node that something is expected of, and of the VIP, in the end of each calm that is long enough.
pub(super) fn everywhere(
    mut judgement: Judgement,
    calms: &[Calm],
    nodes: usize,
    what: &str,
    answers: &[Answer],
) -> Judgement {
    if answers.is_empty() {
        judgement.undecided(format!("no answers of the {what} were observed"));
        return judgement;
    }
    let mut looked = 0;
    for calm in calms {
        let tail = calm.from.after(BACK_WITHIN)..=calm.until;
        if *tail.end() < tail.start().after(TAIL) {
            continue;
        }
        for through in (0..=nodes).filter(|node| !calm.without.contains(node)) {
            looked += 1;
            if !answers.iter().any(|(at, when)| *at == through && tail.contains(when)) {
                let who = if through == nodes { VIP_NAME.to_owned() } else { name(through) };
                judgement.violated(format!(
                    "nobody was served by the {what} through {who} from {} to {}",
                    tail.start(),
                    tail.end()
                ));
            }
        }
    }
    judgement.looked_at(&format!("calms seen through at the {what} of a node or the VIP"), looked)
}

/// Looks for requests that were in vain within a calm, when service had come back. `troubled` has when checks may have found
/// backends down that nobody broke: then a proxy may say so; and a client that was kept from running is not held against anybody
/// whose answer it did not get.
pub(super) fn in_vain(mut judgement: Judgement, calms: &[Calm], failed: &[Vain], troubled: &[Span]) -> Judgement {
    let excused = |vain: &Vain| {
        let answered = matches!(vain.got, Got::Answer { .. });
        (says_of_backends(vain) || !answered) && is_within(vain, troubled)
    };
    let in_vain = failed.iter().filter(|vain| is_well(calms, &vain.via, vain.span) && !excused(vain));
    for Vain { id, via, span, got, .. } in in_vain {
        judgement.violated(format!(
            "{id} through {via} was in vain at {}, when all had been well for {BACK_WITHIN:?}: {got:?}",
            span.from
        ));
    }
    judgement
}

/// Looks for kept connections that were reset within a calm, or that took a request with them. One that is closed between two
/// requests is none of them. No excuse comes from backends or clients that were slow: a proxy answers for its connections by itself.
pub(super) fn cut(mut judgement: Judgement, calms: &[Calm], ended: &[Ended]) -> Judgement {
    let cut = || ended.iter().filter(|one| !one.end.is_clean());
    for Ended { id, via, span, end } in cut().filter(|one| is_well(calms, &one.via, one.span)) {
        judgement.violated(format!(
            "a kept connection through {via} ended by {end:?} for {id} at {}, when all had been well for {BACK_WITHIN:?}",
            span.from
        ));
    }
    let cut = cut().count();
    judgement.count("kept connections closed first", ended.len() - cut).count("kept connections cut", cut)
}

/// Whether all was well throughout a time with whom a client talked to: it is within the end of a calm.
fn is_well(calms: &[Calm], via: &str, span: Span) -> bool {
    calms.iter().any(|calm| {
        let served = Span::new(calm.from.after(BACK_WITHIN), calm.until.max(calm.from.after(BACK_WITHIN)));
        let whole = served.contains(span.from) && served.contains(span.until);
        // Whoever is without files or a place may be the VIP's owner.
        whole && calm.without.iter().all(|node| via != name(*node) && via != VIP_NAME)
    })
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::verdict::{Promise, Ruling};

    use super::*;

    #[test]
    fn each_node_and_the_vip_answer_in_the_end_of_a_calm() {
        let at = RunTime::from_millis;
        let calm =
            |without: &[usize]| Calm { from: at(0), until: at(6_000), without: without.iter().copied().collect() };
        let ruled = |calm: Calm, answers: &[Answer]| {
            everywhere(Judgement::new(Promise::ComesBack), &[calm], 2, "store", answers).ruling
        };
        let all = [(0, at(5_100)), (1, at(5_900)), (2, at(5_500))];
        assert_eq!(ruled(calm(&[]), &all), Ruling::Held);
        assert_eq!(ruled(calm(&[]), &[(0, at(5_100)), (1, at(4_900)), (2, at(5_500))]), Ruling::Violated);
        assert_eq!(ruled(calm(&[]), &all[..2]), Ruling::Violated, "the VIP");
        assert_eq!(ruled(calm(&[1]), &[all[0], all[2]]), Ruling::Held);
        assert_eq!(ruled(Calm { until: at(5_500), ..calm(&[]) }, &all[..1]), Ruling::Undecided, "it was too short");
        assert_eq!(ruled(calm(&[]), &[]), Ruling::Undecided, "nobody asked");
    }

    #[test]
    fn a_request_in_vain_while_all_is_well_is_found() {
        let at = RunTime::from_millis;
        let calm =
            |without: &[usize]| Calm { from: at(0), until: at(7_000), without: without.iter().copied().collect() };
        let answer = |reason: &str| Got::Answer { status: 503, reason: Some(reason.to_owned()) };
        let vain = |via: &str, from, until, got| Vain {
            id: "7".to_owned(),
            via: via.to_owned(),
            span: Span::new(at(from), at(until)),
            got,
            known_as: None,
            before: None,
        };
        let ruled = |calm: Calm, vain: Vain, troubled: &[Span]| {
            let judgement = Judgement::new(Promise::ComesBack).looked_at("calms", 1);
            in_vain(judgement, &[calm], &[vain], troubled).ruling
        };
        let refused = |via: &str, reason: &str| vain(via, 5_500, 5_600, answer(reason));
        for (via, reason) in [("node-1", "no_backend"), (VIP_NAME, "queue_full"), ("node-2", "isolated")] {
            assert_eq!(ruled(calm(&[]), refused(via, reason), &[]), Ruling::Violated, "{via} {reason}");
        }
        // Before service must be back, or not over when the next fault came.
        for (from, until) in [(4_900, 5_100), (6_900, 7_100)] {
            assert_eq!(ruled(calm(&[]), vain("node-1", from, until, answer("isolated")), &[]), Ruling::Held);
        }
        assert_eq!(ruled(calm(&[0]), refused("node-1", "isolated"), &[]), Ruling::Held);
        assert_eq!(ruled(calm(&[0]), refused("node-2", "isolated"), &[]), Ruling::Violated);
        let troubled = [Span::new(at(5_550), at(5_560))];
        assert_eq!(ruled(calm(&[]), refused("node-1", "no_backend"), &troubled), Ruling::Held);
        assert_eq!(ruled(calm(&[]), refused("node-1", "isolated"), &troubled), Ruling::Violated);
        let nothing = vain("node-1", 5_500, 5_600, Got::Nothing { error: "TimedOut".to_owned() });
        assert_eq!(ruled(calm(&[]), nothing.clone(), &troubled), Ruling::Held);
        assert_eq!(ruled(calm(&[]), nothing, &[]), Ruling::Violated);
    }

    #[test]
    fn a_kept_connection_that_is_cut_while_all_is_well_is_found() {
        use ballast_jepsen::kept::End;
        let at = RunTime::from_millis;
        let ruled = |end: End, via: &str, (from, until)| {
            let calm = Calm { from: at(0), until: at(7_000), without: [0].into() };
            let ended = Ended { id: "7".to_owned(), via: via.to_owned(), span: Span::new(at(from), at(until)), end };
            cut(Judgement::new(Promise::ComesBack).looked_at("requests", 1), &[calm], &[ended]).ruling
        };
        for end in [End::Reset, End::ResetAfter, End::ClosedAfter] {
            assert_eq!(ruled(end, "node-2", (5_100, 5_200)), Ruling::Violated, "{end:?}");
            // It may have been cut before service must be back, or when the next fault came.
            assert_eq!(ruled(end, "node-2", (4_900, 5_200)), Ruling::Held, "{end:?}");
            assert_eq!(ruled(end, "node-2", (6_900, 7_100)), Ruling::Held, "{end:?}");
            for without in ["node-1", VIP_NAME] {
                assert_eq!(ruled(end, without, (5_100, 5_200)), Ruling::Held, "{end:?}");
            }
        }
        assert_eq!(ruled(End::Closed, "node-2", (5_100, 5_200)), Ruling::Held);
    }
}
