//! The configuration document: apply, compare, look back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ballast_core::{
    config::{self, Document, Mistakes},
    ids::{LogIndex, Revision},
    state::{ApplyConfig, Command, Outcome, Refusal, State},
};
use ballast_proto::admin::v1::{
    ApplyRequest, ApplyResponse, ConfigDiff, DiffRequest, DiffResponse, ExportRequest, ExportResponse,
    GetConfigRequest, GetConfigResponse, GetRevisionRequest, GetRevisionResponse, ListRevisionsRequest,
    ListRevisionsResponse, Mistake, NodeStatus, OperatorState, PendingNode, ResponseHeader, RollbackRequest,
    ValidateRequest, ValidateResponse, WatchConfigRequest, WatchConfigResponse, config_service_server::ConfigService,
    diff_request::To, export_request::Format, mistake::Severity,
};
use futures_util::TryStreamExt as _;
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::{
    Shared,
    shared::check_request_id,
    watch::{Found, History, Streamed, watch},
};
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    view::{self, Kept, Page, Stored},
};

/// How long `wait` waits when the caller does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// How long a listener may take to be bound. Whoever has its address may be about to let go; a former owner of a VIP
/// does within milliseconds.
const BIND_GRACE: Duration = Duration::from_secs(1);

/// Time between two looks at the nodes while waiting for them. A revision is applied everywhere
/// within 100 ms at the 99th percentile.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// A document on its way in.
struct Proposal {
    source: String,
    document: Document,
    expect: Option<Revision>,
    request_id: String,
    message: String,
    validate_only: bool,
    wait: Option<Duration>,
    /// It was in force before.
    goes_back: bool,
}

