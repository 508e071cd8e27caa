//! The candidate's half: claiming, renewing, and giving up.

use std::cmp::Reverse;

use smallvec::SmallVec;

use crate::{
    model::LeaseModel,
    rule::Rule,
    state::{
        Ask, Deed, Epoch, Event, Gain, Hold, Membership, MembershipBits, Node, NodeAt, Owner, Release, State, Ticks,
    },
};

/// Epochs below each membership's first, as an index of the log is below those of later entries.
pub(crate) const EPOCHS_PER_MEMBERSHIP: Epoch = 16;

/// A voter's grant, as its asker knows it.
struct Grant {
    voter: NodeAt,
    left: Ticks,
    epoch: Epoch,
}

type Heard = SmallVec<[Grant; 12]>;

impl LeaseModel {
    /// A candidate asks all voters: a claim, another try at it, or a renewal.
    pub(crate) fn ask(&self, state: &mut State, at: NodeAt, informed: bool) -> Option<()> {
        let by = state.life(at);
        let (highest, of_others) = (state.highest(|_| true), state.highest(|of| of != by));
        let node = &mut state.nodes[at];
        if state.asks_left == 0 || !node.todo.is_empty() {
            return None;
        }
        let epoch = match &mut node.hold {
            Hold::Watching => {
                let own = node.spent.max(node.view * EPOCHS_PER_MEMBERSHIP);
                if node.settle > 0 || informed && highest <= own {
                    return None;
                }
                let epoch = if informed { highest } else { own } + 1;
                node.hold = Hold::Claiming { epoch };
                epoch
            }
            Hold::Claiming { epoch } | Hold::Held { epoch, .. } => {
                if informed {
                    // A voter knows of a higher one, or of another who claims the same.
                    if highest <= *epoch && of_others < *epoch {
                        return None;
                    }
                    *epoch = highest.max(*epoch) + 1;
                }
                *epoch
            }
        };
        let (view, told) = (node.view, node.told);
        let before = match node.hold {
            Hold::Held { renewed: false, sets, .. } => sets,
            _ => 0,
        };
        let sets = self.counts_by(view) | self.sets_told(told) | before;
        state.asks_left -= 1;
        state.asks.push(Ask { by, epoch, view, told, sets, left: self.setup.right, granted: 0 });
        Some(())
    }

    /// An asker has heard what was granted to its questions up to `ask`, and opens or extends its
    /// right if that is a majority. When it heard each of them does not matter, because a right is
    /// timed from the asking.
    pub(crate) fn arm(&self, state: &mut State, ask: usize) -> Option<()> {
        let Ask { by, left: newest, .. } = state.asks[ask];
        let at = usize::from(by.node);
        if by != state.life(at) || !state.nodes[at].todo.is_empty() {
            return None;
        }
        let heard: Heard = state
            .asks
            .iter()
            .filter(|ask| ask.by == by && ask.left <= newest && state.nodes[at].counts(ask.epoch))
            .flat_map(|ask| self.grants_in(ask))
            .collect();
        let node = &mut state.nodes[at];
        let counted = self.counted(node);
        let required = match node.hold {
            // The first right under a membership is by the sets of before, too.
            Hold::Held { renewed: false, sets, .. } if node.settle > 0 && self.keeps(Rule::HeldSetsCount) => {
                sets | counted
            }
            _ => counted,
        };
        let (until, agreed) = self.agreed(heard, required)?;
        let deed = match &mut node.hold {
            Hold::Watching => Deed::Open { left: until, epoch: agreed, gained: false },
            Hold::Claiming { epoch } => {
                let epoch = *epoch;
                node.hold = Hold::Held { epoch, armed: epoch, left: until, sets: required, renewed: true };
                Deed::Open { left: until, epoch, gained: true }
            }
            Hold::Held { armed, left, sets, renewed, .. } if until > *left => {
                *renewed = true;
                *left = until;
                *sets = required;
                *armed = agreed.max(*armed);
                Deed::Open { left: until, epoch: *armed, gained: false }
            }
            Hold::Held { .. } => return None,
        };
        self.decide(state, at, &[deed], self.keeps(Rule::AbsoluteDeadline));
        Some(())
    }

