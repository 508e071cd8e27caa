//! For which addresses a lease of a VIP is.
//!
//! Nodes learn of a changed document at different times, and what one calls `web` may be other addresses elsewhere, or
//! nothing, while another VIP has its address already. So a question names the addresses that it is for, as a digest; only
//! a voter that knows the VIP by the same ones can answer it, and what it promises is each of these addresses.
//!
//! Not here: who is promised what ([`super::grantor`]), what may be opened meanwhile ([`super::candidate`]).

use std::{net::IpAddr, sync::Arc};

use super::view::LeaseVip;

/// Names a set of addresses in a datagram. Documents have few of them and nobody chooses them to collide: whoever may
/// write documents owns the VIPs anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScopeDigest(u64);

impl ScopeDigest {
    /// Wraps a number that came from the wire.
    pub(super) const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The bare number.
    pub(super) const fn get(self) -> u64 {
        self.0
    }
}

/// The addresses of one VIP, by one document.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    digest: ScopeDigest,
    /// Ascending.
    addresses: Arc<[IpAddr]>,
}

impl Scope {
    /// What the VIP is. The order of the addresses and their prefixes change nothing about who answers for them.
    pub(super) fn of(vip: &LeaseVip) -> Self {
        let mut addresses: Vec<IpAddr> = vip.addresses.iter().map(|address| address.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self::new(addresses)
    }

    /// These addresses, ascending.
    fn new(addresses: Vec<IpAddr>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for address in &addresses {
            match address {
                IpAddr::V4(address) => hasher.update(&[4]).update(&address.octets()),
                IpAddr::V6(address) => hasher.update(&[6]).update(&address.octets()),
            };
        }
        let mut digest = [0; 8];
        hasher.finalize_xof().fill(&mut digest);
        Self { digest: ScopeDigest(u64::from_le_bytes(digest)), addresses: addresses.into() }
    }

    pub(super) fn digest(&self) -> ScopeDigest {
        self.digest
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Those of its addresses that the other has, too.
    pub(super) fn within(&self, other: &Self) -> Self {
        self.only(|address| other.has(address))
    }

    /// Those of its addresses for which `keep` holds.
    pub(super) fn only(&self, keep: impl Fn(IpAddr) -> bool) -> Self {
        Self::new(self.addresses.iter().copied().filter(|address| keep(*address)).collect())
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of these addresses.
    pub(in super::super) fn scope(addresses: &[&str]) -> Scope {
        let vip = LeaseVip {
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            ..crate::lease::sim::vip_of(1)
        };
        Scope::of(&vip)
    }

    #[test]
    fn a_scope_is_its_addresses_and_nothing_else() {
        let one = scope(&["10.0.0.1", "10.0.0.2/24"]);
        assert_eq!(one.digest(), scope(&["10.0.0.2", "10.0.0.1/24"]).digest());
        assert!(one.has("10.0.0.2".parse().expect("an address")) && !one.has("10.0.0.3".parse().expect("an address")));
        let both = one.within(&scope(&["10.0.0.2", "10.0.0.3"]));
        assert_eq!(both.digest(), scope(&["10.0.0.2"]).digest());
        for other in [&["10.0.0.1"][..], &["10.0.0.1", "10.0.0.3"], &[], &["::ffff:10.0.0.1", "10.0.0.2"]] {
            assert_ne!(one.digest(), scope(other).digest(), "{other:?}");
        }
    }
}
