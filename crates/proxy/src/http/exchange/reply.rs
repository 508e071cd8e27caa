//! The final response's head: checked, counted and rewritten for the client.
//!
//! Not here: its body ([`super::relay`]).

use ballast_core::{
    config::{Persistence, TableKey},
    health::Answer,
    ids::BackendId,
    persistence::KeyHash,
};

use super::{attempt::Attempt, sending::Sent};
use crate::{
    buf::{Buf, SMALL},
    http::{
        client::Client,
        cookie,
        ending::Ending,
        field::{self, Field},
        flow::Flow,
        forward::{self, Connection, ResponseContext},
        key,
        request::Framing,
        response,
    },
};

/// A response's head, rewritten.
pub(super) struct Reply {
    pub(super) flow: Flow,
    pub(super) status: u16,
    pub(super) keep: bool,
    pub(super) reusable: bool,
    pub(super) learns: Option<KeyHash>,
    pub(super) upgrades: bool,
    /// It has a challenge about the connection that it came on.
    pub(super) logs_in_connection: bool,
    /// Its body has to reach `response_rate_min`.
    pub(super) paced: bool,
}

impl Attempt<'_> {
    /// Rewrites the response's head and takes what is there of its body.
    pub(super) fn rewrite(
        &mut self,
        client: &Client,
        input: &mut Buf,
        head_len: usize,
        sent: Sent,
        set_cookie: Option<BackendId>,
    ) -> Result<Reply, Ending> {
        let worker = client.worker().clone();
        let mut fields = worker.fields.take();
        let result = self.rewrite_with(client, input, head_len, sent, set_cookie, &mut fields);
        *worker.fields.borrow_mut() = fields;
        result
    }

    fn rewrite_with(
        &mut self,
        client: &Client,
        input: &mut Buf,
        head_len: usize,
        sent: Sent,
        set_cookie: Option<BackendId>,
        fields: &mut Vec<Field>,
    ) -> Result<Reply, Ending> {
        let worker = client.worker();
        let head = &input.bytes()[..head_len];
        let response = response::parse(head, self.job.method, self.farm.head_limits.fields_max, fields)
            .map_err(Ending::Response)?;
        let upgrades = response.status == 101;
        if upgrades && !self.job.upgrade {
            return Err(Ending::UpgradeUnasked);
        }
        if upgrades && !response.upgrade.is_some_and(|u| u.of(head).eq_ignore_ascii_case(b"websocket")) {
            return Err(Ending::UpgradeUnasked);
        }
        let framing = match response.framing {
            Framing::Chunked | Framing::Close if self.job.http10 => Framing::Close,
            Framing::Close => Framing::Chunked,
            framing => framing,
        };
        let live = worker.live();
        let limit = self.farm.plan.limits.requests_per_connection_max;
        let keep = self.job.keep_alive
            && framing != Framing::Close
            && sent == Sent::All
            && !client.must_end()
            && (limit == 0 || client.requests < limit);
        let connection = match (upgrades, keep) {
            (true, _) => Connection::Upgrade,
            (false, true) if self.job.http10 => Connection::KeepTold,
            (false, true) => Connection::Keep,
            (false, false) => Connection::Close,
        };
        let mut cookie_line = Vec::new();
        if let (Some(backend), Some(Persistence::Cookie(config))) = (set_cookie, &self.service.plan.persistence) {
            cookie_line.reserve(160);
            cookie::write_set_cookie(
                &mut cookie_line,
                config,
                &live.plan.cookie_keys,
                self.service.plan.id,
                backend,
                worker.wall.secs(),
            );
        }
        let learns = match &self.service.plan.persistence {
            Some(Persistence::Table(table)) if matches!(table.key, TableKey::LearnedCookie(_)) => {
                key::of_response(&table.key, &live.plan.table_secret, self.service.plan.id, head, fields)
            }
            _ => None,
        };
        // Events come when something happens; their silence is ended by `between_bytes` alone.
        let paced = self.farm.plan.timeouts.response_rate_min > 0 && !is_event_stream(head, fields);
        let from = if upgrades { Framing::Close } else { response.framing };
        let mut flow = Flow::new(from, if upgrades { Framing::Close } else { framing }, 0);
        if input.len() > SMALL / 2 {
            worker.pool.lend_large(&mut flow.pending);
        } else {
            worker.pool.lend_small(&mut flow.pending);
        }
        let date = worker.wall.date();
        let context = ResponseContext { framing, connection, date: &date, set_cookie: &cookie_line };
        forward::write_response(flow.pending.vec(), head, &response, fields, &context);
        input.consume(head_len);
        flow.absorb(input).map_err(Ending::Response)?;
        worker.pool.reclaim(input);
        let reusable = response.keep_alive && response.framing != Framing::Close && sent == Sent::All;
        let (status, logs_in_connection) = (response.status, response.logs_in_connection);
        Ok(Reply { flow, status, keep, reusable, learns, upgrades, logs_in_connection, paced })
    }

    /// Counts the response.
    pub(super) fn count_status(&self, status: u16) {
        let counters = &self.service.state.counters;
        match status / 100 {
            1 => counters.responses_1xx_total.up(),
            2 => counters.responses_2xx_total.up(),
            3 => counters.responses_3xx_total.up(),
            4 => counters.responses_4xx_total.up(),
            _ => counters.responses_5xx_total.up(),
        }
        if status >= 500 {
            self.backend.counters.errors_total.up();
        }
    }

    /// Tells the backend's passive health of its answer.
    pub(super) fn observed(&self, client: &Client, answer: Answer) {
        client.worker().shared.ports.passive.observed(self.backend.id, answer);
    }
}

/// Whether a status is the backend's failure. A client that asks for what no server does gets 501 and 505 from a sound one.
pub(super) fn is_failure(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 505)
}

/// Whether the body is a stream of Server-Sent Events.
fn is_event_stream(head: &[u8], fields: &[Field]) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let mut types = fields.iter().filter(|f| f.name.of(head).eq_ignore_ascii_case(b"content-type"));
    types.any(|f| {
        let media = f.value.of(head).split(|b| *b == b';').next().unwrap_or_default();
        field::trim(media).eq_ignore_ascii_case(EVENTS)
    })
}
