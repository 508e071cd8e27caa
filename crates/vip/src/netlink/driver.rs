//! The half on the lease thread: deadlines, announcements, and what arrives while a VIP changes hands.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, atomic::Ordering, mpsc::Sender},
};

use ballast_clock::boot_now;
use ballast_core::{
    ids::{NodeId, VipId},
    lease::{Epoch, LeaseView},
    time::BootNanos,
};

use super::{
    NetlinkError,
    capture::Capture,
    places::{Opens, Place, Places, Shared, mac_of},
};
use crate::{
    Closing, Driver, Finishing,
    fence::{Deadlines, FenceLevel},
    net::{Announcement, Announcer, Mac, Sender as FrameSender},
};

/// VIPs are announced without allocation up to this many addresses.
const ADDRESSES_EXPECTED: usize = 512;

/// The owner before, and until when connections go on that clients have with it.
#[derive(Clone, Copy)]
struct Predecessor {
    node: NodeId,
    mac: Mac,
    until: BootNanos,
}

/// Carries out VIPs as real addresses. See the module's documentation.
pub struct NetlinkDriver {
    shared: Arc<Shared>,
    level: FenceLevel,
    deadlines: Deadlines,
    announcer: Announcer,
    frames: FrameSender,
    due: Vec<Announcement>,
    view: Option<Arc<LeaseView>>,
    places: Arc<Places>,
    opens: Arc<Opens>,
    held: BTreeMap<VipId, BootNanos>,
    /// What was handed over, until clients must have finished here.
    finishing: BTreeMap<VipId, BootNanos>,
    /// Who handed over what is held here, or was until it was handed on, where segments of connections that this node does not
    /// know are sent on to it.
    predecessors: BTreeMap<VipId, Predecessor>,
    /// VIPs whose deadlines would open an address too many; they stay as they are.
    outdated: BTreeSet<VipId>,
    /// VIPs that are held and were not announced from where they are now: they are, or were just now, outdated.
    unannounced: BTreeSet<VipId>,
    announced: u64,
    captures: Vec<Capture>,
    spent: Sender<Capture>,
    descriptors: [RawFd; 1],
}

impl NetlinkDriver {
    pub(super) fn new(
        shared: Arc<Shared>,
        level: FenceLevel,
        deadlines: Deadlines,
        spent: Sender<Capture>,
    ) -> Result<Self, NetlinkError> {
        Ok(Self {
            descriptors: [shared.to_driver.as_raw_fd()],
            level,
            deadlines,
            announcer: Announcer::new(ADDRESSES_EXPECTED),
            frames: FrameSender::open()?,
            due: Vec::with_capacity(ADDRESSES_EXPECTED),
            view: None,
            places: shared.places.load_full(),
            opens: shared.opens.load_full(),
            held: BTreeMap::new(),
            finishing: BTreeMap::new(),
            predecessors: BTreeMap::new(),
            outdated: BTreeSet::new(),
            unannounced: BTreeSet::new(),
            announced: 0,
            captures: Vec::new(),
            spent,
            shared,
        })
    }

    fn publish_held(&mut self) {
        let now = boot_now();
        self.finishing.retain(|_, until| *until > now);
        self.predecessors.retain(|_, predecessor| predecessor.until > now);
        self.shared.finishing.store(Arc::new(self.finishing.clone()));
        self.shared.held.store(Arc::new(self.held.keys().copied().collect()));
        self.shared.to_keeper.wake();
    }

    /// Opens what is held where it has come to now: an interface may have come back with another index.
    fn take_places(&mut self) {
        let (places, opens) = (self.shared.places.load_full(), self.shared.opens.load_full());
        if Arc::ptr_eq(&places, &self.places) && Arc::ptr_eq(&opens, &self.opens) {
            return;
        }
        let before = std::mem::replace(&mut self.places, places);
        self.opens = opens;
        self.look_what_waits();
        let moved = self.held.keys().filter(|vip| self.places.get(*vip) != before.get(*vip));
        self.unannounced.extend(moved);
        for (vip, until) in self.held.clone() {
            self.open(vip, until);
        }
    }

    /// Which deadlines have to stay as they are; since when there are such is told to whoever asks how the keeper gets on.
    fn look_what_waits(&mut self) {
        self.outdated = self.shared.outdated();
        self.shared.wait(!self.outdated.is_empty(), boot_now());
    }

    /// Opens a VIP that is held until then, and announces it if that was not done where it is now; unless its deadline has to
    /// stay as it is, and then both are done when the keeper has come to it.
    fn open(&mut self, vip: VipId, until: BootNanos) {
        if self.outdated.contains(&vip) {
            return;
        }
        self.deadlines.set(vip, until);
        if !self.unannounced.remove(&vip) {
            self.announcer.renew(vip, until);
            return;
        }
        match self.places.get(&vip) {
            Some(Place { interface, mac, addresses }) => {
                self.announcer.hold(boot_now(), vip, (*interface, *mac), addresses, until);
            }
            None => self.announcer.stop(vip),
        }
    }

    /// Begins to keep what arrives for `vip`, so that it can be sent on to the successor.
    fn capture(&mut self, vip: VipId, successor: NodeId, now: BootNanos) {
        let Some(view) = &self.view else { return };
        let (Some(place), Some(to)) = (self.places.get(&vip), mac_of(view, vip, successor)) else { return };
        let running = self.captures.iter().position(|capture| capture.index() == place.interface);
        let at = match running {
            Some(at) => at,
            None => {
                // Without it a SYN in the gap is lost, and its client asks again.
                let tap = self.shared.taps.try_lock().and_then(|mut taps| taps.remove(&place.interface));
                let Some(Ok(capture)) = tap.map(Capture::begin) else { return };
                self.captures.push(capture);
                self.captures.len() - 1
            }
        };
        self.captures[at].keep(vip, place.addresses.clone(), to, now);
    }

