//! The session store: which keys there are, what they take, and their removal.
//!
//! Reads go to [`Sessions`], writes through the log as [`Command::RemoveSessions`], which the history tells of. Keys are
//! as good as passwords, so they are in no log line and in no error; values leave only for an administrator who asks.
//!
//! Not here: what applications do (`ballast-sessions`).

use std::{
    cmp::Reverse,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use ballast_core::{
    session::{Call, Key, KeyInfo, Reply, Sessions},
    state::{Author, Command, Outcome},
};
use ballast_proto::admin::v1::{
    DeleteSessionKeyRequest, DeleteSessionKeyResponse, FlushKeyspaceRequest, FlushKeyspaceResponse,
    GetSessionKeyRequest, GetSessionKeyResponse, ListKeyspacesRequest, ListKeyspacesResponse, ListSessionKeysRequest,
    ListSessionKeysResponse, ResponseHeader, SessionKey, SessionStatsRequest, SessionStatsResponse, SessionValue,
    TopSessionKeysRequest, TopSessionKeysResponse, session_service_server::SessionService,
};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    pki::UserRole,
    view,
};

/// Names deletions among requests that may come again.
const DELETE_KEY: &str = "DeleteKey";

/// Keys in a page when the caller does not say.
const PAGE_DEFAULT: u32 = 100;

/// Most keys in a page.
const PAGE_MAX: u32 = 1000;

/// Largest keys when the caller does not say how many.
const TOP_DEFAULT: u32 = 20;

/// Most of the largest keys.
const TOP_MAX: u32 = 1000;

/// Keys that are looked through at a time for the largest: the store is held for a millisecond.
const PORTION: usize = 5000;

