//! What goes wrong when: a schedule that a seed determines.
//!
//! Faults come in rounds. A round has one fault of each of one to six families, so that they overlap; then everything is
//! undone, and the cluster has a time of calm in which it must serve again. Two faults of one family never overlap:
//! undoing the one would undo the other. Some come alone.
//!
//! Some promises can be judged only when nothing else is wrong, which hardly ever comes by lot: so some rounds have one fault of a
//! few, for as long as it takes to see what is promised of it.

mod cuts;
mod kind;
mod replacement;

use std::time::Duration;

use ballast_jepsen::verdict::Promise;
use serde::{Deserialize, Serialize};

pub use self::{
    cuts::{At, Cut, Need, Transfer},
    kind::{Family, Kind},
    replacement::{Act, Errand, Replacement, Seen},
};

/// Whom it befalls; who that is, is looked up when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whom {
    /// The leader.
    Leader,
    /// The owner of the VIP.
    Owner,
    /// The node at that position.
    Node(usize),
}

/// A fault to come. Times are since the faults began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// What.
    pub kind: Kind,
    /// Whom.
    pub whom: Whom,
    /// A number for whatever else is to be chosen: a second node, a percentage, a backend.
    pub choice: u64,
    /// When it begins, in milliseconds.
    pub from_ms: u64,
    /// When it is undone.
    pub until_ms: u64,
}

/// A round of faults, and the calm after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// In the order in which they begin.
    pub faults: Vec<Planned>,
    /// When the calm after it ends, in milliseconds.
    pub calm_until_ms: u64,
}

impl Round {
    /// When its last fault is undone.
    pub fn healed_ms(&self) -> u64 {
        self.faults.iter().map(|fault| fault.until_ms).max().unwrap_or(0)
    }

    /// What it is to show of what is judged only while nothing else is wrong.
    pub fn shows(&self) -> Option<Shown> {
        let [fault] = &self.faults[..] else { return None };
        let lasts_ms = fault.until_ms - fault.from_ms;
        let loses = LOSES_AN_OWNER.contains(&fault.kind) && fault.whom == Whom::Owner && lasts_ms >= LOST_MS;
        let moves = MOVES.contains(&fault.kind) || STOPS.contains(&fault.kind);
        let splits = SPLITS.contains(&fault.kind) && lasts_ms >= SPLIT_MS;
        let shown = [(loses, Shown::Loss), (moves, Shown::Move), (splits, Shown::Minority)];
        shown.into_iter().find(|(is, _)| *is).map(|(_, shown)| shown)
    }
}

/// What a round of one fault is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// That an owner that is lost is replaced.
    Loss,
    /// That the VIP is moved as planned.
    Move,
    /// What a minority does.
    Minority,
}

impl Shown {
    /// What it is a part of.
    pub fn promise(self) -> Promise {
        match self {
            Self::Loss | Self::Move => Promise::Failover,
            Self::Minority => Promise::WithoutQuorum,
        }
    }
}

/// How long a round's calm is: a second longer than an election, a lease and a restart take on a machine that is busy.
const CALM_MS: u64 = 6000;

/// Chances in twenty of each family to be in a round. A new one comes last, so that seeds without it stay good.
const CHANCES: [(u64, Family); 7] = [
    (9, Family::Process),
    (9, Family::Network),
    (4, Family::Operator),
    (4, Family::Backend),
    (10, Family::Line),
    (8, Family::Machine),
    (1, Family::Alone),
];

/// Faults of which an owner is lost.
const LOSES_AN_OWNER: &[Kind] = &[Kind::Kill, Kind::Freeze, Kind::Pause, Kind::Isolate, Kind::LinkDown, Kind::PowerOff];
/// Longer than a lease, so that somebody else must take over.
const LOST_MS: u64 = 1500;
/// Of which one node is away for a while, or begins anew.
pub const TAKE_A_NODE: &[Kind] = &[
    Kind::Kill,
    Kind::Restart,
    Kind::CrashLoop,
    Kind::Pause,
    Kind::Freeze,
    Kind::PowerOff,
    Kind::Isolate,
    Kind::LinkDown,
];
/// By which a node's wall clock is wrong.
pub const WRONG_CLOCKS: &[Kind] = &[Kind::ClockStep, Kind::ClockSlew];
/// By which a minority is left without a quorum.
const SPLITS: &[Kind] = &[Kind::Split];
/// Longer than what it takes until a minority knows that it is one, and until a store has refused something again.
const SPLIT_MS: u64 = 4500;
/// By which the VIP goes to another node as planned.
const MOVES: &[Kind] = &[Kind::MoveVip];
/// By which a node goes as planned, with what it owns and whether it leads.
const STOPS: &[Kind] = &[Kind::Terminate];

/// By which a backend is to get no new visitors.
const DRAINS: &[Kind] = &[Kind::BackendDrain];

