//! The session store in a snapshot: shared cheaply, streamed out, read back in bounded memory.
//!
//! Entries come in blocks of about a mebibyte, so that neither side ever holds more than one block and one value. What
//! is derived (orders, sums) is made again while reading, and the sums must come out the same.

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
            let mut entries = Writer::default();
            for entry in shards.iter().flatten().flat_map(|shard| shard.items()) {
                encode_entry(entry, &mut entries);
                if entries.len() > BLOCK_BYTES {
                    block(out, &std::mem::take(&mut entries).into_bytes())?;
                }
            }
            if entries.len() > 0 {
                block(out, &entries.into_bytes())?;
            }
            block(out, &[])?;
        }
        Ok(())
    }
}

fn block(out: &mut dyn io::Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)
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
            let database = decode_database(input, number, keyspace.seed)?;
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

fn decode_database(input: &mut dyn io::Read, number: u16, seed: Seed) -> Result<Database, DecodeError> {
    let mut database = Database::new(number, false);
    let mut last: Option<(u64, Box<[u8]>)> = None;
    loop {
        let block = read_block(input)?;
        if block.is_empty() {
            return Ok(database);
        }
        let mut entries = Reader::new(&block);
        while entries.left() > 0 {
            let entry = decode_entry(&mut entries, seed)?;
            let place = (entry.hash(), Box::from(entry.key()));
            if last.as_ref().is_some_and(|last| *last >= place) {
                return Err(damaged());
            }
            last = Some(place);
            database.put(entry);
        }
    }
}

fn encode_entry(entry: &Entry, out: &mut Writer) {
    out.slice(entry.key());
    out.varint(entry.expires);
    out.varint(entry.version);
    out.varint(entry.touched);
    match &entry.value {
        Value::Small(text) => encode_text(text, out),
        Value::Large(text) => encode_text(text, out),
        Value::Hash(hash) => {
            out.u8(if hash.is_packed() { PACKED_HASH } else { SPREAD_HASH });
            out.varint(hash.len() as u64);
            for (name, value) in hash.iter() {
                out.slice(name);
                out.slice(value);
            }
        }
        Value::Set(set) => {
            out.u8(if set.is_numbers() { NUMBERS } else { MEMBERS });
            out.varint(set.len() as u64);
            set.iter().for_each(|member| out.slice(&member));
        }
    }
}

fn encode_text(text: &[u8], out: &mut Writer) {
    out.u8(SMALL);
    out.slice(text);
}

fn decode_entry(input: &mut Reader<'_>, seed: Seed) -> Result<Entry, DecodeError> {
    let key = input.slice()?;
    let (expires, version, touched) = (input.varint()?, input.varint()?, input.varint()?);
    let value = match input.u8()? {
        SMALL => Value::text(input.slice()?),
        kind @ (PACKED_HASH | SPREAD_HASH) => {
            let mut hash = Hash::default();
            for _ in 0..input.varint()? {
                let (name, value) = (input.slice()?, input.slice()?);
                if !hash.put(seed, name, value) {
                    return Err(damaged());
                }
            }
            match kind {
                PACKED_HASH if hash.is_packed() => Value::Hash(Arc::new(hash)),
                PACKED_HASH => return Err(damaged()),
                _ => Value::Hash(Arc::new(hash.into_spread(seed))),
            }
        }
        kind @ (NUMBERS | MEMBERS) => {
            let mut set = Set::default();
            for _ in 0..input.varint()? {
                if !set.add(seed, input.slice()?) {
                    return Err(damaged());
                }
            }
            match kind {
                NUMBERS if set.is_numbers() => Value::Set(Arc::new(set)),
                NUMBERS => return Err(damaged()),
                _ => Value::Set(Arc::new(set.into_spread(seed))),
            }
        }
        _ => return Err(damaged()),
    };
    let empty = match &value {
        Value::Small(_) | Value::Large(_) => false,
        Value::Hash(hash) => hash.len() == 0,
        Value::Set(set) => set.len() == 0,
    };
    if empty || version == 0 || i64::try_from(expires).is_err() {
        return Err(damaged());
    }
    Ok(Entry::new(seed.hash(key), key, value).with(expires, version, touched))
}
