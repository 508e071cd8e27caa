//! The API as a client meets it: sockets, TLS, roles.

use std::{io, net::SocketAddr, sync::Arc, time::SystemTime};

use ballast_core::{
    ids::NodeId,
    state::{Author, Command},
};
use ballast_proto::admin::v1::{
    ApplyRequest, CreateJoinTokenRequest, EnrolRequest, GetConfigRequest, GetNodeStatusRequest, ListNodesRequest,
    NodeInfo, StatusRequest, WatchConfigRequest, cluster_service_client::ClusterServiceClient,
    config_service_client::ConfigServiceClient, enrol_service_client::EnrolServiceClient,
};
use futures_util::{FutureExt as _, future::select_all};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket, UnixListener},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Fake, SHOP, fake, refused};
use crate::{
    client::Target,
    pki::{self, Authority, CERTIFICATE_LIFE_USER, Credentials, JoinToken, Key, UserRole, server_name},
    serve::{HANDSHAKES_MAX, STRANGERS_MAX, ServeError, serve_tls, serve_unix},
    services::ENROL_BYTES_MAX,
};

/// A fake cluster behind a real socket.
struct Served {
    fake: Arc<Fake>,
    address: String,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    async fn start() -> Self {
        let fake = Fake::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        fake.apply(Command::UpdateNode { node: NodeId::new(1), info: fake::info("node-1", &address) });
        let services = fake.services();
        let tls = Arc::new(pki::admin_server(&fake.credentials).expect("TLS"));
        let cluster_id = fake.authority.cluster_id().to_owned();
        let task =
            tokio::spawn(serve_tls(services.routes, services.access, listener, cluster_id, tls, fake.stop.clone()));
        Self { fake, address, task }
    }

    fn user(&self, role: UserRole) -> Channel {
        let name = "eve".parse().expect("a name");
        let credentials =
            self.fake.authority.issue_user(&name, role, SystemTime::now(), CERTIFICATE_LIFE_USER).expect("credentials");
        self.with(&credentials)
    }

    fn with(&self, credentials: &Credentials) -> Channel {
        let config = Arc::new(pki::user_client(credentials).expect("TLS"));
        let name = server_name(credentials.cluster_id(), None);
        Target::Tls { address: self.address.clone(), config, name }.channel()
    }

    async fn stop(self) {
        self.fake.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }
}

fn apply() -> ApplyRequest {
    ApplyRequest { source: SHOP.to_owned(), ..ApplyRequest::default() }
}

#[tokio::test]
async fn roles_are_asked_for_and_the_certificates_name_stands_in_the_history() {
    let served = Served::start().await;
    let mut viewer = ConfigServiceClient::new(served.user(UserRole::Viewer));
    let detail = refused(viewer.apply(apply()).await, Code::PermissionDenied, "BALLAST-A014");
    assert!(detail.subject.ends_with("/Apply"));
    let mut operator = ConfigServiceClient::new(served.user(UserRole::Operator));
    operator.apply(apply()).await.expect("applied");
    let got = viewer.get(GetConfigRequest::default()).await.expect("got").into_inner();
    assert_eq!(got.revision.expect("a revision").change.expect("who").author, "eve");
    let mut operator = ClusterServiceClient::new(served.user(UserRole::Operator));
    let token = operator.create_join_token(CreateJoinTokenRequest::default()).await;
    refused(token, Code::PermissionDenied, "BALLAST-A014");
    served.stop().await;
}

