//! Decides the next change of the Raft membership, one at a time.
//!
//! The agreed state says which nodes there are and what the operator wants of them; the policy
//! says how many vote. Everything else is a learner: it has the whole state and serves traffic.
//!
//! The number of voters is kept odd while it grows: with two voters the loss of either stops the
//! cluster, with one and a learner only the loss of the one. A voter that is gone is replaced only
//! by a learner that is there and has the log; until there is one it keeps its vote, because taking
//! it away would not bring a quorum nearer and its return would.
//!
//! To be there is to answer and to take entries: a node whose disk hangs does the one and not the other.
//!
//! Not here: asking openraft (`reconcile`), who takes entries (`taking`), enrolling and removing nodes
//! (`ballast_core::state`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ballast_core::{
    ids::NodeId,
    state::{NodeAdmin, NodeRole},
};

/// What is known of a node that is in the agreed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) role: NodeRole,
    pub(crate) admin: NodeAdmin,
    /// How long the leader has not heard from it; zero for the leader. A node that it has not heard from yet was silent
    /// for as long as it leads; a learner, for ever.
    pub(crate) silent_for: Duration,
    /// It answered this leader at least once, or is the leader.
    pub(crate) heard: bool,
    /// It has nearly all of the leader's log.
    pub(crate) caught_up: bool,
    /// It has all on disk that the log had a moment ago. False of everybody while nothing is known of that.
    pub(crate) takes: bool,
    /// For how long its disk has taken nothing although there was something to take.
    pub(crate) stuck_for: Duration,
}

/// All that the decision depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Nodes of the agreed state.
    pub(crate) nodes: BTreeMap<NodeId, NodeFacts>,
    /// Voters of the membership; of the newer set while a change is in progress.
    pub(crate) voters: BTreeSet<NodeId>,
    /// Members that do not vote.
    pub(crate) learners: BTreeSet<NodeId>,
    /// A change of voters was begun and not ended.
    pub(crate) joint: bool,
    pub(crate) leader: NodeId,
    /// Policy: voters wanted.
    pub(crate) voters_wanted: usize,
    /// Policy: how long a voter may be silent, or take nothing.
    pub(crate) replace_voter_after: Duration,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// End a change that somebody else began: only these vote.
    FinishVoters(BTreeSet<NodeId>),
    /// Send this node the log.
    AddLearner(NodeId),
    /// Stop sending this node the log.
    RemoveLearner(NodeId),
    /// From now on these vote.
    SetVoters {
        /// All voters after the change.
        voters: BTreeSet<NodeId>,
        /// Why, for the operator.
        because: Reason,
    },
}

/// Why the voters change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Grow,
    Removed(NodeId),
    Demoted(NodeId),
    Silent(NodeId),
    Stuck(NodeId),
    TooMany(NodeId),
    Promoted(NodeId),
}

/// Silent for longer than this, a node is the first to lose its vote when one must, and is not counted on when another loses
/// his: that can wait. Ten heartbeats and more.
const REACHABLE_WITHIN: Duration = Duration::from_secs(2);

/// Silent for longer than this, a node is not made a voter. Heartbeats of a machine that has too much to do are late one after
/// the other.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// The next step, or none if all is as it should be (or cannot be made better now).
pub(crate) fn next_change(facts: &Facts) -> Option<Change> {
    if facts.joint {
        return Some(Change::FinishVoters(facts.voters.clone()));
    }
    let missing = facts.nodes.keys().find(|node| !facts.voters.contains(node) && !facts.learners.contains(node));
    if let Some(node) = missing {
        return Some(Change::AddLearner(*node));
    }
    if let Some(gone) = facts.learners.iter().find(|node| !facts.nodes.contains_key(node)) {
        return Some(Change::RemoveLearner(*gone));
    }
    change_voters(facts)
}

