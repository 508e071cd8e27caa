//! The kinds of faults, and which of them can befall a cluster together.

use std::fmt;

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
    /// Frames between a node and the others come late.
    Delay,
    /// They come late by a different time each.
    Jitter,
    /// Some of them are overtaken by others.
    Reorder,
    /// Some of them come twice.
    Duplicate,
    /// Some of them are damaged.
    Corrupt,
    /// A node's wire is thin.
    SlowLink,
    /// A node's disk is full; its daemon is started again when there is room.
    DiskFull,
    /// Somebody removes a node's filters, or the VIP from its interface.
    TamperFence,
    /// A node's wall clock is set wrong, and right again at the end.
    ClockStep,
    /// A node's wall clock runs too fast or too slowly, and is set right at the end.
    ClockSlew,
    /// A node's daemon can open no file and take no connection.
    NoDescriptors,
    /// A node has a small part of a processor.
    LittleCpu,
    /// A node has little memory left; a daemon that wants more is killed.
    LittleMemory,
    /// Bits of a stopped node's files change. One that does not start is replaced by an empty one.
    BitRot,
    /// All nodes are drained and started again, one after the other, from other programs.
    RollingUpgrade,
    /// A backend ends each of its answers in the middle.
    BackendTruncates,
    /// A voter is removed for good, and a new node joins in its place.
    Membership,
    /// A node needs a snapshot, and the connection on which it travels is cut several times.
    SnapshotCut,
    /// All nodes are drained and started again, one after the other.
    RollingRestart,
    /// A daemon is told to end, which it does in good order, and is started again at the end.
    Terminate,
    /// A client is bound to another backend.
    MoveClient,
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
    /// What lines do to frames that they carry.
    Line,
    /// What a node has too little of, and what its clock says.
    Machine,
    /// What is to go well by itself, so that nothing else happens meanwhile.
    Alone,
}

/// Names and families, in the order in which schedules draw them: a new one comes last, so that seeds of old ones stay good.
const TABLE: [(Kind, &str, Family); 46] = [
    (Kind::Kill, "kill", Family::Process),
    (Kind::Restart, "restart", Family::Process),
    (Kind::CrashLoop, "crash-loop", Family::Process),
    (Kind::KillAll, "kill-all", Family::Process),
    (Kind::Pause, "pause", Family::Process),
    (Kind::Freeze, "freeze", Family::Process),
    (Kind::PowerOff, "power-off", Family::Process),
    (Kind::BlackOut, "black-out", Family::Process),
    (Kind::SlowDisk, "slow-disk", Family::Process),
    (Kind::DiskError, "disk-error", Family::Process),
    (Kind::Isolate, "isolate", Family::Network),
    (Kind::OneWay, "one-way", Family::Network),
    (Kind::Split, "split", Family::Network),
    (Kind::Ring, "ring", Family::Network),
    (Kind::Bridge, "bridge", Family::Network),
    (Kind::LinkDown, "link-down", Family::Network),
    (Kind::Loss, "loss", Family::Network),
    (Kind::LossEverywhere, "loss-everywhere", Family::Network),
    (Kind::TransferLeader, "transfer-leader", Family::Operator),
    (Kind::Snapshot, "snapshot", Family::Operator),
    (Kind::MoveVip, "move-vip", Family::Operator),
    (Kind::Demote, "demote", Family::Operator),
    (Kind::BackendFails, "backend-fails", Family::Backend),
    (Kind::BackendDrain, "backend-drain", Family::Backend),
    (Kind::BackendMaintenance, "backend-maintenance", Family::Backend),
    (Kind::Delay, "delay", Family::Line),
    (Kind::Jitter, "jitter", Family::Line),
    (Kind::Reorder, "reorder", Family::Line),
    (Kind::Duplicate, "duplicate", Family::Line),
    (Kind::Corrupt, "corrupt", Family::Line),
    (Kind::SlowLink, "slow-link", Family::Line),
    (Kind::DiskFull, "disk-full", Family::Process),
    (Kind::TamperFence, "tamper-fence", Family::Process),
    (Kind::ClockStep, "clock-step", Family::Machine),
    (Kind::ClockSlew, "clock-slew", Family::Machine),
    (Kind::NoDescriptors, "no-descriptors", Family::Machine),
    (Kind::LittleCpu, "little-cpu", Family::Machine),
    (Kind::LittleMemory, "little-memory", Family::Machine),
    (Kind::BitRot, "bit-rot", Family::Alone),
    (Kind::RollingUpgrade, "rolling-upgrade", Family::Alone),
    (Kind::BackendTruncates, "backend-truncates", Family::Backend),
    (Kind::Membership, "membership", Family::Operator),
    (Kind::SnapshotCut, "snapshot-cut", Family::Alone),
    (Kind::RollingRestart, "rolling-restart", Family::Alone),
    (Kind::Terminate, "terminate", Family::Process),
    (Kind::MoveClient, "move-client", Family::Operator),
];

