//! Edits the document in force with the operator's editor.
//!
//! The text is applied against the revision that the operator has seen. When somebody else was
//! faster, the operator is shown what changed and goes on editing the same text, now against that
//! revision; a text is never thrown away.

use std::{fs, io::Write as _, path::Path, process::Command};

use ballast_proto::admin::v1::{ApplyRequest, ApplyResponse, GetConfigRequest};

use super::{Done, Run, apply::finish};
use crate::{
    args::EditArgs,
    client::Client,
    failure::{Exit, Failure},
    view::MistakeView,
};

/// What an operator writes when nothing was applied yet.
const FIRST: &str = "version: 1\nvips: []\nfarms: []\n";

pub(super) async fn edit(run: &mut Run<'_>, args: EditArgs) -> Done {
    let client = run.client().await?;
    let request = GetConfigRequest { consistency: client.consistency() };
    let base = client.read(client.config().get(client.request(request))).await?.revision.unwrap_or_default();
    let seen = base.revision;
    let before = if seen == 0 { FIRST.to_owned() } else { base.source };

    // In a folder of its own, which only its owner can read; the document may say where secrets are.
    let folder = tempfile::Builder::new().prefix("ballastctl-").tempdir()?;
    let file = folder.path().join("ballast.yaml");
    fs::File::create_new(&file)?.write_all(before.as_bytes())?;
    match until_taken(run, &client, &args, seen, &before, &file).await {
        Ok(Some(response)) => finish(&mut run.screen, &client, &response, false, args.wait, |_| ()).await,
        Ok(None) => {
            run.screen.note("nothing was edited");
            Ok(Exit::Done)
        }
        // Whatever came in the way, even an editor that ended badly after it had saved.
        Err(failure) if fs::read(&file).is_ok_and(|left| left != before.as_bytes()) => {
            let kept = folder.keep().join("ballast.yaml");
            Err(failure.remedy(format!("your text is kept in {}", kept.display())))
        }
        Err(failure) => Err(failure),
    }
}

/// Has the file edited until a node takes its text. `None` when it is as it was `before`.
///
/// # Errors
/// When the operator gives up, or editing again would not help.
async fn until_taken(
    run: &mut Run<'_>,
    client: &Client,
    args: &EditArgs,
    seen: u64,
    before: &str,
    file: &Path,
) -> Result<Option<ApplyResponse>, Failure> {
    let mut expect = seen;
    loop {
        let failure = match edited(&run.editor, file) {
            Ok(text) if text == before => return Ok(None),
            Ok(source) => {
                let request_id = uuid::Uuid::new_v4().to_string();
                let request = ApplyRequest {
                    source,
                    expect_revision: Some(expect),
                    request_id: request_id.clone(),
                    message: args.message.clone(),
                    ..ApplyRequest::default()
                };
                match client.write(&request_id, client.config().apply(client.request(request))).await {
                    Ok(response) => return Ok(Some(response)),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        let name = file.display().to_string();
        let failure = failure.locate(|mistake: &mut MistakeView| mistake.file = Some(name.clone()));
        let again = match failure.exit() {
            Exit::Invalid | Exit::Unavailable => true,
            // Whoever goes on from here has seen what the others did, and may keep or undo it.
            Exit::Conflict => match failure.conflict() {
                Some(diff) => {
                    expect = diff.to_revision;
                    true
                }
                None => false,
            },
            _ => false,
        };
        if !again || !run.interactive {
            return Err(failure);
        }
        run.screen.fail(&failure);
        if !wants_to_go_on(run)? {
            return Err(failure);
        }
    }
}

/// Runs the editor on the file, and reads what it left there.
fn edited(editor: &str, file: &Path) -> Result<String, Failure> {
    // An editor may be a command with arguments, so a shell takes it apart.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("ballastctl-edit").arg(file).status();
    match status {
        Ok(status) if status.success() => text_of(file),
        Ok(status) => {
            Err(Failure::new(Exit::Error, format!("the editor {editor:?} ended with {status}; nothing was applied"))
                .remedy("choose another with VISUAL or EDITOR"))
        }
        Err(error) => Err(Failure::because(Exit::Error, format!("cannot start the editor {editor:?}"), &error)),
    }
}

/// What an editor left in the file.
fn text_of(file: &Path) -> Result<String, Failure> {
    let name = file.display();
    let bytes = fs::read(file).map_err(|error| Failure::because(Exit::Error, format!("cannot read {name}"), &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(Exit::Invalid, format!("line {line} of {name} is not UTF-8; nothing was applied"))
            .remedy("have the editor save it as UTF-8")
    })
}

/// Asks whether to edit the text again. No answer means yes: that loses nothing.
fn wants_to_go_on(run: &mut Run<'_>) -> Result<bool, Failure> {
    write!(run.screen.err, "edit again? [Y/n] ")?;
    run.screen.err.flush()?;
    let mut answer = String::new();
    let mut byte = [0];
    while run.input.read(&mut byte)? == 1 && byte[0] != b'\n' {
        answer.push(char::from(byte[0]));
    }
    Ok(!matches!(answer.trim(), "n" | "N" | "no"))
}