    fn grants_in(&self, ask: &Ask) -> impl Iterator<Item = Grant> + use<> {
        let Ask { granted, epoch, .. } = *ask;
        let left = if self.keeps(Rule::TimedFromAsking) { ask.left } else { self.setup.right };
        let voters = (0..self.setup.nodes).filter(move |voter| granted & 1 << voter != 0);
        voters.map(move |voter| Grant { voter, left, epoch })
    }

    /// How long a majority of every one of `sets` grants, and the lowest epoch among these grants.
    fn agreed(&self, mut heard: Heard, sets: u8) -> Option<(Ticks, Epoch)> {
        heard.sort_unstable_by_key(|grant| (grant.voter, Reverse((grant.left, grant.epoch))));
        if self.keeps(Rule::DistinctVoters) {
            heard.dedup_by_key(|grant| grant.voter);
        }
        heard.sort_unstable_by_key(|grant| Reverse(grant.left));
        let mut until = Ticks::MAX;
        for set in self.setup.each(sets) {
            let mut members = heard.iter().filter(|grant| set & 1 << grant.voter != 0);
            until = until.min(members.nth(set.count_ones() as usize / 2)?.left);
        }
        let counted = heard.iter().filter(|grant| grant.left >= until);
        counted.map(|grant| grant.epoch).min().map(|epoch| (until, epoch))
    }

    /// Does `deeds` at once, or leaves them to steps of their own.
    fn decide(&self, state: &mut State, at: NodeAt, deeds: &[Deed], at_once: bool) {
        state.nodes[at].todo.extend_from_slice(deeds);
        if at_once && !self.setup.freezes {
            while self.perform(state, at).is_some() {}
        }
    }

    /// The process does the first of what it decided.
    pub(crate) fn perform(&self, state: &mut State, at: NodeAt) -> Option<()> {
        if state.nodes[at].todo.is_empty() {
            return None;
        }
        let by = state.life(at);
        match state.nodes[at].todo.remove(0) {
            Deed::Open { left, epoch, gained } => {
                state.nodes[at].gate = left;
                let owner = Owner { who: by, epoch, view: state.nodes[at].view };
                state.event = self.judge(state, owner, gained);
                state.last = Some(owner);
            }
            Deed::Close => state.nodes[at].gate = 0,
            Deed::Tell { epoch, successor } => {
                let release = Release { by, epoch, successor, fresh: true };
                self.released(&mut state.nodes[at], &release);
                state.releases.push(release);
            }
        }
        Some(())
    }

    /// What the properties are to know of a gate that opens.
    fn judge(&self, state: &State, owner: Owner, gained: bool) -> Event {
        let how = match state.last {
            None => Gain::First,
            Some(last) if last.who == owner.who => Gain::Back,
            Some(last) if owner.epoch <= last.epoch => {
                let restarted = state.restarts_left < self.setup.restarts;
                return if restarted { Event::EpochForgotten } else { Event::EpochAgain };
            }
            Some(last) => {
                let of_last = |release: &&Release| release.by == last.who && release.epoch >= last.epoch;
                let restarted = state.life(usize::from(last.who.node)) != last.who;
                match state.releases.iter().find(of_last) {
                    Some(release) if release.fresh && release.successor == Some(owner.who.node) => Gain::AtOnce,
                    Some(_) => Gain::FromReleased,
                    None if restarted => Gain::FromRestarted,
                    None => Gain::FromSilent,
                }
            }
        };
        if !gained {
            let told = state.nodes[usize::from(owner.who.node)].told != 0;
            return if told { Event::RenewedAsTold } else { Event::Nothing };
        }
        Event::Gained { how, changed: state.last.is_some_and(|last| last.view < owner.view) }
    }

    /// Gives up a lease or a claim, to `successor` if somebody said it would take over.
    pub(crate) fn give_up(&self, state: &mut State, at: NodeAt, successor: Option<u8>) -> Option<()> {
        if state.releases_left == 0 || !state.nodes[at].todo.is_empty() {
            return None;
        }
        state.releases_left -= 1;
        match state.nodes[at].hold {
            Hold::Watching => return None,
            Hold::Claiming { epoch } => self.abandon(state, at, epoch),
            Hold::Held { epoch, .. } => {
                let node = &mut state.nodes[at];
                node.closed(epoch);
                if !self.keeps(Rule::ReleasedStaysReleased) {
                    node.ghost = Some(epoch);
                }
                let tell = Deed::Tell { epoch, successor };
                if self.keeps(Rule::CloseBeforeTelling) {
                    self.decide(state, at, &[Deed::Close, tell], true);
                } else {
                    self.decide(state, at, &[tell, Deed::Close], false);
                }
            }
        }
        Some(())
    }