#[tonic::async_trait]
impl ConfigService for Shared {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let expect = expected(request.expect_revision, &request.etag)?;
        let (source, document) = self.parse(request.source).await?;
        let document = document.map_err(|mistakes| error::invalid_config(&mistakes))?;
        let proposal = Proposal {
            source,
            document,
            expect,
            request_id: request.request_id,
            message: request.message,
            validate_only: request.validate_only,
            wait: wait_for(request.wait, request.wait_timeout)?,
            goes_back: false,
        };
        Ok(Response::new(self.put(&caller, proposal).await?))
    }

    async fn validate(&self, request: Request<ValidateRequest>) -> Result<Response<ValidateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (mut mistakes, omitted, warnings) = match self.parse(request.into_inner().source).await?.1 {
            Ok(document) => {
                let found = self.lease_against_jitter(&caller, &document).await;
                let (mistakes, doubts) = found.into_iter().partition(is_error);
                (mistakes, 0, [doubts, self.warnings(&document)].concat())
            }
            Err(mistakes) => (error::mistakes_to_proto(&mistakes), mistakes.omitted(), Vec::new()),
        };
        let mistakes_omitted = u32::try_from(omitted).unwrap_or(u32::MAX);
        let valid = mistakes.is_empty();
        mistakes.extend(warnings);
        Ok(Response::new(ValidateResponse { header: Some(self.header()), valid, mistakes, mistakes_omitted }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let text = match &request.to {
            Some(To::Source(source)) => {
                let document = self.parse(source.clone()).await?.1;
                Some(Arc::new(document.map_err(|mistakes| error::invalid_config(&mistakes))?))
            }
            Some(To::ToRevision(_)) | None => None,
        };
        let (header, sides) = self
            .read_at(&caller, request.consistency, |state| {
                let from = match request.from_revision {
                    Some(revision) => Some(view::kept(state, Revision::new(revision))?),
                    None => view::in_force(state),
                };
                let to = match &request.to {
                    Some(To::ToRevision(revision)) => Some(view::kept(state, Revision::new(*revision))?),
                    Some(To::Source(_)) => None,
                    None => view::in_force(state),
                };
                Ok::<_, ApiError>((from, to))
            })
            .await?;
        let (from, to) = sides?;
        let warnings = text.as_ref().map(|document| self.warnings(document)).unwrap_or_default();
        let compare = move || {
            let from = from.map(Kept::read).transpose()?;
            let to = to.map(Kept::read).transpose()?;
            Ok::<_, ApiError>(match (&request.to, text, &to) {
                (Some(To::Source(source)), Some(document), _) => view::diff(from.as_ref(), None, source, &document),
                (_, _, Some(to)) => view::diff(from.as_ref(), Some(to), &to.source, &to.document),
                _ => ConfigDiff::default(),
            })
        };
        let diff = self.parsing.run(compare).await??;
        Ok(Response::new(DiffResponse { header: Some(header), diff: Some(diff), warnings }))
    }

    async fn get(&self, request: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (header, (revision, operator_state)) = self
            .read_at(&caller, request.into_inner().consistency, |state| {
                (
                    state.revisions().next().map(|record| view::revision(state, record, true)),
                    view::operator_state(state),
                )
            })
            .await?;
        let operator_state = OperatorState { pinned_bindings: self.count_pinned().await, ..operator_state };
        Ok(Response::new(GetConfigResponse { header: Some(header), revision, operator_state: Some(operator_state) }))
    }

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<ExportResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, kept) = self
            .read_at(&caller, request.consistency, |state| match request.revision {
                Some(revision) => view::kept(state, Revision::new(revision)),
                None => view::in_force(state).ok_or_else(nothing_applied),
            })
            .await?;
        let stored = kept?.read()?;
        let text = match Format::try_from(request.format) {
            Ok(Format::Unspecified | Format::Source) => stored.source,
            Ok(Format::Yaml) => config::to_yaml(&stored.document),
            Ok(Format::Json) => stored.document.to_canonical_json(),
            Err(_) => return Err(error::invalid("format", format!("{} is not a form", request.format), "").into()),
        };
        Ok(Response::new(ExportResponse { header: Some(header), revision: stored.revision.get(), text }))
    }

    async fn list_revisions(
        &self,
        request: Request<ListRevisionsRequest>,
    ) -> Result<Response<ListRevisionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, 50, 500)?;
        let (header, (revisions, next_page_token)) = self
            .read_at(&caller, request.consistency, |state| {
                page.cut(
                    state.revisions(),
                    |record| (record.revision.get(), 0),
                    |record| view::revision(state, record, false),
                )
            })
            .await?;
        Ok(Response::new(ListRevisionsResponse { header: Some(header), revisions, next_page_token }))
    }

    async fn get_revision(
        &self,
        request: Request<GetRevisionRequest>,
    ) -> Result<Response<GetRevisionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, found) = self
            .read_at(&caller, request.consistency, |state| view::kept(state, Revision::new(request.revision)))
            .await?;
        Ok(Response::new(GetRevisionResponse { header: Some(header), revision: Some(found?.message(true)) }))
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<ApplyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (_, found) = self
            .read_at(&caller, 0, |state| {
                let current = state.revisions().next().ok_or_else(nothing_applied)?.revision;
                let wanted = match request.revision {
                    0 => state.revisions().nth(1).map(|record| record.revision),
                    revision => Some(Revision::new(revision)),
                };
                let wanted = wanted.ok_or_else(|| {
                    error::status(
                        ErrorCode::Precondition,
                        "there is no earlier revision to go back to",
                        "configuration",
                    )
                })?;
                Ok::<_, ApiError>((view::kept(state, wanted)?, current))
            })
            .await?;
        let (kept, current) = found?;
        let stored = kept.read()?;
        // It was right when it was applied; by what this release knows it may not be.
        let document = stored.document.clone();
        let checked = self.parsing.run(move || config::decode_canonical(&document.to_canonical_json())).await?;
        checked.map_err(|mistakes| error::invalid_config(&mistakes))?;
        let message = match request.message.as_str() {
            "" => format!("rollback to revision {}", stored.revision),
            message => format!("{message} (rollback to revision {})", stored.revision),
        };
        let proposal = Proposal {
            source: stored.source,
            document: (*stored.document).clone(),
            // Without a revision of the caller's own, at least nothing is undone that was applied meanwhile.
            expect: Some(request.expect_revision.map_or(current, Revision::new)),
            request_id: request.request_id,
            message,
            validate_only: request.validate_only,
            wait: wait_for(request.wait, request.wait_timeout)?,
            goes_back: true,
        };
        Ok(Response::new(self.put(&caller, proposal).await?))
    }

    type WatchStream = Streamed<WatchConfigResponse>;

    async fn watch(&self, request: Request<WatchConfigRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let include_source = request.include_source;
        // One entry at a time: of what a client is slow to read nothing is kept for it.
        let look = |state: &State, after: LogIndex| {
            let (steps, until) = view::next_steps(state, after);
            let made = steps.into_iter().map(|step| move |header: ResponseHeader| (header, step));
            Found { made: made.collect(), until }
        };
        let history = History { look, whole_after: State::revisions_whole_after };
        let steps = watch(self, &caller, request.from_index, history);
        let bench = Arc::clone(&self.telling);
        let told: Self::WatchStream = Box::pin(steps.and_then(move |(header, step)| {
            let bench = Arc::clone(&bench);
            async move { bench.in_turn(move || step.tell(header, include_source)).await.map_err(Status::from) }
        }));
        Ok(Response::new(told))
    }
}

