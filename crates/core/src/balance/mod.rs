//! Picking a backend for a request that is not bound to one.
//!
//! A [`Balancer`] belongs to one worker and one service. It reads the compiled plan and the
//! worker's own counts and remembers whose turn it is, by backend id, so that a change of the plan
//! starts nothing anew. A pick allocates nothing once the balancer has seen the plan.
//!
//! All algorithms stand on two primitives: taking turns in proportion to weight (`turn`), and
//! weighted rendezvous hashing (`rendezvous`). Least connections are turns among the least loaded,
//! so an idle service is spread by weight instead of sending everything to its first backend.
//!
//! Who may be picked is decided in three steps. Backends that the operator has not set to ready, or
//! that have no weight, are out. Of the rest, primaries come before backups, and the checks decide
//! unless so few primaries are up that the checks are believed no more (`panic_threshold_percent`).
//! Only then do limits count: a primary at its limit is waited for, not replaced by a backup. Of those
//! that are left, one that refused a connection a moment ago is passed over: it has nothing in flight
//! and would be the least loaded of all. It does not stand in for one at its limit either.
//!
//! Not here: clients that are bound ([`crate::persistence`]); queues and retries (`ballast-proxy`).

mod rendezvous;
mod turn;

use crate::{
    config::Balance,
    ids::BackendId,
    plan::{BackendPlan, Eligibility, ServicePlan, Verdict, panics},
};

pub use rendezvous::HashKey;
use turn::Turn;

/// What only the worker knows about the backends of a service, by their position in the plan.
pub trait Load {
    /// Requests in flight to the backend.
    fn in_flight(&self, index: usize) -> u32;

    /// Connections that count against the backend's `connections_max`.
    fn connections(&self, index: usize) -> u32 {
        self.in_flight(index)
    }

    /// Whether the backend refused a connection a moment ago. It is picked only where there is no other.
    fn refuses(&self, _index: usize) -> bool {
        false
    }

    /// The verdict to go by: the cluster's, unless this node has to go by its own checks.
    fn verdict(&self, _index: usize, agreed: Verdict) -> Verdict {
        agreed
    }
}

impl Load for [u32] {
    fn in_flight(&self, index: usize) -> u32 {
        self.get(index).copied().unwrap_or(0)
    }
}

/// What came of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The backend at this position of the plan.
    Backend(usize),
    /// None, and why.
    No(NoPick),
}

/// Why no backend could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPick {
    /// The service has no backends.
    NoBackends,
    /// All that may take new clients are down.
    AllDown,
    /// None may take new clients: drained, in maintenance, or without weight.
    AllDraining,
    /// All that are up have as many connections as they may, or refuse them. Waiting helps.
    AllAtLimit,
    /// All that are up were excluded by the caller, because they were tried before.
    AllExcluded,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What the hashing algorithms go by; the others ignore it.
    pub key: HashKey,
    /// Backends that were tried for this request already.
    pub exclude: &'a [BackendId],
    /// Now, in milliseconds of log time; only slow start looks at it.
    pub now_ms: u64,
}

/// Whose turn it is, for one service on one worker.
#[derive(Clone, Debug)]
pub struct Balancer {
    slots: Vec<Slot>,
    random: u64,
}

/// What is remembered of a backend, at its position in the plan.
#[derive(Clone, Debug)]
struct Slot {
    id: BackendId,
    turn: Turn,
    /// Weight in this pick, zero while it is not a candidate. Only meaningful inside of a pick.
    weight: u64,
}

/// One unit of weight. Finer than one, so that slow start can go in steps and not only in whole
/// weights; with weights up to 1000 and counts of 32 bits products stay within 64 bits.
const UNIT: u64 = 1024;

impl Balancer {
    /// A balancer that has not seen a plan yet. Workers take different seeds, so that they do not
    /// all begin with the same backend.
    pub const fn new(seed: u64) -> Self {
        Self { slots: Vec::new(), random: seed }
    }

    /// Takes over a new plan of the same service. Backends that stay keep their turn.
    pub fn adopt(&mut self, plan: &ServicePlan) {
        let mut old = std::mem::take(&mut self.slots);
        old.sort_unstable_by_key(|slot| slot.id);
        let mut slots: Vec<Slot> = plan
            .backends
            .iter()
            .map(|backend| {
                let known = old.binary_search_by_key(&backend.id, |slot| slot.id).ok();
                Slot { id: backend.id, turn: known.map(|at| old[at].turn).unwrap_or_default(), weight: 0 }
            })
            .collect();
        if old.is_empty() && !slots.is_empty() {
            // Workers that start together must not send their first requests to one backend.
            let first = usize::try_from(self.draw(slots.len() as u64)).expect("below the length of a list");
            slots[first].turn.prefer();
        }
        self.slots = slots;
    }

