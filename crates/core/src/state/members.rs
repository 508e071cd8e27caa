//! The cluster itself and its nodes: how it begins, who may join, who is in.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    At, Author, InitCluster, NodeAdmin, NodeInfo, NodeRole, Outcome, Refusal, State,
    events::{EventKind, Said, Subject},
    users::Users,
};
use crate::{
    ids::{LogIndex, NodeId},
    lease::LeaseKeys,
    plan::CookieKey,
    time::LogTime,
};

/// Cookie keys that are kept. Arbitrary: more rotations than this within a cookie's life are not rotation.
const COOKIE_KEYS_MAX: usize = 16;

/// A new key of cookies is known for so long before it signs. A node that lags further has lost its quorum.
const COOKIE_KEY_NOTICE_S: u64 = 10;

/// A new key of lease datagrams is known for so long before nodes seal with it, as for cookies.
const LEASE_KEY_NOTICE_MS: u64 = 10_000;

/// What is sealed with the key before is opened for so long after nodes seal with the next: they come to that one after
/// the other.
const LEASE_KEY_OVERLAP_MS: u64 = 10_000;

/// Keys of lease datagrams beside the oldest: one that nodes are told of, and one that follows another just now.
const LEASE_KEYS_MAX: usize = 2;

/// Join tokens that may be open at once. Arbitrary, and harmless.
const TOKENS_MAX: usize = 1000;

/// An expired token is remembered this long, so that its user hears "expired" and not "unknown".
const TOKEN_MEMORY_MS: u64 = 24 * 3_600_000;

const FIRST_NODE: NodeId = NodeId::new(1);

/// What a cluster is from its first entry on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Fixed for ever.
    pub id: String,
    /// When it was made.
    pub created: LogTime,
    /// The CA's certificate, PEM.
    pub ca_certificate: String,
    /// The CA's private key, sealed under the cluster key that is not in the log.
    pub ca_key_sealed: Vec<u8>,
    /// Secret of the table key hash.
    pub table_secret: [u8; 16],
    /// Key that authenticates lease datagrams, unless a newer one does.
    pub lease_secret: [u8; 32],
    /// Newer keys of that kind, newest first; two at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lease_keys: Vec<LeaseKey>,
    /// Keys that sign persistence cookies, newest first.
    #[serde(with = "cookie_keys")]
    pub cookie_keys: Vec<CookieKey>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("id", &self.id).field("created", &self.created).finish_non_exhaustive()
    }
}

/// A key that authenticates lease datagrams.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseKey {
    /// The key.
    pub secret: [u8; 32],
    /// From when on nodes seal with it. They open what is sealed with it at once.
    pub seals_from: LogTime,
}

impl Cluster {
    /// The keys of lease datagrams that are in force at `now`.
    pub fn lease_keys(&self, now: LogTime) -> LeaseKeys {
        let newer = self.lease_keys.iter().map(|key| (key.secret, key.seals_from));
        let mut keys = LeaseKeys::only(self.lease_secret);
        let mut others = keys.opens.iter_mut();
        let (mut seals, mut followed) = (None, None::<LogTime>);
        for (secret, from) in newer.chain([(self.lease_secret, LogTime::default())]) {
            let over = followed.is_some_and(|from| now >= from.plus_millis(LEASE_KEY_OVERLAP_MS));
            if seals.is_none() && from <= now {
                seals = Some(secret);
            } else if !over && let Some(other) = others.next() {
                *other = Some(secret);
            }
            followed = Some(from);
        }
        LeaseKeys { seals: seals.unwrap_or(keys.seals), ..keys }
    }

