//! Whether a lease is long enough for the machines that must renew it.
//!
//! An owner asks again a third into its right, and each tenth of it after that while no majority has answered: seven
//! questions, of which four in a row may be lost when answers take a fifth of the right. A thread that wakes late by as
//! much asks twice. What is later than that uses the reserve up in normal operation, and VIPs change hands for no reason.
//! Each node measures itself; a document that shortens the lease is held against the worst of those that answer now, and
//! the lease that is in force against them whenever somebody asks how the cluster is. A node that does not answer may be
//! the one that is short of its machine: it is named.
//!
//! What is compared is what all but one in a thousand of a minute's renewals (and at least one) stayed below: the
//! reserve is there for the outlier, and a figure that one outlier decides would refuse today what it took yesterday. A
//! lease that is not shortened is never refused: there is always a way to a longer one. Nor is one that was in force before
//! and that somebody goes back to, who has worse to mend: it is warned of.

use std::time::Duration;

use ballast_core::{
    config::{Cluster, Document, Span},
    lease::Timing,
};
use ballast_proto::admin::v1::{Mistake, NodeRole, NodeStatus, mistake::Severity};

use super::Shared;
use crate::access::Caller;

/// How long nodes may take to say how late they are; one that is slower is warned of.
const NODE_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest that a lease may be, by the document's own rules.
const LEASE_MAX_MS: u64 = 10_000;

/// How late a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lateness {
    node: String,
    what: &'static str,
    late: Duration,
}

impl Shared {
    /// What is wrong, and what is doubtful, with the lease of a document that is about to take the place of the one in force.
    pub(super) async fn lease_against_jitter(&self, caller: &Caller, document: &Document) -> Vec<Mistake> {
        let before =
            self.read(|state| state.document().map_or(Cluster::default().lease, |document| document.cluster.lease));
        let lease = document.cluster.lease;
        if lease >= before {
            return Vec::new();
        }
        let nodes = self.ask_nodes(None, NODE_TIMEOUT.min(caller.remaining())).await;
        let found = [too_short(lease, &nodes).map(|found| found.mistake()), unknown(lease, &nodes)];
        found.into_iter().flatten().collect()
    }
}

/// A lease that the nodes which answer cannot keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TooShort {
    problem: String,
    remedy: String,
}

impl TooShort {
    /// As a mistake of a document.
    fn mistake(self) -> Mistake {
        let Self { problem, remedy } = self;
        let severity = Severity::Error.into();
        Mistake { severity, path: "cluster.lease".to_owned(), problem, remedy, ..Mistake::default() }
    }

    /// As a sentence about the cluster.
    pub fn told(self) -> String {
        format!("cluster.lease: {}; {}", self.problem, self.remedy)
    }
}

/// Whether a lease is too short for one of the nodes that answer.
pub(super) fn too_short(lease: Span, nodes: &[NodeStatus]) -> Option<TooShort> {
    judge(lease, &worst(nodes)?)
}

/// Nodes that hold VIPs and do not say how late they are.
fn unknown(lease: Span, nodes: &[NodeStatus]) -> Option<Mistake> {
    let silent = nodes.iter().filter(|status| !status.reachable).filter_map(|status| status.node.as_ref());
    let silent: Vec<&str> =
        silent.filter(|node| node.role() != NodeRole::Witness).map(|node| node.name.as_str()).collect();
    (!silent.is_empty()).then(|| Mistake {
        severity: Severity::Warning.into(),
        path: "cluster.lease".to_owned(),
        problem: format!(
            "{} did not say in time how late its lease thread is: whether it keeps a lease of {lease} is not known, and a \
             node that is short of its machine answers late",
            silent.join(", ")
        ),
        remedy: "ballastctl cluster status says so once it answers and cannot keep the lease".to_owned(),
        ..Mistake::default()
    })
}

/// The node that is latest, and at what.
fn worst(nodes: &[NodeStatus]) -> Option<Lateness> {
    let figures = nodes.iter().filter(|status| status.reachable).flat_map(|status| {
        let name = status.node.as_ref().map_or_else(String::new, |node| node.name.clone());
        let late = |what, figure: Option<&prost_types::Duration>| {
            let late = figure.and_then(|figure| Duration::try_from(*figure).ok()).unwrap_or_default();
            Lateness { node: name.clone(), what, late }
        };
        [
            late("renews a lease in up to", status.lease_renew.as_ref()),
            late("wakes its lease thread late by up to", status.lease_wake_late.as_ref()),
        ]
    });
    figures.max_by_key(|figure| figure.late)
}

