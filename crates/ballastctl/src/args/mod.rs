//! What can be typed.
//!
//! The help, the man pages, the completions and `docs/cli` all come from here, so what is said in a
//! doc comment of this module is what an operator reads.
//!
//! Not here: what the commands do (`commands`).

mod config;
mod failover;
mod local;
mod objects;
mod sessions;

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::Duration,
};

use ballast_core::config::Span;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, parser::ValueSource};

use crate::server::Server;

pub use config::*;
pub use failover::*;
pub use local::*;
pub use objects::*;
pub use sessions::*;

/// What the exit codes mean. Part of the help, of the man page and of `docs/cli`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  error; of `diff`: there are differences; of `cluster status --check`: something wants attention
  2  the command line is not right; of `cluster status --check`: no quorum, or a VIP without one owner
  3  the configuration is not right; of `cluster status --check`: nobody could be asked
  4  conflict: another revision is in force, or the state of the object does not allow it
  5  not found
  6  unavailable: no node answers, or there is no quorum
  7  timeout: the outcome is not known, or nodes did not follow in time; look before repeating
  8  not permitted: wrong role, no certificate, or one that is not accepted
  9  of `diff` only: an error without a code of its own";

/// Where the command line looks when nobody says otherwise.
const WHERE: &str = "\
Which node is asked, first match wins:
  --server or BALLAST_SERVER
  --context or BALLAST_CONTEXT, a name in ~/.config/ballast/contexts.toml
  the context chosen with `ballastctl context use`
  unix:///var/lib/ballast/admin.sock on a node itself, as root

Any node answers any command.";

/// Administers a Ballast cluster.
///
/// Configuration is one document: `apply` replaces it in one transaction, `diff` says what would
/// change, `history` and `rollback` go back. What operators set beside the document (drains,
/// weights, pins, moves) survives `apply` and has commands of its own.
#[derive(Debug, Parser)]
#[command(
    name = "ballastctl",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = format!("{WHERE}\n\n{EXIT_CODES}")
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Node to ask: unix:///path/admin.sock or https://host:port. Several are tried in turn
    #[arg(
        long,
        global = true,
        env = "BALLAST_SERVER",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub server: Vec<Server>,
    /// Context to use instead of the chosen one
    #[arg(long, global = true, env = "BALLAST_CONTEXT", hide_env_values = true, value_name = "NAME")]
    pub context: Option<String>,
    /// CA of the cluster, instead of the context's
    #[arg(
        long,
        global = true,
        env = "BALLAST_CA",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub ca: Option<PathBuf>,
    /// Client certificate, instead of the context's
    #[arg(
        long,
        global = true,
        env = "BALLAST_CERT",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate, instead of the context's
    #[arg(
        long,
        global = true,
        env = "BALLAST_KEY",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub cert_key: Option<PathBuf>,
    /// Form of what is printed
    #[arg(
        long,
        short,
        global = true,
        env = "BALLAST_OUTPUT",
        hide_env_values = true,
        value_enum,
        default_value = "table",
        value_name = "FORM"
    )]
    pub output: Format,
    /// How long to wait for an answer: 500ms, 10s, 2m
    #[arg(
        long,
        global = true,
        env = "BALLAST_TIMEOUT",
        hide_env_values = true,
        default_value = "10s",
        value_parser = duration,
        value_name = "TIME"
    )]
    pub timeout: Duration,
    /// How fresh answers must be; by default as fresh as can be, except where a command says otherwise
    #[arg(long, global = true, value_enum, value_name = "HOW", hide_short_help = true)]
    pub consistency: Option<Consistency>,
    /// No colours; NO_COLOR in the environment does the same
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// Form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    #[default]
    Table,
    /// Columns for people, with more of them
    Wide,
    /// JSON; streams print one object a line
    Json,
    /// YAML; streams print one document each
    Yaml,
}

