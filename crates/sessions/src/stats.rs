//! Counters: written by one worker each, summed when somebody asks.
//!
//! Not here: the names and labels of metrics (`ballast-telemetry`).

mod http;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ballast_core::{
    durations::{self, Durations},
    session::{Spec, specs},
};

pub use http::{HttpCounters, HttpStats};

/// A count with a single writer. May also go down, for gauges.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn up(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes one back.
    pub fn down(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What a worker counts besides commands.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $field: Counter,)* }

        /// The same, over all workers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals { $($(#[$doc])* pub $field: u64,)* }

        impl Counters {
            fn add_to(&self, sums: &mut Totals) {
                $(sums.$field = sums.$field.wrapping_add(self.$field.get());)*
            }
        }
    };
}

counters! {
    /// Connections open now.
    connections,
    /// Connections taken.
    accepted_total,
    /// Connections refused: too many, protected mode, or a VIP that is not held.
    refused_total,
    /// Connections cut: idle, slow, too much unread, or not speaking the protocol.
    cut_total,
    /// Connections that ended by a bug of ours.
    panics_total,
    /// Bytes read.
    bytes_in_total,
    /// Bytes written.
    bytes_out_total,
    /// Requests that were malformed or exceeded a bound.
    malformed_total,
    /// Logins that were refused.
    login_failures_total,
    /// Entries proposed; commands that are written divided by it is how well pipelines are batched.
    proposals_total,
    /// Confirmations asked for; reads divided by it is how well they are shared.
    confirmations_total,
    /// Reads that found a key whose end has come but not by log time.
    due_total,
    /// Commands answered with `CLUSTERDOWN`, `UNKNOWN` or `OVERLOADED`.
    unavailable_total,
    /// Messages and events sent to subscribers.
    delivered_total,
}

/// Counts of one command.
#[derive(Debug, Default)]
pub struct CommandCounters {
    calls: Counter,
    errors: Counter,
    durations: [Counter; durations::BOUNDS_US.len() + 1],
    sum_us: Counter,
}

/// Counts of one command, over all workers.
#[derive(Clone, Debug, Default)]
pub struct CommandStats {
    /// Its name.
    pub name: &'static str,
    /// Calls that were answered.
    pub calls_total: u64,
    /// Of those, with an error.
    pub errors_total: u64,
    /// From when its bytes were there to when the answer was ready.
    pub durations: Durations,
}

/// Everything that was counted.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Besides commands.
    pub totals: Totals,
    /// By command, those that were called.
    pub commands: Vec<CommandStats>,
    /// By method of HTTP.
    pub http: Vec<HttpStats>,
}

/// The counters of one worker.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Besides commands.
    pub counters: Counters,
    /// Requests over HTTP.
    pub http: HttpCounters,
    commands: Vec<CommandCounters>,
    index: Arc<CommandIndex>,
}

impl WorkerCounters {
    /// Nothing counted yet.
    pub fn new(index: Arc<CommandIndex>) -> Self {
        let commands = index.specs.iter().map(|_| CommandCounters::default()).collect();
        Self { counters: Counters::default(), http: HttpCounters::default(), commands, index }
    }

    /// Counts an answer.
    pub fn answered(&self, spec: &'static Spec, us: u64, failed: bool) {
        let Some(command) = self.commands.get(self.index.of(spec)) else { return };
        command.calls.up();
        if failed {
            command.errors.up();
        }
        command.durations[durations::bucket(us)].up();
        command.sum_us.add(us);
    }

    /// Adds this worker's counts to `stats`.
    pub fn add_to(&self, stats: &mut Stats) {
        self.counters.add_to(&mut stats.totals);
        self.http.add_to(&mut stats.http);
        if stats.commands.is_empty() {
            stats.commands = self
                .index
                .specs
                .iter()
                .map(|spec| CommandStats { name: spec.name, ..CommandStats::default() })
                .collect();
        }
        for (sum, command) in stats.commands.iter_mut().zip(&self.commands) {
            sum.calls_total += command.calls.get();
            sum.errors_total += command.errors.get();
            for (sum, count) in sum.durations.counts.iter_mut().zip(&command.durations) {
                *sum = sum.wrapping_add(count.get());
            }
            sum.durations.sum_us = sum.durations.sum_us.wrapping_add(command.sum_us.get());
        }
    }
}

/// Where a command's counts are: all commands lie in one table, so their places in it tell.
#[derive(Debug)]
pub struct CommandIndex {
    specs: Vec<&'static Spec>,
    first: usize,
}

impl CommandIndex {
    /// Of all commands.
    pub fn new() -> Self {
        let specs: Vec<_> = specs().collect();
        let first = specs.first().map_or(0, |spec| address(spec));
        Self { specs, first }
    }

    /// The place of a command.
    pub fn of(&self, spec: &'static Spec) -> usize {
        (address(spec) - self.first) / size_of::<Spec>()
    }
}

impl Default for CommandIndex {
    fn default() -> Self {
        Self::new()
    }
}

fn address(spec: &'static Spec) -> usize {
    std::ptr::from_ref(spec).addr()
}

#[cfg(test)]
mod tests {
    use ballast_core::session::spec;

    use super::*;

    #[test]
    fn a_command_is_where_the_table_has_it() {
        let index = CommandIndex::new();
        for (at, spec) in specs().enumerate() {
            assert_eq!(index.of(spec), at);
        }
    }

    #[test]
    fn commands_of_all_workers_are_summed() {
        let index = Arc::new(CommandIndex::new());
        let workers = [WorkerCounters::new(index.clone()), WorkerCounters::new(index)];
        let get = spec(b"GET").unwrap();
        workers[0].answered(get, 300, false);
        workers[1].answered(get, 300, true);
        workers[1].counters.connections.up();
        let mut stats = Stats::default();
        workers.iter().for_each(|worker| worker.add_to(&mut stats));
        let sums = stats.commands.iter().find(|command| command.name == "get").unwrap();
        assert_eq!((sums.calls_total, sums.errors_total), (2, 1));
        assert_eq!((sums.durations.count(), sums.durations.sum_us), (2, 600));
        assert_eq!(stats.totals.connections, 1);
    }
}
