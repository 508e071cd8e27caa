//! What can be proposed, and what the state machine answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{SeenNode, UserIdentity, VipHome};
use crate::{
    ids::{BackendId, Boot, LogIndex, NodeId, Revision, ServiceId, VipId},
    persistence::KeyHash,
    plan::{AdminState, Verdict},
    secret::Secret,
    session,
    time::LogTime,
};

/// What one log entry carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Log time when the leader proposed the entry; [`crate::state::State`] never lets it run backwards.
    pub log_time: LogTime,
    /// Commands, grouped by the node that proposed them.
    pub frames: Vec<Frame>,
}

/// Commands that one node proposed together.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The node, and which life of it.
    pub origin: Origin,
    /// Counts from 1 within a life of the node, without gaps. A frame whose number was applied is skipped.
    pub seq: u64,
    /// The commands, in order. Each has its own outcome.
    pub commands: Vec<Command>,
}

/// Where a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Which life of it.
    pub boot: Boot,
}

/// Who asked for a change and why. Kept in the history.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Author {
    /// Name in the client certificate, or `root@<node>` over the unix socket, or `ballastd@<node>`.
    pub name: String,
    /// What the author said.
    pub message: String,
}

/// A change to the replicated state.
///
/// Fields are never removed or given another meaning. A new field has a default that means what
/// its absence meant, and a decoder that does not know it refuses the entry rather than diverge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Makes the cluster. Only as the first command ever; refused afterwards.
    InitCluster(Box<InitCluster>),
    /// Replaces the configuration document.
    ApplyConfig(Box<ApplyConfig>),
    /// Sets what the operator wants of a backend. `None` leaves a part as it is.
    SetBackend {
        /// Which backend.
        backend: BackendId,
        /// New state.
        admin: Option<AdminState>,
        /// New weight override; `Some(None)` takes the override away.
        #[serde(default, with = "weight_change")]
        weight: Option<Option<u32>>,
        /// Who and why.
        author: Author,
        /// What [`crate::state::State::backend_changed`] was when this was decided on; refused when it is something
        /// else. `None` does not ask.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<LogIndex>,
    },
    /// Binds a key, see [`crate::cluster::BindRequest`].
    Bind {
        /// Whose table.
        service: ServiceId,
        /// The key.
        key: KeyHash,
        /// The backend to bind to if the key is free.
        choice: BackendId,
        /// The binding that must be replaced, and why.
        replaces: Option<(BackendId, RehomeCause)>,
    },
    /// Binds a key that a backend has given to its client: to that backend, which has the client's session already. So it may
    /// be one that takes nobody new.
    Learn {
        /// Whose table.
        service: ServiceId,
        /// The key.
        key: KeyHash,
        /// The backend that gave it.
        teacher: BackendId,
    },
    /// Renews the idle time of a binding.
    Renew {
        /// Whose table.
        service: ServiceId,
        /// The key.
        key: KeyHash,
    },
    /// An operator's change of one binding: moves it, pins it, or (with `to: None`) deletes it.
    SetBinding {
        /// Whose table.
        service: ServiceId,
        /// The key.
        key: KeyHash,
        /// New backend.
        to: Option<BackendId>,
        /// A pinned binding never expires and is not re-homed while its backend is only drained.
        pinned: bool,
        /// Who and why.
        author: Author,
    },
    /// One node's finding about a backend; the verdict follows by the service's policy.
    ReportHealth {
        /// Who checked.
        node: NodeId,
        /// Which backend.
        backend: BackendId,
        /// What it found.
        verdict: Verdict,
        /// The last check in words: `http 503 in 12 ms`, `connect: refused`.
        detail: String,
    },
    /// Keeps a join token's hash; the token itself is never in the log.
    CreateJoinToken {
        /// BLAKE3 of the token's secret.
        hash: [u8; 32],
        /// End of its life in log time.
        expires: LogTime,
        /// What the node may become.
        role: NodeRole,
        /// Who and why.
        author: Author,
    },
    /// Uses up a join token and assigns a node id: the index of this entry.
    EnrolNode {
        /// BLAKE3 of the token's secret.
        token_hash: [u8; 32],
        /// The node as it describes itself.
        info: NodeInfo,
        /// SHA-256 fingerprint of the node's public key, so that a retry by the same node gets the same id.
        key_fingerprint: [u8; 32],
    },
    /// A node tells its addresses and labels, at each start when they changed.
    UpdateNode {
        /// Which node.
        node: NodeId,
        /// What it says now.
        info: NodeInfo,
    },
    /// Sets what the operator wants of a node.
    SetNode {
        /// Which node.
        node: NodeId,
        /// What is wanted.
        admin: NodeAdmin,
        /// Who and why.
        author: Author,
        /// The node as it was when this was decided on; refused when it is another now. `None` does not ask.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<Box<SeenNode>>,
    },
    /// Removes a node for good. Its id is never used again.
    RemoveNode {
        /// Which node.
        node: NodeId,
        /// Who and why.
        author: Author,
        /// The next key that authenticates lease datagrams: the node that leaves knows the one before. Entries of
        /// before there was this have none, and change nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_secret: Option<Secret<32>>,
        /// As in [`Command::SetNode`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<Box<SeenNode>>,
    },
    /// Records that a VIP changed hands. Written after the fact; ownership itself does not wait for the log.
    RecordVip {
        /// Which VIP.
        vip: VipId,
        /// Its new owner, `None` if it was given up.
        owner: Option<NodeId>,
        /// The lease's epoch.
        epoch: u64,
        /// Why, in words.
        cause: String,
    },
    /// An operator's wish that a VIP be at a node. Stays in force until moved again.
    MoveVip {
        /// Which VIP.
        vip: VipId,
        /// Where to; `None` returns it to the placement.
        to: Option<NodeId>,
        /// Who and why.
        author: Author,
        /// What [`crate::state::State::vip_moved`] was when this was decided on; refused when it is something else.
        /// `None` does not ask.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<LogIndex>,
    },
    /// Rotates the key that signs persistence cookies; earlier keys stay valid.
    RotateCookieKey {
        /// The new key.
        secret: Secret<32>,
        /// Who and why.
        author: Author,
    },
    /// Records that a person or program was given a certificate. Written before the certificate is handed out.
    IssueUser {
        /// What the certificate says.
        user: Box<UserIdentity>,
        /// Who and why.
        author: Author,
    },
    /// Has every node refuse certificates from now on.
    RevokeUsers {
        /// These certificates, see [`UserIdentity`].
        fingerprints: Vec<[u8; 32]>,
        /// Who and why.
        author: Author,
        /// And all certificates that these people and programs have when this is applied, so that one that is issued
        /// while somebody asks for the others is among them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<String>,
    },
    /// Drops what a node found about backends, because it has been silent for too long: a node that is dead must not
    /// vote on verdicts for ever. Proposed by the leader; the node reports anew when it is back.
    LapseFindings {
        /// Which node.
        node: NodeId,
    },
    /// Commands of the session store. Their form in the log is packed and never JSON.
    #[serde(skip)]
    Session(Box<session::Write>),
    /// An administrator's removal of keys of the session store. Applications remove theirs by [`Command::Session`].
    /// Answers [`Outcome::Session`] with how many keys there were.
    RemoveSessions {
        /// Name of a keyspace, or number of a database.
        keyspace: String,
        /// The key; all keys without one.
        key: Option<session::Key>,
        /// Who and why.
        author: Author,
    },
    /// Carries log time forward so that lifetimes end in an idle cluster. Proposed by the leader.
    Tick,
}

