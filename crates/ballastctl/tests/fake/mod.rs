//! A node that answers with what a test gave it, and remembers what it was asked.
//!
//! Plays the part of the API only: one revision counter, one document text, canned lists.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use ballast_proto::{
    admin::v1::{
        self as proto,
        backend_service_server::{BackendService, BackendServiceServer},
        certificate_service_server::{CertificateService, CertificateServiceServer},
        cluster_service_server::{ClusterService, ClusterServiceServer},
        config_service_server::{ConfigService, ConfigServiceServer},
        session_service_server::{SessionService, SessionServiceServer},
        vip_service_server::{VipService, VipServiceServer},
    },
    google_rpc,
};
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{
    Stream,
    wrappers::{TcpListenerStream, UnixListenerStream},
};
use tonic::{Code, Request, Response, Status, transport::server::Connected};

/// What the node knows and was asked.
#[derive(Default)]
pub struct State {
    /// Revision in force.
    pub revision: u64,
    /// Its text.
    pub source: String,
    /// Applies that arrived, refused ones too.
    pub applies: Vec<proto::ApplyRequest>,
    /// What every apply is answered with, when it is to be refused.
    pub refuse: Option<Status>,
    /// An apply is never answered.
    pub hang: bool,
    /// Revisions that the nodes serve, one for each later look; the last one stays.
    pub serving: Vec<u64>,
    /// What node-1 says that it cannot bind.
    pub listener_problems: Vec<proto::ListenerProblem>,
    /// Names of the VIPs that are configured.
    pub vips: Vec<&'static str>,
    /// How node-1 stands to them.
    pub standings: Vec<proto::VipStanding>,
    /// How often the nodes are still to be asked before node-1 holds all of them; never when absent.
    pub held_after: Option<usize>,
    /// What the drain of a backend was asked with.
    pub drained: Option<proto::DrainBackendRequest>,
    /// What a move of a VIP was asked with.
    pub moved: Option<proto::MoveVipRequest>,
    /// What every move of a VIP to a node is answered with, when it is to be refused.
    pub refuse_moves: Option<Status>,
    /// What is wrong with the cluster.
    pub troubles: Vec<proto::Trouble>,
    /// How often the status is still to be asked before nothing is wrong; never when absent.
    pub well_after: Option<usize>,
    /// The node says that it is ready.
    pub ready: bool,
    /// What a revocation was asked with.
    pub revoked: Option<proto::RevokeUserRequest>,
    /// What keys of the session store were asked for with, page by page.
    pub keys_asked: Vec<proto::ListSessionKeysRequest>,
    /// What the deletion of a session was asked with.
    pub session_deleted: Option<proto::DeleteSessionKeyRequest>,
    /// What flushes were asked with, rehearsals too.
    pub flushes: Vec<proto::FlushKeyspaceRequest>,
    /// Log indexes from which the configuration was watched.
    pub watched_from: Vec<Option<u64>>,
}

/// A running fake.
pub struct Fake {
    state: Arc<Mutex<State>>,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
}

impl Fake {
    /// Starts one on a unix socket.
    pub fn start(state: State) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let listener = UnixListener::bind(folder.path().join("admin.sock")).expect("socket");
        Self::serve(state, folder, UnixListenerStream::new(listener))
    }

    /// Starts one on a TCP port of this machine, which is returned too. Handshakes that fail are
    /// forgotten.
    pub async fn start_tls(state: State, config: rustls::ServerConfig) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let incoming = TcpListenerStream::new(listener).filter_map(move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream.ok()?).await.ok().map(Ok::<_, std::io::Error>) }
        });
        (Self::serve(state, tempfile::tempdir().expect("folder"), incoming), port)
    }

    fn serve<I, IO, E>(state: State, folder: tempfile::TempDir, incoming: I) -> Self
    where
        I: Stream<Item = Result<IO, E>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        E: Into<tonic::codegen::StdError> + Send + 'static,
    {
        let state = Arc::new(Mutex::new(state));
        let node = Node(state.clone());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(ConfigServiceServer::new(node.clone()))
                .add_service(ClusterServiceServer::new(node.clone()))
                .add_service(BackendServiceServer::new(node.clone()))
                .add_service(VipServiceServer::new(node.clone()))
                .add_service(SessionServiceServer::new(node.clone()))
                .add_service(CertificateServiceServer::new(node))
                .serve_with_incoming_shutdown(incoming, async {
                    let _ = stopped.await;
                })
                .await
                .expect("the fake serves");
        });
        Self { state, folder, stop: Some(stop), served: Some(served) }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// A file in its folder.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// What it knows and was asked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    /// Ends it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(served) = self.served.take() {
            served.await.expect("the fake ends");
        }
    }
}

