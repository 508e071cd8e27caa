//! Facts of this machine's interfaces that the cluster is told.
//!
//! Not here: addresses, announcements and the fence (`ballast-vip`).

use ballast_core::mac::Mac;

/// The hardware address of an interface; nothing if there is no such interface, or it has none.
pub fn mac(interface: &str) -> Option<Mac> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address")).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_an_address_of_zeros() {
        assert_eq!(mac("lo"), Some(Mac::new([0; 6])));
        assert_eq!(mac("no-such-one"), None);
    }
}
