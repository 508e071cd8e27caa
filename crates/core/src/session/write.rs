//! What goes through the log: commands that may change keys, as bytes.
//!
//! The first byte is the number of the rules by which the commands are carried out, commands go by numbers that never
//! change. A replica that does not know a number stops instead of guessing.

use std::fmt;

use bytes::Bytes;

use super::{
    call::{Call, Rules},
    spec::{Op, spec_of},
};
use crate::state::wire::{DecodeError, Reader, Writer, varint_len};

/// Commands that were sent one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Write {
    /// The commands, in order. Reads may be among them.
    pub calls: Vec<Call>,
    /// Whether nothing may come between them (`MULTI`). Otherwise each is for itself.
    pub atomic: bool,
    /// Nothing is done if one of these keys is not what it was.
    pub watched: Vec<Watched>,
}

/// A key as a connection saw it when it said `WATCH`.
#[derive(Clone, PartialEq, Eq)]
pub struct Watched {
    /// Where the key is.
    pub database: u16,
    /// The key.
    pub key: Bytes,
    /// As [`super::Sessions::version`] told it.
    pub version: u64,
}

/// Without the key, which may be as good as a password.
impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key in database {} at version {}", self.database, self.version)
    }
}

const ATOMIC: u8 = 1;

impl Write {
    /// One command for itself.
    pub fn one(call: Call) -> Self {
        Self { calls: vec![call], ..Self::default() }
    }

    /// The rules of its commands, all of which came together.
    pub(super) fn rules(&self) -> Rules {
        self.calls.iter().map(Call::rules).min().unwrap_or(Rules::NEWEST)
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.u8(self.rules() as u8);
        out.u8(if self.atomic { ATOMIC } else { 0 });
        out.varint(self.calls.len() as u64);
        for call in &self.calls {
            out.varint(call.spec().op as u64);
            out.varint(call.database.into());
            out.varint(call.args.len() as u64);
            call.args.iter().for_each(|arg| out.slice(arg));
        }
        out.varint(self.watched.len() as u64);
        for watched in &self.watched {
            out.varint(watched.database.into());
            out.slice(&watched.key);
            out.varint(watched.version);
        }
    }

    /// Bytes that [`Self::encode`] writes, exactly.
    pub(crate) fn encoded_len(&self) -> usize {
        let slice = |bytes: &Bytes| varint_len(bytes.len() as u64) + bytes.len();
        let call = |call: &Call| {
            varint_len(call.spec().op as u64)
                + varint_len(call.database.into())
                + varint_len(call.args.len() as u64)
                + call.args.iter().map(slice).sum::<usize>()
        };
        let watched =
            |watched: &Watched| varint_len(watched.database.into()) + slice(&watched.key) + varint_len(watched.version);
        2 + varint_len(self.calls.len() as u64)
            + self.calls.iter().map(call).sum::<usize>()
            + varint_len(self.watched.len() as u64)
            + self.watched.iter().map(watched).sum::<usize>()
    }

    pub(crate) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let damaged = || DecodeError::Damaged { what: "a command of the session store" };
        let rules = input.u8()?;
        let rules = Rules::of(rules).ok_or_else(|| DecodeError::Version {
            what: "a command of the session store",
            found: rules.into(),
            known: Rules::NEWEST as u32,
        })?;
        let atomic = match input.u8()? {
            0 => false,
            ATOMIC => true,
            _ => return Err(damaged()),
        };
        let count = input.varint()?;
        let mut calls = Vec::with_capacity(room(count, input.left() / 8));
        for _ in 0..count {
            calls.push(decode_call(input, rules)?);
        }
        let count = input.varint()?;
        let mut watched = Vec::with_capacity(room(count, input.left() / 8));
        for _ in 0..count {
            watched.push(Watched {
                database: database(input)?,
                key: Bytes::copy_from_slice(input.slice()?),
                version: input.varint()?,
            });
        }
        Ok(Self { calls, atomic, watched })
    }
}

fn decode_call(input: &mut Reader<'_>, rules: Rules) -> Result<Call, DecodeError> {
    let op = input.varint()?;
    let spec = spec_of(op).ok_or_else(|| DecodeError::Version {
        what: "the list of the session store's commands",
        found: u32::try_from(op).unwrap_or(u32::MAX),
        known: Op::NEWEST.into(),
    })?;
    let database = database(input)?;
    let count = input.varint()?;
    let mut args = Vec::with_capacity(room(count, input.left() / size_of::<Bytes>()));
    for _ in 0..count {
        args.push(Bytes::copy_from_slice(input.slice()?));
    }
    let damaged = DecodeError::Damaged { what: "a command of the session store" };
    Call::stored(spec, database, args, rules).ok_or(damaged)
}

fn database(input: &mut Reader<'_>) -> Result<u16, DecodeError> {
    u16::try_from(input.varint()?).map_err(|_| DecodeError::Damaged { what: "the number of a database" })
}

/// Room for as many things as are announced, but for no more than the bytes that are there can be.
fn room(announced: u64, possible: usize) -> usize {
    usize::try_from(announced).unwrap_or(usize::MAX).min(possible)
}
