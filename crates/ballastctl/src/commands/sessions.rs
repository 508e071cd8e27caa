//! The session store.

use std::io;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, SaltString},
};
use ballast_proto::admin::v1::{
    DeleteSessionKeyRequest, FlushKeyspaceRequest, GetSessionKeyRequest, ListSessionKeysRequest, SessionStatsRequest,
    TopSessionKeysRequest,
};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{Done, Run, asked, page_size, wants_more};
use crate::{
    args::{FlushArgs, SessionKeyArgs, SessionsCommand, SessionsListArgs, WriteArgs},
    failure::{Exit, Failure},
    view::{FlushView, List, PasswordHashView, SessionDeletedView, SessionKeyDetail, SessionKeyView, SessionStatsView},
};

/// Most keys of a page.
const PAGE_MAX: u32 = 1000;

/// Longest password. Arbitrary: whoever pipes a file by mistake is told.
const PASSWORD_BYTES_MAX: usize = 1024;

pub(super) async fn sessions(run: &mut Run<'_>, command: SessionsCommand) -> Done {
    match command {
        SessionsCommand::List(args) => list(run, args).await,
        SessionsCommand::Get { key, value } => get(run, key, value).await,
        SessionsCommand::Delete { key, allow_missing, write } => delete(run, key, allow_missing, write).await,
        SessionsCommand::Stats => {
            let client = run.client().await?;
            let request = SessionStatsRequest { consistency: client.consistency() };
            let response = client.read(client.sessions().stats(client.request(request))).await?;
            run.screen.show(&SessionStatsView::from(&response))?;
            Ok(Exit::Done)
        }
        SessionsCommand::Top(args) => top(run, args).await,
        SessionsCommand::Flush(args) => flush(run, args).await,
        SessionsCommand::HashPassword => hash_password(run),
    }
}

async fn list(run: &mut Run<'_>, args: SessionsListArgs) -> Done {
    let client = run.client().await?;
    let mut keys: Vec<SessionKeyView> = Vec::new();
    let mut page_token = String::new();
    let (total, is_last) = loop {
        let request = ListSessionKeysRequest {
            keyspace: args.keyspace.keyspace.clone(),
            prefix: args.prefix.0.clone(),
            page_size: page_size(args.limit, keys.len(), PAGE_MAX),
            page_token,
            consistency: client.consistency(),
        };
        let page = client.read(client.sessions().list_keys(client.request(request))).await?;
        keys.extend(page.keys.iter().map(SessionKeyView::from));
        page_token = page.next_page_token;
        if !wants_more(args.limit, keys.len(), &page_token) {
            break (page.total_size, page_token.is_empty());
        }
    };
    let shown = keys.len();
    run.screen.show(&List(keys))?;
    if !is_last {
        run.screen.note(&format!("{shown} shown, the keyspace has {total}; see more with --limit"));
    }
    Ok(Exit::Done)
}

async fn get(run: &mut Run<'_>, key: SessionKeyArgs, value: bool) -> Done {
    let client = run.client().await?;
    let request = GetSessionKeyRequest {
        keyspace: key.keyspace.keyspace,
        key: key.key.0,
        value,
        consistency: client.consistency(),
    };
    let response = client.read(client.sessions().get_key(client.request(request))).await?;
    run.screen.show(&SessionKeyDetail::new(&response))?;
    Ok(Exit::Done)
}

async fn delete(run: &mut Run<'_>, key: SessionKeyArgs, allow_missing: bool, write: WriteArgs) -> Done {
    let client = run.client().await?;
    let request_id = write.request_id();
    let request = DeleteSessionKeyRequest {
        keyspace: key.keyspace.keyspace,
        key: key.key.0,
        request_id: request_id.clone(),
        message: write.message,
        validate_only: write.dry_run,
        allow_missing,
    };
    let response = client.write(&request_id, client.sessions().delete_key(client.request(request))).await?;
    run.screen.show(&SessionDeletedView {
        dry_run: write.dry_run,
        log_index: response.log_index,
        key: response.key.as_ref().map(SessionKeyView::from),
    })?;
    Ok(Exit::Done)
}

