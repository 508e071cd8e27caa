//! Identities. Each is its own type, so that a backend's number is never taken for a service's.
//!
//! Ids of things an operator names (farm, service, backend, VIP) are assigned by the replicated
//! log when the name first appears and are never given to anything else, so that a change of
//! address, weight or order keeps every binding.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a number that came from the log or the wire.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The bare number, for encodings and metrics.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A member of the cluster. The first node is 1; every other id is the index of the log entry
    /// that enrolled it, so an id is never used twice.
    NodeId(u64), ""
);
id!(
    /// Position of an entry in the replicated log. Zero means "before the first entry".
    LogIndex(u64), ""
);
id!(
    /// Raft's term. Each has at most one leader.
    Term(u64), "t"
);
id!(
    /// Version of the configuration document. Zero means that none was applied yet.
    Revision(u64), ""
);
id!(
    /// A farm, stable across renames of everything inside it.
    FarmId(u32), "f"
);
id!(
    /// A service of a farm. Also the name of its binding table.
    ServiceId(u32), "s"
);
id!(
    /// A backend of a service.
    BackendId(u32), "b"
);
id!(
    /// A virtual address (all the addresses of one VIP move together).
    VipId(u32), "v"
);

/// Names one entry of the log: an index alone may have been written twice, by the leaders of two terms. Ordered as Raft
/// orders the ends of logs, by term first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// The term of the leader that wrote it.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A life of a node's process. Chosen at random at each start, so that frames of an earlier life
/// are never taken for frames of this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Boot(pub u64);
