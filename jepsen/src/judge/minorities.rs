//! Who had no quorum when, for what is promised of that.

use std::{collections::BTreeSet, time::Duration};

use ballast_jepsen::{
    time::Span,
    verdict::Judgement,
    without_quorum::{self, Minority},
};

use super::{BACK_WITHIN, failover, name};
use crate::{
    nemesis::{self, Happened, Record},
    plan::{Family, Kind},
    run::Run,
};

/// From when on nothing of what was before goes on: leases and leaders' terms are over, and a node knows that it hears nobody.
const OVER: Duration = Duration::from_secs(2);
/// What a backend may take to answer a check of the farm `open`, less what nodes have more to do than who asks beside them.
pub(super) const SLOW: Duration = Duration::from_millis(300);
/// What such a split has to last.
const LASTS: Duration = Duration::from_millis(2500);

/// Without a quorum nothing changes and traffic goes on. `None` if no minority was split off while all else was well.
pub(super) fn judge(run: &Run) -> Option<Judgement> {
    let held = run.owners.owners().into_iter();
    let held: Vec<(Span, String)> =
        held.map(|(from, until, node)| (Span::new(run.clock.of(from), run.clock.of(until)), name(node))).collect();
    let broken = run.faults.faults.iter().filter(|fault| fault.kind.family() == Family::Backend);
    let broken = broken.map(|fault| Span::new(fault.from, nemesis::reason_until(fault)));
    let slow = run.slow.iter().filter(|slow| slow.length() > SLOW);
    let slow = slow.map(|slow| Span::new(slow.from, slow.until.after(BACK_WITHIN)));
    let excused: Vec<Span> = slow.chain(broken).collect();
    without_quorum::judge(&minorities(&run.faults), &run.alone, &held, &excused)
}

fn minorities(record: &Record) -> Vec<Minority> {
    // Of fewer voters the few may be a majority: of five nodes whose fifth has no vote three vote once one has been replaced.
    let faults = if failover::all_vote(record) { &record.faults[..] } else { &[] };
    let splits = faults.iter().filter(|fault| fault.kind == Kind::Split);
    let minority = |fault: &Happened| {
        // While it is mended, some may hear each other already.
        let until = fault.whole_until.filter(|until| until.since(fault.from) >= LASTS)?;
        let near = Span::new(fault.from.before(OVER), until);
        let nodes: BTreeSet<String> = fault.victims.iter().cloned().collect();
        let window = Span::new(fault.from.after(OVER), until);
        failover::is_alone(fault, near, faults).then_some(Minority { nodes, cut: fault.from, window })
    };
    splits.filter_map(minority).collect()
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::time::RunTime;

    use super::*;

    fn fault(kind: Kind, from: u64, until: u64) -> Happened {
        let [from, until, undone] = [from, until, until + 300].map(RunTime::from_millis);
        let victims = vec![String::from("node-1")];
        Happened { kind, victims, from, until: undone, whole_until: Some(until), came_about: true, acknowledged: None }
    }

    fn record(faults: &[Happened]) -> Record {
        Record { faults: faults.to_vec(), ..Record::default() }
    }

    fn windows(faults: &[Happened]) -> Vec<Span> {
        minorities(&record(faults)).into_iter().map(|minority| minority.window).collect()
    }

    #[test]
    fn a_minority_counts_from_two_seconds_on_until_it_is_mended() {
        let expected = Span::new(RunTime::from_millis(12_000), RunTime::from_millis(13_000));
        assert_eq!(windows(&[fault(Kind::Split, 10_000, 13_000)]), [expected]);
        assert!(windows(&[fault(Kind::Split, 10_000, 12_400)]).is_empty());
        assert!(windows(&[fault(Kind::Isolate, 10_000, 13_000)]).is_empty());
    }

    #[test]
    fn none_is_judged_where_one_was_not_made_a_voter_again() {
        let complaints = vec![String::from("node promote node-3: exit 6")];
        let split = fault(Kind::Split, 10_000, 13_000);
        assert_eq!(minorities(&record(std::slice::from_ref(&split))).len(), 1);
        assert!(minorities(&Record { complaints, ..record(&[split]) }).is_empty());
    }

    #[test]
    fn only_what_nodes_suffer_makes_it_not_alone() {
        let beside = |kind| windows(&[fault(Kind::Split, 10_000, 13_000), fault(kind, 12_500, 12_600)]).len();
        assert_eq!([Kind::Kill, Kind::Delay, Kind::Demote, Kind::MoveVip].map(beside), [0; 4]);
        assert_eq!([Kind::BackendDrain, Kind::Snapshot].map(beside), [1; 2]);
        assert_eq!(windows(&[fault(Kind::Split, 10_000, 13_000), fault(Kind::Kill, 14_000, 15_000)]).len(), 1);
    }
}
