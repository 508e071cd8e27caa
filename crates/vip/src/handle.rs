//! What the rest of the process may ask of the lease thread.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use arc_swap::ArcSwap;
use ballast_clock::boot_now;
use ballast_core::{
    cluster::Ownership,
    lease::{Confirmed, VipStatus},
    time::BootNanos,
};

use crate::{
    Gates,
    jitter::{Jitter, Window},
    marks::ConfirmedCell,
};

/// What the thread is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Run = 0,
    Drain = 1,
    /// Close all gates, tell everybody, end.
    Stop = 2,
    /// End, as if the process had died.
    Crash = 3,
}

/// What the thread shares with its handles.
pub(crate) struct Shared {
    pub wish: AtomicU8,
    pub drained: AtomicBool,
    pub status: ArcSwap<Vec<VipStatus>>,
    pub confirmed: Arc<ConfirmedCell>,
    pub gates: Arc<Gates>,
    pub counts: Counts,
    pub wake_late: Window,
    pub renew: Window,
    wake: File,
}

/// Counters of the thread; see [`Counters`].
#[derive(Default)]
pub(crate) struct Counts {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub send_errors: AtomicU64,
    /// The kernel's last reason for one of them.
    unsent_errno: AtomicI32,
    /// When that was.
    unsent_at: AtomicU64,
    pub malformed: AtomicU64,
    pub strangers: AtomicU64,
    pub forged: AtomicU64,
    pub replayed: AtomicU64,
}

impl Counts {
    /// The kernel took no datagram. Only the thread calls it.
    pub fn unsent(&self, error: &io::Error, now: BootNanos) {
        self.unsent_errno.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
        self.unsent_at.store(now.get(), Ordering::Relaxed);
        // Last, and with what is above: who sees the count sees the reason.
        self.send_errors.fetch_add(1, Ordering::Release);
    }
}

/// For how long, in nanoseconds, a datagram that the kernel did not take and a round that a majority answered are news. A
/// node without a majority asks several times in each lease, so more of them follow within it.
const RECENT_NANOS: u64 = 1_000_000_000;

/// How many datagrams came and went, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received, believed or not.
    pub received: u64,
    /// Handed to the kernel.
    pub sent: u64,
    /// Not taken by the kernel.
    pub send_errors: u64,
    /// Dropped: not a datagram of this protocol and version.
    pub malformed: u64,
    /// Dropped: from a node that is not a member.
    pub strangers: u64,
    /// Dropped: not authentic.
    pub forged: u64,
    /// Dropped: seen before.
    pub replayed: u64,
}

impl Shared {
    pub(crate) fn new(gates: Arc<Gates>) -> io::Result<Self> {
        // SAFETY: takes numbers only; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            wish: AtomicU8::new(Wish::Run as u8),
            drained: AtomicBool::new(false),
            status: ArcSwap::default(),
            confirmed: Arc::default(),
            gates,
            counts: Counts::default(),
            wake_late: Window::default(),
            renew: Window::default(),
            // SAFETY: a new descriptor that nobody else owns.
            wake: unsafe { File::from_raw_fd(fd) },
        })
    }

    pub(crate) fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(crate) fn woken(&self) {
        let mut counter = [0; 8];
        // Empty when somebody else's wake was read already: nothing to do then.
        let _ = (&self.wake).read(&mut counter);
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = (&self.wake).write(&1_u64.to_ne_bytes());
    }
}

/// Talks to the lease thread. Dropping it stops the thread in an orderly way.
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) thread: Option<JoinHandle<()>>,
    /// Says what the thread had to say.
    pub(crate) speaker: Option<JoinHandle<()>>,
    /// Tells of gains and losses.
    pub(crate) teller: Option<JoinHandle<()>>,
}

impl Handle {
    /// How every VIP stands: what changed hands here at once, the rest up to a quarter of a second old, and the end of
    /// this node's own rights as it is now. A right may be over sooner than that, so one read from old news would seem to have
    /// ended while it was being renewed.
    pub fn status(&self) -> Vec<VipStatus> {
        let mut statuses = Vec::clone(&self.shared.status.load());
        for status in statuses.iter_mut().filter(|status| status.until != BootNanos::default()) {
            status.until = self.shared.gates.gate(status.vip).until();
        }
        statuses
    }

    /// The newest round of questions that a majority of voters answered: this node's binding tables
    /// are as fresh as `asked_at` once it has applied up to `index`.
    pub fn confirmed(&self) -> Option<Confirmed> {
        self.shared.confirmed.get()
    }

    /// How late the thread was over the last minute.
    pub fn jitter(&self) -> Jitter {
        let now = boot_now();
        Jitter { wake_late: self.shared.wake_late.figures(now), renew: self.shared.renew.figures(now) }
    }

    /// Where [`Handle::confirmed`] is published, for readers on the path of a request.
    pub fn confirmed_cell(&self) -> Arc<ConfirmedCell> {
        Arc::clone(&self.shared.confirmed)
    }

    /// The gates that the thread opens and closes.
    pub fn gates(&self) -> Arc<Gates> {
        Arc::clone(&self.shared.gates)
    }

