//! Ports for processes that must be told their port before they start.
//!
//! They are taken from below those that the kernel gives to connections: between the look and the start of the process, a
//! port of the kernel's own may go to any connection of this machine.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Result;

static GIVEN: LazyLock<Mutex<HashSet<SocketAddr>>> = LazyLock::new(|| Mutex::new(HashSet::new()));

/// Below are services.
const FIRST: u32 = 10_000;

/// A port on `ip` that was free for TCP and UDP a moment ago and that this process has not given out before.
///
/// # Errors
/// When the address cannot be bound at all.
pub fn free(ip: IpAddr) -> Result<SocketAddr> {
    let mut problem = None;
    for _ in 0..200 {
        let tcp = match TcpListener::bind((ip, next())) {
            Ok(tcp) => tcp,
            Err(error) => {
                problem = Some(error);
                continue;
            }
        };
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() && GIVEN.lock().expect("no panic while held").insert(address) {
            return Ok(address);
        }
    }
    anyhow::bail!("no free port on {ip} after 200 tries: {problem:?}")
}

/// The next port to try; 0, for one of the kernel's choice, where the kernel gives away nearly all.
fn next() -> u16 {
    static BEYOND: LazyLock<u32> = LazyLock::new(|| {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(0)
    });
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Some(span) = BEYOND.checked_sub(FIRST).filter(|span| *span >= 5000) else { return 0 };
    // Tests that run at the same time begin far from each other and go in steps that meet seldom.
    let begin = std::process::id().wrapping_mul(0x9e37_79b1) >> 8;
    let step = COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(31);
    u16::try_from(FIRST + begin.wrapping_add(step) % span).unwrap_or(0)
}

/// [`free`] on 127.0.0.1.
///
/// # Errors
/// As [`free`].
pub fn free_local() -> Result<SocketAddr> {
    free(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A loopback address that no other test of this machine is likely to use, for a VIP.
pub fn vip_address() -> Ipv4Addr {
    let pid = std::process::id();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = pid.wrapping_mul(7).wrapping_add(count.wrapping_mul(61)).to_be_bytes();
    Ipv4Addr::new(127, 100 + (count % 100) as u8, high, low.clamp(1, 254))
}