/// An error as the API makes it.
pub fn refusal(code: Code, message: &str, detail: &proto::ErrorDetail) -> Status {
    let any = prost_types::Any {
        type_url: "type.googleapis.com/ballast.admin.v1.ErrorDetail".to_owned(),
        value: detail.encode_to_vec(),
    };
    let packed = google_rpc::Status { code: code as i32, message: message.to_owned(), details: vec![any] };
    Status::with_details(code, message, packed.encode_to_vec().into())
}

#[derive(Clone)]
struct Node(Arc<Mutex<State>>);

impl Node {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked with it")
    }

    fn revision(&self, revision: u64) -> proto::Revision {
        let state = self.state();
        proto::Revision {
            revision,
            etag: format!("r{revision}"),
            change: Some(proto::Change {
                log_index: 10 * revision,
                log_time: None,
                author: "alice".to_owned(),
                message: format!("change {revision}"),
            }),
            source: state.source.clone(),
            document_json: "{}".to_owned(),
            in_force: revision == state.revision,
        }
    }
}

fn header() -> Option<proto::ResponseHeader> {
    Some(proto::ResponseHeader { node_id: 1, node_name: "node-1".to_owned(), ..proto::ResponseHeader::default() })
}

fn not_played<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the fake does not play this"))
}

