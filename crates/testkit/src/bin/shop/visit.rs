//! The visitors: each asks at its own pace on a fresh connection, whether or not the last answer came.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ballast_testkit::client::{Client, Response};

use crate::tally::{Attempt, Page, Report, Tally};

/// Where `report` finds a running `visit`.
pub const CONTROL: &str = "127.0.0.1:9100";

/// Attempts of one visitor that may be on their way at once; further ones are not begun. Fifty a second for as long as
/// [`Options::patience`] are a hundred.
const UNDER_WAY_MAX: usize = 400;

/// One in so many attempts puts something into the basket.
const BUYS: usize = 100;

/// How the visits go.
#[derive(clap::Args)]
pub struct Options {
    /// The shop: address and port of the VIP.
    #[arg(long)]
    server: SocketAddr,
    /// How many visit.
    #[arg(long, default_value_t = 3)]
    visitors: usize,
    /// Milliseconds between two attempts of one visitor.
    #[arg(long, default_value_t = 20)]
    every_ms: u64,
    /// Milliseconds after which an attempt is given up.
    #[arg(long, default_value_t = 2000)]
    patience_ms: u64,
    /// Where figures are told to `report`.
    #[arg(long, default_value = CONTROL)]
    control: SocketAddr,
}

/// Visits without end.
pub fn run(options: &Options) -> Result<()> {
    let control =
        TcpListener::bind(options.control).with_context(|| format!("cannot listen on {}", options.control))?;
    println!("{} visitors come to the shop at {}", options.visitors, options.server);
    let began = Instant::now();
    let tallies = Arc::new([Mutex::new(Tally::new(options.visitors)), Mutex::new(Tally::new(options.visitors))]);
    for visitor in 0..options.visitors {
        let visits = Visits {
            visitor,
            server: options.server,
            every: Duration::from_millis(options.every_ms.max(1)),
            patience: Duration::from_millis(options.patience_ms.max(1)),
            began,
            tallies: Arc::clone(&tallies),
        };
        thread::Builder::new().name(format!("visitor {}", visitor + 1)).spawn(move || visits.go())?;
    }
    let asked = Arc::clone(&tallies);
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        for stream in control.incoming() {
            let report = report(&asked[1], began);
            if let Ok(mut stream) = stream {
                // Who went away while asking needs no answer.
                let _ = stream.write_all(report.to_string().as_bytes());
            }
        }
    })?;
    loop {
        thread::sleep(Duration::from_secs(1));
        say(began.elapsed(), &report(&tallies[0], began));
    }
}

fn report(tally: &Mutex<Tally>, began: Instant) -> Report {
    let mut tally = tally.lock().expect("no panic while held");
    tally.report(began.elapsed())
}

/// One line a second for people.
fn say(at: Duration, report: &Report) {
    let who: Vec<_> = report.now.iter().map(|page| format!("{} (basket {})", page.backend, page.basket)).collect();
    let mut line = format!(
        "{:6.0} s  {:4} answers, longest silence {:4} ms  served by {}",
        at.as_secs_f64(),
        report.served,
        report.silence.as_millis(),
        who.join(", ")
    );
    for (reason, count) in &report.failed {
        line += &format!("  {count} x {reason}");
    }
    for change in &report.moves {
        line += &format!("  MOVED {change}");
    }
    if report.sessions_lost + report.baskets_lost > 0 {
        line += &format!("  LOST {} sessions, {} baskets", report.sessions_lost, report.baskets_lost);
    }
    println!("{line}");
}

#[derive(Clone)]
struct Visits {
    visitor: usize,
    server: SocketAddr,
    every: Duration,
    patience: Duration,
    began: Instant,
    /// For the lines that are printed, and for whoever asks.
    tallies: Arc<[Mutex<Tally>; 2]>,
}

impl Visits {
    fn go(self) {
        let session = self.log_in();
        let under_way = Arc::new(AtomicUsize::new(0));
        // Visitors take turns.
        let mut next = Instant::now() + self.every.mul_f64(self.visitor as f64 / 7.0);
        for count in 0_usize.. {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = (next + self.every).max(Instant::now());
            if under_way.load(Ordering::Relaxed) >= UNDER_WAY_MAX {
                continue;
            }
            under_way.fetch_add(1, Ordering::Relaxed);
            let (visits, id, counted) = (self.clone(), session.clone(), Arc::clone(&under_way));
            let path = if count % BUYS == BUYS - 1 { "/buy" } else { "/basket" };
            let attempt = move || {
                let mut client = Client::new(visits.server).timeout(visits.patience);
                client.set_cookie("SHOPID", &id);
                visits.ask(&mut client, path);
                counted.fetch_sub(1, Ordering::Relaxed);
            };
            if thread::Builder::new().stack_size(128 << 10).spawn(attempt).is_err() {
                under_way.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Comes until there is a session.
    fn log_in(&self) -> String {
        loop {
            let mut client = Client::new(self.server).timeout(self.patience);
            self.ask(&mut client, "/login");
            if let Some(session) = client.cookie("SHOPID") {
                return session.to_owned();
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn ask(&self, client: &mut Client, path: &str) {
        let started = Instant::now();
        let result = match client.get(path) {
            Ok(answer) if answer.status == 200 => page(&answer).ok_or_else(|| "an answer of somebody else".to_owned()),
            Ok(answer) => Err(format!("status {}", answer.status)),
            Err(error) => Err(error.kind().to_string()),
        };
        let took = started.elapsed();
        for tally in self.tallies.iter() {
            let mut tally = tally.lock().expect("no panic while held");
            // Under the lock, so that attempts come in the order of their ends.
            tally.take(Attempt { visitor: self.visitor, at: self.began.elapsed(), took, result: result.clone() });
        }
    }
}

/// `backend=web1 session=web1-1-7 basket=3`.
fn page(answer: &Response) -> Option<Page> {
    let text = answer.text();
    let value = |key: &str| {
        let mut words = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        words.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    Some(Page { backend: value("backend")?, session: value("session")?, basket: value("basket")?.parse().ok()? })
}
