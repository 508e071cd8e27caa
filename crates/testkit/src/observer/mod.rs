//! Watches from outside who answers for the VIP.
//!
//! Every millisecond it asks everybody by ARP, and each node by a SYN to its hardware address
//! whether it takes new connections (which are reset at once, so that nothing is left behind); every
//! eighth time it asks both in IPv6 as well. It does not ask the nodes what they believe. Its thread
//! goes before all others of the machine and neither allocates nor locks.

mod frames;
mod history;
mod wire;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

use self::{
    frames::NDP_SOURCES,
    history::{LATE_NANOS, PROMPT_NANOS},
    wire::Station,
};
pub use self::{
    frames::{Answer, Target},
    history::{Change, History, Kind, Nodes, TICK_NANOS, Tick, Unasked},
    wire::{Macs, Wire},
};
use crate::{
    kernel,
    lab::{Host, Lab},
    packet::PacketSocket,
};

/// Ticks between questions in IPv6.
const NDP_EVERY: u32 = 8;
/// Before the client's, after the kernel's own threads.
const PRIORITY: i32 = 20;
const ANNOUNCEMENTS_MAX: usize = 100_000;

/// A running observer.
pub struct Observer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<History>,
}

impl Observer {
    /// Starts to watch the nodes of a lab, for at most `longest`.
    ///
    /// # Errors
    /// When the raw socket cannot be opened.
    pub fn start(lab: &Lab, target: Target, longest: Duration) -> Result<Self> {
        Self::start_on(Wire::of_lab(lab)?, target, longest)
    }

    /// Starts to watch nodes, for at most `longest`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start_on(wire: Wire, target: Target, longest: Duration) -> Result<Self> {
        let ticks = vec![Tick::default(); (longest.as_nanos() as u64 / TICK_NANOS) as usize];
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch {
            wire,
            target,
            ticks,
            announcements: Vec::with_capacity(ANNOUNCEMENTS_MAX),
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new().name("observer".to_owned()).spawn(move || watch.run())?;
        Ok(Self { stop, thread })
    }

    /// Watches for a time.
    ///
    /// # Errors
    /// As [`Observer::start`].
    pub fn look(lab: &Lab, target: Target, time: Duration) -> Result<History> {
        let observer = Self::start(lab, target, time + Duration::from_secs(1))?;
        thread::sleep(time);
        Ok(observer.finish())
    }

