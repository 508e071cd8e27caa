//! The configuration document in force, and the revisions before it.

use std::{collections::VecDeque, sync::Arc};

use ballast_planted::Bug;
use serde::{Deserialize, Serialize};

use super::{
    ApplyConfig, At, Author, DecodeError, Outcome, Refusal, State,
    command::first_rules,
    events::{EventKind, Said, Subject},
    members::invalid,
    part::Shared,
};
use crate::{
    config::{Document, Persistence, rules},
    ids::{FarmId, LogIndex, Revision, ServiceId, VipId},
    persistence::TableConfig,
    time::LogTime,
};

/// Revisions kept.
pub const REVISIONS_MAX: usize = 100;

/// Text of all revisions kept; the one in force is kept whatever its size.
const REVISIONS_BYTES_MAX: usize = 64 << 20;

/// Requests whose answer is remembered. Retries come within seconds; arbitrary beyond that.
const REQUESTS_MAX: usize = 1000;

/// A configuration that is or was in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevisionRecord {
    /// Its number.
    pub revision: Revision,
    /// The entry that put it in force.
    pub index: LogIndex,
    /// When.
    pub at: LogTime,
    /// Who and why.
    pub author: Author,
    /// The document as canonical JSON.
    pub document: String,
    /// The rules that it was read by, and is read by for ever ([`crate::config::rules`]). The first ones are left out, as
    /// they were before there were others.
    #[serde(default = "first_rules", skip_serializing_if = "is_first")]
    pub rules: u32,
    /// The text as its author wrote it.
    pub source: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_first(rules: &u32) -> bool {
    *rules == first_rules()
}

impl RevisionRecord {
    fn bytes(&self) -> usize {
        self.document.len() + self.source.len()
    }
}

/// The revisions, oldest first; the last is in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Configuration {
    history: VecDeque<Shared<RevisionRecord>>,
    requests: VecDeque<(String, Revision, bool)>,
    #[serde(skip)]
    document: Option<Arc<Document>>,
}

impl Configuration {
    /// Reads the document in force again, after the rest was decoded, as it was read when it was applied.
    pub(super) fn restore(&mut self) -> Result<(), DecodeError> {
        let what = "a configuration document";
        if let Some(last) = self.history.back() {
            if !rules::knows(last.rules) {
                return Err(DecodeError::Version { what, found: last.rules, known: rules::RULES });
            }
            let document = rules::decode_committed(last.rules, &last.document);
            self.document = Some(Arc::new(document.map_err(|detail| DecodeError::Value { what, detail })?));
        }
        Ok(())
    }

    /// The document in force; `None` before the first.
    pub(super) fn document(&self) -> Option<&Document> {
        self.document.as_deref()
    }

    fn revision(&self) -> Revision {
        self.history.back().map_or(Revision::new(0), |last| last.revision)
    }

    fn push(&mut self, record: RevisionRecord, document: Document) {
        self.history.push_back(Shared::new(record));
        self.document = Some(Arc::new(document));
        let mut bytes: usize = self.history.iter().map(|record| record.bytes()).sum();
        while self.history.len() > REVISIONS_MAX || (bytes > REVISIONS_BYTES_MAX && self.history.len() > 1) {
            bytes -= self.history.pop_front().map_or(0, |record| record.bytes());
        }
    }

    fn answer(&mut self, request_id: &str, revision: Revision, changed: bool) -> Outcome {
        if !request_id.is_empty() {
            if self.requests.len() >= REQUESTS_MAX {
                self.requests.pop_front();
            }
            self.requests.push_back((request_id.to_owned(), revision, changed));
        }
        Outcome::Applied { revision, changed }
    }
}

impl State {
    /// The revision in force; zero before the first.
    pub fn revision(&self) -> Revision {
        self.parts.config.revision()
    }

    /// The document in force; `None` before the first.
    pub fn document(&self) -> Option<&Arc<Document>> {
        self.parts.config.document.as_ref()
    }

    /// The last revisions, newest first; the first is in force. To keep one beyond the state copies a pointer.
    pub fn revisions(&self) -> impl Iterator<Item = &Arc<RevisionRecord>> {
        self.parts.config.history.iter().rev().map(|record| &record.0)
    }

    /// The index after which no revision is missing from [`State::revisions`]; `None` while nothing was forgotten.
    pub fn revisions_whole_after(&self) -> Option<LogIndex> {
        let oldest = self.parts.config.history.front()?;
        (oldest.revision > Revision::new(1)).then_some(oldest.index)
    }

    /// A revision that is still kept.
    pub fn revision_record(&self, revision: Revision) -> Option<&Arc<RevisionRecord>> {
        self.revisions().find(|record| record.revision == revision)
    }

    /// The id of a farm that is or was configured.
    pub fn farm_id(&self, name: &str) -> Option<FarmId> {
        self.parts.registry.farm(name)
    }

    /// The id of a service (`farm/service`) that is or was configured.
    pub fn service_id(&self, name: &str) -> Option<ServiceId> {
        self.parts.registry.service(name)
    }

