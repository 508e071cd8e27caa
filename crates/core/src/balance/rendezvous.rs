//! Weighted rendezvous hashing: a key's backend, without a table.
//!
//! Every backend draws a cost from the key and its own id; the cheapest for its weight has the
//! key. Losing a backend moves only its own keys, adding one takes keys only for itself, and a
//! change of weight moves only as many keys as it must. All nodes agree, because nothing but key,
//! ids and weights goes in.
//!
//! With `u` drawn evenly from (0, 1], the least `-log(u) / weight` wins with a probability
//! proportional to weight (Schindelhauer and Schomaker, SPAA 2005). The logarithm is taken in fixed
//! point, so that no two machines can disagree about a last digit.
//!
//! Maglev's table would make a pick independent of the number of backends, but costs a table of
//! 65 537 entries per service and worker and moves a few keys of backends that stay. A pick
//! here takes about twenty nanoseconds for each backend, and services seldom have more than a few dozen.

use std::{hash::Hasher as _, net::IpAddr};

use siphasher::sip::SipHasher13;

use crate::ids::BackendId;

/// What the hashing algorithms go by. Keyed by the cluster's secret, so that nobody outside can
/// aim many keys at one backend, and equal on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HashKey(u64);

impl HashKey {
    /// By the client's address. IPv4 mapped into IPv6 counts as IPv4.
    pub fn of_source(secret: &[u8; 16], address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::of_bytes(secret, &v4.octets()),
            IpAddr::V6(v6) => Self::of_bytes(secret, &v6.octets()),
        }
    }

    /// By any bytes: path and query for [`crate::config::Balance::UriHash`].
    pub fn of_bytes(secret: &[u8; 16], bytes: &[u8]) -> Self {
        let mut hasher = SipHasher13::new_with_key(secret);
        // `Hasher::write` and not `Hash::hash`, whose length prefix depends on the word size.
        hasher.write(bytes);
        Self(hasher.finish())
    }

    /// Wraps a number that is a hash already.
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }
}

/// The position of the key's backend; `None` when none has weight.
pub(super) fn pick(key: HashKey, backends: impl Iterator<Item = (BackendId, u64)>) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    for (index, (id, weight)) in backends.enumerate() {
        if weight == 0 {
            continue;
        }
        let cost = minus_log2(mix(key.0 ^ mix(u64::from(id.get()))));
        // Equal costs go to the lower position; at 38 bits that is rare enough not to matter.
        let cheaper = best.is_none_or(|(_, best_cost, best_weight)| {
            u128::from(cost) * u128::from(best_weight) < u128::from(best_cost) * u128::from(weight)
        });
        if cheaper {
            best = Some((index, cost, weight));
        }
    }
    best.map(|(index, ..)| index)
}

/// SplitMix64's finalizer: every input bit reaches every output bit.
pub(super) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bits after the point.
const FRACTION: u32 = 32;
const STEPS_LOG2: u32 = 8;
/// `log2(1 + i/256)` with [`FRACTION`] bits, and the value at 1 to interpolate towards.
const LOG2: [u64; (1 << STEPS_LOG2) + 1] = log2_table();

/// `-log2((hash + 1) / 2^64)` with 32 bits after the point; at least 1. Linear between the steps
/// of the table, at most 3e-6 off.
fn minus_log2(hash: u64) -> u64 {
    let Some(x) = hash.checked_add(1) else { return 1 };
    let exponent = x.ilog2();
    // The digits after the leading one, moved to the top.
    let mantissa = if exponent == 0 { 0 } else { x << (64 - exponent) };
    let step = (mantissa >> (64 - STEPS_LOG2)) as usize;
    let rest = (mantissa << STEPS_LOG2) >> 32;
    let log2 = LOG2[step] + (((LOG2[step + 1] - LOG2[step]) * rest) >> 32);
    let whole = u64::from(64 - exponent) << FRACTION;
    (whole - log2).max(1)
}

/// Digit by digit: squaring a number doubles its logarithm, and each time it passes two the next
/// digit is one.
const fn log2_table() -> [u64; (1 << STEPS_LOG2) + 1] {
    let mut table = [0; (1 << STEPS_LOG2) + 1];
    let mut i = 0;
    while i < 1 << STEPS_LOG2 {
        // 1 <= x < 2 with 62 bits after the point.
        let mut x: u128 = (1 << 62) + ((i as u128) << (62 - STEPS_LOG2));
        let mut bit = FRACTION;
        while bit > 0 {
            bit -= 1;
            x = (x * x) >> 62;
            if x >> 63 != 0 {
                table[i] |= 1 << bit;
                x >>= 1;
            }
        }
        i += 1;
    }
    table[1 << STEPS_LOG2] = 1 << FRACTION;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_close() {
        for hash in [0, 1, 2, 3, 1 << 20, u64::MAX / 3, u64::MAX / 2, u64::MAX - 1, 0x1234_5678_9abc_def0] {
            let exact = 64.0 - ((hash as f64) + 1.0).log2();
            let ours = minus_log2(hash) as f64 / (1_u64 << FRACTION) as f64;
            assert!((exact - ours).abs() < 4e-6, "{hash}: {exact} {ours}");
        }
        assert_eq!(minus_log2(u64::MAX), 1);
    }

    #[test]
    fn keys_are_the_same_everywhere() {
        let secret = *b"0123456789abcdef";
        let v4 = HashKey::of_source(&secret, "192.0.2.7".parse().expect("an address"));
        let mapped = HashKey::of_source(&secret, "::ffff:192.0.2.7".parse().expect("an address"));
        assert_eq!(v4, mapped);
        assert_ne!(v4, HashKey::of_source(b"another secret!!", "192.0.2.7".parse().expect("an address")));
        // A changed hash would move every client of every service when nodes are updated one by one.
        assert_eq!(HashKey::of_bytes(&secret, b"/a?b"), HashKey::from_u64(6152775143169159011));
    }
}
