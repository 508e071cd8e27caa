//! The replicated state machine: what the cluster agrees on, and how an entry changes it.
//!
//! [`State::apply`] is total and deterministic: no clock, float, hash order or word size inside.
//! The leader stamps each entry with [`LogTime`]; lifetimes are judged by it and expiry is carried
//! by entries, so that replicas at one index are equal bit for bit and can prove it by
//! [`State::hash`]. A command that cannot be carried out is *refused*: a value the log agrees on.
//!
//! Each entry carries frames, each frame the commands that one node proposed together. A frame
//! that arrives twice (its node sent it again to a new leader) is applied once, and one of a node
//! that is no member (any more) not at all.
//!
//! Not here: the log (`ballast-raft`), what a node does with the state ([`crate::plan`]).

mod bindings;
pub mod codec;
mod command;
mod configuration;
mod events;
mod health;
mod home;
mod members;
mod operator;
mod origins;
mod part;
mod registry;
mod roster;
mod sessions;
mod snapshot;
mod users;
mod vips;
pub(crate) mod wire;

use std::{fmt, sync::Arc};

pub use bindings::TableInfo;
pub use command::*;
pub use configuration::{REVISIONS_MAX, RevisionRecord};
pub use events::{EVENTS_MAX, Event, EventKind, Subject};
pub use health::{Report, Standing};
pub use home::VipHome;
pub use members::{Cluster, JoinToken, Node, SeenNode};
pub use operator::BackendWish;
pub use snapshot::StateSnapshot;
pub use users::{Deed, UserCertificate, UserIdentity};
pub use vips::{Tenure, VipWish};
pub use wire::DecodeError;

pub(crate) use registry::FarmNumbers;

use bindings::{Bind, SetBinding};
use configuration::Configuration;
use events::Events;
use health::Health;
use members::Members;
use operator::Operator;
use origins::Origins;
use part::Part;
use registry::{Numbers, Registry};
use roster::Roster;
use vips::Vips;

use crate::{
    ids::LogIndex,
    persistence::{Store, Tables},
    session::{Garbage, Sessions},
    time::LogTime,
};

/// The entry that is being applied.
#[derive(Clone, Copy, Debug)]
struct At {
    index: LogIndex,
    now: LogTime,
}

/// The replicated parts besides the bindings.
#[derive(Clone, Debug, Default)]
struct Parts {
    cluster: Part<Option<Cluster>>,
    members: Part<Members>,
    config: Part<Configuration>,
    registry: Part<Registry>,
    operator: Part<Operator>,
    health: Part<Health>,
    vips: Part<Vips>,
    events: Part<Events>,
    origins: Part<Origins>,
}

