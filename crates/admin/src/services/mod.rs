//! The gRPC services.
//!
//! Each service turns a request into a read of the agreed state or into a command, and the outcome
//! into an answer. None of them decides anything: what is allowed is decided by
//! [`crate::access`], what a command does by the state machine.
//!
//! Not here: the state's form in the API ([`crate::view`]).

mod backends;
mod bench;
mod bindings;
mod certificates;
mod cluster;
mod config;
mod enrol;
mod events;
mod explain;
mod failover;
mod health;
mod jitter;
mod rehoming;
mod removal;
mod sessions;
mod shared;
#[cfg(test)]
mod tests;
mod troubles;
mod vips;
mod warnings;
mod watch;

use std::sync::Arc;

use ballast_core::cluster::{Propose, ReadIndex};
use ballast_proto::admin::v1::{
    backend_service_server::BackendServiceServer, binding_service_server::BindingServiceServer,
    certificate_service_server::CertificateServiceServer, cluster_service_server::ClusterServiceServer,
    config_service_server::ConfigServiceServer, enrol_service_server::EnrolServiceServer,
    event_service_server::EventServiceServer, explain_service_server::ExplainServiceServer,
    session_service_server::SessionServiceServer, vip_service_server::VipServiceServer,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    access::AccessLayer,
    client::Peers,
    node::{Operations, RequestReader, StateAccess},
    pki::ClusterKey,
};
pub use health::Health;
pub use shared::Shared;

/// Longest request. A document may be 4 MiB; the rest is room for its envelope.
const REQUEST_BYTES_MAX: usize = 5 << 20;

/// Longest request to enrol, which is read of whoever connects before its token is looked at. All that a node may say of
/// itself, 64 labels and 1000 VIPs on interfaces of their own, takes 118 KiB.
const ENROL_BYTES_MAX: usize = 128 << 10;

/// What the services stand on. `ballastd` fills it in.
pub struct Parts {
    /// Proposes changes; forwards to the leader by itself.
    pub propose: Arc<dyn Propose>,
    /// Confirms reads.
    pub read_index: Arc<dyn ReadIndex>,
    /// The agreed state.
    pub state: Arc<dyn StateAccess>,
    /// What only this node's own parts can do.
    pub operations: Arc<dyn Operations>,
    /// Reads requests as the data plane does.
    pub reader: Arc<dyn RequestReader>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Opens the CA's key, to sign certificates.
    pub cluster_key: ClusterKey,
    /// Ends watches when the node stops.
    pub stop: CancellationToken,
}

/// The services of a node, ready to be served.
#[derive(Clone)]
pub struct Services {
    /// All of them, with reflection and health.
    pub routes: Routes,
    /// The layer that stands in front of them.
    pub access: AccessLayer,
    /// Says to `grpc.health.v1` whether the node is ready.
    pub health: Health,
}

impl Services {
    /// Puts the services together.
    ///
    /// # Panics
    /// Never: reflection is given a descriptor set that was made with this crate's messages.
    pub fn new(parts: Parts) -> Self {
        let shared = Arc::new(Shared::new(parts));
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(ballast_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let routes = Routes::new(health_service)
            .add_service(reflection().build_v1().expect("the descriptors are our own"))
            .add_service(reflection().build_v1alpha().expect("the descriptors are our own"))
            .add_service(
                ConfigServiceServer::from_arc(shared.clone())
                    .max_decoding_message_size(REQUEST_BYTES_MAX)
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(ClusterServiceServer::from_arc(shared.clone()))
            .add_service(BackendServiceServer::from_arc(shared.clone()))
            .add_service(VipServiceServer::from_arc(shared.clone()))
            .add_service(BindingServiceServer::from_arc(shared.clone()))
            .add_service(SessionServiceServer::from_arc(shared.clone()))
            .add_service(ExplainServiceServer::from_arc(shared.clone()))
            .add_service(EventServiceServer::from_arc(shared.clone()))
            .add_service(EnrolServiceServer::from_arc(shared.clone()).max_decoding_message_size(ENROL_BYTES_MAX))
            .add_service(CertificateServiceServer::from_arc(shared.clone()));
        Self { routes, access: AccessLayer::new(shared), health: Health::new(reporter) }
    }
}
