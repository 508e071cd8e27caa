//! What becomes of the VIP when its owner is lost, or gives it away, while all else is well.

use std::time::Duration;

use ballast_jepsen::{
    kept::Ended,
    says_why::{Got, Vain},
    time::{RunTime, Span},
    verdict::{Judgement, Promise},
};

use super::{hands, name};
use crate::{
    nemesis::{self, Happened},
    plan::{Family, Kind},
    run::Run,
    site::VIP_NAME,
};

/// How long nobody may answer after an owner was lost and nothing else was wrong: some leases of 200 ms, because the machine that
/// runs all nodes has other things to do. What it took is counted.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);
/// How long a right to the VIP lasts at most, by default.
const LEASE: Duration = Duration::from_millis(200);

/// What a proxy says that found no backend, or got nothing from the one that it found.
const OF_BACKENDS: [&str; 4] = ["no_backend", "connect_failed", "backend_closed", "backend_timeout"];

/// A dead owner is replaced, and a planned move loses no request. `None` if neither an owner was lost nor the VIP moved while all
/// else was well.
pub(super) fn replaced(run: &Run) -> Option<Judgement> {
    let owners = run.owners.owners();
    let owner_at = |at: RunTime| {
        let at = run.clock.kernel(at);
        owners.iter().rfind(|(from, _, _)| *from <= at).map(|(_, _, node)| name(*node))
    };
    let faults = &run.faults.faults;
    let lost: Vec<&Happened> = faults.iter().filter(|fault| loses_alone(fault, owner_at(fault.from), faults)).collect();
    let changes = hands::unexplained(run);
    let moved: Vec<Span> = moves_alone(faults).filter(|span| !hands::touches(&changes, *span)).collect();
    if lost.is_empty() && moved.is_empty() && changes.is_empty() {
        return None;
    }
    let mut judgement = Judgement::new(Promise::Failover);
    let mut longest = Duration::ZERO;
    for fault in &lost {
        let (from, until) = (run.clock.kernel(fault.from), run.clock.kernel(fault.from.after(2 * REPLACED_WITHIN)));
        let nobody = Duration::from_secs_f64(run.owners.nobody_ms(from, until) / 1000.0);
        longest = longest.max(nobody);
        if nobody > REPLACED_WITHIN {
            let victim = fault.victims.join(", ");
            judgement
                .violated(format!("nobody answered for {nobody:?} after {} of {victim} at {}", fault.kind, fault.from));
        }
    }
    let failed = [&run.seen.failed[..], &run.till.failed].concat();
    if !changes.is_empty() {
        let times = changes.len();
        judgement.undecided(format!(
            "{VIP_NAME} changed hands {times} times though nothing was done: a machine too busy for leases, or a fault of theirs"
        ));
    }
    let troubled = super::troubles(&run.faults.faults, &run.slow);
    let lost_by_moves = lost_by_moves(&moved, &failed, &troubled);
    for (span, vain) in lost_by_moves.filter(|(_, vain)| !run.moves_end_connections || hands::found_nobody(vain)) {
        judgement.violated(format!(
            "{} was in vain over the VIP, which was moved at {}: {:?}",
            vain.id, span.from, vain.got
        ));
    }
    for span in moved.iter().filter(|span| asked_during(**span, &run.seen.over_vip, &failed) == 0) {
        judgement.undecided(format!("nobody asked over the VIP while it was moved at {}", span.from));
    }
    let kept = run.seen.kept.ended.iter().chain(&run.till.kept.ended);
    Some(
        judgement
            .count("owners lost alone", lost.len())
            .count("longest without one, in ms", longest.as_millis() as usize)
            .count("moves alone", moved.len())
            .count("kept connections cut meanwhile", cut_by_moves(&moved, kept)),
    )
}

/// How many requests over the VIP were over within a move, whatever came of them. `answered` has when those were that went well.
fn asked_during(span: Span, answered: &[RunTime], failed: &[Vain]) -> usize {
    let in_vain = failed.iter().filter(|vain| vain.via == VIP_NAME).map(|vain| vain.span.until);
    answered.iter().copied().chain(in_vain).filter(|at| span.contains(*at)).count()
}

/// How many kept connections over the VIP were found reset within a move, or took a request with them. Clients sent it again.
fn cut_by_moves<'a>(moves: &[Span], ended: impl Iterator<Item = &'a Ended>) -> usize {
    let cut = ended.filter(|one| one.via == VIP_NAME && !one.end.is_clean());
    cut.filter(|one| moves.iter().any(|span| span.contains(one.span.until))).count()
}

