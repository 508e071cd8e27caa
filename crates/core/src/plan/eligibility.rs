//! Who takes new clients and who must be left, by one rule.
//!
//! The log goes by it when it binds, the data plane when it forwards, the API when it explains: three
//! that judged by rules of their own would move clients back and forth.
//!
//! Not here: which of those that may is picked ([`crate::balance`]).

use super::{AdminState, Verdict};
use crate::state::RehomeCause;

/// What decides about a backend at one moment. The verdict is the cluster's, or a node's own where it goes by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eligibility {
    /// What the operator wants.
    pub admin: AdminState,
    /// What the checks say.
    pub verdict: Verdict,
    /// Effective weight. Zero takes no new clients.
    pub weight: u32,
    /// Used only when no other backend is eligible.
    pub backup: bool,
}

impl Eligibility {
    /// May take clients that are not bound to it. `panic`: the checks of its service are not believed ([`panics`]).
    pub fn takes_new(self, panic: bool) -> bool {
        self.is_meant_to_serve() && (panic || self.is_up())
    }

    /// Why clients that are bound to it must go elsewhere; `None` while they stay. A drained backend keeps its own.
    pub fn must_leave(self, panic: bool) -> Option<RehomeCause> {
        match self.admin {
            AdminState::Maintenance => Some(RehomeCause::BackendMaintenance),
            AdminState::Ready | AdminState::Drain => (!panic && !self.is_up()).then_some(RehomeCause::BackendDown),
        }
    }

    /// Whether the operator wants it to take new clients.
    pub fn is_meant_to_serve(self) -> bool {
        self.admin == AdminState::Ready && self.weight > 0
    }

    /// Up or not yet checked.
    pub fn is_up(self) -> bool {
        self.verdict != Verdict::Down
    }
}

/// Whether so few of a service's primaries are up that the checks are believed no more: serving from
/// suspects is better than sending everything to the last survivor. With no primary up at all, a
/// backup that is up is better than guessing. Counted are those that the operator wants to serve;
/// `threshold_percent` of zero switches it off.
pub fn panics(threshold_percent: u8, backends: impl Iterator<Item = Eligibility>) -> bool {
    if threshold_percent == 0 {
        return false;
    }
    let (mut primaries, mut up, mut backups_up) = (0_usize, 0_usize, 0_usize);
    for backend in backends.filter(|backend| backend.is_meant_to_serve()) {
        if backend.backup {
            backups_up += usize::from(backend.is_up());
        } else {
            primaries += 1;
            up += usize::from(backend.is_up());
        }
    }
    up * 100 < primaries * usize::from(threshold_percent) && (up > 0 || backups_up == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eligibility(text: &str) -> Eligibility {
        Eligibility {
            admin: match &text[..1] {
                "d" => AdminState::Drain,
                "m" => AdminState::Maintenance,
                _ => AdminState::Ready,
            },
            verdict: if text.contains('-') { Verdict::Down } else { Verdict::Up },
            weight: u32::from(!text.contains('0')),
            backup: text.contains('b'),
        }
    }

    #[test]
    fn panic_counts_primaries_that_are_meant_to_serve() {
        for (backends, threshold, expected) in [
            ("r- r- r- r", 50, true),
            ("r- r- r r", 50, false),
            ("r- r- r- r", 0, false),
            ("r- r-", 50, true),
            // Backups that are up do not make primaries look healthy, and take over when none is left.
            ("r- r- r rb rb", 50, true),
            ("r- r- rb", 50, false),
            ("r- r- rb-", 50, true),
            // Nor do backends that take nothing anyway.
            ("r- r- r d d m r0", 50, true),
            ("r m- d- r0-", 50, false),
            ("", 50, false),
        ] {
            let found = panics(threshold, backends.split_whitespace().map(eligibility));
            assert_eq!(found, expected, "{backends:?}");
        }
    }

    #[test]
    fn who_takes_new_clients_and_who_keeps_its_own() {
        use RehomeCause::{BackendDown, BackendMaintenance};
        for (backend, panic, takes_new, must_leave) in [
            ("r", false, true, None),
            ("r-", false, false, Some(BackendDown)),
            ("r-", true, true, None),
            ("r0", false, false, None),
            ("d", false, false, None),
            ("d-", false, false, Some(BackendDown)),
            ("m", false, false, Some(BackendMaintenance)),
            ("m-", true, false, Some(BackendMaintenance)),
        ] {
            let eligibility = eligibility(backend);
            assert_eq!(
                (eligibility.takes_new(panic), eligibility.must_leave(panic)),
                (takes_new, must_leave),
                "{backend}"
            );
        }
    }
}
