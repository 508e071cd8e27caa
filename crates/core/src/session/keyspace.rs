//! All databases together: lifetimes, versions, memory and what is told of changes.
//!
//! Everything here is replicated and so depends on nothing but the log: what time it is comes with each entry, and the
//! versions of keys are counted by their changes.
//!
//! Not here: what commands mean ([`super::run`]), who asks ([`super::Sessions`]).

use std::{cell::Cell, collections::BTreeMap, ptr, slice, sync::Arc};

use ballast_planted::Bug;
use bytes::Bytes;

use super::{
    Notice, Reply, Settings, Write,
    call::{Call, Rules},
    database::{Database, Entry, Leavings},
    run, scripts,
    shelf::Seed,
    spec::{Class, Op},
    value::Value,
    work::{Allowance, TOO_MUCH_ANSWERED, TOO_MUCH_REWRITTEN},
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
    garbage: Garbage,
    /// What reads of this entry may still look at.
    walks: Allowance,
    /// What writes of this entry may still write again.
    rewrites: Allowance,
    /// Bytes that answers may still have: those that were sent together, and of the entry those to reads.
    answers: Allowance,
    /// Bytes that answers to writes of this entry may still have, without values that they took out.
    kept: Allowance,
    rules: Rules,
}

/// What was taken out of the store and takes time to free. Drop it where nobody waits for it.
#[derive(Default)]
pub struct Garbage {
    databases: Vec<Leavings>,
    values: Vec<Value>,
}

impl Garbage {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty() && self.values.is_empty()
    }

    /// Adds what is in `other`.
    pub fn append(&mut self, mut other: Self) {
        self.databases.append(&mut other.databases);
        self.values.append(&mut other.values);
    }
}

/// Without what lay in the store.
impl std::fmt::Debug for Garbage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shards: usize = self.databases.iter().map(Leavings::shards).sum();
        write!(f, "{} databases of {shards} shards, and {} values", self.databases.len(), self.values.len())
    }
}

/// Fields or members above which freeing a value is put off. As many take some ten microseconds.
const FREED_AT_ONCE_MAX: u64 = 256;

/// What keys of a database are counted as above which freeing it is put off. Making another one takes about as long, and
/// commands that flush and set in turns leave nothing that piles up.
const FREED_AT_ONCE_BYTES: u64 = 64 << 10;

impl Keyspace {
    pub(super) fn new(seed: Seed, settings: Arc<Settings>) -> Self {
        let answers = Allowance::new(settings.limits.output_max.as_bytes());
        Self {
            seed,
            databases: BTreeMap::new(),
            changes: 0,
            totals: Totals::default(),
            now: 0,
            settings,
            listening: false,
            notices: Vec::new(),
            garbage: Garbage::default(),
            walks: Allowance::default(),
            rewrites: Allowance::default(),
            answers,
            kept: answers,
            rules: Rules::NEWEST,
        }
    }

    /// An entry of this time begins.
    pub(super) fn begin_entry(&mut self, now: u64) {
        self.now = now;
        self.databases.values_mut().for_each(|database| database.advance(now));
        self.walks.begin_entry();
        self.rewrites.begin_entry();
        self.answers.begin_entry();
        self.kept.begin_entry();
    }

    /// Carries out what the log says.
    pub(super) fn apply(&mut self, write: &Write) -> Vec<Reply> {
        self.rules = write.rules();
        self.walks.begin_write();
        self.rewrites.begin_write();
        self.answers.begin_write();
        self.kept.begin_write();
        if write.watched.iter().any(|watched| self.version(watched.database, &watched.key) != watched.version) {
            return vec![Reply::NullArray];
        }
        if write.atomic && write.calls.iter().any(needs_memory) && !self.make_room() {
            return vec![OUT_OF_MEMORY_EXEC];
        }
        let each = |call: &Call| {
            // A transaction is asked before each of its commands as well: thousands of them fit into one, and each may be large.
            let is_asked = needs_memory(call) && (!write.atomic || self.rules >= Rules::Second);
            let is_lost = ballast_planted::is(Bug::HalfTransaction) && write.atomic && !ptr::eq(call, &write.calls[0]);
            let reply = match is_asked && !self.make_room() {
                true => OUT_OF_MEMORY,
                // The answer is what it would be.
                false if is_lost => self.detached(slice::from_ref(call)).carry_out(call),
                false => self.carry_out(call),
            };
            self.count_answer(call, reply.bytes());
            reply
        };
        write.calls.iter().map(each).collect()
    }

    /// What the answers to calls that were sent together may take.
    pub(super) fn answers_max(&self) -> u64 {
        self.settings.limits.output_max.as_bytes()
    }

