//! Commands that need no node, or only ask it whether it is there.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Exit with 0 when the node that is asked is able to serve, with 1 otherwise.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Only ask whether it answers, not whether it has caught up and serves
    #[arg(long)]
    pub live: bool,
}

/// Clusters that this user administers.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List contexts
    #[command(alias = "ls")]
    List,
    /// Choose the context that commands use
    Use {
        /// Which one
        name: String,
    },
    /// Add a context, or replace it
    Add(ContextAddArgs),
    /// Forget a context; files that it names are left alone
    #[command(alias = "rm")]
    Remove {
        /// Which one
        name: String,
    },
}

/// Add a context, or replace it. Servers and certificate files come from --server, --ca and
/// --cert.
#[derive(Debug, Args)]
pub struct ContextAddArgs {
    /// Its name
    pub name: String,
    /// Folder with ca.pem and one certificate with its key, as `ballastd init` and `user issue` write them
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long = "key", value_name = "FILE")]
    pub certificate_key: Option<PathBuf>,
}

/// Print versions.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Only of this program; do not ask a node
    #[arg(long)]
    pub client: bool,
}

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Write the manual pages into a folder.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to; made when it does not exist
    pub dir: PathBuf,
}
