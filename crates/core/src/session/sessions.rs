//! The session store as the rest of the process sees it: one handle, many readers, one writer.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use super::{
    Call, Class, Notice, Reply, Settings, Write,
    database::Database,
    keyspace::{Garbage, Keyspace, Totals},
    notice::Queue,
    run,
    shelf::Seed,
    snapshot::{Head, SessionsSnapshot},
    work::{TOO_MUCH_WALKED, TURN, WALK},
};
use crate::{config::Document, time::LogTime};

/// The keys that the cluster agrees on, for any number of readers. Follows the state machine also when a snapshot
/// replaces the state ([`crate::state::State::replace`]).
///
/// One lock over all: the state machine holds it for as long as it carries out the commands of one
/// [`crate::state::Command::Session`], readers share it for about a millisecond at most and walk over what takes longer
/// when they have given it back.
pub struct Sessions {
    pub(super) keyspace: RwLock<Keyspace>,
    settings: ArcSwap<Settings>,
    notices: Mutex<Queue>,
    listening: AtomicBool,
    garbage: Mutex<Garbage>,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Moves on with each read, so that `RANDOMKEY` does not always answer the same.
    turn: AtomicU64,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// A key that a read needs is over by this node's guess of the time but not by the log's. Propose
/// [`crate::state::Command::Tick`], wait for it, and read again without an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due;

/// Why calls are not answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// As [`Due`] says.
    Due,
    /// They walk over more than others should wait for.
    Long,
}

/// How a reader reads.
#[derive(Clone, Copy)]
struct Manner {
    /// Keys that are over by the estimate are absent instead of due.
    stale: bool,
    /// It may take its time, from where others need not wait for it.
    walks: bool,
}

/// Figures of the session store on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The databases that hold anything, by number.
    pub databases: Vec<DatabaseStats>,
    /// What all keys are counted as in memory.
    pub bytes: u64,
    /// What happened to keys since the first entry of the log.
    pub totals: Totals,
    /// Changes of keys since the first entry of the log.
    pub changes: u64,
    /// Notices that this process dropped because nobody took them.
    pub notices_lost: u64,
}

/// Figures of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseStats {
    /// Its number.
    pub database: u16,
    /// Keys whose lives are not over.
    pub keys: u64,
    /// Keys among them whose lives have an end.
    pub ending: u64,
    /// What they are counted as in memory, those included that are over and not removed yet.
    pub bytes: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        let settings = Arc::new(Settings::of(None, 0));
        Self::of(Keyspace::new(Seed::default(), settings))
    }
}

impl Sessions {
    pub(super) fn of(keyspace: Keyspace) -> Self {
        Self {
            settings: ArcSwap::new(Arc::clone(&keyspace.settings)),
            keyspace: RwLock::new(keyspace),
            notices: Mutex::default(),
            listening: AtomicBool::new(false),
            garbage: Mutex::default(),
            wake: OnceLock::new(),
            turn: AtomicU64::new(0),
        }
    }

    /// Carries out calls of [`Class::Read`] on what this node has applied, all of them on one state, and adds one reply
    /// for each.
    ///
    /// `estimate` is this node's guess of what log time is now: lifetimes are told by it. Log time alone judges what is
    /// over, so that a key which is over on one node is over on all.
    ///
    /// # Errors
    /// [`Due`] if a key that is needed is over by the estimate but not by log time; nothing is added then. That answers
    /// together would take more than `output_max` is an error that is answered.
    pub fn read(&self, estimate: Option<LogTime>, calls: &[Call], replies: &mut Vec<Reply>) -> Result<(), Due> {
        self.read_as(Manner { stale: false, walks: true }, estimate, calls, replies).map_err(|_| Due)
    }

    /// As [`Self::read`], or as [`Self::read_stale`] if `stale`, for a thread that others wait for: no more is done than takes
    /// about a millisecond.
    ///
    /// # Errors
    /// [`Unread`]; nothing is added then. What takes long may be read as ever, by a thread that nobody waits for.
    pub fn read_at_once(
        &self,
        stale: bool,
        estimate: Option<LogTime>,
        calls: &[Call],
        replies: &mut Vec<Reply>,
    ) -> Result<(), Unread> {
        self.read_as(Manner { stale, walks: false }, estimate, calls, replies)
    }

