//! The connection to a node: which one, over what, and how a call is made.
//!
//! Not here: what is asked (`commands`), what an answer means for the exit code (`failure`).

use std::{
    future::Future,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use ballast_admin::pki::{self, Credentials};
use ballast_proto::admin::v1::{
    ReadConsistency, backend_service_client::BackendServiceClient, binding_service_client::BindingServiceClient,
    certificate_service_client::CertificateServiceClient, cluster_service_client::ClusterServiceClient,
    config_service_client::ConfigServiceClient, event_service_client::EventServiceClient,
    explain_service_client::ExplainServiceClient, session_service_client::SessionServiceClient,
    vip_service_client::VipServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    args::{Consistency, Global},
    contexts::{Context, Contexts, ServerText},
    failure::{Exit, Failure, Intent, chain},
    server::Server,
};

/// Longest answer that is taken: a document of the largest size as text and as JSON.
const ANSWER_BYTES_MAX: usize = 96 << 20;
/// How long one of several servers may take to answer before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Which nodes can be asked, and with what certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In the order in which they are tried. Never empty.
    servers: Vec<Server>,
    /// Files of CA, certificate and key, for `https`.
    files: Context,
}

impl Target {
    /// Chooses by the command line, the contexts and what is on this machine.
    ///
    /// # Errors
    /// When nothing says which node to ask.
    pub fn choose(global: &Global, contexts: &Path, local_socket: &Path) -> Result<Self, Failure> {
        let stored = Contexts::load(contexts)?;
        let context = match &global.context {
            Some(name) => Some(stored.get(name)?),
            // A socket needs no certificate, so a broken choice of context does not matter to it.
            None if global.server.iter().any(|server| matches!(server, Server::Unix(_))) => None,
            None => stored.current()?,
        };
        let mut files = context.cloned().unwrap_or_default();
        for (file, given) in
            [(&mut files.ca, &global.ca), (&mut files.cert, &global.cert), (&mut files.key, &global.cert_key)]
        {
            if given.is_some() {
                file.clone_from(given);
            }
        }
        let servers: Vec<Server> = if !global.server.is_empty() {
            global.server.clone()
        } else if !files.servers.is_empty() {
            files.servers.iter().map(|ServerText(server)| server.clone()).collect()
        } else if may_answer(local_socket.try_exists()) {
            vec![Server::Unix(local_socket.to_owned())]
        } else {
            let socket = local_socket.display();
            return Err(Failure::new(
                Exit::Unavailable,
                format!("no node to ask: there is no socket {socket} on this machine and no server was named"),
            )
            .remedy("on a node, start ballastd; if its data_dir is elsewhere: --server unix:///DATA_DIR/admin.sock")
            .remedy("elsewhere: --server https://HOST:PORT with --ca, --cert and --cert-key")
            .remedy("or keep them: ballastctl context add NAME --server https://HOST:PORT --dir DIR"));
        };
        Ok(Self { servers, files })
    }

    /// Whether a server can be chosen without asking: for commands that work without one.
    pub fn is_known(global: &Global, contexts: &Path, local_socket: &Path) -> bool {
        !global.server.is_empty()
            || global.context.is_some()
            || may_answer(local_socket.try_exists())
            || Contexts::load(contexts).is_ok_and(|stored| stored.current.is_some())
    }
}

/// Whether a node may be behind a socket that was looked for. Only root may look into a node's `data_dir`, and whoever else
/// connects is told so.
fn may_answer(found: io::Result<bool>) -> bool {
    found.unwrap_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// A connection to a node.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    server: Server,
    timeout: Duration,
    consistency: Option<Consistency>,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $service:ident),*) => {
        $($(#[$doc])*
        pub fn $name(&self) -> $service<Channel> {
            $service::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
        })*
    };
}

impl Client {
    /// Connects to the first server that answers.
    ///
    /// # Errors
    /// When none does: the first one's reason, which is the one that the operator meant.
    pub async fn connect(target: &Target, global: &Global) -> Result<Self, Failure> {
        let mut first = None;
        for server in &target.servers {
            let patience = if target.servers.len() > 1 { CONNECT_TIMEOUT.min(global.timeout) } else { global.timeout };
            let attempt = timeout(patience, connect(server, &target.files)).await;
            match attempt.unwrap_or_else(|_| Err(silent(server, patience))) {
                Ok(channel) => {
                    let (timeout, consistency) = (global.timeout, global.consistency);
                    return Ok(Self { channel, server: server.clone(), timeout, consistency });
                }
                Err(failure) => {
                    first.get_or_insert(failure);
                }
            }
        }
        let failure = first.unwrap_or_else(|| Failure::new(Exit::Unavailable, "no server to ask"));
        Err(match target.servers.len() {
            0 | 1 => failure,
            n => failure.remedy(format!("none of the {n} servers answered; this is the first one's reason")),
        })
    }

