//! Whether what nodes say of themselves was heard to the end. Whoever fell silent may have done anything since.

use std::collections::BTreeSet;

use ballast_jepsen::{time::RunTime, verdict::Judgement};

use super::{name, seen_until};
use crate::watch::{Hashed, Sample};

/// Each node's last sample, but of those that nothing is expected of.
pub(super) fn nodes(
    mut judgement: Judgement,
    samples: &[Sample],
    nodes: usize,
    without: &BTreeSet<usize>,
    end: RunTime,
) -> Judgement {
    for node in (0..nodes).filter(|node| !without.contains(node)) {
        let last = samples.iter().filter(|sample| sample.node == node).map(|sample| sample.at).max();
        judgement = seen_until(end, judgement, &format!("sample of {}", name(node)), last);
    }
    judgement
}

/// The last hash of a state.
pub(super) fn hashes(judgement: Judgement, hashes: &[Hashed], end: RunTime) -> Judgement {
    seen_until(end, judgement, "hash of a state", hashes.iter().map(|hash| hash.at).max())
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::verdict::{Promise, Ruling};

    use super::*;

    #[test]
    fn a_node_that_fell_silent_leaves_it_undecided() {
        let at = |seconds: u64| RunTime::from_millis(seconds * 1000);
        let sample = |node, seconds| Sample { at: at(seconds), node, ..Sample::default() };
        let ruled = |samples: &[Sample], without: &[usize]| {
            let without = without.iter().copied().collect();
            nodes(Judgement::new(Promise::OnlyForward), samples, 2, &without, at(60)).ruling
        };
        assert_eq!(ruled(&[sample(0, 59), sample(1, 50)], &[]), Ruling::Held);
        assert_eq!(ruled(&[sample(0, 59), sample(1, 40)], &[]), Ruling::Undecided);
        assert_eq!(ruled(&[sample(0, 59)], &[]), Ruling::Undecided, "it never said anything");
        assert_eq!(ruled(&[sample(0, 59)], &[1]), Ruling::Held, "it has no place in the cluster");
        let hash = |seconds| Hashed { at: at(seconds), node: String::new(), index: 1, hash: String::new() };
        let ruled = |all: &[Hashed]| hashes(Judgement::new(Promise::ReplicasEqual), all, at(60)).ruling;
        let rulings = [ruled(&[hash(30), hash(50)]), ruled(&[hash(40)]), ruled(&[])];
        assert_eq!(rulings, [Ruling::Held, Ruling::Undecided, Ruling::Undecided]);
    }
}
