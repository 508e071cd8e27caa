//! Whether each node served when a calm had lasted for as long as service may take to come back.

use ballast_jepsen::{time::RunTime, verdict::Judgement};

use super::{BACK_WITHIN, TAIL, name};
use crate::{nemesis::Calm, site::VIP_NAME};

/// Who answered when: the position of a node, and of the VIP behind the last one.
pub(super) type Answer = (usize, RunTime);

/// Looks for an answer of each node that something is expected of, and of the VIP, in the end of each calm that is long enough.
pub(super) fn everywhere(
    mut judgement: Judgement,
    calms: &[Calm],
    nodes: usize,
    what: &str,
    answers: &[Answer],
) -> Judgement {
    if answers.is_empty() {
        judgement.undecided(format!("no answers of the {what} were observed"));
        return judgement;
    }
    let mut looked = 0;
    for calm in calms {
        let tail = calm.from.after(BACK_WITHIN)..=calm.until;
        if *tail.end() < tail.start().after(TAIL) {
            continue;
        }
        for through in (0..=nodes).filter(|node| !calm.without.contains(node)) {
            looked += 1;
            if !answers.iter().any(|(at, when)| *at == through && tail.contains(when)) {
                let who = if through == nodes { VIP_NAME.to_owned() } else { name(through) };
                judgement.violated(format!(
                    "nobody was served by the {what} through {who} from {} to {}",
                    tail.start(),
                    tail.end()
                ));
            }
        }
    }
    judgement.count(&format!("calms seen through at the {what} of a node or the VIP"), looked)
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::verdict::{Promise, Ruling};

    use super::*;

    #[test]
    fn each_node_and_the_vip_answer_in_the_end_of_a_calm() {
        let at = RunTime::from_millis;
        let calm =
            |without: &[usize]| Calm { from: at(0), until: at(6_000), without: without.iter().copied().collect() };
        let ruled = |calm: Calm, answers: &[Answer]| {
            everywhere(Judgement::new(Promise::ComesBack), &[calm], 2, "store", answers).ruling
        };
        let all = [(0, at(5_100)), (1, at(5_900)), (2, at(5_500))];
        assert_eq!(ruled(calm(&[]), &all), Ruling::Held);
        assert_eq!(ruled(calm(&[]), &[(0, at(5_100)), (1, at(4_900)), (2, at(5_500))]), Ruling::Violated);
        assert_eq!(ruled(calm(&[]), &all[..2]), Ruling::Violated, "the VIP");
        assert_eq!(ruled(calm(&[1]), &[all[0], all[2]]), Ruling::Held);
        assert_eq!(ruled(Calm { until: at(5_500), ..calm(&[]) }, &all[..1]), Ruling::Held, "it was too short");
        assert_eq!(ruled(calm(&[]), &[]), Ruling::Undecided, "nobody asked");
    }
}
