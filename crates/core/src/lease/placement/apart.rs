//! Seats for units that are to be apart and that nobody holds yet.
//!
//! One after the other, each to the best seat that is free of its opponents, may end with a unit for which none is left
//! although there was a way. So this looks for a way, the unit with the fewest choices first (Brélaz), and takes a
//! choice back when it led nowhere. Finding out that there is no way can take for ever, and the thread that asks renews
//! leases; so it gives up after so much work, at the same place on every node, and then the units are placed one by one
//! after all.

use super::board::Board;

/// Looks at seats and at opponents, for all sets of connected units together: some two milliseconds. Twelve VIPs that are all
/// to be apart on three nodes need 50 000 to find out that they cannot be, 256 that are each apart from a few on nine nodes
/// 600 000 at most.
const WORK_MAX: usize = 2_000_000;

/// Larger sets are placed one by one.
const UNITS_MAX: usize = 256;

/// Places all units that have opponents and no home.
pub(super) fn settle(board: &mut Board<'_>) {
    settle_within(board, WORK_MAX);
}

/// Does so with so much work spent on looking for ways, and says how much of it is left.
fn settle_within(board: &mut Board<'_>, work: usize) -> usize {
    let mut seen = vec![false; board.units.len()];
    let sets: Vec<Vec<usize>> = (0..board.units.len()).map(|first| connected(board, first, &mut seen)).collect();
    let (mut left, mut units) = (work, sets.iter().map(Vec::len).sum::<usize>());
    for mut set in sets.into_iter().filter(|set| !set.is_empty()) {
        set.sort_unstable();
        // One for which there is no way leaves their share to the others.
        let share = left * set.len() / units;
        units -= set.len();
        let mut search = Search { board, left: share };
        let found = set.len() <= UNITS_MAX && search.place(&mut set.clone());
        left -= share - search.left;
        if !found {
            for unit in set {
                if let Some(seat) = board.open(unit).into_iter().min_by_key(|seat| board.cost(unit, *seat, 0)) {
                    board.put(unit, seat);
                }
            }
        }
    }
    left
}

/// Units without a home that are connected with `first` by being apart.
fn connected(board: &Board<'_>, first: usize, seen: &mut [bool]) -> Vec<usize> {
    let wanted = |unit: usize| board.homes[unit].is_none() && !board.units[unit].apart.is_empty();
    let (mut set, mut next) = (Vec::new(), vec![first]);
    while let Some(unit) = next.pop() {
        if wanted(unit) && !std::mem::replace(&mut seen[unit], true) {
            set.push(unit);
            next.extend(&board.units[unit].apart);
        }
    }
    // A unit that no seat may hold takes part in nothing.
    set.retain(|unit| board.units[*unit].allowed.contains(&true));
    set
}

/// Looks for a way to place one set.
struct Search<'b, 'a> {
    board: &'b mut Board<'a>,
    /// Work that may yet be done.
    left: usize,
}

impl Search<'_, '_> {
    /// Places all of `units` so that none clashes; leaves the board as it was if there is no way, or none was found in time.
    fn place(&mut self, units: &mut Vec<usize>) -> bool {
        // How hard it is to place, where it is among the units, and its seats.
        type Hardest = ((usize, usize, usize), usize, Vec<usize>);
        let mut hardest: Option<Hardest> = None;
        for (at, unit) in units.iter().enumerate() {
            let Some(seats) = self.free(*unit) else { return false };
            let hardness = (seats.len(), usize::MAX - self.board.units[*unit].apart.len(), *unit);
            if hardest.as_ref().is_none_or(|(hardest, ..)| hardness < *hardest) {
                hardest = Some((hardness, at, seats));
            }
        }
        let Some(((_, _, unit), at, mut seats)) = hardest else { return true };
        units.swap_remove(at);
        seats.sort_by_cached_key(|seat| self.board.cost(unit, *seat, 0));
        for seat in seats {
            // Twice for putting it there and for taking it away.
            if !self.spend(2 * self.board.units[unit].apart.len()) {
                break;
            }
            self.board.put(unit, seat);
            if self.place(units) {
                return true;
            }
            self.board.lift(unit);
        }
        units.push(unit);
        false
    }

