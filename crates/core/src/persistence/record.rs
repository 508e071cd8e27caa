//! One binding as it lies in memory: two words beside its key.

use crate::{ids::BackendId, ids::LogIndex, state::RehomeCause};

/// Backend numbers are kept in 28 bits; the registry never assigns a larger one.
pub const BACKEND_MAX: u32 = (1 << 28) - 1;

const PINNED: u64 = 1 << 31;
const PROVENANCE_SHIFT: u32 = 28;

/// How a binding came to its present backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The key was free and was bound by a request.
    Created,
    /// The key was moved here from another backend.
    Rehomed(RehomeCause),
    /// The key's binding had ended, at another backend or because an operator deleted it, and the key was bound here
    /// by a request before that record was swept.
    Replaced,
    /// An operator deleted it. It counts for nothing; the record only tells, until it is swept, that nodes which have
    /// not heard of it yet still forward on it. Its times say when it was deleted.
    Deleted,
}

impl Provenance {
    const fn code(self) -> u64 {
        match self {
            Self::Created => 0,
            Self::Rehomed(RehomeCause::BackendDown) => 1,
            Self::Rehomed(RehomeCause::BackendMaintenance) => 2,
            Self::Rehomed(RehomeCause::BackendRemoved) => 3,
            Self::Rehomed(RehomeCause::ConnectFailed) => 4,
            Self::Rehomed(RehomeCause::Operator) => 5,
            Self::Replaced => 6,
            Self::Deleted => 7,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Created,
            1 => Self::Rehomed(RehomeCause::BackendDown),
            2 => Self::Rehomed(RehomeCause::BackendMaintenance),
            3 => Self::Rehomed(RehomeCause::BackendRemoved),
            4 => Self::Rehomed(RehomeCause::ConnectFailed),
            5 => Self::Rehomed(RehomeCause::Operator),
            6 => Self::Replaced,
            7 => Self::Deleted,
            _ => return None,
        })
    }
}

/// A binding without its key. Times are whole seconds since the Unix epoch, rounded up, so that a
/// binding never lives shorter than its lifetime says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The backend that the key is bound to; never zero.
    pub backend: BackendId,
    /// A pinned binding never expires.
    pub pinned: bool,
    /// How it came to this backend.
    pub provenance: Provenance,
    /// When it came to this backend.
    pub created_s: u32,
    /// When it was last used or renewed.
    pub last_used_s: u32,
    /// Low half of the index of the entry that bound it to this backend; see [`Record::index`].
    pub index_low: u32,
}

impl Record {
    /// The index of the entry that bound the key to this backend, given that `applied` is in
    /// force. Exact for bindings that are younger than four billion entries.
    pub fn index(&self, applied: LogIndex) -> LogIndex {
        let age = (applied.get() as u32).wrapping_sub(self.index_low);
        LogIndex::new(applied.get().saturating_sub(u64::from(age)))
    }

    /// Whether only the trace of a deleted binding is left.
    pub fn is_deleted(&self) -> bool {
        self.provenance == Provenance::Deleted
    }

    /// The two words that are kept. The first is never zero in its low 28 bits.
    pub(crate) fn to_words(self) -> [u64; 2] {
        let flags = self.provenance.code() << PROVENANCE_SHIFT | if self.pinned { PINNED } else { 0 };
        [
            u64::from(self.created_s) << 32 | flags | u64::from(self.backend.get() & BACKEND_MAX),
            u64::from(self.last_used_s) << 32 | u64::from(self.index_low),
        ]
    }

    /// The binding kept in two words; `None` for words that no binding has.
    pub(crate) fn from_words(words: [u64; 2]) -> Option<Self> {
        let backend = (words[0] as u32) & BACKEND_MAX;
        if backend == 0 {
            return None;
        }
        Some(Self {
            backend: BackendId::new(backend),
            pinned: words[0] & PINNED != 0,
            provenance: Provenance::from_code(words[0] >> PROVENANCE_SHIFT & 7)?,
            created_s: (words[0] >> 32) as u32,
            last_used_s: (words[1] >> 32) as u32,
            index_low: words[1] as u32,
        })
    }
}
