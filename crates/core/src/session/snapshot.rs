//! The session store in a snapshot: shared cheaply, streamed out, read back in bounded memory.
//!
//! Entries come in blocks of a mebibyte or two, and a hash or a set that is larger goes on in the next one, so that
//! neither side ever holds more than one block and one string. What is derived (orders, sums) is made again while
//! reading, and the sums must come out the same.

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use super::{
    Settings,
    database::{Database, Entry, Shard},
    hash::Hash,
    keyspace::{Keyspace, Totals},
    sessions::Sessions,
    set::Set,
    shelf::{Placed, Seed},
    value::Value,
};
use crate::{
    persistence::read_bytes,
    state::wire::{DecodeError, Reader, Writer},
    time::LogTime,
};

/// Blocks are closed when they are longer than this.
const BLOCK_BYTES: usize = 1 << 20;

/// Version of a store in which each value is whole in one block, and of one in which large ones go on in the next. The
/// first is written for as long as nothing is that large.
const WHOLE: u32 = 1;
const SPLIT: u32 = 2;

/// No document has more. Each costs memory of its own.
const DATABASES_MAX: u16 = 1024;

const SMALL: u8 = 1;
const PACKED_HASH: u8 = 2;
const SPREAD_HASH: u8 = 3;
const NUMBERS: u8 = 4;
const MEMBERS: u8 = 5;

/// What makes two session stores equal, for the state's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    changes: u64,
    totals: Totals,
    len: u64,
    digest: u128,
}

impl Head {
    pub(super) fn of(keyspace: &Keyspace) -> Self {
        let databases = || keyspace.databases.values();
        Self {
            changes: keyspace.changes,
            totals: keyspace.totals,
            len: databases().map(|database| database.len() as u64).sum(),
            digest: databases().fold(0, |sum, database| sum.wrapping_add(database.digest())),
        }
    }

    /// Whether nothing ever happened here: such a state is hashed and written as before there was a session store.
    pub(crate) fn is_pristine(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.varint(self.changes);
        out.varint(self.totals.expired);
        out.varint(self.totals.evicted);
        out.varint(self.len);
        out.u128(self.digest);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let head = Self {
            changes: input.varint()?,
            totals: Totals { expired: input.varint()?, evicted: input.varint()? },
            len: input.varint()?,
            digest: input.u128()?,
        };
        input.end()?;
        Ok(head)
    }
}

/// The session store at one log index.
pub(crate) struct SessionsSnapshot {
    head: Head,
    databases: Vec<(u16, Vec<Shard>)>,
}

/// Without keys and values.
impl fmt::Debug for SessionsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionsSnapshot").field("head", &self.head).finish_non_exhaustive()
    }
}

impl SessionsSnapshot {
    pub(super) fn of(keyspace: &Keyspace) -> Self {
        let databases = keyspace.databases.iter().filter(|(_, database)| database.len() > 0);
        Self {
            head: Head::of(keyspace),
            databases: databases.map(|(number, database)| (*number, database.shards().to_vec())).collect(),
        }
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Number of keys.
    pub(crate) fn len(&self) -> u64 {
        self.head.len
    }

    /// The versions that [`Sessions::decode`] reads.
    pub(crate) const VERSIONS: std::ops::RangeInclusive<u32> = WHOLE..=SPLIT;

    /// The version of what [`Self::write`] writes.
    pub(crate) fn version(&self) -> u32 {
        let entries = self.databases.iter().flat_map(|(_, shards)| shards.iter().flatten());
        if entries.flat_map(|shard| shard.items()).any(is_split) { SPLIT } else { WHOLE }
    }

    /// Writes it, a block at a time.
    ///
    /// # Errors
    /// What `out` says.
    pub(crate) fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let mut head = Writer::default();
        self.head.encode(&mut head);
        block(out, &head.into_bytes())?;
        out.write_all(&(self.databases.len() as u32).to_le_bytes())?;
        for (number, shards) in &self.databases {
            out.write_all(&number.to_le_bytes())?;
            let mut blocks = BlockWriter { out, block: Writer::default(), splits: false };
            for entry in shards.iter().flatten().flat_map(|shard| shard.items()) {
                blocks.splits = is_split(entry);
                encode_entry(entry, &mut blocks)?;
                blocks.end_if_full()?;
            }
            blocks.end()?;
        }
        Ok(())
    }
}

/// Whether an entry is so large that it need not be whole in one block.
fn is_split(entry: &Entry) -> bool {
    entry.value.as_text().is_none() && entry.value.bytes() > BLOCK_BYTES as u64
}

fn block(out: &mut dyn io::Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)
}

/// Writes things into blocks. A block ends between two entries, or between any two things of one that is split.
struct BlockWriter<'o> {
    out: &'o mut dyn io::Write,
    block: Writer,
    /// Whether the entry that is being written is split.
    splits: bool,
}

