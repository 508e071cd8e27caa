//! What a voter has promised, in short: for nodes that have no vote of their own to know it from.
//!
//! A node that may hold a VIP wants to know in time that its owner is gone. To be told of each VIP by each voter costs as much as
//! holding it. But an owner renews all that it holds in one round, so that one line for each owner says it all: how long its VIPs stay
//! promised at least, and a digest of which these are. Who takes the owner for that of other VIPs, or under other epochs, cannot use
//! the line and asks about each. As when it asks about each, a majority of the voters has to say it.
//!
//! Nothing is claimed by it: it only puts off asking.
//!
//! Not here: who is promised what ([`super::grantor`]), who asks for it and when ([`super::engine`]).

use smallvec::SmallVec;

use super::{datagram::Holding, voters::VoterSets};
use crate::{
    ids::{Boot, NodeId, VipId},
    lease::Epoch,
    time::BootNanos,
};

/// Most owners that are told of in one message, so that there is room for words beside them. Of others whoever asks has to ask about
/// each VIP.
pub(super) const SUMMARIES_MAX: usize = 31;

/// Names a set of VIPs with their epochs, in whatever order they were added. Who makes a wrong one has the cluster's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldDigest(u64);

impl HeldDigest {
    /// Wraps a number that came from the wire.
    pub(super) const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The bare number.
    pub(super) const fn get(self) -> u64 {
        self.0
    }

    /// Adds a VIP that is not in it.
    pub(super) fn add(&mut self, vip: VipId, epoch: Epoch) {
        let one = mixed(mixed(u64::from(vip.get()) + 1) ^ epoch.get());
        self.0 = self.0.wrapping_add(one);
    }
}

/// Each bit of the result hangs on each of the value: the finaliser of `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014).
const fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// All that is promised to one life of a node. Lengths of time are on the voter's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub node: NodeId,
    pub boot: Boot,
    /// What is promised to it, each under the epoch of its promise.
    pub held: HeldDigest,
    /// For how long all of that is.
    pub remaining: u64,
}

/// Puts promises together owner by owner.
#[derive(Default)]
pub(super) struct Summaries(Vec<Summary>);

impl Summaries {
    /// Adds a VIP that is promised for so long.
    pub(super) fn add(&mut self, vip: VipId, by: Holding, remaining: u64) {
        let known = self.0.iter().position(|one| (one.node, one.boot) == (by.node, by.boot));
        let at = known.unwrap_or(self.0.len());
        if known.is_none() {
            let held = HeldDigest::default();
            self.0.push(Summary { node: by.node, boot: by.boot, held, remaining });
        }
        let one = &mut self.0[at];
        one.held.add(vip, by.epoch);
        one.remaining = one.remaining.min(remaining);
    }

    /// Of each owner, or of as many as can be told of.
    pub(super) fn into_vec(mut self) -> Vec<Summary> {
        self.0.truncate(SUMMARIES_MAX);
        self.0
    }
}

/// What a round did not ask about because voters tell of it in short, and what they have told so far.
#[derive(Default)]
pub(super) struct LeftOut {
    round: u64,
    asked_at: BootNanos,
    vips: Vec<VipId>,
    answers: Vec<(NodeId, Vec<Summary>)>,
}

impl LeftOut {
    /// These VIPs, ascending, of a round.
    pub(super) fn new(round: u64, asked_at: BootNanos, vips: Vec<VipId>) -> Self {
        Self { round, asked_at, vips, answers: Vec::new() }
    }

    /// Whether the round has something to be told.
    pub(super) fn is_of(&self, round: u64) -> bool {
        self.round == round && !self.vips.is_empty()
    }

    /// Whether the round left the VIP out.
    pub(super) fn has(&self, vip: VipId) -> bool {
        self.vips.binary_search(&vip).is_ok()
    }

    /// When the round was asked.
    pub(super) fn asked_at(&self) -> BootNanos {
        self.asked_at
    }

    /// A voter has answered. What was left out, once it can be settled: when a majority has.
    pub(super) fn answered(&mut self, voter: NodeId, told: &[Summary], sets: &VoterSets) -> Option<Vec<VipId>> {
        if !self.answers.iter().any(|(known, _)| *known == voter) {
            self.answers.push((voter, told.to_vec()));
        }
        let answered = sets.quorum(|voter| self.answers.iter().any(|(known, _)| *known == voter));
        answered.then(|| std::mem::take(&mut self.vips))
    }

