//! Ephemeral ports for processes that must be told their port before they start.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{LazyLock, Mutex},
};

use anyhow::{Context, Result};

static GIVEN: LazyLock<Mutex<HashSet<SocketAddr>>> = LazyLock::new(|| Mutex::new(HashSet::new()));

/// A port on `ip` that was free for TCP and UDP a moment ago and that this process has not given out before.
///
/// # Errors
/// When the address cannot be bound at all.
pub fn free(ip: IpAddr) -> Result<SocketAddr> {
    for _ in 0..100 {
        let tcp = TcpListener::bind((ip, 0)).with_context(|| format!("bind a free port on {ip}"))?;
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() && GIVEN.lock().expect("no panic while held").insert(address) {
            return Ok(address);
        }
    }
    anyhow::bail!("no free port on {ip} after 100 tries")
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
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let [_, _, high, low] = pid.wrapping_mul(7).wrapping_add(count.wrapping_mul(61)).to_be_bytes();
    Ipv4Addr::new(127, 100 + (count % 100) as u8, high, low.clamp(1, 254))
}
