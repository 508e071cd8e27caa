//! One request and its response.
//!
//! The head is parsed and everything needed of it is taken while it lies in the buffer: where it
//! goes, who the client is, and the head to send, written straight into one buffer. After that the
//! request's bytes are not looked at again. Request body and response are moved by one poll
//! function each way, so a backend may answer before it has read everything, and either side may be slow.
//!
//! Where it may be tried again: when no connection could be made, when nothing was sent, or when a
//! connection that had been idle closed without a byte of response and the method is idempotent
//! (RFC 9110 section 9.2.2), each time only while the whole request is still at hand. A reused
//! connection that closed costs one extra attempt at most, because the next one is new; attempts
//! after failures to connect are also bounded by a budget of a fifth of the requests.
//!
//! Not here: which backend ([`super::stick`]), the connection between requests ([`super::client`]).

use std::{
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    task::{Context, Poll},
};

use ballast_core::{
    balance::HashKey,
    config::{Balance, Persistence, TableKey, Timeouts},
    ids::BackendId,
    persistence::KeyHash,
};
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::{
    client::Client,
    cookie,
    ending::{self, Answer, Ending},
    fault::Fault,
    field::{Field, HeadScan, Known},
    flow::{Flow, FlowError},
    forward::{self, Connection, RequestContext, ResponseContext},
    forwarded::{self, Hop},
    key, record,
    request::{self, Framing, Method, RequestHead},
    response,
    stick::{Affinity, Chooser},
    tunnel,
};
use crate::{
    backend::{Available, Backend, Link},
    buf::{Buf, SMALL},
    clock,
    live::{Farm, Live, Service},
    ticks::Elapsed,
};

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The next request.
    Keep,
    /// Closed; all was said and read.
    Close,
    /// Closed once the client has had time to read.
    Linger,
    /// Broken off.
    Reset,
}

/// Interim responses to one request; real ones are one or two.
const INTERIM_MAX: u32 = 16;
/// Longest request id that is taken over from a trusted proxy.
const REQUEST_ID_MAX: usize = 64;

/// What is kept of a request once its head is parsed.
struct Job {
    method: Method,
    http10: bool,
    keep_alive: bool,
    expects_continue: bool,
    upgrade: bool,
    affinity: Affinity,
    hash: HashKey,
    /// Head and the first bytes of the body; kept until a response begins, to be sent again.
    out: Buf,
    /// The rest of the body.
    flow: Flow,
}

/// What the access log will say.
struct Trail {
    line: Vec<u8>,
    request_id: SmallVec<[u8; REQUEST_ID_MAX]>,
    real_client: IpAddr,
    began_ns: u64,
    head_ns: u64,
    chosen_ns: u64,
    connected_ns: u64,
    first_ns: u64,
    service: Option<Rc<Service>>,
    at: Option<usize>,
    status: u16,
    binding: &'static str,
    cause: &'static str,
    reason: &'static str,
    retries: u32,
    bytes_in: u64,
    bytes_out: u64,
}

