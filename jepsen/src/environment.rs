//! Where a cluster is tried, and which faults can be brought about there.
//!
//! Workloads and judges are the same everywhere. What an environment cannot do is refused by name when it is asked for, and is
//! left out otherwise.
//!
//! Not here: the cluster itself (`site`).

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::plan::Kind;

/// What nodes run in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// Processes of the suite's, each in a network namespace of its own.
    #[default]
    Namespaces,
    /// The containers of docker-compose.yml as it is shipped: three nodes, and a witness that votes and carries no traffic.
    Compose,
}

/// What the engine, operators and backends can bring about. Paused, a container stands still as a whole, so that `freeze` would be
/// the same; what comes between a daemon and its disk or clock is not in the image; and between containers there is a bridge of
/// the engine's, which drops nothing.
const ON_COMPOSE: [Kind; 17] = [
    Kind::Kill,
    Kind::Restart,
    Kind::CrashLoop,
    Kind::KillAll,
    Kind::Pause,
    Kind::Terminate,
    Kind::Isolate,
    Kind::TransferLeader,
    Kind::Snapshot,
    Kind::MoveVip,
    Kind::MoveClient,
    Kind::Demote,
    Kind::BackendFails,
    Kind::BackendDrain,
    Kind::BackendMaintenance,
    Kind::BackendTruncates,
    Kind::RollingRestart,
];

impl Environment {
    /// Nodes that it has when nobody says how many.
    const fn nodes_default(self) -> u64 {
        match self {
            Self::Namespaces => 5,
            Self::Compose => 3,
        }
    }

    /// How many nodes there are, if so many are asked for.
    ///
    /// # Errors
    /// When it has another number.
    pub fn nodes(self, asked: Option<u64>) -> Result<u64> {
        let nodes = asked.unwrap_or(self.nodes_default());
        ensure!(
            self == Self::Namespaces || nodes == self.nodes_default(),
            "docker-compose.yml has {} nodes and a witness, not {nodes}",
            self.nodes_default()
        );
        Ok(nodes)
    }

    /// Whether a fault can be brought about.
    pub fn can(self, kind: Kind) -> bool {
        self == Self::Namespaces || ON_COMPOSE.contains(&kind)
    }

    /// Refuses a fault that cannot.
    ///
    /// # Errors
    /// With the list of those that can.
    pub fn ensure_can(self, kind: Kind) -> Result<()> {
        if self.can(kind) {
            return Ok(());
        }
        let those: Vec<String> = Kind::all().filter(|kind| self.can(*kind)).map(|kind| kind.to_string()).collect();
        bail!("{kind} cannot be brought about in containers; there are {}", those.join(", "))
    }

    /// Refuses a bug that daemons are to have which are none of this checkout's.
    ///
    /// # Errors
    /// When one is planted.
    pub fn ensure_can_have(self, planted: Option<&str>) -> Result<()> {
        match planted {
            Some(bug) if self == Self::Compose => bail!("the image's daemons have no planted bugs, {bug} included"),
            _ => Ok(()),
        }
    }

    /// Whether VIPs have addresses in IPv6, too.
    pub fn has_ipv6(self) -> bool {
        self == Self::Namespaces
    }

    /// Whether nodes' lease threads go before all others of the machine, which engines hardly ever allow.
    pub fn has_real_time(self) -> bool {
        self == Self::Namespaces
    }

    /// So many nodes, in words.
    pub fn describe(self, nodes: usize) -> String {
        match self {
            Self::Namespaces => format!("{nodes} nodes"),
            Self::Compose => format!("{nodes} nodes and a witness of docker-compose.yml"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_containers_cannot_have_is_refused_with_those_that_they_can() {
        let refused = Environment::Compose.ensure_can(Kind::PowerOff).expect_err("it is refused").to_string();
        assert!(refused.starts_with("power-off ") && refused.ends_with(", terminate, move-client"), "{refused}");
        assert!(!refused.contains("freeze"), "{refused}");
        assert!(ON_COMPOSE.iter().all(|kind| Environment::Compose.ensure_can(*kind).is_ok()));
        assert!(Kind::all().all(|kind| Environment::Namespaces.ensure_can(kind).is_ok()));
    }

    #[test]
    fn the_file_has_as_many_nodes_as_it_has() {
        assert_eq!(Environment::Compose.nodes(None).expect("three"), 3);
        assert!(Environment::Compose.nodes(Some(3)).is_ok());
        let refused = Environment::Compose.nodes(Some(5)).expect_err("it has three").to_string();
        assert!(refused.contains("3 nodes and a witness, not 5"), "{refused}");
        assert_eq!(Environment::Namespaces.nodes(None).expect("five"), 5);
        assert_eq!(Environment::Namespaces.nodes(Some(7)).expect("seven"), 7);
    }

    #[test]
    fn no_bug_is_planted_in_an_image() {
        assert!(Environment::Compose.ensure_can_have(Some("unsynced-log")).is_err());
        assert!(Environment::Compose.ensure_can_have(None).is_ok());
        assert!(Environment::Namespaces.ensure_can_have(Some("unsynced-log")).is_ok());
    }
}
