//! Where somebody listens already.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

/// Who listens where. The unspecified address is every address of its family, and of that alone: `::` is opened for IPv6 only.
pub(super) struct Places<T> {
    at: HashMap<SocketAddr, Vec<T>>,
    of_port: HashMap<(u16, bool), Vec<IpAddr>>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { at: HashMap::new(), of_port: HashMap::new() }
    }
}

impl<T> Places<T> {
    /// `who` listens at `place`, too.
    pub(super) fn put(&mut self, place: SocketAddr, who: T) {
        let there = self.at.entry(place).or_default();
        if there.is_empty() {
            self.of_port.entry((place.port(), place.is_ipv4())).or_default().push(place.ip());
        }
        there.push(who);
    }

    /// The first that listens at this very place.
    pub(super) fn first(&self, place: SocketAddr) -> Option<&T> {
        self.at.get(&place).and_then(|there| there.first())
    }

    /// Who stands in the way of a listener at `place`, and where: those of the same place first.
    pub(super) fn in_the_way(&self, place: SocketAddr) -> impl Iterator<Item = (SocketAddr, &T)> {
        let others = self.of_port.get(&(place.port(), place.is_ipv4()));
        let covers =
            move |other: &IpAddr| *other != place.ip() && (other.is_unspecified() || place.ip().is_unspecified());
        let others = others.into_iter().flatten().copied().filter(covers);
        let places = std::iter::once(place.ip()).chain(others).map(move |ip| SocketAddr::new(ip, place.port()));
        places.flat_map(|place| self.at.get(&place).into_iter().flatten().map(move |who| (place, who)))
    }
}

/// Where whoever is in the way listens, if that is not the very place.
pub(super) fn elsewhere(place: SocketAddr, other: SocketAddr) -> String {
    if other == place { String::new() } else { format!(" at {other}") }
}
