//! Commands about the configuration document.

use clap::{Args, ValueEnum};

use super::WriteArgs;

/// Which texts.
#[derive(Clone, Debug, Args)]
pub struct FileArgs {
    /// File, folder (its *.yaml, *.yml and *.json, by name) or - for standard input; several are merged
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<String>,
}

/// Replace the configuration document in one transaction.
///
/// The whole document is replaced: what the files do not say is gone. Several files or a folder
/// are merged first: lists of VIPs and farms are put one after the other.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Which texts.
    #[command(flatten)]
    pub files: FileArgs,
    /// Revision that the document was made from; refused when another is in force (0: none yet)
    #[arg(long, value_name = "REVISION")]
    pub expect: Option<u64>,
    /// Wait until every node that can be reached serves the new revision and every VIP is held
    #[arg(long)]
    pub wait: bool,
    /// What the change says of itself.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Say what would change; exits with 0 when nothing would, with 1 when something would.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Newer side: file, folder or - for standard input; several are merged
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE|DIR|-",
        required_unless_present = "to",
        conflicts_with = "to"
    )]
    pub files: Vec<String>,
    /// Newer side: a revision
    #[arg(long, value_name = "REVISION")]
    pub to: Option<u64>,
    /// Older side: a revision; the one in force by default
    #[arg(long, value_name = "REVISION")]
    pub from: Option<u64>,
}

/// Check a document without changing anything.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Which texts.
    #[command(flatten)]
    pub files: FileArgs,
    /// Check with what this program knows, without asking a node
    #[arg(long)]
    pub offline: bool,
}

/// Show the configuration in force and what operators set beside it, or list objects.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// What to show
    #[arg(value_enum, default_value = "config")]
    pub what: What,
}

/// What `get` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The document in force, and what operators set beside it
    Config,
    /// The same as `backend list`
    #[value(alias = "backend")]
    Backends,
    /// The same as `bindings list`
    #[value(alias = "binding")]
    Bindings,
    /// The same as `node list`
    #[value(alias = "node")]
    Nodes,
    /// The same as `vip list`
    #[value(alias = "vip")]
    Vips,
    /// The same as `events`
    #[value(alias = "event")]
    Events,
}

/// Print the document in force, to keep or to edit.
///
/// What is printed can be applied again and changes nothing then. Without a form it is YAML as its author wrote it;
/// `-o yaml` and `-o json` are short for `--format`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Form of the document: what -o says, or as its author wrote it
    #[arg(long, value_enum, value_name = "FORM")]
    pub format: Option<ExportFormat>,
    /// A revision; the one in force by default
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<u64>,
}

/// Form of an exported document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// As its author wrote it, comments included
    Source,
    /// YAML with every default filled in
    Yaml,
    /// JSON with every default filled in
    Json,
}

/// List the revisions of the configuration, or show one.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Show this one, with its text and what it changed
    pub revision: Option<u64>,
    /// Most to list; 0 for all
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    pub limit: usize,
}

/// Apply the text of an earlier revision again, as a new one.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Revision to go back to; the one before the one in force when left out
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// Refused when another revision than this is in force
    #[arg(long, value_name = "REVISION")]
    pub expect: Option<u64>,
    /// Wait until every node that can be reached serves the new revision and every VIP is held
    #[arg(long)]
    pub wait: bool,
    /// What the change says of itself.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Print each revision of the configuration as it is made.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Begin with the revisions made after this log index; from now on when left out
    #[arg(long, value_name = "INDEX")]
    pub since: Option<u64>,
    /// End after so many
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<usize>,
}

/// Edit the document in force with $VISUAL or $EDITOR, and apply it.
///
/// The edited text is never lost: when it is not right or somebody else applied meanwhile, it can
/// be edited again, and it is kept in a file when the command ends without applying it.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Why; kept in the history
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub message: String,
    /// Wait until every node that can be reached serves the new revision and every VIP is held
    #[arg(long)]
    pub wait: bool,
}