    fn rotate_lease_key(&mut self, now: LogTime, secret: [u8; 32]) {
        // One that nobody seals with yet is not needed any more.
        self.lease_keys.retain(|key| key.seals_from <= now);
        self.lease_keys.insert(0, LeaseKey { secret, seals_from: now.plus_millis(LEASE_KEY_NOTICE_MS) });
        let over = |key: &LeaseKey| now >= key.seals_from.plus_millis(LEASE_KEY_OVERLAP_MS);
        while self.lease_keys.len() > LEASE_KEYS_MAX || self.lease_keys.last().is_some_and(over) {
            let Some(oldest) = self.lease_keys.pop() else { return };
            self.lease_secret = oldest.secret;
        }
    }
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// How it describes itself.
    pub info: NodeInfo,
    /// What the operator wants of it.
    pub admin: NodeAdmin,
    /// When it was enrolled.
    pub enrolled: LogTime,
    /// The entry that enrolled it.
    pub index: LogIndex,
    /// SHA-256 of its public key.
    pub key_fingerprint: [u8; 32],
}

impl Node {
    /// As it is, for a change that is to be made only while it is so.
    pub fn seen(&self) -> SeenNode {
        SeenNode { admin: self.admin, info: self.info.clone() }
    }
}

/// A node as somebody saw it who decided on a change of it. Of its last change the state keeps no index, so what can
/// change is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenNode {
    /// What the operator wanted of it.
    pub admin: NodeAdmin,
    /// How it described itself.
    pub info: NodeInfo,
}

impl SeenNode {
    /// Whether that is how the node is.
    fn is(&self, node: &Node) -> bool {
        (self.admin, &self.info) == (node.admin, &node.info)
    }
}

/// A join token, by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// BLAKE3 of its secret.
    pub hash: [u8; 32],
    /// End of its life.
    pub expires: LogTime,
    /// What the node that uses it becomes.
    pub role: NodeRole,
    /// Who used it.
    pub used_by: Option<NodeId>,
    /// Who made it.
    pub author: Author,
}

/// Nodes, the tokens that let others in, and the people who may command them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Members {
    nodes: BTreeMap<NodeId, Node>,
    tokens: Vec<JoinToken>,
    #[serde(default, skip_serializing_if = "Users::is_empty")]
    pub(super) users: Users,
}