/// The one fault of a round in which nothing else is to happen, if that is such a round and a fault for it is wanted.
fn one_fault(
    round: usize,
    seed: u64,
    now_ms: u64,
    nodes: usize,
    kinds: &[Kind],
    whom: Option<Whom>,
) -> Option<Planned> {
    let mut random = Random(seed.wrapping_add(round as u64));
    let (wanted, whom_else, at_least_ms) = match round % 20 {
        2 | 12 => (LOSES_AN_OWNER, Whom::Owner, LOST_MS),
        4 | 14 => (SPLITS, Whom::Node(random.below(nodes as u64) as usize), SPLIT_MS),
        // Longer than an election, should it be the leader. Most nodes own nothing.
        5 => (TAKE_A_NODE, Whom::Node(random.below(nodes as u64) as usize), 1500),
        7 => (MOVES, Whom::Owner, 300),
        // Longer than what it takes to end. Whoever owns as well as whoever leads has something to hand over.
        9 | 17 => (STOPS, if round % 20 == 9 { Whom::Leader } else { Whom::Owner }, 2500),
        // So that some come after all nodes have heard of it.
        10 => (DRAINS, Whom::Owner, 3500),
        15 => (WRONG_CLOCKS, Whom::Owner, 1500),
        _ => return None,
    };
    let wanted: Vec<Kind> = wanted.iter().copied().filter(|kind| kinds.contains(kind)).collect();
    let kind = *wanted.get(random.below(wanted.len().max(1) as u64) as usize)?;
    let from_ms = now_ms + random.below(1200);
    let until_ms = from_ms + at_least_ms + random.below(2000);
    Some(Planned { kind, whom: whom.unwrap_or(whom_else), choice: random.next(), from_ms, until_ms })
}

