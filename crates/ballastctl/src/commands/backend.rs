//! Backends, and what operators want of them.

use ballast_proto::admin::v1::{
    BackendChangeResponse, DrainBackendRequest, EnableBackendRequest, GetBackendRequest, ListBackendsRequest,
    MaintenanceBackendRequest, SetBackendWeightRequest,
};

use super::{Done, Run};
use crate::{
    args::{BackendCommand, WriteArgs},
    failure::Exit,
    view::{BackendDetail, BackendView, List},
};

pub(super) async fn backend(run: &mut Run<'_>, command: BackendCommand) -> Done {
    match command {
        BackendCommand::List { parent } => list(run, parent).await,
        BackendCommand::Get { name } => {
            let client = run.client().await?;
            let request = GetBackendRequest { name, consistency: client.consistency() };
            let response = client.read(client.backends().get(client.request(request))).await?;
            run.screen.show(&BackendDetail(BackendView::from(&response.backend.unwrap_or_default())))?;
            Ok(Exit::Done)
        }
        BackendCommand::Drain(args) => {
            let client = run.client().await?;
            let (request_id, WriteArgs { message, dry_run, .. }) = (args.write.request_id(), args.write);
            let request = DrainBackendRequest {
                name: args.name,
                request_id: request_id.clone(),
                message,
                validate_only: dry_run,
                etag: String::new(),
            };
            let response = client.write(&request_id, client.backends().drain(client.request(request))).await?;
            changed(run, response, dry_run, "takes no new clients")
        }
        BackendCommand::Enable(args) => {
            let client = run.client().await?;
            let (request_id, WriteArgs { message, dry_run, .. }) = (args.write.request_id(), args.write);
            let request = EnableBackendRequest {
                name: args.name,
                request_id: request_id.clone(),
                message,
                validate_only: dry_run,
                etag: String::new(),
            };
            let response = client.write(&request_id, client.backends().enable(client.request(request))).await?;
            changed(run, response, dry_run, "takes all traffic")
        }
        BackendCommand::Maintenance(args) => {
            let client = run.client().await?;
            let (request_id, WriteArgs { message, dry_run, .. }) = (args.write.request_id(), args.write);
            let request = MaintenanceBackendRequest {
                name: args.name,
                request_id: request_id.clone(),
                message,
                validate_only: dry_run,
                etag: String::new(),
            };
            let response = client.write(&request_id, client.backends().maintenance(client.request(request))).await?;
            changed(run, response, dry_run, "takes nothing, its clients move to other backends")
        }
        BackendCommand::Weight(args) => {
            let client = run.client().await?;
            let (request_id, WriteArgs { message, dry_run, .. }) = (args.write.request_id(), args.write);
            let request = SetBackendWeightRequest {
                name: args.name,
                weight: args.weight,
                request_id: request_id.clone(),
                message,
                validate_only: dry_run,
                etag: String::new(),
            };
            let response = client.write(&request_id, client.backends().set_weight(client.request(request))).await?;
            let done = if args.reset { "has the document's weight" } else { "has a weight of an operator's" };
            changed(run, response, dry_run, done)
        }
    }
}

pub(super) async fn list(run: &mut Run<'_>, parent: Option<String>) -> Done {
    let client = run.client().await?;
    let request = ListBackendsRequest { parent: parent.unwrap_or_default(), consistency: client.consistency() };
    let response = client.read(client.backends().list(client.request(request))).await?;
    run.screen.show(&response.backends.iter().collect::<List<BackendView>>())?;
    Ok(Exit::Done)
}

fn changed(run: &mut Run<'_>, response: BackendChangeResponse, dry_run: bool, done: &str) -> Done {
    let view = BackendView::from(&response.backend.unwrap_or_default());
    let would = if dry_run { "would be accepted: " } else { "" };
    run.screen.note(&format!("{would}{} {done}", view.full_name()));
    run.screen.show(&List(vec![view]))?;
    Ok(Exit::Done)
}
