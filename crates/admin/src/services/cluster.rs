//! The cluster: its nodes, and how they are.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use ballast_core::{
    ids::{LogIndex, NodeId},
    lease::Unfitness,
    state::{self, Command, NodeAdmin, NodeRole, State},
    time::LogTime,
};
use ballast_proto::admin::v1::{
    self as proto, CreateJoinTokenRequest, CreateJoinTokenResponse, DemoteNodeRequest, DrainNodeRequest,
    EnableNodeRequest, GetNodeStatusRequest, GetNodeStatusResponse, HeldVip, ListNodesRequest, ListNodesResponse, Node,
    NodeChangeResponse, NodeStatus, PromoteNodeRequest, RemoveNodeRequest, RotateCookieKeyRequest,
    RotateCookieKeyResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vip, cluster_service_client::ClusterServiceClient, cluster_service_server::ClusterService,
};
use ballast_telemetry::trace;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status, metadata::MetadataValue, transport::Channel};

use super::{
    Shared,
    shared::check_request_id,
    troubles::{Agreed, judge},
};
use crate::{
    access::{Caller, ON_BEHALF_OF},
    error::{self, ApiError, ErrorCode},
    node::{LocalStatus, OperationError},
    pki::{JoinToken, TokenSecret, random_secret},
    view,
};

/// How long a node has to say how it is.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is agreed is on each disk that takes entries after so long. Far above a sync on a disk that is busy.
const DISK_PATIENCE: Duration = Duration::from_secs(2);

/// How often nodes are asked meanwhile.
const DISK_LOOK: Duration = Duration::from_millis(100);

/// Life of a join token when the caller does not say.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Longest life of a join token: a secret that lies about for longer is found.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A lag below this is normal while entries are being written.
pub(super) const LAG_NORMAL: u64 = 10_000;

/// What is to be changed of a node.
struct Change {
    method: &'static str,
    node: String,
    admin: NodeAdmin,
    request_id: String,
    message: String,
    validate_only: bool,
    etag: String,
}

