//! Backends: the document's part, the operator's, and the checks'.

use ballast_core::{
    config::{Backend, Document, Farm, Service},
    ids::{BackendId, ServiceId},
    plan::{AdminState, Eligibility, Verdict, panics},
    state::State,
};
use ballast_proto::admin::v1 as proto;

use super::{change, etag, node_name, timestamp};
use crate::error::{self, ApiError};

/// The backends of `farm`, `farm/service`, or all.
///
/// # Errors
/// `NOT_FOUND` when the parent is not configured.
pub fn backends(state: &State, parent: &str) -> Result<Vec<proto::Backend>, ApiError> {
    let mut found = Vec::new();
    for (farm, service) in services(state.document().map(|document| &**document)) {
        if parent.is_empty() || parent == farm.name || parent == full(&[&farm.name, &service.name]) {
            found.extend(service.backends.iter().map(|backend| describe(state, farm, service, backend).1));
        }
    }
    let exists = |document: &Document| {
        services(Some(document))
            .any(|(farm, service)| parent == farm.name || parent == full(&[&farm.name, &service.name]))
            || document.farms.iter().any(|farm| farm.name == parent)
    };
    if !parent.is_empty() && !state.document().is_some_and(|document| exists(document)) {
        let farms =
            state.document().map(|document| document.farms.iter().map(|farm| farm.name.as_str()).collect::<Vec<_>>());
        return Err(error::not_found("farm or service", parent, farms.unwrap_or_default()));
    }
    Ok(found)
}

/// The backend that an operator names: `farm/service/backend`, or `farm/backend` when that is clear.
///
/// # Errors
/// `NOT_FOUND` with the names that there are; `INVALID_ARGUMENT` when several match.
pub fn backend(state: &State, name: &str) -> Result<(BackendId, proto::Backend), ApiError> {
    let mut matching = Vec::new();
    let mut known = Vec::new();
    for (farm, service) in services(state.document().map(|document| &**document)) {
        for backend in &service.backends {
            let whole = full(&[&farm.name, &service.name, &backend.name]);
            if whole == name {
                return Ok(describe(state, farm, service, backend));
            }
            if full(&[&farm.name, &backend.name]) == name {
                matching.push((farm, service, backend));
            }
            known.push(whole);
        }
    }
    match matching.as_slice() {
        [(farm, service, backend)] => Ok(describe(state, farm, service, backend)),
        [] => Err(error::not_found("backend", name, known.iter().map(String::as_str))),
        several => {
            let names: Vec<_> = several
                .iter()
                .map(|(farm, service, backend)| full(&[&farm.name, &service.name, &backend.name]))
                .collect();
            Err(error::invalid("name", format!("{name:?} could be {}", names.join(" or ")), "say which service"))
        }
    }
}

/// The service that an operator names: `farm/service`, or the farm alone when it has one service.
///
/// # Errors
/// `NOT_FOUND` with the names that there are; `INVALID_ARGUMENT` when several match.
pub fn service_named<'a>(state: &'a State, name: &str) -> Result<(ServiceId, &'a Farm, &'a Service), ApiError> {
    let all: Vec<_> = services(state.document().map(|document| &**document)).collect();
    let whole = |(farm, service): &(&Farm, &Service)| full(&[&farm.name, &service.name]);
    let of_farm: Vec<_> = all.iter().filter(|(farm, _)| farm.name == name).collect();
    let with_table: Vec<_> = of_farm
        .iter()
        .filter(|(_, service)| matches!(service.persistence, Some(ballast_core::config::Persistence::Table(_))))
        .collect();
    let found = match (all.iter().find(|found| whole(found) == name), of_farm.as_slice(), with_table.as_slice()) {
        (Some(found), _, _) => found,
        (None, [only], _) => only,
        (None, _, [only]) => only,
        (None, [], _) => {
            let names: Vec<_> = all.iter().map(whole).collect();
            return Err(error::not_found("service", name, names.iter().map(String::as_str)));
        }
        (None, several, _) => {
            let names: Vec<_> = several.iter().map(|found| whole(found)).collect();
            return Err(error::invalid(
                "service",
                format!("{name:?} could be {}", names.join(" or ")),
                "say which service",
            ));
        }
    };
    let id = state.service_id(&whole(found)).unwrap_or_default();
    Ok((id, found.0, found.1))
}

