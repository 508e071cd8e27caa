//! Says what would happen to a request here and now, and why.
//!
//! Walks the same decisions as the data plane, in the same order, on the agreed state, and names
//! for each the log entry that it follows from. How a request is read (matching, keys, cookies) is
//! the data plane's own code ([`crate::node::RequestReader`]), so the two cannot disagree.
//!
//! Not here: what only a node knows while it serves (connections, its own checks under
//! `policy: local`, slow start); the steps say so where it matters.

use std::net::{IpAddr, Ipv4Addr};

use ballast_core::{
    config::{CookiePersistence, Document, Farm, Listener, Persistence, Service, TablePersistence, VerdictPolicy},
    ids::BackendId,
    persistence::Provenance,
    plan::{AdminState, Verdict},
    state::{RehomeCause, State, Subject},
};
use ballast_proto::admin::v1::{
    Backend, Change, ExplainRequest, ExplainResponse, ExplainStep, explain_response::Result as Fate,
    explain_service_server::ExplainService,
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    node::RequestReader,
    view::{self, Slot},
};

#[tonic::async_trait]
impl ExplainService for Shared {
    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let asked = Asked::parse(&request)?;
        let (header, told) = self
            .read_at(&caller, request.consistency, |state| {
                let mut story = Story { state, reader: &*self.parts.reader, told: ExplainResponse::default() };
                story.tell(&asked).map(|()| story.told)
            })
            .await?;
        Ok(Response::new(ExplainResponse { header: Some(header), ..told? }))
    }
}

/// A request as a client would send it.
struct Asked {
    farm: String,
    listener: String,
    host: String,
    path: String,
    client: IpAddr,
    /// In HTTP/1.1, with its empty line.
    head: Vec<u8>,
    /// The values of the cookies, in order.
    cookies: Vec<(String, String)>,
}

