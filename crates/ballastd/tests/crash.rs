//! Every node killed at once under a load of new bindings: what was answered is there afterwards.
//!
//! Three rounds, or `BALLAST_CRASH_ROUNDS`.

use std::env;

use anyhow::{Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client,
    cluster::Cluster,
    newcomers::{self, Newcomers},
    ports,
    shop::Shop,
};

#[test]
fn no_answered_binding_and_no_acknowledged_apply_is_lost() -> Result<()> {
    let rounds: u64 = env::var("BALLAST_CRASH_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let mut cluster = Cluster::start(3)?;
    let backends = (1..=4).map(|n| Backend::start(&format!("web{n}"))).collect::<Result<Vec<_>, _>>()?;
    let servers = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
    let shop = Shop::new(&backends).listen_on_each(&servers).persistence_header(newcomers::HEADER);
    cluster.apply(0, &shop.to_yaml())?;
    for server in &servers {
        client::wait_served(*server)?;
    }

    let mut answered = Vec::new();
    for round in 1..=rounds {
        let load = Newcomers::start(&servers, 3);
        load.wait_more(200)?;
        let changed = shop.clone().unused_service(&format!("round{round}"));
        cluster.apply(usize::try_from(round % 3)?, &changed.to_yaml())?;
        load.wait_more(200)?;
        cluster.kill_all();
        answered.extend(load.stop());

        for position in 0..3 {
            cluster.spawn(position)?;
        }
        for position in 0..3 {
            cluster.wait_ready(position)?;
        }
        let text = cluster.ctl_ok(0, &["export"])?;
        ensure!(text.contains(&format!("round{round}")), "the acknowledged apply of round {round} is gone:\n{text}");
        newcomers::check(&answered, &servers)?;
        println!("round {round}: {} bindings checked", answered.len());
    }
    Ok(())
}
