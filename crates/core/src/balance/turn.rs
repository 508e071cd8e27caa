//! Taking turns in proportion to weight, evenly interleaved.
//!
//! The algorithm is nginx's smooth weighted round robin: each candidate gains its weight, the
//! richest is picked and pays what all gained. Over as many picks as the weights sum up to, each
//! candidate is picked exactly as often as its weight says, and never in bursts: 5:1:1 gives
//! `aabacaa`, not `aaaaabc`. With equal weights it is plain round robin.

/// What one candidate has saved up. Stays within the sum of all weights either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    credit: i64,
}

impl Turn {
    /// Lets a new candidate be first among equals.
    pub fn prefer(&mut self) {
        self.credit += 1;
    }
}

/// Picks whose turn it is; `None` when no candidate has weight. Those without weight keep what they have.
///
/// `total` is the sum of the candidates' weights. Credit saved up under greater weights is cut to it: otherwise
/// a candidate could be owed more turns than the new weights give away in a long time.
pub(super) fn next<'t>(total: u64, candidates: impl Iterator<Item = (&'t mut Turn, u64)>) -> Option<usize> {
    let total = i64::try_from(total).unwrap_or(i64::MAX);
    let mut richest: Option<(usize, &'t mut Turn)> = None;
    for (index, (turn, weight)) in candidates.enumerate() {
        if weight == 0 {
            continue;
        }
        let weight = i64::try_from(weight).unwrap_or(i64::MAX >> 16);
        turn.credit = turn.credit.clamp(-total, total).saturating_add(weight);
        if richest.as_ref().is_none_or(|(_, best)| turn.credit > best.credit) {
            richest = Some((index, turn));
        }
    }
    richest.map(|(index, turn)| {
        turn.credit = turn.credit.saturating_sub(total);
        index
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(weights: &[u64], picks: usize) -> Vec<usize> {
        let mut turns = vec![Turn::default(); weights.len()];
        go_on(&mut turns, weights, picks)
    }

    fn go_on(turns: &mut [Turn], weights: &[u64], picks: usize) -> Vec<usize> {
        let total = weights.iter().sum();
        (0..picks).filter_map(|_| next(total, turns.iter_mut().zip(weights.iter().copied()))).collect()
    }

    #[test]
    fn turns_are_interleaved() {
        assert_eq!(run(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(run(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(run(&[0, 3, 0], 2), [1, 1]);
        assert!(run(&[0, 0], 2).is_empty());
    }

    #[test]
    fn credit_from_greater_weights_is_no_claim_on_smaller_ones() {
        let mut turns = vec![Turn::default(); 2];
        assert_eq!(go_on(&mut turns, &[100_000, 100_000], 1), [0]);
        assert_eq!(go_on(&mut turns, &[2, 1], 6), [1, 1, 0, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn each_gets_exactly_its_weight_in_every_round(weights in prop::collection::vec(0..40_u64, 1..8)) {
            let total: u64 = weights.iter().sum();
            let total = usize::try_from(total).expect("small");
            let picks = run(&weights, 3 * total);
            for round in picks.chunks(total.max(1)) {
                for (index, weight) in weights.iter().enumerate() {
                    prop_assert_eq!(round.iter().filter(|picked| **picked == index).count() as u64, *weight);
                }
            }
        }
    }
}