impl BlockWriter<'_> {
    fn thing(&mut self, write: impl FnOnce(&mut Writer)) -> io::Result<()> {
        write(&mut self.block);
        if self.splits { self.end_if_full() } else { Ok(()) }
    }

    fn end_if_full(&mut self) -> io::Result<()> {
        if self.block.len() > BLOCK_BYTES {
            block(self.out, &std::mem::take(&mut self.block).into_bytes())?;
        }
        Ok(())
    }

    /// What is left, and an empty block.
    fn end(self) -> io::Result<()> {
        if self.block.len() > 0 {
            block(self.out, &self.block.into_bytes())?;
        }
        block(self.out, &[])
    }
}

/// Reads what a [`BlockWriter`] wrote.
struct BlockReader<'i> {
    input: &'i mut dyn io::Read,
    block: Vec<u8>,
    at: usize,
}

impl BlockReader<'_> {
    /// Whether anything is left before the empty block.
    fn more(&mut self) -> Result<bool, DecodeError> {
        if self.at == self.block.len() {
            self.block = read_block(self.input)?;
            self.at = 0;
        }
        Ok(!self.block.is_empty())
    }

    fn thing<T>(&mut self, read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
        if !self.more()? {
            return Err(damaged());
        }
        let mut reader = Reader::new(&self.block[self.at..]);
        let thing = read(&mut reader)?;
        self.at = self.block.len() - reader.left();
        Ok(thing)
    }
}

fn read_block(input: &mut dyn io::Read) -> Result<Vec<u8>, DecodeError> {
    let mut len = [0; 8];
    input.read_exact(&mut len)?;
    read_bytes(input, usize::try_from(u64::from_le_bytes(len)).map_err(|_| damaged())?)
}

const fn damaged() -> DecodeError {
    DecodeError::Damaged { what: "the session store" }
}

impl Sessions {
    /// Reads what [`SessionsSnapshot::write`] wrote. The seed and log time are the state's.
    pub(crate) fn decode(input: &mut dyn io::Read, seed: [u8; 16], now: LogTime) -> Result<Self, DecodeError> {
        let head = Head::decode(&read_block(input)?)?;
        let mut keyspace = Keyspace::new(Seed(seed), Arc::new(Settings::of(None, 0)));
        keyspace.changes = head.changes;
        keyspace.totals = head.totals;
        keyspace.now = now.as_millis();
        let mut count = [0; 4];
        input.read_exact(&mut count)?;
        let mut databases = BTreeMap::new();
        let mut last = None;
        for _ in 0..u32::from_le_bytes(count) {
            let mut number = [0; 2];
            input.read_exact(&mut number)?;
            let number = u16::from_le_bytes(number);
            if number >= DATABASES_MAX || last.replace(number).is_some_and(|last| last >= number) {
                return Err(damaged());
            }
            let database = decode_database(input, number, &keyspace)?;
            if database.iter().any(|entry| entry.version.max(entry.touched) > head.changes) {
                return Err(damaged());
            }
            databases.insert(number, database);
        }
        keyspace.databases = databases;
        if Head::of(&keyspace) != head || head.is_pristine() {
            return Err(damaged());
        }
        Ok(Self::of(keyspace))
    }
}

fn decode_database(input: &mut dyn io::Read, number: u16, keyspace: &Keyspace) -> Result<Database, DecodeError> {
    let (seed, mut database) = (keyspace.seed, Database::new(number, keyspace.now, false));
    let mut last: Option<(u64, Box<[u8]>)> = None;
    let mut blocks = BlockReader { input, block: Vec::new(), at: 0 };
    while blocks.more()? {
        let entry = decode_entry(&mut blocks, seed)?;
        let place = (entry.hash(), Box::from(entry.key()));
        if last.as_ref().is_some_and(|last| *last >= place) {
            return Err(damaged());
        }
        last = Some(place);
        database.put(entry);
    }
    Ok(database)
}

fn encode_entry(entry: &Entry, out: &mut BlockWriter<'_>) -> io::Result<()> {
    let head = |out: &mut Writer, kind: u8| {
        out.slice(entry.key());
        out.varint(entry.expires);
        out.varint(entry.version);
        out.varint(entry.touched);
        out.u8(kind);
    };
    let text = |out: &mut Writer, text: &[u8]| {
        head(out, SMALL);
        out.slice(text);
    };
    match &entry.value {
        Value::Small(bytes) => out.thing(|out| text(out, bytes)),
        Value::Large(bytes) => out.thing(|out| text(out, bytes)),
        Value::Hash(hash) => {
            out.thing(|out| {
                head(out, if hash.is_packed() { PACKED_HASH } else { SPREAD_HASH });
                out.varint(hash.len() as u64);
            })?;
            hash.iter().try_for_each(|(name, value)| {
                out.thing(|out| {
                    out.slice(name);
                    out.slice(value);
                })
            })
        }
        Value::Set(set) => {
            out.thing(|out| {
                head(out, if set.is_numbers() { NUMBERS } else { MEMBERS });
                out.varint(set.len() as u64);
            })?;
            set.iter().try_for_each(|member| out.thing(|out| out.slice(&member)))
        }
    }
}

