//! Bindings: which client key stays with which backend.

use ballast_core::{
    config::{Persistence, TableKey},
    ids::BackendId,
    persistence::KeyHash,
    state::{Command, State},
};
use ballast_proto::admin::v1::{
    Binding, BindingChangeResponse, BindingKey, DeleteBindingRequest, GetBindingRequest, GetBindingResponse,
    ListBindingsRequest, ListBindingsResponse, MoveBindingRequest, PinBindingRequest, binding_key::Key,
    binding_service_server::BindingService,
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    view::{self, Slot},
};

/// Bindings in a page when the caller does not say.
const PAGE_DEFAULT: usize = 100;

/// Most bindings in a page.
const PAGE_MAX: usize = 1000;

/// Most bindings that are looked through for one page, so that a filter that takes few holds the
/// state for milliseconds only. The page is short then, and its token goes on.
const LOOK_MAX: usize = 50_000;

/// A binding that a request names.
struct Named {
    slot: Slot,
    key: KeyHash,
    current: Option<Binding>,
}

/// What is to become of a binding.
struct Change<'a> {
    method: &'static str,
    to: Option<BackendId>,
    pinned: bool,
    request_id: &'a str,
    message: &'a str,
}

#[tonic::async_trait]
impl BindingService for Shared {
    async fn list(&self, request: Request<ListBindingsRequest>) -> Result<Response<ListBindingsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, page) = self.read_at(&caller, request.consistency, |state| list(state, &request)).await?;
        Ok(Response::new(ListBindingsResponse { header: Some(header), ..page? }))
    }

    async fn get(&self, request: Request<GetBindingRequest>) -> Result<Response<GetBindingResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, named) =
            self.read_at(&caller, request.consistency, |state| self.named(state, request.key.as_ref())).await?;
        let named = named?;
        let binding = named.current.clone().ok_or_else(|| missing(&named))?;
        Ok(Response::new(GetBindingResponse { header: Some(header), binding: Some(binding) }))
    }

    async fn r#move(&self, request: Request<MoveBindingRequest>) -> Result<Response<BindingChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, found) = self
            .read_at(&caller, 0, |state| {
                let named = self.named(state, request.key.as_ref())?;
                let to = backend_of(state, &named.slot, &request.backend)?;
                Ok::<_, ApiError>((named, to))
            })
            .await?;
        let (named, to) = found?;
        if request.validate_only {
            return Ok(Response::new(BindingChangeResponse {
                header: Some(header),
                binding: named.current,
                log_index: 0,
            }));
        }
        let pinned = named.current.as_ref().is_some_and(|binding| binding.pinned);
        let change =
            Change { method: "Move", to: Some(to), pinned, request_id: &request.request_id, message: &request.message };
        Ok(Response::new(self.change_binding(&caller, named, change).await?))
    }

    async fn delete(&self, request: Request<DeleteBindingRequest>) -> Result<Response<BindingChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, named) = self.read_at(&caller, 0, |state| self.named(state, request.key.as_ref())).await?;
        let named = named?;
        if named.current.is_none() && !request.allow_missing {
            return Err(missing(&named).into());
        }
        if request.validate_only || named.current.is_none() {
            return Ok(Response::new(BindingChangeResponse {
                header: Some(header),
                binding: named.current,
                log_index: 0,
            }));
        }
        let change = Change {
            method: "Delete",
            to: None,
            pinned: false,
            request_id: &request.request_id,
            message: &request.message,
        };
        Ok(Response::new(self.change_binding(&caller, named, change).await?))
    }

    async fn pin(&self, request: Request<PinBindingRequest>) -> Result<Response<BindingChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, found) = self
            .read_at(&caller, 0, |state| {
                let named = self.named(state, request.key.as_ref())?;
                let to = match (request.backend.as_str(), &named.current) {
                    ("", Some(binding)) => BackendId::new(binding.backend_id),
                    ("", None) => return Err(missing(&named).remedy("name a backend to make it")),
                    (backend, _) => backend_of(state, &named.slot, backend)?,
                };
                Ok((named, to))
            })
            .await?;
        let (named, to) = found?;
        if request.validate_only {
            return Ok(Response::new(BindingChangeResponse {
                header: Some(header),
                binding: named.current,
                log_index: 0,
            }));
        }
        let method = if request.unpin { "Unpin" } else { "Pin" };
        let (request_id, message) = (&request.request_id, &request.message);
        let change = Change { method, to: Some(to), pinned: !request.unpin, request_id, message };
        Ok(Response::new(self.change_binding(&caller, named, change).await?))
    }
}

