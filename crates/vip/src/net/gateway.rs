//! Whether the gateway of a link answers: a link with a carrier may still lead nowhere.
//!
//! The judge is pure: it says when to ask and is told what was heard. Only an answer counts, because
//! a frame that the gateway sent by itself shows nothing about the way there.

use std::net::IpAddr;

use ballast_core::time::BootNanos;

use super::{
    Claim, Frame, Interface, NetError,
    frame::{probe, request},
    interface::read_ip,
    route::RouteSocket,
    wire::{Message, attributes, read_u16, read_u32},
};

/// `struct rtmsg`.
const ROUTE_FIXED_BYTES: usize = 12;
/// `struct rtnexthop`.
const HOP_BYTES: usize = 8;

/// A link without a gateway is looked at again after so many intervals. Arbitrary: going through all routes takes a while
/// on a router, and until then nothing is held against the link.
const NONE_INTERVALS: u64 = 30;

/// How often to ask, and how often to be answered or not before it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayTiming {
    /// Between questions, in nanoseconds. An answer that takes longer counts for the next question.
    pub interval_nanos: u64,
    /// Answers in a row that make an unreachable gateway reachable.
    pub rise: u32,
    /// Questions in a row without an answer that make it unreachable.
    pub fall: u32,
}

/// What is known about the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayState {
    /// The link has none, and none is configured: nothing to check.
    None,
    /// Not yet known.
    Unknown,
    /// Answers.
    Reachable,
    /// Does not answer.
    Unreachable,
}

/// Judges one gateway.
#[derive(Debug)]
pub struct GatewayCheck {
    timing: GatewayTiming,
    gateway: Option<IpAddr>,
    state: GatewayState,
    round: Round,
    ask_at: BootNanos,
    /// Answers in a row, or questions in a row without.
    streak: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    NotAsked,
    Asked,
    Answered,
}

impl GatewayCheck {
    /// Asks for the first time at `now`.
    pub fn new(now: BootNanos, gateway: Option<IpAddr>, timing: GatewayTiming) -> Self {
        let state = gateway.map_or(GatewayState::None, |_| GatewayState::Unknown);
        Self { timing, gateway, state, round: Round::NotAsked, ask_at: now, streak: 0 }
    }

    /// The routes changed. Nothing happens when the gateway is the same.
    pub fn set_gateway(&mut self, now: BootNanos, gateway: Option<IpAddr>) {
        if gateway != self.gateway {
            *self = Self::new(now, gateway, self.timing);
        }
    }

    /// Whether the gateway should be looked up before it is asked again: it has not answered, or there is none. Routes
    /// change while links stay, and a router that is not the gateway any more owes no answer.
    pub fn in_doubt(&mut self, now: BootNanos) -> bool {
        if now < self.ask_at {
            return false;
        }
        if self.gateway.is_none() {
            self.ask_at = now.plus(NONE_INTERVALS * self.timing.interval_nanos);
            return true;
        }
        self.round == Round::Asked
    }

    /// The link came back: asks at once rather than with the next interval. What is not answered
    /// yet is not held against it.
    pub fn ask_now(&mut self, now: BootNanos) {
        self.round = Round::NotAsked;
        self.ask_at = now;
    }

    /// Whom to ask now, nobody when it is not time.
    pub fn turn(&mut self, now: BootNanos) -> Option<IpAddr> {
        let gateway = self.gateway.filter(|_| now >= self.ask_at)?;
        if self.round == Round::Asked {
            self.count(false);
        }
        self.round = Round::Asked;
        self.ask_at = now.plus(self.timing.interval_nanos);
        Some(gateway)
    }

    /// Something was heard on the link.
    pub fn heard(&mut self, claim: &Claim) {
        if self.round == Round::Asked && claim.answer && Some(claim.address) == self.gateway {
            self.round = Round::Answered;
            self.count(true);
        }
    }

    /// What is known.
    pub fn state(&self) -> GatewayState {
        self.state
    }

    /// The gateway.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.gateway
    }

    /// When to call [`GatewayCheck::turn`] next.
    pub fn next_deadline(&self) -> Option<BootNanos> {
        self.gateway.map(|_| self.ask_at)
    }

    fn count(&mut self, answered: bool) {
        let (towards, needed) = match (self.state, answered) {
            (GatewayState::None, _) | (GatewayState::Reachable, true) | (GatewayState::Unreachable, false) => {
                self.streak = 0;
                return;
            }
            // The first answer after a start is believed: there is nothing that it contradicts.
            (GatewayState::Unknown, true) => (GatewayState::Reachable, 1),
            (GatewayState::Unreachable, true) => (GatewayState::Reachable, self.timing.rise),
            (GatewayState::Unknown | GatewayState::Reachable, false) => (GatewayState::Unreachable, self.timing.fall),
        };
        self.streak += 1;
        if self.streak >= needed {
            self.state = towards;
            self.streak = 0;
        }
    }
}

