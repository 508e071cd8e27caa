//! Seeded simulation of whole clusters, with everything that can go wrong and the real code.
//!
//! Clocks run at 0.9 to 1.1 of true time, datagrams are lost, doubled, reordered and delayed by up
//! to five leases, links break one way or both, processes crash, restart and freeze (also between
//! deciding and doing) while the gates they opened stay as they are, gates refuse to be closed, VIPs are moved, nodes are unfit
//! or reluctant, for all VIPs or for one, alone or all at once, and the membership changes through
//! joint configurations that nodes learn of at different times, or never, when the leader dies in that instant and the
//! next one overrules it.
//! In some runs the document changes, too, and nodes learn of it at different times: addresses move from VIP to VIP, VIPs
//! come and go. In others the lease is made longer and shorter.
//! Checked whenever anything happens: at most one gate of a VIP and of an address is open in true time, and what a
//! node takes for confirmed covers everything committed when it asked. After healing every VIP must
//! get exactly one owner, also when all nodes are reluctant or only one is not unfit.
//!
//! Not here: the runs and the scenarios ([`super::tests`]).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::IpAddr,
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use self::{
    documents::Documents,
    kernel::Kernel,
    lengths::{LEASE_MAX, Lengths},
    raft::Raft,
};

use super::{
    Action, Actions, Change, Epoch, Fitness, LeaseKeys, LeaseMember, LeaseNode, LeaseView, LeaseVip, LeaseWish,
    LogFacts, LossCause, Timing, Transition, Unfitness, VipStatus, VoterSets,
    datagram::Message,
    link::said,
    rules::{Rule, Rules},
};
use crate::{
    config::{Failback, VipAddress},
    ids::{Boot, LogIndex, NodeId, VipId},
    time::BootNanos,
};

mod documents;
mod kernel;
mod lengths;
mod raft;

pub(super) use self::documents::{Document, address};

pub(super) const MS: u64 = 1_000_000;
pub(super) const LEASE: u64 = 200 * MS;
const CHAOS: u64 = 20 * LEASE;
const CALM: u64 = 15 * LEASE;
/// How long a node must have been heard before a VIP returns to it.
pub(super) const FAILBACK_DELAY: u64 = 5 * LEASE;

/// What a run is like.
#[derive(Clone, Copy)]
pub(super) struct Profile {
    pub nodes: u64,
    pub voters: u64,
    pub vips: u32,
    /// The membership changes.
    pub joint: bool,
    /// The document changes the addresses of VIPs.
    pub moving: bool,
    /// The document changes the lease.
    pub lengths: bool,
}

/// How likely what a node has applied is on its disk when it looks.
const SYNCS: f64 = 0.2;

/// A node's first start asks for its view as an event of its own.
const FIRST_START: &str = "a first start opens nothing";

pub(super) const THREE: Profile = Profile { nodes: 3, voters: 3, vips: 2, joint: false, moving: false, lengths: false };
pub(super) const FIVE: Profile = Profile { nodes: 5, voters: 5, vips: 1, joint: false, moving: false, lengths: false };
pub(super) const CHANGING: Profile =
    Profile { nodes: 6, voters: 3, vips: 1, joint: true, moving: false, lengths: false };
pub(super) const MOVING: Profile = Profile { nodes: 3, voters: 3, vips: 3, joint: false, moving: true, lengths: false };
/// Half of the nodes have no vote, and there is much to be told in short.
pub(super) const LEARNING: Profile = Profile { nodes: 6, vips: 5, ..THREE };
pub(super) const STRETCHING: Profile = Profile { lengths: true, ..THREE };
/// Voters and lease change, in the order of one log.
pub(super) const STRETCHING_AND_CHANGING: Profile = Profile { lengths: true, ..CHANGING };
pub(super) const ALL_CHANGING: Profile = Profile { moving: true, vips: 2, ..CHANGING };

/// A VIP about which there is nothing special.
pub(super) fn vip_of(id: u32) -> LeaseVip {
    LeaseVip {
        id: VipId::new(id),
        name: String::new(),
        addresses: Vec::new(),
        prefer: Vec::new(),
        failback: Failback::Never,
        failback_delay: FAILBACK_DELAY,
        group: None,
        apart_from: Vec::new(),
        only: None,
        wish: None,
        fitness: Fitness::Fit,
        macs: Vec::new(),
        finish: 0,
        recorded_owner: None,
        recorded_epoch: Epoch::default(),
    }
}

/// How much happened, to see that a run was not empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub gained: u64,
    pub expired: u64,
    pub handed_over: u64,
    pub memberships: u64,
    /// A leader died right after it had begun or ended one.
    pub news_lost: u64,
    /// The document was changed.
    pub documents: u64,
    /// A VIP was held and had addresses that waited to be granted.
    pub withheld: u64,
    /// A VIP was gained under an epoch that was not above the last.
    pub regressed: u64,
    /// A gate could not be closed.
    pub unclosed: u64,
    /// A VIP was offered to a node while nothing went wrong.
    pub offers: u64,
}

