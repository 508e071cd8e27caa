//! The session store: keys and values that every node agrees on, as Redis would have them.
//!
//! A [`Call`] is one command; what it means, its replies and the texts of its errors are those of Redis 7.0. Calls that
//! may change something travel through the log as a [`Write`] and are carried out by every replica alike; calls that
//! only read are answered by any node from what it has applied ([`Sessions::read`]).
//!
//! Replicas have to agree, so nothing here knows a clock, draws lots or depends on the order of a hash table: a key's
//! life ends by log time, versions count changes, everything that is walked through lies in the order of hashes that are
//! keyed by the cluster's secret, and what Redis does in floating point is done in whole numbers that come to the same.
//!
//! Not here: the protocol on the wire, connections, transactions that are still being queued, who may do what
//! (`ballast-sessions`).

mod call;
mod database;
mod digest;
mod extended;
mod glob;
mod hash;
mod key;
mod keyspace;
mod notice;
mod number;
mod reply;
mod run;
mod scripts;
mod sessions;
mod set;
mod settings;
mod shelf;
mod snapshot;
mod spec;
mod survey;
mod text;
mod value;
mod work;
mod write;

pub use call::Call;
pub use glob::Pattern;
pub use key::Key;
pub use keyspace::{Garbage, Totals};
pub use notice::{Notice, NotifyFlags};
pub use number::{parse as parse_integer, parse_database};
pub use reply::Reply;
pub use sessions::{DatabaseStats, Due, Sessions, Stats, Unread};
pub use settings::Settings;
pub use spec::{Class, Spec, spec, specs};
pub use survey::{KeyInfo, key_hash_text};
pub use write::{Watched, Write};

pub(crate) use snapshot::{Head as SessionsHead, SessionsSnapshot};

#[cfg(test)]
mod tests;
