//! One coarse tick a worker over the deadlines of all its connections: setting one is a store, and no timer is made for
//! a command. A deadline never passes early, and late by at most two ticks.
//!
//! Not here: which deadline applies when ([`crate::serve`]).

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::Waker,
    time::Duration,
};

/// Time between ticks: shorter than any sensible timeout, long enough to cost nothing.
pub const TICK: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;

/// The deadlines of a worker's connections.
#[derive(Debug)]
pub struct Deadlines {
    now_ms: Cell<u64>,
    all: RefCell<Vec<Weak<Deadline>>>,
}

impl Deadlines {
    /// None yet; the clock stands at `now_ms`.
    pub fn new(now_ms: u64) -> Rc<Self> {
        Rc::new(Self { now_ms: Cell::new(now_ms), all: RefCell::default() })
    }

    /// One for a task that `waker` wakes.
    pub fn add(self: &Rc<Self>, waker: Waker) -> Rc<Deadline> {
        let deadline = Rc::new(Deadline { clock: self.clone(), at_ms: Cell::new(NEVER), waker });
        self.all.borrow_mut().push(Rc::downgrade(&deadline));
        deadline
    }

    /// Moves the clock on and wakes the tasks whose deadline has passed.
    pub fn advance(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        self.all.borrow_mut().retain(|deadline| {
            let Some(deadline) = deadline.upgrade() else { return false };
            if deadline.is_over() {
                deadline.waker.wake_by_ref();
            }
            true
        });
    }

    /// Wakes every task, to look at something other than its deadline.
    pub fn wake_all(&self) {
        for deadline in self.all.borrow().iter().filter_map(Weak::upgrade) {
            deadline.waker.wake_by_ref();
        }
    }

    /// Milliseconds on the worker's clock, as of the last tick.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
}

/// One connection's deadline.
#[derive(Debug)]
pub struct Deadline {
    clock: Rc<Deadlines>,
    at_ms: Cell<u64>,
    waker: Waker,
}

impl Deadline {
    /// Passes once `after` has passed from now; never if that is zero. The last tick may be a whole tick ago, so one is added.
    pub fn arm(&self, after: Duration) {
        let after_ms = u64::try_from((after + TICK).as_millis()).unwrap_or(NEVER);
        self.at_ms.set(if after.is_zero() { NEVER } else { self.clock.now_ms().saturating_add(after_ms) });
    }

    /// Whether it has passed.
    pub fn is_over(&self) -> bool {
        self.at_ms.get() <= self.clock.now_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_never_pass_early() {
        let deadlines = Deadlines::new(1000);
        let deadline = deadlines.add(Waker::noop().clone());
        assert!(!deadline.is_over());
        deadline.arm(Duration::from_millis(250));
        for (now, over) in [(1100, false), (1250, false), (1349, false), (1350, true), (1450, true)] {
            deadlines.advance(now);
            assert_eq!(deadline.is_over(), over, "{now}");
        }
        deadline.arm(Duration::ZERO);
        deadlines.advance(u64::MAX - 1);
        assert!(!deadline.is_over());
    }

    #[test]
    fn those_of_connections_that_ended_are_forgotten() {
        let deadlines = Deadlines::new(0);
        drop(deadlines.add(Waker::noop().clone()));
        deadlines.advance(1);
        assert!(deadlines.all.borrow().is_empty());
    }
}