fn change_voters(facts: &Facts) -> Option<Change> {
    let candidates = candidates(facts);
    let best = candidates.first().copied();
    let without_all = |leave: &[NodeId], because: Reason| {
        let mut voters = facts.voters.clone();
        voters.retain(|voter| !leave.contains(voter));
        let room = facts.voters_wanted.saturating_sub(voters.len()).min(leave.len());
        voters.extend(candidates.iter().take(room));
        (!voters.is_empty() && can_decide(facts, &voters)).then_some(Change::SetVoters { voters, because })
    };
    let without = |node: NodeId, because: Reason| without_all(&[node], because);

    // All at once. They are not counted on, so that of two that go one after the other each would keep its vote for want of
    // the other; and they end soon, after which nothing can be decided without them.
    let removed: Vec<NodeId> = facts.voters.iter().filter(|node| !facts.nodes.contains_key(node)).copied().collect();
    if let Some(change) = removed.first().and_then(|node| without_all(&removed, Reason::Removed(*node))) {
        return Some(change);
    }
    let of = |node: &NodeId| facts.nodes.get(node);
    let demoted = facts.voters.iter().find(|node| of(node).is_some_and(|facts| facts.admin == NodeAdmin::Demoted));
    if let Some(change) = demoted.and_then(|node| without(*node, Reason::Demoted(*node))) {
        return Some(change);
    }
    if facts.voters.len() > facts.voters_wanted {
        let node = least_wanted(facts)?;
        return without(node, Reason::TooMany(node));
    }
    let lost = facts.voters.iter().find_map(|id| {
        let node = of(id)?;
        let too_long = |lasting: Duration| lasting > facts.replace_voter_after;
        let because = if too_long(node.silent_for) { Reason::Silent(*id) } else { Reason::Stuck(*id) };
        too_long(node.silent_for.max(node.stuck_for)).then_some((*id, because))
    });
    if let (Some((node, because)), Some(_)) = (lost, best) {
        return without(node, because);
    }
    if let Some(voters) = grown(facts, &candidates) {
        return Some(Change::SetVoters { voters, because: Reason::Grow });
    }
    let promoted = best.filter(|node| of(node).is_some_and(|facts| facts.admin == NodeAdmin::Promoted))?;
    let leaves = least_wanted(facts).filter(|node| {
        facts.voters.len() >= facts.voters_wanted && of(node).is_some_and(|facts| facts.admin != NodeAdmin::Promoted)
    })?;
    without(leaves, Reason::Promoted(promoted))
}

/// Whether a majority of `voters` answers and takes entries. Without one nothing could be decided any more, and no change
/// undone: a change needs both majorities from the moment that it is in the log.
fn can_decide(facts: &Facts, voters: &BTreeSet<NodeId>) -> bool {
    // A new leader has not missed anybody for long yet: whoever died before it led would seem to answer.
    let counts = |node: &NodeFacts| node.heard && node.silent_for <= REACHABLE_WITHIN && node.takes;
    let counts = |voter: &&NodeId| facts.nodes.get(voter).is_some_and(counts);
    voters.iter().filter(counts).count() * 2 > voters.len()
}

/// Whether a node may get a vote that it has not. One that is drained keeps what it has and gets none: it is about to be
/// stopped, or to be removed after it was demoted.
fn may_get_vote(node: &NodeFacts) -> bool {
    match node.admin {
        NodeAdmin::Ready | NodeAdmin::Promoted => true,
        NodeAdmin::Drain | NodeAdmin::Demoted => false,
    }
}

/// Learners that may vote, best first: those the operator promoted, then witnesses (they are for
/// nothing else), then the oldest.
fn candidates(facts: &Facts) -> Vec<NodeId> {
    let mut found: Vec<_> = facts
        .learners
        .iter()
        .filter_map(|id| Some((*id, facts.nodes.get(id)?)))
        .filter(|(_, node)| may_get_vote(node) && node.caught_up && node.takes && node.silent_for <= TAKEN_WITHIN)
        .map(|(id, node)| (node.admin != NodeAdmin::Promoted, node.role != NodeRole::Witness, id))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, _, id)| id).collect()
}

