//! The rules of the protocol by name, so that each can be broken.
//!
//! Those up to `SettleAfterChange` but for `HeldSetsCount` carry the names they have in `ballast-core`'s `lease/rules.rs`. The others are
//! part of the protocol too, but no single `if` stands for them there: they lie in a type (a deadline is
//! absolute), in the kernel fence, or in how a grantor keeps its books.

use crate::model::{EPOCHS_GROW, ONE_OWNER};

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rule {
    /// A right is timed from before it was asked for, not from when the answer came.
    TimedFromAsking,
    /// A grantor that has just started promises nothing, for it may have promised before.
    QuietAfterRestart,
    /// A promise outlasts the right by what two clocks may differ.
    DriftMargin,
    /// An epoch that was released, lost or abandoned is never armed again.
    ReleasedStaysReleased,
    /// The gate is closed before anyone is told that the VIP is free.
    CloseBeforeTelling,
    /// A voter counts once.
    DistinctVoters,
    /// A majority of every voter set in force is needed.
    EveryVoterSet,
    /// A grantor refuses who does not count by the newest membership in its log.
    RefuseStaleMembership,
    /// Memberships that grantors told of are counted by, and not only said to be.
    CountTold,
    /// They are counted beside the node's own, not instead of it.
    CountOwnBesideTold,
    /// An owner's first renewal under a new membership is by the sets that it held by, too.
    HeldSetsCount,
    /// After a voter set fell away, and after a start, no VIP is newly taken for the length of a promise.
    SettleAfterChange,
    /// A grantor promises to one life of one node at a time.
    OnePromise,
    /// A release frees the promise of the life that released, and no other.
    ReleaseFreesOwnPromise,
    /// A grantor gives an epoch to one claimant, and none below it to anyone.
    EpochsOnlyGrow,
    /// The kernel is told an absolute deadline. A relative one starts anew whenever it arrives.
    AbsoluteDeadline,
    /// The fence of a node that starts is closed.
    ClosedAtStart,
    /// A process that starts resets the deadline that the one before it left in the kernel.
    ResetAtStart,
    /// When less is counted by than before, what was granted beside more is forgotten.
    GrantsCountAsAsked,
}

/// What breaking a rule leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Danger {
    /// Two kernels let traffic of one VIP pass.
    TwoOwners,
    /// An owner arms an epoch that is not above all that others armed.
    EpochAgain,
    /// Nothing that the model can see. The page `docs/leases.md` says why the rule is there.
    None,
}

impl Danger {
    /// The property that fails.
    pub fn property(self) -> Option<&'static str> {
        match self {
            Self::TwoOwners => Some(ONE_OWNER),
            Self::EpochAgain => Some(EPOCHS_GROW),
            Self::None => None,
        }
    }
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 19] = [
        Self::TimedFromAsking,
        Self::QuietAfterRestart,
        Self::DriftMargin,
        Self::ReleasedStaysReleased,
        Self::CloseBeforeTelling,
        Self::DistinctVoters,
        Self::EveryVoterSet,
        Self::RefuseStaleMembership,
        Self::CountTold,
        Self::CountOwnBesideTold,
        Self::HeldSetsCount,
        Self::SettleAfterChange,
        Self::OnePromise,
        Self::ReleaseFreesOwnPromise,
        Self::EpochsOnlyGrow,
        Self::AbsoluteDeadline,
        Self::ClosedAtStart,
        Self::ResetAtStart,
        Self::GrantsCountAsAsked,
    ];

    /// What the checker must find when the rule is broken.
    pub fn danger(self) -> Danger {
        match self {
            Self::EpochsOnlyGrow => Danger::EpochAgain,
            Self::ResetAtStart => Danger::None,
            _ => Danger::TwoOwners,
        }
    }
}
