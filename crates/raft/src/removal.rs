//! A node that was removed while it was down finds out.
//!
//! A removed node that runs sees its removal in the log. One that was down gets no entry any more:
//! nobody replicates to it, and the others refuse its calls. So a node that is in touch with no
//! quorum asks the voters that it knows. A node that knows it as removed refuses in a way that no
//! other refusal has, over a connection that proves who answers, and once a majority of the voters
//! says so, this node must not go on.
//!
//! A majority, because one node that is wrong, or in wrong hands, must not stop another. A node
//! none of whose voters are left hears this from nobody; it serves no one either.
//!
//! Not here: that a running node sees its removal (`ballastd`), and whose calls are refused (`service`).

use std::{sync::Arc, time::Duration};

use ballast_core::ids::NodeId;
use ballast_proto::cluster::v1::{self as pb, leader_client::LeaderClient};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::{
    member::Shared,
    peers::{self, Traffic},
};

/// How often a node without a quorum asks. Far longer than an election; a removed node is in no hurry.
const ASK_EVERY: Duration = Duration::from_secs(3);

/// How long one voter may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// In the metadata of a refusal: the node that was removed.
const REMOVED: &str = "ballast-removed";

/// The refusal of a call of a node that was removed.
pub(crate) fn refusal(node: NodeId) -> Status {
    let mut status = Status::permission_denied(format!("node {node} was removed from the cluster"));
    status.metadata_mut().insert(REMOVED, peers::number(node));
    status
}

/// Whether a call of `node` was refused because it was removed.
fn says_removed(status: &Status, node: NodeId) -> bool {
    let named = status.metadata().get(REMOVED).and_then(|value| value.to_str().ok()?.parse().ok());
    status.code() == Code::PermissionDenied && named == Some(node.get())
}

/// Stops this member when the voters say that its node was removed.
pub(crate) async fn find_out(shared: Arc<Shared>) {
    loop {
        sleep(ASK_EVERY).await;
        let status = shared.status();
        if shared.has_quorum(&status) {
            continue;
        }
        let others = status.voters.iter().copied().filter(|voter| *voter != status.node);
        let told = join_all(others.map(|voter| ask(&shared, voter))).await;
        let told: Vec<NodeId> = told.into_iter().flatten().collect();
        if is_agreed(&status.voter_sets, &told) {
            shared.removed();
        }
    }
}

/// Asks a voter something of no consequence. Returns it if it refuses because this node was removed.
async fn ask(shared: &Shared, voter: NodeId) -> Option<NodeId> {
    let mut client = LeaderClient::new(shared.peers.channel(voter, Traffic::Leader));
    let request = shared.peers.request(voter, pb::CompareStateRequest { hashes: Vec::new() });
    let answer = timeout(ANSWER_MAX, client.compare_state(request)).await.ok()?;
    answer.is_err_and(|status| says_removed(&status, shared.replica.node())).then_some(voter)
}

/// Whether those who told are a majority of each set of voters.
fn is_agreed(voter_sets: &[Vec<NodeId>], told: &[NodeId]) -> bool {
    let most = |set: &Vec<NodeId>| set.iter().filter(|voter| told.contains(voter)).count() * 2 > set.len();
    !voter_sets.is_empty() && voter_sets.iter().all(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(voter_sets: &[&[u64]], told: &[u64]) -> bool {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId::new).collect::<Vec<_>>();
        let sets: Vec<_> = voter_sets.iter().map(|set| nodes(set)).collect();
        is_agreed(&sets, &nodes(told))
    }

    #[test]
    fn only_a_majority_of_each_set_of_voters_is_believed() {
        assert!(check(&[&[1, 2, 3]], &[1, 2]));
        assert!(!check(&[&[1, 2, 3]], &[1]));
        assert!(!check(&[&[1, 2, 3]], &[4, 5, 1]), "those who do not vote do not count");
        assert!(!check(&[&[1, 2]], &[1]));
        assert!(check(&[&[1, 2, 3], &[1, 2, 4]], &[1, 2]));
        assert!(!check(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2]));
        assert!(!check(&[], &[]), "a node that knows of no voters was not removed by any");
        assert!(!check(&[&[]], &[]));
    }

    #[test]
    fn no_other_refusal_is_taken_for_a_removal() {
        let node = NodeId::new(7);
        assert!(says_removed(&refusal(node), node));
        assert!(!says_removed(&refusal(NodeId::new(8)), node), "it is about another node");
        assert!(!says_removed(&Status::permission_denied("node 7 was removed from the cluster"), node));
    }
}
