//! Edits the document in force with the operator's editor.
//!
//! The text is applied against the revision that the operator has seen. When somebody else was
//! faster, the operator is shown what changed and goes on editing the same text, now against that
//! revision; a text is never thrown away.

use std::{fs, io::Write as _, path::Path, process::Command};

use ballast_proto::admin::v1::{ApplyRequest, GetConfigRequest};

use super::{Done, Run, apply::finish};
use crate::{
    args::EditArgs,
    failure::{Exit, Failure},
    view::MistakeView,
};

/// What an operator writes when nothing was applied yet.
const FIRST: &str = "version: 1\nvips: []\nfarms: []\n";

pub(super) async fn edit(run: &mut Run<'_>, args: EditArgs) -> Done {
    let client = run.client().await?;
    let request = GetConfigRequest { consistency: client.consistency() };
    let base = client.read(client.config().get(client.request(request))).await?.revision.unwrap_or_default();
    let mut expect = base.revision;
    let before = if base.revision == 0 { FIRST.to_owned() } else { base.source };

    // In a folder of its own, which only its owner can read; the document may say where secrets are.
    let folder = tempfile::Builder::new().prefix("ballastctl-").tempdir()?;
    let file = folder.path().join("ballast.yaml");
    fs::File::create_new(&file)?.write_all(before.as_bytes())?;
    loop {
        let text = edited(&run.editor, &file)?;
        if text == before {
            run.screen.note("nothing was edited");
            return Ok(Exit::Done);
        }
        let request_id = uuid::Uuid::new_v4().to_string();
        let request = ApplyRequest {
            source: text,
            expect_revision: Some(expect),
            request_id: request_id.clone(),
            message: args.message.clone(),
            ..ApplyRequest::default()
        };
        let failure = match client.write(&request_id, client.config().apply(client.request(request))).await {
            Ok(response) => return finish(&mut run.screen, &client, &response, false, args.wait, |_| ()).await,
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
        if again && run.interactive {
            run.screen.fail(&failure);
            if wants_to_go_on(run)? {
                continue;
            }
        }
        let kept = folder.keep().join("ballast.yaml");
        return Err(failure.remedy(format!("your text is kept in {}", kept.display())));
    }
}

/// Runs the editor on the file, and reads what it left there.
fn edited(editor: &str, file: &Path) -> Result<String, Failure> {
    // An editor may be a command with arguments, so a shell takes it apart.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("ballastctl-edit").arg(file).status();
    match status {
        Ok(status) if status.success() => Ok(fs::read_to_string(file)?),
        Ok(status) => {
            Err(Failure::new(Exit::Error, format!("the editor {editor:?} ended with {status}; nothing was applied"))
                .remedy("choose another with VISUAL or EDITOR"))
        }
        Err(error) => Err(Failure::because(Exit::Error, format!("cannot start the editor {editor:?}"), &error)),
    }
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
