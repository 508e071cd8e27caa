//! How many connections to a backend a node may have open, and who waits in line for one.
//!
//! Not here: the connections, and what a place in the line brings ([`super::Queued`]).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    task::Waker,
};

/// A backend's permits, shared by the workers of a node.
///
/// All are counted, also while there is no limit, so that one that comes finds out what is open. Whoever waits in
/// line waits because the limit is reached.
#[derive(Debug, Default)]
pub struct Permits {
    pub(super) line: Mutex<Line>,
    /// `connections_max` by the newest plan that a worker took in; zero means no limit.
    pub(super) limit: AtomicU32,
    /// Permits in use. With a limit they are taken under the lock.
    pub(super) open: AtomicU32,
    /// How many wait; read without the lock when a connection becomes idle or is closed.
    pub(super) waiting: AtomicU32,
    /// Idle connections of all workers, counted while there is a limit.
    pub(super) idle: AtomicU32,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) worker: usize,
    pub(super) state: AtomicU8,
    pub(super) waker: Waker,
}

impl Waiter {
    pub(super) fn waits(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }
}

pub(super) const WAITING: u8 = 0;
/// A permit was handed over.
pub(super) const GRANTED: u8 = 1;
/// An idle connection of its worker is promised to it.
pub(super) const PROMISED: u8 = 2;
/// It waits no more.
pub(super) const LEFT: u8 = 3;

/// Who is first in line for a connection that idles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Nobody waits.
    Nobody,
    /// A request of the same worker. It is told, and has left the line.
    Here,
    /// One of another worker.
    Elsewhere,
}

/// Who waits, in order. The first is always one that does.
///
/// A request may wait in the lines of many backends and leaves all when it is served. It is not looked for in each, but passed
/// over when its turn comes.
#[derive(Debug, Default)]
pub(super) struct Line(pub(super) VecDeque<Arc<Waiter>>);

/// Those who left are swept out of a line once they are more than this and more than those who wait, which takes few steps for
/// each of them. Arbitrary, and harmless.
pub(super) const LEFT_MAX: usize = 16;

impl Line {
    pub(super) fn first(&self) -> Option<&Arc<Waiter>> {
        self.0.front()
    }

    pub(super) fn pop(&mut self) -> Option<Arc<Waiter>> {
        let first = self.0.pop_front();
        self.pass_over();
        first
    }

    /// Somebody left; so many wait.
    pub(super) fn tidy(&mut self, waiting: usize) {
        self.pass_over();
        if self.0.len() > 2 * waiting.max(LEFT_MAX) {
            self.0.retain(|waiter| waiter.waits());
        }
    }

    pub(super) fn pass_over(&mut self) {
        while self.first().is_some_and(|waiter| !waiter.waits()) {
            self.0.pop_front();
        }
    }
}

impl Permits {
    pub(super) fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_limit(&self, limit: u32) {
        if self.limit.swap(limit, Ordering::SeqCst) != limit {
            self.grant(&mut self.lock());
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        limit == 0 || self.open.load(Ordering::SeqCst) < limit
    }

    /// More are open than a limit that was lowered allows.
    pub(super) fn is_exceeded(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        limit > 0 && self.open.load(Ordering::SeqCst) > limit
    }

    /// A permit, unless all are in use or somebody waits already.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        if self.limit.load(Ordering::SeqCst) > 0 {
            let line = self.lock();
            if !self.has_room() || line.first().is_some() {
                return None;
            }
            self.open.fetch_add(1, Ordering::SeqCst);
        } else {
            self.open.fetch_add(1, Ordering::SeqCst);
        }
        Some(Permit(self.clone()))
    }

    pub(super) fn release(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
        // Whoever joins the line tells first that it waits and looks for room then.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant(&mut self.lock());
        }
    }

    /// Gives the permits that are free to the first in line.
    pub(super) fn grant(&self, line: &mut Line) {
        while self.has_room()
            && let Some(next) = line.pop()
        {
            self.open.fetch_add(1, Ordering::SeqCst);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            next.state.store(GRANTED, Ordering::Release);
            next.waker.wake_by_ref();
        }
    }

    /// Puts a waiter into the line, at the end that `push` is for.
    pub(super) fn join(&self, waiter: &Arc<Waiter>, push: fn(&mut VecDeque<Arc<Waiter>>, Arc<Waiter>)) {
        let mut line = self.lock();
        waiter.state.store(WAITING, Ordering::Release);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        push(&mut line.0, waiter.clone());
        self.grant(&mut line);
    }

    /// For whom a connection of `worker` idles.
    pub(super) fn first_for_idle(&self, worker: usize) -> First {
        let mut line = self.lock();
        match line.first() {
            Some(next) if next.worker == worker => {
                next.state.store(PROMISED, Ordering::Release);
                next.waker.wake_by_ref();
                line.pop();
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                First::Here
            }
            Some(_) => First::Elsewhere,
            None => First::Nobody,
        }
    }
}

/// The right to have one connection open. Given back when dropped.
#[derive(Debug)]
pub struct Permit(pub(super) Arc<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}
