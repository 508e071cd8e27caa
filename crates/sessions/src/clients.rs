//! Who is connected to this node: what `CLIENT LIST` shows, `CLIENT KILL` ends, and what subscribers are sent.
//!
//! Each connection has one card that all threads see. Its own worker writes it; others may only put mail in, or ask it to end.
//!
//! Not here: who subscribed to what ([`crate::subscribers`]).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use ballast_core::session::Spec;

use crate::{budget::Budget, mail::Letter, policy::Access, wire::Resp};

/// One connection, as all threads see it.
#[derive(Debug)]
pub struct Card {
    /// Unique in the life of this process.
    pub id: u64,
    /// Where the client is: an address with a port, or the socket's path.
    pub peer: String,
    /// Where it came in.
    pub local: String,
    /// When, on the boot clock.
    pub since_ms: u64,
    /// When it last sent something, on the boot clock.
    pub active_ms: AtomicU64,
    /// The database that it has selected.
    pub database: AtomicU16,
    command: AtomicUsize,
    /// Bytes that it takes for itself.
    takes: AtomicUsize,
    /// Bytes of the mail that waits, which it may share with others.
    mail_bytes: AtomicUsize,
    ended: AtomicBool,
    ended_for_room: AtomicBool,
    mail_waits: AtomicBool,
    facts: Mutex<Facts>,
    mail: Mutex<Mail>,
    waker: Mutex<Option<Waker>>,
    budget: Arc<Budget>,
}

impl Drop for Card {
    fn drop(&mut self) {
        self.budget.change(self.takes.load(Ordering::Relaxed), 0);
    }
}

/// What changes rarely.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `CLIENT SETNAME`.
    pub name: String,
    /// Who it is; `None` until it said.
    pub access: Option<Arc<Access>>,
    /// Version of the protocol.
    pub resp: Resp,
    /// Channels subscribed to.
    pub channels: usize,
    /// Patterns subscribed to.
    pub patterns: usize,
    /// Commands queued; `None` outside `MULTI`.
    pub queued: Option<usize>,
    /// `CLIENT NO-EVICT`.
    pub no_evict: bool,
}

#[derive(Debug, Default)]
struct Mail {
    letters: VecDeque<Letter>,
    /// On the wire.
    bytes: usize,
    bytes_max: usize,
}

/// What a letter takes beside its message.
const LETTER: usize = size_of::<Letter>();

/// Room for letters that a connection keeps which has none.
const LETTERS_IDLE: usize = 32;