impl Trail {
    fn new(client: &Client, now_ns: u64) -> Self {
        let line = match client.worker().log {
            Some(_) => client.worker().lines.borrow_mut().pop().unwrap_or_default(),
            None => Vec::new(),
        };
        Self {
            line,
            request_id: SmallVec::new(),
            real_client: client.peer.ip(),
            began_ns: if client.began_ns == 0 { now_ns } else { client.began_ns },
            head_ns: now_ns,
            chosen_ns: 0,
            connected_ns: 0,
            first_ns: 0,
            service: None,
            at: None,
            status: 0,
            binding: "none",
            cause: "",
            reason: "none",
            retries: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }
}

/// Serves the request whose head fills the first `head_len` bytes of the buffer.
pub async fn run(client: &mut Client, farm: Rc<Farm>, head_len: usize) -> After {
    client.requests = client.requests.saturating_add(1);
    let mut trail = Trail::new(client, clock::boot_now().get());
    let (service, mut job) = match prepare(client, &farm, head_len, &mut trail) {
        Ok(Prepared::Forward(service, job)) => (service, job),
        Ok(Prepared::Answer { body, keep }) => {
            let after = answer_final(client, &mut trail, &body, keep).await;
            finish(client, &farm, trail, Ending::Answered);
            return after;
        }
        Err(ending) => {
            if matches!(ending, Ending::Request(_)) {
                client.listener().counters.rejected_total.up();
            }
            let after = answer(client, &farm, None, &mut trail, ending).await;
            finish(client, &farm, trail, ending);
            return after;
        }
    };
    service.state.earn();
    service.state.counters.in_flight.up();
    let (ending, after) = attempts(client, &farm, &service, &mut job, &mut trail).await;
    service.state.counters.in_flight.down();
    trail.bytes_in = job.flow.received;
    let worker = client.worker().clone();
    worker.pool.discard(&mut job.out);
    worker.pool.discard(&mut job.flow.pending);
    finish(client, &farm, trail, ending);
    after
}

/// Answers a client whose head never became a request.
pub async fn reject(client: &mut Client, farm: &Rc<Farm>, ending: Ending) -> After {
    client.listener().counters.rejected_total.up();
    let mut trail = Trail::new(client, clock::boot_now().get());
    let after = answer(client, farm, None, &mut trail, ending).await;
    finish(client, farm, trail, ending);
    after
}

enum Prepared {
    Forward(Rc<Service>, Job),
    Answer { body: Vec<u8>, keep: bool },
}

/// Parses, routes and rewrites the head, and takes it off the buffer.
fn prepare(client: &mut Client, farm: &Rc<Farm>, head_len: usize, trail: &mut Trail) -> Result<Prepared, Ending> {
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
    let service = farm.route(host, path).ok_or(Ending::NoRoute)?.clone();
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
    let hop = Hop { peer, trusted, port: listener.identity.address.port(), authority: request.authority.of(head) };
    let context = RequestContext { hop, default_host: default_host.as_bytes(), request_id: &trail.request_id, upgrade };
    forward::write_request(out.vec(), head, &request, fields, &context);
    let mut job = Job {
        method: request.method,
        http10: request.http10,
        keep_alive: request.keep_alive,
        expects_continue: request.expects_continue,
        upgrade: upgrade.is_some(),
        affinity: affinity(&live, &service, worker.wall.secs(), real_client, head, &request, fields),
        hash: hash_key(&live.plan.table_secret, service.plan.balance, real_client, request.target(head)),
        out,
        flow: Flow::new(request.framing, request.framing, body_max),
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
    let keep = request.keep_alive && matches!(request.framing, Framing::None | Framing::Length(0));
    client.buf.consume(head_len);
    Prepared::Answer { body, keep }
}

fn affinity(
    live: &Live,
    service: &Service,
    now: u64,
    client: IpAddr,
    head: &[u8],
    request: &RequestHead,
    fields: &[Field],
) -> Affinity {
    match &service.plan.persistence {
        None => Affinity::None,
        Some(Persistence::Cookie(config)) => {
            let ttl = config.ttl.map(|ttl| ttl.as_millis().div_ceil(1000));
            let verify = |value| cookie::verify(value, &live.plan.cookie_keys, service.plan.id, ttl, now);
            Affinity::Cookie(cookie::values(head, fields, config.name.as_bytes()).find_map(verify))
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

/// How an attempt on one connection went.
enum Attempt {
    /// The request has ended.
    Over(Ending, After),
    /// Nothing was lost: it may be sent again on a new connection.
    Again,
}

async fn attempts(
    client: &mut Client,
    farm: &Rc<Farm>,
    service: &Rc<Service>,
    job: &mut Job,
    trail: &mut Trail,
) -> (Ending, After) {
    let mut tried: SmallVec<[BackendId; 4]> = SmallVec::new();
    let mut fresh = false;
    loop {
        let chooser = Chooser {
            worker: client.worker(),
            timer: &client.timer,
            farm,
            service,
            affinity: job.affinity,
            hash: job.hash,
            tried: &tried,
        };
        let choice = match chooser.choose().await {
            Ok(choice) => choice,
            Err(ending) => return fail(client, farm, service, job, trail, ending).await,
        };
        let backend = service.backends[choice.at].clone();
        (trail.at, trail.reason, trail.cause) = (Some(choice.at), choice.reason, choice.cause);
        // A second attempt finds what the first one bound.
        if trail.binding == "none" || choice.binding != "hit" {
            trail.binding = choice.binding;
        }
        trail.chosen_ns = clock::boot_now().get();
        let link = match acquire(client, farm, service, &backend, fresh).await {
            Ok(link) => link,
            Err(Ending::ConnectFailed) => {
                client.worker().shared.ports.passive.observed(backend.id, false);
                backend.counters.connect_failures_total.up();
                if !retry(service, trail) {
                    return fail(client, farm, service, job, trail, Ending::ConnectFailed).await;
                }
                if choice.may_move {
                    tried.push(backend.id);
                }
                continue;
            }
            Err(ending) => return fail(client, farm, service, job, trail, ending).await,
        };
        trail.connected_ns = clock::boot_now().get();
        // The last look before a backend is touched: the VIP may have been lost while waiting.
        if !client.listener().may_serve() {
            backend.put(link, client.timer.now_ms());
            return fail(client, farm, service, job, trail, Ending::VipNotHeld).await;
        }
        backend.in_flight.set(backend.in_flight.get() + 1);
        backend.counters.in_flight.up();
        backend.counters.requests_total.up();
        let set_cookie = choice.set_cookie.then_some(backend.id);
        let attempt = Sending { farm, service, backend: &backend, job, trail }.run(client, link, set_cookie).await;
        backend.counters.in_flight.down();
        backend.in_flight.set(backend.in_flight.get() - 1);
        match attempt {
            Attempt::Over(ending, after) => {
                if ending.blames_backend() {
                    backend.counters.response_failures_total.up();
                    client.worker().shared.ports.passive.observed(backend.id, false);
                }
                if trail.status == 0 && ending.status() != 0 {
                    return fail(client, farm, service, job, trail, ending).await;
                }
                return (ending, after);
            }
            Attempt::Again => {
                fresh = true;
                trail.retries += 1;
                service.state.counters.retries_total.up();
            }
        }
    }
}

/// Whether one more attempt may be made after a failure to connect.
fn retry(service: &Service, trail: &mut Trail) -> bool {
    if trail.retries >= service.plan.retries_max {
        return false;
    }
    if !service.state.spend() {
        service.state.counters.retries_refused_total.up();
        return false;
    }
    trail.retries += 1;
    service.state.counters.retries_total.up();
    true
}

/// A connection to `backend`: an idle one (unless `fresh`), or a new one, after a wait in line if it is at its limit.
async fn acquire(
    client: &Client,
    farm: &Farm,
    service: &Service,
    backend: &Rc<Backend>,
    fresh: bool,
) -> Result<Link, Ending> {
    let mut available = if fresh { backend.take_new() } else { backend.take() };
    let queue_ms = service.plan.queue_timeout_ms;
    let queue_until = client.timer.after(queue_ms);
    loop {
        let permit = match available {
            Available::Link(link) => return Ok(link),
            Available::Permit(permit) => permit,
            Available::Full if queue_ms == 0 => return Err(Ending::QueueFull),
            Available::Full => {
                service.state.counters.queued.up();
                let (mut place, elsewhere) = poll_fn(|cx| Poll::Ready(backend.queue(cx))).await;
                if elsewhere {
                    client.worker().ask_for_idle(backend.id);
                }
                client.timer.arm_at(queue_until);
                let granted = poll_fn(|_| match place.poll() {
                    Poll::Pending if client.timer.is_over() => Poll::Ready(Err(Ending::QueueTimeout)),
                    poll => poll.map(Ok),
                })
                .await;
                client.timer.disarm();
                service.state.counters.queued.down();
                match granted? {
                    Some(permit) => permit,
                    None => {
                        available = backend.take();
                        continue;
                    }
                }
            }
        };
        let address = backend.address();
        let connected = client.timer.limit(farm.plan.timeouts.connect.as_millis(), TcpStream::connect(address)).await;
        return match connected {
            Ok(Ok(stream)) => {
                backend.counters.connects_total.up();
                // Without it small requests would wait for acknowledgements; failing costs only that.
                let _ = stream.set_nodelay(true);
                Ok(Link::new(stream, address, permit, backend))
            }
            Ok(Err(_)) | Err(Elapsed) => Err(Ending::ConnectFailed),
        };
    }
}

/// One attempt on one connection.
struct Sending<'a> {
    farm: &'a Rc<Farm>,
    service: &'a Rc<Service>,
    backend: &'a Rc<Backend>,
    job: &'a mut Job,
    trail: &'a mut Trail,
}

/// What stands between the request and its response's head.
enum Waited {
    /// A head of this length.
    Head(usize),
    /// The backend closed, after this many bytes.
    Closed(usize),
    Failed(Ending),
}

/// Where sending the request stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Going,
    All,
    /// The backend takes no more; it may have answered all the same.
    Broken,
}

/// A response's head, rewritten.
struct Ready {
    flow: Flow,
    status: u16,
    keep: bool,
    reusable: bool,
    learns: Option<KeyHash>,
    upgrades: bool,
}

impl Sending<'_> {
    async fn run(mut self, client: &mut Client, mut link: Link, set_cookie: Option<BackendId>) -> Attempt {
        let worker = client.worker().clone();
        self.job.out.rewind();
        let mut input = Buf::default();
        let attempt = self.converse(client, &mut link, &mut input, set_cookie).await;
        let clean = input.is_empty();
        worker.pool.discard(&mut input);
        match attempt {
            Ok((ending, after, reusable)) => {
                if reusable && clean {
                    self.backend.put(link, client.timer.now_ms());
                }
                Attempt::Over(ending, after)
            }
            Err(attempt) => attempt,
        }
    }

    async fn converse(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        input: &mut Buf,
        set_cookie: Option<BackendId>,
    ) -> Result<(Ending, After, bool), Attempt> {
        let mut sent = Sent::Going;
        // The body may be sent again only while none of it has left our hands.
        let replayable = self.job.flow.is_read();
        let mut interim = 0;
        let head_len = loop {
            let head_len = match self.await_head(client, link, input, &mut sent).await {
                Waited::Head(length) => length,
                Waited::Closed(received) => {
                    let unsent = self.job.out.rewound_len() == self.job.out.len();
                    let safe =
                        replayable && link.reused && received == 0 && (unsent || self.job.method.is_idempotent());
                    if safe && interim == 0 {
                        return Err(Attempt::Again);
                    }
                    return Err(Attempt::Over(Ending::BackendClosed, After::Linger));
                }
                Waited::Failed(ending) => return Err(Attempt::Over(ending, After::Linger)),
            };
            if !is_interim(&input.bytes()[..head_len]) {
                break head_len;
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Err(Attempt::Over(Ending::InterimFlood, After::Linger));
            }
            self.pass_interim(client, input, head_len).await.map_err(|ending| Attempt::Over(ending, After::Reset))?;
        };
        self.trail.first_ns = clock::boot_now().get();
        let mut ready = self
            .prepare(client, input, head_len, sent, set_cookie)
            .map_err(|ending| Attempt::Over(ending, After::Linger))?;
        if sent == Sent::All {
            client.worker().pool.discard(&mut self.job.out);
        }
        if let (Some(key), Some(Persistence::Table(table))) = (ready.learns, &self.service.plan.persistence) {
            let chooser = Chooser {
                worker: client.worker(),
                timer: &client.timer,
                farm: self.farm,
                service: self.service,
                affinity: Affinity::None,
                hash: HashKey::default(),
                tried: &[],
            };
            self.trail.binding = chooser.learn(key, self.backend.id, table).await;
        }
        self.trail.status = ready.status;
        self.count_status(client, ready.status);
        if ready.upgrades {
            let idle_ms = self.farm.plan.timeouts.tunnel_idle.as_millis();
            let early = std::mem::take(input);
            let (ending, up, down) = tunnel::run(client, &mut link.stream, early, ready.flow, idle_ms).await;
            self.job.flow.received = up;
            self.trail.bytes_out = down;
            client.listener().counters.bytes_out_total.add(down);
            return Ok((ending, After::Close, false));
        }
        let ending = self.relay(client, link, input, &mut sent, &mut ready.flow).await;
        self.trail.bytes_out = ready.flow.written;
        client.listener().counters.bytes_out_total.add(ready.flow.written);
        client.worker().pool.discard(&mut ready.flow.pending);
        Ok(match ending {
            Ending::Done if sent == Sent::All => {
                let rest = if client.buf.is_empty() { After::Close } else { After::Linger };
                (Ending::Done, if ready.keep { After::Keep } else { rest }, ready.reusable)
            }
            Ending::Done => (Ending::Done, After::Linger, false),
            ending => (ending, After::Reset, false),
        })
    }

    /// Sends the request and waits for the head of a response.
    async fn await_head(&mut self, client: &mut Client, link: &mut Link, input: &mut Buf, sent: &mut Sent) -> Waited {
        let worker = client.worker().clone();
        let timeouts = &self.farm.plan.timeouts;
        let head_max = self.farm.head_bytes_max;
        let mut scan = HeadScan::default();
        let job = &mut *self.job;
        let mut pace = Pace::new(client, timeouts, job);
        let mut look = true;
        let waited = poll_fn(|cx| {
            if let Err(ending) = poll_send(cx, client, &mut link.stream, job, sent) {
                return Poll::Ready(Waited::Failed(ending));
            }
            loop {
                if look && !input.is_empty() {
                    match scan.find_end(input.bytes()) {
                        Ok(Some(length)) if length <= head_max => return Poll::Ready(Waited::Head(length)),
                        Ok(None) if input.len() <= head_max => {}
                        Ok(_) => return Poll::Ready(Waited::Failed(Ending::Response(Fault::HeadTooLarge))),
                        Err(fault) => return Poll::Ready(Waited::Failed(Ending::Response(fault))),
                    }
                }
                worker.pool.lend_small(input);
                input.make_room(1);
                match input.poll_fill(cx, &mut link.stream, usize::MAX) {
                    Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Waited::Closed(input.len())),
                    Poll::Ready(Ok(_)) => look = true,
                    Poll::Pending => {
                        worker.pool.reclaim(input);
                        break;
                    }
                }
            }
            match pace.check(client, timeouts, job, *sent) {
                Some(ending) => Poll::Ready(Waited::Failed(ending)),
                None => Poll::Pending,
            }
        })
        .await;
        client.timer.disarm();
        waited
    }

    /// Passes an interim response on to a client that knows what it is.
    async fn pass_interim(&mut self, client: &mut Client, input: &mut Buf, head_len: usize) -> Result<(), Ending> {
        let worker = client.worker().clone();
        let mut fields = worker.fields.take();
        let head = &input.bytes()[..head_len];
        let parsed = response::parse(head, self.job.method, self.farm.head_limits.fields_max, &mut fields);
        let mut out = Buf::default();
        if let Ok(response) = &parsed {
            // RFC 9110 section 15.2: never to an HTTP/1.0 client; 100 only to one that waits for it.
            let wanted = !self.job.http10 && (response.status != 100 || std::mem::take(&mut self.job.expects_continue));
            if wanted {
                worker.pool.lend_small(&mut out);
                let context = ResponseContext {
                    framing: Framing::None,
                    connection: Connection::Keep,
                    date: b"",
                    set_cookie: b"",
                };
                forward::write_response(out.vec(), head, response, &fields, &context);
            }
        }
        *worker.fields.borrow_mut() = fields;
        parsed.map_err(Ending::Response)?;
        input.consume(head_len);
        worker.pool.reclaim(input);
        let result = client.write(&mut out, self.farm.plan.timeouts.between_bytes.as_millis()).await;
        worker.pool.discard(&mut out);
        result
    }

    /// Rewrites the response's head and takes what is there of its body.
    fn prepare(
        &mut self,
        client: &Client,
        input: &mut Buf,
        head_len: usize,
        sent: Sent,
        set_cookie: Option<BackendId>,
    ) -> Result<Ready, Ending> {
        let worker = client.worker().clone();
        let mut fields = worker.fields.take();
        let result = self.prepare_with(client, input, head_len, sent, set_cookie, &mut fields);
        *worker.fields.borrow_mut() = fields;
        result
    }

    fn prepare_with(
        &mut self,
        client: &Client,
        input: &mut Buf,
        head_len: usize,
        sent: Sent,
        set_cookie: Option<BackendId>,
        fields: &mut Vec<Field>,
    ) -> Result<Ready, Ending> {
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
            && !live.plan.draining
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
        Ok(Ready { flow, status: response.status, keep, reusable, learns, upgrades })
    }

    fn count_status(&self, client: &Client, status: u16) {
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
        client.worker().shared.ports.passive.observed(self.backend.id, status < 500);
    }

    /// Moves the response, and what is left of the request, to their ends.
    async fn relay(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        input: &mut Buf,
        sent: &mut Sent,
        flow: &mut Flow,
    ) -> Ending {
        let worker = client.worker().clone();
        let timeouts = &self.farm.plan.timeouts;
        let job = &mut *self.job;
        let mut progress = (0, 0);
        let between_ms = timeouts.between_bytes.as_millis();
        let ending = poll_fn(|cx| {
            // The response matters more now: a request that cannot be sent further ends with it.
            if *sent == Sent::Going && poll_send(cx, client, &mut link.stream, job, sent).is_err() {
                *sent = Sent::Broken;
            }
            match flow.poll(cx, &mut link.stream, input, &mut client.stream, &worker.pool) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ending::Done),
                Poll::Ready(Err(FlowError::Truncated | FlowError::Source)) => return Poll::Ready(Ending::Truncated),
                Poll::Ready(Err(FlowError::Target)) => return Poll::Ready(Ending::ClientClosed),
                Poll::Ready(Err(FlowError::Fault(fault))) => return Poll::Ready(Ending::ResponseBroken(fault)),
                Poll::Pending => {}
            }
            let now = (flow.received, flow.written);
            if now != progress || progress == (0, 0) {
                progress = now;
                client.timer.arm(between_ms);
            }
            if !client.timer.is_over() {
                Poll::Pending
            } else if flow.waits_for_target() {
                Poll::Ready(Ending::ClientStalled)
            } else {
                Poll::Ready(Ending::BackendStalled)
            }
        })
        .await;
        client.timer.disarm();
        ending
    }
}