type Streamed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ConfigService for Node {
    type WatchStream = Streamed<proto::WatchConfigResponse>;

    async fn apply(&self, request: Request<proto::ApplyRequest>) -> Answer<proto::ApplyResponse> {
        let request = request.into_inner();
        let hang = {
            let mut state = self.state();
            state.applies.push(request.clone());
            state.hang
        };
        if hang {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if let Some(status) = &state.refuse {
            return Err(status.clone());
        }
        if let Some(expected) = request.expect_revision.filter(|expected| *expected != state.revision) {
            let detail = proto::ErrorDetail {
                conflict: Some(proto::ConfigDiff {
                    from_revision: expected,
                    to_revision: state.revision,
                    changes: vec![proto::ConfigChange {
                        kind: proto::config_change::Kind::Changed.into(),
                        path: "farms/shop/services/site/backends/web1/weight".to_owned(),
                        before: "100".to_owned(),
                        after: "50".to_owned(),
                    }],
                    unified: "-weight: 100\n+weight: 50\n".to_owned(),
                    made_by: Some(proto::Change {
                        author: "bob".to_owned(),
                        message: "less for web1".to_owned(),
                        ..proto::Change::default()
                    }),
                }),
                ..proto::ErrorDetail::default()
            };
            let message = format!("revision {expected} was expected but {} is in force", state.revision);
            return Err(refusal(Code::Aborted, &message, &detail));
        }
        let changed = state.source != request.source;
        if changed && !request.validate_only {
            state.revision += 1;
            state.source = request.source;
        }
        Ok(Response::new(proto::ApplyResponse {
            header: header(),
            revision: state.revision,
            changed,
            ..Default::default()
        }))
    }

    async fn validate(&self, request: Request<proto::ValidateRequest>) -> Answer<proto::ValidateResponse> {
        let mistake = proto::Mistake {
            severity: proto::mistake::Severity::Error.into(),
            path: "farms[0].name".to_owned(),
            line: 2,
            column: 3,
            problem: "it has no name".to_owned(),
            remedy: "give it one".to_owned(),
            ..proto::Mistake::default()
        };
        let source = request.into_inner().source;
        let valid = !source.contains("nameless");
        let mistakes_omitted = if source.contains("many") { 40 } else { 0 };
        let mistakes = if valid { Vec::new() } else { vec![mistake.clone(), proto::Mistake { line: 4, ..mistake }] };
        Ok(Response::new(proto::ValidateResponse { header: header(), valid, mistakes, mistakes_omitted }))
    }

    async fn diff(&self, request: Request<proto::DiffRequest>) -> Answer<proto::DiffResponse> {
        let mut diff = proto::ConfigDiff::default();
        if let Some(proto::diff_request::To::Source(source)) = request.into_inner().to
            && source != self.state().source
        {
            diff.unified = "-old\n+new\n".to_owned();
            diff.changes = vec![proto::ConfigChange {
                kind: proto::config_change::Kind::Added.into(),
                path: "vips/public".to_owned(),
                ..proto::ConfigChange::default()
            }];
        }
        Ok(Response::new(proto::DiffResponse { header: header(), diff: Some(diff), warnings: Vec::new() }))
    }

    async fn get(&self, _: Request<proto::GetConfigRequest>) -> Answer<proto::GetConfigResponse> {
        let revision = self.state().revision;
        let revision = (revision > 0).then(|| self.revision(revision));
        Ok(Response::new(proto::GetConfigResponse { header: header(), revision, operator_state: None }))
    }

    async fn export(&self, request: Request<proto::ExportRequest>) -> Answer<proto::ExportResponse> {
        let state = self.state();
        let text = match request.into_inner().format() {
            proto::export_request::Format::Json => "{\"version\":1}".to_owned(),
            proto::export_request::Format::Yaml => "version: 1 # all defaults\n".to_owned(),
            _ => state.source.clone(),
        };
        Ok(Response::new(proto::ExportResponse { header: header(), revision: state.revision, text }))
    }

    /// Two revisions a page, whatever is asked for.
    async fn list_revisions(
        &self,
        request: Request<proto::ListRevisionsRequest>,
    ) -> Answer<proto::ListRevisionsResponse> {
        let request = request.into_inner();
        let newest: u64 = request.page_token.parse().unwrap_or(self.state().revision);
        let count = u64::from(request.page_size.min(2));
        let oldest = newest.saturating_sub(count);
        let revisions = (oldest + 1..=newest).rev().map(|revision| self.revision(revision)).collect();
        let next_page_token = if oldest > 0 { oldest.to_string() } else { String::new() };
        Ok(Response::new(proto::ListRevisionsResponse { header: header(), revisions, next_page_token }))
    }

    async fn get_revision(&self, request: Request<proto::GetRevisionRequest>) -> Answer<proto::GetRevisionResponse> {
        let wanted = request.into_inner().revision;
        if wanted > self.state().revision {
            return Err(Status::not_found(format!("there is no revision {wanted}")));
        }
        Ok(Response::new(proto::GetRevisionResponse { header: header(), revision: Some(self.revision(wanted)) }))
    }

    async fn rollback(&self, _: Request<proto::RollbackRequest>) -> Answer<proto::ApplyResponse> {
        not_played()
    }

    /// One revision after the other; the stream breaks once after the first.
    async fn watch(&self, request: Request<proto::WatchConfigRequest>) -> Answer<Self::WatchStream> {
        let from = request.into_inner().from_index;
        let first_time = {
            let mut state = self.state();
            state.watched_from.push(from);
            state.watched_from.len() == 1
        };
        let newest = self.state().revision;
        let after = from.unwrap_or(0);
        let mut messages: Vec<Result<_, Status>> = (1..=newest)
            .map(|revision| self.revision(revision))
            .filter(|revision| revision.change.as_ref().is_some_and(|change| change.log_index > after))
            .map(|revision| Ok(proto::WatchConfigResponse { header: header(), revision: Some(revision), diff: None }))
            .collect();
        if first_time {
            messages.truncate(1);
            messages.push(Err(Status::unavailable("this node is stopping")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}

#[tonic::async_trait]
impl ClusterService for Node {
    async fn status(&self, _: Request<proto::StatusRequest>) -> Answer<proto::StatusResponse> {
        let serving = {
            let mut state = self.state();
            if state.serving.len() > 1 { state.serving.remove(0) } else { state.serving.first().copied().unwrap_or(0) }
        };
        let node = |id: u64, reachable: bool, role: proto::NodeRole| proto::NodeStatus {
            node: Some(proto::Node { id, name: format!("node-{id}"), role: role.into(), ..proto::Node::default() }),
            reachable,
            error: if reachable { String::new() } else { "connection refused".to_owned() },
            serving_revision: serving,
            ..proto::NodeStatus::default()
        };
        let mut witness = node(4, true, proto::NodeRole::Witness);
        witness.serving_revision = 0;
        let mut first = node(1, true, proto::NodeRole::Full);
        let mut state = self.state();
        first.listener_problems = state.listener_problems.clone();
        first.standings = state.standings.clone();
        if state.held_after == Some(0) {
            let held = |vip: &&str| proto::HeldVip { vip: (*vip).to_owned(), ..proto::HeldVip::default() };
            first.vips = state.vips.iter().map(held).collect();
        }
        state.held_after = state.held_after.map(|looks| looks.saturating_sub(1));
        let vips = state.vips.iter().map(|name| proto::Vip { name: (*name).to_owned(), ..vip() }).collect();
        let nodes = vec![first, node(2, false, proto::NodeRole::Full), witness];
        let troubles = if state.well_after == Some(0) { Vec::new() } else { state.troubles.clone() };
        state.well_after = state.well_after.map(|looks| looks.saturating_sub(1));
        Ok(Response::new(proto::StatusResponse { header: header(), nodes, vips, troubles, ..Default::default() }))
    }

    async fn get_node_status(&self, _: Request<proto::GetNodeStatusRequest>) -> Answer<proto::GetNodeStatusResponse> {
        let ready = self.state().ready;
        let node = proto::NodeStatus {
            node: Some(proto::Node { id: 1, name: "node-1".to_owned(), ..proto::Node::default() }),
            ready,
            not_ready: if ready { Vec::new() } else { vec!["it is catching up".to_owned()] },
            version: "0.1.0".to_owned(),
            ..proto::NodeStatus::default()
        };
        Ok(Response::new(proto::GetNodeStatusResponse { header: header(), node: Some(node) }))
    }

    async fn list_nodes(&self, _: Request<proto::ListNodesRequest>) -> Answer<proto::ListNodesResponse> {
        not_played()
    }

    async fn create_join_token(
        &self,
        _: Request<proto::CreateJoinTokenRequest>,
    ) -> Answer<proto::CreateJoinTokenResponse> {
        let token = "blst1.secret".to_owned();
        Ok(Response::new(proto::CreateJoinTokenResponse { header: header(), token, expire_time: None }))
    }

    async fn drain_node(&self, _: Request<proto::DrainNodeRequest>) -> Answer<proto::NodeChangeResponse> {
        not_played()
    }

    async fn enable_node(&self, _: Request<proto::EnableNodeRequest>) -> Answer<proto::NodeChangeResponse> {
        not_played()
    }

    async fn promote_node(&self, _: Request<proto::PromoteNodeRequest>) -> Answer<proto::NodeChangeResponse> {
        not_played()
    }

    async fn demote_node(&self, _: Request<proto::DemoteNodeRequest>) -> Answer<proto::NodeChangeResponse> {
        not_played()
    }

    async fn remove_node(&self, _: Request<proto::RemoveNodeRequest>) -> Answer<proto::NodeChangeResponse> {
        Err(Status::permission_denied("viewer may not remove nodes; that takes the role admin"))
    }

    async fn transfer_leader(&self, _: Request<proto::TransferLeaderRequest>) -> Answer<proto::TransferLeaderResponse> {
        not_played()
    }

    async fn rotate_cookie_key(
        &self,
        _: Request<proto::RotateCookieKeyRequest>,
    ) -> Answer<proto::RotateCookieKeyResponse> {
        not_played()
    }

    async fn snapshot(&self, _: Request<proto::SnapshotRequest>) -> Answer<proto::SnapshotResponse> {
        not_played()
    }
}

#[tonic::async_trait]
impl BackendService for Node {
    async fn list(&self, _: Request<proto::ListBackendsRequest>) -> Answer<proto::ListBackendsResponse> {
        not_played()
    }

    async fn get(&self, _: Request<proto::GetBackendRequest>) -> Answer<proto::GetBackendResponse> {
        not_played()
    }

    async fn drain(&self, request: Request<proto::DrainBackendRequest>) -> Answer<proto::BackendChangeResponse> {
        let request = request.into_inner();
        let mut names = request.name.split('/').map(str::to_owned);
        let mut next = || names.next().unwrap_or_default();
        let backend = proto::Backend {
            name: request.name.clone(),
            farm: next(),
            service: next(),
            backend: next(),
            admin: proto::BackendAdmin::Drain.into(),
            bindings: 3,
            ..proto::Backend::default()
        };
        self.state().drained = Some(request);
        Ok(Response::new(proto::BackendChangeResponse { header: header(), backend: Some(backend), log_index: 7 }))
    }

    async fn enable(&self, _: Request<proto::EnableBackendRequest>) -> Answer<proto::BackendChangeResponse> {
        not_played()
    }

    async fn maintenance(&self, _: Request<proto::MaintenanceBackendRequest>) -> Answer<proto::BackendChangeResponse> {
        not_played()
    }

    async fn set_weight(&self, _: Request<proto::SetBackendWeightRequest>) -> Answer<proto::BackendChangeResponse> {
        not_played()
    }
}

#[tonic::async_trait]
impl VipService for Node {
    type WatchStream = Streamed<proto::WatchVipsResponse>;

    async fn list(&self, _: Request<proto::ListVipsRequest>) -> Answer<proto::ListVipsResponse> {
        Ok(Response::new(proto::ListVipsResponse { header: header(), vips: vec![vip()] }))
    }

    async fn r#move(&self, request: Request<proto::MoveVipRequest>) -> Answer<proto::MoveVipResponse> {
        let request = request.into_inner();
        let mut state = self.state();
        if let Some(status) = state.refuse_moves.clone().filter(|_| !request.node.is_empty()) {
            return Err(status);
        }
        if !request.validate_only {
            state.moved = Some(request);
        }
        Ok(Response::new(proto::MoveVipResponse { header: header(), vip: Some(vip()), log_index: 7, arrived: false }))
    }

    async fn list_transitions(
        &self,
        request: Request<proto::ListVipTransitionsRequest>,
    ) -> Answer<proto::ListVipTransitionsResponse> {
        // One that is configured no longer.
        let transition = proto::VipTransition {
            vip: "gone".to_owned(),
            owner_id: 5,
            removed: true,
            ..proto::VipTransition::default()
        };
        let transitions = Some(transition).filter(|told| request.into_inner().vip == told.vip).into_iter().collect();
        let next_page_token = String::new();
        Ok(Response::new(proto::ListVipTransitionsResponse { header: header(), transitions, next_page_token }))
    }

    async fn watch(&self, request: Request<proto::WatchVipsRequest>) -> Answer<Self::WatchStream> {
        // Two entries, and then the node ends the stream.
        let from = request.into_inner().from_index.unwrap_or(0);
        let message = |index| proto::WatchVipsResponse {
            header: header(),
            transition: Some(proto::VipTransition {
                vip: "public".to_owned(),
                owner_id: 2,
                owner_name: "node-2".to_owned(),
                epoch: 9,
                cause: "node-1 handed it over".to_owned(),
                change: Some(proto::Change { log_index: index, ..proto::Change::default() }),
                removed: false,
            }),
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(message(from + 1)), Ok(message(from + 2))]))))
    }

    async fn plan_failover(&self, _: Request<proto::PlanFailoverRequest>) -> Answer<proto::PlanFailoverResponse> {
        let step = |vip: &str, to: &str| proto::FailoverMove {
            vip: vip.to_owned(),
            to_id: u64::from(!to.is_empty()) * 2,
            to_name: to.to_owned(),
            reason: "even spread".to_owned(),
            ..proto::FailoverMove::default()
        };
        let plan = proto::FailoverPlan {
            node_id: 1,
            node_name: "node-1".to_owned(),
            moves: vec![step("public", "node-2"), step("lonely", "")],
            warnings: vec!["all would go to one".to_owned()],
        };
        Ok(Response::new(proto::PlanFailoverResponse { header: header(), plans: vec![plan] }))
    }
}

