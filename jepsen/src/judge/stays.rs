//! Whether the VIP stays where it is when an owner that was lost comes back, and when few nodes are split off or are back.
//!
//! The suite's document wants no `failback` and prefers no node. So who owns the VIP goes on to, until it is lost, cannot, or is told
//! otherwise. What an operator told holds on: once the node that it names has been heard for `failback_delay` again, which is half a
//! minute, the VIP returns there, whatever else goes on by then.

use std::time::Duration;

use ballast_jepsen::time::{RunTime, Span};

use super::{BACK_WITHIN, disturbed, failover, hands};
use crate::{
    nemesis::{Happened, Record},
    plan::Kind,
};

/// How long nodes must be away so that nobody takes them for steady when they are back: two leases, and time to spare.
const AWAY: Duration = Duration::from_secs(1);

/// The times in which it has to, each with the one fault beside which it has: from when that begins to be undone until service must be
/// back. If a split left the VIP with the many, from the split on. `lost` are the losses of owners while all else was well.
pub(super) fn times<'a>(
    record: &'a Record,
    owners: &'a [(Span, String)],
    lost: &'a [&'a Happened],
) -> impl Iterator<Item = (&'a Happened, Span)> {
    let all_vote = failover::all_vote(record);
    record.faults.iter().filter(move |_| all_vote).filter_map(move |fault| {
        let back = fault.whole_until.filter(|back| back.since(fault.from) >= AWAY)?;
        let until = fault.until.after(BACK_WITHIN);
        let near = Span::new(fault.from.before(BACK_WITHIN), until);
        let loses = lost.iter().any(|lost| std::ptr::eq(*lost, fault));
        let splits = fault.kind == Kind::Split;
        let with_the_many = splits && !fault.victims.iter().any(|victim| had(owners, victim, fault));
        let from = if with_the_many { fault.from } else { back };
        ((loses || splits) && failover::is_only(fault, near, record)).then_some((fault, Span::new(from, until)))
    })
}

/// Changes of hands in such a time, with the fault, and from whom to whom. None where an operator wants the VIP at its new owner, unless
/// that had just been its owner and was away; and none where a machine was too busy for checks, `troubled`, and maybe for leases.
pub(super) fn left<'a>(
    times: &'a [(&'a Happened, Span)],
    owners: &'a [(Span, String)],
    faults: &'a [Happened],
    troubled: &'a [Span],
) -> impl Iterator<Item = (&'a Happened, RunTime, [&'a str; 2])> {
    times.iter().flat_map(move |(fault, time)| {
        let changes = owners.windows(2).filter(|two| two[0].1 != two[1].1);
        changes.filter_map(move |two| {
            let (at, from, to) = (two[0].0.until, two[0].1.as_str(), two[1].1.as_str());
            let comes_back = fault.victims.iter().any(|victim| victim == to) && had(owners, to, fault);
            let excused = is_wanted(to, at, faults) && !comes_back || hands::touches(troubled, disturbed::around(at));
            (time.contains(at) && !excused).then_some((*fault, at, [from, to]))
        })
    })
}

/// Whether a node was seen to own the VIP shortly before a fault.
fn had(owners: &[(Span, String)], node: &str, fault: &Happened) -> bool {
    let before = Span::new(fault.from.before(BACK_WITHIN), fault.from);
    owners.iter().any(|(then, owner)| owner == node && then.touches(before))
}

