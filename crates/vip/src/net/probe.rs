//! Asks the link whether anybody has one of some addresses, without touching anybody's cache.
//!
//! Blocks for at most its timeout; not for the lease thread. It listens before the fence, which
//! would drop the answer of a host that has a VIP of ours; on a VLAN or macvlan before that of the interface below, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::RawFd,
    time::Duration,
};

use ballast_clock::boot_now;

use super::{Hearing, Interface, Listener, Mac, NetError, Sender, frame};

/// RFC 5227 section 1.1, `PROBE_NUM`.
const TRIES: u32 = 3;
/// Questions sent before answers are looked at.
const AT_ONCE: usize = 32;

/// How often it is asked whether to give up.
const GIVE_UP_NANOS: u64 = 5_000_000;

/// Who else on the link answers for which of `addresses` now, the first of several; those that nobody answered for in time
/// are missing.
///
/// # Errors
/// [`NetError`]: nothing is known.
pub fn probe(
    interface: &Interface,
    addresses: &[IpAddr],
    timeout: Duration,
) -> Result<BTreeMap<IpAddr, Mac>, NetError> {
    probe_unless(interface, addresses, timeout, |_| true, || false).map(Option::unwrap_or_default)
}

/// As [`probe`], but an answer settles only who it is that `vouches` for the address: until one of these has answered, it goes
/// on asking, because a machine with several interfaces on the link answers on each, with a MAC of its own. Nothing if there
/// was reason to `give_up`, which is asked each few milliseconds.
pub(crate) fn probe_unless(
    interface: &Interface,
    addresses: &[IpAddr],
    timeout: Duration,
    vouches: impl Fn(Mac) -> bool,
    give_up: impl Fn() -> bool,
) -> Result<Option<BTreeMap<IpAddr, Mac>>, NetError> {
    let own = interface.mac.ok_or_else(|| NetError::NotEthernet { name: interface.name.clone() })?;
    let sender = Sender::open()?;
    let mut listener = Listener::open_on(&interface.ways(&Interface::all()?), Hearing::BeforeFence)?;
    let mut unsettled: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    let mut answered = BTreeMap::new();
    let mut claims = Vec::new();
    for _ in 0..TRIES {
        let try_until = boot_now().plus((timeout / TRIES).as_nanos() as u64);
        for part in unsettled.iter().copied().collect::<Vec<_>>().chunks(AT_ONCE) {
            for address in part {
                let question = frame::probe(*address, own);
                sender.send(interface.index, &question).map_err(NetError::kernel("send a probe"))?;
            }
            // What is heard meanwhile does not wait in a buffer that may be too small.
            listener.read(&mut claims)?;
        }
        loop {
            listener.read(&mut claims)?;
            for claim in claims.drain(..) {
                if claim.mac == own || !unsettled.contains(&claim.address) {
                    continue;
                }
                if vouches(claim.mac) {
                    unsettled.remove(&claim.address);
                    answered.insert(claim.address, claim.mac);
                } else {
                    answered.entry(claim.address).or_insert(claim.mac);
                }
            }
            let left = try_until.since(boot_now());
            if unsettled.is_empty() || left == 0 {
                break;
            }
            if give_up() {
                return Ok(None);
            }
            wait(listener.fds(), left.min(GIVE_UP_NANOS)).map_err(NetError::kernel("wait for an answer"))?;
        }
    }
    Ok(Some(answered))
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
