//! The packed form in which log entries and snapshots are kept: integers as LEB128, lengths before
//! contents, rare and structured values as canonical JSON.
//!
//! JSON for what is rare, because its decoder refuses a field it does not know. A replica that
//! silently ignored a field of a newer version would diverge; one that stops with a clear message
//! waits for its upgrade.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

/// Why bytes are not an entry or a snapshot. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer version.
    #[error("{what} has format version {found}, this ballastd knows {known}; upgrade this node")]
    Version {
        /// Which part.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest version that can be read.
        known: u32,
    },
    /// Not what was written.
    #[error("{what} is damaged")]
    Damaged {
        /// Which part.
        what: &'static str,
    },
    /// A value that this version does not know or that is damaged.
    #[error("{what} cannot be read: {detail}")]
    Value {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The source could not be read, or ended early.
    #[error("reading failed")]
    Io(#[from] io::Error),
}

/// Appends values to a buffer.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub(crate) fn slice(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn json<T: Serialize>(&mut self, value: &T) {
        let json = serde_json::to_vec(value).expect("our own types have string keys and no failing serializer");
        self.slice(&json);
    }
}

/// Bytes that [`Writer::varint`] writes.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Bytes of the JSON that [`Writer::json`] writes, without their length.
pub(crate) fn json_len<T: Serialize>(value: &T) -> usize {
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("our own types have string keys and no failing serializer");
    counter.0
}

/// Counts what is written.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes values from bytes that may be anything.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// How many bytes are left; an upper bound for the number of values to come.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Damaged { what: "the end of a record" }) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.bytes.split_at_checked(len).ok_or(DecodeError::Damaged { what: "a length" })?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Damaged { what: "a number" })
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::Damaged { what: "a number" })
    }

    pub(crate) fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Damaged { what: "a length" })?;
        self.take(len)
    }

    pub(crate) fn json<T: DeserializeOwned>(&mut self, what: &'static str) -> Result<T, DecodeError> {
        serde_json::from_slice(self.slice()?).map_err(|error| DecodeError::Value { what, detail: error.to_string() })
    }
}
