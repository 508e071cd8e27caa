//! The rules that keep a VIP from having two owners, by name.
//!
//! Each of them is needed: the simulation breaks one at a time and must find two open gates. In a
//! build that is not a test of this crate they cannot be broken.

#[cfg(not(test))]
use ballast_planted::Bug;

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
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
    /// After a voter set fell away, no VIP is newly taken for the length of a promise.
    SettleAfterChange,
    /// That begins once all is applied that was agreed before the voters were: how long promises last is part of it.
    CatchUpFirst,
    /// A grantor grants no right that is longer than it would know of if the power failed. Kept by who makes its views.
    #[cfg(test)]
    GrantWhatIsOnDisk,
    /// A grantor refuses a question about a VIP that it knows by other addresses, or not at all.
    AgreeOnAddresses,
    /// An address is promised to one life at a time, whatever VIP it is of.
    PromiseAddresses,
    /// A promise of an address lasts although the VIP's holder is promised less by now.
    FormerAddressesStayPromised,
    /// What is added to a VIP that is held is opened when it has been granted.
    OpenWhatWasGranted,
    /// A grant for a part of what was asked for opens nothing that is new.
    PartIsNotAll,
}

/// Which rules are kept: all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    #[cfg(test)]
    broken: Option<Rule>,
}

impl Rules {
    /// All rules but one.
    #[cfg(test)]
    pub(super) const fn without(rule: Rule) -> Self {
        Self { broken: Some(rule) }
    }

    /// Whether `rule` is kept.
    #[cfg(test)]
    pub(super) fn keep(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Whether `rule` is kept.
    #[cfg(not(test))]
    pub(super) fn keep(self, rule: Rule) -> bool {
        rule != Rule::TimedFromAsking || !ballast_planted::is(Bug::LeaseTimedFromReceipt)
    }
}
