//! What a command of the session store answers.

use std::fmt;

use bytes::Bytes;

/// An answer, before it is put on the wire. The server writes it as RESP2 or RESP3.
#[derive(Clone, PartialEq)]
pub enum Reply {
    /// No value: `$-1` in RESP2, `_` in RESP3.
    Null,
    /// No array: `*-1` in RESP2 (an aborted `EXEC`), `_` in RESP3.
    NullArray,
    /// A short word: `+OK`.
    Simple(&'static str),
    /// A number.
    Integer(i64),
    /// A value.
    Bulk(Bytes),
    /// Several answers.
    Array(Vec<Reply>),
    /// Pairs: a flat array in RESP2, a map in RESP3.
    Map(Vec<(Reply, Reply)>),
    /// Pairs: a flat array in RESP2, an array of arrays of two in RESP3 (`HRANDFIELD ... WITHVALUES`).
    Pairs(Vec<(Reply, Reply)>),
    /// A set: an array in RESP2.
    Set(Vec<Reply>),
    /// An error: its code and what to do, without the leading `-`: `WRONGTYPE Operation against ...`.
    Error(Bytes),
}

/// Without values, which are nobody's business, and without what errors repeat of a command. Numbers are shown: most of
/// them are counts and lifetimes.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::NullArray => f.write_str("no array"),
            Self::Simple(word) => f.write_str(word),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bulk(value) => write!(f, "{} bytes", value.len()),
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Map(pairs) => f.debug_map().entries(pairs.iter().map(|(name, value)| (name, value))).finish(),
            Self::Pairs(pairs) => f.debug_list().entries(pairs).finish(),
            Self::Set(items) => f.debug_set().entries(items).finish(),
            Self::Error(text) => {
                let code = text.split(|byte| *byte == b' ').next().unwrap_or_default();
                write!(f, "error {} of {} bytes", String::from_utf8_lossy(code), text.len())
            }
        }
    }
}

impl Reply {
    /// `+OK`.
    pub const OK: Self = Self::Simple("OK");

    /// Stands for an answer that would be larger than `output_max` allows.
    pub const TOO_LARGE: Self = Self::error("ERR the answers are larger than output_max; ask for less at once");

    /// An error from words that are known beforehand.
    pub const fn error(text: &'static str) -> Self {
        Self::Error(Bytes::from_static(text.as_bytes()))
    }

    /// Whether it is an error.
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Whether it stands for a whole transaction that was not carried out: `EXEC` answers just this.
    pub fn aborts_exec(&self) -> bool {
        match self {
            Self::NullArray => true,
            Self::Error(text) => text.starts_with(b"EXECABORT"),
            _ => false,
        }
    }

    /// About what it takes in memory and on the wire.
    pub fn bytes(&self) -> u64 {
        const EACH: u64 = 16;
        let all = |items: &[Self]| items.iter().map(Self::bytes).sum::<u64>();
        let pairs = |pairs: &[(Self, Self)]| pairs.iter().map(|(a, b)| a.bytes() + b.bytes()).sum::<u64>();
        EACH + match self {
            Self::Null | Self::NullArray | Self::Simple(_) | Self::Integer(_) => 0,
            Self::Bulk(bytes) | Self::Error(bytes) => bytes.len() as u64,
            Self::Array(items) | Self::Set(items) => all(items),
            Self::Map(items) | Self::Pairs(items) => pairs(items),
        }
    }

    /// A value that is copied.
    pub(super) fn copy(value: &[u8]) -> Self {
        Self::Bulk(Bytes::copy_from_slice(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown() {
        let value = || Reply::Bulk(Bytes::from_static(b"sesame"));
        for (reply, shown) in [
            (Reply::OK, "OK"),
            (Reply::Integer(3), "3"),
            (Reply::Array(vec![value(), Reply::Null, Reply::NullArray]), "[6 bytes, null, no array]"),
            (Reply::Map(vec![(value(), value())]), "{6 bytes: 6 bytes}"),
            (Reply::Pairs(vec![(value(), value())]), "[(6 bytes, 6 bytes)]"),
            (Reply::Set(vec![value()]), "{6 bytes}"),
            (Reply::error("ERR unknown command 'sesame'"), "error ERR of 28 bytes"),
        ] {
            assert_eq!(format!("{reply:?}"), shown);
        }
    }
}