impl Shared {
    /// Reads a document, one at a time and beside the runtime. Gives the text back.
    async fn parse(&self, source: String) -> Result<(String, Result<Document, Mistakes>), ApiError> {
        if source.len() > config::TEXT_BYTES_MAX {
            // Refused without being read.
            let refused = config::parse(&source);
            return Ok((source, refused));
        }
        self.parsing
            .run(move || {
                let document = config::parse(&source);
                (source, document)
            })
            .await
    }

    async fn put(&self, caller: &Caller, proposal: Proposal) -> Result<ApplyResponse, ApiError> {
        check_request_id(&proposal.request_id)?;
        if let Some(mistake) = self.address_rehomed(&proposal.document) {
            return Err(error::invalid_now(mistake));
        }
        let mut warnings = self.lease_against_jitter(caller, &proposal.document).await;
        if let Some(refused) = warnings.iter().position(is_error).filter(|_| !proposal.goes_back) {
            return Err(error::invalid_now(warnings.swap_remove(refused)));
        }
        warnings.iter_mut().for_each(|found| found.severity = Severity::Warning.into());
        warnings.extend(self.warnings(&proposal.document));
        if proposal.validate_only {
            let (header, current) = self.read_at(caller, 0, view::in_force).await?;
            return self.rehearse(header, current.map(Kept::read).transpose()?, &proposal, warnings);
        }
        // As this node knows it. If another node is quicker, the log refuses what `expect` names,
        // and without `expect` the answer's difference is to what this node knew.
        let before = self.read(view::in_force).map(Kept::read).transpose()?;
        let document = proposal.document.to_canonical_json();
        let request_id = request_of(&caller.name, &document, &proposal.request_id);
        let command = Command::ApplyConfig(Box::new(ApplyConfig {
            document,
            rules: config::rules::RULES,
            source: proposal.source.clone(),
            expect: proposal.expect,
            request_id,
            author: caller.author(&proposal.message),
        }));
        let applied = self.parts.propose.propose(command, caller.remaining()).await?;
        match applied.outcome {
            Outcome::Applied { revision, changed } => {
                let answer = self.answer(caller, &proposal, before, applied.index, revision, changed).await?;
                Ok(ApplyResponse { warnings, ..answer })
            }
            Outcome::Refused(Refusal::RevisionConflict { expected, found }) => Err(self.conflict(expected, found)),
            Outcome::Refused(refusal) => Err(refusal.into()),
            outcome => {
                Err(error::status(ErrorCode::Internal, format!("apply came out as {outcome:?}"), "configuration"))
            }
        }
    }

    /// What applying would do.
    fn rehearse(
        &self,
        header: ResponseHeader,
        current: Option<Stored>,
        proposal: &Proposal,
        warnings: Vec<Mistake>,
    ) -> Result<ApplyResponse, ApiError> {
        let revision = current.as_ref().map_or(Revision::new(0), |stored| stored.revision);
        if let Some(expected) = proposal.expect
            && expected != revision
        {
            return Err(self.conflict(expected, revision));
        }
        Ok(ApplyResponse {
            header: Some(header),
            revision: revision.get(),
            etag: view::config_etag(revision),
            changed: current.as_ref().is_none_or(|stored| *stored.document != proposal.document),
            log_index: 0,
            diff: Some(view::diff(current.as_ref(), None, &proposal.source, &proposal.document)),
            warnings,
            pending_nodes: Vec::new(),
        })
    }

    async fn answer(
        &self,
        caller: &Caller,
        proposal: &Proposal,
        before: Option<Stored>,
        index: LogIndex,
        revision: Revision,
        changed: bool,
    ) -> Result<ApplyResponse, ApiError> {
        let (older, newer) = self.read(|state| (view::older_than(state, revision), view::kept(state, revision).ok()));
        let (older, newer) = (readable(older), readable(newer));
        let diff = match (&newer, changed) {
            (Some(newer), true) => view::diff(older.as_ref(), Some(newer), &newer.source, &newer.document),
            _ => view::diff(before.as_ref(), before.as_ref(), &proposal.source, &proposal.document),
        };
        let pending_nodes = match proposal.wait {
            Some(wait) => self.wait_until_served(caller, revision, wait).await,
            None => Vec::new(),
        };
        Ok(ApplyResponse {
            header: Some(self.header()),
            revision: revision.get(),
            etag: view::config_etag(revision),
            changed,
            log_index: index.get(),
            diff: Some(diff),
            warnings: Vec::new(),
            pending_nodes,
        })
    }

