//! Who listens to what on this node, and how they are told.
//!
//! Every node tells its own subscribers what it applies, so each of them hears each event once, whichever node it is
//! connected to. If this node could not keep up, its subscribers are cut rather than left to believe that they heard all.
//!
//! Not here: which events there are (`ballast_core::session`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ballast_core::session::{Notice, NotifyFlags, Sessions};
use bytes::Bytes;

use crate::{
    clients::Card,
    glob,
    policy::Access,
    wire::{Out, Resp},
};

/// Whether a subscription names a channel or a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `SUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`.
    Pattern,
}

/// The subscriptions of all connections of this node.
pub struct Subscribers {
    sessions: Arc<Sessions>,
    lists: Mutex<Lists>,
    subscriptions: AtomicUsize,
}

#[derive(Default)]
struct Lists {
    channels: HashMap<Bytes, Vec<Arc<Card>>>,
    patterns: HashMap<Bytes, Vec<Arc<Card>>>,
    notices: Vec<Notice>,
}

impl Lists {
    fn of(&mut self, kind: Kind) -> &mut HashMap<Bytes, Vec<Arc<Card>>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    /// Sends to all that listen to `channel` and may; returns how many. `about`: the key that an event is about.
    fn send(&self, channel: &[u8], payload: &[u8], about: Option<(u16, &[u8])>) -> usize {
        let may = |card: &Card| may_hear(card, channel, about);
        let mut sent = 0;
        for card in self.channels.get(channel).into_iter().flatten() {
            let Some(resp) = may(card) else { continue };
            sent += 1;
            card.send(|bytes| {
                let mut out = Out::new(bytes, resp);
                out.push(3);
                out.bulk(b"message");
                out.bulk(channel);
                out.bulk(payload);
            });
        }
        for (pattern, cards) in self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel)) {
            for card in cards {
                let Some(resp) = may(card) else { continue };
                sent += 1;
                card.send(|bytes| {
                    let mut out = Out::new(bytes, resp);
                    out.push(4);
                    out.bulk(b"pmessage");
                    out.bulk(pattern);
                    out.bulk(channel);
                    out.bulk(payload);
                });
            }
        }
        sent
    }

    fn cut_all(&self) {
        self.channels.values().chain(self.patterns.values()).flatten().for_each(|card| card.end());
    }
}

/// The version of the protocol to tell it in, if this connection may hear it: an event of keys that its user may see, a
/// message on a channel that its user may name.
fn may_hear(card: &Card, channel: &[u8], about: Option<(u16, &[u8])>) -> Option<Resp> {
    let facts = card.facts();
    let access = facts.access.as_ref()?;
    let allowed = match about {
        Some((database, key)) => access.may_see(database, key),
        None => access.may_name(channel),
    };
    allowed.then_some(facts.resp)
}

impl Subscribers {
    /// Nobody yet.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, lists: Mutex::default(), subscriptions: AtomicUsize::new(0) }
    }

    /// Whether somebody listens.
    pub fn any(&self) -> bool {
        self.subscriptions.load(Ordering::Acquire) != 0
    }

    /// A connection listens from now on. To be called once for each.
    pub fn add(&self, kind: Kind, name: Bytes, card: &Arc<Card>) {
        let mut lists = self.lock();
        lists.of(kind).entry(name).or_default().push(card.clone());
        if self.subscriptions.fetch_add(1, Ordering::AcqRel) == 0 {
            self.sessions.listen(true);
        }
    }

    /// A connection does not listen any more.
    pub fn remove(&self, kind: Kind, name: &[u8], card: &Card) {
        let mut lists = self.lock();
        let Some(cards) = lists.of(kind).get_mut(name) else { return };
        let before = cards.len();
        cards.retain(|other| other.id != card.id);
        let gone = before - cards.len();
        if cards.is_empty() {
            lists.of(kind).remove(name);
        }
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
                    if flags.contains('K') {
                        let channel = [format!("__keyspace@{database}__:").as_bytes(), &key].concat();
                        sent += lists.send(&channel, event.as_bytes(), Some((database, &key)));
                    }
                    if flags.contains('E') {
                        let channel = format!("__keyevent@{database}__:{event}");
                        sent += lists.send(channel.as_bytes(), &key, Some((database, &key)));
                    }
                }
                Notice::Message { channel, payload } => sent += lists.send(&channel, &payload, None),
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
        let patterns = lists.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        let cards = lists.channels.get(channel).into_iter().chain(patterns.map(|(_, cards)| cards)).flatten();
        cards.filter(|card| may_hear(card, channel, None).is_some()).count()
    }

    /// How many connections of this node named `channel`, as far as `access` may know of it.
    pub fn named(&self, channel: &[u8], access: &Access) -> usize {
        if access.may_know(channel) { self.lock().channels.get(channel).map_or(0, Vec::len) } else { 0 }
    }

    /// Channels that somebody on this node named and `access` may know of, in order.
    pub fn channels(&self, pattern: Option<&[u8]>, access: &Access) -> Vec<Bytes> {
        let lists = self.lock();
        let wanted = |channel: &&Bytes| {
            access.may_know(channel) && pattern.is_none_or(|pattern| glob::matches(pattern, channel))
        };
        let mut channels: Vec<_> = lists.channels.keys().filter(wanted).cloned().collect();
        channels.sort_unstable();
        channels
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
