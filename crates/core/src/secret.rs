//! Key material that no log line or panic may show.

use std::{fmt, ops::Deref};

use serde::{Deserialize, Serialize};

/// A secret of `N` bytes. Used and encoded like the bytes; shown as `Secret`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent, bound(serialize = "[u8; N]: Serialize", deserialize = "[u8; N]: Deserialize<'de>"))]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> From<[u8; N]> for Secret<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> Deref for Secret<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_encoded_like_its_bytes_and_shown_as_nothing() {
        let secret = Secret::from([7; 16]);
        let encoded = serde_json::to_string(&secret).expect("it has a form");
        assert_eq!(encoded, serde_json::to_string(&[7_u8; 16]).expect("it has a form"));
        assert_eq!(serde_json::from_str::<Secret<16>>(&encoded).expect("what was encoded"), secret);
        assert_eq!((format!("{secret:?}"), *secret), ("Secret".to_owned(), [7; 16]));
    }
}