#[tokio::test]
async fn a_conflict_reaches_its_client_however_much_has_changed() {
    let served = Served::start().await;
    let mut client = ConfigServiceClient::new(served.user(UserRole::Operator));
    client.apply(apply()).await.expect("applied");
    let line = |n: usize| format!("          - {{ name: more{n}, address: \"10.0.0.{n}:80\" }}\n");
    let (more, first): (String, _) = ((1..=250).map(line).collect(), "          - { name: web1,");
    let source = SHOP.replace(first, &format!("{more}{first}"));
    client.apply(ApplyRequest { source, ..ApplyRequest::default() }).await.expect("applied");
    let late = ApplyRequest { expect_revision: Some(1), ..apply() };
    let detail = refused(client.apply(late).await, Code::Aborted, "BALLAST-A003");
    let conflict = detail.conflict.expect("what changed");
    assert!(!conflict.changes.is_empty() && conflict.unified.is_empty(), "{conflict:?}");
    assert_eq!((conflict.to_revision, conflict.made_by.expect("who").author.as_str()), (2, "eve"));
    let see = "`ballastctl diff --from 1 --to 2`";
    assert!(detail.remedies.iter().any(|remedy| remedy.contains(see)), "{:?}", detail.remedies);
    served.stop().await;
}

fn revoke(served: &Served, credentials: &Credentials) {
    let (fingerprints, names, author) = (vec![credentials.fingerprint()], Vec::new(), Author::default());
    served.fake.apply(Command::RevokeUsers { fingerprints, author, names });
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_streams_end() {
    let served = Served::start().await;
    let name = "eve".parse().expect("a name");
    let authority = &served.fake.authority;
    let credentials =
        authority.issue_user(&name, UserRole::Admin, SystemTime::now(), CERTIFICATE_LIFE_USER).expect("credentials");
    let mut eve = ConfigServiceClient::new(served.with(&credentials));
    eve.apply(apply()).await.expect("applied");
    let request = WatchConfigRequest { from_index: Some(0), include_source: false };
    let mut stream = eve.watch(request).await.expect("a stream").into_inner();
    stream.message().await.expect("no error").expect("a revision");
    revoke(&served, &credentials);
    let ended = stream.message().await.expect_err("the stream ends");
    assert_eq!(ended.code(), Code::Unauthenticated);
    refused(eve.get(GetConfigRequest::default()).await, Code::Unauthenticated, "BALLAST-A022");
    let mut other = ConfigServiceClient::new(served.user(UserRole::Viewer));
    other.get(GetConfigRequest::default()).await.expect("another certificate of the same name is accepted");
    served.stop().await;
}

#[tokio::test]
async fn a_revoked_certificate_with_another_signature_is_refused_too() {
    let served = Served::start().await;
    let name = "eve".parse().expect("a name");
    let authority = &served.fake.authority;
    let credentials =
        authority.issue_user(&name, UserRole::Admin, SystemTime::now(), CERTIFICATE_LIFE_USER).expect("credentials");
    let mut eve = ConfigServiceClient::new(served.with(&pki::tests::resigned(&credentials)));
    eve.apply(apply()).await.expect("the other signature verifies");
    revoke(&served, &credentials);
    refused(eve.get(GetConfigRequest::default()).await, Code::Unauthenticated, "BALLAST-A022");
    served.stop().await;
}

#[tokio::test]
async fn a_machine_joins_with_a_token_and_nothing_else() {
    let served = Served::start().await;
    let mut admin = ClusterServiceClient::new(served.user(UserRole::Admin));
    let token = admin.create_join_token(CreateJoinTokenRequest::default()).await.expect("a token").into_inner().token;
    let token: JoinToken = token.parse().expect("our own token");
    assert_eq!(token.addresses, std::slice::from_ref(&served.address));

    let config = Arc::new(pki::joining_client(token.pin).expect("TLS"));
    let name = server_name("unknown", None);
    let channel = Target::Tls { address: token.addresses[0].clone(), config, name }.connect().await.expect("connected");
    let nothing_else = ClusterServiceClient::new(channel.clone()).list_nodes(ListNodesRequest::default()).await;
    refused(nothing_else, Code::Unauthenticated, "BALLAST-A013");
    let key = Key::generate().expect("a key");
    let request = EnrolRequest {
        token_secret: token.secret.as_bytes().to_vec(),
        csr_pem: key.request().expect("a request"),
        node: Some(NodeInfo {
            name: "node-2".to_owned(),
            cluster_address: "127.0.0.1:2".to_owned(),
            admin_address: "127.0.0.1:3".to_owned(),
            ..NodeInfo::default()
        }),
    };
    let answer = EnrolServiceClient::new(channel).enrol(request).await.expect("enrolled").into_inner();
    let credentials =
        Credentials::new(&answer.certificate_pem, &answer.ca_certificate_pem, &key.to_pem()).expect("credentials");
    let mut node = ClusterServiceClient::new(served.with(&credentials));
    let status = node.get_node_status(GetNodeStatusRequest::default()).await.expect("a node may ask").into_inner();
    assert_eq!(status.node.expect("a status").node.expect("who").name, "node-1");
    let id = NodeId::new(answer.node_id);
    served.fake.apply(Command::RemoveNode { node: id, author: Default::default(), lease_secret: None, expect: None });
    let removed = node.get_node_status(GetNodeStatusRequest::default()).await;
    refused(removed, Code::PermissionDenied, "BALLAST-A015");
    served.stop().await;
}

#[tokio::test]
async fn a_request_to_enrol_has_room_for_all_that_a_node_may_say_of_itself_and_for_no_more() {
    let served = Served::start().await;
    let config = Arc::new(pki::joining_client(served.fake.authority.pin()).expect("TLS"));
    let target = Target::Tls { address: served.address.clone(), config, name: server_name("unknown", None) };
    let mut stranger = EnrolServiceClient::new(target.channel());
    let much = EnrolRequest { token_secret: vec![7; ENROL_BYTES_MAX], ..EnrolRequest::default() };
    let status = stranger.enrol(much).await.expect_err("it is not read");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let text = |n: usize| format!("{n:0>255}");
    let mac = "02:00:00:00:00:01".to_owned();
    let node = NodeInfo {
        name: text(1),
        cluster_address: text(2),
        admin_address: text(3),
        labels: (0..64).map(|n| (text(n), text(n))).collect(),
        version: text(4),
        vip_macs: (0..1000).map(|n| (format!("{n:0>63}"), mac.clone())).collect(),
        mac,
        ..NodeInfo::default()
    };
    let csr_pem = Key::generate().expect("a key").request().expect("a request");
    let all = EnrolRequest { token_secret: vec![7; 32], csr_pem, node: Some(node) };
    refused(stranger.enrol(all).await, Code::PermissionDenied, "BALLAST-A016");
    served.stop().await;
}

#[tokio::test]
async fn strangers_do_not_get_through_the_handshake() {
    let served = Served::start().await;
    let other = Authority::create(&pki::new_cluster_id(), SystemTime::now()).expect("a CA");
    let name = "eve".parse().expect("a name");
    let stranger =
        other.issue_user(&name, UserRole::Admin, SystemTime::now(), CERTIFICATE_LIFE_USER).expect("credentials");
    let status = ClusterServiceClient::new(served.with(&stranger)).list_nodes(ListNodesRequest::default()).await;
    assert_eq!(status.expect_err("refused").code(), Code::Unavailable);
    let wrong_pin = Arc::new(pki::joining_client(other.pin()).expect("TLS"));
    let target = Target::Tls { address: served.address.clone(), config: wrong_pin, name: server_name("unknown", None) };
    assert!(target.connect().await.is_err());
    served.stop().await;
}

#[tokio::test]
async fn strangers_have_few_places_and_take_nobody_elses() {
    let served = Served::start().await;
    let config = Arc::new(pki::joining_client(served.fake.authority.pin()).expect("TLS"));
    let (address, name) = (served.address.parse().expect("an address"), server_name("unknown", None));
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS_MAX {
        let socket = TcpSocket::new_v4().expect("a socket");
        // All of 127.0.0.0/8 is this machine (RFC 1122, section 3.2.1.3).
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("bound");
        let stream = socket.connect(address).await.expect("connected");
        let stranger = TlsConnector::from(config.clone()).connect(name.clone(), stream).await.expect("let in");
        strangers.push(Box::pin(async move {
            let mut stranger = stranger;
            // What is said first, and then the end.
            _ = stranger.read_to_end(&mut Vec::new()).await;
        }));
    }
    // Whoever is let in is told that it needs a certificate.
    let target = Target::Tls { address: served.address.clone(), config, name };
    let asked = ClusterServiceClient::new(target.channel()).list_nodes(ListNodesRequest::default()).await;
    assert_eq!(
        asked.expect_err("nobody may ask that").code(),
        Code::Unauthenticated,
        "who is from elsewhere is let in"
    );
    let ((), _, others) = select_all(strangers).await;
    assert!(others.into_iter().all(|other| other.now_or_never().is_none()), "one of them had to go");
    let nodes = ClusterServiceClient::new(served.user(UserRole::Viewer)).list_nodes(ListNodesRequest::default()).await;
    nodes.expect("who has a certificate is let in");
    served.stop().await;
}

#[tokio::test]
async fn clients_that_connect_and_say_nothing_keep_nobody_from_elsewhere_out() {
    let served = Served::start().await;
    let address: SocketAddr = served.address.parse().expect("an address");
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        let socket = TcpSocket::new_v4().expect("a socket");
        // All of 127.0.0.0/8 is this machine (RFC 1122, section 3.2.1.3).
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("bound");
        silent.push(socket.connect(address).await.expect("connected"));
    }
    let nodes = ClusterServiceClient::new(served.user(UserRole::Viewer)).list_nodes(ListNodesRequest::default()).await;
    nodes.expect("who is from elsewhere has a turn");
    assert_eq!(silent[0].read(&mut [0]).await.expect("an end"), 0, "it was the oldest one's");
    let newest = silent.last().expect("one of them").try_read(&mut [0]);
    assert_eq!(newest.expect_err("it says nothing").kind(), io::ErrorKind::WouldBlock, "the others wait on");
    served.stop().await;
}

