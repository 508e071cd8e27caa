//! What would become of the VIPs if a node failed now.
//!
//! The ranking comes from the log and is the one that a real takeover uses ([`ballast_core::lease::takeovers`]). What
//! the log cannot know is asked of the nodes: who does not answer, is draining or has lost the cluster asks for no VIP.
//! The answer is about this moment; it promises nothing about the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ballast_core::{
    ids::{NodeId, VipId},
    lease::{Takeover, takeovers},
    state::NodeRole,
};
use ballast_proto::admin::v1::{FailoverMove, FailoverPlan, NodeStatus, PlanFailoverRequest, PlanFailoverResponse};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    node::LeasePicture,
    view,
};

/// How long nodes may take to say how they are.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);

/// A node whose state was confirmed longer ago asks for no VIP.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

/// What is known of the cluster when a plan is made.
struct Picture {
    leases: LeasePicture,
    names: BTreeMap<NodeId, String>,
    vips: BTreeMap<VipId, String>,
    /// Why a node would not ask, by its own account or silence.
    unable: BTreeMap<NodeId, Unable>,
}

/// Why a node would not ask for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unable {
    Silent,
    Draining,
    Isolated,
}

impl Unable {
    fn of(status: &NodeStatus) -> Option<(NodeId, Self)> {
        let node = NodeId::new(status.node.as_ref()?.id);
        let confirmed = status.confirmed_age.as_ref().and_then(|age| Duration::try_from(*age).ok());
        let why = if !status.reachable {
            Self::Silent
        } else if status.draining {
            Self::Draining
        } else if confirmed.is_none_or(|age| age > CONFIRMED_WITHIN) {
            Self::Isolated
        } else {
            return None;
        };
        Some((node, why))
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "does not answer",
            Self::Draining => "is draining",
            Self::Isolated => "has lost the majority",
        }
    }
}

impl Shared {
    /// Plans for one node, or for each that can hold VIPs.
    pub(super) async fn plan_failover(
        &self,
        caller: &Caller,
        request: &PlanFailoverRequest,
    ) -> Result<PlanFailoverResponse, ApiError> {
        let (header, found) = self
            .read_at(caller, request.consistency, |state| {
                let failed = match request.node.as_str() {
                    "" => state.nodes().filter(|node| node.info.role == NodeRole::Full).map(|node| node.id).collect(),
                    name => vec![view::find_node(state, name)?.id],
                };
                let names: BTreeMap<NodeId, String> =
                    state.nodes().map(|node| (node.id, node.info.name.clone())).collect();
                let vips = state.vips().map(|(id, vip)| (id, vip.name.clone())).collect();
                Ok::<_, ApiError>((failed, names, vips))
            })
            .await?;
        let (failed, names, vips) = found?;
        let leases = self.parts.operations.leases().ok_or_else(|| {
            error::status(ErrorCode::Precondition, "this node takes no part in leases yet", "failover")
        })?;
        let statuses = self.ask_nodes(None, NODE_TIMEOUT.min(caller.remaining())).await;
        let unable = statuses.iter().filter_map(Unable::of).collect();
        let picture = Picture { leases, names, vips, unable };
        let plans = failed.into_iter().map(|node| picture.plan(node)).collect();
        Ok(PlanFailoverResponse { header: Some(header), plans })
    }
}

impl Picture {
    fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| format!("node-{node}"))
    }

    fn plan(&self, failed: NodeId) -> FailoverPlan {
        let LeasePicture { view, owners } = &self.leases;
        let able = |node| !self.unable.contains_key(&node);
        let takeovers = takeovers(view, owners, failed, able);
        let mut warnings = Vec::new();
        // A voter grants while its lease thread runs: also when it drains, or has lost the majority itself.
        let answering = |voter: NodeId| voter != failed && self.unable.get(&voter) != Some(&Unable::Silent);
        let majority = view.voters.quorum(answering);
        if !majority {
            warnings.push(format!(
                "without {} no majority of the voters is left: no VIP would be held by anybody, not only its own",
                self.name(failed)
            ));
        }
        let takers: BTreeSet<NodeId> = takeovers.iter().filter_map(|takeover| takeover.to).collect();
        let could = view.nodes.iter().filter(|node| node.candidate && node.id != failed && able(node.id)).count();
        if let (1, true, Some(only)) = (takers.len(), takeovers.len() > 1, takers.first()) {
            let rest = if could > 1 { "although others could hold some" } else { "the only one left that can" };
            warnings.push(format!("all {} VIPs would go to {}, {rest}", takeovers.len(), self.name(*only)));
        }
        let moves = takeovers.into_iter().map(|takeover| self.describe(takeover, majority)).collect();
        FailoverPlan { node_id: failed.get(), node_name: self.name(failed), moves, warnings }
    }

    fn describe(&self, takeover: Takeover, majority: bool) -> FailoverMove {
        let Takeover { vip, to, reason, order } = takeover;
        let mut warnings: Vec<String> = order
            .iter()
            .take_while(|node| Some(**node) != to)
            .filter_map(|node| {
                Some(format!("{} comes first and {}", self.name(*node), self.unable.get(node)?.as_str()))
            })
            .collect();
        let to = to.filter(|_| majority);
        let reason = match to {
            Some(_) => reason.as_str().to_owned(),
            None if !majority => "no majority of the voters would be left to grant it".to_owned(),
            None if order.is_empty() => "no other node may hold it".to_owned(),
            None => "no other node that may hold it is able to".to_owned(),
        };
        if to.is_none() {
            warnings.push("nobody would take it over".to_owned());
        }
        FailoverMove {
            vip: self.vips.get(&vip).cloned().unwrap_or_else(|| vip.to_string()),
            to_id: to.map_or(0, NodeId::get),
            to_name: to.map_or_else(String::new, |node| self.name(node)),
            reason,
            order: order.into_iter().map(|node| self.name(node)).collect(),
            warnings,
        }
    }
}
