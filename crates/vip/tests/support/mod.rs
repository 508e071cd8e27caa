//! Three lease threads in one process, over real sockets, with a referee.

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    os::fd::RawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use ballast_clock::boot_now;
use ballast_core::{
    config::Failback,
    ids::{Boot, EntryId, LogIndex, NodeId, Term, VipId},
    lease::{
        Change, Epoch, Fitness, LeaseKeys, LeaseMember, LeaseView, LeaseVip, LogFacts, Timing, Transition, VoterSets,
    },
    time::BootNanos,
};
use ballast_vip::{Closing, Driver, Finishing, Gates, Handle, Inputs, LeaseThread, LogMarks, Options};

pub const VIP: VipId = VipId::new(7);

type Event = (NodeId, Transition);

/// Far longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Judges ownership as it is carried out: all nodes of a test share one clock.
#[derive(Default)]
pub struct Referee {
    owners: HashMap<VipId, (NodeId, BootNanos)>,
    pub fouls: Vec<String>,
    /// The kernel refuses to close this VIP, which is open until the right ends.
    pub unclosable: Option<VipId>,
}

struct Whistle {
    node: NodeId,
    referee: Arc<Mutex<Referee>>,
    gates: Arc<Gates>,
}

impl Driver for Whistle {
    fn view(&mut self, _view: &Arc<LeaseView>) {}

    fn prepare(&mut self, _vip: VipId) {}

    fn acquired(&mut self, vip: VipId, epoch: Epoch, until: BootNanos, _predecessor: Option<NodeId>) {
        let now = boot_now();
        let shown = ballast_core::cluster::Ownership::gate(&*self.gates, vip).until();
        assert_eq!(shown, until, "the gate is open before the driver is told");
        if until <= now {
            // This thread was held up until its right was over again.
            return;
        }
        let mut referee = self.referee.lock().expect("no panic in the referee");
        if let Some((owner, right)) = referee.owners.insert(vip, (self.node, until))
            && owner != self.node
            && now < right
        {
            let early = right.since(now);
            referee
                .fouls
                .push(format!("{vip}: {} took epoch {epoch} {early} ns before {owner} had lost it", self.node));
        }
    }

    fn renewed(&mut self, vip: VipId, _epoch: Epoch, until: BootNanos) {
        let mut referee = self.referee.lock().expect("no panic in the referee");
        match referee.owners.get_mut(&vip) {
            Some((owner, right)) if *owner == self.node => *right = until,
            _ if until <= boot_now() => {}
            other => {
                let other = format!("{vip}: {} renewed, but the owner is {other:?}", self.node);
                referee.fouls.push(other);
            }
        }
    }

    fn finish_until(&self, _vip: VipId, _successor: Option<NodeId>, _now: BootNanos) -> Option<BootNanos> {
        None
    }

    fn released(&mut self, vip: VipId, _finishing: Option<Finishing>) -> Closing {
        let mut referee = self.referee.lock().expect("no panic in the referee");
        if referee.unclosable == Some(vip) {
            return Closing::ByItself;
        }
        if referee.owners.get(&vip).is_some_and(|(owner, _)| *owner == self.node) {
            referee.owners.remove(&vip);
        }
        Closing::Closed
    }

    fn turn(&mut self, _now: BootNanos) -> Option<BootNanos> {
        None
    }

    fn announce_again(&mut self, _now: BootNanos) {}

    fn peer_gone(&mut self, _node: NodeId) {}

    fn descriptors(&self) -> &[RawFd] {
        &[]
    }
}

pub struct Node {
    pub id: NodeId,
    pub address: SocketAddr,
    pub view: Arc<ArcSwapOption<LeaseView>>,
    pub marks: Arc<LogMarks>,
    pub gates: Arc<Gates>,
    pub handle: Option<Handle>,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub referee: Arc<Mutex<Referee>>,
    pub view: LeaseView,
    events: (Sender<Event>, Receiver<Event>),
    boots: u64,
}