/// How fresh answers must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Includes everything that was acknowledged before the call; needs a quorum
    Linearizable,
    /// Confirmed with a quorum a moment ago
    LeaderLease,
    /// What the node knows; works without a quorum
    Stale,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replace the configuration document in one transaction
    ///
    /// The whole document is replaced: what the files do not say is gone. Several files or a folder
    /// are merged first: lists of VIPs and farms are put one after the other. What operators set
    /// beside the document (drains, weights, pins, moves) stays as it is.
    Apply(ApplyArgs),
    /// Say what would change; exits with 0 when nothing would, with 1 when something would
    ///
    /// Compares a text, or a revision, with the revision in force or another one. `-o wide` shows the
    /// difference of the texts too.
    Diff(DiffArgs),
    /// Check a document without changing anything
    ///
    /// All mistakes are told at once, each as `file:line:column: path: problem (what would be right)`.
    Validate(ValidateArgs),
    /// Show the configuration in force and what operators set beside it, or list objects
    Get(GetArgs),
    /// Print the document in force, to keep or to edit
    ///
    /// What is printed can be applied again and changes nothing then. Without a form it is YAML as its
    /// author wrote it; `-o yaml` and `-o json` are short for `--format`.
    Export(ExportArgs),
    /// List the revisions of the configuration, or show one
    History(HistoryArgs),
    /// Apply the text of an earlier revision again, as a new one
    Rollback(RollbackArgs),
    /// Print each revision of the configuration as it is made
    Watch(WatchArgs),
    /// Edit the document in force with $VISUAL or $EDITOR, and apply it
    ///
    /// The edited text is never lost: when it is not right, or somebody else applied meanwhile, it can
    /// be edited again, and it is kept in a file when the command ends without applying it.
    Edit(EditArgs),
    /// Backends, and what operators want of them
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Virtual addresses, and who holds them
    #[command(subcommand)]
    Vip(VipCommand),
    /// Say what the failure of a node would do, or try a failover
    ///
    /// `failover --dry-run` says for each node which VIP would go where if it failed now, and ends with 1 when one would be
    /// held by nobody. `failover test VIP` moves one and measures it.
    Failover(FailoverArgs),
    /// Which client stays with which backend
    #[command(subcommand, alias = "binding")]
    Bindings(BindingsCommand),
    /// The session store: which keys there are, what they take, and their removal
    #[command(subcommand, alias = "session")]
    Sessions(SessionsCommand),
    /// Say where a request would go, and why
    ///
    /// Nothing is sent and nothing is bound: the node says what would happen to such a request now,
    /// and which entries of the log that follows from.
    Explain(ExplainArgs),
    /// Members of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// The cluster itself
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// People and programs: who has a certificate, and whose is no longer accepted
    #[command(subcommand)]
    User(UserCommand),
    /// What was changed, by whom and why
    Events(EventsArgs),
    /// Exit with 0 when the node that is asked is able to serve, with 1 otherwise
    ///
    /// Made for the HEALTHCHECK of a container. Asks one node about itself and works without a quorum.
    Healthcheck(HealthcheckArgs),
    /// Clusters that this user administers
    #[command(subcommand)]
    Context(ContextCommand),
    /// Print versions
    Version(VersionArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
}

/// What a change says of itself.
#[derive(Clone, Debug, Default, Args)]
pub struct WriteArgs {
    /// Why; kept in the history
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub message: String,
    /// Check and say what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Id of this change: repeating it with the same id makes it once
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub request_id: Option<String>,
}

impl WriteArgs {
    /// The id that was given, or a new one.
    pub fn request_id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
    }
}

impl Cli {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// As clap reports them; `--help` and `--version` are among them.
    pub fn parse_line<I, T>(line: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
        let matches = command(&line, |name| std::env::var_os(name)).try_get_matches_from(line)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        // A context that was typed is meant; a server from the environment is a habit.
        if source(&matches, "context") == Some(ValueSource::CommandLine)
            && source(&matches, "server") == Some(ValueSource::EnvVariable)
        {
            cli.global.server.clear();
        }
        Ok(cli)
    }
}

