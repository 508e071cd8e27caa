//! VIPs: who holds them, and where operators want them.

use std::time::{Duration, Instant};

use ballast_core::{
    ids::{LogIndex, NodeId},
    state::{Command, State},
};
use ballast_proto::admin::v1::{
    Fitness, ListVipTransitionsRequest, ListVipTransitionsResponse, ListVipsRequest, ListVipsResponse, MoveVipRequest,
    MoveVipResponse, Node, NodeStatus, PlanFailoverRequest, PlanFailoverResponse, WatchVipsRequest, WatchVipsResponse,
    vip_service_server::VipService,
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::{
    Shared,
    failover::NODE_TIMEOUT,
    watch::{Found, History, Streamed, watch},
};
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    view::{self, Page},
};

/// How long `wait` waits when the caller does not say. A planned move takes milliseconds.
const WAIT_DEFAULT: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl VipService for Shared {
    async fn list(&self, request: Request<ListVipsRequest>) -> Result<Response<ListVipsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (header, vips) = self.read_at(&caller, request.into_inner().consistency, view::vips).await?;
        Ok(Response::new(ListVipsResponse { header: Some(header), vips }))
    }

    async fn r#move(&self, request: Request<MoveVipRequest>) -> Result<Response<MoveVipResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let wait = view::duration("wait_timeout", request.wait_timeout)?.unwrap_or(WAIT_DEFAULT);
        let (header, found) = self
            .read_at(&caller, 0, |state| {
                let (vip, before) = view::vip(state, &request.vip)?;
                let found = (vip, state.vip_moved(vip), before);
                if request.node.is_empty() {
                    return Ok::<_, ApiError>((found, None));
                }
                let node = view::find_node(state, &request.node)?;
                view::check_place(state, &request.vip, node)?;
                Ok((found, Some(view::node(state, node))))
            })
            .await?;
        let ((vip, moved, before), node) = found?;
        let to = node.as_ref().map(|node| NodeId::new(node.id));
        if !self.was_answered(&caller, "Move", &request.request_id, request.validate_only)? {
            view::check_etag(&request.etag, &before.etag, &before.name)?;
            if let Some(node) = node {
                self.check_takes(&caller, &before.name, node, before.owner_id).await?;
            }
        }
        if request.validate_only {
            return Ok(Response::new(MoveVipResponse {
                header: Some(header),
                vip: Some(before),
                log_index: 0,
                arrived: false,
            }));
        }
        let expect = (!request.etag.is_empty()).then_some(moved);
        let command = Command::MoveVip { vip, to, author: caller.author(&request.message), expect };
        let proposed = self.propose_once(&caller, "Move", &request.request_id, command).await;
        let index = proposed.map_err(|error| view::overtaken(error, &request.etag, &before.name))?;
        let arrived = match to {
            Some(node) if request.wait => self.wait_for_owner(&caller, &before.name, node, wait).await,
            _ => false,
        };
        let vip = self.read(|state| view::vip(state, &before.name)).map_or(before, |(_, vip)| vip);
        Ok(Response::new(MoveVipResponse {
            header: Some(self.header()),
            vip: Some(vip),
            log_index: index.get(),
            arrived,
        }))
    }

    async fn list_transitions(
        &self,
        request: Request<ListVipTransitionsRequest>,
    ) -> Result<Response<ListVipTransitionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, 50, 500)?;
        let (header, found) = self
            .read_at(&caller, request.consistency, |state| {
                let transitions = view::transitions(state, &request.vip)?;
                Ok::<_, ApiError>(page.cut(transitions, |(place, _)| *place, |(_, transition)| transition))
            })
            .await?;
        let (transitions, next_page_token) = found?;
        Ok(Response::new(ListVipTransitionsResponse { header: Some(header), transitions, next_page_token }))
    }

    type WatchStream = Streamed<WatchVipsResponse>;

    async fn watch(&self, request: Request<WatchVipsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let WatchVipsRequest { from_index, vip } = request.into_inner();
        if !vip.is_empty() {
            self.read(|state| view::vip(state, &vip))?;
        }
        let watched = vip.clone();
        let look = move |state: &State, after: LogIndex| {
            // A name that no VIP ever had was refused above.
            let mut found = view::transitions(state, &vip).unwrap_or_default();
            found.retain(|((index, _), _)| *index > after.get());
            found.reverse();
            let made = found.into_iter().map(|(_, transition)| {
                let transition = Some(transition);
                move |header| WatchVipsResponse { header: Some(header), transition }
            });
            Found { made: made.collect(), until: None }
        };
        let whole_after = move |state: &State| {
            let wanted = state.vips_ever().filter(|(_, name)| watched.is_empty() || *name == watched);
            wanted.filter_map(|(id, _)| state.tenures_whole_after(id)).max()
        };
        Ok(Response::new(watch(self, &caller, from_index, History { look, whole_after })))
    }

    async fn plan_failover(
        &self,
        request: Request<PlanFailoverRequest>,
    ) -> Result<Response<PlanFailoverResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.plan_failover(&caller, &request.into_inner()).await?))
    }
}

