//! The reference pages under `docs/cli`, from the same command line that is parsed.
//!
//! `cargo run -p ballastctl --example generate_cli_reference` writes them, and a test notices when
//! they are not what the command line says.

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::args::{Cli, EXIT_CODES};

/// The pages: file name and text. One for the program, one for each command.
pub fn pages() -> Vec<(String, String)> {
    let mut root = Cli::command();
    root.build();
    let mut pages = vec![("README.md".to_owned(), index(&root))];
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        pages.push((format!("{}.md", command.get_name()), page(command)));
    }
    pages
}

const GENERATED: &str = "<!-- Generated from the command line itself; see crates/ballastctl/src/reference.rs. -->\n";

fn index(root: &Command) -> String {
    let mut text = format!("# ballastctl\n\n{GENERATED}\n{}\n\n", long(root));
    text.push_str("## Commands\n\n| command | does |\n|---|---|\n");
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = command.get_name();
        text.push_str(&format!("| [`{name}`]({name}.md) | {} |\n", cell(&short(command))));
    }
    text.push_str("\n## Options of every command\n\n");
    text.push_str(&options(root.get_arguments().filter(|arg| arg.is_global_set())));
    let after = root.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    text.push_str(&format!("\n## Which node is asked, and how it ends\n\n```text\n{}\n```\n", after.trim()));
    debug_assert!(after.contains(EXIT_CODES));
    text
}

fn page(command: &Command) -> String {
    let mut text = String::new();
    section(command, 1, &mut text);
    text.push_str("\nOptions of every command, and exit codes: [ballastctl](README.md).\n");
    text
}

fn section(command: &Command, level: usize, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    text.push_str(&format!("{} {name}\n\n", "#".repeat(level)));
    if level == 1 {
        text.push_str(&format!("{GENERATED}\n"));
    }
    text.push_str(&format!("{}\n", long(command)));
    let has_own = command.get_arguments().any(|arg| !arg.is_global_set() && arg.get_id() != "help");
    if command.get_subcommands().next().is_none() || has_own {
        let usage = command.clone().render_usage().to_string();
        text.push_str(&format!("\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim()));
        let own: Vec<_> =
            command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help").collect();
        if !own.is_empty() {
            text.push('\n');
            text.push_str(&options(own.into_iter()));
        }
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        text.push('\n');
        section(below, level + 1, text);
    }
}

/// A table of arguments and options.
fn options<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let mut text = "| option | means |\n|---|---|\n".to_owned();
    for arg in args {
        let help = arg.get_help().or(arg.get_long_help()).map(ToString::to_string).unwrap_or_default();
        let mut notes = Vec::new();
        let values: Vec<_> = arg.get_possible_values();
        if arg.get_action().takes_values() && !values.is_empty() && values.len() <= 8 {
            let values: Vec<_> =
                values.iter().filter(|v| !v.is_hide_set()).map(|v| format!("`{}`", v.get_name())).collect();
            notes.push(format!("one of {}", values.join(", ")));
        }
        if let (Some(default), false) = (arg.get_default_values().first(), arg.is_hide_default_value_set())
            && arg.get_action().takes_values()
        {
            notes.push(format!("default `{}`", default.to_string_lossy()));
        }
        if let Some(variable) = arg.get_env() {
            notes.push(format!("environment `{}`", variable.to_string_lossy()));
        }
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        text.push_str(&format!("| {} | {}{notes} |\n", invocation(arg), cell(&help)));
    }
    text
}

/// `-m`, `--message TEXT` or `FARM`.
fn invocation(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        .unwrap_or_default();
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if arg.is_positional() {
        return cell(&format!("`{value}`"));
    }
    let mut names: Vec<String> = arg.get_short().map(|short| format!("`-{short}`")).into_iter().collect();
    names.extend(arg.get_long().map(|long| if takes { format!("`--{long} {value}`") } else { format!("`--{long}`") }));
    cell(&names.join(", "))
}

fn short(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn long(command: &Command) -> String {
    command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default()
}

/// Text that stays inside of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
