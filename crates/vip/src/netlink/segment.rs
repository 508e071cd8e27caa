//! The few fields of a SYN that sending it on needs. Pure, and total on any bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A SYN with every header at its longest (14 + 60 + 60) fits, and so does one with data of TCP Fast
/// Open up to the smallest MTU of IPv6; a longer one is left to the client's retransmission.
pub(super) const FRAME_BYTES_MAX: usize = 1294;

const ETHERNET_BYTES: usize = 14;
const TCP: u8 = 6;

/// Where the segment in an untagged Ethernet frame wants to go.
pub(super) fn destination(frame: &[u8]) -> Option<IpAddr> {
    match layers(frame)? {
        Layers { v6: false, .. } => Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?).into()),
        Layers { v6: true, .. } => Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?).into()),
    }
}

/// Writes the TCP checksum (RFC 9293 section 3.1), which a neighbour on the same machine leaves to hardware
/// that does not exist. False when the frame does not hold the whole segment.
pub(super) fn complete_checksum(frame: &mut [u8]) -> bool {
    let Some(Layers { v6, addresses, tcp, end }) = layers(frame) else { return false };
    if end > frame.len() || end < tcp + 20 {
        return false;
    }
    frame[tcp + 16..tcp + 18].fill(0);
    let mut sum = u32::from(TCP) + (end - tcp) as u32;
    let address_bytes = if v6 { 32 } else { 8 };
    sum = add(sum, &frame[addresses..addresses + address_bytes]);
    sum = add(sum, &frame[tcp..end]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[tcp + 16..tcp + 18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    true
}

struct Layers {
    v6: bool,
    /// Offset of the source address, which the destination follows.
    addresses: usize,
    /// Offset of the TCP header.
    tcp: usize,
    /// Offset of what follows the segment.
    end: usize,
}

fn layers(frame: &[u8]) -> Option<Layers> {
    let ip = frame.get(ETHERNET_BYTES..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] if ip.len() >= 20 && ip[9] == TCP => {
            let header = usize::from(ip[0] & 15) * 4;
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            (header >= 20).then_some(Layers {
                v6: false,
                addresses: ETHERNET_BYTES + 12,
                tcp: ETHERNET_BYTES + header,
                end: ETHERNET_BYTES + total,
            })
        }
        // Extension headers are rare before a SYN; such a client has to ask again.
        [0x86, 0xdd] if ip.len() >= 40 && ip[6] == TCP => Some(Layers {
            v6: true,
            addresses: ETHERNET_BYTES + 8,
            tcp: ETHERNET_BYTES + 40,
            end: ETHERNET_BYTES + 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])),
        }),
        _ => None,
    }
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let pairs = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>();
    sum + pairs + odd.first().map_or(0, |last| u32::from(*last) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN from 10.77.0.10:40000 to 10.77.0.100:80 as Linux sends it, with its checksum.
    fn syn() -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_BYTES];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, TCP, 0, 0, 10, 77, 0, 10, 10, 77, 0, 100]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn finds_the_destination_and_completes_the_checksum() {
        let mut frame = syn();
        assert_eq!(destination(&frame), Some(IpAddr::from([10, 77, 0, 100])));
        assert!(complete_checksum(&mut frame));
        // With its checksum in it a segment sums up to all ones.
        let mut sum = u32::from(TCP) + 20;
        sum = add(add(sum, &frame[26..34]), &frame[34..]);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
        let once = frame.clone();
        assert!(complete_checksum(&mut frame));
        assert_eq!(frame, once, "a checksum that is there already stays");
    }

    #[test]
    fn does_the_same_for_ipv6() {
        let mut frame = vec![0; ETHERNET_BYTES];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame.extend([0x60, 0, 0, 0, 0, 20, TCP, 64]);
        let (from, to) = (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, 0));
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend(&syn()[34..]);
        assert_eq!(destination(&frame), Some(to.into()));
        assert!(complete_checksum(&mut frame));
        assert_ne!(frame[70..72], [0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), v6: bool) {
            let _ = (destination(&bytes), complete_checksum(&mut bytes));
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
                let _ = (destination(&bytes), complete_checksum(&mut bytes));
            }
        }
    }
}