/// The beginning of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitCluster {
    /// Random, fixed for ever; part of every certificate.
    pub cluster_id: String,
    /// The CA's certificate, PEM.
    pub ca_certificate: String,
    /// The CA's private key, sealed under the cluster key that each node keeps in its data directory.
    pub ca_key_sealed: Vec<u8>,
    /// The first node.
    pub first_node: NodeInfo,
    /// SHA-256 fingerprint of the first node's public key.
    pub first_node_key_fingerprint: [u8; 32],
    /// Secret of the table key hash.
    pub table_secret: Secret<16>,
    /// First key that signs persistence cookies.
    pub cookie_secret: Secret<32>,
    /// First key that authenticates lease datagrams.
    pub lease_secret: Secret<32>,
}

/// A new configuration document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyConfig {
    /// The document as canonical JSON. The proposer has checked it in full.
    pub document: String,
    /// The rules that it is held against when it is applied ([`crate::config::rules`]): the newest ones that the
    /// proposer knew. An entry with rules that this release does not know cannot be read.
    #[serde(default = "first_rules")]
    pub rules: u32,
    /// The text as its author wrote it, for `get` and `diff`.
    pub source: String,
    /// The revision it was made from; refused when another is in force. `None` does not ask.
    pub expect: Option<Revision>,
    /// Retries carry the same id and get the first answer.
    pub request_id: String,
    /// Who and why.
    pub author: Author,
}

/// Entries without a number were proposed under the first rules.
pub(super) const fn first_rules() -> u32 {
    1
}

/// A node as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeInfo {
    /// The operator's name for it, unique in the cluster.
    pub name: String,
    /// `host:port` of node-to-node gRPC (TCP) and lease datagrams (UDP).
    pub cluster_address: String,
    /// `host:port` of the admin API.
    pub admin_address: String,
    /// Labels that listeners and placement can name.
    pub labels: BTreeMap<String, String>,
    /// What it may become.
    pub role: NodeRole,
    /// Version of its `ballastd`.
    pub version: String,
    /// What it is as a place for VIPs.
    #[serde(default, skip_serializing_if = "VipHome::is_default")]
    pub vip: VipHome,
}