/// Sends the request on as far as it goes.
fn poll_send(
    cx: &mut Context<'_>,
    client: &mut Client,
    to: &mut TcpStream,
    job: &mut Job,
    sent: &mut Sent,
) -> Result<(), Ending> {
    if *sent != Sent::Going {
        return Ok(());
    }
    match job.out.poll_drain(cx, to) {
        Poll::Pending => return Ok(()),
        Poll::Ready(Err(_)) => {
            *sent = Sent::Broken;
            return Ok(());
        }
        Poll::Ready(Ok(())) => {}
    }
    let worker = client.worker().clone();
    let received = job.flow.received;
    let polled = job.flow.poll(cx, &mut client.stream, &mut client.buf, to, &worker.pool);
    client.listener().counters.bytes_in_total.add(job.flow.received - received);
    match polled {
        Poll::Pending => Ok(()),
        Poll::Ready(Ok(())) => {
            *sent = Sent::All;
            Ok(())
        }
        Poll::Ready(Err(FlowError::Target)) => {
            *sent = Sent::Broken;
            Ok(())
        }
        Poll::Ready(Err(FlowError::Truncated | FlowError::Source)) => Err(Ending::ClientClosed),
        Poll::Ready(Err(FlowError::Fault(fault))) => Err(Ending::Request(fault)),
    }
}

