//! Who listens to what on this node, and how they are told.
//!
//! Every node tells its own subscribers what it applies, so each of them hears each event once, whichever node it is
//! connected to. If this node could not keep up, its subscribers are cut rather than left to believe that they heard all.
//!
//! Everybody waits while somebody is told, so patterns have a bound for each channel that is held against them ([`Steps`]).
//!
//! Not here: which events there are (`ballast_core::session`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ballast_core::session::{Notice, NotifyFlags, Pattern, Sessions};
use bytes::Bytes;

use crate::{
    budget::Budget,
    clients::Card,
    mail::{Letter, Message},
    policy::Access,
};

/// Whether a subscription names a channel or a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `SUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`.
    Pattern,
}

/// The subscriptions of all connections of this node.
pub struct Subscribers {
    sessions: Arc<Sessions>,
    budget: Arc<Budget>,
    lists: Mutex<Lists>,
    subscriptions: AtomicUsize,
}

#[derive(Default)]
struct Lists {
    channels: HashMap<Bytes, Vec<Arc<Card>>>,
    patterns: HashMap<Bytes, (Pattern, Vec<Arc<Card>>)>,
    notices: Vec<Notice>,
}

/// What holding one channel against all patterns may take, in steps of about a nanosecond.
///
/// What people write takes tens of steps; what takes thousands holds up everybody. So each pattern may take [`Self::EACH`],
/// whatever others take, and beyond that there is one allowance for all. A pattern for which it does not suffice does not fit.
struct Steps {
    left: u64,
}

impl Steps {
    /// Arbitrary: a channel of hundreds of bytes against several stars.
    const EACH: u64 = 1 << 10;
    /// Some milliseconds.
    const ALL: u64 = 1 << 22;

    fn new() -> Self {
        Self { left: Self::ALL }
    }

    /// Whether a text fits; `None` if that would take too much.
    fn fits(&mut self, pattern: &Pattern, text: &[u8]) -> Option<bool> {
        let mut steps = Self::EACH + self.left;
        let fits = pattern.matches_within(text, &mut steps);
        self.left = self.left.min(steps);
        fits
    }
}

/// A name of a channel or a pattern, and what it is read into.
enum Named {
    Channel(Bytes),
    Pattern(Bytes, Pattern),
}

impl Named {
    fn new(kind: Kind, name: Bytes) -> Self {
        match kind {
            Kind::Channel => Self::Channel(name),
            Kind::Pattern => {
                let pattern = Pattern::new(&name);
                Self::Pattern(name, pattern)
            }
        }
    }
}

impl Lists {
    fn add(&mut self, named: Named, card: &Arc<Card>) {
        let cards = match named {
            Named::Channel(name) => self.channels.entry(name).or_default(),
            Named::Pattern(name, pattern) => &mut self.patterns.entry(name).or_insert((pattern, Vec::new())).1,
        };
        cards.push(card.clone());
    }

    /// How many subscriptions are gone.
    fn remove(&mut self, kind: Kind, name: &[u8], card: &Card) -> usize {
        let cards = match kind {
            Kind::Channel => self.channels.get_mut(name),
            Kind::Pattern => self.patterns.get_mut(name).map(|(_, cards)| cards),
        };
        let Some(cards) = cards else { return 0 };
        let before = cards.len();
        cards.retain(|other| other.id != card.id);
        let gone = before - cards.len();
        if cards.is_empty() {
            match kind {
                Kind::Channel => drop(self.channels.remove(name)),
                Kind::Pattern => drop(self.patterns.remove(name)),
            }
        }
        gone
    }

    /// The patterns that a channel fits, and who listens to them. Whoever asks again while the lists are the same gets the
    /// same.
    fn fitting<'l>(&'l self, channel: &'l [u8]) -> impl Iterator<Item = (&'l Bytes, &'l Vec<Arc<Card>>)> {
        let mut steps = Steps::new();
        let fitting = self.patterns.iter().filter(move |(_, (pattern, _))| steps.fits(pattern, channel) == Some(true));
        fitting.map(|(text, (_, cards))| (text, cards))
    }

    /// Sends to all that listen to `channel` and may; returns how many. `about`: the key that an event is about.
    fn send(&self, channel: &[u8], payload: &Bytes, about: Option<(u16, &[u8])>, budget: &Arc<Budget>) -> usize {
        // Made for the first who hears it.
        let mut message = None;
        let mut sent = 0;
        let mut tell = |card: &Card, pattern: Option<&Bytes>| {
            if may_hear(card, channel, about) {
                let message = message.get_or_insert_with(|| Message::new(channel, payload, budget));
                card.send(Letter { message: message.clone(), pattern: pattern.cloned() });
                sent += 1;
            }
        };
        self.channels.get(channel).into_iter().flatten().for_each(|card| tell(card, None));
        for (pattern, cards) in self.fitting(channel) {
            cards.iter().for_each(|card| tell(card, Some(pattern)));
        }
        sent
    }

    fn cut_all(&self) {
        let patterns = self.patterns.values().map(|(_, cards)| cards);
        self.channels.values().chain(patterns).flatten().for_each(|card| card.end());
    }
}

