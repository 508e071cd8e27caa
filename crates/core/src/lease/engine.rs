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
//! Not here: sockets and clocks (`ballast-vip`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, LazyLock},
};

use smallvec::SmallVec;

use super::{
    candidate::{Candidate, Context, Effect, OthersPromise},
    counting::Counting,
    datagram::{Answer, Ask, Holding, Message, Release, Stance, Verdict, Want, Word, parts},
    fitness::{Fitness, Unfitness},
    grantor::{Asker, Grantor, Standing},
    grants::Said,
    hearing::Hearing,
    link::{Dropped, Encoded, Links, Opened},
    placement::{PlacementReason, Ranking, Situation, place},
    rules::{Rule, Rules},
    scope::Scope,
    summary::{LeftOut, Summaries, Summary},
    timing::Timing,
    transition::{Action, Actions, Change, Transition, VipStatus},
    turns::Turns,
    view::{Confirmed, LeaseView, LeaseVip, LogFacts},
    voters::VoterSets,
};
use crate::{
    ids::{Boot, LogIndex, NodeId, VipId},
    time::BootNanos,
};

/// Rounds whose answers are still of use: a right is over after seven that were not answered, and the longest after some
/// thirty; extra questions come on top.
const ROUNDS_MAX: usize = 64;

/// A shorter right than the view says is asked for in so many rounds before it is tried again.
const GIVES_IN_ROUNDS: u64 = 4;

/// About what it takes a daemon to be back when it is started again: one that was heard before may be there in a moment. Who is
/// silent for longer is taken for gone; a cable that was pulled for a moment is not meant.
const BACK_NANOS: u64 = 2_000_000_000;

/// Learners greet each other this often, in rounds: often enough that losing two greetings is no silence.
const GREET_ROUNDS: u64 = 2;

/// Questions that one event may lead to before the rest waits for the next event.
const ASKS_PER_EVENT_MAX: usize = 4;

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

/// When each candidate has something to do next; those that wait for nothing are missing. Looked at with every event, so
/// the first is at hand.
#[derive(Default)]
struct Deadlines {
    of: BTreeMap<VipId, BootNanos>,
    in_order: BTreeSet<(BootNanos, VipId)>,
}

impl Deadlines {
    fn set(&mut self, vip: VipId, at: Option<BootNanos>) {
        let before = match at {
            Some(at) => self.of.insert(vip, at),
            None => self.of.remove(&vip),
        };
        if before != at {
            if let Some(before) = before {
                self.in_order.remove(&(before, vip));
            }
            self.in_order.extend(at.map(|at| (at, vip)));
        }
    }

    fn first(&self) -> Option<BootNanos> {
        self.in_order.first().map(|(at, _)| *at)
    }

    fn due(&self, now: BootNanos) -> Vec<VipId> {
        self.in_order.iter().take_while(|(at, _)| *at <= now).map(|(_, vip)| *vip).collect()
    }
}

impl FromIterator<(VipId, BootNanos)> for Deadlines {
    fn from_iter<I: IntoIterator<Item = (VipId, BootNanos)>>(all: I) -> Self {
        let of: BTreeMap<_, _> = all.into_iter().collect();
        let in_order = of.iter().map(|(vip, at)| (*at, *vip)).collect();
        Self { of, in_order }
    }
}

struct Round {
    id: u64,
    /// About everything that is due, not an extra question.
    whole: bool,
    /// Every voter was asked, not just a majority.
    of_all: bool,
    asked_at: BootNanos,
    timing: Timing,
    replies: Vec<(NodeId, LogIndex)>,
    /// Who refused it because the right would be too long, and how long it may be.
    too_long: Vec<(NodeId, u64)>,
}

impl Round {
    /// Whether the voter has answered and would grant a right of this length.
    fn grants(&self, voter: NodeId, right: u64) -> bool {
        self.replies.iter().any(|(n, _)| *n == voter) && !self.finds_too_long(voter, right)
    }

    fn finds_too_long(&self, voter: NodeId, right: u64) -> bool {
        self.too_long.iter().any(|(n, longest)| *n == voter && *longest < right)
    }
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

