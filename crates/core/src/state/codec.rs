//! Log entries as bytes.
//!
//! Bindings, renewals and commands of the session store are nearly all that a busy log holds, so they are packed (a
//! binding takes about 24 bytes); every other command is rare and is JSON. The first byte is the version of the format.

use super::{
    Command, Entry, Frame, Origin, RehomeCause,
    wire::{DecodeError, Reader, Writer, json_len, varint_len},
};
use crate::{
    config::rules,
    ids::{BackendId, Boot, NodeId, ServiceId},
    persistence::KeyHash,
    session,
    time::LogTime,
};

const VERSION: u8 = 1;

const BIND: u8 = 1;
const BIND_REPLACING: u8 = 2;
const RENEW: u8 = 3;
const TICK: u8 = 4;
const OTHER: u8 = 5;
const SESSION: u8 = 6;
const LEARN: u8 = 7;

/// Bytes of one command. The largest are a value of the session store, which the document bounds by this, and a
/// configuration document, of which one of a thousand farms takes about a megabyte. Well below what one message between
/// nodes may take.
pub const COMMAND_BYTES_MAX: usize = 16 << 20;

/// The bytes of an entry.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(VERSION);
    out.varint(entry.log_time.as_millis());
    out.varint(entry.frames.len() as u64);
    for frame in &entry.frames {
        out.varint(frame.origin.node.get());
        out.u64(frame.origin.boot.0);
        out.varint(frame.seq);
        out.varint(frame.commands.len() as u64);
        for command in &frame.commands {
            encode_command(command, &mut out);
        }
    }
    out.into_bytes()
}

/// The entry that `bytes` are. Never panics; allocates in proportion to `bytes`.
///
/// # Errors
/// [`DecodeError::Version`] for an entry of a newer version, otherwise what is damaged.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    read_entry(bytes, &mut None)
}

/// The place, among all commands of an entry, of the one for which [`decode_entry`] refuses it; `None` if it is none of
/// them.
pub fn unreadable_command(bytes: &[u8]) -> Option<usize> {
    let mut reading = None;
    drop(read_entry(bytes, &mut reading));
    reading
}

/// The entry that `bytes` are; `reading` is the place of the command that is being read.
fn read_entry(bytes: &[u8], reading: &mut Option<usize>) -> Result<Entry, DecodeError> {
    let mut input = Reader::new(bytes);
    let version = input.u8()?;
    if version != VERSION {
        return Err(DecodeError::Version { what: "a log entry", found: version.into(), known: VERSION.into() });
    }
    let log_time = LogTime::from_millis(input.varint()?);
    let mut frames = Vec::new();
    let mut read = 0;
    for _ in 0..input.varint()? {
        let origin = Origin { node: NodeId::new(input.varint()?), boot: Boot(input.u64()?) };
        let seq = input.varint()?;
        let count = input.varint()?;
        let mut commands = Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(input.left() / 16));
        for _ in 0..count {
            *reading = Some(read);
            commands.push(decode_command(&mut input)?);
            read += 1;
        }
        *reading = None;
        frames.push(Frame { origin, seq, commands });
    }
    input.end()?;
    Ok(Entry { log_time, frames })
}

/// The bytes of one command, as they are inside an entry. For carrying commands between nodes.
pub fn encode_commands(commands: &[Command]) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(VERSION);
    for command in commands {
        encode_command(command, &mut out);
    }
    out.into_bytes()
}

/// The commands that [`encode_commands`] made `bytes` of.
///
/// # Errors
/// As [`decode_entry`].
pub fn decode_commands(bytes: &[u8]) -> Result<Vec<Command>, DecodeError> {
    let mut input = Reader::new(bytes);
    let version = input.u8()?;
    if version != VERSION {
        return Err(DecodeError::Version { what: "a command", found: version.into(), known: VERSION.into() });
    }
    let mut commands = Vec::new();
    while input.left() > 0 {
        commands.push(decode_command(&mut input)?);
    }
    Ok(commands)
}