    /// Until when, at least, a majority has promised to each life of a node what it is known for.
    pub(super) fn agreed(&self, sets: &VoterSets, known: &Summaries) -> Vec<(NodeId, Boot, BootNanos)> {
        let until = |one: &Summary| {
            let same = |told: &&Summary| (told.node, told.boot, told.held) == (one.node, one.boot, one.held);
            // It was true when it was said, which was not before it was asked for.
            let until = |told: &Summary| self.asked_at.plus(told.remaining);
            let of = self.answers.iter().filter_map(|(voter, told)| Some((*voter, until(told.iter().find(same)?))));
            sets.reached(&of.collect::<SmallVec<[(NodeId, BootNanos); 8]>>())
        };
        known.0.iter().filter_map(|one| Some((one.node, one.boot, until(one)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(node: u64, epoch: u64) -> Holding {
        Holding { node: NodeId::new(node), boot: Boot(node * 10), epoch: Epoch::new(epoch) }
    }

    fn digest(held: &[(u32, u64)]) -> HeldDigest {
        let mut digest = HeldDigest::default();
        held.iter().for_each(|(vip, epoch)| digest.add(VipId::new(*vip), Epoch::new(*epoch)));
        digest
    }

    /// Node 1 holds these VIPs under epoch 7, node 2 the VIP 50, all for so long.
    fn summaries(held: &[u32], remaining: u64) -> Summaries {
        let mut summaries = Summaries::default();
        held.iter().for_each(|vip| summaries.add(VipId::new(*vip), holding(1, 7), remaining));
        summaries.add(VipId::new(50), holding(2, 8), remaining);
        summaries
    }

    #[test]
    fn a_digest_is_of_a_set_whatever_its_order() {
        assert_eq!(digest(&[(1, 7), (2, 8)]), digest(&[(2, 8), (1, 7)]));
        let others: [&[(u32, u64)]; 5] =
            [&[], &[(1, 7)], &[(1, 8), (2, 7)], &[(1, 7), (3, 8)], &[(1, 7), (2, 8), (0, 0)]];
        for other in others {
            assert_ne!(digest(&[(1, 7), (2, 8)]), digest(other), "{other:?}");
        }
    }

    #[test]
    fn a_life_is_told_of_once_and_by_what_ends_first() {
        let mut summaries = Summaries::default();
        summaries.add(VipId::new(1), holding(1, 7), 90);
        summaries.add(VipId::new(2), holding(2, 8), 95);
        summaries.add(VipId::new(3), holding(1, 9), 80);
        summaries.add(VipId::new(4), Holding { boot: Boot(11), ..holding(1, 0) }, 70);
        let told = summaries.into_vec();
        assert_eq!((told[0].held, told[0].remaining), (digest(&[(1, 7), (3, 9)]), 80));
        assert_eq!(told.len(), 3, "another life is another owner");
    }

    #[test]
    fn no_more_are_told_of_than_fit() {
        let mut summaries = Summaries::default();
        for node in 0..40 {
            summaries.add(VipId::new(node), holding(u64::from(node), 1), 1);
        }
        assert_eq!(summaries.into_vec().len(), SUMMARIES_MAX);
    }

    #[test]
    fn what_counts_is_what_a_majority_of_every_set_says_of_what_is_known() {
        let at = BootNanos::new;
        let set = |nodes: &[u64]| VoterSets::new([nodes.iter().copied().map(NodeId::new)]);
        let three = set(&[4, 5, 6]);
        let vips = || [1, 2, 50].map(VipId::new).to_vec();
        let known = summaries(&[1, 2], 0);
        let mut left_out = LeftOut::new(9, at(100), vips());
        assert!(left_out.is_of(9) && !left_out.is_of(8));
        assert_eq!(left_out.answered(NodeId::new(4), &summaries(&[1, 2], 70).into_vec(), &three), None);
        assert_eq!(
            left_out.answered(NodeId::new(4), &summaries(&[1, 2], 90).into_vec(), &three),
            None,
            "it has one vote"
        );
        assert_eq!(left_out.agreed(&three, &known), [], "one is no majority");
        // It has not heard of one that node 1 holds.
        let settled = left_out.answered(NodeId::new(5), &summaries(&[1], 50).into_vec(), &three);
        assert_eq!(settled, Some(vips()));
        assert!(!left_out.is_of(9), "settled once");
        assert_eq!(left_out.agreed(&three, &known), [(NodeId::new(2), Boot(20), at(150))]);
        left_out.answered(NodeId::new(6), &summaries(&[1, 2], 60).into_vec(), &three);
        let both = [(NodeId::new(1), Boot(10), at(160)), (NodeId::new(2), Boot(20), at(160))];
        assert_eq!(
            left_out.agreed(&three, &known),
            both,
            "by 4 and 6 for the one, by the two that last longest for the other"
        );
        assert_eq!(left_out.agreed(&three.and(&set(&[4])), &known), both);
        assert_eq!(left_out.agreed(&three.and(&set(&[7])), &known), [], "nobody of the other set has said anything");
    }
}
