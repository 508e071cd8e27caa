//! One connection: bytes in, bytes out, and waiting for the cluster in between.
//!
//! What has arrived is carried out before more is read, so a client that sends without reading is held up by TCP. Calls
//! of the keyspace gather into a run until something else comes: all writes of a run are one entry of the log, its reads
//! wait for one confirmation, and the answers leave in the order of the commands.
//!
//! Not here: what commands mean ([`crate::connection`], `ballast_core::session`); in files of their own are runs
//! ([`runs`]), transactions ([`transactions`]), logins ([`logins`]), what subscribers are told ([`mail`]) and the socket's
//! timing ([`line`]).

mod line;
mod logins;
mod mail;
mod runs;
mod transactions;

use std::{
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use ballast_core::session::{Call, Reply, Spec};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    budget::Budget,
    clients::Card,
    connection::{Connection, Follows, Sorted, Step},
    deadline::Deadline,
    policy::Policy,
    reads::{Patience, Reader},
    refusal::Unavailable,
    trust,
    wire::Requests,
    worker::Held,
};
use logins::Logins;
use runs::Run;

/// Room for the first read of a connection: ten thousand idle ones take twenty megabytes.
const READ_MIN: usize = 2048;

const NO_ROOM: Reply = Reply::error(
    "OVERLOADED the connections of this node take more memory than there is for them, and this one takes the most; send less \
     at once and read what is answered",
);

/// What a connection takes is counted in steps of this, those that are idle as nothing.
const WEIGHED: usize = 16 * 1024;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client closed it, or it broke.
    Closed,
    /// The client asked for it, and has its answer.
    Asked,
    /// A bound was exceeded: time, size or grammar. Which one, if the log is to tell it.
    Cut(Option<&'static str>),
    /// The node or the VIP is leaving, or somebody else ended it.
    Told,
}

/// Whether a request is the line of HTTP. A browser can be made to send such to any port, with commands in the body, from a
/// machine that is trusted; so what follows is not listened to, as in Redis.
fn is_http(argv: &[Bytes]) -> bool {
    argv.first().is_some_and(|name| name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:"))
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
        later: Vec::new(),
        run: Run::default(),
        replies: Vec::new(),
        pending: 0,
        policy,
        began: Instant::now(),
        waited: Duration::ZERO,
        failed: 0,
        is_half_sent: false,
        weighs: 0,
        was_busy: false,
        logins: Logins::default(),
        taken: 0,
        begun: None,
        room: READ_MIN,
        held,
    };
    let ending = serving.run().await.err().unwrap_or(Ending::Asked);
    if let Ending::Cut(why) = ending {
        worker.counters.counters.cut_total.up();
        if let Some(why) = why {
            worker.tell_cut(&serving.card.peer, why);
        }
    }
    let ending = if serving.card.is_ended_for_room() { serving.make_room().await } else { ending };
    // Whoever is told to leave is told so in TLS as well, and not waited for.
    if !matches!(ending, Ending::Closed) {
        serving.part().await;
    }
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
    /// An answer that comes after mail which is being sent.
    later: Vec<u8>,
    run: Run,
    replies: Vec<Reply>,
    /// Bytes of answers that are there and not in `out` yet.
    pending: usize,
    policy: Rc<Policy>,
    /// When the bytes were there that are being carried out.
    began: Instant,
    /// How long the cluster was waited for since then, or since it did something.
    waited: Duration,
    /// Commands that the cluster could not carry out.
    failed: u64,
    /// Some bytes of `out` were sent and others were not: nothing that is sent now would be understood.
    is_half_sent: bool,
    /// What it was last counted as against the node's budget.
    weighs: usize,
    /// Something arrived since it was last waited for.
    was_busy: bool,
    logins: Logins,
    /// Requests that were taken, and when the one began that is amid, on the worker's clock, with its number.
    taken: u64,
    begun: Option<(u64, u64)>,
    room: usize,
}

