//! One run: a cluster, clients, faults, a recovery, and what all of it came to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{
    history::History,
    models::{ConfigInput, ConfigOutput, PairInput, PairOutput, SessionInput, SessionOutput},
    says_why::Line,
    time::{RunTime, Span},
    verdict::Promise,
    without_quorum::Said,
};
use ballast_testkit::{backend::Backend, interrupt, observer};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    decided::{self, Decision},
    environment::Environment,
    judge::SLACK,
    nemesis,
    plan::{Kind, Round, Whom},
    proxied,
    site::Site,
    watch::{Hashed, Sample, Watch},
    workload::{
        addresses, alone,
        bindings::{self, Seen},
        checks, config,
        locks::{self, Held},
        members, registers, stores, till, transactions,
    },
};

/// What is to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Determines the faults, and what clients choose.
    pub seed: u64,
    /// For how long faults are begun, in seconds. What the last of them takes, and the recovery, come on top.
    pub seconds: u64,
    /// Where it is run.
    #[serde(default)]
    pub environment: Environment,
    /// Nodes that carry traffic.
    pub nodes: usize,
    /// Which faults.
    pub kinds: Vec<Kind>,
    /// Whom they befall, if that is not drawn by lot.
    #[serde(default)]
    pub whom: Option<Whom>,
    /// The bug that the daemons were built with and told to have, if any.
    pub planted: Option<String>,
    /// The revision of the sources that it was started from, as `git describe --always --dirty` has it.
    #[serde(default)]
    pub revision: Option<String>,
    /// That of the suite that judged it anew, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<String>,
}

/// What was done and seen.
pub struct Run {
    /// What was to be run.
    pub options: Options,
    /// What was planned.
    pub rounds: Vec<Round>,
    /// What happened.
    pub faults: nemesis::Record,
    /// When the first fault could begin, and when the last calm was over.
    pub span: (RunTime, RunTime),
    /// What kept the cluster from being well again afterwards, if anything did.
    pub unwell: Option<String>,
    /// Whether it was called off, so that nobody looked how the cluster recovers.
    pub cut_short: bool,
    /// What nodes said of themselves.
    pub samples: Vec<Sample>,
    /// What they said that the hashes of their states were.
    pub hashes: Vec<Hashed>,
    /// Commands on single keys.
    pub registers: History<SessionInput, SessionOutput>,
    /// Looks at those keys when all was over.
    pub registers_end: History<SessionInput, SessionOutput>,
    /// Transactions on pairs of keys.
    pub transactions: History<PairInput, PairOutput>,
    /// Looks at those pairs when all was over.
    pub transactions_end: History<PairInput, PairOutput>,
    /// Changes of the document.
    pub config: History<ConfigInput, ConfigOutput>,
    /// Additions to sets.
    pub additions: History<u64, ()>,
    /// What each node had in the sets at the end; by key, then by node.
    pub sets: BTreeMap<String, Vec<BTreeSet<u64>>>,
    /// Who held locks.
    pub held: Vec<Held>,
    /// What visitors of the shop saw.
    pub seen: Seen,
    /// What clients saw that are known by their addresses.
    pub by_address: Seen,
    /// What buyers, and clients that send much, saw.
    pub till: till::Seen,
    /// What nodes said to clients that ask nobody else.
    pub alone: Vec<Said>,
    /// What the access logs say of their requests.
    pub proxied: Vec<Line>,
    /// When the store of each node answered.
    pub stores: Vec<stores::Answered>,
    /// When backends were slow to answer a client that asks as nodes do.
    pub slow: Vec<Span>,
    /// What the cluster decided of backends; absent if it does not tell all of it.
    pub decided: Option<Vec<Decision>>,
    /// Who answered for the VIP.
    pub owners: observer::History,
    /// Whether a planned move of the VIP ends connections: a node has the `nftables` fence.
    pub moves_end_connections: bool,
    /// The clock of all of it.
    pub clock: Clock,
}

/// Before the first fault, so that all workloads are under way.
const WARM_UP: Duration = Duration::from_secs(2);
/// By how much a lock's life may be shorter by log time than by its holder's clock: what other lives are judged by, too, log
/// time's pace of a tenth more included.
pub const LIFE_MARGIN: Duration = Duration::from_millis((SLACK.as_millis() + locks::LIFE.as_millis() / 10) as u64);

