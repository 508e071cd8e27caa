//! The voter's half: whom it promised the VIP to.

use crate::{
    model::LeaseModel,
    rule::Rule,
    state::{Ask, Node, NodeAt, Promise, Release, State},
};

impl LeaseModel {
    /// A voter hears a question. Refusals change nothing, so that only grants are steps.
    pub(crate) fn hear_ask(&self, state: &mut State, voter: NodeAt, ask: usize) -> Option<()> {
        let asked = state.asks[ask];
        let idle = state.nodes[voter].todo.is_empty();
        let is_asked = self.setup.members(asked.sets) & 1 << voter != 0;
        if !idle || !is_asked {
            return None;
        }
        let grantor = &mut state.nodes[voter];
        if !asked.is_enough_for(grantor) && self.keeps(Rule::RefuseStaleMembership) {
            return None;
        }
        if grantor.quiet > 0 {
            return None;
        }
        if grantor.promise.is_some_and(|promise| promise.to != asked.by) && self.keeps(Rule::OnePromise) {
            return None;
        }
        let of_another = grantor.highest_of.is_some_and(|of| of != asked.by);
        if (asked.epoch < grantor.highest || asked.epoch == grantor.highest && of_another)
            && self.keeps(Rule::EpochsOnlyGrow)
        {
            return None;
        }
        grantor.highest = asked.epoch;
        grantor.highest_of = Some(asked.by);
        let length = if self.keeps(Rule::DriftMargin) { self.setup.right } else { self.setup.right - 1 };
        let before = grantor.promise.map_or(0, |promise| promise.left);
        grantor.promise = Some(Promise { to: asked.by, epoch: asked.epoch, left: before.max(length) });
        state.asks[ask].granted |= 1 << voter;
        Some(())
    }

    /// A voter refuses who does not count by the newest membership in its log, and tells it. The asker counts by that too.
    pub(crate) fn tell(&self, state: &mut State, voter: NodeAt, ask: usize) -> Option<()> {
        let asked = state.asks[ask];
        let asker = usize::from(asked.by.node);
        let is_asked = self.setup.members(asked.sets) & 1 << voter != 0;
        let idle = state.nodes[voter].todo.is_empty() && state.nodes[asker].todo.is_empty();
        let news = 1 << state.nodes[voter].log;
        if !idle || !is_asked || asked.is_enough_for(&state.nodes[voter]) || state.nodes[asker].told & news != 0 {
            return None;
        }
        state.nodes[asker].told |= news;
        Some(())
    }

    /// A voter hears that a VIP is free.
    pub(crate) fn released(&self, grantor: &mut Node, release: &Release) {
        if grantor.highest <= release.epoch {
            grantor.highest = release.epoch + 1;
            grantor.highest_of = None;
        }
        let own = |promise: &Promise| promise.to == release.by && promise.epoch <= release.epoch;
        if grantor.promise.is_some_and(|promise| own(&promise) || !self.keeps(Rule::ReleaseFreesOwnPromise)) {
            grantor.promise = None;
        }
    }
}

impl Ask {
    /// Whether the asker counts by the newest membership in the voter's log, or by a newer one.
    fn is_enough_for(&self, voter: &Node) -> bool {
        self.view >= voter.log || self.told & 1 << voter.log != 0
    }
}
