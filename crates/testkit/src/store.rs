//! Three nodes that serve sessions, each on an address of its own.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    client::Client,
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
    let (cluster, places) = start_both(document)?;
    Ok((cluster, places.into_iter().map(|place| place.resp).collect()))
}

/// Where a node serves sessions.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The Redis protocol.
    pub resp: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

/// The same, and where they are served over HTTP.
///
/// # Errors
/// As [`start`].
pub fn start_both(document: &str) -> Result<(Cluster, Vec<Place>)> {
    let mut cluster = Cluster::start(NODES)?;
    let mut places = Vec::new();
    for node in 0..NODES {
        let place = Place { resp: ports::free_local()?, http: ports::free_local()? };
        let Place { resp, http } = place;
        cluster
            .edit(node, |text| format!("{text}\n[sessions]\nlisten = [\"{resp}\"]\nhttp_listen = [\"{http}\"]\n"))?;
        cluster.kill(node);
        cluster.spawn(node)?;
        cluster.wait_ready(node)?;
        places.push(place);
    }
    cluster.apply(0, document)?;
    for place in &places {
        wait_serving(place.resp)?;
        wait::until("an answer over HTTP", || Ok(Client::new(place.http).get("/").ok().map(drop)))?;
    }
    Ok((cluster, places))
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
