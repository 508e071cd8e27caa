//! Work that keeps a core busy, done beside the runtime and one piece at a time.
//!
//! The largest document that is read takes up to a second of CPU time. On the runtime's own threads that would hold up
//! heartbeats; on several threads at once a flood of garbage would take all cores from the data plane.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::error::{self, ApiError, ErrorCode};

/// Pieces of work that may wait. Each holds a request of several MiB.
const WAITING_MAX: usize = 16;

/// A place where one piece of work is done at a time.
pub(super) struct Bench {
    seat: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { seat: Arc::new(Semaphore::new(1)), room: Arc::new(Semaphore::new(1 + WAITING_MAX)) }
    }

    /// Does `work` when its turn comes.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` at once when too much waits already; `INTERNAL` when the work panicked.
    ///
    /// # Cancel safety
    /// Work that has not begun is not done. What has begun ends by itself; until then nothing else begins.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let busy =
            || error::status(ErrorCode::Overloaded, "too many documents wait to be checked here", "configuration");
        let room = self.room.clone().try_acquire_owned().map_err(|_| busy())?;
        self.in_turn(move || {
            let _held = room;
            work()
        })
        .await
    }

    /// Does `work` when its turn comes, however much waits: for what fills no memory while it waits.
    ///
    /// # Errors
    /// `INTERNAL` when the work panicked.
    ///
    /// # Cancel safety
    /// As [`Bench::run`].
    pub(super) async fn in_turn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let seat = self.seat.clone().acquire_owned().await.expect("the seat is never closed");
        let done = spawn_blocking(move || {
            // Work goes on when nobody waits for it any more, and keeps its seat.
            let _held = seat;
            work()
        });
        done.await.map_err(|_| error::status(ErrorCode::Internal, "reading the document failed", "configuration"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn one_works_some_wait_and_the_rest_are_turned_away() {
        let bench = Arc::new(Bench::new());
        let (begun, begins) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let first = {
            let bench = bench.clone();
            tokio::spawn(async move {
                let work = move || {
                    begun.send(()).expect("somebody waits");
                    wait.recv().expect("it is told to go on");
                };
                bench.run(work).await
            })
        };
        tokio::task::spawn_blocking(move || begins.recv().expect("it begins")).await.expect("no panic");
        // Polled at once in their order, so each has taken its place before the next one asks.
        let mut others = JoinSet::new();
        for n in 0..=WAITING_MAX {
            let bench = bench.clone();
            others.spawn(async move { bench.run(move || n).await });
        }
        let turned_away = others.join_next().await.expect("one of them").expect("no panic");
        assert!(turned_away.is_err(), "nobody else can be done while the first one works");
        go.send(()).expect("it waits");
        first.await.expect("no panic").expect("done");
        let mut done: Vec<usize> = Vec::new();
        while let Some(one) = others.join_next().await {
            done.push(one.expect("no panic").expect("done"));
        }
        assert_eq!(done.len(), WAITING_MAX);
    }

    #[tokio::test]
    async fn work_that_panics_leaves_the_bench_usable() {
        let bench = Bench::new();
        assert!(bench.run(|| panic!("a fault")).await.is_err());
        assert_eq!(bench.run(|| 7).await.expect("done"), 7);
    }
}
