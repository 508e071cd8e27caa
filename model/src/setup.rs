//! Which cluster is checked, and how much may happen to it.
//!
//! A setup is finite because the questions, restarts and releases in it are counted; everything
//! else (what is heard, when, in which order, how often, and how long anyone is frozen) is not.

use crate::{
    rule::Rule,
    state::{Membership, NodeBits, Ticks},
};

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
    /// Begins in the middle of a change, with an owner.
    pub changing: bool,
    /// Checks in every state that an owner is found once all is well. Costs as much as the rest.
    pub heals: bool,
}

/// Two candidates and a witness, of which nothing is asked.
const LEASES: Setup = Setup {
    name: "leases",
    nodes: 3,
    candidates: 0b011,
    sets: &[0b111],
    right: 2,
    asks: 3,
    restarts: 0,
    releases: 0,
    planned: false,
    freezes: false,
    changing: false,
    heals: true,
};
/// The same with restarts.
const CRASHES: Setup = Setup { name: "crashes", restarts: 1, ..LEASES };
/// The same with VIPs and claims that are given up.
const RELEASES: Setup = Setup { name: "releases", releases: 1, ..LEASES };
/// The same, frozen between deciding and doing.
const FREEZES: Setup = Setup { name: "freezes", asks: 2, restarts: 1, releases: 1, freezes: true, ..LEASES };
/// The owner hands over to a node that accepted.
const MOVE: Setup = Setup { name: "move", asks: 2, restarts: 1, releases: 1, planned: true, ..LEASES };
/// The one voter changes from one node to another: the smallest change there is.
const CHANGE: Setup = Setup { name: "change", nodes: 2, candidates: 0b11, sets: &[0b01, 0b10], ..LEASES };
/// There and back again.
const BACK: Setup = Setup { name: "change-back", sets: &[0b01, 0b10, 0b01], ..CHANGE };
/// One of two voters is replaced by a third node.
const REPLACE: Setup = Setup { name: "replace", nodes: 3, candidates: 0b101, sets: &[0b011, 0b110], ..LEASES };

/// Three voters give way to one, which owns the VIP by the joint membership already, and one of the three claims it. A
/// majority of the three can be made up of one that knows of the change by now and of one that does not.
const SHRINK: Setup = Setup {
    name: "shrink",
    nodes: 4,
    candidates: 0b1001,
    sets: &[0b0111, 0b1000],
    asks: 1,
    changing: true,
    heals: false,
    ..LEASES
};

/// Setups of the quick search.
pub const QUICK: &[Setup] =
    &[CRASHES, RELEASES, FREEZES, MOVE, CHANGE, Setup { name: "change-crash", asks: 2, restarts: 1, ..CHANGE }];

/// Setups of the long search.
pub const LONG: &[Setup] = &[
    Setup { name: "leases-long", restarts: 1, releases: 1, heals: false, ..LEASES },
    Setup { name: "crashes-long", asks: 4, heals: false, ..CRASHES },
    Setup { name: "crashes-fine", right: 3, heals: false, ..CRASHES },
    Setup { name: "releases-fine", right: 3, heals: false, ..RELEASES },
    Setup { name: "freezes-long", asks: 3, releases: 0, heals: false, ..FREEZES },
    Setup { name: "move-long", asks: 3, heals: false, ..MOVE },
    Setup { name: "change-long", restarts: 1, heals: false, ..CHANGE },
    Setup { heals: false, ..BACK },
    Setup { asks: 2, heals: false, ..REPLACE },
    SHRINK,
];

/// A setup in which `rule`, once broken, does its harm; or, for one whose breaking the model does
/// not see, in which that is looked for.
pub fn shows(rule: Rule) -> Setup {
    let leases = Setup { asks: 2, heals: false, ..LEASES };
    let change = Setup { asks: 2, heals: false, ..CHANGE };
    match rule {
        Rule::TimedFromAsking
        | Rule::DriftMargin
        | Rule::OnePromise
        | Rule::EpochsOnlyGrow
        | Rule::AbsoluteDeadline => leases,
        Rule::DistinctVoters => Setup { asks: 3, ..leases },
        Rule::QuietAfterRestart | Rule::ClosedAtStart => Setup { restarts: 1, ..leases },
        Rule::ReleasedStaysReleased | Rule::CloseBeforeTelling => Setup { releases: 1, ..leases },
        Rule::ReleaseFreesOwnPromise => Setup { asks: 3, releases: 1, ..leases },
        Rule::EveryVoterSet | Rule::RefuseStaleMembership | Rule::SettleAfterChange => change,
        Rule::CountTold | Rule::CountOwnBesideTold | Rule::GrantsCountAsAsked => Setup { asks: 3, ..change },
        Rule::ResetAtStart => Setup { restarts: 1, releases: 1, ..leases },
        Rule::HeldSetsCount => SHRINK,
    }
}

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