    /// Picks a backend of `plan`, which must be the plan adopted last (another one of the service
    /// is adopted first).
    pub fn pick<L: Load + ?Sized>(&mut self, plan: &ServicePlan, load: &L, ask: &Ask<'_>) -> Pick {
        if !self.slots.iter().map(|slot| slot.id).eq(plan.backends.iter().map(|backend| backend.id)) {
            self.adopt(plan);
        }
        if let Err(why) = self.mark(plan, load, ask) {
            return Pick::No(why);
        }
        let picked = match plan.balance {
            Balance::RoundRobin | Balance::WeightedRoundRobin => self.take_turns(),
            Balance::LeastConnections | Balance::WeightedLeastConnections => {
                self.keep_least_loaded(load);
                self.take_turns()
            }
            Balance::SourceHash | Balance::UriHash => {
                let weighted = self.slots.iter().map(|slot| (slot.id, slot.weight));
                rendezvous::pick(ask.key, weighted)
            }
            Balance::RandomOfTwo => self.less_loaded_of_two(load),
        };
        match picked {
            Some(index) => Pick::Backend(index),
            None => Pick::No(NoPick::AllDown),
        }
    }

    /// Gives every candidate its weight and all others none.
    fn mark<L: Load + ?Sized>(&mut self, plan: &ServicePlan, load: &L, ask: &Ask<'_>) -> Result<(), NoPick> {
        if plan.backends.is_empty() {
            return Err(NoPick::NoBackends);
        }
        let tier = tier(plan, load, ask)?;
        let weighted = !matches!(plan.balance, Balance::RoundRobin | Balance::LeastConnections);
        let (mut accepting, mut refusing) = (false, false);
        // Of those that would be picked if they had room: any, and one that does not refuse.
        let (mut at_limit, mut worth_waiting) = (false, false);
        for (index, (slot, backend)) in self.slots.iter_mut().zip(&plan.backends).enumerate() {
            slot.weight = 0;
            if !tier.includes(backend, load.verdict(index, backend.verdict)) || ask.exclude.contains(&backend.id) {
                continue;
            }
            if backend.connections_max > 0 && load.connections(index) >= backend.connections_max {
                at_limit = true;
                worth_waiting |= !load.refuses(index);
                continue;
            }
            let weight = if weighted { u64::from(backend.weight) } else { 1 };
            slot.weight = warmed_up(weight * UNIT, plan.slow_start_ms, backend.serves_since_ms, ask.now_ms);
            if load.refuses(index) {
                refusing = true;
            } else {
                accepting = true;
            }
        }
        if accepting && refusing {
            let refusing = self.slots.iter_mut().enumerate().filter(|(index, _)| load.refuses(*index));
            refusing.for_each(|(_, slot)| slot.weight = 0);
        }
        match (accepting || refusing && !worth_waiting, at_limit) {
            (true, _) => Ok(()),
            (false, true) => Err(NoPick::AllAtLimit),
            (false, false) => Err(NoPick::AllExcluded),
        }
    }

    fn take_turns(&mut self) -> Option<usize> {
        let total = self.slots.iter().map(|slot| slot.weight).sum();
        turn::next(total, self.slots.iter_mut().map(|slot| (&mut slot.turn, slot.weight)))
    }

    /// Leaves only those candidates that have the fewest requests for their weight.
    fn keep_least_loaded<L: Load + ?Sized>(&mut self, load: &L) {
        let mut least: Option<(u64, u64)> = None;
        for (index, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.weight > 0) {
            let own = (u64::from(load.in_flight(index)), slot.weight);
            if least.is_none_or(|least| is_less_loaded(own, least)) {
                least = Some(own);
            }
        }
        let Some(least) = least else { return };
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.weight > 0 && is_less_loaded(least, (u64::from(load.in_flight(index)), slot.weight)) {
                slot.weight = 0;
            }
        }
    }

    /// Draws two different candidates by weight and takes the less loaded.
    fn less_loaded_of_two<L: Load + ?Sized>(&mut self, load: &L) -> Option<usize> {
        let first = self.draw_candidate(None)?;
        let Some(second) = self.draw_candidate(Some(first)) else { return Some(first) };
        let of = |index: usize| (u64::from(load.in_flight(index)), self.slots[index].weight);
        Some(if is_less_loaded(of(second), of(first)) { second } else { first })
    }

    fn draw_candidate(&mut self, except: Option<usize>) -> Option<usize> {
        let total: u64 = self
            .slots
            .iter()
            .enumerate()
            .filter(|(index, _)| Some(*index) != except)
            .map(|(_, slot)| slot.weight)
            .sum();
        if total == 0 {
            return None;
        }
        let mut left = self.draw(total);
        self.slots.iter().enumerate().filter(|(index, _)| Some(*index) != except).find_map(|(index, slot)| {
            match left.checked_sub(slot.weight) {
                Some(rest) => {
                    left = rest;
                    None
                }
                None => Some(index),
            }
        })
    }

    /// A number below `bound`. SplitMix64 (Steele, Lea, Flood 2014): seeded, fast, and good enough to spread load.
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let random = rendezvous::mix(self.random);
        // The high half of the product is below the bound and as even as 64 bits allow.
        ((u128::from(random) * u128::from(bound)) >> 64) as u64
    }
}

