//! The nodes as seats, the VIPs as units that move as one, and what is where while they are placed.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
};

use siphasher::sip::SipHasher13;

use super::{
    super::view::{LeaseMember, LeaseVip},
    Situation,
};
use crate::{
    config::Failback,
    ids::{NodeId, VipId},
};

/// A node that may hold VIPs.
pub(super) struct Seat {
    pub id: NodeId,
    pub weight: u32,
}

/// VIPs that move as one: those of a group, or one alone.
pub(super) struct Unit<'a> {
    /// By id; never empty.
    pub vips: Vec<&'a LeaseVip>,
    /// Seats that all of them may be at.
    pub allowed: Vec<bool>,
    /// Of these, the ones it prefers, best first.
    pub prefer: Vec<usize>,
    pub wish: Option<usize>,
    /// All of it was where the wish is, since the wish.
    pub wish_fulfilled: bool,
    /// Seats that hold some of it.
    pub owners: Vec<usize>,
    /// The one that holds most of it.
    pub owner: Option<usize>,
    pub failback: Failback,
    /// Seats that it may return to by itself.
    pub steady: Vec<bool>,
    /// Units that it is to be apart from.
    pub apart: Vec<usize>,
}

impl Unit<'_> {
    pub fn size(&self) -> usize {
        self.vips.len()
    }
}

/// How good a seat is for a unit; less is better, and what is named first counts first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    standby: bool,
    clashes: bool,
    /// Place among those it prefers; the same for all others.
    preferred: usize,
    burden: u128,
    /// Decides between equals, differently for each unit.
    score: u64,
    seat: usize,
}

/// What is where.
pub(super) struct Board<'a> {
    /// By id.
    pub seats: Vec<Seat>,
    /// By the id of their first VIP.
    pub units: Vec<Unit<'a>>,
    /// Where each unit belongs, as far as decided.
    pub homes: Vec<Option<usize>>,
    /// VIPs that belong to each seat.
    pub load: Vec<usize>,
    /// How many units at each seat each unit is to be apart from: seats of the first unit, then of the second.
    against: Vec<u32>,
}

impl<'a> Board<'a> {
    pub fn new(vips: &'a [LeaseVip], nodes: &[LeaseMember], situation: &Situation) -> Self {
        let candidates: BTreeMap<NodeId, u32> =
            nodes.iter().filter(|node| node.candidate).map(|node| (node.id, node.weight)).collect();
        let seats: Vec<Seat> = candidates.into_iter().map(|(id, weight)| Seat { id, weight }).collect();
        let by_id: BTreeMap<VipId, &LeaseVip> = vips.iter().map(|vip| (vip.id, vip)).collect();
        let units: Vec<Unit<'a>> =
            together(by_id.values().copied(), &seats).into_iter().map(|vips| unit(vips, &seats, situation)).collect();
        let (homes, load) = (vec![None; units.len()], vec![0; seats.len()]);
        let against = vec![0; units.len() * seats.len()];
        let mut board = Self { homes, load, against, seats, units };
        board.link();
        board
    }

    /// Finds the units that each is to be apart from. One side's word is enough.
    fn link(&mut self) {
        let of: BTreeMap<VipId, usize> = self
            .units
            .iter()
            .enumerate()
            .flat_map(|(index, unit)| unit.vips.iter().map(move |vip| (vip.id, index)))
            .collect();
        let mut edges: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.units.len()];
        for (index, unit) in self.units.iter().enumerate() {
            let named = unit.vips.iter().flat_map(|vip| &vip.apart_from);
            for other in named.filter_map(|vip| of.get(vip).copied()).filter(|other| *other != index) {
                edges[index].insert(other);
                edges[other].insert(index);
            }
        }
        for (unit, edges) in self.units.iter_mut().zip(edges) {
            unit.apart = edges.into_iter().collect();
        }
    }

    pub fn put(&mut self, unit: usize, seat: usize) {
        self.lift(unit);
        self.homes[unit] = Some(seat);
        self.load[seat] += self.units[unit].size();
        for other in &self.units[unit].apart {
            self.against[other * self.seats.len() + seat] += 1;
        }
    }

    pub fn lift(&mut self, unit: usize) {
        if let Some(seat) = self.homes[unit].take() {
            self.load[seat] -= self.units[unit].size();
            for other in &self.units[unit].apart {
                self.against[other * self.seats.len() + seat] -= 1;
            }
        }
    }

    /// Whether a unit that this one is to be apart from belongs to `seat`.
    pub fn clashes(&self, unit: usize, seat: usize) -> bool {
        self.against[unit * self.seats.len() + seat] > 0
    }

    /// Takes a VIP only when no seat with weight can. Whoever prefers a standby by name means it.
    pub fn is_standby(&self, unit: usize, seat: usize) -> bool {
        self.seats[seat].weight == 0 && !self.units[unit].prefer.contains(&seat)
    }

    /// Seats that may be its home by labels and weight.
    pub fn open(&self, unit: usize) -> Vec<usize> {
        let allowed = |seat: &usize| self.units[unit].allowed[*seat];
        let mut open: Vec<usize> = (0..self.seats.len()).filter(allowed).collect();
        if open.iter().any(|seat| !self.is_standby(unit, *seat)) {
            open.retain(|seat| !self.is_standby(unit, *seat));
        }
        open
    }

    /// How good `seat` is for `unit`, with `more` than its load to carry.
    pub fn cost(&self, unit: usize, seat: usize, more: usize) -> Cost {
        let Unit { vips, prefer, .. } = &self.units[unit];
        Cost {
            standby: self.is_standby(unit, seat),
            clashes: self.clashes(unit, seat),
            preferred: prefer.iter().position(|preferred| *preferred == seat).unwrap_or(usize::MAX),
            burden: self.burden(unit, seat, more),
            score: score(vips[0].id, self.seats[seat].id),
            seat,
        }
    }

    /// What a seat would carry with the unit, by its weight. Half of the unit counts (Sainte-Laguë's divisors), so that
    /// shares come close to the weights from both sides.
    pub fn burden(&self, unit: usize, seat: usize, more: usize) -> u128 {
        let carried = 2 * (self.load[seat] + more) + self.units[unit].size();
        ((carried as u128) << 32) / u128::from(self.seats[seat].weight.max(1))
    }

    /// The other seats that the unit may be at, in the order in which they should take it over from `home`.
    pub fn heirs(&self, unit: usize, home: usize, inherited: &[usize]) -> Vec<usize> {
        let Unit { allowed, owners, .. } = &self.units[unit];
        let mut heirs: Vec<(bool, bool, bool, Cost)> = (0..self.seats.len())
            .filter(|seat| *seat != home && allowed[*seat])
            .map(|seat| {
                let cost = self.cost(unit, seat, inherited[seat]);
                // Who holds other VIPs of the group comes before anyone else of its kind.
                (cost.standby, cost.clashes, !owners.contains(&seat), cost)
            })
            .collect();
        heirs.sort_unstable();
        heirs.into_iter().map(|(.., cost)| cost.seat).collect()
    }

    /// Nodes that may hold the VIP although not all of its group may be there.
    pub fn others(&self, vip: &LeaseVip, taken: &[NodeId]) -> impl Iterator<Item = NodeId> {
        let others = self.seats.iter().filter(|seat| may_hold(vip, seat.id) && !taken.contains(&seat.id));
        others.map(|seat| seat.id)
    }
}

