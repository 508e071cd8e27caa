//! Counts of HTTP requests, by method and status.

use ballast_core::durations::{self, Durations};
use http::{Method, StatusCode};

use super::Counter;

/// Methods that are told apart; the last stands for all others.
const METHODS: [&str; 5] = ["GET", "HEAD", "PUT", "DELETE", "other"];

/// Statuses that requests are answered with.
const STATUSES: [u16; 19] =
    [200, 201, 204, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 415, 500, 503, 504, 507];

/// Counts of a worker.
#[derive(Debug, Default)]
pub struct HttpCounters {
    methods: [OfMethod; METHODS.len()],
}

#[derive(Debug, Default)]
struct OfMethod {
    answers: [Counter; STATUSES.len()],
    durations: [Counter; durations::BOUNDS_US.len() + 1],
    sum_us: Counter,
}

/// Counts of one method, over all workers.
#[derive(Clone, Debug, Default)]
pub struct HttpStats {
    /// Its name; `other` stands for those that are refused.
    pub method: &'static str,
    /// Answers by status, those that there were.
    pub answers: Vec<(u16, u64)>,
    /// From when a request's head was there to when the answer was ready.
    pub durations: Durations,
}

impl HttpCounters {
    /// Counts an answer.
    pub fn answered(&self, method: &Method, status: StatusCode, us: u64) {
        let at = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        let of = &self.methods[at];
        let known = STATUSES.binary_search(&status.as_u16());
        debug_assert!(known.is_ok(), "{status} is not in the list");
        if let Ok(known) = known {
            of.answers[known].up();
        }
        of.durations[durations::bucket(us)].up();
        of.sum_us.add(us);
    }

    /// Adds this worker's counts to `stats`.
    pub fn add_to(&self, stats: &mut Vec<HttpStats>) {
        if stats.is_empty() {
            stats.extend(METHODS.map(|method| HttpStats { method, ..HttpStats::default() }));
        }
        for (sum, of) in stats.iter_mut().zip(&self.methods) {
            for (status, count) in STATUSES.iter().zip(&of.answers).filter(|(_, count)| count.get() > 0) {
                match sum.answers.iter_mut().find(|(known, _)| known == status) {
                    Some((_, sum)) => *sum = sum.wrapping_add(count.get()),
                    None => sum.answers.push((*status, count.get())),
                }
            }
            for (sum, count) in sum.durations.counts.iter_mut().zip(&of.durations) {
                *sum = sum.wrapping_add(count.get());
            }
            sum.durations.sum_us = sum.durations.sum_us.wrapping_add(of.sum_us.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_workers_are_summed_by_method_and_status() {
        assert!(STATUSES.is_sorted(), "looked up by halves");
        let workers = [HttpCounters::default(), HttpCounters::default()];
        workers[0].answered(&Method::GET, StatusCode::OK, 300);
        workers[1].answered(&Method::GET, StatusCode::OK, 300);
        workers[1].answered(&Method::GET, StatusCode::NOT_FOUND, 10);
        workers[1].answered(&Method::PATCH, StatusCode::METHOD_NOT_ALLOWED, 10);
        let mut stats = Vec::new();
        workers.iter().for_each(|worker| worker.add_to(&mut stats));
        let of = |method: &str| stats.iter().find(|stats| stats.method == method).unwrap();
        assert_eq!(of("GET").answers.iter().copied().collect::<std::collections::BTreeMap<_, _>>()[&200], 2);
        assert_eq!((of("GET").durations.count(), of("GET").durations.sum_us), (3, 610));
        assert_eq!(of("other").answers, [(405, 1)]);
        assert_eq!(of("PUT").durations.count(), 0);
    }
}
