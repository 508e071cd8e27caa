//! First segments of new connections that arrive while a VIP changes hands.
//!
//! Between the moment the old owner closes its fence and the moment the new one may open its own lie
//! a datagram and a round of questions, about a millisecond, in which nobody may answer for the VIP.
//! A client whose SYN falls into it would ask again after a whole second (RFC 6298). So the old owner
//! keeps what arrives meanwhile and sends it on to the new one, more than once: it does not know when
//! the new one opens, and a SYN that comes twice does no harm (RFC 9293 section 3.10.7).
//!
//! A packet tap sees frames before the fence drops them. The fence of what a VLAN or macvlan stands on is asked before its own
//! and drops what is for this machine by the MAC there; so the tap is at the lowest interface of that MAC. Hooking it in is cheap and happens on the
//! lease thread; unhooking waits for the kernel's readers, so used taps are closed by another thread.
//!
//! Not here: established connections, which the fence itself hands on.

use std::{
    io::{self, Read},
    net::IpAddr,
};

use ballast_core::{ids::VipId, time::BootNanos};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::segment::{self, FRAME_BYTES_MAX};
use crate::net::{Interface, Mac, Way, of_vlan};

/// When what was kept is sent on, in microseconds after the fence closed: often while the successor
/// should open, then rarely in case a datagram was lost.
const REPLAYS_US: [u64; 9] = [300, 700, 1_200, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000];

/// SYNs kept for all VIPs of an interface. At 2,000 new connections a second some ten milliseconds fit
/// fifty times; a flood must not make this node a source of one.
const KEPT_MAX: usize = 1024;

/// A tap that is not hooked in yet. Made beside the lease thread.
pub(super) struct Tap {
    socket: Socket,
    index: u32,
    mac: Mac,
    /// The interface that it is hooked in at.
    heard_at: u32,
}

impl Tap {
    /// For the interface, which has this MAC, among all in the calling thread's network namespace.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub fn open(interface: &Interface, mac: Mac, all: &[Interface]) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        let ways = interface.ways(all);
        let lowest = ways.iter().rfind(|way| way.mac == Some(mac));
        let Way { interface: heard_at, vlan, .. } =
            lowest.copied().unwrap_or(Way { interface: interface.index, mac: Some(mac), vlan: 0 });
        socket.attach_filter(&only_syns(vlan))?;
        Ok(Self { socket, index: interface.index, mac, heard_at })
    }
}

/// What arrives for VIPs that were just handed over from one interface.
pub(super) struct Capture {
    tap: Tap,
    vips: Vec<Handed>,
    kept: Vec<Kept>,
}

struct Handed {
    vip: VipId,
    addresses: Vec<IpAddr>,
    to: Mac,
    closed_at: BootNanos,
    replays: usize,
}

struct Kept {
    vip: VipId,
    frame: [u8; FRAME_BYTES_MAX],
    length: usize,
}

