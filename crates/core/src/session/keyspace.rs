//! All databases together: lifetimes, versions, memory and what is told of changes.
//!
//! Everything here is replicated and so depends on nothing but the log: what time it is comes with each entry, and the
//! versions of keys are counted by their changes.
//!
//! Not here: what commands mean ([`super::run`]), who asks ([`super::Sessions`]).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    Notice, Reply, Settings, Write,
    call::Call,
    database::{Database, Entry},
    run, scripts,
    shelf::Seed,
    spec::Class,
    value::Value,
};
use crate::config::SessionEviction;

/// Keys that one entry of the log removes because their lives are over: a millisecond's work or two. Keys that wait for
/// it count for nothing meanwhile but their memory.
const ENDED_PER_ENTRY: usize = 1000;

/// Keys that may be evicted for one command. One that needs the memory of more is refused, and the next one finds it.
const EVICTED_PER_COMMAND: usize = 1000;

/// What happened to keys since the first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Keys removed because their lives were over.
    pub expired: u64,
    /// Keys that gave way to others.
    pub evicted: u64,
}

/// The databases.
pub(super) struct Keyspace {
    pub(super) seed: Seed,
    pub(super) databases: BTreeMap<u16, Database>,
    /// Changes of keys so far.
    pub(super) changes: u64,
    pub(super) totals: Totals,
    /// Log time, in milliseconds.
    pub(super) now: u64,
    pub(super) settings: Arc<Settings>,
    /// Whether anybody wants to be told.
    pub(super) listening: bool,
    notices: Vec<Notice>,
    /// What was flushed, to be freed when nobody waits for it.
    flushed: Vec<Database>,
}

impl Keyspace {
    pub(super) fn new(seed: Seed, settings: Arc<Settings>) -> Self {
        Self {
            seed,
            databases: BTreeMap::new(),
            changes: 0,
            totals: Totals::default(),
            now: 0,
            settings,
            listening: false,
            notices: Vec::new(),
            flushed: Vec::new(),
        }
    }

    /// Carries out what the log says.
    pub(super) fn apply(&mut self, write: &Write) -> Vec<Reply> {
        if write.watched.iter().any(|watched| self.version(watched.database, &watched.key) != watched.version) {
            return vec![Reply::NullArray];
        }
        if write.atomic && write.calls.iter().any(needs_memory) && !self.make_room() {
            return vec![OUT_OF_MEMORY_EXEC];
        }
        let mut room = self.answers_max();
        let each = |call: &Call| {
            let reply = match !write.atomic && needs_memory(call) && !self.make_room() {
                true => OUT_OF_MEMORY,
                false => self.carry_out(call, room),
            };
            room = room.saturating_sub(reply.bytes());
            reply
        };
        write.calls.iter().map(each).collect()
    }

    /// What the answers to calls that were sent together may take.
    pub(super) fn answers_max(&self) -> u64 {
        self.settings.limits.output_max.as_bytes()
    }

    fn carry_out(&mut self, call: &Call, room: u64) -> Reply {
        if let Some(refusal) = self.refusal(call) {
            return refusal;
        }
        match call.class() {
            Class::Read => run::read(&run::View { keyspace: self, now: self.now, turn: self.changes, room }, call),
            Class::Write => run::write(self, call),
            Class::Connection => Reply::error("ERR this command is not one of the keyspace"),
        }
    }

    /// Why a call is out of bounds, if it is.
    pub(super) fn refusal(&self, call: &Call) -> Option<Reply> {
        if call.database >= self.settings.databases {
            return Some(Reply::error("ERR DB index is out of range"));
        }
        if call.class() == Class::Read {
            return None;
        }
        let limits = &self.settings.limits;
        if call.keys().any(|key| key.len() as u64 > limits.key_max.as_bytes()) {
            return Some(Reply::Error(
                format!("ERR key is longer than the {} that are allowed", limits.key_max).into(),
            ));
        }
        if call.args.iter().any(|arg| arg.len() as u64 > limits.value_max.as_bytes()) {
            let text = format!("ERR value is longer than the {} that are allowed", limits.value_max);
            return Some(Reply::Error(text.into()));
        }
        None
    }