#[tonic::async_trait]
impl ClusterService for Shared {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let node_timeout = view::duration("node_timeout", request.node_timeout)?.unwrap_or(NODE_TIMEOUT);
        let (header, (vips, voters_wanted, lease)) = self
            .read_at(&caller, request.consistency, |state| {
                let (voters, lease) = state.document().map_or_else(
                    || {
                        let default = ballast_core::config::Cluster::default();
                        (default.voters, default.lease)
                    },
                    |document| (document.cluster.voters, document.cluster.lease),
                );
                (view::vips(state), voters, lease)
            })
            .await?;
        let hash_index = self.parts.operations.state_hash(None).map(|(index, _)| index);
        let nodes = self.ask_nodes(hash_index, node_timeout.min(caller.remaining())).await;
        let local = self.parts.operations.status();
        let vips = with_holders(vips, &nodes);
        let applied = LogIndex::new(header.applied_index);
        let agreed = Agreed { applied, voters_wanted: u32::from(voters_wanted), lease };
        let (health, troubles) = judge(&local, &nodes, &vips, agreed, SystemTime::now());
        Ok(Response::new(StatusResponse {
            header: Some(header),
            health: health.into(),
            problems: troubles.iter().map(|trouble| trouble.problem.clone()).collect(),
            troubles,
            leader_id: local.leader.map_or(0, NodeId::get),
            term: local.term,
            voters: local.voters.iter().map(|node| node.get()).collect(),
            learners: local.learners.iter().map(|node| node.get()).collect(),
            quorum: u32::try_from(local.voters.len() / 2 + 1).unwrap_or(u32::MAX),
            nodes,
            vips,
            voters_wanted: u32::from(voters_wanted),
        }))
    }

    async fn get_node_status(
        &self,
        request: Request<GetNodeStatusRequest>,
    ) -> Result<Response<GetNodeStatusResponse>, Status> {
        let at = request.into_inner().state_hash_index.map(LogIndex::new);
        Ok(Response::new(GetNodeStatusResponse { header: Some(self.header()), node: Some(self.own_status(at)) }))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (header, nodes) = self.read_at(&caller, request.into_inner().consistency, view::nodes).await?;
        Ok(Response::new(ListNodesResponse { header: Some(header), nodes }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.make_token(&caller, request.into_inner()).await?))
    }

    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Result<Response<NodeChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let DrainNodeRequest { node, request_id, message, validate_only, etag } = request.into_inner();
        let admin = NodeAdmin::Drain;
        let change = Change { method: "DrainNode", node, admin, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_node(&caller, change).await?))
    }

    async fn enable_node(&self, request: Request<EnableNodeRequest>) -> Result<Response<NodeChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let EnableNodeRequest { node, request_id, message, validate_only, etag } = request.into_inner();
        let admin = NodeAdmin::Ready;
        let change = Change { method: "EnableNode", node, admin, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_node(&caller, change).await?))
    }

    async fn promote_node(&self, request: Request<PromoteNodeRequest>) -> Result<Response<NodeChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let PromoteNodeRequest { node, request_id, message, validate_only, etag } = request.into_inner();
        let admin = NodeAdmin::Promoted;
        let change = Change { method: "PromoteNode", node, admin, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_node(&caller, change).await?))
    }

    async fn demote_node(&self, request: Request<DemoteNodeRequest>) -> Result<Response<NodeChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let DemoteNodeRequest { node, request_id, message, validate_only, etag } = request.into_inner();
        let admin = NodeAdmin::Demoted;
        let change = Change { method: "DemoteNode", node, admin, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_node(&caller, change).await?))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Result<Response<NodeChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.remove(&caller, request.into_inner()).await?))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let local = self.parts.operations.status();
        match local.leader {
            Some(leader) if leader == local.node => Ok(Response::new(self.hand_over(&caller, &local, &request).await?)),
            Some(leader) if caller.node.is_none() => {
                let mut client = self.client_of(leader)?;
                client.transfer_leader(passed_on(&caller, request)).await
            }
            // A node passed it on to us although we do not lead: the leadership just moved.
            Some(_) | None => {
                Err(error::status(ErrorCode::NoQuorum, "no leader is known here right now", "leadership").into())
            }
        }
    }

    async fn rotate_cookie_key(
        &self,
        request: Request<RotateCookieKeyRequest>,
    ) -> Result<Response<RotateCookieKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let RotateCookieKeyRequest { request_id, message } = request.into_inner();
        let secret = random_secret().into();
        let command = Command::RotateCookieKey { secret, author: caller.author(&message) };
        let index = self.propose_once(&caller, "RotateCookieKey", &request_id, command).await?;
        Ok(Response::new(RotateCookieKeyResponse { header: Some(self.header()), log_index: index.get() }))
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<SnapshotResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let own = self.parts.operations.status().node;
        let wanted = match request.node.as_str() {
            "" => own,
            name => self.read(|state| view::find_node(state, name).map(|node| node.id))?,
        };
        if wanted != own {
            return self.client_of(wanted)?.snapshot(passed_on(&caller, request)).await;
        }
        let made = self.parts.operations.snapshot(caller.remaining()).await.map_err(operation)?;
        Ok(Response::new(SnapshotResponse {
            header: Some(self.header()),
            node_id: own.get(),
            snapshot_index: made.index.get(),
            size_bytes: made.bytes.unwrap_or(0),
        }))
    }
}

