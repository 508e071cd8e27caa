//! Keeps the leadership of the Raft group away from VIPs, so that one crash seldom takes the leader and a VIP both.
//!
//! The loss of a VIP's owner alone costs a lease. If it led as well, what it had proposed last may be on other nodes and not
//! be committed, and the next owner cannot serve bindings before an election has decided about it.
//!
//! The leader looks now and then and hands over to a voter that holds fewer than half of the VIPs that it holds itself: moving
//! for one of many would gain little. It waits first, because VIPs move too.
//!
//! A hand-over that fails leaves the cluster without a leader for a moment, which is worse than what is gained. So nothing
//! moves while a voter is missing, a voter is asked only while its disk takes what it is sent, and one that did not come to
//! lead is left alone for long.
//!
//! Not here: what an operator asks for (`ballast-admin`), handing over before the end (`ballast-raft`).

use std::{collections::BTreeMap, time::Duration};

use ballast_clock::boot_now;
use ballast_core::{
    ids::{LogIndex, NodeId},
    state::{NodeAdmin, State},
    time::BootNanos,
};
use ballast_raft::{Handle, Role, Status};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the leader looks.
const LOOK: Duration = Duration::from_secs(1);
/// The same voter must be the better one for so many looks in a row: failovers and planned moves are over by then.
const LOOKS: u32 = 5;
/// A voter that is this many entries behind is not asked to lead.
const LAG_MAX: u64 = 64;
/// While a voter was not heard for so long the leader stays.
const SILENT_MAX: Duration = Duration::from_secs(1);
/// Within this time whoever was asked leads and was heard to: several elections.
const HANDED_OVER: Duration = Duration::from_secs(2);
/// For so long a voter is left out, in nanoseconds, that was asked and did not come to lead; for twice as long each further time,
/// up to sixteen times. A disk that cannot take it is seldom mended sooner.
const LEFT_OUT: u64 = 600_000_000_000;
const DOUBLINGS_MAX: u32 = 4;

/// Looks for as long as the node runs.
pub async fn keep_away(raft: Handle, ending: CancellationToken) {
    let mut keeping = Keeping::default();
    loop {
        // Both arms are cancel-safe.
        tokio::select! { () = sleep(LOOK) => {}, () = ending.cancelled() => return }
        let held = raft.with_state(held);
        let Some(better) = keeping.look(boot_now(), &raft.status(), &held) else { continue };
        info!(to = %better, "handing the leadership to a voter that holds fewer VIPs");
        let mut leader = raft.watch_leader();
        if !raft.transfer_leader(better).await {
            continue;
        }
        let leads = leader.wait_for(|leader| *leader == Some(better));
        // Both arms are cancel-safe.
        let leads = tokio::select! {
            leads = timeout(HANDED_OVER, leads) => matches!(leads, Ok(Ok(_))),
            () = ending.cancelled() => return,
        };
        let left_out = keeping.asked(boot_now(), better, leads);
        if let Some(left_out) = left_out {
            warn!(node = %better, ?left_out, "the voter did not come to lead and is not asked again for a while; see its log and its disk");
        }
    }
}

/// What the leader knows from one look to the next.
#[derive(Debug, Default)]
struct Keeping {
    /// Who was the better one in the last looks, and in how many.
    last: Option<(NodeId, u32)>,
    /// The end of the log at the last look, if this node led then.
    end: Option<LogIndex>,
    /// Who did not come to lead: how often in a row, and until when it is left out.
    left_out: BTreeMap<NodeId, (u32, BootNanos)>,
}

impl Keeping {
    /// The voter to hand over to now.
    fn look(&mut self, now: BootNanos, status: &Status, held: &BTreeMap<NodeId, usize>) -> Option<NodeId> {
        let before = std::mem::replace(&mut self.end, (status.role == Role::Leader).then_some(status.last_log));
        let may = |node| self.left_out.get(&node).is_none_or(|(_, until)| *until <= now);
        let better = before.and_then(|before| better(status, held, before, may));
        let same = self.last.filter(|(node, _)| Some(*node) == better).map_or(0, |(_, looks)| looks);
        self.last = better.map(|node| (node, same + 1)).filter(|(_, looks)| *looks < LOOKS);
        better.filter(|_| self.last.is_none())
    }

