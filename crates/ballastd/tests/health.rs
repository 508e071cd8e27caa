//! What probes are told that speak gRPC.

use anyhow::Result;
use ballast_admin::client::Target;
use ballast_testkit::{cluster::Cluster, wait};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

#[test]
fn a_node_serves_for_grpc_health_while_it_is_ready() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let name = cluster.node(0).name();
    let runtime = tokio::runtime::Runtime::new()?;
    let mut health = HealthClient::new(runtime.block_on(Target::Unix(cluster.node(0).socket()).connect())?);
    let mut wait_for = |wanted: ServingStatus| {
        wait::until(&format!("the node to be {}", wanted.as_str_name()), || {
            let answer = runtime.block_on(health.check(HealthCheckRequest { service: String::new() }))?;
            Ok((answer.into_inner().status() == wanted).then_some(()))
        })
    };
    wait_for(ServingStatus::Serving)?;
    cluster.ctl_ok(0, &["node", "drain", name])?;
    wait_for(ServingStatus::NotServing)?;
    cluster.ctl_ok(0, &["node", "enable", name])?;
    wait_for(ServingStatus::Serving)
}
