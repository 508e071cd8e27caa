//! One node's part in the lease protocol: voter, candidate and messenger in one state machine.
//!
//! Asks a majority of the voters in rounds, three to a right, and all of them, more often, while they are not answered; about all
//! VIPs at once; answers the rounds of others; feeds each VIP's [`Candidate`] and carries its effects into [`Actions`]. Every node asks,
//! also when it holds nothing: an answered round says how fresh its state is ([`Confirmed`]) without
//! asking the leader, and keeps it informed of who holds what.
//!
//! The caller owes it three things: a `now` that was read *after* the event it comes with was
//! received and *before* the actions are carried out, actions carried out in order, and a
//! [`LogFacts`] that is never behind what this node has acknowledged to the leader.
//!
//! Not here: rounds ([`rounds`]), what is left out of them ([`watching`]), which addresses of what is held are carried out
//! ([`carried`]); sockets and clocks (`ballast-vip`).

mod carried;
mod deadlines;
mod rounds;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, LazyLock},
};

use self::{deadlines::Deadlines, rounds::Round};
use super::{
    candidate::{Candidate, Context, Effect},
    counting::Counting,
    datagram::{Holding, Message, Release, parts},
    fitness::{Fitness, Unfitness},
    grantor::Grantor,
    hearing::Hearing,
    link::{Dropped, Encoded, Links, Opened},
    placement::{PlacementReason, Ranking, Situation, place},
    rules::{Rule, Rules},
    scope::Scope,
    summary::LeftOut,
    timing::Timing,
    transition::{Action, Actions, Change, Transition, VipStatus},
    turns::Turns,
    view::{Confirmed, LeaseView, LeaseVip, LogFacts},
    voters::VoterSets,
};
use crate::{
    ids::{Boot, NodeId, VipId},
    time::BootNanos,
};

/// About what it takes a daemon to be back when it is started again: one that was heard before may be there in a moment. Who is
/// silent for longer is taken for gone; a cable that was pulled for a moment is not meant.
const BACK_NANOS: u64 = 2_000_000_000;

/// Learners greet each other this often, in rounds: often enough that losing two greetings is no silence.
const GREET_ROUNDS: u64 = 2;

/// The lease protocol on one node.
pub struct LeaseNode {
    node: NodeId,
    boot: Boot,
    rules: Rules,
    links: Links,
    grantor: Grantor,
    view: Option<Arc<LeaseView>>,
    counting: Counting,
    /// What was counted by before the membership changed. Owners ask these once more before they go on without them.
    counted_before: VoterSets,
    candidates: BTreeMap<VipId, Candidate>,
    /// Those that hold their VIPs.
    held: BTreeSet<VipId>,
    /// The addresses of each VIP, as the view has them.
    scopes: Arc<BTreeMap<VipId, Scope>>,
    /// VIPs that are held and have addresses which have not been granted yet, so that they are not carried out.
    withheld: BTreeSet<VipId>,
    /// What was given back and may be open yet: until it may be told, or until the right ends. Nothing is added behind it.
    closing: BTreeMap<VipId, (Scope, Option<BootNanos>)>,
    /// Of this node for each VIP, as the view has it.
    fitness: BTreeMap<VipId, Fitness>,
    rankings: Arc<BTreeMap<VipId, Ranking>>,
    /// What the rankings were made from, beside the view, and before that whom each candidate took for the owner; nothing if
    /// the view is newer.
    ranked: Option<(Vec<Option<NodeId>>, Situation)>,
    hearing: Hearing,
    /// When this node last found that no majority answers it: who was not heard then may be there.
    deaf_at: BootNanos,
    started: BootNanos,
    rounds: VecDeque<Round>,
    round: u64,
    /// Which voters the next round asks.
    turns: Turns,
    next_round_at: BootNanos,
    /// When what was given back a moment ago is told again, in case that was lost: before those who leave it to a successor
    /// ask for it.
    retell_at: Option<BootNanos>,
    /// What the last round of a node without a vote did not ask about.
    left_out: LeftOut,
    /// The longest right that voters granted which have not heard of a longer lease, and until when no longer one is asked
    /// for; zero once a majority grants what the view says.
    asks_at_most: (u64, BootNanos),
    /// The longest right that may have been in force when the first view came. Whatever an earlier life promised was on
    /// disk, and so is in there.
    right_before: Option<u64>,
    settled_at: BootNanos,
    /// When this node started or last learnt of other voters.
    changed_at: BootNanos,
    confirmed: Option<Confirmed>,
    draining: bool,
    ask_now: BTreeSet<VipId>,
    deadlines: Deadlines,
    /// Something that all deadlines hang on has changed.
    deadlines_stale: bool,
}

