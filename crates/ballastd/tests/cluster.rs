//! A cluster of real processes, as an operator meets it: forming, applying, asking, losing nodes.

use anyhow::{Result, ensure};
use ballast_testkit::{
    backend::{Backend, Mode},
    client::Client,
    cluster::Cluster,
    ports, wait,
};

/// A shop on an address of every node, so that each node can be asked by itself.
fn shop(port: u16, backends: &[&Backend], persistence: &str) -> String {
    let backends: String = backends
        .iter()
        .map(|b| format!("          - {{ name: {}, address: \"{}\" }}\n", b.name(), b.address()))
        .collect();
    format!(
        "version: 1
farms:
  - name: shop
    listeners:
      - {{ name: web, address: 127.0.0.1, port: {port} }}
    services:
      - name: site
        {persistence}
        backends:
{backends}"
    )
}

/// The same shop on a VIP.
fn shop_on_vip(vip: std::net::SocketAddr, backends: &[&Backend], extra: &str) -> String {
    let backends: String = backends
        .iter()
        .map(|b| format!("          - {{ name: {}, address: \"{}\" }}\n", b.name(), b.address()))
        .collect();
    format!(
        "version: 1
vips:
  - {{ name: public, addresses: [{}] }}
farms:
  - name: shop
    listeners:
      - {{ name: web, vip: public, port: {} }}
    services:
      - name: site
        persistence:
          table: {{ key: {{ learned_cookie: SHOPID }} }}
        {extra}
        backends:
{backends}",
        vip.ip(),
        vip.port()
    )
}

#[test]
fn applies_on_any_node_and_holds_on_all() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let backend = Backend::start("web1")?;
    let document = shop(ports::free_local()?.port(), &[&backend], "");

    let said = cluster.apply(1, &document)?;
    ensure!(said.contains("revision 1"), "{said}");
    for position in 0..3 {
        let text = cluster.ctl_ok(position, &["export"])?;
        ensure!(text.contains(&backend.address().to_string()), "node {position} has another document:\n{text}");
    }

    // The same again changes nothing; a changed one makes a revision; history knows both.
    let said = cluster.apply(2, &document)?;
    ensure!(said.contains("nothing to change"), "{said}");
    cluster.apply(2, &document.replace("name: site", "name: pages"))?;
    let history = cluster.ctl_json(0, &["history"])?;
    let revisions: Vec<_> = history.as_array().into_iter().flatten().filter_map(|r| r["revision"].as_u64()).collect();
    ensure!(revisions.contains(&1) && revisions.contains(&2) && revisions.len() == 2, "{history}");

    // A change made from an old revision is refused and nothing is lost.
    let file = cluster.folder().join("stale.yaml");
    std::fs::write(&file, &document)?;
    let said = cluster.ctl(0, &["apply", "-f", &file.display().to_string(), "--expect", "1"])?;
    ensure!(said.code == 4 && said.err.contains("pages"), "exit {} {}{}", said.code, said.out, said.err);

    cluster.ctl_ok(0, &["rollback", "1"])?;
    let text = cluster.ctl_ok(2, &["export"])?;
    ensure!(text.contains("site"), "{text}");
    Ok(())
}

#[test]
fn refuses_a_wrong_document_with_every_mistake_and_its_line() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let file = cluster.folder().join("wrong.yaml");
    std::fs::write(
        &file,
        "version: 1\nfarms:\n  - name: shop\n    listeners:\n      - { name: web, vip: nowhere, port: 80 }\n    servces: []\n    \
         timeouts: { connect: soon }\n",
    )?;
    let said = cluster.ctl(0, &["apply", "-f", &file.display().to_string()])?;
    ensure!(said.code == 3, "exit {}: {}", said.code, said.err);
    for part in ["nowhere", "servces", "services", "soon", "wrong.yaml:5", "wrong.yaml:6", "wrong.yaml:7"] {
        ensure!(said.err.contains(part), "{part:?} is not in:\n{}", said.err);
    }
    let said = cluster.ctl(0, &["export"])?;
    ensure!(!said.out.contains("shop"), "a refused document left something behind: {}", said.out);
    Ok(())
}

