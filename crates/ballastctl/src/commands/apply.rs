//! Changes of the document, and waiting until every node serves them and every VIP is held.

use std::time::Duration;

use ballast_proto::admin::v1::{
    ApplyRequest, ApplyResponse, ListenerProblem, NodeRole, NodeStatus, ReadConsistency, RollbackRequest,
    StatusRequest, StatusResponse,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Done, Run};
use crate::{
    args::{ApplyArgs, RollbackArgs},
    client::Client,
    failure::{Exit, Failure},
    input::Source,
    output::Screen,
    view::{ApplyView, PendingView, UnheldView},
};

/// How long a node may take to say which revision it serves.
const NODE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long listeners that cannot be bound are waited for, once their node has the revision. Whoever has the address
/// may be about to let go; a former owner of a VIP does within milliseconds.
const BIND_GRACE: Duration = Duration::from_secs(1);
/// How long VIPs that no node is fit to hold are waited for, once every node has the revision. A node asks the link for
/// some hundreds of milliseconds who has an address before it puts it there, and is unfit until then.
const HOLD_GRACE: Duration = Duration::from_secs(3);
/// Pause between two looks. A revision is on every node within 100 ms at the 99th percentile.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(super) async fn apply(run: &mut Run<'_>, args: ApplyArgs) -> Done {
    let source = Source::read(&args.files.files, run.input)?;
    let client = run.client().await?;
    let request_id = args.write.request_id();
    let request = ApplyRequest {
        source: source.text.clone(),
        expect_revision: args.expect,
        request_id: request_id.clone(),
        message: args.write.message,
        validate_only: args.write.dry_run,
        ..ApplyRequest::default()
    };
    let files: Vec<String> = args.files.files.iter().map(|file| format!("-f {file}")).collect();
    let response =
        client.write(&request_id, client.config().apply(client.request(request))).await.map_err(|failure| {
            let failure = failure.locate(|mistake| source.place(mistake));
            let remedies = failure.conflict().map(|diff| {
                let all = diff.is_shortened().then(|| format!("see all that changed: {}", diff.command()));
                let next = [
                    format!("put those changes into your file, then: ballastctl diff {}", files.join(" ")),
                    format!("and ballastctl apply {} --expect {}", files.join(" "), diff.to_revision),
                ];
                all.into_iter().chain(next).collect()
            });
            match remedies {
                Some(remedies) => failure.instead(remedies),
                None => failure,
            }
        })?;
    finish(&mut run.screen, &client, &response, args.write.dry_run, args.wait, |view| {
        view.warnings.iter_mut().for_each(|mistake| source.place(mistake));
    })
    .await
}

pub(super) async fn rollback(run: &mut Run<'_>, args: RollbackArgs) -> Done {
    let client = run.client().await?;
    let request_id = args.write.request_id();
    let request = RollbackRequest {
        revision: args.revision.unwrap_or(0),
        expect_revision: args.expect,
        request_id: request_id.clone(),
        message: args.write.message,
        validate_only: args.write.dry_run,
        ..RollbackRequest::default()
    };
    let response = client.write(&request_id, client.config().rollback(client.request(request))).await?;
    finish(&mut run.screen, &client, &response, args.write.dry_run, args.wait, |_| ()).await
}

/// Waits when that is wanted, and shows what became of it.
pub(super) async fn finish(
    screen: &mut Screen<'_>,
    client: &Client,
    response: &ApplyResponse,
    dry_run: bool,
    wait: bool,
    place: impl FnOnce(&mut ApplyView),
) -> Done {
    let mut view = ApplyView::new(response, dry_run);
    place(&mut view);
    for warning in &view.warnings {
        screen.note(&warning.line(screen.error_style));
    }
    if wait && !dry_run {
        let Seen { served, pending, unheld } = served_everywhere(client, view.revision).await;
        view.served_everywhere = Some(served);
        view.pending_nodes = pending;
        view.unheld_vips = unheld;
    }
    screen.show(&view)?;
    for node in view.pending_nodes.iter().filter(|node| !node.reachable) {
        screen.warn(&format!("{} cannot be reached and gets it when it is back: {}", node.node, node.reason));
    }
    match view.served_everywhere {
        Some(served) if !served || !view.unheld_vips.is_empty() => Err(not_everywhere(&view, client.timeout())),
        Some(_) | None => Ok(Exit::Done),
    }
}