impl Asked {
    fn parse(request: &ExplainRequest) -> Result<Self, ApiError> {
        let client = match request.client_address.as_str() {
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            text => text.parse().map_err(|_| {
                error::invalid(
                    "client_address",
                    format!("{text:?} is not an address"),
                    "write 192.0.2.7 or 2001:db8::7",
                )
            })?,
        };
        let target = if request.path.is_empty() { "/" } else { &request.path };
        let plain = |path: &str, text: &str| {
            if text.bytes().any(|byte| byte.is_ascii_control()) {
                return Err(error::invalid(path, "it has a control character", "a request cannot carry it"));
            }
            Ok(())
        };
        plain("path", target)?;
        plain("host", &request.host)?;
        if !target.starts_with('/') || target.contains(' ') {
            return Err(error::invalid(
                "path",
                format!("{target:?} is not the path of a request"),
                "it begins with / and has no space",
            ));
        }
        let mut cookies = Vec::new();
        // HTTP/1.1 has no request without a host; which services take it is decided by `host` itself.
        let named = if request.host.is_empty() { "localhost" } else { &request.host };
        let mut head = format!("GET {target} HTTP/1.1\r\nhost: {named}\r\n");
        for field in &request.headers {
            plain("headers", &field.name)?;
            plain("headers", &field.value)?;
            if field.name.eq_ignore_ascii_case("cookie") {
                cookies.extend(field.value.split(';').map(|cookie| cookie.trim().to_owned()));
            } else if !field.name.eq_ignore_ascii_case("host") {
                head += &format!("{}: {}\r\n", field.name, field.value);
            }
        }
        for cookie in &request.cookies {
            plain("cookies", cookie)?;
            cookies.push(cookie.clone());
        }
        if !cookies.is_empty() {
            head += &format!("cookie: {}\r\n", cookies.join("; "));
        }
        head += "\r\n";
        let cookies = cookies
            .iter()
            .map(|cookie| {
                cookie
                    .split_once('=')
                    .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
                    .ok_or_else(|| error::invalid("cookies", format!("{cookie:?} is not a cookie"), "write NAME=VALUE"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            farm: request.farm.clone(),
            listener: request.listener.clone(),
            host: host_only(&request.host).to_ascii_lowercase(),
            path: target.split(['?', '#']).next().unwrap_or("/").to_owned(),
            client,
            head: head.into_bytes(),
            cookies,
        })
    }
}

/// A host without its port.
fn host_only(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// A story as it is told, step by step.
struct Story<'a> {
    state: &'a State,
    reader: &'a dyn RequestReader,
    told: ExplainResponse,
}

/// A service's backend as the state has it.
struct Candidate {
    id: BackendId,
    shown: Backend,
    /// Why a client that is bound to it must go elsewhere.
    unusable: Option<RehomeCause>,
}

impl<'a> Story<'a> {
    fn tell(&mut self, asked: &Asked) -> Result<(), ApiError> {
        let document = self.state.document().ok_or_else(|| {
            error::status(ErrorCode::NotFound, "no configuration was applied yet", &asked.farm)
                .remedy("apply one with `ballastctl apply -f FILE`")
        })?;
        let farm = document.farms.iter().find(|farm| farm.name == asked.farm).ok_or_else(|| {
            error::not_found("farm", &asked.farm, document.farms.iter().map(|farm| farm.name.as_str()))
        })?;
        let in_force =
            self.state.revisions().next().map(|record| view::change(record.index, record.at, &record.author));
        let revision = self.state.revision();
        self.step("configuration", format!("revision {revision} is in force"), in_force);
        self.listener(document, farm, asked)?;
        let Some(service) = self.service(farm, asked) else { return Ok(()) };
        let name = format!("{}/{}", farm.name, service.name);
        let slot = Slot { service: self.state.service_id(&name).unwrap_or_default(), name };
        self.told.service = slot.name.clone();
        let candidates = self.candidates(farm, service);
        match &service.persistence {
            None => {
                self.step("persistence", "the service has none: each request is balanced anew", None);
                self.balance(farm, service, &candidates, Fate::Balanced);
            }
            Some(Persistence::Cookie(cookie)) => self.cookie(farm, service, &slot, cookie, asked, &candidates),
            Some(Persistence::Table(table)) => self.table(farm, service, &slot, table, asked, &candidates),
        }
        Ok(())
    }

    fn step(&mut self, subject: &str, text: impl Into<String>, from: Option<Change>) {
        let from = from.unwrap_or_default();
        self.told.steps.push(ExplainStep {
            subject: subject.to_owned(),
            text: text.into(),
            log_index: from.log_index,
            log_time: from.log_time,
            author: from.author,
            cause: from.message,
        });
    }

    fn conclude(&mut self, fate: Fate, text: impl Into<String>) {
        self.told.result = fate.into();
        self.told.conclusion = text.into();
    }

    fn listener(&mut self, document: &Document, farm: &Farm, asked: &Asked) -> Result<(), ApiError> {
        let named = |listener: &&Listener| asked.listener.is_empty() || listener.name == asked.listener;
        let listener = farm.listeners.iter().find(named).ok_or_else(|| {
            error::not_found("listener", &asked.listener, farm.listeners.iter().map(|listener| listener.name.as_str()))
        })?;
        match (&listener.vip, listener.address) {
            (Some(vip), _) if document.vips.iter().any(|known| known.name == *vip) => {
                let (_, shown) = view::vip(self.state, vip)?;
                self.step("listener", format!("{} on port {} of VIP {vip}", listener.name, listener.port), None);
                if let Some(moved) = &shown.moved {
                    let text = format!("an operator wants VIP {vip} at {}", moved.node_name);
                    self.step("vip", text, moved.change.clone());
                }
                let text = match shown.owner_id {
                    0 => format!("VIP {vip} is held by nobody, by the log"),
                    _ => format!("VIP {vip} is held by {}, epoch {}", shown.owner_name, shown.epoch),
                };
                self.step("vip", text, shown.since);
            }
            (_, address) => {
                let address = address.map_or_else(|| "every address".to_owned(), |address| address.to_string());
                let nodes = if listener.nodes.is_empty() { "every node" } else { "the nodes with its labels" };
                self.step(
                    "listener",
                    format!("{} on {address} port {} of {nodes}", listener.name, listener.port),
                    None,
                );
            }
        }
        Ok(())
    }

    fn service<'f>(&mut self, farm: &'f Farm, asked: &Asked) -> Option<&'f Service> {
        let mut passed = Vec::new();
        for service in &farm.services {
            let text = match &service.matches {
                None => format!("{} takes what no earlier service took", service.name),
                Some(rule) if self.reader.takes(rule, &asked.host, &asked.path) => {
                    format!("{} takes host {:?} and path {:?}", service.name, asked.host, asked.path)
                }
                Some(_) => {
                    passed.push(service.name.as_str());
                    continue;
                }
            };
            let text = if passed.is_empty() { text } else { format!("{text}; not taken by {}", passed.join(", ")) };
            self.step("service", text, None);
            return Some(service);
        }
        self.step("service", format!("none of {} takes it", farm.services.len()), None);
        match &farm.fallback {
            Some(fallback) => {
                self.step("fallback", format!("the farm's: status {}", fallback.status), None);
                self.conclude(
                    Fate::Fallback,
                    format!("no service takes it; it is answered with status {}", fallback.status),
                );
            }
            None => self.conclude(Fate::Refused, "no service takes it and the farm has no fallback"),
        }
        None
    }

