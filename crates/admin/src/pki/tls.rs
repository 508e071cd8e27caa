//! TLS as Ballast speaks it: the cluster's CA only; 1.3 and HTTP/2 only, but for the session store.
//!
//! | who | shows | believes |
//! |---|---|---|
//! | [`node_server`] | node certificate | node certificates of this cluster, nothing else |
//! | [`admin_server`] | node certificate | any certificate of this cluster, or none (the caller may then only enrol) |
//! | [`session_server`] | node certificate | any certificate of this cluster, or none |
//! | [`node_client`], [`user_client`] | own certificate | a node of this cluster, by name |
//! | [`joining_client`] | nothing | a node of the cluster whose CA has the token's pin |
//!
//! Sessions are not resumed, so every connection is verified in full. Certificates are judged by
//! the wall clock as it was when the process started, carried on by a clock that nobody sets: a
//! clock that is stepped must not cut a running node off from its peers.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime},
};

use ballast_core::ids::NodeId;
use parking_lot::RwLock;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
    client::ResolvesClientCert,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{CaPin, Credentials, Identity, PkiError, identity::cluster_of_ca, identity_of};

/// The name by which a node's certificate is checked: a certain node, or any of the cluster.
///
/// # Panics
/// Never for ids that [`super::new_cluster_id`] made; a cluster id that is not a DNS label cannot
/// be in a certificate.
pub fn server_name(cluster_id: &str, node: Option<NodeId>) -> ServerName<'static> {
    let name = match node {
        Some(node) => format!("node-{node}.{cluster_id}.ballast"),
        None => format!("{cluster_id}.ballast"),
    };
    ServerName::try_from(name).expect("a cluster id is a DNS label, it was in a certificate")
}

/// Server side of node-to-node traffic: only nodes of this cluster come in.
///
/// # Errors
/// When rustls does not take the credentials.
pub fn node_server(credentials: &Credentials) -> Result<ServerConfig, PkiError> {
    server(credentials, Admits::Nodes)
}

/// Server side of the admin API: whoever comes without a certificate may only enrol, which is
/// for [`crate::access`] to see to; whoever shows one must be of this cluster.
///
/// # Errors
/// When rustls does not take the credentials.
pub fn admin_server(credentials: &Credentials) -> Result<ServerConfig, PkiError> {
    server(credentials, Admits::Everybody)
}

/// Server side of the session store: whoever shows a certificate must be of this cluster; who shows none has to log in.
/// TLS 1.2 too, because clients of the Redis protocol are as old as that.
///
/// # Errors
/// When rustls does not take the credentials.
pub fn session_server(credentials: &Credentials) -> Result<ServerConfig, PkiError> {
    let mut config = server_of(credentials, Admits::Everybody, &[&TLS13, &TLS12])?;
    config.alpn_protocols.clear();
    Ok(config)
}

/// Client side of traffic to a peer; use it with [`server_name`] of that peer.
///
/// # Errors
/// When rustls does not take the credentials.
pub fn node_client(credentials: &Credentials) -> Result<ClientConfig, PkiError> {
    client(credentials)
}

/// Client side of the admin API for a person or program; use it with [`server_name`] of any node.
///
/// # Errors
/// When rustls does not take the credentials.
pub fn user_client(credentials: &Credentials) -> Result<ClientConfig, PkiError> {
    client(credentials)
}