impl Shared {
    async fn change_binding(
        &self,
        caller: &Caller,
        named: Named,
        change: Change<'_>,
    ) -> Result<BindingChangeResponse, ApiError> {
        let command = Command::SetBinding {
            service: named.slot.service,
            key: named.key,
            to: change.to,
            pinned: change.pinned,
            author: caller.author(change.message),
        };
        let index = self.propose_once(caller, change.method, change.request_id, command).await?;
        let now = self.read(|state| describe(state, &named.slot, named.key));
        Ok(BindingChangeResponse {
            header: Some(self.header()),
            binding: now.or(named.current),
            log_index: index.get(),
        })
    }

    /// Pinned bindings in all tables. Looks through them in portions, so that the state is held for
    /// milliseconds at a time whatever their number.
    pub(super) async fn count_pinned(&self) -> u64 {
        let tables = self.read(|state| view::tables_below(state, "")).unwrap_or_default();
        let mut count = 0;
        for slot in tables {
            let mut after = None;
            loop {
                let some = self.read(|state| state.bindings_page(slot.service, after, LOOK_MAX));
                count += some.iter().filter(|(_, record)| record.pinned).count() as u64;
                after = match some.last() {
                    Some((key, _)) if some.len() == LOOK_MAX => Some(*key),
                    _ => break,
                };
                tokio::task::yield_now().await;
            }
        }
        count
    }

    fn named(&self, state: &State, key: Option<&BindingKey>) -> Result<Named, ApiError> {
        let key = key.ok_or_else(|| error::invalid("key", "it is missing", "say which table and which key"))?;
        let (id, farm, service) = view::service_named(state, &key.service)?;
        let slot = Slot { service: id, name: format!("{}/{}", farm.name, service.name) };
        let Some(Persistence::Table(table)) = &service.persistence else {
            let message = format!("{} keeps no table of bindings", slot.name);
            return Err(error::status(ErrorCode::Precondition, message, &slot.name));
        };
        let key = match &key.key {
            Some(Key::Hash(hash)) => view::parse_key_hash(hash)?,
            Some(Key::Text(text)) => self.hash_key(state, &slot, &table.key, text)?,
            None => return Err(error::invalid("key", "it has neither text nor hash", "give one of them")),
        };
        let current = describe(state, &slot, key);
        Ok(Named { slot, key, current })
    }

    /// Hashes a key as the data plane does.
    fn hash_key(&self, state: &State, slot: &Slot, kind: &TableKey, text: &str) -> Result<KeyHash, ApiError> {
        let secret = state
            .cluster()
            .map(|cluster| cluster.table_secret)
            .ok_or_else(|| error::status(ErrorCode::NoCluster, "this node has no cluster yet", &slot.name))?;
        match kind {
            TableKey::Source(_) => {
                let address = text.parse().map_err(|_| {
                    error::invalid(
                        "key.text",
                        format!("{text:?} is not an address"),
                        "this table's key is the client's address",
                    )
                })?;
                self.parts
                    .reader
                    .table_key(kind, &secret, slot.service, address, b"GET / HTTP/1.1\r\nhost: ballast\r\n\r\n")
                    .ok_or_else(|| error::status(ErrorCode::Internal, "an address gave no key", &slot.name))
            }
            TableKey::Header(_) | TableKey::Query(_) | TableKey::PathSegment(_) | TableKey::LearnedCookie(_) => {
                if text.is_empty() {
                    return Err(error::invalid("key.text", "it is empty", "an empty value is never bound"));
                }
                Ok(KeyHash::of(&secret, slot.service, text.as_bytes()))
            }
        }
    }
}

