//! The voter's half of a lease: whom each VIP is promised to, and until when.
//!
//! Promises live in memory only, so that giving one costs no disk. What a restart forgets is made
//! up for by silence: a grantor that has just started promises nothing for as long as any promise
//! of its earlier life could last.
//!
//! Not here: majorities, which only the asker sees ([`super::candidate`]).

use std::collections::BTreeMap;

use super::{
    datagram::{Holding, Stance, Want},
    rules::{Rule, Rules},
    timing::promise_for,
};
use crate::{
    ids::{Boot, NodeId, VipId},
    lease::Epoch,
    time::BootNanos,
};

/// Promises of one voter.
pub(super) struct Grantor {
    started: BootNanos,
    rules: Rules,
    vips: BTreeMap<VipId, Promises>,
}

#[derive(Default)]
struct Promises {
    /// To whom, until when on this node's clock. May lie in the past.
    promise: Option<(Holding, BootNanos)>,
    /// The highest epoch heard of, and who claimed it. Nobody else is given that number.
    highest: Epoch,
    highest_of: Option<(NodeId, Boot)>,
}

/// Who asks, and what it says of itself.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    pub node: NodeId,
    pub boot: Boot,
    /// It counts by the newest membership that the voter knows, or by a newer one.
    pub counts: bool,
    /// How long its right lasts.
    pub right: u64,
    /// Its newest round that a majority answered is too long ago.
    pub deaf: bool,
}

/// What the voter itself knows.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    /// Longest right that may be in force.
    pub right_longest: u64,
}

impl Grantor {
    pub(super) fn new(now: BootNanos, rules: Rules) -> Self {
        Self { started: now, rules, vips: BTreeMap::new() }
    }

    /// Answers one want. A claim that is granted is promised from now on.
    pub(super) fn answer(&mut self, now: BootNanos, standing: Standing, asker: Asker, want: Want) -> Stance {
        let promises = self.vips.entry(want.vip).or_default();
        if let Some(released) = want.released {
            promises.released(released);
        }
        if !asker.counts {
            return Stance::StaleMembership;
        }
        if asker.right > standing.right_longest {
            return Stance::TooLong;
        }
        let quiet_until = self.started.plus(promise_for(standing.right_longest));
        if now < quiet_until && self.rules.keep(Rule::QuietAfterRestart) {
            return Stance::Quiet { remaining: quiet_until.since(now) };
        }
        let who = (asker.node, asker.boot);
        if let Some((by, until)) = promises.promise
            && now < until
            && (by.node, by.boot) != who
        {
            return Stance::Taken { by, remaining: until.since(now) };
        }
        let Some(epoch) = want.claim else {
            return Stance::Free { highest: promises.highest };
        };
        if asker.deaf {
            return Stance::Deaf;
        }
        if epoch < promises.highest || epoch == promises.highest && promises.highest_of.is_some_and(|of| of != who) {
            return Stance::LowEpoch { highest: promises.highest };
        }
        promises.highest = epoch;
        promises.highest_of = Some(who);
        let length = if self.rules.keep(Rule::DriftMargin) { promise_for(asker.right) } else { asker.right };
        let before = promises.promise.map_or(BootNanos::default(), |(_, until)| until);
        let holding = Holding { node: asker.node, boot: asker.boot, epoch };
        promises.promise = Some((holding, before.max(now.plus(length))));
        Stance::Granted { epoch }
    }

    /// A holder said that its gate is closed.
    pub(super) fn released(&mut self, vip: VipId, holding: Holding) {
        self.vips.entry(vip).or_default().released(holding);
    }

    /// Forgets VIPs that are gone and promised to nobody.
    pub(super) fn prune(&mut self, now: BootNanos, keep: impl Fn(VipId) -> bool) {
        self.vips.retain(|vip, promises| keep(*vip) || promises.promise.is_some_and(|(_, until)| now < until));
    }
}

