//! Tells the rest of the process of gains and losses of VIPs.
//!
//! Whoever is told may take locks that other threads hold, those of an async runtime for instance, and a thread that was
//! taken off its core while it holds one keeps all who want it waiting. The lease thread waits for nothing, least of all
//! in the middle of a take-over. So it collects what happened and puts it down once a turn, where a thread that may wait
//! picks it up. When that one is just picking up, it is put down in the next turn: nothing is lost, and nobody is waited
//! for.
//!
//! Not here: what the lease thread has to say in the log ([`crate::voice`]).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

use ballast_core::lease::Transition;
use parking_lot::Mutex;

/// Called with every gain and loss, in order, on a thread of its own. What comes meanwhile waits.
pub type EventSink = Box<dyn FnMut(Transition) + Send>;

#[derive(Default)]
struct Shelf {
    transitions: Mutex<Vec<Transition>>,
    /// Nothing is put down any more.
    ended: AtomicBool,
}

/// The half on the lease thread. Never waits, but when it is dropped.
pub(crate) struct Herald {
    collected: Vec<Transition>,
    shelf: Arc<Shelf>,
    teller: Thread,
}

impl Herald {
    /// Starts the thread that tells. It ends when the herald is gone and all is told.
    pub fn start(tell: EventSink) -> io::Result<(Self, JoinHandle<()>)> {
        let shelf = Arc::<Shelf>::default();
        let told = Arc::clone(&shelf);
        let thread = thread::Builder::new().name("ballast-herald".to_owned()).spawn(move || pick_up(&told, tell))?;
        Ok((Self { collected: Vec::new(), shelf, teller: thread.thread().clone() }, thread))
    }

    /// Collects what happened.
    pub fn note(&mut self, transition: Transition) {
        self.collected.push(transition);
    }

    /// Puts down what was collected, unless it is being picked up.
    pub fn put_down(&mut self) {
        if self.collected.is_empty() {
            return;
        }
        if let Some(mut shelf) = self.shelf.transitions.try_lock() {
            shelf.append(&mut self.collected);
            drop(shelf);
            self.teller.unpark();
        }
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.shelf.transitions.lock().append(&mut self.collected);
        self.shelf.ended.store(true, Ordering::Release);
        self.teller.unpark();
    }
}

fn pick_up(shelf: &Shelf, mut tell: EventSink) {
    loop {
        // Asked first, so that what was put down before the end is picked up after it.
        let ended = shelf.ended.load(Ordering::Acquire);
        let transitions = std::mem::take(&mut *shelf.transitions.lock());
        let none = transitions.is_empty();
        transitions.into_iter().for_each(&mut tell);
        match (none, ended) {
            (true, true) => return,
            // Goes on at once if something was put down since.
            (true, false) => thread::park(),
            (false, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use ballast_core::{
        ids::VipId,
        lease::{Change, Epoch, GainCause},
        time::BootNanos,
    };

    use super::*;

    fn gain(epoch: u64) -> Transition {
        let change = Change::Gained(GainCause::Vacant);
        Transition { vip: VipId::new(1), epoch: Epoch::new(epoch), at: BootNanos::default(), change }
    }

    #[test]
    fn all_is_told_in_order_however_long_the_telling_takes() {
        let (heard, told) = channel();
        let (go_on, wait) = channel::<()>();
        let (mut herald, thread) = Herald::start(Box::new(move |transition: Transition| {
            heard.send(transition.epoch.get()).expect("the test listens");
            // As a lock that somebody has who does not run. Free for good when the test is over.
            let _ = wait.recv();
        }))
        .expect("starts");
        herald.put_down();
        herald.note(gain(1));
        herald.put_down();
        assert_eq!(told.recv(), Ok(1));
        for epoch in 2..200 {
            herald.note(gain(epoch));
            herald.put_down();
        }
        assert!(herald.collected.is_empty(), "nobody is picking up while one is told");
        herald.note(gain(200));
        drop((herald, go_on));
        thread.join().expect("ends");
        assert_eq!(told.iter().collect::<Vec<_>>(), (2..=200).collect::<Vec<_>>());
    }

    #[test]
    fn what_finds_the_shelf_taken_waits_for_the_next_turn() {
        let (heard, told) = channel();
        let (mut herald, thread) =
            Herald::start(Box::new(move |transition: Transition| heard.send(transition.epoch.get()).expect("heard")))
                .expect("starts");
        let shelf = Arc::clone(&herald.shelf);
        let taken = shelf.transitions.lock();
        herald.note(gain(1));
        herald.put_down();
        assert_eq!(herald.collected.len(), 1);
        drop(taken);
        herald.note(gain(2));
        while !herald.collected.is_empty() {
            herald.put_down();
        }
        assert_eq!((told.recv(), told.recv()), (Ok(1), Ok(2)));
        drop(herald);
        thread.join().expect("ends");
    }
}
