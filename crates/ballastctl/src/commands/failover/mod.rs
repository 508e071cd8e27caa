//! What a failure would do, and trying one.

mod probe;
mod trial;

use ballast_proto::admin::v1::PlanFailoverRequest;

use super::{Done, Run};
use crate::{
    args::{FailoverArgs, FailoverCommand},
    failure::Exit,
    view::PlansView,
};

pub(super) async fn failover(run: &mut Run<'_>, args: FailoverArgs) -> Done {
    match args.command {
        Some(FailoverCommand::Test(args)) => trial::test(run, args).await,
        None => plan(run, args.node).await,
    }
}

/// Ends with an error when a VIP would be held by nobody, so that a script notices.
async fn plan(run: &mut Run<'_>, node: Option<String>) -> Done {
    let client = run.client().await?;
    let request = PlanFailoverRequest { node: node.unwrap_or_default(), consistency: client.consistency() };
    let response = client.read(client.vips().plan_failover(client.request(request))).await?;
    let plans = PlansView::from(&response);
    run.screen.show(&plans)?;
    Ok(if plans.leaves_any_vip() { Exit::Error } else { Exit::Done })
}
