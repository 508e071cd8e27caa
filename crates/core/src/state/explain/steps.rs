//! The entries behind bindings, backends and VIPs, in words.

use super::Decision;
use crate::{
    ids::{BackendId, ServiceId, VipId},
    persistence::{KeyHash, Provenance, Record},
    plan::{AdminState, Verdict},
    state::{RehomeCause, RevisionRecord, State, Subject, admin_word, verdict_word},
    time::LogTime,
};

type Reason = (String, Decision);

/// Who holds the VIP, by the last record.
pub(super) fn vip(state: &State, id: VipId, name: &str) -> Option<Reason> {
    let tenure = state.tenures(id).next()?;
    let owner = tenure.owner.map(|id| match state.node(id) {
        Some(node) => node.info.name.clone(),
        None => format!("node {id}"),
    });
    let text = match owner {
        Some(owner) => format!("VIP {name} is held by {owner}, epoch {}", tenure.epoch),
        None => format!("VIP {name} is held by nobody since epoch {}", tenure.epoch),
    };
    let decision = Decision { index: tenure.index, at: tenure.at, author: String::new(), cause: tenure.cause.clone() };
    Some((text, decision))
}

/// How a binding came about.
pub(super) fn binding(state: &State, service: ServiceId, key: KeyHash, record: &Record) -> Reason {
    let name = state.backend_name(record.backend).unwrap_or("unknown");
    let text = format!("{} to {name} ({})", if record.pinned { "pinned" } else { "bound" }, record.backend);
    let index = record.index(state.applied());
    let about = Subject::Binding(service, key);
    let event = state.events().find(|event| event.subject == about && event.index == index);
    let decision = match event {
        Some(event) => {
            Decision { index, at: event.at, author: event.author.name.clone(), cause: event.author.message.clone() }
        }
        None => Decision {
            index,
            at: LogTime::from_millis(u64::from(record.created_s) * 1000),
            author: String::new(),
            cause: match record.provenance {
                Provenance::Created => "its key was free".to_owned(),
                Provenance::Replaced => "its binding to another backend had ended".to_owned(),
                Provenance::Rehomed(cause) => format!("moved there: {}", cause_in_words(cause)),
            },
        },
    };
    (text, decision)
}

/// Where a backend stands, and by whose doing. The reason that a bound client must leave is last.
pub(super) fn backend(
    state: &State,
    id: BackendId,
    cause: Option<RehomeCause>,
    revision: &RevisionRecord,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let name = state.backend_name(id).unwrap_or("unknown");
    if let Some(standing) = state.standing(id).filter(|standing| standing.verdict != Verdict::Unknown) {
        let about = Subject::Backend(id);
        let event = state.events().find(|event| event.subject == about && event.index == standing.index);
        let decision = Decision {
            index: standing.index,
            at: standing.since,
            author: event.map_or_else(String::new, |event| event.author.name.clone()),
            cause: event.map_or_else(String::new, |event| event.cause.clone()),
        };
        reasons.push((format!("backend {name} is {}", verdict_word(standing.verdict)), decision));
    }
    if let Some(wish) = state.backend_wish(id).filter(|wish| wish.admin != AdminState::Ready) {
        let decision = Decision {
            index: wish.index,
            at: wish.at,
            author: wish.author.name.clone(),
            cause: wish.author.message.clone(),
        };
        let keeps = if wish.admin == AdminState::Drain { "; bound clients stay" } else { "" };
        reasons.push((format!("backend {name} is in {}{keeps}", admin_word(wish.admin)), decision));
    }
    if cause == Some(RehomeCause::BackendRemoved) {
        let text = format!("backend {name} is not configured in this service");
        reasons.push((text, super::of_revision(revision)));
    }
    reasons
}

fn cause_in_words(cause: RehomeCause) -> &'static str {
    match cause {
        RehomeCause::BackendDown => "its backend was down",
        RehomeCause::BackendMaintenance => "its backend was in maintenance",
        RehomeCause::BackendRemoved => "its backend was configured away",
        RehomeCause::ConnectFailed => "its backend could not be connected to",
        RehomeCause::Operator => "an operator moved it",
    }
}
