//! The data plane alone, with a fixed plan and nobody to agree with: for profiling it beside other proxies.
//!
//! `bare LISTEN BACKEND [--table] [--log FILE]` serves on `LISTEN` (address:port) with one worker, and forwards
//! to `BACKEND`. `--table` binds each source address to the backend in a table in memory.

use std::{
    net::SocketAddr,
    sync::{Arc, RwLock},
};

use anyhow::Context as _;
use ballast_core::{
    cluster::{
        BindError, BindRequest, Bindings, Bound, BoundHow, BoxFuture, ClusterView, Lookup, NotConfirmed, Ownership,
        PassiveHealth,
    },
    config::{
        Balance, Commit, Isolated, Limits, Persistence, Protocol, SourcePrefix, Span, TableKey, TablePersistence,
        Timeouts, TrustedProxies, WhenFull,
    },
    health::Answer,
    ids::{BackendId, FarmId, LogIndex, NodeId, Revision, ServiceId, VipId},
    lease::VipGate,
    persistence::KeyHash,
    plan::{AdminState, BackendPlan, Bind, FarmPlan, ListenerPlan, Plan, ServicePlan, Verdict},
    time::LogTime,
};
use ballast_proxy::{AccessLog, Ports, Proxy, ProxyOptions};

struct Alone {
    plan: Arc<Plan>,
    table: RwLock<std::collections::HashMap<(ServiceId, KeyHash), BackendId>>,
}

impl ClusterView for Alone {
    fn plan(&self) -> Arc<Plan> {
        self.plan.clone()
    }
    fn generation(&self) -> u64 {
        self.plan.generation
    }
    fn node(&self) -> NodeId {
        self.plan.node
    }
    fn log_time(&self) -> LogTime {
        LogTime::default()
    }
}

impl Bindings for Alone {
    fn lookup(&self, service: ServiceId, key: KeyHash, _: Option<LogIndex>) -> Lookup {
        let table = self.table.read().expect("no writer panics");
        table.get(&(service, key)).map_or(Lookup::Miss, |backend| Lookup::Hit { backend: *backend, renew: false })
    }
    fn bind(&self, request: BindRequest) -> BoxFuture<'static, Result<Bound, BindError>> {
        let mut table = self.table.write().expect("no writer panics");
        let backend = *table.entry((request.service, request.key)).or_insert(request.choice);
        Box::pin(async move { Ok(Bound { backend, index: LogIndex::new(1), how: BoundHow::Created }) })
    }
    fn renew(&self, _: ServiceId, _: KeyHash) {}
    fn confirm(&self) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
        Box::pin(async { Ok(LogIndex::new(1)) })
    }
}

impl Ownership for Alone {
    fn gate(&self, _: VipId) -> Arc<VipGate> {
        Arc::new(VipGate::closed())
    }
}

impl PassiveHealth for Alone {
    fn observed(&self, _: BackendId, _: Answer) {}
    fn local_verdict(&self, _: BackendId) -> Verdict {
        Verdict::Up
    }
    fn isolated(&self) -> bool {
        false
    }
}

fn plan(listen: SocketAddr, backend: SocketAddr, table: bool) -> Plan {
    let (farm, service) = (FarmId::new(1), ServiceId::new(1));
    let persistence = Persistence::Table(TablePersistence {
        key: TableKey::Source(SourcePrefix::default()),
        idle_timeout: Span::from_secs(1800),
        absolute_timeout: None,
        entries_max: 1_000_000,
        when_full: WhenFull::ServeUnbound,
        commit: Commit::BeforeForward,
    });
    let service = ServicePlan {
        id: service,
        farm,
        name: "app".into(),
        matches: None,
        balance: Balance::default(),
        persistence: table.then_some(persistence),
        health: None,
        backends: vec![BackendPlan {
            id: BackendId::new(1),
            name: "b1".into(),
            address: backend,
            weight: 100,
            backup: false,
            admin: AdminState::Ready,
            verdict: Verdict::Up,
            serves_since_ms: 0,
            connections_max: 0,
        }],
        fallback: None,
        retries_max: 2,
        queue_timeout_ms: 5000,
        slow_start_ms: 0,
        panic_threshold_percent: 0,
        redispatch: true,
    };
    let listener = ListenerPlan {
        name: "web".into(),
        bind: Bind::Address(listen.ip()),
        port: listen.port(),
        protocol: Protocol::Http,
    };
    Plan {
        generation: 1,
        revision: Revision::new(1),
        index: LogIndex::new(1),
        node: NodeId::new(1),
        node_name: "alone".into(),
        cookie_keys: Arc::new([]),
        table_secret: [1; 16].into(),
        newest_backend: BackendId::new(1),
        farms: vec![Arc::new(FarmPlan {
            id: farm,
            name: "bare".into(),
            listeners: vec![listener],
            services: vec![Arc::new(service)],
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            fallback: None,
            trusted_proxies: TrustedProxies::default(),
            isolated: Isolated::LastKnown,
        })],
        draining: false,
        findings: std::collections::BTreeMap::new(),
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = |at: usize| {
        arguments
            .get(at)
            .context("usage: bare LISTEN BACKEND [--table] [--log FILE]")?
            .parse()
            .context("not an address:port")
    };
    let table = arguments.iter().any(|a| a == "--table");
    let log = arguments.iter().position(|a| a == "--log").and_then(|at| arguments.get(at + 1));
    let access_log = match log {
        Some(path) => AccessLog::To(Box::new(std::fs::File::create(path)?)),
        None => AccessLog::Off,
    };
    let alone = Arc::new(Alone { plan: Arc::new(plan(address(0)?, address(1)?, table)), table: RwLock::default() });
    let ports = Ports { view: alone.clone(), bindings: alone.clone(), ownership: alone.clone(), passive: alone };
    let proxy =
        Proxy::start(ProxyOptions { workers: 1, cpu_pinning: false, access_log, ..ProxyOptions::default() }, ports)?;
    for listener in proxy.listeners() {
        println!("{} {}", listener.address, listener.error.as_deref().unwrap_or("listening"));
    }
    loop {
        std::thread::park();
    }
}