/// A fifth of the right that a lease gives.
fn bearable(lease: Span) -> Duration {
    Duration::from_nanos(Timing::takeover_within(lease.as_millis() * 1_000_000).right() / 5)
}

/// The shortest lease whose fifth of the right is so long.
fn shortest(late: Duration) -> Span {
    let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
    let mut lease = Span::from_millis(nanos.saturating_mul(5) / 81 * 110 / 1_000_000);
    while bearable(lease) < late {
        lease = Span::from_millis(lease.as_millis() + 1);
    }
    lease
}

fn judge(lease: Span, worst: &Lateness) -> Option<TooShort> {
    let bearable = bearable(lease);
    if bearable >= worst.late {
        return None;
    }
    let Lateness { node, what, late } = worst;
    let shortest = shortest(*late);
    let problem = format!(
        "{lease} is shorter than this cluster can keep: node {node} {what} {} (all but one in a thousand of the last \
         minute), and a lease of {lease} wants it within {}",
        millis(*late),
        millis(bearable)
    );
    let remedy = if shortest.as_millis() <= LEASE_MAX_MS {
        format!(
            "write {shortest} or longer, or give ballastd on {node} more of its machine (CAP_SYS_NICE, fewer neighbours)"
        )
    } else {
        format!("find out what keeps ballastd on {node} from running; no lease is long enough for that")
    };
    Some(TooShort { problem, remedy })
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use ballast_proto::admin::v1::Node;

    use super::*;

    fn status(name: &str, renew_us: u64, wake_late_us: u64) -> NodeStatus {
        let micros = |us| prost_types::Duration::try_from(Duration::from_micros(us)).ok();
        NodeStatus {
            node: Some(Node { name: name.to_owned(), ..Node::default() }),
            reachable: true,
            lease_renew: micros(renew_us),
            lease_wake_late: micros(wake_late_us),
            ..NodeStatus::default()
        }
    }

    #[test]
    fn a_quiet_machine_keeps_the_shortest_lease() {
        let quiet = worst(&[status("a", 900, 300), status("b", 7_000, 100)]).expect("figures");
        assert_eq!((quiet.node.as_str(), quiet.late), ("b", Duration::from_millis(7)));
        assert_eq!(judge(Span::from_millis(50), &quiet), None);
        assert_eq!(worst(&[]), None);
    }

    #[test]
    fn a_refusal_names_node_figure_and_the_shortest_lease_that_is_taken() {
        let late = worst(&[status("a", 900, 300), status("b", 2_000, 21_000)]).expect("figures");
        let mistake = judge(Span::from_millis(50), &late).expect("it is too short").mistake();
        assert_eq!(mistake.path, "cluster.lease");
        for said in ["50ms", "node b", "21.0 ms", "7.4 ms"] {
            assert!(mistake.problem.contains(said), "{said}: {}", mistake.problem);
        }
        assert!(mistake.remedy.contains("143ms"), "{}", mistake.remedy);
        assert_eq!(judge(Span::from_millis(143), &late), None);
        assert!(judge(Span::from_millis(142), &late).is_some());
    }

    #[test]
    fn a_node_that_does_not_answer_or_does_not_measure_decides_nothing() {
        let silent = NodeStatus { reachable: false, ..status("a", 900_000, 900_000) };
        let older = NodeStatus { lease_renew: None, lease_wake_late: None, ..status("b", 0, 0) };
        let found = worst(&[silent, older]).expect("figures");
        assert_eq!(found.late, Duration::ZERO);
    }

    #[test]
    fn a_node_that_does_not_answer_is_named_unless_it_is_a_witness() {
        let silent = |name: &str, role: NodeRole| {
            let node = Node { name: name.to_owned(), role: role.into(), ..Node::default() };
            NodeStatus { node: Some(node), reachable: false, ..NodeStatus::default() }
        };
        let lease = Span::from_millis(50);
        assert_eq!(unknown(lease, &[status("a", 900, 300), silent("w", NodeRole::Witness)]), None);
        let nodes = [status("a", 900, 300), silent("b", NodeRole::Full), silent("c", NodeRole::Full)];
        let warning = unknown(lease, &nodes).expect("they may be late");
        assert_eq!((warning.severity(), warning.path.as_str()), (Severity::Warning, "cluster.lease"));
        assert!(warning.problem.starts_with("b, c did not say in time"), "{}", warning.problem);
    }
}