impl Shared {
    /// Asks every member how it is; those that do not answer in time are there with the reason.
    pub(super) async fn ask_nodes(&self, hash_index: Option<LogIndex>, wait: Duration) -> Vec<NodeStatus> {
        let members = self.read(view::nodes);
        self.parts.peers.retain(|known| members.iter().any(|member| member.id == known.get()));
        let own = self.parts.operations.status().node;
        let asked = members.into_iter().map(|member| async move {
            if member.id == own.get() {
                self.own_status(hash_index)
            } else {
                self.ask_node(member, hash_index, wait).await
            }
        });
        let mut nodes = join_all(asked).await;
        let furthest = nodes.iter().map(|node| node.last_log_index.max(node.applied_index)).max().unwrap_or(0);
        for node in nodes.iter_mut().filter(|node| node.reachable) {
            node.lag = furthest.saturating_sub(node.applied_index);
        }
        nodes
    }

    pub(super) async fn ask_node(&self, member: Node, hash_index: Option<LogIndex>, wait: Duration) -> NodeStatus {
        let mut client =
            ClusterServiceClient::new(self.parts.peers.channel(NodeId::new(member.id), &member.admin_address));
        let mut request = Request::new(GetNodeStatusRequest { state_hash_index: hash_index.map(LogIndex::get) });
        request.set_timeout(wait);
        let error = match timeout(wait, client.get_node_status(request)).await {
            Ok(Ok(answer)) => match answer.into_inner().node {
                Some(status) => return NodeStatus { node: Some(member), reachable: true, ..status },
                None => "it answered without its status".to_owned(),
            },
            Ok(Err(status)) => format!("{}: {}", member.admin_address, chain(&status)),
            Err(_) => format!("{}: no answer within {wait:?}", member.admin_address),
        };
        NodeStatus { node: Some(member), reachable: false, error, ..NodeStatus::default() }
    }

    pub(super) fn own_status(&self, hash_index: Option<LogIndex>) -> NodeStatus {
        let local = self.parts.operations.status();
        let hash = hash_index.and_then(|at| self.parts.operations.state_hash(Some(at)));
        self.read(|state| describe(state, &local, hash))
    }

    fn client_of(&self, node: NodeId) -> Result<ClusterServiceClient<Channel>, ApiError> {
        let address = self.read(|state| state.node(node).map(|node| node.info.admin_address.clone()));
        let address = address
            .ok_or_else(|| error::status(ErrorCode::NodeFailed, format!("node {node} is not a member"), "node"))?;
        Ok(ClusterServiceClient::new(self.parts.peers.channel(node, &address)))
    }

    async fn change_node(&self, caller: &Caller, change: Change) -> Result<NodeChangeResponse, ApiError> {
        let (header, found) = self
            .read_at(caller, 0, |state| {
                let node = view::find_node(state, &change.node)?;
                Ok::<_, ApiError>((node.id, node.seen(), view::node(state, node)))
            })
            .await?;
        let (id, seen, before) = found?;
        let admin = seen.admin;
        if !self.was_answered(caller, change.method, &change.request_id, change.validate_only)? {
            view::check_etag(&change.etag, &before.etag, &before.name)?;
            self.check_change(&before, admin, change.admin).await?;
        }
        let notes = notes(&self.parts.operations.status(), id, admin, change.admin);
        if change.validate_only {
            return Ok(NodeChangeResponse { header: Some(header), node: Some(before), log_index: 0, notes });
        }
        let expect = (!change.etag.is_empty()).then(|| Box::new(seen));
        let author = caller.author(&change.message);
        let command = Command::SetNode { node: id, admin: change.admin, author, expect };
        let proposed = self.propose_once(caller, change.method, &change.request_id, command).await;
        let index = proposed.map_err(|error| view::overtaken(error, &change.etag, &before.name))?;
        let after = self.read(|state| state.node(id).map(|node| view::node(state, node)));
        Ok(NodeChangeResponse {
            header: Some(self.header()),
            node: after.or(Some(before)),
            log_index: index.get(),
            notes,
        })
    }

