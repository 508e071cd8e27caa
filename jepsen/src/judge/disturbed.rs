//! Whom faults may have kept from answering, and from writing down why.

use std::{collections::BTreeSet, time::Duration};

use ballast_jepsen::{
    says_why::Disturbance,
    time::{RunTime, Span},
};

use super::{BACK_WITHIN, START, failover, name};
use crate::{
    nemesis::{Happened, Record},
    plan::{Family, Kind},
    site::VIP_NAME,
};

/// Before a fault: a client that went to the owner then may still wait for its answer.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// After it: the owner was lost to it, and a lease of 200 ms and an election went by before another one came.
const MOVED: Duration = Duration::from_millis(500);

/// All that befell nodes. `owners` has when which node answered for the VIP.
pub(super) fn by_faults(record: &Record, owners: &[(Span, String)]) -> Vec<Disturbance> {
    let faults = record.faults.iter().filter(|fault| !fault.kind.spares_nodes());
    faults.flat_map(|fault| by_fault(fault, record, owners)).chain(by_rot(record, owners)).collect()
}

/// Where frames are lost between nodes, or a clock is wrong, nobody is silenced who is asked at its own address; the owner of the VIP
/// may lose it when it does not hear the others. Clocks that nobody can set time its right to it.
fn by_fault(fault: &Happened, record: &Record, owners: &[(Span, String)]) -> Vec<Disturbance> {
    // A connection that was cut is noticed late.
    let span = Span::new(fault.from, fault.until.after(START));
    let whom = (!fault.kind.concerns_all()).then(|| whom(&fault.victims, Span::new(fault.from, fault.until), owners));
    if !fault.kind.spares_clients() {
        return vec![Disturbance { span, whom, silences: true }];
    }
    let cuts = fault.kind.family() == Family::Network;
    let concerns_the_vip = whom.as_ref().is_none_or(|whom| whom.contains(VIP_NAME));
    let loses = cuts && concerns_the_vip && !leaves_the_vip(fault, record, owners);
    let lost = loses.then(|| Disturbance { span, whom: Some([VIP_NAME.to_owned()].into()), silences: true });
    [Disturbance { span, whom, silences: false }].into_iter().chain(lost).collect()
}

/// Whether few nodes were split off that did not have the VIP, and the many had all that it takes to keep it.
fn leaves_the_vip(fault: &Happened, record: &Record, owners: &[(Span, String)]) -> bool {
    let near = Span::new(fault.from.before(BACK_WITHIN), fault.until.after(START));
    let had = owned(owners, &fault.victims, Span::new(fault.from, fault.until));
    fault.kind == Kind::Split && !had && failover::all_vote(record) && failover::is_only(fault, near, record)
}

/// What a change of the VIP's owner may have come upon.
pub(super) fn around(change: RunTime) -> Span {
    Span::new(change.before(UNDER_WAY), change.after(MOVED))
}

/// Damaged files may be found long afterwards, or never. Whether a node has ended over them is looked at after each calm, and then
/// it is replaced: so it served until the look before. After the last calm nobody looks.
fn by_rot(record: &Record, owners: &[(Span, String)]) -> impl Iterator<Item = Disturbance> {
    let rots = record.faults.iter().filter(|fault| fault.kind == Kind::BitRot);
    rots.map(|rot: &Happened| {
        let node = |of: &usize| rot.victims.contains(&name(*of));
        let replaced = record.emptied.iter().filter(|(of, at)| node(of) && *at >= rot.from).map(|(_, at)| *at).min();
        let looks = record.calms.iter().map(|calm| calm.until).rev();
        let mut looks = looks.filter(|at| replaced.is_none_or(|replaced| *at <= replaced));
        let before = looks.nth(usize::from(replaced.is_some())).unwrap_or_default();
        let span = Span::new(rot.from.max(before), replaced.map_or(RunTime::NEVER, |at| at.after(BACK_WITHIN)));
        Disturbance { span, whom: Some(whom(&rot.victims, span, owners)), silences: true }
    })
}

/// The victims, and the VIP if it was with one of them: another node's troubles are not those of who goes there.
fn whom(victims: &[String], span: Span, owners: &[(Span, String)]) -> BTreeSet<String> {
    let vip = owned(owners, victims, span).then(|| VIP_NAME.to_owned());
    victims.iter().cloned().chain(vip).collect()
}

