//! Who may do what: viewers look, operators run the shop, administrators decide who belongs to it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ballast_admin::pki::Key;
use ballast_proto::admin::v1::{IssueUserRequest, certificate_service_client::CertificateServiceClient};
use ballast_testkit::{
    backend::Backend,
    cluster::{Cluster, Said},
    ports,
    shop::Shop,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

/// Not permitted.
const DENIED: i32 = 8;

/// A certificate of that role, in a folder as `ballastd init` writes it.
async fn issue(cluster: &Cluster, role: &str) -> Result<PathBuf> {
    let socket = cluster.node(0).socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://ballast.local").connect_with_connector(connector).await?;
    let key = Key::generate()?;
    let request = IssueUserRequest {
        name: format!("a-{role}"),
        role: role.to_owned(),
        csr_pem: key.request()?,
        ..Default::default()
    };
    let issued = CertificateServiceClient::new(channel).issue_user(request).await?.into_inner();
    let folder = cluster.folder().join(role);
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("ca.pem"), issued.ca_certificate_pem)?;
    std::fs::write(folder.join("admin.pem"), issued.certificate_pem)?;
    std::fs::write(folder.join("admin.key"), key.to_pem())?;
    Ok(folder)
}

fn denied(said: &Said, needed: &str) -> Result<()> {
    said.refused(&["BALLAST-A014", needed, "ask an administrator for a certificate with that role"])?;
    ensure!(said.code == DENIED, "exit {}: {}", said.code, said.err);
    Ok(())
}

#[test]
fn each_role_may_do_its_part_and_is_told_what_is_missing() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let backend = Backend::start("web1")?;
    let file = cluster.write("shop.yaml", &Shop::new([&backend]).listen_on(ports::free_local()?).to_yaml())?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let (viewer, operator) = runtime
        .block_on(async { anyhow::Ok((issue(&cluster, "viewer").await?, issue(&cluster, "operator").await?)) })?;
    let admin = cluster.node(0).data().join("admin");
    // Every node knows them.
    let ask = |who: &PathBuf, arguments: &[&str]| cluster.ctl_as(1, who, arguments);
    let may = |who: &PathBuf, arguments: &[&str]| -> Result<String> {
        let said = ask(who, arguments)?;
        ensure!(said.code == 0, "{}: {arguments:?}: exit {}: {}", who.display(), said.code, said.err);
        Ok(said.out)
    };

    may(&viewer, &["cluster", "status"])?;
    may(&viewer, &["validate", "-f", &file])?;
    denied(&ask(&viewer, &["apply", "-f", &file])?, "operator")?;
    let history = cluster.ctl_json(0, &["history"])?;
    ensure!(history.as_array().is_none_or(Vec::is_empty), "a viewer's apply left something: {history}");

    may(&operator, &["apply", "-f", &file, "-m", "opening"])?;
    denied(&ask(&viewer, &["backend", "drain", "shop/site/web1"])?, "operator")?;
    denied(&ask(&viewer, &["rollback", "1"])?, "operator")?;
    may(&operator, &["backend", "drain", "shop/site/web1"])?;
    may(&operator, &["node", "drain", "node-2"])?;
    may(&operator, &["node", "enable", "node-2"])?;
    for needs_admin in [
        &["node", "join-token"][..],
        &["node", "remove", "node-2"],
        &["node", "demote", "node-2"],
        &["cluster", "snapshot"],
        &["cluster", "transfer-leader"],
    ] {
        denied(&ask(&operator, needs_admin)?, "admin")?;
    }
    may(&admin, &["node", "join-token"])?;
    may(&admin, &["cluster", "snapshot"])?;

    // The history knows who it was.
    let history = may(&viewer, &["history"])?;
    ensure!(history.contains("a-operator") && history.contains("opening"), "{history}");
    Ok(())
}
