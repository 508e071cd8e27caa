//! The nodes of a run, as everybody outside of them knows them: who is there, who runs, what is wanted of whom.

use std::{collections::VecDeque, sync::Arc};

use ballast_core::ids::NodeId;
use ballast_raft::{Handle, LogBounds, MemberFailure};
use parking_lot::{Mutex, MutexGuard};

use crate::{clock::NODES_MAX, disk::Disk, random::Random, trace::happened, watch::Seen};

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its process does not run.
    Down,
    /// Its process runs.
    Up,
    /// Its member said that it must not go on.
    Failed(MemberFailure),
    /// It is no member any more, or its machine is gone for good.
    Gone,
}

/// One machine.
pub struct Seat {
    /// Its id in the cluster.
    pub id: NodeId,
    /// Its disk.
    pub disk: Disk,
    /// How often it was started.
    pub life: u32,
    /// How it is.
    pub condition: Condition,
    /// Its member, while one runs.
    pub handle: Option<Handle>,
    /// Its syncs are made to fail at some time.
    pub disk_may_fail: bool,
}

/// What somebody wants an operator to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hand leadership over.
    Transfer,
    /// Write a snapshot on a node, or on all.
    Snapshot(Option<usize>),
    /// Let another node join.
    Join,
    /// Remove a node while it runs.
    Remove,
    /// Take a machine away for good, remove its node and let another one join.
    Replace,
    /// Take a voter's vote and give it back some time later.
    Demote,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The cluster is being made.
    Founding,
    /// Clients work and things break.
    Broken,
    /// Nothing breaks any more.
    Healed,
}

/// Everything that is known from outside.
pub struct Inner {
    /// All machines there ever were.
    pub seats: Vec<Seat>,
    /// Machines that wait to be switched on for the first time.
    pub wanted: Vec<usize>,
    /// Machines that are to be switched off for good.
    pub doomed: Vec<usize>,
    /// What operators have to do.
    pub orders: VecDeque<Order>,
    /// Where the run is.
    pub phase: Phase,
    random: Random,
}

/// The nodes of a run.
pub struct Site {
    inner: Mutex<Inner>,
    /// What was seen of them.
    pub seen: Arc<Mutex<Seen>>,
    /// When they write snapshots.
    pub bounds: LogBounds,
}

/// The name of a machine in the network.
pub fn host(number: usize) -> String {
    format!("n{number}")
}

impl Site {
    /// A site without machines.
    pub fn new(random: Random, bounds: LogBounds) -> Arc<Self> {
        let inner = Inner {
            seats: Vec::new(),
            wanted: Vec::new(),
            doomed: Vec::new(),
            orders: VecDeque::new(),
            phase: Phase::Founding,
            random,
        };
        Arc::new(Self { inner: Mutex::new(inner), seen: Arc::default(), bounds })
    }

    /// For whoever wants to look at several things at once.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Sets up a machine for a node; it is switched on soon. Gives its number; none if there have been too many.
    pub fn add(&self, id: NodeId) -> usize {
        let mut inner = self.inner.lock();
        let number = inner.seats.len();
        let disk = Disk::new(inner.random.fork());
        inner.seats.push(Seat { id, disk, life: 0, condition: Condition::Down, handle: None, disk_may_fail: false });
        inner.wanted.push(number);
        happened!("n{number} is node {id}");
        number
    }

    /// Whether there is room for another machine.
    pub fn has_room(&self) -> bool {
        self.inner.lock().seats.len() < NODES_MAX
    }

    /// A random number.
    pub fn draw(&self) -> u64 {
        self.inner.lock().random.next()
    }

    /// Members that run, with the numbers of their machines.
    pub fn running(&self) -> Vec<(usize, Handle)> {
        let inner = self.inner.lock();
        let running = inner.seats.iter().enumerate().filter(|(_, seat)| seat.condition == Condition::Up);
        running.filter_map(|(number, seat)| Some((number, seat.handle.clone()?))).collect()
    }

    /// A member that runs, by lot.
    pub fn any(&self, random: &mut Random) -> Option<(usize, u32, Handle)> {
        let (number, handle) = random.pick(&self.running())?;
        Some((number, self.life(number), handle))
    }

    /// How often a machine was started.
    pub fn life(&self, number: usize) -> u32 {
        self.inner.lock().seats[number].life
    }

    /// Whether this life of a machine goes on.
    pub fn lives(&self, number: usize, life: u32) -> bool {
        let inner = self.inner.lock();
        inner.seats[number].life == life && inner.seats[number].condition == Condition::Up
    }

    /// The machine whose member leads, by its own word; of several the one in the latest term.
    pub fn leader(&self) -> Option<(usize, Handle)> {
        let leads = |handle: &Handle| handle.leader() == Some(handle.node());
        self.running().into_iter().filter(|(_, handle)| leads(handle)).max_by_key(|(_, handle)| handle.status().term)
    }

    /// The machine of a node.
    pub fn machine_of(&self, id: NodeId) -> Option<usize> {
        self.inner.lock().seats.iter().position(|seat| seat.id == id)
    }

    /// Where the run is.
    pub fn phase(&self) -> Phase {
        self.inner.lock().phase
    }

    /// Goes on to a phase.
    pub fn enter(&self, phase: Phase) {
        happened!("phase: {phase:?}");
        self.inner.lock().phase = phase;
    }
}
