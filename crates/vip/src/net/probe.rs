//! Asks the link whether anybody has an address, without touching anybody's cache.
//!
//! Blocks for at most its timeout; not for the lease thread. It listens before the fence, which
//! would drop the answer of a host that has a VIP of ours.

use std::{io, net::IpAddr, os::fd::RawFd, time::Duration};

use ballast_clock::boot_now;

use super::{Hearing, Interface, Listener, Mac, NetError, Sender, frame};

/// RFC 5227 section 1.1, `PROBE_NUM`.
const TRIES: u32 = 3;

/// The MAC of whoever else on the link answers for `address` now; nothing when nobody did in time.
///
/// # Errors
/// [`NetError`]: nothing is known.
pub fn probe(interface: &Interface, address: IpAddr, timeout: Duration) -> Result<Option<Mac>, NetError> {
    let own = interface.mac.ok_or_else(|| NetError::NotEthernet { name: interface.name.clone() })?;
    let sender = Sender::open()?;
    let mut listener = Listener::open(interface.index, Hearing::BeforeFence)?;
    let question = frame::probe(address, own);
    let mut claims = Vec::new();
    for _ in 0..TRIES {
        sender.send(interface.index, &question).map_err(NetError::kernel("send a probe"))?;
        let try_until = boot_now().plus((timeout / TRIES).as_nanos() as u64);
        loop {
            claims.clear();
            listener.read(&mut claims)?;
            let answer = claims.iter().find(|claim| claim.address == address && claim.mac != own);
            if let Some(claim) = answer {
                return Ok(Some(claim.mac));
            }
            let left = try_until.since(boot_now());
            if left == 0 {
                break;
            }
            wait(listener.fds(), left).map_err(NetError::kernel("wait for an answer"))?;
        }
    }
    Ok(None)
}

/// Sleeps until one of the descriptors can be read, or for this long.
fn wait(fds: impl Iterator<Item = RawFd>, nanos: u64) -> io::Result<()> {
    let mut fds: Vec<_> = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // Rounded up, so that the last millisecond is not spent spinning.
    let millis = i32::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i32::MAX);
    // SAFETY: the pointer is valid for as many entries as are said.
    let status = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
    match io::Error::last_os_error() {
        error if status < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
