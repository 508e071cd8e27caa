//! What a node knows of VIPs that others hold, and how it comes to ask for little of it.
//!
//! Not here: what one VIP's candidate makes of it ([`crate::lease::candidate`]).

use std::sync::Arc;

use super::LeaseNode;
use crate::{
    ids::{NodeId, VipId},
    lease::{
        candidate::{Candidate, OthersPromise},
        datagram::Holding,
        summary::{LeftOut, Summaries, Summary},
        transition::Actions,
        view::{LeaseView, LogFacts},
    },
    time::BootNanos,
};

impl LeaseNode {
    /// What a round asks about: what this node holds or claims, and what its own turn may come for before the next round:
    /// by then the promise has been renewed, or the owner is in trouble. A round about nothing is asked all the same: that a
    /// majority answers says how fresh this node's state is.
    pub(super) fn due_in_round(&self, now: BootNanos, view: &LeaseView) -> Vec<VipId> {
        let due = self.candidates.values().filter(|candidate| self.is_due_in_round(now, view, candidate));
        due.map(|candidate| candidate.vip).collect()
    }

    fn is_due_in_round(&self, now: BootNanos, view: &LeaseView, candidate: &Candidate) -> bool {
        match self.deadlines.at(candidate.vip) {
            Some(turn) if candidate.only_watches(now, view) => turn <= now.plus(ahead(view)),
            _ => candidate.is_due(now, view, self.counting.sets(), now.plus(view.timing.renew())),
        }
    }

    /// Leaves out of what is due what this node knows as a voter: an owner asks each voter in one round of two, and says how old its
    /// newest round is that a majority answered. So until that majority's promises end at the earliest, less than a round before
    /// this node's own, there is nothing to ask for. From then on, and of owners that reach this voter and no majority, it asks
    /// as anybody does, though not ahead of its turn: the owner's next question may be to come yet.
    pub(super) fn leave_to_own_vote(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        view: &LeaseView,
        due: &mut Vec<VipId>,
        out: &mut Actions,
    ) {
        due.retain(|vip| {
            let told = self.hear_own_vote(now, facts, view, *vip, out);
            let Some(candidate) = self.candidates.get(vip) else { return false };
            match self.deadlines.at(*vip) {
                _ if !told => self.is_due_in_round(now, view, candidate),
                Some(turn) if candidate.only_watches(now, view) => turn <= now,
                _ => candidate.is_due(now, view, self.counting.sets(), now),
            }
        });
    }

    /// Takes over what this node, as a voter, has promised of a VIP. False if that is nothing, or to itself.
    pub(super) fn hear_own_vote(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        view: &LeaseView,
        vip: VipId,
        out: &mut Actions,
    ) -> bool {
        let own = self.grantor.promised(now, vip).filter(|own| own.by.node != self.node);
        if let Some(own) = &own {
            self.hear_of(now, facts, view, vip, &OthersPromise::by_own_vote(own), out);
        }
        own.is_some()
    }

    /// A VIP that is watched is promised to another one, if that is news.
    fn hear_of(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        view: &LeaseView,
        vip: VipId,
        other: &OthersPromise,
        out: &mut Actions,
    ) {
        if self.candidates.get(&vip).is_some_and(|candidate| candidate.is_behind(now, view, other)) {
            self.with(now, facts, vip, out, |candidate, ctx, _| candidate.promised_to(ctx, other));
        }
    }

    /// Lets a node without a vote be told in short of what it watches, instead of asking about it. That comes about when something
    /// may come free soon, though not before another question could be asked, or would so by the next round. It is told of
    /// everything then, so that there is nothing to be told in the next round: owners have renewed what they hold since.
    pub(super) fn leave_out(&mut self, now: BootNanos, view: &LeaseView, due: &mut Vec<VipId>) {
        let sets = self.counting.sets();
        let first = now.plus(view.timing.retry());
        let last = first.plus(ahead(view));
        let watched = self.candidates.values().filter_map(|candidate| {
            let free = candidate.watched_until(now, view, sets)?;
            (free > first).then_some((candidate.vip, free))
        });
        let (vips, free): (Vec<VipId>, Vec<BootNanos>) = watched.unzip();
        let vips = if free.into_iter().any(|free| free <= last) { vips } else { Vec::new() };
        self.left_out = LeftOut::new(self.round + 1, now, vips);
        due.retain(|vip| !self.left_out.has(*vip));
    }

    /// A voter told in short what others hold. What a majority takes an owner to hold, and this node too, it need not ask about for
    /// as long; the rest it asks about if it is due.
    pub(super) fn hear_summaries(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        view: &LeaseView,
        voter: NodeId,
        told: &[Summary],
        out: &mut Actions,
    ) {
        let sets = Arc::clone(self.counting.sets());
        let Some(left_out) = self.left_out.answered(voter, told, &sets) else { return };
        let asked_at = self.left_out.asked_at();
        let mut known = Summaries::default();
        for candidate in self.candidates.values() {
            // What was free by then is nobody's any more, though nobody said so.
            if let Some(by) = candidate.known_by(asked_at) {
                known.add(candidate.vip, by, 0);
            }
        }
        let agreed = self.left_out.agreed(&sets, &known);
        for vip in left_out {
            let by = self.candidates.get(&vip).and_then(|candidate| candidate.known_by(asked_at));
            let until = |by: &Holding| {
                agreed.iter().find(|(node, boot, _)| (*node, *boot) == (by.node, by.boot)).map(|(.., until)| *until)
            };
            if let Some((by, until)) = by.and_then(|by| Some((by, until(&by)?))) {
                let other = OthersPromise { by, known_at: asked_at, until, majority_until: until };
                self.hear_of(now, facts, view, vip, &other, out);
            }
            if self.candidates.get(&vip).is_some_and(|candidate| self.is_due_in_round(now, view, candidate)) {
                self.ask_now.insert(vip);
            }
        }
    }
}

/// How long before its turn may come a VIP that is watched is asked about: a round, and as much as one may be late.
fn ahead(view: &LeaseView) -> u64 {
    view.timing.renew() * 5 / 4
}