    /// Removes keys whose lives are over, so many as one entry may, those that ended first before others.
    pub(super) fn sweep(&mut self) {
        for _ in 0..ENDED_PER_ENTRY {
            let first = |(number, database): (&u16, &Database)| database.first_end().map(|end| (end, *number));
            let Some(((end, hash), number)) = self.databases.iter().filter_map(first).min() else { return };
            if end > self.now {
                return;
            }
            self.remove_ended(number, hash, end);
        }
    }

    fn remove_ended(&mut self, number: u16, hash: u64, end: u64) {
        let Some(database) = self.databases.get_mut(&number) else { return };
        let key = database.key_with(hash, |entry| entry.expires == end).expect("what is in the order of ends is there");
        database.remove(hash, &key);
        self.totals.expired += 1;
        self.tell(number, &key, 'x', "expired");
    }

    /// Whether there is room for more, after keys gave way if that is the policy.
    fn make_room(&mut self) -> bool {
        let max = self.settings.memory_max.as_bytes();
        for _ in 0..EVICTED_PER_COMMAND {
            if self.bytes() <= max {
                return true;
            }
            let order = match self.settings.eviction {
                SessionEviction::Noeviction => return false,
                SessionEviction::VolatileLru => Database::longest_idle,
                SessionEviction::VolatileTtl => Database::first_end,
            };
            let first =
                |(number, database): (&u16, &Database)| order(database).map(|(rank, hash)| (rank, hash, *number));
            let Some((rank, hash, number)) = self.databases.iter().filter_map(first).min() else { return false };
            let by_end = self.settings.eviction == SessionEviction::VolatileTtl;
            if by_end && rank <= self.now {
                self.remove_ended(number, hash, rank);
                continue;
            }
            let Some(database) = self.databases.get_mut(&number) else { return false };
            let fits = |entry: &Entry| if by_end { entry.expires == rank } else { entry.touched == rank };
            let key = database.key_with(hash, fits).expect("what is in the order is there");
            database.remove(hash, &key);
            self.totals.evicted += 1;
            self.tell(number, &key, 'e', "evicted");
        }
        self.bytes() <= max
    }

