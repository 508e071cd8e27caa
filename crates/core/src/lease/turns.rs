//! Which voters a round asks.
//!
//! A right needs a majority, and asking one costs less than asking all: of nine nodes with two hundred VIPs each voter hears some
//! three fifths as much. So while all goes well a round asks a majority, the voters taking turns, so that each hears of every node in
//! one round of two. The first round that is not answered, and those that follow it for a while, ask all: what a
//! majority of all would have granted is late by one repetition ([`Timing::retry`]), of which a right has room for seven.
//!
//! Not here: what is asked ([`super::engine`]); what else makes a round one for all (the same).
//!
//! [`Timing::retry`]: super::timing::Timing::retry

use super::voters::VoterSets;
use crate::ids::NodeId;

/// For so many rounds all are asked after one that was not answered: 0.4 s with the default lease. Of five voters one misses one round
/// in five when a twentieth of the datagrams is lost, so that most rounds ask all.
const ALL_ROUNDS: u32 = 8;

/// Whose turn it is to be asked.
#[derive(Default)]
pub(super) struct Turns {
    /// The last round was answered.
    answered: bool,
    /// How many more rounds ask all.
    all_for: u32,
    /// How many voters were asked before.
    next: usize,
}

impl Turns {
    /// A round begins. Whether a majority is enough, for all that is known here.
    pub(super) fn begin(&mut self) -> bool {
        let answered = std::mem::replace(&mut self.answered, false);
        self.all_for = if answered { self.all_for.saturating_sub(1) } else { ALL_ROUNDS };
        self.all_for == 0
    }

    /// The round has done what it was for.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// What is asked for is not what it was.
    pub(super) fn ask_all(&mut self) {
        self.all_for = ALL_ROUNDS;
    }

    /// Those whose turn it is: `me`, if it is a voter, and others of which `near` holds, as many as it takes for a majority of each
    /// set. Nothing if these are no majority.
    pub(super) fn majority(
        &mut self,
        sets: &VoterSets,
        me: NodeId,
        near: impl Fn(NodeId) -> bool,
    ) -> Option<Vec<NodeId>> {
        let others: Vec<NodeId> = sets.members().into_iter().filter(|voter| *voter != me && near(*voter)).collect();
        let first = self.next.checked_rem(others.len()).unwrap_or(0);
        let mut asked = if sets.has(me) { vec![me] } else { Vec::new() };
        let by_turn = others[first..].iter().chain(&others[..first]).copied();
        for voter in by_turn {
            if sets.quorum(|voter| asked.contains(&voter)) {
                break;
            }
            asked.push(voter);
            self.next = self.next.wrapping_add(1);
        }
        sets.quorum(|voter| asked.contains(&voter)).then_some(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(sets: &[&[u64]]) -> VoterSets {
        VoterSets::new(sets.iter().map(|set| set.iter().copied().map(NodeId::new)))
    }

    fn asked(turns: &mut Turns, sets: &VoterSets, me: u64, far: &[u64]) -> Option<Vec<u64>> {
        let asked = turns.majority(sets, NodeId::new(me), |voter| !far.contains(&voter.get()))?;
        Some(asked.into_iter().map(NodeId::get).collect())
    }

    #[test]
    fn all_are_asked_until_rounds_have_been_answered_for_a_while() {
        let mut turns = Turns::default();
        let mut begins = |answered: bool| {
            let enough = turns.begin();
            if answered {
                turns.answered();
            }
            enough
        };
        let until_enough = |begins: &mut dyn FnMut(bool) -> bool| (1..1000).find(|_| begins(true));
        let after_a_start = until_enough(&mut begins);
        assert_eq!(after_a_start, Some(ALL_ROUNDS + 1));
        assert!(begins(false), "the one before was answered");
        assert_eq!(until_enough(&mut begins), after_a_start, "as after a start");
        assert!(begins(true));
        turns.ask_all();
        assert!(!turns.begin());
    }

    #[test]
    fn each_voter_is_asked_in_one_round_of_two_and_no_more_than_it_takes() {
        for voters in 1..=9_u64 {
            let all: Vec<u64> = (1..=voters).collect();
            for me in [1, 100] {
                let (sets, mut turns) = (sets(&[&all]), Turns::default());
                let mut before: Vec<u64> = all.clone();
                for _ in 0..20 {
                    let now = asked(&mut turns, &sets, me, &[]).expect("all are near");
                    assert_eq!(now.len() as u64, voters / 2 + 1);
                    assert!(
                        all.iter().all(|voter| before.contains(voter) || now.contains(voter)),
                        "{before:?} {now:?}"
                    );
                    assert_eq!(now.contains(&me), me == 1);
                    before = now;
                }
            }
        }
    }

    #[test]
    fn who_is_not_heard_is_not_counted_on() {
        let (five, mut turns) = (sets(&[&[1, 2, 3, 4, 5]]), Turns::default());
        for _ in 0..5 {
            let asked = asked(&mut turns, &five, 1, &[3]).expect("four are near");
            assert!(asked.len() == 3 && !asked.contains(&3), "{asked:?}");
        }
        assert_eq!(asked(&mut turns, &five, 1, &[2, 3]), Some(vec![1, 4, 5]), "no more than it takes");
        assert_eq!(asked(&mut turns, &five, 1, &[2, 3, 4]), None, "a minority");
    }

    #[test]
    fn a_majority_of_each_set_is_asked() {
        let (joint, mut turns) = (sets(&[&[1, 2, 3], &[3, 4, 5]]), Turns::default());
        for _ in 0..5 {
            let asked = asked(&mut turns, &joint, 9, &[]).expect("all are near");
            assert!(joint.quorum(|voter| asked.contains(&voter.get())), "{asked:?}");
        }
        assert_eq!(asked(&mut turns, &sets(&[]), 1, &[]), None, "no voters, no majority");
    }
}
