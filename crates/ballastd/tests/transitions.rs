//! What hangs on a VIP's changes of hands: hooks, checks, webhooks, and trying a failover.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{backend::Backend, client, cluster::Cluster, ports, shop::Shop, wait};
use serde_json::Value;

/// A place that webhooks post to. Refuses the first request with 503, so that a retry is seen too. Ends with the process.
struct Receiver {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let receiver = Self { address: listener.local_addr()?, bodies: Arc::default() };
        let bodies = Arc::clone(&receiver.bodies);
        thread::spawn(move || {
            for (count, stream) in listener.incoming().flatten().enumerate() {
                let mut reader = BufReader::new(stream);
                let (mut length, mut line) = (0, String::new());
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                let whole = reader.read_exact(&mut body).is_ok();
                let answer = if count == 0 { "503 Busy" } else { "200 OK" };
                let _ = write!(reader.get_mut(), "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                if let (true, true, Ok(body)) = (count > 0, whole, serde_json::from_slice(&body)) {
                    bodies.lock().expect("no panic while held").push(body);
                }
            }
        });
        Ok(receiver)
    }

    fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().expect("no panic while held").clone()
    }
}

/// A hook that writes one line for each call into a file with the node's name.
fn writing_hook(folder: &Path) -> String {
    let line = "$BALLAST_EVENT $BALLAST_VIP $BALLAST_ADDRESSES $BALLAST_EPOCH $BALLAST_CAUSE";
    let script = format!("echo {line} >> {}/$BALLAST_NODE", folder.display());
    format!("[vip.hook]\ncommand = ['/bin/sh', '-c', '{script}']\ntimeout = \"5s\"\n")
}

fn told(folder: &Path, node: &str) -> Vec<String> {
    fs::read_to_string(folder.join(node)).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Who takes the VIP by `failover --dry-run` when this node fails. Who holds it is in the log a moment after the fact.
fn planned(cluster: &Cluster, at: usize, failed: &str) -> Result<String> {
    wait::until("a plan for the VIP", || {
        let plans = cluster.ctl_json(at, &["failover", "--dry-run", "--node", failed])?;
        Ok(plans[0]["moves"][0]["to"].as_str().map(str::to_owned))
    })
}

#[test]
fn a_failover_goes_where_the_plan_said_and_everybody_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start_with(3, &writing_hook(folder.path()))?;
    let backend = Backend::start("web1")?;
    let vip = SocketAddr::from((ports::vip_address(), 8080));
    let receiver = Receiver::start()?;
    let webhooks = format!("webhooks: [{{ name: alarm, url: \"http://{}/secret-path\" }}]", receiver.address);
    // No node of a busy machine loses such a lease by itself, which nobody has planned.
    cluster.apply(0, &Shop::new([&backend]).on_vip(vip).cluster("lease: 2s").cluster(&webhooks).to_yaml())?;
    let first = cluster.wait_owner("public")?;
    client::wait_served(vip)?;
    let name = |position: usize| format!("node-{}", position + 1);

    // Tried: it goes to the next in rank, and what a client sees of it is measured.
    let next = planned(&cluster, (first + 1) % 3, &name(first))?;
    let trial = cluster.ctl_json(first, &["failover", "test", "public", "--yes", "-m", "monday drill"])?;
    ensure!(trial["from"] == name(first).as_str() && trial["to"] == next.as_str(), "{trial}");
    let outage = &trial["outage"];
    ensure!(outage["address"] == vip.to_string().as_str() && outage["connects"].as_u64() > Some(10), "{trial}");
    ensure!(outage["longest_gap_ms"].as_f64().is_some_and(|gap| gap > 0.0 && gap < 5000.0), "{trial}");
    let history = cluster.ctl_ok(0, &["events", "--subject", "public"])?;
    ensure!(history.contains("monday drill"), "the reason is not in the history:\n{history}");
    let second = cluster.position(&next).context("a node")?;

    // Tried again and returned: what an operator had wished before is wished again.
    let back = cluster.ctl_json(second, &["failover", "test", "public", "--to", &name(first), "--yes", "--return"])?;
    ensure!(back["returned"] == true, "{back}");
    wait::until("it to be back", || Ok(cluster.owner("public").filter(|owner| *owner == second)))?;
    let wish = cluster.ctl_json(second, &["vip", "list"])?[0]["wish"].clone();
    ensure!(wish == next.as_str(), "{wish}");

    // For real.
    let plan = planned(&cluster, second, &next)?;
    cluster.kill(second);
    let third = cluster.wait_owner("public")?;
    ensure!(plan == name(third), "planned {plan}, taken by {}", name(third));

    // Each node's hook was told of its own, in order.
    let address = vip.ip();
    wait::until("the hooks to be told", || {
        let of_first = told(folder.path(), &name(first));
        let of_third = told(folder.path(), &name(third));
        let last = of_third.last().context("nothing was told")?;
        ensure!(last.starts_with(&format!("gained public {address} ")) && last.ends_with(" expired"), "{last}");
        let events: Vec<_> = of_first.iter().filter_map(|line| line.split(' ').next()).collect();
        ensure!(events.starts_with(&["gained", "lost", "gained", "lost"]), "{of_first:?}");
        Ok(Some(()))
    })?;

    // The receiver has each change of hands, by the epochs of the log, in their order.
    wait::until("the webhook to be told", || {
        let bodies = receiver.bodies();
        let gains: Vec<_> = bodies.iter().filter(|body| body["vip"]["owner"].is_string()).collect();
        let owners: Vec<_> = gains.iter().filter_map(|body| body["vip"]["owner"].as_str()).collect();
        ensure!(owners.last() == Some(&name(third).as_str()), "{owners:?}");
        ensure!(owners.contains(&name(first).as_str()) && owners.contains(&next.as_str()), "{owners:?}");
        ensure!(bodies.iter().all(|body| body["event"] == "vip" && body["subject"] == "public"), "{bodies:?}");
        Ok(Some(()))
    })?;

    // Where it is told is in the log of whoever told it, without what only the receiver and the document should know.
    let logs = (0..3).map(|position| cluster.node(position).log()).collect::<Result<String>>()?;
    let told = logs.lines().find(|line| line.contains("telling a webhook of events")).context("nobody says so")?;
    ensure!(told.contains(&format!("http://{}", receiver.address)), "{told}");
    ensure!(!logs.contains("secret-path"), "the URL's path is in a log");
    Ok(())
}

