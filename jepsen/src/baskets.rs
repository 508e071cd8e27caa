//! What was acknowledged to a buyer stays in its basket.
//!
//! A buyer does one thing at a time, and baskets only grow: whatever an answer tells, each later answer tells at least as much,
//! and one more if something was bought. It may tell more: what was not acknowledged may have been bought as well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::Span;
use crate::verdict::Judgement;

/// An answer that a buyer got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The buyer's session.
    pub session: String,
    /// Whether it bought something, or only looked.
    pub bought: bool,
    /// How much is in the basket.
    pub basket: u64,
    /// Where it was told, for people.
    pub by: String,
    /// When it asked and was told.
    pub span: Span,
}

/// Adds to a judgement what baskets lost.
pub fn judge(judgement: Judgement, told: &[Told]) -> Judgement {
    let mut buyers: BTreeMap<&str, Vec<&Told>> = BTreeMap::new();
    told.iter().for_each(|told| buyers.entry(&told.session).or_default().push(told));
    let bought = told.iter().filter(|told| told.bought).count();
    let mut judgement = judgement.looked_at("items bought", bought).count("baskets", buyers.len());
    for (session, mut answers) in buyers {
        answers.sort_by_key(|told| told.span);
        let mut least = 0;
        for Told { bought, basket, by, span, .. } in answers {
            let wanted = least + u64::from(*bought);
            if *basket < wanted {
                judgement
                    .violated(format!("{span}: {by} says that basket {session} holds {basket}, not at least {wanted}"));
            }
            least = wanted.max(*basket);
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::RunTime;
    use crate::verdict::{Promise, Ruling};

    fn told(at: u64, session: &str, bought: bool, basket: u64) -> Told {
        let span = Span::new(RunTime::from_millis(at), RunTime::from_millis(at + 1));
        Told { session: session.to_owned(), bought, basket, by: String::from("web1"), span }
    }

    fn ruled(told: &[Told]) -> Ruling {
        judge(Judgement::new(Promise::Durable), told).ruling
    }

    #[test]
    fn baskets_that_grow_are_well() {
        let grows = [told(0, "a", true, 1), told(2, "b", true, 1), told(4, "a", true, 2), told(6, "a", false, 2)];
        assert_eq!(ruled(&grows), Ruling::Held);
        // A purchase of which the buyer was not told.
        assert_eq!(ruled(&[told(0, "a", true, 1), told(2, "a", false, 2), told(4, "a", true, 5)]), Ruling::Held);
    }

    #[test]
    fn what_a_basket_lost_is_found() {
        assert_eq!(ruled(&[told(0, "a", true, 1), told(2, "a", false, 0)]), Ruling::Violated);
        assert_eq!(ruled(&[told(0, "a", true, 1), told(2, "a", true, 1)]), Ruling::Violated);
        // Whatever the order in which it was written down.
        assert_eq!(ruled(&[told(4, "a", false, 1), told(0, "a", true, 2)]), Ruling::Violated);
    }

    #[test]
    fn baskets_that_nothing_was_put_into_show_nothing() {
        assert_eq!(ruled(&[told(0, "a", false, 0)]), Ruling::Undecided);
        assert_eq!(ruled(&[]), Ruling::Undecided);
    }

    #[test]
    fn once_told_each_loss_is_told_once() {
        let lost = [told(0, "a", true, 3), told(2, "a", false, 1), told(4, "a", true, 4)];
        let judgement = judge(Judgement::new(Promise::Durable), &lost);
        assert_eq!((judgement.ruling, judgement.findings.len()), (Ruling::Violated, 1));
    }
}
