//! Memory that all connections of this node take together: what was read of requests and bodies, what is queued, answers and
//! mail that wait to be read.
//!
//! Each connection is bounded by itself, and ten thousand bounds of some megabytes are more than a machine has. When all
//! together take more than the budget, those that take the most are ended until the others fit.
//!
//! Not here: keys and values (`memory_max`), what an entry of the log takes on its way.

use std::sync::atomic::{AtomicUsize, Ordering};

use ballast_clock::boot_now;

use crate::{clients::Clients, policy::Policy, sparse::Sparse};

/// Connections that take less are left alone: `connections_max` bounds what they take together.
const SMALL: usize = 128 << 10;

/// The least that a node allows, and the least number of connections that may use their bounds to the full.
const LEAST: usize = 256 << 20;
const FULL: usize = 4;

/// What connections take, by their own counts.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicUsize,
    lines: Sparse,
}

impl Budget {
    /// A connection takes `now` instead of `before`.
    pub fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// What they take.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What they may take: half of what keys may, and enough for a few connections.
    pub fn max(policy: &Policy) -> usize {
        let keys = usize::try_from(policy.settings.memory_max.as_bytes()).unwrap_or(usize::MAX);
        let full = policy.limits.request_max.saturating_add(policy.limits.output_max);
        (keys / 2).max(LEAST).max(full.saturating_mul(FULL))
    }

    /// Ends the connections that take the most until the others fit into `max`. Mail that waits for several is there once, so
    /// ending one of them may free less than it takes: the next call ends more.
    pub fn keep_to(&self, max: usize, clients: &Clients) {
        if self.used() <= max {
            return;
        }
        let mut cards = clients.all();
        // What those take that are ending already is as good as free.
        let ending: usize = cards.iter().filter(|card| card.is_ended()).map(|card| card.takes()).sum();
        let mut excess = self.used().saturating_sub(max).saturating_sub(ending);
        cards.retain(|card| !card.is_ended() && card.takes() >= SMALL);
        cards.sort_by_key(|card| std::cmp::Reverse(card.takes()));
        for card in cards {
            if excess == 0 {
                break;
            }
            if let Some(left_out) = self.lines.may(boot_now().get() / 1_000_000) {
                let bytes = card.takes();
                tracing::warn!(peer = %card.peer, bytes, left_out, "cut: connections take more memory than this node has for them");
            }
            excess = excess.saturating_sub(card.takes());
            card.end_for_room();
        }
    }
}
