//! Why a request goes where it goes: the decisions in their order, each with the entry that made it.
//!
//! Works on the same compiled plan and the same seats that the data plane and the log go by, so an
//! explanation cannot disagree with what happens. It tells what the agreed state leads to; that a
//! node without quorum or without the VIP's lease serves otherwise is not in the state.
//!
//! Not here: words for a terminal (`ballastctl`), the format of signed cookies (`ballast-proxy`).

mod request;
mod steps;
#[cfg(test)]
mod tests;

pub use request::Question;

use super::{RehomeCause, RevisionRecord, State};
use crate::{
    balance,
    config::Persistence,
    ids::{BackendId, LogIndex, NodeId, ServiceId},
    persistence::{KeyHash, Record},
    plan::{self, Bind, FarmPlan, ServicePlan},
    time::LogTime,
};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Goes to the backend that it is bound to.
    Bound,
    /// Is bound anew, because the backend it is bound to cannot serve.
    Rehomed(RehomeCause),
    /// Is balanced over the candidates and bound to the one picked.
    NewBinding,
    /// Is balanced over the candidates; nothing is remembered.
    Balanced,
    /// Gets the fallback's answer: there is no candidate, or no service takes it.
    Fallback,
    /// There is nothing at this node that would take it.
    Refused,
}

/// What a step of the explanation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each names the thing of its name")]
pub enum Topic {
    Node,
    Vip,
    Listener,
    Service,
    Persistence,
    Binding,
    Backend,
    Balance,
    Fallback,
}

/// The entry that a step follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The entry.
    pub index: LogIndex,
    /// Its log time.
    pub at: LogTime,
    /// Who made it; empty for what requests do.
    pub author: String,
    /// Why: what the author said, or the cause that the entry names.
    pub cause: String,
}

/// One decision on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is about.
    pub topic: Topic,
    /// The decision in words.
    pub text: String,
    /// Where it comes from; `None` if it follows from the request alone.
    pub decision: Option<Decision>,
}

/// What would happen to a request, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// In the order in which it is decided.
    pub steps: Vec<Step>,
    /// In one sentence.
    pub conclusion: String,
    /// What becomes of the request.
    pub fate: Fate,
    /// The service that takes it.
    pub service: Option<ServiceId>,
    /// The hash of its key, if the service keeps a table and the request has a key.
    pub key: Option<KeyHash>,
    /// Its binding, if it has one that has not ended.
    pub binding: Option<Record>,
    /// The one backend that it goes to; `None` when any of several may take it.
    pub backend: Option<BackendId>,
    /// The backends that a client without binding is given to.
    pub candidates: Vec<BackendId>,
}

impl Explanation {
    fn new() -> Self {
        Self {
            steps: Vec::new(),
            conclusion: String::new(),
            fate: Fate::Refused,
            service: None,
            key: None,
            binding: None,
            backend: None,
            candidates: Vec::new(),
        }
    }

    fn step(&mut self, topic: Topic, text: impl Into<String>, decision: Option<Decision>) {
        self.steps.push(Step { topic, text: text.into(), decision });
    }

    fn end(mut self, fate: Fate, conclusion: impl Into<String>) -> Self {
        self.fate = fate;
        self.conclusion = conclusion.into();
        self
    }
}

/// What would happen to this request at this node, by the state as it is.
pub fn explain(state: &State, node: NodeId, question: &Question<'_>) -> Explanation {
    let mut told = Explanation::new();
    let plan = plan::compile(state, node, 0);
    let Some(revision) = state.revisions().next() else {
        return told.end(Fate::Refused, "no configuration was applied yet");
    };
    let Some(farm) = plan.farms.iter().find(|farm| *farm.name == *question.farm) else {
        return told.end(Fate::Refused, format!("farm {} is not served by this node", question.farm));
    };
    if !arrives(state, &mut told, farm, revision, question) {
        return told.end(Fate::Refused, "this node has no such listener");
    }
    let Some(service) = route(&mut told, farm, revision, question) else {
        told.step(Topic::Fallback, "the farm's answer for what no service takes", Some(of_revision(revision)));
        return told.end(Fate::Fallback, "no service takes this request");
    };
    told.service = Some(service.id);
    told.candidates = balance::candidates(service);
    match &service.persistence {
        None => {
            told.step(Topic::Persistence, "clients do not stay: no persistence", Some(of_revision(revision)));
            balanced(told, service, revision, Fate::Balanced)
        }
        Some(Persistence::Cookie(cookie)) => {
            told.step(Topic::Persistence, format!("by signed cookie {}", cookie.name), Some(of_revision(revision)));
            let value = question.cookie(&cookie.name);
            match value.and_then(|value| (question.signed)(service.id, cookie, &value)) {
                None => {
                    told.step(Topic::Binding, "the request carries no valid cookie", None);
                    balanced(told, service, revision, Fate::NewBinding)
                }
                Some(backend) => {
                    told.step(Topic::Binding, format!("its cookie names backend {backend}"), None);
                    bound(state, told, service, revision, backend)
                }
            }
        }
        Some(Persistence::Table(table)) => {
            let text = format!("by replicated table, key {}", request::key_in_words(&table.key));
            told.step(Topic::Persistence, text, Some(of_revision(revision)));
            told.key = question.key(&table.key, &plan.table_secret, service.id);
            let Some(key) = told.key else {
                told.step(Topic::Binding, "the request has no key and is not bound", None);
                return balanced(told, service, revision, Fate::Balanced);
            };
            told.binding = state.binding(service.id, key);
            let Some(record) = told.binding else {
                let text = match state.binding_or_ended(service.id, key) {
                    Some(_) => "its binding has ended",
                    None => "its key is free",
                };
                told.step(Topic::Binding, text, None);
                return balanced(told, service, revision, Fate::NewBinding);
            };
            let (text, decision) = steps::binding(state, service.id, key, &record);
            told.step(Topic::Binding, text, Some(decision));
            bound(state, told, service, revision, record.backend)
        }
    }
}