/// The frame that asks the gateway, from an address of the interface that is not a VIP; without one
/// it does not say who asks.
pub fn question(gateway: IpAddr, interface: &Interface, is_vip: impl Fn(IpAddr) -> bool) -> Option<Frame> {
    let mac = interface.mac?;
    let own = || interface.addresses.iter().filter(|held| !is_vip(held.address));
    let near = own().find(|held| held.covers(gateway));
    let own = near.or_else(|| own().find(|held| held.address.is_ipv4() == gateway.is_ipv4()));
    own.and_then(|own| request(gateway, own.address, mac)).or_else(|| Some(probe(gateway, mac)))
}

/// The gateways of an interface's default routes, one of each family at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gateways {
    /// Of the IPv4 default route.
    pub v4: Option<IpAddr>,
    /// Of the IPv6 default route.
    pub v6: Option<IpAddr>,
}

impl Gateways {
    /// Reads the main table of the calling thread's network namespace; the route with the smallest
    /// metric counts. Goes through all routes, so do it when there is a reason: see [`GatewayCheck::in_doubt`].
    ///
    /// # Errors
    /// [`NetError::Kernel`].
    pub fn read(interface: u32) -> Result<Self, NetError> {
        let mut socket = RouteSocket::open().map_err(NetError::kernel("open a netlink socket"))?;
        let mut best = |family: i32| {
            let mut fixed = [0; ROUTE_FIXED_BYTES];
            fixed[0] = family as u8;
            let routes = socket.dump(libc::RTM_GETROUTE, &fixed, |message| default_route(message, interface));
            let routes = routes.map_err(NetError::kernel("list the routes"))?;
            Ok(routes.into_iter().min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway))
        };
        Ok(Self { v4: best(libc::AF_INET)?, v6: best(libc::AF_INET6)? })
    }
}

/// Metric and gateway, when the message is a default route through this interface.
fn default_route(message: &Message<'_>, interface: u32) -> Option<(u32, IpAddr)> {
    let &[_, destination_bits, _, _, table, _, _, kind, ..] = message.payload else { return None };
    if message.kind != libc::RTM_NEWROUTE || destination_bits != 0 || kind != libc::RTN_UNICAST {
        return None;
    }
    if table != libc::RT_TABLE_MAIN {
        return None;
    }
    let (mut metric, mut hops) = (0, Vec::new());
    let (mut out, mut gateway) = (None, None);
    for (kind, payload) in message.attributes(ROUTE_FIXED_BYTES) {
        match kind {
            libc::RTA_PRIORITY => metric = read_u32(payload, 0)?,
            libc::RTA_OIF => out = read_u32(payload, 0),
            libc::RTA_GATEWAY => gateway = read_ip(payload),
            libc::RTA_VIA => gateway = via(payload),
            libc::RTA_MULTIPATH => hops = next_hops(payload),
            _ => {}
        }
    }
    hops.extend(out.zip(gateway));
    hops.into_iter().find(|(out, _)| *out == interface).map(|(_, gateway)| (metric, gateway))
}

/// A gateway of the other family: its family, then its address.
fn via(payload: &[u8]) -> Option<IpAddr> {
    read_ip(payload.get(2..)?)
}