    fn candidates(&mut self, farm: &Farm, service: &Service) -> Vec<Candidate> {
        let panicking = view::panicking(self.state, farm, service);
        if panicking {
            let text =
                format!("less than {} % of the primaries are up: health is ignored", service.panic_threshold_percent);
            self.step("health", text, None);
        }
        let state = self.state;
        let backends = service.backends.iter().filter_map(|backend| {
            let name = format!("{}/{}/{}", farm.name, service.name, backend.name);
            let (id, shown) = view::backend(state, &name).ok()?;
            let unusable = view::eligibility(state, id, backend).must_leave(panicking);
            Some(Candidate { id, shown, unusable })
        });
        backends.collect()
    }

    fn cookie(
        &mut self,
        farm: &Farm,
        service: &Service,
        slot: &Slot,
        config: &CookiePersistence,
        asked: &Asked,
        candidates: &[Candidate],
    ) {
        self.step("persistence", format!("by the signed cookie {}", config.name), None);
        let keys = self.state.cluster().map_or_else(Vec::new, |cluster| cluster.cookie_keys.clone());
        let ttl = config.ttl.map(|ttl| ttl.as_millis().div_ceil(1000));
        let now = self.state.log_time().as_millis() / 1000;
        let mut values = asked.cookies.iter().filter(|(name, _)| *name == config.name).peekable();
        if values.peek().is_none() {
            self.step("binding", format!("the request has no cookie {}", config.name), None);
            return self.balance(farm, service, candidates, Fate::NewBinding);
        }
        let named =
            values.find_map(|(_, value)| self.reader.cookie_backend(value.as_bytes(), &keys, slot.service, ttl, now));
        match named {
            Some(backend) => self.bound(farm, service, candidates, backend),
            None => {
                self.step(
                    "binding",
                    "the cookie does not verify (changed, expired, of another service, or its key is gone)",
                    None,
                );
                self.balance(farm, service, candidates, Fate::NewBinding);
            }
        }
    }

