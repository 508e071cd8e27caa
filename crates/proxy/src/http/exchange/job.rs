//! A request from its head to what is kept of it: checked, routed and rewritten in one go.
//!
//! Not here: parsing ([`super::super::request`]), rewriting ([`super::super::forward`]).

use std::{net::IpAddr, rc::Rc};

use ballast_core::{
    balance::HashKey,
    config::{Balance, Persistence},
};

use super::{answer::Asked, rate::RateClock, trail::Trail};
use crate::{
    buf::{Buf, SMALL},
    http::{
        client::Client,
        cookie::{self, Named},
        ending::Ending,
        fault::Fault,
        field::{Field, Known},
        flow::Flow,
        forward::{self, RequestContext},
        forwarded::{self, Hop},
        key, record,
        request::{self, Framing, Method, RequestHead},
        stick::Affinity,
    },
    live::{Farm, Live, Service},
    worker::Worker,
};

/// Longest request id that is taken over from a trusted proxy.
pub(super) const REQUEST_ID_MAX: usize = 64;

/// What is kept of a request once its head is parsed.
pub(super) struct Job {
    pub(super) method: Method,
    pub(super) http10: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) has_body: bool,
    pub(super) upgrade: bool,
    /// It has credentials for the connection that it is sent on.
    pub(super) logs_in_connection: bool,
    pub(super) affinity: Affinity,
    pub(super) hash: HashKey,
    /// Head and the first bytes of the body; kept until a response begins, to be sent again.
    pub(super) out: Buf,
    /// The rest of the body.
    pub(super) flow: Flow,
    /// The time that the client had for its body.
    pub(super) rate: RateClock,
}

impl Job {
    /// Whether it may be sent again when it had left and no answer came (RFC 9110 section 9.2.2).
    pub(super) fn is_repeatable(&self) -> bool {
        self.flow.is_read() && self.method.is_idempotent()
    }
}

/// What becomes of a request that was understood.
#[expect(clippy::large_enum_variant, reason = "most requests are forwarded, and none is to allocate for it")]
pub(super) enum Prepared {
    /// It goes to a backend of this service.
    Forward(Rc<Service>, Job),
    /// It is answered here.
    Answer { body: Vec<u8>, keep: bool },
    /// No service takes it.
    Unrouted(Asked),
}

/// Parses, routes and rewrites the head, and takes it off the buffer.
pub(super) fn prepare(
    client: &mut Client,
    farm: &Rc<Farm>,
    head_len: usize,
    trail: &mut Trail,
) -> Result<Prepared, Ending> {
    let worker = client.worker().clone();
    let mut fields = worker.fields.take();
    let result = prepare_with(client, farm, head_len, trail, &mut fields);
    *worker.fields.borrow_mut() = fields;
    result
}

fn prepare_with(
    client: &mut Client,
    farm: &Rc<Farm>,
    head_len: usize,
    trail: &mut Trail,
    fields: &mut Vec<Field>,
) -> Result<Prepared, Ending> {
    let worker = client.worker().clone();
    let listener = client.listener().clone();
    let live = worker.live();
    let head = &client.buf.bytes()[..head_len];
    let request = request::parse(head, &farm.head_limits, fields).map_err(Ending::Request)?;
    let (host, path) = (request.host(head), request.path(head));
    if worker.log.is_some() {
        record::begin(&mut trail.line, request.method_text.of(head), host, path, request.http10);
    }
    let peer = client.peer.ip().to_canonical();
    let trusted = farm.plan.trusted_proxies.contains(peer);
    let real_client =
        if trusted { forwarded::real_client(peer, &farm.plan.trusted_proxies, head, fields) } else { peer };
    trail.real_client = real_client;
    set_request_id(trail, trusted, head, fields, || (worker.random(), worker.random()));
    if request.max_forwards == Some(0) {
        return Ok(own_answer(client, head_len, &request));
    }
    let Some(service) = farm.route(host, path).cloned() else { return Ok(unrouted(client, head_len, &request)) };
    trail.service = Some(service.clone());
    let body_max = farm.plan.limits.body_bytes_max.as_bytes();
    if matches!(request.framing, Framing::Length(length) if body_max > 0 && length > body_max) {
        return Err(Ending::Request(Fault::BodyTooLarge));
    }
    // Only to a WebSocket, and only a request without a body: what else switches protocols would be
    // a tunnel nobody asked the operator for.
    let upgrade = request
        .upgrade
        .map(|u| u.of(head))
        .filter(|u| u.eq_ignore_ascii_case(b"websocket") && request.framing == Framing::None);
    let mut out = Buf::default();
    if client.buf.len() > SMALL / 2 {
        worker.pool.lend_large(&mut out);
    } else {
        worker.pool.lend_small(&mut out);
    }
    let default_host = if request.authority.is_empty() { listener.identity.address.to_string() } else { String::new() };
    let port = listener.identity.address.port();
    let hop = Hop { peer, trusted, real_client, port, authority: request.authority.of(head) };
    let context = RequestContext { hop, default_host: default_host.as_bytes(), request_id: &trail.request_id, upgrade };
    forward::write_request(out.vec(), head, &request, fields, &context);
    let mut job = Job {
        method: request.method,
        http10: request.http10,
        keep_alive: request.keep_alive,
        expects_continue: request.expects_continue,
        has_body: !matches!(request.framing, Framing::None | Framing::Length(0)),
        upgrade: upgrade.is_some(),
        logs_in_connection: request.logs_in_connection,
        affinity: affinity(&worker, &live, &service, real_client, head, &request, fields),
        hash: hash_key(&live.plan.table_secret, service.plan.balance, real_client, request.target(head)),
        out,
        flow: Flow::new(request.framing, request.framing, body_max),
        rate: RateClock::new(client.timer.now_ms()),
    };
    client.buf.consume(head_len);
    let absorbed = job.flow.absorb_into(&mut client.buf, job.out.vec());
    worker.pool.reclaim(&mut client.buf);
    absorbed.map_err(Ending::Request)?;
    Ok(Prepared::Forward(service, job))
}