impl State {
    /// The cluster; `None` before its first entry.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.parts.cluster.as_ref()
    }

    /// All members, in the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.parts.members.nodes.values()
    }

    /// A member.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.parts.members.nodes.get(&id)
    }

    /// The member of that name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes().find(|node| node.info.name == name)
    }

    /// Join tokens that are open, used or lately expired.
    pub fn join_tokens(&self) -> &[JoinToken] {
        &self.parts.members.tokens
    }

    pub(super) fn init_cluster(&mut self, at: At, init: &InitCluster) -> Outcome {
        if self.parts.cluster.is_some() {
            return Outcome::Refused(Refusal::AlreadyInitialised);
        }
        *self.parts.cluster.edit() = Some(Cluster {
            id: init.cluster_id.clone(),
            created: at.now,
            ca_certificate: init.ca_certificate.clone(),
            ca_key_sealed: init.ca_key_sealed.clone(),
            table_secret: *init.table_secret,
            lease_secret: *init.lease_secret,
            lease_keys: Vec::new(),
            cookie_keys: vec![CookieKey { id: 1, secret: *init.cookie_secret, signs_from_s: 0 }],
        });
        self.sessions.found(*init.table_secret);
        let author = Author { name: format!("root@{}", init.first_node.name), message: "init".to_owned() };
        self.record(at, &author, Said::new(EventKind::ClusterInitialised, Subject::Cluster, "cluster made"));
        self.add_node(at, FIRST_NODE, init.first_node.clone(), init.first_node_key_fingerprint);
        Outcome::Enrolled { node: FIRST_NODE }
    }

    pub(super) fn create_join_token(&mut self, at: At, token: JoinToken) -> Outcome {
        let members = self.parts.members.edit();
        members.tokens.retain(|token| at.now < token.expires.plus_millis(TOKEN_MEMORY_MS));
        if members.tokens.len() >= TOKENS_MAX {
            return invalid(format!("there are {TOKENS_MAX} join tokens already; wait until some expire"));
        }
        if members.tokens.iter().any(|known| known.hash == token.hash) {
            return invalid("this join token exists already; make another".to_owned());
        }
        let what = format!("join token for a {} node made", role_word(token.role));
        let author = token.author.clone();
        members.tokens.push(token);
        self.record(at, &author, Said::new(EventKind::JoinTokenCreated, Subject::Cluster, what));
        Outcome::Done
    }

    pub(super) fn enrol_node(&mut self, at: At, hash: [u8; 32], info: &NodeInfo, fingerprint: [u8; 32]) -> Outcome {
        if let Some(node) = self.nodes().find(|node| node.key_fingerprint == fingerprint) {
            return Outcome::Enrolled { node: node.id };
        }
        let Some(token) = self.join_tokens().iter().position(|token| token.hash == hash && token.used_by.is_none())
        else {
            return Outcome::Refused(Refusal::TokenUnknown);
        };
        let JoinToken { expires, role, .. } = self.join_tokens()[token];
        if at.now >= expires {
            return Outcome::Refused(Refusal::TokenExpired);
        }
        if let Some(refusal) = self.check_name(&info.name, None) {
            return Outcome::Refused(refusal);
        }
        let id = NodeId::new(at.index.get());
        if self.node(id).is_some() {
            return Outcome::Refused(Refusal::Busy);
        }
        self.parts.members.edit().tokens[token].used_by = Some(id);
        self.add_node(at, id, NodeInfo { role, ..info.clone() }, fingerprint);
        Outcome::Enrolled { node: id }
    }

    pub(super) fn update_node(&mut self, at: At, id: NodeId, info: &NodeInfo) -> Outcome {
        let Some(node) = self.node(id) else { return no_node(id) };
        let info = NodeInfo { role: node.info.role, ..info.clone() };
        if node.info == info {
            return Outcome::Done;
        }
        if let Some(refusal) = self.check_name(&info.name, Some(id)) {
            return Outcome::Refused(refusal);
        }
        let author = self.daemon(id);
        let what = format!("node {} describes itself anew", info.name);
        self.parts.members.edit().nodes.get_mut(&id).expect("looked up above").info = info;
        self.record(at, &author, Said::new(EventKind::NodeUpdated, Subject::Node(id), what));
        self.plan_changed();
        Outcome::Done
    }

    pub(super) fn set_node(
        &mut self,
        at: At,
        id: NodeId,
        admin: NodeAdmin,
        expect: Option<&SeenNode>,
        author: &Author,
    ) -> Outcome {
        let Some(node) = self.node(id) else { return no_node(id) };
        if expect.is_some_and(|seen| !seen.is(node)) {
            return changed(format!("node {}", node.info.name));
        }
        if node.admin == admin {
            return Outcome::Done;
        }
        let what = format!("node {}: {:?} to {admin:?}", node.info.name, node.admin).to_lowercase();
        self.parts.members.edit().nodes.get_mut(&id).expect("looked up above").admin = admin;
        self.record(at, author, Said::new(EventKind::NodeSet, Subject::Node(id), what));
        self.plan_changed();
        Outcome::Done
    }

    pub(super) fn remove_node(
        &mut self,
        at: At,
        id: NodeId,
        lease_secret: Option<[u8; 32]>,
        expect: Option<&SeenNode>,
        author: &Author,
    ) -> Outcome {
        let Some(node) = self.node(id) else { return no_node(id) };
        if expect.is_some_and(|seen| !seen.is(node)) {
            return changed(format!("node {}", node.info.name));
        }
        if self.parts.members.nodes.len() == 1 {
            return invalid("the last node cannot be removed; stop it and delete its data directory".to_owned());
        }
        let what = format!("node {} removed", node.info.name);
        self.parts.members.edit().nodes.remove(&id);
        self.parts.origins.edit().forget(id);
        self.record(at, author, Said::new(EventKind::NodeRemoved, Subject::Node(id), what));
        self.forget_vip_wishes_for(id);
        self.forget_reports_of(at, id);
        if let Some((cluster, secret)) = self.parts.cluster.edit().as_mut().zip(lease_secret) {
            cluster.rotate_lease_key(at.now, secret);
        }
        self.plan_changed();
        Outcome::Done
    }

    pub(super) fn rotate_cookie_key(&mut self, at: At, secret: [u8; 32], author: &Author) -> Outcome {
        let Some(cluster) = self.parts.cluster.edit() else { return not_initialised() };
        let newest = cluster.cookie_keys.first().map_or(0, |key| key.id);
        let id = newest.wrapping_add(1);
        let signs_from_s = at.now.as_millis() / 1000 + COOKIE_KEY_NOTICE_S;
        cluster.cookie_keys.insert(0, CookieKey { id, secret, signs_from_s });
        cluster.cookie_keys.truncate(COOKIE_KEYS_MAX);
        let what = format!("cookies are signed with key {id} in {COOKIE_KEY_NOTICE_S} s");
        self.record(at, author, Said::new(EventKind::CookieKeyRotated, Subject::Cluster, what));
        self.plan_changed();
        Outcome::Done
    }

    /// The author of what a node's daemon does by itself.
    pub(super) fn daemon(&self, id: NodeId) -> Author {
        let name = self.node(id).map_or_else(|| id.to_string(), |node| node.info.name.clone());
        Author { name: format!("ballastd@{name}"), message: String::new() }
    }

    fn add_node(&mut self, at: At, id: NodeId, info: NodeInfo, key_fingerprint: [u8; 32]) {
        let what = format!("node {} is a member, id {id}", info.name);
        let node = Node { id, info, admin: NodeAdmin::Ready, enrolled: at.now, index: at.index, key_fingerprint };
        self.parts.members.edit().nodes.insert(id, node);
        let author = self.daemon(id);
        self.record(at, &author, Said::new(EventKind::NodeEnrolled, Subject::Node(id), what));
        self.plan_changed();
    }

    fn check_name(&self, name: &str, own: Option<NodeId>) -> Option<Refusal> {
        if name.is_empty() || name.len() > 63 {
            return Some(Refusal::Invalid { reason: "a node's name has 1 to 63 characters".to_owned() });
        }
        let taken = self.node_named(name).filter(|node| Some(node.id) != own)?;
        Some(Refusal::NameTaken { name: name.to_owned(), id: taken.id })
    }
}

pub(super) fn invalid(reason: String) -> Outcome {
    Outcome::Refused(Refusal::Invalid { reason })
}

pub(super) fn not_found(what: String) -> Outcome {
    Outcome::Refused(Refusal::NotFound { what })
}

pub(super) fn changed(what: String) -> Outcome {
    Outcome::Refused(Refusal::Changed { what })
}

pub(super) fn no_node(id: NodeId) -> Outcome {
    not_found(format!("node {id}"))
}

pub(super) fn not_initialised() -> Outcome {
    invalid("the cluster is not initialised; run `ballastd init` first".to_owned())
}

fn role_word(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Full => "full",
        NodeRole::Witness => "witness",
    }
}

/// Keys of the plan carry no serde, so that nothing writes a secret by accident.
mod cookie_keys {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::plan::CookieKey;

    pub(super) fn serialize<S: Serializer>(keys: &[CookieKey], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(keys.iter().map(|key| (key.id, key.secret, key.signs_from_s)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<CookieKey>, D::Error> {
        let keys = Vec::<(u8, [u8; 32], u64)>::deserialize(from)?;
        Ok(keys.into_iter().map(|(id, secret, signs_from_s)| CookieKey { id, secret, signs_from_s }).collect())
    }
}
