//! Frames that ask for an answer, and how the answer is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who asks whom.
#[derive(Clone, Copy)]
pub struct Path {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub from: IpAddr,
    pub to: IpAddr,
}

/// A question to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// ARP request or neighbour solicitation.
    WhoHas,
    /// The same to the neighbour itself, as when it is asked whether it is still there.
    StillThere,
    /// ICMP echo.
    Echo,
    /// The same in two fragments.
    EchoInFragments,
    /// A segment that opens a connection to port 80.
    Syn,
    /// A segment of a connection that nobody has.
    Stray,
    /// An echo that is like no other, to know by its answer that all before it was seen.
    Control(u32),
}

impl Question {
    pub const ALL: [Self; 6] =
        [Self::WhoHas, Self::StillThere, Self::Echo, Self::EchoInFragments, Self::Syn, Self::Stray];
}

const ECHO: u32 = 1;
const BROADCAST: [u8; 6] = [255; 6];
const PORT: [u8; 2] = 51_234_u16.to_be_bytes();

pub fn ask(path: Path, question: Question) -> Vec<Vec<u8>> {
    match (question, path.to) {
        (Question::WhoHas, IpAddr::V4(_)) => vec![arp(path, BROADCAST)],
        (Question::StillThere, IpAddr::V4(_)) => vec![arp(path, path.to_mac)],
        (Question::WhoHas, IpAddr::V6(to)) => {
            let [.., a, b, c] = to.octets();
            let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
            vec![solicitation(Path { to_mac: [0x33, 0x33, 0xff, a, b, c], ..path }, group)]
        }
        (Question::StillThere, IpAddr::V6(to)) => vec![solicitation(path, to)],
        (Question::Echo, _) => vec![ip(path, icmp(path.to), &echo(path, ECHO), None)],
        (Question::Control(number), _) => vec![ip(path, icmp(path.to), &echo(path, number), None)],
        (Question::EchoInFragments, _) => {
            let message = echo(path, ECHO);
            let (first, second) = message.split_at(16);
            vec![ip(path, icmp(path.to), first, Some((0, true))), ip(path, icmp(path.to), second, Some((2, false)))]
        }
        (Question::Syn, _) => vec![ip(path, 6, &segment(path, 80, 2), None)],
        (Question::Stray, _) => vec![ip(path, 6, &segment(path, 80, 0x10), None)],
    }
}

/// Whether the frame answers the question. `path` is that of the question.
pub fn answers(frame: &[u8], path: Path, question: Question) -> bool {
    let Some((protocol, rest)) = frame.get(12..).and_then(|rest| rest.split_at_checked(2)) else { return false };
    match (path.to, protocol) {
        (IpAddr::V4(to), [8, 6]) => {
            matches!(question, Question::WhoHas | Question::StillThere)
                && rest.get(6..8) == Some(&[0, 2])
                && rest.get(14..18) == Some(&to.octets())
        }
        (IpAddr::V4(to), [8, 0]) => rest.get(12..16) == Some(&to.octets()) && is_reply(rest[9], &rest[20..], question),
        (IpAddr::V6(to), [0x86, 0xdd]) => {
            rest.get(8..24) == Some(&to.octets()) && is_reply(rest[6], &rest[40..], question)
        }
        _ => false,
    }
}

fn is_reply(protocol: u8, payload: &[u8], question: Question) -> bool {
    let first = payload.first().copied();
    let is_echo = |number: u32| {
        matches!((protocol, first), (1, Some(0)) | (58, Some(129))) && payload.get(4..8) == Some(&number.to_be_bytes())
    };
    match question {
        Question::WhoHas | Question::StillThere => protocol == 58 && first == Some(136),
        Question::Echo | Question::EchoInFragments => is_echo(ECHO),
        Question::Control(number) => is_echo(number),
        Question::Syn | Question::Stray => protocol == 6 && payload.get(2..4) == Some(&PORT),
    }
}

/// The same frame with a VLAN tag of number zero, which means the untagged network.
pub fn priority_tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0xe0, 0], &frame[12..]].concat()
}

fn ethernet(path: Path, protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&path.to_mac[..], &path.from_mac, &protocol.to_be_bytes(), payload].concat()
}

fn arp(path: Path, to_mac: [u8; 6]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (path.from, path.to) else { panic!("ARP is for IPv4") };
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let body = [&head[..], &path.from_mac, &from.octets(), &[0; 6], &to.octets()].concat();
    ethernet(Path { to_mac, ..path }, 0x0806, &body)
}

fn solicitation(path: Path, group: Ipv6Addr) -> Vec<u8> {
    let IpAddr::V6(target) = path.to else { panic!("neighbour discovery is for IPv6") };
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &path.from_mac].concat();
    let path = Path { to: group.into(), ..path };
    ip(path, 58, &checked(path, 58, body, 2), None)
}

fn icmp(to: IpAddr) -> u8 {
    if to.is_ipv4() { 1 } else { 58 }
}

fn echo(path: Path, number: u32) -> Vec<u8> {
    let kind = if path.to.is_ipv4() { 8 } else { 128 };
    let message = [&[kind, 0, 0, 0][..], &number.to_be_bytes(), &[0x55; 24]].concat();
    checked(path, icmp(path.to), message, 2)
}

fn segment(path: Path, port: u16, flags: u8) -> Vec<u8> {
    let head = [&PORT[..], &port.to_be_bytes(), &[0, 0, 0, 9, 0, 0, 0, 9, 5 << 4, flags, 0x20, 0, 0, 0, 0, 0]].concat();
    checked(path, 6, head, 16)
}

/// With a fragment's offset (in units of eight bytes) and whether more follow.
fn ip(path: Path, protocol: u8, payload: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
    match (path.from, path.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = (20 + payload.len() as u16).to_be_bytes();
            let bits = fragment.map_or(0, |(offset, more)| offset | u16::from(more) << 13).to_be_bytes();
            let mut head = [&[0x45, 0], &length[..], &[0, 99], &bits, &[64, protocol, 0, 0]].concat();
            head.extend([from, to].iter().flat_map(Ipv4Addr::octets));
            let sum = checksum(&head).to_be_bytes();
            head[10..12].copy_from_slice(&sum);
            ethernet(path, 0x0800, &[&head[..], payload].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let extension = fragment.map_or(Vec::new(), |(offset, more)| {
                let bits = (offset << 3 | u16::from(more)).to_be_bytes();
                [&[protocol, 0], &bits[..], &[0, 0, 0, 99]].concat()
            });
            let next = if extension.is_empty() { protocol } else { 44 };
            let length = ((extension.len() + payload.len()) as u16).to_be_bytes();
            let head = [&[0x60, 0, 0, 0], &length[..], &[next, 255], &from.octets(), &to.octets()].concat();
            ethernet(path, 0x86dd, &[head, extension, payload.to_vec()].concat())
        }
        _ => panic!("both ends of one family"),
    }
}

/// Puts the checksum at `place`. ICMP of IPv4 is summed without the addresses.
fn checked(path: Path, protocol: u8, mut message: Vec<u8>, place: usize) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    };
    let pseudo = if protocol == 1 {
        Vec::new()
    } else {
        let length = (message.len() as u32).to_be_bytes();
        [octets(path.from), octets(path.to), length.to_vec(), vec![0, 0, 0, protocol]].concat()
    };
    let sum = checksum(&[pseudo, message.clone()].concat()).to_be_bytes();
    message[place..place + 2].copy_from_slice(&sum);
    message
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