    /// Takes over the addresses of all VIPs. True if one that was known has others now, or is gone: what was granted for the
    /// former ones counts no longer.
    fn take_scopes(&mut self, scopes: &Arc<BTreeMap<VipId, Scope>>) -> bool {
        let before = std::mem::replace(&mut self.scopes, Arc::clone(scopes));
        let other = |(vip, scope): &(&VipId, &Scope)| scopes.get(vip).is_none_or(|new| new.digest() != scope.digest());
        let changed: Vec<VipId> = before.iter().filter(other).map(|(vip, _)| *vip).collect();
        for vip in &changed {
            if let Some(candidate) = self.candidates.get_mut(vip) {
                candidate.forget_grants();
            }
        }
        self.withheld = scopes.keys().copied().filter(|vip| self.is_withheld(*vip)).collect();
        !changed.is_empty()
    }

    /// Whether the VIP is held and has addresses that were not granted yet.
    fn is_withheld(&self, vip: VipId) -> bool {
        let Some(scope) = self.scopes.get(&vip) else { return false };
        let whole = |covers: &Scope| scope.addresses().iter().all(|address| covers.has(*address));
        self.covers(vip).is_some_and(|covers| !whole(covers)) && self.rules.keep(Rule::OpenWhatWasGranted)
    }

    /// The addresses of a VIP that may be behind its gate, if that is or may be open.
    fn covers(&self, vip: VipId) -> Option<&Scope> {
        let held = self.candidates.get(&vip).and_then(Candidate::covers);
        held.or_else(|| self.closing.get(&vip).map(|(covers, _)| covers))
    }

    /// Carries out more or less of a VIP's addresses if it is withheld no longer, or is now.
    fn carry_if_changed(&mut self, view: &Arc<LeaseView>, vip: VipId, out: &mut Actions) {
        let withheld = self.is_withheld(vip);
        if withheld != self.withheld.contains(&vip) {
            if withheld {
                self.withheld.insert(vip);
            } else {
                self.withheld.remove(&vip);
            }
            out.push(Action::Carry { view: self.carried(view) });
        }
    }

    /// What could not be closed has closed by itself.
    fn forget_closed(&mut self, now: BootNanos, view: &Arc<LeaseView>, out: &mut Actions) {
        let open = |(_, until): &(Scope, Option<BootNanos>)| until.is_none_or(|until| now < until);
        let closed: Vec<VipId> = self.closing.iter().filter(|(_, of)| !open(of)).map(|(vip, _)| *vip).collect();
        for vip in closed {
            self.closing.remove(&vip);
            self.carry_if_changed(view, vip, out);
        }
    }

    /// The view as it may be carried out: without the addresses of VIPs held here that were not granted yet.
    fn carried(&self, view: &Arc<LeaseView>) -> Arc<LeaseView> {
        if self.withheld.is_empty() {
            return Arc::clone(view);
        }
        let mut carried = LeaseView::clone(view);
        for vip in carried.vips.iter_mut().filter(|vip| self.withheld.contains(&vip.id)) {
            let covers = self.covers(vip.id);
            vip.addresses.retain(|address| covers.is_some_and(|covers| covers.has(address.ip())));
        }
        Arc::new(carried)
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
            if !told || self.deadlines.of.get(&vip).is_none_or(|at| *at <= now) {
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

    /// What a round asks about: what this node holds or claims, and what its own turn may come for before the next round:
    /// by then the promise has been renewed, or the owner is in trouble. A round about nothing is asked all the same: that a
    /// majority answers says how fresh this node's state is.
    fn due_in_round(&self, now: BootNanos, view: &LeaseView) -> Vec<VipId> {
        let due = self.candidates.values().filter(|candidate| self.is_due_in_round(now, view, candidate));
        due.map(|candidate| candidate.vip).collect()
    }

    fn is_due_in_round(&self, now: BootNanos, view: &LeaseView, candidate: &Candidate) -> bool {
        match self.deadlines.of.get(&candidate.vip) {
            Some(turn) if candidate.only_watches(now, view) => *turn <= now.plus(ahead(view)),
            _ => candidate.is_due(now, view, self.counting.sets(), now.plus(view.timing.renew())),
        }
    }

    /// Leaves out of what is due what this node knows as a voter: an owner asks each voter in one round of two, and says how old its
    /// newest round is that a majority answered. So until that majority's promises end at the earliest, less than a round before
    /// this node's own, there is nothing to ask for. From then on, and of owners that reach this voter and no majority, it asks
    /// as anybody does, though not ahead of its turn: the owner's next question may be to come yet.
    fn leave_to_own_vote(
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
            match self.deadlines.of.get(vip) {
                _ if !told => self.is_due_in_round(now, view, candidate),
                Some(turn) if candidate.only_watches(now, view) => *turn <= now,
                _ => candidate.is_due(now, view, self.counting.sets(), now),
            }
        });
    }

