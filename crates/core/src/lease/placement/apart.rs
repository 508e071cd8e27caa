//! Seats for units that are to be apart and that nobody holds yet.
//!
//! One after the other, each to the best seat that is free of its opponents, may end with a unit for which none is left
//! although there was a way. So this looks for a way, the unit with the fewest choices first (Brélaz), and takes a
//! choice back when it led nowhere. Finding out that there is no way can take for ever, so it gives up after a while, at
//! the same place on every node; then the units are placed one by one after all.

use super::board::Board;

/// Choices that are tried for one set of connected units. Arbitrary; three times what twelve VIPs that are all to be
/// apart need on three nodes.
const CHOICES_MAX: usize = 2000;

/// Larger sets are placed one by one.
const UNITS_MAX: usize = 256;

/// Places all units that have opponents and no home.
pub(super) fn settle(board: &mut Board<'_>) {
    let mut seen = vec![false; board.units.len()];
    for first in 0..board.units.len() {
        let mut set = connected(board, first, &mut seen);
        set.sort_unstable();
        let mut choices = CHOICES_MAX;
        if set.len() > UNITS_MAX || !search(board, &mut set.clone(), &mut choices) {
            for unit in set {
                if let Some(seat) = board.open(unit).into_iter().min_by_key(|seat| board.cost(unit, *seat, 0)) {
                    board.put(unit, seat);
                }
            }
        }
    }
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

/// Places all of `left` so that none clashes; leaves the board as it was if there is no way, or none was found in time.
fn search(board: &mut Board<'_>, left: &mut Vec<usize>, choices: &mut usize) -> bool {
    let free = |board: &Board<'_>, unit: usize| -> Vec<usize> {
        board.open(unit).into_iter().filter(|seat| !board.clashes(unit, *seat)).collect()
    };
    let hardest = (0..left.len()).min_by_key(|at| {
        let unit = left[*at];
        (free(board, unit).len(), usize::MAX - board.units[unit].apart.len(), unit)
    });
    let Some(at) = hardest else { return true };
    let unit = left.swap_remove(at);
    let mut seats = free(board, unit);
    seats.sort_unstable_by_key(|seat| board.cost(unit, *seat, 0));
    for seat in seats {
        if *choices == 0 {
            break;
        }
        *choices -= 1;
        board.put(unit, seat);
        if search(board, left, choices) {
            return true;
        }
        board.lift(unit);
    }
    left.push(unit);
    false
}