struct Process {
    lease: LeaseNode,
    /// Stopped until thawed; what it had decided but not done waits here.
    frozen: bool,
    undone: Actions,
    inbox: Vec<Vec<u8>>,
    wake: u64,
}

struct Node {
    id: NodeId,
    /// Clock rate in thousandths, and what it shows at true time zero.
    rate: u64,
    offset: u64,
    process: Option<Process>,
    boots: u64,
    /// Deadlines outlive the process and are reset by the next one.
    kernel: Kernel,
    /// As a whole, and for single VIPs.
    fitness: Fitness,
    vips: BTreeMap<VipId, Fitness>,
    lengths: Lengths,
    /// VIPs that could not be closed, and until when they are open.
    unclosed: BTreeMap<VipId, BootNanos>,
}

impl Node {
    fn local(&self, t: u64) -> BootNanos {
        BootNanos::new(self.offset + t * self.rate / 1000)
    }

    fn true_time(&self, local: BootNanos) -> u64 {
        (local.get().saturating_sub(self.offset).min(1 << 50) * 1000).div_ceil(self.rate)
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver { to: usize, bytes: Vec<u8> },
    Wake { node: usize, wake: u64 },
    Append { node: usize },
    View { node: usize },
    Thaw { node: usize },
    Fault,
}

pub(super) struct World {
    rng: StdRng,
    /// Of nodes that start from now on.
    pub rules: Rules,
    profile: Profile,
    pub t: u64,
    count: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    nodes: Vec<Node>,
    blocked: BTreeSet<(usize, usize)>,
    loss: f64,
    slow: f64,
    /// How long a datagram takes when nothing is wrong.
    pub delay_max: u64,
    /// How far nodes' logs may lag.
    log_lag: u64,
    /// How long a node waits for its next view at most when nothing is wrong.
    pub view_lag: u64,
    /// If somebody wants to know: about how many VIPs which node asked which voter in each of its rounds.
    pub asked: Option<BTreeMap<(NodeId, NodeId, u64), usize>>,
    /// How long a longer lease waits before it is asked for.
    pub held_back: u64,
    /// How often a gate cannot be closed.
    pub refused: f64,
    /// The next release that is told to this node does not arrive.
    pub loses_release: Option<NodeId>,
    /// This node dies when it has said that it takes a VIP.
    pub dies_accepting: Option<NodeId>,
    /// Whoever could not close it says all the same that the VIP is free.
    pub tells_all_the_same: bool,
    chaos: bool,
    /// The chaos is over, and leaders are elected for good.
    healing: bool,
    logs_held: bool,
    /// The logs, which are durable.
    raft: Raft,
    documents: Documents,
    /// Nodes whose disks take nothing.
    pub disks_hang: BTreeSet<NodeId>,
    pub wishes: BTreeMap<VipId, NodeId>,
    /// Those that were fulfilled once.
    fulfilled: BTreeSet<(VipId, NodeId)>,
    /// Nodes that have applied nothing since some moment: up to where, and the wishes of then.
    behind: BTreeMap<usize, (LogIndex, BTreeMap<VipId, NodeId>)>,
    /// Nodes that vote and hold nothing.
    pub witnesses: BTreeSet<NodeId>,
    failback: Failback,
    /// Changes VIPs beyond what a run is like anyway.
    pub adapt: fn(&mut LeaseVip),
    /// Owners as the log has them; nodes learn of it with their next view.
    recorded: BTreeMap<VipId, (Option<NodeId>, Epoch)>,
    /// When which node reported what.
    pub reports: Vec<(u64, NodeId, Transition)>,
    /// Who took over from whom what clients had begun.
    pub taken_over: Vec<(NodeId, NodeId)>,
    /// When which node said that another is gone.
    pub missed: Vec<(u64, NodeId, NodeId)>,
    pub tally: Tally,
}

impl World {
    /// A cluster to which everything happens.
    pub(super) fn new(seed: u64, rules: Rules, profile: Profile) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (1..=profile.nodes).map(|id| Node {
            id: NodeId::new(id),
            rate: *[900, 900, 1000, 1100, 1100].choose(&mut rng).expect("not empty"),
            offset: rng.random_range(0..1 << 40),
            process: None,
            boots: 0,
            kernel: Kernel::default(),
            fitness: Fitness::Fit,
            vips: BTreeMap::new(),
            lengths: Lengths::default(),
            unclosed: BTreeMap::new(),
        });
        let nodes = nodes.collect();
        let loss = *[0.0, 0.05, 0.2, 0.5].choose(&mut rng).expect("not empty");
        let slow = *[0.0, 0.02, 0.2].choose(&mut rng).expect("not empty");
        let log_lag = *[LEASE / 2, 2 * LEASE, 8 * LEASE].choose(&mut rng).expect("not empty");
        let refused = *[0.0, 0.3, 0.9].choose(&mut rng).expect("not empty");
        let mut world = Self {
            rng,
            rules,
            profile,
            t: 0,
            count: 0,
            events: BinaryHeap::new(),
            nodes,
            blocked: BTreeSet::new(),
            loss,
            slow,
            delay_max: MS,
            log_lag,
            view_lag: 5 * MS,
            asked: None,
            held_back: LEASE / 2,
            refused,
            loses_release: None,
            dies_accepting: None,
            tells_all_the_same: false,
            chaos: true,
            healing: false,
            logs_held: false,
            raft: Raft::new(profile.nodes, (1..=profile.voters).collect()),
            documents: Documents::new(profile.nodes, profile.vips, LEASE),
            disks_hang: BTreeSet::new(),
            wishes: BTreeMap::new(),
            fulfilled: BTreeSet::new(),
            behind: BTreeMap::new(),
            witnesses: BTreeSet::new(),
            failback: Failback::Never,
            adapt: |_| {},
            recorded: BTreeMap::new(),
            reports: Vec::new(),
            taken_over: Vec::new(),
            missed: Vec::new(),
            tally: Tally::default(),
        };
        if profile.moving || profile.lengths {
            world.documents.pace = *[0.02, 0.2, 0.9].choose(&mut world.rng).expect("not empty");
        }
        for node in 0..world.nodes.len() {
            world.start(node).expect(FIRST_START);
        }
        world.at(2 * LEASE, Event::Fault);
        world
    }

