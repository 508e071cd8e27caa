//! What is wrong with a cluster, and what to do about it.
//!
//! One judgement for people and for monitoring: what `cluster status` shows as problems is what `cluster status --check` tells
//! monitoring of. It is made from what each node says of itself, so that it needs no quorum. What an operator wants, as a drain,
//! is no trouble, and neither is what heals while one looks, as a few entries that are on their way.
//!
//! Not here: asking the nodes ([`super::cluster`]), whether a lease is too short ([`super::jitter`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use ballast_core::{config::Span, ids::LogIndex, lease::Unfitness};
use ballast_proto::admin::v1::{
    Fitness, Node, NodeAdmin, NodeStatus, Trouble, Vip, VipStanding, status_response::Health, trouble::Severity,
};

use super::{
    cluster::{LAG_NORMAL, id_of, name_of},
    jitter,
};
use crate::{node::LocalStatus, pki};

/// What concerns no single node or VIP.
const CLUSTER: &str = "cluster";

/// A node that was not confirmed by a majority for so long has none: longer than an election takes.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

/// A node's certificate that lasts no longer is told of: three months after it should have been renewed, and early enough to
/// mend what is in the way.
const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// How many VIPs a sentence names.
const NAMED_MAX: usize = 5;

/// What the agreed state says.
pub(super) struct Agreed {
    /// So far it was read.
    pub(super) applied: LogIndex,
    /// How many voters the document wants.
    pub(super) voters_wanted: u32,
    pub(super) lease: Span,
}

/// The cluster in one word, and what wants attention.
pub(super) fn judge(
    local: &LocalStatus,
    nodes: &[NodeStatus],
    vips: &[Vip],
    agreed: Agreed,
    now: SystemTime,
) -> (Health, Vec<Trouble>) {
    let mut troubles = Vec::new();
    if local.leader.is_none() {
        let problem = "no leader is known: nothing can be changed; held VIPs are given up when their leases end";
        troubles.push(critical(CLUSTER, problem, "start voters until a majority of them runs"));
    }
    // A follower goes on naming the leader that it lost until there is another.
    let alone = local.confirmed_age.is_none_or(|age| age > CONFIRMED_WITHIN);
    if alone && local.leader.is_some() {
        let problem = "no majority of the voters answers this node: nothing can be changed through it; VIPs that it held are \
                       given up";
        let remedy = "start the voters that do not run, or mend the network between this node and them";
        troubles.push(critical(CLUSTER, problem, remedy));
    }
    for status in nodes {
        of_node(status, now, &mut troubles);
    }
    // All nodes of a link hear the same; it is told once.
    let warned = nodes.iter().filter(|status| status.reachable).flat_map(|status| &status.standings);
    let warned: BTreeSet<(&str, &str)> = warned
        .filter(|standing| !standing.warning.is_empty())
        .map(|standing| (standing.vip.as_str(), standing.warning.as_str()))
        .collect();
    for (vip, warning) in warned {
        troubles.push(trouble(&format!("VIP {vip}"), format!("VIP {vip}: {warning}"), ""));
    }
    if states_differ(nodes) {
        let problem = "the nodes' states differ at one index: keep their data directories and report it";
        troubles.push(trouble(CLUSTER, problem, ""));
    }
    for vip in vips {
        let object = format!("VIP {}", vip.name);
        let holders = nodes.iter().filter(|status| status.vips.iter().any(|held| held.vip == vip.name)).count();
        match holders {
            0 => troubles.push(critical(
                &object,
                format!("VIP {} is held by no node that answers", vip.name),
                "ballastctl vip list -o wide says of each node why it does not hold it",
            )),
            1 => {}
            // Asked one after the other, so a move in between shows twice; it is said for what it is.
            several => troubles.push(critical(
                &object,
                format!("{several} nodes said that they hold VIP {}; ask again", vip.name),
                "",
            )),
        }
    }
    // The machines may have got busier since it was applied, or one did not answer then.
    if !vips.is_empty()
        && let Some(found) = jitter::too_short(agreed.lease, nodes)
    {
        troubles.push(trouble(CLUSTER, found.told(), ""));
    }
    // Each is over in a moment, unless no majority of the voters would be left. Who takes nodes away one by one waits for it.
    let wait = "stop no node before that is done";
    if local.voters_changing {
        let problem = "the voters are being changed, and both the old and the new ones need a majority";
        troubles.push(trouble(CLUSTER, problem, wait));
    }
    // A node's id is the index of the entry that it joined with: what is above joined while the nodes were asked.
    let known = local.voters.iter().filter(|voter| voter.get() <= agreed.applied.get());
    for voter in known.filter(|voter| !nodes.iter().any(|status| id_of(status) == **voter)) {
        let problem = format!("node {voter} was removed and counts as a voter until the others have agreed");
        troubles.push(trouble(CLUSTER, problem, wait));
    }
    let voters = u32::try_from(local.voters.len()).unwrap_or(u32::MAX);
    let spare: Vec<&NodeStatus> = nodes.iter().filter(|status| !local.voters.contains(&id_of(status))).collect();
    // A cluster of one is as it was made. Of two, each can stop both.
    if voters < agreed.voters_wanted && (!spare.is_empty() || voters.is_multiple_of(2)) {
        let problem = format!("{voters} nodes vote, {} are wanted", agreed.voters_wanted);
        let possible = nodes.len().min(agreed.voters_wanted as usize);
        let odd = if possible.is_multiple_of(2) { possible.saturating_sub(1) } else { possible };
        troubles.push(if spare.is_empty() {
            trouble(CLUSTER, problem + ": no majority is left when one is lost; join another node", "")
        } else if spare.iter().any(|status| is_kept_from_voting(status)) {
            trouble(CLUSTER, problem, "start or enable a node that may vote: ballastctl node list shows which do not")
        } else if local.voters.len() < odd {
            trouble(CLUSTER, problem, "wait until the others have caught up with the log")
        } else {
            trouble(CLUSTER, problem, "the number of voters is kept odd: join another node")
        });
    }
    let health = match troubles.is_empty() {
        _ if alone || local.leader.is_none() => Health::NoQuorum,
        true => Health::Ok,
        false => Health::Degraded,
    };
    (health, troubles)
}

