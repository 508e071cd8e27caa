//! Secrets in the log: sealed under a key that is not in it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};

/// First byte of a sealed secret. Another one is refused, so that the form can change.
const VERSION: u8 = 1;

const NONCE_BYTES: usize = 12;

/// The key under which secrets in the log are sealed. Each node keeps it beside its data and
/// hands it to the nodes that it enrols; it is never in the log.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

/// Why a secret could not be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The form is not known.
    #[error("the sealed {purpose} is damaged or was written by a newer version of Ballast")]
    Form {
        /// What was sealed.
        purpose: String,
    },
    /// The tag is wrong.
    #[error(
        "the sealed {purpose} does not open: the cluster key is of another cluster, or the sealed bytes were changed"
    )]
    WrongKey {
        /// What was sealed.
        purpose: String,
    },
    /// The cryptographic library refused.
    #[error("the {purpose} could not be sealed")]
    Refused {
        /// What was to be sealed.
        purpose: String,
    },
    /// The text of a cluster key is not one.
    #[error("this is not a cluster key: 32 bytes in base64 are expected")]
    NotAKey,
}

/// 32 bytes that nobody can guess.
///
/// # Panics
/// When the system has no random generator that works: nothing could be kept secret then.
pub fn random_secret() -> [u8; 32] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    bytes
}

impl ClusterKey {
    /// A random key.
    pub fn generate() -> Self {
        Self(random_secret())
    }

    /// Wraps 32 bytes that came from another node.
    ///
    /// # Errors
    /// [`SealError::NotAKey`] when there are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        bytes.try_into().map(Self).map_err(|_| SealError::NotAKey)
    }

    /// The bare key. A secret.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the text that [`ClusterKey::to_text`] made.
    ///
    /// # Errors
    /// [`SealError::NotAKey`].
    pub fn from_text(text: &str) -> Result<Self, SealError> {
        Self::from_bytes(&BASE64_STANDARD_NO_PAD.decode(text.trim()).map_err(|_| SealError::NotAKey)?)
    }

    /// The key as text for a file. A secret.
    pub fn to_text(&self) -> String {
        format!("{}\n", BASE64_STANDARD_NO_PAD.encode(self.0))
    }

    /// Derives 32 bytes for one purpose, the same on every node.
    pub fn derive(&self, purpose: &str, input: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&(purpose.len() as u64).to_le_bytes()).update(purpose.as_bytes()).update(input);
        *hasher.finalize().as_bytes()
    }

    /// Seals a secret with AES-256-GCM, bound to its purpose.
    ///
    /// # Errors
    /// [`SealError::Refused`] when the cryptographic library refuses, which is not expected.
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let refused = |_| SealError::Refused { purpose: purpose.to_owned() };
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0).map_err(refused)?;
        let mut text = secret.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(purpose), &mut text).map_err(refused)?;
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Opens what [`ClusterKey::seal`] made for the same purpose.
    ///
    /// # Errors
    /// [`SealError::Form`] or [`SealError::WrongKey`].
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let form = || SealError::Form { purpose: purpose.to_owned() };
        let wrong = |_| SealError::WrongKey { purpose: purpose.to_owned() };
        let Some((&VERSION, rest)) = sealed.split_first() else { return Err(form()) };
        let (nonce, text) = rest.split_at_checked(NONCE_BYTES).ok_or_else(form)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| form())?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0).map_err(wrong)?;
        let mut text = text.to_vec();
        let length = key.open_in_place(nonce, Aad::from(purpose), &mut text).map_err(wrong)?.len();
        text.truncate(length);
        Ok(text)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}
