//! How an owner gives its VIP away: whom it offers it to, and what it does when nobody takes it.

use smallvec::SmallVec;

use super::{Candidate, Context, Effect, Hold, is_unfit};
use crate::{
    ids::{NodeId, VipId},
    lease::{
        Epoch, Fitness, LossCause, PlacementReason, Unfitness,
        datagram::{Acceptance, Offer},
    },
    time::BootNanos,
};

/// For how many promises a node that can serve a VIP and should not any more keeps it for want of one that can take it: 4.5 s
/// with the default lease. Those that the VIP moves to need a quarter of a second to put it in place, and one that was just started
/// as long as it takes to settle; arbitrary beyond that.
const KEPT_PROMISES: u64 = 25;
/// And for how long at most when the node is being ended: whoever ends it waits.
const KEPT_DRAINING_MAX_NANOS: u64 = 10_000_000_000;

/// Whether and how an owner is giving the VIP away.
pub(super) enum Leaving {
    Stays {
        retry_at: BootNanos,
    },
    Offering {
        why: Why,
        /// Who was not asked yet, best first.
        left: Vec<NodeId>,
        /// Whose answers are waited for: one, or all when the first of an owner that cannot serve did not answer.
        asked: SmallVec<[NodeId; 4]>,
        since: BootNanos,
        sent: BootNanos,
        /// The first that would take it if nobody else does.
        second_best: Option<NodeId>,
    },
}

/// Why an owner gives the VIP away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It cannot serve: offers it to everybody, in turn until one does not answer and then to all at once, then gives it to
    /// whoever had rather not have it, and lets it go if nobody takes it. If it can serve and should not any more, it keeps it for a
    /// while before it lets it go.
    Unfit(Unfitness),
    /// It had rather not: offers it to everybody in turn, and keeps it if no fit node takes it and no operator wants it
    /// elsewhere.
    Reluctant(Unfitness),
    /// The placement names a better node: offers it to that one.
    Better,
}

impl Why {
    /// Whether offers made for this reason go on for that one.
    fn goes_on_as(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// Whether clients are served all the same, so that it can wait for who takes the VIP.
    fn can_wait(self) -> bool {
        matches!(self, Self::Unfit(Unfitness::NotCandidate | Unfitness::Draining))
    }
}

impl Candidate {
    /// The owner offers the VIP. A node that had rather not have it says so at once, also when it is meant for fit ones: where
    /// the trouble is one that all share, each owner would else go on asking each other node.
    pub(in crate::lease) fn heard_offer(&self, ctx: &Context<'_>, from: NodeId, offer: Offer, out: &mut Vec<Effect>) {
        let Offer { vip, epoch, scope, to_reluctant } = offer;
        let reluctant = ctx.fitness != Fitness::Fit;
        let able = !is_unfit(ctx) && ctx.scope.digest() == scope;
        if matches!(self.hold, Hold::Watching) && able && ctx.hears && ctx.now >= ctx.settled_at {
            let answer = Acceptance { vip, epoch, reluctant };
            let declines = reluctant && !to_reluctant;
            out.push(if declines { Effect::Decline(from, answer) } else { Effect::Accept(from, answer) });
        }
    }

    /// A node that the VIP was offered to would take it. Of several the first that says so gets it.
    pub(in crate::lease) fn heard_accept(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        accepted: Acceptance,
        out: &mut Vec<Effect>,
    ) {
        // An answer to an offer of an earlier epoch says nothing of this one.
        if let Hold::Held { epoch, leaving: Leaving::Offering { asked, why, second_best, .. }, told: None, .. } =
            &mut self.hold
            && asked.contains(&from)
            && *epoch == accepted.epoch
        {
            let why = *why;
            if accepted.reluctant {
                if matches!(why, Why::Reluctant(_)) && is_wished_at(ctx, from) {
                    // Neither is better off than the other, and an operator chose.
                    self.release(ctx, Some(from), LossCause::Moved { to: from }, out);
                } else {
                    second_best.get_or_insert(from);
                    asked.retain(|node| *node != from);
                    if asked.is_empty() {
                        self.offer_next(ctx, out);
                    }
                }
                return;
            }
            let cause = match (why, ctx.ranking.reason) {
                (Why::Unfit(because) | Why::Reluctant(because), _) => LossCause::Left { to: Some(from), because },
                (Why::Better, PlacementReason::Wish) => LossCause::Moved { to: from },
                (Why::Better, PlacementReason::Together) => LossCause::Rejoined { to: from },
                (Why::Better, PlacementReason::Apart) => LossCause::Parted { to: from },
                (Why::Better, PlacementReason::Preferred | PlacementReason::Stays | PlacementReason::Spread) => {
                    LossCause::FellBack { to: from }
                }
            };
            self.release(ctx, Some(from), cause, out);
        }
    }

