//! `WATCH` and `EXEC`: what is carried out as one.
//!
//! Not here: what is queued ([`crate::connection`]).

use std::time::{Duration, Instant};

use ballast_core::session::{Call, Class, Reply, Write};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Ending, Serving};
use crate::{connection::Exec, refusal::Unavailable};

const TOO_MANY_WATCHED: Reply = Reply::error(
    "ERR a connection may watch 4096 keys that take 1MiB together; none is watched now, and the next EXEC is refused unless UNWATCH comes before",
);

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    /// Carries a transaction out and answers it. Whether it failed as a whole.
    pub(super) async fn exec(&mut self, exec: Exec) -> Result<bool, Ending> {
        self.check_vip()?;
        let calls: Vec<Call> = exec.of_keyspace().cloned().collect();
        let result = if calls.iter().any(|call| call.class() == Class::Write) || !exec.watched.is_empty() {
            let count = calls.len();
            let write = Write { calls, atomic: true, watched: exec.watched.clone() };
            self.propose(write).await.and_then(|replies| match replies.as_slice() {
                // A watched key has changed, or the memory is full: one answer stands for all.
                [reply] if reply.aborts_exec() => Ok(Err(reply.clone())),
                _ if replies.len() == count => Ok(Ok(replies)),
                _ => Err(Unavailable::Misfit),
            })
        } else if calls.is_empty() {
            Ok(Ok(Vec::new()))
        } else {
            let mut replies = Vec::new();
            self.read(&calls, false, &mut replies).await.map(|_| Ok(replies))
        };
        if let Ok(Ok(replies)) = &result {
            self.hold(replies);
        }
        // What this connection hears of its own doing comes before the answer, as in Redis.
        self.hear().await?;
        self.pending = 0;
        let (before, resp) = (self.out.len(), self.connection.resp());
        let worker = self.held.worker.clone();
        match result {
            Ok(Ok(mut replies)) => {
                self.waited = Duration::ZERO;
                for (call, reply) in exec.of_keyspace().zip(&mut replies) {
                    self.adapt(call, reply);
                }
                self.connection.answer_exec(&exec, replies, &worker.node, &self.policy, &mut self.out);
            }
            Ok(Err(aborted)) => self.connection.say(&aborted, &mut self.out),
            Err(unavailable) => self.refuse(&unavailable),
        }
        let failed = self.out.get(before) == Some(&b'-');
        self.settle(before, resp).await?;
        Ok(failed)
    }

    pub(super) async fn watch(&mut self, keys: Vec<Bytes>) -> Result<(), Ending> {
        self.check_vip()?;
        let since = Instant::now();
        let result = self.reader().versions(self.connection.database(), keys).await;
        match self.waited(since, result) {
            Ok(watched) => {
                self.waited = Duration::ZERO;
                let fits = self.connection.watch(watched.into_iter());
                let reply = if fits { Reply::OK } else { TOO_MANY_WATCHED };
                self.connection.say(&reply, &mut self.out);
            }
            Err(unavailable) => {
                self.connection.cannot_watch();
                self.refuse(&unavailable);
            }
        }
        Ok(())
    }
}