/// Interface and gateway of each hop of a route with several.
fn next_hops(mut bytes: &[u8]) -> Vec<(u32, IpAddr)> {
    let mut hops = Vec::new();
    while let (Some(length), Some(out)) = (read_u16(bytes, 0).map(usize::from), read_u32(bytes, 4)) {
        let Some(inside) = bytes.get(HOP_BYTES..length) else { break };
        let gateway = attributes(inside).find_map(|(kind, payload)| match kind {
            libc::RTA_GATEWAY => read_ip(payload),
            libc::RTA_VIA => via(payload),
            _ => None,
        });
        hops.extend(gateway.map(|gateway| (out, gateway)));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::{
        super::{InterfaceAddress, Mac, claim},
        *,
    };

    const TIMING: GatewayTiming = GatewayTiming { interval_nanos: 10, rise: 2, fall: 3 };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn check() -> GatewayCheck {
        GatewayCheck::new(BootNanos::new(0), Some(ip("10.0.0.254")), TIMING)
    }

    fn says(address: &str, answer: bool) -> Claim {
        Claim { address: ip(address), mac: Mac::new([2, 0, 0, 0, 0, 1]), answer }
    }

    /// One letter a round: `+` is answered, `-` is not. The state after each question, and one more.
    fn run(check: &mut GatewayCheck, rounds: &str) -> String {
        let mut ask = |answered| {
            let now = check.next_deadline().expect("there is a gateway");
            assert_eq!(check.turn(now), check.gateway());
            let state = match check.state() {
                GatewayState::None => 'n',
                GatewayState::Unknown => '?',
                GatewayState::Reachable => 'r',
                GatewayState::Unreachable => 'u',
            };
            if answered {
                check.heard(&says("10.0.0.254", true));
            }
            state
        };
        rounds.chars().map(|round| round == '+').chain([false]).map(&mut ask).collect()
    }

    #[test]
    fn rises_and_falls_by_counts_in_a_row() {
        assert_eq!(run(&mut check(), "+--+---++-"), "?rrrrrruurr");
        assert_eq!(run(&mut check(), "---+-++"), "???uuuur");
    }

    #[test]
    fn asks_once_an_interval() {
        let mut check = check();
        assert_eq!(check.turn(BootNanos::new(0)), Some(ip("10.0.0.254")));
        assert_eq!(check.turn(BootNanos::new(9)), None);
        assert_eq!(check.next_deadline(), Some(BootNanos::new(10)));
        assert_eq!(check.turn(BootNanos::new(10)), Some(ip("10.0.0.254")));
    }

    #[test]
    fn only_an_answer_of_the_gateway_to_a_question_counts() {
        let mut check = check();
        check.heard(&says("10.0.0.254", true));
        check.turn(BootNanos::new(0));
        check.heard(&says("10.0.0.254", false));
        check.heard(&says("10.0.0.253", true));
        assert_eq!(check.state(), GatewayState::Unknown);
        check.heard(&says("10.0.0.254", true));
        assert_eq!(check.state(), GatewayState::Reachable);
    }

    #[test]
    fn another_gateway_is_judged_from_the_beginning_and_none_is_none() {
        let mut check = check();
        run(&mut check, "+");
        check.set_gateway(BootNanos::new(50), Some(ip("10.0.0.254")));
        assert_eq!(check.state(), GatewayState::Reachable);
        check.set_gateway(BootNanos::new(50), Some(ip("10.0.0.253")));
        assert_eq!((check.state(), check.next_deadline()), (GatewayState::Unknown, Some(BootNanos::new(50))));
        check.set_gateway(BootNanos::new(50), None);
        assert_eq!((check.state(), check.next_deadline()), (GatewayState::None, None));
        assert_eq!(check.turn(BootNanos::new(99)), None);
    }

    #[test]
    fn a_gateway_that_does_not_answer_is_looked_up_before_it_is_asked_again() {
        let at = BootNanos::new;
        let mut check = check();
        assert!(!check.in_doubt(at(0)), "it was not asked yet");
        assert_eq!(check.turn(at(0)), Some(ip("10.0.0.254")));
        assert!(!check.in_doubt(at(9)) && check.in_doubt(at(10)));
        check.heard(&Claim { address: ip("10.0.0.254"), mac: Mac::new([2, 0, 0, 0, 0, 9]), answer: true });
        assert!(!check.in_doubt(at(10)));
        let mut none = GatewayCheck::new(at(0), None, TIMING);
        assert!(none.in_doubt(at(0)) && !none.in_doubt(at(299)) && none.in_doubt(at(300)));
    }

    #[test]
    fn the_gateway_is_asked_from_the_address_in_its_subnet_and_never_from_a_vip() {
        let held =
            |address: &str, prefix| InterfaceAddress { address: ip(address), prefix, secondary: false, origin: 0 };
        let mut interface = Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some(Mac::new([2, 0, 0, 0, 1, 1])),
            up: true,
            standing: super::super::Standing::Physical,
            no_arp: false,
            master: None,
            over: None,
            inward: false,
            xdp: Vec::new(),
            addresses: vec![held("192.168.0.1", 24), held("10.0.0.5", 24), held("10.0.0.1", 24), held("fe80::2", 64)],
        };
        let asked_from = |interface: &Interface, gateway| {
            let frame = question(ip(gateway), interface, |address| address == ip("10.0.0.5"));
            frame.and_then(|frame| claim(frame.as_bytes())).map(|claim| claim.address)
        };
        assert_eq!(asked_from(&interface, "10.0.0.254"), Some(ip("10.0.0.1")));
        assert_eq!(asked_from(&interface, "172.16.0.1"), Some(ip("192.168.0.1")));
        assert_eq!(asked_from(&interface, "fe80::1"), Some(ip("fe80::2")));
        interface.addresses.clear();
        assert_eq!(asked_from(&interface, "10.0.0.254"), None);
        assert!(question(ip("10.0.0.254"), &interface, |_| false).is_some());
    }
}
