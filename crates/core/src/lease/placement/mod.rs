//! Which node should hold which VIP, and who comes next.
//!
//! A pure function of the log, of who holds what, and of who has been heard for how long, so that all nodes come to
//! much the same ranking without talking. A disagreement is harmless: the ranking only decides who asks first and
//! whether an owner offers a VIP to a better node; the majority decides who owns.
//!
//! Movement is what costs clients, so an owner keeps what it holds unless an operator wished otherwise, the VIP has
//! automatic failback, its group is elsewhere, or it can be got away from a VIP that it is to be apart from.
//!
//! In order of force: an operator's wish; the labels of nodes are never overruled; nodes with weight before standbys;
//! apart before preferred; preferred before an even spread. A VIP that some node may hold is always given one.
//!
//! Not here: who may hold a VIP by what only it knows of itself ([`super::Fitness`]).

mod apart;
mod board;
mod homes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::board::Board;
use super::{
    epoch::Epoch,
    view::{LeaseMember, LeaseVip},
};
use crate::ids::{NodeId, VipId};

/// Why a VIP's best node is its best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementReason {
    /// An operator wishes it there.
    Wish,
    /// It is the best of the nodes that the VIP prefers.
    Preferred,
    /// It holds the VIP, and nothing says that it should leave.
    Stays,
    /// It holds other VIPs of the group.
    Together,
    /// Where the VIP was, there is one that it is to be apart from.
    Apart,
    /// It had the least to carry for its weight.
    Spread,
}

impl PlacementReason {
    /// In words, for status and history.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wish => "an operator moved it",
            Self::Preferred => "preferred node",
            Self::Stays => "stays where it is",
            Self::Together => "together with its group",
            Self::Apart => "apart from another VIP",
            Self::Spread => "even spread",
        }
    }
}

/// The nodes that may hold a VIP, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    /// Best first; empty when no node may hold it.
    pub order: Vec<NodeId>,
    /// Why the first is first.
    pub reason: PlacementReason,
    /// Nobody is known to hold it or ever to have held it.
    pub new: bool,
}

/// What is known beside the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// Who holds what, as far as known.
    pub owners: BTreeMap<VipId, NodeId>,
    /// The longest `failback_delay` for which each node has been heard without a gap. A node that is missing has not
    /// been heard for even the shortest.
    pub steady: BTreeMap<NodeId, u64>,
}

/// Ranks the nodes for every VIP.
pub fn place(vips: &[LeaseVip], nodes: &[LeaseMember], situation: &Situation) -> BTreeMap<VipId, Ranking> {
    let mut board = Board::new(vips, nodes, situation);
    let reasons = homes::find(&mut board);
    // Who comes second is chosen as if the first had died, so that one node's VIPs go to several others.
    let mut inherited = vec![vec![0; board.seats.len()]; board.seats.len()];
    let mut rankings = BTreeMap::new();
    // One that was given up has no owner in the log, and an epoch that it was held under.
    let is_new = |vip: &LeaseVip| !situation.owners.contains_key(&vip.id) && vip.recorded_epoch == Epoch::default();
    for (unit, reason) in reasons.into_iter().enumerate() {
        let Some(home) = board.homes[unit] else {
            for vip in &board.units[unit].vips {
                let order = board.others(vip, &[]).collect();
                rankings.insert(vip.id, Ranking { order, reason: PlacementReason::Spread, new: is_new(vip) });
            }
            continue;
        };
        let heirs = board.heirs(unit, home, &inherited[home]);
        if let Some(second) = heirs.first() {
            inherited[home][*second] += board.units[unit].size();
        }
        let order: Vec<NodeId> = std::iter::once(home).chain(heirs).map(|seat| board.seats[seat].id).collect();
        for vip in &board.units[unit].vips {
            let elsewhere = situation.owners.get(&vip.id).is_some_and(|owner| *owner != order[0]);
            let reason = match reason {
                PlacementReason::Stays if elsewhere => PlacementReason::Together,
                reason => reason,
            };
            let mut order = order.clone();
            let others: Vec<NodeId> = board.others(vip, &order).collect();
            order.extend(others);
            rankings.insert(vip.id, Ranking { order, reason, new: is_new(vip) });
        }
    }
    rankings
}
