//! A key, its certificate and the CA that signed it: what somebody needs to speak TLS.

use std::{
    fmt, fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::{
    CaPin, Identity, PkiError, fingerprint_of,
    identity::{cluster_of_ca, parse},
    identity_of, write_private,
};

/// Key, certificate and CA of one node or person. Kept in one file, so that a renewal replaces
/// all of it in one step.
pub struct Credentials {
    certificate_pem: String,
    ca_pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    cluster_id: String,
    identity: Identity,
    fingerprint: [u8; 32],
}

impl Credentials {
    /// Puts them together.
    ///
    /// # Errors
    /// When a part is unreadable, or the certificate is not of the CA's cluster.
    pub fn new(certificate_pem: &str, ca_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let certificate = parse_certificate(certificate_pem, "the certificate")?;
        let ca = parse_certificate(ca_pem, "the CA's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| PkiError::Unreadable { what: "the private key", detail: e.to_string() })?;
        let cluster_id = cluster_of_ca(&ca)?;
        let identity = identity_of(&certificate, &cluster_id)?;
        let fingerprint = fingerprint_of(&certificate)?;
        let [certificate_pem, ca_pem, key_pem] =
            [certificate_pem, ca_pem, key_pem].map(|pem| pem.trim().to_owned() + "\n");
        Ok(Self { certificate_pem, ca_pem, key_pem, certificate, ca, key, cluster_id, identity, fingerprint })
    }

    /// Reads what [`Credentials::to_pem`] made: the key, the certificate, the CA's certificate.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        const WHAT: &str = "the file of key and certificates";
        let unreadable = |detail: String| PkiError::Unreadable { what: WHAT, detail };
        let blocks = blocks(pem);
        let labelled = |wanted: &str| {
            blocks.iter().filter(|(label, _)| label.ends_with(wanted)).map(|(_, text)| *text).collect::<Vec<_>>()
        };
        match (labelled("PRIVATE KEY").as_slice(), labelled("CERTIFICATE").as_slice()) {
            ([key], [certificate, ca]) => Self::new(certificate, ca, key),
            (keys, certificates) => Err(unreadable(format!(
                "one private key and two certificates (its own, then the CA's) are expected, there are {} and {}",
                keys.len(),
                certificates.len()
            ))),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`PkiError::File`] when it cannot be read; else as [`Credentials::new`].
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        let pem = fs::read_to_string(path).map_err(|source| PkiError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::from_pem(&pem)
    }

    /// Writes a file that only its owner can read, and replaces an old one in one step.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn store(&self, path: &Path) -> Result<(), PkiError> {
        write_private(path, self.to_pem().as_bytes())
    }

    /// All of it in PEM. A secret.
    pub fn to_pem(&self) -> String {
        [self.key_pem.as_str(), &self.certificate_pem, &self.ca_pem].concat()
    }

    /// The certificate alone.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's certificate alone.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The private key alone. A secret.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Who they belong to.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster they belong to.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The CA's certificate.
    pub const fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The pin of the CA.
    ///
    /// # Errors
    /// When the CA's certificate cannot be read.
    pub fn ca_pin(&self) -> Result<CaPin, PkiError> {
        CaPin::of(&self.ca)
    }

    /// From when until when the certificate is good.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn validity(&self) -> Result<Validity, PkiError> {
        Validity::of(&self.certificate)
    }

    /// The certificate's fingerprint, by which the log knows it: SHA-256 of what the CA signed, see [`fingerprint_of`].
    pub const fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The certificate and the CA's, as they are sent: a joining node finds its pin in the second.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.ca.clone()]
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("cluster_id", &self.cluster_id)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub not_before: SystemTime,
    /// Not after.
    pub not_after: SystemTime,
}

impl Validity {
    /// Reads it from a certificate.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let parsed = parse(certificate)?;
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let validity = parsed.validity();
        Ok(Self { not_before: at(validity.not_before.timestamp()), not_after: at(validity.not_after.timestamp()) })
    }

    /// Reads it from a certificate in PEM.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn of_pem(pem: &str) -> Result<Self, PkiError> {
        Self::of(&parse_certificate(pem, "the certificate")?)
    }
}

/// The day in UTC, as `2027-11-21`.
pub fn day_of(time: SystemTime) -> String {
    let mut text = prost_types::Timestamp::from(time).to_string();
    text.truncate(text.find('T').unwrap_or(text.len()));
    text
}

pub(super) fn parse_certificate(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::Unreadable { what, detail: e.to_string() })
}

/// The PEM blocks of a text with their labels.
fn blocks(pem: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some(begin) = rest.find("-----BEGIN ") {
        let block = &rest[begin..];
        let Some(end) = block.find("-----END ") else { break };
        let length = block[end..].find('\n').map_or(block.len(), |newline| end + newline + 1);
        let label = block["-----BEGIN ".len()..].split("-----").next().unwrap_or_default();
        found.push((label, &block[..length]));
        rest = &block[length..];
    }
    found
}
