//! The lease thread: waits for datagrams, deadlines and views, feeds them to the protocol and
//! carries out what it says, in order.
//!
//! A plain thread with `ppoll`, so that nothing else can keep it from renewing: what it has to say goes to a thread that may
//! wait for the log ([`Voice`]), what happened to one that may wait for who is told ([`Herald`]). Each turn takes at
//! most [`DATAGRAMS_PER_TURN_MAX`] datagrams, and none after [`RECEIVE_NANOS_MAX`], so that a flood cannot keep it from its
//! deadlines.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, atomic::Ordering},
};

use arc_swap::ArcSwapOption;
use ballast_clock::boot_now;
use ballast_core::{
    cluster::Ownership,
    ids::{Boot, NodeId, VipId},
    lease::{Action, Actions, Dropped, Fitness, LeaseNode, LeaseView, Release, Unfitness, VipGate},
    time::BootNanos,
};
use smallvec::{SmallVec, smallvec};

use crate::{
    Closing, Driver, EventSink, Finishing, Gates, Handle, LogMarks,
    handle::{Shared, Wish},
    herald::Herald,
    intake, priority,
    voice::{Voice, Word},
};

/// Datagrams taken before deadlines are looked at again. At 2 us each, for one VIP, a turn stays below 0.2 ms.
const DATAGRAMS_PER_TURN_MAX: usize = 64;

/// Time after which no more are taken before deadlines are looked at again: each may be about some sixty VIPs. A fifteenth of
/// the retry of the default lease.
const RECEIVE_NANOS_MAX: u64 = 1_000_000;

/// Longest sleep. There is nothing to wait for only before the first view, which is then found without a wake too.
const WAIT_NANOS_MAX: u64 = 100_000_000;

/// People and metrics read how VIPs stand; nothing is decided by it. What changes here is told at once, so the rest is where
/// other nodes' VIPs are and why.
const STATUS_NANOS: u64 = 250_000_000;

/// A publisher that has not looked for so long hangs, with a disk perhaps, and what this node believes of itself is old:
/// it leaves its VIPs to others, and keeps those that nobody takes. Far more than a busy machine delays it.
const PUBLISHER_SILENT_NANOS: u64 = 5_000_000_000;

/// Longer than the longest datagram, so that an overlong one is seen as such.
const BUFFER_BYTES: usize = 2048;

/// Who this is and where it listens.
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// This life of it, random.
    pub boot: Boot,
    /// Bound to the node's cluster address.
    pub socket: UdpSocket,
    /// Ask for real-time scheduling and locked memory; a refusal is logged and does no harm.
    pub real_time: bool,
}

/// What the thread reads and whom it tells.
pub struct Inputs {
    /// The agreed state; publish a new one and call [`Handle::wake`]. Nothing happens before the first.
    pub view: Arc<ArcSwapOption<LeaseView>>,
    /// Positions in this node's log.
    pub marks: Arc<LogMarks>,
    /// The gates, shared with the data plane.
    pub gates: Arc<Gates>,
    /// Carries out ownership.
    pub driver: Box<dyn Driver>,
    /// Told of every gain and loss.
    pub events: EventSink,
}

/// The lease thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start the lease thread: {doing}")]
pub struct StartError {
    doing: &'static str,
    #[source]
    source: io::Error,
}

/// Starts lease threads.
pub struct LeaseThread;

impl LeaseThread {
    /// Starts the thread of one node.
    ///
    /// # Errors
    /// [`StartError`] when the kernel gives no thread or descriptor.
    pub fn start(options: Options, inputs: Inputs) -> Result<Handle, StartError> {
        let error = |doing| move |source| StartError { doing, source };
        options.socket.set_nonblocking(true).map_err(error("make its socket non-blocking"))?;
        if let Err(error) = intake::prepare(&options.socket) {
            tracing::info!(%error, "the kernel filters nothing for the lease thread, which is woken by any datagram");
        }
        let shared = Arc::new(Shared::new(Arc::clone(&inputs.gates)).map_err(error("make an event descriptor"))?);
        let (voice, speaker) = Voice::start().map_err(error("spawn the one that speaks for it"))?;
        let Inputs { view, marks, gates, driver, events } = inputs;
        let (herald, teller) = Herald::start(events).map_err(error("spawn the one that tells of its VIPs"))?;
        let runner = Runner {
            // Before the thread runs, so that the silence after a start is not counted from too late.
            node: LeaseNode::new(options.node, options.boot, boot_now()),
            socket: options.socket,
            seen: None,
            doubts: false,
            actions: Actions::new(),
            held: Vec::new(),
            inputs: Own { view, marks, gates, driver },
            shared: Arc::clone(&shared),
            published_at: BootNanos::default(),
            unclosed: SmallVec::new(),
            arrived: true,
            voice,
            herald,
        };
        let thread = std::thread::Builder::new()
            .name("ballast-lease".to_owned())
            .spawn(move || runner.run(options.real_time))
            .map_err(error("spawn"))?;
        Ok(Handle { shared, thread: Some(thread), speaker: Some(speaker), teller: Some(teller) })
    }
}

