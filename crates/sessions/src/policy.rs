//! The document's settings as connections use them.
//!
//! Not here: what the document may say (`ballast_core::config`), how passwords are held against hashes ([`crate::passwords`]).

use std::{collections::HashMap, sync::Arc, time::Duration};

use ballast_core::{
    config::{ByteSize, SessionReads, WithoutQuorum},
    session::{Call, Class, Reply, Settings},
};
use bytes::Bytes;

/// The user that a connection is before it says who it is, and that `AUTH` with one word means.
pub const DEFAULT_USER: &str = "default";

/// Channels of events begin so, `__keyspace@0__:` and `__keyevent@0__:`. Only the store itself speaks on them.
const EVENTS: &[u8] = b"__key";

/// What is in force.
#[derive(Debug)]
pub struct Policy {
    /// The document's words.
    pub settings: Arc<Settings>,
    /// Bounds of a connection.
    pub limits: Limits,
    /// Reads see what this node has applied, if no quorum can be asked.
    pub stale_without_quorum: bool,
    users: HashMap<String, User>,
    anybody: Arc<Access>,
}

/// Bounds of a connection, in the units that are used.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request.
    pub request_max: usize,
    /// Words of a request.
    pub arguments_max: usize,
    /// Commands that are carried out together.
    pub pipeline_max: usize,
    /// Bytes that may wait to be read by the client.
    pub output_max: usize,
    /// Zero means never.
    pub idle_timeout: Duration,
    /// How long a client may read nothing while answers wait, or send nothing amid a request.
    pub write_timeout: Duration,
    /// How long the cluster is waited for.
    pub deadline: Duration,
    /// Connections of this node.
    pub connections_max: usize,
}

#[derive(Debug)]
struct User {
    access: Arc<Access>,
    password_hash: Option<Arc<str>>,
}

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user's name.
    pub user: Arc<str>,
    /// Keys that it may name begin with one of these; all keys if empty.
    pub prefixes: Vec<Bytes>,
    /// Databases that it may use; all if empty.
    pub databases: Vec<u16>,
    /// May change nothing.
    pub read_only: bool,
    /// Its reads see what this node has applied, without asking a quorum.
    pub stale: bool,
    /// Has not said who it is, as it need not where there are no users.
    pub is_anybody: bool,
}

impl Policy {
    /// Of the settings in force.
    pub fn new(settings: Arc<Settings>) -> Self {
        let stale = settings.reads == SessionReads::Stale;
        let users = settings.users.iter().map(|user| {
            let access = Access {
                user: user.name.as_str().into(),
                prefixes: user.key_prefixes.iter().map(|prefix| Bytes::copy_from_slice(prefix.as_bytes())).collect(),
                databases: user.databases.clone(),
                read_only: user.read_only,
                stale: user.reads.map_or(stale, |reads| reads == SessionReads::Stale),
                is_anybody: false,
            };
            let password_hash = user.password_hash.as_deref().map(Arc::from);
            (user.name.clone(), User { access: Arc::new(access), password_hash })
        });
        let users = users.collect();
        let anybody = Arc::new(Access {
            user: DEFAULT_USER.into(),
            prefixes: Vec::new(),
            databases: Vec::new(),
            read_only: false,
            stale,
            is_anybody: true,
        });
        let size = |size: ByteSize| usize::try_from(size.as_bytes()).unwrap_or(usize::MAX);
        let limits = &settings.limits;
        let limits = Limits {
            request_max: size(limits.request_max),
            arguments_max: limits.arguments_max as usize,
            pipeline_max: (limits.pipeline_max as usize).max(1),
            output_max: size(limits.output_max),
            idle_timeout: limits.idle_timeout.duration(),
            write_timeout: limits.write_timeout.duration(),
            deadline: limits.deadline.duration(),
            connections_max: limits.connections_max as usize,
        };
        let stale_without_quorum = settings.without_quorum == WithoutQuorum::Stale;
        Self { limits, stale_without_quorum, users, anybody, settings }
    }

    /// Whether clients must say who they are.
    pub fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// What a connection may do that has not said who it is; `None` if it must.
    pub fn anybody(&self) -> Option<Arc<Access>> {
        (!self.has_users()).then(|| self.anybody.clone())
    }

    /// What this user may do.
    pub fn access(&self, user: &str) -> Option<Arc<Access>> {
        match self.users.get(user) {
            Some(user) => Some(user.access.clone()),
            None => self.anybody().filter(|anybody| *anybody.user == *user),
        }
    }

    /// The hash of this user's password; `None` if there is no such user or it has no password.
    pub fn password_hash(&self, user: &str) -> Option<Arc<str>> {
        self.users.get(user)?.password_hash.clone()
    }

    /// The hash of somebody's password, to spend as much time on users that do not exist.
    pub fn decoy_hash(&self) -> Option<Arc<str>> {
        self.users.values().find_map(|user| user.password_hash.clone())
    }
}

impl Access {
    /// Whether this call is allowed.
    ///
    /// # Errors
    /// What the client is told; where Redis has the rule, in its words.
    pub fn check(&self, call: &Call) -> Result<(), Reply> {
        self.allow(call).map_err(|denied| denied.reply(call))
    }

