//! One VIP as seen by a node that may hold it.
//!
//! Decides whether this node may answer for the VIP. Fed facts (words of voters, releases, offers,
//! time passing, the placement), it returns effects and performs none of them.
//!
//! Two nodes answering for one address is worse than none. So a right is timed from before it was
//! asked for; it counts only distinct voters, of every voter set; an epoch that was given up, lost
//! or abandoned is never armed again; and the gate closes before anyone is told that the VIP is free.
//!
//! Not here: rounds and datagrams ([`super::engine`]), who should hold what ([`super::placement`]).

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use ballast_planted::Bug;
use smallvec::SmallVec;

use super::{
    datagram::{Acceptance, Holding, Offer, Release, Stance, Want},
    grantor::Promise,
    grants::{Agreed, Grants, Said},
    rules::{Rule, Rules},
    scope::Scope,
    timing::Timing,
    view::{Confirmed, LeaseView},
    voters::VoterSets,
};
use crate::{
    ids::{Boot, LogIndex, NodeId, VipId},
    lease::{Epoch, Fitness, GainCause, LossCause, PlacementReason, Ranking, Refusal, Unfitness, Unrenewed},
    time::BootNanos,
};

/// About what it takes a node to ask the link for an address and to put it on its interface, when there are many.
const IN_PLACE_NANOS: u64 = 5_000_000;

/// For how many promises a node that can serve a VIP and should not any more keeps it for want of one that can take it: 4.5 s
/// with the default lease. Those that the VIP moves to need a quarter of a second to put it in place, and one that was just started
/// as long as it takes to settle; arbitrary beyond that.
const KEPT_PROMISES: u64 = 25;
/// And for how long at most when the node is being ended: whoever ends it waits.
const KEPT_DRAINING_MAX_NANOS: u64 = 10_000_000_000;

/// What a candidate is told with every event.
pub(super) struct Context<'a> {
    pub now: BootNanos,
    pub node: NodeId,
    pub boot: Boot,
    pub view: &'a LeaseView,
    /// The voter sets of which a majority is needed: the view's, and what voters told of beside.
    pub voters: Arc<VoterSets>,
    pub ranking: &'a Ranking,
    /// The addresses that the view knows the VIP by.
    pub scope: &'a Scope,
    /// Whether this node is fit to hold the VIP.
    pub fitness: Fitness,
    /// Before this, no VIP is newly taken.
    pub settled_at: BootNanos,
    /// This node's last applied entry.
    pub applied: LogIndex,
    /// A majority answered this node lately.
    pub hears: bool,
    /// Another node that the VIP may be at was heard lately, so that it may be there to take it in a moment.
    pub is_followed: bool,
    pub rules: Rules,
}

/// What a candidate wants done. The engine carries them out in this order.
pub(super) enum Effect {
    Close {
        successor: Option<NodeId>,
        /// What is closed, if the right to it has not ended yet.
        covers: Option<Scope>,
    },
    Open {
        epoch: Epoch,
        until: BootNanos,
        predecessor: Option<NodeId>,
    },
    Gained {
        epoch: Epoch,
        cause: GainCause,
    },
    Lost {
        epoch: Epoch,
        cause: LossCause,
    },
    TellAll(Release),
    Offer(NodeId, Offer),
    Accept(NodeId, Acceptance),
    /// Say that this node takes what it was offered only if nobody else does, and make nothing ready for it.
    Decline(NodeId, Acceptance),
    /// Make ready for a VIP that is about to be claimed.
    Prepare,
    /// Ask the voters about this VIP now instead of with the next round.
    AskNow,
}

/// One VIP's state on this node.
pub(super) struct Candidate {
    pub vip: VipId,
    hold: Hold,
    /// No epoch up to this one is armed again.
    spent: Epoch,
    /// Highest epoch heard of.
    highest: Epoch,
    /// What each voter last said while this node was not the owner.
    words: BTreeMap<NodeId, Heard>,
    /// Who holds it, as far as this node knows.
    known: Option<Known>,
    /// The last release heard of or made.
    released: Option<Released>,
    /// When the voters were last asked about this VIP.
    asked_last: BootNanos,
    /// Before this, the VIP is left to others.
    back_off_until: BootNanos,
    /// Since when this node may hold it, as far as it knows of itself.
    fit_since: Option<BootNanos>,
    /// Since when it holds what it should not hold any more, because nobody took it.
    kept_since: Option<BootNanos>,
    /// Only with [`Rule::ReleasedStaysReleased`] broken: what an owner remembers of its last lease.
    ghost: Option<(Epoch, Grants)>,
}