fn describe(state: &State, slot: &Slot, key: KeyHash) -> Option<Binding> {
    state.binding(slot.service, key).map(|record| view::binding(state, slot, key, &record))
}

fn missing(named: &Named) -> ApiError {
    let message = format!("key {} is not bound in {}", view::key_hash_text(named.key), named.slot.name);
    error::status(ErrorCode::NotFound, message, &named.slot.name)
}

/// A backend of a service by its own name, or by its full one.
fn backend_of(state: &State, slot: &Slot, name: &str) -> Result<BackendId, ApiError> {
    if name.is_empty() {
        return Err(error::invalid("backend", "it is missing", "name a backend of the service"));
    }
    let whole = if name.contains('/') { name.to_owned() } else { format!("{}/{name}", slot.name) };
    let (id, backend) = view::backend(state, &whole)?;
    if format!("{}/{}", backend.farm, backend.service) != slot.name {
        let problem = format!("{} is not a backend of {}", backend.name, slot.name);
        return Err(error::invalid("backend", problem, "name a backend of the same service"));
    }
    Ok(id)
}

fn list(state: &State, request: &ListBindingsRequest) -> Result<ListBindingsResponse, ApiError> {
    let size = match request.page_size {
        0 => PAGE_DEFAULT,
        size => (size as usize).min(PAGE_MAX),
    };
    let backend = match request.backend.as_str() {
        "" => None,
        name => Some(view::backend(state, name)?.0),
    };
    let tables = view::tables_below(state, &request.parent)?;
    let total_size = tables.iter().filter_map(|slot| state.table_info(slot.service)).map(|table| table.bindings).sum();
    let mut cursor = Cursor::parse(&request.page_token, &tables)?;
    let mut bindings = Vec::new();
    let mut looked = 0;
    while bindings.len() < size && looked < LOOK_MAX {
        let Some(slot) = tables.get(cursor.table) else { break };
        // Not by the size of the page: a filter that little passes would have the table read once for each line.
        let some = state.bindings_page(slot.service, cursor.after, PAGE_MAX);
        looked += some.len();
        if some.is_empty() {
            cursor = Cursor { table: cursor.table + 1, after: None };
            continue;
        }
        for (key, record) in some {
            if bindings.len() == size {
                break;
            }
            cursor.after = Some(key);
            if (!request.pinned_only || record.pinned) && backend.is_none_or(|backend| backend == record.backend) {
                bindings.push(view::binding(state, slot, key, &record));
            }
        }
    }
    let next_page_token = cursor.token(state, &tables);
    Ok(ListBindingsResponse { header: None, bindings, next_page_token, total_size })
}

/// A place between two bindings.
#[derive(Clone, Copy)]
struct Cursor {
    table: usize,
    after: Option<KeyHash>,
}

impl Cursor {
    fn parse(token: &str, tables: &[Slot]) -> Result<Self, ApiError> {
        let bad = || error::invalid("page_token", "no page answered it", "use next_page_token of the page before");
        if token.is_empty() {
            return Ok(Self { table: 0, after: None });
        }
        let (service, key) = token.split_once('.').ok_or_else(bad)?;
        let service: u32 = service.parse().map_err(|_| bad())?;
        let table = tables.iter().position(|slot| slot.service.get() == service).ok_or_else(bad)?;
        let after = if key.is_empty() { None } else { Some(view::parse_key_hash(key).map_err(|_| bad())?) };
        Ok(Self { table, after })
    }

    /// Empty when nothing follows.
    fn token(self, state: &State, tables: &[Slot]) -> String {
        let here = |table: usize, after| {
            tables.get(table).is_some_and(|slot| !state.bindings_page(slot.service, after, 1).is_empty())
        };
        if here(self.table, self.after) {
            let key = self.after.map(view::key_hash_text).unwrap_or_default();
            return format!("{}.{key}", tables[self.table].service.get());
        }
        let next = (self.table + 1..tables.len()).find(|table| here(*table, None));
        next.map_or_else(String::new, |table| format!("{}.", tables[table].service.get()))
    }
}
