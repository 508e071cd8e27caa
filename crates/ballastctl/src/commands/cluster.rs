//! The cluster and its nodes.

use std::time::Duration;

use ballast_proto::admin::v1::{
    CreateJoinTokenRequest, DemoteNodeRequest, DrainNodeRequest, EnableNodeRequest, NodeRole, PromoteNodeRequest,
    ReadConsistency, RemoveNodeRequest, RotateCookieKeyRequest, SnapshotRequest, StatusRequest, StatusResponse,
    TransferLeaderRequest,
};
use tokio::time::sleep;

use super::{Done, Run};
use crate::{
    args::{ClusterCommand, JoinTokenArgs, NodeArgs, NodeCommand},
    client::Client,
    failure::{Exit, Failure},
    view::{
        CheckStatus, CheckView, CookieKeyView, List, NodeChangeView, NodeView, SnapshotView, StatusView, TokenView,
        TransferView,
    },
};

pub(super) async fn cluster(run: &mut Run<'_>, command: ClusterCommand) -> Done {
    if matches!(command, ClusterCommand::Status { check: true }) {
        return check(run).await;
    }
    let client = run.client().await?;
    match command {
        ClusterCommand::Status { .. } => {
            let status = status(&client).await?;
            run.screen.show(&StatusView::from(&status))?;
        }
        ClusterCommand::Snapshot { node } => {
            let request_id = uuid::Uuid::new_v4().to_string();
            let request = SnapshotRequest { node: node.unwrap_or_default(), request_id: request_id.clone() };
            let response = client.write(&request_id, client.cluster().snapshot(client.request(request))).await?;
            run.screen.show(&SnapshotView::from(&response))?;
        }
        ClusterCommand::RotateCookieKey { message } => {
            let request_id = uuid::Uuid::new_v4().to_string();
            let request = RotateCookieKeyRequest { request_id: request_id.clone(), message };
            let response =
                client.write(&request_id, client.cluster().rotate_cookie_key(client.request(request))).await?;
            run.screen.show(&CookieKeyView::from(&response))?;
        }
        ClusterCommand::TransferLeader { to, message } => {
            let request_id = uuid::Uuid::new_v4().to_string();
            let request =
                TransferLeaderRequest { node: to.unwrap_or_default(), request_id: request_id.clone(), message };
            let response = client.write(&request_id, client.cluster().transfer_leader(client.request(request))).await?;
            run.screen.show(&TransferView::from(&response))?;
        }
    }
    Ok(Exit::Done)
}

/// What is under way is over within: a VIP that was just applied or moves, voters that change, a node that was slow once.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// Monitoring reads the first line of standard output and the exit code, also when nobody could be asked.
async fn check(run: &mut Run<'_>) -> Done {
    let mut answer = ask(run).await;
    if is_to_settle(&answer) {
        sleep(SETTLED_WITHIN).await;
        answer = settled(answer, ask(run).await);
    }
    let view = match &answer {
        Ok(status) => CheckView::from(status),
        Err(failure) => CheckView::from(failure),
    };
    run.screen.show(&view)?;
    if let Err(failure) = &answer {
        run.screen.fail(failure);
    }
    Ok(view.status.exit())
}

/// Whether it is worth asking again. A question that nobody answered has taken its time already.
fn is_to_settle(answer: &Result<StatusResponse, Failure>) -> bool {
    answer.as_ref().is_ok_and(|status| CheckView::from(status).status != CheckStatus::Ok)
}

/// Which of two answers counts: the second, unless there is none. What was said is more than that nobody says it again.
fn settled(
    first: Result<StatusResponse, Failure>,
    second: Result<StatusResponse, Failure>,
) -> Result<StatusResponse, Failure> {
    second.or(first)
}

async fn ask(run: &Run<'_>) -> Result<StatusResponse, Failure> {
    let client = run.client().await?;
    status(&client).await
}

/// The whole picture. Stale unless asked otherwise: a status is wanted most when there is no quorum,
/// and each node speaks for itself in it anyway.
async fn status(client: &Client) -> Result<StatusResponse, Failure> {
    let request = StatusRequest { consistency: client.consistency_or(ReadConsistency::Stale), node_timeout: None };
    client.read(client.cluster().status(client.request(request))).await
}

pub(super) async fn nodes(run: &mut Run<'_>) -> Done {
    let client = run.client().await?;
    let status = status(&client).await?;
    run.screen.show(&status.nodes.iter().collect::<List<NodeView>>())?;
    Ok(Exit::Done)
}