    /// Takes note of what became of a hand-over. Returns for how long the voter is left out, if it is.
    fn asked(&mut self, now: BootNanos, node: NodeId, leads: bool) -> Option<Duration> {
        if leads {
            self.left_out.remove(&node);
            return None;
        }
        let (times, until) = self.left_out.entry(node).or_default();
        let nanos = LEFT_OUT << (*times).min(DOUBLINGS_MAX);
        (*times, *until) = (times.saturating_add(1), now.plus(nanos));
        Some(Duration::from_nanos(nanos))
    }
}

/// How many VIPs each node holds by the log, without those that should not lead.
fn held(state: &State) -> BTreeMap<NodeId, usize> {
    let ready = state.nodes().filter(|node| !matches!(node.admin, NodeAdmin::Drain | NodeAdmin::Demoted));
    let mut held: BTreeMap<NodeId, usize> = ready.map(|node| (node.id, 0)).collect();
    for owner in state.vips().filter_map(|(vip, _)| state.tenures(vip).next()?.owner) {
        held.entry(owner).and_modify(|count| *count += 1);
    }
    held
}

/// The voter that should lead instead of this node, if this node leads, of those that `may`. `before` is where the log ended
/// at the last look: whoever has that on its disk by now has a disk that takes what it is sent. While there are writes nobody
/// has the end of the log itself.
fn better(
    status: &Status,
    held: &BTreeMap<NodeId, usize>,
    before: LogIndex,
    may: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    // While the voters change, the leader stays.
    if status.role != Role::Leader || status.voter_sets.len() != 1 {
        return None;
    }
    let own = held.get(&status.node).copied()?;
    let others = || status.voters.iter().copied().filter(|node| *node != status.node);
    // With one voter missing, another that fails costs the majority, and it may be the one that was to lead.
    let heard = |node| status.peers.get(&node)?.silent_for;
    if others().any(|node| heard(node).is_none_or(|silent| silent > SILENT_MAX)) {
        return None;
    }
    let candidates = others().filter(|node| may(*node)).filter_map(|node| {
        let (count, peer) = (*held.get(&node)?, status.peers.get(&node)?);
        let takes_it = peer.matched >= before && peer.lag <= LAG_MAX;
        (takes_it && 2 * count < own).then_some((count, peer.lag, node))
    });
    candidates.min().map(|(_, _, node)| node)
}

#[cfg(test)]
mod tests {
    use ballast_raft::PeerStatus;

    use super::*;

    /// Where the log ends.
    const END: u64 = 1000;

    /// Node 1 leads voters 1, 2 and 3; `peers` are lag and silence of 2 and 3 in ms.
    fn status(peers: [(u64, u64); 2]) -> Status {
        at(END, peers)
    }

    fn at(end: u64, peers: [(u64, u64); 2]) -> Status {
        let voters: Vec<_> = (1..=3).map(NodeId::new).collect();
        let peer = |(lag, silent): (u64, u64)| PeerStatus {
            matched: LogIndex::new(end - lag),
            lag,
            silent_for: Some(Duration::from_millis(silent)),
        };
        Status {
            node: NodeId::new(1),
            role: Role::Leader,
            last_log: LogIndex::new(end),
            voters: voters.clone(),
            voter_sets: vec![voters],
            peers: [2, 3].map(NodeId::new).into_iter().zip(peers.map(peer)).collect(),
            ..Status::default()
        }
    }

    fn held(held: [usize; 3]) -> BTreeMap<NodeId, usize> {
        (1..=3).map(NodeId::new).zip(held).collect()
    }

    /// Ten entries came since the last look.
    fn check(status: &Status, vips: [usize; 3], expected: Option<u64>) {
        let better = better(status, &held(vips), LogIndex::new(END - 10), |_| true);
        assert_eq!(better, expected.map(NodeId::new), "{vips:?}");
    }

    #[test]
    fn the_leadership_goes_to_a_voter_that_holds_far_fewer_vips() {
        let fine = status([(0, 10), (3, 10)]);
        check(&fine, [1, 0, 0], Some(2));
        check(&fine, [1, 1, 0], Some(3));
        check(&fine, [67, 67, 66], None);
        check(&fine, [10, 4, 5], Some(2));
        check(&fine, [0, 0, 1], None);
        check(&fine, [1, 1, 1], None);
    }

