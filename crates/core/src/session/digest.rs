//! Digests that add up, so that the hash of a million keys costs nothing when one of them changes.
//!
//! Each is SipHash under a fixed key: it shows that two replicas or a snapshot and its source differ, by damage or by a
//! mistake of ours. It is no proof against somebody who chooses the values.

use std::hash::Hasher;

use siphasher::{
    sip::SipHasher13,
    sip128::{Hasher128, SipHasher13 as SipHasher13x128},
};

/// Of a string.
pub(super) fn text(value: &[u8]) -> u64 {
    text_hasher(value).finish()
}

/// What makes the digest of a string, so far; it goes on when the string does.
pub(super) fn text_hasher(value: &[u8]) -> SipHasher13 {
    let mut hasher = SipHasher13::new_with_keys(1, 0);
    hasher.write(value);
    hasher
}

/// Of a field and its value, or of a member and nothing.
pub(super) fn pair(name: &[u8], value: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(2, name.len() as u64);
    hasher.write(name);
    hasher.write(value);
    hasher.finish()
}

/// Of a key with all that belongs to it.
pub(super) fn entry(database: u16, key: &[u8], facts: [u64; 5]) -> u128 {
    let mut hasher = SipHasher13x128::new_with_keys(3, u64::from(database));
    for fact in facts {
        hasher.write(&fact.to_le_bytes());
    }
    hasher.write(key);
    hasher.finish128().as_u128()
}
