//! What the lease protocol is told of the agreed state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use crate::{
    config::{Failback, VipAddress},
    ids::{EntryId, LogIndex, NodeId, VipId},
    lease::{Epoch, Fitness, Timing, Unfitness, VoterSets},
    mac::Mac,
    time::BootNanos,
};

/// The agreed state as the lease protocol of one node sees it. Immutable; a new one is published
/// whenever something in it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// The cluster; part of every datagram's authentication.
    pub cluster: String,
    /// Keys that authenticate datagrams.
    pub keys: LeaseKeys,
    /// The entry of the effective membership (the newest in this node's log, committed or not, as
    /// Raft itself uses it).
    pub membership: EntryId,
    /// Its voter sets: two while it is joint.
    pub voters: VoterSets,
    /// Every node, voter or not, this one too.
    pub nodes: Vec<LeaseMember>,
    /// Every VIP.
    pub vips: Vec<LeaseVip>,
    /// How long leases last.
    pub timing: Timing,
    /// The longest lease that may still be in force somewhere (longer than `timing` only after the
    /// configured lease was shortened). A grantor that has just started stays quiet for its promise.
    pub longest: Timing,
    /// Something that was agreed before these voters were may not be in this view yet, such as a longer lease.
    pub catching_up: bool,
    /// The longest that this node grants: one that it has on disk, and will know of when it starts again.
    pub granted: Timing,
    /// Whether this node is fit to hold VIPs at all.
    pub fitness: Fitness,
}

/// The keys that authenticate datagrams. A change of key takes a while, because nodes learn of it one after the other:
/// first all open what is sealed with either, then they seal with the new one, then the old one is forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeaseKeys {
    /// What this node seals with is sealed with this one.
    pub seals: [u8; 32],
    /// What is sealed with one of these is opened too.
    pub opens: [Option<[u8; 32]>; 2],
}

impl fmt::Debug for LeaseKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseKeys").finish_non_exhaustive()
    }
}

impl LeaseKeys {
    /// This key and no other.
    pub const fn only(secret: [u8; 32]) -> Self {
        Self { seals: secret, opens: [None; 2] }
    }
}

/// A node as the lease protocol sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseMember {
    /// The node.
    pub id: NodeId,
    /// Where its lease datagrams go.
    pub address: SocketAddr,
    /// May hold VIPs as far as the log says: ready, not draining, not a witness.
    pub candidate: bool,
    /// Its share of the VIPs relative to the other nodes; zero takes one only when no node with weight can.
    pub weight: u32,
}

/// A VIP as the lease protocol sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseVip {
    /// The VIP.
    pub id: VipId,
    /// Its name.
    pub name: String,
    /// Its addresses; they move together.
    pub addresses: Vec<VipAddress>,
    /// Nodes it would rather be at, best first.
    pub prefer: Vec<NodeId>,
    /// Whether it returns to a better node by itself.
    pub failback: Failback,
    /// For how long a node must have been heard before it returns there, in nanoseconds.
    pub failback_delay: u64,
    /// VIPs of one group are placed on one node.
    pub group: Option<String>,
    /// VIPs that should be at other nodes.
    pub apart_from: Vec<VipId>,
    /// The nodes that carry the labels it asks for; all may hold it when absent.
    pub only: Option<BTreeSet<NodeId>>,
    /// Where an operator wants it; the same for all of a group.
    pub wish: Option<LeaseWish>,
    /// Whether this node is fit to hold it, beside what holds for all VIPs.
    pub fitness: Fitness,
    /// The hardware addresses that nodes have on its link.
    pub macs: Vec<(NodeId, Mac)>,
    /// How long after a hand-over clients may finish what they have begun with the former owner, in nanoseconds.
    pub finish: u64,
    /// Last owner that was written to the log.
    pub recorded_owner: Option<NodeId>,
    /// Last epoch that was written to the log.
    pub recorded_epoch: Epoch,
}

/// Where an operator wants a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseWish {
    /// There.
    pub node: NodeId,
    /// It was there since. From then on it returns there like to a better node: once that one has been heard for
    /// `failback_delay`.
    pub fulfilled: bool,
}

/// Positions in this node's log. They change with every entry and so are not part of the view.
///
/// Raft must store `last` and `membership` *before* it acknowledges an append: freshness and the
/// safety of membership changes rest on a voter never knowing less here than it acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Last entry applied to the state.
    pub applied: LogIndex,
    /// Last entry in the log.
    pub last: EntryId,
    /// Newest membership entry in the log.
    pub membership: EntryId,
}

