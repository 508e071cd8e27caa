//! Reads on a state that is known to be current, of keys whose lives are not over.
//!
//! Not here: what waits together ([`crate::rounds`]), what is read ([`crate::serve`], [`crate::http`]).

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
        let estimate = self.become_current(current).await?;
        let read = |estimate, replies: &mut Vec<Reply>| self.worker.node.sessions.read(estimate, calls, replies);
        if read(estimate, replies).is_err() {
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

    /// Waits until this node is known to be current, unless stale reads will do. Returns the time to read by.
    async fn become_current(&self, current: bool) -> Result<Option<LogTime>, Unavailable> {
        if self.stale {
            return Ok(None);
        }
        if !current && let Err(unavailable) = self.worker.confirmations.join(self.policy.limits.deadline).await {
            return if self.policy.stale_without_quorum { Ok(None) } else { Err(unavailable) };
        }
        Ok(Some(self.worker.node.ports.clock.estimate()))
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
