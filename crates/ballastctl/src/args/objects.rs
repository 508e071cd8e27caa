//! Commands about the things a cluster has: backends, VIPs, bindings, nodes, events.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{WriteArgs, duration};

/// Backends, and what operators want of them.
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// List backends: address, what is wanted of them, what the checks say, bindings
    #[command(alias = "ls")]
    List {
        /// Only those of this farm or service: FARM or FARM/SERVICE
        parent: Option<String>,
    },
    /// Show one backend, with what each node's checks say
    Get {
        /// Which one
        #[arg(value_name = "FARM/SERVICE/BACKEND")]
        name: String,
    },
    /// Keep bound clients and take no new ones
    Drain(BackendArgs),
    /// Take all traffic again
    Enable(BackendArgs),
    /// Take nothing; bound clients move to other backends
    Maintenance(BackendArgs),
    /// Override the document's weight
    Weight(WeightArgs),
}

/// Which backend.
#[derive(Debug, Args)]
pub struct BackendArgs {
    /// Which one; the service may be left out when the name is unique in the farm
    #[arg(value_name = "FARM/SERVICE/BACKEND")]
    pub name: String,
    /// What the change says of itself.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Override the document's weight.
#[derive(Debug, Args)]
pub struct WeightArgs {
    /// Which backend
    #[arg(value_name = "FARM/SERVICE/BACKEND")]
    pub name: String,
    /// New weight, 0 to 1000
    #[arg(required_unless_present = "reset", conflicts_with = "reset", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub weight: Option<u32>,
    /// Go back to the document's weight
    #[arg(long)]
    pub reset: bool,
    /// What the change says of itself.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Virtual addresses, and who holds them.
#[derive(Debug, Subcommand)]
pub enum VipCommand {
    /// List VIPs: who holds them, since when and why
    #[command(alias = "ls")]
    List,
    /// Move a VIP to a node, or return it to the placement
    Move(VipMoveArgs),
    /// Print each change of hands as it is recorded
    Watch {
        /// Only this one
        vip: Option<String>,
        /// Begin with what was recorded after this log index; from now on when left out
        #[arg(long, visible_alias = "from-index", value_name = "INDEX")]
        since: Option<u64>,
        /// End after so many
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
    },
    /// List who held VIPs, when and why
    History {
        /// Only this one
        vip: Option<String>,
        /// Most to list; 0 for all
        #[arg(long, default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
}

/// Move a VIP to a node, or return it to the placement.
#[derive(Debug, Args)]
pub struct VipMoveArgs {
    /// Which VIP
    pub vip: String,
    /// Name or id of the node
    #[arg(long, value_name = "NODE", required_unless_present = "auto", conflicts_with = "auto")]
    pub to: Option<String>,
    /// Let the placement decide again
    #[arg(long)]
    pub auto: bool,
    /// Wait until the node holds it
    #[arg(long)]
    pub wait: bool,
    /// What the change says of itself.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Which client stays with which backend.
#[derive(Debug, Subcommand)]
pub enum BindingsCommand {
    /// List bindings
    #[command(alias = "ls")]
    List(BindingsListArgs),
    /// Show one binding
    Get {
        /// Which one
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Move a client to another backend
    Move {
        /// Which one
        #[command(flatten)]
        key: KeyArgs,
        /// New backend: its name in the service, or FARM/SERVICE/BACKEND
        #[arg(long, value_name = "BACKEND")]
        to: String,
        /// What the change says of itself.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Forget a binding: the client is balanced anew
    Delete {
        /// Which one
        #[command(flatten)]
        key: KeyArgs,
        /// A binding that does not exist is fine
        #[arg(long)]
        allow_missing: bool,
        /// What the change says of itself.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Keep a client with its backend for good, also while that is drained
    Pin {
        /// Which one
        #[command(flatten)]
        key: KeyArgs,
        /// Backend to pin it to; where it is when left out
        #[arg(long, value_name = "BACKEND", conflicts_with = "unpin")]
        to: Option<String>,
        /// Take the pin away instead
        #[arg(long)]
        unpin: bool,
        /// What the change says of itself.
        #[command(flatten)]
        write: WriteArgs,
    },
}

/// Which bindings.
#[derive(Clone, Debug, Args)]
pub struct BindingsListArgs {
    /// Only those of this farm
    #[arg(long, value_name = "FARM")]
    pub farm: Option<String>,
    /// Only those of this service of the farm
    #[arg(long, value_name = "SERVICE", requires = "farm")]
    pub service: Option<String>,
    /// Only those to this backend: FARM/SERVICE/BACKEND
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Only pinned ones
    #[arg(long)]
    pub pinned: bool,
    /// Most to list; 0 for all
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub limit: usize,
}

impl Default for BindingsListArgs {
    fn default() -> Self {
        Self { farm: None, service: None, backend: None, pinned: false, limit: 100 }
    }
}

/// Names a binding.
#[derive(Clone, Debug, Args)]
pub struct KeyArgs {
    /// The farm
    #[arg(long, value_name = "FARM")]
    pub farm: String,
    /// The service; may be left out when only one of the farm has a table
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// The key as the client sends it: a cookie's or header's value, a source address
    #[arg(long, value_name = "KEY", required_unless_present = "hash", conflicts_with = "hash")]
    pub key: Option<String>,
    /// The key's hash, as lists and logs show it
    #[arg(long, value_name = "HEX")]
    pub hash: Option<String>,
}

/// Say where a request would go, and why.
///
/// Nothing is sent and nothing is bound: the node says what would happen to such a request now,
/// and which entries of the log that follows from.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The farm
    #[arg(long, value_name = "FARM")]
    pub farm: String,
    /// Host of the request
    #[arg(long, default_value = "", hide_default_value = true, value_name = "HOST")]
    pub host: String,
    /// Path and query of the request
    #[arg(long, default_value = "/", value_name = "PATH")]
    pub path: String,
    /// The client's address
    #[arg(long, value_name = "IP")]
    pub client: Option<IpAddr>,
    /// A cookie of the request; may be given several times
    #[arg(long = "cookie", value_parser = cookie, value_name = "NAME=VALUE")]
    pub cookies: Vec<String>,
    /// A header field of the request; may be given several times
    #[arg(long = "header", value_parser = header, value_name = "NAME: VALUE")]
    pub headers: Vec<(String, String)>,
    /// The listener; the farm's first by default
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub listener: String,
}

fn cookie(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write NAME: VALUE, with a colon".to_owned()),
    }
}

/// Members of the cluster.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes: role, state, how far they are
    #[command(alias = "ls")]
    List,
    /// Give VIPs up and take no new work
    Drain(NodeArgs),
    /// End a drain, a promotion or a demotion
    Enable(NodeArgs),
    /// Make it a voter before others
    Promote(NodeArgs),
    /// Never make it a voter, for as long as this stands
    Demote(NodeArgs),
    /// Remove a node for good; its id is never used again
    Remove {
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
        /// Although it answers and is not drained
        #[arg(long)]
        force: bool,
    },
    /// Print a one-time token with which a node joins: `ballastd join --token TOKEN`
    JoinToken(JoinTokenArgs),
}

/// Which node.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    /// What the change says of itself.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Print a one-time token with which a node joins.
#[derive(Debug, Args)]
pub struct JoinTokenArgs {
    /// How long it is good for
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub ttl: Duration,
    /// The node will be a witness: a voter without a data plane
    #[arg(long)]
    pub witness: bool,
    /// Why; kept in the history
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub message: String,
}

/// The cluster itself.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show leader, nodes, VIPs and what is wrong; works without a quorum
    Status {
        /// For monitoring, as a Nagios plugin: print only what is wrong, and end with 0 when nothing is (OK), with 2 when there
        /// is no quorum or a VIP has no owner or several (CRITICAL), with 1 when anything else is (WARNING), with 3 when nobody
        /// could be asked (UNKNOWN). When something is wrong it asks again two seconds later, and only what is wrong then
        /// counts: VIPs that move and voters that change are over by then
        #[arg(long)]
        check: bool,
    },
    /// Make a snapshot on one node now: the log gets shorter; it is no backup, `export` makes one
    Snapshot {
        /// Name or id of the node; the one that is asked by default
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Sign persistence cookies with a new key
    ///
    /// It signs ten seconds later, when every node knows it. Cookies signed by the fifteen keys before it stay valid and
    /// are signed anew when they are seen.
    RotateCookieKey {
        /// Why; kept in the history
        #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        message: String,
    },
    /// Hand the leadership over
    TransferLeader {
        /// Name or id of the next leader; the most suitable voter by default
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Why; logged
        #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        message: String,
    },
}

/// People and programs that have certificates.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List certificates: whose, how long, who issued and who revoked them
    #[command(alias = "ls")]
    List,
    /// Make a key here and have the cluster sign a certificate for it
    ///
    /// The key never leaves this machine. FOLDER gets ca.pem, NAME.pem and NAME.key.
    Issue(UserIssueArgs),
    /// Have every node refuse certificates from now on
    ///
    /// Streams that are open end as well. A certificate cannot be taken back into use: issue a new one.
    Revoke(UserRevokeArgs),
}

/// For whom.
#[derive(Debug, Args)]
pub struct UserIssueArgs {
    /// Name, as it will appear in the history
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it may do
    #[arg(long, value_parser = ["admin", "operator", "viewer"], value_name = "ROLE")]
    pub role: String,
    /// Where key and certificate are written to
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// How long it is good for: 12h, 30d; 365 days by default, 825 days at most
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub ttl: Option<Duration>,
    /// Why; kept in the history
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub message: String,
}

/// Which certificates.
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["user", "fingerprint"])]
pub struct UserRevokeArgs {
    /// All certificates of this user
    #[arg(value_name = "NAME")]
    pub user: Option<String>,
    /// The one whose fingerprint begins so; all 64 digits for one that the list does not have
    #[arg(long, value_name = "HEX")]
    pub fingerprint: Option<String>,
    /// What the change says of itself.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// What was changed, by whom and why.
#[derive(Clone, Debug, Default, Args)]
pub struct EventsArgs {
    /// Only of this kind, such as ConfigApplied; may be given several times
    #[arg(long = "kind", value_name = "KIND")]
    pub kinds: Vec<String>,
    /// Only about this: a backend, VIP or node by name
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub subject: String,
    /// Only by this author
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME", conflicts_with = "follow")]
    pub author: String,
    /// Only after this log index
    #[arg(long, value_name = "INDEX")]
    pub since: Option<u64>,
    /// Go on printing events as they happen
    #[arg(long)]
    pub follow: bool,
    /// Most to list, 0 for all; with --follow, end after so many
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<usize>,
}
