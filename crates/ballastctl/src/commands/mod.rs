//! What the commands do.
//!
//! Each asks, turns the answer into a view and shows it. What they share: the connection is made
//! on first use, long lists come page by page, and whatever can change something has a request id.

mod apply;
mod backend;
mod bindings;
mod cluster;
mod config;
mod context;
mod edit;
mod events;
mod failover;
mod follow;
mod generate;
mod health;
mod sessions;
mod user;
mod vip;

use std::{io::Read, path::PathBuf};

use crate::{
    args::{BindingsListArgs, Command, EventsArgs, Global, What},
    client::{Client, Target},
    failure::{Exit, Failure},
    output::Screen,
};

/// How a command ended when nothing went wrong.
pub type Done = Result<Exit, Failure>;

/// What every command has.
pub struct Run<'a> {
    /// Options of every command.
    pub global: Global,
    /// Where answers go.
    pub screen: Screen<'a>,
    /// Standard input.
    pub input: &'a mut (dyn Read + Send),
    /// Somebody is there who can be asked.
    pub interactive: bool,
    /// The file of contexts.
    pub contexts: PathBuf,
    /// Where a node on this machine answers.
    pub local_socket: PathBuf,
    /// The operator's editor.
    pub editor: String,
}

impl Run<'_> {
    /// A connection to the node that the command line, the context or the machine says.
    ///
    /// # Errors
    /// When nothing says which, or it does not answer.
    pub async fn client(&self) -> Result<Client, Failure> {
        let target = Target::choose(&self.global, &self.contexts, &self.local_socket)?;
        Client::connect(&target, &self.global).await
    }

    /// Whether anything says which node to ask.
    pub fn knows_a_server(&self) -> bool {
        Target::is_known(&self.global, &self.contexts, &self.local_socket)
    }
}

/// Carries a command out.
///
/// # Errors
/// With what went wrong; the caller prints it and ends with its code.
pub async fn dispatch(run: &mut Run<'_>, command: Command) -> Done {
    match command {
        Command::Apply(args) => apply::apply(run, args).await,
        Command::Rollback(args) => apply::rollback(run, args).await,
        Command::Diff(args) => config::diff(run, args).await,
        Command::Validate(args) => config::validate(run, args).await,
        Command::Get(args) => match args.what {
            What::Config => config::get(run).await,
            What::Backends => backend::list(run, None).await,
            What::Bindings => bindings::list(run, BindingsListArgs::default()).await,
            What::Nodes => cluster::nodes(run).await,
            What::Vips => vip::list(run).await,
            What::Events => events::events(run, EventsArgs::default()).await,
        },
        Command::Export(args) => config::export(run, args).await,
        Command::History(args) => config::history(run, args).await,
        Command::Watch(args) => config::watch(run, args).await,
        Command::Edit(args) => edit::edit(run, args).await,
        Command::Backend(command) => backend::backend(run, command).await,
        Command::Vip(command) => vip::vip(run, command).await,
        Command::Failover(args) => failover::failover(run, args).await,
        Command::Bindings(command) => bindings::bindings(run, command).await,
        Command::Sessions(command) => sessions::sessions(run, command).await,
        Command::Explain(args) => config::explain(run, args).await,
        Command::Node(command) => cluster::node(run, command).await,
        Command::Cluster(command) => cluster::cluster(run, command).await,
        Command::User(command) => user::user(run, command).await,
        Command::Events(args) => events::events(run, args).await,
        Command::Healthcheck(args) => health::check(run, args).await,
        Command::Context(command) => context::context(run, command),
        Command::Version(args) => health::version(run, args).await,
        Command::Completion(args) => generate::completion(run, args),
        Command::Man(args) => generate::man(run, args),
    }
}

/// Most of a page, when `wanted` are wanted and so many are there already. Zero wants all.
fn page_size(wanted: usize, have: usize, page_max: u32) -> u32 {
    match wanted {
        0 => page_max,
        _ => u32::try_from(wanted - have.min(wanted)).unwrap_or(u32::MAX).min(page_max),
    }
}

/// Whether more pages are wanted.
fn wants_more(wanted: usize, have: usize, next_page_token: &str) -> bool {
    !next_page_token.is_empty() && (wanted == 0 || have < wanted)
}

/// Asks a question that only a yes answers; where nobody can be asked the answer is no.
fn asked(run: &mut Run<'_>, question: &str) -> Result<bool, Failure> {
    if !run.interactive {
        return Ok(false);
    }
    write!(run.screen.err, "{question} [y/N] ")?;
    run.screen.err.flush()?;
    let mut answer = String::new();
    let mut byte = [0];
    while run.input.read(&mut byte)? == 1 && byte[0] != b'\n' {
        answer.push(char::from(byte[0]));
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_where_the_limit_is() {
        assert_eq!(page_size(20, 0, 500), 20);
        assert_eq!(page_size(700, 500, 500), 200);
        assert_eq!(page_size(0, 500, 500), 500);
        assert!(wants_more(0, 500, "next"));
        assert!(wants_more(700, 500, "next"));
        assert!(!wants_more(500, 500, "next"));
        assert!(!wants_more(0, 500, ""));
    }
}
