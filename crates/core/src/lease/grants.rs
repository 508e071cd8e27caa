//! What voters granted to one claim, and how far a majority of it reaches.

use smallvec::SmallVec;

use super::{
    datagram::Stance,
    rules::{Rule, Rules},
    view::Confirmed,
    voters::VoterSets,
};
use crate::{
    ids::{LogIndex, NodeId},
    lease::Epoch,
    time::BootNanos,
};

/// One answer of a voter, with what this node knows of the question.
pub(super) struct Said {
    pub voter: NodeId,
    pub asked_at: BootNanos,
    /// The right that was asked for.
    pub right: u64,
    /// The voter's last log index.
    pub last: LogIndex,
    pub stance: Stance,
}

/// Grants of voters to one claim.
#[derive(Default)]
pub(super) struct Grants(Vec<Grant>);

#[derive(Clone, Copy)]
struct Grant {
    voter: NodeId,
    asked_at: BootNanos,
    right: u64,
    until: BootNanos,
    epoch: Epoch,
    last: LogIndex,
    /// It is for all that was asked for, and not only for what was held before.
    whole: bool,
}

/// What a majority of every set agrees on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// How long the right lasts.
    pub until: BootNanos,
    /// The shortest right that one of this majority was asked for.
    pub right: u64,
    /// The lowest epoch that this majority granted: the next owner, whatever majority it asks, hears of it.
    pub epoch: Epoch,
    /// When the majority was asked, and the most it told of the log.
    pub fresh: Confirmed,
}

impl Grants {
    /// Takes in a grant that came at `now`, for all that was asked for if it is `whole`. A voter counts once, by its newest.
    pub(super) fn add(&mut self, now: BootNanos, rules: Rules, epoch: Epoch, whole: bool, said: &Said) {
        let from = if rules.keep(Rule::TimedFromAsking) { said.asked_at } else { now };
        let Said { voter, asked_at, right, last, .. } = *said;
        let grant = Grant { voter, asked_at, right, until: from.plus(right), epoch, last, whole };
        if !rules.keep(Rule::DistinctVoters) {
            self.0.insert(0, grant);
            self.0.truncate(8);
        } else if let Some(known) = self.0.iter_mut().find(|g| g.voter == said.voter) {
            if known.until < grant.until {
                *known = grant;
            }
        } else {
            self.0.push(grant);
        }
    }

    /// Until when a majority of every set granted all that was asked for.
    pub(super) fn whole_until(&self, sets: &VoterSets) -> Option<BootNanos> {
        let whole = self.0.iter().filter(|grant| grant.whole);
        let times: SmallVec<[(NodeId, BootNanos); 8]> = whole.map(|grant| (grant.voter, grant.until)).collect();
        sets.reached(&times)
    }

    /// Until when a majority of every set granted it.
    pub(super) fn until(&self, sets: &VoterSets) -> Option<BootNanos> {
        let times: SmallVec<[(NodeId, BootNanos); 8]> = self.0.iter().map(|g| (g.voter, g.until)).collect();
        sets.reached(&times)
    }

    /// That, and what that majority told of the log.
    pub(super) fn agreed(&self, sets: &VoterSets) -> Option<Agreed> {
        let until = self.until(sets)?;
        let counted = || self.0.iter().filter(|g| g.until >= until);
        let asked_at = counted().map(|g| g.asked_at).min()?;
        let index = counted().map(|g| g.last).max()?;
        let epoch = counted().map(|g| g.epoch).min()?;
        let right = counted().map(|g| g.right).min()?;
        Some(Agreed { until, right, epoch, fresh: Confirmed { asked_at, index } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::scope::ScopeDigest;

    fn grant(grants: &mut Grants, voter: u64, asked_at: u64, epoch: u64, last: u64) {
        let epoch = Epoch::new(epoch);
        let said = Said {
            voter: NodeId::new(voter),
            asked_at: BootNanos::new(asked_at),
            right: 100,
            last: LogIndex::new(last),
            stance: Stance::Granted { epoch, scope: ScopeDigest::default() },
        };
        // Voter 3 grants a part of it.
        grants.add(BootNanos::new(asked_at + 50), Rules::default(), epoch, voter != 3, &said);
    }

    fn agreed(until: u64, epoch: u64, asked_at: u64, index: u64) -> Option<Agreed> {
        let fresh = Confirmed { asked_at: BootNanos::new(asked_at), index: LogIndex::new(index) };
        Some(Agreed { until: BootNanos::new(until), right: 100, epoch: Epoch::new(epoch), fresh })
    }

    #[test]
    fn a_right_is_timed_from_the_question_of_the_majority_that_lasts_longest() {
        let voters = VoterSets::new([[1, 2, 3].map(NodeId::new)]);
        let mut grants = Grants::default();
        grant(&mut grants, 1, 10, 4, 7);
        grant(&mut grants, 1, 20, 4, 7);
        assert_eq!(grants.agreed(&voters), None, "one voter twice is one voter");
        grant(&mut grants, 2, 15, 4, 9);
        assert_eq!(grants.agreed(&voters), agreed(115, 4, 15, 9));
        grant(&mut grants, 3, 30, 5, 8);
        assert_eq!(grants.agreed(&voters), agreed(120, 4, 20, 8), "one voter knows of epoch 5, a majority of 4");
        grant(&mut grants, 1, 40, 5, 8);
        assert_eq!(grants.agreed(&voters), agreed(130, 5, 30, 8));
        grant(&mut grants, 3, 12, 4, 8);
        assert_eq!(grants.agreed(&voters), agreed(130, 5, 30, 8), "late answers take nothing away");
        assert_eq!(grants.whole_until(&voters), Some(BootNanos::new(115)), "by voters 1 and 2");
    }
}
