//! The whole state at one log index: shared cheaply, written out, read back.
//!
//! Layout: magic, format version, then sections (kind, version, length, body) in a fixed order, the
//! last of which hold the bindings and the session store and are streamed, then the hash of the state. A reader that
//! computes another hash refuses the whole, so a flipped bit is never believed.

use std::{io, ops::RangeInclusive, sync::Arc};

use super::{
    Parts, Roster, State,
    part::Part,
    wire::{DecodeError, Reader, Writer},
};
use crate::{
    ids::LogIndex,
    persistence::{Store, StoreSnapshot, TableHead, read_bytes},
    session::{Sessions, SessionsHead, SessionsSnapshot},
    time::LogTime,
};

const MAGIC: [u8; 8] = *b"BALLAST\x01";

/// A snapshot that ends with the bindings, and one in which the session store follows them. The first is written for as
/// long as nothing ever was in the session store.
const FORMAT: u32 = 1;
const FORMAT_WITH_SESSIONS: u32 = 2;

/// Version of each section's contents.
const SECTION: u32 = 1;

/// Small sections hold at most this; a length beyond it is damage and not a reason to read on.
const SECTION_BYTES_MAX: u64 = 1 << 30;

/// The state at one log index. Taking it costs a counter for each shard; the state goes on and
/// copies what it then changes.
#[derive(Debug)]
pub struct StateSnapshot {
    applied: LogIndex,
    log_time: LogTime,
    parts: Parts,
    store: StoreSnapshot,
    sessions: SessionsSnapshot,
}

impl StateSnapshot {
    pub(super) fn of(state: &State) -> Self {
        Self {
            applied: state.applied,
            log_time: state.log_time,
            parts: state.parts.clone(),
            store: state.store.snapshot(),
            sessions: state.sessions.snapshot(),
        }
    }

    /// The last entry that is in it.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The state's log time.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// Bindings in it.
    pub fn bindings(&self) -> u64 {
        self.store.len()
    }

    /// Keys of the session store in it.
    pub fn session_keys(&self) -> u64 {
        self.sessions.len()
    }

    /// Equal to [`State::hash`] at that index.
    pub fn hash(&self) -> [u8; 32] {
        hash(self.applied, self.log_time, &self.parts, self.store.heads(), self.sessions.head())
    }

    /// Writes it out. Buffers a shard at a time; give it a buffered writer if small writes are dear.
    ///
    /// # Errors
    /// What `out` says; what was written so far is of no use then.
    pub fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        let with_sessions = !self.sessions.head().is_pristine();
        let format = if with_sessions { FORMAT_WITH_SESSIONS } else { FORMAT };
        out.write_all(&format.to_le_bytes())?;
        out.write_all(&self.applied.get().to_le_bytes())?;
        out.write_all(&self.log_time.as_millis().to_le_bytes())?;
        for (kind, body) in self.parts.encode() {
            section(out, kind, SECTION)?;
            out.write_all(&(body.len() as u64).to_le_bytes())?;
            out.write_all(&body)?;
        }
        section(out, BINDINGS, SECTION)?;
        self.store.write(out)?;
        if with_sessions {
            section(out, SESSIONS, self.sessions.version())?;
            self.sessions.write(out)?;
        }
        out.write_all(&self.hash())
    }
}

const BINDINGS: u32 = 100;
const SESSIONS: u32 = 101;

fn section(out: &mut dyn io::Write, kind: u32, version: u32) -> io::Result<()> {
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&version.to_le_bytes())
}

/// Hash of a state from the hashes of its parts and tables.
pub(super) fn hash<T: std::borrow::Borrow<TableHead>>(
    applied: LogIndex,
    log_time: LogTime,
    parts: &Parts,
    tables: impl IntoIterator<Item = T>,
    sessions: &SessionsHead,
) -> [u8; 32] {
    let mut small = Writer::default();
    small.varint(applied.get());
    small.varint(log_time.as_millis());
    for table in tables {
        table.borrow().encode(&mut small);
    }
    if !sessions.is_pristine() {
        sessions.encode(&mut small);
    }
    let mut hasher = blake3::Hasher::new_derive_key("ballast 2026 replicated state v1");
    for digest in parts.digests() {
        hasher.update(&digest);
    }
    hasher.update(&small.into_bytes());
    hasher.finalize().into()
}