impl Promises {
    /// Frees what was promised to `holding` under its epoch or an earlier one of the same life. A
    /// promise to anyone else stands, whatever its epoch: two askers may have claimed at once.
    fn released(&mut self, holding: Holding) {
        if self.highest <= holding.epoch {
            // Late datagrams of the epoch that was released find it too low.
            self.highest = holding.epoch.next();
            self.highest_of = None;
        }
        if let Some((by, _)) = self.promise
            && (by.node, by.boot) == (holding.node, holding.boot)
            && by.epoch <= holding.epoch
        {
            self.promise = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: VipId = VipId::new(1);
    const RIGHT: u64 = 900;

    fn ask(grantor: &mut Grantor, now: u64, node: u64, claim: Option<u64>) -> Stance {
        let standing = Standing { right_longest: RIGHT };
        let asker = Asker { node: NodeId::new(node), boot: Boot(node * 10), counts: true, right: RIGHT, deaf: false };
        let want = Want { vip: VIP, claim: claim.map(Epoch::new), released: None };
        grantor.answer(BootNanos::new(now), standing, asker, want)
    }

    fn holding(node: u64, epoch: u64) -> Holding {
        Holding { node: NodeId::new(node), boot: Boot(node * 10), epoch: Epoch::new(epoch) }
    }

    /// Past the silence of a start: 1111 for a right of 900.
    fn awake() -> Grantor {
        let mut grantor = Grantor::new(BootNanos::new(0), Rules::default());
        assert!(matches!(ask(&mut grantor, 1100, 1, Some(1)), Stance::Quiet { remaining: 11 }));
        assert!(matches!(ask(&mut grantor, 1111, 1, None), Stance::Free { .. }));
        grantor
    }

    #[test]
    fn promises_to_one_holder_until_its_promise_ends() {
        let mut grantor = awake();
        assert_eq!(ask(&mut grantor, 2000, 1, Some(7)), Stance::Granted { epoch: Epoch::new(7) });
        assert_eq!(ask(&mut grantor, 2100, 2, Some(9)), Stance::Taken { by: holding(1, 7), remaining: 1011 });
        assert_eq!(ask(&mut grantor, 2500, 1, Some(7)), Stance::Granted { epoch: Epoch::new(7) });
        assert!(matches!(ask(&mut grantor, 3610, 2, None), Stance::Taken { .. }));
        assert_eq!(ask(&mut grantor, 3611, 2, None), Stance::Free { highest: Epoch::new(7) });
        assert_eq!(ask(&mut grantor, 3611, 2, Some(7)), Stance::LowEpoch { highest: Epoch::new(7) }, "used by 1");
        assert_eq!(ask(&mut grantor, 3611, 2, Some(8)), Stance::Granted { epoch: Epoch::new(8) });
    }

    #[test]
    fn a_release_frees_its_own_promise_only() {
        let mut grantor = awake();
        ask(&mut grantor, 2000, 1, Some(7));
        grantor.released(VIP, holding(2, 9));
        assert!(matches!(ask(&mut grantor, 2001, 2, None), Stance::Taken { .. }), "2 had nothing to give");
        grantor.released(VIP, holding(1, 7));
        assert_eq!(ask(&mut grantor, 2002, 1, Some(7)), Stance::LowEpoch { highest: Epoch::new(10) }, "a late renewal");
        assert_eq!(ask(&mut grantor, 2002, 2, Some(10)), Stance::Granted { epoch: Epoch::new(10) });
    }

    #[test]
    fn refuses_who_counts_by_an_older_membership_or_hears_nobody() {
        let mut grantor = awake();
        let standing = Standing { right_longest: RIGHT };
        let mut asker = Asker { node: NodeId::new(1), boot: Boot(1), counts: false, right: RIGHT, deaf: true };
        let want = Want { vip: VIP, claim: Some(Epoch::new(1)), released: None };
        let now = BootNanos::new(5000);
        assert_eq!(grantor.answer(now, standing, asker, want), Stance::StaleMembership);
        asker.counts = true;
        assert_eq!(grantor.answer(now, standing, asker, want), Stance::Deaf);
        asker.right = RIGHT + 1;
        assert_eq!(grantor.answer(now, standing, asker, want), Stance::TooLong);
    }
}