/// Keys that the fake has.
const KEYS: usize = 3;

#[tonic::async_trait]
impl SessionService for Node {
    async fn list_keyspaces(&self, _: Request<proto::ListKeyspacesRequest>) -> Answer<proto::ListKeyspacesResponse> {
        not_played()
    }

    /// One key a page, whatever is asked for: its name says which.
    async fn list_keys(
        &self,
        request: Request<proto::ListSessionKeysRequest>,
    ) -> Answer<proto::ListSessionKeysResponse> {
        let request = request.into_inner();
        let at: usize = request.page_token.parse().unwrap_or(0);
        self.state().keys_asked.push(request);
        let next_page_token = if at + 1 < KEYS { (at + 1).to_string() } else { String::new() };
        let keys = vec![session(at)];
        let total_size = KEYS as u64;
        Ok(Response::new(proto::ListSessionKeysResponse { header: header(), keys, next_page_token, total_size }))
    }

    async fn top_keys(&self, request: Request<proto::TopSessionKeysRequest>) -> Answer<proto::TopSessionKeysResponse> {
        let limit = request.into_inner().limit as usize;
        let keys = (0..KEYS).rev().take(limit).map(session).collect();
        Ok(Response::new(proto::TopSessionKeysResponse { header: header(), keys, total_size: 3, total_bytes: 603 }))
    }

