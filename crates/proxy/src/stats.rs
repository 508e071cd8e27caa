//! Counters: written by one worker each, summed when somebody asks.
//!
//! A counter has one writer, so counting is a load and a store without a lock prefix, and no cache
//! line wanders between cores. Who counts what is resolved when a plan is taken in, never on a request.
//!
//! Not here: the names and labels of metrics (`ballast-telemetry`).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ballast_core::{
    durations::{self, Durations},
    ids::{BackendId, FarmId, ServiceId},
};

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

/// Counts durations. Like all counters here it has a single writer.
#[derive(Debug, Default)]
pub struct DurationCounters {
    counts: [Counter; durations::BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl DurationCounters {
    /// Counts one of `us` microseconds.
    pub fn record(&self, us: u64) {
        self.counts[durations::bucket(us)].up();
        self.sum_us.add(us);
    }

    fn add_to(&self, sums: &mut Durations) {
        for (sum, count) in sums.counts.iter_mut().zip(&self.counts) {
            *sum = sum.wrapping_add(count.get());
        }
        sums.sum_us = sums.sum_us.wrapping_add(self.sum_us.get());
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $counters:ident => $(#[$sum_doc:meta])* $sums:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $counters { $($(#[$field_doc])* pub $field: Counter,)* }

        $(#[$sum_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $sums { $($(#[$field_doc])* pub $field: u64,)* }

        impl $counters {
            fn add_to(&self, sums: &mut $sums) {
                $(sums.$field = sums.$field.wrapping_add(self.$field.get());)*
            }
        }
    };
}

counters! {
    /// What a worker counts of a listener.
    ListenerCounters =>
    /// A listener's counts, over all workers.
    ListenerStats {
        /// Connections taken.
        accepted_total,
        /// Connections refused because a limit was reached.
        refused_total,
        /// Connections open now.
        connections,
        /// Bytes read from clients.
        bytes_in_total,
        /// Bytes written to clients.
        bytes_out_total,
        /// Requests that were malformed or exceeded a bound.
        rejected_total,
    }
}

counters! {
    /// What a worker counts of a service.
    ServiceCounters =>
    /// A service's counts, over all workers.
    ServiceStats {
        /// Requests being served now.
        in_flight,
        /// Responses with status 1xx (101).
        responses_1xx_total,
        /// Responses with status 2xx.
        responses_2xx_total,
        /// Responses with status 3xx.
        responses_3xx_total,
        /// Responses with status 4xx.
        responses_4xx_total,
        /// Responses with status 5xx.
        responses_5xx_total,
        /// Requests that ended without a response.
        aborted_total,
        /// Attempts after the first.
        retries_total,
        /// Retries that the budget for asking a backend again refused.
        retries_refused_total,
        /// Requests waiting for a backend at its limit now.
        queued,
        /// Requests answered by the fallback.
        fallback_total,
        /// Table lookups that found a binding.
        binding_hits_total,
        /// Table lookups that found none.
        binding_misses_total,
        /// Table lookups that had to wait for this node's state to be confirmed.
        binding_stale_total,
        /// Bindings made.
        bindings_created_total,
        /// Bindings that another request had made first.
        bindings_existing_total,
        /// Bindings moved to another backend.
        bindings_rehomed_total,
        /// Requests served without the binding they should have had.
        unbound_total,
    }
}

counters! {
    /// What a worker counts of a backend.
    BackendCounters =>
    /// A backend's counts, over all workers.
    BackendStats {
        /// Requests being served now.
        in_flight,
        /// Requests sent.
        requests_total,
        /// Responses with status 5xx.
        errors_total,
        /// Connections made.
        connects_total,
        /// Connections that could not be made.
        connect_failures_total,
        /// Requests that got no usable response.
        response_failures_total,
        /// Connections open now.
        connections,
        /// Of those, waiting for a request.
        idle,
    }
}

/// Everything that was counted.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// By farm and listener.
    pub listeners: HashMap<(FarmId, Arc<str>), ListenerStats>,
    /// By service.
    pub services: HashMap<ServiceId, ServiceStats>,
    /// How long requests took, by service.
    pub durations: HashMap<ServiceId, Durations>,
    /// By backend.
    pub backends: HashMap<BackendId, BackendStats>,
    /// Access log lines that were dropped: the writer was behind, or could not write them.
    pub log_lines_dropped_total: u64,
    /// Client connections open.
    pub held: u64,
}

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    listeners: Registry<(FarmId, Arc<str>), ListenerCounters>,
    services: Registry<ServiceId, ServiceCounters>,
    durations: Registry<ServiceId, DurationCounters>,
    backends: Registry<BackendId, BackendCounters>,
    /// Access log lines dropped because the writer was behind.
    pub log_lines_dropped: Counter,
    /// Client connections open.
    pub held: Counter,
}

impl WorkerCounters {
    /// The counters of a listener.
    pub fn listener(&self, farm: FarmId, name: &Arc<str>) -> Arc<ListenerCounters> {
        self.listeners.get((farm, name.clone()))
    }

    /// The counters of a service.
    pub fn service(&self, id: ServiceId) -> Arc<ServiceCounters> {
        self.services.get(id)
    }

    /// Where the durations of a service's requests are counted.
    pub fn durations(&self, id: ServiceId) -> Arc<DurationCounters> {
        self.durations.get(id)
    }

    /// The counters of a backend.
    pub fn backend(&self, id: BackendId) -> Arc<BackendCounters> {
        self.backends.get(id)
    }

    /// Adds this worker's counts to `stats`.
    pub fn add_to(&self, stats: &mut Stats) {
        self.listeners.each(|key, counters| counters.add_to(stats.listeners.entry(key.clone()).or_default()));
        self.services.each(|key, counters| counters.add_to(stats.services.entry(*key).or_default()));
        self.durations.each(|key, counters| counters.add_to(stats.durations.entry(*key).or_default()));
        self.backends.each(|key, counters| counters.add_to(stats.backends.entry(*key).or_default()));
        stats.log_lines_dropped_total += self.log_lines_dropped.get();
        stats.held += self.held.get();
    }
}

/// Counters by what they count. Locked when a plan is taken in and when somebody asks.
#[derive(Debug)]
struct Registry<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Default> Registry<K, V> {
    fn get(&self, key: K) -> Arc<V> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    fn each(&self, mut visit: impl FnMut(&K, &V)) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter().for_each(|(key, value)| visit(key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_workers_are_summed() {
        let workers = [WorkerCounters::default(), WorkerCounters::default()];
        for worker in &workers {
            let backend = worker.backend(BackendId::new(1));
            backend.requests_total.add(2);
            backend.in_flight.up();
            worker.durations(ServiceId::new(1)).record(300);
        }
        workers[0].backend(BackendId::new(1)).in_flight.down();
        let mut stats = Stats::default();
        workers.iter().for_each(|w| w.add_to(&mut stats));
        let sums = stats.backends[&BackendId::new(1)];
        assert_eq!((sums.requests_total, sums.in_flight), (4, 1));
        let durations = stats.durations[&ServiceId::new(1)];
        assert_eq!((durations.count(), durations.sum_us), (2, 600));
    }
}
