//! One process of a network namespace carries out VIPs.
//!
//! Two would take each other's fence and addresses for what an earlier life of theirs left, and undo them; and their
//! listeners would share what arrives for a VIP. That their VIPs are on different interfaces does not help: the fence is on
//! each over which the machine can be reached. So whoever carries out VIPs listens on an abstract unix socket, whose names
//! belong to a network namespace. The kernel takes the name back when the process ends, however it ends, so nothing is left
//! behind that could hold up the next one.
//!
//! Abstract names are free for all to take. A socket of a user who could not run a node is therefore no claim: it is told
//! of and passed over, because anybody on the machine could keep VIPs away from it otherwise.
//!
//! Not here: two processes with one `data_dir`, which are kept apart by a lock in there.

use std::{
    fmt, io,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tracing::warn;

/// The name, behind the zero byte that makes it an abstract one.
const NAME: &str = "ballast-vips";
/// For so long a process that was stopped or killed may take to end. Closing sockets takes the kernel far less.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// Pause between two tries meanwhile.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// A process that carries out VIPs: its id, and zero if that is of another container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherProcess(i32);

impl std::error::Error for OtherProcess {}

impl fmt::Display for OtherProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("another ballastd, in another container,")?,
            pid => write!(f, "another ballastd, process {pid},")?,
        }
        f.write_str(
            " carries out VIPs in this network namespace already; stop one of the two, or give each node a machine or a \
             network namespace of its own (vip.driver = \"netlink\" in ballastd.toml)",
        )
    }
}

/// Who listens under the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Node(OtherProcess),
    /// A user who could not run a node.
    Stranger {
        user: u32,
    },
}

/// The claim to be the one process that carries out VIPs here, which ends when it is dropped. Without a socket where the name
/// cannot be had, and that is nothing to wait for.
#[derive(Debug)]
pub struct Sole(Option<UnixListener>);

impl Sole {
    /// Takes the name, in the calling thread's network namespace. Waits up to a second for a process that is about to end.
    ///
    /// # Errors
    /// Who has it.
    pub fn take() -> Result<Self, OtherProcess> {
        let end = Instant::now() + ENDING_MAX;
        loop {
            match bind() {
                Ok(listener) => return Ok(Self(Some(listener))),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    warn!(%error, "it cannot be made sure that no other ballastd carries out VIPs in this network namespace");
                    return Ok(Self(None));
                }
                Err(_) if Instant::now() < end => sleep(TRY_AGAIN),
                Err(_) => break,
            }
        }
        let unseen = "a second ballastd that carries out VIPs here would not be noticed";
        match holder() {
            Ok(Holder::Node(other)) => return Err(other),
            Ok(Holder::Stranger { user }) => {
                warn!(user, "a process that is no ballastd has the abstract socket {NAME}: {unseen}");
            }
            Err(error) => {
                warn!(%error, "a process has the name of the abstract socket {NAME} and does not listen: {unseen}");
            }
        }
        Ok(Self(None))
    }

    /// Takes note of whoever asked; the kernel has answered already.
    pub(super) fn answer(&self) {
        if let Some(listener) = &self.0 {
            while listener.accept().is_ok() {}
        }
    }
}

fn bind() -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Asks the kernel who listens under the name. Does not wait, whatever the other process does.
fn holder() -> io::Result<Holder> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(format!("\0{NAME}"))?)?;
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure is valid for the call and has the size that is said.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes nothing.
    let us = unsafe { libc::geteuid() };
    Ok(judge(peer.pid, peer.uid, us))
}

/// Root, and the user that this node runs as, can run a node.
const fn judge(pid: i32, user: u32, us: u32) -> Holder {
    if user == 0 || user == us { Holder::Node(OtherProcess(pid)) } else { Holder::Stranger { user } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_could_run_a_node_keeps_another_from_it() {
        assert_eq!(judge(7, 0, 0), Holder::Node(OtherProcess(7)));
        assert_eq!(judge(7, 0, 990), Holder::Node(OtherProcess(7)));
        assert_eq!(judge(0, 990, 990), Holder::Node(OtherProcess(0)));
        assert_eq!(judge(7, 1000, 990), Holder::Stranger { user: 1000 });
        assert_eq!(judge(7, 1000, 0), Holder::Stranger { user: 1000 });
    }

    #[test]
    fn the_words_name_the_process_where_it_can_be_seen() {
        assert!(OtherProcess(7).to_string().starts_with("another ballastd, process 7, carries out VIPs"));
        assert!(OtherProcess(0).to_string().starts_with("another ballastd, in another container, carries out VIPs"));
    }
}