/// Whether a fault took the owner's right while all else was well. One that was over before a lease ended took nothing.
fn loses_alone(fault: &Happened, owner: Option<String>, faults: &[Happened]) -> bool {
    use Kind::{Freeze, Isolate, Kill, LinkDown, Pause, PowerOff};
    let dies = matches!(fault.kind, Freeze | Isolate | Kill | LinkDown | Pause | PowerOff);
    let lasts = fault.until.since(fault.from) > 2 * LEASE;
    let near = Span::new(fault.from.before(2 * REPLACED_WITHIN), fault.from.after(2 * REPLACED_WITHIN));
    dies && lasts && owner.is_some_and(|owner| fault.victims.contains(&owner)) && is_alone(fault, near, faults)
}

/// When the VIP was moved while all else was well, and what a move has to do with it. A node that ends as it is told to gives it
/// away as well, whether it is the only one or others do after it.
fn moves_alone(faults: &[Happened]) -> impl Iterator<Item = Span> {
    let moves = |kind: Kind| kind == Kind::MoveVip || kind.ends_in_order();
    let moves = faults.iter().filter(move |fault| moves(fault.kind) && fault.came_about);
    moves.filter_map(move |fault| {
        let span = Span::new(fault.from, fault.until.after(2 * REPLACED_WITHIN));
        let near = Span::new(fault.from.before(2 * REPLACED_WITHIN), span.until);
        // A backend that is broken fails requests as well.
        let broken = faults.iter().any(|other| {
            let until = nemesis::reason_until(other);
            other.kind.family() == Family::Backend && other.from <= near.until && near.from <= until
        });
        (!broken && is_alone(fault, near, faults)).then_some(span)
    })
}

/// Requests over the VIP that began and ended within a move, and were in vain. Where backends may have been slow to answer checks,
/// `troubled`, those of which the answer says that there was none do not count.
fn lost_by_moves<'a>(
    moves: &'a [Span],
    failed: &'a [Vain],
    troubled: &'a [Span],
) -> impl Iterator<Item = (Span, &'a Vain)> {
    moves.iter().flat_map(move |span| {
        let within = |vain: &&Vain| span.from <= vain.span.from && vain.span.until <= span.until;
        let over_vip = failed.iter().filter(|vain| vain.via == VIP_NAME);
        let excused = move |vain: &&Vain| says_of_backends(vain) && is_within(vain, troubled);
        over_vip.filter(within).filter(move |vain| !excused(vain)).map(|vain| (*span, vain))
    })
}

/// Whether the answer says that no backend served the request.
pub(super) fn says_of_backends(vain: &Vain) -> bool {
    matches!(&vain.got, Got::Answer { reason: Some(reason), .. } if OF_BACKENDS.contains(&reason.as_str()))
}

/// Whether a request was under way in one of these times.
pub(super) fn is_within(vain: &Vain, times: &[Span]) -> bool {
    times.iter().any(|time| time.touches(vain.span))
}

