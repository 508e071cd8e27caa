//! Files that are not what was written: what is only torn is mended, what is damaged stops the node
//! with a remedy, and the remedy works. The other nodes go on all the while.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client,
    cluster::Cluster,
    newcomers::{self, Answered, Newcomers},
    ports,
    shop::Shop,
};

/// Position of the node whose files are damaged.
const VICTIM: usize = 2;

/// Bytes in a block of RocksDB's write-ahead log, and in the head of a record there.
const BLOCK: usize = 32 << 10;
const RECORD_HEAD: usize = 7;

struct World {
    cluster: Cluster,
    servers: Vec<SocketAddr>,
    answered: Vec<Answered>,
    _backends: Vec<Backend>,
}

impl World {
    fn new() -> Result<Self> {
        let cluster = Cluster::start(3)?;
        let backends = vec![Backend::start("web1")?, Backend::start("web2")?];
        let servers = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
        let shop = Shop::new(&backends).listen_on_each(&servers).persistence_header(newcomers::HEADER);
        cluster.apply(0, &shop.to_yaml())?;
        for server in &servers {
            client::wait_served(*server)?;
        }
        Ok(Self { cluster, servers, answered: Vec::new(), _backends: backends })
    }

    /// Lets newcomers in at every node that runs, and keeps what they were answered.
    fn serve(&mut self) -> Result<()> {
        let servers: Vec<_> = (0..3).filter(|p| self.cluster.is_up(*p)).map(|p| self.servers[p]).collect();
        let load = Newcomers::start(&servers, 2);
        load.wait_more(200)?;
        self.answered.extend(load.stop());
        Ok(())
    }

    /// Kills the victim under load.
    fn kill_victim(&mut self) -> Result<()> {
        let load = Newcomers::start(&self.servers, 2);
        load.wait_more(200)?;
        self.cluster.kill(VICTIM);
        self.answered.extend(load.stop());
        Ok(())
    }

    /// The victim does not start, the others serve, and it comes back as a new node.
    fn is_refused_and_replaced(&mut self, parts: &[&str]) -> Result<()> {
        let said = self.cluster.daemon_says(VICTIM, &["run"])?;
        said.refused(parts)?;
        said.refused(&["must not answer", "ballastctl node remove", "empty its data directory", "join it again"])?;
        self.serve()?;
        self.cluster.replace(VICTIM)?;
        self.serve()?;
        newcomers::check(&self.answered, &self.servers)
    }

    fn log(&self) -> PathBuf {
        self.cluster.node(VICTIM).data().join("log/rocksdb")
    }
}

/// The file of that kind with the greatest number in its name.
fn newest(folder: &Path, extension: &str) -> Result<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.into_iter().max().with_context(|| format!("no *.{extension} in {}", folder.display()))
}

fn flip_a_bit_in_the_middle(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    ensure!(!bytes.is_empty(), "{} is empty, so there is nothing to damage", path.display());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    Ok(fs::write(path, bytes)?)
}

/// Appends the beginning of a record to a write-ahead log, as a crash in the middle of a write leaves it.
fn tear(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let left = BLOCK - bytes.len() % BLOCK;
    // In what is left of this block a record can be that long; a shorter rest is filled with zeros.
    let length = left.saturating_sub(RECORD_HEAD).min(1000);
    if length < 2 {
        bytes.resize(bytes.len() + left, 0);
        fs::write(path, bytes)?;
        return tear(path);
    }
    let length = u16::try_from(length)?;
    bytes.extend_from_slice(&0x1234_5678_u32.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.push(1);
    bytes.resize(bytes.len() + usize::from(length) / 2, 0xcd);
    Ok(fs::write(path, bytes)?)
}

#[test]
fn a_torn_last_record_is_dropped_and_the_node_catches_up() -> Result<()> {
    let mut world = World::new()?;
    world.kill_victim()?;
    tear(&newest(&world.log(), "log")?)?;
    world.serve()?;
    world.cluster.spawn(VICTIM)?;
    world.cluster.wait_ready(VICTIM)?;
    newcomers::check(&world.answered, &world.servers)
}

#[test]
fn a_log_that_lost_its_end_is_refused() -> Result<()> {
    let mut world = World::new()?;
    world.kill_victim()?;
    let path = newest(&world.log(), "log")?;
    let bytes = fs::read(&path)?;
    fs::write(&path, &bytes[..bytes.len() / 2])?;
    world.is_refused_and_replaced(&[
        "were acknowledged",
        &world.log().parent().context("a folder")?.display().to_string(),
    ])
}

#[test]
fn a_flipped_bit_in_the_log_stops_the_node_and_it_rejoins() -> Result<()> {
    let mut world = World::new()?;
    world.kill_victim()?;
    flip_a_bit_in_the_middle(&newest(&world.log(), "log")?)?;
    world.is_refused_and_replaced(&["the log in", "is damaged"])?;

    // A start moves the records into a table file.
    world.kill_victim()?;
    world.cluster.spawn(VICTIM)?;
    world.cluster.wait_ready(VICTIM)?;
    world.cluster.kill(VICTIM);
    flip_a_bit_in_the_middle(&newest(&world.log(), "sst")?)?;
    world.is_refused_and_replaced(&["the log in", "is damaged"])
}

#[test]
fn a_flipped_bit_in_a_snapshot_stops_the_node_and_it_rejoins() -> Result<()> {
    let mut world = World::new()?;
    world.serve()?;
    world.cluster.ctl_ok(0, &["cluster", "snapshot", "--node", world.cluster.node(VICTIM).name()])?;
    world.cluster.kill(VICTIM);
    flip_a_bit_in_the_middle(&newest(&world.cluster.node(VICTIM).data().join("snapshots"), "snapshot")?)?;
    world.is_refused_and_replaced(&["snapshot", "is damaged"])
}