/// What of an entry is in one block in any case.
struct EntryHead {
    key: Box<[u8]>,
    expires: u64,
    version: u64,
    touched: u64,
    holds: Holds,
}

enum Holds {
    Text(Value),
    /// So many fields or members of a kind.
    Many(u8, u64),
}

fn decode_head(input: &mut Reader<'_>) -> Result<EntryHead, DecodeError> {
    let key = input.slice()?.into();
    let (expires, version, touched) = (input.varint()?, input.varint()?, input.varint()?);
    let holds = match input.u8()? {
        SMALL => Holds::Text(Value::text(input.slice()?)),
        kind => Holds::Many(kind, input.varint()?),
    };
    Ok(EntryHead { key, expires, version, touched, holds })
}

fn decode_entry(input: &mut BlockReader<'_>, seed: Seed) -> Result<Entry, DecodeError> {
    let EntryHead { key, expires, version, touched, holds } = input.thing(decode_head)?;
    let value = match holds {
        Holds::Text(text) => text,
        Holds::Many(kind @ (PACKED_HASH | SPREAD_HASH), count) => {
            let mut hash = Hash::default();
            for _ in 0..count {
                if !input.thing(|input| Ok(hash.put(seed, input.slice()?, input.slice()?)))? {
                    return Err(damaged());
                }
            }
            match kind {
                PACKED_HASH if hash.is_packed() => Value::Hash(Arc::new(hash)),
                PACKED_HASH => return Err(damaged()),
                _ => Value::Hash(Arc::new(hash.into_spread(seed))),
            }
        }
        Holds::Many(kind @ (NUMBERS | MEMBERS), count) => {
            let mut set = Set::default();
            for _ in 0..count {
                if !input.thing(|input| Ok(set.add(seed, input.slice()?)))? {
                    return Err(damaged());
                }
            }
            match kind {
                NUMBERS if set.is_numbers() => Value::Set(Arc::new(set)),
                NUMBERS => return Err(damaged()),
                _ => Value::Set(Arc::new(set.into_spread(seed))),
            }
        }
        Holds::Many(..) => return Err(damaged()),
    };
    let empty = match &value {
        Value::Small(_) | Value::Large(_) => false,
        Value::Hash(hash) => hash.len() == 0,
        Value::Set(set) => set.len() == 0,
    };
    if empty || version == 0 || i64::try_from(expires).is_err() {
        return Err(damaged());
    }
    Ok(Entry::new(seed.hash(&key), &key, value).with(expires, version, touched))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session::{Call, Write};

    #[test]
    fn what_the_first_version_reads_has_each_entry_whole_in_one_block() {
        let sessions = Sessions::default();
        let add = |command: &str, key: String, members: Vec<String>| {
            let words = [command.to_owned(), key].into_iter().chain(members).map(Bytes::from).collect();
            sessions.apply(&Write::one(Call::parse(0, words).expect("a command")));
        };
        let wide = "v".repeat(1000);
        // Each a third of a block, so that blocks become full amid one.
        for n in 0..10 {
            add("hset", format!("h{n}"), (0..300).flat_map(|n| [format!("f{n}"), wide.clone()]).collect());
            add("sadd", format!("s{n}"), (0..300).map(|n| format!("{wide}{n}")).collect());
        }
        let snapshot = sessions.snapshot();
        assert_eq!(snapshot.version(), WHOLE);
        let mut bytes = Vec::new();
        snapshot.write(&mut bytes).expect("a vector takes everything");
        let mut input = bytes.as_slice();
        read_block(&mut input).expect("the head");
        // One database, number zero.
        let (databases, mut blocks) = input.split_at(6);
        assert_eq!(databases, [1_u8, 0, 0, 0, 0, 0]);
        let mut entries = Vec::new();
        loop {
            let block = read_block(&mut blocks).expect("a block");
            if block.is_empty() {
                break;
            }
            // There is nothing after this block.
            let mut nothing = io::empty();
            let mut alone = BlockReader { input: &mut nothing, block, at: 0 };
            let mut count = 0;
            while alone.at < alone.block.len() {
                decode_entry(&mut alone, Seed::default()).expect("a whole entry");
                count += 1;
            }
            entries.push(count);
        }
        assert!(entries.len() > 3 && entries.iter().sum::<usize>() == 20, "{entries:?}");
    }
}
