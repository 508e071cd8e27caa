//! Backends and what operators want of them.

use ballast_core::{plan::AdminState, state::Command};
use ballast_proto::admin::v1::{
    Backend, BackendChangeResponse, DrainBackendRequest, EnableBackendRequest, GetBackendRequest, GetBackendResponse,
    ListBackendsRequest, ListBackendsResponse, MaintenanceBackendRequest, SetBackendWeightRequest,
    backend_service_server::BackendService,
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    view,
};

/// The document's own bound.
const WEIGHT_MAX: u32 = 1000;

/// What is to be changed of a backend.
struct Change {
    method: &'static str,
    name: String,
    admin: Option<AdminState>,
    weight: Option<Option<u32>>,
    request_id: String,
    message: String,
    validate_only: bool,
    etag: String,
}

#[tonic::async_trait]
impl BackendService for Shared {
    async fn list(&self, request: Request<ListBackendsRequest>) -> Result<Response<ListBackendsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, backends) =
            self.read_at(&caller, request.consistency, |state| view::backends(state, &request.parent)).await?;
        Ok(Response::new(ListBackendsResponse { header: Some(header), backends: backends? }))
    }

    async fn get(&self, request: Request<GetBackendRequest>) -> Result<Response<GetBackendResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (header, backend) =
            self.read_at(&caller, request.consistency, |state| view::backend(state, &request.name)).await?;
        Ok(Response::new(GetBackendResponse { header: Some(header), backend: Some(backend?.1) }))
    }

    async fn drain(&self, request: Request<DrainBackendRequest>) -> Result<Response<BackendChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let DrainBackendRequest { name, request_id, message, validate_only, etag } = request.into_inner();
        let admin = Some(AdminState::Drain);
        let change = Change { method: "Drain", name, admin, weight: None, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_backend(&caller, change).await?))
    }

    async fn enable(&self, request: Request<EnableBackendRequest>) -> Result<Response<BackendChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let EnableBackendRequest { name, request_id, message, validate_only, etag } = request.into_inner();
        let admin = Some(AdminState::Ready);
        let change = Change { method: "Enable", name, admin, weight: None, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_backend(&caller, change).await?))
    }

    async fn maintenance(
        &self,
        request: Request<MaintenanceBackendRequest>,
    ) -> Result<Response<BackendChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let MaintenanceBackendRequest { name, request_id, message, validate_only, etag } = request.into_inner();
        let admin = Some(AdminState::Maintenance);
        let change =
            Change { method: "Maintenance", name, admin, weight: None, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_backend(&caller, change).await?))
    }

    async fn set_weight(
        &self,
        request: Request<SetBackendWeightRequest>,
    ) -> Result<Response<BackendChangeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let SetBackendWeightRequest { name, weight, request_id, message, validate_only, etag } = request.into_inner();
        if weight.is_some_and(|weight| weight > WEIGHT_MAX) {
            return Err(
                error::invalid("weight", format!("it is more than {WEIGHT_MAX}"), "weights are 0 to 1000").into()
            );
        }
        let weight = Some(weight);
        let change =
            Change { method: "SetWeight", name, admin: None, weight, request_id, message, validate_only, etag };
        Ok(Response::new(self.change_backend(&caller, change).await?))
    }
}

impl Shared {
    async fn change_backend(&self, caller: &Caller, change: Change) -> Result<BackendChangeResponse, ApiError> {
        loop {
            // Confirmed, so that a backend that was just configured is found on every node.
            let (header, found) = self
                .read_at(caller, 0, |state| {
                    let (backend, before) = view::backend(state, &change.name)?;
                    Ok::<_, ApiError>((backend, state.backend_changed(backend), before))
                })
                .await?;
            let (backend, changed, before) = found?;
            if !self.was_answered(caller, change.method, &change.request_id, change.validate_only)? {
                view::check_etag(&change.etag, &before.etag, &before.name)?;
            }
            if change.validate_only {
                return Ok(BackendChangeResponse { header: Some(header), backend: Some(before), log_index: 0 });
            }
            let command = Command::SetBackend {
                backend,
                admin: change.admin,
                weight: change.weight,
                author: caller.author(&change.message),
                expect: (!change.etag.is_empty()).then_some(changed),
            };
            let index = match self.propose_once(caller, change.method, &change.request_id, command).await {
                Ok(index) => index,
                // The etag tells whether that was this backend, or a document that says the same of it.
                Err(error) if error.code() == ErrorCode::EtagConflict && !caller.remaining().is_zero() => continue,
                Err(error) if error.code() == ErrorCode::EtagConflict => return Err(self.out_of_time(&change)),
                Err(error) => return Err(error),
            };
            let after = self.read(|state| view::backend(state, &before.name)).map_or(before, |(_, after)| after);
            return Ok(BackendChangeResponse {
                header: Some(self.header()),
                backend: Some(after),
                log_index: index.get(),
            });
        }
    }

    /// Why a change is not made that others came before until its deadline. That others were made is no reason to say
    /// that the backend was changed.
    fn out_of_time(&self, change: &Change) -> ApiError {
        let late = |now: Backend| {
            let message = format!("no time is left, and other changes came before this one of {}", now.name);
            let late = error::status(ErrorCode::Overloaded, message, &now.name);
            view::check_etag(&change.etag, &now.etag, &now.name).err().unwrap_or(late)
        };
        self.read(|state| view::backend(state, &change.name)).map_or_else(|error| error, |(_, now)| late(now))
    }
}