#[expect(clippy::large_enum_variant, reason = "one for each VIP, and the lease thread allocates nothing for it")]
enum Hold {
    /// Asks whether it could win before it tries.
    Watching,
    /// Has raised the epoch and collects grants.
    Claiming {
        epoch: Epoch,
        since: BootNanos,
        grants: Grants,
        cause: GainCause,
        /// Who finishes what clients have begun with it.
        predecessor: Option<NodeId>,
    },
    /// Owns the VIP until `until`, by a majority of each of `sets`.
    Held {
        /// The right was given under the present membership, and not only carried into it.
        renewed: bool,
        /// What it renews under: above `armed` while it adopts a higher one.
        epoch: Epoch,
        /// What a majority knows it by.
        armed: Epoch,
        until: BootNanos,
        /// How long the right is that ends then, from the question.
        right: u64,
        grants: Grants,
        /// What voters said last that did not grant it.
        refused: BTreeMap<NodeId, Refusal>,
        sets: VoterSets,
        /// Of the addresses that the right was given for, those that may be answered for.
        covers: Scope,
        fresh: Confirmed,
        since: Confirmed,
        leaving: Leaving,
        /// Only with [`Rule::CloseBeforeTelling`] broken: told, but not yet closed.
        told: Option<(BootNanos, LossCause)>,
    },
}

/// Whether and how an owner is giving the VIP away.
enum Leaving {
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
enum Why {
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

/// A voter's word while watching.
#[derive(Clone, Copy)]
struct Heard {
    /// When it was asked for.
    asked_at: BootNanos,
    /// It said that the VIP is free.
    free: bool,
    /// When it was or will be free, as seen from here.
    free_at: BootNanos,
    /// Last log index it told.
    last: LogIndex,
    /// It knows the VIP by other addresses, or not at all.
    other_addresses: bool,
}

/// To whom else a VIP is promised, as this node's own vote says or a majority of the voters in short.
#[derive(Clone, Copy)]
pub(super) struct OthersPromise {
    pub by: Holding,
    /// When it was given last, or voters were asked.
    pub known_at: BootNanos,
    pub until: BootNanos,
    /// Until when a majority of the voters has promised it at least; in the past if that is not known.
    pub majority_until: BootNanos,
}

impl OthersPromise {
    /// By this node's own vote.
    pub(super) fn by_own_vote(own: &Promise) -> Self {
        let Promise { by, given_at, until, majority_until, .. } = *own;
        Self { by, known_at: given_at, until, majority_until }
    }
}

#[derive(Clone, Copy)]
struct Known {
    by: Holding,
    until: BootNanos,
}

#[derive(Clone, Copy)]
struct Released {
    holding: Holding,
    successor: Option<NodeId>,
    at: BootNanos,
    /// It may be passed on. This node's own may once its gate is known to be closed.
    told: bool,
}

/// For status pages.
pub(super) struct Look {
    pub holder: Option<NodeId>,
    pub epoch: Epoch,
    pub until: BootNanos,
    pub fresh: Option<(Confirmed, Confirmed)>,
    pub why: &'static str,
}

impl Candidate {
    pub(super) fn new(vip: VipId) -> Self {
        Self {
            vip,
            hold: Hold::Watching,
            spent: Epoch::default(),
            highest: Epoch::default(),
            words: BTreeMap::new(),
            known: None,
            released: None,
            asked_last: BootNanos::default(),
            back_off_until: BootNanos::default(),
            fit_since: None,
            kept_since: None,
            ghost: None,
        }
    }

    /// What to ask the voters for.
    pub(super) fn want(&self, ctx: &Context<'_>) -> Want {
        let claim = match &self.hold {
            Hold::Watching => None,
            Hold::Claiming { epoch, .. } | Hold::Held { epoch, .. } => Some(*epoch),
        };
        let released = self.released.filter(|_| self.may_pass_on(ctx.now, ctx.view)).map(|r| r.holding);
        Want { vip: self.vip, scope: ctx.scope.digest(), claim, released }
    }

    /// The addresses that this node's right covers, if it holds the VIP.
    pub(super) fn covers(&self) -> Option<&Scope> {
        match &self.hold {
            Hold::Held { covers, .. } => Some(covers),
            Hold::Watching | Hold::Claiming { .. } => None,
        }
    }

    /// Whether this node neither holds nor claims it and has no release of it to pass on.
    pub(super) fn only_watches(&self, now: BootNanos, view: &LeaseView) -> bool {
        matches!(self.hold, Hold::Watching) && !self.may_pass_on(now, view)
    }

    /// Whether a right that it holds has been renewed up to `until`; one that holds nothing has nothing to renew.
    pub(super) fn is_renewed(&self, until: BootNanos) -> bool {
        match self.hold {
            Hold::Held { until: held, .. } => held >= until,
            Hold::Watching | Hold::Claiming { .. } => true,
        }
    }

    /// How long a right this node was given last, if it holds the VIP.
    pub(super) fn right(&self) -> Option<u64> {
        match &self.hold {
            Hold::Held { right, .. } => Some(*right),
            Hold::Watching | Hold::Claiming { .. } => None,
        }
    }

    /// Whether the next round of questions should be about this VIP, for a node whose turn does not come: one that may come free
    /// by `then`.
    pub(super) fn is_due(&self, now: BootNanos, view: &LeaseView, voters: &VoterSets, then: BootNanos) -> bool {
        !self.only_watches(now, view) || self.free_by(voters).is_none_or(|free| free <= then)
    }