    fn read_as(
        &self,
        Manner { stale, walks }: Manner,
        estimate: Option<LogTime>,
        calls: &[Call],
        replies: &mut Vec<Reply>,
    ) -> Result<(), Unread> {
        let begun = replies.len();
        let keyspace = self.keyspace.read();
        let mut reader = Reader { stale, ..Reader::new(self, estimate, &keyspace, replies) };
        reader.check_walks(&keyspace, calls).map_err(|Due| Unread::Due)?;
        let mut work = TURN;
        let done = calls.iter().try_for_each(|call| reader.answer(&keyspace, call, &mut work));
        match done {
            Ok(()) => Ok(()),
            Err(Stop::Due) => {
                reader.take_back(begun);
                Err(Unread::Due)
            }
            Err(Stop::Tired) if !walks => {
                reader.take_back(begun);
                Err(Unread::Long)
            }
            Err(Stop::Tired) => {
                // Once more, where it may take its time.
                let copy = keyspace.detached(calls);
                drop(keyspace);
                reader.take_back(begun);
                (reader.room, reader.alone) = (copy.answers_max(), true);
                let mut work = WALK;
                let done = calls.iter().try_for_each(|call| reader.answer(&copy, call, &mut work));
                done.map_err(|_| {
                    reader.take_back(begun);
                    Unread::Due
                })
            }
        }
    }

    /// As [`Self::read`], for those who are content with what this node has applied: nothing is waited for, and keys whose
    /// lives are over by the estimate are absent, though they may be there on a node that is behind in its guess.
    pub fn read_stale(&self, estimate: LogTime, calls: &[Call], replies: &mut Vec<Reply>) {
        // Nothing is due to a reader that leaves out what is over.
        let _ = self.read_as(Manner { stale: true, walks: true }, Some(estimate), calls, replies);
    }

    /// What `WATCH` notes of a key: grows with each change of it, zero while it is absent.
    ///
    /// # Errors
    /// [`Due`] as [`Self::read`].
    pub fn version(&self, estimate: Option<LogTime>, database: u16, key: &[u8]) -> Result<u64, Due> {
        let keyspace = self.keyspace.read();
        match estimate {
            Some(estimate) if keyspace.is_due(database, key, estimate.as_millis()) => Err(Due),
            _ => Ok(keyspace.version(database, key)),
        }
    }

    /// What the document in force says.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The generation of the settings in force, to see at little cost whether they are others.
    pub fn settings_generation(&self) -> u64 {
        self.settings.load().generation
    }

    /// Figures for `INFO` and metrics.
    pub fn stats(&self) -> Stats {
        let keyspace = self.keyspace.read();
        let of = |(number, database): (&u16, &Database)| DatabaseStats {
            database: *number,
            keys: database.live() as u64,
            ending: database.ending() as u64,
            bytes: database.bytes(),
        };
        Stats {
            databases: keyspace.databases.iter().map(of).filter(|stats| stats.keys > 0).collect(),
            bytes: keyspace.bytes(),
            totals: keyspace.totals,
            changes: keyspace.changes,
            notices_lost: self.notices.lock().lost(),
        }
    }

    /// Says whether anybody wants notices. None are kept while nobody does.
    pub fn listen(&self, wanted: bool) {
        self.listening.store(wanted, Ordering::Relaxed);
        if !wanted {
            self.notices.lock().clear();
        }
    }

    /// Takes all notices that wait, oldest first.
    pub fn drain(&self, into: &mut Vec<Notice>) {
        self.notices.lock().drain(into);
    }

    /// Has `wake` called whenever there are new notices, by the thread that applies entries: it must not wait for
    /// anything. Only the first call of a process counts.
    pub fn on_notice(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _later_ones_do_not_count = self.wake.set(Box::new(wake));
    }

    /// Takes what the cluster's first entry says.
    pub(crate) fn found(&self, table_secret: [u8; 16]) {
        self.keyspace.write().seed = Seed(table_secret);
    }

    /// Follows the document in force.
    pub(crate) fn configure(&self, document: Option<&Document>) {
        let old = self.settings.load_full();
        let new = Settings::of(document, old.generation + 1);
        if !new.same(&old) {
            let new = Arc::new(new);
            self.keyspace.write().configure(Arc::clone(&new));
            self.settings.store(new);
        }
    }

    /// An entry begins, and carries log time forward.
    pub(crate) fn advance(&self, now: LogTime) {
        self.keyspace.write().begin_entry(now.as_millis());
    }

    pub(crate) fn apply(&self, write: &Write) -> Vec<Reply> {
        self.writing(|keyspace| keyspace.apply(write))
    }

    pub(crate) fn sweep(&self) {
        self.writing(Keyspace::sweep);
    }

    pub(crate) fn snapshot(&self) -> SessionsSnapshot {
        SessionsSnapshot::of(&self.keyspace.read())
    }