/// Why the voters are not those that are wanted, for the operator; `None` if they are as good as they can be.
pub(crate) fn wanting(facts: &Facts) -> Option<String> {
    let candidates = candidates(facts);
    let leaves = |node: &&NodeId| facts.nodes.get(node).is_none_or(|facts| facts.admin == NodeAdmin::Demoted);
    if let Some(leaves) = facts.voters.iter().find(leaves) {
        let until = match facts.voters.len() {
            1 => "another node can take it",
            _ => "a majority of the voters that are left answers and takes entries",
        };
        return Some(format!("node {leaves} keeps its vote until {until}"));
    }
    if facts.voters.len() >= facts.voters_wanted {
        return None;
    }
    let waits = facts.learners.iter().filter_map(|id| Some((id, facts.nodes.get(id)?))).filter_map(|(id, node)| {
        if candidates.contains(id) || node.admin == NodeAdmin::Demoted {
            return None;
        }
        Some(match node.silent_for {
            _ if node.admin == NodeAdmin::Drain => format!("node {id} is drained and gets no vote until it is enabled"),
            Duration::MAX => format!("node {id} has not answered this leader yet"),
            silent if silent > TAKEN_WITHIN => format!("node {id} has not answered for {silent:.1?}"),
            _ if !node.caught_up => format!("node {id} has not got the log yet"),
            _ => format!("node {id} takes no entries or takes them late (its disk, or the link to it)"),
        })
    });
    let waits: Vec<_> = waits.collect();
    (!waits.is_empty()).then(|| waits.join(", "))
}

/// The voters after growing to the largest odd number that is wanted and possible.
fn grown(facts: &Facts, candidates: &[NodeId]) -> Option<BTreeSet<NodeId>> {
    let possible = (facts.voters.len() + candidates.len()).min(facts.voters_wanted);
    let target = if possible.is_multiple_of(2) { possible.saturating_sub(1) } else { possible };
    let more = target.checked_sub(facts.voters.len()).filter(|more| *more > 0)?;
    let mut voters = facts.voters.clone();
    voters.extend(candidates.iter().take(more));
    Some(voters)
}