impl LeaseNode {
    /// A node that has just started at `now`. `boot` must be another one at each start.
    pub fn new(node: NodeId, boot: Boot, now: BootNanos) -> Self {
        Self::with_rules(node, boot, now, Rules::default())
    }

    pub(super) fn with_rules(node: NodeId, boot: Boot, now: BootNanos, rules: Rules) -> Self {
        Self {
            node,
            boot,
            rules,
            links: Links::new(node, boot),
            grantor: Grantor::new(now, rules),
            view: None,
            counting: Counting::new(rules),
            counted_before: VoterSets::default(),
            candidates: BTreeMap::new(),
            held: BTreeSet::new(),
            scopes: Arc::default(),
            withheld: BTreeSet::new(),
            closing: BTreeMap::new(),
            fitness: BTreeMap::new(),
            rankings: Arc::default(),
            ranked: None,
            hearing: Hearing::default(),
            deaf_at: now,
            started: now,
            rounds: VecDeque::new(),
            round: 0,
            turns: Turns::default(),
            next_round_at: now,
            retell_at: None,
            left_out: LeftOut::default(),
            asks_at_most: (0, now),
            right_before: None,
            settled_at: now,
            changed_at: now,
            confirmed: None,
            draining: false,
            ask_now: BTreeSet::new(),
            deadlines: Deadlines::default(),
            deadlines_stale: true,
        }
    }