/// What a node shows in its handshakes, both as server and as client. A renewed certificate is shown from the next handshake
/// on; connections that are there go on.
pub struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    /// Shows these credentials.
    ///
    /// # Errors
    /// When rustls does not take them: the key is not the certificate's.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(Self(RwLock::new(certified(credentials)?))))
    }

    /// Shows these from now on.
    ///
    /// # Errors
    /// As [`Shown::new`]. What was shown before is shown on.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), PkiError> {
        let renewed = certified(credentials)?;
        *self.0.write() = renewed;
        Ok(())
    }

    /// The same server, which shows what is shown here.
    pub fn server(self: &Arc<Self>, mut config: ServerConfig) -> Arc<ServerConfig> {
        config.cert_resolver = Arc::clone(self) as _;
        Arc::new(config)
    }

    /// The same client, which shows what is shown here.
    pub fn client(self: &Arc<Self>, mut config: ClientConfig) -> Arc<ClientConfig> {
        config.client_auth_cert_resolver = Arc::clone(self) as _;
        Arc::new(config)
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Client side of enrolment: the other side must be a node of the cluster whose CA has the pin.
///
/// # Errors
/// When rustls has no TLS 1.3, which is not expected.
pub fn joining_client(pin: CaPin) -> Result<ClientConfig, PkiError> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_details(provider.clone(), Arc::new(SteadyTime))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { pin, provider }))
        .with_no_client_auth();
    finish_client(&mut config);
    Ok(config)
}

fn server(credentials: &Credentials, admits: Admits) -> Result<ServerConfig, PkiError> {
    server_of(credentials, admits, &[&TLS13])
}

fn server_of(
    credentials: &Credentials,
    admits: Admits,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig, PkiError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(credentials)?), provider())
        .build()
        .map_err(|e| PkiError::Verifier { detail: e.to_string() })?;
    let verifier = OfCluster { inner: verifier, cluster_id: credentials.cluster_id().to_owned(), admits };
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(SteadyTime))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(credentials.chain(), credentials.key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(credentials: &Credentials) -> Result<ClientConfig, PkiError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(SteadyTime))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(credentials)?)
        .with_client_auth_cert(credentials.chain(), credentials.key())?;
    finish_client(&mut config);
    Ok(config)
}

fn finish_client(config: &mut ClientConfig) {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
}

fn certified(credentials: &Credentials) -> Result<Arc<CertifiedKey>, PkiError> {
    Ok(Arc::new(CertifiedKey::from_der(credentials.chain(), credentials.key(), &provider())?))
}

fn roots(credentials: &Credentials) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(credentials.ca().clone())?;
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// Tells rustls of [`steady_now`].
#[derive(Debug)]
struct SteadyTime;

impl TimeProvider for SteadyTime {
    fn current_time(&self) -> Option<UnixTime> {
        steady_now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// The time by which others' certificates are judged: the wall clock of the process's start, carried on by a clock that is
/// never set.
pub fn steady_now() -> SystemTime {
    static START: OnceLock<(SystemTime, Instant)> = OnceLock::new();
    let (wall, steady) = START.get_or_init(|| (SystemTime::now(), Instant::now()));
    *wall + steady.elapsed()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admits {
    Nodes,
    Everybody,
}

/// Verifies a client's chain, then who it is.
struct OfCluster {
    inner: Arc<dyn ClientCertVerifier>,
    cluster_id: String,
    admits: Admits,
}

impl fmt::Debug for OfCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfCluster({}, {:?})", self.cluster_id, self.admits)
    }
}

impl ClientCertVerifier for OfCluster {
    fn client_auth_mandatory(&self) -> bool {
        self.admits == Admits::Nodes
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        match (identity_of(end_entity, &self.cluster_id), self.admits) {
            (Ok(Identity::Node(_)), _) | (Ok(Identity::User { .. }), Admits::Everybody) => Ok(verified),
            (Ok(Identity::User { .. }), Admits::Nodes) | (Err(_), _) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verifies a server by the pin of its CA, which the server sends along.
#[derive(Debug)]
struct PinnedCa {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| CaPin::of(certificate).is_ok_and(|pin| pin == self.pin))
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let refused = |_| Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let cluster_id = cluster_of_ca(ca).map_err(refused)?;
        let name = ServerName::try_from(format!("{cluster_id}.ballast"))
            .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?
            .verify_server_cert(end_entity, &[], &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