fn trouble(object: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Trouble {
    let severity = Severity::Warning.into();
    Trouble { object: object.to_owned(), problem: problem.into(), remedy: remedy.into(), severity }
}

fn critical(object: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Trouble {
    Trouble { severity: Severity::Critical.into(), ..trouble(object, problem, remedy) }
}

/// Whether a node that does not vote could, were it started or enabled.
fn is_kept_from_voting(status: &NodeStatus) -> bool {
    let admin = status.node.as_ref().map(Node::admin);
    !status.reachable || matches!(admin, Some(NodeAdmin::Drain | NodeAdmin::Demoted))
}

/// What is wrong with one node.
fn of_node(status: &NodeStatus, now: SystemTime, troubles: &mut Vec<Trouble>) {
    let name = name_of(status);
    let object = format!("node {name}");
    let drained = status.node.as_ref().is_some_and(|node| node.admin() == NodeAdmin::Drain);
    if !status.reachable {
        let drained = if drained { ", which an operator drains," } else { "" };
        let problem = format!("node {name}{drained} does not answer: {}", status.error);
        let remedy = format!(
            "start ballastd there, or mend its network; if the machine is gone for good: ballastctl node remove {name}"
        );
        troubles.push(trouble(&object, problem, remedy));
        return;
    }
    // What an operator wants of a node is told with the node.
    for reason in status.not_ready.iter().filter(|_| !drained) {
        troubles.push(trouble(&object, format!("node {name} is not ready: {reason}"), ""));
    }
    for standing in &status.standings {
        let held = status.vips.iter().any(|held| held.vip == standing.vip);
        if held && standing.fitness() == Fitness::Reluctant {
            let vip = format!("VIP {}", standing.vip);
            let problem = format!("{vip} is at node {name} for want of a fit one: {}", standing.fitness_detail);
            troubles.push(trouble(&vip, problem, unfitness(standing).map_or("", remedy)));
        }
    }
    for ((detail, remedy), vips) in untakeable(status) {
        troubles.push(trouble(&object, format!("node {name} cannot take {}: {detail}", named(&vips)), remedy));
    }
    if status.lag > LAG_NORMAL {
        let problem = format!("node {name} is {} entries behind", status.lag);
        let remedy = "wait until it has caught up; if it does not, look at its disk and its network";
        troubles.push(trouble(&object, problem, remedy));
    }
    // One that has ended makes its node not ready, which is told above.
    let ends = status.certificate_not_after.and_then(|ends| SystemTime::try_from(ends).ok());
    if let Some(ends) = ends.filter(|ends| *ends > now && *ends < now + CERTIFICATE_ENDS_SOON) {
        let day = pki::day_of(ends);
        let problem = format!("the certificate of node {name} ends on {day} and was not renewed; its log says why");
        troubles.push(trouble(&object, problem, ""));
    }
}

/// VIPs that a node is to take when their owner fails and cannot, by what is wrong and what to do. What is told of the node
/// itself, or is as it is meant to be, is not among them.
fn untakeable(status: &NodeStatus) -> BTreeMap<(&str, &'static str), Vec<&str>> {
    let mut found: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for standing in status.standings.iter().filter(|standing| standing.fitness() == Fitness::Unfit) {
        let remedy = match unfitness(standing) {
            Some(
                Unfitness::Draining
                | Unfitness::NotCandidate
                | Unfitness::VipRemoved
                | Unfitness::NoQuorum
                | Unfitness::StateBehind,
            ) => continue,
            Some(what) => remedy(what),
            // A newer node knows more.
            None => "",
        };
        found.entry((standing.fitness_detail.as_str(), remedy)).or_default().push(&standing.vip);
    }
    found
}

fn unfitness(standing: &VipStanding) -> Option<Unfitness> {
    Unfitness::ALL.into_iter().find(|what| what.name() == standing.fitness_reason)
}

/// What to do about it on the node where it is so.
const fn remedy(what: Unfitness) -> &'static str {
    match what {
        Unfitness::LinkDown => {
            "see to the cable there, set the interface up, or name the right interface in `vip.interface`, or limit the \
             VIP with `nodes`"
        }
        Unfitness::GatewayUnreachable => "mend the way to the gateway",
        Unfitness::ListenerFailed => "free the address and port there",
        Unfitness::StateBehind => "wait until it has caught up",
        Unfitness::DiskTrouble => "make room on its disk, or give it a faster one",
        Unfitness::CheckFailed => "see in its log what its vip.check says",
        Unfitness::FenceBreached => "find out who changes tc or nft there; ballastd puts the fence back",
        Unfitness::Unattended => "see in its log what holds up its addresses and fence",
        Unfitness::AddressMissing => "see in its log why the address is not on the interface",
        Unfitness::AddressTaken => "find the machine that answers for the address and take it away there",
        Unfitness::NoQuorum => "mend its network to the voters",
        Unfitness::Draining | Unfitness::NotCandidate | Unfitness::VipRemoved => "",
    }
}

fn named(vips: &[&str]) -> String {
    let first = vips[..vips.len().min(NAMED_MAX)].join(", ");
    match vips.len() {
        1 => format!("VIP {first}"),
        count if count <= NAMED_MAX => format!("VIPs {first}"),
        count => format!("VIPs {first} and {} more", count - NAMED_MAX),
    }
}

fn states_differ(nodes: &[NodeStatus]) -> bool {
    let hashes: BTreeSet<(u64, &str)> = nodes
        .iter()
        .filter(|status| !status.state_hash.is_empty())
        .map(|status| (status.state_hash_index, status.state_hash.as_str()))
        .collect();
    let indexes: BTreeSet<u64> = hashes.iter().map(|(index, _)| *index).collect();
    hashes.len() > indexes.len()
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        ids::{NodeId, Revision},
        lease,
    };
    use ballast_proto::admin::v1::HeldVip;

    use super::*;

    /// Of a node that leads three voters and was confirmed just now.
    fn local() -> LocalStatus {
        LocalStatus {
            node: NodeId::new(1),
            version: "0.1.0".to_owned(),
            term: 3,
            leader: Some(NodeId::new(1)),
            voters: BTreeSet::from([1, 2, 3].map(NodeId::new)),
            voters_changing: false,
            learners: BTreeSet::new(),
            last_log: LogIndex::new(42),
            synced: LogIndex::new(42),
            committed: LogIndex::new(42),
            applied: LogIndex::new(42),
            snapshot: LogIndex::new(0),
            purged: LogIndex::new(0),
            confirmed_age: Some(Duration::from_millis(20)),
            serving: Revision::new(5),
            listener_problems: Vec::new(),
            held: Vec::new(),
            fitness: lease::Fitness::Fit,
            standings: Vec::new(),
            problems: BTreeMap::new(),
            warnings: BTreeMap::new(),
            fence: Some("ebpf"),
            not_ready: Vec::new(),
            draining: false,
            started: SystemTime::UNIX_EPOCH,
            certificate_not_after: SystemTime::UNIX_EPOCH,
            connections: 0,
            lease_wake_late: Duration::ZERO,
            lease_renew: Duration::ZERO,
        }
    }

    fn agreed() -> Agreed {
        Agreed { applied: LogIndex::new(42), voters_wanted: 3, lease: Span::from_millis(200) }
    }

    fn node(id: u64) -> NodeStatus {
        let node = Node { id, name: format!("node-{id}"), ..Node::default() };
        NodeStatus { node: Some(node), reachable: true, voter: true, ready: true, ..NodeStatus::default() }
    }

    fn holder(id: u64, vip: &str) -> NodeStatus {
        NodeStatus { vips: vec![HeldVip { vip: vip.to_owned(), ..HeldVip::default() }], ..node(id) }
    }

    fn standing(vip: &str, fitness: Fitness, what: Unfitness) -> VipStanding {
        VipStanding {
            vip: vip.to_owned(),
            fitness: fitness.into(),
            fitness_reason: what.name().to_owned(),
            fitness_detail: what.to_string(),
            ..VipStanding::default()
        }
    }

    /// The judgement of a cluster of three, with one VIP: how well it is, and its troubles as `object | problem | remedy`.
    fn judged(local: &LocalStatus, nodes: &[NodeStatus]) -> (Health, Vec<String>) {
        let vips = [Vip { name: "web".to_owned(), ..Vip::default() }];
        let (health, troubles) = judge(local, nodes, &vips, agreed(), SystemTime::UNIX_EPOCH);
        let line = |Trouble { object, problem, remedy, .. }: &Trouble| format!("{object} | {problem} | {remedy}");
        (health, troubles.iter().map(line).collect())
    }

    #[track_caller]
    fn check(nodes: &[NodeStatus], wanted: &[&str]) {
        let (health, troubles) = judged(&local(), nodes);
        assert_eq!(troubles, wanted);
        assert_eq!(health, if wanted.is_empty() { Health::Ok } else { Health::Degraded });
    }

    #[test]
    fn a_cluster_with_a_leader_all_voters_and_an_owner_of_each_vip_is_well() {
        check(&[holder(1, "web"), node(2), node(3)], &[]);
    }

    #[test]
    fn a_cluster_without_a_leader_or_a_majority_is_told_what_it_needs() {
        let nodes = [holder(1, "web"), node(2), node(3)];
        let (health, troubles) = judged(&LocalStatus { leader: None, ..local() }, &nodes);
        assert_eq!(health, Health::NoQuorum);
        assert!(troubles[0].starts_with("cluster | no leader is known: ") && troubles.len() == 1, "{troubles:?}");
        assert!(troubles[0].ends_with(" | start voters until a majority of them runs"), "{troubles:?}");
        for confirmed_age in [None, Some(Duration::from_secs(6))] {
            let (health, troubles) = judged(&LocalStatus { confirmed_age, ..local() }, &nodes);
            assert_eq!(health, Health::NoQuorum);
            assert!(troubles[0].starts_with("cluster | no majority of the voters answers this node: "), "{troubles:?}");
        }
    }

    #[test]
    fn nodes_that_are_gone_behind_or_not_ready_are_named() {
        let gone = NodeStatus { reachable: false, error: "connection refused".to_owned(), ..node(2) };
        let behind = NodeStatus { lag: LAG_NORMAL + 1, not_ready: vec!["no leader is known".to_owned()], ..node(3) };
        check(
            &[holder(1, "web"), gone, behind],
            &[
                "node node-2 | node node-2 does not answer: connection refused | start ballastd there, or mend its \
                 network; if the machine is gone for good: ballastctl node remove node-2",
                "node node-3 | node node-3 is not ready: no leader is known | ",
                "node node-3 | node node-3 is 10001 entries behind | wait until it has caught up; if it does not, look \
                 at its disk and its network",
            ],
        );
        check(&[holder(1, "web"), node(2), NodeStatus { lag: LAG_NORMAL, ..node(3) }], &[]);
    }

    #[test]
    fn what_an_operator_wants_is_no_trouble() {
        let mut drained = node(2);
        drained.not_ready = vec!["an operator drains the node".to_owned()];
        drained.standings = vec![standing("web", Fitness::Unfit, Unfitness::Draining)];
        if let Some(node) = &mut drained.node {
            node.admin = NodeAdmin::Drain.into();
        }
        let mut witness = node(3);
        witness.standings = vec![standing("web", Fitness::Unfit, Unfitness::NotCandidate)];
        check(&[holder(1, "web"), drained.clone(), witness], &[]);
        // That it is switched off is something else.
        let off = NodeStatus { reachable: false, error: "no answer".to_owned(), standings: Vec::new(), ..drained };
        let (_, troubles) = judged(&local(), &[holder(1, "web"), off, node(3)]);
        let wanted = "node node-2 | node node-2, which an operator drains, does not answer: no answer | start ballastd";
        assert!(troubles.len() == 1 && troubles[0].starts_with(wanted), "{troubles:?}");
    }

    #[test]
    fn a_vip_has_one_owner() {
        let remedy = "ballastctl vip list -o wide says of each node why it does not hold it";
        let nobody = format!("VIP web | VIP web is held by no node that answers | {remedy}");
        check(&[node(1), node(2), node(3)], &[&nobody]);
        let both = "VIP web | 2 nodes said that they hold VIP web; ask again | ";
        check(&[holder(1, "web"), holder(2, "web"), node(3)], &[both]);
    }

    #[test]
    fn critical_is_a_cluster_without_a_majority_and_a_vip_without_one_owner() {
        let severities = |local: &LocalStatus, nodes: &[NodeStatus]| {
            let vips = [Vip { name: "web".to_owned(), ..Vip::default() }];
            let (_, troubles) = judge(local, nodes, &vips, agreed(), SystemTime::UNIX_EPOCH);
            troubles.iter().map(Trouble::severity).collect::<Vec<_>>()
        };
        let gone = NodeStatus { reachable: false, ..node(3) };
        let well = [holder(1, "web"), node(2), node(3)];
        assert_eq!(severities(&local(), &[holder(1, "web"), node(2), gone]), [Severity::Warning]);
        assert_eq!(severities(&local(), &[node(1), node(2), node(3)]), [Severity::Critical]);
        assert_eq!(severities(&local(), &[holder(1, "web"), holder(2, "web"), node(3)]), [Severity::Critical]);
        assert_eq!(severities(&LocalStatus { leader: None, ..local() }, &well), [Severity::Critical]);
        assert_eq!(severities(&LocalStatus { confirmed_age: None, ..local() }, &well), [Severity::Critical]);
    }

    #[test]
    fn a_node_whose_fence_does_not_stand_is_told_once_for_all_vips_that_it_cannot_take() {
        let breached = |vip: &str| standing(vip, Fitness::Unfit, Unfitness::FenceBreached);
        let mut second = node(2);
        second.standings = ["a", "b", "c", "d", "e", "f", "web"].map(breached).to_vec();
        let mut third = node(3);
        third.standings = vec![breached("web"), standing("mail", Fitness::Unfit, Unfitness::LinkDown)];
        let fence = "find out who changes tc or nft there; ballastd puts the fence back";
        let breached = "its kernel's fence is not as it was set";
        let down = "its link is down | see to the cable there, set the interface up, or name the right interface in \
                    `vip.interface`, or limit the VIP with `nodes`";
        let wanted = [
            format!("node node-2 | node node-2 cannot take VIPs a, b, c, d, e and 2 more: {breached} | {fence}"),
            format!("node node-3 | node node-3 cannot take VIP web: {breached} | {fence}"),
            format!("node node-3 | node node-3 cannot take VIP mail: {down}"),
        ];
        check(&[holder(1, "web"), second, third], &wanted.each_ref().map(String::as_str));
    }

    #[test]
    fn an_owner_that_had_rather_not_is_told_with_its_vip() {
        let reluctant = standing("web", Fitness::Reluctant, Unfitness::GatewayUnreachable);
        let owner = NodeStatus { standings: vec![reluctant.clone()], ..holder(1, "web") };
        let other = NodeStatus { standings: vec![reluctant], ..node(2) };
        let why = "its gateway does not answer | mend the way to the gateway";
        let wanted = format!("VIP web | VIP web is at node node-1 for want of a fit one: {why}");
        check(&[owner, other, node(3)], &[&wanted]);
    }

    #[test]
    fn voters_that_are_missing_are_counted() {
        let two = LocalStatus { voters: BTreeSet::from([1, 2].map(NodeId::new)), ..local() };
        let mut demoted = node(3);
        if let Some(node) = &mut demoted.node {
            node.admin = NodeAdmin::Demoted.into();
        }
        let (_, troubles) = judged(&two, &[holder(1, "web"), node(2), demoted]);
        let remedy = "start or enable a node that may vote: ballastctl node list shows which do not";
        assert_eq!(troubles, [format!("cluster | 2 nodes vote, 3 are wanted | {remedy}")]);
        let (_, troubles) = judged(&two, &[holder(1, "web"), node(2), node(3)]);
        let remedy = "wait until the others have caught up with the log";
        assert_eq!(troubles, [format!("cluster | 2 nodes vote, 3 are wanted | {remedy}")]);
        // With two nodes one votes, and nothing keeps the other from it.
        let one = LocalStatus { voters: BTreeSet::from([NodeId::new(1)]), ..local() };
        let (_, troubles) = judged(&one, &[holder(1, "web"), node(2)]);
        let remedy = "the number of voters is kept odd: join another node";
        assert_eq!(troubles, [format!("cluster | 1 nodes vote, 3 are wanted | {remedy}")]);
        let (_, troubles) = judged(&two, &[holder(1, "web"), node(2)]);
        let wanted = "cluster | 2 nodes vote, 3 are wanted: no majority is left when one is lost; join another node | ";
        assert_eq!(troubles, [wanted]);
    }

    #[test]
    fn a_voter_that_was_removed_is_told_and_one_that_has_just_joined_is_not() {
        let nodes = [holder(1, "web"), node(2), node(3)];
        let voters = |other: u64| LocalStatus { voters: BTreeSet::from([1, 2, 3, other].map(NodeId::new)), ..local() };
        let (_, troubles) = judged(&voters(42), &nodes);
        assert!(troubles.len() == 1 && troubles[0].contains("node 42 was removed and counts as"), "{troubles:?}");
        assert_eq!(judged(&voters(43), &nodes), (Health::Ok, Vec::new()));
    }
}
