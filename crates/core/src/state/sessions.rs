//! What administrators do to the session store. It is in the history; what applications do there is not.

use super::{At, Author, EventKind, Outcome, Refusal, State, Subject, events::Said};
use crate::session::{self, Reply, key_hash_text};

impl State {
    /// Removes a key, or all keys of a keyspace, and answers how many.
    pub(super) fn remove_sessions(
        &mut self,
        at: At,
        keyspace: &str,
        key: Option<&session::Key>,
        author: &Author,
    ) -> Outcome {
        // The name is looked up here, so that a document which gives it to another database meanwhile is heard first.
        let Some(database) = self.sessions.settings().database(keyspace) else {
            return Outcome::Refused(Refusal::NotFound { what: format!("keyspace {keyspace:?}") });
        };
        let removed = self.sessions.remove(database, key.map(|key| &key[..]));
        let subject = Subject::Sessions(database);
        match key {
            Some(_) if removed == 0 => {}
            Some(key) => {
                let what = format!("key {} is deleted", key_hash_text(self.sessions.key_hash(key)));
                self.record(at, author, Said::new(EventKind::SessionKeyDeleted, subject, what));
            }
            None => {
                let what = match removed {
                    1 => "the only key is removed".to_owned(),
                    _ => format!("all {removed} keys are removed"),
                };
                self.record(at, author, Said::new(EventKind::SessionsFlushed, subject, what));
            }
        }
        Outcome::Session(vec![Reply::Integer(i64::try_from(removed).unwrap_or(i64::MAX))])
    }
}
