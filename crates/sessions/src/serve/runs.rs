//! Calls of the keyspace that follow each other, carried out together.
//!
//! A run is: the reads before its first write, on a state that was confirmed after they arrived; everything from the first
//! to the last write, through the log; and the reads after it, on the state as this node has it once the entry is applied,
//! which holds everything that was acknowledged before the entry was proposed.
//!
//! Not here: what waits for the cluster ([`crate::reads`]), `MULTI` ([`super::transactions`]).

use std::time::{Duration, Instant};

use ballast_core::session::{Call, Class, Reply, Spec, Write, parse_integer};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Ending, Serving};
use crate::refusal::Unavailable;

/// Bytes of arguments in a run of more than one command: an entry of the log should not hold others up.
const RUN_BYTES_MAX: usize = 1 << 20;

/// Calls of the keyspace that follow each other.
#[derive(Default)]
pub(super) struct Run {
    calls: Vec<Call>,
    /// Of all arguments.
    bytes: usize,
    /// Arguments.
    words: usize,
    first_write: Option<usize>,
    last_write: usize,
}

impl Run {
    /// Bytes that it takes: arguments, and what holds them.
    pub(super) fn takes(&self) -> usize {
        self.bytes + self.words * size_of::<Bytes>() + self.calls.capacity() * size_of::<Call>()
    }

    /// Whether a call of so many bytes has to wait until what gathered is carried out. What is small must not be refused
    /// because an entry of the log cannot hold it beside something large.
    fn has_no_room_for(&self, bytes: usize) -> bool {
        !self.calls.is_empty() && self.bytes + bytes > RUN_BYTES_MAX
    }

