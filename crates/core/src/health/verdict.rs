//! From the nodes' findings to the cluster's verdict.

use crate::{config::VerdictPolicy, plan::Verdict};

/// The verdict of the cluster on one backend.
///
/// `findings` are the last findings of the members that have one, one each. Pure and integer, because the replicated
/// state depends on it.
///
/// - `majority`: down when more of them say so than say up. A node without a finding has no vote, so that a backend
///   that few nodes check can go down; the findings of a node that is [silent](super::silent) lapse.
/// - `any`: down when one node says so.
/// - `local`: each node serves by its own finding; bindings, which all nodes must move alike, go by the majority's.
///
/// Without any finding it is unknown, and what is not down is up.
pub fn verdict(policy: VerdictPolicy, findings: impl Iterator<Item = Verdict>) -> Verdict {
    let (mut up, mut down) = (0_usize, 0_usize);
    for finding in findings {
        match finding {
            Verdict::Up => up += 1,
            Verdict::Down => down += 1,
            Verdict::Unknown => {}
        }
    }
    let is_down = match policy {
        VerdictPolicy::Any => down > 0,
        VerdictPolicy::Majority | VerdictPolicy::Local => down > up,
    };
    match (up + down, is_down) {
        (0, _) => Verdict::Unknown,
        (_, true) => Verdict::Down,
        (_, false) => Verdict::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: VerdictPolicy, findings: &str, expected: Verdict) {
        let all = findings.chars().map(|finding| match finding {
            'u' => Verdict::Up,
            'd' => Verdict::Down,
            _ => Verdict::Unknown,
        });
        assert_eq!(verdict(policy, all), expected, "{policy:?} of {findings:?}");
    }

    #[test]
    fn most_of_those_that_have_a_finding_decide() {
        for policy in [VerdictPolicy::Majority, VerdictPolicy::Local] {
            check(policy, "", Verdict::Unknown);
            check(policy, "??", Verdict::Unknown);
            check(policy, "u", Verdict::Up);
            check(policy, "d", Verdict::Down);
            check(policy, "du", Verdict::Up);
            check(policy, "ddu", Verdict::Down);
            check(policy, "??d", Verdict::Down);
            check(policy, "ddd?uuu", Verdict::Up);
        }
    }

    #[test]
    fn any_finding_of_down_is_enough_for_any() {
        check(VerdictPolicy::Any, "uud", Verdict::Down);
        check(VerdictPolicy::Any, "u??", Verdict::Up);
        check(VerdictPolicy::Any, "???", Verdict::Unknown);
    }
}