    /// A cluster to which nothing happens by itself, with perfect clocks and delays below 1 ms.
    pub(super) fn calm(profile: Profile, failback: Failback) -> Self {
        let mut world = Self::new(1, Rules::default(), profile);
        world.chaos = false;
        world.refused = 0.0;
        world.documents.pace = 1.0;
        world.failback = failback;
        for node in &mut world.nodes {
            node.rate = 1000;
        }
        world.events.clear();
        for node in 0..world.nodes.len() {
            world.nodes[node].boots = 0;
            world.start(node).expect(FIRST_START);
        }
        world
    }

    /// The one owner of `vip` now.
    pub(super) fn owner(&self, vip: u32) -> Option<NodeId> {
        self.open(VipId::new(vip)).map(|node| node.id).next()
    }

    /// How the owner sees `vip`.
    pub(super) fn status(&self, node: NodeId, vip: u32) -> VipStatus {
        let node = &self.nodes[node.get() as usize - 1];
        let process = node.process.as_ref().expect("runs");
        let status = process.lease.status(node.local(self.t), LogFacts::default());
        status.into_iter().find(|status| status.vip == VipId::new(vip)).expect("a VIP of the run")
    }

    /// When a node asked the newest round that a majority answered, in true time.
    pub(super) fn confirmed(&self, node: NodeId) -> Option<u64> {
        let node = &self.nodes[node.get() as usize - 1];
        Some(node.true_time(node.process.as_ref()?.lease.confirmed()?.asked_at))
    }

    /// Kills a node's process.
    pub(super) fn kill(&mut self, node: NodeId) {
        self.end(node.get() as usize - 1);
    }

    /// The power of a node's machine fails, and what is not on its disk is gone.
    pub(super) fn lose_power(&mut self, node: NodeId) {
        self.kill(node);
        self.documents.lose_power(node.get() as usize - 1);
    }

    fn end(&mut self, at: usize) {
        self.nodes[at].process = None;
        self.raft.ended(at);
    }

    /// A node's process does nothing for so long.
    pub(super) fn stand_still(&mut self, node: NodeId, time: u64) {
        let at = node.get() as usize - 1;
        self.nodes[at].process.as_mut().expect("runs").frozen = true;
        self.at(time, Event::Thaw { node: at });
    }

    /// Starts a node's process again.
    pub(super) fn restart(&mut self, node: NodeId) {
        self.start(node.get() as usize - 1).unwrap_or_else(|what| panic!("{what}"));
    }

