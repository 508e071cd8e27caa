//! Where each unit belongs.
//!
//! What is settled by a wish or an owner comes first, so that the rest can be spread around it.

use super::{PlacementReason, apart, board::Board};
use crate::config::Failback;

/// Finds a home for each unit that some seat may hold, and says why there.
pub(super) fn find(board: &mut Board<'_>) -> Vec<PlacementReason> {
    let mut reasons = vec![PlacementReason::Spread; board.units.len()];
    for (unit, reason) in reasons.iter_mut().enumerate() {
        if let Some((seat, why)) = settled(board, unit) {
            board.put(unit, seat);
            *reason = why;
        }
    }
    part(board, &mut reasons);
    level(board, &mut reasons);
    apart::settle(board);
    let mut left: Vec<usize> = (0..board.units.len()).filter(|unit| board.homes[*unit].is_none()).collect();
    // Preferences fill nodes that the others then stay away from; large groups are hard to even out afterwards.
    left.sort_by_key(|unit| {
        let unit = &board.units[*unit];
        (unit.prefer.is_empty(), std::cmp::Reverse(unit.size()))
    });
    for unit in left {
        if let Some(seat) = board.open(unit).into_iter().min_by_key(|seat| board.cost(unit, *seat, 0)) {
            board.put(unit, seat);
        }
    }
    for (unit, reason) in reasons.iter_mut().enumerate() {
        let preferred = board.homes[unit].is_some_and(|home| board.units[unit].prefer.contains(&home));
        if *reason == PlacementReason::Spread && preferred {
            *reason = PlacementReason::Preferred;
        }
    }
    reasons
}

/// Where a unit belongs for a reason of its own, if there is one.
fn settled(board: &Board<'_>, unit: usize) -> Option<(usize, PlacementReason)> {
    let unit = &board.units[unit];
    // A node that crashes again and again would take it each time that it is back.
    let honoured = |seat: &usize| !unit.wish_fulfilled || unit.owner == Some(*seat) || unit.steady[*seat];
    if let Some(wish) = unit.wish.filter(honoured) {
        return Some((wish, PlacementReason::Wish));
    }
    let owner = unit.owner?;
    // An owner that is itself preferred yields only to one that is preferred more.
    let better = |seat: &usize| unit.steady[*seat] || *seat == owner;
    let preferred = unit.prefer.iter().copied().find(better).filter(|_| unit.failback == Failback::Automatic);
    Some(match preferred {
        Some(seat) => (seat, PlacementReason::Preferred),
        None => (owner, PlacementReason::Stays),
    })
}

/// Moves units away from those that they are to be apart from, where a steady seat is free of such. Of two the later
/// one moves, unless an operator wished it there.
fn part(board: &mut Board<'_>, reasons: &mut [PlacementReason]) {
    for unit in 0..board.units.len() {
        let Some(home) = board.homes[unit].filter(|_| reasons[unit] != PlacementReason::Wish) else { continue };
        let stays = |other: &usize| *other < unit || reasons[*other] == PlacementReason::Wish;
        let clash = |other: &&usize| board.homes[**other] == Some(home) && stays(other);
        if !board.units[unit].apart.iter().any(|other| clash(&other)) {
            continue;
        }
        let (owner, steady) = (board.units[unit].owner, &board.units[unit].steady);
        let better = board
            .open(unit)
            .into_iter()
            .filter(|seat| *seat != home && !board.clashes(unit, *seat) && (steady[*seat] || owner == Some(*seat)))
            .min_by_key(|seat| (owner != Some(*seat), board.cost(unit, *seat, 0)));
        if let Some(seat) = better {
            reasons[unit] = if owner == Some(seat) { PlacementReason::Stays } else { PlacementReason::Apart };
            board.put(unit, seat);
        }
    }
}

/// Moves units with automatic failback from where they only stay to the steady seat with the least to carry, while that
/// evens out.
fn level(board: &mut Board<'_>, reasons: &mut [PlacementReason]) {
    for (unit, reason) in reasons.iter_mut().enumerate() {
        let free_to_move = *reason == PlacementReason::Stays && board.units[unit].failback == Failback::Automatic;
        let Some(home) = board.homes[unit].filter(|_| free_to_move) else { continue };
        let steady = &board.units[unit].steady;
        let emptiest = board
            .open(unit)
            .into_iter()
            .filter(|seat| *seat != home && steady[*seat] && !board.clashes(unit, *seat))
            .min_by_key(|seat| (board.burden(unit, *seat, 0), *seat));
        let Some(seat) = emptiest else { continue };
        let weight = |seat: usize| u64::from(board.seats[seat].weight);
        let after = (board.load[seat] + board.units[unit].size()) as u64;
        if board.load[home] as u64 * weight(seat) > after * weight(home) {
            board.put(unit, seat);
            *reason = PlacementReason::Spread;
        }
    }
}