impl Capture {
    /// Hears from now on.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn begin(tap: Tap) -> io::Result<Self> {
        tap.socket.bind(&link_address(tap.heard_at)?)?;
        Ok(Self { tap, vips: Vec::new(), kept: Vec::new() })
    }

    /// The interface it hears on.
    pub fn index(&self) -> u32 {
        self.tap.index
    }

    /// Keeps SYNs for these addresses for whoever has `to`. Called just before the fence closes.
    pub fn keep(&mut self, vip: VipId, addresses: Vec<IpAddr>, to: Mac, now: BootNanos) {
        self.forget(vip);
        self.vips.push(Handed { vip, addresses, to, closed_at: now, replays: 0 });
    }

    /// The VIP came back or is nobody's business here any more.
    pub fn forget(&mut self, vip: VipId) {
        self.vips.retain(|handed| handed.vip != vip);
        self.kept.retain(|kept| kept.vip != vip);
    }

    /// Takes in what arrived and sends on what is due. Returns when it wants to be called next; nothing when it is over.
    pub fn turn(&mut self, now: BootNanos) -> Option<BootNanos> {
        self.take_in();
        for handed in &mut self.vips {
            let due = |replays: usize| REPLAYS_US.get(replays).map(|us| handed.closed_at.plus(us * 1000));
            let mut replay = false;
            while due(handed.replays).is_some_and(|due| due <= now) {
                handed.replays += 1;
                replay = true;
            }
            if replay && let Ok(out) = link_address(self.tap.index) {
                for kept in self.kept.iter_mut().filter(|kept| kept.vip == handed.vip) {
                    kept.frame[..6].copy_from_slice(&handed.to.bytes());
                    kept.frame[6..12].copy_from_slice(&self.tap.mac.bytes());
                    // A full queue loses one of several tries.
                    let _ = self.tap.socket.send_to(&kept.frame[..kept.length], &out);
                }
            }
        }
        let over: Vec<VipId> =
            self.vips.iter().filter(|handed| handed.replays == REPLAYS_US.len()).map(|handed| handed.vip).collect();
        over.into_iter().for_each(|vip| self.forget(vip));
        self.vips.iter().map(|handed| handed.closed_at.plus(REPLAYS_US[handed.replays] * 1000)).min()
    }

    fn take_in(&mut self) {
        let mut frame = [0; FRAME_BYTES_MAX];
        // Bounded by what is kept and by what is looked at: other VIPs' SYNs are read past.
        for _ in 0..KEPT_MAX {
            if self.kept.len() >= KEPT_MAX {
                return;
            }
            let mut socket = &self.tap.socket;
            let length = match socket.read(&mut frame) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing more, or the interface went down.
                Err(_) => return,
            };
            let Some(to) = segment::destination(&frame[..length]) else { continue };
            if let Some(handed) = self.vips.iter().find(|handed| handed.addresses.contains(&to))
                && segment::complete_checksum(&mut frame[..length])
            {
                self.kept.push(Kept { vip: handed.vip, frame, length });
            }
        }
    }
}

/// Lets pass, in the kernel, SYNs without ACK that arrived for this machine's MAC and this VLAN.
fn only_syns(vlan: u16) -> Vec<SockFilter> {
    const WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const BYTE_AT_X: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    const X_HEADER: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let load = |code, at: u32| SockFilter::new(code, 0, 0, at);
    let jump = |code, to_true, to_false, value| SockFilter::new(code, to_true, to_false, value);
    let packet_type = libc::SKF_AD_OFF.wrapping_add(libc::SKF_AD_PKTTYPE).cast_unsigned();
    let host = [load(WORD, packet_type), jump(EQUAL, 0, 21, u32::from(libc::PACKET_HOST))];
    let syns = [
        load(HALF, 12),
        jump(EQUAL, 0, 7, 0x0800),
        load(BYTE, 23),
        jump(EQUAL, 0, 12, 6),
        // The first fragment or none.
        load(HALF, 20),
        jump(ANY_BIT, 10, 0, 0x3fff),
        load(X_HEADER, 14),
        load(BYTE_AT_X, 14 + 13),
        SockFilter::new((libc::BPF_JMP | libc::BPF_JA) as u16, 0, 0, 4),
        jump(EQUAL, 0, 6, 0x86dd),
        load(BYTE, 20),
        jump(EQUAL, 0, 4, 6),
        load(BYTE, 54 + 13),
        // SYN and ACK.
        load(AND, 0x12),
        jump(EQUAL, 0, 1, 0x02),
        load(RETURN, FRAME_BYTES_MAX as u32),
        load(RETURN, 0),
    ];
    host.into_iter().chain(of_vlan(vlan, 16)).chain(syns).collect()
}

fn link_address(index: u32) -> io::Result<SockAddr> {
    // SAFETY: a `sockaddr_ll` is plain numbers, fits into the storage, and its size is what is reported.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as libc::sa_family_t;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index.cast_signed();
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}