    fn carry_out(&mut self, call: &Call) -> Reply {
        if let Some(refusal) = self.refusal(call) {
            return refusal;
        }
        match call.class() {
            Class::Read => {
                let room = self.answers.left();
                let work = Cell::new(self.walks.left());
                let (turn, due) = (self.changes, Cell::new(false));
                let reply = run::read(
                    &run::View { keyspace: self, now: self.now, stale: false, turn, room, work: &work, due: &due },
                    call,
                );
                self.walks.take(self.walks.left() - work.get());
                if reply == Reply::TOO_LARGE && self.answers.is_cut() { TOO_MUCH_ANSWERED } else { reply }
            }
            Class::Write => {
                let reply = run::write(self, call);
                // It is done, and that counts: only the answer is left out.
                if reply.bytes() > self.room_after(call).max(SHORT_ANSWER) { ANSWER_LEFT_OUT } else { reply }
            }
            Class::Connection => Reply::error("ERR this command is not one of the keyspace"),
        }
    }

    /// What the answer to a write that is done may take. What others read takes nothing from it, nor what they write from a
    /// value that nobody can ask for again.
    fn room_after(&self, call: &Call) -> u64 {
        let own = self.answers.left_of_write();
        if takes_out(call) { own } else { own.min(self.kept.left()) }
    }

    fn count_answer(&mut self, call: &Call, bytes: u64) {
        match call.spec().class {
            Class::Read => self.answers.take(bytes),
            Class::Write | Class::Connection => {
                self.answers.take_of_write(bytes);
                if !takes_out(call) {
                    self.kept.take(bytes);
                }
            }
        }
    }