    /// Refuses what the node as it is does not allow.
    async fn check_change(&self, node: &Node, before: NodeAdmin, after: NodeAdmin) -> Result<(), ApiError> {
        let name = &node.name;
        if before == NodeAdmin::Drain && matches!(after, NodeAdmin::Demoted | NodeAdmin::Promoted) {
            let message =
                format!("node {name} is drained, and this would end it: it would get VIPs and new work again");
            return Err(error::status(ErrorCode::Precondition, message, name)
                .remedy(format!("end the drain first: `ballastctl node enable {name}`"))
                .remedy("to take its vote and drain it, demote it first and drain it then: it gets no vote back until it is enabled"));
        }
        if after == NodeAdmin::Demoted && before != after {
            self.check_majority_without(NodeId::new(node.id), name).await?;
        }
        Ok(())
    }

    /// Refuses to take the vote of a node without which the voters that are left have no majority that answers and takes entries:
    /// nothing could be decided any more, and the change not be undone. A learner that does, and has the log, takes its vote
    /// and counts.
    pub(super) async fn check_majority_without(&self, id: NodeId, name: &str) -> Result<(), ApiError> {
        let local = self.parts.operations.status();
        // About the last node the state machine says what there is to say.
        if !local.voters.contains(&id) || self.read(|state| state.nodes().count()) == 1 {
            return Ok(());
        }
        let mut nodes = self.ask_nodes(None, NODE_TIMEOUT).await;
        let agreed = nodes.iter().map(|status| status.committed_index).max().unwrap_or(0);
        let until = Instant::now() + DISK_PATIENCE;
        // Only disks are waited for: a node whose disk hangs answers all the same.
        while majority_without(id, &local.voters, &nodes, agreed).is_err()
            && majority_without(id, &local.voters, &nodes, 0).is_ok()
            && Instant::now() < until
        {
            sleep(DISK_LOOK).await;
            nodes = self.ask_nodes(None, NODE_TIMEOUT).await;
        }
        let Err(missing) = majority_without(id, &local.voters, &nodes, agreed) else { return Ok(()) };
        if local.voters.len() == 1 {
            let message =
                format!("no node can take the vote of {name}, the only voter: nothing could be decided ever after");
            return Err(error::status(ErrorCode::Precondition, message, name)
                .remedy("wait until another node answers and has caught up: `ballastctl cluster status`")
                .remedy("one that is drained or demoted takes no vote before `ballastctl node enable`"));
        }
        if missing.is_empty() {
            let message = format!(
                "another voter was removed a moment ago and has its vote still; without {name} too there is no majority"
            );
            return Err(error::status(ErrorCode::Precondition, message, name).remedy("try again in a moment"));
        }
        let (wanted, see) = if missing.iter().any(|status| status.reachable) {
            ("answers and has on disk what is agreed", " (see why the disk takes nothing if it answers)")
        } else {
            ("answers", "")
        };
        let missing = missing.into_iter().map(name_of).collect::<Vec<_>>().join(" and ");
        let message = format!("without {name} no majority of the voters {wanted}: {missing} does not");
        Err(error::status(ErrorCode::Precondition, message, name).remedy(format!(
            "bring {missing} back{see}, or remove what is gone for good first: `ballastctl node remove {missing}`"
        )))
    }

    pub(super) async fn answers(&self, node: &Node) -> bool {
        node.id == self.parts.operations.status().node.get()
            || self.ask_node(node.clone(), None, NODE_TIMEOUT).await.reachable
    }

    async fn hand_over(
        &self,
        caller: &Caller,
        local: &LocalStatus,
        request: &TransferLeaderRequest,
    ) -> Result<TransferLeaderResponse, ApiError> {
        let to = match request.node.as_str() {
            "" => self.most_suitable(local).await?,
            name => self.read(|state| view::find_node(state, name).map(|node| node.id))?,
        };
        if !local.voters.contains(&to) {
            let message = format!("node {to} is not a voter and cannot lead");
            return Err(error::status(ErrorCode::Precondition, message, "leadership"));
        }
        if to != local.node {
            tracing::info!(author = %caller.name, message = request.message, %to, "handing the leadership over");
            self.parts.operations.transfer_leader(to, caller.remaining()).await.map_err(operation)?;
        }
        Ok(TransferLeaderResponse { header: Some(self.header()), from_node_id: local.node.get(), to_node_id: to.get() })
    }

