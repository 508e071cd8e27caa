//! What a connection is: who, which database, what is queued, watched and listened to, and how that decides what becomes of a
//! request.
//!
//! Mostly pure: [`Connection::sort`] says what a request is, [`Connection::own`] carries out what concerns the connection
//! alone. What the keyspace, the log or a slow hash must decide is handed out as a [`Step`].
//!
//! Not here: bytes ([`crate::wire`]), waiting ([`crate::serve`]).

mod client;
mod command;
mod config;
mod hello;
mod info;
mod own;
mod pubsub;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ballast_core::session::{Call, Class, Reply, Spec, Watched, parse_database};
use bytes::Bytes;

use crate::{
    clients::{Card, Facts},
    node::Node,
    passwords::Source,
    policy::{Access, Policy},
    subscribers::{Kind, Subscribers},
    trust::{NotAdmitted, Trust},
    wire::{Bounds, Out, Resp},
};

pub use hello::Login;

/// What a connection knows of itself.
#[derive(Debug)]
pub struct Connection {
    card: Arc<Card>,
    resp: Resp,
    database: u16,
    /// `None` until the client says who it is.
    access: Option<Arc<Access>>,
    trust: Trust,
    /// `READONLY` or `READWRITE` was said.
    stale: Option<bool>,
    silence: Silence,
    transaction: Option<Transaction>,
    /// Versions by database and key.
    watched: BTreeMap<(u16, Bytes), u64>,
    /// Keys were to be watched that could not be: a transaction would not have the guard that its client counts on.
    is_unguarded: bool,
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    /// Subscriptions among them that the node's lists do not have yet.
    begun: BTreeSet<(Kind, Bytes)>,
    /// The node's lists let go of some, and that is not answered yet.
    has_left: bool,
    /// Bytes of the keys that are watched.
    watched_bytes: usize,
    /// Bytes of the names of both.
    names_bytes: usize,
}

/// Commands between `MULTI` and `EXEC`.
#[derive(Debug)]
struct Transaction {
    calls: Vec<Call>,
    /// What it takes in memory.
    bytes: usize,
    /// What its commands were sent as.
    sent: usize,
    words: usize,
    /// The database that a `SELECT` among the commands has selected.
    database: u16,
    /// A command could not be queued; `EXEC` will refuse.
    broken: bool,
}

/// Answers that are not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// All are wanted.
    Off,
    /// The next one is not.
    Next,
    /// That of this command is not.
    Now,
    /// None is.
    On,
}

/// What a request is.
#[derive(Debug)]
pub enum Sorted {
    /// A call of the keyspace.
    Keyspace(Call),
    /// A command for [`Connection::own`].
    Own(Call),
    /// It is answered already.
    Said(Reply),
}

/// What remains to be done for a command of the connection.
#[derive(Debug)]
pub enum Step {
    /// Nothing: the answer is written.
    Answered,
    /// Carry these out as one, and answer with [`Connection::answer_exec`].
    Exec(Exec),
    /// Find out the versions of these keys, and call [`Connection::watch`].
    Watch(Vec<Bytes>),
    /// Verify a password, and call [`Connection::logged_in`].
    Login(Login),
    /// Close once the answer is sent.
    Close,
}

/// Whether a connection goes on after a change of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// It does.
    Yes,
    /// Its user is gone.
    Gone,
    /// Protected mode keeps it out.
    Denied(NotAdmitted),
}

/// A transaction to carry out.
#[derive(Debug)]
pub struct Exec {
    /// Its commands, those of the connection among them, and why one is not allowed any more.
    pub calls: Vec<(Call, Option<Reply>)>,
    /// What must not have changed.
    pub watched: Vec<Watched>,
}

impl Exec {
    /// The commands that are the keyspace's to carry out.
    pub fn of_keyspace(&self) -> impl Iterator<Item = &Call> {
        let of_keyspace =
            |(call, refused): &&(Call, Option<Reply>)| refused.is_none() && call.class() != Class::Connection;
        self.calls.iter().filter(of_keyspace).map(|(call, _)| call)
    }
}

impl Connection {
    /// A connection that has said nothing yet. `access` is what it may do without saying who it is.
    pub fn new(card: Arc<Card>, access: Option<Arc<Access>>, trust: Trust) -> Self {
        card.facts().access.clone_from(&access);
        Self {
            card,
            resp: Resp::Two,
            database: 0,
            access,
            trust,
            stale: None,
            silence: Silence::Off,
            transaction: None,
            watched: BTreeMap::new(),
            is_unguarded: false,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            begun: BTreeSet::new(),
            has_left: false,
            watched_bytes: 0,
            names_bytes: 0,
        }
    }