    /// Whether that says more than voters did when they were asked last: who holds it, or that this node need not ask them for as
    /// long.
    pub(super) fn is_behind(&self, now: BootNanos, view: &LeaseView, other: &OthersPromise) -> bool {
        let news = || other.majority_until > now || self.known.is_none_or(|known| known.by != other.by);
        self.only_watches(now, view) && other.known_at > self.asked_last && news()
    }

    /// It is known to be promised to another. What voters said when they were asked last is out of date: a majority has
    /// promised since, and is not free before that is over.
    pub(super) fn promised_to(&mut self, ctx: &Context<'_>, other: &OthersPromise) {
        self.learn_owner(ctx, other.by, other.until);
        for word in self.words.values_mut() {
            word.free = false;
            word.free_at = word.free_at.max(other.majority_until);
        }
    }

    /// Under what another holds it that this node watches, as far as it knows, and for longer than until `then`.
    pub(super) fn known_by(&self, then: BootNanos) -> Option<Holding> {
        let known = self.known.filter(|known| matches!(self.hold, Hold::Watching) && known.until > then);
        known.map(|known| known.by)
    }

    /// When a majority of voters will be free at the earliest, of a VIP that this node watches and whose owner it knows.
    pub(super) fn watched_until(&self, now: BootNanos, view: &LeaseView, voters: &VoterSets) -> Option<BootNanos> {
        self.known.filter(|_| self.only_watches(now, view)).and_then(|_| self.free_by(voters))
    }

    fn learn_owner(&mut self, ctx: &Context<'_>, by: Holding, until: BootNanos) {
        self.highest = self.highest.max(by.epoch);
        if by.node != ctx.node && self.known.is_none_or(|k| k.by.epoch <= by.epoch || k.until < ctx.now) {
            self.known = Some(Known { by, until });
        }
    }

    /// When a majority of voters will be free at the earliest, as far as their last words tell: those of who answered the last
    /// question, if they are a majority. What others foretold may be earlier, of the last owner's own vote for one, and is worth
    /// nothing if they are gone.
    fn free_by(&self, voters: &VoterSets) -> Option<BootNanos> {
        let by_words_since = |since: BootNanos| {
            let words = self.words.iter().filter(|(_, word)| word.asked_at >= since);
            let times: SmallVec<[(NodeId, BootNanos); 8]> = words.map(|(n, word)| (*n, word.free_at)).collect();
            voters.free_by(&times)
        };
        let free = by_words_since(self.asked_last).or_else(|| by_words_since(BootNanos::default()))?;
        (free.get() != u64::MAX).then_some(free)
    }

    /// Whether the last release may be news to voters.
    pub(super) fn may_pass_on(&self, now: BootNanos, view: &LeaseView) -> bool {
        // Long enough for every promise under it to have ended by itself.
        self.released.is_some_and(|r| r.told && now.since(r.at) < 2 * view.longest.promise())
    }

    /// Says that the voters were just asked.
    pub(super) fn asked(&mut self, now: BootNanos) {
        self.asked_last = now;
    }

    /// A voter answered.
    pub(super) fn heard(&mut self, ctx: &Context<'_>, said: &Said, out: &mut Vec<Effect>) {
        self.note(ctx, said);
        if let Hold::Held { refused, .. } = &mut self.hold {
            match refusal(said.stance) {
                Some(refusal) => refused.insert(said.voter, refusal),
                None => refused.remove(&said.voter),
            };
        }
        match &mut self.hold {
            Hold::Watching => self.consider(ctx, out),
            Hold::Claiming { epoch, grants, .. } => match said.stance {
                Stance::Granted { epoch: granted, scope } if granted == *epoch && scope == ctx.scope.digest() => {
                    grants.add(ctx.now, ctx.rules, granted, true, said);
                    self.arm(ctx, out);
                }
                Stance::LowEpoch { highest } if highest >= *epoch => {
                    // All over again under one that nobody had, so that every owner's is its own.
                    *epoch = highest.next();
                    self.highest = self.highest.max(*epoch);
                    *grants = Grants::default();
                    out.push(Effect::AskNow);
                }
                // Two claim at once: all nodes agree on who yields, whatever they think of the ranking.
                Stance::Taken { by, .. } if (by.epoch, Reverse(by.node)) > (*epoch, Reverse(ctx.node)) => {
                    self.abandon(ctx, out);
                }
                Stance::Taken { by, .. } if by.node != ctx.node => self.abandon_if_lost(ctx, out),
                _ => {}
            },
            Hold::Held { epoch, grants, covers, told, .. } => match said.stance {
                // A promise is to this life of this node; the epoch only grows under it.
                Stance::Granted { epoch: granted, scope }
                    if granted <= *epoch && granted > self.spent && told.is_none() =>
                {
                    let whole = scope == ctx.scope.digest() || !ctx.rules.keep(Rule::PartIsNotAll);
                    // For just what may be answered for already, it renews that.
                    if whole || scope == covers.within(ctx.scope).digest() {
                        grants.add(ctx.now, ctx.rules, granted, whole, said);
                        self.arm(ctx, out);
                    }
                }
                Stance::LowEpoch { highest } if highest >= *epoch => {
                    *epoch = highest.next();
                    self.highest = self.highest.max(*epoch);
                    out.push(Effect::AskNow);
                }
                _ => {}
            },
        }
        if self.ghost.is_some() {
            self.rearm_released(ctx, said, out);
        }
    }