    /// Why a call is out of bounds, if it is.
    pub(super) fn refusal(&self, call: &Call) -> Option<Reply> {
        if call.database >= self.settings.databases {
            return Some(Reply::error("ERR DB index is out of range"));
        }
        let limits = &self.settings.limits;
        if call.class() == Class::Read {
            let patterns = matches!(call.spec().op, Op::Keys | Op::Scan | Op::Hscan | Op::Sscan);
            let too_long = patterns && call.args.iter().any(|arg| arg.len() as u64 > limits.key_max.as_bytes());
            return too_long.then(|| {
                let text = format!("ERR pattern is longer than the {} that keys may have", limits.key_max);
                Reply::Error(text.into())
            });
        }
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
            let Some((end, hash, number)) = self.first(Database::first_end) else { return };
            if end > self.now {
                return;
            }
            self.remove_ended(number, hash, end);
        }
    }

    fn remove_ended(&mut self, number: u16, hash: u64, end: u64) {
        let Some(database) = self.databases.get_mut(&number) else { return };
        let key = database.key_with(hash, |entry| entry.expires == end).expect("what is in the order of ends is there");
        let old = database.remove(hash, &key);
        self.garbage.take_in(old);
        self.totals.expired += 1;
        self.tell(number, &key, 'x', "expired");
    }

    /// Whether there is room for more, after keys that are over were removed, and others gave way if that is the policy.
    fn make_room(&mut self) -> bool {
        let max = self.settings.memory_max.as_bytes();
        for _ in 0..EVICTED_PER_COMMAND {
            if self.bytes() <= max {
                return true;
            }
            let eviction = self.settings.eviction;
            let ended_first = self.rules >= Rules::Second || eviction == SessionEviction::VolatileTtl;
            if ended_first
                && let Some((end, hash, number)) = self.first(Database::first_end)
                && end <= self.now
            {
                self.remove_ended(number, hash, end);
                continue;
            }
            let order = match eviction {
                SessionEviction::Noeviction => return false,
                SessionEviction::VolatileLru => Database::longest_idle,
                SessionEviction::VolatileTtl => Database::first_end,
            };
            let Some((rank, hash, number)) = self.first(order) else { return false };
            let Some(database) = self.databases.get_mut(&number) else { return false };
            let fits = |entry: &Entry| match eviction {
                SessionEviction::VolatileTtl => entry.expires == rank,
                SessionEviction::VolatileLru | SessionEviction::Noeviction => entry.touched == rank,
            };
            let key = database.key_with(hash, fits).expect("what is in the order is there");
            let old = database.remove(hash, &key);
            self.garbage.take_in(old);
            self.totals.evicted += 1;
            self.tell(number, &key, 'e', "evicted");
        }
        self.bytes() <= max
    }

    /// What comes first of all databases in an order that each of them has: its rank, its hash, its database.
    fn first(&self, order: impl Fn(&Database) -> Option<(u64, u64)>) -> Option<(u64, u64, u16)> {
        let first = |(number, database): (&u16, &Database)| order(database).map(|(rank, hash)| (rank, hash, *number));
        self.databases.iter().filter_map(first).min()
    }

    /// Counts what a command is about to write again besides what it brings.
    ///
    /// # Errors
    /// The answer, if commands before it have used up what there was.
    pub(super) fn rewrite(&mut self, bytes: u64) -> Result<(), Reply> {
        if self.rules >= Rules::Second && bytes > 0 {
            if self.rewrites.left() == 0 {
                return Err(TOO_MUCH_REWRITTEN);
            }
            self.rewrites.take(bytes);
        }
        Ok(())
    }

    /// Counts what a command is about to work out with numbers of many digits, as what is written again: a short command
    /// can have a long number read and written.
    ///
    /// # Errors
    /// As [`Self::rewrite`].
    pub(super) fn reckon(&mut self, units: u64) -> Result<(), Reply> {
        if self.rules >= Rules::Third { self.rewrite(units) } else { Ok(()) }
    }

    /// What all keys are counted as in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.databases.values().map(Database::bytes).sum()
    }

    /// Keys of a database whose lives are not over.
    pub(super) fn count(&self, database: u16) -> u64 {
        self.databases.get(&database).map_or(0, Database::live) as u64
    }

    /// A key whose life is not over.
    pub(super) fn get(&self, database: u16, key: &[u8]) -> Option<&Entry> {
        let entry = self.databases.get(&database)?.get(self.seed.hash(key), key)?;
        (!entry.has_ended(self.now)).then_some(entry)
    }

    /// The keys that calls name, or all keys of databases of which they name none, apart from everybody else: what is
    /// done with the copy holds up nobody. Values are shared.
    pub(super) fn detached(&self, calls: &[Call]) -> Self {
        let mut copy = Self::new(self.seed, Arc::clone(&self.settings));
        copy.now = self.now;
        for call in calls.iter().filter(|call| call.keys().next().is_none()) {
            if let Some(database) = self.databases.get(&call.database) {
                copy.databases.entry(call.database).or_insert_with(|| database.shared());
            }
        }
        let whole: Vec<u16> = copy.databases.keys().copied().collect();
        for call in calls.iter().filter(|call| !whole.contains(&call.database)) {
            for entry in call.keys().filter_map(|key| self.get(call.database, key)) {
                copy.database(call.database).put(entry.clone());
            }
        }
        copy
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
            let old = database.remove(hash, key);
            self.garbage.take_in(old);
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
        match database.put(entry) {
            None => self.tell(number, key, 'n', "new"),
            old => self.garbage.take_in(old),
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

    /// Takes a key away and leaves what it was to be freed.
    pub(super) fn discard(&mut self, number: u16, key: &[u8]) {
        let old = self.remove(number, key);
        self.garbage.take_in(old);
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
            Some(number) => self.databases.remove(&number).into_iter().for_each(|old| self.garbage.take_all(old)),
            None => std::mem::take(&mut self.databases).into_values().for_each(|old| self.garbage.take_all(old)),
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

    /// What was noted and what was taken out since the last call.
    pub(super) fn take_leavings(&mut self) -> (Vec<Notice>, Garbage) {
        (std::mem::take(&mut self.notices), std::mem::take(&mut self.garbage))
    }

    /// All that is in it, to be freed.
    pub(super) fn into_garbage(self) -> Garbage {
        let mut garbage = self.garbage;
        self.databases.into_values().for_each(|old| garbage.take_all(old));
        garbage
    }

    /// Follows the document.
    pub(super) fn configure(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        self.answers = Allowance::new(self.answers_max());
        self.kept = self.answers;
        let wanted = self.tracks_idle();
        self.databases.values_mut().for_each(|database| database.track_idle(wanted));
    }

    pub(super) fn tracks_idle(&self) -> bool {
        self.settings.eviction == SessionEviction::VolatileLru
    }

    fn database(&mut self, number: u16) -> &mut Database {
        let (now, track_idle) = (self.now, self.tracks_idle());
        self.databases.entry(number).or_insert_with(|| Database::new(number, now, track_idle))
    }
}

fn needs_memory(call: &Call) -> bool {
    call.spec().has_flag("denyoom") || scripts::needs_memory(call)
}

/// Whether a value that a write answers is in the store no more. All such values together are no more than was there before,
/// was sent or was written again, so they need no bound of their own.
fn takes_out(call: &Call) -> bool {
    match call.spec().op {
        Op::Getdel | Op::Getset => true,
        Op::Set => !call.args.iter().skip(2).any(|option| option.eq_ignore_ascii_case(b"nx")),
        _ => false,
    }
}

impl Garbage {
    /// Takes what is left of a key, if freeing it takes time.
    fn take_in(&mut self, entry: Option<Entry>) {
        if let Some(entry) =
            entry.filter(|entry| entry.value.len() > FREED_AT_ONCE_MAX && entry.value.as_text().is_none())
        {
            self.values.push(entry.value);
        }
    }

    /// Takes what is left of a database, if freeing it takes time.
    fn take_all(&mut self, database: Database) {
        if database.bytes() > FREED_AT_ONCE_BYTES {
            self.databases.push(database.into_leavings());
        }
    }
}

/// An answer to a write that is given whatever the others take: all but values.
const SHORT_ANSWER: u64 = 256;

const ANSWER_LEFT_OUT: Reply = Reply::error(
    "ERR this was carried out, but the answers are larger than output_max and its own is left out; ask for less at once",
);

const OUT_OF_MEMORY: Reply = Reply::error("OOM command not allowed when used memory > 'maxmemory'.");
const OUT_OF_MEMORY_EXEC: Reply =
    Reply::error("EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.");
