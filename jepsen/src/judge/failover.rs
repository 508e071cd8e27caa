//! What becomes of the VIP when its owner is lost, or gives it away, or another node is lost, while all else is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ballast_jepsen::{
    kept::Ended,
    says_why::{Got, Line, Vain},
    time::{RunTime, Span},
    verdict::{Judgement, Promise},
};

use super::{BACK_WITHIN, hands, owners, stays};
use crate::{
    nemesis::{self, Happened, Record},
    plan::{Family, Kind, Round, Shown, TAKE_A_NODE, WRONG_CLOCKS},
    run::Run,
    site::VIP_NAME,
    workload::bindings::{Seen, Served},
};

/// How long nobody may answer after an owner was lost and nothing else was wrong: some leases of 200 ms, because the machine that
/// runs all nodes has other things to do. What it took is counted.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);
/// How long a right to the VIP lasts at most, by default.
const LEASE: Duration = Duration::from_millis(200);

/// What a proxy says that found no backend, or got nothing from the one that it found.
const OF_BACKENDS: [&str; 4] = ["no_backend", "connect_failed", "backend_closed", "backend_timeout"];

/// A dead owner is replaced, a planned move loses no request, and what befalls another node loses none of a client that the cluster
/// knew, nor does an owner that comes back. `None` if no node was lost or split off, no clock was wrong and the VIP was not moved while
/// all else was well.
pub(super) fn replaced(run: &Run) -> Option<Judgement> {
    let held = owners::of(run);
    let owner_at = |at: RunTime| held.iter().rfind(|(then, _)| then.from <= at).map(|(_, node)| node.clone());
    let faults = &run.faults.faults;
    let lost: Vec<&Happened> = faults.iter().filter(|fault| loses_alone(fault, owner_at(fault.from), faults)).collect();
    let changes = hands::unexplained(run);
    let moved: Vec<Span> = moves_alone(faults).filter(|span| !hands::touches(&changes, *span)).collect();
    let firm = run.options.environment.has_real_time();
    let beside: Vec<(&Happened, Span)> = beside_the_owner(&run.faults, &held, firm).collect();
    // Where they lose it by themselves, that is told below.
    let still: Vec<(&Happened, Span)> =
        if firm { stays::times(&run.faults, &held, &lost).collect() } else { Vec::new() };
    if lost.is_empty() && moved.is_empty() && changes.is_empty() && beside.is_empty() && still.is_empty() {
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
    for (fault, at, [from, to]) in stays::left(&still, &held, faults, &troubled) {
        let victims = fault.victims.join(", ");
        judgement.violated(format!(
            "{VIP_NAME} went from {from} to {to} at {at}, beside nothing but {} of {victims} from {} to {}",
            fault.kind, fault.from, fault.until
        ));
    }
    let known = hands::without(of_the_known(&run.seen, &run.till.failed, &run.proxied), &changes);
    let returns = still.iter().copied().filter(|(fault, span)| span.from > fault.from);
    let unnoticed: Vec<(&Happened, Span)> = beside.iter().copied().chain(returns).collect();
    for (fault, vain) in lost_beside(&unnoticed, &known, &troubled) {
        let victim = fault.victims.join(", ");
        judgement.violated(format!(
            "{} of a known client was in vain over the VIP at {}, beside nothing but {} of {victim} at {}: {:?}",
            vain.id, vain.span.from, fault.kind, fault.from, vain.got
        ));
    }
    let mut asked_beside = 0;
    for (fault, span) in &beside {
        let asked = asked_during(*span, &run.seen.over_vip, &failed);
        if asked == 0 {
            judgement.undecided(format!("nobody asked over the VIP beside {} at {}", fault.kind, fault.from));
        }
        asked_beside += asked;
    }
    if !run.cut_short && !run.faults.halted {
        unshown(&mut judgement, &run.rounds, lost.len(), moved.len());
    }
    let kept = run.seen.kept.ended.iter().chain(&run.till.kept.ended);
    Some(
        judgement
            .count("faults alone beside the owner", beside.len())
            .count("requests over the VIP beside them", asked_beside)
            .count("times that the VIP had to stay", still.len())
            .count("owners lost alone", lost.len())
            .count("longest without one, in ms", longest.as_millis() as usize)
            .count("moves alone", moved.len())
            .count("kept connections cut meanwhile", cut_by_moves(&moved, kept)),
    )
}

/// What rounds were to show of owners that are lost and of moves, and none did: it befell somebody else, or was not done. What is judged
/// beside them does not stand for it.
fn unshown(judgement: &mut Judgement, rounds: &[Round], lost: usize, moved: usize) {
    let planned = |what: Shown| rounds.iter().any(|round| round.shows() == Some(what));
    for (what, shown, words) in [(Shown::Loss, lost, "the owner lost"), (Shown::Move, moved, "the VIP moved")] {
        if shown == 0 && planned(what) {
            judgement.undecided(format!("a round was to show {words} while nothing else is done, and none did"));
        }
    }
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
        let span = Span::new(fault.from, fault.lasts_until().after(2 * REPLACED_WITHIN));
        let near = Span::new(fault.from.before(2 * REPLACED_WITHIN), span.until);
        // A backend that is broken fails requests as well.
        let broken = faults.iter().any(|other| {
            let until = nemesis::reason_until(other);
            other.kind.family() == Family::Backend && other.from <= near.until && near.from <= until
        });
        (!broken && is_alone(fault, near, faults)).then_some(span)
    })
}