/// What a revision that is in force lacks on nodes that can be reached.
fn not_everywhere(view: &ApplyView, waited: Duration) -> Failure {
    let ApplyView { revision, pending_nodes: pending, unheld_vips: unheld, .. } = view;
    let failed: Vec<_> = pending
        .iter()
        .flat_map(|node| {
            node.failed_listeners.iter().map(move |listener| format!("{}: listener {listener}", node.node))
        })
        .collect();
    let late: Vec<_> = pending
        .iter()
        .filter(|node| node.reachable && node.failed_listeners.is_empty())
        .map(|node| format!("{} ({})", node.node, node.reason))
        .collect();
    let in_force =
        format!("revision {revision} is committed and in force on every node that can be reached, but not all of its");
    let look = "look again: ballastctl cluster status";
    if late.is_empty() && !failed.is_empty() {
        let lines = failed.into_iter().chain(unheld.iter().map(UnheldView::line)).collect::<Vec<_>>().join("\n  ");
        return Failure::new(Exit::Error, format!("{in_force} listeners could be bound\n  {lines}"))
            .remedy("the nodes try again by themselves: free the address, or apply another one")
            .remedy(look);
    }
    if late.is_empty() && !unheld.is_empty() {
        let lines = unheld.iter().map(UnheldView::line).collect::<Vec<_>>().join("\n  ");
        return if unheld.iter().any(|vip| !vip.can_be_held) {
            Failure::new(Exit::Error, format!("{in_force} VIPs are held by a node that answers\n  {lines}"))
                .remedy(
                    "the nodes try again by themselves: mend what keeps one of them from it, or correct the document",
                )
                .remedy("look again: ballastctl vip list -o wide")
        } else {
            Failure::new(Exit::Unknown, format!("{in_force} VIPs were taken within {waited:?}\n  {lines}"))
                .remedy("the nodes go on by themselves; look again: ballastctl vip list -o wide")
        };
    }
    let who = if late.is_empty() { "the nodes could not be asked".to_owned() } else { late.join(", ") };
    Failure::new(
        Exit::Unknown,
        format!("revision {revision} is in force, but not served everywhere within {waited:?}: {who}"),
    )
    .remedy(format!("the nodes go on by themselves; {look}"))
}

/// What the last look found.
#[derive(Default)]
struct Seen {
    /// Every node that can be reached serves the revision.
    served: bool,
    /// Those that do not, and those that cannot be reached.
    pending: Vec<PendingView>,
    /// VIPs that nobody holds; only where no node is late, for one that has not got a VIP cannot hold it.
    unheld: Vec<UnheldView>,
}

impl Seen {
    fn new(answer: &StatusResponse, revision: u64) -> Self {
        let pending: Vec<_> = answer.nodes.iter().filter_map(|node| pending_node(node, revision)).collect();
        let late = pending.iter().any(is_late);
        let vips = answer.vips.iter().filter(|_| !late);
        Self {
            served: !pending.iter().any(|node| node.reachable),
            unheld: vips.filter_map(|vip| UnheldView::new(vip, &answer.nodes)).collect(),
            pending,
        }
    }

    /// For how long it is worth while to look again: no bound while time alone may mend it.
    fn grace(&self) -> Option<Duration> {
        if self.pending.iter().any(is_late) || self.unheld.iter().any(|vip| vip.can_be_held) {
            return None;
        }
        // A VIP is not held for want of its listener either.
        Some(if self.served { HOLD_GRACE } else { BIND_GRACE })
    }
}

fn is_late(node: &PendingView) -> bool {
    node.reachable && node.failed_listeners.is_empty()
}

/// Looks until every node that can be reached serves the revision and every VIP is held, or time is up.
async fn served_everywhere(client: &Client, revision: u64) -> Seen {
    let deadline = Instant::now() + client.timeout();
    let mut hopeless_since = None;
    let mut seen = Seen::default();
    loop {
        let request = StatusRequest {
            consistency: ReadConsistency::Stale.into(),
            node_timeout: prost_types::Duration::try_from(NODE_TIMEOUT).ok(),
        };
        if let Ok(answer) = timeout_at(deadline, client.cluster().status(client.request(request))).await
            && let Ok(answer) = answer
        {
            seen = Seen::new(&answer.into_inner(), revision);
            if seen.served && seen.unheld.is_empty() {
                return seen;
            }
            match seen.grace() {
                None => hopeless_since = None,
                Some(grace) => {
                    let since = *hopeless_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= grace {
                        return seen;
                    }
                }
            }
        }
        if Instant::now() + LOOK_AGAIN >= deadline {
            return seen;
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Why a node does not serve a revision; `None` when it does. A witness serves nothing.
fn pending_node(status: &NodeStatus, revision: u64) -> Option<PendingView> {
    let node = status.node.as_ref()?;
    let has_it = status.reachable && status.serving_revision >= revision;
    if node.role() == NodeRole::Witness || (has_it && status.listener_problems.is_empty()) {
        return None;
    }
    let reason = match (status.reachable, has_it) {
        (true, true) => "cannot bind all of its listeners".to_owned(),
        (true, false) => format!("serves revision {}", status.serving_revision),
        (false, _) => status.error.clone(),
    };
    let failed = status.listener_problems.iter().filter(|_| has_it);
    let failed_listeners = failed.map(in_words).collect();
    Some(PendingView { node: node.name.clone(), reachable: status.reachable, reason, failed_listeners })
}

fn in_words(problem: &ListenerProblem) -> String {
    let ListenerProblem { farm, listener, address, error } = problem;
    match farm.as_str() {
        "" => format!("{address} of the session store ({listener}): {error}"),
        farm => format!("{address} of farm {farm}: {error}"),
    }
}
