//! Virtual addresses, and who holds them.

use std::time::Duration;

use ballast_proto::admin::v1::{
    ListVipTransitionsRequest, ListVipsRequest, MoveVipRequest, NodeStatus, ReadConsistency, StatusRequest,
    WatchVipsRequest,
};

use super::{
    Done, Run,
    follow::{Feed, follow},
    page_size, wants_more,
};
use crate::{
    args::{VipCommand, VipMoveArgs},
    client::Client,
    failure::{Exit, Failure},
    view::{List, TransitionView, VipView},
};

/// Most changes of hands of a page.
const PAGE_MAX: u32 = 500;
/// How long a node may take to say what it holds. What is left of a lease is of use only when it
/// is young, and a list should not wait for a node that is gone.
const NODE_TIMEOUT: Duration = Duration::from_millis(300);

pub(super) async fn vip(run: &mut Run<'_>, command: VipCommand) -> Done {
    match command {
        VipCommand::List => list(run).await,
        VipCommand::Move(args) => move_to(run, args).await,
        VipCommand::History { vip, limit } => history(run, vip, limit).await,
        VipCommand::Watch { vip, since, limit } => {
            let client = run.client().await?;
            let vip = vip.unwrap_or_default();
            follow(
                run,
                client,
                Feed { since, limit },
                |client, from_index| {
                    let vip = vip.clone();
                    async move { client.vips().watch(WatchVipsRequest { from_index, vip }).await }
                },
                |message| {
                    let transition = message.transition.as_ref()?;
                    Some((transition.change.as_ref()?.log_index, TransitionView::from(transition)))
                },
            )
            .await
        }
    }
}

pub(super) async fn list(run: &mut Run<'_>) -> Done {
    let client = run.client().await?;
    let request = ListVipsRequest { consistency: client.consistency() };
    let mut vips = client.vips();
    let (listed, nodes) = tokio::join!(client.read(vips.list(client.request(request))), holders(&client));
    let views = listed?.vips.iter().map(|vip| VipView::new(vip, &nodes)).collect();
    run.screen.show(&List::<VipView>(views))?;
    Ok(Exit::Done)
}

/// What each node says that it holds. Without it the list is the log's, which is enough.
async fn holders(client: &Client) -> Vec<NodeStatus> {
    let request = StatusRequest {
        consistency: ReadConsistency::Stale.into(),
        node_timeout: prost_types::Duration::try_from(NODE_TIMEOUT).ok(),
    };
    client.read(client.cluster().status(client.request(request))).await.map(|status| status.nodes).unwrap_or_default()
}

async fn move_to(run: &mut Run<'_>, args: VipMoveArgs) -> Done {
    let client = run.client().await?;
    let request_id = args.write.request_id();
    let to = args.to.unwrap_or_default();
    let request = MoveVipRequest {
        vip: args.vip,
        node: to.clone(),
        request_id: request_id.clone(),
        message: args.write.message,
        validate_only: args.write.dry_run,
        etag: String::new(),
        wait: args.wait,
        // The node must have time to answer that it waited in vain.
        wait_timeout: prost_types::Duration::try_from(client.timeout() * 4 / 5).ok().filter(|_| args.wait),
    };
    let response = client.write(&request_id, client.vips().r#move(client.request(request))).await?;
    let view = VipView::new(&response.vip.unwrap_or_default(), &[]);
    let would = if args.write.dry_run { "would be accepted: " } else { "" };
    // By its name when the record has it: an operator may have given an id.
    let at = view.wish.as_deref().filter(|_| !args.write.dry_run).unwrap_or(&to);
    let done =
        if to.is_empty() { "goes where the placement wants it".to_owned() } else { format!("is wanted at {at}") };
    run.screen.note(&format!("{would}{} {done}", view.name));
    run.screen.show(&List(vec![view]))?;
    if args.wait && !args.write.dry_run && !response.arrived {
        return Err(Failure::new(Exit::Unknown, "the move is recorded, but the VIP is not there yet")
            .remedy("see who holds it and why: ballastctl vip list, ballastctl vip history")
            .remedy("see what each node says of it: ballastctl vip list -o wide"));
    }
    Ok(Exit::Done)
}

async fn history(run: &mut Run<'_>, vip: Option<String>, limit: usize) -> Done {
    let client = run.client().await?;
    let vip = vip.unwrap_or_default();
    let mut transitions: Vec<TransitionView> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListVipTransitionsRequest {
            vip: vip.clone(),
            page_size: page_size(limit, transitions.len(), PAGE_MAX),
            page_token,
            consistency: client.consistency(),
        };
        let page = client.read(client.vips().list_transitions(client.request(request))).await?;
        transitions.extend(page.transitions.iter().map(TransitionView::from));
        page_token = page.next_page_token;
        if !wants_more(limit, transitions.len(), &page_token) {
            break;
        }
    }
    if let Some(first) = transitions.first().filter(|first| !vip.is_empty() && first.removed) {
        run.screen.note(&format!("VIP {} is removed from the configuration; this is what it was", first.vip));
    }
    run.screen.show(&List(transitions))?;
    Ok(Exit::Done)
}
