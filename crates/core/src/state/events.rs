//! The audit trail: every change that an operator or the cluster made, with its place in the log.
//!
//! Bindings made by requests are not here (there are millions); each carries the index and the
//! cause of its own last change.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{At, Author, State, part::Shared};
use crate::{
    ids::{BackendId, LogIndex, NodeId, ServiceId, VipId},
    persistence::KeyHash,
    time::LogTime,
};

/// Events kept; older ones are forgotten.
pub const EVENTS_MAX: usize = 10_000;

/// Longest text that an event keeps of what a client of the log wrote.
const TEXT_MAX: usize = 1024;

/// Something that was changed, by whom and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The entry that made the change.
    pub index: LogIndex,
    /// When.
    pub at: LogTime,
    /// Who asked for it, and what they said.
    pub author: Author,
    /// What kind of change.
    pub kind: EventKind,
    /// What it changed.
    pub subject: Subject,
    /// The change in words.
    pub what: String,
    /// Why, if it was not an operator's wish; empty otherwise.
    pub cause: String,
}

/// Kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the past tense of the command of its name")]
pub enum EventKind {
    ClusterInitialised,
    ConfigApplied,
    BackendSet,
    BindingSet,
    VerdictChanged,
    JoinTokenCreated,
    NodeEnrolled,
    NodeUpdated,
    NodeSet,
    NodeRemoved,
    VipRecorded,
    VipMoved,
    CookieKeyRotated,
    UserIssued,
    UserRevoked,
    SessionsFlushed,
    SessionKeyDeleted,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each names the thing of its name")]
pub enum Subject {
    Cluster,
    Config,
    Backend(BackendId),
    Binding(ServiceId, #[serde(with = "hex_key")] KeyHash),
    Node(NodeId),
    Vip(VipId),
    /// A database of the session store.
    Sessions(u16),
}

/// The last [`EVENTS_MAX`] events, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Events(VecDeque<Shared<Event>>);

impl Events {
    fn push(&mut self, event: Event) {
        if self.0.len() >= EVENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Shared::new(event));
    }
}

/// What an event says beside its place and author.
pub(crate) struct Said {
    pub(crate) kind: EventKind,
    pub(crate) subject: Subject,
    pub(crate) what: String,
    pub(crate) cause: String,
}

impl Said {
    pub(crate) fn new(kind: EventKind, subject: Subject, what: impl Into<String>) -> Self {
        Self { kind, subject, what: what.into(), cause: String::new() }
    }

    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }
}

impl State {
    pub(super) fn record(&mut self, at: At, author: &Author, said: Said) {
        let author = Author { name: clip(&author.name), message: clip(&author.message) };
        let Said { kind, subject, what, cause } = said;
        let event =
            Event { index: at.index, at: at.now, author, kind, subject, what: clip(&what), cause: clip(&cause) };
        self.parts.events.edit().push(event);
    }

    /// The audit trail, newest first; bounded by [`EVENTS_MAX`].
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.parts.events.0.iter().rev().map(|event| &**event)
    }

    /// The index after which no event is missing from [`State::events`]; `None` while nothing was forgotten.
    pub fn events_whole_after(&self) -> Option<LogIndex> {
        let oldest = self.parts.events.0.front()?;
        (oldest.kind != EventKind::ClusterInitialised).then_some(oldest.index)
    }
}

fn clip(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// JSON numbers end at 64 bits for many readers, so a key is written in hexadecimal.
mod hex_key {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::persistence::KeyHash;

    pub(super) fn serialize<S: Serializer>(key: &KeyHash, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:032x}", key.as_u128()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<KeyHash, D::Error> {
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16).map(KeyHash::from_u128).map_err(D::Error::custom)
    }
}