    /// A holder gave the VIP back.
    pub(super) fn heard_release(
        &mut self,
        ctx: &Context<'_>,
        holding: Holding,
        successor: Option<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        if self.released.is_some_and(|r| r.holding == holding) {
            return;
        }
        self.released = Some(Released { holding, successor, at: ctx.now, told: true });
        self.highest = self.highest.max(holding.epoch);
        if self.known.is_some_and(|k| (k.by.node, k.by.boot) == (holding.node, holding.boot)) {
            self.known = None;
            for heard in self.words.values_mut() {
                heard.free_at = heard.free_at.min(ctx.now);
            }
        }
        if matches!(self.hold, Hold::Claiming { .. }) {
            // A voter may just have become free.
            out.push(Effect::AskNow);
        }
        if !matches!(self.hold, Hold::Watching) || is_unfit(ctx) || ctx.now < ctx.settled_at {
            return;
        }
        if successor == Some(ctx.node) {
            // What it said may have been that it had rather not, to an offer for which nothing was made ready.
            out.push(Effect::Prepare);
            // The holder's own word that nobody owns it is better than any pre-ask.
            self.claim(ctx, GainCause::HandedOver { from: holding.node }, Some(holding.node), out);
        } else if successor.is_some() {
            self.back_off_until = ctx.now.plus(4 * ctx.view.timing.stagger());
        }
    }