    /// Offers the VIP to who should have it; leaves without a successor if it must and nobody takes it.
    pub(super) fn leave(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        if !should_leave(ctx).is_some_and(Why::can_wait) {
            self.kept_since = None;
        }
        let urgent = should_leave(ctx).is_some_and(|why| matches!(why, Why::Unfit(_)) && !self.keeps(why));
        let Hold::Held { epoch, since: gained, leaving, told: None, .. } = &mut self.hold else { return };
        let (vip, epoch, timing) = (self.vip, *epoch, ctx.view.timing);
        if let Leaving::Offering { why, .. } = leaving
            && !should_leave(ctx).is_some_and(|now| why.goes_on_as(now))
        {
            *leaving = Leaving::Stays { retry_at: ctx.now };
        }
        let Some(why) = should_leave(ctx) else { return };
        match leaving {
            Leaving::Stays { retry_at } if ctx.now < *retry_at && !urgent => {}
            // What brought the VIP here may be newer than what this node knows of where it belongs.
            Leaving::Stays { .. } if why == Why::Better && ctx.applied < gained.index => {}
            Leaving::Stays { .. } => {
                let others = ctx.ranking.order.iter().copied().filter(|n| *n != ctx.node);
                let mut left: Vec<NodeId> =
                    if why == Why::Better { others.take(1).collect() } else { others.collect() };
                if left.is_empty() {
                    self.nobody_takes_it(ctx, why, None, out);
                    return;
                }
                let to = left.remove(0);
                let (asked, since, sent) = (SmallVec::from_slice(&[to]), ctx.now, ctx.now);
                *leaving = Leaving::Offering { why, left, asked, since, sent, second_best: None };
                out.push(offer(ctx, (vip, epoch), why, to));
            }
            Leaving::Offering { why: told_why, asked, since, sent, .. } => {
                *told_why = why;
                if ctx.now.since(*since) < 4 * timing.retry() {
                    if ctx.now.since(*sent) >= timing.retry() / 2 {
                        *sent = ctx.now;
                        out.extend(asked.iter().map(|to| offer(ctx, (vip, epoch), why, *to)));
                    }
                } else {
                    self.offer_next(ctx, out);
                }
            }
        }
    }

    /// Those that were asked do not take it, or had rather not: asks the next. Clients of an owner that cannot serve are not
    /// served meanwhile, and the ranking has dead nodes in it: once one of these does not answer, all that are left are asked.
    fn offer_next(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        let Hold::Held {
            epoch,
            leaving: Leaving::Offering { why, left, asked, since, sent, second_best },
            told: None,
            ..
        } = &mut self.hold
        else {
            return;
        };
        if left.is_empty() {
            let (why, second_best) = (*why, *second_best);
            self.nobody_takes_it(ctx, why, second_best, out);
            return;
        }
        let silent = !asked.is_empty();
        if silent && matches!(why, Why::Unfit(_)) {
            // Who did not answer yet may still do so.
            asked.extend(left.drain(..));
        } else {
            *asked = SmallVec::from_slice(&[left.remove(0)]);
        }
        (*since, *sent) = (ctx.now, ctx.now);
        out.extend(asked.iter().map(|to| offer(ctx, (self.vip, *epoch), *why, *to)));
    }

    /// Everybody was asked. Who cannot serve gives it to one that had rather not have it, or lets go; who can, keeps the VIP
    /// and asks again later. Who can and only should not any more keeps it, too, while its new nodes put it in place, or one that
    /// was just started settles; a node that ends does not wait for nodes that are not there.
    fn nobody_takes_it(&mut self, ctx: &Context<'_>, why: Why, second_best: Option<NodeId>, out: &mut Vec<Effect>) {
        let timing = ctx.view.timing;
        let after = match why {
            Why::Unfit(unfitness) if why.can_wait() && second_best.is_none() => {
                let since = *self.kept_since.get_or_insert(ctx.now);
                let longest = KEPT_PROMISES * timing.promise();
                let longest = match unfitness {
                    Unfitness::Draining if ctx.is_followed => longest.min(KEPT_DRAINING_MAX_NANOS),
                    Unfitness::Draining => 0,
                    _ => longest,
                };
                (ctx.now.since(since) < longest).then(|| timing.retry())
            }
            Why::Unfit(_) => None,
            Why::Reluctant(_) | Why::Better => Some(5 * timing.promise()),
        };
        match (&mut self.hold, why, after) {
            (Hold::Held { leaving, .. }, _, Some(after)) => {
                *leaving = Leaving::Stays { retry_at: ctx.now.plus(after) };
            }
            (_, Why::Unfit(because), None) => {
                self.release(ctx, second_best, LossCause::Left { to: second_best, because }, out);
            }
            (Hold::Watching | Hold::Claiming { .. } | Hold::Held { .. }, _, _) => {}
        }
    }

    /// Whether it keeps the VIP for want of a candidate, and asks again only when it is time.
    pub(super) fn keeps(&self, why: Why) -> bool {
        why.can_wait() && self.kept_since.is_some()
    }
}

fn is_wished_at(ctx: &Context<'_>, node: NodeId) -> bool {
    ctx.ranking.reason == PlacementReason::Wish && ctx.ranking.order.first() == Some(&node)
}

fn offer(ctx: &Context<'_>, (vip, epoch): (VipId, Epoch), why: Why, to: NodeId) -> Effect {
    let to_reluctant = match why {
        Why::Unfit(_) => true,
        Why::Reluctant(_) => is_wished_at(ctx, to),
        Why::Better => false,
    };
    Effect::Offer(to, Offer { vip, epoch, scope: ctx.scope.digest(), to_reluctant })
}

/// Why an owner should not stay, if it should not.
pub(super) fn should_leave(ctx: &Context<'_>) -> Option<Why> {
    match ctx.fitness {
        Fitness::Unfit(what) => Some(Why::Unfit(what)),
        Fitness::Reluctant(what) => Some(Why::Reluctant(what)),
        Fitness::Fit => ctx.ranking.order.first().is_some_and(|first| *first != ctx.node).then_some(Why::Better),
    }
}