    fn announce(&mut self, now: BootNanos) {
        self.due.clear();
        self.announcer.due(now, &mut self.due);
        let counts = &self.shared.counts;
        for announcement in &self.due {
            if boot_now() >= announcement.until {
                continue;
            }
            let counter = match self.frames.send(announcement.interface, &announcement.frame) {
                Ok(()) => &counts.announced,
                Err(_) => &counts.announce_errors,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn replay(&mut self, now: BootNanos) -> Option<BootNanos> {
        let mut next: Option<BootNanos> = None;
        let mut at = 0;
        while at < self.captures.len() {
            match self.captures[at].turn(now) {
                Some(due) => {
                    next = Some(next.map_or(due, |next| next.min(due)));
                    at += 1;
                }
                None => {
                    // Closing it waits for the kernel; the keeper does that.
                    let _ = self.spent.send(self.captures.swap_remove(at));
                    self.shared.to_keeper.wake();
                }
            }
        }
        next
    }
}

impl Driver for NetlinkDriver {
    fn view(&mut self, view: &Arc<LeaseView>) {
        self.view = Some(Arc::clone(view));
        self.shared.take_view(view);
        self.look_what_waits();
        self.shared.to_keeper.wake();
    }

    fn prepare(&mut self, vip: VipId) {
        // Whoever is about to own the VIP sends nothing on, so that what is sent on always ends somewhere.
        self.deadlines.forward_nothing(vip);
        self.predecessors.remove(&vip);
        for capture in &mut self.captures {
            capture.forget(vip);
        }
    }

    fn acquired(&mut self, vip: VipId, _epoch: Epoch, until: BootNanos, predecessor: Option<NodeId>) {
        let now = boot_now();
        self.prepare(vip);
        let finishing = self.view.as_ref().zip(predecessor).and_then(|(view, node)| {
            let known = view.vips.iter().find(|known| known.id == vip)?;
            Some(Predecessor { node, mac: mac_of(view, vip, node)?, until: now.plus(known.finish) })
        });
        if let Some(predecessor) = finishing {
            self.deadlines.forward_established(vip, predecessor.mac.bytes(), predecessor.until);
            self.predecessors.insert(vip, predecessor);
        }
        self.held.insert(vip, until);
        self.unannounced.insert(vip);
        self.open(vip, until);
        self.publish_held();
    }

    fn renewed(&mut self, vip: VipId, _epoch: Epoch, until: BootNanos) {
        self.held.insert(vip, until);
        self.open(vip, until);
    }

    fn finish_until(&self, vip: VipId, successor: Option<NodeId>, now: BootNanos) -> Option<BootNanos> {
        let view = self.view.as_ref().filter(|_| self.level == FenceLevel::Ebpf)?;
        let known = view.vips.iter().find(|known| known.id == vip)?;
        self.places.get(&vip)?;
        if let Some(successor) = successor {
            mac_of(view, vip, successor)?;
        }
        Some(now.plus(known.finish))
    }

    fn released(&mut self, vip: VipId, finishing: Option<Finishing>) -> Closing {
        let successor_mac = finishing.and_then(|Finishing { successor, until }| {
            let successor = successor?;
            self.capture(vip, successor, boot_now());
            let mac = mac_of(self.view.as_ref()?, vip, successor)?;
            Some((mac, until))
        });
        if let Some(Finishing { until, .. }) = finishing {
            self.deadlines.keep_established(vip, until);
            self.finishing.insert(vip, until);
        } else {
            self.finishing.remove(&vip);
        }
        let closing = self.deadlines.close(vip);
        if let Some((mac, until)) = successor_mac {
            self.deadlines.forward_new(vip, mac.bytes(), until);
            // The successor asks this node for what it does not know, and this node the one before.
            if let Some(before) = self.predecessors.get(&vip) {
                self.deadlines.forward_established(vip, before.mac.bytes(), before.until);
            }
        } else {
            self.predecessors.remove(&vip);
        }
        self.deadlines.flush();
        self.announcer.stop(vip);
        self.held.remove(&vip);
        self.unannounced.remove(&vip);
        self.publish_held();
        closing
    }

    fn turn(&mut self, now: BootNanos) -> Option<BootNanos> {
        if self.shared.to_driver.woken() {
            self.take_places();
            let announce = self.shared.announce.load(Ordering::Acquire);
            if std::mem::replace(&mut self.announced, announce) != announce {
                self.announcer.announce_all_again(now, None);
            }
            if !self.shared.claimed.load().is_empty() {
                for address in self.shared.claimed.swap(Arc::default()).iter() {
                    self.announcer.once(now, *address);
                }
            }
        }
        // The fence first: an announcement that leaves before it opens brings clients to a closed door.
        self.deadlines.flush();
        self.announce(now);
        let replay = self.replay(now);
        [replay, self.announcer.next_deadline()].into_iter().flatten().min()
    }

    fn announce_again(&mut self, now: BootNanos) {
        self.announcer.announce_all_again(now, None);
    }

    /// This node's kernel resets what it does not know, instead of sending it to a machine that is not there.
    fn peer_gone(&mut self, node: NodeId) {
        let Self { predecessors, deadlines, .. } = self;
        predecessors.retain(|vip, predecessor| {
            if predecessor.node == node {
                deadlines.forward_established(*vip, predecessor.mac.bytes(), BootNanos::default());
            }
            predecessor.node != node
        });
    }

    fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }
}