    #[test]
    fn nobody_is_asked_whose_disk_takes_nothing_or_while_voters_change() {
        check(&status([(11, 10), (0, 10)]), [1, 0, 0], Some(3));
        check(&status([(10, 10), (11, 10)]), [1, 0, 0], Some(2));
        check(&status([(11, 10), (1000, 10)]), [1, 0, 0], None);
        let mut joint = status([(0, 10), (0, 10)]);
        joint.voter_sets.push(joint.voters.clone());
        check(&joint, [1, 0, 0], None);
        let follower = Status { role: Role::Follower, ..status([(0, 10), (0, 10)]) };
        check(&follower, [1, 0, 0], None);
    }

    #[test]
    fn nobody_is_asked_while_a_voter_is_missing() {
        check(&status([(0, 1001), (0, 10)]), [1, 0, 0], None);
        check(&status([(0, 10), (900, 5000)]), [1, 0, 1], None);
        check(&status([(0, 1000), (0, 10)]), [1, 0, 0], Some(2));
        let mut unheard = status([(0, 10), (0, 10)]);
        unheard.peers.get_mut(&NodeId::new(3)).expect("there").silent_for = None;
        check(&unheard, [1, 0, 0], None);
        unheard.peers.remove(&NodeId::new(3));
        check(&unheard, [1, 0, 0], None);
    }

    #[test]
    fn who_drains_or_was_demoted_is_not_asked() {
        // Such a node is not among those that `held` names.
        let held = [(NodeId::new(1), 1), (NodeId::new(3), 0)].into();
        let better = better(&status([(0, 10), (0, 10)]), &held, LogIndex::new(END), |_| true);
        assert_eq!(better, Some(NodeId::new(3)));
    }

    /// Whom these looks, one a second from `from`, ask to lead, and in which second.
    fn looks(keeping: &mut Keeping, from: u64, statuses: impl IntoIterator<Item = Status>) -> Vec<(u64, u64)> {
        let seconds = (from..).zip(statuses);
        let asked = seconds.filter_map(|(second, status)| {
            let asked = keeping.look(BootNanos::new(second * 1_000_000_000), &status, &held([1, 0, 1]));
            asked.map(|node| (second, node.get()))
        });
        asked.collect()
    }

    #[test]
    fn a_voter_is_asked_after_five_looks_in_a_row_in_which_it_had_what_there_was_a_look_before() {
        // Under steady writes it is always a little behind.
        let writes = |behind: u64| (1..9).map(move |second| at(second * 1000, [(behind, 10), (0, 10)]));
        assert_eq!(looks(&mut Keeping::default(), 1, writes(60)), [(6, 2)]);
        // More slowly, on a disk that takes nothing any more.
        let stalls = (1..20).map(|second| at(500 + second, [(second, 10), (0, 10)]));
        assert_eq!(looks(&mut Keeping::default(), 1, stalls), []);
        let stalls_once = (1..12).map(|second| at(500 + second, [(if second == 5 { 2 } else { 0 }, 10), (0, 10)]));
        assert_eq!(looks(&mut Keeping::default(), 1, stalls_once), [(10, 2)]);
        // Nothing is known of the time before this node led.
        let elected = (1..9).map(|second| {
            let role = if second < 4 { Role::Follower } else { Role::Leader };
            Status { role, ..status([(0, 10), (0, 10)]) }
        });
        assert_eq!(looks(&mut Keeping::default(), 1, elected), []);
    }

    #[test]
    fn a_voter_that_did_not_come_to_lead_is_left_out_for_longer_each_time() {
        let mut keeping = Keeping::default();
        let fine = || std::iter::repeat_n(status([(0, 10), (0, 10)]), 20);
        let minutes = |minutes| Some(Duration::from_secs(60 * minutes));
        let (two, mut second) = (NodeId::new(2), 1);
        for left_out in [10, 20, 40, 80, 160, 160] {
            let now = BootNanos::new(second * 1_000_000_000);
            assert_eq!(keeping.asked(now, two, false), minutes(left_out));
            second += 60 * left_out;
            assert_eq!(looks(&mut keeping, second - 20, fine()), [], "{left_out}");
            assert_eq!(looks(&mut keeping, second, fine())[0], (second + 4, 2), "{left_out}");
        }
        // It is forgotten once it has led.
        assert_eq!(keeping.asked(BootNanos::new(0), two, true), None);
        assert_eq!(keeping.asked(BootNanos::new(0), two, false), minutes(10));
    }
}
