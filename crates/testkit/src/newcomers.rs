//! Newcomers: visitors that come once, each with a name that nobody had before, so that each makes
//! a binding. Who was answered by whom is kept, to be asked again later.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{client::Client, wait};

/// The request header that tells them apart; the shop binds by it.
pub const HEADER: &str = "x-visitor";

/// Numbers them over all loads of the process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A visitor that got its whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Value of [`HEADER`].
    pub visitor: String,
    /// The backend that answered.
    pub backend: String,
}

/// A running load. It ends when it is stopped or dropped.
pub struct Newcomers {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Answered>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Newcomers {
    /// Lets them in: so many at a time at each server.
    pub fn start(servers: &[SocketAddr], at_a_time: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Answered>>>::default());
        let threads = servers
            .iter()
            .flat_map(|server| std::iter::repeat_n(*server, at_a_time))
            .map(|server| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                thread::spawn(move || come(server, &stop, &answered))
            })
            .collect();
        Self { stop, answered, threads }
    }

    /// How many were answered so far.
    pub fn count(&self) -> usize {
        self.answered.lock().expect("no panic while held").len()
    }

    /// Waits until so many more were answered.
    ///
    /// # Errors
    /// When they are not in time.
    pub fn wait_more(&self, count: usize) -> Result<()> {
        let before = self.count();
        wait::until("newcomers to be answered", || Ok((self.count() >= before + count).then_some(())))
    }

    /// Lets no more in and returns those who were answered.
    pub fn stop(mut self) -> Vec<Answered> {
        self.end();
        std::mem::take(&mut *self.answered.lock().expect("no panic while held"))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.end();
    }
}

fn come(server: SocketAddr, stop: &AtomicBool, answered: &Mutex<Vec<Answered>>) {
    while !stop.load(Ordering::Relaxed) {
        let visitor = format!("visitor-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        match ask(server, &visitor) {
            Ok(backend) => answered.lock().expect("no panic while held").push(Answered { visitor, backend }),
            // A server that is gone refuses at once; the others need the processor more.
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Asks a server as that visitor, and returns the backend that answered.
///
/// # Errors
/// When it was not served.
pub fn ask(server: SocketAddr, visitor: &str) -> Result<String> {
    let mut client = Client::new(server).timeout(Duration::from_secs(5));
    let answer = client.request("GET", "/basket", &[(HEADER, visitor)], b"")?;
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(answer.header("x-backend").unwrap_or_default().to_owned())
}

/// Asks again as each of them, at the servers in turn: the same backend must answer.
///
/// # Errors
/// Names the first who is sent elsewhere, or is not served in time.
pub fn check(answered: &[Answered], servers: &[SocketAddr]) -> Result<()> {
    for (Answered { visitor, backend }, server) in answered.iter().zip(servers.iter().cycle()) {
        let again = wait::until("an answer", || ask(*server, visitor).map(Some))?;
        ensure!(again == *backend, "{visitor} was answered by {backend}, now by {again} (through {server})");
    }
    Ok(())
}