    /// The owner offers the VIP. A node that had rather not have it says so at once, also when it is meant for fit ones: where
    /// the trouble is one that all share, each owner would else go on asking each other node.
    pub(super) fn heard_offer(&self, ctx: &Context<'_>, from: NodeId, offer: Offer, out: &mut Vec<Effect>) {
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
    pub(super) fn heard_accept(
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

    /// The membership changed: words of who is no voter any more and a half-won claim are worth nothing.
    pub(super) fn membership_changed(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        let members = ctx.voters.members();
        self.words.retain(|voter, _| members.contains(voter));
        self.abandon(ctx, out);
        if let Hold::Held { renewed, .. } = &mut self.hold {
            *renewed = false;
        }
        self.forget_grants();
    }

    /// What was granted so far is worth nothing: less is counted by than when it was asked for, or the VIP has other
    /// addresses since. An owner's right stands, it was given by all of them and for what it covers.
    pub(super) fn forget_grants(&mut self) {
        if let Hold::Claiming { grants, .. } | Hold::Held { grants, .. } = &mut self.hold {
            *grants = Grants::default();
        }
    }

    /// What this node knows of its own fitness may have changed.
    pub(super) fn fitness_changed(&mut self, ctx: &Context<'_>) {
        self.fit_since = if is_unfit(ctx) { None } else { self.fit_since.or(Some(ctx.now)) };
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        match &self.hold {
            Hold::Watching => self.consider(ctx, out),
            Hold::Claiming { since, .. } => {
                if is_unfit(ctx) || ctx.now.since(*since) > ctx.view.timing.right() / 2 {
                    self.abandon(ctx, out);
                } else if ctx.now >= self.resend_at(ctx) {
                    out.push(Effect::AskNow);
                }
            }
            Hold::Held { epoch, armed, until, told, .. } => {
                let (epoch, armed) = (*epoch, *armed);
                if let Some((_, cause)) = told.filter(|(at, _)| ctx.now >= *at) {
                    self.closed(epoch);
                    out.push(Effect::Close { successor: None, covers: None });
                    out.push(Effect::Lost { epoch: armed, cause });
                } else if ctx.now >= *until {
                    let why = self.unrenewed(ctx);
                    self.closed(epoch);
                    self.known = None;
                    out.push(Effect::Close { successor: None, covers: None });
                    out.push(Effect::Lost { epoch: armed, cause: LossCause::NotRenewed(why) });
                } else {
                    self.leave(ctx, out);
                }
            }
        }
    }

    /// Why the right that ends now was not renewed.
    fn unrenewed(&self, ctx: &Context<'_>) -> Unrenewed {
        let Hold::Held { right, refused, .. } = &self.hold else { return Unrenewed::Unanswered };
        if ctx.now.since(self.asked_last) > 2 * Timing::of_right(*right).retry() {
            return Unrenewed::StoodStill;
        }
        if ctx.voters.quorum(|voter| !refused.contains_key(&voter)) {
            return Unrenewed::Unanswered;
        }
        let count = |refusal: &Refusal| refused.values().filter(|other| *other == refusal).count();
        let most = refused.values().copied().max_by_key(|refusal| (count(refusal), Reverse(*refusal)));
        most.map_or(Unrenewed::Unanswered, Unrenewed::Refused)
    }

    /// When [`Candidate::tick`] has something to do next.
    pub(super) fn deadline(&self, ctx: &Context<'_>) -> Option<BootNanos> {
        match &self.hold {
            Hold::Watching => self.turn(ctx).map(|turn| self.ask_at(ctx, turn)),
            Hold::Claiming { .. } => Some(self.resend_at(ctx)),
            Hold::Held { until, since, leaving, told, .. } => {
                let told = told.map(|(at, _)| at);
                let offer = match leaving {
                    Leaving::Offering { sent, .. } => Some(sent.plus(ctx.view.timing.retry() / 2)),
                    Leaving::Stays { retry_at } => should_leave(ctx).map(|why| match why {
                        Why::Unfit(_) if !self.keeps(why) => ctx.now,
                        Why::Better if ctx.applied < since.index => ctx.now.plus(ctx.view.timing.retry()),
                        Why::Unfit(_) | Why::Reluctant(_) | Why::Better => (*retry_at).max(ctx.now),
                    }),
                };
                [Some(*until), told, offer].into_iter().flatten().min()
            }
        }
    }

    /// Whether this node owns the VIP or tries to.
    pub(super) fn idle(&self) -> bool {
        matches!(self.hold, Hold::Watching)
    }

    /// The owner as this node knows it. One whose promise may have ended still counts for the length of another: what is
    /// foretold is the earliest end, and nodes that forgot an owner at different moments would rank its heirs differently.
    pub(super) fn owner(&self, node: NodeId, now: BootNanos, view: &LeaseView) -> Option<NodeId> {
        match &self.hold {
            Hold::Held { .. } => Some(node),
            _ => {
                let known = self.known.filter(|known| now < known.until.plus(view.timing.promise()));
                known.map(|known| known.by.node)
            }
        }
    }

    /// Gives the VIP back without a successor, at once.
    pub(super) fn let_go(&mut self, ctx: &Context<'_>, because: Unfitness, out: &mut Vec<Effect>) {
        match &self.hold {
            Hold::Watching => {}
            Hold::Claiming { .. } => self.abandon(ctx, out),
            Hold::Held { told: None, .. } => self.release(ctx, None, LossCause::Left { to: None, because }, out),
            Hold::Held { .. } => {}
        }
    }

    /// What this node released may be told.
    pub(super) fn may_be_told(&mut self, holding: Holding) {
        if let Some(released) = self.released.as_mut().filter(|released| released.holding == holding) {
            released.told = true;
        }
    }

    /// What this node released is told to nobody, and left to others until `until`.
    pub(super) fn keep_to_itself(&mut self, until: BootNanos) {
        self.released = self.released.filter(|released| released.told);
        self.back_off_until = self.back_off_until.max(until);
    }

    /// The release this node made lately, to be told again in case it was lost.
    pub(super) fn own_release(&self, ctx: &Context<'_>) -> Option<Release> {
        self.released
            .filter(|r| r.told && (r.holding.node, r.holding.boot) == (ctx.node, ctx.boot))
            .filter(|r| ctx.now.since(r.at) < 6 * ctx.view.timing.retry())
            .map(|r| Release { vip: self.vip, epoch: r.holding.epoch, successor: r.successor })
    }

    /// For status pages.
    pub(super) fn look(&self, ctx: &Context<'_>) -> Look {
        match &self.hold {
            Hold::Held { armed, until, fresh, since, leaving, covers, .. } => Look {
                holder: Some(ctx.node),
                epoch: *armed,
                until: *until,
                fresh: Some((*fresh, *since)),
                why: match leaving {
                    Leaving::Offering { why: Why::Unfit(_), .. } => "this node holds it and is giving it away",
                    Leaving::Offering { why: Why::Reluctant(_), .. } => "this node holds it and offers it to fit ones",
                    Leaving::Offering { why: Why::Better, .. } => {
                        "this node holds it and is handing it to a better one"
                    }
                    Leaving::Stays { .. } if covers.digest() != ctx.scope.digest() => {
                        "this node holds it and waits for a majority of voters to know its new addresses"
                    }
                    Leaving::Stays { .. } if matches!(ctx.fitness, Fitness::Reluctant(_)) => {
                        "this node holds it for want of a fit one"
                    }
                    Leaving::Stays { .. } if should_leave(ctx).is_some() => {
                        "this node holds it until the better one takes it"
                    }
                    Leaving::Stays { .. } => "this node holds it",
                },
            },
            _ => {
                let known = self.known.filter(|known| ctx.now < known.until);
                Look {
                    holder: known.map(|k| k.by.node),
                    epoch: known.map_or(self.highest, |k| k.by.epoch),
                    until: BootNanos::default(),
                    fresh: None,
                    why: match (&self.hold, known) {
                        (Hold::Claiming { .. }, _) => "this node is claiming it",
                        (_, Some(_)) => "another node holds it",
                        _ if is_unfit(ctx) => "nobody is known to hold it, and this node may not",
                        _ if ctx.now < ctx.settled_at => "this node has just started or the voters changed",
                        _ if !ctx.hears => "no majority of voters answers this node",
                        _ if self.is_known_otherwise(ctx) => {
                            "voters know it by other addresses or not at all; they or this node have not applied the last change"
                        }
                        _ => "nobody is known to hold it",
                    },
                }
            }
        }
    }

    /// Keeps what a voter's answer tells beside its yes or no.
    fn note(&mut self, ctx: &Context<'_>, said: &Said) {
        let now = ctx.now;
        let before = self.words.get(&said.voter).copied();
        let (free, free_at) = match said.stance {
            Stance::Free { highest } => {
                self.highest = self.highest.max(highest);
                // Staggered from when it was foretold to be free, not from when that was confirmed.
                (true, before.map_or(now, |b| b.free_at.min(now)))
            }
            Stance::Granted { epoch, .. } => {
                self.highest = self.highest.max(epoch);
                (false, BootNanos::new(u64::MAX))
            }
            Stance::Taken { by, remaining } => {
                let until = now.plus(remaining);
                self.learn_owner(ctx, by, until);
                (false, until)
            }
            Stance::Quiet { remaining } | Stance::AddressTaken { remaining } => (false, now.plus(remaining)),
            Stance::LowEpoch { highest } => {
                self.highest = self.highest.max(highest);
                return;
            }
            Stance::Deaf => return,
            Stance::StaleMembership | Stance::TooLong { .. } | Stance::OtherAddresses => {
                (false, BootNanos::new(u64::MAX))
            }
        };
        if before.is_none_or(|b| b.asked_at <= said.asked_at) {
            let other_addresses = said.stance == Stance::OtherAddresses;
            let (asked_at, last) = (said.asked_at, said.last);
            self.words.insert(said.voter, Heard { asked_at, free, free_at, last, other_addresses });
        }
    }

    /// Whether so many voters know the VIP by other addresses that there is no majority without them.
    fn is_known_otherwise(&self, ctx: &Context<'_>) -> bool {
        !ctx.voters.quorum(|n| self.words.get(&n).is_none_or(|word| !word.other_addresses))
    }

    /// Whether it is this node's turn to ask or to claim.
    fn consider(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        let Some(turn) = self.turn(ctx).filter(|turn| *turn <= ctx.now) else {
            return;
        };
        let said_free = |n: NodeId| self.words.get(&n).is_some_and(|w| w.free && w.asked_at >= turn);
        if ctx.voters.quorum(said_free) {
            let released = self.released.filter(|r| ctx.now.since(r.at) < ctx.view.timing.promise());
            let (cause, predecessor) = match (self.known.take(), released) {
                (Some(known), _) => (GainCause::Expired { from: known.by.node }, None),
                (None, Some(Released { holding: Holding { node: from, .. }, successor, .. })) => {
                    // Who names a successor held it, and finishes what clients have begun, whoever takes it in the end. Who
                    // names none may only have abandoned a claim.
                    (GainCause::Released { from }, successor.map(|_| from).filter(|from| *from != ctx.node))
                }
                (None, None) => (GainCause::Vacant, None),
            };
            self.claim(ctx, cause, predecessor, out);
        } else if ctx.now >= self.ask_at(ctx, turn) {
            out.push(Effect::AskNow);
        }
    }

    /// When this node may ask for the VIP: once a majority is free, later the lower its rank.
    fn turn(&self, ctx: &Context<'_>) -> Option<BootNanos> {
        if is_unfit(ctx) {
            return None;
        }
        let free = self.free_by(&ctx.voters)?;
        let rank = self.rank(ctx);
        let staggered = free.plus(rank * ctx.view.timing.stagger());
        // A VIP that nobody ever held is new, and nodes learn of it and put it in place at different moments: it is left to
        // its first node for as long as a dead owner's would be, and until all should have it in place, or whoever is done
        // first takes them all.
        let new = ctx.ranking.new && self.known.is_none() && rank > 0;
        let in_place = ctx.view.timing.promise() + ctx.view.vips.len() as u64 * IN_PLACE_NANOS;
        let staggered = if new { staggered.max(self.fit_since.unwrap_or(ctx.now)).plus(in_place) } else { staggered };
        let staggered = if ballast_planted::is(Bug::TakesOverLate) { staggered.plus(3_000_000_000) } else { staggered };
        Some(staggered.max(ctx.settled_at).max(self.back_off_until))
    }

    /// This node's place among those who might take over; the last holder comes last, and whoever had rather not take
    /// it comes after everybody who would.
    fn rank(&self, ctx: &Context<'_>) -> u64 {
        let released = self.released.filter(|r| ctx.now.since(r.at) < ctx.view.timing.promise());
        let last = self.known.map(|k| k.by.node).or(released.map(|r| r.holding.node));
        let others = ctx.ranking.order.iter().filter(|n| Some(**n) != last);
        let place = others.clone().position(|n| *n == ctx.node).unwrap_or(others.count());
        let behind = if ctx.fitness == Fitness::Fit { 0 } else { ctx.view.nodes.len() };
        (place + behind) as u64
    }

    /// When to ask again: at the turn; then when those who answered since have said that they will be free (a voter that
    /// is gone, the last owner perhaps, foretold an earlier time), and at the pace of unanswered renewals in any case.
    fn ask_at(&self, ctx: &Context<'_>, turn: BootNanos) -> BootNanos {
        if self.asked_last < turn {
            return turn;
        }
        let since = self.words.iter().filter(|(_, word)| word.asked_at >= turn);
        let times: SmallVec<[(NodeId, BootNanos); 8]> = since.map(|(n, word)| (*n, word.free_at)).collect();
        let again = self.asked_last.plus(ctx.view.timing.retry());
        ctx.voters.free_by(&times).filter(|free| *free > self.asked_last).map_or(again, |free| free.min(again))
    }

    fn resend_at(&self, ctx: &Context<'_>) -> BootNanos {
        self.asked_last.plus(ctx.view.timing.retry() / 2)
    }

    fn claim(&mut self, ctx: &Context<'_>, cause: GainCause, predecessor: Option<NodeId>, out: &mut Vec<Effect>) {
        let recorded =
            ctx.view.vips.iter().find(|vip| vip.id == self.vip).map_or(Epoch::default(), |vip| vip.recorded_epoch);
        let index = self.words.values().map(|w| w.last).max().unwrap_or_default().max(ctx.applied);
        let epoch = self.highest.max(self.spent).max(recorded).above(index);
        self.highest = epoch;
        self.hold = Hold::Claiming { epoch, since: ctx.now, grants: Grants::default(), cause, predecessor };
        out.push(Effect::AskNow);
    }

    /// Takes up or extends the right, if a majority has granted it.
    fn arm(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        let before_too;
        let required: &VoterSets = match &self.hold {
            Hold::Watching => return,
            // The first right under a membership is by the sets of before, too: the promises for it keep away whoever has
            // asked the old sets alone and got half of their grants before they knew better. What was granted so has
            // ended when a promise has passed.
            Hold::Held { renewed: false, sets, .. } if ctx.now < ctx.settled_at => {
                before_too = sets.and(&ctx.voters);
                &before_too
            }
            Hold::Claiming { .. } | Hold::Held { .. } => &ctx.voters,
        };
        let (Hold::Claiming { grants, .. } | Hold::Held { grants, .. }) = &self.hold else { return };
        let Some(new_until) = grants.until(required).filter(|until| *until > ctx.now) else { return };
        // Of all answers to a round one makes the majority. The others move nothing.
        if let Hold::Held { until, covers, .. } = &self.hold
            && new_until <= *until
            && covers.digest() == ctx.scope.digest()
        {
            return;
        }
        let Some(Agreed { right: new_right, epoch: agreed, fresh: now_fresh, .. }) = grants.agreed(required) else {
            return;
        };
        let whole_until = grants.whole_until(required);
        match &mut self.hold {
            Hold::Watching => {}
            Hold::Claiming { epoch, grants, cause, predecessor, .. } => {
                let (epoch, cause, predecessor, grants) = (*epoch, *cause, *predecessor, std::mem::take(grants));
                self.hold = Hold::Held {
                    renewed: true,
                    epoch,
                    armed: epoch,
                    until: new_until,
                    right: new_right,
                    grants,
                    refused: BTreeMap::new(),
                    sets: required.clone(),
                    covers: ctx.scope.clone(),
                    fresh: now_fresh,
                    since: now_fresh,
                    // The placement does not know of this yet.
                    leaving: Leaving::Stays { retry_at: ctx.now.plus(4 * ctx.view.timing.retry()) },
                    told: None,
                };
                self.words.clear();
                self.known = None;
                out.push(Effect::Open { epoch, until: new_until, predecessor });
                out.push(Effect::Gained { epoch, cause });
            }
            Hold::Held { renewed, armed, until, right, sets, covers, fresh, .. } => {
                if new_until > *until {
                    *renewed = true;
                    *until = new_until;
                    *right = new_right;
                    if *sets != *required {
                        *sets = required.clone();
                    }
                    // Grants from before the addresses changed were forgotten, so all of these are for the present ones, or for
                    // those of them that it covered.
                    if covers.digest() != ctx.scope.digest() {
                        *covers = covers.within(ctx.scope);
                    }
                    *fresh = now_fresh;
                    *armed = agreed.max(*armed);
                    out.push(Effect::Open { epoch: *armed, until: new_until, predecessor: None });
                }
                // An address that is new is taken anew, like a VIP, and for as long as the rest is held.
                let granted = whole_until.is_some_and(|whole_until| whole_until >= *until);
                if granted && ctx.now >= ctx.settled_at && covers.digest() != ctx.scope.digest() {
                    *covers = ctx.scope.clone();
                }
            }
        }
    }

    /// Gives up a claim that did not win, and frees the voters that granted it.
    fn abandon(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        let Hold::Claiming { epoch, .. } = self.hold else { return };
        self.closed(epoch);
        let release = Release { vip: self.vip, epoch, successor: None };
        let holding = Holding { node: ctx.node, boot: ctx.boot, epoch };
        self.released = Some(Released { holding, successor: None, at: ctx.now, told: false });
        self.back_off_until = ctx.now.plus((self.rank(ctx) + 1) * ctx.view.timing.stagger());
        out.push(Effect::TellAll(release));
    }

    /// Abandons a claim that can no longer win because too many voters promised to another.
    fn abandon_if_lost(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
        let taken = |n: NodeId| {
            self.words.get(&n).is_some_and(|w| !w.free && w.free_at > ctx.now && w.free_at.get() != u64::MAX)
        };
        if !ctx.voters.quorum(|n| !taken(n)) {
            self.abandon(ctx, out);
        }
    }

    /// After the gate was closed under `epoch`.
    fn closed(&mut self, epoch: Epoch) {
        self.hold = Hold::Watching;
        self.kept_since = None;
        self.spent = self.spent.max(epoch);
        self.words.clear();
    }

    /// Closes the gate, then tells everybody.
    fn release(&mut self, ctx: &Context<'_>, successor: Option<NodeId>, cause: LossCause, out: &mut Vec<Effect>) {
        let Hold::Held { epoch, armed, told, grants, covers, .. } = &mut self.hold else { return };
        let (epoch, armed) = (*epoch, *armed);
        if !ctx.rules.keep(Rule::ReleasedStaysReleased) {
            self.ghost = Some((epoch, std::mem::take(grants)));
        }
        let release = Release { vip: self.vip, epoch, successor };
        let holding = Holding { node: ctx.node, boot: ctx.boot, epoch };
        self.released = Some(Released { holding, successor, at: ctx.now, told: false });
        // Nobody but the successor should hurry, this node least of all.
        self.back_off_until = ctx.now.plus(4 * ctx.view.timing.retry());
        if ctx.rules.keep(Rule::CloseBeforeTelling) {
            let covers = Some(std::mem::take(covers));
            self.closed(epoch);
            out.push(Effect::Close { successor, covers });
            out.push(Effect::Lost { epoch: armed, cause });
            out.push(Effect::TellAll(release));
        } else {
            *told = Some((ctx.now.plus(ctx.view.timing.retry() / 2), cause));
            out.push(Effect::TellAll(release));
        }
    }

    /// Offers the VIP to who should have it; leaves without a successor if it must and nobody takes it.
    fn leave(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
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
    fn keeps(&self, why: Why) -> bool {
        why.can_wait() && self.kept_since.is_some()
    }

    /// What breaking [`Rule::ReleasedStaysReleased`] means: a late grant of a released epoch counts.
    fn rearm_released(&mut self, ctx: &Context<'_>, said: &Said, out: &mut Vec<Effect>) {
        if let (Hold::Watching, Some((epoch, grants))) = (&self.hold, &mut self.ghost)
            && matches!(said.stance, Stance::Granted { epoch: granted, .. } if granted == *epoch)
        {
            grants.add(ctx.now, ctx.rules, *epoch, true, said);
            if let Some(agreed) = grants.agreed(&ctx.voters).filter(|a| a.until > ctx.now) {
                out.push(Effect::Open { epoch: *epoch, until: agreed.until, predecessor: None });
            }
        }
    }
}

/// What a voter said if it did not grant what was asked for.
fn refusal(stance: Stance) -> Option<Refusal> {
    Some(match stance {
        Stance::Granted { .. } | Stance::Free { .. } => return None,
        Stance::StaleMembership => Refusal::StaleMembership,
        Stance::TooLong { .. } => Refusal::TooLong,
        Stance::Quiet { .. } => Refusal::Quiet,
        Stance::Taken { .. } => Refusal::Taken,
        Stance::OtherAddresses => Refusal::OtherAddresses,
        Stance::AddressTaken { .. } => Refusal::AddressTaken,
        Stance::Deaf => Refusal::Deaf,
        Stance::LowEpoch { .. } => Refusal::LowEpoch,
    })
}

fn is_unfit(ctx: &Context<'_>) -> bool {
    matches!(ctx.fitness, Fitness::Unfit(_))
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
fn should_leave(ctx: &Context<'_>) -> Option<Why> {
    match ctx.fitness {
        Fitness::Unfit(what) => Some(Why::Unfit(what)),
        Fitness::Reluctant(what) => Some(Why::Reluctant(what)),
        Fitness::Fit => ctx.ranking.order.first().is_some_and(|first| *first != ctx.node).then_some(Why::Better),
    }
}
