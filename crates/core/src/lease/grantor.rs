//! The voter's half of a lease: whom each VIP is promised to, and until when.
//!
//! Promises live in memory only, so that giving one costs no disk. What a restart forgets is made
//! up for by silence: a grantor that has just started promises nothing for as long as any promise
//! of its earlier life could last.
//!
//! What is promised is a VIP *and* each of its addresses. Names and addresses come apart when the document changes and
//! nodes learn of it one after the other: an address that was promised as one VIP's is not promised to anybody else as
//! another's before that promise ends.
//!
//! Not here: majorities, which only the asker sees ([`super::candidate`]).

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    datagram::{Holding, Stance, Want},
    rules::{Rule, Rules},
    scope::Scope,
    summary::{Summaries, Summary},
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
    /// To whom each address was promised as which VIP's, and until when. An entry may outlast the promise of the VIP, when
    /// the VIP has lost the address since.
    addresses: BTreeMap<(IpAddr, VipId), (Holding, BootNanos)>,
}

#[derive(Default)]
struct Promises {
    /// May be over.
    promise: Option<Promise>,
    /// The highest epoch heard of, and who claimed it. Nobody else is given that number.
    highest: Epoch,
    highest_of: Option<(NodeId, Boot)>,
}

/// A VIP's promise to one life. Times are on this node's clock.
#[derive(Clone, Copy)]
pub(super) struct Promise {
    pub by: Holding,
    /// When it was given last.
    pub given_at: BootNanos,
    pub until: BootNanos,
    /// Since when that life has been promised it without a gap, each time for a right of this length.
    since: BootNanos,
    right: u64,
    /// Until when a majority of the voters has promised it to that life at least; zero if that is not known.
    pub majority_until: BootNanos,
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
    /// How long ago that is.
    pub heard_age: u64,
}

/// What the voter itself knows.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    /// Longest right that it grants.
    pub right_longest: u64,
    /// Longest that an earlier life of the voter may have promised for. A lease that was made longer since is not one.
    pub right_before: u64,
}

impl Grantor {
    pub(super) fn new(now: BootNanos, rules: Rules) -> Self {
        Self { started: now, rules, vips: BTreeMap::new(), addresses: BTreeMap::new() }
    }

    /// Answers one want about a VIP that the voter knows by the addresses of `scope`, if it knows it. A claim that is
    /// granted is promised from now on.
    pub(super) fn answer(
        &mut self,
        now: BootNanos,
        standing: Standing,
        asker: Asker,
        want: Want,
        scope: Option<&Scope>,
    ) -> Stance {
        if let Some(released) = want.released {
            self.released(want.vip, released);
        }
        if !asker.counts {
            return Stance::StaleMembership;
        }
        if asker.right > standing.right_longest {
            return Stance::TooLong { longest: standing.right_longest };
        }
        let quiet_until = self.started.plus(promise_for(standing.right_before));
        if now < quiet_until && self.rules.keep(Rule::QuietAfterRestart) {
            return Stance::Quiet { remaining: quiet_until.since(now) };
        }
        let who = (asker.node, asker.boot);
        let promises = self.vips.entry(want.vip).or_default();
        if let Some(Promise { by, until, .. }) = promises.promise
            && now < until
            && (by.node, by.boot) != who
        {
            return Stance::Taken { by, remaining: until.since(now) };
        }
        let agreed = scope.is_some_and(|scope| scope.digest() == want.scope);
        if !agreed && self.rules.keep(Rule::AgreeOnAddresses) {
            return Stance::OtherAddresses;
        }
        let addresses = scope.map_or(&[][..], Scope::addresses);
        let taken = addresses.iter().filter_map(|address| taken_until(&self.addresses, now, *address, who)).max();
        let taken = taken.filter(|_| self.rules.keep(Rule::PromiseAddresses));
        let part = scope.filter(|_| taken.is_some()).map(|scope| {
            let promised = |address| self.addresses.get(&(address, want.vip));
            scope.only(|address| promised(address).is_some_and(|(by, until)| now < *until && (by.node, by.boot) == who))
        });
        // Who holds the VIP keeps it while an address that was added is not free yet.
        let keeps = want.claim.is_some() && part.as_ref().is_some_and(|part| !part.addresses().is_empty());
        if let Some(until) = taken.filter(|_| !keeps) {
            return Stance::AddressTaken { remaining: until.since(now) };
        }
        let (granted, addresses) = match &part {
            Some(part) => (part.digest(), part.addresses()),
            None => (want.scope, addresses),
        };
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
        let holding = Holding { node: asker.node, boot: asker.boot, epoch };
        let promise = Promise::follow(promises.promise, now, asker, holding, length);
        promises.promise = Some(promise);
        if !self.rules.keep(Rule::FormerAddressesStayPromised) {
            self.addresses.retain(|(_, vip), _| *vip != want.vip);
        }
        for address in addresses {
            self.addresses.insert((*address, want.vip), (holding, promise.until));
        }
        Stance::Granted { epoch, scope: granted }
    }

