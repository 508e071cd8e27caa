//! What people are told when consensus does not go on: one plain sentence, what happened and what
//! to do. openraft's own texts are for its developers, and go to the debug log.

use std::error::Error;

use ballast_core::ids::NodeId;
use openraft::errors::{Fatal, RaftError};

use crate::{
    status::{Role, Status},
    types::Types,
};

/// Why nothing can be agreed on just now, as far as a node with this status knows. `reached` says which
/// other nodes answered it lately, if it leads.
pub(crate) fn no_quorum(status: &Status, reached: impl Fn(NodeId) -> bool) -> String {
    let node = status.node;
    match (status.role, status.leader) {
        (Role::Stopped, _) => stopped(),
        (Role::Leader, _) => lost_majority(status, reached),
        (_, Some(leader)) if leader != node => unreachable_leader(node, leader),
        _ if status.voters.is_empty() => {
            format!("node {node} has not heard from the cluster since it started; see that it reaches the other nodes")
        }
        _ => {
            let voters = &status.voters;
            format!(
                "node {node} knows no leader: an election is under way, or fewer than {} of the {} voters ({}) reach \
                 each other in time; bring them back, mend the network between them, or see in their logs whose disk is \
                 too slow for votes",
                voters.len() / 2 + 1,
                voters.len(),
                list(voters)
            )
        }
    }
}

fn lost_majority(status: &Status, reached: impl Fn(NodeId) -> bool) -> String {
    let node = status.node;
    let (here, missing): (Vec<NodeId>, Vec<NodeId>) =
        status.voters.iter().copied().partition(|voter| *voter == node || reached(*voter));
    if missing.is_empty() {
        return format!("node {node} leads and reaches all {} voters, but they did not answer in time", here.len());
    }
    let (all, here) = (status.voters.len(), here.len());
    let so = if 2 * here > all { "does not hear from all" } else { "has lost its majority" };
    format!(
        "node {node} leads but {so}: it reaches {here} of {all} voters, not {}; bring them back or mend the network \
         between them",
        nodes(&missing)
    )
}

/// The leader cannot be asked.
pub(crate) fn unreachable_leader(node: NodeId, leader: NodeId) -> String {
    format!(
        "node {leader} leads, but node {node} gets no answer from it; see that it runs and can be reached from here"
    )
}

/// Whoever was taken for the leader is not.
pub(crate) fn not_leader(node: NodeId) -> String {
    format!("node {node} does not lead any more; try again once a leader is elected")
}

/// The member does not run.
pub(crate) fn stopped() -> String {
    "this node takes no part in the cluster any more; its log says why it stopped".to_owned()
}

/// Why consensus ended here.
pub(crate) fn fatal(error: &Fatal<Types>) -> String {
    match error {
        Fatal::StorageError(error) => match error.source() {
            Some(source) => without_type(&source.to_string()).to_owned(),
            None => error.to_string(),
        },
        Fatal::Panicked => "consensus panicked".to_owned(),
        Fatal::Stopped => "consensus ended".to_owned(),
    }
}

/// Why a request to this node's own consensus failed for good.
pub(crate) fn fatal_of<E: Error>(error: &RaftError<Types, E>) -> String {
    match error {
        RaftError::Fatal(error) => fatal(error),
        RaftError::APIError(error) => error.to_string(),
    }
}

/// openraft puts the Rust type of an error before its text.
fn without_type(text: &str) -> &str {
    match text.split_once(": ") {
        Some((before, rest)) if before.contains("::") && !before.contains(' ') => rest,
        _ => text,
    }
}

fn nodes(which: &[NodeId]) -> String {
    let word = if which.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}", list(which))
}

fn list(which: &[NodeId]) -> String {
    let names: Vec<String> = which.iter().map(ToString::to_string).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(role: Role, leader: Option<u64>, voters: &[u64]) -> Status {
        Status {
            node: NodeId::new(1),
            role,
            leader: leader.map(NodeId::new),
            voters: voters.iter().copied().map(NodeId::new).collect(),
            ..Status::default()
        }
    }

    #[test]
    fn each_cause_is_one_plain_sentence_with_a_remedy() {
        let alone = no_quorum(&status(Role::Leader, Some(1), &[1, 4, 6]), |_| false);
        assert_eq!(
            alone,
            "node 1 leads but has lost its majority: it reaches 1 of 3 voters, not nodes 4 and 6; bring them back or \
             mend the network between them"
        );
        let one_left = no_quorum(&status(Role::Leader, Some(1), &[1, 4, 6]), |node| node.get() == 4);
        assert!(one_left.contains("it reaches 2 of 3 voters, not node 6;"), "{one_left}");
        let slow = no_quorum(&status(Role::Leader, Some(1), &[1, 4]), |_| true);
        assert_eq!(slow, "node 1 leads and reaches all 2 voters, but they did not answer in time");
        let none = no_quorum(&status(Role::Follower, None, &[1, 4, 6]), |_| true);
        assert_eq!(
            none,
            "node 1 knows no leader: an election is under way, or fewer than 2 of the 3 voters (1, 4 and 6) reach \
             each other in time; bring them back, mend the network between them, or see in their logs whose disk is \
             too slow for votes"
        );
        let unreachable = no_quorum(&status(Role::Follower, Some(4), &[1, 4, 6]), |_| true);
        assert_eq!(
            unreachable,
            "node 4 leads, but node 1 gets no answer from it; see that it runs and can be reached from here"
        );
        let new = no_quorum(&status(Role::Starting, None, &[]), |_| true);
        assert!(new.contains("has not heard from the cluster"), "{new}");
        assert_eq!(no_quorum(&status(Role::Stopped, None, &[1]), |_| true), stopped());
    }

    #[test]
    fn what_the_disk_said_is_told_without_the_types_it_came_in() {
        use openraft::{ErrorSubject, ErrorVerb, StorageError};
        let full = std::io::Error::other("No space left on device (os error 28)");
        let error = StorageError::from_io_error(ErrorSubject::Logs, ErrorVerb::Write, full);
        assert_eq!(fatal(&Fatal::StorageError(error)), "No space left on device (os error 28)");
        assert_eq!(without_type("the log at 7: damaged"), "the log at 7: damaged");
    }
}