impl NodeInfo {
    /// Whether it has all these labels.
    pub fn carries(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(label, value)| self.labels.get(label) == Some(value))
    }
}

/// What a node may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Serves traffic; a voter or a learner by the policy.
    #[default]
    Full,
    /// A voter without a data plane.
    Witness,
}

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAdmin {
    /// Serves, and votes when the policy picks it.
    #[default]
    Ready,
    /// Gives its VIPs up and takes no new work.
    Drain,
    /// Never a voter, for as long as this stands.
    Demoted,
    /// A voter before others.
    Promoted,
}

/// Why a binding moved to another backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RehomeCause {
    /// The checks' verdict on the backend is down.
    BackendDown,
    /// The backend is in maintenance.
    BackendMaintenance,
    /// The backend is no longer configured.
    BackendRemoved,
    /// The backend refused or did not answer a connection (`redispatch`).
    ConnectFailed,
    /// An operator moved it.
    Operator,
}

/// What the state machine made of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done, nothing to say.
    Done,
    /// The document is in force as this revision (also when it was applied before under the same request id).
    Applied {
        /// The revision.
        revision: Revision,
        /// False when the document equals the one in force; no revision is made then.
        changed: bool,
    },
    /// The key is bound.
    Bound {
        /// To this backend.
        backend: BackendId,
        /// And this happened.
        how: BindingChange,
    },
    /// A node was enrolled.
    Enrolled {
        /// Its id.
        node: NodeId,
    },
    /// What commands of the session store answer, one for each. A transaction that was not carried out has one answer for
    /// all: [`session::Reply::NullArray`] if a watched key had changed, an error that begins with `EXECABORT` if there was
    /// no memory.
    Session(Vec<session::Reply>),
    /// Not carried out.
    Refused(Refusal),
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingChange {
    /// It was free and is bound now.
    Created,
    /// It was bound already.
    Existing,
    /// It was bound elsewhere and moved.
    Rehomed(RehomeCause),
    /// Its binding to another backend had ended. A node that has not applied this may still forward on it, so the
    /// new one settles as a re-homing does.
    Replaced {
        /// The backend that it was bound to.
        old: BackendId,
    },
}

/// Why a command was not carried out. The caller must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another revision is in force.
    #[error("revision {expected} was expected but {found} is in force")]
    RevisionConflict {
        /// What the caller expected.
        expected: Revision,
        /// What is in force.
        found: Revision,
    },
    /// What was to be changed is not as the caller saw it any more.
    #[error("{what} was changed meanwhile")]
    Changed {
        /// The thing, with its name.
        what: String,
    },
    /// Something named in the command does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// The thing, with its name or id.
        what: String,
    },
    /// The command is not right.
    #[error("{reason}")]
    Invalid {
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Another node has this name.
    #[error("a node named {name:?} is already a member (id {id}); choose another name or remove that node first")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: NodeId,
    },
    /// No such join token, or it was used.
    #[error("the join token is not known or was used; make a new one with `ballastctl node join-token`")]
    TokenUnknown,
    /// The join token's life is over.
    #[error("the join token expired; make a new one with `ballastctl node join-token`")]
    TokenExpired,
    /// The table is full.
    #[error("the binding table is full")]
    TableFull,
    /// The backend takes no new bindings.
    #[error("the backend takes no new bindings")]
    NotEligible,
    /// Only one command of this kind fits into an entry, and another one came first.
    #[error("another node was enrolled at the same moment; try again")]
    Busy,
    /// The cluster exists already.
    #[error("the cluster is already initialised")]
    AlreadyInitialised,
}

/// What each command of a frame came to. Handed to whoever waits on the frame's node.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameOutcomes {
    /// Whose frame.
    pub origin: Origin,
    /// Which frame.
    pub seq: u64,
    /// The entry's index.
    pub index: LogIndex,
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
}

impl FrameOutcomes {
    /// About what the answers of the session store among them take in memory.
    pub fn answer_bytes(&self) -> u64 {
        let bytes = |outcome: &Outcome| match outcome {
            Outcome::Session(replies) => replies.iter().map(session::Reply::bytes).sum(),
            _ => 0,
        };
        self.outcomes.iter().map(bytes).sum()
    }
}

/// `Some(None)` and `None` are one in JSON, so a change of weight is a list of none or one.
mod weight_change {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Option<u32>>, to: S) -> Result<S::Ok, S::Error> {
        value.as_slice().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u32>>, D::Error> {
        let list = Vec::<Option<u32>>::deserialize(from)?;
        match list.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            _ => Err(serde::de::Error::custom("more than one weight")),
        }
    }
}