/// A request about a node; those of all verbs have the same fields.
macro_rules! node_request {
    ($request:ident, $args:expr, $request_id:expr $(, $field:ident: $value:expr)*) => {
        $request {
            node: $args.node.clone(),
            request_id: $request_id.clone(),
            message: $args.write.message.clone(),
            validate_only: $args.write.dry_run,
            etag: String::new(),
            $($field: $value,)*
        }
    };
}

pub(super) async fn node(run: &mut Run<'_>, command: NodeCommand) -> Done {
    let (args, action, force) = match command {
        NodeCommand::List => return nodes(run).await,
        NodeCommand::JoinToken(args) => return join_token(run, args).await,
        NodeCommand::Drain(args) => (args, "drain", false),
        NodeCommand::Enable(args) => (args, "enable", false),
        NodeCommand::Promote(args) => (args, "promote", false),
        NodeCommand::Demote(args) => (args, "demote", false),
        NodeCommand::Remove { node, force } => (node, "remove", force),
    };
    let client = run.client().await?;
    let response = change(&client, &args, action, force).await?;
    run.screen.show(&NodeChangeView::new(&response, action, args.write.dry_run))?;
    Ok(Exit::Done)
}

async fn change(
    client: &Client,
    args: &NodeArgs,
    action: &'static str,
    force: bool,
) -> Result<ballast_proto::admin::v1::NodeChangeResponse, Failure> {
    let id = args.write.request_id();
    let mut service = client.cluster();
    match action {
        "drain" => {
            client.write(&id, service.drain_node(client.request(node_request!(DrainNodeRequest, args, id)))).await
        }
        "enable" => {
            client.write(&id, service.enable_node(client.request(node_request!(EnableNodeRequest, args, id)))).await
        }
        "promote" => {
            client.write(&id, service.promote_node(client.request(node_request!(PromoteNodeRequest, args, id)))).await
        }
        "demote" => {
            client.write(&id, service.demote_node(client.request(node_request!(DemoteNodeRequest, args, id)))).await
        }
        _ => {
            let request = node_request!(RemoveNodeRequest, args, id, force: force);
            client.write(&id, service.remove_node(client.request(request))).await
        }
    }
}

async fn join_token(run: &mut Run<'_>, args: JoinTokenArgs) -> Done {
    let client = run.client().await?;
    let request_id = uuid::Uuid::new_v4().to_string();
    let request = CreateJoinTokenRequest {
        ttl: prost_types::Duration::try_from(args.ttl).ok(),
        role: if args.witness { NodeRole::Witness } else { NodeRole::Full }.into(),
        request_id: request_id.clone(),
        message: args.message,
    };
    let response = client.write(&request_id, client.cluster().create_join_token(client.request(request))).await?;
    let view = TokenView { token: response.token, expire_time: response.expire_time.as_ref().map(ToString::to_string) };
    run.screen.show(&view)?;
    if run.interactive {
        let until = view.expire_time.as_deref().map(crate::view::seconds).unwrap_or_default();
        run.screen.note(&format!("good for one node until {until}; on the new node: ballastd join --token TOKEN"));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(problems: &[&str]) -> Result<StatusResponse, Failure> {
        let problems = problems.iter().map(|problem| (*problem).to_owned()).collect();
        Ok(StatusResponse { problems, ..StatusResponse::default() })
    }

    fn nobody() -> Result<StatusResponse, Failure> {
        Err(Failure::new(Exit::Unavailable, "nobody answers"))
    }

    #[test]
    fn only_what_is_not_well_is_asked_for_again() {
        assert!(!is_to_settle(&said(&[])));
        assert!(is_to_settle(&said(&["a VIP moves"])));
        assert!(!is_to_settle(&nobody()));
    }

    #[test]
    fn the_second_answer_counts_if_there_is_one() {
        let problems = |answer: Result<StatusResponse, _>| answer.map(|status| status.problems).unwrap_or_default();
        assert_eq!(problems(settled(said(&["a VIP moves"]), said(&[]))), [""; 0]);
        assert_eq!(problems(settled(said(&["a VIP moves"]), said(&["nobody holds it"]))), ["nobody holds it"]);
        assert_eq!(problems(settled(said(&["no leader"]), nobody())), ["no leader"]);
    }
}