    pub(crate) fn head(&self) -> Head {
        Head::of(&self.keyspace.read())
    }

    /// Takes over the keys of `other`.
    pub(crate) fn replace(&self, other: &Self) {
        let mut keyspace = self.keyspace.write();
        let empty = Keyspace::new(keyspace.seed, Arc::clone(&keyspace.settings));
        let mut theirs = std::mem::replace(&mut *other.keyspace.write(), empty);
        let settings = Settings { generation: self.settings.load().generation + 1, ..(*theirs.settings).clone() };
        let settings = match settings.same(&self.settings.load()) {
            true => self.settings.load_full(),
            false => Arc::new(settings),
        };
        theirs.settings = Arc::clone(&settings);
        let old = std::mem::replace(&mut *keyspace, theirs);
        drop(keyspace);
        self.settings.store(settings);
        self.garbage.lock().append(old.into_garbage());
        // What happened to keys between the two states is in neither of them.
        if self.listening.load(Ordering::Relaxed) {
            self.tell([Notice::Lost]);
        }
    }

    /// What was taken out of the store since the last call, and takes time to free.
    pub(crate) fn take_garbage(&self) -> Garbage {
        std::mem::take(&mut *self.garbage.lock())
    }

    pub(super) fn writing<R>(&self, change: impl FnOnce(&mut Keyspace) -> R) -> R {
        let mut keyspace = self.keyspace.write();
        keyspace.listening = self.listening.load(Ordering::Relaxed);
        let result = change(&mut keyspace);
        let (notices, garbage) = keyspace.take_leavings();
        drop(keyspace);
        if !garbage.is_empty() {
            self.garbage.lock().append(garbage);
        }
        if !notices.is_empty() {
            self.tell(notices);
        }
        result
    }

    fn tell(&self, notices: impl IntoIterator<Item = Notice>) {
        let mut queue = self.notices.lock();
        notices.into_iter().for_each(|notice| queue.push(notice));
        drop(queue);
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }
}

/// Answers calls of one reader, one after the other.
struct Reader<'r> {
    sessions: &'r Sessions,
    estimate: u64,
    room: u64,
    replies: &'r mut Vec<Reply>,
    /// Whether nobody waits for it.
    alone: bool,
    /// Whether keys that are over by the estimate are absent instead of due.
    stale: bool,
}

/// Why a call is not answered here.
enum Stop {
    Due,
    /// It walks over more than others should wait for.
    Tired,
}

impl<'r> Reader<'r> {
    fn new(
        sessions: &'r Sessions,
        estimate: Option<LogTime>,
        keyspace: &Keyspace,
        replies: &'r mut Vec<Reply>,
    ) -> Self {
        let estimate = estimate.map_or(0, LogTime::as_millis);
        Self { sessions, estimate, room: keyspace.answers_max(), replies, alone: false, stale: false }
    }

    /// What names no key is about all of them: `DBSIZE`, `SCAN`.
    fn check_walks(&self, keyspace: &Keyspace, calls: &[Call]) -> Result<(), Due> {
        let is_due = |call: &Call| {
            !self.stale
                && call.keys().next().is_none()
                && keyspace.any_is_due(call.database, self.estimate.max(keyspace.now))
        };
        if calls.iter().any(is_due) { Err(Due) } else { Ok(()) }
    }

    /// Adds the reply to a call, unless it would take more work than there is or finds a key that is due.
    fn answer(&mut self, keyspace: &Keyspace, call: &Call, work: &mut u64) -> Result<(), Stop> {
        let reply = if let Some(refusal) = keyspace.refusal(call) {
            refusal
        } else if call.class() != Class::Read {
            Reply::error("ERR this command changes keys and has to go through the log")
        } else {
            let turn = self.sessions.turn.fetch_add(1, Ordering::Relaxed);
            let (left, due) = (Cell::new(*work), Cell::new(false));
            let now = self.estimate.max(keyspace.now);
            let stale = self.stale;
            let view = run::View { keyspace, now, stale, turn, room: self.room, work: &left, due: &due };
            let reply = run::read(&view, call);
            if due.get() {
                return Err(Stop::Due);
            }
            *work = left.get();
            if reply == TOO_MUCH_WALKED && !self.alone {
                return Err(Stop::Tired);
            }
            reply
        };
        self.room = self.room.saturating_sub(reply.bytes());
        self.replies.push(reply);
        Ok(())
    }

    /// Takes back all replies.
    fn take_back(&mut self, begun: usize) -> Due {
        self.replies.truncate(begun);
        Due
    }
}
