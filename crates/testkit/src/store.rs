//! Three nodes that serve sessions, each on an address of its own.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    cluster::Cluster,
    ports,
    resp::{Answer, Connection},
    wait,
};

const NODES: usize = 3;
/// Longer than any deadline of the store.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a cluster, applies a document with `sessions` and waits until all nodes serve them. Returns where.
///
/// # Errors
/// When a node does not become ready, or the document is refused.
pub fn start(document: &str) -> Result<(Cluster, Vec<SocketAddr>)> {
    let mut cluster = Cluster::start(NODES)?;
    let mut addresses = Vec::new();
    for node in 0..NODES {
        let address = ports::free_local()?;
        cluster.edit(node, |text| format!("{text}\n[sessions]\nlisten = [\"{address}\"]\n"))?;
        cluster.kill(node);
        cluster.spawn(node)?;
        cluster.wait_ready(node)?;
        addresses.push(address);
    }
    cluster.apply(0, document)?;
    addresses.iter().try_for_each(|address| wait_serving(*address))?;
    Ok((cluster, addresses))
}

/// Waits until a store, ours or another, answers.
///
/// # Errors
/// When it does not in time.
pub fn wait_serving(address: SocketAddr) -> Result<()> {
    wait::until("a store that answers", || Ok(open(address).ok().map(drop)))
}

/// Opens a connection on which a store answers.
///
/// # Errors
/// What the system says, or an answer that is not `PONG`.
pub fn open(address: SocketAddr) -> Result<Connection> {
    let mut connection = Connection::open(address, PATIENCE)?;
    let pong = connection.call(&["PING"])?;
    ensure!(pong == Answer::Simple("PONG".to_owned()), "{pong:?}");
    Ok(connection)
}
