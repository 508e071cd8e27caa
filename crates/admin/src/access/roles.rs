//! The table of methods and the least role that may call them.

use crate::pki::UserRole;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody who can connect: the request itself proves that it may.
    Open,
    /// Whoever has this role or a higher one. A node counts as an administrator: it holds the
    /// cluster key, with which it could make itself an administrator's certificate anyway.
    Least(UserRole),
    /// A node, for itself.
    Node,
}

const VIEWER: Access = Access::Least(UserRole::Viewer);
const OPERATOR: Access = Access::Least(UserRole::Operator);
const ADMIN: Access = Access::Least(UserRole::Admin);

/// Every method that is served, as gRPC names it. What is not here is refused.
pub const METHODS: &[(&str, Access)] = &[
    ("/ballast.admin.v1.ConfigService/Apply", OPERATOR),
    ("/ballast.admin.v1.ConfigService/Validate", VIEWER),
    ("/ballast.admin.v1.ConfigService/Diff", VIEWER),
    ("/ballast.admin.v1.ConfigService/Get", VIEWER),
    ("/ballast.admin.v1.ConfigService/Export", VIEWER),
    ("/ballast.admin.v1.ConfigService/ListRevisions", VIEWER),
    ("/ballast.admin.v1.ConfigService/GetRevision", VIEWER),
    ("/ballast.admin.v1.ConfigService/Rollback", OPERATOR),
    ("/ballast.admin.v1.ConfigService/Watch", VIEWER),
    ("/ballast.admin.v1.ClusterService/Status", VIEWER),
    ("/ballast.admin.v1.ClusterService/GetNodeStatus", VIEWER),
    ("/ballast.admin.v1.ClusterService/ListNodes", VIEWER),
    ("/ballast.admin.v1.ClusterService/CreateJoinToken", ADMIN),
    ("/ballast.admin.v1.ClusterService/DrainNode", OPERATOR),
    ("/ballast.admin.v1.ClusterService/EnableNode", OPERATOR),
    ("/ballast.admin.v1.ClusterService/PromoteNode", ADMIN),
    ("/ballast.admin.v1.ClusterService/DemoteNode", ADMIN),
    ("/ballast.admin.v1.ClusterService/RemoveNode", ADMIN),
    ("/ballast.admin.v1.ClusterService/TransferLeader", ADMIN),
    ("/ballast.admin.v1.ClusterService/RotateCookieKey", ADMIN),
    ("/ballast.admin.v1.ClusterService/Snapshot", ADMIN),
    ("/ballast.admin.v1.BackendService/List", VIEWER),
    ("/ballast.admin.v1.BackendService/Get", VIEWER),
    ("/ballast.admin.v1.BackendService/Drain", OPERATOR),
    ("/ballast.admin.v1.BackendService/Enable", OPERATOR),
    ("/ballast.admin.v1.BackendService/Maintenance", OPERATOR),
    ("/ballast.admin.v1.BackendService/SetWeight", OPERATOR),
    ("/ballast.admin.v1.VipService/List", VIEWER),
    ("/ballast.admin.v1.VipService/Move", OPERATOR),
    ("/ballast.admin.v1.VipService/ListTransitions", VIEWER),
    ("/ballast.admin.v1.VipService/Watch", VIEWER),
    ("/ballast.admin.v1.VipService/PlanFailover", VIEWER),
    ("/ballast.admin.v1.BindingService/List", VIEWER),
    ("/ballast.admin.v1.BindingService/Get", VIEWER),
    ("/ballast.admin.v1.BindingService/Move", OPERATOR),
    ("/ballast.admin.v1.BindingService/Delete", OPERATOR),
    ("/ballast.admin.v1.BindingService/Pin", OPERATOR),
    ("/ballast.admin.v1.SessionService/ListKeyspaces", VIEWER),
    // Whoever knows a session's key can take the session over, so lists of keys are not for viewers. To ask about a key
    // is: the caller knows it already.
    ("/ballast.admin.v1.SessionService/ListKeys", OPERATOR),
    ("/ballast.admin.v1.SessionService/TopKeys", OPERATOR),
    ("/ballast.admin.v1.SessionService/GetKey", VIEWER),
    ("/ballast.admin.v1.SessionService/DeleteKey", OPERATOR),
    ("/ballast.admin.v1.SessionService/Stats", VIEWER),
    ("/ballast.admin.v1.SessionService/Flush", OPERATOR),
    ("/ballast.admin.v1.ExplainService/Explain", VIEWER),
    ("/ballast.admin.v1.EventService/List", VIEWER),
    ("/ballast.admin.v1.EventService/Watch", VIEWER),
    ("/ballast.admin.v1.EnrolService/Enrol", Access::Open),
    ("/ballast.admin.v1.CertificateService/IssueUser", ADMIN),
    ("/ballast.admin.v1.CertificateService/RenewNode", Access::Node),
    ("/ballast.admin.v1.CertificateService/ListUsers", VIEWER),
    ("/ballast.admin.v1.CertificateService/RevokeUser", ADMIN),
    ("/grpc.health.v1.Health/Check", VIEWER),
    ("/grpc.health.v1.Health/Watch", VIEWER),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VIEWER),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", VIEWER),
];

