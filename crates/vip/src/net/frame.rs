//! The Ethernet frames that say and ask who has an address: ARP (RFC 826, RFC 5227) and neighbour
//! discovery (RFC 4861). Pure, and without allocation, because announcements are made on the lease
//! thread.
//!
//! On a VLAN interface the kernel adds the tag, so none is written here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Mac;

pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IPv6's next header for ICMPv6.
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(crate) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// RFC 4861 section 7.1: anything less came through a router.
pub(crate) const HOP_LIMIT: u8 = 255;
/// RFC 826: Ethernet, IPv4, their lengths.
pub(crate) const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// RFC 4861 section 4.4: the override flag, without which a neighbour keeps the MAC it has.
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const ETHERNET_BYTES: usize = 14;
const ARP_BYTES: usize = 28;
const IPV6_BYTES: usize = 40;
/// Type, code, checksum, flags, target.
const ND_BYTES: usize = 24;
const OPTION_BYTES: usize = 8;
const FRAME_BYTES_MAX: usize = ETHERNET_BYTES + IPV6_BYTES + ND_BYTES + OPTION_BYTES;

/// A frame ready to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; FRAME_BYTES_MAX],
    length: usize,
}

impl Frame {
    /// From the destination's MAC to the last byte before the checksum that the hardware adds.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }

    fn empty() -> Self {
        Self { bytes: [0; FRAME_BYTES_MAX], length: 0 }
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        self
    }
}

/// Tells everybody on the link that `mac` has `address`.
pub fn announcement(address: IpAddr, mac: Mac) -> Frame {
    match address {
        // RFC 5227 section 3: the request form. Linux takes a gratuitous reply only when its target
        // MAC is that of the sender, and otherwise ignores it for a second after the last change.
        IpAddr::V4(address) => arp_request(mac, address, address),
        IpAddr::V6(address) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let option = Some((TARGET_LINK_LAYER, mac));
            neighbour(mac, address, all_nodes, NEIGHBOUR_ADVERTISEMENT, OVERRIDE, address, option)
        }
    }
}

/// Asks who has `address` without saying who asks, so that nobody's cache changes (RFC 5227 section
/// 2.1.1, RFC 4862 section 5.4.2).
pub fn probe(address: IpAddr, mac: Mac) -> Frame {
    match address {
        IpAddr::V4(address) => arp_request(mac, Ipv4Addr::UNSPECIFIED, address),
        IpAddr::V6(address) => {
            let to = solicited_node(address);
            neighbour(mac, Ipv6Addr::UNSPECIFIED, to, NEIGHBOUR_SOLICITATION, 0, address, None)
        }
    }
}

/// Asks who has `address` from an address of our own, as one asks a gateway. Nothing when the two
/// are of different families.
pub fn request(address: IpAddr, own: IpAddr, mac: Mac) -> Option<Frame> {
    match (address, own) {
        (IpAddr::V4(address), IpAddr::V4(own)) => Some(arp_request(mac, own, address)),
        (IpAddr::V6(address), IpAddr::V6(own)) => {
            let option = Some((SOURCE_LINK_LAYER, mac));
            Some(neighbour(mac, own, solicited_node(address), NEIGHBOUR_SOLICITATION, 0, address, option))
        }
        _ => None,
    }
}

fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Frame {
    let frame = ethernet(Mac::BROADCAST, mac, ETHERTYPE_ARP).put(&ARP_HEAD).put(&[0, 1]);
    let frame = frame.put(&mac.bytes()).put(&sender.octets()).put(&[0; 6]).put(&target.octets());
    debug_assert_eq!(frame.length, ETHERNET_BYTES + ARP_BYTES);
    frame
}

