//! Rounds of questions to the voters: whom a round asks, for how long a right, and what its answers bring; and this node's own answers
//! to the rounds of others.
//!
//! Not here: what a round is about ([`super::watching`] has what it may leave out).

use smallvec::SmallVec;

use super::{LeaseNode, silence};
use crate::{
    ids::{Boot, LogIndex, NodeId, VipId},
    lease::{
        candidate::Candidate,
        datagram::{Answer, Ask, Message, Stance, Verdict, Want, Word, parts},
        grantor::{Asker, Standing},
        grants::Said,
        rules::Rule,
        timing::Timing,
        transition::Actions,
        view::{Confirmed, LeaseView, LogFacts},
    },
    time::BootNanos,
};

/// Rounds whose answers are still of use: a right is over after seven that were not answered, and the longest after some
/// thirty; extra questions come on top.
const ROUNDS_MAX: usize = 64;

/// A shorter right than the view says is asked for in so many rounds before it is tried again.
const GIVES_IN_ROUNDS: u64 = 4;

/// Questions that one event may lead to before the rest waits for the next event.
const ASKS_PER_EVENT_MAX: usize = 4;

pub(super) struct Round {
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
    pub(super) fn ask_where_wanted(&mut self, now: BootNanos, facts: LogFacts, out: &mut Actions) {
        for _ in 0..ASKS_PER_EVENT_MAX {
            if self.ask_now.is_empty() {
                return;
            }
            let vips: Vec<VipId> = std::mem::take(&mut self.ask_now).into_iter().collect();
            self.ask(now, facts, &vips, false, out);
        }
    }

    /// Asks voters about `vips`. This node's own vote is asked for and counted like any other.
    pub(super) fn ask(&mut self, now: BootNanos, facts: LogFacts, vips: &[VipId], whole: bool, out: &mut Actions) {
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
    pub(super) fn timing_held(&self) -> Option<Timing> {
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
    pub(super) fn give_in(&mut self, now: BootNanos, view: &LeaseView) -> bool {
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
    pub(super) fn retry(&self, view: &LeaseView) -> u64 {
        let held = self.timing_held().map_or(u64::MAX, Timing::retry);
        let granted = match self.asks_at_most {
            (0, _) => u64::MAX,
            (longest, _) => Timing::of_right(longest).retry(),
        };
        held.min(granted).min(view.timing.retry())
    }

    pub(super) fn heard_age(&self, now: BootNanos) -> u64 {
        self.confirmed.map_or(u64::MAX, |confirmed| now.since(confirmed.asked_at))
    }

    pub(super) fn answer_to(
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

    pub(super) fn answered(
        &mut self,
        now: BootNanos,
        facts: LogFacts,
        from: NodeId,
        answer: &Answer,
        out: &mut Actions,
    ) {
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
    pub(super) fn forget_told(&mut self, now: BootNanos, facts: LogFacts, view: &LeaseView, out: &mut Actions) {
        if self.counting.forget(now, view.timing.promise()) {
            self.rounds.clear();
            self.deadlines_stale = true;
            self.each(now, facts, out, |candidate, _, _| candidate.forget_grants());
        }
    }
}
