//! The configuration document in force, and the revisions before it.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    ApplyConfig, At, Author, Outcome, Refusal, State,
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
    /// The text as its author wrote it.
    pub source: String,
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
    /// Reads the document in force again, after the rest was decoded.
    pub(super) fn restore(&mut self) -> Result<(), serde_json::Error> {
        if let Some(last) = self.history.back() {
            self.document = Some(Arc::new(serde_json::from_str(&last.document)?));
        }
        Ok(())
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

    /// The last revisions, newest first; the first is in force.
    pub fn revisions(&self) -> impl Iterator<Item = &RevisionRecord> {
        self.parts.config.history.iter().rev().map(|record| &**record)
    }

    /// The index after which no revision is missing from [`State::revisions`]; `None` while nothing was forgotten.
    pub fn revisions_whole_after(&self) -> Option<LogIndex> {
        let oldest = self.parts.config.history.front()?;
        (oldest.revision > Revision::new(1)).then_some(oldest.index)
    }

    /// A revision that is still kept.
    pub fn revision_record(&self, revision: Revision) -> Option<&RevisionRecord> {
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
        if let Some(expected) = command.expect.filter(|expected| *expected != found) {
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
            source: command.source.clone(),
        };
        let config = self.parts.config.edit();
        config.push(record, document);
        let outcome = config.answer(&command.request_id, revision, true);
        let what = format!("configuration revision {revision}");
        self.record(at, &command.author, Said::new(EventKind::ConfigApplied, Subject::Config, what));
        self.forget_outdated_reports(before.as_deref());
        self.plan_changed();
        outcome
    }
}
