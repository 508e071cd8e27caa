//! Reads on a state that is known to be current, of keys whose lives are not over.
//!
//! Not here: what waits together ([`crate::rounds`]), what is read ([`crate::serve`]).

use ballast_core::{
    session::{Call, Reply, Watched},
    time::LogTime,
};
use bytes::Bytes;

use crate::{policy::Policy, refusal::Unavailable, worker::Worker};

/// Who reads, and by which rules.
pub struct Reader<'a> {
    /// Whose confirmations are shared.
    pub worker: &'a Worker,
    /// The settings in force.
    pub policy: &'a Policy,
    /// What this node has applied will do.
    pub stale: bool,
}

impl Reader<'_> {
    /// Carries out calls that only read. `current`: this node is known to have applied what they must see.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn read(&self, calls: &[Call], current: bool, replies: &mut Vec<Reply>) -> Result<(), Unavailable> {
        let estimate = match self.become_current(current).await? {
            State::Current(estimate) => estimate,
            State::Stale(estimate) => {
                self.worker.node.sessions.read_stale(estimate, calls, replies);
                return if replies.len() == calls.len() { Ok(()) } else { Err(Unavailable::Misfit) };
            }
        };
        let read = |estimate, replies: &mut Vec<Reply>| self.worker.node.sessions.read(estimate, calls, replies);
        if read(Some(estimate), replies).is_err() {
            replies.clear();
            self.tick().await?;
            // Without an estimate nothing is due.
            let _ = read(None, replies);
        }
        if replies.len() == calls.len() { Ok(()) } else { Err(Unavailable::Misfit) }
    }

    /// The versions of keys. What is watched must be current even for a client that reads stale: it is what its writes
    /// hang on.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn versions(&self, database: u16, keys: Vec<Bytes>) -> Result<Vec<Watched>, Unavailable> {
        let worker = self.worker;
        worker.confirmations.join(self.policy.limits.deadline).await?;
        let mut watched = Vec::with_capacity(keys.len());
        let mut estimate = Some(worker.node.ports.clock.estimate());
        for key in keys {
            let version = match worker.node.sessions.version(estimate, database, &key) {
                Ok(version) => version,
                Err(_) => {
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
        if !current && let Err(unavailable) = confirmations.join(self.policy.limits.deadline).await {
            return if self.policy.stale_without_quorum { Ok(State::Stale(estimate())) } else { Err(unavailable) };
        }
        Ok(State::Current(estimate()))
    }

    /// Carries log time forward, for a key whose end has come.
    async fn tick(&self) -> Result<(), Unavailable> {
        self.worker.counters.counters.due_total.up();
        match self.worker.ticks.join(self.policy.limits.deadline).await {
            Err(_) if self.policy.stale_without_quorum => Ok(()),
            result => result,
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