    /// Says what a request is, and queues it if it belongs to a transaction.
    pub fn sort(&mut self, argv: Vec<Bytes>, policy: &Policy) -> Sorted {
        if self.silence == Silence::Next {
            self.silence = Silence::Now;
        }
        if let Some(reply) = client::beyond_redis_seven(&argv) {
            return Sorted::Said(if self.access.is_some() { reply } else { NOAUTH });
        }
        let database = self.transaction.as_ref().map_or(self.database, |transaction| transaction.database);
        let call = match Call::parse(database, argv) {
            Ok(call) => call,
            Err(reply) => return self.refuse(reply, None),
        };
        let spec = call.spec();
        match &self.access {
            None if !spec.has_flag("no_auth") => return self.refuse(NOAUTH, Some(spec)),
            Some(access) => {
                if let Err(reply) = access.check(&call) {
                    return self.refuse(reply, Some(spec));
                }
            }
            None => {}
        }
        if self.resp == Resp::Two && self.listens() && !may_while_subscribed(spec.name) {
            let text = format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
                 context",
                spec.name
            );
            return self.refuse(Reply::Error(text.into()), Some(spec));
        }
        if let Some(kind) = pubsub::long_name(&call, policy) {
            return self.refuse(pubsub::longer(kind, policy.settings.limits.key_max), Some(spec));
        }
        let class = call.class();
        if self.transaction.is_some() && !(class == Class::Connection && is_never_queued(spec.name)) {
            return self.queue(call, policy);
        }
        if class == Class::Connection { Sorted::Own(call) } else { Sorted::Keyspace(call) }
    }

    /// Whether reads see what this node has applied, without asking a quorum.
    pub fn reads_stale(&self) -> bool {
        self.stale.unwrap_or_else(|| self.access.as_ref().is_some_and(|access| access.stale))
    }

    /// Whether the client has to say who it is before it may do anything.
    pub fn is_stranger(&self) -> bool {
        self.access.is_none()
    }

    /// Where its logins come from.
    pub fn source(&self) -> Source {
        self.trust.source()
    }

    /// What the client may send.
    pub fn bounds(&self, policy: &Policy) -> Bounds {
        Bounds {
            request_max: policy.limits.request_max,
            arguments_max: policy.limits.arguments_max,
            stranger: self.is_stranger(),
        }
    }

    /// Writes an answer of the keyspace to `call`.
    pub fn answer(&mut self, spec: &'static Spec, call: Option<&Call>, mut reply: Reply, out: &mut Vec<u8>) {
        if let (Some(access), Some(call)) = (&self.access, call) {
            access.filter(call, &mut reply);
        }
        self.card.carries_out(spec);
        self.say(&reply, out);
    }

    /// Writes an answer.
    pub fn say(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        if !self.is_silent() {
            Out::new(out, self.resp).reply(reply);
        }
    }

    /// Carries a command of the connection out and writes its answer, unless the step says what is missing.
    pub fn own(&mut self, call: &Call, node: &Node, policy: &Policy, out: &mut Vec<u8>) -> Step {
        self.card.carries_out(call.spec());
        let (before, was_silent) = (out.len(), self.is_silent());
        let step = self.dispatch(call, node, policy, out);
        // `CLIENT REPLY OFF` is not answered, `CLIENT REPLY ON` is.
        if self.is_silent() || was_silent && self.silence != Silence::Off {
            out.truncate(before);
        }
        step
    }

    /// The keys of a `WATCH` and their versions. A key that is watched already is watched as it was then. False if that
    /// would be too many, and then none is watched.
    pub fn watch(&mut self, watched: impl Iterator<Item = Watched>) -> bool {
        for watch in watched {
            // The key would keep the whole request in memory.
            let key = (watch.database, Bytes::copy_from_slice(&watch.key));
            self.watched.entry(key).or_insert(watch.version);
        }
        self.watched_bytes = self.watched.keys().map(|(_, key)| key.len()).sum();
        let fits = self.watched.len() <= WATCHED_MAX && self.watched_bytes <= WATCHED_BYTES_MAX;
        if !fits {
            self.unwatch();
            self.cannot_watch();
        }
        fits
    }

    /// A `WATCH` failed: the next transaction is refused, unless the client gives up watching before. That it watches
    /// something later does not make up for it, because this keeps no account of what was not watched.
    pub fn cannot_watch(&mut self) {
        self.is_unguarded = true;
    }

    /// Bytes that are kept for it between requests: what is queued, watched and listened to.
    pub fn keeps(&self) -> usize {
        let queued = self.transaction.as_ref().map_or(0, |transaction| transaction.bytes);
        let subscriptions = self.names_bytes + (self.channels.len() + self.patterns.len()) * SUBSCRIPTION_BYTES;
        queued + subscriptions + self.watched_bytes + self.watched.len() * WATCHED_BYTES
    }

    /// Lets go of what is queued and watched.
    pub fn discard_queued(&mut self) {
        self.discard();
    }

    /// The database that is selected.
    pub fn database(&self) -> u16 {
        self.database
    }

    /// Writes the answer of `EXEC`. `replies` are those of the keyspace's calls in `exec`, in order.
    pub fn answer_exec(&mut self, exec: &Exec, replies: Vec<Reply>, node: &Node, policy: &Policy, out: &mut Vec<u8>) {
        let silent = self.is_silent();
        let before = out.len();
        let room = policy.limits.output_max;
        Out::new(out, self.resp).array(exec.calls.len());
        let mut replies = replies.into_iter();
        for (call, refused) in &exec.calls {
            let start = out.len();
            let is_full = start - before > room;
            if let Some(refused) = refused {
                Out::new(out, self.resp).reply(refused);
            } else if call.class() == Class::Connection {
                if is_full && only_tells(call.spec()) {
                    Out::new(out, self.resp).reply(&Reply::TOO_LARGE);
                } else if matches!(self.dispatch(call, node, policy, out), Step::Close) {
                    self.card.end();
                }
            } else if let Some(mut reply) = replies.next() {
                if let Some(access) = &self.access {
                    access.filter(call, &mut reply);
                }
                Out::new(out, self.resp).reply(&reply);
            }
            if out.len() - before > room && out.len() - start > ANSWER_SMALL {
                out.truncate(start);
                Out::new(out, self.resp).reply(&Reply::TOO_LARGE);
            }
        }
        if silent {
            out.truncate(before);
        }
    }

    /// Takes a change of settings in.
    pub fn follow(&mut self, policy: &Policy) -> Follows {
        if let Err(why) = self.trust.admit(policy) {
            self.take_access(None);
            return Follows::Denied(why);
        }
        let Some(access) = &self.access else {
            self.take_access(policy.anybody());
            return Follows::Yes;
        };
        // Who never said who it is does not become the user `default` by that user's being made.
        let access = if access.is_anybody { policy.anybody() } else { policy.access(&access.user) };
        let stays = access.is_some();
        self.take_access(access);
        if stays { Follows::Yes } else { Follows::Gone }
    }

    /// Whether the certificate that the client has shown has to be looked at now and then.
    pub fn may_lapse(&self) -> bool {
        self.trust.may_lapse()
    }

    /// Whether that certificate is not accepted any more. Looked at once a second.
    pub fn has_lapsed(&mut self, now_ms: u64) -> bool {
        self.trust.has_lapsed(now_ms)
    }

    /// The version of the protocol that it speaks.
    pub fn resp(&self) -> Resp {
        self.resp
    }

    /// Whether the node's lists let go of subscriptions since the last call: nothing is told of them any more, and what was
    /// told comes before the answer.
    pub fn has_left(&mut self) -> bool {
        std::mem::take(&mut self.has_left)
    }

    /// Has the node's lists know what was subscribed to. What is told of it comes after the answer.
    pub fn join(&mut self, subscribers: &Subscribers) {
        for (kind, name) in std::mem::take(&mut self.begun) {
            subscribers.add(kind, name, &self.card);
        }
    }

    /// Leaves nothing behind in the node's lists.
    pub fn end(&mut self, subscribers: &Subscribers) {
        self.names_bytes = 0;
        self.begun.clear();
        self.has_left |= self.listens();
        for channel in std::mem::take(&mut self.channels) {
            subscribers.remove(Kind::Channel, &channel, &self.card);
        }
        for pattern in std::mem::take(&mut self.patterns) {
            subscribers.remove(Kind::Pattern, &pattern, &self.card);
        }
    }

    /// Forgets the silence of one command, which has been answered.
    pub fn answered(&mut self) {
        if self.silence == Silence::Now {
            self.silence = Silence::Off;
        }
    }

    fn is_silent(&self) -> bool {
        matches!(self.silence, Silence::Now | Silence::On)
    }

    /// Whether it has subscribed to anything.
    pub fn listens(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }

    fn take_access(&mut self, access: Option<Arc<Access>>) {
        self.card.facts().access.clone_from(&access);
        self.access = access;
    }

    /// A request that is not carried out: it breaks a transaction.
    fn refuse(&mut self, reply: Reply, spec: Option<&'static Spec>) -> Sorted {
        if let Some(transaction) = &mut self.transaction {
            transaction.broken = true;
            transaction.calls = Vec::new();
            transaction.bytes = 0;
        }
        let is_exec = spec.is_some_and(|spec| spec.name == "exec");
        if let Reply::Error(text) = &reply
            && (is_exec || text == EXEC_ARITY)
        {
            self.discard();
            let text = text.strip_prefix(b"ERR ").unwrap_or(text);
            let text = [b"EXECABORT Transaction discarded because of: ", text].concat();
            return Sorted::Said(Reply::Error(text.into()));
        }
        Sorted::Said(reply)
    }

    fn queue(&mut self, mut call: Call, policy: &Policy) -> Sorted {
        if matches!(call.spec().name, "auth" | "hello") {
            return self.refuse(Reply::error("ERR Command not allowed inside a transaction"), None);
        }
        let databases = policy.settings.databases;
        let Some(transaction) = &mut self.transaction else { return Sorted::Keyspace(call) };
        if transaction.broken {
            // As in Redis: EXEC will refuse, so there is nothing to keep.
            return Sorted::Said(Reply::Simple("QUEUED"));
        }
        let bytes: usize = call.args.iter().map(Bytes::len).sum();
        transaction.bytes += bytes + call.args.len() * size_of::<Bytes>() + size_of::<Call>();
        if bytes < PINNING_MIN {
            // Each would keep the whole read buffer in memory that it came in.
            call.args.iter_mut().for_each(|arg| *arg = Bytes::copy_from_slice(arg));
        }
        // As RESP has it, and so the log takes no more: a length of some bytes before each word.
        transaction.sent += call.spec().name.len() + bytes + (1 + call.args.len()) * WORD_FRAME;
        transaction.words += 1 + call.args.len();
        let (words_max, bytes_max) = (policy.limits.arguments_max.max(QUEUED_WORDS_MAX), policy.limits.request_max);
        let full = if transaction.calls.len() >= QUEUED_MAX {
            Some(format!("{QUEUED_MAX} commands are the most"))
        } else if transaction.words > words_max {
            Some(format!("{words_max} words are the most (sessions.limits.arguments_max)"))
        } else if transaction.sent > bytes_max {
            Some(format!("{bytes_max} bytes are the most (sessions.limits.request_max)"))
        } else {
            None
        };
        if let Some(full) = full {
            let told = format!("ERR the transaction is too large: {full}; EXEC will refuse it");
            return self.refuse(Reply::Error(told.into()), None);
        }
        if call.spec().name == "select"
            && let Ok(database) = parse_database(&call.args[0], databases)
        {
            transaction.database = database;
        }
        transaction.calls.push(call);
        self.card.facts().queued = Some(transaction.calls.len());
        Sorted::Said(Reply::Simple("QUEUED"))
    }

    /// Forgets the transaction and what was watched for it.
    fn discard(&mut self) {
        self.transaction = None;
        self.unwatch();
        self.facts(|facts| facts.queued = None);
    }

    fn unwatch(&mut self) {
        self.watched.clear();
        self.watched_bytes = 0;
        self.is_unguarded = false;
    }

    fn facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.card.facts());
    }
}