impl Kind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(kind, ..)| *kind)
    }

    /// Which faults it does not overlap with.
    pub fn family(self) -> Family {
        self.row().2
    }

    /// Whether nodes have none of it to suffer: what operators tell them, and what befalls backends. An operator who takes a node
    /// out of service has it end.
    pub fn spares_nodes(self) -> bool {
        matches!(self.family(), Family::Operator | Family::Backend) && self != Self::Membership
    }

    /// Whether whoever is asked may be concerned, whoever else the victims are.
    pub fn concerns_all(self) -> bool {
        use Kind::{BlackOut, Bridge, KillAll, Loss, LossEverywhere, Ring, RollingRestart, RollingUpgrade, Split};
        matches!(
            self,
            KillAll | BlackOut | Split | Ring | Bridge | Loss | LossEverywhere | RollingUpgrade | RollingRestart
        )
    }

    /// Whether it keeps no process from working and no client from reaching a node at its own address: frames between nodes are lost
    /// and no others, or a wall clock is wrong.
    pub fn spares_clients(self) -> bool {
        use Kind::{Bridge, ClockSlew, ClockStep, Loss, OneWay, Ring, Split};
        matches!(self, OneWay | Split | Ring | Bridge | Loss | ClockStep | ClockSlew)
    }

    /// Whether nodes are told to end, drain and hand over what they have: clients over the VIP are to notice nothing.
    pub fn ends_in_order(self) -> bool {
        matches!(self, Self::RollingRestart | Self::RollingUpgrade | Self::Terminate)
    }

    /// Whether there is anything of it among so many nodes: on a ring of three each is a neighbour of the others.
    pub fn is_felt_among(self, nodes: usize) -> bool {
        self != Self::Ring || nodes > 3
    }

    /// Whether it is over when it was done: nothing undoes it.
    pub fn is_over_when_done(self) -> bool {
        use Kind::{
            CrashLoop, MoveClient, MoveVip, Restart, RollingRestart, RollingUpgrade, Snapshot, SnapshotCut,
            TransferLeader,
        };
        let ordered = matches!(self, TransferLeader | Snapshot | MoveVip | MoveClient);
        ordered || matches!(self, Restart | CrashLoop | SnapshotCut | RollingUpgrade | RollingRestart)
    }

    /// Whether a daemon may end by itself of it: its disk fails, it is refused memory or descriptors, or it is put out of the
    /// cluster.
    pub fn may_end_a_daemon(self) -> bool {
        use Kind::{BitRot, DiskError, DiskFull, LittleMemory, Membership, NoDescriptors, SlowDisk};
        matches!(self, BitRot | DiskError | DiskFull | LittleMemory | Membership | NoDescriptors | SlowDisk)
    }

    /// Whether what nodes have sent each other by then arrives at once or never: no process stands still or lacks what it works
    /// with, no frame that is not lost comes late, and all run the programs that are tried.
    pub fn keeps_nothing_waiting(self) -> bool {
        use Kind::{ClockSlew, ClockStep, DiskError, DiskFull, Freeze, Loss, LossEverywhere, Pause, SlowDisk};
        match self.family() {
            Family::Process => !matches!(self, Pause | Freeze | SlowDisk | DiskError | DiskFull),
            Family::Network => !matches!(self, Loss | LossEverywhere),
            Family::Machine => matches!(self, ClockStep | ClockSlew),
            Family::Operator => self != Self::Membership,
            Family::Backend => true,
            Family::Line | Family::Alone => false,
        }
    }

    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find(|(_, its, _)| *its == name).map(|(kind, ..)| *kind)
    }

    fn row(self) -> &'static (Self, &'static str, Family) {
        TABLE.iter().find(|(kind, ..)| *kind == self).expect("each kind has a row, which a test sees to")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_none_among_three() {
        let unfelt = |nodes: usize| Kind::all().filter(|kind| !kind.is_felt_among(nodes)).collect::<Vec<_>>();
        assert_eq!((unfelt(3), unfelt(4)), (vec![Kind::Ring], vec![]));
    }
}
