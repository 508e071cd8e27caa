//! The observer's frames: what it sends and what it makes of the answers.
//!
//! Each probe carries the number of its tick where the answer brings it back: an ARP request in its
//! sender's hardware address (the Ethernet address is another matter), a SYN in its sequence
//! number. So an answer belongs to the probe that it answers, however late it is read. The
//! sender's IPv4 address in the ARP request is 0.0.0.0 (a probe of RFC 5227), which leaves no trace in
//! the neighbour tables of the nodes. A neighbour solicitation cannot carry a number; it goes out
//! under one of sixteen source addresses in turn.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Station;

/// Source addresses of neighbour solicitations.
pub const NDP_SOURCES: u32 = 16;
const ARP_BYTES: usize = 42;
const TCP_BYTES: usize = 54;
const TCP6_BYTES: usize = 74;
const NDP_BYTES: usize = 86;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Whom the probes are about.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its address.
    pub vip: Ipv4Addr,
    /// Its address in IPv6; `::` where it has none, and nobody is asked.
    pub vip6: Ipv6Addr,
    /// A TCP port on which its owner listens.
    pub port: u16,
}

/// An answer for the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Somebody says that the VIP's hardware address is its own.
    Arp {
        /// Of the question.
        tick: u32,
    },
    /// The same in IPv6, to the source address of that number.
    Ndp {
        /// Number of the address.
        source: u32,
    },
    /// Somebody accepts a connection; `port` is the observer's.
    Syn {
        /// Of the question.
        tick: u32,
        /// The observer's.
        port: u16,
    },
    /// The same in IPv6.
    Syn6 {
        /// Of the question.
        tick: u32,
        /// The observer's.
        port: u16,
    },
    /// Somebody announces the VIP unasked.
    Announcement,
}

/// The broadcast ARP request of a tick.
pub fn arp_request(me: Station, target: Target, tick: u32) -> [u8; ARP_BYTES] {
    let mut frame = [0; ARP_BYTES];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&me.mac);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..24].copy_from_slice(&ARP_MARK);
    frame[24..28].copy_from_slice(&tick.to_be_bytes());
    frame[38..42].copy_from_slice(&target.vip.octets());
    frame
}

/// First two bytes of the hardware address in an ARP request; locally administered, unicast.
const ARP_MARK: [u8; 2] = [0x02, 0xba];

/// The SYN of a tick to one node.
pub fn syn(me: Station, target: Target, tick: u32, node: [u8; 6]) -> [u8; TCP_BYTES] {
    tcp(me, target, node, port_of(tick), tick, SYN)
}

/// The same in IPv6.
pub fn syn6(me: Station, target: Target, tick: u32, node: [u8; 6]) -> [u8; TCP6_BYTES] {
    tcp6(me, target, node, port_of(tick), tick, SYN)
}

/// A port is used again after 50 s, long after a node has forgotten it.
fn port_of(tick: u32) -> u16 {
    10_000 + (tick % 50_000) as u16
}

/// The end of a connection that a node accepted.
pub fn reset(me: Station, target: Target, to: [u8; 6], port: u16, tick: u32) -> [u8; TCP_BYTES] {
    tcp(me, target, to, port, tick.wrapping_add(1), RST)
}

/// The same in IPv6.
pub fn reset6(me: Station, target: Target, to: [u8; 6], port: u16, tick: u32) -> [u8; TCP6_BYTES] {
    tcp6(me, target, to, port, tick.wrapping_add(1), RST)
}

fn tcp(me: Station, target: Target, to: [u8; 6], port: u16, sequence: u32, flags: u8) -> [u8; TCP_BYTES] {
    let mut frame = [0; TCP_BYTES];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&me.mac);
    frame[12..14].copy_from_slice(&[8, 0]);
    let (source, destination) = (me.ip.octets(), target.vip.octets());
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&40u16.to_be_bytes());
    ip[6] = 0x40;
    ip[8..10].copy_from_slice(&[64, 6]);
    ip[12..16].copy_from_slice(&source);
    ip[16..20].copy_from_slice(&destination);
    let sum = checksum(0, ip);
    ip[10..12].copy_from_slice(&sum);
    segment(&mut frame[34..], target, port, sequence, flags, sum_of(&source) + sum_of(&destination));
    frame
}