/// What befell one node that did not own the VIP, or few that were split off, or one wall clock, while nothing else was done; and the
/// time in which nobody whom the cluster knows may notice: until service must be back, when new clients need not wait for a leader any
/// more either. Where nodes lose the VIP by themselves, because they are not `firm`, only while one of them had it throughout.
fn beside_the_owner<'a>(
    record: &'a Record,
    owners: &'a [(Span, String)],
    firm: bool,
) -> impl Iterator<Item = (&'a Happened, Span)> {
    let all_vote = all_vote(record);
    record.faults.iter().filter_map(move |fault| {
        let span = Span::new(fault.from, fault.until.after(BACK_WITHIN));
        let near = Span::new(fault.from.before(BACK_WITHIN), span.until);
        let held: BTreeSet<&String> =
            owners.iter().filter(|(then, _)| then.touches(near)).map(|(_, owner)| owner).collect();
        let away = TAKE_A_NODE.contains(&fault.kind) || fault.kind == Kind::Split;
        let takes = away && all_vote && !fault.victims.iter().any(|victim| held.contains(victim));
        let is_seen = !held.is_empty() && (firm || held.len() == 1);
        let counts = is_seen && (takes || WRONG_CLOCKS.contains(&fault.kind));
        (counts && is_only(fault, near, record)).then_some((fault, span))
    })
}

/// Whether all vote that are to. With a voter less, one more that is lost may be the quorum's.
pub(super) fn all_vote(record: &Record) -> bool {
    !record.complaints.iter().any(|complaint| complaint.starts_with("node promote"))
}

/// Whether nothing else at all was done near it, and no node was missing.
pub(super) fn is_only(fault: &Happened, near: Span, record: &Record) -> bool {
    let mut calms = record.calms.iter().filter(|calm| Span::new(calm.from, calm.until).touches(near));
    let whole = calms.all(|calm| calm.without.is_empty());
    whole && record.faults.iter().all(|other| std::ptr::eq(other, fault) || !reach(other).touches(near))
}

/// From when a fault began until nothing comes of it any more.
fn reach(fault: &Happened) -> Span {
    let of_backends = fault.kind.family() == Family::Backend;
    Span::new(fault.from, if of_backends { nemesis::reason_until(fault) } else { fault.until })
}

