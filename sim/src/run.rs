//! One run: everything that follows from a seed.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use ballast_jepsen::{
    durability::check_durability,
    epochs::judge_epochs,
    linear::{Limits, judge},
    models::{ClockSlack, ConfigModel, SessionModel, Versions, unread_alike},
    stickiness::check_stickiness,
    verdict::{Judgement, Promise, Report},
};
use ballast_raft::LogBounds;
use parking_lot::Mutex;

use crate::{
    clock,
    faults::Faults,
    node,
    random::Random,
    site::{Phase, Site, host},
    stage::{self, BACK_WITHIN, Cast, EQUAL_WITHIN, Finale},
    trace,
    watch::Seen,
    workload::{Crowd, Records},
};

/// Simulated time of one step: nothing travels faster.
const TICK: Duration = Duration::from_millis(1);
/// How often nodes are asked what they know.
const ASKED_EVERY: u32 = 10;
/// Longest that a run may last, in simulated time.
const LASTING_MAX: Duration = Duration::from_secs(300);

/// What a seed came to.
pub struct Run {
    /// The verdicts.
    pub report: Report,
    /// The last of what happened.
    pub tail: Vec<String>,
    /// Digest of everything that happened.
    pub digest: String,
    /// Events that it covers.
    pub events: u64,
    /// Simulated time.
    pub lasted: Duration,
    /// Things that broke.
    pub faults: usize,
    /// Operations of clients.
    pub operations: usize,
    /// After how long a write succeeded once everything was healed.
    pub back_after: Option<Duration>,
    /// After how long all nodes had taken a write and were equal.
    pub equal_after: Option<Duration>,
}

static PANICS: StdMutex<Vec<String>> = StdMutex::new(Vec::new());

/// Runs a seed. Once in a process, which lives in simulated time from here on.
///
/// # Errors
/// When the simulation itself goes wrong.
pub fn run(seed: u64, echo: bool, tail: usize) -> Result<Run> {
    let folder = Folder::new()?;
    clock::begin(seed);
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.to_string();
        trace::say(format_args!("PANIC: {what}"));
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }));
    // A thread of its own: what this one has drawn from the machine's entropy stays behind.
    let run = std::thread::Builder::new().stack_size(16 << 20).spawn(move || simulate(seed, echo, tail))?;
    let run = run.join().map_err(|_| anyhow!("the simulation panicked"))?;
    drop(folder);
    run
}

fn simulate(seed: u64, echo: bool, tail: usize) -> Result<Run> {
    if echo {
        trace::echo();
    }
    let mut random = Random::new(seed);
    let cast = cast(&mut random);
    let usual_latency = random.millis(2, 12);
    let bounds = LogBounds {
        snapshot_entries: random.within(60, 1500),
        snapshot_pause: random.millis(500, 5000),
        kept_entries: random.within(40, 600),
        ..LogBounds::default()
    };
    trace::say(format_args!("seed {seed}: {cast:?}, messages take up to {usual_latency:?}, {bounds:?}"));
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.next())
        .tick_duration(TICK)
        .simulation_duration(LASTING_MAX)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(usual_latency)
        .tcp_capacity(1 << 16)
        .enable_random_order()
        .build();
    let site = Site::new(random.fork(), bounds);
    let records = Arc::new(Records::default());
    let finale = Arc::new(Mutex::new(Finale::default()));
    let lasting = random.millis(8_000, 20_000);
    let mut faults = Faults::new(random.fork(), lasting, usual_latency);
    let play = stage::play(Arc::clone(&site), Arc::clone(&records), cast, random.fork(), Arc::clone(&finale));
    sim.client("clients", play);

    let mut steps = 0u32;
    loop {
        let wanted = std::mem::take(&mut site.lock().wanted);
        for number in wanted {
            let site = Arc::clone(&site);
            sim.host(host(number), move || node::live(Arc::clone(&site), number));
        }
        let over = sim.step().map_err(|error| anyhow!("the simulation stopped: {error}"))?;
        clock::advance(TICK);
        steps += 1;
        if steps.is_multiple_of(ASKED_EVERY) {
            ask_all(&site);
        }
        faults.tick(&mut sim, &site);
        // Whatever comes after is a consequence.
        if over || site.seen.lock().is_wrong() || panicked() {
            break;
        }
    }
    let lasted = clock::elapsed();
    let finale = std::mem::take(&mut *finale.lock());
    let whole = site.phase() == Phase::Healed && !site.seen.lock().is_wrong() && !panicked();
    let (report, operations) = verdicts(seed, &records, &site.seen.lock(), &finale, whole);
    let (digest, events) = trace::digest();
    let run = Run {
        report,
        tail: trace::tail(tail),
        digest,
        events,
        lasted,
        faults: faults.count(),
        operations,
        back_after: finale.back_after,
        equal_after: finale.equal_after,
    };
    // What is left of the nodes has nothing to say any more, and taking it down takes its time.
    std::mem::forget(sim);
    Ok(run)
}

