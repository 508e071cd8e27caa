//! Reads from a frame which MAC says that it has which address. Pure and total: any bytes give a
//! claim or none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Mac,
    frame::{
        ARP_HEAD, ETHERTYPE_ARP, ETHERTYPE_IPV6, HOP_LIMIT, ICMPV6, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION,
        icmpv6_checksum,
    },
};

/// IEEE 802.1Q, 802.1ad.
const VLAN_TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Two stacked tags are the most that the standards know.
const VLAN_TAGS_MAX: usize = 2;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// RFC 4861 section 4.4.
const SOLICITED: u8 = 0x40;

/// `mac` says that it has `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Whose it is said to be.
    pub mac: Mac,
    /// Said in answer to a question (an ARP reply, a solicited advertisement), so that the way there
    /// works too, and not only the way back.
    pub answer: bool,
}

/// The claim that a frame makes, with a VLAN tag or without.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let source = Mac::from_slice(frame.get(6..12)?)?;
    let mut at = 12;
    for _ in 0..VLAN_TAGS_MAX {
        if VLAN_TAGS.contains(&read_u16(frame, at)?) {
            at += 4;
        }
    }
    let payload = frame.get(at + 2..)?;
    let claim = match read_u16(frame, at)? {
        ETHERTYPE_ARP => arp(payload),
        ETHERTYPE_IPV6 => neighbour(payload, source),
        _ => None,
    }?;
    claim.mac.is_unicast().then_some(claim)
}

/// RFC 826. A probe (RFC 5227) has no sender's address and claims nothing.
fn arp(packet: &[u8]) -> Option<Claim> {
    if packet.get(..6)? != ARP_HEAD {
        return None;
    }
    let answer = match read_u16(packet, 6)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let mac = Mac::from_slice(packet.get(8..14)?)?;
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(14..18)?).ok()?);
    (!address.is_unspecified()).then_some(Claim { address: address.into(), mac, answer })
}

/// RFC 4861 sections 7.1.1 and 7.1.2. Neighbour discovery behind an extension header is not looked
/// for: RFC 6980 forbids the only one that hosts would send.
fn neighbour(packet: &[u8], source: Mac) -> Option<Claim> {
    let length = usize::from(read_u16(packet, 4)?);
    if packet.first()? >> 4 != 6 || *packet.get(6)? != ICMPV6 || *packet.get(7)? != HOP_LIMIT {
        return None;
    }
    let (from, to) = (read_ipv6(packet, 8)?, read_ipv6(packet, 24)?);
    let message = packet.get(40..40 + length)?;
    let target = read_ipv6(message, 8)?;
    if message[1] != 0 || icmpv6_checksum(from, to, message) != 0 {
        return None;
    }
    match message[0] {
        NEIGHBOUR_ADVERTISEMENT if !target.is_multicast() => {
            let mac = option(message, TARGET_LINK_LAYER).unwrap_or(source);
            Some(Claim { address: target.into(), mac, answer: message[4] & SOLICITED != 0 })
        }
        NEIGHBOUR_SOLICITATION if !from.is_unspecified() => {
            option(message, SOURCE_LINK_LAYER).map(|mac| Claim { address: from.into(), mac, answer: false })
        }
        _ => None,
    }
}

/// The MAC in the first option of this kind.
fn option(message: &[u8], wanted: u8) -> Option<Mac> {
    let mut options = message.get(24..)?;
    loop {
        let (&kind, &eights) = (options.first()?, options.get(1)?);
        // RFC 4861 section 4.6: a length of zero makes the message void.
        if eights == 0 {
            return None;
        }
        if kind == wanted {
            return Mac::from_slice(options.get(2..8)?);
        }
        options = options.get(usize::from(eights) * 8..)?;
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn read_ipv6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok().map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::frame, *};

    const MAC: Mac = Mac::new([2, 0, 0, 0, 1, 1]);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len() / 2).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).expect("hex")).collect()
    }

    #[test]
    fn announcements_claim_and_probes_do_not() {
        for address in ["10.0.0.5", "2001:db8::5"].map(ip) {
            let expected = Claim { address, mac: MAC, answer: false };
            assert_eq!(claim(frame::announcement(address, MAC).as_bytes()), Some(expected));
            assert_eq!(claim(frame::probe(address, MAC).as_bytes()), None);
        }
    }

    #[test]
    fn who_asks_claims_its_own_address() {
        for (gateway, own) in [("10.0.0.254", "10.0.0.1"), ("fe80::1", "fe80::2")] {
            let frame = frame::request(ip(gateway), ip(own), MAC).expect("one family");
            assert_eq!(claim(frame.as_bytes()), Some(Claim { address: ip(own), mac: MAC, answer: false }));
        }
    }

    #[test]
    fn answers_are_told_from_announcements() {
        let reply = "020000000102 020000000101 0806 0001 0800 06 04 0002
                     020000000101 0a000005 020000000102 0a000001 000000000000";
        assert_eq!(claim(&hex(reply)), Some(Claim { address: ip("10.0.0.5"), mac: MAC, answer: true }));
    }

    #[test]
    fn a_vlan_tag_changes_nothing() {
        for address in ["10.0.0.5", "2001:db8::5"].map(ip) {
            let bare = frame::announcement(address, MAC);
            let (head, rest) = bare.as_bytes().split_at(12);
            let once = [head, &[0x81, 0, 0, 5], rest].concat();
            let twice = [head, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5], rest].concat();
            assert!(claim(&once).is_some());
            assert_eq!(claim(&once), claim(bare.as_bytes()));
            assert_eq!(claim(&twice), claim(bare.as_bytes()));
        }
    }

    #[test]
    fn forwarded_or_damaged_neighbour_discovery_is_void() {
        let good = frame::announcement(ip("2001:db8::5"), MAC);
        for at in 14..good.as_bytes().len() {
            let mut bad = good.as_bytes().to_vec();
            bad[at] ^= 1;
            // Traffic class, of which the first byte has a part, and flow label mean nothing here.
            let harmless = (14..=17).contains(&at);
            assert_eq!(claim(&bad).is_none(), !harmless, "byte {at}");
        }
    }

    #[test]
    fn a_group_has_no_address() {
        assert_eq!(claim(frame::announcement(ip("10.0.0.5"), Mac::BROADCAST).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..150)) {
            claim(&bytes);
        }

        #[test]
        fn damaged_frames_are_read_to_an_end(
            v6: bool, length in 0_usize..90, changes in proptest::collection::vec((0_usize..90, any::<u8>()), 0..6),
        ) {
            let frame = frame::announcement(ip(if v6 { "2001:db8::5" } else { "10.0.0.5" }), MAC);
            let mut bytes = frame.as_bytes().to_vec();
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(length);
            claim(&bytes);
        }
    }
}
