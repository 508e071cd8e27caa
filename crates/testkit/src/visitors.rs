//! Visitors of a shop: each logs in once, keeps its session cookie, asks again and again, and
//! writes down who answered, when, and what went wrong.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::client::Client;

/// One request as its visitor saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which visitor.
    pub visitor: usize,
    /// Since the load began.
    pub started: Duration,
    /// How long it took.
    pub took: Duration,
    /// The backend that answered, or what went wrong.
    pub result: Result<String, String>,
}

/// A running load. Stop it to get what was seen.
pub struct Visitors {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    began: Instant,
    threads: Vec<JoinHandle<()>>,
    logged_in: Arc<AtomicUsize>,
}

/// How the visitors behave.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Number of visitors.
    pub visitors: usize,
    /// Pause between two requests of one visitor.
    pub pause: Duration,
    /// Servers; a visitor takes the next one for each request.
    pub servers: Vec<SocketAddr>,
    /// A new connection for each request.
    pub new_connections: bool,
}

impl Visitors {
    /// Lets them in.
    pub fn start(behaviour: &Behaviour) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let logged_in = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let threads = (0..behaviour.visitors)
            .map(|visitor| {
                let (behaviour, stop, seen) = (behaviour.clone(), Arc::clone(&stop), Arc::clone(&seen));
                let logged_in = Arc::clone(&logged_in);
                thread::spawn(move || visit(visitor, &behaviour, began, &stop, &seen, &logged_in))
            })
            .collect();
        Self { stop, seen, began, threads, logged_in }
    }

    /// Time since the load began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many visitors have been served at least once.
    pub fn logged_in(&self) -> usize {
        self.logged_in.load(Ordering::Relaxed)
    }

    /// Requests finished so far.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("no panic while held").len()
    }

    /// Successful requests begun after `since` so far.
    pub fn served_since(&self, since: Duration) -> usize {
        let seen = self.seen.lock().expect("no panic while held");
        seen.iter().rev().take(5000).filter(|s| s.started >= since && s.result.is_ok()).count()
    }

    /// Sends them home and returns what they saw, in order of the beginning of each request.
    pub fn stop(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        let mut seen = std::mem::take(&mut *self.seen.lock().expect("no panic while held"));
        seen.sort_by_key(|s| s.started);
        seen
    }
}

fn visit(
    visitor: usize,
    behaviour: &Behaviour,
    began: Instant,
    stop: &AtomicBool,
    seen: &Mutex<Vec<Seen>>,
    logged_in: &AtomicUsize,
) {
    let mut client = Client::new(behaviour.servers[0]).timeout(Duration::from_secs(5));
    let mut turn = visitor;
    let mut known = false;
    while !stop.load(Ordering::Relaxed) {
        client.go_to(behaviour.servers[turn % behaviour.servers.len()]);
        turn += 1;
        if behaviour.new_connections {
            client.hang_up();
        }
        let path = if client.cookie("SHOPID").is_some() { "/basket" } else { "/login" };
        let started = began.elapsed();
        let result = ask(&mut client, path);
        if result.is_ok() && !known {
            known = true;
            logged_in.fetch_add(1, Ordering::Relaxed);
        }
        let entry = Seen { visitor, started, took: began.elapsed() - started, result };
        seen.lock().expect("no panic while held").push(entry);
        // The visitor reads the page.
        thread::sleep(behaviour.pause);
    }
}

fn ask(client: &mut Client, path: &str) -> Result<String, String> {
    match client.get(path) {
        Ok(response) if response.status == 200 => {
            response.header("x-backend").map(str::to_owned).ok_or_else(|| "answer without X-Backend".to_owned())
        }
        Ok(response) => Err(format!("status {}", response.status)),
        Err(error) => Err(describe(&error)),
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "connection closed".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Requests that were answered.
    pub served: usize,
    /// Requests that were not, with the number of times each reason was seen.
    pub failed: std::collections::BTreeMap<String, usize>,
    /// Longest time between the ends of two served requests of any visitor, over all visitors together.
    pub longest_gap: Duration,
    /// Visitors that were answered by more than one backend, with the backends in order.
    pub moved: Vec<(usize, Vec<String>)>,
}

/// Judges what was seen: who was moved, what failed, for how long nobody was served.
pub fn judge(seen: &[Seen]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut backends: std::collections::BTreeMap<usize, Vec<String>> = std::collections::BTreeMap::new();
    let mut ends: Vec<Duration> = Vec::new();
    for entry in seen {
        match &entry.result {
            Ok(backend) => {
                verdict.served += 1;
                ends.push(entry.started + entry.took);
                let list = backends.entry(entry.visitor).or_default();
                if list.last() != Some(backend) {
                    list.push(backend.clone());
                }
            }
            Err(reason) => *verdict.failed.entry(reason.clone()).or_default() += 1,
        }
    }
    ends.sort();
    verdict.longest_gap = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    verdict.moved = backends.into_iter().filter(|(_, list)| list.len() > 1).collect();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(visitor: usize, at: u64, result: Result<&str, &str>) -> Seen {
        Seen {
            visitor,
            started: Duration::from_millis(at),
            took: Duration::from_millis(1),
            result: result.map(str::to_owned).map_err(str::to_owned),
        }
    }

    #[test]
    fn judge_finds_moved_visitors_failures_and_the_longest_gap() {
        let verdict = judge(&[
            seen(0, 0, Ok("web1")),
            seen(1, 1, Ok("web2")),
            seen(0, 10, Err("timed out")),
            seen(1, 50, Ok("web2")),
            seen(0, 60, Ok("web3")),
        ]);
        assert_eq!(verdict.served, 4);
        assert_eq!(verdict.failed["timed out"], 1);
        assert_eq!(verdict.longest_gap, Duration::from_millis(49));
        assert_eq!(verdict.moved, [(0, vec!["web1".to_owned(), "web3".to_owned()])]);
    }
}
