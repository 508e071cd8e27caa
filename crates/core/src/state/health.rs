//! What the nodes found about backends, and the cluster's one verdict on each.
//!
//! A verdict is judged ([`crate::health::verdict`]) from the last finding of every member that has
//! one; those of a member that has been silent for too long lapse. A backend goes down at once; one
//! that went down often lately is kept down for a while (flap damping), because each return and
//! fall moves clients. All of it by log time, so that all nodes move the same clients at the same
//! index.
//!
//! Not here: probing, rise and fall, and the rule itself ([`crate::health`]).

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    At, Outcome, State,
    events::{EventKind, Said, Subject},
    members::{no_node, not_found},
    registry::Numbers,
};
use crate::{
    config::{Document, VerdictPolicy},
    health::verdict,
    ids::{BackendId, LogIndex, NodeId},
    plan::Verdict,
    time::LogTime,
};

/// A backend that went down this often within [`FLAP_WINDOW_MS`] is flapping.
const FLAP_DOWNS: usize = 3;

/// Arbitrary: longer than a slow restart, shorter than an operator's patience.
const FLAP_WINDOW_MS: u64 = 60_000;

/// A flapping backend stays down this long after it last went down.
const FLAP_HOLD_MS: u64 = 30_000;

/// One node's last finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What it found.
    pub verdict: Verdict,
    /// The check in words.
    pub detail: String,
    /// When.
    pub at: LogTime,
    /// The entry.
    pub index: LogIndex,
}

/// The verdict in force on a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The verdict.
    pub verdict: Verdict,
    /// Since when.
    pub since: LogTime,
    /// The entry that changed it.
    pub index: LogIndex,
    /// The last times it went down.
    downs: VecDeque<LogTime>,
    /// It flaps and is kept down until then, although the nodes find it up.
    pub held_until: Option<LogTime>,
}

impl Standing {
    /// Whether it ever went down.
    pub(crate) fn was_down(&self) -> bool {
        !self.downs.is_empty()
    }

    fn hold(&self, now: LogTime) -> Option<LogTime> {
        let last = self.downs.back()?;
        let flapping = self.downs.len() >= FLAP_DOWNS && now.millis_since(self.downs[0]) <= FLAP_WINDOW_MS;
        let until = last.plus_millis(FLAP_HOLD_MS);
        (flapping && now < until).then_some(until)
    }
}

/// Findings and verdicts of the backends that are checked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    reports: BTreeMap<BackendId, BTreeMap<NodeId, Report>>,
    standings: BTreeMap<BackendId, Standing>,
}

impl Health {
    pub(crate) fn verdict(&self, id: BackendId) -> Verdict {
        self.standings.get(&id).map_or(Verdict::Unknown, |standing| standing.verdict)
    }

    fn judge(&self, id: BackendId, policy: VerdictPolicy) -> Verdict {
        let reports = self.reports.get(&id).into_iter().flat_map(BTreeMap::values);
        verdict(policy, reports.map(|report| report.verdict))
    }

    /// Drops what a node found; returns about which backends.
    fn forget(&mut self, node: NodeId) -> Vec<BackendId> {
        let mut of = Vec::new();
        for (backend, by) in &mut self.reports {
            if by.remove(&node).is_some() {
                of.push(*backend);
            }
        }
        of
    }
}

impl State {
    /// The verdict on a backend and its history; `None` if no node has reported.
    pub fn standing(&self, id: BackendId) -> Option<&Standing> {
        self.parts.health.standings.get(&id)
    }

    /// The cluster's verdict on a backend.
    pub fn verdict(&self, id: BackendId) -> Verdict {
        self.parts.health.verdict(id)
    }

    /// Each node's last finding about a backend.
    pub fn reports(&self, id: BackendId) -> impl Iterator<Item = (NodeId, &Report)> {
        self.parts.health.reports.get(&id).into_iter().flatten().map(|(node, report)| (*node, report))
    }

    /// What a node found last about each backend, as far as the log holds a finding of it.
    pub fn findings_of(&self, node: NodeId) -> impl Iterator<Item = (BackendId, Verdict)> {
        self.parts.health.reports.iter().filter_map(move |(id, by)| Some((*id, by.get(&node)?.verdict)))
    }

    pub(super) fn report_health(
        &mut self,
        at: At,
        node: NodeId,
        backend: BackendId,
        verdict: Verdict,
        detail: &str,
    ) -> Outcome {
        if self.node(node).is_none() {
            return no_node(node);
        }
        if self.policy(backend).is_none() {
            return not_found(format!("backend {backend} with health checks"));
        }
        let report = Report { verdict, detail: detail.to_owned(), at: at.now, index: at.index };
        self.parts.health.edit().reports.entry(backend).or_default().insert(node, report);
        self.judge(at, backend, None);
        Outcome::Done
    }

