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

mod leaving;
mod look;
mod watching;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use self::leaving::{Leaving, Why, should_leave};
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
    lease::{Epoch, Fitness, GainCause, LossCause, Ranking, Refusal, Unfitness, Unrenewed},
    time::BootNanos,
};

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