/// The inputs that are the lease thread's own.
struct Own {
    view: Arc<ArcSwapOption<LeaseView>>,
    marks: Arc<LogMarks>,
    gates: Arc<Gates>,
    driver: Box<dyn Driver>,
}

struct Runner {
    node: LeaseNode,
    socket: UdpSocket,
    inputs: Own,
    shared: Arc<Shared>,
    seen: Option<Arc<LeaseView>>,
    /// The view may be out of date.
    doubts: bool,
    actions: Actions,
    held: Vec<(VipId, Arc<VipGate>)>,
    published_at: BootNanos,
    /// VIPs that could not be closed, and until when they are open.
    unclosed: SmallVec<[(VipId, BootNanos); 4]>,
    /// The socket may have something to read.
    arrived: bool,
    voice: Voice,
    herald: Herald,
}

impl Runner {
    fn run(mut self, real_time: bool) {
        if real_time {
            let granted = priority::raise();
            if granted.nice {
                self.voice.say(Word::OnlyNice);
            } else if !granted.fifo {
                self.voice.say(Word::NoRealTime);
            }
            if !granted.locked {
                self.voice.say(Word::NotLocked);
            }
        }
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let wish = self.shared.wish.load(Ordering::Acquire);
            if wish == Wish::Crash as u8 {
                return;
            }
            self.look_at_view();
            let facts = self.inputs.marks.get();
            if wish == Wish::Stop as u8 {
                self.node.let_go(boot_now(), facts, &mut self.actions);
                self.perform();
                self.publish(boot_now(), true);
                return;
            }
            if wish == Wish::Drain as u8 {
                self.node.drain(boot_now(), facts, &mut self.actions);
            } else {
                self.node.tick(boot_now(), facts, &mut self.actions);
            }
            self.perform();
            if self.arrived {
                self.receive(&mut buffer);
            }
            let now = boot_now();
            self.publish(now, false);
            self.herald.put_down();
            self.shared.drained.store(wish == Wish::Drain as u8 && self.node.idle(), Ordering::Release);
            let due = self.inputs.driver.turn(now);
            let deadline = self.node.next_deadline(now, self.inputs.marks.get());
            let deadline = due.map_or(deadline, |due| due.min(deadline));
            self.wait(deadline.since(boot_now()));
        }
    }

    fn look_at_view(&mut self) {
        let current = self.inputs.view.load();
        let Some(view) = current.as_ref() else { return };
        let doubts = self.inputs.marks.silent_for(boot_now()) > PUBLISHER_SILENT_NANOS;
        if doubts == self.doubts && self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, view)) {
            return;
        }
        if doubts != self.doubts {
            self.voice.say(Word::Doubts(doubts));
        }
        let mut view = Arc::clone(view);
        (self.seen, self.doubts) = (Some(Arc::clone(&view)), doubts);
        if doubts {
            let fitness = view.fitness.worse(Fitness::Reluctant(Unfitness::StateBehind));
            view = Arc::new(LeaseView { fitness, ..LeaseView::clone(&view) });
        }
        self.node.set_view(boot_now(), self.inputs.marks.get(), view, &mut self.actions);
        self.perform();
        self.publish(boot_now(), true);
    }

    /// Takes what has arrived, up to a bound.
    fn receive(&mut self, buffer: &mut [u8]) {
        let end = boot_now().plus(RECEIVE_NANOS_MAX);
        for taken in 0..DATAGRAMS_PER_TURN_MAX {
            if taken > 0 && boot_now() >= end {
                return;
            }
            let length = match self.socket.recv_from(buffer) {
                Ok((length, _)) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing more, or an error that the next send will meet again and count.
                Err(_) => return,
            };
            let counts = &self.shared.counts;
            counts.received.fetch_add(1, Ordering::Relaxed);
            let facts = self.inputs.marks.get();
            let counter = match self.node.packet(boot_now(), facts, &buffer[..length], &mut self.actions) {
                None => None,
                Some(Dropped::Malformed) => Some(&counts.malformed),
                Some(Dropped::Stranger) => Some(&counts.strangers),
                Some(Dropped::Forged) => Some(&counts.forged),
                Some(Dropped::Replayed) => Some(&counts.replayed),
            };
            if let Some(counter) = counter {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            self.perform();
        }
    }

    /// Carries out what the protocol said, in its order.
    fn perform(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Carry { view } => self.inputs.driver.view(&view),
                Action::Prepare { vip } => self.inputs.driver.prepare(vip),
                Action::PeerReturned { .. } => self.inputs.driver.announce_again(boot_now()),
                Action::PeerGone { node } => self.inputs.driver.peer_gone(node),
                Action::Close { vip, successor, given_up } => {
                    if let Some(at) = self.held.iter().position(|(held, _)| *held == vip) {
                        let (_, gate) = self.held.swap_remove(at);
                        let ends = gate.until();
                        let driver = &mut self.inputs.driver;
                        let until = given_up.then(|| driver.finish_until(vip, successor, boot_now())).flatten();
                        match until {
                            Some(until) => gate.hand_over(boot_now(), until),
                            None => gate.close(),
                        }
                        let finishing = until.map(|until| Finishing { successor, until });
                        match driver.released(vip, finishing) {
                            Closing::Closed => self.unclosed.retain(|(unclosed, _)| *unclosed != vip),
                            Closing::ByItself => self.unclosed.push((vip, ends)),
                        }
                    }
                }
                Action::Open { vip, epoch, until, predecessor } => {
                    if let Some((_, gate)) = self.held.iter().find(|(held, _)| *held == vip) {
                        gate.hold(epoch.get(), until);
                        self.inputs.driver.renewed(vip, epoch, until);
                    } else {
                        let gate = self.inputs.gates.gate(vip);
                        gate.hold(epoch.get(), until);
                        self.held.push((vip, gate));
                        self.inputs.driver.acquired(vip, epoch, until, predecessor);
                    }
                }
                Action::Tell { release } => self.tell(release),
                Action::Send { to, bytes } => self.send(to, &bytes),
                Action::Report(transition) => {
                    self.herald.note(transition);
                    self.published_at = BootNanos::default();
                }
            }
        }
        // What was said meanwhile is carried out by now, so that the room can be kept for what comes next.
        if self.actions.is_empty() {
            self.actions = actions;
        }
    }

    /// Tells everybody that a VIP is free, unless its way in is open yet: then nobody is told, and whoever is next waits
    /// until the right ends.
    fn tell(&mut self, release: Release) {
        let now = boot_now();
        self.unclosed.retain(|(_, until)| now < *until);
        let of_vip = self.unclosed.iter().filter(|(vip, _)| *vip == release.vip);
        match of_vip.map(|(_, until)| *until).max() {
            Some(until) => {
                self.node.keep_to_itself(release.vip, until);
                self.voice.say(Word::NotClosed(release.vip));
            }
            None => {
                self.node.tell(release, &mut self.actions);
                // There is nothing else in it: what is being carried out was taken out of it.
                self.perform();
            }
        }
    }

    fn send(&self, to: NodeId, bytes: &[u8]) {
        let Some(address) = self.address(to) else { return };
        let counts = &self.shared.counts;
        match self.socket.send_to(bytes, address) {
            Ok(_) => {
                counts.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => counts.unsent(&error, boot_now()),
        }
    }

    fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.seen.as_ref()?.nodes.iter().find(|member| member.id == node).map(|member| member.address)
    }

    /// Lets readers see how things stand: what changed at once, the rest every [`STATUS_NANOS`].
    fn publish(&mut self, now: BootNanos, at_once: bool) {
        if let Some(confirmed) = self.node.confirmed()
            && self.shared.confirmed.get() != Some(confirmed)
        {
            self.shared.confirmed.set(confirmed);
            self.shared.renew.add(now, now.since(confirmed.asked_at));
        }
        if at_once || now.since(self.published_at) >= STATUS_NANOS {
            self.published_at = now;
            self.shared.status.store(Arc::new(self.node.status(now, self.inputs.marks.get())));
        }
    }

    /// Sleeps until a datagram, a wake or the deadline.
    fn wait(&mut self, nanos: u64) {
        let due = boot_now().plus(nanos.min(WAIT_NANOS_MAX));
        let poll = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds: SmallVec<[libc::pollfd; 16]> =
            smallvec![poll(self.socket.as_raw_fd()), poll(self.shared.wake_fd())];
        fds.extend(self.inputs.driver.descriptors().iter().map(|fd| poll(*fd)));
        let nanos = nanos.min(WAIT_NANOS_MAX);
        let timeout =
            libc::timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 };
        // SAFETY: both pointers are valid for the call, the count is that of the array, and no signal
        // mask is given.
        let ready =
            unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &raw const timeout, std::ptr::null()) };
        // Whatever comes from now on, or was left for want of time, is told by the next one at once.
        self.arrived = ready < 0 || fds[0].revents != 0;
        let now = boot_now();
        // A turn that does not sleep says nothing about how late sleepers are.
        if nanos > 0 && now >= due {
            self.shared.wake_late.add(now, now.since(due));
        }
        if fds[1].revents != 0 {
            self.shared.woken();
        }
    }
}
