//! What happens in the demo, in order.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client::Client,
    cluster::Cluster,
    ports,
    visitors::{Behaviour, Seen, Visitors, judge},
    wait,
};

const PORT: u16 = 8080;

/// Three nodes, three backends, one VIP.
pub struct Shop {
    cluster: Cluster,
    backends: Vec<Backend>,
    vip: SocketAddr,
}

impl Shop {
    /// Brings everything up.
    pub fn open() -> Result<Self> {
        say("Three nodes form a cluster. The first makes it, the others join with a one-time token.");
        let started = Instant::now();
        let cluster = Cluster::start(3)?;
        for position in 0..cluster.len() {
            let node = cluster.node(position);
            detail(&format!("{} pid {} data {}", node.name(), node.pid().unwrap_or(0), node.folder().display()));
        }
        detail(&format!("ready after {:.1} s", started.elapsed().as_secs_f64()));

        let backends = ["web1", "web2", "web3"].map(Backend::start).into_iter().collect::<Result<Vec<_>, _>>()?;
        let vip = SocketAddr::from((ports::vip_address(), PORT));
        say("A shop with three backends is applied on node-2. It holds on all nodes.");
        let document = document(&vip, &backends);
        for line in document.lines() {
            println!("    | {line}");
        }
        detail(cluster.apply(1, &document)?.trim());
        let owner = cluster.wait_owner("public")?;
        detail(&format!("VIP {} is owned by {}", vip.ip(), cluster.node(owner).name()));

        let shop = Self { cluster, backends, vip };
        wait::until("the shop to answer", || {
            Ok(Client::new(shop.vip).get("/healthz").ok().filter(|answer| answer.status == 200))
        })?;
        shop.show_one_visitor()?;
        Ok(shop)
    }

    /// One visitor, by hand, with the reason from the log.
    fn show_one_visitor(&self) -> Result<()> {
        say("One visitor logs in. The shop's session cookie becomes a binding in the replicated log.");
        let mut client = Client::new(self.vip);
        for path in ["/login", "/buy", "/buy", "/basket"] {
            let answer = client.get(path)?;
            ensure!(answer.status == 200, "{path} answered {}", answer.status);
            detail(&format!("GET {path:8} -> {}", answer.text().trim()));
        }
        let cookie = format!("SHOPID={}", client.cookie("SHOPID").unwrap_or_default());
        say("Any node can say why (ballastctl explain):");
        let explained =
            self.cluster.ctl_ok(2, &["explain", "--farm", "shop", "--host", "shop.test", "--cookie", &cookie])?;
        for line in explained.lines() {
            println!("    | {line}");
        }
        Ok(())
    }

    /// Kills the owner of the VIP, then the Raft leader, under load. Whether all promises held.
    pub fn kills(&mut self, visitors: usize) -> Result<bool> {
        say(&format!("{visitors} visitors log in and shop without pause through {}.", self.vip));
        let load = Visitors::start(&Behaviour {
            visitors,
            pause: Duration::from_millis(20),
            servers: vec![self.vip],
            new_connections: false,
        });
        wait::until("all visitors to log in", || Ok((load.logged_in() == visitors).then_some(())))?;

        let owner = self.cluster.wait_owner("public")?;
        let killed_owner = self.kill(&load, owner, "the owner of the VIP")?;
        let leader = self.cluster.wait_leader()?;
        let role = if self.cluster.wait_owner("public")? == leader {
            "the Raft leader, which owns the VIP now"
        } else {
            "the Raft leader"
        };
        let killed_leader = self.kill(&load, leader, role)?;

        let load_ended = load.elapsed();
        let seen = load.stop();
        say("What the visitors saw:");
        let verdict = judge(&seen);
        detail(&format!(
            "{} requests served, {} failed {:?}",
            verdict.served,
            seen.len() - verdict.served,
            verdict.failed
        ));
        let ends = [killed_leader, load_ended];
        for ((what, at), end) in [("the owner of the VIP", killed_owner), (role, killed_leader)].into_iter().zip(ends) {
            detail(&format!("kill of {what}: {}", between(&seen, at, end)));
        }
        let moved = verdict.moved.len();
        if moved == 0 {
            detail("no visitor changed its backend");
        } else {
            for (visitor, backends) in &verdict.moved {
                detail(&format!("visitor {visitor} was moved: {}", backends.join(" -> ")));
            }
        }
        let held = moved == 0;
        say(if held { "The promises held." } else { "A PROMISE WAS BROKEN." });
        Ok(held)
    }