/// Commands that a transaction may have, whatever their size: what they and their answers take is bounded so, and how long
/// others wait for them.
const QUEUED_MAX: usize = 16_384;

/// What a word takes beside its bytes where commands are written down.
const WORD_FRAME: usize = 6;

/// Words of them that are allowed even if a request may have fewer.
const QUEUED_WORDS_MAX: usize = 65_536;

/// Bytes of a queued command that keeps its read buffer, which has 256 KiB or is the command's own.
const PINNING_MIN: usize = 128 << 10;

/// Answers of a transaction that need not give way to an error, which is as long.
const ANSWER_SMALL: usize = 64;

/// Keys that a connection may watch. They travel through the log with the transaction; arbitrary beyond that.
const WATCHED_MAX: usize = 4096;
/// Bytes of these keys: 256 for each of them, and as little as else is carried out in one go.
const WATCHED_BYTES_MAX: usize = 1 << 20;

/// What a watched key takes beside its bytes: a place in a tree, and the head of an allocation.
const WATCHED_BYTES: usize = 96;
/// What a subscription takes beside its name: a place here, one in the node's lists, and the list of those who share it.
const SUBSCRIPTION_BYTES: usize = 256;

const EXEC_ARITY: &[u8] = b"ERR wrong number of arguments for 'exec' command";
const NOAUTH: Reply = Reply::error("NOAUTH Authentication required.");

fn may_while_subscribed(name: &str) -> bool {
    matches!(name, "subscribe" | "psubscribe" | "unsubscribe" | "punsubscribe" | "ping" | "quit" | "reset")
}

fn is_never_queued(name: &str) -> bool {
    matches!(name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset")
}

/// Whether all that a command of the connection does is to answer, and at length.
fn only_tells(spec: &Spec) -> bool {
    let container = spec.name.split('|').next().unwrap_or_default();
    matches!(container, "command" | "config" | "info" | "pubsub") || spec.name == "client|list"
}

/// The lines of a `HELP`, as simple strings.
fn own_help(out: &mut Out<'_>, lines: &[&str]) {
    out.array(lines.len());
    lines.iter().for_each(|line| out.simple(line));
}
