//! What a member is started with.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use ballast_core::ids::{Boot, NodeId};
use ballast_storage::log::LogOptions;

use crate::{timing::Timing, upkeep::LogBounds};

/// What a member is made of.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// The cluster's id. Data of another cluster is refused.
    pub cluster: String,
    /// This node. Data of another node is refused.
    pub node: NodeId,
    /// This life of the process; random.
    pub boot: Boot,
    /// Where to keep the log and the snapshots.
    pub data_dir: PathBuf,
    /// `host:port` of nodes that are known before there is a state that names them.
    pub seeds: BTreeMap<NodeId, String>,
    /// Raft's clocks. The same on all nodes.
    pub timing: Timing,
    /// When to snapshot and what to keep.
    pub bounds: LogBounds,
    /// Most commands that wait to be proposed; more are refused as overload.
    pub queue_capacity: usize,
    /// Cost of the log.
    pub log: LogOptions,
    /// This machine's wall clock. The system's, but for tests of wrong ones.
    pub wall_clock: fn() -> SystemTime,
}

impl MemberOptions {
    /// The usual options.
    pub fn new(cluster: impl Into<String>, node: NodeId, boot: Boot, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            cluster: cluster.into(),
            node,
            boot,
            data_dir: data_dir.into(),
            seeds: BTreeMap::new(),
            timing: Timing::default(),
            bounds: LogBounds::default(),
            // A few entries' worth: what waits longer than they take is better refused.
            queue_capacity: 32_768,
            log: LogOptions::default(),
            wall_clock: SystemTime::now,
        }
    }
}