impl Card {
    /// What changes rarely.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task that serves the connection.
    pub fn served_by(&self, waker: Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// A command is being carried out.
    pub fn carries_out(&self, spec: &'static Spec) {
        self.command.store(std::ptr::from_ref(spec) as usize, Ordering::Relaxed);
    }

    /// Ends the connection soon.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends the connection soon, because all together take too much memory.
    pub fn end_for_room(&self) {
        self.ended_for_room.store(true, Ordering::Release);
        self.end();
    }

    /// Whether it was ended for that.
    pub fn is_ended_for_room(&self) -> bool {
        self.ended_for_room.load(Ordering::Acquire)
    }

    /// Bytes that the connection takes. Messages that wait for others as well are counted as its own.
    pub fn takes(&self) -> usize {
        self.takes.load(Ordering::Relaxed) + self.mail_bytes.load(Ordering::Relaxed)
    }

    /// Notes that something that took so many bytes takes others now.
    pub fn changes(&self, before: usize, now: usize) {
        if now >= before {
            self.takes.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.takes.fetch_sub(before - now, Ordering::Relaxed);
        }
        self.budget.change(before, now);
    }

    /// Whether the connection was ended by somebody else.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Puts a letter in; a connection that does not read what it has is ended.
    pub fn send(&self, letter: Letter) {
        let mut mail = self.mail();
        self.changes(0, LETTER);
        mail.bytes += letter.bytes();
        mail.letters.push_back(letter);
        let overflown = mail.bytes > mail.bytes_max;
        if overflown {
            self.changes(mail.letters.len() * LETTER, 0);
            mail.bytes = 0;
            mail.letters = VecDeque::new();
        }
        self.mail_bytes.store(mail.bytes, Ordering::Relaxed);
        drop(mail);
        self.mail_waits.store(true, Ordering::Release);
        if overflown {
            self.ended.store(true, Ordering::Release);
        }
        self.wake();
    }

    /// How many letters wait, which are to be taken with [`Self::first_letter`]. Those that come from now on are told by
    /// [`Self::has_mail`].
    pub fn letters(&self) -> usize {
        if !self.mail_waits.load(Ordering::Acquire) {
            return 0;
        }
        self.mail_waits.store(false, Ordering::Release);
        self.mail().letters.len()
    }

    /// The letter that waits the longest. It counts as waiting until [`Self::letter_sent`].
    pub fn first_letter(&self) -> Option<Letter> {
        self.mail().letters.front().cloned()
    }

    /// The letter that waited the longest is sent, or on its way.
    pub fn letter_sent(&self) {
        let mut mail = self.mail();
        // There may be none: a connection that has too many is ended, and has none then.
        if let Some(letter) = mail.letters.pop_front() {
            mail.bytes -= letter.bytes();
            self.changes(LETTER, 0);
            self.mail_bytes.store(mail.bytes, Ordering::Relaxed);
            if mail.letters.is_empty() {
                mail.letters.shrink_to(LETTERS_IDLE);
            }
        }
    }

    /// Whether mail came since the letters were last counted.
    pub fn has_mail(&self) -> bool {
        self.mail_waits.load(Ordering::Acquire)
    }

    /// How much mail may wait.
    pub fn bound_mail(&self, bytes_max: usize) {
        self.mail().bytes_max = bytes_max;
    }

    /// A line as `CLIENT LIST` shows it. What Redis counts and Ballast has no such thing for is zero.
    pub fn line(&self, now_ms: u64, command: Option<&str>) -> String {
        let facts = self.facts().clone();
        let flags = match (&facts, facts.channels + facts.patterns) {
            (Facts { queued: Some(_), .. }, _) => "x",
            (_, 1..) => "P",
            (Facts { no_evict: true, .. }, _) => "e",
            _ => "N",
        };
        let seconds = |since: u64| now_ms.saturating_sub(since) / 1000;
        format!(
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub=0 multi={} qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem={} events=r cmd={} user={} redir=-1 \
             resp={}\n",
            self.id,
            self.peer,
            self.local,
            facts.name,
            seconds(self.since_ms),
            seconds(self.active_ms.load(Ordering::Relaxed)),
            self.database.load(Ordering::Relaxed),
            facts.channels,
            facts.patterns,
            facts.queued.map_or(-1, |queued| i64::try_from(queued).unwrap_or(i64::MAX)),
            self.takes(),
            command.or_else(|| self.command_name()).unwrap_or("NULL"),
            facts.access.as_ref().map_or("(superuser)", |access| &access.user),
            facts.resp.number(),
        )
    }

    fn command_name(&self) -> Option<&'static str> {
        let address = self.command.load(Ordering::Relaxed);
        ballast_core::session::specs().find(|spec| std::ptr::from_ref(*spec) as usize == address).map(|spec| spec.name)
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }
}

/// All connections of this node.
#[derive(Debug, Default)]
pub struct Clients {
    /// What they may take together.
    pub budget: Arc<Budget>,
    last: AtomicU64,
    all: Mutex<BTreeMap<u64, Arc<Card>>>,
}

impl Clients {
    /// A new connection.
    pub fn add(&self, peer: String, local: String, now_ms: u64) -> Arc<Card> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let card = Arc::new(Card {
            id,
            peer,
            local,
            since_ms: now_ms,
            active_ms: AtomicU64::new(now_ms),
            database: AtomicU16::new(0),
            command: AtomicUsize::new(0),
            takes: AtomicUsize::new(0),
            mail_bytes: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            ended_for_room: AtomicBool::new(false),
            budget: self.budget.clone(),
            mail_waits: AtomicBool::new(false),
            facts: Mutex::default(),
            mail: Mutex::default(),
            waker: Mutex::default(),
        });
        self.lock().insert(id, card.clone());
        card
    }

    /// A connection has ended.
    pub fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<Card>> {
        self.lock().values().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Card>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