    /// The seats that a unit may be at and that have none of its opponents; `None` when there is no time left to look.
    fn free(&mut self, unit: usize) -> Option<Vec<usize>> {
        let seats = self.board.seats.len();
        self.spend(seats).then(|| {
            let mut open = self.board.open(unit);
            open.retain(|seat| !self.board.clashes(unit, *seat));
            open
        })
    }

    /// Whether so much work may be done. What is left is of no use to anything smaller.
    fn spend(&mut self, work: usize) -> bool {
        let enough = self.left >= work;
        self.left = if enough { self.left - work } else { 0 };
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        ids::{NodeId, VipId},
        lease::{
            placement::Situation,
            sim::vip_of,
            view::{LeaseMember, LeaseVip},
        },
    };

    /// Settles so many VIPs, of which each two are to be apart that `apart` says so of, on so many nodes. Returns the work
    /// that it took, and for each VIP with how many it clashes.
    fn settle(vips: u32, nodes: u64, apart: impl Fn(u32, u32) -> bool) -> (usize, Vec<usize>) {
        let others = |id: u32| (1..=vips).filter(|other| *other != id && apart(id, *other)).map(VipId::new).collect();
        let vips: Vec<LeaseVip> = (1..=vips).map(|id| LeaseVip { apart_from: others(id), ..vip_of(id) }).collect();
        let address = "127.0.0.1:1".parse().expect("a literal");
        let member = |id| LeaseMember { id: NodeId::new(id), address, candidate: true, weight: 100 };
        let nodes: Vec<LeaseMember> = (1..=nodes).map(member).collect();
        let situation = Situation { owners: BTreeMap::new(), steady: BTreeMap::new() };
        let mut board = Board::new(&vips, &nodes, &situation);
        let left = settle_within(&mut board, WORK_MAX);
        assert!(board.units.iter().zip(&board.homes).all(|(unit, home)| unit.apart.is_empty() || home.is_some()));
        let homes = &board.homes;
        let clash = |unit: usize| board.units[unit].apart.iter().filter(|other| homes[**other] == homes[unit]).count();
        (WORK_MAX - left, (0..homes.len()).map(clash).collect())
    }

    #[test]
    fn finding_out_that_there_is_no_way_takes_a_bounded_amount_of_work() {
        let all = |_, _| true;
        assert_eq!(settle(9, 9, all), (9 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9) + 9 * 2 * 8, vec![0; 9]));
        let (work, _) = settle(12, 3, all);
        assert!(work < 50_000, "it is tried to the end: {work}");
        for (vips, nodes) in [(129, 9), (200, 9), (256, 50)] {
            let (work, clashes) = settle(vips, nodes, all);
            assert!(clashes.iter().sum::<usize>() > 0 && work <= WORK_MAX, "{vips} on {nodes}: {work}");
        }
        assert_eq!(settle(257, 9, all).0, 0, "too many are not looked at");
    }

    #[test]
    fn sets_without_a_way_leave_their_share_to_the_others() {
        let (work, clashes) = settle(255, 4, |a, b| a / 16 == b / 16 && (a < 240 || a.abs_diff(b) == 1));
        assert!(work <= WORK_MAX && clashes[..239].iter().all(|clashes| *clashes > 0), "{work}");
        assert_eq!(clashes[239..], [0; 16]);
    }

    #[test]
    fn a_way_is_found_for_many_that_are_apart_from_a_few() {
        let (work, clashes) = settle(256, 9, |a, b| a.abs_diff(b) <= 3);
        assert!(work < 600_000, "{work}");
        assert_eq!(clashes, [0; 256]);
    }
}
