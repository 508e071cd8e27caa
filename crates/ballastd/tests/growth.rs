//! Clusters that grow and whose first members all leave, under traffic.

use std::time::Duration;

use anyhow::{Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client,
    cluster::Cluster,
    ports,
    shop::Shop,
    visitors::{Behaviour, Visitors, judge},
    wait,
};

#[test]
fn a_cluster_shrinks_to_one_node() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    cluster.wait_voters(3)?;
    // The second time, nothing can be decided without the vote of the one that leaves. Each leads when it is removed.
    for leaving in [2, 1] {
        let name = cluster.node(leaving).name().to_owned();
        wait::until(&format!("{name} to lead"), || {
            cluster.ctl_ok(0, &["cluster", "transfer-leader", "--to", &name]).map(Some)
        })?;
        remove(&cluster, &name)?;
        ensure!(cluster.wait_exit(leaving)? == Some(1), "{name} went on after it was removed");
        wait::until(&format!("the cluster to decide something without {name}"), || {
            cluster.ctl_ok(0, &["cluster", "rotate-cookie-key"]).map(Some)
        })?;
    }
    Ok(())
}

/// Asks for it again for as long as the one before has its vote still.
fn remove(cluster: &Cluster, name: &str) -> Result<()> {
    wait::until(&format!("{name} to be removed"), || {
        let said = cluster.ctl(0, &["node", "remove", "--force", name])?;
        let soon = said.err.contains("try again in a moment");
        // Asked for before, by a leader that is gone.
        let done = said.code == 0 || said.err.contains("BALLAST-A005");
        ensure!(done || soon, "exit {}: {}", said.code, said.err);
        Ok(done.then_some(()))
    })
}

#[test]
fn two_of_three_that_are_removed_at_once_leave_one_that_decides() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    cluster.wait_voters(3)?;
    let names = [1, 2].map(|node| cluster.node(node).name().to_owned());
    std::thread::scope(|scope| {
        let cluster = &cluster;
        let removing = names.each_ref().map(|name| scope.spawn(move || remove(cluster, name)));
        removing.into_iter().try_for_each(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    for (node, name) in [1, 2].into_iter().zip(&names) {
        ensure!(cluster.wait_exit(node)? == Some(1), "{name} went on after it was removed");
    }
    wait::until("the one that is left to decide something", || {
        Ok((cluster.ctl(0, &["cluster", "rotate-cookie-key"])?.code == 0).then_some(()))
    })
}

#[test]
fn nine_nodes_outlive_the_first_three() -> Result<()> {
    let mut cluster = Cluster::start(9)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?, Backend::start("web3")?];
    let vip = std::net::SocketAddr::from((ports::vip_address(), 8080));
    cluster.apply(8, &Shop::new(&backends).on_vip(vip).learned_cookie("SHOPID").to_yaml())?;
    cluster.wait_owner("public")?;
    client::wait_served(vip)?;

    let load = Visitors::start(&Behaviour {
        visitors: 12,
        pause: Duration::from_millis(20),
        servers: vec![vip],
        new_connections: false,
    });
    wait::until("all visitors to log in", || Ok((load.logged_in() == 12).then_some(())))?;

    // Drained first, so that a VIP it holds is handed over; then removed for good and stopped.
    for leaving in 0..3 {
        let name = cluster.node(leaving).name().to_owned();
        cluster.ctl_ok(8, &["node", "drain", &name])?;
        wait::until("the VIP to be elsewhere", || Ok(cluster.owner("public").filter(|owner| *owner != leaving)))?;
        cluster.ctl_ok(8, &["node", "remove", &name])?;
        wait::until(&format!("{name} to be no voter any more"), || {
            let status = cluster.ctl_json(8, &["cluster", "status"])?;
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let voters: Vec<_> =
                nodes.iter().filter(|n| n["voter"] == true).filter_map(|n| n["name"].as_str()).collect();
            Ok((voters.len() == 3 && !voters.contains(&name.as_str())).then_some(()))
        })?;
        // It learns of it, says what to do, and does not go on.
        ensure!(cluster.wait_exit(leaving)? == Some(1), "{name} went on after it was removed");
        ensure!(
            cluster.node(leaving).log()?.contains("was removed from the cluster"),
            "{}",
            cluster.node(leaving).log()?
        );
    }
    let before = load.elapsed();
    wait::until("traffic after the last change", || Ok((load.served_since(before) > 100).then_some(())))?;

    let seen = load.stop();
    let verdict = judge(&seen);
    ensure!(verdict.moved.is_empty(), "visitors were moved: {:?}", verdict.moved);
    println!("{} served, failed {:?}, longest gap {:?}", verdict.served, verdict.failed, verdict.longest_gap);
    let history = cluster.ctl_json(8, &["history"])?;
    ensure!(history.as_array().is_some_and(|h| h.len() == 1), "{history}");
    Ok(())
}
