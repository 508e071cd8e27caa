//! Completions and manual pages, from the same command line that is parsed.

use clap::CommandFactory as _;

use super::{Done, Run};
use crate::{
    args::{Cli, CompletionArgs, ManArgs},
    failure::{Exit, Failure},
};

pub(super) fn completion(run: &mut Run<'_>, args: CompletionArgs) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ballastctl", &mut script);
    run.screen.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

pub(super) fn man(run: &mut Run<'_>, args: ManArgs) -> Done {
    std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir))
        .map_err(|error| Failure::because(Exit::Error, format!("cannot write to {}", args.dir.display()), &error))?;
    run.screen.note(&format!(
        "manual pages are in {}; read with: man -l {}/ballastctl.1",
        args.dir.display(),
        args.dir.display()
    ));
    Ok(Exit::Done)
}