fn cast(random: &mut Random) -> Cast {
    let (nodes, voters) = random.pick(&[(3, 3), (3, 3), (4, 3), (5, 5), (5, 5), (5, 3)]).expect("there are some");
    let crowd = Crowd {
        sessions: random.within(3, 8) as usize,
        operators: 2,
        visitors: 3,
        pause_millis: random.within(10, 60),
    };
    Cast { nodes, voters, crowd }
}

fn panicked() -> bool {
    !PANICS.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
}

/// Asks every member what it knows.
fn ask_all(site: &Site) {
    for (number, handle) in site.running() {
        let status = handle.status();
        let life = site.life(number);
        let mut seen = site.seen.lock();
        // One that is still silent after its start has not said anything.
        if status.term > 0 {
            seen.said(number, life, "term", status.term);
        }
        if status.role == ballast_raft::Role::Leader {
            seen.said(number, life, "leads", status.term);
        }
    }
}

/// What is to be said of a run. If it is not `whole`, it was ended by what had gone wrong, and nothing is asked about the end.
fn verdicts(seed: u64, records: &Records, seen: &Seen, finale: &Finale, whole: bool) -> (Report, usize) {
    // A run that one key could hold up for minutes finds less than many that it cannot.
    let limits = Limits { configurations_max: 1_000_000, steps_max: 20_000_000 };
    let sessions = unread_alike(&records.sessions.take());
    let config = records.config.take();
    let operations = sessions.operations().len() + config.operations().len();
    let model = SessionModel { clock_slack: ClockSlack::NONE };
    let mut judgements = vec![
        judge(Promise::Sessions, &model, &sessions, limits),
        judge(Promise::Configuration, &ConfigModel { versions: Versions::Own }, &config, limits),
        check_stickiness(&records.bindings.lock(), &[]).judgement(),
    ];
    let additions = records.additions.lock();
    if whole {
        judgements.push(check_durability(&additions, &finale.reads).judgement());
        judgements.push(comes_back(finale));
    }
    let [forward, _] = judge_epochs(seen.samples());
    judgements.push(forward);
    let mut equal = seen.judgement();
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|panic| equal.violated(panic.as_str()));
    judgements.push(equal);
    let operations = operations + additions.len() + records.bindings.lock().len();
    (Report { title: "simulation".to_owned(), seed, judgements }, operations)
}

fn comes_back(finale: &Finale) -> Judgement {
    let mut judgement = Judgement::new(Promise::ComesBack).looked_at("ends", 1);
    if finale.back_after.is_none() {
        judgement.violated(format!("nobody could write within {BACK_WITHIN:?} after everything was healed"));
    } else if finale.equal_after.is_none() {
        judgement.violated(format!("not every node took a write and caught up within {EQUAL_WITHIN:?} after the end"));
    }
    judgement
}

/// The folder of this process, in memory, which it goes to.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = base.join(format!("ballast-sim-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        std::env::set_current_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is a few files in memory.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