async fn top(run: &mut Run<'_>, args: SessionsListArgs) -> Done {
    let client = run.client().await?;
    let request = TopSessionKeysRequest {
        keyspace: args.keyspace.keyspace,
        prefix: args.prefix.0,
        limit: page_size(args.limit, 0, PAGE_MAX),
        consistency: client.consistency(),
    };
    let response = client.read(client.sessions().top_keys(client.request(request))).await?;
    run.screen.show(&response.keys.iter().collect::<List<SessionKeyView>>())?;
    let (count, bytes) = (response.total_size, response.total_bytes);
    run.screen.note(&format!("of {count} keys that take {bytes} B of memory"));
    Ok(Exit::Done)
}

async fn flush(run: &mut Run<'_>, args: FlushArgs) -> Done {
    let client = run.client().await?;
    let request_id = args.request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let request = FlushKeyspaceRequest {
        keyspace: args.keyspace,
        request_id: request_id.clone(),
        message: args.message.unwrap_or_default(),
        validate_only: args.dry_run,
    };
    if !args.dry_run && !args.yes {
        let rehearsal = FlushKeyspaceRequest { validate_only: true, ..request.clone() };
        let would = client.read(client.sessions().flush(client.request(rehearsal))).await?;
        let question = format!("remove all {} keys of keyspace {}?", would.keys, would.keyspace);
        if !asked(run, &question)? {
            return Err(
                Failure::new(Exit::Usage, "nothing was done: nobody said yes").remedy("without a question: --yes")
            );
        }
    }
    let response = client.write(&request_id, client.sessions().flush(client.request(request))).await?;
    run.screen.show(&FlushView {
        dry_run: args.dry_run,
        keyspace: response.keyspace,
        keys: response.keys,
        log_index: response.log_index,
    })?;
    Ok(Exit::Done)
}

fn hash_password(run: &mut Run<'_>) -> Done {
    let password = read_password(run)?;
    if password.is_empty() {
        return Err(Failure::new(Exit::Usage, "the password is empty").remedy("give it on standard input, or type it"));
    }
    let failed = |error| Failure::new(Exit::Error, format!("the password cannot be hashed: {error}"));
    // A salt has to be another each time, and need not be secret: what is random of a UUID will do.
    let salt = SaltString::encode_b64(uuid::Uuid::new_v4().as_bytes()).map_err(failed)?;
    // The crate's defaults are OWASP's: 19 MiB, two passes.
    let hash = Argon2::default().hash_password(&password, &salt).map_err(failed)?;
    run.screen.show(&PasswordHashView { password_hash: hash.to_string() })?;
    Ok(Exit::Done)
}

fn read_password(run: &mut Run<'_>) -> Result<Vec<u8>, Failure> {
    if !run.interactive {
        return line(run);
    }
    let _hidden = Hidden::stdin();
    let password = prompt(run, "password: ")?;
    if prompt(run, "once more: ")? != password {
        return Err(Failure::new(Exit::Usage, "these are two passwords").remedy("type the same twice"));
    }
    Ok(password)
}

fn prompt(run: &mut Run<'_>, question: &str) -> Result<Vec<u8>, Failure> {
    write!(run.screen.err, "{question}")?;
    run.screen.err.flush()?;
    let answer = line(run)?;
    // The line break that was typed is not shown either.
    run.screen.note("");
    Ok(answer)
}

/// The next line of the input, without its end.
fn line(run: &mut Run<'_>) -> Result<Vec<u8>, Failure> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while run.input.read(&mut byte)? == 1 && byte[0] != b'\n' {
        if line.len() == PASSWORD_BYTES_MAX {
            return Err(Failure::new(Exit::Usage, format!("a password has {PASSWORD_BYTES_MAX} bytes at most"))
                .remedy("its first line is the password; is it the right file?"));
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// What is typed is not shown for as long as this lives.
struct Hidden {
    before: Termios,
}

impl Hidden {
    /// `None` if standard input is no terminal that could show anything.
    fn stdin() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).ok()?;
        Some(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that went away shows nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
