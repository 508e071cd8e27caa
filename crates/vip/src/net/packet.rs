//! Packet sockets: one that sends raw frames on any interface, and one that hears on one interface
//! what ARP and neighbour discovery say.
//!
//! What is sent goes through the kernel's egress hooks, so that the fence drops an announcement
//! that comes too late.

use std::{
    io::{self, Read},
    os::fd::{AsRawFd, RawFd},
};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::{
    Claim, Frame, NetError, Way, claim,
    frame::{ETHERTYPE_ARP, ETHERTYPE_IPV6, ICMPV6, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION},
};

/// Frames taken in one call, so that a flood cannot hold the reader. Arbitrary.
const FRAMES_PER_READ_MAX: usize = 64;

/// A frame is cut here; neighbour discovery with more options than this does not occur.
const SNAP_BYTES: u32 = 512;

/// Sends frames. Non-blocking, and hears nothing.
pub struct Sender {
    socket: Socket,
}

impl Sender {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetError::Kernel`]: without `CAP_NET_RAW`.
    pub fn open() -> Result<Self, NetError> {
        let socket = raw_socket().map_err(NetError::kernel("open a packet socket"))?;
        Ok(Self { socket })
    }

    /// Hands a frame to the interface of this index; does not wait and does not allocate.
    ///
    /// # Errors
    /// When the queue is full (the next frame of the series may do better), or the interface is down
    /// or gone.
    pub fn send(&self, index: u32, frame: &Frame) -> io::Result<()> {
        let to = link_address(index, frame.ethertype())?;
        self.socket.send_to(frame.as_bytes(), &to).map(drop)
    }
}

/// Which frames a [`Listener`] hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Those that the fence lets pass. Costs nothing for other traffic, but hears nothing about VIPs
    /// that this node does not hold.
    BehindFence,
    /// Those that arrive, before the fence. Looks at each packet that comes in: for a moment only.
    BeforeFence,
}

/// Hears claims. Non-blocking.
pub struct Listener {
    sockets: Vec<Socket>,
    buffer: Box<[u8; SNAP_BYTES as usize]>,
}

impl Listener {
    /// Hears from now on what comes on one interface.
    ///
    /// # Errors
    /// [`NetError::Kernel`]: without `CAP_NET_RAW`, or the interface is gone.
    pub fn open(index: u32, hearing: Hearing) -> Result<Self, NetError> {
        Self::open_on(&[Way { interface: index, mac: None, vlan: 0 }], hearing)
    }

    /// Hears from now on what comes past in one of several places.
    ///
    /// # Errors
    /// [`NetError::Kernel`]: without `CAP_NET_RAW`, or an interface is gone.
    pub fn open_on(ways: &[Way], hearing: Hearing) -> Result<Self, NetError> {
        let protocols: &[u16] = match hearing {
            Hearing::BehindFence => &[ETHERTYPE_ARP, ETHERTYPE_IPV6],
            Hearing::BeforeFence => &[libc::ETH_P_ALL as u16],
        };
        let open = |(way, protocol): (&Way, u16)| {
            let socket = raw_socket()?;
            if hearing == Hearing::BeforeFence {
                ignore_outgoing(&socket);
            }
            // The filter first: a socket hears from the moment it is bound.
            socket.attach_filter(&filter(way))?;
            socket.bind(&link_address(way.interface, protocol)?)?;
            Ok(socket)
        };
        let all = ways.iter().flat_map(|way| protocols.iter().map(move |protocol| (way, *protocol)));
        let sockets = all.map(open).collect::<io::Result<Vec<_>>>();
        let sockets = sockets.map_err(NetError::kernel("listen for ARP and neighbour discovery"))?;
        Ok(Self { sockets, buffer: Box::new([0; SNAP_BYTES as usize]) })
    }

    /// What to poll for reading.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.sockets.iter().map(AsRawFd::as_raw_fd)
    }

    /// Appends claims that were heard, a bounded number; does not wait.
    ///
    /// # Errors
    /// [`NetError::Kernel`]: the interface went down (it is told once) or is gone (open another when
    /// it is back).
    pub fn read(&mut self, out: &mut Vec<Claim>) -> Result<(), NetError> {
        for socket in &self.sockets {
            for _ in 0..FRAMES_PER_READ_MAX {
                let mut socket: &Socket = socket;
                match socket.read(&mut self.buffer[..]) {
                    Ok(length) => out.extend(claim(&self.buffer[..length])),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(NetError::kernel("hear ARP and neighbour discovery")(source)),
                }
            }
        }
        Ok(())
    }
}

/// Bound to nothing, so that it hears nothing yet.
fn raw_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn link_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    // SAFETY: a `sockaddr_ll` is plain numbers, fits into the storage, and its size is what is
    // reported.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as libc::sa_family_t;
            address.sll_protocol = protocol.to_be();
            address.sll_ifindex = index.cast_signed();
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

/// Keeps the kernel from showing what this machine sends. A kernel before 4.20 refuses; the filter
/// drops those frames then, only later.
fn ignore_outgoing(socket: &Socket) {
    let yes: libc::c_int = 1;
    // SAFETY: the pointer is to a number of the length given.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Instructions of a filter that refuse what does not belong to the VLAN, or to any if that is zero, by a
/// jump over so many more behind them.
pub(crate) fn of_vlan(vlan: u16, more: u8) -> [SockFilter; 5] {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    let beside =
        |what: libc::c_int| SockFilter::new(LOAD_WORD, 0, 0, libc::SKF_AD_OFF.wrapping_add(what).cast_unsigned());
    [
        beside(libc::SKF_AD_VLAN_TAG_PRESENT),
        SockFilter::new(JUMP_EQUAL, if vlan == 0 { 3 } else { 3 + more }, 0, 0),
        // A tag of VLAN 0 has a priority alone.
        beside(libc::SKF_AD_VLAN_TAG),
        SockFilter::new(AND, 0, 0, 0xfff),
        SockFilter::new(JUMP_EQUAL, 0, more, vlan.into()),
    ]
}

/// Lets pass, in the kernel, only ARP and neighbour solicitations and advertisements that arrived on
/// this very interface for this VLAN: a packet socket of a physical interface is also shown frames of the
/// VLANs on it, where the same addresses may mean other machines.
fn filter(way: &Way) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const JUMP_GREATER_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let load = |code, at: u32| SockFilter::new(code, 0, 0, at);
    let beside = |what: libc::c_int| load(LOAD_WORD, libc::SKF_AD_OFF.wrapping_add(what).cast_unsigned());
    let jump = |code, to_true, to_false, value: u32| SockFilter::new(code, to_true, to_false, value);
    let here = [beside(libc::SKF_AD_IFINDEX), jump(JUMP_EQUAL, 0, 16, way.interface)];
    let claims = [
        // Those to this machine, to all and to groups; not to another machine, and not sent by us.
        beside(libc::SKF_AD_PKTTYPE),
        jump(JUMP_GREATER_EQUAL, 9, 0, u32::from(libc::PACKET_OTHERHOST)),
        load(LOAD_HALF, 12),
        jump(JUMP_EQUAL, 6, 0, u32::from(ETHERTYPE_ARP)),
        jump(JUMP_EQUAL, 0, 6, u32::from(ETHERTYPE_IPV6)),
        load(LOAD_BYTE, 20),
        jump(JUMP_EQUAL, 0, 4, u32::from(ICMPV6)),
        load(LOAD_BYTE, 54),
        jump(JUMP_EQUAL, 1, 0, u32::from(NEIGHBOUR_SOLICITATION)),
        jump(JUMP_EQUAL, 0, 1, u32::from(NEIGHBOUR_ADVERTISEMENT)),
        SockFilter::new(RETURN, 0, 0, SNAP_BYTES),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    here.into_iter().chain(of_vlan(way.vlan, 11)).chain(claims).collect()
}
