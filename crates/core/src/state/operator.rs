//! What operators want of backends, beside the document. It survives every `apply`, and also that
//! the backend is configured away and back: a drain ends when an operator ends it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    At, Author, Outcome, State,
    events::{EventKind, Said, Subject},
    members::{changed, invalid, not_found},
};
use crate::{
    ids::{BackendId, LogIndex},
    plan::AdminState,
    time::LogTime,
};

/// The document's own bound.
const WEIGHT_MAX: u32 = 1000;

/// What an event says of a backend that was made ready. Its words are part of the replicated state, so they stay as they
/// are; names have no spaces.
const MADE_READY: &str = " to ready";

/// What an operator wants of one backend, and the entry that last changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendWish {
    /// Wanted state.
    pub admin: AdminState,
    /// Weight instead of the document's.
    pub weight: Option<u32>,
    /// The entry.
    pub index: LogIndex,
    /// When.
    pub at: LogTime,
    /// Who and why.
    pub author: Author,
}

/// Wishes by backend; none means ready, with the document's weight.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Operator(BTreeMap<BackendId, BackendWish>);

impl Operator {
    pub(crate) fn admin(&self, id: BackendId) -> AdminState {
        self.0.get(&id).map_or(AdminState::Ready, |wish| wish.admin)
    }

    pub(crate) fn weight(&self, id: BackendId) -> Option<u32> {
        self.0.get(&id)?.weight
    }
}

impl State {
    /// What an operator wants of a backend; `None` if nothing was ever said.
    pub fn backend_wish(&self, id: BackendId) -> Option<&BackendWish> {
        self.parts.operator.0.get(&id)
    }

    /// The entry that last changed what operators want of a backend or, if that came later, the document; zero before
    /// both. Changes of the backend are compared with it, also where the later document says the same of the backend.
    pub fn backend_changed(&self, id: BackendId) -> LogIndex {
        let wish = self.backend_wish(id).map(|wish| wish.index);
        let document = self.revisions().next().map(|record| record.index);
        wish.max(document).unwrap_or_default()
    }

    /// Full name (`farm/service/backend`) of a backend that is or was configured.
    pub fn backend_name(&self, id: BackendId) -> Option<&str> {
        self.parts.registry.backend_name(id)
    }

    /// All backends that are or were configured, by full name (`farm/service/backend`).
    pub fn backends_ever(&self) -> impl Iterator<Item = (BackendId, &str)> {
        self.parts.registry.backends()
    }

    /// The highest number that a backend was given so far. Zero means none.
    pub fn newest_backend(&self) -> BackendId {
        self.parts.registry.newest_backend()
    }

    /// Id of a backend (`farm/service/backend`) that is or was configured.
    pub fn backend_id(&self, name: &str) -> Option<BackendId> {
        self.parts.registry.backend(name)
    }

    /// The backends that operators made ready again since `from`, and when last, as far back as the history goes. A wish does
    /// not tell it: a change of the weight alone has a time too.
    pub(crate) fn made_ready(&self, from: LogTime) -> BTreeMap<BackendId, LogTime> {
        let mut made_ready = BTreeMap::new();
        for event in self.events().take_while(|event| event.at >= from) {
            if let (EventKind::BackendSet, Subject::Backend(id)) = (event.kind, event.subject)
                && event.what.contains(MADE_READY)
            {
                made_ready.entry(id).or_insert(event.at);
            }
        }
        made_ready
    }

    pub(super) fn set_backend(
        &mut self,
        at: At,
        id: BackendId,
        admin: Option<AdminState>,
        weight: Option<Option<u32>>,
        expect: Option<LogIndex>,
        author: &Author,
    ) -> Outcome {
        let Some(name) = self.backend_name(id).map(ToOwned::to_owned) else {
            return not_found(format!("backend {id}"));
        };
        if expect.is_some_and(|expected| expected != self.backend_changed(id)) {
            return changed(format!("backend {name}"));
        }
        if let Some(Some(weight)) = weight
            && weight > WEIGHT_MAX
        {
            return invalid(format!("weight {weight} is more than {WEIGHT_MAX}"));
        }
        let (old_admin, old_weight) = (self.parts.operator.admin(id), self.parts.operator.weight(id));
        let wish = BackendWish {
            admin: admin.unwrap_or(old_admin),
            weight: weight.unwrap_or(old_weight),
            index: at.index,
            at: at.now,
            author: author.clone(),
        };
        if (wish.admin, wish.weight) == (old_admin, old_weight) {
            return Outcome::Done;
        }
        let mut what = format!("backend {name}:");
        if wish.admin != old_admin {
            what += &format!(" {} to {}", admin_word(old_admin), admin_word(wish.admin));
        }
        if wish.weight != old_weight {
            what += &match wish.weight {
                Some(weight) => format!(" weight {weight}"),
                None => " weight of the configuration".to_owned(),
            };
        }
        self.parts.operator.edit().0.insert(id, wish);
        self.record(at, author, Said::new(EventKind::BackendSet, Subject::Backend(id), what));
        self.plan_changed();
        Outcome::Done
    }
}

pub(crate) const fn admin_word(admin: AdminState) -> &'static str {
    match admin {
        AdminState::Ready => "ready",
        AdminState::Drain => "drain",
        AdminState::Maintenance => "maintenance",
    }
}
