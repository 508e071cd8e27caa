//! What the service manager that started us is told: systemd's `sd_notify(3)`.
//!
//! `READY=1` once the node's sockets are bound and its log is open, not when it has caught up: a node that waits for a
//! quorum is not to be killed for it, or a cluster that lost its power would never come back. Nor is one that waits for its
//! addresses, which `EXTEND_TIMEOUT_USEC=` says. `STATUS=` says what it still waits for. `WATCHDOG=1` only while the threads
//! that matter turn, so that a node that hangs is started again; its VIPs are gone long before, because their deadlines in
//! the kernel pass by themselves.
//!
//! The protocol is one datagram of lines to the socket in `$NOTIFY_SOCKET`; without that variable nothing is told.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often the status is looked at while no watchdog asks for more.
const LOOK: Duration = Duration::from_secs(5);

/// What a start may take from each word of one that waits: as long as the unit gives it anyway (`TimeoutStartSec`).
const START: Duration = Duration::from_secs(120);

/// The service manager, if there is one.
#[derive(Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// How soon it wants a sign of life, at the latest.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names.
    pub fn from_environment() -> Self {
        let var = |name: &str| env::var(name).ok();
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|path| match connect(path.as_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!(%error, "cannot reach the service manager at NOTIFY_SOCKET");
                None
            }
        });
        let watchdog = watchdog(var("WATCHDOG_USEC").as_deref(), var("WATCHDOG_PID").as_deref(), std::process::id());
        Self { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// The node cannot start before what is named comes, and is to be let wait.
    pub fn waiting(&self, until: &str) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS=waiting until {until}", START.as_micros()));
    }

    /// The node runs.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The node drains.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Tells the node's status when it changes, and that it lives for as long as it does. `alive` says why it does not.
    pub async fn keep_telling(
        &self,
        status: impl Fn() -> String,
        alive: impl Fn() -> Result<(), String>,
        ending: CancellationToken,
    ) {
        if self.socket.is_none() {
            return ending.cancelled().await;
        }
        // A third, so that two may come late.
        let mut ticks = interval(self.watchdog.map_or(LOOK, |within| (within / 3).min(LOOK)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            // Both arms are cancel-safe.
            tokio::select! { _ = ticks.tick() => {}, () = ending.cancelled() => return }
            let now = status();
            if now != told {
                self.tell(&format!("STATUS={now}"));
                told = now;
            }
            match (self.watchdog, alive()) {
                (Some(_), Ok(())) => self.tell("WATCHDOG=1"),
                (Some(_), Err(reason)) => warn!(reason, "the service manager's watchdog is not fed"),
                (None, _) => {}
            }
        }
    }

    fn tell(&self, lines: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(lines.as_bytes())
        {
            warn!(%error, "the service manager was not told");
        }
    }
}

fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let address = match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that takes nothing is no reason to stand still.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The watchdog's time, if it is this process that is watched.
fn watchdog(microseconds: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    let ours = process.is_none_or(|process| process.parse() == Ok(own));
    let within = microseconds?.parse().ok().filter(|within| *within > 0)?;
    ours.then(|| Duration::from_micros(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(at: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = at.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn the_watchdog_is_of_the_process_that_is_named() {
        let check = |microseconds, process, expected: Option<u64>| {
            assert_eq!(watchdog(microseconds, process, 7), expected.map(Duration::from_millis));
        };
        check(None, None, None);
        check(Some("30000000"), None, Some(30_000));
        check(Some("30000000"), Some("7"), Some(30_000));
        check(Some("30000000"), Some("8"), None);
        check(Some("0"), Some("7"), None);
        check(Some("soon"), Some("7"), None);
    }

    #[tokio::test]
    async fn the_manager_hears_ready_status_life_and_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let socket = connect(path.as_os_str().as_bytes()).expect("connect");
        let supervisor = Supervisor { socket: Some(socket), watchdog: Some(Duration::from_millis(30)) };
        supervisor.waiting("there is a network");
        supervisor.ready();
        let ending = CancellationToken::new();
        let hearing = tokio::task::spawn_blocking({
            let ending = ending.clone();
            move || {
                let heard: Vec<_> = (0..5).map(|_| heard(&manager)).collect();
                ending.cancel();
                (heard, manager)
            }
        });
        supervisor.keep_telling(|| "leader".to_owned(), || Ok(()), ending).await;
        let (said, manager) = hearing.await.expect("no panic");
        let waiting = "EXTEND_TIMEOUT_USEC=120000000\nSTATUS=waiting until there is a network";
        assert_eq!(said, [waiting, "READY=1", "STATUS=leader", "WATCHDOG=1", "WATCHDOG=1"]);
        // What was told until the end leaves, so that there is room for the last word, which waits for none.
        manager.set_nonblocking(true).expect("not blocking");
        let mut bytes = [0; 256];
        while let Ok(length) = manager.recv(&mut bytes) {
            assert_eq!(bytes[..length], *b"WATCHDOG=1");
        }
        supervisor.stopping();
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=draining");
    }

    #[tokio::test]
    async fn a_node_that_is_not_well_does_not_say_that_it_lives() {
        let (ours, manager) = UnixDatagram::pair().expect("a pair");
        manager.set_nonblocking(true).expect("not blocking");
        let supervisor = Supervisor { socket: Some(ours), watchdog: Some(Duration::from_millis(3)) };
        let ending = CancellationToken::new();
        let ticks = std::sync::atomic::AtomicU32::new(0);
        let alive = || {
            if ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 5 {
                ending.cancel();
            }
            Err("a thread hangs".to_owned())
        };
        supervisor.keep_telling(|| "up".to_owned(), alive, ending.clone()).await;
        assert_eq!(heard(&manager), "STATUS=up");
        assert_eq!(manager.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