    /// Lets backends up whose time of being held down is over.
    pub(super) fn release_held(&mut self, at: At) {
        let standings = &self.parts.health.standings;
        let due = |standing: &Standing| standing.held_until.is_some_and(|until| until <= at.now);
        let due: Vec<_> = standings.iter().filter(|(_, standing)| due(standing)).map(|(id, _)| *id).collect();
        for id in due {
            self.judge(at, id, None);
        }
    }

    /// Drops the findings of a node that is no longer a member.
    pub(super) fn forget_reports_of(&mut self, at: At, node: NodeId) {
        for id in self.parts.health.edit().forget(node) {
            self.judge(at, id, None);
        }
    }

    /// Drops the findings of a member that is silent. It reads in its plan that the log has them no more.
    pub(super) fn lapse_findings(&mut self, at: At, node: NodeId) -> Outcome {
        let Some(member) = self.node(node) else { return no_node(node) };
        if self.findings_of(node).next().is_none() {
            return Outcome::Done;
        }
        let cause = format!("node {} is silent and its findings lapsed", member.info.name);
        for id in self.parts.health.edit().forget(node) {
            self.judge(at, id, Some(&cause));
        }
        self.plan_changed();
        Outcome::Done
    }

    /// Drops findings about backends that are gone, are not checked any more, or are elsewhere now. `numbers` are those of the
    /// document in force; the roster still has those of the one before.
    pub(super) fn forget_outdated_reports(&mut self, before: Option<&Document>, numbers: &Numbers) {
        let then = checked_at(before, &self.roster.numbers);
        let now = checked_at(self.document().map(|document| &**document), numbers);
        let is_outdated = |id: &BackendId| now.get(id).is_none_or(|at| then.get(id) != Some(at));
        let outdated: Vec<_> = self.parts.health.reports.keys().copied().filter(is_outdated).collect();
        if !outdated.is_empty() {
            let health = self.parts.health.edit();
            for id in outdated {
                health.reports.remove(&id);
                health.standings.remove(&id);
            }
        }
    }

    fn policy(&self, backend: BackendId) -> Option<VerdictPolicy> {
        let (farm, service, _) = self.roster.seat(backend)?.place;
        let service = &self.document()?.farms[farm].services[service];
        Some(service.health.as_ref()?.policy)
    }

    /// Judges anew. `cause` says why if it is no finding.
    fn judge(&mut self, at: At, backend: BackendId, cause: Option<&str>) {
        let Some(policy) = self.policy(backend) else { return };
        let verdict = self.parts.health.judge(backend, policy);
        let standing = self.parts.health.edit().standings.entry(backend).or_default();
        if standing.verdict == verdict {
            standing.held_until = None;
            return;
        }
        if standing.verdict == Verdict::Down
            && let Some(until) = standing.hold(at.now)
        {
            standing.held_until = Some(until);
            return;
        }
        let old = standing.verdict;
        if verdict == Verdict::Down {
            if standing.downs.len() >= FLAP_DOWNS {
                standing.downs.pop_front();
            }
            standing.downs.push_back(at.now);
        }
        standing.held_until = None;
        standing.verdict = verdict;
        standing.since = at.now;
        standing.index = at.index;
        self.verdict_changed(at, backend, (old, verdict), cause);
    }

    fn verdict_changed(&mut self, at: At, backend: BackendId, (old, new): (Verdict, Verdict), cause: Option<&str>) {
        let newest = self.reports(backend).max_by_key(|(node, report)| (report.index, *node));
        let (author, cause) = match (cause, newest) {
            (Some(cause), _) => (super::Author::default(), cause.to_owned()),
            (None, Some((node, report))) => (self.daemon(node), report.detail.clone()),
            (None, None) => (super::Author::default(), "no node has a finding".to_owned()),
        };
        let name = self.backend_name(backend).unwrap_or_default();
        let what = format!("backend {name}: {} to {}", verdict_word(old), verdict_word(new));
        let said = Said::new(EventKind::VerdictChanged, Subject::Backend(backend), what).because(cause);
        self.record(at, &author, said);
        self.verdicts_changed();
    }
}

/// Where the backends are that a document has checked, and on which port they are checked if not on their own.
fn checked_at(document: Option<&Document>, numbers: &Numbers) -> BTreeMap<BackendId, (SocketAddr, Option<u16>)> {
    let farms = document.map_or(&[][..], |document| &document.farms).iter().zip(&numbers.farms);
    let mut checked = BTreeMap::new();
    for (service, (_, ids)) in farms.flat_map(|(farm, numbers)| farm.services.iter().zip(&numbers.services)) {
        let Some(health) = &service.health else { continue };
        let backends = ids.iter().zip(&service.backends);
        checked.extend(backends.map(|(id, backend)| (*id, (backend.address, health.port))));
    }
    checked
}

pub(crate) const fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Up => "up",
        Verdict::Down => "down",
    }
}