    /// The voter that is furthest and holds the fewest VIPs, so that one crash seldom takes the
    /// leader and a VIP both.
    async fn most_suitable(&self, local: &LocalStatus) -> Result<NodeId, ApiError> {
        let nodes = self.ask_nodes(None, NODE_TIMEOUT).await;
        let candidates = nodes.iter().filter(|status| {
            status.reachable && !status.draining && id_of(status) != local.node && local.voters.contains(&id_of(status))
        });
        candidates
            .min_by_key(|status| (status.lag > LAG_NORMAL, status.vips.len(), status.lag, id_of(status)))
            .map(id_of)
            .ok_or_else(|| error::status(ErrorCode::Precondition, "no other voter answers", "leadership"))
    }

    async fn make_token(
        &self,
        caller: &Caller,
        request: CreateJoinTokenRequest,
    ) -> Result<CreateJoinTokenResponse, ApiError> {
        check_request_id(&request.request_id)?;
        let life = view::duration("ttl", request.ttl)?.unwrap_or(TOKEN_LIFE);
        if life < Duration::from_secs(1) || life > TOKEN_LIFE_MAX {
            return Err(error::invalid("ttl", "it is not between 1 second and 7 days", "leave it out for one hour"));
        }
        let role = view::role_from(request.role)?;
        let pin = self.authority()?.pin();
        let request_id =
            if request.request_id.is_empty() { uuid::Uuid::new_v4().to_string() } else { request.request_id };
        let (_, now) = self.read_at(caller, 0, State::log_time).await?;
        let mut refused = None;
        if self.token_of(caller, &request_id).is_none() {
            let expires = now.plus_millis(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
            let hash = self.token_secret(caller, &request_id, expires).hash();
            let author = caller.author(&request.message);
            refused = self.propose(caller, Command::CreateJoinToken { hash, expires, role, author }).await.err();
        }
        // Other tries may have been on their way, and have come first: all get the one that did, also of one log time.
        let (secret, made) = self.token_of(caller, &request_id).ok_or_else(|| {
            let lost = "the token was made and is not in the agreed state";
            refused.unwrap_or_else(|| error::status(ErrorCode::Internal, lost, "join token"))
        })?;
        check_token(&made, role, now)?;
        let own = self.parts.operations.status().node;
        let addresses = self.read(|state| join_addresses(state, own));
        let token = JoinToken { addresses, pin, secret };
        let text = token.to_text().map_err(|e| error::status(ErrorCode::Precondition, e.to_string(), "join token"))?;
        Ok(CreateJoinTokenResponse {
            header: Some(self.header()),
            token: text,
            expire_time: Some(view::timestamp(made.expires)),
        })
    }

    /// The token that was made for a request, if it is known still; of several the one that came to the log first.
    fn token_of(&self, caller: &Caller, request_id: &str) -> Option<(TokenSecret, state::JoinToken)> {
        let tokens = self.read(|state| state.join_tokens().to_vec());
        tokens.into_iter().find_map(|token| {
            let secret = self.token_secret(caller, request_id, token.expires);
            (secret.hash() == token.hash).then_some((secret, token))
        })
    }

    /// The secret of a request's token, the same on every node, without being kept anywhere. The token's end is part of
    /// it: an id that comes again once its token is forgotten must not make the old secret good again.
    fn token_secret(&self, caller: &Caller, request_id: &str, expires: LogTime) -> TokenSecret {
        let input = format!("{}\n{request_id}\n{}", caller.name, expires.as_millis());
        TokenSecret::from_bytes(self.parts.cluster_key.derive("ballast join token", input.as_bytes()))
    }
}

/// Refuses the token of an earlier try where it is of no use, or for another role than is asked for now.
fn check_token(made: &state::JoinToken, role: NodeRole, now: LogTime) -> Result<(), ApiError> {
    if made.role != role {
        let remedy = "use another id for each token, and the same one only to ask for the same token again";
        return Err(error::invalid("request_id", "it came with another role before", remedy));
    }
    let useless = match made.used_by {
        Some(node) => format!("was used already, by node {node}"),
        None if now >= made.expires => "has expired".to_owned(),
        None => return Ok(()),
    };
    let message = format!("the token of this request {useless}");
    Err(error::status(ErrorCode::Precondition, message, "join token").remedy("ask with another request id"))
}

/// Where a new node can enrol: this node first, then the others, as many as a token carries.
fn join_addresses(state: &State, own: NodeId) -> Vec<String> {
    let mut nodes: Vec<_> = state.nodes().collect();
    nodes.sort_by_key(|node| (node.id != own, node.id));
    nodes.iter().map(|node| node.info.admin_address.clone()).take(8).collect()
}

/// A call that another node carries out for the caller.
fn passed_on<T>(caller: &Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(caller.remaining());
    // Names are checked when a certificate is made; one that does not fit a header is left out,
    // and the node that passes it on stands in the history instead.
    if let Ok(name) = MetadataValue::try_from(&*caller.name) {
        request.metadata_mut().insert(ON_BEHALF_OF, name);
    }
    if let Some(trace) = trace::current().and_then(|trace| MetadataValue::try_from(trace).ok()) {
        request.metadata_mut().insert(trace::TRACEPARENT, trace);
    }
    request
}

fn operation(failed: OperationError) -> ApiError {
    error::status(ErrorCode::NodeFailed, failed.to_string(), "node")
}

/// An error with its causes: what tonic says alone is "transport error".
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Whether the voters without `id`, and a learner that can take its vote, have a majority that answers and has the log on disk
/// up to `synced`. A voter that was removed and has its vote still is none of `nodes`, and is not counted on.
///
/// # Errors
/// The voters that do not; none if all do but those that were removed, or if no other votes.
fn majority_without<'a>(
    id: NodeId,
    voters: &BTreeSet<NodeId>,
    nodes: &'a [NodeStatus],
    synced: u64,
) -> Result<(), Vec<&'a NodeStatus>> {
    let left = voters.iter().filter(|voter| **voter != id).count();
    let others = nodes.iter().filter(|status| id_of(status) != id);
    let (voters, learners): (Vec<_>, Vec<_>) = others.partition(|status| voters.contains(&id_of(status)));
    // A node of an older version does not say what is on its disk.
    let counts = |status: &NodeStatus| status.reachable && status.synced_index.is_none_or(|index| index >= synced);
    let may_vote = |status: &&NodeStatus| {
        let kept_from_it = |admin| matches!(admin, proto::NodeAdmin::Demoted | proto::NodeAdmin::Drain);
        let kept_from_it = status.node.as_ref().is_some_and(|node| kept_from_it(node.admin()));
        counts(status) && status.lag <= LAG_NORMAL && !kept_from_it
    };
    let heir = usize::from(learners.iter().any(may_vote));
    let (counting, missing): (Vec<_>, Vec<_>) = voters.into_iter().partition(|status| counts(status));
    if (counting.len() + heir) * 2 > left + heir { Ok(()) } else { Err(missing) }
}

