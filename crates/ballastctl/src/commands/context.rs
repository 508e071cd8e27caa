//! Clusters that this user administers.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Done, Run};
use crate::{
    args::{ContextAddArgs, ContextCommand},
    contexts::{Context, Contexts, ServerText},
    failure::{Exit, Failure},
    output::{Cell, Paint},
    server::Server,
    view::{List, Row},
};

/// A context, as it is listed.
#[derive(Debug, Serialize)]
struct ContextView {
    name: String,
    current: bool,
    servers: Vec<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Row for ContextView {
    const NONE: &'static str = "no contexts; add one: ballastctl context add NAME --server https://HOST:PORT --dir DIR";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide { &["CONTEXT", "SERVERS", "CA", "CERTIFICATE", "KEY"] } else { &["CONTEXT", "SERVERS", "CERTIFICATE"] }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let path = |path: &Option<PathBuf>| {
            Cell::from(path.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
        };
        let name = match self.current {
            true => Cell::painted(Paint::Good, format!("{} (in use)", self.name)),
            false => self.name.clone().into(),
        };
        let mut cells = vec![name, self.servers.join(",").into()];
        match wide {
            true => cells.extend([path(&self.ca), path(&self.cert), path(&self.key)]),
            false => cells.push(path(&self.cert)),
        }
        cells
    }
}

pub(super) fn context(run: &mut Run<'_>, command: ContextCommand) -> Done {
    let mut stored = Contexts::load(&run.contexts)?;
    match command {
        ContextCommand::List => {
            let view = |(name, context): (&String, &Context)| ContextView {
                name: name.clone(),
                current: stored.current.as_ref() == Some(name),
                servers: context.servers.iter().map(|ServerText(server)| server.to_string()).collect(),
                ca: context.ca.clone(),
                cert: context.cert.clone(),
                key: context.key.clone(),
            };
            let list = List(stored.contexts.iter().map(view).collect());
            run.screen.show(&list)?;
        }
        ContextCommand::Use { name } => {
            stored.get(&name)?;
            run.screen.note(&format!("commands ask {name} now"));
            stored.current = Some(name);
            stored.store(&run.contexts)?;
        }
        ContextCommand::Add(args) => add(run, stored, args)?,
        ContextCommand::Remove { name } => {
            stored.get(&name)?;
            stored.contexts.remove(&name);
            if stored.current.as_ref() == Some(&name) {
                stored.current = None;
            }
            stored.store(&run.contexts)?;
            run.screen.note(&format!("{name} is forgotten"));
        }
    }
    Ok(Exit::Done)
}

fn add(run: &mut Run<'_>, mut stored: Contexts, args: ContextAddArgs) -> Result<(), Failure> {
    if run.global.server.is_empty() {
        return Err(
            Failure::new(Exit::Usage, "a context has at least one server").remedy("add --server https://HOST:PORT")
        );
    }
    let in_dir = |given: &Option<PathBuf>, name: &str| match (given, &args.dir) {
        (Some(path), _) => absolute(path).map(Some),
        (None, Some(dir)) => absolute(&dir.join(name)).map(Some),
        (None, None) => Ok(None),
    };
    // Only where it is needed: whoever names both files may keep what they like in the folder.
    let name = match &args.dir {
        Some(dir) if run.global.cert.is_none() || (args.certificate_key.is_none() && run.global.cert_key.is_none()) => {
            name_of_pair(dir)?
        }
        _ => String::new(),
    };
    let context = Context {
        servers: run.global.server.iter().cloned().map(ServerText).collect(),
        ca: in_dir(&run.global.ca, "ca.pem")?,
        cert: in_dir(&run.global.cert, &format!("{name}.pem"))?,
        key: in_dir(&args.certificate_key.clone().or_else(|| run.global.cert_key.clone()), &format!("{name}.key"))?,
    };
    let wants_certificate = run.global.server.iter().any(|server| matches!(server, Server::Https { .. }));
    if wants_certificate && [&context.ca, &context.cert, &context.key].iter().any(|file| file.is_none()) {
        return Err(Failure::new(
            Exit::Usage,
            "an https server wants the cluster's CA and a client certificate with its key",
        )
        .remedy("add --dir DIR, the folder that `ballastd init` or `ballastctl user issue` wrote ca.pem, certificate and key to")
        .remedy("or --ca FILE --cert FILE --key FILE"));
    }
    let first = stored.contexts.is_empty();
    stored.contexts.insert(args.name.clone(), context);
    if first {
        stored.current = Some(args.name.clone());
    }
    stored.store(&run.contexts)?;
    let used = if first { " and in use" } else { "; use it with `ballastctl context use`" };
    run.screen.note(&format!("{} is added{used}", args.name));
    Ok(())
}

/// Whose certificate is in a folder beside its key: the administrator's, or the only one.
fn name_of_pair(dir: &Path) -> Result<String, Failure> {
    let unreadable =
        |error: io::Error| Failure::because(Exit::NotFound, format!("cannot read {}", dir.display()), &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|ending| ending == "pem") && path.with_extension("key").exists() {
            names.push(name);
        }
    }
    names.sort();
    match &names[..] {
        [only] => Ok(only.clone()),
        several if several.iter().any(|name| name == "admin") => Ok("admin".to_owned()),
        [] => Err(Failure::new(
            Exit::NotFound,
            format!("{} has no certificate with its key (NAME.pem and NAME.key)", dir.display()),
        )
        .remedy("name the files: --ca FILE --cert FILE --key FILE")),
        several => Err(Failure::new(
            Exit::Usage,
            format!("{} has the certificates of several: {}", dir.display(), several.join(", ")),
        )
        .remedy(format!("name one: --cert {0}/{1}.pem --key {0}/{1}.key", dir.display(), several[0]))),
    }
}

/// The path from the root, so that the context works from any folder.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path)
        .map_err(|error| Failure::because(Exit::NotFound, format!("cannot find {}", path.display()), &error))
}