    fn table(
        &mut self,
        farm: &Farm,
        service: &Service,
        slot: &Slot,
        config: &TablePersistence,
        asked: &Asked,
        candidates: &[Candidate],
    ) {
        let secret = self.state.cluster().map(|cluster| cluster.table_secret).unwrap_or_default();
        let key = self.reader.table_key(&config.key, &secret, slot.service, asked.client, &asked.head);
        let by = format!("by the table of bindings, key: {}", key_words(config));
        let Some(key) = key else {
            self.step("persistence", format!("{by}; the request carries no key"), None);
            return self.balance(farm, service, candidates, Fate::Balanced);
        };
        self.step("persistence", format!("{by}; its hash is {}", view::key_hash_text(key)), None);
        let Some(record) = self.state.binding(slot.service, key) else {
            let text = match self.state.binding_or_ended(slot.service, key) {
                Some(record) if record.is_deleted() => "its binding was deleted",
                Some(_) => "its binding ended and was not renewed",
                None => "it is not bound",
            };
            self.step("binding", text, None);
            return self.balance(farm, service, candidates, Fate::NewBinding);
        };
        let shown = view::binding(self.state, slot, key, &record);
        let how = match record.provenance {
            Provenance::Created => "its first request",
            Provenance::Replaced => "its first request after its earlier binding had ended",
            Provenance::Deleted => "an operator who deleted it",
            Provenance::Rehomed(cause) => rehome_words(cause),
        };
        // What somebody did, or what was so.
        let by = match record.provenance {
            Provenance::Rehomed(cause) if cause != RehomeCause::Operator => "because",
            _ => "by",
        };
        let index = record.index(self.state.applied());
        let by_operator = view::last_event_about(self.state, Subject::Binding(slot.service, key))
            .filter(|change| change.log_index == index.get());
        let from = by_operator.unwrap_or_else(|| Change {
            log_index: index.get(),
            log_time: shown.create_time,
            author: "ballastd".to_owned(),
            message: how.to_owned(),
        });
        let pinned = if record.pinned { ", pinned" } else { "" };
        self.step("binding", format!("bound to {}{pinned} {by} {how}", shown.backend), Some(from));
        self.told.binding = Some(shown);
        self.bound(farm, service, candidates, record.backend);
    }

    /// A client that is bound: it stays, or it is re-homed for a cause.
    fn bound(&mut self, farm: &Farm, service: &Service, candidates: &[Candidate], backend: BackendId) {
        let Some(candidate) = candidates.iter().find(|candidate| candidate.id == backend) else {
            let name = self.state.backend_name(backend).map_or_else(|| format!("backend {backend}"), str::to_owned);
            self.step("backend", format!("{name} is no longer configured in this service"), None);
            return self.balance(farm, service, candidates, Fate::Rehomed);
        };
        let name = candidate.shown.name.clone();
        self.describe(service, candidate);
        match candidate.unusable {
            None => {
                self.told.backend = name.clone();
                self.told.candidates = vec![candidate.shown.backend.clone()];
                self.conclude(Fate::Bound, format!("it goes to {name}, to which it is bound"));
            }
            Some(cause) => {
                self.step("binding", format!("must move: {}", rehome_words(cause)), None);
                self.balance(farm, service, candidates, Fate::Rehomed);
            }
        }
    }

    /// What an operator and the checks say of a backend.
    fn describe(&mut self, service: &Service, candidate: &Candidate) {
        let name = &candidate.shown.name;
        if let Some(wish) = self.state.backend_wish(candidate.id) {
            let word = match wish.admin {
                AdminState::Ready => "ready",
                AdminState::Drain => "draining: it keeps its bound clients and takes no new ones",
                AdminState::Maintenance => "in maintenance: it takes nothing",
            };
            let weight = wish.weight.map_or_else(String::new, |weight| format!(", weight {weight}"));
            let from = view::change(wish.index, wish.at, &wish.author);
            self.step("backend", format!("{name} is {word}{weight}, by an operator"), Some(from));
        }
        if service.health.is_none() {
            self.step("backend", format!("{name} is not checked and counts as up"), None);
            return;
        }
        let reports: Vec<_> =
            candidate.shown.reports.iter().map(|report| format!("{}: {}", report.node_name, report.detail)).collect();
        let word = match self.state.verdict(candidate.id) {
            Verdict::Unknown => "not yet checked and counts as up",
            Verdict::Up => "up",
            Verdict::Down => "down",
        };
        let local = service.health.as_ref().is_some_and(|health| health.policy == VerdictPolicy::Local);
        let note = if local { "; each node goes by its own checks" } else { "" };
        let from = self.state.standing(candidate.id).map(|standing| Change {
            log_index: standing.index.get(),
            log_time: Some(view::timestamp(standing.since)),
            author: "health checks".to_owned(),
            message: reports.join("; "),
        });
        self.step("backend", format!("{name} is {word}{note}"), from);
    }