#[test]
fn a_node_whose_own_check_fails_gives_its_vip_to_one_whose_does_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bad = folder.path().display();
    let check = format!(
        "[vip.check]\ncommand = ['/bin/sh', '-c', 'test ! -e {bad}/$BALLAST_NODE']\ninterval = \"2s\"\ntimeout = \"2s\"\n"
    );
    let cluster = Cluster::start_with(3, &check)?;
    let backend = Backend::start("web1")?;
    let vip = SocketAddr::from((ports::vip_address(), 8080));
    cluster.apply(0, &Shop::new([&backend]).on_vip(vip).to_yaml())?;
    let first = cluster.wait_owner("public")?;
    client::wait_served(vip)?;
    fs::write(folder.path().join(format!("node-{}", first + 1)), "")?;
    wait::until("another node to hold the VIP", || {
        let owner = cluster.owner("public").context("nobody")?;
        let failed = cluster.metrics(first)?.get("ballast_vip_check_failed").copied();
        ensure!(failed == Some(1.0), "the check has not failed yet: {failed:?}");
        Ok((owner != first).then_some(()))
    })?;
    client::wait_served(vip)?;
    Ok(())
}

#[test]
fn a_lease_that_a_machine_cannot_keep_is_refused_and_the_way_back_is_not() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let document = |lease: &str| format!("version: 1\ncluster: {{ lease: {lease} }}\n");
    cluster.apply(0, &document("10s"))?;
    // Nothing shorter than what the machine needs is asked for here: this is long for any that runs tests.
    cluster.apply(0, &document("5s"))?;
    // While it is stopped its lease thread is late by as long as that takes; twice, because one outlier does not count.
    for of in ["max", "usual_max"] {
        cluster.pause(0);
        thread::sleep(Duration::from_millis(400));
        cluster.resume(0);
        wait::until("the lease thread to have measured it", || {
            let late = cluster.metrics(0)?.get(&format!("ballast_vip_wake_late_seconds{{of=\"{of}\"}}")).copied();
            Ok(late.filter(|late| *late > 0.2))
        })?;
    }
    let file = cluster.write("short.yaml", &document("50ms"))?;
    let said = cluster.ctl(0, &["apply", "-f", &file])?;
    ensure!(said.code == 3, "exit {}: {}{}", said.code, said.out, said.err);
    for part in ["cluster.lease", "50ms", "node-1", "or longer"] {
        ensure!(said.err.contains(part), "{part}: {}", said.err);
    }
    let said = cluster.ctl(0, &["validate", "-f", &file])?;
    ensure!(said.code == 3, "exit {}: {}{}", said.code, said.out, said.err);
    cluster.apply(0, &document("10s"))?;
    Ok(())
}