    /// Kills a node with SIGKILL under load, waits until visitors are served again, starts it again.
    fn kill(&mut self, load: &Visitors, position: usize, role: &str) -> Result<Duration> {
        let name = self.cluster.node(position).name().to_owned();
        say(&format!("kill -9 of {name}, {role}, in the middle of it."));
        let at = load.elapsed();
        self.cluster.kill(position);
        wait::until("visitors to be served again", || Ok((load.served_since(at) > 50).then_some(())))?;
        let owner = self.cluster.wait_owner("public")?;
        let leader = self.cluster.wait_leader()?;
        detail(&format!(
            "now {} owns the VIP and {} leads",
            self.cluster.node(owner).name(),
            self.cluster.node(leader).name()
        ));
        self.cluster.spawn(position)?;
        self.cluster.wait_ready(position)?;
        detail(&format!("{name} is started again and has caught up; nothing moves back by itself"));
        Ok(at)
    }

    /// Stays up until interrupted.
    pub fn stay_open(&self, interrupted: &AtomicBool) -> Result<()> {
        let node = self.cluster.node(0);
        let socket = node.folder().join("data/admin.sock");
        say("It stays up until you press Ctrl-C. Try, in another terminal:");
        let exe = std::env::current_exe()?;
        let bin = exe.parent().map(|p| p.display().to_string()).unwrap_or_default();
        println!(
            "
    export BALLAST_SERVER=unix://{socket} PATH={bin}:$PATH
    ballastctl cluster status
    ballastctl vip list
    ballastctl backend list
    ballastctl bindings list --farm shop --service site
    curl -si http://{vip}/login -H 'Host: shop.test'
    ballastctl backend drain shop/site/web1
    ballastctl vip move public --to node-3
    ballastctl history
    kill -9 {pid}        # {name}
    curl -s http://{metrics}/metrics | grep ballast_
",
            socket = socket.display(),
            vip = self.vip,
            pid = node.pid().unwrap_or(0),
            name = node.name(),
            metrics = node.metrics_address(),
        );
        while !interrupted.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
        say(&format!(
            "Closing: {} nodes and {} backends end, their files go.",
            self.cluster.len(),
            self.backends.len()
        ));
        Ok(())
    }
}

fn document(vip: &SocketAddr, backends: &[Backend]) -> String {
    let backends: String = backends
        .iter()
        .map(|b| format!("          - {{ name: {}, address: \"{}\" }}\n", b.name(), b.address()))
        .collect();
    format!(
        "version: 1
vips:
  - {{ name: public, addresses: [{ip}] }}
farms:
  - name: shop
    listeners:
      - {{ name: web, vip: public, port: {port} }}
    services:
      - name: site
        persistence:
          table: {{ key: {{ learned_cookie: SHOPID }}, idle_timeout: 30m }}
        health: {{ http: {{ path: /healthz }}, interval: 1s }}
        backends:
{backends}",
        ip = vip.ip(),
        port = vip.port(),
    )
}

/// What visitors noticed from `at` until `end`. A request belongs to the time in which it ended.
fn between(seen: &[Seen], at: Duration, end: Duration) -> String {
    let window: Vec<_> = seen.iter().filter(|s| (at..end).contains(&(s.started + s.took))).collect();
    let failed: Vec<_> = window.iter().filter(|s| s.result.is_err()).collect();
    let mut ends: Vec<_> = window.iter().filter(|s| s.result.is_ok()).map(|s| s.started + s.took).collect();
    ends.push(at);
    ends.sort();
    let gap = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    let slowest = window.iter().map(|s| s.took).max().unwrap_or_default();
    let mut reasons = std::collections::BTreeMap::new();
    for entry in &failed {
        if let Err(reason) = &entry.result {
            *reasons.entry(reason.as_str()).or_insert(0) += 1;
        }
    }
    format!(
        "{} requests failed {reasons:?}, nobody was served for {} ms, the slowest request took {} ms",
        failed.len(),
        gap.as_millis(),
        slowest.as_millis()
    )
}

fn say(text: &str) {
    println!("\n* {text}");
}

fn detail(text: &str) {
    println!("    {text}");
}
