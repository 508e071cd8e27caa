//! Commands about the session store.

use clap::{Args, Subcommand};

use super::WriteArgs;
use crate::key::{Typed, typed};

/// The session store: which keys there are, what they take, and their removal.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// List keys of a keyspace
    #[command(alias = "ls")]
    List(SessionsListArgs),
    /// Show one key: type, what is left of its life, size
    Get {
        /// Which one
        #[command(flatten)]
        key: SessionKeyArgs,
        /// Show its value too; administrators only. The node logs who asked, and never the value
        #[arg(long)]
        value: bool,
    },
    /// Delete a key: whoever has this session is logged out
    Delete {
        /// Which one
        #[command(flatten)]
        key: SessionKeyArgs,
        /// That the key does not exist is fine
        #[arg(long)]
        allow_missing: bool,
        /// What the change says of itself.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Show keys and memory of each keyspace, and what expired and gave way
    Stats,
    /// List the keys that take the most memory
    Top(SessionsListArgs),
    /// Remove all keys of a keyspace
    ///
    /// Says how many there are and asks. Everybody whose session is in it is logged out. The history keeps who did it and
    /// why.
    Flush(FlushArgs),
    /// Turn a password into what `sessions.users[].password_hash` of the document wants
    ///
    /// Asks for the password, or reads the first line of standard input. Needs no node. It is hashed with Argon2id and a
    /// new salt each time.
    HashPassword,
}

/// Which keyspace.
#[derive(Clone, Debug, Args)]
pub struct KeyspaceArgs {
    /// Name of a keyspace of the document, or number of a database
    #[arg(short, long, default_value = "0", value_name = "NAME")]
    pub keyspace: String,
}

/// Which keys.
#[derive(Clone, Debug, Args)]
pub struct SessionsListArgs {
    /// Where.
    #[command(flatten)]
    pub keyspace: KeyspaceArgs,
    /// Only keys that begin so
    #[arg(long, default_value = "", hide_default_value = true, value_parser = typed, value_name = "TEXT")]
    pub prefix: Typed,
    /// Most to list; of `list`, 0 for all
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    pub limit: usize,
}

/// Which key.
#[derive(Clone, Debug, Args)]
pub struct SessionKeyArgs {
    /// The key as lists show it: \xNN for a byte that is no text, \\ for a backslash
    #[arg(value_parser = typed, value_name = "KEY")]
    pub key: Typed,
    /// Where.
    #[command(flatten)]
    pub keyspace: KeyspaceArgs,
}

/// Remove all keys of a keyspace.
#[derive(Debug, Args)]
pub struct FlushArgs {
    /// Name of a keyspace of the document, or number of a database
    #[arg(short, long, value_name = "NAME")]
    pub keyspace: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Why; kept in the history
    #[arg(short, long, required_unless_present = "dry_run", value_name = "TEXT")]
    pub message: Option<String>,
    /// Say how many keys there are, and remove none
    #[arg(long)]
    pub dry_run: bool,
    /// Id of this change: repeating it with the same id makes it once
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub request_id: Option<String>,
}