    services! {
        /// The configuration document.
        config: ConfigServiceClient,
        /// The cluster and its nodes.
        cluster: ClusterServiceClient,
        /// Backends.
        backends: BackendServiceClient,
        /// Virtual addresses.
        vips: VipServiceClient,
        /// Bindings.
        bindings: BindingServiceClient,
        /// The session store.
        sessions: SessionServiceClient,
        /// Why a request goes where it goes.
        explain: ExplainServiceClient,
        /// The history.
        events: EventServiceClient,
        /// Certificates of people.
        certificates: CertificateServiceClient
    }

    /// How fresh the answer must be: as the operator said, else the strictest.
    pub fn consistency(&self) -> i32 {
        self.consistency_or(ReadConsistency::Unspecified)
    }

    /// How fresh the answer must be: as the operator said, else as the command wants.
    pub fn consistency_or(&self, default: ReadConsistency) -> i32 {
        let consistency = match self.consistency {
            Some(Consistency::Linearizable) => ReadConsistency::Linearizable,
            Some(Consistency::LeaderLease) => ReadConsistency::LeaderLease,
            Some(Consistency::Stale) => ReadConsistency::Stale,
            None => default,
        };
        consistency.into()
    }

    /// How long a call may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Which node is asked.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// A request that the node, too, gives up in time.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        // As other command lines do, so that a pipeline's trace goes on in the cluster.
        if let Some(trace) = std::env::var("TRACEPARENT").ok().and_then(|trace| trace.parse().ok()) {
            request.metadata_mut().insert("traceparent", trace);
        }
        request
    }

    /// Makes a call that changes nothing.
    ///
    /// # Errors
    /// What the node answered, or that it did not.
    pub async fn read<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        self.call(call, &Intent::Read).await
    }

    /// Makes a call that changes something under a request id.
    ///
    /// # Errors
    /// As [`Client::read`]; the failure says whether the change may have happened.
    pub async fn write<T>(
        &self,
        request_id: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.call(call, &Intent::Write { request_id: request_id.to_owned() }).await
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
        intent: &Intent,
    ) -> Result<T, Failure> {
        // The node has the same deadline and a better reason, so it is given a moment to say it.
        match timeout(self.timeout + Duration::from_millis(250), call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::of_status(&status, intent)),
            Err(_) => Err(Failure::timeout(self.timeout, intent)),
        }
    }
}

async fn connect(server: &Server, files: &Context) -> Result<Channel, Failure> {
    match server {
        Server::Unix(path) => {
            let path = path.clone();
            // The name is never looked up; it is what the node sees as the authority.
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint("http://ballast.local")?.connect_with_connector(connector).await
        }
        Server::Https { host, port } => {
            let credentials = credentials(server, files)?;
            let config = pki::user_client(&credentials).map_err(|error| unusable(files, &error))?;
            let tls = TlsConnector::from(std::sync::Arc::new(config));
            let name = pki::server_name(credentials.cluster_id(), None);
            let address = Server::authority(host, *port);
            // `http` because the connector below speaks TLS itself; tonic would want to for `https`.
            let authority = format!("http://{}.ballast", credentials.cluster_id());
            let connector = tower::service_fn(move |_| {
                let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
                async move {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    tls.connect(name, stream).await.map(TokioIo::new)
                }
            });
            endpoint(&authority)?.connect_with_connector(connector).await
        }
    }
    .map_err(|error| unreachable(server, &error))
}

fn endpoint(uri: &str) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(uri.to_owned())
        .map_err(|error| Failure::because(Exit::Error, format!("{uri} is no authority"), &error))?;
    // A watch may be silent for hours; a node that died must be noticed all the same.
    Ok(endpoint
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true))
}

fn credentials(server: &Server, files: &Context) -> Result<Credentials, Failure> {
    let read = |file: &Option<std::path::PathBuf>, what: &str, option: &str| {
        let Some(path) = file else {
            return Err(Failure::new(
                Exit::Denied,
                format!("{server} wants a client certificate and {what} is not named"),
            )
            .remedy(format!("name it with {option}, or use a context that does"))
            .remedy("ballastctl context add NAME --server https://HOST:PORT --dir DIR"));
        };
        std::fs::read_to_string(path)
            .map_err(|error| Failure::because(Exit::Denied, format!("cannot read {what} {}", path.display()), &error))
    };
    let ca = read(&files.ca, "the cluster's CA", "--ca")?;
    let certificate = read(&files.cert, "the certificate", "--cert")?;
    let key = read(&files.key, "the certificate's key", "--cert-key")?;
    let credentials = Credentials::new(&certificate, &ca, &key).map_err(|error| unusable(files, &error))?;
    // A node would end the handshake, and mostly too late for its reason to arrive.
    let validity = pki::Validity::of_pem(&certificate).map_err(|error| unusable(files, &error))?;
    if validity.not_after <= SystemTime::now() {
        let cert = files.cert.as_deref().unwrap_or(Path::new("")).display();
        let message = format!("the certificate {cert} has ended by the clock of this machine");
        return Err(Failure::new(Exit::Denied, message)
            .remedy("have a new one issued: ballastctl user issue NAME --role ROLE --out FOLDER")
            .remedy("on a node itself root needs none: --server unix:///var/lib/ballast/admin.sock"));
    }
    Ok(credentials)
}