fn arrives(
    state: &State,
    told: &mut Explanation,
    farm: &FarmPlan,
    revision: &RevisionRecord,
    question: &Question<'_>,
) -> bool {
    let named = |name: &str| question.listener.is_none_or(|wanted| wanted == name);
    let Some(listener) = farm.listeners.iter().find(|listener| named(&listener.name)) else {
        return false;
    };
    if let Bind::Vip { id, name, .. } = &listener.bind
        && let Some((text, decision)) = steps::vip(state, *id, name)
    {
        told.step(Topic::Vip, text, Some(decision));
    }
    told.step(
        Topic::Listener,
        format!("listener {} on port {}", listener.name, listener.port),
        Some(of_revision(revision)),
    );
    true
}

fn route<'a>(
    told: &mut Explanation,
    farm: &'a FarmPlan,
    revision: &RevisionRecord,
    question: &Question<'_>,
) -> Option<&'a ServicePlan> {
    let takes = |service: &ServicePlan| {
        let rule = service.matches.as_ref();
        rule.is_none_or(|rule| rule.matches(question.host_name().as_bytes(), question.path().as_bytes()))
    };
    let at = farm.services.iter().position(|service| takes(service))?;
    let text = format!("service {} is the first that matches ({} before it do not)", farm.services[at].name, at);
    told.step(Topic::Service, text, Some(of_revision(revision)));
    Some(&farm.services[at])
}

fn bound(
    state: &State,
    mut told: Explanation,
    service: &ServicePlan,
    revision: &RevisionRecord,
    backend: BackendId,
) -> Explanation {
    let name = state.backend_name(backend).unwrap_or("unknown").to_owned();
    let seat = state.roster.seat(backend).filter(|seat| seat.service == service.id);
    let cause = match seat {
        None => Some(RehomeCause::BackendRemoved),
        Some(seat) => seat.unusable,
    };
    for (text, decision) in steps::backend(state, backend, cause, revision) {
        told.step(Topic::Backend, text, Some(decision));
    }
    match cause {
        None => {
            told.backend = Some(backend);
            told.end(Fate::Bound, format!("goes to {name}, to which it is bound"))
        }
        Some(cause) => balanced(told, service, revision, Fate::Rehomed(cause)),
    }
}

fn balanced(mut told: Explanation, service: &ServicePlan, revision: &RevisionRecord, fate: Fate) -> Explanation {
    let names: Vec<&str> = service
        .backends
        .iter()
        .filter(|backend| told.candidates.contains(&backend.id))
        .map(|backend| &*backend.name)
        .collect();
    let Some(first) = told.candidates.first().copied() else {
        told.step(Topic::Fallback, "no backend takes new clients", Some(of_revision(revision)));
        return told.end(Fate::Fallback, "gets the fallback: no backend is left");
    };
    let names = names.join(", ");
    told.step(Topic::Balance, format!("{:?} over {names}", service.balance), Some(of_revision(revision)));
    if told.candidates.len() == 1 {
        told.backend = Some(first);
    }
    let conclusion = match fate {
        Fate::Rehomed(_) => format!("its backend cannot serve: it is bound to one of {names} instead"),
        Fate::NewBinding => format!("is bound to one of {names}"),
        _ => format!("goes to one of {names}"),
    };
    told.end(fate, conclusion)
}

fn of_revision(revision: &RevisionRecord) -> Decision {
    let message = match revision.author.message.as_str() {
        "" => String::new(),
        message => format!(": {message}"),
    };
    Decision {
        index: revision.index,
        at: revision.at,
        author: revision.author.name.clone(),
        cause: format!("configuration revision {}{message}", revision.revision),
    }
}
