//! The cluster's CA: makes itself once, then signs nodes and people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballast_core::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};

use super::{
    CaPin, ClusterKey, PkiError, UserName, UserRole,
    credentials::{Credentials, Validity, parse_certificate},
    identity::cluster_of_ca,
};

/// How long a node's certificate is good for from when it is made. A node renews its own after two thirds of it.
pub const CERTIFICATE_LIFE_NODE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a person's certificate is good for when nothing else is asked.
pub const CERTIFICATE_LIFE_USER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Twenty years: the CA is the cluster's identity and lasts as long as the cluster.
const CERTIFICATE_LIFE_CA: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// The CA's certificate and people's begin a day before they are made, so that a machine whose clock is somewhat
/// behind can use them at once.
const BACKDATE: Duration = Duration::from_secs(24 * 3600);

/// What the sealed CA key is bound to, so that no other sealed secret is taken for it.
const SEAL_PURPOSE: &str = "ballast ca key";

/// A random cluster id: 32 hexadecimal digits, also a valid DNS label.
pub fn new_cluster_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The cluster's CA with its private key.
pub struct Authority {
    cluster_id: String,
    certificate_pem: String,
    pin: CaPin,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the CA of a new cluster.
    ///
    /// # Errors
    /// [`PkiError::Make`] when the cryptographic library refuses, which is not expected.
    pub fn create(cluster_id: &str, now: SystemTime) -> Result<Self, PkiError> {
        let make = |source| PkiError::Make { what: "the cluster's CA", source };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&format!("Ballast CA {cluster_id}"), "ca", cluster_id);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        set_window(&mut params, Validity { not_before: now - BACKDATE, not_after: now + CERTIFICATE_LIFE_CA });
        let certificate = params.self_signed(&key).map_err(make)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// Puts a CA together from its certificate and key.
    ///
    /// # Errors
    /// When either is unreadable, or they do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem)
            .map_err(|e| PkiError::Unreadable { what: "the CA's key", detail: e.to_string() })?;
        let der = parse_certificate(certificate_pem, "the CA's certificate")?;
        let pin = CaPin::of(&der)?;
        if pin != CaPin::of_public_key(&key.subject_public_key_info()) {
            return Err(PkiError::Unreadable {
                what: "the CA's key",
                detail: "it does not belong to the CA's certificate".to_owned(),
            });
        }
        let (cluster_id, validity) = (cluster_of_ca(&der)?, Validity::of(&der)?);
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|e| PkiError::Unreadable { what: "the CA's certificate", detail: e.to_string() })?;
        Ok(Self { cluster_id, certificate_pem: certificate_pem.to_owned(), pin, validity, issuer })
    }

    /// Opens a CA whose key is sealed, as the replicated state has it.
    ///
    /// # Errors
    /// [`PkiError::Seal`] when the cluster key is another one or the sealed key was changed.
    pub fn open(certificate_pem: &str, sealed_key: &[u8], key: &ClusterKey) -> Result<Self, PkiError> {
        let opened = key.open(SEAL_PURPOSE, sealed_key)?;
        let key_pem = String::from_utf8(opened)
            .map_err(|e| PkiError::Unreadable { what: "the CA's key", detail: e.utf8_error().to_string() })?;
        Self::from_pem(certificate_pem, &key_pem)
    }

    /// Seals the CA's key for the replicated state.
    ///
    /// # Errors
    /// [`PkiError::Seal`] when the cryptographic library refuses, which is not expected.
    pub fn seal_key(&self, key: &ClusterKey) -> Result<Vec<u8>, PkiError> {
        Ok(key.seal(SEAL_PURPOSE, self.issuer.key().serialize_pem().as_bytes())?)
    }

    /// The cluster that this is the CA of.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The CA's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of the CA's public key, as join tokens carry it.
    pub fn pin(&self) -> CaPin {
        self.pin
    }

    /// Signs a node's certificate. It begins with the CA's and never ends after it.
    ///
    /// Whoever makes one for itself may have a clock that is wrong by any amount, and the others judge it by theirs: with a
    /// beginning of its own they would refuse it until their clocks are there.
    ///
    /// # Errors
    /// [`PkiError::Make`] when the cryptographic library refuses, which is not expected.
    pub fn sign_node(&self, node: NodeId, request: &Request, now: SystemTime) -> Result<String, PkiError> {
        let cluster = &self.cluster_id;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&format!("node-{node}"), "node", cluster);
        params.subject_alt_names =
            ["localhost".to_owned(), format!("{cluster}.ballast"), format!("node-{node}.{cluster}.ballast")]
                .into_iter()
                .map(|name| Ok(SanType::DnsName(name.try_into()?)))
                .collect::<Result<_, rcgen::Error>>()
                .map_err(|source| PkiError::Make { what: "the names in a node's certificate", source })?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let Validity { not_before, not_after } = self.validity;
        let not_after = now.checked_add(CERTIFICATE_LIFE_NODE).map_or(not_after, |end| end.min(not_after));
        self.sign(params, request, Validity { not_before, not_after })
    }

    /// Signs the certificate of a person or program.
    ///
    /// # Errors
    /// [`PkiError::Make`] when the cryptographic library refuses, which is not expected.
    pub fn sign_user(
        &self,
        name: &UserName,
        role: UserRole,
        request: &Request,
        now: SystemTime,
        life: Duration,
    ) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name.as_str(), role.as_str(), &self.cluster_id);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, request, Validity { not_before: now - BACKDATE, not_after: now + life })
    }

    /// Signs a certificate for a key of this machine, as `init` does for the first one.
    ///
    /// # Errors
    /// As [`Authority::sign_node`].
    pub fn issue_node(&self, node: NodeId, key: &Key, now: SystemTime) -> Result<Credentials, PkiError> {
        let leaf = self.sign_node(node, &key.public(), now)?;
        Credentials::new(&leaf, &self.certificate_pem, &key.to_pem())
    }

    /// Makes a key and certificate for a person or program on this machine, as `init` does for the
    /// first administrator.
    ///
    /// # Errors
    /// As [`Authority::sign_user`].
    pub fn issue_user(
        &self,
        name: &UserName,
        role: UserRole,
        now: SystemTime,
        life: Duration,
    ) -> Result<Credentials, PkiError> {
        let key = Key::generate()?;
        let leaf = self.sign_user(name, role, &key.public(), now, life)?;
        Credentials::new(&leaf, &self.certificate_pem, &key.to_pem())
    }

    fn sign(&self, mut params: CertificateParams, request: &Request, validity: Validity) -> Result<String, PkiError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        // Random, because rcgen derives it from the key otherwise and a renewal may keep the key.
        params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
        set_window(&mut params, validity);
        let certificate = params
            .signed_by(request, &self.issuer)
            .map_err(|source| PkiError::Make { what: "a certificate", source })?;
        Ok(certificate.pem())
    }
}

