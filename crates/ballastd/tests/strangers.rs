//! Whoever does not belong to the cluster: expired tokens, certificates and data of another cluster.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use ballast_admin::pki::{self, Credentials};
use ballast_testkit::{cluster::Cluster, wait};

/// Not permitted.
const DENIED: i32 = 8;

#[test]
fn an_expired_token_is_refused_as_such() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let token = cluster.ctl_ok(0, &["node", "join-token", "--ttl", "1s"])?.trim().to_owned();
    let second = cluster.prepare_node()?;
    // Under a name that is taken it is refused in any case, so that no try uses the token up.
    cluster.edit(second, |text| text.replace("name = \"node-2\"", "name = \"node-1\""))?;
    let said = wait::until("the token to expire", || {
        let said = cluster.daemon_says(second, &["join", "--token", &token])?;
        ensure!(said.code != 0, "a second node-1 was taken in");
        Ok(said.err.contains("expired").then_some(said))
    })?;
    said.refused(&["the join token expired", "ballastctl node join-token"])?;

    cluster.edit(second, |text| text.replace("name = \"node-1\"", "name = \"node-2\""))?;
    cluster.daemon_says(second, &["join", "--token", &token])?.refused(&["the join token expired"])?;
    // The refusals left nothing behind that would be in the way of a good token.
    cluster.enter(second)
}

#[test]
fn an_administrator_of_another_cluster_is_refused() -> Result<()> {
    let (ours, theirs) = (Cluster::start(1)?, Cluster::start(1)?);
    let (our_admin, their_admin) = (ours.node(0).data().join("admin"), theirs.node(0).data().join("admin"));
    ensure!(ours.ctl_as(0, &our_admin, &["cluster", "status"])?.code == 0, "our own administrator is refused");

    // The administrator sees that it is the wrong cluster.
    let said = ours.ctl_as(0, &their_admin, &["cluster", "status"])?;
    said.refused(&["is not a node of this certificate's cluster", "ballastctl context list"])?;
    ensure!(said.code == DENIED, "exit {}", said.code);

    // With our CA and their certificate.
    let mixed = ours.folder().join("mixed");
    fs::create_dir(&mixed)?;
    fs::copy(our_admin.join("ca.pem"), mixed.join("ca.pem"))?;
    fs::copy(their_admin.join("admin.pem"), mixed.join("admin.pem"))?;
    fs::copy(their_admin.join("admin.key"), mixed.join("admin.key"))?;
    let said = ours.ctl_as(0, &mixed, &["cluster", "status"])?;
    said.refused(&["certificate"])?;
    ensure!(said.code == DENIED, "exit {}: {}", said.code, said.err);
    Ok(())
}

/// Whether `address` talks to who shows `credentials` and looks at nothing itself: both sides' greetings of
/// HTTP/2 are exchanged. The error is the other side's.
fn is_let_in(address: SocketAddr, our_pin: pki::CaPin, credentials: &Credentials) -> Result<()> {
    let mut tls = pki::joining_client(our_pin)?;
    tls.client_auth_cert_resolver = pki::node_client(credentials)?.client_auth_cert_resolver;
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(wait::PATIENCE))?;
    let mut session = rustls::ClientConnection::new(Arc::new(tls), "localhost".try_into()?)?;
    let mut stream = rustls::Stream::new(&mut session, &mut tcp);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame)?;
    Ok(())
}

#[test]
fn no_port_talks_to_a_certificate_of_another_cluster() -> Result<()> {
    let (ours, theirs) = (Cluster::start(1)?, Cluster::start(1)?);
    let node_of = |cluster: &Cluster| Credentials::load(&cluster.node(0).data().join("node.pem"));
    let (our_node, their_node) = (node_of(&ours)?, node_of(&theirs)?);
    let pin = our_node.ca_pin()?;
    for (port, address, words) in [
        ("cluster", ours.node(0).cluster_address(), "refused a node's connection"),
        ("admin", ours.node(0).admin_address(), "a connection to the admin API was refused"),
    ] {
        is_let_in(address, pin, &our_node).with_context(|| format!("{port}: our own node is refused"))?;
        let before = ours.node(0).log()?.len();
        ensure!(is_let_in(address, pin, &their_node).is_err(), "{port}: a node of another cluster is let in");
        wait::until(&format!("the log to tell of the refusal ({port})"), || {
            Ok(ours.node(0).log()?[before..].contains(words).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_node_of_another_cluster_at_a_known_address_is_a_stranger() -> Result<()> {
    let (mut ours, mut theirs) = (Cluster::start(1)?, Cluster::start(3)?);
    // Their third node is gone, and one of ours sits at its address.
    theirs.kill(2);
    ours.kill(0);
    let (own, foreign) = (ours.node(0).cluster_address(), theirs.node(2).cluster_address());
    ours.edit(0, |text| text.replace(&own.to_string(), &foreign.to_string()))?;
    ours.spawn(0)?;
    ours.wait_ready(0)?;
    wait::until("our node to tell of their calls", || {
        Ok(ours.node(0).log()?.contains("refused a node's connection").then_some(()))
    })?;
    let status = ours.ctl_json(0, &["cluster", "status"])?;
    ensure!(status["nodes"].as_array().is_some_and(|n| n.len() == 1), "{status}");
    for (cluster, health) in [(&ours, "ok"), (&theirs, "degraded")] {
        wait::until(&format!("the health to be {health}"), || {
            let status = cluster.ctl_json(0, &["cluster", "status"])?;
            ensure!(status["health"] == health, "{status}");
            let checked = cluster.ctl(0, &["cluster", "status", "--check"])?;
            ensure!(checked.code == i32::from(health != "ok"), "{} {}{}", checked.code, checked.out, checked.err);
            Ok(Some(()))
        })?;
    }
    Ok(())
}

#[test]
fn data_of_another_cluster_is_refused() -> Result<()> {
    let (mut ours, mut theirs) = (Cluster::start(1)?, Cluster::start(1)?);
    ours.kill(0);
    theirs.kill(0);
    let (our_data, their_data) = (ours.node(0).data(), theirs.node(0).data());
    let swap = |name: &str| -> Result<()> {
        let aside = ours.folder().join("aside");
        fs::rename(our_data.join(name), &aside)?;
        fs::rename(their_data.join(name), our_data.join(name))?;
        Ok(fs::rename(&aside, their_data.join(name))?)
    };
    swap("log")?;
    ours.daemon_says(0, &["run"])?.refused(&["holds the data of", "another data directory"])?;
    swap("log")?;
    swap("node.pem")?;
    ours.daemon_says(0, &["run"])?.refused(&["node.pem belongs to cluster", "restore"])?;
    swap("node.pem")?;
    swap("cluster.key")?;
    let said = ours.daemon_says(0, &["run"])?;
    swap("cluster.key")?;
    said.refused(&["cluster.key", "does not open the secrets", "restore the file"])?;
    ours.spawn(0)?;
    ours.wait_ready(0)
}