    /// Makes the thread look at the view at once. Call it after publishing one; without it the
    /// thread notices with its next renewal.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Offers every VIP to other nodes, gives them up, and asks for none any more. Returns at once;
    /// [`Handle::drained`] says when it is done, which takes at most about a lease.
    pub fn drain(&self) {
        self.wish(Wish::Drain);
    }

    /// Whether a drain was asked for and nothing is held any more.
    pub fn drained(&self) -> bool {
        self.shared.drained.load(Ordering::Acquire)
    }

    /// Whether the thread still runs. If it ends by itself that is a bug; gates close by themselves.
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Datagram counters.
    pub fn counters(&self) -> Counters {
        let counts = &self.shared.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            received: read(&counts.received),
            sent: read(&counts.sent),
            send_errors: read(&counts.send_errors),
            malformed: read(&counts.malformed),
            strangers: read(&counts.strangers),
            forged: read(&counts.forged),
            replayed: read(&counts.replayed),
        }
    }

    /// Why the kernel does not take this node's datagrams, when it refused one just now and no majority was reached
    /// meanwhile: a firewall of this machine perhaps, or a route that is missing. One that keeps single nodes from being
    /// reached, while a majority is, is counted only.
    pub fn unsent(&self) -> Option<io::Error> {
        self.unsent_at(boot_now())
    }

    fn unsent_at(&self, now: BootNanos) -> Option<io::Error> {
        let counts = &self.shared.counts;
        let some = counts.send_errors.load(Ordering::Acquire) > 0;
        let recent = |at: BootNanos| now.since(at) < RECENT_NANOS;
        let answered = self.confirmed().is_some_and(|round| recent(round.asked_at));
        let refused = some && recent(BootNanos::new(counts.unsent_at.load(Ordering::Relaxed)));
        (refused && !answered).then(|| io::Error::from_raw_os_error(counts.unsent_errno.load(Ordering::Relaxed)))
    }

    /// Ends the thread as a crash would: nothing is told, gates run out by themselves.
    pub fn crash(self) {
        self.wish(Wish::Crash);
    }

    fn wish(&self, wish: Wish) {
        self.shared.wish.fetch_max(wish as u8, Ordering::AcqRel);
        self.shared.wake();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.wish(Wish::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the lease thread had panicked");
        }
        // It ends when all is said, and its only failure is one of the log.
        if let Some(speaker) = self.speaker.take() {
            let _ = speaker.join();
        }
        // Likewise, and its only failure is one of who is told.
        if let Some(teller) = self.teller.take() {
            let _ = teller.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{
        ids::{LogIndex, NodeId, VipId},
        lease::{Epoch, Fitness, PlacementReason},
    };

    use super::*;

    #[test]
    fn a_right_that_was_renewed_since_the_last_news_has_not_ended() {
        let (held, other) = (VipId::new(1), VipId::new(2));
        let status = |vip, until| VipStatus {
            vip,
            holder: Some(NodeId::new(1)),
            epoch: Epoch::new(7),
            until: BootNanos::new(until),
            rank: None,
            best: None,
            reason: PlacementReason::Stays,
            fitness: Fitness::Fit,
            why: "",
            fresh_as_of: None,
        };
        let shared = Arc::new(Shared::new(Arc::new(Gates::new())).expect("a descriptor is free"));
        let handle = Handle { shared: Arc::clone(&shared), thread: None, speaker: None, teller: None };
        shared.status.store(Arc::new(vec![status(held, 100), status(other, 0)]));
        let ends = || handle.status().iter().map(|status| status.until.get()).collect::<Vec<_>>();
        shared.gates.gate(held).hold(7, BootNanos::new(300));
        assert_eq!(ends(), [300, 0]);
        shared.gates.gate(held).close();
        assert_eq!(ends(), [0, 0], "nor does one that was given up last");
    }

    #[test]
    fn a_datagram_that_was_refused_is_told_while_it_keeps_this_node_from_a_majority() {
        let shared = Arc::new(Shared::new(Arc::new(Gates::new())).expect("a descriptor is free"));
        let handle = Handle { shared: Arc::clone(&shared), thread: None, speaker: None, teller: None };
        let at = |millis: u64| BootNanos::new(millis * 1_000_000);
        let unsent = |millis| handle.unsent_at(at(millis)).and_then(|error| error.raw_os_error());
        assert_eq!(unsent(10), None);
        shared.counts.unsent(&io::Error::from_raw_os_error(libc::EPERM), at(10));
        assert_eq!((unsent(10), unsent(1009), unsent(1010)), (Some(libc::EPERM), Some(libc::EPERM), None));
        // A majority answers, so it is about a single node.
        shared.confirmed.set(Confirmed { asked_at: at(2000), index: LogIndex::new(1) });
        shared.counts.unsent(&io::Error::from_raw_os_error(libc::ENETUNREACH), at(2010));
        assert_eq!(unsent(2500), None);
        shared.counts.unsent(&io::Error::from_raw_os_error(libc::ENETUNREACH), at(3000));
        assert_eq!((unsent(3000), handle.counters().send_errors), (Some(libc::ENETUNREACH), 3));
    }
}