    /// Takes over a new view of the agreed state.
    pub fn set_view(&mut self, now: BootNanos, facts: LogFacts, mut view: Arc<LeaseView>, out: &mut Actions) {
        if !self.rules.keep(Rule::EveryVoterSet) {
            let voters = view.voters.newest();
            view = Arc::new(LeaseView { voters, ..LeaseView::clone(&view) });
        }
        let before = self.view.as_ref().map(|view| view.membership);
        self.right_before.get_or_insert(view.longest.right().max(view.timing.right()));
        if self.view.as_ref().is_none_or(|before| before.timing != view.timing) {
            // The next round was due by the lengths of before.
            self.next_round_at = now;
            self.turns.ask_all();
            self.asks_at_most = (0, now);
        }
        if view.catching_up && !self.rules.keep(Rule::CatchUpFirst) {
            view = Arc::new(LeaseView { catching_up: false, ..LeaseView::clone(&view) });
        }
        let caught_up = !view.catching_up && self.view.as_ref().is_some_and(|before| before.catching_up);
        if before != Some(view.membership) {
            let earlier = if now < self.settled_at { self.counted_before.clone() } else { VoterSets::default() };
            self.counted_before = self.counting.sets().and(&earlier);
            self.changed_at = now;
        }
        if caught_up {
            (self.changed_at, self.settled_at) = (now, now);
        }
        let changes = before != Some(view.membership) || caught_up || now < self.settled_at;
        if changes && self.rules.keep(Rule::SettleAfterChange) {
            // An owner may still hold by a majority of sets that are gone; a node that has just
            // started cannot know which these were. When this is over, its right is. It may hold by a
            // longer lease, of which this node learns only now, or has yet to learn.
            self.settled_at = self.settled_at.max(self.changed_at.plus(view.longest.promise()));
        }
        if view.catching_up && self.rules.keep(Rule::SettleAfterChange) {
            self.settled_at = BootNanos::new(u64::MAX);
        }
        self.links.configure(&view.keys, &view.cluster, view.nodes.iter().map(|n| n.id));
        self.hearing.retain(|peer| view.nodes.iter().any(|n| n.id == peer));
        let scopes: Arc<BTreeMap<VipId, Scope>> =
            Arc::new(view.vips.iter().map(|vip| (vip.id, Scope::of(vip))).collect());
        let known = |vip: VipId| scopes.contains_key(&vip);
        self.grantor.prune(now, known);
        let addresses_changed = self.take_scopes(&scopes);
        out.push(Action::Carry { view: self.carried(&view) });
        let gone: Vec<VipId> = self.candidates.keys().copied().filter(|vip| !known(*vip)).collect();
        if self.view.is_some() {
            for vip in gone {
                self.with(now, facts, vip, out, |c, ctx, fx| c.let_go(ctx, Unfitness::VipRemoved, fx));
                self.candidates.remove(&vip);
                self.held.remove(&vip);
            }
        }
        for vip in &view.vips {
            self.candidates.entry(vip.id).or_insert_with(|| Candidate::new(vip.id));
        }
        self.fitness = view.fitness_of(self.node);
        self.counting.set_own(view.membership, &view.voters);
        self.view = Some(view);
        self.deadlines_stale = true;
        self.ranked = None;
        self.rank(now);
        self.each(now, facts, out, |candidate, ctx, _| candidate.fitness_changed(ctx));
        if addresses_changed {
            // What is still answered was asked for other addresses.
            self.rounds.clear();
            self.next_round_at = now;
        }
        if before.is_some() && before != self.view.as_ref().map(|view| view.membership) {
            // A voter of the new sets may have answered before it had what the old ones committed.
            self.rounds.clear();
            self.next_round_at = now;
            self.each(now, facts, out, Candidate::membership_changed);
        }
        self.tick(now, facts, out);
    }

    /// Takes in a datagram as received. Says why if it was not believed.
    pub fn packet(&mut self, now: BootNanos, facts: LogFacts, bytes: &[u8], out: &mut Actions) -> Option<Dropped> {
        let view = self.view.clone()?;
        // What ran out while the datagram waited has run out.
        self.expire(now, facts, out);
        match self.links.open(bytes) {
            Opened::Dropped(why) => return Some(why),
            Opened::Greet { to, bytes } => out.push(Action::Send { to, bytes }),
            Opened::Message { from, boot, message } => self.hear(now, facts, &view, (from, boot), message, out),
        }
        self.ask_where_wanted(now, facts, out);
        None
    }

    fn hear(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        view: &LeaseView,
        (from, boot): (NodeId, Boot),
        message: Message,
        out: &mut Actions,
    ) {
        if self.hearing.heard(now, from, silence(view)) {
            out.push(Action::PeerReturned { node: from });
        }
        match message {
            Message::Hello => {}
            Message::Ask(ask) => {
                let answer = self.answer_to(now, facts, view, from, boot, &ask);
                for part in answer.parts() {
                    self.send(from, &Message::Answer(part), out);
                }
            }
            Message::Answer(answer) => self.answered(now, facts, from, &answer, out),
            Message::Release(releases) => {
                for Release { vip, epoch, successor } in releases {
                    let holding = Holding { node: from, boot, epoch };
                    self.grantor.released(vip, holding);
                    self.with(now, facts, vip, out, |c, ctx, fx| c.heard_release(ctx, holding, successor, fx));
                }
            }
            Message::Offer(offers) => {
                for offer in offers {
                    self.with(now, facts, offer.vip, out, |c, ctx, fx| c.heard_offer(ctx, from, offer, fx));
                }
            }
            Message::Accept(accepted) => {
                for accepted in accepted {
                    self.with(now, facts, accepted.vip, out, |c, ctx, fx| c.heard_accept(ctx, from, accepted, fx));
                }
            }
        }
    }

