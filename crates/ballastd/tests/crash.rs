//! Every node killed at once under a load of new bindings: what was answered is there afterwards.
//!
//! Three rounds, or `BALLAST_CRASH_ROUNDS`.

use std::{
    env,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use ballast_testkit::{backend::Backend, client::Client, cluster::Cluster, ports, wait};

#[test]
fn no_answered_binding_and_no_acknowledged_apply_is_lost() -> Result<()> {
    let rounds: u64 = env::var("BALLAST_CRASH_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let mut cluster = Cluster::start(3)?;
    let backends = (1..=4).map(|n| Backend::start(&format!("web{n}"))).collect::<Result<Vec<_>, _>>()?;
    let servers = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
    cluster.apply(0, &document(&servers, &backends, 0))?;
    for server in &servers {
        wait::until("each node to serve", || {
            Ok(Client::new(*server).get("/healthz").ok().filter(|a| a.status == 200))
        })?;
    }

    let answered: Mutex<Vec<(String, String)>> = Mutex::default();
    let next = AtomicU64::new(0);
    for round in 1..=rounds {
        let stop = AtomicBool::new(false);
        let before = answered.lock().expect("no panic while held").len();
        let applied = thread::scope(|scope| -> Result<bool> {
            for worker in 0..8 {
                let (servers, stop, answered, next) = (&servers, &stop, &answered, &next);
                scope.spawn(move || make_bindings(servers[worker % 3], stop, answered, next));
            }
            let count = || answered.lock().expect("no panic while held").len();
            wait::until("new bindings", || Ok((count() > before + 200).then_some(())))?;
            let applied = cluster.apply(usize::try_from(round % 3)?, &document(&servers, &backends, round)).is_ok();
            wait::until("more new bindings", || Ok((count() > before + 400).then_some(())))?;
            cluster.kill_all();
            stop.store(true, Ordering::Relaxed);
            Ok(applied)
        })?;
        for position in 0..3 {
            cluster.spawn(position)?;
        }
        for position in 0..3 {
            cluster.wait_ready(position)?;
        }
        ensure!(applied, "the apply of round {round} was not acknowledged, so nothing was tested");
        let text = cluster.ctl_ok(0, &["export"])?;
        ensure!(text.contains(&format!("round{round}")), "the acknowledged apply of round {round} is gone:\n{text}");

        let answered = answered.lock().expect("no panic while held");
        for (number, (key, backend)) in answered.iter().enumerate() {
            let server = servers[number % 3];
            let answer = wait::until("an answer", || Ok(ask(server, key).ok()))?;
            ensure!(answer == *backend, "round {round}: {key} was answered by {backend}, now by {answer}");
        }
        println!("round {round}: {} bindings checked", answered.len());
    }
    Ok(())
}

/// New visitors, one after the other; each is written down once its answer is complete.
fn make_bindings(server: SocketAddr, stop: &AtomicBool, answered: &Mutex<Vec<(String, String)>>, next: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let key = format!("visitor-{}", next.fetch_add(1, Ordering::Relaxed));
        if let Ok(backend) = ask(server, &key) {
            answered.lock().expect("no panic while held").push((key, backend));
        }
    }
}

fn ask(server: SocketAddr, key: &str) -> Result<String> {
    let answer = Client::new(server).request("GET", "/basket", &[("X-Visitor", key)], b"")?;
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(answer.header("x-backend").unwrap_or_default().to_owned())
}

fn document(servers: &[SocketAddr], backends: &[Backend], round: u64) -> String {
    let listeners: String = servers
        .iter()
        .enumerate()
        .map(|(n, server)| {
            format!(
                "      - {{ name: web{n}, address: {}, port: {}, nodes: {{ node: node-{} }} }}\n",
                server.ip(),
                server.port(),
                n + 1
            )
        })
        .collect();
    let backends: String = backends
        .iter()
        .map(|b| format!("          - {{ name: {}, address: \"{}\" }}\n", b.name(), b.address()))
        .collect();
    format!(
        "version: 1
farms:
  - name: shop
    listeners:
{listeners}    services:
      - name: round{round}
        match: {{ hosts: [nobody.test] }}
        fallback: {{ status: 404 }}
      - name: site
        persistence:
          table: {{ key: {{ header: X-Visitor }} }}
        backends:
{backends}"
    )
}
