//! What subscribers are told: messages that all who hear one share, until each has written its own.
//!
//! A message of megabytes to a thousand subscribers is one in memory, and is not copied for any of them. It gets its words of
//! the protocol when its connection takes it: which version is spoken then, and between which answers a message belongs, only
//! the connection itself knows.
//!
//! Not here: who is told what ([`crate::subscribers`]), when it is sent ([`crate::serve`]).

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    budget::Budget,
    wire::{Out, Resp},
};

/// A payload that is smaller is copied from where it came in, and to where it leaves: it must not keep a whole read buffer in
/// memory, and answers leave together. Arbitrary beyond that: a read buffer has 256 KiB at most, or is the payload's own.
const SHARED_MIN: usize = 128 << 10;

/// About what the protocol adds to a message: lengths, and the word before it.
const WORDS: usize = 48;

/// What was published, or became of a key. Counted once, however many are told.
#[derive(Debug)]
pub struct Message {
    channel: Bytes,
    payload: Bytes,
    budget: Arc<Budget>,
}

impl Message {
    /// A message that is counted against `budget` as long as it is there.
    pub fn new(channel: &[u8], payload: &Bytes, budget: &Arc<Budget>) -> Arc<Self> {
        let payload = if payload.len() < SHARED_MIN { Bytes::copy_from_slice(payload) } else { payload.clone() };
        let message = Self { channel: Bytes::copy_from_slice(channel), payload, budget: budget.clone() };
        budget.change(0, message.takes());
        Arc::new(message)
    }

    fn takes(&self) -> usize {
        size_of::<Self>() + self.channel.len() + self.payload.len()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.budget.change(self.takes(), 0);
    }
}

/// A message to one subscriber.
#[derive(Clone, Debug)]
pub struct Letter {
    /// What it is told.
    pub message: Arc<Message>,
    /// The pattern by which it hears it, if it did not name the channel.
    pub pattern: Option<Bytes>,
}

impl Letter {
    /// About how many bytes it is on the wire.
    pub fn bytes(&self) -> usize {
        let Message { channel, payload, .. } = &*self.message;
        WORDS + self.pattern.as_ref().map_or(0, Bytes::len) + channel.len() + payload.len()
    }

    /// Writes it to the end of `out`: all of it, or all but the payload and the end of its line, which are to follow and are
    /// not copied.
    pub fn write(&self, resp: Resp, out: &mut Vec<u8>) -> Option<&Bytes> {
        let Message { channel, payload, .. } = &*self.message;
        let mut out = Out::new(out, resp);
        match &self.pattern {
            None => {
                out.push(3);
                out.bulk(b"message");
            }
            Some(pattern) => {
                out.push(4);
                out.bulk(b"pmessage");
                out.bulk(pattern);
            }
        }
        out.bulk(channel);
        if payload.len() < SHARED_MIN {
            out.bulk(payload);
            return None;
        }
        out.bulk_of(payload.len());
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_and_kept_once_however_many_hear_it() {
        let budget = Arc::new(Budget::default());
        let payload = Bytes::from(vec![b'p'; SHARED_MIN]);
        let message = Message::new(b"c", &payload, &budget);
        let letters: Vec<_> = (0..1000).map(|_| Letter { message: message.clone(), pattern: None }).collect();
        drop(message);
        assert!((SHARED_MIN..SHARED_MIN + 1000).contains(&budget.used()));
        let mut out = Vec::new();
        for letter in &letters {
            let follows = letter.write(Resp::Two, &mut out).expect("what is large is not copied");
            assert!(std::ptr::eq(follows.as_ptr(), payload.as_ptr()));
        }
        assert!(out.len() < 1000 * letters[0].bytes() / 100);
        drop(letters);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_words_are_those_of_the_version_that_is_spoken_when_it_is_taken() {
        let budget = Arc::new(Budget::default());
        let message = Message::new(b"news", &Bytes::from_static(b"x"), &budget);
        let check = |pattern: Option<&'static str>, resp, words: &str| {
            let pattern = pattern.map(|pattern| Bytes::from_static(pattern.as_bytes()));
            let (letter, mut out) = (Letter { message: message.clone(), pattern }, Vec::new());
            assert_eq!(letter.write(resp, &mut out), None);
            assert_eq!(String::from_utf8(out).unwrap(), words);
        };
        check(None, Resp::Two, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n");
        check(None, Resp::Three, ">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n");
        check(Some("n*"), Resp::Two, "*4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$1\r\nx\r\n");
        check(Some("n*"), Resp::Three, ">4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$1\r\nx\r\n");
    }
}
