//! How much of what was not sent commands may look at or write again.
//!
//! Nearly all commands cost what they take on the wire, which the server and the log bound. A few do not: `KEYS` looks at
//! all keys, `HGETALL` at all fields, and a byte in the middle of a large string has all of it hashed again. What these
//! do is counted in units of about a nanosecond and has an end, because whoever carries them out holds up others.
//!
//! What a walk comes to is an answer and changes nothing. What is written again decides whether a command is carried
//! out, so that is counted from lengths alone, which are the same on every replica, and is part of [`super::write`]'s
//! rules.

use super::Reply;

/// Looking at one key, field or member.
pub(super) const LOOK: u64 = 32;

/// What a call of a reader costs besides what it walks over, and each of its words.
pub(super) const CALL: u64 = 128;

/// What may be done before others get their turn: about a millisecond.
pub(super) const TURN: u64 = 1 << 20;

/// What one walk may take that holds up nobody but who asked: about a second.
pub(super) const WALK: u64 = 1 << 30;

/// Bytes that one [`super::Write`] has written again or walked over, and those of an entry together. One command may
/// go beyond. A string as large as `value_max` may become by far, and a sixteenth of a second.
const WRITE_MAX: u64 = 64 << 20;
const ENTRY_MAX: u64 = 4 * WRITE_MAX;

/// Counts down, for a command and for the entry that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    of_write: u64,
    of_entry: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { of_write: WRITE_MAX, of_entry: ENTRY_MAX }
    }
}

impl Allowance {
    /// A new entry begins.
    pub(super) fn begin_entry(&mut self) {
        *self = Self::default();
    }

    /// The next commands that were sent together.
    pub(super) fn begin_write(&mut self) {
        self.of_write = WRITE_MAX;
    }

    pub(super) fn left(self) -> u64 {
        self.of_write.min(self.of_entry)
    }

    pub(super) fn take(&mut self, units: u64) {
        self.of_write = self.of_write.saturating_sub(units);
        self.of_entry = self.of_entry.saturating_sub(units);
    }
}

pub(super) const TOO_MUCH_WALKED: Reply = Reply::error(
    "ERR this looks at more keys or fields than commands sent together may; use SCAN, HSCAN or SSCAN, outside of MULTI, \
     or a simpler pattern",
);

pub(super) const TOO_MUCH_REWRITTEN: Reply = Reply::error(
    "OVERLOADED too much of large values would be written again at once; nothing was changed, send fewer such commands \
     at once",
);