    fn push(&mut self, call: Call, bytes: usize) {
        self.bytes += bytes;
        self.words += call.args.len();
        if call.class() == Class::Write {
            self.first_write.get_or_insert(self.calls.len());
            self.last_write = self.calls.len();
        }
        self.calls.push(call);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    /// Adds a call to the run.
    pub(super) async fn gather(&mut self, call: Call) -> Result<(), Ending> {
        let bytes = call.args.iter().map(Bytes::len).sum();
        // Between writes it would be carried out in the log, by every replica, while no other entry is.
        let is_heavy = self.run.first_write.is_some() && is_heavy(&call);
        if is_heavy || self.run.has_no_room_for(bytes) {
            self.finish_run().await?;
        }
        self.run.push(call, bytes);
        if self.run.calls.len() >= self.policy.limits.pipeline_max || self.run.bytes >= RUN_BYTES_MAX {
            self.finish_run().await?;
        }
        Ok(())
    }

    /// Carries out the calls that gathered.
    pub(super) async fn finish_run(&mut self) -> Result<(), Ending> {
        if self.run.calls.is_empty() {
            return Ok(());
        }
        self.check_vip()?;
        let Run { calls, first_write, last_write, .. } = std::mem::take(&mut self.run);
        let failed_before = self.failed;
        let Some(first) = first_write else {
            self.reads(&calls, false).await?;
            self.progressed(failed_before);
            self.run.calls = calls;
            self.run.calls.clear();
            return Ok(());
        };
        let mut calls = calls;
        let after = calls.split_off(last_write + 1);
        let writes = calls.split_off(first);
        if !calls.is_empty() {
            self.reads(&calls, false).await?;
        }
        let current = self.writes(writes).await?;
        if !after.is_empty() {
            self.reads(&after, current).await?;
        }
        self.progressed(failed_before);
        Ok(())
    }

    /// The deadline begins anew if nothing has failed since.
    pub(super) fn progressed(&mut self, failed_before: u64) {
        if self.failed == failed_before {
            self.waited = Duration::ZERO;
        }
    }

    /// Answers calls that only read. `current`: this node is known to have applied what they must see.
    async fn reads(&mut self, mut calls: &[Call], mut current: bool) -> Result<(), Ending> {
        let mut replies = std::mem::take(&mut self.replies);
        while !calls.is_empty() {
            replies.clear();
            match self.read(calls, current, &mut replies).await {
                Ok(is_current) => current = is_current,
                Err(unavailable) => {
                    replies.clear();
                    replies.resize(calls.len(), unavailable.reply());
                    self.failed += calls.len() as u64;
                    self.held.worker.counters.counters.unavailable_total.add(calls.len() as u64);
                }
            }
            self.hold(&replies);
            // How many answers there is room for must not depend on how many requests came in one piece: those that did not
            // fit beside others are asked for again when the others are sent.
            let fitting = replies.iter().skip(1).position(|reply| *reply == Reply::TOO_LARGE).map(|at| at + 1);
            let us = self.us();
            let (now, later) = calls.split_at(fitting.unwrap_or(calls.len()));
            for (call, reply) in now.iter().zip(replies.drain(..)) {
                self.answer(call.spec(), Some(call), reply, us).await?;
            }
            self.pending = 0;
            if !later.is_empty() {
                self.flush().await?;
            }
            calls = later;
        }
        self.replies = replies;
        Ok(())
    }

    pub(super) async fn read(
        &mut self,
        calls: &[Call],
        current: bool,
        replies: &mut Vec<Reply>,
    ) -> Result<bool, Unavailable> {
        let since = Instant::now();
        let result = self.reader().read(calls, current, replies).await;
        self.waited(since, result)
    }

    /// Carries out calls through the log. Returns whether this node is current now.
    async fn writes(&mut self, calls: Vec<Call>) -> Result<bool, Ending> {
        let specs: Vec<&'static Spec> = calls.iter().map(Call::spec).collect();
        // Answers that depend on who asks or on this node.
        let special: Vec<(usize, Call)> = calls
            .iter()
            .enumerate()
            .filter(|(_, call)| is_special(call))
            .map(|(at, call)| (at, call.clone()))
            .collect();
        let write = Write { calls, atomic: false, watched: Vec::new() };
        let result = self
            .propose(write)
            .await
            .and_then(|replies| if replies.len() == specs.len() { Ok(replies) } else { Err(Unavailable::Misfit) });
        self.hold(result.as_deref().unwrap_or_default());
        // What this connection hears of its own doing comes before the answer, as in Redis.
        self.hear().await?;
        let mut replies = match result {
            Ok(replies) => replies,
            Err(unavailable) => {
                self.failed += specs.len() as u64;
                self.held.worker.counters.counters.unavailable_total.add(specs.len() as u64);
                let us = self.us();
                for spec in specs {
                    self.answer(spec, None, unavailable.reply(), us).await?;
                }
                return Ok(false);
            }
        };
        let us = self.us();
        let mut special = special.into_iter().peekable();
        for (at, (spec, mut reply)) in specs.into_iter().zip(replies.drain(..)).enumerate() {
            let call = special.next_if(|(special, _)| *special == at).map(|(_, call)| call);
            if let Some(call) = &call {
                self.adapt(call, &mut reply);
            }
            self.answer(spec, call.as_ref(), reply, us).await?;
        }
        Ok(true)
    }

    pub(super) async fn propose(&mut self, write: Write) -> Result<Vec<Reply>, Unavailable> {
        let worker = self.held.worker.clone();
        let left = self.patience().left()?;
        let since = Instant::now();
        let result = worker.propose(write, left).await;
        let replies = self.waited(since, result)?;
        if worker.node.subscribers.any() {
            worker.tell_subscribers();
        }
        Ok(replies)
    }

    /// `PUBLISH` tells how many clients of this node it reached; every node reaches its own.
    pub(super) fn adapt(&self, call: &Call, reply: &mut Reply) {
        if call.spec().name == "publish"
            && let (Reply::Integer(reached), Some(channel)) = (reply, call.args.first())
        {
            *reached = self.held.worker.node.subscribers.count(channel) as i64;
        }
    }
}

/// Whether a read may take long, whatever it is asked for.
fn is_heavy(call: &Call) -> bool {
    match call.spec().name {
        "keys" | "randomkey" | "hrandfield" => true,
        "scan" | "hscan" | "sscan" => asks_for_many(&call.args),
        _ => false,
    }
}

/// Whether `COUNT` asks for more than a hundred times what it does by itself.
fn asks_for_many(args: &[Bytes]) -> bool {
    let mut words = args.iter();
    let is_count = |word: &&Bytes| word.eq_ignore_ascii_case(b"count");
    std::iter::from_fn(|| words.find(is_count).and_then(|_| words.next()))
        .any(|count| parse_integer(count).is_none_or(|n| n > 1000))
}

fn is_special(call: &Call) -> bool {
    matches!(call.spec().name, "publish" | "keys" | "scan")
}