    /// Lets time pass. Call it at [`LeaseNode::next_deadline`]; calling it more often does no harm.
    pub fn tick(&mut self, now: BootNanos, facts: LogFacts, out: &mut Actions) {
        let Some(view) = self.view.clone() else { return };
        self.expire(now, facts, out);
        if self.retell_at.take_if(|at| now >= *at).is_some() {
            self.repeat_releases(now, facts, out);
        }
        if now >= self.next_round_at {
            let _ = self.give_in(now, &view);
            // Rounds are not made up for: after a pause there is one, and then the usual pace.
            self.next_round_at = now.plus(self.retry(&view));
            self.forget_told(now, facts, &view, out);
            self.forget_closed(now, &view, out);
            self.miss_peers(now, &view, out);
            self.rank(now);
            self.repeat_releases(now, facts, out);
            if self.round.is_multiple_of(GREET_ROUNDS) {
                self.greet_learners(&view, out);
            }
            let mut due = self.due_in_round(now, &view);
            if self.counting.sets().has(self.node) {
                self.leave_to_own_vote(now, facts, &view, &mut due, out);
            } else {
                self.leave_out(now, &view, &mut due);
            }
            self.ask(now, facts, &due, true, out);
        }
        self.ask_where_wanted(now, facts, out);
    }

    /// When [`LeaseNode::tick`] has something to do next.
    pub fn next_deadline(&mut self, now: BootNanos, facts: LogFacts) -> BootNanos {
        if self.view.is_none() {
            return BootNanos::new(u64::MAX);
        }
        self.refresh_deadlines(now, facts);
        let own = self.retell_at.map_or(self.next_round_at, |at| at.min(self.next_round_at));
        self.deadlines.first().map_or(own, |first| first.min(own))
    }

    /// Asks all candidates for their deadlines if what these hang on has changed: the view, the ranking, whether this node
    /// drains, when the voters were asked. Each event at one candidate renews that one's.
    fn refresh_deadlines(&mut self, now: BootNanos, facts: LogFacts) {
        let Some(view) = self.view.clone().filter(|_| self.deadlines_stale) else { return };
        let deadline = |candidate: &Candidate| {
            let ranking = self.rankings.get(&candidate.vip)?;
            let at = candidate.deadline(&self.context(now, facts, &view, &self.scopes, ranking, candidate.vip))?;
            Some((candidate.vip, at))
        };
        self.deadlines = self.candidates.values().filter_map(deadline).collect();
        self.deadlines_stale = false;
    }

    /// Gives every VIP to another node if one takes it, and asks for none any more.
    pub fn drain(&mut self, now: BootNanos, facts: LogFacts, out: &mut Actions) {
        let drained_before = std::mem::replace(&mut self.draining, true);
        self.deadlines_stale |= !drained_before;
        self.tick(now, facts, out);
    }

    /// Whether nothing is held or asked for.
    pub fn idle(&self) -> bool {
        self.candidates.values().all(Candidate::idle)
    }

    /// Closes every gate and says so, without waiting for a successor.
    pub fn let_go(&mut self, now: BootNanos, facts: LogFacts, out: &mut Actions) {
        self.draining = true;
        self.each(now, facts, out, |c, ctx, fx| c.let_go(ctx, Unfitness::Draining, fx));
    }

    /// Tells everybody that a VIP is free, this node's own vote first. Only once its gate is closed.
    pub fn tell(&mut self, release: Release, out: &mut Actions) {
        let Some(view) = self.view.clone() else { return };
        let holding = Holding { node: self.node, boot: self.boot, epoch: release.epoch };
        self.grantor.released(release.vip, holding);
        if let Some(candidate) = self.candidates.get_mut(&release.vip) {
            candidate.may_be_told(holding);
        }
        self.closing.remove(&release.vip);
        self.carry_if_changed(&view, release.vip, out);
        self.send_all(&view, &Message::Release(vec![release]), out);
    }