/// Who may call `method`; `None` when there is no such method.
pub fn access_of(method: &str) -> Option<Access> {
    METHODS.iter().find(|(name, _)| *name == method).map(|(_, access)| *access)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn methods_of(set: &[u8], package: &str) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(set).expect("a descriptor set");
        set.file
            .iter()
            .filter(|file| file.package() == package)
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
            })
            .collect()
    }

    fn listed(package: &str) -> BTreeSet<String> {
        let prefix = format!("/{package}.");
        METHODS.iter().map(|(name, _)| (*name).to_owned()).filter(|name| name.starts_with(&prefix)).collect()
    }

    #[test]
    fn every_method_is_in_the_table_and_nothing_else() {
        let ours = methods_of(ballast_proto::FILE_DESCRIPTOR_SET, "ballast.admin.v1");
        assert!(ours.len() > 30);
        assert_eq!(ours, listed("ballast.admin.v1"));
        let health = methods_of(tonic_health::pb::FILE_DESCRIPTOR_SET, "grpc.health.v1");
        assert_eq!(health, listed("grpc.health.v1"));
        let unique: BTreeSet<_> = METHODS.iter().map(|(name, _)| name).collect();
        assert_eq!(unique.len(), METHODS.len());
    }

    #[test]
    fn only_enrolment_is_open() {
        let open: Vec<_> =
            METHODS.iter().filter(|(_, access)| *access == Access::Open).map(|(name, _)| *name).collect();
        assert_eq!(open, ["/ballast.admin.v1.EnrolService/Enrol"]);
    }

    /// A method that changes something carries a message for the history; none of them is for viewers.
    #[test]
    fn viewers_change_nothing() {
        let set = FileDescriptorSet::decode(ballast_proto::FILE_DESCRIPTOR_SET).expect("a descriptor set");
        let file = set.file.iter().find(|file| file.package() == "ballast.admin.v1").expect("our package");
        let mut writes = 0;
        for service in &file.service {
            for method in &service.method {
                let input = method.input_type().rsplit('.').next().expect("a name");
                let message = file.message_type.iter().find(|message| message.name() == input).expect("its request");
                if message.field.iter().any(|field| matches!(field.name(), "message" | "request_id")) {
                    let name = format!("/ballast.admin.v1.{}/{}", service.name(), method.name());
                    assert!(
                        matches!(access_of(&name), Some(Access::Least(UserRole::Operator | UserRole::Admin))),
                        "{name}"
                    );
                    writes += 1;
                }
            }
        }
        assert!(writes > 15);
    }
}