/// The deadlines between a request's head and its response's.
struct Pace {
    began_ms: u64,
    received: u64,
    written: u64,
    was: Option<Sent>,
}

impl Pace {
    fn new(client: &Client, _timeouts: &Timeouts, job: &Job) -> Self {
        Self { began_ms: client.timer.now_ms(), received: job.flow.received, written: job.flow.written, was: None }
    }

    /// Sets the deadline after progress; says what ran out when it has passed.
    fn check(&mut self, client: &Client, timeouts: &Timeouts, job: &Job, sent: Sent) -> Option<Ending> {
        let moved = job.flow.received != self.received || job.flow.written != self.written;
        if moved || self.was != Some(sent) {
            (self.received, self.written, self.was) = (job.flow.received, job.flow.written, Some(sent));
            let waits_for_backend = sent != Sent::Going || !job.out.is_empty() || job.flow.waits_for_target();
            let deadline = if sent != Sent::Going {
                client.timer.after(timeouts.response_header.as_millis())
            } else if waits_for_backend {
                client.timer.after(timeouts.between_bytes.as_millis())
            } else {
                let stall = client.timer.after(timeouts.client_body.as_millis());
                stall.min(self.rate_deadline(client, timeouts, job))
            };
            client.timer.arm_at(deadline);
        }
        if !client.timer.is_over() {
            return None;
        }
        let waits_for_client = sent == Sent::Going && job.out.is_empty() && !job.flow.waits_for_target();
        Some(if waits_for_client { Ending::ClientBodyTimeout } else { Ending::BackendTimeout })
    }

