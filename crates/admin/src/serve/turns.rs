//! Which handshakes may be under way at once, and which connections of those who show no certificate.
//!
//! Whoever connects is taken from the kernel's queue at once, where it would keep others waiting, and costs a descriptor
//! until its handshake is over; who says nothing draws that out for as long as it may. So there is a bound, and beyond it
//! one more handshake ends another: the oldest of those from where the most come. However many connections one place
//! makes, it takes turns from itself alone, once others want them. Who came last gives way last, so that from the same place,
//! too, a handshake is done in time, unless as many connections as there are turns come while it lasts. So it is with connections
//! of machines that enrol, among those of strangers: anybody can complete a handshake without a certificate.
//!
//! Not here: how long either may take; connections of those who show a certificate ([`super::Places`]).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Turns of handshakes, or of connections.
#[derive(Debug)]
pub struct Turns {
    held: Arc<Mutex<Held>>,
    max: usize,
}

/// Another handshake needed the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake gave way to another: there were as many as there may be, and from nowhere came more of them")]
pub struct TurnLost;

/// Where a connection comes from: an address, or the network of 64 bits that an IPv6 address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IpAddr::V4(address)),
            // Whoever has one address of such a network has all (RFC 4291, section 2.5.4).
            IpAddr::V6(address) => Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))),
        }
    }
}

#[derive(Debug, Default)]
struct Held {
    /// By the order in which they were taken.
    turns: BTreeMap<u64, (Source, CancellationToken)>,
    next: u64,
}

impl Held {
    /// Takes the turn away that gives way to one more.
    fn give_way(&mut self) -> Option<CancellationToken> {
        let mut counts: HashMap<Source, usize> = HashMap::new();
        for (source, _) in self.turns.values() {
            *counts.entry(*source).or_default() += 1;
        }
        let most = counts.values().max()?;
        let (number, _) = self.turns.iter().find(|(_, (source, _))| counts.get(source) == Some(most))?;
        let number = *number;
        self.turns.remove(&number).map(|(_, lost)| lost)
    }
}

impl Turns {
    /// So many at once, at least one.
    pub fn new(max: usize) -> Self {
        Self { held: Arc::default(), max }
    }

    /// A turn for who connects from this address. There always is one; if all are held, another is lost.
    pub fn take(&self, address: IpAddr) -> Turn {
        let mut held = self.held.lock();
        let gives_way = if held.turns.len() < self.max { None } else { held.give_way() };
        let (number, lost) = (held.next, CancellationToken::new());
        held.next += 1;
        held.turns.insert(number, (Source::of(address), lost.clone()));
        drop(held);
        if let Some(gives_way) = gives_way {
            gives_way.cancel();
        }
        Turn { number, lost, held: Arc::clone(&self.held) }
    }
}

/// A turn, which is free again once this is dropped.
#[derive(Debug)]
pub struct Turn {
    number: u64,
    lost: CancellationToken,
    held: Arc<Mutex<Held>>,
}

impl Turn {
    /// Does a handshake in this turn.
    ///
    /// # Errors
    /// [`TurnLost`] if others needed it before the handshake was over, which is dropped then.
    pub async fn during<T>(self, handshake: impl Future<Output = T>) -> Result<T, TurnLost> {
        tokio::select! {
            biased;
            done = handshake => Ok(done),
            () = self.lost.cancelled() => Err(TurnLost),
        }
    }

    /// Holds the turn until another needs it.
    pub(super) async fn lost(self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held.lock().turns.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost<const N: usize>(turns: [&Turn; N]) -> [bool; N] {
        turns.map(|turn| turn.lost.is_cancelled())
    }

    #[test]
    fn whoever_has_the_most_turns_gives_way_with_the_oldest() {
        let turns = Turns::new(4);
        let from = |last: u8| turns.take(IpAddr::from([192, 0, 2, last]));
        let (eve, bob) = ([from(1), from(1), from(1)], from(2));
        assert_eq!(lost([&eve[0], &eve[1], &eve[2], &bob]), [false; 4]);
        let ann = from(3);
        assert_eq!(lost([&eve[0], &eve[1], &eve[2]]), [true, false, false]);
        let more = from(1);
        assert_eq!(lost([&eve[1], &eve[2], &more]), [true, false, false], "she takes them from herself");
        assert_eq!(lost([&bob, &ann]), [false; 2]);
        // Bob comes again at her cost, and has the most when Ann does.
        let again = [from(2), from(3)];
        assert_eq!(lost([&eve[2], &more]), [true, false]);
        assert_eq!(lost([&bob, &again[0], &ann, &again[1]]), [true, false, false, false]);
    }

    #[test]
    fn turns_that_are_over_are_nobodys() {
        let turns = Turns::new(2);
        let from = |last: u8| turns.take(IpAddr::from([192, 0, 2, last]));
        let (first, second) = (from(1), from(1));
        drop(second);
        let third = from(1);
        assert_eq!(lost([&first, &third]), [false; 2]);
        let fourth = from(2);
        assert_eq!(lost([&first, &third, &fourth]), [true, false, false]);
        // One that was lost is free already.
        drop(first);
        assert_eq!(turns.held.lock().turns.len(), 2);
        drop((third, fourth));
        assert!(turns.held.lock().turns.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_place_and_a_mapped_address_that_of_ipv4() {
        let of = |text: &str| Source::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
    }

    #[tokio::test]
    async fn a_handshake_ends_with_its_turn() {
        let turns = Turns::new(1);
        let address = IpAddr::from([192, 0, 2, 1]);
        let (first, second) = (turns.take(address), turns.take(address));
        assert_eq!(first.during(std::future::pending::<()>()).await, Err(TurnLost));
        assert_eq!(second.during(std::future::ready(7)).await, Ok(7));
        let (third, fourth) = (turns.take(address).lost(), turns.take(address).lost());
        third.await;
        assert_eq!(turns.held.lock().turns.len(), 1, "the fourth's");
        drop(fourth);
        assert!(turns.held.lock().turns.is_empty());
    }
}
