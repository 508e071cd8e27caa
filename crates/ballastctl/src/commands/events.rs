//! What was changed, by whom and why.

use ballast_proto::admin::v1::{ListEventsRequest, WatchEventsRequest};

use super::{
    Done, Run,
    follow::{Feed, follow},
    page_size, wants_more,
};
use crate::{
    args::EventsArgs,
    failure::Exit,
    view::{EventView, List},
};

/// Most events of a page.
const PAGE_MAX: u32 = 500;
/// Most events of a list when nobody says how many.
const LIMIT: usize = 50;

pub(super) async fn events(run: &mut Run<'_>, args: EventsArgs) -> Done {
    let client = run.client().await?;
    if args.follow {
        let feed = Feed { since: args.since, limit: args.limit.filter(|limit| *limit > 0) };
        return follow(
            run,
            client,
            feed,
            |client, from_index| {
                let request =
                    WatchEventsRequest { from_index, kinds: args.kinds.clone(), subject: args.subject.clone() };
                async move { client.events().watch(request).await }
            },
            |message| {
                let event = message.event.as_ref()?;
                Some((event.change.as_ref()?.log_index, EventView::from(event)))
            },
        )
        .await;
    }
    let limit = args.limit.unwrap_or(LIMIT);
    let mut events: Vec<EventView> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEventsRequest {
            kinds: args.kinds.clone(),
            subject: args.subject.clone(),
            author: args.author.clone(),
            after_index: args.since.unwrap_or(0),
            page_size: page_size(limit, events.len(), PAGE_MAX),
            page_token,
            consistency: client.consistency(),
        };
        let page = client.read(client.events().list(client.request(request))).await?;
        events.extend(page.events.iter().map(EventView::from));
        page_token = page.next_page_token;
        if !wants_more(limit, events.len(), &page_token) {
            break;
        }
    }
    run.screen.show(&List(events))?;
    Ok(Exit::Done)
}
