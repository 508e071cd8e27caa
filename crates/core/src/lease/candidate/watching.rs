//! What voters say of a VIP that another node holds, or nobody, and when it is this node's turn to ask for it.

use ballast_planted::Bug;
use smallvec::SmallVec;

use super::{Candidate, Context, Effect, Heard, Hold, Known, OthersPromise, Released, is_unfit};
use crate::{
    ids::NodeId,
    lease::{
        Fitness, GainCause,
        datagram::{Holding, Stance},
        grants::Said,
        view::LeaseView,
        voters::VoterSets,
    },
    time::BootNanos,
};

/// About what it takes a node to ask the link for an address and to put it on its interface, when there are many.
const IN_PLACE_NANOS: u64 = 5_000_000;

impl Candidate {
    /// Whether the next round of questions should be about this VIP, for a node whose turn does not come: one that may come free
    /// by `then`.
    pub(in crate::lease) fn is_due(
        &self,
        now: BootNanos,
        view: &LeaseView,
        voters: &VoterSets,
        then: BootNanos,
    ) -> bool {
        !self.only_watches(now, view) || self.free_by(voters).is_none_or(|free| free <= then)
    }

    /// Whether that says more than voters did when they were asked last: who holds it, or that this node need not ask them for as
    /// long.
    pub(in crate::lease) fn is_behind(&self, now: BootNanos, view: &LeaseView, other: &OthersPromise) -> bool {
        let news = || other.majority_until > now || self.known.is_none_or(|known| known.by != other.by);
        self.only_watches(now, view) && other.known_at > self.asked_last && news()
    }

    /// It is known to be promised to another. What voters said when they were asked last is out of date: a majority has
    /// promised since, and is not free before that is over.
    pub(in crate::lease) fn promised_to(&mut self, ctx: &Context<'_>, other: &OthersPromise) {
        self.learn_owner(ctx, other.by, other.until);
        for word in self.words.values_mut() {
            word.free = false;
            word.free_at = word.free_at.max(other.majority_until);
        }
    }

    /// Under what another holds it that this node watches, as far as it knows, and for longer than until `then`.
    pub(in crate::lease) fn known_by(&self, then: BootNanos) -> Option<Holding> {
        let known = self.known.filter(|known| matches!(self.hold, Hold::Watching) && known.until > then);
        known.map(|known| known.by)
    }

    /// When a majority of voters will be free at the earliest, of a VIP that this node watches and whose owner it knows.
    pub(in crate::lease) fn watched_until(
        &self,
        now: BootNanos,
        view: &LeaseView,
        voters: &VoterSets,
    ) -> Option<BootNanos> {
        self.known.filter(|_| self.only_watches(now, view)).and_then(|_| self.free_by(voters))
    }

    pub(super) fn learn_owner(&mut self, ctx: &Context<'_>, by: Holding, until: BootNanos) {
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

    /// Keeps what a voter's answer tells beside its yes or no.
    pub(super) fn note(&mut self, ctx: &Context<'_>, said: &Said) {
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
    pub(super) fn is_known_otherwise(&self, ctx: &Context<'_>) -> bool {
        !ctx.voters.quorum(|n| self.words.get(&n).is_none_or(|word| !word.other_addresses))
    }

    /// Whether it is this node's turn to ask or to claim.
    pub(super) fn consider(&mut self, ctx: &Context<'_>, out: &mut Vec<Effect>) {
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
    pub(super) fn turn(&self, ctx: &Context<'_>) -> Option<BootNanos> {
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
    pub(super) fn rank(&self, ctx: &Context<'_>) -> u64 {
        let released = self.released.filter(|r| ctx.now.since(r.at) < ctx.view.timing.promise());
        let last = self.known.map(|k| k.by.node).or(released.map(|r| r.holding.node));
        let others = ctx.ranking.order.iter().filter(|n| Some(**n) != last);
        let place = others.clone().position(|n| *n == ctx.node).unwrap_or(others.count());
        let behind = if ctx.fitness == Fitness::Fit { 0 } else { ctx.view.nodes.len() };
        (place + behind) as u64
    }

    /// When to ask again: at the turn; then when those who answered since have said that they will be free (a voter that
    /// is gone, the last owner perhaps, foretold an earlier time), and at the pace of unanswered renewals in any case.
    pub(super) fn ask_at(&self, ctx: &Context<'_>, turn: BootNanos) -> BootNanos {
        if self.asked_last < turn {
            return turn;
        }
        let since = self.words.iter().filter(|(_, word)| word.asked_at >= turn);
        let times: SmallVec<[(NodeId, BootNanos); 8]> = since.map(|(n, word)| (*n, word.free_at)).collect();
        let again = self.asked_last.plus(ctx.view.timing.retry());
        ctx.voters.free_by(&times).filter(|free| *free > self.asked_last).map_or(again, |free| free.min(again))
    }
}
