//! The binding table: which client key stays with which backend.
//!
//! Keys are kept only as 128-bit keyed hashes, so an entry has a fixed small size whatever the
//! client sent, and nobody without the cluster's secret can make two keys collide. The table is
//! split into shards, because one big map stops the world when it grows.
//!
//! One writer (the state machine) and many readers (the proxy's workers) share a table: the writer
//! changes a shard in place under a sequence number, readers take no lock and look again when the
//! number moved. A snapshot shares the shards; the writer copies one before it next writes to it.
//!
//! Not here: who may be bound to what (`crate::state`), reading keys out of requests (`ballast-proxy`).

use std::{hash::Hasher, net::IpAddr};

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::{config::SourcePrefix, ids::ServiceId};

mod record;
mod slots;
mod store;
mod table;
mod tables;

pub(crate) use record::BACKEND_MAX;
pub use record::{Provenance, Record};
pub use store::{StoreSnapshot, TableSnapshot};
pub use table::{TableConfig, Totals};
pub use tables::{BindingView, Tables};

pub(crate) use store::{Head as TableHead, Store, after, read_bytes};
pub(crate) use table::{Put, fresh, to_seconds};

/// A client's key as the cluster knows it: SipHash-2-4-128 of service and key under the cluster's
/// table secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(u128);

impl KeyHash {
    /// Hashes a key of a service's table.
    pub fn of(secret: &[u8; 16], service: ServiceId, key: &[u8]) -> Self {
        let mut hasher = SipHasher24::new_with_key(secret);
        hasher.write_u32(service.get().to_le());
        hasher.write(key);
        Self(hasher.finish128().as_u128())
    }

    /// Hashes a client's address, cut to the prefix that counts.
    pub fn of_source(secret: &[u8; 16], service: ServiceId, client: IpAddr, prefix: SourcePrefix) -> Self {
        match client.to_canonical() {
            IpAddr::V4(address) => {
                let cut = 32 - u32::from(prefix.ipv4_prefix.min(32));
                let bits = address.to_bits().checked_shr(cut).unwrap_or(0).checked_shl(cut).unwrap_or(0);
                Self::of(secret, service, &bits.to_be_bytes())
            }
            IpAddr::V6(address) => {
                let cut = 128 - u32::from(prefix.ipv6_prefix.min(128));
                let bits = address.to_bits().checked_shr(cut).unwrap_or(0).checked_shl(cut).unwrap_or(0);
                Self::of(secret, service, &bits.to_be_bytes())
            }
        }
    }

    /// Wraps a hash that came from the log.
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The bare hash.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests;
