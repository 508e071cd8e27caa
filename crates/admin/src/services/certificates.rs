//! Certificates of people, and renewals of nodes' own.

use std::time::{Duration, SystemTime};

use ballast_core::ids::NodeId;
use ballast_proto::admin::v1::{
    IssueCertificateResponse, IssueUserRequest, RenewNodeRequest, certificate_service_server::CertificateService,
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    pki::{self, Authority, CERTIFICATE_LIFE_USER, PkiError, UserName, UserRole, Validity},
    view,
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
        tracing::info!(author = %caller.name, user = %name, %role, message = request.message, "certificate issued");
        Ok(Response::new(self.issued(&authority, certificate)?))
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
        })
    }
}

pub(super) fn bad_request(error: PkiError) -> ApiError {
    error::invalid("csr_pem", error.to_string(), "send a certificate signing request in PEM, signed by its own key")
}

pub(super) fn internal(error: PkiError) -> ApiError {
    // The chain's end is what helps whoever reads it.
    let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    error::status(ErrorCode::Internal, format!("{error}{cause}"), "certificate")
}