/// Requests in vain of clients that the cluster knew. A visitor is known by a cookie that is bound, as access logs tell. A buyer has
/// one of Ballast's own, for which no log is asked; but its backend asks the store, so that one is left out who gave up waiting.
fn of_the_known(seen: &Seen, till: &[Vain], lines: &[Line]) -> Vec<Vain> {
    let since = bound_since(&seen.served, lines);
    let is_bound = |vain: &&Vain| {
        let bound = vain.known_as.as_ref().and_then(|cookie| since.get(cookie.as_str()));
        bound.is_some_and(|bound| *bound <= vain.span.from)
    };
    let visitors = seen.failed.iter().filter(is_bound);
    let buyers = till.iter().filter(|vain| vain.known_as.is_some() && !vain.got.gave_up());
    visitors.chain(buyers).filter(|vain| was_not_served(&vain.got)).cloned().collect()
}

/// By when each cookie was bound to a backend, as far as access logs tell: an answer came back to it, or with it, through a binding.
fn bound_since<'a>(served: &'a [Served], lines: &[Line]) -> BTreeMap<&'a str, RunTime> {
    let mut bound: BTreeMap<&str, bool> = BTreeMap::new();
    for line in lines {
        *bound.entry(&line.id).or_insert(true) &= line.binding != "unbound";
    }
    let mut since: BTreeMap<&str, RunTime> = BTreeMap::new();
    for one in served.iter().filter(|one| bound.get(one.id.as_str()) == Some(&true)) {
        let first = since.entry(&one.visitor).or_insert(one.completed);
        *first = (*first).min(one.completed);
    }
    since
}

/// Whether nobody answered, or a proxy did that could not serve. What a backend says is the backend's, and what is wrong with a
/// request its client's.
fn was_not_served(got: &Got) -> bool {
    match got {
        Got::Answer { status, reason } => *status >= 500 && reason.is_some(),
        Got::Nothing { .. } | Got::NoConnection { .. } => true,
    }
}

