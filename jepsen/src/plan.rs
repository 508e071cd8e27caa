//! What goes wrong when: a schedule that a seed determines.
//!
//! Faults come in rounds. A round has one fault of each of one to three families, so that they overlap; then everything is
//! undone, and the cluster has a time of calm in which it must serve again. Two faults of one family never overlap:
//! undoing the one would undo the other.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A daemon is killed, and started again at the end.
    Kill,
    /// It is killed and started again at once, within a lease.
    Restart,
    /// It is killed and started again several times in a row.
    CrashLoop,
    /// All daemons are killed at once.
    KillAll,
    /// A daemon is stopped in its tracks.
    Pause,
    /// Everything on a node stands still; its kernel goes on.
    Freeze,
    /// A node loses its power: what was not synced is lost or torn, its cable is dead.
    PowerOff,
    /// All nodes lose their power at once.
    BlackOut,
    /// Syncs of a node take a fraction of a second each.
    SlowDisk,
    /// Syncs of a node fail; its daemon is started again when they work.
    DiskError,
    /// Nobody reaches a node, and it reaches nobody.
    Isolate,
    /// One node does not hear another.
    OneWay,
    /// A minority of the nodes and the rest do not see each other; clients see all.
    Split,
    /// Each node sees its neighbours on a ring only.
    Ring,
    /// One node sees all, which do not see each other.
    Bridge,
    /// A cable is pulled.
    LinkDown,
    /// Frames between nodes are lost.
    Loss,
    /// Frames of everybody are lost.
    LossEverywhere,
    /// Another node is made the leader.
    TransferLeader,
    /// A node writes a snapshot and purges its log.
    Snapshot,
    /// The VIP is moved.
    MoveVip,
    /// A voter is made a learner, and a voter again at the end.
    Demote,
    /// A backend fails its requests and checks.
    BackendFails,
    /// A backend is drained.
    BackendDrain,
    /// A backend is taken out.
    BackendMaintenance,
}

/// What can be undone together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Processes and machines.
    Process,
    /// What lies between them.
    Network,
    /// What operators do.
    Operator,
    /// What happens to backends.
    Backend,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Kill,
        Self::Restart,
        Self::CrashLoop,
        Self::KillAll,
        Self::Pause,
        Self::Freeze,
        Self::PowerOff,
        Self::BlackOut,
        Self::SlowDisk,
        Self::DiskError,
        Self::Isolate,
        Self::OneWay,
        Self::Split,
        Self::Ring,
        Self::Bridge,
        Self::LinkDown,
        Self::Loss,
        Self::LossEverywhere,
        Self::TransferLeader,
        Self::Snapshot,
        Self::MoveVip,
        Self::Demote,
        Self::BackendFails,
        Self::BackendDrain,
        Self::BackendMaintenance,
    ];

    /// Which faults it does not overlap with.
    pub fn family(self) -> Family {
        match self {
            Self::Kill
            | Self::Restart
            | Self::CrashLoop
            | Self::KillAll
            | Self::Pause
            | Self::Freeze
            | Self::PowerOff
            | Self::BlackOut
            | Self::SlowDisk
            | Self::DiskError => Family::Process,
            Self::Isolate
            | Self::OneWay
            | Self::Split
            | Self::Ring
            | Self::Bridge
            | Self::LinkDown
            | Self::Loss
            | Self::LossEverywhere => Family::Network,
            Self::TransferLeader | Self::Snapshot | Self::MoveVip | Self::Demote => Family::Operator,
            Self::BackendFails | Self::BackendDrain | Self::BackendMaintenance => Family::Backend,
        }
    }

    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::CrashLoop => "crash-loop",
            Self::KillAll => "kill-all",
            Self::Pause => "pause",
            Self::Freeze => "freeze",
            Self::PowerOff => "power-off",
            Self::BlackOut => "black-out",
            Self::SlowDisk => "slow-disk",
            Self::DiskError => "disk-error",
            Self::Isolate => "isolate",
            Self::OneWay => "one-way",
            Self::Split => "split",
            Self::Ring => "ring",
            Self::Bridge => "bridge",
            Self::LinkDown => "link-down",
            Self::Loss => "loss",
            Self::LossEverywhere => "loss-everywhere",
            Self::TransferLeader => "transfer-leader",
            Self::Snapshot => "snapshot",
            Self::MoveVip => "move-vip",
            Self::Demote => "demote",
            Self::BackendFails => "backend-fails",
            Self::BackendDrain => "backend-drain",
            Self::BackendMaintenance => "backend-maintenance",
        })
    }
}

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
}

/// How long a round's calm is: a second longer than an election, a lease and a restart take on a machine that is busy.
const CALM_MS: u64 = 6000;

/// The schedule of a seed: rounds until `length` is over. The last one may end later.
pub fn schedule(seed: u64, nodes: usize, length: Duration, kinds: &[Kind]) -> Vec<Round> {
    let mut random = Random(seed);
    let mut rounds = Vec::new();
    let mut now_ms = 500;
    let families: Vec<(u64, Family)> =
        [(9, Family::Process), (9, Family::Network), (4, Family::Operator), (4, Family::Backend)]
            .into_iter()
            .filter(|(_, family)| kinds.iter().any(|kind| kind.family() == *family))
            .collect();
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
            let whom = match random.below(6) {
                0 | 1 => Whom::Leader,
                2 | 3 => Whom::Owner,
                _ => Whom::Node(random.below(nodes as u64) as usize),
            };
            let from_ms = now_ms + random.below(1200);
            // As many short ones as long ones: what lasts less than a lease meets other code than what outlasts an election.
            let length_ms = match random.below(3) {
                0 => 20 + random.below(250),
                1 => 250 + random.below(1500),
                _ => 1500 + random.below(4500),
            };
            faults.push(Planned { kind, whom, choice: random.next(), from_ms, until_ms: from_ms + length_ms });
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

    #[test]
    fn a_seed_determines_the_schedule() {
        let plan = |seed| schedule(seed, 5, Duration::from_secs(600), &Kind::ALL);
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn faults_of_one_family_never_overlap_and_calm_follows_each_round() {
        for seed in 0..50 {
            let rounds = schedule(seed, 5, Duration::from_secs(600), &Kind::ALL);
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
        let rounds = schedule(3, 5, Duration::from_secs(36_000), &Kind::ALL);
        for kind in Kind::ALL {
            assert!(rounds.iter().flat_map(|round| &round.faults).any(|fault| fault.kind == kind), "{kind}");
            assert_eq!(Kind::parse(&kind.to_string()), Some(kind));
        }
        assert_eq!(Kind::parse("earthquake"), None);
    }

    #[test]
    fn only_what_is_wanted_is_planned() {
        let rounds = schedule(3, 3, Duration::from_secs(100), &[Kind::Pause]);
        assert!(rounds.iter().flat_map(|round| &round.faults).all(|fault| fault.kind == Kind::Pause));
        assert!(schedule(3, 3, Duration::from_secs(100), &[]).is_empty());
    }
}