#[test]
fn keeps_a_client_on_its_backend_through_every_node_and_explains_why() -> Result<()> {
    // Each node listens on its own loopback address here: the port is shared, the label picks the address.
    let mut cluster = Cluster::start(3)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?, Backend::start("web3")?];
    let vip = std::net::SocketAddr::from((ports::vip_address(), 8080));
    cluster.apply(0, &shop_on_vip(vip, &backends.each_ref(), ""))?;
    let owner = cluster.wait_owner("public")?;
    wait::until("the shop to answer", || Ok(Client::new(vip).get("/healthz").ok().filter(|a| a.status == 200)))?;

    let mut client = Client::new(vip);
    let first = client.get("/login")?.header("x-backend").unwrap_or_default().to_owned();
    for _ in 0..20 {
        client.hang_up();
        let again = client.get("/basket")?;
        ensure!(again.header("x-backend") == Some(&first), "{first} -> {}", again.text());
    }

    // The owner dies; the next owner sends the client to the same backend.
    cluster.kill(owner);
    let next = cluster.wait_owner("public")?;
    let answer = wait::until("the shop to answer again", || {
        client.hang_up();
        Ok(client.get("/basket").ok().filter(|a| a.status == 200))
    })?;
    ensure!(answer.header("x-backend") == Some(&first), "{first} -> {}", answer.text());

    let cookie = format!("SHOPID={}", client.cookie("SHOPID").unwrap_or_default());
    let explained = cluster.ctl_ok(next, &["explain", "--farm", "shop", "--cookie", &cookie])?;
    ensure!(explained.contains(&first), "{explained}");

    // Drained, the backend keeps its client; in maintenance, it does not.
    cluster.ctl_ok(next, &["backend", "drain", &format!("shop/site/{first}")])?;
    ensure!(client.get("/basket")?.header("x-backend") == Some(&first), "a drain moved a bound client");
    cluster.ctl_ok(next, &["backend", "maintenance", &format!("shop/site/{first}")])?;
    let moved = client.get("/basket")?;
    ensure!(moved.status == 200 && moved.header("x-backend") != Some(&first), "{}", moved.text());
    Ok(())
}

#[test]
fn answers_correctly_when_backends_misbehave() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let backend = Backend::start("web1")?;
    let port = ports::free_local()?;
    let document = shop(port.port(), &[&backend], "retries_max: 0").replace(
        "    services:",
        "    timeouts: { connect: 1s, response_header: 1s, between_bytes: 1s }\n    services:",
    );
    cluster.apply(0, &document)?;
    wait::until("the shop to answer", || Ok(Client::new(port).get("/x").ok().filter(|a| a.status == 200)))?;

    backend.set_mode(Mode::BlackHole);
    ensure!(Client::new(port).get("/x")?.status == 504);
    backend.set_mode(Mode::Garbage);
    ensure!(Client::new(port).get("/x")?.status == 502);
    backend.set_mode(Mode::ClosesMidBody);
    ensure!(Client::new(port).get("/x").is_err(), "a truncated body must not look whole");
    backend.set_mode(Mode::Ok);
    ensure!(Client::new(port).get("/x")?.status == 200);
    drop(backend);
    ensure!(Client::new(port).get("/x")?.status == 503);
    Ok(())
}

#[test]
fn survives_kill_of_all_nodes_at_once() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?, Backend::start("web3")?];
    let vip = std::net::SocketAddr::from((ports::vip_address(), 8080));
    cluster.apply(0, &shop_on_vip(vip, &backends.each_ref(), ""))?;
    cluster.wait_owner("public")?;
    wait::until("the shop to answer", || Ok(Client::new(vip).get("/healthz").ok().filter(|a| a.status == 200)))?;

    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Client::new(vip);
        let backend = client.get("/login")?.header("x-backend").unwrap_or_default().to_owned();
        client.hang_up();
        clients.push((client, backend));
    }
    cluster.kill_all();
    for position in 0..3 {
        cluster.spawn(position)?;
    }
    for position in 0..3 {
        cluster.wait_ready(position)?;
    }
    for (client, backend) in &mut clients {
        let answer = wait::until("the shop to answer", || Ok(client.get("/basket").ok().filter(|a| a.status == 200)))?;
        ensure!(answer.header("x-backend") == Some(backend), "{backend} -> {}", answer.text());
    }
    Ok(())
}

#[test]
fn drains_on_sigterm_without_failing_a_request() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let backend = Backend::start("web1")?;
    let port = ports::free_local()?;
    cluster.apply(0, &shop(port.port(), &[&backend], ""))?;
    let mut client = Client::new(port);
    wait::until("the shop to answer", || Ok(client.get("/x").ok().filter(|a| a.status == 200)))?;
    ensure!(cluster.terminate(0)? == Some(0), "SIGTERM must end in exit code 0");
    cluster.spawn(0)?;
    cluster.wait_ready(0)?;
    wait::until("the shop to answer again", || Ok(Client::new(port).get("/x").ok().filter(|a| a.status == 200)))?;
    Ok(())
}
