//! One connection: bytes in, bytes out, and waiting for the cluster in between.
//!
//! What has arrived is carried out before more is read, so a client that sends without reading is held up by TCP. Calls
//! of the keyspace gather into a run until something else comes: all writes of a run are one entry of the log, its reads
//! wait for one confirmation, and the answers leave in the order of the commands.
//!
//! A run is: the reads before its first write, on a state that was confirmed after they arrived; everything from the first
//! to the last write, through the log; and the reads after it, on the state as this node has it once the entry is applied,
//! which holds everything that was acknowledged before the entry was proposed.
//!
//! Not here: what commands mean ([`crate::connection`], `ballast_core::session`).

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ballast_core::session::{Call, Class, Reply, Spec, Write};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    clients::Card,
    connection::{Connection, Exec, Login, Sorted, Step},
    deadline::Deadline,
    policy::Policy,
    reads::Reader,
    refusal::Unavailable,
    wire::Requests,
    worker::Held,
};

/// Room for the first read of a connection: ten thousand idle ones take twenty megabytes.
const READ_MIN: usize = 2048;
/// The most room that is made for one read.
const READ_MAX: usize = 256 * 1024;
/// Room for answers that an idle connection may keep.
const WRITE_IDLE: usize = 4096;
/// When a connection counts as idle for that.
const SOON: Duration = Duration::from_secs(1);
/// Answers leave when there are so many, though commands wait that are not carried out.
const WRITE_SOON: usize = 64 * 1024;
/// Bytes of arguments in one run, besides its last command: an entry of the log should not hold others up.
const RUN_BYTES_MAX: usize = 1 << 20;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client closed it, or it broke.
    Closed,
    /// The client asked for it, and has its answer.
    Asked,
    /// A bound was exceeded: time, size or grammar.
    Cut,
    /// The node or the VIP is leaving, or somebody else ended it.
    Told,
}

/// Serves a connection to its end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, held: Held, connection: Connection, card: Arc<Card>) {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    card.served_by(waker.clone());
    let worker = held.worker.clone();
    let policy = worker.policy();
    card.bound_mail(policy.limits.output_max);
    let mut serving = Serving {
        deadline: worker.deadlines.add(waker),
        stream,
        connection,
        card,
        requests: Requests::default(),
        buf: BytesMut::with_capacity(READ_MIN),
        argv: Vec::new(),
        out: Vec::new(),
        run: Run::default(),
        replies: Vec::new(),
        policy,
        began: Instant::now(),
        room: READ_MIN,
        held,
    };
    let ending = serving.run().await.err().unwrap_or(Ending::Asked);
    if ending == Ending::Cut {
        worker.counters.counters.cut_total.up();
    }
    if matches!(ending, Ending::Asked | Ending::Cut) {
        serving.part().await;
    }
    serving.connection.end(&worker.node.subscribers);
    worker.node.clients.remove(serving.card.id);
}

struct Serving<S> {
    stream: S,
    held: Held,
    connection: Connection,
    card: Arc<Card>,
    deadline: Rc<Deadline>,
    requests: Requests,
    buf: BytesMut,
    argv: Vec<Bytes>,
    out: Vec<u8>,
    run: Run,
    replies: Vec<Reply>,
    policy: Rc<Policy>,
    /// When the bytes were there that are being carried out.
    began: Instant,
    room: usize,
}

/// Calls of the keyspace that follow each other.
#[derive(Default)]
struct Run {
    calls: Vec<Call>,
    bytes: usize,
    first_write: Option<usize>,
    last_write: usize,
}