    /// Loses everything that `from` sends to anyone in `to`.
    pub(super) fn block(&mut self, from: &[u64], to: &[u64]) {
        for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))) {
            self.blocked.insert((from as usize - 1, to as usize - 1));
        }
    }

    /// Loses nothing any more.
    pub(super) fn unblock(&mut self) {
        self.blocked.clear();
    }

    /// The first of `nodes` leads and appends `entries` to their logs and nobody else's. Returns where they end.
    pub(super) fn grow(&mut self, nodes: &[u64], entries: u64) -> u64 {
        let leader = nodes[0] as usize - 1;
        assert!(self.raft.elect(leader, |_| true));
        for _ in 0..entries {
            self.raft.propose(leader);
        }
        for to in &nodes[1..] {
            self.raft.replicate(leader, *to as usize - 1, 0);
        }
        self.raft.end(leader).index.get()
    }

    /// A node becomes the leader with the votes of all that run.
    pub(super) fn elect(&mut self, node: u64) {
        let running: Vec<bool> = (0..self.nodes.len()).map(|at| self.runs(at)).collect();
        assert!(self.raft.elect(node as usize - 1, |voter| running[voter]), "{node} is not elected");
    }

    /// The leader begins to change the voters to `next` and tells only `to`, which know at once.
    pub(super) fn begin_change(&mut self, next: &[u64], to: &[u64]) {
        let leader = self.raft.leader().expect("a leader");
        assert!(self.raft.begin_change(leader, next.to_vec(), self.documents.count()));
        self.tell(leader, to);
    }

    /// The leader ends the change and tells only `to`, which know at once.
    pub(super) fn end_change(&mut self, to: &[u64]) {
        let leader = self.raft.leader().expect("a leader");
        assert!(self.raft.end_change(leader, self.documents.count()));
        self.tell(leader, to);
    }

    /// The leader's log as it is reaches `to`, which know at once.
    pub(super) fn tell_all(&mut self, to: &[u64]) {
        let leader = self.raft.leader().expect("a leader");
        self.tell(leader, to);
    }

    fn tell(&mut self, leader: usize, to: &[u64]) {
        for to in to.iter().map(|to| *to as usize - 1) {
            self.raft.replicate(leader, to, 0);
            self.show(to).expect("a view opens nothing");
        }
        self.raft.count(self.t);
    }

    /// Logs stay as they are from now on, or go on.
    pub(super) fn hold_logs(&mut self, held: bool) {
        self.logs_held = held;
    }

    /// A node applies nothing from now on, or catches up.
    pub(super) fn hold_applied(&mut self, node: NodeId, held: bool) {
        let at = node.get() as usize - 1;
        if held {
            self.behind.insert(at, (self.raft.end(at).index, self.wishes.clone()));
        } else {
            self.behind.remove(&at);
        }
    }

    /// The document is this one from now on, and nodes learn of it.
    pub(super) fn commit(&mut self, vips: &[(u32, &[u32])]) {
        let addresses = |addresses: &[u32]| addresses.iter().map(|n| address(*n)).collect();
        let document: Document = vips.iter().map(|(vip, of)| (VipId::new(*vip), addresses(of))).collect();
        self.documents.commit(document, LogIndex::default());
    }

    /// The lease is this long from now on, and nodes learn of it.
    pub(super) fn lease(&mut self, lease: u64) {
        let from = self.in_the_log();
        self.documents.commit_lease(lease, from);
    }

    /// How long a log must be to have a document that is committed now.
    fn in_the_log(&self) -> LogIndex {
        if self.profile.joint && self.profile.lengths { self.raft.longest() } else { LogIndex::default() }
    }

    /// Whether a node has not applied all that was agreed before its voters were.
    fn catches_up(&self, at: usize) -> bool {
        let ordered = self.profile.joint && self.profile.lengths;
        ordered && self.documents.applied(at) < self.raft.documents_before(at)
    }

    /// A node applies no document from now on, or catches up.
    pub(super) fn hold_documents(&mut self, node: NodeId, held: bool) {
        self.documents.held[node.get() as usize - 1] = held;
    }

    /// The node that answers for an address now.
    pub(super) fn answers(&self, n: u32) -> Option<NodeId> {
        self.passing(address(n)).map(|node| node.id).next()
    }

    /// How fit a node is as a whole, from its next view on.
    pub(super) fn fitness(&mut self, node: NodeId, fitness: Fitness) {
        self.nodes[node.get() as usize - 1].fitness = fitness;
    }

    /// How fit a node is for one VIP.
    pub(super) fn vip_fitness(&mut self, node: NodeId, vip: u32, fitness: Fitness) {
        self.nodes[node.get() as usize - 1].vips.insert(VipId::new(vip), fitness);
    }

    fn at(&mut self, after: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.t + after, self.count, event)));
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        self.until(CHAOS)?;
        self.heal()?;
        self.until(CHAOS + CALM)?;
        for vip in (1..=self.profile.vips).map(VipId::new) {
            let owners: Vec<NodeId> = self.open(vip).map(|node| node.id).collect();
            if owners.len() != usize::from(self.documents.last().contains_key(&vip)) {
                return Err(format!("{vip} has owners {owners:?} after healing"));
            }
        }
        for address in self.documents.last().values().flatten() {
            if self.passing(*address).count() != 1 {
                return Err(format!("nobody answers for {address} after healing"));
            }
        }
        Ok(())
    }

    pub(super) fn until(&mut self, end: u64) -> Result<(), String> {
        while let Some(Reverse((t, _, event))) = self.events.pop() {
            if t > end {
                self.count += 1;
                self.events.push(Reverse((t, self.count, event)));
                self.t = end;
                return Ok(());
            }
            self.t = t;
            self.happen(event)?;
        }
        Err("nothing happens any more".to_owned())
    }

    fn open(&self, vip: VipId) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.kernel.holds(vip, node.local(self.t).get()))
    }

    fn passing(&self, address: IpAddr) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.kernel.passes(address, node.local(self.t).get()))
    }

    fn check(&self) -> Result<(), String> {
        for vip in (1..=self.profile.vips).map(VipId::new) {
            if self.open(vip).count() > 1 {
                let owners: Vec<NodeId> = self.open(vip).map(|node| node.id).collect();
                return Err(format!("two owners: {vip} is open at {owners:?} at {} ms", self.t / MS));
            }
        }
        for address in (1..=self.profile.vips).map(address) {
            if self.passing(address).count() > 1 {
                let owners: Vec<NodeId> = self.passing(address).map(|node| node.id).collect();
                return Err(format!("two owners: {address} is open at {owners:?} at {} ms", self.t / MS));
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { to, bytes } => {
                let Some(process) = &mut self.nodes[to].process else { return Ok(()) };
                if process.frozen {
                    process.inbox.push(bytes);
                    return Ok(());
                }
                self.step(to, |lease, now, facts, out| {
                    lease.packet(now, facts, &bytes, out);
                })
            }
            Event::Wake { node, wake } => {
                if !self.runs(node) || self.nodes[node].process.as_ref().is_some_and(|p| p.wake != wake) {
                    return Ok(());
                }
                self.step(node, |lease, now, facts, out| lease.tick(now, facts, out))
            }
            Event::Append { node } => {
                if self.runs(node) && !self.logs_held {
                    self.append(node);
                }
                let after = self.rng.random_range(MS..if self.chaos { self.log_lag } else { 5 * MS });
                self.at(after, Event::Append { node });
                Ok(())
            }
            Event::View { node } => {
                let after = self.rng.random_range(MS..if self.chaos { LEASE } else { self.view_lag });
                self.at(after, Event::View { node });
                if self.runs(node) {
                    let hangs = self.disks_hang.contains(&self.nodes[node].id);
                    let soon = !self.profile.lengths || !self.chaos || self.rng.random_bool(SYNCS);
                    if soon && !hangs {
                        self.documents.sync(node);
                    }
                    self.documents.apply(node, self.raft.end(node).index, &mut self.rng);
                }
                if self.runs(node) { self.show(node) } else { Ok(()) }
            }
            Event::Thaw { node } => self.thaw(node),
            Event::Fault => {
                if self.chaos {
                    let after = self.rng.random_range(MS..LEASE);
                    self.at(after, Event::Fault);
                    self.fault()?;
                }
                Ok(())
            }
        }
    }

    fn runs(&self, node: usize) -> bool {
        self.nodes[node].process.as_ref().is_some_and(|p| !p.frozen)
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        let rules = self.rules;
        let t = self.t;
        let node = &mut self.nodes[at];
        node.boots += 1;
        if node.boots > 1 {
            self.raft.ended(at);
            if self.profile.lengths && self.chaos && self.rng.random_bool(0.5) {
                self.documents.lose_power(at);
            }
        }
        let node = &mut self.nodes[at];
        // A new process resets the deadlines of the one before.
        node.kernel = Kernel::default();
        node.lengths = Lengths::default();
        node.unclosed.clear();
        let boot = Boot(node.boots * 100 + node.id.get());
        node.process = Some(Process {
            lease: LeaseNode::with_rules(node.id, boot, node.local(t), rules),
            frozen: false,
            undone: Vec::new(),
            inbox: Vec::new(),
            wake: 0,
        });
        if node.boots == 1 {
            self.at(0, Event::Append { node: at });
            self.at(0, Event::View { node: at });
            Ok(())
        } else {
            self.show(at)
        }
    }

    fn show(&mut self, at: usize) -> Result<(), String> {
        let now = self.nodes[at].local(self.t);
        self.nodes[at].lengths.look(now, self.documents.leases(at), self.held_back);
        let view = self.view(at);
        self.step(at, |lease, now, facts, out| lease.set_view(now, facts, view, out))
    }

    fn view(&self, at: usize) -> Arc<LeaseView> {
        let (membership, sets) = self.raft.membership(at);
        let node = &self.nodes[at];
        let now = node.local(self.t);
        let longest = node.lengths.longest(now, self.documents.leases(at));
        let granted = match self.rules.keep(Rule::GrantWhatIsOnDisk) {
            true => node.lengths.longest(now, self.documents.leases_on_disk(at)),
            false => longest,
        };
        let vip = |(id, addresses): (&VipId, &Vec<IpAddr>)| {
            let recorded = self.recorded.get(id);
            let plain = vip_of(id.get());
            let mut vip = LeaseVip {
                addresses: addresses.iter().filter_map(|address| VipAddress::new(*address, None)).collect(),
                failback: if id.get() == 2 { Failback::Automatic } else { self.failback },
                wish: self
                    .behind
                    .get(&at)
                    .map_or(&self.wishes, |(_, wishes)| wishes)
                    .get(id)
                    .map(|node| LeaseWish { node: *node, fulfilled: self.fulfilled.contains(&(*id, *node)) }),
                fitness: self.nodes[at].vips.get(id).copied().unwrap_or_default(),
                recorded_owner: recorded.and_then(|(node, _)| *node),
                recorded_epoch: recorded.map_or(Epoch::default(), |(_, epoch)| *epoch),
                ..plain
            };
            (self.adapt)(&mut vip);
            vip
        };
        let member = |node: &Node| LeaseMember {
            id: node.id,
            address: "127.0.0.1:1".parse().expect("a literal"),
            candidate: !self.witnesses.contains(&node.id),
            weight: 100,
        };
        Arc::new(LeaseView {
            cluster: "sim".to_owned(),
            keys: LeaseKeys::only([1; 32]),
            membership,
            voters: VoterSets::new(sets.iter().map(|set| set.iter().copied().map(NodeId::new))),
            nodes: self.nodes.iter().map(member).collect(),
            vips: self.documents.at(at).iter().map(vip).collect(),
            timing: Timing::takeover_within(node.lengths.asked()),
            // Without the tenth that `Timing::at_most` allows beyond it: silence and settling as short as they may be.
            longest: Timing::takeover_within(longest),
            catching_up: self.catches_up(at),
            granted: Timing::takeover_within(granted),
            fitness: self.nodes[at].fitness,
        })
    }

    /// Lets a process handle something and carries out what it says, unless it freezes half-way.
    fn step(
        &mut self,
        at: usize,
        f: impl FnOnce(&mut LeaseNode, BootNanos, LogFacts, &mut Actions),
    ) -> Result<(), String> {
        let node = &mut self.nodes[at];
        let now = node.local(self.t);
        let facts = LogFacts {
            applied: self.behind.get(&at).map_or(self.raft.end(at).index, |(applied, _)| *applied),
            last: self.raft.end(at),
            membership: self.raft.membership(at).0,
        };
        let Some(process) = &mut node.process else { return Ok(()) };
        let mut actions = Actions::new();
        let before = process.lease.confirmed();
        f(&mut process.lease, now, facts, &mut actions);
        let confirmed = process.lease.confirmed().filter(|c| Some(*c) != before);
        let deadline = process.lease.next_deadline(now, facts);
        process.wake += 1;
        let wake = process.wake;
        if let Some(confirmed) = confirmed {
            let asked = node.true_time(confirmed.asked_at);
            let committed = self.raft.committed_before(asked);
            if confirmed.index.get() < committed {
                return Err(format!(
                    "confirmed {:?} at {asked}, but {committed} was committed before",
                    confirmed.index
                ));
            }
        }
        let late = if self.chaos && self.rng.random_bool(0.1) { self.rng.random_range(0..20 * MS) } else { 0 };
        let due = self.nodes[at].true_time(deadline).saturating_sub(self.t).max(1000) + late;
        self.at(due, Event::Wake { node: at, wake });
        let freeze = self.chaos && self.rng.random_bool(0.0005);
        let done = if freeze { self.rng.random_range(0..=actions.len()) } else { actions.len() };
        let undone = actions.split_off(done);
        self.perform(at, actions)?;
        if freeze {
            self.freeze(at, undone);
        }
        Ok(())
    }

    fn perform(&mut self, at: usize, actions: Actions) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Prepare { .. } | Action::PeerReturned { .. } => {}
                Action::PeerGone { node } => self.missed.push((self.t, self.nodes[at].id, node)),
                Action::Carry { view } => {
                    let addresses = |vips: &[LeaseVip]| vips.iter().map(|vip| vip.addresses.len()).sum::<usize>();
                    let known = self.documents.at(at).values().map(Vec::len).sum::<usize>();
                    self.tally.withheld += u64::from(addresses(&view.vips) < known);
                    self.nodes[at].kernel.carry(&view.vips);
                    self.check()?;
                }
                Action::Close { vip, .. } => self.close(at, vip),
                Action::Tell { release } => {
                    let node = &mut self.nodes[at];
                    let (now, unclosed) = (node.local(self.t), node.unclosed.get(&release.vip).copied());
                    let Some(process) = &mut node.process else { continue };
                    match unclosed.filter(|until| now < *until && !self.tells_all_the_same) {
                        Some(until) => process.lease.keep_to_itself(release.vip, until),
                        None => {
                            let mut told = Actions::new();
                            process.lease.tell(release, &mut told);
                            self.perform(at, told)?;
                        }
                    }
                }
                Action::Open { vip, until, predecessor, .. } => {
                    self.taken_over.extend(predecessor.map(|from| (self.nodes[at].id, from)));
                    self.nodes[at].kernel.open(vip, until.get());
                    self.check()?;
                }
                Action::Send { to, bytes } => {
                    self.note_asked(at, to, &bytes);
                    self.send(at, to, bytes);
                }
                Action::Report(transition) => {
                    let Transition { vip, epoch, change, .. } = transition;
                    let node = self.nodes[at].id;
                    let gained = |(.., report): &&(u64, NodeId, Transition)| {
                        report.vip == vip && matches!(report.change, Change::Gained(_))
                    };
                    let last = self.reports.iter().rev().find(gained).map(|(.., report)| report.epoch);
                    self.reports.push((self.t, node, transition));
                    self.record(at, vip, epoch, change);
                    match change {
                        Change::Gained(_) => {
                            if self.wishes.get(&vip) == Some(&node) {
                                self.fulfilled.insert((vip, node));
                            }
                            self.tally.regressed += u64::from(last.is_some_and(|last| last >= epoch));
                            self.tally.gained += 1;
                        }
                        Change::Lost(LossCause::NotRenewed(_)) => self.tally.expired += 1,
                        Change::Lost(_) => self.tally.handed_over += 1,
                    }
                }
            }
        }
        self.check()
    }

    /// Writes a change of hands into the log as a daemon does: a gain until it is there, and a loss if there is a leader that
    /// hears of it. One that is older than the last is no news.
    fn record(&mut self, at: usize, vip: VipId, epoch: Epoch, change: Change) {
        let leader = self.raft.leader().filter(|leader| self.runs(*leader));
        let heard = leader.is_some_and(|leader| leader == at || !self.blocked.contains(&(at, leader)));
        let owner = match change {
            Change::Gained(_) => Some(self.nodes[at].id),
            Change::Lost(_) if heard => None,
            Change::Lost(_) => return,
        };
        if let Some(leader) = leader {
            self.raft.propose(leader);
        }
        if self.recorded.get(&vip).is_none_or(|(_, last)| *last <= epoch) {
            self.recorded.insert(vip, (owner, epoch));
        }
    }

    /// Closes a gate, or the kernel refuses to and it closes by itself when the right ends.
    fn close(&mut self, at: usize, vip: VipId) {
        let refused = self.refused > 0.0 && self.rng.random_bool(self.refused);
        let node = &mut self.nodes[at];
        let until = node.kernel.until(vip).filter(|until| refused && node.local(self.t) < *until);
        match until {
            Some(until) => {
                self.tally.unclosed += 1;
                node.unclosed.insert(vip, until);
            }
            None => {
                node.unclosed.remove(&vip);
                node.kernel.close(vip);
            }
        }
    }

    fn note_asked(&mut self, at: usize, to: NodeId, bytes: &[u8]) {
        if let Some(asked) = &mut self.asked
            && let Some(Message::Ask(ask)) = said(bytes)
        {
            *asked.entry((self.nodes[at].id, to, ask.round)).or_default() += ask.wants.len();
        }
    }

    fn send(&mut self, from: usize, to: NodeId, bytes: Vec<u8>) {
        if self.loses_release == Some(to) && matches!(said(&bytes), Some(Message::Release(_))) {
            self.loses_release = None;
            return;
        }
        let to = to.get() as usize - 1;
        if !self.chaos
            && let Some(Message::Offer(offers)) = said(&bytes)
        {
            self.tally.offers += offers.len() as u64;
        }
        if self.blocked.contains(&(from, to)) {
            return;
        }
        let copies = if self.chaos && self.rng.random_bool(0.05) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chaos && self.rng.random_bool(self.loss) {
                continue;
            }
            let delay = if self.chaos && self.rng.random_bool(self.slow) {
                self.rng.random_range(0..5 * LEASE)
            } else {
                self.rng.random_range(50_000..self.delay_max)
            };
            self.at(delay, Event::Deliver { to, bytes: bytes.clone() });
        }
        if self.dies_accepting == Some(self.nodes[from].id) && matches!(said(&bytes), Some(Message::Accept(_))) {
            self.dies_accepting = None;
            self.end(from);
        }
    }

    fn freeze(&mut self, at: usize, undone: Actions) {
        let Some(process) = &mut self.nodes[at].process else { return };
        process.frozen = true;
        process.undone = undone;
        let thaw = self.rng.random_range(MS..3 * LEASE);
        self.at(thaw, Event::Thaw { node: at });
    }

    fn thaw(&mut self, at: usize) -> Result<(), String> {
        let Some(process) = self.nodes[at].process.as_mut().filter(|p| p.frozen) else { return Ok(()) };
        process.frozen = false;
        let undone = std::mem::take(&mut process.undone);
        let inbox = std::mem::take(&mut process.inbox);
        self.perform(at, undone)?;
        for bytes in inbox {
            if self.runs(at) {
                self.step(at, |lease, now, facts, out| {
                    lease.packet(now, facts, &bytes, out);
                })?;
            }
        }
        if self.runs(at) { self.step(at, |lease, now, facts, out| lease.tick(now, facts, out)) } else { Ok(()) }
    }

    fn fault(&mut self) -> Result<(), String> {
        if self.profile.moving && self.rng.random_bool(0.4) {
            if self.rng.random_bool(0.3) {
                let at = self.rng.random_range(0..self.nodes.len());
                self.documents.held[at] ^= true;
            } else {
                let next = self.documents.any(self.profile.vips, &mut self.rng);
                self.documents.commit(next, LogIndex::default());
                self.tally.documents += 1;
            }
            return Ok(());
        }
        if self.profile.lengths && self.rng.random_bool(0.3) {
            if self.rng.random_bool(0.3) {
                let at = self.rng.random_range(0..self.nodes.len());
                self.documents.held[at] ^= true;
            } else {
                let lease = *[LEASE / 2, LEASE, LEASE_MAX].choose(&mut self.rng).expect("not empty");
                let from = self.in_the_log();
                self.documents.commit_lease(lease, from);
                self.tally.documents += 1;
            }
            return Ok(());
        }
        let n = self.nodes.len();
        let at = self.rng.random_range(0..n);
        let other = self.rng.random_range(0..n);
        let vip = VipId::new(self.rng.random_range(1..=self.profile.vips));
        match self.rng.random_range(0..if self.profile.joint { 24 } else { 14 }) {
            0 => self.end(at),
            1 | 2 => {
                // Restarted fast, or after it was down.
                self.start(at)?;
            }
            3 => self.freeze(at, Vec::new()),
            4 => {
                self.blocked.insert((at, other));
            }
            5 => {
                for peer in 0..n {
                    self.blocked.insert((at, peer));
                    self.blocked.insert((peer, at));
                }
            }
            6 | 7 => self.blocked.clear(),
            8 | 9 => {
                self.wishes.insert(vip, NodeId::new(other as u64 + 1));
            }
            10 => {
                self.wishes.remove(&vip);
            }
            11 => {
                let fitness = self.any_fitness();
                self.nodes[at].fitness = fitness;
            }
            12 => {
                let fitness = self.any_fitness();
                self.nodes[at].vips.insert(vip, fitness);
            }
            13 => {
                // One cause for all.
                for node in &mut self.nodes {
                    node.fitness = Fitness::Reluctant(Unfitness::GatewayUnreachable);
                }
            }
            14..18 => {
                self.change_membership();
            }
            18..21 => self.lose_news()?,
            _ => self.try_to_lead(at),
        }
        self.check()
    }

    fn any_fitness(&mut self) -> Fitness {
        match self.rng.random_range(0..4) {
            0 => Fitness::Unfit(Unfitness::LinkDown),
            1 => Fitness::Reluctant(Unfitness::GatewayUnreachable),
            _ => Fitness::Fit,
        }
    }

    /// A leader, perhaps one that was deposed and does not know, begins a change. Returns it if it did.
    fn change_membership(&mut self) -> Option<usize> {
        let next = self.raft.any_voters(&mut self.rng);
        let leading = (0..self.nodes.len()).filter(|at| self.runs(*at) && self.raft.leads(*at));
        let leader = leading.collect::<Vec<usize>>().choose(&mut self.rng).copied()?;
        if !self.raft.begin_change(leader, next, self.documents.count()) {
            return None;
        }
        self.tally.memberships += 1;
        self.raft.count(self.t);
        Some(leader)
    }

    /// A leader begins or ends a change, some nodes hear of it, and then its process dies.
    fn lose_news(&mut self) -> Result<(), String> {
        let began = self.change_membership();
        let documents = self.documents.count();
        let ending = self.raft.leader().filter(|leader| self.runs(*leader) && self.raft.end_change(*leader, documents));
        let Some(leader) = began.or(ending) else { return Ok(()) };
        for at in 0..self.nodes.len() {
            if at != leader && self.runs(at) && self.rng.random_bool(0.3) && self.raft.leaders_for(at).contains(&leader)
            {
                self.raft.replicate(leader, at, 0);
                self.raft.count(self.t);
                if self.rng.random_bool(0.7) {
                    self.show(at)?;
                }
            }
        }
        self.end(leader);
        self.tally.news_lost += 1;
        Ok(())
    }

    fn try_to_lead(&mut self, at: usize) {
        if !self.runs(at) {
            return;
        }
        let sure = if self.chaos { 0.8 } else { 1.0 };
        let votes: Vec<bool> = (0..self.nodes.len()).map(|n| self.runs(n) && self.rng.random_bool(sure)).collect();
        self.raft.elect(at, |voter| votes[voter]);
        self.raft.count(self.t);
    }

    /// Brings a node's log nearer to that of a leader; a leader ends a change that is committed.
    fn append(&mut self, at: usize) {
        let from: Vec<usize> = self.raft.leaders_for(at).into_iter().filter(|leader| self.runs(*leader)).collect();
        let newest = from.last().copied();
        let from = if self.chaos { from.choose(&mut self.rng).copied() } else { newest };
        if let Some(leader) = from {
            let without = if self.chaos && self.rng.random_bool(0.2) { self.rng.random_range(0..4) } else { 0 };
            self.raft.replicate(leader, at, without);
        } else {
            let stands = self.healing || self.chaos && self.rng.random_bool(0.3);
            match self.raft.leader().filter(|leader| self.runs(*leader)) {
                // Its term is newer than the leader's, which learns of that when it is refused. In chaos it may not.
                Some(leader) if leader != at && self.healing => self.raft.ended(leader),
                None if stands => self.try_to_lead(at),
                _ => {}
            }
        }
        self.raft.count(self.t);
        if let Some(leader) = self.raft.leader().filter(|leader| self.runs(*leader))
            && self.raft.end_change(leader, self.documents.count())
        {
            self.tally.memberships += 1;
        }
    }

    fn heal(&mut self) -> Result<(), String> {
        self.chaos = false;
        self.refused = 0.0;
        self.healing = true;
        self.documents.pace = 1.0;
        self.documents.held.fill(false);
        self.blocked.clear();
        // A cluster whose nodes are all reluctant is as good as one whose nodes are all fit, and one fit or reluctant
        // node is enough.
        let everywhere = self.rng.random_range(0..4);
        let able = self.rng.random_range(0..self.nodes.len());
        for at in 0..self.nodes.len() {
            let reluctant = Fitness::Reluctant(Unfitness::GatewayUnreachable);
            self.nodes[at].vips.clear();
            self.nodes[at].fitness = match everywhere {
                0 => reluctant,
                1 if at == able => reluctant,
                1 => Fitness::Unfit(Unfitness::LinkDown),
                _ => Fitness::Fit,
            };
            match &self.nodes[at].process {
                None => self.start(at)?,
                Some(process) if process.frozen => self.at(0, Event::Thaw { node: at }),
                Some(_) => {}
            }
        }
        Ok(())
    }
}
