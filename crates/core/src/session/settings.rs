//! What the document in force says of the session store.

use std::ops::Deref;

use super::NotifyFlags;
use crate::config::{Document, Sessions as Config};

/// The `sessions` part of the document, or the defaults if there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Moves on when anything here changes. Counts within this process.
    pub generation: u64,
    /// Whether the document has a session store at all.
    pub enabled: bool,
    /// What it says.
    pub config: Config,
    /// The document's `notify`, parsed.
    pub notify: NotifyFlags,
}

impl Settings {
    pub(super) fn of(document: Option<&Document>, generation: u64) -> Self {
        let sessions = document.and_then(|document| document.sessions.as_ref());
        let config = sessions.cloned().unwrap_or_default();
        let notify = NotifyFlags::parse(&config.notify).unwrap_or_default();
        Self { generation, enabled: sessions.is_some(), config, notify }
    }

    /// Whether everything but the generation is the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.enabled == other.enabled && self.config == other.config
    }
}

impl Deref for Settings {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}
