//! The history: everything that was changed, by whom and why.

use std::collections::BTreeSet;

use ballast_core::{
    ids::LogIndex,
    state::{Event, State},
};
use ballast_proto::admin::v1::{
    ListEventsRequest, ListEventsResponse, WatchEventsRequest, WatchEventsResponse, event_service_server::EventService,
};
use tonic::{Request, Response, Status};

use super::{
    Shared,
    watch::{Found, History, Streamed, watch},
};
use crate::{
    access::Caller,
    view::{self, Names, Page},
};

/// Events that a watch takes at once, while the state is held: about as many as the longest page.
const WATCHED_MAX: usize = 500;

/// Which events a caller wants.
struct Filter {
    kinds: BTreeSet<String>,
    subject: String,
    author: String,
    after: LogIndex,
}

impl Filter {
    fn new(kinds: &[String], subject: String, author: String, after: LogIndex) -> Self {
        // Each is compared with thousands of events, so those that are named twice are not compared twice.
        Self { kinds: kinds.iter().map(|kind| kind.to_ascii_lowercase()).collect(), subject, author, after }
    }

    fn takes(&self, names: &Names<'_>, event: &Event) -> bool {
        let kind = || format!("{:?}", event.kind).to_ascii_lowercase();
        event.index > self.after
            && (self.author.is_empty() || self.author == event.author.name)
            && (self.kinds.is_empty() || self.kinds.contains(&kind()))
            && (self.subject.is_empty() || self.subject == names.subject(event.subject))
    }
}

#[tonic::async_trait]
impl EventService for Shared {
    async fn list(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let ListEventsRequest { kinds, subject, author, after_index, page_size, page_token, consistency } =
            request.into_inner();
        let page = Page::parse(page_size, &page_token, 50, 500)?;
        let filter = Filter::new(&kinds, subject, author, LogIndex::new(after_index));
        let (header, (events, next_page_token)) = self
            .read_at(&caller, consistency, |state| {
                let names = Names::new(state);
                let wanted = view::events(state).into_iter().filter(|(_, event)| filter.takes(&names, event));
                page.cut(wanted, |(place, _)| *place, |(place, event)| names.event(place, event))
            })
            .await?;
        Ok(Response::new(ListEventsResponse { header: Some(header), events, next_page_token }))
    }

    type WatchStream = Streamed<WatchEventsResponse>;

    async fn watch(&self, request: Request<WatchEventsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let WatchEventsRequest { from_index, kinds, subject } = request.into_inner();
        let filter = Filter::new(&kinds, subject, String::new(), LogIndex::new(0));
        let look = move |state: &State, after: LogIndex| {
            let (events, until) = view::events_after(state, after, WATCHED_MAX);
            let names = Names::new(state);
            let wanted = events.into_iter().filter(|(_, event)| filter.takes(&names, event));
            let made = wanted.map(|(place, event)| {
                let event = Some(names.event(place, event));
                move |header| WatchEventsResponse { header: Some(header), event }
            });
            Found { made: made.collect(), until }
        };
        let history = History { look, whole_after: State::events_whole_after };
        Ok(Response::new(watch(self, &caller, from_index, history)))
    }
}
