//! What a bad line does to frames: late, in another order, twice, damaged, or as slow as a thin wire.
//!
//! Frames and the time go in; what is due comes out. The same seed does the same to the same frames.
//!
//! Not here: where frames come from (`relay`); loss, which the bridge does itself (`faults`).

use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroU64, time::Duration};

use super::{Host, addresses};

/// What waits longer for a thin wire is dropped, as by a switch whose buffer is full.
const BACKLOG: u64 = 500_000_000;
/// Where an Ethernet frame's content begins.
const HEAD_BYTES: usize = 14;
/// Behind Ethernet, IPv4 and the longest usual TCP head: words there can change places without any checksum noticing.
const CONTENT_BYTES: usize = 14 + 20 + 32;

/// Whose frames a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Between {
    /// Those from a node to a node.
    #[default]
    Nodes,
    /// All but the observer's, who would measure the line.
    Everybody,
}

/// What is done to the frames that go one way. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whose.
    pub between: Between,
    /// They come later by so much.
    pub delay: Duration,
    /// And by up to so much more, each by its own lot; so some overtake others.
    pub jitter: Duration,
    /// So many percent ...
    pub held_percent: u32,
    /// ... are held back by so much while others pass.
    pub held: Duration,
    /// So many percent come twice.
    pub doubled_percent: u32,
    /// So many percent are damaged: a bit is another, or two words have changed places, which the checksums of TCP and UDP
    /// do not notice. Only what nodes say to each other is damaged in the second way, which is protected by more than these;
    /// clients' frames that one node hands on to another are not.
    pub damaged_percent: u32,
    /// Bytes in a second; as many as come if absent.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// A line, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// To the host.
    pub inbound: Rules,
    /// From it.
    pub outbound: Rules,
}

/// One way of a line, with what is on it. Times are nanoseconds of one clock.
pub(super) struct Lane {
    rules: Rules,
    waiting: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    sequence: u64,
    /// Until when the wire is taken.
    busy_until: u64,
    random: u64,
}