    /// Until when the bytes received so far are fast enough. A client told to wait for 100 has not begun.
    fn rate_deadline(&self, client: &Client, timeouts: &Timeouts, job: &Job) -> u64 {
        let rate = u64::from(timeouts.body_rate_min);
        if rate == 0 || (job.expects_continue && job.flow.received == 0) {
            return u64::MAX;
        }
        let earned_ms = job.flow.received.saturating_mul(1000) / rate;
        let grace_ms = timeouts.client_body.as_millis();
        let base = client.timer.after(0) - client.timer.now_ms() + self.began_ms;
        base.saturating_add(grace_ms).saturating_add(earned_ms)
    }
}

/// Whether a head is one of 1xx, but not 101, which is final.
fn is_interim(head: &[u8]) -> bool {
    matches!(head.get(8..12), Some([b' ', b'1', rest @ ..]) if rest != b"01")
}

/// Answers a request that no response came for, by the fallback where nobody was left to serve.
async fn fail(
    client: &mut Client,
    farm: &Rc<Farm>,
    service: &Rc<Service>,
    job: &mut Job,
    trail: &mut Trail,
    ending: Ending,
) -> (Ending, After) {
    if ending.status() == 0 {
        service.state.counters.aborted_total.up();
        return (ending, After::Reset);
    }
    let whole = job.flow.is_done()
        && job.keep_alive
        && !client.must_end()
        && !matches!(ending, Ending::Request(_) | Ending::VipNotHeld);
    let keep = whole && !matches!(ending, Ending::ClientBodyTimeout);
    let request = Asked { head_only: job.method == Method::Head, http10: job.http10, keep };
    let after = answer(client, farm, Some((service, request)), trail, ending).await;
    match trail.status / 100 {
        2 => service.state.counters.responses_2xx_total.up(),
        3 => service.state.counters.responses_3xx_total.up(),
        4 => service.state.counters.responses_4xx_total.up(),
        _ => service.state.counters.responses_5xx_total.up(),
    }
    (ending, after)
}