    /// Whether this call is still allowed, which was queued when it was.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_queued(&self, call: &Call) -> Result<(), Reply> {
        self.allow(call).map_err(|denied| {
            let text = "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This \
                        command is no longer allowed for the following reason:";
            Reply::Error(format!("{text} {}", denied.reason()).into())
        })
    }

    fn allow(&self, call: &Call) -> Result<(), Denied> {
        if self.read_only && call.class() == Class::Write {
            return Err(Denied::Command);
        }
        self.allow_channels(call)?;
        if !self.databases.is_empty() {
            if call.class() != Class::Connection || call.spec().name == "watch" {
                self.allow_database(call.database)?;
            }
            match call.spec().name {
                "flushall" => return Err(Denied::Command),
                "copy" => self.allow_copy(call)?,
                _ => {}
            }
        }
        if !self.prefixes.is_empty() {
            if matches!(call.spec().name, "flushall" | "flushdb" | "randomkey" | "dbsize") {
                return Err(Denied::Command);
            }
            if !call.keys().all(|key| self.may_name(key)) {
                return Err(Denied::Keys);
            }
        }
        Ok(())
    }

    /// Whether this key is the user's to name.
    pub fn may_name(&self, key: &[u8]) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Whether it may be told what becomes of this key.
    pub fn may_see(&self, database: u16, key: &[u8]) -> bool {
        (self.databases.is_empty() || self.databases.contains(&database)) && self.may_name(key)
    }

    /// Whether it may know of this channel: one of its own, or one of events, which are told by [`Self::may_see`].
    pub fn may_know(&self, channel: &[u8]) -> bool {
        channel.starts_with(EVENTS) || self.may_name(channel)
    }

    /// Whether it may know how many keys this database has: all that are counted are its own to name.
    pub fn may_count(&self, database: u16) -> bool {
        self.prefixes.is_empty() && (self.databases.is_empty() || self.databases.contains(&database))
    }

    /// What is published on a channel reaches those who may name it. Patterns may be anything: what fits them is held
    /// against the prefixes when it is told.
    fn allow_channels(&self, call: &Call) -> Result<(), Denied> {
        let allowed = match (call.spec().name, call.args.first()) {
            ("publish", Some(channel)) if channel.starts_with(EVENTS) => return Err(Denied::Forging),
            ("publish", Some(channel)) => self.may_name(channel),
            ("subscribe", _) => call.args.iter().all(|channel| self.may_know(channel)),
            _ => true,
        };
        if allowed { Ok(()) } else { Err(Denied::Channels) }
    }

    /// Whether this database may be selected.
    ///
    /// # Errors
    /// What the client is told.
    pub fn check_database(&self, database: u16) -> Result<(), Reply> {
        self.allow_database(database).map_err(|_| not_database(database))
    }

    fn allow_database(&self, database: u16) -> Result<(), Denied> {
        if self.databases.is_empty() || self.databases.contains(&database) {
            return Ok(());
        }
        Err(Denied::Database(database))
    }

    /// Takes keys that are not the user's to name out of the answer of a command that lists keys.
    pub fn filter(&self, call: &Call, reply: &mut Reply) {
        if self.prefixes.is_empty() {
            return;
        }
        let keys = match (call.spec().name, reply) {
            ("keys", Reply::Array(keys)) => keys,
            ("scan", Reply::Array(parts)) => match parts.get_mut(1) {
                Some(Reply::Array(keys)) => keys,
                _ => return,
            },
            _ => return,
        };
        keys.retain(|key| matches!(key, Reply::Bulk(key) if self.may_name(key)));
    }

    /// `COPY ... DB n` names another database. A number that is none is refused when the call is carried out.
    fn allow_copy(&self, call: &Call) -> Result<(), Denied> {
        let mut words = call.args.iter().skip(2);
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(b"db")
                && let Some(database) = words.next().and_then(|n| std::str::from_utf8(n).ok()?.parse().ok())
            {
                self.allow_database(database)?;
            }
        }
        Ok(())
    }
}

/// Why a call is not allowed.
enum Denied {
    /// Not at all.
    Command,
    /// It names a key that it may not.
    Keys,
    /// It names a channel that it may not.
    Channels,
    /// Nobody speaks in the store's name.
    Forging,
    /// Not in this database.
    Database(u16),
}

impl Denied {
    fn reply(&self, call: &Call) -> Reply {
        match self {
            Self::Command => {
                let name = call.spec().name;
                Reply::Error(format!("NOPERM this user has no permissions to run the '{name}' command").into())
            }
            Self::Keys => {
                Reply::error("NOPERM this user has no permissions to access one of the keys used as arguments")
            }
            Self::Channels => {
                Reply::error("NOPERM this user has no permissions to access one of the channels used as arguments")
            }
            Self::Forging => Reply::error(
                "NOPERM channels that begin with '__key' tell what becomes of keys: the session store alone publishes on them",
            ),
            Self::Database(database) => not_database(*database),
        }
    }

    /// In Redis' words where it has the rule.
    fn reason(&self) -> String {
        match self {
            Self::Command => "no permission to execute the command or subcommand".to_owned(),
            Self::Keys => "no permission to touch the specified keys".to_owned(),
            Self::Channels | Self::Forging => {
                "no permission to access one of the channels used as arguments".to_owned()
            }
            Self::Database(database) => format!("no permission to use database {database}"),
        }
    }
}

fn not_database(database: u16) -> Reply {
    Reply::Error(format!("NOPERM this user has no permissions to use database {database}").into())
}