    /// A holder said that its gate is closed, to all addresses that it held as the VIP's.
    pub(super) fn released(&mut self, vip: VipId, holding: Holding) {
        if self.vips.entry(vip).or_default().released(holding) {
            self.addresses.retain(|(_, of), (by, _)| *of != vip || !is_freed(*by, holding));
        }
    }

    /// Forgets VIPs and addresses that are gone and promised to nobody.
    pub(super) fn prune(&mut self, now: BootNanos, keep: impl Fn(VipId) -> bool) {
        self.vips.retain(|vip, promises| keep(*vip) || promises.promise.is_some_and(|promise| now < promise.until));
        self.addresses.retain(|_, (_, until)| now < *until);
    }

    /// What is promised now, in short.
    pub(super) fn summaries(&self, now: BootNanos) -> Vec<Summary> {
        let mut all = Summaries::default();
        for (vip, promises) in &self.vips {
            if let Some(promise) = promises.promise.filter(|promise| now < promise.until) {
                all.add(*vip, promise.by, promise.until.since(now));
            }
        }
        all.into_vec()
    }

    /// To whom the VIP is promised now.
    pub(super) fn promised(&self, now: BootNanos, vip: VipId) -> Option<Promise> {
        self.vips.get(&vip)?.promise.filter(|promise| now < promise.until)
    }
}

impl Promise {
    /// What is promised to `by` at `now` for `length`, after what was before.
    ///
    /// The asker says how old its newest round is that a majority answered. If it has been promised the VIP here for as long,
    /// that round was about the VIP, too: the majority was asked to promise it then. Had the right been another, it had
    /// promised for another length. (An extra question about other VIPs counts as a round, and is younger than the last about
    /// all by less than a renewal: it can make this so much too late for an owner that reaches no majority right after it.)
    fn follow(before: Option<Self>, now: BootNanos, asker: Asker, by: Holding, length: u64) -> Self {
        let goes_on = |before: &Self| {
            now < before.until && (before.by.node, before.by.boot) == (by.node, by.boot) && before.right == asker.right
        };
        let since = before.filter(goes_on).map_or(now, |before| before.since);
        let majority_asked_at = BootNanos::new(now.get().saturating_sub(asker.heard_age));
        let known = majority_asked_at >= since;
        Self {
            by,
            given_at: now,
            until: before.map_or(BootNanos::default(), |before| before.until).max(now.plus(length)),
            since,
            right: asker.right,
            majority_until: if known { majority_asked_at.plus(length) } else { BootNanos::default() },
        }
    }
}

/// Until when an address is promised to anyone but `who`, if it is.
fn taken_until(
    promised: &BTreeMap<(IpAddr, VipId), (Holding, BootNanos)>,
    now: BootNanos,
    address: IpAddr,
    who: (NodeId, Boot),
) -> Option<BootNanos> {
    let as_any = promised.range((address, VipId::new(0))..=(address, VipId::new(u32::MAX)));
    let others = as_any.filter(|(_, (by, until))| now < *until && (by.node, by.boot) != who);
    others.map(|(_, (_, until))| *until).max()
}

/// Whether a release of `released` frees what was promised to `by`: the same life, under that epoch or an earlier one.
fn is_freed(by: Holding, released: Holding) -> bool {
    (by.node, by.boot) == (released.node, released.boot) && by.epoch <= released.epoch
}