/// What matters of a request for an answer of our own.
#[derive(Clone, Copy)]
struct Asked {
    head_only: bool,
    http10: bool,
    keep: bool,
}

async fn answer(
    client: &mut Client,
    farm: &Rc<Farm>,
    asked: Option<(&Rc<Service>, Asked)>,
    trail: &mut Trail,
    ending: Ending,
) -> After {
    let fallback = ending
        .falls_back()
        .then(|| asked.and_then(|(s, _)| s.plan.fallback.as_ref()).or(farm.plan.fallback.as_ref()))
        .flatten();
    let asked_by = asked.map(|(_, asked)| asked);
    let close = asked_by.is_none_or(|asked| !asked.keep || asked.http10);
    let date = client.worker().wall.date();
    let mut body = SmallVec::<[u8; 128]>::new();
    let (status, content_type) = match fallback {
        Some(fallback) => {
            if let Some((service, _)) = asked {
                service.state.counters.fallback_total.up();
            }
            body.extend_from_slice(fallback.body.as_bytes());
            (fallback.status, fallback.content_type.as_bytes())
        }
        None => {
            let status = ending.status();
            let (code, fault) = ending.code();
            let parts: [&[u8]; 5] = [
                ending::phrase(status).as_bytes(),
                b": ",
                code.as_bytes(),
                if fault.is_empty() { b"" } else { b":" },
                fault.as_bytes(),
            ];
            parts.iter().for_each(|part| body.extend_from_slice(part));
            body.push(b'\n');
            (status, &b"text/plain; charset=utf-8"[..])
        }
    };
    let mut out = Buf::default();
    client.worker().pool.lend_small(&mut out);
    let head_only = asked_by.is_some_and(|asked| asked.head_only);
    ending::write_answer(
        out.vec(),
        &Answer { status, content_type, body: &body, ending, close, head_only, date: &date },
    );
    trail.status = status;
    trail.bytes_out = out.len() as u64;
    let written = client.write(&mut out, farm.plan.timeouts.between_bytes.as_millis()).await;
    client.worker().pool.discard(&mut out);
    match (written, close) {
        (Ok(()), false) => After::Keep,
        (Ok(()), true) => After::Linger,
        (Err(_), _) => After::Close,
    }
}