fn neighbour(
    mac: Mac,
    from: Ipv6Addr,
    to: Ipv6Addr,
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, Mac)>,
) -> Frame {
    let length = ND_BYTES + option.map_or(0, |_| OPTION_BYTES);
    let frame = ethernet(multicast_mac(to), mac, ETHERTYPE_IPV6);
    let frame = frame.put(&[0x60, 0, 0, 0, 0, length as u8, ICMPV6, HOP_LIMIT]).put(&from.octets()).put(&to.octets());
    let begin = frame.length;
    let mut frame = frame.put(&[kind, 0, 0, 0, flags, 0, 0, 0]).put(&target.octets());
    if let Some((option, mac)) = option {
        // The length counts eights.
        frame = frame.put(&[option, 1]).put(&mac.bytes());
    }
    let checksum = icmpv6_checksum(from, to, &frame.bytes[begin..frame.length]);
    frame.bytes[begin + 2..begin + 4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Frame {
    Frame::empty().put(&to.bytes()).put(&from.bytes()).put(&ethertype.to_be_bytes())
}

/// RFC 4291 section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// RFC 2464 section 7.
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac::new([0x33, 0x33, a, b, c, d])
}

/// RFC 4443 section 2.3, over the pseudo-header of RFC 8200 section 8.1. Zero over a message that
/// carries its right checksum.
pub(crate) fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let pairs = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        pairs.map(u32::from).sum()
    };
    let mut sum = pairs(&from.octets()) + pairs(&to.octets()) + message.len() as u32 + u32::from(ICMPV6);
    sum += pairs(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac::new([2, 0, 0, 0, 1, 1]);

    fn check(frame: Frame, expected: &str) {
        let hex: String = frame.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.split_whitespace().collect::<String>());
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn gratuitous_arp_is_a_request_for_ones_own_address() {
        check(
            announcement(ip("10.0.0.5"), MAC),
            "ffffffffffff 020000000101 0806 0001 0800 06 04 0001 020000000101 0a000005 000000000000 0a000005",
        );
    }

    #[test]
    fn unsolicited_advertisement_overrides_and_goes_to_all_nodes() {
        check(
            announcement(ip("2001:db8::5"), MAC),
            "333300000001 020000000101 86dd 60000000 0020 3a ff
             20010db8000000000000000000000005 ff020000000000000000000000000001
             88 00 f822 20000000 20010db8000000000000000000000005 02 01 020000000101",
        );
    }

    #[test]
    fn probes_do_not_say_who_asks() {
        check(
            probe(ip("10.0.0.5"), MAC),
            "ffffffffffff 020000000101 0806 0001 0800 06 04 0001 020000000101 00000000 000000000000 0a000005",
        );
        check(
            probe(ip("2001:db8::12:3456"), MAC),
            "3333ff123456 020000000101 86dd 60000000 0018 3a ff
             00000000000000000000000000000000 ff0200000000000000000001ff123456
             87 00 e41e 00000000 20010db8000000000000000000123456",
        );
    }

    #[test]
    fn gateways_are_asked_from_an_own_address() {
        check(
            request(ip("10.0.0.254"), ip("10.0.0.1"), MAC).expect("one family"),
            "ffffffffffff 020000000101 0806 0001 0800 06 04 0001 020000000101 0a000001 000000000000 0a0000fe",
        );
        check(
            request(ip("fe80::1"), ip("fe80::2"), MAC).expect("one family"),
            "3333ff000001 020000000101 86dd 60000000 0020 3a ff
             fe800000000000000000000000000002 ff0200000000000000000001ff000001
             87 00 7998 00000000 fe800000000000000000000000000001 01 01 020000000101",
        );
        assert_eq!(request(ip("fe80::1"), ip("10.0.0.1"), MAC), None);
    }

    #[test]
    fn checksum_of_rfc_1071_sums_to_zero() {
        let from = Ipv6Addr::LOCALHOST;
        let message = [128, 0, 0, 0, 1, 2, 3];
        let sum = icmpv6_checksum(from, from, &message);
        let [high, low] = sum.to_be_bytes();
        assert_eq!(icmpv6_checksum(from, from, &[128, 0, high, low, 1, 2, 3]), 0);
    }
}
