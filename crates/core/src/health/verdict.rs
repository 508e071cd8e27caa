//! From the nodes' findings to the cluster's verdict.

use crate::{config::VerdictPolicy, plan::Verdict};

/// The verdict of the cluster on one backend.
///
/// `reports` are the last findings of the nodes that check it, one each; `nodes_total` says how many
/// nodes there are that should. Pure and integer, because the replicated state depends on it.
///
/// - `majority`: down when more than half of all nodes say so. Nodes that have not reported do not
///   count as down, so a cluster that is half gone does not take its backends with it.
/// - `any`: down when one node says so.
/// - `local`: always unknown; each node goes by its own finding, and the log has no opinion.
///
/// What is not down is up as soon as one node says so.
pub fn verdict(policy: VerdictPolicy, reports: impl Iterator<Item = Verdict>, nodes_total: usize) -> Verdict {
    let (mut up, mut down) = (0_usize, 0_usize);
    for report in reports {
        match report {
            Verdict::Up => up += 1,
            Verdict::Down => down += 1,
            Verdict::Unknown => {}
        }
    }
    let is_down = match policy {
        VerdictPolicy::Majority => down > nodes_total / 2,
        VerdictPolicy::Any => down > 0,
        VerdictPolicy::Local => return Verdict::Unknown,
    };
    match (is_down, up) {
        (true, _) => Verdict::Down,
        (false, 0) => Verdict::Unknown,
        (false, _) => Verdict::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: VerdictPolicy, reports: &str, nodes_total: usize, expected: Verdict) {
        let reports = reports.chars().map(|report| match report {
            'u' => Verdict::Up,
            'd' => Verdict::Down,
            _ => Verdict::Unknown,
        });
        assert_eq!(verdict(policy, reports, nodes_total), expected);
    }

    #[test]
    fn majority_of_all_nodes() {
        use VerdictPolicy::Majority;
        check(Majority, "", 3, Verdict::Unknown);
        check(Majority, "u", 3, Verdict::Up);
        check(Majority, "d", 3, Verdict::Unknown);
        check(Majority, "du", 2, Verdict::Up);
        check(Majority, "dd", 2, Verdict::Down);
        check(Majority, "ddu", 3, Verdict::Down);
        check(Majority, "dd", 4, Verdict::Unknown);
        check(Majority, "d", 1, Verdict::Down);
        check(Majority, "??d", 3, Verdict::Unknown);
    }

    #[test]
    fn any_and_local() {
        check(VerdictPolicy::Any, "uud", 3, Verdict::Down);
        check(VerdictPolicy::Any, "u??", 3, Verdict::Up);
        check(VerdictPolicy::Any, "???", 3, Verdict::Unknown);
        check(VerdictPolicy::Local, "ddd", 3, Verdict::Unknown);
    }
}