/// A private key, ECDSA P-256. Never leaves the machine on which it was made.
pub struct Key(KeyPair);

impl Key {
    /// Makes a key.
    ///
    /// # Errors
    /// [`PkiError::Make`] when the cryptographic library refuses, which is not expected.
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate().map(Self).map_err(|source| PkiError::Make { what: "a key", source })
    }

    /// Reads a key in PEM.
    ///
    /// # Errors
    /// [`PkiError::Unreadable`] when it is not one.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        KeyPair::from_pem(pem)
            .map(Self)
            .map_err(|e| PkiError::Unreadable { what: "the private key", detail: e.to_string() })
    }

    /// The key in PEM. A secret.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Makes a signing request, PEM. Its subject is empty; the CA sets it.
    ///
    /// # Errors
    /// [`PkiError::Make`] when the cryptographic library refuses, which is not expected.
    pub fn request(&self) -> Result<String, PkiError> {
        let make = |source| PkiError::Make { what: "a certificate signing request", source };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.0).and_then(|request| request.pem()).map_err(make)
    }

    /// The public half, to be signed on this machine.
    pub fn public(&self) -> Request {
        Request { raw: self.0.der_bytes().to_vec(), algorithm: PublicKeyData::algorithm(&self.0) }
    }
}

/// The public key of somebody who wants a certificate, and nothing else of what they sent.
pub struct Request {
    raw: Vec<u8>,
    algorithm: &'static rcgen::SignatureAlgorithm,
}

impl Request {
    /// Reads a signing request. Its signature proves that the sender has the private key.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`] when it is not a request, is not signed by its own key, or its key
    /// is of a kind that Ballast does not use (ECDSA P-256, P-384 and Ed25519 are).
    pub fn from_pem(csr_pem: &str) -> Result<Self, PkiError> {
        let bad = |detail: String| PkiError::BadRequest { detail };
        let parsed = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|e| bad(e.to_string()))?;
        let accepted = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        let algorithm = accepted
            .into_iter()
            .find(|known| *known == parsed.public_key.algorithm())
            .ok_or_else(|| bad("its key is neither ECDSA P-256, ECDSA P-384 nor Ed25519".to_owned()))?;
        Ok(Self { raw: parsed.public_key.der_bytes().to_vec(), algorithm })
    }

    /// SHA-256 of the public key, by which the log knows a node that asks again.
    pub fn fingerprint(&self) -> [u8; 32] {
        *CaPin::of_public_key(&self.subject_public_key_info()).as_bytes()
    }
}

impl PublicKeyData for Request {
    fn der_bytes(&self) -> &[u8] {
        &self.raw
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

fn subject(name: &str, unit: &str, organization: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject.push(DnType::OrganizationalUnitName, unit);
    subject.push(DnType::OrganizationName, organization);
    subject
}

fn set_window(params: &mut CertificateParams, validity: Validity) {
    // The `time` crate's instant, made through rcgen so that it need not be a dependency of ours.
    let moment = |at: SystemTime| {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    };
    params.not_before = moment(validity.not_before);
    params.not_after = moment(validity.not_after);
}
