//! Disks that are full or read-only: the node on them stops and says what to do, the others go on,
//! and nothing that was answered is lost.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client,
    cluster::Cluster,
    disk::{self, Disk},
    newcomers::{self, Newcomers},
    ports,
    shop::Shop,
    wait,
};

/// Position of the node whose disk fails.
const VICTIM: usize = 2;

/// Opens a shop with an address at each of three nodes.
fn open_shop(cluster: &Cluster, backends: &[Backend]) -> Result<Vec<SocketAddr>> {
    let servers = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
    let shop = Shop::new(backends).listen_on_each(&servers).persistence_header(newcomers::HEADER);
    cluster.apply(0, &shop.to_yaml())?;
    for server in &servers {
        client::wait_served(*server)?;
    }
    Ok(servers)
}

/// Waits until the victim stopped by itself, and checks that its last words say all of `parts`.
fn wait_stopped(cluster: &mut Cluster, parts: &[&str]) -> Result<()> {
    ensure!(cluster.wait_exit(VICTIM)? == Some(1), "a node whose disk fails must end with an error");
    let log = cluster.node(VICTIM).log()?;
    for part in parts {
        ensure!(log.contains(part), "{part:?} is not in the log:\n{log}");
    }
    Ok(())
}

#[test]
fn a_leader_on_a_full_disk_stops_and_nothing_answered_is_lost() -> Result<()> {
    disk::with_own_mounts(|| {
        let mut cluster = Cluster::start(2)?;
        let backends = [Backend::start("web1")?, Backend::start("web2")?];
        cluster.prepare_node()?;
        let data = cluster.node(VICTIM).data();
        let disk = Disk::of_memory(&data, 32)?;
        cluster.enter(VICTIM)?;
        cluster.wait_voters(3)?;
        let servers = open_shop(&cluster, &backends)?;
        wait::until("the leadership to be handed over", || {
            cluster.ctl_ok(0, &["cluster", "transfer-leader", "--to", cluster.node(VICTIM).name()])?;
            Ok((cluster.wait_leader()? == VICTIM).then_some(()))
        })?;

        let load = Newcomers::start(&servers, 2);
        load.wait_more(200)?;
        disk.fill()?;
        let place = data.display().to_string();
        wait_stopped(&mut cluster, &["No space left on device", &place, "check space"])?;
        load.wait_more(200)?;
        let answered = load.stop();
        newcomers::check(&answered, &servers[..VICTIM])?;

        // What the process held beyond the ends of its files is free again.
        disk.make_room()?;
        disk.fill()?;
        cluster.daemon_says(VICTIM, &["run"])?.refused(&["No space left on device", &place, "space"])?;
        disk.make_room()?;
        cluster.spawn(VICTIM)?;
        cluster.wait_ready(VICTIM)?;
        newcomers::check(&answered, &servers[VICTIM..])
    })
}

#[test]
fn a_node_whose_disk_goes_read_only_stops_and_nothing_answered_is_lost() -> Result<()> {
    disk::with_own_mounts(|| {
        let mut cluster = Cluster::start(2)?;
        let backends = [Backend::start("web1")?, Backend::start("web2")?];
        cluster.prepare_node()?;
        let data = cluster.node(VICTIM).data();
        let Some(disk) = Disk::of_file(&data, 512)? else { return Ok(()) };
        cluster.enter(VICTIM)?;
        cluster.wait_voters(3)?;
        let servers = open_shop(&cluster, &backends)?;

        let load = Newcomers::start(&servers, 2);
        load.wait_more(200)?;
        disk.fail()?;
        let place = data.display().to_string();
        wait_stopped(&mut cluster, &[&place, "check space", "kernel log"])?;
        load.wait_more(200)?;
        let answered = load.stop();

        cluster.daemon_says(VICTIM, &["run"])?.refused(&["Read-only file system", &place, "writable"])?;
        disk.repair()?;
        cluster.spawn(VICTIM)?;
        cluster.wait_ready(VICTIM)?;
        newcomers::check(&answered, &servers)
    })
}