impl State {
    /// Reads what [`StateSnapshot::write`] wrote. Never panics whatever the bytes are, and holds no
    /// more memory than a small multiple of what it read.
    ///
    /// # Errors
    /// A version this program does not know, damage, or what `input` says. The hash is checked last.
    pub fn read(input: &mut dyn io::Read) -> Result<Self, DecodeError> {
        let mut head = [0; 28];
        input.read_exact(&mut head)?;
        if head[..8] != MAGIC {
            return Err(DecodeError::Damaged { what: "the beginning of a snapshot" });
        }
        let mut reader = Reader::new(&head[8..]);
        let format = reader.u32()?;
        if format != FORMAT {
            version("a snapshot", format, FORMAT_WITH_SESSIONS..=FORMAT_WITH_SESSIONS)?;
        }
        let (applied, log_time) = (LogIndex::new(reader.u64()?), LogTime::from_millis(reader.u64()?));
        let mut parts = Parts::default();
        parts.decode(|kind, what| {
            expect_section(input, kind, SECTION..=SECTION, what)?;
            let len = u64_of(input)?;
            if len > SECTION_BYTES_MAX {
                return Err(DecodeError::Damaged { what });
            }
            read_bytes(input, len as usize)
        })?;
        expect_section(input, BINDINGS, SECTION..=SECTION, "bindings")?;
        let store = Store::read(input)?;
        let seed = parts.cluster.as_ref().map(|cluster| cluster.table_secret).unwrap_or_default();
        let sessions = if format == FORMAT_WITH_SESSIONS {
            expect_section(input, SESSIONS, SessionsSnapshot::VERSIONS, "the session store")?;
            Sessions::decode(input, seed, log_time)?
        } else {
            Sessions::default()
        };
        sessions.found(seed);
        sessions.advance(log_time);
        sessions.configure(parts.config.document());
        let sessions = Arc::new(sessions);
        let mut state = Self {
            applied,
            log_time,
            parts,
            store,
            sessions,
            roster: Roster::default(),
            plan_version: 1,
            orders_version: 1,
            lease_version: 1,
        };
        let mut stored = [0; 32];
        input.read_exact(&mut stored)?;
        if stored != state.hash() {
            return Err(DecodeError::Damaged { what: "a snapshot (its hash is another)" });
        }
        state.check()?;
        state.rebuild_roster();
        Ok(state)
    }

    /// What decoding alone does not show: that the parts fit each other.
    fn check(&self) -> Result<(), DecodeError> {
        let damaged = |what| DecodeError::Damaged { what };
        if let Some(document) = self.document() {
            let mut registry = (*self.parts.registry).clone();
            let before = registry.clone();
            registry.assign(document).map_err(|_| damaged("the numbers of the configuration"))?;
            if registry != before {
                return Err(damaged("the numbers of the configuration"));
            }
            let numbers = registry.assign(document).map_err(|_| damaged("the numbers of the configuration"))?;
            for (farm, ids) in document.farms.iter().zip(&numbers.farms) {
                for (service, (id, _)) in farm.services.iter().zip(&ids.services) {
                    let table = matches!(service.persistence, Some(crate::config::Persistence::Table(_)));
                    if table && self.store.get(*id).is_none() {
                        return Err(damaged("bindings"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn version(what: &'static str, found: u32, known: RangeInclusive<u32>) -> Result<(), DecodeError> {
    if known.contains(&found) { Ok(()) } else { Err(DecodeError::Version { what, found, known: *known.end() }) }
}

fn expect_section(
    input: &mut dyn io::Read,
    kind: u32,
    known: RangeInclusive<u32>,
    what: &'static str,
) -> Result<(), DecodeError> {
    let mut head = [0; 8];
    input.read_exact(&mut head)?;
    let mut reader = Reader::new(&head);
    if reader.u32()? != kind {
        return Err(DecodeError::Damaged { what });
    }
    version(what, reader.u32()?, known)
}

fn u64_of(input: &mut dyn io::Read) -> Result<u64, DecodeError> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Lists the parts once, so that encoding, decoding and hashing agree on them.
macro_rules! parts {
    ($($field:ident = $kind:literal $what:literal),* $(,)?) => {
        impl Parts {
            fn encode(&self) -> impl Iterator<Item = (u32, Vec<u8>)> + '_ {
                [$($kind),*].into_iter().map(|kind| (kind, match kind {
                    $($kind => self.$field.encode(),)*
                    _ => Vec::new(),
                }))
            }

            fn digests(&self) -> impl Iterator<Item = [u8; 32]> {
                [$(self.$field.digest()),*].into_iter()
            }

            fn decode(
                &mut self,
                mut section: impl FnMut(u32, &'static str) -> Result<Vec<u8>, DecodeError>,
            ) -> Result<(), DecodeError> {
                $(
                    let body = section($kind, $what)?;
                    self.$field = Part::decode(&body)
                        .map_err(|error| DecodeError::Value { what: $what, detail: error.to_string() })?;
                )*
                self.config.edit().restore()
            }
        }
    };
}

parts! {
    cluster = 1 "the cluster",
    members = 2 "nodes",
    config = 3 "configuration",
    registry = 4 "numbers",
    operator = 5 "operator state",
    health = 6 "verdicts",
    vips = 7 "VIPs",
    events = 8 "events",
    origins = 9 "frame numbers",
}