    /// A VIP that was to be told of could not be closed and is open here until `until`. Nobody is told, this node's own vote
    /// stands as it was promised, and the VIP is left to whoever comes next when the right ends: to the others it is as if this
    /// node had been cut off.
    pub fn keep_to_itself(&mut self, vip: VipId, until: BootNanos) {
        if let Some((_, open_until)) = self.closing.get_mut(&vip) {
            *open_until = Some(until);
        }
        let (Some(view), Some(candidate)) = (&self.view, self.candidates.get_mut(&vip)) else { return };
        candidate.keep_to_itself(until.plus(view.timing.promise()));
        self.deadlines_stale = true;
    }

    /// The newest round of questions that a majority of voters answered.
    pub fn confirmed(&self) -> Option<Confirmed> {
        self.confirmed
    }

    /// How every VIP stands.
    pub fn status(&self, now: BootNanos, facts: LogFacts) -> Vec<VipStatus> {
        let Some(view) = &self.view else { return Vec::new() };
        let of = |candidate: &Candidate| {
            let ranking = self.rankings.get(&candidate.vip)?;
            let look = candidate.look(&self.context(now, facts, view, &self.scopes, ranking, candidate.vip));
            Some(VipStatus {
                vip: candidate.vip,
                holder: look.holder,
                epoch: look.epoch,
                until: look.until,
                rank: ranking.order.iter().position(|n| *n == self.node),
                best: ranking.order.first().copied(),
                reason: ranking.reason,
                fitness: self.fitness_for(candidate.vip),
                why: look.why,
                fresh_as_of: look.fresh,
            })
        };
        self.candidates.values().filter_map(of).collect()
    }

    /// Whether this node is fit to hold the VIP. One that is not in the view is not there to be held.
    fn fitness_for(&self, vip: VipId) -> Fitness {
        let known = self.fitness.get(&vip).copied().unwrap_or(Fitness::Unfit(Unfitness::VipRemoved));
        if self.draining { Fitness::Unfit(Unfitness::Draining).worse(known) } else { known }
    }