fn set_request_id(
    trail: &mut Trail,
    trusted: bool,
    head: &[u8],
    fields: &[Field],
    random: impl FnOnce() -> (u64, u64),
) {
    let told = fields.iter().find(|f| trusted && f.known == Known::XRequestId).map(|f| f.value.of(head));
    match told {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_MAX && id.iter().all(u8::is_ascii_graphic) => {
            trail.request_id.extend_from_slice(id);
        }
        _ => {
            let (a, b) = random();
            for byte in a.to_be_bytes().into_iter().chain(b.to_be_bytes()) {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                trail.request_id.push(HEX[usize::from(byte >> 4)]);
                trail.request_id.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
}

/// The answer to `OPTIONS` or `TRACE` whose `Max-Forwards` ends here. A trace shows the request line
/// only: fields may hold secrets (RFC 9110 section 9.3.8).
fn own_answer(client: &mut Client, head_len: usize, request: &RequestHead) -> Prepared {
    let head = &client.buf.bytes()[..head_len];
    let mut body = Vec::new();
    if request.method == Method::Trace {
        body.extend_from_slice(&head[..memchr::memchr(b'\n', head).map_or(0, |lf| lf + 1)]);
    }
    client.buf.consume(head_len);
    Prepared::Answer { body, keep: is_kept(request) }
}

fn unrouted(client: &mut Client, head_len: usize, request: &RequestHead) -> Prepared {
    client.buf.consume(head_len);
    let keep = is_kept(request) && !client.must_end();
    Prepared::Unrouted(Asked { head_only: request.method == Method::Head, http10: request.http10, keep })
}

/// Whether the connection can go on after a request whose body nobody reads.
fn is_kept(request: &RequestHead) -> bool {
    request.keep_alive && matches!(request.framing, Framing::None | Framing::Length(0))
}

/// Cookies of one request that are looked at. A browser sends several when paths or domains differ.
const COOKIES_MAX: usize = 8;

fn affinity(
    worker: &Worker,
    live: &Live,
    service: &Service,
    client: IpAddr,
    head: &[u8],
    request: &RequestHead,
    fields: &[Field],
) -> Affinity {
    match &service.plan.persistence {
        None => Affinity::None,
        Some(Persistence::Cookie(config)) => {
            let ttl = config.ttl.map(|ttl| ttl.as_millis().div_ceil(1000));
            let now = worker.wall.secs();
            let verify = |value| cookie::verify(value, &live.plan.cookie_keys, service.plan.id, ttl, now);
            let values = cookie::values(head, fields, config.name.as_bytes()).take(COOKIES_MAX);
            let mut named = values.filter_map(verify).peekable();
            let first = named.peek().copied();
            // One that says where the client is does not lose against one that says where it was.
            let passive = &*worker.shared.ports.passive;
            let stays = |named: &Named| match service.position(named.backend) {
                Some(at) => service.must_leave(at, passive).is_none(),
                None => named.backend > live.plan.newest_backend,
            };
            Affinity::Cookie(named.find(stays).or(first))
        }
        Some(Persistence::Table(table)) => {
            let key =
                key::of_request(&table.key, &live.plan.table_secret, service.plan.id, client, head, request, fields);
            key.map_or(Affinity::None, Affinity::Key)
        }
    }
}

fn hash_key(secret: &[u8; 16], balance: Balance, client: IpAddr, target: &[u8]) -> HashKey {
    match balance {
        Balance::SourceHash => HashKey::of_source(secret, client),
        Balance::UriHash => HashKey::of_bytes(secret, target),
        Balance::RoundRobin
        | Balance::WeightedRoundRobin
        | Balance::LeastConnections
        | Balance::WeightedLeastConnections
        | Balance::RandomOfTwo => HashKey::default(),
    }
}