impl Cluster {
    /// Three voters, all candidates, one VIP.
    pub fn start(lease: Duration) -> Self {
        /// Addresses that no other cluster has, so that nobody takes the port of a node that is down.
        static NETWORK: AtomicU8 = AtomicU8::new(0);
        let network = NETWORK.fetch_add(1, Ordering::Relaxed);
        let ids = [1, 2, 3].map(NodeId::new);
        let bind = |id: NodeId| UdpSocket::bind(format!("127.83.{network}.{}:0", id.get()));
        let sockets = ids.map(|id| bind(id).expect("loopback has ports"));
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().expect("bound"));
        let member = |(id, address): (&NodeId, &SocketAddr)| LeaseMember {
            id: *id,
            address: *address,
            candidate: true,
            weight: 100,
        };
        let timing = Timing::takeover_within(lease.as_nanos() as u64);
        let view = LeaseView {
            cluster: "test".to_owned(),
            keys: LeaseKeys::only([3; 32]),
            membership: entry(5),
            voters: VoterSets::new([ids]),
            nodes: ids.iter().zip(&addresses).map(member).collect(),
            vips: vec![LeaseVip {
                id: VIP,
                name: String::new(),
                addresses: vec!["127.0.100.1".parse().expect("a literal")],
                prefer: Vec::new(),
                failback: Failback::Never,
                failback_delay: 0,
                group: None,
                apart_from: Vec::new(),
                only: None,
                wish: None,
                fitness: Fitness::Fit,
                macs: Vec::new(),
                finish: 0,
                recorded_owner: None,
                recorded_epoch: Epoch::default(),
            }],
            timing,
            longest: timing,
            catching_up: false,
            granted: timing,
            fitness: Fitness::Fit,
        };
        let nodes = ids.iter().zip(addresses).map(|(id, address)| Node {
            id: *id,
            address,
            view: Arc::default(),
            marks: Arc::default(),
            gates: Arc::default(),
            handle: None,
        });
        let mut cluster = Self { nodes: nodes.collect(), referee: Arc::default(), view, events: channel(), boots: 0 };
        for (id, socket) in ids.into_iter().zip(sockets) {
            cluster.boot(id, socket);
        }
        cluster
    }

    /// Starts a node's thread on `socket`.
    pub fn boot(&mut self, id: NodeId, socket: UdpSocket) {
        self.boots += 1;
        let boot = Boot(self.boots);
        let facts = LogFacts { applied: LogIndex::new(9), last: entry(9), membership: entry(5) };
        let (events, referee) = (self.events.0.clone(), Arc::clone(&self.referee));
        let view = Arc::new(self.view.clone());
        let node = self.node(id);
        node.view = Arc::new(ArcSwapOption::new(Some(view)));
        node.marks = Arc::new(LogMarks::new(facts));
        node.gates = Arc::new(Gates::new());
        let inputs = Inputs {
            view: Arc::clone(&node.view),
            marks: Arc::clone(&node.marks),
            gates: Arc::clone(&node.gates),
            driver: Box::new(Whistle { node: id, referee, gates: Arc::clone(&node.gates) }),
            events: Box::new(move |transition| {
                // Nobody listens any more once the test is over.
                let _ = events.send((id, transition));
            }),
        };
        let options = Options { node: id, boot, socket, real_time: true };
        node.handle = Some(LeaseThread::start(options, inputs).expect("a thread can be started"));
    }

    pub fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of the test")
    }

    pub fn handle(&mut self, id: NodeId) -> &Handle {
        self.node(id).handle.as_ref().expect("runs")
    }

    /// Publishes the changed view to all nodes.
    pub fn publish(&mut self, change: impl FnOnce(&mut LeaseView)) {
        change(&mut self.view);
        let view = Arc::new(self.view.clone());
        for node in &self.nodes {
            node.view.store(Some(Arc::clone(&view)));
            if let Some(handle) = &node.handle {
                handle.wake();
            }
        }
    }

    /// Waits for the first transition that `pick` makes something of.
    pub fn wait<T>(&self, what: &str, mut pick: impl FnMut(NodeId, Transition) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.events.1.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((node, transition)) => {
                    if let Some(found) = pick(node, transition) {
                        return found;
                    }
                }
                Err(error) => panic!("waited {PATIENCE:?} for {what}: {error}"),
            }
        }
    }

    /// The next transition, if there is one within `patience`.
    pub fn event(&self, patience: Duration) -> Option<(NodeId, Transition)> {
        self.events.1.recv_timeout(patience).ok()
    }

    /// Waits until this node owns the VIP; returns the owner and its transition.
    pub fn wait_owner(&self, what: &str, wanted: impl Fn(NodeId) -> bool) -> (NodeId, Transition) {
        self.wait(what, |node, transition| {
            (wanted(node) && matches!(transition.change, Change::Gained(_))).then_some((node, transition))
        })
    }

    /// Waits until `done`, looking again every millisecond and with every transition.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
            match self.events.1.recv_timeout(Duration::from_millis(1)) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }

    /// Stops all threads and asks the referee.
    pub fn finish(mut self) {
        for node in &mut self.nodes {
            node.handle = None;
        }
        let referee = self.referee.lock().expect("no panic in the referee");
        assert!(referee.fouls.is_empty(), "{:#?}", referee.fouls);
    }
}

/// An entry of the first term.
pub fn entry(index: u64) -> EntryId {
    EntryId { term: Term::new(1), index: LogIndex::new(index) }
}