    /// A client that is given a backend.
    fn balance(&mut self, farm: &Farm, service: &Service, candidates: &[Candidate], fate: Fate) {
        let takes =
            |backup: bool| move |candidate: &&Candidate| candidate.shown.takes_new && candidate.shown.backup == backup;
        let mut eligible: Vec<_> = candidates.iter().filter(takes(false)).collect();
        for candidate in candidates.iter().filter(|candidate| !candidate.shown.takes_new) {
            self.describe(service, candidate);
            if candidate.shown.weight == 0 {
                self.step("backend", format!("{} has weight 0 and takes no new clients", candidate.shown.name), None);
            }
        }
        if eligible.is_empty() {
            eligible = candidates.iter().filter(takes(true)).collect();
            if !eligible.is_empty() {
                self.step("balance", "no other backend is left: backups are used", None);
            }
        }
        if eligible.is_empty() {
            return self.fall_back(farm, service);
        }
        let names: Vec<_> = eligible
            .iter()
            .map(|candidate| format!("{} (weight {})", candidate.shown.backend, candidate.shown.weight))
            .collect();
        let algorithm = serde_json::to_value(service.balance)
            .ok()
            .and_then(|word| word.as_str().map(str::to_owned))
            .unwrap_or_default();
        self.step("balance", format!("{algorithm} over {}", names.join(", ")), None);
        self.told.candidates = eligible.iter().map(|candidate| candidate.shown.backend.clone()).collect();
        let one_of = match eligible.as_slice() {
            [only] => {
                self.told.backend = only.shown.name.clone();
                only.shown.name.clone()
            }
            _ => format!("one of {}", self.told.candidates.join(", ")),
        };
        self.conclude(
            fate,
            match fate {
                Fate::Rehomed => format!("it moves to {one_of}, by a log entry that names the cause, and stays there"),
                Fate::NewBinding => format!("it goes to {one_of} and stays there"),
                _ => format!("it goes to {one_of}"),
            },
        );
    }

    fn fall_back(&mut self, farm: &Farm, service: &Service) {
        self.step("balance", "no backend takes new clients", None);
        let (whose, fallback) = match (&service.fallback, &farm.fallback) {
            (Some(fallback), _) => ("the service's", Some(fallback)),
            (None, fallback) => ("the farm's", fallback.as_ref()),
        };
        let status = fallback.map_or(503, |fallback| fallback.status);
        let text = fallback
            .map_or_else(|| "none is configured: status 503".to_owned(), |_| format!("{whose}: status {status}"));
        self.step("fallback", text, None);
        self.conclude(Fate::Fallback, format!("no backend is left; it is answered with status {status}"));
    }
}

fn key_words(config: &TablePersistence) -> String {
    use ballast_core::config::TableKey;
    match &config.key {
        TableKey::Source(prefix) => {
            format!("the client's address (/{} or /{})", prefix.ipv4_prefix, prefix.ipv6_prefix)
        }
        TableKey::Header(name) => format!("the header {name}"),
        TableKey::Query(name) => format!("the query parameter {name}"),
        TableKey::PathSegment(nth) => format!("segment {nth} of the path"),
        TableKey::LearnedCookie(name) => format!("the backend's cookie {name}"),
    }
}

const fn rehome_words(cause: RehomeCause) -> &'static str {
    match cause {
        RehomeCause::BackendDown => "the checks found its backend down",
        RehomeCause::BackendMaintenance => "its backend is in maintenance",
        RehomeCause::BackendRemoved => "its backend is no longer configured",
        RehomeCause::ConnectFailed => "its backend could not be connected to",
        RehomeCause::Operator => "an operator",
    }
}