#[tonic::async_trait]
impl SessionService for Shared {
    async fn list_keyspaces(
        &self,
        request: Request<ListKeyspacesRequest>,
    ) -> Result<Response<ListKeyspacesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let consistency = request.into_inner().consistency;
        let (header, keyspaces) = self.read_at(&caller, consistency, |state| view::keyspaces(state.sessions())).await?;
        Ok(Response::new(ListKeyspacesResponse { header: Some(header), keyspaces }))
    }

    async fn list_keys(
        &self,
        request: Request<ListSessionKeysRequest>,
    ) -> Result<Response<ListSessionKeysResponse>, Status> {
        let caller = Caller::of(&request)?;
        let ListSessionKeysRequest { keyspace, prefix, page_size, page_token, consistency } = request.into_inner();
        let count = bounded(page_size, PAGE_DEFAULT, PAGE_MAX);
        let cursor = cursor(&page_token)?;
        let (header, page) = self
            .read_at(&caller, consistency, |state| {
                let sessions = state.sessions();
                let database = view::keyspace_named(sessions, &keyspace)?;
                let (keys, next) = sessions.list(database, cursor, count, |key| key.starts_with(&prefix));
                let keys = keys.into_iter().map(|info| view::session_key(state.log_time(), info)).collect();
                Ok::<_, ApiError>((keys, next, sessions.count(database)))
            })
            .await?;
        let (keys, next, total_size) = page?;
        let next_page_token = if next == 0 { String::new() } else { next.to_string() };
        Ok(Response::new(ListSessionKeysResponse { header: Some(header), keys, next_page_token, total_size }))
    }

    async fn top_keys(
        &self,
        request: Request<TopSessionKeysRequest>,
    ) -> Result<Response<TopSessionKeysResponse>, Status> {
        let caller = Caller::of(&request)?;
        let TopSessionKeysRequest { keyspace, prefix, limit, consistency } = request.into_inner();
        let limit = bounded(limit, TOP_DEFAULT, TOP_MAX);
        let (header, found) = self
            .read_at(&caller, consistency, |state| {
                let database = view::keyspace_named(state.sessions(), &keyspace)?;
                Ok::<_, ApiError>((state.sessions().clone(), database, state.log_time()))
            })
            .await?;
        let (sessions, database, now) = found?;
        let top = Top::find(&sessions, database, &prefix, limit).await;
        Ok(Response::new(TopSessionKeysResponse {
            header: Some(header),
            keys: top.keys.into_iter().map(|info| view::session_key(now, info)).collect(),
            total_size: top.count,
            total_bytes: top.bytes,
        }))
    }

    async fn get_key(&self, request: Request<GetSessionKeyRequest>) -> Result<Response<GetSessionKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let GetSessionKeyRequest { keyspace, key, value, consistency } = request.into_inner();
        if value {
            may_see_values(&caller)?;
        }
        let (header, found) = self
            .read_at(&caller, consistency, |state| {
                let database = view::keyspace_named(state.sessions(), &keyspace)?;
                let info = state.sessions().look_up(database, &key).ok_or_else(|| missing(&keyspace))?;
                Ok::<_, ApiError>((state.sessions().clone(), database, info, state.log_time()))
            })
            .await?;
        let (sessions, database, info, now) = found?;
        let key = view::session_key(now, info.clone());
        let value = if value { Some(show(sessions, database, info).await?) } else { None };
        if value.is_some() {
            tracing::info!(who = %caller.name, %keyspace, key = key.key_hash, "the value of a session key is shown");
        }
        Ok(Response::new(GetSessionKeyResponse { header: Some(header), key: Some(key), value }))
    }

    async fn delete_key(
        &self,
        request: Request<DeleteSessionKeyRequest>,
    ) -> Result<Response<DeleteSessionKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let rehearsal = request.validate_only;
        let again = self.deleted.find(&caller, DELETE_KEY, &request.request_id)?.filter(|_| !rehearsal);
        if let Some(answer) = again {
            return Ok(Response::new(answer.again(self.header(), &request)?));
        }
        let (header, found) = self
            .read_at(&caller, 0, |state| {
                let sessions = state.sessions();
                let database = view::keyspace_named(sessions, &request.keyspace)?;
                let info = sessions.look_up(database, &request.key);
                Ok::<_, ApiError>(info.map(|info| view::session_key(state.log_time(), info)))
            })
            .await?;
        let before = found?;
        if before.is_none() && !request.allow_missing {
            return Err(missing(&request.keyspace).into());
        }
        if rehearsal {
            return Ok(Response::new(DeleteSessionKeyResponse { header: Some(header), key: before, log_index: 0 }));
        }
        let (key, log_index) = if before.is_some() {
            let key = Some(Key::from(Bytes::from(request.key.clone())));
            let removal = Removal { method: DELETE_KEY, keyspace: request.keyspace.clone(), key };
            let author = caller.author(&request.message);
            let (removed, log_index) = self.remove_sessions(&caller, removal, &request.request_id, author).await?;
            (before.filter(|_| removed > 0), log_index)
        } else {
            (None, 0)
        };
        self.deleted.keep(
            &caller,
            DELETE_KEY,
            &request.request_id,
            DeletedSession::new(&request, key.clone(), log_index),
        );
        Ok(Response::new(DeleteSessionKeyResponse { header: Some(self.header()), key, log_index }))
    }

    async fn stats(&self, request: Request<SessionStatsRequest>) -> Result<Response<SessionStatsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (header, stats) = self.read_at(&caller, request.into_inner().consistency, view::session_stats).await?;
        Ok(Response::new(SessionStatsResponse { header: Some(header), ..stats }))
    }

    async fn flush(&self, request: Request<FlushKeyspaceRequest>) -> Result<Response<FlushKeyspaceResponse>, Status> {
        let caller = Caller::of(&request)?;
        let FlushKeyspaceRequest { keyspace, request_id, message, validate_only } = request.into_inner();
        if message.trim().is_empty() && !validate_only {
            let remedy = "say why all sessions of the keyspace are to go; the history keeps it";
            return Err(error::invalid("message", "it is missing", remedy).into());
        }
        let (header, found) = self
            .read_at(&caller, 0, |state| {
                let database = view::keyspace_named(state.sessions(), &keyspace)?;
                Ok::<_, ApiError>(state.sessions().count(database))
            })
            .await?;
        let keys = found?;
        if validate_only {
            return Ok(Response::new(FlushKeyspaceResponse { header: Some(header), keyspace, keys, log_index: 0 }));
        }
        let removal = Removal { method: "Flush", keyspace: keyspace.clone(), key: None };
        let (keys, log_index) = self.remove_sessions(&caller, removal, &request_id, caller.author(&message)).await?;
        Ok(Response::new(FlushKeyspaceResponse { header: Some(self.header()), keyspace, keys, log_index }))
    }
}

/// The answer to a deletion, for a retry, which finds nothing to delete any more. Without the key itself, which the retry
/// brings: keys are as good as passwords, and as long as the document lets them be.
#[derive(Clone)]
pub(super) struct DeletedSession {
    of: u64,
    key: Option<SessionKey>,
    log_index: u64,
}

impl DeletedSession {
    fn new(request: &DeleteSessionKeyRequest, key: Option<SessionKey>, log_index: u64) -> Self {
        let key = key.map(|key| SessionKey { key: Vec::new(), ..key });
        Self { of: Self::of(request), key, log_index }
    }

