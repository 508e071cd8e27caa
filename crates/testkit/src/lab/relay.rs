//! Puts a line that is bad between a host's cable and the bridge, for as long as the fault lasts.
//!
//! The port is taken out of the bridge and a second pair of devices is put in its place; a thread carries frames between the
//! two, through a [`Lane`] each way. It works on every kernel with packet sockets (netem is a module that many do not have), and
//! whoever measures without such a fault does not pay for it.
//!
//! Senders of the host compute their checksums themselves meanwhile: a frame that leaves that to a device which does not exist
//! would be taken for damaged, and one that is damaged would not be noticed.

use std::{
    ffi::CString,
    io, mem,
    os::fd::AsRawFd,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};

use super::{
    Host, Lab,
    line::{Lane, Line},
};
use crate::{kernel, packet::PacketSocket};

/// Before the clients', after the observer.
const PRIORITY: i32 = 10;
/// How soon it notices that it shall end, in nanoseconds.
const LOOK: u64 = 20_000_000;
/// Frames that are taken from a socket before others have their turn.
const BURST: usize = 64;

/// Lines before some hosts.
pub(super) struct Relay {
    hosts: Vec<Host>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A host's line: its cable's end, and the device that is in the bridge in its stead.
struct Ends {
    cable: PacketSocket,
    bridge: PacketSocket,
    inbound: Lane,
    outbound: Lane,
}

impl Lab {
    /// Puts lines before hosts; [`Lab::mend`] takes them away. There is one set of them at a time.
    ///
    /// # Errors
    /// When the kernel refuses a device or a socket, or there are lines already.
    pub fn impair(&self, lines: &[(Host, Line)], seed: u64) -> Result<()> {
        let mut relay = self.relay.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(relay.is_none(), "there are lines already");
        let devices: String = lines.iter().map(|(host, _)| add(*host)).collect();
        self.ip(Host::Bridge, &devices)?;
        let mut ends = Vec::new();
        for (number, (host, line)) in lines.iter().enumerate() {
            let open = |device: String| {
                let name = CString::new(device.clone())?;
                self.within(Host::Bridge, || PacketSocket::open(&name))?.with_context(|| format!("open {device}"))
            };
            self.offload(*host, "eth0", false)?;
            self.offload(Host::Bridge, &host.lined_port(), false)?;
            ends.push(Ends {
                cable: open(host.port())?,
                bridge: open(far_end(*host))?,
                inbound: Lane::new(line.inbound, seed ^ (2 * number as u64)),
                outbound: Lane::new(line.outbound, seed ^ (2 * number as u64 + 1)),
            });
        }
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name("lines".to_owned()).spawn(move || carry(ends, &told))?;
        let hosts: Vec<Host> = lines.iter().map(|(host, _)| *host).collect();
        *relay = Some(Relay { hosts: hosts.clone(), stop, thread: Some(thread) });
        let put =
            |host: &Host| format!("link set {} nomaster\nlink set {} master br0\n", host.port(), host.lined_port());
        self.ip(Host::Bridge, &hosts.iter().map(put).collect::<String>())
    }

    /// Takes all lines away. What is still on them is lost.
    ///
    /// # Errors
    /// When a port cannot be put back.
    pub fn mend(&self) -> Result<()> {
        let Some(relay) = self.relay.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let put = |host: &Host| format!("link del {}\nlink set {} master br0\n", host.lined_port(), host.port());
        self.ip(Host::Bridge, &relay.hosts.iter().map(put).collect::<String>())?;
        relay.hosts.iter().try_for_each(|host| self.offload(*host, "eth0", true))
    }

    /// Whether a host's device may leave checksums and segments to the next.
    fn offload(&self, host: Host, device: &str, may: bool) -> Result<()> {
        self.within(host, || set_offload(device, may))?.with_context(|| format!("change what {device} of {host} does"))
    }
}

/// The end of the pair that is not in the bridge.
fn far_end(host: Host) -> String {
    format!("u-{host}")
}

/// Commands of `ip` that make the pair.
fn add(host: Host) -> String {
    let (near, far) = (host.lined_port(), far_end(host));
    let up = |device: &str| format!("link set {device} addrgenmode none\nlink set {device} up\n");
    format!("link add {near} type veth peer name {far}\n{}{}", up(&near), up(&far))
}

/// Carries frames until it is told to stop.
fn carry(mut all: Vec<Ends>, stop: &AtomicBool) {
    // Where it may not, frames are later by what the machine is busy.
    let _ = kernel::go_first(PRIORITY);
    let mut buffer = vec![0; 65_536];
    let mut waited: Vec<libc::pollfd> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let now = kernel::now_nanos();
        for ends in &mut all {
            take(&ends.cable, &mut ends.outbound, now, &mut buffer);
            take(&ends.bridge, &mut ends.inbound, now, &mut buffer);
        }
        let mut next = now + LOOK;
        for ends in &mut all {
            for (lane, to) in [(&mut ends.outbound, &ends.bridge), (&mut ends.inbound, &ends.cable)] {
                while let Some(frame) = lane.pop(now) {
                    to.send(&frame);
                }
                next = lane.next_due().map_or(next, |due| due.min(next));
            }
        }
        waited.clear();
        let fds = all.iter().flat_map(|ends| [ends.cable.fd(), ends.bridge.fd()]);
        waited.extend(fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }));
        kernel::wait(&mut waited, next.saturating_sub(kernel::now_nanos()));
    }
}

fn take(from: &PacketSocket, lane: &mut Lane, now: u64, buffer: &mut [u8]) {
    for _ in 0..BURST {
        let Some((frame, _)) = from.receive(buffer) else { return };
        lane.push(now, frame);
    }
}

/// Sets checksums, scatter-gather and segmentation of a device of the calling thread's namespace.
fn set_offload(device: &str, on: bool) -> io::Result<()> {
    /// `SIOCETHTOOL` and commands of `linux/ethtool.h`: `STXCSUM`, `SSG`, `STSO`, `SGSO`.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const COMMANDS: [u32; 4] = [0x17, 0x19, 0x1f, 0x24];
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    for command in COMMANDS {
        let mut value = Value { command, data: u32::from(on) };
        // SAFETY: all zeroes are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value that it points to live through the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
