//! A node whose table is old must ask before it answers: after a start, and after it stood still.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client::{self, Client},
    cluster::Cluster,
    ports,
    shop::Shop,
    wait,
};

const LATE: usize = 2;

fn ask(server: SocketAddr, visitor: &str) -> Result<String> {
    let answer =
        Client::new(server).timeout(Duration::from_secs(20)).request("GET", "/page", &[("x-visitor", visitor)], b"")?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(answer.header("x-backend").context("no backend answered")?.to_owned())
}

/// Moves a visitor to the other backend and sees it served there. Returns that backend.
fn move_away(cluster: &Cluster, server: SocketAddr, visitor: &str) -> Result<String> {
    // A node that was just killed may have led: until another does, nobody new is served.
    let before = wait::until("an answer", || ask(server, visitor).map(Some))?;
    let other = if before == "web1" { "web2" } else { "web1" };
    cluster.ctl_ok(0, &["bindings", "move", "--farm", "shop", "--key", visitor, "--to", other])?;
    let now = wait::until("an answer", || ask(server, visitor).map(Some))?;
    ensure!(now == other, "moved to {other}, served by {now}");
    Ok(now)
}

#[test]
fn a_node_that_starts_or_wakes_never_serves_by_an_old_table() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?];
    let servers = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
    let shop = Shop::new(&backends).listen_on_each(&servers).persistence_header("x-visitor");
    cluster.apply(0, &shop.to_yaml())?;
    for server in &servers {
        client::wait_served(*server)?;
    }
    for round in 0..4 {
        let visitor = format!("visitor-{round}");
        cluster.kill(LATE);
        let home = move_away(&cluster, servers[0], &visitor)?;
        let moved = move_away(&cluster, servers[0], &visitor)?;
        ensure!(moved != home, "{moved}");
        cluster.spawn(LATE)?;
        // Its first answer counts, as soon as it takes connections.
        let first = wait::until("the first answer", || ask(servers[LATE], &visitor).map(Some))?;
        ensure!(first == moved, "the node started and sent {visitor} to {first} instead of {moved}");
        cluster.wait_ready(LATE)?;

        cluster.pause(LATE);
        let moved = move_away(&cluster, servers[0], &visitor)?;
        // The fault itself: longer than a node waits before it takes itself for isolated.
        thread::sleep(Duration::from_millis(2500));
        cluster.resume(LATE);
        let first = wait::until("the first answer", || ask(servers[LATE], &visitor).map(Some))?;
        ensure!(first == moved, "the node woke and sent {visitor} to {first} instead of {moved}");
    }
    Ok(())
}
