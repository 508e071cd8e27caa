//! Is it there, and which version is it?

use ballast_proto::admin::v1::{GetNodeStatusRequest, NodeStatus};
use serde::Serialize;

use super::{Done, Run};
use crate::{
    args::{HealthcheckArgs, VersionArgs},
    failure::{Exit, Failure},
    output::Style,
    view::View,
};

/// Whether a node is able to serve.
#[derive(Debug, Serialize)]
struct HealthView {
    node: String,
    ready: bool,
    draining: bool,
    not_ready: Vec<String>,
}

impl View for HealthView {
    fn text(&self, _: Style) -> String {
        let Self { node, not_ready, .. } = self;
        match (self.ready, not_ready.is_empty()) {
            (true, _) => format!("{node} is ready\n"),
            (false, true) => format!("{node} is not ready\n"),
            (false, false) => format!("{node} is not ready: {}\n", not_ready.join("; ")),
        }
    }
}

/// Versions of this program and of the node.
#[derive(Debug, Serialize)]
struct VersionView {
    client: &'static str,
    api: &'static str,
    server: Option<String>,
    node: Option<String>,
}

impl View for VersionView {
    fn text(&self, _: Style) -> String {
        let mut text = format!("ballastctl {} ({})\n", self.client, self.api);
        if let (Some(server), Some(node)) = (&self.server, &self.node) {
            text.push_str(&format!("ballastd   {server} ({node})\n"));
        }
        text
    }
}

/// Whatever is wrong, a health check ends with 1: container runtimes reserve other codes.
pub(super) async fn check(run: &mut Run<'_>, args: HealthcheckArgs) -> Done {
    match own_status(run).await {
        Ok(status) => {
            let view = HealthView {
                node: status.node.unwrap_or_default().name,
                ready: status.ready,
                draining: status.draining,
                not_ready: status.not_ready,
            };
            run.screen.show(&view)?;
            Ok(if view.ready || args.live { Exit::Done } else { Exit::Error })
        }
        Err(failure) => {
            run.screen.fail(&failure);
            Ok(Exit::Error)
        }
    }
}

pub(super) async fn version(run: &mut Run<'_>, args: VersionArgs) -> Done {
    let mut view = VersionView { client: env!("CARGO_PKG_VERSION"), api: "ballast.admin.v1", server: None, node: None };
    if !args.client && run.knows_a_server() {
        match own_status(run).await {
            Ok(status) => {
                view.server = Some(status.version);
                view.node = status.node.map(|node| node.name);
            }
            Err(failure) => run.screen.warn(&format!("no node says its version: {}", failure.message())),
        }
    }
    run.screen.show(&view)?;
    Ok(Exit::Done)
}

/// What the node that is asked says of itself. Works without a quorum.
async fn own_status(run: &Run<'_>) -> Result<NodeStatus, Failure> {
    let client = run.client().await?;
    let request = GetNodeStatusRequest { state_hash_index: None };
    let response = client.read(client.cluster().get_node_status(client.request(request))).await?;
    Ok(response.node.unwrap_or_default())
}
