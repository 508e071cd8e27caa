//! A key on its way through the log outside a [`super::Write`].

use std::{fmt, ops::Deref};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The bytes of a key. Written in hexadecimal, because they need not be text; shown as their number, because a key is as
/// good as a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Bytes);

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Deref for Key {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key of {} bytes", self.0.len())
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from(DIGITS[usize::from(half)]));
        to.serialize_str(&self.0.iter().flat_map(digits).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = |pair: &[u8]| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.map(|bytes| Self(bytes.into())).ok_or_else(|| D::Error::custom("a key is not hexadecimal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back_and_none_are_shown() {
        let key = Key::from(Bytes::from_static(b"sess:\x00\xff\x0a"));
        let encoded = serde_json::to_string(&key).expect("it has a form");
        assert_eq!(encoded, "\"736573733a00ff0a\"");
        assert_eq!(serde_json::from_str::<Key>(&encoded).expect("what was encoded"), key);
        assert_eq!(format!("{key:?}"), "a key of 8 bytes");
        for damaged in ["\"7\"", "\"7g\"", "\"+7\"", "\"é\""] {
            assert!(serde_json::from_str::<Key>(damaged).is_err(), "{damaged}");
        }
    }
}