/// However it ends, also by a panic: nobody sends to a connection that is not there.
impl<S> Drop for Serving<S> {
    fn drop(&mut self) {
        let node = &self.held.worker.node;
        self.connection.end(&node.subscribers);
        node.clients.remove(self.card.id);
        if std::thread::panicking() {
            self.held.worker.counters.counters.panics_total.up();
        }
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
                match self.connection.follow(&self.policy) {
                    Follows::Yes => {}
                    Follows::Gone => return Err(self.turn_away(&trust::GONE).await),
                    Follows::Denied(why) => return Err(self.turn_away(&why.reply()).await),
                }
            }
            if self.connection.has_lapsed(self.held.worker.deadlines.now_ms()) {
                return Err(self.turn_away(&trust::LAPSED).await);
            }
            self.carry_out().await?;
            self.hear().await?;
            self.flush().await?;
            self.wait().await?;
        }
    }

    /// Notes what the connection takes. If all together take too much, those that take the most are ended.
    fn weigh(&mut self) {
        let answers = self.out.capacity() + self.later.capacity() + self.pending;
        let requests = self.buf.capacity() + self.requests.takes() + self.run.takes();
        let takes = requests + answers + self.connection.keeps();
        // What changes with each request is not worth counting.
        let takes = takes / WEIGHED * WEIGHED;
        let before = std::mem::replace(&mut self.weighs, takes);
        self.card.changes(before, takes);
        if takes > before {
            let clients = &self.held.worker.node.clients;
            clients.budget.keep_to(Budget::max(&self.policy), clients);
        }
    }

    /// Counts answers that wait for their turn, which comes when the client has read those before. What they share with the
    /// store counts too: it may be replaced there meanwhile.
    fn hold(&mut self, replies: &[Reply]) {
        self.pending = replies.iter().map(|reply| reply.bytes() as usize).sum();
        if self.pending >= WEIGHED {
            self.weigh();
        }
    }

    /// The connection was ended because all take too much: says so, unless there are answers that were not sent, of which the
    /// client would take this for the first. It is left to find out what was changed, as by any loss of a connection.
    async fn make_room(&mut self) -> Ending {
        self.held.worker.counters.counters.cut_total.up();
        self.connection.discard_queued();
        (self.buf, self.run, self.later) = (BytesMut::new(), Run::default(), Vec::new());
        let is_answered = self.out.is_empty() && !self.is_half_sent;
        self.out = Vec::new();
        if is_answered {
            self.connection.say(&NO_ROOM, &mut self.out);
            // As much as the socket takes at once; the connection is ended whatever comes of it.
            let _ = self.flush().await;
        }
        self.card.changes(std::mem::take(&mut self.weighs), 0);
        Ending::Asked
    }

    /// Says why the client is not served any longer.
    async fn turn_away(&mut self, why: &Reply) -> Ending {
        self.held.worker.tell_refused(&self.card.peer, &trust::words(why));
        self.connection.say(why, &mut self.out);
        self.flush().await.err().unwrap_or(Ending::Asked)
    }

    /// Carries out what has arrived.
    async fn carry_out(&mut self) -> Result<(), Ending> {
        loop {
            let bounds = self.connection.bounds(&self.policy);
            match self.requests.next(&mut self.buf, &bounds, &mut self.argv) {
                Ok(true) => self.taken += 1,
                Ok(false) => return self.finish_run().await,
                Err(error) => {
                    self.finish_run().await?;
                    self.held.worker.counters.counters.malformed_total.up();
                    self.connection.say(&Reply::Error(format!("ERR {error}").into()), &mut self.out);
                    self.flush().await?;
                    return Err(Ending::Cut(Some("what it sent is no request")));
                }
            }
            if is_http(&self.argv) {
                self.finish_run().await?;
                self.held.worker.counters.counters.malformed_total.up();
                self.flush().await?;
                return Err(Ending::Cut(Some(
                    "it speaks HTTP to the port of Redis clients, as a page in a browser that attacks it would",
                )));
            }
            let argv = std::mem::take(&mut self.argv);
            match self.connection.sort(argv, &self.policy) {
                Sorted::Keyspace(call) => {
                    self.gather(call).await?;
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
        // What was told before comes first, in the version of the protocol that was spoken then.
        self.hear().await?;
        let (before, resp, spec) = (self.out.len(), self.connection.resp(), call.spec());
        let worker = self.held.worker.clone();
        let step = self.connection.own(&call, &worker.node, &self.policy, &mut self.out);
        let mut failed = self.out.get(before) == Some(&b'-');
        match step {
            // Confirmations of subscriptions are answers each.
            Step::Answered if spec.name.ends_with("subscribe") => {}
            Step::Answered => failed |= self.bound_answer(before),
            Step::Exec(exec) => failed = self.exec(exec).await?,
            Step::Watch(keys) => {
                self.watch(keys).await?;
                failed = self.out.get(before) == Some(&b'-');
            }
            Step::Login(login) => {
                self.login(login).await?;
                failed = self.out.get(before) == Some(&b'-');
            }
            Step::Close => {
                self.flush().await?;
                return Err(Ending::Asked);
            }
        }
        self.settle(before, resp).await?;
        worker.counters.answered(spec, self.us(), failed);
        Ok(())
    }

    /// Before anything of the keyspace: where the VIP is another node's, what was not begun is begun there.
    fn check_vip(&self) -> Result<(), Ending> {
        if self.held.listener.may_serve() { Ok(()) } else { Err(Ending::Told) }
    }

    fn refuse(&mut self, unavailable: &Unavailable) {
        self.failed += 1;
        self.held.worker.counters.counters.unavailable_total.up();
        self.connection.say(&unavailable.reply(), &mut self.out);
    }

    async fn answer(&mut self, spec: &'static Spec, call: Option<&Call>, reply: Reply, us: u64) -> Result<(), Ending> {
        let (before, mut failed) = (self.out.len(), matches!(reply, Reply::Error(_)));
        self.pending = self.pending.saturating_sub(reply.bytes() as usize);
        self.connection.answer(spec, call, reply, &mut self.out);
        failed |= self.bound_answer(before);
        self.connection.answered();
        self.held.worker.counters.answered(spec, us, failed);
        self.flush_soon().await
    }

    /// Puts an error in the place of an answer that is larger than is allowed. Whether it was.
    fn bound_answer(&mut self, before: usize) -> bool {
        let too_large = self.out.len() - before > self.policy.limits.output_max;
        if too_large {
            self.out.truncate(before);
            self.connection.say(&Reply::TOO_LARGE, &mut self.out);
        }
        too_large
    }

    /// Microseconds since the bytes were there that are being carried out: one look at the clock for a whole run.
    fn us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn reader(&self) -> Reader<'_> {
        let (policy, stale) = (&*self.policy, self.connection.reads_stale());
        Reader { worker: &self.held.worker, policy, stale, patience: self.patience() }
    }

    /// How long the cluster may still be waited for: what has arrived together has one deadline, which begins anew when
    /// something of it was carried out.
    fn patience(&self) -> Patience {
        Patience::of(self.policy.limits.deadline, self.waited)
    }

    /// Notes how long the cluster was waited for.
    fn waited<T>(&mut self, since: Instant, result: Result<T, Unavailable>) -> Result<T, Unavailable> {
        self.waited += since.elapsed();
        result
    }
}