    async fn get_key(&self, request: Request<proto::GetSessionKeyRequest>) -> Answer<proto::GetSessionKeyResponse> {
        let proto::GetSessionKeyRequest { key, value, .. } = request.into_inner();
        let value = value
            .then(|| proto::SessionValue { value: Some(proto::session_value::Value::Text(b"user|i:7;\xff".to_vec())) });
        let key = Some(proto::SessionKey { key, ..session(0) });
        Ok(Response::new(proto::GetSessionKeyResponse { header: header(), key, value }))
    }

    async fn delete_key(
        &self,
        request: Request<proto::DeleteSessionKeyRequest>,
    ) -> Answer<proto::DeleteSessionKeyResponse> {
        self.state().session_deleted = Some(request.into_inner());
        let key = Some(session(0));
        Ok(Response::new(proto::DeleteSessionKeyResponse { header: header(), key, log_index: 7 }))
    }

    async fn stats(&self, _: Request<proto::SessionStatsRequest>) -> Answer<proto::SessionStatsResponse> {
        not_played()
    }

    async fn flush(&self, request: Request<proto::FlushKeyspaceRequest>) -> Answer<proto::FlushKeyspaceResponse> {
        let request = request.into_inner();
        let (keyspace, log_index) = (request.keyspace.clone(), if request.validate_only { 0 } else { 7 });
        self.state().flushes.push(request);
        Ok(Response::new(proto::FlushKeyspaceResponse { header: header(), keyspace, keys: 3, log_index }))
    }
}

