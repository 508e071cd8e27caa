//! Whether this node is fit to hold a VIP, and what is wrong if it is not.
//!
//! There are two ways of not being fit, because some troubles have a cause that all nodes share. A node that *cannot*
//! serve gives up what it holds. One that *had rather not* (its gateway does not answer) gives a VIP only to a node that
//! is fit, or where an operator wants it, and takes one only when no fit node wants it: when the gateway is dead for everybody, the VIP stays where it
//! is instead of going dark.
//!
//! Not here: how fitness is found out (`ballastd`, `ballast-vip`), what follows from it ([`super::candidate`]).

use std::fmt;

/// Whether this node may hold a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fitness {
    /// Holds and takes VIPs.
    #[default]
    Fit,
    /// Gives VIPs to whoever is fit, keeps them otherwise, and takes one only when nobody fit does.
    Reluctant(Unfitness),
    /// Takes no VIP and gives up what it holds.
    Unfit(Unfitness),
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfitness {
    /// The interface has no carrier or is not up.
    LinkDown,
    /// The gateway does not answer.
    GatewayUnreachable,
    /// A listener of the VIP cannot be bound.
    ListenerFailed,
    /// The state is too old to serve by.
    StateBehind,
    /// The disk is full, slow or damaged.
    DiskTrouble,
    /// An operator drains the node, or it is about to stop.
    Draining,
    /// The operator's own check says so.
    CheckFailed,
    /// The kernel's fence is not as it was set.
    FenceBreached,
    /// Whatever keeps its addresses and fence in place is held up.
    Unattended,
    /// The address is not on the interface.
    AddressMissing,
    /// Somebody who is no member answers for the address.
    AddressTaken,
    /// No majority of voters confirms this node's state.
    NoQuorum,
    /// The node is a witness, or lacks labels that the VIP asks for.
    NotCandidate,
    /// The VIP is configured no longer.
    VipRemoved,
}

impl Fitness {
    /// The worse of two; of two that are as bad, the first.
    #[must_use]
    pub const fn worse(self, other: Self) -> Self {
        if other.degree() > self.degree() { other } else { self }
    }

    /// What is wrong, if anything is.
    pub const fn trouble(self) -> Option<Unfitness> {
        match self {
            Self::Fit => None,
            Self::Reluctant(what) | Self::Unfit(what) => Some(what),
        }
    }

    /// A short constant name of how fit it is, for metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Reluctant(_) => "reluctant",
            Self::Unfit(_) => "unfit",
        }
    }

    const fn degree(self) -> u8 {
        match self {
            Self::Fit => 0,
            Self::Reluctant(_) => 1,
            Self::Unfit(_) => 2,
        }
    }
}

impl fmt::Display for Fitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trouble() {
            None => f.write_str(self.name()),
            Some(what) => write!(f, "{}: {what}", self.name()),
        }
    }
}

impl Unfitness {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::LinkDown,
        Self::GatewayUnreachable,
        Self::ListenerFailed,
        Self::StateBehind,
        Self::DiskTrouble,
        Self::Draining,
        Self::CheckFailed,
        Self::FenceBreached,
        Self::Unattended,
        Self::AddressMissing,
        Self::AddressTaken,
        Self::NoQuorum,
        Self::NotCandidate,
        Self::VipRemoved,
    ];

    /// A short constant name, for metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link_down",
            Self::GatewayUnreachable => "gateway_unreachable",
            Self::ListenerFailed => "listener_failed",
            Self::StateBehind => "state_behind",
            Self::DiskTrouble => "disk_trouble",
            Self::Draining => "draining",
            Self::CheckFailed => "check_failed",
            Self::FenceBreached => "fence_breached",
            Self::Unattended => "unattended",
            Self::AddressMissing => "address_missing",
            Self::AddressTaken => "address_taken",
            Self::NoQuorum => "no_quorum",
            Self::NotCandidate => "not_candidate",
            Self::VipRemoved => "vip_removed",
        }
    }
}

impl fmt::Display for Unfitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkDown => "its link is down",
            Self::GatewayUnreachable => "its gateway does not answer",
            Self::ListenerFailed => "a listener of the VIP cannot be bound on it",
            Self::StateBehind => "its state is too far behind",
            Self::DiskTrouble => "its disk is in trouble",
            Self::Draining => "it takes no more work",
            Self::CheckFailed => "the operator's check fails on it",
            Self::FenceBreached => "its kernel's fence is not as it was set",
            Self::Unattended => "nobody looks after its addresses and fence",
            Self::AddressMissing => "the address is not on its interface",
            Self::AddressTaken => "a stranger answers for the address",
            Self::NoQuorum => "no majority of voters confirms its state",
            Self::NotCandidate => "it is no candidate for the VIP",
            Self::VipRemoved => "the VIP is configured no longer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_counts_and_the_first_of_equals() {
        let reluctant = Fitness::Reluctant(Unfitness::GatewayUnreachable);
        let unfit = Fitness::Unfit(Unfitness::LinkDown);
        assert_eq!(Fitness::Fit.worse(reluctant), reluctant);
        assert_eq!(unfit.worse(reluctant), unfit);
        assert_eq!(unfit.worse(Fitness::Unfit(Unfitness::Draining)), unfit);
        assert_eq!(reluctant.to_string(), "reluctant: its gateway does not answer");
    }

    #[test]
    fn each_trouble_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Unfitness::ALL.iter().map(|what| what.name()).collect();
        assert_eq!(names.len(), Unfitness::ALL.len());
    }
}
