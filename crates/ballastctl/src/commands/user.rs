//! People and programs: who has a certificate, and whose is no longer accepted.

use std::{fs, path::Path};

use ballast_admin::pki::{self, PkiError};
use ballast_proto::admin::v1::{IssueUserRequest, ListUsersRequest, RevokeUserRequest};

use super::{Done, Run};
use crate::{
    args::{UserCommand, UserIssueArgs, UserRevokeArgs},
    failure::{Exit, Failure},
    view::{IssuedView, List, RevokedView, UserView},
};

pub(super) async fn user(run: &mut Run<'_>, command: UserCommand) -> Done {
    match command {
        UserCommand::List => list(run).await,
        UserCommand::Issue(args) => issue(run, args).await,
        UserCommand::Revoke(args) => revoke(run, args).await,
    }
}

async fn list(run: &mut Run<'_>) -> Done {
    let client = run.client().await?;
    let request = ListUsersRequest { consistency: client.consistency() };
    let response = client.read(client.certificates().list_users(client.request(request))).await?;
    let views = response.certificates.iter().map(UserView::from).collect();
    run.screen.show(&List::<UserView>(views))?;
    Ok(Exit::Done)
}

async fn issue(run: &mut Run<'_>, args: UserIssueArgs) -> Done {
    let key = pki::Key::generate().map_err(|error| failed(&error))?;
    let client = run.client().await?;
    let request = IssueUserRequest {
        name: args.name.clone(),
        role: args.role,
        csr_pem: key.request().map_err(|error| failed(&error))?,
        ttl: args.ttl.and_then(|ttl| prost_types::Duration::try_from(ttl).ok()),
        message: args.message,
    };
    // Before anything is signed: a certificate without a place for its key would be in the list for nothing.
    fs::create_dir_all(&args.out)
        .map_err(|error| Failure::because(Exit::Error, format!("cannot create {}", args.out.display()), &error))?;
    let (ca, certificate, secret) = (
        args.out.join("ca.pem"),
        args.out.join(format!("{}.pem", args.name)),
        args.out.join(format!("{}.key", args.name)),
    );
    // Nobody has another copy of it.
    if let Some(there) = [&secret, &certificate].into_iter().find(|path| path.exists()) {
        return Err(Failure::new(Exit::Error, format!("{} is there already and is not replaced", there.display()))
            .remedy("name another folder with --out, or move it away"));
    }
    let response = client.write("", client.certificates().issue_user(client.request(request))).await?;
    keep(&secret, &key.to_pem())?;
    keep(&certificate, &response.certificate_pem)?;
    keep(&ca, &response.ca_certificate_pem)?;
    let file = |path: &Path| path.display().to_string();
    let view = IssuedView::new(&args.name, &response, [file(&ca), file(&certificate), file(&secret)]);
    run.screen.show(&view)?;
    Ok(Exit::Done)
}

fn keep(path: &Path, pem: &str) -> Result<(), Failure> {
    pki::write_private(path, pem.as_bytes()).map_err(|error| failed(&error))
}

fn failed(error: &PkiError) -> Failure {
    Failure::because(Exit::Error, "cannot make a certificate", error)
}

async fn revoke(run: &mut Run<'_>, args: UserRevokeArgs) -> Done {
    let client = run.client().await?;
    let request_id = args.write.request_id();
    let request = RevokeUserRequest {
        user: args.user.unwrap_or_default(),
        fingerprint: args.fingerprint.unwrap_or_default(),
        request_id: request_id.clone(),
        message: args.write.message,
        validate_only: args.write.dry_run,
    };
    let response = client.write(&request_id, client.certificates().revoke_user(client.request(request))).await?;
    run.screen.show(&RevokedView::new(&response, args.write.dry_run))?;
    Ok(Exit::Done)
}