/// Runs the rounds. The daemons' logs go to `folder`.
///
/// # Errors
/// When there can be no run: no namespaces, no cluster to begin with. What goes wrong afterwards is in the [`Run`].
pub fn run(options: &Options, rounds: Vec<Round>, folder: &Path) -> Result<Run> {
    let last_ms = rounds.last().map_or(0, |round| round.calm_until_ms);
    let mut site = Site::start(options.environment, options.nodes)?;
    let moves_end_connections = site.moves_end_connections()?;
    let clock = Clock::start();
    let watch = Watch::start(&site, clock)?;
    // Longer than anything that can happen in between: what goes on until it is done may take longer than the plan has for it.
    let longest = WARM_UP + 2 * Duration::from_millis(last_ms) + Duration::from_secs(900);
    let observer = site.observe(longest)?;

    let (registers, changes, additions) = (Arc::default(), Arc::default(), Arc::default());
    let transactions = Arc::default();
    let (held, seen, slow) = (locks::Record::default(), bindings::Record::default(), checks::Slow::default());
    let backends: Vec<_> = site.all_backends().iter().map(Backend::address).collect();
    let (doors, shops, seed) = (site.stores(), site.shops(), options.seed);
    let (answered, by_address) = (stores::Record::default(), bindings::Record::default());
    let clients = [
        registers::start(&site.guests, &doors, clock, seed, &registers)?,
        transactions::start(&site.guests, &doors, clock, seed, &transactions)?,
        config::start(&site, clock, seed, &changes)?,
        members::start(&site.guests, &doors, clock, seed, &additions)?,
        locks::start(&site.guests, &doors, clock, seed, LIFE_MARGIN, &held)?,
        bindings::start(&site.guests, &shops, clock, seed, &seen)?,
        addresses::start(&site.guests, &site.by_addresses(), clock, seed, &by_address)?,
        checks::start(&site.guests, &backends, clock, &slow)?,
        stores::start(&site.guests, &doors, clock, &answered)?,
    ];
    let (till, alone) = (till::Record::default(), alone::Record::default());
    let buyers = till::start(&site.guests, shops[options.nodes], clock, seed, &till)?;
    let of_nodes = alone::start(&site.guests, &site.open_pages(), &doors[..options.nodes], clock, &alone)?;
    interrupt::pause(WARM_UP);

    let began = clock.now();
    println!("Faults begin");
    let mut faults = nemesis::play(&mut site, &watch, clock, &rounds);
    let over = clock.now();
    let cut_short = interrupt::came();
    let recovered = match faults.halted {
        false => nemesis::recover(&mut site),
        true => Err(anyhow::anyhow!("the lab had failed")),
    };
    for clients in clients.into_iter().chain(buyers).chain([of_nodes]) {
        if let Err(error) = clients.finish() {
            faults.failed.push(format!("{error:#}"));
        }
    }
    let nodes = &doors[..options.nodes];
    let sets = recovered.and_then(|()| members::read(&site.guests, nodes));
    let (unwell, sets) = match sets {
        Ok(sets) => (None, sets),
        Err(error) => {
            // The error carries the end of a log, which is in the folder as a whole.
            let text = format!("{error:#}");
            let last: Vec<&str> = text.lines().rev().take(2).collect();
            (Some(last.into_iter().rev().collect::<Vec<_>>().join("\n")), BTreeMap::new())
        }
    };
    let (commands, moves) = (registers.take(), transactions.take());
    if unwell.is_none() {
        let looked = registers::look_at_all(&site.guests, nodes, clock, &commands, &registers);
        let looked = looked.and_then(|()| transactions::look_at_all(&site.guests, nodes, clock, &moves, &transactions));
        if let Err(error) = looked {
            faults.failed.push(format!("{error:#}"));
        }
    }
    let seen = std::mem::take(&mut *lock(&seen));
    let newest = seen.served.iter().max_by_key(|served| served.completed).map(|served| served.id.as_str());
    let proxied = proxied::read(&site.cluster, newest.as_slice()).unwrap_or_else(|error| {
        faults.failed.push(format!("{error:#}"));
        Vec::new()
    });
    let decided = decided::read(&site.cluster);
    let decided =
        decided.inspect_err(|error| faults.complaints.push(format!("what it decided of backends: {error:#}"))).ok();
    let (samples, hashes) = watch.finish();
    let mut run = Run {
        options: options.clone(),
        rounds,
        faults,
        span: (began, over),
        cut_short: cut_short || interrupt::came(),
        unwell,
        samples,
        hashes,
        registers: commands,
        registers_end: registers.take(),
        transactions: moves,
        transactions_end: transactions.take(),
        config: changes.take(),
        additions: additions.take(),
        sets,
        held: std::mem::take(&mut *lock(&held)),
        seen,
        by_address: std::mem::take(&mut *lock(&by_address)),
        till: std::mem::take(&mut *lock(&till)),
        alone: std::mem::take(&mut *lock(&alone)),
        proxied,
        stores: std::mem::take(&mut *lock(&answered)),
        slow: std::mem::take(&mut *lock(&slow)),
        decided,
        owners: observer.finish(),
        moves_end_connections,
        clock,
    };
    for member in 0..site.members() {
        let name = site.cluster.node(member).name();
        let log = site.cluster.node(member).log().unwrap_or_else(|error| {
            run.faults.failed.push(format!("the log of {name}: {error:#}"));
            String::new()
        });
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        run.faults.broken.extend(panics.map(|line| (Promise::SaysWhy, format!("{name}: {line}"))));
        fs::write(folder.join(format!("{name}.log")), log)?;
    }
    match site.restarted() {
        Ok(restarted) => run.faults.broken.extend(restarted.into_iter().map(|what| (Promise::SaysWhy, what))),
        Err(error) => run.faults.failed.push(format!("whether nodes ended by themselves: {error:#}")),
    }
    run.faults.failed.extend(site.take_failed());
    Ok(run)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
