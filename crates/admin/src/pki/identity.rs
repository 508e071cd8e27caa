//! Who a certificate says its holder is.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use ballast_core::ids::NodeId;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::PkiError;

/// Somebody whose certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A node of the cluster.
    Node(NodeId),
    /// A person or program.
    User {
        /// Its name, as the history shows it.
        name: UserName,
        /// What it may do.
        role: UserRole,
    },
}

/// What a person or program may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserRole {
    /// Reads everything that is not secret.
    Viewer,
    /// Changes what is served: configuration, backends, VIPs, bindings, drains.
    Operator,
    /// Changes the cluster itself: members, certificates.
    Admin,
}

impl UserRole {
    /// As it is written in certificates and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for UserRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UserRole {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| IdentityError::Role { text: text.to_owned() })
    }
}

/// Name of a person or program: 1 to 64 of `A-Z a-z 0-9 . _ - @`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserName(String);

impl UserName {
    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
        // The history writes root over the unix socket, and nodes, in this form.
        let reserved = text.starts_with("root@") || text.starts_with("ballastd@");
        if (1..=64).contains(&text.len()) && text.chars().all(allowed) && !reserved {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdentityError::Name { text: text.to_owned() })
        }
    }
}

/// Why a certificate, although signed by the right CA, names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is of another cluster.
    #[error("the certificate belongs to cluster {found:?}, this is cluster {expected:?}")]
    OtherCluster {
        /// This cluster.
        expected: String,
        /// The certificate's.
        found: String,
    },
    /// The role is none.
    #[error("{text:?} is not a role; use admin, operator or viewer")]
    Role {
        /// What it says.
        text: String,
    },
    /// The name is none.
    #[error(
        "{text:?} is not a name; use 1 to 64 letters, digits, '.', '_', '-' and '@', not beginning with root@ or ballastd@"
    )]
    Name {
        /// What it says.
        text: String,
    },
    /// The subject is not in the form that Ballast writes.
    #[error("the certificate's subject is not one of Ballast's: {detail}")]
    Subject {
        /// What is wrong with it.
        detail: String,
    },
}

/// Reads who a verified certificate belongs to.
///
/// # Errors
/// When the certificate cannot be read, is of another cluster, or its subject names nobody.
pub fn identity_of(certificate: &CertificateDer<'_>, cluster_id: &str) -> Result<Identity, PkiError> {
    let parsed = parse(certificate)?;
    let subject = Subject::read(parsed.subject())?;
    if subject.organization != cluster_id {
        return Err(IdentityError::OtherCluster {
            expected: cluster_id.to_owned(),
            found: subject.organization.to_owned(),
        }
        .into());
    }
    if subject.unit == "node" {
        let id =
            subject.name.strip_prefix("node-").and_then(|digits| digits.parse().ok()).ok_or_else(|| {
                IdentityError::Subject { detail: format!("a node cannot be called {:?}", subject.name) }
            })?;
        return Ok(Identity::Node(NodeId::new(id)));
    }
    Ok(Identity::User { name: subject.name.parse()?, role: subject.unit.parse()? })
}

/// A certificate's fingerprint, by which the log knows it: SHA-256 of what the CA signed (the DER of the
/// TBSCertificate, RFC 5280 section 4.1.1.1), not of the whole.
///
/// The signature stands outside of what is signed, and of an ECDSA signature `(r, s)` anybody can make another valid
/// one, `(r, n - s)`. A hash of the whole would let the holder of a revoked certificate change it into one that the log
/// does not know and that still verifies.
///
/// # Errors
/// When the certificate cannot be read.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<[u8; 32], PkiError> {
    let parsed = parse(certificate)?;
    let hash = digest::digest(&digest::SHA256, parsed.tbs_certificate.as_ref());
    Ok(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// The cluster that a CA's certificate belongs to.
pub(super) fn cluster_of_ca(certificate: &CertificateDer<'_>) -> Result<String, PkiError> {
    let parsed = parse(certificate)?;
    let subject = Subject::read(parsed.subject())?;
    if subject.unit != "ca" || !parsed.is_ca() {
        return Err(IdentityError::Subject { detail: "it is not a cluster's CA".to_owned() }.into());
    }
    Ok(subject.organization.to_owned())
}

pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(e) => Err(PkiError::Unreadable { what: "the certificate", detail: e.to_string() }),
    }
}

struct Subject<'a> {
    name: &'a str,
    unit: &'a str,
    organization: &'a str,
}

impl<'a> Subject<'a> {
    /// Each part must be there exactly once, so that no second one can be read by somebody else.
    fn read(subject: &'a X509Name<'a>) -> Result<Self, IdentityError> {
        let detail = |what: &str| IdentityError::Subject { detail: format!("{what} is missing or not unique") };
        let mut names = subject.iter_common_name();
        let mut units = subject.iter_organizational_unit();
        let mut organizations = subject.iter_organization();
        let name = (names.next(), names.next());
        let unit = (units.next(), units.next());
        let organization = (organizations.next(), organizations.next());
        match (name, unit, organization) {
            ((Some(name), None), (Some(unit), None), (Some(organization), None)) => Ok(Self {
                name: name.as_str().map_err(|_| detail("CN"))?,
                unit: unit.as_str().map_err(|_| detail("OU"))?,
                organization: organization.as_str().map_err(|_| detail("O"))?,
            }),
            _ => Err(detail("one of CN, OU and O")),
        }
    }
}

/// SHA-256 of a CA's public key (SubjectPublicKeyInfo): enough to know the CA by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CaPin([u8; 32]);

impl CaPin {
    /// Wraps a hash that came from a token.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bare hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The pin of a certificate.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        Ok(Self::of_public_key(parse(certificate)?.tbs_certificate.subject_pki.raw))
    }

    pub(super) fn of_public_key(info: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, info);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaPin({self})")
    }
}