/// The voter that can best be spared: a silent one, else one that takes no entries, else the youngest that nobody promoted,
/// that is no witness and does not lead.
fn least_wanted(facts: &Facts) -> Option<NodeId> {
    facts
        .voters
        .iter()
        .filter_map(|id| Some((*id, facts.nodes.get(id)?)))
        .max_by_key(|(id, node)| {
            (
                node.silent_for > REACHABLE_WITHIN,
                !node.takes,
                *id != facts.leader,
                node.admin != NodeAdmin::Promoted,
                node.role != NodeRole::Witness,
                *id,
            )
        })
        .map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NodeFacts = NodeFacts {
        role: NodeRole::Full,
        admin: NodeAdmin::Ready,
        silent_for: Duration::ZERO,
        heard: true,
        caught_up: true,
        takes: true,
        stuck_for: Duration::ZERO,
    };
    const GONE: NodeFacts = NodeFacts { silent_for: Duration::from_secs(3600), ..HERE };
    const BEHIND: NodeFacts = NodeFacts { caught_up: false, ..HERE };
    /// Its disk takes nothing, and it answers.
    const HUNG: NodeFacts = NodeFacts { takes: false, stuck_for: Duration::from_secs(3600), ..HERE };
    /// It takes entries late.
    const LATE: NodeFacts = NodeFacts { takes: false, ..HERE };
    const WITNESS: NodeFacts = NodeFacts { role: NodeRole::Witness, ..HERE };
    const DEMOTED: NodeFacts = NodeFacts { admin: NodeAdmin::Demoted, ..HERE };
    const DRAINED: NodeFacts = NodeFacts { admin: NodeAdmin::Drain, ..HERE };
    const PROMOTED: NodeFacts = NodeFacts { admin: NodeAdmin::Promoted, ..HERE };

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId::new).collect()
    }

    fn facts(nodes: &[(u64, NodeFacts)], voters: &[u64], learners: &[u64]) -> Facts {
        Facts {
            nodes: nodes.iter().map(|(id, facts)| (NodeId::new(*id), *facts)).collect(),
            voters: ids(voters),
            learners: ids(learners),
            joint: false,
            leader: NodeId::new(1),
            voters_wanted: 3,
            replace_voter_after: Duration::from_secs(600),
        }
    }

    fn check(facts: &Facts, expected: Option<Change>) {
        assert_eq!(next_change(facts), expected, "{facts:?}");
    }

    fn voters(after: &[u64], because: Reason) -> Option<Change> {
        Some(Change::SetVoters { voters: ids(after), because })
    }

    #[test]
    fn nothing_to_do_is_nothing_done() {
        check(&facts(&[(1, HERE)], &[1], &[]), None);
        check(&facts(&[(1, HERE), (2, HERE), (3, HERE)], &[1, 2, 3], &[]), None);
        check(&facts(&[(1, HERE), (2, HERE), (3, HERE), (4, HERE)], &[1, 2, 3], &[4]), None);
    }

    #[test]
    fn it_is_said_what_voters_are_waited_for() {
        let why =
            |nodes: &[(u64, NodeFacts)], voters: &[u64], learners: &[u64]| wanting(&facts(nodes, voters, learners));
        assert_eq!(why(&[(1, HERE), (2, HERE), (3, HERE)], &[1, 2, 3], &[]), None);
        assert_eq!(why(&[(1, HERE), (2, HERE)], &[1], &[2]), None, "two would be no better than one");
        assert_eq!(why(&[(1, HERE), (2, DEMOTED)], &[1], &[2]), None);
        let never = NodeFacts { silent_for: Duration::MAX, heard: false, ..HERE };
        let quiet = NodeFacts { silent_for: Duration::from_secs(11), ..HERE };
        assert_eq!(
            why(&[(1, HERE), (2, BEHIND), (3, quiet), (4, never)], &[1], &[2, 3, 4]).as_deref(),
            Some(
                "node 2 has not got the log yet, node 3 has not answered for 11.0s, node 4 has not answered this leader yet"
            )
        );
        assert_eq!(
            why(&[(1, HERE), (2, DRAINED)], &[1], &[2]).as_deref(),
            Some("node 2 is drained and gets no vote until it is enabled")
        );
        assert_eq!(
            why(&[(1, HERE), (2, GONE), (3, DEMOTED)], &[1, 2, 3], &[]).as_deref(),
            Some("node 3 keeps its vote until a majority of the voters that are left answers and takes entries")
        );
        assert_eq!(
            why(&[(1, HERE), (2, LATE), (3, HERE)], &[1], &[2, 3]).as_deref(),
            Some("node 2 takes no entries or takes them late (its disk, or the link to it)")
        );
        assert_eq!(
            why(&[(2, GONE)], &[1], &[2]).as_deref(),
            Some("node 1 keeps its vote until another node can take it")
        );
    }

    #[test]
    fn a_node_that_is_drained_keeps_its_vote_and_gets_none() {
        check(&facts(&[(1, HERE), (2, HERE), (3, DRAINED)], &[1, 2, 3], &[]), None);
        // Demoted before, and drained to be removed.
        check(&facts(&[(1, HERE), (2, HERE), (3, DRAINED)], &[1, 2], &[3]), None);
        check(&facts(&[(1, HERE), (2, HERE), (3, HERE)], &[1, 2], &[3]), voters(&[1, 2, 3], Reason::Grow));
        let instead = [(1, HERE), (2, HERE), (3, DEMOTED), (4, DRAINED), (5, HERE)];
        check(&facts(&instead, &[1, 2, 3], &[4, 5]), voters(&[1, 2, 5], Reason::Demoted(NodeId::new(3))));
    }

    #[test]
    fn a_vote_is_taken_away_only_if_those_that_are_left_can_decide() {
        check(
            &facts(&[(1, HERE), (2, HERE), (3, DEMOTED)], &[1, 2, 3], &[]),
            voters(&[1, 2], Reason::Demoted(NodeId::new(3))),
        );
        check(&facts(&[(1, HERE), (2, GONE), (3, DEMOTED)], &[1, 2, 3], &[]), None);
        check(&facts(&[(1, HERE), (2, GONE)], &[1, 2, 3], &[]), None);
        // It may have died just now.
        let quiet = NodeFacts { silent_for: Duration::from_secs(3), ..HERE };
        check(&facts(&[(1, HERE), (2, quiet), (3, DEMOTED)], &[1, 2, 3], &[]), None);
        check(&facts(&[(1, HERE), (3, HERE)], &[1, 2, 3], &[]), voters(&[1, 3], Reason::Removed(NodeId::new(2))));
        let with_learner = [(1, HERE), (2, GONE), (3, DEMOTED), (4, HERE)];
        check(&facts(&with_learner, &[1, 2, 3], &[4]), voters(&[1, 2, 4], Reason::Demoted(NodeId::new(3))));
        check(&facts(&[(1, HERE)], &[1, 2], &[]), voters(&[1], Reason::Removed(NodeId::new(2))));
    }

    #[test]
    fn a_voter_that_a_new_leader_never_heard_is_not_counted_on() {
        let unheard = NodeFacts { heard: false, ..HERE };
        check(&facts(&[(1, HERE), (2, unheard), (3, DEMOTED)], &[1, 2, 3], &[]), None);
        check(&facts(&[(1, HERE), (2, unheard)], &[1, 2, 3], &[]), None);
        let mut fewer = facts(&[(1, HERE), (2, unheard), (3, HERE)], &[1, 2, 3], &[]);
        fewer.voters_wanted = 1;
        check(&fewer, None);
        // Once it is silent for longer than the others, it is the one that goes.
        fewer.nodes.insert(NodeId::new(2), NodeFacts { heard: false, ..GONE });
        check(&fewer, voters(&[1, 3], Reason::TooMany(NodeId::new(2))));
    }

    #[test]
    fn a_voter_that_answers_and_takes_no_entries_is_not_counted_on() {
        for takes_nothing in [HUNG, LATE] {
            check(&facts(&[(1, HERE), (2, takes_nothing), (3, DEMOTED)], &[1, 2, 3], &[]), None);
            check(&facts(&[(1, HERE), (2, takes_nothing)], &[1, 2, 3], &[]), None);
            // Nor the leader.
            check(&facts(&[(1, takes_nothing), (2, HERE), (3, DEMOTED)], &[1, 2, 3], &[]), None);
            let with_learner = [(1, HERE), (2, takes_nothing), (3, DEMOTED), (4, HERE)];
            check(&facts(&with_learner, &[1, 2, 3], &[4]), voters(&[1, 2, 4], Reason::Demoted(NodeId::new(3))));
            // It is the one that can be spared.
            let removed = [(1, HERE), (3, HERE)];
            check(&facts(&removed, &[1, 2, 3], &[]), voters(&[1, 3], Reason::Removed(NodeId::new(2))));
            let mut fewer = facts(&[(1, HERE), (2, takes_nothing), (3, HERE), (4, HERE)], &[1, 2, 3, 4], &[]);
            check(&fewer, voters(&[1, 3, 4], Reason::TooMany(NodeId::new(2))));
            fewer.nodes.insert(NodeId::new(3), GONE);
            check(&fewer, voters(&[1, 2, 4], Reason::TooMany(NodeId::new(3))));
            fewer.nodes.insert(NodeId::new(4), LATE);
            check(&fewer, None);
            // It takes nobody's place.
            check(&facts(&[(1, HERE), (2, HERE), (3, takes_nothing)], &[1], &[2, 3]), None);
            check(&facts(&[(1, DEMOTED), (2, takes_nothing)], &[1], &[2]), None);
        }
    }

    #[test]
    fn a_voter_whose_disk_takes_nothing_is_replaced_after_the_delay_and_one_that_is_late_is_not() {
        let nodes = [(1, HERE), (2, HERE), (3, HUNG), (4, HERE)];
        check(&facts(&nodes, &[1, 2, 3], &[4]), voters(&[1, 2, 4], Reason::Stuck(NodeId::new(3))));
        check(&facts(&nodes[..3], &[1, 2, 3], &[]), None);
        let mut patient = facts(&nodes, &[1, 2, 3], &[4]);
        patient.replace_voter_after = Duration::from_secs(7200);
        check(&patient, None);
        check(&facts(&[(1, HERE), (2, HERE), (3, LATE), (4, HERE)], &[1, 2, 3], &[4]), None);
        let leads = [(1, HUNG), (2, HERE), (3, HERE), (4, HERE)];
        check(&facts(&leads, &[1, 2, 3], &[4]), voters(&[2, 3, 4], Reason::Stuck(NodeId::new(1))));
    }

    #[test]
    fn a_change_that_was_left_half_done_is_finished_first() {
        let mut half = facts(&[(1, HERE), (2, HERE), (3, HERE), (4, HERE)], &[1, 2, 3], &[]);
        half.joint = true;
        check(&half, Some(Change::FinishVoters(ids(&[1, 2, 3]))));
    }

    #[test]
    fn an_enrolled_node_becomes_a_learner_and_a_removed_learner_leaves() {
        check(&facts(&[(1, HERE), (2, BEHIND)], &[1], &[]), Some(Change::AddLearner(NodeId::new(2))));
        check(&facts(&[(1, HERE)], &[1], &[2]), Some(Change::RemoveLearner(NodeId::new(2))));
    }

    #[test]
    fn voters_grow_by_odd_numbers_from_learners_that_are_ready() {
        check(&facts(&[(1, HERE), (2, HERE)], &[1], &[2]), None);
        check(&facts(&[(1, HERE), (2, HERE), (3, HERE)], &[1], &[2, 3]), voters(&[1, 2, 3], Reason::Grow));
        check(&facts(&[(1, HERE), (2, HERE), (3, BEHIND)], &[1], &[2, 3]), None);
        check(&facts(&[(1, HERE), (2, GONE), (3, HERE)], &[1], &[2, 3]), None);
        check(&facts(&[(1, HERE), (2, DEMOTED), (3, HERE)], &[1], &[2, 3]), None);
        // Two are left after a removal: the second vote is not taken away, a third is added.
        check(&facts(&[(1, HERE), (2, HERE)], &[1, 2], &[]), None);
        check(&facts(&[(1, HERE), (2, HERE), (3, HERE)], &[1, 2], &[3]), voters(&[1, 2, 3], Reason::Grow));
        let mut five = facts(&[(1, HERE), (2, HERE), (3, HERE), (4, HERE)], &[1, 2, 3], &[4]);
        five.voters_wanted = 5;
        check(&five, None);
    }

    #[test]
    fn witnesses_and_promoted_nodes_come_first() {
        let nodes = [(1, HERE), (2, HERE), (3, WITNESS), (4, PROMOTED)];
        check(&facts(&nodes, &[1], &[2, 3, 4]), voters(&[1, 3, 4], Reason::Grow));
        let nodes = [(1, HERE), (2, HERE), (3, WITNESS), (4, PROMOTED)];
        check(&facts(&nodes, &[1, 2, 3], &[4]), voters(&[1, 3, 4], Reason::Promoted(NodeId::new(4))));
        let nodes = [(1, PROMOTED), (2, PROMOTED), (3, PROMOTED), (4, PROMOTED)];
        check(&facts(&nodes, &[1, 2, 3], &[4]), None);
    }

    #[test]
    fn a_silent_voter_is_replaced_after_the_delay_if_somebody_can_take_its_place() {
        let nodes = [(1, HERE), (2, HERE), (3, GONE), (4, HERE)];
        check(&facts(&nodes, &[1, 2, 3], &[4]), voters(&[1, 2, 4], Reason::Silent(NodeId::new(3))));
        check(&facts(&nodes[..3], &[1, 2, 3], &[]), None);
        let mut patient = facts(&nodes, &[1, 2, 3], &[4]);
        patient.replace_voter_after = Duration::from_secs(7200);
        check(&patient, None);
        let nodes = [(1, HERE), (2, HERE), (3, GONE), (4, BEHIND)];
        check(&facts(&nodes, &[1, 2, 3], &[4]), None);
    }

    #[test]
    fn removed_and_demoted_voters_go_even_without_a_replacement_but_never_the_last() {
        let nodes = [(1, HERE), (2, HERE), (4, HERE)];
        check(&facts(&nodes, &[1, 2, 3], &[4]), voters(&[1, 2, 4], Reason::Removed(NodeId::new(3))));
        check(&facts(&nodes[..2], &[1, 2, 3], &[]), voters(&[1, 2], Reason::Removed(NodeId::new(3))));
        let nodes = [(1, HERE), (2, DEMOTED), (3, HERE)];
        check(&facts(&nodes, &[1, 2, 3], &[]), voters(&[1, 3], Reason::Demoted(NodeId::new(2))));
        check(&facts(&[(1, DEMOTED)], &[1], &[]), None);
        check(&facts(&[(1, DEMOTED), (2, HERE)], &[1], &[2]), voters(&[2], Reason::Demoted(NodeId::new(1))));
        // Two before either change was begun.
        check(&facts(&[(1, HERE)], &[1, 2, 3], &[]), voters(&[1], Reason::Removed(NodeId::new(2))));
        let nodes = [(1, HERE), (4, HERE), (5, HERE), (6, HERE)];
        check(&facts(&nodes, &[1, 2, 3], &[4, 5, 6]), voters(&[1, 4, 5], Reason::Removed(NodeId::new(2))));
        let nodes = [(1, HERE), (4, GONE), (5, HERE)];
        check(&facts(&nodes, &[1, 2, 3, 4, 5], &[]), voters(&[1, 4, 5], Reason::Removed(NodeId::new(2))));
        // The leader itself was removed.
        check(&facts(&[(2, HERE), (3, HERE)], &[1, 2, 3], &[]), voters(&[2, 3], Reason::Removed(NodeId::new(1))));
    }

    #[test]
    fn when_the_policy_wants_fewer_the_one_least_needed_goes() {
        let nodes = [(1, HERE), (2, HERE), (3, HERE), (4, WITNESS), (5, HERE)];
        check(&facts(&nodes, &[1, 2, 3, 4, 5], &[]), voters(&[1, 2, 3, 4], Reason::TooMany(NodeId::new(5))));
        let nodes = [(1, HERE), (2, GONE), (3, HERE), (4, HERE)];
        check(&facts(&nodes, &[1, 2, 3, 4], &[]), voters(&[1, 3, 4], Reason::TooMany(NodeId::new(2))));
    }

    #[test]
    fn from_any_start_the_steps_come_to_rest() {
        for nodes in 1..8u64 {
            for wanted in [3, 5, 7] {
                let all: Vec<(u64, NodeFacts)> = (1..=nodes).map(|id| (id, HERE)).collect();
                let mut now = facts(&all, &[1], &[]);
                now.voters_wanted = wanted;
                let mut steps = 0;
                while let Some(change) = next_change(&now) {
                    match change {
                        Change::AddLearner(node) => _ = now.learners.insert(node),
                        Change::RemoveLearner(node) => _ = now.learners.remove(&node),
                        Change::FinishVoters(voters) | Change::SetVoters { voters, .. } => {
                            now.learners.extend(now.voters.difference(&voters).copied().collect::<Vec<_>>());
                            now.learners.retain(|node| !voters.contains(node));
                            now.voters = voters;
                        }
                    }
                    steps += 1;
                    assert!(steps < 40, "{nodes} nodes, {wanted} wanted: does not come to rest");
                }
                let most = usize::try_from(nodes).expect("few").min(wanted);
                let odd = if most.is_multiple_of(2) { most - 1 } else { most };
                assert_eq!(now.voters.len(), odd, "{nodes} nodes, {wanted} wanted");
            }
        }
    }
}
