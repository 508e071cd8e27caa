//! The history: everything that was changed, by whom and why.

use ballast_core::{ids::LogIndex, state::State};
use ballast_proto::admin::v1::{
    Event, ListEventsRequest, ListEventsResponse, WatchEventsRequest, WatchEventsResponse,
    event_service_server::EventService,
};
use tonic::{Request, Response, Status};

use super::{
    Shared,
    watch::{History, Streamed, watch},
};
use crate::{
    access::Caller,
    view::{self, Page},
};

/// Which events a caller wants.
struct Filter {
    kinds: Vec<String>,
    subject: String,
    author: String,
    after: LogIndex,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        let change = event.change.as_ref();
        (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.eq_ignore_ascii_case(&event.kind)))
            && (self.subject.is_empty() || self.subject == event.subject)
            && (self.author.is_empty() || change.is_some_and(|change| change.author == self.author))
            && change.is_some_and(|change| change.log_index > self.after.get())
    }
}

#[tonic::async_trait]
impl EventService for Shared {
    async fn list(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let ListEventsRequest { kinds, subject, author, after_index, page_size, page_token, consistency } =
            request.into_inner();
        let page = Page::parse(page_size, &page_token, 50, 500)?;
        let filter = Filter { kinds, subject, author, after: LogIndex::new(after_index) };
        let (header, (events, next_page_token)) = self
            .read_at(&caller, consistency, |state| {
                let wanted = view::events(state).into_iter().filter(|event| filter.takes(event));
                page.cut(wanted, view::event_place, |event| event)
            })
            .await?;
        Ok(Response::new(ListEventsResponse { header: Some(header), events, next_page_token }))
    }

    type WatchStream = Streamed<WatchEventsResponse>;

    async fn watch(&self, request: Request<WatchEventsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let WatchEventsRequest { from_index, kinds, subject } = request.into_inner();
        let filter = Filter { kinds, subject, author: String::new(), after: LogIndex::new(0) };
        let look = move |state: &State, after| {
            let mut events = view::events_after(state, after);
            events.retain(|event| filter.takes(event));
            events
                .into_iter()
                .map(|event| {
                    let index = LogIndex::new(event.change.as_ref().map_or(0, |change| change.log_index));
                    (index, move |header| WatchEventsResponse { header: Some(header), event: Some(event) })
                })
                .collect()
        };
        let history = History { look, whole_after: State::events_whole_after };
        Ok(Response::new(watch(self, &caller, from_index, history)))
    }
}
