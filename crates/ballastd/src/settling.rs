//! Keys whose binding moved a moment ago and that no node may forward on yet.
//!
//! After a binding moves, another node may serve the old one from its own table for as long as its
//! last confirmation counts. That confirmation was asked for before the move was committed, so
//! whoever waits `freshness * 1.1 / 0.9` (clock rates may differ by a tenth each way) after
//! *applying* the move has outwaited every such node.
//!
//! Not here: how long a confirmation counts ([`crate::freshness`]).

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use ballast_core::{ids::ServiceId, persistence::KeyHash, time::BootNanos};
use parking_lot::Mutex;

/// The keys that are settling. Nearly always empty, and then a look costs one load.
#[derive(Debug, Default)]
pub struct Settling {
    count: AtomicUsize,
    keys: Mutex<HashMap<(ServiceId, KeyHash), BootNanos>>,
}

/// How long a moved binding settles when a confirmation counts for `span` nanoseconds.
pub const fn settle_nanos(span: u64) -> u64 {
    (span / 9 + 1) * 11
}

impl Settling {
    /// Notes that a key's binding moved and settles until `until`.
    pub fn moved(&self, service: ServiceId, key: KeyHash, until: BootNanos, now: BootNanos) {
        let mut keys = self.keys.lock();
        keys.retain(|_, until| now < *until);
        keys.insert((service, key), until);
        self.count.store(keys.len(), Ordering::Release);
    }

    /// Whether any key is settling.
    pub fn any(&self, now: BootNanos) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut keys = self.keys.lock();
        keys.retain(|_, until| now < *until);
        self.count.store(keys.len(), Ordering::Release);
        !keys.is_empty()
    }

    /// Until when the key must wait; `None` when it need not.
    pub fn wait_until(&self, service: ServiceId, key: KeyHash, now: BootNanos) -> Option<BootNanos> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut keys = self.keys.lock();
        let until = *keys.get(&(service, key))?;
        if now < until {
            return Some(until);
        }
        keys.remove(&(service, key));
        self.count.store(keys.len(), Ordering::Release);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_until_its_time_and_others_do_not() {
        let settling = Settling::default();
        let (service, key, other) = (ServiceId::new(1), KeyHash::from_u128(1), KeyHash::from_u128(2));
        settling.moved(service, key, BootNanos::new(100), BootNanos::new(0));
        assert_eq!(settling.wait_until(service, key, BootNanos::new(99)), Some(BootNanos::new(100)));
        assert_eq!(settling.wait_until(service, other, BootNanos::new(99)), None);
        assert_eq!(settling.wait_until(service, key, BootNanos::new(100)), None);
        assert_eq!(settling.count.load(Ordering::Relaxed), 0, "what has settled is forgotten");
    }

    #[test]
    fn settling_outlasts_a_confirmation_on_a_clock_a_tenth_slower() {
        let span = 100_000_000;
        // The other node's clock runs at 0.9, ours at 1.1.
        assert!(settle_nanos(span) * 10 / 11 >= span * 10 / 9);
    }
}