/// Those over the VIP that began and ended beside what befell another node, or a clock. Where a machine was too busy for checks,
/// `troubled`, a new leader may be late as well, for whom even a known client has to wait if the last one left something undecided.
fn lost_beside<'a>(
    beside: &'a [(&'a Happened, Span)],
    known: &'a [Vain],
    troubled: &'a [Span],
) -> impl Iterator<Item = (&'a Happened, &'a Vain)> {
    beside.iter().flat_map(move |(fault, span)| {
        let within = move |vain: &&Vain| span.contains(vain.span.from) && span.contains(vain.span.until);
        let over_vip = known.iter().filter(move |vain| vain.via == VIP_NAME && !is_within(vain, troubled));
        over_vip.filter(within).map(move |vain| (*fault, vain))
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
    use ballast_jepsen::verdict::Ruling;

    use super::*;
    use crate::{
        nemesis::Calm,
        plan::{Planned, Whom},
    };

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

    #[test]
    fn where_none_of_the_owners_that_were_to_be_lost_was_nothing_is_held() {
        let round = |kind, whom| {
            let fault = Planned { kind, whom, choice: 0, from_ms: 0, until_ms: 5000 };
            Round { faults: vec![fault], calm_until_ms: 11_000 }
        };
        let ruled = |rounds: &[Round], lost, moved| {
            let mut judgement = Judgement::new(Promise::Failover);
            unshown(&mut judgement, rounds, lost, moved);
            judgement.ruling
        };
        let both = [round(Kind::Kill, Whom::Owner), round(Kind::MoveVip, Whom::Owner)];
        assert_eq!(ruled(&both, 1, 1), Ruling::Held);
        assert_eq!([ruled(&both, 0, 1), ruled(&both, 1, 0)], [Ruling::Undecided; 2]);
        assert_eq!(ruled(&[round(Kind::Kill, Whom::Leader)], 0, 0), Ruling::Held, "none was to be");
    }

    fn vain(via: &str, from: u64, until: u64) -> Vain {
        let got = Got::NoConnection { error: String::from("ConnectionRefused") };
        let span = Span::new(at(from), at(until));
        Vain { id: String::from("7"), via: via.to_owned(), span, got, known_as: None, before: None }
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

    fn refused(reason: &str) -> Got {
        Got::Answer { status: 503, reason: Some(reason.to_owned()) }
    }

    /// The times in which nobody may notice what befell node-1, while these nodes owned the VIP.
    fn beside(record: &Record, owners: &[(u64, u64, &str)], firm: bool) -> Vec<Span> {
        let owned = |(from, until, node): &(u64, u64, &str)| (Span::new(at(*from), at(*until)), (*node).to_owned());
        let owners: Vec<(Span, String)> = owners.iter().map(owned).collect();
        beside_the_owner(record, &owners, firm).map(|(_, span)| span).collect()
    }

    fn record(faults: &[Happened]) -> Record {
        Record { faults: faults.to_vec(), ..Record::default() }
    }

    #[test]
    fn a_fault_of_a_node_that_does_not_own_is_not_to_be_noticed_until_service_must_be_back() {
        let judged = |kind, owners: &[(u64, u64, &str)]| beside(&record(&[fault(kind, 20_000, 22_000)]), owners, true);
        let other = [(0, 60_000, "node-2")];
        for kind in Kind::all() {
            let takes = TAKE_A_NODE.contains(&kind) || WRONG_CLOCKS.contains(&kind) || kind == Kind::Split;
            let expected = if takes { vec![Span::new(at(20_000), at(27_000))] } else { Vec::new() };
            assert_eq!(judged(kind, &other), expected, "{kind}");
            // Of the owner only the clock.
            let clock = WRONG_CLOCKS.contains(&kind);
            assert_eq!(judged(kind, &[(0, 60_000, "node-1")]).len(), usize::from(clock), "{kind}");
        }
        // Who had been the owner, or became it.
        assert_eq!(judged(Kind::Kill, &[(0, 15_100, "node-1"), (15_200, 60_000, "node-2")]), []);
        assert_eq!(judged(Kind::Kill, &[(0, 26_800, "node-2"), (26_900, 60_000, "node-1")]), []);
        assert_eq!(judged(Kind::Kill, &[]), [], "nobody was seen to own it");
    }

    #[test]
    fn a_split_is_not_to_be_noticed_if_none_of_the_few_owns_the_vip() {
        let few = ["node-1", "node-4"].map(String::from).to_vec();
        let split = Happened { victims: few, ..fault(Kind::Split, 20_000, 25_000) };
        let judged = |owner: &str| beside(&record(std::slice::from_ref(&split)), &[(0, 60_000, owner)], true);
        assert_eq!(judged("node-2"), [Span::new(at(20_000), at(30_000))]);
        assert_eq!(["node-1", "node-4"].map(|owner| judged(owner).len()), [0, 0]);
    }

    #[test]
    fn a_fault_is_beside_the_owner_only_while_nothing_else_is_done_and_no_node_is_missing() {
        let (kill, other) = (fault(Kind::Kill, 20_000, 22_000), [(0, 60_000, "node-2")]);
        for kind in [Kind::SlowDisk, Kind::Snapshot, Kind::TransferLeader, Kind::MoveVip, Kind::BackendDrain] {
            for (from, until) in [(14_000, 15_000), (26_000, 26_500)] {
                let faults = record(&[kill.clone(), fault(kind, from, until)]);
                assert_eq!(beside(&faults, &other, true).len(), 0, "{kind} at {from} ms");
            }
            let faults = record(&[kill.clone(), fault(kind, 8_000, 9_000), fault(kind, 27_001, 28_000)]);
            assert_eq!(beside(&faults, &other, true).len(), 1, "{kind}");
        }
        let calm = |without| Calm { from: at(14_000), until: at(20_000), without };
        let missing = |without| Record { calms: vec![calm(without)], ..record(std::slice::from_ref(&kill)) };
        let records = [missing(BTreeSet::new()), missing(BTreeSet::from([2]))];
        assert_eq!(records.map(|one| beside(&one, &other, true).len()), [1, 0]);
        let complaints = vec![String::from("node promote node-3: exit 6")];
        assert_eq!(
            beside(&Record { complaints, ..record(std::slice::from_ref(&kill)) }, &other, true),
            [],
            "one vote is missing"
        );
        // In containers a busy machine takes the VIP from its owner.
        let moved = [(0, 21_000, "node-2"), (21_100, 60_000, "node-3")];
        assert_eq!([true, false].map(|firm| beside(&record(std::slice::from_ref(&kill)), &moved, firm).len()), [1, 0]);
    }

    #[test]
    fn a_request_in_vain_over_the_vip_beside_a_fault_of_another_node_is_found() {
        let kill = fault(Kind::Kill, 20_000, 22_000);
        let beside = [(&kill, Span::new(at(20_000), at(27_000)))];
        let lost = |vain: Vain, troubled: &[Span]| lost_beside(&beside, &[vain], troubled).count();
        assert_eq!(lost(vain(VIP_NAME, 20_000, 20_100), &[]), 1);
        assert_eq!(lost(Vain { got: refused("isolated"), ..vain(VIP_NAME, 26_000, 27_000) }, &[]), 1);
        assert_eq!(lost(vain("node-2", 20_000, 20_100), &[]), 0);
        assert_eq!(lost(vain(VIP_NAME, 19_999, 20_100), &[]), 0, "it had begun before");
        assert_eq!(lost(vain(VIP_NAME, 26_000, 27_001), &[]), 0, "another fault may have come");
        let slow = [Span::new(at(20_050), at(20_060))];
        assert_eq!(lost(vain(VIP_NAME, 20_000, 20_100), &slow), 0);
        assert_eq!(lost(vain(VIP_NAME, 20_061, 20_100), &slow), 1);
    }

    #[test]
    fn whom_the_cluster_does_not_know_may_have_to_wait_for_a_leader() {
        let served = |id: &str, visitor: &str, completed: u64| Served {
            id: id.to_owned(),
            visitor: visitor.to_owned(),
            before: None,
            backend: String::from("web1"),
            through: 0,
            invoked: at(completed - 10),
            completed: at(completed),
        };
        let line = |id: &str, binding: &str| {
            let [id, node, ended, binding] = [id, "node-1", "done", binding].map(str::to_owned);
            Line { id, node, ended, binding, binding_cause: String::new(), status: 200, took: String::new() }
        };
        let visitors = vec![served("1", "a", 1_000), served("2", "b", 1_000), served("3", "c", 1_000)];
        // Nobody knows what became of the third: its node died before it wrote.
        let lines = [line("1", "new"), line("2", "unbound")];
        let known_as = |cookie: &str, got| {
            let known_as = Some(cookie.to_owned());
            Vain { known_as, got, ..vain(VIP_NAME, 2_000, 2_010) }
        };
        let known = |failed: Vain| {
            of_the_known(&Seen { served: visitors.clone(), failed: vec![failed], ..Seen::default() }, &[], &lines).len()
        };
        assert_eq!(["a", "b", "c", "d"].map(|cookie| known(known_as(cookie, refused("isolated")))), [1, 0, 0, 0]);
        assert_eq!(known(vain(VIP_NAME, 2_000, 2_010)), 0, "it came without a cookie, or logged in");
        let early = Span::new(at(900), at(1_100));
        assert_eq!(known(Vain { span: early, ..known_as("a", refused("isolated")) }), 0);
        let left = || Got::Nothing { error: String::from("WouldBlock") };
        let of_backend = || Got::Answer { status: 503, reason: None };
        let of_client = || Got::Answer { status: 400, reason: Some(String::from("request:host")) };
        assert_eq!([left(), of_backend(), of_client()].map(|got| known(known_as("a", got))), [1, 0, 0]);
        // A buyer needs no binding, but its backend needs the store.
        let bought = |failed: Vain| of_the_known(&Seen::default(), &[failed], &[]).len();
        assert_eq!([refused("isolated"), left(), of_backend()].map(|got| bought(known_as("e", got))), [1, 0, 0]);
        assert_eq!(bought(vain(VIP_NAME, 2_000, 2_010)), 0, "it had not logged in");
    }

    #[test]
    fn a_backend_that_was_slow_excuses_what_is_said_of_backends_and_nothing_else() {
        let slow = Span::new(at(10_000), at(10_150));
        let answer = |reason: &str| Vain { got: refused(reason), ..vain(VIP_NAME, 10_100, 10_200) };
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
