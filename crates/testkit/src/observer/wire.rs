//! Where the observer is, and by which hardware addresses it knows the nodes.
//!
//! On a lab's bridge both are fixed. A container may come back with another hardware address, so whoever starts it says so; the
//! observer reads what was said without a lock.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};

use crate::{
    lab::{Guests, Host, Lab, Places},
    packet::PacketSocket,
};

/// Hardware and network addresses of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Station {
    pub(super) mac: [u8; 6],
    pub(super) ip: Ipv4Addr,
    pub(super) ip6: Ipv6Addr,
}

impl Station {
    /// The observer of a lab.
    pub(super) fn of_lab() -> Self {
        Self { mac: Host::Observer.mac(), ip: Host::Observer.ip(), ip6: Host::Observer.ip6() }
    }
}

/// Hardware addresses of nodes, which may change.
#[derive(Clone, Debug)]
pub struct Macs(Arc<[AtomicU64]>);

impl Macs {
    /// Of so many nodes, none of which is known yet.
    pub fn unknown(nodes: usize) -> Self {
        Self((0..nodes).map(|_| AtomicU64::new(0)).collect())
    }

    fn of_lab(nodes: usize) -> Self {
        let macs = Self::unknown(nodes);
        (0..nodes).for_each(|node| macs.set(node, Host::Node(node).mac()));
        macs
    }

    /// From now on a node has this one.
    pub fn set(&self, node: usize, mac: [u8; 6]) {
        self.0[node].store(number(mac), Ordering::Relaxed);
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.0.len()
    }

    /// That of a node, if it is known.
    pub(super) fn of(&self, node: usize) -> Option<[u8; 6]> {
        let bytes = self.0[node].load(Ordering::Relaxed).to_be_bytes();
        let [_, _, mac @ ..] = bytes;
        (mac != [0; 6]).then_some(mac)
    }

    /// Whose it is.
    pub(super) fn node(&self, mac: [u8; 6]) -> Option<usize> {
        self.0.iter().position(|known| known.load(Ordering::Relaxed) == number(mac))
    }
}

fn number(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// A raw socket among nodes.
pub struct Wire {
    pub(super) socket: PacketSocket,
    pub(super) me: Station,
    pub(super) nodes: Macs,
}

impl Wire {
    /// That of a lab.
    ///
    /// # Errors
    /// When the raw socket cannot be opened.
    pub fn of_lab(lab: &Lab) -> Result<Self> {
        Ok(Self { socket: open(lab.guests())?, me: Station::of_lab(), nodes: Macs::of_lab(lab.nodes()) })
    }

    /// That of guests on somebody else's bridge.
    ///
    /// # Errors
    /// When the raw socket cannot be opened.
    pub fn of_guests(guests: &Guests, places: Places, nodes: &Macs) -> Result<Self> {
        // Nobody asks in IPv6 there.
        let me = Station { mac: Host::Observer.mac(), ip: places.observer, ip6: Ipv6Addr::UNSPECIFIED };
        Ok(Self { socket: open(guests)?, me, nodes: nodes.clone() })
    }
}

fn open(guests: &Guests) -> Result<PacketSocket> {
    guests.within(Host::Observer, || PacketSocket::open(c"eth0"))?.context("open a raw socket for the observer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_the_address_that_it_has_now() {
        let macs = Macs::unknown(2);
        let (one, other) = ([2, 0x42, 0xac, 0x1e, 0x58, 0x0b], [2, 0, 0, 0, 0, 9]);
        assert_eq!((macs.node(one), macs.of(1)), (None, None));
        macs.set(1, one);
        assert_eq!((macs.node(one), macs.of(1)), (Some(1), Some(one)));
        macs.set(1, other);
        assert_eq!((macs.node(one), macs.node(other)), (None, Some(1)));
    }
}