    /// Takes over what this node, as a voter, has promised of a VIP. False if that is nothing, or to itself.
    fn hear_own_vote(
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
    fn leave_out(&mut self, now: BootNanos, view: &LeaseView, due: &mut Vec<VipId>) {
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
    fn hear_summaries(
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

    fn ask_where_wanted(&mut self, now: BootNanos, facts: LogFacts, out: &mut Actions) {
        for _ in 0..ASKS_PER_EVENT_MAX {
            if self.ask_now.is_empty() {
                return;
            }
            let vips: Vec<VipId> = std::mem::take(&mut self.ask_now).into_iter().collect();
            self.ask(now, facts, &vips, false, out);
        }
    }

    /// Asks voters about `vips`. This node's own vote is asked for and counted like any other.
    fn ask(&mut self, now: BootNanos, facts: LogFacts, vips: &[VipId], whole: bool, out: &mut Actions) {
        let Some(view) = self.view.clone() else { return };
        self.round += 1;
        let timing = self.timing_asked(now, &view);
        let (id, asked_at) = (self.round, now);
        let majority = if whole { self.majority_asked(now, &view, vips) } else { None };
        let of_all = majority.is_none();
        let voters = majority.unwrap_or_else(|| self.asked(now));
        self.rounds.push_back(Round { id, whole, of_all, asked_at, timing, replies: Vec::new(), too_long: Vec::new() });
        if self.rounds.len() > ROUNDS_MAX {
            self.rounds.pop_front();
        }
        let mut wants: Vec<Want> = Vec::with_capacity(vips.len());
        for vip in vips {
            self.with(now, facts, *vip, out, |candidate, ctx, _| {
                candidate.asked(now);
                wants.push(candidate.want(ctx));
            });
        }
        let heard_age = self.heard_age(now);
        let mut summaries = self.left_out.is_of(id);
        for wants in parts(&wants) {
            let summaries = std::mem::take(&mut summaries);
            let message = Message::Ask(self.part(timing.right(), heard_age, summaries, wants));
            self.send_each(voters.iter().copied(), &message, out);
            let Message::Ask(part) = message else { continue };
            if voters.contains(&self.node) {
                let answer = self.answer_to(now, facts, &view, self.node, self.boot, &part);
                self.answered(now, facts, self.node, &answer, out);
            }
        }
    }

    /// All voters of the sets that are counted by, or were a moment ago.
    fn asked(&self, now: BootNanos) -> Vec<NodeId> {
        let sets = self.counting.sets();
        if now < self.settled_at { sets.and(&self.counted_before).members() } else { sets.members() }
    }

    /// The voters that a whole round about `vips` asks, if a majority is enough: for renewing what is held, and for being told how
    /// fresh this node's state is. Who wants to know or to have something, or has something to pass on, asks all, and so does
    /// who was refused or not answered lately.
    fn majority_asked(&mut self, now: BootNanos, view: &LeaseView, vips: &[VipId]) -> Option<Vec<NodeId>> {
        let answered = self.turns.begin();
        let renews = |vip: &VipId| {
            let passes_on = |candidate: &Candidate| candidate.may_pass_on(now, view);
            self.held.contains(vip) && self.candidates.get(vip).is_some_and(|candidate| !passes_on(candidate))
        };
        let at_rest = answered
            && now >= self.settled_at
            && self.heard_age(now) <= view.timing.deaf_after()
            && self.asks_at_most.0 == 0
            && self.withheld.is_empty()
            && !self.left_out.is_of(self.round)
            && vips.iter().all(renews);
        if !at_rest {
            return None;
        }
        let near: SmallVec<[NodeId; 16]> = self.hearing.ages(now, silence(view)).map(|(peer, _)| peer).collect();
        self.turns.majority(self.counting.sets(), self.node, |voter| near.contains(&voter))
    }

    fn part(&self, right: u64, heard_age: u64, summaries: bool, wants: &[Want]) -> Ask {
        Ask { round: self.round, counts_by: self.counting.by(), right, heard_age, summaries, wants: wants.to_vec() }
    }

    /// What the shortest of the rights that are held was given under.
    fn timing_held(&self) -> Option<Timing> {
        let rights = self.held.iter().filter_map(|vip| self.candidates.get(vip)?.right());
        rights.min().map(Timing::of_right)
    }

    /// What to ask for: rights as long as the view says, but while voters refuse these as too long, as long as they grant.
    fn timing_asked(&self, now: BootNanos, view: &LeaseView) -> Timing {
        let (at_most, until) = self.asks_at_most;
        if now < until { Timing::of_right(at_most.min(view.timing.right())) } else { view.timing }
    }

    /// If the last round found no majority for a right as long as the view says, and one for a shorter, asks for that for a
    /// while. (A voter that applies the document late, or whose disk hangs, may be needed for a majority.) True if it begins to.
    fn give_in(&mut self, now: BootNanos, view: &LeaseView) -> bool {
        // Of who was not asked nothing is known.
        let whom = |round: &&Round| round.of_all && round.timing == view.timing;
        let Some(round) = self.rounds.back().filter(whom) else { return false };
        let granted = |right: u64| self.counting.sets().quorum(|voter| round.grants(voter, right));
        if round.too_long.is_empty() || granted(view.timing.right()) {
            return false;
        }
        let lengths = round.too_long.iter().map(|(_, longest)| *longest);
        let Some(longest) = lengths.filter(|longest| *longest > 0 && granted(*longest)).max() else { return false };
        self.asks_at_most = (longest, now.plus(GIVES_IN_ROUNDS * view.timing.renew()));
        true
    }

    /// When to ask again if there is no answer. Whatever lease comes next, a right that was given under a shorter one
    /// ends by that; and so does one that has to be asked for because no longer one is granted.
    fn retry(&self, view: &LeaseView) -> u64 {
        let held = self.timing_held().map_or(u64::MAX, Timing::retry);
        let granted = match self.asks_at_most {
            (0, _) => u64::MAX,
            (longest, _) => Timing::of_right(longest).retry(),
        };
        held.min(granted).min(view.timing.retry())
    }

    fn heard_age(&self, now: BootNanos) -> u64 {
        self.confirmed.map_or(u64::MAX, |confirmed| now.since(confirmed.asked_at))
    }

    fn answer_to(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        view: &LeaseView,
        from: NodeId,
        boot: Boot,
        ask: &Ask,
    ) -> Answer {
        let membership = view.membership.max(facts.membership);
        let right_longest = view.granted.right();
        let standing = Standing { right_longest, right_before: self.right_before.unwrap_or(u64::MAX) };
        let counts = ask.counts_by.is_enough(membership, facts.last) || !self.rules.keep(Rule::RefuseStaleMembership);
        let verdict = match () {
            () if counts => Verdict::Enough,
            () if view.membership == membership => Verdict::news(&view.voters),
            // The log is ahead of the view.
            () => Verdict::Stale,
        };
        // A sole voter answers itself within the round that asks, so it never seems deaf for long;
        // its own first round is believed.
        let alone = view.voters.quorum(|voter| voter == from);
        // Who has a longer lease, or had one a moment ago, asks less often.
        let deaf_after = Timing::of_right(ask.right).deaf_after().max(view.timing.deaf_after());
        let deaf = !alone && ask.heard_age > deaf_after;
        let asker = Asker { node: from, boot, counts, right: ask.right, deaf, heard_age: ask.heard_age };
        let scopes = &self.scopes;
        let word = |want: &Want| {
            let stance = self.grantor.answer(now, standing, asker, *want, scopes.get(&want.vip));
            Word { vip: want.vip, stance }
        };
        let words = ask.wants.iter().map(word).collect();
        let summaries = if ask.summaries && counts { self.grantor.summaries(now) } else { Vec::new() };
        let (last, applied) = (facts.last.index, facts.applied);
        Answer { round: ask.round, membership, verdict, last, applied, summaries, words }
    }

    fn answered(&mut self, now: BootNanos, facts: LogFacts, from: NodeId, answer: &Answer, out: &mut Actions) {
        let Some(view) = self.view.clone() else { return };
        let Some(round) = self.rounds.iter_mut().find(|round| round.id == answer.round) else { return };
        let (asked_at, timing, whole) = (round.asked_at, round.timing, round.whole);
        let right = timing.right();
        let too_long = answer.words.iter().find_map(|word| match word.stance {
            Stance::TooLong { longest } => Some((from, longest)),
            _ => None,
        });
        round.too_long.extend(too_long);
        if answer.verdict == Verdict::Enough && !round.replies.iter().any(|(voter, _)| *voter == from) {
            round.replies.push((from, answer.last));
            let answered = self.counting.sets().quorum(|voter| round.replies.iter().any(|(n, _)| *n == voter));
            if answered && self.confirmed.is_none_or(|c| c.asked_at < asked_at) {
                let index = round.replies.iter().map(|(_, last)| *last).max().unwrap_or_default();
                self.confirmed = Some(Confirmed { asked_at, index });
            }
        }
        let whole_right = |round: &Round| self.counting.sets().quorum(|voter| round.grants(voter, right));
        if timing == view.timing && whole_right(round) {
            self.asks_at_most = (0, now);
        }
        let refused = !self.counting.sets().quorum(|voter| !round.finds_too_long(voter, right));
        if refused && let Some(held) = self.timing_held().filter(|held| held.right() < right) {
            self.asks_at_most = (held.right(), now.plus(view.timing.renew()));
            self.ask_now.extend(&self.held);
        }
        // An owner has time until the next round: who has not answered yet may grant it. Who waits for the VIP has none.
        if too_long.is_some() && self.timing_held().is_none() && self.give_in(now, &view) {
            let due = self.due_in_round(now, &view);
            self.ask_now.extend(due);
        }
        match &answer.verdict {
            Verdict::Enough => self.counting.affirm(now, answer.membership),
            Verdict::News(sets) if self.counting.learn(now, answer.membership, sets) => {
                self.deadlines_stale = true;
                let concerned = self.candidates.values().filter(|candidate| !candidate.only_watches(now, &view));
                self.ask_now.extend(concerned.map(|candidate| candidate.vip));
            }
            Verdict::News(_) | Verdict::Stale => {}
        }
        for word in &answer.words {
            let said = Said { voter: from, asked_at, right, last: answer.last, stance: word.stance };
            self.with(now, facts, word.vip, out, |c, ctx, fx| c.heard(ctx, &said, fx));
        }
        if answer.verdict == Verdict::Enough && self.left_out.is_of(answer.round) {
            self.hear_summaries(now, facts, &view, from, &answer.summaries, out);
        }
        // The next round has time once this one has done what it was for.
        let next = asked_at.plus(timing.renew());
        if whole
            && next > self.next_round_at
            && self.confirmed.is_some_and(|confirmed| confirmed.asked_at >= asked_at)
            && self
                .held
                .iter()
                .all(|vip| self.candidates.get(vip).is_none_or(|one| one.is_renewed(asked_at.plus(right))))
        {
            self.next_round_at = next;
            self.turns.answered();
        }
    }

    /// What voters told and tell no more is counted by no longer, and nothing that was asked for while it was.
    fn forget_told(&mut self, now: BootNanos, facts: LogFacts, view: &LeaseView, out: &mut Actions) {
        if self.counting.forget(now, view.timing.promise()) {
            self.rounds.clear();
            self.deadlines_stale = true;
            self.each(now, facts, out, |candidate, _, _| candidate.forget_grants());
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

/// How long before its turn may come a VIP that is watched is asked about: a round, and as much as one may be late.
fn ahead(view: &LeaseView) -> u64 {
    view.timing.renew() * 5 / 4
}

/// A peer that was silent for longer has been away: two leases.
fn silence(view: &LeaseView) -> u64 {
    2 * view.timing.promise()
}
