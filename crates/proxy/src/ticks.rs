//! Every wait has an end: one coarse tick a worker over the deadlines of all its connections.
//!
//! A connection has one slot for its whole life. Setting a deadline is one store; no timer is
//! made or cancelled for a request. The tick walks the slots, which lie side by side: ten thousand
//! connections cost it some microseconds ten times a second.
//!
//! A deadline never fires early, and late by at most two ticks.
//!
//! Not here: which deadline applies when ([`crate::http`]).

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

/// Time between ticks: shorter than any sensible timeout, long enough to cost nothing.
pub const TICK: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;
const FIRED: u64 = 0;

/// The deadlines of a worker's connections.
#[derive(Debug)]
pub struct Ticks {
    now_ms: Cell<u64>,
    deadlines: RefCell<Vec<u64>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

/// A deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Ticks {
    /// No slots yet; the clock stands at `now_ms`.
    pub fn new(now_ms: u64) -> Rc<Self> {
        Rc::new(Self {
            now_ms: Cell::new(now_ms),
            deadlines: RefCell::default(),
            wakers: RefCell::default(),
            free: RefCell::default(),
        })
    }

    /// A slot for a task that `waker` wakes.
    pub fn timer(self: &Rc<Self>, waker: Waker) -> Timer {
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.deadlines.borrow_mut().push(NEVER);
            self.wakers.borrow_mut().push(None);
            self.deadlines.borrow().len() - 1
        });
        self.deadlines.borrow_mut()[slot] = NEVER;
        self.wakers.borrow_mut()[slot] = Some(waker);
        Timer { ticks: self.clone(), slot }
    }

    /// Moves the clock on and wakes the tasks whose deadline has passed.
    pub fn advance(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        let wakers = self.wakers.borrow();
        for (slot, deadline) in self.deadlines.borrow_mut().iter_mut().enumerate() {
            if *deadline <= now_ms && *deadline != FIRED {
                *deadline = FIRED;
                if let Some(waker) = &wakers[slot] {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Wakes every task, to look at something other than its deadline.
    pub fn wake_all(&self) {
        self.wakers.borrow().iter().flatten().for_each(Waker::wake_by_ref);
    }

    /// Milliseconds on the worker's clock, as of the last tick.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
}

/// One connection's deadline.
#[derive(Debug)]
pub struct Timer {
    ticks: Rc<Ticks>,
    slot: usize,
}

impl Timer {
    /// Fires once `after_ms` have passed from now.
    pub fn arm(&self, after_ms: u64) {
        self.arm_at(self.after(after_ms));
    }

    /// Fires at an instant that [`Self::after`] gave.
    pub fn arm_at(&self, at_ms: u64) {
        self.ticks.deadlines.borrow_mut()[self.slot] = at_ms.max(FIRED + 1);
    }

    /// The instant `after_ms` from now. The last tick may be a whole tick ago, so one is added.
    pub fn after(&self, after_ms: u64) -> u64 {
        self.ticks.now_ms().saturating_add(after_ms).saturating_add(TICK.as_millis() as u64).min(NEVER - 1)
    }

    /// Never fires.
    pub fn disarm(&self) {
        self.ticks.deadlines.borrow_mut()[self.slot] = NEVER;
    }

    /// Whether it has fired.
    pub fn is_over(&self) -> bool {
        self.ticks.deadlines.borrow()[self.slot] == FIRED
    }

    /// Milliseconds on the worker's clock, as of the last tick.
    pub fn now_ms(&self) -> u64 {
        self.ticks.now_ms()
    }

    /// Waits for `future`, at most `after_ms`. To be used in the task that the timer wakes.
    ///
    /// # Errors
    /// [`Elapsed`]; the future is dropped.
    pub async fn limit<F: Future>(&self, after_ms: u64, future: F) -> Result<F::Output, Elapsed> {
        self.arm(after_ms);
        let mut future = pin!(future);
        let result = std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if self.is_over() => Poll::Ready(Err(Elapsed)),
            Poll::Pending => Poll::Pending,
        })
        .await;
        self.disarm();
        result
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
        self.ticks.wakers.borrow_mut()[self.slot] = None;
        self.ticks.free.borrow_mut().push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn deadlines_fire_once_and_never_early() {
        let (ticks, count) = (Ticks::new(1000), Arc::new(Count::default()));
        let timer = ticks.timer(count.clone().into());
        timer.arm(250);
        for (now, over) in [(1100, false), (1250, false), (1300, false), (1350, true), (1450, true)] {
            ticks.advance(now);
            assert_eq!(timer.is_over(), over, "{now}");
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        timer.arm(100);
        assert!(!timer.is_over());
        timer.disarm();
        ticks.advance(u64::MAX - 1);
        assert!(!timer.is_over());
    }

    #[test]
    fn slots_are_used_again() {
        let ticks = Ticks::new(0);
        let first = ticks.timer(Waker::noop().clone());
        first.arm(0);
        let slot = first.slot;
        drop(first);
        let second = ticks.timer(Waker::noop().clone());
        assert_eq!(second.slot, slot);
        ticks.advance(1_000_000);
        assert!(!second.is_over());
    }
}
