//! One confirmation for all that wait.
//!
//! Whoever wants to read waits for a round that began after it asked. A round begins once everything that is ready to
//! run has run, so that what arrived together asks together; while rounds are under way, the next one gathers. A round has
//! as much time as the most patient of those that wait for it: who may wait less ends its own wait.
//!
//! Not here: what is confirmed ([`crate::worker`] makes one of these for reads and one for ticks of log time).

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use ballast_core::cluster::BoxFuture;

use crate::refusal::Unavailable;

/// Rounds under way at once: one that waits for the network need not hold up the next.
const RUNNING_MAX: usize = 2;

type Ask = Box<dyn Fn(Duration) -> BoxFuture<'static, Result<(), Unavailable>>>;

/// Gathers those that wait for the same thing.
pub struct Rounds {
    ask: Ask,
    gathering: RefCell<Option<Rc<Round>>>,
    running: Cell<usize>,
    /// A round is about to begin, once what is ready has run.
    beginning: Cell<bool>,
    failing: Cell<bool>,
}

struct Round {
    /// When the last of those that wait for it stops waiting.
    ends_at: Cell<Instant>,
    result: RefCell<Option<Result<(), Unavailable>>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Rounds {
    /// `ask` is called once a round.
    pub fn new(ask: Ask) -> Rc<Self> {
        Rc::new(Self {
            ask,
            gathering: RefCell::default(),
            running: Cell::new(0),
            beginning: Cell::new(false),
            failing: Cell::new(false),
        })
    }

    /// Whether a round that is joined now begins once what is ready has run. Otherwise those that join it later may give it
    /// more time.
    pub fn begins_at_once(&self) -> bool {
        self.beginning.get() || self.running.get() < RUNNING_MAX
    }

    /// Whether the round that ended last failed.
    pub fn is_failing(&self) -> bool {
        self.failing.get()
    }

    /// Begins a round for nobody if none is under way, to learn whether they still fail.
    pub fn probe(self: &Rc<Self>, deadline: Duration) {
        if self.running.get() == 0 {
            self.gather(deadline);
        }
    }

    /// Waits for a round that begins from now on and has `deadline` at least. Others who join it may give it more time.
    ///
    /// # Errors
    /// What the round came to.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the wait, not the round.
    pub async fn join(self: &Rc<Self>, deadline: Duration) -> Result<(), Unavailable> {
        let round = self.gather(deadline);
        let mut waits = false;
        poll_fn(|cx| {
            if let Some(result) = &*round.result.borrow() {
                return Poll::Ready(result.clone());
            }
            if !waits {
                waits = true;
                round.waiting.borrow_mut().push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// The round that gathers, for whoever waits for so long.
    fn gather(self: &Rc<Self>, deadline: Duration) -> Rc<Round> {
        let ends_at = Instant::now() + deadline;
        let round = self.gathering.borrow().clone();
        if let Some(round) = round {
            round.ends_at.set(round.ends_at.get().max(ends_at));
            return round;
        }
        let round = Round { ends_at: Cell::new(ends_at), result: RefCell::default(), waiting: RefCell::default() };
        let round = Rc::new(round);
        *self.gathering.borrow_mut() = Some(round.clone());
        self.start();
        round
    }

    /// Starts the round that gathers, if there is room. Its task runs after what is ready now.
    fn start(self: &Rc<Self>) {
        if self.running.get() >= RUNNING_MAX || self.gathering.borrow().is_none() {
            return;
        }
        self.running.set(self.running.get() + 1);
        self.beginning.set(true);
        let rounds = self.clone();
        tokio::task::spawn_local(async move {
            rounds.beginning.set(false);
            let round = rounds.gathering.borrow_mut().take();
            if let Some(round) = round {
                let left = round.ends_at.get().saturating_duration_since(Instant::now());
                let result = (rounds.ask)(left).await;
                rounds.failing.set(result.is_err());
                *round.result.borrow_mut() = Some(result);
                round.waiting.borrow_mut().drain(..).for_each(Waker::wake);
            }
            rounds.running.set(rounds.running.get() - 1);
            rounds.start();
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::Semaphore, task::LocalSet};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(flavor = "current_thread")]
    async fn a_round_has_as_much_time_as_the_most_patient_of_those_that_wait_for_it() {
        for patience in [[SECOND, HOUR], [HOUR, SECOND]] {
            let given = Rc::new(Cell::new(Duration::ZERO));
            let rounds = {
                let given = given.clone();
                Rounds::new(Box::new(move |deadline| {
                    given.set(given.get() + deadline);
                    Box::pin(async { Ok(()) })
                }))
            };
            LocalSet::new()
                .run_until(async {
                    let joined = patience.map(|patience| {
                        let rounds = rounds.clone();
                        tokio::task::spawn_local(async move { rounds.join(patience).await })
                    });
                    for task in joined {
                        task.await.expect("ran").expect("confirmed");
                    }
                })
                .await;
            assert!((HOUR / 2..=HOUR).contains(&given.get()), "{:?}", given.get());
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn those_that_ask_together_share_a_round_and_later_ones_get_a_later_one() {
        let (asked, gate) = (Rc::new(Cell::new(0)), std::sync::Arc::new(Semaphore::new(0)));
        let local = LocalSet::new();
        let rounds = {
            let (asked, gate) = (asked.clone(), gate.clone());
            Rounds::new(Box::new(move |_| {
                asked.set(asked.get() + 1);
                let gate = gate.clone();
                Box::pin(async move {
                    gate.acquire().await.expect("open").forget();
                    Ok(())
                })
            }))
        };
        local
            .run_until(async {
                let join = || {
                    let rounds = rounds.clone();
                    tokio::task::spawn_local(async move { rounds.join(SECOND).await })
                };
                let first: Vec<_> = (0..10).map(|_| join()).collect();
                while asked.get() == 0 {
                    tokio::task::yield_now().await;
                }
                let second: Vec<_> = (0..10).map(|_| join()).collect();
                while asked.get() == 1 {
                    tokio::task::yield_now().await;
                }
                let third = join();
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(asked.get(), 2, "two rounds run, the third gathers");
                assert!(first.iter().chain(&second).all(|task| !task.is_finished()));
                gate.add_permits(3);
                for task in first.into_iter().chain(second).chain([third]) {
                    task.await.expect("ran").expect("confirmed");
                }
                assert_eq!(asked.get(), 3);
            })
            .await;
    }
}
