//! Reads on a state that is known to be current, of keys whose lives are not over.
//!
//! All connections of a worker wait while it reads, so what takes more than a millisecond is read by another thread, of which
//! there are few on a node.
//!
//! Not here: what waits together ([`crate::rounds`]), what is read ([`crate::serve`]).

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use ballast_core::{
    session::{Call, Due, Reply, Unread, Watched},
    time::LogTime,
};
use bytes::Bytes;

use crate::{policy::Policy, refusal::Unavailable, rounds::Rounds, worker::Worker};

/// Who reads, and by which rules.
pub struct Reader<'a> {
    /// Whose confirmations are shared.
    pub worker: &'a Worker,
    /// The settings in force.
    pub policy: &'a Policy,
    /// What this node has applied will do.
    pub stale: bool,
    /// How long the cluster is waited for, all in all.
    pub patience: Patience,
}

/// Time that may be spent waiting for the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    since: Instant,
    limit: Duration,
    deadline: Duration,
}

/// Who has waited for less than this joins a round that begins at once without a timer. Such a round has hardly more time than
/// that, because whoever joins it comes at the same moment.
const EXACT: Duration = Duration::from_millis(50);

impl Patience {
    /// From now on, of a deadline of which `waited` is over.
    pub fn of(deadline: Duration, waited: Duration) -> Self {
        Self { since: Instant::now(), limit: deadline.saturating_sub(waited), deadline }
    }

    /// What is left of it.
    ///
    /// # Errors
    /// Nothing: what would be waited for is not begun.
    pub fn left(&self) -> Result<Duration, Unavailable> {
        let left = self.limit.saturating_sub(self.since.elapsed());
        if left.is_zero() { Err(self.over()) } else { Ok(left) }
    }

    /// Joins the next round, as long as there is time.
    async fn join(&self, rounds: &Rc<Rounds>) -> Result<(), Unavailable> {
        let left = self.left()?;
        if self.deadline - left < EXACT && rounds.begins_at_once() {
            return rounds.join(left).await;
        }
        tokio::time::timeout(left, rounds.join(left)).await.unwrap_or_else(|_| Err(self.over()))
    }

    fn over(&self) -> Unavailable {
        Unavailable::NoQuorum(format!("the cluster was waited for for {:?}", self.deadline))
    }
}

impl Reader<'_> {
    /// Carries out calls that only read. `current`: this node is known to have applied what they must see. Returns whether it
    /// is known to now; if not, they were read stale.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn read(&self, calls: &[Call], current: bool, replies: &mut Vec<Reply>) -> Result<bool, Unavailable> {
        let (stale, estimate) = match self.become_current(current).await? {
            State::Current(estimate) => (false, estimate),
            State::Stale(estimate) => (true, estimate),
        };
        if self.look(stale, Some(estimate), calls, replies).await? == Err(Due) {
            replies.clear();
            // Nothing is due without an estimate, nor to a stale reader, for whom what is over by it is absent.
            let (stale, estimate) = match self.tick().await? {
                true => (stale, None),
                false => (true, Some(self.worker.node.ports.clock.estimate())),
            };
            let _ = self.look(stale, estimate, calls, replies).await?;
        }
        if replies.len() == calls.len() { Ok(!stale) } else { Err(Unavailable::Misfit) }
    }

    /// Carries out calls that only read, here or, if that takes long, where nobody else waits for it.
    async fn look(
        &self,
        stale: bool,
        estimate: Option<LogTime>,
        calls: &[Call],
        replies: &mut Vec<Reply>,
    ) -> Result<Result<(), Due>, Unavailable> {
        let node = &self.worker.node;
        match node.sessions.read_at_once(stale, estimate, calls, replies) {
            Ok(()) => return Ok(Ok(())),
            Err(Unread::Due) => return Ok(Err(Due)),
            Err(Unread::Long) => {}
        }
        let turn = tokio::time::timeout(self.patience.left()?, node.walks.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Unavailable::LongReads) };
        let (sessions, calls) = (node.sessions.clone(), calls.to_vec());
        let walk = tokio::task::spawn_blocking(move || {
            let mut replies = Vec::with_capacity(calls.len());
            let done = match estimate.filter(|_| stale) {
                Some(estimate) => {
                    sessions.read_stale(estimate, &calls, &mut replies);
                    Ok(())
                }
                None => sessions.read(estimate, &calls, &mut replies),
            };
            drop(turn);
            (done, replies)
        });
        // It does not come back if it panicked, which the panic hook has reported.
        let (done, answers) = walk.await.map_err(|_| Unavailable::Misfit)?;
        replies.extend(answers);
        Ok(done)
    }

    /// The versions of keys. What is watched must be current even for a client that reads stale: it is what its writes
    /// hang on.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn versions(&self, database: u16, keys: Vec<Bytes>) -> Result<Vec<Watched>, Unavailable> {
        let worker = self.worker;
        self.patience.join(&worker.confirmations).await?;
        let mut watched = Vec::with_capacity(keys.len());
        let mut estimate = Some(worker.node.ports.clock.estimate());
        for key in keys {
            let version = match worker.node.sessions.version(estimate, database, &key) {
                Ok(version) => version,
                Err(_) => {
                    // If log time stands still, the entry that the version is for moves it and finds the key gone.
                    self.tick().await?;
                    estimate = None;
                    worker.node.sessions.version(None, database, &key).map_err(|_| Unavailable::Misfit)?
                }
            };
            watched.push(Watched { database, key, version });
        }
        Ok(watched)
    }

    /// Waits until this node is known to be current, unless stale reads will do.
    async fn become_current(&self, current: bool) -> Result<State, Unavailable> {
        let estimate = || self.worker.node.ports.clock.estimate();
        if self.stale {
            return Ok(State::Stale(estimate()));
        }
        let confirmations = &self.worker.confirmations;
        if !current && self.policy.stale_without_quorum && confirmations.is_failing() {
            // Waiting would come to the same, and the next round tells when that is over.
            confirmations.probe(self.policy.limits.deadline);
            return Ok(State::Stale(estimate()));
        }
        if !current && let Err(unavailable) = self.patience.join(confirmations).await {
            return if self.policy.stale_without_quorum { Ok(State::Stale(estimate())) } else { Err(unavailable) };
        }
        Ok(State::Current(estimate()))
    }

    /// Carries log time forward, for a key whose end has come. Whether it moved; it need not where stale reads will do.
    async fn tick(&self) -> Result<bool, Unavailable> {
        self.worker.counters.counters.due_total.up();
        match self.patience.join(&self.worker.ticks).await {
            Err(_) if self.policy.stale_without_quorum => Ok(false),
            result => result.map(|()| true),
        }
    }
}

/// What a read sees, and the time to read by.
enum State {
    /// Everything that was acknowledged before.
    Current(LogTime),
    /// What this node has applied.
    Stale(LogTime),
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn who_waits_for_a_round_that_cannot_begin_waits_no_longer_than_it_may() {
        let rounds = Rounds::new(Box::new(|_| Box::pin(std::future::pending::<Result<(), Unavailable>>())));
        LocalSet::new()
            .run_until(async {
                while rounds.begins_at_once() {
                    let rounds = rounds.clone();
                    spawn_local(async move { rounds.join(Duration::from_secs(3600)).await });
                    yield_now().await;
                }
                let waited = Patience::of(Duration::from_millis(20), Duration::ZERO).join(&rounds).await;
                assert!(matches!(waited, Err(Unavailable::NoQuorum(_))), "{waited:?}");
            })
            .await;
    }
}