/// Whether nothing else that nodes suffer from, or that moves the VIP, was going on near it.
pub(super) fn is_alone(fault: &Happened, near: Span, faults: &[Happened]) -> bool {
    let others =
        faults.iter().filter(|other| !other.kind.spares_nodes() || matches!(other.kind, Kind::MoveVip | Kind::Demote));
    let mut others = others.filter(|other| other.from <= near.until && near.from <= other.until);
    others.all(|other| std::ptr::eq(other, fault))
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::says_why::Got;

    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn fault(kind: Kind, from: u64, until: u64) -> Happened {
        let victims = vec![String::from("node-1")];
        Happened {
            kind,
            victims,
            from: at(from),
            until: at(until),
            whole_until: None,
            came_about: true,
            acknowledged: None,
        }
    }

    fn is_lost(fault: Happened, owner: &str, others: &[Happened]) -> bool {
        let faults: Vec<Happened> = [fault].into_iter().chain(others.iter().cloned()).collect();
        loses_alone(&faults[0], Some(owner.to_owned()), &faults)
    }

    #[test]
    fn a_blink_is_no_loss() {
        let lost = |until| is_lost(fault(Kind::Pause, 10_000, until), "node-1", &[]);
        assert_eq!([10_020, 10_400, 10_401, 12_000].map(lost), [false, false, true, true]);
    }

    #[test]
    fn an_owner_is_lost_alone_when_it_is_the_victim_of_the_only_fault() {
        let kill = || fault(Kind::Kill, 10_000, 12_000);
        assert!(is_lost(kill(), "node-1", &[fault(Kind::BackendFails, 10_000, 11_000)]));
        assert!(!is_lost(kill(), "node-2", &[]));
        assert!(!is_lost(fault(Kind::SlowDisk, 10_000, 12_000), "node-1", &[]));
        for other in [Kind::Delay, Kind::MoveVip, Kind::Demote] {
            assert!(!is_lost(kill(), "node-1", &[fault(other, 11_000, 13_000)]), "{other}");
            assert!(is_lost(kill(), "node-1", &[fault(other, 13_000, 14_000)]), "{other}");
        }
    }

    fn vain(via: &str, from: u64, until: u64) -> Vain {
        let got = Got::NoConnection { error: String::from("ConnectionRefused") };
        Vain { id: String::from("7"), via: via.to_owned(), span: Span::new(at(from), at(until)), got }
    }

    fn lost(faults: &[Happened], troubled: &[Span], vain: Vain) -> usize {
        lost_by_moves(&moves_alone(faults).collect::<Vec<_>>(), &[vain], troubled).count()
    }

    fn moved() -> Happened {
        fault(Kind::MoveVip, 10_000, 11_000)
    }

    #[test]
    fn nodes_that_end_as_they_are_told_to_lose_no_request_over_the_vip() {
        for kind in [Kind::RollingRestart, Kind::RollingUpgrade, Kind::Terminate] {
            assert_eq!(lost(&[fault(kind, 10_000, 16_000)], &[], vain(VIP_NAME, 13_100, 13_200)), 1, "{kind}");
            assert_eq!(lost(&[fault(kind, 10_000, 16_000)], &[], vain("node-1", 13_100, 13_200)), 0, "{kind}");
        }
    }

    #[test]
    fn a_request_in_vain_over_the_vip_while_it_is_moved_alone_is_found() {
        assert_eq!(lost(&[moved()], &[], vain(VIP_NAME, 10_100, 10_200)), 1);
        assert_eq!(lost(&[moved()], &[], vain(VIP_NAME, 10_100, 13_000)), 1);
        // Those that began before or ended after, or went elsewhere.
        assert_eq!(lost(&[moved()], &[], vain(VIP_NAME, 9_900, 10_200)), 0);
        assert_eq!(lost(&[moved()], &[], vain(VIP_NAME, 12_900, 13_100)), 0);
        assert_eq!(lost(&[moved()], &[], vain("node-1", 10_100, 10_200)), 0);
        // What else may have been the reason.
        for other in [Kind::Kill, Kind::BackendFails, Kind::MoveVip] {
            assert_eq!(lost(&[moved(), fault(other, 8_500, 8_600)], &[], vain(VIP_NAME, 10_100, 10_200)), 0, "{other}");
        }
        let refused = Happened { came_about: false, ..moved() };
        assert_eq!(lost(&[refused], &[], vain(VIP_NAME, 10_100, 10_200)), 0);
    }

    #[test]
    fn a_backend_that_was_slow_excuses_what_is_said_of_backends_and_nothing_else() {
        let slow = Span::new(at(10_000), at(10_150));
        let answer = |reason: &str| {
            let got = Got::Answer { status: 503, reason: Some(reason.to_owned()) };
            Vain { got, ..vain(VIP_NAME, 10_100, 10_200) }
        };
        assert_eq!(lost(&[moved()], &[slow], answer("no_backend")), 0);
        assert_eq!(lost(&[moved()], &[], answer("no_backend")), 1);
        assert_eq!(lost(&[moved()], &[slow], answer("isolated")), 1);
        assert_eq!(lost(&[moved()], &[slow], vain(VIP_NAME, 10_100, 10_200)), 1);
    }

    #[test]
    fn who_asked_and_what_was_cut_counts_over_the_vip_and_within_a_move() {
        use ballast_jepsen::kept::End;
        let span = Span::new(at(10_000), at(12_000));
        assert_eq!(asked_during(span, &[at(9_999), at(12_001)], &[vain("node-1", 10_100, 10_200)]), 0);
        assert_eq!(asked_during(span, &[at(10_500)], &[vain(VIP_NAME, 9_900, 10_200)]), 2);
        let ended = |via: &str, until, end| {
            let span = Span::new(at(9_000), at(until));
            Ended { id: String::from("7"), via: via.to_owned(), span, end }
        };
        let all = [
            ended(VIP_NAME, 11_000, End::ResetAfter),
            ended(VIP_NAME, 11_000, End::Closed),
            ended(VIP_NAME, 12_500, End::ResetAfter),
            ended("node-1", 11_000, End::ResetAfter),
        ];
        assert_eq!(cut_by_moves(&[span], all.iter()), 1);
    }
}