/// A round of questions that a majority of voters answered: everything committed before `asked_at`
/// has an index of at most `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Just before the questions went out, on this node's clock.
    pub asked_at: BootNanos,
    /// Highest last log index among those who answered.
    pub index: LogIndex,
}

impl LeaseView {
    /// Whether `node` is fit to hold each VIP, and if not why: the worst of what holds for the node, for the VIP and for
    /// the others of its group, which move with it.
    pub fn fitness_of(&self, node: NodeId) -> BTreeMap<VipId, Fitness> {
        let Some(member) = self.nodes.iter().find(|member| member.id == node) else {
            return self.vips.iter().map(|vip| (vip.id, Fitness::Unfit(Unfitness::NotCandidate))).collect();
        };
        let own = if member.candidate { self.fitness } else { self.fitness.worse(Fitness::Unfit(Unfitness::Draining)) };
        let labelled = |vip: &LeaseVip| vip.only.as_ref().is_none_or(|only| only.contains(&node));
        // Of a VIP that is not for this node its group is told that, and not what is missing here as it is meant to be. It
        // comes last, since an owner that is no candidate takes its time to hand over, and one in trouble does not.
        let (here, elsewhere): (Vec<&LeaseVip>, Vec<&LeaseVip>) = self.vips.iter().partition(|vip| labelled(vip));
        let elsewhere = elsewhere.into_iter().map(|vip| match vip.fitness {
            Fitness::Unfit(_) => (vip, Fitness::Unfit(Unfitness::NotCandidate)),
            fitness => (vip, fitness),
        });
        let mut groups: BTreeMap<&str, Fitness> = BTreeMap::new();
        for (vip, fitness) in here.into_iter().map(|vip| (vip, vip.fitness)).chain(elsewhere) {
            if let Some(group) = &vip.group {
                let worst = groups.entry(group).or_default();
                *worst = worst.worse(fitness);
            }
        }
        let of = |vip: &LeaseVip| {
            let group = vip.group.as_deref().and_then(|group| groups.get(group)).copied().unwrap_or_default();
            let may = if labelled(vip) { Fitness::Fit } else { Fitness::Unfit(Unfitness::NotCandidate) };
            (vip.id, own.worse(may).worse(vip.fitness).worse(group))
        };
        self.vips.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::sim::vip_of;

    const MISSING: Fitness = Fitness::Unfit(Unfitness::AddressMissing);
    const NOT_FOR_IT: Fitness = Fitness::Unfit(Unfitness::NotCandidate);

    /// What node 2 makes of three VIPs of one group of which the second is for node 1 only, each being as fit as that.
    fn at_node_2(fitness: [Fitness; 3]) -> [Fitness; 3] {
        let address = "127.0.0.1:1".parse().expect("a literal");
        let member = |id| LeaseMember { id: NodeId::new(id), address, candidate: true, weight: 100 };
        let vip = |id: u32, fitness| {
            let only = (id == 2).then(|| [NodeId::new(1)].into());
            LeaseVip { group: Some("web".to_owned()), only, fitness, ..vip_of(id) }
        };
        let [first, second, third] = fitness;
        let timing = Timing::takeover_within(200_000_000);
        let view = LeaseView {
            cluster: String::new(),
            keys: LeaseKeys::only([0; 32]),
            membership: EntryId::default(),
            voters: VoterSets::new([[1, 2].map(NodeId::new)]),
            nodes: [1, 2].map(member).to_vec(),
            vips: vec![vip(1, first), vip(2, second), vip(3, third)],
            timing,
            longest: timing,
            catching_up: false,
            granted: timing,
            fitness: Fitness::Fit,
        };
        let found = view.fitness_of(NodeId::new(2));
        [1, 2, 3].map(|vip| found[&VipId::new(vip)])
    }

    #[test]
    fn a_group_is_not_for_a_node_where_one_of_it_is_not_put_in_place() {
        assert_eq!(at_node_2([Fitness::Fit, MISSING, Fitness::Fit]), [NOT_FOR_IT; 3]);
        // With nothing missing, as where a group has no node for all of it, the others may be here.
        assert_eq!(at_node_2([Fitness::Fit; 3]), [Fitness::Fit, NOT_FOR_IT, Fitness::Fit]);
    }

    #[test]
    fn what_is_wrong_with_one_that_is_for_the_node_comes_first() {
        let down = Fitness::Unfit(Unfitness::LinkDown);
        assert_eq!(at_node_2([Fitness::Fit, MISSING, down]), [down, NOT_FOR_IT, down]);
    }
}
