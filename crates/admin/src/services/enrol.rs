//! Joining: the only call that needs no certificate. The token's secret is what it needs.

use std::time::SystemTime;

use ballast_core::{
    cluster::Applied,
    state::{Command, NodeRole, Outcome, Refusal},
};
use ballast_proto::admin::v1::{EnrolRequest, EnrolResponse, enrol_service_server::EnrolService};
use tonic::{Request, Response, Status};

use super::{
    Shared,
    certificates::{bad_request, internal},
};
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    pki::{self, TokenSecret},
    view,
};

#[tonic::async_trait]
impl EnrolService for Shared {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let secret: [u8; 32] =
            request.token_secret.as_slice().try_into().map_err(|_| {
                error::invalid("token_secret", "it has not 32 bytes", "send the secret of a join token")
            })?;
        let token_hash = TokenSecret::from_bytes(secret).hash();
        let info = view::node_info(request.node)?;
        let public = pki::Request::from_pem(&request.csr_pem).map_err(bad_request)?;
        // Opened first, so that no token is used up when this node cannot sign.
        let authority = self.authority()?;

        let (name, own_role) = (info.name.clone(), info.role);
        let command = Command::EnrolNode { token_hash, info, key_fingerprint: public.fingerprint() };
        // Asked here first, so that who has no token costs the log nothing.
        self.parts.read_index.confirm(caller.remaining()).await.map_err(ApiError::from)?;
        let role = self
            .read(|state| state.join_tokens().iter().find(|token| token.hash == token_hash).map(|token| token.role));
        match role {
            None => return Err(ApiError::from(Refusal::TokenUnknown).into()),
            // Taken for what it is not, it would hold VIPs and serve nobody, or serve what is never its.
            Some(role) if role != own_role => return Err(other_role(role).into()),
            Some(_) => {}
        }
        let Applied { index, outcome } = loop {
            let applied =
                self.parts.propose.propose(command.clone(), caller.remaining()).await.map_err(ApiError::from)?;
            match applied.outcome {
                // Another node was enrolled by the same entry; the next entry is ours.
                Outcome::Refused(Refusal::Busy) if !caller.remaining().is_zero() => {}
                _ => break applied,
            }
        };
        let node = match outcome {
            Outcome::Enrolled { node } => node,
            Outcome::Refused(refusal) => return Err(ApiError::from(refusal).into()),
            outcome => {
                let message = format!("enrolment came out as {outcome:?}");
                return Err(error::status(ErrorCode::Internal, message, name).into());
            }
        };
        // A node that asks again gets its id again, whatever token it sends; the cluster key is
        // only for who has the token that the node was enrolled with.
        let is_its_token = self.read(|state| {
            state.join_tokens().iter().any(|token| token.hash == token_hash && token.used_by == Some(node))
        });
        if !is_its_token {
            let message = "a node with this key is a member already, and was enrolled with another token";
            return Err(error::status(ErrorCode::BadToken, message, name).into());
        }
        let certificate_pem = authority.sign_node(node, &public, SystemTime::now()).map_err(internal)?;
        tracing::info!(%node, name, index = index.get(), "node enrolled");
        Ok(Response::new(EnrolResponse {
            header: Some(self.header()),
            node_id: node.get(),
            certificate_pem,
            ca_certificate_pem: authority.certificate_pem().to_owned(),
            cluster_id: authority.cluster_id().to_owned(),
            cluster_key: self.parts.cluster_key.as_bytes().to_vec(),
            members: self.read(view::nodes),
        }))
    }
}

/// The token is for such a node, and the node that shows it says that it is none.
fn other_role(token: NodeRole) -> ApiError {
    match token {
        NodeRole::Witness => error::invalid(
            "role",
            "the join token is for a witness, and the node's ballastd.toml does not say that it is one",
            "write role = \"witness\" there, or make a token without --witness: ballastctl node join-token",
        ),
        NodeRole::Full => error::invalid(
            "role",
            "the node's ballastd.toml says that it is a witness, and the join token is for a node that carries traffic",
            "make another token: ballastctl node join-token --witness, or take role = \"witness\" out of the file",
        ),
    }
}
