//! A cluster of real processes, as an operator meets it: forming, applying, asking, losing nodes.

use anyhow::{Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client::{self, Client},
    cluster::Cluster,
    ports,
    shop::Shop,
    wait,
};

#[test]
fn applies_on_any_node_and_holds_on_all() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let backend = Backend::start("web1")?;
    let addresses = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
    let document = Shop::new([&backend]).listen_on_each(&addresses).to_yaml();

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
    let file = cluster.write("stale.yaml", &document)?;
    let said = cluster.ctl(0, &["apply", "-f", &file, "--expect", "1"])?;
    ensure!(said.code == 4 && said.err.contains("pages"), "exit {} {}{}", said.code, said.out, said.err);

    cluster.ctl_ok(0, &["rollback", "1"])?;
    let text = cluster.ctl_ok(2, &["export"])?;
    ensure!(text.contains("site"), "{text}");
    Ok(())
}

#[test]
fn refuses_a_wrong_document_with_every_mistake_and_its_line() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let file = cluster.write(
        "wrong.yaml",
        "version: 1\nfarms:\n  - name: shop\n    listeners:\n      - { name: web, vip: nowhere, port: 80 }\n    servces: []\n    \
         timeouts: { connect: soon }\n",
    )?;
    let said = cluster.ctl(0, &["apply", "-f", &file])?;
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
    cluster.apply(0, &Shop::new(&backends).on_vip(vip).learned_cookie("SHOPID").to_yaml())?;
    let owner = cluster.wait_owner("public")?;
    client::wait_served(vip)?;

    let mut client = Client::new(vip);
    let first = client.wait_get("/login")?.header("x-backend").unwrap_or_default().to_owned();
    for _ in 0..20 {
        client.hang_up();
        let again = client.wait_get("/basket")?;
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
    ensure!(client.wait_get("/basket")?.header("x-backend") == Some(&first), "a drain moved a bound client");
    cluster.ctl_ok(next, &["backend", "maintenance", &format!("shop/site/{first}")])?;
    wait::until("the client to leave it", || {
        let moved = client.get("/basket")?;
        ensure!(moved.status == 200 && moved.header("x-backend") != Some(&first), "{} {}", moved.status, moved.text());
        Ok(Some(()))
    })
}

#[test]
fn survives_kill_of_all_nodes_at_once() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?, Backend::start("web3")?];
    let vip = std::net::SocketAddr::from((ports::vip_address(), 8080));
    cluster.apply(0, &Shop::new(&backends).on_vip(vip).learned_cookie("SHOPID").to_yaml())?;
    cluster.wait_owner("public")?;
    client::wait_served(vip)?;

    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Client::new(vip);
        let backend = client.wait_get("/login")?.header("x-backend").unwrap_or_default().to_owned();
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
    cluster.apply(0, &Shop::new([&backend]).listen_on(port).to_yaml())?;
    client::wait_served(port)?;
    ensure!(cluster.terminate(0)? == Some(0), "SIGTERM must end in exit code 0");
    cluster.spawn(0)?;
    cluster.wait_ready(0)?;
    client::wait_served(port)?;
    Ok(())
}