impl Promises {
    /// Frees what was promised to `holding` under its epoch or an earlier one of the same life, and says whether that was
    /// something. A promise to anyone else stands, whatever its epoch: two askers may have claimed at once.
    fn released(&mut self, holding: Holding) -> bool {
        if self.highest <= holding.epoch {
            // Late datagrams of the epoch that was released find it too low.
            self.highest = holding.epoch.next();
            self.highest_of = None;
        }
        let freed = self.promise.is_some_and(|promise| is_freed(promise.by, holding));
        if freed {
            self.promise = None;
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::scope::tests::scope;

    const VIP: VipId = VipId::new(1);
    const RIGHT: u64 = 900;

    fn ask(grantor: &mut Grantor, now: u64, node: u64, claim: Option<u64>) -> Stance {
        let standing = Standing { right_longest: RIGHT, right_before: RIGHT };
        let scope = scope(&["10.0.0.1"]);
        let want = Want { vip: VIP, scope: scope.digest(), claim: claim.map(Epoch::new), released: None };
        grantor.answer(BootNanos::new(now), standing, asker(node), want, Some(&scope))
    }

    /// Claims `vip`, which voter and asker know by these addresses, under an epoch that is the time.
    fn claim(grantor: &mut Grantor, now: u64, node: u64, vip: u32, addresses: &[&str]) -> Stance {
        let standing = Standing { right_longest: RIGHT, right_before: RIGHT };
        let scope = scope(addresses);
        let want = Want { vip: VipId::new(vip), scope: scope.digest(), claim: Some(Epoch::new(now)), released: None };
        grantor.answer(BootNanos::new(now), standing, asker(node), want, Some(&scope))
    }

    /// What [`ask`] asks for.
    fn granted(epoch: u64) -> Stance {
        Stance::Granted { epoch: Epoch::new(epoch), scope: scope(&["10.0.0.1"]).digest() }
    }

    fn holding(node: u64, epoch: u64) -> Holding {
        Holding { node: NodeId::new(node), boot: Boot(node * 10), epoch: Epoch::new(epoch) }
    }

    fn asker(node: u64) -> Asker {
        Asker {
            node: NodeId::new(node),
            boot: Boot(node * 10),
            counts: true,
            right: RIGHT,
            deaf: false,
            heard_age: u64::MAX,
        }
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
        assert_eq!(ask(&mut grantor, 2000, 1, Some(7)), granted(7));
        assert_eq!(ask(&mut grantor, 2100, 2, Some(9)), Stance::Taken { by: holding(1, 7), remaining: 1011 });
        assert_eq!(ask(&mut grantor, 2500, 1, Some(7)), granted(7));
        assert!(matches!(ask(&mut grantor, 3610, 2, None), Stance::Taken { .. }));
        assert_eq!(ask(&mut grantor, 3611, 2, None), Stance::Free { highest: Epoch::new(7) });
        assert_eq!(ask(&mut grantor, 3611, 2, Some(7)), Stance::LowEpoch { highest: Epoch::new(7) }, "used by 1");
        assert_eq!(ask(&mut grantor, 3611, 2, Some(8)), granted(8));
    }

    #[test]
    fn a_lease_that_is_made_longer_after_the_start_makes_no_longer_silence() {
        let mut grantor = awake();
        let standing = Standing { right_longest: 50 * RIGHT, right_before: RIGHT };
        let scope = scope(&["10.0.0.1"]);
        let want = Want { vip: VIP, scope: scope.digest(), claim: Some(Epoch::new(7)), released: None };
        assert_eq!(grantor.answer(BootNanos::new(1112), standing, asker(1), want, Some(&scope)), granted(7));
    }

    #[test]
    fn a_release_frees_its_own_promise_only() {
        let mut grantor = awake();
        ask(&mut grantor, 2000, 1, Some(7));
        grantor.released(VIP, holding(2, 9));
        assert!(matches!(ask(&mut grantor, 2001, 2, None), Stance::Taken { .. }), "2 had nothing to give");
        grantor.released(VIP, holding(1, 7));
        assert_eq!(ask(&mut grantor, 2002, 1, Some(7)), Stance::LowEpoch { highest: Epoch::new(10) }, "a late renewal");
        assert_eq!(ask(&mut grantor, 2002, 2, Some(10)), granted(10));
    }

    #[test]
    fn refuses_who_counts_by_an_older_membership_or_hears_nobody() {
        let mut grantor = awake();
        let standing = Standing { right_longest: RIGHT, right_before: RIGHT };
        let mut asker = Asker { counts: false, deaf: true, ..asker(1) };
        let scope = scope(&["10.0.0.1"]);
        let want = Want { vip: VIP, scope: scope.digest(), claim: Some(Epoch::new(1)), released: None };
        let mut answer = |asker| grantor.answer(BootNanos::new(5000), standing, asker, want, Some(&scope));
        assert_eq!(answer(asker), Stance::StaleMembership);
        asker.counts = true;
        assert_eq!(answer(asker), Stance::Deaf);
        asker.right = RIGHT + 1;
        assert_eq!(answer(asker), Stance::TooLong { longest: RIGHT });
    }

    #[test]
    fn refuses_who_knows_other_addresses_and_whoever_asks_for_a_vip_that_it_does_not_know() {
        let mut grantor = awake();
        let standing = Standing { right_longest: RIGHT, right_before: RIGHT };
        let (old, new) = (scope(&["10.0.0.1"]), scope(&["10.0.0.1", "10.0.0.2"]));
        let mut answer = |asked: &Scope, known: Option<&Scope>, claim| {
            let want = Want { vip: VIP, scope: asked.digest(), claim, released: None };
            grantor.answer(BootNanos::new(5000), standing, asker(1), want, known)
        };
        for claim in [None, Some(Epoch::new(1))] {
            assert_eq!(answer(&old, Some(&new), claim), Stance::OtherAddresses);
            assert_eq!(answer(&new, Some(&old), claim), Stance::OtherAddresses);
            assert_eq!(answer(&old, None, claim), Stance::OtherAddresses);
        }
        assert_eq!(answer(&new, Some(&new), None), Stance::Free { highest: Epoch::default() });
    }

    #[test]
    fn an_address_is_promised_to_one_life_whatever_vip_it_is_of() {
        let granted = |epoch, of: &[&str]| Stance::Granted { epoch: Epoch::new(epoch), scope: scope(of).digest() };
        let mut grantor = awake();
        let both = ["10.0.0.1", "10.0.0.2"];
        assert_eq!(claim(&mut grantor, 2000, 1, 1, &both), granted(2000, &both));
        // The VIP is renamed: the address is another VIP's now.
        assert_eq!(claim(&mut grantor, 2100, 2, 2, &["10.0.0.2"]), Stance::AddressTaken { remaining: 1011 });
        assert_eq!(claim(&mut grantor, 2100, 2, 3, &["10.0.0.3"]), granted(2100, &["10.0.0.3"]), "nothing is common");
        let more = ["10.0.0.2", "10.0.0.3"];
        assert_eq!(claim(&mut grantor, 2101, 2, 3, &more), granted(2101, &more[1..]), "what it was promised before");
        assert_eq!(claim(&mut grantor, 2100, 1, 2, &["10.0.0.2"]), granted(2100, &["10.0.0.2"]), "its own");
        grantor.released(VipId::new(2), holding(1, 2100));
        // The first VIP's holder learns of it and renews: the address that the VIP has lost stays promised as it was.
        assert_eq!(claim(&mut grantor, 2500, 1, 1, &["10.0.0.1"]), granted(2500, &["10.0.0.1"]));
        assert_eq!(claim(&mut grantor, 3110, 2, 2, &["10.0.0.2"]), Stance::AddressTaken { remaining: 1 });
        assert_eq!(claim(&mut grantor, 3111, 2, 2, &["10.0.0.2"]), granted(3111, &["10.0.0.2"]));
        // A release frees all that was held as the VIP's.
        assert!(matches!(claim(&mut grantor, 3200, 2, 4, &["10.0.0.1"]), Stance::AddressTaken { .. }));
        grantor.released(VIP, holding(1, 2500));
        assert_eq!(claim(&mut grantor, 3200, 2, 4, &["10.0.0.1"]), granted(3200, &["10.0.0.1"]));
    }

    #[test]
    fn a_promise_tells_until_when_a_majority_has_promised_as_well() {
        let mut grantor = awake();
        let scope = scope(&["10.0.0.1"]);
        let mut majority_until = |now, node, right, heard_age| {
            let standing = Standing { right_longest: RIGHT, right_before: RIGHT };
            let asker = Asker { right, heard_age, ..asker(node) };
            let want = Want { vip: VIP, scope: scope.digest(), claim: Some(Epoch::new(now)), released: None };
            let now = BootNanos::new(now);
            assert!(matches!(grantor.answer(now, standing, asker, want, Some(&scope)), Stance::Granted { .. }));
            grantor.promised(now, VIP).expect("promised").majority_until.get()
        };
        let promise = promise_for(RIGHT);
        assert_eq!(majority_until(2000, 1, RIGHT, 10), 0, "what a majority answered was not about the VIP");
        assert_eq!(majority_until(2300, 1, RIGHT, 310), 0);
        assert_eq!(majority_until(2400, 1, RIGHT, 100), 2300 + promise);
        assert_eq!(majority_until(2500, 1, RIGHT, 200), 2300 + promise, "no majority has answered since");
        let (less, shorter) = (RIGHT - 90, promise_for(RIGHT - 90));
        assert_eq!(majority_until(2600, 1, less, 100), 0, "the majority promised for longer");
        assert_eq!(majority_until(2700, 1, less, 100), 2600 + shorter);
        assert_eq!(majority_until(2800, 1, less, u64::MAX), 0);
        assert_eq!(majority_until(6000, 1, less, 3300), 0, "it was over meanwhile");
        assert_eq!(majority_until(6100, 1, less, 100), 6000 + shorter);
        assert_eq!(majority_until(8000, 2, less, 100), 0, "to another");
        grantor.released(VIP, holding(2, 8000));
        assert!(grantor.promised(BootNanos::new(8001), VIP).is_none());
    }

    #[test]
    fn what_is_gone_is_forgotten_once_it_is_promised_to_nobody() {
        let mut grantor = awake();
        claim(&mut grantor, 2000, 1, 1, &["10.0.0.1"]);
        grantor.prune(BootNanos::new(3110), |_| false);
        assert_eq!((grantor.vips.len(), grantor.addresses.len()), (1, 1));
        grantor.prune(BootNanos::new(3111), |_| false);
        assert_eq!((grantor.vips.len(), grantor.addresses.len()), (0, 0));
    }
}
