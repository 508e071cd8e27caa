//! Ballast's administration: certificates, roles, gRPC services.
pub mod pki;
