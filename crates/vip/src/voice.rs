//! Says for the lease thread what it has to say.
//!
//! A line of the log may wait for whoever reads it, a journal on a disk that hangs for instance, and the lease thread waits
//! for nothing. So it hands its words to a thread that may wait. Words that find no room are counted, and the number is
//! said in their place.
//!
//! Not here: gains and losses of VIPs ([`crate::herald`]).

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use ballast_core::ids::VipId;

/// Far more than are said in a minute.
const WORDS_MAX: usize = 64;

/// Something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The thread runs before ordinary ones, and not in real time.
    OnlyNice,
    /// The thread runs among ordinary ones.
    NoRealTime,
    /// Memory may be swapped.
    NotLocked,
    /// Whether the view may be out of date, which has changed.
    Doubts(bool),
    /// A VIP that is released may be answered for until the right ends.
    NotClosed(VipId),
    /// So many words found no room.
    Unsaid(u64),
}

impl Word {
    fn tell(self) {
        match self {
            Self::OnlyNice => {
                tracing::info!("no real-time scheduling for leases here; their thread runs before ordinary ones");
            }
            Self::NoRealTime => {
                tracing::info!(
                    "no real-time scheduling for leases (needs CAP_SYS_NICE); a busy machine may renew late"
                );
            }
            Self::NotLocked => {
                tracing::info!(
                    "memory is not locked (needs CAP_IPC_LOCK or a higher memlock limit); swapping may delay renewals"
                );
            }
            Self::Doubts(doubts) => {
                tracing::warn!(
                    doubts,
                    "this node's view of the cluster is not kept up; VIPs are offered to others while it is not"
                );
            }
            Self::NotClosed(vip) => {
                tracing::error!(
                    %vip,
                    "a VIP that is released could not be closed at once, because the kernel refused to close its fence or \
                     it has none; no node is told, and the next one takes it when the lease ends"
                );
            }
            Self::Unsaid(words) => {
                tracing::warn!(words, "the log took no more words of the lease thread for a while");
            }
        }
    }
}

/// The half on the lease thread. Never waits.
pub(crate) struct Voice {
    words: SyncSender<Word>,
    unsaid: u64,
}

impl Voice {
    /// Starts the thread that says the words. It ends with the voice, when all is said.
    pub fn start() -> io::Result<(Self, JoinHandle<()>)> {
        Self::start_with(Word::tell)
    }

    fn start_with(tell: impl Fn(Word) + Send + 'static) -> io::Result<(Self, JoinHandle<()>)> {
        let (words, queue): (_, Receiver<Word>) = sync_channel(WORDS_MAX);
        let speak = move || queue.iter().for_each(tell);
        let thread = std::thread::Builder::new().name("ballast-voice".to_owned()).spawn(speak)?;
        Ok((Self { words, unsaid: 0 }, thread))
    }

    /// Has it said, if there is room.
    pub fn say(&mut self, word: Word) {
        if self.unsaid > 0 && self.words.try_send(Word::Unsaid(self.unsaid)).is_ok() {
            self.unsaid = 0;
        }
        if self.words.try_send(word).is_err() {
            self.unsaid += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn whoever_speaks_waits_for_no_log() {
        let (heard, said) = channel();
        let (read, reader) = channel::<()>();
        let (mut voice, thread) = Voice::start_with(move |word| {
            heard.send(word).expect("the test listens");
            // As a reader of the log that hangs. It reads on when the test says so, and for good when that is over.
            let _ = reader.recv();
        })
        .expect("starts");
        voice.say(Word::Doubts(true));
        assert_eq!(said.recv(), Ok(Word::Doubts(true)));
        let words = WORDS_MAX as u64 + 5;
        (0..words).for_each(|_| voice.say(Word::NotLocked));
        assert_eq!(voice.unsaid, 5);
        read.send(()).expect("it waits");
        assert_eq!(said.recv(), Ok(Word::NotLocked));
        read.send(()).expect("it waits");
        assert_eq!(said.recv(), Ok(Word::NotLocked));
        // There is room for two now.
        voice.say(Word::Doubts(false));
        drop((voice, read));
        thread.join().expect("ends");
        let rest: Vec<_> = said.iter().collect();
        assert_eq!(rest.len(), WORDS_MAX);
        assert_eq!(rest[rest.len() - 2..], [Word::Unsaid(5), Word::Doubts(false)]);
    }
}