    fn abandon(&self, state: &mut State, at: NodeAt, epoch: Epoch) {
        state.nodes[at].closed(epoch);
        self.decide(state, at, &[Deed::Tell { epoch, successor: None }], true);
    }

    /// A process ends, wherever it was, and is started anew.
    pub(crate) fn restart(&self, state: &mut State, at: NodeAt) -> Option<()> {
        if state.restarts_left == 0 {
            return None;
        }
        state.restarts_left -= 1;
        let before = std::mem::take(&mut state.nodes[at]);
        let right = self.setup.right;
        state.nodes[at] = Node {
            boot: before.boot + 1,
            gate: match (self.keeps(Rule::ClosedAtStart), self.keeps(Rule::ResetAtStart)) {
                (false, _) => right,
                (_, false) => before.gate,
                _ => 0,
            },
            quiet: if self.keeps(Rule::QuietAfterRestart) { right } else { 0 },
            settle: if self.keeps(Rule::SettleAfterChange) { right } else { 0 },
            log: before.log,
            view: before.log,
            ..Node::default()
        };
        // Answers to its earlier life are not for this one.
        state.asks.retain(|ask| usize::from(ask.by.node) != at);
        Some(())
    }

    /// A candidate counts by a newer membership from now on. What it was told and has now learned is told no more, what it
    /// asked for is worth nothing, and a claim is given up.
    pub(crate) fn view(&self, state: &mut State, at: NodeAt) -> Option<()> {
        let node = &mut state.nodes[at];
        if node.view == node.log || !node.todo.is_empty() {
            return None;
        }
        node.view = node.log;
        node.told &= !0 << (node.view + 1);
        if let Hold::Held { renewed, .. } = &mut node.hold {
            *renewed = false;
        }
        if self.keeps(Rule::SettleAfterChange) {
            node.settle = self.setup.right;
        }
        if let Hold::Claiming { epoch } = node.hold {
            self.abandon(state, at, epoch);
        }
        self.forget_grants(state, at);
        Some(())
    }

    /// A candidate counts no longer by what it was told.
    pub(crate) fn forget(&self, state: &mut State, at: NodeAt) -> Option<()> {
        let node = &mut state.nodes[at];
        if node.told == 0 || !node.todo.is_empty() {
            return None;
        }
        node.told = 0;
        self.forget_grants(state, at);
        Some(())
    }

    /// What was asked for while more was counted by.
    fn forget_grants(&self, state: &mut State, at: NodeAt) {
        if self.keeps(Rule::GrantsCountAsAsked) {
            state.asks.retain(|ask| usize::from(ask.by.node) != at);
        }
    }

    /// The voter sets of which a candidate needs a majority.
    fn counted(&self, node: &Node) -> u8 {
        let (own, told) = (self.counts_by(node.view), self.sets_told(node.told));
        match (self.keeps(Rule::CountTold), self.keeps(Rule::CountOwnBesideTold)) {
            (false, _) => own,
            (_, false) if told != 0 => told,
            _ => own | told,
        }
    }

    fn sets_told(&self, told: MembershipBits) -> u8 {
        let told = (0..=self.setup.last_membership()).filter(|membership| told & 1 << membership != 0);
        told.fold(0, |sets, membership| sets | self.counts_by(membership))
    }

    /// The voter sets that a candidate asks.
    pub(crate) fn counts_by(&self, view: Membership) -> u8 {
        if self.keeps(Rule::EveryVoterSet) { self.setup.sets_of(view) } else { self.setup.newest_set_of(view) }
    }
}

impl Node {
    /// After the lease or claim under `epoch` ended.
    pub(crate) fn closed(&mut self, epoch: Epoch) {
        self.hold = Hold::Watching;
        self.spent = self.spent.max(epoch);
    }

    /// Whether a grant of `epoch` is of use.
    fn counts(&self, granted: Epoch) -> bool {
        match self.hold {
            Hold::Watching => self.ghost == Some(granted),
            Hold::Claiming { epoch } => granted == epoch,
            Hold::Held { epoch, .. } => granted <= epoch && granted > self.spent,
        }
    }
}
