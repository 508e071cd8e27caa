//! Clients that meet the nodes in turn, without a VIP, while bindings are made, backends fail and
//! drain and come back, and nodes are killed and paused: never a wrong backend.
//!
//! Runs for `BALLAST_SOAK_SECONDS` (a few seconds when unset) from `BALLAST_SEED`.

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use ballast_testkit::{
    backend::{Backend, Mode},
    client::{self, Client},
    cluster::Cluster,
    ports,
    shop::Shop,
    wait,
};

const CLIENTS: usize = 12;
const BACKENDS: usize = 4;

/// As patient as a check may be: a backend that a busy machine keeps from answering has given no reason to move anybody.
const CHECKS: &str = "health: { http: { path: /healthz }, interval: 500ms, timeout: 500ms, rise: 2, fall: 3 }";

/// An answer that a client got from a backend.
#[derive(Clone, Debug)]
struct Answer {
    began: Duration,
    ended: Duration,
    #[expect(dead_code, reason = "shown when a check fails")]
    node: usize,
    backend: String,
}

/// A time in which a backend gave the cluster a reason to move its clients.
#[derive(Clone, Debug)]
struct Trouble {
    backend: String,
    from: Duration,
    /// The verdict may follow the end of the trouble by the time that checks take.
    until: Duration,
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to pick faults.
struct Seed(u64);

impl Seed {
    fn next(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn a_client_is_never_sent_to_a_wrong_backend() -> Result<()> {
    let seconds = env::var("BALLAST_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(15);
    let seed = env::var("BALLAST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("seed {seed}, {seconds} s");

    let mut cluster = Cluster::start(3)?;
    let backends = (1..=BACKENDS).map(|n| Backend::start(&format!("web{n}"))).collect::<Result<Vec<_>, _>>()?;
    let servers = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
    let shop = Shop::new(&backends).listen_on_each(&servers).learned_cookie("SHOPID").site(CHECKS);
    cluster.apply(0, &shop.to_yaml())?;
    for server in &servers {
        client::wait_served(*server)?;
    }

    let began = Instant::now();
    let stop = AtomicBool::new(false);
    let answers: Mutex<BTreeMap<usize, Vec<Answer>>> = Mutex::default();
    let errors: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let mut troubles = Vec::new();
    thread::scope(|scope| -> Result<()> {
        for client in 0..CLIENTS {
            let (servers, stop, answers, errors) = (&servers, &stop, &answers, &errors);
            scope.spawn(move || wander(client, servers, began, stop, answers, errors));
        }
        let result =
            disturb(&mut cluster, &backends, began, Duration::from_secs(seconds), &mut Seed(seed), &mut troubles);
        stop.store(true, Ordering::Relaxed);
        result
    })?;

    let answers = answers.into_inner().expect("no panic while held");
    let total: usize = answers.values().map(Vec::len).sum();
    println!(
        "{total} answers, {} troubles, errors {:?}",
        troubles.len(),
        errors.into_inner().expect("no panic while held")
    );
    ensure!(total > 100, "hardly anything was served, so nothing was tested");
    let mut moves = 0;
    for (client, list) in &answers {
        moves += judge(*client, list, &troubles)?;
    }
    println!("{moves} moves, each with a cause");
    Ok(())
}

/// Every change of backend needs a reason to leave the old one since the client was last there.
fn judge(client: usize, answers: &[Answer], troubles: &[Trouble]) -> Result<usize> {
    let mut moves = 0;
    for pair in answers.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if before.backend == after.backend {
            continue;
        }
        moves += 1;
        let reason =
            troubles.iter().any(|t| t.backend == before.backend && t.until >= before.began && t.from <= after.ended);
        if !reason {
            bail!(
                "client {client} was sent to another backend for no reason:\n  {before:?}\n  {after:?}\n  {troubles:#?}"
            );
        }
    }
    Ok(moves)
}

fn wander(
    number: usize,
    servers: &[SocketAddr],
    began: Instant,
    stop: &AtomicBool,
    answers: &Mutex<BTreeMap<usize, Vec<Answer>>>,
    errors: &Mutex<BTreeMap<String, usize>>,
) {
    let mut client = Client::new(servers[0]).timeout(Duration::from_secs(5));
    let mut turn = number;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let node = turn % servers.len();
        client.go_to(servers[node]);
        let path = if client.cookie("SHOPID").is_some() { "/basket" } else { "/login" };
        let started = began.elapsed();
        let outcome = match client.get(path) {
            Ok(answer) if answer.status == 200 => Ok(answer.header("x-backend").unwrap_or("nobody").to_owned()),
            Ok(answer) => Err(format!("status {}", answer.status)),
            Err(error) => Err(format!("{:?}", error.kind())),
        };
        match outcome {
            Ok(backend) => {
                let answer = Answer { began: started, ended: began.elapsed(), node, backend };
                answers.lock().expect("no panic while held").entry(number).or_default().push(answer);
            }
            Err(reason) => *errors.lock().expect("no panic while held").entry(reason).or_default() += 1,
        }
        // The client reads the page.
        thread::sleep(Duration::from_millis(15));
    }
}

/// Has a backend drained, enabled or the like, for certain: what is not carried out would hold for all that follows.
fn order(cluster: &Cluster, verb: &str, path: &str) -> Result<()> {
    wait::until(&format!("{path} to be told {verb}"), || {
        let said = cluster.ctl_any(&["backend", verb, path])?;
        ensure!(said.code == 0, "exit {}: {}", said.code, said.err);
        Ok(Some(()))
    })
}

/// Faults, one after the other, each undone before the next; at most one node is away at a time.
fn disturb(
    cluster: &mut Cluster,
    backends: &[Backend],
    began: Instant,
    length: Duration,
    seed: &mut Seed,
    troubles: &mut Vec<Trouble>,
) -> Result<()> {
    // Checks every 500 ms, three failures, and a majority: a verdict follows within three seconds.
    let slack = Duration::from_secs(5);
    while began.elapsed() < length {
        let backend = &backends[usize::try_from(seed.next(BACKENDS as u64))?];
        let path = format!("shop/site/{}", backend.name());
        let node = usize::try_from(seed.next(3))?;
        let hold = Duration::from_millis(300 + seed.next(2000));
        let from = began.elapsed();
        match seed.next(6) {
            0 => {
                backend.set_mode(Mode::Failing);
                thread::sleep(hold + Duration::from_secs(2));
                backend.set_mode(Mode::Ok);
                troubles.push(Trouble { backend: backend.name().to_owned(), from, until: began.elapsed() + slack });
            }
            1 => {
                order(cluster, "drain", &path)?;
                thread::sleep(hold);
                order(cluster, "enable", &path)?;
            }
            2 => {
                order(cluster, "maintenance", &path)?;
                thread::sleep(hold);
                order(cluster, "enable", &path)?;
                troubles.push(Trouble { backend: backend.name().to_owned(), from, until: began.elapsed() + slack });
            }
            3 => {
                cluster.kill(node);
                thread::sleep(hold);
                cluster.spawn(node)?;
                cluster.wait_ready(node)?;
            }
            4 => {
                cluster.pause(node);
                thread::sleep(hold);
                cluster.resume(node);
            }
            _ => thread::sleep(hold),
        }
    }
    Ok(())
}