    fn context<'a>(
        &self,
        now: BootNanos,
        facts: LogFacts,
        view: &'a LeaseView,
        scopes: &'a BTreeMap<VipId, Scope>,
        ranking: &'a Ranking,
        vip: VipId,
    ) -> Context<'a> {
        static NOTHING: LazyLock<Scope> = LazyLock::new(Scope::default);
        let fitness = self.fitness_for(vip);
        Context {
            scope: scopes.get(&vip).unwrap_or(&NOTHING),
            now,
            node: self.node,
            boot: self.boot,
            view,
            voters: Arc::clone(self.counting.sets()),
            ranking,
            fitness,
            settled_at: self.settled_at,
            applied: facts.applied,
            hears: self.heard_age(now) <= view.timing.deaf_after(),
            is_followed: fitness == Fitness::Unfit(Unfitness::Draining) && self.is_followed(now, view, ranking),
            rules: self.rules,
        }
    }

    /// Whether a node that the VIP may be at was heard lately. Only asked of a node that drains.
    fn is_followed(&self, now: BootNanos, view: &LeaseView, ranking: &Ranking) -> bool {
        let may_take = |peer: NodeId| peer != self.node && ranking.order.contains(&peer);
        let mut near = self.hearing.ages(now, silence(view).max(BACK_NANOS));
        near.any(|(peer, _)| may_take(peer))
    }

    /// Runs `f` on one VIP's candidate and takes its effects over.
    fn with(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        vip: VipId,
        out: &mut Actions,
        f: impl FnOnce(&mut Candidate, &Context<'_>, &mut Vec<Effect>),
    ) {
        static NOBODY: Ranking = Ranking { order: Vec::new(), reason: PlacementReason::Spread, new: false };
        let Some(view) = self.view.clone() else { return };
        let (rankings, scopes) = (Arc::clone(&self.rankings), Arc::clone(&self.scopes));
        let ctx = self.context(now, facts, &view, &scopes, rankings.get(&vip).unwrap_or(&NOBODY), vip);
        let Some(candidate) = self.candidates.get_mut(&vip) else { return };
        let mut effects = Vec::new();
        f(candidate, &ctx, &mut effects);
        let holds = candidate.right().is_some();
        if holds != self.held.contains(&vip) {
            if holds {
                self.held.insert(vip);
            } else {
                self.held.remove(&vip);
            }
        }
        self.deadlines.set(vip, candidate.deadline(&ctx));
        let whole = candidate.covers().is_none_or(|covers| covers.digest() == ctx.scope.digest());
        for effect in effects {
            self.carry_out(now, vip, effect, out);
        }
        // Most often nothing is withheld, and nothing has to be.
        if !(whole && self.withheld.is_empty() && self.closing.is_empty()) {
            self.carry_if_changed(&view, vip, out);
        }
    }

    fn each(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        out: &mut Actions,
        f: impl Fn(&mut Candidate, &Context<'_>, &mut Vec<Effect>),
    ) {
        let vips: Vec<VipId> = self.candidates.keys().copied().collect();
        for vip in vips {
            self.with(now, facts, vip, out, &f);
        }
    }

    fn expire(&mut self, now: BootNanos, facts: LogFacts, out: &mut Actions) {
        self.refresh_deadlines(now, facts);
        let due = self.deadlines.due(now);
        if due.is_empty() {
            return;
        }
        let Some(view) = self.view.clone() else { return };
        for vip in due {
            let told = self.hear_own_vote(now, facts, &view, vip, out);
            // Its turn has not come if this node's own vote has been asked for since.
            if !told || self.deadlines.at(vip).is_none_or(|at| at <= now) {
                self.with(now, facts, vip, out, Candidate::tick);
            }
        }
    }

    fn carry_out(&mut self, now: BootNanos, vip: VipId, effect: Effect, out: &mut Actions) {
        match effect {
            Effect::Close { successor, covers } => {
                out.push(Action::Close { vip, successor, given_up: covers.is_some() });
                self.closing.extend(covers.map(|covers| (vip, (covers, None))));
            }
            Effect::Open { epoch, until, predecessor } => {
                out.push(Action::Open { vip, epoch, until, predecessor });
            }
            Effect::Gained { epoch, cause } => {
                // The next round may have been put off by a longer right than this one.
                let renew = self.timing_held().map_or(u64::MAX, Timing::renew);
                self.next_round_at = self.next_round_at.min(now.plus(renew));
                out.push(Action::Report(Transition { vip, epoch, at: now, change: Change::Gained(cause) }));
            }
            Effect::Lost { epoch, cause } => {
                out.push(Action::Report(Transition { vip, epoch, at: now, change: Change::Lost(cause) }));
            }
            Effect::TellAll(release) => {
                let stagger = self.view.as_ref().map_or(0, |view| view.timing.stagger());
                self.retell_at.get_or_insert(now.plus(stagger));
                out.push(Action::Tell { release });
            }
            Effect::Offer(to, offer) => self.send(to, &Message::Offer(vec![offer]), out),
            Effect::Accept(to, accepted) => {
                out.push(Action::Prepare { vip });
                self.send(to, &Message::Accept(vec![accepted]), out);
            }
            Effect::Decline(to, answer) => self.send(to, &Message::Accept(vec![answer]), out),
            Effect::Prepare => out.push(Action::Prepare { vip }),
            Effect::AskNow => {
                self.ask_now.insert(vip);
            }
        }
    }

    /// Tells of peers that are gone. A node that stood still, or is cut off, has heard nobody and misses nobody: what was sent
    /// to it meanwhile may be on its way yet.
    fn miss_peers(&mut self, now: BootNanos, view: &LeaseView, out: &mut Actions) {
        if self.heard_age(now) > view.timing.deaf_after() {
            self.deaf_at = now;
        }
        let gone = self.hearing.gone(now, self.deaf_at, BACK_NANOS);
        out.extend(gone.into_iter().map(|node| Action::PeerGone { node }));
    }

    fn repeat_releases(&mut self, now: BootNanos, facts: LogFacts, out: &mut Actions) {
        let Some(view) = self.view.clone() else { return };
        let release = |candidate: &Candidate| {
            let ranking = self.rankings.get(&candidate.vip)?;
            candidate.own_release(&self.context(now, facts, &view, &self.scopes, ranking, candidate.vip))
        };
        let lately = self.candidates.values().filter(|candidate| candidate.may_pass_on(now, &view));
        let releases: Vec<Release> = lately.filter_map(release).collect();
        for part in parts(&releases).into_iter().filter(|part| !part.is_empty()) {
            self.send_all(&view, &Message::Release(part.to_vec()), out);
        }
    }

    fn send_all(&mut self, view: &LeaseView, message: &Message, out: &mut Actions) {
        self.send_each(view.nodes.iter().map(|member| member.id), message, out);
    }

    fn send_each(&mut self, to: impl Iterator<Item = NodeId>, message: &Message, out: &mut Actions) {
        let (me, encoded) = (self.node, Encoded::of(message));
        for to in to.filter(|to| *to != me) {
            let bytes = self.links.seal_encoded(to, &encoded);
            out.push(Action::Send { to, bytes });
        }
    }

    fn send(&mut self, to: NodeId, message: &Message, out: &mut Actions) {
        if to == self.node {
            return;
        }
        let bytes = self.links.seal(to, message);
        out.push(Action::Send { to, bytes });
    }

    /// Learners ask only voters, so that they would not hear each other.
    fn greet_learners(&mut self, view: &LeaseView, out: &mut Actions) {
        let voters = view.voters.members();
        if voters.contains(&self.node) {
            return;
        }
        let learners = view.nodes.iter().filter(|member| member.candidate && !voters.contains(&member.id));
        self.send_each(learners.map(|member| member.id), &Message::Hello, out);
    }

    /// Ranks the nodes anew if the log, or what is known of the owners and of the peers, is not what it was.
    fn rank(&mut self, now: BootNanos) {
        let Some(view) = &self.view else { return };
        let delays: BTreeSet<u64> = view.vips.iter().map(|vip| vip.failback_delay).collect();
        let outlasted = |age: u64| delays.range(..=age).next_back().copied();
        let heard = self.hearing.ages(now, silence(view)).chain([(self.node, now.since(self.started))]);
        let steady = heard.filter_map(|(node, age)| Some((node, outlasted(age)?))).collect();
        let known = || self.candidates.values().map(|candidate| candidate.owner(self.node, now, view));
        // Each round looks, and hardly ever finds something.
        let same = |(by, situation): &(Vec<Option<NodeId>>, Situation)| {
            situation.steady == steady && known().eq(by.iter().copied())
        };
        if self.ranked.as_ref().is_some_and(same) {
            return;
        }
        let owner = |vip: &LeaseVip| {
            let known = self.candidates.get(&vip.id).and_then(|c| c.owner(self.node, now, view));
            Some((vip.id, known.or(vip.recorded_owner)?))
        };
        let situation = Situation { owners: view.vips.iter().filter_map(owner).collect(), steady };
        let known = known().collect();
        if self.ranked.as_ref().is_none_or(|(_, before)| *before != situation) {
            self.rankings = Arc::new(place(&view.vips, &view.nodes, &situation));
            self.deadlines_stale = true;
        }
        self.ranked = Some((known, situation));
    }
}

/// A peer that was silent for longer has been away: two leases.
fn silence(view: &LeaseView) -> u64 {
    2 * view.timing.promise()
}