    /// What changed since the revision that the caller knew.
    fn conflict(&self, expected: Revision, found: Revision) -> ApiError {
        let (older, newer) = self.read(|state| (view::kept(state, expected).ok(), view::kept(state, found).ok()));
        let (older, newer) = (readable(older), readable(newer));
        let refusal = Refusal::RevisionConflict { expected, found };
        match newer {
            Some(newer) if older.is_some() || expected == Revision::new(0) => {
                let diff = view::diff(older.as_ref(), Some(&newer), &newer.source, &newer.document);
                ApiError::from(refusal).conflict(diff)
            }
            _ => refusal.into(),
        }
    }

    /// Waits until every node that can be reached serves a revision. The nodes that do not.
    async fn wait_until_served(&self, caller: &Caller, revision: Revision, wait: Duration) -> Vec<PendingNode> {
        let until = (Instant::now() + wait).min(caller.deadline);
        let bound_by = (Instant::now() + BIND_GRACE).min(until);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let nodes = self.ask_nodes(None, left.min(Duration::from_secs(1))).await;
            let pending: Vec<PendingNode> = nodes.into_iter().filter_map(|status| pending(status, revision)).collect();
            // Listeners that fail to be bound are tried again for ever: after a moment nobody waits for them.
            let late = pending.iter().any(|node| node.reachable && node.listener_problems.is_empty());
            let failing = pending.iter().any(|node| !node.listener_problems.is_empty());
            let now = Instant::now() + WAIT_STEP;
            if !(late && now < until || failing && now < bound_by) {
                return pending;
            }
            sleep(WAIT_STEP).await;
        }
    }
}

/// What a request to apply is known by in the log, on every node. An id stands for one request of one caller: with another
/// document, or from another caller, it is another. Taken alone it would answer a second document, sent under an id that was
/// used before, with the revision of the first.
fn request_of(caller: &str, document: &str, id: &str) -> String {
    if id.is_empty() {
        return uuid::Uuid::new_v4().to_string();
    }
    let mut hasher = blake3::Hasher::new();
    for part in [caller, id, document] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn is_error(mistake: &Mistake) -> bool {
    mistake.severity() == Severity::Error
}

/// Why a node does not serve a revision; `None` when it does.
fn pending(status: NodeStatus, revision: Revision) -> Option<PendingNode> {
    let node = status.node.unwrap_or_default();
    let serves = status.serving_revision >= revision.get();
    let reason = match (status.reachable, serves) {
        (false, _) => status.error,
        (true, false) => format!("serves revision {}", status.serving_revision),
        (true, true) if status.listener_problems.is_empty() => return None,
        (true, true) => "has it, but cannot bind all of its listeners".to_owned(),
    };
    Some(PendingNode {
        node_id: node.id,
        name: node.name,
        reason,
        reachable: status.reachable,
        listener_problems: if status.reachable && serves { status.listener_problems } else { Vec::new() },
    })
}

fn readable(kept: Option<Kept>) -> Option<Stored> {
    kept?.read().ok()
}

fn nothing_applied() -> ApiError {
    error::status(ErrorCode::NotFound, "no configuration was applied yet", "configuration")
        .remedy("apply one with `ballastctl apply -f FILE`")
}

fn expected(revision: Option<u64>, etag: &str) -> Result<Option<Revision>, ApiError> {
    let by_etag = match etag {
        "" => None,
        etag => Some(view::revision_of_etag(etag).ok_or_else(|| {
            error::invalid("etag", format!("{etag:?} is not the etag of a document"), "use the one that `get` answered")
        })?),
    };
    match (revision.map(Revision::new), by_etag) {
        (Some(revision), Some(etag)) if revision != etag => {
            Err(error::invalid("expect_revision", "it says another revision than etag", "give one of them"))
        }
        (revision, etag) => Ok(revision.or(etag)),
    }
}

fn wait_for(wait: bool, timeout: Option<prost_types::Duration>) -> Result<Option<Duration>, ApiError> {
    if !wait {
        return Ok(None);
    }
    view::duration("wait_timeout", timeout).map(|timeout| Some(timeout.unwrap_or(WAIT_DEFAULT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stands_for_one_document_of_one_caller() {
        let first = request_of("ci", "{\"version\":1}", "deploy");
        assert_eq!(request_of("ci", "{\"version\":1}", "deploy"), first);
        assert_ne!(request_of("ci", "{\"version\":1,\"farms\":[]}", "deploy"), first);
        assert_ne!(request_of("ops", "{\"version\":1}", "deploy"), first);
        assert_ne!(request_of("ci", "{\"version\":1}", "deplo"), first);
        assert_ne!(request_of("ci", "", ""), request_of("ci", "", ""), "without one, each is its own");
    }
}