/// Whether an operator wants the VIP at a node then, or may: of an order that was not acknowledged nobody knows.
fn is_wanted(node: &str, at: RunTime, faults: &[Happened]) -> bool {
    let orders = || faults.iter().filter(move |fault| fault.kind == Kind::MoveVip && fault.from <= at);
    let last = orders().filter(|order| order.acknowledged.is_some()).map(|order| order.from).max();
    let mut holds = orders().filter(|order| last.is_none_or(|last| order.from >= last));
    holds.any(|order| order.victims.get(1).is_some_and(|to| to == node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn fault(kind: Kind, victims: &[&str], from: u64, until: u64) -> Happened {
        Happened {
            kind,
            victims: victims.iter().map(|victim| (*victim).to_owned()).collect(),
            from: at(from),
            until: at(until + 300),
            whole_until: Some(at(until)),
            came_about: true,
            acknowledged: None,
        }
    }

    fn owned(owners: &[(u64, u64, &str)]) -> Vec<(Span, String)> {
        let owned = |(from, until, node): &(u64, u64, &str)| (Span::new(at(*from), at(*until)), (*node).to_owned());
        owners.iter().map(owned).collect()
    }

    /// The spans of the times in which the VIP has to stay beside the first fault, and how often it did not.
    fn judged(faults: &[Happened], owners: &[(u64, u64, &str)], troubled: &[Span]) -> (Vec<Span>, usize) {
        let record = Record { faults: faults.to_vec(), ..Record::default() };
        let (owners, first) = (owned(owners), &record.faults[0]);
        let lost: Vec<&Happened> = if first.kind == Kind::Split { Vec::new() } else { vec![first] };
        let times: Vec<(&Happened, Span)> = times(&record, &owners, &lost).collect();
        let left = left(&times, &owners, &record.faults, troubled).count();
        (times.into_iter().map(|(_, span)| span).collect(), left)
    }

    #[test]
    fn an_owner_that_comes_back_and_takes_the_vip_from_its_successor_is_found() {
        let kill = || fault(Kind::Kill, &["node-1"], 20_000, 22_000);
        let left = |faults: &[Happened], then: &[(u64, u64, &str)]| {
            let before = [(0, 20_000, "node-1"), (20_200, 23_000, "node-2")];
            judged(faults, &[&before[..], then].concat(), &[])
        };
        let stays = vec![Span::new(at(22_000), at(27_300))];
        assert_eq!(left(&[kill()], &[]), (stays.clone(), 0));
        assert_eq!(left(&[kill()], &[(23_100, 60_000, "node-2")]), (stays.clone(), 0), "a moment without an owner");
        assert_eq!(left(&[kill()], &[(23_100, 60_000, "node-1")]), (stays.clone(), 1));
        assert_eq!(left(&[kill()], &[(23_100, 60_000, "node-3")]), (stays.clone(), 1));
        // What an operator said last holds on. Who was away has to be heard for longer than this.
        let moved = |from: u64, to: &str, told: Option<u64>| {
            let moved = fault(Kind::MoveVip, &["node-5", to], from, from + 1000);
            Happened { acknowledged: told.map(at), ..moved }
        };
        let told = |to: &str| [kill(), moved(1_000, "node-4", Some(1_100)), moved(5_000, to, Some(5_100))];
        assert_eq!(left(&told("node-3"), &[(23_100, 60_000, "node-3")]).1, 0);
        assert_eq!(left(&told("node-1"), &[(23_100, 60_000, "node-1")]).1, 1);
        assert_eq!(left(&told("node-3"), &[(23_100, 60_000, "node-4")]).1, 1);
        let untold = [kill(), moved(1_000, "node-4", Some(1_100)), moved(5_000, "node-3", None)];
        let to_either = ["node-3", "node-4"].map(|to| left(&untold, &[(23_100, 60_000, to)]).1);
        assert_eq!(to_either, [0, 0], "nobody knows which");
    }

    #[test]
    fn a_vip_that_changes_hands_at_a_split_of_others_or_when_they_are_back_is_found() {
        let split = [fault(Kind::Split, &["node-3", "node-4"], 20_000, 25_000)];
        let from = |from| vec![Span::new(at(from), at(30_300))];
        let stays = [(0, 60_000, "node-1")];
        assert_eq!(judged(&split, &stays, &[]), (from(20_000), 0));
        for lost in [20_300, 25_100] {
            let goes = [(0, lost, "node-1"), (lost + 200, 60_000, "node-2")];
            assert_eq!(judged(&split, &goes, &[]), (from(20_000), 1));
            assert_eq!(judged(&split, &goes, &[Span::new(at(lost), at(lost))]).1, 0, "the machine was busy");
        }
        // Of the few that had it the many take it, and keep it.
        let taken = [(0, 20_100, "node-3"), (20_400, 60_000, "node-1")];
        assert_eq!(judged(&split, &taken, &[]), (from(25_000), 0));
        let back = [(0, 20_100, "node-3"), (20_400, 25_500, "node-1"), (25_700, 60_000, "node-3")];
        assert_eq!(judged(&split, &back, &[]), (from(25_000), 1));
    }

    #[test]
    fn a_vip_has_to_stay_only_while_nothing_else_is_done_and_all_vote() {
        let kill = || fault(Kind::Kill, &["node-1"], 20_000, 22_000);
        let owners = [(0, 20_000, "node-1"), (20_200, 60_000, "node-2")];
        let times_of = |faults: &[Happened]| judged(faults, &owners, &[]).0.len();
        for (from, until) in [(14_000, 15_000), (26_000, 26_500)] {
            assert_eq!(times_of(&[kill(), fault(Kind::Snapshot, &["node-2"], from, until)]), 0);
        }
        assert_eq!(times_of(&[kill(), fault(Kind::Snapshot, &["node-2"], 10_000, 14_000)]), 1);
        assert_eq!(times_of(&[fault(Kind::Kill, &["node-1"], 20_000, 20_900)]), 0, "it may be steady all the time");
        let of_old = Happened { whole_until: None, ..kill() };
        assert_eq!(times_of(&[of_old]), 0);
        let complaints = vec![String::from("node promote node-3: exit 6")];
        let record = Record { faults: vec![kill()], complaints, ..Record::default() };
        assert_eq!(times(&record, &owned(&owners), &[&record.faults[0]]).count(), 0);
    }
}
