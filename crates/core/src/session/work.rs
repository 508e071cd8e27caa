//! How much of what was not sent commands may look at or write again.
//!
//! Nearly all commands cost what they take on the wire, which the server and the log bound. A few do not: `KEYS` looks at
//! all keys, `HGETALL` at all fields, and a byte in the middle of a large string has all of it hashed again. What these
//! do is counted in units of about a nanosecond and has an end, because whoever carries them out holds up others. What
//! reads between writes answer is made by every replica, whoever asked, so its bytes are counted too.
//!
//! What a walk comes to is an answer and changes nothing. What is written again decides whether a command is carried
//! out, so that is counted from lengths alone, which are the same on every replica, and is part of [`super::write`]'s
//! rules.

use super::Reply;

/// Looking at one key, field or member.
pub(super) const LOOK: u64 = 32;

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
    write_max: u64,
    of_write: u64,
    of_entry: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self::new(WRITE_MAX)
    }
}

impl Allowance {
    /// So much for commands that were sent together, and as much as is usual for an entry, or for one of them.
    pub(super) fn new(write_max: u64) -> Self {
        Self { write_max, of_write: write_max, of_entry: write_max.max(ENTRY_MAX) }
    }

    /// A new entry begins.
    pub(super) fn begin_entry(&mut self) {
        *self = Self::new(self.write_max);
    }

    /// The next commands that were sent together.
    pub(super) fn begin_write(&mut self) {
        self.of_write = self.write_max;
    }

    /// Whether commands that were sent by others have left less than what was sent together may take.
    pub(super) fn is_cut(self) -> bool {
        self.of_entry < self.of_write
    }

    pub(super) fn left(self) -> u64 {
        self.of_write.min(self.of_entry)
    }

    /// What is left of what was sent together may take, whatever the others of the entry take.
    pub(super) fn left_of_write(self) -> u64 {
        self.of_write
    }

    /// Counts for what was sent together alone.
    pub(super) fn take_of_write(&mut self, units: u64) {
        self.of_write = self.of_write.saturating_sub(units);
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

pub(super) const TOO_MUCH_ANSWERED: Reply = Reply::error(
    "OVERLOADED too much was asked for between changes at once, by others too; nothing was read, ask again outside of MULTI",
);
