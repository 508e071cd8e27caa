//! Certificates of people, given and taken back, and renewals of nodes' own.

use std::time::{Duration, SystemTime};

use ballast_core::{
    ids::NodeId,
    state::{Command, State, UserIdentity},
    time::LogTime,
};
use ballast_proto::admin::v1::{
    IssueCertificateResponse, IssueUserRequest, ListUsersRequest, ListUsersResponse, RenewNodeRequest,
    RevokeUserRequest, RevokeUserResponse, certificate_service_server::CertificateService,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    pki::{self, Authority, CERTIFICATE_LIFE_USER, PkiError, UserName, UserRole, Validity},
    view::{self, FoundUsers},
};

/// The longest that browsers and auditors still accept.
const LIFE_USER_MAX: Duration = Duration::from_secs(825 * 24 * 3600);

#[tonic::async_trait]
impl CertificateService for Shared {
    async fn issue_user(
        &self,
        request: Request<IssueUserRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let name: UserName =
            request.name.parse().map_err(|e: pki::IdentityError| error::invalid("name", e.to_string(), ""))?;
        let role: UserRole =
            request.role.parse().map_err(|e: pki::IdentityError| error::invalid("role", e.to_string(), ""))?;
        let life = view::duration("ttl", request.ttl)?.unwrap_or(CERTIFICATE_LIFE_USER);
        if life.is_zero() || life > LIFE_USER_MAX {
            return Err(
                error::invalid("ttl", "it is not between 1 second and 825 days", "leave it out for 365 days").into()
            );
        }
        let public = pki::Request::from_pem(&request.csr_pem).map_err(bad_request)?;
        let authority = self.authority()?;
        let certificate = authority.sign_user(&name, role, &public, SystemTime::now(), life).map_err(internal)?;
        let fingerprint = fingerprint_of_pem(&certificate)?;
        let not_after = Validity::of_pem(&certificate).map_err(internal)?.not_after;
        let user = UserIdentity {
            fingerprint,
            name: name.to_string(),
            role: role.to_string(),
            not_after: LogTime::from_millis(millis_of(not_after)),
        };
        // Recorded before it is handed out: what the log does not know, nobody has.
        let command = Command::IssueUser { user: Box::new(user), author: caller.author(&request.message) };
        self.propose(&caller, command).await?;
        tracing::info!(author = %caller.name, user = %name, %role, message = request.message, "certificate issued");
        let issued = self.issued(&authority, certificate)?;
        Ok(Response::new(IssueCertificateResponse { fingerprint: view::fingerprint_text(&fingerprint), ..issued }))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (header, certificates) = self.read_at(&caller, request.into_inner().consistency, view::users).await?;
        Ok(Response::new(ListUsersResponse { header: Some(header), certificates }))
    }

    async fn revoke_user(&self, request: Request<RevokeUserRequest>) -> Result<Response<RevokeUserResponse>, Status> {
        let caller = Caller::of(&request)?;
        let RevokeUserRequest { user, fingerprint, request_id, message, validate_only } = request.into_inner();
        // Confirmed, so that a certificate that was issued a moment ago is not said to be unknown.
        let (header, found) = self.read_at(&caller, 0, |state| view::find_users(state, &user, &fingerprint)).await?;
        let found = found?;
        let certificates = |state: &State| {
            let mut users = view::users(state);
            users.retain(|known| match &found {
                FoundUsers::Named(name) => known.name == *name,
                FoundUsers::One(fingerprint) => known.fingerprint == view::fingerprint_text(fingerprint),
            });
            users
        };
        if validate_only {
            let certificates = self.read(certificates);
            return Ok(Response::new(RevokeUserResponse { header: Some(header), certificates, log_index: 0 }));
        }
        // A name goes into the log as such: which certificates it has is decided where all issues and revocations are in
        // one order, so that one that is issued just now does not escape.
        let (fingerprints, names) = match &found {
            FoundUsers::Named(name) => (Vec::new(), vec![name.clone()]),
            FoundUsers::One(fingerprint) => (vec![*fingerprint], Vec::new()),
        };
        let command = Command::RevokeUsers { fingerprints, author: caller.author(&message), names };
        let index = self.propose_once(&caller, "RevokeUser", &request_id, command).await?;
        let certificates = self.read(certificates);
        let header = Some(self.header());
        Ok(Response::new(RevokeUserResponse { header, certificates, log_index: index.get() }))
    }

    async fn renew_node(
        &self,
        request: Request<RenewNodeRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let node: NodeId = caller
            .node
            .ok_or_else(|| error::status(ErrorCode::NotAllowed, "only a node renews its certificate", "RenewNode"))?;
        let public = pki::Request::from_pem(&request.into_inner().csr_pem).map_err(bad_request)?;
        let authority = self.authority()?;
        let certificate = authority.sign_node(node, &public, SystemTime::now()).map_err(internal)?;
        tracing::info!(%node, "certificate renewed");
        Ok(Response::new(self.issued(&authority, certificate)?))
    }
}

impl Shared {
    /// Opens the CA.
    pub(super) fn authority(&self) -> Result<Authority, ApiError> {
        let sealed = self.read(|state| {
            state.cluster().map(|cluster| (cluster.ca_certificate.clone(), cluster.ca_key_sealed.clone()))
        });
        let (certificate, key) =
            sealed.ok_or_else(|| error::status(ErrorCode::NoCluster, "this node has no cluster yet", "CA"))?;
        Authority::open(&certificate, &key, &self.parts.cluster_key).map_err(internal)
    }

    fn issued(&self, authority: &Authority, certificate_pem: String) -> Result<IssueCertificateResponse, ApiError> {
        let not_after = Validity::of_pem(&certificate_pem).map_err(internal)?.not_after;
        Ok(IssueCertificateResponse {
            header: Some(self.header()),
            certificate_pem,
            ca_certificate_pem: authority.certificate_pem().to_owned(),
            not_after: Some(not_after.into()),
            fingerprint: String::new(),
        })
    }
}

fn fingerprint_of_pem(certificate_pem: &str) -> Result<[u8; 32], ApiError> {
    let unreadable = |e: rustls_pki_types::pem::Error| {
        internal(PkiError::Unreadable { what: "the certificate", detail: e.to_string() })
    };
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(unreadable)?;
    pki::fingerprint_of(&certificate).map_err(internal)
}

/// Milliseconds since the Unix epoch.
fn millis_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn bad_request(error: PkiError) -> ApiError {
    error::invalid("csr_pem", error.to_string(), "send a certificate signing request in PEM, signed by its own key")
}

pub(super) fn internal(error: PkiError) -> ApiError {
    // The chain's end is what helps whoever reads it.
    let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    error::status(ErrorCode::Internal, format!("{error}{cause}"), "certificate")
}
