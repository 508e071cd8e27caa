//! What clients do meanwhile, and what they saw.

pub mod addresses;
pub mod alone;
pub mod bindings;
pub mod checks;
pub mod config;
pub mod locks;
pub mod looks;
pub mod members;
pub mod registers;
pub mod stores;
pub mod till;
pub mod transactions;

use std::{
    io, iter,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{
    kept::{End, Ended, Kept},
    time::Span,
};
use ballast_testkit::{
    client::{self, AskedOn, Client},
    lab::{Guests, Host},
    resp::{Answer, Connection},
};

use crate::plan::Random;

/// Longer than the store's own deadline, so that it is the store that says what became of a command.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// After which a client gives up on a node that nothing comes back from, so that it does not keep all of them.
const CONNECT: Duration = Duration::from_millis(300);

/// How a store begins that takes a client for one that it must not serve. Those of a run are open to everybody.
pub const DENIED: &str = "DENIED";

/// What a store says of an answer of its own cluster that does not fit. Its client is told no more than that, of reads as well.
pub const BUG: &str = "this is a bug of Ballast";

/// Clients that run until they are told to stop, or dropped.
pub struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Clients {
    /// Lets so many clients run in the clients' network. Each is given its number, and a flag that tells it to stop.
    ///
    /// # Errors
    /// When the network cannot be entered.
    pub fn start<F>(guests: &Guests, count: usize, client: F) -> Result<Self>
    where
        F: Fn(usize, &AtomicBool) + Clone + Send + 'static,
    {
        Self::start_on(guests, &vec![Host::Client; count], client)
    }

    /// The same, each on a host.
    ///
    /// # Errors
    /// When one of the networks cannot be entered.
    pub fn start_on<F>(guests: &Guests, hosts: &[Host], client: F) -> Result<Self>
    where
        F: Fn(usize, &AtomicBool) + Clone + Send + 'static,
    {
        let stop = Arc::<AtomicBool>::default();
        let mut threads = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let (door, stop, client) = (guests.door(*host)?, Arc::clone(&stop), client.clone());
            threads.push(thread::spawn(move || {
                door.enter().map_err(io::Error::other)?;
                client(number, &stop);
                Ok(())
            }));
        }
        Ok(Self { stop, threads })
    }

    /// Waits for the last answers.
    ///
    /// # Errors
    /// When one of them could not begin, or panicked: then there was less to see than it seems.
    pub fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow::anyhow!("a client of the suite panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Notes what became of the connection that a client had kept until a request.
fn note_kept(kept: &mut Kept, client: &Client, id: &str, via: &str, span: Span) {
    let (end, idle) = match client.asked_on() {
        AskedOn::New => return,
        AskedOn::Kept => {
            kept.requests += 1;
            return;
        }
        AskedOn::Another { end, idle } => (end, idle),
    };
    kept.requests += 1;
    let end = match end {
        client::End::Closed => End::Closed,
        client::End::ClosedAfter => End::ClosedAfter,
        client::End::Reset => End::Reset,
        client::End::ResetAfter => End::ResetAfter,
    };
    let span = Span::new(span.from.before(idle), span.until);
    kept.ended.push(Ended { id: id.to_owned(), via: via.to_owned(), span, end });
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done(Answer),
    /// It certainly was not, and why.
    Refused(String),
    /// Nobody knows, and why.
    Unknown(String),
}

/// How answers begin by which nothing was changed.
const REFUSALS: [&str; 4] = ["CLUSTERDOWN", "OVERLOADED", "EXECABORT", DENIED];
/// How one begins that a node gives while another one leads which is not upgraded yet, and what it says then.
const UNREADABLE: [&str; 2] = ["ERR node ", "leads and runs an earlier version"];
/// How one begins of which nobody knows what became of the command.
const SENT: &str = "UNKNOWN outcome unknown: the command was sent";

impl Outcome {
    /// What an answer says became of a command. Of what a store takes for a bug it only says that, so that nothing explains it.
    fn of(answer: Answer) -> Self {
        match answer {
            Answer::Error(error) if is_refusal(&error) => Self::Refused(error),
            Answer::Error(error) if error.starts_with(SENT) => Self::Unknown(error),
            answer => Self::Done(answer),
        }
    }
}

fn is_refusal(error: &str) -> bool {
    let [begins, says] = UNREADABLE;
    REFUSALS.iter().any(|refusal| error.starts_with(refusal)) || error.starts_with(begins) && error.contains(says)
}

/// A client of the store that goes from node to node.
pub struct Visitor {
    stores: Vec<SocketAddr>,
    at: usize,
    connection: Option<Connection>,
}

impl Visitor {
    /// A client that has not connected yet.
    pub fn new(stores: &[SocketAddr], number: usize) -> Self {
        Self { stores: stores.to_vec(), at: number % stores.len(), connection: None }
    }

    /// Goes to another store now and then.
    pub fn wander(&mut self, random: &mut Random) {
        if random.below(20) == 0 {
            self.leave();
            self.at = random.below(self.stores.len() as u64) as usize;
        }
    }

    /// Connects where it is, or goes on to the next store if that does not work.
    ///
    /// # Errors
    /// What the system said; nothing was sent.
    pub fn arrive(&mut self) -> io::Result<()> {
        if self.connection.is_none() {
            match Connection::open_within(CONNECT, self.stores[self.at], PATIENCE) {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => {
                    self.at = (self.at + 1) % self.stores.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Sends a command. Call [`Visitor::arrive`] before, outside of the time that is measured.
    pub fn call(&mut self, words: &[&str]) -> Outcome {
        let Some(connection) = &mut self.connection else { return Outcome::Refused("not connected".to_owned()) };
        match connection.call(words) {
            Ok(answer) => Outcome::of(answer),
            Err(error) => {
                self.leave();
                Outcome::Unknown(format!("{:?}", error.kind()))
            }
        }
    }

    /// Sends commands as one transaction. What became of it is what `EXEC` was answered.
    pub fn exec(&mut self, commands: &[&[&str]]) -> Outcome {
        let (begin, end) = (iter::once(&["MULTI"][..]), iter::once(&["EXEC"][..]));
        let all: Vec<&[&str]> = begin.chain(commands.iter().copied()).chain(end).collect();
        match self.call_together(&all) {
            Ok(mut answers) => Outcome::Done(answers.pop().expect("there is one for each command")),
            Err(outcome) => outcome,
        }
    }

    /// Sends commands in one piece, and gives all answers if each was carried out; else what became of the first that was not.
    fn call_together(&mut self, commands: &[&[&str]]) -> Result<Vec<Answer>, Outcome> {
        let Some(connection) = &mut self.connection else { return Err(Outcome::Refused("not connected".to_owned())) };
        let (mut answers, mut failed) = (Vec::new(), None);
        let whole: io::Result<()> = connection.send(commands).and_then(|()| {
            commands.iter().try_for_each(|_| {
                match Outcome::of(connection.answer()?) {
                    Outcome::Done(answer) => answers.push(answer),
                    outcome => _ = failed.get_or_insert(outcome),
                }
                Ok(())
            })
        });
        if let Err(error) = whole {
            self.leave();
            failed.get_or_insert(Outcome::Unknown(format!("{:?}", error.kind())));
        }
        failed.map_or(Ok(answers), Err)
    }

    /// Hangs up, and goes on to the next store.
    pub fn leave(&mut self) {
        self.connection = None;
        self.at = (self.at + 1) % self.stores.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_changes_nothing_and_any_other_error_is_an_answer() {
        let of = |error: &str| Outcome::of(Answer::Error(error.to_owned()));
        for refusal in [
            "CLUSTERDOWN no quorum: no leader is known; nothing was changed, try again",
            "OVERLOADED 4096 changes wait on this node; nothing was changed, try again later",
            "EXECABORT Transaction discarded because of previous errors.",
            "DENIED protected mode",
            "ERR node 3 leads and runs an earlier version, which cannot read this command; nothing was changed, finish \
             upgrading all nodes and try again",
        ] {
            assert_eq!(of(refusal), Outcome::Refused(refusal.to_owned()));
        }
        let unknown = "UNKNOWN outcome unknown: the command was sent but not confirmed within 2s";
        assert_eq!(of(unknown), Outcome::Unknown(unknown.to_owned()));
        let misfit = "UNKNOWN outcome unknown: the cluster's answer does not fit the command; this is a bug of Ballast";
        assert!(misfit.ends_with(BUG));
        let error = |text: &str| Answer::Error(text.to_owned());
        let answers = [error("ERR value is not an integer or out of range"), error(misfit), Answer::Null];
        assert_eq!(answers.clone().map(Outcome::of), answers.map(Outcome::Done));
    }
}