/// What operators set of backends, configured or not.
pub fn operator_backends(state: &State) -> Vec<proto::BackendOverride> {
    let configured = services(state.document().map(|document| &**document)).flat_map(|(farm, service)| {
        service.backends.iter().map(move |backend| full(&[&farm.name, &service.name, &backend.name]))
    });
    configured
        .filter_map(|name| {
            let wish = state.backend_wish(state.backend_id(&name)?)?;
            (wish.admin != AdminState::Ready || wish.weight.is_some()).then(|| proto::BackendOverride {
                name,
                admin: admin_of(wish.admin).into(),
                weight: wish.weight,
                change: Some(change(wish.index, wish.at, &wish.author)),
            })
        })
        .collect()
}

fn describe(state: &State, farm: &Farm, service: &Service, backend: &Backend) -> (BackendId, proto::Backend) {
    let name = full(&[&farm.name, &service.name, &backend.name]);
    let id = state.backend_id(&name).unwrap_or_default();
    let wish = state.backend_wish(id);
    let eligibility = eligibility(state, id, backend);
    let document_part = serde_json::to_vec(backend).unwrap_or_default();
    let wish_part = wish.map_or(0, |wish| wish.index.get()).to_le_bytes();
    let message = proto::Backend {
        id: id.get(),
        farm: farm.name.clone(),
        service: service.name.clone(),
        backend: backend.name.clone(),
        address: backend.address.to_string(),
        admin: admin_of(eligibility.admin).into(),
        verdict: verdict_of(eligibility.verdict).into(),
        verdict_time: state.standing(id).map(|standing| timestamp(standing.since)),
        reports: state
            .reports(id)
            .map(|(node, report)| proto::HealthReport {
                node_id: node.get(),
                node_name: node_name(state, node).unwrap_or_default(),
                verdict: verdict_of(report.verdict).into(),
                detail: report.detail.clone(),
                log_time: Some(timestamp(report.at)),
            })
            .collect(),
        weight: eligibility.weight,
        document_weight: backend.weight,
        weight_override: wish.and_then(|wish| wish.weight),
        backup: backend.backup,
        bindings: state.bindings_of(id),
        connections_max: backend.connections_max,
        takes_new: eligibility.takes_new(panicking(state, farm, service)),
        change: wish.map(|wish| change(wish.index, wish.at, &wish.author)),
        etag: etag(&[name.as_bytes(), &document_part, &wish_part]),
        name,
    };
    (id, message)
}

/// What decides whether a backend serves.
pub fn eligibility(state: &State, id: BackendId, backend: &Backend) -> Eligibility {
    let wish = state.backend_wish(id);
    Eligibility {
        admin: wish.map_or(AdminState::Ready, |wish| wish.admin),
        verdict: state.verdict(id),
        weight: wish.and_then(|wish| wish.weight).unwrap_or(backend.weight),
        backup: backend.backup,
    }
}

/// So few backends are up that health is ignored.
pub fn panicking(state: &State, farm: &Farm, service: &Service) -> bool {
    let eligibilities = service.backends.iter().map(|backend| {
        let id = state.backend_id(&full(&[&farm.name, &service.name, &backend.name])).unwrap_or_default();
        eligibility(state, id, backend)
    });
    panics(service.panic_threshold_percent, eligibilities)
}

fn services(document: Option<&Document>) -> impl Iterator<Item = (&Farm, &Service)> {
    document
        .into_iter()
        .flat_map(|document| &document.farms)
        .flat_map(|farm| farm.services.iter().map(move |service| (farm, service)))
}

/// A full name.
pub(crate) fn full(parts: &[&str]) -> String {
    parts.join("/")
}

/// The operator's wish in the API's form.
pub const fn admin_of(admin: AdminState) -> proto::BackendAdmin {
    match admin {
        AdminState::Ready => proto::BackendAdmin::Ready,
        AdminState::Drain => proto::BackendAdmin::Drain,
        AdminState::Maintenance => proto::BackendAdmin::Maintenance,
    }
}

/// A verdict in the API's form.
pub const fn verdict_of(verdict: Verdict) -> proto::Verdict {
    match verdict {
        Verdict::Unknown => proto::Verdict::Unknown,
        Verdict::Up => proto::Verdict::Up,
        Verdict::Down => proto::Verdict::Down,
    }
}
