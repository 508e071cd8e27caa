//! Nodes' certificates end, and nodes are welcome all the same. The daemons' wall clocks are moved by months; all other clocks
//! are the kernel's.

use std::{
    fs::OpenOptions,
    net::{SocketAddr, TcpStream},
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use ballast_admin::pki::{self, Credentials, Validity};
use ballast_testkit::{client::Client, cluster::Cluster, wait};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A cluster whose daemons' wall clocks can be moved.
struct Moved {
    cluster: Cluster,
    _library: TempDir,
}

impl Moved {
    fn start(count: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let library = folder.path().join("clock.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jepsen/preload/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        ensure!(compiler.status().context("run cc")?.success(), "cc failed");
        let library = library.to_str().context("not UTF-8")?;
        Ok(Self { cluster: Cluster::start_in(count, "", &[("LD_PRELOAD", library)])?, _library: folder })
    }

    /// Puts a node's wall clock so far ahead of this machine's, whether it runs or not.
    fn put_ahead(&self, position: usize, by: Duration) -> Result<()> {
        let file = self.cluster.node(position).folder().join("clock");
        let clock = OpenOptions::new().write(true).open(&file).with_context(|| format!("open {}", file.display()))?;
        Ok(clock.write_all_at(&i64::try_from(by.as_nanos())?.to_ne_bytes(), 0)?)
    }

    fn credentials(&self, position: usize) -> Result<Credentials> {
        Ok(Credentials::load(&self.cluster.node(position).data().join("node.pem"))?)
    }

    fn not_after(&self, position: usize) -> Result<SystemTime> {
        Ok(self.credentials(position)?.validity()?.not_after)
    }

    /// Waits until a node has renewed the certificate that ended then. Returns when the new one ends.
    fn wait_renewed(&self, position: usize, ended: SystemTime) -> Result<SystemTime> {
        wait::until(&format!("node {position} to renew its certificate"), || {
            let not_after = self.not_after(position)?;
            Ok((not_after > ended).then_some(not_after))
        })
    }

    /// Fails if a node was refused for its certificate.
    fn check_nobody_was_refused(&self) -> Result<()> {
        for position in 0..self.cluster.len() {
            let log = self.cluster.node(position).log()?;
            // A connection that ends while it begins, with its process, is told in the same words.
            let refused =
                log.lines().find(|line| line.contains("refused a node's connection") && line.contains("ertificate"));
            ensure!(refused.is_none(), "node {position}: {refused:?}");
        }
        Ok(())
    }
}

/// When the certificate that is shown at a port ends.
fn shown_until(address: SocketAddr, credentials: &Credentials) -> Result<SystemTime> {
    let mut tls = pki::joining_client(credentials.ca_pin()?)?;
    tls.client_auth_cert_resolver = pki::node_client(credentials)?.client_auth_cert_resolver;
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(wait::PATIENCE))?;
    let mut session = rustls::ClientConnection::new(Arc::new(tls), "localhost".try_into()?)?;
    while session.is_handshaking() {
        session.complete_io(&mut tcp)?;
    }
    let chain = session.peer_certificates().context("no certificate")?;
    Ok(Validity::of(chain.first().context("no certificate")?)?.not_after)
}

#[test]
fn nodes_renew_their_certificates_while_they_run_and_are_welcome_when_the_first_have_ended() -> Result<()> {
    let mut moved = Moved::start(3)?;
    let first = (0..3).map(|position| moved.not_after(position)).collect::<Result<Vec<_>>>()?;
    for position in 0..3 {
        moved.put_ahead(position, 300 * DAY)?;
    }
    for (position, first) in first.iter().enumerate() {
        let renewed = moved.wait_renewed(position, *first)?;
        ensure!(renewed >= *first + 299 * DAY, "node {position}: {first:?}, then {renewed:?}");
        // Without a restart it is shown at both ports, and told; it is there to be read before it is durable, and shown after.
        let credentials = moved.credentials(position)?;
        let node = moved.cluster.node(position);
        for address in [node.cluster_address(), node.admin_address()] {
            wait::until(&format!("{address} of node {position} to show it"), || {
                Ok((shown_until(address, &credentials)? == renewed).then_some(()))
            })?;
        }
        let told = renewed.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        wait::until(&format!("the metrics of node {position} to say so"), || {
            let metrics = moved.cluster.metrics(position)?;
            let is = metrics.get("ballast_tls_certificate_not_after_timestamp_seconds{certificate=\"node\"}").copied();
            ensure!(is == Some(told), "{is:?}, not {told}");
            Ok(Some(()))
        })?;
    }
    // By the clock of the one that is restarted, what the others were enrolled with has ended; they were not restarted yet.
    for position in 0..3 {
        moved.put_ahead(position, 367 * DAY)?;
    }
    for position in 0..3 {
        moved.cluster.terminate(position)?;
        moved.cluster.spawn(position)?;
        moved.cluster.wait_ready(position)?;
    }
    moved.check_nobody_was_refused()?;
    wait::until("the cluster to be well", || {
        let status = moved.cluster.ctl_json(0, &["cluster", "status"])?;
        ensure!(status["health"] == "ok", "{status}");
        Ok(Some(()))
    })
}

#[test]
fn a_cluster_that_was_off_until_its_certificates_had_ended_comes_back() -> Result<()> {
    let mut moved = Moved::start(3)?;
    let first = (0..3).map(|position| moved.not_after(position)).collect::<Result<Vec<_>>>()?;
    moved.cluster.kill_all();
    for position in 0..3 {
        moved.put_ahead(position, 400 * DAY)?;
        moved.cluster.spawn(position)?;
    }
    for (position, first) in first.iter().enumerate() {
        moved.cluster.wait_ready(position)?;
        moved.wait_renewed(position, *first)?;
        wait::until(&format!("node {position} to tell it"), || {
            Ok(moved.cluster.node(position).log()?.contains("this node's certificate was renewed").then_some(()))
        })?;
    }
    // One alone that was off for longer than its certificate lasts.
    moved.cluster.kill(2);
    let second = moved.not_after(2)?;
    for position in 0..3 {
        let ended = moved.not_after(position)?;
        moved.put_ahead(position, 800 * DAY)?;
        if position < 2 {
            moved.wait_renewed(position, ended)?;
        }
    }
    moved.cluster.spawn(2)?;
    moved.cluster.wait_ready(2)?;
    moved.wait_renewed(2, second)?;
    Ok(())
}

#[test]
fn a_node_that_cannot_renew_says_so_and_what_to_do() -> Result<()> {
    let mut moved = Moved::start(1)?;
    let newcomer = moved.cluster.prepare_node()?;
    moved.cluster.join(newcomer)?;
    // It never ran, so it has nothing of the log. By then the other has renewed its own.
    let ended = moved.not_after(0)?;
    for position in [0, newcomer] {
        moved.put_ahead(position, 400 * DAY)?;
    }
    moved.wait_renewed(0, ended)?;
    // Its clock is judged by what it was at the start.
    moved.cluster.terminate(0)?;
    moved.cluster.spawn(0)?;
    moved.cluster.wait_ready(0)?;
    moved.cluster.spawn(newcomer)?;
    wait::until("it to say that its certificate has ended", || {
        let address = moved.cluster.node(newcomer).metrics_address();
        let answer = Client::new(address).host("localhost").get("/readyz")?;
        let (text, words) =
            (answer.text(), ["this node's certificate ended on", "ballastctl node remove", "join it again"]);
        ensure!(answer.status == 503 && words.iter().all(|word| text.contains(word)), "{} {text}", answer.status);
        Ok(Some(()))
    })?;
    // The other one is refused by it again and again; that is told once, and then how often it was not told.
    wait::until("refusals that were not told", || {
        let log = moved.cluster.node(newcomer).log()?;
        let mut untold = log.lines().filter(|line| line.contains("refused a node's connection"));
        Ok(untold.any(|line| !line.contains("untold=0")).then_some(()))
    })?;
    moved.cluster.replace(newcomer)
}