/// The replicated state.
///
/// `roster` is derived from the rest, `plan_version`, `orders_version` and `lease_version` count changes within this
/// process; none of them is written to a snapshot or part of the hash.
pub struct State {
    applied: LogIndex,
    log_time: LogTime,
    parts: Parts,
    store: Store,
    sessions: Arc<Sessions>,
    roster: Roster,
    plan_version: u64,
    orders_version: u64,
    lease_version: u64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self {
            applied: LogIndex::new(0),
            log_time: LogTime::default(),
            parts: Parts::default(),
            store: Store::default(),
            sessions: Arc::default(),
            roster: Roster::default(),
            plan_version: 1,
            orders_version: 1,
            lease_version: 1,
        }
    }

    /// Applies the entry at `index` and adds what its frames came to. An entry that was applied
    /// already changes nothing; a frame that was applied already, or whose node is no member of the cluster (any
    /// more), is skipped and has no outcome.
    pub fn apply(&mut self, index: LogIndex, entry: &Entry, out: &mut Vec<FrameOutcomes>) {
        if index <= self.applied {
            return;
        }
        self.applied = index;
        let before = self.log_time;
        self.log_time = before.max(entry.log_time);
        let at = At { index, now: self.log_time };
        // Not taken by whoever applied the entry before, so freed here.
        drop(self.take_garbage());
        self.sessions.advance(at.now);
        for frame in &entry.frames {
            if self.is_foreign(frame.origin) || self.parts.origins.knows(frame.origin, frame.seq) {
                continue;
            }
            self.parts.origins.edit().note(frame.origin, frame.seq);
            let outcomes = frame.commands.iter().map(|command| self.carry_out(at, command)).collect();
            out.push(FrameOutcomes { origin: frame.origin, seq: frame.seq, index, outcomes });
        }
        self.release_held(at);
        self.seat_by_verdicts();
        self.store.sweep(before, at.now);
        self.sessions.sweep();
    }

    /// Notes an entry of the log that carries nothing for the state (Raft's own).
    pub fn skip(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index);
    }

    /// Takes over `other`, which a snapshot was read into. Handles that [`State::tables`] and [`State::sessions`] gave
    /// out show what is new, and [`State::plan_version`] and [`State::lease_version`] move on.
    pub fn replace(&mut self, other: Self) {
        let Self { applied, log_time, parts, store, sessions, roster, .. } = other;
        self.applied = applied;
        self.log_time = log_time;
        self.parts = parts;
        self.store.replace(store);
        self.sessions.replace(&sessions);
        self.roster = roster;
        self.plan_version += 1;
        self.orders_version += 1;
        self.lease_version += 1;
    }

    /// The last entry applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The latest time that the log has told.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// Hash of everything the cluster agrees on: equal on all nodes at one index. Cheap: bindings
    /// are summed up as they change, of the rest only what changed since the last call is hashed.
    pub fn hash(&self) -> [u8; 32] {
        snapshot::hash(self.applied, self.log_time, &self.parts, self.store.heads(), &self.sessions.head())
    }

    /// The state as it is now, to be written out elsewhere while this one goes on.
    pub fn snapshot(&self) -> StateSnapshot {
        StateSnapshot::of(self)
    }

    /// What commands have taken out of the session store since the last call and what takes time to free: drop it where
    /// nobody waits for it.
    pub fn take_garbage(&mut self) -> Garbage {
        self.sessions.take_garbage()
    }

    /// The binding tables for readers: one handle for the life of the process.
    pub fn tables(&self) -> &Arc<Tables> {
        self.store.tables()
    }

    /// The session store for readers: one handle for the life of the process.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Moves on when a plan compiled earlier is no longer right. Counts within this process.
    pub fn plan_version(&self) -> u64 {
        self.plan_version
    }

    /// Moves on with [`State::plan_version`], but not when all that changed are verdicts on backends, which come by the
    /// thousand. Counts within this process.
    pub fn orders_version(&self) -> u64 {
        self.orders_version
    }

    /// Moves on when what the lease protocol was told earlier is no longer right: with [`State::orders_version`], and with each
    /// change of hands that is recorded. Keys, which time alone changes, are not counted. Counts within this process.
    pub fn lease_version(&self) -> u64 {
        self.lease_version
    }

    /// Resident bytes of the bindings.
    pub fn binding_bytes(&self) -> usize {
        self.store.array_bytes()
    }

    /// The numbers of everything that the document in force names.
    pub(crate) fn numbers(&self) -> &Numbers {
        &self.roster.numbers
    }

    /// Whether a node may change nothing: there is a cluster and it is no member. Which frames of a removed node were
    /// applied is forgotten, so none of them may be taken for a new one; and a node that is out has no say. Before
    /// there is a cluster, nobody is a member.
    fn is_foreign(&self, origin: Origin) -> bool {
        self.parts.cluster.is_some() && self.node(origin.node).is_none()
    }

    fn carry_out(&mut self, at: At, command: &Command) -> Outcome {
        if !matches!(command, Command::ReportHealth { .. }) {
            self.seat_by_verdicts();
        }
        match command {
            Command::InitCluster(init) => self.init_cluster(at, init),
            _ if self.parts.cluster.is_none() => members::not_initialised(),
            Command::ApplyConfig(apply) => self.apply_config(at, apply),
            Command::SetBackend { backend, admin, weight, author, expect } => {
                self.set_backend(at, *backend, *admin, *weight, *expect, author)
            }
            Command::Bind { service, key, choice, replaces } => {
                let (service, key, choice, replaces) = (*service, *key, *choice, *replaces);
                self.bind(at, Bind { service, key, choice, replaces, learned: false })
            }
            Command::Learn { service, key, teacher } => {
                let (service, key, choice) = (*service, *key, *teacher);
                self.bind(at, Bind { service, key, choice, replaces: None, learned: true })
            }
            Command::Renew { service, key } => self.renew(at, *service, *key),
            Command::SetBinding { service, key, to, pinned, author } => {
                self.set_binding(at, SetBinding { service: *service, key: *key, to: *to, pinned: *pinned }, author)
            }
            Command::ReportHealth { node, backend, verdict, detail } => {
                self.report_health(at, *node, *backend, *verdict, detail)
            }
            Command::CreateJoinToken { hash, expires, role, author } => {
                let token =
                    JoinToken { hash: *hash, expires: *expires, role: *role, used_by: None, author: author.clone() };
                self.create_join_token(at, token)
            }
            Command::EnrolNode { token_hash, info, key_fingerprint } => {
                self.enrol_node(at, *token_hash, info, *key_fingerprint)
            }
            Command::UpdateNode { node, info } => self.update_node(at, *node, info),
            Command::SetNode { node, admin, author, expect } => {
                self.set_node(at, *node, *admin, expect.as_deref(), author)
            }
            Command::RemoveNode { node, author, lease_secret, expect } => {
                let lease_secret = lease_secret.as_ref().map(|secret| **secret);
                self.remove_node(at, *node, lease_secret, expect.as_deref(), author)
            }
            Command::RecordVip { vip, owner, epoch, cause } => self.record_vip(at, *vip, *owner, *epoch, cause),
            Command::MoveVip { vip, to, author, expect } => self.move_vip(at, *vip, *to, *expect, author),
            Command::RotateCookieKey { secret, author } => self.rotate_cookie_key(at, **secret, author),
            Command::IssueUser { user, author } => self.issue_user(at, user, author),
            Command::RevokeUsers { fingerprints, author, names } => self.revoke_users(at, fingerprints, names, author),
            Command::LapseFindings { node } => self.lapse_findings(at, *node),
            Command::Session(write) => Outcome::Session(self.sessions.apply(write)),
            Command::RemoveSessions { keyspace, key, author } => {
                self.remove_sessions(at, keyspace, key.as_ref(), author)
            }
            Command::Tick => Outcome::Done,
        }
    }

    /// What plans are compiled from has changed, and more than verdicts.
    fn plan_changed(&mut self) {
        self.rebuild_roster();
        self.plan_version += 1;
        self.orders_version += 1;
        self.lease_version += 1;
    }

    /// A verdict on a backend has changed.
    fn verdicts_changed(&mut self) {
        self.roster.behind = true;
        self.plan_version += 1;
    }

    fn seat_by_verdicts(&mut self) {
        if self.roster.behind {
            let document = self.parts.config.document();
            self.roster.catch_up(document, &self.parts.operator, &self.parts.health);
        }
    }

    fn rebuild_roster(&mut self) {
        let document = self.document();
        self.roster = Roster::build(document, &self.parts.registry, &self.parts.operator, &self.parts.health);
    }
}

#[cfg(test)]
pub(crate) mod tests;