fn tcp6(me: Station, target: Target, to: [u8; 6], port: u16, sequence: u32, flags: u8) -> [u8; TCP6_BYTES] {
    let mut frame = [0; TCP6_BYTES];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&me.mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let (source, destination) = (me.ip6.octets(), target.vip6.octets());
    frame[14] = 0x60;
    frame[18..22].copy_from_slice(&[0, 20, 6, 64]);
    frame[22..38].copy_from_slice(&source);
    frame[38..54].copy_from_slice(&destination);
    segment(&mut frame[54..], target, port, sequence, flags, sum_of(&source) + sum_of(&destination));
    frame
}

/// Writes a segment without data. `addresses` is what the packet's add to its checksum.
fn segment(tcp: &mut [u8], target: Target, port: u16, sequence: u32, flags: u8, addresses: u32) {
    tcp[..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&target.port.to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12..16].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
    let sum = checksum(addresses + 6 + 20, tcp);
    tcp[16..18].copy_from_slice(&sum);
}

/// A neighbour solicitation under one of the source addresses.
pub fn solicitation(me: Station, target: Target, source: u32) -> [u8; NDP_BYTES] {
    let mut frame = [0; NDP_BYTES];
    let (from, wanted) = (source_address(source).octets(), target.vip6.octets());
    // The solicited-node group of the target (RFC 4291, 2.7.1).
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&wanted[13..]);
    frame[..2].copy_from_slice(&[0x33, 0x33]);
    frame[2..6].copy_from_slice(&group[12..]);
    frame[6..12].copy_from_slice(&me.mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[18..22].copy_from_slice(&[0, 32, 58, 255]);
    frame[22..38].copy_from_slice(&from);
    frame[38..54].copy_from_slice(&group);
    frame[54] = 135;
    frame[62..78].copy_from_slice(&wanted);
    frame[78..80].copy_from_slice(&[1, 1]);
    frame[80..86].copy_from_slice(&me.mac);
    let sum = checksum(sum_of(&from) + sum_of(&group) + 58 + 32, &frame[54..86]);
    frame[56..58].copy_from_slice(&sum);
    frame
}

fn source_address(source: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0x11, (source % NDP_SOURCES) as u16)
}

/// Reads a frame. `None` unless it speaks for the VIP; then who sent it, and what it says.
pub fn parse(me: Station, target: Target, frame: &[u8]) -> Option<([u8; 6], Answer)> {
    let from = frame.get(6..12)?.try_into().ok()?;
    let body = frame.get(14..)?;
    let answer = match frame[12..14] {
        [8, 6] => parse_arp(target, body)?,
        [8, 0] => parse_tcp(me, target, body)?,
        [0x86, 0xdd] => parse_ndp(target, body).or_else(|| parse_tcp6(me, target, body))?,
        _ => return None,
    };
    Some((from, answer))
}

/// What there is to answer to a node that asks by ARP where the observer is; `None` if the frame does not.
pub fn here(me: Station, frame: &[u8]) -> Option<[u8; ARP_BYTES]> {
    let asked: &[u8; ARP_BYTES] = frame.get(..ARP_BYTES)?.try_into().ok()?;
    if asked[12..22] != [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] || asked[38..42] != me.ip.octets() {
        return None;
    }
    let mut reply = *asked;
    reply[..6].copy_from_slice(&asked[6..12]);
    reply[6..12].copy_from_slice(&me.mac);
    reply[21] = 2;
    reply[22..28].copy_from_slice(&me.mac);
    reply[28..32].copy_from_slice(&me.ip.octets());
    reply[32..42].copy_from_slice(&asked[22..32]);
    Some(reply)
}

/// The address that the sender of an ARP frame calls its own.
pub fn arp_source(frame: &[u8]) -> Option<Ipv4Addr> {
    let body = frame.get(14..42).filter(|_| frame[12..14] == [8, 6])?;
    Some(Ipv4Addr::new(body[14], body[15], body[16], body[17]))
}

fn parse_arp(target: Target, body: &[u8]) -> Option<Answer> {
    let body = body.get(..28)?;
    let vip = target.vip.octets();
    if body[14..18] != vip {
        return None;
    }
    match (body[7], &body[18..20]) {
        (2, mark) if *mark == ARP_MARK => Some(Answer::Arp { tick: u32::from_be_bytes(body[20..24].try_into().ok()?) }),
        _ if body[24..28] == vip => Some(Answer::Announcement),
        _ => None,
    }
}

