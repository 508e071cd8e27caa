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
    lease::{Ability, Takeover, takeovers},
    state::{Node, NodeAdmin, NodeRole},
};
use ballast_proto::admin::v1::{
    FailoverMove, FailoverPlan, Fitness, NodeStatus, PlanFailoverRequest, PlanFailoverResponse,
};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    node::LeasePicture,
    view,
};

/// How long nodes may take to say how they are.
pub(super) const NODE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of the cluster when a plan is made.
struct Picture {
    leases: LeasePicture,
    names: BTreeMap<NodeId, String>,
    /// Those that hold no VIP whatever happens, with why.
    idle: BTreeMap<NodeId, &'static str>,
    vips: BTreeMap<VipId, String>,
    statuses: BTreeMap<NodeId, NodeStatus>,
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
                let failed: Vec<NodeId> = match request.node.as_str() {
                    "" => state.nodes().filter(|node| node.info.role == NodeRole::Full).map(|node| node.id).collect(),
                    name => vec![view::find_node(state, name)?.id],
                };
                let names: BTreeMap<NodeId, String> =
                    state.nodes().map(|node| (node.id, node.info.name.clone())).collect();
                let idle = state.nodes().filter_map(|node| Some((node.id, idle(node)?))).collect();
                let vips = state.vips().map(|(id, vip)| (id, vip.name.clone())).collect();
                Ok::<_, ApiError>((failed, names, idle, vips))
            })
            .await?;
        let (failed, names, idle, vips) = found?;
        let leases = self.parts.operations.leases().ok_or_else(|| {
            error::status(ErrorCode::Precondition, "this node takes no part in leases yet", "failover")
        })?;
        let statuses = self.ask_nodes(None, NODE_TIMEOUT.min(caller.remaining())).await;
        let by_id = |status: NodeStatus| Some((NodeId::new(status.node.as_ref()?.id), status));
        let picture = Picture { leases, names, idle, vips, statuses: statuses.into_iter().filter_map(by_id).collect() };
        let plans = failed.into_iter().map(|node| picture.plan(node)).collect();
        Ok(PlanFailoverResponse { header: Some(header), plans })
    }
}

/// Why a node holds no VIP and is to hold none, if so.
fn idle(node: &Node) -> Option<&'static str> {
    match (node.info.role, node.admin) {
        (NodeRole::Witness, _) => Some("is a witness"),
        (NodeRole::Full, NodeAdmin::Drain) => Some("is drained"),
        (NodeRole::Full, NodeAdmin::Ready | NodeAdmin::Demoted | NodeAdmin::Promoted) => None,
    }
}

impl Picture {
    fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| format!("node-{node}"))
    }

    fn vip_name(&self, vip: VipId) -> String {
        self.vips.get(&vip).cloned().unwrap_or_else(|| vip.to_string())
    }

    fn answers(&self, node: NodeId) -> bool {
        self.statuses.get(&node).is_some_and(|status| status.reachable)
    }

    /// Whether a node would take a VIP over, by its own account, and what is wrong if not.
    fn ability(&self, node: NodeId, vip: VipId) -> (Ability, String) {
        let Some(status) = self.statuses.get(&node).filter(|status| status.reachable) else {
            return (Ability::Unable, "does not answer".to_owned());
        };
        let name = self.vip_name(vip);
        // A VIP that a node has not heard of yet is judged by the node alone.
        let standing = status.standings.iter().find(|standing| standing.vip == name);
        let (fitness, detail) = standing.map_or((status.fitness(), &status.fitness_detail), |standing| {
            (standing.fitness(), &standing.fitness_detail)
        });
        match fitness {
            Fitness::Fit => (Ability::Able, String::new()),
            Fitness::Reluctant => (Ability::Reluctant, format!("is reluctant: {detail}")),
            Fitness::Unfit => (Ability::Unable, format!("is unfit: {detail}")),
            Fitness::Unspecified => (Ability::Able, String::new()),
        }
    }

    fn plan(&self, failed: NodeId) -> FailoverPlan {
        let LeasePicture { view, owners } = &self.leases;
        let takeovers = takeovers(view, owners, failed, |node, vip| self.ability(node, vip).0);
        let mut warnings = Vec::new();
        // A plan without moves is no sign that all is well when nothing could be there to move.
        if let Some(why) = self.idle.get(&failed).filter(|_| takeovers.is_empty()) {
            warnings.push(format!("{} {why}: it holds no VIP, so its failure moves none", self.name(failed)));
        }
        if !self.answers(failed) {
            let name = self.name(failed);
            warnings.push(format!("{name} does not answer already: what it held may have moved before this plan"));
        }
        // A voter grants while its lease thread runs: also when it drains, or has lost the majority itself.
        let majority = view.voters.quorum(|voter| voter != failed && self.answers(voter));
        if !majority {
            // In the same words for each node, so that they can be shown once.
            warnings.push(
                "without it no majority of the voters is left: no VIP would be held by anybody, not only its own"
                    .to_owned(),
            );
        }
        let takers: BTreeSet<NodeId> = takeovers.iter().filter_map(|takeover| takeover.to).collect();
        if let (1, true, Some(only)) = (takers.len(), takeovers.len() > 1, takers.first()) {
            let able = |node: NodeId| {
                node != failed
                    && takeovers.iter().any(|takeover| {
                        takeover.order.contains(&node) && self.ability(node, takeover.vip).0 == Ability::Able
                    })
            };
            let could = view.nodes.iter().filter(|node| able(node.id)).count();
            let rest = if could > 1 { "although others could hold some" } else { "the only one left that can" };
            warnings.push(format!("all {} VIPs would go to {}, {rest}", takeovers.len(), self.name(*only)));
        }
        let moves = takeovers.into_iter().map(|takeover| self.describe(takeover, majority)).collect();
        FailoverPlan { node_id: failed.get(), node_name: self.name(failed), moves, warnings }
    }

    fn describe(&self, takeover: Takeover, majority: bool) -> FailoverMove {
        let Takeover { vip, to, reason, order, clashes } = takeover;
        let mut warnings = Vec::new();
        for node in &order {
            let (ability, what) = self.ability(*node, vip);
            if Some(*node) == to {
                if ability == Ability::Reluctant {
                    warnings.push(format!("{} {what}", self.name(*node)));
                }
                break;
            }
            warnings.push(format!("{} comes first and {what}", self.name(*node)));
        }
        let clashes = clashes.into_iter().map(|other| {
            format!("it would be at the same node as {}, which it is to be apart from", self.vip_name(other))
        });
        warnings.extend(clashes);
        let to = to.filter(|_| majority);
        let reason = match to {
            Some(_) => reason.as_str().to_owned(),
            None if !majority => "no majority of the voters would be left to grant it".to_owned(),
            None if order.is_empty() => "no other node may hold it".to_owned(),
            None => "no other node that may hold it is able to".to_owned(),
        };
        FailoverMove {
            vip: self.vip_name(vip),
            to_id: to.map_or(0, NodeId::get),
            to_name: to.map_or_else(String::new, |node| self.name(node)),
            reason,
            order: order.into_iter().map(|node| self.name(node)).collect(),
            warnings,
        }
    }
}