/// Bytes that a command takes in an entry, exactly. Costs no allocation; an uncommon command is serialised for it.
pub fn encoded_len(command: &Command) -> usize {
    const KEY: usize = size_of::<u128>();
    match command {
        Command::Bind { service, choice, replaces, .. } => {
            let replaced = replaces.map_or(0, |(old, _)| varint_len(old.get().into()) + 1);
            1 + varint_len(service.get().into()) + KEY + varint_len(choice.get().into()) + replaced
        }
        Command::Learn { service, teacher, .. } => {
            1 + varint_len(service.get().into()) + KEY + varint_len(teacher.get().into())
        }
        Command::Renew { service, .. } => 1 + varint_len(service.get().into()) + KEY,
        Command::Tick => 1,
        Command::Session(write) => 1 + write.encoded_len(),
        other => {
            let json = json_len(other);
            1 + varint_len(json as u64) + json
        }
    }
}

fn encode_command(command: &Command, out: &mut Writer) {
    match command {
        Command::Bind { service, key, choice, replaces } => {
            out.u8(if replaces.is_some() { BIND_REPLACING } else { BIND });
            out.varint(service.get().into());
            out.u128(key.as_u128());
            out.varint(choice.get().into());
            if let Some((old, cause)) = replaces {
                out.varint(old.get().into());
                out.u8(cause_code(*cause));
            }
        }
        Command::Learn { service, key, teacher } => {
            out.u8(LEARN);
            out.varint(service.get().into());
            out.u128(key.as_u128());
            out.varint(teacher.get().into());
        }
        Command::Renew { service, key } => {
            out.u8(RENEW);
            out.varint(service.get().into());
            out.u128(key.as_u128());
        }
        Command::Tick => out.u8(TICK),
        Command::Session(write) => {
            out.u8(SESSION);
            write.encode(out);
        }
        other => {
            out.u8(OTHER);
            out.json(other);
        }
    }
}

fn decode_command(input: &mut Reader<'_>) -> Result<Command, DecodeError> {
    Ok(match input.u8()? {
        tag @ (BIND | BIND_REPLACING) => Command::Bind {
            service: ServiceId::new(input.varint_u32()?),
            key: KeyHash::from_u128(input.u128()?),
            choice: BackendId::new(input.varint_u32()?),
            replaces: match tag {
                BIND => None,
                _ => Some((BackendId::new(input.varint_u32()?), cause_of(input.u8()?)?)),
            },
        },
        LEARN => Command::Learn {
            service: ServiceId::new(input.varint_u32()?),
            key: KeyHash::from_u128(input.u128()?),
            teacher: BackendId::new(input.varint_u32()?),
        },
        RENEW => {
            Command::Renew { service: ServiceId::new(input.varint_u32()?), key: KeyHash::from_u128(input.u128()?) }
        }
        TICK => Command::Tick,
        SESSION => Command::Session(Box::new(session::Write::decode(input)?)),
        OTHER => applicable(input.json("a command")?)?,
        tag => {
            return Err(DecodeError::Value {
                what: "a command",
                detail: format!("kind {tag} is not known to this ballastd; upgrade this node"),
            });
        }
    })
}

/// A document under rules of a later release is as unreadable as a command of one: this node must not guess.
fn applicable(command: Command) -> Result<Command, DecodeError> {
    match command {
        Command::ApplyConfig(apply) if !rules::knows(apply.rules) => {
            let what = "a configuration document";
            Err(DecodeError::Version { what, found: apply.rules, known: rules::RULES })
        }
        command => Ok(command),
    }
}

const fn cause_code(cause: RehomeCause) -> u8 {
    match cause {
        RehomeCause::BackendDown => 1,
        RehomeCause::BackendMaintenance => 2,
        RehomeCause::BackendRemoved => 3,
        RehomeCause::ConnectFailed => 4,
        RehomeCause::Operator => 5,
    }
}

fn cause_of(code: u8) -> Result<RehomeCause, DecodeError> {
    Ok(match code {
        1 => RehomeCause::BackendDown,
        2 => RehomeCause::BackendMaintenance,
        3 => RehomeCause::BackendRemoved,
        4 => RehomeCause::ConnectFailed,
        5 => RehomeCause::Operator,
        _ => return Err(DecodeError::Damaged { what: "a re-homing cause" }),
    })
}