/// VIPs by group. VIPs of a group that no node may hold all of are each for themselves.
fn together<'a>(vips: impl Iterator<Item = &'a LeaseVip>, seats: &[Seat]) -> Vec<Vec<&'a LeaseVip>> {
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    let mut units: Vec<Vec<&LeaseVip>> = Vec::new();
    for vip in vips {
        match &vip.group {
            Some(group) => {
                let at = *groups.entry(group).or_insert_with(|| {
                    units.push(Vec::new());
                    units.len() - 1
                });
                units[at].push(vip);
            }
            None => units.push(vec![vip]),
        }
    }
    let common = |unit: &Vec<&LeaseVip>| seats.iter().any(|seat| unit.iter().all(|vip| may_hold(vip, seat.id)));
    let split = |unit: Vec<&'a LeaseVip>| {
        if common(&unit) { vec![unit] } else { unit.into_iter().map(|vip| vec![vip]).collect() }
    };
    let mut units: Vec<Vec<&LeaseVip>> = units.into_iter().flat_map(split).collect();
    units.sort_unstable_by_key(|unit| unit[0].id);
    units
}

fn may_hold(vip: &LeaseVip, node: NodeId) -> bool {
    vip.only.as_ref().is_none_or(|only| only.contains(&node))
}

fn unit<'a>(vips: Vec<&'a LeaseVip>, seats: &[Seat], situation: &Situation) -> Unit<'a> {
    let allowed: Vec<bool> = seats.iter().map(|seat| vips.iter().all(|vip| may_hold(vip, seat.id))).collect();
    let seat_of = |node: NodeId| {
        let seat = seats.binary_search_by_key(&node, |seat| seat.id).ok()?;
        allowed[seat].then_some(seat)
    };
    let mut prefer: Vec<usize> = Vec::new();
    let preferred = vips.iter().find(|vip| !vip.prefer.is_empty()).map_or(&[][..], |vip| &vip.prefer);
    for seat in preferred.iter().filter_map(|node| seat_of(*node)) {
        if !prefer.contains(&seat) {
            prefer.push(seat);
        }
    }
    let owners: Vec<usize> = vips.iter().filter_map(|vip| seat_of(*situation.owners.get(&vip.id)?)).collect();
    let held = |seat: &usize| owners.iter().filter(|owner| *owner == seat).count();
    // Of several that hold as much, the one with the first VIP.
    let owner = owners.iter().rev().max_by_key(|seat| held(seat)).copied();
    let delay = vips.iter().map(|vip| vip.failback_delay).max().unwrap_or_default();
    let steady = |seat: &Seat| situation.steady.get(&seat.id).is_some_and(|heard| *heard >= delay);
    let automatic = vips.iter().any(|vip| vip.failback == Failback::Automatic);
    Unit {
        wish: vips.iter().find_map(|vip| seat_of(vip.wish?.node)),
        wish_fulfilled: vips.iter().filter_map(|vip| vip.wish).all(|wish| wish.fulfilled),
        owner,
        failback: if automatic { Failback::Automatic } else { Failback::Never },
        steady: seats.iter().map(steady).collect(),
        apart: Vec::new(),
        vips,
        allowed,
        prefer,
        owners,
    }
}

fn score(vip: VipId, node: NodeId) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u64(u64::from(vip.get()).to_le());
    hasher.write_u64(node.get().to_le());
    hasher.finish()
}