#[tokio::test]
async fn root_administers_over_the_unix_socket() {
    let fake = Fake::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let services = fake.services();
    let task = tokio::spawn(serve_unix(services.routes, services.access, listener, fake.stop.clone()));
    let channel = Target::Unix(path).connect().await.expect("connected");
    let mut client = ConfigServiceClient::new(channel.clone());
    client.apply(apply()).await.expect("applied");
    let got = client.get(GetConfigRequest::default()).await.expect("got").into_inner();
    assert_eq!(got.revision.expect("a revision").change.expect("who").author, "root@node-1");
    let status = ClusterServiceClient::new(channel).status(StatusRequest::default()).await.expect("a status");
    assert_eq!(status.into_inner().nodes.len(), 1);
    fake.stop.cancel();
    task.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_watch_does_not_keep_a_stopping_node_up() {
    let served = Served::start().await;
    let mut client = ConfigServiceClient::new(served.user(UserRole::Viewer));
    let mut stream = client.watch(WatchConfigRequest::default()).await.expect("a stream").into_inner();
    let begun = std::time::Instant::now();
    served.stop().await;
    assert_eq!(stream.message().await.expect_err("told").code(), Code::Unavailable);
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "it did not wait for the grace to pass");
}

#[tokio::test]
async fn health_and_reflection_answer_whoever_may_read() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let served = Served::start().await;
    let channel = served.user(UserRole::Viewer);
    HealthClient::new(channel.clone()).check(HealthCheckRequest { service: String::new() }).await.expect("healthy");
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("a stream")
        .into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|service| service.name == "ballast.admin.v1.ExplainService"));
    served.stop().await;
}

#[tokio::test]
async fn a_document_that_is_far_too_long_is_refused_by_name() {
    let served = Served::start().await;
    let mut client = ConfigServiceClient::new(served.user(UserRole::Operator));
    let request = ApplyRequest { source: "#".repeat(64 << 20), ..ApplyRequest::default() };
    let status = client.apply(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("limit"), "{status:?}");
    served.stop().await;
}