fn parse_tcp(me: Station, target: Target, body: &[u8]) -> Option<Answer> {
    if body.len() < 40 || body[0] != 0x45 || body[9] != 6 || body[12..16] != target.vip.octets() {
        return None;
    }
    if body[16..20] != me.ip.octets() {
        return None;
    }
    accepted(target, &body[20..]).map(|(tick, port)| Answer::Syn { tick, port })
}

fn parse_tcp6(me: Station, target: Target, body: &[u8]) -> Option<Answer> {
    if body.len() < 60 || body[6] != 6 || body[8..24] != target.vip6.octets() || body[24..40] != me.ip6.octets() {
        return None;
    }
    accepted(target, &body[40..]).map(|(tick, port)| Answer::Syn6 { tick, port })
}

/// The question and the observer's port, if a segment accepts a connection.
fn accepted(target: Target, tcp: &[u8]) -> Option<(u32, u16)> {
    let accepts = tcp[..2] == target.port.to_be_bytes() && tcp[13] & (SYN | ACK | RST) == SYN | ACK;
    let tick = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]).wrapping_sub(1);
    accepts.then_some((tick, u16::from_be_bytes([tcp[2], tcp[3]])))
}

fn parse_ndp(target: Target, body: &[u8]) -> Option<Answer> {
    if body.len() < 64 || body[6] != 58 || body[40] != 136 || body[48..64] != target.vip6.octets() {
        return None;
    }
    if body[24] == 0xff {
        return Some(Answer::Announcement);
    }
    let to = Ipv6Addr::from(<[u8; 16]>::try_from(&body[24..40]).ok()?);
    (0..NDP_SOURCES).find(|source| source_address(*source) == to).map(|source| Answer::Ndp { source })
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0))).sum()
}