async fn answer_final(client: &mut Client, trail: &mut Trail, body: &[u8], keep: bool) -> After {
    let keep = keep && !client.must_end();
    let date = client.worker().wall.date();
    let mut out = Buf::default();
    client.worker().pool.lend_small(&mut out);
    let answer = Answer {
        status: 200,
        content_type: b"message/http",
        body,
        ending: Ending::Answered,
        close: !keep,
        head_only: false,
        date: &date,
    };
    ending::write_answer(out.vec(), &answer);
    trail.status = 200;
    trail.bytes_out = out.len() as u64;
    let written = client.write(&mut out, 10_000).await;
    client.worker().pool.discard(&mut out);
    match (written, keep) {
        (Ok(()), true) => After::Keep,
        (Ok(()), false) => After::Linger,
        (Err(_), _) => After::Close,
    }
}

/// Counts the request and writes its line.
fn finish(client: &Client, farm: &Farm, mut trail: Trail, ending: Ending) {
    let worker = client.worker();
    let now_ns = clock::boot_now().get();
    if let Some(service) = &trail.service {
        service.state.durations.record(now_ns.saturating_sub(trail.began_ns) / 1000);
    }
    let Some(log) = &worker.log else { return };
    let us = |from: u64, to: u64| if from == 0 || to == 0 { 0 } else { to.saturating_sub(from) / 1000 };
    let live = worker.live();
    let identity = &client.listener().identity;
    let service = trail.service.as_ref();
    let backend = service.zip(trail.at).map(|(service, at)| {
        let plan = &service.plan.backends[at];
        (plan.id.get(), &*plan.name, plan.address)
    });
    let outcome = record::Outcome {
        ended_at: clock::wall_now(),
        node: &live.plan.node_name,
        vip: identity.vip.as_ref().map_or("", |vip| &vip.name),
        farm: &farm.plan.name,
        listener: &identity.name,
        service: service.map_or("", |s| &s.plan.name),
        backend,
        client: client.peer,
        real_client: trail.real_client,
        status: trail.status,
        bytes_in: trail.bytes_in,
        bytes_out: trail.bytes_out,
        timings_us: [
            us(trail.began_ns, trail.head_ns),
            us(trail.head_ns, trail.chosen_ns),
            us(trail.chosen_ns, trail.connected_ns),
            us(trail.connected_ns, trail.first_ns),
            us(trail.began_ns, now_ns),
        ],
        request_id: &trail.request_id,
        binding: trail.binding,
        binding_cause: trail.cause,
        reason: trail.reason,
        retries: trail.retries,
        ending,
    };
    record::end(&mut trail.line, &outcome);
    log.line(&trail.line, &worker.counters);
    trail.line.clear();
    worker.lines.borrow_mut().push(trail.line);
}