    /// Ends it and returns what it saw.
    pub fn finish(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Makes the nodes know where the observer is, whose kernel answers nobody.
///
/// # Errors
/// When `ip` fails.
pub fn introduce(lab: &Lab) -> Result<()> {
    for node in 0..lab.nodes() {
        let mac = Host::Observer.mac_text();
        for ip in [Host::Observer.ip().to_string(), Host::Observer.ip6().to_string()] {
            let known = ["ip", "neigh", "replace", &ip, "lladdr", &mac, "nud", "permanent", "dev", "eth0"];
            lab.run(Host::Node(node), &known)?;
        }
    }
    Ok(())
}

/// Asks for any address by ARP and hears who speaks for it, without keeping a record.
pub struct Asker(PacketSocket);

impl Asker {
    /// Where the observer is.
    ///
    /// # Errors
    /// When the raw socket cannot be opened.
    pub fn new(lab: &Lab) -> Result<Self> {
        Ok(Self(Wire::of_lab(lab)?.socket))
    }

    /// Asks everybody for an address; `tick` comes back with the answer.
    pub fn ask(&self, target: Target, tick: u32) {
        self.0.send(&frames::arp_request(Station::of_lab(), target, tick));
    }

    /// Waits for an answer, at most for so many nanoseconds.
    pub fn wait(&self, nanos: u64) {
        kernel::wait(&mut [libc::pollfd { fd: self.0.fd(), events: libc::POLLIN, revents: 0 }], nanos);
    }

    /// Hands over all that has arrived by ARP: the address, the hardware address that speaks for it, and how.
    pub fn receive(&self, mut take: impl FnMut(Ipv4Addr, [u8; 6], Answer)) {
        let mut buffer = [0; 2048];
        while let Some((frame, _)) = self.0.receive(&mut buffer) {
            let Some(source) = frames::arp_source(frame) else { continue };
            let target = Target { vip: source, vip6: Ipv6Addr::UNSPECIFIED, port: 0 };
            if let Some((from, answer)) = frames::parse(Station::of_lab(), target, frame) {
                take(source, from, answer);
            }
        }
    }
}

struct Watch {
    wire: Wire,
    target: Target,
    ticks: Vec<Tick>,
    announcements: Vec<u64>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn run(mut self) -> History {
        // Where it may not, the record shows how many ticks were missed.
        let _ = kernel::go_first(PRIORITY);
        let began = kernel::now_nanos();
        let mut number = 0u32;
        while !self.stop.load(Ordering::Relaxed) && (number as usize) < self.ticks.len() {
            let due = began + u64::from(number) * TICK_NANOS;
            let now = kernel::now_nanos();
            if now < due {
                let mut waited = [libc::pollfd { fd: self.wire.socket.fd(), events: libc::POLLIN, revents: 0 }];
                kernel::wait(&mut waited, due - now);
                self.receive_all(number);
                continue;
            }
            // Ticks that have passed meanwhile are lost and not made up for.
            number = ((now - began) / TICK_NANOS) as u32;
            if number as usize >= self.ticks.len() {
                break;
            }
            self.ask(number);
            number += 1;
            self.receive_all(number);
        }
        // The last answers are on their way.
        thread::sleep(Duration::from_millis(2));
        self.receive_all(number);
        History::new(self.ticks, self.announcements)
    }

    fn ask(&mut self, number: u32) {
        let tick = &mut self.ticks[number as usize];
        tick.sent_at = kernel::now_nanos();
        tick.sent_wall = kernel::wall_nanos();
        let Wire { socket, me, nodes } = &self.wire;
        socket.send(&frames::arp_request(*me, self.target, number));
        for mac in (0..nodes.nodes()).filter_map(|node| nodes.of(node)) {
            socket.send(&frames::syn(*me, self.target, number, mac));
        }
        if number.is_multiple_of(NDP_EVERY) && !self.target.vip6.is_unspecified() {
            tick.solicited = true;
            socket.send(&frames::solicitation(*me, self.target, number / NDP_EVERY));
            for mac in (0..nodes.nodes()).filter_map(|node| nodes.of(node)) {
                socket.send(&frames::syn6(*me, self.target, number, mac));
            }
        }
    }

    /// Takes in what has arrived before tick `next` is sent.
    fn receive_all(&mut self, next: u32) {
        let mut buffer = [0; 2048];
        let Wire { socket, me, nodes } = &self.wire;
        while let Some((frame, stamp)) = socket.receive(&mut buffer) {
            let Some((from, answer)) = frames::parse(*me, self.target, frame) else {
                // Nodes that nobody has told where the observer is ask for it.
                if let Some(reply) = frames::here(*me, frame) {
                    socket.send(&reply);
                }
                continue;
            };
            let Some(node) = nodes.node(from) else { continue };
            let (number, kind) = match answer {
                Answer::Arp { tick } => (Some(tick), Kind::Arp),
                Answer::Ndp { source } => (last_solicitation(next, source), Kind::Ndp),
                Answer::Syn { tick, port } => {
                    socket.send(&frames::reset(*me, self.target, from, port, tick));
                    (Some(tick), Kind::Syn)
                }
                Answer::Syn6 { tick, port } => {
                    socket.send(&frames::reset6(*me, self.target, from, port, tick));
                    (Some(tick), Kind::Syn6)
                }
                Answer::Announcement => {
                    if self.announcements.len() < ANNOUNCEMENTS_MAX {
                        self.announcements.push(kernel::now_nanos());
                    }
                    continue;
                }
            };
            let Some(number) = number.map(|number| number as usize).filter(|number| *number < self.ticks.len()) else {
                continue;
            };
            let asked = &self.ticks[number];
            let after = stamp.saturating_sub(asked.sent_wall);
            if asked.sent_at == 0 || after > LATE_NANOS {
                continue;
            }
            let number = if after > PROMPT_NANOS { came_at(&self.ticks, number, after) } else { number };
            let tick = &mut self.ticks[number];
            match kind {
                _ if after > PROMPT_NANOS => tick.late.add(node),
                Kind::Arp => tick.arp.add(node),
                Kind::Ndp => tick.ndp.add(node),
                Kind::Syn => tick.syn.add(node),
                Kind::Syn6 => tick.syn6.add(node),
            }
        }
    }
}

/// The tick in which an answer came that took so long. It was given then, and by whoever owned the VIP then: what held the question
/// up was before it, as a node that hands a VIP on and keeps new connections' first segments for who has it next.
fn came_at(ticks: &[Tick], asked: usize, after: u64) -> usize {
    let last = asked + (after / TICK_NANOS) as usize;
    let last = last.min(ticks.len() - 1);
    (asked..=last).rev().find(|number| ticks[*number].sent_at != 0).unwrap_or(asked)
}

/// The latest tick before `next` whose solicitation went out under that source address.
fn last_solicitation(next: u32, source: u32) -> Option<u32> {
    let last = next.checked_sub(1)? / NDP_EVERY;
    let back = (last + NDP_SOURCES - source) % NDP_SOURCES;
    last.checked_sub(back).map(|round| round * NDP_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_counts_when_it_came() {
        let mut ticks = [Tick { sent_at: 1, ..Tick::default() }; 8];
        ticks[4].sent_at = 0;
        let came = |asked, micros: u64| came_at(&ticks, asked, micros * 1000);
        assert_eq!([came(2, 301), came(2, 1001), came(2, 2500), came(2, 3500)], [2, 3, 3, 5]);
        assert_eq!(came(6, 60_000), 7, "and not after the end");
    }

    #[test]
    fn a_solicitation_is_found_by_its_source() {
        assert_eq!(last_solicitation(0, 0), None);
        assert_eq!(last_solicitation(1, 0), Some(0));
        assert_eq!(last_solicitation(8, 0), Some(0));
        assert_eq!(last_solicitation(9, 1), Some(8));
        assert_eq!(last_solicitation(9, 2), None);
        let turn = NDP_EVERY * NDP_SOURCES;
        assert_eq!(last_solicitation(turn + 1, 0), Some(turn));
        assert_eq!(last_solicitation(turn, 15), Some(turn - NDP_EVERY));
        assert_eq!(last_solicitation(turn + 1, 3), Some(3 * NDP_EVERY));
    }
}