impl Lane {
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self { rules, waiting: BinaryHeap::new(), sequence: 0, busy_until: 0, random: seed }
    }

    /// Takes in a frame.
    pub fn push(&mut self, now: u64, frame: &[u8]) {
        if !concerned(self.rules.between, frame) {
            self.queue(now, frame.to_vec());
            return;
        }
        let Rules { delay, jitter, held, held_percent, doubled_percent, damaged_percent, .. } = self.rules;
        let mut due = now;
        if let Some(rate) = self.rules.bytes_per_second {
            let begins = self.busy_until.max(now);
            if begins - now > BACKLOG {
                return;
            }
            self.busy_until = begins + frame.len() as u64 * 1_000_000_000 / rate;
            due = self.busy_until;
        }
        due += delay.as_nanos() as u64 + self.below(jitter.as_nanos() as u64 + 1);
        if self.percent(held_percent) {
            due += held.as_nanos() as u64;
        }
        let mut frame = frame.to_vec();
        if self.percent(damaged_percent) {
            self.damage(&mut frame);
        }
        if self.percent(doubled_percent) {
            self.queue(due, frame.clone());
        }
        self.queue(due, frame);
    }

    /// The next frame whose time has come.
    pub fn pop(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.waiting.peek().is_some_and(|Reverse((due, _, _))| *due <= now) {
            self.waiting.pop().map(|Reverse((_, _, frame))| frame)
        } else {
            None
        }
    }

    /// When there is something to do next.
    pub fn next_due(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse((due, _, _))| *due)
    }

    fn queue(&mut self, due: u64, frame: Vec<u8>) {
        self.sequence += 1;
        self.waiting.push(Reverse((due, self.sequence, frame)));
    }

    fn damage(&mut self, frame: &mut [u8]) {
        // Nothing but Ethernet's own checksum protects ARP, and what that finds is lost, not damaged.
        if !matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) || frame.len() <= HEAD_BYTES {
            return;
        }
        let words = frame.len().saturating_sub(CONTENT_BYTES) / 2;
        let protected = self.rules.between == Between::Nodes && !is_of_the_vip(frame);
        if words >= 2 && protected && self.percent(50) {
            let [one, other] = [0; 2].map(|_| CONTENT_BYTES + 2 * self.below(words as u64) as usize);
            frame.swap(one, other);
            frame.swap(one + 1, other + 1);
        } else {
            let bit = self.below((frame.len() - HEAD_BYTES) as u64 * 8) as usize;
            frame[HEAD_BYTES + bit / 8] ^= 1 << (bit % 8);
        }
    }

    fn percent(&mut self, chance: u32) -> bool {
        chance > 0 && self.below(100) < u64::from(chance)
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Whether a rule is for a frame.
fn concerned(between: Between, frame: &[u8]) -> bool {
    let (Some(to), Some(from)) = (frame.get(..6), frame.get(6..12)) else { return false };
    let node = |mac: &[u8]| (0..addresses::NODES_MAX).any(|node| Host::Node(node).mac() == *mac);
    match between {
        Between::Nodes => node(to) && node(from),
        Between::Everybody => [to, from].iter().all(|mac| **mac != Host::Observer.mac()),
    }
}

/// Whether a frame is a client's, or an answer to one, whoever hands it on.
fn is_of_the_vip(frame: &[u8]) -> bool {
    let [vip, vip6] = [addresses::VIP.octets().to_vec(), addresses::VIP6.octets().to_vec()];
    let ends = match frame.get(12..14) {
        Some([0x08, 0x00]) => [frame.get(26..30), frame.get(30..34)],
        _ => [frame.get(22..38), frame.get(38..54)],
    };
    ends.into_iter().flatten().any(|end| end == vip || end == vip6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn frame(from: Host, to: Host, number: u8, length: usize) -> Vec<u8> {
        let mut frame = [to.mac(), from.mac()].concat();
        frame.extend([0x08, 0x00]);
        frame.resize(length.max(HEAD_BYTES), number);
        frame
    }

    fn between_nodes(number: u8) -> Vec<u8> {
        frame(Host::Node(0), Host::Node(1), number, 200)
    }

    /// Sends a hundred frames, one each millisecond, and tells what came out when, in milliseconds.
    fn through(rules: Rules, make: impl Fn(u8) -> Vec<u8>) -> Vec<(u64, Vec<u8>)> {
        let (mut lane, mut out) = (Lane::new(rules, 7), Vec::new());
        for number in 0..2000u64 {
            if number < 100 {
                lane.push(number * MS, &make(number as u8));
            }
            while let Some(frame) = lane.pop(number * MS) {
                out.push((number, frame));
            }
        }
        assert_eq!(lane.next_due(), None);
        out
    }

    fn numbers(out: &[(u64, Vec<u8>)]) -> Vec<u8> {
        out.iter().map(|(_, frame)| frame[HEAD_BYTES]).collect()
    }

    #[test]
    fn without_rules_frames_pass_at_once() {
        let out = through(Rules::default(), between_nodes);
        assert!(
            out.iter()
                .enumerate()
                .all(|(number, (at, frame))| { *at == number as u64 && *frame == between_nodes(number as u8) })
        );
    }

    #[test]
    fn delay_keeps_the_order_and_jitter_does_not() {
        let delay = Duration::from_millis(30);
        let late = through(Rules { delay, ..Rules::default() }, between_nodes);
        assert!(late.iter().enumerate().all(|(number, (at, _))| *at == number as u64 + 30));
        let uneven = through(Rules { jitter: Duration::from_millis(20), ..Rules::default() }, between_nodes);
        assert_eq!(uneven.len(), 100);
        assert!(!numbers(&uneven).is_sorted());
        assert!(uneven.iter().all(|(at, frame)| (0..=21).contains(&(at - u64::from(frame[HEAD_BYTES])))));
    }

    #[test]
    fn some_are_held_back_and_some_come_twice() {
        let held = Rules { held_percent: 20, held: Duration::from_millis(5), ..Rules::default() };
        let out = through(held, between_nodes);
        assert!(out.len() == 100 && !numbers(&out).is_sorted());
        let doubled = through(Rules { doubled_percent: 20, ..Rules::default() }, between_nodes);
        assert!((105..140).contains(&doubled.len()), "{}", doubled.len());
        assert!(numbers(&doubled).is_sorted());
    }

    #[test]
    fn damage_is_a_bit_or_two_words_that_changed_places() {
        let make = |number: u8| {
            let mut frame = between_nodes(number);
            (0..).zip(&mut frame[HEAD_BYTES..]).for_each(|(place, byte)| *byte = place);
            frame
        };
        let out = through(Rules { damaged_percent: 100, ..Rules::default() }, make);
        let sum = |frame: &[u8]| frame.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(word[1])).sum::<u64>();
        let (mut bits, mut words) = (0, 0);
        for (_, frame) in &out {
            let good = make(0);
            assert_eq!(frame[..HEAD_BYTES], good[..HEAD_BYTES]);
            match frame.iter().zip(&good).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>() {
                1 => bits += 1,
                _ => {
                    assert_eq!(sum(frame), sum(&good), "a checksum notices");
                    words += 1;
                }
            }
        }
        assert!(bits > 20 && words > 20, "{bits} {words}");
        let clients = |number: u8| {
            let mut frame = make(number);
            frame[30..34].copy_from_slice(&addresses::VIP.octets());
            frame
        };
        let differ = |frame: &[u8]| frame.iter().zip(&clients(0)).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        let out = through(Rules { damaged_percent: 100, ..Rules::default() }, clients);
        assert!(out.iter().all(|(_, frame)| differ(frame) == 1), "a client's frame, handed on");
        let arp = |_| {
            let mut frame = between_nodes(0);
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame
        };
        assert!(through(Rules { damaged_percent: 100, ..Rules::default() }, arp).iter().all(|(_, f)| *f == arp(0)));
    }

    #[test]
    fn a_thin_wire_takes_its_time_and_drops_what_does_not_fit() {
        // 200 bytes a millisecond come, 100 can go.
        let rate = |bytes| Rules { bytes_per_second: NonZeroU64::new(bytes), ..Rules::default() };
        let out = through(rate(100_000), between_nodes);
        assert_eq!((out.len(), out.last().expect("a frame").0), (100, 200));
        // Half a second's worth waits at most.
        let out = through(rate(4_000), between_nodes);
        assert!((10..14).contains(&out.len()), "{}", out.len());
    }

    #[test]
    fn rules_concern_whom_they_are_for() {
        let pairs = [
            (Host::Node(0), Host::Node(4), true, true),
            (Host::Node(0), Host::Client, false, true),
            (Host::Backends, Host::Node(1), false, true),
            (Host::Observer, Host::Node(1), false, false),
            (Host::Node(1), Host::Observer, false, false),
        ];
        for (from, to, nodes, everybody) in pairs {
            let frame = frame(from, to, 0, 60);
            assert_eq!(concerned(Between::Nodes, &frame), nodes);
            assert_eq!(concerned(Between::Everybody, &frame), everybody);
        }
        assert!(!concerned(Between::Everybody, &[0; 5]));
    }
}