impl Shared {
    /// Refuses a node that does not answer, or says that it does not take the VIP from its owner, as a place for it. One
    /// that is drained or dies a moment later is wished for all the same; the lease protocol does without it.
    async fn check_takes(&self, caller: &Caller, vip: &str, node: Node, owner: u64) -> Result<(), ApiError> {
        let (id, name) = (node.id, node.name.clone());
        let status = self.status_of(caller, node).await;
        let refuse = |why: String| {
            error::status(ErrorCode::Precondition, format!("VIP {vip} cannot go to {name}: {why}"), name.as_str())
        };
        if !status.reachable {
            return Err(refuse(format!("it does not answer ({})", status.error))
                .remedy("see who is there: ballastctl cluster status")
                .remedy("bring the node back first, or choose another one"));
        }
        match status.standings.iter().find(|standing| standing.vip == vip) {
            Some(standing) if standing.fitness() == Fitness::Unfit => Err(refuse(standing.fitness_detail.clone())
                .remedy("see what each node says of it: ballastctl vip list -o wide")
                .remedy("mend that first, or choose another node")),
            Some(standing) if standing.fitness() == Fitness::Reluctant && owner != id => {
                let owner = self.read(|state| state.node(NodeId::new(owner)).map(|owner| view::node(state, owner)));
                let Some(owner) = owner else { return Ok(()) };
                let (holds, owner) = (owner.name.clone(), self.status_of(caller, owner).await);
                if !is_better_off(&owner, vip) {
                    return Ok(());
                }
                let why = format!("{}, and {holds}, which holds it, is fit", standing.fitness_detail);
                Err(refuse(why)
                    .remedy("see what each node says of it: ballastctl vip list -o wide")
                    .remedy("mend that first, or choose another node; a drain of the owner moves it all the same"))
            }
            _ => Ok(()),
        }
    }

    async fn status_of(&self, caller: &Caller, node: Node) -> NodeStatus {
        if node.id == self.parts.operations.status().node.get() {
            self.own_status(None)
        } else {
            self.ask_node(node, None, NODE_TIMEOUT.min(caller.remaining())).await
        }
    }

    /// Waits until the log says that a node holds a VIP.
    async fn wait_for_owner(&self, caller: &Caller, vip: &str, node: NodeId, wait: Duration) -> bool {
        let mut applied = self.parts.state.applied();
        let until = (Instant::now() + wait).min(caller.deadline);
        loop {
            applied.borrow_and_update();
            if self.read(|state| view::vip(state, vip)).is_ok_and(|(_, vip)| vip.owner_id == node.get()) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if !matches!(timeout(left, applied.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }
}

/// Whether an owner is fit to hold the VIP, so that it gives it to nobody who had rather not.
fn is_better_off(owner: &NodeStatus, vip: &str) -> bool {
    let standing = owner.standings.iter().find(|standing| standing.vip == vip);
    owner.reachable && standing.is_some_and(|standing| standing.fitness() == Fitness::Fit)
}

#[cfg(test)]
mod tests {
    use ballast_proto::admin::v1::VipStanding;

    use super::*;

    #[test]
    fn an_owner_that_is_fit_and_answers_is_better_off_than_a_reluctant_node() {
        let owner = |fitness: Fitness, reachable| NodeStatus {
            reachable,
            standings: vec![VipStanding { vip: "web".to_owned(), fitness: fitness.into(), ..VipStanding::default() }],
            ..NodeStatus::default()
        };
        assert!(is_better_off(&owner(Fitness::Fit, true), "web"));
        assert!(!is_better_off(&owner(Fitness::Fit, true), "mail"), "it says nothing of that one");
        assert!(!is_better_off(&owner(Fitness::Fit, false), "web"));
        assert!(!is_better_off(&owner(Fitness::Reluctant, true), "web"));
    }
}
