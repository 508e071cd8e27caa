//! What voters granted to one claim, and how far a majority of it reaches.

use super::{
    datagram::Stance,
    rules::{Rule, Rules},
    view::Confirmed,
    voters::VoterSets,
};
use crate::{
    ids::{LogIndex, NodeId},
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
    until: BootNanos,
    last: LogIndex,
}

impl Grants {
    /// Takes in a grant that came at `now`. A voter counts once, by its newest.
    pub(super) fn add(&mut self, now: BootNanos, rules: Rules, said: &Said) {
        let from = if rules.keep(Rule::TimedFromAsking) { said.asked_at } else { now };
        let grant = Grant { voter: said.voter, asked_at: said.asked_at, until: from.plus(said.right), last: said.last };
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

    /// Until when a majority of every set granted it, and what that majority told of the log.
    pub(super) fn agreed(&self, sets: &VoterSets) -> Option<(BootNanos, Confirmed)> {
        let times: Vec<(NodeId, BootNanos)> = self.0.iter().map(|g| (g.voter, g.until)).collect();
        let until = sets.reached(&times)?;
        let counted = || self.0.iter().filter(|g| g.until >= until);
        let asked_at = counted().map(|g| g.asked_at).min()?;
        let index = counted().map(|g| g.last).max()?;
        Some((until, Confirmed { asked_at, index }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Epoch;

    fn grant(grants: &mut Grants, voter: u64, asked_at: u64, last: u64) {
        let said = Said {
            voter: NodeId::new(voter),
            asked_at: BootNanos::new(asked_at),
            right: 100,
            last: LogIndex::new(last),
            stance: Stance::Granted { epoch: Epoch::new(1) },
        };
        grants.add(BootNanos::new(asked_at + 50), Rules::default(), &said);
    }

    #[test]
    fn a_right_is_timed_from_the_question_of_the_majority_that_lasts_longest() {
        let voters = VoterSets::new([[1, 2, 3].map(NodeId::new)]);
        let mut grants = Grants::default();
        grant(&mut grants, 1, 10, 7);
        grant(&mut grants, 1, 20, 7);
        assert_eq!(grants.agreed(&voters), None, "one voter twice is one voter");
        grant(&mut grants, 2, 15, 9);
        let fresh = Confirmed { asked_at: BootNanos::new(15), index: LogIndex::new(9) };
        assert_eq!(grants.agreed(&voters), Some((BootNanos::new(115), fresh)));
        grant(&mut grants, 3, 30, 8);
        let fresh = Confirmed { asked_at: BootNanos::new(20), index: LogIndex::new(8) };
        assert_eq!(grants.agreed(&voters), Some((BootNanos::new(120), fresh)));
        grant(&mut grants, 3, 12, 8);
        assert_eq!(grants.agreed(&voters).map(|(until, _)| until.get()), Some(120), "late answers take nothing away");
    }
}
