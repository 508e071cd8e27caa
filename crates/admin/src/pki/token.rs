//! Join tokens: everything a machine needs to know to join, in one line of text.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::CaPin;

/// What every token of this form begins with.
const PREFIX: &str = "blst1.";

/// A checksum tells a damaged token from one that is not known to the cluster.
const CHECK_BYTES: usize = 4;

/// Arbitrary, and harmless: more members than this are not needed to find one that answers.
const ADDRESSES_MAX: usize = 16;

/// The part of a join token that only its holder knows. The log keeps its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret([u8; 32]);

impl TokenSecret {
    /// Wraps 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bare secret.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// BLAKE3 of the secret, as the log keeps it.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(secret)")
    }
}

/// What a machine needs to join a cluster. Its text is a secret until it is used or expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// `host:port` of admin APIs, any of which can enrol.
    pub addresses: Vec<String>,
    /// The CA that their certificates must lead to.
    pub pin: CaPin,
    /// What the cluster knows the token by.
    pub secret: TokenSecret,
}

/// Why a text is not a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as one.
    #[error("this is not a join token: one begins with blst1. and is printed by `ballastctl node join-token`")]
    NotAToken,
    /// It begins as a token of a later form.
    #[error("this join token was made by a newer version of Ballast; install that version here first")]
    Newer,
    /// It is cut off or changed.
    #[error("the join token is damaged: copy it again, whole and on one line")]
    Damaged,
    /// It has too many addresses, or one that is too long.
    #[error("a join token carries 1 to 16 addresses of at most 255 characters")]
    Addresses,
}

impl JoinToken {
    /// The token as text.
    ///
    /// # Errors
    /// [`TokenError::Addresses`].
    pub fn to_text(&self) -> Result<String, TokenError> {
        if !(1..=ADDRESSES_MAX).contains(&self.addresses.len()) {
            return Err(TokenError::Addresses);
        }
        let mut bytes = vec![self.addresses.len() as u8];
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).map_err(|_| TokenError::Addresses)?);
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(self.pin.as_bytes());
        bytes.extend_from_slice(self.secret.as_bytes());
        bytes.extend_from_slice(&check(&bytes));
        Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let newer = text.strip_prefix("blst").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if newer { TokenError::Newer } else { TokenError::NotAToken });
        };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?;
        let at = bytes.len().checked_sub(CHECK_BYTES).ok_or(TokenError::Damaged)?;
        let (content, sum) = bytes.split_at(at);
        if check(content) != sum {
            return Err(TokenError::Damaged);
        }
        let mut reader = Reader(content);
        let count = reader.take(1)?[0];
        let addresses = (0..count)
            .map(|_| {
                let length = usize::from(reader.take(1)?[0]);
                String::from_utf8(reader.take(length)?.to_vec()).map_err(|_| TokenError::Damaged)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let pin = CaPin::from_bytes(reader.array()?);
        let secret = TokenSecret::from_bytes(reader.array()?);
        if !reader.0.is_empty() || addresses.is_empty() {
            return Err(TokenError::Damaged);
        }
        Ok(Self { addresses, pin, secret })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], TokenError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(TokenError::Damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn array(&mut self) -> Result<[u8; 32], TokenError> {
        self.take(32)?.try_into().map_err(|_| TokenError::Damaged)
    }
}

fn check(content: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::hash(content);
    hash.as_bytes()[..CHECK_BYTES].try_into().expect("a hash is longer than the checksum")
}