    /// What tells requests apart.
    fn of(request: &DeleteSessionKeyRequest) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&request.keyspace, &request.key).hash(&mut hasher);
        hasher.finish()
    }

    /// # Errors
    /// `INVALID_ARGUMENT` when that id was given to the deletion of another key.
    fn again(
        self,
        header: ResponseHeader,
        request: &DeleteSessionKeyRequest,
    ) -> Result<DeleteSessionKeyResponse, ApiError> {
        if self.of != Self::of(request) {
            let remedy = "leave it out, or give each deletion one of its own";
            return Err(error::invalid("request_id", "it was given to the deletion of another key", remedy));
        }
        let key = self.key.map(|key| SessionKey { key: request.key.clone(), ..key });
        Ok(DeleteSessionKeyResponse { header: Some(header), key, log_index: self.log_index })
    }
}

/// What is to go.
struct Removal {
    method: &'static str,
    keyspace: String,
    key: Option<Key>,
}

impl Shared {
    /// How many keys went, and the entry that says so.
    async fn remove_sessions(
        &self,
        caller: &Caller,
        removal: Removal,
        request_id: &str,
        author: Author,
    ) -> Result<(u64, u64), ApiError> {
        let Removal { method, keyspace, key } = removal;
        let command = Command::RemoveSessions { keyspace, key, author };
        let (index, outcome) = self.outcome_once(caller, method, request_id, command).await?;
        let count = match outcome {
            Outcome::Session(replies) => match replies.as_slice() {
                [Reply::Integer(count)] => u64::try_from(*count).ok(),
                _ => None,
            },
            _ => None,
        };
        let count = count.ok_or_else(|| error::status(ErrorCode::Internal, "a removal has no count", method))?;
        Ok((count, index.get()))
    }
}

/// The largest keys of those that were looked through.
struct Top {
    /// The largest first.
    keys: Vec<KeyInfo>,
    count: u64,
    bytes: u64,
}

impl Top {
    async fn find(sessions: &Sessions, database: u16, prefix: &[u8], limit: usize) -> Self {
        let mut top = Self { keys: Vec::new(), count: 0, bytes: 0 };
        let mut cursor = 0;
        loop {
            let (some, next) = sessions.list(database, cursor, PORTION, |key| key.starts_with(prefix));
            top.count += some.len() as u64;
            top.bytes += some.iter().map(|info| info.bytes).sum::<u64>();
            top.keys.extend(some);
            top.keys.sort_by_key(|info| (Reverse(info.bytes), info.hash));
            top.keys.truncate(limit);
            if next == 0 {
                return top;
            }
            cursor = next;
            tokio::task::yield_now().await;
        }
    }
}

/// A value, read where neither the state nor others wait for it: one of very many fields takes up to a second.
async fn show(sessions: Arc<Sessions>, database: u16, info: KeyInfo) -> Result<SessionValue, ApiError> {
    let read = tokio::task::spawn_blocking(move || value_of(&sessions, database, &info)).await;
    // It does not come back if it panicked, which the panic hook has reported.
    read.unwrap_or_else(|_| Err(error::status(ErrorCode::Internal, "the value could not be read", "value")))
}

fn value_of(sessions: &Sessions, database: u16, info: &KeyInfo) -> Result<SessionValue, ApiError> {
    let name: &[u8] = match info.kind {
        "hash" => b"HGETALL",
        "set" => b"SMEMBERS",
        _ => b"GET",
    };
    let call = Call::parse(database, vec![name.to_vec().into(), info.key.clone()]);
    let mut replies = Vec::with_capacity(1);
    if let Ok(call) = call {
        // Nothing is due without an estimate.
        let _by_log_time_alone = sessions.read(None, &[call], &mut replies);
    }
    view::session_value(replies.pop().unwrap_or(Reply::Null))
}

fn may_see_values(caller: &Caller) -> Result<(), ApiError> {
    match caller.role {
        Some(UserRole::Admin) => Ok(()),
        role => {
            let has = role.map_or_else(|| "none".to_owned(), |role| role.to_string());
            let message = format!("values of sessions need the role admin; {} has the role {has}", caller.name);
            Err(error::status(ErrorCode::NotAllowed, message, "value").remedy("ask without the value"))
        }
    }
}

/// Without the key: errors are logged by whoever gets them.
fn missing(keyspace: &str) -> ApiError {
    error::status(ErrorCode::NotFound, format!("there is no such key in keyspace {keyspace:?}"), keyspace)
}

fn bounded(wanted: u32, default: u32, max: u32) -> usize {
    (if wanted == 0 { default } else { wanted.min(max) }) as usize
}

fn cursor(token: &str) -> Result<u64, ApiError> {
    match token {
        "" => Ok(0),
        token => token
            .parse()
            .map_err(|_| error::invalid("page_token", "no page answered it", "use next_page_token of the page before")),
    }
}