pub(super) fn id_of(status: &NodeStatus) -> NodeId {
    NodeId::new(status.node.as_ref().map_or(0, |node| node.id))
}

/// What the operator calls it.
pub(super) fn name_of(status: &NodeStatus) -> &str {
    status.node.as_ref().map_or("", |node| &node.name)
}

fn describe(state: &State, local: &LocalStatus, hash: Option<(LogIndex, String)>) -> NodeStatus {
    let (state_hash_index, state_hash) = hash.map_or((0, String::new()), |(index, hash)| (index.get(), hash));
    let vip_name = |id| state.vips().find(|(known, _)| *known == id).map(|(_, vip)| vip.name.clone());
    NodeStatus {
        node: state.node(local.node).map(|node| view::node(state, node)),
        reachable: true,
        error: String::new(),
        voter: local.voters.contains(&local.node),
        leader: local.leader == Some(local.node),
        term: local.term,
        leader_id: local.leader.map_or(0, NodeId::get),
        last_log_index: local.last_log.get(),
        synced_index: Some(local.synced.get()),
        committed_index: local.committed.get(),
        applied_index: local.applied.get(),
        lag: 0,
        snapshot_index: local.snapshot.get(),
        purged_index: local.purged.get(),
        state_hash,
        state_hash_index,
        serving_revision: local.serving.get(),
        listener_problems: local
            .listener_problems
            .iter()
            .map(|problem| view::listener_problem(state, problem))
            .collect(),
        vips: local
            .held
            .iter()
            .map(|held| HeldVip {
                vip: vip_name(held.vip).unwrap_or_else(|| held.vip.to_string()),
                epoch: held.epoch,
                remaining: prost_types::Duration::try_from(held.remaining).ok(),
            })
            .collect(),
        ready: local.not_ready.is_empty(),
        not_ready: local.not_ready.clone(),
        draining: local.draining,
        start_time: Some(local.started.into()),
        certificate_not_after: Some(local.certificate_not_after.into()),
        confirmed_age: local.confirmed_age.and_then(|age| prost_types::Duration::try_from(age).ok()),
        connections: local.connections,
        lease_wake_late: measured(local.lease_wake_late),
        lease_renew: measured(local.lease_renew),
        version: local.version.clone(),
        fitness: view::fitness(local.fitness).into(),
        fitness_reason: local.fitness.trouble().map_or("", Unfitness::name).to_owned(),
        fitness_detail: local.fitness.trouble().map(|what| what.to_string()).unwrap_or_default(),
        standings: local.standings.iter().filter_map(|status| view::standing(state, status, local)).collect(),
        fence: local.fence.unwrap_or_default().to_owned(),
    }
}

