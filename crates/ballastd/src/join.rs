//! Entering a cluster: one call to any of its nodes, with a one-time token.
//!
//! The connection is TLS from the first byte; the other side proves that it belongs to the cluster
//! by the CA pin in the token. This node's key never travels.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow, bail};
use ballast_admin::{
    error::{ApiError, ErrorCode},
    pki::{ClusterKey, JoinToken, joining_client},
};
use ballast_core::ids::NodeId;
use ballast_proto::admin::v1::{EnrolRequest, NodeInfo, enrol_service_client::EnrolServiceClient};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Uri};

use crate::{
    bootstrap::Bootstrap,
    identity::{self, Enrolled},
};

/// Longest that one node of the cluster may take to enrol us.
const PATIENCE: Duration = Duration::from_secs(15);

/// Joins with a token, trying the addresses in it in order. Returns the node's id and the cluster's.
///
/// # Errors
/// When the token is not one, no address answers, or the cluster refuses.
pub async fn join(bootstrap: &Bootstrap, token: &str) -> Result<(NodeId, String)> {
    let token: JoinToken = token.parse()?;
    let (key, _lock) = identity::joining_key(bootstrap)?;
    let info = bootstrap.node_info(crate::interfaces::mac);
    let request = EnrolRequest {
        token_secret: token.secret.as_bytes().to_vec(),
        csr_pem: key.request()?,
        node: Some(NodeInfo {
            name: info.name,
            cluster_address: info.cluster_address,
            admin_address: info.admin_address,
            labels: info.labels.into_iter().collect(),
            role: match info.role {
                ballast_core::state::NodeRole::Full => 1,
                ballast_core::state::NodeRole::Witness => 2,
            },
            version: info.version,
            vip_weight: Some(info.vip.weight),
            mac: info.vip.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            vip_macs: info.vip.macs.into_iter().map(|(vip, mac)| (vip, mac.to_string())).collect(),
        }),
    };

    let mut unreachable = Vec::new();
    for address in &token.addresses {
        match enrol(address, &token, request.clone()).await {
            Ok(answer) => {
                let enrolled = Enrolled {
                    node: NodeId::new(answer.node_id),
                    certificate: answer.certificate_pem,
                    ca: answer.ca_certificate_pem,
                    cluster_id: answer.cluster_id,
                    cluster_key: ClusterKey::from_bytes(&answer.cluster_key)?,
                };
                identity::keep_enrolled(bootstrap, &key, &enrolled)?;
                return Ok((enrolled.node, enrolled.cluster_id));
            }
            Err(Failure::Refused(status)) => bail!("{address} refused: {}", told(&status)),
            Err(Failure::Unreachable(error)) => unreachable.push(format!("{address}: {error:#}")),
        }
    }
    bail!("no node of the cluster could be reached to join; tried {}", unreachable.join("; "))
}

enum Failure {
    /// The cluster answered and said no; another address would say the same.
    Refused(tonic::Status),
    /// This address did not answer; the next may.
    Unreachable(anyhow::Error),
}

/// Why the cluster refused, and what to do. Of a field that is not right its sentence does not say that; of anything else it does.
fn told(status: &tonic::Status) -> String {
    let of_a_field = ApiError::detail_of(status).filter(|detail| detail.code == ErrorCode::InvalidRequest.as_str());
    let remedies = of_a_field.map(|detail| detail.remedies).unwrap_or_default();
    std::iter::once(status.message().to_owned()).chain(remedies).collect::<Vec<_>>().join("; ")
}

async fn enrol(
    address: &str,
    token: &JoinToken,
    request: EnrolRequest,
) -> Result<ballast_proto::admin::v1::EnrolResponse, Failure> {
    let tls = joining_client(token.pin).map_err(|e| Failure::Unreachable(e.into()))?;
    let connector = TlsConnector::from(Arc::new(tls));
    let target = address.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, target) = (connector.clone(), target.clone());
        async move {
            let stream = TcpStream::connect(&target).await?;
            // The pin decides whom we talk to; the name only fills TLS' field for it.
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://ballast.invalid").connect_timeout(PATIENCE).timeout(PATIENCE);
    let channel = endpoint
        .connect_with_connector(connect)
        .await
        .map_err(|error| Failure::Unreachable(anyhow!(error).context("connect")))?;
    match EnrolServiceClient::new(channel).enrol(request).await.map(tonic::Response::into_inner) {
        Ok(answer) => Ok(answer),
        Err(status) if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded) => {
            Err(Failure::Unreachable(anyhow!("{}", status.message())))
        }
        Err(status) => Err(Failure::Refused(status)),
    }
}