/// Whether this connection may hear it: an event of keys that its user may see, a message on a channel that its user may
/// name.
fn may_hear(card: &Card, channel: &[u8], about: Option<(u16, &[u8])>) -> bool {
    card.facts().access.as_ref().is_some_and(|access| match about {
        Some((database, key)) => access.may_see(database, key),
        None => access.may_name(channel),
    })
}

impl Subscribers {
    /// Nobody yet. What waits to be told counts against `budget`.
    pub fn new(sessions: Arc<Sessions>, budget: Arc<Budget>) -> Self {
        Self { sessions, budget, lists: Mutex::default(), subscriptions: AtomicUsize::new(0) }
    }

    /// Whether somebody listens.
    pub fn any(&self) -> bool {
        self.subscriptions.load(Ordering::Acquire) != 0
    }

    /// A connection listens from now on. To be called once for each.
    pub fn add(&self, kind: Kind, name: Bytes, card: &Arc<Card>) {
        // Before anybody waits.
        let named = Named::new(kind, name);
        let mut lists = self.lock();
        lists.add(named, card);
        if self.subscriptions.fetch_add(1, Ordering::AcqRel) == 0 {
            self.sessions.listen(true);
        }
    }

    /// A connection does not listen any more. What it was told is in its mail, and nothing is added to that.
    pub fn remove(&self, kind: Kind, name: &[u8], card: &Card) {
        let mut lists = self.lock();
        let gone = lists.remove(kind, name, card);
        if gone != 0 && self.subscriptions.fetch_sub(gone, Ordering::AcqRel) == gone {
            self.sessions.listen(false);
        }
    }

    /// Tells subscribers what happened since the last call; returns how many messages were sent.
    pub fn tell(&self) -> usize {
        let mut lists = self.lock();
        let mut notices = std::mem::take(&mut lists.notices);
        self.sessions.drain(&mut notices);
        let flags = if notices.is_empty() { NotifyFlags::default() } else { self.sessions.settings().notify };
        let mut sent = 0;
        for notice in notices.drain(..) {
            match notice {
                Notice::Event { database, key, event, .. } => {
                    let about = Some((database, &key[..]));
                    if flags.contains('K') {
                        let channel = [format!("__keyspace@{database}__:").as_bytes(), &key].concat();
                        sent += lists.send(&channel, &Bytes::from_static(event.as_bytes()), about, &self.budget);
                    }
                    if flags.contains('E') {
                        let channel = format!("__keyevent@{database}__:{event}");
                        sent += lists.send(channel.as_bytes(), &key, about, &self.budget);
                    }
                }
                Notice::Message { channel, payload } => {
                    sent += lists.send(&channel, &payload, None, &self.budget);
                }
                Notice::Lost => {
                    tracing::warn!(
                        "subscribers of the session store are cut: this node could not keep up with its notices"
                    );
                    lists.cut_all();
                }
            }
        }
        lists.notices = notices;
        sent
    }

    /// How many connections of this node get a message on `channel`, a pattern counting as well.
    pub fn count(&self, channel: &[u8]) -> usize {
        let lists = self.lock();
        let patterns = lists.fitting(channel).map(|(_, cards)| cards);
        let cards = lists.channels.get(channel).into_iter().chain(patterns).flatten();
        cards.filter(|card| may_hear(card, channel, None)).count()
    }

    /// How many connections of this node named `channel`, as far as `access` may know of it.
    pub fn named(&self, channel: &[u8], access: &Access) -> usize {
        if access.may_know(channel) { self.lock().channels.get(channel).map_or(0, Vec::len) } else { 0 }
    }

    /// Channels that somebody on this node named and `access` may know of, in order. `None` if it takes too much to hold them
    /// against the pattern.
    pub fn channels(&self, pattern: Option<&[u8]>, access: &Access) -> Option<Vec<Bytes>> {
        let mut channels: Vec<_> =
            self.lock().channels.keys().filter(|channel| access.may_know(channel)).cloned().collect();
        if let Some(pattern) = pattern.map(Pattern::new) {
            let (mut steps, mut is_over) = (Steps::new(), false);
            channels.retain(|channel| {
                let fits = steps.fits(&pattern, channel);
                is_over |= fits.is_none();
                fits == Some(true)
            });
            if is_over {
                return None;
            }
        }
        channels.sort_unstable();
        Some(channels)
    }

    /// How many channels somebody on this node named.
    pub fn channel_count(&self) -> usize {
        self.lock().channels.len()
    }

    /// How many patterns there are.
    pub fn patterns(&self) -> usize {
        self.lock().patterns.len()
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
