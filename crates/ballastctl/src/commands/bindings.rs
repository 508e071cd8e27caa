//! Which client stays with which backend.

use ballast_proto::admin::v1::{
    BindingChangeResponse, BindingKey, DeleteBindingRequest, GetBindingRequest, ListBindingsRequest,
    MoveBindingRequest, PinBindingRequest, binding_key,
};

use super::{Done, Run, page_size, wants_more};
use crate::{
    args::{BindingsCommand, BindingsListArgs, KeyArgs},
    failure::Exit,
    view::{BindingView, List},
};

/// Most bindings of a page.
const PAGE_MAX: u32 = 1000;

pub(super) async fn bindings(run: &mut Run<'_>, command: BindingsCommand) -> Done {
    match command {
        BindingsCommand::List(args) => list(run, args).await,
        BindingsCommand::Get { key } => {
            let client = run.client().await?;
            let request = GetBindingRequest { key: Some(named(key)), consistency: client.consistency() };
            let response = client.read(client.bindings().get(client.request(request))).await?;
            run.screen.show(&BindingView::from(&response.binding.unwrap_or_default()))?;
            Ok(Exit::Done)
        }
        BindingsCommand::Move { key, to, write } => {
            let client = run.client().await?;
            let request_id = write.request_id();
            let request = MoveBindingRequest {
                key: Some(named(key)),
                backend: to,
                request_id: request_id.clone(),
                message: write.message,
                validate_only: write.dry_run,
            };
            let response = client.write(&request_id, client.bindings().r#move(client.request(request))).await?;
            changed(run, response, write.dry_run, "moved")
        }
        BindingsCommand::Delete { key, allow_missing, write } => {
            let client = run.client().await?;
            let request_id = write.request_id();
            let request = DeleteBindingRequest {
                key: Some(named(key)),
                request_id: request_id.clone(),
                message: write.message,
                validate_only: write.dry_run,
                allow_missing,
            };
            let response = client.write(&request_id, client.bindings().delete(client.request(request))).await?;
            changed(run, response, write.dry_run, "deleted")
        }
        BindingsCommand::Pin { key, to, unpin, write } => {
            let client = run.client().await?;
            let request_id = write.request_id();
            let request = PinBindingRequest {
                key: Some(named(key)),
                backend: to.unwrap_or_default(),
                unpin,
                request_id: request_id.clone(),
                message: write.message,
                validate_only: write.dry_run,
            };
            let response = client.write(&request_id, client.bindings().pin(client.request(request))).await?;
            changed(run, response, write.dry_run, if unpin { "not pinned any more" } else { "pinned" })
        }
    }
}

pub(super) async fn list(run: &mut Run<'_>, args: BindingsListArgs) -> Done {
    let client = run.client().await?;
    let mut bindings: Vec<BindingView> = Vec::new();
    let mut page_token = String::new();
    let total = loop {
        let request = ListBindingsRequest {
            parent: parent(args.farm.as_deref().unwrap_or_default(), args.service.as_deref()),
            backend: args.backend.clone().unwrap_or_default(),
            pinned_only: args.pinned,
            page_size: page_size(args.limit, bindings.len(), PAGE_MAX),
            page_token,
            consistency: client.consistency(),
        };
        let page = client.read(client.bindings().list(client.request(request))).await?;
        bindings.extend(page.bindings.iter().map(BindingView::from));
        page_token = page.next_page_token;
        if !wants_more(args.limit, bindings.len(), &page_token) {
            break page.total_size;
        }
    };
    let shown = bindings.len();
    run.screen.show(&List(bindings))?;
    if !page_token_is_last(shown, args.limit, total) {
        run.screen.note(&format!("{shown} shown, the tables looked through have {total}; see more with --limit"));
    }
    Ok(Exit::Done)
}

/// Whether the list can be taken for all that there is.
fn page_token_is_last(shown: usize, limit: usize, total: u64) -> bool {
    limit == 0 || shown < limit || u64::try_from(shown).is_ok_and(|shown| shown >= total)
}

fn parent(farm: &str, service: Option<&str>) -> String {
    match service {
        Some(service) => format!("{farm}/{service}"),
        None => farm.to_owned(),
    }
}

fn named(args: KeyArgs) -> BindingKey {
    let key = match (args.key, args.hash) {
        (Some(text), _) => binding_key::Key::Text(text),
        (None, hash) => binding_key::Key::Hash(hash.unwrap_or_default()),
    };
    BindingKey { service: parent(&args.farm, args.service.as_deref()), key: Some(key) }
}

fn changed(run: &mut Run<'_>, response: BindingChangeResponse, dry_run: bool, done: &str) -> Done {
    let would = if dry_run { "would be " } else { "" };
    match &response.binding {
        Some(binding) => {
            let view = BindingView::from(binding);
            run.screen.note(&format!("{would}{done}"));
            run.screen.show(&view)?;
        }
        None => run.screen.note("there was no such binding"),
    }
    Ok(Exit::Done)
}