/// Certificate, key and CA that do not go together, or are no such thing.
fn unusable(files: &Context, error: &dyn std::error::Error) -> Failure {
    let named = |file: &Option<std::path::PathBuf>| file.as_deref().unwrap_or(Path::new("")).display().to_string();
    let (ca, cert, key) = (named(&files.ca), named(&files.cert), named(&files.key));
    let message = format!("cannot use the client certificate {cert} with the key {key} and the CA {ca}");
    Failure::because(Exit::Denied, message, error)
        .remedy("name those that were issued together with --ca, --cert and --cert-key, or use a context that does")
}

fn silent(server: &Server, waited: Duration) -> Failure {
    Failure::new(Exit::Unavailable, format!("{server} did not answer within {waited:?}"))
        .remedy("is the address right, and does a firewall let it through?")
        .remedy("ask another node with --server")
}

/// Why a connection could not be made, and what to do about it.
fn unreachable(server: &Server, error: &tonic::transport::Error) -> Failure {
    let cause = io_error(error);
    let kind = cause.map(io::Error::kind);
    if let Some(tls) = cause.and_then(io::Error::get_ref).and_then(|e| e.downcast_ref::<rustls::Error>()) {
        return Failure::new(Exit::Denied, format!("{server} is not a node of this certificate's cluster: {tls}"))
            .remedy("is it the right address, and the right context? ballastctl context list");
    }
    match (server, kind) {
        (Server::Unix(path), Some(io::ErrorKind::NotFound)) => Failure::new(
            Exit::Unavailable,
            format!("cannot connect: there is no socket {}", path.display()),
        )
        .remedy("start ballastd on this machine (systemctl start ballastd), or look for data_dir in its ballastd.toml")
        .remedy(
            "ask another node: --server unix:///DATA_DIR/admin.sock or --server https://HOST:PORT, or --context NAME",
        ),
        (Server::Unix(path), Some(io::ErrorKind::PermissionDenied)) => {
            Failure::new(Exit::Denied, format!("cannot connect: {} is for root", path.display()))
                .remedy("run ballastctl as root, or use a client certificate: --context NAME")
        }
        (Server::Unix(path), Some(io::ErrorKind::ConnectionRefused)) => {
            Failure::new(Exit::Unavailable, format!("cannot connect: nobody listens on {}", path.display()))
                .remedy("ballastd is not running on this machine: systemctl status ballastd")
                .remedy("ask another node: --server https://HOST:PORT, or --context NAME")
        }
        _ => Failure::new(Exit::Unavailable, format!("cannot connect to {server}: {}", reason(error, cause)))
            .remedy("is ballastd running there, and is this its admin address (listen.admin in ballastd.toml)?")
            .remedy("ask another node with --server"),
    }
}

fn reason(error: &tonic::transport::Error, cause: Option<&io::Error>) -> String {
    cause.map_or_else(|| chain(error), ToString::to_string)
}

fn io_error(error: &tonic::transport::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;

    fn global(line: &[&str]) -> Global {
        let line = ["ballastctl"].iter().chain(line).chain(&["cluster", "status"]);
        Cli::parse_line(line).expect("a command line").global
    }

    #[test]
    fn a_named_server_wins_over_a_context_and_a_context_over_the_socket() {
        let folder = tempfile::tempdir().expect("folder");
        let (file, socket) = (folder.path().join("contexts.toml"), folder.path().join("admin.sock"));
        std::fs::write(&socket, "").expect("socket");
        let choose = |line: &[&str]| Target::choose(&global(line), &file, &socket).expect("a target");
        assert_eq!(choose(&[]).servers, [Server::Unix(socket.clone())]);
        std::fs::write(&file, "current = \"a\"\n[contexts.a]\nservers = [\"https://a:1\"]\nca = \"/a\"\n[contexts.b]\nservers = [\"https://b:1\"]\n")
            .expect("contexts");
        assert_eq!(choose(&[]).servers, ["https://a:1".parse().expect("server")]);
        assert_eq!(choose(&["--context", "b"]).servers, ["https://b:1".parse().expect("server")]);
        let named = choose(&["--server", "https://c:1,https://d:1"]);
        assert_eq!(named.servers.len(), 2);
        assert_eq!(named.files.ca, Some("/a".into()), "the context's certificate is used for a named server");
    }

    #[test]
    fn a_socket_that_only_root_may_look_for_is_asked() {
        let check = |found: io::Result<bool>, expected: bool| assert_eq!(may_answer(found), expected);
        check(Ok(true), true);
        check(Ok(false), false);
        check(Err(io::ErrorKind::PermissionDenied.into()), true);
        check(Err(io::ErrorKind::NotADirectory.into()), false);
    }

    #[test]
    fn nothing_to_ask_says_what_to_do() {
        let nowhere = Path::new("/nonexistent/ballast/admin.sock");
        let failure = Target::choose(&global(&[]), nowhere, nowhere).expect_err("nothing");
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert!(failure.message().contains("/nonexistent/ballast/admin.sock"));
        assert!(failure.remedies().iter().any(|remedy| remedy.contains("context add")));
    }
}
