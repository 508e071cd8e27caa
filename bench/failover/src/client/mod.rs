//! Clients of the VIP: a new connection for a request every 5 ms, and one connection that stays
//! open for another request every 5 ms.
//!
//! A new connection that has no answer after 400 ms counts as failed, as for a client that gives up: that is
//! twice the smallest retransmission timeout of TCP and less than that of a lost SYN (1 s), so a
//! request succeeds only if an owner was there within one retransmission. It also bounds what is
//! open at a time to 80 connections. A request on the open connection has two seconds, in which TCP
//! itself finds out what became of it; when it breaks, another is opened at once and the break is counted.
//! All on one thread, which goes before ordinary ones.

mod connection;
mod record;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use ballast_testkit::lab::{Host, Lab};

use self::connection::{Connection, Progress};
pub use self::record::{Outcome, Probe, Record};
use crate::kernel;

const INTERVAL_NANOS: u64 = 5_000_000;
const NEW_TIMEOUT_NANOS: u64 = 400_000_000;
const OPEN_TIMEOUT_NANOS: u64 = 2_000_000_000;
const OPEN_MAX: usize = 81;
const PRIORITY: i32 = 10;

/// Running clients.
pub struct Clients {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What they saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// With a new connection each.
    pub new: Record,
    /// On the open connection.
    pub open: Record,
}

impl Clients {
    /// Starts them.
    ///
    /// # Errors
    /// When the client's network cannot be entered.
    pub fn start(lab: &Lab, vip: SocketAddr, longest: Duration) -> Result<Self> {
        let door = lab.door(Host::Client)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let room = (longest.as_nanos() as u64 / INTERVAL_NANOS) as usize;
        let thread = thread::Builder::new().name("clients".to_owned()).spawn(move || {
            door.enter().expect("a thread with the right to make the namespace may enter it");
            // Where it may not, the figures are noisier.
            let _ = kernel::go_first(PRIORITY);
            Engine::new(vip, room).run(&told)
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends them, once the requests that are under way have come to an end.
    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A request under way: its place in the record and its connection.
struct Flight {
    index: usize,
    deadline: u64,
    connection: Connection,
}

/// The connection that stays open.
enum Kept {
    Absent,
    Idle(Connection),
    Busy(Flight),
}

struct Engine {
    vip: SocketAddr,
    new: Vec<Probe>,
    open: Vec<Probe>,
    room: usize,
    flights: Vec<Flight>,
    kept: Kept,
    waited: Vec<libc::pollfd>,
}

impl Engine {
    fn new(vip: SocketAddr, room: usize) -> Self {
        Self {
            vip,
            new: Vec::with_capacity(room),
            open: Vec::with_capacity(room),
            room,
            flights: Vec::with_capacity(OPEN_MAX),
            kept: Kept::Absent,
            waited: Vec::with_capacity(OPEN_MAX + 1),
        }
    }

    fn run(mut self, stop: &AtomicBool) -> Seen {
        let mut due = kernel::now_nanos();
        loop {
            let now = kernel::now_nanos();
            let ends = stop.load(Ordering::Relaxed) || self.new.len() >= self.room;
            if ends && self.flights.is_empty() && !matches!(self.kept, Kept::Busy(_)) {
                break;
            }
            if now >= due {
                // Turns that were missed are not made up for.
                due = now + INTERVAL_NANOS - (now - due) % INTERVAL_NANOS;
                if !ends {
                    self.send(now);
                }
            }
            self.wait(due.saturating_sub(kernel::now_nanos()));
            self.advance();
        }
        Seen { new: Record::new(self.new, INTERVAL_NANOS), open: Record::new(self.open, INTERVAL_NANOS) }
    }

    fn send(&mut self, now: u64) {
        if self.flights.len() < OPEN_MAX {
            self.new.push(Probe { sent_at: now, done_at: now, outcome: Outcome::Open });
            let index = self.new.len() - 1;
            match Connection::open(self.vip, "close") {
                Ok(connection) => self.flights.push(Flight { index, deadline: now + NEW_TIMEOUT_NANOS, connection }),
                Err(_) => self.new[index].outcome = Outcome::Broken,
            }
        }
        let connection = match std::mem::replace(&mut self.kept, Kept::Absent) {
            Kept::Idle(mut connection) => {
                connection.ask_again();
                Ok(connection)
            }
            Kept::Absent => Connection::open(self.vip, "keep-alive"),
            busy @ Kept::Busy(_) => {
                self.kept = busy;
                return;
            }
        };
        self.open.push(Probe { sent_at: now, done_at: now, outcome: Outcome::Open });
        let index = self.open.len() - 1;
        match connection {
            Ok(connection) => self.kept = Kept::Busy(Flight { index, deadline: now + OPEN_TIMEOUT_NANOS, connection }),
            Err(_) => self.open[index].outcome = Outcome::Broken,
        }
    }

    fn wait(&mut self, nanos: u64) {
        self.waited.clear();
        self.waited.extend(self.flights.iter().map(|flight| flight.connection.interest()));
        if let Kept::Busy(flight) = &self.kept {
            self.waited.push(flight.connection.interest());
        }
        kernel::wait(&mut self.waited, nanos);
    }

    fn advance(&mut self) {
        let now = kernel::now_nanos();
        let new = &mut self.new;
        self.flights.retain_mut(|flight| flight.step(now, new).is_none());
        self.kept = match std::mem::replace(&mut self.kept, Kept::Absent) {
            Kept::Busy(mut flight) => match flight.step(now, &mut self.open) {
                None => Kept::Busy(flight),
                Some(Outcome::Answered { .. }) => Kept::Idle(flight.connection),
                Some(_) => Kept::Absent,
            },
            kept => kept,
        };
    }
}

impl Flight {
    /// Goes on as far as it can; once it has come to an end, notes and returns how.
    fn step(&mut self, now: u64, record: &mut [Probe]) -> Option<Outcome> {
        let outcome = match self.connection.go_on() {
            Ok(Progress::Waiting) if now < self.deadline => return None,
            Ok(Progress::Waiting) => Outcome::TimedOut,
            Ok(Progress::Answered { status: 200, node }) => Outcome::Answered { node },
            Ok(Progress::Answered { status, .. }) => Outcome::Refused { status },
            Err(_) => Outcome::Broken,
        };
        let probe = &mut record[self.index];
        (probe.done_at, probe.outcome) = (now, outcome);
        Some(outcome)
    }
}