    /// The id of a VIP that is or was configured.
    pub fn vip_id(&self, name: &str) -> Option<VipId> {
        self.parts.registry.vip(name)
    }

    /// All VIPs that are or were configured, by name.
    pub fn vips_ever(&self) -> impl Iterator<Item = (VipId, &str)> {
        self.parts.registry.vips()
    }

    /// The configured VIPs with their ids, in document order.
    pub fn vips(&self) -> impl Iterator<Item = (VipId, &crate::config::Vip)> {
        let vips = self.document().map_or(&[][..], |document| &document.vips);
        self.roster.numbers.vips.iter().copied().zip(vips)
    }

    pub(super) fn apply_config(&mut self, at: At, command: &ApplyConfig) -> Outcome {
        let requests = &self.parts.config.requests;
        if !command.request_id.is_empty()
            && let Some((_, revision, changed)) = requests.iter().find(|(id, ..)| *id == command.request_id)
        {
            return Outcome::Applied { revision: *revision, changed: *changed };
        }
        let found = self.revision();
        let compares = !ballast_planted::is(Bug::ChangeWithoutCompare);
        if let Some(expected) = command.expect.filter(|expected| compares && *expected != found) {
            return Outcome::Refused(Refusal::RevisionConflict { expected, found });
        }
        let document = match rules::decode_committed(command.rules, &command.document) {
            Ok(document) => document,
            Err(reason) => return invalid(reason),
        };
        if self.document().is_some_and(|current| **current == document) {
            return self.parts.config.edit().answer(&command.request_id, found, false);
        }
        let mut registry = self.parts.registry.clone();
        let numbers = match registry.edit().assign(&document) {
            Ok(numbers) => numbers,
            Err(reason) => return invalid(reason),
        };
        for (farm, farm_numbers) in document.farms.iter().zip(&numbers.farms) {
            for (service, (id, _)) in farm.services.iter().zip(&farm_numbers.services) {
                if let Some(Persistence::Table(table)) = &service.persistence {
                    self.store.configure(*id, TableConfig::from(table), at.now);
                }
            }
        }
        let before = self.document().cloned();
        self.parts.registry = registry;
        let revision = Revision::new(found.get() + 1);
        let record = RevisionRecord {
            revision,
            index: at.index,
            at: at.now,
            author: command.author.clone(),
            document: command.document.clone(),
            rules: command.rules,
            source: command.source.clone(),
        };
        let config = self.parts.config.edit();
        config.push(record, document);
        let outcome = config.answer(&command.request_id, revision, true);
        let what = format!("configuration revision {revision}");
        self.record(at, &command.author, Said::new(EventKind::ConfigApplied, Subject::Config, what));
        self.sessions.configure(self.document().map(|document| &**document));
        self.forget_outdated_reports(before.as_deref(), &numbers);
        self.plan_changed();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Revision 1 with a backend of this weight, as a snapshot has it, with more fields.
    fn stored(weight: u32, fields: &str) -> String {
        let document = format!(
            r#"{{"version":1,"farms":[{{"name":"shop","listeners":[],"services":[{{"name":"web",
            "backends":[{{"name":"a","address":"127.0.0.1:1","weight":{weight}}}]}}]}}]}}"#
        );
        let document = serde_json::Value::from(document);
        format!(
            r#"{{"history":[{{"revision":1,"index":2,"at":3,"author":{{"name":"","message":""}},"document":{document}{fields},"source":""}}],"requests":[]}}"#
        )
    }

    fn restored(stored: &str) -> Result<Configuration, DecodeError> {
        let mut config: Configuration = serde_json::from_str(stored).expect("the form is right");
        config.restore().map(|()| config)
    }

    #[test]
    fn a_snapshot_is_read_by_the_rules_that_its_document_was_applied_under() {
        let config = restored(&stored(7, "")).expect("a revision from before there were numbers");
        assert_eq!(config.history[0].rules, 1);
        assert!(config.document.is_some());
        let again = serde_json::to_string(&config).expect("it has a form");
        assert_eq!(again, stored(7, ""), "states of the first rules hash as they did");
        assert!(restored(&stored(7, r#","rules":1"#)).is_ok());
        let error = restored(&stored(7, &format!(r#","rules":{}"#, rules::RULES + 1)))
            .expect_err("nobody knows them")
            .to_string();
        assert!(error.contains("upgrade this node"), "{error}");
        let error = restored(&stored(1001, "")).expect_err("apply would have refused it").to_string();
        assert!(error.contains("1001"), "{error}");
    }

    #[test]
    fn the_number_of_the_rules_stays_with_the_revision() {
        let mut config = restored(&stored(7, "")).expect("right");
        let record = RevisionRecord { rules: 2, ..(*config.history[0]).clone() };
        config.history[0] = Shared::new(record);
        let kept = serde_json::to_string(&config).expect("it has a form");
        assert_eq!(kept, stored(7, r#","rules":2"#));
    }
}
