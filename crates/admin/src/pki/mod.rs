//! The cluster's certificates: who is who.
//!
//! A cluster makes its own authority (CA) when it begins. Nodes and people hold certificates of
//! that CA; the subject says who they are, and nothing else is believed of a peer:
//!
//! | | CN | OU | O |
//! |---|---|---|---|
//! | node | `node-<id>` | `node` | cluster id |
//! | person or program | its name | `admin`, `operator` or `viewer` | cluster id |
//!
//! Private keys never travel: whoever wants a certificate sends a signing request, and of that
//! only the public key is used. The CA's key is in the replicated state, sealed under the cluster
//! key that each node keeps beside its data, so that any node can enrol the next one and nobody
//! who copies the log can.
//!
//! Not here: who may call what ([`crate::access`]), where a node keeps its files (`ballastd`).

mod authority;
mod credentials;
mod files;
mod identity;
mod renewal;
mod seal;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod token;

pub use authority::{Authority, CERTIFICATE_LIFE_NODE, CERTIFICATE_LIFE_USER, Key, Request, new_cluster_id};
pub use credentials::{Credentials, Validity, day_of};
pub use files::write_private;
pub use identity::{CaPin, Identity, IdentityError, UserName, UserRole, fingerprint_of, identity_of};
pub use renewal::Renewal;
pub use seal::{ClusterKey, SealError, random_secret};
pub use tls::{
    Shown, admin_server, joining_client, node_client, node_server, server_name, session_server, steady_now, user_client,
};
pub use token::{JoinToken, TokenError, TokenSecret};

/// What went wrong with a key or certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate or key could not be made.
    #[error("cannot make {what}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// A signing request is not one, or its signature is wrong.
    #[error("the certificate signing request is not valid: {detail}; make a new one")]
    BadRequest {
        /// What is wrong with it.
        detail: String,
    },
    /// Something that should be PEM is not.
    #[error("{what} cannot be read: {detail}")]
    Unreadable {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A certificate's subject is not one of this cluster's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A sealed key cannot be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// rustls does not take the certificate or key.
    #[error("certificate and key cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    /// A verifier could not be built.
    #[error("the cluster's CA cannot be used to verify peers: {detail}")]
    Verifier {
        /// What rustls says.
        detail: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: std::path::PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