/// Whether one of the victims answered for the VIP when it befell them, or shortly before or after.
fn owned(owners: &[(Span, String)], victims: &[String], span: Span) -> bool {
    let near = Span::new(span.from.before(UNDER_WAY), span.until.after(MOVED));
    owners.iter().any(|(then, owner)| victims.contains(owner) && then.touches(near))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Calm;

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    #[test]
    fn damaged_files_excuse_nobody_while_their_node_serves() {
        let at = RunTime::from_millis;
        let Span { from, until } = span(1_000, 2_000);
        let fault = Happened {
            kind: Kind::BitRot,
            victims: vec![name(0)],
            from,
            until,
            whole_until: None,
            came_about: true,
            acknowledged: None,
        };
        let calm = |from, until| Calm { from: at(from), until: at(until), without: BTreeSet::new() };
        let calms = vec![calm(2_000, 8_000), calm(12_000, 18_000), calm(22_000, 28_000), calm(32_000, 38_000)];
        let ends = |emptied| {
            let record = Record { faults: vec![fault.clone()], calms: calms.clone(), emptied, ..Record::default() };
            by_rot(&record, &[]).map(|one| one.span).collect::<Vec<_>>()
        };
        let last = [Span::new(at(38_000), RunTime::NEVER)];
        assert_eq!(ends(vec![]), last, "it never found them");
        assert_eq!(ends(vec![(1, at(28_001))]), last, "another node");
        assert_eq!(ends(vec![(0, at(28_001))]), [span(18_000, 33_001)]);
        assert_eq!(ends(vec![(0, at(1_500))]), [span(1_000, 6_500)], "at once");
    }

    /// A run with one fault.
    fn befell(kind: Kind, victim: &str, Span { from, until }: Span) -> Record {
        let fault = Happened {
            kind,
            victims: vec![victim.to_owned()],
            from,
            until,
            whole_until: None,
            came_about: true,
            acknowledged: None,
        };
        Record { faults: vec![fault], ..Record::default() }
    }

    #[test]
    fn nodes_that_do_not_hear_each_other_and_wrong_clocks_silence_nobody_but_over_the_vip() {
        use Kind::{Bridge, ClockSlew, ClockStep, Isolate, Loss, LossEverywhere, OneWay, Ring, Split};
        let owners = [(span(0, 60_000), "node-1".to_owned())];
        // Whether it disturbs who is asked through `via`, and whether it silences them.
        let befalls = |kind, victim: &str, via: &str| {
            let record = befell(kind, victim, span(10_000, 12_000));
            let mut disturbed = by_faults(&record, &owners);
            disturbed.retain(|one| one.whom.as_ref().is_none_or(|whom| whom.contains(via)));
            (!disturbed.is_empty(), disturbed.iter().any(|one| one.silences))
        };
        let spare: Vec<Kind> = Kind::all().filter(|kind| kind.spares_clients()).collect();
        assert_eq!(spare, [OneWay, Split, Ring, Bridge, Loss, ClockStep, ClockSlew]);
        for kind in spare {
            assert_eq!(befalls(kind, "node-1", "node-1"), (true, false), "{kind}");
            assert_eq!(befalls(kind, "node-1", "node-2"), (kind.concerns_all(), false), "{kind}");
            let cuts = ![ClockStep, ClockSlew].contains(&kind);
            assert_eq!(befalls(kind, "node-1", VIP_NAME), (true, cuts), "{kind} of the owner");
            let silences = kind.concerns_all() && kind != Split;
            assert_eq!(befalls(kind, "node-2", VIP_NAME), (kind.concerns_all(), silences), "{kind}");
        }
        assert_eq!([Isolate, LossEverywhere].map(|kind| befalls(kind, "node-1", "node-1")), [(true, true); 2]);
    }

    #[test]
    fn a_split_of_others_silences_nobody_over_the_vip_while_the_many_are_whole() {
        let owners = [(span(0, 60_000), "node-1".to_owned())];
        let silences = |record: &Record| {
            let disturbed = by_faults(record, &owners);
            disturbed.iter().any(|one| one.silences && one.whom.as_ref().is_none_or(|whom| whom.contains(VIP_NAME)))
        };
        let split = befell(Kind::Split, "node-2", span(10_000, 12_000));
        assert!(!silences(&split) && silences(&befell(Kind::Split, "node-1", span(10_000, 12_000))));
        // One of the many may have been missing, or its vote.
        for kind in [Kind::Kill, Kind::Demote] {
            let mut record = befell(kind, "node-3", span(4_000, 11_000));
            record.faults.extend(split.faults.clone());
            assert!(silences(&record), "{kind}");
        }
        assert!(silences(&Record { complaints: vec!["node promote node-3: exit 6".to_owned()], ..split }));
    }

    #[test]
    fn what_befalls_a_node_that_does_not_own_excuses_nobody_over_the_vip() {
        let owners = [(span(0, 10_000), "node-1".to_owned()), (span(10_300, 60_000), "node-2".to_owned())];
        let excused = |kind, victim: &str, (from, until)| {
            let record = befell(kind, victim, span(from, until));
            let disturbed = by_faults(&record, &owners);
            assert!(disturbed.iter().all(|one| one.whom.as_ref().is_none_or(|whom| whom.contains(victim))));
            disturbed.iter().any(|one| one.whom.as_ref().is_none_or(|whom| whom.contains(VIP_NAME)))
        };
        assert!(excused(Kind::Kill, "node-1", (10_000, 12_000)), "the owner");
        assert!(excused(Kind::Kill, "node-1", (10_900, 12_000)), "who had been the owner a moment before");
        assert!(excused(Kind::Delay, "node-2", (9_000, 9_900)), "who was the owner a moment later");
        assert!(!excused(Kind::Kill, "node-1", (11_500, 12_000)), "who was the owner once");
        assert!(!excused(Kind::Kill, "node-3", (9_000, 12_000)), "who never was");
        assert!(excused(Kind::KillAll, "node-3", (9_000, 12_000)), "all of them");
        assert!(!excused(Kind::BitRot, "node-3", (9_000, 12_000)), "who never was, for good");
        assert!(!excused(Kind::MoveVip, "node-1", (9_000, 9_100)), "an order");
    }
}