/// Whether `a` (requests, weight) has fewer requests for its weight than `b`.
fn is_less_loaded(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 * b.1 < b.0 * a.1
}

/// Which backends compete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tier {
    backups: bool,
    ignore_verdicts: bool,
}

impl Tier {
    fn includes(self, backend: &BackendPlan, verdict: Verdict) -> bool {
        backend.backup == self.backups
            && Eligibility { verdict, ..backend.eligibility() }.takes_new(self.ignore_verdicts)
    }
}

/// The backends that a client without a binding is given to, by the cluster's verdicts and whatever their load.
pub fn candidates(plan: &ServicePlan) -> Vec<BackendId> {
    let ask = Ask { key: HashKey::default(), exclude: &[], now_ms: 0 };
    eligible(plan, &[][..], &ask).map(|index| plan.backends[index].id).collect()
}

/// The positions of the backends that a client without a binding may be given to, whatever their load: those that a pick is
/// made of, and those that are waited for.
pub fn eligible<L: Load + ?Sized>(plan: &ServicePlan, load: &L, ask: &Ask<'_>) -> impl Iterator<Item = usize> {
    let tier = tier(plan, load, ask).ok();
    plan.backends.iter().enumerate().filter_map(move |(index, backend)| {
        let may = tier?.includes(backend, load.verdict(index, backend.verdict)) && !ask.exclude.contains(&backend.id);
        may.then_some(index)
    })
}

/// Chooses between primaries and backups, and whether to believe the checks. What the caller has
/// tried counts as lost, but not towards the panic threshold.
fn tier<L: Load + ?Sized>(plan: &ServicePlan, load: &L, ask: &Ask<'_>) -> Result<Tier, NoPick> {
    let eligibilities = plan
        .backends
        .iter()
        .enumerate()
        .map(|(index, backend)| Eligibility { verdict: load.verdict(index, backend.verdict), ..backend.eligibility() });
    let panic = panics(plan.panic_threshold_percent, eligibilities.clone());
    let mut primaries = Census::default();
    let mut backups = Census::default();
    for (eligibility, backend) in
        eligibilities.zip(&plan.backends).filter(|(eligibility, _)| eligibility.is_meant_to_serve())
    {
        let census = if backend.backup { &mut backups } else { &mut primaries };
        census.count(eligibility.is_up(), ask.exclude.contains(&backend.id));
    }
    let believed = Tier { backups: false, ignore_verdicts: false };
    if panic && primaries.left > 0 {
        return Ok(Tier { ignore_verdicts: true, ..believed });
    }
    if primaries.up_left > 0 {
        return Ok(believed);
    }
    if backups.up_left > 0 {
        return Ok(Tier { backups: true, ..believed });
    }
    // The backups that kept the primaries from being asked were tried in vain.
    if plan.panic_threshold_percent > 0 && primaries.up == 0 && primaries.left > 0 {
        return Ok(Tier { ignore_verdicts: true, ..believed });
    }
    Err(match (primaries.all + backups.all, primaries.up + backups.up) {
        (0, _) => NoPick::AllDraining,
        (_, 0) => NoPick::AllDown,
        _ => NoPick::AllExcluded,
    })
}

#[derive(Default)]
struct Census {
    all: usize,
    left: usize,
    up: usize,
    up_left: usize,
}

impl Census {
    fn count(&mut self, up: bool, excluded: bool) {
        self.all += 1;
        self.left += usize::from(!excluded);
        self.up += usize::from(up);
        self.up_left += usize::from(up && !excluded);
    }
}

/// The weight of a backend that serves since `since_ms`, growing evenly to its full weight. With zero
/// it has it at once.
fn warmed_up(weight: u64, slow_start_ms: u64, since_ms: u64, now_ms: u64) -> u64 {
    let elapsed = now_ms.saturating_sub(since_ms);
    if since_ms == 0 || elapsed >= slow_start_ms {
        return weight;
    }
    let grown = u128::from(weight) * u128::from(elapsed) / u128::from(slow_start_ms);
    // At most `weight`, which is 64 bits; never zero, or the backend would never be asked.
    (grown as u64).max(1)
}

#[cfg(test)]
mod tests;
