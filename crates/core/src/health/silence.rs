//! Whose findings count no longer.
//!
//! Findings stand until their node changes them, so those of a dead node would vote for ever: against the living under
//! `majority`, and alone under `any`. The leader hears every node several times a second and says which are silent.
//!
//! Not here: what becomes of the findings ([`crate::state::Command::LapseFindings`]), and how a node that is back
//! reports anew (`ballast-proxy`'s prober).

use std::time::Duration;

use crate::ids::NodeId;

/// A node that is silent for so long has findings no more. Longer than an election or a restart that is quick, so that
/// verdicts do not waver for those; short beside what clients bear of a backend that is wrongly up.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The nodes that have been silent for too long, by a leader that has led for `leading_for`.
///
/// `peers` are the other nodes, and for how long each has not answered this leader; `None` if it never did. A leader
/// begins to count when it begins to lead, because what went before it cannot know.
pub fn silent(
    leading_for: Duration,
    peers: impl IntoIterator<Item = (NodeId, Option<Duration>)>,
) -> impl Iterator<Item = NodeId> {
    let silent_for = move |told: Option<Duration>| told.map_or(leading_for, |told| told.min(leading_for));
    peers.into_iter().filter(move |(_, told)| silent_for(*told) >= SILENCE_MAX).map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_gives_every_node_time_and_then_names_the_silent() {
        let peers = [(2, Some(100)), (3, Some(5_000)), (4, None), (5, Some(60_000)), (6, Some(4_999))];
        let names = |leading_ms| {
            let peers = peers.map(|(node, told)| (NodeId::new(node), told.map(Duration::from_millis)));
            silent(Duration::from_millis(leading_ms), peers).map(NodeId::get).collect::<Vec<_>>()
        };
        assert_eq!(names(4_999), [0; 0]);
        assert_eq!(names(5_000), [3, 4, 5]);
        assert_eq!(names(900_000), [3, 4, 5]);
    }
}