/// The schedule of a seed: rounds until `length` is over. The last one may end later. With `whom`, all faults befall them.
pub fn schedule(seed: u64, nodes: usize, length: Duration, kinds: &[Kind], whom: Option<Whom>) -> Vec<Round> {
    let mut random = Random(seed);
    let mut rounds = Vec::new();
    let mut now_ms = 500;
    let families: Vec<(u64, Family)> =
        CHANCES.into_iter().filter(|(_, family)| kinds.iter().any(|kind| kind.family() == *family)).collect();
    while !families.is_empty() && u128::from(now_ms) < length.as_millis() {
        let mut faults: Vec<Planned> = Vec::new();
        // Each family is in with its chance in twenty, and one of them always.
        let sure = random.below(families.len() as u64) as usize;
        for (number, (chance, family)) in families.iter().enumerate() {
            // Drawn in any case, so that one family's chance does not change what the others do.
            let drawn = random.below(20);
            if number != sure && drawn >= *chance {
                continue;
            }
            let of_family: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.family() == *family).collect();
            let kind = of_family[random.below(of_family.len() as u64) as usize];
            let drawn = match random.below(6) {
                0 | 1 => Whom::Leader,
                2 | 3 => Whom::Owner,
                _ => Whom::Node(random.below(nodes as u64) as usize),
            };
            let whom = whom.unwrap_or(drawn);
            let from_ms = now_ms + random.below(1200);
            // As many short ones as long ones: what lasts less than a lease meets other code than what outlasts an election.
            let length_ms = match random.below(3) {
                0 => 20 + random.below(250),
                1 => 250 + random.below(1500),
                _ => 1500 + random.below(4500),
            };
            faults.push(Planned { kind, whom, choice: random.next(), from_ms, until_ms: from_ms + length_ms });
        }
        if let Some(alone) = faults.iter().position(|fault| fault.kind.family() == Family::Alone) {
            faults = vec![faults.swap_remove(alone)];
        }
        // Drawn all the same, so that the other rounds are what they would be.
        if let Some(one) = one_fault(rounds.len(), seed, now_ms, nodes, kinds, whom) {
            faults = vec![one];
        }
        // A bad line is what other things go wrong on: it is there before them, and a moment longer.
        let end_ms = faults.iter().map(|fault| fault.until_ms).max().unwrap_or(now_ms) + 300;
        for fault in faults.iter_mut().filter(|fault| fault.kind.family() == Family::Line) {
            (fault.from_ms, fault.until_ms) = (now_ms, end_ms);
        }
        faults.sort_by_key(|fault| fault.from_ms);
        let mut round = Round { faults, calm_until_ms: 0 };
        now_ms = round.healed_ms() + CALM_MS;
        round.calm_until_ms = now_ms;
        rounds.push(round);
    }
    rounds
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to choose faults.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Kind> {
        Kind::all().collect()
    }

    #[test]
    fn a_line_is_bad_before_and_after_what_else_goes_wrong() {
        for round in schedule(5, 5, Duration::from_secs(600), &all(), None) {
            for line in round.faults.iter().filter(|fault| fault.kind.family() == Family::Line) {
                let others = round.faults.iter().filter(|other| *other != line);
                assert!(others.clone().all(|other| other.from_ms >= line.from_ms && other.until_ms < line.until_ms));
            }
        }
    }

    #[test]
    fn what_is_to_go_well_comes_alone() {
        for round in schedule(5, 5, Duration::from_secs(3600), &all(), None) {
            let alone = round.faults.iter().any(|fault| fault.kind.family() == Family::Alone);
            assert!(!alone || round.faults.len() == 1);
        }
    }

    #[test]
    fn a_seed_determines_the_schedule() {
        let plan = |seed| schedule(seed, 5, Duration::from_secs(600), &all(), None);
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn faults_of_one_family_never_overlap_and_calm_follows_each_round() {
        for seed in 0..50 {
            let rounds = schedule(seed, 5, Duration::from_secs(600), &all(), None);
            assert!(rounds.len() > 20);
            let mut free = 0;
            for round in rounds {
                assert!(!round.faults.is_empty());
                for (number, fault) in round.faults.iter().enumerate() {
                    assert!(fault.from_ms >= free && fault.until_ms > fault.from_ms);
                    assert!(round.faults[..number].iter().all(|other| other.kind.family() != fault.kind.family()));
                }
                assert_eq!(round.calm_until_ms, round.healed_ms() + CALM_MS);
                free = round.calm_until_ms;
            }
        }
    }

    #[test]
    fn every_kind_comes_up_and_has_a_name_of_its_own() {
        let rounds = schedule(3, 5, Duration::from_secs(36_000), &all(), None);
        for kind in Kind::all() {
            assert!(rounds.iter().flat_map(|round| &round.faults).any(|fault| fault.kind == kind), "{kind}");
            assert_eq!(Kind::parse(&kind.to_string()), Some(kind));
        }
        assert_eq!(Kind::parse("earthquake"), None);
    }

    /// Rounds of ten minutes in which such a fault is the only one, by the kind and by how long it lasts.
    fn alone(seed: u64, is: impl Fn(&Planned) -> bool) -> usize {
        let rounds = schedule(seed, 5, Duration::from_secs(600), &all(), None);
        rounds.iter().filter(|round| matches!(&round.faults[..], [one] if is(one))).count()
    }

    #[test]
    fn some_owner_is_lost_alone_in_every_ten_minutes() {
        for seed in 0..200 {
            let lost = |one: &Planned| {
                LOSES_AN_OWNER.contains(&one.kind) && one.whom == Whom::Owner && one.until_ms - one.from_ms >= 1500
            };
            assert!(alone(seed, lost) >= 2, "seed {seed}");
        }
    }

    #[test]
    fn what_is_judged_alone_comes_alone_in_every_ten_minutes() {
        for seed in 0..200 {
            let split = |one: &Planned| one.kind == Kind::Split && one.until_ms - one.from_ms >= 4500;
            assert!(alone(seed, split) >= 2, "seed {seed}");
            assert!(alone(seed, |one| one.kind == Kind::MoveVip) >= 1, "seed {seed}");
            assert!(
                alone(seed, |one| one.kind == Kind::BackendDrain && one.until_ms - one.from_ms >= 3500) >= 1,
                "seed {seed}"
            );
            for whom in [Whom::Owner, Whom::Leader] {
                assert!(alone(seed, |one| one.kind == Kind::Terminate && one.whom == whom) >= 1, "seed {seed}");
            }
            let takes_any = |one: &Planned| TAKE_A_NODE.contains(&one.kind) && matches!(one.whom, Whom::Node(_));
            assert!(alone(seed, takes_any) >= 1, "seed {seed}");
            let sets_the_owners = |one: &Planned| WRONG_CLOCKS.contains(&one.kind) && one.whom == Whom::Owner;
            assert!(alone(seed, sets_the_owners) >= 1, "seed {seed}");
        }
    }

    #[test]
    fn what_a_round_is_to_show_comes_alone_and_lasts() {
        let fault = |kind, whom, until_ms: u64| Planned { kind, whom, choice: 0, from_ms: 0, until_ms };
        let shows = |faults: &[Planned]| Round { faults: faults.to_vec(), calm_until_ms: 9000 }.shows();
        let split = fault(Kind::Split, Whom::Node(1), SPLIT_MS);
        assert_eq!(shows(&[split]), Some(Shown::Minority));
        assert_eq!(shows(&[Planned { until_ms: 4000, ..split }]), None);
        assert_eq!(shows(&[split, fault(Kind::BackendFails, Whom::Owner, 50)]), None);
        assert_eq!(shows(&[fault(Kind::Freeze, Whom::Owner, LOST_MS)]), Some(Shown::Loss));
        assert_eq!(shows(&[fault(Kind::Freeze, Whom::Owner, LOST_MS - 1)]), None);
        assert_eq!(shows(&[fault(Kind::Freeze, Whom::Leader, LOST_MS)]), None);
        for kind in [Kind::MoveVip, Kind::Terminate] {
            assert_eq!(shows(&[fault(kind, Whom::Leader, 300)]), Some(Shown::Move), "{kind}");
        }
        assert_eq!(shows(&[fault(Kind::SlowDisk, Whom::Owner, 5000)]), None);
    }

    #[test]
    fn only_what_is_wanted_is_planned() {
        let rounds = schedule(3, 3, Duration::from_secs(100), &[Kind::Pause], Some(Whom::Owner));
        let is = |fault: &Planned| fault.kind == Kind::Pause && fault.whom == Whom::Owner;
        assert!(rounds.iter().flat_map(|round| &round.faults).all(is));
        assert!(schedule(3, 3, Duration::from_secs(100), &[], None).is_empty());
    }
}
