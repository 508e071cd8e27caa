//! Which frames were applied, so that one that arrives twice is applied once.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Origin;
use crate::ids::{Boot, NodeId};

/// Lives of one node that are remembered. A frame of an earlier life can still be under way when
/// the first frame of the next arrives; one of four lives ago cannot.
const BOOTS_MAX: usize = 4;

/// Last frame number applied, for the last lives of each node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Origins(BTreeMap<NodeId, VecDeque<(Boot, u64)>>);

impl Origins {
    /// Notes a frame; says whether it is new.
    pub(crate) fn note(&mut self, origin: Origin, seq: u64) -> bool {
        let boots = self.0.entry(origin.node).or_default();
        match boots.iter_mut().find(|(boot, _)| *boot == origin.boot) {
            Some((_, last)) if *last >= seq => false,
            Some((_, last)) => {
                *last = seq;
                true
            }
            None => {
                if boots.len() >= BOOTS_MAX {
                    boots.pop_front();
                }
                boots.push_back((origin.boot, seq));
                true
            }
        }
    }

    /// Whether a frame was applied already.
    pub(crate) fn knows(&self, origin: Origin, seq: u64) -> bool {
        let boots = self.0.get(&origin.node);
        boots.is_some_and(|boots| boots.iter().any(|(boot, last)| *boot == origin.boot && *last >= seq))
    }

    /// Forgets a node that was removed. Its frames are foreign from now on, so none needs to be known again.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }
}
