//! What subscribers are told: that something became of a key, or that somebody published.
//!
//! Every node tells its own subscribers what it applies, so each of them hears each event once, whichever node it is
//! connected to. The queue has an end: a reader who does not keep up is told that something was lost.

use std::{collections::VecDeque, fmt};

use bytes::Bytes;

/// Something to tell subscribers.
#[derive(Clone, PartialEq, Eq)]
pub enum Notice {
    /// A key-space event that the document's `notify` asks for.
    Event {
        /// Where the key is.
        database: u16,
        /// The key.
        key: Bytes,
        /// What kind of event: `g`, `$`, `h`, `s`, `x`, `e` or `n`.
        class: char,
        /// Its name: `set`, `del`, `expired` ...
        event: &'static str,
    },
    /// A message that somebody published.
    Message {
        /// Where.
        channel: Bytes,
        /// What.
        payload: Bytes,
    },
    /// Notices before this one were dropped, because nobody took them in time.
    Lost,
}

/// Without keys, channels and messages.
impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { database, key, class: _, event } => {
                write!(f, "{event} of a key of {} bytes in database {database}", key.len())
            }
            Self::Message { channel, payload } => {
                write!(f, "a message of {} bytes on a channel of {}", payload.len(), channel.len())
            }
            Self::Lost => f.write_str("notices were lost"),
        }
    }
}

impl Notice {
    fn bytes(&self) -> usize {
        match self {
            Self::Event { key, .. } => key.len(),
            Self::Message { channel, payload } => channel.len() + payload.len(),
            Self::Lost => 0,
        }
    }
}

/// What can wait. A worker takes notices many times a second; arbitrary beyond that.
const WAITING_MAX: usize = 65_536;
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Notices that wait to be taken.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Notice>,
    bytes: usize,
    lost: u64,
}

impl Queue {
    pub(super) fn push(&mut self, notice: Notice) {
        self.bytes += notice.bytes();
        self.waiting.push_back(notice);
        let mut lost = false;
        while self.waiting.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX {
            let Some(oldest) = self.waiting.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.lost += u64::from(oldest != Notice::Lost);
            lost = true;
        }
        if lost {
            self.waiting.push_front(Notice::Lost);
        }
    }

    pub(super) fn drain(&mut self, into: &mut Vec<Notice>) {
        self.bytes = 0;
        into.extend(self.waiting.drain(..));
    }

    pub(super) fn clear(&mut self) {
        *self = Self { lost: self.lost, ..Self::default() };
    }

    /// Notices dropped so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

/// The kinds of events that are published, as `notify-keyspace-events` says them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotifyFlags {
    bits: u32,
}

impl NotifyFlags {
    /// Kinds that `A` stands for; those that no command here makes are taken and mean nothing.
    const ALL: &'static str = "g$lshzxetd";
    const KNOWN: &'static str = "KEg$lshzxetdn";

    /// The flags that `text` says; `None` if it holds something else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bits = 0;
        for flag in text.chars() {
            let flags = if flag == 'A' { Self::ALL } else { &text[..0] };
            for flag in flags.chars().chain((flag != 'A').then_some(flag)) {
                bits |= 1 << Self::KNOWN.find(flag)?;
            }
        }
        Some(Self { bits })
    }

    /// Whether events of this kind are published.
    pub fn contains(self, class: char) -> bool {
        Self::KNOWN.find(class).is_some_and(|at| self.bits & 1 << at != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_notices_are_lost_and_that_is_told() {
        let mut queue = Queue::default();
        let message = |n: u32| Notice::Message {
            channel: Bytes::from_static(b"c"),
            payload: Bytes::copy_from_slice(&n.to_le_bytes()),
        };
        for n in 0..WAITING_MAX as u32 + 10 {
            queue.push(message(n));
        }
        let mut taken = Vec::new();
        queue.drain(&mut taken);
        assert_eq!(taken.len(), WAITING_MAX + 1);
        assert_eq!(taken[0], Notice::Lost);
        assert_eq!(taken.last(), Some(&message(WAITING_MAX as u32 + 9)));
        assert_eq!(queue.lost(), WAITING_MAX as u64 + 10 - WAITING_MAX as u64);
        queue.push(message(1));
        taken.clear();
        queue.drain(&mut taken);
        assert_eq!(taken, [message(1)]);
    }

    #[test]
    fn neither_keys_nor_messages_are_shown() {
        let (key, payload) = (Bytes::from_static(b"sesame"), Bytes::from_static(b"open"));
        let event = Notice::Event { database: 3, key: key.clone(), class: 'g', event: "del" };
        assert_eq!(format!("{event:?}"), "del of a key of 6 bytes in database 3");
        let message = Notice::Message { channel: key, payload };
        assert_eq!(format!("{message:?}"), "a message of 4 bytes on a channel of 6");
    }

    #[test]
    fn flags_are_those_of_redis() {
        let flags = NotifyFlags::parse("AE").expect("right");
        assert!(flags.contains('x') && flags.contains('$') && flags.contains('E'));
        assert!(!flags.contains('K') && !flags.contains('n'));
        assert!(NotifyFlags::parse("q").is_none() && NotifyFlags::parse("m").is_none());
        assert_eq!(NotifyFlags::parse(""), Some(NotifyFlags::default()));
    }
}