    /// What all keys are counted as in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.databases.values().map(Database::bytes).sum()
    }

    /// Keys of a database whose lives are not over.
    pub(super) fn count(&self, database: u16) -> u64 {
        let live = |database: &Database| database.len() - database.ended(self.now);
        self.databases.get(&database).map_or(0, live) as u64
    }

    /// A key whose life is not over.
    pub(super) fn get(&self, database: u16, key: &[u8]) -> Option<&Entry> {
        let entry = self.databases.get(&database)?.get(self.seed.hash(key), key)?;
        (!entry.has_ended(self.now)).then_some(entry)
    }

    /// Whether a key is there by log time, but not any more at `estimate`.
    pub(super) fn is_due(&self, database: u16, key: &[u8], estimate: u64) -> bool {
        self.get(database, key).is_some_and(|entry| entry.has_ended(estimate))
    }

    /// Whether any key of a database is over by the estimate but not by log time.
    pub(super) fn any_is_due(&self, database: u16, estimate: u64) -> bool {
        let first = self.databases.get(&database).and_then(|database| database.first_end_after(self.now));
        first.is_some_and(|end| end <= estimate)
    }

    /// The change that made the key what it is; zero if it is absent.
    pub(super) fn version(&self, database: u16, key: &[u8]) -> u64 {
        self.get(database, key).map_or(0, |entry| entry.version)
    }

    /// As [`Self::get`], for a command that may change the key: one whose life is over is gone after this.
    pub(super) fn look(&mut self, number: u16, key: &[u8]) -> Option<&Entry> {
        let hash = self.seed.hash(key);
        let now = self.now;
        let database = self.databases.get_mut(&number)?;
        if database.get(hash, key)?.has_ended(now) {
            database.remove(hash, key);
            self.totals.expired += 1;
            self.tell(number, key, 'x', "expired");
            return None;
        }
        self.databases.get(&number)?.get(hash, key)
    }

    /// Puts a value in the place of whatever the key has, with this end; zero means none.
    pub(super) fn put(&mut self, number: u16, key: &[u8], value: Value, expires: u64) {
        self.changes += 1;
        let entry = Entry::new(self.seed.hash(key), key, value).with(expires, self.changes, self.changes);
        let database = self.database(number);
        let before = database.len();
        database.put(entry);
        if database.len() > before {
            self.tell(number, key, 'n', "new");
        }
    }

    /// Changes the value of a key that is there; `None` if it is not.
    pub(super) fn edit<R>(&mut self, number: u16, key: &[u8], change: impl FnOnce(&mut Value) -> R) -> Option<R> {
        let hash = self.seed.hash(key);
        self.changes += 1;
        let version = self.changes;
        self.databases.get_mut(&number)?.update(hash, key, |entry| {
            (entry.version, entry.touched) = (version, version);
            entry.change_value(change)
        })
    }

    /// Gives a key that is there another end; zero means none.
    pub(super) fn set_end(&mut self, number: u16, key: &[u8], expires: u64) {
        let hash = self.seed.hash(key);
        self.changes += 1;
        let version = self.changes;
        if let Some(database) = self.databases.get_mut(&number) {
            database.update(hash, key, |entry| {
                (entry.expires, entry.version, entry.touched) = (expires, version, version);
            });
        }
    }

    /// Counts a key as named just now, without a change.
    pub(super) fn touch(&mut self, number: u16, key: &[u8]) {
        self.changes += 1;
        let (hash, change) = (self.seed.hash(key), self.changes);
        if let Some(database) = self.databases.get_mut(&number) {
            database.update(hash, key, |entry| entry.touched = change);
        }
    }

    /// Takes a key away; what it was.
    pub(super) fn remove(&mut self, number: u16, key: &[u8]) -> Option<Entry> {
        let hash = self.seed.hash(key);
        let old = self.databases.get_mut(&number)?.remove(hash, key)?;
        self.changes += 1;
        Some(old)
    }

    /// Takes all keys of a database away, or of all of them.
    pub(super) fn flush(&mut self, number: Option<u16>) {
        self.changes += 1;
        match number {
            Some(number) => self.flushed.extend(self.databases.remove(&number)),
            None => self.flushed.extend(std::mem::take(&mut self.databases).into_values()),
        }
    }

    /// Notes an event of a key for whoever listens.
    pub(super) fn tell(&mut self, database: u16, key: &[u8], class: char, event: &'static str) {
        if self.listening && self.settings.notify.contains(class) {
            self.notices.push(Notice::Event { database, key: Bytes::copy_from_slice(key), class, event });
        }
    }

    /// Notes a message for whoever listens.
    pub(super) fn publish(&mut self, channel: &Bytes, payload: &Bytes) {
        if self.listening {
            self.notices.push(Notice::Message { channel: channel.clone(), payload: payload.clone() });
        }
    }

    /// What was noted and what was flushed since the last call.
    pub(super) fn take_leavings(&mut self) -> (Vec<Notice>, Vec<Database>) {
        (std::mem::take(&mut self.notices), std::mem::take(&mut self.flushed))
    }

    /// Follows the document.
    pub(super) fn configure(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        let wanted = self.tracks_idle();
        self.databases.values_mut().for_each(|database| database.track_idle(wanted));
    }

    pub(super) fn tracks_idle(&self) -> bool {
        self.settings.eviction == SessionEviction::VolatileLru
    }

    fn database(&mut self, number: u16) -> &mut Database {
        let track_idle = self.tracks_idle();
        self.databases.entry(number).or_insert_with(|| Database::new(number, track_idle))
    }
}

fn needs_memory(call: &Call) -> bool {
    call.spec().has_flag("denyoom") || scripts::needs_memory(call)
}

const OUT_OF_MEMORY: Reply = Reply::error("OOM command not allowed when used memory > 'maxmemory'.");
const OUT_OF_MEMORY_EXEC: Reply =
    Reply::error("EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.");
