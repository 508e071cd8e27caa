//! Ballast's command line.
//!
//! Parses a line ([`args`]), asks a node ([`client`]), prints the answer ([`view`], [`output`]) and
//! ends with a promised code ([`failure::Exit`]). It is a library so that tests, the manual
//! and the completions use the same command line that operators type.
//!
//! What comes from outside (streams, environment, paths) is in [`Surroundings`], which only
//! [`main`] fills from the process, so a test can hold all of it.
//!
//! Not here: anything a node decides. Even a document is judged by the node, unless `validate
//! --offline` asks for this program's own opinion.

pub mod args;
pub mod client;
pub mod commands;
pub mod contexts;
pub mod failure;
pub mod input;
pub mod key;
pub mod output;
pub mod reference;
pub mod server;
pub mod view;

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use args::{Cli, Command, Format};
use commands::Run;
use failure::Exit;
use output::{Screen, Style};

/// Where a node on this machine answers root.
pub const LOCAL_SOCKET: &str = "/var/lib/ballast/admin.sock";

/// What the program has around it.
pub struct Surroundings<'a> {
    /// Standard output.
    pub out: &'a mut (dyn Write + Send),
    /// Standard error.
    pub err: &'a mut (dyn Write + Send),
    /// Standard input.
    pub input: &'a mut (dyn Read + Send),
    /// Standard output takes colours.
    pub color_out: bool,
    /// Standard error takes colours.
    pub color_err: bool,
    /// Somebody is there who can be asked.
    pub interactive: bool,
    /// The file of contexts.
    pub contexts: PathBuf,
    /// Where a node on this machine answers.
    pub local_socket: PathBuf,
    /// The operator's editor, a shell command.
    pub editor: String,
}

/// The program: command line, streams and environment of the process.
pub fn main() -> ExitCode {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let plain = variable("NO_COLOR").is_some() || variable("TERM").is_some_and(|term| term == "dumb");
    let config = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")))
        .unwrap_or_else(|| PathBuf::from("/etc"));
    let editor = variable("VISUAL").or_else(|| variable("EDITOR")).unwrap_or_else(|| "vi".into());
    let surroundings = Surroundings {
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        input: &mut io::stdin(),
        color_out: !plain && io::stdout().is_terminal(),
        color_err: !plain && io::stderr().is_terminal(),
        interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
        contexts: config.join("ballast/contexts.toml"),
        local_socket: LOCAL_SOCKET.into(),
        editor: editor.to_string_lossy().into_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let exit = match runtime {
        Ok(runtime) => runtime.block_on(run(std::env::args_os(), surroundings)),
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            Exit::Error
        }
    };
    ExitCode::from(exit.code())
}

/// Runs one command line, the program's name first, to its end.
pub async fn run(line: impl IntoIterator<Item = OsString>, around: Surroundings<'_>) -> Exit {
    let cli = match Cli::parse_line(line) {
        Ok(cli) => cli,
        Err(error) => {
            let (to, color): (&mut dyn Write, bool) =
                if error.use_stderr() { (around.err, around.color_err) } else { (around.out, around.color_out) };
            let text = error.render();
            let text = if color { text.ansi().to_string() } else { text.to_string() };
            let _ = to.write_all(text.as_bytes());
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let color = !cli.global.no_color;
    let screen = Screen {
        format: cli.global.output,
        style: Style { wide: cli.global.output == Format::Wide, color: color && around.color_out },
        error_style: Style { wide: false, color: color && around.color_err },
        out: around.out,
        err: around.err,
    };
    let is_diff = matches!(cli.command, Command::Diff(_));
    let mut run = Run {
        global: cli.global,
        screen,
        input: around.input,
        interactive: around.interactive,
        contexts: around.contexts,
        local_socket: around.local_socket,
        editor: around.editor,
    };
    match commands::dispatch(&mut run, cli.command).await {
        Ok(exit) => exit,
        Err(failure) if failure.is_broken_pipe() => Exit::Done,
        Err(failure) => {
            let failure = if is_diff { failure.of_diff() } else { failure };
            run.screen.fail(&failure);
            failure.exit()
        }
    }
}