fn measured(figure: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(figure).ok().filter(|_| !figure.is_zero())
}

fn with_holders(mut vips: Vec<Vip>, nodes: &[NodeStatus]) -> Vec<Vip> {
    for vip in &mut vips {
        let holder = nodes.iter().find(|node| node.vips.iter().any(|held| held.vip == vip.name));
        vip.held_by = holder.and_then(|node| node.node.as_ref()).map_or(0, |node| node.id);
    }
    vips
}

fn notes(local: &LocalStatus, node: NodeId, before: NodeAdmin, after: NodeAdmin) -> Vec<String> {
    let voter = local.voters.contains(&node);
    // A node has one wish at a time: what this one ends.
    let ends = match (before, after) {
        (NodeAdmin::Demoted, NodeAdmin::Drain) if voter => {
            Some("this ends its demotion, which was not carried out yet: it keeps its vote")
        }
        (NodeAdmin::Demoted, NodeAdmin::Drain) => {
            Some("this ends its demotion: it gets no vote while it is drained, and may get one once it is enabled")
        }
        (NodeAdmin::Promoted, NodeAdmin::Drain) => Some("this ends its promotion"),
        _ => None,
    };
    match after {
        _ if before == after => vec!["it is so already".to_owned()],
        NodeAdmin::Drain => {
            let drains = "its VIPs move to other nodes; it takes no new work until it is enabled";
            std::iter::once(drains).chain(ends).map(str::to_owned).collect()
        }
        NodeAdmin::Demoted if voter => vec!["it is a voter; a learner takes its vote when there is one".to_owned()],
        NodeAdmin::Promoted if !voter => {
            vec!["it becomes a voter once it has caught up, in the place of another".to_owned()]
        }
        NodeAdmin::Ready | NodeAdmin::Demoted | NodeAdmin::Promoted => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, reachable: bool, lag: u64, admin: proto::NodeAdmin) -> NodeStatus {
        let node = Node { id, name: format!("node-{id}"), admin: admin.into(), ..Node::default() };
        NodeStatus { node: Some(node), reachable, lag, ..NodeStatus::default() }
    }

    #[test]
    fn a_vote_may_go_if_those_that_are_left_and_a_learner_with_the_log_can_decide() {
        let here = |id| node(id, true, 0, proto::NodeAdmin::Ready);
        let gone = |id| node(id, false, 0, proto::NodeAdmin::Ready);
        let three = BTreeSet::from([1, 2, 3].map(NodeId::new));
        let without_three = |nodes: &[NodeStatus]| {
            let missing = majority_without(NodeId::new(3), &three, nodes, 100);
            missing.map_err(|missing| missing.into_iter().map(name_of).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(without_three(&[here(1), here(2), here(3)]), Ok(()));
        assert_eq!(without_three(&[here(1), gone(2), here(3)]), Err("node-2".to_owned()));
        assert_eq!(without_three(&[here(1), gone(2), here(3), here(4)]), Ok(()));
        // 2 was removed, and has its vote still.
        assert_eq!(without_three(&[here(1), here(3)]), Err(String::new()));
        assert_eq!(without_three(&[here(1), here(3), here(4)]), Ok(()));
        let behind = node(4, true, LAG_NORMAL + 1, proto::NodeAdmin::Ready);
        for learner in [gone(4), behind, node(4, true, 0, proto::NodeAdmin::Demoted)] {
            assert_eq!(without_three(&[here(1), gone(2), here(3), learner]), Err("node-2".to_owned()));
        }
    }

    #[test]
    fn a_node_whose_disk_takes_nothing_is_not_counted_on_to_decide() {
        let has = |id, index| NodeStatus { synced_index: index, ..node(id, true, 0, proto::NodeAdmin::Ready) };
        let three = BTreeSet::from([1, 2, 3].map(NodeId::new));
        let without_three = |nodes: &[NodeStatus]| {
            let missing = majority_without(NodeId::new(3), &three, nodes, 100);
            missing.map_err(|missing| missing.into_iter().map(id_of).map(NodeId::get).collect::<Vec<_>>())
        };
        let (first, third) = (has(1, Some(101)), has(3, Some(100)));
        assert_eq!(without_three(&[first.clone(), has(2, Some(100)), third.clone()]), Ok(()));
        assert_eq!(without_three(&[first.clone(), has(2, Some(99)), third.clone()]), Err(vec![2]));
        assert_eq!(without_three(&[has(1, Some(7)), has(2, Some(99)), third.clone()]), Err(vec![1, 2]));
        assert_eq!(without_three(&[first.clone(), has(2, None), third.clone()]), Ok(()), "an older one does not say");
        assert_eq!(without_three(&[first.clone(), has(2, Some(99)), third.clone(), has(4, Some(100))]), Ok(()));
        assert_eq!(without_three(&[first, has(2, Some(99)), third, has(4, Some(99))]), Err(vec![2]));
    }

    #[test]
    fn the_only_vote_may_go_if_a_learner_can_take_it() {
        let only = BTreeSet::from([NodeId::new(1)]);
        let here = |id| node(id, true, 0, proto::NodeAdmin::Ready);
        assert_eq!(majority_without(NodeId::new(1), &only, &[here(1), here(2)], 100), Ok(()));
        for learner in [
            node(2, false, 0, proto::NodeAdmin::Ready),
            node(2, true, LAG_NORMAL + 1, proto::NodeAdmin::Ready),
            node(2, true, 0, proto::NodeAdmin::Drain),
            node(2, true, 0, proto::NodeAdmin::Demoted),
        ] {
            assert_eq!(majority_without(NodeId::new(1), &only, &[here(1), learner], 100), Err(Vec::new()));
        }
    }
}
