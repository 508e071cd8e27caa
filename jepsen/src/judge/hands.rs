//! What a change of the VIP's owner ends where the nodes' means are less than the best: in containers.
//!
//! Without real-time scheduling a busy machine takes leases from nodes that nobody broke. Whoever watches the wire sees the VIP
//! change hands while nothing was done, and cannot tell a machine from a fault of the leases: what is lost with it is held against
//! nobody, and that the owner is lost only to faults is undecided. With the `nftables` fence a planned move ends connections.

use std::collections::BTreeSet;

use ballast_jepsen::{
    kept::Ended,
    says_why::{Disturbance, Got, Vain},
    time::{RunTime, Span},
};

use super::{START, disturbed, owners};
use crate::{nemesis::Happened, plan::Kind, run::Run, site::VIP_NAME};

/// When the VIP changed hands though nothing was done, with what was under way then. Where leases are renewed before all else on a
/// machine, that is held against the nodes, and there are none of these.
pub(super) fn unexplained(run: &Run) -> Vec<Span> {
    if run.options.environment.has_real_time() {
        return Vec::new();
    }
    changes(&owners::of(run), &run.faults.faults).map(disturbed::around).collect()
}

fn changes<'a>(owners: &'a [(Span, String)], faults: &'a [Happened]) -> impl Iterator<Item = RunTime> + 'a {
    let lost = owners.windows(2).filter(|two| two[0].1 != two[1].1).map(|two| two[0].0.until);
    let moves = |kind: Kind| !kind.spares_nodes() || matches!(kind, Kind::MoveVip | Kind::Demote);
    let explains = move |fault: &Happened, at: RunTime| {
        moves(fault.kind) && Span::new(fault.from, fault.lasts_until().after(START)).contains(at)
    };
    lost.filter(move |at| !faults.iter().any(|fault| explains(fault, *at)))
}

/// What such a change, and a move where that ends connections, may keep from being explained over the VIP.
pub(super) fn disturbances(run: &Run) -> Vec<Disturbance> {
    let moves = run.faults.faults.iter().filter(|fault| run.moves_end_connections && fault.kind == Kind::MoveVip);
    let around = |fault: &Happened| {
        let [begin, end] = [fault.from, fault.lasts_until()].map(disturbed::around);
        Span::new(begin.from, end.until)
    };
    let vip = BTreeSet::from([VIP_NAME.to_owned()]);
    let spans = unexplained(run).into_iter().chain(moves.map(around));
    spans.map(|span| Disturbance { span, whom: Some(vip.clone()), silences: true }).collect()
}

/// Without the requests that such a change came upon.
pub(super) fn without(failed: Vec<Vain>, changes: &[Span]) -> Vec<Vain> {
    let spared = |vain: &Vain| vain.via != VIP_NAME || !touches(changes, vain.span);
    failed.into_iter().filter(spared).collect()
}

/// Without the kept connections that such a change came upon.
pub(super) fn without_kept(ended: Vec<Ended>, changes: &[Span]) -> Vec<Ended> {
    let spared = |one: &Ended| one.via != VIP_NAME || !touches(changes, one.span);
    ended.into_iter().filter(spared).collect()
}

/// Whether one of them was near.
pub(super) fn touches(changes: &[Span], span: Span) -> bool {
    changes.iter().any(|change| change.touches(span))
}

/// Whether a request in vain is none of a connection that a move ended.
pub(super) fn found_nobody(vain: &Vain) -> bool {
    matches!(vain.got, Got::NoConnection { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn owned(node: &str, from: u64, until: u64) -> (Span, String) {
        (Span::new(at(from), at(until)), node.to_owned())
    }

    fn fault(kind: Kind, from: u64, until: u64) -> Happened {
        Happened {
            kind,
            victims: vec![String::from("node-1")],
            from: at(from),
            until: at(until),
            whole_until: None,
            came_about: true,
            acknowledged: None,
        }
    }

    #[test]
    fn a_change_of_hands_is_explained_by_what_nodes_suffer_and_by_moves() {
        let owners = [owned("node-1", 0, 9_000), owned("node-2", 9_100, 20_000)];
        let unexplained = |faults: &[Happened]| changes(&owners, faults).collect::<Vec<_>>();
        assert_eq!(unexplained(&[]), [at(9_000)]);
        for kind in [Kind::Kill, Kind::RollingRestart, Kind::MoveVip, Kind::Demote] {
            assert!(unexplained(&[fault(kind, 8_000, 8_500)]).is_empty(), "{kind}");
            assert_eq!(unexplained(&[fault(kind, 9_001, 9_500)]), [at(9_000)], "{kind} came later");
            assert_eq!(unexplained(&[fault(kind, 1_000, 2_000)]), [at(9_000)], "{kind} was over");
        }
        for kind in [Kind::BackendFails, Kind::Snapshot] {
            assert_eq!(unexplained(&[fault(kind, 8_000, 9_500)]), [at(9_000)], "{kind}");
        }
    }

    #[test]
    fn a_gap_of_one_owner_is_no_change_of_hands() {
        let owners = [owned("node-1", 0, 9_000), owned("node-1", 9_100, 20_000)];
        assert_eq!(changes(&owners, &[]).count(), 0);
    }

    #[test]
    fn only_what_went_over_the_vip_then_is_spared() {
        let vain = |via: &str, from, until| Vain {
            id: String::from("7"),
            via: via.to_owned(),
            span: Span::new(at(from), at(until)),
            got: Got::Nothing { error: String::from("ConnectionReset") },
            known_as: None,
            before: None,
        };
        let changes = [Span::new(at(8_000), at(9_500))];
        let left = |one: Vain| without(vec![one], &changes).len();
        assert_eq!(left(vain(VIP_NAME, 9_000, 9_700)), 0);
        assert_eq!([left(vain("node-1", 9_000, 9_700)), left(vain(VIP_NAME, 10_000, 10_100))], [1, 1]);
        assert!(!found_nobody(&vain(VIP_NAME, 0, 1)));
    }
}