/// The parser, which asks the environment only for what is set there and not typed: clap would refuse a wrong value from it
/// even beside a right one on the line.
fn command(line: &[OsString], environment: impl Fn(&OsStr) -> Option<OsString>) -> clap::Command {
    let is_typed = |arg: &clap::Arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let is_it = |word: &str| {
            let name = word.split('=').next().unwrap_or(word);
            long.as_deref() == Some(name) || arg.get_short().is_some_and(|short| word.starts_with(&format!("-{short}")))
        };
        line.iter().skip(1).filter_map(|word| word.to_str()).take_while(|word| *word != "--").any(is_it)
    };
    Cli::command().mut_args(|arg| {
        let is_empty = arg.get_env().and_then(&environment).is_some_and(|value| value.is_empty());
        if is_empty || arg.get_env().is_some() && is_typed(&arg) { arg.env(None::<&'static str>) } else { arg }
    })
}

/// Where the value of a global option came from, wherever on the line it stood.
fn source(matches: &ArgMatches, id: &str) -> Option<ValueSource> {
    match matches.subcommand() {
        Some((_, below)) => matches.value_source(id).max(source(below, id)),
        None => matches.value_source(id),
    }
}

/// A length of time with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().map_err(|error| error.to_string())?;
    if span.as_millis() == 0 {
        return Err("a length of time above zero is wanted".to_owned());
    }
    Ok(span.duration())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::parse_line(["ballastctl"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_environment_is_asked_only_for_what_is_set_there_and_not_typed() {
        let asked = |words: &str, value: &str| {
            let line: Vec<OsString> = words.split_whitespace().map(Into::into).collect();
            let command = command(&line, |_| Some(value.into()));
            let server = command.get_arguments().find(|arg| arg.get_id() == "server").expect("there is one");
            server.get_env().is_some()
        };
        assert!(asked("ballastctl vip list", "unix:///run/x.sock"));
        assert!(!asked("ballastctl vip list", ""), "empty is unset");
        assert!(!asked("ballastctl vip list --server https://a:1", "rubbish"));
        assert!(!asked("ballastctl --server=https://a:1 vip list", "rubbish"));
        assert!(asked("ballastctl get -- --server", "unix:///run/x.sock"));
    }

    #[test]
    fn there_is_no_revision_0_to_go_back_to() {
        let refused = parse("rollback 0").expect_err("refused").to_string();
        assert!(refused.contains("0 is not in 1.."), "{refused}");
    }

    #[test]
    fn every_documented_form_is_understood() {
        for line in [
            "apply -f a.yaml -f b.yaml --expect 3 -m why --wait",
            "apply -f - --dry-run",
            "diff -f a.yaml",
            "diff --from 3 --to 4",
            "validate -f a.yaml --offline",
            "get",
            "get config -o yaml",
            "get nodes -o json",
            "export --format json --revision 2",
            "history --limit 5",
            "history 3",
            "rollback",
            "rollback 3 -m why",
            "watch --since 10",
            "edit",
            "backend list shop",
            "backend drain shop/site/web1 -m why",
            "backend enable shop/site/web1",
            "backend maintenance shop/site/web1",
            "backend weight shop/site/web1 50",
            "backend weight shop/site/web1 --reset",
            "vip list",
            "vip move public --to node-2 --wait",
            "vip move public --auto",
            "vip watch public",
            "vip history",
            "vip watch public --from-index 7",
            "failover --dry-run",
            "failover --dry-run --node node-1",
            "failover test public --to node-2 --yes --return",
            "bindings list --farm shop --service site --pinned",
            "bindings get --farm shop --key abc",
            "bindings move --farm shop --hash 0f --to web2",
            "bindings delete --farm shop --key abc --allow-missing",
            "bindings pin --farm shop --service site --key abc",
            "sessions list --keyspace shop --prefix sess: --limit 0",
            r"sessions get -k shop a\x00b --value",
            "sessions delete abc -m why --dry-run",
            "sessions stats -o json",
            "sessions top --keyspace 3",
            "sessions flush --keyspace shop --yes -m why",
            "sessions flush --keyspace shop --dry-run",
            "sessions hash-password",
            "explain --farm shop --host h --path /x --client 192.0.2.7 --cookie A=b --header X-A:b",
            "node list",
            "node drain node-1",
            "node enable node-1",
            "node promote node-1",
            "node demote node-1",
            "node remove node-1 --force",
            "node join-token --ttl 2h --witness",
            "cluster status -o json",
            "cluster status --check",
            "cluster snapshot --node node-1",
            "cluster transfer-leader --to node-2",
            "events --kind ConfigApplied --follow",
            "healthcheck --live",
            "version",
            "completion zsh",
            "man dir",
            "context list",
            "context use prod",
            "context add prod --server https://n:1 --dir d",
            "context add prod --server https://n:1 --ca a --cert c --key k",
            "--server unix:///a.sock --timeout 5s --no-color get",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_is_not_right_is_a_usage_error() {
        for line in [
            "",
            "nonsense",
            "apply",
            "diff",
            "diff -f a --to 3",
            "backend weight a/b/c",
            "backend weight a/b/c 1001",
            "backend weight a/b/c 5 --reset",
            "vip move public",
            "failover",
            "failover --node node-1",
            "failover test",
            "failover --dry-run test public",
            "bindings get --farm shop",
            "bindings get --key k",
            "bindings list --service s",
            "explain",
            r"sessions get a\b",
            "sessions get",
            "sessions flush -m why",
            "sessions flush --keyspace shop",
            "explain --farm f --cookie nonsense",
            "explain --farm f --header nonsense",
            "explain --farm f --client nonsense",
            "get --timeout 5",
            "get --timeout 0s",
            "get --server http://a:1",
            "get -o xml",
            "node join-token --ttl forever",
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.use_stderr(), "{line}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn servers_are_a_list() {
        let cli = parse("get --server unix:///a.sock,https://b:1").expect("a line");
        assert_eq!(cli.global.server.len(), 2);
        assert_eq!(cli.global.timeout, Duration::from_secs(10));
    }

    #[test]
    fn the_help_promises_the_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        for code in 0..=9 {
            assert!(help.contains(&format!("\n  {code}  ")), "{code}");
        }
    }
}