/// The internet checksum (RFC 1071) over `bytes`, with what a pseudo-header adds.
fn checksum(start: u32, bytes: &[u8]) -> [u8; 2] {
    let mut sum = start + sum_of(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target =
        Target { vip: Ipv4Addr::new(10, 77, 0, 100), vip6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100), port: 8080 };
    const NODE: [u8; 6] = [2, 0, 0, 0, 1, 2];
    const ME: Station = Station {
        mac: [2, 0, 0, 0, 1, 11],
        ip: Ipv4Addr::new(10, 77, 0, 11),
        ip6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 11),
    };

    #[test]
    fn an_arp_reply_brings_its_tick_back() {
        let request = arp_request(ME, TARGET, 70_000);
        let mut reply = request;
        reply[..6].copy_from_slice(&request[22..28]);
        reply[6..12].copy_from_slice(&NODE);
        reply[21] = 2;
        reply[22..28].copy_from_slice(&NODE);
        reply[28..32].copy_from_slice(&TARGET.vip.octets());
        reply[32..38].copy_from_slice(&request[22..28]);
        reply[38..42].copy_from_slice(&[0; 4]);
        assert_eq!(parse(ME, TARGET, &reply), Some((NODE, Answer::Arp { tick: 70_000 })));
        assert_eq!(parse(ME, TARGET, &request), None, "a request speaks for nobody");
    }

    #[test]
    fn a_gratuitous_request_is_an_announcement() {
        let mut frame = arp_request(ME, TARGET, 0);
        frame[6..12].copy_from_slice(&NODE);
        frame[22..28].copy_from_slice(&NODE);
        frame[28..32].copy_from_slice(&TARGET.vip.octets());
        assert_eq!(parse(ME, TARGET, &frame), Some((NODE, Answer::Announcement)));
    }

    #[test]
    fn an_accepted_connection_brings_its_tick_back() {
        let probe = syn(ME, TARGET, 123_456, NODE);
        assert_eq!(probe[..6], NODE);
        let mut answer = probe;
        answer[6..12].copy_from_slice(&NODE);
        answer[26..30].copy_from_slice(&TARGET.vip.octets());
        answer[30..34].copy_from_slice(&ME.ip.octets());
        answer[34..36].copy_from_slice(&TARGET.port.to_be_bytes());
        answer[36..38].copy_from_slice(&probe[34..36]);
        answer[42..46].copy_from_slice(&123_457u32.to_be_bytes());
        answer[47] = SYN | ACK;
        let port = u16::from_be_bytes([probe[34], probe[35]]);
        assert_eq!(parse(ME, TARGET, &answer), Some((NODE, Answer::Syn { tick: 123_456, port })));
        answer[47] = RST | ACK;
        assert_eq!(parse(ME, TARGET, &answer), None, "a refusal accepts nothing");
        assert_eq!(reset(ME, TARGET, NODE, port, 123_456)[38..42], 123_457u32.to_be_bytes());
    }

    #[test]
    fn a_connection_that_is_accepted_in_ipv6_brings_its_tick_back() {
        let probe = syn6(ME, TARGET, 123_456, NODE);
        assert_eq!(probe[..6], NODE);
        let mut answer = probe;
        answer[6..12].copy_from_slice(&NODE);
        // As a kernel labels a flow.
        answer[15..18].copy_from_slice(&[0x0c, 0x27, 0x5b]);
        answer[22..38].copy_from_slice(&probe[38..54]);
        answer[38..54].copy_from_slice(&probe[22..38]);
        answer[54..56].copy_from_slice(&probe[56..58]);
        answer[56..58].copy_from_slice(&probe[54..56]);
        answer[62..66].copy_from_slice(&123_457u32.to_be_bytes());
        answer[67] = SYN | ACK;
        let port = u16::from_be_bytes([probe[54], probe[55]]);
        assert_eq!(parse(ME, TARGET, &answer), Some((NODE, Answer::Syn6 { tick: 123_456, port })));
        answer[67] = RST | ACK;
        assert_eq!(parse(ME, TARGET, &answer), None, "a refusal accepts nothing");
        answer[67] = SYN | ACK;
        answer[37] ^= 1;
        assert_eq!(parse(ME, TARGET, &answer), None, "it is not the VIP that accepts");
        assert_eq!(reset6(ME, TARGET, NODE, port, 123_456)[58..62], 123_457u32.to_be_bytes());
    }

    #[test]
    fn checksums_are_right() {
        // A sum over a packet with its right checksum in place is zero.
        let frame = syn(ME, TARGET, 9, NODE);
        assert_eq!(checksum(0, &frame[14..34]), [0, 0]);
        let pseudo = sum_of(&frame[26..34]) + 6 + 20;
        assert_eq!(checksum(pseudo, &frame[34..54]), [0, 0]);
        let frame = syn6(ME, TARGET, 9, NODE);
        assert_eq!(checksum(sum_of(&frame[22..54]) + 6 + 20, &frame[54..74]), [0, 0]);
        let frame = solicitation(ME, TARGET, 3);
        assert_eq!(checksum(sum_of(&frame[22..54]) + 58 + 32, &frame[54..86]), [0, 0]);
    }

    #[test]
    fn an_advertisement_is_for_the_source_it_is_sent_to() {
        let mut frame = solicitation(ME, TARGET, 5);
        frame[6..12].copy_from_slice(&NODE);
        frame.copy_within(22..38, 38);
        frame[54] = 136;
        assert_eq!(parse(ME, TARGET, &frame), Some((NODE, Answer::Ndp { source: 5 })));
        frame[38] = 0xff;
        assert_eq!(parse(ME, TARGET, &frame), Some((NODE, Answer::Announcement)));
    }

    #[test]
    fn who_asks_for_the_observer_learns_where_it_is() {
        let mut asked = arp_request(ME, TARGET, 7);
        assert_eq!(here(ME, &asked), None, "it asks for the VIP");
        asked[6..12].copy_from_slice(&NODE);
        asked[22..28].copy_from_slice(&NODE);
        asked[28..32].copy_from_slice(&[10, 77, 0, 2]);
        asked[38..42].copy_from_slice(&ME.ip.octets());
        let reply = here(ME, &asked).expect("an answer");
        assert_eq!((&reply[..6], &reply[6..12], reply[21]), (&NODE[..], &ME.mac[..], 2));
        assert_eq!((&reply[22..28], &reply[28..32]), (&ME.mac[..], &ME.ip.octets()[..]));
        assert_eq!((&reply[32..38], &reply[38..42]), (&NODE[..], &[10, 77, 0, 2][..]));
        assert_eq!(here(ME, &reply), None, "an answer asks nothing");
    }

    #[test]
    fn anything_else_says_nothing() {
        assert_eq!((parse(ME, TARGET, &[]), here(ME, &[])), (None, None));
        for length in 0..90 {
            for kind in [[8, 6], [8, 0], [0x86, 0xdd], [1, 1]] {
                let mut frame = vec![0; length];
                if let Some(bytes) = frame.get_mut(12..14) {
                    bytes.copy_from_slice(&kind);
                }
                assert_eq!(parse(ME, TARGET, &frame), None);
            }
        }
    }
}
