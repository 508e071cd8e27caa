//! Which cluster is checked, and how much may happen to it.
//!
//! A setup is finite because the questions, restarts and releases in it are counted; everything
//! else (what is heard, when, in which order, how often, and how long anyone is frozen) is not.

use crate::state::{Membership, NodeBits, Ticks};

/// A cluster and bounds on what happens to it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For reports.
    pub name: &'static str,
    /// How many nodes there are.
    pub nodes: usize,
    /// Nodes that may hold the VIP.
    pub candidates: NodeBits,
    /// Voter sets, one after the other, each reached through a joint configuration.
    pub sets: &'static [NodeBits],
    /// Length of everything whose length matters, in ticks: a right on the slowest clock, and a
    /// promise, a grantor's silence and a candidate's settling on the fastest.
    pub right: Ticks,
    /// How often a round of questions may be asked.
    pub asks: u8,
    /// How often a process may be started anew.
    pub restarts: u8,
    /// How often a VIP or a claim may be given up.
    pub releases: u8,
    /// A VIP is given up only to a node that accepted it.
    pub planned: bool,
    /// Deciding and doing are two steps, between which a process may be frozen.
    pub freezes: bool,
    /// Checks in every state that an owner is found once all is well. Costs as much as the rest.
    pub heals: bool,
}

const BASE: Setup = Setup {
    name: "",
    nodes: 3,
    candidates: 0b011,
    sets: &[0b111],
    right: 2,
    asks: 3,
    restarts: 1,
    releases: 1,
    planned: false,
    freezes: false,
    heals: true,
};

/// Two candidates and a witness: grants, drift, restarts, freezes, releases.
const LEASES: Setup = Setup { name: "leases", ..BASE };
/// The same, frozen between deciding and doing.
const FREEZES: Setup = Setup { name: "freezes", asks: 2, freezes: true, ..BASE };
/// The owner hands over to a node that accepted.
const MOVE: Setup = Setup { name: "move", planned: true, ..BASE };
/// The one voter changes from one node to another.
const CHANGE: Setup = Setup { name: "change", nodes: 2, candidates: 0b11, sets: &[0b01, 0b10], ..BASE };
/// There and back again.
const BACK: Setup = Setup { name: "back", sets: &[0b01, 0b10, 0b01], ..CHANGE };
/// One of three voters is replaced by a fourth node.
const REPLACE: Setup =
    Setup { name: "replace", nodes: 4, candidates: 0b1001, sets: &[0b0111, 0b1110], restarts: 0, releases: 0, ..BASE };

/// Setups of the quick search.
pub const QUICK: &[Setup] = &[LEASES, FREEZES, MOVE, CHANGE];

/// Setups of the long search.
pub const FULL: &[Setup] = &[
    Setup { name: "leases", asks: 4, heals: false, ..LEASES },
    Setup { name: "fine", right: 3, heals: false, ..LEASES },
    Setup { name: "freezes", asks: 3, heals: false, ..FREEZES },
    Setup { name: "move", asks: 4, heals: false, ..MOVE },
    Setup { name: "change", asks: 4, heals: false, ..CHANGE },
    Setup { heals: false, ..BACK },
    Setup { heals: false, ..REPLACE },
];

impl Setup {
    /// The voter sets in force under a membership, as bits: two while it is joint. Equal sets have
    /// one bit.
    pub fn sets_of(&self, membership: Membership) -> u8 {
        let at = usize::from(membership / 2);
        let joint = membership % 2 == 1;
        let bit = |at: usize| {
            let first = self.sets.iter().position(|set| *set == self.sets[at]).unwrap_or(at);
            1 << first
        };
        if joint { bit(at) | bit(at + 1) } else { bit(at) }
    }

    /// The newest of the voter sets under a membership.
    pub fn newest_set_of(&self, membership: Membership) -> u8 {
        self.sets_of(membership - membership % 2 + 2 * (membership % 2))
    }

    /// Members of all `sets`.
    pub fn members(&self, sets: u8) -> NodeBits {
        self.each(sets).fold(0, |all, set| all | set)
    }

    /// Whether `nodes` are a majority of each of `sets`.
    pub fn majority(&self, nodes: NodeBits, sets: u8) -> bool {
        self.each(sets).all(|set| 2 * (nodes & set).count_ones() > set.count_ones())
    }

    /// The voter sets that `sets` stands for.
    pub fn each(&self, sets: u8) -> impl Iterator<Item = NodeBits> {
        self.sets.iter().enumerate().filter(move |(at, _)| sets & 1 << at != 0).map(|(_, set)| *set)
    }

    /// The last membership.
    pub fn last_membership(&self) -> Membership {
        2 * (self.sets.len() as Membership - 1)
    }
}
