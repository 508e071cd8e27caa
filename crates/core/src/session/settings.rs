//! What the document in force says of the session store.

use std::ops::Deref;

use super::{NotifyFlags, number};
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

    /// The database that goes by a keyspace's name, or by its own number; `None` if there is none.
    pub fn database(&self, keyspace: &str) -> Option<u16> {
        let named = self.keyspaces.iter().find(|known| known.name == keyspace).map(|known| known.database);
        let numbered = || number::parse(keyspace.as_bytes()).and_then(|number| u16::try_from(number).ok());
        named.or_else(numbered).filter(|database| *database < self.databases)
    }

    /// The name of a database: that of the first keyspace that it has, or its number.
    pub fn keyspace_name(&self, database: u16) -> String {
        let named = self.keyspaces.iter().find(|known| known.database == database);
        named.map_or_else(|| database.to_string(), |known| known.name.clone())
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