fn session(at: usize) -> proto::SessionKey {
    proto::SessionKey {
        key: format!("sess:{at}\0").into_bytes(),
        key_hash: "00000000000000ab".to_owned(),
        r#type: "string".to_owned(),
        bytes: 200 + at as u64,
        length: 72,
        ..proto::SessionKey::default()
    }
}

fn vip() -> proto::Vip {
    proto::Vip {
        name: "public".to_owned(),
        addresses: vec!["127.0.100.1".to_owned()],
        owner_id: 1,
        owner_name: "node-1".to_owned(),
        ..proto::Vip::default()
    }
}

fn eves(revoked: bool) -> proto::UserCertificate {
    proto::UserCertificate {
        name: "eve".to_owned(),
        role: "viewer".to_owned(),
        fingerprint: "0123456789abcdef".repeat(4),
        expire_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
        issued: Some(proto::Change { author: "ann".to_owned(), ..proto::Change::default() }),
        revoked: revoked.then(proto::Change::default),
    }
}

#[tonic::async_trait]
impl CertificateService for Node {
    async fn issue_user(&self, request: Request<proto::IssueUserRequest>) -> Answer<proto::IssueCertificateResponse> {
        let request = request.into_inner();
        if !request.csr_pem.contains("CERTIFICATE REQUEST") {
            return Err(Status::invalid_argument("no signing request"));
        }
        Ok(Response::new(proto::IssueCertificateResponse {
            header: header(),
            certificate_pem: format!("certificate of {} as {}", request.name, request.role),
            ca_certificate_pem: "the CA".to_owned(),
            fingerprint: eves(false).fingerprint,
            not_after: eves(false).expire_time,
        }))
    }

    async fn renew_node(&self, _: Request<proto::RenewNodeRequest>) -> Answer<proto::IssueCertificateResponse> {
        Err(Status::unimplemented("for nodes"))
    }

    async fn list_users(&self, _: Request<proto::ListUsersRequest>) -> Answer<proto::ListUsersResponse> {
        let certificates = vec![eves(self.state().revoked.is_some())];
        Ok(Response::new(proto::ListUsersResponse { header: header(), certificates }))
    }

    async fn revoke_user(&self, request: Request<proto::RevokeUserRequest>) -> Answer<proto::RevokeUserResponse> {
        let request = request.into_inner();
        let certificates = vec![eves(!request.validate_only)];
        self.state().revoked = Some(request);
        Ok(Response::new(proto::RevokeUserResponse { header: header(), certificates, log_index: 9 }))
    }
}