impl Run {
    fn push(&mut self, call: Call) {
        self.bytes += call.args.iter().map(Bytes::len).sum::<usize>();
        if call.class() == Class::Write {
            self.first_write.get_or_insert(self.calls.len());
            self.last_write = self.calls.len();
        }
        self.calls.push(call);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    async fn run(&mut self) -> Result<(), Ending> {
        loop {
            let worker = &self.held.worker;
            // What has just arrived may be of a user that the document has known only for a moment, or no longer knows.
            worker.take_settings();
            if !Rc::ptr_eq(&self.policy, &*worker.current_policy()) {
                self.policy = worker.policy();
                self.card.bound_mail(self.policy.limits.output_max);
                if !self.connection.follow(&self.policy) {
                    return Err(Ending::Told);
                }
            }
            self.carry_out().await?;
            self.card.take_mail(&mut self.out);
            self.flush().await?;
            self.wait().await?;
        }
    }

    /// Carries out what has arrived.
    async fn carry_out(&mut self) -> Result<(), Ending> {
        loop {
            let bounds = self.connection.bounds(&self.policy);
            match self.requests.next(&mut self.buf, &bounds, &mut self.argv) {
                Ok(true) => {}
                Ok(false) => return self.finish_run().await,
                Err(error) => {
                    self.finish_run().await?;
                    self.held.worker.counters.counters.malformed_total.up();
                    self.connection.say(&Reply::Error(format!("ERR {error}").into()), &mut self.out);
                    self.flush().await?;
                    return Err(Ending::Cut);
                }
            }
            let argv = std::mem::take(&mut self.argv);
            match self.connection.sort(argv, &self.policy) {
                Sorted::Keyspace(call) => {
                    self.run.push(call);
                    if self.run.calls.len() >= self.policy.limits.pipeline_max || self.run.bytes >= RUN_BYTES_MAX {
                        self.finish_run().await?;
                    }
                    continue;
                }
                Sorted::Said(reply) => {
                    self.finish_run().await?;
                    self.connection.say(&reply, &mut self.out);
                }
                Sorted::Own(call) => {
                    self.finish_run().await?;
                    self.own(call).await?;
                }
            }
            self.connection.answered();
            self.flush_soon().await?;
        }
    }

    async fn own(&mut self, call: Call) -> Result<(), Ending> {
        let (before, spec) = (self.out.len(), call.spec());
        let worker = self.held.worker.clone();
        match self.connection.own(&call, &worker.node, &self.policy, &mut self.out) {
            Step::Answered => {}
            Step::Exec(exec) => self.exec(exec).await,
            Step::Watch(keys) => self.watch(keys).await,
            Step::Login(login) => self.login(login).await,
            Step::Close => {
                self.flush().await?;
                return Err(Ending::Asked);
            }
        }
        let failed = self.out.get(before) == Some(&b'-');
        worker.counters.answered(spec, self.us(), failed);
        Ok(())
    }

    /// Carries out the calls that gathered.
    async fn finish_run(&mut self) -> Result<(), Ending> {
        if self.run.calls.is_empty() {
            return Ok(());
        }
        if !self.held.listener.may_serve() {
            // The VIP is another node's: what was not begun is begun there.
            return Err(Ending::Told);
        }
        let Run { calls, first_write, last_write, .. } = std::mem::take(&mut self.run);
        let Some(first) = first_write else {
            self.reads(&calls, false).await?;
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
        Ok(())
    }

    /// Answers calls that only read. `current`: this node is known to have applied what they must see.
    async fn reads(&mut self, calls: &[Call], current: bool) -> Result<(), Ending> {
        let mut replies = std::mem::take(&mut self.replies);
        replies.clear();
        match self.read(calls, current, &mut replies).await {
            Ok(()) => {}
            Err(unavailable) => {
                replies.clear();
                replies.resize(calls.len(), unavailable.reply());
                self.held.worker.counters.counters.unavailable_total.add(calls.len() as u64);
            }
        }
        let us = self.us();
        for (call, reply) in calls.iter().zip(replies.drain(..)) {
            self.answer(call.spec(), Some(call), reply, us).await?;
        }
        self.replies = replies;
        Ok(())
    }

    async fn read(&self, calls: &[Call], current: bool, replies: &mut Vec<Reply>) -> Result<(), Unavailable> {
        self.reader().read(calls, current, replies).await
    }

    fn reader(&self) -> Reader<'_> {
        Reader { worker: &self.held.worker, policy: &self.policy, stale: self.connection.reads_stale() }
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
        let mut replies = match result {
            Ok(replies) => replies,
            Err(unavailable) => {
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

    async fn propose(&mut self, write: Write) -> Result<Vec<Reply>, Unavailable> {
        let worker = self.held.worker.clone();
        let replies = worker.propose(write, self.policy.limits.deadline).await?;
        if worker.node.subscribers.any() {
            worker.tell_subscribers();
            // What this connection hears of its own doing comes before the answer, as in Redis.
            self.card.take_mail(&mut self.out);
        }
        Ok(replies)
    }

    /// `PUBLISH` tells how many clients of this node it reached; every node reaches its own.
    fn adapt(&self, call: &Call, reply: &mut Reply) {
        if call.spec().name == "publish"
            && let (Reply::Integer(reached), Some(channel)) = (reply, call.args.first())
        {
            *reached = self.held.worker.node.subscribers.count(channel) as i64;
        }
    }

    async fn exec(&mut self, exec: Exec) {
        let of_keyspace = |call: &&Call| call.class() != Class::Connection;
        let calls: Vec<Call> = exec.calls.iter().filter(of_keyspace).cloned().collect();
        let watches = !exec.watched.is_empty();
        let result = if calls.iter().any(|call| call.class() == Class::Write) || watches {
            let count = calls.len();
            let write = Write { calls, atomic: true, watched: exec.watched.clone() };
            self.propose(write).await.and_then(|replies| match replies.as_slice() {
                [Reply::NullArray] if watches => Ok(None),
                _ if replies.len() == count => Ok(Some(replies)),
                _ => Err(Unavailable::Misfit),
            })
        } else if calls.is_empty() {
            Ok(Some(Vec::new()))
        } else {
            let mut replies = Vec::new();
            self.read(&calls, false, &mut replies).await.map(|()| Some(replies))
        };
        let worker = self.held.worker.clone();
        match result {
            Ok(Some(mut replies)) => {
                for (call, reply) in exec.calls.iter().filter(of_keyspace).zip(&mut replies) {
                    self.adapt(call, reply);
                }
                self.connection.answer_exec(&exec, replies, &worker.node, &self.policy, &mut self.out);
            }
            Ok(None) => self.connection.say(&Reply::NullArray, &mut self.out),
            Err(unavailable) => self.refuse(&unavailable),
        }
    }

    async fn watch(&mut self, keys: Vec<Bytes>) {
        match self.reader().versions(self.connection.database(), keys).await {
            Ok(watched) => {
                let fits = self.connection.watch(watched.into_iter());
                let reply = if fits { Reply::OK } else { TOO_MANY_WATCHED };
                self.connection.say(&reply, &mut self.out);
            }
            Err(unavailable) => self.refuse(&unavailable),
        }
    }

    async fn login(&mut self, login: Login) {
        let worker = self.held.worker.clone();
        let decoy = self.policy.decoy_hash();
        let Ok(right) = worker.node.passwords.check(login.stored.clone(), decoy, &login.password).await else {
            let reply = Reply::error("OVERLOADED too many clients log in at once; try again later");
            return self.connection.say(&reply, &mut self.out);
        };
        if !right {
            worker.counters.counters.login_failures_total.up();
        }
        self.connection.logged_in(login, right, &worker.node, &self.policy, &mut self.out);
    }

    fn refuse(&mut self, unavailable: &Unavailable) {
        self.held.worker.counters.counters.unavailable_total.up();
        self.connection.say(&unavailable.reply(), &mut self.out);
    }

    async fn answer(&mut self, spec: &'static Spec, call: Option<&Call>, reply: Reply, us: u64) -> Result<(), Ending> {
        let failed = matches!(reply, Reply::Error(_));
        self.connection.answer(spec, call, reply, &mut self.out);
        self.connection.answered();
        self.held.worker.counters.answered(spec, us, failed);
        self.flush_soon().await
    }

    /// Microseconds since the bytes were there that are being carried out: one look at the clock for a whole run.
    fn us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn flush_soon(&mut self) -> Result<(), Ending> {
        if self.out.len() < WRITE_SOON {
            return Ok(());
        }
        if self.out.len() > self.policy.limits.output_max {
            tracing::warn!(peer = %self.card.peer, bytes = self.out.len(), "cut: an answer exceeds sessions.limits.output_max");
            return Err(Ending::Cut);
        }
        self.flush().await
    }

    /// Sends what is to be sent. The client must take some of it every `write_timeout`.
    async fn flush(&mut self) -> Result<(), Ending> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Self { stream, out, deadline, card, policy, held, .. } = self;
        let (mut sent, mut armed) = (0, false);
        let timeout = policy.limits.write_timeout;
        let result = poll_fn(|cx| {
            while sent < out.len() {
                match Pin::new(&mut *stream).poll_write(cx, &out[sent..]) {
                    Poll::Ready(Ok(1..)) if card.is_ended() => return Poll::Ready(Err(Ending::Told)),
                    Poll::Ready(Ok(written @ 1..)) => {
                        sent += written;
                        armed = false;
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Ending::Closed)),
                    Poll::Pending if card.is_ended() => return Poll::Ready(Err(Ending::Told)),
                    Poll::Pending if armed && deadline.is_over() => return Poll::Ready(Err(Ending::Cut)),
                    Poll::Pending => {
                        if !armed {
                            armed = true;
                            deadline.arm(timeout);
                        }
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await;
        if result.is_ok() {
            let flushed = pin!(stream.flush());
            under(deadline, timeout, flushed).await?;
        }
        held.worker.counters.counters.bytes_out_total.add(sent as u64);
        self.out.clear();
        self.out.shrink_to(WRITE_SOON);
        result
    }

    /// Waits for bytes of the client, or mail for it.
    async fn wait(&mut self) -> Result<(), Ending> {
        let amid = self.requests.is_amid(&self.buf);
        let limits = &self.policy.limits;
        let timeout = if amid { limits.write_timeout } else { limits.idle_timeout };
        // A connection that has grown is looked at once more, to take its room back if it stays idle.
        let roomy = (self.room > READ_MIN || self.out.capacity() > WRITE_IDLE)
            && !(Duration::ZERO < timeout && timeout <= SOON);
        self.deadline.arm(if roomy { SOON } else { timeout });
        if self.buf.capacity() - self.buf.len() < READ_MIN.min(self.room) {
            self.buf.reserve(self.room.max(self.buf.len().min(READ_MAX)));
        }
        let Self { stream, buf, deadline, card, held, policy, .. } = self;
        let mut read = pin!(stream.read_buf(buf));
        let arrived = poll_fn(|cx| {
            match read.as_mut().poll(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Ending::Closed)),
                Poll::Ready(Ok(arrived)) => return Poll::Ready(Ok(arrived)),
                Poll::Pending => {}
            }
            if card.is_ended() || !amid && held.is_ending() {
                return Poll::Ready(Err(Ending::Told));
            }
            if card.has_mail() || !Rc::ptr_eq(policy, &*held.worker.current_policy()) {
                return Poll::Ready(Ok(0));
            }
            if deadline.is_over() {
                return Poll::Ready(if roomy { Ok(0) } else { Err(Ending::Cut) });
            }
            Poll::Pending
        })
        .await?;
        if arrived == 0 && roomy && self.deadline.is_over() {
            self.room = READ_MIN;
            self.out = Vec::new();
            if !amid {
                self.buf = BytesMut::new();
            }
        }
        if arrived != 0 {
            self.arrived(arrived);
        }
        Ok(())
    }

    fn arrived(&mut self, bytes: usize) {
        self.began = Instant::now();
        let worker = &self.held.worker;
        worker.counters.counters.bytes_in_total.add(bytes as u64);
        self.card.active_ms.store(worker.deadlines.now_ms(), std::sync::atomic::Ordering::Relaxed);
        // A client that fills its room gets more, up to a bound.
        if bytes >= self.room {
            self.room = (self.room * 2).min(READ_MAX);
        }
    }

    /// Ends so that the last answer arrives: closing with bytes unread would reset the connection.
    async fn part(&mut self) {
        let timeout = Duration::from_secs(1);
        let Self { stream, deadline, buf, .. } = self;
        if under(deadline, timeout, pin!(stream.shutdown())).await.is_err() {
            return;
        }
        let mut left = 1 << 20;
        while left > 0 {
            buf.clear();
            buf.reserve(READ_MIN);
            match under(deadline, timeout, pin!(stream.read_buf(buf))).await {
                Ok(1..) => left -= buf.len().min(left),
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// Waits for `io`, at most `timeout`.
async fn under<T>(
    deadline: &Deadline,
    timeout: Duration,
    mut io: Pin<&mut impl Future<Output = std::io::Result<T>>>,
) -> Result<T, Ending> {
    let mut armed = false;
    poll_fn(move |cx: &mut Context<'_>| match io.as_mut().poll(cx) {
        Poll::Ready(Ok(done)) => Poll::Ready(Ok(done)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Ending::Closed)),
        Poll::Pending if armed && deadline.is_over() => Poll::Ready(Err(Ending::Cut)),
        Poll::Pending => {
            if !armed {
                armed = true;
                deadline.arm(timeout);
            }
            Poll::Pending
        }
    })
    .await
}

const TOO_MANY_WATCHED: Reply =
    Reply::error("ERR a connection may watch 4096 keys; none is watched now, and a transaction should not be begun");

fn is_special(call: &Call) -> bool {
    matches!(call.spec().name, "publish" | "keys" | "scan")
}
